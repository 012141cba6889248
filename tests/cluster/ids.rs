//! Ids over several shards: unique whoever gives them out, in order where PostgreSQL's are, and the same in every copy.

use std::collections::HashSet;
use std::thread;

use crate::support::running::{RULES, Running, database_config, databases, shared, superuser, wait_for};
use crate::support::wire::Wire;

const CLIENTS: usize = 6;
const ROWS: usize = 100;

/// A router with this number.
fn router(over: &[String], number: u8) -> Running {
    let running = Running::start_exactly(&format!(
        "[listen]\naddress = \"127.0.0.1:0\"\nworkers = 2\nrouter_id = {number}\n[auth]\nmethod = \"trust\"\n\
         [[user]]\nname = \"app\"\n[[user]]\nname = \"clerk\"\n[limits]\nsequence_block_max = 16\n{}",
        database_config(shared(), over, RULES)
    ));
    running.wait_until_ready();
    running
}

fn done(wire: &mut Wire, sql: &str) {
    let answer = wire.query(sql);
    assert_eq!(answer.sqlstate(), "", "{sql}: {:?}", answer.error);
}

/// All values of one column on all shards.
fn everywhere(over: &[String], sql: &str) -> Vec<String> {
    over.iter()
        .flat_map(|shard| superuser(shared(), shard).text(sql).lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

#[test]
fn many_clients_of_two_routers_get_unique_ids() {
    let over = databases("ids", 3);
    let routers = [router(&over, 1), router(&over, 2)];
    done(
        &mut routers[0].client(),
        "CREATE TABLE orders (id bigserial, user_id bigint NOT NULL, n int, PRIMARY KEY (user_id, id))",
    );
    let know = "SELECT count(*) FROM orders";
    wait_for("the other router to know the table", || routers[1].client().query(know).error.is_none().then_some(()));
    let one = |client: usize| {
        let mut wire = routers[client % 2].client();
        let mut ids: Vec<i64> = Vec::new();
        for n in 0..ROWS {
            let user = (client * ROWS + n).to_string();
            let answer = match n % 3 {
                0 => wire.query(&format!("INSERT INTO orders (user_id, n) VALUES ({user}, {n}) RETURNING id")),
                1 => wire.execute("INSERT INTO orders (user_id, n) VALUES ($1, 1) RETURNING id", &[Some(&user)], false),
                _ => wire.query(&format!("INSERT INTO orders (user_id, n) VALUES ({user}, 1), ({n}, 2) RETURNING id")),
            };
            assert_eq!(answer.sqlstate(), "", "{:?}", answer.error);
            ids.extend(answer.text().lines().map(|line| line.parse::<i64>().unwrap()));
        }
        assert!(ids.is_sorted(), "one client's ids do not rise: {ids:?}");
        ids
    };
    let all: Vec<i64> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || one(client))).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let stored = everywhere(&over, "SELECT id FROM orders");
    let different: HashSet<&String> = stored.iter().collect();
    assert_eq!((stored.len(), different.len()), (all.len(), all.len()));
    // Only what was left of blocks is lost.
    let most = i64::try_from(all.len()).unwrap() + 2 * 16;
    assert!(all.iter().all(|id| *id <= most), "{:?} of {}", all.iter().max(), all.len());
    // The sequences of the other shards were never asked.
    assert_eq!(everywhere(&over[1..], "SELECT is_called FROM orders_id_seq"), ["f", "f"]);
}

#[test]
fn clients_in_turn_get_one_id_after_the_other() {
    let over = databases("turns", 2);
    let router = router(&over, 1);
    done(&mut router.client(), "CREATE TABLE orders (id serial, user_id bigint NOT NULL, PRIMARY KEY (user_id, id))");
    let (mut one, mut other) = (router.client(), router.client());
    for n in 0..40 {
        let wire = if n % 3 == 0 { &mut one } else { &mut other };
        assert_eq!(wire.text(&format!("INSERT INTO orders (user_id) VALUES ({n}) RETURNING id")), (n + 1).to_string());
        assert_eq!(wire.text("SELECT currval('orders_id_seq')"), (n + 1).to_string());
    }
    assert_eq!(one.text("SELECT lastval()"), "40");
    assert_eq!(other.text("SELECT lastval()"), "39");
    // Between two transactions each asks without a server of its own.
    let mut console = Wire::connect(router.port, "app", "app");
    assert_eq!(console.query("SELECT lastval()").sqlstate(), "55000");
    assert_eq!(console.query("SELECT currval('orders_id_seq')").sqlstate(), "55000");
    done(&mut one, "DISCARD ALL");
    assert_eq!(one.query("SELECT lastval()").sqlstate(), "55000");
}

