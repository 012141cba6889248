//! Texts made to hurt: nothing panics, nothing overflows a small stack, everything ends.

#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]

use std::thread;

use pgsluice_sharding::catalog::{Catalog, TableRules};
use pgsluice_sharding::sql::{Limits, Planner};
use proptest::prelude::{ProptestConfig, any, prop, proptest};

const SCHEMA: &str = "CREATE TABLE t (user_id bigint, a int, b text); CREATE TABLE u (user_id bigint, c int);";

/// Plans a text on a thread with the stack of a worker; `Some(sqlstate)` when it is refused.
fn plan(text: String) -> Option<&'static str> {
    let run = move || {
        let rules = TableRules { sharding_key: Some("user_id".into()), ..TableRules::default() };
        let catalog = Catalog::from_ddl(SCHEMA, &rules, 3).unwrap();
        let mut planner = Planner::new(Limits::default());
        planner.plan(&catalog, None, &text).err().map(|refusal| refusal.sqlstate)
    };
    thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap()
}

#[test]
fn deep_texts_are_refused() {
    let n = 100_000;
    let nested = |open: &str, inner: &str, close: &str| format!("SELECT {}{inner}{}", open.repeat(n), close.repeat(n));
    assert_eq!(plan(nested("(", "1", ")")), Some("54001"));
    assert_eq!(plan(nested("f(", "1", ")")), Some("54001"));
    assert_eq!(plan(nested("(SELECT ", "1", ")")), Some("54001"));
    assert_eq!(plan(nested("NOT ", "true", "")), Some("54001"));
    assert_eq!(plan(nested("- ", "a", "")), Some("54001"));
    assert_eq!(plan(nested("", "1", "::int")), Some("54001"));
    assert_eq!(plan(nested("", "1", " + 1")), Some("54001"));
    assert_eq!(plan(nested("", "1", " UNION ALL SELECT 1")), Some("54001"));
    assert_eq!(plan(format!("SELECT * FROM t{}", " CROSS JOIN t".repeat(n))), Some("54001"));
    assert_eq!(plan(format!("SELECT {}1", "CASE WHEN true THEN ".repeat(n))), Some("54001"));
    assert_eq!(plan(format!("EXPLAIN {}", nested("", "1", "::int"))), Some("54001"));
}

#[test]
fn just_below_the_bound_is_planned() {
    for n in [50, 150, 195, 199, 400, 900, 990, 999] {
        plan(format!("SELECT {}1{}", "(SELECT ".repeat(n / 8), ")".repeat(n / 8)));
        plan(format!("SELECT * FROM t WHERE user_id = 1 AND a = 1{}", " + 1".repeat(n)));
        plan(format!("SELECT * FROM t{}", " LEFT JOIN u USING (user_id)".repeat(n)));
        plan(format!("SELECT a FROM t{}", " UNION ALL SELECT c FROM u".repeat(n)));
        plan(format!("SELECT {} a {} FROM t", "f(".repeat(n), ")".repeat(n)));
        plan(format!("SELECT * FROM {} t {}", "(SELECT * FROM ".repeat(n / 4), ") x".repeat(n / 4)));
        plan(format!("WITH {} SELECT 1", vec!["x AS (SELECT 1)"; n].join(", ")));
    }
}

#[test]
fn wide_texts_end() {
    let n = 100_000;
    assert_eq!(plan(format!("SELECT * FROM t WHERE a = 1{}", " OR a = 1".repeat(n))), None);
    assert_eq!(plan(format!("SELECT * FROM t WHERE a = 1{}", " AND user_id = 1".repeat(n / 10))), None);
    assert_eq!(plan(format!("SELECT * FROM t WHERE user_id IN (1{})", ", 1".repeat(n))), None);
    assert_eq!(plan(format!("INSERT INTO t VALUES (1){}", ", (1)".repeat(n))), None);
    assert_eq!(plan(format!("SELECT '{}'", "x".repeat(1 << 20))), None);
    assert_eq!(plan(format!("SELECT \"{}\"", "x".repeat(1 << 20))), None);
    assert_eq!(plan(format!("SELECT {}", "x".repeat(1 << 20))), None);
    assert_eq!(plan("SELECT 1;".repeat(n / 10)), None);
    assert_eq!(plan(";".repeat(1 << 20)), None);
    assert_eq!(plan("x ".repeat(1 << 20)), Some("42601"));
    assert_eq!(plan("x".repeat(17 << 20)), Some("54000"));
    assert_eq!(plan("SELECT '\0'".into()), Some("22021"));
}

#[test]
fn truncated_statements_end() {
    let text = "WITH p AS (SELECT U&'d\\0061' , E'\\'', $a$ x $a$ FROM t) INSERT INTO t (user_id, \"a\") \
                SELECT -1.5e3::numeric(3,1), ARRAY[1,2] || $1 FROM p JOIN u USING (user_id) /* é /* */ */ \
                WHERE user_id = ANY('{1,2}') ON CONFLICT (user_id) DO UPDATE SET a = excluded.a RETURNING *";
    let rules = TableRules { sharding_key: Some("user_id".into()), ..TableRules::default() };
    let catalog = Catalog::from_ddl(SCHEMA, &rules, 3).unwrap();
    let mut planner = Planner::new(Limits::default());
    for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
        let _planned = planner.plan(&catalog, None, &text[..end]);
        let _planned = planner.plan(&catalog, None, &text[end..]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_texts_end(text in any::<String>()) {
        plan(text);
    }

    #[test]
    fn random_words_end(words in prop::collection::vec(prop::sample::select(WORDS), 0..24)) {
        plan(words.join(" "));
    }
}

const WORDS: &[&str] = &[
    "SELECT",
    "FROM",
    "WHERE",
    "t",
    "u",
    "user_id",
    "a",
    "=",
    "1",
    "'x'",
    "$1",
    ",",
    "(",
    ")",
    "*",
    "AND",
    "OR",
    "NOT",
    "IN",
    "JOIN",
    "LEFT",
    "ON",
    "USING",
    "GROUP BY",
    "ORDER BY",
    "LIMIT",
    "OFFSET",
    "count(*)",
    "sum(a)",
    "DISTINCT",
    "AS",
    "WITH",
    "UNION",
    "VALUES",
    "INSERT INTO",
    "UPDATE",
    "SET",
    "DELETE FROM",
    "EXPLAIN",
    "COPY",
    "STDIN",
    "::int",
    "-",
    "ANY",
    "ARRAY[1]",
    "HAVING",
    "DESC",
    "NULLS FIRST",
    "EXISTS",
    "CASE",
    "WHEN",
    "THEN",
    "END",
    "OVER ()",
    ";",
];
