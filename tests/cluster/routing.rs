//! Where rows and tables end up: seen on the shards themselves, past the router.

use pgsluice_sharding::ShardMap;
use pgsluice_sharding::key::Key;

use crate::support::running::{Running, databases, shared, superuser};
use crate::support::wire::Answer;

const SHARDS: u16 = 3;
/// As many as the configuration has when it names none.
const BUCKETS: u16 = 4096;

fn on_shards(shards: &[String], sql: &str) -> Vec<String> {
    shards.iter().map(|shard| superuser(shared(), shard).text(sql)).collect()
}

#[test]
fn rows_are_where_the_map_says_however_they_came() {
    let shards = databases("placed", SHARDS.into());
    let router = Running::over(&shards);
    let mut client = router.client();
    client.query("CREATE TABLE users (id bigint PRIMARY KEY, name text)");
    let rows: String = (-50..50).map(|id| format!("{id}\tcopied\n")).collect();
    assert_eq!(client.copy("COPY users FROM STDIN", rows.as_bytes()).tag(), "COPY 100");
    let inserted = |answer: Answer| assert_eq!(answer.tag(), "INSERT 0 1");
    for id in (1000..1040).chain([i64::MIN, i64::MAX]) {
        inserted(client.query(&format!("INSERT INTO users VALUES ({id}, 'literal')")));
    }
    for id in 2000..2040 {
        inserted(client.execute("INSERT INTO users VALUES ($1, 'parameter')", &[Some(&id.to_string())], true));
    }
    let map = ShardMap::even(BUCKETS, SHARDS);
    let mut count = 0;
    for (number, ids) in on_shards(&shards, "SELECT id FROM users").iter().enumerate() {
        for id in ids.lines() {
            assert_eq!(usize::from(map.shard_of(&Key::Int(id.parse().unwrap())).0), number, "{id}");
            count += 1;
        }
    }
    assert_eq!(count, 182);
}

#[test]
fn a_table_is_made_on_all_shards_or_on_none() {
    let shards = databases("ddl", SHARDS.into());
    let router = Running::over(&shards);
    superuser(shared(), &shards[1]).query("CREATE TABLE taken (user_id bigint)");
    let mut client = router.client();
    assert_eq!(client.query("CREATE TABLE taken (user_id bigint PRIMARY KEY)").sqlstate(), "42P07");
    let there = "SELECT to_regclass('public.taken') IS NOT NULL";
    assert_eq!(on_shards(&shards, there), ["f", "t", "f"]);
    assert_eq!(client.query("CREATE TABLE free (user_id bigint PRIMARY KEY)").tag(), "CREATE TABLE");
    assert_eq!(on_shards(&shards, "SELECT to_regclass('public.free') IS NOT NULL"), ["t"; SHARDS as usize]);
    assert_eq!(client.text("SELECT count(*) FROM free"), "0");
    let prepared = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()";
    assert_eq!(on_shards(&shards, prepared), ["0"; SHARDS as usize]);
}

#[test]
fn a_block_reads_and_writes_several_shards() {
    let shards = databases("block", SHARDS.into());
    let router = Running::over(&shards);
    let mut client = router.client();
    client.query("CREATE TABLE users (id bigint PRIMARY KEY, name text)");
    let rows: String = (0..50).map(|id| format!("{id}\tbefore\n")).collect();
    client.copy("COPY users FROM STDIN", rows.as_bytes());
    let map = ShardMap::even(BUCKETS, SHARDS);
    let home = |id: i64| map.shard_of(&Key::Int(id));
    let elsewhere = (1..50).find(|id| home(*id) != home(0)).unwrap();
    client.query("BEGIN");
    assert_eq!(client.query("UPDATE users SET name = 'after' WHERE id = 0").tag(), "UPDATE 1");
    assert_eq!(client.text("SELECT count(*) FROM users WHERE name = 'after'"), "1");
    assert_eq!(client.text(&format!("SELECT name FROM users WHERE id = {elsewhere}")), "before");
    let second = client.query(&format!("UPDATE users SET name = 'after' WHERE id = {elsewhere}"));
    assert_eq!(second.tag(), "UPDATE 1");
    assert_eq!(client.query("COMMIT").tag(), "COMMIT");
    assert_eq!(client.text("SELECT count(*) FROM users WHERE name = 'after'"), "2");
}

/// A pipeline without BEGIN is one transaction on PostgreSQL; an error takes all of it back.
#[test]
fn a_pipeline_is_kept_whole_or_not_at_all() {
    use crate::support::wire;
    let shards = databases("pipeline", SHARDS.into());
    let router = Running::over(&shards);
    let mut client = router.client();
    client.query("CREATE TABLE users (id bigint PRIMARY KEY, name text)");
    let step = |sql: &str| [wire::parse("", sql), wire::bind("", "", &[], false), wire::execute("")].concat();
    for failing in [
        "SELECT 1 / 0",
        "SELECT * FROM nowhere",
        "SELECT 1 / (count(*) - count(*)) FROM users WHERE id = 2",
        "INSERT INTO users VALUES (2, NULL, NULL)",
        "SELECT nothing FROM users",
        "SELECT id FROM users ORDER BY 1 / (id - id)",
        "SET nothing_known TO 1",
    ] {
        let insert = step("INSERT INTO users VALUES (1, 'pipelined')");
        client.send(&[insert, step(failing), wire::sync()].concat());
        let answer = client.answer(b"");
        assert!(answer.error.is_some() && answer.status == b'I', "{failing}: {answer:?}");
        let kept = client.text("SELECT count(*) FROM users");
        assert_eq!(kept, "0", "after {failing}");
    }
}
