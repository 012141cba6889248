//! Clients that send nonsense, stop half-way, die, crowd or pry: nobody else may notice.

use std::thread;
use std::time::{Duration, Instant};

use tokio_postgres::NoTls;

use crate::support::running::{RULES, Running, database_config, databases, shared, superuser, wait_for};
use crate::support::wire::{self, Wire};

/// One database, one server for everybody.
struct Narrow {
    database: String,
    router: Running,
}

impl Narrow {
    fn new(name: &str, wait_timeout: &str) -> Self {
        let over = databases(name, 1);
        let pool = format!("[pool]\nsize = 1\nwait_timeout = \"{wait_timeout}\"\n");
        let config = pool + &database_config(shared(), &over, RULES);
        let router = Running::start(&config);
        router.wait_until_ready();
        let narrow = Self { database: over[0].clone(), router };
        let made = narrow.router.client().query("CREATE TABLE users (id bigint PRIMARY KEY, name text)");
        assert_eq!(made.tag(), "CREATE TABLE");
        narrow
    }

    fn ask(&self, sql: &str) -> String {
        superuser(shared(), &self.database).text(sql)
    }

    /// What the servers of user `app` are doing now.
    fn servers(&self, condition: &str) -> String {
        self.ask(&format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'app' \
             AND application_name NOT LIKE 'sluice control%' AND {condition}"
        ))
    }
}

fn assert_serves(router: &Running) {
    assert_eq!(router.client().text("SELECT 42"), "42");
}

#[test]
fn nonsense_instead_of_a_startup_ends_the_connection() {
    let over = databases("nonsense", 1);
    let router = Running::over(&over);
    let mut packets: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        b"\x00\x00\x00\x08\x00\x00\x00\x00".to_vec(),
        b"\x00\x00\x00\x10\x04\xd2\x16\x2e\x00\x00\x00\x01".to_vec(),
        vec![0xff; 1000],
        vec![0; 1000],
        wire::query("SELECT 1"),
    ];
    for length in [0, 1, 3, 4, 7, 10_001, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        packets.push([&length.to_be_bytes()[..], &196_608_u32.to_be_bytes()[..], b"user\0app\0"].concat());
    }
    // Names without values, no user, no end.
    for body in [&b"user\0"[..], b"\0", b"database\0app\0\0", b"user\0app\0x", b"\xff\xfe\0\xff\0\0"] {
        let length = u32::try_from(body.len() + 8).unwrap();
        packets.push([&length.to_be_bytes()[..], &196_608_u32.to_be_bytes()[..], body].concat());
    }
    for packet in packets {
        let mut wire = Wire::open(router.port);
        wire.send(&packet);
        wire.end_sending();
        let answer = wire.read_to_end();
        assert!(answer.is_empty() || answer[0] == b'E', "{packet:?} was answered by {answer:?}");
    }
    assert_serves(&router);
}

#[test]
fn lengths_that_cannot_be_end_the_connection() {
    let router = Running::over(&databases("lengths", 1));
    for tag in [b'Q', b'P', b'B', b'E', b'd', b'S', b'!'] {
        for length in [0_u32, 3, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let mut client = router.client();
            client.send(&[&[tag][..], &length.to_be_bytes()[..], b"some bytes"].concat());
            let answer = client.message().unwrap();
            assert_eq!(answer.tag, b'E', "{} {length}", char::from(tag));
            assert!(["08P01", "54000"].contains(&wire::sqlstate(&answer.body).as_str()), "{answer:?}");
            client.read_to_end();
        }
    }
    assert_serves(&router);
}

#[test]
fn messages_that_make_no_sense_are_errors_of_this_client_alone() {
    let router = Running::over(&databases("senseless", 2));
    for bytes in [
        wire::message(b'~', b""),
        wire::message(b'Q', b"SELECT 1"),
        wire::message(b'P', b"no end"),
        wire::message(b'B', b"\0\0\xff\xff"),
        wire::message(b'B', b"\0\0\0\0\0\x01\x7f\xff\xff\xff"),
        wire::message(b'D', b"?\0"),
        wire::message(b'E', b""),
    ] {
        let mut client = router.client();
        client.send(&[bytes.clone(), wire::sync()].concat());
        let answer = client.message().unwrap();
        assert_eq!(answer.tag, b'E', "{bytes:?} was answered by {answer:?}");
    }
    let mut client = router.client();
    client.send(&wire::message(b'Q', b"SELECT '\xff\xfe'\0"));
    assert_eq!(client.answer(b"").sqlstate(), "22021");
    assert_eq!(client.text("SELECT 1"), "1");
}

