//! Keeps the catalog of one database fresh.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use deadpool_postgres::{Pool, PoolError};
use pgsluice_sharding::catalog::{Catalog, TableKind, TableRule, TableRules};
use pgsluice_sharding::map::ShardId;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

use crate::catalog::blocks::Blocks;
use crate::catalog::{LoadError, Loaded, ShardCatalog, compare, fingerprint, load};

/// A server that takes longer than this for its whole catalog is treated as unreachable.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// After a failed first load: the first pause; it doubles up to the interval.
const BACKOFF_MIN: Duration = Duration::from_millis(200);

/// Asking for fingerprints may take at most one part in so many of the time.
const CHECK_SHARE: u32 = 20;

/// Where one shard's primary is asked.
#[derive(Clone, Debug)]
pub struct Shard {
    pub name: String,
    pub primary: Pool,
}

/// What is asked, and how the answers are read.
#[derive(Debug)]
struct Source {
    rules: TableRules,
    shards: Vec<Shard>,
}

/// The current catalog of one database and those who renew it.
///
/// Workers look at a version number (one atomic load) and take the `Arc` only when it has changed.
#[derive(Debug)]
pub struct CatalogWatch {
    database: String,
    source: RwLock<Arc<Source>>,
    /// The version of `current`; 0 until something was loaded.
    version: AtomicU64,
    current: RwLock<Arc<Catalog>>,
    problems: RwLock<Arc<[String]>>,
    /// How many refreshes have begun.
    begun: AtomicU64,
    /// Whether [`Self::run`] has tried once.
    tried: watch::Sender<bool>,
    /// One load at a time. Holds the number of the last refresh that ended well.
    loading: Mutex<u64>,
    /// The values of its sequences.
    pub blocks: Blocks,
}

impl CatalogWatch {
    /// An empty catalog with version 0. Nothing is asked yet.
    pub fn new(database: &str, rules: TableRules, shards: Vec<Shard>) -> Self {
        let empty = Catalog { shards: count(&shards), rules: rules.clone(), ..Catalog::default() };
        Self {
            database: database.to_owned(),
            source: RwLock::new(Arc::new(Source { rules, shards })),
            version: AtomicU64::new(0),
            current: RwLock::new(Arc::new(empty)),
            problems: RwLock::new(Arc::new([])),
            begun: AtomicU64::new(0),
            tried: watch::Sender::new(false),
            loading: Mutex::new(0),
            blocks: Blocks::default(),
        }
    }

