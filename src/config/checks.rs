//! Whether the settings fit together, and what follows from them.

use std::collections::HashMap;
use std::ops::Range;

use super::file::{DatabaseLines, File};
use super::reader::Reader;
use super::{AuthMethod, Config, Database, Host, Instance, Role, Secret, Shard, User};

/// The console answers under these names.
const CONSOLE_NAMES: [&str; 2] = ["sluice", "pgbouncer"];

/// Fills in what follows from other settings; problems go to the reader.
pub(super) fn check(mut file: File, reader: &Reader<'_>) -> Config {
    unique_users(&file, reader);
    unique_databases(&file, reader);
    for (database, lines) in file.config.databases.iter().zip(&file.database_lines) {
        check_database(database, lines, reader);
    }
    check_pool_sizes(&file, reader);
    take_users_from_urls(&mut file, reader);
    file.config.auth = auth_method(&file, reader);
    check_passwords(&file, reader);
    file.config
}

fn unique_users(file: &File, reader: &Reader<'_>) {
    let mut seen = Vec::new();
    for (user, at) in file.config.users.iter().zip(&file.user_lines) {
        if !user.name.is_empty() && seen.contains(&user.name.as_str()) {
            reader.problem(at, format!("there are two [[user]] named {}", user.name));
        }
        seen.push(user.name.as_str());
    }
}

fn unique_databases(file: &File, reader: &Reader<'_>) {
    let mut seen = Vec::new();
    for (database, lines) in file.config.databases.iter().zip(&file.database_lines) {
        let name = database.name.as_str();
        if CONSOLE_NAMES.contains(&name) {
            reader.problem(&lines.name, format!("database.name: {name} is the name of the console"));
        }
        if !name.is_empty() && seen.contains(&name) {
            reader.problem(&lines.name, format!("there are two [[database]] named {name}"));
        }
        seen.push(name);
    }
}

fn check_database(database: &Database, lines: &DatabaseLines, reader: &Reader<'_>) {
    let mut names = Vec::new();
    let mut places: HashMap<(&Host, u16, &str), &str> = HashMap::new();
    for (shard, lines) in database.shards.iter().zip(&lines.shards) {
        if !shard.name.is_empty() && names.contains(&shard.name.as_str()) {
            reader.problem(&lines.name, format!("there are two shards named {}", shard.name));
        }
        names.push(shard.name.as_str());
        let instances =
            std::iter::once((&shard.primary, &lines.primary)).chain(shard.replicas.iter().zip(&lines.replicas));
        for (instance, at) in instances {
            let place = (&instance.host, instance.port, instance.database.as_str());
            if let Some(other) = places.insert(place, &shard.name) {
                let address = instance.address();
                let text =
                    format!("{address}/{} is listed twice (shard {other}): every instance once", instance.database);
                reader.problem(at, text);
            }
        }
    }
    let rules = &database.rules;
    if database.shards.len() > 1 && rules.sharding_key.is_none() && rules.tables.is_empty() {
        let text =
            format!("database {} has several shards: by which column? Write sharding_key = \"...\"", database.name);
        reader.problem(&lines.at, text);
    }
}

fn check_pool_sizes(file: &File, reader: &Reader<'_>) {
    let most = file.config.pool.instance_connections_max;
    let wrong = |what: &str| format!("{what} is more than pool.instance_connections_max ({most}) allows");
    if file.config.pool.size > most {
        reader.problem_of_file(wrong("pool.size"));
    }
    let check = |what: String, size: Option<u32>, at: Range<usize>| {
        if size.is_some_and(|size| size > most) {
            reader.problem(&at, wrong(&what));
        }
    };
    for (user, at) in file.config.users.iter().zip(&file.user_lines) {
        check(format!("user {}: pool.size", user.name), user.pool_size, at.clone());
    }
    for (database, lines) in file.config.databases.iter().zip(&file.database_lines) {
        check(format!("database {}: pool.size", database.name), database.pool_size, lines.at.clone());
    }
}

fn instances(config: &Config) -> impl Iterator<Item = &Instance> {
    let shards = config.databases.iter().flat_map(|database| &database.shards);
    shards.flat_map(Shard::instances)
}

/// Whoever a URL names with a password may log in with it, as if it were a `[[user]]`.
fn take_users_from_urls(file: &mut File, reader: &Reader<'_>) {
    let mut passwords: Vec<(String, String)> = Vec::new();
    for instance in instances(&file.config) {
        let (Some(user), Some(password)) = (&instance.user, &instance.password) else { continue };
        match passwords.iter().find(|(name, _)| name == user) {
            None => passwords.push((user.clone(), password.clone())),
            Some((_, first)) if first == password => {}
            Some(_) if password_of(&file.config, user) => {}
            Some(_) => reader.problem_of_file(format!(
                "the URLs have different passwords of user {user}: say in a [[user]] which one clients use"
            )),
        }
    }
    for (name, password) in passwords {
        let secret = Some(Secret::Plain(password));
        match file.config.users.iter_mut().find(|user| user.name == name) {
            Some(user) => user.password = user.password.take().or(secret),
            None => {
                file.config.users.push(User {
                    name,
                    password: secret,
                    role: Role::App,
                    pool_mode: None,
                    pool_size: None,
                });
            }
        }
    }
}

fn password_of(config: &Config, name: &str) -> bool {
    config.users.iter().any(|user| user.name == name && user.password.is_some())
}

/// SCRAM, unless the file says otherwise or there is no password at all: then the servers trust this
/// machine, and so does a router that only this machine can reach.
fn auth_method(file: &File, reader: &Reader<'_>) -> AuthMethod {
    if let Some(method) = &file.auth {
        return method.value;
    }
    if file.config.users.iter().any(|user| user.password.is_some()) {
        return AuthMethod::ScramSha256;
    }
    if file.config.listen.address.ip().is_loopback() && file.config.users.is_empty() {
        return AuthMethod::Trust;
    }
    if file.config.users.is_empty() && !file.config.databases.is_empty() {
        reader.problem_of_file(
            "nobody could log in: give a [[user]] with a password, or a password in the URLs, or [auth] method = \"trust\"",
        );
    }
    AuthMethod::ScramSha256
}

fn check_passwords(file: &File, reader: &Reader<'_>) {
    let method = file.config.auth;
    for (user, at) in file.config.users.iter().zip(&file.user_lines) {
        let wrong = match (method, &user.password) {
            (AuthMethod::Trust, _) => continue,
            (_, None) => "has no password: write password = \"...\" or [auth] method = \"trust\"",
            (AuthMethod::ScramSha256, Some(Secret::Md5(_))) => {
                "has an md5 password, which SCRAM cannot check: write the plain password or a SCRAM verifier"
            }
            (AuthMethod::Md5, Some(Secret::ScramVerifier(_))) => {
                "has a SCRAM verifier, which md5 cannot check: set [auth] method = \"scram-sha-256\""
            }
            (_, Some(_)) => continue,
        };
        reader.problem(at, format!("user {} {wrong}", user.name));
    }
}
