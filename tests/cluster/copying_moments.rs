//! COPY FROM STDIN whose data say `now` or `today`: one time for all rows and shards, beside one PostgreSQL.

use crate::support::running::{RULES, Running, database_config, databases, shared, superuser};
use crate::support::wire::{Answer, Wire};

/// `plans` is a reference table, `users` is sharded.
const SCHEMA: [&str; 4] = [
    "CREATE DOMAIN moment AS timestamptz CHECK (VALUE > '2000-01-01')",
    "CREATE TYPE stay AS (at date, nights int)",
    "CREATE TABLE plans (id int PRIMARY KEY, doubled int GENERATED ALWAYS AS (id * 2) STORED, word text, at timestamptz, \
     stamp timestamp(0), day date, clock time, zoned timetz, made moment)",
    "CREATE TABLE users (twice bigint GENERATED ALWAYS AS (id * 2) STORED, id bigint NOT NULL, word text, at timestamptz, \
     stamp timestamp(0), day date, clock time, zoned timetz, made moment)",
];

/// What the rows hold, by the time of the transaction that has made them.
const SEEN: &str = "id, word, at = now(), CASE WHEN at <> now() THEN at - date_trunc('day', now()) END, \
                    stamp = now()::timestamp(0), CASE WHEN stamp <> now()::timestamp(0) THEN stamp - date_trunc('day', now())::timestamp END, \
                    day - current_date, clock = now()::time, zoned = now()::timetz, made = now(), \
                    CASE WHEN made <> now() THEN made - date_trunc('day', now()) END";

struct Sides {
    plain: Wire,
    shards: Vec<String>,
    _router: Running,
    client: Wire,
}

impl Sides {
    fn new(name: &str) -> Self {
        let mut plain = Wire::connect(shared().port(), "app", &databases(&format!("{name}_plain"), 1)[0]);
        let shards = databases(name, 3);
        let router = Running::start(&database_config(shared(), &shards, RULES));
        router.wait_until_ready();
        let mut client = router.client();
        for sql in SCHEMA.iter().chain(&["SET timezone = 'America/New_York'", "SET datestyle = 'German'"]) {
            for wire in [&mut plain, &mut client] {
                let answer = wire.query(sql);
                assert_eq!(answer.sqlstate(), "", "{sql}: {:?}", answer.error);
            }
        }
        Self { plain, shards, _router: router, client }
    }

    /// Copies into both tables everywhere, each time in a transaction that looks at the rows by its own time.
    #[track_caller]
    fn check(&mut self, options: &str, data: &str) {
        for table in ["plans", "users"] {
            let copy = format!("COPY {table} FROM STDIN {options}");
            let seen = format!("SELECT {SEEN} FROM {table} ORDER BY id");
            let [expected, got] = [&mut self.plain, &mut self.client].map(|wire| {
                wire.query("BEGIN");
                let answer = wire.copy(&copy, data.as_bytes());
                let rows = if answer.error.is_none() { wire.text(&seen) } else { String::new() };
                wire.query("COMMIT");
                let same = wire.text(&format!("SELECT count(DISTINCT at) FROM {table} WHERE word = 'now'"));
                (told(&answer), rows, same)
            });
            assert_eq!(got, expected, "{copy}\n{data}");
            if table == "plans" {
                self.same("SELECT array_agg(p ORDER BY id) FROM plans p");
            }
            for wire in [&mut self.plain, &mut self.client] {
                assert_eq!(wire.query(&format!("DELETE FROM {table}")).sqlstate(), "");
            }
        }
    }

    #[track_caller]
    fn refused(&mut self, sql: &str, data: &str, why: &str) {
        let answer = self.client.copy(sql, data.as_bytes());
        assert_eq!(answer.sqlstate(), "0A000", "{sql}\n{data}: {:?}", answer.error);
        assert!(format!("{:?}", answer.error).contains(why), "{sql}\n{data}: {:?}", answer.error);
    }

