//! Owns everything: starts it in order, reloads, drains and stops it.
//!
//! ```text
//! Router ── control thread: listener, catalog watches, probers, HTTP
//!        └─ worker threads: clients, servers, plans; each with its own runtime
//! ```

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fmt, io};

use pgsluice_sharding::{ShardId, ShardMap};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;

use crate::catalog::{CatalogReader, CatalogWatch, Shard as CatalogShard};
use crate::config::{self, Config};
use crate::control;
use crate::execute::worker::{Served, ShardPools, Worker};
use crate::net::cancel::CancelKeys;
use crate::net::listener::{Listener, Socket};
use crate::net::startup::{self, First, Refused};
use crate::net::{client, tls};
use crate::pool::directory::{Directory, Mailbox};
use crate::pool::driver::{Pool, PoolKey, Pools};
use crate::pool::health::{Answer, Health, Probe};
use crate::prober::{ProbeResult, ShardProber};
use crate::protocol::error::ErrorFields;
use crate::stats::PoolStats;

/// How often the shards are asked whether their tables have changed.
const CATALOG_INTERVAL: Duration = Duration::from_secs(5);

/// Control connections to one shard's primary for reading the catalog.
const CATALOG_CONNECTIONS: usize = 2;

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

/// A running router.
pub struct Router {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

/// What all threads know.
struct Shared {
    config: RwLock<Arc<Config>>,
    context: RwLock<Arc<startup::Context>>,
    databases: RwLock<HashMap<String, Arc<Database>>>,
    directory: Arc<Directory>,
    keys: CancelKeys,
    places: Arc<AtomicU32>,
    workers: Vec<mpsc::UnboundedSender<Message>>,
    next_worker: AtomicUsize,
    /// Makes statement ids and transaction names that nobody can foresee.
    seed: u64,
}

/// One database over its shards.
struct Database {
    config: config::Database,
    map: Arc<ShardMap>,
    catalog: Arc<CatalogWatch>,
    health: Vec<Mutex<Health>>,
}

/// What a worker is told.
enum Message {
    Client(Socket),
    /// Cancels what the client with this number runs; the sender is dropped when that is done.
    Cancel {
        client: i32,
        done: oneshot::Sender<()>,
    },
}

impl Router {
    /// Starts listening and serving; shards need not be reachable yet.
    ///
    /// # Errors
    /// An address that is taken, TLS files that cannot be used, no threads.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let epoch = Instant::now();
        let mut random = [0; 40];
        getrandom::fill(&mut random).map_err(|error| StartError::System(io::Error::other(error)))?;
        let (seed, salt_key) = random.split_at(8);
        let seed = u64::from_be_bytes(seed.try_into().unwrap_or_default());
        let context =
            startup::Context::new(&config, salt_key.try_into().unwrap_or_default()).map_err(StartError::Tls)?;
        let control = runtime().map_err(StartError::System)?;
        let listener = control.block_on(async { Listener::bind(&config.listen) }).map_err(StartError::Listen)?;
        let address = listener.address().map_err(StartError::Listen)?;
        let databases = config.databases.iter().map(|database| {
            let state = Database::new(database, &config, epoch);
            (database.name.clone(), Arc::new(state))
        });
        let databases: HashMap<String, Arc<Database>> = databases.collect();
        let (workers, inboxes): (Vec<_>, Vec<_>) =
            (0..config.listen.workers.max(1)).map(|_| mpsc::unbounded_channel()).unzip();
        let config = Arc::new(config);
        let (directory, mailboxes) = Directory::new(config.clone(), workers.len());
        let shared = Arc::new(Shared {
            config: RwLock::new(config),
            directory,
            context: RwLock::new(Arc::new(context)),
            databases: RwLock::new(databases),
            keys: CancelKeys::default(),
            places: Arc::default(),
            workers,
            next_worker: AtomicUsize::new(0),
            seed,
        });
        let (stop, stopping) = watch::channel(false);
        let mut threads = Vec::new();
        for (index, (inbox, mailbox)) in inboxes.into_iter().zip(mailboxes).enumerate() {
            let (shared, stopping) = (shared.clone(), stopping.clone());
            threads
                .push(spawn(format!("worker-{index}"), move || run_worker(index, mailbox, inbox, &shared, stopping))?);
        }
        let control_shared = shared.clone();
        threads.push(spawn("control".to_owned(), move || run_control(&control, &control_shared, listener, stopping))?);
        Ok(Self { shared, address, stop, threads })
    }

