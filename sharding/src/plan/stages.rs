//! Statements with CTEs that write, beside something else, over several shards: every such CTE is a stage, a write of its own; the rows that
//! it gives back stand as arrays in its place in the stages behind it. The last stage is the statement itself.
//!
//! PostgreSQL shows all parts of a statement the same rows, those from before it. So no stage may look at what a stage before it has written,
//! but through RETURNING.

use std::ops::Range;

use super::bind::{Binder, Output, TableUse};
use super::decide::{Context, with_values};
use super::final_query::quoted;
use super::hindrances::{self, Use};
use super::scope::{Columns, Names};
use super::targets::parts;
use super::{Plan, Shards, Write, reasons};
use crate::catalog::{Column, Crossing, CrossingForm, Relation, TableKind};
use crate::map::ShardId;
use crate::refusal::Refusal;
use crate::sql::calls::{self, CallKind};
use crate::sql::ctes::{self, CteSpan};
use crate::sql::insert::InsertSpans;
use crate::sql::lex::{Lexer, TokenKind};
use crate::sql::parse::{Parsed, parse};
use crate::sql::tree::{Body, Dml, Expr, Stmt, TableRef, Target, With};
use crate::sql::walk::{self, Visited};
use crate::sql::{Limits, spans};

/// A statement that writes in stages, all of them or none.
#[derive(Clone, Debug, PartialEq)]
pub struct StagedWrite {
    /// Where all rows are that it concerns; one shard runs it as it is.
    pub shards: Shards,
    /// In their order; the last is the statement itself.
    pub stages: Vec<Stage>,
    /// Asks whether a stage would see what another has written by ways that the text does not show: one row for each, that says which.
    pub hindrances: String,
    /// The shards that are asked.
    pub judges: Vec<ShardId>,
}

/// One part of such a statement, which runs by itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// The CTE's; none for the statement itself.
    pub name: Option<Box<str>>,
    /// The client's parameters that it uses, counted from 0, ascending. They are the first of its own.
    pub params: Vec<u16>,
    /// The parameter behind them, a `timestamptz`, says when the transaction began.
    pub timed: bool,
    /// The stages before it whose rows it uses, ascending: the last parameters are arrays, one for each column of each.
    pub inputs: Vec<usize>,
    /// What it gives back to later stages.
    pub columns: Vec<StageColumn>,
    /// How it is answered, as far as that is known before the types of its inputs are.
    pub plan: Plan,
    pieces: Vec<Piece>,
}

/// A column that a stage gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageColumn {
    pub name: Box<str>,
    /// In SQL, when it is not the one that its type has by itself.
    collation: Option<String>,
    /// What it seems to be, in SQL.
    type_name: String,
}

/// How the values of a column get to later stages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// The type of the array's elements, in SQL.
    pub element: String,
    /// What makes a value of the column of one of them: `::type`, or nothing.
    pub cast: String,
}

/// A piece of a stage's text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// A parameter of the client's, counted from 0.
    Param(u16),
    /// The time at which the transaction began.
    Time,
    /// A query for the rows of this stage.
    Rows(usize),
}

impl StagedWrite {
    /// What a stage runs, when the rows of each stage before it are `carried` so. `cast` is what a parameter of the client's needs behind it
    /// to be of its type.
    pub fn text(&self, stage: usize, carried: &[Vec<Carried>], cast: impl Fn(u16) -> Option<String>) -> String {
        let of = &self.stages[stage];
        let mut sql = String::new();
        for piece in &of.pieces {
            match piece {
                Piece::Text(text) => sql.push_str(text),
                Piece::Param(param) => {
                    let number = of.params.iter().position(|found| found == param).map_or(0, |at| at + 1);
                    match cast(*param) {
                        Some(type_name) => sql.push_str(&format!("(${number}::{type_name})")),
                        None => sql.push_str(&format!("${number}")),
                    }
                }
                Piece::Time => sql.push_str(&format!("${}", of.params.len() + 1)),
                Piece::Rows(input) => sql.push_str(&self.rows(of, *input, carried)),
            }
        }
        sql
    }

