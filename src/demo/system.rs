//! What the cluster needs from the operating system: an unprivileged user, ports, signals.

use std::collections::hash_map::RandomState;
use std::env;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};

use super::{Error, Result};

/// Less free memory than this is left alone.
const MEMORY_MIN_KB: u64 = 4 * 1024 * 1024;

/// PostgreSQL refuses to run as root; then its programs run as this user.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unprivileged {
    uid: u32,
    gid: u32,
}

impl Unprivileged {
    /// None when this process is not root and needs nobody else.
    fn for_owner(uid: u32) -> Option<Self> {
        if uid != 0 {
            return None;
        }
        let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let find = |name: &str| {
            let line = accounts.lines().find(|line| line.split(':').next() == Some(name))?;
            let mut fields = line.split(':').skip(2);
            Some(Self { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
        };
        Some(find("postgres").or_else(|| find("nobody")).unwrap_or(Self { uid: 65534, gid: 65534 }))
    }
}

/// A folder of this process alone, and the user who owns it.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) user: Option<Unprivileged>,
}

impl Folder {
    pub(super) fn create() -> Result<Self> {
        let parent = parent_folder();
        let path = parent.join(format!("sluice-pg-{}-{:08x}", process::id(), random() & 0xffff_ffff));
        fs::create_dir(&path).map_err(|error| Error::new(format!("{}: {error}", path.display())))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        let user = Unprivileged::for_owner(fs::metadata(&path)?.uid());
        if let Some(user) = user {
            chown(&path, Some(user.uid), Some(user.gid))?;
        }
        Ok(Self { path, user })
    }

    /// Hands what this process has put into the folder to its owner.
    pub(super) fn give(&self, path: &Path) -> Result<()> {
        let Some(user) = self.user else { return Ok(()) };
        run(Command::new("chown").arg("-R").arg(format!("{}:{}", user.uid, user.gid)).arg(path)).map(drop)
    }

    /// Makes `command` run in this folder as its owner, apart from the terminal's signals.
    pub(super) fn adopt<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        if let Some(user) = self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command.current_dir(&self.path).env("HOME", &self.path).env_remove("PGDATA").env_remove("PGOPTIONS");
        command.process_group(0).stdin(Stdio::null())
    }
}

/// Where folders of clusters are made: `TMPDIR` if it is set, else memory if there is plenty (making
/// the thousand files of a PostgreSQL costs seconds on a busy disk), else `/tmp`.
fn parent_folder() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if env::var_os("TMPDIR").is_none() && free_kilobytes(memory) > MEMORY_MIN_KB {
        return memory.to_path_buf();
    }
    let folder = env::temp_dir();
    // The path of a unix socket has some hundred bytes; macOS' own folder leaves too few of them.
    if folder.as_os_str().len() > 48 { PathBuf::from("/tmp") } else { folder }
}

/// The fourth column of `df`; 0 when there is no such folder.
fn free_kilobytes(folder: &Path) -> u64 {
    let Ok(table) = run(Command::new("df").arg("-Pk").arg(folder)) else { return 0 };
    table.lines().nth(1).and_then(|line| line.split_whitespace().nth(3)?.parse().ok()).unwrap_or(0)
}

/// Runs a command to its end; its own words are the error.
pub(super) fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| Error::new(format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::new(format!(
        "{program}: {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end(),
        String::from_utf8_lossy(&output.stdout).trim_end()
    )))
}

pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A port nobody listens on now, below the range from which the kernel takes the ports of outgoing
/// connections. Another process may still be faster: whoever uses it tries again with another.
pub fn free_port() -> u16 {
    loop {
        let port = 15000 + u16::try_from(random() % 17000).unwrap_or(0);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Sends a signal by its name (`QUIT`, `STOP`); a process that is gone is no error.
pub(super) fn signal(name: &str, pids: &[u32]) {
    if pids.is_empty() {
        return;
    }
    let mut command = Command::new("sh");
    command.args(["-c", "signal=$1; shift; kill -s \"$signal\" \"$@\"", "sh", name]);
    command.args(pids.iter().map(u32::to_string));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().ok();
}

/// The processes that `pid` started and that still run.
pub(super) fn children(pid: u32) -> Vec<u32> {
    if Path::new("/proc/self/stat").exists() { children_in_proc(pid) } else { children_by_pgrep(pid) }
}

fn children_in_proc(parent: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(std::result::Result::ok)
        .filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok())
        .filter(|pid| parent_in_proc(*pid) == Some(parent))
        .collect()
}

/// `/proc/PID/stat` is `pid (name) state parent ...`, and a name may hold spaces and brackets.
fn parent_in_proc(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

fn children_by_pgrep(parent: u32) -> Vec<u32> {
    let output = Command::new("pgrep").args(["-P", &parent.to_string()]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().filter_map(|line| line.trim().parse().ok()).collect()
}
