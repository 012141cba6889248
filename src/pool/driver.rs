//! What the core decides is done here: connecting, closing, moving sockets between workers, waking clients.
//!
//! One worker has one `Pools`. A client task keeps `Rc<Pool>`s and takes servers out of them **by value**; an idle server on this
//! worker costs no lock, no await, no allocation and wakes nobody. Workers talk by messages; one task per worker reads them and
//! keeps the time.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::spawn_local;
use tokio::time::sleep_until;

use crate::clock;
use crate::config::PoolMode;
use crate::pool::budget::{PoolId, WorkerId};
use crate::pool::connect::{self, CancelKey};
use crate::pool::core::{Action, CloseReason, Event, PoolCore, Stamp, WaiterId};
use crate::pool::directory::{Directory, Entry, Mailbox};
use crate::pool::error::Refusal;
use crate::pool::link::{Home, Life, Loan, Server};

pub use crate::pool::directory::PoolKey;

/// Why `Pool::acquire` gives no server; the client's connection stays.
pub type AcquireError = Refusal;

/// The worker looks at all its pools this often.
const TICK: Duration = Duration::from_millis(100);

/// A pool without servers and clients is forgotten after this.
const UNUSED_TIME_MAX: Duration = Duration::from_secs(60);

/// How a server is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// At rest: anybody may use it.
    Clean,
    /// To be closed.
    Broken,
}

/// What workers tell each other.
pub enum WorkerMessage {
    /// The sender would like an idle server.
    Asked { pool: PoolId, by: WorkerId },
    /// There is no idle server after all.
    Declined { pool: PoolId, by: WorkerId },
    /// A server, unless it broke on the way.
    Lent(Lent),
    /// A pool or its instance may have room.
    Room { pool: PoolId },
    /// Another pool of the instance needs room.
    Evict { pool: PoolId },
    /// Settings have changed.
    Refresh,
}

/// A server on its way from worker to worker.
pub struct Lent {
    entry: Arc<Entry>,
    by: WorkerId,
    loan: Option<Box<Loan>>,
    asked: bool,
}

/// The pools of one worker.
#[derive(Clone)]
pub struct Pools {
    worker: Rc<Worker>,
}

struct Worker {
    me: WorkerId,
    directory: Arc<Directory>,
    by_key: RefCell<HashMap<PoolKey, Rc<Pool>>>,
    by_id: RefCell<HashMap<PoolId, Rc<Pool>>>,
    /// When the next tick is.
    tick_at: Cell<Instant>,
    /// A tick is needed before that.
    hurry: Notify,
}

impl Pools {
    /// The pools of the mailbox's worker. Must be called in the worker's `LocalSet`; the worker's messages are served until it ends.
    pub fn start(directory: Arc<Directory>, mailbox: Mailbox) -> Self {
        let worker = Rc::new(Worker {
            me: mailbox.worker,
            directory,
            by_key: RefCell::default(),
            by_id: RefCell::default(),
            tick_at: Cell::new(clock::now() + TICK),
            hurry: Notify::new(),
        });
        drop(spawn_local(Rc::clone(&worker).run(mailbox.messages)));
        Self { worker }
    }

    /// The pool of a key, made on demand; `None` when the configuration has no such place. To be kept by the client.
    pub fn pool(&self, key: &PoolKey) -> Option<Rc<Pool>> {
        if let Some(pool) = self.worker.by_key.borrow().get(key)
            && pool.is_current()
        {
            return Some(Rc::clone(pool));
        }
        self.worker.directory.entry(key).map(|entry| self.worker.pool(&entry))
    }
}

/// An idle server as SHOW SERVERS tells of it.
#[derive(Clone, Debug)]
pub struct IdleServer {
    pub pool: PoolKey,
    pub id: u64,
    pub key: CancelKey,
    pub connected_at: Instant,
    /// When its last client gave it back.
    pub since: Instant,
    pub prepared_statements: usize,
    pub obsolete: bool,
}

impl Pools {
    /// The idle servers of this worker.
    pub fn idle_servers(&self) -> Vec<IdleServer> {
        let mut servers = Vec::new();
        for pool in self.worker.all() {
            servers.extend(pool.core.borrow().idle_servers().map(|(server, since)| IdleServer {
                pool: pool.entry.key.clone(),
                id: server.id.0,
                key: (*server.key).clone(),
                connected_at: server.stamp.connected_at,
                since,
                prepared_statements: server.state.prepared_count(),
                obsolete: pool.is_obsolete(server.stamp),
            }));
        }
        servers
    }
}

