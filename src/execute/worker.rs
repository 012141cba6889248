//! What the clients of one worker share. Nothing here is shared between workers but by `Arc`.

use std::cell::{Cell, OnceCell, Ref, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use pgsluice_sharding::catalog::Catalog;
use pgsluice_sharding::merge::ColumnType;
use pgsluice_sharding::plan::{Plan, without_unique_ids};
use pgsluice_sharding::sql::{Limits as PlannerLimits, Planner};
use pgsluice_sharding::{Refusal, ShardId, ShardMap};
use tokio::sync::Notify;
use xxhash_rust::xxh3;

use super::greeting::{Greeting, Greetings};
use super::presence::Presence;
use super::queries::Queries;
use super::types::ParameterTypes;
use super::unique::UniqueIds;
use crate::catalog::CatalogReader;
use crate::commit::name::TransactionId;
use crate::commit::shards::Commits;
use crate::config::{Limits, PoolMode};
use crate::listening::Listening;
use crate::pool::balance::{Candidate, choose};
use crate::pool::driver::Pool;
use crate::pool::health::{InstanceHealth, State};
use crate::pool::server::StatementId;
use crate::protocol::error::ErrorFields;
use crate::protocol::reply;
use crate::session::Reading;
use crate::session::settings::Settings;
use crate::session::statements::{PreparedStatement, Texts};
use crate::stats::PoolStats;
use crate::transport::buffer::Buffers;

/// Where clients wait between two messages.
#[derive(Default)]
struct Gate {
    closed: Cell<bool>,
    opened: Notify,
}

/// One worker's own things: planner, buffers, known statements.
pub struct Worker {
    pub index: usize,
    planners: RefCell<HashMap<Rc<str>, Rc<RefCell<Planner>>>>,
    pub buffers: Buffers,
    limits: RefCell<Limits>,
    statements: RefCell<StatementCache>,
    /// The prepared statements of all clients.
    pub texts: Rc<Texts>,
    settings: RefCell<HashSet<Rc<Settings>>>,
    /// What is counted by statement.
    pub queries: RefCell<Queries>,
    /// The clients of this worker, by the number of the cancel key.
    pub clients: RefCell<HashMap<i32, Weak<Presence>>>,
    /// Closed by SUSPEND: no message is looked at.
    gate: Gate,
    /// Some client has asked for what a sequence gave it.
    sequences_watched: Cell<bool>,
    /// Gives out `sluice.unique_id()`.
    pub(super) ids: Arc<UniqueIds>,
    /// Raised for whatever needs a number of its own: transaction names, turns.
    counter: Cell<u64>,
    /// Makes statement ids that no client can foresee; the same on all workers.
    seed: u64,
}

impl Worker {
    pub fn new(index: usize, limits: Limits, seed: u64, ids: Arc<UniqueIds>) -> Self {
        let queries = RefCell::new(Queries::new(limits.query_shapes_max));
        Self {
            queries,
            index,
            planners: RefCell::default(),
            buffers: Buffers::default(),
            limits: RefCell::new(limits),
            statements: RefCell::default(),
            texts: Rc::default(),
            settings: RefCell::default(),
            clients: RefCell::default(),
            gate: Gate::default(),
            sequences_watched: Cell::new(false),
            ids,
            counter: Cell::new(0),
            seed,
        }
    }

    /// From now on messages of clients wait, or no longer.
    pub fn suspend(&self, suspended: bool) {
        self.gate.closed.set(suspended);
        if !suspended {
            self.gate.opened.notify_waiters();
        }
    }

    pub fn is_suspended(&self) -> bool {
        self.gate.closed.get()
    }

    /// Returns when messages may be looked at.
    pub(super) async fn admission(&self) {
        while self.gate.closed.get() {
            self.gate.opened.notified().await;
        }
    }

    pub(super) fn watch_sequences(&self) {
        self.sequences_watched.set(true);
    }

    pub(super) fn watches_sequences(&self) -> bool {
        self.sequences_watched.get()
    }

    fn count(&self) -> u64 {
        self.counter.replace(self.counter.get() + 1)
    }

    /// The number of a transaction over several shards: of this start of the router, this worker, and a count.
    pub fn new_transaction(&self) -> TransactionId {
        let start = u128::from(xxh3::xxh3_64(&self.seed.to_be_bytes()));
        TransactionId(start << 64 | (self.index as u128) << 48 | u128::from(self.count()))
    }

    /// A name for a temporary table that no other has.
    pub fn new_table_name(&self) -> String {
        format!("sluice_input_{}_{}", self.index, self.count())
    }

    /// A number that no worker has given before, nor any shared catalog as its version.
    pub fn own_number(&self) -> u64 {
        (1 << 63) | ((self.index as u64) << 48) | self.count()
    }

    /// A number that goes round, to spread what is equally good.
    pub fn next_turn(&self) -> usize {
        usize::try_from(self.count()).unwrap_or_default()
    }

    /// The shared form of settings, when they are the session's.
    pub fn share(&self, settings: Settings, session: &Rc<Settings>) -> Rc<Settings> {
        if settings == **session { session.clone() } else { Rc::new(settings) }
    }

    /// Settings that many sessions have in common, held once: comparing them then costs nothing.
    pub fn intern(&self, settings: Settings) -> Rc<Settings> {
        let mut known = self.settings.borrow_mut();
        if let Some(shared) = known.get(&settings) {
            return shared.clone();
        }
        if known.len() >= STATEMENTS_MAX {
            known.clear();
        }
        let shared = Rc::new(settings);
        known.insert(shared.clone());
        shared
    }

    /// The planner for a database; its plans hold for that one alone.
    pub fn planner(&self, database: &str) -> Rc<RefCell<Planner>> {
        if let Some(planner) = self.planners.borrow().get(database) {
            return planner.clone();
        }
        let planner = Rc::new(RefCell::new(planner(&self.limits())));
        self.planners.borrow_mut().insert(database.into(), planner.clone());
        planner
    }

    pub fn limits(&self) -> Ref<'_, Limits> {
        self.limits.borrow()
    }

    /// The configuration was read again: plans made for the old one are forgotten.
    pub fn set_limits(&self, limits: Limits) {
        for known in self.planners.borrow().values() {
            known.replace(planner(&limits));
        }
        self.queries.borrow_mut().set_max(limits.query_shapes_max);
        self.limits.replace(limits);
        self.statements.replace(StatementCache::default());
    }

    /// What the planners of all databases remember: entries and bytes.
    pub fn plans(&self) -> (usize, usize) {
        let stats = self.planners.borrow().values().map(|planner| planner.borrow().stats()).collect::<Vec<_>>();
        (stats.iter().map(|s| s.entries).sum(), stats.iter().map(|s| s.bytes).sum())
    }

    /// The statement of a Parse: planned, with its id. The same text, types, reading and catalog
    /// give the same statement without planning.
    pub fn prepare(
        &self,
        served: &Served,
        catalog: &Catalog,
        reading: &Rc<Reading>,
        text: &str,
        param_types: &[u32],
    ) -> Result<Rc<PreparedStatement>, Refusal> {
        let id = self.statement_id(served, catalog, reading, text, param_types);
        if let Some(known) = self.statements.borrow_mut().get(id) {
            return Ok(known);
        }
        let script = served.planner.borrow_mut().plan(catalog, reading.search_path(), text)?;
        let is_computed = script.statements.iter().any(|statement| matches!(statement.plan, Plan::Computed(_)));
        let judged = if is_computed { without_unique_ids(text) } else { None };
        let statement = Rc::new(PreparedStatement {
            judged: judged.map(Rc::from),
            id,
            text: text.into(),
            param_types: param_types.into(),
            resolved_types: OnceCell::new(),
            catalog_version: catalog.version,
            reading: reading.clone(),
            script,
            accepted: Cell::new(false),
            row: Cell::new(None),
            draft: OnceCell::new(),
            held: self.texts.hold(text),
        });
        self.statements.borrow_mut().insert(statement.clone());
        Ok(statement)
    }

    /// A server has answered a Parse of the statement with ParseComplete.
    pub(super) fn accepted(&self, id: StatementId) {
        if let Some(statement) = self.statements.borrow_mut().get(id) {
            statement.accepted.set(true);
        }
    }

    /// A server has described the statement's rows; `None` when it gives none. Gives back their shape when
    /// it is not what was described before.
    pub(super) fn described(&self, id: StatementId, row_description: Option<&[u8]>) -> Option<u64> {
        let statement = self.statements.borrow_mut().get(id)?;
        let row = row_description.map_or(0, shape_of_row);
        if statement.row.get().is_none() {
            statement.row.set(Some(row));
        }
        (statement.row.get() != Some(row)).then_some(row)
    }

    /// A server has described the statement's parameters.
    pub(super) fn parameters_described(&self, id: StatementId, parameter_description: &[u8]) {
        if let Some(statement) = self.statements.borrow_mut().get(id)
            && let Ok(types) = reply::parameter_description(parameter_description)
        {
            // The types of one statement are always the same.
            let _ = statement.resolved_types.set(types.into());
        }
    }

    pub(super) fn statement_id(
        &self,
        served: &Served,
        catalog: &Catalog,
        reading: &Reading,
        text: &str,
        param_types: &[u32],
    ) -> StatementId {
        let mut hasher = xxh3::Xxh3::with_seed(self.seed);
        hasher.update(text.as_bytes());
        for oid in param_types {
            hasher.update(&oid.to_be_bytes());
        }
        for (name, value) in reading.settings.iter() {
            for part in [name, value] {
                hasher.update(&part.len().to_be_bytes());
                hasher.update(part.as_bytes());
            }
        }
        hasher.update(&reading.apart.to_be_bytes());
        hasher.update(&catalog.version.to_be_bytes());
        hasher.update(served.database.as_bytes());
        StatementId(hasher.digest128())
    }
}

