//! Which instance of a shard answers a read. Pure; one `Balance` per worker and shard, so nothing here is shared.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pool::health::{InstanceHealth, State};

/// Counts what each instance of a shard is doing for this worker, and chooses among them.
#[derive(Debug)]
pub struct Balance {
    instances: Vec<Arc<InstanceHealth>>,
    /// Requests of this worker that are under way, per instance.
    outstanding: Vec<u32>,
    /// Where the search for the next one begins, so that equals take turns.
    turn: usize,
}

impl Balance {
    /// `instances[0]` is the configured primary.
    pub fn new(instances: Vec<Arc<InstanceHealth>>) -> Self {
        assert!(!instances.is_empty(), "a shard has a primary");
        Self { outstanding: vec![0; instances.len()], instances, turn: 0 }
    }

    /// The instance that is the primary: the one that says so, else the configured one.
    pub fn primary(&self) -> usize {
        self.instances.iter().position(|i| i.state() == State::Primary).unwrap_or(0)
    }

    /// The instance for a read by a session that last wrote to this shard at `wrote`: of the replicas that may answer it the one with
    /// the fewest requests under way; equals take turns; the primary when there is none.
    pub fn for_read(&mut self, now: Instant, lag_max: Duration, wrote: Option<Instant>) -> usize {
        let n = self.instances.len();
        let order = (0..n).map(|i| (self.turn + i) % n);
        let able = order.filter(|&i| self.instances[i].may_read(now, lag_max, wrote));
        match able.min_by_key(|&i| self.outstanding[i]) {
            Some(chosen) => {
                self.turn = (chosen + 1) % n;
                chosen
            }
            None => self.primary(),
        }
    }

    /// A request goes to `instance`.
    pub fn begin(&mut self, instance: usize) {
        self.outstanding[instance] += 1;
    }

    /// A request that began has ended, well or not.
    pub fn end(&mut self, instance: usize) {
        assert!(self.outstanding[instance] > 0, "what ends has begun");
        self.outstanding[instance] -= 1;
    }

    pub fn outstanding(&self, instance: usize) -> u32 {
        self.outstanding[instance]
    }

    pub fn health(&self, instance: usize) -> &InstanceHealth {
        &self.instances[instance]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::health::{Answer, Fault, Health, Probe};

    const LAG_MAX: Duration = Duration::from_secs(1);

    fn shard(replicas: usize, t: Instant) -> (Health, Balance) {
        let mut health = Health::new(replicas + 1, t);
        let probe = |instance, answer| Probe { instance, asked_at: t, answer };
        health.record(probe(0, Answer::Primary { lsn: 1, timeline: 1 }), t);
        for replica in 1..=replicas {
            health.record(probe(replica, Answer::Replica { replayed: 1 }), t);
        }
        let balance = Balance::new(health.instances().to_vec());
        (health, balance)
    }

    #[test]
    fn equals_take_turns_and_the_least_busy_is_first() {
        let t = Instant::now();
        let (_, mut balance) = shard(3, t);
        let chosen: Vec<_> = (0..4).map(|_| balance.for_read(t, LAG_MAX, None)).collect();
        assert_eq!(chosen, [1, 2, 3, 1]);
        balance.begin(2);
        balance.begin(3);
        assert_eq!(balance.for_read(t, LAG_MAX, None), 1);
        balance.begin(1);
        balance.begin(1);
        balance.end(3);
        assert_eq!(balance.for_read(t, LAG_MAX, None), 3);
    }

    #[test]
    fn the_primary_answers_when_no_replica_may() {
        let t = Instant::now();
        let (health, mut balance) = shard(2, t);
        assert_eq!(balance.for_read(t, LAG_MAX, Some(t)), 0, "the session's write may not be there yet");
        health.instance(1).take_out(Fault::Unreachable, t);
        assert_eq!(balance.for_read(t, LAG_MAX, None), 2);
        assert_eq!(balance.for_read(t + 2 * LAG_MAX, LAG_MAX, None), 0, "nobody has heard of them for too long");
    }
}
