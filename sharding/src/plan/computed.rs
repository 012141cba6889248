//! Statements in which values stand that no shard may choose for itself: ids from a sequence, keys that are computed, what every copy of a
//! row must have alike. The router gets them first and puts them in; then the statement is one without them.

use std::sync::Arc;

use super::added::added;
use super::bind::Binder;
use super::bind_dml::rounded_constant;
use super::decide::Context;
use super::draft::Sequences;
use super::reasons;
use super::scope::{Found, Names};
use crate::catalog::{Catalog, Column, ColumnDefault, FunctionKind, Identity, Relation, Table, TableKind, Volatility};
use crate::copy::{AddedField, FieldValue};
use crate::refusal::Refusal;
use crate::sql::Limits;
use crate::sql::calls::{self, Call, CallKind};
use crate::sql::insert::InsertSpans;
use crate::sql::parse::{Parsed, parse};
use crate::sql::rows::UpdateSpans;
use crate::sql::spans;
use crate::sql::tree::{Assignment, Body, Dml, Expr, Func, Insert, Query, Stmt, TableRef, Update, With};
use crate::value::oid;

use super::targets::parts;
use super::{Copies, EachShard, Plan, TargetColumn, Write, write};

/// What is put into a statement before it is planned.
#[derive(Clone, Debug, PartialEq)]
pub struct Computed {
    /// What an INSERT says with its defaults written out; other statements have calls only.
    pub(crate) insert: Option<InsertEdit>,
    /// For people: what is computed.
    pub(crate) shown: Vec<String>,
    /// It holds for every text of the same shape.
    pub(crate) any_values: bool,
}

/// How the text of an INSERT changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct InsertEdit {
    /// How many rows stand in it.
    pub rows: usize,
    /// The columns of the rows, quoted, where the client names none.
    pub list: Vec<String>,
    /// Columns that the client leaves out, quoted, and their values.
    pub added: Vec<(String, String)>,
    /// What DEFAULT means, by position in a row.
    pub defaults: Vec<Option<String>>,
    /// Values of the router stand in columns for which a client may give none.
    pub overriding: bool,
    /// Cells whose value a server is asked for, by row and position.
    pub evaluated: Vec<(usize, usize)>,
    /// The client's own cells have calls.
    pub calls: bool,
}

impl InsertEdit {
    pub(crate) fn is_evaluated(&self, row: usize, position: usize) -> bool {
        self.evaluated.binary_search(&(row, position)).is_ok()
    }
}

/// What the router computes for a statement, if anything.
///
/// # Errors
/// It would have to be computed and cannot.
pub(super) fn computed(
    context: Context<'_>,
    dml: &Dml,
    parsed: &Parsed,
    plain: &Plan,
) -> Result<Option<Completed>, Refusal> {
    let calls = calls::find(context.text, parsed.span.clone());
    let is_unique = |call: &Call| call.kind == CallKind::UniqueId;
    if context.catalog.shards <= 1 && !calls.iter().any(is_unique) {
        return Ok(None);
    }
    let mirrored = is_mirrored(plain);
    if let Dml::Insert(insert) = dml
        && let Some(found) = Filled::of(context, &insert.table)
    {
        if context.catalog.shards > 1 && !mirrored {
            check(context, dml)?;
        }
        if context.catalog.shards > 1 && found.table.relation == Relation::KnownView {
            found.check_below(context, insert)?;
        }
        return match rows_of(insert) {
            Some(rows) => match found.edit(context, insert, &rows, &calls, parsed) {
                // The first shard finds out all there is.
                Err(_) if mirrored && !calls.iter().any(is_unique) => Ok(None),
                computed => Ok(computed?.map(Completed::Computed)),
            },
            None if context.catalog.shards <= 1 => Err(reasons::unique_id()),
            None if calls.iter().any(is_unique) => Err(reasons::unique_id()),
            None if found.key.is_some() => {
                let write = added(context, &found, insert, parsed, plain)?;
                Ok(write.map(|write| Completed::Write(Arc::new(write))))
            }
            None if mirrored => Ok(None),
            None => found.check_selected(insert, write::width_of(context, insert).unwrap_or(0)).map(|()| None),
        };
    }
    if context.catalog.shards > 1 && !mirrored {
        check(context, dml)?;
    }
    let alone = matches!(dml, Dml::Query(query) if is_one_row(context, query));
    if calls.iter().any(is_unique) && !alone && !is_local_insert(dml) {
        return Err(reasons::unique_id());
    }
    if context.catalog.shards > 1 && calls.iter().any(|call| call.kind == CallKind::Unread) {
        return Ok(None);
    }
    let known = |call: &Call| match call.kind {
        CallKind::Current(_) | CallKind::Last => context.catalog.shards > 1,
        CallKind::UniqueId => true,
        _ => false,
    };
    let takes = |call: &Call| matches!(call.kind, CallKind::Next(_));
    let ids = alone && context.catalog.shards > 1 && calls.iter().any(takes);
    if !calls.iter().any(known) && !ids || calls.iter().any(takes) && !alone {
        return Ok(None);
    }
    let shown = calls.iter().filter(|call| known(call) || takes(call));
    let shown = shown.map(|call| context.text[call.place.clone()].to_owned()).collect();
    Ok(Some(Completed::Computed(Arc::new(Computed { insert: None, shown, any_values: true }))))
}

