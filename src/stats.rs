//! One list of metrics. SHOW and Prometheus print the same list.
//!
//! Every worker counts on its own; a reader adds the workers up. [`METRICS`] says what is counted, under
//! which name, in which unit and how it is read; [`STATS_COLUMNS`] says under which names PgBouncer's
//! users know the same numbers.

mod latency;
mod query;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;

pub use latency::Latency;
pub use query::{Ended, QueryCounts};

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
        self.record_us(microseconds(duration));
    }

    pub fn record_us(&self, us: u64) {
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

/// Whole microseconds; those of half a million years at most.
pub fn microseconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(duration.subsec_micros()))
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
    /// Statement shapes that were struck from SHOW QUERIES to make room.
    pub shapes_forgotten: Counter,
    pub query_time: Histogram,
    pub transaction_time: Histogram,
    pub wait_time: Histogram,
}

/// How a metric is read from what a worker counts.
#[derive(Clone, Copy, Debug)]
pub enum Reader {
    Counter(fn(&PoolStats) -> &Counter),
    Histogram(fn(&PoolStats) -> &Histogram),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Count,
    Bytes,
    /// Kept in microseconds, exported in seconds.
    Seconds,
}

/// One thing that is counted per database and user.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    pub help: &'static str,
    pub unit: Unit,
    pub reader: Reader,
}

const fn counter(name: &'static str, help: &'static str, read: fn(&PoolStats) -> &Counter) -> Metric {
    Metric { name, help, unit: Unit::Count, reader: Reader::Counter(read) }
}

const fn bytes(name: &'static str, help: &'static str, read: fn(&PoolStats) -> &Counter) -> Metric {
    Metric { name, help, unit: Unit::Bytes, reader: Reader::Counter(read) }
}

const fn time(name: &'static str, help: &'static str, read: fn(&PoolStats) -> &Histogram) -> Metric {
    Metric { name, help, unit: Unit::Seconds, reader: Reader::Histogram(read) }
}

/// Everything that is counted per database and user.
pub static METRICS: [Metric; 18] = [
    counter("server_assignments", "Times a server was given to a client", |s| &s.server_assignments),
    counter("transactions", "Transactions that ended", |s| &s.transactions),
    counter("queries", "Statements that were answered", |s| &s.queries),
    bytes("received", "Bytes from clients", |s| &s.received),
    bytes("sent", "Bytes to clients", |s| &s.sent),
    counter("client_parses", "Prepared statements that clients asked for", |s| &s.client_parses),
    counter("server_parses", "Prepared statements that servers were asked for", |s| &s.server_parses),
    counter("binds", "Executions of prepared statements", |s| &s.binds),
    counter("client_logins", "Clients that logged in", |s| &s.client_logins),
    counter("routed", "Statements that went to one shard", |s| &s.routed),
    counter("gathered", "Statements that went to several shards", |s| &s.gathered),
    counter("refused", "Statements that the router refused", |s| &s.refused),
    counter("replica_reads", "Statements that went to a replica", |s| &s.replica_reads),
    counter("errors", "Errors sent to clients", |s| &s.errors),
    counter("shapes_forgotten", "Kinds of statement that made room for others in SHOW QUERIES", |s| {
        &s.shapes_forgotten
    }),
    time("query", "Time from a statement to the end of its answer", |s| &s.query_time),
    time("transaction", "Time that clients spent in transactions", |s| &s.transaction_time),
    time("wait", "Time that clients waited for a server", |s| &s.wait_time),
];

/// One metric added up over workers.
#[allow(clippy::large_enum_variant, reason = "a reader holds all of them together and only for a moment")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sum {
    Counter(u64),
    Histogram { counts: [u64; HISTOGRAM_BUCKETS], sum_us: u64 },
}

/// All metrics added up, in the order of [`METRICS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sums(Vec<Sum>);

impl Default for Sums {
    fn default() -> Self {
        let zero = |metric: &Metric| match metric.reader {
            Reader::Counter(_) => Sum::Counter(0),
            Reader::Histogram(_) => Sum::Histogram { counts: [0; HISTOGRAM_BUCKETS], sum_us: 0 },
        };
        Self(METRICS.iter().map(zero).collect())
    }
}

