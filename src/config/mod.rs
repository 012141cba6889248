//! What the configuration means, checked. What the operator typed is in `file`.
//!
//! Deeper code is handed a `&Config` or less; nothing reads it from a global.

mod checks;
mod defaults;
mod file;
mod problem;
mod reader;
pub mod reload;
mod set;
mod url;
mod value;

pub use problem::Problem;
pub use set::{ALIASES, Source, Written};
pub use value::Surroundings;
pub(crate) use value::show_size;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgsluice_sharding::catalog::TableRules;

/// Everything the router needs to know. Made by checking a file, never by hand outside tests.
#[derive(Clone, Debug)]
pub struct Config {
    pub listen: Listen,
    pub pool: PoolSettings,
    pub auth: AuthMethod,
    pub users: Vec<User>,
    pub databases: Vec<Database>,
    /// Other routers before the same servers, each `router_id` once and none of them this router's.
    pub peers: Vec<Peer>,
    pub replicas: ReplicaSettings,
    pub commit: CommitSettings,
    pub limits: Limits,
    pub log: Log,
    pub source: Source,
}

impl Config {
    /// Reads and checks a configuration file; see `parse`.
    pub fn load(path: &Path) -> Result<Self, Vec<Problem>> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| vec![Problem { line: 0, text: format!("cannot be read: {error}") }])?;
        Self::parse(&text)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub address: SocketAddr,
    /// A unix socket `.s.PGSQL.<port>` is opened in this folder too.
    pub socket_dir: Option<PathBuf>,
    /// `/metrics` and `/health`.
    pub http: Option<SocketAddr>,
    pub clients_max: u32,
    /// Tells this router from its peers, 1 to 127, in the cancel keys of its clients; 0 without peers.
    pub router_id: u8,
    /// Threads that serve clients; 0 in the file means one per core and is resolved by the check.
    pub workers: usize,
    /// How long a client may take from connecting to the end of its authentication.
    pub login_timeout: Duration,
    pub tls: Option<Tls>,
}

/// A router that a load balancer may send this router's cancel requests to, and the other way round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// 1 to 127.
    pub router_id: u8,
    pub host: Host,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Clients without TLS are refused.
    pub required: bool,
}

/// The settings of pools, defaults already filled in. A database or a user may override some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    pub mode: PoolMode,
    /// Servers per (user, database, instance), over all workers.
    pub size: u32,
    /// Servers against one instance, all pools together.
    pub instance_connections_max: u32,
    /// How long a client waits for a server before it gets an error.
    pub wait_timeout: Duration,
    /// Clients that may wait for one pool at a time.
    pub waiting_max: u32,
    /// A server that has been idle this long is closed.
    pub idle_timeout: Duration,
    /// A server that is this old is closed when it is next idle.
    pub lifetime: Duration,
    pub connect_timeout: Duration,
    /// A server that has been idle this long is asked for a sign of life before it is used.
    pub check_delay: Duration,
    /// Prepared statements kept on one server.
    pub prepared_statements_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolMode {
    Transaction,
    Session,
    Statement,
}

impl PoolMode {
    /// As it is written in the file and shown in SHOW POOLS.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Session => "session",
            Self::Statement => "statement",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    Trust,
    Md5,
    ScramSha256,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub password: Option<Secret>,
    pub role: Role,
    pub pool_mode: Option<PoolMode>,
    pub pool_size: Option<u32>,
}

/// What a user may do in the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// No console.
    App,
    /// SHOW.
    Stats,
    /// Everything.
    Admin,
}

/// A password as configured. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    Plain(String),
    /// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, as in `pg_authid`.
    ScramVerifier(String),
    /// `md5` and 32 hex digits, as in `pg_authid`.
    Md5(String),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain(..)",
            Self::ScramVerifier(_) => "ScramVerifier(..)",
            Self::Md5(_) => "Md5(..)",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    pub name: String,
    /// A power of two up to 32768.
    pub buckets: u16,
    pub rules: TableRules,
    /// In the order of the file: a shard's position is its `ShardId`.
    pub shards: Vec<Shard>,
    pub pool_mode: Option<PoolMode>,
    pub pool_size: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    pub name: String,
    pub primary: Instance,
    pub replicas: Vec<Instance>,
}

impl Shard {
    /// The primary as configured, then the replicas.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        std::iter::once(&self.primary).chain(&self.replicas)
    }
}

/// One PostgreSQL to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instance {
    pub host: Host,
    pub port: u16,
    /// The database on the server; the URL's path.
    pub database: String,
    /// Servers log in as this user; the client's name when the URL has none.
    pub user: Option<String>,
    /// The URL's password; else the password of the `[[user]]` entry with that name.
    pub password: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name or an address.
    Tcp(String),
    /// The folder of a unix socket.
    Unix(PathBuf),
}

impl Host {
    /// `host:port`, for people.
    pub fn with_port(&self, port: u16) -> String {
        match self {
            Self::Tcp(host) if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp(host) => format!("{host}:{port}"),
            Self::Unix(folder) => format!("{}:{port}", folder.display()),
        }
    }
}

impl Instance {
    /// `host:port`, for people.
    pub fn address(&self) -> String {
        self.host.with_port(self.port)
    }

    /// Whether the same rows are there, whoever asks.
    pub fn is_same_place(&self, other: &Self) -> bool {
        (&self.host, self.port, &self.database) == (&other.host, other.port, &other.database)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSettings {
    /// A replica further behind than this gets no reads.
    pub lag_max: Duration,
    /// How often instances are asked for their state.
    pub check_interval: Duration,
}

/// Commits over several shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitSettings {
    /// What is prepared for longer may have lost its router, and is resolved.
    pub in_doubt_after: Duration,
    /// How long a client waits to hear how its transaction ended, when the shard that decides was lost
    /// during the commit.
    pub outcome_timeout: Duration,
}

/// Bounds that are not about pools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest message of a client that the router must hold whole: Query, Parse, Bind.
    pub message_bytes_max: usize,
    /// Longest statement that is parsed.
    pub statement_bytes_max: usize,
    /// Cached plans of one worker.
    pub plan_cache_bytes_max: usize,
    /// Rows and groups that one merge keeps in memory.
    pub merge_buffer_max: usize,
    /// Rows of shards that one statement hands to PostgreSQL to be finished.
    pub final_query_bytes_max: usize,
    /// As many of them are held in memory, and handed over as arrays; more go into temporary tables.
    pub final_query_array_bytes_max: usize,
    /// Prepared statements and portals of one client.
    pub statements_per_client_max: usize,
    /// Kinds of statement that one worker counts for SHOW QUERIES; about 3.5 kB each.
    pub query_shapes_max: usize,
    /// Values of a sequence that are taken at a time.
    pub sequence_block_max: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    /// A filter as of `RUST_LOG`: `info`, `sluice=debug`.
    pub level: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}