/// Whether the first shard runs the statement and the others get its rows.
fn is_mirrored(plan: &Plan) -> bool {
    let Plan::Write(write) = plan else { return false };
    matches!(&**write, Write::Each(EachShard { copies: Some(Copies { mirror: Some(_), .. }), .. }))
}

/// Defaults which every shard would evaluate for itself.
pub(super) struct OpenDefaults {
    /// One of the columns.
    pub column: String,
    /// One of them takes values of a sequence.
    pub counted: bool,
}

/// The columns that a statement leaves to such defaults. Those of INSERT ... VALUES are the router's.
pub(super) fn open_defaults(context: Context<'_>, dml: &Dml) -> Option<OpenDefaults> {
    let (table, set) = match dml {
        Dml::Insert(insert) => (&insert.table, insert.conflict.as_ref().map_or(&[][..], |conflict| &conflict.set)),
        Dml::Update(update) => (&update.table, &*update.set),
        _ => return None,
    };
    let found = Filled::of(context, table)?;
    let is_set = |column: &Column| set.iter().any(|to| *to.column == *column.name && to.value == Expr::Default);
    let given = match dml {
        Dml::Insert(insert) if rows_of(insert).is_none() => {
            found.given(insert, write::width_of(context, insert).unwrap_or(0)).unwrap_or_default()
        }
        _ => (0..found.table.columns.len()).collect(),
    };
    let columns = found.table.columns.iter().enumerate();
    let open = columns.filter(|(at, column)| (!given.contains(at) || is_set(column)) && found.differs(column));
    let open: Vec<&Column> = open.map(|(_, column)| column).collect();
    let counts = |column: &&Column| match &column.default {
        ColumnDefault::None => false,
        ColumnDefault::Sequence { .. } => true,
        ColumnDefault::Expression(sql) => calls::find(sql, 0..sql.len()).iter().any(takes_value),
    };
    Some(OpenDefaults { column: open.first()?.name.clone(), counted: open.iter().any(counts) })
}

