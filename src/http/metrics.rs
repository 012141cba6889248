//! The view as OpenMetrics text, through `prometheus-client`.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::stats::{HISTOGRAM_BUCKETS, METRICS, Reader, Sum};
use crate::view::{InstanceRow, PoolRow, View};

/// Exported upper bounds: 2^5 to 2^25 microseconds (32 us to 34 s). Shorter ones are counted with the
/// first: every bucket is a series per database and user.
const FIRST_BUCKET: usize = 5;
const LAST_BUCKET: usize = HISTOGRAM_BUCKETS - 2;

type Labels<'a> = Vec<(&'static str, &'a str)>;

/// Everything at this moment, as `/metrics` answers it.
///
/// # Errors
/// Never in practice: writing to a string does not fail.
pub fn encode(view: View) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("sluice");
    registry.register_collector(Box::new(Snapshot(view)));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct Snapshot(View);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.counters(&mut encoder)?;
        self.pools(&mut encoder)?;
        self.instances(&mut encoder)?;
        self.whole(&mut encoder)
    }
}

/// Clients or servers of a pool in one state.
type Count = (&'static str, fn(&PoolRow) -> u64);

/// A gauge: name, help, and how it is read from a row.
type Gauge<R> = (&'static str, &'static str, Option<Unit>, fn(&R) -> Option<f64>);

impl Snapshot {
    /// Everything of [`METRICS`], per database and user.
    fn counters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (at, metric) in METRICS.iter().enumerate() {
            let (unit, kind) = match (metric.unit, metric.reader) {
                (crate::stats::Unit::Bytes, _) => (Some(Unit::Bytes), MetricType::Counter),
                (_, Reader::Counter(_)) => (None, MetricType::Counter),
                (_, Reader::Histogram(_)) => (Some(Unit::Seconds), MetricType::Histogram),
            };
            let mut family = encoder.encode_descriptor(metric.name, metric.help, unit.as_ref(), kind)?;
            for stats in &self.0.user_stats {
                let labels: Labels<'_> = vec![("database", &stats.database), ("user", &stats.user)];
                let encoder = family.encode_family(&labels)?;
                if let Some((_, sum)) = stats.sums.iter().nth(at) {
                    encode_sum(encoder, sum)?;
                }
            }
        }
        Ok(())
    }

    fn pools(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut by_user: BTreeMap<(&str, &str), PoolRow> = BTreeMap::new();
        let mut by_instance: BTreeMap<(&str, &str, &str), PoolRow> = BTreeMap::new();
        for row in &self.0.pools {
            let zero = || PoolRow::new(&row.database, &row.user, row.mode);
            by_user.entry((&row.database, &row.user)).or_insert_with(zero).add(row);
            if let Some(instance) = &row.instance {
                by_instance.entry((&row.database, &row.user, instance)).or_insert_with(zero).add(row);
            }
        }
        let clients: [Count; 3] =
            [("active", |p| p.cl_active), ("waiting", |p| p.cl_waiting), ("pinned", |p| p.cl_pinned)];
        let mut family = encoder.encode_descriptor("clients", "Clients by state", None, MetricType::Gauge)?;
        for ((database, user), row) in &by_user {
            for (state, read) in &clients {
                let labels: Labels<'_> = vec![("database", database), ("user", user), ("state", state)];
                family.encode_family(&labels)?.encode_gauge(&signed(read(row)))?;
            }
        }
        let servers: [Count; 4] = [
            ("active", |p| p.sv_active + p.sv_active_cancel + p.sv_being_canceled),
            ("idle", |p| p.sv_idle + p.sv_used),
            ("tested", |p| p.sv_tested),
            ("login", |p| p.sv_login),
        ];
        let mut family = encoder.encode_descriptor("servers", "Servers by state", None, MetricType::Gauge)?;
        for ((database, user, instance), row) in &by_instance {
            for (state, read) in &servers {
                let labels: Labels<'_> =
                    vec![("database", database), ("user", user), ("instance", instance), ("state", state)];
                family.encode_family(&labels)?.encode_gauge(&signed(read(row)))?;
            }
        }
        let help = "How long the client that waits longest has been waiting";
        let unit = Unit::Seconds;
        let mut family = encoder.encode_descriptor("longest_wait", help, Some(&unit), MetricType::Gauge)?;
        for ((database, user), row) in &by_user {
            let labels: Labels<'_> = vec![("database", database), ("user", user)];
            family.encode_family(&labels)?.encode_gauge(&row.maxwait.as_secs_f64())?;
        }
        Ok(())
    }

    fn instances(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let gauges: [Gauge<InstanceRow>; 4] = [
            ("instance_up", "Whether the instance answered its last health check", None, |i| {
                Some(f64::from(u8::from(i.up)))
            }),
            ("replica_lag", "How old the data of a replica is at most", Some(Unit::Seconds), |i| {
                i.lag.map(|lag| lag.as_secs_f64())
            }),
            ("instance_servers", "Servers against the instance, all pools together", None, |i| Some(i.servers as f64)),
            ("instance_servers_limit", "How many of them there may be", None, |i| Some(i.servers_max as f64)),
        ];
        for (name, help, unit, read) in &gauges {
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            for row in &self.0.instances {
                let Some(value) = read(row) else { continue };
                let labels: Labels<'_> = vec![
                    ("database", &row.database),
                    ("shard", &row.shard),
                    ("instance", &row.address),
                    ("role", row.role.name()),
                ];
                family.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
        let mut family =
            encoder.encode_descriptor("shard_ready", "Whether the shard has a primary", None, MetricType::Gauge)?;
        for row in &self.0.shards {
            let labels: Labels<'_> = vec![("database", &row.database), ("shard", &row.name)];
            let ready = i64::from(row.problem.is_none() && row.primary.is_some());
            family.encode_family(&labels)?.encode_gauge(&ready)?;
        }
        Ok(())
    }

    fn whole(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let view = &self.0;
        let gauges = [
            ("clients_limit", "How many clients there may be", view.clients_max),
            ("clients_in_login", "Clients that have not ended their login", view.login_clients),
            ("problems", "Things that SHOW PROBLEMS lists", u64::try_from(view.problems.len()).unwrap_or(u64::MAX)),
            ("paused", "Whether all databases are paused", u64::from(view.halted.paused)),
            ("draining", "Whether the router waits for its clients to leave", u64::from(view.draining)),
        ];
        for (name, help, value) in gauges {
            encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&signed(value))?;
        }
        let version: Labels<'_> = vec![("version", env!("CARGO_PKG_VERSION"))];
        encoder.encode_descriptor("build", "What runs", None, MetricType::Info)?.encode_info(&version)
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn encode_sum(mut encoder: MetricEncoder<'_>, sum: &Sum) -> fmt::Result {
    match sum {
        Sum::Counter(value) => encoder.encode_counter::<NoLabelSet, _, f64>(value, None),
        Sum::Histogram { counts, sum_us } => {
            let short: u64 = counts[..FIRST_BUCKET].iter().sum();
            let long: u64 = counts[LAST_BUCKET + 1..].iter().sum();
            let bound = |bucket: usize| (1_u64 << bucket) as f64 / 1e6;
            let mut buckets: Vec<(f64, u64)> =
                (FIRST_BUCKET..=LAST_BUCKET).map(|bucket| (bound(bucket), counts[bucket])).collect();
            if let Some(first) = buckets.first_mut() {
                first.1 += short;
            }
            buckets.push((f64::MAX, long));
            encoder.encode_histogram::<NoLabelSet>(*sum_us as f64 / 1e6, counts.iter().sum(), &buckets, None)
        }
    }
}
