//! Writes over several shards beside the same writes on one PostgreSQL, and what they cost the router.
//!
//! `cargo bench --bench writes`. `PARTS=rows,copy,select,transfer,single,capacity` chooses parts, `ROUNDS` says how often each is measured,
//! `SECONDS` how long the parts with many clients take. `DURABLE=1` lets the servers wait for the disk at every commit.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

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
/// So many that every shard has about as many of them: of a thousand one shard may well have 27 %, which four could not carry as four.
const MANY_ACCOUNTS: usize = 100_000;

fn main() {
    let settings = [("max_connections", "60"), ("shared_buffers", "128MB"), ("max_prepared_transactions", "60")];
    let durable = [("fsync", "on"), ("synchronous_commit", "on")];
    let durable = if env::var_os("DURABLE").is_some() { &durable[..] } else { &[] };
    let settings =
        settings.iter().chain(durable).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
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
    let parts = [
        ("rows", rows as Part),
        ("copy", copy),
        ("select", select),
        ("transfer", transfer),
        ("single", single),
        ("capacity", capacity),
    ];
    for (part, run) in parts {
        if env::var("PARTS").is_ok_and(|parts| !parts.split(',').any(|chosen| chosen == part)) {
            continue;
        }
        run(&cluster, &router);
    }
}

type Part = fn(&Cluster, &Router);
/// One statement, about the account of this number.
type Ask = fn(&mut Wire, usize);

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
    println!(
        "\nINSERT of {ROWS} rows in one statement, one client: best and median milliseconds, ratio of the medians;"
    );
    println!("CPU milliseconds each, of the router and of the servers");
    let mut next = 0;
    for (name, parameters) in [("literals", false), ("parameters", true)] {
        let mut times = [Times::default(), Times::default()];
        let mut costs = [[0.0; 2]; 2];
        let rounds = number("ROUNDS", 40);
        for _ in 0..rounds {
            next += ROWS;
            for (side, (_, wire)) in sides.iter_mut().enumerate() {
                let before = [router.cpu(), servers_cpu(cluster)];
                insert(wire, next, parameters, &mut times[side]);
                costs[side][0] += router.cpu() - before[0];
                costs[side][1] += servers_cpu(cluster) - before[1];
            }
        }
        let whole = times[0].median();
        for (((side, _), times), costs) in sides.iter().zip(&times).zip(&costs) {
            let (best, median) = (times.best(), times.median());
            let [router, servers] = costs.map(|seconds| seconds * 1000.0 / as_f64(rounds));
            println!(
                "{name:<12}{side:<18}{best:>10.2}{median:>10.2}{:>8.2}{router:>10.2}{servers:>10.2}",
                median / whole
            );
        }
    }
}

