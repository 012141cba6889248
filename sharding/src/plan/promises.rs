//! What must hold of tables over several shards, looked at after DDL has run and before it is committed.
//!
//! The text of a statement does not say all that it does: `LIKE other INCLUDING ALL`, ATTACH PARTITION, a column that makes a table
//! sharded, a DO block. What it has done is in the catalog.

use std::collections::HashSet;

use super::bind::Binder;
use super::code_of_trigger::{TriggerCode, reason_against};
use super::hazards;
use super::reasons;
use super::scope::Names;
use crate::catalog::{Catalog, Relation, Table, TableKind};
use crate::key::KeyType;
use crate::refusal::Refusal;
use crate::sql::Limits;
use crate::sql::parse::{Parsed, parse};
use crate::sql::tree::{Dml, Stmt};

/// A table by schema and name.
pub type TableName = (String, String);

/// A unique index, or one of an exclusion constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unique {
    pub table: TableName,
    /// "the primary key", "a unique index" ...
    pub what: &'static str,
    /// Columns in which rows that exclude each other are equal.
    pub columns: Vec<String>,
    pub new: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    pub table: TableName,
    pub columns: Vec<String>,
    pub other: TableName,
    /// In the order of `columns`.
    pub referenced: Vec<String>,
    /// ON UPDATE changes the referencing row.
    pub follows: bool,
    pub new: bool,
}

/// The default of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Default {
    pub table: TableName,
    pub column: String,
    /// As PostgreSQL prints it; `None` is an identity.
    pub expression: Option<String>,
}

/// A trigger that the statement has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    pub table: TableName,
    pub code: TriggerCode,
}

/// What a server tells of its tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promises {
    pub uniques: Vec<Unique>,
    pub foreign_keys: Vec<ForeignKey>,
    pub defaults: Vec<Default>,
    pub triggers: Vec<Trigger>,
    /// Policies that the statement has made.
    pub policies: Vec<(TableName, String)>,
}

/// Tables that may have no rows on any shard, each with what is said if they have.
pub type MustBeEmpty = Vec<(TableName, Refusal)>;

/// Looks at what a statement has made of `before`.
///
/// # Errors
/// A promise that cannot be kept.
pub fn check(before: &Catalog, after: &Catalog, found: &Promises) -> Result<MustBeEmpty, Refusal> {
    let mut must_be_empty = Vec::new();
    let mut moved: HashSet<TableName> = HashSet::new();
    for (schema, tables) in &after.tables {
        for (name, table) in tables {
            let old = table_of(before, schema, name);
            let is_moved = old.is_none_or(|old| key_of(old) != key_of(table) || !is_alike(old.kind, table.kind));
            if !is_moved || table.relation != Relation::Table {
                continue;
            }
            let name = (schema.clone(), name.clone());
            if old.is_some() {
                must_be_empty.push((name.clone(), reasons::kind_changes(&name.1)));
            }
            moved.insert(name);
        }
    }
    for unique in found.uniques.iter().filter(|unique| unique.new || moved.contains(&unique.table)) {
        if let Some(key) = table_of(after, &unique.table.0, &unique.table.1).and_then(key_of)
            && !unique.columns.iter().any(|column| column == key)
        {
            return Err(reasons::unique_without_key(unique.what, &unique.table.1, key));
        }
    }
    let concerned = |key: &&ForeignKey| key.new || moved.contains(&key.table) || moved.contains(&key.other);
    found.foreign_keys.iter().filter(concerned).try_for_each(|key| check_foreign(after, key))?;
    found.triggers.iter().try_for_each(|trigger| check_trigger(after, trigger))?;
    found.policies.iter().try_for_each(|(table, policy)| hazards::check_policy(after, table, policy))?;
    for default in &found.defaults {
        must_be_empty.extend(check_default(before, after, default).map(|refusal| (default.table.clone(), refusal)));
    }
    Ok(must_be_empty)
}

/// The refusal of DDL after which the rows of a table could not be placed.
pub fn unplaced(problem: &str) -> Refusal {
    reasons::scattered(problem)
}

fn table_of<'c>(catalog: &'c Catalog, schema: &str, name: &str) -> Option<&'c Table> {
    catalog.tables.get(schema)?.get(name)
}

fn key_of(table: &Table) -> Option<&str> {
    match table.kind {
        TableKind::Sharded { column, .. } => table.columns.get(column).map(|column| column.name.as_str()),
        TableKind::Reference | TableKind::Local(_) => None,
    }
}

