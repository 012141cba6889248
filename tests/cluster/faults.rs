//! Servers that die, freeze and come back.

use std::time::Duration;

use crate::support::running::{RULES, Running, wait_for};
use crate::support::wire::{self, Wire};
use crate::support::{Cluster, ClusterOptions};

/// Quick to notice, so that a test need not wait long.
const QUICK: &str = "[pool]\nconnect_timeout = \"1s\"\nwait_timeout = \"3s\"\n[replicas]\ncheck_interval = \"100ms\"\n";

fn cluster(shards: usize, replicas: usize) -> Cluster {
    let settings = vec![("fsync".to_owned(), "on".to_owned()), ("synchronous_commit".to_owned(), "on".to_owned())];
    Cluster::start(ClusterOptions { shards, replicas, settings, ..Default::default() }).unwrap()
}

fn router(cluster: &Cluster) -> Running {
    Running::start(&format!("{QUICK}{}", cluster.database_config("app", RULES)))
}

/// Asks with new clients until the answer is this one.
fn wait_for_answer(router: &Running, sql: &str, expected: &str) {
    wait_for(&format!("{sql} to answer {expected}"), || {
        let mut client = Wire::try_connect(router.port, &[("user", "app"), ("database", "app")]).ok()?;
        client.set_patience(Duration::from_secs(3));
        let answer = client.query(sql);
        (answer.error.is_none() && answer.text() == expected).then_some(())
    });
}

#[test]
fn a_server_killed_in_the_middle_of_a_result_is_an_error_and_nothing_else() {
    let cluster = cluster(1, 0);
    let router = router(&cluster);
    router.wait_until_ready();
    let mut client = router.client();
    client.query("CREATE TABLE users (id bigint PRIMARY KEY, name text)");
    client.query("INSERT INTO users VALUES (1, 'kept')");
    let early = router.client();
    client.send(&wire::query("SELECT repeat('x', 1000), generate_series(1, 100000000)"));
    assert_eq!(client.message().unwrap().tag, b'T');
    assert_eq!(client.message().unwrap().tag, b'D');
    cluster.primary(0).kill();
    let answer = client.answer(b"");
    // Between two rows there is room for an error; inside one, only the end of the connection is no lie.
    assert!(["08006", "57P01", "57P02", wire::LOST].contains(&answer.sqlstate()), "{:?}", answer.error);
    let whole = vec![b'x'; 1000];
    assert!(answer.results.iter().flat_map(|result| &result.rows).all(|row| row[0].as_deref() == Some(&whole[..])));
    let mut other = early;
    let refused = other.query("SELECT name FROM users WHERE id = 1");
    assert!(!["", wire::LOST].contains(&refused.sqlstate()), "there is no server: {:?}", refused.error);
    cluster.primary(0).start().unwrap();
    wait_for_answer(&router, "SELECT name FROM users WHERE id = 1", "kept");
    assert_eq!(other.text("SELECT name FROM users WHERE id = 1"), "kept", "a client outlives its server");
}

#[test]
fn the_router_starts_before_its_servers() {
    let cluster = cluster(2, 0);
    let make = "CREATE TABLE users (id bigint PRIMARY KEY, name text); ALTER TABLE users OWNER TO app";
    (0..2).for_each(|shard| drop(cluster.primary(shard).psql(make).unwrap()));
    (0..2).for_each(|shard| cluster.primary(shard).stop());
    let router = router(&cluster);
    let early = Wire::try_connect(router.port, &[("user", "app"), ("database", "app")])
        .map(|mut client| client.query("SELECT count(*) FROM users").sqlstate().to_owned())
        .unwrap_or_else(|refused| refused.sqlstate().to_owned());
    assert!(["57P03", "08001", "08006", "53300"].contains(&early.as_str()), "{early}");
    (0..2).for_each(|shard| cluster.primary(shard).start().unwrap());
    wait_for_answer(&router, "SELECT count(*) FROM users", "0");
    let mut client = router.client();
    for id in 0..20 {
        assert_eq!(client.query(&format!("INSERT INTO users VALUES ({id}, 'x')")).tag(), "INSERT 0 1");
    }
    assert_eq!(client.text("SELECT count(*) FROM users"), "20");
}

#[test]
fn one_shard_down_leaves_the_other_serving() {
    let cluster = cluster(2, 0);
    let router = router(&cluster);
    router.wait_until_ready();
    let mut client = router.client();
    client.query("CREATE TABLE users (id bigint PRIMARY KEY, name text)");
    let rows: String = (0..100).map(|id| format!("{id}\tuser {id}\n")).collect();
    assert_eq!(client.copy("COPY users FROM STDIN", rows.as_bytes()).tag(), "COPY 100");
    let first_of = |shard: usize| cluster.primary(shard).psql("SELECT min(id) FROM users").unwrap();
    let (here, there) = (first_of(0), first_of(1));
    cluster.primary(1).kill();
    let by_id = |id: &str| format!("SELECT name FROM users WHERE id = {id}");
    for _ in 0..5 {
        assert_eq!(client.text(&by_id(&here)), format!("user {here}"));
    }
    assert!(client.query(&by_id(&there)).error.is_some());
    assert!(client.query("SELECT count(*) FROM users").error.is_some(), "half an answer is none");
    cluster.primary(1).start().unwrap();
    wait_for_answer(&router, &by_id(&there), &format!("user {there}"));
    wait_for_answer(&router, "SELECT count(*) FROM users", "100");
}

#[test]
fn reads_go_round_a_replica_that_is_dead_or_frozen_and_return_to_it() {
    let cluster = cluster(1, 1);
    let router = router(&cluster);
    router.wait_until_ready();
    let who = "SELECT current_setting('in_hot_standby')";
    wait_for_answer(&router, who, "on");
    cluster.replica(0, 0).kill();
    wait_for_answer(&router, who, "off");
    cluster.replica(0, 0).start().unwrap();
    wait_for_answer(&router, who, "on");
    cluster.replica(0, 0).pause();
    wait_for_answer(&router, who, "off");
    cluster.replica(0, 0).resume();
    wait_for_answer(&router, who, "on");
    // Writes never went anywhere else.
    let mut client = router.client();
    assert_eq!(client.query("CREATE TABLE users (id bigint PRIMARY KEY)").tag(), "CREATE TABLE");
    assert_eq!(client.query("INSERT INTO users VALUES (1)").tag(), "INSERT 0 1");
    assert_eq!(client.text("SELECT count(*) FROM users"), "1", "a client reads what it has written");
}
