//! What once went wrong, as its client saw it.

use std::thread;
use std::time::Duration;

use crate::support::running::{RULES, Running, database_config, databases, shared, superuser};
use crate::support::wire::{Answer, Wire, bind, execute, message, parse, query, sync};

/// A router over two shards with an empty table; keys 1 and 3 are on different shards.
struct Two {
    router: Running,
    shards: Vec<String>,
}

impl Two {
    fn new(name: &str) -> Self {
        let shards = databases(name, 2);
        let router = Running::over(&shards);
        let made = router.client().query("CREATE TABLE rt (user_id bigint, v int)");
        assert_eq!(made.sqlstate(), "");
        Self { router, shards }
    }

    /// All rows, past the router.
    fn rows(&self) -> Vec<String> {
        let rows = |shard: &String| {
            superuser(shared(), shard).text("SELECT coalesce(string_agg(user_id || ':' || v, ' '), '') FROM rt")
        };
        self.shards.iter().map(rows).collect()
    }

    /// A key of each shard.
    fn keys(&self) -> [i64; 2] {
        let mut client = self.router.client();
        for key in 1..20 {
            client.query(&format!("INSERT INTO rt VALUES ({key}, 0)"));
        }
        let keys = [0, 1].map(|shard: usize| {
            let least = superuser(shared(), &self.shards[shard]).text("SELECT min(user_id) FROM rt");
            least.parse().unwrap()
        });
        for shard in &self.shards {
            superuser(shared(), shard).query("TRUNCATE rt");
        }
        keys
    }
}

fn run(sql: &str) -> Vec<u8> {
    [parse("", sql), bind("", "", &[], false), execute("")].concat()
}

fn pipeline(client: &mut Wire, statements: &[String]) -> Answer {
    let mut out: Vec<u8> = statements.iter().flat_map(|sql| run(sql)).collect();
    out.extend(sync());
    client.send(&out);
    client.answer(&[])
}

#[test]
fn a_pipeline_that_fails_on_one_shard_leaves_nothing_on_another() {
    let two = Two::new("pipeline");
    let [a, b] = two.keys();
    let insert = format!("INSERT INTO rt VALUES ({a}, 1)");
    let fails = format!("SELECT 1 / (count(*) * 0) FROM rt WHERE user_id = {b}");
    let mut client = two.router.client();
    for rest in [vec![], vec!["SELECT 1".to_owned()]] {
        let mut statements = vec![insert.clone(), fails.clone()];
        statements.extend(rest);
        let answer = pipeline(&mut client, &statements);
        assert_eq!((answer.sqlstate(), answer.status), ("22012", b'I'));
        assert_eq!(two.rows(), ["", ""]);
    }
    for between in ["SELECT count(*) FROM rt", "SET work_mem = '5MB'"] {
        let answer = pipeline(&mut client, &[insert.clone(), between.to_owned(), "SELECT 1 / 0".to_owned()]);
        assert_eq!((answer.sqlstate(), answer.status), ("22012", b'I'));
        assert_eq!(two.rows(), ["", ""]);
    }
    // Without a Sync nothing is committed.
    let mut gone = two.router.client();
    gone.send(&[run(&insert), message(b'H', b"")].concat());
    while gone.message().unwrap().tag != b'C' {}
    drop(gone);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(two.rows(), ["", ""]);
    // Whatever follows an error up to Sync is passed over, Query too.
    client.send(&[run("SELECT 1 / 0"), message(b'H', b""), query(&insert), sync()].concat());
    assert_eq!(client.answer(&[]).sqlstate(), "22012");
    assert_eq!(two.rows(), ["", ""]);
    assert_eq!(client.text("SELECT 5"), "5");
}

#[test]
fn an_error_of_the_router_in_a_pipeline_fails_the_block() {
    let two = Two::new("block");
    let [a, _] = two.keys();
    let mut client = two.router.client();
    client.query("BEGIN");
    client.send(&[run(&format!("INSERT INTO rt VALUES ({a}, 1)")), message(b'D', b"Pnope\0"), sync()].concat());
    let answer = client.answer(&[]);
    assert_eq!((answer.sqlstate(), answer.status), ("34000", b'E'));
    assert_eq!(client.query("COMMIT").tag(), "ROLLBACK");
    assert_eq!(two.rows(), ["", ""]);
}

