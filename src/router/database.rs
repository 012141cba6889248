//! One database over its shards: its catalog, the health of its instances, and the tasks on the
//! control thread that keep both fresh.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pgsluice_sharding::{ShardId, ShardMap};
use tokio::task::JoinHandle;

use super::Shared;
use crate::catalog::{CatalogWatch, Shard as CatalogShard};
use crate::commit::recover;
use crate::commit::shards::{Bounds, Commits, Known, Logins};
use crate::config::{self, Config, Host, Instance};
use crate::control;
use crate::execute::greeting::Greetings;
use crate::listening::Listening;
use crate::pool::health::{Change, Health, InstanceHealth};
use crate::prober::{Probe, ProbeResult, ShardProber};

/// How often the shards are asked whether their tables have changed.
const CATALOG_INTERVAL: Duration = Duration::from_secs(5);

/// Control connections to one shard's primary for reading the catalog.
const CATALOG_CONNECTIONS: usize = 2;

/// One database as the configuration of the moment has it.
pub(super) struct Database {
    pub(super) config: config::Database,
    pub(super) map: Arc<ShardMap>,
    pub(super) catalog: Arc<CatalogWatch>,
    pub(super) greetings: Arc<Greetings>,
    pub(super) listening: Arc<Listening>,
    pub(super) commits: Arc<Commits>,
    /// By position in the configuration.
    pub(super) shards: Vec<Arc<Mutex<ShardHealth>>>,
    /// Lives as long as the catalog, over reloads.
    watching: Arc<Task>,
    _probing: Vec<Task>,
    /// There is none over one shard.
    _recovering: Option<Task>,
}

/// What is known of a shard's instances, the configured primary first.
#[derive(Debug)]
pub(super) struct ShardHealth {
    pub(super) health: Health,
    pub(super) instances: Vec<Seen>,
}

/// What an instance said last.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) probe: Option<Probe>,
    /// Why there was no answer the last time.
    pub(super) problem: Option<String>,
}

impl ShardHealth {
    fn new(instances: usize, lag_max: Duration, epoch: Instant) -> Self {
        Self { health: Health::new(instances, lag_max, epoch), instances: vec![Seen::default(); instances] }
    }

    /// Gives what an operator would like to read in the log, if anything is new.
    fn record(&mut self, result: &ProbeResult) -> Option<News> {
        let seen = &mut self.instances[result.instance];
        let before = seen.problem.clone();
        match &result.answer {
            Ok(probe) => *seen = Seen { probe: Some(*probe), problem: None },
            Err(problem) => seen.problem = Some(problem.clone()),
        }
        let now = seen.problem.clone();
        let known = self.health.primary();
        match self.health.record(result.into(), result.answered) {
            Change::Primary { .. } if known.is_some() || result.instance != 0 => Some(News::Primary),
            _ if now == before => None,
            _ => Some(now.map_or(News::Well, News::Problem)),
        }
    }
}

/// What a probe has changed.
enum News {
    Problem(String),
    /// It answers again.
    Well,
    Primary,
}

impl News {
    fn tell(&self, database: &str, shard: &str, instance: &str) {
        match self {
            Self::Problem(problem) => tracing::warn!(database, shard, instance, "{problem}"),
            Self::Well => tracing::info!(database, shard, instance, "this instance is well again"),
            Self::Primary => tracing::warn!(database, shard, instance, "this instance is the primary now"),
        }
    }
}

/// A task that ends with its owner.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Database {
    /// Starts watching a database. What `before` knows of the same instances is kept.
    pub(super) fn start(database: &config::Database, config: &Config, shared: &Shared, before: Option<&Self>) -> Self {
        let shards = count(database.shards.len());
        let catalog_shards = database.shards.iter().filter_map(|shard| catalog_shard(shard, config)).collect();
        let rules = database.rules.clone();
        let logins = listening_logins(database, config);
        let listening = match before {
            Some(before) => before.listening.clone(),
            None => Arc::new(Listening::new(Vec::new(), shared.control.clone())),
        };
        listening.reconfigure(logins);
        let (map, catalog, watching) = if let Some(before) = before {
            before.catalog.reconfigure(rules, catalog_shards);
            (before.map.clone(), before.catalog.clone(), before.watching.clone())
        } else {
            let map = Arc::new(ShardMap::even(database.buckets, shards));
            let catalog = Arc::new(CatalogWatch::new(&database.name, rules, catalog_shards));
            let watched = catalog.clone();
            let watching = shared.control.spawn(async move { watched.run(CATALOG_INTERVAL).await });
            (map, catalog, Arc::new(Task(watching)))
        };
        let shards: Vec<_> = database
            .shards
            .iter()
            .enumerate()
            .map(|(n, shard)| health_of(shard, n, config, shared.epoch, before))
            .collect();
        let probing = database.shards.iter().zip(&shards).enumerate();
        let probing =
            probing.map(|(n, (shard, health))| probe((&database.name, n), shard, config, shared, health)).collect();
        // What servers say of themselves may change with the settings.
        let greetings = Arc::default();
        let (commits, recovering) = commits(database, config, shared, &shards);
        Self {
            config: database.clone(),
            map,
            catalog,
            greetings,
            listening,
            commits,
            shards,
            watching,
            _probing: probing,
            _recovering: recovering,
        }
    }

    /// Whether its tables are known, and what its shards can do together.
    pub(super) fn is_ready(&self) -> bool {
        let asked = |known: &Known| !matches!(known, Known::Away(_));
        self.catalog.version() > 0 && (self.shards.len() == 1 || self.commits.known().iter().all(asked))
    }

    /// What is known of a shard at this moment.
    pub(super) fn shard(&self, position: usize) -> MutexGuard<'_, ShardHealth> {
        lock(&self.shards[position])
    }

    /// The health of a shard's instances, for workers.
    pub(super) fn instances(&self, position: usize) -> Vec<Arc<InstanceHealth>> {
        self.shard(position).health.instances().to_vec()
    }

    pub(super) fn shard_names(&self) -> Vec<&str> {
        self.config.shards.iter().map(|shard| shard.name.as_str()).collect()
    }
}