#[test]
fn only_who_knows_the_password_gets_in() {
    let over = databases("password", 1);
    let listen = "[listen]\naddress = \"127.0.0.1:0\"\n[auth]\nmethod = \"scram-sha-256\"\n";
    let router = Running::start_exactly(&format!("{listen}{}", database_config(shared(), &over, RULES)));
    router.wait_until_ready();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let login = |user: &str, password: &str, database: &str| {
        let url = format!("postgres://{user}:{password}@127.0.0.1:{}/{database}", router.port);
        let result = runtime.block_on(async { tokio_postgres::connect(&url, NoTls).await.map(drop) });
        result.err().map(|error| error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned()))
    };
    assert_eq!(login("app", "app", "app"), None);
    assert_eq!(login("app", "wrong", "app").as_deref(), Some("28P01"));
    assert_eq!(login("nobody", "app", "app").as_deref(), Some("28P01"));
    assert_eq!(login("app", "app", "nowhere").as_deref(), Some("3D000"));
    assert_eq!(login("app", "wrong", "nowhere").as_deref(), Some("28P01"), "who has no password learns nothing");
    assert_eq!(login("app", "app", "app"), None);
}

#[test]
fn a_startup_that_postgres_would_refuse_is_refused_and_holds_nothing() {
    let narrow = Narrow::new("options", "2s");
    for _ in 0..4 {
        let parameters = [("user", "app"), ("database", "app"), ("options", "-c nothing_known=1")];
        let refused = Wire::try_connect(narrow.router.port, &parameters).err().unwrap();
        assert_eq!((refused.sqlstate(), refused.field(b'S')), ("42704", "FATAL"));
        assert_serves(&narrow.router);
    }
    let parameters = [("user", "app"), ("database", "app"), ("options", "-c statement_timeout=78s")];
    let mut client = Wire::try_connect(narrow.router.port, &parameters).unwrap();
    assert_eq!(client.text("SHOW statement_timeout"), "78s");
    assert_eq!(narrow.router.client().text("SHOW statement_timeout"), "0");
}

#[test]
fn a_client_that_dies_inside_a_transaction_locks_nothing() {
    let narrow = Narrow::new("dead", "10s");
    narrow.router.client().query("INSERT INTO users VALUES (1, 'before')");
    let mut dying = narrow.router.client();
    dying.query("BEGIN");
    assert_eq!(dying.query("UPDATE users SET name = 'lost' WHERE id = 1").tag(), "UPDATE 1");
    drop(dying);
    // There is one server: it was taken back, and rolled back.
    let mut next = narrow.router.client();
    assert_eq!(next.text("SELECT name FROM users WHERE id = 1"), "before");
    assert_eq!(next.query("UPDATE users SET name = 'after' WHERE id = 1").tag(), "UPDATE 1");
    assert_eq!(narrow.servers("state = 'idle'"), "1");
}

#[test]
fn a_client_that_dies_while_it_waits_for_an_answer_stops_the_work() {
    let narrow = Narrow::new("asleep", "10s");
    let mut dying = narrow.router.client();
    dying.send(&wire::query("SELECT pg_sleep(600)"));
    wait_for("the query to run", || (narrow.servers("state = 'active'") == "1").then_some(()));
    drop(dying);
    wait_for("the query to end", || (narrow.servers("state = 'active'") == "0").then_some(()));
    assert_serves(&narrow.router);
}

#[test]
fn a_client_that_stops_inside_a_message_disturbs_nobody() {
    let narrow = Narrow::new("half", "10s");
    let text = wire::query("INSERT INTO users VALUES (2, 'half')");
    for cut in [1, 4, 5, 6, text.len() - 1] {
        let mut half = narrow.router.client();
        half.send(&text[..cut]);
        assert_serves(&narrow.router);
        drop(half);
    }
    // Half a pipeline: the server has seen Parse and Bind, and never a Sync.
    let mut half = narrow.router.client();
    half.send(&wire::parse("", "INSERT INTO users VALUES (3, 'half')"));
    half.send(&wire::bind("", "", &[], false));
    half.send(&wire::execute(""));
    half.send(&wire::message(b'H', b""));
    assert_eq!(half.message().unwrap().tag, b'1');
    drop(half);
    let mut client = narrow.router.client();
    assert_eq!(client.text("SELECT count(*) FROM users"), "0");
    assert_eq!(client.query("INSERT INTO users VALUES (3, 'whole')").tag(), "INSERT 0 1");
}

