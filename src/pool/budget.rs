//! What the workers of one router share about a pool and about an instance: atomics, no decisions.
//!
//! Every worker writes its own `Share`; the others read it when they are short of servers. The orderings follow one rule:
//! *publish, then look*. A worker publishes a waiter (or its hunger) before it looks for servers, and publishes an idle server
//! (or a freed slot) before it looks for waiters, both `SeqCst`; so of two workers at least one sees the other.

use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// A pool's number in one router; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(pub u32);

/// A worker's number, from 0.
pub type WorkerId = usize;

/// A pool that has servers yields one to a starved pool only when that one has been starved this long.
const HUNGER_PATIENCE: Duration = Duration::from_millis(10);

/// Whether a pool gives out servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    Running,
    /// Clients wait; servers are closed as they come back.
    Paused,
    /// Clients are refused; servers are closed as they come back.
    Disabled,
}

/// One pool over all workers.
#[derive(Debug)]
pub struct PoolShared {
    pub id: PoolId,
    /// Instants are stored as nanoseconds since this one.
    epoch: Instant,
    /// Servers that hold a slot: connecting, idle, active, checked, closing, on the way between workers.
    open: AtomicU32,
    size: AtomicU32,
    waiting: AtomicU32,
    mode: AtomicU8,
    generation: AtomicU32,
    shares: Box<[Share]>,
}

/// What one worker tells the others. Each share lies in cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Share {
    pub(crate) idle: AtomicU32,
    pub(crate) active: AtomicU32,
    pub(crate) connecting: AtomicU32,
    pub(crate) checking: AtomicU32,
    pub(crate) waiters: AtomicU32,
    /// Since when the oldest waiter has waited, see `PoolShared::stamp`; 0 when nobody waits.
    pub(crate) oldest: AtomicU64,
    /// Servers that other workers have sent and this one has not yet taken. Written by all.
    pub(crate) incoming: AtomicU32,
}

/// The servers and waiters of a pool, summed over workers. Numbers of different moments, good for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolSnapshot {
    /// The most servers it may have.
    pub size: u32,
    pub open: u32,
    pub idle: u32,
    pub active: u32,
    /// Logging in.
    pub connecting: u32,
    /// Being asked for a sign of life.
    pub checking: u32,
    pub waiting: u32,
    /// How long the oldest waiter has waited.
    pub max_wait: Duration,
}

impl PoolShared {
    /// A pool of at most `size` servers, shared by `workers` workers.
    pub fn new(id: PoolId, workers: usize, size: u32, epoch: Instant) -> Self {
        Self {
            id,
            epoch,
            open: AtomicU32::new(0),
            size: AtomicU32::new(size),
            waiting: AtomicU32::new(0),
            mode: AtomicU8::new(Mode::Running as u8),
            generation: AtomicU32::new(0),
            shares: (0..workers).map(|_| Share::default()).collect(),
        }
    }

    /// The servers that hold a slot now.
    pub fn open(&self) -> u32 {
        self.open.load(SeqCst)
    }

    pub fn size(&self) -> u32 {
        self.size.load(Relaxed)
    }

    /// Changes the limit. Every worker must then be told (`Event::Refresh`).
    pub fn set_size(&self, size: u32) {
        self.size.store(size, SeqCst);
    }

    pub fn mode(&self) -> Mode {
        match self.mode.load(SeqCst) {
            0 => Mode::Running,
            1 => Mode::Paused,
            _ => Mode::Disabled,
        }
    }

