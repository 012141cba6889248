//! Transfers between accounts on different shards, while routers and shards are killed, stopped and cut off:
//! the sum stays, acknowledged transfers are there once, no other is there by half.
//!
//! `BANK_SEED` and `BANK_SECONDS` choose another run, as long as one likes.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::proxy::Proxy;
use crate::support::running::wait_for;
use crate::support::wire::{self, Wire};
use crate::support::{Cluster, ClusterOptions, Sluice};

const SHARDS: usize = 3;
const ROUTERS: usize = 2;
const CLIENTS: usize = 8;
/// Few, so that transfers often wait for each other.
const ACCOUNTS: u64 = 16;
const DEPOSIT: i64 = 1000;

const SETTINGS: &str = "[pool]\nconnect_timeout = \"1s\"\nwait_timeout = \"3s\"\n\
    [replicas]\ncheck_interval = \"200ms\"\n[commit]\nin_doubt_after = \"1s\"\noutcome_timeout = \"6s\"\n";

/// Numbers that a seed gives (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// What a client knows of its transfer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    Committed,
    Undone,
    /// Undone, for another's sake.
    GaveUp,
    Nothing,
}

struct Bank {
    cluster: Cluster,
    wires: Vec<Proxy>,
    routers: Vec<Mutex<Sluice>>,
    closed: AtomicBool,
    next: AtomicU64,
    told: Mutex<HashMap<u64, Told>>,
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn money_is_neither_made_nor_lost() {
    let (seed, seconds) = (number("BANK_SEED", 1), number("BANK_SECONDS", 8));
    let bank = Bank::open();
    thread::scope(|scope| {
        for client in 0..CLIENTS as u64 {
            let bank = &bank;
            scope.spawn(move || bank.serve(Random(seed << 8 | client)));
        }
        bank.break_things(&mut Random(!seed), Duration::from_secs(seconds));
        bank.closed.store(true, Ordering::SeqCst);
    });
    bank.check(seed);
}

impl Bank {
    fn open() -> Self {
        let settings = [("fsync", "on"), ("synchronous_commit", "on"), ("max_connections", "200")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let cluster = Cluster::start(ClusterOptions { shards: SHARDS, settings, ..Default::default() }).unwrap();
        let wires: Vec<Proxy> = (0..SHARDS).map(|shard| Proxy::to(cluster.primary(shard).port())).collect();
        let routers = (0..ROUTERS).map(|_| Mutex::new(router(&cluster, &wires))).collect();
        let bank = Self {
            cluster,
            wires,
            routers,
            closed: AtomicBool::new(false),
            next: AtomicU64::new(1),
            told: Mutex::default(),
        };
        let make = "CREATE TABLE wallets (user_id bigint PRIMARY KEY, balance bigint)";
        let mut client = wait_for("a router", || {
            let mut client = bank.connect(0)?;
            client.query(make).error.is_none().then_some(client)
        });
        let transfers = "CREATE TABLE transfers (user_id bigint, id bigint, amount bigint, PRIMARY KEY (user_id, id))";
        assert_eq!(client.query(transfers).tag(), "CREATE TABLE");
        for account in 0..ACCOUNTS {
            let insert = format!("INSERT INTO wallets VALUES ({account}, {DEPOSIT})");
            assert_eq!(client.query(&insert).tag(), "INSERT 0 1");
        }
        bank
    }

    fn connect(&self, router: usize) -> Option<Wire> {
        let port = self.routers[router].lock().unwrap().port();
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            return None;
        }
        let mut client = Wire::try_connect(port, &[("user", "app"), ("database", "app")]).ok()?;
        client.set_patience(Duration::from_secs(20));
        Some(client)
    }

    /// One client: a transfer after the other, over any router.
    fn serve(&self, mut random: Random) {
        let mut client = None;
        while !self.closed.load(Ordering::SeqCst) {
            let Some(wire) = &mut client else {
                let router = usize::try_from(random.below(ROUTERS as u64)).unwrap();
                client = self.connect(router);
                if client.is_none() {
                    thread::sleep(Duration::from_millis(20));
                }
                continue;
            };
            let id = self.next.fetch_add(1, Ordering::SeqCst);
            let (told, is_well) = transfer(wire, &mut random, id);
            self.told.lock().unwrap().insert(id, told);
            if !is_well || random.below(50) == 0 {
                client = None;
            }
        }
    }

    fn break_things(&self, random: &mut Random, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            thread::sleep(Duration::from_millis(100 + random.below(400)));
            let shard = usize::try_from(random.below(SHARDS as u64)).unwrap();
            let at = usize::try_from(random.below(ROUTERS as u64)).unwrap();
            let pause = Duration::from_millis(50 + random.below(1500));
            match random.below(5) {
                0 => {
                    let mut router = self.routers[at].lock().unwrap();
                    router.signal("KILL");
                    router.wait();
                    thread::sleep(pause);
                    *router = self::router(&self.cluster, &self.wires);
                }
                1 => {
                    let router = self.routers[at].lock().unwrap();
                    router.signal("STOP");
                    thread::sleep(pause * 2);
                    router.signal("CONT");
                }
                2 => {
                    self.cluster.primary(shard).kill();
                    thread::sleep(pause / 4);
                    self.cluster.primary(shard).start().unwrap();
                }
                3 => {
                    self.cluster.primary(shard).pause();
                    thread::sleep(pause);
                    self.cluster.primary(shard).resume();
                }
                _ => {
                    self.wires[shard].cut();
                    thread::sleep(pause / 2);
                    self.wires[shard].mend();
                }
            }
        }
    }