#[test]
fn sequences_that_are_moved_are_asked_anew() {
    let over = databases("moved", 2);
    let router = router(&over, 1);
    let mut wire = router.client();
    done(&mut wire, "CREATE TABLE orders (id bigserial, user_id bigint NOT NULL, PRIMARY KEY (user_id, id))");
    let put = "INSERT INTO orders (user_id) VALUES (1), (2), (3) RETURNING id";
    (0..5).for_each(|_| done(&mut wire, put));
    assert_eq!(wire.text("SELECT setval(pg_get_serial_sequence('orders', 'id'), 1000)"), "1000");
    assert_eq!(wire.text(put), "1001\n1002\n1003");
    done(&mut wire, "ALTER SEQUENCE orders_id_seq INCREMENT BY 10 RESTART WITH 5000");
    assert_eq!(wire.text(put), "5000\n5010\n5020");
    done(&mut wire, "TRUNCATE orders RESTART IDENTITY");
    assert_eq!(wire.text(put), "1\n11\n21");
    // A value for each row of a query is the home shard's own; what the router has of a block comes not after it.
    assert_eq!(wire.text("SELECT nextval('orders_id_seq') FROM generate_series(1, 2)").lines().count(), 2);
    let taken: i64 = superuser(shared(), &over[0]).text("SELECT last_value FROM orders_id_seq").parse().unwrap();
    let next: Vec<i64> = wire.text(put).lines().map(|id| id.parse().unwrap()).collect();
    assert!(next[0] > taken, "{next:?} after {taken}");
    let refused = wire.query("SELECT currval('orders_id_seq'), lastval()");
    assert_eq!(refused.text(), format!("{}|{}", next[2], next[2]));
    assert_eq!(wire.query("SELECT nextval('orders_id_seq') FROM generate_series(1, 2)").sqlstate(), "");
    assert_eq!(wire.query("SELECT lastval()").sqlstate(), "0A000", "only the server knows");
}

#[test]
fn ids_come_from_blocks_again_after_a_transaction_that_made_a_sequence() {
    let over = databases("remade", 2);
    let router = router(&over, 1);
    let mut wire = router.client();
    done(&mut wire, "BEGIN");
    done(&mut wire, "CREATE TABLE orders (id bigserial, user_id bigint NOT NULL, PRIMARY KEY (user_id, id))");
    done(&mut wire, "INSERT INTO orders (user_id) VALUES (1)");
    done(&mut wire, "COMMIT");
    for user in 0..6 {
        // Such a transaction stays on one shard: ids from a server of another would fail it.
        done(&mut wire, "BEGIN ISOLATION LEVEL SERIALIZABLE");
        done(&mut wire, &format!("SELECT FROM orders WHERE user_id = {user}"));
        done(&mut wire, &format!("INSERT INTO orders (user_id) VALUES ({user})"));
        done(&mut wire, "COMMIT");
    }
    assert_eq!(wire.text("SELECT count(DISTINCT id), max(id) FROM orders"), "7|7");
}

