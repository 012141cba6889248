//! Writes on several shards: what each of them runs, so that together they change what one PostgreSQL would.
//!
//! A shard changes its own rows only. What a statement reads of rows that lie elsewhere comes to it as the inputs of a final query
//! do.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::added::AddedColumns;
use super::bind::{Binder, Occurrence};
use super::bind_dml::UsedKey;
use super::bind_query::Seen;
use super::decide::{Context, rows_of};
use super::scope::{Columns, Names};
use super::{
    Copies, EachShard, InsertRows, KeyColumn, Node, Plan, Returns, RowArrays, RowColumns, RowNumbers, SelectedRows,
    Shards, TargetColumn, Turns, Write, build, final_query, mirror, reasons,
};
use crate::catalog::{Column, Event, Table, TableKind};
use crate::refusal::Refusal;
use crate::sql::parse::{self, Parsed};
use crate::sql::tree::{Body, Dml, Insert, Merge, Query, Stmt};
use crate::sql::{Limits, rows, spans};

/// A write whose keys are named and may be on several shards.
pub(super) fn known(
    context: Context<'_>,
    binder: &mut Binder<'_>,
    dml: &Dml,
    shards: Shards,
    parsed: &Parsed,
) -> Result<Write, Refusal> {
    match dml {
        Dml::Insert(insert) if brings_rows(insert) => given_rows(context, binder, insert, shards, parsed),
        _ => each(context, binder, dml, shards, parsed),
    }
}

/// A write for which no keys are named.
pub(super) fn spread(
    context: Context<'_>,
    binder: &mut Binder<'_>,
    dml: &Dml,
    parsed: &Parsed,
) -> Result<Write, Refusal> {
    each(context, binder, dml, Shards::All, parsed)
}

/// A write of a table of which every shard has a copy: all of them do the same.
pub(super) fn copies(
    context: Context<'_>,
    binder: &mut Binder<'_>,
    dml: &Dml,
    parsed: &Parsed,
) -> Result<Write, Refusal> {
    if let Some(problem) = &binder.problem {
        return Err(problem.clone());
    }
    if let Some(reader) = &binder.facts.reader {
        return Err(reasons::reader(reader));
    }
    let table = binder.reference_writes.first().cloned().unwrap_or_default();
    if binder.targets > 1 {
        return Err(reasons::several_targets());
    }
    let mirror = match mirror::varying(context, binder, dml) {
        Some(varies) => Some(Arc::new(mirror::mirror(context, binder, dml, parsed, &varies)?)),
        None => None,
    };
    check_clocks(context, binder, parsed)?;
    let query = final_query::beside(context, binder, dml, (&[], None), Shards::All, parsed)?;
    let turn = turn_of_writers(&binder.reference_writes, &binder.reference_reads);
    let copies = Some(Copies { table: table.into(), turn: turn.into(), mirror });
    Ok(Write::Each(EachShard { query: Arc::new(query), target: Shards::All, copies }))
}

/// What a shard runs before copies are written there: who writes the same, or what it is computed from, waits for the others to end. Else
/// rows that come between two shards would be seen on the second of them only. The locks are no table's, for which a role may lack the
/// right; what is prepared keeps them.
pub fn turn_of_writers(written: &[String], read: &[String]) -> String {
    let key = |name: &String| xxh3_64(format!("sluice copies of {name}").as_bytes()).cast_signed();
    let mut keys: BTreeMap<i64, &str> = read.iter().map(|name| (key(name), "_shared")).collect();
    keys.extend(written.iter().map(|name| (key(name), "")));
    let locks: Vec<String> =
        keys.iter().map(|(key, mode)| format!("pg_catalog.pg_advisory_xact_lock{mode}({key})")).collect();
    format!("SELECT {}", locks.join(", "))
}

/// INSERT ... VALUES without anything around it.
fn brings_rows(insert: &Insert) -> bool {
    insert.with.is_none()
        && insert.source.as_ref().is_some_and(|source| {
            let plain = source.with.is_none() && source.order.is_empty() && source.locking.is_empty();
            plain && source.limit.is_none() && source.offset.is_none() && matches!(source.body, Body::Values(_))
        })
}

