//! Control connections: the few that the router opens for itself, to ask and to check.
//!
//! Nothing that a client sends reaches them: no client's parameters, no client's `search_path`.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::NoTls;

use crate::config::{Host, Instance, Secret, User};

/// What control connections call themselves in `pg_stat_activity`.
const APPLICATION_NAME: &str = "sluice control";

/// How to log in to `instance`: the user and password of its URL; else the first configured user
/// whose password is known in plain text.
pub fn config(instance: &Instance, users: &[User], connect_timeout: Duration) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    match &instance.host {
        Host::Tcp(host) => config.host(host),
        Host::Unix(folder) => config.host_path(folder),
    };
    config
        .port(instance.port)
        .dbname(&instance.database)
        .application_name(APPLICATION_NAME)
        .connect_timeout(connect_timeout)
        .keepalives_idle(Duration::from_secs(30));
    let user = match &instance.user {
        Some(name) => Some((name, users.iter().find(|user| &user.name == name).and_then(plain_password))),
        None => {
            let known = users.iter().find_map(|user| Some((&user.name, Some(plain_password(user)?))));
            known.or_else(|| users.first().map(|user| (&user.name, None)))
        }
    };
    if let Some((name, password)) = user {
        config.user(name);
        if let Some(password) = instance.password.as_deref().or(password) {
            config.password(password);
        }
    }
    config
}

/// A pool of at most `size` control connections, opened when needed.
///
/// # Errors
/// None in practice: the builder only fails without a runtime, and one is given.
pub fn pool(
    config: tokio_postgres::Config,
    size: usize,
    timeout: Duration,
) -> Result<Pool, deadpool_postgres::BuildError> {
    let manager = Manager::from_config(config, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Verified });
    Pool::builder(manager)
        .max_size(size)
        .wait_timeout(Some(timeout))
        .create_timeout(Some(timeout))
        .recycle_timeout(Some(timeout))
        .runtime(Runtime::Tokio1)
        .build()
}

fn plain_password(user: &User) -> Option<&str> {
    match user.password.as_ref()? {
        Secret::Plain(password) => Some(password),
        Secret::ScramVerifier(_) | Secret::Md5(_) => None,
    }
}

/// An error and its causes in one line: `tokio_postgres` keeps the reason in the source.
pub fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}
