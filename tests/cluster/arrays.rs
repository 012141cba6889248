//! INSERT of many rows: the shards get them as arrays, and store what VALUES would have stored.

use std::fmt::Write;

use crate::support::running::{Running, databases};
use crate::support::wire::{self, Wire};

/// So many that each shard gets enough of them.
const ROWS: i64 = 60;

/// What the server runs for a row is what a trigger sees.
const SETUP: [&str; 3] = [
    "CREATE TABLE told (user_id bigint PRIMARY KEY, words text, moment timestamptz, id uuid, flag boolean, half float8, \
     seen text)",
    "CREATE FUNCTION sees() RETURNS trigger LANGUAGE plpgsql AS \
     $$ BEGIN NEW.seen := current_query(); RETURN NEW; END $$",
    "CREATE TRIGGER sees BEFORE INSERT ON told FOR EACH ROW EXECUTE FUNCTION sees()",
];

fn table(name: &str) -> (Running, Wire) {
    let router = Running::over(&databases(name, 2));
    let mut client = router.client();
    for sql in SETUP {
        let answer = client.query(sql);
        assert_eq!(answer.sqlstate(), "", "{sql}: {:?}", answer.error);
    }
    (router, client)
}

/// How the servers were told their rows.
fn seen(client: &mut Wire) -> String {
    client.text("SELECT DISTINCT CASE WHEN seen LIKE '%ROWS FROM%' THEN 'arrays' ELSE 'values' END FROM told")
}

#[test]
fn literals_go_as_arrays() {
    let (_router, mut client) = table("literals_go");
    let mut sql = "INSERT INTO told (user_id, words, moment, flag, half) VALUES ".to_owned();
    for n in 1..=ROWS {
        let comma = if n == 1 { "" } else { ", " };
        write!(sql, "{comma}({n}, 'it''s {n}', '2024-02-29 12:00:00+00'::timestamptz, {}, -{n}.5)", n % 2 == 0)
            .unwrap();
    }
    assert_eq!(client.query(&sql).tag(), format!("INSERT 0 {ROWS}"));
    assert_eq!(seen(&mut client), "arrays");
    let sums =
        "SELECT count(*), sum(user_id), sum(half), count(*) FILTER (WHERE flag), min(words), max(moment) FROM told";
    assert_eq!(client.text(sums), "60|1830|-1860|30|it's 1|2024-02-29 12:00:00+00");
    client.query("TRUNCATE told").tag();
    // One value that has to be computed.
    let sql = sql.replacen("'it''s 1'", "upper('a')", 1);
    assert_eq!(client.query(&sql).tag(), format!("INSERT 0 {ROWS}"));
    assert_eq!(seen(&mut client), "values");
    assert_eq!(client.text(sums), "60|1830|-1860|30|A|2024-02-29 12:00:00+00");
}

#[test]
fn binary_parameters_go_as_arrays() {
    let (_router, mut client) = table("binary_go");
    let columns = "user_id, words, moment, id, flag, half";
    let mut sql = format!("INSERT INTO told ({columns}) VALUES ");
    let mut values: Vec<Option<Vec<u8>>> = Vec::new();
    for n in 1..=ROWS {
        let at = values.len();
        let comma = if n == 1 { "" } else { ", " };
        let row: Vec<String> = (1..=6).map(|more| format!("${}", at + more)).collect();
        write!(sql, "{comma}({})", row.join(", ")).unwrap();
        let id = [u8::try_from(n).unwrap(); 16];
        values.push(Some(n.to_be_bytes().to_vec()));
        values.push((n % 3 > 0).then(|| format!("\"{n}\" ü").into_bytes()));
        values.push((n % 5 > 0).then(|| (n * 1_000_000).to_be_bytes().to_vec()));
        values.push(Some(id.to_vec()));
        values.push(Some(vec![u8::from(n % 2 == 0)]));
        values.push(Some((n as f64 / 2.0).to_be_bytes().to_vec()));
    }
    let mut messages = wire::parse("", &sql);
    messages.extend(binary_bind(&values));
    messages.extend(wire::execute(""));
    messages.extend(wire::sync());
    client.send(&messages);
    let answer = client.answer(&[]);
    assert_eq!(answer.tag(), "INSERT 0 60");
    assert_eq!(seen(&mut client), "arrays");
    let wrong = "SELECT count(*) FROM told WHERE words IS DISTINCT FROM CASE WHEN user_id % 3 > 0 THEN '\"' || user_id || '\" ü' END \
                 OR moment IS DISTINCT FROM CASE WHEN user_id % 5 > 0 THEN '2000-01-01+00'::timestamptz + user_id * interval '1 s' END \
                 OR id::text <> replace('xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx', 'xx', lpad(to_hex(user_id), 2, '0')) \
                 OR flag <> (user_id % 2 = 0) OR half <> user_id / 2.0";
    assert_eq!(client.text(wrong), "0");
    assert_eq!(client.text("SELECT count(*) FROM told"), "60");
}

