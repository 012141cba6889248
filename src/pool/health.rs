//! What is known of the instances of one shard: up or down, primary or replica, and how fresh a replica is.
//!
//! Pure: the prober hands in answers with their times (`Health::record`), workers read atomics (`InstanceHealth`).
//!
//! **Freshness.** The prober asks the primary for its LSN and notes the time *T before* it asked: everything acknowledged before T
//! lies at or before that LSN. A replica that has replayed that LSN is *fresh as of T*. No clock but the router's own is compared,
//! so clocks of servers do not matter. Lag is now minus that; it grows between probes, hence `lag_max` should be some probe
//! intervals.
//!
//! **Reads of own writes.** A session whose last write was acknowledged at W may read from a replica that is fresh as of a T > W.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicU8, AtomicU64,
    Ordering::{AcqRel, Acquire, Release},
};
use std::time::{Duration, Instant};

use crate::pool::error::error_field;
use crate::prober::{self, ProbeResult};

/// Samples of the primary's position that are kept; beyond it the older half is thinned out.
const SAMPLES_MAX: usize = 256;

/// What an instance last said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Not asked yet.
    Unknown,
    Primary,
    /// In recovery.
    Replica,
    /// No answer, or a primary that another one has replaced.
    Down,
}

/// One instance's health, written by the prober, read by every worker.
#[derive(Debug)]
pub struct InstanceHealth {
    epoch: Instant,
    /// Nanoseconds.
    lag_max: AtomicU64,
    state: AtomicU8,
    /// See `stamp`; 0 when nothing is known.
    fresh_as_of: AtomicU64,
    /// Out of use until a good probe after this; 0 when in use.
    out_until: AtomicU64,
}

/// Why an instance is taken out of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No connection, or it broke, or the server is starting up or shutting down.
    Unreachable,
    /// Replay cancelled a query: reads and replay fight for the same rows.
    RecoveryConflict,
}

impl Fault {
    /// How long the instance stays out at least.
    pub fn backoff(self) -> Duration {
        match self {
            Self::Unreachable => Duration::from_secs(2),
            Self::RecoveryConflict => Duration::from_secs(1),
        }
    }

    /// The fault of a replica that an ErrorResponse tells, if any. `body` is the message without its header.
    ///
    /// Messages are translated, so codes decide: a replica cannot run serializable transactions nor take row locks, hence 40001
    /// and 40P01 from it are conflicts with recovery.
    pub fn of_replica(body: &[u8]) -> Option<Self> {
        match error_field(body, b'C')? {
            b"40001" | b"40P01" => Some(Self::RecoveryConflict),
            b"57P01" | b"57P02" | b"57P03" | b"53300" => Some(Self::Unreachable),
            code if code.starts_with(b"08") => Some(Self::Unreachable),
            _ => None,
        }
    }
}

impl InstanceHealth {
    /// Nothing known yet. Instants are stored as nanoseconds since `epoch`.
    pub fn new(lag_max: Duration, epoch: Instant) -> Self {
        Self {
            epoch,
            lag_max: AtomicU64::new(nanos(lag_max)),
            state: AtomicU8::new(State::Unknown as u8),
            fresh_as_of: AtomicU64::new(0),
            out_until: AtomicU64::new(0),
        }
    }

    pub fn state(&self) -> State {
        match self.state.load(Acquire) {
            0 => State::Unknown,
            1 => State::Primary,
            2 => State::Replica,
            _ => State::Down,
        }
    }

    /// Everything that was acknowledged before this instant can be read here.
    pub fn fresh_as_of(&self) -> Option<Instant> {
        match self.fresh_as_of.load(Acquire) {
            0 => None,
            nanos => Some(self.epoch + Duration::from_nanos(nanos - 1)),
        }
    }

    /// How far behind a replica is, at most.
    pub fn lag(&self, now: Instant) -> Option<Duration> {
        self.fresh_as_of().map(|at| now.saturating_duration_since(at))
    }

    /// Whether it was taken out of use and no good probe has brought it back.
    pub fn is_out(&self) -> bool {
        self.out_until.load(Acquire) != 0
    }

    /// Takes the instance out of use; a good probe after the fault's back-off brings it back. Any worker may call this.
    pub fn take_out(&self, fault: Fault, now: Instant) {
        self.out_until.fetch_max(self.stamp(now + fault.backoff()), AcqRel);
    }

