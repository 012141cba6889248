//! What a setting is when the file does not name it. `sluice.toml` repeats these, and a test
//! compares.

use std::net::SocketAddr;
use std::time::Duration;

use super::{
    AuthMethod, CommitSettings, Config, Limits, Listen, Log, LogFormat, PoolMode, PoolSettings, ReplicaSettings, Source,
};

const MEGABYTE: usize = 1 << 20;

/// A router for nobody and no database.
impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen::default(),
            pool: PoolSettings::default(),
            auth: AuthMethod::ScramSha256,
            users: Vec::new(),
            databases: Vec::new(),
            peers: Vec::new(),
            replicas: ReplicaSettings::default(),
            commit: CommitSettings::default(),
            limits: Limits::default(),
            log: Log::default(),
            source: Source::default(),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 6432)),
            socket_dir: None,
            http: None,
            clients_max: 10_000,
            router_id: 0,
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            login_timeout: Duration::from_secs(60),
            tls: None,
        }
    }
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            mode: PoolMode::Transaction,
            size: 20,
            instance_connections_max: 90,
            wait_timeout: Duration::from_secs(10),
            waiting_max: 10_000,
            idle_timeout: Duration::from_secs(10 * 60),
            lifetime: Duration::from_secs(60 * 60),
            connect_timeout: Duration::from_secs(5),
            check_delay: Duration::from_secs(30),
            prepared_statements_max: 200,
        }
    }
}

impl Default for ReplicaSettings {
    fn default() -> Self {
        Self { lag_max: Duration::from_secs(10), check_interval: Duration::from_secs(1) }
    }
}

impl Default for CommitSettings {
    fn default() -> Self {
        Self { in_doubt_after: Duration::from_secs(5), outcome_timeout: Duration::from_secs(10) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 64 * MEGABYTE,
            statement_bytes_max: 16 * MEGABYTE,
            plan_cache_bytes_max: 64 * MEGABYTE,
            merge_buffer_max: 64 * MEGABYTE,
            final_query_bytes_max: 1024 * MEGABYTE,
            final_query_array_bytes_max: 16 * MEGABYTE,
            statements_per_client_max: 10_000,
            query_shapes_max: 1000,
            sequence_block_max: 1000,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned() }
    }
}
