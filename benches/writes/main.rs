//! Writes over several shards beside the same writes on one PostgreSQL, and what they cost the router.
//!
//! `cargo bench --bench writes`. `PARTS=rows,select,transfer,single,capacity` chooses parts, `ROUNDS` says how often each is measured,
//! `SECONDS` how long the parts with many clients take.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

use pgsluice::demo::{Cluster, ClusterOptions};

#[allow(dead_code, unreachable_pub, reason = "other benchmarks take the rest")]
#[path = "../support/mod.rs"]
mod support;
#[allow(dead_code, unreachable_pub, reason = "the tests take the rest")]
#[path = "../../tests/support/wire.rs"]
mod wire;

use support::{Router, Times, as_f64, database, number};
use wire::Wire;

const SHARDS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(120);
/// Rows of one INSERT.
const ROWS: usize = 1_000;
const ACCOUNTS: usize = 1_000;
/// What a statement of a limited shard takes, and how many of them it runs at once.
const SERVICE_SECONDS: &str = "0.02";
const CONNECTIONS: usize = 4;

fn main() {
    let settings = [("max_connections", "60"), ("shared_buffers", "128MB"), ("max_prepared_transactions", "60")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let databases = vec!["whole".into(), "one".into()];
    let cluster = Cluster::start(ClusterOptions { shards: SHARDS, databases, settings, ..Default::default() }).unwrap();
    let pool = format!("sharding_key = \"user_id\"\npool.size = {CONNECTIONS}\n");
    let config = format!(
        "{}{}{}{}",
        database(&cluster, "app", SHARDS, "sharding_key = \"user_id\"\n"),
        database(&cluster, "whole", 1, ""),
        limited(&cluster, "limited", "app", SHARDS, &pool),
        limited(&cluster, "limited_one", "one", 1, &pool),
    );
    let router = Router::start("Sluice", env!("CARGO_BIN_EXE_sluice"), &config);
    for (part, run) in
        [("rows", rows as Part), ("select", select), ("transfer", transfer), ("single", single), ("capacity", capacity)]
    {
        if env::var("PARTS").is_ok_and(|parts| !parts.split(',').any(|chosen| chosen == part)) {
            continue;
        }
        run(&cluster, &router);
    }
}

type Part = fn(&Cluster, &Router);

/// A database by another name than it has on the servers.
fn limited(cluster: &Cluster, name: &str, on_servers: &str, shards: usize, rules: &str) -> String {
    let text = database(cluster, name, shards, rules);
    text.replace(&format!("/{name}\""), &format!("/{on_servers}\""))
        .replace(&format!("/{name}?"), &format!("/{on_servers}?"))
}

fn connect(port: u16, database: &str) -> Wire {
    let mut wire = Wire::connect(port, "app", database);
    wire.set_patience(PATIENCE);
    wire
}

/// INSERT of many rows in one statement: literals, and parameters.
fn rows(cluster: &Cluster, router: &Router) {
    let table = "CREATE TABLE items (user_id bigint, id bigint, name text, amount numeric, PRIMARY KEY (user_id, id))";
    let mut sides = [
        ("PostgreSQL", connect(cluster.primary(0).port(), "whole")),
        ("Sluice, 4 shards", connect(router.port, "app")),
    ];
    for (_, wire) in &mut sides {
        wire.query("DROP TABLE IF EXISTS items").tag();
        wire.query(table).tag();
    }
    println!("\nINSERT of {ROWS} rows in one statement, one client, milliseconds");
    let mut next = 0;
    for (name, parameters) in [("literals", false), ("parameters", true)] {
        let mut times = [Times::default(), Times::default()];
        for _ in 0..number("ROUNDS", 40) {
            next += ROWS;
            for ((_, wire), times) in sides.iter_mut().zip(&mut times) {
                insert(wire, next, parameters, times);
            }
        }
        let whole = times[0].median();
        for ((side, _), times) in sides.iter().zip(&times) {
            let (best, median) = (times.best(), times.median());
            println!("{name:<12}{side:<18}{best:>10.2}{median:>10.2}{:>8.2}", median / whole);
        }
    }
}

fn insert(wire: &mut Wire, first: usize, parameters: bool, times: &mut Times) {
    let mut sql = "INSERT INTO items (user_id, id, name, amount) VALUES ".to_owned();
    let mut values = Vec::new();
    for n in first..first + ROWS {
        let comma = if n == first { "" } else { ", " };
        if parameters {
            let at = values.len();
            write!(sql, "{comma}(${}, ${}, ${}, ${})", at + 1, at + 2, at + 3, at + 4).unwrap();
            values.extend([n.to_string(), (n * 7).to_string(), format!("item {n}"), format!("{n}.25")]);
        } else {
            write!(sql, "{comma}({n}, {}, 'item {n}', {n}.25)", n * 7).unwrap();
        }
    }
    let values: Vec<Option<&str>> = values.iter().map(|value| Some(value.as_str())).collect();
    times.add(|| {
        let answer = if parameters { wire.execute(&sql, &values, false) } else { wire.query(&sql) };
        assert_eq!(answer.tag(), format!("INSERT 0 {ROWS}"));
    });
}

/// INSERT ... SELECT on the shards, and with rows that go from shard to shard.
fn select(cluster: &Cluster, router: &Router) {
    const MANY: usize = 100_000;
    let mut sides = [
        ("PostgreSQL", connect(cluster.primary(0).port(), "whole")),
        ("Sluice, 4 shards", connect(router.port, "app")),
    ];
    println!("\nINSERT ... SELECT of {MANY} rows, milliseconds");
    for (_, wire) in &mut sides {
        wire.query("DROP TABLE IF EXISTS source; DROP TABLE IF EXISTS copied").tag();
        wire.query("CREATE TABLE source (user_id bigint PRIMARY KEY, other bigint, name text)").tag();
        wire.query("CREATE TABLE copied (user_id bigint, other bigint, name text)").tag();
        let sql = format!("INSERT INTO source SELECT g, g * 31, 'name ' || g FROM generate_series(1, {MANY}) g");
        assert_eq!(wire.query(&sql).tag(), format!("INSERT 0 {MANY}"));
    }
    for (name, columns) in [("in place", "user_id, other, name"), ("moving", "other, user_id, name")] {
        let mut times = [Times::default(), Times::default()];
        for _ in 0..number("ROUNDS", 5) {
            for ((_, wire), times) in sides.iter_mut().zip(&mut times) {
                times.add(|| {
                    let tag = wire.query(&format!("INSERT INTO copied SELECT {columns} FROM source"));
                    assert_eq!(tag.tag(), format!("INSERT 0 {MANY}"));
                });
            }
        }
        let whole = times[0].median();
        for ((side, _), times) in sides.iter().zip(&times) {
            let (best, median) = (times.best(), times.median());
            println!("{name:<12}{side:<18}{best:>10.2}{median:>10.2}{:>8.2}", median / whole);
        }
    }
}

/// Transfers between accounts of one shard and of two.
fn transfer(cluster: &Cluster, router: &Router) {
    let mut wire = connect(router.port, "app");
    accounts(&mut wire);
    let mut homes: Vec<Vec<usize>> = Vec::new();
    for shard in 0..SHARDS {
        let text = connect(cluster.primary(shard).port(), "app").text("SELECT user_id FROM accounts ORDER BY 1");
        homes.push(text.split_whitespace().filter_map(|word| word.parse().ok()).collect());
    }
    let same: Vec<[usize; 2]> = homes[1].chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect();
    let crossing: Vec<[usize; 2]> = homes[1].iter().zip(&homes[2]).map(|(a, b)| [*a, *b]).collect();
    println!("\nTransfers of one client, milliseconds each; CPU of the router, microseconds each");
    let mut medians = Vec::new();
    for (name, pairs) in [("one shard", &same), ("two shards", &crossing)] {
        let mut times = Times::default();
        let cpu = router.cpu();
        let rounds = number("ROUNDS", 300);
        for round in 0..rounds {
            let [from, to] = pairs[round % pairs.len()];
            times.add(|| {
                wire.query("BEGIN").tag();
                wire.query(&format!("UPDATE accounts SET balance = balance - 1 WHERE user_id = {from}")).tag();
                wire.query(&format!("UPDATE accounts SET balance = balance + 1 WHERE user_id = {to}")).tag();
                assert_eq!(wire.query("COMMIT").tag(), "COMMIT");
            });
        }
        let cpu = (router.cpu() - cpu) * 1e6 / as_f64(rounds);
        medians.push(times.median());
        println!("{name:<14}{:>10.2}{:>10.2}{cpu:>10.1}", times.best(), times.median());
    }
    println!("two shards / one shard: {:.2}", medians[1] / medians[0]);
}

fn accounts(wire: &mut Wire) {
    wire.query("DROP TABLE IF EXISTS accounts").tag();
    wire.query("CREATE TABLE accounts (user_id bigint PRIMARY KEY, balance bigint NOT NULL)").tag();
    let sql = format!("INSERT INTO accounts SELECT g, 1000 FROM generate_series(1, {ACCOUNTS}) g");
    assert_eq!(wire.query(&sql).tag(), format!("INSERT 0 {ACCOUNTS}"));
}

/// What statements for one key cost the router: a read and a write, whose servers' work is about the same.
fn single(_: &Cluster, router: &Router) {
    let mut wire = connect(router.port, "app");
    accounts(&mut wire);
    let rounds = number("ROUNDS", 5_000);
    println!("\nStatements for one key, one client: CPU of the router, microseconds each");
    let statements = [
        ("read", "SELECT balance FROM accounts WHERE user_id = "),
        ("write", "UPDATE accounts SET balance = balance + 1 WHERE user_id = "),
    ];
    let mut costs = Vec::new();
    for (name, sql) in statements {
        let cpu = router.cpu();
        for round in 0..rounds {
            wire.query(&format!("{sql}{}", round % ACCOUNTS + 1)).tag();
        }
        costs.push((router.cpu() - cpu) * 1e6 / as_f64(rounds));
        println!("{name:<14}{:>10.1}", costs[costs.len() - 1]);
    }
    println!("write / read: {:.2}", costs[1] / costs[0]);
}

/// How many transactions shards carry that do few at a time, each in a fixed time.
fn capacity(_: &Cluster, router: &Router) {
    println!("\nTransactions per second where a shard runs {CONNECTIONS} at a time and each takes {SERVICE_SECONDS} s");
    let mut carried = Vec::new();
    for (name, database) in [("1 shard", "limited_one"), ("4 shards", "limited")] {
        accounts(&mut connect(router.port, database));
        let done = AtomicU64::new(0);
        let seconds = number("SECONDS", 10);
        let until = Instant::now() + Duration::from_secs(u64::try_from(seconds).unwrap_or(10));
        thread::scope(|scope| {
            for client in 0..16 * SHARDS {
                let done = &done;
                scope.spawn(move || {
                    let mut wire = connect(router.port, database);
                    let mut account = client * 37;
                    while Instant::now() < until {
                        account = (account + 101) % ACCOUNTS;
                        let sql = format!(
                            "WITH s AS (SELECT pg_sleep({SERVICE_SECONDS})) UPDATE accounts SET balance = balance + 1 \
                             FROM s WHERE user_id = {}",
                            account + 1
                        );
                        assert_eq!(wire.query(&sql).tag(), "UPDATE 1");
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let rate = as_f64(usize::try_from(done.load(Ordering::Relaxed)).unwrap_or(0)) / as_f64(seconds);
        carried.push(rate);
        println!("{name:<12}{rate:>10.1}");
    }
    println!("4 shards / 1 shard: {:.2}", carried[1] / carried[0]);
}
