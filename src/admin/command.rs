//! The console's language: text -> commands.
//!
//! The words are cut by `sqlparser`'s tokenizer; what they mean is decided here.

use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

use crate::admin::show::{SHOWS, Show};
use crate::config::{Role, Written};
use crate::protocol::ErrorFields;

/// Longest text of one query; it may hold a statement to be explained.
pub const QUERY_BYTES_MAX: usize = 1 << 20;

/// Commands in one query.
const COMMANDS_MAX: usize = 100;

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Show(&'static Show),
    /// The list of commands, as a notice.
    Help,
    /// A parameter that drivers ask for when they connect: its name and value.
    Parameter(&'static str, &'static str),
    /// An expression that drivers and tools probe a server with: the column and the value.
    Select(&'static str, &'static str),
    /// A parameter that drivers set when they connect; accepted and forgotten.
    Set,
    Control(Control),
    /// Where a statement would go.
    ExplainRoute {
        database: Option<String>,
        statement: String,
    },
}

/// What changes the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Lets transactions end and then gives no servers; of one database or of all.
    Pause(Option<String>),
    /// Messages of clients wait until RESUME.
    Suspend,
    Resume(Option<String>),
    /// Closes every server when it is next idle.
    Reconnect(Option<String>),
    /// Waits until no server is left that RECONNECT or RELOAD has made obsolete.
    WaitClose(Option<String>),
    /// Takes no new clients of a database; those that are there stay.
    Disable(String),
    Enable(String),
    /// Closes all clients and servers, in the middle of whatever they do; then as PAUSE.
    Kill(Option<String>),
    /// Closes one client, by its number in SHOW CLIENTS, and the servers it uses.
    KillClient(u64),
    Reload,
    /// Until RELOAD or restart. The key is a name of SHOW CONFIG.
    Set {
        key: String,
        value: Written,
    },
    Shutdown(Shutdown),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    Now,
    WaitForClients,
    WaitForServers,
}

impl Control {
    /// The command tag, as in PgBouncer.
    pub fn tag(&self) -> &'static str {
        match self {
            Self::Pause(_) => "PAUSE",
            Self::Suspend => "SUSPEND",
            Self::Resume(_) => "RESUME",
            Self::Reconnect(_) => "RECONNECT",
            Self::WaitClose(_) => "WAIT_CLOSE",
            Self::Disable(_) => "DISABLE",
            Self::Enable(_) => "ENABLE",
            Self::Kill(_) => "KILL",
            Self::KillClient(_) => "KILL_CLIENT",
            Self::Reload => "RELOAD",
            Self::Set { .. } => "SET",
            Self::Shutdown(_) => "SHUTDOWN",
        }
    }
}

impl Command {
    /// Whether a user with this role may say it.
    ///
    /// # Errors
    /// What the user is told.
    pub fn allow(&self, role: Role) -> Result<(), ErrorFields> {
        let needed = match self {
            Self::Control(_) => Role::Admin,
            Self::Show(_)
            | Self::Help
            | Self::Parameter(..)
            | Self::Select(..)
            | Self::Set
            | Self::ExplainRoute { .. } => Role::Stats,
        };
        if role >= needed {
            return Ok(());
        }
        Err(ErrorFields::error("42501", "permission denied for this command")
            .with_hint(format!("It needs a user with role = \"{}\" in the configuration.", needed.name())))
    }
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Stats => "stats",
            Self::Admin => "admin",
        }
    }
}

/// The commands that are not SHOW, with the text of SHOW HELP.
const OTHERS: [(&str, &str); 13] = [
    ("EXPLAIN ROUTE", "EXPLAIN ROUTE [FOR database] statement"),
    ("PAUSE", "PAUSE [database]"),
    ("SUSPEND", "SUSPEND"),
    ("RESUME", "RESUME [database]"),
    ("RECONNECT", "RECONNECT [database]"),
    ("WAIT_CLOSE", "WAIT_CLOSE [database]"),
    ("DISABLE", "DISABLE database"),
    ("ENABLE", "ENABLE database"),
    ("KILL", "KILL [database]"),
    ("KILL_CLIENT", "KILL_CLIENT id"),
    ("RELOAD", "RELOAD"),
    ("SHUTDOWN", "SHUTDOWN [WAIT_FOR_CLIENTS|WAIT_FOR_SERVERS]"),
    ("SET", "SET key = value (a key of SHOW CONFIG; until RELOAD)"),
];

