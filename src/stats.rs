//! One list of metrics. SHOW and Prometheus print the same list.
//!
//! Every worker counts on its own; a reader adds the workers up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A number that only its worker raises and anybody may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may call this: there is no read-modify-write on the bus.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the histogram's buckets: powers of two from 1 microsecond to about 67 seconds.
pub const HISTOGRAM_BUCKETS: usize = 27;

/// Durations in buckets that double from 1 microsecond.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; HISTOGRAM_BUCKETS],
    sum_us: Counter,
}

impl Histogram {
    pub fn record(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = (64 - us.leading_zeros()) as usize;
        self.buckets[bucket.min(HISTOGRAM_BUCKETS - 1)].add(1);
        self.sum_us.add(us);
    }

    pub fn sum_us(&self) -> u64 {
        self.sum_us.get()
    }

    /// How many durations lie in each bucket; bucket `i` ends at 2^i microseconds.
    pub fn counts(&self) -> [u64; HISTOGRAM_BUCKETS] {
        std::array::from_fn(|i| self.buckets[i].get())
    }
}

/// What one worker counts for one database and user.
#[derive(Debug, Default)]
pub struct PoolStats {
    pub server_assignments: Counter,
    pub transactions: Counter,
    pub queries: Counter,
    /// Bytes from clients.
    pub received: Counter,
    /// Bytes to clients.
    pub sent: Counter,
    pub client_parses: Counter,
    pub server_parses: Counter,
    pub binds: Counter,
    pub client_logins: Counter,
    /// Statements that went to one shard, to several, were refused.
    pub routed: Counter,
    pub gathered: Counter,
    pub refused: Counter,
    /// Statements sent to replicas.
    pub replica_reads: Counter,
    pub errors: Counter,
    pub query_time: Histogram,
    pub transaction_time: Histogram,
    pub wait_time: Histogram,
}
