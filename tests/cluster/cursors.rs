//! Portals that are fetched in portions, cursors and row locks: the same messages with PostgreSQL and with the
//! router over one, two and three shards.

use std::fmt::Write;

use crate::support::running::{RULES, Running, database_config, databases, shared, superuser};
use crate::support::wire::{Fields, Wire, bind, columns, message, parse, query, sync, values};

/// Messages in short, sent together: `Q text`; `P statement text`, `B portal statement values`, `D portal`,
/// `E portal rows`, `C portal`, `H` and `S` of the extended protocol, where `_` is no name. Answers are read up to
/// ReadyForQuery.
type Turn<'a> = &'a [&'a str];

const SCHEMA: &str = "CREATE TABLE notes (user_id bigint NOT NULL, v int, w varchar(10)); \
                      CREATE TABLE plans (id int PRIMARY KEY, name text)";

const ROWS: i64 = 12;

fn fill(owner: &mut Wire) {
    assert_eq!(owner.query(SCHEMA).sqlstate(), "");
    for user in 1..=ROWS {
        let row = format!("INSERT INTO notes VALUES ({user}, {}, 'w{user}')", user % 5);
        assert_eq!(owner.query(&row).sqlstate(), "");
    }
    let plans = owner.copy("COPY plans FROM STDIN", b"1\tone\n2\ttwo\n");
    assert_eq!(plans.sqlstate(), "");
}

/// Holds every conversation with PostgreSQL and over one, two and three shards.
fn compare(conversations: &[&[Turn<'_>]]) {
    let plain = databases("plain", 1);
    fill(&mut Wire::connect(shared().port(), "app", &plain[0]));
    let converse = |wire: &dyn Fn() -> Wire| -> Vec<String> {
        conversations.iter().map(|conversation| hold(&mut wire(), conversation)).collect()
    };
    let expected = converse(&|| Wire::connect(shared().port(), "app", &plain[0]));
    let mut differences = String::new();
    for count in 1..=3 {
        let shards = databases("shards", count);
        let router = Running::start(&database_config(shared(), &shards, RULES));
        router.wait_until_ready();
        fill(&mut router.client());
        for (seen, expected) in converse(&|| router.client()).iter().zip(&expected) {
            if seen != expected {
                write!(differences, "--- PostgreSQL\n{expected}--- over {count} shards\n{seen}\n").unwrap();
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

fn hold(wire: &mut Wire, conversation: &[Turn<'_>]) -> String {
    let mut seen = String::new();
    for turn in conversation {
        writeln!(seen, "> {}", turn.join(" | ")).unwrap();
        wire.send(&turn.iter().map(|ask| encode(ask)).collect::<Vec<_>>().concat());
        loop {
            let message = wire.message().unwrap();
            show(message.tag, &message.body, &mut seen);
            if message.tag == b'Z' {
                break;
            }
        }
    }
    seen
}

fn encode(ask: &str) -> Vec<u8> {
    let (kind, rest) = ask.split_once(' ').unwrap_or((ask, ""));
    let name = |name: &str| if name == "_" { String::new() } else { name.to_owned() };
    let mut words = rest.split(' ');
    let mut next = || name(words.next().unwrap());
    match kind {
        "Q" => query(rest),
        "P" => {
            let (statement, text) = rest.split_once(' ').unwrap();
            parse(&name(statement), text)
        }
        "B" => {
            let (portal, statement) = (next(), next());
            let parameters: Vec<&str> = words.collect();
            bind(&portal, &statement, &parameters.iter().map(|value| Some(*value)).collect::<Vec<_>>(), false)
        }
        "D" => message(b'D', format!("P{}\0", next()).as_bytes()),
        "C" => message(b'C', format!("P{}\0", next()).as_bytes()),
        "E" => {
            let mut body = format!("{}\0", next()).into_bytes();
            body.extend(next().parse::<u32>().unwrap().to_be_bytes());
            message(b'E', &body)
        }
        "H" => message(b'H', b""),
        "S" => sync(),
        _ => panic!("unknown message {ask}"),
    }
}

fn show(tag: u8, body: &[u8], seen: &mut String) {
    let text = String::from_utf8_lossy(body);
    match tag {
        b'T' => {
            let columns = columns(body).into_iter().map(|column| format!("{}:{}", column.name, column.type_oid));
            writeln!(seen, "T {}", columns.collect::<Vec<_>>().join(" ")).unwrap();
        }
        b'D' => {
            let cells =
                values(body).into_iter().map(|cell| cell.map_or("-".into(), |cell| String::from_utf8(cell).unwrap()));
            writeln!(seen, "D {}", cells.collect::<Vec<_>>().join(" ")).unwrap();
        }
        b'E' | b'N' => {
            let fields = Fields::read(body);
            writeln!(seen, "{} {}: {}", char::from(tag), fields.sqlstate(), fields.message()).unwrap();
        }
        b'C' | b'Z' => writeln!(seen, "{} {}", char::from(tag), text.trim_end_matches('\0')).unwrap(),
        _ => writeln!(seen, "{}", char::from(tag)).unwrap(),
    }
}

const ALL: &str = "P all SELECT user_id, w FROM notes ORDER BY user_id";

const PORTALS: &[&[Turn<'_>]] = &[
    // As JDBC does it.
    &[
        &[ALL, "S"],
        &["Q BEGIN"],
        &["B C_1 all", "D C_1", "E C_1 5", "S"],
        &["E C_1 5", "S"],
        &["D C_1", "E C_1 5", "S"],
        &["E C_1 5", "S"],
        &["C C_1", "S"],
        &["E C_1 5", "S"],
        &["Q ROLLBACK"],
    ],
    // Outside of a block a portal ends with Sync.
    &[
        &[ALL, "B p all", "E p 5", "H", "E p 4", "E p 10", "S"],
        &["E p 5", "S"],
        &["B _ all", "E _ 5", "S"],
        &["E _ 5", "S"],
        &["B _ all", "E _ 0", "S"],
    ],
    // The portion is all there is, or more; the rest without a limit.
    &[
        &["Q BEGIN"],
        &[ALL, "B p all", "E p 12", "E p 12", "S"],
        &["B q all", "E q 100", "S"],
        &["B r all", "E r 3", "E r 0", "S"],
        &["B r all", "S"],
        &["Q ROLLBACK"],
    ],
    // Parameters, types, expressions; two portals at once; others in between.
    &[
        &["Q BEGIN"],
        &["P a SELECT w, v + $1, $2::text, count(*) OVER () FROM notes WHERE v < $3 ORDER BY user_id", "S"],
        &["B a a 7 x 3", "D a", "E a 2", "S"],
        &["P b SELECT n.w, p.name FROM notes n JOIN plans p ON p.id = n.v ORDER BY n.user_id", "B b b", "E b 2", "S"],
        &["E a 2", "E b 2", "E a 2", "S"],
        &["Q SELECT count(*) FROM notes"],
        &["Q SELECT w FROM notes WHERE user_id = 3"],
        &["P c SELECT sum(v) FROM notes", "B c c", "E c 0", "E a 2", "S"],
        &["E b 0", "S"],
        &["Q SELECT string_agg(w, ',' ORDER BY w) FROM notes"],
        &["E a 0", "S"],
        &["Q COMMIT"],
        &["E a 1", "S"],
    ],
    // SQL moves in them too.
    &[
        &["Q BEGIN"],
        &[ALL, "B p all", "S"],
        &["Q MOVE 2 IN p"],
        &["E p 2", "S"],
        &["Q SELECT w FROM notes WHERE user_id = 1"],
        &["Q SELECT w FROM notes WHERE user_id = 2"],
        &["P one SELECT w FROM notes WHERE user_id = 3", "B q one", "S"],
        &["P two SELECT generate_series(user_id, 9) FROM notes WHERE user_id = 4", "B r two", "E r 2", "S"],
        &["Q FETCH 3 FROM p; FETCH q; FETCH 2 FROM r"],
        &["P m MOVE 1 IN p", "B _ m", "E _ 0", "E p 1", "S"],
        &["Q CLOSE p"],
        &["E p 1", "S"],
        &["Q ROLLBACK"],
    ],
    // What is fetched is what was there when the portal was first executed.
    &[
        &["Q BEGIN"],
        &[ALL, "B p all", "E p 2", "S"],
        &["Q UPDATE notes SET w = 'new' WHERE user_id = 3"],
        &["E p 2", "S"],
        &["Q SELECT w FROM notes ORDER BY user_id LIMIT 3"],
        &["Q ROLLBACK"],
    ],
    // Errors while rows come; savepoints.
    &[
        &["P f SELECT 1 / (user_id - 4) FROM notes ORDER BY user_id", "S"],
        &["B p f", "E p 2", "E p 5", "E p 1", "S"],
        &["Q BEGIN"],
        &["Q SAVEPOINT s"],
        &[ALL, "B p all", "E p 2", "S"],
        &["Q ROLLBACK TO s"],
        &["E p 2", "S"],
        &["Q ROLLBACK"],
    ],
];

#[test]
fn portals_over_several_shards_are_fetched_in_portions() {
    compare(PORTALS);
}

/// What a write gives back waits, and counts by portions.
#[test]
fn what_a_write_gives_back_is_fetched_in_portions() {
    const INSERT: &str = "P i INSERT INTO notes (user_id, w) VALUES (101, 'a'), (102, 'b'), (103, 'c'), (104, 'd'), (105, 'e') \
                          RETURNING user_id, w";
    compare(&[
        &[
            &["Q BEGIN"],
            &[INSERT, "B p i", "D p", "E p 2", "S"],
            // All of it is done at the first portion.
            &["Q SELECT count(*) FROM notes"],
            &["E p 2", "S"],
            &["D p", "E p 2", "S"],
            &["E p 2", "S"],
            &["Q ROLLBACK"],
            &["Q SELECT count(*) FROM notes"],
        ],
        &[&["Q BEGIN"], &[INSERT, "B p i", "E p 5", "E p 5", "S"], &["B q i", "E q 2", "S"], &["Q ROLLBACK"]],
        // Outside of a block a portal ends with Sync, and what it has done stays.
        &[
            &[INSERT, "B p i", "E p 3", "E p 0", "S"],
            &["E p 3", "S"],
            &["P d DELETE FROM notes WHERE user_id > 100", "B d d", "E d 2", "S"],
            &["B r i", "E r 1", "S"],
            &["Q SELECT count(*) FROM notes"],
            &["Q DELETE FROM notes WHERE user_id > 100"],
        ],
    ]);
}

/// The same of a statement whose CTE writes.
#[test]
fn what_stands_beside_a_writing_cte_is_fetched_in_portions() {
    const READ: &str = "P r WITH gone AS (DELETE FROM notes WHERE v > $1 RETURNING user_id, w) SELECT w, $2 FROM gone ORDER BY user_id";
    const JOIN: &str = "P j WITH gone AS (DELETE FROM notes WHERE v > 2 RETURNING user_id) \
                        SELECT p.name, count(*) FROM gone JOIN plans p ON p.id < user_id GROUP BY p.name ORDER BY p.name";
    compare(&[
        &[
            &["Q BEGIN"],
            &[READ, "B p r 2 x", "D p", "E p 2", "S"],
            // All of it is done at the first portion.
            &["Q SELECT count(*) FROM notes"],
            &["E p 2", "S"],
            &["E p 0", "S"],
            &["Q ROLLBACK"],
            &["Q SELECT count(*) FROM notes"],
        ],
        &[
            &["Q BEGIN"],
            &[JOIN, "B p j", "D p", "E p 1", "S"],
            &["E p 5", "S"],
            &["B q r 0 y", "E q 0", "S"],
            &["Q SELECT count(*) FROM notes"],
            &["Q ROLLBACK"],
        ],
        // A pipeline is one transaction.
        &[
            &["Q INSERT INTO notes VALUES (500, 9, 'late'), (501, 9, 'late'), (502, 9, 'late')"],
            &[
                "P d WITH gone AS (DELETE FROM notes WHERE v = 9 RETURNING user_id) SELECT count(*) FROM gone",
                "B _ d",
                "E _ 0",
                "P e SELECT 1 / 0",
                "B _ e",
                "E _ 0",
                "S",
            ],
            &["Q SELECT count(*) FROM notes"],
            &["B _ d", "E _ 0", "B _ d", "E _ 0", "S"],
            &["Q SELECT count(*) FROM notes"],
        ],
    ]);
}

#[test]
fn the_unnamed_portal_stays_the_clients() {
    compare(&[
        &[
            &["Q BEGIN"],
            &[ALL, "P one SELECT generate_series(user_id, user_id + 9) FROM notes WHERE user_id = 5", "S"],
            &["B _ one", "E _ 2", "S"],
            // The router asks the same server for its part of this, under another portal.
            &["B n all", "E n 0", "E _ 2", "S"],
            &["B m all", "E m 3", "E _ 2", "E m 3", "S"],
            &["P agg SELECT string_agg(w, ',' ORDER BY w) FROM notes", "B g agg", "E g 0", "E _ 2", "S"],
            &["Q ROLLBACK"],
        ],
        &[
            &["Q BEGIN"],
            &[ALL, "B _ all", "E _ 2", "S"],
            &["B n all", "E n 0", "E _ 2", "S"],
            &["P agg SELECT string_agg(w, ',' ORDER BY w) FROM notes", "B g agg", "E g 0", "E _ 2", "S"],
            &["P c SELECT count(*) FROM notes", "B _ c", "E _ 0", "S"],
            &["B _ all", "E _ 2", "S"],
            // A Query closes it.
            &["Q SELECT 1"],
            &["E _ 2", "S"],
            &["Q ROLLBACK"],
        ],
    ]);
}

const DECLARE: &str = "Q DECLARE c CURSOR FOR SELECT user_id, w FROM notes ORDER BY user_id";

const CURSORS: &[&[Turn<'_>]] = &[
    &[
        &["Q BEGIN"],
        &[DECLARE],
        &["Q FETCH c"],
        &["Q FETCH FORWARD 3 FROM c"],
        &["Q MOVE 2 IN c"],
        &["Q FETCH 2 FROM c; SELECT count(*) FROM notes"],
        &["Q UPDATE notes SET w = 'new' WHERE user_id = 10"],
        &["Q FETCH ALL FROM c"],
        &["Q FETCH ALL FROM c"],
        &["Q CLOSE c"],
        &["Q FETCH c"],
        &["Q ROLLBACK"],
    ],
    &[
        &[DECLARE],
        &["Q BEGIN; DECLARE c CURSOR FOR SELECT w FROM notes ORDER BY w; FETCH 2 FROM c; COMMIT"],
        &["Q DECLARE c CURSOR FOR SELECT w FROM notes ORDER BY w; FETCH 2 FROM c"],
        &["Q FETCH c"],
        &["Q BEGIN"],
        &[
            "Q DECLARE \"For\" SCROLL CURSOR WITHOUT HOLD FOR -- for\n WITH x AS (SELECT v, w FROM notes) SELECT * FROM x ORDER BY w",
        ],
        &["Q FETCH LAST FROM \"For\""],
        &["Q FETCH PRIOR FROM \"For\""],
        &["Q FETCH ABSOLUTE 2 FROM \"For\""],
        &["Q FETCH BACKWARD ALL FROM \"For\""],
        &["Q DECLARE n NO SCROLL CURSOR FOR (SELECT w FROM notes UNION ALL SELECT name FROM plans) ORDER BY 1"],
        &["Q FETCH 13 FROM n"],
        &["Q FETCH BACKWARD 1 FROM n"],
        &["Q ROLLBACK"],
    ],
    // Names are the session's.
    &[
        &["Q BEGIN"],
        &["Q DECLARE c CURSOR FOR SELECT w FROM notes WHERE user_id = 1"],
        &["Q DECLARE d CURSOR FOR SELECT w FROM notes WHERE user_id = 2"],
        &["Q DECLARE e CURSOR FOR SELECT w FROM notes WHERE user_id = 3"],
        &["Q DECLARE f CURSOR FOR SELECT w FROM notes ORDER BY w"],
        &["Q FETCH c"],
        &["Q FETCH d"],
        &["Q FETCH e"],
        &["Q FETCH f"],
        &["Q CLOSE ALL"],
        &["Q DECLARE d CURSOR FOR SELECT w FROM notes ORDER BY w DESC"],
        &["Q DECLARE c CURSOR FOR SELECT w FROM notes ORDER BY w"],
        &["Q FETCH d"],
        &["Q FETCH 2 FROM c"],
        &["Q SAVEPOINT s"],
        &["Q DECLARE c CURSOR FOR SELECT w FROM notes WHERE user_id = 1"],
        &["Q ROLLBACK TO s"],
        &["Q DECLARE c CURSOR FOR SELECT w FROM notes WHERE user_id = 2"],
        &["Q ROLLBACK TO s"],
        &["Q DECLARE c CURSOR FOR SELECT w FROM notes WHERE user_id = 3"],
        &["Q ROLLBACK TO s"],
        &["Q DECLARE c CURSOR FOR SELECT w FROM notes"],
        &["Q ROLLBACK TO s"],
        &["Q DECLARE g CURSOR FOR SELECT w FROM notes ORDER BY w"],
        &["Q ROLLBACK TO s"],
        &["Q DECLARE g CURSOR FOR SELECT w FROM notes WHERE user_id = 1"],
        &["Q ROLLBACK TO s"],
        &["Q DECLARE g CURSOR FOR SELECT w FROM notes WHERE user_id = 2"],
        &["Q FETCH g"],
        &["Q COMMIT"],
        &["Q FETCH g"],
    ],
    // By the protocol, with parameters.
    &[
        &["Q BEGIN"],
        &["P d DECLARE c CURSOR FOR SELECT w, $2::int FROM notes WHERE v > $1 ORDER BY user_id", "S"],
        &["B _ d 2 5", "D _", "E _ 1", "S"],
        &["P f FETCH 2 FROM c", "B _ f", "D _", "E _ 0", "S"],
        &["B _ f", "E _ 1", "E _ 1", "S"],
        &["D c", "E c 1", "S"],
        &["P m MOVE BACKWARD ALL IN c", "B _ m", "E _ 0", "S"],
        &["P x CLOSE ALL", "B _ x", "E _ 0", "S"],
        &["B _ f", "E _ 0", "S"],
        &["Q ROLLBACK"],
    ],
    // WITH HOLD outlives its transaction.
    &[
        &["Q DECLARE h CURSOR WITH HOLD FOR SELECT w FROM notes ORDER BY user_id"],
        &["Q FETCH 2 FROM h"],
        &["Q BEGIN"],
        &["Q DECLARE i SCROLL CURSOR WITH HOLD FOR SELECT v, count(*) FROM notes GROUP BY v ORDER BY v"],
        &["Q COMMIT"],
        &["Q FETCH 2 FROM i"],
        &["Q SELECT count(*) FROM notes"],
        &["Q FETCH 2 FROM h"],
        &["Q CLOSE h"],
        &["Q FETCH LAST FROM i"],
        &["Q CLOSE ALL"],
        &["Q FETCH h"],
        &["Q FETCH i"],
    ],
];

#[test]
fn cursors_over_several_shards_are_postgres_own() {
    compare(CURSORS);
}

#[test]
fn the_row_of_a_cursor_is_changed_where_the_cursor_is() {
    let declare = "Q DECLARE c CURSOR FOR SELECT user_id, v, w FROM notes WHERE user_id = 3 FOR UPDATE";
    compare(&[
        &[
            &["Q BEGIN"],
            &[declare],
            &["Q FETCH c"],
            &["Q UPDATE notes SET w = 'changed' WHERE CURRENT OF c RETURNING user_id, w"],
            &["Q UPDATE ONLY notes n SET v = n.v + 10 WHERE CURRENT OF c; SELECT v FROM notes WHERE user_id = 3"],
            &["P u UPDATE notes SET v = v + $1 WHERE CURRENT OF c RETURNING v", "B _ u 5", "E _ 0", "S"],
            &["Q DECLARE d CURSOR FOR SELECT * FROM notes WHERE user_id = 4", "Q FETCH d"],
            &["Q DELETE FROM notes WHERE CURRENT OF d RETURNING *"],
            &["Q UPDATE notes SET w = 'again' WHERE CURRENT OF c"],
            &["Q DELETE FROM notes WHERE CURRENT OF c"],
            &["Q COMMIT"],
            &["Q SELECT user_id, v, w FROM notes ORDER BY user_id"],
            &["Q UPDATE notes SET w = 'no cursor' WHERE CURRENT OF c"],
        ],
        &[
            &["Q BEGIN"],
            &["P s SELECT w FROM notes WHERE user_id = $1 FOR UPDATE", "B p s 7", "E p 1", "S"],
            &["Q UPDATE notes SET w = 'of a portal' WHERE CURRENT OF p RETURNING w"],
            &["Q COMMIT"],
        ],
        &[&["Q BEGIN"], &[declare], &["Q UPDATE notes SET w = 'not fetched' WHERE CURRENT OF c"], &["Q ROLLBACK"]],
        &[&["Q BEGIN"], &[declare], &["Q FETCH c"], &["Q DELETE FROM notes WHERE CURRENT OF d"], &["Q ROLLBACK"]],
    ]);
}

#[test]
fn the_row_of_a_cursor_is_changed_by_what_one_shard_can_know() {
    let router = Running::over(&databases("shards", 2));
    let mut client = router.client();
    fill(&mut client);
    for (text, reason) in [
        ("UPDATE notes SET user_id = 5 WHERE CURRENT OF c", "cannot change the sharding key"),
        ("UPDATE notes SET v = (SELECT max(v) FROM notes) WHERE CURRENT OF c", "reads other rows"),
        ("DELETE FROM notes USING notes m WHERE CURRENT OF c", "reads other rows"),
        ("UPDATE plans SET id = 1 WHERE CURRENT OF c", "the copy of one shard alone"),
    ] {
        client.query("BEGIN; DECLARE c CURSOR FOR SELECT * FROM notes WHERE user_id = 3; FETCH c");
        let answer = client.query(text);
        assert_eq!(answer.sqlstate(), "0A000", "{text}");
        assert!(answer.error.unwrap().message().contains(reason), "{text}");
        assert_eq!(client.query("ROLLBACK").sqlstate(), "");
    }
    // The rows of such a cursor are nobody's any more.
    client.query("BEGIN; DECLARE c CURSOR FOR SELECT * FROM notes ORDER BY v; FETCH c");
    assert_eq!(client.query("UPDATE notes SET v = 1 WHERE CURRENT OF c").sqlstate(), "24000");
}

#[test]
fn rows_are_locked_on_all_shards() {
    compare(&[&[
        &["Q SELECT user_id, w FROM notes ORDER BY user_id FOR UPDATE"],
        &["Q SELECT user_id FROM notes WHERE v = 2 ORDER BY 1 DESC FOR SHARE NOWAIT"],
        &["Q SELECT n.w FROM notes n JOIN plans p ON p.id = n.v ORDER BY n.user_id FOR UPDATE OF n SKIP LOCKED"],
        &["Q SELECT a.w FROM notes a JOIN notes b USING (user_id) ORDER BY user_id FOR UPDATE OF a FOR SHARE OF b"],
        &["P l SELECT w FROM notes WHERE v > $1 ORDER BY user_id FOR NO KEY UPDATE", "B _ l 3", "D _", "E _ 0", "S"],
        &["Q SELECT w FROM notes FOR UPDATE OF nope"],
    ]]);
}

/// What a second client sees of the locks of a first one.
const SECOND: [&str; 8] = [
    "SELECT w FROM notes WHERE user_id = 3 FOR UPDATE NOWAIT",
    "SELECT w FROM notes WHERE user_id = 4 FOR UPDATE NOWAIT",
    "SELECT user_id FROM notes ORDER BY user_id FOR UPDATE NOWAIT",
    "SELECT user_id FROM notes ORDER BY user_id FOR UPDATE SKIP LOCKED",
    "SELECT count(*) FROM notes",
    "SET lock_timeout = '50ms'; UPDATE notes SET w = 'x' WHERE user_id = 8",
    "UPDATE notes SET w = w WHERE user_id = 9",
    "SELECT n.w FROM notes n LEFT JOIN notes m USING (user_id) FOR UPDATE OF m",
];

#[test]
fn locks_hold_until_their_transaction_ends() {
    let hold_locks = |first: &mut Wire, second: &mut Wire| {
        let mut seen = String::new();
        for end in ["SELECT 1", "ROLLBACK"] {
            if end == "SELECT 1" {
                assert_eq!(first.query("BEGIN").sqlstate(), "");
                let locked = first.text("SELECT user_id FROM notes WHERE v = 3 ORDER BY user_id FOR UPDATE");
                assert_eq!(locked, "3\n8");
            }
            assert_eq!(first.query(end).sqlstate(), "");
            for text in SECOND {
                let answer = second.query(text);
                match &answer.error {
                    Some(error) => writeln!(seen, "{text}: {}", error.message()).unwrap(),
                    None => writeln!(seen, "{text}: {}", answer.text().replace('\n', " ")).unwrap(),
                }
            }
        }
        seen
    };
    let plain = databases("plain", 1);
    let connect = || Wire::connect(shared().port(), "app", &plain[0]);
    fill(&mut connect());
    let expected = hold_locks(&mut connect(), &mut connect());
    for count in 2..=3 {
        let router = Running::over(&databases("shards", count));
        fill(&mut router.client());
        assert_eq!(hold_locks(&mut router.client(), &mut router.client()), expected, "over {count} shards");
    }
}

/// Two clients that lock rows of several shards wait for each other in the same place, so that neither waits forever.
#[test]
fn shards_are_locked_one_after_another() {
    let shards = databases("shards", 2);
    let router = Running::over(&shards);
    fill(&mut router.client());
    let users = |shard: &str| {
        let mut owner = Wire::connect(shared().port(), "app", shard);
        let users = owner.text("SELECT user_id FROM notes ORDER BY user_id");
        users.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let (first, second) = (users(&shards[0]), users(&shards[1]));
    let lock = |user: &str| format!("SELECT FROM notes WHERE user_id = {user} FOR UPDATE NOWAIT");
    let mut holder = router.client();
    assert_eq!(holder.query(&format!("BEGIN; {}", lock(first.last().unwrap()))).sqlstate(), "");
    let mut waiter = router.client();
    waiter.send(&query("BEGIN; SELECT user_id FROM notes ORDER BY user_id FOR UPDATE"));
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let mut watch = superuser(shared(), &shards[0]);
    while watch.text(waits) != "1" {}
    // It has locked what comes before the row it waits for, and nothing on the second shard.
    let mut third = router.client();
    assert_eq!(third.query(&lock(&first[0])).sqlstate(), "55P03");
    for user in &second {
        assert_eq!(third.query(&lock(user)).sqlstate(), "", "user {user} is locked already");
    }
    assert_eq!(holder.query("ROLLBACK").sqlstate(), "");
    assert_eq!(waiter.answer(&[]).text().lines().count(), usize::try_from(ROWS).unwrap());
    assert_eq!(third.query(&lock(&second[0])).sqlstate(), "55P03");
}

#[test]
fn what_is_kept_for_portals_cursors_and_locks_is_bounded() {
    let limits = "[limits]\nfinal_query_bytes_max = \"64KB\"\nmerge_buffer_max = \"64KB\"\n";
    let shards = databases("shards", 2);
    let router = Running::start(&format!("{limits}{}", database_config(shared(), &shards, RULES)));
    router.wait_until_ready();
    let mut wire = router.client();
    assert_eq!(wire.query("CREATE TABLE wide (user_id bigint, w text)").sqlstate(), "");
    let rows: String = (0..200).map(|user| format!("{user}\t{}\n", "w".repeat(1000))).collect();
    assert_eq!(wire.copy("COPY wide FROM STDIN", rows.as_bytes()).sqlstate(), "");
    let portions = |wire: &mut Wire, text: &str| {
        wire.send(&["Q BEGIN"].map(encode).concat());
        assert_eq!(wire.answer(&[]).sqlstate(), "");
        wire.send(&[&format!("P _ {text}"), "B p _", "E p 2", "S"].map(encode).concat());
        let answer = wire.answer(&[]);
        assert_eq!(wire.query("ROLLBACK").sqlstate(), "");
        answer.sqlstate().to_owned()
    };
    assert_eq!(portions(&mut wire, "SELECT w FROM wide ORDER BY user_id"), "54000");
    assert_eq!(portions(&mut wire, "SELECT user_id FROM wide ORDER BY user_id"), "");
    assert_eq!(portions(&mut wire, "SELECT user_id FROM wide FOR UPDATE"), "0A000");
    let declared = |wire: &mut Wire, columns: &str| {
        let declare = format!("BEGIN; DECLARE c CURSOR FOR SELECT {columns} FROM wide; FETCH 2 FROM c");
        let answer = wire.query(&declare);
        assert_eq!(wire.query("ROLLBACK").sqlstate(), "");
        answer.sqlstate().to_owned()
    };
    assert_eq!(declared(&mut wire, "w"), "54000");
    assert_eq!(declared(&mut wire, "user_id"), "");
    assert_eq!(wire.query("SELECT w FROM wide ORDER BY user_id FOR UPDATE").sqlstate(), "53200");
    assert_eq!(wire.query("SELECT user_id FROM wide ORDER BY user_id FOR UPDATE").sqlstate(), "");
    // Without a lock its rows stream.
    assert_eq!(wire.query("SELECT w FROM wide ORDER BY user_id").sqlstate(), "");
    assert_eq!(wire.text("SELECT count(*) FROM wide"), "200");
}

/// A pinned session uses primaries only, so that is where a cursor WITH HOLD has to be.
#[test]
fn held_cursors_keep_their_servers() {
    let router = Running::over(&databases("shards", 2));
    fill(&mut router.client());
    let mut wire = router.client();
    assert_eq!(wire.query("DECLARE h CURSOR WITH HOLD FOR SELECT w FROM notes ORDER BY user_id").sqlstate(), "");
    for user in 1..=3 {
        // Others use the servers meanwhile, were they free.
        assert_eq!(router.client().query("BEGIN; SELECT count(*) FROM notes; ROLLBACK").sqlstate(), "");
        assert_eq!(wire.text("FETCH h"), format!("w{user}"));
    }
    assert_eq!(wire.query("CLOSE h").sqlstate(), "");
    assert_eq!(wire.query("FETCH h").sqlstate(), "34000");
}
