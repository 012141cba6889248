//! SHOW CONFIG: settings as the operator wrote them and under PgBouncer's names. No secrets.

use std::time::Duration;

use crate::config::{Config, LogFormat};
use crate::view::ConfigRow;

fn row(key: &str, value: impl ToString, default: &str, changeable: bool) -> ConfigRow {
    ConfigRow { key: key.to_owned(), value: value.to_string(), default: default.to_owned(), changeable }
}

fn time(duration: Duration) -> String {
    format!("{duration:?}")
}

/// The rows of SHOW CONFIG. `max_client_conn` and `max_user_connections` must be numbers: exporters
/// read them.
pub fn config_rows(config: &Config) -> Vec<ConfigRow> {
    let (listen, pool, limits) = (&config.listen, &config.pool, &config.limits);
    let optional = |text: Option<String>| text.unwrap_or_default();
    vec![
        row("max_client_conn", listen.clients_max, "10000", true),
        row("max_user_connections", 0, "0", false),
        row("default_pool_size", pool.size, "20", true),
        row("pool_mode", pool.mode.name(), "transaction", true),
        row("query_wait_timeout", pool.wait_timeout.as_secs(), "10", true),
        row("server_idle_timeout", pool.idle_timeout.as_secs(), "", true),
        row("server_lifetime", pool.lifetime.as_secs(), "", true),
        row("server_connect_timeout", pool.connect_timeout.as_secs(), "", true),
        row("max_prepared_statements", pool.prepared_statements_max, "", true),
        row("listen_addr", listen.address.ip(), "127.0.0.1", false),
        row("listen_port", listen.address.port(), "6432", false),
        row("unix_socket_dir", optional(listen.socket_dir.as_ref().map(|dir| dir.display().to_string())), "", false),
        row("listen.http", optional(listen.http.map(|address| address.to_string())), "127.0.0.1:6433", false),
        row("listen.workers", listen.workers, "0", false),
        row("listen.login_timeout", time(listen.login_timeout), "", true),
        row("pool.instance_connections_max", pool.instance_connections_max, "90", true),
        row("pool.waiting_max", pool.waiting_max, "", true),
        row("pool.check_delay", time(pool.check_delay), "", true),
        row("replicas.lag_max", time(config.replicas.lag_max), "", true),
        row("replicas.check_interval", time(config.replicas.check_interval), "", true),
        row("limits.message_bytes_max", limits.message_bytes_max, "", true),
        row("limits.statement_bytes_max", limits.statement_bytes_max, "", true),
        row("limits.plan_cache_bytes_max", limits.plan_cache_bytes_max, "", true),
        row("limits.merge_buffer_max", limits.merge_buffer_max, "", true),
        row("limits.statements_per_client_max", limits.statements_per_client_max, "", true),
        row("log.level", &config.log.level, "info", false),
        row(
            "log.format",
            match config.log.format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            },
            "text",
            false,
        ),
    ]
}
