//! Writes over shards that are interrupted: by servers that go, clients that hang up, tables that change.

use std::thread;
use std::time::{Duration, Instant};

use crate::enemies::Two;
use crate::support::running::wait_for;
use crate::support::wire;

/// A server that is lost within a statement takes what the block did there with it; no savepoint brings the rest back alone.
#[test]
fn a_server_lost_within_a_write_ends_the_block() {
    let two = Two::new("lost", "");
    let mut client = two.router.client();
    assert_eq!(client.query(&two.insert("before")).tag(), "INSERT 0 2");
    for shard in 0..2 {
        let mut holder = two.on_shard(shard);
        holder.query(&format!("BEGIN; SELECT FROM users WHERE id = {} FOR UPDATE", two.ids[shard]));
        let other = two.ids[1 - shard];
        assert_eq!(client.query("BEGIN").tag(), "BEGIN");
        assert_eq!(client.query(&format!("UPDATE users SET name = 'half' WHERE id = {other}")).tag(), "UPDATE 1");
        assert_eq!(client.query("SAVEPOINT s").tag(), "SAVEPOINT");
        client.send(&wire::query("UPDATE users SET name = 'half'"));
        two.wait_for_lock(shard, "UPDATE");
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE datname = current_database() AND usename = 'app' AND wait_event_type = 'Lock'";
        assert_eq!(two.on_shard(shard).text(end), "1");
        let lost = client.answer(&[]);
        assert!(lost.error.is_some());
        assert_eq!(lost.status, b'E');
        assert!(client.query("ROLLBACK TO s").error.is_some());
        assert_eq!(client.query("COMMIT").tag(), "ROLLBACK");
        holder.query("ROLLBACK");
        assert_eq!(two.names(), ["before", "before"]);
    }
    assert_eq!(client.query("UPDATE users SET name = 'after'").tag(), "UPDATE 2");
}

/// What no Sync has ended is undone when its client goes.
#[test]
fn a_pipeline_without_its_sync_commits_nothing() {
    let two = Two::new("unsynced", "");
    let mut client = two.router.client();
    let flush = wire::message(b'H', b"");
    for bind_alone in [false, true] {
        let mut leaver = two.router.client();
        let insert = two.insert("x");
        let mut out = [wire::parse("", &insert), wire::bind("", "", &[], false)].concat();
        if bind_alone {
            leaver.send(&[out.clone(), flush.clone()].concat());
            assert_eq!([leaver.message().unwrap().tag, leaver.message().unwrap().tag], [b'1', b'2']);
            out.clear();
        }
        out.extend([wire::execute(""), flush.clone()].concat());
        leaver.send(&out);
        while leaver.message().unwrap().tag != b'C' {}
        assert_eq!(two.on_shards("SELECT count(*) FROM users"), ["0", "0"]);
        drop(leaver);
        let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
        wait_for("the servers to be free", || (two.on_shards(open) == ["0", "0"]).then_some(()));
        assert_eq!(two.on_shards("SELECT count(*) FROM users"), ["0", "0"]);
    }
    assert_eq!(client.query("SET default_transaction_isolation = 'serializable'").tag(), "SET");
    assert_eq!(client.query(&two.insert("skewed")).sqlstate(), "0A000");
    assert_eq!(two.on_shards("SELECT count(*) FROM users"), ["0", "0"]);
}

/// Clients that hang up at any moment of a write, its commit included: all shards, or none.
#[test]
fn clients_that_hang_up_at_any_moment_tear_nothing() {
    let two = Two::new("hang_up", "");
    assert_eq!(two.router.client().query(&two.insert("0")).tag(), "INSERT 0 2");
    let until = Instant::now() + Duration::from_secs(3);
    let asked: u64 = thread::scope(|scope| {
        let clients: Vec<_> = (0..4u64)
            .map(|number| {
                let two = &two;
                scope.spawn(move || {
                    let mut asked = 0;
                    while Instant::now() < until {
                        let mut client = two.router.client();
                        let update = "UPDATE users SET name = (name::int + 1)::text";
                        match asked % 3 {
                            0 => client.send(&wire::query(update)),
                            1 => client.send(&wire::query(&format!("BEGIN; {update}; COMMIT"))),
                            _ => client.send(
                                &[
                                    wire::parse("", update),
                                    wire::bind("", "", &[], false),
                                    wire::execute(""),
                                    wire::sync(),
                                ]
                                .concat(),
                            ),
                        }
                        // Any moment of it.
                        thread::sleep(Duration::from_micros((asked * 997 + number * 251) % 12_000));
                        asked += 1;
                    }
                    asked
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'app' \
                AND (state LIKE 'idle in%' OR state = 'active') AND application_name NOT LIKE 'sluice control%'";
    let open = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()";
    wait_for("everything to end", || {
        (two.on_shards(busy) == ["0", "0"] && two.on_shards(open) == ["0", "0"]).then_some(())
    });
    let names = two.names();
    assert_eq!(names[0], names[1]);
    let done = names[0].parse::<u64>().unwrap();
    assert!(0 < done && done <= asked, "{done} of {asked}");
    println!("{done} of {asked}");
}

/// Tables that change while prepared writes over shards run: each runs once, or tells that it has not.
#[test]
fn writes_beside_ddl_run_once() {
    let two = Two::new("beside_ddl", "");
    assert_eq!(two.router.client().query(&two.insert("0")).tag(), "INSERT 0 2");
    let until = Instant::now() + Duration::from_secs(3);
    let passed: u64 = thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|number| {
                let two = &two;
                scope.spawn(move || {
                    let (mut client, mut passed) = (two.router.client(), 0);
                    let returning = if number == 0 { " RETURNING *" } else { "" };
                    let update = format!("UPDATE users SET name = (name::int + $1::int)::text{returning}");
                    client.send(&[wire::parse("s", &update), wire::sync()].concat());
                    assert_eq!(client.answer(&[]).error, None);
                    while Instant::now() < until {
                        client.send(
                            &[wire::bind("", "s", &[Some("1")], false), wire::execute(""), wire::sync()].concat(),
                        );
                        let answer = client.answer(&[]);
                        assert!(matches!(answer.sqlstate(), "" | "40P01" | "0A000"), "{:?}", answer.error);
                        passed += u64::from(answer.error.is_none());
                    }
                    passed
                })
            })
            .collect();
        let mut client = two.router.client();
        let mut changes = 0;
        while Instant::now() < until {
            for sql in ["ALTER TABLE users ADD COLUMN more int DEFAULT 7", "ALTER TABLE users DROP COLUMN more"] {
                while !matches!(client.query(sql).sqlstate(), "" | "42701" | "42703") {}
                changes += 1;
            }
        }
        assert!(changes > 2);
        writers.into_iter().map(|writer| writer.join().unwrap()).sum()
    });
    let passed = passed.to_string();
    assert_eq!(two.names(), [passed.as_str(), &passed]);
    assert_ne!(passed, "0");
}
