//! One worker's share of one pool: who gets which server, when to connect, when to close.
//!
//! Pure: events in, actions out, time an argument; what other workers do is seen through the atomics of `budget`. The driver
//! (or a simulation) calls `handle`, `wait`, `try_take`, then `poll_action` until it is empty, and `handle_timeout` when
//! `poll_timeout` has come. Servers are held **by value**: a server is idle here, or in an action, or with its client, never twice.
//!
//! ```text
//!            Connect ─► Connected ─┐                      ┌─► Grant (own waiter) ─► Released ─┐
//!   a slot ──┤                     ├─► place: who needs ──┼─► Lend (another worker)           │
//!            └ ConnectFailed       │   it most?           ├─► idle ─► Check ─► Checked        │
//!                       Lent ──────┘                      └─► Close ─► Closed ─► a free slot  │
//!                         ▲───────────────────────────────────────────────────────────────────┘
//! ```
//!
//! First come, first served: strictly among the waiters of one worker; between workers up to `LEND_SLACK`.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use crate::pool::budget::{InstanceBudget, Mode, PoolId, PoolShared, WorkerId};
use crate::pool::error::{ConnectError, Refusal};

/// A server is lent to another worker past an own waiter only when the other's waiter is older by more than this.
pub const LEND_SLACK: Duration = Duration::from_millis(5);

/// Blocked waiters look again this often, whatever happens: the net under the wake-ups.
const RECHECK: Duration = Duration::from_millis(100);

/// The pause after a first failed attempt to connect; it doubles with every further one.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// What the core must know of a server.
pub trait Pooled {
    fn stamp(&self) -> Stamp;
}

/// The birth of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Unique in the router; spreads the ends of lifetimes.
    pub id: u64,
    /// The pool's generation when the server was connected.
    pub generation: u32,
    pub connected_at: Instant,
}

/// A waiter's number; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterId(u64);

/// The settings of a pool that are not shared atomics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    pub wait_timeout: Duration,
    /// Waiters at a time, over all workers.
    pub waiting_max: u32,
    pub idle_timeout: Duration,
    /// Servers live between 7/8 of this and this.
    pub lifetime: Duration,
    /// A server that has been idle this long is checked before it is used.
    pub check_delay: Duration,
    /// While no server can be reached at all, waiters are kept this long before they get the error.
    pub unreachable_grace: Duration,
}

/// What happened.
#[derive(Debug)]
pub enum Event<S> {
    /// A waiter went away before it was granted or refused anything.
    Left {
        waiter: WaiterId,
    },
    /// A client gave its server back in a state to be used by others.
    Released {
        server: S,
    },
    /// A client gave its server back and nobody may use it again.
    Broken {
        server: S,
    },
    /// An active server vanished with its client; its socket is closed.
    Lost,
    /// The answers to `Action::Connect`.
    Connected {
        server: S,
    },
    ConnectFailed {
        error: Arc<ConnectError>,
    },
    /// The answers to `Action::Check`.
    Checked {
        server: S,
    },
    CheckFailed {
        server: S,
    },
    /// The answer to `Action::Close`: the socket is closed.
    Closed,
    /// Another worker would like an idle server.
    Asked {
        by: WorkerId,
    },
    /// Another worker sent a server, unless it broke on the way. `asked` when it answers an `Action::Ask`.
    Lent {
        by: WorkerId,
        server: Option<S>,
        asked: bool,
    },
    /// Another worker has no idle server after all.
    Declined {
        by: WorkerId,
    },
    /// The pool or the instance may have room.
    Room,
    /// Another pool of the instance needs room.
    Evict,
    /// Mode, generation or a limit has changed.
    Refresh,
}

