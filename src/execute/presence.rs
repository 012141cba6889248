//! What the rest of the router may know of a client while it is served: for SHOW CLIENTS, for cancel
//! requests, and to ask it to leave.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin as Pinned;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Instant, SystemTime};

use pgsluice_sharding::ShardId;
use pgsluice_sharding::sql::Pin;

use super::queries::QueryId;
use super::worker::Served;
use crate::pool::CancelHandle;
use crate::session::Session;
use crate::session::settings::{Settings, unquote_literal};
use crate::transport::stream::Stream;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Holds no server and has asked for nothing.
    Idle,
    /// Is being answered.
    Active,
    /// Holds a server, and everything is answered.
    Holding,
    /// Waits for a server.
    Waiting,
}

/// Where a client comes from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// None for both through the unix socket.
    pub address: Option<SocketAddr>,
    pub local_address: Option<SocketAddr>,
    /// Version and cipher.
    pub tls: Option<String>,
}

impl Origin {
    pub fn of(stream: &Stream) -> Self {
        let (local_address, address) = stream.ends();
        Self { address, local_address, tls: stream.tls_name() }
    }
}

/// A client's stay in a pool's queue.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    pub since: Instant,
    pub shard: ShardId,
    /// By position in the shard.
    pub instance: u16,
}

/// What the router asks of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Nothing,
    /// To leave when it holds no server.
    ToLeave,
    /// It is thrown out, whatever it does.
    Out,
}

/// A server in the client's hands.
#[derive(Clone, Debug)]
pub struct Held {
    pub cancel: CancelHandle,
    pub shard: ShardId,
    /// By position in the shard.
    pub instance: usize,
    /// When the client got it.
    pub since: Instant,
    /// Statements that are prepared there.
    pub prepared: usize,
}