fn given_rows(
    context: Context<'_>,
    binder: &Binder<'_>,
    insert: &Insert,
    keys: Shards,
    parsed: &Parsed,
) -> Result<Write, Refusal> {
    check_each(context, binder, parsed)?;
    if binder.occurrences.len() > 1 || !binder.locals.is_empty() {
        return Err(reasons::spread("INSERT ... VALUES with subqueries"));
    }
    let returns = returned(binder, insert);
    Ok(Write::Rows(InsertRows {
        keys,
        timed: binder.facts.clocks > 0,
        params: parsed.params,
        returns,
        turns: if insert.conflict.is_some() { Turns::InOrder } else { Turns::Together },
        arrays: arrays(binder, insert, returns),
    }))
}

/// Which rows of an INSERT ... VALUES come back.
fn returned(binder: &Binder<'_>, insert: &Insert) -> Returns {
    let conflict = insert.conflict.as_ref();
    let passes_over = conflict.is_some_and(|conflict| conflict.set.is_empty() || conflict.filtered);
    let is_passed = |event: Event| {
        let mut targets = binder.tables.iter().filter(|table| table.target);
        targets.any(|table| binder.names.catalog.passes_over(table.schema, table.name, event))
    };
    let is_passed = is_passed(Event::Insert) || conflict.is_some() && is_passed(Event::Update);
    match row_numbers(binder, insert) {
        _ if insert.returning.is_empty() => Returns::Nothing,
        Some(numbers) if passes_over || is_passed => Returns::Numbered(numbers),
        _ => Returns::EveryRow,
    }
}

/// How the rows of an INSERT ... VALUES leave their numbers.
fn row_numbers(binder: &Binder<'_>, insert: &Insert) -> Option<RowNumbers> {
    let Columns::Table(table) = binder.rels[binder.occurrences.first()?.rel].columns else { return None };
    let TableKind::Sharded { column, key_type } = table.kind else { return None };
    let key = match insert.columns.is_empty() {
        true => column,
        false => insert.columns.iter().position(|name| **name == *table.columns[column].name)?,
    };
    Some(RowNumbers { key, key_type })
}

/// How the rows of an INSERT ... VALUES can go to their shards as arrays.
fn arrays(binder: &Binder<'_>, insert: &Insert, returns: Returns) -> Option<RowArrays> {
    let Columns::Table(table) = binder.rels[binder.occurrences.first()?.rel].columns else { return None };
    let Body::Values(rows) = &insert.source.as_ref()?.body else { return None };
    let width = rows.first()?.len();
    if insert.into_parts || rows.len() < RowArrays::ROWS_MIN {
        return None;
    }
    let columns = filled_columns(table, insert, &Some(width));
    if columns.len() == width { RowArrays::of(&columns, returns) } else { None }
}

/// Every shard runs the statement for its own rows.
fn each(
    context: Context<'_>,
    binder: &mut Binder<'_>,
    dml: &Dml,
    shards: Shards,
    parsed: &Parsed,
) -> Result<Write, Refusal> {
    if binder.targets > 1 {
        return Err(reasons::several_targets());
    }
    if let (Dml::Insert(insert), true) = (dml, binder.occurrences.iter().any(|occurrence| occurrence.target)) {
        return selected(context, binder, dml, insert, shards, parsed);
    }
    let used = binder.used.take();
    if let (Dml::Merge(merge), Some(used)) = (dml, used.as_ref().filter(|used| !used.is_tied)) {
        return merged_by_the_router(context, binder, merge, used, parsed);
    }
    check_each(context, binder, parsed)?;
    if let Some(local) = binder.locals.iter().find(|local| local.target) {
        let home = local.home;
        let query = final_query::beside(context, binder, dml, (&[], Some(home)), shards, parsed)?;
        return Ok(Write::Each(EachShard { query: Arc::new(query), target: Shards::One(home), copies: None }));
    }
    let target = binder.occurrences.iter().position(|occurrence| occurrence.target);
    let target = target.ok_or_else(|| reasons::spread("this write"))?;
    let occurrence = &binder.occurrences[target];
    let own = binder.keys_of(occurrence).unwrap_or(Shards::All);
    let reached = binder.terms.reached_from(occurrence.key);
    let is_own = |occurrence: &Occurrence| used.is_some() || reached[occurrence.key.0 as usize];
    let tied: Vec<usize> = (0..binder.occurrences.len()).filter(|at| is_own(&binder.occurrences[*at])).collect();
    let query = final_query::beside(context, binder, dml, (&tied, None), shards, parsed)?;
    Ok(Write::Each(EachShard { query: Arc::new(query), target: own, copies: None }))
}

