//! `sluice.unique_id()`: numbers that no other router gives, in the order of time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bits of the number of an id within its millisecond.
const COUNTER_BITS: u32 = 15;
/// Bits of the router's number.
const ROUTER_BITS: u32 = 7;
/// Where the milliseconds are counted from: the beginning of 2020. 41 bits of them last until 2089.
const EPOCH: Duration = Duration::from_secs(1_577_836_800);

/// Gives out ids, which are positive and so have 63 bits: 41 of milliseconds since the beginning of 2020, 7 of the router's number
/// (`listen.router_id`), 15 that count within the millisecond.
///
/// They rise always: when the clock goes back, and when a millisecond has used up its 32768 ids, the time of the last id goes on being
/// counted from. What the router does not remember is an earlier run of its own: a clock that went back meanwhile can give ids again.
#[derive(Debug)]
pub struct UniqueIds {
    router: u64,
    /// Milliseconds and counter of the last one.
    last: AtomicU64,
}

impl UniqueIds {
    /// `router` has at most 7 bits.
    pub fn new(router: u8) -> Self {
        Self { router: u64::from(router) & ((1 << ROUTER_BITS) - 1), last: AtomicU64::new(0) }
    }

    /// The next one.
    pub fn next(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.next_at(since.saturating_sub(EPOCH))
    }

    /// The next one at a time since the beginning of 2020.
    fn next_at(&self, time: Duration) -> i64 {
        let now = u64::try_from(time.as_millis()).unwrap_or(0) << COUNTER_BITS;
        let step = |last: u64| now.max(last + 1);
        let last = self.last.fetch_update(Relaxed, Relaxed, |last| Some(step(last))).unwrap_or_else(|last| last);
        let own = step(last);
        let (time, counter) = (own >> COUNTER_BITS, own & ((1 << COUNTER_BITS) - 1));
        let id = (time << (COUNTER_BITS + ROUTER_BITS)) | (self.router << COUNTER_BITS) | counter;
        i64::try_from(id & (u64::MAX >> 1)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_whatever_the_clock_does() {
        let ids = UniqueIds::new(5);
        let at = |millis: u64| ids.next_at(Duration::from_millis(millis));
        let first = at(1000);
        assert_eq!(first, (1000 << 22) | (5 << 15));
        assert_eq!(at(1000), first + 1);
        assert_eq!(at(999), first + 2, "the clock has gone back");
        assert_eq!(at(1001), (1001 << 22) | (5 << 15));
    }

    #[test]
    fn a_full_millisecond_borrows_from_the_next() {
        let (one, other) = (UniqueIds::new(1), UniqueIds::new(2));
        let time = Duration::from_millis(7);
        let mut ids: Vec<i64> = (0..70_000).flat_map(|_| [one.next_at(time), other.next_at(time)]).collect();
        assert!(ids.iter().step_by(2).is_sorted());
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 140_000);
    }
}
