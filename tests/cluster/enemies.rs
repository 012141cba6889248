//! Writes over shards under whatever goes wrong beside them: all of it or none, once, and never for ever.

use std::thread;
use std::time::{Duration, Instant};

use pgsluice_sharding::{Key, ShardMap};

use crate::support::proxy::Proxy;
use crate::support::running::{RULES, Running, database_config, databases, shared, superuser, wait_for};
use crate::support::wire::{self, Wire};
use crate::support::{Cluster, ClusterOptions};

const BUCKETS: u16 = 4096;

/// A router over two shards with a table of users, and an id of each shard.
pub(crate) struct Two {
    shards: Vec<String>,
    pub(crate) router: Running,
    pub(crate) ids: [i64; 2],
}

impl Two {
    pub(crate) fn new(name: &str, settings: &str) -> Self {
        let shards = databases(name, 2);
        let config = database_config(shared(), &shards, RULES);
        let router = Running::start(&format!("[[user]]\nname = \"operator\"\nrole = \"admin\"\n{settings}\n{config}"));
        Self::over(shards, router)
    }

    pub(crate) fn over(shards: Vec<String>, router: Running) -> Self {
        router.wait_until_ready();
        let map = ShardMap::even(BUCKETS, 2);
        let ids = [0, 1].map(|shard| (1..).find(|id| map.shard_of(&Key::Int(*id)).0 == shard).unwrap());
        let mut client = router.client();
        for sql in [
            "CREATE TABLE users (id bigint PRIMARY KEY, name text CHECK (name <> 'bad'))",
            "CREATE TABLE plans (id int PRIMARY KEY, name text)",
        ] {
            assert_eq!(client.query(sql).tag(), "CREATE TABLE");
        }
        Self { shards, router, ids }
    }

    /// A row on each shard.
    pub(crate) fn insert(&self, name: &str) -> String {
        format!("INSERT INTO users VALUES ({}, '{name}'), ({}, '{name}')", self.ids[0], self.ids[1])
    }

    pub(crate) fn on_shard(&self, shard: usize) -> Wire {
        superuser(shared(), &self.shards[shard])
    }

    /// What the shards have, past the router.
    pub(crate) fn on_shards(&self, sql: &str) -> [String; 2] {
        [0, 1].map(|shard| self.on_shard(shard).text(sql))
    }

    pub(crate) fn names(&self) -> [String; 2] {
        self.on_shards("SELECT string_agg(name, ',' ORDER BY id) FROM users")
    }

    fn console(&self) -> Wire {
        Wire::connect(self.router.port, "operator", "sluice")
    }

    /// Waits until a server of a shard waits for a lock in such a statement.
    pub(crate) fn wait_for_lock(&self, shard: usize, statement: &str) {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
             AND query LIKE '{statement}%'"
        );
        wait_for("somebody to wait for a lock", || (self.on_shard(shard).text(&sql) != "0").then_some(()));
    }
}

/// Two clients write copies at once: an UPDATE that runs on one shard before another's rows are there must not find them on the next.
#[test]
fn copies_stay_the_same_whoever_writes_them_at_once() {
    let two = Two::new("copies", "");
    let mut writer = two.router.client();
    assert_eq!(writer.query("INSERT INTO plans VALUES (1, 'a')").tag(), "INSERT 0 1");
    assert_eq!(writer.query("BEGIN").tag(), "BEGIN");
    assert_eq!(writer.query("INSERT INTO plans VALUES (2, 'a')").tag(), "INSERT 0 1");
    // Holds up whoever comes to the second shard until the writer has committed.
    let mut gate = two.on_shard(1);
    assert_eq!(gate.query("BEGIN").tag(), "BEGIN");
    gate.send(&wire::query("LOCK TABLE plans IN ACCESS EXCLUSIVE MODE"));
    two.wait_for_lock(1, "LOCK TABLE plans");
    let mut other = two.router.client();
    other.send(&wire::query("UPDATE plans SET name = 'b'"));
    wait_for("the other to wait", || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
                   AND usename = 'app'";
        (two.on_shards(sql) != ["0", "0"]).then_some(())
    });
    assert_eq!(writer.query("COMMIT").tag(), "COMMIT");
    gate.answer(&[]);
    assert_eq!(gate.query("COMMIT").tag(), "COMMIT");
    let tag = other.answer(&[]).tag().to_owned();
    let copies = two.on_shards("SELECT string_agg(id || name, ',' ORDER BY id) FROM plans");
    assert_eq!(copies[0], copies[1]);
    assert_eq!((tag.as_str(), copies[0].as_str()), ("UPDATE 2", "1b,2b"));
}