/// INSERT ... SELECT: each shard stores what it selects, or every row goes to its shard by way of the router.
fn selected(
    context: Context<'_>,
    binder: &mut Binder<'_>,
    dml: &Dml,
    insert: &Insert,
    shards: Shards,
    parsed: &Parsed,
) -> Result<Write, Refusal> {
    let Some(source) = &insert.source else { return Err(reasons::spread("INSERT ... DEFAULT VALUES")) };
    let seen = binder.selected.take().unwrap_or_default();
    let checked = check_each(context, binder, parsed).is_ok() && insert.with.is_none();
    if checked && is_whole_on_each(context, binder, source, &seen, parsed) {
        let all: Vec<usize> = (0..binder.occurrences.len()).collect();
        let query = final_query::beside(context, binder, dml, (&all, None), shards.clone(), parsed)?;
        return Ok(Write::Each(EachShard { query: Arc::new(query), target: shards, copies: None }));
    }
    let unclear = || reasons::spread("this form of INSERT ... SELECT");
    let target = binder.occurrences.iter().find(|occurrence| occurrence.target).ok_or_else(unclear)?;
    let Columns::Table(table) = binder.rels[target.rel].columns else { return Err(unclear()) };
    let span = rows::query_of_insert(context.text, parsed.span.start, parsed.span.end).ok_or_else(unclear)?;
    check_behind(binder, span.end)?;
    by_the_router(context, table, insert, shards, parsed, None)
}

/// The rows of the query come to the router, which sends each to its shard, with what it adds to them.
pub(super) fn by_the_router(
    context: Context<'_>,
    table: &Table,
    insert: &Insert,
    shards: Shards,
    parsed: &Parsed,
    added: Option<AddedColumns>,
) -> Result<Write, Refusal> {
    let unclear = || reasons::spread("this form of INSERT ... SELECT");
    let TableKind::Sharded { column: key_column, key_type } = table.kind else { return Err(unclear()) };
    let span = rows::query_of_insert(context.text, parsed.span.start, parsed.span.end).ok_or_else(unclear)?;
    let (with, head) = head_of(context, insert, parsed, &span).ok_or_else(unclear)?;
    if !with.is_empty() && insert.source.as_ref().is_some_and(|source| source.with.is_some()) {
        return Err(unclear());
    }
    if spans::clocks(context.text, &(span.end..parsed.span.end)) > 0 {
        return Err(reasons::differs("CURRENT_TIMESTAMP"));
    }
    let text = format!("{with}{}", &context.text[span.clone()]);
    let source = source_plan(context, &text, parsed.params)?;
    let filled = filled_columns(table, insert, &source.1);
    let columns: Vec<TargetColumn> = filled.iter().map(|column| TargetColumn::of(column)).collect();
    let key_name = &table.columns[key_column].name;
    let key = columns.iter().position(|column| column.name == *key_name);
    let is_added = added.as_ref().is_some_and(AddedColumns::has_key);
    let key = match key {
        None if is_added => columns.len(),
        key => key.ok_or_else(|| reasons::insert_without_key(&insert.table.name, key_name))?,
    };
    let around = [head.to_owned(), context.text[span.end..parsed.span.end].to_owned()];
    let at_once = insert.conflict.as_ref().is_some_and(|conflict| !conflict.set.is_empty());
    let stored_in = table.columns[key_column].characters_max();
    let (source, params) = (source.0, parsed.params);
    let columns = RowColumns::Filled { columns, key };
    let key_column = KeyColumn { table: insert.table.name.clone().into(), column: key_name.as_str().into() };
    Ok(Write::Selected(SelectedRows {
        shards,
        text,
        source,
        around,
        columns,
        added,
        key_type,
        key_column,
        stored_in,
        at_once,
        params,
    }))
}

