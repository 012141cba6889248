//! COPY through the router: every row on its shard, all rows or none.

use std::fmt::Write;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use crate::support::running::{Running, databases, shared, superuser, wait_for};
use crate::support::wire::{self, Wire};

const SHARDS: usize = 3;
const USERS: u32 = 2000;

/// A router over empty shards with the tables of most tests.
struct Stage {
    shards: Vec<String>,
    router: Running,
}

impl Stage {
    fn new(name: &str) -> Self {
        let shards = databases(name, SHARDS);
        let router = Running::over(&shards);
        let stage = Self { shards, router };
        let mut client = stage.router.client();
        for table in [
            "CREATE TABLE users (id bigint PRIMARY KEY, name text, age int CHECK (age < 200))",
            "CREATE TABLE plans (id int PRIMARY KEY, name text)",
        ] {
            assert_eq!(client.query(table).tag(), "CREATE TABLE");
        }
        stage
    }

    /// What the same question answers on every shard, past the router.
    fn on_shards(&self, sql: &str) -> Vec<String> {
        self.shards.iter().map(|shard| superuser(shared(), shard).text(sql)).collect()
    }

    fn assert_empty(&self) {
        assert_eq!(self.on_shards("SELECT count(*) FROM users"), ["0"; SHARDS]);
        assert_eq!(self.on_shards("SELECT count(*) FROM plans"), ["0"; SHARDS]);
    }

    /// Nobody is in a transaction and nobody holds a lock: all servers can be used again.
    fn assert_at_rest(&self) {
        let busy = "SELECT count(*) FROM pg_stat_activity \
                    WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'";
        let prepared = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()";
        wait_for("the servers to come to rest", || {
            (self.on_shards(busy) == ["0"; SHARDS] && self.on_shards(prepared) == ["0"; SHARDS]).then_some(())
        });
    }

    fn psql(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new("psql");
        command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &self.router.url()]).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }
}

fn rows(numbers: std::ops::Range<u32>) -> String {
    numbers.fold(String::new(), |mut text, number| {
        writeln!(text, "{number}\tuser {number}\t{}", number % 100).unwrap();
        text
    })
}

fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn rows_go_to_the_shards_of_their_keys() {
    let stage = Stage::new("split");
    let mut client = stage.router.client();
    let loaded = client.copy("COPY users FROM STDIN", rows(0..USERS).as_bytes());
    assert_eq!(loaded.tag(), format!("COPY {USERS}"));
    let counts: Vec<u32> =
        stage.on_shards("SELECT count(*) FROM users").iter().map(|count| count.parse().unwrap()).collect();
    assert_eq!(counts.iter().sum::<u32>(), USERS);
    assert!(counts.iter().all(|count| *count > USERS / 6), "{counts:?}");
    for id in [0, 1, 777, USERS - 1] {
        assert_eq!(client.text(&format!("SELECT name FROM users WHERE id = {id}")), format!("user {id}"));
    }
    // The shard itself can tell that a row is where it belongs: the same hash as a partition's.
    assert_eq!(client.text("SELECT count(*), count(DISTINCT id) FROM users"), format!("{USERS}|{USERS}"));
}

#[test]
fn csv_with_quotes_and_line_ends_is_split_between_rows_only() {
    let stage = Stage::new("csv");
    let mut client = stage.router.client();
    let data =
        "name;id;age\n\"semi;colon\";1;5\n\"two\nlines\";2;\nplain;3;7\n\"a \"\"quote\"\"\";4;8\n;5;\n\"\";6;9\n";
    let sql = "COPY users (name, id, age) FROM STDIN WITH (FORMAT csv, HEADER, DELIMITER ';')";
    // Whatever the pieces are.
    let mut out = wire::query(sql);
    for piece in data.as_bytes().chunks(3) {
        out.extend(wire::message(b'd', piece));
    }
    out.extend(wire::message(b'c', b""));
    client.send(&out);
    // The end of the copy that `answer` sends comes when it is over already: it is passed over.
    assert_eq!(client.answer(b"").tag(), "COPY 6");
    let answer = client.query("SELECT id, name, age FROM users ORDER BY id");
    assert_eq!(answer.text(), "1|semi;colon|5\n2|two\nlines|\n3|plain|7\n4|a \"quote\"|8\n5||\n6||9");
}

