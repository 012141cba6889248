//! One setting changed while the router runs, as if the file said so: the same text is read again
//! with the new value in its place, and checked as a whole.

use std::fmt;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::value::Surroundings;
use super::{Config, Problem};

/// What a configuration was read from: the text of the file, and what was SET since.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Source {
    pub(super) text: Arc<str>,
    pub(super) sets: Vec<(String, Written)>,
}

/// It may hold passwords.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({} settings changed)", self.sets.len())
    }
}

impl From<&str> for Source {
    fn from(text: &str) -> Self {
        Self { text: text.into(), sets: Vec::new() }
    }
}

/// A value in a SET.
#[derive(Clone, PartialEq, Eq)]
pub enum Written {
    /// In quotes.
    Quoted(String),
    Bare(String),
}

/// It may be a password.
impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a value)")
    }
}

impl Written {
    fn text(&self) -> &str {
        let (Self::Quoted(text) | Self::Bare(text)) = self;
        text
    }

    /// What the file would say: a bare `5` is a number, a bare `5s` a string.
    fn as_in_file(&self) -> DeValue<'_> {
        match self {
            Self::Bare(text) => literal(text).unwrap_or_else(|| string(text)),
            Self::Quoted(text) => string(text),
        }
    }
}

/// PgBouncer's names of our settings.
#[derive(Clone, Copy, Debug)]
pub struct Alias {
    pub name: &'static str,
    pub key: &'static str,
    /// Its value is a number of seconds.
    pub seconds: bool,
}

const fn same(name: &'static str, key: &'static str) -> Alias {
    Alias { name, key, seconds: false }
}

const fn seconds(name: &'static str, key: &'static str) -> Alias {
    Alias { name, key, seconds: true }
}

/// All of them, in the order of SHOW CONFIG.
pub static ALIASES: [Alias; 13] = [
    same("max_client_conn", "listen.clients_max"),
    same("listen_addr", "listen.address"),
    same("listen_port", "listen.address"),
    same("unix_socket_dir", "listen.socket_dir"),
    seconds("client_login_timeout", "listen.login_timeout"),
    same("default_pool_size", "pool.size"),
    same("pool_mode", "pool.mode"),
    seconds("query_wait_timeout", "pool.wait_timeout"),
    seconds("server_idle_timeout", "pool.idle_timeout"),
    seconds("server_lifetime", "pool.lifetime"),
    seconds("server_connect_timeout", "pool.connect_timeout"),
    seconds("server_check_delay", "pool.check_delay"),
    same("max_prepared_statements", "pool.prepared_statements_max"),
];

impl Config {
    /// This configuration with one setting changed. `key` is the name of SHOW CONFIG: that of the file,
    /// or PgBouncer's with PgBouncer's unit.
    ///
    /// # Errors
    /// What the check of a file with that value says.
    pub fn with(&self, key: &str, value: &Written) -> Result<Self, Vec<Problem>> {
        self.with_in(key, value, &Surroundings::real())
    }

    /// `with` in the surroundings of a test.
    pub fn with_in(&self, key: &str, value: &Written, surroundings: &Surroundings<'_>) -> Result<Self, Vec<Problem>> {
        let (key, value) = in_our_words(key, value);
        if let Some(rest) = key.strip_prefix("user.")
            && !self.users.iter().any(|user| rest.strip_prefix(&user.name).is_some_and(|rest| rest.starts_with('.')))
        {
            return Err(vec![Problem { line: 0, text: unknown(&key) }]);
        }
        let read = |value: Written| {
            let mut source = self.source.clone();
            source.sets.retain(|(known, _)| *known != key);
            source.sets.push((key.clone(), value));
            Self::read_in(source, surroundings)
        };
        match read(value.clone()) {
            // PostgreSQL and PgBouncer take numbers in quotes.
            Err(_) if literal(value.text()).is_some() => read(Written::Bare(value.text().to_owned())),
            result => result,
        }
    }

    /// The name in the file of a setting that PgBouncer's users know under another.
    pub fn key_of(name: &str) -> &str {
        ALIASES.iter().find(|alias| alias.name == name).map_or(name, |alias| alias.key)
    }
}

fn in_our_words(name: &str, value: &Written) -> (String, Written) {
    match ALIASES.iter().find(|alias| alias.name == name) {
        Some(alias) if alias.seconds => {
            let seconds = value.text().parse::<f64>().ok().filter(|seconds| (0.0..1e6).contains(seconds));
            let in_ms = seconds.map(|seconds| Written::Bare(format!("{}ms", (seconds * 1000.0).round())));
            (alias.key.to_owned(), in_ms.unwrap_or_else(|| value.clone()))
        }
        Some(alias) => (alias.key.to_owned(), value.clone()),
        None => (name.to_owned(), value.clone()),
    }
}

fn unknown(key: &str) -> String {
    format!("there is no setting {key}; SHOW CONFIG lists them")
}

/// Puts what was SET into the text's tables. What has no place there is a problem.
pub(super) fn apply<'i>(source: &'i Source, root: &mut DeTable<'i>, surroundings: &Surroundings<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (key, value) in &source.sets {
        if put(root, key, value, surroundings).is_none() {
            problems.push(Problem { line: 0, text: unknown(key) });
        }
    }
    problems
}

