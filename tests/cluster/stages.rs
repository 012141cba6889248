//! CTEs that write beside something else, over several shards: what is undone, and what is refused because it could tell that the parts of
//! the statement run one after another.

use crate::support::running::{RULES, Running, database_config, databases, shared, superuser};
use crate::support::wire::{Wire, message, parse, sync};

/// A router over three shards, with a queue of 60 tasks and an archive.
struct Queue {
    router: Running,
    shards: Vec<String>,
}

impl Queue {
    fn new(limits: &str) -> Self {
        let shards = databases("queue", 3);
        let router = Running::start(&format!("{}{limits}", database_config(shared(), &shards, RULES)));
        router.wait_until_ready();
        let mut owner = router.client();
        for table in ["queue", "archive"] {
            let sql = format!("CREATE TABLE {table} (user_id bigint, id int, note text, PRIMARY KEY (user_id, id))");
            assert_eq!(owner.query(&sql).sqlstate(), "");
        }
        let rows = "INSERT INTO queue SELECT g % 20, g, 'task ' || g FROM generate_series(1, 60) AS g";
        assert_eq!(owner.query(rows).sqlstate(), "");
        Self { router, shards }
    }

    fn client(&self) -> Wire {
        self.router.client()
    }

    /// Something done by the operator, past the router, on every shard.
    fn beside(&self, sql: &str) {
        for shard in &self.shards {
            assert_eq!(superuser(shared(), shard).query(sql).sqlstate(), "", "{sql}");
        }
    }
}

const MOVE: &str = "WITH gone AS (DELETE FROM queue WHERE id <= 30 RETURNING *) INSERT INTO archive SELECT user_id, id, note FROM gone";

const COUNTS: &str = "SELECT (SELECT count(*) FROM queue), (SELECT count(*) FROM archive)";

#[test]
fn all_is_done_or_nothing() {
    let queue = Queue::new("");
    let mut client = queue.client();
    // The last stage fails on one shard.
    assert_eq!(client.query("INSERT INTO archive VALUES (7, 27, 'there')").sqlstate(), "");
    for _ in 0..2 {
        let failed = client.query(MOVE);
        assert_eq!((failed.sqlstate(), failed.status), ("23505", b'I'));
        assert_eq!(client.execute(MOVE, &[], false).sqlstate(), "23505");
        assert_eq!(client.text(COUNTS), "60|1");
    }
    // In a block it is undone with the block, or up to a savepoint.
    assert_eq!(client.query("BEGIN; DELETE FROM queue WHERE id = 60; SAVEPOINT s").sqlstate(), "");
    let failed = client.query(MOVE);
    assert_eq!((failed.sqlstate(), failed.status), ("23505", b'E'));
    assert_eq!(client.query("SELECT 1").sqlstate(), "25P02");
    assert_eq!(client.query("ROLLBACK TO s").sqlstate(), "");
    assert_eq!(client.text(COUNTS), "59|1");
    assert_eq!(client.query("DELETE FROM archive").tag(), "DELETE 1");
    assert_eq!(client.query(MOVE).tag(), "INSERT 0 30");
    assert_eq!(client.text(COUNTS), "29|30");
    assert_eq!(client.query("ROLLBACK").sqlstate(), "");
    assert_eq!(client.text(COUNTS), "60|1");
    assert_eq!(client.query("DELETE FROM archive WHERE id = 27").tag(), "DELETE 1");
    assert_eq!(client.query(MOVE).tag(), "INSERT 0 30");
    assert_eq!(client.text(COUNTS), "30|30");
}

#[test]
fn what_a_cte_returns_is_bounded() {
    let queue = Queue::new("[limits]\nfinal_query_array_bytes_max = \"1KB\"\n");
    let mut client = queue.client();
    let refused = client.query(MOVE);
    assert_eq!(refused.sqlstate(), "54000");
    assert!(refused.error.unwrap().message().contains("final_query_array_bytes_max"));
    assert_eq!(client.text(COUNTS), "60|0");
    let few = "WITH gone AS (DELETE FROM queue WHERE id <= 3 RETURNING id) SELECT count(*) FROM gone";
    assert_eq!(client.text(few), "3");
}

