//! The console and the HTTP pages as their users see them.
//!
//! `UPDATE_GOLDEN=1` rewrites the expected texts in `tests/golden`.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use pgsluice::admin::show::SHOWS;
use pgsluice::admin::{self, Console, Control, Needs, Operator, Shutdown};
use pgsluice::config::{PoolMode, Role};
use pgsluice::http;
use pgsluice::prober::Lsn;
use pgsluice::protocol::frame::{HEADER_BYTES, Header};
use pgsluice::protocol::{ErrorFields, backend, frontend};
use pgsluice::stats::{Ended, QueryCounts, Registry};
use pgsluice::view::{
    BlockState, ClientRow, ClientState, ConfigRow, DatabaseRow, InstanceRole, InstanceRow, MemoryRow, PoolRow,
    PreparedRow, ProblemRow, QueryRow, ServerRow, ServerState, ShardRow, TableRow, UserRow, View, WaitsFor,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;

fn golden(name: &str, actual: &str) {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).expect("a golden file");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == actual, "{path} differs; UPDATE_GOLDEN=1 rewrites it. Now:\n{actual}");
}

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_709_208_000 + seconds)
}

/// A client that waits and one that is pinned.
fn clients() -> Vec<ClientRow> {
    let client = ClientRow {
        id: 1,
        user: "ann".into(),
        database: "app".into(),
        state: ClientState::Waiting,
        address: Some(([10, 0, 0, 9], 40_000).into()),
        local_address: Some(([10, 0, 0, 1], 6432).into()),
        connected: time(0),
        requested: Some(time(5)),
        wait: Duration::from_micros(1_500_000),
        close_needed: false,
        link: None,
        pid: 77,
        tls: Some("TLSv1.3/TLS_AES_256_GCM_SHA384".into()),
        application_name: "shop".into(),
        prepared_statements: 3,
        worker: 0,
        pin: None,
        pinned_since: None,
        waits_for: Some(WaitsFor { shard: "a".into(), instance: "db1:5432".into(), pool_user: "app".into() }),
        block: BlockState::None,
        statement: Some("SELECT a FROM t WHERE b = $1".into()),
    };
    let pinned = ClientRow {
        id: 2,
        state: ClientState::Active,
        address: None,
        local_address: None,
        requested: None,
        wait: Duration::ZERO,
        link: Some(9),
        tls: None,
        worker: 1,
        pin: Some("temporary table".into()),
        pinned_since: Some(time(3)),
        waits_for: None,
        block: BlockState::Open,
        statement: Some("UPDATE t SET a = $1".into()),
        ..client.clone()
    };
    vec![client, pinned]
}

fn servers() -> Vec<ServerRow> {
    let first = ServerRow {
        id: 9,
        user: "app".into(),
        database: "app".into(),
        state: ServerState::Active,
        instance: "db1:5432".into(),
        shard: "a".into(),
        address: Some(([10, 0, 1, 1], 5432).into()),
        local_address: Some(([10, 0, 0, 1], 50_000).into()),
        connected: time(1),
        requested: Some(time(5)),
        close_needed: true,
        link: Some(2),
        held: Duration::from_millis(2500),
        pid: 4711,
        tls: None,
        application_name: "shop".into(),
        prepared_statements: 3,
        worker: 1,
    };
    // The same client's on another shard.
    let second = ServerRow {
        id: 10,
        instance: "db3:5432".into(),
        shard: "b".into(),
        held: Duration::from_millis(40),
        pid: 4712,
        close_needed: false,
        ..first.clone()
    };
    vec![first, second]
}

fn view() -> View {
    let (stats, user_stats) = stats();
    View {
        clients: clients(),
        servers: servers(),
        pools: pools(),
        databases: vec![DatabaseRow {
            name: "app".into(),
            host: "db1".into(),
            port: 5432,
            server_database: "app".into(),
            force_user: Some("app".into()),
            pool_size: 20,
            server_lifetime: Duration::from_secs(3600),
            mode: PoolMode::Transaction,
            connections: 1,
            connections_max: 0,
            client_connections: 2,
            paused: false,
            disabled: false,
            shards: 2,
        }],
        users: vec![
            UserRow {
                name: "ann".into(),
                pool_size: Some(5),
                mode: Some(PoolMode::Session),
                connections: 1,
                client_connections: 2,
            },
            UserRow { name: "bob".into(), pool_size: None, mode: None, connections: 0, client_connections: 0 },
        ],
        config: vec![ConfigRow {
            key: "max_client_conn".into(),
            value: "10000".into(),
            default: "10000".into(),
            changeable: true,
        }],
        memory: vec![MemoryRow { name: "plan_cache".into(), size: 0, used: 12, free: 0, total_bytes: 40_960 }],
        queries: queries(),
        stats,
        user_stats,
        login_clients: 1,
        clients_max: 10_000,
        ..shards()
    }
}