    /// Takes other rules and other logins for the same shards; what follows from them is known after
    /// the next [`Self::refresh_all`].
    pub fn reconfigure(&self, rules: TableRules, shards: Vec<Shard>) {
        *self.source.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Source { rules, shards });
    }

    fn source(&self) -> Arc<Source> {
        Arc::clone(&self.source.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where a shard's primary is asked.
    pub fn primary(&self, shard: ShardId) -> Option<Pool> {
        self.source().shards.get(usize::from(shard.0)).map(|shard| shard.primary.clone())
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    /// Rises whenever [`Self::current`] gives something else.
    pub fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    pub fn current(&self) -> Arc<Catalog> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What an operator should know about the tables and the shards, one sentence each.
    pub fn problems(&self) -> Arc<[String]> {
        Arc::clone(&self.problems.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Loads anew: to be awaited after DDL has passed. Many callers share a load, but each gets one that
    /// began after its call. Returns whether anything may have changed.
    ///
    /// The first shard is enough as long as no table lives on another one alone, and nothing was found on any that only one may have.
    ///
    /// # Errors
    /// No shard answered; the catalog stays as it was.
    pub async fn refresh(&self) -> Result<bool, LoadError> {
        let seen = self.begun.load(Acquire);
        let mut done = self.loading.lock().await;
        if *done > seen {
            return Ok(true);
        }
        let number = self.begun.fetch_add(1, Release) + 1;
        let source = self.source();
        let elsewhere = |rule: &TableRule| matches!(rule, TableRule::Local(shard) if *shard != ShardId(0));
        let mut changed = None;
        if let Some(first) = source.shards.first()
            && self.version() > 0
            && !source.rules.tables.values().any(elsewhere)
            && self.current().hazards.is_empty()
            && self.current().passing.is_empty()
        {
            let loaded = load_shard(&first.primary, &source.rules, count(&source.shards)).await;
            changed = loaded.ok().map(|loaded| self.publish(loaded.catalog));
        }
        let changed = match changed {
            Some(changed) => changed,
            None => self.load_all().await?,
        };
        *done = number;
        Ok(changed)
    }

    /// Loads from all shards and compares them.
    ///
    /// # Errors
    /// No shard answered.
    pub async fn refresh_all(&self) -> Result<bool, LoadError> {
        let mut done = self.loading.lock().await;
        let number = self.begun.fetch_add(1, Release) + 1;
        let changed = self.load_all().await?;
        *done = number;
        Ok(changed)
    }

    /// The work of a refresh; the caller holds `loading`.
    async fn load_all(&self) -> Result<bool, LoadError> {
        let source = self.source();
        let (rules, shards) = (&source.rules, count(&source.shards));
        let answers = self
            .ask_all(&source, |pool| {
                let rules = rules.clone();
                async move { load_shard(&pool, &rules, shards).await }
            })
            .await;
        let mut problems = Vec::new();
        let mut loaded = Vec::new();
        let mut failure = LoadError::Connect("the database has no shard".to_owned());
        for ((id, shard), answer) in (0..).map(ShardId).zip(&source.shards).zip(answers) {
            match answer {
                Ok(Loaded { catalog, problems: found }) => {
                    if loaded.is_empty() {
                        problems.extend(found);
                    }
                    loaded.push((id, shard, catalog));
                }
                Err(error) => {
                    problems.push(format!("the primary of shard {} cannot be asked: {error}", shard.name));
                    failure = error;
                }
            }
        }
        let views: Vec<_> =
            loaded.iter().map(|(id, shard, catalog)| ShardCatalog { id: *id, name: &shard.name, catalog }).collect();
        problems.extend(compare(&views));
        self.tell(problems);
        let loaded = loaded.into_iter().map(|(id, _, catalog)| (id, catalog)).collect();
        let Some(catalog) = combine(loaded, &self.current()) else { return Err(failure) };
        Ok(self.publish(catalog))
    }

    /// Loads now, then looks every `interval` whether any shard has changed, until dropped.
    pub async fn run(&self, interval: Duration) {
        let mut known: Vec<Option<String>> = vec![None; self.source().shards.len()];
        let mut backoff = BACKOFF_MIN;
        loop {
            let began = Instant::now();
            let source = self.source();
            let seen: Vec<_> = self.ask_all(&source, |pool| async move { fingerprint_shard(&pool).await }).await;
            let changed = seen.iter().zip(&known).any(|(seen, known)| seen.as_ref().ok() != known.as_ref());
            if changed {
                match self.refresh_all().await {
                    // Only now: a fingerprint whose load failed must be seen as new again.
                    Ok(_) => known = seen.into_iter().map(Result::ok).collect(),
                    Err(error) => {
                        tracing::warn!(database = self.database, %error, "the catalog cannot be loaded from any shard");
                    }
                }
            }
            self.tried.send_replace(true);
            let pause = if self.version() == 0 {
                let now = backoff;
                backoff = (backoff * 2).min(interval);
                now
            } else {
                interval.max(began.elapsed() * CHECK_SHARE)
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Returns when [`Self::run`] has tried to load for the first time, well or not.
    pub async fn first_load(&self) {
        // It cannot fail: the sender is a part of this.
        drop(self.tried.subscribe().wait_for(|tried| *tried).await);
    }

    /// Makes `catalog` the current one under a new version, unless it says nothing new.
    fn publish(&self, mut catalog: Catalog) -> bool {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if self.version() > 0 && same(&current, &catalog) {
            return false;
        }
        let version = self.version() + 1;
        catalog.version = version;
        *current = Arc::new(catalog);
        self.version.store(version, Release);
        true
    }

    /// Gives the catalog a new version, unless it has another than `seen` by now: what was planned for it
    /// is to be planned again, though the catalog does not show why.
    pub fn renew(&self, seen: u64) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if seen == 0 || self.version() != seen {
            return;
        }
        let version = seen + 1;
        *current = Arc::new(Catalog { version, ..Catalog::clone(&current) });
        self.version.store(version, Release);
    }

    fn tell(&self, problems: Vec<String>) {
        let mut told = self.problems.write().unwrap_or_else(PoisonError::into_inner);
        for problem in problems.iter().filter(|problem| !told.contains(problem)) {
            tracing::warn!(database = self.database, "{problem}");
        }
        *told = problems.into();
    }

    /// Asks all primaries at the same time; the answers in the order of the shards.
    async fn ask_all<T, F, A>(&self, source: &Source, ask: A) -> Vec<Result<T, LoadError>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, LoadError>> + Send + 'static,
        A: Fn(Pool) -> F,
    {
        let mut tasks = JoinSet::new();
        for (at, shard) in source.shards.iter().enumerate() {
            let asked = ask(shard.primary.clone());
            tasks.spawn(async move { (at, asked.await) });
        }
        let mut answers: Vec<_> = source.shards.iter().map(|_| Err(LoadError::Timeout)).collect();
        while let Some(ended) = tasks.join_next().await {
            if let Ok((at, answer)) = ended {
                answers[at] = answer;
            }
        }
        answers
    }
}

/// One worker's view: the catalog without a lock as long as it does not change.
#[derive(Clone, Debug)]
pub struct CatalogReader {
    watch: Arc<CatalogWatch>,
    catalog: Arc<Catalog>,
}

impl CatalogReader {
    pub fn new(watch: Arc<CatalogWatch>) -> Self {
        let catalog = watch.current();
        Self { watch, catalog }
    }

    pub fn catalog(&mut self) -> &Arc<Catalog> {
        if self.watch.version() != self.catalog.version {
            self.catalog = self.watch.current();
        }
        &self.catalog
    }

    pub fn watch(&self) -> &Arc<CatalogWatch> {
        &self.watch
    }
}

/// One catalog of those of several shards: the first, and every local table as its own shard has it.
/// Local tables of a shard that did not answer stay as they were: a statement on them is to hear that
/// the shard is away, not that there is no such table.
fn combine(loaded: Vec<(ShardId, Catalog)>, before: &Catalog) -> Option<Catalog> {
    let answered: HashSet<ShardId> = loaded.iter().map(|(id, _)| *id).collect();
    let mut loaded = loaded.into_iter();
    let (_, mut combined) = loaded.next()?;
    let others: Vec<_> = loaded.collect();
    for (_, other) in &others {
        for (schema, views) in &mut combined.views {
            let same = |name: &str| other.views.get(schema).and_then(|views| views.get(name));
            views.retain(|name, definition| same(name) == Some(definition));
        }
    }
    for (id, other) in &others {
        for (schema, names) in &other.sequences {
            let own = names.iter().filter(|(_, home)| *home == id).map(|(name, home)| (name.clone(), *home));
            combined.sequences.entry(schema.clone()).or_default().extend(own);
        }
    }
    // What one shard alone does is harm enough.
    for (schema, table, hazard) in others.iter().flat_map(|(_, other)| other.all_hazards()) {
        let known = combined.hazards.entry(schema.to_owned()).or_default().entry(table.to_owned()).or_default();
        if !known.contains(hazard) {
            known.push(hazard.clone());
        }
    }
    for (schema, table, event) in others.iter().flat_map(|(_, other)| other.all_passing()) {
        combined.note_passing(schema, table, event);
    }
    let others = others.into_iter().map(|(id, catalog)| (Some(id), catalog)).chain([(None, before.clone())]);
    for (id, catalog) in others {
        for (schema, tables) in catalog.tables {
            for (name, table) in tables {
                let TableKind::Local(home) = table.kind else { continue };
                let wanted = match id {
                    Some(id) => home == id,
                    None => !answered.contains(&home),
                };
                if wanted {
                    combined.tables.entry(schema.clone()).or_default().insert(name, table);
                }
            }
        }
    }
    Some(combined)
}

fn count(shards: &[Shard]) -> u16 {
    u16::try_from(shards.len()).unwrap_or(u16::MAX)
}

fn same(a: &Catalog, b: &Catalog) -> bool {
    a.tables == b.tables
        && a.hazards == b.hazards
        && a.passing == b.passing
        && a.views == b.views
        && a.functions == b.functions
        && a.sequences == b.sequences
        && a.default_collation == b.default_collation
        && a.search_path == b.search_path
        && a.shards == b.shards
        && a.rules == b.rules
}

async fn load_shard(pool: &Pool, rules: &TableRules, shards: u16) -> Result<Loaded, LoadError> {
    bounded(pool, LOAD_TIMEOUT, async |client| load(client, rules, shards, 0).await).await
}

async fn fingerprint_shard(pool: &Pool) -> Result<String, LoadError> {
    bounded(pool, LOAD_TIMEOUT, async |client| fingerprint(client).await).await
}

/// Runs `work` on a control connection within the time bound. A connection with an unanswered
/// question is not given back.
pub(super) async fn bounded<T>(
    pool: &Pool,
    timeout: Duration,
    work: impl AsyncFnOnce(&tokio_postgres::Client) -> Result<T, LoadError>,
) -> Result<T, LoadError> {
    let client = pool.get().await.map_err(|error| {
        // The pool's own words around PostgreSQL's tell an operator nothing.
        let reason = match &error {
            PoolError::Backend(error) => crate::control::reason(error),
            error => crate::control::reason(error),
        };
        LoadError::Connect(reason)
    })?;
    match tokio::time::timeout(timeout, work(&client)).await {
        Ok(result) => result,
        Err(_) => {
            drop(deadpool_postgres::Object::take(client));
            Err(LoadError::Timeout)
        }
    }
}

#[cfg(test)]
mod tests {
    use pgsluice_sharding::catalog::{Relation, Table};

    use super::*;

    fn catalog(tables: &[(&str, TableKind)]) -> Catalog {
        let table = |kind| Table { kind, relation: Relation::Table, columns: Vec::new() };
        let tables = tables.iter().map(|(name, kind)| ((*name).to_owned(), table(*kind))).collect();
        Catalog { tables: [("public".to_owned(), tables)].into(), ..Catalog::default() }
    }

    fn names(catalog: Option<Catalog>) -> Vec<String> {
        let mut names: Vec<_> =
            catalog.expect("a catalog").tables.remove("public").unwrap_or_default().into_keys().collect();
        names.sort();
        names
    }

    #[test]
    fn local_tables_come_from_their_own_shard() {
        let (a, b) = (TableKind::Local(ShardId(0)), TableKind::Local(ShardId(1)));
        let first = catalog(&[("on_a", a), ("plans", TableKind::Reference)]);
        let second = catalog(&[("on_b", b), ("left_over", a), ("plans", TableKind::Reference)]);
        let both = vec![(ShardId(0), first.clone()), (ShardId(1), second.clone())];
        let combined = combine(both, &Catalog::default());
        assert_eq!(names(combined.clone()), ["on_a", "on_b", "plans"]);

        let before = combined.expect("a catalog");
        let only_first = combine(vec![(ShardId(0), catalog(&[("plans", TableKind::Reference)]))], &before);
        assert_eq!(names(only_first), ["on_b", "plans"], "dropped on a, b is away");
        assert!(combine(Vec::new(), &before).is_none());
    }
}