#[test]
fn copy_data_is_never_read_as_messages() {
    let two = Two::new("copydata");
    let mut client = two.router.client();
    // The router refuses a row: the rest of its message is data still.
    assert_eq!(client.copy("COPY rt FROM STDIN", b"1\t5\n\\N\t6\n1\t7\n").sqlstate(), "23502");
    assert_eq!(client.text("SELECT 5"), "5");
    // A shard refuses a row while the next message is on its way.
    client.query("CREATE TABLE plain (a int)");
    for sql in ["COPY plain FROM STDIN", "COPY rt FROM STDIN"] {
        client.send(&query(sql));
        while client.message().unwrap().tag != b'G' {}
        let long = message(b'd', "1\t7\n".repeat(20_000).as_bytes());
        let (head, tail) = long.split_at(7_000);
        client.send(&[&message(b'd', b"1\tno\n1\tno\n"), head].concat());
        thread::sleep(Duration::from_millis(300));
        client.send(&[tail, &message(b'c', b"")].concat());
        assert_eq!(client.answer(&[]).status, b'I');
        for _ in 0..3 {
            assert_eq!(client.text("SELECT count(*) FROM plain"), "0", "{sql}");
        }
    }
}

#[test]
fn copy_through_the_extended_protocol_passes_over_an_early_sync() {
    let two = Two::new("extcopy");
    let mut client = two.router.client();
    client.query("CREATE TABLE plain (a int)");
    for (table, row, sqlstate) in [("plain", "1\n", ""), ("rt", "1\t2\n", ""), ("plain", "x\n", "22P02")] {
        client.send(&[run(&format!("COPY {table} FROM STDIN")), sync()].concat());
        while client.message().unwrap().tag != b'G' {}
        client.send(&[message(b'd', row.as_bytes()), message(b'c', b""), sync()].concat());
        let answer = client.answer(&[]);
        assert_eq!((answer.sqlstate(), answer.status), (sqlstate, b'I'));
    }
    assert_eq!(client.text("SELECT (SELECT count(*) FROM plain)"), "1");
    assert_eq!(client.text("SELECT count(*) FROM rt"), "1");
    // Messages in the place of data end the conversation, and nothing else.
    client.send(&[run("COPY plain FROM STDIN"), run("SELECT 1"), sync()].concat());
    client.read_to_end();
    assert_eq!(two.router.client().text("SELECT count(*) FROM plain"), "1");
}

#[test]
fn a_chained_block_keeps_what_set_transaction_said() {
    let two = Two::new("chain");
    let mut client = two.router.client();
    client.query("BEGIN");
    client.query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ");
    client.query("COMMIT AND CHAIN");
    assert_eq!(client.text("SHOW transaction_isolation"), "repeatable read");
}

#[test]
fn ddl_past_the_router_is_noticed_at_the_first_error() {
    let two = Two::new("pastddl");
    let [a, _] = two.keys();
    for sql in [format!("SELECT * FROM rt WHERE user_id = {a}"), "SELECT * FROM rt ORDER BY v".to_owned()] {
        let mut client = two.router.client();
        client.query(&format!("INSERT INTO rt VALUES ({a}, 1)"));
        client
            .send(&[parse("a", &sql), message(b'D', b"Sa\0"), bind("", "a", &[], false), execute(""), sync()].concat());
        assert_eq!(client.answer(&[]).sqlstate(), "");
        for shard in &two.shards {
            assert_eq!(superuser(shared(), shard).query("ALTER TABLE rt ADD w int").sqlstate(), "");
        }
        client.send(&[bind("", "a", &[], false), execute(""), sync()].concat());
        let answer = client.answer(&[]);
        assert_eq!((answer.sqlstate(), answer.status), ("0A000", b'I'), "{sql}");
        client
            .send(&[parse("b", &sql), message(b'D', b"Sb\0"), bind("", "b", &[], false), execute(""), sync()].concat());
        assert_eq!(client.answer(&[]).text(), format!("{a}|1|"));
        let mut other = two.router.client();
        assert_eq!(other.execute(&sql, &[], false).text(), format!("{a}|1|"));
        client.query("ALTER TABLE rt DROP w");
        client.query(&format!("DELETE FROM rt WHERE user_id = {a}"));
    }
}

