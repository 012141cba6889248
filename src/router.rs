//! Owns everything: starts it in order, reloads, drains and stops it.
//!
//! ```text
//! Router ─┬─ control thread: listener, catalog watches, probers, reload
//!         ├─ http thread: /metrics, /health
//!         └─ worker threads: clients, servers, plans; each with its own runtime
//! ```
//!
//! - [`worker`]: one worker thread: takes clients in, reports what they do
//! - [`database`]: one database over its shards: catalog, health
//! - [`deadlocks`]: who must give up when transactions wait for each other over shards
//! - [`operator`]: what the console can do
//! - [`gather`]: everything at one moment, for SHOW and metrics
//! - [`memory`]: what of its memory has an owner that can tell
//! - [`reload`]: the configuration read again
//! - [`explain`]: a plan as lines of text

mod database;
mod deadlocks;
pub mod explain;
mod gather;
mod memory;
mod operator;
mod reload;
mod worker;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fmt, io};

use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::admin::{Needs, Shutdown};
use crate::config::Config;
use crate::execute::unique::UniqueIds;
use crate::http;
use crate::net::cancel::{self, Addressee, CancelKeys};
use crate::net::listener::{Listener, Socket};
use crate::net::{startup, tls};
use crate::pool::connect;
use crate::pool::directory::{Control as PoolControl, Directory};
use crate::stats::Registry;
use database::Database;
pub(crate) use database::{catalog_shard, prober};
pub(crate) use gather::NO_TWO_PHASE;
use worker::{Message, Victims};

/// The averages of SHOW STATS are over this long.
const STATS_PERIOD: Duration = Duration::from_secs(60);

/// How long the thread of the HTTP pages may take to end.
const HTTP_END_TIME_MAX: Duration = Duration::from_millis(500);

/// Reads the configuration again; on failure, what is wrong with it, one line each.
pub type Reread = Box<dyn Fn() -> Result<Config, Vec<String>> + Send + Sync>;

/// Why the router does not start.
#[derive(Debug)]
pub enum StartError {
    Listen(io::Error),
    Tls(tls::TlsError),
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(error) => error.fmt(f),
            Self::Tls(error) => error.fmt(f),
            Self::System(error) => write!(f, "the system refuses what the router needs: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// How far the router is from its end. Only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Running,
    /// Takes no new clients; ends when the last one has left.
    WaitsForClients,
    /// Clients are asked to leave as soon as they hold no server.
    WaitsForServers,
    Stopped,
}

/// A running router.
pub struct Router {
    shared: Arc<Shared>,
    address: SocketAddr,
    http_address: Option<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
    http: Option<JoinHandle<()>>,
}

/// What all threads know.
struct Shared {
    config: RwLock<Arc<Config>>,
    reread: Option<Reread>,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
    context: RwLock<Arc<startup::Context>>,
    databases: RwLock<HashMap<String, Arc<Database>>>,
    /// Clients' messages wait.
    suspended: AtomicBool,
    /// Those that take no new clients, by name.
    disabled: Mutex<HashSet<String>>,
    directory: Arc<Directory>,
    locks: tokio::sync::Mutex<deadlocks::LockReader>,
    stats: Registry,
    keys: CancelKeys,
    clients: Arc<Count>,
    consoles: Arc<Count>,
    /// Connections that have not ended their login.
    logins: Arc<Count>,
    next_client: AtomicU64,
    workers: Vec<mpsc::UnboundedSender<Message>>,
    next_worker: AtomicUsize,
    stage: watch::Sender<Stage>,
    /// The runtime of the control thread.
    control: Handle,
    random: Random,
    /// Gives out `sluice.unique_id()`, for all workers.
    ids: Arc<UniqueIds>,
    epoch: Instant,
}

/// What nobody can foresee.
struct Random {
    /// Makes statement ids and transaction names.
    seed: u64,
    /// Makes the salts of users whose passwords are configured in plain text.
    salt_key: [u8; 32],
}

impl Random {
    fn new() -> io::Result<Self> {
        let (mut seed, mut salt_key) = ([0; 8], [0; 32]);
        getrandom::fill(&mut seed).and_then(|()| getrandom::fill(&mut salt_key)).map_err(io::Error::other)?;
        Ok(Self { seed: u64::from_be_bytes(seed), salt_key })
    }
}

/// The addresses that others connect to, opened before anything runs.
struct Doors {
    address: SocketAddr,
    listener: Listener,
    http: Option<std::net::TcpListener>,
}

impl Doors {
    fn open(config: &Config, control: &tokio::runtime::Runtime) -> io::Result<Self> {
        let http = config.listen.http.map(|address| {
            let at = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
            std::net::TcpListener::bind(address).map_err(at)
        });
        let within = control.enter();
        let listener = Listener::bind(&config.listen)?;
        drop(within);
        Ok(Self { address: listener.address()?, listener, http: http.transpose()? })
    }
}

impl Router {
    /// Starts listening and serving; shards need not be reachable yet. RELOAD has nothing to read.
    ///
    /// # Errors
    /// An address that is taken, TLS files that cannot be used, no threads.
    pub fn start(config: Config) -> Result<Self, StartError> {
        Self::start_with(config, None)
    }