/// Parameters that drivers and psql ask for, with the answers of a PostgreSQL that fits them.
const PARAMETERS: [(&str, &str); 11] = [
    ("client_encoding", "UTF8"),
    ("server_encoding", "UTF8"),
    ("default_transaction_isolation", "read committed"),
    ("transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("transaction_read_only", "off"),
    ("standard_conforming_strings", "on"),
    ("datestyle", "ISO, MDY"),
    ("timezone", "UTC"),
    ("integer_datetimes", "on"),
    ("search_path", ""),
];

/// Parameters that drivers set when they connect.
const SETTABLE: [&str; 8] = [
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "extra_float_digits",
    "standard_conforming_strings",
    "timezone",
];

/// The text of SHOW HELP.
pub fn help() -> String {
    let names: Vec<&str> = SHOWS.iter().map(|show| show.name).collect();
    let mut text = format!("Console usage\n\tSHOW HELP|{}", names.join("|"));
    for (_, usage) in OTHERS {
        text.push_str("\n\t");
        text.push_str(usage);
    }
    text
}

/// Reads one query: any number of commands with `;` between them.
///
/// # Errors
/// The first command that is none, with the nearest one that is.
pub fn parse(sql: &str) -> Result<Vec<Command>, ErrorFields> {
    if sql.len() > QUERY_BYTES_MAX {
        return Err(ErrorFields::error("54000", format!("a console query has at most {QUERY_BYTES_MAX} bytes")));
    }
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize_with_location();
    let tokens = tokens.map_err(|error| ErrorFields::error("42601", format!("syntax error: {error}")))?;
    let lines = Lines::new(sql);
    let mut commands = Vec::new();
    for tokens in tokens.split(|token| token.token == Token::SemiColon) {
        let words: Vec<Word<'_>> = tokens
            .iter()
            .filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF))
            .map(|token| Word::new(token, &lines))
            .collect();
        if let Some((first, rest)) = words.split_first() {
            commands.push(command(first, rest, sql)?);
        }
    }
    if commands.len() > COMMANDS_MAX {
        return Err(ErrorFields::error("54000", format!("a console query has at most {COMMANDS_MAX} commands")));
    }
    Ok(commands)
}

/// A token and where it is in the text.
struct Word<'a> {
    token: &'a Token,
    start: usize,
    end: usize,
}

impl<'a> Word<'a> {
    fn new(token: &'a TokenWithSpan, lines: &Lines<'_>) -> Self {
        Self { token: &token.token, start: lines.offset(token.span.start), end: lines.offset(token.span.end) }
    }

    /// Whether it is this keyword, in any case and unquoted.
    fn is(&self, keyword: &str) -> bool {
        matches!(self.token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(keyword))
    }

    /// A name: folded unless quoted; a string literal is taken as it is.
    fn name(&self) -> Option<String> {
        match self.token {
            Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_lowercase()),
            Token::Word(word) => Some(word.value.clone()),
            Token::SingleQuotedString(text) => Some(text.clone()),
            _ => None,
        }
    }
}

/// Turns the tokenizer's lines and columns (both from 1, in characters) into byte offsets.
struct Lines<'a> {
    sql: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(sql: &'a str) -> Self {
        let starts = std::iter::once(0).chain(sql.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { sql, starts }
    }

    fn offset(&self, location: Location) -> usize {
        let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).saturating_sub(1);
        let Some(&start) = self.starts.get(at(location.line)) else { return self.sql.len() };
        let line = &self.sql[start..];
        line.char_indices().nth(at(location.column)).map_or(self.sql.len(), |(offset, _)| start + offset)
    }
}

fn command(first: &Word<'_>, rest: &[Word<'_>], sql: &str) -> Result<Command, ErrorFields> {
    match first.token {
        _ if first.is("SHOW") => show(rest),
        _ if first.is("SET") => set(rest, sql),
        _ if first.is("SELECT") => select(rest),
        _ if first.is("EXPLAIN") => explain(rest, sql),
        _ => match change(first, rest)? {
            Some(control) => Ok(Command::Control(control)),
            None => {
                let known = OTHERS.iter().map(|(name, _)| *name).chain(["SHOW"]);
                Err(unknown("command", &first.token.to_string(), known))
            }
        },
    }
}

