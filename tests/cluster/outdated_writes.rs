//! Writes over several shards that call a function which somebody has replaced by one with another result: as what a client prepares
//! before and after, they give and store what PostgreSQL would.

use crate::prepared::{Changing, ask, describe};
use crate::support::wire::{Answer, Wire, bind, execute, message, parse, sync};

const INT4: u32 = 23;
const TEXT: u32 = 25;

/// What writes, what takes it back, and the numbers that the function is shown.
struct Case {
    sql: &'static str,
    undo: &'static str,
    shown: &'static [&'static str],
}

const TENS: &[&str] = &["10", "20", "30", "40"];

/// All rows that give back what is shown.
const GIVING: [Case; 8] = [
    Case { sql: "UPDATE notes SET v = v RETURNING shown(v)", undo: "SELECT 1", shown: TENS },
    Case {
        sql: "INSERT INTO notes VALUES (11, 10), (12, 20), (13, 30), (14, 40) RETURNING shown(v)",
        undo: "DELETE FROM notes WHERE user_id > 10",
        shown: TENS,
    },
    Case {
        sql: "INSERT INTO notes VALUES (11, 10), (12, 20), (13, 30), (14, 40) ON CONFLICT DO NOTHING RETURNING shown(v)",
        undo: "DELETE FROM notes WHERE user_id > 10",
        shown: TENS,
    },
    Case {
        sql: "INSERT INTO notes SELECT v, v FROM notes RETURNING shown(v)",
        undo: "DELETE FROM notes WHERE user_id >= 10",
        shown: TENS,
    },
    Case {
        sql: "UPDATE notes SET user_id = user_id + 100 RETURNING shown(v)",
        undo: "UPDATE notes SET user_id = user_id - 100",
        shown: TENS,
    },
    Case {
        sql: "UPDATE plans SET name = name WHERE random() >= 0 RETURNING shown(id)",
        undo: "SELECT 1",
        shown: &["1"],
    },
    Case {
        sql: "WITH w AS (UPDATE notes SET v = v RETURNING v) INSERT INTO notes SELECT v + 1, v FROM w RETURNING shown(v)",
        undo: "DELETE FROM notes WHERE user_id > 10",
        shown: TENS,
    },
    Case { sql: "UPDATE plans SET name = name RETURNING shown(id)", undo: "SELECT 1", shown: &["1"] },
];

/// What is shown is stored, as text.
const STORING: [Case; 8] = [
    Case {
        sql: "UPDATE texts SET t = shown(user_id::int) RETURNING t",
        undo: "SELECT 1",
        shown: &["1000", "2000", "3000"],
    },
    Case {
        sql: "INSERT INTO texts SELECT v, shown(v) FROM notes RETURNING t",
        undo: "DELETE FROM texts WHERE user_id < 1000",
        shown: TENS,
    },
    Case {
        sql: "INSERT INTO texts SELECT user_id, shown(v) FROM notes RETURNING t",
        undo: "DELETE FROM texts WHERE user_id < 1000",
        shown: TENS,
    },
    Case {
        sql: "INSERT INTO texts SELECT v + 1, shown(v) FROM notes GROUP BY v RETURNING t",
        undo: "DELETE FROM texts WHERE user_id < 1000",
        shown: TENS,
    },
    Case {
        sql: "UPDATE texts SET user_id = user_id + 100000, t = shown(user_id::int) RETURNING t",
        undo: "UPDATE texts SET user_id = user_id - 100000",
        shown: &["1000", "2000", "3000"],
    },
    Case {
        sql: "UPDATE texts SET t = (SELECT shown(v) FROM notes WHERE v = 20) RETURNING t",
        undo: "SELECT 1",
        shown: &["20", "20", "20"],
    },
    Case {
        sql: "WITH w AS (UPDATE notes SET v = v RETURNING v, shown(v) AS s) INSERT INTO texts SELECT v, s FROM w RETURNING t",
        undo: "DELETE FROM texts WHERE user_id < 1000",
        shown: TENS,
    },
    Case {
        sql: "UPDATE plans SET name = shown(id) WHERE random() >= 0 RETURNING name",
        undo: "SELECT 1",
        shown: &["1"],
    },
];

fn changing() -> Changing {
    let changing = Changing::new(3, "size = 3");
    let mut owner = changing.router.client();
    for sql in [
        "CREATE TABLE texts (user_id bigint NOT NULL, t text)",
        "CREATE TABLE plans (id int PRIMARY KEY, name text)",
        "INSERT INTO texts VALUES (1000, ''), (2000, ''), (3000, '')",
        "INSERT INTO plans VALUES (1, '')",
    ] {
        assert_eq!(owner.query(sql).sqlstate(), "", "{sql}");
    }
    changing
}

