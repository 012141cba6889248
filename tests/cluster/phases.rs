//! Every golden plan that is merged, built with every subset of the phases: run on real shards, each tree gives the rows that one
//! PostgreSQL gives.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use pgsluice_sharding::catalog::{Catalog, DefaultKind, TableRule, TableRules};
use pgsluice_sharding::key::{Format, Input};
use pgsluice_sharding::merge::{ColumnType, Merge, MergeLimits, Progress, ShardInput};
use pgsluice_sharding::plan::{Gather, Phase, Plan, build_with};
use pgsluice_sharding::sql::Command;
use pgsluice_sharding::{Key, Refusal, ShardId, ShardMap};

use crate::support::running::{databases, shared};
use crate::support::wire::{Answer, Column, Row, Wire, bind, execute, message, parse, sync};

const SHARDS: u16 = 3;
const DIFFERENCES_SHOWN: usize = 6;
/// What every merge may keep, in bytes.
const MEMORY_MAX: usize = 16 << 20;

/// The golden statements that leave a choice even where no two rows have equal values: only how many rows they give is compared.
const CHOOSE: [&str; 3] =
    ["SELECT DISTINCT ON (p, u.country)", "SELECT DISTINCT ON (1)", "SELECT * FROM posts ORDER BY created_at LIMIT"];

/// What the columns of the tables hold.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Values {
    /// No two rows agree in a column that is no group, one of which is NULL, and no two groups have the same size, so that every order is total.
    Unlike,
    /// Few different values and many NULLs.
    Alike,
}

#[test]
fn whichever_phases_are_left_out_the_rows_are_the_same() {
    let statements = statements();
    let mut differences = Vec::new();
    let mut nodes = BTreeSet::new();
    for values in [Values::Unlike, Values::Alike] {
        let mut sides = Sides::new(values);
        let merged = statements.iter().filter(|sql| sides.check(sql, values, &mut nodes, &mut differences)).count();
        assert!(merged > 60, "only {merged} golden plans are merged");
    }
    let shown = &differences[..differences.len().min(DIFFERENCES_SHOWN)];
    assert!(differences.is_empty(), "{} differences, the first:\n\n{}", differences.len(), shown.join("\n\n"));
    let all = ["Aggregate", "Append", "Distinct", "Having", "Limit", "MergeSort", "Project", "Sort"];
    assert_eq!(nodes.iter().map(String::as_str).collect::<Vec<_>>(), all, "a node that no golden plan has");
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sharding/tests/plans")
}

/// The statements of all golden plans.
fn statements() -> Vec<String> {
    let mut statements = Vec::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "plan") {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        for case in text.split("\n---\n") {
            let lines: Vec<&str> = case.lines().filter_map(|line| line.strip_prefix("> ")).collect();
            statements.push(lines.join("\n"));
        }
    }
    statements.sort();
    statements.dedup();
    statements
}

/// One PostgreSQL with all rows, and shards with the same.
struct Sides {
    catalog: Catalog,
    plain: Wire,
    shards: Vec<Wire>,
}

impl Sides {
    fn new(values: Values) -> Self {
        let schema = std::fs::read_to_string(folder().join("schema.sql")).unwrap();
        let rules = TableRules {
            sharding_key: Some("user_id".into()),
            tables: HashMap::from([
                ("users".into(), TableRule::Key("id".into())),
                ("handles".into(), TableRule::Key("handle".into())),
                ("nicks".into(), TableRule::Key("nick".into())),
                ("plans".into(), TableRule::Reference),
                ("countries".into(), TableRule::Reference),
                ("members".into(), TableRule::Key("id".into())),
                ("regions".into(), TableRule::Reference),
                ("audit_log".into(), TableRule::Local(ShardId(1))),
            ]),
            default: DefaultKind::Local,
        };
        let catalog = Catalog::from_ddl(&schema, &rules, SHARDS).unwrap();
        let names = databases("phases", usize::from(SHARDS) + 1);
        let mut wires = names.iter().map(|name| Wire::connect(shared().port(), "app", name)).collect::<Vec<_>>();
        for wire in &mut wires {
            done(wire, &schema);
        }
        let mut plain = wires.remove(0);
        assert_eq!(plain.text("SELECT datcollate IN ('C', 'POSIX', 'C.UTF-8', 'C.utf8') FROM pg_database WHERE datname = current_database()"), "t");
        for (table, key, rows) in tables(values) {
            done(&mut plain, &format!("INSERT INTO {table} {rows}"));
            for (wire, data) in wires.iter_mut().zip(spread(&mut plain, table, key)) {
                assert_eq!(wire.copy(&format!("COPY {table} FROM STDIN"), data.as_bytes()).sqlstate(), "");
            }
        }
        Self { catalog, plain, shards: wires }
    }

