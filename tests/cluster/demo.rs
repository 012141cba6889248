//! The cluster that all other tests stand on.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Cluster, ClusterOptions, TcpAuth};

#[test]
fn a_cluster_serves_and_replicates_and_leaves_nothing() {
    let cluster = Cluster::start(ClusterOptions { shards: 2, replicas: 1, ..Default::default() }).unwrap();
    for shard in 0..2 {
        cluster.primary(shard).psql("CREATE TABLE t (i int); INSERT INTO t VALUES (1)").unwrap();
    }
    cluster.wait_for_replicas().unwrap();
    assert_eq!(cluster.replica(1, 0).psql("SELECT i, pg_is_in_recovery() FROM t").unwrap(), "1|t");
    assert_ne!(identifier(&cluster, 0), identifier(&cluster, 1), "every shard is a PostgreSQL of its own");
    let folder = cluster.folder();
    assert!(folder.exists());
    drop(cluster);
    assert!(!folder.exists());
}

fn identifier(cluster: &Cluster, shard: usize) -> String {
    cluster.primary(shard).psql("SELECT system_identifier FROM pg_control_system()").unwrap()
}

#[test]
fn a_killed_server_comes_back_with_its_rows() {
    let cluster = Cluster::start(ClusterOptions {
        settings: vec![("synchronous_commit".into(), "on".into())],
        ..Default::default()
    })
    .unwrap();
    let primary = cluster.primary(0);
    primary.psql("CREATE TABLE t AS SELECT 7 AS i").unwrap();
    primary.kill();
    assert!(!primary.is_running());
    assert!(primary.psql("SELECT 1").is_err());
    primary.start().unwrap();
    assert_eq!(primary.psql("SELECT i FROM t").unwrap(), "7");
    primary.restart().unwrap();
    assert_eq!(primary.psql("SELECT i FROM t").unwrap(), "7");
}

#[test]
fn a_paused_server_answers_after_it_is_resumed() {
    let cluster = Cluster::start(ClusterOptions::default()).unwrap();
    let primary = cluster.primary(0);
    primary.pause();
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| primary.psql("SELECT 5").unwrap());
        std::thread::sleep(Duration::from_millis(300));
        assert!(!answer.is_finished());
        primary.resume();
        assert_eq!(answer.join().unwrap(), "5");
    });
}

#[test]
fn tcp_asks_for_passwords_when_told_to() {
    for auth in [TcpAuth::Scram, TcpAuth::Md5] {
        let cluster = Cluster::start(ClusterOptions { auth, ..Default::default() }).unwrap();
        let primary = cluster.primary(0);
        let wrong = primary.url("app").replace("app:app@", "app:wrong@");
        assert!(select_one(&primary.url("app")));
        assert!(!select_one(&wrong));
    }
}

fn select_one(url: &str) -> bool {
    Command::new("psql").args(["-X", "-d", url, "-c", "SELECT 1"]).output().unwrap().status.success()
}

/// The supervisor must clean up for a process that cannot: run this test's sibling in a child and kill it.
#[test]
fn nothing_stays_when_the_process_is_killed() {
    if let Ok(path) = std::env::var("SLUICE_TEST_CLUSTER_FOLDER") {
        let cluster = Cluster::start(ClusterOptions { replicas: 1, ..Default::default() }).unwrap();
        std::fs::write(&path, cluster.folder().display().to_string()).unwrap();
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let note = std::env::temp_dir().join(format!("sluice-test-killed-{}", std::process::id()));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "demo::nothing_stays_when_the_process_is_killed"])
        .env("SLUICE_TEST_CLUSTER_FOLDER", &note)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let folder = wait_for(|| std::fs::read_to_string(&note).ok().filter(|text| !text.is_empty()));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for(|| (!Path::new(&folder).exists()).then_some(()));
    std::fs::remove_file(&note).unwrap();
}

fn wait_for<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited too long");
        std::thread::sleep(Duration::from_millis(20));
    }
}
