//! Prepared statements that many clients and servers share: nobody hears of plans that DDL has made
//! outdated but who has to, and PREPARE holds no server.

use crate::support::running::{RULES, Running, database_config, databases, shared, superuser};
use crate::support::wire::{Answer, Wire, bind, execute, message, parse, query, sync};

/// What a client prepares: on the shard of a key, and over all shards.
const OF_ONE: &str = "SELECT shown(v) FROM notes WHERE user_id = 1 ORDER BY v";
const OF_ALL: &str = "SELECT shown(v) FROM notes ORDER BY v";

/// Another client's statement that nothing makes outdated.
const OTHER: &str = "SELECT v + 1 FROM notes WHERE user_id = 1 ORDER BY v";

/// A router over shards on which somebody else changes what a function gives: the catalog as the router
/// sees it stays the same, only the servers know.
pub(crate) struct Changing {
    shards: Vec<String>,
    pub(crate) router: Running,
}

impl Changing {
    pub(crate) fn new(shards: usize, pool: &str) -> Self {
        let shards = databases("changing", shards);
        for shard in &shards {
            superuser(shared(), shard).query(&made("int", "i"));
        }
        let config = format!("[pool]\n{pool}\n{}", database_config(shared(), &shards, RULES));
        let router = Running::start(&config);
        router.wait_until_ready();
        let mut owner = router.client();
        assert_eq!(owner.query("CREATE TABLE notes (user_id bigint NOT NULL, v int)").sqlstate(), "");
        for user in 1..=4 {
            assert_eq!(owner.query(&format!("INSERT INTO notes VALUES ({user}, {user}0)")).sqlstate(), "");
        }
        Self { shards, router }
    }

    /// From now on the function gives something else than before.
    pub(crate) fn change(&self) {
        for shard in &self.shards {
            let changed =
                superuser(shared(), shard).query(&format!("DROP FUNCTION shown(int); {}", made("text", "'t' || i")));
            assert_eq!(changed.sqlstate(), "");
        }
    }

    fn change_back(&self) {
        for shard in &self.shards {
            let changed = superuser(shared(), shard).query(&format!("DROP FUNCTION shown(int); {}", made("int", "i")));
            assert_eq!(changed.sqlstate(), "");
        }
    }

    /// Clients that each hold a server in a block.
    fn holders(&self, count: usize) -> Vec<Wire> {
        let mut holders: Vec<Wire> = (0..count).map(|_| self.router.client()).collect();
        for holder in &mut holders {
            assert_eq!(holder.query("BEGIN; SELECT count(*) FROM notes").sqlstate(), "");
        }
        holders
    }
}

fn made(result: &str, body: &str) -> String {
    format!(
        "CREATE FUNCTION shown(i int) RETURNS {result} IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN {body}; END $$"
    )
}

fn expected(sql: &str, prefix: &str) -> String {
    let values: &[&str] = if sql == OF_ONE { &["10"] } else { &["10", "20", "30", "40"] };
    values.iter().map(|value| format!("{prefix}{value}")).collect::<Vec<_>>().join("\n")
}

pub(crate) fn describe(name: &str) -> Vec<u8> {
    message(b'D', format!("S{name}\0").as_bytes())
}

fn close(name: &str) -> Vec<u8> {
    message(b'C', format!("S{name}\0").as_bytes())
}

pub(crate) fn ask(client: &mut Wire, messages: &[Vec<u8>]) -> Answer {
    client.send(&messages.concat());
    client.answer(b"")
}

fn prepare(client: &mut Wire, name: &str, sql: &str) {
    let answer = ask(client, &[parse(name, sql), sync()]);
    assert_eq!(answer.sqlstate(), "", "{:?}", answer.error);
}

fn run(client: &mut Wire, name: &str) -> Answer {
    ask(client, &[bind("", name, &[], false), execute(""), sync()])
}

/// Every combination of statement, shards and pool that matters.
fn everywhere(mut test: impl FnMut(&Changing, &str)) {
    for (count, sql) in [(1, OF_ONE), (3, OF_ONE), (3, OF_ALL)] {
        for pool in ["size = 4", "size = 1\nprepared_statements_max = 1", "mode = \"session\""] {
            test(&Changing::new(count, pool), sql);
        }
    }
}

