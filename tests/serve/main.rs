//! The program as an operator starts it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../support/mod.rs"]
mod support;

mod control;
mod exporter;
mod memory;
mod operate;
mod queries;
mod settings;
mod signals;

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

#[test]
fn check_asks_the_servers_and_explain_plans_without_running() {
    let cluster =
        Cluster::start(ClusterOptions { shards: 2, settings: vec![prepared("0")], ..Default::default() }).unwrap();
    cluster.primary(0).psql("CREATE TABLE loose (user_id bigint)").unwrap();
    let file = std::env::temp_dir().join(format!("sluice-check-servers-{}.toml", std::process::id()));
    let path = file.to_str().unwrap();
    let config = cluster.database_config("app", "sharding_key = \"user_id\"\ntables.users.key = \"id\"");
    std::fs::write(&file, format!("[auth]\nmethod = \"trust\"\n{config}")).unwrap();
    let (code, text) = sluice(&["check", "--config", path]);
    assert_eq!(code, Some(1), "{text}");
    for problem in [
        "database app: shard a, 127.0.0.1:",
        "database app: shard b, 127.0.0.1:",
        "max_prepared_transactions is 0",
        "public.loose",
    ] {
        assert!(text.contains(problem), "{problem} is not in:\n{text}");
    }

    let schema = file.with_extension("sql");
    std::fs::write(&schema, "CREATE TABLE users (id bigint PRIMARY KEY, name text);").unwrap();
    let statement = "SELECT name FROM users WHERE id = 1";
    let (code, offline) = sluice(&["explain", "--config", path, "--schema", schema.to_str().unwrap(), statement]);
    assert!(code == Some(0) && offline.contains("Route: ") && offline.contains("\nShards: "), "{offline}");
    for shard in 0..2 {
        let sql = "DROP TABLE IF EXISTS loose; CREATE TABLE users (id bigint PRIMARY KEY, name text)";
        cluster.primary(shard).psql(sql).unwrap();
    }
    let (code, online) = sluice(&["explain", "--config", path, statement]);
    assert_eq!((code, online), (Some(0), offline));
    let ranked = "SELECT rank() OVER (ORDER BY name) FROM users";
    let (_, short) = sluice(&["explain", "--config", path, ranked]);
    assert!(short.contains("FROM (input 1 users)") && !short.contains("unnest"), "{short}");
    let (_, full) = sluice(&["explain", "--config", path, "--verbose", ranked]);
    assert!(full.contains("unnest($1::"), "{full}");

    cluster.primary(1).stop();
    let (code, text) = sluice(&["check", "--config", path]);
    assert!(code == Some(1) && text.contains("refused") && !text.contains("loose"), "{text}");
    std::fs::remove_file(&file).unwrap();
    std::fs::remove_file(&schema).unwrap();
}

