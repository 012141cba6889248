//! `pgbouncer.ini` and its `userlist.txt`.

use std::collections::BTreeMap;

use super::{Draft, Imported, Place};

/// Settings by section and name, in lower case, in the order of the file.
#[derive(Default)]
struct Ini {
    databases: Vec<(String, String)>,
    users: Vec<(String, String)>,
    settings: BTreeMap<String, String>,
}

/// Durations in seconds: PgBouncer's name, ours.
const DURATIONS: [(&str, &str); 5] = [
    ("query_wait_timeout", "wait_timeout"),
    ("server_idle_timeout", "idle_timeout"),
    ("server_lifetime", "lifetime"),
    ("server_connect_timeout", "connect_timeout"),
    ("server_check_delay", "check_delay"),
];

/// What Sluice always does, or has no need to be told.
const NEEDLESS: [&str; 10] = [
    "ignore_startup_parameters",
    "track_extra_parameters",
    "server_reset_query",
    "server_reset_query_always",
    "server_check_query",
    "server_round_robin",
    "pkt_buf",
    "so_reuseport",
    "tcp_keepalive",
    "application_name_add_host",
];

pub(super) fn import(text: &str, included: impl Fn(&str) -> Result<String, String>) -> Result<Imported, String> {
    let mut ini = read(text)?;
    let mut draft = Draft::default();
    listen(&mut ini, &mut draft);
    pool(&mut ini, &mut draft);
    let trusts = auth(&mut ini, &mut draft);
    users(&mut ini, &mut draft, trusts, included);
    for (name, value) in std::mem::take(&mut ini.databases) {
        database(&name, &value, &mut draft)?;
    }
    for (name, value) in ini.settings {
        if !NEEDLESS.contains(&name.as_str()) {
            draft.note(format!("{name} = {value}: no counterpart"));
        }
    }
    Ok(draft.done())
}

fn read(text: &str) -> Result<Ini, String> {
    let mut ini = Ini::default();
    let mut section = String::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.trim().to_ascii_lowercase();
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(format!("line {}: `{line}` is not `name = value`", number + 1));
        };
        let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
        match section.as_str() {
            "databases" => ini.databases.push((key, value)),
            "users" => ini.users.push((key, value)),
            "pgbouncer" => drop(ini.settings.insert(key.to_ascii_lowercase(), value)),
            other => return Err(format!("line {}: unknown section [{other}]", number + 1)),
        }
    }
    Ok(ini)
}

fn listen(ini: &mut Ini, draft: &mut Draft) {
    draft.section("[listen]");
    let host = ini.settings.remove("listen_addr").unwrap_or_else(|| "127.0.0.1".to_owned());
    let port = ini.settings.remove("listen_port").unwrap_or_else(|| "6432".to_owned());
    let first = host.split(',').next().unwrap_or_default().trim();
    if host.contains(',') {
        draft.note(format!("listen_addr = {host}: only the first address is taken"));
    }
    let host = match first {
        "*" => "0.0.0.0",
        "localhost" => "127.0.0.1",
        other => other,
    };
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    draft.text("address", &address);
    if let Some(folder) = ini.settings.remove("unix_socket_dir").filter(|folder| !folder.is_empty()) {
        draft.text("socket_dir", &folder);
    }
    if let Some(max) = ini.settings.remove("max_client_conn") {
        draft.raw("clients_max", max);
    }
    let tls = ["client_tls_cert_file", "client_tls_key_file", "client_tls_sslmode"].map(|n| ini.settings.remove(n));
    if let [Some(certificate), Some(key), mode] = tls {
        draft.section("[listen.tls]");
        draft.text("certificate", &certificate);
        draft.text("key", &key);
        draft.raw("required", mode.is_some_and(|mode| mode == "require" || mode.starts_with("verify")));
    }
}

fn pool(ini: &mut Ini, draft: &mut Draft) {
    draft.section("[pool]");
    // PgBouncer's default is another than ours.
    let mode = ini.settings.remove("pool_mode").unwrap_or_else(|| "session".to_owned());
    draft.text("mode", &mode);
    draft.raw("size", ini.settings.remove("default_pool_size").unwrap_or_else(|| "20".to_owned()));
    for (theirs, ours) in DURATIONS {
        let Some(value) = ini.settings.remove(theirs) else { continue };
        match value.parse::<f64>() {
            Ok(seconds) if seconds > 0.0 => draft.text(ours, &milliseconds(seconds)),
            _ => draft.note(format!("{theirs} = {value}: there is always a bound; the default stays")),
        }
    }
    match ini.settings.remove("max_prepared_statements").as_deref() {
        None => {}
        Some("0") => draft.note("max_prepared_statements = 0: prepared statements always work"),
        Some(max) => draft.raw("prepared_statements_max", max),
    }
    if let Some(max) = ini.settings.remove("max_db_connections").filter(|max| max != "0") {
        draft.raw("instance_connections_max", &max);
        draft.note(format!("max_db_connections = {max}: counts all databases of an instance together"));
    }
}

/// A duration as our configuration writes it.
fn milliseconds(seconds: f64) -> String {
    if seconds.fract() == 0.0 { format!("{seconds:.0}s") } else { format!("{:.0}ms", seconds * 1000.0) }
}

