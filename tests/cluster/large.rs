//! Reads whose rows are too many for the memory they may have: they go on in the next way, and leave nothing behind.

use crate::support::running::{RULES, Running, database_config, databases, shared, superuser};
use crate::support::wire::Wire;

const ROWS: usize = 3000;

/// A router over two shards with some bounds, and a table with rows on both.
fn router(limits: &str) -> (Running, Vec<String>) {
    let shards = databases("shards", 2);
    let router = Running::start(&format!("[limits]\n{limits}{}", database_config(shared(), &shards, RULES)));
    router.wait_until_ready();
    let mut wire = router.client();
    assert_eq!(wire.query("CREATE TABLE notes (user_id bigint, v int, w text)").sqlstate(), "");
    assert_eq!(wire.query("CREATE TABLE plans (id int PRIMARY KEY, name text)").sqlstate(), "");
    let rows: String = (0..ROWS).map(|row| format!("{row}\t{}\t{}\n", row % 1000, "w".repeat(50))).collect();
    assert_eq!(wire.copy("COPY notes FROM STDIN", rows.as_bytes()).sqlstate(), "");
    assert_eq!(wire.copy("COPY plans FROM STDIN", b"1\tone\n2\ttwo\n").sqlstate(), "");
    (router, shards)
}

/// Notes are joined by what is no key; every `v` occurs three times.
const JOIN: &str = "SELECT count(*), sum(length(a.w)) FROM notes a JOIN notes b ON b.v = a.v";
const JOINED: &str = "9000|450000";

/// Temporary tables that any server of the shards has.
fn temporary_tables(shards: &[String]) -> usize {
    let count = "SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND relname LIKE 'sluice%' AND relkind = 'r'";
    shards.iter().map(|shard| superuser(shared(), shard).text(count).parse::<usize>().unwrap()).sum()
}

#[test]
fn inputs_too_large_for_arrays_go_through_tables() {
    let (router, shards) = router("final_query_array_bytes_max = \"32KB\"\n");
    let mut wire = router.client();
    for _ in 0..3 {
        assert_eq!(wire.text(JOIN), JOINED);
        assert_eq!(wire.execute(JOIN, &[], false).text(), JOINED);
    }
    assert_eq!(temporary_tables(&shards), 0);
    // In a block they see what it has written, and the block goes on.
    assert_eq!(wire.query("BEGIN").sqlstate(), "");
    assert_eq!(wire.query("INSERT INTO notes VALUES (1, 7, 'x')").sqlstate(), "");
    assert_eq!(wire.text(JOIN), "9007|450154");
    assert_eq!(temporary_tables(&shards), 0);
    let portion =
        wire.query("DECLARE c CURSOR FOR SELECT a.v FROM notes a JOIN notes b ON b.v = a.v ORDER BY 1; FETCH 2 FROM c");
    assert_eq!(portion.sqlstate(), "");
    assert_eq!(wire.text("MOVE ALL FROM c; SELECT count(*) FROM notes"), "3001");
    assert_eq!(wire.query("ROLLBACK").sqlstate(), "");
    assert_eq!(temporary_tables(&shards), 0);
    assert_eq!(wire.text(JOIN), JOINED);
    // What nobody may write in has no tables.
    assert_eq!(wire.query("BEGIN READ ONLY").sqlstate(), "");
    let refused = wire.query(JOIN);
    assert_eq!(refused.sqlstate(), "54000");
    assert!(refused.error.unwrap().message().contains("final_query_array_bytes_max (32kB)"));
    assert_eq!(wire.query("ROLLBACK").sqlstate(), "");
    assert_eq!(wire.query("SET default_transaction_read_only = on").sqlstate(), "");
    assert_eq!(wire.query(JOIN).sqlstate(), "54000");
    assert_eq!(wire.query("RESET default_transaction_read_only").sqlstate(), "");
    assert_eq!(wire.text(JOIN), JOINED);
}

#[test]
fn a_block_that_writes_on_two_shards_may_have_tables() {
    let (router, shards) = router("final_query_array_bytes_max = \"32KB\"\n");
    let mut wire = router.client();
    assert_eq!(wire.query("BEGIN").sqlstate(), "");
    let rows: String = (0..10).map(|user| format!("{user}\t5000\tx\n")).collect();
    assert_eq!(wire.copy("COPY notes FROM STDIN", rows.as_bytes()).sqlstate(), "");
    assert_eq!(wire.text(JOIN), "9100|450100");
    assert_eq!(wire.query("COMMIT").sqlstate(), "");
    assert_eq!(wire.text("SELECT count(*) FROM notes WHERE v = 5000"), "10");
    assert_eq!(temporary_tables(&shards), 0);
}

