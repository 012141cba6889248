//! What an operator does to clients and servers that are there, over real PostgreSQL.

use std::time::Duration;

use tokio_postgres::Client;

use crate::operate::{admin, cluster, config, connect, connect_directly, eventually, psql, show};
use crate::support::Sluice;

/// The number of the only client that has this in a column of SHOW CLIENTS.
fn client_with(port: u16, column: &str, value: &str) -> Option<String> {
    let rows = show(port, "CLIENTS", &[column, "id"]);
    rows.iter().find_map(|row| row.strip_prefix(&format!("{value} "))).map(str::to_owned)
}

async fn is_gone(client: &Client) {
    eventually("the end of a client", || client.is_closed().then_some(())).await;
}

#[tokio::test]
async fn a_disabled_database_takes_no_new_clients_and_keeps_those_it_has() {
    let cluster = cluster(1, 0);
    let sluice = Sluice::start(&config(&cluster));
    let port = sluice.port();
    let client = connect(port).await;
    admin(port, "DISABLE app");
    let refused = psql(port, "app", "app", "SELECT 1").unwrap_err();
    assert!(refused.contains("database does not allow connections: app"), "{refused}");
    client.batch_execute("SELECT 1").await.unwrap();
    assert_eq!(show(port, "DATABASES", &["name", "disabled", "paused"]), ["app 1 0"]);
    sluice.reload(&config(&cluster));
    sluice.wait_for_log("the configuration was read again");
    assert!(psql(port, "app", "app", "SELECT 1").is_err(), "RELOAD enables nothing");
    admin(port, "ENABLE app");
    assert_eq!(psql(port, "app", "app", "SELECT 1").unwrap(), "1");
    assert_eq!(show(port, "DATABASES", &["disabled"]), ["0"]);
    assert!(psql(port, "admin", "sluice", "DISABLE nowhere").unwrap_err().contains("does not exist"));
    assert!(psql(port, "watcher", "sluice", "DISABLE app").unwrap_err().contains("permission denied"));
}

#[tokio::test]
async fn kill_client_ends_one_client_and_what_its_server_runs() {
    let cluster = cluster(1, 0);
    let sluice = Sluice::start(&config(&cluster));
    let port = sluice.port();
    let (busy, idle, open, other) =
        (connect(port).await, connect(port).await, connect(port).await, connect(port).await);
    for (client, name) in [(&busy, "busy"), (&idle, "idle"), (&open, "open"), (&other, "other")] {
        client.batch_execute(&format!("SET application_name = '{name}'")).await.unwrap();
    }
    open.batch_execute("BEGIN; CREATE TABLE t (id int)").await.unwrap();
    let work = tokio::spawn(async move { busy.batch_execute("SELECT pg_sleep(600)").await });
    let runs = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'";
    eventually("a long query", || (cluster.primary(0).psql(runs).unwrap().trim() == "1").then_some(())).await;

    for name in ["busy", "idle", "open"] {
        let id = client_with(port, "application_name", name).unwrap_or_else(|| panic!("no client {name}"));
        let refused = psql(port, "watcher", "sluice", &format!("KILL_CLIENT {id}")).unwrap_err();
        assert!(refused.contains("permission denied"), "{refused}");
        admin(port, &format!("KILL_CLIENT {id}"));
        let left = || client_with(port, "application_name", name).is_none().then_some(());
        eventually("a client less", left).await;
        let unknown = psql(port, "admin", "sluice", &format!("KILL_CLIENT {id}")).unwrap_err();
        assert!(unknown.contains("not found"), "{unknown}");
    }
    assert!(work.await.unwrap().is_err());
    is_gone(&idle).await;
    is_gone(&open).await;
    eventually("the end of the query", || (cluster.primary(0).psql(runs).unwrap().trim() == "0").then_some(())).await;
    // Its transaction was rolled back, and no server of theirs is counted any more.
    other.batch_execute("CREATE TABLE t (id int)").await.unwrap();
    eventually("one server", || (show(port, "POOLS", &["sv_active"]) == ["0"]).then_some(())).await;
}

