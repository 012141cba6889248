//! The pool against a real PostgreSQL: what a client task would notice.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pgsluice::config::{
    AuthMethod, CommitSettings, Config, Database, Host, Instance, Limits, Listen, Log, LogFormat, PoolMode,
    PoolSettings, ReplicaSettings, Role, Secret, Shard, Source, User,
};
use pgsluice::demo::{Cluster, ClusterOptions, TcpAuth};
use pgsluice::pool::Server;
use pgsluice::pool::directory::{Control, Directory, Mailbox, PoolKey};
use pgsluice::pool::driver::{Pool, Pools, Release};
use pgsluice::protocol::frame::Header;
use pgsluice::protocol::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio::time::sleep;

const MS: Duration = Duration::from_millis(1);

fn config(cluster: &Cluster, size: u32) -> Config {
    let instance = Instance {
        host: Host::Tcp("127.0.0.1".to_owned()),
        port: cluster.primary(0).port(),
        database: "app".to_owned(),
        user: None,
        password: None,
    };
    let database = |name: &str| Database {
        name: name.to_owned(),
        buckets: 4096,
        rules: Default::default(),
        shards: vec![Shard { name: "a".to_owned(), primary: instance.clone(), replicas: Vec::new() }],
        pool_mode: None,
        pool_size: None,
    };
    let user = |name: &str, password: &str| User {
        name: name.to_owned(),
        password: Some(Secret::Plain(password.to_owned())),
        role: Role::App,
        pool_mode: None,
        pool_size: None,
    };
    Config {
        listen: Listen {
            address: "127.0.0.1:0".parse().unwrap(),
            socket_dir: None,
            http: None,
            clients_max: 100,
            router_id: 0,
            workers: 2,
            login_timeout: 1000 * MS,
            tls: None,
        },
        pool: PoolSettings {
            mode: PoolMode::Transaction,
            size,
            instance_connections_max: 3,
            wait_timeout: 2000 * MS,
            waiting_max: 100,
            idle_timeout: 60_000 * MS,
            lifetime: 600_000 * MS,
            connect_timeout: 5000 * MS,
            check_delay: 30_000 * MS,
            prepared_statements_max: 10,
        },
        auth: AuthMethod::Trust,
        users: vec![user("app", "app"), user("postgres", "wrong")],
        peers: Vec::new(),
        databases: vec![database("app"), database("other")],
        commit: CommitSettings::default(),
        replicas: ReplicaSettings { lag_max: 1000 * MS, check_interval: 1000 * MS },
        limits: Limits {
            query_shapes_max: 1000,
            sequence_block_max: 1000,
            message_bytes_max: 1 << 20,
            statement_bytes_max: 1 << 20,
            plan_cache_bytes_max: 1 << 20,
            merge_buffer_max: 1 << 20,
            final_query_bytes_max: 64 << 20,
            final_query_array_bytes_max: 16 << 20,
            statements_per_client_max: 100,
        },
        log: Log { format: LogFormat::Text, level: "info".to_owned() },
        source: Source::default(),
    }
}

fn key(user: &str, database: &str) -> PoolKey {
    PoolKey { user: user.into(), database: database.into(), shard: 0, instance: 0 }
}

/// Runs on a worker thread of its own, as the router's workers do.
fn on_worker<R: Send + 'static, F: Future<Output = R> + 'static>(
    directory: &Arc<Directory>,
    mailbox: Mailbox,
    run: impl FnOnce(Pools) -> F + Send + 'static,
) -> thread::JoinHandle<R> {
    let directory = Arc::clone(directory);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async move {
            let pools = Pools::start(directory, mailbox);
            run(pools).await
        })
    })
}

/// Sends a query past all state keeping; the first column of the first row, or the SQLSTATE.
async fn query(server: &mut Server, sql: &str) -> Result<String, String> {
    let mut out = BytesMut::new();
    frontend::query(&mut out, sql.as_bytes());
    server.stream.write_all(&out).await.unwrap();
    let (mut inbox, mut answer) = (BytesMut::new(), Ok(String::new()));
    loop {
        while let Some(header) = Header::parse(&inbox).unwrap().filter(|h| inbox.len() >= h.total) {
            let message = inbox.split_to(header.total);
            match header.tag {
                b'D' => answer = Ok(String::from_utf8(message[11..].to_vec()).unwrap()),
                b'E' => {
                    let at = message.windows(2).position(|w| w == b"\0C").unwrap() + 2;
                    answer = Err(String::from_utf8(message[at..at + 5].to_vec()).unwrap());
                }
                b'Z' => return answer,
                _ => {}
            }
        }
        if server.stream.read_buf(&mut inbox).await.unwrap() == 0 {
            return answer;
        }
    }
}

async fn pid(server: &mut Server) -> i32 {
    let pid: i32 = query(server, "SELECT pg_backend_pid()").await.unwrap().parse().unwrap();
    assert_eq!(pid, server.key.pid);
    pid
}