/// What stands behind the query of an INSERT, from `end` on, runs on each shard for the rows it gets: it must not look at others.
fn check_behind(binder: &Binder<'_>, end: usize) -> Result<(), Refusal> {
    let sharded = binder.occurrences.iter().map(|occurrence| Some(occurrence.written.at));
    let local = binder.locals.iter().map(|local| binder.rels[local.rel].written.map(|written| written.at));
    if sharded.chain(local).any(|at| at.is_none_or(|at| at >= end)) {
        return Err(reasons::spread("INSERT ... SELECT whose ON CONFLICT or RETURNING reads other rows"));
    }
    Ok(())
}

/// What stands before the query of an INSERT: a WITH, which is the query's too, and the rest.
pub(super) fn head_of<'t>(
    context: Context<'t>,
    insert: &Insert,
    parsed: &Parsed,
    query: &Range<usize>,
) -> Option<(&'t str, &'t str)> {
    let before = &context.text[parsed.span.start..query.start];
    match &insert.with {
        None => Some(("", before)),
        Some(_) => Some(before.split_at(spans::insert_word(context.text, &parsed.span, query.start)?)),
    }
}

/// How many columns the query of an INSERT gives, if that is known.
pub(super) fn width_of(context: Context<'_>, insert: &Insert) -> Option<usize> {
    let source = insert.source.as_ref().filter(|_| insert.with.is_none())?;
    let mut binder = Binder::new(Names::new(context.catalog, context.search_path));
    binder.query(source).outputs.map(|outputs| outputs.len())
}

/// MERGE: the rows of its source that have a key come to the shard of that key, by way of the router.
fn merged_by_the_router(
    context: Context<'_>,
    binder: &Binder<'_>,
    merge: &Merge,
    used: &UsedKey,
    parsed: &Parsed,
) -> Result<Write, Refusal> {
    let unclear = || reasons::spread("this form of MERGE");
    if merge.with.is_some() {
        return Err(unclear());
    }
    let spans = rows::source_of_merge(context.text, parsed.span.start, parsed.span.end).ok_or_else(unclear)?;
    let text = format!("SELECT * FROM {}", &context.text[spans.clone()]);
    let (source, _) = source_plan(context, &text, parsed.params)?;
    let target = binder.occurrences.iter().find(|occurrence| occurrence.target).ok_or_else(unclear)?;
    let Columns::Table(table) = binder.rels[target.rel].columns else { return Err(unclear()) };
    let TableKind::Sharded { column, key_type } = table.kind else { return Err(unclear()) };
    let around =
        [context.text[parsed.span.start..spans.start].to_owned(), context.text[spans.end..parsed.span.end].to_owned()];
    // What the conditions and actions read besides would be read on each shard alone.
    if binder.occurrences.len() > 1 + usize::from(used.is_sharded) || !binder.locals.is_empty() {
        return Err(unclear());
    }
    if around.iter().any(|part| spans::clocks(part, &(0..part.len())) > 0) {
        return Err(reasons::differs("CURRENT_TIMESTAMP"));
    }
    Ok(Write::Selected(SelectedRows {
        shards: Shards::All,
        text,
        source,
        around,
        columns: RowColumns::Used { table: final_query::quoted(&used.table), key: used.column.clone() },
        added: None,
        key_type,
        key_column: KeyColumn {
            table: target.table.as_str().into(),
            column: table.columns[column].name.as_str().into(),
        },
        stored_in: table.columns[column].characters_max(),
        at_once: true,
        params: parsed.params,
    }))
}

