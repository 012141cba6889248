//! pgbench in its three modes, and money that must not get lost.

use std::fmt::Write;
use std::process::Command;

use crate::sides::{Part, Sides, transcript};
use crate::support::{Cluster, ClusterOptions, Sluice};

const MODES: [&str; 3] = ["simple", "extended", "prepared"];

#[test]
fn modes() {
    Sides::start().compare(Part::Whole, |url| {
        let mut text = String::new();
        transcript(Command::new("pgbench").args(["-i", "-q", "-s", "1", url]));
        for mode in MODES {
            for script in [&["-N"][..], &["-S"], &["-b", "tpcb-like", "-C"]] {
                let mut pgbench = Command::new("pgbench");
                // A thread for each client: pgbench prepares statements synchronously, and a thread that waits
                // there for a server must not be the one whose other clients hold them all.
                pgbench.args(["-n", "-c", "8", "-j", "8", "-t", "20", "-M", mode]).args(script).arg(url);
                writeln!(text, "{mode} {script:?}").unwrap();
                text.push_str(&without_times(&transcript(&mut pgbench)));
            }
        }
        let sums = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history),
                           (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(bbalance) FROM pgbench_branches),
                           (SELECT count(*) FROM pgbench_history)";
        text + &transcript(Command::new("psql").args(["-X", "-d", url, "-c", sums]))
    });
}

/// What pgbench prints, without what two runs cannot agree on.
fn without_times(text: &str) -> String {
    let steady = ["number of", "transaction type", "query mode", "pgbench: error", "aborted"];
    text.lines()
        .filter(|line| steady.iter().any(|word| line.contains(word)))
        .fold(String::new(), |all, line| all + line + "\n")
}

const BRANCHES: u32 = 8;
const ACCOUNTS: u32 = 100;

/// Transactions that each stay on one shard, over two shards. `make soak` does it longer.
#[test]
fn tpcb_over_two_shards_loses_nothing() {
    let cluster = Cluster::start(ClusterOptions { shards: 2, ..Default::default() }).unwrap();
    let schema = include_str!("../../benches/pgbench/tpcb_one_shard_schema.sql");
    for shard in 0..2 {
        cluster.primary(shard).psql_script("app", &format!("SET ROLE app;\n{schema}")).unwrap();
    }
    let config = cluster.database_config("app", "sharding_key = \"bid\"");
    let sluice = Sluice::start(&format!("[listen]\nworkers = 2\n[pool]\nsize = 4\n{config}"));
    crate::sides::wait_for(|| sluice.psql("app", "SELECT FROM pgbench_branches WHERE bid = 1"));
    for bid in 1..=BRANCHES {
        let tellers: Vec<String> = (1..=10).map(|tid| format!("({bid}, {tid}, 0)")).collect();
        let accounts: Vec<String> = (1..=ACCOUNTS).map(|aid| format!("({bid}, {aid}, 0)")).collect();
        let rows = format!(
            "BEGIN; INSERT INTO pgbench_branches VALUES ({bid}, 0); INSERT INTO pgbench_tellers VALUES {};
             INSERT INTO pgbench_accounts VALUES {}; COMMIT",
            tellers.join(", "),
            accounts.join(", ")
        );
        sluice.psql("app", &rows).unwrap();
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/pgbench/tpcb_one_shard.sql");
    let mut transactions = 0;
    for mode in MODES {
        let mut pgbench = Command::new("pgbench");
        pgbench.args(["-n", "-c", "16", "-j", "16", "-T", "1", "-M", mode, "-f", script]);
        let variables = [format!("-Dscale={BRANCHES}"), format!("-Daccounts={ACCOUNTS}")];
        let text = transcript(pgbench.args(variables).arg(sluice.url("app")));
        assert!(text.contains("number of failed transactions: 0 "), "{mode}: {text}");
        let done = text.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
        transactions += done.unwrap().parse::<u64>().unwrap();
    }
    let sums = "SELECT coalesce(sum(abalance), 0) FROM pgbench_accounts UNION ALL SELECT coalesce(sum(tbalance), 0)
                FROM pgbench_tellers UNION ALL SELECT coalesce(sum(bbalance), 0) FROM pgbench_branches
                UNION ALL SELECT coalesce(sum(delta), 0) FROM pgbench_history";
    let mut history = 0;
    for shard in 0..2 {
        let primary = cluster.primary(shard);
        let found = primary.psql(sums).unwrap();
        let sums: Vec<&str> = found.lines().collect();
        assert!(sums.windows(2).all(|pair| pair[0] == pair[1]), "money is lost on shard {shard}: {sums:?}");
        let own: u64 = primary.psql("SELECT count(*) FROM pgbench_history").unwrap().parse().unwrap();
        assert!(own > 0, "shard {shard} has no part of it");
        history += own;
    }
    assert_eq!(history, transactions);
}