/// An UPDATE of a sharded table in which defaults that ask for the time are written out, with its text: several shards are told one time, which
/// DEFAULT would not show. None when it has no such defaults.
pub(super) fn with_written_clocks(context: Context<'_>, update: &Update, parsed: &Parsed) -> Option<(String, Parsed)> {
    let found = Filled::of(context, &update.table).filter(|found| found.key.is_some())?;
    let clock = |assignment: &Assignment| {
        let column = found.table.columns.iter().find(|column| *column.name == *assignment.column)?;
        let ColumnDefault::Expression(sql) = &column.default else { return None };
        let nature = nature_of(context, sql).filter(|_| assignment.value == Expr::Default)?;
        (nature.clock && !nature.volatile && !nature.bound).then(|| format!("({sql})"))
    };
    let clocks: Vec<Option<String>> = update.set.iter().map(clock).collect();
    if clocks.iter().all(Option::is_none) {
        return None;
    }
    let spans = UpdateSpans::of(context.text, parsed.span.start, parsed.span.end)?;
    let places = spans.values.into_iter().zip(clocks).filter_map(|(place, clock)| Some((place, clock?)));
    let text = spans::spliced(context.text, parsed.span.clone(), places.collect());
    let mut parsed = parse(&text, &[], &Limits::default()).ok()?;
    let first = parsed.pop()?;
    parsed.is_empty().then_some((text, first))
}

/// Refuses writes that leave to every shard what the router has to give.
fn check(context: Context<'_>, dml: &Dml) -> Result<(), Refusal> {
    let (with, table, set): (&Option<Box<With>>, Option<&TableRef>, &[Assignment]) = match dml {
        Dml::Query(query) => (&query.with, None, &[]),
        Dml::Insert(insert) => {
            let set = insert.conflict.as_ref().map_or(&[][..], |conflict| &conflict.set);
            (&insert.with, Some(&insert.table), set)
        }
        Dml::Update(update) => (&update.with, Some(&update.table), &update.set),
        Dml::Delete(delete) => (&delete.with, None, &[]),
        Dml::Merge(merge) => {
            if let Some(found) = Filled::of(context, &merge.table) {
                for action in &merge.actions {
                    let set: Vec<&str> = action.set.iter().map(|assignment| &*assignment.column).collect();
                    let given = |column: &Column| !action.inserts || set.is_empty() || set.contains(&&*column.name);
                    found.check_open(&merge.table.name, given)?;
                }
            }
            (&merge.with, None, &[])
        }
    };
    if let Some(table) = table
        && let Some(found) = Filled::of(context, table)
    {
        let defaulted = |column: &Column| set.iter().any(|to| *to.column == *column.name && to.value == Expr::Default);
        found.check_open(&table.name, |column| !defaulted(column))?;
    }
    for cte in with.iter().flat_map(|with| &with.ctes) {
        check(context, &cte.statement)?;
        if let Dml::Insert(insert) = &cte.statement
            && let Some(found) = Filled::of(context, &insert.table)
        {
            match rows_of(insert) {
                Some(rows) => found.check_selected(insert, rows.first().map_or(0, |row| row.len()))?,
                None => found.check_selected(insert, write::width_of(context, insert).unwrap_or(0))?,
            }
        }
    }
    Ok(())
}

/// One row, of which every column is evaluated once.
fn is_one_row(context: Context<'_>, query: &Query) -> bool {
    let Body::Select(select) = &query.body else { return false };
    let plain = query.with.is_none() && query.order.is_empty() && query.limit.is_none() && query.offset.is_none();
    let unfiltered =
        select.from.is_empty() && select.filter.is_none() && select.group.is_empty() && select.having.is_none();
    let names = Names::new(context.catalog, context.search_path);
    let once = |expr: &Expr| match expr {
        Expr::Func(call) => {
            is_known_call(expr)
                || names.function(call).is_some_and(|known| known.function.kind != FunctionKind::SetReturning)
        }
        Expr::Const(_) | Expr::Cast(_) | Expr::Op(_) | Expr::Param(_) => true,
        _ => false,
    };
    plain
        && unfiltered
        && select.into.is_none()
        && select.targets.iter().all(|target| parts(&target.expr).into_iter().all(once))
}

/// A row for a table of one shard.
fn is_local_insert(dml: &Dml) -> bool {
    matches!(dml, Dml::Insert(insert) if rows_of(insert).is_some() && insert.conflict.is_none())
}

