//! All pools of one router, over all workers: what each one means by the configuration, and its shared limits.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::auth::client::server_password;
use crate::clock;
use crate::config::{Config, Host, Instance, PoolMode};
use crate::pool::budget::{InstanceBudget, Mode, PoolId, PoolShared, PoolSnapshot, WorkerId};
use crate::pool::connect::Target;
use crate::pool::core::PoolLimits;
use crate::pool::driver::WorkerMessage;

/// Which pool: the servers of one user, database and instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The user that servers log in as.
    pub user: Arc<str>,
    /// The database's name in the configuration.
    pub database: Arc<str>,
    /// The shard's position in the database.
    pub shard: u16,
    /// 0 is the configured primary, `n` the n-th replica.
    pub instance: u16,
}

/// What a pool does, by the configuration of the moment.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) target: Target,
    pub(super) limits: Arc<PoolLimits>,
    pub(super) mode: PoolMode,
    pub(super) size: u32,
    pub(super) connect_timeout: Duration,
    pub(super) prepared_statements_max: usize,
}

/// One pool over all workers.
pub(super) struct Entry {
    pub(super) key: PoolKey,
    pub(super) shared: Arc<PoolShared>,
    pub(super) budget: Arc<InstanceBudget>,
    spec: Mutex<Arc<Spec>>,
}

impl Entry {
    /// What holds now. Not for the hot path.
    pub(super) fn spec(&self) -> Arc<Spec> {
        Arc::clone(&lock(&self.spec))
    }
}

/// The pools of a router. Its methods lock; nothing on the way of a query calls them.
pub struct Directory {
    pub(super) epoch: Instant,
    mailboxes: Vec<UnboundedSender<WorkerMessage>>,
    next_server: AtomicU64,
    known: Mutex<Known>,
}

struct Known {
    config: Arc<Config>,
    pools: HashMap<PoolKey, Arc<Entry>>,
    instances: HashMap<(Host, u16), Arc<InstanceBudget>>,
    next_pool: u32,
    /// What pools to come begin with: by database, else as the last command to all has left it.
    modes: HashMap<String, Mode>,
    mode: Mode,
}

/// The messages to one worker. Their number is bounded by servers and waiters: each is about one of them.
pub struct Mailbox {
    pub(super) worker: WorkerId,
    pub(super) messages: UnboundedReceiver<WorkerMessage>,
}

/// What the console may ask of pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// PAUSE: clients wait, servers are closed as they come back.
    Pause,
    /// RESUME, ENABLE.
    Resume,
    /// DISABLE: clients are refused, servers are closed as they come back.
    Disable,
    /// RECONNECT: servers of now are replaced as they come back.
    Reconnect,
}

impl Directory {
    /// A directory without pools, and a mailbox for each worker.
    pub fn new(config: Arc<Config>, workers: usize) -> (Arc<Self>, Vec<Mailbox>) {
        let (mailboxes, receivers): (Vec<_>, Vec<_>) = (0..workers).map(|_| unbounded_channel()).unzip();
        let known = Known {
            config,
            pools: HashMap::new(),
            instances: HashMap::new(),
            next_pool: 0,
            modes: HashMap::new(),
            mode: Mode::Running,
        };
        let directory =
            Self { epoch: clock::now(), mailboxes, next_server: AtomicU64::new(1), known: Mutex::new(known) };
        let receivers = receivers.into_iter().enumerate();
        (Arc::new(directory), receivers.map(|(worker, messages)| Mailbox { worker, messages }).collect())
    }

    /// The pool of a key, made when it is asked for first; `None` when the configuration has no such place.
    pub(super) fn entry(&self, key: &PoolKey) -> Option<Arc<Entry>> {
        let mut known = lock(&self.known);
        if let Some(entry) = known.pools.get(key) {
            return Some(Arc::clone(entry));
        }
        let spec = Arc::new(spec(&known.config, key)?);
        let budget = known.budget(&spec.target);
        let id = PoolId(known.next_pool);
        known.next_pool += 1;
        let shared = Arc::new(PoolShared::new(id, self.mailboxes.len(), spec.size, self.epoch));
        shared.set_mode(known.mode_of(&key.database));
        budget.enlist(&shared);
        let entry = Arc::new(Entry { key: key.clone(), shared, budget, spec: Mutex::new(spec) });
        known.pools.insert(key.clone(), Arc::clone(&entry));
        Some(entry)
    }

    /// Takes over a new configuration. Pools it no longer has are disabled; where the address, the login or the password has
    /// changed, servers are replaced as they come back.
    pub fn reload(&self, config: Arc<Config>) {
        let mut known = lock(&self.known);
        for budget in known.instances.values() {
            budget.set_max(config.pool.instance_connections_max);
        }
        known.pools.retain(|key, entry| {
            let before = entry.spec();
            let after = spec(&config, key)
                .filter(|s| s.target.host == before.target.host && s.target.port == before.target.port);
            let Some(after) = after else {
                // Another instance has another budget: a new pool is made when it is asked for.
                entry.shared.set_mode(Mode::Disabled);
                return false;
            };
            entry.shared.set_size(after.size);
            if after.target != before.target {
                entry.shared.reconnect();
            }
            *lock(&entry.spec) = Arc::new(after);
            true
        });
        known.config = config;
        drop(known);
        self.refresh();
    }

