//! A read that PostgreSQL finishes: every sharded table in the client's text gives way to what the
//! shards hold of it, and one server runs the text.
//!
//! The meaning stays PostgreSQL's own. What is decided here is only which rows and columns must cross.

use std::ops::Range;

use super::bind::{Binder, LocalTable};
use super::bind_query::Seen;
use super::conditions::{ClausePlace, Side};
use super::crossing::Crossing;
use super::decide::Context;
use super::reduce::Place;
use super::scope::{Columns, Rel};
use super::{FinalQuery, Gather, Input, Narrowed, Node, Shards, final_parts, reasons};
use crate::catalog::Column;
use crate::map::ShardId;
use crate::refusal::Refusal;
use crate::sql::parse::Parsed;
use crate::sql::spans;
use crate::sql::tree::{Dml, Expr, Func, Query};
use crate::sql::walk::{self, Visited};

/// Functions for which a row of a subquery is as good as a row of the table: they look at names and values.
const TAKE_ROWS: [&str; 6] = ["count", "json_agg", "jsonb_agg", "row_to_json", "to_json", "to_jsonb"];

/// The final query of a read over `shards`, with what only `home` has; or why there is none.
pub(super) fn final_query(
    context: Context<'_>,
    binder: &mut Binder<'_>,
    query: &Query,
    seen: &Seen,
    shards: Shards,
    home: Option<ShardId>,
    parsed: &Parsed,
) -> Result<FinalQuery, Refusal> {
    check(binder)?;
    // Where the answer shows the time, a parameter would take the column's name away.
    let clocks = binder.facts.clocks;
    let in_conditions = clocks > 0 && clocks == binder.facts.clocks_in_conditions;
    binder.facts.tells_time = in_conditions && spans::clocks(context.text, &parsed.span) == clocks;
    let top = final_parts::top_rows(context, binder, query, seen, parsed);
    let binder = &*binder;
    let mentioned = Mentioned::of_query(query);
    let mut occurrences: Vec<usize> = (0..binder.occurrences.len()).collect();
    occurrences.sort_by_key(|index| binder.occurrences[*index].written.at);
    occurrences.dedup_by_key(|index| binder.occurrences[*index].written.at);
    let (inputs, edits, replaced) = Default::default();
    let mut draft = Draft { context, binder, parsed, mentioned, inputs, edits, replaced, columns: 0 };
    for index in occurrences {
        draft.add(index)?;
    }
    // Seen twice, a table stands in the text once.
    let place = |local: &LocalTable| binder.rels[local.rel].written.map(|written| written.at);
    let mut apart: Vec<&LocalTable> = binder.locals.iter().filter(|local| Some(local.home) != home).collect();
    apart.sort_by_key(|local| place(local));
    apart.dedup_by_key(|local| place(local));
    for local in apart {
        draft.add_local(local)?;
    }
    if let Some(top) = top.filter(|_| draft.applies_all_conditions())
        && let [input] = draft.inputs.as_mut_slice()
    {
        let gather = &mut input.gather;
        [Some(&mut gather.sql), gather.timed_sql.as_mut()].into_iter().flatten().for_each(|sql| sql.push_str(&top));
    }
    draft.check_rows()?;
    Ok(draft.finish(shards, home))
}

/// A write that shards run, each for its own rows of the tables at the places `own`: what it reads elsewhere becomes inputs. Local tables of
/// `home` are at hand.
pub(super) fn beside(
    context: Context<'_>,
    binder: &mut Binder<'_>,
    dml: &Dml,
    (own, home): (&[usize], Option<ShardId>),
    shards: Shards,
    parsed: &Parsed,
) -> Result<FinalQuery, Refusal> {
    check_kinds(binder)?;
    binder.facts.tells_time = binder.facts.clocks > 0;
    let binder = &*binder;
    let is_own = |index: &usize| own.contains(index);
    let (inputs, edits, replaced) = Default::default();
    let mentioned = Mentioned::of(dml);
    let mut draft = Draft { context, binder, parsed, mentioned, inputs, edits, replaced, columns: 0 };
    let mut others: Vec<usize> = (0..binder.occurrences.len()).filter(|index| !is_own(index)).collect();
    others.sort_by_key(|index| binder.occurrences[*index].written.at);
    others.dedup_by_key(|index| binder.occurrences[*index].written.at);
    for index in others {
        draft.add(index)?;
    }
    for local in binder.locals.iter().filter(|local| Some(local.home) != home) {
        draft.add_local(local)?;
    }
    draft.check_rows()?;
    Ok(draft.finish(shards, None))
}

