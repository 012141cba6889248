//! The same conversation with PostgreSQL and with the router over one, two and three shards: every
//! answer is the same, and so is what is left at the end.

use std::fmt::Write;
use std::ops::RangeInclusive;

use crate::support::running::{RULES, Running, database_config, databases, shared, superuser};
use crate::support::wire::{Answer, Result, Wire, bind, execute, message, parse, query, sync};

/// What a client sends before it waits for ReadyForQuery.
enum Step<'a> {
    /// One Query message.
    Text(&'a str),
    /// Statements through the extended protocol, then Sync.
    Pipeline(&'a [&'a str]),
    /// Statements through the extended protocol and a Query message behind them, then Sync.
    Behind(&'a [&'a str], &'a str),
    /// Parse and Describe of a named statement, then Sync.
    Prepare(&'a str, &'a str),
    /// Bind and Execute of a named statement with these parameters, then Sync.
    Run(&'a str, &'a [Option<&'a str>]),
}

use Step::{Behind, Pipeline, Prepare, Run, Text};

/// Rows of one user are on one shard; the other users' are elsewhere, as it comes.
const SCHEMA: &str = "CREATE TABLE notes (user_id bigint NOT NULL, v int, \
                      UNIQUE (user_id, v) DEFERRABLE INITIALLY DEFERRED)";

/// Holds every conversation on both sides, each with an empty table.
fn compare(conversations: &[&[Step<'_>]]) {
    compare_over(1..=3, "", conversations);
}

/// The same over so many shards, with more lines of configuration.
fn compare_over(counts: RangeInclusive<usize>, pool: &str, conversations: &[&[Step<'_>]]) {
    let plain = databases("plain", 1);
    let mut expected = Vec::new();
    for conversation in conversations {
        let mut owner = Wire::connect(shared().port(), "app", &plain[0]);
        owner.query(SCHEMA);
        expected.push(hold(&mut Wire::connect(shared().port(), "app", &plain[0]), conversation));
        expected.push(owner.text("SELECT * FROM notes ORDER BY user_id, v"));
        owner.query("DROP TABLE notes");
    }
    let mut differences = String::new();
    for count in counts {
        let shards = databases("shards", count);
        let router = Running::start(&format!("{pool}{}", database_config(shared(), &shards, RULES)));
        router.wait_until_ready();
        let mut expected = expected.iter();
        for conversation in conversations {
            let mut owner = router.client();
            assert_eq!(owner.query(SCHEMA).sqlstate(), "");
            let seen = hold(&mut router.client(), conversation);
            let left = owner.text("SELECT * FROM notes ORDER BY user_id, v");
            for (what, seen) in [("the answers", &seen), ("what is left", &left)] {
                let expected: &String = expected.next().unwrap();
                if seen != expected {
                    let both = format!("--- PostgreSQL\n{expected}\n--- over {count} shards\n{seen}\n");
                    writeln!(differences, "{what} differ\n{both}").unwrap();
                }
            }
            owner.query("DROP TABLE notes");
        }
        for shard in &shards {
            let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                        AND usename = 'app' AND state LIKE 'idle in transaction%'";
            assert_eq!(superuser(shared(), shard).text(open), "0", "a transaction is left open");
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

fn hold(wire: &mut Wire, conversation: &[Step<'_>]) -> String {
    let mut seen = String::new();
    for step in conversation {
        match step {
            Text(text) => {
                writeln!(seen, "> {text}").unwrap();
                wire.send(&query(text));
            }
            Pipeline(statements) => {
                writeln!(seen, "> {}", statements.join(" | ")).unwrap();
                wire.send(&[pipeline(statements), sync()].concat());
            }
            Behind(statements, text) => {
                writeln!(seen, "> {} , {text}", statements.join(" | ")).unwrap();
                wire.send(&[pipeline(statements), query(text), sync(), query("")].concat());
                // A Query that is passed over has no answer; that to an empty one ends the loop.
                let mut ends = 1 + usize::from(text.is_empty());
                while ends > 0 {
                    let answer = wire.answer(b"");
                    show(&answer, &mut seen);
                    let is_empty = |result: &Result| result.columns.is_none() && result.tag.is_empty();
                    ends -= answer.results.iter().filter(|result| is_empty(result)).count();
                }
                continue;
            }
            Prepare(name, sql) => {
                writeln!(seen, "> {name}: {sql}").unwrap();
                let describe = message(b'D', format!("S{name}\0").as_bytes());
                wire.send(&[parse(name, sql), describe, sync()].concat());
            }
            Run(name, parameters) => {
                writeln!(seen, "> run {name}").unwrap();
                wire.send(&[bind("", name, parameters, false), execute(""), sync()].concat());
            }
        }
        let answer = wire.answer(b"7\t70\n7\t71\n");
        show(&answer, &mut seen);
        // The router puts its own names into these, which errors must not show.
        if let (Text(text), Some(error)) = (step, &answer.error)
            && (text.contains("PREPARE") || text.contains("EXECUTE "))
        {
            writeln!(seen, "at {}; {}", error.field(b'P'), error.field(b'D')).unwrap();
        }
    }
    seen
}

/// Parse, Bind and Execute of each.
fn pipeline(statements: &[&str]) -> Vec<u8> {
    let messages = statements.iter().flat_map(|sql| [parse("", sql), bind("", "", &[], false), execute("")]);
    messages.collect::<Vec<_>>().concat()
}

fn show(answer: &Answer, seen: &mut String) {
    for notice in &answer.notices {
        writeln!(seen, "{} {}: {}", notice.field(b'S'), notice.sqlstate(), notice.message()).unwrap();
    }
    for result in &answer.results {
        for row in &result.rows {
            let cells = row.iter().map(|cell| String::from_utf8_lossy(cell.as_deref().unwrap_or(b"-")).into_owned());
            writeln!(seen, "{}", cells.collect::<Vec<_>>().join(" ")).unwrap();
        }
        writeln!(seen, "{}", result.tag).unwrap();
    }
    if let Some(error) = &answer.error {
        writeln!(seen, "ERROR {}: {}", error.sqlstate(), error.message()).unwrap();
    }
    writeln!(seen, "{}", char::from(answer.status)).unwrap();
}

const COUNT: &str = "SELECT count(*) FROM notes";

#[test]
fn texts_of_several_statements_are_transactions_as_postgres_makes_them() {
    const INSERT: &str = "INSERT INTO notes VALUES (1, 10)";
    let texts = [
        "INSERT INTO notes VALUES (1, 10); SELECT count(*) FROM notes; INSERT INTO notes VALUES (1, 11)",
        "INSERT INTO notes VALUES (1, 10); SELECT 1 / 0",
        "SELECT count(*) FROM notes; INSERT INTO notes VALUES (1, 10); SELECT 1 / (v - v) FROM notes WHERE user_id = 1",
        "INSERT INTO notes VALUES (1, 10); SELECT count(*) FROM notes; SELECT 1 / 0",
        "INSERT INTO notes VALUES (1, 10); SELECT count(*) FROM notes; COMMIT; SELECT 1 / 0",
        "INSERT INTO notes VALUES (1, 10); SELECT count(*) FROM notes; ROLLBACK; INSERT INTO notes VALUES (1, 11)",
        "INSERT INTO notes VALUES (1, 10); BEGIN; SELECT 1 / 0; COMMIT",
        "INSERT INTO notes VALUES (1, 10); SELECT count(*) FROM notes; BEGIN; INSERT INTO notes VALUES (1, 11); COMMIT",
        "INSERT INTO notes VALUES (1, 10); BEGIN; INSERT INTO notes VALUES (1, 11); ROLLBACK; SELECT count(*) FROM notes",
        "INSERT INTO notes VALUES (1, 10); BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1",
        "INSERT INTO notes VALUES (1, 10); BEGIN READ ONLY; INSERT INTO notes VALUES (1, 11)",
        "SET work_mem = '5MB'; BEGIN READ ONLY; SHOW work_mem",
        "BEGIN; COMMIT; INSERT INTO notes VALUES (1, 10); SELECT 1 / 0",
        "BEGIN; INSERT INTO notes VALUES (1, 10); COMMIT; INSERT INTO notes VALUES (1, 11); SELECT count(*) FROM notes",
        "BEGIN; BEGIN; COMMIT; COMMIT; ROLLBACK; SELECT 1",
        "INSERT INTO notes VALUES (1, 10); SAVEPOINT a",
        "SELECT count(*) FROM notes; COMMIT AND CHAIN; SELECT 1",
        "BEGIN; INSERT INTO notes VALUES (1, 10); SAVEPOINT a; INSERT INTO notes VALUES (1, 11); ROLLBACK TO a; COMMIT",
        "BEGIN; INSERT INTO notes VALUES (1, 10); COMMIT AND CHAIN; INSERT INTO notes VALUES (1, 11); ROLLBACK",
        "SET work_mem = '5MB'; SELECT 1 / 0",
        "SET work_mem = '5MB'; SELECT count(*) FROM notes",
        "SET LOCAL work_mem = '5MB'; SHOW work_mem; SELECT count(*) FROM notes",
        "INSERT INTO notes VALUES (1, 10), (1, 10); SELECT count(*) FROM notes; COMMIT; SELECT 1",
        "COPY notes FROM STDIN; SELECT count(*) FROM notes; SELECT 1 / 0",
        "COPY notes FROM STDIN; SELECT count(*) FROM notes",
        "CREATE TABLE more (user_id bigint, w int); INSERT INTO more VALUES (1, 5); SELECT * FROM more; DROP TABLE more",
        "CREATE TABLE more (user_id bigint, w int); INSERT INTO more VALUES (1, 5); SELECT 1 / 0",
        "SELECT * FROM more; SELECT 1",
        "SELECT 1; SELECT * FROM more",
        "INSERT INTO notes VALUES (1, 10); SELECT * FROM more",
        "SELECT 1; VACUUM notes",
        "SELECT count(*) FROM notes; DISCARD ALL",
        "SELECT count(*) FROM notes;; SELECT 1;",
        "BEGIN; SELECT 1 / 0; SELECT 2",
        "BEGIN; SELECT count(*) FROM notes; SELEC 1; COMMIT",
    ];
    let conversations: Vec<[Step<'_>; 5]> = texts
        .iter()
        .map(|text| [Text("SHOW work_mem"), Text(text), Text("SHOW work_mem"), Text(COUNT), Text("ROLLBACK")])
        .collect();
    let conversations: Vec<&[Step<'_>]> = conversations.iter().map(|steps| &steps[..]).collect();
    compare(&conversations);
    // In a block a text is a part of it.
    compare(&[
        &[Text("BEGIN"), Text("INSERT INTO notes VALUES (1, 10); SELECT count(*) FROM notes"), Text("ROLLBACK")],
        &[Text("BEGIN"), Text("SELECT 1 / 0; SELECT 1"), Text("SELECT 1; ROLLBACK"), Text("ROLLBACK; SELECT 1")],
        &[Text("BEGIN"), Text(INSERT), Text("COMMIT; SELECT 1 / (v - v) FROM notes WHERE user_id = 1"), Text(COUNT)],
        &[Text("BEGIN"), Text(INSERT), Text("ROLLBACK; INSERT INTO notes VALUES (1, 12); SELECT count(*) FROM notes")],
    ]);
}

#[test]
fn pipelines_are_transactions_as_postgres_makes_them() {
    const INSERT: &str = "INSERT INTO notes VALUES (1, 10)";
    compare(&[
        &[Pipeline(&[INSERT, "SELECT 1 / 0"]), Text(COUNT)],
        &[Pipeline(&["SELECT v FROM notes WHERE user_id = 1", INSERT, "SELECT v FROM notes WHERE user_id = 1"])],
        &[Pipeline(&["BEGIN", INSERT, "COMMIT"]), Text(COUNT)],
        &[Pipeline(&["BEGIN", INSERT, "SELECT 1 / 0", "COMMIT"]), Text(COUNT), Text("ROLLBACK"), Text(COUNT)],
        &[Pipeline(&["BEGIN", INSERT]), Pipeline(&[COUNT, "ROLLBACK"]), Text(COUNT)],
        &[
            Pipeline(&["BEGIN"]),
            Pipeline(&[INSERT]),
            Pipeline(&["SELECT 1 / 0"]),
            Pipeline(&["SELECT 1"]),
            Text("COMMIT"),
        ],
        &[Pipeline(&[COUNT, COUNT, "SELECT 1"])],
        &[Pipeline(&[INSERT, "ROLLBACK"]), Text(COUNT)],
        &[Pipeline(&[INSERT, "ROLLBACK", "INSERT INTO notes VALUES (1, 11)", "SELECT 1"]), Text(COUNT)],
        &[Pipeline(&[INSERT, "COMMIT", "INSERT INTO notes VALUES (1, 11)", "SELECT 1 / 0"]), Text(COUNT)],
        &[Pipeline(&[INSERT, "BEGIN"]), Text("ROLLBACK"), Text(COUNT)],
        &[Pipeline(&[INSERT, "BEGIN", "INSERT INTO notes VALUES (1, 11)"]), Text("COMMIT"), Text(COUNT)],
        &[Pipeline(&[INSERT, "BEGIN ISOLATION LEVEL SERIALIZABLE", COUNT]), Text(COUNT)],
        &[Pipeline(&[INSERT, INSERT, "COMMIT", "INSERT INTO notes VALUES (1, 11)"]), Text(COUNT)],
        &[Pipeline(&[INSERT, "COMMIT AND CHAIN"]), Text(COUNT)],
        &[Pipeline(&[INSERT, "SAVEPOINT a"]), Text(COUNT)],
        &[Pipeline(&[COUNT, "ROLLBACK", INSERT]), Text(COUNT)],
        &[Pipeline(&["SELEC"]), Pipeline(&["SELECT * FROM more"]), Text(COUNT)],
    ]);
}

#[test]
fn a_query_behind_a_pipeline_belongs_to_its_transaction() {
    const INSERT: &str = "INSERT INTO notes VALUES (1, 10)";
    const MORE: &str = "INSERT INTO notes VALUES (1, 11)";
    compare(&[
        &[Behind(&[INSERT], "SELECT 1 / 0"), Text(COUNT)],
        &[Behind(&[INSERT], "SELEC"), Text(COUNT)],
        &[Behind(&[INSERT], MORE), Text(COUNT)],
        &[Behind(&[INSERT], INSERT), Text(COUNT)],
        &[Behind(&[INSERT], ""), Text(COUNT)],
        &[Behind(&[INSERT], "SELECT v FROM notes WHERE user_id = 1"), Text(COUNT)],
        &[Behind(&[INSERT], COUNT), Text(COUNT)],
        &[Behind(&[INSERT, "SELECT 1 / 0"], MORE), Text(COUNT)],
        &[Behind(&["SELEC"], MORE), Text(COUNT)],
        &[Behind(&[INSERT], "INSERT INTO notes VALUES (1, 11); SELECT 1 / 0"), Text(COUNT)],
        &[Behind(&[INSERT], "INSERT INTO notes VALUES (1, 11); COMMIT; SELECT 1 / 0"), Text(COUNT)],
        &[Behind(&[INSERT], "BEGIN"), Text(MORE), Text("ROLLBACK"), Text(COUNT)],
        &[Behind(&[INSERT], "BEGIN"), Text("COMMIT"), Text(COUNT)],
        &[Behind(&[INSERT], "BEGIN ISOLATION LEVEL SERIALIZABLE"), Text(COUNT)],
        &[Behind(&[INSERT], "COMMIT"), Text(COUNT)],
        &[Behind(&[INSERT], "ROLLBACK"), Text(COUNT)],
        &[Behind(&[INSERT], "SAVEPOINT a"), Text(COUNT)],
        &[Behind(&[INSERT], "SET statement_timeout = '7s'"), Text("SHOW statement_timeout"), Text(COUNT)],
        &[Behind(&[INSERT], "SET statement_timeout = 'x'"), Text("SHOW statement_timeout"), Text(COUNT)],
        &[Behind(&[INSERT], "CREATE TABLE more (user_id bigint)"), Text("SELECT * FROM more"), Text("DROP TABLE more")],
        &[Behind(&["SELECT v FROM notes WHERE user_id = 1"], "SELECT 1 / 0"), Text(MORE), Text(COUNT)],
        &[Behind(&["BEGIN", INSERT], "SELECT 1 / 0"), Text("COMMIT"), Text(COUNT)],
        &[Behind(&["BEGIN", INSERT], MORE), Text("COMMIT"), Text(COUNT)],
        &[Text("BEGIN"), Behind(&[INSERT], MORE), Text("COMMIT"), Text(COUNT)],
        &[Text("BEGIN"), Behind(&["SELECT 1 / 0"], MORE), Text("COMMIT"), Text(COUNT)],
        &[Text("BEGIN"), Behind(&[INSERT], "COMMIT"), Text(COUNT)],
    ]);
    compare_over(
        1..=1,
        "",
        &[
            &[Behind(&["CREATE TABLE more (user_id bigint)"], "SELECT 1 / 0"), Text("DROP TABLE IF EXISTS more")],
            &[Behind(&[INSERT], "VACUUM notes"), Text(COUNT)],
            &[Behind(&[INSERT], "LOCK TABLE notes"), Text(COUNT)],
            &[Behind(&[INSERT], "DECLARE c CURSOR FOR SELECT 1"), Text(COUNT)],
            &[Text("PREPARE p AS INSERT INTO notes VALUES (2, $1)"), Behind(&[INSERT], "EXECUTE p(7)"), Text(COUNT)],
            &[
                Text("PREPARE p AS INSERT INTO notes VALUES (2, $1)"),
                Behind(&[INSERT], "EXECUTE p(1 / 0)"),
                Text(COUNT),
            ],
            &[Behind(&[INSERT], "PREPARE p AS SELECT * FROM nothing"), Text(COUNT)],
            &[Behind(&[INSERT], "SELECT set_config('statement_timeout', '9s', false)"), Text("SHOW statement_timeout")],
            &[Behind(&[INSERT], "INSERT INTO notes VALUES (2, 20)"), Text(COUNT)],
        ],
    );
}

/// What a server has in its transaction when a Query goes to others is committed with it or not at all.
#[test]
fn a_query_over_all_shards_ends_a_pipeline_with_it() {
    const INSERT: &str = "INSERT INTO notes VALUES (1, 10)";
    const SUM: &str = "SELECT sum(v) FROM notes";
    let elsewhere: Vec<String> = (2..6).map(|user| format!("INSERT INTO notes VALUES ({user}, 1)")).collect();
    let read: Vec<[Step<'_>; 2]> = elsewhere
        .iter()
        .map(|insert| [Behind(&["SELECT v FROM notes WHERE user_id = 1"], insert), Text(SUM)])
        .collect();
    let mut conversations: Vec<&[Step<'_>]> = read.iter().map(|steps| &steps[..]).collect();
    conversations.extend([
        &[Behind(&[INSERT], SUM), Text(SUM)][..],
        &[Behind(&[INSERT], "SELECT 1 / sum(v - v) FROM notes"), Text(SUM)],
        &[Behind(&[INSERT], "SELECT sum(v) FROM notes; SELECT 1 / sum(v - v) FROM notes"), Text(SUM)],
    ]);
    compare_over(2..=3, "", &conversations);
}

#[test]
fn statements_outlive_ddl_as_in_postgres() {
    const ONE: &str = "SELECT * FROM notes WHERE user_id = 1";
    const ALL: &str = "SELECT * FROM notes ORDER BY v";
    const INSERT: &str = "INSERT INTO notes VALUES (1, 10)";
    for sql in [ONE, ALL] {
        compare(&[
            &[
                Text(INSERT),
                Prepare("a", sql),
                Run("a", &[]),
                Prepare("b", "SELECT v FROM notes WHERE user_id = $1"),
                Run("b", &[Some("1")]),
                Text("ALTER TABLE notes ADD w int"),
                Run("a", &[]),
                Run("a", &[]),
                Run("b", &[Some("1")]),
                Prepare("c", sql),
                Run("c", &[]),
                Text("BEGIN"),
                Run("a", &[]),
                Text("ROLLBACK"),
                Text("ALTER TABLE notes DROP w"),
                Run("a", &[]),
                Run("c", &[]),
            ],
            &[
                Prepare("a", sql),
                Text("BEGIN"),
                Text("ALTER TABLE notes ADD w int"),
                Prepare("b", sql),
                Run("b", &[]),
                Text("ROLLBACK"),
                Run("b", &[]),
                Run("a", &[]),
            ],
            &[Prepare("a", sql), Text("DROP TABLE notes"), Run("a", &[]), Text(SCHEMA), Run("a", &[])],
        ]);
    }
}

#[test]
fn mistakes_get_the_errors_of_postgres() {
    compare(&[
        &[
            Prepare("a", "SELECT v FROM notes WHERE user_id = $1"),
            Run("a", &[]),
            Run("a", &[Some("1"), Some("2")]),
            Run("a", &[Some("x")]),
            Run("nope", &[]),
            Prepare("a", "SELECT 1"),
            Prepare("c", "SELECT 1; SELECT 2"),
            Prepare("d", "SELECT nope FROM notes WHERE user_id = 1"),
            Run("d", &[]),
        ],
        &[
            Text("BEGIN READ ONLY"),
            Text("SET TRANSACTION READ WRITE"),
            Text("INSERT INTO notes VALUES (1, 1)"),
            Text("COMMIT"),
        ],
        &[Text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"), Text("INSERT INTO notes VALUES (1, 1)")],
        &[Text("SET TRANSACTION READ ONLY"), Text("RELEASE a"), Text("ROLLBACK TO a"), Text("SAVEPOINT a")],
    ]);
}

#[test]
fn reset_goes_back_to_the_startup_packet() {
    let (plain, shards) = (databases("plain", 1), databases("shards", 2));
    let router = Running::over(&shards);
    let ways = [
        "RESET ALL",
        "RESET application_name",
        "SET application_name = DEFAULT",
        "BEGIN; RESET ALL; COMMIT",
        "BEGIN; RESET ALL; SHOW work_mem; ROLLBACK",
        "RESET ALL; SHOW work_mem",
        "SELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL",
        "BEGIN; SAVEPOINT s; RESET ALL; ROLLBACK TO s; SHOW work_mem; COMMIT",
        "BEGIN; RESET work_mem; SAVEPOINT s; SET work_mem = '9MB'; ROLLBACK TO s; SHOW work_mem; COMMIT",
        "BEGIN; SET work_mem = '9MB'; SELECT 1 / 0",
        "BEGIN; RESET ALL; SET work_mem = '9MB'; COMMIT",
    ];
    for way in ways {
        for first in ["SET work_mem = '8MB'", "SELECT 1"] {
            let steps =
                [Text(first), Text(way), Text("ROLLBACK"), Text("SHOW application_name"), Text("SHOW work_mem")];
            let [expected, seen] =
                [(shared().port(), plain[0].as_str()), (router.port, "app")].map(|(port, database)| {
                    let startup = [
                        ("user", "app"),
                        ("database", database),
                        ("application_name", "mine"),
                        ("options", "-c work_mem=7MB"),
                    ];
                    hold(&mut Wire::try_connect(port, &startup).unwrap(), &steps)
                });
            assert_eq!(seen, expected);
        }
    }
}

const INSERT_TWO: &str = "INSERT INTO notes VALUES (1, 10), (1, 11)";

/// PREPARE, EXECUTE and DEALLOCATE beside the statements of the protocol.
const PREPARED: &[&[Step<'_>]] = &[
    &[
        Text(INSERT_TWO),
        Text("PREPARE one AS SELECT v FROM notes WHERE user_id = $1 ORDER BY v"),
        Text("EXECUTE one(1)"),
        Text("EXECUTE one('1')"),
        Text("execute \"one\" ( 1 + 0 ) ;"),
        Text("EXECUTE one(NULL)"),
        Text("EXECUTE one(1.4)"),
        Text("EXECUTE one(true)"),
        Text("EXECUTE one('x')"),
        Text("EXECUTE one(nope)"),
        Text("EXECUTE one((SELECT 1))"),
        Text("EXECUTE one($1)"),
        Text("EXECUTE one"),
        Text("EXECUTE one(1, 2)"),
        Text("EXECUTE nope(1)"),
        Text("EXECUTE One(abs(-1))"),
        Run("one", &[Some("1")]),
        Pipeline(&["EXECUTE one(1)", "SELECT 1", "EXECUTE one(1)"]),
        Pipeline(&["EXECUTE nope(1)"]),
        Pipeline(&["EXECUTE one('x')"]),
        Text("PREPARE one AS SELECT 1"),
        Text("DEALLOCATE one"),
        Text("DEALLOCATE one"),
        Text("EXECUTE one(1)"),
        Run("one", &[Some("1")]),
        Text("SELECT 1"),
    ],
    &[
        Prepare("two", "SELECT v FROM notes WHERE user_id = $1 AND v > $2 ORDER BY v"),
        Text(INSERT_TWO),
        Text("EXECUTE two(1, 10)"),
        Text("PREPARE two AS SELECT 1"),
        Prepare("two", "SELECT 1"),
        Text("DEALLOCATE PREPARE two"),
        Run("two", &[Some("1"), Some("10")]),
        Prepare("two", "SELECT 1"),
        Text("EXECUTE two"),
        Text("DEALLOCATE ALL"),
        Text("EXECUTE two"),
        Text("DEALLOCATE ALL"),
    ],
    &[
        Text("PREPARE a AS SELECT nope FROM notes"),
        Text("PREPARE a AS SELECT * FROM nothere"),
        Text("PREPARE a AS SELEC 1"),
        Text("PREPARE a (nope) AS SELECT $1"),
        Text("PREPARE a AS SELECT $1"),
        Text("PREPARE b (int) AS SELECT $1 + $2"),
        Text("PREPARE c (text, numeric) AS SELECT $1, $2"),
        Text("PREPARE d AS CREATE TABLE x (i int)"),
        Text("EXECUTE a('x')"),
        Text("EXECUTE b(1, 2)"),
        Text("EXECUTE c(1, 2)"),
        Text("EXECUTE c('it''s', '1.50')"),
        Text("EXECUTE c($$a$$ || 'b', 3::numeric(5, 2)) -- so"),
        Text("PREPARE \"A \"\"b\" AS SELECT 3"),
        Text("EXECUTE \"A \"\"b\""),
        Text("PREPARE U&\"d\\0061t\" AS SELECT 4; PREPARE U&\"d!0061u\" UESCAPE '!' (int) AS SELECT $1"),
        Text("EXECUTE dat; EXECUTE U&\"d!0061u\" UESCAPE '!' (5); DEALLOCATE U&\"d!0061u\" UESCAPE '!'"),
        Text("PREPARE/*x*/\"é\"--x\n(int)/*)*/AS--x\nSELECT $1, nope"),
        Text("SELECT 'é'; PREPARE \"é\"(int) AS SELECT $1; EXECUTE \"é\"/*(*/(nope)"),
        Text("EXECUTE \"é\"((ARRAY[1, 2])[2])"),
        Text("EXECUTE \"é\"(5 -- so\n)"),
        Text("PREPARE e AS VALUES (1), (2)"),
        Text("/* e */ EXECUTE e"),
        Text("PREPARE none AS DELETE FROM notes WHERE user_id = $1"),
        Text("EXECUTE none(5)"),
    ],
    // What is prepared stays, whatever becomes of the transaction.
    &[
        Text("BEGIN"),
        Text("PREPARE a AS INSERT INTO notes VALUES ($1, $2) RETURNING v"),
        Text("EXECUTE a(1, 5)"),
        Text("ROLLBACK"),
        Text("EXECUTE a(1, 6)"),
        Text("BEGIN"),
        Text("DEALLOCATE a"),
        Text("PREPARE b AS SELECT 1 / 0"),
        Text("PREPARE c AS SELECT 1"),
        Text("ROLLBACK"),
        Text("EXECUTE a(1, 7)"),
        Text("EXECUTE b"),
        Text("EXECUTE c"),
        Text("BEGIN; SELECT 1 / 0"),
        Text("PREPARE d AS SELECT 1"),
        Text("DEALLOCATE d"),
        Text("EXECUTE d"),
        Text("ROLLBACK"),
        Text("EXECUTE d"),
    ],
    // Texts of several statements.
    &[
        Text("PREPARE a AS INSERT INTO notes VALUES ($1, $2); EXECUTE a(1, 5); EXECUTE a(1, 6); DEALLOCATE a"),
        Text("PREPARE a AS INSERT INTO notes VALUES ($1, $2); EXECUTE a(1, 7); SELECT 1 / 0; EXECUTE a(1, 8)"),
        Text("EXECUTE a(1, 9); SELECT v FROM notes WHERE user_id = 1 ORDER BY v"),
        Text("PREPARE b AS SELECT nope; PREPARE c AS SELECT 1"),
        Text("EXECUTE b"),
        Text("EXECUTE c"),
        Text("SELECT 1; EXECUTE a(1)"),
        Text("BEGIN; EXECUTE a(1, 10); ROLLBACK; EXECUTE a(1, 11)"),
        Text(COUNT),
    ],
    // The extended protocol.
    &[
        Pipeline(&["PREPARE a AS INSERT INTO notes VALUES ($1, $2) RETURNING v", "EXECUTE a(1, 5)"]),
        Pipeline(&["EXECUTE a(1, 6)", "SELECT 1 / 0"]),
        Pipeline(&["PREPARE b AS SELECT nope", "SELECT 1"]),
        Pipeline(&["SELECT 1", "PREPARE b AS SELECT nope", "SELECT 1"]),
        Pipeline(&["DEALLOCATE a", "EXECUTE a(1, 6)"]),
        Prepare("e", "EXECUTE f(1)"),
        Text("PREPARE f(bigint) AS SELECT v FROM notes WHERE user_id = $1"),
        Run("e", &[]),
        Prepare("g", "EXECUTE f(1)"),
        Run("g", &[]),
        Run("g", &[Some("1")]),
        Text("DISCARD PLANS"),
        Run("g", &[]),
        Text("DISCARD ALL"),
        Text("EXECUTE f(1)"),
        Run("g", &[]),
    ],
    // Tables come, go and change.
    &[
        Text(INSERT_TWO),
        Text("PREPARE a AS SELECT * FROM notes WHERE user_id = $1 ORDER BY v"),
        Text("PREPARE b AS SELECT v FROM notes ORDER BY v"),
        Text("ALTER TABLE notes ADD w int"),
        Text("EXECUTE a(1)"),
        Run("a", &[Some("1")]),
        Text("EXECUTE b"),
        Text("ALTER TABLE notes DROP w"),
        Text("EXECUTE a(1)"),
        Text("CREATE TABLE more (user_id bigint, w int)"),
        Text("PREPARE c AS SELECT w FROM more WHERE user_id = $1"),
        Text("DROP TABLE more"),
        Run("c", &[Some("1")]),
        Text("CREATE TABLE more (user_id bigint, w int)"),
        Text("EXECUTE c(1)"),
        Text("DROP TABLE more"),
    ],
];

#[test]
fn statements_of_sql_and_of_the_protocol_share_their_names() {
    compare(PREPARED);
    // Every statement gives way to the next; the server is kept; it is kept and all give way.
    for pool in ["prepared_statements_max = 1", "mode = \"session\"", "mode = \"session\"\nprepared_statements_max = 1"]
    {
        compare_over(1..=2, &format!("[pool]\n{pool}\n"), PREPARED);
    }
}

#[test]
fn what_else_is_made_of_execute_works_on_one_shard() {
    let conversation = [
        Text(INSERT_TWO),
        Text("PREPARE one(bigint) AS SELECT v FROM notes WHERE user_id = $1 ORDER BY v"),
        Text("EXPLAIN (COSTS OFF) EXECUTE one(1)"),
        Text("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) EXECUTE one(1 + 0)"),
        Text("EXPLAIN EXECUTE one"),
        Text("EXPLAIN EXECUTE nope(1)"),
        Text("EXPLAIN EXECUTE one(nope)"),
        Prepare("explain", "EXPLAIN (COSTS OFF) EXECUTE one(1)"),
        Run("explain", &[]),
        Text("CREATE TABLE copied AS EXECUTE one(1)"),
        Text("SELECT * FROM copied"),
        Text("CREATE TEMP TABLE copied_too (w) AS EXECUTE one(1) WITH NO DATA; SELECT * FROM copied_too"),
        Text("DROP TABLE copied"),
        Pipeline(&["CREATE TABLE copied AS EXECUTE one(1)", "SELECT v FROM copied", "DROP TABLE copied"]),
        Text("PREPARE more AS INSERT INTO notes VALUES ($1, $2) RETURNING v"),
        Text("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) EXECUTE more(1, 12)"),
        Text("EXPLAIN (COSTS OFF) EXECUTE more(1, 13)"),
        Text("CREATE SEQUENCE numbers; PREPARE next AS SELECT nextval('numbers') + $1"),
        Text("EXECUTE next(nextval('numbers')); EXECUTE next(0)"),
        Text("EXECUTE next(nextval('numbers'))"),
        Text("EXECUTE next(currval('numbers'))"),
        Text("DROP SEQUENCE numbers"),
        Text("CREATE FUNCTION says(i int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'i'; RETURN i; END $$"),
        Text("EXECUTE one(says(1))"),
        Pipeline(&["EXECUTE one(says(1))"]),
        Text("DROP FUNCTION says(int)"),
        Text("CREATE TYPE mood AS ENUM ('low', 'high'); PREPARE feel(mood, mood[]) AS SELECT $1, $2"),
        Text("EXECUTE feel('high', '{low,high}'); DROP TYPE mood"),
        Prepare("set", "SET work_mem = '7MB'"),
        Text("EXECUTE set"),
        Text("SHOW work_mem"),
        Prepare("show", "SHOW work_mem"),
        Text("EXECUTE show"),
        Prepare("table", "CREATE TABLE made (i int)"),
        Text("EXECUTE table"),
        Text("DROP TABLE made"),
    ];
    compare_over(1..=1, "", &[&conversation]);
    compare_over(1..=1, "[pool]\nprepared_statements_max = 1\n", &[&conversation]);
}
