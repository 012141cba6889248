//! Shards, each a primary and its replicas, in one temporary folder.
//!
//! Everything ends with the value: servers are stopped and the folder is removed on drop. If this
//! process dies instead, a small shell that waits for the end of a pipe does the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::binaries::Binaries;
use super::instance::Instance;
use super::system::{Folder, free_port, run};
use super::{Error, Result, template};

/// Another process may take a port between the test and its use.
const PORT_ATTEMPTS: usize = 5;
const REPLAY_TIMEOUT: Duration = Duration::from_secs(30);

/// What the shell does that outlives this process: wait for the pipe to close, stop, remove.
const SUPERVISOR: &str = r#"
cat >/dev/null
pids=
for file in "$1"/*/postmaster.pid; do
  [ -f "$file" ] && pids="$pids $(head -n 1 "$file")"
done
for pid in $pids; do kill -s QUIT "$pid"; kill -s CONT "$pid"; done
rounds=0
for pid in $pids; do
  while [ $rounds -lt 200 ] && kill -0 "$pid"; do sleep 0.1; rounds=$((rounds + 1)); done
done
rm -rf "$1"
"#;

/// How large the cluster is and how it lets clients in.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub shards: usize,
    /// Streaming replicas of each shard.
    pub replicas: usize,
    pub auth: TcpAuth,
    /// Databases that are created on every shard and owned by `app`; `app` is always there.
    pub databases: Vec<String>,
    /// Further lines of `postgresql.conf`.
    pub settings: Vec<(String, String)>,
    /// The databases' locale; `C` is on every machine.
    pub locale: String,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            shards: 1,
            replicas: 0,
            auth: TcpAuth::Trust,
            databases: Vec::new(),
            settings: Vec::new(),
            locale: "C".to_owned(),
        }
    }
}

/// What `pg_hba.conf` asks of connections over TCP. The unix socket trusts everyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpAuth {
    Trust,
    /// Passwords are the users' names: `app`, `postgres`.
    Scram,
    Md5,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    folder: Folder,
    shards: Vec<Shard>,
    supervisor: Child,
}

#[derive(Debug)]
struct Shard {
    primary: Instance,
    replicas: Vec<Instance>,
}

impl Cluster {
    /// Makes and starts all servers; returns when all accept connections and the replicas have
    /// replayed the making of the databases.
    pub fn start(options: ClusterOptions) -> Result<Self> {
        let binaries = Binaries::find()?;
        let folder = Folder::create()?;
        let supervisor = supervise(&folder)?;
        let mut cluster = Self { folder: folder.clone(), shards: Vec::new(), supervisor };
        // The threads fill what they could start; on an error the rest is stopped by drop.
        let results: Vec<Result<Shard>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..options.shards)
                .map(|number| {
                    let (binaries, folder, options) = (binaries.clone(), folder.clone(), &options);
                    scope.spawn(move || Shard::start(number, &folder, &binaries, options))
                })
                .collect();
            let panicked = |_| Err(Error::new("the thread that starts a shard panicked"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
        });
        let mut failed = None;
        for result in results {
            match result {
                Ok(shard) => cluster.shards.push(shard),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(cluster),
        }
    }

    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The primary of shard `shard`, from 0.
    pub fn primary(&self, shard: usize) -> &Instance {
        &self.shards[shard].primary
    }

    /// Replica `replica` of shard `shard`, both from 0.
    pub fn replica(&self, shard: usize, replica: usize) -> &Instance {
        &self.shards[shard].replicas[replica]
    }

    pub fn replicas(&self, shard: usize) -> &[Instance] {
        &self.shards[shard].replicas
    }

    /// The folder of everything; it goes with the cluster.
    pub fn folder(&self) -> PathBuf {
        self.folder.path.clone()
    }

    /// Waits until the replicas of all shards have replayed what their primaries have written.
    pub fn wait_for_replicas(&self) -> Result<()> {
        self.shards.iter().try_for_each(Shard::wait_for_replicas)
    }

    /// The `[[database]]` part of a configuration for this cluster: shards `a`, `b`, ... with
    /// `database` on each. The caller puts `extra` lines (`sharding_key = "user_id"`) before them.
    pub fn database_config(&self, database: &str, extra: &str) -> String {
        let mut text = format!("[[database]]\nname = \"{database}\"\n{extra}\n");
        for (number, shard) in self.shards.iter().enumerate() {
            let replicas: Vec<String> =
                shard.replicas.iter().map(|replica| format!("\"{}\"", replica.url(database))).collect();
            text.push_str(&format!(
                "\n[[database.shard]]\nname = \"{}\"\nprimary = \"{}\"\nreplicas = [{}]\n",
                shard_name(number),
                shard.primary.url(database),
                replicas.join(", ")
            ));
        }
        text
    }
}

/// `a`, `b`, ... and `shard26` after `z`.
pub(super) fn shard_name(number: usize) -> String {
    match u8::try_from(number) {
        Ok(number) if number < 26 => char::from(b'a' + number).to_string(),
        _ => format!("shard{number}"),
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        thread::scope(|scope| {
            for shard in &self.shards {
                for instance in shard.replicas.iter().chain([&shard.primary]) {
                    scope.spawn(|| instance.stop_at_once());
                }
            }
        });
        drop(self.supervisor.stdin.take());
        self.supervisor.wait().ok();
    }
}

fn supervise(folder: &Folder) -> Result<Child> {
    let mut command = Command::new("sh");
    command.args(["-c", SUPERVISOR, "sh"]).arg(&folder.path);
    folder.adopt(&mut command).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command.spawn()?)
}

impl Shard {
    fn start(number: usize, folder: &Folder, binaries: &Binaries, options: &ClusterOptions) -> Result<Self> {
        let name = format!("shard{number}");
        let mut primary = Instance::new(name.clone(), folder.clone(), binaries.clone(), 0);
        template::make(&mut primary, number, folder, options)?;
        configure(&primary, folder, options)?;
        // A server that was stopped cleanly may be copied as it is: no backup is needed for a replica.
        let mut replicas = Vec::new();
        for replica in 0..options.replicas {
            let name = format!("{name}-replica{replica}");
            run(folder.adopt(Command::new("cp").arg("-R").arg(primary.data_dir()).arg(folder.path.join(&name))))?;
            replicas.push(Instance::new(name, folder.clone(), binaries.clone(), 0));
        }
        start_on_free_port(&mut primary)?;
        for replica in &mut replicas {
            follow(replica, &primary)?;
            start_on_free_port(replica)?;
        }
        for database in &options.databases {
            primary.psql_in("postgres", &format!("CREATE DATABASE \"{database}\" OWNER app"))?;
        }
        let shard = Self { primary, replicas };
        shard.wait_for_replicas()?;
        Ok(shard)
    }

    fn wait_for_replicas(&self) -> Result<()> {
        let written = self.primary.psql_in("postgres", "SELECT pg_current_wal_insert_lsn()")?;
        let question = format!("SELECT coalesce(pg_last_wal_replay_lsn() >= '{written}', false)");
        let deadline = Instant::now() + REPLAY_TIMEOUT;
        for replica in &self.replicas {
            while replica.psql_in("postgres", &question)? != "t" {
                if Instant::now() > deadline {
                    return Err(Error::new(format!("a replica does not follow: {}", replica.log())));
                }
            }
        }
        Ok(())
    }
}

/// Writes the server's whole configuration; nothing of the template's stays.
pub(super) fn configure(instance: &Instance, folder: &Folder, options: &ClusterOptions) -> Result<()> {
    let hba = match options.auth {
        TcpAuth::Trust => "trust",
        TcpAuth::Scram => "scram-sha-256",
        TcpAuth::Md5 => "md5",
    };
    write_into(&instance.data_dir().join("pg_hba.conf"), &hba_file(hba))?;
    write_into(&instance.data_dir().join("postgresql.conf"), &settings(folder, options))
}

pub(super) fn start_on_free_port(instance: &mut Instance) -> Result<()> {
    let mut attempt = 0;
    loop {
        instance.set_port(free_port());
        match instance.start() {
            Err(_) if attempt < PORT_ATTEMPTS => attempt += 1,
            result => return result,
        }
    }
}

fn hba_file(method: &str) -> String {
    format!(
        "local all all trust\n\
         local replication all trust\n\
         host replication postgres 127.0.0.1/32 trust\n\
         host all all 127.0.0.1/32 {method}\n\
         host all all ::1/128 {method}\n"
    )
}

/// Small, quick and forgetful: what is here lives for one test or one demonstration.
fn settings(folder: &Folder, options: &ClusterOptions) -> String {
    let mut text = format!(
        "listen_addresses = '127.0.0.1'\n\
         unix_socket_directories = '{}'\n\
         fsync = off\n\
         full_page_writes = off\n\
         synchronous_commit = off\n\
         shared_buffers = 16MB\n\
         max_connections = 100\n\
         max_prepared_transactions = 100\n\
         max_wal_senders = 20\n\
         max_replication_slots = 20\n\
         wal_level = logical\n\
         min_wal_size = 32MB\n\
         max_wal_size = 256MB\n\
         wal_keep_size = 64MB\n\
         hot_standby = on\n\
         wal_receiver_status_interval = 100ms\n\
         wal_retrieve_retry_interval = 100ms\n\
         autovacuum_naptime = 10min\n\
         log_line_prefix = '%m [%p] %q%u@%d '\n",
        folder.path.display()
    );
    if options.auth == TcpAuth::Md5 {
        text.push_str("password_encryption = 'md5'\n");
    }
    for (name, value) in &options.settings {
        text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
    }
    text
}

/// Turns a copy into a replica of `primary`.
fn follow(replica: &Instance, primary: &Instance) -> Result<()> {
    let name = replica.data_dir().file_name().map(|name| name.to_string_lossy().replace('-', "_")).unwrap_or_default();
    let line =
        format!("primary_conninfo = 'host=127.0.0.1 port={} user=postgres application_name={name}'\n", primary.port());
    append_to(&replica.data_dir().join("postgresql.conf"), &line)?;
    // PostgreSQL only looks whether it is there, so the owner does not matter.
    write_into(&replica.data_dir().join("standby.signal"), "")
}

fn write_into(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|error| Error::new(format!("{}: {error}", path.display())))
}

fn append_to(path: &Path, text: &str) -> Result<()> {
    let old = fs::read_to_string(path).map_err(|error| Error::new(format!("{}: {error}", path.display())))?;
    write_into(path, &format!("{old}{text}"))
}