/// The commands that change the router.
fn change(first: &Word<'_>, rest: &[Word<'_>]) -> Result<Option<Control>, ErrorFields> {
    let control = |control| Ok(Some(control));
    match first.token {
        _ if first.is("PAUSE") => control(Control::Pause(database("PAUSE", rest)?)),
        _ if first.is("RESUME") => control(Control::Resume(database("RESUME", rest)?)),
        _ if first.is("RECONNECT") => control(Control::Reconnect(database("RECONNECT", rest)?)),
        _ if first.is("SUSPEND") && rest.is_empty() => control(Control::Suspend),
        _ if first.is("RELOAD") && rest.is_empty() => control(Control::Reload),
        _ if first.is("SHUTDOWN") => control(Control::Shutdown(shutdown(rest)?)),
        _ if first.is("WAIT_CLOSE") => control(Control::WaitClose(database("WAIT_CLOSE", rest)?)),
        _ if first.is("DISABLE") => control(Control::Disable(named("DISABLE", rest)?)),
        _ if first.is("ENABLE") => control(Control::Enable(named("ENABLE", rest)?)),
        _ if first.is("KILL") => control(Control::Kill(database("KILL", rest)?)),
        _ if first.is("KILL_CLIENT") => control(Control::KillClient(client(rest)?)),
        _ => Ok(None),
    }
}

