//! Throw-away PostgreSQL servers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// A running server in a temporary folder; gone when dropped.
pub struct Server {
    pub port: u16,
    folder: PathBuf,
}

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

impl Server {
    pub fn start(initdb: &[&str]) -> Self {
        let server = Self::folder();
        let data = server.data();
        let mut arguments = vec!["-D", &data, "-U", "postgres", "-A", "trust", "--no-sync", "--encoding=UTF8"];
        arguments.extend(initdb);
        run("initdb", &arguments);
        server.launch("max_prepared_transactions = 5\nfsync = off\nwal_level = replica\n");
        server
    }

    /// A streaming replica of `primary`.
    pub fn replica_of(primary: &Self) -> Self {
        let server = Self::folder();
        let port = primary.port.to_string();
        run(
            "pg_basebackup",
            &["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-D", &server.data(), "-R", "-c", "fast"],
        );
        server.launch("");
        server
    }

    pub fn config(&self, database: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host("127.0.0.1")
            .port(self.port)
            .user("postgres")
            .dbname(database)
            .connect_timeout(Duration::from_secs(5));
        config
    }

    pub fn stop(&self) {
        run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]);
    }

    fn folder() -> Self {
        let port = 21300 + (std::process::id() % 9) as u16 * 10 + NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("sluice-eyes-{port}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a temporary folder");
        run_as_is("chown", &["postgres", &folder.display().to_string()]);
        Self { port, folder }
    }

    fn data(&self) -> String {
        self.folder.join("data").display().to_string()
    }

    fn launch(&self, more: &str) {
        let settings = format!(
            "port = {}\nunix_socket_directories = '{}'\nlisten_addresses = '127.0.0.1'\n{more}",
            self.port,
            self.folder.display()
        );
        let file = Path::new(&self.data()).join("postgresql.auto.conf");
        let before = fs::read_to_string(&file).unwrap_or_default();
        fs::write(&file, before + &settings).expect("settings");
        let log = self.folder.join("log").display().to_string();
        run("pg_ctl", &["-D", &self.data(), "-l", &log, "-w", "start"]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = command("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]).output();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("runuser");
    command
        .args(["-u", "postgres", "--", &format!("/usr/lib/postgresql/15/bin/{program}")])
        .args(arguments)
        .current_dir("/");
    command
}

fn run(program: &str, arguments: &[&str]) {
    // No pipes: the server that pg_ctl starts would keep them open.
    let status =
        command(program, arguments).stdout(std::process::Stdio::null()).status().expect("PostgreSQL's programs");
    assert!(status.success(), "{program} {arguments:?}");
}

fn run_as_is(program: &str, arguments: &[&str]) {
    assert!(Command::new(program).args(arguments).status().expect("a program").success());
}