/// Seconds of CPU of all processes of the servers that are there now.
fn servers_cpu(cluster: &Cluster) -> f64 {
    let cpu = |id: &str| {
        let text = fs::read_to_string(format!("/proc/{id}/schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0)
    };
    let of_server = |shard: usize| {
        let file = fs::read_to_string(cluster.primary(shard).data_dir().join("postmaster.pid")).unwrap_or_default();
        let id = file.lines().next().unwrap_or_default().trim();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        children.split_whitespace().map(cpu).sum::<f64>()
    };
    (0..SHARDS).map(of_server).sum::<f64>() / 1e9
}

/// COPY FROM through the router, into one PostgreSQL, and into all shards directly at the same time with each shard's own rows.
fn copy(cluster: &Cluster, router: &Router) {
    const MANY: usize = 300_000;
    let sql = "CREATE TABLE loaded (user_id bigint, name text, email text, seen timestamptz)";
    let mut shards: Vec<Wire> = (0..SHARDS).map(|shard| connect(cluster.primary(shard).port(), "app")).collect();
    let mut sides = [connect(cluster.primary(0).port(), "whole"), connect(router.port, "app")];
    for wire in &mut sides {
        wire.query("DROP TABLE IF EXISTS loaded").tag();
        wire.query(sql).tag();
    }
    let fill = format!(
        "INSERT INTO loaded SELECT g, 'Lovelace, Ada', 'ada' || g || '@example.com', '2024-02-29 12:00:00+00' \
         FROM generate_series(1, {MANY}) g"
    );
    sides[0].query(&fill).tag();
    println!(
        "\nCOPY FROM of {MANY} rows: best and median milliseconds, ratio of the medians to the shards alone; the router's CPU"
    );
    for format in ["text", "csv", "binary"] {
        let put = format!("COPY loaded FROM STDIN (FORMAT {format})");
        let get = format!("COPY loaded TO STDOUT (FORMAT {format})");
        let data = copied_out(&mut sides[0], &get);
        // The shards hold what the format before has left.
        sides[1].query("TRUNCATE loaded").tag();
        assert_eq!(sides[1].copy(&put, &data).tag(), format!("COPY {MANY}"));
        let own: Vec<Vec<u8>> = shards.iter_mut().map(|wire| copied_out(wire, &get)).collect();
        let mut times: [Times; 3] = Default::default();
        let mut cpu = 0.0;
        for _ in 0..number("ROUNDS", 7) {
            for (side, wire) in sides.iter_mut().enumerate() {
                wire.query("TRUNCATE loaded").tag();
                let before = router.cpu();
                times[side].add(|| assert_eq!(wire.copy(&put, &data).tag(), format!("COPY {MANY}")));
                cpu += router.cpu() - before;
            }
            sides[1].query("TRUNCATE loaded").tag();
            times[2].add(|| {
                thread::scope(|scope| {
                    for (wire, data) in shards.iter_mut().zip(&own) {
                        let put = &put;
                        scope.spawn(move || wire.copy(put, data).tag().len());
                    }
                });
            });
        }
        let alone = times[2].median();
        for (name, times) in ["PostgreSQL", "Sluice, 4 shards", "the shards alone"].iter().zip(&times) {
            let (best, median) = (times.best(), times.median());
            println!("{format:<12}{name:<18}{best:>10.1}{median:>10.1}{:>8.2}", median / alone);
        }
        let bytes = as_f64(data.len() * number("ROUNDS", 7));
        println!(
            "{format:<12}{:.1} MB of input; {:.0} MB per second of the router's CPU",
            as_f64(data.len()) / 1e6,
            bytes / 1e6 / cpu
        );
    }
}

fn copied_out(wire: &mut Wire, sql: &str) -> Vec<u8> {
    let answer = wire.query(sql);
    answer.tag();
    answer.copied
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
    accounts(&mut wire, ACCOUNTS);
    let mut homes: Vec<Vec<usize>> = Vec::new();
    for shard in 0..SHARDS {
        let text = connect(cluster.primary(shard).port(), "app").text("SELECT user_id FROM accounts ORDER BY 1");
        homes.push(text.split_whitespace().filter_map(|word| word.parse().ok()).collect());
    }
    let same: Vec<[usize; 2]> = homes[1].chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect();
    let crossing: Vec<[usize; 2]> = homes[1].iter().zip(&homes[2]).map(|(a, b)| [*a, *b]).collect();
    println!("\nTransfers of one client: best and median milliseconds each; CPU of the router, microseconds each");
    let kinds = [("one shard", &same), ("two shards", &crossing)];
    let mut times = [Times::default(), Times::default()];
    let mut cpu = [0.0; 2];
    let rounds = number("ROUNDS", 500);
    for round in 0..rounds {
        for (kind, (_, pairs)) in kinds.iter().enumerate() {
            let [from, to] = pairs[round % pairs.len()];
            let before = router.cpu();
            times[kind].add(|| {
                wire.query("BEGIN").tag();
                wire.query(&format!("UPDATE accounts SET balance = balance - 1 WHERE user_id = {from}")).tag();
                wire.query(&format!("UPDATE accounts SET balance = balance + 1 WHERE user_id = {to}")).tag();
                assert_eq!(wire.query("COMMIT").tag(), "COMMIT");
            });
            cpu[kind] += router.cpu() - before;
        }
    }
    for ((name, _), (times, cpu)) in kinds.iter().zip(times.iter().zip(&cpu)) {
        println!("{name:<14}{:>10.2}{:>10.2}{:>10.1}", times.best(), times.median(), cpu * 1e6 / as_f64(rounds));
    }
    println!("two shards / one shard: {:.2}", times[1].median() / times[0].median());
}

fn accounts(wire: &mut Wire, count: usize) {
    wire.query("DROP TABLE IF EXISTS accounts").tag();
    wire.query("CREATE TABLE accounts (user_id bigint PRIMARY KEY, balance bigint NOT NULL)").tag();
    let sql = format!("INSERT INTO accounts SELECT g, 1000 FROM generate_series(1, {count}) g");
    assert_eq!(wire.query(&sql).tag(), format!("INSERT 0 {count}"));
}

/// What statements for one key cost the router: a read and a write, whose servers' work is about the same, and an INSERT whose id comes
/// from a sequence beside one that brings its id.
fn single(_: &Cluster, router: &Router) {
    const TURNS: usize = 20;
    let mut wire = connect(router.port, "app");
    accounts(&mut wire, ACCOUNTS);
    wire.query("DROP TABLE IF EXISTS orders").tag();
    wire.query("CREATE TABLE orders (user_id bigint, id bigserial, note text, PRIMARY KEY (user_id, id))").tag();
    for (name, sql) in [("given", PUT_GIVEN), ("drawn", PUT_DRAWN)] {
        let mut out = wire::parse(name, sql);
        out.extend(wire::sync());
        wire.send(&out);
        assert_eq!(wire.answer(&[]).sqlstate(), "");
    }
    let statements: [(&str, Ask); 6] = [
        ("read", |wire, n| {
            wire.query(&format!("SELECT balance FROM accounts WHERE user_id = {}", n % ACCOUNTS + 1)).tag();
        }),
        ("write", |wire, n| {
            wire.query(&format!("UPDATE accounts SET balance = balance + 1 WHERE user_id = {}", n % ACCOUNTS + 1))
                .tag();
        }),
        ("INSERT, its id, simple", |wire, n| {
            wire.query(&format!("INSERT INTO orders (user_id, id, note) VALUES ({n}, {}, 'note {n}')", n + (1 << 40)))
                .tag();
        }),
        ("INSERT, bigserial, simple", |wire, n| {
            wire.query(&format!("INSERT INTO orders (user_id, note) VALUES ({n}, 'note {n}')")).tag();
        }),
        ("INSERT, its id, prepared", |wire, n| {
            let id = (n + (1 << 41)).to_string();
            run_prepared(wire, "given", &[Some(&n.to_string()), Some(&id), Some("note")]);
        }),
        ("INSERT, bigserial, prepared", |wire, n| run_prepared(wire, "drawn", &[Some(&n.to_string()), Some("note")])),
    ];
    let each = number("ROUNDS", 5_000) / TURNS;
    println!(
        "\nStatements for one key, one client: CPU of the router, microseconds each, median of {TURNS} turns; ratio to the line before"
    );
    let mut costs: Vec<Vec<f64>> = vec![Vec::new(); statements.len()];
    for turn in 0..TURNS {
        for ((_, run), costs) in statements.iter().zip(&mut costs) {
            let before = router.cpu();
            (0..each).for_each(|n| run(&mut wire, turn * each + n));
            costs.push((router.cpu() - before) * 1e6 / as_f64(each));
        }
    }
    let mut previous = f64::NAN;
    for (n, ((name, _), costs)) in statements.iter().zip(&mut costs).enumerate() {
        costs.sort_by(f64::total_cmp);
        let median = costs[TURNS / 2];
        match n % 2 {
            0 => println!("{name:<28}{median:>10.1}"),
            _ => println!("{name:<28}{median:>10.1}{:>8.2}", median / previous),
        }
        previous = median;
    }
}

const PUT_GIVEN: &str = "INSERT INTO orders (user_id, id, note) VALUES ($1, $2, $3)";
const PUT_DRAWN: &str = "INSERT INTO orders (user_id, note) VALUES ($1, $2)";

fn run_prepared(wire: &mut Wire, name: &str, parameters: &[Option<&str>]) {
    let mut out = wire::bind("", name, parameters, false);
    out.extend(wire::execute(""));
    out.extend(wire::sync());
    wire.send(&out);
    assert_eq!(wire.answer(&[]).tag(), "INSERT 0 1");
}

/// How many transactions shards carry that do few at a time, each in a fixed time.
fn capacity(_: &Cluster, router: &Router) {
    println!("\nTransactions per second where a shard runs {CONNECTIONS} at a time and each takes {SERVICE_SECONDS} s");
    // With few clients chance leaves a shard without work while others have queues.
    for clients in [16 * SHARDS, 64 * SHARDS] {
        carried_by(clients, router);
    }
}

fn carried_by(clients: usize, router: &Router) {
    let mut carried = Vec::new();
    for (name, database) in [("1 shard", "limited_one"), ("4 shards", "limited")] {
        accounts(&mut connect(router.port, database), MANY_ACCOUNTS);
        let done = AtomicU64::new(0);
        let seconds = number("SECONDS", 10);
        let until = Instant::now() + Duration::from_secs(u64::try_from(seconds).unwrap_or(10));
        thread::scope(|scope| {
            for client in 0..clients {
                let done = &done;
                scope.spawn(move || {
                    let mut wire = connect(router.port, database);
                    let mut account = client * 3_701;
                    while Instant::now() < until {
                        account = (account + 10_111) % MANY_ACCOUNTS;
                        let sql = format!(
                            "WITH s AS (SELECT pg_sleep({SERVICE_SECONDS})) UPDATE accounts SET balance = balance + 1 \
                             FROM s WHERE user_id = {}",
                            account + 1
                        );
                        assert_eq!(wire.query(&sql).tag(), "UPDATE 1");
                        // What waits in a queue at the end is not carried in this time.
                        if Instant::now() < until {
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let rate = as_f64(usize::try_from(done.load(Ordering::Relaxed)).unwrap_or(0)) / as_f64(seconds);
        carried.push(rate);
        println!("{clients} clients, {name:<12}{rate:>10.1}");
    }
    println!("4 shards / 1 shard: {:.2}", carried[1] / carried[0]);
}
