//! Transactions that write on several shards: one to the client, whatever happens in them.

use pgsluice::demo::{Cluster, ClusterOptions};
use pgsluice_sharding::{Key, ShardMap};

use crate::support::running::{RULES, Running, database_config, databases, shared, superuser, wait_for};
use crate::support::wire::Wire;

const SHARDS: u16 = 3;
const BUCKETS: u16 = 4096;

/// A router over some shards, and a user of each.
struct Three {
    shards: Vec<String>,
    router: Running,
    ids: Vec<i64>,
}

impl Three {
    fn start(name: &str) -> Self {
        let shards = databases(name, SHARDS.into());
        let router = Running::over(&shards);
        let ids = ids();
        let mut client = router.client();
        client.query("CREATE TABLE users (id bigint PRIMARY KEY, name text CHECK (name <> 'bad'))");
        for id in &ids {
            assert_eq!(client.query(&format!("INSERT INTO users VALUES ({id}, 'before')")).tag(), "INSERT 0 1");
        }
        Self { shards, router, ids }
    }

    fn update(&self, client: &mut Wire, at: usize, name: &str) {
        let answer = client.query(&format!("UPDATE users SET name = '{name}' WHERE id = {}", self.ids[at]));
        assert_eq!(answer.tag(), "UPDATE 1");
    }

    /// The names on the shards, in their order, past the router.
    fn names(&self) -> Vec<String> {
        self.on_shards("SELECT string_agg(name, ',' ORDER BY id) FROM users")
    }

    fn on_shards(&self, sql: &str) -> Vec<String> {
        self.shards.iter().map(|name| superuser(shared(), name).text(sql)).collect()
    }

    fn nothing_is_prepared(&self) {
        let sql = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()";
        assert_eq!(self.on_shards(sql), ["0"; SHARDS as usize]);
    }
}

/// A router with somebody who may use the console.
fn with_operator(config: &str) -> Running {
    let router = Running::start(&format!("[[user]]\nname = \"operator\"\nrole = \"admin\"\n{config}"));
    router.wait_until_ready();
    router
}

fn console(router: &Running) -> Wire {
    Wire::connect(router.port, "operator", "sluice")
}

/// One id for each shard, in the order of the shards.
fn ids() -> Vec<i64> {
    let map = ShardMap::even(BUCKETS, SHARDS);
    (0..SHARDS).map(|shard| (1..).find(|id| map.shard_of(&Key::Int(*id)).0 == shard).unwrap()).collect()
}

#[test]
fn what_is_written_on_several_shards_commits_and_rolls_back_as_one() {
    let three = Three::start("spread");
    let mut client = three.router.client();
    client.query("BEGIN");
    (0..3).for_each(|at| three.update(&mut client, at, "after"));
    assert_eq!(three.names(), ["before"; 3], "nobody else sees any of it yet");
    assert_eq!(client.query("COMMIT").tag(), "COMMIT");
    assert_eq!(three.names(), ["after"; 3]);
    client.query("BEGIN");
    (0..3).for_each(|at| three.update(&mut client, at, "never"));
    assert_eq!(client.query("ROLLBACK").tag(), "ROLLBACK");
    assert_eq!(three.names(), ["after"; 3]);
    // What one of three has written needs no decision.
    client.query("BEGIN");
    assert_eq!(client.text("SELECT count(*) FROM users"), "3");
    three.update(&mut client, 1, "alone");
    assert_eq!(client.query("COMMIT").tag(), "COMMIT");
    assert_eq!(three.names(), ["after", "alone", "after"]);
    let decisions = three.on_shards("SELECT count(*) FROM sluice.decision");
    let all: u32 = decisions.iter().map(|count| count.parse::<u32>().unwrap()).sum();
    assert_eq!(all, 2, "one of the table's making, one of the first block: {decisions:?}");
    three.nothing_is_prepared();
}

