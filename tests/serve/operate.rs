//! What an operator does with a running router over real PostgreSQL.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::support::{Cluster, ClusterOptions, Sluice};
use pgsluice::config::Config;
use pgsluice::router::Router;
use tokio::runtime::Handle;
use tokio_postgres::{Client, NoTls};

const USERS: &str = "[[user]]\nname = \"app\"\npassword = \"app\"\n\
                     [[user]]\nname = \"admin\"\npassword = \"admin\"\nrole = \"admin\"\n\
                     [[user]]\nname = \"watcher\"\npassword = \"watcher\"\nrole = \"stats\"\n";
const RULES: &str = "sharding_key = \"user_id\"\ntables.users.key = \"id\"";
const FAST: &str = "[auth]\nmethod = \"scram-sha-256\"\n[replicas]\ncheck_interval = \"100ms\"\n";
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn cluster(shards: usize, replicas: usize) -> Cluster {
    Cluster::start(ClusterOptions { shards, replicas, ..Default::default() }).unwrap()
}

pub(crate) fn config(cluster: &Cluster) -> String {
    format!("{FAST}{USERS}{}", cluster.database_config("app", RULES))
}

/// psql with its output as `a|b` lines, standard error behind.
pub(crate) fn psql(port: u16, user: &str, database: &str, sql: &str) -> Result<String, String> {
    let url = format!("postgres://{user}:{user}@127.0.0.1:{port}/{database}");
    let mut command = Command::new("psql");
    command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &url, "-c", sql]).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim_end().to_owned();
    if output.status.success() { Ok(text) } else { Err(text) }
}

pub(crate) fn admin(port: u16, sql: &str) -> String {
    psql(port, "admin", "sluice", sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Where connections live: psql blocks the test's own thread.
fn background() -> &'static Handle {
    static HANDLE: OnceLock<Handle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        handle
    })
}

pub(crate) async fn connect(port: u16) -> Client {
    connect_with(port, "application_name=shop").await
}

async fn connect_with(port: u16, parameters: &'static str) -> Client {
    connect_directly(&format!("postgres://app:app@127.0.0.1:{port}/app?{parameters}")).await
}

pub(crate) async fn connect_directly(url: &str) -> Client {
    let url = url.to_owned();
    let work = async move {
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        client
    };
    background().spawn(work).await.unwrap()
}

pub(crate) async fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The named columns of all rows of a SHOW command.
pub(crate) fn show(port: u16, what: &str, columns: &[&str]) -> Vec<String> {
    let url = format!("postgres://watcher:watcher@127.0.0.1:{port}/pgbouncer");
    let output = Command::new("psql").args(["-X", "-A", "-d", &url, "-c", &format!("SHOW {what}")]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines().filter(|line| !line.starts_with('('));
    let names: Vec<&str> = lines.next().unwrap().split('|').collect();
    let at: Vec<usize> = columns.iter().map(|c| names.iter().position(|n| n == c).expect(c)).collect();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').collect();
        at.iter().map(|&at| cells[at]).collect::<Vec<_>>().join(" ")
    };
    lines.map(row).collect()
}

#[tokio::test]
async fn the_console_shows_what_is_there() {
    let cluster = cluster(2, 1);
    let sluice = Sluice::start(&config(&cluster));
    let port = sluice.port();
    sluice.psql("app", "CREATE TABLE users (id bigint PRIMARY KEY, name text)").unwrap();
    let mut client = connect(port).await;
    client.execute("INSERT INTO users VALUES (1, 'ann')", &[]).await.unwrap();
    let transaction = client.transaction().await.unwrap();
    transaction.execute("UPDATE users SET name = 'Ann' WHERE id = 1", &[]).await.unwrap();

    let clients = show(port, "CLIENTS", &["user", "database", "state", "application_name", "addr"]);
    assert_eq!(clients, ["app app active shop 127.0.0.1", "watcher pgbouncer active psql 127.0.0.1"]);
    let servers = show(port, "SERVERS", &["state", "application_name", "shard", "addr"]);
    assert_eq!(servers.iter().filter(|row| row.starts_with("active shop")).count(), 1, "{servers:?}");
    assert!(servers.iter().any(|row| row.starts_with("idle ")), "{servers:?}");
    let pools = show(port, "POOLS", &["database", "user", "cl_active", "cl_waiting", "sv_active", "pool_mode"]);
    assert_eq!(pools, ["app app 1 0 1 transaction"]);
    transaction.commit().await.unwrap();
    let state = || show(port, "CLIENTS", &["user", "state", "link"]).contains(&"app idle ".to_owned()).then_some(());
    eventually("an idle client", state).await;

    assert_eq!(show(port, "DATABASES", &["name", "current_client_connections", "paused", "shards"]), ["app 1 0 2"]);
    assert!(show(port, "USERS", &["name", "current_client_connections"]).contains(&"app 1".to_owned()));
    assert!(show(port, "LISTS", &["list", "items"]).contains(&"used_clients 1".to_owned()));
    assert!(show(port, "CONFIG", &["key", "value"]).contains(&"max_client_conn 10000".to_owned()));
    let shards = || Some(show(port, "SHARDS", &["shard", "replicas_up", "buckets", "state"]));
    let all_up = || shards().filter(|rows| rows[..] == ["a 1 2048 ready", "b 1 2048 ready"]);
    eventually("both shards with replicas", all_up).await;
    let instances = show(port, "INSTANCES", &["shard", "role", "state", "max_prepared_transactions"]);
    assert_eq!(instances[..2], ["a primary up 100", "a replica up 100"]);
    assert_eq!(show(port, "TABLES", &["table", "kind", "key"]), ["users sharded id"]);
    let stats = show(port, "STATS", &["database", "total_query_count", "total_client_login_count"]);
    let counts: Vec<u64> = stats[0].split(' ').skip(1).map(|n| n.parse().unwrap()).collect();
    assert!(stats[0].starts_with("app ") && counts[0] >= 5 && counts[1] == 2, "{stats:?}");

    let route = admin(port, "EXPLAIN ROUTE SELECT * FROM users WHERE id = 1");
    assert!(route.contains("Route: shard of literal 1") && route.contains("\nShards: "), "{route}");
    let url = format!("postgres://app:app@127.0.0.1:{port}/app?options=-cwork_mem%3Dnonsense");
    let refused = background().spawn(async move { tokio_postgres::connect(&url, NoTls).await.map(drop) });
    let refused = refused.await.unwrap().unwrap_err();
    assert_eq!(refused.code().map(|code| code.code()), Some("22023"), "a login that fails says why: {refused}");
    let refused = psql(port, "app", "sluice", "SHOW POOLS").unwrap_err();
    assert!(refused.contains("may not use the console"), "{refused}");
    let refused = psql(port, "watcher", "sluice", "PAUSE").unwrap_err();
    assert!(refused.contains("permission denied"), "{refused}");
}