#[test]
fn who_prepares_after_the_change_never_hears_of_it() {
    everywhere(|changing, sql| {
        let mut before = changing.router.client();
        prepare(&mut before, "a", sql);
        assert_eq!(run(&mut before, "a").text(), expected(sql, ""));
        assert_eq!(before.query("DISCARD ALL").sqlstate(), "");
        drop(before);
        changing.change();
        let mut client = changing.router.client();
        let all = [parse("", sql), bind("", "", &[], false), message(b'D', b"P\0"), execute(""), sync()];
        assert_eq!(ask(&mut client, &all).text(), expected(sql, "t"), "{sql}");
    });
}

#[test]
fn who_was_told_something_else_than_others_is_held_to_that() {
    everywhere(|changing, sql| {
        let mut before = changing.router.client();
        assert_eq!(ask(&mut before, &[parse("a", sql), describe("a"), sync()]).sqlstate(), "");
        assert_eq!(run(&mut before, "a").text(), expected(sql, ""));
        changing.change();
        let mut client = changing.router.client();
        let all = [parse("x", sql), describe("x"), bind("", "x", &[], false), execute(""), sync()];
        assert_eq!(ask(&mut client, &all).text(), expected(sql, "t"), "{sql}");
        assert_eq!(run(&mut client, "x").text(), expected(sql, "t"));
        let mut third = changing.router.client();
        assert_eq!(third.query(&format!("PREPARE y AS {sql}")).tag(), "PREPARE");
        assert_eq!(third.text("EXECUTE y"), expected(sql, "t"));
        assert_eq!(run(&mut before, "a").sqlstate(), "0A000", "{sql}");
        changing.change_back();
        assert_eq!(run(&mut before, "a").text(), expected(sql, ""));
        assert_eq!(run(&mut client, "x").sqlstate(), "0A000");
        assert_eq!(third.query("EXECUTE y").sqlstate(), "0A000");
    });
}

#[test]
fn what_a_fresh_server_has_described_runs_on_outdated_ones() {
    let runs = || [bind("", "x", &[], false), execute("")].concat();
    let flush = || message(b'H', b"");
    type Beginning = fn(&str) -> Vec<u8>;
    let pipelines: [(Beginning, &str); 4] = [
        (|sql| [parse("x", sql), describe("x")].concat(), "1tT2DCZ"),
        (|sql| [parse("x", sql), describe("x"), message(b'H', b"")].concat(), "1tT2DCZ"),
        (|sql| [parse("x", sql), describe("x"), describe("x")].concat(), "1tTtT2DCZ"),
        (|sql| [parse("x", OTHER), describe("x"), close("x"), parse("x", sql), describe("x")].concat(), "1tT31tT2DCZ"),
    ];
    for held in 1..=4 {
        for ((begin, tags), sql) in pipelines.iter().flat_map(|pipeline| [(pipeline, OF_ONE), (pipeline, OF_ALL)]) {
            let changing = Changing::new(3, "size = 4");
            let mut before = changing.router.client();
            assert_eq!(ask(&mut before, &[parse("a", sql), describe("a"), sync()]).sqlstate(), "");
            assert_eq!(run(&mut before, "a").text(), expected(sql, ""));
            // The shard of this user gives the next client a server that has not seen the statement.
            let mut holder = changing.router.client();
            let block = format!("BEGIN; SELECT v FROM notes WHERE user_id = {held}");
            assert_eq!(holder.query(&block).sqlstate(), "");
            changing.change();
            let mut client = changing.router.client();
            client.send(&[begin(sql), runs(), flush(), sync()].concat());
            let mut answers = Vec::new();
            while answers.last() != Some(&b'Z') {
                let message = client.message().unwrap();
                assert_ne!(message.tag, b'E', "{sql} {held} {}", String::from_utf8_lossy(&message.body));
                answers.push(message.tag);
            }
            answers.dedup_by(|one, other| *one == b'D' && one == other);
            assert_eq!(String::from_utf8_lossy(&answers), *tags, "{sql} {held}");
            assert_eq!(run(&mut client, "x").text(), expected(sql, "t"));
        }
    }
}