    /// Changes the mode. Every worker must then be told (`Event::Refresh`). A pause is complete when `open()` is 0.
    pub fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, SeqCst);
    }

    /// Servers of an older generation are closed instead of used.
    pub fn generation(&self) -> u32 {
        self.generation.load(SeqCst)
    }

    /// Makes every server of today obsolete. Every worker must then be told (`Event::Refresh`).
    pub fn reconnect(&self) {
        self.generation.fetch_add(1, SeqCst);
    }

    /// Clients that wait, over all workers.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(SeqCst)
    }

    pub fn snapshot(&self, now: Instant) -> PoolSnapshot {
        let sum = |field: fn(&Share) -> &AtomicU32| self.shares.iter().map(|s| field(s).load(Relaxed)).sum();
        let oldest = self.shares.iter().map(|s| s.oldest.load(Relaxed)).filter(|&o| o != 0).min();
        PoolSnapshot {
            size: self.size(),
            open: self.open(),
            idle: sum(|s| &s.idle),
            active: sum(|s| &s.active),
            connecting: sum(|s| &s.connecting),
            checking: sum(|s| &s.checking),
            waiting: self.waiting(),
            max_wait: oldest.map_or(Duration::ZERO, |o| Duration::from_nanos(self.stamp(now).saturating_sub(o))),
        }
    }

    /// An instant as a number that is never 0.
    pub(crate) fn stamp(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.epoch).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX - 1) + 1
    }

    pub(crate) fn share(&self, worker: WorkerId) -> &Share {
        &self.shares[worker]
    }

    pub(crate) fn workers(&self) -> usize {
        self.shares.len()
    }

    /// Whether there are too many servers even when `closing` of them are gone.
    pub(crate) fn over_size(&self, closing: u32) -> bool {
        self.open.load(Relaxed).saturating_sub(closing) > self.size.load(Relaxed)
    }

    /// Servers that have logged in, on whatever worker.
    pub(crate) fn established(&self) -> u32 {
        let connecting = self.shares.iter().map(|s| s.connecting.load(SeqCst)).sum();
        self.open().saturating_sub(connecting)
    }

    pub(crate) fn has_room(&self) -> bool {
        self.open.load(SeqCst) < self.size.load(SeqCst)
    }

    pub(crate) fn take_slot(&self) -> bool {
        take_below(&self.open, self.size.load(SeqCst))
    }

    pub(crate) fn free_slot(&self) {
        let before = self.open.fetch_sub(1, SeqCst);
        assert!(before > 0, "a slot of the pool is freed once");
    }

    /// Counts a waiter in unless `max` are there.
    pub(crate) fn enter(&self, max: u32) -> bool {
        take_below(&self.waiting, max)
    }

    pub(crate) fn leave(&self) {
        let before = self.waiting.fetch_sub(1, SeqCst);
        assert!(before > 0, "a waiter leaves once");
    }

    /// The worker, other than `me`, whose oldest waiter is the oldest and is not yet being served, with that waiter's stamp.
    pub(crate) fn oldest_elsewhere(&self, me: WorkerId) -> Option<(WorkerId, u64)> {
        let others = self.shares.iter().enumerate().filter(|&(w, _)| w != me);
        others
            .filter(|(_, s)| s.waiters.load(SeqCst) > s.incoming.load(SeqCst))
            .map(|(w, s)| (w, s.oldest.load(SeqCst)))
            .filter(|&(_, oldest)| oldest != 0)
            .min_by_key(|&(_, oldest)| oldest)
    }
}

/// Adds 1 unless that would exceed `max`.
fn take_below(counter: &AtomicU32, max: u32) -> bool {
    counter.fetch_update(SeqCst, SeqCst, |n| (n < max).then_some(n + 1)).is_ok()
}

/// All servers of one router against one instance.
#[derive(Debug)]
pub struct InstanceBudget {
    open: AtomicU32,
    max: AtomicU32,
    /// How many entries `hungry` has, to be read without the lock.
    starved: AtomicU32,
    /// Servers that are being closed to make room and still hold their slots.
    yielding: AtomicU32,
    hungry: Mutex<Vec<Hungry>>,
    pools: Mutex<Vec<Weak<PoolShared>>>,
}

/// A worker's share of a pool that needs a server and may not connect, only because the instance is full.
#[derive(Debug)]
struct Hungry {
    pool: Arc<PoolShared>,
    worker: WorkerId,
    since: u64,
    /// It was told that there is room and has not looked yet.
    woken: AtomicBool,
}

impl InstanceBudget {
    pub fn new(max: u32) -> Self {
        Self {
            open: AtomicU32::new(0),
            max: AtomicU32::new(max),
            starved: AtomicU32::new(0),
            yielding: AtomicU32::new(0),
            hungry: Mutex::default(),
            pools: Mutex::default(),
        }
    }

    /// Makes the pool's idle servers known as candidates to be closed for others.
    pub fn enlist(&self, pool: &Arc<PoolShared>) {
        let mut pools = lock(&self.pools);
        pools.retain(|p| p.strong_count() > 0);
        pools.push(Arc::downgrade(pool));
    }

    pub fn open(&self) -> u32 {
        self.open.load(SeqCst)
    }

    pub fn max(&self) -> u32 {
        self.max.load(Relaxed)
    }

    /// Changes the limit. Every worker must then be told (`Event::Refresh` to its pools).
    pub fn set_max(&self, max: u32) {
        self.max.store(max, SeqCst);
    }

    /// Shares of pools that need a server and are held back by this limit alone.
    pub fn starved(&self) -> u32 {
        self.starved.load(SeqCst)
    }

    /// Whether there are too many servers even when `closing` of them are gone.
    pub(crate) fn over_max(&self, closing: u32) -> bool {
        self.open.load(Relaxed).saturating_sub(closing) > self.max.load(Relaxed)
    }