#[test]
fn a_statement_is_described_and_prepared_as_a_whole() {
    let queue = Queue::new("");
    let mut client = queue.client();
    let sql = "WITH gone AS (DELETE FROM queue WHERE id = $1 RETURNING id, note) \
               SELECT note || $2 AS what, now() > $3 AS late, id FROM gone";
    client.send(&[parse("s", sql), message(b'D', b"Ss\0"), sync()].concat());
    let (mut types, mut names) = (Vec::new(), Vec::new());
    loop {
        let heard = client.message().unwrap();
        match heard.tag {
            b't' => types = heard.body[2..].chunks(4).map(|oid| u32::from_be_bytes(oid.try_into().unwrap())).collect(),
            b'T' => names = crate::support::wire::columns(&heard.body),
            b'Z' => break,
            _ => {}
        }
    }
    assert_eq!(types, [23, 25, 1184]);
    let names: Vec<(&str, u32)> = names.iter().map(|column| (column.name.as_str(), column.type_oid)).collect();
    assert_eq!(names, [("what", 25), ("late", 16), ("id", 23)]);
    // Nothing has been done by that.
    assert_eq!(client.text(COUNTS), "60|0");
    for (id, left) in [("4", 59), ("5", 58)] {
        let parameters = [Some(id), Some("!"), Some("2001-01-01")];
        assert_eq!(client.execute(sql, &parameters, false).text(), format!("task {id}!|t|{id}"));
        assert_eq!(client.text("SELECT count(*) FROM queue"), left.to_string());
    }
    let prepare = "PREPARE p (int) AS WITH gone AS (DELETE FROM queue WHERE id < $1 RETURNING *) \
                   INSERT INTO archive SELECT * FROM gone WHERE id <> $1 - 1 RETURNING id";
    assert_eq!(client.query(prepare).sqlstate(), "");
    let mut ids: Vec<String> = client.text("EXECUTE p (9)").lines().map(str::to_owned).collect();
    ids.sort();
    assert_eq!(ids, ["1", "2", "3", "6", "7"]);
    assert_eq!(client.query("EXECUTE p (11)").tag(), "INSERT 0 1");
    let cursor = "DECLARE c CURSOR FOR WITH gone AS (DELETE FROM queue RETURNING id) SELECT * FROM gone";
    client.query("BEGIN");
    let refused = client.query(cursor);
    assert_eq!(refused.sqlstate(), "0A000");
    client.query("ROLLBACK");
}

/// Refused with a message that has this in it, and nothing done.
fn refused(client: &mut Wire, sql: &str, why: &str) {
    let before = client.text(COUNTS);
    let answer = client.query(sql);
    assert_eq!(answer.sqlstate(), "0A000", "{sql}: {answer:?}");
    let error = answer.error.unwrap();
    assert!(error.message().contains(why), "{sql}: {error:?}");
    assert_ne!(error.field(b'H'), "");
    assert_eq!(client.text(COUNTS), before);
}