    /// Both sides say the same of a copy that is not kept.
    #[track_caller]
    fn alike(&mut self, sql: &str, data: &str) {
        let [expected, got] = [&mut self.plain, &mut self.client].map(|wire| {
            wire.query("BEGIN");
            let answer = wire.copy(sql, data.as_bytes());
            wire.query("ROLLBACK");
            told(&answer)
        });
        assert_eq!(got, expected, "{sql}\n{data}");
    }

    /// What all shards say alike.
    #[track_caller]
    fn same(&self, sql: &str) -> String {
        let told: Vec<String> = self.shards.iter().map(|shard| superuser(shared(), shard).text(sql)).collect();
        assert!(told.iter().all(|one| *one == told[0]), "{sql}: {told:#?}");
        told[0].clone()
    }
}

/// The tag, or what an error says and where.
fn told(answer: &Answer) -> Vec<String> {
    match &answer.error {
        None => vec![answer.tag().to_owned()],
        Some(error) => b"CMDHW".iter().map(|field| error.field(*field).to_owned()).collect(),
    }
}

#[test]
fn one_moment_for_all_copies_and_rows() {
    let mut sides = Sides::new("copied_moments");
    let now = |id: i32| format!("{id}\tnow\tnow\tNOW\t now \tnow\tnow\tNow\n");
    sides.check("", &(1..=50).map(now).collect::<String>());
    sides.check(
        "",
        "1\tsay now\tn\\ow\t\\156ow\tno\\x57\tnow\tnow\ttoday\n\
         2\tYesterday\ttoday\ttomorrow\tyesterday\t10:00\t10:00+02\tTOMORROW 04:05:06.7\n\
         3\ttomorrow\ttoday 10:00\t tomorrow  4:05\tyesterday 10:00\t\\N\t\\N\tyesterday 04:05:06+02\n\
         4\t\\N\tepoch\t2024-02-29\t\\N\tallballs\tallballs\t2024-02-29 allballs\n",
    );
    sides.check(
        "(FORMAT csv, NULL 'today', FORCE_NULL (stamp), FORCE_NOT_NULL (made), DELIMITER ':')",
        "1:now:now:now:now:now:now:\"n\"\"ow\"\n",
    );
    sides.check(
        "(FORMAT csv, NULL 'today', FORCE_NULL (stamp), FORCE_NOT_NULL (made), DELIMITER '-', HEADER)",
        "id-word-at-stamp-day-clock-zoned-made\n\
         1-now-now-now-now-now-now-now\r\n",
    );
    sides.check(
        "(FORMAT csv, NULL 'today', FORCE_NULL (stamp), FORCE_NOT_NULL (made), DELIMITER '-', QUOTE '''', HEADER)",
        "id-word-at-stamp-day-clock-zoned-made\n\
         1-now-now-now-now-now-now-now\n\
         2-'now\nor never'-no'w'-'now'-to'day'-'now'-'now'-today\n\
         3-today-today-'today'-'today'-now-now-'today 10:00'\n\
         4-'today'-'TOMORROW'-'tomorrow'-YESTERDAY-today-today-'tomorrow'",
    );
    sides.check("(DELIMITER ' ')", "1 now now now now now now today\\ 10:00\n\\.\n");
    sides.check("(DELIMITER ':', NULL 'now')", "1:now:now:tomorrow:today:now:now:today\n");
}