/// What no final query may have.
pub(super) fn check(binder: &Binder<'_>) -> Result<(), Refusal> {
    if binder.facts.writes {
        return Err(reasons::spread("a data-modifying CTE"));
    }
    check_kinds(binder)
}

fn check_kinds(binder: &Binder<'_>) -> Result<(), Refusal> {
    let facts = &binder.facts;
    if let Some(column) = &facts.system_column {
        return Err(reasons::differs(&format!("system column {column}")));
    }
    let what = [
        (facts.locking > 0, "FOR UPDATE or FOR SHARE"),
        (facts.sampled, "TABLESAMPLE"),
        (facts.opaque, "this syntax"),
        (facts.unknown_table, "a table or function the router does not know"),
        (facts.pin.is_some(), "a function that changes the session, together with sharded tables,"),
        (binder.system, "a catalog of PostgreSQL together with sharded tables"),
    ];
    match what.iter().find(|(found, _)| *found) {
        Some((_, what)) => Err(reasons::spread(what)),
        None => Ok(()),
    }
}

/// The names that stand anywhere in a statement: whatever is not among them need not cross.
#[derive(Default)]
pub(super) struct Mentioned<'a> {
    /// Names of columns, also those of USING, each with the name of the relation if that stands before.
    columns: Vec<(Option<&'a str>, &'a str)>,
    /// What stands before a star: `t.*`.
    stars: Vec<&'a str>,
    /// Bare names, and those of them that stand where a row of a subquery is as good.
    bare: Vec<&'a str>,
    given: Vec<&'a str>,
}

impl<'a> Mentioned<'a> {
    pub(super) fn of(dml: &'a Dml) -> Self {
        let mut found = Self::default();
        found.walk(|visit| walk::dml(dml, visit));
        found
    }

    pub(super) fn of_query(query: &'a Query) -> Self {
        let mut found = Self::default();
        found.walk(|visit| walk::query(query, visit));
        found
    }

    fn walk(&mut self, walk: impl FnOnce(&mut dyn FnMut(Visited<'a>))) {
        let found = self;
        walk(&mut |visited| match visited {
            Visited::Expr(expr) => found.expr(expr),
            Visited::Join(join) => found.columns.extend(join.using.iter().map(|name| (None, &**name))),
            Visited::Query(_) | Visited::Table(_) => {}
        });
    }

    fn expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Column(names) => match &**names {
                [name] => {
                    self.columns.push((None, name));
                    self.bare.push(name);
                }
                [.., rel, name] => self.columns.push((Some(rel), name)),
                [] => {}
            },
            Expr::Star(names) => self.stars.extend(names.last().map(|name| &**name)),
            Expr::Func(call) => self.call(call),
            // A field of the row, or all of them.
            Expr::Other(other) if other.what.starts_with("part.") => {
                if let Some(Expr::Column(names)) = other.args.first()
                    && let [name] = &**names
                {
                    self.given.push(name);
                }
            }
            // Whether all columns are NULL is the same question for both.
            Expr::IsNull(tested, _) => {
                if let Expr::Column(names) = &**tested
                    && let [name] = &**names
                {
                    self.given.push(name);
                }
            }
            _ => {}
        }
    }

    fn call(&mut self, call: &'a Func) {
        for arg in &call.args {
            match arg {
                Expr::Column(names) if TAKE_ROWS.contains(&&*call.name) && names.len() == 1 => {
                    self.given.push(&names[0]);
                }
                // `f(t.*)` is f of the whole row.
                Expr::Star(names) => self.bare.extend(names.last().map(|name| &**name)),
                _ => {}
            }
        }
    }

    /// Whether a column of a relation may be meant somewhere.
    fn names(&self, rel: &Rel<'_>, column: &str) -> bool {
        self.columns.iter().any(|(before, name)| *name == column && before.is_none_or(|before| before == &*rel.name))
    }

    fn wants_all_of(&self, rel: &Rel<'_>) -> bool {
        !rel.renamed.is_empty() || self.stars.contains(&&*rel.name) || self.bare.contains(&&*rel.name)
    }

