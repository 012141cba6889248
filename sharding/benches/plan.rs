//! What planning costs: from the cache, and the first time.

use std::collections::HashMap;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use pgsluice_sharding::catalog::{Catalog, TableRule, TableRules};
use pgsluice_sharding::sql::{Limits, Planner};

const SCHEMA: &str = "
    CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
    CREATE TABLE users (id bigint PRIMARY KEY, email text, name text);
    CREATE TABLE posts (id bigint, user_id bigint, title text);
    CREATE TABLE likes (user_id bigint, post_id bigint);
    CREATE TABLE payments (id bigint, user_id bigint, amount numeric);
    CREATE TABLE plans (id int, name text);";

const POINT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = $1;";

const JOIN: &str = "SELECT u.id, u.name, p.title, count(l.post_id), sum(m.amount), n.name FROM users u \
    JOIN posts p ON p.user_id = u.id JOIN likes l ON l.user_id = u.id AND l.post_id = p.id \
    LEFT JOIN payments m ON m.user_id = u.id JOIN plans n ON n.id = 3 \
    WHERE u.id = 42 AND p.title LIKE 'a%' GROUP BY u.id, u.name, p.title, n.name ORDER BY 4 DESC LIMIT 10";

fn catalog() -> Catalog {
    let rules = TableRules {
        sharding_key: Some("user_id".into()),
        tables: HashMap::from([
            ("users".into(), TableRule::Key("id".into())),
            ("pgbench_accounts".into(), TableRule::Key("aid".into())),
            ("plans".into(), TableRule::Reference),
        ]),
        ..TableRules::default()
    };
    Catalog::from_ddl(SCHEMA, &rules, 4).expect("the schema parses")
}

fn cached(c: &mut Criterion) {
    let catalog = catalog();
    let mut planner = Planner::new(Limits::default());
    c.bench_function("cached text", |b| b.iter(|| planner.plan(&catalog, None, black_box(POINT))));
    let texts: Vec<String> =
        (0..1024).map(|aid| format!("SELECT abalance FROM pgbench_accounts WHERE aid = {};", 1000 + aid)).collect();
    let mut next = 0;
    c.bench_function("cached shape", |b| {
        b.iter(|| {
            next = (next + 1) % texts.len();
            planner.plan(&catalog, None, black_box(&texts[next]))
        });
    });
}

fn first(c: &mut Criterion) {
    let catalog = catalog();
    for (name, text) in [("first point select", POINT), ("first 5-table join", JOIN)] {
        // No room, so nothing is remembered.
        let mut planner = Planner::new(Limits { cache_bytes_max: 0, ..Limits::default() });
        c.bench_function(name, |b| b.iter(|| planner.plan(&catalog, None, black_box(text))));
    }
}

criterion_group!(benches, cached, first);
criterion_main!(benches);
