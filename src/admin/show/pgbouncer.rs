//! PgBouncer's commands: its columns in its order, ours behind them. Monitoring tools read these by
//! name and some by position.

use std::collections::{BTreeMap, BTreeSet};

use crate::admin::show::time;
use crate::admin::table::{Cell, Table, Type, cell};
use crate::view::{Address, ClientRow, ClientState, PeerRow, PoolRow, ServerRow, ServerState, View};

/// The version whose console this one follows. Tools parse it.
const PGBOUNCER: &str = concat!("PgBouncer 1.26.1 (Sluice ", env!("CARGO_PKG_VERSION"), ")");

fn flag(set: bool) -> Cell {
    cell(u8::from(set))
}

pub(super) fn version(_: &View) -> Table {
    Table::new(&[("version", Type::Text)]).with_rows([vec![cell(PGBOUNCER)]])
}

pub(super) fn config(view: &View) -> Table {
    let columns = [("key", Type::Text), ("value", Type::Text), ("default", Type::Text), ("changeable", Type::Text)];
    Table::new(&columns).with_rows(view.config.iter().map(|row| {
        let changeable = if row.changeable { "yes" } else { "no" };
        vec![cell(&row.key), cell(&row.value), cell(&row.default), cell(changeable)]
    }))
}

pub(super) fn databases(view: &View) -> Table {
    let columns = [
        ("name", Type::Text),
        ("host", Type::Text),
        ("port", Type::Int4),
        ("database", Type::Text),
        ("force_user", Type::Text),
        ("pool_size", Type::Int4),
        ("min_pool_size", Type::Int4),
        ("reserve_pool_size", Type::Int4),
        ("server_lifetime", Type::Int4),
        ("pool_mode", Type::Text),
        ("load_balance_hosts", Type::Text),
        ("max_connections", Type::Int4),
        ("current_connections", Type::Int4),
        ("max_client_connections", Type::Int4),
        ("current_client_connections", Type::Int4),
        ("paused", Type::Int4),
        ("disabled", Type::Int4),
        ("shards", Type::Int4),
        // The name of reserve_pool_size before PgBouncer 1.24, which older exporters read.
        ("reserve_pool", Type::Int4),
    ];
    Table::new(&columns).with_rows(view.databases.iter().map(|row| {
        vec![
            cell(&row.name),
            cell(&row.host),
            cell(row.port),
            cell(&row.server_database),
            row.force_user.clone(),
            cell(row.pool_size),
            cell(0),
            cell(0),
            cell(row.server_lifetime.as_secs()),
            cell(row.mode.name()),
            None,
            cell(row.connections_max),
            cell(row.connections),
            cell(0),
            cell(row.client_connections),
            flag(row.paused),
            flag(row.disabled),
            cell(row.shards),
            cell(0),
        ]
    }))
}

/// One row per database and user, as PgBouncer has it and as exporters need it: several rows with
/// the same two labels would be an error to them.
fn by_user(view: &View) -> Vec<PoolRow> {
    let mut sums: BTreeMap<(&str, &str), PoolRow> = BTreeMap::new();
    for row in &view.pools {
        let sum = sums.entry((&row.database, &row.user));
        sum.or_insert_with(|| PoolRow::new(&row.database, &row.user, row.mode)).add(row);
    }
    sums.into_values().collect()
}

pub(super) fn pools(view: &View) -> Table {
    let columns = [
        ("database", Type::Text),
        ("user", Type::Text),
        ("cl_active", Type::Int4),
        ("cl_waiting", Type::Int4),
        ("cl_active_cancel_req", Type::Int4),
        ("cl_waiting_cancel_req", Type::Int4),
        ("sv_active", Type::Int4),
        ("sv_active_cancel", Type::Int4),
        ("sv_being_canceled", Type::Int4),
        ("sv_idle", Type::Int4),
        ("sv_used", Type::Int4),
        ("sv_tested", Type::Int4),
        ("sv_login", Type::Int4),
        ("maxwait", Type::Int4),
        ("maxwait_us", Type::Int4),
        ("pool_mode", Type::Text),
        ("load_balance_hosts", Type::Text),
        ("cl_pinned", Type::Int4),
    ];
    Table::new(&columns).with_rows(by_user(view).into_iter().map(|pool| {
        let (seconds, micros) = time::split(pool.maxwait);
        vec![
            cell(pool.database),
            cell(pool.user),
            cell(pool.cl_active),
            cell(pool.cl_waiting),
            cell(pool.cl_active_cancel),
            cell(pool.cl_waiting_cancel),
            cell(pool.sv_active),
            cell(pool.sv_active_cancel),
            cell(pool.sv_being_canceled),
            cell(pool.sv_idle),
            cell(pool.sv_used),
            cell(pool.sv_tested),
            cell(pool.sv_login),
            cell(seconds),
            cell(micros),
            cell(pool.mode.name()),
            None,
            cell(pool.cl_pinned),
        ]
    }))
}