#[tokio::test]
async fn pause_waits_for_transactions_and_resume_lets_clients_go_on() {
    let cluster = cluster(1, 0);
    let sluice = Sluice::start(&config(&cluster));
    let port = sluice.port();
    let mut client = connect(port).await;
    let transaction = client.transaction().await.unwrap();
    transaction.execute("SELECT 1", &[]).await.unwrap();
    let pausing = tokio::task::spawn_blocking(move || admin(port, "PAUSE app"));
    eventually("the pause", || show(port, "DATABASES", &["paused"]).contains(&"1".to_owned()).then_some(())).await;
    assert!(!pausing.is_finished(), "a transaction is open");
    transaction.execute("SELECT 2", &[]).await.unwrap();
    transaction.commit().await.unwrap();
    pausing.await.unwrap();

    // A pool that is made during the pause is paused, too.
    let other = tokio::spawn(async move {
        // Settings that no server was asked for yet: even the login has to wait.
        let client = connect_with(port, "options=-cwork_mem%3D1MB").await;
        client.query_one("SELECT 4", &[]).await.unwrap();
    });
    let waiting = tokio::spawn(async move { client.query_one("SELECT 3", &[]).await.unwrap().get::<_, i32>(0) });
    eventually("waiting clients", || (show(port, "POOLS", &["cl_waiting"]) == ["2"]).then_some(())).await;
    assert!(!waiting.is_finished() && !other.is_finished());
    admin(port, "RESUME app");
    assert_eq!(waiting.await.unwrap(), 3);
    other.await.unwrap();
    assert!(psql(port, "admin", "sluice", "PAUSE nowhere").unwrap_err().contains("does not exist"));
}

