//! A data folder with role and database `app`, ready to be copied.
//!
//! `initdb` takes most of the time that a small cluster needs. When `SLUICE_PG_TEMPLATES` names a
//! folder (cargo sets it in this repository), finished data folders are kept there, one per shard
//! number, since every shard must be a PostgreSQL with a system identifier of its own.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use super::binaries::Binaries;
use super::cluster::{ClusterOptions, TcpAuth, configure, start_on_free_port};
use super::instance::Instance;
use super::system::{Folder, random, run};
use super::{Error, Result};

/// Rises when what is in a template changes.
const FORMAT: u32 = 2;

/// Makes the data folder of a stopped instance.
pub(super) fn make(instance: &mut Instance, number: usize, folder: &Folder, options: &ClusterOptions) -> Result<()> {
    let binaries = instance.binaries().clone();
    let kept = kept_at(number, &binaries, options)?;
    if let Some(kept) = kept.as_ref().filter(|kept| kept.is_dir()) {
        return copy_in(kept, instance, folder);
    }
    let mut initdb = binaries.command("initdb");
    initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "-N"]);
    initdb.arg(format!("--locale={}", options.locale)).arg("-D").arg(instance.data_dir());
    run(folder.adopt(&mut initdb))?;
    // A data folder remembers what it ran with, and a replica must allow as much: others get it too.
    configure(instance, folder, &ClusterOptions { settings: Vec::new(), ..options.clone() })?;
    start_on_free_port(instance)?;
    instance.psql_in("postgres", "CREATE ROLE app LOGIN PASSWORD 'app'")?;
    instance.psql_in("postgres", "ALTER ROLE postgres PASSWORD 'postgres'")?;
    instance.psql_in("postgres", "CREATE DATABASE app OWNER app")?;
    instance.stop();
    match kept {
        Some(kept) => keep(&instance.data_dir(), &kept),
        None => Ok(()),
    }
}

fn kept_at(number: usize, binaries: &Binaries, options: &ClusterOptions) -> Result<Option<PathBuf>> {
    let Some(folder) = env::var_os("SLUICE_PG_TEMPLATES").filter(|folder| !folder.is_empty()) else { return Ok(None) };
    let version = run(binaries.command("postgres").arg("--version"))?;
    let passwords = if options.auth == TcpAuth::Md5 { "md5" } else { "scram" };
    let name = format!("{}-{}-{passwords}-{FORMAT}-{number}", version.trim(), options.locale);
    let name = name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '-', "_");
    Ok(Some(PathBuf::from(folder).join(name)))
}

/// Copies as this process, since the server's user may not reach the folder of templates.
fn copy_in(kept: &Path, instance: &Instance, folder: &Folder) -> Result<()> {
    let data = instance.data_dir();
    run(Command::new("cp").arg("-R").arg(kept).arg(&data))?;
    folder.give(&data)?;
    run(Command::new("chmod").arg("700").arg(&data)).map(drop)
}

/// Several processes may do this at once: the first to rename wins, the others' copies are dropped.
fn keep(data: &Path, kept: &Path) -> Result<()> {
    let parent = kept.parent().ok_or_else(|| Error::new("SLUICE_PG_TEMPLATES has no parent"))?;
    fs::create_dir_all(parent)?;
    let partial = parent.join(format!("partial-{}-{:x}", process::id(), random()));
    run(Command::new("cp").arg("-R").arg(data).arg(&partial))?;
    if fs::rename(&partial, kept).is_err() {
        fs::remove_dir_all(&partial)?;
    }
    Ok(())
}