impl Sums {
    /// Adds what a worker has counted so far.
    pub fn add(&mut self, stats: &PoolStats) {
        for (metric, sum) in METRICS.iter().zip(&mut self.0) {
            match (metric.reader, sum) {
                (Reader::Counter(read), Sum::Counter(n)) => *n += read(stats).get(),
                (Reader::Histogram(read), Sum::Histogram { counts, sum_us }) => {
                    let histogram = read(stats);
                    *sum_us += histogram.sum_us();
                    counts.iter_mut().zip(histogram.counts()).for_each(|(count, more)| *count += more);
                }
                _ => {}
            }
        }
    }

    /// Adds another set of sums.
    pub fn merge(&mut self, other: &Self) {
        for pair in self.0.iter_mut().zip(&other.0) {
            match pair {
                (Sum::Counter(n), Sum::Counter(more)) => *n += more,
                (Sum::Histogram { counts, sum_us }, Sum::Histogram { counts: more, sum_us: more_us }) => {
                    *sum_us += more_us;
                    counts.iter_mut().zip(more).for_each(|(count, more)| *count += more);
                }
                _ => {}
            }
        }
    }

    /// The metrics with their sums.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Metric, &Sum)> {
        METRICS.iter().zip(&self.0)
    }

    fn find(&self, name: &str) -> Option<&Sum> {
        self.iter().find_map(|(metric, sum)| (metric.name == name).then_some(sum))
    }

    /// A counter's value, or how many durations a histogram has seen; 0 for a name that is no metric.
    pub fn count(&self, name: &str) -> u64 {
        match self.find(name) {
            Some(Sum::Counter(n)) => *n,
            Some(Sum::Histogram { counts, .. }) => counts.iter().sum(),
            None => 0,
        }
    }

    /// The sum of a histogram's durations in microseconds.
    pub fn time_us(&self, name: &str) -> u64 {
        match self.find(name) {
            Some(Sum::Histogram { sum_us, .. }) => *sum_us,
            _ => 0,
        }
    }

    /// The duration in microseconds that the part `q` (0.5 is the median) of a histogram stays below,
    /// estimated within its bucket.
    pub fn quantile_us(&self, name: &str, q: f64) -> u64 {
        let Some(Sum::Histogram { counts, .. }) = self.find(name) else { return 0 };
        let total: u64 = counts.iter().sum();
        let wanted = q * total as f64;
        let mut below = 0;
        for (bucket, &count) in counts.iter().enumerate() {
            if count > 0 && (below + count) as f64 >= wanted {
                let low = if bucket == 0 { 0.0 } else { (1_u64 << (bucket - 1)) as f64 };
                let high = (1_u64 << bucket) as f64;
                let part = ((wanted - below as f64) / count as f64).clamp(0.0, 1.0);
                return (low + (high - low) * part) as u64;
            }
            below += count;
        }
        0
    }
}

/// Where a column of SHOW STATS takes its number from: the name of a metric.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    Count(&'static str),
    /// Microseconds.
    Time(&'static str),
}

/// What the average of a column is taken over.
#[derive(Clone, Copy, Debug)]
pub enum Per {
    Second,
    /// One event of the same histogram.
    Event,
}

/// One number of SHOW STATS under its names.
#[derive(Clone, Copy, Debug)]
pub struct StatsColumn {
    /// In SHOW STATS after `total_`.
    pub total: &'static str,
    /// In SHOW STATS_TOTALS, where PgBouncer has other names for two of them.
    pub bare: &'static str,
    /// In SHOW STATS after `avg_`.
    pub average: &'static str,
    /// In SHOW STATS_AVERAGES, where PgBouncer puts `avg_` before the last ones only.
    pub bare_average: &'static str,
    /// In SHOW TOTALS after `total_` and `avg_`.
    pub internal: &'static str,
    pub source: Source,
    pub per: Per,
}

