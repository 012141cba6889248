//! Pipelines over several shards beside the same on one PostgreSQL: one transaction up to Sync.

use pgsluice_sharding::{Key, ShardMap};

use crate::support::running::{Running, databases, shared, superuser};
use crate::support::wire::{self, Answer, Wire};

const SHARDS: u16 = 3;
const BUCKETS: u16 = 4096;

/// What a client sends.
enum Say {
    /// Parse, Bind and Execute.
    Run(String),
    /// Parse and Bind of a portal of this name.
    Bind(&'static str, String),
    Execute(&'static str),
    Query(String),
    Flush,
    Sync,
}

use Say::{Execute, Flush, Query, Sync};

fn run(sql: impl Into<String>) -> Say {
    Say::Run(sql.into())
}

fn bytes(conversation: &[Say]) -> Vec<u8> {
    let say = |say: &Say| match say {
        Say::Run(sql) => [wire::parse("", sql), wire::bind("", "", &[], false), wire::execute("")].concat(),
        Say::Bind(portal, sql) => [wire::parse("", sql), wire::bind(portal, "", &[], false)].concat(),
        Execute(portal) => wire::execute(portal),
        Query(sql) => wire::query(sql),
        Flush => wire::message(b'H', b""),
        Sync => wire::sync(),
    };
    conversation.iter().flat_map(say).collect()
}

/// What the client has heard up to the last ReadyForQuery, without texts.
fn heard(client: &mut Wire, conversation: &[Say]) -> Vec<String> {
    client.send(&bytes(conversation));
    let ends = conversation.iter().filter(|say| matches!(say, Sync | Query(_))).count();
    (0..ends).map(|_| shown(&client.answer(b""))).collect()
}

fn shown(answer: &Answer) -> String {
    let tags: Vec<&str> = answer.results.iter().map(|result| result.tag.as_str()).collect();
    let rows: usize = answer.results.iter().map(|result| result.rows.len()).sum();
    let notices: Vec<&str> = answer.notices.iter().map(|notice| notice.sqlstate()).collect();
    format!("{tags:?} {rows} rows {notices:?} {:?} {}", answer.sqlstate(), char::from(answer.status))
}

/// One id for each shard, in the order of the shards, from `from` on.
fn ids(from: i64) -> Vec<i64> {
    let map = ShardMap::even(BUCKETS, SHARDS);
    (0..SHARDS).map(|shard| (from..).find(|id| map.shard_of(&Key::Int(*id)).0 == shard).unwrap()).collect()
}

fn insert(id: i64) -> Say {
    run(format!("INSERT INTO users VALUES ({id}, 'new')"))
}

/// Conversations, each on a table of its own that has the rows `old`.
fn conversations(old: &[i64], new: &[i64]) -> Vec<Vec<Say>> {
    let update = |id: i64| run(format!("UPDATE users SET name = 'changed' WHERE id = {id}"));
    let fail = || insert(old[2]);
    let count = || run("SELECT count(*) FROM users");
    let wide = || run("SELECT id, name FROM users ORDER BY name, id");
    let set = || run("SET application_name = 'pipelined'");
    let show = || Query("SHOW application_name".into());
    vec![
        vec![insert(new[0]), insert(new[1]), insert(new[2]), Sync],
        vec![insert(new[0]), insert(new[1]), fail(), insert(new[2]), Sync],
        vec![insert(new[0]), update(old[1]), wide(), fail(), Sync],
        vec![insert(new[0]), count(), insert(new[1]), count(), Sync],
        vec![count(), insert(new[0]), count(), insert(new[1]), fail(), Sync, count(), Sync],
        vec![insert(new[0]), set(), fail(), Sync, show()],
        vec![insert(new[0]), set(), insert(new[1]), Sync, show()],
        vec![set(), fail(), Sync, show()],
        vec![set(), Sync, fail(), Sync, show()],
        vec![set(), insert(new[0]), insert(new[1]), Sync, show()],
        vec![insert(new[0]), Flush, insert(new[1]), Flush, fail(), Sync],
        vec![insert(new[0]), insert(new[1]), Query("SELECT count(*) FROM users".into())],
        vec![insert(new[0]), insert(new[1]), Query("SELECT 1/0".into())],
        vec![insert(new[0]), insert(new[1]), Query(format!("INSERT INTO users VALUES ({}, 'q')", new[2]))],
        vec![insert(new[0]), insert(new[1]), run("COMMIT"), insert(new[2]), fail(), Sync],
        vec![insert(new[0]), insert(new[1]), run("ROLLBACK"), insert(new[2]), Sync],
        vec![insert(new[0]), insert(new[1]), run("BEGIN"), insert(new[2]), Sync, run("ROLLBACK"), Sync],
        vec![insert(new[0]), insert(new[1]), run("BEGIN"), insert(new[2]), Sync, run("COMMIT"), Sync],
        vec![run("BEGIN"), insert(new[0]), insert(new[1]), run("COMMIT"), insert(new[2]), fail(), Sync],
        vec![run("CREATE TABLE made (user_id bigint)"), fail(), Sync, run("SELECT count(*) FROM made"), Sync],
        vec![
            insert(new[0]),
            run("CREATE TABLE made (user_id bigint)"),
            fail(),
            Sync,
            run("SELECT count(*) FROM made"),
            Sync,
        ],
        vec![
            insert(new[0]),
            run("CREATE TABLE made (user_id bigint)"),
            insert(new[1]),
            Sync,
            run("SELECT count(*) FROM made"),
            Sync,
        ],
        vec![insert(new[0]), run("VACUUM users"), Sync],
        vec![run("VACUUM users"), Sync],
        vec![insert(new[0]), run("DISCARD ALL"), Sync],
        vec![run("DISCARD ALL"), Sync],
        vec![
            Say::Bind("a", format!("INSERT INTO users VALUES ({}, 'a')", new[0])),
            Say::Bind("b", format!("INSERT INTO users VALUES ({}, 'b')", new[1])),
            Execute("b"),
            Execute("a"),
            fail(),
            Sync,
        ],
        vec![
            Say::Bind("a", format!("INSERT INTO users VALUES ({}, 'a')", new[0])),
            Say::Bind("b", format!("INSERT INTO users VALUES ({}, 'b')", new[1])),
            Execute("a"),
            Execute("b"),
            Sync,
        ],
        vec![insert(new[0]), insert(new[1]), run("SELECT pg_advisory_xact_lock(1)"), run("SELECT 1/0"), Sync],
    ]
}

#[test]
fn a_pipeline_over_several_shards_is_one_transaction() {
    let (old, new) = (ids(1), ids(1000));
    let count = conversations(&old, &new).len();
    for number in 0..count {
        let mut told = Vec::new();
        for shards in [1, SHARDS] {
            let names = databases("pipelines", shards.into());
            let running = (shards > 1).then(|| Running::over(&names));
            let mut client = match &running {
                Some(router) => router.client(),
                None => Wire::connect(shared().port(), "app", &names[0]),
            };
            client.query("CREATE TABLE users (id bigint PRIMARY KEY, name text)");
            for id in &old {
                client.query(&format!("INSERT INTO users VALUES ({id}, 'old')"));
            }
            let heard = heard(&mut client, &conversations(&old, &new)[number]);
            // Also the next statement finds the session at rest.
            let left = client.text("SELECT id, name FROM users ORDER BY id");
            let prepared = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()";
            assert!(names.iter().all(|name| superuser(shared(), name).text(prepared) == "0"));
            told.push((heard, left));
        }
        assert_eq!(told[0], told[1], "conversation {number}: PostgreSQL, then {SHARDS} shards");
    }
}
