//! COPY TO STDOUT over several shards: what the client gets is what one PostgreSQL sends, but for the order of rows.

use crate::support::running::{Running, databases, shared};
use crate::support::wire::{Fields, Message, Wire, bind, execute, message, parse, query, sync};

const SCHEMA: &str = "CREATE TABLE notes (user_id bigint NOT NULL, v int, w text); CREATE TABLE none (user_id bigint); \
                      CREATE TABLE plans (id int PRIMARY KEY, name text)";

/// Rows of every shape: NULL, empty, all bits set, separators.
const ROWS: &str = "1\t1\ta\n2\t\\N\t\n3\t-1\t\\N\n4\t4\tx,\"y\"\n5\t5\tä\\n\n6\t-1\tuser_id\n7\t7\t\\t\n8\t8\tb\n";

fn fill(mut owner: Wire) {
    assert_eq!(owner.query(SCHEMA).sqlstate(), "");
    assert_eq!(owner.copy("COPY notes FROM STDIN", ROWS.as_bytes()).sqlstate(), "");
    assert_eq!(owner.copy("COPY plans FROM STDIN", b"1\tone\n").sqlstate(), "");
}

/// The messages up to ReadyForQuery, those of rows sorted; before them may come a line of names.
fn answer(wire: &mut Wire, names: usize) -> Vec<Message> {
    let mut messages = Vec::new();
    while messages.last().is_none_or(|last: &Message| last.tag != b'Z') {
        messages.push(wire.message().unwrap());
    }
    for copy in messages.chunk_by_mut(|a, b| a.tag == b'd' && b.tag == b'd') {
        let names = names.min(copy.len());
        copy[names..].sort_by(|a, b| a.body.cmp(&b.body));
    }
    messages
}

const TEXTS: [&str; 23] = [
    "COPY notes TO STDOUT",
    "COPY notes (w, user_id) TO STDOUT",
    "COPY notes TO STDOUT (HEADER)",
    "COPY notes TO STDOUT CSV HEADER",
    "COPY notes TO STDOUT (FORMAT csv, HEADER true, FORCE_QUOTE *, DELIMITER ';', NULL '-')",
    "COPY notes TO STDOUT (FORMAT csv, HEADER off)",
    "COPY none TO STDOUT",
    "COPY none TO STDOUT (FORMAT csv, HEADER)",
    "COPY none TO STDOUT (FORMAT binary)",
    "COPY (SELECT * FROM notes) TO STDOUT",
    "COPY ( SELECT w, v + 1 AS x FROM notes WHERE v > 0 ) TO STDOUT (HEADER)",
    "COPY (SELECT v FROM notes WHERE user_id IN (1, 2, 3, 4)) TO STDOUT (FORMAT csv)",
    "COPY (SELECT v FROM notes WHERE user_id = 3) TO STDOUT",
    "COPY (SELECT n.w, p.name FROM notes n JOIN plans p ON p.id = n.v) TO STDOUT",
    "COPY (SELECT user_id, count(*) FROM notes GROUP BY user_id) TO STDOUT (FORMAT csv)",
    "COPY notes (nope) TO STDOUT",
    "COPY notes TO STDOUT (nope)",
    "COPY (SELECT 1 / v FROM notes WHERE v < -5) TO STDOUT",
    "COPY (SELECT 1 / (v - v) FROM notes) TO STDOUT",
    "COPY plans TO STDOUT; COPY notes (v) TO STDOUT; SELECT count(*) FROM notes",
    "BEGIN; DELETE FROM notes WHERE user_id = 1; COPY notes TO STDOUT; ROLLBACK",
    "SELECT count(*) FROM notes",
    "COPY notes TO STDOUT",
];

#[test]
fn the_rows_of_all_shards_are_one_copy() {
    let plain = databases("plain", 1);
    fill(Wire::connect(shared().port(), "app", &plain[0]));
    let mut one = Wire::connect(shared().port(), "app", &plain[0]);
    let routers: Vec<Running> = (1..=3).map(|count| Running::over(&databases("shards", count))).collect();
    routers.iter().for_each(|router| fill(router.client()));
    let mut clients: Vec<Wire> = routers.iter().map(Running::client).collect();
    let extended =
        |text: &str| [parse("", text), bind("", "", &[], false), message(b'D', b"P\0"), execute(""), sync()].concat();
    for text in TEXTS {
        let single = if text.contains("; ") { Vec::new() } else { vec![extended(text)] };
        for request in [query(text)].into_iter().chain(single) {
            let names = usize::from(text.contains("HEADER") && !text.contains("HEADER off"));
            one.send(&request);
            let expected = answer(&mut one, names);
            for (count, client) in clients.iter_mut().enumerate() {
                client.send(&request);
                let seen = answer(client, names);
                let is_error = expected.iter().any(|message| message.tag == b'E');
                if is_error {
                    assert!(seen.iter().any(|message| message.tag == b'E'), "{text}: {seen:?}");
                    assert_eq!(seen.last(), expected.last(), "{text}");
                } else {
                    assert_eq!(seen, expected, "{text} over {} shards", count + 1);
                }
            }
        }
    }
}

