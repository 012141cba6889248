//! No row reaches the wrong client: many clients share two servers of each shard, every one asks for
//! rows that carry its own tag and checks each row that comes, while clients vanish, stall and cancel
//! and servers are killed.
//!
//! `SLUICE_TAGGED_SECONDS` says how long, `SLUICE_SEED` what is asked in which order.

use std::collections::{BTreeMap, VecDeque};
use std::env;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::running::{Running, database_config, databases, shared, superuser, wait_for};
use crate::support::wire::{self, Wire};

const CLIENTS: u64 = 16;
const SHARDS: usize = 2;
const USERS: u64 = 100;

/// Nothing that is asked for takes as long.
const HUNG: Duration = Duration::from_secs(30);

/// What a client may hear when somebody is killed or cancelled; anything else is a bug.
const TOLERATED: [&str; 6] = ["57014", "57P01", "08006", "08007", "25P02", "22012"];

#[test]
fn no_row_reaches_the_wrong_client() {
    let seconds = number_from("SLUICE_TAGGED_SECONDS", 4);
    let seed = number_from("SLUICE_SEED", 1);
    let shards = databases("tagged", SHARDS);
    let config = "[pool]\nsize = 2\nwait_timeout = \"20s\"\nprepared_statements_max = 3\n".to_owned();
    let rules = "sharding_key = \"user_id\"";
    let router = Running::start(&(config + &database_config(shared(), &shards, rules)));
    router.wait_until_ready();
    let mut owner = router.client();
    assert_eq!(owner.query("CREATE TABLE tagged (user_id bigint PRIMARY KEY, pad text)").sqlstate(), "");
    let rows: String = (1..=USERS).map(|user| format!("{user}\tpad of {user}\n")).collect();
    assert_eq!(owner.copy("COPY tagged FROM STDIN", rows.as_bytes()).sqlstate(), "");

    let until = Instant::now() + Duration::from_secs(seconds);
    let checked = AtomicU64::new(0);
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (port, checked) = (router.port, &checked);
            scope.spawn(move || {
                let dice = Dice(seed.wrapping_mul(1_000).wrapping_add(number));
                let mut client = Client::new(port, number, dice);
                while Instant::now() < until {
                    client.round();
                }
                checked.fetch_add(client.rows, Relaxed);
            });
        }
        scope.spawn(|| kill_servers(&shards, until, Dice(seed ^ 0x6b69_6c6c)));
    });
    let checked = checked.into_inner();
    println!("{checked} rows checked in {seconds} s, seed {seed}");
    assert!(checked > 1_000, "only {checked} rows came");
    wait_for("the router to serve as before", || {
        let count = router.client().query("SELECT count(*) FROM tagged");
        (count.sqlstate().is_empty() && count.text() == USERS.to_string()).then_some(())
    });
}

fn number_from(name: &str, default: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Ends a server of the router's now and then.
fn kill_servers(shards: &[String], until: Instant, mut dice: Dice) {
    let mut shards: Vec<Wire> = shards.iter().map(|shard| superuser(shared(), shard)).collect();
    while Instant::now() < until {
        thread::sleep(Duration::from_millis(50 + dice.below(250)));
        let shard = usize::try_from(dice.below(SHARDS as u64)).unwrap();
        shards[shard].query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND usename = 'app' ORDER BY random() LIMIT 1",
        );
    }
}

/// Splitmix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// How a request ended.
#[derive(Debug, PartialEq)]
enum Outcome {
    Ready,
    /// With this SQLSTATE.
    Failed(String),
    /// The connection is gone.
    Lost,
}

struct Client {
    port: u16,
    number: u64,
    dice: Dice,
    wire: Wire,
    request: u64,
    /// Rows checked.
    rows: u64,
    /// Named statements of this connection: name -> the tag in its text.
    prepared: BTreeMap<String, String>,
    /// What was asked last and how it ended, for the message when a check fails.
    history: VecDeque<String>,
}

impl Client {
    fn new(port: u16, number: u64, dice: Dice) -> Self {
        let wire = Wire::connect(port, "app", "app");
        Self { port, number, dice, wire, request: 0, rows: 0, prepared: BTreeMap::new(), history: VecDeque::new() }
    }

    /// One request, and what it ought to bring.
    fn round(&mut self) {
        self.request += 1;
        let tag = format!("{}/{}", self.number, self.request);
        if self.history.len() > 40 {
            self.history.drain(..20);
        }
        let kind = self.dice.below(16);
        let began = Instant::now();
        self.history.push_back(format!("{tag} of kind {kind}"));
        let outcome = match kind {
            0..=2 => self.simple(&tag),
            3..=5 => self.pipeline(&tag),
            6 | 7 => self.named(&tag),
            8 => self.transaction(&tag),
            9 => self.setting(&tag),
            10 | 11 => self.over_shards(&tag),
            12 => self.copy_out(&tag),
            13 => self.cancelled(&tag),
            14 => self.portal(&tag),
            _ => return self.vanish(&tag),
        };
        self.history.push_back(format!("{outcome:?}"));
        match outcome {
            Outcome::Ready => {}
            Outcome::Failed(sqlstate) => {
                assert!(TOLERATED.contains(&sqlstate.as_str()), "{tag}: {sqlstate} after {:?}", self.history);
                let outcome = self.ask("ROLLBACK", &tag);
                if outcome != Outcome::Ready {
                    self.connect();
                }
            }
            Outcome::Lost => {
                assert!(began.elapsed() < HUNG, "{tag}: no answer after {:?}", self.history);
                self.connect();
            }
        }
    }

