//! Transactions that wait for each other over shards: one gives up with PostgreSQL's error, the others go on.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::running::{RULES, Running, database_config, databases, shared, superuser, wait_for};
use crate::support::wire::{self, Answer, Wire};

/// A deadlock is found within this, however busy the machine is.
const FOUND_TIME_MAX: Duration = Duration::from_secs(30);

struct Stage {
    shards: Vec<String>,
    router: Running,
    /// One user of each shard.
    users: Vec<u32>,
}

impl Stage {
    fn new(name: &str, count: usize, settings: &str) -> Self {
        let shards = databases(name, count);
        let admin = "[[user]]\nname = \"admin\"\nrole = \"admin\"\n[[user]]\nname = \"app\"\n";
        let router = Running::start(&format!("{admin}{}{settings}", database_config(shared(), &shards, RULES)));
        router.wait_until_ready();
        let mut owner = router.client();
        assert_eq!(owner.query("CREATE TABLE accounts (name bigint PRIMARY KEY, amount bigint)").sqlstate(), "");
        let rows: String = (1..=100).map(|id| format!("{id}\t100\n")).collect();
        assert_eq!(owner.copy("COPY accounts FROM STDIN", rows.as_bytes()).tag(), "COPY 100");
        let first = |shard: &String| superuser(shared(), shard).text("SELECT min(name) FROM accounts").parse().unwrap();
        let users = shards.iter().map(first).collect();
        Self { shards, router, users }
    }

    fn begin(&self, shard: usize) -> Wire {
        let mut client = self.router.client();
        assert_eq!(client.query("BEGIN").tag(), "BEGIN");
        assert_eq!(client.query(&self.lock(shard)).tag(), "SELECT 1");
        client
    }

    fn lock(&self, shard: usize) -> String {
        format!("SELECT amount FROM accounts WHERE name = {} FOR UPDATE", self.users[shard])
    }

    fn console(&self) -> Wire {
        Wire::connect(self.router.port, "admin", "sluice")
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
        assert!(head.contains("waits for "), "{line}");
    }
    assert!(error.field(b'W').contains("while locking tuple"), "{error:?}");
    assert_eq!(answer.status, b'E', "the whole transaction has failed");
}

/// Each client locks a row of its own shard, then the next one's; the last to have begun gives up.
fn ring(name: &str, count: usize, extended: bool) {
    let stage = Stage::new(name, count, "");
    let mut clients: Vec<Wire> = (0..count).map(|shard| stage.begin(shard)).collect();
    let processes: Vec<i32> = clients.iter().map(|client| client.pid).collect();
    let began = Instant::now();
    for (at, client) in clients.iter_mut().enumerate() {
        let lock = stage.lock((at + 1) % count);
        let request = match extended {
            false => wire::query(&lock),
            true => [wire::parse("", &lock), wire::bind("", "", &[], false), wire::execute(""), wire::sync()].concat(),
        };
        client.send(&request);
    }
    let mut victim = clients.pop().unwrap();
    assert_is_victim(&victim.answer(b""), &processes);
    assert!(began.elapsed() < FOUND_TIME_MAX, "{:?}", began.elapsed());
    // Before the victim has rolled back: its locks are gone already, on all shards. Its predecessor goes on first.
    for client in clients.iter_mut().rev() {
        assert_eq!(client.answer(b"").sqlstate(), "");
        assert_eq!(client.query("COMMIT").tag(), "COMMIT");
    }
    assert_eq!(victim.query("SELECT 1").sqlstate(), "25P02");
    assert_eq!(victim.query("COMMIT").tag(), "ROLLBACK");
    assert_eq!(victim.query(&stage.lock(0)).tag(), "SELECT 1", "its connection is as good as before");
    assert_eq!(victim.text("SELECT count(*) FROM accounts"), "100");
}

#[test]
fn of_two_that_cross_the_younger_gives_up() {
    ring("crossed", 2, false);
}

#[test]
fn a_ring_over_three_shards_is_broken_in_the_extended_protocol_too() {
    ring("ring", 3, true);
}

/// A long wait that will end is nobody's business.
#[test]
fn without_a_ring_nobody_gives_up() {
    let stage = Stage::new("chain", 2, "");
    let mut first = stage.begin(0);
    let mut second = stage.begin(1);
    second.send(&wire::query(&stage.lock(0)));
    let mut third = stage.router.client();
    assert_eq!(third.query("BEGIN; SELECT count(*) FROM accounts").sqlstate(), "");
    third.send(&wire::query(&stage.lock(1)));
    let long = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted \
                AND a.datname = current_database() AND l.waitstart < clock_timestamp() - interval '2.5 s'";
    let waits_long = |shard: &String| superuser(shared(), shard).text(long) == "1";
    wait_for("both to wait for long", || stage.shards.iter().all(waits_long).then_some(()));
    assert_eq!(first.query("COMMIT").tag(), "COMMIT");
    assert_eq!(second.answer(b"").tag(), "SELECT 1");
    assert_eq!(second.query("COMMIT").tag(), "COMMIT");
    assert_eq!(third.answer(b"").tag(), "SELECT 1");
}