    /// A query that gives the rows of a stage.
    fn rows(&self, of: &Stage, input: usize, carried: &[Vec<Carried>]) -> String {
        let before = of.inputs.iter().take_while(|other| **other < input);
        let before: usize = before.map(|other| self.stages[*other].columns.len()).sum();
        let first = of.params.len() + usize::from(of.timed) + before + 1;
        let nothing = Vec::new();
        let carried = carried.get(input).unwrap_or(&nothing);
        let (mut shown, mut arrays, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for (n, (column, how)) in self.stages[input].columns.iter().zip(carried).enumerate() {
            let collate = column.collation.as_ref().map(|name| format!(" COLLATE {name}")).unwrap_or_default();
            let (name, cast) = (quoted(&column.name), &how.cast);
            shown.push(format!("sluice_returned.c{}{cast}{collate} AS {name}", n + 1));
            arrays.push(format!("pg_catalog.unnest(${}::{}[])", first + n, how.element));
            names.push(format!("c{}", n + 1));
        }
        let (shown, arrays, names) = (shown.join(", "), arrays.join(", "), names.join(", "));
        format!("SELECT {shown} FROM ROWS FROM ({arrays}) AS sluice_returned({names})")
    }

    /// What a stage runs, for people.
    pub(super) fn shown(&self, stage: usize) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Param(param) => format!("${}", u32::from(*param) + 1),
            Piece::Time => "now()".to_owned(),
            Piece::Rows(input) => format!("rows of stage {}", input + 1),
        };
        self.stages[stage].pieces.iter().map(piece).collect()
    }
}

/// Whether a CTE of the statement writes.
pub(super) fn has_writes(dml: &Dml) -> bool {
    with_of(dml).is_some_and(|with| with.ctes.iter().any(|cte| writes(&cte.statement)))
}

/// Whether a statement can be cut into stages: CTEs write, or lock rows for a write.
pub(super) fn has_stages(dml: &Dml) -> bool {
    let locks = |dml: &Dml| matches!(dml, Dml::Query(query) if !query.locking.is_empty());
    has_writes(dml) || writes(dml) && with_of(dml).is_some_and(|with| with.ctes.iter().any(|cte| locks(&cte.statement)))
}

/// How a statement runs whose CTEs write. If all its rows turn out to be on one of `shards`, that one runs it as it is.
///
/// # Errors
/// A stage cannot be run by itself, or may see what another has written.
pub(super) fn staged(context: Context<'_>, dml: &Dml, parsed: &Parsed, shards: Shards) -> Result<Write, Refusal> {
    let unclear = || reasons::spread("this form of WITH with a CTE that writes");
    let with = with_of(dml).filter(|with| !with.recursive && !with.ctes.iter().any(|cte| cte.extended));
    let with = with.ok_or_else(unclear)?;
    let (spans, main) = ctes::ctes(context.text, &parsed.span).ok_or_else(unclear)?;
    if spans.len() != with.ctes.len() {
        return Err(unclear());
    }
    // Servers are asked what types the whole statement has, and do not know it.
    if calls::find(context.text, parsed.span.clone()).iter().any(|call| call.kind == CallKind::UniqueId) {
        return Err(reasons::unique_id());
    }
    let clocks = spans::clock_places(context.text, &parsed.span);
    let is_stage: Vec<bool> = with.ctes.iter().map(|cte| writes(&cte.statement)).collect();
    let of_cte = vec![None; with.ctes.len()];
    let mut draft = Draft { context, with, spans, clocks, is_stage, of_cte, stages: Vec::new(), uses: Vec::new() };
    let bare = without_with(dml);
    draft.choose_readers(&bare);
    // What reads and does not depend on what is written comes first: it sees the rows from before.
    let is_free = |draft: &Draft<'_>, n: usize| {
        let below = |n: &usize| writes(&with.ctes[*n].statement);
        !below(&n) && !draft.needed_by(n, true).iter().any(below)
    };
    let (first, rest): (Vec<usize>, Vec<usize>) = (0..with.ctes.len()).partition(|n| is_free(&draft, *n));
    for n in first.into_iter().chain(rest).filter(|n| draft.is_stage[*n]).collect::<Vec<usize>>() {
        let cte = &with.ctes[n];
        draft.of_cte[n] = Some(draft.add(Some(cte.name.clone()), &cte.statement, n, draft.spans[n].body.clone())?);
    }
    draft.add(None, &bare, with.ctes.len(), main..parsed.span.end)?;
    hindrances::check(&draft.uses)?;
    let mut judges: Vec<ShardId> = draft.uses.iter().filter_map(|used| used.home).chain([ShardId(0)]).collect();
    judges.sort_unstable();
    judges.dedup();
    let hindrances = hindrances::question(&draft.uses);
    Ok(Write::Staged(StagedWrite { shards, stages: draft.stages, hindrances, judges }))
}

