//! The planner's memory, and keys turned into shards.

#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]

use pgsluice_sharding::catalog::{Catalog, TableRules};
use pgsluice_sharding::key::{Format, Input};
use pgsluice_sharding::plan::{Phase, Plan, ShardSet, Values, build_with};
use pgsluice_sharding::sql::{Limits, Planner};
use pgsluice_sharding::{Key, Refusal, ShardId, ShardMap};

fn catalog() -> Catalog {
    let rules = TableRules { sharding_key: Some("user_id".into()), ..TableRules::default() };
    Catalog::from_ddl("CREATE TABLE t (user_id bigint, a int); CREATE TABLE names (user_id text, a int)", &rules, 4)
        .unwrap()
}

fn resolve(text: &str, params: &[Input<'_>]) -> Result<ShardSet, Refusal> {
    let mut planner = Planner::new(Limits::default());
    resolve_with(&mut planner, text, params)
}

fn resolve_with(planner: &mut Planner, text: &str, params: &[Input<'_>]) -> Result<ShardSet, Refusal> {
    let script = planner.plan(&catalog(), None, text)?;
    let values = Values { text, literals: planner.literals(), params };
    match &script.statements[0].plan {
        Plan::Route { shards, .. } => shards.resolve(&ShardMap::even(4096, 4), values),
        Plan::Gather(gather) => gather.shards.resolve(&ShardMap::even(4096, 4), values),
        Plan::Refused(refusal) => Err((**refusal).clone()),
        other => panic!("{other}"),
    }
}

fn home(key: i64) -> ShardId {
    ShardMap::even(4096, 4).shard_of(&Key::Int(key))
}

fn homes(keys: &[i64]) -> ShardSet {
    let mut shards: Vec<ShardId> = keys.iter().map(|key| home(*key)).collect();
    shards.sort_unstable();
    shards.dedup();
    if let [shard] = *shards { ShardSet::One(shard) } else { ShardSet::Many(shards) }
}

fn text(value: &str) -> Input<'_> {
    Input { bytes: Some(value.as_bytes()), format: Format::Text, type_oid: 0 }
}

#[test]
fn one_shape_many_keys() {
    let mut planner = Planner::new(Limits::default());
    for key in 0..100 {
        let sql = format!("SELECT * FROM t WHERE user_id = {key} AND a = {}", key * 3);
        assert_eq!(resolve_with(&mut planner, &sql, &[]), Ok(ShardSet::One(home(key))));
        let sql = format!("INSERT INTO t (a, user_id) VALUES (7, -{key})");
        assert_eq!(resolve_with(&mut planner, &sql, &[]), Ok(ShardSet::One(home(-key))));
    }
    let stats = planner.stats();
    assert_eq!((stats.misses, stats.shape_hits), (2, 198));
}

#[test]
fn keys_of_every_spelling() {
    assert_eq!(resolve("SELECT * FROM t WHERE user_id = '42'", &[]), Ok(ShardSet::One(home(42))));
    assert_eq!(resolve("SELECT * FROM t WHERE user_id = E'42'", &[]), Ok(ShardSet::One(home(42))));
    assert_eq!(resolve("SELECT * FROM t WHERE user_id = 0x2A", &[]), Ok(ShardSet::One(home(42))));
    assert_eq!(resolve("SELECT * FROM t WHERE user_id = - -42", &[]), Ok(ShardSet::One(home(42))));
    assert_eq!(resolve("SELECT * FROM t WHERE user_id = 42.0", &[]), Ok(ShardSet::One(home(42))));
    assert_eq!(resolve("SELECT * FROM t WHERE user_id = 42.5", &[]), Ok(ShardSet::Any));
    assert_eq!(resolve("SELECT * FROM t WHERE user_id = 99999999999999999999", &[]), Ok(ShardSet::Any));
    assert_eq!(resolve("SELECT * FROM t WHERE user_id = NULL", &[]), Ok(ShardSet::Any));
    assert_eq!(resolve("SELECT * FROM t WHERE user_id IN (1, 2, 3)", &[]), Ok(homes(&[1, 2, 3])));
    assert_eq!(resolve("SELECT * FROM t WHERE user_id = ANY('{4, 5}')", &[]), Ok(homes(&[4, 5])));
    let sqlstate = |sql| resolve(sql, &[]).unwrap_err().sqlstate;
    assert_eq!(sqlstate("SELECT * FROM t WHERE user_id = 'x'"), "22P02");
    assert_eq!(sqlstate("INSERT INTO t (user_id) VALUES (NULL)"), "23502");
    assert_eq!(sqlstate("INSERT INTO t (user_id) VALUES (99999999999999999999)"), "22003");
    let quoted = ShardMap::even(4096, 4).shard_of(&Key::Text(b"it's".as_slice().into()));
    assert_eq!(resolve("SELECT * FROM names WHERE user_id = 'it''s'", &[]), Ok(ShardSet::One(quoted)));
}

#[test]
fn parameters_and_arrays() {
    let sql = "SELECT * FROM t WHERE user_id = $1";
    assert_eq!(resolve(sql, &[text("42")]), Ok(ShardSet::One(home(42))));
    let null = Input { bytes: None, format: Format::Text, type_oid: 0 };
    assert_eq!(resolve(sql, &[null]), Ok(ShardSet::Any));
    assert_eq!(resolve(sql, &[]).unwrap_err().sqlstate, "42P02");
    let sql = "SELECT * FROM t WHERE user_id = ANY($1)";
    assert_eq!(resolve(sql, &[text("{1,2,NULL,\"3\"}")]), Ok(homes(&[1, 2, 3])));
    let mut array = Vec::new();
    for word in [1, 0, 20, 2, 1] {
        array.extend(i32::to_be_bytes(word));
    }
    for key in [7i64, 8] {
        array.extend(8i32.to_be_bytes());
        array.extend(key.to_be_bytes());
    }
    let binary = |bytes| Input { bytes: Some(bytes), format: Format::Binary, type_oid: 1016 };
    assert_eq!(resolve(sql, &[binary(&array)]), Ok(homes(&[7, 8])));
    assert_eq!(resolve(sql, &[binary(&array[..30])]).unwrap_err().sqlstate, "22P02");
}

#[test]
fn what_depends_on_values_is_not_shared() {
    let mut planner = Planner::new(Limits::default());
    let catalog = catalog();
    let mut is_merged = |sql: &str| {
        let script = planner.plan(&catalog, None, sql).unwrap();
        matches!(script.statements[0].plan, Plan::Gather(_))
    };
    assert!(!is_merged("SELECT a FROM t ORDER BY 2"));
    assert!(is_merged("SELECT a FROM t ORDER BY 1"));
    assert!(!is_merged("SELECT a FROM t WHERE a::text = 'now'"));
    assert!(is_merged("SELECT a FROM t WHERE a::text = 'then'"));
}

#[test]
fn memory_is_bounded_and_a_new_catalog_makes_new_plans() {
    let mut planner = Planner::new(Limits { cache_bytes_max: 256 << 10, ..Limits::default() });
    let mut catalog = catalog();
    for number in 0..5000 {
        planner.plan(&catalog, None, &format!("SELECT a AS c{number} FROM t WHERE user_id = $1")).unwrap();
        assert!(planner.stats().bytes <= 256 << 10);
    }
    let misses = planner.stats().misses;
    planner.plan(&catalog, None, "SELECT a AS c4999 FROM t WHERE user_id = $1").unwrap();
    assert_eq!(planner.stats().misses, misses);
    catalog.version += 1;
    planner.plan(&catalog, None, "SELECT a AS c4999 FROM t WHERE user_id = $1").unwrap();
    planner.plan(&catalog, Some("other"), "SELECT a AS c4999 FROM t WHERE user_id = $1").unwrap();
    assert_eq!(planner.stats().misses, misses + 2);
}

#[test]
fn without_phases_all_work_is_above_the_route() {
    let sql = "SELECT a FROM t ORDER BY a LIMIT 5";
    let plan = |phases: &[Phase]| build_with(&catalog(), None, sql, phases).unwrap().statements[0].plan.to_string();
    let naive = "Project\n└─ Limit: 5\n   └─ Sort: a (h1)\n      └─ Append\n         └─ Route: all shards\n            \
                 SELECT a, (a) AS sluice_h1 FROM t";
    assert_eq!(plan(&[]), naive);
    assert!(plan(&[Phase::PushOrder]).contains("MergeSort: a (h1)"));
    assert!(plan(&Phase::ALL).ends_with("LIMIT 5"));
}

#[test]
fn different_words_of_a_language_are_sorted_by_their_bytes() {
    let rules = TableRules { sharding_key: Some("user_id".into()), ..TableRules::default() };
    let ddl = "CREATE TABLE t (user_id bigint, word text COLLATE \"en-x-icu\")";
    let catalog = Catalog::from_ddl(ddl, &rules, 4).unwrap();
    let plan = |sql: &str| build_with(&catalog, None, sql, &Phase::ALL).unwrap().statements[0].plan.to_string();
    let sorted = plan("SELECT count(DISTINCT word) FROM t");
    assert!(sorted.contains("MergeSort: (word) COLLATE \"C\" (h1)"), "{sorted}");
    assert!(sorted.ends_with(
        "SELECT count(word), ((word) COLLATE \"C\") AS sluice_h1, (count(word)) AS sluice_h2 FROM t GROUP BY 2 ORDER BY 2"
    ));
    // What type an expression has, and which collation, only the shards know.
    let kept = plan("SELECT count(DISTINCT upper(word)) FROM t");
    assert!(kept.contains("distinct(h1) where") && kept.contains("Append"), "{kept}");
}

#[test]
fn people_see_a_final_query_without_its_arrays() {
    let sql = "SELECT rank() OVER (ORDER BY x.a) FROM t AS x JOIN t ON t.a = x.a";
    let script = Planner::new(Limits::default()).plan(&catalog(), None, sql).unwrap();
    let plan = &script.statements[0].plan;
    let short = "Final: on one of all shards\n\
                 │  SELECT rank() OVER (ORDER BY x.a) FROM (input 1 t) AS x JOIN (input 2 t) ON t.a = x.a\n\
                 ├─ Input: 1 t\n\
                 │  └─ Append\n\
                 │     └─ Route: all shards\n\
                 │        SELECT \"a\" FROM t AS \"x\"\n\
                 └─ Input: 2 t\n   \
                    └─ Append\n      \
                       └─ Route: all shards\n         \
                          SELECT \"a\" FROM t";
    assert_eq!(plan.to_string(), short);
    assert!(format!("{plan:#}").contains("unnest($1::"));
}

#[test]
fn one_shard_refuses_nothing() {
    let mut catalog = catalog();
    catalog.shards = 1;
    let mut planner = Planner::new(Limits::default());
    for sql in
        ["UPDATE t SET user_id = 1", "SELECT random() FROM t", "CREATE TEMP TABLE x (a int)", "COPY t FROM STDIN"]
    {
        let script = planner.plan(&catalog, None, sql).unwrap();
        assert_eq!(script.statements[0].plan.to_string(), "Route: shard 0", "{sql}");
    }
}