#[test]
fn an_error_on_one_shard_fails_the_transaction_on_all() {
    let three = Three::start("fails");
    let mut client = three.router.client();
    client.query("BEGIN");
    three.update(&mut client, 0, "half");
    let bad = format!("UPDATE users SET name = 'bad' WHERE id = {}", three.ids[1]);
    let answer = client.query(&bad);
    assert_eq!((answer.sqlstate(), answer.status), ("23514", b'E'));
    let on_first = format!("SELECT name FROM users WHERE id = {}", three.ids[0]);
    assert_eq!(client.query(&on_first).sqlstate(), "25P02");
    assert_eq!(client.query("COMMIT").tag(), "ROLLBACK");
    assert_eq!(three.names(), ["before"; 3]);
    assert_eq!(client.text(&on_first), "before");
    // A savepoint that some servers have set and others repeat when they join.
    client.query("BEGIN");
    three.update(&mut client, 0, "kept");
    client.query("SAVEPOINT s");
    three.update(&mut client, 1, "undone");
    assert_eq!(client.query(&format!("UPDATE users SET name = 'bad' WHERE id = {}", three.ids[2])).status, b'E');
    assert_eq!(client.query("ROLLBACK TO s").tag(), "ROLLBACK");
    three.update(&mut client, 2, "kept");
    assert_eq!(client.query("RELEASE s").tag(), "RELEASE");
    assert_eq!(client.query("COMMIT").tag(), "COMMIT");
    assert_eq!(three.names(), ["kept", "before", "kept"]);
    three.nothing_is_prepared();
}

#[test]
fn settings_of_a_transaction_hold_on_servers_that_join_later() {
    let three = Three::start("settings");
    let mut client = three.router.client();
    let shown = |client: &mut Wire, at: usize, name: &str| {
        client.text(&format!("SELECT current_setting('{name}') FROM users WHERE id = {}", three.ids[at]))
    };
    client.query("BEGIN");
    client.query("SET LOCAL application_name = 'early'");
    three.update(&mut client, 0, "one");
    client.query("SET LOCAL work_mem = '7MB'");
    client.query("SAVEPOINT s");
    client.query("SET LOCAL work_mem = '8MB'");
    client.query("ROLLBACK TO s");
    for at in 0..3 {
        assert_eq!(shown(&mut client, at, "application_name"), "early");
        assert_eq!(shown(&mut client, at, "work_mem"), "7MB");
    }
    three.update(&mut client, 2, "one");
    assert_eq!(client.query("COMMIT").tag(), "COMMIT");
    assert_eq!((0..3).map(|at| shown(&mut client, at, "work_mem")).filter(|size| size == "7MB").count(), 0);
    assert_eq!(three.names(), ["one", "before", "one"]);
    client.query("BEGIN");
    client.query("SET TRANSACTION READ ONLY");
    assert_eq!(shown(&mut client, 0, "transaction_read_only"), "on");
    let refused = client.query(&format!("UPDATE users SET name = 'no' WHERE id = {}", three.ids[1]));
    assert_eq!(refused.sqlstate(), "25006");
    client.query("ROLLBACK");
    // What a session sets in a transaction that fails at its end is not set.
    client.query("BEGIN");
    client.query("SET work_mem = '9MB'");
    (0..2).for_each(|at| three.update(&mut client, at, "lost"));
    client.query("ROLLBACK");
    assert_ne!(shown(&mut client, 1, "work_mem"), "9MB");
}

/// PostgreSQL lets a transaction become READ ONLY after it has written. Over several shards that is refused, because the
/// commit writes.
#[test]
fn a_transaction_that_has_written_on_several_shards_stays_read_write() {
    let three = Three::start("become_read_only");
    let mut client = three.router.client();
    for form in ["SET TRANSACTION READ ONLY", "SET LOCAL transaction_read_only = on"] {
        client.query("BEGIN");
        (0..2).for_each(|at| three.update(&mut client, at, "no"));
        let refused = client.query(form);
        assert_eq!((refused.sqlstate(), refused.status), ("0A000", b'E'), "{form}");
        assert_eq!(client.query("COMMIT").tag(), "ROLLBACK");
        // One that has written on one shard only reads from then on, wherever.
        client.query("BEGIN");
        three.update(&mut client, 1, form.split(' ').next().unwrap());
        assert_eq!(client.query(form).sqlstate(), "", "{form}");
        assert_eq!(client.query("SELECT count(*), max(pg_backend_pid()) > 0 FROM users").text(), "3|t");
        assert_eq!(client.query("COMMIT").tag(), "COMMIT", "{form}");
    }
    assert_eq!(three.names(), ["before", "SET", "before"]);
    // What the router does not see is found by the one who decides, and all is undone.
    client.query("BEGIN");
    (0..2).for_each(|at| three.update(&mut client, at, "no"));
    assert_eq!(client.query("SELECT set_config('transaction_read_only', 'on', true)").sqlstate(), "");
    let refused = client.query("COMMIT");
    assert_eq!((refused.sqlstate(), refused.status), ("0A000", b'I'));
    assert_eq!(three.names(), ["before", "SET", "before"]);
    // After the savepoint it is what it was before.
    for end in ["RELEASE s", "ROLLBACK TO s"] {
        client.query("BEGIN");
        three.update(&mut client, 0, "one");
        client.query("SAVEPOINT s");
        assert_eq!(client.query("SET TRANSACTION READ ONLY").sqlstate(), "");
        assert_eq!(client.query(end).sqlstate(), "");
        three.update(&mut client, 2, end);
        assert_eq!(client.query("COMMIT").tag(), "COMMIT", "{end}");
    }
    assert_eq!(three.names(), ["one", "SET", "ROLLBACK TO s"]);
    // What might write and has not needs no commit over several shards.
    assert_eq!(client.query("BEGIN READ ONLY").sqlstate(), "");
    for id in &three.ids {
        assert_eq!(client.text(&format!("SELECT id FROM users WHERE id = {id} AND random() >= 0")), id.to_string());
    }
    assert_eq!(client.query("COMMIT").tag(), "COMMIT");
}

