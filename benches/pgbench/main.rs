//! The router beside PostgreSQL itself and PgBouncer, under pgbench: transactions per second, latency,
//! and the CPU time that the pooler spends on one transaction, which is what a pooler costs.
//!
//! `cargo bench --bench pgbench` compares; `-- soak` runs TPC-B over two shards for a minute (`SECONDS`).
//! With `STRACE=1` the system calls are counted too. PgBouncer takes part when it is installed.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use pgsluice::demo::{Cluster, ClusterOptions, free_port};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const CLIENTS: &str = "20";
const SERVERS: u32 = 10;
const IDLE_CLIENTS: usize = 5000;
const BRANCHES: u32 = 16;
const ACCOUNTS: u32 = 1000;

fn main() {
    if env::args().any(|argument| argument == "soak") {
        return soak();
    }
    let cluster = cluster();
    for shard in 0..2 {
        fill(&cluster, shard);
    }
    let contestants = contestants(&cluster);
    for mode in ["simple", "extended", "prepared"] {
        compare(&contestants, mode);
    }
    idle_clients(&contestants);
}

fn seconds(default: u64) -> u64 {
    env::var("SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn cluster() -> Cluster {
    let settings = [("max_connections", "200"), ("shared_buffers", "128MB")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    Cluster::start(ClusterOptions { shards: 2, databases: vec!["keyed".into()], settings, ..Default::default() })
        .unwrap()
}

/// Accounts of pgbench: all on the first shard's `app`; in `keyed`, on every shard those that live there
/// and also the others, which nobody asks for.
fn fill(cluster: &Cluster, shard: usize) {
    let databases: &[&str] = if shard == 0 { &["app", "keyed"] } else { &["keyed"] };
    for database in databases {
        let url = cluster.primary(shard).url(database);
        let output = Command::new("pgbench").args(["-i", "-q", "-s", "1", &url]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Something that pgbench can talk to.
struct Contestant {
    name: &'static str,
    url: String,
    modes: &'static [&'static str],
    pooler: Option<Process>,
}

/// A pooler that ends with the benchmark.
struct Process {
    child: Child,
    files: Vec<PathBuf>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        for file in &self.files {
            fs::remove_file(file).ok();
        }
    }
}

const ALL_MODES: &[&str] = &["simple", "extended", "prepared"];

fn contestants(cluster: &Cluster) -> Vec<Contestant> {
    let url = |port: u16, database: &str| format!("postgres://app:app@127.0.0.1:{port}/{database}");
    let direct = url(cluster.primary(0).port(), "app");
    let mut all = vec![Contestant { name: "PostgreSQL", url: direct.clone(), modes: ALL_MODES, pooler: None }];
    let one = format!("[[database]]\nname = \"app\"\n[[database.shard]]\nprimary = \"{direct}\"\n");
    let (process, port) = start_sluice(&one);
    all.push(Contestant { name: "Sluice", url: url(port, "app"), modes: ALL_MODES, pooler: Some(process) });
    let two = cluster.database_config("keyed", "sharding_key = \"aid\"\ntables_default = \"local\"");
    let (process, port) = start_sluice(&two);
    all.push(Contestant { name: "Sluice, 2 shards", url: url(port, "keyed"), modes: ALL_MODES, pooler: Some(process) });
    // Before 1.21 it knows prepared statements in session mode only.
    for (name, mode, modes) in
        [("PgBouncer", "transaction", &ALL_MODES[..2]), ("PgBouncer, session mode", "session", &ALL_MODES[2..])]
    {
        match start_pgbouncer(cluster, mode) {
            Some((process, port)) => {
                all.push(Contestant { name, url: url(port, "app"), modes, pooler: Some(process) });
            }
            None => println!("{name} is left out: it is not installed"),
        }
    }
    all
}

fn start_sluice(database: &str) -> (Process, u16) {
    let port = free_port();
    let file = env::temp_dir().join(format!("sluice-bench-{port}.toml"));
    let workers = env::var("WORKERS").unwrap_or_else(|_| "1".to_owned());
    let text = format!(
        "[listen]\naddress = \"127.0.0.1:{port}\"\nworkers = {workers}\n[pool]\nsize = {SERVERS}\n[auth]\nmethod = \"trust\"\n{database}"
    );
    fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.args(["serve", "--config"]).arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
    (start(&mut command, port, vec![file]), port)
}

fn start_pgbouncer(cluster: &Cluster, mode: &str) -> Option<(Process, u16)> {
    let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/opt/homebrew/bin/pgbouncer"];
    let program = program.into_iter().find(|path| Path::new(path).exists())?;
    let port = free_port();
    let file = env::temp_dir().join(format!("pgbouncer-bench-{port}.ini"));
    let size = if mode == "session" { 100 } else { SERVERS };
    let text = format!(
        "[databases]\napp = host=127.0.0.1 port={} dbname=app user=app password=app\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\ndefault_pool_size = {size}\n\
         max_client_conn = 10000\nignore_startup_parameters = extra_float_digits\nlog_connections = 0\nlog_disconnections = 0\n",
        cluster.primary(0).port()
    );
    fs::write(&file, text).unwrap();
    let mut command = Command::new(program);
    command.arg("-q").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
    run_as_nobody(&mut command);
    Some((start(&mut command, port, vec![file]), port))
}

/// PgBouncer refuses to run as root.
fn run_as_nobody(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    let own = Command::new("id").arg("-u").output().unwrap();
    if own.stdout.trim_ascii() == b"0" {
        command.uid(65534).gid(65534);
    }
}

fn start(command: &mut Command, port: u16, files: Vec<PathBuf>) -> Process {
    let process = Process { child: command.stdin(Stdio::null()).spawn().unwrap(), files };
    let deadline = Instant::now() + START_TIMEOUT;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "{command:?} does not start");
        thread::sleep(Duration::from_millis(20));
    }
    process
}

/// What several runs of one contestant have given together.
#[derive(Clone, Default)]
struct Sum {
    transactions: f64,
    seconds: f64,
    latency: f64,
    cpu: f64,
    runs: f64,
}

/// All take turns, so that what else the machine does hits all alike.
fn compare(contestants: &[Contestant], mode: &str) {
    let taking_part: Vec<&Contestant> =
        contestants.iter().filter(|contestant| contestant.modes.contains(&mode)).collect();
    let mut sums = vec![Sum::default(); taking_part.len()];
    for round in 0..4 {
        for (contestant, sum) in taking_part.iter().zip(&mut sums) {
            let before = contestant.pooler.as_ref().map_or(0.0, cpu_seconds);
            let (transactions, latency) = pgbench(&contestant.url, mode);
            // The first round warms up.
            if round > 0 {
                sum.cpu += contestant.pooler.as_ref().map_or(0.0, cpu_seconds) - before;
                sum.transactions += transactions;
                sum.seconds += run_seconds() as f64;
                sum.latency += latency;
                sum.runs += 1.0;
            }
        }
    }
    println!("\npgbench -S, {mode} mode, {CLIENTS} clients, {SERVERS} servers, one worker");
    println!("{:<26}{:>10}{:>14}{:>22}{:>14}", "", "tps", "latency ms", "pooler CPU us/tx", "system calls");
    let reference = taking_part.iter().zip(&sums).find(|(contestant, _)| contestant.name.starts_with("PgBouncer"));
    let reference = reference.map(|(_, sum)| sum.cpu / sum.transactions);
    for (contestant, sum) in taking_part.iter().zip(&sums) {
        let cpu = 1e6 * sum.cpu / sum.transactions;
        let ratio = match reference {
            Some(reference) if cpu > 0.0 => format!("{cpu:.1} ({:.2}x)", reference * 1e6 / cpu),
            _ => format!("{cpu:.1}"),
        };
        let calls = system_calls(contestant, mode).map_or(String::new(), |calls| format!("{calls:.2}"));
        let (tps, latency) = (sum.transactions / sum.seconds, sum.latency / sum.runs);
        println!("{:<26}{tps:>10.0}{latency:>14.3}{ratio:>22}{calls:>14}", contestant.name);
    }
}

fn run_seconds() -> u64 {
    seconds(3)
}

/// Transactions and average latency.
fn pgbench(url: &str, mode: &str) -> (f64, f64) {
    let seconds = run_seconds().to_string();
    let text =
        output(Command::new("pgbench").args(["-n", "-S", "-c", CLIENTS, "-j", "2", "-T", &seconds, "-M", mode, url]));
    let number = |start: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(start)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    (number("number of transactions actually processed: "), number("latency average = "))
}

fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// User and system time of a process so far, its threads included.
fn cpu_seconds(process: &Process) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.child.id())).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// System calls for one transaction, when `STRACE` is set and strace is there.
fn system_calls(contestant: &Contestant, mode: &str) -> Option<f64> {
    env::var_os("STRACE")?;
    let process = contestant.pooler.as_ref()?;
    let file = env::temp_dir().join(format!("sluice-bench-strace-{}", process.child.id()));
    let pid = process.child.id().to_string();
    let mut strace = Command::new("strace");
    strace.args(["-c", "-f", "-p", &pid, "-o"]).arg(&file).stderr(Stdio::null());
    let mut strace = strace.spawn().ok()?;
    thread::sleep(Duration::from_millis(300));
    let (transactions, _) = pgbench(&contestant.url, mode);
    Command::new("kill").args(["-s", "INT", &strace.id().to_string()]).status().ok()?;
    strace.wait().ok()?;
    let text = fs::read_to_string(&file).ok()?;
    fs::remove_file(&file).ok();
    let calls: BTreeMap<&str, f64> = text.lines().filter_map(summary_line).collect();
    if env::var("STRACE").is_ok_and(|value| value == "2") {
        println!("{}: {calls:?}", contestant.name);
    }
    Some(calls.values().sum::<f64>() / transactions)
}

