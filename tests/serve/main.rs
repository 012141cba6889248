//! The program as an operator starts it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../support/mod.rs"]
mod support;

mod operate;

use std::process::Command;

use support::{Cluster, ClusterOptions, Sluice};

fn sluice(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sluice")).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn a_router_starts_and_stops() {
    let cluster = Cluster::start(ClusterOptions::default()).unwrap();
    let mut sluice = Sluice::start(&cluster.database_config("app", ""));
    assert!(sluice.psql("nowhere", "SELECT 1").unwrap_err().contains("nowhere"));
    sluice.reload(&format!("{}\n[pool]\nsize = 7\n", cluster.database_config("app", "")));
    sluice.wait_for_log("pool.size: 20 -> 7");
    sluice.reload("[pool]\nsise = 7\n");
    sluice.wait_for_log("did you mean `size`?");
    sluice.signal("TERM");
    assert!(sluice.wait().success());
}

#[test]
fn check_tells_all_problems_with_file_and_line() {
    let file = std::env::temp_dir().join(format!("sluice-check-{}.toml", std::process::id()));
    std::fs::write(&file, "[pool]\nsise = 3\nmode = \"x\"\n").unwrap();
    let (code, text) = sluice(&["check", "--config", file.to_str().unwrap()]);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(code, Some(1));
    for problem in [":2: unknown key `pool.sise`, did you mean `size`?", ":3: pool.mode", "no [[database]]"] {
        assert!(text.contains(problem), "{problem} is not in:\n{text}");
    }
    let (code, text) = sluice(&["check", "--offline", "--database-url", "postgres://app:s3cret@localhost/app"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = sluice(&["serve", "--database-url", "mysql://app:s3cret@localhost/app"]);
    assert_eq!(code, Some(1));
    assert!(!text.contains("s3cret"), "{text}");
    let (code, _) = sluice(&["health", "--address", "127.0.0.1:1"]);
    assert_eq!(code, Some(1));
}
