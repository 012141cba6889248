//! SHOW CONFIG: PgBouncer's names for what PgBouncer has too, then every setting as the file names it.
//! No secrets.

use std::collections::HashMap;
use std::time::Duration;

use crate::config::reload::{Setting, is_fixed};
use crate::config::{ALIASES, Config};
use crate::view::ConfigRow;

/// What exporters read, and Sluice has no such limit.
pub const MAX_USER_CONNECTIONS: &str = "max_user_connections";

/// The rows of SHOW CONFIG. `max_client_conn` and `max_user_connections` must be numbers: exporters
/// read them.
pub fn config_rows(config: &Config) -> Vec<ConfigRow> {
    let standard = Config::default();
    let mut rows: Vec<ConfigRow> = ALIASES
        .iter()
        .map(|alias| ConfigRow {
            key: alias.name.to_owned(),
            value: in_pgbouncers_words(alias.name, config),
            default: in_pgbouncers_words(alias.name, &standard),
            changeable: !is_fixed(alias.key),
        })
        .collect();
    let none = "0".to_owned();
    let key = MAX_USER_CONNECTIONS.to_owned();
    rows.push(ConfigRow { key, value: none.clone(), default: none, changeable: false });
    let defaults: HashMap<String, Setting> =
        standard.settings().into_iter().map(|setting| (setting.key.clone(), setting)).collect();
    rows.extend(config.settings().into_iter().map(|setting| ConfigRow {
        default: defaults.get(&setting.key).map(|setting| setting.value.clone()).unwrap_or_default(),
        key: setting.key,
        value: setting.value,
        changeable: setting.reloadable,
    }));
    rows
}

/// PgBouncer's times are numbers of seconds.
fn in_pgbouncers_words(name: &str, config: &Config) -> String {
    let (listen, pool) = (&config.listen, &config.pool);
    match name {
        "max_client_conn" => listen.clients_max.to_string(),
        "listen_addr" => listen.address.ip().to_string(),
        "listen_port" => listen.address.port().to_string(),
        "unix_socket_dir" => listen.socket_dir.as_ref().map(|folder| folder.display().to_string()).unwrap_or_default(),
        "client_login_timeout" => seconds(listen.login_timeout),
        "default_pool_size" => pool.size.to_string(),
        "pool_mode" => pool.mode.name().to_owned(),
        "query_wait_timeout" => seconds(pool.wait_timeout),
        "server_idle_timeout" => seconds(pool.idle_timeout),
        "server_lifetime" => seconds(pool.lifetime),
        "server_connect_timeout" => seconds(pool.connect_timeout),
        "server_check_delay" => seconds(pool.check_delay),
        "max_prepared_statements" => pool.prepared_statements_max.to_string(),
        _ => String::new(),
    }
}

fn seconds(duration: Duration) -> String {
    duration.as_secs_f64().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_pgbouncer_has_a_value() {
        let config = Config::default();
        let rows = config_rows(&config);
        let of = |key: &str| rows.iter().find(|row| row.key == key).unwrap_or_else(|| panic!("{key}"));
        for alias in &ALIASES {
            let row = of(alias.name);
            assert!(!row.value.is_empty() || alias.name == "unix_socket_dir", "{}", alias.name);
            assert_eq!(row.value, row.default);
        }
        assert_eq!((of("query_wait_timeout").value.as_str(), of("pool.wait_timeout").value.as_str()), ("10", "10s"));
        assert!(of("pool.size").changeable && !of("listen.address").changeable && !of("listen_port").changeable);
        let keys: std::collections::HashSet<&str> = rows.iter().map(|row| row.key.as_str()).collect();
        assert_eq!(keys.len(), rows.len());
    }
}
