//! SHOW QUERIES, WAITING, SERVERS and MEM over real PostgreSQL.

use crate::operate::{admin, cluster, config, connect, eventually, psql, show};
use crate::support::wire::{self, Wire};
use crate::support::{Cluster, Sluice};

const COUNTS: [&str; 6] = ["database", "calls", "rows", "errors", "shards", "one_shard"];

/// What was counted for the statement with this text.
fn counted(port: u16, text: &str) -> Option<String> {
    let rows = show(port, "QUERIES", &[&["query"][..], &COUNTS].concat());
    rows.iter().find_map(|row| row.strip_prefix(&format!("{text} "))).map(str::to_owned)
}

fn assert_counted(port: u16, text: &str, expected: &str) {
    let all = || show(port, "QUERIES", &[&["query"][..], &COUNTS].concat()).join("\n");
    assert_eq!(counted(port, text).as_deref(), Some(expected), "{text} in\n{}", all());
}

fn start(cluster: &Cluster) -> Sluice {
    let sluice = Sluice::start(&format!("{}\n[listen]\nworkers = 2\n", config(cluster)));
    sluice.psql("app", "CREATE TABLE users (id bigint PRIMARY KEY, name text)").unwrap();
    for id in 1..=8 {
        sluice.psql("app", &format!("INSERT INTO users VALUES ({id}, 'n{id}')")).unwrap();
    }
    sluice
}

#[tokio::test]
async fn statements_are_counted_by_shape_in_both_protocols() {
    for shards in [1, 2] {
        let cluster = cluster(shards, 0);
        let sluice = start(&cluster);
        let port = sluice.port();
        let all = format!("{shards}.00");
        let alone = if shards == 1 { "1.00" } else { "0.00" };
        assert_counted(port, "INSERT INTO users VALUES ($1, $2)", "app 8 8 0 1.00 1.00");
        assert_counted(
            port,
            "CREATE TABLE users (id bigint PRIMARY KEY, name text)",
            &format!("app 1 0 0 {all} {alone}"),
        );

        // Over both workers.
        let (one, other) = (connect(port).await, connect(port).await);
        for id in 1..=3_i64 {
            one.batch_execute(&format!("SELECT name FROM users  WHERE id = {id} -- {id}")).await.unwrap();
            other.batch_execute(&format!("SELECT name FROM users WHERE id = {id}")).await.unwrap();
            one.query("SELECT id FROM users WHERE id = $1", &[&id]).await.unwrap();
        }
        assert_counted(port, "SELECT name FROM users WHERE id = $1", "app 6 6 0 1.00 1.00");
        assert_counted(port, "SELECT id FROM users WHERE id = $1", "app 3 3 0 1.00 1.00");

        one.batch_execute("SELECT id FROM users ORDER BY id").await.unwrap();
        other.query("SELECT id FROM users ORDER BY id", &[]).await.unwrap();
        assert_counted(port, "SELECT id FROM users ORDER BY id", &format!("app 2 16 0 {all} {alone}"));

        // Who is curious is counted apart, with the shards and without rows.
        for explain in ["EXPLAIN SELECT id FROM users ORDER BY id", "EXPLAIN ANALYZE SELECT id FROM users ORDER BY id"]
        {
            one.batch_execute(explain).await.unwrap();
            other.query(explain, &[]).await.unwrap();
            assert_counted(port, explain, &format!("app 2 0 0 {all} {alone}"));
        }
        assert_counted(port, "SELECT id FROM users ORDER BY id", &format!("app 2 16 0 {all} {alone}"));

        // Errors of servers, in both protocols, and of the router.
        one.batch_execute("SELECT 1/0 FROM users WHERE id = 1").await.unwrap_err();
        let division = "SELECT 1 / $1::int4 FROM users WHERE id = 1";
        one.query(division, &[&0_i32]).await.unwrap_err();
        one.query(division, &[&1_i32]).await.unwrap();
        assert_counted(port, "SELECT $1/$2 FROM users WHERE id = $3", "app 1 0 1 1.00 1.00");
        assert_counted(port, "SELECT $2 / $1::int4 FROM users WHERE id = $3", "app 2 1 1 1.00 1.00");
        one.batch_execute("SELEC 1").await.unwrap_err();
        if shards > 1 {
            one.batch_execute("SELECT ctid FROM users").await.unwrap_err();
            one.query("SELECT ctid FROM users", &[]).await.unwrap_err();
            let row = counted(port, "SELECT ctid FROM users");
            assert!(row.as_deref().is_some_and(|row| row.starts_with("app ") && row.contains(" 0.00")), "{row:?}");
        }

        // A text of several statements is one, a transaction is its statements.
        one.batch_execute("SELECT 1; SELECT 2").await.unwrap();
        assert_counted(port, "SELECT $1; SELECT $2", "app 1 2 0 1.00 1.00");
        one.batch_execute("BEGIN").await.unwrap();
        one.batch_execute("UPDATE users SET name = 'x' WHERE id = 1").await.unwrap();
        one.batch_execute("COMMIT").await.unwrap();
        assert_counted(port, "BEGIN", "app 1 0 0 0.00 0.00");
        assert_counted(port, "UPDATE users SET name = $1 WHERE id = $2", "app 1 1 0 1.00 1.00");
        assert_counted(port, "COMMIT", "app 1 0 0 1.00 1.00");

        let metrics = crate::operate::get(([127, 0, 0, 1], sluice.http_port()).into(), "/metrics");
        assert!(!metrics.contains("SELECT"), "no label is a statement's text");
    }
}