    /// Where clients connect, also when port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until every database's catalog is known, or time is up.
    pub async fn ready(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while Instant::now() < until {
            let databases: Vec<Arc<Database>> = self.shared.databases().values().cloned().collect();
            if databases.iter().all(|database| database.catalog.version() > 0) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// Ends all connections and waits for the threads.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread has panicked");
            }
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.end();
    }
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new().name(name).spawn(work).map_err(StartError::System)
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

impl Shared {
    fn config(&self) -> Arc<Config> {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn context(&self) -> Arc<startup::Context> {
        self.context.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn databases(&self) -> std::sync::RwLockReadGuard<'_, HashMap<String, Arc<Database>>> {
        self.databases.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Clients go round the workers, so that few clients are spread as evenly as many.
    fn hand_over(&self, socket: Socket) {
        let worker = self.next_worker.fetch_add(1, Relaxed) % self.workers.len();
        if self.workers[worker].send(Message::Client(socket)).is_err() {
            tracing::debug!("a connection came while the router was stopping");
        }
    }

    /// Cancels what the holder of the key runs; ends when the servers have been told.
    async fn cancel(&self, pid: i32, secret: &[u8]) {
        let Some(worker) = self.keys.find(pid, secret) else { return };
        let (done, told) = oneshot::channel();
        if self.workers[worker].send(Message::Cancel { client: pid, done }).is_ok() {
            // The sender is dropped, not used: either way the wait is over.
            drop(told.await);
        }
    }
}

impl Database {
    fn new(database: &config::Database, config: &Config, epoch: Instant) -> Self {
        let shards = u16::try_from(database.shards.len()).unwrap_or(u16::MAX);
        let timeout = config.pool.connect_timeout;
        let catalog_shards = database.shards.iter().filter_map(|shard| {
            let login = control::config(&shard.primary, &config.users, timeout);
            let primary = control::pool(login, CATALOG_CONNECTIONS, timeout).ok()?;
            Some(CatalogShard { name: shard.name.clone(), primary })
        });
        let catalog = CatalogWatch::new(&database.name, database.rules.clone(), catalog_shards.collect());
        let health = database
            .shards
            .iter()
            .map(|shard| Mutex::new(Health::new(1 + shard.replicas.len(), config.replicas.lag_max, epoch)));
        Self {
            config: database.clone(),
            map: Arc::new(ShardMap::even(database.buckets, shards)),
            catalog: Arc::new(catalog),
            health: health.collect(),
        }
    }

    fn record(&self, result: &ProbeResult) {
        let answer = match &result.answer {
            Ok(probe) if probe.in_recovery => Answer::Replica { replayed: probe.lsn.map_or(0, |lsn| lsn.0) },
            Ok(probe) => Answer::Primary { lsn: probe.lsn.map_or(0, |lsn| lsn.0), timeline: 0 },
            Err(_) => Answer::Down,
        };
        let probe = Probe { instance: result.instance, asked_at: result.asked, answer };
        let mut health = self.health[usize::from(result.shard.0)].lock().unwrap_or_else(PoisonError::into_inner);
        health.record(probe, result.answered);
    }
}

/// The control thread: what is not a client's business.
fn run_control(
    runtime: &tokio::runtime::Runtime,
    shared: &Arc<Shared>,
    listener: Listener,
    mut stopping: watch::Receiver<bool>,
) {
    let local = LocalSet::new();
    local.block_on(runtime, async {
        let databases: Vec<Arc<Database>> = shared.databases().values().cloned().collect();
        for database in databases {
            let catalog = database.catalog.clone();
            drop(tokio::task::spawn_local(async move { catalog.run(CATALOG_INTERVAL).await }));
            spawn_probers(&database, &shared.config());
        }
        let accept = listener.run(|socket| shared.hand_over(socket));
        tokio::select! {
            () = accept => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
    });
}

fn spawn_probers(database: &Arc<Database>, config: &Config) {
    for (n, shard) in database.config.shards.iter().enumerate() {
        let instances = std::iter::once(&shard.primary).chain(&shard.replicas);
        let logins = instances.map(|instance| control::config(instance, &config.users, config.pool.connect_timeout));
        let id = ShardId(u16::try_from(n).unwrap_or(u16::MAX));
        let prober = ShardProber::new(id, logins.collect(), config.pool.connect_timeout);
        let (database, interval) = (database.clone(), config.replicas.check_interval);
        drop(tokio::task::spawn_local(async move { prober.run(interval, |result| database.record(&result)).await }));
    }
}

/// A worker thread: its clients and their servers live and die here.
fn run_worker(
    index: usize,
    mailbox: Mailbox,
    mut inbox: mpsc::UnboundedReceiver<Message>,
    shared: &Arc<Shared>,
    mut stopping: watch::Receiver<bool>,
) {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "a worker cannot start"),
    };
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let host = Rc::new(Host {
            worker: Rc::new(Worker::new(index, shared.config().limits.clone(), shared.seed)),
            pools: Pools::start(shared.directory.clone(), mailbox),
            shared: shared.clone(),
            served: RefCell::default(),
        });
        loop {
            let message = tokio::select! {
                message = inbox.recv() => message,
                _ = stopping.wait_for(|stop| *stop) => None,
            };
            match message {
                None => break,
                Some(Message::Client(socket)) => {
                    let host = host.clone();
                    drop(tokio::task::spawn_local(async move { host.take_in(socket).await }));
                }
                Some(Message::Cancel { client, done }) => {
                    let host = host.clone();
                    drop(tokio::task::spawn_local(async move { host.cancel(client, done).await }));
                }
            }
        }
    });
}