#[test]
fn who_was_not_told_of_the_rows_gets_the_new_ones() {
    everywhere(|changing, sql| {
        let mut client = changing.router.client();
        prepare(&mut client, "a", sql);
        assert_eq!(run(&mut client, "a").text(), expected(sql, ""));
        changing.change();
        assert_eq!(run(&mut client, "a").text(), expected(sql, "t"), "{sql}");
        changing.change_back();
        // Messages that end with Flush, before anything is known of the end.
        client.send(&[bind("", "a", &[], false), execute(""), message(b'H', b"")].concat());
        let mut tags = Vec::new();
        while tags.last() != Some(&b'C') {
            let message = client.message().unwrap();
            assert_ne!(message.tag, b'E', "{}", String::from_utf8_lossy(&message.body));
            tags.push(message.tag);
        }
        assert_eq!(tags.first(), Some(&b'2'));
        assert_eq!(ask(&mut client, &[sync()]).sqlstate(), "");
    });
}

#[test]
fn who_was_told_of_the_rows_hears_that_they_have_changed() {
    everywhere(|changing, sql| {
        let mut client = changing.router.client();
        assert_eq!(ask(&mut client, &[parse("a", sql), describe("a"), sync()]).sqlstate(), "");
        assert_eq!(run(&mut client, "a").text(), expected(sql, ""));
        changing.change();
        for _ in 0..2 {
            let answer = run(&mut client, "a");
            assert_eq!(answer.sqlstate(), "0A000", "{sql}");
            let error = answer.error.unwrap();
            assert_eq!(error.message(), "cached plan must not change result type");
            // Drivers look at this.
            assert_eq!(error.field(b'R'), "RevalidateCachedQuery");
        }
        assert_eq!(ask(&mut client, &[close("a"), parse("a", sql), describe("a"), sync()]).sqlstate(), "");
        assert_eq!(run(&mut client, "a").text(), expected(sql, "t"));
    });
}

#[test]
fn a_pipeline_runs_again_as_a_whole_or_not_at_all() {
    everywhere(|changing, sql| {
        let mut client = changing.router.client();
        prepare(&mut client, "a", sql);
        run(&mut client, "a");
        changing.change();
        // Names get another meaning behind the statement that is outdated.
        let (b, e) = (bind("", "a", &[], false), execute(""));
        let pipeline = [
            b.clone(),
            e.clone(),
            close("a"),
            parse("a", OTHER),
            b.clone(),
            e.clone(),
            parse("", "SELECT 7"),
            bind("", "", &[], false),
            e.clone(),
            parse("", "SELECT 8"),
            sync(),
        ];
        let answer = ask(&mut client, &pipeline);
        assert_eq!(answer.sqlstate(), "", "{sql}: {:?}", answer.error);
        let results: Vec<String> = answer
            .results
            .iter()
            .map(|result| String::from_utf8_lossy(result.rows[0][0].as_deref().unwrap()).into())
            .collect();
        assert_eq!(results, ["t10", "11", "7"], "{sql}");
        assert_eq!(run(&mut client, "a").text(), "11");
        assert_eq!(run(&mut client, "").text(), "8");
        // What came before has been answered: the error passes, and the next attempt is right.
        prepare(&mut client, "c", sql);
        run(&mut client, "c");
        changing.change_back();
        let answer = ask(&mut client, &[bind("", "a", &[], false), e.clone(), bind("", "c", &[], false), e, sync()]);
        match answer.sqlstate() {
            "" => assert_eq!(answer.text(), format!("11\n{}", expected(sql, ""))),
            sqlstate => assert_eq!((sqlstate, answer.results.len()), ("0A000", 1), "{sql}"),
        }
        assert_eq!(run(&mut client, "c").text(), expected(sql, ""));
    });
}

#[test]
fn in_a_block_the_error_passes_and_the_servers_stay_usable() {
    for sql in [OF_ONE, OF_ALL] {
        let changing = Changing::new(2, "size = 3");
        let mut before = changing.holders(3);
        for client in &mut before {
            prepare(client, "a", sql);
            assert_eq!(run(client, "a").text(), expected(sql, ""));
        }
        before.iter_mut().for_each(|client| assert_eq!(client.query("COMMIT").tag(), "COMMIT"));
        changing.change();
        let mut client = changing.router.client();
        client.query("BEGIN");
        prepare(&mut client, "b", sql);
        assert_eq!(run(&mut client, "b").sqlstate(), "0A000");
        assert_eq!(run(&mut client, "b").sqlstate(), "25P02");
        assert_eq!(client.query("ROLLBACK").tag(), "ROLLBACK");
        // Now all servers are distrusted, also those that have not been asked.
        let mut clients = changing.holders(3);
        for client in &mut clients {
            prepare(client, "b", sql);
            assert_eq!(run(client, "b").text(), expected(sql, "t"));
        }
    }
}

