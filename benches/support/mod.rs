//! What several benchmarks share: the router as a process, its costs, times of rounds.

use std::fmt::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use pgsluice::demo::{Cluster, free_port};

/// Milliseconds of several rounds.
#[derive(Default)]
pub struct Times(Vec<f64>);

impl Times {
    pub fn add<T>(&mut self, work: impl FnOnce() -> T) {
        let started = Instant::now();
        work();
        self.0.push(started.elapsed().as_secs_f64() * 1000.0);
    }

    pub fn best(&self) -> f64 {
        self.0.iter().copied().fold(f64::MAX, f64::min)
    }

    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }
}

/// A router as a process that ends with the benchmark.
pub struct Router {
    pub name: &'static str,
    child: Child,
    pub port: u16,
    config: PathBuf,
}

impl Router {
    pub fn start(name: &'static str, program: &str, databases: &str) -> Self {
        let port = free_port();
        let config = env::temp_dir().join(format!("sluice-bench-{port}.toml"));
        let text = format!(
            "[listen]\naddress = \"127.0.0.1:{port}\"\nworkers = 1\n[auth]\nmethod = \"trust\"\n\
             [limits]\nfinal_query_bytes_max = \"512MB\"\n{databases}"
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(program);
        command.args(["serve", "--config"]).arg(&config);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "the router does not start");
            thread::sleep(Duration::from_millis(20));
        }
        Self { name, child, port, config }
    }

    /// Seconds of CPU that all threads have used; Linux tells them in nanoseconds.
    pub fn cpu(&self) -> f64 {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.child.id())) else { return 0.0 };
        let times = tasks.filter_map(|task| {
            let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<f64>().ok()
        });
        times.sum::<f64>() / 1e9
    }

    /// Resident megabytes before `work` and the most while it runs.
    pub fn memory_while(&self, work: impl FnOnce()) -> (f64, f64) {
        let before = self.resident();
        let done = AtomicBool::new(false);
        let most = thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut most = before;
                while !done.load(Ordering::Relaxed) {
                    most = most.max(self.resident());
                    thread::sleep(Duration::from_millis(5));
                }
                most.max(self.resident())
            });
            work();
            done.store(true, Ordering::Relaxed);
            watcher.join().unwrap()
        });
        (before, most)
    }

    fn resident(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        fs::remove_file(&self.config).ok();
    }
}

pub fn number(name: &str, default: usize) -> usize {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

pub fn as_f64(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The configuration of a database on the first `shards` shards.
pub fn database(cluster: &Cluster, name: &str, shards: usize, rules: &str) -> String {
    let mut text = format!("[[database]]\nname = \"{name}\"\n{rules}\n");
    for shard in 0..shards {
        let url = cluster.primary(shard).url(name);
        writeln!(text, "[[database.shard]]\nname = \"s{shard}\"\nprimary = \"{url}\"").unwrap();
    }
    text
}
