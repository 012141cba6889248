//! The difference between two configurations, as a list of changes.

use std::collections::BTreeMap;
use std::fmt;

use pgsluice_sharding::catalog::{DefaultKind, TableRule};

use super::value::{show_duration, show_size};
use super::{AuthMethod, Config, Database, Instance, LogFormat, PoolSettings, Role, Secret, Shard};

/// Read once, at start: sockets, threads and the log are made from these.
const FIXED: [&str; 7] = [
    "listen.address",
    "listen.http",
    "listen.router_id",
    "listen.socket_dir",
    "listen.workers",
    "log.level",
    "log.format",
];

/// One setting under its name in the file, as the console shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub key: String,
    /// As it would be written in the file; passwords are not shown.
    pub value: String,
    /// Whether it may change while the router runs.
    pub reloadable: bool,
    /// What tells two values apart that look the same: a password.
    hidden: Option<Secret>,
}

/// A setting that differs; None where it does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    pub old: Option<String>,
    pub new: Option<String>,
    /// False when the router must be started anew for this to take effect.
    pub reloadable: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".to_owned());
        write!(f, "{}: {} -> {}", self.key, show(&self.old), show(&self.new))
    }
}

/// All that differs, in the order of the keys.
pub fn diff(old: &Config, new: &Config) -> Vec<Change> {
    let by_key = |config: &Config| -> BTreeMap<String, Setting> {
        config.settings().into_iter().map(|setting| (setting.key.clone(), setting)).collect()
    };
    let (old, new) = (by_key(old), by_key(new));
    let keys = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key)));
    let mut changes: Vec<Change> = keys
        .filter(|key| old.get(*key) != new.get(*key))
        .map(|key| {
            let (old, new) = (old.get(key), new.get(key));
            Change { key: key.clone(), old: shown(old), new: shown(new), reloadable: is_reloadable(old, new) }
        })
        .collect();
    changes.sort_by(|a, b| a.key.cmp(&b.key));
    changes
}

/// Whether a setting is read once, at start; `key` is its name in the file.
pub fn is_fixed(key: &str) -> bool {
    FIXED.contains(&key) || places_rows(key)
}

/// Whether a setting of a database says where rows are.
pub fn places_rows(key: &str) -> bool {
    key.starts_with("database.") && (key.ends_with(".buckets") || key.ends_with(".shards"))
}

fn shown(setting: Option<&Setting>) -> Option<String> {
    setting.map(|setting| setting.value.clone())
}

fn is_reloadable(old: Option<&Setting>, new: Option<&Setting>) -> bool {
    let (Some(old), Some(_)) = (old, new) else { return true };
    old.reloadable
}

/// Where `new` would look for rows on shards that do not hold them, one line each: buckets follow from
/// the number and the order of the shards.
pub fn misplaced(old: &Config, new: &Config) -> Vec<String> {
    let pairs = old.databases.iter().filter_map(|old| {
        let new = new.databases.iter().find(|new| new.name == old.name)?;
        (old.shards.len().max(new.shards.len()) > 1).then_some((old, new))
    });
    pairs.flat_map(|(old, new)| misplaced_in(old, new)).collect()
}

fn misplaced_in(old: &Database, new: &Database) -> Vec<String> {
    let mut found = Vec::new();
    let names = |database: &Database| {
        let names: Vec<&str> = database.shards.iter().map(|shard| shard.name.as_str()).collect();
        names.join(", ")
    };
    if names(old) != names(new) {
        found.push(format!("the shards are {}, not {}", names(old), names(new)));
    }
    if old.buckets != new.buckets {
        found.push(format!("there are {} buckets, not {}", old.buckets, new.buckets));
    }
    // With other names it is said already.
    let same = if found.is_empty() { &new.shards[..] } else { &[] };
    for shard in same {
        let was_elsewhere = |instance: &&Instance| {
            let of = |shard: &&Shard| shard.instances().any(|other| other.is_same_place(instance));
            old.shards.iter().find(of).is_some_and(|before| before.name != shard.name)
        };
        if let Some(instance) = shard.instances().find(was_elsewhere) {
            found.push(format!("{} holds the rows of another shard than {}", instance.address(), shard.name));
        }
    }
    found
        .into_iter()
        .map(|text| format!("database {}: {text}: rows would be looked for where they are not", old.name))
        .collect()
}

impl Config {
    /// Every setting with its value, in the order of `sluice.toml`.
    pub fn settings(&self) -> Vec<Setting> {
        let mut list = List(Vec::new());
        self.list_listen(&mut list);
        list.pool("pool", &self.pool);
        let method = match self.auth {
            AuthMethod::Trust => "trust",
            AuthMethod::Md5 => "md5",
            AuthMethod::ScramSha256 => "scram-sha-256",
        };
        list.add("auth.method", method);
        self.list_users(&mut list);
        for database in &self.databases {
            list.database(database);
        }
        for peer in &self.peers {
            list.add(format!("peer.{}.address", peer.router_id), peer.host.with_port(peer.port));
        }
        list.add("replicas.lag_max", show_duration(self.replicas.lag_max));
        list.add("replicas.check_interval", show_duration(self.replicas.check_interval));
        list.add("commit.in_doubt_after", show_duration(self.commit.in_doubt_after));
        list.add("commit.outcome_timeout", show_duration(self.commit.outcome_timeout));
        list.add("limits.message_bytes_max", show_size(self.limits.message_bytes_max));
        list.add("limits.statement_bytes_max", show_size(self.limits.statement_bytes_max));
        list.add("limits.plan_cache_bytes_max", show_size(self.limits.plan_cache_bytes_max));
        list.add("limits.merge_buffer_max", show_size(self.limits.merge_buffer_max));
        list.add("limits.final_query_bytes_max", show_size(self.limits.final_query_bytes_max));
        list.add("limits.final_query_array_bytes_max", show_size(self.limits.final_query_array_bytes_max));
        list.add("limits.statements_per_client_max", self.limits.statements_per_client_max.to_string());
        list.add("limits.query_shapes_max", self.limits.query_shapes_max.to_string());
        list.add("limits.sequence_block_max", self.limits.sequence_block_max.to_string());
        list.add("log.format", if self.log.format == LogFormat::Json { "json" } else { "text" });
        list.add("log.level", self.log.level.clone());
        list.0
    }

