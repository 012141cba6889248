//! COPY FROM STDIN that leaves columns to sequences, keys and times by default, beside one PostgreSQL: the same ids, tags and errors.

use crate::support::running::{Running, databases, shared, superuser};
use crate::support::wire::{Answer, Wire};

const SCHEMA: &str = "CREATE TABLE orders (id serial, user_id bigint NOT NULL, total int CHECK (total < 1000), \
                        made timestamptz NOT NULL DEFAULT now(), day timestamp(0) DEFAULT CURRENT_TIMESTAMP, UNIQUE (user_id, id)); \
                      CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, no smallserial); \
                      CREATE TABLE devices (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_name text); \
                      CREATE TABLE plans (id serial PRIMARY KEY, name text UNIQUE, token uuid DEFAULT gen_random_uuid(), made timestamptz DEFAULT now())";

const ROWS: &str = "SELECT id, user_id, total FROM orders ORDER BY id; SELECT id, no, name FROM users ORDER BY id; \
                    SELECT user_name FROM devices ORDER BY 1; SELECT id, name FROM plans ORDER BY id; \
                    SELECT count(*) FROM (SELECT DISTINCT made FROM orders) x";

struct Sides {
    plain: Wire,
    over: Vec<Vec<String>>,
    _routers: Vec<Running>,
    clients: Vec<Wire>,
}

impl Sides {
    fn new(name: &str) -> Self {
        let mut plain = Wire::connect(shared().port(), "app", &databases(&format!("{name}_plain"), 1)[0]);
        assert_eq!(plain.query(SCHEMA).sqlstate(), "");
        let over: Vec<Vec<String>> = (2..=3).map(|count| databases(name, count)).collect();
        let routers: Vec<Running> = over.iter().map(|over| Running::over(over)).collect();
        for router in &routers {
            assert_eq!(router.client().query(SCHEMA).sqlstate(), "");
        }
        let clients = routers.iter().map(Running::client).collect();
        Self { plain, over, _routers: routers, clients }
    }

    /// Copies everywhere and compares; whether it has succeeded.
    #[track_caller]
    fn check(&mut self, sql: &str, data: &[u8]) -> bool {
        let expected = self.plain.copy(sql, data);
        let kept = self.plain.text(ROWS);
        for client in &mut self.clients {
            let seen = client.copy(sql, data);
            let at = format!("{sql}\n{}", String::from_utf8_lossy(data));
            assert_eq!(told(&seen), told(&expected), "{at}");
            // What failed has taken other values than on one PostgreSQL, which stops at the row.
            assert_eq!(client.text(ROWS), kept, "{at}");
        }
        expected.error.is_none()
    }

    /// Sequences go on from here everywhere.
    fn restart(&mut self) {
        let sql = "TRUNCATE orders, users, devices, plans RESTART IDENTITY";
        for wire in self.clients.iter_mut().chain([&mut self.plain]) {
            assert_eq!(wire.query(sql).sqlstate(), "");
        }
    }
}

fn told(answer: &Answer) -> Vec<String> {
    match &answer.error {
        None => vec![answer.tag().to_owned()],
        Some(error) => {
            // A failing row is shown with its time.
            let shown = |field: &u8| error.field(*field).split(", 202").next().unwrap_or_default().to_owned();
            let mut all: Vec<String> = b"CMDHWtcn".iter().map(shown).collect();
            // A row with a volatile default is stored by itself on one PostgreSQL, which can show it then.
            if error.field(b'C') == "23505" {
                all[4] = all[4].split(": ").next().unwrap_or_default().to_owned();
            }
            all
        }
    }
}

/// Binary COPY data of one row for each list of fields.
fn binary(rows: &[Vec<&[u8]>]) -> Vec<u8> {
    let mut data = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for row in rows {
        data.extend_from_slice(&(row.len() as u16).to_be_bytes());
        for field in row {
            data.extend_from_slice(&(field.len() as u32).to_be_bytes());
            data.extend_from_slice(field);
        }
    }
    data.extend_from_slice(&(-1_i16).to_be_bytes());
    data
}