/// How a client has a statement run that it has not run before.
#[derive(Clone, Copy, Debug)]
enum Way {
    Simple,
    DescribesStatement,
    DescribesPortal,
    InBinary,
    InPortions,
    Prepare,
}

const WAYS: [Way; 6] =
    [Way::Simple, Way::DescribesStatement, Way::DescribesPortal, Way::InBinary, Way::InPortions, Way::Prepare];

fn run(client: &mut Wire, way: Way, sql: &str) -> Answer {
    let portal = || message(b'D', b"P\0");
    let binary = matches!(way, Way::InBinary);
    match way {
        Way::Simple => client.query(sql),
        Way::DescribesStatement => {
            ask(client, &[parse("", sql), describe(""), bind("", "", &[], false), execute(""), sync()])
        }
        Way::DescribesPortal | Way::InBinary => {
            ask(client, &[parse("", sql), bind("", "", &[], binary), portal(), execute(""), sync()])
        }
        Way::InPortions => {
            let some = message(b'E', b"\0\0\0\0\x64");
            ask(client, &[parse("", sql), bind("", "", &[], false), portal(), some, sync()])
        }
        Way::Prepare => {
            assert_eq!(client.query(&format!("PREPARE w AS {sql}")).sqlstate(), "", "{sql}");
            let answer = client.query("EXECUTE w");
            assert_eq!(client.query("DEALLOCATE w").sqlstate(), "");
            answer
        }
    }
}

/// The type of the one column, and its values, in order.
fn seen(answer: &Answer) -> (u32, Vec<String>) {
    assert_eq!(answer.sqlstate(), "", "{:?}", answer.error);
    let column = answer.results.iter().find_map(|result| result.columns.as_ref()).expect("a description");
    let value = |value: &[u8]| match (column[0].format, column[0].type_oid) {
        (1, INT4) => i32::from_be_bytes(value.try_into().unwrap()).to_string(),
        _ => String::from_utf8_lossy(value).into_owned(),
    };
    let rows = answer.results.iter().flat_map(|result| &result.rows);
    let mut values: Vec<String> = rows.map(|row| value(row[0].as_deref().unwrap())).collect();
    values.sort();
    (column[0].type_oid, values)
}

fn expected(case: &Case, prefix: &str) -> Vec<String> {
    let mut values: Vec<String> = case.shown.iter().map(|value| format!("{prefix}{value}")).collect();
    values.sort();
    values
}

fn undo(client: &mut Wire, case: &Case) {
    assert_eq!(client.query(case.undo).sqlstate(), "", "{}", case.undo);
}

#[test]
fn who_writes_for_the_first_time_after_the_change_never_hears_of_it() {
    for way in WAYS {
        let changing = changing();
        let mut before = changing.router.client();
        let cases = || GIVING.iter().map(|case| (case, true)).chain(STORING.iter().map(|case| (case, false)));
        for (case, gives) in cases() {
            let types = if gives { INT4 } else { TEXT };
            for _ in 0..2 {
                assert_eq!(seen(&run(&mut before, way, case.sql)), (types, expected(case, "")), "{} {way:?}", case.sql);
                undo(&mut before, case);
            }
        }
        changing.change();
        for (case, _) in cases() {
            let mut client = changing.router.client();
            let answer = run(&mut client, way, case.sql);
            assert_eq!(answer.sqlstate(), "", "{} {way:?} {:?}", case.sql, answer.error);
            assert_eq!(seen(&answer), (TEXT, expected(case, "t")), "{} {way:?}", case.sql);
            undo(&mut client, case);
        }
    }
}

/// As PostgreSQL does, before anything is written.
#[test]
fn who_was_told_of_other_rows_hears_that_they_have_changed() {
    // Each by itself: what is noticed once holds for all.
    for case in &GIVING {
        let changing = changing();
        let mut client = changing.router.client();
        assert_eq!(ask(&mut client, &[parse("w", case.sql), describe("w"), sync()]).sqlstate(), "");
        let again = |client: &mut Wire| ask(client, &[bind("", "w", &[], false), execute(""), sync()]);
        assert_eq!(again(&mut client).sqlstate(), "", "{}", case.sql);
        undo(&mut client, case);
        changing.change();
        let state = "SELECT count(*), sum(user_id) FROM notes";
        let rows = client.text(state);
        for _ in 0..2 {
            assert_eq!(again(&mut client).sqlstate(), "0A000", "{}", case.sql);
        }
        assert_eq!(client.text(state), rows, "{}", case.sql);
    }
}