    /// A replica further behind than this gets no reads.
    pub fn set_lag_max(&self, lag_max: Duration) {
        self.lag_max.store(nanos(lag_max), Release);
    }

    /// Whether a read may go here: a replica in use, not too far behind, and fresher than the session's last write on the shard.
    pub fn serves_reads(&self, now: Instant, wrote: Option<Instant>) -> bool {
        if self.state() != State::Replica || self.is_out() {
            return false;
        }
        let fresh = self.fresh_as_of.load(Acquire);
        fresh != 0
            && self.stamp(now).saturating_sub(fresh) <= self.lag_max.load(Acquire)
            && wrote.is_none_or(|w| fresh > self.stamp(w))
    }

    fn stamp(&self, at: Instant) -> u64 {
        nanos(at.saturating_duration_since(self.epoch)).saturating_add(1)
    }

    fn set_state(&self, state: State) {
        self.state.store(state as u8, Release);
    }

    fn came_back(&self, now: Instant) {
        let until = self.out_until.load(Acquire);
        if until != 0 && self.stamp(now) >= until {
            // When a new fault came in between, it stays out.
            let _ = self.out_until.compare_exchange(until, 0, AcqRel, Acquire);
        }
    }
}

/// An answer of one instance, or its absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The instance's number in the shard: 0 is the configured primary, then the replicas.
    pub instance: usize,
    /// When the question was sent: a moment *before* that.
    pub asked_at: Instant,
    pub answer: Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `pg_is_in_recovery()` is false. `lsn` is `pg_current_wal_insert_lsn()` (or `pg_current_wal_lsn()` where nobody commits
    /// asynchronously), `timeline` the first eight hex digits of `pg_walfile_name(lsn)`, 0 when unknown.
    Primary { lsn: u64, timeline: u32 },
    /// `pg_is_in_recovery()` is true; `replayed` is `pg_last_wal_replay_lsn()`, 0 when NULL.
    Replica { replayed: u64 },
    /// No answer in time, no connection, an error.
    Down,
}

impl From<&ProbeResult> for Probe {
    fn from(result: &ProbeResult) -> Self {
        let lsn = |probe: &prober::Probe| probe.lsn.map_or(0, |lsn| lsn.0);
        let answer = match &result.answer {
            Err(_) => Answer::Down,
            Ok(probe) if probe.in_recovery => Answer::Replica { replayed: lsn(probe) },
            Ok(probe) => Answer::Primary { lsn: lsn(probe), timeline: probe.timeline },
        };
        Self { instance: result.instance, asked_at: result.asked, answer }
    }
}

/// What happened to the primary by a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    None,
    /// Another instance is the primary now.
    Primary {
        instance: usize,
    },
}

/// The instances of one shard. The prober owns it.
#[derive(Debug)]
pub struct Health {
    instances: Vec<Arc<InstanceHealth>>,
    /// The instance that is the primary, with its timeline.
    primary: Option<(usize, u32)>,
    /// The primary's position and a time before which everything lies at or before it. Both never fall.
    samples: VecDeque<(Instant, u64)>,
}

impl Health {
    /// A shard of `instances` instances of which nothing is known.
    pub fn new(instances: usize, lag_max: Duration, epoch: Instant) -> Self {
        let instances = (0..instances).map(|_| Arc::new(InstanceHealth::new(lag_max, epoch))).collect();
        Self { instances, primary: None, samples: VecDeque::new() }
    }

    /// The handle for workers.
    pub fn instance(&self, index: usize) -> &Arc<InstanceHealth> {
        &self.instances[index]
    }

    pub fn instances(&self) -> &[Arc<InstanceHealth>] {
        &self.instances
    }

    /// The instance that is the primary by the last probes.
    pub fn primary(&self) -> Option<usize> {
        self.primary.map(|(instance, _)| instance)
    }