/// The rows of INSERT ... VALUES without anything around them; one without cells is DEFAULT VALUES.
fn rows_of(insert: &Insert) -> Option<Vec<&[Expr]>> {
    if insert.with.is_some() {
        return None;
    }
    let Some(source) = &insert.source else { return Some(vec![&[]]) };
    let plain = source.with.is_none() && source.order.is_empty() && source.locking.is_empty();
    match &source.body {
        Body::Values(rows) if plain && source.limit.is_none() && source.offset.is_none() => {
            Some(rows.iter().map(Vec::as_slice).collect())
        }
        _ => None,
    }
}

/// Refuses what the router would have to give where it cannot.
pub(super) fn check_none(
    context: Context<'_>,
    dml: &Dml,
    parsed: &Parsed,
    plain: &Plan,
    what: &str,
) -> Result<(), Refusal> {
    match computed(context, dml, parsed, plain)? {
        Some(_) => Err(reasons::spread(what)),
        None => Ok(()),
    }
}

/// The columns that COPY leaves out and the router can fill, in their order.
///
/// # Errors
/// The key is left out, and the router cannot make it.
pub(super) fn missing_fields(table: &Table, name: &str, given: &[Box<str>]) -> Result<Vec<AddedField>, Refusal> {
    let key = match table.kind {
        TableKind::Sharded { column, .. } => Some(column),
        TableKind::Reference => None,
        TableKind::Local(_) => return Ok(Vec::new()),
    };
    let mut fields = Vec::new();
    for (position, column) in table.columns.iter().enumerate() {
        if given.iter().any(|given| **given == *column.name) {
            continue;
        }
        let is_key = key == Some(position);
        let value = match &column.default {
            ColumnDefault::None => None,
            ColumnDefault::Sequence { sequence, .. } => {
                let sequence = format!("{}.{}", quoted(&sequence.schema), quoted(&sequence.name));
                let bytes = match column.type_oid {
                    oid::INT2 => 2,
                    oid::INT4 => 4,
                    oid::INT8 => 8,
                    _ => 0,
                };
                Some(FieldValue::Next { sequence, bytes })
            }
            ColumnDefault::Expression(sql) => {
                let calls = calls::find(sql, 0..sql.len());
                let is_uuid =
                    matches!(calls.as_slice(), [call] if call.kind == CallKind::Uuid && call.place == (0..sql.len()));
                let nothing = Catalog::default();
                let context = Context { catalog: &nothing, search_path: None, text: sql, phases: &[] };
                let is_clock = calls.is_empty()
                    && nature_of(context, sql).is_some_and(|nature| nature.clock && !nature.volatile && !nature.bound);
                match (is_uuid, is_clock) {
                    (true, _) if is_key || key.is_none() => Some(FieldValue::Uuid),
                    (_, true) if !is_key => {
                        Some(FieldValue::Once(format!("CAST({sql} AS {})", TargetColumn::of(column).type_name)))
                    }
                    _ => None,
                }
            }
        };
        match value {
            Some(value) => fields.push(AddedField { name: column.name.clone(), value, is_key }),
            None if is_key => return Err(reasons::insert_without_key(name, &column.name)),
            None => {}
        }
    }
    // Those that may have delimiters in them come last.
    fields.sort_by_key(|field| matches!(field.value, FieldValue::Once(_)));
    Ok(fields)
}

/// Refuses rows for a table that leave columns to defaults which every shard would evaluate for itself.
pub(super) fn check_copied(table: &Table, name: &str, given: &[Box<str>]) -> Result<(), Refusal> {
    let key = match table.kind {
        TableKind::Sharded { column, .. } => Some(column),
        TableKind::Reference => None,
        TableKind::Local(_) => return Ok(()),
    };
    Filled { table, key }.check_open(name, |column| given.is_empty() || given.iter().any(|name| **name == *column.name))
}

/// How a statement runs for which the router gets values.
pub(super) enum Completed {
    /// They are put into it before it is planned.
    Computed(Arc<Computed>),
    /// They are added to its rows.
    Write(Arc<Write>),
}

/// A table that an INSERT fills on several shards.
pub(super) struct Filled<'c> {
    pub table: &'c Table,
    /// The column that tells the shard.
    pub key: Option<usize>,
}