/// COPY waits for its turn too, and so does what computes copies from others.
#[test]
fn copies_and_what_they_are_computed_from_are_written_in_turns() {
    let two = Two::new("turns", "");
    let mut client = two.router.client();
    assert_eq!(client.query("CREATE TABLE countries (id int PRIMARY KEY, name text)").tag(), "CREATE TABLE");
    assert_eq!(client.query("INSERT INTO countries VALUES (1, 'a')").tag(), "INSERT 0 1");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'app' \
                   AND wait_event_type = 'Lock'";
    let waits = || wait_for("a turn", || (two.on_shards(waiting) != ["0", "0"]).then_some(()));
    assert_eq!(client.query("BEGIN").tag(), "BEGIN");
    assert_eq!(client.query("UPDATE countries SET name = 'b'").tag(), "UPDATE 1");
    let mut other = two.router.client();
    other.send(&wire::query("INSERT INTO plans SELECT id, name FROM countries"));
    waits();
    assert_eq!(client.query("COMMIT").tag(), "COMMIT");
    assert_eq!(other.answer(&[]).tag(), "INSERT 0 1");
    assert_eq!(two.on_shards("SELECT name FROM plans"), ["b", "b"]);
    assert_eq!(client.query("BEGIN").tag(), "BEGIN");
    assert_eq!(client.query("DELETE FROM countries WHERE id = 2").tag(), "DELETE 0");
    other.send(&wire::query("COPY countries FROM STDIN"));
    waits();
    assert_eq!(client.query("COMMIT").tag(), "COMMIT");
    assert_eq!(other.answer(b"2\tc\n").tag(), "COPY 1");
    assert_eq!(two.on_shards("SELECT string_agg(name, '' ORDER BY id) FROM countries"), ["bc", "bc"]);
}

/// What waits in the router for its order, and what then goes wrong besides.
#[test]
fn what_a_write_gives_back_is_bounded() {
    let two = Two::new("bounded", "[limits]\nfinal_query_bytes_max = \"1MB\"");
    let mut client = two.router.client();
    let insert = two.insert("x");
    let refused = client.query(&format!("{insert} RETURNING repeat('x', 2000000)"));
    assert_eq!(refused.sqlstate(), "54000", "{:?}", refused.error);
    let several = format!("{insert} RETURNING repeat('x', 600000)");
    assert_eq!(client.execute(&several, &[], false).sqlstate(), "54000");
    // An error that comes behind it is the only one.
    let third = (two.ids[0] + 1..).find(|id| ShardMap::even(BUCKETS, 2).shard_of(&Key::Int(*id)).0 == 0).unwrap();
    let both = format!("{insert}, ({third}, 'x') RETURNING repeat('x', 2000000), 1 / (id - {third})");
    assert_eq!(client.query(&both).sqlstate(), "22012");
    assert_eq!(client.query("BEGIN").tag(), "BEGIN");
    assert_eq!(client.query(&several).sqlstate(), "54000");
    assert_eq!(client.query("COMMIT").tag(), "ROLLBACK");
    assert_eq!(two.on_shards("SELECT count(*) FROM users"), ["0", "0"]);
    assert_eq!(client.query(&format!("{insert} RETURNING repeat('x', 100000)")).tag(), "INSERT 0 2");
}