    /// Compares the answers to one statement; false when it is not merged.
    fn check(
        &mut self,
        sql: &str,
        values: Values,
        nodes: &mut BTreeSet<String>,
        differences: &mut Vec<String>,
    ) -> bool {
        let Some(whole) = gather(&self.catalog, sql, &Phase::ALL) else { return false };
        let types = parameter_types(&mut self.plain, sql);
        let expected = ask(&mut self.plain, sql, &types);
        let mut seen = BTreeSet::new();
        for subset in 0..1_u32 << Phase::ALL.len() {
            let phases: Vec<Phase> = Phase::ALL
                .into_iter()
                .enumerate()
                .filter(|(n, _)| subset >> n & 1 == 1)
                .map(|(_, phase)| phase)
                .collect();
            let gather = gather(&self.catalog, sql, &phases).unwrap();
            // Most phases have nothing to do in most plans.
            let shown = gather.steps().to_string();
            if !seen.insert(shown.clone()) {
                continue;
            }
            for line in shown.lines().take_while(|line| !line.contains("Route: ")) {
                let name: String =
                    line.chars().skip_while(|c| !c.is_alphabetic()).take_while(|c| c.is_alphabetic()).collect();
                nodes.insert(name);
            }
            let difference = match (self.run(&gather, &types, &expected), &expected.error) {
                (Ok(rows), None) => differs(sql, values, &expected.results[0].rows, &rows),
                (Err(refusal), Some(error)) if refusal.sqlstate == error.sqlstate() => None,
                (got, error) => Some(format!("expected {error:?}\ngot      {got:?}")),
            };
            if let Some(difference) = difference {
                differences.push(format!("{sql}\n{values:?} values, with {phases:?}:\n{shown}\n{difference}"));
            }
        }
        assert!(seen.contains(&whole.steps().to_string()));
        true
    }

    /// What the router would answer.
    fn run(&mut self, gather: &Gather, types: &[u32], expected: &Answer) -> Result<Vec<Row>, Refusal> {
        let mut columns = Vec::new();
        let mut streams = Vec::new();
        for wire in &mut self.shards {
            let answer = ask(wire, &gather.sql, types);
            assert!(answer.error.is_none(), "{}\n{:?}", gather.sql, answer.error);
            columns = column_types(answer.results[0].columns.as_deref().unwrap());
            streams.push(answer.results[0].rows.iter().flat_map(data_row).collect::<Vec<u8>>());
        }
        let client = expected.results.first().and_then(|result| result.columns.as_deref()).map(column_types);
        let client = client.unwrap_or_else(|| columns.clone());
        let values: Vec<&str> = types.iter().map(|type_oid| value_of(*type_oid)).collect();
        let params: Vec<Input<'_>> = values
            .iter()
            .zip(types)
            .map(|(value, type_oid)| Input { bytes: Some(value.as_bytes()), format: Format::Text, type_oid: *type_oid })
            .collect();
        let limits = MergeLimits { buffered_bytes_max: MEMORY_MAX };
        let formats = vec![Format::Binary; client.len()];
        let mut merge = Merge::new(gather, streams.len(), &columns, &client, &formats, &params, limits)?;
        let mut inputs: Vec<ShardInput<'_>> = streams.iter().map(|rows| ShardInput { rows, finished: true }).collect();
        let mut out = Vec::new();
        assert_eq!(merge.run(&mut inputs, &mut out, usize::MAX)?, Progress::Done);
        Ok(rows_of(&out))
    }
}