#[test]
fn every_statement_of_a_pipeline_has_its_own_time() {
    let cluster = cluster(1, 0);
    let trusting = config(&cluster).replace("scram-sha-256", "trust");
    let sluice = Sluice::start(&trusting);
    let mut client = Wire::connect(sluice.port(), "app", "app");
    let mut out = Vec::new();
    for (text, then) in [
        ("SELECT 'first', pg_sleep(0.3)", wire::execute("")),
        ("SELECT 'second'", [wire::execute(""), wire::message(b'H', b"")].concat()),
        ("SELECT 'third'", [wire::execute(""), wire::sync()].concat()),
    ] {
        out.extend([wire::parse("", text), wire::bind("", "", &[], false), then].concat());
    }
    client.send(&out);
    let answer = client.answer(&[]);
    assert!(answer.error.is_none(), "{:?}", answer.error);
    let port = sluice.port();
    let times = |text: &str| -> Vec<u64> {
        let rows = show(port, "QUERIES", &["query", "calls", "rows", "p50_us", "wait_p50_us", "server_p50_us"]);
        let row =
            rows.iter().find_map(|row| row.strip_prefix(&format!("{text} "))).unwrap_or_else(|| panic!("{rows:?}"));
        row.split(' ').map(|n| n.parse().unwrap()).collect()
    };
    let first = times("SELECT $1, pg_sleep($2)");
    assert_eq!(first[..2], [1, 1]);
    assert!(first[2] >= 280_000 && first[4] >= 250_000, "{first:?}");
    // Rows that come in portions.
    let mut out = [wire::parse("", "SELECT generate_series(1, 7)"), wire::bind("", "", &[], false)].concat();
    for _ in 0..2 {
        out.extend(wire::message(b'E', &[0, 0, 0, 0, 5]));
    }
    out.extend(wire::sync());
    client.send(&out);
    assert_eq!(client.answer(&[]).status, b'I');
    assert_eq!(times("SELECT generate_series($1, $2)")[..2], [2, 7]);

    // One shape, counted twice, of which neither has slept.
    let others = times("SELECT $1");
    assert_eq!(others[..2], [2, 2]);
    assert!(others[2] < 280_000, "{others:?}");
}

