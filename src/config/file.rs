//! What the operator wrote: `sluice.toml` -> settings. Whether they fit together is in `checks`.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use pgsluice_sharding::ShardId;
use pgsluice_sharding::catalog::{DefaultKind, TableRule, TableRules};
use toml::de::DeTable;

use super::reader::{Located, Reader, Section};
use super::set::{self, Source};
use super::value::Surroundings;
use super::{
    AuthMethod, CommitSettings, Config, Database, Host, Instance, Limits, Listen, Log, LogFormat, Peer, PoolMode,
    PoolSettings, Problem, ReplicaSettings, Role, Secret, Shard, Tls, User, checks, url,
};

const MILLISECOND: Duration = Duration::from_millis(1);
const COUNT_MAX: u64 = 1_000_000;

/// Values of one sequence that a router holds.
const SEQUENCE_BLOCK_MAX: u64 = 100_000;
const KILOBYTE: usize = 1 << 10;
const GIGABYTE: usize = 1 << 30;
/// PostgreSQL itself refuses messages of 1 GB.
const MESSAGE_MAX: usize = GIGABYTE - (1 << 20);
const BUCKETS_DEFAULT: u16 = 4096;
const BUCKETS_MAX: u64 = 32_768;
/// What fits into a cancel key beside the client's number.
const ROUTER_ID_MAX: u64 = 127;
const SHARDS_MAX: usize = 1024;

const POOL_MODES: [(&str, PoolMode); 3] =
    [("transaction", PoolMode::Transaction), ("session", PoolMode::Session), ("statement", PoolMode::Statement)];

/// The configuration before it was checked as a whole, with the lines that later problems need.
pub(super) struct File {
    pub(super) config: Config,
    /// None when the file does not say.
    pub(super) auth: Option<Located<AuthMethod>>,
    pub(super) user_lines: Vec<Range<usize>>,
    pub(super) database_lines: Vec<DatabaseLines>,
}

pub(super) struct DatabaseLines {
    pub(super) at: Range<usize>,
    pub(super) name: Range<usize>,
    pub(super) shards: Vec<ShardLines>,
}

pub(super) struct ShardLines {
    pub(super) name: Range<usize>,
    pub(super) primary: Range<usize>,
    pub(super) replicas: Vec<Range<usize>>,
}

impl Config {
    /// Reads the text of a configuration file. All problems are found at once.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        Self::parse_in(text, &Surroundings::real())
    }

    /// `parse` with the variables and files that `surroundings` has.
    pub fn parse_in(text: &str, surroundings: &Surroundings<'_>) -> Result<Self, Vec<Problem>> {
        Self::read_in(text.into(), surroundings)
    }

    pub(super) fn read_in(source: Source, surroundings: &Surroundings<'_>) -> Result<Self, Vec<Problem>> {
        let reader = Reader::new(&source.text, surroundings);
        let (mut table, errors) = DeTable::parse_recoverable(&source.text);
        for error in &errors {
            reader.problem(&error.span().unwrap_or(0..0), error.message());
        }
        if !errors.is_empty() {
            return Err(reader.into_problems());
        }
        let problems = set::apply(&source, table.get_mut(), surroundings);
        if !problems.is_empty() {
            return Err(problems);
        }
        let file = read(&reader, Section::root(&reader, &table));
        let config = checks::check(file, &reader);
        let problems = reader.into_problems();
        if problems.is_empty() { Ok(Self { source, ..config }) } else { Err(problems) }
    }

    /// A pooler for one database: the database, the user and the password are the URL's.
    pub fn for_url(text: &str) -> Result<Self, Vec<Problem>> {
        Self::for_url_at(text, Listen::default())
    }

    /// `for_url` where `listen` says.
    pub fn for_url_at(text: &str, listen: Listen) -> Result<Self, Vec<Problem>> {
        let instance = url::instance(text, None).map_err(|text| vec![Problem { line: 0, text }])?;
        let source = source_of_url(text, &instance.database, &listen);
        let shard = Shard { name: "main".to_owned(), primary: instance.clone(), replicas: Vec::new() };
        let mut database = empty_database();
        database.name.clone_from(&instance.database);
        database.shards.push(shard);
        let lines = ShardLines { name: 0..0, primary: 0..0, replicas: Vec::new() };
        let mut file = File::new();
        file.config.listen = listen;
        file.config.databases.push(database);
        file.database_lines.push(DatabaseLines { at: 0..0, name: 0..0, shards: vec![lines] });
        let surroundings = Surroundings::real();
        let reader = Reader::new("", &surroundings);
        let config = checks::check(file, &reader);
        let problems = reader.into_problems();
        let of_file = |problem: Problem| Problem { line: 0, ..problem };
        if problems.is_empty() {
            Ok(Self { source, ..config })
        } else {
            Err(problems.into_iter().map(of_file).collect())
        }
    }
}

