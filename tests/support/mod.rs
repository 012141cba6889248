//! What the integration tests share: a router as a child process, beside `pgsluice::demo::Cluster`.
//!
//! ```no_run
//! let cluster = Cluster::start(ClusterOptions { shards: 2, ..Default::default() }).unwrap();
//! let sluice = Sluice::start(&cluster.database_config("app", "sharding_key = \"user_id\""));
//! let mut client = connect(&sluice.url("app"));
//! ```
#![allow(dead_code, unused_imports, unreachable_pub, reason = "every test file takes what it needs")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

pub mod proxy;
pub mod running;
pub mod tpcc;
pub mod tpch;
pub mod wire;

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

pub use pgsluice::demo::{Cluster, ClusterOptions, Instance, TcpAuth, free_port};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// The router under test: the built program with a configuration of its own.
pub struct Sluice {
    child: Child,
    port: u16,
    http_port: u16,
    config: PathBuf,
    log: Arc<Mutex<Vec<u8>>>,
}

impl Sluice {
    /// Starts the router and waits until it accepts clients. `config` is the text of a `sluice.toml`
    /// without addresses (`[listen]` may be there for other keys); without `[auth]`, clients are trusted.
    /// Panics with the router's log when it does not come up.
    pub fn start(config: &str) -> Self {
        Self::start_with_env(config, &[])
    }

    pub fn start_with_env(config: &str, env: &[(&str, &str)]) -> Self {
        for _ in 0..4 {
            match Self::try_start(config, env) {
                Ok(sluice) => return sluice,
                // Another process took the port in between.
                Err(log) if log.contains("in use") => {}
                Err(log) => panic!("the router did not start:\n{log}"),
            }
        }
        panic!("no free port found");
    }

    fn try_start(config: &str, env: &[(&str, &str)]) -> Result<Self, String> {
        let (port, http_port) = (free_port(), free_port());
        let path = std::env::temp_dir().join(format!("sluice-test-{}-{port}.toml", std::process::id()));
        fs::write(&path, with_addresses(config, port, http_port)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        command.args(["serve", "--config"]).arg(&path).envs(env.iter().copied());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let stdout = collect(child.stdout.take().unwrap(), Arc::clone(&log));
        let stderr = collect(child.stderr.take().unwrap(), Arc::clone(&log));
        let mut sluice = Self { child, port, http_port, config: path, log };
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(sluice.address()).is_err() {
            if sluice.child.try_wait().unwrap().is_some() {
                stdout.join().unwrap();
                stderr.join().unwrap();
                return Err(sluice.log());
            }
            if Instant::now() > deadline {
                return Err(format!("{}\n(no client was accepted in time)", sluice.log()));
            }
            thread::sleep(POLL);
        }
        Ok(sluice)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As user `app` with its password.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://app:app@127.0.0.1:{}/{database}", self.port)
    }

    /// Everything the router has written to its standard output and error.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap()).into_owned()
    }

    /// Waits until the log has `text`; panics with the log when it never comes.
    pub fn wait_for_log(&self, text: &str) {
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.log().contains(text) {
            assert!(Instant::now() < deadline, "{text:?} is not in the log:\n{}", self.log());
            thread::sleep(POLL);
        }
    }

    /// Writes a new configuration (the addresses stay) and asks the router to read it.
    pub fn reload(&self, config: &str) {
        fs::write(&self.config, with_addresses(config, self.port, self.http_port)).unwrap();
        self.signal("HUP");
    }

    /// Sends a signal by its name: `TERM` drains, `KILL` is a crash, `STOP` and `CONT` freeze and wake.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(status.success(), "kill -s {name} failed");
    }

    /// Waits until the router has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Runs SQL through the router by `psql`: rows with fields separated by `|`, or psql's error text.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut command = Command::new("psql");
        command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &self.url(database), "-c", sql]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned());
        }
        Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
    }
}

impl Drop for Sluice {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_file(&self.config).ok();
        if thread::panicking() {
            eprintln!("--- the router's log ---\n{}", self.log());
        }
    }
}

fn collect(mut from: impl Read + Send + 'static, into: Arc<Mutex<Vec<u8>>>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut chunk) {
            into.lock().unwrap().extend_from_slice(&chunk[..count]);
        }
    })
}

fn with_addresses(config: &str, port: u16, http_port: u16) -> String {
    let addresses = format!("[listen]\naddress = \"127.0.0.1:{port}\"\nhttp = \"127.0.0.1:{http_port}\"\n");
    let mut text = match config.split_once("[listen]\n") {
        Some((before, after)) => format!("{before}{addresses}{after}"),
        None => format!("{addresses}\n{config}"),
    };
    if !config.contains("[auth]") {
        text.push_str("\n[auth]\nmethod = \"trust\"\n");
    }
    text
}