fn lock(health: &Mutex<ShardHealth>) -> MutexGuard<'_, ShardHealth> {
    health.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a shard's catalog is read.
pub(crate) fn catalog_shard(shard: &config::Shard, config: &Config) -> Option<CatalogShard> {
    let timeout = config.pool.connect_timeout;
    let login = control::config(&shard.primary, &config.users, timeout);
    let primary = control::pool(login, CATALOG_CONNECTIONS, timeout).ok()?;
    Some(CatalogShard { name: shard.name.clone(), primary })
}

/// Notifications pass through the first shard.
fn listening_logins(database: &config::Database, config: &Config) -> Vec<tokio_postgres::Config> {
    let instances = database.shards.first().into_iter().flat_map(config::Shard::instances);
    instances.map(|instance| control::config(instance, &config.users, config.pool.connect_timeout)).collect()
}

/// Commits over the shards of a database; what is left of them is looked for where there are several.
fn commits(
    database: &config::Database,
    config: &Config,
    shared: &Shared,
    shards: &[Arc<Mutex<ShardHealth>>],
) -> (Arc<Commits>, Option<Task>) {
    let logins = Arc::new(Places {
        shards: database.shards.iter().cloned().zip(shards.iter().cloned()).collect(),
        users: config.users.clone(),
        timeout: config.pool.connect_timeout,
    });
    let config::CommitSettings { in_doubt_after, outcome_timeout } = config.commit;
    let bounds = Bounds { in_doubt_after, outcome_timeout };
    let commits = Arc::new(Commits::new(database.shards.len(), logins, bounds, shared.control.clone()));
    let work = recover::run(commits.clone(), database.name.clone());
    let task = (database.shards.len() > 1).then(|| Task(shared.control.spawn(work)));
    (commits, task)
}

/// Where the primaries are at any moment.
#[derive(Debug)]
struct Places {
    shards: Vec<(config::Shard, Arc<Mutex<ShardHealth>>)>,
    users: Vec<config::User>,
    timeout: Duration,
}

impl Places {
    fn instance(&self, shard: usize) -> &Instance {
        let (config, health) = &self.shards[shard];
        let primary = lock(health).health.primary().unwrap_or(0);
        config.instances().nth(primary).unwrap_or(&config.primary)
    }
}

impl Logins for Places {
    fn primary(&self, shard: usize) -> tokio_postgres::Config {
        control::config(self.instance(shard), &self.users, self.timeout)
    }

    fn primary_as(&self, shard: usize, user: &str) -> tokio_postgres::Config {
        let instance = Instance { user: Some(user.to_owned()), password: None, ..self.instance(shard).clone() };
        control::config(&instance, &self.users, self.timeout)
    }
}

/// Asks the instances of a shard.
pub(crate) fn prober(position: usize, shard: &config::Shard, config: &Config) -> ShardProber {
    let timeout = config.pool.connect_timeout;
    let logins = shard.instances().map(|instance| control::config(instance, &config.users, timeout));
    ShardProber::new(ShardId(count(position)), logins.collect(), timeout)
}

fn health_of(
    shard: &config::Shard,
    position: usize,
    config: &Config,
    epoch: Instant,
    before: Option<&Database>,
) -> Arc<Mutex<ShardHealth>> {
    let addresses =
        |shard: &config::Shard| -> Vec<(Host, u16)> { shard.instances().map(|i| (i.host.clone(), i.port)).collect() };
    let same = |before: &Database| {
        let old = before.config.shards.get(position)?;
        (addresses(old) == addresses(shard)).then(|| before.shards[position].clone())
    };
    if let Some(known) = before.and_then(same) {
        lock(&known).health.instances().iter().for_each(|instance| instance.set_lag_max(config.replicas.lag_max));
        return known;
    }
    Arc::new(Mutex::new(ShardHealth::new(1 + shard.replicas.len(), config.replicas.lag_max, epoch)))
}

fn probe(
    (database, position): (&str, usize),
    shard: &config::Shard,
    config: &Config,
    shared: &Shared,
    health: &Arc<Mutex<ShardHealth>>,
) -> Task {
    let (prober, health) = (prober(position, shard, config), health.clone());
    let interval = config.replicas.check_interval;
    let (database, name) = (database.to_owned(), shard.name.clone());
    let addresses: Vec<String> = shard.instances().map(Instance::address).collect();
    let report = move |result: ProbeResult| {
        let news = lock(&health).record(&result);
        if let Some(news) = news {
            news.tell(&database, &name, &addresses[result.instance]);
        }
    };
    Task(shared.control.spawn(async move { prober.run(interval, report).await }))
}

fn count(n: usize) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}