const fn column(name: &'static str, source: Source, per: Per) -> StatsColumn {
    StatsColumn { total: name, bare: name, average: name, bare_average: name, internal: name, source, per }
}

/// PgBouncer's columns in PgBouncer's order.
pub static STATS_COLUMNS: [StatsColumn; 12] = [
    column("server_assignment_count", Source::Count("server_assignments"), Per::Second),
    column("xact_count", Source::Count("transactions"), Per::Second),
    column("query_count", Source::Count("queries"), Per::Second),
    StatsColumn {
        bare: "bytes_received",
        average: "recv",
        bare_average: "bytes_received",
        internal: "client_bytes",
        ..column("received", Source::Count("received"), Per::Second)
    },
    StatsColumn {
        bare: "bytes_sent",
        bare_average: "bytes_sent",
        internal: "server_bytes",
        ..column("sent", Source::Count("sent"), Per::Second)
    },
    column("xact_time", Source::Time("transaction"), Per::Event),
    column("query_time", Source::Time("query"), Per::Event),
    column("wait_time", Source::Time("wait"), Per::Second),
    StatsColumn {
        bare_average: "avg_client_parse_count",
        ..column("client_parse_count", Source::Count("client_parses"), Per::Second)
    },
    StatsColumn {
        bare_average: "avg_server_parse_count",
        ..column("server_parse_count", Source::Count("server_parses"), Per::Second)
    },
    StatsColumn { bare_average: "avg_bind_count", ..column("bind_count", Source::Count("binds"), Per::Second) },
    StatsColumn {
        bare_average: "avg_client_login_count",
        ..column("client_login_count", Source::Count("client_logins"), Per::Second)
    },
];

impl StatsColumn {
    pub fn total_of(&self, sums: &Sums) -> u64 {
        match self.source {
            Source::Count(name) => sums.count(name),
            Source::Time(name) => sums.time_us(name),
        }
    }

    /// The average over what happened between `before` and `after`, `period` apart.
    pub fn average_of(&self, before: &Sums, after: &Sums, period: Duration) -> u64 {
        let difference = |read: &dyn Fn(&Sums) -> u64| read(after).saturating_sub(read(before));
        let grown = u128::from(difference(&|sums| self.total_of(sums)));
        let average = match (self.per, self.source) {
            (Per::Event, Source::Count(name) | Source::Time(name)) => {
                grown.checked_div(u128::from(difference(&|sums| sums.count(name))))
            }
            (Per::Second, _) => (grown * 1_000_000).checked_div(period.as_micros()),
        };
        average.and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
    }
}

/// The sums of one database and user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserStats {
    pub database: String,
    pub user: String,
    pub sums: Sums,
}

/// The sums of one database, and its averages over the last period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseStats {
    pub database: String,
    pub sums: Sums,
    /// In the order of [`STATS_COLUMNS`].
    pub averages: [u64; STATS_COLUMNS.len()],
}

/// All counters of one router. Workers register; readers add up.
#[derive(Debug, Default)]
pub struct Registry {
    pools: DashMap<(usize, String, String), Arc<PoolStats>>,
    periods: Mutex<Periods>,
}

#[derive(Debug, Default)]
struct Periods {
    /// The sums at the end of the last period, and when that was.
    last: Option<(Instant, BTreeMap<String, Sums>)>,
    averages: BTreeMap<String, [u64; STATS_COLUMNS.len()]>,
}

impl Registry {
    /// The counters of one worker for a database and user; made at the first call and kept for good,
    /// so that totals never fall.
    pub fn register(&self, worker: usize, database: &str, user: &str) -> Arc<PoolStats> {
        let key = (worker, database.to_owned(), user.to_owned());
        Arc::clone(self.pools.entry(key).or_default().value())
    }

    /// Added up over workers, ordered by database and user.
    pub fn users(&self) -> Vec<UserStats> {
        let mut found: BTreeMap<(String, String), Sums> = BTreeMap::new();
        for entry in &self.pools {
            let (_, database, user) = entry.key();
            found.entry((database.clone(), user.clone())).or_default().add(entry.value());
        }
        found.into_iter().map(|((database, user), sums)| UserStats { database, user, sums }).collect()
    }