/// The file that would say the same as a URL.
fn source_of_url(url: &str, database: &str, listen: &Listen) -> Source {
    // In a file, `${` is the beginning of a variable.
    let quoted = |text: &str| toml::Value::String(text.replace("${", "$${")).to_string();
    let http = listen.http.map(|http| format!("http = \"{http}\"\n")).unwrap_or_default();
    let (address, database, url) = (listen.address, quoted(database), quoted(url));
    Source::from(&*format!(
        "[listen]\naddress = \"{address}\"\n{http}[[database]]\nname = {database}\n[[database.shard]]\nprimary = {url}\n"
    ))
}

impl File {
    fn new() -> Self {
        let config = Config {
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
        };
        Self { config, auth: None, user_lines: Vec::new(), database_lines: Vec::new() }
    }
}

fn read<'r>(reader: &'r Reader<'r>, mut root: Section<'r>) -> File {
    let mut file = File::new();
    let config = &mut file.config;
    if let Some(section) = root.section("listen") {
        listen(section, &mut config.listen);
    }
    if let Some(section) = root.section("pool") {
        pool(section, &mut config.pool);
    }
    if let Some(mut section) = root.section("auth") {
        file.auth = auth(&mut section);
        section.finish();
    }
    for section in root.sections("user") {
        file.user_lines.push(section.at.clone());
        config.users.push(user(section));
    }
    for section in root.sections("database") {
        let (database, lines) = database(section);
        config.databases.push(database);
        file.database_lines.push(lines);
    }
    for section in root.sections("peer") {
        peer(section, config);
    }
    if let Some(section) = root.section("replicas") {
        replicas(section, &mut config.replicas);
    }
    if let Some(section) = root.section("commit") {
        commit(section, &mut config.commit);
    }
    if let Some(section) = root.section("limits") {
        limits(section, &mut config.limits);
    }
    if let Some(section) = root.section("log") {
        log(section, &mut config.log);
    }
    if config.databases.is_empty() {
        reader.problem_of_file("there is no [[database]]: name one and give it a [[database.shard]] with a primary");
    }
    root.finish();
    file
}

fn listen(mut section: Section<'_>, listen: &mut Listen) {
    if let Some(address) = section.address("address") {
        listen.address = address.value;
    }
    listen.socket_dir = section.string("socket_dir").map(|folder| PathBuf::from(folder.value));
    if let Some(http) = section.address("http") {
        if http.value == listen.address {
            let text = format!("listen.http: {} is listen.address already", http.value);
            section.reader().problem(&http.at, text);
        }
        listen.http = Some(http.value);
    }
    section.number("clients_max", 1, COUNT_MAX, &mut listen.clients_max);
    section.number("router_id", 0, ROUTER_ID_MAX, &mut listen.router_id);
    let mut workers = 0;
    section.number("workers", 0, 1024, &mut workers);
    if workers > 0 {
        listen.workers = workers;
    }
    section.duration("login_timeout", MILLISECOND, &mut listen.login_timeout);
    listen.tls = section.section("tls").and_then(tls);
    section.finish();
}

fn tls(mut section: Section<'_>) -> Option<Tls> {
    let mut required = false;
    let certificate = readable(&mut section, "certificate");
    let key = readable(&mut section, "key");
    section.boolean("required", &mut required);
    section.finish();
    Some(Tls { certificate: certificate?, key: key?, required })
}

/// The path of a file that can be read now.
fn readable(section: &mut Section<'_>, key: &'static str) -> Option<PathBuf> {
    let path = section.required(key)?;
    let file = PathBuf::from(&path.value);
    if let Err(error) = (section.reader().surroundings().read)(&file) {
        let text = format!("{}: cannot read {}: {error}", section.path_of(key), path.value);
        section.reader().problem(&path.at, text);
    }
    Some(file)
}

