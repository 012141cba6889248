//! DDL over several shards: the same on all of them, or on none.

use std::process::Command;

use crate::support::running::{RULES, Running, database_config, databases, shared, superuser, wait_for};
use crate::support::wire::Wire;

const HINT: &str = "IF NOT EXISTS";

fn over(shards: usize) -> (Running, Vec<String>) {
    let over = databases("ddl", shards);
    (Running::over(&over), over)
}

fn pg_dump(port: u16, database: &str, options: &[&str]) -> Result<String, String> {
    let url = format!("postgres://app:app@127.0.0.1:{port}/{database}");
    let output = Command::new("pg_dump").args(["--no-owner", "-d", &url]).args(options).output().unwrap();
    let lasting = |line: &&str| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict");
    let text = String::from_utf8(output.stdout).unwrap().lines().filter(lasting).collect::<Vec<_>>().join("\n");
    if output.status.success() { Ok(text) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn psql(port: u16, database: &str, script: &str) {
    let url = format!("postgres://app:app@127.0.0.1:{port}/{database}");
    let file = std::env::temp_dir().join(format!("sluice-ddl-{}-{port}.sql", std::process::id()));
    std::fs::write(&file, script).unwrap();
    let mut command = Command::new("psql");
    let output = command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &url, "-f"]).arg(&file).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A schema as of a service that sells something, and rows.
const SERVICE: &str = include_str!("service.sql");

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_dump_is_loaded_sharded_and_dumped_again() {
    let plain = databases("ddl_plain", 1).remove(0);
    psql(shared().port(), &plain, SERVICE);
    let dump = pg_dump(shared().port(), &plain, &[]).unwrap();
    for shards in [2, 3] {
        let (router, over) = over(shards);
        psql(router.port, "app", &dump);
        let schema = pg_dump(shared().port(), &plain, &["--schema-only"]).unwrap();
        let mut spread = 0;
        for shard in &over {
            assert_eq!(pg_dump(shared().port(), shard, &["--schema-only", "-N", "sluice"]).unwrap(), schema, "{shard}");
            let rows =
                superuser(shared(), shard).text("SELECT count(*) FROM billing.lines").trim().parse::<u32>().unwrap();
            assert!(rows > 0, "{shard} has no rows");
            spread += rows;
            assert_eq!(superuser(shared(), shard).text("SELECT count(*) FROM plans"), "5");
        }
        assert_eq!(spread, 400);
        // Without a snapshot of all shards there is no dump of one moment.
        let refused = pg_dump(router.port, "app", &[]).unwrap_err();
        assert!(refused.contains("sluice.snapshots = 'all'"), "{refused}");
        let url = format!("postgres://app:app@127.0.0.1:{}/app?options=-csluice.snapshots%3Dall", router.port);
        let output = Command::new("pg_dump").args(["--no-owner", "-N", "sluice", "-d", &url]).output().unwrap();
        let again = String::from_utf8(output.stdout).unwrap();
        let lasting: Vec<&str> = again.lines().filter(|line| !line.contains("restrict ")).collect();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(sorted(&lasting.join("\n")), sorted(&dump));
    }
}

#[test]
fn what_fails_on_one_shard_leaves_nothing_on_the_others() {
    let (router, over) = over(3);
    let mut client = router.client();
    assert_eq!(client.query("CREATE TABLE t (user_id bigint NOT NULL, a int)").tag(), "CREATE TABLE");
    // Only the last shard has something that is in the way.
    let mut last = superuser(shared(), &over[2]);
    last.query(
        "INSERT INTO t VALUES (1, 1), (1, 1); CREATE TYPE taken AS ENUM ('x'); CREATE VIEW v AS SELECT 1 AS one",
    );
    for (sql, sqlstate) in [
        ("ALTER TABLE t ADD PRIMARY KEY (user_id)", "23505"),
        ("CREATE UNIQUE INDEX i ON t (user_id, a)", "23505"),
        ("CREATE TYPE taken AS ENUM ('a')", "42710"),
        ("CREATE TABLE v (user_id bigint)", "42P07"),
        ("DO $$ BEGIN CREATE TABLE before (user_id bigint); CREATE TYPE taken AS ENUM ('a'); END $$", "42710"),
        ("CREATE SCHEMA s CREATE TABLE s.x (a int) CREATE VIEW s.y AS SELECT one FROM public.v", "42P01"),
    ] {
        let answer = client.query(sql);
        assert_eq!(answer.sqlstate(), sqlstate, "{sql}");
        client.query("BEGIN");
        client.query("CREATE TABLE fine (user_id bigint PRIMARY KEY)");
        assert_eq!(client.query(sql).sqlstate(), sqlstate, "{sql}");
        assert_eq!(client.query("COMMIT").tag(), "ROLLBACK");
        for shard in &over {
            let mut wire = superuser(shared(), shard);
            let left = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
                WHERE nspname IN ('public', 's') AND relname NOT IN ('t', 'v')";
            assert_eq!(wire.text(left), "0", "{sql} on {shard}");
            assert_eq!(wire.text("SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()"), "0");
        }
    }
}

#[test]
fn an_index_made_concurrently_is_finished_where_it_is_missing() {
    let (router, over) = over(3);
    let mut client = router.client();
    client.query("CREATE TABLE t (user_id bigint NOT NULL, a int)");
    let mut second = superuser(shared(), &over[1]);
    second.query("INSERT INTO t VALUES (1, 1), (1, 1)");
    let make = |options: &str| format!("CREATE UNIQUE INDEX CONCURRENTLY {options} i ON t (user_id, a)");
    let failed = client.query(&make(""));
    assert_eq!(failed.sqlstate(), "23505");
    let error = failed.error.unwrap();
    let detail = error.field(b'D');
    assert!(detail.contains("is duplicated"), "{detail}");
    let (first, others) = (&over[0], format!("{}, {}", over[1], over[2]));
    assert!(detail.contains(&format!("Done on shard {first}; not on shards {others}.")), "{detail}");
    assert!(error.field(b'H').contains(HINT));

    let again = client.query(&make(""));
    assert_eq!(again.sqlstate(), "42P07");
    let error = again.error.unwrap();
    let detail = error.field(b'D');
    assert!(detail.contains(&format!("whole on shard {first}; missing or invalid on shards {others}")), "{detail}");

    second.query("DELETE FROM t");
    assert_eq!(client.query(&make("IF NOT EXISTS")).tag(), "CREATE INDEX");
    for shard in &over {
        let valid = "SELECT string_agg(indisvalid::text, ',') FROM pg_index WHERE indrelid = 't'::regclass";
        assert_eq!(superuser(shared(), shard).text(valid), "true", "{shard}");
    }
    let there = client.query(&make("IF NOT EXISTS"));
    assert_eq!((there.tag(), there.notices.len()), ("CREATE INDEX", 1));
    assert_eq!(client.query(&make("")).sqlstate(), "42P07");
    let unique = client.query("CREATE UNIQUE INDEX CONCURRENTLY j ON t (a)");
    assert_eq!(unique.sqlstate(), "0A000");

    superuser(shared(), &over[2]).query("DROP INDEX i");
    let dropped = client.query("DROP INDEX CONCURRENTLY i");
    assert_eq!(dropped.sqlstate(), "42704");
    assert!(dropped.error.unwrap().field(b'D').contains("Done on shards"));
    assert_eq!(client.query("DROP INDEX CONCURRENTLY IF EXISTS i").tag(), "DROP INDEX");
}

#[test]
fn a_table_gets_another_name_once_the_configuration_knows_it() {
    let over = databases("ddl", 2);
    let rules = format!("{RULES}tables.people.key = \"id\"\n");
    let router = Running::start(&database_config(shared(), &over, &rules));
    router.wait_until_ready();
    let mut client = router.client();
    client.query("CREATE TABLE users (id bigint PRIMARY KEY, name text)");
    for id in 1..=8 {
        client.query(&format!("INSERT INTO users VALUES ({id}, 'x')"));
    }
    let refused = client.query("ALTER TABLE users RENAME TO persons");
    assert_eq!(refused.sqlstate(), "0A000");
    assert!(refused.error.unwrap().field(b'H').contains("tables.\"persons\""));
    assert_eq!(client.query("ALTER TABLE users RENAME TO people").tag(), "ALTER TABLE");
    assert_eq!(client.text("SELECT count(*) FROM people"), "8");
    assert_eq!(client.text("SELECT name FROM people WHERE id = 3"), "x");
}

/// Advisory locks of clients whose statements are on different shards conflict, and those of a dead client are free.
#[test]
fn advisory_locks_conflict_wherever_their_holders_work() {
    let (router, _) = over(3);
    let mut first = router.client();
    first.query("CREATE TABLE users (id bigint PRIMARY KEY, name text)");
    let (mut second, mut third) = (router.client(), router.client());
    for (client, id) in [(&mut first, 1), (&mut second, 2), (&mut third, 3)] {
        client.query("BEGIN");
        client.query(&format!("INSERT INTO users VALUES ({id}, 'x')"));
    }
    let take = |client: &mut Wire| client.text("SELECT pg_try_advisory_xact_lock(9)");
    assert_eq!((take(&mut first), take(&mut second), take(&mut third)), ("t".into(), "f".into(), "f".into()));
    assert_eq!(first.query("COMMIT").sqlstate(), "");
    assert_eq!((take(&mut second), take(&mut third)), ("t".into(), "f".into()));
    second.query("ROLLBACK");
    third.query("ROLLBACK");
    assert_eq!(second.text("SELECT pg_try_advisory_lock(10)"), "t");
    assert_eq!(third.text("SELECT pg_try_advisory_lock(10)"), "f");
    drop(second);
    wait_for("the lock of a client that has gone", || {
        (third.text("SELECT pg_try_advisory_lock(10)") == "t").then_some(())
    });
}