#[test]
fn columns_in_another_order_and_defaults() {
    let mut sides = Sides::new("copied_moments_listed");
    let rows: String = (1..=20).map(|id| format!("now\t{id}\tnow\n")).collect();
    for table in ["plans", "users"] {
        for (columns, options) in [("day, id, word", ""), ("word, id, at", ""), ("made, id, word", "")] {
            let sql = format!("COPY {table} ({columns}) FROM STDIN {options}");
            sides.alike(&sql, &rows);
            sides.client.query("BEGIN");
            assert_eq!(sides.client.copy(&sql, rows.as_bytes()).sqlstate(), "");
            let at = format!(
                "SELECT count(*), count(DISTINCT word), bool_and(coalesce(at, now()) = now() AND coalesce(made, now()) = now() \
                 AND coalesce(day, current_date) = current_date) FROM {table}"
            );
            assert_eq!(sides.client.text(&at), "20|1|t");
            sides.client.query("ROLLBACK");
        }
    }
    // An id of a sequence stands in front of each row.
    let made = "CREATE TABLE countries (id serial PRIMARY KEY, at timestamptz, token uuid DEFAULT gen_random_uuid())";
    assert_eq!(sides.client.query(made).sqlstate(), "");
    let answer = sides.client.copy("COPY countries (at) FROM STDIN (FORMAT csv)", b"now\n\"today\"\n\n2024-02-29\n");
    assert_eq!(answer.sqlstate(), "", "{:?}", answer.error);
    sides.same("SELECT array_agg(c ORDER BY id) FROM countries c");
    assert_eq!(sides.client.text("SELECT array_agg(id ORDER BY id) FROM countries"), "{1,2,3,4}");
}

#[test]
fn what_postgresql_refuses_it_refuses_itself() {
    let mut sides = Sides::new("copied_moments_wrong");
    for table in ["plans", "users"] {
        let sql = format!("COPY {table} (id, at, clock) FROM STDIN");
        for data in [
            "1\tnowhere\t\\N\n",
            "1\tnow\ttoday\n",
            "1\tnow or never\tnow\n",
            "1\tnow\tnow 10:00:61\n",
            "1\ttoday or so\tnow\n",
        ] {
            sides.alike(&sql, data);
        }
        sides.alike(&format!("COPY {table} (id, at, word) FROM STDIN CSV"), "1,2024-02-29,\"open");
    }
    // The line is shown with the time that stands in it.
    let missing = sides.client.copy("COPY plans (id, at, clock) FROM STDIN", b"1\tnow\n");
    assert_eq!(missing.sqlstate(), "22P04");
    // A value that breaks a domain or a type is no less wrong for a time in its row.
    sides.alike("COPY users (id, at, made) FROM STDIN", "1\tnow\t1999-01-01\n");
    sides.alike("COPY users (id, at, made) FROM STDIN", "1\tinfinity\t-infinity\n2\tnow\tinfinity\n");
}

#[test]
fn what_may_be_another_time_is_refused() {
    let mut sides = Sides::new("copied_moments_refused");
    for table in ["plans", "users"] {
        let sql = format!("COPY {table} (id, at) FROM STDIN");
        for data in
            ["10:00 today", "today Europe/Berlin", "today pst", "Monday now", "today allballs", "10:00 PM tomorrow"]
        {
            sides.refused(&sql, &format!("1\t2024-02-29\n2\t{data}\n"), "may mean another time on each shard");
        }
    }
    let made = "CREATE TABLE countries (code int, days date[], span tstzrange, stays stay[], words text[])";
    assert_eq!(sides.client.query(made).sqlstate(), "");
    let sql = "COPY countries FROM STDIN";
    for data in [
        "1\t{2024-01-01,Today}\t\\N\t\\N\t{}\n",
        "1\t\\N\t[2024-01-01,\"tomorrow\")\t\\N\t{}\n",
        "1\t\\N\t\\N\t{\"(now,3)\"}\t{}\n",
    ] {
        sides.refused(sql, data, "may mean another time on each shard");
    }
    let answer = sides.client.copy(sql, b"1\t{2024-01-01}\t[2024-01-01,infinity)\t{\"(2024-02-29,3)\"}\t{now,today}\n");
    assert_eq!(answer.sqlstate(), "", "{:?}", answer.error);
    assert_eq!(sides.same("SELECT words, stays FROM countries"), "{now,today}|{\"(2024-02-29,3)\"}");
    sides.refused("COPY plans (id, at) FROM STDIN (ENCODING 'SJIS')", "", "encoding SJIS");
}