/// The columns that clients, servers and sockets share.
const CONNECTION: [(&str, Type); 21] = [
    ("type", Type::Text),
    ("user", Type::Text),
    ("database", Type::Text),
    ("replication", Type::Text),
    ("state", Type::Text),
    ("addr", Type::Text),
    ("port", Type::Int4),
    ("local_addr", Type::Text),
    ("local_port", Type::Int4),
    ("connect_time", Type::Text),
    ("request_time", Type::Text),
    ("wait", Type::Int4),
    ("wait_us", Type::Int4),
    ("close_needed", Type::Int4),
    ("ptr", Type::Text),
    ("link", Type::Text),
    ("remote_pid", Type::Int4),
    ("tls", Type::Text),
    ("application_name", Type::Text),
    ("prepared_statements", Type::Int4),
    ("id", Type::Int8),
];

/// What SOCKETS has behind them; the buffers of the router are not kept per socket.
const BUFFERS: [(&str, Type); 7] = [
    ("recv_pos", Type::Int4),
    ("pkt_pos", Type::Int4),
    ("pkt_remain", Type::Int4),
    ("send_pos", Type::Int4),
    ("send_remain", Type::Int4),
    ("pkt_avail", Type::Int4),
    ("send_avail", Type::Int4),
];

fn address(address: Address) -> [Cell; 2] {
    match address {
        Some(address) => [cell(address.ip()), cell(address.port())],
        None => [cell("unix"), cell(0)],
    }
}

fn client(row: &ClientRow) -> Vec<Cell> {
    let (seconds, micros) = time::split(row.wait);
    let mut cells = vec![cell("C"), cell(&row.user), cell(&row.database), cell("none"), cell(row.state.name())];
    cells.extend(address(row.address));
    cells.extend(address(row.local_address));
    cells.extend([
        cell(time::utc(row.connected)),
        row.requested.and_then(|at| cell(time::utc(at))),
        cell(seconds),
        cell(micros),
        flag(row.close_needed),
        cell(format_args!("c{}", row.id)),
        cell(row.link.map(|id| format!("s{id}")).unwrap_or_default()),
        cell(row.pid),
        cell(row.tls.as_deref().unwrap_or_default()),
        cell(&row.application_name),
        cell(row.prepared_statements),
        cell(row.id),
    ]);
    cells
}

fn server(row: &ServerRow) -> Vec<Cell> {
    let mut cells = vec![cell("S"), cell(&row.user), cell(&row.database), cell("none"), cell(row.state.name())];
    cells.extend(address(row.address));
    cells.extend(address(row.local_address));
    cells.extend([
        cell(time::utc(row.connected)),
        row.requested.and_then(|at| cell(time::utc(at))),
        cell(0),
        cell(0),
        flag(row.close_needed),
        cell(format_args!("s{}", row.id)),
        cell(row.link.map(|id| format!("c{id}")).unwrap_or_default()),
        cell(row.pid),
        cell(row.tls.as_deref().unwrap_or_default()),
        cell(&row.application_name),
        cell(row.prepared_statements),
        cell(row.id),
    ]);
    cells
}

pub(super) fn clients(view: &View) -> Table {
    let columns = [&CONNECTION[..], &[("worker", Type::Int4), ("pin", Type::Text)]].concat();
    Table::new(&columns).with_rows(view.clients.iter().map(|row| {
        let mut cells = client(row);
        cells.extend([cell(row.worker), row.pin.clone()]);
        cells
    }))
}

pub(super) fn servers(view: &View) -> Table {
    let columns =
        [&CONNECTION[..], &[("worker", Type::Int4), ("instance", Type::Text), ("shard", Type::Text)]].concat();
    Table::new(&columns).with_rows(view.servers.iter().map(|row| {
        let mut cells = server(row);
        cells.extend([cell(row.worker), cell(&row.instance), cell(&row.shard)]);
        cells
    }))
}

fn sockets_where(view: &View, clients: fn(&ClientRow) -> bool, servers: fn(&ServerRow) -> bool) -> Table {
    let clients = view.clients.iter().filter(|row| clients(row)).map(client);
    let servers = view.servers.iter().filter(|row| servers(row)).map(server);
    let with_buffers = |mut cells: Vec<Cell>| {
        cells.extend(BUFFERS.iter().map(|_| cell(0)));
        cells
    };
    Table::new(&[&CONNECTION[..], &BUFFERS].concat()).with_rows(clients.chain(servers).map(with_buffers))
}

