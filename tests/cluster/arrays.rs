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
