//! SET in the console.

use crate::operate::{admin, cluster, config, connect, eventually, psql, show};
use crate::support::Sluice;

fn value(port: u16, key: &str) -> String {
    let rows = show(port, "CONFIG", &["key", "value"]);
    let row = rows.iter().find_map(|row| row.strip_prefix(&format!("{key} ")));
    row.unwrap_or_else(|| panic!("{key} is not in {rows:?}")).to_owned()
}

#[tokio::test]
async fn set_changes_what_reload_could_and_reload_takes_it_back() {
    let cluster = cluster(1, 0);
    let sluice = Sluice::start(&config(&cluster));
    let port = sluice.port();
    admin(port, "SET pool.size = 1; SET query_wait_timeout = 0.3; SET user.app.pool.mode = 'session'");
    assert_eq!(value(port, "pool.size"), "1");
    assert_eq!(value(port, "default_pool_size"), "1");
    assert_eq!(value(port, "pool.wait_timeout"), "300ms");
    assert_eq!(value(port, "user.app.pool.mode"), "session");

    // They hold at once: one server, for the session, and little patience.
    let (first, second) = (connect(port).await, connect(port).await);
    first.batch_execute("SELECT 1").await.unwrap();
    let error = second.batch_execute("SELECT 1").await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("53300"), "{error}");
    // And for clients that are there already.
    admin(port, "SET pool.size = 2");
    second.batch_execute("SELECT 1").await.unwrap();

    admin(port, "RELOAD");
    assert_eq!([value(port, "pool.size"), value(port, "pool.wait_timeout")], ["20", "10s"]);
    assert!(!show(port, "CONFIG", &["key"]).contains(&"user.app.pool.mode".to_owned()));
}

#[tokio::test]
async fn set_says_why_not() {
    let cluster = cluster(2, 0);
    let sluice = Sluice::start(&config(&cluster));
    let port = sluice.port();
    let before = show(port, "CONFIG", &["key", "value"]);
    for (sql, said) in [
        ("SET listen.address = '127.0.0.1:1'", "cannot be changed without restarting the router"),
        ("SET listen_port = 1", "cannot be changed without restarting the router"),
        ("SET log.level = debug", "start the router anew"),
        ("SET database.app.buckets = 64", "says where rows are"),
        ("SET max_user_connections = 5", "pool.size"),
        ("SET pool.size = 0", "pool.size: 0 is not a number from 1 to 1000000"),
        ("SET pool.wait_timeout = 5", "5 needs a unit"),
        ("SET pool.sise = 5", "did you mean `size`?"),
        ("SET work_mem = '1MB'", "there is no setting work_mem"),
        ("SET pool.size = 5; SET pool.mode = x", "pool.mode: \"x\" is unknown"),
    ] {
        let refused = psql(port, "admin", "sluice", sql).unwrap_err();
        assert!(refused.contains(said), "{sql}: {refused}");
    }
    admin(port, "SET pool.size = 20");
    assert_eq!(show(port, "CONFIG", &["key", "value"]), before, "what is refused changes nothing");
    let refused = psql(port, "watcher", "sluice", "SET pool.size = 5").unwrap_err();
    assert!(refused.contains("permission denied"), "{refused}");
    // Two shards cannot be the same place.
    let url = format!("postgres://app:app@127.0.0.1:{}/app", cluster.primary(0).port());
    let refused = psql(port, "admin", "sluice", &format!("SET database.app.shard.b.primary = '{url}'")).unwrap_err();
    assert!(refused.contains("listed twice") && !refused.contains("app:app"), "{refused}");
    assert!(!sluice.log().contains("app:app"), "a password is in the log");
}

#[tokio::test]
async fn a_table_gets_another_rule_and_a_user_another_password() {
    let cluster = cluster(2, 0);
    let sluice = Sluice::start(&config(&cluster));
    let port = sluice.port();
    sluice.psql("app", "CREATE TABLE plans (id int PRIMARY KEY)").unwrap();
    assert_eq!(show(port, "TABLES", &["table", "kind"]), ["plans local"]);
    admin(port, "SET database.app.tables.plans = 'reference'");
    let kind = || (show(port, "TABLES", &["table", "kind"]) == ["plans reference"]).then_some(());
    eventually("the new rule", kind).await;
    admin(port, "SET user.watcher.password = 'other'");
    assert!(psql(port, "watcher", "sluice", "SHOW POOLS").is_err());
    assert!(!sluice.log().contains("'other'"), "a password is in the log");
}
