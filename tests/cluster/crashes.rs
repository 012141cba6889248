//! Commits over several shards that are interrupted at every step: whole everywhere or nowhere, soon, and the
//! client was told the truth.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use pgsluice_sharding::{Key, ShardMap};

use crate::support::proxy::{Lost, Proxy};
use crate::support::running::{RULES, wait_for};
use crate::support::wire::{self, Answer, Wire};
use crate::support::{Cluster, ClusterOptions, Sluice};

const SHARDS: u16 = 3;
const BUCKETS: u16 = 4096;

/// Every point of a commit that succeeds, in order.
const POINTS: [&str; 9] =
    ["begun", "prepare-first", "prepare", "prepared", "decide", "decided", "finish-first", "finish", "finished"];

/// The last one that a transaction writes on decides.
const DECIDER: usize = 0;

const SETTINGS: &str = "[pool]\nconnect_timeout = \"1s\"\nwait_timeout = \"3s\"\n\
    [commit]\nin_doubt_after = \"400ms\"\noutcome_timeout = \"8s\"\n";

/// Servers that keep what they have committed, wires to them, and a router that only looks on.
struct World {
    cluster: Cluster,
    wires: Vec<Proxy>,
    observer: Sluice,
    ids: Vec<i64>,
    settings: String,
}

impl World {
    fn start() -> Self {
        Self::start_with(SETTINGS)
    }

    fn start_with(sluice_settings: &str) -> Self {
        let settings = vec![("fsync".to_owned(), "on".to_owned()), ("synchronous_commit".to_owned(), "on".to_owned())];
        let cluster = Cluster::start(ClusterOptions { shards: SHARDS.into(), settings, ..Default::default() }).unwrap();
        let wires = (0..usize::from(SHARDS)).map(|shard| Proxy::to(cluster.primary(shard).port())).collect();
        let map = ShardMap::even(BUCKETS, SHARDS);
        let ids = (0..SHARDS).map(|shard| (1..).find(|id| map.shard_of(&Key::Int(*id)).0 == shard).unwrap());
        let observer = Sluice::start(&format!("{sluice_settings}{}", cluster.database_config("app", RULES)));
        let world = Self { ids: ids.collect(), cluster, wires, observer, settings: sluice_settings.to_owned() };
        let mut client = world.ready(&world.observer, "CREATE TABLE users (id bigint PRIMARY KEY, name text)");
        for id in &world.ids {
            assert_eq!(client.query(&format!("INSERT INTO users VALUES ({id}, 'none')")).tag(), "INSERT 0 1");
        }
        world
    }

    /// A router over the wires in which something happens at a point of the first commit.
    fn router(&self, point: &str, what: &str) -> Sluice {
        let mut config = self.cluster.database_config("app", RULES);
        for (shard, wire) in self.wires.iter().enumerate() {
            let port = self.cluster.primary(shard).port();
            config = config.replace(&format!(":{port}/"), &format!(":{}/", wire.port));
        }
        let armed = format!("{point}={what}");
        Sluice::start_with_env(&format!("{}{config}", self.settings), &[("SLUICE_TEST_COMMIT_POINT", &armed)])
    }

    /// A client, once the router is able to run this.
    fn ready(&self, router: &Sluice, sql: &str) -> Wire {
        wait_for(sql, || {
            let mut client = Wire::try_connect(router.port(), &[("user", "app"), ("database", "app")]).ok()?;
            let answer = client.query(sql);
            answer.error.is_none().then_some(client)
        })
    }

    /// Writes `name` on all shards and sends COMMIT; the answer is not read.
    fn begin_to_commit(&self, router: &Sluice, name: &str) -> Wire {
        let mut client = self.ready(router, "SELECT count(*) FROM users");
        client.query("BEGIN");
        for id in &self.ids {
            assert_eq!(client.query(&format!("UPDATE users SET name = '{name}' WHERE id = {id}")).tag(), "UPDATE 1");
        }
        client.send(&wire::query("COMMIT"));
        client
    }