fn planner(limits: &Limits) -> Planner {
    Planner::new(PlannerLimits {
        statement_bytes_max: limits.statement_bytes_max,
        cache_bytes_max: limits.plan_cache_bytes_max,
        ..PlannerLimits::default()
    })
}

/// How many statements a worker remembers between two sweeps.
const STATEMENTS_MAX: usize = 4096;

/// Statements by id, in two generations: what was not used while one filled up is forgotten.
#[derive(Default)]
struct StatementCache {
    young: HashMap<StatementId, Rc<PreparedStatement>>,
    old: HashMap<StatementId, Rc<PreparedStatement>>,
}

impl StatementCache {
    fn get(&mut self, id: StatementId) -> Option<Rc<PreparedStatement>> {
        if let Some(statement) = self.young.get(&id) {
            return Some(statement.clone());
        }
        let statement = self.old.remove(&id)?;
        self.insert(statement.clone());
        Some(statement)
    }

    fn insert(&mut self, statement: Rc<PreparedStatement>) {
        if self.young.len() >= STATEMENTS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(statement.id, statement);
    }
}

/// One database as one user of one worker sees it.
pub struct Served {
    pub database: Rc<str>,
    /// See [`super::queries::salt`].
    pub salt: u64,
    pub user: Rc<str>,
    pub mode: PoolMode,
    pub catalog: RefCell<CatalogReader>,
    pub planner: Rc<RefCell<Planner>>,
    pub map: Arc<ShardMap>,
    /// Indexed by `ShardId`.
    pub shards: Vec<ShardPools>,
    pub stats: Arc<PoolStats>,
    pub commits: Arc<Commits>,
    /// What PostgreSQL said of statements that run on several shards.
    pub descriptions: RefCell<HashMap<StatementId, Rc<Description>>>,
    /// The shapes of the rows that the shards' parts of statements give, by which [`Self::descriptions`] were made.
    pub shapes: RefCell<HashMap<StatementId, u64>>,
    pub listening: Arc<Listening>,
    /// What servers report after startup settings were applied: ParameterStatus messages.
    pub greetings: RefCell<HashMap<Rc<Settings>, Greeting>>,
    /// The same of all workers.
    pub all_greetings: Arc<Greetings>,
    /// What has taken this one's place when the configuration was read again.
    pub successor: RefCell<Option<Rc<Self>>>,
}

