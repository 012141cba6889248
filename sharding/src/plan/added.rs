//! INSERT ... SELECT that leaves columns to defaults which no shard may evaluate for itself: the router adds them to the rows of the query.

use super::computed::{Filled, nature_of};
use super::decide::Context;
use super::reasons;
use super::targets::parts;
use super::write;
use super::{Plan, Shards, Write};
use crate::catalog::{ColumnDefault, Identity, Relation};
use crate::refusal::Refusal;
use crate::sql::calls::{self, CallKind};
use crate::sql::insert::HeadSpans;
use crate::sql::parse::Parsed;
use crate::sql::rows::query_of_insert;
use crate::sql::spans;
use crate::sql::tree::{Expr, Insert};

/// The columns that the router adds to rows which a query gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedColumns {
    columns: Vec<AddedColumn>,
    /// All columns of the table, quoted, where the client names none: its query fills the first of them.
    list: Vec<String>,
    /// Where further names stand in what is before the query, and where OVERRIDING does.
    names_at: usize,
    words_at: usize,
    /// The client has written OVERRIDING.
    overriding: bool,
    /// The time of the transaction is in a default.
    pub timed: bool,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedColumn {
    pub name: String,
    /// In the table, counted from 0.
    position: usize,
    /// A client may give it no value: GENERATED ALWAYS AS IDENTITY.
    always: bool,
    pub is_key: bool,
    pub value: AddedValue,
}

/// What a row gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddedValue {
    /// The next value of a sequence, which is named as text for `regclass`.
    Next(String),
    /// A random UUID.
    Uuid,
    /// An expression in SQL, in pieces; between each two is the next value of a sequence.
    Around { pieces: Vec<String>, sequences: Vec<String> },
    /// All rows get what a server makes of an expression once.
    Once(String),
}

impl AddedColumn {
    /// Whether shards that made it by themselves would make the same values twice, or store the row elsewhere.
    fn takes(&self) -> bool {
        match &self.value {
            AddedValue::Next(_) => true,
            AddedValue::Around { sequences, .. } => self.is_key || !sequences.is_empty(),
            AddedValue::Uuid | AddedValue::Once(_) => self.is_key,
        }
    }
}

impl AddedColumns {
    /// Those that are missing when the query has `given` columns.
    pub fn of(&self, given: usize) -> impl Iterator<Item = &AddedColumn> {
        self.columns.iter().filter(move |column| self.list.is_empty() || column.position >= given)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| &*column.name)
    }

    pub(crate) fn has_key(&self) -> bool {
        self.columns.iter().any(|column| column.is_key)
    }

    /// The expression of a column over the values of its sequences, which are columns; `$param` tells the time.
    pub fn shown(pieces: &[String], next: &[String], param: usize) -> String {
        let mut sql = String::from("(");
        for (n, piece) in pieces.iter().enumerate() {
            sql.push_str(piece);
            sql.push_str(next.get(n).map_or("", String::as_str));
        }
        sql.push(')');
        spans::with_clock(&sql, param)
    }

    /// What stands before the query once the columns are added, from what the client has before it.
    pub fn head(&self, before: &str, given: usize) -> String {
        let added: Vec<String> = self.of(given).map(|column| super::quoted(&column.name)).collect();
        if added.is_empty() {
            return before.to_owned();
        }
        let names = match self.list.is_empty() {
            true => format!(", {}", added.join(", ")),
            false => {
                let own = self.list.iter().take(given).chain(&added).map(String::as_str);
                format!(" ({})", own.collect::<Vec<_>>().join(", "))
            }
        };
        let words = match self.of(given).any(|column| column.always) && !self.overriding {
            true => " OVERRIDING SYSTEM VALUE ",
            false => " ",
        };
        let (front, rest) = before.split_at(self.names_at);
        let (list, tail) = rest.split_at(self.words_at - self.names_at);
        format!("{front}{names}{list}{words}{tail}")
    }
}

/// How an INSERT of selected rows runs whose missing columns the router adds; `plain` is its plan without them. None if there are none.
///
/// # Errors
/// A column is missing whose values the router cannot make.
pub(super) fn added(
    context: Context<'_>,
    filled: &Filled<'_>,
    insert: &Insert,
    parsed: &Parsed,
    plain: &Plan,
) -> Result<Option<Write>, Refusal> {
    let unclear = || reasons::spread("this form of INSERT ... SELECT");
    let table = filled.table;
    let span = query_of_insert(context.text, parsed.span.start, parsed.span.end).ok_or_else(unclear);
    let width = write::width_of(context, insert);
    let head = span.as_ref().ok().and_then(|span| write::head_of(context, insert, parsed, span)).map(|(_, head)| head);
    let spans = head.and_then(HeadSpans::of);
    let words = spans.as_ref().and_then(|spans| Some(head?[spans.overriding.clone()?].to_ascii_lowercase()));
    if words.is_some_and(|words| words.contains("user"))
        && table.columns.iter().any(|column| identity(&column.default) != Identity::No)
    {
        return Err(reasons::spread("OVERRIDING USER VALUE"));
    }
    let (columns, timed) = missing(context, filled, insert, width)?;
    let takes = columns.iter().any(AddedColumn::takes);
    // One server tells one time.
    if columns.is_empty() || !takes && matches!(plain, Plan::Route { .. }) {
        return Ok(None);
    }
    let first = columns.iter().find(|column| !matches!(column.value, AddedValue::Around { .. })).unwrap_or(&columns[0]);
    let no = reasons::default_of_rows(&insert.table.name, &first.name);
    let key_is_open = columns.iter().any(|column| column.is_key);
    if let (Plan::Refused(refusal), false) = (plain, key_is_open) {
        return Err((**refusal).clone());
    }
    if table.relation != Relation::Table {
        return Err(no);
    }
    let span = span?;
    check_around(context, insert, parsed, &span)?;
    let set = insert.conflict.iter().flat_map(|conflict| &conflict.set);
    let key_name = filled.key.map(|key| &*table.columns[key].name);
    if set.into_iter().any(|assignment| Some(&*assignment.column) == key_name && key_is_open) {
        return Err(reasons::spread("ON CONFLICT that sets the sharding key"));
    }
    let spans = spans.ok_or(no)?;
    let list = match insert.columns.is_empty() {
        true => table.columns.iter().map(|column| super::quoted(&column.name)).collect(),
        false => Vec::new(),
    };
    let (names_at, words_at) = match &spans.list {
        Some(list) => (list.end - 1, list.end),
        None => (spans.table_end, spans.table_end),
    };
    let overriding = spans.overriding.is_some();
    let added = AddedColumns { columns, list, names_at, words_at, overriding, timed };
    let shards = match plain {
        // If that turns out to be one shard, it tells one time.
        Plan::Write(write) if !takes => write.shards().clone(),
        _ => Shards::All,
    };
    write::by_the_router(context, table, insert, shards, parsed, Some(added)).map(Some)
}