    /// As [`Self::start`], with the place that RELOAD reads from.
    ///
    /// # Errors
    /// An address that is taken, TLS files that cannot be used, no threads.
    pub fn start_with(config: Config, reread: Option<Reread>) -> Result<Self, StartError> {
        let random = Random::new().map_err(StartError::System)?;
        let context = startup::Context::new(&config, random.salt_key).map_err(StartError::Tls)?;
        let control = runtime().map_err(StartError::System)?;
        let opened = Doors::open(&config, &control);
        let (control, doors) = match opened {
            Ok(doors) => (control, doors),
            Err(error) => {
                // The caller may be within a runtime itself, where another must not wait for its end.
                control.shutdown_background();
                return Err(StartError::Listen(error));
            }
        };
        let address = doors.address;
        let config = Arc::new(config);
        let (workers, inboxes): (Vec<_>, Vec<_>) =
            (0..config.listen.workers.max(1)).map(|_| mpsc::unbounded_channel()).unzip();
        let (directory, mailboxes) = Directory::new(config.clone(), workers.len());
        let shared = Arc::new(Shared {
            databases: RwLock::default(),
            suspended: AtomicBool::new(false),
            disabled: Mutex::default(),
            context: RwLock::new(Arc::new(context)),
            reread,
            reloading: tokio::sync::Mutex::default(),
            directory,
            locks: tokio::sync::Mutex::default(),
            stats: Registry::default(),
            keys: CancelKeys::new(config.listen.router_id),
            ids: Arc::new(UniqueIds::new(config.listen.router_id)),
            clients: Arc::default(),
            consoles: Arc::default(),
            logins: Arc::default(),
            next_client: AtomicU64::new(1),
            workers,
            next_worker: AtomicUsize::new(0),
            stage: watch::Sender::new(Stage::Running),
            control: control.handle().clone(),
            random,
            epoch: Instant::now(),
            config: RwLock::new(config),
        });
        shared.make_databases();
        let mut router = Self { shared: shared.clone(), address, http_address: None, threads: Vec::new(), http: None };
        for (index, (inbox, mailbox)) in inboxes.into_iter().zip(mailboxes).enumerate() {
            let shared = shared.clone();
            router.spawn(format!("worker-{index}"), move || worker::run(index, mailbox, inbox, &shared))?;
        }
        router.http_address = doors.http.as_ref().and_then(|http| http.local_addr().ok());
        if let Some(http) = doors.http {
            router.http = Some(spawn_http(&shared, http).map_err(StartError::System)?);
        }
        router.spawn("control".to_owned(), move || run_control(&control, &shared, doors.listener))?;
        Ok(router)
    }

    fn spawn(&mut self, name: String, work: impl FnOnce() + Send + 'static) -> Result<(), StartError> {
        let thread = std::thread::Builder::new().name(name).spawn(work).map_err(StartError::System)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Where clients connect, also when port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the HTTP pages are, also when port 0 was asked for.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http_address
    }