/// The pools of one shard.
pub struct ShardPools {
    pub name: Rc<str>,
    /// By instance, the configured primary first.
    pub instances: Vec<(Rc<Pool>, Arc<InstanceHealth>)>,
}

impl ShardPools {
    /// The instance that says it is the primary, else the configured one.
    pub fn primary(&self) -> usize {
        self.instances.iter().position(|(_, health)| health.state() == State::Primary).unwrap_or(0)
    }

    /// The instance for a read by a session that last wrote here at `wrote`: the least busy replica
    /// that is fresh enough, or the primary.
    pub fn for_read(&self, now: Instant, wrote: Option<Instant>, turn: usize) -> usize {
        let candidates = self.instances.iter().map(|(pool, health)| Candidate {
            outstanding: pool.outstanding(),
            eligible: health.serves_reads(now, wrote),
        });
        choose(candidates, turn).unwrap_or_else(|| self.primary())
    }
}

impl Served {
    /// What serves new transactions: this, or what has taken its place.
    pub(super) fn replaced_by(&self) -> Option<Rc<Self>> {
        let mut next = self.successor.borrow().clone()?;
        loop {
            let further = next.successor.borrow().clone();
            match further {
                Some(further) => next = further,
                None => return Some(next),
            }
        }
    }

    /// Whether nothing would change if `other` took its place.
    pub fn is_like(&self, other: &Self) -> bool {
        let same_shard = |(a, b): (&ShardPools, &ShardPools)| {
            a.instances.len() == b.instances.len()
                && a.instances.iter().zip(&b.instances).all(|(a, b)| Rc::ptr_eq(&a.0, &b.0) && Arc::ptr_eq(&a.1, &b.1))
        };
        self.mode == other.mode
            && self.shards.len() == other.shards.len()
            && self.shards.iter().zip(&other.shards).all(same_shard)
    }