/// What an expression depends on.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, seen or not")]
pub(super) struct Nature {
    /// It gives something else every time it is asked.
    pub volatile: bool,
    /// It has the time of the transaction in it.
    clock: bool,
    /// How often.
    pub clocks: usize,
    /// It cannot be asked for before the statement.
    pub bound: bool,
}

impl<'c> Filled<'c> {
    fn of(context: Context<'c>, table: &TableRef) -> Option<Self> {
        let names = Names::new(context.catalog, context.search_path);
        let Found::Table { table, .. } = names.find(table) else { return None };
        Self::whole(table)
    }

    fn whole(table: &'c Table) -> Option<Self> {
        let key = match table.kind {
            TableKind::Sharded { column, .. } => Some(column),
            TableKind::Reference => None,
            TableKind::Local(_) => return None,
        };
        Some(Self { table, key })
    }

    /// The catalog does not tell which table is below a view: it may be any that has all of its columns, and if none has, any.
    fn check_below(&self, context: Context<'_>, insert: &Insert) -> Result<(), Refusal> {
        let has = |table: &Table, name: &str| table.columns.iter().any(|column| column.name == name);
        let tables = || {
            let tables = context.catalog.tables.values().flat_map(|tables| tables.values());
            let alike = |table: &&Table| {
                table.relation == Relation::Table
                    && matches!(table.kind, TableKind::Sharded { .. }) == self.key.is_some()
            };
            tables.filter(alike)
        };
        let fits = |table: &&Table| self.table.columns.iter().all(|column| has(table, &column.name));
        let renamed = !tables().any(|table| fits(&table));
        for table in tables().filter(|table| renamed || fits(table)) {
            let Some(below) = Filled::whole(table) else { continue };
            let is_named = |column: &Column| insert.columns.iter().any(|name| **name == *column.name);
            let is_given = |column: &Column| {
                if insert.columns.is_empty() { has(self.table, &column.name) } else { is_named(column) }
            };
            below.check_open(&insert.table.name, is_given)?;
        }
        Ok(())
    }

    /// The columns that the rows give, by position in the table.
    fn given(&self, insert: &Insert, width: usize) -> Option<Vec<usize>> {
        if insert.columns.is_empty() {
            return (width <= self.table.columns.len()).then(|| (0..width).collect());
        }
        let position = |name: &str| self.table.columns.iter().position(|column| column.name == name);
        insert.columns.iter().map(|name| position(name)).collect()
    }

    /// What the router must write for a column that the client leaves to its default.
    fn default(&self, context: Context<'_>, position: usize, rows: usize) -> Option<String> {
        let column = &self.table.columns[position];
        match &column.default {
            ColumnDefault::None => None,
            ColumnDefault::Sequence { sequence, .. } => {
                let name = format!("{}.{}", quoted(&sequence.schema), quoted(&sequence.name));
                Some(format!("nextval('{}'::regclass)", name.replace('\'', "''")))
            }
            ColumnDefault::Expression(sql) => {
                let takes = calls::find(sql, 0..sql.len()).iter().any(|call| call.kind != CallKind::Uuid);
                let nature = expression(sql).map(|expr| nature(context, &expr));
                let matters = match (self.key, &nature) {
                    (Some(key), _) if key == position => true,
                    (Some(_), Some(nature)) => takes || rows > 1 && nature.clock && !nature.volatile,
                    (None, Some(nature)) => takes || nature.volatile || nature.clock,
                    (None, None) => true,
                    (Some(_), None) => takes,
                };
                matters.then(|| sql.clone())
            }
        }
    }

    /// The rows of a query bring no values for columns that only the router may fill.
    fn check_selected(&self, insert: &Insert, width: usize) -> Result<(), Refusal> {
        let Some(given) = self.given(insert, width) else { return Ok(()) };
        let given: Vec<&str> = given.iter().map(|position| &*self.table.columns[*position].name).collect();
        self.check_open(&insert.table.name, |column| given.contains(&&*column.name))
    }