    fn connect(&mut self) {
        self.wire = Wire::connect(self.port, "app", "app");
        self.prepared.clear();
    }

    fn ask(&mut self, sql: &str, tag: &str) -> Outcome {
        self.send(&wire::query(sql));
        self.read(tag)
    }

    /// In pieces, as networks deliver them.
    fn send(&mut self, bytes: &[u8]) {
        let cut = match self.dice.below(3) {
            0 => usize::try_from(self.dice.below(bytes.len() as u64)).unwrap(),
            _ => 0,
        };
        self.wire.send(&bytes[..cut]);
        if cut > 0 {
            thread::sleep(Duration::from_micros(self.dice.below(2_000)));
        }
        self.wire.send(&bytes[cut..]);
    }

    /// Reads up to ReadyForQuery; every row must carry the tag.
    fn read(&mut self, tag: &str) -> Outcome {
        let mut failed = None;
        loop {
            let Ok(message) = self.wire.message() else { return Outcome::Lost };
            match message.tag {
                b'D' => {
                    let length = u32::from_be_bytes(message.body[2..6].try_into().unwrap()) as usize;
                    self.check(&message.body[6..6 + length], tag);
                }
                b'd' => {
                    let end = message.body.iter().position(|byte| matches!(byte, b'\t' | b'\n')).unwrap();
                    self.check(&message.body[..end], tag);
                }
                b'E' => {
                    failed.get_or_insert_with(|| wire::sqlstate(&message.body));
                }
                b'Z' => return failed.map_or(Outcome::Ready, Outcome::Failed),
                _ => {}
            }
        }
    }

    fn check(&mut self, seen: &[u8], tag: &str) {
        assert_eq!(String::from_utf8_lossy(seen), tag, "a row of somebody else, after {:?}", self.history);
        self.rows += 1;
    }

    fn simple(&mut self, tag: &str) -> Outcome {
        let rows = self.dice.below(300);
        let series = format!("SELECT '{tag}', repeat('x', {}) FROM generate_series(1, {rows})", rows / 3);
        match self.dice.below(3) {
            0 => self.ask(&series, tag),
            1 => self.ask(&format!("{series}; SELECT '{tag}'; {series}"), tag),
            _ => self.ask(&format!("{series}; SELECT 1 / 0; SELECT 'never'"), tag),
        }
    }

    /// Several statements before one Sync, cut by Flush, with or without an error in the middle.
    fn pipeline(&mut self, tag: &str) -> Outcome {
        let mut out = Vec::new();
        // Whoever holds a server of a shard may wait for one of a later shard only: with two servers
        // each, others would wait for each other until a timeout.
        let user = 1 + self.dice.below(USERS);
        let elsewhere = match self.dice.below(2) {
            0 => format!("SELECT '{tag}', user_id FROM tagged WHERE user_id = {user}"),
            _ => format!("SELECT '{tag}' FROM tagged WHERE user_id < {user} ORDER BY user_id LIMIT 9"),
        };
        for _ in 0..=self.dice.below(4) {
            let (sql, values) = match self.dice.below(5) {
                0 => ("SELECT $1::text, 1 / 0".to_owned(), vec![Some(tag)]),
                1 | 2 => (elsewhere.clone(), vec![]),
                _ => ("SELECT $1::text, g FROM generate_series(1, 40) g".to_owned(), vec![Some(tag)]),
            };
            out.extend(wire::parse("", &sql));
            out.extend(wire::bind("", "", &values, self.dice.below(2) == 0));
            if self.dice.below(2) == 0 {
                out.extend(wire::message(b'D', b"P\0"));
            }
            out.extend(wire::execute(""));
            if self.dice.below(3) == 0 {
                out.extend(wire::message(b'H', b""));
            }
        }
        out.extend(wire::sync());
        self.send(&out);
        self.read(tag)
    }

    /// Named statements whose text holds the tag of the request that prepared them.
    fn named(&mut self, tag: &str) -> Outcome {
        let name = format!("s{}", self.dice.below(5));
        let mut out = Vec::new();
        let expected = match self.prepared.get(&name) {
            Some(known) if self.dice.below(4) > 0 => known.clone(),
            known => {
                if known.is_some() {
                    out.extend(wire::message(b'C', format!("S{name}\0").as_bytes()));
                }
                out.extend(wire::parse(&name, &format!("SELECT '{tag}' FROM generate_series(1, $1::int)")));
                tag.to_owned()
            }
        };
        out.extend(wire::bind("", &name, &[Some("3")], false));
        out.extend(wire::execute(""));
        out.extend(wire::sync());
        self.send(&out);
        let outcome = self.read(&expected);
        self.history.push_back(format!("{name} {expected} {outcome:?}"));
        match outcome {
            Outcome::Ready => drop(self.prepared.insert(name, expected)),
            Outcome::Lost => {}
            // Whether it is prepared is known again after this.
            Outcome::Failed(_) => {
                self.prepared.remove(&name);
                self.send(&[wire::message(b'C', format!("S{name}\0").as_bytes()), wire::sync()].concat());
                if self.read("nothing") == Outcome::Lost {
                    return Outcome::Lost;
                }
            }
        }
        outcome
    }

