//! PostgreSQL itself and the router in front of it, side by side.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Cluster, ClusterOptions, Sluice};

const CHECK_TIMEOUT: Duration = Duration::from_secs(240);
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Django's tables of one user's rows have ids of their own as primary keys, which are unique on one shard only.
const RULES: &str = r#"
sharding_key = "user_id"
tables.auth_user_groups.kind = "local"
tables.auth_user_user_permissions.kind = "local"
tables.django_admin_log.kind = "local"
tables.labels.kind = "reference"
tables.people.key = "id"
"#;
const KEYED_TABLES: &str = include_str!("keyed.sql");

/// What a check does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything, on one shard.
    Whole,
    /// Statements by key, on two shards.
    Keyed,
}

impl Part {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Keyed => "keyed",
        }
    }
}

pub(crate) struct Sides {
    cluster: Cluster,
    sluice: Sluice,
}

impl Sides {
    /// Two shards; database `app` is on the first, `keyed` on both, and `plain` is a PostgreSQL's own
    /// copy of `keyed`. Few servers are shared by many clients.
    pub(crate) fn start() -> Self {
        let databases = vec!["keyed".to_owned(), "plain".to_owned()];
        let cluster = Cluster::start(ClusterOptions { shards: 2, databases, ..Default::default() }).unwrap();
        for (shard, database) in [(0, "keyed"), (1, "keyed"), (0, "plain")] {
            let script = format!("SET ROLE app;\n{KEYED_TABLES}");
            cluster.primary(shard).psql_script(database, &script).unwrap();
        }
        let sluice = Sluice::start(&format!(
            "[listen]\nworkers = 2\n[pool]\nsize = 3\n{}\n{}",
            one_shard(&cluster),
            cluster.database_config("keyed", RULES)
        ));
        wait_for(|| sluice.psql("keyed", "SELECT FROM by_int WHERE user_id = 1"));
        Self { cluster, sluice }
    }

    pub(crate) fn direct(&self, part: Part) -> String {
        match part {
            Part::Whole => self.cluster.primary(0).url("app"),
            Part::Keyed => self.cluster.primary(0).url("plain"),
        }
    }

    pub(crate) fn routed(&self, part: Part) -> String {
        match part {
            Part::Whole => self.sluice.url("app"),
            Part::Keyed => self.sluice.url("keyed"),
        }
    }

    /// Runs a program for both parts on both sides.
    pub(crate) fn compare_commands(&self, command: impl Fn(&str, Part) -> Command) {
        for part in [Part::Whole, Part::Keyed] {
            self.compare(part, |url| transcript(&mut command(url, part)));
        }
    }

    /// Fails when what `run` prints differs between the two sides.
    pub(crate) fn compare(&self, part: Part, run: impl Fn(&str) -> String) {
        let direct = run(&self.direct(part));
        self.forget();
        let routed = run(&self.routed(part));
        assert!(!direct.contains("  broke: "), "the check itself is broken:\n{direct}");
        assert!(direct == routed, "{} differs through the router:\n{}", part.name(), difference(&direct, &routed));
        assert!(!direct.is_empty());
    }

    /// Both sides find the same empty database.
    fn forget(&self) {
        let script = "DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION app";
        self.cluster.primary(0).psql_in("app", script).unwrap();
    }
}

/// Tries until it works: the router gets to know the tables a moment after its start.
pub(crate) fn wait_for<T>(mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) => assert!(Instant::now() < deadline, "it never worked: {error}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn one_shard(cluster: &Cluster) -> String {
    let url = cluster.primary(0).url("app");
    format!("[[database]]\nname = \"app\"\n[[database.shard]]\nprimary = \"{url}\"\n")
}

/// The lines around the first one that differs.
fn difference(direct: &str, routed: &str) -> String {
    let (direct, routed): (Vec<&str>, Vec<&str>) = (direct.lines().collect(), routed.lines().collect());
    let same = direct.iter().zip(&routed).take_while(|(a, b)| a == b).count();
    let section = direct[..same].iter().rfind(|line| !line.starts_with(' ')).unwrap_or(&"");
    let part = |lines: &[&str], mark: &str| -> String {
        lines.iter().skip(same).take(5).map(|line| format!("{mark} {line:.400}\n")).collect()
    };
    format!("in {section}\n{}{}", part(&direct, "-"), part(&routed, "+"))
}

/// What a program prints, errors included.
pub(crate) fn transcript(command: &mut Command) -> String {
    let path = std::env::temp_dir().join(format!("sluice-check-{:?}-{}", thread::current().id(), std::process::id()));
    let file = File::create(&path).unwrap();
    command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + CHECK_TIMEOUT;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        thread::sleep(Duration::from_millis(10));
    };
    let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
    fs::remove_file(&path).unwrap();
    match status {
        Some(status) if status.success() => text,
        Some(status) => panic!("{command:?} failed ({status}):\n{text}"),
        None => panic!("{command:?} does not end:\n{text}"),
    }
}

/// A file that `make drivers` has prepared.
pub(crate) fn tool(path: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    Path::new(env!("CARGO_MANIFEST_DIR")).join(target).join("drivers").join(path)
}

pub(crate) fn check(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/drivers").join(file)
}

pub(crate) fn installed(probe: &mut Command) -> bool {
    let status = probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