    /// Waits until every database's catalog is known, and whether its shards can commit together, or time is up.
    pub async fn ready(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while Instant::now() < until {
            let databases = self.shared.database_list();
            if databases.iter().all(|database| database.is_ready()) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// Reads the configuration again. Gives what takes effect only after a restart.
    ///
    /// # Errors
    /// What is wrong with it, one line each; everything stays as it was.
    pub async fn reload(&self) -> Result<Vec<String>, Vec<String>> {
        // On the control thread: that is where tasks and control connections live.
        let reload = self.shared.control.spawn(self.shared.clone().reload());
        reload.await.unwrap_or_else(|_| Err(vec!["the router is shutting down".to_owned()]))
    }

    /// PAUSE of all databases; returns at once, while transactions are still ending.
    pub fn pause(&self) {
        tracing::info!("pausing all databases");
        self.shared.directory.control(None, PoolControl::Pause);
    }

    /// RESUME of all databases.
    pub fn resume(&self) {
        tracing::info!("resuming all databases");
        self.shared.directory.control(None, PoolControl::Resume);
    }

    /// Begins to end; returns at once. See [`Self::ended`].
    pub fn shutdown(&self, how: Shutdown) {
        self.shared.shutdown(how);
    }

    /// Returns when the router has come to its end, by [`Self::shutdown`] or from the console.
    pub async fn ended(&self) {
        self.shared.reached(Stage::Stopped).await;
    }

    /// Ends all connections and waits for the threads.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shared.advance(Stage::Stopped);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread has panicked");
            }
        }
        // A peer that reads no answer must not keep the process; its thread holds nothing of value.
        let until = Instant::now() + HTTP_END_TIME_MAX;
        while self.http.as_ref().is_some_and(|http| !http.is_finished()) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.end();
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn spawn_http(shared: &Arc<Shared>, listener: std::net::TcpListener) -> io::Result<JoinHandle<()>> {
    let end = shared.clone();
    let shared = shared.clone();
    let gather: http::Gather = Arc::new(move || {
        let shared = shared.clone();
        Box::pin(async move { shared.view(Needs::default()).await })
    });
    http::spawn(listener, gather, async move { end.reached(Stage::Stopped).await })
}

impl Shared {
    fn config(&self) -> Arc<Config> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn context(&self) -> Arc<startup::Context> {
        self.context.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn databases(&self) -> RwLockReadGuard<'_, HashMap<String, Arc<Database>>> {
        self.databases.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn disabled(&self) -> MutexGuard<'_, HashSet<String>> {
        self.disabled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_disabled(&self, database: &str) -> bool {
        self.disabled().contains(database)
    }

    fn database_list(&self) -> Vec<Arc<Database>> {
        self.databases().values().cloned().collect()
    }

    /// Clients go round the workers, so that few clients are spread as evenly as many.
    fn hand_over(&self, socket: Socket) {
        let worker = self.next_worker.fetch_add(1, Relaxed) % self.workers.len();
        self.tell(worker, Message::Client(socket));
    }

    fn tell(&self, worker: usize, message: Message) {
        if self.workers[worker].send(message).is_err() {
            tracing::debug!(worker, "a message came while the router was stopping");
        }
    }

    fn tell_all(&self, message: impl Fn() -> Message) {
        (0..self.workers.len()).for_each(|worker| self.tell(worker, message()));
    }

    /// Cancels what the holder of the key runs, here or at a peer; ends when the servers have been told.
    async fn cancel(&self, pid: i32, secret: &[u8]) {
        let worker = match self.keys.find(pid, secret) {
            Addressee::Worker(worker) => worker,
            Addressee::Peer(router_id) => return self.cancel_at(router_id, pid, secret).await,
            Addressee::Nobody => return,
        };
        let (done, told) = oneshot::channel();
        self.tell(worker, Message::Cancel { client: pid, done });
        // The sender is dropped, not used: either way the wait is over.
        drop(told.await);
    }

    async fn cancel_at(&self, router_id: u8, pid: i32, secret: &[u8]) {
        let config = self.config();
        let Some(peer) = config.peers.iter().find(|peer| peer.router_id == router_id) else {
            return tracing::warn!(router_id, "a cancel request is for a client of a router that is no [[peer]]");
        };
        let secret = cancel::forwarded(secret).into();
        let key =
            connect::CancelKey { host: peer.host.clone(), port: peer.port, pid, secret, local: None, remote: None };
        if let Err(error) = connect::cancel(&key).await {
            tracing::warn!(router_id, address = peer.host.with_port(peer.port), %error, "a cancel request was not passed on");
        }
    }

    /// Throws clients out; gives how many there were.
    async fn kill(&self, victims: &Victims) -> usize {
        let asked: Vec<_> = (0..self.workers.len())
            .map(|worker| {
                let (done, killed) = oneshot::channel();
                self.tell(worker, Message::Kill { victims: victims.clone(), done });
                killed
            })
            .collect();
        let mut total = 0;
        for killed in asked {
            total += killed.await.unwrap_or_default();
        }
        total
    }

    /// Has messages of clients wait, or no longer; how many clients are being answered.
    async fn suspend(&self, suspended: bool) -> usize {
        self.suspended.store(suspended, Relaxed);
        let asked: Vec<_> = (0..self.workers.len())
            .map(|worker| {
                let (busy, answer) = oneshot::channel();
                self.tell(worker, Message::Suspend { suspended, busy });
                answer
            })
            .collect();
        let mut total = 0;
        for answer in asked {
            total += answer.await.unwrap_or_default();
        }
        total
    }

    fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    fn advance(&self, to: Stage) {
        self.stage.send_if_modified(|stage| {
            let forward = *stage < to;
            *stage = to.max(*stage);
            forward
        });
    }

    async fn reached(&self, wanted: Stage) {
        // The sender lives as long as this future's owner: there is always an answer.
        drop(self.stage.subscribe().wait_for(|stage| *stage >= wanted).await);
    }

    fn shutdown(&self, how: Shutdown) {
        tracing::info!(?how, clients = self.clients.get(), "shutting down");
        self.advance(match how {
            Shutdown::Now => Stage::Stopped,
            Shutdown::WaitForClients => Stage::WaitsForClients,
            Shutdown::WaitForServers => Stage::WaitsForServers,
        });
    }
}

/// The control thread: what is not a client's business.
fn run_control(runtime: &tokio::runtime::Runtime, shared: &Arc<Shared>, listener: Listener) {
    runtime.block_on(async {
        let periods = shared.clone();
        drop(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(STATS_PERIOD);
            loop {
                ticks.tick().await;
                periods.stats.end_period(Instant::now());
            }
        }));
        drop(tokio::spawn(shared.clone().watch_deadlocks()));
        tokio::select! {
            () = listener.run(|socket| shared.hand_over(socket)) => {}
            () = shared.reached(Stage::WaitsForClients) => {}
        }
        // Whoever takes over this router's work can have its address.
        drop(listener);
        shared.drain().await;
    });
}

impl Shared {
    /// Waits for the clients to leave, as far as that was asked for.
    async fn drain(&self) {
        let dismissal = async {
            self.reached(Stage::WaitsForServers).await;
            self.tell_all(|| Message::Dismiss);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = self.clients.none() => self.advance(Stage::Stopped),
            () = self.reached(Stage::Stopped) => {}
            () = dismissal => {}
        }
    }
}

/// How many there are of something at this moment.
#[derive(Debug, Default)]
struct Count {
    number: AtomicU32,
    none_left: Notify,
}

impl Count {
    fn get(&self) -> u32 {
        self.number.load(Relaxed)
    }

    /// One more if there are fewer than `max`.
    fn take(self: &Arc<Self>, max: u32) -> Option<Place> {
        let taken = self.number.fetch_update(Relaxed, Relaxed, |taken| (taken < max).then_some(taken + 1));
        taken.is_ok().then(|| Place(self.clone()))
    }

    async fn none(&self) {
        while self.get() > 0 {
            self.none_left.notified().await;
        }
    }
}

/// One of those counted.
struct Place(Arc<Count>);

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.number.fetch_sub(1, Relaxed) == 1 {
            self.0.none_left.notify_one();
        }
    }
}