#[test]
fn simple_queries_and_execute_run_again() {
    everywhere(|changing, sql| {
        let mut client = changing.router.client();
        assert_eq!(client.query(&format!("PREPARE a AS {sql}")).tag(), "PREPARE");
        assert_eq!(client.text("EXECUTE a"), expected(sql, ""));
        assert_eq!(client.text(sql), expected(sql, ""));
        changing.change();
        assert_eq!(client.text(sql), expected(sql, "t"));
        let answer = client.query("EXECUTE a");
        assert_eq!((answer.sqlstate(), answer.status), ("0A000", b'I'), "{sql}");
        assert_eq!(client.query(&format!("DEALLOCATE a; PREPARE a AS {sql}")).sqlstate(), "");
        assert_eq!(client.text("EXECUTE a"), expected(sql, "t"));
        changing.change_back();
        let mut other = changing.router.client();
        assert_eq!(other.query(&format!("PREPARE a AS {sql}")).tag(), "PREPARE");
        assert_eq!(other.text("EXECUTE a"), expected(sql, ""), "{sql}");
        changing.change();
        let mut third = changing.router.client();
        prepare(&mut third, "a", sql);
        let all = [parse("", "EXECUTE a"), bind("", "", &[], false), execute(""), sync()];
        assert_eq!(ask(&mut third, &all).text(), expected(sql, "t"), "{sql}");
    });
}

#[test]
fn prepare_holds_no_server_and_names_are_each_clients_own() {
    for shards in [1, 2] {
        let changing = Changing::new(shards, "size = 1\nwait_timeout = \"10s\"");
        let mut clients: Vec<Wire> = (0..8).map(|_| changing.router.client()).collect();
        for (n, client) in clients.iter_mut().enumerate() {
            let made = client.query(&format!("PREPARE mine(bigint) AS SELECT v + {n} FROM notes WHERE user_id = $1"));
            assert_eq!(made.tag(), "PREPARE", "{:?}", made.error);
        }
        for user in 1..=4 {
            for (n, client) in clients.iter_mut().enumerate() {
                assert_eq!(client.text(&format!("EXECUTE mine({user})")), (user * 10 + n).to_string());
            }
        }
        assert_eq!(clients[0].query("DEALLOCATE ALL").tag(), "DEALLOCATE ALL");
        assert_eq!(clients[0].query("EXECUTE mine(1)").sqlstate(), "26000");
        assert_eq!(clients[1].text("EXECUTE mine(1)"), "11");
    }
}

#[test]
fn a_statement_of_procedural_code_is_found_on_its_server() {
    let changing = Changing::new(1, "size = 2");
    let mut client = changing.router.client();
    let code = "DO $$ BEGIN EXECUTE 'PREPARE hidden(int) AS SELECT $1 + 1'; END $$";
    assert_eq!(client.query(code).sqlstate(), "");
    assert_eq!(client.text("EXECUTE hidden(1)"), "2");
    let all = [parse("", "EXECUTE hidden(2)"), bind("", "", &[], false), execute(""), sync()];
    assert_eq!(ask(&mut client, &all).text(), "3");
    assert_eq!(client.query("PREPARE known AS SELECT 5").tag(), "PREPARE");
    assert_eq!(client.text("EXECUTE known"), "5");
    assert_eq!(client.query("DEALLOCATE hidden").tag(), "DEALLOCATE");
    assert_eq!(client.query("EXECUTE hidden(1)").sqlstate(), "26000");
    assert_eq!(client.query(code).sqlstate(), "");
    assert_eq!(client.query("DEALLOCATE ALL").tag(), "DEALLOCATE ALL");
    assert_eq!(client.query("EXECUTE hidden(1)").sqlstate(), "26000");
    assert_eq!(client.query("EXECUTE known").sqlstate(), "26000");
    assert_eq!(client.query(code).sqlstate(), "", "the name is free again");
}