fn put<'i>(root: &mut DeTable<'i>, key: &str, value: &'i Written, around: &Surroundings<'_>) -> Option<()> {
    match key.split_once('.')? {
        ("user", rest) => {
            if named(root, "user", rest, around).is_none() {
                add_user(root, rest)?;
            }
            let (user, rest) = named(root, "user", rest, around)?;
            put_below(user, &rest, value.as_in_file())
        }
        ("database", rest) => {
            let (database, rest) = named(root, "database", rest, around)?;
            put_in_database(database, &rest, value, around)
        }
        _ => put_below(root, key, value.as_in_file()),
    }
}

/// A `[[user]]` for somebody whom only a URL names.
fn add_user(root: &mut DeTable<'_>, rest: &str) -> Option<()> {
    let name = [".role", ".password", ".pool.mode", ".pool.size"].iter().find_map(|end| rest.strip_suffix(end))?;
    if !root.contains_key("user") {
        root.insert(spanned("user".into()), spanned(DeValue::Array(DeArray::new())));
    }
    let DeValue::Array(users) = root.get_mut("user")?.get_mut() else { return None };
    // A name stands for itself: nothing in it is replaced.
    let name = DeValue::String(name.replace("${", "$${").into());
    users.push(spanned(DeValue::Table([(spanned("name".into()), spanned(name))].into_iter().collect())));
    Some(())
}

fn put_in_database<'i>(
    database: &mut DeTable<'i>,
    key: &str,
    value: &'i Written,
    around: &Surroundings<'_>,
) -> Option<()> {
    if let Some(table) = key.strip_prefix("tables.") {
        let rule = rule(value.text())?;
        drop(below(database, "tables")?.insert(spanned(table.to_owned().into()), spanned(DeValue::Table(rule))));
        return Some(());
    }
    let Some(rest) = key.strip_prefix("shard.") else { return put_below(database, key, value.as_in_file()) };
    let (shard, rest) = match named(database, "shard", rest, around) {
        Some(found) => found,
        // The only shard needs no name in the file.
        None => (only(database, "shard")?, rest.strip_prefix("main.")?.to_owned()),
    };
    match rest.strip_prefix("replicas.") {
        None => put_below(shard, &rest, value.as_in_file()),
        Some(position) => {
            let DeValue::Array(replicas) = shard.get_mut("replicas")?.get_mut() else { return None };
            *replicas.get_mut(position.parse::<usize>().ok()?)? = spanned(value.as_in_file());
            Some(())
        }
    }
}

/// `key user_id`, `reference`, `local`, `local on a`: as SHOW CONFIG prints the rule of a table.
fn rule(text: &str) -> Option<DeTable<'_>> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let entries: Vec<(&str, &str)> = match words.as_slice() {
        ["key", column] => vec![("key", column)],
        ["reference"] => vec![("kind", "reference")],
        ["local"] => vec![("kind", "local")],
        ["local", "on", shard] => vec![("kind", "local"), ("shard", shard)],
        _ => return None,
    };
    Some(entries.into_iter().map(|(name, value)| (spanned(name.to_owned().into()), spanned(string(value)))).collect())
}

/// The element of `[[key]]` whose name `rest` begins with, and what follows the name.
fn named<'t, 'i>(
    table: &'t mut DeTable<'i>,
    key: &str,
    rest: &str,
    around: &Surroundings<'_>,
) -> Option<(&'t mut DeTable<'i>, String)> {
    let DeValue::Array(elements) = table.get_mut(key)?.get_mut() else { return None };
    let found = elements.iter_mut().filter_map(|element| {
        let DeValue::Table(element) = element.get_mut() else { return None };
        let name = around.expand(element.get("name")?.get_ref().as_str()?).ok()?;
        let rest = rest.strip_prefix(&name)?.strip_prefix('.')?.to_owned();
        Some((element, rest))
    });
    // Of `a` and `a.b` the longer name is meant.
    found.min_by_key(|(_, rest)| rest.len())
}

/// The element of `[[key]]`, if it is the only one.
fn only<'t, 'i>(table: &'t mut DeTable<'i>, key: &str) -> Option<&'t mut DeTable<'i>> {
    let DeValue::Array(elements) = table.get_mut(key)?.get_mut() else { return None };
    let mut elements = elements.iter_mut();
    match (elements.next()?.get_mut(), elements.next()) {
        (DeValue::Table(table), None) => Some(table),
        _ => None,
    }
}

fn put_below<'i>(mut table: &mut DeTable<'i>, path: &str, value: DeValue<'i>) -> Option<()> {
    let (sections, key) = path.rsplit_once('.').map_or((None, path), |(sections, key)| (Some(sections), key));
    for section in sections.into_iter().flat_map(|sections| sections.split('.')) {
        table = below(table, section)?;
    }
    drop(table.insert(spanned(key.to_owned().into()), spanned(value)));
    Some(())
}

/// The section of that name, made when it is not there.
fn below<'t, 'i>(table: &'t mut DeTable<'i>, section: &str) -> Option<&'t mut DeTable<'i>> {
    if !table.contains_key(section) {
        table.insert(spanned(section.to_owned().into()), spanned(DeValue::Table(DeTable::new())));
    }
    match table.get_mut(section)?.get_mut() {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}

/// A number or a truth value as it is written in the file.
fn literal(text: &str) -> Option<DeValue<'_>> {
    let value = DeValue::parse(text).ok()?.into_inner();
    matches!(value, DeValue::Integer(_) | DeValue::Boolean(_)).then_some(value)
}

fn string(text: &str) -> DeValue<'_> {
    DeValue::String(text.into())
}

/// What was not read from the text has no place in it.
fn spanned<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}
