//! Where PostgreSQL's programs are on this machine.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Error, Result};

/// A folder that holds one version's programs.
#[derive(Clone, Debug)]
pub(super) struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// `PG_BIN`, else the servers on `PATH`, else the newest of the places where packages put them.
    pub(super) fn find() -> Result<Self> {
        if let Some(folder) = env::var_os("PG_BIN") {
            let folder = PathBuf::from(folder);
            if !is_complete(&folder) {
                return Err(Error::new(format!("PG_BIN={}: no initdb, postgres and psql there", folder.display())));
            }
            return Ok(Self { folder });
        }
        let folder = on_path().or_else(packaged).ok_or_else(|| {
            Error::new(
                "no PostgreSQL server programs found: install PostgreSQL 15 or newer (make setup), or set PG_BIN",
            )
        })?;
        Ok(Self { folder })
    }

    pub(super) fn command(&self, program: &str) -> Command {
        Command::new(self.folder.join(program))
    }
}

fn is_complete(folder: &Path) -> bool {
    ["initdb", "postgres", "psql"].iter().all(|program| folder.join(program).is_file())
}

/// Links are followed: Debian's `PATH` has links and wrappers, the programs sit together elsewhere.
fn on_path() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .filter_map(|folder| folder.join("postgres").canonicalize().ok())
        .filter_map(|program| program.parent().map(Path::to_path_buf))
        .find(|folder| is_complete(folder))
}

fn packaged() -> Option<PathBuf> {
    // Debian, RPM, Homebrew on ARM and Intel, Postgres.app, built from source.
    let mut found: Vec<PathBuf> = [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/opt/homebrew/opt", "postgresql", "bin"),
        ("/usr/local/opt", "postgresql", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
        ("/usr/local", "pgsql", "bin"),
    ]
    .iter()
    .flat_map(|(parent, prefix, below)| children(Path::new(parent), prefix, below))
    .filter(|folder| is_complete(folder))
    .collect();
    found.sort_by_key(|folder| version_of(folder));
    found.pop()
}

fn children(parent: &Path, prefix: &str, below: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    entries
        .filter_map(std::result::Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path().join(below))
        .collect()
}

/// The last number in the path: `/usr/lib/postgresql/15/bin` -> 15.
fn version_of(folder: &Path) -> u32 {
    let text = folder.to_string_lossy();
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).next_back().unwrap_or(0)
}