/// Header and trailer come once; the router's bytes are read by PostgreSQL.
#[test]
fn a_binary_copy_can_be_read_again() {
    let plain = databases("plain", 1);
    let mut one = Wire::connect(shared().port(), "app", &plain[0]);
    assert_eq!(one.query(SCHEMA).sqlstate(), "");
    for count in 1..=3 {
        let router = Running::over(&databases("shards", count));
        fill(router.client());
        let mut client = router.client();
        client.send(&query("COPY notes TO STDOUT (FORMAT binary)"));
        let messages = answer(&mut client, 9);
        let data: Vec<&Message> = messages.iter().filter(|message| message.tag == b'd').collect();
        assert_eq!(data.len(), 9, "eight rows and the trailer");
        assert!(data[0].body.len() > 19, "the header comes with the first row");
        assert_eq!(client.query("SELECT 1").text(), "1");
        client.send(&query("COPY notes TO STDOUT (FORMAT binary)"));
        let copied = client.answer(&[]).copied;
        assert_eq!(one.copy("COPY notes FROM STDIN (FORMAT binary)", &copied).tag(), "COPY 8");
        let all = "SELECT * FROM notes ORDER BY user_id";
        assert_eq!(one.text(all), client.text(all));
        assert_eq!(one.query("TRUNCATE notes").sqlstate(), "");
    }
}

/// What the router or a final query makes of the shards' rows is printed as PostgreSQL prints it, in its order.
#[test]
fn a_copy_of_merged_rows_is_that_of_one_postgresql() {
    let plain = databases("plain", 1);
    fill(Wire::connect(shared().port(), "app", &plain[0]));
    let mut one = Wire::connect(shared().port(), "app", &plain[0]);
    let routers: Vec<Running> = (2..=3).map(|count| Running::over(&databases("merged", count))).collect();
    routers.iter().for_each(|router| fill(router.client()));
    let mut clients: Vec<Wire> = routers.iter().map(Running::client).collect();
    let queries = [
        "SELECT * FROM notes ORDER BY user_id",
        "SELECT w, v FROM notes ORDER BY user_id DESC LIMIT 3",
        "SELECT count(*), sum(v), max(w) FROM notes",
        "SELECT v, count(*) AS \"how, many\" FROM notes GROUP BY v ORDER BY v NULLS FIRST",
        "SELECT DISTINCT v FROM notes WHERE v > 0 ORDER BY v",
        "SELECT a.w, b.v FROM notes a JOIN notes b ON a.v = b.user_id ORDER BY a.user_id",
        "SELECT w FROM (SELECT w FROM notes UNION ALL SELECT name FROM plans) x ORDER BY w COLLATE \"C\"",
        "SELECT v FROM notes WHERE user_id IN (1, 2, 3, 4) ORDER BY user_id",
        "SELECT array_agg(w ORDER BY user_id), 1.50::numeric, '2024-02-29'::date, true FROM notes",
        "SELECT '\\.'::text FROM notes GROUP BY 1",
        "SELECT count(*) FROM notes WHERE user_id = 99",
        "SELECT v FROM notes WHERE v > 100 ORDER BY v",
        "SELECT 1 / (v - v) FROM notes ORDER BY 1",
        "SELECT nope FROM notes ORDER BY 1",
    ];
    let options = [
        "",
        " (HEADER)",
        " CSV HEADER",
        " (FORMAT csv, FORCE_QUOTE *, DELIMITER ';', NULL '-')",
        " (FORMAT csv, QUOTE '''', ESCAPE '\\', NULL 'x')",
        " (DELIMITER '|', NULL 'nil')",
        " (FORMAT binary)",
        " (FORMAT csv, FORCE_QUOTE (nope))",
    ];
    let extended =
        |text: &str| [parse("", text), bind("", "", &[], false), message(b'D', b"P\0"), execute(""), sync()].concat();
    for text in queries.iter().flat_map(|query| options.map(|options| format!("COPY ({query}) TO STDOUT{options}"))) {
        if text.contains("1 / (") && text.contains("(nope)") {
            // Which of two errors comes first is anybody's guess.
            continue;
        }
        for request in [query(&text), extended(&text)] {
            one.send(&request);
            let expected = answer(&mut one, 1 << 20);
            for client in &mut clients {
                client.send(&request);
                let seen = answer(client, 1 << 20);
                match expected.iter().find(|message| message.tag == b'E') {
                    None => assert_eq!(seen, expected, "{text}"),
                    Some(error) => {
                        let told = seen.iter().find(|message| message.tag == b'E').unwrap();
                        let code = |message: &Message| Fields::read(&message.body).sqlstate().to_owned();
                        assert_eq!(code(told), code(error), "{text}");
                        assert_eq!(seen.last(), expected.last(), "{text}");
                    }
                }
            }
        }
    }
    for client in &mut clients {
        let refused = client.query("COPY (SELECT now() FROM notes, plans ORDER BY 1) TO STDOUT (ENCODING 'latin1')");
        assert_eq!(refused.sqlstate(), "0A000");
        let answer = client.query("COPY (DELETE FROM notes RETURNING w) TO STDOUT");
        assert_eq!((answer.sqlstate(), answer.copied.len()), ("0A000", 0));
        assert_eq!(client.text("SELECT count(*) FROM notes"), "8");
    }
}

/// A client that leaves in the middle of a copy leaves its servers to others.
#[test]
fn a_copy_is_left_in_the_middle() {
    let router = Running::over(&databases("shards", 2));
    let mut owner = router.client();
    assert_eq!(owner.query("CREATE TABLE wide (user_id bigint, w text)").sqlstate(), "");
    let rows: String = (0..20_000).map(|user| format!("{user}\t{}\n", "w".repeat(1000))).collect();
    assert_eq!(owner.copy("COPY wide FROM STDIN", rows.as_bytes()).tag(), "COPY 20000");
    for _ in 0..3 {
        let mut client = router.client();
        client.send(&query("COPY wide TO STDOUT"));
        assert_eq!(client.message().unwrap().tag, b'H');
        drop(client);
        assert_eq!(router.client().text("SELECT count(*) FROM wide"), "20000");
    }
    owner.send(&query("COPY wide TO STDOUT"));
    let answer = owner.answer(&[]);
    assert_eq!((answer.tag(), answer.copied.len()), ("COPY 20000", rows.len()));
}