/// Keys are hashed as they are sent, which must be as they are stored.
#[test]
fn a_client_that_sends_no_utf8_is_refused_over_several_shards() {
    let two = Two::new("encoding");
    let one = Running::over(&databases("encoding", 1));
    let encodings = [("LATIN1", "0A000"), ("win1252", "0A000"), ("UTF8", ""), ("utf-8", ""), ("SQL_ASCII", "")];
    for (encoding, expected) in encodings {
        for (port, expected) in [(two.router.port, expected), (one.port, "")] {
            let parameters = [("user", "app"), ("database", "app"), ("client_encoding", encoding)];
            let refused = Wire::try_connect(port, &parameters).map_err(|error| error.sqlstate().to_owned()).err();
            assert_eq!(refused.unwrap_or_default(), expected, "{encoding}");
            let mut client = Wire::connect(port, "app", "app");
            assert_eq!(client.query(&format!("SET client_encoding = '{encoding}'")).sqlstate(), expected, "{encoding}");
            assert_eq!(client.query(&format!("SET NAMES '{encoding}'")).sqlstate(), expected, "{encoding}");
        }
    }
    let mut client = two.router.client();
    for off in ["off", "'of'", "false", "'f'", "no", "0"] {
        assert_eq!(client.query(&format!("SET standard_conforming_strings = {off}")).sqlstate(), "0A000", "{off}");
    }
    assert_eq!(client.query("SET standard_conforming_strings = on").sqlstate(), "");
    let parameters = [("user", "app"), ("database", "app"), ("options", "-c standard_conforming_strings=off")];
    assert!(Wire::try_connect(two.router.port, &parameters).is_err_and(|error| error.sqlstate() == "0A000"));
}

/// What the router adds up it prints with all digits.
#[test]
fn sums_are_not_printed_with_fewer_digits() {
    let two = Two::new("digits");
    let mut client = two.router.client();
    for sql in ["CREATE TABLE weights (user_id bigint, w float8)", "INSERT INTO weights VALUES (1, 0.1)"] {
        assert_eq!(client.query(sql).sqlstate(), "");
    }
    assert_eq!(client.query("INSERT INTO weights VALUES (3, 0.2)").sqlstate(), "");
    assert_eq!(client.text("SELECT sum(w) FROM weights"), "0.30000000000000004");
    assert_eq!(client.query("SET extra_float_digits = 0").sqlstate(), "");
    // The router does not round as the setting asks, so PostgreSQL finishes these.
    assert_eq!(client.text("SELECT sum(w) FROM weights"), "0.3");
    assert_eq!(client.text("SELECT avg(w) FROM weights"), "0.15");
    assert_eq!(client.text("SELECT count(w), max(w) FROM weights"), "2|0.2");
    assert_eq!(client.execute("SELECT sum(w) FROM weights", &[], true).sqlstate(), "");
    client.query("BEGIN");
    assert_eq!(client.query("SET LOCAL extra_float_digits = -1").sqlstate(), "0A000");
    client.query("ROLLBACK");
    assert_eq!(client.query("SET extra_float_digits = 3").sqlstate(), "");
    assert_eq!(client.text("SELECT sum(w) FROM weights"), "0.30000000000000004");
}

#[test]
fn ddl_on_all_shards_gives_the_notices_of_one() {
    let two = Two::new("notices");
    let mut client = two.router.client();
    let notices = |answer: Answer| answer.notices.iter().map(|notice| notice.message().to_owned()).collect::<Vec<_>>();
    let seen = notices(client.query("DROP TABLE IF EXISTS nope"));
    assert_eq!(seen, ["table \"nope\" does not exist, skipping"]);
    let seen = notices(client.execute("DROP TABLE IF EXISTS nope, neither", &[], false));
    assert_eq!(seen.len(), 2, "{seen:?}");
    let seen = notices(client.query("BEGIN; CREATE TABLE IF NOT EXISTS rt (user_id bigint); COMMIT"));
    assert_eq!(seen, ["relation \"rt\" already exists, skipping"]);
}