#[test]
fn a_reference_table_gets_every_row_on_every_shard() {
    let stage = Stage::new("reference");
    let mut client = stage.router.client();
    assert_eq!(client.copy("COPY plans FROM STDIN", b"1\tfree\n2\tpro\n").tag(), "COPY 2");
    assert_eq!(stage.on_shards("SELECT id, name FROM plans ORDER BY id"), ["1|free\n2|pro"; SHARDS]);
    assert_eq!(client.text("SELECT count(*) FROM plans"), "2");
}

/// In the middle of many good rows, so that the shards have got theirs already.
fn assert_nothing_is_kept(name: &str, bad: &str, sqlstate: &str) {
    let stage = Stage::new(name);
    let mut client = stage.router.client();
    let data = format!("{}{bad}{}", rows(0..USERS), rows(USERS..2 * USERS));
    let answer = client.copy("COPY users FROM STDIN", data.as_bytes());
    assert_eq!(answer.sqlstate(), sqlstate, "{:?}", answer.error);
    assert_eq!(answer.status, b'I');
    stage.assert_empty();
    stage.assert_at_rest();
    // The same connection, the same servers: as if nothing had been.
    assert_eq!(client.copy("COPY users FROM STDIN", rows(0..USERS).as_bytes()).tag(), format!("COPY {USERS}"));
    assert_eq!(client.text("SELECT count(*) FROM users"), USERS.to_string());
}

#[test]
fn a_key_that_is_no_number_keeps_nothing() {
    assert_nothing_is_kept("bad_key", "x1\tbad\t1\n", "22P02");
}

#[test]
fn a_null_key_keeps_nothing() {
    assert_nothing_is_kept("null_key", "\\N\tbad\t1\n", "23502");
}

#[test]
fn a_value_that_one_shard_refuses_keeps_nothing() {
    assert_nothing_is_kept("bad_value", "100000\tbad\tno number\n", "22P02");
}

#[test]
fn a_constraint_that_one_shard_holds_keeps_nothing() {
    assert_nothing_is_kept("constraint", "100000\tbad\t200\n", "23514");
    assert_nothing_is_kept("duplicate", "7\tbad\t1\n", "23505");
}

#[test]
fn a_row_with_too_many_fields_keeps_nothing() {
    assert_nothing_is_kept("fields", "100000\tbad\t1\tmore\n", "22P04");
}

#[test]
fn a_client_that_gives_up_keeps_nothing() {
    let stage = Stage::new("copy_fail");
    let mut client = stage.router.client();
    client.send(&wire::query("COPY users FROM STDIN"));
    client.send(&wire::message(b'd', rows(0..USERS).as_bytes()));
    client.send(&wire::message(b'f', b"changed my mind\0"));
    assert_eq!(read_until_ready(&mut client), "57014");
    stage.assert_empty();
    stage.assert_at_rest();
    assert_eq!(client.text("SELECT count(*) FROM users"), "0");
}

#[test]
fn a_client_that_goes_away_keeps_nothing() {
    let stage = Stage::new("copy_gone");
    for table in ["users", "plans"] {
        let mut client = stage.router.client();
        client.send(&wire::query(&format!("COPY {table} FROM STDIN")));
        let asked = client.message().unwrap();
        assert_eq!(asked.tag, b'G');
        let data = if table == "users" { rows(0..USERS) } else { "1\tfree\n".to_owned() };
        client.send(&wire::message(b'd', data.as_bytes()));
        drop(client);
        stage.assert_at_rest();
        stage.assert_empty();
    }
    assert_eq!(stage.router.client().text("SELECT count(*) FROM users"), "0");
}

