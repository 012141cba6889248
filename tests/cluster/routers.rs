//! Transactions through several routers of the same shards that wait for each other.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::running::{RULES, Running, database_config, databases, shared, superuser, wait_for};
use crate::support::wire::{self, Answer, Wire};

/// A deadlock is found within this, however busy the machine is; within two seconds when it is not.
const FOUND_TIME_MAX: Duration = Duration::from_secs(30);

struct Stage {
    shards: Vec<String>,
    routers: Vec<Running>,
    /// One user of each shard.
    users: Vec<u32>,
}

impl Stage {
    fn new(name: &str, shards: usize, routers: usize) -> Self {
        let shards = databases(name, shards);
        let admin = "[[user]]\nname = \"admin\"\nrole = \"admin\"\n[[user]]\nname = \"app\"\n";
        let config = format!("{admin}{}", database_config(shared(), &shards, RULES));
        let first = Running::start(&config);
        first.wait_until_ready();
        let mut owner = first.client();
        assert_eq!(owner.query("CREATE TABLE accounts (name bigint PRIMARY KEY, amount bigint)").sqlstate(), "");
        let rows: String = (1..=100).map(|id| format!("{id}\t100\n")).collect();
        assert_eq!(owner.copy("COPY accounts FROM STDIN", rows.as_bytes()).tag(), "COPY 100");
        let others = (1..routers).map(|_| Running::start(&config));
        let routers: Vec<Running> = std::iter::once(first).chain(others).collect();
        routers.iter().for_each(Running::wait_until_ready);
        let least = |shard: &String| superuser(shared(), shard).text("SELECT min(name) FROM accounts").parse().unwrap();
        let users = shards.iter().map(least).collect();
        Self { shards, routers, users }
    }

    fn begin(&self, router: usize, shard: usize) -> Wire {
        let mut client = self.routers[router].client();
        assert_eq!(client.query("BEGIN").tag(), "BEGIN");
        assert_eq!(client.query(&self.lock(shard)).tag(), "SELECT 1");
        client
    }

    fn lock(&self, shard: usize) -> String {
        format!("SELECT amount FROM accounts WHERE name = {} FOR UPDATE", self.users[shard])
    }

    /// What the routers have told each other.
    fn entries(&self) -> String {
        superuser(shared(), &self.shards[0]).text("SELECT count(*) FROM sluice.waiting")
    }
}

/// The parts of a deadlock's error that PostgreSQL has, too.
fn assert_is_victim(answer: &Answer, processes: &[i32]) {
    let error = answer.error.as_ref().unwrap();
    assert_eq!((error.sqlstate(), error.message()), ("40P01", "deadlock detected"));
    let lines: Vec<&str> = error.field(b'D').lines().collect();
    assert_eq!(lines.len(), processes.len(), "{lines:?}");
    for (at, line) in lines.iter().enumerate() {
        let (head, next) = line.split_once("; blocked by process ").unwrap();
        let next: i32 = next.trim_end_matches('.').parse().unwrap();
        assert!(processes.contains(&next), "{line}");
        let next_line = lines[(at + 1) % lines.len()];
        assert!(next_line.starts_with(&format!("Process {next} waits for ")), "{lines:?}");
        assert!(head.contains("waits for ") && head.contains(" on shard \""), "{line}");
    }
    assert_eq!(answer.status, b'E', "the whole transaction has failed");
}

/// Each client, of a router of its own, locks a row of its own shard, then the next one's.
fn ring(name: &str, count: usize, routers: usize) {
    let stage = Stage::new(name, count, routers);
    let mut clients: Vec<Wire> = (0..count).map(|shard| stage.begin(shard % routers, shard)).collect();
    let processes: Vec<i32> = clients.iter().map(|client| client.pid).collect();
    let began = Instant::now();
    for (at, client) in clients.iter_mut().enumerate() {
        client.send(&wire::query(&stage.lock((at + 1) % count)));
    }
    // They began at almost the same moment, so any may be taken for the youngest, but only one.
    let victims: Vec<Answer> = thread::scope(|scope| {
        let go_on = |client: &mut Wire| {
            let answer = client.answer(b"");
            let end = if answer.error.is_none() { "COMMIT" } else { "ROLLBACK" };
            assert_eq!(client.query(end).tag(), end, "its connection is as good as before");
            answer
        };
        let waiting: Vec<_> = clients.iter_mut().map(|client| scope.spawn(move || go_on(client))).collect();
        let answers = waiting.into_iter().map(|thread| thread.join().unwrap());
        answers.filter(|answer| answer.error.is_some()).collect()
    });
    let found = began.elapsed();
    println!("found after {found:?}");
    assert!(found < FOUND_TIME_MAX, "{found:?}");
    assert_eq!(victims.len(), 1, "{victims:?}");
    assert_is_victim(&victims[0], &processes);
    wait_for("nothing to be left that is told", || (stage.entries() == "0").then_some(()));
}