fn cluster() -> Cluster {
    Cluster::start(ClusterOptions { auth: TcpAuth::Scram, ..ClusterOptions::default() }).unwrap()
}

/// One worker, one pool.
fn alone(cluster: &Cluster, size: u32) -> (Arc<Directory>, Mailbox) {
    let (directory, mut mailboxes) = Directory::new(Arc::new(config(cluster, size)), 1);
    (directory, mailboxes.remove(0))
}

#[test]
fn servers_come_and_go() {
    let cluster = cluster();
    reuses_and_queues(&cluster);
    replaces_dead_servers(&cluster);
    tells_the_servers_own_error(&cluster);
    makes_room_for_another_pool(&cluster);
    cancels_only_its_own_client(&cluster);
    pauses(&cluster);
    moves_between_workers(&cluster);
    serves_many_on_two_workers(&cluster);
}

fn reuses_and_queues(cluster: &Cluster) {
    let (directory, mailbox) = alone(cluster, 1);
    on_worker(&directory, mailbox, |pools| async move {
        let pool = pools.pool(&key("app", "app")).unwrap();
        assert!(pools.pool(&key("app", "none")).is_none());
        let mut server = pool.acquire().await.unwrap();
        let first = pid(&mut server).await;
        assert!(server.parameters.iter().any(|(n, v)| n == "application_name" && v.is_empty()));

        let second = spawn_local({
            let pool = Rc::clone(&pool);
            async move { pid(&mut pool.acquire().await.unwrap()).await }
        });
        let gone = spawn_local({
            let pool = Rc::clone(&pool);
            async move { pool.acquire().await.map(drop) }
        });
        sleep(20 * MS).await;
        assert_eq!(pool.outstanding(), 3);
        gone.abort();
        assert!(gone.await.is_err());
        assert_eq!(pool.outstanding(), 2, "who goes leaves the queue");
        pool.release(server, Release::Clean);
        assert_eq!(second.await.unwrap(), first, "the same server serves the next");
        // `second` has dropped its server instead of giving it back.
        let mut server = pool.acquire().await.unwrap();
        assert_ne!(pid(&mut server).await, first);
        let late = pool.acquire().await.map(drop).unwrap_err();
        assert_eq!(late.into_fields().sqlstate, "53300");
        pool.release(server, Release::Broken);
        assert!(pool.try_acquire(Instant::now()).is_none());
        pool.release(pool.acquire().await.unwrap(), Release::Clean);
        let now = Instant::now();
        let server = pool.try_acquire(now).expect("an idle server is there without waiting");
        pool.release(server, Release::Clean);
    })
    .join()
    .unwrap();
    assert_eq!(directory.snapshots(Instant::now())[0].2.active, 0);
}

fn replaces_dead_servers(cluster: &Cluster) {
    let (directory, mailbox) = alone(cluster, 2);
    on_worker(&directory, mailbox, |pools| async move {
        let pool = pools.pool(&key("app", "app")).unwrap();
        let (mut one, mut two) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
        let victim = pid(&mut one).await;
        pool.release(one, Release::Clean);
        assert_eq!(query(&mut two, &format!("SELECT pg_terminate_backend({victim})")).await.unwrap(), "t");
        sleep(100 * MS).await;
        let mut three = pool.acquire().await.unwrap();
        assert_ne!(pid(&mut three).await, victim, "a dead server is not handed out");
        pool.release(two, Release::Clean);
        pool.release(three, Release::Clean);
    })
    .join()
    .unwrap();
}

fn tells_the_servers_own_error(cluster: &Cluster) {
    let (directory, mailbox) = alone(cluster, 2);
    on_worker(&directory, mailbox, |pools| async move {
        let pool = pools.pool(&key("postgres", "app")).unwrap();
        let fields = pool.acquire().await.map(drop).unwrap_err().into_fields();
        assert_eq!(fields.sqlstate, "28P01");
        assert!(fields.message.contains("password authentication failed"), "{fields:?}");
    })
    .join()
    .unwrap();
}

fn makes_room_for_another_pool(cluster: &Cluster) {
    let (directory, mailbox) = alone(cluster, 3);
    let clone = Arc::clone(&directory);
    on_worker(&directory, mailbox, move |pools| async move {
        let (rich, poor) = (pools.pool(&key("app", "app")).unwrap(), pools.pool(&key("app", "other")).unwrap());
        let three = [rich.acquire().await.unwrap(), rich.acquire().await.unwrap(), rich.acquire().await.unwrap()];
        for server in three {
            rich.release(server, Release::Clean);
        }
        let server = poor.acquire().await.unwrap();
        assert_eq!(clone.instances()[0].2, 3, "one of the rich pool's was closed for it");
        poor.release(server, Release::Clean);
    })
    .join()
    .unwrap();
}