#[tokio::test]
async fn reload_changes_what_can_change_and_nothing_when_the_file_is_wrong() {
    let cluster = cluster(2, 0);
    let before = config(&cluster);
    let mut sluice = Sluice::start(&before);
    let port = sluice.port();
    sluice.psql("app", "CREATE TABLE users (id bigint PRIMARY KEY, plan text)").unwrap();
    let client = connect(port).await;
    client.execute("INSERT INTO users VALUES (1, 'free')", &[]).await.unwrap();

    let smaller = format!("{before}\n[pool]\nsize = 1\nwait_timeout = \"300ms\"\n");
    sluice.reload(&smaller.replace("\"watcher\"\npassword = \"watcher\"", "\"watcher\"\npassword = \"other\""));
    sluice.wait_for_log("the configuration was read again");
    assert!(psql(port, "watcher", "sluice", "SHOW POOLS").is_err(), "the password has changed");
    let mut other = connect(port).await;
    let transaction = other.transaction().await.unwrap();
    transaction.execute("SELECT plan FROM users WHERE id = 1", &[]).await.unwrap();
    let error = client.execute("SELECT plan FROM users WHERE id = 1", &[]).await.unwrap_err();
    assert!(error.to_string().contains("db error"), "{error}");
    transaction.commit().await.unwrap();
    client.execute("SELECT plan FROM users WHERE id = 1", &[]).await.unwrap();

    sluice.reload(
        &before
            .replace("[[user]]\nname = \"watcher\"", "[pool]\nsise = 2\nmode = \"no\"\n[[user]]\nname = \"watcher\""),
    );
    sluice.wait_for_log("did you mean `size`?");
    let error = psql(port, "admin", "sluice", "RELOAD").unwrap_err();
    assert!(error.contains("pool.sise") && error.contains("pool.mode"), "all problems at once: {error}");
    client.execute("SELECT plan FROM users WHERE id = 1", &[]).await.unwrap();

    // With a change that would misplace rows, nothing of the file is taken.
    let second = cluster.database_config("app", RULES).replace("name = \"app\"", "name = \"second\"");
    let more = before.replace("tables.users.key = \"id\"", "tables_default = \"reference\"\nbuckets = 64");
    sluice.reload(&format!("{more}{second}"));
    sluice.wait_for_log("there are 4096 buckets, not 64");
    let error = psql(port, "admin", "sluice", "RELOAD").unwrap_err();
    assert!(error.contains("rows would be looked for where they are not"), "{error}");
    assert!(sluice.psql("second", "SELECT 5").unwrap_err().contains("does not exist"));
    let third = format!("{before}[[database.shard]]\nname = \"c\"\nprimary = \"postgres://app@127.0.0.1:1/app\"\n");
    sluice.reload(&third);
    sluice.wait_for_log("the shards are a, b, not a, b, c");

    // Another database and another rule.
    let more = before.replace("tables.users.key = \"id\"", "tables_default = \"reference\"");
    sluice.reload(&format!("{more}{second}"));
    eventually("a second database", || sluice.psql("second", "SELECT 5").ok()).await;
    assert_eq!(sluice.psql("second", "SELECT 5").unwrap_or_else(|error| error), "5");
    assert_eq!(client.query_one("SELECT plan FROM users WHERE id = 1", &[]).await.unwrap().get::<_, &str>(0), "free");

    client.batch_execute("BEGIN; SELECT 1").await.unwrap();
    sluice.signal("INT");
    eventually("a closed door", || TcpStream::connect(("127.0.0.1", port)).is_err().then_some(())).await;
    client.batch_execute("SELECT 2; COMMIT").await.unwrap();
    assert!(sluice.wait().success());
    assert!(client.batch_execute("SELECT 1").await.is_err());
}

#[tokio::test]
async fn shutdown_from_the_console_waits_for_clients_when_asked_to() {
    let cluster = cluster(1, 0);
    let mut sluice = Sluice::start(&config(&cluster));
    let port = sluice.port();
    let client = connect(port).await;
    client.batch_execute("SELECT 1").await.unwrap();
    admin(port, "SHUTDOWN WAIT_FOR_CLIENTS");
    eventually("a closed door", || TcpStream::connect(("127.0.0.1", port)).is_err().then_some(())).await;
    let http = SocketAddr::from(([127, 0, 0, 1], sluice.http_port()));
    assert!(get(http, "/health/ready").contains("draining"));
    client.batch_execute("SELECT 2").await.unwrap();
    drop(client);
    assert!(sluice.wait().success());
}

#[tokio::test]
async fn health_follows_the_primaries_and_two_routers_share_a_process() {
    let cluster = cluster(2, 0);
    let listen = "[listen]\naddress = \"127.0.0.1:0\"\nworkers = 2\n";
    let mut config = Config::parse(&format!("{listen}{}", config(&cluster))).unwrap();
    config.listen.http = Some(([127, 0, 0, 1], 0).into());
    let (router, second) = (Router::start(config.clone()).unwrap(), Router::start(config.clone()).unwrap());
    assert!(router.ready(PATIENCE).await && second.ready(PATIENCE).await);
    let (port, http) = (router.address().port(), router.http_address().unwrap());
    let ready =
        |wanted: &'static str| move || Some(get(http, "/health/ready")).filter(|answer| answer.contains(wanted));
    eventually("ready", ready("200 OK")).await;

    let (client, other) = (connect(port).await, connect(second.address().port()).await);
    for _ in 0..3 {
        client.batch_execute("SELECT 1").await.unwrap();
    }
    other.batch_execute("SELECT 1").await.unwrap();
    let queries = |address| {
        let metrics = get(address, "/metrics");
        assert!(metrics.trim_end().ends_with("# EOF"), "{metrics}");
        let line = metrics.lines().find(|line| line.starts_with("sluice_queries_total{")).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!((queries(http), queries(second.http_address().unwrap())), (3, 1));
    let mut taken = config.clone();
    taken.listen.http = Some(http);
    let error = Router::start(taken).err().expect("a taken port").to_string();
    assert!(error.contains(&http.to_string()), "{error}");

    cluster.primary(1).stop();
    let answer = eventually("not ready", ready("503 Service")).await;
    assert!(answer.contains("database app, shard b: no primary"), "{answer}");
    assert_eq!(show(port, "SHARDS", &["shard", "state"]), ["a ready", "b unavailable"]);
    cluster.primary(1).start().unwrap();
    eventually("ready again", ready("200 OK")).await;
    second.stop();
    client.batch_execute("SELECT 1").await.unwrap();
    router.stop();
}
