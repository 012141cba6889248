//! Drivers of other people: each does the same against PostgreSQL and through the router, and prints
//! what it sees; both must be the same. Once over one shard that is shared by transactions, once over
//! two shards with statements by key. What they and ORMs write, over two shards with tables of all kinds.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "drivers/dump.rs"]
mod dump;
#[path = "drivers/pgbench.rs"]
mod pgbench;
#[path = "drivers/psql.rs"]
mod psql;
#[path = "drivers/sides.rs"]
mod sides;
mod support;
#[path = "drivers/tokio_postgres.rs"]
mod tokio_postgres_driver;

use std::path::{Path, PathBuf};
use std::process::Command;

use sides::{Part, Sides, check, installed, tool, transcript};

#[test]
fn psycopg_3() {
    python("psycopg", "psycopg_check.py");
}

#[test]
fn psycopg_2() {
    python("psycopg2", "psycopg2_check.py");
}

#[test]
fn asyncpg() {
    python("asyncpg", "asyncpg_check.py");
}

#[test]
fn sqlalchemy() {
    python("sqlalchemy", "sqlalchemy_check.py");
}

#[test]
fn alembic() {
    python("alembic", "alembic_check.py");
}

#[test]
fn django() {
    python("django", "django_check.py");
}

#[test]
fn psycopg_3_writes() {
    python_writes("psycopg", "psycopg_writes.py");
}

#[test]
fn asyncpg_writes() {
    python_writes("asyncpg", "asyncpg_writes.py");
}

#[test]
fn sqlalchemy_writes() {
    python_writes("sqlalchemy", "sqlalchemy_writes.py");
}

#[test]
fn django_writes() {
    python_writes("django", "django_writes.py");
}

fn python(module: &str, file: &str) {
    let Some(python) = python_with(module) else { return };
    Sides::start().compare_commands(|url, part| {
        let mut command = Command::new(&python);
        command.arg(check(file)).args([url, part.name()]);
        command
    });
}

fn python_writes(module: &str, file: &str) {
    let Some(python) = python_with(module) else { return };
    Sides::start().compare(Part::Keyed, |url| transcript(Command::new(&python).arg(check(file)).arg(url)));
}

/// Nothing, and a line that says so, where the module is not installed.
fn python_with(module: &str) -> Option<PathBuf> {
    let python = tool("python/bin/python");
    let found = installed(Command::new(&python).args(["-c", &format!("import {module}")]));
    if !found {
        println!("skipped: no Python with {module}; `make drivers` installs it");
    }
    found.then_some(python)
}

#[test]
fn node_postgres() {
    node("pg", "node_check.js");
}

#[test]
fn postgres_js() {
    node("postgres", "postgres_js_check.js");
}

#[test]
fn node_postgres_writes() {
    let Some(modules) = node_with("pg") else { return };
    Sides::start().compare(Part::Keyed, |url| {
        transcript(Command::new("node").arg(check("node_writes.js")).arg(url).env("NODE_PATH", &modules))
    });
}

fn node(module: &str, file: &str) {
    let Some(modules) = node_with(module) else { return };
    Sides::start().compare_commands(|url, part| {
        let mut command = Command::new("node");
        command.arg(check(file)).args([url, part.name()]).env("NODE_PATH", &modules);
        command
    });
}

/// Nothing, and a line that says so, where the module is not installed.
fn node_with(module: &str) -> Option<PathBuf> {
    let modules = tool("node/node_modules");
    let probe = format!("require('{module}')");
    let found = installed(Command::new("node").args(["-e", &probe]).env("NODE_PATH", &modules));
    if !found {
        println!("skipped: no Node.js with {module}; `make drivers` installs it");
    }
    found.then_some(modules)
}

#[test]
fn jdbc() {
    let Some(jar) = jdbc_driver() else { return };
    Sides::start().compare_commands(|url, part| {
        let mut command = java(&jar, "JdbcCheck.java", url);
        command.arg(part.name());
        command
    });
}

#[test]
fn jdbc_writes() {
    let Some(jar) = jdbc_driver() else { return };
    Sides::start().compare(Part::Keyed, |url| transcript(java(&jar, "JdbcWrites.java", url).arg(check("writes.sql"))));
}

fn java(jar: &Path, file: &str, url: &str) -> Command {
    let mut command = Command::new("java");
    command.arg("-cp").arg(jar).arg(check(file)).arg(url.replace("postgres://app:app@", "jdbc:postgresql://"));
    command
}

/// Nothing, and a line that says so, where it is not installed.
fn jdbc_driver() -> Option<PathBuf> {
    let jar = tool("java/postgresql.jar");
    let found = jar.exists() && installed(Command::new("javac").arg("-version"));
    if !found {
        println!("skipped: no JDK or no JDBC driver; `make drivers` installs them");
    }
    found.then_some(jar)
}

#[test]
fn tokio_postgres() {
    let sides = Sides::start();
    sides.compare(Part::Whole, |url| tokio_postgres_driver::transcript(url, Part::Whole));
    sides.compare(Part::Keyed, |url| tokio_postgres_driver::transcript(url, Part::Keyed));
}