#[test]
fn of_two_that_cross_over_two_routers_one_gives_up() {
    ring("crossed_routers", 2, 2);
}

#[test]
fn a_ring_over_three_routers_has_one_victim() {
    ring("three_routers", 3, 3);
}

#[test]
fn a_ring_may_go_through_two_clients_of_one_router_and_one_of_another() {
    ring("mixed_routers", 3, 2);
}

/// However long a row of waits over two routers lasts, nobody gives up.
#[test]
fn a_row_of_waits_over_two_routers_is_no_ring() {
    let stage = Stage::new("routers_row", 2, 2);
    let mut first = stage.begin(0, 0);
    let mut second = stage.begin(1, 1);
    second.send(&wire::query(&stage.lock(0)));
    let mut third = stage.routers[0].client();
    third.send(&wire::query(&stage.lock(1)));
    wait_for("the wait between strangers to be told", || (stage.entries() == "1").then_some(()));
    let looked_at = "SELECT count(*) FROM sluice.waiting WHERE seen > began + interval '3 s'";
    wait_for("many looks", || (superuser(shared(), &stage.shards[0]).text(looked_at) == "1").then_some(()));
    assert_eq!(first.query("COMMIT").tag(), "COMMIT");
    assert_eq!(second.answer(b"").tag(), "SELECT 1");
    assert_eq!(second.query("COMMIT").tag(), "COMMIT");
    assert_eq!(third.answer(b"").tag(), "SELECT 1");
    wait_for("nothing to be left that is told", || (stage.entries() == "0").then_some(()));
}

/// Whoever looks at one router sees that another's client is waited for, and what it has run.
#[test]
fn show_waiting_tells_of_holders_behind_other_routers() {
    let stage = Stage::new("routers_console", 2, 2);
    let mut first = stage.begin(0, 0);
    let process = first.text("SELECT pg_backend_pid()");
    let mut second = stage.routers[1].client();
    second.send(&wire::query(&stage.lock(0)));
    let mut console = Wire::connect(stage.routers[1].port, "admin", "sluice");
    let holder =
        format!(", held by process {process}, which serves no client of this router, with: SELECT pg_backend_pid()|1|");
    wait_for("the holder to be seen", || console.query("SHOW WAITING").text().contains(&holder).then_some(()));
    assert_eq!(first.query("COMMIT").tag(), "COMMIT");
    assert_eq!(second.answer(b"").tag(), "SELECT 1");
}

