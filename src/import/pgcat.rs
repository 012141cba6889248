//! `pgcat.toml`.

use toml::{Table, Value};

use super::{Draft, Imported, Place};

pub(super) fn import(text: &str) -> Result<Imported, String> {
    let mut file: Table = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut draft = Draft::default();
    let mut general = table(file.remove("general"));
    let pools = table(file.remove("pools"));
    listen(&mut general, &mut draft);
    draft.section("[pool]");
    draft.text("mode", "transaction");
    for (theirs, ours) in
        [("connect_timeout", "connect_timeout"), ("idle_timeout", "idle_timeout"), ("server_lifetime", "lifetime")]
    {
        if let Some(milliseconds) = general.remove(theirs).and_then(|value| value.as_integer()) {
            draft.text(ours, &format!("{milliseconds}ms"));
        }
    }
    let admin = (text_of(general.remove("admin_username")), text_of(general.remove("admin_password")));
    if let (Some(name), password) = admin {
        draft.user(&name, password.as_deref(), Some("admin"));
    }
    let mut users = Vec::new();
    for (name, pool) in pools {
        database(&name, table(Some(pool)), &mut users, &mut draft)?;
    }
    for (name, password) in users {
        draft.user(&name, password.as_deref(), None);
    }
    let rest = general.into_iter().map(|(key, value)| format!("general.{key} = {value}: no counterpart"));
    let sections = file.into_iter().map(|(key, _)| format!("[{key}]: no counterpart"));
    draft.notes.extend(rest.chain(sections));
    Ok(draft.done())
}

fn table(value: Option<Value>) -> Table {
    match value {
        Some(Value::Table(table)) => table,
        _ => Table::new(),
    }
}

fn text_of(value: Option<Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

fn listen(general: &mut Table, draft: &mut Draft) {
    draft.section("[listen]");
    let host = text_of(general.remove("host")).unwrap_or_else(|| "127.0.0.1".to_owned());
    let port = text_of(general.remove("port")).unwrap_or_else(|| "6432".to_owned());
    draft.text("address", &format!("{host}:{port}"));
    if general.remove("enable_prometheus_exporter").is_some_and(|value| value.as_bool() == Some(true)) {
        let http = text_of(general.remove("prometheus_exporter_port")).unwrap_or_else(|| "9930".to_owned());
        draft.text("http", &format!("{host}:{http}"));
    }
    if let Some(workers) = general.remove("worker_threads").and_then(|value| value.as_integer()) {
        draft.raw("workers", workers);
    }
    let tls = (text_of(general.remove("tls_certificate")), text_of(general.remove("tls_private_key")));
    if let (Some(certificate), Some(key)) = tls {
        draft.section("[listen.tls]");
        draft.text("certificate", &certificate);
        draft.text("key", &key);
    }
}

/// One pool is one database; its users are added to `users`.
fn database(
    name: &str,
    mut pool: Table,
    users: &mut Vec<(String, Option<String>)>,
    draft: &mut Draft,
) -> Result<(), String> {
    draft.section("[[database]]");
    draft.text("name", name);
    if let Some(mode) = text_of(pool.remove("pool_mode")) {
        draft.text("pool.mode", &mode);
    }
    let mut size = None;
    for (_, user) in table(pool.remove("users")) {
        let mut user = table(Some(user));
        let Some(user_name) = text_of(user.remove("username")) else { continue };
        let password = text_of(user.remove("password"));
        size = size.max(user.remove("pool_size").and_then(|value| value.as_integer()));
        if users.iter().all(|(known, _)| *known != user_name) {
            users.push((user_name.clone(), password));
        }
        draft.notes.extend(
            user.into_iter()
                .map(|(key, value)| format!("pools.{name}, user {user_name}: {key} = {value}: no counterpart")),
        );
    }
    if let Some(size) = size {
        draft.raw("pool.size", size);
    }
    let mut shards: Vec<(String, Value)> = table(pool.remove("shards")).into_iter().collect();
    shards.sort_by_key(|(number, _)| number.parse::<u32>().unwrap_or(u32::MAX));
    if shards.len() > 1 {
        draft.raw(
            "sharding_key",
            "\"\" # TODO: the column; rows are placed by another hash here, so they must be loaded anew",
        );
        draft.note(format!("pools.{name}: several shards: PgCat places rows by another hash; load them anew"));
    }
    for (number, shard) in shards {
        let shard = table(Some(shard));
        draft.section("[[database.shard]]");
        draft.text("name", &format!("shard{number}"));
        servers(name, &shard, draft)?;
    }
    draft.notes.extend(pool.into_iter().map(|(key, value)| format!("pools.{name}.{key} = {value}: no counterpart")));
    Ok(())
}

fn servers(pool: &str, shard: &Table, draft: &mut Draft) -> Result<(), String> {
    let database = text_of(shard.get("database").cloned()).unwrap_or_else(|| pool.to_owned());
    let mut primary = None;
    let mut replicas = Vec::new();
    for server in shard.get("servers").and_then(Value::as_array).into_iter().flatten() {
        let Some([host, port, role, ..]) = server.as_array().map(Vec::as_slice) else {
            return Err(format!("pools.{pool}: a server is [\"host\", port, \"role\"], not {server}"));
        };
        let place = Place {
            host: host.as_str().unwrap_or_default().to_owned(),
            port: port.to_string(),
            database: database.clone(),
            ..Place::default()
        };
        match role.as_str() {
            Some("primary") => primary = Some(place.url()),
            _ => replicas.push(super::quoted(&place.url())),
        }
    }
    let Some(primary) = primary else { return Err(format!("pools.{pool}: a shard has no primary")) };
    draft.text("primary", &primary);
    if !replicas.is_empty() {
        draft.raw("replicas", format!("[{}]", replicas.join(", ")));
    }
    Ok(())
}