/// The one writer is lost in its COMMIT: what the client does next is no part of what it has only read in the same block.
#[test]
fn after_a_lost_commit_nothing_is_left_open() {
    let shards = databases("lost_commit", 2);
    let wire = Proxy::to(shared().port());
    let mut config = database_config(shared(), &shards, RULES);
    let url = shared().url(&shards[0]);
    config = config.replace(&url, &url.replace(&format!(":{}/", shared().port()), &format!(":{}/", wire.port)));
    let two = Two::over(shards, Running::start(&config));
    for sql in [
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END'",
        "CREATE CONSTRAINT TRIGGER t AFTER UPDATE ON users DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()",
    ] {
        two.on_shard(0).text(sql);
    }
    let mut client = two.router.client();
    assert_eq!(client.query(&two.insert("a")).tag(), "INSERT 0 2");
    let [first, second] = two.ids;
    assert_eq!(client.query("BEGIN").tag(), "BEGIN");
    assert_eq!(client.text(&format!("SELECT name FROM users WHERE id = {second}")), "a");
    assert_eq!(client.query(&format!("UPDATE users SET name = 'b' WHERE id = {first}")).tag(), "UPDATE 1");
    client.send(&wire::query("COMMIT"));
    let committing = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query = 'COMMIT' AND state = 'active'";
    wait_for("the commit", || (two.on_shard(0).text(committing) == "1").then_some(()));
    wire.cut();
    let lost = client.answer(&[]);
    assert_eq!((lost.sqlstate(), lost.status), ("08007", b'I'), "{:?}", lost.error);
    wire.mend();
    assert_eq!(client.query(&format!("UPDATE users SET name = 'c' WHERE id = {second}")).tag(), "UPDATE 1");
    assert_eq!(two.names()[1], "c", "what was acknowledged is committed");
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
    assert_eq!(two.on_shard(1).text(open), "0");
}

/// A statement that fails on the second shard only leaves nothing on the first, wherever the client goes on from.
#[test]
fn what_failed_on_one_shard_is_undone_on_the_other_by_savepoints() {
    let two = Two::new("savepoints", "");
    let mut client = two.router.client();
    let [first, second] = two.ids;
    let bad = format!("INSERT INTO users VALUES ({first}, 'half'), ({second}, 'bad')");
    for extended in [false, true] {
        let mut run = |sql: &str| if extended { client.execute(sql, &[], false) } else { client.query(sql) };
        assert_eq!(run("TRUNCATE users").error, None);
        assert_eq!(run("BEGIN").tag(), "BEGIN");
        assert_eq!(run("SAVEPOINT a").tag(), "SAVEPOINT");
        let failed = run(&bad);
        assert_eq!((failed.sqlstate(), failed.status), ("23514", b'E'));
        assert_eq!(run(&bad).sqlstate(), "25P02");
        assert_eq!(run("ROLLBACK TO a").tag(), "ROLLBACK");
        assert_eq!(run(&two.insert("kept")).tag(), "INSERT 0 2");
        assert_eq!(run("SAVEPOINT b").tag(), "SAVEPOINT");
        assert_eq!(run("UPDATE users SET name = 'more'").tag(), "UPDATE 2");
        assert_eq!(
            run(&format!("UPDATE users SET name = CASE id WHEN {second} THEN 'bad' ELSE 'half' END")).sqlstate(),
            "23514"
        );
        assert_eq!(run("ROLLBACK TO b").tag(), "ROLLBACK");
        assert_eq!(run("RELEASE b").tag(), "RELEASE");
        assert_eq!(run("COMMIT").tag(), "COMMIT");
        assert_eq!(two.names(), ["kept", "kept"]);
    }
    // A text of statements is one transaction.
    let text = format!("TRUNCATE users; {}; UPDATE users SET name = 'bad' WHERE id = {second}", two.insert("lost"));
    assert_eq!(client.query(&text).sqlstate(), "23514");
    assert_eq!(two.names(), ["kept", "kept"]);
}

/// What a statement gives back is what its description says, also when the table has changed in between.
#[test]
fn rows_that_no_longer_fit_their_description_are_refused_once() {
    let two = Two::new("redescribed", "");
    let mut client = two.router.client();
    let insert = format!("INSERT INTO users VALUES ({}, $1), ({}, $1) RETURNING *", two.ids[0], two.ids[1]);
    let mut out = wire::parse("s", &insert);
    out.extend(wire::message(b'D', b"Ss\0"));
    out.extend(wire::sync());
    client.send(&out);
    assert_eq!(client.answer(&[]).error, None);
    assert_eq!(two.router.client().query("ALTER TABLE users ADD COLUMN more int DEFAULT 7").tag(), "ALTER TABLE");
    let mut out = wire::bind("", "s", &[Some("x")], false);
    out.extend(wire::execute(""));
    out.extend(wire::sync());
    client.send(&out);
    let answer = client.answer(&[]);
    let mut plain = Wire::connect(shared().port(), "app", &databases("redescribed_plain", 1)[0]);
    plain.query("CREATE TABLE users (id bigint PRIMARY KEY, name text)");
    let mut first = wire::parse("s", &insert);
    first.extend(wire::message(b'D', b"Ss\0"));
    first.extend(wire::sync());
    plain.send(&first);
    plain.answer(&[]);
    plain.query("ALTER TABLE users ADD COLUMN more int DEFAULT 7");
    plain.send(&out);
    let expected = plain.answer(&[]);
    assert_eq!((answer.sqlstate(), &answer.results), (expected.sqlstate(), &expected.results));
    assert_eq!(two.names(), ["", ""]);
}