/// How the query of an INSERT is answered by itself, and how many columns it has, if that is known.
fn source_plan(context: Context<'_>, text: &str, params: u16) -> Result<(Plan, Option<usize>), Refusal> {
    let unclear = || reasons::spread("this form of INSERT ... SELECT");
    let mut parsed = parse::parse(text, &[], &Limits::default()).map_err(|refusal| *refusal)?;
    let (Some(mut parsed), true) = (parsed.pop(), parsed.is_empty()) else { return Err(unclear()) };
    // The client sends all parameters, also those that stand behind the query only.
    parsed.params = params;
    let Stmt::Dml(Dml::Query(query)) = &parsed.stmt else { return Err(unclear()) };
    let mut binder = Binder::new(Names::new(context.catalog, context.search_path));
    let outputs = binder.query(query).outputs.map(|outputs| outputs.len());
    match rows_of(Context { text, ..context }, &parsed) {
        Plan::Refused(refusal) => Err(*refusal),
        // It writes by a CTE.
        Plan::Write(_) => Err(unclear()),
        plan => Ok((plan, outputs)),
    }
}

/// The columns that an INSERT fills, in the order of its query's.
fn filled_columns<'t>(table: &'t Table, insert: &Insert, outputs: &Option<usize>) -> Vec<&'t Column> {
    if insert.columns.is_empty() {
        return table.columns.iter().take(outputs.unwrap_or(usize::MAX)).collect();
    }
    let named = |name: &str| table.columns.iter().find(|column| column.name == name);
    insert.columns.iter().filter_map(|name| named(name)).collect()
}

impl SelectedRows {
    /// The name of the column that tells where a row goes.
    pub fn key_name(&self) -> &str {
        match &self.columns {
            RowColumns::Filled { columns, key } => columns.get(*key).map_or("", |column| &column.name),
            RowColumns::Used { key, .. } => key,
        }
    }
}

impl TargetColumn {
    pub(super) fn of(column: &Column) -> Self {
        let type_name = column.crossing.domain.clone().unwrap_or_else(|| column.crossing.type_name.clone());
        Self { name: column.name.clone(), type_oid: column.type_oid, type_name }
    }
}

/// Whether the rows of a query are those that the shards give, one after another, and each is stored where it comes from.
fn is_whole_on_each(
    context: Context<'_>,
    binder: &mut Binder<'_>,
    query: &Query,
    seen: &Seen,
    parsed: &Parsed,
) -> bool {
    // Of the query alone.
    binder.facts.writes = false;
    let gather = build::gather(context, binder, query, seen, Shards::All, parsed);
    binder.facts.writes = true;
    let Ok(gather) = gather else { return false };
    let mut node = &gather.tree;
    while let Node::Project { input } | Node::Sort { input, .. } | Node::MergeSort { input, .. } = node {
        node = input;
    }
    matches!(node, Node::Append { input } if **input == Node::Route) || *node == Node::Route
}

/// What no statement may have that every shard runs for its own rows.
fn check_each(context: Context<'_>, binder: &Binder<'_>, parsed: &Parsed) -> Result<(), Refusal> {
    check_all(context, binder, parsed)?;
    if let Some(function) = &binder.facts.home {
        return Err(reasons::differs(&format!("{function}()")));
    }
    // In a subquery it would be asked once for all rows, not once on each shard.
    if let Some(function) = binder.facts.volatile.as_ref().filter(|_| binder.blocks.len() > 1) {
        return Err(reasons::differs(&format!("{function}()")));
    }
    Ok(())
}

/// What no statement may have that several shards run.
fn check_all(context: Context<'_>, binder: &Binder<'_>, parsed: &Parsed) -> Result<(), Refusal> {
    let facts = &binder.facts;
    if let Some(clock) = &facts.clock {
        return Err(reasons::differs(clock));
    }
    if facts.time_word {
        return Err(reasons::differs("the string 'now', 'today', 'tomorrow' or 'yesterday'"));
    }
    check_clocks(context, binder, parsed)
}

/// Every place must be found where the time is asked for.
fn check_clocks(context: Context<'_>, binder: &Binder<'_>, parsed: &Parsed) -> Result<(), Refusal> {
    let clocks = binder.facts.clocks;
    if clocks > 0 && spans::clocks(context.text, &parsed.span) != clocks {
        return Err(reasons::differs("CURRENT_TIMESTAMP"));
    }
    Ok(())
}

impl InsertRows {
    /// The text for a shard, from the client's with this shard's rows.
    pub fn part(&self, text: &str) -> String {
        if self.timed { spans::with_clock(text, usize::from(self.params) + 1) } else { text.to_owned() }
    }
}