fn pool(mut section: Section<'_>, pool: &mut PoolSettings) {
    pool.mode = section.choice("mode", &POOL_MODES).unwrap_or(pool.mode);
    section.number("size", 1, COUNT_MAX, &mut pool.size);
    section.number("instance_connections_max", 1, COUNT_MAX, &mut pool.instance_connections_max);
    section.duration("wait_timeout", MILLISECOND, &mut pool.wait_timeout);
    section.number("waiting_max", 1, COUNT_MAX, &mut pool.waiting_max);
    section.duration("idle_timeout", MILLISECOND, &mut pool.idle_timeout);
    section.duration("lifetime", MILLISECOND, &mut pool.lifetime);
    section.duration("connect_timeout", MILLISECOND, &mut pool.connect_timeout);
    section.duration("check_delay", Duration::ZERO, &mut pool.check_delay);
    section.number("prepared_statements_max", 1, COUNT_MAX, &mut pool.prepared_statements_max);
    section.finish();
}

fn auth(section: &mut Section<'_>) -> Option<Located<AuthMethod>> {
    let methods = [("scram-sha-256", AuthMethod::ScramSha256), ("md5", AuthMethod::Md5), ("trust", AuthMethod::Trust)];
    let value = section.choice("method", &methods)?;
    Some(Located { value, at: section.at.clone() })
}

fn user(mut section: Section<'_>) -> User {
    let name = section.required("name").map(|name| name.value).unwrap_or_default();
    let mut password = section.string("password").and_then(|password| secret(&section, password));
    if section.has("password") {
        // A wrong password was told; that it is missing is not to be told as well.
        password = password.or(Some(Secret::Plain(String::new())));
    }
    let roles = [("app", Role::App), ("stats", Role::Stats), ("admin", Role::Admin)];
    let role = section.choice("role", &roles).unwrap_or(Role::App);
    let (pool_mode, pool_size) = pool_overrides(&mut section);
    section.finish();
    User { name, password, role, pool_mode, pool_size }
}

/// Tells the forms of `pg_authid` from plain passwords.
fn secret(section: &Section<'_>, password: Located<String>) -> Option<Secret> {
    let text = password.value;
    if let Some(rest) = text.strip_prefix("SCRAM-SHA-256$") {
        let parts: Vec<&str> = rest.split(['$', ':']).collect();
        let complete = matches!(parts[..], [iterations, salt, stored, server]
            if iterations.parse::<u32>().is_ok() && !salt.is_empty() && stored.len() == 44 && server.len() == 44);
        if !complete {
            let form = "SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>";
            section.reader().problem(&password.at, format!("user.password: a SCRAM verifier has the form {form}"));
            return None;
        }
        return Some(Secret::ScramVerifier(text));
    }
    let digits = text.strip_prefix("md5").filter(|digits| digits.len() == 32);
    if digits.is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit())) {
        return Some(Secret::Md5(text));
    }
    if text.is_empty() {
        section.reader().problem(&password.at, "user.password: must not be empty");
        return None;
    }
    Some(Secret::Plain(text))
}

fn pool_overrides(section: &mut Section<'_>) -> (Option<PoolMode>, Option<u32>) {
    let Some(mut pool) = section.section("pool") else { return (None, None) };
    let mode = pool.choice("mode", &POOL_MODES);
    let mut size = 0;
    pool.number("size", 1, COUNT_MAX, &mut size);
    pool.finish();
    (mode, (size > 0).then_some(size))
}

fn empty_database() -> Database {
    Database {
        name: String::new(),
        buckets: BUCKETS_DEFAULT,
        rules: TableRules::default(),
        shards: Vec::new(),
        pool_mode: None,
        pool_size: None,
    }
}

fn database(mut section: Section<'_>) -> (Database, DatabaseLines) {
    let at = section.at.clone();
    let mut database = empty_database();
    let name = section.required("name").unwrap_or(Located { value: String::new(), at: at.clone() });
    database.name = name.value;
    database.buckets = buckets(&mut section);
    (database.pool_mode, database.pool_size) = pool_overrides(&mut section);
    let mut shard_lines = Vec::new();
    let sections = section.sections("shard");
    let (any, single) = (!sections.is_empty(), sections.len() == 1);
    for section in sections {
        if let Some((shard, lines)) = shard(section, &database.name, single) {
            database.shards.push(shard);
            shard_lines.push(lines);
        }
    }
    database.rules = rules(&mut section, &database.shards);
    if !any {
        let text = format!("database {} has no [[database.shard]] with a primary", database.name);
        section.reader().problem(&at, text);
    }
    if database.shards.len() > SHARDS_MAX || database.shards.len() > usize::from(database.buckets) {
        let text = format!("database {}: at most {SHARDS_MAX} shards, and no more than buckets", database.name);
        section.reader().problem(&at, text);
    }
    section.finish();
    (database, DatabaseLines { at, name: name.at, shards: shard_lines })
}