/// Bind of the unnamed statement with all values in binary.
fn binary_bind(values: &[Option<Vec<u8>>]) -> Vec<u8> {
    let count = u16::try_from(values.len()).unwrap().to_be_bytes();
    let mut body = b"\0\0\0\x01\0\x01".to_vec();
    body.extend(count);
    for value in values {
        let length = value.as_ref().map_or(-1, |value| i32::try_from(value.len()).unwrap());
        body.extend(length.to_be_bytes());
        body.extend(value.iter().flatten());
    }
    body.extend(b"\0\0");
    wire::message(b'B', &body)
}

#[test]
fn as_many_parameters_as_the_protocol_allows() {
    const PARAMETERS: usize = 65_535;
    let (_router, mut client) = table("parameters_go");
    let mut sql = "INSERT INTO told (user_id, words, flag) VALUES ".to_owned();
    let mut values = Vec::with_capacity(PARAMETERS);
    for at in (1..=PARAMETERS).step_by(3) {
        let comma = if at == 1 { "" } else { ", " };
        write!(sql, "{comma}(${at}, ${}, ${})", at + 1, at + 2).unwrap();
        values.extend([at.to_string(), format!("word {at}"), "true".to_owned()]);
    }
    let values: Vec<Option<&str>> = values.iter().map(|value| Some(value.as_str())).collect();
    assert_eq!(client.execute(&sql, &values, false).tag(), format!("INSERT 0 {}", PARAMETERS / 3));
    assert_eq!(
        client.text("SELECT count(*), max(user_id), max(words), bool_and(flag) FROM told"),
        "21845|65533|word 9997|t"
    );
    assert_eq!(seen(&mut client), "arrays");
}

/// Rows of which every third is there already.
fn with_conflicts(client: &mut Wire, value: impl Fn(i64) -> String) -> String {
    client.query("INSERT INTO told (user_id) SELECT n * 3 FROM generate_series(1, 40) AS s(n)").tag();
    let rows: Vec<String> = (0..ROWS).map(|n| format!("({}, {})", n * 37 % 101, value(n))).collect();
    format!(
        "INSERT INTO told (user_id, words) VALUES {} ON CONFLICT DO NOTHING RETURNING user_id, 1::int",
        rows.join(", ")
    )
}

#[test]
fn rows_that_come_back_are_fetched_in_their_order() {
    const PORTION: u8 = 7;
    let (_router, mut client) = table("portions_of");
    let expected: Vec<i64> = (0..ROWS).map(|n| n * 37 % 101).filter(|id| *id == 0 || id % 3 > 0).collect();
    for value in ["'x'", "lower('X')"] {
        let sql = with_conflicts(&mut client, |_| value.to_owned());
        // The id in binary, the number as text.
        let mut messages = wire::parse("", &sql);
        messages.extend(wire::message(b'B', b"\0\0\0\0\0\0\0\x02\0\x01\0\0"));
        messages.extend(wire::message(b'D', b"P\0"));
        for _ in 0..=expected.len() / usize::from(PORTION) {
            messages.extend(wire::message(b'E', &[0, 0, 0, 0, PORTION]));
        }
        messages.extend(wire::sync());
        client.send(&messages);
        let (mut ids, mut suspended) = (Vec::new(), 0);
        loop {
            let message = client.message().unwrap();
            match message.tag {
                b'T' => {
                    let columns = wire::columns(&message.body);
                    let names: Vec<&str> = columns.iter().map(|column| &*column.name).collect();
                    assert_eq!(names, ["user_id", "int4"]);
                }
                b'D' => {
                    let row = wire::values(&message.body);
                    assert_eq!((row.len(), row[1].as_deref()), (2, Some(&b"1"[..])));
                    ids.push(i64::from_be_bytes(row[0].as_deref().unwrap().try_into().unwrap()));
                }
                b's' => suspended += 1,
                b'E' => panic!("{}", wire::sqlstate(&message.body)),
                b'Z' => break,
                _ => {}
            }
        }
        assert_eq!(ids, expected);
        assert_eq!(suspended, expected.len() / usize::from(PORTION));
        client.query("TRUNCATE told").tag();
    }
}

#[test]
fn only_rows_that_may_be_passed_over_are_numbered() {
    let (_router, mut client) = table("numbers_only");
    let plain = with_conflicts(&mut client, |n| format!("'{n}'"));
    let computed = plain.replacen("'0'", "upper('0')", 1);
    for insert in [plain, computed] {
        for (sql, is_numbered) in [
            (insert.clone(), true),
            (insert.replace("RETURNING user_id, 1::int", ""), false),
            (
                insert.replace("DO NOTHING", "(user_id) DO UPDATE SET words = excluded.words, seen = excluded.seen"),
                false,
            ),
        ] {
            client.query("TRUNCATE told").tag();
            assert_eq!(client.query(&sql).tag(), format!("INSERT 0 {ROWS}"));
            let numbered = client.text("SELECT DISTINCT seen LIKE '%sluice.row%' FROM told WHERE words IS NOT NULL");
            assert_eq!(numbered, if is_numbered { "t" } else { "f" }, "{sql}");
        }
    }
    assert_eq!(client.text("SELECT count(*) FROM pg_settings WHERE name LIKE 'sluice%'"), "0");
}
