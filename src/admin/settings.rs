//! SHOW CONFIG: settings as the operator wrote them and under PgBouncer's names. No secrets.

use crate::config::{Config, Limits, Listen, LogFormat, PoolSettings, ReplicaSettings, show_duration, show_size};
use crate::view::ConfigRow;

/// One setting: its key, its value, and whether RELOAD changes it.
type Row = (&'static str, String, bool);

/// The rows of SHOW CONFIG. `max_client_conn` and `max_user_connections` must be numbers: exporters
/// read them.
pub fn config_rows(config: &Config) -> Vec<ConfigRow> {
    let rows = rows(config).into_iter().zip(rows(&Config::default()));
    rows.map(|((key, value, changeable), (_, default, _))| ConfigRow {
        key: key.to_owned(),
        value,
        default,
        changeable,
    })
    .collect()
}

fn rows(config: &Config) -> Vec<Row> {
    let mut rows = listen(&config.listen);
    rows.extend(pool(&config.pool));
    rows.extend(others(&config.replicas, &config.limits));
    let format = match config.log.format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    rows.extend([("log.level", config.log.level.clone(), false), ("log.format", format.to_owned(), false)]);
    rows
}

fn listen(listen: &Listen) -> Vec<Row> {
    let folder = listen.socket_dir.as_ref().map(|folder| folder.display().to_string());
    vec![
        ("max_client_conn", listen.clients_max.to_string(), true),
        ("listen_addr", listen.address.ip().to_string(), false),
        ("listen_port", listen.address.port().to_string(), false),
        ("unix_socket_dir", folder.unwrap_or_default(), false),
        ("listen.http", listen.http.map(|address| address.to_string()).unwrap_or_default(), false),
        ("listen.router_id", listen.router_id.to_string(), false),
        ("listen.workers", listen.workers.to_string(), false),
        ("listen.login_timeout", show_duration(listen.login_timeout), true),
    ]
}

/// PgBouncer's times are numbers of seconds.
fn pool(pool: &PoolSettings) -> Vec<Row> {
    vec![
        ("max_user_connections", "0".to_owned(), false),
        ("default_pool_size", pool.size.to_string(), true),
        ("pool_mode", pool.mode.name().to_owned(), true),
        ("query_wait_timeout", pool.wait_timeout.as_secs().to_string(), true),
        ("server_idle_timeout", pool.idle_timeout.as_secs().to_string(), true),
        ("server_lifetime", pool.lifetime.as_secs().to_string(), true),
        ("server_connect_timeout", pool.connect_timeout.as_secs().to_string(), true),
        ("max_prepared_statements", pool.prepared_statements_max.to_string(), true),
        ("pool.instance_connections_max", pool.instance_connections_max.to_string(), true),
        ("pool.waiting_max", pool.waiting_max.to_string(), true),
        ("pool.check_delay", show_duration(pool.check_delay), true),
    ]
}

fn others(replicas: &ReplicaSettings, limits: &Limits) -> Vec<Row> {
    vec![
        ("replicas.lag_max", show_duration(replicas.lag_max), true),
        ("replicas.check_interval", show_duration(replicas.check_interval), true),
        ("limits.message_bytes_max", show_size(limits.message_bytes_max), true),
        ("limits.statement_bytes_max", show_size(limits.statement_bytes_max), true),
        ("limits.plan_cache_bytes_max", show_size(limits.plan_cache_bytes_max), true),
        ("limits.merge_buffer_max", show_size(limits.merge_buffer_max), true),
        ("limits.final_query_bytes_max", show_size(limits.final_query_bytes_max), true),
        ("limits.statements_per_client_max", limits.statements_per_client_max.to_string(), true),
    ]
}