#[test]
fn a_chained_transaction_is_as_the_one_before() {
    let three = Three::start("chain");
    let mut client = three.router.client();
    client.query("BEGIN ISOLATION LEVEL READ UNCOMMITTED");
    (0..2).for_each(|at| three.update(&mut client, at, "first"));
    let answer = client.query("COMMIT AND CHAIN");
    assert_eq!((answer.tag(), answer.status), ("COMMIT", b'T'));
    assert_eq!(three.names(), ["first", "first", "before"]);
    (1..3).for_each(|at| three.update(&mut client, at, "second"));
    let isolation = "SELECT current_setting('transaction_isolation') FROM users WHERE id = ";
    for id in &three.ids {
        assert_eq!(client.text(&format!("{isolation}{id}")), "read uncommitted");
    }
    let answer = client.query("ROLLBACK AND CHAIN");
    assert_eq!((answer.tag(), answer.status), ("ROLLBACK", b'T'));
    (0..3).for_each(|at| three.update(&mut client, at, "third"));
    assert_eq!(client.query("COMMIT").tag(), "COMMIT");
    assert_eq!(three.names(), ["third"; 3]);
}

#[test]
fn a_deferred_constraint_fails_before_the_decision() {
    let three = Three::start("deferred");
    let mut client = three.router.client();
    let constraint = "ALTER TABLE users ADD CONSTRAINT own_name UNIQUE (id, name) DEFERRABLE INITIALLY DEFERRED";
    assert_eq!(client.query(constraint).tag(), "ALTER TABLE");
    // A trigger that looks at the end of the transaction only.
    let trigger = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
                   'BEGIN IF NEW.name = ''late'' THEN RAISE EXCEPTION ''too late'' USING ERRCODE = ''23P01''; END IF; RETURN NULL; END'";
    for shard in &three.shards {
        let mut wire = superuser(shared(), shard);
        assert_eq!(wire.query(trigger).tag(), "CREATE FUNCTION");
        let sql = "CREATE CONSTRAINT TRIGGER t AFTER UPDATE ON users DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()";
        assert_eq!(wire.query(sql).tag(), "CREATE TRIGGER");
    }
    // Whether the decider fails or one that prepares.
    for failing in 0..3 {
        client.query("BEGIN");
        for at in 0..3 {
            three.update(&mut client, at, if at == failing { "late" } else { "half" });
        }
        let answer = client.query("COMMIT");
        assert_eq!((answer.sqlstate(), answer.status), ("23P01", b'I'), "{:?}", answer.error);
        assert_eq!(answer.error.unwrap().message(), "too late");
        assert_eq!(three.names(), ["before"; 3]);
        three.nothing_is_prepared();
    }
    client.query("BEGIN");
    (0..3).for_each(|at| three.update(&mut client, at, "fine"));
    assert_eq!(client.query("COMMIT").tag(), "COMMIT");
    assert_eq!(three.names(), ["fine"; 3]);
}