/// A commit that is under way, and one whose decider is away.
fn prepared() -> Vec<PreparedRow> {
    let young = PreparedRow {
        database: "app".into(),
        user: "app".into(),
        gid: "sluice:1:0b".into(),
        shard: "a".into(),
        decider: Some("b".into()),
        age: Duration::from_millis(3),
        in_doubt: false,
        problem: None,
    };
    let old = PreparedRow {
        gid: "sluice:1:0a".into(),
        decider: None,
        age: Duration::from_secs(61),
        in_doubt: true,
        problem: Some("its decider 0000000000000007 is no shard of this database".into()),
        ..young.clone()
    };
    vec![young, old]
}

fn queries() -> Vec<QueryRow> {
    let row = |query: &str, calls: u64, shards: usize, total: u64, waited: u64| {
        let mut counts = QueryCounts::default();
        for n in 0..calls {
            counts.add(Ended { rows: 2, failed: n == 0, shards, total_us: total + n, waited_us: waited });
        }
        QueryRow { database: "app".into(), query: query.into(), counts: Box::new(counts) }
    };
    vec![row("SELECT a FROM t WHERE b = $1", 100, 1, 400, 0), row("SELECT count(*) FROM t", 40, 2, 30_000, 20_000)]
}

fn pools() -> Vec<PoolRow> {
    let clients = PoolRow { cl_active: 1, cl_pinned: 1, ..PoolRow::new("app", "ann", PoolMode::Transaction) };
    let waiting = PoolRow { cl_waiting: 1, maxwait: Duration::from_micros(1_500_000), ..clients.clone() };
    let servers = PoolRow {
        instance: Some("db1:5432".into()),
        sv_active: 1,
        sv_idle: 2,
        ..PoolRow::new("app", "ann", PoolMode::Transaction)
    };
    let others = PoolRow { instance: Some("db2:5432".into()), sv_login: 1, ..servers.clone() };
    vec![clients, waiting, servers, others]
}

fn shards() -> View {
    let shard = |id: u16, name: &str, primary: Option<&str>| ShardRow {
        database: "app".into(),
        id,
        name: name.into(),
        primary: primary.map(str::to_owned),
        replicas_up: usize::from(id == 0),
        replicas: 1,
        buckets: 2048,
        epoch: 1,
        problem: primary.is_none().then(|| "db3:5432: connection refused".to_owned()),
    };
    let instance = InstanceRow {
        database: "app".into(),
        shard: "a".into(),
        address: "db1:5432".into(),
        role: InstanceRole::Primary,
        up: true,
        lsn: Lsn::parse("16/B374D848"),
        lag: None,
        servers: 3,
        servers_max: 90,
        max_prepared_transactions: Some(0),
        problem: None,
    };
    let replica = InstanceRow {
        address: "db2:5432".into(),
        role: InstanceRole::Replica,
        lag: Some(Duration::from_millis(120)),
        ..instance.clone()
    };
    let lost = InstanceRow {
        shard: "b".into(),
        address: "db3:5432".into(),
        role: InstanceRole::Unknown,
        up: false,
        lsn: None,
        max_prepared_transactions: None,
        problem: Some("connection refused".into()),
        ..instance.clone()
    };
    let table = |name: &str, kind, key: Option<&str>, shard: Option<&str>| TableRow {
        database: "app".into(),
        schema: "public".into(),
        name: name.into(),
        relation: "table",
        kind,
        key: key.map(str::to_owned),
        shard: shard.map(str::to_owned),
        columns: 4,
        problem: (name == "orders").then(|| "table public.orders is missing on shard b".into()),
    };
    View {
        shards: vec![shard(0, "a", Some("db1:5432")), shard(1, "b", None)],
        instances: vec![instance, replica, lost],
        tables: vec![table("audit", "local", None, Some("a")), table("orders", "sharded", Some("user_id"), None)],
        problems: vec![ProblemRow {
            database: "app".into(),
            problem: "table public.orders is missing on shard b".into(),
        }],
        prepared: prepared(),
        ..View::default()
    }
}

fn stats() -> (Vec<pgsluice::stats::DatabaseStats>, Vec<pgsluice::stats::UserStats>) {
    let registry = Registry::default();
    let start = Instant::now();
    registry.end_period(start);
    for worker in 0..2 {
        let stats = registry.register(worker, "app", "ann");
        stats.queries.add(600);
        stats.transactions.add(300);
        stats.server_assignments.add(300);
        stats.received.add(60_000);
        stats.sent.add(120_000);
        stats.routed.add(590);
        stats.gathered.add(10);
        for _ in 0..600 {
            stats.query_time.record(Duration::from_micros(900));
        }
        stats.query_time.record(Duration::from_secs(2));
        stats.wait_time.record(Duration::from_micros(3));
    }
    registry.end_period(start + Duration::from_secs(60));
    (registry.databases(), registry.users())
}