/// What one PostgreSQL sees, it breaks itself: one error, and not two.
#[test]
fn a_ring_on_one_shard_is_left_to_postgresql() {
    let stage = Stage::new("within", 2, "");
    let second_user = superuser(shared(), &stage.shards[0]).text("SELECT max(name) FROM accounts");
    let lock_second = format!("SELECT amount FROM accounts WHERE name = {second_user} FOR UPDATE");
    let mut clients = [stage.begin(1), stage.router.client()];
    assert_eq!(clients[0].query(&stage.lock(0)).tag(), "SELECT 1");
    assert_eq!(clients[1].query("BEGIN; SELECT count(*) FROM accounts").sqlstate(), "");
    assert_eq!(clients[1].query(&lock_second).tag(), "SELECT 1");
    clients[0].send(&wire::query(&lock_second));
    clients[1].send(&wire::query(&stage.lock(0)));
    let answers = clients.each_mut().map(|client| client.answer(b""));
    let failed: Vec<&Answer> = answers.iter().filter(|answer| answer.sqlstate() == "40P01").collect();
    assert_eq!(failed.len(), 1, "{answers:?}");
    assert!(failed[0].error.as_ref().unwrap().field(b'H').contains("server log"), "{failed:?}");
}

/// Each has the only server of one shard and is in the queue for the other's.
#[test]
fn those_who_wait_for_each_others_servers_go_on() {
    let stage = Stage::new("queues", 2, "[pool]\nsize = 1\nwait_timeout = \"60s\"\n");
    let mut first = stage.begin(0);
    let mut second = stage.begin(1);
    first.send(&wire::query(&stage.lock(1)));
    second.send(&wire::query(&stage.lock(0)));
    let answer = second.answer(b"");
    let error = answer.error.as_ref().unwrap();
    assert_eq!((error.sqlstate(), answer.status), ("40P01", b'E'));
    let detail = format!(
        "Process {second} waits for a server of shard \"{}\"; blocked by process {first}.\n\
         Process {first} waits for a server of shard \"{}\"; blocked by process {second}.",
        stage.shards[0],
        stage.shards[1],
        first = first.pid,
        second = second.pid
    );
    assert_eq!(error.field(b'D'), detail);
    assert_eq!(second.query("ROLLBACK").tag(), "ROLLBACK");
    assert_eq!(first.answer(b"").tag(), "SELECT 1");
    assert_eq!(first.query("COMMIT").tag(), "COMMIT");
}

/// Whoever gives up within a savepoint can go back to it, as in PostgreSQL.
#[test]
fn a_victim_goes_back_to_its_savepoint() {
    let stage = Stage::new("savepoint", 2, "");
    let mut first = stage.begin(0);
    let mut second = stage.router.client();
    assert_eq!(second.query("BEGIN; SELECT count(*) FROM accounts; SAVEPOINT before").sqlstate(), "");
    assert_eq!(second.query(&stage.lock(1)).tag(), "SELECT 1");
    first.send(&wire::query(&stage.lock(1)));
    second.send(&wire::query(&stage.lock(0)));
    // Whoever took its first server earlier is the older one.
    assert_eq!(second.answer(b"").sqlstate(), "40P01");
    assert_eq!(first.answer(b"").tag(), "SELECT 1");
    assert_eq!(second.query("ROLLBACK TO before").tag(), "ROLLBACK");
    assert_eq!(first.query("COMMIT").tag(), "COMMIT");
    assert_eq!(second.query(&stage.lock(0)).tag(), "SELECT 1");
    assert_eq!(second.query("COMMIT").tag(), "COMMIT");
}

/// A thousand transactions that change two of few rows in any order, over pools with less room than there are clients.
#[test]
fn transfers_in_any_order_all_end() {
    const CLIENTS: u64 = 8;
    const TRANSFERS: usize = 125;
    let stage = Stage::new("transfers", 2, "[pool]\nsize = 6\n");
    let work = |seed: u64| {
        let mut client = stage.router.client();
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % 60 + 1
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
        let clients: Vec<_> = (1..=CLIENTS)
            .map(|seed| {
                scope.spawn({
                    let work = &work;
                    move || work(seed)
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert!(gave_up < 500, "{gave_up} gave up: not everybody may");
    let total = stage.router.client().text("SELECT sum(amount) FROM accounts");
    assert_eq!(total, "10000");
}

/// The console tells who waits for a lock and who holds it, with what both have run, also past the router.
#[test]
fn show_waiting_tells_of_locks() {
    let stage = Stage::new("console", 2, "");
    let mut first = stage.begin(0);
    let mut second = stage.router.client();
    second.send(&wire::query(&stage.lock(0)));
    let mut console = stage.console();
    let row = wait_for("the wait to be seen", || {
        let answer = console.query("SHOW WAITING").text();
        (answer.lines().count() == 1 && answer.contains("|ShareLock")).then_some(answer)
    });
    let cells: Vec<&str> = row.split('|').collect();
    let statement = "SELECT amount FROM accounts WHERE name = $1 FOR UPDATE";
    assert_eq!((cells[3], cells[6]), (&*stage.shards[0], statement), "{row}");
    assert!(cells[7].starts_with("ShareLock on transaction "), "{row}");
    assert_eq!((cells[8], cells[10], cells[14]), ("1", "app", statement), "{row}");
    assert_eq!(first.query("COMMIT").tag(), "COMMIT");
    assert_eq!(second.answer(b"").tag(), "SELECT 1");
    let mut other = superuser(shared(), &stage.shards[1]);
    assert_eq!(other.query("BEGIN; LOCK TABLE accounts").sqlstate(), "");
    second.send(&wire::query(&stage.lock(1)));
    let process = other.text("SELECT pg_backend_pid()");
    wait_for("the wait for a stranger", || {
        // The router's user may not see what a superuser runs.
        let holder = format!(", held by process {process}, which serves no client of this router|1|");
        console.query("SHOW WAITING").text().contains(&holder).then_some(())
    });
    assert_eq!(other.query("COMMIT").tag(), "COMMIT");
    assert_eq!(second.answer(b"").tag(), "SELECT 1");
}
