//! Reads over several shards beside the same reads on one PostgreSQL that holds all rows, and beside the shards
//! asked directly; what they cost the router; TPC-H.
//!
//! `cargo bench --bench spread` takes a minute or two. Sizes come from the environment: `ROWS` in the table of
//! narrow rows, `SCAN_ROWS` in the one that is read whole, `ORDERS` of TPC-H (1.5 million are scale factor 1), and `ROUNDS`,
//! how often each query is asked. `PARTS=narrow,four,scan,tpch` chooses parts, `EXPLAIN=1` prints plans, and
//! `BESIDE=/path/to/sluice` measures another build of the router by turns with this one.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

use std::fmt::Write;
use std::time::Duration;
use std::{env, thread};

use pgsluice::demo::{Cluster, ClusterOptions};

#[allow(dead_code, unreachable_pub, reason = "other benchmarks take the rest")]
#[path = "../support/mod.rs"]
mod support;
#[allow(dead_code, unreachable_pub, reason = "the tests take the rest")]
#[path = "../../tests/support/tpch/mod.rs"]
mod tpch;
#[allow(dead_code, unreachable_pub, reason = "the tests take the rest")]
#[path = "../../tests/support/wire.rs"]
mod wire;

use support::{Router, Times, as_f64, database, number};
use wire::Wire;

/// The shards of the database `app`, which are the first of all.
const SHARDS: usize = 3;
/// The shards of the database `four`.
const ALL_SHARDS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(300);
/// A query that takes longer on one PostgreSQL or over shards is given up.
const STATEMENT_TIMEOUT: &str = "60s";
/// Rows that are made and loaded at once.
const LOADED_ROWS: usize = 250_000;

const NARROW_RULES: &str = "tables.narrow.key = \"user_id\"\ntables.long.key = \"user_id\"\n";
const COLUMNS: &str = "(user_id bigint PRIMARY KEY, kind int NOT NULL, value int NOT NULL, at timestamp NOT NULL)";
const SCAN: (&str, &str) = ("ordered scan", "SELECT user_id, kind, value, at FROM narrow ORDER BY user_id");
const MERGED: [(&str, &str); 3] = [
    ("count(*)", "SELECT count(*) FROM narrow"),
    ("10 groups", "SELECT kind, count(*), sum(value) FROM narrow GROUP BY kind"),
    ("top 100", "SELECT user_id, kind, value FROM narrow ORDER BY value DESC LIMIT 100"),
];