/// The columns that a query of this width leaves out and the router gives, and whether the time is in one.
fn missing(
    context: Context<'_>,
    filled: &Filled<'_>,
    insert: &Insert,
    width: Option<usize>,
) -> Result<(Vec<AddedColumn>, bool), Refusal> {
    let is_given = |position: usize, name: &str| match insert.columns.is_empty() {
        true => width.is_some_and(|width| position < width),
        false => insert.columns.iter().any(|named| **named == *name),
    };
    let (mut columns, mut timed) = (Vec::new(), false);
    for (position, column) in filled.table.columns.iter().enumerate() {
        if is_given(position, &column.name) {
            continue;
        }
        let is_key = filled.key == Some(position);
        let made = value(context, &column.default, is_key);
        let made = made.ok_or_else(|| reasons::default_of_rows(&insert.table.name, &column.name))?;
        let Some((value, has_clock)) = made else { continue };
        timed |= has_clock;
        let always = identity(&column.default) == Identity::Always;
        columns.push(AddedColumn { name: column.name.clone(), position, always, is_key, value });
    }
    Ok((columns, timed))
}

fn identity(default: &ColumnDefault) -> Identity {
    match default {
        ColumnDefault::Sequence { identity, .. } => *identity,
        _ => Identity::No,
    }
}

/// What the router makes for a missing column, and whether the time is in it. The outer `None` says that it cannot, the inner that the shards do
/// as well.
fn value(context: Context<'_>, default: &ColumnDefault, is_key: bool) -> Option<Option<(AddedValue, bool)>> {
    let sql = match default {
        ColumnDefault::None => return Some(None),
        ColumnDefault::Sequence { sequence, .. } => {
            let name = format!("{}.{}", super::quoted(&sequence.schema), super::quoted(&sequence.name));
            return Some(Some((AddedValue::Next(name), false)));
        }
        ColumnDefault::Expression(sql) => sql,
    };
    let found = calls::find(sql, 0..sql.len());
    let is_uuid = matches!(found.as_slice(), [call] if call.kind == CallKind::Uuid && call.place == (0..sql.len()));
    let nature = nature_of(context, sql);
    if is_key {
        if is_uuid {
            return Some(Some((AddedValue::Uuid, false)));
        }
        let fixed = nature.is_some_and(|nature| !nature.volatile && !nature.bound && nature.clocks == 0);
        return (fixed && found.is_empty()).then(|| Some((AddedValue::Once(sql.clone()), false)));
    }
    let mut pieces = vec![String::new()];
    let mut sequences = Vec::new();
    let mut at = 0;
    for call in found {
        match call.kind {
            CallKind::Next(name) => sequences.push(name),
            CallKind::Uuid => continue,
            _ => return None,
        }
        pieces.last_mut()?.push_str(&sql[at..call.place.start]);
        pieces.push(String::new());
        at = call.place.end;
    }
    pieces.last_mut()?.push_str(&sql[at..]);
    let clocks = nature.as_ref().map_or(0, |nature| nature.clocks);
    if clocks > 0 && spans::clocks(sql, &(0..sql.len())) != clocks {
        return None;
    }
    let matters = !sequences.is_empty() || clocks > 0;
    Some(matters.then_some((AddedValue::Around { pieces, sequences }, clocks > 0)))
}

/// What stands around the query runs on each shard that gets rows.
fn check_around(
    context: Context<'_>,
    insert: &Insert,
    parsed: &Parsed,
    span: &std::ops::Range<usize>,
) -> Result<(), Refusal> {
    for call in calls::find(context.text, parsed.span.clone()) {
        let in_query = span.start <= call.place.start && call.place.end <= span.end;
        let is_own = matches!(call.kind, CallKind::Uuid) || in_query && matches!(call.kind, CallKind::Next(_));
        if !is_own {
            return Err(reasons::differs(&context.text[call.place.clone()]));
        }
    }
    let conflict = insert.conflict.iter();
    let exprs = conflict.flat_map(|conflict| conflict.exprs.iter().chain(conflict.set.iter().map(|set| &set.value)));
    let exprs = exprs.chain(insert.returning.iter().map(|target| &target.expr));
    let is_unclear = |part: &Expr| matches!(part, Expr::Sublink(_) | Expr::Opaque);
    if exprs.flat_map(parts).any(is_unclear) {
        return Err(reasons::spread("INSERT ... SELECT with further subqueries"));
    }
    Ok(())
}