    /// Waits until nothing is in doubt; then the row is there on all shards or on none, as the client was told.
    fn check(&self, name: &str, told: &Answer) {
        let on_all = |sql: &str| -> Option<Vec<String>> {
            (0..usize::from(SHARDS)).map(|shard| self.cluster.primary(shard).psql(sql).ok()).collect()
        };
        wait_for(&format!("{name} to be resolved"), || {
            let prepared = on_all("SELECT count(*) FROM pg_prepared_xacts")?;
            prepared.iter().all(|count| count == "0").then_some(())
        });
        // What is left of a killed router's connections may end a moment later.
        let names = wait_for(&format!("{name} to be whole"), || {
            let names = on_all("SELECT string_agg(name, ',') FROM users")?;
            names.iter().all(|found| *found == names[0]).then_some(names)
        });
        let committed = names[0] == name;
        match told.sqlstate() {
            "" if told.tag() == "COMMIT" => assert!(committed, "{name}: told COMMIT, and the rows say {names:?}"),
            "08007" | wire::LOST => {}
            other => assert!(!committed, "{name}: told {other}, and yet it is committed"),
        }
    }
}

/// A file whose appearance lets a commit go on.
struct Gate(PathBuf);

impl Gate {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sluice-gate-{}-{name}", std::process::id()));
        std::fs::remove_file(&path).ok();
        Self(path)
    }

    fn what(&self) -> String {
        format!("hold:{}", self.0.display())
    }

    fn open(&self) {
        std::fs::write(&self.0, "").unwrap();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

#[test]
fn a_router_may_die_at_every_step_of_a_commit() {
    let world = World::start();
    for point in POINTS {
        let mut router = world.router(point, "abort");
        let mut client = world.begin_to_commit(&router, point);
        router.wait();
        world.check(point, &client.answer(b""));
    }
}

#[test]
fn a_router_may_stop_at_every_step_and_go_on_later() {
    let world = World::start();
    for point in POINTS {
        let router = world.router(point, "stop");
        let mut client = world.begin_to_commit(&router, point);
        router.wait_for_log("a commit has reached its point");
        // Another router ends what it finds, before this one wakes.
        wait_for("nothing in doubt", || {
            let sql = "SELECT count(*) FROM pg_prepared_xacts";
            (0..usize::from(SHARDS)).all(|shard| world.cluster.primary(shard).psql(sql).unwrap() == "0").then_some(())
        });
        router.signal("CONT");
        let told = client.answer(b"");
        assert_ne!(told.sqlstate(), wire::LOST, "{point}");
        world.check(point, &told);
    }
}

#[test]
fn a_connection_may_break_at_every_step() {
    let world = World::start();
    for point in POINTS {
        for participant in 0..usize::from(SHARDS) {
            let name = format!("{point}-{participant}");
            let router = world.router(point, &format!("lose:{participant}"));
            let mut client = world.begin_to_commit(&router, &name);
            let told = client.answer(b"");
            assert!(!["08007", wire::LOST].contains(&told.sqlstate()), "{name} could be known: {:?}", told.error);
            world.check(&name, &told);
        }
    }
}

#[test]
fn a_shard_may_be_cut_off_at_every_step() {
    let world = World::start();
    for point in POINTS {
        for shard in [1, DECIDER] {
            let name = format!("{point}-{shard}");
            let gate = Gate::new(&name);
            let router = world.router(point, &gate.what());
            let mut client = world.begin_to_commit(&router, &name);
            router.wait_for_log("a commit has reached its point");
            world.wires[shard].cut();
            gate.open();
            // Long enough that it is missed, short enough that the outcome is learned.
            std::thread::sleep(Duration::from_millis(200));
            world.wires[shard].mend();
            let told = client.answer(b"");
            assert!(!["08007", wire::LOST].contains(&told.sqlstate()), "{name} could be known: {:?}", told.error);
            world.check(&name, &told);
        }
    }
}

#[test]
fn a_shard_may_be_killed_at_every_step() {
    let world = World::start();
    for point in POINTS {
        for shard in [1, DECIDER] {
            let name = format!("{point}-{shard}");
            let gate = Gate::new(&format!("kill-{name}"));
            let router = world.router(point, &gate.what());
            let mut client = world.begin_to_commit(&router, &name);
            router.wait_for_log("a commit has reached its point");
            world.cluster.primary(shard).kill();
            gate.open();
            world.cluster.primary(shard).start().unwrap();
            let told = client.answer(b"");
            assert!(!["08007", wire::LOST].contains(&told.sqlstate()), "{name} could be known: {:?}", told.error);
            world.check(&name, &told);
        }
    }
}

/// The client hears that nobody knows; what happened is known later, and is whole.
#[test]
fn an_outcome_that_cannot_be_learned_in_time_is_told_as_unknown() {
    let world = World::start();
    let gate = Gate::new("unknown");
    let router = world.router("prepared", &gate.what());
    let mut client = world.begin_to_commit(&router, "unknown");
    router.wait_for_log("a commit has reached its point");
    world.wires[DECIDER].cut();
    gate.open();
    let told = client.answer(b"");
    assert_eq!((told.sqlstate(), told.status), ("08007", b'I'), "{:?}", told.error);
    world.wires[DECIDER].mend();
    world.check("unknown", &told);
    // The connection is as good as new.
    assert_eq!(client.text("SELECT count(*) FROM users"), "3");
}

/// What a client is told that has committed where a shard has not heard of it.
fn assert_is_warned(told: &Answer) {
    assert_eq!((told.sqlstate(), told.tag(), told.status), ("", "COMMIT", b'I'), "{:?}", told.error);
    let [warning] = &told.notices[..] else { panic!("{:?}", told.notices) };
    assert_eq!((warning.field(b'S'), warning.sqlstate()), ("WARNING", "01000"));
    assert!(warning.field(b'D').contains("\"b\""), "{warning:?}");
}

/// Nobody waits for a shard that sleeps after the decision but who wants something of it.
#[test]
fn a_shard_that_freezes_after_the_decision_holds_no_commit_up() {
    let world = World::start_with(&SETTINGS.replace("\"8s\"", "\"1s\""));
    let gate = Gate::new("frozen");
    let router = world.router("decided", &gate.what());
    let mut client = world.begin_to_commit(&router, "frozen");
    router.wait_for_log("a commit has reached its point");
    world.cluster.primary(1).pause();
    gate.open();
    let told = client.answer(b"");
    assert_is_warned(&told);
    let name = |shard: usize| format!("SELECT name FROM users WHERE id = {}", world.ids[shard]);
    assert_eq!(client.text(&name(2)), "frozen");
    // It waits for the shard, not for ever, and sees nothing older than what it has done.
    assert_eq!(client.query(&name(1)).sqlstate(), "08006");
    world.cluster.primary(1).resume();
    let seen = wait_for("the shard to answer", || {
        let answer = client.query(&name(1));
        answer.error.is_none().then(|| answer.text())
    });
    assert_eq!(seen, "frozen");
    world.check("frozen", &told);
}

const OPERATOR: &str = "[[user]]\nname = \"operator\"\nrole = \"admin\"\n";

/// The name of the transaction that an error with 08007 speaks of.
fn name_in_doubt(told: &Answer) -> String {
    let error = told.error.as_ref().unwrap();
    assert_eq!((error.sqlstate(), told.status), ("08007", b'I'), "{error:?}");
    assert!(error.field(b'D').contains("SHOW TRANSACTIONS"), "{error:?}");
    assert!(error.field(b'H').contains("may or may not have been committed"), "{error:?}");
    let name = error.field(b'D').split(' ').find(|word| word.starts_with("sluice:1:")).unwrap();
    name.to_owned()
}

/// Nobody can know what a decider will have done that freezes with the decision in its socket.
#[test]
fn a_decider_that_freezes_while_it_commits_holds_no_client_up() {
    let slow = SETTINGS.replace("\"8s\"", "\"2s\"").replace("\"400ms\"", "\"60s\"");
    for (name, settings) in [("asleep", slow), ("orphaned", SETTINGS.replace("\"8s\"", "\"2s\""))] {
        let world = World::start_with(&format!("{OPERATOR}{settings}"));
        let gate = Gate::new(name);
        let router = world.router("prepared", &gate.what());
        let mut client = world.begin_to_commit(&router, name);
        router.wait_for_log("a commit has reached its point");
        world.cluster.primary(DECIDER).pause();
        let began = Instant::now();
        gate.open();
        let told = client.answer(b"");
        assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
        let transaction = name_in_doubt(&told);
        // The session goes on, also with what writes on the other shards.
        assert_eq!(client.text(&format!("SELECT name FROM users WHERE id = {}", world.ids[2])), "none");
        let others = [1, 2]
            .map(|at| (world.ids[at] + 1..).find(|id| shard_of(*id) == shard_of(world.ids[at])).unwrap_or_default());
        for sql in ["INSERT INTO users VALUES ({}, 'later')", "DELETE FROM users WHERE id = {}"] {
            client.query("BEGIN");
            for other in others {
                assert_eq!(client.query(&sql.replace("{}", &other.to_string())).sqlstate(), "");
            }
            assert_eq!(client.query("COMMIT").tag(), "COMMIT");
        }
        let listed = || Wire::connect(router.port(), "operator", "sluice").text("SHOW TRANSACTIONS");
        let lines = wait_for("the transaction to be shown in doubt", || {
            let text = listed();
            let lines: Vec<String> =
                text.lines().filter(|line| line.contains(&transaction)).map(str::to_owned).collect();
            (lines.len() == 2 && lines.iter().all(|line| line.contains("in doubt"))).then_some(lines)
        });
        assert!(["|b|a|", "|c|a|"].iter().all(|place| lines.iter().any(|line| line.contains(place))), "{lines:?}");
        if name == "orphaned" {
            drop(router);
            world.cluster.primary(DECIDER).resume();
        } else {
            world.cluster.primary(DECIDER).resume();
            wait_for("the transaction to be resolved", || (!listed().contains(&transaction)).then_some(()));
        }
        world.check(name, &told);
    }
}

fn shard_of(id: i64) -> u16 {
    ShardMap::even(BUCKETS, SHARDS).shard_of(&Key::Int(id)).0
}

/// Before the decision it is the router that decides: it decides against.
#[test]
fn a_shard_that_freezes_while_it_prepares_holds_no_client_up() {
    let world = World::start_with(&SETTINGS.replace("\"8s\"", "\"1s\""));
    let gate = Gate::new("unprepared");
    let router = world.router("begun", &gate.what());
    let mut client = world.begin_to_commit(&router, "unprepared");
    router.wait_for_log("a commit has reached its point");
    world.cluster.primary(1).pause();
    let began = Instant::now();
    gate.open();
    let told = client.answer(b"");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let error = told.error.as_ref().unwrap();
    assert_eq!((error.sqlstate(), told.status), ("08006", b'I'), "{error:?}");
    assert!(
        error.field(b'D').contains("\"b\"") && error.field(b'H').contains("Nothing has been committed"),
        "{error:?}"
    );
    assert_eq!(client.query(&format!("UPDATE users SET name = 'none' WHERE id = {}", world.ids[2])).tag(), "UPDATE 1");
    world.cluster.primary(1).resume();
    world.check("unprepared", &told);
}

/// The shards are well, only what is on its way gets lost: the truth is learned over other connections.
#[test]
fn a_connection_on_which_nothing_arrives_any_more_is_given_up() {
    let world = World::start_with(&SETTINGS.replace("\"8s\"", "\"3s\""));
    for (point, shard) in [("begun", 1), ("prepared", DECIDER)] {
        for lost in [Lost::Answers, Lost::Everything] {
            let name = format!("{point}-{lost:?}");
            let gate = Gate::new(&name);
            let router = world.router(point, &gate.what());
            let mut client = world.begin_to_commit(&router, &name);
            router.wait_for_log("a commit has reached its point");
            world.wires[shard].mute(lost);
            gate.open();
            let told = client.answer(b"");
            match (shard, lost) {
                (DECIDER, Lost::Answers) => assert_eq!((told.sqlstate(), told.tag()), ("", "COMMIT"), "{name}"),
                _ => assert_eq!(told.sqlstate(), "08006", "{name}: {:?}", told.error),
            }
            world.check(&name, &told);
        }
    }
}

/// Deferred constraints are checked in a commit, as long as it takes.
#[test]
fn shards_that_are_at_work_are_waited_for() {
    let world = World::start_with(&SETTINGS.replace("\"8s\"", "\"1s\"").replace("\"400ms\"", "\"60s\""));
    for shard in 0..usize::from(SHARDS) {
        let trigger = "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS \
                       $$ BEGIN PERFORM pg_sleep(3); RETURN NULL; END $$; \
                       CREATE CONSTRAINT TRIGGER dawdles AFTER UPDATE ON users DEFERRABLE INITIALLY DEFERRED \
                       FOR EACH ROW WHEN (NEW.name = 'busy') EXECUTE FUNCTION dawdle()";
        world.cluster.primary(shard).psql(trigger).unwrap();
    }
    let mut client = world.begin_to_commit(&world.observer, "busy");
    let began = Instant::now();
    let told = client.answer(b"");
    assert_eq!((told.sqlstate(), told.tag(), told.notices.len()), ("", "COMMIT", 0), "{:?}", told.error);
    assert!(began.elapsed() > Duration::from_secs(5), "{:?}", began.elapsed());
    world.check("busy", &told);
}

/// What a session has committed it sees at once, though nobody has looked for what was left yet.
#[test]
fn a_session_sees_what_it_has_committed_on_a_shard_that_was_cut_off() {
    let world = World::start_with(&SETTINGS.replace("\"400ms\"", "\"60s\""));
    let gate = Gate::new("unseen");
    let router = world.router("decided", &gate.what());
    let mut client = world.begin_to_commit(&router, "unseen");
    router.wait_for_log("a commit has reached its point");
    world.wires[1].cut();
    gate.open();
    let told = client.answer(b"");
    assert_is_warned(&told);
    world.wires[1].mend();
    assert_eq!(client.text(&format!("SELECT name FROM users WHERE id = {}", world.ids[1])), "unseen");
    world.check("unseen", &told);
}

/// PostgreSQL answers PREPARE and COMMIT of a transaction that has failed with ROLLBACK, without an error.
#[test]
fn a_participant_that_had_failed_has_all_rolled_back() {
    let world = World::start();
    for (point, participant) in [("begun", 0), ("prepared", 2)] {
        let router = world.router(point, &format!("fail:{participant}"));
        let mut client = world.begin_to_commit(&router, point);
        let told = client.answer(b"");
        let error = told.error.as_ref().unwrap();
        let message = "the transaction has been rolled back instead of committed";
        assert_eq!((error.sqlstate(), error.message(), told.status), ("40000", message, b'I'));
        world.check(point, &told);
    }
}

/// Whoever has only read says nothing about what is committed.
#[test]
fn servers_that_are_lost_after_the_decision_do_not_put_it_in_doubt() {
    let world = World::start();
    let gate = Gate::new("reader");
    let router = world.router("decide", &gate.what());
    let mut client = world.ready(&router, "SELECT count(*) FROM users");
    client.query("BEGIN");
    for id in [world.ids[0], world.ids[1]] {
        let update = format!("UPDATE users SET name = 'reader' WHERE id = {id}");
        assert_eq!(client.query(&update).tag(), "UPDATE 1");
    }
    assert_eq!(client.query(&format!("SELECT name FROM users WHERE id = {}", world.ids[2])).tag(), "SELECT 1");
    let decided = || world.cluster.primary(DECIDER).psql("SELECT count(*) FROM sluice.decision").unwrap();
    let before = decided();
    client.send(&wire::query("COMMIT"));
    wait_for("the decision", || (decided() != before).then_some(()));
    world.wires.iter().for_each(Proxy::cut);
    gate.open();
    std::thread::sleep(Duration::from_millis(200));
    world.wires.iter().for_each(Proxy::mend);
    let told = client.answer(b"");
    assert_eq!((told.sqlstate(), told.tag(), told.status), ("", "COMMIT", b'I'), "{:?}", told.error);
    for shard in [0, 1] {
        assert_eq!(client.text(&format!("SELECT name FROM users WHERE id = {}", world.ids[shard])), "reader");
    }
}