/// More clients than servers, each of which needs one of every shard, in any order.
#[test]
fn many_clients_with_few_servers_do_not_wait_for_ever() {
    for size in [1, 2] {
        let two = Two::new("crowded", &format!("[pool]\nsize = {size}\nwait_timeout = \"20s\""));
        two.router.client().query(&two.insert("0"));
        let until = Instant::now() + Duration::from_secs(2);
        let passed: u32 = thread::scope(|scope| {
            let clients: Vec<_> = (0..8)
                .map(|number| {
                    let mut client = two.router.client();
                    let ids = if number % 2 == 0 { two.ids } else { [two.ids[1], two.ids[0]] };
                    scope.spawn(move || {
                        client.set_patience(Duration::from_secs(30));
                        let mut passed = 0;
                        while Instant::now() < until {
                            let mut texts = vec!["UPDATE users SET name = (name::int + 1)::text".to_owned()];
                            if number >= 4 {
                                let one =
                                    |id: i64| format!("UPDATE users SET name = (name::int + 1)::text WHERE id = {id}");
                                texts = vec!["BEGIN".to_owned(), one(ids[0]), one(ids[1]), "COMMIT".to_owned()];
                            }
                            let mut failed = false;
                            for text in &texts {
                                let answer = client.query(text);
                                assert!(matches!(answer.sqlstate(), "" | "40P01"), "{:?}", answer.error);
                                failed = answer.error.is_some();
                                if failed {
                                    assert_eq!(client.query("ROLLBACK").error, None);
                                    break;
                                }
                            }
                            passed += u32::from(!failed);
                        }
                        passed
                    })
                })
                .collect();
            clients.into_iter().map(|client| client.join().unwrap()).sum()
        });
        let passed = passed.to_string();
        assert_eq!(two.names(), [passed.as_str(), &passed]);
        println!("pools of {size}: {passed}");
    }
}

/// Servers that give up by themselves take everything with them, also what other shards have done.
#[test]
fn timeouts_of_servers_leave_nothing_half_done() {
    let two = Two::new("timeouts", "");
    let mut client = two.router.client();
    let mut holder = two.on_shard(1);
    client.query(&two.insert("before"));
    holder.query(&format!("BEGIN; SELECT FROM users WHERE id = {} FOR UPDATE", two.ids[1]));
    for (setting, sqlstate) in [("lock_timeout", "55P03"), ("statement_timeout", "57014")] {
        assert_eq!(client.query(&format!("SET {setting} = '100ms'")).tag(), "SET");
        assert_eq!(client.query("UPDATE users SET name = 'half'").sqlstate(), sqlstate);
        assert_eq!(client.query("BEGIN; SAVEPOINT s").error, None);
        assert_eq!(client.query("UPDATE users SET name = 'half'").sqlstate(), sqlstate);
        assert_eq!(client.query("ROLLBACK TO s").tag(), "ROLLBACK");
        assert_eq!(client.query("COMMIT").tag(), "COMMIT");
        assert_eq!(client.query(&format!("RESET {setting}")).tag(), "RESET");
        assert_eq!(two.names(), ["before", "before"]);
    }
    holder.query("ROLLBACK");
    assert_eq!(client.query("SET default_transaction_read_only = on").tag(), "SET");
    for sql in ["UPDATE users SET name = 'half'", "DELETE FROM users", "UPDATE plans SET name = 'x'"] {
        assert_eq!(client.query(sql).sqlstate(), "25006", "{sql}");
        assert_eq!(client.execute(sql, &[], false).sqlstate(), "25006", "{sql}");
    }
    assert_eq!(client.query("RESET default_transaction_read_only").tag(), "RESET");
    // One shard's server goes while the client thinks.
    assert_eq!(client.query("BEGIN").tag(), "BEGIN");
    assert_eq!(client.query("UPDATE users SET name = 'half'").tag(), "UPDATE 2");
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE datname = current_database() AND state = 'idle in transaction'";
    assert_eq!(two.on_shard(1).text(end), "1");
    let answer = client.query("COMMIT");
    assert!(answer.error.is_some(), "{answer:?}");
    assert_eq!(two.names(), ["before", "before"]);
}