#[test]
fn what_no_shard_can_check_alone_is_refused() {
    let three = Three::start("serial");
    let mut client = three.router.client();
    client.query("BEGIN ISOLATION LEVEL SERIALIZABLE");
    three.update(&mut client, 0, "one");
    let second = client.query(&format!("UPDATE users SET name = 'two' WHERE id = {}", three.ids[1]));
    assert_eq!(second.sqlstate(), "0A000");
    assert_eq!(client.query("COMMIT").tag(), "ROLLBACK");
    client.query("BEGIN ISOLATION LEVEL SERIALIZABLE");
    three.update(&mut client, 0, "one");
    assert_eq!(client.query("COMMIT").tag(), "COMMIT");
    // The same where the servers say so, and no client.
    for shard in &three.shards {
        let sql = format!("ALTER DATABASE {shard} SET default_transaction_isolation = serializable");
        superuser(shared(), shard).query(&sql);
        superuser(shared(), shard).query(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{shard}' AND pid <> pg_backend_pid()"
        ));
    }
    let mut client = wait_for("servers that are serializable", || {
        let mut client = three.router.client();
        let set = "SELECT current_setting('transaction_isolation') FROM users WHERE id = ";
        let all = three.ids.iter().all(|id| {
            let answer = client.query(&format!("{set}{id}"));
            answer.error.is_none() && answer.text() == "serializable"
        });
        all.then_some(client)
    });
    client.query("BEGIN");
    (0..2).for_each(|at| three.update(&mut client, at, "skewed"));
    let refused = client.query("COMMIT");
    assert_eq!((refused.sqlstate(), refused.status), ("0A000", b'I'), "{:?}", refused.error);
    assert_eq!(three.names(), ["one", "before", "before"]);
    three.nothing_is_prepared();
}

#[test]
fn clients_do_not_prepare_transactions_themselves() {
    let three = Three::start("own");
    let mut client = three.router.client();
    client.query("BEGIN");
    (0..2).for_each(|at| three.update(&mut client, at, "mine"));
    let refused = client.query("PREPARE TRANSACTION 'mine'");
    assert_eq!((refused.sqlstate(), refused.status), ("0A000", b'E'), "{:?}", refused.error);
    assert_eq!(client.query("COMMIT").tag(), "ROLLBACK");
    for other in ["COMMIT PREPARED 'mine'", "ROLLBACK PREPARED 'mine'"] {
        assert_eq!(client.query(other).sqlstate(), "0A000");
    }
    assert_eq!(three.names(), ["before"; 3]);
    three.nothing_is_prepared();
}

/// A commit that returns before it is on disk must not be one that others have relied on.
#[test]
fn the_decision_is_on_disk_before_the_others_follow() {
    let three = Three::start("flush");
    let mut client = three.router.client();
    client.query("SET synchronous_commit = off");
    client.query("BEGIN");
    (0..3).for_each(|at| three.update(&mut client, at, "flushed"));
    assert_eq!(client.query("COMMIT").tag(), "COMMIT");
    assert_eq!(three.names(), ["flushed"; 3]);
    assert_eq!(client.text("SHOW synchronous_commit"), "off");
}

#[test]
fn the_tables_of_the_router_are_none_of_the_applications() {
    let three = Three::start("hidden");
    let shards = &three.shards;
    let migrations = three.on_shards("SELECT string_agg(number::text, ',' ORDER BY number) FROM sluice.migration");
    assert_eq!(migrations, ["1,2"; 3]);
    let identities = three.on_shards("SELECT identity FROM sluice.shard");
    assert!(identities.iter().all(|identity| identity.len() == 16), "{identities:?}");
    assert!(identities[0] != identities[1] && identities[1] != identities[2], "{identities:?}");
    // A second router finds them as they are, and both commit.
    let other = with_operator(&database_config(shared(), shards, RULES));
    assert_eq!(three.on_shards("SELECT identity FROM sluice.shard"), identities);
    for router in [&three.router, &other] {
        let mut client = router.client();
        client.query("BEGIN");
        (0..3).for_each(|at| three.update(&mut client, at, "both"));
        assert_eq!(client.query("COMMIT").tag(), "COMMIT");
    }
    assert!(!console(&other).text("SHOW TABLES").contains("decision"));
    assert_eq!(console(&other).text("SHOW PROBLEMS"), "");
}