    /// How often a bare name is used where it must be a row of the table.
    pub(super) fn is_used_freely(&self, name: &str) -> bool {
        let count = |list: &[&str]| list.iter().filter(|found| **found == name).count();
        count(&self.bare) > count(&self.given)
    }
}

/// What takes the place of a piece of the text.
struct Edit {
    place: Range<usize>,
    new: String,
    /// What people see of it.
    shown: String,
}

impl Edit {
    /// Of which people see all.
    fn plain((place, new): (Range<usize>, String)) -> Self {
        Self { place, shown: new.clone(), new }
    }
}

/// A relation that has given way to an input.
struct Replaced {
    rel: usize,
    /// If its table is sharded.
    occurrence: Option<usize>,
    /// What every shard is asked for, without conditions.
    head: String,
    /// How many conditions of its own it has.
    filters: usize,
    /// Columns, by their positions, whose values are in the array of this number.
    arrays: Vec<(usize, usize)>,
}

/// A column whose values must be among those of an input.
struct Tie {
    own: Side,
    input: usize,
    array: usize,
}

/// The final query in the making.
struct Draft<'a, 'c> {
    context: Context<'a>,
    binder: &'a Binder<'c>,
    parsed: &'a Parsed,
    mentioned: Mentioned<'a>,
    inputs: Vec<Input>,
    edits: Vec<Edit>,
    /// The relations that have given way to an input, and what is known of each.
    replaced: Vec<Replaced>,
    /// Arrays of all inputs so far.
    columns: usize,
}

