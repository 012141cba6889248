//! What PgBouncer does not have: shards, instances, tables, and why clients keep or lack servers.

use crate::admin::show::time;
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
        ]
    }))
}

pub(super) fn problems(view: &View) -> Table {
    let rows = view.problems.iter().map(|row| vec![cell(&row.database), cell(&row.problem)]);
    Table::new(&[("database", Type::Text), ("problem", Type::Text)]).with_rows(rows)
}

/// Who keeps its server after the transaction, and why.
pub(super) fn pins(view: &View) -> Table {
    let columns = [
        ("client_id", Type::Int8),
        ("user", Type::Text),
        ("database", Type::Text),
        ("reasons", Type::Text),
        ("since", Type::Text),
        ("server_id", Type::Int8),
    ];
    let pinned = view.clients.iter().filter_map(|row| row.pin.as_ref().map(|pin| (row, pin)));
    Table::new(&columns).with_rows(pinned.map(|(row, pin)| {
        vec![
            cell(row.id),
            cell(&row.user),
            cell(&row.database),
            cell(pin),
            row.pinned_since.and_then(|at| cell(time::utc(at))),
            row.link.and_then(cell),
        ]
    }))
}

/// Who waits for a server, the longest wait first.
pub(super) fn waiting(view: &View) -> Table {
    let columns = [
        ("client_id", Type::Int8),
        ("user", Type::Text),
        ("database", Type::Text),
        ("shard", Type::Text),
        ("instance", Type::Text),
        ("wait_us", Type::Int8),
    ];
    let mut clients: Vec<_> =
        view.clients.iter().filter_map(|row| row.waits_for.as_ref().map(|place| (row, place))).collect();
    clients.sort_by_key(|(row, _)| std::cmp::Reverse(row.wait));
    Table::new(&columns).with_rows(clients.into_iter().map(|(row, (shard, instance))| {
        vec![
            cell(row.id),
            cell(&row.user),
            cell(&row.database),
            cell(shard),
            cell(instance),
            cell(row.wait.as_micros()),
        ]
    }))
}
