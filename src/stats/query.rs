//! What is counted of one kind of statement.

use super::Latency;

/// How one statement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub rows: u64,
    pub failed: bool,
    /// On how many shards it ran.
    pub shards: usize,
    /// From the request to the end of the answer, in microseconds.
    pub total_us: u64,
    /// The part of it in which it waited for servers.
    pub waited_us: u64,
}

/// What was counted of one shape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryCounts {
    pub calls: u64,
    pub rows: u64,
    pub errors: u64,
    /// Calls that ran on exactly one shard.
    pub one_shard: u64,
    /// The shards of all calls together.
    pub shards: u64,
    /// All calls together, in microseconds.
    pub time_us: u64,
    pub total: Latency,
    pub waiting: Latency,
    /// All but the waiting: servers, the network to them, and the router's own microseconds.
    pub server: Latency,
}

impl QueryCounts {
    pub fn add(&mut self, ended: Ended) {
        let Ended { rows, failed, shards, total_us, waited_us } = ended;
        self.calls += 1;
        self.rows = self.rows.saturating_add(rows);
        self.errors += u64::from(failed);
        self.one_shard += u64::from(shards == 1);
        self.shards += shards as u64;
        self.time_us = self.time_us.saturating_add(total_us);
        let bucket = Latency::bucket(total_us);
        self.total.count(bucket);
        if waited_us == 0 {
            self.waiting.count(0);
            self.server.count(bucket);
        } else {
            self.waiting.record(waited_us);
            self.server.record(total_us.saturating_sub(waited_us));
        }
    }

    /// Adds what another worker has counted.
    pub fn merge(&mut self, other: &Self) {
        self.calls += other.calls;
        self.rows = self.rows.saturating_add(other.rows);
        self.errors += other.errors;
        self.one_shard += other.one_shard;
        self.shards += other.shards;
        self.time_us = self.time_us.saturating_add(other.time_us);
        self.total.merge(&other.total);
        self.waiting.merge(&other.waiting);
        self.server.merge(&other.server);
    }
}