    /// What the shards say, past all routers.
    fn on_shards(&self, sql: &str) -> Option<Vec<String>> {
        let answers: Option<Vec<String>> =
            (0..SHARDS).map(|shard| self.cluster.primary(shard).psql(sql).ok()).collect();
        Some(answers?.iter().flat_map(|answer| answer.lines().map(str::to_owned).collect::<Vec<_>>()).collect())
    }

    fn check(&self, seed: u64) {
        wait_for("nothing in doubt", || {
            let counts = self.on_shards("SELECT count(*) FROM pg_prepared_xacts")?;
            // Nor anything that a router which has gone has left running.
            let open =
                "SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()";
            let open = self.on_shards(open)?;
            counts.iter().chain(&open).all(|count| count == "0").then_some(())
        });
        let rows = |sql: &str| -> Vec<Vec<i64>> {
            let lines = self.on_shards(sql).unwrap();
            lines.iter().map(|line| line.split('|').map(|field| field.parse().unwrap()).collect()).collect()
        };
        let mut sides: HashMap<u64, Vec<i64>> = HashMap::new();
        let mut moved: HashMap<i64, i64> = HashMap::new();
        for row in rows("SELECT user_id, id, amount FROM transfers") {
            sides.entry(u64::try_from(row[1]).unwrap()).or_default().push(row[2]);
            *moved.entry(row[0]).or_default() += row[2];
        }
        let balances = rows("SELECT user_id, balance FROM wallets");
        assert_eq!(balances.iter().map(|row| row[1]).sum::<i64>(), DEPOSIT * ACCOUNTS as i64, "seed {seed}");
        for row in &balances {
            assert_eq!(row[1], DEPOSIT + moved.get(&row[0]).copied().unwrap_or(0), "seed {seed}, account {}", row[0]);
        }
        let told = self.told.lock().unwrap();
        let count = |which| told.values().filter(|told| **told == which).count();
        let summary = [Told::Committed, Told::Undone, Told::GaveUp, Told::Nothing].map(|which| (which, count(which)));
        for (id, told) in told.iter() {
            let found = sides.get(id).map_or(&[][..], |found| &found[..]);
            assert!(
                found.is_empty() || (found.len() == 2 && found[0] + found[1] == 0),
                "seed {seed}: {id} is {found:?}"
            );
            match told {
                Told::Committed => assert_eq!(found.len(), 2, "seed {seed}: {id} was acknowledged, and is lost"),
                Told::Undone | Told::GaveUp => {
                    assert_eq!(found.len(), 0, "seed {seed}: {id} was told to be undone, and is there");
                }
                Told::Nothing => {}
            }
        }
        println!("seed {seed}: {summary:?}");
        assert!(count(Told::Committed) > 50, "seed {seed}: hardly anything was tried: {summary:?}");
    }
}

/// The built program, over wires that can be cut.
fn router(cluster: &Cluster, wires: &[Proxy]) -> Sluice {
    let mut config = cluster.database_config("app", "sharding_key = \"user_id\"\n");
    for (shard, wire) in wires.iter().enumerate() {
        config = config.replace(&format!(":{}/", cluster.primary(shard).port()), &format!(":{}/", wire.port));
    }
    Sluice::start(&format!("{SETTINGS}{config}"))
}

/// Moves money; also whether the connection is still good.
fn transfer(client: &mut Wire, random: &mut Random, id: u64) -> (Told, bool) {
    let from = random.below(ACCOUNTS);
    let to = (from + 1 + random.below(ACCOUNTS - 1)) % ACCOUNTS;
    let amount = 1 + random.below(20);
    let amount = i64::try_from(amount).unwrap();
    // In any order: two may wait for each other, over either router or both.
    let mut sides = [(from, -amount), (to, amount)];
    if random.below(2) == 0 {
        sides.reverse();
    }
    let mut statements = vec!["BEGIN".to_owned()];
    for (account, amount) in sides {
        statements.push(format!("UPDATE wallets SET balance = balance + {amount} WHERE user_id = {account}"));
        statements.push(format!("INSERT INTO transfers VALUES ({account}, {id}, {amount})"));
    }
    for statement in &statements {
        let answer = client.query(statement);
        if let Some(error) = &answer.error {
            let is_well = error.sqlstate() != wire::LOST && client.query("ROLLBACK").error.is_none();
            let told = if error.sqlstate() == "40P01" { Told::GaveUp } else { Told::Undone };
            return (told, is_well);
        }
    }
    let answer = client.query("COMMIT");
    match answer.sqlstate() {
        "" if answer.tag() == "COMMIT" => (Told::Committed, true),
        "08007" => (Told::Nothing, true),
        wire::LOST => (Told::Nothing, false),
        _ => (Told::Undone, true),
    }
}