fn done(wire: &mut Wire, sql: &str) {
    let answer = wire.query(sql);
    assert!(answer.error.is_none(), "{sql}\n{:?}", answer.error);
}

/// The merge of a statement, if that is how it is answered.
fn gather(catalog: &Catalog, sql: &str, phases: &[Phase]) -> Option<Gather> {
    let script = build_with(catalog, None, sql, phases).ok()?;
    let [statement] = script.statements.as_slice() else { return None };
    match &statement.plan {
        Plan::Gather(gather) if statement.command == Command::Select => Some((**gather).clone()),
        _ => None,
    }
}

/// Name, number of the key's column if rows are spread by it, rows.
fn tables(values: Values) -> Vec<(&'static str, Option<usize>, String)> {
    // A row's number, in another order, its moment, and a group: there are n rows of the n-th group.
    let (number, hours, group) = match values {
        Values::Unlike => ("nullif(i * 37 % 61, 30)", "i * 37 % 61", "floor((sqrt(8 * i - 7) - 1) / 2)::int"),
        Values::Alike => ("nullif(i % 3, 2)", "i % 4", "nullif(i % 4, 3)::int"),
    };
    let at = format!("'2024-01-01 00:00+00'::timestamptz + {hours} * interval '31 hours'");
    let rows = "FROM generate_series(1, 55) AS i";
    // The n-th user has n of them.
    let owned =
        "FROM generate_series(1, 10) AS u, generate_series(1, u) AS j, LATERAL (SELECT u * (u - 1) / 2 + j AS i) AS n";
    let of_user = |columns: String| format!("SELECT {columns} {owned}");
    vec![
        (
            "users",
            Some(0),
            format!(
                "SELECT i, 'e' || i, 'n' || {number}, 'c' || {group}, {group}, {number} * 0.25, {number} * 1.25, {at}, '{{}}' {rows}"
            ),
        ),
        ("posts", Some(1), of_user(format!("i, u, 't' || {number}, 'b' || i, {number}, {number} % 2 = 0, {at}"))),
        ("likes", Some(0), of_user(format!("u, i, {at}"))),
        (
            "workouts",
            Some(1),
            of_user(format!(
                "('00000000-0000-0000-0000-0000000000' || 10 + i)::uuid, u, 'k' || {group}, {number}, {number} / 4.0, {at}"
            )),
        ),
        (
            "payments",
            Some(1),
            of_user(format!("i, u, {number} * 12.25, 'x' || {group} % 10, '2024-01-01'::date + {number}")),
        ),
        ("handles", Some(0), format!("SELECT 'h' || i, {number} {rows}")),
        ("nicks", Some(0), format!("SELECT 'k' || i, {number} {rows}")),
        ("plans", None, "SELECT i, 'p' || i, i * 9.99 FROM generate_series(0, 6) AS i".to_owned()),
        ("countries", None, "SELECT 'c' || i, 'C' || i FROM generate_series(0, 8) AS i".to_owned()),
    ]
}

/// The rows of a table for each shard, as COPY takes them.
fn spread(plain: &mut Wire, table: &str, key: Option<usize>) -> Vec<String> {
    let map = ShardMap::even(4096, SHARDS);
    let mut data = vec![String::new(); usize::from(SHARDS)];
    let copied = plain.query(&format!("COPY {table} TO STDOUT")).copied;
    for line in String::from_utf8(copied).unwrap().lines() {
        let shard = key.map(|column| {
            let value = line.split('\t').nth(column).unwrap();
            let key = value.parse().map_or_else(|_| Key::Text(value.as_bytes().into()), Key::Int);
            usize::from(map.shard_of(&key).0)
        });
        for (number, data) in data.iter_mut().enumerate() {
            if shard.is_none_or(|shard| shard == number) {
                writeln!(data, "{line}").unwrap();
            }
        }
    }
    data
}