/// Who is thrown out, paused or reloaded in the middle has written everything or nothing.
#[test]
fn the_console_does_not_tear_writes() {
    let two = Two::new("torn", "");
    two.router.client().query(&two.insert("0"));
    let until = Instant::now() + Duration::from_secs(2);
    let acknowledged: u32 = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let two = &two;
                scope.spawn(move || {
                    let (mut client, mut passed) = (two.router.client(), 0);
                    while Instant::now() < until {
                        match client.query("UPDATE users SET name = (name::int + 1)::text") {
                            answer if answer.error.is_none() => passed += 1,
                            _ => {
                                let connected = wait_for("a connection", || {
                                    Wire::try_connect(two.router.port, &[("user", "app"), ("database", "app")]).ok()
                                });
                                client = connected;
                            }
                        }
                    }
                    passed
                })
            })
            .collect();
        let mut console = two.console();
        while Instant::now() < until {
            for command in ["KILL app", "RESUME app", "PAUSE app", "RESUME app", "RECONNECT app"] {
                let answer = console.query(command);
                assert!(answer.error.is_none() || command == "RESUME app", "{command}: {:?}", answer.error);
                thread::sleep(Duration::from_millis(40));
            }
        }
        console.query("RESUME app");
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    wait_for("nothing in doubt", || {
        let open = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()";
        (two.on_shards(open) == ["0", "0"]).then_some(())
    });
    let names = two.names();
    assert_eq!(names[0], names[1], "after {acknowledged}");
    assert!(names[0].parse::<u32>().unwrap() >= acknowledged, "{names:?} after {acknowledged}");
    assert!(acknowledged > 5, "hardly anything was done");
}

/// A client that goes, or has enough, while the second shard still waits: the first is as it was.
#[test]
fn who_leaves_in_the_middle_leaves_nothing() {
    let two = Two::new("leavers", "");
    let mut client = two.router.client();
    assert_eq!(client.query(&two.insert("before")).tag(), "INSERT 0 2");
    let mut holder = two.on_shard(1);
    holder.query(&format!("BEGIN; SELECT FROM users WHERE id = {} FOR UPDATE", two.ids[1]));
    let mut statements = vec!["UPDATE users SET name = 'half' RETURNING repeat(name, 1000)".to_owned()];
    statements.push(format!(
        "INSERT INTO users VALUES ({}, 'half'), ({}, 'half') ON CONFLICT (id) DO UPDATE SET name = 'half'",
        two.ids[0], two.ids[1]
    ));
    statements.push("BEGIN; UPDATE users SET name = 'half'; COMMIT".to_owned());
    statements.push(format!("UPDATE users SET id = id + 100000 WHERE id IN ({}, {})", two.ids[0], two.ids[1]));
    for statement in &statements {
        let mut leaver = two.router.client();
        leaver.send(&wire::query(statement));
        two.wait_for_lock(1, "");
        drop(leaver);
        let busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'app' \
                    AND (wait_event_type = 'Lock' OR state LIKE 'idle in%')";
        wait_for("the servers to be free", || (two.on_shards(busy) == ["0", "0"]).then_some(()));
        // By a cancel request: the session goes on.
        client.send(&wire::query(statement));
        two.wait_for_lock(1, "");
        let mut canceller = Wire::open(two.router.port);
        canceller.send(&wire::cancel(client.pid, &client.secret));
        assert_eq!(client.answer(&[]).sqlstate(), "57014", "{statement}");
        client.query("ROLLBACK");
        assert_eq!(two.names(), ["before", "before"], "{statement}");
    }
    holder.query("ROLLBACK");
    assert_eq!(client.query("UPDATE users SET name = 'after'").tag(), "UPDATE 2");
}

