//! What the router looks like at one moment: plain data that the console and HTTP print.
//!
//! The router gathers it from its workers; nothing in here can change anything.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use pgsluice_sharding::catalog::{Catalog, Relation, TableKind};

use crate::config::PoolMode;
use crate::prober::Lsn;
use crate::stats::{DatabaseStats, QueryCounts, UserStats};

/// Everything at once. A gatherer may leave `clients`, `servers` and `queries` empty for a reader that
/// does not show them.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub clients: Vec<ClientRow>,
    pub servers: Vec<ServerRow>,
    /// Any number per database and user: workers and instances are added up when shown.
    pub pools: Vec<PoolRow>,
    pub databases: Vec<DatabaseRow>,
    pub users: Vec<UserRow>,
    pub shards: Vec<ShardRow>,
    pub instances: Vec<InstanceRow>,
    pub tables: Vec<TableRow>,
    pub problems: Vec<ProblemRow>,
    pub prepared: Vec<PreparedRow>,
    pub config: Vec<ConfigRow>,
    pub peers: Vec<PeerRow>,
    pub memory: Vec<MemoryRow>,
    pub queries: Vec<QueryRow>,
    pub lock_waits: Vec<LockWaitRow>,
    /// Per database, for SHOW STATS.
    pub stats: Vec<DatabaseStats>,
    /// Per database and user, for Prometheus.
    pub user_stats: Vec<UserStats>,
    /// Clients that have not ended their login.
    pub login_clients: u64,
    pub clients_max: u64,
    pub halted: Halted,
    /// Takes no new clients and ends when the old ones have gone.
    pub draining: bool,
}

/// What an operator has brought to a stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Halted {
    /// All databases.
    pub paused: bool,
    /// Clients' messages wait.
    pub suspended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    Active,
    Idle,
    Waiting,
    ActiveCancel,
    WaitingCancel,
    Login,
}

impl ClientState {
    /// PgBouncer's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::ActiveCancel => "active_cancel_req",
            Self::WaitingCancel => "waiting_cancel_req",
            Self::Login => "login",
        }
    }
}

/// How far a client's transaction block is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlockState {
    #[default]
    None,
    Open,
    /// Its commit over several shards is under way.
    Committing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    Active,
    Idle,
    Used,
    Tested,
    New,
    ActiveCancel,
    BeingCanceled,
}

impl ServerState {
    /// PgBouncer's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Idle => "idle",
            Self::Used => "used",
            Self::Tested => "tested",
            Self::New => "new",
            Self::ActiveCancel => "active_cancel",
            Self::BeingCanceled => "being_canceled",
        }
    }
}

/// One end of a connection; a unix socket has none.
pub type Address = Option<SocketAddr>;

#[derive(Clone, Debug)]
pub struct ClientRow {
    pub id: u64,
    pub user: String,
    pub database: String,
    pub state: ClientState,
    pub address: Address,
    pub local_address: Address,
    pub connected: SystemTime,
    /// The beginning of the last request.
    pub requested: Option<SystemTime>,
    /// How long it has been waiting for a server now.
    pub wait: Duration,
    pub close_needed: bool,
    /// The server (or the first of several) that it uses.
    pub link: Option<u64>,
    /// The process id that its cancel key names.
    pub pid: i32,
    pub tls: Option<String>,
    pub application_name: String,
    pub prepared_statements: u64,
    pub worker: usize,
    /// Why it keeps its server: `temporary table`, `LISTEN`.
    pub pin: Option<String>,
    pub pinned_since: Option<SystemTime>,
    pub waits_for: Option<WaitsFor>,
    /// What it runs or, between statements, has run last: the text without the values.
    pub block: BlockState,
    pub statement: Option<String>,
}

/// The pool whose server a client waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitsFor {
    pub shard: String,
    /// `host:port`.
    pub instance: String,
    /// The user of its servers.
    pub pool_user: String,
}

