//! Drivers of other people: each does the same against PostgreSQL and through the router, and prints
//! what it sees; both must be the same. Once over one shard that is shared by transactions, once over
//! two shards with statements by key.
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

use std::process::Command;

use sides::{Part, Sides, check, installed, tool};

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

fn python(module: &str, file: &str) {
    let python = tool("python/bin/python");
    if !installed(Command::new(&python).args(["-c", &format!("import {module}")])) {
        return println!("skipped: no Python with {module}; `make drivers` installs it");
    }
    Sides::start().compare_commands(|url, part| {
        let mut command = Command::new(&python);
        command.arg(check(file)).args([url, part.name()]);
        command
    });
}

#[test]
fn node_postgres() {
    node("pg", "node_check.js");
}

#[test]
fn postgres_js() {
    node("postgres", "postgres_js_check.js");
}

fn node(module: &str, file: &str) {
    let modules = tool("node/node_modules");
    if !installed(Command::new("node").args(["-e", &format!("require('{module}')")]).env("NODE_PATH", &modules)) {
        return println!("skipped: no Node.js with {module}; `make drivers` installs it");
    }
    Sides::start().compare_commands(|url, part| {
        let mut command = Command::new("node");
        command.arg(check(file)).args([url, part.name()]).env("NODE_PATH", &modules);
        command
    });
}

#[test]
fn jdbc() {
    let jar = tool("java/postgresql.jar");
    if !jar.exists() || !installed(Command::new("javac").arg("-version")) {
        return println!("skipped: no JDK or no JDBC driver; `make drivers` installs them");
    }
    Sides::start().compare_commands(|url, part| {
        let url = url.replace("postgres://app:app@", "jdbc:postgresql://");
        let mut command = Command::new("java");
        command.arg("-cp").arg(&jar).arg(check("JdbcCheck.java")).args([url.as_str(), part.name()]);
        command
    });
}

#[test]
fn tokio_postgres() {
    let sides = Sides::start();
    sides.compare(Part::Whole, |url| tokio_postgres_driver::transcript(url, Part::Whole));
    sides.compare(Part::Keyed, |url| tokio_postgres_driver::transcript(url, Part::Keyed));
}
