//! One PostgreSQL server of the cluster.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::binaries::Binaries;
use super::system::{Folder, children, signal};
use super::{Error, Result, system};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// One running (or stopped) PostgreSQL. All methods may be called from any thread.
#[derive(Debug)]
pub struct Instance {
    name: String,
    folder: Folder,
    binaries: Binaries,
    port: u16,
    process: Mutex<Option<Child>>,
}

/// How a server is asked to end.
#[derive(Clone, Copy, Debug)]
enum Stop {
    /// Sessions are ended, a checkpoint is written.
    Fast,
    /// As after a crash, but the shared memory is given back.
    Immediate,
}

impl Instance {
    /// A stopped instance with the data in `folder/name`.
    pub(super) fn new(name: String, folder: Folder, binaries: Binaries, port: u16) -> Self {
        Self { name, folder, binaries, port, process: Mutex::new(None) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    pub(super) fn set_port(&mut self, port: u16) {
        self.port = port;
    }

    /// Where the data is; `log()` tells what the server wrote.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path.join(&self.name)
    }

    /// The folder of its unix socket.
    pub fn socket_dir(&self) -> PathBuf {
        self.folder.path.clone()
    }

    /// As the application's user `app`, over TCP.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://app:app@127.0.0.1:{}/{database}", self.port)
    }

    /// As the superuser `postgres`, over TCP.
    pub fn superuser_url(&self, database: &str) -> String {
        format!("postgres://postgres:postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path.join(format!("{}.log", self.name))
    }

    /// Runs SQL as the superuser in database `app`; see `psql_in`.
    pub fn psql(&self, sql: &str) -> Result<String> {
        self.psql_in("app", sql)
    }

    /// Runs SQL as the superuser over the unix socket and gives the rows, fields separated by `|`,
    /// without a line feed at the end. The first error ends it.
    pub fn psql_in(&self, database: &str, sql: &str) -> Result<String> {
        let mut command = self.psql_command(database);
        let text = system::run(command.args(["-c", sql]).stdin(Stdio::null()))?;
        Ok(text.trim_end_matches('\n').to_owned())
    }

    /// Runs a script, which may hold several statements and psql's own commands.
    pub fn psql_script(&self, database: &str, script: &str) -> Result<String> {
        let file = self.folder.path.join(format!("script-{:x}.sql", system::random()));
        fs::write(&file, script)?;
        let result = system::run(self.psql_command(database).arg("-f").arg(&file).stdin(Stdio::null()));
        fs::remove_file(&file)?;
        result
    }

    /// A program of this PostgreSQL, such as `psql` or `pgbench`, without arguments.
    pub fn client_program(&self, name: &str) -> Command {
        let mut command = self.binaries.command(name);
        for name in ["PGSERVICE", "PGOPTIONS", "PGSSLMODE", "PGHOSTADDR"] {
            command.env_remove(name);
        }
        command
    }

    fn psql_command(&self, database: &str) -> Command {
        let mut command = self.client_program("psql");
        command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database]);
        command.arg("-h").arg(&self.folder.path).args(["-p", &self.port.to_string()]);
        command
    }

    /// Starts the server and waits until it accepts connections.
    pub fn start(&self) -> Result<()> {
        let mut process = self.lock();
        if process.is_some() {
            return Err(Error::new(format!("{} runs already", self.name)));
        }
        let log = File::options().create(true).append(true).mode(0o644).open(self.log_path())?;
        let mut command = self.binaries.command("postgres");
        command.arg("-D").arg(self.data_dir()).args(["-p", &self.port.to_string()]);
        let mut child = self
            .folder
            .adopt(&mut command)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| Error::new(format!("{}: cannot start postgres: {error}", self.name)))?;
        let result = self.wait_until_ready(&mut child);
        if result.is_ok() {
            *process = Some(child);
        } else {
            end(&mut child, Stop::Immediate);
        }
        result
    }

    /// The last line of `postmaster.pid` tells the server's state, as `pg_ctl` reads it.
    fn wait_until_ready(&self, child: &mut Child) -> Result<()> {
        let file = self.data_dir().join("postmaster.pid");
        let deadline = Instant::now() + START_TIMEOUT;
        let own = child.id().to_string();
        loop {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let lines: Vec<&str> = text.lines().map(str::trim).collect();
            if lines.first() == Some(&own.as_str()) && lines.get(7) == Some(&"ready") {
                return Ok(());
            }
            if let Some(status) = child.try_wait()? {
                return Err(Error::new(format!("{}: postgres ended ({status}): {}", self.name, self.log_tail())));
            }
            if Instant::now() > deadline {
                return Err(Error::new(format!("{}: not ready in time: {}", self.name, self.log_tail())));
            }
            thread::sleep(POLL);
        }
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// Ends sessions, writes a checkpoint and stops.
    pub fn stop(&self) {
        if let Some(mut child) = self.lock().take() {
            end(&mut child, Stop::Fast);
        }
    }

    /// Ends without a checkpoint, as fast as it can: for what is thrown away.
    pub(super) fn stop_at_once(&self) {
        if let Some(mut child) = self.lock().take() {
            end(&mut child, Stop::Immediate);
        }
    }

    /// Kills all processes of the server with SIGKILL: a crash. `start` recovers it.
    pub fn kill(&self) {
        let Some(mut child) = self.lock().take() else { return };
        let shared_memory = self.shared_memory_id();
        let sessions = children(child.id());
        child.kill().ok();
        signal("KILL", &sessions);
        child.wait().ok();
        // Nobody else reads the id again, so the operating system's small table of segments would fill up.
        if let Some(id) = shared_memory {
            let mut command = Command::new("ipcrm");
            command.args(["-m", &id]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().ok();
        }
        fs::remove_file(self.data_dir().join("postmaster.pid")).ok();
    }

    /// Line 7 of `postmaster.pid` is the key and the id of the segment that guards the folder.
    fn shared_memory_id(&self) -> Option<String> {
        let text = fs::read_to_string(self.data_dir().join("postmaster.pid")).ok()?;
        Some(text.lines().nth(6)?.split_whitespace().nth(1)?.to_owned())
    }

    /// Freezes the server with all its sessions: connections stay open, nobody answers.
    pub fn pause(&self) {
        if let Some(child) = self.lock().as_ref() {
            signal("STOP", &[child.id()]);
            signal("STOP", &children(child.id()));
        }
    }

    /// Wakes what `pause` froze.
    pub fn resume(&self) {
        if let Some(child) = self.lock().as_ref() {
            signal("CONT", &children(child.id()));
            signal("CONT", &[child.id()]);
        }
    }

    /// Stops, when it runs, and starts on the same port.
    pub fn restart(&self) -> Result<()> {
        self.stop();
        self.start()
    }

    /// Makes a replica a primary and waits until it takes writes.
    pub fn promote(&self) -> Result<()> {
        self.psql_in("postgres", "SELECT pg_promote(true, 60)").map(drop)
    }

    pub fn is_running(&self) -> bool {
        matches!(self.lock().as_mut().map(Child::try_wait), Some(Ok(None)))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks, waits, and does not ask a second time.
fn end(child: &mut Child, how: Stop) {
    let sessions = children(child.id());
    signal(if matches!(how, Stop::Fast) { "INT" } else { "QUIT" }, &[child.id()]);
    // Someone may have frozen it.
    signal("CONT", &sessions);
    signal("CONT", &[child.id()]);
    let deadline = Instant::now() + STOP_TIMEOUT;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            child.kill().ok();
            signal("KILL", &sessions);
            child.wait().ok();
            return;
        }
        thread::sleep(POLL);
    }
}