/// Routers that start at the same time do not stand in each other's way.
#[test]
fn many_routers_may_make_the_tables_at_once() {
    let shards = databases("at_once", 2);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let router = with_operator(&database_config(shared(), &shards, RULES));
                assert_eq!(console(&router).text("SHOW PROBLEMS"), "");
            });
        }
    });
}

#[test]
fn without_prepared_transactions_a_transaction_writes_on_one_shard() {
    let settings = vec![("max_prepared_transactions".to_owned(), "0".to_owned())];
    let cluster = Cluster::start(ClusterOptions { shards: 2, settings, ..Default::default() }).unwrap();
    let router = with_operator(&cluster.database_config("app", RULES));
    let map = ShardMap::even(BUCKETS, 2);
    let of = |shard| (1..).find(|id| map.shard_of(&Key::Int(*id)).0 == shard).unwrap();
    let ids: [i64; 2] = [of(0), of(1)];
    for shard in 0..2 {
        let make = "CREATE TABLE users (id bigint PRIMARY KEY, name text); ALTER TABLE users OWNER TO app";
        cluster.primary(shard).psql(make).unwrap();
    }
    let insert = |id: i64| format!("INSERT INTO users VALUES ({id}, 'x')");
    let mut client = wait_for("the table", || {
        let mut client = router.client();
        (client.query("SELECT count(*) FROM users").error.is_none()).then_some(client)
    });
    client.query("BEGIN");
    assert_eq!(client.query(&insert(ids[0])).tag(), "INSERT 0 1");
    let refused = client.query(&insert(ids[1]));
    assert_eq!((refused.sqlstate(), refused.status), ("0A000", b'E'));
    let error = refused.error.unwrap();
    assert!(error.field(b'D').contains("max_prepared_transactions is 0"), "{error:?}");
    assert!(error.field(b'H').contains("Set max_prepared_transactions"), "{error:?}");
    client.query("ROLLBACK");
    for id in ids {
        client.query("BEGIN");
        assert_eq!(client.query(&insert(id)).tag(), "INSERT 0 1");
        assert_eq!(client.query("COMMIT").tag(), "COMMIT");
    }
    assert_eq!(client.query("CREATE TABLE more (user_id bigint)").sqlstate(), "0A000");
    assert_eq!(client.text("SELECT count(*) FROM users"), "2");
    assert!(console(&router).text("SHOW PROBLEMS").contains("max_prepared_transactions is 0"));
}

/// Whatever router has left them: the row at the decider tells, and without one it is an abort.
#[test]
fn what_is_left_prepared_is_resolved_from_the_shards_alone() {
    let shards = databases("orphans", 3);
    let names: Vec<&str> = shards.iter().map(String::as_str).collect();
    let quick = "[commit]\nin_doubt_after = \"1s\"\n";
    let router = with_operator(&format!("{quick}{}", database_config(shared(), &shards, RULES)));
    let mut client = router.client();
    client.query("CREATE TABLE users (id bigint PRIMARY KEY, name text)");
    let mut owner: Vec<Wire> = names.iter().map(|name| Wire::connect(shared().port(), "app", name)).collect();
    let identity: Vec<String> = owner.iter_mut().map(|wire| wire.text("SELECT identity FROM sluice.shard")).collect();
    let mut prepare = |shard: usize, transaction: &str, decider: &str, id: i64| {
        let name = format!("sluice:1:{transaction}:{decider}:{}", identity[shard]);
        owner[shard].query("BEGIN");
        assert_eq!(owner[shard].query(&format!("INSERT INTO users VALUES ({id}, 'left')")).tag(), "INSERT 0 1");
        assert_eq!(owner[shard].query(&format!("PREPARE TRANSACTION '{name}'")).tag(), "PREPARE TRANSACTION");
        name
    };
    let [committed, aborted, strange] = [1, 2, 3].map(|number| format!("{number:032x}"));
    let decision = format!("INSERT INTO sluice.decision (gid, outcome) VALUES ('sluice:1:{committed}', 'commit')");
    assert_eq!(superuser(shared(), names[2]).query(&decision).tag(), "INSERT 0 1");
    for shard in [0, 1] {
        prepare(shard, &committed, &identity[2], 10);
        prepare(shard, &aborted, &identity[2], 20);
    }
    let left = prepare(0, &strange, "00000000000000ff", 30);
    // Names that are not the router's own are nobody's business.
    let mut other = superuser(shared(), names[1]);
    for sql in ["BEGIN", "INSERT INTO users VALUES (40, 'own')", "PREPARE TRANSACTION 'sluice:own'"] {
        assert!(other.query(sql).error.is_none());
    }
    let mut operator = console(&router);
    wait_for("the orphans to be resolved", || {
        let rows = operator.text("SHOW TRANSACTIONS");
        let expected = format!("app|app||{left}|{}||in doubt|", names[0]);
        let why = "|its decider 00000000000000ff is no shard of this database";
        (rows.lines().count() == 1 && rows.starts_with(&expected) && rows.ends_with(why)).then_some(())
    });
    let rows: Vec<String> = names
        .iter()
        .map(|name| superuser(shared(), name).text("SELECT string_agg(id::text, ',') FROM users"))
        .collect();
    assert_eq!(rows, ["10", "10", ""]);
    let outcome = "SELECT string_agg(right(gid, 1) || outcome, ',' ORDER BY gid) FROM sluice.decision WHERE gid < 'sluice:1:00000000000000000000000000000009'";
    assert_eq!(superuser(shared(), names[2]).text(outcome), "1commit,2abort");
    let end = |sql: &str, name: &str| assert!(superuser(shared(), name).query(sql).error.is_none(), "{sql}");
    end("ROLLBACK PREPARED 'sluice:own'", names[1]);
    end(&format!("ROLLBACK PREPARED '{left}'"), names[0]);
}