fn main() {
    let settings = [("max_connections", "50"), ("shared_buffers", "256MB"), ("max_wal_size", "4GB"), ("fsync", "off")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let databases = vec!["whole".into(), "four".into()];
    let cluster =
        Cluster::start(ClusterOptions { shards: ALL_SHARDS, databases, settings, ..Default::default() }).unwrap();
    let config = format!(
        "{}{}",
        database(&cluster, "app", SHARDS, &format!("{}{NARROW_RULES}", tpch::RULES)),
        database(&cluster, "four", ALL_SHARDS, &format!("sharding_key = \"user_id\"\n{NARROW_RULES}")),
    );
    let mut routers = vec![Router::start("Sluice", env!("CARGO_BIN_EXE_sluice"), &config)];
    if let Ok(path) = env::var("BESIDE") {
        routers.push(Router::start("beside", &path, &config));
    }
    let rows = number("ROWS", 300_000);
    for (part, run) in [("narrow", narrow as Part), ("four", four), ("scan", scan), ("tpch", tpc_h)] {
        if env::var("PARTS").is_ok_and(|parts| !parts.split(',').any(|chosen| chosen == part)) {
            continue;
        }
        run(&cluster, &routers, rows);
    }
}

type Part = fn(&Cluster, &[Router], usize);

/// Short answers and a long one, beside one PostgreSQL.
fn narrow(cluster: &Cluster, routers: &[Router], rows: usize) {
    let mut sides = sides(cluster, routers);
    load(&mut sides[0].wire, "narrow", rows);
    load(&mut sides[1].wire, "narrow", rows);
    analyze(cluster, "app");
    analyze(cluster, "whole");
    println!("\n{rows} narrow rows over {SHARDS} shards, beside one PostgreSQL with all of them");
    head();
    for (name, sql) in MERGED {
        compare(name, sql, rows, &mut sides);
    }
    compare(SCAN.0, SCAN.1, rows, &mut sides);
}

/// Beside the shards themselves, all asked at the same time.
fn four(cluster: &Cluster, routers: &[Router], rows: usize) {
    let mut shards: Vec<Wire> = (0..ALL_SHARDS).map(|shard| connect(cluster.primary(shard).port(), "four")).collect();
    let mut spread: Vec<Wire> = routers.iter().map(|router| connect(router.port, "four")).collect();
    load(&mut spread[0], "narrow", rows);
    analyze(cluster, "four");
    println!("\n{rows} narrow rows over {ALL_SHARDS} shards, beside these asked directly at the same time");
    println!("{:<14}{:<12}{:>10}{:>10}{:>8}", "milliseconds", "", "best", "median", "ratio");
    for (name, sql) in MERGED {
        let mut directly = Times::default();
        let mut through: Vec<Times> = routers.iter().map(|_| Times::default()).collect();
        for _ in 0..number("ROUNDS", 5) {
            directly.add(|| ask_at_once(&mut shards, sql));
            for (wire, times) in spread.iter_mut().zip(&mut through) {
                times.add(|| drain(wire, sql).unwrap());
            }
        }
        println!("{name:<14}{:<12}{:>10.1}{:>10.1}", "shards", directly.best(), directly.median());
        for (router, times) in routers.iter().zip(&through) {
            let ratio = times.median() / directly.median();
            println!("{:<14}{:<12}{:>10.1}{:>10.1}{ratio:>8.2}", "", router.name, times.best(), times.median());
        }
    }
}

/// A long answer in order: the router's memory and speed.
fn scan(cluster: &Cluster, routers: &[Router], _: usize) {
    let rows = number("SCAN_ROWS", 1_000_000);
    let mut shards: Vec<Wire> = (0..ALL_SHARDS).map(|shard| connect(cluster.primary(shard).port(), "four")).collect();
    let mut spread: Vec<Wire> = routers.iter().map(|router| connect(router.port, "four")).collect();
    load(&mut spread[0], "long", rows);
    analyze(cluster, "four");
    let sql = "SELECT user_id, kind, value, at FROM long ORDER BY user_id";
    println!("\n{rows} rows in order from {ALL_SHARDS} shards");
    let mut directly = Times::default();
    directly.add(|| ask_at_once(&mut shards, sql));
    println!("{:<12}{:>8.0} ms, all shards asked directly at the same time", "shards", directly.best());
    for _ in 0..number("ROUNDS", 5).div_ceil(2) {
        for (router, wire) in routers.iter().zip(&mut spread) {
            let mut times = Times::default();
            let (cpu, mut bytes) = (router.cpu(), 0);
            let (before, most) = router.memory_while(|| times.add(|| bytes = drain(wire, sql).unwrap()));
            let cpu = router.cpu() - cpu;
            println!(
                "{:<12}{:>8.0} ms; {:.0} MB of rows, {:.0} MB per second of the router's CPU, {:.0} ns a row; memory \
                 {before:.1} MB, at most {most:.1} MB",
                router.name,
                times.best(),
                megabytes(bytes),
                megabytes(bytes) / cpu,
                cpu * 1e9 / as_f64(rows),
            );
        }
    }
}

fn tpc_h(cluster: &Cluster, routers: &[Router], _: usize) {
    let orders = number("ORDERS", 7_500);
    let mut sides = sides(cluster, routers);
    let tables = tpch::tables(tpch::Size { orders, favoured: 0 });
    for side in &mut sides[..2] {
        for statement in tpch::SCHEMA.split(';') {
            side.wire.query(statement).tag();
        }
        for (table, rows) in &tables {
            side.wire.copy(&format!("COPY {table} FROM STDIN"), rows.as_bytes()).tag();
        }
    }
    drop(tables);
    analyze(cluster, "app");
    analyze(cluster, "whole");
    println!("\nTPC-H with {orders} orders over {SHARDS} shards, beside one PostgreSQL with all rows");
    head();
    for (number, query) in tpch::queries().iter().enumerate() {
        compare(&format!("Q{}", number + 1), query, orders, &mut sides);
    }
}

fn megabytes(bytes: usize) -> f64 {
    as_f64(bytes >> 10) * 1024.0 / 1e6
}

fn connect(port: u16, database: &str) -> Wire {
    let mut wire = Wire::connect(port, "app", database);
    wire.set_patience(PATIENCE);
    wire.query(&format!("SET statement_timeout = '{STATEMENT_TIMEOUT}'")).tag();
    wire
}

fn load(wire: &mut Wire, table: &str, rows: usize) {
    wire.query(&format!("CREATE TABLE {table} {COLUMNS}")).tag();
    for first in (0..rows).step_by(LOADED_ROWS) {
        let mut data = String::new();
        for id in first..rows.min(first + LOADED_ROWS) {
            let value = id.wrapping_mul(2_654_435_761) % 1_000_000_007;
            let (hour, minute, second) = (id / 3600 % 24, id / 60 % 60, id % 60);
            writeln!(data, "{id}\t{}\t{value}\t2024-05-17 {hour:02}:{minute:02}:{second:02}", value % 10).unwrap();
        }
        wire.copy(&format!("COPY {table} FROM STDIN"), data.as_bytes()).tag();
    }
}

fn analyze(cluster: &Cluster, database: &str) {
    for shard in 0..ALL_SHARDS {
        cluster.primary(shard).psql_in(database, "VACUUM ANALYZE").unwrap();
    }
}

/// Whom the same query is asked.
struct Side<'r> {
    wire: Wire,
    router: Option<&'r Router>,
}