    /// Refuses to leave columns to their defaults, those that are not `given`, for which every shard would find something else.
    fn check_open(&self, table: &str, given: impl Fn(&Column) -> bool) -> Result<(), Refusal> {
        match self.table.columns.iter().find(|column| !given(column) && self.differs(column)) {
            Some(column) => Err(reasons::default_of_rows(table, &column.name)),
            None => Ok(()),
        }
    }

    /// Whether the default of a column would be another value on every shard.
    fn differs(&self, column: &Column) -> bool {
        match &column.default {
            ColumnDefault::None => false,
            ColumnDefault::Sequence { .. } => true,
            ColumnDefault::Expression(sql) => {
                self.key.is_none() && varies(sql) || calls::find(sql, 0..sql.len()).iter().any(takes_value)
            }
        }
    }

    fn edit(
        &self,
        context: Context<'_>,
        insert: &Insert,
        rows: &[&[Expr]],
        calls: &[Call],
        parsed: &Parsed,
    ) -> Result<Option<Arc<Computed>>, Refusal> {
        let width = rows.first().map_or(0, |row| row.len());
        let Some(given) = self.given(insert, width).filter(|given| given.len() == width) else { return Ok(None) };
        if rows.iter().any(|row| row.len() != width) {
            return Ok(None);
        }
        let text = &context.text[parsed.span.clone()];
        let Some(spans) = InsertSpans::of(text) else {
            // It stands in another statement, or is written in a way that is not read.
            let is_defaulted = |at: usize| rows.iter().any(|row| row[at] == Expr::Default);
            let own = given.iter().enumerate().filter(|(at, _)| !is_defaulted(*at)).map(|(_, position)| *position);
            let own: Vec<&str> = own.map(|position| &*self.table.columns[position].name).collect();
            return self.check_open(&insert.table.name, |column| own.contains(&&*column.name)).map(|()| None);
        };
        let mut edit = InsertEdit { rows: spans.rows.len(), ..InsertEdit::default() };
        let mut shown = Vec::new();
        let several = context.catalog.shards > 1;
        let open = (0..self.table.columns.len()).filter(|position| several && !given.contains(position));
        for position in open {
            if let Some(value) = self.default(context, position, rows.len()) {
                let name = quoted(&self.table.columns[position].name);
                shown.push(format!("{} = {value}", self.table.columns[position].name));
                let at = width + edit.added.len();
                self.note_evaluated(context, &mut edit, (position, at), &value, rows.len());
                edit.added.push((name, value));
            }
        }
        edit.defaults = vec![None; width];
        for (at, position) in given.iter().enumerate().filter(|_| several) {
            if !rows.iter().any(|row| row[at] == Expr::Default) {
                continue;
            }
            edit.defaults[at] = self.default(context, *position, rows.len());
            shown.extend(
                edit.defaults[at].iter().map(|value| format!("{} = {value}", self.table.columns[*position].name)),
            );
        }
        self.cells(context, &mut edit, rows, &given, &mut shown);
        self.calls(context, &mut edit, calls, &spans, parsed, &mut shown)?;
        if shown.is_empty() {
            return Ok(None);
        }
        if !edit.added.is_empty() && insert.columns.is_empty() {
            edit.list = given.iter().map(|position| quoted(&self.table.columns[*position].name)).collect();
        }
        self.overriding(&mut edit, rows, &given, text, &spans)?;
        edit.evaluated.sort_unstable();
        let any_values = !calls.iter().any(|call| matches!(call.kind, CallKind::Current(_)));
        Ok(Some(Arc::new(Computed { insert: Some(edit), shown, any_values })))
    }