#[tokio::test]
async fn a_commit_over_several_shards_is_finished_before_its_client_is_killed() {
    let cluster = cluster(2, 0);
    let sluice = Sluice::start(&config(&cluster));
    let port = sluice.port();
    sluice.psql("app", "CREATE TABLE users (id bigint PRIMARY KEY)").unwrap();
    // The first shard decides, and cannot before its lock is given back.
    let held = "CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS \
                'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END'; \
                CREATE CONSTRAINT TRIGGER held AFTER INSERT ON users DEFERRABLE INITIALLY DEFERRED \
                FOR EACH ROW EXECUTE FUNCTION held()";
    cluster.primary(0).psql(held).unwrap();
    let lock = connect_directly(&cluster.primary(0).url("app")).await;
    lock.batch_execute("SELECT pg_advisory_lock(7)").await.unwrap();
    let count = |sql: &str| -> u32 {
        (0..2).map(|shard| cluster.primary(shard).psql(sql).unwrap().trim().parse::<u32>().unwrap()).sum()
    };
    let copy = move || psql(port, "app", "app", "\\copy users FROM PROGRAM 'seq 20'");
    let work = tokio::task::spawn_blocking(copy);
    eventually("a prepared transaction", || (count("SELECT count(*) FROM pg_prepared_xacts") == 1).then_some(())).await;
    let id = client_with(port, "user", "app").unwrap();
    admin(port, &format!("KILL_CLIENT {id}"));
    lock.batch_execute("SELECT pg_advisory_unlock(7)").await.unwrap();
    eventually("the end of the client", || client_with(port, "user", "app").is_none().then_some(())).await;
    // It may have heard of the commit or not.
    drop(work.await.unwrap());
    assert_eq!(count("SELECT count(*) FROM pg_prepared_xacts"), 0, "nothing is left behind");
    assert_eq!(count("SELECT count(*) FROM users"), 20);
}

#[tokio::test]
async fn kill_closes_everything_of_a_database_and_new_clients_wait_for_resume() {
    let cluster = cluster(1, 0);
    let sluice = Sluice::start(&config(&cluster));
    let port = sluice.port();
    let (idle, open) = (connect(port).await, connect(port).await);
    open.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let busy = connect(port).await;
    let work = tokio::spawn(async move { busy.batch_execute("SELECT pg_sleep(600)").await });
    eventually("two servers", || (show(port, "POOLS", &["sv_active"]) == ["2"]).then_some(())).await;
    admin(port, "KILL app");
    is_gone(&idle).await;
    is_gone(&open).await;
    assert!(work.await.unwrap().is_err());
    assert_eq!(show(port, "DATABASES", &["paused", "current_connections"]), ["1 0"]);

    let new = connect(port).await;
    let waiting = tokio::spawn(async move { new.query_one("SELECT 3", &[]).await.unwrap().get::<_, i32>(0) });
    eventually("a waiting client", || (show(port, "WAITING", &["user"]) == ["app"]).then_some(())).await;
    let second = connect(port).await;
    let told = tokio::spawn(async move { second.batch_execute("SELECT 1").await.unwrap_err() });
    eventually("two waiting clients", || (show(port, "WAITING", &["user"]).len() == 2).then_some(())).await;
    // The shorter wait comes last.
    let id = show(port, "WAITING", &["client_id"]).pop().unwrap();
    admin(port, &format!("KILL_CLIENT {id}"));
    let told = told.await.unwrap();
    assert_eq!(told.code().map(|code| code.code()), Some("57P01"), "{told}");
    admin(port, "RESUME app");
    assert_eq!(waiting.await.unwrap(), 3);
}

