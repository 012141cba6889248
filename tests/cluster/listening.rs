//! LISTEN and NOTIFY through one connection for all.

use crate::support::running::{RULES, Running, database_config, databases, shared, superuser, wait_for};
use crate::support::wire::{self, Answer, Wire};

/// One server for everybody: whoever kept it would stop all others.
fn narrow(shards: usize) -> (Running, Vec<String>) {
    let over = databases("listen", shards);
    let router = Running::start(&format!("[pool]\nsize = 1\n{}", database_config(shared(), &over, RULES)));
    router.wait_until_ready();
    (router, over)
}

/// The next notification that comes unasked.
fn heard(client: &mut Wire) -> (String, String) {
    loop {
        let message = client.message().unwrap();
        if message.tag == b'A' {
            let (_, channel, payload) = wire::notification(&message.body);
            return (channel, payload);
        }
    }
}

fn payloads(answer: &Answer) -> Vec<&str> {
    answer.notifications.iter().map(|(_, _, payload)| payload.as_str()).collect()
}

#[test]
fn many_clients_listen_and_keep_no_server() {
    let (router, over) = narrow(1);
    let mut listeners: Vec<Wire> = (0..20).map(|_| router.client()).collect();
    for (number, listener) in listeners.iter_mut().enumerate() {
        assert_eq!(listener.query("LISTEN news").tag(), "LISTEN");
        assert_eq!(listener.query(&format!("LISTEN \"Own {number}\"")).tag(), "LISTEN");
    }
    let mut speaker = router.client();
    assert_eq!(speaker.query("NOTIFY news, 'for all'").tag(), "NOTIFY");
    speaker.text("SELECT pg_notify('Own 7', 'for one')");
    superuser(shared(), &over[0]).query("NOTIFY news, 'from outside'");
    for (number, listener) in listeners.iter_mut().enumerate() {
        assert_eq!(heard(listener), ("news".to_owned(), "for all".to_owned()));
        if number == 7 {
            assert_eq!(heard(listener), ("Own 7".to_owned(), "for one".to_owned()));
        }
        assert_eq!(heard(listener), ("news".to_owned(), "from outside".to_owned()));
        assert_eq!(listener.query("UNLISTEN news").tag(), "UNLISTEN");
    }
    speaker.query("NOTIFY news, 'unheard'");
    assert_eq!(listeners[3].query("UNLISTEN *").tag(), "UNLISTEN");
    speaker.text("SELECT pg_notify('Own 3', 'unheard'), pg_notify('Own 4', 'heard')");
    assert_eq!(heard(&mut listeners[4]), ("Own 4".to_owned(), "heard".to_owned()));
    assert!(listeners[3].query("SELECT 1").notifications.is_empty());
}

#[test]
fn who_notifies_itself_hears_it_before_the_answer_ends() {
    for shards in [1, 2] {
        let (router, _) = narrow(shards);
        let mut client = router.client();
        client.query("CREATE TABLE users (id bigint PRIMARY KEY)");
        client.query("LISTEN a");
        let pid = client.pid;
        let answer = client.query("NOTIFY a, 'simple'");
        assert_eq!(answer.notifications, [(pid, "a".to_owned(), "simple".to_owned())], "the client's own process id");
        assert_eq!(payloads(&client.execute("SELECT pg_notify('a', 'extended')", &[], false)), ["extended"]);
        assert_eq!(payloads(&client.query("SELECT 1; NOTIFY a, 'text'; NOTIFY b, 'other'")), ["text"]);
        // In a block they come with the commit.
        client.query("BEGIN");
        assert!(client.query("NOTIFY a, 'block'").notifications.is_empty());
        assert!(client.query("SELECT 1").notifications.is_empty());
        assert_eq!(payloads(&client.query("COMMIT")), ["block"]);
        client.query("BEGIN");
        client.query("NOTIFY a, 'never'");
        assert!(client.query("ROLLBACK").notifications.is_empty());
    }
}

#[test]
fn a_listen_counts_from_its_commit() {
    let (router, _) = narrow(1);
    let (mut client, mut speaker) = (router.client(), router.client());
    client.query("BEGIN");
    client.query("LISTEN never");
    client.query("ROLLBACK");
    client.query("BEGIN");
    client.query("LISTEN kept");
    client.query("SAVEPOINT s");
    client.query("LISTEN dropped");
    client.query("ROLLBACK TO s");
    client.query("COMMIT");
    speaker.text("SELECT pg_notify('never', ''), pg_notify('dropped', ''), pg_notify('kept', 'yes')");
    assert_eq!(heard(&mut client), ("kept".to_owned(), "yes".to_owned()));
    // While a block is open nothing comes.
    client.query("BEGIN");
    client.query("UNLISTEN kept");
    speaker.query("NOTIFY kept, 'still'");
    client.query("ROLLBACK");
    assert_eq!(heard(&mut client), ("kept".to_owned(), "still".to_owned()));
    assert_eq!(client.query("DISCARD ALL").tag(), "DISCARD ALL");
    speaker.query("NOTIFY kept, 'no more'");
    assert!(client.query("SELECT 1").notifications.is_empty());
}