fn cancels_only_its_own_client(cluster: &Cluster) {
    let (directory, mailbox) = alone(cluster, 1);
    on_worker(&directory, mailbox, |pools| async move {
        let pool = pools.pool(&key("app", "app")).unwrap();
        let mut server = pool.acquire().await.unwrap();
        let canceller = server.canceller();
        let cancel = spawn_local(async move {
            sleep(100 * MS).await;
            canceller.cancel().await
        });
        assert_eq!(query(&mut server, "SELECT pg_sleep(10)").await, Err("57014".to_owned()));
        cancel.await.unwrap().unwrap();

        let (handle, canceller) = (server.cancel_handle(), server.canceller());
        let request = spawn_local(canceller.cancel());
        yield_now().await;
        pool.release(server, Release::Clean);
        assert!(pool.try_acquire(Instant::now()).is_none(), "held back while a cancel is under way");
        let next = pool.acquire().await.unwrap();
        assert!(request.is_finished());
        pool.release(next, Release::Clean);
        let mut server = pool.acquire().await.unwrap();
        drop(spawn_local(handle.canceller().cancel()));
        assert_eq!(query(&mut server, "SELECT pg_sleep(0.1)").await, Ok(String::new()), "not hit by who comes late");
        pool.release(server, Release::Clean);
    })
    .join()
    .unwrap();
}

fn pauses(cluster: &Cluster) {
    let (directory, mailbox) = alone(cluster, 1);
    let clone = Arc::clone(&directory);
    on_worker(&directory, mailbox, move |pools| async move {
        let pool = pools.pool(&key("app", "app")).unwrap();
        let server = pool.acquire().await.unwrap();
        let open = || clone.snapshots(Instant::now())[0].2.open;
        clone.control(Some("app"), Control::Pause);
        sleep(20 * MS).await;
        assert_eq!(open(), 1, "a client may finish");
        pool.release(server, Release::Clean);
        sleep(200 * MS).await;
        assert_eq!(open(), 0);
        let waiting = spawn_local({
            let pool = Rc::clone(&pool);
            async move { pool.acquire().await.map(drop) }
        });
        sleep(200 * MS).await;
        assert!(!waiting.is_finished());
        clone.control(None, Control::Resume);
        waiting.await.unwrap().unwrap();
    })
    .join()
    .unwrap();
}

fn moves_between_workers(cluster: &Cluster) {
    let (directory, mut mailboxes) = Directory::new(Arc::new(config(cluster, 1)), 2);
    let (there, here) = (mailboxes.remove(1), mailboxes.remove(0));
    let (tell_pid, told_pid) = oneshot::channel();
    let (tell_end, told_end) = oneshot::channel::<()>();
    let one = on_worker(&directory, here, move |pools| async move {
        let pool = pools.pool(&key("app", "app")).unwrap();
        let mut server = pool.acquire().await.unwrap();
        tell_pid.send(pid(&mut server).await).unwrap();
        pool.release(server, Release::Clean);
        told_end.await.unwrap();
        let mut server = pool.acquire().await.unwrap();
        pid(&mut server).await
    });
    let two = on_worker(&directory, there, move |pools| async move {
        let pool = pools.pool(&key("app", "app")).unwrap();
        let first = told_pid.await.unwrap();
        let mut server = pool.acquire().await.unwrap();
        assert_eq!(pid(&mut server).await, first, "the socket has moved");
        tell_end.send(()).unwrap();
        sleep(50 * MS).await;
        pool.release(server, Release::Clean);
        sleep(50 * MS).await;
        first
    });
    assert_eq!(one.join().unwrap(), two.join().unwrap(), "and moved back to the one who waited");
}

fn serves_many_on_two_workers(cluster: &Cluster) {
    let (directory, mailboxes) = Directory::new(Arc::new(config(cluster, 2)), 2);
    let workers: Vec<_> = mailboxes
        .into_iter()
        .map(|mailbox| {
            on_worker(&directory, mailbox, |pools| async move {
                let pool = pools.pool(&key("app", "app")).unwrap();
                let clients: Vec<_> = (0..20).map(|_| spawn_local(busy_client(Rc::clone(&pool)))).collect();
                let mut pids = HashSet::new();
                for client in clients {
                    pids.extend(client.await.unwrap());
                }
                // The other worker may still want servers of this one.
                sleep(300 * MS).await;
                pids
            })
        })
        .collect();
    let pids: HashSet<i32> = workers.into_iter().flat_map(|w| w.join().unwrap()).collect();
    assert!(pids.len() <= 2, "two servers did it all: {pids:?}");
}

async fn busy_client(pool: Rc<Pool>) -> HashSet<i32> {
    let mut pids = HashSet::new();
    for _ in 0..50 {
        let mut server = pool.acquire().await.unwrap();
        pids.insert(pid(&mut server).await);
        pool.release(server, Release::Clean);
    }
    pids
}