#[test]
fn every_show_command_prints_its_table() {
    let view = view();
    let mut text = String::new();
    for show in &SHOWS {
        text.push_str(&format!("> SHOW {}\n{}\n", show.name, (show.table)(&view)));
    }
    golden("console.txt", &text);
}

#[test]
fn metrics_are_open_metrics() {
    let text = http::encode(view()).expect("metrics");
    golden("metrics.txt", &text);
    assert!(text.ends_with("# EOF\n"));
}

/// A router that remembers what it was told.
#[derive(Default)]
struct Fake {
    told: std::sync::Mutex<Vec<Control>>,
}

impl Operator for Fake {
    async fn view(&self, _: Needs) -> View {
        view()
    }

    async fn control(&self, control: Control) -> Result<Vec<String>, ErrorFields> {
        if control == Control::Pause(Some("nowhere".into())) {
            return Err(ErrorFields::error("3D000", "database \"nowhere\" does not exist"));
        }
        self.told.lock().expect("the list").push(control);
        Ok(Vec::new())
    }

    async fn explain(&self, database: Option<String>, statement: String) -> Result<Vec<String>, ErrorFields> {
        Ok(vec![format!("Route: {database:?}"), statement])
    }
}

/// The answers to some messages, as tags and the text in them.
async fn converse(role: Role, messages: impl FnOnce(&mut BytesMut)) -> String {
    let (mut console, router) = (Console::new("ann", role), Fake::default());
    let (mut input, mut out) = (BytesMut::new(), BytesMut::new());
    messages(&mut input);
    while let Ok(Some(header)) = Header::parse(&input) {
        let message = input.split_to(header.total);
        console.message(header.tag, &message[HEADER_BYTES..], &router, &mut out).await;
    }
    let mut tags = String::new();
    while let Ok(Some(header)) = Header::parse(&out) {
        let body = out.split_to(header.total).split_off(HEADER_BYTES);
        tags.push(char::from(header.tag));
        if header.tag == b'E' || header.tag == b'C' {
            let text: String = body.iter().map(|&b| if b == 0 { ' ' } else { char::from(b) }).collect();
            tags.push_str(&format!("[{}]", text.trim_end()));
        }
    }
    tags
}

#[tokio::test]
async fn simple_queries_are_answered_in_order() {
    let ask = |sql: &'static str| move |out: &mut BytesMut| frontend::query(out, sql.as_bytes());
    assert_eq!(converse(Role::Stats, ask("SHOW POOLS; SHOW VERSION")).await, "TDC[SHOW]TDC[SHOW]Z");
    assert_eq!(converse(Role::Stats, ask(";")).await, "IZ");
    assert_eq!(converse(Role::Stats, ask("SHOW HELP")).await, "NC[SHOW]Z");
    assert_eq!(converse(Role::Admin, ask("PAUSE app")).await, "C[PAUSE]Z");
    assert_eq!(converse(Role::Stats, ask("SELECT version()")).await, "TDC[SELECT 1]Z");
    let refused = converse(Role::Stats, ask("SHOW STATE; PAUSE; SHOW STATE")).await;
    assert!(refused.starts_with("TDDDDC[SHOW]E[") && refused.contains("42501") && refused.ends_with("]Z"), "{refused}");
    assert_eq!(refused.matches("SHOW]").count(), 1, "nothing runs after an error: {refused}");
    assert!(converse(Role::Admin, ask("PAUSE nowhere")).await.contains("3D000"));
    let all = "DISABLE app; ENABLE app; KILL app; KILL_CLIENT 7; WAIT_CLOSE";
    let done = "C[DISABLE]C[ENABLE]C[KILL]C[KILL_CLIENT]C[WAIT_CLOSE]Z";
    assert_eq!(converse(Role::Admin, ask(all)).await, done);
    assert_eq!(converse(Role::Admin, ask("SUSPEND")).await, "C[SUSPEND]Z");
    assert!(converse(Role::Admin, ask("SHOW FDS")).await.contains("0A000"));
}

#[tokio::test]
async fn the_extended_protocol_skips_to_sync_after_an_error() {
    let tags = converse(Role::Stats, |out| {
        frontend::parse(out, b"", b"SHOW POOLSS", &[]);
        frontend::bind::<&[u8]>(out, b"", b"", 0, &[], 0);
        frontend::sync(out);
        frontend::parse(out, b"s", b"SHOW LISTS", &[]);
        frontend::describe(out, frontend::Kind::Statement, b"s");
        frontend::bind::<&[u8]>(out, b"", b"s", 0, &[], 0);
        frontend::execute(out, b"", 0);
        frontend::sync(out);
    })
    .await;
    let (error, rest) = tags.split_once("]Z").expect("a Sync after the error");
    assert!(error.contains("Did you mean SHOW POOLS?"), "{tags}");
    assert_eq!(rest, "1tT2DDDDDDDDDDDDDDC[SHOW]Z");
}