#[test]
fn rows_of_a_query_get_ids_and_one_time() {
    let over = databases("selected", 3);
    let router = router(&over, 1);
    let mut wire = router.client();
    done(
        &mut wire,
        "CREATE TABLE orders (id serial, user_id bigint NOT NULL, made timestamptz DEFAULT now(), PRIMARY KEY (user_id, id)); \
         CREATE TABLE drafts (user_id bigint NOT NULL, made timestamptz DEFAULT now())",
    );
    // More than one portion and more than one block.
    done(&mut wire, "INSERT INTO orders (user_id) SELECT g FROM generate_series(1, 5000) g");
    assert_eq!(wire.text("SELECT count(*), min(id), max(id), count(DISTINCT made) FROM orders"), "5000|1|5000|1");
    assert_eq!(wire.text("SELECT count(*) FROM orders WHERE id <> user_id"), "0", "ids follow the rows");
    assert_eq!(wire.text("SELECT currval('orders_id_seq')"), "5000");
    assert!(everywhere(&over, "SELECT count(*) FROM orders").iter().all(|count| count != "0"));
    // Rows that stay where they are get one time, too.
    done(&mut wire, "INSERT INTO drafts (user_id) SELECT user_id FROM orders");
    assert_eq!(wire.text("SELECT count(*), count(DISTINCT made) FROM drafts"), "5000|1");
    let shown = "EXPLAIN ANALYZE INSERT INTO orders (user_id) SELECT user_id FROM drafts";
    assert_eq!(wire.query(shown).sqlstate(), "0A000");
}

#[test]
fn copies_are_equal_after_every_statement() {
    let over = databases("copies", 3);
    let router = router(&over, 1);
    let mut wire = router.client();
    done(
        &mut wire,
        "CREATE TABLE plans (id serial PRIMARY KEY, name text, token uuid DEFAULT gen_random_uuid(), luck float8 DEFAULT random(), \
         made timestamptz DEFAULT now(), clock timestamptz DEFAULT clock_timestamp(), number text)",
    );
    done(&mut wire, "CREATE SEQUENCE numbers");
    done(&mut wire, "ALTER TABLE plans ALTER number SET DEFAULT 'N' || nextval('numbers')");
    let same = |what: &str| {
        let copies =
            over.iter().map(|shard| superuser(shared(), shard).text("SELECT p::text FROM plans p ORDER BY id"));
        let copies: HashSet<String> = copies.collect();
        assert_eq!(copies.len(), 1, "after {what}: {copies:?}");
        copies.into_iter().next().unwrap().lines().count()
    };
    let mut expected = 0;
    for (sql, rows) in [
        ("INSERT INTO plans (name) VALUES ('a')", 1),
        ("INSERT INTO plans (name, luck) VALUES ('b', random()), ('c', random() * 2), ('d', DEFAULT)", 3),
        ("INSERT INTO plans DEFAULT VALUES", 1),
        ("INSERT INTO plans VALUES (DEFAULT, md5(random()::text), gen_random_uuid(), 1, now(), clock_timestamp())", 1),
        (
            "INSERT INTO plans (id, name) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET made = now(), name = excluded.name",
            0,
        ),
        ("UPDATE plans SET made = now() WHERE id < 3", 0),
        ("DELETE FROM plans WHERE id = 2", -1),
    ] {
        done(&mut wire, sql);
        expected += rows;
        assert_eq!(i64::try_from(same(sql)).unwrap(), expected, "after {sql}");
    }
    let answer = wire.execute("INSERT INTO plans (name) VALUES ($1) RETURNING id, number", &[Some("e")], false);
    assert_eq!((answer.text().as_str(), answer.tag()), ("7|N8", "INSERT 0 1"));
    same("an INSERT with a parameter");
    for sql in
        ["UPDATE plans SET luck = random()", "UPDATE plans SET token = DEFAULT", "INSERT INTO plans (name) SELECT 'x'"]
    {
        done(&mut wire, sql);
        same(sql);
    }
    let merged =
        "MERGE INTO plans p USING (VALUES (99)) v(id) ON p.id = v.id WHEN NOT MATCHED THEN INSERT (name) VALUES ('x')";
    assert_eq!(wire.query(merged).sqlstate(), "0A000", "{merged}");
    same(merged);
}