/// A client that waits for a lock within PostgreSQL.
#[derive(Clone, Debug)]
pub struct LockWaitRow {
    /// The number in SHOW CLIENTS.
    pub client: u64,
    pub shard: String,
    /// `host:port`.
    pub instance: String,
    pub wait: Duration,
    /// In PostgreSQL's words: `ShareLock on transaction 745`.
    pub lock: String,
    /// Who holds it, or is before the client in the queue for it.
    pub holders: Vec<LockHolder>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockHolder {
    /// A server in a client's hands, by its number in SHOW SERVERS.
    Server(u64),
    Prepared,
    /// A process of PostgreSQL that serves no client of this router: one of another router's, or past all routers.
    Stranger {
        pid: i32,
        /// What it runs or has run last, as far as PostgreSQL tells this router's user.
        statement: Option<String>,
    },
}

#[derive(Clone, Debug)]
pub struct ServerRow {
    pub id: u64,
    pub user: String,
    pub database: String,
    pub state: ServerState,
    /// As configured: `host:port`.
    pub instance: String,
    pub shard: String,
    pub address: Address,
    pub local_address: Address,
    pub connected: SystemTime,
    pub requested: Option<SystemTime>,
    pub close_needed: bool,
    /// The client that uses it.
    pub link: Option<u64>,
    /// How long that client has had it.
    pub held: Duration,
    /// The PostgreSQL process.
    pub pid: i32,
    pub tls: Option<String>,
    pub application_name: String,
    pub prepared_statements: u64,
    pub worker: usize,
}

/// Counts of one worker, for a database and user, against one instance; or the clients of one worker
/// for a database and user, which wait for no particular instance.
#[derive(Clone, Debug)]
pub struct PoolRow {
    pub database: String,
    pub user: String,
    /// `host:port`, for the counts of servers.
    pub instance: Option<String>,
    pub mode: PoolMode,
    pub cl_active: u64,
    pub cl_waiting: u64,
    pub cl_active_cancel: u64,
    pub cl_waiting_cancel: u64,
    pub cl_pinned: u64,
    pub sv_active: u64,
    pub sv_active_cancel: u64,
    pub sv_being_canceled: u64,
    pub sv_idle: u64,
    pub sv_used: u64,
    pub sv_tested: u64,
    pub sv_login: u64,
    /// How long the client that waits longest has been waiting.
    pub maxwait: Duration,
}

impl PoolRow {
    /// A row that counts nothing yet.
    pub fn new(database: &str, user: &str, mode: PoolMode) -> Self {
        Self {
            database: database.to_owned(),
            user: user.to_owned(),
            instance: None,
            mode,
            cl_active: 0,
            cl_waiting: 0,
            cl_active_cancel: 0,
            cl_waiting_cancel: 0,
            cl_pinned: 0,
            sv_active: 0,
            sv_active_cancel: 0,
            sv_being_canceled: 0,
            sv_idle: 0,
            sv_used: 0,
            sv_tested: 0,
            sv_login: 0,
            maxwait: Duration::ZERO,
        }
    }

    /// Adds the counts of a row of the same database and user.
    pub fn add(&mut self, other: &Self) {
        self.cl_active += other.cl_active;
        self.cl_waiting += other.cl_waiting;
        self.cl_active_cancel += other.cl_active_cancel;
        self.cl_waiting_cancel += other.cl_waiting_cancel;
        self.cl_pinned += other.cl_pinned;
        self.sv_active += other.sv_active;
        self.sv_active_cancel += other.sv_active_cancel;
        self.sv_being_canceled += other.sv_being_canceled;
        self.sv_idle += other.sv_idle;
        self.sv_used += other.sv_used;
        self.sv_tested += other.sv_tested;
        self.sv_login += other.sv_login;
        self.maxwait = self.maxwait.max(other.maxwait);
    }
}

#[derive(Clone, Debug)]
pub struct DatabaseRow {
    pub name: String,
    /// The primary of the first shard.
    pub host: String,
    pub port: u16,
    /// The database's name on the servers.
    pub server_database: String,
    /// The user of the URL, when servers log in as another user than the client.
    pub force_user: Option<String>,
    pub pool_size: u32,
    pub server_lifetime: Duration,
    pub mode: PoolMode,
    pub connections: u64,
    pub connections_max: u64,
    pub client_connections: u64,
    pub paused: bool,
    /// Takes no new clients.
    pub disabled: bool,
    pub shards: usize,
}

#[derive(Clone, Debug)]
pub struct UserRow {
    pub name: String,
    pub pool_size: Option<u32>,
    pub mode: Option<PoolMode>,
    pub connections: u64,
    pub client_connections: u64,
}

#[derive(Clone, Debug)]
pub struct ShardRow {
    pub database: String,
    /// The position in the configuration.
    pub id: u16,
    pub name: String,
    /// `host:port` of the instance that is primary now; `None` while none is.
    pub primary: Option<String>,
    /// Replicas that take reads now, and all of them.
    pub replicas_up: usize,
    pub replicas: usize,
    /// How many buckets of the map it holds.
    pub buckets: u64,
    pub epoch: u64,
    /// Why it cannot be written to.
    pub problem: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceRole {
    Primary,
    Replica,
    /// Not asked yet, or no answer ever.
    Unknown,
}

impl InstanceRole {
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Unknown => "unknown",
        }
    }
}