/// Whether clients need no password.
fn auth(ini: &mut Ini, draft: &mut Draft) -> bool {
    let method = ini.settings.remove("auth_type").unwrap_or_else(|| "md5".to_owned());
    draft.section("[auth]");
    match method.as_str() {
        "md5" | "trust" | "scram-sha-256" => draft.text("method", &method),
        "any" => {
            draft.text("method", "trust");
            draft.note("auth_type = any: clients keep the user names they give");
        }
        other => {
            draft.text("method", "scram-sha-256");
            draft.note(format!("auth_type = {other}: no counterpart, scram-sha-256 is taken"));
        }
    }
    matches!(method.as_str(), "trust" | "any")
}

fn users(ini: &mut Ini, draft: &mut Draft, trusts: bool, included: impl Fn(&str) -> Result<String, String>) {
    let list = |name: &str, ini: &mut Ini| -> Vec<String> {
        let names = ini.settings.remove(name).unwrap_or_default();
        names.split([',', ' ']).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    let (admins, stats) = (list("admin_users", ini), list("stats_users", ini));
    let role = |name: &str| match () {
        () if admins.iter().any(|admin| admin == name) => Some("admin"),
        () if stats.iter().any(|user| user == name) => Some("stats"),
        () => None,
    };
    let mut known = Vec::new();
    if let Some(file) = ini.settings.remove("auth_file") {
        match included(&file) {
            Ok(text) => known = userlist(&text),
            Err(error) => draft.note(format!("auth_file = {file}: {error}; its users are missing")),
        }
    }
    for (name, password) in &known {
        if password.is_empty() && !trusts {
            draft.note(format!("{name} has no password in auth_file and cannot log in: add a [[user]] with one"));
            continue;
        }
        draft.user(name, Some(password).filter(|password| !password.is_empty()).map(String::as_str), role(name));
        if let Some(at) = ini.users.iter().position(|(user, _)| user == name) {
            let (_, settings) = ini.users.remove(at);
            user_settings(name, &settings, draft);
        }
    }
    for name in admins.iter().chain(&stats).filter(|name| known.iter().all(|(user, _)| user != *name)) {
        draft.note(format!("{name} may use the console, but has no password in auth_file: add a [[user]]"));
    }
    for (name, settings) in std::mem::take(&mut ini.users) {
        draft.note(format!("[users] {name} = {settings}: the user has no entry in auth_file"));
    }
}

fn user_settings(name: &str, settings: &str, draft: &mut Draft) {
    for (key, value) in pairs(settings) {
        match key.as_str() {
            "pool_mode" => draft.text("pool.mode", &value),
            "pool_size" => draft.raw("pool.size", value),
            _ => draft.note(format!("[users] {name}: {key} = {value}: no counterpart")),
        }
    }
}

/// Lines of `"name" "password"`; a quote inside is doubled.
fn userlist(text: &str) -> Vec<(String, String)> {
    let mut users = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| line.starts_with('"')) {
        let mut fields = Vec::new();
        let mut rest = line;
        while let Some(begun) = rest.trim_start().strip_prefix('"') {
            let mut field = String::new();
            let mut chars = begun.char_indices().peekable();
            let mut end = begun.len();
            while let Some((at, c)) = chars.next() {
                match c {
                    '"' if chars.peek().is_some_and(|(_, next)| *next == '"') => {
                        chars.next();
                        field.push('"');
                    }
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    c => field.push(c),
                }
            }
            fields.push(field);
            rest = &begun[end..];
        }
        if let [name, password, ..] = fields.as_slice() {
            users.push((name.clone(), password.clone()));
        }
    }
    users
}

fn database(name: &str, value: &str, draft: &mut Draft) -> Result<(), String> {
    if name == "*" {
        draft.note(format!("[databases] * = {value}: every database must be named"));
        return Ok(());
    }
    let mut place = Place {
        host: "/var/run/postgresql".into(),
        port: "5432".into(),
        database: name.to_owned(),
        ..Place::default()
    };
    let mut settings = Vec::new();
    for (key, value) in pairs(value) {
        match key.as_str() {
            "host" => place.host = value,
            "port" => place.port = value,
            "dbname" => place.database = value,
            "user" => place.user = Some(value),
            "password" => place.password = Some(value),
            "pool_size" => settings.push(("pool.size", value)),
            "pool_mode" => settings.push(("pool.mode", super::quoted(&value))),
            _ => draft.note(format!("[databases] {name}: {key} = {value}: no counterpart")),
        }
    }
    if place.host.contains(',') {
        return Err(format!(
            "[databases] {name}: several hosts: name the one that takes writes, and the others as replicas"
        ));
    }
    draft.section("[[database]]");
    draft.text("name", name);
    for (key, value) in settings {
        draft.raw(key, value);
    }
    draft.section("[[database.shard]]");
    draft.text("primary", &place.url());
    Ok(())
}

/// `key=value` pairs as in a connection string: values may be in single quotes, a quote inside is doubled.
fn pairs(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let mut value = String::new();
        rest = if let Some(quoted) = after.strip_prefix('\'') {
            let mut end = quoted.len();
            let mut chars = quoted.char_indices().peekable();
            while let Some((at, c)) = chars.next() {
                if c == '\'' && chars.next_if(|(_, next)| *next == '\'').is_none() {
                    end = at + 1;
                    break;
                }
                value.push(c);
            }
            quoted[end..].trim_start()
        } else {
            let end = after.find(char::is_whitespace).unwrap_or(after.len());
            value.push_str(&after[..end]);
            after[end..].trim_start()
        };
        found.push((key.trim().to_ascii_lowercase(), value));
    }
    found
}