    fn transaction(&mut self, tag: &str) -> Outcome {
        let user = 1 + self.dice.below(USERS);
        let mut last = Outcome::Ready;
        for sql in [
            "BEGIN".to_owned(),
            format!("SELECT '{tag}' FROM tagged WHERE user_id = {user} FOR UPDATE"),
            // A transaction over two shards may wait for one that waits for it, until a timeout.
            format!("SELECT '{tag}', pad FROM tagged WHERE user_id = {user}"),
            if self.dice.below(3) == 0 { "SELECT 1 / 0".to_owned() } else { "COMMIT".to_owned() },
            "ROLLBACK".to_owned(),
        ] {
            last = self.ask(&sql, tag);
            if last == Outcome::Lost {
                break;
            }
        }
        last
    }

    /// A setting follows its client from server to server.
    fn setting(&mut self, tag: &str) -> Outcome {
        let set = self.ask(&format!("SET app.tag = '{tag}'"), tag);
        if set != Outcome::Ready {
            return set;
        }
        for sql in ["SHOW app.tag", "SELECT current_setting('app.tag')"] {
            let outcome = self.ask(sql, tag);
            if outcome != Outcome::Ready {
                return outcome;
            }
        }
        self.ask("RESET app.tag", tag)
    }

    fn over_shards(&mut self, tag: &str) -> Outcome {
        let limit = 1 + self.dice.below(USERS);
        let sql = format!("SELECT $1::text, user_id, pad FROM tagged ORDER BY user_id DESC LIMIT {limit}");
        if self.dice.below(2) == 0 {
            return self.ask(&sql.replace("$1::text", &format!("'{tag}'")), tag);
        }
        let binary = self.dice.below(2) == 0;
        self.send(
            &[wire::parse("", &sql), wire::bind("", "", &[Some(tag)], binary), wire::execute(""), wire::sync()]
                .concat(),
        );
        self.read(tag)
    }

    fn copy_out(&mut self, tag: &str) -> Outcome {
        let rows = self.dice.below(200);
        self.ask(&format!("COPY (SELECT '{tag}', g FROM generate_series(1, {rows}) g) TO STDOUT"), tag)
    }

    /// The cancel comes before, while or after the statement runs.
    fn cancelled(&mut self, tag: &str) -> Outcome {
        self.send(&wire::query(&format!("SELECT '{tag}' FROM pg_sleep(0.02)")));
        thread::sleep(Duration::from_millis(self.dice.below(30)));
        Wire::open(self.port).send(&wire::cancel(self.wire.pid, &self.wire.secret));
        self.read(tag)
    }

    /// A portal that is read in parts, over one transaction.
    fn portal(&mut self, tag: &str) -> Outcome {
        let mut some = b"p\0".to_vec();
        some.extend(7_u32.to_be_bytes());
        let some = wire::message(b'E', &some);
        let begin = self.ask("BEGIN", tag);
        if begin != Outcome::Ready {
            return begin;
        }
        let sql = "SELECT $1::text, g FROM generate_series(1, 20) g";
        let bind = wire::bind("p", "", &[Some(tag)], false);
        self.send(&[wire::parse("", sql), bind, some.clone(), wire::sync()].concat());
        let mut outcome = self.read(tag);
        if outcome == Outcome::Ready {
            self.send(&[some, wire::sync()].concat());
            outcome = self.read(tag);
        }
        match outcome {
            Outcome::Ready => self.ask("COMMIT", tag),
            other => other,
        }
    }

    /// Leaves in the middle of something, or reads nothing for a while.
    fn vanish(&mut self, tag: &str) {
        let large = format!("SELECT '{tag}', repeat('y', 1000) FROM generate_series(1, 3000)");
        match self.dice.below(4) {
            0 => self.wire.send(&wire::query(&large)),
            1 => self.wire.send(&wire::query(&large)[..20]),
            2 => {
                self.ask("BEGIN", tag);
                self.wire.send(&[wire::parse("", &large), wire::bind("", "", &[], false), wire::execute("")].concat());
            }
            _ => {
                self.wire.send(&wire::query(&large));
                thread::sleep(Duration::from_millis(20 + self.dice.below(100)));
                if self.read(tag) != Outcome::Ready {
                    self.connect();
                }
                return;
            }
        }
        thread::sleep(Duration::from_millis(self.dice.below(20)));
        self.connect();
    }
}
