//! What differs between the shards of one database and should not.

use std::collections::{BTreeMap, BTreeSet};

use pgsluice_sharding::catalog::{Catalog, Relation, Table, TableKind};
use pgsluice_sharding::map::ShardId;

/// At most this many differences are told; a shard without a schema would otherwise fill the log.
const DIFFERENCES_MAX: usize = 200;

/// What one shard holds.
#[derive(Clone, Copy, Debug)]
pub struct ShardCatalog<'a> {
    pub id: ShardId,
    pub name: &'a str,
    pub catalog: &'a Catalog,
}

/// The differences of every shard against the first given, one sentence each, in a stable order.
///
/// A local table is wanted on its own shard only.
pub fn compare(shards: &[ShardCatalog<'_>]) -> Vec<String> {
    let Some((first, others)) = shards.split_first() else { return Vec::new() };
    let mut found = Vec::new();
    let reference = flat(first.catalog);
    for other in others {
        let pair = Pair { first: first.name, shard: other.name };
        if first.catalog.default_collation != other.catalog.default_collation {
            found.push(format!(
                "the default collation of shard {} differs from that of shard {}",
                pair.shard, pair.first
            ));
        }
        let tables = flat(other.catalog);
        let names: BTreeSet<_> = reference.keys().chain(tables.keys()).collect();
        for name in names {
            let named = format!("{}.{}", name.0, name.1);
            match (reference.get(name), tables.get(name)) {
                (Some(table), None) if wanted_on(table, other.id) => {
                    found.push(format!("table {named} is missing on shard {}", pair.shard));
                }
                (None, Some(table)) if wanted_on(table, first.id) => {
                    found.push(format!("table {named} is on shard {} but missing on shard {}", pair.shard, pair.first));
                }
                (Some(a), Some(b)) if !matches!(a.kind, TableKind::Local(_)) => columns(&named, pair, a, b, &mut found),
                _ => {}
            }
        }
    }
    if found.len() > DIFFERENCES_MAX {
        let more = found.len() - DIFFERENCES_MAX;
        found.truncate(DIFFERENCES_MAX);
        found.push(format!("and {more} more differences"));
    }
    found
}

fn flat(catalog: &Catalog) -> BTreeMap<(&str, &str), &Table> {
    let schemas = catalog.tables.iter();
    schemas.flat_map(|(schema, tables)| tables.iter().map(|(name, t)| ((schema.as_str(), name.as_str()), t))).collect()
}

/// Whether a shard must have this relation. Views of one shard (an extension's, say) hurt nobody.
fn wanted_on(table: &Table, shard: ShardId) -> bool {
    match table.kind {
        TableKind::Local(home) => home == shard && table.relation == Relation::Table,
        TableKind::Sharded { .. } | TableKind::Reference => table.relation == Relation::Table,
    }
}

/// The names of the two shards that are compared.
#[derive(Clone, Copy)]
struct Pair<'a> {
    first: &'a str,
    shard: &'a str,
}

fn columns(table: &str, pair: Pair<'_>, a: &Table, b: &Table, found: &mut Vec<String>) {
    let shard = pair.shard;
    let before = found.len();
    for column in &a.columns {
        match b.columns.iter().find(|other| other.name == column.name) {
            None => found.push(format!("column {table}.{} is missing on shard {shard}", column.name)),
            Some(other) if other.type_oid < FIRST_USER_OID || column.type_oid < FIRST_USER_OID => {
                if (other.type_oid, other.typmod) != (column.type_oid, column.typmod) {
                    found.push(format!("column {table}.{} has another type on shard {shard}", column.name));
                } else if other.collation != column.collation {
                    found.push(format!("column {table}.{} has another collation on shard {shard}", column.name));
                }
            }
            Some(_) => {}
        }
    }
    for column in &b.columns {
        if !a.columns.iter().any(|other| other.name == column.name) {
            found.push(format!(
                "column {table}.{} is on shard {shard} but missing on shard {}",
                column.name, pair.first
            ));
        }
    }
    let order = |table: &Table| table.columns.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
    if found.len() == before && order(a) != order(b) {
        found.push(format!("the columns of {table} have another order on shard {shard}"));
    }
}

/// Types made by users have other oids on every server; PostgreSQL's own are the same everywhere.
const FIRST_USER_OID: u32 = 16384;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use pgsluice_sharding::catalog::{Collation, Column, ColumnDefault, Crossing, Origin, Reading};
    use pgsluice_sharding::key::KeyType;

    use super::*;

    fn table(kind: TableKind, columns: &[(&str, u32)]) -> Table {
        let column = |(name, type_oid): &(&str, u32)| Column {
            name: (*name).to_owned(),
            type_oid: *type_oid,
            typmod: -1,
            not_null: true,
            primary: false,
            origin: Origin::Given,
            reading: Reading::Fixed,
            collation: Collation::Bytes,
            crossing: Crossing::default(),
            default: ColumnDefault::None,
        };
        Table { kind, relation: Relation::Table, columns: columns.iter().map(column).collect() }
    }

    fn catalog(tables: Vec<(&str, Table)>) -> Catalog {
        let tables: HashMap<_, _> = tables.into_iter().map(|(name, table)| (name.to_owned(), table)).collect();
        Catalog { tables: [("public".to_owned(), tables)].into(), ..Catalog::default() }
    }

    #[test]
    fn differences_are_told_in_order() {
        let sharded = TableKind::Sharded { column: 0, key_type: KeyType::Int8 };
        let first = catalog(vec![
            ("orders", table(sharded, &[("user_id", 20), ("total", 23), ("mood", 20001)])),
            ("plans", table(TableKind::Reference, &[("id", 20)])),
            ("audit", table(TableKind::Local(ShardId(0)), &[("id", 20)])),
            ("items", table(sharded, &[("user_id", 20), ("b", 23)])),
        ]);
        let second = catalog(vec![
            ("orders", table(sharded, &[("user_id", 20), ("total", 20), ("mood", 30001), ("extra", 23)])),
            ("carts", table(sharded, &[("user_id", 20)])),
            ("items", table(sharded, &[("b", 23), ("user_id", 20)])),
        ]);
        let expected = [
            "table public.carts is on shard b but missing on shard a",
            "the columns of public.items have another order on shard b",
            "column public.orders.total has another type on shard b",
            "column public.orders.extra is on shard b but missing on shard a",
            "table public.plans is missing on shard b",
        ];
        let a = ShardCatalog { id: ShardId(0), name: "a", catalog: &first };
        let b = ShardCatalog { id: ShardId(1), name: "b", catalog: &second };
        assert_eq!(compare(&[a, b]), expected);
        assert_eq!(compare(&[a, a]), Vec::<String>::new());
        assert_eq!(compare(&[]), Vec::<String>::new());
    }
}
