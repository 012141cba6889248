//! Tables and materialized views that a query fills.
//!
//! If each row follows from rows of one shard, and lies where the new table's rows are looked for, every shard fills its own from its own rows.
//! Else a table is made without rows, which are then inserted; a view cannot be.

use super::decide::Context;
use super::reasons;
use super::scope::{Found, Names};
use super::view::placed;
use super::{Broadcast, InsertedTable};
use crate::catalog::{Relation, TableKind, TableRule};
use crate::map::ShardId;
use crate::refusal::Refusal;
use crate::sql::lex::{Lexer, TokenKind};
use crate::sql::spans;
use crate::sql::tree::TableRef;

/// What is filled.
pub(super) struct Filled<'a> {
    pub table: &'a TableRef,
    pub view: bool,
    /// WITH NO DATA
    pub empty: bool,
    /// New names for the first columns.
    pub columns: &'a [Box<str>],
}

/// CREATE TABLE AS and CREATE MATERIALIZED VIEW.
pub(super) fn check(context: Context<'_>, names: &Names<'_>, filled: &Filled<'_>) -> Result<Broadcast, Refusal> {
    let table = filled.table;
    if filled.empty && !filled.view {
        return Ok(Broadcast::Checked);
    }
    let schema = names.creation_schema(table);
    let has_rule = names.has_rule(Some(schema), &table.name);
    if filled.view && has_rule {
        // The operator has said where its rows are.
        let rules = &names.catalog.rules.tables;
        let rule = rules.get(&format!("{schema}.{}", table.name)).or_else(|| rules.get(&*table.name));
        let spread = matches!(rule, Some(TableRule::Key(_))) && !filled.empty;
        return Ok(if spread { Broadcast::Filled } else { Broadcast::Together });
    }
    if Lexer::new(context.text).any(|token| token.kind == TokenKind::Param) {
        return Err(reasons::table_with_parameters());
    }
    let whole = 0..context.text.len();
    let query = spans::filling_query(context.text, &whole).map(|query| &context.text[query]);
    let found = query.and_then(|query| placed(context.catalog, context.search_path, query));
    let as_placed = match &found {
        Some((TableKind::Sharded { column, .. }, outputs)) => {
            let name = filled.columns.get(*column).or_else(|| outputs.get(*column)?.as_ref());
            // A view is found by its definition.
            filled.view || name.is_some_and(|name| is_key(names, schema, &table.name, name))
        }
        Some((TableKind::Reference, _)) => filled.view,
        Some((TableKind::Local(home), _)) => filled.view && *home == ShardId(0),
        None => false,
    };
    match (as_placed, filled.view, filled.empty) {
        (true, ..) if filled.empty => Ok(Broadcast::Together),
        (true, ..) => {
            let spread = matches!(found, Some((TableKind::Sharded { .. }, _)));
            Ok(if spread { Broadcast::Filled } else { Broadcast::Together })
        }
        (false, true, _) => Err(reasons::materialized(&table.name)),
        (false, false, _) => {
            let is_there = names.catalog.tables.get(schema).is_some_and(|tables| tables.contains_key(&*table.name));
            let inserted = created(context.text, is_there).ok_or_else(|| reasons::create_table_as(&table.name))?;
            Ok(Broadcast::Inserted(Box::new(inserted)))
        }
    }
}

/// CREATE TABLE AS; `is_there` says whether there is such a table.
fn created(text: &str, is_there: bool) -> Option<InsertedTable> {
    let spans = spans::created_table(text)?;
    let query = &text[spans.query.clone()];
    let insert = format!("INSERT INTO {} {query}", &text[spans.name.clone()]);
    let (before, condition) = match (spans.condition, is_there) {
        (Some(_), true) => (text[..spans.query.end].to_owned(), Some(())),
        // Another's table that has come since is not to be filled.
        (Some(condition), false) => {
            (format!("{}{}", &text[..condition.start], &text[condition.end..spans.query.end]), None)
        }
        (None, _) => (text[..spans.query.end].to_owned(), None),
    };
    Some(InsertedTable {
        create: format!("{before} WITH NO DATA").into(),
        insert: condition.is_none().then(|| insert.into()),
        added: 0,
        left_out: (0, 0),
    })
}

/// SELECT INTO a table that is not temporary.
pub(super) fn selected_into(text: &str) -> Option<InsertedTable> {
    let into = spans::into_clause(text)?;
    let text = &text[..into.end];
    let name = &text[into.name.clone()];
    let create = format!("CREATE {}TABLE {name} AS ", if into.unlogged { "UNLOGGED " } else { "" });
    let query = format!("{}{}", &text[..into.clause.start], &text[into.clause.end..]);
    let characters = |text: &str| u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
    Some(InsertedTable {
        added: characters(&create),
        left_out: (characters(&text[..into.clause.start]), characters(&text[into.clause])),
        create: format!("{create}{query} WITH NO DATA").into(),
        insert: Some(format!("INSERT INTO {name} {query}").into()),
    })
}

/// Whether the rows of a table to be created will be placed by the column of this name.
fn is_key(names: &Names<'_>, schema: &str, table: &str, column: &str) -> bool {
    let rules = &names.catalog.rules;
    match rules.tables.get(&format!("{schema}.{table}")).or_else(|| rules.tables.get(table)) {
        Some(TableRule::Key(key)) => key == column,
        Some(TableRule::Reference | TableRule::Local(_)) => false,
        None => rules.sharding_key.as_deref() == Some(column),
    }
}

/// REFRESH MATERIALIZED VIEW.
pub(super) fn check_refresh(names: &Names<'_>, view: &TableRef, concurrently: bool) -> Result<Broadcast, Refusal> {
    match names.find(view) {
        Found::Table { table, name, schema }
            if table.relation == Relation::View && !names.has_rule(Some(schema), name) =>
        {
            Err(reasons::materialized(name))
        }
        // It uses a temporary table, and what does cannot be committed on several shards at once.
        _ if concurrently => Ok(Broadcast::Loosely),
        Found::Table { .. } | Found::System | Found::Unknown => Ok(Broadcast::Together),
    }
}
