//! SHOW MEM: what of the router's memory has an owner that can tell.

use crate::execute::queries::Queries;
use crate::execute::worker::Worker;
use crate::execute::{BUFFER_BYTES, CLIENT_BYTES};
use crate::pool::SERVER_BYTES;
use crate::pool::budget::{Mode, PoolSnapshot};
use crate::pool::driver::PoolKey;
use crate::view::MemoryRow;

/// What one worker holds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    pub(super) clients_idle: u64,
    pub(super) clients_busy: u64,
    /// In the hands of clients.
    pub(super) servers: u64,
    buffers: Items,
    spare_buffers: u64,
    plans: Items,
    statements: Items,
    queries: Items,
    queries_free: u64,
}

/// Things of which each knows its own size.
#[derive(Clone, Copy, Debug, Default)]
struct Items {
    count: u64,
    bytes: u64,
}

impl Items {
    fn new((count, bytes): (usize, usize)) -> Self {
        Self { count: wide(count), bytes: wide(bytes) }
    }

    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.bytes += other.bytes;
    }
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

impl Memory {
    /// Adds what a worker holds beside its clients.
    pub(super) fn add(&mut self, worker: &Worker, queries: &Queries) {
        self.buffers.add(Items::new((worker.buffers.lent(), worker.buffers.bytes())));
        self.spare_buffers += wide(worker.buffers.spare());
        self.plans.add(Items::new(worker.plans()));
        self.statements.add(Items::new(worker.texts.held()));
        self.queries.add(Items::new((queries.len(), queries.bytes())));
        self.queries_free += wide(queries.max().saturating_sub(queries.len()));
    }

    fn merge(mut self, other: &Self) -> Self {
        self.clients_idle += other.clients_idle;
        self.clients_busy += other.clients_busy;
        self.servers += other.servers;
        self.buffers.add(other.buffers);
        self.spare_buffers += other.spare_buffers;
        self.plans.add(other.plans);
        self.statements.add(other.statements);
        self.queries.add(other.queries);
        self.queries_free += other.queries_free;
        self
    }
}

/// All workers together. `size` is 0 where items are of different sizes.
pub(super) fn rows<'m>(
    workers: impl Iterator<Item = &'m Memory>,
    pools: &[(PoolKey, Mode, PoolSnapshot)],
) -> Vec<MemoryRow> {
    let all = workers.fold(Memory::default(), Memory::merge);
    let idle_servers = pools.iter().map(|(_, _, pool)| u64::from(pool.idle)).sum();
    let (client, server, buffer) = (wide(CLIENT_BYTES), wide(SERVER_BYTES), wide(BUFFER_BYTES));
    let fixed = |name: &str, size: u64, used: u64, free: u64| MemoryRow {
        name: name.to_owned(),
        size,
        used,
        free,
        total_bytes: size * (used + free),
    };
    let varied = |name: &str, items: Items, free: u64| MemoryRow {
        name: name.to_owned(),
        size: 0,
        used: items.count,
        free,
        total_bytes: items.bytes,
    };
    vec![
        fixed("clients_idle", client, all.clients_idle, 0),
        fixed("clients_busy", client, all.clients_busy, 0),
        fixed("servers", server, all.servers, idle_servers),
        MemoryRow {
            // Those that have grown for a long message count with what they are.
            total_bytes: all.buffers.bytes,
            ..fixed("buffers", buffer, all.buffers.count, all.spare_buffers)
        },
        varied("plan_cache", all.plans, 0),
        varied("prepared_statements", all.statements, 0),
        varied("query_statistics", all.queries, all.queries_free),
    ]
}