    /// Takes note of an answer. For fresh replicas, probe the primary first and the replicas after it.
    pub fn record(&mut self, probe: Probe, now: Instant) -> Change {
        let health = Arc::clone(&self.instances[probe.instance]);
        match probe.answer {
            Answer::Down => {
                health.set_state(State::Down);
                Change::None
            }
            Answer::Primary { lsn, timeline } => {
                let change = self.claim(probe.instance, timeline);
                if self.primary() == Some(probe.instance) {
                    self.sample(probe.asked_at, lsn);
                    health.set_state(State::Primary);
                    health.came_back(now);
                }
                change
            }
            Answer::Replica { replayed } => {
                if self.primary() == Some(probe.instance) {
                    self.forget_primary();
                }
                if let Some(fresh) = self.fresh(replayed) {
                    health.fresh_as_of.fetch_max(health.stamp(fresh), AcqRel);
                }
                health.set_state(State::Replica);
                health.came_back(now);
                Change::None
            }
        }
    }

    /// Decides whether `instance`, which says it is the primary, is it. The higher timeline wins; of equals, a live one stays.
    fn claim(&mut self, instance: usize, timeline: u32) -> Change {
        match self.primary {
            Some((current, known)) if current == instance => {
                if known != timeline {
                    // Put back to an earlier state, or promoted between two probes.
                    self.forget_primary();
                }
                self.primary = Some((instance, timeline));
                return Change::None;
            }
            Some((current, known)) => {
                let alive = self.instances[current].state() == State::Primary;
                if timeline < known || (timeline == known && alive) {
                    self.instances[instance].set_state(State::Down);
                    return Change::None;
                }
                self.instances[current].set_state(State::Down);
            }
            None => {}
        }
        self.forget_primary();
        self.primary = Some((instance, timeline));
        Change::Primary { instance }
    }

    /// Positions of another timeline cannot be compared: all that was known of freshness is void.
    fn forget_primary(&mut self) {
        self.primary = None;
        self.samples.clear();
        self.instances.iter().for_each(|i| i.fresh_as_of.store(0, Release));
    }

    fn sample(&mut self, at: Instant, lsn: u64) {
        match self.samples.back_mut() {
            // An answer that was overtaken by a later one says nothing new.
            Some(last) if at < last.0 || lsn < last.1 => return,
            // An idle primary: one sample that moves.
            Some(last) if lsn == last.1 => {
                last.0 = at;
                return;
            }
            _ => self.samples.push_back((at, lsn)),
        }
        if self.samples.len() > SAMPLES_MAX {
            let half = self.samples.len() / 2;
            let mut index = 0;
            self.samples.retain(|_| {
                index += 1;
                index > half || index % 2 == 0
            });
        }
    }