    /// Which of the client's cells a server is asked for before.
    fn cells(
        &self,
        context: Context<'_>,
        edit: &mut InsertEdit,
        rows: &[&[Expr]],
        given: &[usize],
        shown: &mut Vec<String>,
    ) {
        for (n, row) in rows.iter().enumerate() {
            for (at, cell) in row.iter().enumerate() {
                let is_key = self.key == Some(given[at]);
                let is_copied = self.key.is_none();
                if context.catalog.shards <= 1 || !is_key && !is_copied {
                    continue;
                }
                let default = edit.defaults[at].as_deref().filter(|_| *cell == Expr::Default);
                let written = default.and_then(expression);
                let cell = written.as_ref().unwrap_or(cell);
                if self.is_asked_for(context, cell, is_key) {
                    edit.evaluated.push((n, at));
                    if default.is_none() {
                        shown.push(format!("{} of row {}", self.table.columns[given[at]].name, n + 1));
                    }
                }
            }
        }
    }

    fn note_evaluated(
        &self,
        context: Context<'_>,
        edit: &mut InsertEdit,
        (position, at): (usize, usize),
        value: &str,
        rows: usize,
    ) {
        let Some(expr) = expression(value) else { return };
        if self.key.is_none() && self.is_asked_for(context, &expr, false)
            || self.key == Some(position) && self.is_asked_for(context, &expr, true)
        {
            edit.evaluated.extend((0..rows).map(|row| (row, at)));
        }
    }

    /// Whether a server must be asked for the value of a cell.
    fn is_asked_for(&self, context: Context<'_>, cell: &Expr, is_key: bool) -> bool {
        if matches!(cell, Expr::Default | Expr::Param(_) | Expr::Const(_)) || is_known_call(cell) {
            return false;
        }
        let nature = nature(context, cell);
        if nature.bound {
            return false;
        }
        if is_key {
            let mut binder = Binder::new(Names::new(context.catalog, context.search_path));
            return binder.value(cell).is_none() && rounded_constant(cell).is_none();
        }
        nature.volatile
    }

    /// Calls in the client's own cells.
    fn calls(
        &self,
        context: Context<'_>,
        edit: &mut InsertEdit,
        calls: &[Call],
        spans: &InsertSpans,
        parsed: &Parsed,
        shown: &mut Vec<String>,
    ) -> Result<(), Refusal> {
        let several = context.catalog.shards > 1;
        let start = parsed.span.start;
        let takes = calls.iter().filter(|call| takes_value(call) && (several || call.kind == CallKind::UniqueId));
        for call in takes {
            let in_cell = spans.rows.iter().any(|row| {
                row.cells
                    .iter()
                    .any(|cell| cell.start + start <= call.place.start && call.place.end <= cell.end + start)
            });
            let written = &context.text[call.place.clone()];
            match (&call.kind, in_cell) {
                (CallKind::Unread, _) => return Err(reasons::sequence_by_name(call.kind.name())),
                (_, false) => return Err(reasons::differs(written)),
                (_, true) => {}
            }
            edit.calls = true;
            shown.push(written.to_owned());
        }
        check_order(context, edit, calls)
    }

    /// What stands in columns that are GENERATED ALWAYS is the router's, not the client's.
    fn overriding(
        &self,
        edit: &mut InsertEdit,
        rows: &[&[Expr]],
        given: &[usize],
        text: &str,
        spans: &InsertSpans,
    ) -> Result<(), Refusal> {
        let identity = |column: &Column| match column.default {
            ColumnDefault::Sequence { identity, .. } => identity,
            _ => Identity::No,
        };
        let columns = &self.table.columns;
        if let Some(words) = &spans.overriding
            && text[words.clone()].to_ascii_lowercase().contains("user")
            && columns.iter().any(|column| identity(column) != Identity::No)
        {
            return Err(reasons::spread("OVERRIDING USER VALUE"));
        }
        let own = |at: usize| rows.iter().any(|row| row[at] != Expr::Default);
        let always = |position: &usize| identity(&columns[*position]) == Identity::Always;
        let client_gives = given.iter().enumerate().any(|(at, position)| always(position) && own(at));
        if let (true, None, Some(column)) =
            (client_gives, &spans.overriding, given.iter().find(|position| always(position)))
        {
            return Err(reasons::generated_always(&columns[*column].name));
        }
        edit.overriding = !client_gives && columns.iter().any(|column| identity(column) == Identity::Always);
        Ok(())
    }
}