/// A console behind a pipe, as a driver would connect to it.
async fn serve(mut stream: tokio::io::DuplexStream, router: Arc<Fake>) {
    let mut startup = [0; 4];
    stream.read_exact(&mut startup).await.expect("a startup packet");
    let mut rest = vec![0; u32::from_be_bytes(startup) as usize - 4];
    stream.read_exact(&mut rest).await.expect("a startup packet");
    let (mut out, mut console) = (BytesMut::new(), Console::new("ann", Role::Admin));
    backend::authentication_ok(&mut out);
    backend::ready_for_query(&mut out, backend::TransactionStatus::Idle);
    stream.write_all_buf(&mut out).await.expect("an open pipe");
    admin::serve(&mut stream, BytesMut::new(), &mut console, &*router).await.expect("an open pipe");
}

#[tokio::test]
async fn a_length_beyond_the_bound_ends_the_session() {
    for length in [0_u32, 3, 1 << 25, 1 << 31, u32::MAX] {
        let (mut ours, mut theirs) = tokio::io::duplex(1 << 12);
        let header = [b"Q".as_slice(), &length.to_be_bytes()].concat();
        ours.write_all(&header).await.expect("an open pipe");
        let mut console = Console::new("ann", Role::Admin);
        admin::serve(&mut theirs, BytesMut::new(), &mut console, &Fake::default()).await.expect("an end");
        drop(theirs);
        let mut answer = Vec::new();
        ours.read_to_end(&mut answer).await.expect("an answer");
        assert_eq!(answer[0], b'E', "{length}");
    }
}

#[tokio::test]
async fn a_real_driver_can_use_both_protocols() {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let router = Arc::new(Fake::default());
    tokio::spawn(serve(theirs, Arc::clone(&router)));
    let mut config = tokio_postgres::Config::new();
    config.user("ann");
    let (client, connection) = config.connect_raw(ours, tokio_postgres::NoTls).await.expect("a session");
    tokio::spawn(connection);
    client.batch_execute("SET extra_float_digits = 3; RELOAD").await.expect("simple commands");
    // Prepared, described and fetched in binary.
    let row = client.query_one("SHOW INSTANCES", &[]).await.expect_err("three rows");
    assert!(row.to_string().contains("number of rows"), "{row}");
    let rows = client.query("SHOW INSTANCES", &[]).await.expect("rows");
    assert_eq!(rows[1].get::<_, Option<i64>>("lag_ms"), Some(120));
    assert_eq!(rows[1].get::<_, i32>("servers_max"), 90);
    assert_eq!(rows[2].get::<_, Option<&str>>("lsn"), None);
    let plan = client.query_one("EXPLAIN ROUTE SELECT 1", &[]).await.expect_err("two lines");
    assert!(plan.to_string().contains("number of rows"));
    client.execute("SHUTDOWN WAIT_FOR_CLIENTS", &[]).await.expect("a control command");
    let told = router.told.lock().expect("the list").clone();
    assert_eq!(told, [Control::Reload, Control::Shutdown(Shutdown::WaitForClients)]);
}

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("the HTTP port");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}

#[tokio::test]
async fn health_says_whether_clients_should_come() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let current = Arc::new(Mutex::new(view()));
    let shown = Arc::clone(&current);
    let gather: http::Gather = Arc::new(move || {
        let shown = Arc::clone(&shown);
        Box::pin(async move { shown.lock().await.clone() })
    });
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let thread = http::spawn(listener, gather, async move { drop(stopped.await) }).expect("the HTTP thread");

    assert!(get(address, "/").await.contains("/metrics"));
    assert!(get(address, "/health").await.starts_with("HTTP/1.1 200"));
    assert!(get(address, "/metrics").await.contains("sluice_queries_total{database=\"app\",user=\"ann\"} 1200"));
    let answer = get(address, "/health/ready").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("database app, shard b: db3:5432: connection refused"), "{answer}");
    current.lock().await.shards.pop();
    assert!(get(address, "/health/ready").await.starts_with("HTTP/1.1 200"));
    current.lock().await.draining = true;
    assert!(get(address, "/health/ready").await.contains("draining"));
    assert!(get(address, "/nowhere").await.starts_with("HTTP/1.1 404"));
    drop(stop);
    thread.join().expect("the thread ends");
}
