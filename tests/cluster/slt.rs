//! `tests/sql/*.slt`: the same statements on one plain PostgreSQL and through the router over one,
//! two and three shards, some over four. PostgreSQL is the judge: nothing of what it should answer is written down.
//!
//! - `statement ok` must succeed on PostgreSQL, `statement error` must fail there.
//! - `query` must succeed; its rows are compared in order when the statement ends with its own
//!   `ORDER BY`, and as a set otherwise or with `query T rowsort`.
//! - `# refused` above a record: several shards must refuse it with 0A000; one shard must not.
//! - `# ordered` above a record: its rows have an order without `ORDER BY`, which is compared.
//! - `# since 16` above a record: older servers do not know it; it is left out there.
//! - `# text` above a record asks for results as text: binary ones name types by numbers of one database.
//! - `# $1 = text` above a record gives a parameter; NULL is the word.
//! - The lines under `----` are the data of a `COPY ... FROM STDIN`.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use sqllogictest::DefaultColumnType;
use sqllogictest::parser::{Connection, QueryExpect, Record, SortMode, StatementExpect, parse_file};

use crate::support::running::{RULES, Running, SMALL, database_config, databases, shared, superuser};
use crate::support::wire::{Answer, Row, Wire};

const MISMATCHES_SHOWN: usize = 12;
const ROWS_SHOWN: usize = 12;
/// Types made by CREATE have numbers from here on.
const FIRST_OWN_OID: u32 = 16384;

/// Files with writes that read on other shards: what they read is kept in memory.
const READ_ELSEWHERE: [&str; 8] =
    ["conflict_order", "made_tables", "many_rows", "moved_rows", "reference", "spread_writes", "staged", "write_traps"];

/// Files whose rows come together from many places.
const SPREAD_WIDELY: [&str; 1] = ["conflict_order"];

macro_rules! files {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            run_file(stringify!($name));
        })*

        const FILES: &[&str] = &[$(stringify!($name)),*];
    };
}

files! {
    aggregates,
    clocks,
    collations,
    conflict_order,
    ddl,
    empty,
    errors,
    extremes,
    filled,
    final_query,
    grouping,
    groups,
    home,
    ids,
    joins,
    keys,
    kinds,
    locals,
    made_tables,
    many_rows,
    merging,
    migrations,
    moved_rows,
    names,
    newer_copy,
    ordering,
    parameters,
    point,
    reduction,
    reference,
    refusals,
    rows_as_arrays,
    seams,
    sessions,
    snapshots,
    spread_writes,
    staged,
    stored,
    subqueries,
    tables,
    transactions,
    views,
    write_traps,
    writes,
}

#[test]
fn every_file_is_run() {
    let entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.extension().is_some_and(|extension| extension == "slt"));
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(FILES.contains(&name.as_str()), "{name}.slt is in no test");
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql")
}

/// What is done with one record of a file.
struct Step {
    place: String,
    connection: String,
    sql: String,
    parameters: Vec<Option<String>>,
    copy: String,
    expect: Expect,
    ordered: bool,
    refused: bool,
    results: Results,
}

#[derive(Clone, Copy, PartialEq)]
enum Expect {
    Success,
    Error,
}