/// All that a session of PostgreSQL can hold, as its next user would see it.
const STATE: &str = "SELECT current_user, session_user, pg_my_temp_schema() <> 0 \
     AND EXISTS (SELECT FROM pg_class WHERE relnamespace = pg_my_temp_schema()), \
     (SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings WHERE source = 'session'), \
     (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), \
     (SELECT count(*) FROM pg_listening_channels()), \
     (SELECT count(*) FROM pg_cursors WHERE name <> ''), \
     (SELECT count(*) FROM pg_prepared_statements WHERE name NOT LIKE 'sluice_%'), \
     current_setting('my.own', true), txid_current_if_assigned() IS NULL, current_setting('transaction_isolation')";

/// What a client does to its session.
const SOILED: [&str; 20] = [
    "SET statement_timeout = '77s'",
    "SET search_path = pg_catalog",
    "SET default_transaction_read_only = on",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET DateStyle = 'German'; SET TimeZone = 'Asia/Tokyo'",
    "SET my.own = 'x'",
    "SET ROLE pg_monitor",
    "SELECT set_config('statement_timeout', '79s', false)",
    "DO $$ BEGIN PERFORM set_config('work_mem', '9MB', false); END $$",
    "SELECT soils()",
    "CREATE TEMP TABLE mine (i int)",
    "SELECT 1 AS i INTO TEMP mine",
    "SELECT pg_advisory_lock(7)",
    "SELECT pg_advisory_lock_shared(8), pg_try_advisory_lock(9)",
    "LISTEN news",
    "PREPARE mine AS SELECT 1",
    "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT",
    "BEGIN; SET LOCAL statement_timeout = '78s'",
    "BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO users VALUES (77, 'never')",
    "BEGIN; SET statement_timeout = '76s'; SELECT 1 / 0",
];

/// How a client leaves.
fn leave(mut client: Wire, how: usize) {
    match how {
        0 => {}
        1 => client.send(&wire::message(b'X', b"")),
        2 => client.send(&wire::query("SELECT pg_sleep(30)")),
        3 => client.send(&wire::query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)")),
        4 => {
            client.send(&wire::query("COPY users FROM STDIN"));
            client.send(&wire::message(b'd', b"5\tfi"));
        }
        5 => client.send(&[wire::parse("", "SELECT 1"), wire::bind("", "", &[], false), wire::execute("")].concat()),
        6 => client.send(&wire::query("SELECT 1")[..7]),
        _ => drop(client.query("SELECT 1 / 0")),
    }
}

#[test]
fn what_a_client_leaves_behind_is_gone_for_the_next() {
    let narrow = Narrow::new("leaves", "30s");
    narrow.ask("GRANT pg_monitor TO app");
    let soils =
        "CREATE FUNCTION soils() RETURNS int LANGUAGE plpgsql AS 'BEGIN SET search_path = soiled; RETURN 1; END'";
    assert_eq!(narrow.router.client().query(soils).sqlstate(), "");
    let clean = narrow.router.client().text(STATE);
    for (number, soiled) in SOILED.into_iter().enumerate() {
        for how in (number..number + 3).map(|n| n % 8) {
            let mut client = narrow.router.client();
            let answer = client.query(soiled);
            assert!(["", "22012"].contains(&answer.sqlstate()), "{soiled}: {:?}", answer.error);
            leave(client, how);
            assert_eq!(narrow.router.client().text(STATE), clean, "after {soiled}, left in way {how}");
        }
    }
    assert_eq!(narrow.ask("SELECT count(*) FROM users"), "0");
}

#[test]
fn a_client_sees_its_own_session_and_nobody_elses() {
    let narrow = Narrow::new("own", "30s");
    narrow.ask("GRANT pg_monitor TO app");
    let elsewhere = ["TEMP", "set_config", "soils", "PREPARE"];
    for soiled in SOILED.into_iter().filter(|sql| !elsewhere.iter().any(|word| sql.contains(word))) {
        let (mut one, mut other) = (narrow.router.client(), narrow.router.client());
        let clean = other.text(STATE);
        one.query(soiled);
        let own = one.query(STATE);
        if own.status == b'I' && !pins(soiled) {
            assert_ne!(own.text(), clean, "{soiled}");
            assert_eq!(other.text(STATE), clean, "after {soiled} of another client");
            assert_eq!(one.text(STATE), own.text(), "{soiled} is kept");
        }
    }
}

/// Whether the client keeps the one server, so that nobody else is served meanwhile.
fn pins(sql: &str) -> bool {
    ["advisory", "LISTEN", "WITH HOLD"].iter().any(|word| sql.contains(word))
}