#[test]
fn a_lost_ear_is_told_to_who_listens() {
    let (router, over) = narrow(1);
    let mut client = router.client();
    client.query("LISTEN news");
    let ends = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    assert_eq!(superuser(shared(), &over[0]).text(ends), "1");
    let last = client.message().unwrap();
    assert_eq!((last.tag, wire::sqlstate(&last.body)), (b'E', "08006".to_owned()));
    let mut again = router.client();
    wait_for("another connection that listens", || again.query("LISTEN news").sqlstate().is_empty().then_some(()));
    assert_eq!(payloads(&again.query("NOTIFY news, 'back'")), ["back"]);
}

#[test]
fn a_session_is_told_what_it_listens_to() {
    let (router, over) = narrow(1);
    let [direct, routed] = [(shared().port(), over[0].as_str()), (router.port, "app")].map(|(port, database)| {
        let mut client = Wire::connect(port, "app", database);
        let mut seen = Vec::new();
        for step in [
            "SELECT 1",
            "LISTEN a",
            "LISTEN \"B c\"",
            "BEGIN",
            "LISTEN d",
            "UNLISTEN a",
            "SELECT 1",
            "COMMIT",
            "UNLISTEN d",
            "BEGIN",
            "SELECT 1 / 0",
            "ROLLBACK",
            "DISCARD ALL",
        ] {
            client.query(step);
            for sql in [
                "SELECT pg_listening_channels()",
                "SELECT pg_listening_channels() AS x",
                "SELECT * FROM pg_listening_channels()",
                "select pg_catalog.pg_listening_channels();",
            ] {
                for answer in [client.query(sql), client.execute(sql, &[], false)] {
                    let rows = answer.results.first().map(|result| {
                        let mut rows: Vec<_> = result.rows.clone();
                        rows.sort();
                        let columns = result
                            .columns
                            .as_ref()
                            .map(|columns| columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>());
                        (rows, columns, result.tag.clone())
                    });
                    seen.push((step, sql, answer.sqlstate().to_owned(), rows));
                }
            }
        }
        seen
    });
    assert_eq!(routed, direct);
}

#[test]
fn who_listens_learns_the_process_id_that_the_client_knows_of_itself() {
    let (router, over) = narrow(1);
    let mut listener = router.client();
    listener.query("LISTEN news");
    let next = |listener: &mut Wire| loop {
        let message = listener.message().unwrap();
        if message.tag == b'A' {
            break wire::notification(&message.body);
        }
    };
    let mut speakers = [router.client(), router.client()];
    for round in 0..20 {
        let speaker = &mut speakers[round % 2];
        match round % 3 {
            0 => drop(speaker.query("NOTIFY news, 'alone'")),
            1 => drop(speaker.query("BEGIN; NOTIFY news, 'in a block'; COMMIT")),
            _ => {
                speaker.query("BEGIN");
                speaker.query("NOTIFY news, 'given up'");
                speaker.query("ROLLBACK");
                speaker.query("BEGIN");
                speaker.query("NOTIFY news, 'kept'");
                speaker.query("COMMIT");
            }
        }
        let (pid, _, payload) = next(&mut listener);
        assert_eq!(pid, speaker.pid, "{payload}");
    }
    // Nobody else speaks under that id.
    superuser(shared(), &over[0]).query("NOTIFY news, 'from outside'");
    let (pid, ..) = next(&mut listener);
    assert!(speakers.iter().all(|speaker| speaker.pid != pid));
}

/// PostgreSQL does not prepare a transaction that has notified; so the first shard, where it has, decides.
#[test]
fn a_transaction_on_all_shards_notifies() {
    let over = databases("listen", 3);
    let router = Running::over(&over);
    let (mut listener, mut speaker) = (router.client(), router.client());
    listener.query("LISTEN news");
    speaker.query("BEGIN");
    speaker.query("NOTIFY news, 'made'");
    assert_eq!(speaker.query("CREATE TABLE made (user_id bigint PRIMARY KEY)").tag(), "CREATE TABLE");
    assert_eq!(speaker.text("SELECT pg_advisory_lock(1), pg_advisory_xact_lock(1)"), "|");
    assert_eq!(speaker.query("COMMIT").tag(), "COMMIT");
    assert_eq!(heard(&mut listener), ("news".to_owned(), "made".to_owned()));
    speaker.query("BEGIN");
    speaker.query("NOTIFY news, 'not made'");
    speaker.query("CREATE TABLE unmade (user_id bigint PRIMARY KEY)");
    assert_eq!(speaker.query("ROLLBACK").tag(), "ROLLBACK");
    speaker.query("NOTIFY news, 'later'");
    assert_eq!(heard(&mut listener), ("news".to_owned(), "later".to_owned()));
    assert_eq!(speaker.text("SELECT count(*) FROM made"), "0");
}