#[test]
fn a_client_that_names_no_application_has_an_empty_name() {
    let two = Two::new("unnamed");
    let mut unnamed = two.router.client();
    assert_eq!(unnamed.text("SHOW application_name"), "");
    let mut named = two.router.client();
    named.query("SET application_name = 'shop'");
    for _ in 0..3 {
        assert_eq!(named.text("SHOW application_name"), "shop");
        assert_eq!(unnamed.text("SHOW application_name"), "");
    }
}

#[test]
fn who_comes_right_after_the_start_is_served() {
    let two = Two::new("early");
    for round in 0..10 {
        let router = Running::start(&database_config(shared(), &two.shards, RULES));
        let mut client = router.client();
        let insert = format!("INSERT INTO rt VALUES ({round}, 1)");
        let answer = if round % 2 == 0 { client.query(&insert) } else { client.execute(&insert, &[], false) };
        assert_eq!(answer.sqlstate(), "", "{:?}", answer.error);
    }
}

/// A router over one database with a single server, and that database past the router.
fn single_server(name: &str) -> (Running, Vec<String>) {
    let shards = databases(name, 1);
    let config = database_config(shared(), &shards, "");
    let router = Running::start(&format!("[pool]\nsize = 1\n{config}"));
    router.wait_until_ready();
    (router, shards)
}

#[test]
fn what_one_client_has_prepared_is_read_anew_for_another() {
    let (router, shards) = single_server("reading");
    let made = superuser(shared(), &shards[0]).query(
        "CREATE FUNCTION sets_local(text, text) RETURNS void LANGUAGE plpgsql AS \
         $$ BEGIN EXECUTE format('SET LOCAL %I TO %L', $1, $2); END $$",
    );
    assert_eq!(made.sqlstate(), "");
    // The router looks at functions again when it has seen DDL.
    assert_eq!(router.client().query("CREATE TABLE looked (a int)").sqlstate(), "");
    let cases = [
        ("timezone", "UTC", "America/New_York", "SELECT extract(epoch FROM '2024-01-01'::timestamptz)"),
        ("datestyle", "ISO, MDY", "ISO, DMY", "SELECT extract(month FROM '01/02/2024'::date)"),
        ("intervalstyle", "postgres", "sql_standard", "SELECT extract(epoch FROM '-1 1:00:00'::interval)"),
        ("transform_null_equals", "off", "on", "SELECT 1 = NULL IS NULL"),
        ("standard_conforming_strings", "on", "off", "SELECT length('a\\b')"),
        ("bytea_output", "hex", "escape", "SELECT 'a'::bytea::text"),
        ("extra_float_digits", "1", "-10", "SELECT 0.333333333333333::float8::text"),
    ];
    let ways: [&[&str]; 6] = [
        &["SET NAME = 'VALUE'"],
        &["BEGIN", "SET LOCAL NAME = 'VALUE'"],
        &["BEGIN", "SET LOCAL NAME = 'VALUE'", "SAVEPOINT s", "SET LOCAL NAME = DEFAULT", "ROLLBACK TO s"],
        &["BEGIN", "SELECT set_config('NAME', 'VALUE', true)"],
        &["BEGIN", "SELECT sets_local('NAME', 'VALUE')"],
        &["BEGIN", "SET LOCAL NAME = DEFAULT", "SET NAME = 'VALUE'"],
    ];
    for (name, one, other, sql) in cases {
        for way in ways {
            let mut answers = Vec::new();
            for value in [one, other, one] {
                let [direct, routed] =
                    [(shared().port(), shards[0].as_str()), (router.port, "app")].map(|(port, db)| {
                        let mut client = Wire::connect(port, "app", db);
                        for step in way {
                            let value =
                                if name == "datestyle" { value.replace(", ", "', '") } else { value.to_owned() };
                            let value = if step.starts_with("SELECT") { value.replace('\'', "") } else { value };
                            let done = client.query(&step.replace("NAME", name).replace("VALUE", &value));
                            assert_eq!(done.sqlstate(), "", "{step} {name} {value}");
                        }
                        let seen = client.execute(sql, &[], false).text();
                        client.query("ROLLBACK");
                        seen
                    });
                assert_eq!(routed, direct, "{way:?} {name} {value}: {sql}");
                answers.push(routed);
            }
            assert!(answers[0] != answers[1] && answers[0] == answers[2], "{name}: {answers:?}");
        }
    }
}