impl Worker {
    async fn run(self: Rc<Self>, mut messages: UnboundedReceiver<WorkerMessage>) {
        let mut timer = pin!(sleep_until(self.tick_at.get().into()));
        loop {
            tokio::select! {
                biased;
                message = messages.recv() => match message {
                    Some(message) => self.deliver(message),
                    None => return,
                },
                () = self.hurry.notified() => self.tick(clock::now()),
                () = timer.as_mut() => self.tick(clock::now()),
            }
            if timer.deadline() != self.tick_at.get().into() {
                timer.as_mut().reset(self.tick_at.get().into());
            }
        }
    }

    fn pool(self: &Rc<Self>, entry: &Arc<Entry>) -> Rc<Pool> {
        if let Some(pool) = self.by_id.borrow().get(&entry.shared.id) {
            return Rc::clone(pool);
        }
        let pool = Rc::new(Pool::new(self, Arc::clone(entry)));
        self.by_id.borrow_mut().insert(entry.shared.id, Rc::clone(&pool));
        self.by_key.borrow_mut().insert(entry.key.clone(), Rc::clone(&pool));
        pool
    }

    fn deliver(self: &Rc<Self>, message: WorkerMessage) {
        let known = |id: PoolId| self.by_id.borrow().get(&id).cloned();
        match message {
            WorkerMessage::Asked { pool, by } => match known(pool) {
                Some(pool) => pool.handle(Event::Asked { by }),
                None => self.send(by, WorkerMessage::Declined { pool, by: self.me }),
            },
            WorkerMessage::Declined { pool, by } => self.tell(pool, Event::Declined { by }),
            WorkerMessage::Room { pool } => self.tell(pool, Event::Room),
            WorkerMessage::Evict { pool } => self.tell(pool, Event::Evict),
            WorkerMessage::Lent(Lent { entry, by, loan, asked }) => {
                let server = loan.and_then(|loan| loan.unpack().ok());
                self.pool(&entry).handle(Event::Lent { by, server, asked });
            }
            WorkerMessage::Refresh => {
                for pool in self.all() {
                    pool.refresh();
                }
            }
        }
    }

    fn tell(&self, id: PoolId, event: Event<Box<Server>>) {
        let pool = self.by_id.borrow().get(&id).cloned();
        if let Some(pool) = pool {
            pool.handle(event);
        }
    }

    fn all(&self) -> Vec<Rc<Pool>> {
        self.by_id.borrow().values().cloned().collect()
    }

    /// Does what is due in all pools and forgets those that nobody has used for long.
    fn tick(&self, now: Instant) {
        let mut next = now + TICK;
        for pool in self.all() {
            pool.tick(now);
            if let Some(at) = pool.core.borrow().poll_timeout() {
                next = next.min(at);
            }
        }
        self.tick_at.set(next);
        let used = |pool: &Rc<Pool>| !pool.may_be_forgotten(now);
        self.by_key.borrow_mut().retain(|_, pool| used(pool));
        self.by_id.borrow_mut().retain(|_, pool| used(pool));
    }

    fn send(&self, to: WorkerId, message: WorkerMessage) {
        // A worker that has ended needs nothing; what it held has been closed with it.
        drop(self.directory.send(to, message));
    }
}

/// A waiting client's place to be handed a server.
struct Ticket(RefCell<TicketState>);

enum TicketState {
    Waiting(Waker),
    Granted(Box<Server>),
    Refused(Refusal),
    /// The client has taken what there was, or has gone.
    Spent,
}

impl Ticket {
    fn settle(&self, outcome: TicketState) {
        if let TicketState::Waiting(waker) = self.0.replace(outcome) {
            waker.wake();
        }
    }
}

/// One worker's share of one pool.
pub struct Pool {
    entry: Arc<Entry>,
    worker: Weak<Worker>,
    mode: Cell<PoolMode>,
    core: RefCell<PoolCore<Box<Server>, Rc<Ticket>>>,
    /// Servers that were dropped in use; the core will be told.
    lost: Cell<u32>,
    unused_since: Cell<Option<Instant>>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("key", &self.entry.key).finish_non_exhaustive()
    }
}

impl Pool {
    fn new(worker: &Rc<Worker>, entry: Arc<Entry>) -> Self {
        let spec = entry.spec();
        let (shared, budget) = (Arc::clone(&entry.shared), Arc::clone(&entry.budget));
        Self {
            core: RefCell::new(PoolCore::new(worker.me, shared, budget, Arc::clone(&spec.limits))),
            worker: Rc::downgrade(worker),
            mode: Cell::new(spec.mode),
            entry,
            lost: Cell::new(0),
            unused_since: Cell::new(None),
        }
    }

    pub fn key(&self) -> &PoolKey {
        &self.entry.key
    }