/// A client that does not read what it asked for: its servers wait, the router does not grow, and it can go.
#[test]
fn who_does_not_read_is_waited_for_in_bounds() {
    let two = Two::new("lazy", "");
    let mut client = two.router.client();
    let rows: Vec<String> = (0..400).map(|id| format!("({id}, 'x')")).collect();
    assert_eq!(client.query(&format!("INSERT INTO users VALUES {}", rows.join(", "))).tag(), "INSERT 0 400");
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    let before = resident();
    let mut lazy = two.router.client();
    lazy.send(&wire::query("UPDATE users SET name = 'y' RETURNING repeat('x', 1000000)"));
    let sending =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'ClientWrite'";
    wait_for("the servers to wait", || (two.on_shards(sending) != ["0", "0"]).then_some(()));
    assert!(resident() < before + 150, "{before} MB have become {}", resident());
    drop(lazy);
    wait_for("the servers to be free", || (two.on_shards(sending) == ["0", "0"]).then_some(()));
    wait_for("the locks to be gone", || {
        (client.query("UPDATE users SET name = 'z'").tag() == "UPDATE 400").then_some(())
    });
}

/// Everything up to the Sync is one transaction, with ids from a sequence and writes over shards in it.
#[test]
fn a_pipeline_with_an_error_in_the_middle_leaves_nothing() {
    let two = Two::new("pipeline", "");
    let mut client = two.router.client();
    assert_eq!(
        client.query("CREATE TABLE devices (id bigserial PRIMARY KEY, name text CHECK (name <> 'bad'))").tag(),
        "CREATE TABLE"
    );
    let step = |sql: &str| [wire::parse("", sql), wire::bind("", "", &[], false), wire::execute("")].concat();
    let insert = "INSERT INTO devices (name) VALUES ('a'), ('b'), ('c'), ('d') RETURNING id";
    for bad in [
        "UPDATE devices SET name = 'bad'",
        "INSERT INTO devices (name) VALUES ('x'), ('y'), ('z'), ('bad')",
        "SELECT 1 / 0",
        "nonsense",
    ] {
        for at in 0..3 {
            let mut out = Vec::new();
            for n in 0..3 {
                out.extend(step(if n == at { bad } else { insert }));
            }
            out.extend(wire::sync());
            client.send(&out);
            let answer = client.answer(&[]);
            // The first bad UPDATE has no rows to be bad.
            let harmless = at == 0 && bad.starts_with("UPDATE");
            assert_eq!((answer.error.is_some(), answer.status), (!harmless, b'I'), "{bad} at {at}");
            let expected = if harmless { "8" } else { "0" };
            assert_eq!(client.text("SELECT count(*) FROM devices"), expected, "{bad} at {at}");
            client.query("DELETE FROM devices");
        }
    }
    client.send(&[step(insert), step(insert), wire::sync()].concat());
    assert_eq!(client.answer(&[]).results.len(), 2);
    assert_eq!(client.text("SELECT count(*), count(DISTINCT id) FROM devices"), "8|8");
}

/// Whatever pools do between transactions.
#[test]
fn writes_over_shards_in_every_pool_mode() {
    for mode in ["session", "statement", "transaction"] {
        let two = Two::new("mode", &format!("[pool]\nmode = \"{mode}\"\nsize = 2"));
        let mut client = two.router.client();
        for round in 0..3 {
            assert_eq!(client.query(&two.insert("a")).tag(), "INSERT 0 2", "{mode}");
            assert_eq!(client.query(&two.insert("a")).sqlstate(), "23505");
            assert_eq!(
                client.execute("UPDATE users SET name = $1 RETURNING name", &[Some("b")], true).tag(),
                "UPDATE 2"
            );
            let half = format!("INSERT INTO users VALUES ({}, 'x'), ({}, 'bad')", two.ids[0] + 100_000, two.ids[1]);
            assert!(client.query(&half).error.is_some());
            assert_eq!(two.names(), ["b", "b"]);
            let text = format!("DELETE FROM users; {}; UPDATE users SET name = 'c'", two.insert("a"));
            assert_eq!(client.query(&text).tag(), "UPDATE 2");
            assert_eq!(two.names(), ["c", "c"]);
            assert_eq!(two.router.client().query("DELETE FROM users").tag(), "DELETE 2", "{mode} {round}");
        }
    }
}