/// The stages while they are made.
struct Draft<'a> {
    context: Context<'a>,
    with: &'a With,
    spans: Vec<CteSpan>,
    /// Where the text asks for the time.
    clocks: Vec<(Range<usize>, String)>,
    stages: Vec<Stage>,
    /// Every table in every stage.
    uses: Vec<Use>,
    /// Whether a CTE is a stage, and the numbers of those so far.
    is_stage: Vec<bool>,
    of_cte: Vec<Option<usize>>,
}

impl Draft<'_> {
    /// Makes stages of CTEs that only read, where several stages use one, which must find the same rows; where one locks; where one is used
    /// behind a write of what it reads.
    fn choose_readers(&mut self, statement: &Dml) {
        let ctes = &self.with.ctes;
        let mut users: Vec<Vec<usize>> = vec![Vec::new(); ctes.len()];
        for n in (0..=ctes.len()).filter(|n| *n == ctes.len() || self.is_stage[*n]) {
            let needed = if n == ctes.len() { self.needed(statement, n, false) } else { self.needed_by(n, false) };
            needed.into_iter().for_each(|cte| users[cte].push(n));
        }
        for n in 0..ctes.len() {
            let Dml::Query(query) = &ctes[n].statement else { continue };
            let names = tables_in(&ctes[n].statement);
            let written_before = |user: &usize| {
                let targets = ctes[..*user].iter().filter_map(|cte| target_of(&cte.statement));
                targets.into_iter().any(|target| names.contains(&target))
            };
            let used = !users[n].is_empty();
            self.is_stage[n] =
                used && (users[n].len() > 1 || !query.locking.is_empty() || users[n].iter().any(written_before));
        }
    }

    fn needed_by(&self, cte: usize, through_stages: bool) -> Vec<usize> {
        self.needed(&self.with.ctes[cte].statement, cte, through_stages)
    }

    /// Adds the stage of a statement that stands at `body` and sees the first `visible` CTEs; its number.
    fn add(&mut self, name: Option<Box<str>>, dml: &Dml, visible: usize, body: Range<usize>) -> Result<usize, Refusal> {
        let pieces = self.pieces(&self.needed(dml, visible, false), dml, body)?;
        let param = |piece: &Piece| if let Piece::Param(param) = piece { Some(*param) } else { None };
        let input = |piece: &Piece| if let Piece::Rows(input) = piece { Some(*input) } else { None };
        let mut params: Vec<u16> = pieces.iter().filter_map(param).collect();
        params.sort_unstable();
        params.dedup();
        let mut inputs: Vec<usize> = pieces.iter().filter_map(input).collect();
        inputs.sort_unstable();
        let (timed, number, plan) = (pieces.contains(&Piece::Time), self.stages.len(), Plan::Session);
        self.stages.push(Stage { name, params, timed, inputs, columns: Vec::new(), plan, pieces });
        if let Some(input) = self.without_columns(number) {
            return Err(input);
        }
        let (columns, plan) = self.judged(number)?;
        let stage = &mut self.stages[number];
        (stage.columns, stage.plan) = (columns, plan);
        Ok(number)
    }

    /// Why a stage cannot read one before it that has no columns; for a write that is PostgreSQL's own error.
    fn without_columns(&self, number: usize) -> Option<Refusal> {
        let inputs = self.stages[number].inputs.iter().map(|input| &self.stages[*input]);
        let empty = inputs.filter(|stage| stage.columns.is_empty()).find_map(|stage| stage.name.as_deref())?;
        let cte = self.with.ctes.iter().find(|cte| *cte.name == *empty)?;
        Some(match writes(&cte.statement) {
            true => Refusal::error("0A000", format!("WITH query \"{empty}\" does not have a RETURNING clause")),
            false => reasons::spread("a CTE without columns, beside one that writes,"),
        })
    }

    /// The CTEs that a statement reads, directly or through others, ascending. Those behind a stage are needed by it alone.
    fn needed(&self, dml: &Dml, visible: usize, through_stages: bool) -> Vec<usize> {
        let mut needed: Vec<usize> = Vec::new();
        let mut open = vec![(dml, visible)];
        while let Some((dml, visible)) = open.pop() {
            walk::dml(dml, &mut |visited| {
                let Visited::Table(table) = visited else { return };
                let found = self.with.ctes[..visible].iter().position(|cte| cte.name == table.name);
                let Some(found) = found.filter(|found| table.schema.is_none() && !needed.contains(found)) else {
                    return;
                };
                needed.push(found);
                let cte = &self.with.ctes[found];
                if through_stages || !self.is_stage[found] {
                    open.push((&cte.statement, found));
                }
            });
        }
        needed.sort_unstable();
        needed
    }

    /// The text of a stage, with the CTEs that it needs.
    fn pieces(&self, needed: &[usize], dml: &Dml, body: Range<usize>) -> Result<Vec<Piece>, Refusal> {
        let text = self.context.text;
        let mut pieces = Vec::new();
        let mut rest = body.clone();
        if !needed.is_empty() {
            let own = ctes::with_words(text, &body);
            let words = own.clone().map_or("WITH", |words| &text[words]);
            add_text(&mut pieces, &format!("{words} "));
            for (n, cte) in needed.iter().enumerate() {
                let CteSpan { whole, body } = &self.spans[*cte];
                add_text(&mut pieces, if n == 0 { "" } else { ", " });
                match self.of_cte[*cte] {
                    Some(stage) => {
                        self.cut(whole.start..body.start, &mut pieces)?;
                        pieces.push(Piece::Rows(stage));
                        self.cut(body.end..whole.end, &mut pieces)?;
                    }
                    None => self.cut(whole.clone(), &mut pieces)?,
                }
            }
            add_text(&mut pieces, if own.is_some() { "," } else { " " });
            rest.start = own.map_or(rest.start, |words| words.end);
        }
        match row_with_queries(text, dml, &body).filter(|_| !needed.is_empty()) {
            Some([values, row]) => {
                self.cut(rest.start..values.start, &mut pieces)?;
                add_text(&mut pieces, "SELECT ");
                self.cut(row, &mut pieces)?;
                self.cut(values.end..rest.end, &mut pieces)?;
            }
            None => self.cut(rest, &mut pieces)?,
        }
        Ok(pieces)
    }

    /// Adds a part of the text, cut at what becomes a parameter.
    fn cut(&self, part: Range<usize>, pieces: &mut Vec<Piece>) -> Result<(), Refusal> {
        let text = self.context.text;
        let mut marks: Vec<(Range<usize>, Piece, &str)> = Vec::new();
        for token in Lexer::starting_at(&text[..part.end], part.start) {
            if token.kind == TokenKind::Param {
                let number: Option<u16> = text[token.start + 1..token.end].parse().ok();
                let number = number.and_then(|number| number.checked_sub(1));
                let number = number.ok_or_else(|| reasons::spread("this number of a parameter"))?;
                marks.push((token.start..token.end, Piece::Param(number), ""));
            }
        }
        let clocks = self.clocks.iter().filter(|(place, _)| part.start <= place.start && place.end <= part.end);
        marks.extend(clocks.map(|(place, casts)| (place.clone(), Piece::Time, &**casts)));
        marks.sort_by_key(|(place, ..)| place.start);
        let mut at = part.start;
        for (place, piece, casts) in marks {
            add_text(pieces, &text[at..place.start]);
            let is_time = piece == Piece::Time;
            pieces.push(piece);
            if is_time {
                add_text(pieces, &format!("::pg_catalog.timestamptz{casts}"));
            }
            at = place.end;
        }
        add_text(pieces, &text[at..part.end]);
        Ok(())
    }

    /// Plans a stage as if the types of its inputs were known, and notes its tables; the columns that it gives back.
    fn judged(&mut self, number: usize) -> Result<(Vec<StageColumn>, Plan), Refusal> {
        let unclear = || reasons::spread("this form of WITH with a CTE that writes");
        let stages = std::mem::take(&mut self.stages);
        let draft = StagedWrite { shards: Shards::All, stages, hindrances: String::new(), judges: Vec::new() };
        let seeming = |stage: &Stage| {
            let carried = |column: &StageColumn| Carried { element: column.type_name.clone(), cast: String::new() };
            stage.columns.iter().map(carried).collect::<Vec<Carried>>()
        };
        let carried: Vec<Vec<Carried>> = draft.stages.iter().map(seeming).collect();
        let text = draft.text(number, &carried, |_| None);
        self.stages = draft.stages;
        let mut parsed = parse(&text, &[], &Limits::default()).map_err(|refusal| *refusal)?;
        let (Some(mut parsed), true) = (parsed.pop(), parsed.is_empty()) else { return Err(unclear()) };
        let stage = &self.stages[number];
        let arrays: usize = stage.inputs.iter().map(|input| self.stages[*input].columns.len()).sum();
        let params = stage.params.len() + usize::from(stage.timed) + arrays;
        parsed.params = u16::try_from(params).map_err(|_| unclear())?;
        let Stmt::Dml(dml) = &parsed.stmt else { return Err(unclear()) };
        let mut binder = Binder::new(Names::new(self.context.catalog, self.context.search_path));
        let shown = match dml {
            Dml::Query(query) => binder.query(query).outputs,
            _ => {
                binder.statement(dml);
                binder.returned.take()
            }
        };
        check_kinds(&binder)?;
        let columns = match &stage.name {
            None => Vec::new(),
            Some(_) => columns(&binder, dml, shown)?,
        };
        let name = stage.name.clone();
        self.uses.extend(binder.tables.iter().map(|used| use_of(used, number, name.clone(), dml)));
        let plan = with_values(Context { text: &text, ..self.context }, dml, &parsed).plan;
        match plan {
            Plan::Refused(refusal) => Err(*refusal),
            plan => Ok((columns, plan)),
        }
    }
}