/// What the driver must do.
#[derive(Debug)]
pub enum Action<S, W> {
    /// Log in a new server; answer with `Connected` or `ConnectFailed`. Slots are taken.
    Connect {
        generation: u32,
    },
    Grant {
        waiter: W,
        server: S,
    },
    Refuse {
        waiter: W,
        why: Refusal,
    },
    /// Answer with `Closed` when the socket is closed.
    Close {
        server: S,
        why: CloseReason,
    },
    /// Ask for a sign of life; answer with `Checked` or `CheckFailed`.
    Check {
        server: S,
    },
    /// Move the server to another worker: `Lent` there.
    Lend {
        to: WorkerId,
        server: S,
        asked: bool,
    },
    /// `Asked` there.
    Ask {
        of: WorkerId,
    },
    /// `Declined` there.
    Decline {
        to: WorkerId,
    },
    /// `Room` at that worker's share of that pool.
    Wake {
        worker: WorkerId,
        pool: PoolId,
    },
    /// `Evict` at that worker's share of that pool.
    Evict {
        worker: WorkerId,
        pool: PoolId,
    },
}

/// Why a server is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    Broken,
    /// It gave no sign of life.
    Dead,
    Idle,
    Lifetime,
    /// RECONNECT, or new settings.
    Obsolete,
    Paused,
    OverLimit,
    /// Another pool of the instance needs the room.
    MakeRoom,
}

#[derive(Debug)]
struct Idle<S> {
    server: S,
    since: Instant,
}

#[derive(Debug)]
struct Waiter<W> {
    id: WaiterId,
    /// `None` when the waiter has left; the entry goes when it reaches the front.
    handle: Option<W>,
    since: Instant,
}

/// No attempt to connect has succeeded since.
#[derive(Debug)]
struct Failure {
    error: Arc<ConnectError>,
    retry_at: Instant,
    backoff: Duration,
}

/// Servers of this share that are neither idle nor waiting in an action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub active: u32,
    pub connecting: u32,
    pub checking: u32,
    pub closing: u32,
    /// Requests to other workers without an answer yet.
    pub asking: u32,
    /// Of `closing`: to make room for other pools.
    yielding: u32,
}

/// One worker's share of one pool. `S` is a server, `W` whatever reaches a waiter.
#[derive(Debug)]
pub struct PoolCore<S, W> {
    me: WorkerId,
    shared: Arc<PoolShared>,
    instance: Arc<InstanceBudget>,
    limits: Arc<PoolLimits>,
    mode: Mode,
    generation: u32,
    /// Coldest first.
    idle: VecDeque<Idle<S>>,
    /// Oldest first; the front has not left.
    waiters: VecDeque<Waiter<W>>,
    /// Entries of `waiters` that have not left.
    live: u32,
    next_waiter: u64,
    counts: Counts,
    /// Unanswered requests to each worker.
    asked: Box<[u32]>,
    failure: Option<Failure>,
    /// Registered at the instance as starved.
    hungry: bool,
    /// No further eviction is asked for before this.
    evict_again_at: Option<Instant>,
    recheck_at: Option<Instant>,
    actions: VecDeque<Action<S, W>>,
}

impl<S: Pooled, W> PoolCore<S, W> {
    pub fn new(me: WorkerId, shared: Arc<PoolShared>, instance: Arc<InstanceBudget>, limits: Arc<PoolLimits>) -> Self {
        Self {
            me,
            limits,
            mode: shared.mode(),
            generation: shared.generation(),
            idle: VecDeque::new(),
            waiters: VecDeque::new(),
            live: 0,
            next_waiter: 0,
            counts: Counts::default(),
            asked: vec![0; shared.workers()].into(),
            failure: None,
            hungry: false,
            evict_again_at: None,
            recheck_at: None,
            actions: VecDeque::new(),
            shared,
            instance,
        }
    }

    /// The hottest idle server, when nobody waits before the caller. No action ever follows from this.
    ///
    /// The caller must then give it back by `Released`, `Broken` or `Lost`, as after a grant.
    pub fn try_take(&mut self, now: Instant) -> Option<S> {
        if self.live > 0 || now.saturating_duration_since(self.idle.back()?.since) >= self.limits.check_delay {
            return None;
        }
        let idle = self.idle.pop_back()?;
        self.taken();
        Some(idle.server)
    }

