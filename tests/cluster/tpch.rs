//! TPC-H: its 22 queries on one plain PostgreSQL and through the router over one, two and three shards.

use crate::support::running::{Running, database_config, databases, shared};
use crate::support::tpch;
use crate::support::wire::{Answer, Wire};

const SIZE: tpch::Size = tpch::Size { orders: 600, favoured: 30 };
const ROWS_SHOWN: usize = 12;

#[test]
fn all_queries_of_tpch_are_answered() {
    let tables = tpch::tables(SIZE);
    let plain = databases("tpch", 1);
    let mut judge = Wire::connect(shared().port(), "app", &plain[0]);
    load(&mut judge, &tables);
    let expected: Vec<[Answer; 2]> = tpch::queries().iter().map(|query| ask(&mut judge, query)).collect();
    assert_eq!(expected.len(), 22);
    for (number, [answer, _]) in expected.iter().enumerate() {
        assert!(!answer.text().is_empty(), "the rows are too few for Q{}", number + 1);
    }
    let mut wrong = Vec::new();
    for shards in 1..=3 {
        let router = Running::start(&database_config(shared(), &databases("tpch", shards), tpch::RULES));
        router.wait_until_ready();
        let mut client = router.client();
        load(&mut client, &tables);
        for (number, (query, expected)) in tpch::queries().iter().zip(&expected).enumerate() {
            for (expected, got) in expected.iter().zip(ask(&mut client, query)) {
                if expected.error.is_some() || got.error.is_some() || expected.results != got.results {
                    let (expected, got) = (show(expected), show(&got));
                    wrong.push(format!("Q{} over {shards}:\n{expected}\nbut got\n{got}", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n\n{}", wrong.len(), wrong.join("\n\n"));
}

fn load(wire: &mut Wire, tables: &[(&str, String)]) {
    for statement in tpch::SCHEMA.split(';') {
        assert_eq!(wire.query(statement).error, None);
    }
    for (table, rows) in tables {
        let loaded = wire.copy(&format!("COPY {table} FROM STDIN"), rows.as_bytes());
        assert_eq!(loaded.tag(), format!("COPY {}", rows.lines().count()), "{table}");
    }
}

/// By the simple and by the extended protocol, the latter in binary.
fn ask(wire: &mut Wire, query: &str) -> [Answer; 2] {
    [wire.query(query), wire.execute(query, &[], true)]
}

fn show(answer: &Answer) -> String {
    match &answer.error {
        Some(error) => format!("{error:?}"),
        None => answer.text().lines().take(ROWS_SHOWN).collect::<Vec<_>>().join("\n"),
    }
}
