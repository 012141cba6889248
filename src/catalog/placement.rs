//! Where the operator's rules place a table.

use pgsluice_sharding::Refusal;
use pgsluice_sharding::catalog::{Collation, Column, DefaultKind, TableKind, TableRule, TableRules};
use pgsluice_sharding::key::KeyType;
use pgsluice_sharding::map::ShardId;

/// The kind of a table: an entry with schema, an entry without, the key column, the default.
pub(super) fn kind_of(rules: &TableRules, schema: &str, table: &str, columns: &[Column]) -> Result<TableKind, Refusal> {
    let entry = rules.tables.get(&format!("{schema}.{table}")).or_else(|| rules.tables.get(table));
    let key = match entry {
        Some(TableRule::Reference) => return Ok(TableKind::Reference),
        Some(TableRule::Local(shard)) => return Ok(TableKind::Local(*shard)),
        Some(TableRule::Key(key)) => Some(key),
        None => rules.sharding_key.as_ref(),
    };
    let found = key.and_then(|key| columns.iter().position(|column| &column.name == key));
    match (found, entry, key) {
        (Some(column), _, _) => Ok(TableKind::Sharded { column, key_type: key_type(&columns[column])? }),
        (None, Some(_), Some(key)) => {
            Err(Refusal::error("42703", format!("column \"{key}\" of relation \"{table}\" does not exist")))
        }
        _ => Ok(match rules.default {
            DefaultKind::Local => TableKind::Local(ShardId(0)),
            DefaultKind::Reference => TableKind::Reference,
        }),
    }
}

fn key_type(column: &Column) -> Result<KeyType, Refusal> {
    match (column.type_oid, column.collation) {
        (21, _) => Ok(KeyType::Int2),
        (23, _) => Ok(KeyType::Int4),
        (20, _) => Ok(KeyType::Int8),
        (2950, _) => Ok(KeyType::Uuid),
        (25 | 1043, Collation::Bytes | Collation::Language) => Ok(KeyType::Text),
        _ => Err(Refusal::unsupported(
            format!("column \"{}\" cannot be a sharding key", column.name),
            "Use smallint, integer, bigint, uuid, or text with a deterministic collation.",
        )),
    }
}

/// A refusal as one sentence about a table.
pub(super) fn describe(schema: &str, table: &str, refusal: &Refusal) -> String {
    let mut text = format!("table {schema}.{table}: {}", refusal.message);
    for more in [&refusal.detail, &refusal.hint].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(more);
    }
    text
}