#[test]
fn many_clients_share_one_server_and_all_are_served() {
    let narrow = Narrow::new("crowd", "30s");
    let port = narrow.router.port;
    let clients: Vec<_> = (0..24)
        .map(|number| {
            thread::spawn(move || {
                let mut client = Wire::connect(port, "app", "app");
                for round in 0..10 {
                    let tag = format!("{number}-{round}");
                    assert_eq!(client.text(&format!("SELECT '{tag}' FROM pg_sleep(0.002)")), tag);
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(narrow.servers("true"), "1");
}

#[test]
fn who_waits_too_long_is_told_so() {
    let narrow = Narrow::new("wait", "300ms");
    let mut holder = narrow.router.client();
    holder.query("BEGIN");
    assert_eq!(holder.text("SELECT 1"), "1");
    let mut waiting = narrow.router.client();
    let began = Instant::now();
    let answer = waiting.query("SELECT 1");
    assert_eq!(answer.sqlstate(), "53300", "{:?}", answer.error);
    assert!(began.elapsed() >= Duration::from_millis(250));
    assert_eq!(holder.query("COMMIT").tag(), "COMMIT");
    assert_eq!(waiting.text("SELECT 2"), "2");
}

#[test]
fn a_cancel_hits_its_own_query_and_no_other() {
    let over = databases("cancel", 1);
    let router = Running::over(&over);
    let mut victim = router.client();
    let mut other = router.client();
    victim.send(&wire::query("SELECT pg_sleep(600)"));
    other.send(&wire::query("SELECT 'other' FROM pg_sleep(1)"));
    let running = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_sleep(%' \
                   AND state = 'active' AND pid <> pg_backend_pid()";
    wait_for("both to run", || (superuser(shared(), &over[0]).text(running) == "2").then_some(()));
    let send_cancel = |pid: i32, secret: &[u8]| {
        let mut wire = Wire::open(router.port);
        wire.send(&wire::cancel(pid, secret));
        assert!(wire.read_to_end().is_empty());
    };
    let wrong: Vec<u8> = victim.secret.iter().map(|byte| !byte).collect();
    send_cancel(victim.pid, &wrong);
    send_cancel(victim.pid.wrapping_add(1000), &victim.secret);
    assert_eq!(other.answer(b"").text(), "other");
    assert_eq!(superuser(shared(), &over[0]).text(running), "1", "a wrong secret cancels nothing");
    send_cancel(victim.pid, &victim.secret);
    assert_eq!(victim.answer(b"").sqlstate(), "57014");
    assert_eq!(victim.text("SELECT 1"), "1");
}

#[test]
fn a_late_cancel_does_not_hit_the_next_client_of_the_server() {
    let narrow = Narrow::new("late", "10s");
    let mut first = narrow.router.client();
    let mut second = narrow.router.client();
    for round in 0..20 {
        assert_eq!(first.text("SELECT 1"), "1");
        second.send(&wire::query(&format!("SELECT {round} FROM pg_sleep(0.02)")));
        let mut cancel = Wire::open(narrow.router.port);
        cancel.send(&wire::cancel(first.pid, &first.secret));
        cancel.read_to_end();
        assert_eq!(second.answer(b"").text(), round.to_string());
    }
}

/// Every client's cancel is for its own query; a storm of them reaches nobody else and leaves nothing.
#[test]
fn a_storm_of_cancels_hits_no_bystander() {
    let over = databases("storm", 1);
    let router = Running::start(&format!("[pool]\nsize = 4\n{}", database_config(shared(), &over, RULES)));
    router.wait_until_ready();
    let cancels = std::env::var("SLUICE_CANCELS").ok().and_then(|text| text.parse().ok()).unwrap_or(800_usize);
    let port = router.port;
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let bystanders: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Wire::connect(port, "app", "app");
                    let mut count = 0;
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        count += 1;
                        assert_eq!(client.text(&format!("SELECT {count} FROM pg_sleep(0.001)")), count.to_string());
                    }
                })
            })
            .collect();
        let attackers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Wire::connect(port, "app", "app");
                    for round in 0..cancels / 8 {
                        if round % 4 == 0 {
                            client.send(&wire::query("SELECT 1 FROM pg_sleep(0.005)"));
                        }
                        let mut cancel = Wire::open(port);
                        cancel.send(&wire::cancel(client.pid, &client.secret));
                        cancel.read_to_end();
                        if round % 4 == 3 {
                            assert!(["", "57014"].contains(&client.answer(b"").sqlstate()));
                        }
                    }
                })
            })
            .collect();
        attackers.into_iter().for_each(|attacker| attacker.join().unwrap());
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        bystanders.into_iter().for_each(|bystander| bystander.join().unwrap());
    });
    assert_serves(&router);
}