/// How the extended protocol is asked for results.
#[derive(Clone, Copy, PartialEq)]
enum Results {
    Binary,
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Protocol {
    Simple,
    Extended,
}

fn run_file(name: &str) {
    let steps = read(name);
    let mut mismatches = Vec::new();
    for protocol in [Protocol::Simple, Protocol::Extended] {
        let plain = databases(name, 1);
        let judge = run(shared().port(), &plain[0], &steps, protocol, false);
        check_the_file(&steps, &judge);
        for (shards, limits) in [(1, ""), (2, ""), (3, ""), (4, ""), (2, SMALL)] {
            if limits == SMALL && READ_ELSEWHERE.contains(&name) || shards == 4 && !SPREAD_WIDELY.contains(&name) {
                continue;
            }
            let over = databases(name, shards);
            let router = router(&over, limits);
            let answers = run(router.port, "app", &steps, protocol, shards > 1);
            for ((step, expected), got) in steps.iter().zip(&judge).zip(&answers) {
                if let Some(difference) = compare(step, expected, got, shards) {
                    mismatches.push(format!(
                        "{}, {protocol:?}, {shards} shards {limits}:\n{}\n{difference}",
                        step.place, step.sql
                    ));
                }
            }
        }
        drop_databases(name);
    }
    let shown = &mismatches[..mismatches.len().min(MISMATCHES_SHOWN)];
    assert!(mismatches.is_empty(), "{} differences, the first:\n\n{}", mismatches.len(), shown.join("\n\n"));
}

/// A router with the usual rules, and a local table on the last shard.
fn router(over: &[String], limits: &str) -> Running {
    let last = over.last().unwrap();
    let rules = format!("{RULES}tables.far_log = {{ kind = \"local\", shard = \"{last}\" }}\n");
    let router = Running::start(&format!("{limits}{}", database_config(shared(), over, &rules)));
    router.wait_until_ready();
    router
}

/// The next protocol's databases take their place.
fn drop_databases(name: &str) {
    let mut wire = superuser(shared(), "postgres");
    let list = format!("SELECT datname FROM pg_database WHERE datname ~ '^{name}_\\d+_\\d+$'");
    for database in wire.text(&list).lines() {
        wire.query(&format!("DROP DATABASE {database} WITH (FORCE)"));
    }
}

fn read(name: &str) -> Vec<Step> {
    let records = parse_file::<DefaultColumnType>(folder().join(format!("{name}.slt"))).unwrap();
    let version: u32 = superuser(shared(), "postgres").text("SHOW server_version_num").parse().unwrap();
    let is_newer = |note: &String| {
        let since = note.strip_prefix("since ").and_then(|since| since.parse::<u32>().ok());
        since.is_some_and(|since| since > version / 10_000)
    };
    let mut notes: Vec<String> = Vec::new();
    let mut steps = Vec::new();
    for record in records {
        if notes.iter().any(is_newer) && matches!(record, Record::Statement { .. } | Record::Query { .. }) {
            notes.clear();
            continue;
        }
        match record {
            Record::Comment(lines) => notes = lines.iter().map(|line| line.trim().to_owned()).collect(),
            Record::Newline => notes.clear(),
            Record::Connection(_) => {}
            Record::Statement { loc, connection, sql, expected, .. } => {
                let expect = match expected {
                    StatementExpect::Error(_) => Expect::Error,
                    StatementExpect::Ok | StatementExpect::Count(_) => Expect::Success,
                };
                steps.push(step(loc.to_string(), &connection, sql, &std::mem::take(&mut notes), expect));
            }
            Record::Query { loc, connection, sql, expected, .. } => {
                let mut step = step(loc.to_string(), &connection, sql, &std::mem::take(&mut notes), Expect::Success);
                match expected {
                    QueryExpect::Results { sort_mode, results, .. } => {
                        step.ordered &= sort_mode != Some(SortMode::RowSort);
                        step.copy = results.iter().map(|line| format!("{line}\n")).collect();
                    }
                    QueryExpect::Error(_) => step.expect = Expect::Error,
                }
                steps.push(step);
            }
            _ => {}
        }
    }
    steps
}

fn step(place: String, connection: &Connection, sql: String, notes: &[String], expect: Expect) -> Step {
    let mut parameters = Vec::new();
    for note in notes {
        if let Some((name, value)) = note.split_once(" = ")
            && name.starts_with('$')
        {
            parameters.push((value != "NULL").then(|| value.to_owned()));
        }
    }
    let connection = match connection {
        Connection::Default => String::new(),
        Connection::Named(name) => name.clone(),
    };
    let refused = notes.iter().any(|note| note == "refused");
    let results = if notes.iter().any(|note| note == "text") { Results::Text } else { Results::Binary };
    let ordered = has_own_order(&sql) || notes.iter().any(|note| note == "ordered");
    let place = place.rsplit('/').next().unwrap_or_default().to_owned();
    Step { place, connection, sql, parameters, copy: String::new(), expect, ordered, refused, results }
}

/// Whether `ORDER BY` stands outside of all parentheses.
fn has_own_order(sql: &str) -> bool {
    let mut depth = 0;
    let mut outside = String::new();
    for letter in sql.to_lowercase().chars() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth == 0 => outside.push(letter),
            _ => {}
        }
    }
    outside.split_whitespace().collect::<Vec<_>>().join(" ").contains("order by")
}

/// Runs all steps on fresh connections, one for each name.
fn run(port: u16, database: &str, steps: &[Step], protocol: Protocol, sharded: bool) -> Vec<Answer> {
    let mut connections: HashMap<&str, (Wire, u8)> = HashMap::new();
    let mut answers = Vec::new();
    for step in steps {
        let (wire, status) = connections.entry(&step.connection).or_insert_with(|| (connect(port, database), b'I'));
        // What several shards refuse must not have happened elsewhere either.
        let undo = step.refused && !sharded && *status == b'I';
        if undo {
            wire.query("BEGIN");
        }
        let answer = without_own_types(ask(wire, step, protocol));
        *status = answer.status;
        if answer.status == 0 {
            // The connection is lost; nothing after this means anything.
            answers.push(answer);
            break;
        }
        if undo {
            wire.query("ROLLBACK");
            *status = b'I';
        }
        answers.push(answer);
    }
    answers
}

