//! Who does what: pins, waits with those who are waited for, and what was counted by statement.

use std::collections::HashMap;
use std::time::Duration;

use pgsluice_sharding::sql::shape::shorten;

use crate::admin::show::time;
use crate::admin::table::{Cell, Table, Type, cell};
use crate::view::{BlockState, ClientRow, LockHolder, LockWaitRow, ServerRow, ServerState, View, WaitsFor};

/// Statements in SHOW WAITING are no longer than this, in bytes.
const STATEMENT_BYTES_MAX: usize = 120;

/// Rows of SHOW WAITING for one client: those who have held their servers longest.
const HOLDERS_MAX: usize = 10;

/// Clients of which all these rows are shown, the longest waits first; the others have one each.
const WAITERS_IN_FULL_MAX: usize = 100;

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

/// Who waits for a server or for a lock, the longest wait first, and who holds what is waited for.
pub(super) fn waiting(view: &View) -> Table {
    let columns = [
        ("client_id", Type::Int8),
        ("user", Type::Text),
        ("database", Type::Text),
        ("shard", Type::Text),
        ("instance", Type::Text),
        ("wait_us", Type::Int8),
        ("statement", Type::Text),
        ("reason", Type::Text),
        ("holders", Type::Int4),
        ("holder_id", Type::Int8),
        ("holder_user", Type::Text),
        ("holder_state", Type::Text),
        ("holder_us", Type::Int8),
        ("holder_pin", Type::Text),
        ("holder_statement", Type::Text),
    ];
    let clients: HashMap<u64, &ClientRow> = view.clients.iter().map(|client| (client.id, client)).collect();
    let mut waits: Vec<Waiting<'_>> =
        view.clients.iter().filter_map(|row| Some(for_a_server(view, row, row.waits_for.as_ref()?))).collect();
    waits.extend(view.lock_waits.iter().filter_map(|row| Some(for_a_lock(view, clients.get(&row.client)?, row))));
    waits.sort_by_key(|waiting| std::cmp::Reverse(waiting.wait));
    let mut table = Table::new(&columns);
    for (position, waiting) in waits.into_iter().enumerate() {
        let shown = if position < WAITERS_IN_FULL_MAX { HOLDERS_MAX } else { 1 };
        let rows = waiting.holders.iter().take(shown).map(|server| {
            let client = server.link.and_then(|id| clients.get(&id).copied());
            holder_cells(server, client)
        });
        let mut rows: Vec<Vec<Cell>> = rows.collect();
        if rows.is_empty() {
            rows.push(vec![None; 6]);
        }
        for holder in rows {
            let waiter = waiting.client;
            let mut cells = vec![
                cell(waiter.id),
                cell(&waiter.user),
                cell(&waiter.database),
                cell(waiting.shard),
                cell(waiting.instance),
                cell(waiting.wait.as_micros()),
                statement(waiter),
                cell(&waiting.reason),
                cell(waiting.count),
            ];
            cells.extend(holder);
            table.push(cells);
        }
    }
    table
}

/// A client that waits, and for whom.
struct Waiting<'v> {
    client: &'v ClientRow,
    shard: &'v str,
    instance: &'v str,
    wait: Duration,
    reason: String,
    /// How many hold what it waits for; those that are no servers of this router are counted only.
    count: usize,
    /// The longest first.
    holders: Vec<&'v ServerRow>,
}

fn for_a_server<'v>(view: &'v View, client: &'v ClientRow, place: &'v WaitsFor) -> Waiting<'v> {
    let (reason, mut holders) = holders(view, &client.database, place);
    holders.sort_by_key(|server| std::cmp::Reverse(server.held));
    let (reason, count) = (reason.to_owned(), holders.len());
    Waiting { client, shard: &place.shard, instance: &place.instance, wait: client.wait, reason, count, holders }
}

fn for_a_lock<'v>(view: &'v View, client: &'v ClientRow, row: &'v LockWaitRow) -> Waiting<'v> {
    let is_holder = |server: &&ServerRow| row.holders.contains(&LockHolder::Server(server.id));
    let mut holders: Vec<&ServerRow> =
        view.servers.iter().filter(|server| server.state == ServerState::Active).filter(is_holder).collect();
    holders.sort_by_key(|server| std::cmp::Reverse(server.held));
    let others = row.holders.iter().filter_map(|holder| match holder {
        LockHolder::Prepared => Some(", held by a prepared transaction".to_owned()),
        LockHolder::Stranger { pid, statement: None } => {
            Some(format!(", held by process {pid}, which serves no client of this router"))
        }
        LockHolder::Stranger { pid, statement: Some(statement) } => {
            Some(format!(", held by process {pid}, which serves no client of this router, with: {statement}"))
        }
        LockHolder::Server(_) => None,
    });
    let reason = format!("{}{}", row.lock, others.collect::<String>());
    let count = row.holders.len();
    Waiting { client, shard: &row.shard, instance: &row.instance, wait: row.wait, reason, count, holders }
}

