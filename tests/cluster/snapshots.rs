//! What REPEATABLE READ refuses over several shards, by what a session has asked for.

use crate::support::running::{Running, databases};
use crate::support::wire::{Wire, message, parse, sync};

/// Over two shards, with a user on each.
fn users() -> (Running, [i64; 2]) {
    let router = Running::over(&databases("shards", 2));
    let mut wire = router.client();
    assert_eq!(wire.query("CREATE TABLE users (id bigint PRIMARY KEY, name text)").sqlstate(), "");
    let rows: String = (0..20).map(|id| format!("{id}\tname {id}\n")).collect();
    assert_eq!(wire.copy("COPY users FROM STDIN", rows.as_bytes()).sqlstate(), "");
    let shard_of =
        |wire: &mut Wire, id: i64| wire.text(&format!("SELECT current_database() FROM users WHERE id = {id}"));
    let first = shard_of(&mut wire, 0);
    let other = (1..20).find(|id| shard_of(&mut wire, *id) != first).unwrap();
    (router, [0, other])
}

fn one(id: i64) -> String {
    format!("SELECT name FROM users WHERE id = {id}")
}

const ALL: &str = "SELECT count(*) FROM users";

#[test]
fn a_transaction_that_begins_on_one_shard_stays_there() {
    let (router, [a, b]) = users();
    let mut wire = router.client();
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        for second in [&one(b), ALL] {
            wire.query(&format!("BEGIN ISOLATION LEVEL {level}"));
            assert_eq!(wire.query(&one(a)).sqlstate(), "");
            let refused = wire.query(second);
            assert_eq!(refused.sqlstate(), "0A000");
            assert!(refused.error.unwrap().message().contains(level));
            wire.query("ROLLBACK");
        }
    }
    wire.query("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(wire.text(ALL), "20");
    assert_eq!(wire.query(&one(a)).sqlstate(), "");
    assert_eq!(wire.query(&one(b)).sqlstate(), "");
    wire.query("COMMIT");
    wire.query("BEGIN ISOLATION LEVEL SERIALIZABLE");
    assert_eq!(wire.query(ALL).sqlstate(), "0A000");
    wire.query("ROLLBACK");
}

#[test]
fn a_session_can_have_all_such_reads_refused_or_none() {
    let (router, [a, b]) = users();
    let mut wire = router.client();
    assert_eq!(wire.query("SET sluice.snapshots = 'one'").sqlstate(), "");
    wire.query("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(wire.query(ALL).sqlstate(), "0A000");
    wire.query("ROLLBACK");
    assert_eq!(wire.text(ALL), "20");
    assert_eq!(wire.query("SET sluice.snapshots = 'all'").sqlstate(), "");
    wire.query("BEGIN ISOLATION LEVEL REPEATABLE READ");
    for sql in [one(a), one(b), ALL.to_owned()] {
        assert_eq!(wire.query(&sql).sqlstate(), "", "{sql}");
    }
    wire.query("COMMIT");
    let wrong = wire.query("SET sluice.snapshots = 'any'");
    assert_eq!(wrong.sqlstate(), "22023");
}

/// Drivers describe a statement before they know its values; that decides nothing.
#[test]
fn a_statement_may_be_described_elsewhere_first() {
    let (router, [a, b]) = users();
    for id in [a, b] {
        let mut wire = router.client();
        wire.query("BEGIN ISOLATION LEVEL REPEATABLE READ");
        wire.send(&[parse("s", "SELECT name FROM users WHERE id = $1"), message(b'D', b"Ss\0"), sync()].concat());
        assert_eq!(wire.answer(b"").sqlstate(), "");
        assert_eq!(
            wire.execute("SELECT name FROM users WHERE id = $1", &[Some(&id.to_string())], false).text(),
            format!("name {id}")
        );
        assert_eq!(wire.query(&one(a + b - id)).sqlstate(), "0A000");
        wire.query("ROLLBACK");
    }
}