fn show(words: &[Word<'_>]) -> Result<Command, ErrorFields> {
    let Some(first) = words.first() else { return Ok(Command::Help) };
    // `SHOW TRANSACTION ISOLATION LEVEL` and `SHOW TIME ZONE` are PostgreSQL's long names.
    let name = match words {
        [a, b, c] if a.is("TRANSACTION") && b.is("ISOLATION") && c.is("LEVEL") => "transaction_isolation".to_owned(),
        [a, b] if a.is("TIME") && b.is("ZONE") => "timezone".to_owned(),
        [only] => only.name().unwrap_or_else(|| only.token.to_string()),
        _ => return Err(usage(&format!("SHOW {}", first.token.to_string().to_uppercase()), "takes no more words")),
    };
    if name == "help" {
        return Ok(Command::Help);
    }
    if name == "fds" {
        let message = "SHOW FDS is not supported: sockets are not handed over to another process";
        return Err(ErrorFields::error("0A000", message).with_hint("SHOW SOCKETS lists all connections."));
    }
    if let Some(show) = SHOWS.iter().find(|show| show.name.eq_ignore_ascii_case(&name)) {
        return Ok(Command::Show(show));
    }
    if let Some((name, value)) = PARAMETERS.iter().find(|(known, _)| known.eq_ignore_ascii_case(&name)) {
        return Ok(Command::Parameter(name, value));
    }
    Err(unknown("SHOW", &name, SHOWS.iter().map(|show| show.name)))
}

/// What drivers set when they connect is taken and forgotten; everything else is a setting of the router.
fn set(words: &[Word<'_>], sql: &str) -> Result<Command, ErrorFields> {
    let wrong = || usage("SET", "is written SET key = value");
    let skip = words.first().is_some_and(|word| word.is("SESSION") || word.is("LOCAL"));
    let words = &words[usize::from(skip)..];
    match words {
        [a, b, _, ..] if a.is("TIME") && b.is("ZONE") => return Ok(Command::Set),
        [a, _, ..] if a.is("NAMES") => return Ok(Command::Set),
        _ => {}
    }
    let is_equal = |word: &Word<'_>| *word.token == Token::Eq || word.is("TO");
    let at = words.iter().position(is_equal).ok_or_else(wrong)?;
    let (key, value) = (&words[..at], &words[at + 1..]);
    let (Some(first), Some(last)) = (key.first(), key.last()) else { return Err(wrong()) };
    let key = match (key, first.name()) {
        ([_], Some(name)) => name,
        // A name in it may be that of a user or a database, with whatever letters.
        _ => sql[first.start..last.end].trim_end().to_owned(),
    };
    let (Some(first), Some(last)) = (value.first(), value.last()) else { return Err(wrong()) };
    if SETTABLE.contains(&key.to_lowercase().as_str()) {
        return Ok(Command::Set);
    }
    let value = match (value, first.token) {
        ([_], Token::SingleQuotedString(text)) => Written::Quoted(text.clone()),
        _ => Written::Bare(sql[first.start..last.end].trim_end().to_owned()),
    };
    Ok(Command::Control(Control::Set { key, value }))
}

/// The few expressions that drivers and tools probe a server with.
fn select(words: &[Word<'_>]) -> Result<Command, ErrorFields> {
    let text: String = words.iter().map(|word| word.token.to_string().to_lowercase()).collect();
    let text = text.strip_prefix("pg_catalog.").unwrap_or(&text);
    // PgBouncer takes SELECT for SHOW.
    if let Some(show) = SHOWS.iter().find(|show| show.name.eq_ignore_ascii_case(text)) {
        return Ok(Command::Show(show));
    }
    let version = concat!("PostgreSQL 17.0 (Sluice ", env!("CARGO_PKG_VERSION"), " console)");
    match text {
        "1" => Ok(Command::Select("?column?", "1")),
        "version()" => Ok(Command::Select("version", version)),
        "current_database()" => Ok(Command::Select("current_database", "sluice")),
        "current_schema()" => Ok(Command::Select("current_schema", "public")),
        "pg_is_in_recovery()" => Ok(Command::Select("pg_is_in_recovery", "f")),
        _ => Err(ErrorFields::error("0A000", "the console answers no queries")
            .with_hint("SHOW HELP lists its commands. Connect to one of your databases to run SQL.")),
    }
}

/// `ROUTE [FOR database] statement`, or with the database at the end.
fn explain(words: &[Word<'_>], sql: &str) -> Result<Command, ErrorFields> {
    let wrong = || usage("EXPLAIN", "is written EXPLAIN ROUTE [FOR database] statement");
    let mut words = words.strip_prefix_if(|word| word.is("ROUTE")).ok_or_else(wrong)?;
    let mut database = None;
    if let [keyword, name, rest @ ..] = words
        && keyword.is("FOR")
    {
        (database, words) = (Some(name.name().ok_or_else(wrong)?), rest);
    } else if let [rest @ .., keyword, name] = words
        && keyword.is("FOR")
        && !["UPDATE", "SHARE"].iter().any(|lock| name.is(lock))
        && let Some(name) = name.name()
    {
        (database, words) = (Some(name), rest);
    }
    let (Some(first), Some(last)) = (words.first(), words.last()) else { return Err(wrong()) };
    Ok(Command::ExplainRoute { database, statement: sql[first.start..last.end].trim_end().to_owned() })
}

trait StripPrefixIf<T> {
    fn strip_prefix_if(&self, wanted: impl FnOnce(&T) -> bool) -> Option<&[T]>;
}

impl<T> StripPrefixIf<T> for [T] {
    fn strip_prefix_if(&self, wanted: impl FnOnce(&T) -> bool) -> Option<&[T]> {
        self.split_first().filter(|(first, _)| wanted(first)).map(|(_, rest)| rest)
    }
}

/// An optional database after a command.
fn database(command: &str, words: &[Word<'_>]) -> Result<Option<String>, ErrorFields> {
    match words {
        [] => Ok(None),
        [only] => only.name().map(Some).ok_or_else(|| usage(command, "takes the name of a database")),
        _ => Err(usage(command, "takes at most one database")),
    }
}

/// The database that a command is about.
fn named(command: &str, words: &[Word<'_>]) -> Result<String, ErrorFields> {
    database(command, words)?.ok_or_else(|| usage(command, "takes the name of a database"))
}

/// The number of a client.
fn client(words: &[Word<'_>]) -> Result<u64, ErrorFields> {
    let id = match words {
        [only] => match only.token {
            Token::Number(digits, _) | Token::SingleQuotedString(digits) => digits.parse().ok(),
            _ => None,
        },
        _ => None,
    };
    id.ok_or_else(|| usage("KILL_CLIENT", "takes the number of a client, column id of SHOW CLIENTS"))
}

fn shutdown(words: &[Word<'_>]) -> Result<Shutdown, ErrorFields> {
    match words {
        [] => Ok(Shutdown::Now),
        [how] if how.is("WAIT_FOR_CLIENTS") => Ok(Shutdown::WaitForClients),
        [how] if how.is("WAIT_FOR_SERVERS") => Ok(Shutdown::WaitForServers),
        _ => Err(usage("SHUTDOWN", "takes WAIT_FOR_CLIENTS, WAIT_FOR_SERVERS or nothing")),
    }
}

fn usage(command: &str, rule: &str) -> ErrorFields {
    ErrorFields::error("42601", format!("{command} {rule}")).with_hint("SHOW HELP lists the commands.")
}

fn unknown<'a>(what: &str, given: &str, known: impl Iterator<Item = &'a str>) -> ErrorFields {
    let given = given.to_uppercase();
    let shown: String = given.chars().take(60).collect();
    let nearest = known.map(|name| (distance(&shown, name), name)).min();
    let message = match what {
        "SHOW" => format!("SHOW {shown} is not known"),
        _ => format!("{what} {shown} is not known"),
    };
    let hint = match nearest {
        Some((away, name)) if away <= 1 + shown.len() / 4 && what == "SHOW" => format!("Did you mean SHOW {name}?"),
        Some((away, name)) if away <= 1 + shown.len() / 4 => format!("Did you mean {name}?"),
        _ => "SHOW HELP lists the commands.".to_owned(),
    };
    ErrorFields::error("42601", message).with_hint(hint)
}

/// How many letters must be changed, added or left out.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in b.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(sql: &str) -> Command {
        let mut commands = parse(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        assert_eq!(commands.len(), 1, "{sql}");
        commands.remove(0)
    }

    fn refused(sql: &str) -> (String, String) {
        let error = parse(sql).expect_err(sql);
        (error.message.into_owned(), error.hint.map(std::borrow::Cow::into_owned).unwrap_or_default())
    }

    #[test]
    fn commands_are_read_in_any_case_and_several_at_once() {
        assert_eq!(one("pause App;"), Command::Control(Control::Pause(Some("app".into()))));
        assert_eq!(one("RESUME \"My App\""), Command::Control(Control::Resume(Some("My App".into()))));
        assert_eq!(one("/* now */ reload -- please"), Command::Control(Control::Reload));
        assert_eq!(one("shutdown wait_for_clients"), Command::Control(Control::Shutdown(Shutdown::WaitForClients)));
        assert_eq!(one("disable app"), Command::Control(Control::Disable("app".into())));
        assert_eq!(one("ENABLE \"My App\""), Command::Control(Control::Enable("My App".into())));
        assert_eq!(one("KILL"), Command::Control(Control::Kill(None)));
        assert_eq!(one("KILL app"), Command::Control(Control::Kill(Some("app".into()))));
        assert_eq!(one("kill_client 12"), Command::Control(Control::KillClient(12)));
        assert_eq!(one("WAIT_CLOSE"), Command::Control(Control::WaitClose(None)));
        assert_eq!(parse("SHOW POOLS; SHOW CLIENTS;;").expect("two").len(), 2);
        assert_eq!(parse(" ; -- ping").expect("none"), []);
        assert_eq!(one("show"), Command::Help);
    }

    #[test]
    fn drivers_get_what_they_probe_for() {
        assert_eq!(
            one("SHOW TRANSACTION ISOLATION LEVEL"),
            Command::Parameter("transaction_isolation", "read committed")
        );
        assert_eq!(one("show client_encoding"), Command::Parameter("client_encoding", "UTF8"));
        assert!(matches!(one("SELECT version()"), Command::Select("version", text) if text.starts_with("PostgreSQL ")));
        assert!(matches!(one("select pg_catalog.version();"), Command::Select("version", _)));
        for sql in ["SET extra_float_digits = 3", "set session application_name to 'x'", "SET DateStyle='ISO'"] {
            assert_eq!(one(sql), Command::Set, "{sql}");
        }
        assert!(matches!(one("SELECT pools"), Command::Show(show) if show.name == "POOLS"));
    }

    #[test]
    fn settings_are_set_under_any_of_their_names() {
        let set = |sql: &str| match one(sql) {
            Command::Control(Control::Set { key, value }) => (key, value),
            other => panic!("{sql}: {other:?}"),
        };
        let (bare, quoted) = (|text: &str| Written::Bare(text.into()), |text: &str| Written::Quoted(text.into()));
        assert_eq!(set("SET pool.size = 7"), ("pool.size".into(), bare("7")));
        assert_eq!(set("set default_pool_size to '7' ;"), ("default_pool_size".into(), quoted("7")));
        assert_eq!(set("SET pool.wait_timeout = 5s -- x"), ("pool.wait_timeout".into(), bare("5s")));
        assert_eq!(set("SET user.My-App.pool.size=7"), ("user.My-App.pool.size".into(), bare("7")));
        assert_eq!(set("SET \"user.a b.role\" = 'admin'"), ("user.a b.role".into(), quoted("admin")));
        assert_eq!(set("SET log.level = 'it''s'").1, quoted("it's"));
        let password = one("SET user.app.password = 'secret'");
        assert!(!format!("{password:?}").contains("secret"));
        for sql in ["SET", "SET pool.size", "SET pool.size =", "SET = 7"] {
            assert_eq!(refused(sql).0, "SET is written SET key = value", "{sql}");
        }
    }

    #[test]
    fn an_explained_statement_keeps_its_text() {
        let explain = |database: Option<&str>, statement: &str| Command::ExplainRoute {
            database: database.map(str::to_owned),
            statement: statement.to_owned(),
        };
        let text = "SELECT 'é; x',\n  \"B\" FROM t -- c\n WHERE id = $1";
        assert_eq!(one(&format!("EXPLAIN ROUTE {text}")), explain(None, text));
        assert_eq!(one(&format!("explain route for app {text} ;")), explain(Some("app"), text));
        assert_eq!(one("EXPLAIN ROUTE SELECT 1 FOR app"), explain(Some("app"), "SELECT 1"));
        assert_eq!(one("EXPLAIN ROUTE SELECT 1 FROM t FOR UPDATE"), explain(None, "SELECT 1 FROM t FOR UPDATE"));
        assert!(parse("EXPLAIN SELECT 1").is_err());
        assert!(parse("EXPLAIN ROUTE").is_err());
    }

    #[test]
    fn unknown_commands_name_the_nearest() {
        assert_eq!(refused("SHOW POLLS"), ("SHOW POLLS is not known".into(), "Did you mean SHOW POOLS?".into()));
        assert_eq!(refused("pauze"), ("command PAUZE is not known".into(), "Did you mean PAUSE?".into()));
        assert_eq!(refused("SHOW xyzzy plugh").0, "SHOW XYZZY takes no more words");
        assert_eq!(refused("DISABLE").0, "DISABLE takes the name of a database");
        for sql in ["KILL_CLIENT", "KILL_CLIENT app", "KILL_CLIENT -1", "KILL_CLIENT 1 2"] {
            assert!(refused(sql).0.contains("takes the number of a client"), "{sql}");
        }
        assert_eq!(one("suspend"), Command::Control(Control::Suspend));
        assert!(refused("SHOW FDS").1.contains("SHOW SOCKETS"));
        assert_eq!(refused("frobnicate everything").1, "SHOW HELP lists the commands.");
        assert!(refused("SELECT * FROM users").1.contains("SHOW HELP"));
        assert!(parse("SHOW 'unclosed").is_err());
        assert!(parse(&"x".repeat(QUERY_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn roles_are_obeyed() {
        for (sql, stats) in [
            ("SHOW POOLS", true),
            ("SHOW PINS", true),
            ("SET client_encoding = 'UTF8'", true),
            ("PAUSE", false),
            ("KILL_CLIENT 1", false),
            ("KILL app", false),
            ("DISABLE app", false),
            ("ENABLE app", false),
            ("WAIT_CLOSE", false),
            ("SHUTDOWN", false),
            ("SET pool.size = 7", false),
        ] {
            let command = one(sql);
            assert!(command.allow(Role::Admin).is_ok(), "{sql}");
            assert_eq!(command.allow(Role::Stats).is_ok(), stats, "{sql}");
            assert!(command.allow(Role::App).is_err(), "{sql}");
        }
    }
}