    /// As [`Self::try_take`], of one server and no other.
    pub fn try_take_that(&mut self, now: Instant, is_wanted: impl Fn(&S) -> bool) -> Option<S> {
        let at = self.idle.iter().position(|idle| is_wanted(&idle.server))?;
        let is_hot = now.saturating_duration_since(self.idle.get(at)?.since) < self.limits.check_delay;
        if self.live > 0 || !is_hot {
            return None;
        }
        let idle = self.idle.remove(at)?;
        self.taken();
        Some(idle.server)
    }

    fn taken(&mut self) {
        self.counts.active += 1;
        let share = self.shared.share(self.me);
        share.idle.store(len(&self.idle), Relaxed);
        share.active.store(self.counts.active, Relaxed);
    }

    /// A client waits for a server. It will be granted one, or refused, unless it leaves.
    pub fn wait(&mut self, waiter: W, now: Instant) -> WaiterId {
        let id = WaiterId(self.next_waiter);
        self.next_waiter += 1;
        if self.mode == Mode::Disabled {
            self.actions.push_back(Action::Refuse { waiter, why: Refusal::Disabled });
        } else if !self.shared.enter(self.limits.waiting_max) {
            let why = Refusal::TooManyWaiting { max: self.limits.waiting_max };
            self.actions.push_back(Action::Refuse { waiter, why });
        } else {
            self.waiters.push_back(Waiter { id, handle: Some(waiter), since: now });
            self.live += 1;
            self.settle(now);
        }
        id
    }

    /// Takes note of an event. `poll_action` must be called until it is empty afterwards.
    pub fn handle(&mut self, event: Event<S>, now: Instant) {
        match event {
            Event::Left { waiter } => self.left(waiter),
            Event::Released { server } => {
                self.counts.active -= 1;
                return self.released(server, now);
            }
            Event::Broken { server } => {
                self.counts.active -= 1;
                self.close(server, CloseReason::Broken);
            }
            Event::Lost => {
                self.counts.active -= 1;
                self.free_slot();
            }
            Event::Connected { server } => {
                self.counts.connecting -= 1;
                self.failure = None;
                self.place(server, now);
            }
            Event::ConnectFailed { error } => self.connect_failed(error, now),
            Event::Checked { server } => {
                self.counts.checking -= 1;
                self.place(server, now);
            }
            Event::CheckFailed { server } => {
                self.counts.checking -= 1;
                self.close(server, CloseReason::Dead);
            }
            Event::Closed => self.closed(),
            Event::Asked { by } => self.asked_by(by, now),
            Event::Lent { by, server, asked } => self.lent(by, server, asked, now),
            Event::Declined { by } => self.answered(by),
            Event::Room => self.evict_again_at = None,
            Event::Evict => self.evict(),
            Event::Refresh => self.refresh(),
        }
        self.settle(now);
    }

    /// New settings; the shared limits are read anew too.
    pub fn set_limits(&mut self, limits: Arc<PoolLimits>, now: Instant) {
        self.limits = limits;
        self.handle(Event::Refresh, now);
    }

    /// The next thing to do, in order.
    pub fn poll_action(&mut self) -> Option<Action<S, W>> {
        self.actions.pop_front()
    }

