//! What PgBouncer does not have: shards, instances, tables and what is wrong with them.

use crate::admin::table::{Table, Type, cell};
use crate::view::View;

pub(super) fn shards(view: &View) -> Table {
    let columns = [
        ("database", Type::Text),
        ("shard", Type::Text),
        ("id", Type::Int4),
        ("primary", Type::Text),
        ("replicas_up", Type::Int4),
        ("replicas", Type::Int4),
        ("buckets", Type::Int4),
        ("epoch", Type::Int8),
        ("state", Type::Text),
        ("problem", Type::Text),
    ];
    Table::new(&columns).with_rows(view.shards.iter().map(|shard| {
        vec![
            cell(&shard.database),
            cell(&shard.name),
            cell(shard.id),
            shard.primary.clone(),
            cell(shard.replicas_up),
            cell(shard.replicas),
            cell(shard.buckets),
            cell(shard.epoch),
            cell(if shard.problem.is_none() { "ready" } else { "unavailable" }),
            shard.problem.clone(),
        ]
    }))
}

pub(super) fn instances(view: &View) -> Table {
    let columns = [
        ("database", Type::Text),
        ("shard", Type::Text),
        ("address", Type::Text),
        ("role", Type::Text),
        ("state", Type::Text),
        ("lsn", Type::Text),
        ("lag_ms", Type::Int8),
        ("servers", Type::Int4),
        ("servers_max", Type::Int4),
        ("max_prepared_transactions", Type::Int4),
        ("problem", Type::Text),
    ];
    Table::new(&columns).with_rows(view.instances.iter().map(|instance| {
        vec![
            cell(&instance.database),
            cell(&instance.shard),
            cell(&instance.address),
            cell(instance.role.name()),
            cell(if instance.up { "up" } else { "down" }),
            instance.lsn.and_then(cell),
            instance.lag.and_then(|lag| cell(lag.as_millis())),
            cell(instance.servers),
            cell(instance.servers_max),
            instance.max_prepared_transactions.and_then(cell),
            instance.problem.clone(),
        ]
    }))
}

pub(super) fn tables(view: &View) -> Table {
    let columns = [
        ("database", Type::Text),
        ("schema", Type::Text),
        ("table", Type::Text),
        ("relation", Type::Text),
        ("kind", Type::Text),
        ("key", Type::Text),
        ("shard", Type::Text),
        ("columns", Type::Int4),
        ("problem", Type::Text),
    ];
    Table::new(&columns).with_rows(view.tables.iter().map(|table| {
        vec![
            cell(&table.database),
            cell(&table.schema),
            cell(&table.name),
            cell(table.relation),
            cell(table.kind),
            table.key.clone(),
            table.shard.clone(),
            cell(table.columns),
            table.problem.clone(),
        ]
    }))
}

pub(super) fn problems(view: &View) -> Table {
    let rows = view.problems.iter().map(|row| vec![cell(&row.database), cell(&row.problem)]);
    Table::new(&[("database", Type::Text), ("problem", Type::Text)]).with_rows(rows)
}