    /// Local tables, sequences and whatever has no key of its own live on the first shard.
    pub const HOME: ShardId = ShardId(0);

    /// Keeps what PostgreSQL said of a statement; when there is too much, all of it is forgotten.
    pub fn remember(&self, id: StatementId, description: Rc<Description>) {
        let mut descriptions = self.descriptions.borrow_mut();
        if descriptions.len() >= STATEMENTS_MAX {
            descriptions.clear();
        }
        descriptions.insert(id, description);
    }

    /// The same for the rows of a shard's part.
    pub(super) fn remember_shape(&self, id: StatementId, row_description: &[u8]) {
        let mut shapes = self.shapes.borrow_mut();
        if shapes.len() >= STATEMENTS_MAX {
            shapes.clear();
        }
        shapes.insert(id, shape_of_row(row_description));
    }

    pub fn shard(&self, id: ShardId) -> &ShardPools {
        &self.shards[usize::from(id.0)]
    }

    pub fn all_shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..u16::try_from(self.shards.len()).unwrap_or(u16::MAX)).map(ShardId)
    }
}

/// What PostgreSQL says of a statement that runs on several shards.
#[derive(Debug)]
pub struct Description {
    /// The body of the ParameterDescription of the statement as the client wrote it.
    pub parameters: Bytes,
    /// The types in it, and that of the time if the shards are told it.
    pub(crate) parameter_types: ParameterTypes,
    /// The body of the RowDescription of the statement as the client wrote it, formats zero.
    pub client_row: Bytes,
    pub client_columns: Vec<ColumnType>,
    /// The columns of the shards' SQL, helpers included; none for a final query.
    pub shard_columns: Vec<ColumnType>,
    /// The columns of each input of a final query.
    pub inputs: Vec<Vec<ColumnType>>,
    /// Which of them PostgreSQL lets be narrowed.
    pub narrows: Vec<bool>,
    /// What the server of a final query runs, with the types of all columns; why there is nothing, if another query is to answer.
    pub final_sql: Result<Box<str>, Box<ErrorFields>>,
    /// The inputs were too large for arrays when they were last read.
    pub large: Cell<bool>,
}

/// Types from here on are made by users; they have other numbers on other shards.
pub(super) const FIRST_USER_OID: u32 = 16_384;

/// A hash of what PostgreSQL compares when it plans a statement anew: names and types of the columns.
pub(super) fn shape_of_row(row_description: &[u8]) -> u64 {
    let mut hasher = xxh3::Xxh3::new();
    for field in reply::row_description(row_description).unwrap_or_default() {
        let oid = if field.type_oid < FIRST_USER_OID { field.type_oid } else { 0 };
        hasher.update(field.name.as_bytes());
        hasher.update(&[0]);
        hasher.update(&oid.to_be_bytes());
        hasher.update(&field.typmod.to_be_bytes());
    }
    hasher.digest()
}