fn buckets(section: &mut Section<'_>) -> u16 {
    let mut buckets = u64::from(BUCKETS_DEFAULT);
    let at = section.number("buckets", 1, BUCKETS_MAX, &mut buckets).unwrap_or_default();
    if !buckets.is_power_of_two() {
        let near = buckets.next_power_of_two();
        let text = format!("database.buckets: {buckets} is not a power of two; {} and {near} are", near / 2);
        section.reader().problem(&at, text);
    }
    u16::try_from(buckets).unwrap_or(BUCKETS_DEFAULT)
}

fn shard(mut section: Section<'_>, database: &str, single: bool) -> Option<(Shard, ShardLines)> {
    let at = section.at.clone();
    // The only shard needs no name.
    let name = if single {
        section.string("name").unwrap_or(Located { value: "main".to_owned(), at })
    } else {
        section.required("name").unwrap_or(Located { value: String::new(), at })
    };
    let primary = section.required("primary");
    let urls = section.strings("replicas");
    let reader = section.reader();
    section.finish();
    let primary = primary?;
    let mut replicas = Vec::new();
    let mut replica_lines = Vec::new();
    for url in &urls {
        if let Some(replica) = instance(reader, url, database, "database.shard.replicas") {
            replicas.push(replica);
            replica_lines.push(url.at.clone());
        }
    }
    let lines = ShardLines { name: name.at, primary: primary.at.clone(), replicas: replica_lines };
    let primary = instance(reader, &primary, database, "database.shard.primary")?;
    Some((Shard { name: name.value, primary, replicas }, lines))
}

fn instance(reader: &Reader<'_>, url: &Located<String>, database: &str, path: &str) -> Option<Instance> {
    let database = (!database.is_empty()).then_some(database);
    url::instance(&url.value, database).map_err(|error| reader.problem(&url.at, format!("{path}: {error}"))).ok()
}

fn rules(section: &mut Section<'_>, shards: &[Shard]) -> TableRules {
    let sharding_key = section.string("sharding_key").map(|key| key.value);
    let kinds = [("local", DefaultKind::Local), ("reference", DefaultKind::Reference)];
    let default = section.choice("tables_default", &kinds).unwrap_or_default();
    let mut tables = HashMap::new();
    if let Some(entries) = section.section("tables") {
        for (name, entry) in entries.entries() {
            if let Some(rule) = entry.and_then(|entry| table_rule(entry, &name, sharding_key.as_deref(), shards)) {
                tables.insert(name.value, rule);
            }
        }
    }
    TableRules { sharding_key, tables, default }
}

/// `{ key = "id" }`, `{ kind = "reference" }`, `{ kind = "local", shard = "a" }`.
fn table_rule(
    mut entry: Section<'_>,
    name: &Located<String>,
    sharding_key: Option<&str>,
    shards: &[Shard],
) -> Option<TableRule> {
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Sharded,
        Reference,
        Local,
    }
    let kinds = [("sharded", Kind::Sharded), ("reference", Kind::Reference), ("local", Kind::Local)];
    let kind = entry.choice("kind", &kinds);
    let key = entry.string("key");
    let shard = entry.string("shard");
    let path = entry.path_of("");
    let path = path.trim_end_matches('.').to_owned();
    let reader = entry.reader();
    entry.finish();
    let wrong = |at: &Range<usize>, text: &str| {
        reader.problem(at, format!("{path}: {text}"));
        None
    };
    match (kind, key, shard) {
        (None | Some(Kind::Sharded), Some(key), None) => Some(TableRule::Key(key.value)),
        (Some(Kind::Sharded), None, None) => match sharding_key {
            Some(key) => Some(TableRule::Key(key.to_owned())),
            None => wrong(&name.at, "which column is the key? Write key = \"...\" here or sharding_key for all"),
        },
        (Some(Kind::Reference), None, None) => Some(TableRule::Reference),
        (Some(Kind::Local), None, None) => Some(TableRule::Local(ShardId(0))),
        (Some(Kind::Local), None, Some(shard)) => {
            let Some(position) = shards.iter().position(|other| other.name == shard.value) else {
                let known: Vec<&str> =
                    shards.iter().map(|shard| shard.name.as_str()).filter(|name| !name.is_empty()).collect();
                return wrong(
                    &shard.at,
                    &format!("there is no shard {:?}; known are {}", shard.value, known.join(", ")),
                );
            };
            u16::try_from(position).ok().map(|position| TableRule::Local(ShardId(position)))
        }
        (None, None, Some(shard)) => wrong(&shard.at, "a table on one shard has kind = \"local\""),
        (None, None, None) => wrong(
            &name.at,
            "write key = \"column\", kind = \"reference\" or kind = \"local\" (a schema goes into the quotes: \"schema.table\")",
        ),
        (_, Some(key), _) => wrong(&key.at, "only sharded tables have a key"),
        (_, _, Some(shard)) => wrong(&shard.at, "only local tables have a shard"),
    }
}