#[test]
fn a_temporary_table_hides_another_from_statements_that_are_prepared_later() {
    let (router, _) = single_server("hidden");
    let mut client = router.client();
    client.query("CREATE TABLE kept (a int); INSERT INTO kept VALUES (1)");
    assert_eq!(client.execute("SELECT a FROM kept", &[], false).text(), "1");
    client.query("CREATE TEMP TABLE first (a int)");
    assert_eq!(client.execute("SELECT a FROM kept", &[], false).text(), "1");
    client.query("CREATE TEMP TABLE kept (a int); INSERT INTO kept VALUES (2)");
    assert_eq!(client.execute("SELECT a FROM kept", &[], false).text(), "2");
    client.query("DISCARD ALL");
    assert_eq!(client.execute("SELECT a FROM kept", &[], false).text(), "1");
}

#[test]
fn what_is_made_in_the_temporary_schema_stays_with_its_session() {
    let shards = databases("pg_temp", 1);
    let config = database_config(shared(), &shards, "");
    let router = Running::start(&format!("[pool]\nsize = 2\n{config}"));
    router.wait_until_ready();
    let cases = [
        ("CREATE TYPE pg_temp.mood AS ENUM ('ok')", "SELECT 'ok'::mood"),
        ("CREATE FUNCTION PG_TEMP.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "SELECT pg_temp.f()"),
        ("CREATE TEMP SEQUENCE s", "SELECT last_value FROM s"),
        ("SELECT 1 AS a INTO pg_temp.t", "SELECT a FROM t"),
        ("DO $$ BEGIN CREATE TABLE pg_temp.t (a int); END $$", "SELECT a FROM t"),
        ("SELECT 1; CREATE TEMPORARY SEQUENCE s; SELECT 2", "SELECT last_value FROM s"),
        ("SET search_path = pg_temp, public; CREATE TABLE t (a int)", "SELECT a FROM t"),
    ];
    for (create, use_it) in cases {
        let mut one = router.client();
        assert_eq!(one.query(create).sqlstate(), "", "{create}");
        // Somebody else takes a server while the first rests.
        let mut other = router.client();
        other.query("BEGIN");
        assert!(other.query(use_it).error.is_some(), "{use_it}");
        assert_eq!(one.query(use_it).sqlstate(), "", "{create}");
        other.query("ROLLBACK");
    }
    let two = Two::new("no_pg_temp");
    assert_eq!(two.router.client().query("CREATE TYPE pg_temp.mood AS ENUM ('ok')").sqlstate(), "0A000");
}

#[test]
fn a_search_path_for_one_transaction_finds_the_tables_of_that_transaction() {
    let two = Two::new("local_path");
    let mut client = two.router.client();
    client.query("CREATE SCHEMA other");
    client.query("CREATE TABLE other.rt (id bigint, w int)");
    client.query("INSERT INTO rt VALUES (1, 1)");
    for commands in [["SET LOCAL search_path = other", "ROLLBACK"], ["SET LOCAL search_path TO 'other'", "COMMIT"]] {
        client.query("BEGIN");
        client.query(commands[0]);
        assert_eq!(client.text("SELECT count(w) FROM rt"), "0");
        assert_eq!(client.execute("SELECT count(w) FROM rt", &[], false).text(), "0");
        client.query(commands[1]);
        assert_eq!(client.text("SELECT count(v) FROM rt"), "1");
        assert_eq!(client.execute("SELECT count(v) FROM rt", &[], false).text(), "1");
    }
}

#[test]
fn a_procedure_takes_parameters() {
    let (router, _) = single_server("call");
    let mut client = router.client();
    client.query("CREATE PROCEDURE next(INOUT a int) LANGUAGE plpgsql AS $$ BEGIN a := a + 1; END $$");
    assert_eq!(client.execute("CALL next($1)", &[Some("3")], false).text(), "4");
}

/// What a client of another encoding than UTF8 sees, with PostgreSQL and through the router.
#[test]
fn a_client_speaks_its_own_encoding_over_one_shard() {
    let (router, shards) = single_server("own_encoding");
    let encodings: [(&str, &[u8]); 5] = [
        ("LATIN1", b"caf\xe9"),
        ("WIN1252", b"\x80 5"),
        ("KOI8R", b"\xd0\xd2\xc9"),
        ("EUC_JP", b"\xc6\xfc\xcb\xdc"),
        ("LATIN1", "\u{e9}".as_bytes()),
    ];
    let around = |before: &str, text: &[u8], after: &str| [before.as_bytes(), text, after.as_bytes()].concat();
    for (encoding, text) in encodings {
        let [direct, routed] = [(shared().port(), shards[0].as_str()), (router.port, "app")].map(|(port, database)| {
            let parameters = [("user", "app"), ("database", database), ("client_encoding", encoding)];
            let mut client = Wire::try_connect(port, &parameters).unwrap();
            let select = around("SELECT '", text, "' AS x, length($1) FROM (VALUES (1), (2)) v (a)");
            let simple = String::from_utf8(around("", b"", "length('x')")).unwrap();
            let query = around("SELECT '", text, &format!("'::text, {simple}"));
            let ddl = around("CREATE TEMP TABLE \"", text, "\" AS SELECT 1 AS a; SELECT 2");
            let comment = around("CREATE TABLE own (a int) /* ", text, " */");
            let mut seen = Vec::new();
            for text in [&query, &comment, &ddl] {
                client.send(&message(b'Q', &[text, &b"\0"[..]].concat()));
                seen.push(client.answer(&[]));
            }
            for _ in 0..2 {
                let parse = message(b'P', &[b"\0", &select[..], b"\0\0\0"].concat());
                let bind = bind("", "", &[Some("abc")], false);
                client.send(&[parse, bind, message(b'D', b"P\0"), execute(""), sync()].concat());
                seen.push(client.answer(&[]));
            }
            client.query("SET client_encoding = UTF8");
            client.send(&message(b'Q', &[&query[..], b"\0"].concat()));
            seen.push(client.answer(&[]));
            client.query("DROP TABLE own");
            let rows = |answer: &Answer| {
                let rows: Vec<_> =
                    answer.results.iter().map(|result| (result.rows.clone(), result.tag.clone())).collect();
                (answer.sqlstate().to_owned(), rows)
            };
            seen.iter().map(rows).collect::<Vec<_>>()
        });
        assert_eq!(routed, direct, "{encoding}");
    }
    let mut client = router.client();
    client.query("SET client_encoding = LATIN1");
    client.send(&message(b'Q', b"SET application_name = 'caf\xe9'\0"));
    assert_eq!(client.answer(&[]).sqlstate(), "0A000");
    assert_eq!(client.text("SHOW client_encoding"), "LATIN1");
}

#[test]
fn a_server_is_let_go_when_what_held_it_is_over() {
    let shards = databases("let_go", 1);
    let config = database_config(shared(), &shards, "");
    let router = Running::start(&format!("[pool]\nsize = 1\nwait_timeout = \"200ms\"\n{config}"));
    router.wait_until_ready();
    // Whether the server is free after each step.
    let conversations: [&[(&str, bool)]; 7] = [
        &[("SELECT pg_advisory_lock(1)", false), ("SELECT pg_advisory_unlock(1)", true)],
        &[
            ("SELECT pg_advisory_lock(1), pg_advisory_lock(1)", false),
            ("SELECT pg_advisory_unlock(1)", false),
            ("SELECT 1", false),
            ("SELECT pg_advisory_unlock(1)", true),
        ],
        &[
            ("SELECT pg_try_advisory_lock_shared(2)", false),
            ("BEGIN", false),
            ("SELECT pg_advisory_unlock_all()", false),
            ("COMMIT", true),
        ],
        &[("SELECT pg_advisory_lock(3)", false), ("CREATE TEMP TABLE t (a int); SELECT pg_advisory_unlock(3)", false)],
        &[
            ("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1", false),
            ("ROLLBACK", true),
            ("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1", false),
            ("COMMIT", false),
            ("BEGIN", false),
            ("SELECT 1 / 0", false),
            ("ROLLBACK", false),
            ("CLOSE c", true),
        ],
        &[("BEGIN; CREATE TEMP TABLE t (a int) ON COMMIT DROP", false), ("COMMIT", true)],
        &[("BEGIN; CREATE TEMP TABLE t (a int) ON COMMIT DELETE ROWS", false), ("COMMIT", false)],
    ];
    let mut other = router.client();
    for conversation in conversations {
        let mut client = router.client();
        for extended in [false, true] {
            for (step, free) in conversation {
                let whole = !extended || step.contains(';');
                let answer = if whole { client.query(step) } else { client.execute(step, &[], false) };
                assert!(matches!(answer.sqlstate(), "" | "22012"), "{step}: {:?}", answer.error);
                assert_eq!(
                    other.query("SELECT 1").sqlstate(),
                    if *free { "" } else { "53300" },
                    "{conversation:?}: {step}"
                );
            }
            client.query("DISCARD ALL");
        }
    }
}

#[test]
fn a_local_table_that_only_its_shard_has_is_not_said_to_be_missing() {
    let shards = databases("apart", 2);
    for (shard, table) in shards.iter().zip(["near", "far"]) {
        let mut wire = superuser(shared(), shard);
        wire.query(&format!("CREATE TABLE {table} (v int)"));
        wire.query(&format!("INSERT INTO {table} VALUES (1)"));
        wire.query(&format!("GRANT ALL ON {table} TO app"));
    }
    let rules = format!("tables.far = {{ kind = \"local\", shard = \"{}\" }}", shards[1]);
    let router = Running::start(&database_config(shared(), &shards, &rules));
    router.wait_until_ready();
    let sql = "SELECT near.v + far.v FROM near, far";
    assert_eq!(router.client().query(sql).sqlstate(), "0A000");
    superuser(shared(), &shards[0]).query("CREATE TABLE far (v int); GRANT ALL ON far TO app");
    assert_eq!(router.client().text(sql), "2");
}

#[test]
fn a_portal_that_writes_over_shards_runs_once() {
    let shards = databases("once", 2);
    let router = Running::over(&shards);
    let mut client = router.client();
    assert_eq!(client.query("CREATE TABLE orders (user_id bigint PRIMARY KEY, n int DEFAULT 0)").sqlstate(), "");
    assert_eq!(client.query("INSERT INTO orders VALUES (1), (2), (3), (4)").sqlstate(), "");
    let mut twice = |sql: &str, first: &[u8]| {
        let mut out = parse("", sql);
        out.extend(bind("", "", &[], false));
        out.extend(message(b'E', first));
        out.extend(execute(""));
        out.extend(sync());
        client.send(&out);
        let answer = client.answer(&[]);
        let tags: Vec<String> = answer.results.iter().map(|result| result.tag.clone()).collect();
        (answer.sqlstate().to_owned(), tags, client.text("SELECT sum(n) FROM orders"))
    };
    let (unlimited, one) = (b"\0\0\0\0\0", b"\0\0\0\0\x01");
    let update = "UPDATE orders SET n = n + 1";
    assert_eq!(twice(update, unlimited), ("55000".into(), vec!["UPDATE 4".into()], "0".into()));
    assert_eq!(twice(update, one), ("55000".into(), vec!["UPDATE 4".into()], "0".into()));
    let returning = "UPDATE orders SET n = n + 1 RETURNING n";
    assert_eq!(twice(returning, unlimited), (String::new(), vec!["UPDATE 4".into(), "UPDATE 0".into()], "4".into()));
    let read = "SELECT n FROM orders";
    assert_eq!(twice(read, unlimited), (String::new(), vec!["SELECT 4".into(), "SELECT 0".into()], "4".into()));
}

#[test]
fn a_description_within_a_pipeline_commits_nothing() {
    let two = Two::new("described");
    let keys = two.keys();
    let mut client = two.router.client();
    for key in keys {
        assert_eq!(client.query(&format!("INSERT INTO rt VALUES ({key}, 1)")).sqlstate(), "");
    }
    let before = two.rows();
    for key in keys {
        let mut out = Vec::new();
        let failing = format!("UPDATE rt SET v = 1 / (v - v) + {key} RETURNING v");
        for sql in [&*format!("DELETE FROM rt WHERE user_id = {key}"), &*failing] {
            out.extend(parse("", sql));
            out.extend(bind("", "", &[], false));
            out.extend(message(b'D', b"P\0"));
            out.extend(execute(""));
        }
        out.extend(sync());
        client.send(&out);
        let answer = client.answer(&[]);
        assert_eq!((answer.sqlstate(), answer.status), ("22012", b'I'));
        assert_eq!(two.rows(), before);
    }
}