    fn has_room(&self) -> bool {
        self.open.load(SeqCst) < self.max.load(SeqCst)
    }

    /// Takes a slot, leaving one for every starved pool that has a better claim than `pool`: fewer servers, or as many and
    /// older waiters. The slot of the pool itself must be taken before.
    pub(crate) fn take_slot(&self, pool: &PoolShared, since: u64) -> bool {
        let reserved = if self.starved() == 0 {
            0
        } else {
            let mine = (pool.open(), since);
            let hungry = lock(&self.hungry);
            hungry.iter().filter(|h| h.pool.id != pool.id && (h.pool.open() + 1, h.since) < mine).count()
        };
        let reserved = u32::try_from(reserved).unwrap_or(u32::MAX);
        take_below(&self.open, self.max.load(SeqCst).saturating_sub(reserved))
    }

    pub(crate) fn free_slot(&self) {
        let before = self.open.fetch_sub(1, SeqCst);
        assert!(before > 0, "a slot of the instance is freed once");
    }

    /// Registers the hunger of one share of a pool, or takes note that it has looked for room again.
    pub(crate) fn starve(&self, pool: &Arc<PoolShared>, worker: WorkerId, since: u64) {
        let mut hungry = lock(&self.hungry);
        match hungry.iter_mut().find(|h| h.worker == worker && h.pool.id == pool.id) {
            Some(entry) => {
                entry.since = since;
                entry.woken.store(false, Relaxed);
            }
            None => hungry.push(Hungry { pool: Arc::clone(pool), worker, since, woken: AtomicBool::new(false) }),
        }
        self.starved.store(u32::try_from(hungry.len()).unwrap_or(u32::MAX), SeqCst);
    }

    /// Takes the hunger back.
    pub(crate) fn sate(&self, pool: PoolId, worker: WorkerId) {
        let mut hungry = lock(&self.hungry);
        hungry.retain(|h| h.worker != worker || h.pool.id != pool);
        self.starved.store(u32::try_from(hungry.len()).unwrap_or(u32::MAX), SeqCst);
    }

    /// When there is room and somebody starves: whom to tell. The same one is not told twice before it has looked.
    pub(crate) fn next_to_wake(&self) -> Option<(WorkerId, PoolId)> {
        if self.starved() == 0 || !self.has_room() {
            return None;
        }
        let hungry = lock(&self.hungry);
        let first = hungry.iter().min_by_key(|h| (h.pool.open(), h.since))?;
        (!first.woken.swap(true, Relaxed)).then_some((first.worker, first.pool.id))
    }

    /// Whether a server of `pool` should be closed now because another pool starves. Without a waiter of its own (`oldest`)
    /// always; else when the other has clearly fewer servers and has been patient (max-min fairness), or has none at all and
    /// has waited longer.
    pub(crate) fn should_yield(&self, pool: &PoolShared, oldest: Option<u64>, now: Instant) -> bool {
        if self.starved.load(SeqCst) == 0 || self.has_room() {
            return false;
        }
        let patient = pool.stamp(now).saturating_sub(u64::try_from(HUNGER_PATIENCE.as_nanos()).unwrap_or(u64::MAX));
        let hungry = lock(&self.hungry);
        let others = || hungry.iter().filter(|h| h.pool.id != pool.id);
        if self.yielding.load(SeqCst) as usize >= others().count() {
            return false;
        }
        others().any(|h| {
            let theirs = h.pool.open();
            let Some(mine) = oldest else { return true };
            (pool.open() > theirs + 1 && h.since < patient) || (theirs == 0 && h.since < mine)
        })
    }

    /// Counts servers that are being closed to make room.
    pub(crate) fn yielding(&self, began: bool) {
        if began {
            self.yielding.fetch_add(1, SeqCst);
        } else {
            self.yielding.fetch_sub(1, SeqCst);
        }
    }

    /// Where an idle server of another pool than `pool` is: on worker `me` if possible, else where most are.
    pub(crate) fn victim(&self, pool: PoolId, me: WorkerId) -> Option<(WorkerId, PoolId)> {
        let pools = lock(&self.pools);
        let others = pools.iter().filter_map(Weak::upgrade).filter(|p| p.id != pool);
        let places = others.flat_map(|p| (0..p.workers()).map(move |w| (p.share(w).idle.load(SeqCst), w, p.id)));
        let best = places.filter(|&(idle, ..)| idle > 0).max_by_key(|&(idle, w, _)| (w == me, idle));
        best.map(|(_, worker, pool)| (worker, pool))
    }
}

/// A panic while the lock was held leaves nothing half-written here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