fn peer(mut section: Section<'_>, config: &mut Config) {
    let (reader, at) = (section.reader(), section.at.clone());
    let mut router_id = 0;
    let known = section.number("router_id", 1, ROUTER_ID_MAX, &mut router_id).is_some();
    let address = section.required("address");
    section.finish();
    if !known {
        return reader.problem(&at, "peer needs router_id = a number: the listen.router_id of that router");
    }
    let own = config.listen.router_id;
    if own == 0 {
        reader.problem(&at, "peer: this router has no number itself: write router_id = ... under [listen]");
    } else if own == router_id {
        reader.problem(&at, format!("peer.router_id: {own} is the number of this router itself"));
    } else if config.peers.iter().any(|peer| peer.router_id == router_id) {
        reader.problem(&at, format!("there are two [[peer]] with router_id = {router_id}"));
    }
    let Some(address) = address else { return };
    let Some((host, Ok(port))) = address.value.rsplit_once(':').map(|(host, port)| (host, port.parse())) else {
        let hint = "is not a host and a port: write \"router-b:6432\", or \"/run/sluice:6432\" for a unix socket";
        return reader.problem(&address.at, format!("peer.address: {:?} {hint}", address.value));
    };
    let host = if host.starts_with('/') {
        Host::Unix(PathBuf::from(host))
    } else {
        Host::Tcp(host.trim_start_matches('[').trim_end_matches(']').to_owned())
    };
    config.peers.push(Peer { router_id, host, port });
}

fn replicas(mut section: Section<'_>, replicas: &mut ReplicaSettings) {
    section.duration("lag_max", Duration::ZERO, &mut replicas.lag_max);
    section.duration("check_interval", Duration::from_millis(10), &mut replicas.check_interval);
    section.finish();
}

fn commit(mut section: Section<'_>, commit: &mut CommitSettings) {
    section.duration("in_doubt_after", Duration::from_millis(100), &mut commit.in_doubt_after);
    section.duration("outcome_timeout", Duration::from_millis(100), &mut commit.outcome_timeout);
    section.finish();
}

fn limits(mut section: Section<'_>, limits: &mut Limits) {
    section.size("message_bytes_max", 16 * KILOBYTE, MESSAGE_MAX, &mut limits.message_bytes_max);
    section.size("statement_bytes_max", KILOBYTE, MESSAGE_MAX, &mut limits.statement_bytes_max);
    section.size("plan_cache_bytes_max", KILOBYTE, 64 * GIGABYTE, &mut limits.plan_cache_bytes_max);
    section.size("merge_buffer_max", KILOBYTE, 64 * GIGABYTE, &mut limits.merge_buffer_max);
    section.size("final_query_bytes_max", KILOBYTE, 64 * GIGABYTE, &mut limits.final_query_bytes_max);
    section.size("final_query_array_bytes_max", 0, GIGABYTE / 2, &mut limits.final_query_array_bytes_max);
    section.number("statements_per_client_max", 1, COUNT_MAX, &mut limits.statements_per_client_max);
    section.number("query_shapes_max", 1, COUNT_MAX, &mut limits.query_shapes_max);
    section.number("sequence_block_max", 1, SEQUENCE_BLOCK_MAX, &mut limits.sequence_block_max);
    section.finish();
}

fn log(mut section: Section<'_>, log: &mut Log) {
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    log.format = section.choice("format", &formats).unwrap_or(log.format);
    if let Some(level) = section.string("level") {
        match crate::log::check_level(&level.value) {
            Ok(()) => log.level = level.value,
            Err(error) => section.reader().problem(&level.at, error.to_string()),
        }
    }
    section.finish();
}