/// Where VALUES stands with its only row, and what is in that: a row with subqueries, which is a query as well.
fn row_with_queries(text: &str, dml: &Dml, body: &Range<usize>) -> Option<[Range<usize>; 2]> {
    let Dml::Insert(insert) = dml else { return None };
    let Body::Values(rows) = &insert.source.as_ref()?.body else { return None };
    let [row] = rows.as_slice() else { return None };
    let has_query = row.iter().any(|cell| parts(cell).into_iter().any(|part| matches!(part, Expr::Sublink(_))));
    if !has_query || row.contains(&Expr::Default) {
        return None;
    }
    let part = &text[body.clone()];
    let spans = InsertSpans::of(part)?;
    let [cells] = spans.rows.as_slice() else { return None };
    let behind = spans.overriding.or(spans.list).map_or(spans.table_end, |part| part.end);
    let values = Lexer::starting_at(part, behind).next()?.start;
    let inside = cells.cells.first()?.start..cells.close;
    let from = |place: Range<usize>| body.start + place.start..body.start + place.end;
    Some([from(values..cells.close + 1), from(inside)])
}

fn use_of(used: &TableUse<'_>, stage: usize, cte: Option<Box<str>>, dml: &Dml) -> Use {
    let home = match used.table.kind {
        TableKind::Local(home) => Some(home),
        TableKind::Sharded { .. } | TableKind::Reference => None,
    };
    let written = used.target.then(|| hindrances::Change::of(dml));
    Use { stage, cte, schema: used.schema.into(), table: used.name.into(), home, written }
}