/// Transactions over several shards: a row for each shard where one is open, and for each where one is prepared.
pub(super) fn transactions(view: &View) -> Table {
    let columns = [
        ("database", Type::Text),
        ("user", Type::Text),
        ("client_id", Type::Int8),
        ("gid", Type::Text),
        ("shard", Type::Text),
        ("decider", Type::Text),
        ("state", Type::Text),
        ("age_ms", Type::Int8),
        ("problem", Type::Text),
    ];
    let mut table = Table::new(&columns);
    for client in &view.clients {
        let state = match client.block {
            BlockState::None => continue,
            BlockState::Open => "open",
            BlockState::Committing => "committing",
        };
        let mut servers: Vec<&ServerRow> =
            view.servers.iter().filter(|server| server.link == Some(client.id)).collect();
        servers.sort_by(|a, b| a.shard.cmp(&b.shard));
        if servers.iter().all(|server| server.shard == servers[0].shard) {
            continue;
        }
        for server in servers {
            table.push(vec![
                cell(&client.database),
                cell(&client.user),
                cell(client.id),
                None,
                cell(&server.shard),
                None,
                cell(state),
                cell(server.held.as_millis()),
                None,
            ]);
        }
    }
    let mut prepared: Vec<_> = view.prepared.iter().collect();
    prepared.sort_by(|a, b| (&a.database, &a.gid, &a.shard).cmp(&(&b.database, &b.gid, &b.shard)));
    table.with_rows(prepared.into_iter().map(|part| {
        vec![
            cell(&part.database),
            cell(&part.user),
            None,
            cell(&part.gid),
            cell(&part.shard),
            part.decider.clone(),
            cell(if part.in_doubt { "in doubt" } else { "prepared" }),
            cell(part.age.as_millis()),
            part.problem.clone(),
        ]
    }))
}

/// Why there is no server, and the servers that are in use instead.
fn holders<'v>(view: &'v View, database: &str, place: &WaitsFor) -> (&'static str, Vec<&'v ServerRow>) {
    let in_use = |server: &&ServerRow| server.state == ServerState::Active && server.instance == place.instance;
    let of_pool = |server: &&ServerRow| {
        server.database == database && server.user == place.pool_user && server.shard == place.shard
    };
    let paused = view.databases.iter().any(|row| row.name == database && row.paused);
    let on_instance: Vec<&ServerRow> = view.servers.iter().filter(in_use).collect();
    let own: Vec<&ServerRow> = on_instance.iter().copied().filter(of_pool).collect();
    match (paused, own.is_empty(), on_instance.is_empty()) {
        (true, ..) => ("PAUSE", own),
        (false, false, _) => ("the pool's servers are in use", own),
        // Another pool may have taken all connections that the instance gives.
        (false, true, false) => ("other pools use the instance", on_instance),
        (false, true, true) => ("no connection yet", own),
    }
}

fn holder_cells(server: &ServerRow, client: Option<&ClientRow>) -> Vec<Cell> {
    vec![
        server.link.and_then(cell),
        client.and_then(|client| cell(&client.user)),
        client.and_then(|client| cell(client.state.name())),
        cell(server.held.as_micros()),
        client.and_then(|client| client.pin.clone()),
        client.and_then(statement),
    ]
}

fn statement(client: &ClientRow) -> Cell {
    client.statement.clone().map(|text| shorten(text, STATEMENT_BYTES_MAX))
}

/// What was counted by statement, the one that took most time first.
pub(super) fn queries(view: &View) -> Table {
    let mut columns = vec![
        ("database", Type::Text),
        ("calls", Type::Int8),
        ("rows", Type::Int8),
        ("errors", Type::Int8),
        ("shards", Type::Numeric),
        ("one_shard", Type::Numeric),
        ("time_us", Type::Int8),
    ];
    let quantiles = [
        "p50_us",
        "p95_us",
        "p99_us",
        "wait_p50_us",
        "wait_p95_us",
        "wait_p99_us",
        "server_p50_us",
        "server_p95_us",
        "server_p99_us",
    ];
    columns.extend(quantiles.map(|name| (name, Type::Int8)));
    columns.push(("query", Type::Text));
    let mut rows: Vec<_> = view.queries.iter().collect();
    rows.sort_by_key(|row| (std::cmp::Reverse(row.counts.time_us), &row.database, &row.query));
    Table::new(&columns).with_rows(rows.into_iter().map(|row| {
        let counts = &row.counts;
        let per_call = |n: u64| cell(format_args!("{:.2}", n as f64 / counts.calls.max(1) as f64));
        let mut cells = vec![
            cell(&row.database),
            cell(counts.calls),
            cell(counts.rows),
            cell(counts.errors),
            per_call(counts.shards),
            per_call(counts.one_shard),
            cell(counts.time_us),
        ];
        for latency in [&counts.total, &counts.waiting, &counts.server] {
            cells.extend([0.5, 0.95, 0.99].map(|q| cell(latency.quantile(q))));
        }
        cells.push(cell(&row.query));
        cells
    }))
}