    /// Whether a server of this birth is closed as soon as it comes back: after RECONNECT, or after RELOAD with other settings.
    pub fn is_obsolete(&self, stamp: Stamp) -> bool {
        !self.is_current() || stamp.generation != self.entry.shared.generation()
    }

    /// How long a client keeps a server.
    pub fn mode(&self) -> PoolMode {
        self.mode.get()
    }

    /// This worker's clients that have or want a server.
    pub fn outstanding(&self) -> u32 {
        let core = self.core.borrow();
        core.counts().active + core.waiting()
    }

    /// An idle server of this worker, when nobody waits before the caller. Found alive, as far as the kernel knows.
    pub fn try_acquire(self: &Rc<Self>, now: Instant) -> Option<Box<Server>> {
        loop {
            let server = self.core.borrow_mut().try_take(now)?;
            if let Some(server) = self.if_alive(server) {
                return Some(server);
            }
        }
    }

    /// That server and no other, if it is idle and nobody waits for one.
    pub fn try_acquire_that(self: &Rc<Self>, now: Instant, is_wanted: impl Fn(&Server) -> bool) -> Option<Box<Server>> {
        let server = self.core.borrow_mut().try_take_that(now, |server| is_wanted(server))?;
        self.if_alive(server)
    }

    fn if_alive(self: &Rc<Self>, mut server: Box<Server>) -> Option<Box<Server>> {
        if server.look() == Life::Alive {
            assert!(server.state.is_clean(), "an idle server is at rest");
            server.home = Home::of(self);
            return Some(server);
        }
        self.handle(Event::Broken { server });
        None
    }

    /// A server, after those who came before. A future that is dropped leaves the queue, or gives back what it was just granted.
    ///
    /// # Errors
    /// The wait was too long, too many wait, the instance refuses or cannot be reached and has no server left, the database is disabled.
    pub async fn acquire(self: &Rc<Self>) -> Result<Box<Server>, AcquireError> {
        let now = clock::now();
        if let Some(server) = self.try_acquire(now) {
            return Ok(server);
        }
        let mut waiting: Option<Waiting> = None;
        poll_fn(|cx| waiting.get_or_insert_with(|| Waiting::begin(self, cx, now)).poll(cx)).await
    }

    /// Gives a server back; it must have come from this pool. One that is not at rest is closed whatever `how` says.
    pub fn release(self: &Rc<Self>, mut server: Box<Server>, how: Release) {
        assert!(server.home.is(self), "a server goes back to its own pool");
        server.cancels.end_tenancy();
        if server.cancels.any() {
            // A cancel request that is under way could hit the next client.
            let (pool, cancels) = (Rc::clone(self), Rc::clone(&server.cancels));
            drop(spawn_local(async move {
                cancels.ended().await;
                pool.release(server, how);
            }));
            return;
        }
        server.home.leave();
        if how == Release::Clean && server.state.is_clean() {
            self.handle(Event::Released { server });
        } else {
            self.handle(Event::Broken { server });
        }
    }

    /// A server of this pool was dropped in use.
    pub(super) fn lost(&self) {
        self.lost.set(self.lost.get() + 1);
        if let Some(worker) = self.worker.upgrade() {
            worker.hurry.notify_one();
        }
    }

    /// Still the pool that the directory would give: not disabled by a reload.
    fn is_current(&self) -> bool {
        self.entry.shared.mode() != crate::pool::budget::Mode::Disabled
    }

    fn refresh(self: &Rc<Self>) {
        let spec = self.entry.spec();
        self.mode.set(spec.mode);
        self.core.borrow_mut().set_limits(Arc::clone(&spec.limits), clock::now());
        self.run();
    }

    fn tick(self: &Rc<Self>, now: Instant) {
        for _ in 0..self.lost.take() {
            self.handle(Event::Lost);
        }
        if self.core.borrow().poll_timeout().is_some_and(|at| at <= now) {
            self.core.borrow_mut().handle_timeout(now);
            self.run();
        }
        // Two maps and the caller hold it.
        let unused = Rc::strong_count(self) <= 3 && self.core.borrow().is_unused();
        self.unused_since.set(unused.then(|| self.unused_since.get().unwrap_or(now)));
    }

    fn may_be_forgotten(&self, now: Instant) -> bool {
        self.unused_since.get().is_some_and(|since| now.saturating_duration_since(since) > UNUSED_TIME_MAX)
    }

    fn handle(self: &Rc<Self>, event: Event<Box<Server>>) {
        self.core.borrow_mut().handle(event, clock::now());
        self.run();
    }