fn add_text(pieces: &mut Vec<Piece>, more: &str) {
    match pieces.last_mut() {
        Some(Piece::Text(text)) => text.push_str(more),
        _ if more.is_empty() => {}
        _ => pieces.push(Piece::Text(more.to_owned())),
    }
}

/// What no stage may have.
fn check_kinds(binder: &Binder<'_>) -> Result<(), Refusal> {
    let facts = &binder.facts;
    if let Some(clock) = &facts.clock {
        return Err(reasons::differs(clock));
    }
    if facts.time_word {
        return Err(reasons::differs("the string 'now', 'today', 'tomorrow' or 'yesterday'"));
    }
    if facts.clocks > 0 {
        // Those that are found in the text have become parameters.
        return Err(reasons::differs("CURRENT_TIMESTAMP"));
    }
    if let Some(column) = &facts.system_column {
        return Err(reasons::differs(&format!("system column {column}")));
    }
    if let Some(reader) = &facts.reader {
        return Err(reasons::reader(reader));
    }
    if let Some(used) = binder.tables.iter().find(|used| used.table.relation != Relation::Table) {
        return Err(reasons::staged_view(used.name));
    }
    if facts.opaque || facts.unknown_table || binder.system {
        return Err(reasons::spread("this syntax, or a table that the router does not know, beside a CTE that writes"));
    }
    Ok(())
}