#[test]
fn a_copy_inside_a_block_ends_with_the_block() {
    let stage = Stage::new("copy_block");
    let mut client = stage.router.client();
    for (end, expected) in [("ROLLBACK", 0), ("COMMIT", USERS)] {
        assert_eq!(client.query("BEGIN").tag(), "BEGIN");
        assert_eq!(client.copy("COPY users FROM STDIN", rows(0..USERS).as_bytes()).tag(), format!("COPY {USERS}"));
        assert_eq!(client.text("SELECT count(*) FROM users"), USERS.to_string());
        assert_eq!(stage.on_shards("SELECT count(*) FROM users"), ["0"; SHARDS]);
        assert_eq!(client.query(end).tag(), end);
        assert_eq!(client.text("SELECT count(*) FROM users"), expected.to_string());
    }
    stage.assert_at_rest();
}

#[test]
fn psql_loads_a_file_and_reads_it_back() {
    let stage = Stage::new("psql");
    let file = std::env::temp_dir().join(format!("sluice-test-users-{}.tsv", std::process::id()));
    std::fs::write(&file, rows(0..USERS)).unwrap();
    let load = format!("\\copy users FROM '{}'", file.display());
    assert_success(&stage.psql(&["-c", &load], ""));
    std::fs::remove_file(&file).unwrap();
    let read = stage.psql(&["-c", "\\copy (SELECT id, name, age FROM users ORDER BY id) TO STDOUT"], "");
    let refused = String::from_utf8_lossy(&read.stderr).contains("not supported over several shards");
    assert!(refused || String::from_utf8_lossy(&read.stdout) == rows(0..USERS));
    assert_eq!(stage.router.client().text("SELECT count(*), sum(id) FROM users"), "2000|1999000");
}

#[test]
fn a_dump_of_one_postgres_is_restored_over_the_shards() {
    let shards = databases("restored", SHARDS);
    let source = databases("dumped", 1).remove(0);
    let mut plain = Wire::connect(shared().port(), "app", &source);
    let schema = "CREATE TABLE users (id bigint PRIMARY KEY, name text NOT NULL DEFAULT 'x', since timestamptz);
        CREATE TABLE orders (user_id bigint NOT NULL, id bigint, what text, PRIMARY KEY (user_id, id));
        CREATE TABLE plans (id int PRIMARY KEY, name text);
        CREATE INDEX orders_what ON orders (what);
        INSERT INTO users SELECT n, 'user ' || n, '2024-01-01' FROM generate_series(1, 300) n;
        INSERT INTO orders SELECT n % 300 + 1, n, E'tab\\there' FROM generate_series(1, 900) n;
        INSERT INTO plans VALUES (1, 'free'), (2, NULL)";
    assert_eq!(plain.query(schema).sqlstate(), "");
    let router = Running::over(&shards);
    let stage = Stage { shards, router };
    let arguments = ["--no-owner", "--no-privileges", "-d", &shared().url(&source)];
    let dump = Command::new("pg_dump").args(arguments).output().unwrap();
    assert_success(&dump);
    assert_success(&stage.psql(&[], &String::from_utf8(dump.stdout).unwrap()));
    let mut client = stage.router.client();
    for sql in [
        "SELECT * FROM users ORDER BY id",
        "SELECT * FROM orders ORDER BY user_id, id",
        "SELECT * FROM plans ORDER BY id",
        "SELECT what, count(*) FROM orders GROUP BY what",
    ] {
        assert_eq!(client.text(sql), plain.text(sql), "{sql}");
    }
    assert_eq!(stage.on_shards("SELECT count(*) FROM plans"), ["2"; SHARDS]);
    assert_eq!(stage.on_shards("SELECT count(*) FROM pg_indexes WHERE indexname = 'orders_what'"), ["1"; SHARDS]);
    stage.assert_at_rest();
}

/// The SQLSTATE of the error before ReadyForQuery.
fn read_until_ready(client: &mut Wire) -> String {
    loop {
        let message = client.message().unwrap();
        match message.tag {
            b'G' => {}
            b'E' => {
                let rest = client.answer(b"");
                assert!(rest.error.is_none() && rest.status == b'I');
                return wire::sqlstate(&message.body);
            }
            tag => panic!("unexpected message {}", char::from(tag)),
        }
    }
}