/// Whether rows of both kinds are at the same places, but for the column that says so.
fn is_alike(one: TableKind, other: TableKind) -> bool {
    match (one, other) {
        (TableKind::Sharded { key_type: one, .. }, TableKind::Sharded { key_type: other, .. }) => are_alike(one, other),
        _ => one == other,
    }
}

/// Whether equal values of both types have the same place: PostgreSQL hashes integers of all widths alike.
fn are_alike(one: KeyType, other: KeyType) -> bool {
    let is_integer = |key: KeyType| matches!(key, KeyType::Int2 | KeyType::Int4 | KeyType::Int8);
    one == other || is_integer(one) && is_integer(other)
}

fn check_foreign(catalog: &Catalog, key: &ForeignKey) -> Result<(), Refusal> {
    let tables = (table_of(catalog, &key.table.0, &key.table.1), table_of(catalog, &key.other.0, &key.other.1));
    let (Some(table), Some(other)) = tables else { return Ok(()) };
    let position = |columns: &[String], key: &str| columns.iter().position(|column| column == key);
    let holds = match (table.kind, other.kind) {
        (TableKind::Sharded { .. }, TableKind::Reference) => {
            if let Some(own) = key_of(table).filter(|own| key.follows && position(&key.columns, own).is_some()) {
                return Err(reasons::key_follows(&key.table.1, own));
            }
            true
        }
        (_, TableKind::Reference) => true,
        (TableKind::Local(home), TableKind::Local(other)) => home == other,
        (TableKind::Sharded { key_type: own_type, .. }, TableKind::Sharded { key_type, .. }) => {
            let own = key_of(table).and_then(|own| position(&key.columns, own));
            let theirs = key_of(other).and_then(|theirs| position(&key.referenced, theirs));
            own.is_some() && own == theirs && are_alike(own_type, key_type)
        }
        _ => false,
    };
    if holds { Ok(()) } else { Err(reasons::foreign_key(&key.table.1, &key.other.1)) }
}

/// A column that is new in a table which was there before: its default fills the rows that the table has.
fn check_default(before: &Catalog, after: &Catalog, default: &Default) -> Option<Refusal> {
    let (schema, name) = &default.table;
    let (old, table) = (table_of(before, schema, name)?, table_of(after, schema, name)?);
    let is_new = !old.columns.iter().any(|column| column.name == default.column);
    if !is_new || matches!(table.kind, TableKind::Local(_)) {
        return None;
    }
    let value = default.expression.as_deref().map_or(Value::Counted, |expression| value_of(after, expression));
    match (value, table.kind) {
        (Value::Counted, _) => Some(reasons::counted_default(name, &default.column)),
        (Value::Same, _) | (Value::Random, TableKind::Sharded { .. }) => None,
        _ => Some(reasons::shared_default(name, &default.column)),
    }
}

/// What an expression without columns gives when it is evaluated on every shard.
#[derive(Clone, Copy, PartialEq)]
enum Value {
    Same,
    /// Another value for each row, on one PostgreSQL too.
    Random,
    /// The moment, or what the router does not know: one value for all rows on one PostgreSQL.
    Shared,
    /// The next number.
    Counted,
}

fn value_of(catalog: &Catalog, expression: &str) -> Value {
    let text = format!("SELECT {expression}");
    let Ok(parsed) = parse(&text, &[], &Limits::default()) else { return Value::Shared };
    let [Parsed { stmt: Stmt::Dml(Dml::Query(query)), .. }] = parsed.as_slice() else { return Value::Shared };
    let mut binder = Binder::new(Names::new(catalog, None));
    binder.query(query);
    binder.finish();
    let facts = &binder.facts;
    let tells_time = facts.clock.is_some() || facts.clocks > 0 || facts.time_word;
    match &facts.volatile {
        _ if facts.home.is_some() => Value::Counted,
        _ if facts.reader.is_some() || facts.opaque || tells_time => Value::Shared,
        Some(_) => Value::Random,
        None => Value::Same,
    }
}

/// A trigger runs where the row is: what it does elsewhere stays there.
fn check_trigger(catalog: &Catalog, trigger: &Trigger) -> Result<(), Refusal> {
    let (schema, name) = &trigger.table;
    let Some(table) = table_of(catalog, schema, name) else { return Ok(()) };
    if matches!(table.kind, TableKind::Local(_)) && table.relation == Relation::Table {
        return Ok(());
    }
    match reason_against(catalog, table, &trigger.code) {
        Some(reason) => Err(reasons::trigger(name, &trigger.code.function, &reason)),
        None => Ok(()),
    }
}