#[tokio::test]
async fn wait_close_waits_for_the_servers_that_reconnect_has_made_obsolete() {
    let cluster = cluster(1, 0);
    let sluice = Sluice::start(&config(&cluster));
    let port = sluice.port();
    let client = connect(port).await;
    admin(port, "WAIT_CLOSE");
    client.batch_execute("BEGIN; SELECT 1").await.unwrap();
    admin(port, "RECONNECT app");
    assert_eq!(show(port, "SERVERS", &["state", "close_needed"]), ["active 1"]);
    let closing = tokio::task::spawn_blocking(move || admin(port, "WAIT_CLOSE app"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!closing.is_finished(), "a transaction is open");
    client.batch_execute("COMMIT").await.unwrap();
    closing.await.unwrap();
    client.batch_execute("SELECT 1").await.unwrap();
    assert_eq!(show(port, "SERVERS", &["close_needed"]), ["0"]);
}

#[tokio::test]
async fn pins_and_waits_are_told_with_their_servers() {
    let cluster = cluster(1, 0);
    let sluice = Sluice::start(&format!("{}\n[pool]\nsize = 1\n", config(&cluster)));
    let port = sluice.port();
    let client = connect(port).await;
    assert_eq!(show(port, "PINS", &["client_id"]), Vec::<String>::new());
    client.batch_execute("CREATE TEMP TABLE t (id int)").await.unwrap();
    let pinned = || {
        Some(show(port, "PINS", &["client_id", "user", "database", "reasons", "server_id"])).filter(|p| p.len() == 1)
    };
    let pin = eventually("a pin", pinned).await.remove(0);
    let links = show(port, "CLIENTS", &["id", "user", "database", "pin", "link"]);
    assert!(links.contains(&pin.replace("table ", "table s")), "{pin} is not in {links:?}");
    let since = show(port, "PINS", &["since"]).remove(0);
    assert!(since.starts_with("20") && since.ends_with("UTC"), "{since}");

    let other = connect(port).await;
    let waiting = tokio::spawn(async move { other.batch_execute("SELECT 1").await });
    let waits = || show(port, "WAITING", &["user", "database", "shard", "instance", "wait_us"]).pop();
    let row = eventually("a waiting client", waits).await;
    let place = format!("app app a 127.0.0.1:{} ", cluster.primary(0).port());
    assert!(row.strip_prefix(&place).is_some_and(|wait| wait.parse::<u64>().is_ok()), "{row}");
    drop(client);
    waiting.await.unwrap().unwrap();
    assert_eq!(show(port, "WAITING", &["user"]), Vec::<String>::new());
}

#[tokio::test]
async fn the_console_shows_its_own_clients_and_can_close_them() {
    let cluster = cluster(1, 0);
    let sluice = Sluice::start(&config(&cluster));
    let port = sluice.port();
    let clients = show(port, "CLIENTS", &["user", "database", "state", "application_name", "link"]);
    assert_eq!(clients, ["watcher pgbouncer active psql "]);
    // One that waits for ever: a transaction stays open.
    let client = connect(port).await;
    client.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let pausing = tokio::task::spawn_blocking(move || psql(port, "admin", "sluice", "PAUSE app"));
    let paused =
        || show(port, "CLIENTS", &["user", "id"]).iter().find_map(|row| row.strip_prefix("admin ").map(str::to_owned));
    let id = eventually("the console's client", paused).await;
    admin(port, &format!("KILL_CLIENT {id}"));
    assert!(pausing.await.unwrap().is_err());
    client.batch_execute("COMMIT").await.unwrap();
    admin(port, "RESUME");
}

#[tokio::test]
async fn shutdown_wait_for_servers_lets_transactions_end_and_dismisses_the_idle() {
    let cluster = cluster(1, 0);
    let mut sluice = Sluice::start(&config(&cluster));
    let port = sluice.port();
    let (idle, open) = (connect(port).await, connect(port).await);
    open.batch_execute("BEGIN; SELECT 1").await.unwrap();
    admin(port, "SHUTDOWN WAIT_FOR_SERVERS");
    is_gone(&idle).await;
    open.batch_execute("SELECT 2; COMMIT").await.unwrap();
    assert!(sluice.wait().success());
    is_gone(&open).await;
}

/// Nothing of a client is looked at until RESUME, not even in its transaction; what runs gets its answer first.
#[tokio::test]
async fn suspend_lets_clients_wait_between_two_messages() {
    let cluster = cluster(1, 0);
    let sluice = Sluice::start(&config(&cluster));
    let port = sluice.port();
    let (idle, open, busy) = (connect(port).await, connect(port).await, connect(port).await);
    open.batch_execute("BEGIN; CREATE TABLE t (id int)").await.unwrap();
    let work = tokio::spawn(async move { busy.batch_execute("SELECT pg_sleep(1)").await });
    let runs = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(1)' AND state = 'active'";
    eventually("a query", || (cluster.primary(0).psql(runs).unwrap().trim() == "1").then_some(())).await;
    admin(port, "SUSPEND");
    assert_eq!(cluster.primary(0).psql(runs).unwrap().trim(), "0", "SUSPEND waits for it");
    work.await.unwrap().unwrap();
    assert!(show(port, "STATE", &["key", "value"]).contains(&"suspended yes".to_owned()));

    let patience = Duration::from_millis(200);
    assert!(tokio::time::timeout(patience, idle.batch_execute("INSERT INTO t VALUES (1)")).await.is_err());
    let commit = tokio::spawn(async move { open.batch_execute("COMMIT").await });
    assert_eq!(cluster.primary(0).psql("SELECT to_regclass('t')").unwrap().trim(), "", "nobody has committed");
    admin(port, "RESUME");
    commit.await.unwrap().unwrap();
    idle.batch_execute("SELECT 1").await.unwrap();
    assert!(show(port, "STATE", &["key", "value"]).contains(&"suspended no".to_owned()));

    // A router that is suspended can be shut down.
    admin(port, "SUSPEND");
    drop(idle);
    sluice.signal("TERM");
    sluice.wait_for_log("shutting down");
}
