//! `sluice report`: how the statements of an application would be answered over several shards, before anybody shards.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use pgsluice_sharding::catalog::Catalog;
use pgsluice_sharding::plan::{KeyValue, Plan, Shards};
use pgsluice_sharding::sql::shape::{Shape, shorten};
use pgsluice_sharding::sql::{Command, Limits, Planner, Statement};
use tokio_postgres::SimpleQueryMessage;

use super::explain::choose;
use super::{Source, runtime};
use crate::catalog;
use crate::config::{Config, Database};
use crate::router::catalog_shard;

/// So many statements of each bad kind are shown.
const OFFENDERS: usize = 10;
/// Of a long statement only so many characters are shown.
const STATEMENT_SHOWN: usize = 160;

/// The statements that PostgreSQL has counted in the database of the connection, wherever the extension is.
const COUNTED: &str = "\
SELECT s.calls, s.query FROM pg_stat_statements s JOIN pg_catalog.pg_database d ON d.oid = s.dbid \
WHERE d.datname = pg_catalog.current_database()";

#[derive(Args)]
pub(super) struct ReportArguments {
    /// A PostgreSQL log (log_statement = 'all', or log_min_duration_statement), or a file of SQL; without it, pg_stat_statements of the first shard's primary
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// As if the database had so many shards [default: as many as are configured, 2 at least]
    #[arg(long, value_parser = clap::value_parser!(u16).range(2..=1024))]
    shards: Option<u16>,
    /// Take the tables from this file of CREATE TABLE statements instead of asking the first shard
    #[arg(long, value_name = "FILE.sql")]
    schema: Option<PathBuf>,
    /// Which database, if the configuration has several
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    #[command(flatten)]
    source: Source,
}

/// The report as text.
pub(super) fn text(arguments: &ReportArguments) -> Result<String, String> {
    let config = arguments.source.load()?;
    let database = choose(&config, arguments.database.as_deref())?;
    let configured = u16::try_from(database.shards.len()).unwrap_or(u16::MAX);
    let shards = arguments.shards.unwrap_or(configured.max(2));
    let catalog = match &arguments.schema {
        Some(file) => {
            Catalog::from_ddl(&read(file)?, &database.rules, shards).map_err(|refusal| refusal.to_string())?
        }
        None => runtime()?.block_on(tables(&config, database, shards))?,
    };
    let statements = match &arguments.file {
        Some(file) => of_file(&read(file)?),
        None => runtime()?.block_on(counted(&config, database))?,
    };
    let limits = Limits { statement_bytes_max: config.limits.statement_bytes_max, ..Limits::default() };
    Ok(Report::of(&mut Planner::new(limits), &catalog, statements).to_text())
}

fn read(file: &Path) -> Result<String, String> {
    fs::read(file)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .map_err(|error| format!("{}: {error}", file.display()))
}

async fn tables(config: &Config, database: &Database, shards: u16) -> Result<Catalog, String> {
    let client = first_primary(config, database).await?;
    let loaded = catalog::load(&client, &database.rules, shards, 1).await.map_err(|error| error.to_string())?;
    Ok(loaded.catalog)
}

async fn first_primary(config: &Config, database: &Database) -> Result<deadpool_postgres::Object, String> {
    let shard = database.shards.first().and_then(|shard| catalog_shard(shard, config));
    let shard = shard.ok_or_else(|| format!("database {} has no shard to ask", database.name))?;
    shard.primary.get().await.map_err(|error| format!("the primary of shard {}: {error}", shard.name))
}

async fn counted(config: &Config, database: &Database) -> Result<Vec<Counted>, String> {
    let client = first_primary(config, database).await?;
    let rows = client.simple_query(COUNTED).await.map_err(|error| {
        let reason = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
        format!(
            "{reason}\nHINT: CREATE EXTENSION pg_stat_statements (it must be in shared_preload_libraries), or give a log file."
        )
    })?;
    let statements = rows.iter().filter_map(|message| {
        let SimpleQueryMessage::Row(row) = message else { return None };
        Some(Counted { text: row.get(1)?.to_owned(), calls: row.get(0)?.parse().ok()? })
    });
    Ok(statements.collect())
}

/// A text and how often it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Counted {
    text: String,
    calls: u64,
}

/// The statements of a log, or of a file of SQL when it is none.
fn of_file(content: &str) -> Vec<Counted> {
    let logged = of_log(content);
    let texts = if logged.is_empty() { vec![content.to_owned()] } else { logged };
    texts.into_iter().map(|text| Counted { text, calls: 1 }).collect()
}