    /// The time of the latest sample that has been replayed.
    fn fresh(&self, replayed: u64) -> Option<Instant> {
        let after = self.samples.partition_point(|&(_, lsn)| lsn <= replayed);
        after.checked_sub(1).map(|i| self.samples[i].0)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const LAG_MAX: Duration = Duration::from_secs(1);

    fn primary(health: &mut Health, instance: usize, at: Instant, lsn: u64, timeline: u32) -> Change {
        health.record(Probe { instance, asked_at: at, answer: Answer::Primary { lsn, timeline } }, at)
    }

    fn replica(health: &mut Health, instance: usize, at: Instant, replayed: u64) -> Change {
        health.record(Probe { instance, asked_at: at, answer: Answer::Replica { replayed } }, at)
    }

    #[test]
    fn a_replica_is_fresh_as_of_the_last_position_it_has_replayed() {
        let t = Instant::now();
        let mut health = Health::new(2, LAG_MAX, t);
        primary(&mut health, 0, t, 100, 1);
        primary(&mut health, 0, t + 100 * MS, 200, 1);
        primary(&mut health, 0, t + 200 * MS, 300, 1);
        replica(&mut health, 1, t + 210 * MS, 250);
        let one = Arc::clone(health.instance(1));
        assert_eq!(one.fresh_as_of(), Some(t + 100 * MS));
        assert_eq!(one.lag(t + 300 * MS), Some(200 * MS));
        assert!(one.serves_reads(t + 300 * MS, None));
        assert!(!one.serves_reads(t + 1101 * MS, None), "too far behind");
        assert!(one.serves_reads(t + 300 * MS, Some(t + 99 * MS)));
        assert!(!one.serves_reads(t + 300 * MS, Some(t + 100 * MS)), "the write may be missing");
    }

    #[test]
    fn an_idle_primary_keeps_its_replicas_fresh() {
        let t = Instant::now();
        let mut health = Health::new(2, LAG_MAX, t);
        for second in 0..1000 {
            primary(&mut health, 0, t + second * 1000 * MS, 100, 1);
        }
        replica(&mut health, 1, t + 999_001 * MS, 100);
        assert_eq!(health.instance(1).lag(t + 999_001 * MS), Some(MS));
    }

    #[test]
    fn many_samples_are_thinned_out_and_stay_true() {
        let t = Instant::now();
        let mut health = Health::new(2, LAG_MAX, t);
        for i in 0..5000_u32 {
            primary(&mut health, 0, t + i * MS, u64::from(i), 1);
        }
        assert!(health.samples.len() <= SAMPLES_MAX);
        for replayed in (0..5000_u32).step_by(37) {
            let fresh = health.fresh(u64::from(replayed));
            assert!(fresh.is_none_or(|at| at <= t + replayed * MS), "never fresher than true");
        }
        assert_eq!(health.fresh(10_000), Some(t + 4999 * MS));
    }

    #[test]
    fn a_fault_takes_a_replica_out_until_a_good_probe_after_the_backoff() {
        let t = Instant::now();
        let mut health = Health::new(2, LAG_MAX, t);
        primary(&mut health, 0, t, 100, 1);
        replica(&mut health, 1, t, 100);
        let one = Arc::clone(health.instance(1));
        one.take_out(Fault::RecoveryConflict, t);
        assert!(!one.serves_reads(t, None));
        replica(&mut health, 1, t + 500 * MS, 100);
        assert!(one.is_out(), "too early");
        replica(&mut health, 1, t + 1000 * MS, 100);
        assert!(!one.is_out());
        assert_eq!(Fault::of_replica(b"SFEHLER\0C40001\0Mmit Wiederherstellung\0\0"), Some(Fault::RecoveryConflict));
        assert_eq!(Fault::of_replica(b"SERROR\0C42P01\0Mno such table\0\0"), None);
    }

    #[test]
    fn a_promoted_replica_wins_over_a_primary_that_still_answers() {
        let t = Instant::now();
        let mut health = Health::new(2, LAG_MAX, t);
        let answer = |instance, timeline| {
            let answer = Ok(prober::Probe {
                in_recovery: false,
                lsn: Some(prober::Lsn(100)),
                max_prepared_transactions: 0,
                timeline,
                cluster: None,
            });
            let shard = pgsluice_sharding::ShardId(0);
            Probe::from(&ProbeResult { shard, instance, asked: t, answered: t, primary: None, answer })
        };
        assert_eq!(health.record(answer(0, 1), t), Change::Primary { instance: 0 });
        assert_eq!(health.record(answer(1, 2), t), Change::Primary { instance: 1 });
        assert_eq!(health.record(answer(0, 1), t), Change::None);
        assert_eq!(health.instance(0).state(), State::Down);
    }

    #[test]
    fn positions_before_another_timeline_of_the_same_primary_say_nothing() {
        let t = Instant::now();
        let mut health = Health::new(2, LAG_MAX, t);
        primary(&mut health, 0, t, 100, 1);
        primary(&mut health, 0, t + MS, 50, 2);
        replica(&mut health, 1, t + 2 * MS, 60);
        assert_eq!(health.instance(1).fresh_as_of(), Some(t + MS));
    }

    #[test]
    fn after_a_promotion_the_old_primary_does_not_come_back_by_itself() {
        let t = Instant::now();
        let mut health = Health::new(3, LAG_MAX, t);
        assert_eq!(primary(&mut health, 0, t, 100, 1), Change::Primary { instance: 0 });
        replica(&mut health, 1, t, 100);
        replica(&mut health, 2, t, 100);
        health.record(Probe { instance: 0, asked_at: t + MS, answer: Answer::Down }, t + MS);
        assert_eq!(primary(&mut health, 1, t + 2 * MS, 120, 2), Change::Primary { instance: 1 });
        assert_eq!(health.instance(2).fresh_as_of(), None, "positions of the old timeline say nothing");
        assert_eq!(primary(&mut health, 0, t + 3 * MS, 130, 1), Change::None);
        assert_eq!((health.primary(), health.instance(0).state()), (Some(1), State::Down));
    }
}