#[tokio::test]
async fn waiting_is_told_apart_and_who_is_waited_for() {
    let cluster = cluster(1, 0);
    let sluice = Sluice::start(&format!("{}\n[pool]\nsize = 2\n", config(&cluster)));
    let port = sluice.port();
    let (holder, pinned, waiter) = (connect(port).await, connect(port).await, connect(port).await);
    holder.batch_execute("BEGIN").await.unwrap();
    holder.batch_execute("CREATE TABLE held (id int)").await.unwrap();
    let statement = holder.prepare("SELECT 42").await.unwrap();
    holder.query(&statement, &[]).await.unwrap();
    pinned.batch_execute("CREATE TEMP TABLE t (id int)").await.unwrap();
    let id = |pid_of: &str| {
        let rows = show(port, "CLIENTS", &["link", "state", "pin", "id"]);
        let row =
            rows.iter().find(|row| row.contains(pid_of)).unwrap_or_else(|| panic!("{pid_of} in {rows:?}")).clone();
        row.rsplit(' ').next().unwrap().to_owned()
    };
    let prepared = show(port, "SERVERS", &["state", "prepared_statements"]);
    assert!(prepared.contains(&"active 1".to_owned()), "{prepared:?}");

    let waiting = tokio::spawn(async move {
        waiter.query("SELECT 'it waits', $1::int4", &[&1_i32]).await.unwrap();
    });
    let columns =
        ["user", "shard", "reason", "holders", "holder_user", "holder_state", "holder_pin", "holder_statement"];
    let rows = eventually("two holders", || Some(show(port, "WAITING", &columns)).filter(|rows| rows.len() == 2)).await;
    assert_eq!(
        rows,
        [
            "app a the pool's servers are in use 2 app active  SELECT $1",
            "app a the pool's servers are in use 2 app active temporary table CREATE TEMP TABLE t (id int)"
        ]
    );
    let statement = show(port, "WAITING", &["statement"]);
    assert_eq!(statement[0], "SELECT $2, $1::int4");
    let holders = show(port, "WAITING", &["holder_id", "holder_us", "wait_us"]);
    let temporary = id("temporary table");
    let (of, held) = holders[1].split_once(' ').unwrap();
    assert_eq!(of, temporary);
    let times: Vec<u64> = held.split(' ').map(|n| n.parse().unwrap()).collect();
    assert!(times[0] >= times[1] && times[1] > 0, "it had its server before the other waited: {holders:?}");
    let waited: u64 = show(port, "WAITING", &["wait_us"])[0].parse().unwrap();
    holder.batch_execute("ROLLBACK").await.unwrap();
    waiting.await.unwrap();
    assert_eq!(show(port, "WAITING", &["user"]), Vec::<String>::new());
    let rows = show(port, "QUERIES", &["query", "p99_us", "wait_p99_us", "server_p99_us"]);
    let row = rows.iter().find_map(|row| row.strip_prefix("SELECT $2, $1::int4 "));
    let times: Vec<u64> = row.unwrap_or_else(|| panic!("{rows:?}")).split(' ').map(|n| n.parse().unwrap()).collect();
    assert!(times[1] >= waited - waited / 8 && times[0] >= times[1], "{times:?}, and it waited {waited}");
    assert!(times[2] < times[1], "what was waited is not the server's: {times:?}");
}

#[tokio::test]
async fn shapes_have_a_bound_and_memory_is_told() {
    let cluster = cluster(1, 0);
    let sluice =
        Sluice::start(&format!("{}\n[listen]\nworkers = 1\n[limits]\nquery_shapes_max = 10\n", config(&cluster)));
    let port = sluice.port();
    let client = connect(port).await;
    for _ in 0..300 {
        client.batch_execute("SELECT 'often'").await.unwrap();
    }
    for n in 0..40 {
        client.batch_execute(&format!("SELECT 1 AS c{n}")).await.unwrap();
    }
    let rows = show(port, "QUERIES", &["query"]);
    assert!(rows.len() <= 10 && rows.contains(&"SELECT $1".to_owned()), "{rows:?}");
    let totals = show(port, "TOTALS", &["name", "value"]);
    let forgotten = totals.iter().find_map(|row| row.strip_prefix("total_shapes_forgotten ")).unwrap();
    assert!(forgotten.parse::<u64>().unwrap() >= 30, "{totals:?}");
    admin(port, "SET limits.query_shapes_max = 3");
    assert!(show(port, "QUERIES", &["query"]).len() <= 3);

    client.batch_execute("BEGIN").await.unwrap();
    let statement = client.prepare("SELECT 'a text of some length'").await.unwrap();
    client.query(&statement, &[]).await.unwrap();
    let memory = show(port, "MEM", &["name", "size", "used", "free", "memtotal"]);
    let of = |name: &str| -> Vec<u64> {
        let row = memory.iter().find_map(|row| row.strip_prefix(&format!("{name} ")));
        row.unwrap_or_else(|| panic!("{name} in {memory:?}")).split(' ').map(|n| n.parse().unwrap()).collect()
    };
    assert_eq!(of("clients_busy")[1], 1, "{memory:?}");
    assert_eq!(of("clients_busy")[0], of("clients_busy")[3]);
    assert_eq!(of("clients_idle")[1], 0);
    assert_eq!(of("servers")[1], 1);
    assert!(of("buffers")[3] >= of("buffers")[0] * of("buffers")[2], "{memory:?}");
    assert!(of("plan_cache")[1] > 1 && of("plan_cache")[3] > 100);
    assert!(of("prepared_statements")[3] >= 30, "{memory:?}");
    assert!(of("query_statistics")[1] <= 3 && of("query_statistics")[3] > 2000, "{memory:?}");
    let refused = psql(port, "app", "sluice", "SHOW QUERIES").unwrap_err();
    assert!(refused.contains("may not use the console"), "{refused}");
}