#[derive(Clone, Debug)]
pub struct InstanceRow {
    pub database: String,
    pub shard: String,
    /// `host:port`.
    pub address: String,
    /// What it says it is.
    pub role: InstanceRole,
    /// Answered the last health check.
    pub up: bool,
    pub lsn: Option<Lsn>,
    /// How old a replica's data is at most.
    pub lag: Option<Duration>,
    pub servers: u64,
    pub servers_max: u64,
    pub max_prepared_transactions: Option<u32>,
    /// What went wrong last.
    pub problem: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRow {
    pub database: String,
    pub schema: String,
    pub name: String,
    /// `table`, `view`, `foreign table`.
    pub relation: &'static str,
    /// `sharded`, `reference`, `local`.
    pub kind: &'static str,
    pub key: Option<String>,
    /// The shard of a local table.
    pub shard: Option<String>,
    pub columns: usize,
    /// What is wrong with it, a difference between the shards for instance.
    pub problem: Option<String>,
}

/// What a transaction over several shards has prepared on one of them.
#[derive(Clone, Debug)]
pub struct PreparedRow {
    pub database: String,
    pub user: String,
    pub gid: String,
    pub shard: String,
    /// The shard that decides; none when it is no shard of this database.
    pub decider: Option<String>,
    pub age: Duration,
    /// Its router has left it, or may be gone, since it was prepared long ago: it is being resolved.
    pub in_doubt: bool,
    /// Why it could not be resolved, when somebody has tried.
    pub problem: Option<String>,
}

/// One thing an operator should put right.
#[derive(Clone, Debug)]
pub struct ProblemRow {
    pub database: String,
    pub problem: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigRow {
    pub key: String,
    pub value: String,
    pub default: String,
    /// By RELOAD.
    pub changeable: bool,
}

/// Another router before the same servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRow {
    pub router_id: u8,
    /// A host, an address, or the folder of a unix socket.
    pub host: String,
    pub port: u16,
}

#[derive(Clone, Debug)]
pub struct MemoryRow {
    pub name: String,
    /// Bytes of one item.
    pub size: u64,
    pub used: u64,
    pub free: u64,
    pub total_bytes: u64,
}

/// What was counted of one kind of statement, over all workers.
#[derive(Clone, Debug)]
pub struct QueryRow {
    pub database: String,
    /// The text without the values.
    pub query: String,
    pub counts: Box<QueryCounts>,
}

/// The problems that are about a table, or about a column of it.
fn problem_of(table: &str, problems: &[String]) -> Option<String> {
    let is_about = |problem: &&String| {
        problem.match_indices(table).any(|(at, _)| {
            let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
            let before = problem[..at].chars().next_back();
            let behind = problem[at + table.len()..].chars().next();
            !before.is_some_and(|letter| is_name(letter) || letter == '.') && !behind.is_some_and(is_name)
        })
    };
    let found: Vec<&str> = problems.iter().filter(is_about).map(String::as_str).collect();
    (!found.is_empty()).then(|| found.join("; "))
}

/// The tables of a catalog, ordered by schema and name; `shards` are the names by position.
pub fn table_rows(database: &str, catalog: &Catalog, shards: &[&str], problems: &[String]) -> Vec<TableRow> {
    let tables =
        catalog.tables.iter().flat_map(|(schema, tables)| tables.iter().map(move |(name, t)| (schema, name, t)));
    let mut rows: Vec<_> = tables
        .filter(|(_, _, table)| table.relation != Relation::Sequence)
        .map(|(schema, name, table)| {
            let (kind, key, shard) = match table.kind {
                TableKind::Sharded { column, .. } => ("sharded", table.columns.get(column), None),
                TableKind::Reference => ("reference", None, None),
                TableKind::Local(shard) => ("local", None, shards.get(usize::from(shard.0))),
            };
            TableRow {
                database: database.to_owned(),
                schema: schema.clone(),
                name: name.clone(),
                relation: match table.relation {
                    Relation::Table => "table",
                    Relation::View | Relation::KnownView => "view",
                    Relation::Foreign => "foreign table",
                    Relation::Sequence => "sequence",
                },
                kind,
                key: key.map(|column| column.name.clone()),
                shard: shard.map(|&name| name.to_owned()),
                columns: table.columns.len(),
                problem: problem_of(&format!("{schema}.{name}"), problems),
            }
        })
        .collect();
    rows.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
    rows
}

#[cfg(test)]
mod tests {
    use super::problem_of;

    #[test]
    fn problems_are_those_of_the_whole_name() {
        let problems = [
            "table public.orders is missing on shard b",
            "column public.orders.total has another type on shard b",
            "table public.orders_old is missing on shard b",
            "table my_public.orders is missing on shard b",
        ]
        .map(str::to_owned);
        let found = "table public.orders is missing on shard b; column public.orders.total has another type on shard b";
        assert_eq!(problem_of("public.orders", &problems).as_deref(), Some(found));
        assert_eq!(problem_of("public.order", &problems), None);
    }
}