/// What stands behind `statement:` and `execute name:`; the lines of a statement that follow begin with a tab.
fn of_log(content: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut open = false;
    for line in content.lines() {
        if let Some(rest) = line.strip_prefix('\t').filter(|_| open) {
            if let Some(last) = found.last_mut() {
                last.push('\n');
                last.push_str(rest);
            }
            continue;
        }
        let statement = logged_statement(line);
        open = statement.is_some();
        found.extend(statement.map(str::to_owned));
    }
    found
}

fn logged_statement(line: &str) -> Option<&str> {
    let (_, message) = line.split_once("LOG:  ")?;
    let message = match message.strip_prefix("duration: ") {
        Some(duration) => duration.split_once("  ")?.1,
        None => message,
    };
    match message.strip_prefix("execute ") {
        Some(named) => named.split_once(": ").map(|(_, sql)| sql),
        None => message.strip_prefix("statement: "),
    }
}

/// How a statement is answered over several shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Way {
    OneShard,
    Merged,
    Final,
    Written,
    EveryShard,
    Router,
    OneOrRefused,
    Refused,
}

impl Way {
    const ALL: [Self; 8] = [
        Self::OneShard,
        Self::Merged,
        Self::Final,
        Self::Written,
        Self::EveryShard,
        Self::Router,
        Self::OneOrRefused,
        Self::Refused,
    ];

    fn of(statement: &Statement) -> Self {
        match &statement.plan {
            Plan::Route { shards: Shards::Keys { keys, .. }, many: Some(_) } if may_differ(keys) => Self::OneOrRefused,
            Plan::Route { shards: Shards::Home { .. }, many: Some(_) } => Self::OneOrRefused,
            Plan::Route { .. } | Plan::Computed(_) => Self::OneShard,
            Plan::Gather(_) => Self::Merged,
            Plan::Final(_) => Self::Final,
            Plan::Write(_) => Self::Written,
            Plan::Broadcast(_) | Plan::CopyFrom(_) | Plan::CopyTo { .. } | Plan::CopyQuery(_) => Self::EveryShard,
            Plan::Session => Self::Router,
            Plan::Refused(_) => Self::Refused,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::OneShard => "one shard, untouched",
            Self::Merged => "several shards, merged",
            Self::Final => "several shards, finished by PostgreSQL",
            Self::Written => "several shards, written on all or none",
            Self::EveryShard => "every shard: DDL, COPY",
            Self::Router => "the router: BEGIN, SET ...",
            Self::OneOrRefused => "one shard if its keys agree, else refused",
            Self::Refused => "refused",
        }
    }
}

fn may_differ(keys: &[KeyValue]) -> bool {
    !matches!(keys, [key] if !matches!(key, KeyValue::ParamElements(_)))
}

/// A kind of statement.
struct Kind {
    way: Way,
    calls: u64,
    example: String,
    reason: String,
}

struct Report {
    shards: u16,
    kinds: Vec<Kind>,
    /// Calls of texts that do not parse.
    unreadable: u64,
}

impl Report {
    fn of(planner: &mut Planner, catalog: &Catalog, statements: Vec<Counted>) -> Self {
        let mut report = Self { shards: catalog.shards, kinds: Vec::new(), unreadable: 0 };
        let mut known: HashMap<u64, usize> = HashMap::new();
        for Counted { text, calls } in statements {
            let Ok(script) = planner.plan(catalog, None, &text) else {
                report.unreadable += calls;
                continue;
            };
            for statement in script.statements.iter().filter(|statement| statement.command != Command::Empty) {
                let shape = Shape::of(&text[statement.span.clone()]);
                let way = Way::of(statement);
                let at = *known.entry(shape.id).or_insert_with(|| {
                    let example = shorten(shape.text.into(), STATEMENT_SHOWN);
                    report.kinds.push(Kind { way, calls: 0, example, reason: reason(statement) });
                    report.kinds.len() - 1
                });
                report.kinds[at].calls += calls;
            }
        }
        report.kinds.sort_by_key(|kind| std::cmp::Reverse(kind.calls));
        report
    }

    fn to_text(&self) -> String {
        let total: u64 = self.kinds.iter().map(|kind| kind.calls).sum();
        let mut text =
            format!("{} kinds of statement, {total} calls, over {} shards\n\n", self.kinds.len(), self.shards);
        for way in Way::ALL {
            let of_way = || self.kinds.iter().filter(|kind| kind.way == way);
            let (calls, kinds) = (of_way().map(|kind| kind.calls).sum::<u64>(), of_way().count());
            let tenths = calls.saturating_mul(1000).checked_div(total).unwrap_or(0);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{:<42}{:>4}.{} %{calls:>12} calls{kinds:>7} kinds",
                way.name(),
                tenths / 10,
                tenths % 10
            );
        }
        if self.unreadable > 0 {
            let _ = writeln!(text, "{} calls of texts that are no SQL are left out", self.unreadable);
        }
        for way in [Way::Refused, Way::OneOrRefused, Way::Final] {
            let mut worst = self.kinds.iter().filter(|kind| kind.way == way).take(OFFENDERS).peekable();
            if worst.peek().is_some() {
                let _ = write!(text, "\n{}, most called first:\n", way.name());
            }
            for kind in worst {
                let _ = writeln!(text, "{:>10} calls  {}", kind.calls, kind.example);
                if !kind.reason.is_empty() {
                    let _ = writeln!(text, "{:>16}  {}", "", kind.reason);
                }
            }
        }
        text
    }
}