#[test]
fn who_may_not_use_a_sequence_gets_no_id() {
    let over = databases("rights", 2);
    let router = router(&over, 1);
    let mut owner = router.client();
    superuser(shared(), "postgres").query("CREATE ROLE clerk LOGIN");
    done(&mut owner, "CREATE TABLE orders (id bigserial, user_id bigint NOT NULL, PRIMARY KEY (user_id, id))");
    done(&mut owner, "CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)");
    done(&mut owner, "GRANT ALL ON orders, users TO clerk");
    done(&mut owner, "INSERT INTO orders (user_id) VALUES (1), (2), (3)");
    let mut clerk = Wire::connect(router.port, "clerk", "app");
    let refused = clerk.query("INSERT INTO orders (user_id) VALUES (1)");
    assert_eq!(refused.sqlstate(), "42501", "{:?}", refused.error);
    assert_eq!(clerk.text("INSERT INTO users (name) VALUES ('an identity needs no right') RETURNING id"), "1");
    done(&mut owner, "GRANT USAGE ON SEQUENCE orders_id_seq TO clerk");
    assert_eq!(clerk.query("INSERT INTO orders (user_id) VALUES (1)").sqlstate(), "");
}

#[test]
fn ids_of_the_routers_own() {
    let over = databases("own", 2);
    let routers = [router(&over, 1), router(&over, 2)];
    let mut wires: Vec<Wire> = routers.iter().map(Running::client).collect();
    done(&mut wires[0], "CREATE TABLE orders (user_id bigint NOT NULL, id bigint, PRIMARY KEY (user_id, id))");
    let know = "SELECT count(*) FROM orders";
    wait_for("the other router to know the table", || routers[1].client().query(know).error.is_none().then_some(()));
    let mut all = HashSet::new();
    for wire in &mut wires {
        let mut last = 0;
        for n in 0..50 {
            let user = n.to_string();
            let put = "INSERT INTO orders VALUES (sluice.unique_id(), 1), ($1, sluice.unique_id()), (sluice.unique_id(), sluice.unique_id()) RETURNING user_id, id";
            let answer = match n % 2 {
                0 => wire.execute(put, &[Some(&user)], false),
                _ => wire.query(&put.replace("$1", &user)),
            };
            let text = answer.text();
            let ids: Vec<i64> = text.split(['|', '\n']).map(|id| id.parse().unwrap()).filter(|id| *id > 50).collect();
            assert_eq!(ids.len(), 4, "{text}");
            assert!(ids.is_sorted() && ids[0] > last, "{ids:?} after {last}");
            last = ids[3];
            assert!(ids.into_iter().all(|id| all.insert(id)));
        }
        let alone = wire.execute("SELECT sluice.unique_id(), sluice.unique_id() AS b", &[], false);
        assert_eq!(alone.results[0].columns.as_ref().unwrap()[0].name, "unique_id");
        assert!(alone.text().split('|').all(|id| all.insert(id.parse().unwrap())));
    }
    assert_eq!(wires[0].query("UPDATE orders SET id = sluice.unique_id()").sqlstate(), "0A000");
    let single = databases("own", 1);
    let router = Running::over(&single);
    let mut wire = router.client();
    assert_eq!(wire.query("SELECT sluice.unique_id()").sqlstate(), "");
}

#[test]
fn errors_point_into_the_clients_text() {
    let over = databases("points", 2);
    let router = router(&over, 1);
    let mut wire = router.client();
    let table = "CREATE TABLE orders (id bigserial, user_id bigint NOT NULL, n int, PRIMARY KEY (user_id, id))";
    done(&mut wire, table);
    let plain = databases("points", 1);
    let mut judge = superuser(shared(), &plain[0]);
    done(&mut judge, table);
    for sql in [
        "INSERT INTO orders (user_id, n) VALUES (1, 'x')",
        "INSERT INTO orders (user_id, n) VALUES (1, 2) RETURNING nothing",
        "INSERT INTO orders (user_id, n) VALUES (1, DEFAULT) ON CONFLICT (user_id, id) DO UPDATE SET nothing = 1",
        "INSERT INTO orders VALUES (DEFAULT, 1, 'é' || missing(1))",
    ] {
        let (expected, got) = (judge.query(sql), wire.query(sql));
        let (expected, got) = (expected.error.unwrap(), got.error.unwrap());
        assert_eq!((got.sqlstate(), got.field(b'P')), (expected.sqlstate(), expected.field(b'P')), "{sql}: {got:?}");
    }
}