/// Shards that have not sent all their rows are not told to stop: that would be the end of the transaction.
#[test]
fn a_block_survives_that_a_statement_goes_on_in_another_way() {
    let (router, _) = router("final_query_array_bytes_max = \"32KB\"\nmerge_buffer_max = \"32KB\"\n");
    let mut wire = router.client();
    let rows: String = (0..4000).map(|row| format!("{row}\t{}\t{}\n", 10_000 + row, "w".repeat(4000))).collect();
    assert_eq!(wire.copy("COPY notes FROM STDIN", rows.as_bytes()).sqlstate(), "");
    for _ in 0..3 {
        let mut wire = router.client();
        assert_eq!(wire.query("BEGIN").sqlstate(), "");
        assert_eq!(wire.query("SELECT DISTINCT v, w FROM notes").text().lines().count(), 5000);
        assert_eq!(wire.query("SELECT w, count(*) + 1 FROM notes GROUP BY w || v, w").results[0].tag, "SELECT 5000");
        assert_eq!(wire.text("SELECT count(DISTINCT a.w || b.v) FROM notes a JOIN notes b ON b.v = a.v"), "5000");
        assert_eq!(wire.text("SELECT count(*) FROM notes"), "7000");
        assert_eq!(wire.query("COMMIT").results[0].tag, "COMMIT");
        assert_eq!(wire.query("ALTER TABLE notes SET (fillfactor = 90)").sqlstate(), "");
    }
}

#[test]
fn failures_take_the_tables_with_them() {
    let (router, shards) = router("final_query_array_bytes_max = \"32KB\"\n");
    let mut wire = router.client();
    let division = "SELECT sum(1 / (a.v - b.v)) FROM notes a JOIN notes b ON b.v = a.v";
    for _ in 0..2 {
        assert_eq!(wire.query(division).sqlstate(), "22012");
        assert_eq!(wire.execute(division, &[], false).sqlstate(), "22012");
    }
    assert_eq!(
        wire.query("SELECT a.v FROM notes a JOIN notes b ON b.v = a.v AND 1 / (a.v - 7) = 0").sqlstate(),
        "22012"
    );
    assert_eq!(temporary_tables(&shards), 0);
    assert_eq!(wire.text(JOIN), JOINED);
    assert_eq!(wire.query("BEGIN; SAVEPOINT s").sqlstate(), "");
    assert_eq!(wire.query(division).sqlstate(), "22012");
    assert_eq!(wire.query("ROLLBACK TO s").sqlstate(), "");
    assert_eq!(wire.text(JOIN), JOINED);
    assert_eq!(wire.query("COMMIT").sqlstate(), "");
    assert_eq!(wire.query("SET statement_timeout = '50ms'").sqlstate(), "");
    let slow = "SELECT count(pg_sleep(a.v)) FROM notes a JOIN notes b ON b.v = a.v";
    assert_eq!(wire.query(slow).sqlstate(), "57014");
    assert_eq!(wire.query("RESET statement_timeout").sqlstate(), "");
    assert_eq!(wire.text(JOIN), JOINED);
    assert_eq!(temporary_tables(&shards), 0);
}

#[test]
fn what_is_too_much_is_measured() {
    let (router, _) = router("final_query_array_bytes_max = \"32KB\"\nfinal_query_bytes_max = \"64KB\"\n");
    let mut wire = router.client();
    let refused = wire.query(JOIN);
    assert_eq!(refused.sqlstate(), "54000");
    let message = refused.error.unwrap().message().to_owned();
    assert!(message.contains("more than limits.final_query_bytes_max (64kB) allows"), "{message}");
    assert_eq!(wire.text("SELECT count(DISTINCT v) FROM notes WHERE user_id < 100"), "100");
}

#[test]
fn merges_beyond_their_memory_are_finished_by_postgresql() {
    let (router, _) = router("merge_buffer_max = \"16KB\"\n");
    let mut wire = router.client();
    let plan = wire.text("EXPLAIN SELECT v + 0, count(*) FROM notes GROUP BY v + 0");
    assert!(plan.contains("Aggregate"), "{plan}");
    let groups = |wire: &mut Wire, sql: &str| wire.query(sql).text().lines().count();
    assert_eq!(groups(&mut wire, "SELECT v + 0, count(*) FROM notes GROUP BY v + 0"), 1000);
    assert_eq!(groups(&mut wire, "SELECT DISTINCT v, w FROM notes"), 1000);
    assert_eq!(groups(&mut wire, "SELECT DISTINCT v FROM notes WHERE v < 10"), 10);
    assert_eq!(wire.query("SELECT DISTINCT v, w FROM notes").results[0].tag, "SELECT 1000");
}