/// One client at this moment. Its conversation writes here with plain stores, on the way of every
/// request; others on the same worker read.
pub struct Presence {
    /// Unique in the router.
    pub id: u64,
    /// The number that its cancel key names.
    pub pid: i32,
    pub origin: Origin,
    pub connected: SystemTime,
    served: RefCell<Rc<Served>>,
    activity: Cell<Activity>,
    asked_at: Cell<Option<Instant>>,
    wait: Cell<Option<Wait>>,
    statement: Cell<Option<QueryId>>,
    statements: Cell<usize>,
    pins: RefCell<Vec<Pin>>,
    pinned_since: Cell<Option<Instant>>,
    settings: RefCell<Rc<Settings>>,
    servers: RefCell<Vec<Held>>,
    asked: Cell<Asked>,
    /// It was in a transaction block when it last rested.
    in_block: Cell<bool>,
    /// A commit over several shards is under way; only its end tells what became of it.
    commits: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Presence {
    pub fn new(id: u64, pid: i32, origin: Origin, served: Rc<Served>) -> Self {
        Self {
            id,
            pid,
            origin,
            connected: SystemTime::now(),
            served: RefCell::new(served),
            activity: Cell::new(Activity::Idle),
            asked_at: Cell::new(None),
            wait: Cell::new(None),
            statement: Cell::new(None),
            statements: Cell::new(0),
            pins: RefCell::default(),
            pinned_since: Cell::new(None),
            settings: RefCell::default(),
            servers: RefCell::default(),
            asked: Cell::new(Asked::Nothing),
            in_block: Cell::new(false),
            commits: Cell::new(false),
            waker: RefCell::default(),
        }
    }

    pub fn served(&self) -> Rc<Served> {
        self.served.borrow().clone()
    }

    pub fn activity(&self) -> Activity {
        self.activity.get()
    }

    /// The beginning of the last request.
    pub fn asked_at(&self) -> Option<Instant> {
        self.asked_at.get()
    }

    /// What it waits for.
    pub fn wait(&self) -> Option<Wait> {
        self.wait.get()
    }

    /// What it runs, or has run last.
    pub fn statement(&self) -> Option<QueryId> {
        self.statement.get()
    }

    /// Prepared statements, as of the last time it was idle.
    pub fn statements(&self) -> usize {
        self.statements.get()
    }

    /// Why it keeps its servers; nothing when it does not.
    pub fn pins(&self) -> Option<String> {
        let pins = self.pins.borrow();
        let names: Vec<&str> = pins.iter().map(|pin| pin_name(*pin)).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// When that began.
    pub fn pinned_since(&self) -> Option<Instant> {
        self.pinned_since.get()
    }

    pub fn application_name(&self) -> String {
        self.settings.borrow().get("application_name").map(unquote_literal).unwrap_or_default()
    }

    /// The servers it holds.
    pub fn servers(&self) -> Vec<Held> {
        self.servers.borrow().clone()
    }

    pub fn servers_held(&self) -> usize {
        self.servers.borrow().len()
    }

    /// So many statements are prepared on a server that it holds.
    pub(super) fn prepared_on(&self, id: u64, count: usize) {
        if let Some(held) = self.servers.borrow_mut().iter_mut().find(|held| held.cancel.server.0 == id) {
            held.prepared = count;
        }
    }

    /// A request has come.
    pub(super) fn asks(&self, now: Instant) {
        self.asked_at.set(Some(now));
        self.activity.set(Activity::Active);
    }

    /// Everything is answered.
    pub(super) fn rests(&self, session: &Session) {
        let activity = if self.servers.borrow().is_empty() { Activity::Idle } else { Activity::Holding };
        self.activity.set(activity);
        self.statements.set(session.statements.len());
        self.in_block.set(session.transaction.block().is_some());
        if !Rc::ptr_eq(&self.settings.borrow(), session.settings()) {
            self.settings.replace(session.settings().clone());
        }
        let mut pins = self.pins.borrow_mut();
        if session.is_pinned() || !pins.is_empty() {
            pins.clear();
            pins.extend(session.pins());
            let since = self.pinned_since.get().or(self.asked_at.get());
            self.pinned_since.set(since.filter(|_| !pins.is_empty()));
        }
    }

    pub(super) fn runs(&self, query: Option<QueryId>) {
        self.statement.set(query);
    }

    pub(super) fn waits(&self, wait: Wait) {
        self.wait.set(Some(wait));
        self.activity.set(Activity::Waiting);
    }

    pub(super) fn waits_no_more(&self) {
        self.wait.set(None);
        self.activity.set(Activity::Active);
    }

    /// The configuration has changed: it is served by this from now on.
    pub(super) fn moves_to(&self, served: Rc<Served>) {
        self.served.replace(served);
    }

    pub(super) fn enter(&self, held: Held) {
        self.servers.borrow_mut().push(held);
    }

    pub(super) fn leave(&self, id: u64) {
        self.servers.borrow_mut().retain(|held| held.cancel.server.0 != id);
    }

    pub(super) fn clear(&self) {
        self.servers.borrow_mut().clear();
    }

    /// Cancels whatever runs; none of the servers is given to anybody else before that is settled.
    pub async fn cancel(&self) {
        let cancellers: Vec<_> = self.servers.borrow().iter().map(|held| held.cancel.canceller()).collect();
        for canceller in cancellers {
            if let Err(error) = canceller.cancel().await {
                tracing::warn!(%error, "a cancel request did not reach its server");
            }
        }
    }

    /// Asks the client to leave: at once when it is idle, else when it has given back its servers.
    pub fn dismiss(&self) {
        self.asked.set(self.asked.get().max(Asked::ToLeave));
        self.wake();
    }

    /// Throws the client out in the middle of whatever it does, but for a commit over several shards;
    /// its servers are closed.
    pub fn kill(&self) {
        self.asked.set(Asked::Out);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// What `work` gives; `None` when the client was thrown out meanwhile.
    pub async fn unless_killed<T>(&self, mut work: impl Future<Output = T> + Unpin) -> Option<T> {
        poll_fn(|cx| {
            if self.is_out() {
                return Poll::Ready(None);
            }
            self.keep_waker(cx);
            match Pinned::new(&mut work).poll(cx) {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                // What had to be finished first may just have been.
                Poll::Pending if self.is_out() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    fn is_out(&self) -> bool {
        self.asked.get() == Asked::Out && !self.commits.get()
    }

    /// Whether it was in a transaction block at the last rest.
    pub fn is_in_block(&self) -> bool {
        self.in_block.get()
    }

    /// Whether a commit over several shards is under way.
    pub fn is_committing(&self) -> bool {
        self.commits.get()
    }

    pub(super) fn commits(&self, commits: bool) {
        self.commits.set(commits);
    }

    /// Whether it is to leave; if not, its task is woken when it is.
    pub(super) fn poll_dismissed(&self, cx: &Context<'_>) -> bool {
        if self.asked.get() != Asked::Nothing {
            return true;
        }
        self.keep_waker(cx);
        false
    }

    /// Returns when the client is to leave.
    pub(super) async fn dismissed(&self) {
        poll_fn(|cx| if self.poll_dismissed(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    fn keep_waker(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }
}

fn pin_name(pin: Pin) -> &'static str {
    match pin {
        Pin::TempTable => "temporary table",
        Pin::HoldCursor => "cursor WITH HOLD",
        Pin::AdvisoryLock => "advisory lock",
        Pin::Listen => "LISTEN",
        Pin::Prepare => "PREPARE",
        Pin::SetConfig => "set_config",
        Pin::Sequence => "sequence",
        Pin::Load => "LOAD",
        Pin::UntilCommit => "transaction",
    }
}