/// Servers find out that a plan is outdated; the write that met it runs once, on all shards, or tells.
#[test]
fn tables_changed_past_the_router_make_no_write_run_twice() {
    let two = Two::new("outdated", "");
    let mut client = two.router.client();
    let statements = [
        format!("INSERT INTO users (id, name) VALUES ({} + $1::int * 100000, 'a') RETURNING *", two.ids[0]),
        "UPDATE users SET name = name || $1 RETURNING *".to_owned(),
        format!("UPDATE users SET name = name || $1 WHERE id IN ({}, {}) RETURNING *", two.ids[0], two.ids[1]),
        format!("UPDATE users SET name = name || $1 WHERE id = {} RETURNING *", two.ids[0]),
    ];
    client.query(&two.insert("-"));
    for (n, statement) in statements.iter().enumerate() {
        client.send(&[wire::parse(&format!("s{n}"), statement), wire::sync()].concat());
        assert_eq!(client.answer(&[]).error, None);
    }
    for round in 1..4 {
        for shard in 0..2 {
            two.on_shard(shard).text(&format!("ALTER TABLE users ADD COLUMN more{round} int DEFAULT 7"));
        }
        let mut expected = two.on_shards("SELECT name FROM users WHERE name LIKE '-%'");
        for n in 1..4 {
            client.send(
                &[wire::bind("", &format!("s{n}"), &[Some("+")], false), wire::execute(""), wire::sync()].concat(),
            );
            let answer = client.answer(&[]);
            if answer.error.is_none() {
                expected[0].push('+');
                if n < 3 {
                    expected[1].push('+');
                }
            }
            assert!(matches!(answer.sqlstate(), "" | "0A000"), "{:?}", answer.error);
            assert_eq!(two.on_shards("SELECT name FROM users WHERE name LIKE '-%'"), expected, "s{n} in round {round}");
        }
    }
}

/// Two databases of one router have nothing to do with each other.
#[test]
fn two_databases_of_one_router_are_apart() {
    let (first, second) = (databases("apart_a", 2), databases("apart_b", 2));
    let other = database_config(shared(), &second, RULES).replace("name = \"app\"", "name = \"other\"");
    let router = Running::start(&format!("{}{other}", database_config(shared(), &first, RULES)));
    let two = Two::over(first, router);
    let mut client = two.router.client();
    let mut stranger = Wire::connect(two.router.port, "app", "other");
    assert_eq!(
        stranger.query("CREATE TABLE users (id bigserial PRIMARY KEY, name text, more int)").tag(),
        "CREATE TABLE"
    );
    assert_eq!(stranger.query("CREATE TABLE plans (id int PRIMARY KEY, name text)").tag(), "CREATE TABLE");
    for _ in 0..3 {
        assert_eq!(client.query(&two.insert("x")).tag(), "INSERT 0 2");
        assert_eq!(
            stranger.query("INSERT INTO users (name, more) VALUES ('y', 1), ('y', 2), ('y', 3)").tag(),
            "INSERT 0 3"
        );
        assert_eq!(client.query("DELETE FROM users").tag(), "DELETE 2");
    }
    // Each has its own turns, transactions and sequences.
    assert_eq!(client.query("BEGIN").tag(), "BEGIN");
    assert_eq!(client.query("INSERT INTO plans VALUES (1, 'a')").tag(), "INSERT 0 1");
    assert_eq!(stranger.query("UPDATE plans SET name = 'b'").tag(), "UPDATE 0");
    assert_eq!(client.query("COMMIT").tag(), "COMMIT");
    assert_eq!(stranger.text("SELECT count(DISTINCT id) FROM users"), "9");
}

/// A snapshot that does not see what others have committed meanwhile must not lose it.
#[test]
fn repeatable_read_over_shards_loses_no_update() {
    let two = Two::new("repeatable", "");
    let mut client = two.router.client();
    let mut other = two.router.client();
    assert_eq!(client.query(&two.insert("0")).tag(), "INSERT 0 2");
    assert_eq!(client.query("BEGIN ISOLATION LEVEL REPEATABLE READ").tag(), "BEGIN");
    assert_eq!(client.query("SET LOCAL application_name = 'mine'").tag(), "SET");
    assert_eq!(client.text("SELECT sum(name::int) FROM users"), "0");
    assert_eq!(other.query(&format!("UPDATE users SET name = '5' WHERE id = {}", two.ids[1])).tag(), "UPDATE 1");
    assert_eq!(client.text("SELECT sum(name::int) FROM users"), "0");
    let lost = client.query("UPDATE users SET name = (name::int + 1)::text");
    assert_eq!((lost.sqlstate(), lost.status), ("40001", b'E'));
    assert_eq!(client.query("COMMIT").tag(), "ROLLBACK");
    assert_eq!(two.names(), ["0", "5"]);
    assert_eq!(client.query("BEGIN ISOLATION LEVEL REPEATABLE READ").tag(), "BEGIN");
    assert_eq!(client.query("UPDATE users SET name = (name::int + 1)::text").tag(), "UPDATE 2");
    assert_eq!(client.query("NOTIFY done, 'all'").tag(), "NOTIFY");
    assert_eq!(client.query("COMMIT").tag(), "COMMIT");
    assert_eq!(two.names(), ["1", "6"]);
}

