//! `sluice demo`: the cluster, sample data, a router in front, and something to try.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::thread;

use super::{Cluster, ClusterOptions, Error, Instance, Result, free_port};
use crate::config::Config;

const BUCKETS: u32 = 4096;
const SCHEMA: &str = include_str!("schema.sql");
const DATA: &str = include_str!("data.sql");

/// Statements worth a look, from one user to all of them.
const EXAMPLES: [(&str, &str); 6] = [
    ("one user", "SELECT name, country FROM users WHERE id = 42"),
    (
        "one user, joined",
        "SELECT u.name, count(*), sum(w.minutes) FROM users u JOIN workouts w ON w.user_id = u.id WHERE u.id = 42 GROUP BY u.name",
    ),
    ("a reference table", "SELECT name, price_cents FROM plans ORDER BY price_cents"),
    (
        "all users, merged",
        "SELECT country, count(*) FROM users GROUP BY country ORDER BY count(*) DESC, country LIMIT 5",
    ),
    ("the newest of all", "SELECT user_id, body, created_at FROM posts ORDER BY created_at DESC LIMIT 5"),
    ("a write to one user", "UPDATE workouts SET minutes = minutes + 1 WHERE user_id = 42"),
];

/// What `sluice demo` was asked for.
#[derive(Clone, Debug)]
pub struct Demo {
    pub shards: usize,
    pub replicas: usize,
    pub users: u32,
    pub port: u16,
    /// A file of SQL to run through the router instead of waiting.
    pub exec: Option<PathBuf>,
}

/// How a demonstration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Someone stopped it.
    Stopped,
    /// The file given with `--exec` ended with this.
    Ran(ExitStatus),
}

impl Demo {
    /// Makes the cluster, calls `start` for a router in front of it, and then runs the file or waits
    /// until `wait` returns. What `start` gives is dropped first, then the cluster.
    pub fn run<R>(
        &self,
        start: impl FnOnce(Config) -> std::result::Result<R, String>,
        wait: impl FnOnce(),
    ) -> Result<Outcome> {
        if TcpListener::bind(("127.0.0.1", self.port)).is_err() {
            return Err(Error::new(format!("port {} is taken: choose another with --port", self.port)));
        }
        let quiet = self.exec.is_some();
        if !quiet {
            println!("Starting {} PostgreSQL servers ...", self.shards * (1 + self.replicas));
        }
        let options = ClusterOptions { shards: self.shards, replicas: self.replicas, ..ClusterOptions::default() };
        let cluster = Cluster::start(options)?;
        load(&cluster, self.users)?;
        let http = free_port();
        let text = self.config(&cluster, http);
        let config = Config::parse(&text).map_err(|problems| {
            let list: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Error::new(list.join("; "))
        })?;
        let router = start(config).map_err(Error::new)?;
        let outcome = if let Some(file) = &self.exec {
            let status = self.psql(&cluster, &self.url()).arg("-f").arg(file).status()?;
            Outcome::Ran(status)
        } else {
            self.greet(&cluster, http);
            wait();
            println!("\nStopping and removing everything ...");
            Outcome::Stopped
        };
        drop(router);
        drop(cluster);
        Ok(outcome)
    }

    fn url(&self) -> String {
        format!("postgres://app:app@127.0.0.1:{}/app", self.port)
    }

    fn console_url(&self) -> String {
        format!("postgres://admin:admin@127.0.0.1:{}/sluice", self.port)
    }

    fn psql(&self, cluster: &Cluster, url: &str) -> Command {
        let mut command = cluster.primary(0).client_program("psql");
        command.args(["-X", "-v", "ON_ERROR_STOP=1", "-d", url]);
        command
    }

    fn config(&self, cluster: &Cluster, http: u16) -> String {
        let rules = format!(
            "sharding_key = \"user_id\"\nbuckets = {BUCKETS}\ntables.users.key = \"id\"\n\
             tables.plans.kind = \"reference\"\ntables.countries.kind = \"reference\"\n"
        );
        format!(
            "[listen]\naddress = \"127.0.0.1:{}\"\nhttp = \"127.0.0.1:{http}\"\n\n\
             [auth]\nmethod = \"scram-sha-256\"\n\n\
             [[user]]\nname = \"app\"\npassword = \"app\"\n\n\
             [[user]]\nname = \"admin\"\npassword = \"admin\"\nrole = \"admin\"\n\n\
             [replicas]\ncheck_interval = \"200ms\"\n\n\
             [log]\nlevel = \"warn\"\n\n{}",
            self.port,
            cluster.database_config("app", &rules)
        )
    }

    fn greet(&self, cluster: &Cluster, http: u16) {
        println!("\n{} users are on {} shards:\n", self.users, cluster.shards());
        for shard in 0..cluster.shards() {
            let count = cluster.primary(shard).psql("SELECT count(*) FROM users").unwrap_or_default();
            let replicas: Vec<String> =
                cluster.replicas(shard).iter().map(|replica| replica.port().to_string()).collect();
            let name = super::cluster::shard_name(shard);
            let replicas =
                if replicas.is_empty() { String::new() } else { format!(", replicas {}", replicas.join(" ")) };
            println!("  shard {name}: {count} users, primary on port {}{replicas}", cluster.primary(shard).port());
        }
        println!("\nTry these, and see where they went:\n");
        for (what, statement) in EXAMPLES {
            println!("  -- {what}\n  {statement};");
            for line in self.route_of(cluster, statement).lines() {
                println!("     {line}");
            }
            println!();
        }
        println!("  application  psql {}", self.url());
        println!("  console      psql {}", self.console_url());
        println!("  metrics      http://127.0.0.1:{http}/metrics");
        println!("\nCtrl-C stops it and removes everything.");
    }

    /// The console's word for it; empty when it has none.
    fn route_of(&self, cluster: &Cluster, statement: &str) -> String {
        let mut command = self.psql(cluster, &self.console_url());
        let output = command.args(["-A", "-t", "-q", "-c", &format!("EXPLAIN ROUTE {statement}")]).output();
        match output {
            Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
            _ => String::new(),
        }
    }
}

/// Makes the tables and gives every shard the rows of its own users, all shards at once.
fn load(cluster: &Cluster, users: u32) -> Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cluster.shards())
            .map(|shard| scope.spawn(move || load_shard(cluster.primary(shard), shard, cluster.shards(), users)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(Error::new("the thread that loads a shard panicked")))
        })
    })?;
    cluster.wait_for_replicas()
}

fn load_shard(primary: &Instance, shard: usize, shards: usize, users: u32) -> Result<()> {
    let variables =
        format!("\\set shard {shard}\n\\set shards {shards}\n\\set buckets {BUCKETS}\n\\set users {users}\n");
    primary.psql_script("app", &format!("BEGIN;\n{SCHEMA}\n{variables}\n{DATA}\nCOMMIT;\n")).map(drop)
}