/// `% time  seconds  usecs/call  calls  [errors]  name`
fn summary_line(line: &str) -> Option<(&str, f64)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let name = *words.last()?;
    let calls = words.get(3)?.parse().ok()?;
    (words[0].parse::<f64>().is_ok() && name != "total").then_some((name, calls))
}

/// Memory that clients cost who do nothing.
fn idle_clients(contestants: &[Contestant]) {
    println!("\n{IDLE_CLIENTS} idle clients");
    for contestant in contestants {
        let Some(process) = &contestant.pooler else { continue };
        if contestant.name.contains("session") {
            continue;
        }
        let before = resident_bytes(process);
        let clients: Vec<TcpStream> = (0..IDLE_CLIENTS).map_while(|_| log_in(&contestant.url)).collect();
        if clients.len() < IDLE_CLIENTS {
            println!("{:<26}only {} clients came in; is `ulimit -n` high enough?", contestant.name, clients.len());
            continue;
        }
        let bytes = resident_bytes(process) - before;
        println!("{:<26}{:>10.0} bytes per client", contestant.name, bytes / IDLE_CLIENTS as f64);
    }
}

/// A client that has logged in, asked one question and waits.
fn log_in(url: &str) -> Option<TcpStream> {
    use std::io::{Read, Write};
    let (address, database) = url.rsplit_once('@')?.1.split_once('/')?;
    let mut stream = TcpStream::connect(address).ok()?;
    let mut startup = 196_608_u32.to_be_bytes().to_vec();
    startup.extend(format!("user\0app\0database\0{database}\0\0").bytes());
    let mut message = (u32::try_from(startup.len()).ok()? + 4).to_be_bytes().to_vec();
    message.extend(startup);
    stream.write_all(&message).ok()?;
    let mut read = Vec::new();
    let mut chunk = [0; 1024];
    // ReadyForQuery ends the greeting.
    while !read.ends_with(b"Z\0\0\0\x05I") {
        let n = stream.read(&mut chunk).ok().filter(|n| *n > 0)?;
        read.extend_from_slice(&chunk[..n]);
    }
    Some(stream)
}