    /// Applies a command to the pools of a database, or to all; to those that are made later, too.
    pub fn control(&self, database: Option<&str>, control: Control) {
        let mut known = lock(&self.known);
        let mode = match control {
            Control::Pause => Some(Mode::Paused),
            Control::Resume => Some(Mode::Running),
            Control::Disable => Some(Mode::Disabled),
            Control::Reconnect => None,
        };
        if let Some(mode) = mode {
            known.set_mode(database, mode);
        }
        for entry in known.pools.values().filter(|e| database.is_none_or(|d| *d == *e.key.database)) {
            match mode {
                Some(mode) => entry.shared.set_mode(mode),
                None => entry.shared.reconnect(),
            }
        }
        drop(known);
        self.refresh();
    }

    /// Whether a database gives servers at this moment.
    pub fn mode(&self, database: &str) -> Mode {
        lock(&self.known).mode_of(database)
    }

    /// All pools, for SHOW and metrics.
    pub fn snapshots(&self, now: Instant) -> Vec<(PoolKey, Mode, PoolSnapshot)> {
        let known = lock(&self.known);
        known.pools.values().map(|e| (e.key.clone(), e.shared.mode(), e.shared.snapshot(now))).collect()
    }

    /// All instances that pools have been made for: address, servers, their limit.
    pub fn instances(&self) -> Vec<(Host, u16, u32, u32)> {
        let known = lock(&self.known);
        known.instances.iter().map(|((host, port), b)| (host.clone(), *port, b.open(), b.max())).collect()
    }

    pub(super) fn next_server(&self) -> u64 {
        self.next_server.fetch_add(1, Relaxed)
    }

    /// Sends to a worker; gives the message back when that worker has ended.
    pub(super) fn send(&self, to: WorkerId, message: WorkerMessage) -> Result<(), WorkerMessage> {
        self.mailboxes[to].send(message).map_err(|error| error.0)
    }

    fn refresh(&self) {
        for worker in 0..self.mailboxes.len() {
            // A worker that has ended has no pools to refresh.
            drop(self.send(worker, WorkerMessage::Refresh));
        }
    }
}

impl Known {
    fn mode_of(&self, database: &str) -> Mode {
        self.modes.get(database).copied().unwrap_or(self.mode)
    }

    fn set_mode(&mut self, database: Option<&str>, mode: Mode) {
        match database {
            Some(database) => drop(self.modes.insert(database.to_owned(), mode)),
            None => {
                self.modes.clear();
                self.mode = mode;
            }
        }
    }

    fn budget(&mut self, target: &Target) -> Arc<InstanceBudget> {
        let max = self.config.pool.instance_connections_max;
        let budget = self.instances.entry((target.host.clone(), target.port));
        Arc::clone(budget.or_insert_with(|| Arc::new(InstanceBudget::new(max))))
    }
}

/// What the configuration says of a pool. A user's settings go before the database's, those before the general ones.
fn spec(config: &Config, key: &PoolKey) -> Option<Spec> {
    let database = config.databases.iter().find(|d| *d.name == *key.database)?;
    let shard = database.shards.get(usize::from(key.shard))?;
    let instance: &Instance = match key.instance.checked_sub(1) {
        None => &shard.primary,
        Some(replica) => shard.replicas.get(usize::from(replica))?,
    };
    let user = config.users.iter().find(|u| *u.name == *key.user);
    let secret = user.and_then(|u| u.password.as_ref());
    let configured = secret.and_then(|secret| server_password(&key.user, secret).ok());
    let own = instance.user.as_deref().is_none_or(|u| u == &*key.user);
    let password = instance.password.as_deref().filter(|_| own).or(configured);
    let settings = &config.pool;
    Some(Spec {
        target: Target {
            host: instance.host.clone(),
            port: instance.port,
            user: key.user.to_string(),
            database: instance.database.clone(),
            password: password.map(str::to_owned),
            // No application_name either: a client that gives none has an empty one.
            parameters: Vec::new(),
        },
        limits: Arc::new(PoolLimits {
            wait_timeout: settings.wait_timeout,
            waiting_max: settings.waiting_max,
            idle_timeout: settings.idle_timeout,
            lifetime: settings.lifetime,
            check_delay: settings.check_delay,
            unreachable_grace: Duration::ZERO,
        }),
        mode: user.and_then(|u| u.pool_mode).or(database.pool_mode).unwrap_or(settings.mode),
        size: user.and_then(|u| u.pool_size).or(database.pool_size).unwrap_or(settings.size),
        connect_timeout: settings.connect_timeout,
        prepared_statements_max: settings.prepared_statements_max,
    })
}

/// A panic while the lock was held leaves nothing half-written here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