fn reason(statement: &Statement) -> String {
    match &statement.plan {
        Plan::Refused(refusal) | Plan::Route { many: Some(refusal), .. } => {
            let hint = refusal.hint.as_ref().map(|hint| format!(" {hint}")).unwrap_or_default();
            format!("{}.{hint}", refusal.message)
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use pgsluice_sharding::catalog::TableRules;

    use super::*;

    fn report(statements: &[(&str, u64)]) -> String {
        let rules = TableRules { sharding_key: Some("user_id".into()), ..TableRules::default() };
        let catalog = Catalog::from_ddl("CREATE TABLE orders (user_id bigint NOT NULL, total numeric)", &rules, 4);
        let statements = statements.iter().map(|(text, calls)| Counted { text: (*text).into(), calls: *calls });
        Report::of(&mut Planner::new(Limits::default()), &catalog.unwrap(), statements.collect()).to_text()
    }

    #[test]
    fn every_way_has_its_share() {
        let text = report(&[
            ("SELECT * FROM orders WHERE user_id = $1", 700),
            ("SELECT * FROM orders WHERE user_id = 7", 100),
            ("SELECT * FROM orders WHERE user_id = 8;", 50),
            ("SELECT sum(total) FROM orders", 50),
            ("SELECT string_agg(total::text, ',') FROM orders", 40),
            ("BEGIN; SELECT ctid FROM orders WHERE user_id IN ($1, $2); COMMIT", 10),
            ("SELECT ctid FROM orders", 15),
            ("UPDATE orders SET total = 0", 5),
            ("TRUNCATE orders", 10),
            ("no SQL", 3),
        ]);
        let expected = "\
10 kinds of statement, 1000 calls, over 4 shards

one shard, untouched                        85.0 %         850 calls      2 kinds
several shards, merged                       5.0 %          50 calls      1 kinds
several shards, finished by PostgreSQL       4.0 %          40 calls      1 kinds
several shards, written on all or none       0.5 %           5 calls      1 kinds
every shard: DDL, COPY                       1.0 %          10 calls      1 kinds
the router: BEGIN, SET ...                   2.0 %          20 calls      2 kinds
one shard if its keys agree, else refused    1.0 %          10 calls      1 kinds
refused                                      1.5 %          15 calls      1 kinds
3 calls of texts that are no SQL are left out

refused, most called first:
        15 calls  SELECT ctid FROM orders
                  system column ctid would give another value on every shard. Pass the value as a parameter, or compare the sharding key with a value, so that one shard can answer.

one shard if its keys agree, else refused, most called first:
        10 calls  SELECT ctid FROM orders WHERE user_id IN ($1, $2)
                  system column ctid would give another value on every shard. Pass the value as a parameter, or compare the sharding key with a value, so that one shard can answer.

several shards, finished by PostgreSQL, most called first:
        40 calls  SELECT string_agg(total::text, $1) FROM orders
";
        assert_eq!(text, expected, "{text}");
    }

    #[test]
    fn logs_of_every_setting_are_read() {
        let log = "\
2026-01-01 10:00:00 UTC [1] LOG:  statement: SELECT 1
2026-01-01 10:00:00 UTC [1] app@db LOG:  execute <unnamed>: SELECT *
\tFROM orders
\tWHERE user_id = $1
2026-01-01 10:00:00 UTC [1] DETAIL:  parameters: $1 = '7'
\tnot a statement
2026-01-01 10:00:00 UTC [1] LOG:  duration: 1.234 ms  execute s1: SELECT 2
2026-01-01 10:00:00 UTC [1] LOG:  duration: 0.1 ms  parse s1: SELECT 2
2026-01-01 10:00:00 UTC [1] LOG:  checkpoint complete";
        assert_eq!(of_log(log), ["SELECT 1", "SELECT *\nFROM orders\nWHERE user_id = $1", "SELECT 2"]);
        assert_eq!(of_file("SELECT 1; SELECT 2"), [Counted { text: "SELECT 1; SELECT 2".into(), calls: 1 }]);
    }
}