#[test]
fn the_search_path_of_the_moment_holds_for_what_was_prepared() {
    for shards in [1, 2] {
        let changing = Changing::new(shards, "size = 2");
        let mut client = changing.router.client();
        client.query("CREATE SCHEMA aside; CREATE TABLE aside.notes (user_id bigint NOT NULL, v int)");
        client.query("INSERT INTO aside.notes VALUES (1, 99)");
        for how in ["by sql", "by the protocol"] {
            match how {
                "by sql" => drop(client.query("PREPARE a AS SELECT v FROM notes WHERE user_id = 1")),
                _ => prepare(&mut client, "a", "SELECT v FROM notes WHERE user_id = 1"),
            }
            assert_eq!((client.text("EXECUTE a"), run(&mut client, "a").text()), ("10".into(), "10".into()));
            client.query("SET search_path = aside");
            assert_eq!((client.text("EXECUTE a"), run(&mut client, "a").text()), ("99".into(), "99".into()), "{how}");
            client.query("RESET search_path");
            assert_eq!((client.text("EXECUTE a"), run(&mut client, "a").text()), ("10".into(), "10".into()));
            client.query("DEALLOCATE a");
        }
    }
}

#[test]
fn execute_over_shards_evaluates_arguments_once_and_refuses_what_it_cannot() {
    let changing = Changing::new(3, "size = 2");
    let mut client = changing.router.client();
    client.query("PREPARE one(bigint, text) AS SELECT v, $2 FROM notes WHERE user_id = $1");
    client.query("PREPARE all_of(int, timestamptz, float8, bytea, numeric[]) AS SELECT count(*), sum(v + $1) FROM notes WHERE v > $1 AND $2 IS NOT NULL AND $3 = 0.1 AND $4 = '\\x01ff' AND $5 = '{1.50,NULL}'");
    assert_eq!(client.text("EXECUTE one(1 + 1, 'it''s' || now() - now())"), "20|it's00:00:00");
    assert_eq!(client.text("EXECUTE one(NULL, 1)"), "");
    assert_eq!(client.text("EXECUTE all_of(15.4, now(), 0.1, E'\\\\x01ff', ARRAY[1.50, NULL])"), "3|135");
    assert_eq!(client.query("EXECUTE one(nextval('numbers'), 'x')").sqlstate(), "0A000");
    let says = "CREATE FUNCTION says(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS \
                $$ BEGIN RAISE NOTICE 'said'; RETURN i; END $$";
    assert_eq!(client.query(says).sqlstate(), "");
    let answer = client.query("EXECUTE one(says(2), 'x')");
    assert_eq!((answer.text(), answer.notices.len()), ("20|x".into(), 1), "evaluated once, and heard");
    assert_eq!(client.query("EXPLAIN EXECUTE one(1, 'x')").sqlstate(), "0A000");
    assert_eq!(client.query("CREATE TABLE t AS EXECUTE one(1, 'x')").sqlstate(), "0A000");
    client.query("PREPARE own(notes) AS SELECT $1");
    assert_eq!(client.query("PREPARE own(notes) AS SELECT $1").sqlstate(), "0A000");
    // In binary, and described.
    let all = [
        parse("", "EXECUTE one(3, 'x')"),
        describe(""),
        bind("", "", &[], true),
        message(b'D', b"P\0"),
        execute(""),
        sync(),
    ];
    let answer = ask(&mut client, &all);
    assert_eq!(answer.sqlstate(), "", "{:?}", answer.error);
    assert_eq!(answer.results.last().unwrap().rows, [[Some(vec![0, 0, 0, 30]), Some(b"x".to_vec())]]);
    assert_eq!(client.query("BEGIN; EXECUTE one(1, 'a'); EXECUTE one(2, 'b'); COMMIT").sqlstate(), "");
    client.send(&query("EXECUTE one(1, 'a')"));
    let tags: Vec<u8> = std::iter::repeat_with(|| client.message().unwrap().tag).take(4).collect();
    assert_eq!(tags, *b"TDCZ", "as a simple query is answered");
    client.query("PREPARE more AS INSERT INTO notes VALUES ($1, $2)");
    client.send(&query("EXECUTE more(9, 90)"));
    let tags: Vec<u8> = std::iter::repeat_with(|| client.message().unwrap().tag).take(2).collect();
    assert_eq!(tags, *b"CZ");
}