/// What a stage gives back: `shown` is what the binder knows of it.
fn columns(binder: &Binder<'_>, dml: &Dml, shown: Option<Vec<Output>>) -> Result<Vec<StageColumn>, Refusal> {
    let targets: &[Target] = match dml {
        Dml::Query(query) => match &query.body {
            Body::Select(select) => &select.targets,
            Body::Values(_) | Body::SetOp { .. } => &[],
        },
        Dml::Insert(insert) => &insert.returning,
        Dml::Update(update) => &update.returning,
        Dml::Delete(delete) => &delete.returning,
        Dml::Merge(merge) => &merge.returning,
    };
    if targets.is_empty() && writes(dml) {
        return Ok(Vec::new());
    }
    let unclear = || reasons::spread("a CTE whose columns are not known, beside one that writes,");
    let outputs = shown.ok_or_else(unclear)?;
    let collations = Collations::of(binder);
    let is_plain = |expr: &Expr| matches!(expr, Expr::Column(_) | Expr::Star(_));
    let mut columns = Vec::with_capacity(outputs.len());
    for (n, output) in outputs.iter().enumerate() {
        let column = column(binder, output);
        // With a star among them, the columns are not told from the expressions.
        let expr = targets.get(n).map(|target| &target.expr).filter(|_| targets.len() == outputs.len());
        let is_clear = match expr.filter(|expr| !is_plain(expr)) {
            Some(expr) => !collations.may_follow(expr),
            None => !collations.any() && !targets.iter().any(|target| collations.may_follow(&target.expr)),
        };
        let name = output.name.clone().unwrap_or_else(|| "?column?".into());
        if column.is_none() && !is_clear {
            return Err(reasons::staged_collation(&name));
        }
        if let Some(column) = column.filter(|column| column.crossing.form == CrossingForm::Never) {
            return Err(reasons::staged_value(&column.name));
        }
        let type_name = column.map(|column| column.crossing.type_name.clone()).filter(|name| !name.is_empty());
        let collation = column.and_then(|column| column.crossing.collation.clone());
        let type_name = type_name.unwrap_or_else(|| "pg_catalog.text".to_owned());
        columns.push(StageColumn { name, collation, type_name });
    }
    Ok(columns)
}