    /// Executes what the core has decided. No action is executed while the core is borrowed.
    fn run(self: &Rc<Self>) {
        loop {
            let Some(action) = self.core.borrow_mut().poll_action() else { return };
            self.execute(action);
        }
    }

    fn execute(self: &Rc<Self>, action: Action<Box<Server>, Rc<Ticket>>) {
        let id = self.entry.shared.id;
        let Some(worker) = self.worker.upgrade() else { return };
        match action {
            Action::Grant { waiter, mut server } => {
                server.home = Home::of(self);
                waiter.settle(TicketState::Granted(server));
            }
            Action::Refuse { waiter, why } => waiter.settle(TicketState::Refused(why)),
            Action::Connect { generation } => {
                let pool = Rc::clone(self);
                drop(spawn_local(async move { pool.connect(&worker, generation).await }));
            }
            Action::Close { server, why } => self.close(server, why),
            Action::Check { mut server } => {
                let pool = Rc::clone(self);
                drop(spawn_local(async move {
                    let alive = server.look() == Life::Alive && server.check().await == Life::Alive;
                    pool.handle(if alive { Event::Checked { server } } else { Event::CheckFailed { server } });
                }));
            }
            Action::Lend { to, server, asked } => {
                let loan = Loan::pack(server).map(Box::new);
                let lent = Lent { entry: Arc::clone(&self.entry), by: worker.me, loan, asked };
                worker.send(to, WorkerMessage::Lent(lent));
            }
            Action::Ask { of } => worker.send(of, WorkerMessage::Asked { pool: id, by: worker.me }),
            Action::Decline { to } => worker.send(to, WorkerMessage::Declined { pool: id, by: worker.me }),
            Action::Wake { worker: to, pool } => worker.send(to, WorkerMessage::Room { pool }),
            Action::Evict { worker: to, pool } => worker.send(to, WorkerMessage::Evict { pool }),
        }
    }

    async fn connect(self: Rc<Self>, worker: &Worker, generation: u32) {
        let spec = self.entry.spec();
        let event = match connect::connect(&spec.target, spec.connect_timeout).await {
            Ok(connected) => {
                let stamp = Stamp { id: worker.directory.next_server(), generation, connected_at: clock::now() };
                Event::Connected { server: Box::new(Server::new(connected, stamp, spec.prepared_statements_max)) }
            }
            Err(error) => {
                tracing::warn!(%error, pool = ?self.entry.key, "no new server");
                Event::ConnectFailed { error: Arc::new(error) }
            }
        };
        self.handle(event);
    }

    /// A server that is well is told goodbye; one that is not is dropped.
    fn close(self: &Rc<Self>, server: Box<Server>, why: CloseReason) {
        tracing::debug!(server = server.id.0, ?why, pool = ?self.entry.key, "a server is closed");
        if matches!(why, CloseReason::Broken | CloseReason::Dead) {
            drop(server);
            return self.handle(Event::Closed);
        }
        let pool = Rc::clone(self);
        drop(spawn_local(async move {
            server.close().await;
            pool.handle(Event::Closed);
        }));
    }
}

/// A client's stay in the queue.
struct Waiting {
    pool: Rc<Pool>,
    id: WaiterId,
    ticket: Rc<Ticket>,
}

impl Waiting {
    fn begin(pool: &Rc<Pool>, cx: &Context<'_>, now: Instant) -> Self {
        let ticket = Rc::new(Ticket(RefCell::new(TicketState::Waiting(cx.waker().clone()))));
        let id = pool.core.borrow_mut().wait(Rc::clone(&ticket), now);
        pool.run();
        if let Some(worker) = pool.worker.upgrade()
            && pool.core.borrow().poll_timeout().is_some_and(|at| at < worker.tick_at.get())
        {
            worker.hurry.notify_one();
        }
        Self { pool: Rc::clone(pool), id, ticket }
    }

    fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<Box<Server>, AcquireError>> {
        let mut state = self.ticket.0.borrow_mut();
        match mem::replace(&mut *state, TicketState::Spent) {
            TicketState::Granted(server) => Poll::Ready(Ok(server)),
            TicketState::Refused(why) => Poll::Ready(Err(why)),
            TicketState::Waiting(mut waker) => {
                waker.clone_from(cx.waker());
                *state = TicketState::Waiting(waker);
                Poll::Pending
            }
            TicketState::Spent => Poll::Pending,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        match self.ticket.0.replace(TicketState::Spent) {
            TicketState::Waiting(_) => self.pool.handle(Event::Left { waiter: self.id }),
            TicketState::Granted(server) => self.pool.release(server, Release::Clean),
            TicketState::Refused(_) | TicketState::Spent => {}
        }
    }
}