#[test]
fn what_the_text_does_not_show_is_asked_of_the_servers() {
    let queue = Queue::new("");
    let mut client = queue.client();
    let read = "WITH gone AS (DELETE FROM queue WHERE id = 1 RETURNING id) SELECT count(*) FROM archive, gone";
    // Rows that follow by a foreign key.
    let key = "ALTER TABLE archive ADD CONSTRAINT follows FOREIGN KEY (user_id, id) REFERENCES queue ON DELETE CASCADE";
    assert_eq!(client.query(key).sqlstate(), "");
    refused(&mut client, read, "table archive");
    // The row that is referred to is there only at the end.
    let late = "WITH made AS (INSERT INTO archive VALUES (3, 777, '') RETURNING user_id, id) \
                INSERT INTO queue SELECT user_id, id, '' FROM made";
    refused(&mut client, late, "foreign key follows");
    let early = "WITH made AS (INSERT INTO queue VALUES (3, 777, '') RETURNING user_id, id) \
                 INSERT INTO archive SELECT user_id, id, '' FROM made";
    assert_eq!(client.query(early).tag(), "INSERT 0 1");
    let gone = "WITH gone AS (DELETE FROM archive WHERE id = 777 RETURNING id) DELETE FROM queue USING gone WHERE queue.id = gone.id";
    assert_eq!(client.query(gone).tag(), "DELETE 1");
    assert_eq!(client.query("ALTER TABLE archive DROP CONSTRAINT follows").sqlstate(), "");
    // A trigger that only looks at its own row, and one that does more.
    queue.beside(
        "CREATE FUNCTION stamped() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.note := upper(NEW.note); RETURN NEW; END $$; \
         CREATE TRIGGER stamp BEFORE INSERT ON archive FOR EACH ROW EXECUTE FUNCTION stamped(); \
         CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM archive; RETURN OLD; END $$",
    );
    assert_eq!(client.query(MOVE).tag(), "INSERT 0 30");
    assert_eq!(client.text("SELECT max(note) FROM archive"), "TASK 9");
    queue.beside("CREATE TRIGGER note AFTER DELETE ON queue FOR EACH ROW EXECUTE FUNCTION noted()");
    refused(
        &mut client,
        "WITH gone AS (DELETE FROM queue WHERE id = 31 RETURNING id) SELECT count(*) FROM gone",
        "trigger note",
    );
    queue.beside("DROP TRIGGER note ON queue");
    // What an UPDATE frees or takes before an INSERT.
    let upsert = |set: &str| {
        format!(
            "WITH u AS (UPDATE queue SET {set} WHERE id = 60 RETURNING id) INSERT INTO queue SELECT 0, 61, 'new' WHERE NOT EXISTS (SELECT FROM u)"
        )
    };
    refused(&mut client, &upsert("id = 61"), "unique index queue_pkey");
    assert_eq!(client.query(&upsert("note = 'x'")).tag(), "INSERT 0 0");
    // Views are not looked into.
    assert_eq!(client.query("CREATE VIEW shown AS SELECT user_id, id FROM queue").sqlstate(), "");
    refused(
        &mut client,
        "WITH gone AS (DELETE FROM archive RETURNING id) SELECT count(*) FROM gone JOIN shown USING (id)",
        "view \"shown\"",
    );
}

#[test]
fn partitions_are_their_tables_rows() {
    let queue = Queue::new("");
    let mut client = queue.client();
    let made = client.query(
        "CREATE TABLE parted (user_id bigint, id int) PARTITION BY RANGE (id); \
         CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100)",
    );
    assert_eq!(made.sqlstate(), "");
    refused(
        &mut client,
        "WITH gone AS (DELETE FROM parted RETURNING id) SELECT count(*) FROM gone, parted_1",
        "table parted_1",
    );
    refused(
        &mut client,
        "WITH gone AS (DELETE FROM parted_1 RETURNING id) SELECT count(*) FROM gone, parted",
        "table parted",
    );
}

#[test]
fn one_key_sends_it_to_its_shard_as_it_is() {
    let queue = Queue::new("");
    let mut client = queue.client();
    // It looks at the table that the CTE writes, which only one server can get right.
    let sql = "WITH gone AS (DELETE FROM queue WHERE user_id = $1 AND id < 30 RETURNING id) \
               SELECT count(*), (SELECT count(*) FROM queue WHERE user_id = $1) FROM gone";
    assert_eq!(client.execute(sql, &[Some("7")], false).text(), "2|3");
    assert_eq!(client.execute(sql, &[Some("7")], true).sqlstate(), "");
    let two = "WITH gone AS (DELETE FROM queue WHERE user_id = $1 RETURNING id) \
               INSERT INTO archive (user_id, id) SELECT $2::bigint, id FROM gone";
    for (from, to, count) in [("8", "8", 3), ("9", "10", 3), ("11", "12", 3)] {
        assert_eq!(client.execute(two, &[Some(from), Some(to)], false).tag(), format!("INSERT 0 {count}"));
    }
    assert_eq!(
        client.text("SELECT user_id, count(*) FROM archive GROUP BY user_id ORDER BY user_id"),
        "8|3\n10|3\n12|3"
    );
}