pub(super) fn sockets(view: &View) -> Table {
    sockets_where(view, |_| true, |_| true)
}

pub(super) fn active_sockets(view: &View) -> Table {
    sockets_where(view, |row| row.state == ClientState::Active, |row| row.state == ServerState::Active)
}

pub(super) fn users(view: &View) -> Table {
    let columns = [
        ("name", Type::Text),
        ("pool_size", Type::Text),
        ("reserve_pool_size", Type::Text),
        ("pool_mode", Type::Text),
        ("max_user_connections", Type::Int4),
        ("current_connections", Type::Int4),
        ("max_user_client_connections", Type::Int4),
        ("current_client_connections", Type::Int4),
    ];
    Table::new(&columns).with_rows(view.users.iter().map(|row| {
        vec![
            cell(&row.name),
            cell(row.pool_size.map(|size| size.to_string()).unwrap_or_default()),
            cell(""),
            row.mode.and_then(|mode| cell(mode.name())),
            cell(0),
            cell(row.connections),
            cell(0),
            cell(row.client_connections),
        ]
    }))
}

pub(super) fn lists(view: &View) -> Table {
    let pools = by_user(view);
    let sum = |read: fn(&PoolRow) -> u64| pools.iter().map(read).sum::<u64>();
    let used_clients = view.databases.iter().map(|row| row.client_connections).sum::<u64>();
    let idle = sum(|p| p.sv_idle + p.sv_used + p.sv_tested);
    let used = sum(|p| p.sv_active + p.sv_active_cancel + p.sv_being_canceled + p.sv_login);
    let distinct: BTreeSet<_> = pools.iter().map(|pool| (&pool.database, &pool.user)).collect();
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let rows = [
        ("databases", count(view.databases.len())),
        ("users", count(view.users.len())),
        ("peers", count(view.peers.len())),
        ("pools", count(distinct.len())),
        ("peer_pools", 0),
        ("free_clients", view.clients_max.saturating_sub(used_clients + view.login_clients)),
        ("used_clients", used_clients),
        ("login_clients", view.login_clients),
        ("free_servers", idle),
        ("used_servers", used),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ];
    Table::new(&[("list", Type::Text), ("items", Type::Int4)])
        .with_rows(rows.map(|(list, items)| vec![cell(list), cell(items)]))
}

pub(super) fn memory(view: &View) -> Table {
    let columns = [
        ("name", Type::Text),
        ("size", Type::Int4),
        ("used", Type::Int4),
        ("free", Type::Int4),
        ("memtotal", Type::Int8),
    ];
    Table::new(&columns).with_rows(
        view.memory
            .iter()
            .map(|row| vec![cell(&row.name), cell(row.size), cell(row.used), cell(row.free), cell(row.total_bytes)]),
    )
}

pub(super) fn state(view: &View) -> Table {
    let yes = |set: bool| cell(if set { "yes" } else { "no" });
    let rows = [
        ("active", !view.halted.paused && !view.halted.suspended && !view.draining),
        ("paused", view.halted.paused),
        ("suspended", view.halted.suspended),
        ("draining", view.draining),
    ];
    Table::new(&[("key", Type::Text), ("value", Type::Text)])
        .with_rows(rows.map(|(key, set)| vec![cell(key), yes(set)]))
}

/// There are no pools towards peers: every cancel request has a connection of its own.
pub(super) fn peers(view: &View) -> Table {
    let columns = [("peer_id", Type::Int4), ("host", Type::Text), ("port", Type::Int4), ("pool_size", Type::Int4)];
    let row = |peer: &PeerRow| vec![cell(peer.router_id), cell(&peer.host), cell(peer.port), None];
    Table::new(&columns).with_rows(view.peers.iter().map(row))
}

// What Sluice has none of: the columns are there for tools that ask.

pub(super) fn peer_pools(_: &View) -> Table {
    Table::new(&[
        ("peer_id", Type::Int4),
        ("cl_active_cancel_req", Type::Int4),
        ("cl_waiting_cancel_req", Type::Int4),
        ("sv_active_cancel", Type::Int4),
        ("sv_login", Type::Int4),
    ])
}

pub(super) fn dns_hosts(_: &View) -> Table {
    Table::new(&[("hostname", Type::Text), ("ttl", Type::Int8), ("addrs", Type::Text)])
}

pub(super) fn dns_zones(_: &View) -> Table {
    Table::new(&[("zonename", Type::Text), ("serial", Type::Int8), ("count", Type::Int4)])
}