/// The types that PostgreSQL gives to the parameters.
fn parameter_types(wire: &mut Wire, sql: &str) -> Vec<u32> {
    let mut out = parse("", sql);
    out.extend(message(b'D', b"S\0"));
    out.extend(sync());
    wire.send(&out);
    let mut types = Vec::new();
    loop {
        let message = wire.message().unwrap();
        match message.tag {
            b't' => {
                let types_of = message.body[2..].chunks(4).map(|oid| u32::from_be_bytes(oid.try_into().unwrap()));
                types = types_of.collect();
            }
            b'E' => panic!("{sql}: {}", String::from_utf8_lossy(&message.body)),
            b'Z' => return types,
            _ => {}
        }
    }
}

/// Some value of a parameter's type.
fn value_of(type_oid: u32) -> &'static str {
    match type_oid {
        20 | 21 | 23 => "2",
        700 | 701 | 1700 => "1.5",
        1016 => "{1,2,3}",
        _ => "c1",
    }
}

/// Runs a statement with parameters of these types; all columns come in binary.
fn ask(wire: &mut Wire, sql: &str, types: &[u32]) -> Answer {
    let mut body = [&[0], sql.as_bytes(), &[0]].concat();
    body.extend(u16::try_from(types.len()).unwrap().to_be_bytes());
    body.extend(types.iter().flat_map(|type_oid| type_oid.to_be_bytes()));
    let values: Vec<Option<&str>> = types.iter().map(|type_oid| Some(value_of(*type_oid))).collect();
    let mut out = message(b'P', &body);
    out.extend(bind("", "", &values, true));
    out.extend(message(b'D', b"P\0"));
    out.extend(execute(""));
    out.extend(sync());
    wire.send(&out);
    wire.answer(&[])
}

fn column_types(columns: &[Column]) -> Vec<ColumnType> {
    columns.iter().map(|column| ColumnType { type_oid: column.type_oid, typmod: column.typmod }).collect()
}

fn data_row(row: &Row) -> Vec<u8> {
    let mut body = u16::try_from(row.len()).unwrap().to_be_bytes().to_vec();
    for field in row {
        let length = field.as_ref().map_or(-1, |bytes| i32::try_from(bytes.len()).unwrap());
        body.extend(length.to_be_bytes());
        body.extend(field.iter().flatten());
    }
    message(b'D', &body)
}

fn rows_of(mut bytes: &[u8]) -> Vec<Row> {
    let mut rows = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
        rows.push(crate::support::wire::values(&bytes[5..=length]));
        bytes = &bytes[length + 1..];
    }
    rows
}

fn differs(sql: &str, values: Values, expected: &[Row], got: &[Row]) -> Option<String> {
    let is_part =
        sql.contains("LIMIT") || sql.contains("OFFSET") || sql.contains("FETCH") && !sql.contains("WITH TIES");
    let ordered = sql.contains("ORDER BY") && !sql.contains(" OVER (") && values == Values::Unlike;
    let choice = CHOOSE.iter().any(|start| sql.starts_with(start));
    let choice =
        choice || values == Values::Alike && (is_part || sql.contains("OFFSET") || sql.contains("DISTINCT ON"));
    let same = match (choice, ordered) {
        (true, _) => expected.len() == got.len(),
        (false, true) => expected == got,
        (false, false) => {
            let sorted = |rows: &[Row]| {
                let mut rows = rows.to_vec();
                rows.sort();
                rows
            };
            sorted(expected) == sorted(got)
        }
    };
    (!same).then(|| format!("expected {} rows {expected:?}\ngot      {} rows {got:?}", expected.len(), got.len()))
}