    /// When `handle_timeout` must be called at the latest. To be asked again after every other call.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let limits = &self.limits;
        let candidates = [
            self.waiters.front().map(|w| w.since + limits.wait_timeout),
            self.recheck_at,
            self.idle.front().map(|i| i.since + limits.idle_timeout),
            self.idle.iter().map(|i| self.dies_at(&i.server)).min(),
        ];
        candidates.into_iter().flatten().min()
    }

    /// Does what is due. May be called at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(waiter) = self.pop_waiter_if(|w, limits| w.since + limits.wait_timeout <= now) {
            let last_error = self.failure.as_ref().map(|f| Arc::clone(&f.error));
            let waited = now.saturating_duration_since(waiter.since);
            self.refuse(waiter, Refusal::WaitTimeout { waited, last_error });
        }
        while self.idle.front().is_some_and(|i| i.since + self.limits.idle_timeout <= now) {
            self.close_coldest(CloseReason::Idle);
        }
        self.close_idle_if(|core, server| (core.dies_at(server) <= now).then_some(CloseReason::Lifetime));
        self.settle(now);
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// The idle servers, coldest first, and since when they are idle.
    pub fn idle_servers(&self) -> impl Iterator<Item = (&S, Instant)> {
        self.idle.iter().map(|idle| (&idle.server, idle.since))
    }

    pub fn waiting(&self) -> u32 {
        self.live
    }

    /// Nothing here needs this share: it may be dropped.
    pub fn is_unused(&self) -> bool {
        let Counts { active, connecting, checking, closing, asking, .. } = self.counts;
        let busy = active + connecting + checking + closing + asking + self.incoming();
        busy == 0 && self.live == 0 && self.idle.is_empty() && self.actions.is_empty()
    }

    // ── servers ──

    /// The way back of a server on the common path: nobody waits, nothing else is decided.
    fn released(&mut self, server: S, now: Instant) {
        let quiet = self.live == 0 && self.shared.waiting() == 0 && self.instance.starved() == 0;
        if quiet && self.unfit(&server, now).is_none() {
            self.idle.push_back(Idle { server, since: now });
            let share = self.shared.share(self.me);
            share.active.store(self.counts.active, Relaxed);
            share.idle.store(len(&self.idle), SeqCst);
            // Somebody may have begun to wait before the idle server could be seen.
            if self.shared.waiting() == 0 && self.instance.starved() == 0 {
                return;
            }
        } else {
            self.place(server, now);
        }
        self.settle(now);
    }

    /// Finds the right place for a server that is ready for a client.
    fn place(&mut self, server: S, now: Instant) {
        if let Some(why) = self.unfit(&server, now) {
            return self.close(server, why);
        }
        let own = self.waiters.front().map(|w| self.shared.stamp(w.since));
        let foreign = self.foreign();
        let needed = [own, foreign.map(|(_, since)| since)].into_iter().flatten().min();
        if self.instance.should_yield(&self.shared, needed, now) {
            return self.close(server, CloseReason::MakeRoom);
        }
        match (own, foreign) {
            (None, Some((to, _))) => self.lend(to, server, false),
            (Some(own), Some((to, since))) if since + nanos(LEND_SLACK) < own => self.lend(to, server, false),
            (Some(_), _) => self.grant_front(server),
            (None, None) => self.idle.push_back(Idle { server, since: now }),
        }
    }

    /// Why a server may not be used any more.
    fn unfit(&self, server: &S, now: Instant) -> Option<CloseReason> {
        if self.mode != Mode::Running {
            Some(CloseReason::Paused)
        } else if server.stamp().generation != self.generation {
            Some(CloseReason::Obsolete)
        } else if self.dies_at(server) <= now {
            Some(CloseReason::Lifetime)
        } else if self.shared.over_size(self.counts.closing) || self.instance.over_max(self.counts.closing) {
            Some(CloseReason::OverLimit)
        } else {
            None
        }
    }

    /// The end of a server's life: the lifetime less up to an eighth, so that servers of one moment do not die at one moment.
    fn dies_at(&self, server: &S) -> Instant {
        let stamp = server.stamp();
        let spread = u32::try_from(stamp.id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56).unwrap_or(0);
        stamp.connected_at + (self.limits.lifetime - self.limits.lifetime / 2048 * spread)
    }

    fn grant_front(&mut self, server: S) {
        match self.pop_waiter_if(|_, _| true) {
            Some(Waiter { handle: Some(waiter), .. }) => {
                self.counts.active += 1;
                self.actions.push_back(Action::Grant { waiter, server });
            }
            _ => unreachable!("a server is granted when somebody waits"),
        }
    }

    fn lend(&mut self, to: WorkerId, server: S, asked: bool) {
        self.shared.share(to).incoming.fetch_add(1, SeqCst);
        self.actions.push_back(Action::Lend { to, server, asked });
    }

    fn close(&mut self, server: S, why: CloseReason) {
        self.counts.closing += 1;
        if why == CloseReason::MakeRoom {
            self.counts.yielding += 1;
            self.instance.yielding(true);
        }
        self.actions.push_back(Action::Close { server, why });
    }

    fn closed(&mut self) {
        self.counts.closing -= 1;
        if self.counts.yielding > 0 {
            self.counts.yielding -= 1;
            self.instance.yielding(false);
        }
        self.free_slot();
    }

    fn close_coldest(&mut self, why: CloseReason) {
        if let Some(idle) = self.idle.pop_front() {
            self.close(idle.server, why);
        }
    }

    fn close_idle_if(&mut self, why: impl Fn(&Self, &S) -> Option<CloseReason>) {
        for idle in mem::take(&mut self.idle) {
            match why(self, &idle.server) {
                Some(why) => self.close(idle.server, why),
                None => self.idle.push_back(idle),
            }
        }
    }

    /// Frees both slots. Whoever may use them is woken by `settle`.
    fn free_slot(&mut self) {
        self.shared.free_slot();
        self.instance.free_slot();
    }

    // ── other workers ──

    fn incoming(&self) -> u32 {
        self.shared.share(self.me).incoming.load(SeqCst)
    }

    /// The oldest waiter of other workers, if any.
    fn foreign(&self) -> Option<(WorkerId, u64)> {
        (self.shared.waiting() > self.live).then(|| self.shared.oldest_elsewhere(self.me)).flatten()
    }

    fn asked_by(&mut self, by: WorkerId, now: Instant) {
        if self.live == 0
            && let Some(idle) = self.idle.pop_back()
        {
            if now.saturating_duration_since(idle.since) < self.limits.check_delay {
                return self.lend(by, idle.server, true);
            }
            self.check(idle.server);
        }
        self.publish();
        self.actions.push_back(Action::Decline { to: by });
    }

    fn answered(&mut self, by: WorkerId) {
        self.asked[by] -= 1;
        self.counts.asking -= 1;
    }

    fn lent(&mut self, by: WorkerId, server: Option<S>, asked: bool, now: Instant) {
        self.shared.share(self.me).incoming.fetch_sub(1, SeqCst);
        if asked {
            self.answered(by);
        }
        match server {
            Some(server) => self.place(server, now),
            None => self.free_slot(),
        }
    }

    fn evict(&mut self) {
        if self.instance.starved() > 0 {
            self.close_coldest(CloseReason::MakeRoom);
        }
    }

    fn refresh(&mut self) {
        self.mode = self.shared.mode();
        if self.generation != self.shared.generation() {
            self.generation = self.shared.generation();
            self.failure = None;
        }
        let generation = self.generation;
        match self.mode {
            Mode::Running => {
                self.close_idle_if(|_, s| (s.stamp().generation != generation).then_some(CloseReason::Obsolete));
            }
            Mode::Paused | Mode::Disabled => self.close_idle_if(|_, _| Some(CloseReason::Paused)),
        }
        let over_pool = self.shared.open().saturating_sub(self.shared.size());
        let over_instance = self.instance.open().saturating_sub(self.instance.max());
        for _ in self.counts.closing..over_pool.max(over_instance) {
            self.close_coldest(CloseReason::OverLimit);
        }
        if self.mode == Mode::Disabled {
            while let Some(waiter) = self.pop_waiter_if(|_, _| true) {
                self.refuse(waiter, Refusal::Disabled);
            }
        }
    }

    fn check(&mut self, server: S) {
        self.counts.checking += 1;
        self.actions.push_back(Action::Check { server });
    }

    // ── waiters ──

    /// Takes the oldest waiter out when `due` says so.
    fn pop_waiter_if(&mut self, due: impl Fn(&Waiter<W>, &PoolLimits) -> bool) -> Option<Waiter<W>> {
        if !due(self.waiters.front()?, &self.limits) {
            return None;
        }
        let waiter = self.waiters.pop_front();
        self.live -= 1;
        self.shared.leave();
        self.drop_left();
        waiter
    }

    fn refuse(&mut self, waiter: Waiter<W>, why: Refusal) {
        if let Some(waiter) = waiter.handle {
            self.actions.push_back(Action::Refuse { waiter, why });
        }
    }

    fn left(&mut self, id: WaiterId) {
        let Ok(at) = self.waiters.binary_search_by_key(&id, |w| w.id) else { return };
        if self.waiters[at].handle.take().is_none() {
            return;
        }
        self.live -= 1;
        self.shared.leave();
        if self.waiters.len() > 2 * self.live as usize + 16 {
            self.waiters.retain(|w| w.handle.is_some());
        }
        self.drop_left();
    }

    /// Keeps the promise that the front has not left.
    fn drop_left(&mut self) {
        while self.waiters.front().is_some_and(|w| w.handle.is_none()) {
            self.waiters.pop_front();
        }
    }

    // ── progress ──

    /// Brings waiters and servers together, looks for more servers, tells the others. Runs after every event.
    fn settle(&mut self, now: Instant) {
        self.publish();
        if self.mode == Mode::Running {
            self.serve(now);
            self.seek(now);
            self.refuse_hopeless(now);
        } else if self.hungry {
            self.hungry = false;
            self.instance.sate(self.shared.id, self.me);
        }
        self.recheck_at = self.next_look(now);
        self.publish();
        self.wake_others();
    }

    /// When blocked waiters look again.
    fn next_look(&self, now: Instant) -> Option<Instant> {
        let since = self.waiters.front()?.since;
        let failing = self.failure.as_ref().map(|f| [f.retry_at, since + self.limits.unreachable_grace]);
        let failing = failing.into_iter().flatten().filter(|&at| at > now);
        failing.chain([now + RECHECK]).min()
    }

    /// Idle servers for own waiters, then for those of other workers, then for other pools.
    fn serve(&mut self, now: Instant) {
        while let Some(idle) = self.idle.back() {
            let own = self.live > self.counts.checking;
            if !own && self.foreign().is_none() && !self.instance.should_yield(&self.shared, None, now) {
                break;
            }
            let stale = now.saturating_duration_since(idle.since) >= self.limits.check_delay;
            let Some(idle) = self.idle.pop_back() else { break };
            if stale && (own || self.foreign().is_some()) {
                self.check(idle.server);
            } else {
                self.place(idle.server, now);
            }
            self.publish();
        }
    }

    /// Asks other workers, then connects, until every waiter has a server on its way.
    fn seek(&mut self, now: Instant) {
        let Counts { connecting, checking, asking, .. } = self.counts;
        let coming = connecting + checking + asking + self.incoming();
        let mut need = self.live.saturating_sub(coming);
        while need > 0 && self.ask() {
            need -= 1;
        }
        let mut starved = false;
        while need > 0 && self.may_connect(now) {
            if !self.shared.take_slot() {
                break;
            }
            if !self.instance.take_slot(&self.shared, self.oldest()) {
                self.shared.free_slot();
                starved = true;
                break;
            }
            self.counts.connecting += 1;
            self.actions.push_back(Action::Connect { generation: self.generation });
            need -= 1;
        }
        if starved {
            self.starve(now);
        } else if self.hungry {
            self.hungry = false;
            self.instance.sate(self.shared.id, self.me);
        }
    }

    /// Asks the worker with the most idle servers for one.
    fn ask(&mut self) -> bool {
        let spare = |w: WorkerId| self.shared.share(w).idle.load(SeqCst).saturating_sub(self.asked[w]);
        let richest = (0..self.shared.workers()).filter(|&w| w != self.me).max_by_key(|&w| spare(w));
        let Some(of) = richest.filter(|&w| spare(w) > 0) else { return false };
        self.asked[of] += 1;
        self.counts.asking += 1;
        self.actions.push_back(Action::Ask { of });
        true
    }

    /// While attempts fail there is one at a time, with pauses.
    fn may_connect(&self, now: Instant) -> bool {
        self.failure.as_ref().is_none_or(|f| now >= f.retry_at && self.counts.connecting == 0)
    }

    /// Registers as starved and asks for an eviction, again and again but not often.
    fn starve(&mut self, now: Instant) {
        self.hungry = true;
        self.instance.starve(&self.shared, self.me, self.oldest());
        if self.evict_again_at.is_some_and(|at| now < at) {
            return;
        }
        self.evict_again_at = Some(now + RECHECK);
        if let Some((worker, pool)) = self.instance.victim(self.shared.id, self.me) {
            self.actions.push_back(Action::Evict { worker, pool });
        }
    }

    fn oldest(&self) -> u64 {
        self.waiters.front().map_or(0, |w| self.shared.stamp(w.since))
    }

    fn connect_failed(&mut self, error: Arc<ConnectError>, now: Instant) {
        self.counts.connecting -= 1;
        // In this order: else others would for a moment see one established server too few.
        self.publish();
        self.free_slot();
        let (retry_at, backoff) = match &self.failure {
            // Attempts of one moment that fail together count once.
            Some(f) if now < f.retry_at => (f.retry_at, f.backoff),
            Some(f) => (now + f.backoff, (f.backoff * 2).min(BACKOFF_MAX)),
            None => (now + BACKOFF_MIN, BACKOFF_MIN * 2),
        };
        self.failure = Some(Failure { error, retry_at, backoff });
    }

    /// When the last attempt failed and no server exists that could ever be released, waiters get the reason.
    fn refuse_hopeless(&mut self, now: Instant) {
        let Some(failure) = &self.failure else { return };
        // Past the pause the error is old news: another attempt is due, or only room is missing.
        if now >= failure.retry_at || self.live == 0 || self.counts.connecting > 0 || self.shared.established() > 0 {
            return;
        }
        let error = Arc::clone(&failure.error);
        let grace = if error.is_transient() { self.limits.unreachable_grace } else { Duration::ZERO };
        while let Some(waiter) = self.pop_waiter_if(|w, _| w.since + grace <= now) {
            self.refuse(waiter, Refusal::Connect(Arc::clone(&error)));
        }
    }

    /// Room that this share does not need may be what another waits for.
    fn wake_others(&mut self) {
        if self.live == 0
            && self.shared.waiting() > 0
            && self.mode == Mode::Running
            && self.shared.has_room()
            && let Some((worker, _)) = self.shared.oldest_elsewhere(self.me)
        {
            self.actions.push_back(Action::Wake { worker, pool: self.shared.id });
        }
        if let Some((worker, pool)) = self.instance.next_to_wake() {
            self.actions.push_back(Action::Wake { worker, pool });
        }
    }

    /// Shows the others what is here.
    fn publish(&self) {
        let share = self.shared.share(self.me);
        share.active.store(self.counts.active, Relaxed);
        share.checking.store(self.counts.checking, Relaxed);
        share.connecting.store(self.counts.connecting, SeqCst);
        share.waiters.store(self.live, SeqCst);
        share.oldest.store(self.oldest(), SeqCst);
        share.idle.store(len(&self.idle), SeqCst);
    }
}

fn len<T>(queue: &VecDeque<T>) -> u32 {
    u32::try_from(queue.len()).unwrap_or(u32::MAX)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
