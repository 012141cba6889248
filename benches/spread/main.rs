//! Reads over three shards beside the same reads on one PostgreSQL that holds all rows: what the router merges,
//! its memory meanwhile, and TPC-H.
//!
//! `cargo bench --bench spread`; `ORDERS` says how many orders there are (1.5 million are scale factor 1),
//! `ROUNDS` how often each query is asked, `EXPLAIN=1` prints the plans.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use pgsluice::demo::{Cluster, ClusterOptions, free_port};

#[allow(dead_code, unreachable_pub, reason = "the tests take the rest")]
#[path = "../../tests/support/tpch/mod.rs"]
mod tpch;
#[allow(dead_code, unreachable_pub, reason = "the tests take the rest")]
#[path = "../../tests/support/wire.rs"]
mod wire;

use wire::Wire;

const SHARDS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(300);
/// A query that takes longer on one PostgreSQL or over shards is given up.
const STATEMENT_TIMEOUT: &str = "60s";

const MERGED: [(&str, &str); 4] = [
    ("count(*)", "SELECT count(*) FROM lineitem"),
    (
        "10 groups",
        "SELECT l_discount, count(*), sum(l_quantity) FROM lineitem WHERE l_discount < 0.10 GROUP BY l_discount",
    ),
    ("top 100", "SELECT * FROM lineitem ORDER BY l_extendedprice DESC, l_orderkey, l_linenumber LIMIT 100"),
    ("ordered scan", "SELECT * FROM lineitem ORDER BY l_orderkey, l_linenumber"),
];

fn main() {
    let orders = number("ORDERS", 75_000);
    let settings = [("max_connections", "50"), ("shared_buffers", "256MB")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let options = ClusterOptions { shards: SHARDS, databases: vec!["whole".into()], settings, ..Default::default() };
    let cluster = Cluster::start(options).unwrap();
    let router = Router::start(&cluster.database_config("app", tpch::RULES));
    let mut whole = connect(cluster.primary(0).port(), "whole");
    let mut spread = connect(router.port, "app");
    load(&mut whole, &mut spread, orders);
    (0..SHARDS).for_each(|shard| analyze(&cluster, shard));
    println!(
        "{orders} orders over {SHARDS} shards, beside one PostgreSQL with all rows; milliseconds, the least of a few"
    );
    println!("\n{:<14}{:>12}{:>12}{:>8}", "", "PostgreSQL", "Sluice", "ratio");
    for (name, sql) in MERGED {
        compare(name, sql, &mut whole, &mut spread);
    }
    let (before, most) = router.memory_while(|| {
        drain(&mut spread, MERGED[3].1).unwrap();
    });
    println!("memory of the router: {before:.1} MB, at most {most:.1} MB while it merges the ordered scan\n");
    for (number, query) in tpch::queries().iter().enumerate() {
        compare(&format!("TPC-H Q{}", number + 1), query, &mut whole, &mut spread);
    }
}

fn number(name: &str, default: usize) -> usize {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn connect(port: u16, database: &str) -> Wire {
    let mut wire = Wire::connect(port, "app", database);
    wire.set_patience(PATIENCE);
    wire.query(&format!("SET statement_timeout = '{STATEMENT_TIMEOUT}'")).tag();
    wire
}

fn load(whole: &mut Wire, spread: &mut Wire, orders: usize) {
    let tables = tpch::tables(tpch::Size { orders, favoured: 0 });
    for wire in [whole, spread] {
        for statement in tpch::SCHEMA.split(';') {
            wire.query(statement).tag();
        }
        for (table, rows) in &tables {
            wire.copy(&format!("COPY {table} FROM STDIN"), rows.as_bytes()).tag();
        }
    }
}

fn analyze(cluster: &Cluster, shard: usize) {
    for database in ["app", "whole"] {
        cluster.primary(shard).psql_in(database, "VACUUM ANALYZE").unwrap();
    }
}

/// Both are asked by turns, so that what else the machine does hits both alike.
fn compare(name: &str, sql: &str, whole: &mut Wire, spread: &mut Wire) {
    if env::var("EXPLAIN").is_ok() {
        println!("{}\n", spread.text(&format!("EXPLAIN {sql}")));
    }
    let mut least: [Option<f64>; 2] = [None, None];
    for _ in 0..number("ROUNDS", 3) {
        for (wire, least) in [&mut *whole, &mut *spread].into_iter().zip(&mut least) {
            let started = Instant::now();
            if let Err(error) = drain(wire, sql) {
                println!("{name:<14} {error}");
                return;
            }
            let taken = started.elapsed().as_secs_f64() * 1000.0;
            *least = Some(least.map_or(taken, |least| least.min(taken)));
        }
    }
    let [whole, spread] = least.map(|least| least.unwrap_or_default());
    println!("{name:<14}{whole:>12.1}{spread:>12.1}{:>8.2}", spread / whole);
}

/// Reads an answer without keeping it.
fn drain(wire: &mut Wire, sql: &str) -> Result<(), String> {
    wire.send(&wire::query(sql));
    let mut result = Ok(());
    loop {
        let message = wire.message().unwrap();
        match message.tag {
            b'E' => result = Err(String::from_utf8_lossy(&message.body).replace('\0', " ")),
            b'Z' => return result,
            _ => {}
        }
    }
}

/// The router as a process that ends with the benchmark.
struct Router {
    child: Child,
    port: u16,
    config: PathBuf,
}

impl Router {
    fn start(database: &str) -> Self {
        let port = free_port();
        let config = env::temp_dir().join(format!("sluice-bench-{port}.toml"));
        let text = format!(
            "[listen]\naddress = \"127.0.0.1:{port}\"\nworkers = 1\n[auth]\nmethod = \"trust\"\n\
             [limits]\nfinal_query_bytes_max = \"512MB\"\n{database}"
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        command.args(["serve", "--config"]).arg(&config);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "the router does not start");
            thread::sleep(Duration::from_millis(20));
        }
        Self { child, port, config }
    }

    /// Resident megabytes before `work` and the most while it runs.
    fn memory_while(&self, work: impl FnOnce()) -> (f64, f64) {
        let before = self.resident();
        let done = AtomicBool::new(false);
        let most = thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut most = before;
                while !done.load(Ordering::Relaxed) {
                    most = most.max(self.resident());
                    thread::sleep(Duration::from_millis(5));
                }
                most
            });
            work();
            done.store(true, Ordering::Relaxed);
            watcher.join().unwrap()
        });
        (before, most)
    }

    fn resident(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_file(&self.config).ok();
    }
}
