//! What passes through is not kept: results far larger than the router's memory, clients that read
//! slowly, parameters of many megabytes.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::wire::{self, Wire};
use crate::support::{Cluster, ClusterOptions, Sluice};

/// Most memory that the process has had, in KiB.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_result_larger_than_memory_passes_through_to_a_slow_client() {
    if !std::path::Path::new("/proc/self/status").exists() {
        return println!("skipped: this system does not tell what memory a process has had");
    }
    let cluster = Cluster::start(ClusterOptions { shards: 2, ..Default::default() }).unwrap();
    let sluice = Sluice::start(&cluster.database_config("app", "sharding_key = \"user_id\""));
    let mut client = Wire::connect(sluice.port(), "app", "app");
    assert_eq!(client.query("CREATE TABLE wide (user_id bigint, pad text)").sqlstate(), "");
    let rows: String = (0..2000).map(|user| format!("{user}\t{}\n", "x".repeat(10_000))).collect();
    assert_eq!(client.copy("COPY wide FROM STDIN", rows.as_bytes()).sqlstate(), "");
    client.query("SELECT count(*) FROM wide");
    let before = peak(sluice.pid());
    // One shard, 150 MB; several shards, 20 MB in order and 100 MB as they come.
    for (sql, expected) in [
        ("SELECT repeat('y', 10000) FROM generate_series(1, 15000)", 15_000),
        ("SELECT user_id, pad FROM wide ORDER BY user_id", 2_000),
        ("SELECT w.user_id, w.pad, repeat(w.pad, 4) FROM wide w", 2_000),
    ] {
        client.send(&wire::query(sql));
        let began = Instant::now();
        let mut count = 0;
        loop {
            let message = client.message().unwrap();
            match message.tag {
                b'D' => {
                    count += 1;
                    if count % 500 == 0 && began.elapsed() < Duration::from_secs(2) {
                        std::thread::sleep(Duration::from_millis(50));
                    }
                }
                b'E' => panic!("{sql}: {}", wire::sqlstate(&message.body)),
                b'Z' => break,
                _ => {}
            }
        }
        assert_eq!(count, expected, "{sql}");
    }
    let grown = peak(sluice.pid()) - before;
    assert!(grown < 16 << 10, "the router grew by {grown} KiB");
}

#[test]
fn a_message_beyond_the_bound_is_refused_and_costs_nothing() {
    let cluster = Cluster::start(ClusterOptions::default()).unwrap();
    let config = cluster.database_config("app", "");
    let sluice = Sluice::start(&format!("{config}\n[limits]\nmessage_bytes_max = \"8MB\"\n"));
    let mut client = Wire::connect(sluice.port(), "app", "app");
    let large = "z".repeat(7 << 20);
    assert_eq!(client.execute("SELECT length($1::text)", &[Some(&large)], false).text(), (7 << 20).to_string());
    let before = peak(sluice.pid());
    for length in [9_u32 << 20, 1 << 30, u32::MAX >> 1] {
        let mut client = Wire::connect(sluice.port(), "app", "app");
        client.send(&[&b"B"[..], &length.to_be_bytes(), &[0; 100]].concat());
        let last = client.message().unwrap();
        assert_eq!(
            (last.tag, wire::sqlstate(&last.body).as_str()),
            (b'E', if length < 1 << 30 { "54000" } else { "08P01" })
        );
    }
    assert!(peak(sluice.pid()) - before < 4 << 10);
}