    /// Added up over workers and users, ordered by database.
    pub fn databases(&self) -> Vec<DatabaseStats> {
        let sums = by_database(&self.users());
        let periods = self.periods.lock().unwrap_or_else(PoisonError::into_inner);
        let averages = |name: &str| periods.averages.get(name).copied().unwrap_or_default();
        sums.into_iter()
            .map(|(database, sums)| DatabaseStats { averages: averages(&database), database, sums })
            .collect()
    }

    /// Ends a period: what [`Self::databases`] gives as averages is from the period before this call.
    /// To be called about once a minute.
    pub fn end_period(&self, now: Instant) {
        let sums = by_database(&self.users());
        let mut periods = self.periods.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((began, last)) = periods.last.take() {
            let period = now.saturating_duration_since(began);
            let zero = Sums::default();
            let average = |(name, sums): (&String, &Sums)| {
                let before = last.get(name).unwrap_or(&zero);
                let values = STATS_COLUMNS.each_ref().map(|column| column.average_of(before, sums, period));
                (name.clone(), values)
            };
            periods.averages = sums.iter().map(average).collect();
        }
        periods.last = Some((now, sums));
    }
}

fn by_database(users: &[UserStats]) -> BTreeMap<String, Sums> {
    let mut found: BTreeMap<String, Sums> = BTreeMap::new();
    for user in users {
        found.entry(user.database.clone()).or_default().merge(&user.sums);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_and_users_are_added_up() {
        let registry = Registry::default();
        registry.register(0, "app", "ann").queries.add(2);
        registry.register(1, "app", "ann").queries.add(3);
        registry.register(1, "app", "bob").queries.add(10);
        registry.register(1, "app", "bob").queries.add(10);
        let users = registry.users();
        let counts: Vec<_> = users.iter().map(|u| (u.user.as_str(), u.sums.count("queries"))).collect();
        assert_eq!(counts, [("ann", 5), ("bob", 20)]);
        assert_eq!(registry.databases()[0].sums.count("queries"), 25);
    }

    #[test]
    fn averages_are_those_of_the_last_period() {
        let registry = Registry::default();
        let stats = registry.register(0, "app", "ann");
        let start = Instant::now();
        stats.queries.add(1000);
        registry.end_period(start);
        assert_eq!(registry.databases()[0].averages, [0; STATS_COLUMNS.len()]);
        stats.queries.add(120);
        stats.query_time.record(Duration::from_micros(300));
        stats.query_time.record(Duration::from_micros(100));
        registry.end_period(start + Duration::from_secs(60));
        let averages = registry.databases()[0].averages;
        assert_eq!((averages[2], averages[6]), (2, 200));
        registry.end_period(start + Duration::from_secs(120));
        assert_eq!(registry.databases()[0].averages, [0; STATS_COLUMNS.len()]);
    }

    #[test]
    fn quantiles_lie_in_the_right_bucket() {
        let stats = PoolStats::default();
        for _ in 0..99 {
            stats.query_time.record(Duration::from_micros(100));
        }
        stats.query_time.record(Duration::from_secs(1));
        let mut sums = Sums::default();
        assert_eq!(sums.quantile_us("query", 0.5), 0);
        sums.add(&stats);
        assert!((64..=128).contains(&sums.quantile_us("query", 0.5)));
        assert!((64..=128).contains(&sums.quantile_us("query", 0.99)));
        assert!((524_288..=1_048_576).contains(&sums.quantile_us("query", 0.999)));
        stats.wait_time.record(Duration::from_secs(3600));
        sums.add(&stats);
        assert!(sums.quantile_us("wait", 0.5) >= 1 << 25, "the last bucket has no end");
    }

    #[test]
    fn names_are_unique_and_columns_have_a_source() {
        let names: std::collections::HashSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
        for column in &STATS_COLUMNS {
            let (Source::Count(name) | Source::Time(name)) = column.source;
            assert!(names.contains(name), "{name}");
        }
    }
}