/// Transfers between few rows of two shards in any order, over two routers: some give up, none waits for ever.
#[test]
fn transfers_in_any_order_over_two_routers_all_end() {
    const CLIENTS: u64 = 6;
    const TRANSFERS: usize = 25;
    let stage = Stage::new("routers_transfers", 2, 2);
    let work = |seed: u64| {
        let mut client = stage.routers[usize::try_from(seed % 2).unwrap()].client();
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % 8 + 1
        };
        let (mut done, mut gave_up) = (0, 0);
        while done < TRANSFERS {
            let (from, to) = (next(), next());
            assert_eq!(client.query("BEGIN").tag(), "BEGIN");
            let add =
                |name: u64, amount: i32| format!("UPDATE accounts SET amount = amount + {amount} WHERE name = {name}");
            let mut answer = client.query(&add(from, -1));
            if answer.sqlstate().is_empty() {
                answer = client.query(&add(to, 1));
            }
            match answer.sqlstate() {
                "" => {
                    assert_eq!(client.query("COMMIT").tag(), "COMMIT");
                    done += 1;
                }
                "40P01" => {
                    assert_eq!(client.query("ROLLBACK").tag(), "ROLLBACK");
                    gave_up += 1;
                }
                _ => panic!("{answer:?}"),
            }
        }
        gave_up
    };
    let gave_up: usize = thread::scope(|scope| {
        let work = &work;
        let clients: Vec<_> = (1..=CLIENTS).map(|seed| scope.spawn(move || work(seed))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    println!("{gave_up} gave up");
    assert!(gave_up < 75, "{gave_up} gave up: not everybody may");
    assert_eq!(stage.routers[0].client().text("SELECT sum(amount) FROM accounts"), "10000");
}

/// Two INSERTs of the same keys may store them on two shards in opposite orders. One of the two is done; the other hears of the
/// keys that are there, or has to give up.
#[test]
fn of_two_inserts_of_the_same_keys_one_is_done() {
    const ROUNDS: usize = 25;
    let stage = Stage::new("routers_inserts", 2, 2);
    let mut owner = stage.routers[0].client();
    let rows: Vec<String> = (201..=230).map(|id| format!("({id}, 1)")).collect();
    let insert = format!("INSERT INTO accounts VALUES {}", rows.join(", "));
    let mut clients: Vec<Wire> = stage.routers.iter().map(Running::client).collect();
    let mut gave_up = 0;
    for _ in 0..ROUNDS {
        clients.iter_mut().for_each(|client| client.send(&wire::query(&insert)));
        let mut told: Vec<String> = clients.iter_mut().map(|client| client.answer(b"").sqlstate().to_owned()).collect();
        told.sort();
        assert_eq!(told[0], "");
        assert!(["23505", "40P01"].contains(&&*told[1]), "{told:?}");
        gave_up += usize::from(told[1] == "40P01");
        assert_eq!(owner.query("DELETE FROM accounts WHERE name > 200").tag(), "DELETE 30");
    }
    println!("{gave_up} of {ROUNDS} gave up");
}

/// A router may come before the one whose user owns the schema: commits over shards need nothing new.
#[test]
fn the_tables_of_an_older_version_of_another_user_are_good_enough_to_commit() {
    let shards = databases("routers_older", 2);
    for shard in &shards {
        let mut owner = superuser(shared(), shard);
        let first = include_str!("../../migrations/0001_decision.sql");
        let make = format!(
            "CREATE SCHEMA sluice; CREATE TABLE sluice.migration (number int PRIMARY KEY, made timestamptz DEFAULT now()); \
             {first}; INSERT INTO sluice.migration VALUES (1)"
        );
        assert_eq!(owner.query(&make).sqlstate(), "");
    }
    let router = Running::over(&shards);
    let mut client = router.client();
    assert_eq!(client.query("CREATE TABLE accounts (name bigint PRIMARY KEY, amount bigint)").sqlstate(), "");
    assert_eq!(client.query("INSERT INTO accounts SELECT id, 1 FROM generate_series(1, 20) AS id").sqlstate(), "");
    assert_eq!(client.query("UPDATE accounts SET amount = 2").tag(), "UPDATE 20");
}

/// Routers that log in as different users find each other's clients, if both may write where they are told.
#[test]
fn routers_of_different_users_need_a_grant() {
    let stage = Stage::new("routers_users", 2, 1);
    let mut owner = superuser(shared(), &stage.shards[0]);
    owner.query("DO $$ BEGIN CREATE ROLE neighbour LOGIN; EXCEPTION WHEN duplicate_object THEN END $$");
    for shard in &stage.shards {
        assert_eq!(superuser(shared(), shard).query("GRANT ALL ON accounts TO neighbour").sqlstate(), "");
    }
    let grant = "GRANT SELECT, INSERT, UPDATE, DELETE ON sluice.waiting TO neighbour";
    assert_eq!(owner.query(grant).sqlstate(), "");
    let config = database_config(shared(), &stage.shards, RULES).replace("//app:app@", "//neighbour@");
    assert!(config.contains("neighbour"), "{config}");
    let other = Running::start(&config);
    other.wait_until_ready();
    let mut first = stage.begin(0, 0);
    let mut second = other.client();
    assert_eq!(second.query("BEGIN").tag(), "BEGIN");
    assert_eq!(second.query(&stage.lock(1)).tag(), "SELECT 1");
    assert_eq!(second.text("SELECT current_user"), "neighbour");
    first.send(&wire::query(&stage.lock(1)));
    second.send(&wire::query(&stage.lock(0)));
    // Whoever gives up, the other goes on.
    let (first_told, second_told) = thread::scope(|scope| {
        let first = scope.spawn(|| first.answer(b""));
        (first.join().unwrap(), second.answer(b""))
    });
    let (victim, other) = match first_told.error {
        Some(_) => (first_told, second_told),
        None => (second_told, first_told),
    };
    assert_is_victim(&victim, &[first.pid, second.pid]);
    assert_eq!(other.tag(), "SELECT 1");
}