    fn list_listen(&self, list: &mut List) {
        let listen = &self.listen;
        list.add("listen.address", listen.address.to_string());
        list.add_some("listen.socket_dir", listen.socket_dir.as_ref().map(|folder| folder.display().to_string()));
        list.add_some("listen.http", listen.http.map(|http| http.to_string()));
        list.add("listen.clients_max", listen.clients_max.to_string());
        list.add("listen.router_id", listen.router_id.to_string());
        list.add("listen.workers", listen.workers.to_string());
        list.add("listen.login_timeout", show_duration(listen.login_timeout));
        if let Some(tls) = &listen.tls {
            list.add("listen.tls.certificate", tls.certificate.display().to_string());
            list.add("listen.tls.key", tls.key.display().to_string());
            list.add("listen.tls.required", tls.required.to_string());
        }
    }

    fn list_users(&self, list: &mut List) {
        for user in &self.users {
            let path = format!("user.{}", user.name);
            let role = match user.role {
                Role::App => "app",
                Role::Stats => "stats",
                Role::Admin => "admin",
            };
            list.add(format!("{path}.role"), role);
            if let Some(password) = &user.password {
                list.add(format!("{path}.password"), "(not shown)");
                list.hide(password.clone());
            }
            list.add_some(format!("{path}.pool.mode"), user.pool_mode.map(|mode| mode.name().to_owned()));
            list.add_some(format!("{path}.pool.size"), user.pool_size.map(|size| size.to_string()));
        }
    }
}

struct List(Vec<Setting>);

impl List {
    fn add(&mut self, key: impl Into<String>, value: impl Into<String>) {
        let key = key.into();
        let reloadable = !is_fixed(&key);
        self.0.push(Setting { key, value: value.into(), reloadable, hidden: None });
    }

    fn add_some(&mut self, key: impl Into<String>, value: Option<String>) {
        if let Some(value) = value {
            self.add(key, value);
        }
    }

    fn hide(&mut self, secret: Secret) {
        if let Some(last) = self.0.last_mut() {
            last.hidden = Some(secret);
        }
    }

    fn pool(&mut self, path: &str, pool: &PoolSettings) {
        self.add(format!("{path}.mode"), pool.mode.name());
        self.add(format!("{path}.size"), pool.size.to_string());
        self.add(format!("{path}.instance_connections_max"), pool.instance_connections_max.to_string());
        self.add(format!("{path}.wait_timeout"), show_duration(pool.wait_timeout));
        self.add(format!("{path}.waiting_max"), pool.waiting_max.to_string());
        self.add(format!("{path}.idle_timeout"), show_duration(pool.idle_timeout));
        self.add(format!("{path}.lifetime"), show_duration(pool.lifetime));
        self.add(format!("{path}.connect_timeout"), show_duration(pool.connect_timeout));
        self.add(format!("{path}.check_delay"), show_duration(pool.check_delay));
        self.add(format!("{path}.prepared_statements_max"), pool.prepared_statements_max.to_string());
    }

    fn database(&mut self, database: &Database) {
        let path = format!("database.{}", database.name);
        let shards: Vec<&str> = database.shards.iter().map(|shard| shard.name.as_str()).collect();
        self.add(format!("{path}.shards"), shards.join(", "));
        self.add(format!("{path}.buckets"), database.buckets.to_string());
        self.add_some(format!("{path}.sharding_key"), database.rules.sharding_key.clone());
        let default = if database.rules.default == DefaultKind::Reference { "reference" } else { "local" };
        self.add(format!("{path}.tables_default"), default);
        let mut tables: Vec<_> = database.rules.tables.iter().collect();
        tables.sort_by_key(|(name, _)| *name);
        for (name, rule) in tables {
            let value = match rule {
                TableRule::Key(key) => format!("key {key}"),
                TableRule::Reference => "reference".to_owned(),
                TableRule::Local(shard) => format!("local on {}", shards.get(usize::from(shard.0)).unwrap_or(&"?")),
            };
            self.add(format!("{path}.tables.{name}"), value);
        }
        self.add_some(format!("{path}.pool.mode"), database.pool_mode.map(|mode| mode.name().to_owned()));
        self.add_some(format!("{path}.pool.size"), database.pool_size.map(|size| size.to_string()));
        for shard in &database.shards {
            let path = format!("{path}.shard.{}", shard.name);
            self.instance(format!("{path}.primary"), &shard.primary);
            for (position, replica) in shard.replicas.iter().enumerate() {
                self.instance(format!("{path}.replicas.{position}"), replica);
            }
        }
    }

    fn instance(&mut self, key: String, instance: &Instance) {
        let user = instance.user.as_deref().map(|user| format!("{user}@")).unwrap_or_default();
        self.add(key, format!("{user}{}/{}", instance.address(), instance.database));
        if let Some(password) = &instance.password {
            self.hide(Secret::Plain(password.clone()));
        }
    }
}