/// One PostgreSQL first, then the routers.
fn sides<'r>(cluster: &Cluster, routers: &'r [Router]) -> Vec<Side<'r>> {
    let whole = Side { wire: connect(cluster.primary(0).port(), "whole"), router: None };
    let spread = routers.iter().map(|router| Side { wire: connect(router.port, "app"), router: Some(router) });
    [whole].into_iter().chain(spread).collect()
}

fn head() {
    println!(
        "{:<14}{:<12}{:>10}{:>10}{:>8}{:>16}{:>12}",
        "milliseconds", "", "best", "median", "ratio", "CPU ns per row", "memory MB"
    );
}

/// All sides are asked by turns, so that what else the machine does hits all alike. The ratio is that of the medians.
fn compare(name: &str, sql: &str, rows: usize, sides: &mut [Side<'_>]) {
    if env::var("EXPLAIN").is_ok() {
        println!("{}\n", sides[1].wire.text(&format!("EXPLAIN {sql}")));
    }
    let mut measured: Vec<(Times, f64, f64)> = sides.iter().map(|_| (Times::default(), f64::MAX, 0.0)).collect();
    for _ in 0..number("ROUNDS", 5) {
        for (side, (times, cpu, memory)) in sides.iter_mut().zip(&mut measured) {
            let before = side.router.map_or(0.0, Router::cpu);
            let mut failed = None;
            let mut ask = || times.add(|| failed = drain(&mut side.wire, sql).err());
            match side.router {
                Some(router) => *memory = router.memory_while(ask).1.max(*memory),
                None => ask(),
            }
            if let Some(error) = failed {
                println!("{name:<14}{error}");
                return;
            }
            *cpu = cpu.min(side.router.map_or(0.0, Router::cpu) - before);
        }
    }
    let whole = measured[0].0.median();
    for (n, (side, (times, cpu, memory))) in sides.iter().zip(&measured).enumerate() {
        let (best, median) = (times.best(), times.median());
        let title = if n == 0 { name } else { "" };
        let Some(router) = side.router else {
            println!("{title:<14}{:<12}{best:>10.1}{median:>10.1}", "PostgreSQL");
            continue;
        };
        let (ratio, cpu) = (median / whole, cpu * 1e9 / as_f64(rows));
        println!("{title:<14}{:<12}{best:>10.1}{median:>10.1}{ratio:>8.2}{cpu:>16.1}{memory:>12.1}", router.name);
    }
}

/// Reads an answer without keeping it: how many bytes of rows there were.
fn drain(wire: &mut Wire, sql: &str) -> Result<usize, String> {
    wire.send(&wire::query(sql));
    wire.pass_over().map_err(|error| format!("{error:?}"))
}

/// Asks all at the same time and waits for the slowest.
fn ask_at_once(shards: &mut [Wire], sql: &str) {
    thread::scope(|scope| {
        for wire in shards {
            scope.spawn(|| drain(wire, sql).unwrap());
        }
    });
}