/// One worker's side of the router.
struct Host {
    shared: Arc<Shared>,
    worker: Rc<Worker>,
    pools: Pools,
    /// By user and database.
    served: RefCell<HashMap<(String, String), Rc<Served>>>,
}

impl Host {
    /// An accepted socket, to its end.
    async fn take_in(self: Rc<Self>, socket: Socket) {
        let peer = socket.peer();
        let stream = match socket.into_stream() {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(%error, "a connection cannot be watched"),
        };
        let context = self.shared.context();
        let first = Box::pin(startup::accept(stream, &context)).await;
        drop(context);
        match first {
            // The client waits for the end of the connection, which comes with this scope's end.
            Ok(First::Cancel { stream, pid, secret }) => {
                self.shared.cancel(pid, &secret).await;
                drop(stream);
            }
            Ok(First::Client(accepted)) => self.serve(accepted).await,
            Err(Refused::Io(error)) => tracing::debug!(%error, ?peer, "connection lost before the login"),
            Err(refused) => tracing::info!(?peer, reason = %refused, "connection refused"),
        }
    }

    async fn serve(&self, accepted: startup::Accepted) {
        let config = self.shared.config();
        let Some(_place) = Place::take(&self.shared.places, config.listen.clients_max) else {
            let fields =
                ErrorFields::fatal("53300", "sorry, too many clients already").with_hint("Raise listen.clients_max.");
            return client::refuse(accepted.stream, &fields).await;
        };
        match self.served(&accepted.user, &accepted.database) {
            Ok(served) => client::serve(accepted, served, self.worker.clone(), &self.shared.keys).await,
            Err(fields) => client::refuse(accepted.stream, &fields).await,
        }
    }

    /// The database for this user, with its pools.
    fn served(&self, user: &str, database: &str) -> Result<Rc<Served>, ErrorFields> {
        let key = (user.to_owned(), database.to_owned());
        if let Some(served) = self.served.borrow().get(&key) {
            return Ok(served.clone());
        }
        let Some(state) = self.shared.databases().get(database).cloned() else {
            return Err(ErrorFields::fatal("3D000", format!("database \"{database}\" does not exist")));
        };
        let config = self.shared.config();
        let entry = config.users.iter().find(|entry| entry.name == user);
        let mode = entry.and_then(|entry| entry.pool_mode).or(state.config.pool_mode).unwrap_or(config.pool.mode);
        let shards = state.config.shards.iter().zip(&state.health).enumerate().map(|(n, (shard, health))| {
            let health = health.lock().unwrap_or_else(PoisonError::into_inner);
            ShardPools {
                name: shard.name.as_str().into(),
                instances: self
                    .pools_of(n, shard, user, database)
                    .into_iter()
                    .zip(health.instances().iter().cloned())
                    .collect(),
            }
        });
        let served = Rc::new(Served {
            database: database.into(),
            user: user.into(),
            mode,
            catalog: RefCell::new(CatalogReader::new(state.catalog.clone())),
            planner: self.worker.planner(database),
            map: state.map.clone(),
            shards: shards.collect(),
            stats: Arc::new(PoolStats::default()),
            descriptions: RefCell::default(),
            greetings: RefCell::default(),
        });
        self.served.borrow_mut().insert(key, served.clone());
        Ok(served)
    }

    /// The pools of a shard for this user, the configured primary's first.
    fn pools_of(&self, shard: usize, config: &config::Shard, user: &str, database: &str) -> Vec<Rc<Pool>> {
        let instances = std::iter::once(&config.primary).chain(&config.replicas);
        let keys = instances.enumerate().map(|(n, instance)| PoolKey {
            user: instance.user.as_deref().unwrap_or(user).into(),
            database: database.into(),
            shard: u16::try_from(shard).unwrap_or(u16::MAX),
            instance: u16::try_from(n).unwrap_or(u16::MAX),
        });
        keys.filter_map(|key| self.pools.pool(&key)).collect()
    }

    async fn cancel(&self, client: i32, done: oneshot::Sender<()>) {
        let slot = self.worker.cancel_slots.borrow().get(&client).and_then(std::rc::Weak::upgrade);
        if let Some(slot) = slot {
            slot.cancel().await;
        }
        drop(done);
    }
}

/// One of the places for clients.
struct Place(Arc<AtomicU32>);

impl Place {
    /// Takes a place if fewer than `max` are taken.
    fn take(places: &Arc<AtomicU32>, max: u32) -> Option<Self> {
        let taken = places.fetch_update(Relaxed, Relaxed, |taken| (taken < max).then_some(taken + 1));
        taken.is_ok().then(|| Self(places.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