fn resident_bytes(process: &Process) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0
}

/// TPC-B with 64 clients over two shards: no error, nothing lost.
fn soak() {
    let cluster = cluster();
    let schema = include_str!("tpcb_one_shard_schema.sql");
    for shard in 0..2 {
        cluster.primary(shard).psql_script("app", &format!("SET ROLE app;\n{schema}")).unwrap();
    }
    let (_process, port) = start_sluice(&cluster.database_config("app", "sharding_key = \"bid\""));
    let url = format!("postgres://app:app@127.0.0.1:{port}/app");
    let deadline = Instant::now() + START_TIMEOUT;
    let known = || {
        Command::new("psql").args(["-X", "-q", "-d", &url, "-c", "SELECT FROM pgbench_branches WHERE bid = 1"]).output()
    };
    while !known().unwrap().status.success() {
        assert!(Instant::now() < deadline, "the tables never became known");
        thread::sleep(Duration::from_millis(50));
    }
    for bid in 1..=BRANCHES {
        let rows = |count: u32| (1..=count).map(|n| format!("({bid}, {n}, 0)")).collect::<Vec<_>>().join(", ");
        let text = format!(
            "INSERT INTO pgbench_branches VALUES ({bid}, 0); INSERT INTO pgbench_tellers VALUES {};
             INSERT INTO pgbench_accounts VALUES {}",
            rows(10),
            rows(ACCOUNTS)
        );
        output(Command::new("psql").args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &url, "-c", &text]));
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/pgbench/tpcb_one_shard.sql");
    let each = (seconds(60) / 3).max(1).to_string();
    for mode in ALL_MODES {
        let mut pgbench = Command::new("pgbench");
        pgbench.args(["-n", "-c", "64", "-j", "2", "-T", &each, "-P", "5", "-M", mode, "-f", script]);
        let text = output(pgbench.args([format!("-Dscale={BRANCHES}"), format!("-Daccounts={ACCOUNTS}"), url.clone()]));
        assert!(text.contains("number of failed transactions: 0 "), "{mode}: {text}");
        println!("{mode}: {}", text.lines().rfind(|line| line.starts_with("tps")).unwrap_or_default());
    }
    let sums = "SELECT sum(abalance) FROM pgbench_accounts UNION ALL SELECT sum(tbalance) FROM pgbench_tellers
                UNION ALL SELECT sum(bbalance) FROM pgbench_branches UNION ALL SELECT sum(delta) FROM pgbench_history";
    for shard in 0..2 {
        let found = cluster.primary(shard).psql(sums).unwrap();
        let sums: Vec<&str> = found.lines().collect();
        assert!(sums.windows(2).all(|pair| pair[0] == pair[1]), "money is lost on shard {shard}: {sums:?}");
    }
    println!("nothing is lost");
}