#[test]
fn open_transactions_over_several_shards_are_shown() {
    let shards = databases("shown", 2);
    let router = with_operator(&database_config(shared(), &shards, RULES));
    let map = ShardMap::even(BUCKETS, 2);
    let of = |shard| (1..).find(|id| map.shard_of(&Key::Int(*id)).0 == shard).unwrap();
    let ids: [i64; 2] = [of(0), of(1)];
    let mut client = router.client();
    client.query("CREATE TABLE users (id bigint PRIMARY KEY, name text)");
    let mut operator = console(&router);
    assert_eq!(operator.text("SHOW TRANSACTIONS"), "");
    client.query("BEGIN");
    client.query(&format!("INSERT INTO users VALUES ({}, 'x')", ids[0]));
    assert_eq!(operator.text("SHOW TRANSACTIONS"), "", "on one shard there is nothing to tell");
    client.query(&format!("INSERT INTO users VALUES ({}, 'x')", ids[1]));
    let shown = wait_for("both shards", || {
        let rows = operator.text("SHOW TRANSACTIONS");
        (rows.lines().count() == 2).then_some(rows)
    });
    for (line, shard) in shown.lines().zip(&shards) {
        let fields: Vec<&str> = line.split('|').collect();
        assert_eq!((fields[0], fields[1], fields[3], fields[4], fields[6]), ("app", "app", "", shard.as_str(), "open"));
    }
    assert_eq!(client.query("COMMIT").tag(), "COMMIT");
    wait_for("nothing to tell", || operator.text("SHOW TRANSACTIONS").is_empty().then_some(()));
}

/// A row that one client commits on one shard after another must not be seen on some of them only by the next client's UPDATE.
#[test]
fn the_copies_of_a_reference_table_stay_equal_under_many_writers() {
    let three = Three::start("copies");
    let mut client = three.router.client();
    client.query("CREATE TABLE plans (id bigint PRIMARY KEY, price bigint NOT NULL)").tag();
    std::thread::scope(|scope| {
        for writer in 0..6 {
            let three = &three;
            scope.spawn(move || {
                let mut client = three.router.client();
                for round in 0..25 {
                    let id = writer * 1000 + round;
                    let answer = match writer % 3 {
                        0 => client.query(&format!("INSERT INTO plans VALUES ({id}, 0)")),
                        1 => client.query("UPDATE plans SET price = price + 1"),
                        _ => client.query(&format!("DELETE FROM plans WHERE id % 7 = {} AND price > 9", round % 7)),
                    };
                    assert_eq!(answer.sqlstate(), "", "{:?}", answer.error);
                }
            });
        }
    });
    let copies = three.on_shards("SELECT string_agg(id || ':' || price, ',' ORDER BY id) FROM plans");
    assert!(copies.iter().all(|copy| copy == &copies[0]), "{copies:?}");
    three.nothing_is_prepared();
}
