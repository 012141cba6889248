//! What the rest of the router may know of a client while it is served: for SHOW CLIENTS, for cancel
//! requests, and to ask it to leave.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin as Pinned;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use pgsluice_sharding::ShardId;
use pgsluice_sharding::sql::Pin;

use super::queries::QueryId;
use super::victim::Sentence;
use super::worker::Served;
use crate::pool::CancelHandle;
use crate::protocol::error::ErrorFields;
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
    /// A commit over several shards is under way; only its end tells what became of it.
    commits: Cell<bool>,
    /// Others wait for what it holds and it for them: what it runs ends with this error.
    sentence: RefCell<Option<Box<Sentence>>>,
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
            commits: Cell::new(false),
            sentence: RefCell::default(),
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

    /// Whether it has been waiting for so long for an answer, with servers on which others may wait for it.
    pub fn waits_longer_than(&self, time: Duration, now: Instant) -> bool {
        let servers = self.servers_held();
        let since = match (self.activity.get(), servers) {
            (_, 0) => None,
            (Activity::Waiting, _) => self.wait.get().map(|wait| wait.since),
            (Activity::Active, 2..) => self.asked_at.get(),
            (Activity::Active | Activity::Idle | Activity::Holding, _) => None,
        };
        since.is_some_and(|since| now.saturating_duration_since(since) >= time)
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

    /// What it asked for at `asked_at` ends with this error, if it has not ended by itself: these servers are cancelled, and a
    /// place in a pool's queue is lost.
    pub async fn condemn(&self, asked_at: Option<Instant>, fields: ErrorFields, servers: &[u64]) {
        if self.asked_at.get() != asked_at || !matches!(self.activity.get(), Activity::Active | Activity::Waiting) {
            return;
        }
        self.sentence.replace(Some(Box::new(Sentence { fields, is_told: false })));
        self.wake();
        let held = self.servers();
        let cancellers: Vec<_> = held
            .iter()
            .filter(|held| servers.contains(&held.cancel.server.0))
            .map(|held| held.cancel.canceller())
            .collect();
        for canceller in cancellers {
            if let Err(error) = canceller.cancel().await {
                tracing::warn!(%error, "a cancel request did not reach its server");
            }
        }
    }

    /// The client's error in the place of a server's, whose body this is.
    pub(super) fn sentence_for(&self, body: &[u8]) -> Option<Bytes> {
        self.sentence.borrow_mut().as_mut()?.in_place_of(body)
    }

    /// Returns when the wait in a pool's queue is to end, with the client's error.
    pub(super) async fn condemned(&self) -> ErrorFields {
        poll_fn(|cx| match self.sentence.borrow_mut().as_mut() {
            Some(sentence) => {
                sentence.is_told = true;
                Poll::Ready(sentence.fields.clone())
            }
            None => {
                self.keep_waker(cx);
                Poll::Pending
            }
        })
        .await
    }

    /// The request is over: whether it has ended with such an error.
    pub(super) fn has_given_up(&self) -> bool {
        self.sentence.borrow().is_some() && self.sentence.take().is_some_and(|sentence| sentence.is_told)
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

    /// Whether a commit over several shards is under way.
    pub(super) fn is_committing(&self) -> bool {
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