/// Of a PostgreSQL that is not sharded yet, as PostgreSQL has counted its statements, or from a file.
#[test]
fn report_tells_how_statements_would_be_answered() {
    let preload = ("shared_preload_libraries".to_owned(), "pg_stat_statements".to_owned());
    let cluster = Cluster::start(ClusterOptions { settings: vec![preload], ..Default::default() }).unwrap();
    let file = std::env::temp_dir().join(format!("sluice-report-{}.toml", std::process::id()));
    let path = file.to_str().unwrap();
    let config = cluster.database_config("app", "sharding_key = \"user_id\"");
    std::fs::write(&file, format!("[auth]\nmethod = \"trust\"\n{config}")).unwrap();
    cluster.primary(0).psql("CREATE TABLE orders (user_id bigint NOT NULL, total numeric)").unwrap();
    let (code, text) = sluice(&["report", "--config", path]);
    assert!(code == Some(1) && text.contains("CREATE EXTENSION pg_stat_statements"), "{text}");

    let as_superuser = |sql: &str| cluster.primary(0).psql(sql).unwrap();
    as_superuser("CREATE EXTENSION pg_stat_statements; GRANT pg_read_all_stats TO app");
    as_superuser("SELECT pg_stat_statements_reset()");
    for sql in ["SELECT total FROM orders WHERE user_id = 5", "SELECT ctid FROM orders", "UPDATE orders SET total = 0"]
    {
        cluster.primary(0).psql(sql).unwrap();
    }
    let (code, text) = sluice(&["report", "--config", path, "--shards", "3"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("over 3 shards") && text.contains("SELECT ctid FROM orders"), "{text}");
    assert!(text.contains("system column ctid would give another value on every shard"), "{text}");

    let log = file.with_extension("log");
    std::fs::write(&log, "12:00 [1] LOG:  execute a: SELECT total\n\tFROM orders WHERE user_id = $1\n").unwrap();
    let (code, text) = sluice(&["report", "--config", path, log.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("1 kinds of statement, 1 calls, over 2 shards") && text.contains("100.0 %"), "{text}");
    std::fs::remove_file(&file).unwrap();
    std::fs::remove_file(&log).unwrap();
}

#[test]
fn check_finds_rows_on_wrong_shards_and_a_shard_that_is_there_twice() {
    let settings = vec![prepared("10")];
    let cluster = Cluster::start(ClusterOptions { shards: 2, settings, ..Default::default() }).unwrap();
    for shard in 0..2 {
        let sql = "CREATE TABLE users (id bigint PRIMARY KEY); ALTER TABLE users OWNER TO app; \
                   INSERT INTO users SELECT generate_series(1, 50)";
        cluster.primary(shard).psql(sql).unwrap();
    }
    let file = std::env::temp_dir().join(format!("sluice-check-rows-{}.toml", std::process::id()));
    let check = |config: &str| {
        std::fs::write(&file, format!("[auth]\nmethod = \"trust\"\n{config}")).unwrap();
        let answer = sluice(&["check", "--config", file.to_str().unwrap()]);
        std::fs::remove_file(&file).unwrap();
        answer
    };
    let config = cluster.database_config("app", "sharding_key = \"user_id\"\ntables.users.key = \"id\"");
    let (code, text) = check(&config);
    assert_eq!(code, Some(1), "{text}");
    for shard in ["a", "b"] {
        let start = format!("database app: shard {shard}: ");
        assert!(text.lines().any(|line| line.starts_with(&start) && line.contains("rows of public.users")), "{text}");
    }

    let (first, second) = (cluster.primary(0).port(), cluster.primary(1).port());
    let (_, text) = check(&config.replace(&format!("127.0.0.1:{second}"), &format!("localhost:{first}")));
    assert!(text.contains("the primaries of shards a and b are the same database"), "{text}");

    // Rows that were put through the router are where it looks for them.
    (0..2).for_each(|shard| cluster.primary(shard).psql("TRUNCATE users").map(drop).unwrap());
    let router = Sluice::start(&config);
    (1..10).for_each(|id| drop(router.psql("app", &format!("INSERT INTO users VALUES ({id})")).unwrap()));
    let (code, text) = check(&config);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn what_is_typed_counts_more_than_the_environment() {
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        let output = command.args(arguments).envs(variables.iter().copied()).output().unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (file, url) = (concat!(env!("CARGO_MANIFEST_DIR"), "/tests/config/minimal.toml"), "postgres://x:y@h/by_url");
    let check = ["check", "--offline"];
    let by_file =
        run(&[&check[..], &["-c", file]].concat(), &[("SLUICE_DATABASE_URL", url), ("SLUICE_HTTP", "[::]:1")]);
    assert!(by_file.0 && !by_file.1.contains("by_url"), "{by_file:?}");
    let by_url = run(&[&check[..], &["--database-url", url]].concat(), &[("SLUICE_CONFIG", file)]);
    assert!(by_url.0 && by_url.1.contains("by_url"), "{by_url:?}");
    let both = run(&[&check[..], &["--database-url", url, "-c", file]].concat(), &[]);
    assert!(!both.0 && both.1.contains("choose one"), "{both:?}");
    let ignored = run(&[&check[..], &["-c", file, "--http", "[::]:1"]].concat(), &[]);
    assert!(!ignored.0 && ignored.1.contains("[listen] http"), "{ignored:?}");
}

fn prepared(max: &str) -> (String, String) {
    ("max_prepared_transactions".to_owned(), max.to_owned())
}