fn connect(port: u16, database: &str) -> Wire {
    let parameters = [("user", "app"), ("database", database), ("application_name", "slt")];
    Wire::try_connect(port, &parameters).unwrap()
}

/// Every database numbers its own types.
fn without_own_types(mut answer: Answer) -> Answer {
    for column in answer.results.iter_mut().filter_map(|result| result.columns.as_mut()).flatten() {
        column.type_oid = column.type_oid.min(FIRST_OWN_OID);
    }
    answer
}

fn ask(wire: &mut Wire, step: &Step, protocol: Protocol) -> Answer {
    if !step.copy.is_empty() {
        return wire.copy(&step.sql, step.copy.as_bytes());
    }
    let several = step.sql.trim_end().trim_end_matches(';').contains(';');
    if protocol == Protocol::Extended && !several {
        let parameters: Vec<Option<&str>> = step.parameters.iter().map(Option::as_deref).collect();
        return wire.execute(&step.sql, &parameters, step.results == Results::Binary);
    }
    let mut sql = step.sql.clone();
    for (n, parameter) in step.parameters.iter().enumerate().rev() {
        let literal = match parameter {
            None => "NULL".to_owned(),
            Some(text) if text.parse::<i64>().is_ok() => text.clone(),
            Some(text) => format!("'{}'", text.replace('\'', "''")),
        };
        sql = sql.replace(&format!("${}", n + 1), &literal);
    }
    wire.query(&sql)
}

/// A file that says what PostgreSQL does not do is wrong itself.
fn check_the_file(steps: &[Step], judge: &[Answer]) {
    let wrong =
        steps.iter().zip(judge).filter(|(step, answer)| answer.error.is_some() != (step.expect == Expect::Error));
    let wrong: Vec<String> =
        wrong.map(|(step, answer)| format!("{}:\n{}\n{:?}", step.place, step.sql, answer.error)).collect();
    assert!(
        wrong.is_empty() && steps.len() == judge.len(),
        "PostgreSQL itself does otherwise:\n{}",
        wrong.join("\n\n")
    );
}

/// What differs from the judge's answer, if anything.
fn compare(step: &Step, expected: &Answer, got: &Answer, shards: usize) -> Option<String> {
    if step.refused && shards > 1 {
        return (got.sqlstate() != "0A000").then(|| format!("not refused: {}", show(got)));
    }
    if expected.sqlstate() != got.sqlstate() {
        return Some(format!("expected {:?}\ngot      {:?}", expected.error, got.error));
    }
    if expected.error.is_some() && expected.status == got.status {
        // How many rows came before the error is not a promise of PostgreSQL's either.
        return None;
    }
    let same = expected.status == got.status
        && expected.copied == got.copied
        && expected.results.len() == got.results.len()
        && expected.results.iter().zip(&got.results).all(|(expected, got)| {
            expected.tag == got.tag
                && expected.columns == got.columns
                && rows(&expected.rows, step.ordered) == rows(&got.rows, step.ordered)
        });
    (!same).then(|| format!("expected {}\ngot      {}", show(expected), show(got)))
}

fn rows(rows: &[Row], ordered: bool) -> Vec<&Row> {
    let mut rows: Vec<&Row> = rows.iter().collect();
    if !ordered {
        rows.sort();
    }
    rows
}

fn show(answer: &Answer) -> String {
    let mut text = String::new();
    for result in &answer.results {
        let columns = result.columns.iter().flatten();
        let columns: Vec<String> = columns.map(|c| format!("{}:{}:{}", c.name, c.type_oid, c.typmod)).collect();
        writeln!(text, "{} [{}]", result.tag, columns.join(", ")).unwrap();
        for row in result.rows.iter().take(ROWS_SHOWN) {
            let values: Vec<String> = row.iter().map(|value| show_value(value.as_deref())).collect();
            writeln!(text, "    {}", values.join(" | ")).unwrap();
        }
    }
    if let Some(error) = &answer.error {
        writeln!(text, "{error:?}").unwrap();
    }
    write!(text, "status {}", char::from(answer.status)).unwrap();
    text
}

fn show_value(value: Option<&[u8]>) -> String {
    match value {
        None => "NULL".to_owned(),
        Some(bytes) if bytes.iter().all(|byte| (32..127).contains(byte)) => String::from_utf8_lossy(bytes).into_owned(),
        Some(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