/// The column of a table that an output shows as it is.
fn column<'c>(binder: &Binder<'c>, output: &Output) -> Option<&'c Column> {
    let term = output.term?;
    let rel = &binder.rels[binder.terms.owner(term)];
    let Columns::Table(table) = rel.columns else { return None };
    let position = rel.terms.iter().find(|(_, found)| **found == term).map(|(position, _)| *position)?;
    table.columns.get(position)
}

/// The columns in a statement that have another collation than their type.
struct Collations<'c> {
    names: Vec<&'c str>,
    /// Columns may go by other names.
    renamed: bool,
}

impl<'c> Collations<'c> {
    fn of(binder: &Binder<'c>) -> Self {
        let columns = binder.tables.iter().flat_map(|used| &used.table.columns);
        // Of what cannot cross it is not known.
        let is_meant = |crossing: &Crossing| crossing.collation.is_some() || crossing.form == CrossingForm::Never;
        let names = columns.filter(|column| is_meant(&column.crossing)).map(|column| &*column.name).collect();
        let renamed =
            binder.rels.iter().any(|rel| !matches!(rel.columns, Columns::Table(_)) || !rel.renamed.is_empty());
        Self { names, renamed }
    }

    fn any(&self) -> bool {
        !self.names.is_empty()
    }

    /// Whether the value of an expression may have the collation of such a column, or one that is written.
    fn may_follow(&self, expr: &Expr) -> bool {
        parts(expr).into_iter().any(|part| match part {
            Expr::Column(names) => {
                self.any() && (self.renamed || names.last().is_some_and(|name| self.names.contains(&&**name)))
            }
            Expr::Sublink(_) => self.any(),
            Expr::Other(other) => other.what.starts_with("collate "),
            _ => false,
        })
    }
}

/// The names of the tables in the FROMs of a statement.
fn tables_in(dml: &Dml) -> Vec<&str> {
    let mut names = Vec::new();
    walk::dml(dml, &mut |visited| {
        if let Visited::Table(table) = visited {
            names.push(&*table.name);
        }
    });
    names
}

/// The name of the table that a statement writes.
fn target_of(dml: &Dml) -> Option<&str> {
    let table: &TableRef = match dml {
        Dml::Query(_) => return None,
        Dml::Insert(insert) => &insert.table,
        Dml::Update(update) => &update.table,
        Dml::Delete(delete) => &delete.table,
        Dml::Merge(merge) => &merge.table,
    };
    Some(&table.name)
}

fn writes(dml: &Dml) -> bool {
    !matches!(dml, Dml::Query(_))
}

fn with_of(dml: &Dml) -> Option<&With> {
    match dml {
        Dml::Query(query) => query.with.as_deref(),
        Dml::Insert(insert) => insert.with.as_deref(),
        Dml::Update(update) => update.with.as_deref(),
        Dml::Delete(delete) => delete.with.as_deref(),
        Dml::Merge(merge) => merge.with.as_deref(),
    }
}

/// The statement behind its CTEs.
fn without_with(dml: &Dml) -> Dml {
    let mut bare = dml.clone();
    let with = match &mut bare {
        Dml::Query(query) => &mut query.with,
        Dml::Insert(insert) => &mut insert.with,
        Dml::Update(update) => &mut update.with,
        Dml::Delete(delete) => &mut delete.with,
        Dml::Merge(merge) => &mut merge.with,
    };
    *with = None;
    bare
}