/// Replicas that lag are not asked about what the client has written, whichever way it was.
#[test]
fn replicas_that_lag_do_not_hide_writes_over_shards() {
    let cluster = Cluster::start(ClusterOptions { shards: 2, replicas: 1, ..Default::default() }).unwrap();
    let router =
        Running::start(&format!("[replicas]\ncheck_interval = \"100ms\"\n{}", cluster.database_config("app", RULES)));
    let two = Two::over(vec![String::new(); 2], router);
    let mut client = two.router.client();
    wait_for("the tables on the replicas", || {
        let sql = "SELECT count(*) FROM pg_tables WHERE tablename IN ('users', 'plans')";
        (0..2).all(|shard| cluster.replica(shard, 0).psql(sql).is_ok_and(|count| count == "2")).then_some(())
    });
    for shard in 0..2 {
        cluster.replica(shard, 0).psql("SELECT pg_wal_replay_pause()").unwrap();
    }
    let sees = |client: &mut Wire, sql: &str, expected: &str| {
        for _ in 0..5 {
            assert_eq!(client.text(sql), expected, "{sql}");
            assert_eq!(client.execute(sql, &[], false).text(), expected, "{sql}");
        }
    };
    assert_eq!(client.query(&two.insert("a")).tag(), "INSERT 0 2");
    sees(&mut client, "SELECT count(*) FROM users", "2");
    assert_eq!(client.execute("UPDATE users SET name = 'b'", &[], false).tag(), "UPDATE 2");
    sees(&mut client, "SELECT min(name), max(name) FROM users", "b|b");
    assert_eq!(client.query("UPDATE users SET id = id + 1000").tag(), "UPDATE 2");
    sees(&mut client, "SELECT count(*) FROM users WHERE id > 1000", "2");
    assert_eq!(client.copy("COPY plans FROM STDIN", b"1\tx\n").tag(), "COPY 1");
    sees(&mut client, "SELECT name FROM plans", "x");
    assert_eq!(client.query("BEGIN; DELETE FROM users; COMMIT").tag(), "COMMIT");
    sees(&mut client, "SELECT count(*) FROM users", "0");
}

/// The portals of an INSERT ... SELECT that has failed are in nobody's way.
#[test]
fn an_insert_from_a_query_may_fail_and_be_tried_again_in_one_block() {
    let two = Two::new("again", "");
    let mut client = two.router.client();
    assert_eq!(
        client.query("CREATE TABLE devices (id bigint PRIMARY KEY, name text CHECK (name <> 'bad'))").error,
        None
    );
    assert_eq!(client.query(&two.insert("a")).tag(), "INSERT 0 2");
    assert_eq!(client.query("BEGIN").tag(), "BEGIN");
    for _ in 0..3 {
        assert_eq!(client.query("SAVEPOINT s").tag(), "SAVEPOINT");
        let bad = "INSERT INTO devices SELECT id + 7, CASE WHEN id = (SELECT max(id) FROM users) THEN 'bad' ELSE 'x' END FROM users";
        assert_eq!(client.query(bad).sqlstate(), "23514");
        assert_eq!(client.query("ROLLBACK TO s").tag(), "ROLLBACK");
        assert_eq!(client.query("INSERT INTO devices SELECT NULL::bigint + id, name FROM users").sqlstate(), "23502");
        assert_eq!(client.query("ROLLBACK TO s").tag(), "ROLLBACK");
        assert_eq!(client.query("INSERT INTO devices SELECT id + 8, 'good' FROM users").tag(), "INSERT 0 2");
        assert_eq!(client.query("DELETE FROM devices").tag(), "DELETE 2");
    }
    assert_eq!(client.query("INSERT INTO devices SELECT id + 9, 'good' FROM users").tag(), "INSERT 0 2");
    assert_eq!(client.query("COMMIT").tag(), "COMMIT");
    assert_eq!(client.text("SELECT count(*), min(name), max(name) FROM devices"), "2|good|good");
}