#[test]
fn rows_get_the_ids_that_one_postgres_would_give() {
    let mut sides = Sides::new("copy_filled");
    let many: String = (1..=3000).map(|n| format!("{n}\t{}\n", n % 1000)).collect();
    assert!(sides.check("COPY orders (user_id, total) FROM STDIN", many.as_bytes()));
    assert!(sides.check(
        "COPY orders (total, user_id) FROM STDIN (FORMAT csv, HEADER match)",
        b"total,user_id\r\n1,2\r\n\"3\",4"
    ));
    assert!(
        sides.check("COPY orders(user_id) FROM STDIN WITH (FORMAT csv, HEADER, DELIMITER ';')", b"any;thing\n7\n8\n")
    );
    assert!(sides.check(
        "COPY public.orders (user_id, total) FROM STDIN WHERE user_id % 2 = 0",
        b"1\t1\n2\t2\n3\t3\n4\t4\n\\.\n"
    ));
    let rows: Vec<[[u8; 8]; 1]> = (1..=100_i64).map(|n| [n.to_be_bytes()]).collect();
    let rows: Vec<Vec<&[u8]>> = rows.iter().map(|row| row.iter().map(|field| &field[..]).collect()).collect();
    assert!(sides.check("COPY orders (user_id) FROM STDIN (FORMAT binary)", &binary(&rows)));
    assert!(sides.check("COPY users (name) FROM STDIN", b"a\nb\n\\N\n\nlast"));
    assert!(sides.check("COPY users (name) FROM STDIN (FORMAT csv)", b"\"a\nb\"\nc\n"));
    assert!(sides.check("COPY users (name) FROM STDIN (FORMAT binary)", &binary(&[vec![b"x"], vec![b"y"]])));
    assert!(sides.check("COPY devices (user_name) FROM STDIN", b"a\nb\nc\nd\n"));
    assert!(sides.check("COPY devices (user_name) FROM STDIN (FORMAT binary)", &binary(&[vec![b"x"], vec![b"y"]])));
    assert!(sides.check("COPY plans (name) FROM STDIN", b"a\nb\nc\nd\n"));
    assert!(sides.check("COPY plans (name) FROM STDIN (FORMAT csv, HEADER)", b"name\ne\nf\n"));
    assert!(sides.check("COPY plans (name) FROM STDIN (FORMAT binary)", &binary(&[vec![b"x"], vec![b"y"]])));
    for client in &mut sides.clients {
        assert_eq!(client.text("SELECT count(DISTINCT id) = count(*) FROM devices"), "t");
        assert_eq!(client.text("SELECT currval('plans_id_seq'), lastval()"), "8|8");
    }
    for over in &sides.over {
        let copies = |shard: &String| superuser(shared(), shard).text("SELECT p::text FROM plans p ORDER BY id");
        let first = copies(&over[0]);
        assert!(over.iter().all(|shard| copies(shard) == first), "{first}");
    }
}

#[test]
fn errors_are_of_the_clients_data() {
    let mut sides = Sides::new("copy_filled_errors");
    for (sql, data) in [
        ("COPY orders (user_id, total) FROM STDIN", "1\t2\n3\n5\t6\n"),
        ("COPY orders (user_id, total) FROM STDIN", "1\t2\n3\t4\t5\n"),
        ("COPY orders (user_id, total) FROM STDIN", "1\t2\n2\t3\n3\t1000\n4\t5\n"),
        ("COPY orders (user_id, total) FROM STDIN", "1\t2\nx\t3\n"),
        ("COPY orders (user_id, total) FROM STDIN", "1\t2\n4\tx\n"),
        ("COPY orders (user_id, total) FROM STDIN (FORMAT csv)", "1,2\n4,\"a\"\n"),
        ("COPY orders (user_id, total) FROM STDIN (FORMAT csv)", "1,2\n3,4,5\n"),
        ("COPY orders (user_id, total) FROM STDIN (FORMAT csv)", "1,2\n3,\"4\n"),
        ("COPY plans (name) FROM STDIN", "a\nb\nb\n"),
        ("COPY plans (name) FROM STDIN", "a\nb\tc\nb\n"),
        ("COPY users (name) FROM STDIN", "a\nb\tc\nb\n"),
    ] {
        assert!(!sides.check(sql, data.as_bytes()), "{sql}");
        sides.restart();
    }
    let short = binary(&[vec![&1_i64.to_be_bytes()], vec![]]);
    assert!(!sides.check("COPY orders (user_id) FROM STDIN (FORMAT binary)", &short));
    sides.restart();
    assert!(sides.check("COPY orders (user_id, total) FROM STDIN", b"1\t2\n"));
}

#[test]
fn what_could_be_read_as_something_else_is_refused() {
    let mut sides = Sides::new("copy_filled_refused");
    for sql in [
        "COPY orders (user_id, total) FROM STDIN (NULL '5')",
        "COPY orders (user_id, total) FROM STDIN (FORMAT csv, DELIMITER '1')",
        "BEGIN; CREATE TABLE more (user_id bigint, id serial); COPY more (user_id) FROM STDIN",
    ] {
        for client in &mut sides.clients {
            let answer = client.copy(sql, b"1\t2\n");
            assert_eq!(answer.sqlstate(), "0A000", "{sql}");
            client.query("ROLLBACK");
        }
    }
}