impl<'a> Draft<'a, '_> {
    /// Puts what the shards hold in the place of a sharded table.
    fn add(&mut self, index: usize) -> Result<(), Refusal> {
        let binder = self.binder;
        let occurrence = &binder.occurrences[index];
        let shards = binder.keys_of(occurrence).unwrap_or(Shards::All);
        let (conditions, filters) = self.conditions(index, &[]);
        let replaced = Replaced { occurrence: Some(index), filters, ..Replaced::of(occurrence.rel) };
        self.replace(replaced, [&occurrence.schema, &occurrence.table], shards, &conditions)
    }

    /// Puts what its shard holds in the place of a local table that is elsewhere than at home.
    fn add_local(&mut self, local: &LocalTable) -> Result<(), Refusal> {
        let own = self.texts(&self.binder.own_conditions(local.rel)).unwrap_or_default();
        let conditions: Vec<String> = own.into_iter().map(str::to_owned).collect();
        let replaced = Replaced { filters: conditions.len(), ..Replaced::of(local.rel) };
        self.replace(replaced, [&local.schema, &local.name], Shards::One(local.home), &conditions)
    }

    fn replace(
        &mut self,
        mut replaced: Replaced,
        [schema, name]: [&str; 2],
        shards: Shards,
        conditions: &[String],
    ) -> Result<(), Refusal> {
        let (binder, text, span) = (self.binder, self.context.text, &self.parsed.span);
        let index = replaced.rel;
        let rel = &binder.rels[index];
        let unclear = || reasons::spread("this syntax");
        let (Columns::Table(table), Some(written)) = (&rel.columns, rel.written) else { return Err(unclear()) };
        let place = spans::table(text, span, written.at, written.only).ok_or_else(unclear)?;
        let all = self.mentioned.wants_all_of(rel) || binder.blocks[rel.block].all_columns;
        let row_type = format!("{}.{}", quoted(schema), quoted(name));
        let wanted = |column: &Column| all || self.mentioned.names(rel, &column.name);
        let crossing = Crossing::new(table, row_type, wanted);
        if let Some(column) = crossing.hindrance() {
            return Err(reasons::cannot_cross(&column.name, name));
        }
        replaced.head =
            format!("SELECT {} FROM {}", crossing.targets(rel), self.as_written(index).ok_or_else(unclear)?);
        replaced.arrays = crossing.as_they_are();
        let sql = filtered(&replaced.head, conditions);
        let tree = Node::Append { input: Box::new(Node::Route) };
        let (params, timed) = (self.parsed.params, binder.facts.tells_time);
        let timed_sql = timed.then(|| spans::with_clock(&sql, usize::from(params) + 1));
        let gather = Gather { shards, sql, timed_sql, helpers: 0, tree, params, or_else: None, locks: false };
        let alias = if written.aliased { String::new() } else { format!(" AS {}", quoted(&rel.name)) };
        let first = usize::from(params) + usize::from(timed) + self.columns + 1;
        let source = crossing.source(first);
        let command = spans::table_command(text, span, &place);
        let select = if command.is_some() { "SELECT * FROM " } else { "" };
        let new = format!("{select}(SELECT {} FROM {}){alias}", crossing.shown(), source.arrays);
        let shown = format!("{select}(input {} {name})", self.inputs.len() + 1);
        self.edits.push(Edit { place: command.unwrap_or(place.start)..place.end, new, shown });
        self.edits.extend(binder.schemas_before(text, span, index).into_iter().map(Edit::plain));
        self.group_by_key(index, written.at, &crossing.columns());
        self.inputs.push(Input { table: name.to_owned(), gather, source, narrowed: None });
        self.replaced.push(replaced);
        self.columns += crossing.arrays();
        Ok(())
    }

    /// Writes out what a primary key in GROUP BY implies.
    fn group_by_key(&mut self, rel: usize, at: usize, chosen: &[&Column]) {
        let implied = final_parts::grouped_by_key(self.binder, rel, chosen);
        let end = spans::group_end(self.context.text, &self.parsed.span, at);
        let Some(end) = end.filter(|_| !implied.is_empty()) else { return };
        let name = quoted(&self.binder.rels[rel].name);
        let columns = implied.iter().map(|column| format!(", {name}.{}", quoted(&column.name)));
        self.edits.push(Edit::plain((end..end, columns.collect())));
    }

    /// The order in which inputs are read: those first of which the text says most, whose values then narrow the others.
    fn narrow(&mut self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.inputs.len()).collect();
        order.sort_by_key(|input| std::cmp::Reverse(self.replaced[*input].filters));
        for (rank, input) in order.iter().enumerate() {
            let before = &order[..rank];
            self.inputs[*input].narrowed = self.narrowed(*input, before);
        }
        order
    }

    /// How an input is read when those `before` it are known.
    fn narrowed(&self, input: usize, before: &[usize]) -> Option<Narrowed> {
        let Replaced { occurrence: Some(index), head, .. } = &self.replaced[input] else { return None };
        let mut ties: Vec<Tie> = Vec::new();
        for [own, other] in self.binder.ties(*index) {
            let known = before.iter().find(|input| self.replaced[**input].rel == other.rel);
            let Some(known) = known.filter(|input| self.replaced[**input].filters > 0) else { continue };
            let array = self.replaced[*known].arrays.iter().find(|(position, _)| *position == other.position);
            let is_new = !ties.iter().any(|tie| tie.own == own && tie.input == *known);
            if let Some((_, array)) = array.filter(|_| is_new) {
                ties.push(Tie { own, input: *known, array: *array });
            }
        }
        let (params, timed) = (self.parsed.params, self.binder.facts.tells_time);
        let first = usize::from(params) + usize::from(timed) + 1;
        let mut known = Vec::with_capacity(ties.len());
        for (number, tie) in ties.iter().enumerate() {
            let rel = &self.binder.rels[tie.own.rel];
            let column = &rel.names()?[tie.own.position];
            let type_name = &self.inputs[tie.input].source.types[tie.array];
            let sql = format!("{}.{} = ANY (${}::{type_name}[])", quoted(&rel.name), quoted(column), first + number);
            known.push((tie.own.rel, sql));
        }
        if known.is_empty() {
            return None;
        }
        let sql = filtered(head, &self.conditions(*index, &known).0);
        let sql = if timed { spans::with_clock(&sql, usize::from(params) + 1) } else { sql };
        Some(Narrowed { sql, by: ties.iter().map(|tie| (tie.input, tie.array)).collect() })
    }

    /// What the rows must fulfil that matter, and how many of these conditions leave rows out. `known` are more, each of one relation.
    fn conditions(&self, index: usize, known: &[(usize, String)]) -> (Vec<String>, usize) {
        let rels: Vec<usize> = known.iter().map(|(rel, _)| *rel).collect();
        let reduction = self.binder.reduction_beside(index, &rels);
        let more = |of: &[usize]| -> Vec<String> {
            known.iter().filter(|(rel, _)| of.contains(rel)).map(|(_, sql)| sql.clone()).collect()
        };
        let mut conditions: Vec<String> =
            self.texts(&reduction.own).unwrap_or_default().into_iter().map(str::to_owned).collect();
        conditions.extend(more(&[self.binder.occurrences[index].rel]));
        for partners in &reduction.partners {
            let from: Option<Vec<String>> = partners.rels.iter().map(|rel| self.as_written(*rel)).collect();
            if let (Some(from), Some(texts)) = (from, self.texts(&partners.conditions)) {
                let texts: Vec<String> = texts.into_iter().map(str::to_owned).chain(more(&partners.rels)).collect();
                let (from, texts) = (from.join(", "), texts.join(") AND ("));
                conditions.push(format!("EXISTS (SELECT 1 FROM {from} WHERE ({texts}))"));
            }
        }
        let count = conditions.len();
        (conditions, count)
    }

    /// Whether no row of the only table crosses that the WHERE of its block would leave out.
    fn applies_all_conditions(&self) -> bool {
        let [occurrence] = self.binder.occurrences.as_slice() else { return false };
        let block = &self.binder.blocks[self.binder.rels[occurrence.rel].block];
        let own = self.binder.reduction(0).own;
        own.len() == block.clauses.iter().map(|clause| clause.conjuncts).sum::<usize>() && self.texts(&own).is_some()
    }

    /// The texts of conditions; `None` if one of them is not found.
    fn texts(&self, places: &[Place]) -> Option<Vec<&'a str>> {
        let text = self.context.text;
        let find = |place: &Place| {
            let block = &self.binder.blocks[place.block];
            let clause = block.clauses.get(place.clause)?;
            let found = match clause.place {
                ClausePlace::Where => {
                    let at = block.rels.iter().find_map(|rel| self.binder.rels[*rel].written)?.at;
                    spans::conditions(text, &self.parsed.span, at)?
                }
                ClausePlace::On(at) => spans::join_conditions(text, &self.parsed.span, at)?,
            };
            let position = found.get(place.position).filter(|_| found.len() == clause.conjuncts)?;
            text.get(position.clone())
        };
        places.iter().map(find).collect()
    }

    /// A table as an item of FROM.
    fn as_written(&self, rel: usize) -> Option<String> {
        let rel = &self.binder.rels[rel];
        let written = rel.written?;
        let end = spans::table_name_end(self.context.text, &self.parsed.span, written.at)?;
        let names: Vec<String> = rel.renamed.iter().map(|name| quoted(name)).collect();
        let names = if names.is_empty() { String::new() } else { format!("({})", names.join(", ")) };
        let alias = if written.aliased { format!(" AS {}{names}", quoted(&rel.name)) } else { String::new() };
        let only = if written.only { "ONLY " } else { "" };
        Some(format!("{only}{}{alias}", &self.context.text[written.at..end]))
    }

    /// A row of a subquery is no row of the table's type.
    fn check_rows(&self) -> Result<(), Refusal> {
        let binder = self.binder;
        let is_column = |name: &str| binder.rels.iter().any(|rel| rel.position(name).is_some());
        let mut whole = self.replaced.iter().map(|replaced| &*binder.rels[replaced.rel].name);
        match whole.find(|name| self.mentioned.is_used_freely(name) && !is_column(name)) {
            Some(name) => Err(reasons::whole_row(name)),
            None => Ok(()),
        }
    }

    fn finish(mut self, shards: Shards, home: Option<ShardId>) -> FinalQuery {
        let order = self.narrow();
        let edited = |new: fn(&Edit) -> &String| {
            let edits = self.edits.iter().map(|edit| (edit.place.clone(), new(edit).clone())).collect();
            spans::spliced(self.context.text, self.parsed.span.clone(), edits)
        };
        let (mut sql, shown) = (edited(|edit| &edit.new), edited(|edit| &edit.shown));
        let timed = self.binder.facts.tells_time;
        if timed {
            sql = spans::with_clock(&sql, usize::from(self.parsed.params) + 1);
        }
        let (inputs, params) = (self.inputs, self.parsed.params);
        FinalQuery { timed, shards, home, inputs, order, sql, shown, params, or_else: None }
    }
}

impl Replaced {
    fn of(rel: usize) -> Self {
        Self { rel, occurrence: None, head: String::new(), filters: 0, arrays: Vec::new() }
    }
}

fn filtered(head: &str, conditions: &[String]) -> String {
    if conditions.is_empty() { head.to_owned() } else { format!("{head} WHERE ({})", conditions.join(") AND (")) }
}

/// A name between double quotes.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