/// Refuses to ask for the value before last and the next one of a sequence in one row: the order of the columns would decide.
fn check_order(context: Context<'_>, edit: &InsertEdit, calls: &[Call]) -> Result<(), Refusal> {
    let sequences = Sequences { catalog: context.catalog, search_path: context.search_path };
    let written = edit.added.iter().map(|(_, value)| value).chain(edit.defaults.iter().flatten());
    let written = written.flat_map(|value| calls::find(value, 0..value.len()));
    let taken: Vec<_> = written
        .chain(calls.iter().cloned())
        .filter_map(|call| match call.kind {
            CallKind::Next(name) => Some(sequences.named(&name).known),
            _ => None,
        })
        .collect();
    let is_unclear = |call: &Call| match &call.kind {
        CallKind::Last => !taken.is_empty(),
        CallKind::Current(name) => taken.contains(&sequences.named(name).known),
        _ => false,
    };
    if calls.iter().any(is_unclear) { Err(reasons::both_values()) } else { Ok(()) }
}

/// Whether the value of a call is one that the router has to give.
fn takes_value(call: &Call) -> bool {
    call.kind != CallKind::Uuid
}

fn is_known_call(expr: &Expr) -> bool {
    let Expr::Func(call) = expr else { return false };
    match (&*call.name, call.schema.as_deref()) {
        ("nextval" | "currval" | "lastval", None) => true,
        ("unique_id", schema) => schema == Some("sluice"),
        _ => false,
    }
}

/// Whether an expression gives something else every time, or at another time; one that cannot be read may.
fn varies(sql: &str) -> bool {
    let nothing = Catalog::default();
    let context = Context { catalog: &nothing, search_path: None, text: sql, phases: &[] };
    expression(sql).is_none_or(|expr| {
        let nature = nature(context, &expr);
        nature.volatile || nature.clock || nature.bound
    })
}

/// What an expression in SQL depends on, if it can be read.
pub(super) fn nature_of(context: Context<'_>, sql: &str) -> Option<Nature> {
    expression(sql).map(|expr| nature(context, &expr))
}

fn nature(context: Context<'_>, expr: &Expr) -> Nature {
    let mut binder = Binder::new(Names::new(context.catalog, context.search_path));
    binder.open();
    binder.expr(expr);
    let facts = &binder.facts;
    // Those that the router gives are known when the rest is asked for.
    let is_given = |name: &String| matches!(name.as_str(), "nextval" | "currval" | "lastval" | "unique_id");
    let volatile = parts(expr).into_iter().any(|part| match part {
        Expr::Func(call) => !is_known_call(part) && is_volatile(&binder, call),
        _ => false,
    });
    let opaque = parts(expr)
        .into_iter()
        .any(|part| matches!(part, Expr::Sublink(_) | Expr::Column(_) | Expr::Star(_) | Expr::Opaque));
    let reads = facts.reader.as_ref().is_some_and(|name| !is_given(name));
    let home = facts.home.as_ref().is_some_and(|name| !is_given(name));
    Nature {
        volatile: volatile || facts.clock.is_some() || facts.time_word,
        clock: facts.clocks > 0,
        clocks: facts.clocks,
        bound: opaque || reads || home || facts.opaque,
    }
}

fn is_volatile(binder: &Binder<'_>, call: &Func) -> bool {
    let known = binder.names.function(call);
    known.is_none_or(|known| known.function.volatility == Volatility::Volatile)
}

/// An expression in SQL.
fn expression(sql: &str) -> Option<Expr> {
    let text = format!("SELECT {sql}");
    let mut parsed = parse(&text, &[], &Limits::default()).ok()?;
    let Stmt::Dml(Dml::Query(query)) = parsed.pop()?.stmt else { return None };
    let Body::Select(mut select) = query.body else { return None };
    Some(select.targets.pop()?.expr)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
