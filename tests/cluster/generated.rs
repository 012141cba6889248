//! Random SELECT statements on one plain PostgreSQL and through the router over one, two and three
//! shards: the same answer, or over several shards the refusal 0A000.
//!
//! Every run has a seed, which the report of a difference names. `GENERATED_CASES=n` asks for more
//! statements, `GENERATED_SEED=n` begins elsewhere. Statements that write are in [`histories`].

mod data;
mod expressions;
mod grammar;
mod histories;
pub(super) mod random;
mod select;
mod writes;

use std::env;

use self::data::Tables;
use self::grammar::Grammar;
use self::random::Random;
use self::select::{Select, Written};
use crate::support::running::{RULES, Running, SMALL, database_config, databases, shared, superuser};
use crate::support::wire::{Answer, Column, Result, Row, Wire};

/// Statements asked over the same tables.
const CASES_PER_SEED: usize = 250;
const CASES: usize = 1000;
/// Each statement is asked with so many choices of its literals.
const ROUNDS: usize = 2;
const DIFFERENCES_SHOWN: usize = 8;
/// Types made by CREATE have numbers from here on.
const FIRST_OWN_OID: u32 = 16384;

#[test]
fn random_statements_are_answered_as_by_one_postgres_or_refused() {
    let number = |name: &str, default: u64| env::var(name).map_or(default, |text| text.parse().unwrap());
    let cases = usize::try_from(number("GENERATED_CASES", CASES as u64)).unwrap();
    let first = number("GENERATED_SEED", 1);
    let mut tally = Tally::default();
    for seed in first..first + cases.div_ceil(CASES_PER_SEED) as u64 {
        run(seed, &mut tally);
    }
    println!(
        "{} statements, {} in error; over several shards {} answered, {} refused: {:?}",
        tally.statements,
        tally.errors,
        tally.answered,
        tally.refused,
        tally.reasons()
    );
    let shown = &tally.differences[..tally.differences.len().min(DIFFERENCES_SHOWN)];
    assert!(
        tally.differences.is_empty(),
        "{} differences, the first:\n\n{}",
        tally.differences.len(),
        shown.join("\n\n")
    );
    assert!(tally.answered > tally.statements / 4, "hardly anything is answered");
}

#[derive(Default)]
struct Tally {
    statements: usize,
    errors: usize,
    answered: usize,
    refused: usize,
    refusals: std::collections::HashMap<String, usize>,
    differences: Vec<String>,
}

impl Tally {
    /// The most frequent refusals.
    fn reasons(&self) -> Vec<(usize, &str)> {
        let mut reasons: Vec<(usize, &str)> = self.refusals.iter().map(|(text, n)| (*n, text.as_str())).collect();
        reasons.sort_unstable_by(|a, b| b.cmp(a));
        reasons.truncate(20);
        reasons
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Protocol {
    Simple,
    Text,
    Binary,
}

/// A plain PostgreSQL and routers with the same rows.
struct Sides {
    plain: Wire,
    /// With one shard, two, three; the routers end with them.
    routed: Vec<(usize, Wire)>,
    _routers: Vec<Running>,
}

fn run(seed: u64, tally: &mut Tally) {
    let mut random = Random::new(seed);
    let languages =
        superuser(shared(), "postgres").text("SELECT count(*) FROM pg_collation WHERE collname = 'en-x-icu'");
    let tables = Tables::new(&mut random, languages != "0");
    let mut sides = Sides::new(&tables, &mut random);
    for case in 0..CASES_PER_SEED {
        let mut random = Random::new(seed << 32 | case as u64);
        let select = Grammar::new(&tables, &mut random).statement();
        let protocol = *random.pick(&[Protocol::Simple, Protocol::Text, Protocol::Binary]);
        for _ in 0..ROUNDS {
            let values = random.below(1 << 30) as u64;
            let Some(found) = sides.check(&tables, &select, protocol, values, Some(tally)) else { continue };
            let (select, found) = sides.shrink(&tables, select.clone(), found, protocol, values);
            let written = write(&tables, &select, protocol, values);
            let place = format!("seed {seed}, case {case}, {protocol:?}");
            tally.differences.push(format!("{place}\n{}\n{:?}\n{found}", written.sql, written.parameters));
            break;
        }
    }
}

fn write(tables: &Tables, select: &Select, protocol: Protocol, values: u64) -> Written {
    select.write(tables, &mut Random::new(values), protocol != Protocol::Simple)
}

fn ask(wire: &mut Wire, written: &Written, protocol: Protocol) -> Answer {
    let parameters: Vec<Option<&str>> = written.parameters.iter().map(Option::as_deref).collect();
    let mut answer = match protocol {
        Protocol::Simple => wire.query(&written.sql),
        _ => wire.execute(&written.sql, &parameters, protocol == Protocol::Binary),
    };
    for column in answer.results.iter_mut().filter_map(|result| result.columns.as_mut()).flatten() {
        column.type_oid = column.type_oid.min(FIRST_OWN_OID);
    }
    answer
}

impl Sides {
    fn new(tables: &Tables, random: &mut Random) -> Self {
        let plain = databases("plain", 1);
        let mut single = Wire::connect(shared().port(), "app", &plain[0]);
        let mut routed = Vec::new();
        let mut routers = Vec::new();
        let mut direct = Vec::new();
        for count in 1..=3 {
            let shards = databases("shards", count);
            // Over three shards what is small is taken for large: temporary tables, merges that go over to a final query.
            let limits = if count == 3 { SMALL } else { "" };
            let router = Running::start(&format!("{limits}{}", database_config(shared(), &shards, RULES)));
            router.wait_until_ready();
            routed.push((count, router.client()));
            routers.push(router);
            direct.push(shards.iter().map(|shard| Wire::connect(shared().port(), "app", shard)).collect::<Vec<_>>());
        }
        for sql in tables.types() {
            for wire in direct.iter_mut().flatten().chain([&mut single]) {
                done(wire, sql);
            }
        }
        for table in &tables.list {
            if table.view.is_some() {
                let wires = routed.iter_mut().map(|(_, wire)| wire);
                wires.chain([&mut single]).for_each(|wire| done(wire, &tables.create(table)));
                continue;
            }
            let create = tables.create(table);
            let inserts = tables.inserts(table, random);
            std::iter::once(&create).chain(&inserts).for_each(|sql| done(&mut single, sql));
            let data = single.query(&format!("COPY {} TO STDOUT", table.name)).copied;
            let copy = format!("COPY {} FROM STDIN", table.name);
            let by_copy = random.chance(50);
            for ((_, wire), direct) in routed.iter_mut().zip(&mut direct) {
                done(wire, &create);
                if Tables::is_reference(table) {
                    direct.iter_mut().for_each(|wire| inserts.iter().for_each(|sql| done(wire, sql)));
                } else if by_copy {
                    assert_eq!(wire.copy(&copy, &data).sqlstate(), "");
                } else {
                    inserts.iter().for_each(|sql| done(wire, sql));
                }
            }
        }
        Self { plain: single, routed, _routers: routers }
    }

    /// What differs, if anything.
    fn check(
        &mut self,
        tables: &Tables,
        select: &Select,
        protocol: Protocol,
        values: u64,
        mut tally: Option<&mut Tally>,
    ) -> Option<String> {
        let written = write(tables, select, protocol, values);
        let expected = ask(&mut self.plain, &written, protocol);
        if let Some(tally) = &mut tally {
            tally.statements += 1;
            tally.errors += usize::from(expected.error.is_some());
        }
        let mut differences = Vec::new();
        for (shards, wire) in &mut self.routed {
            let got = ask(wire, &written, protocol);
            let refused = got.sqlstate() == "0A000" && *shards > 1;
            if let (Some(tally), 2.., true) = (&mut tally, *shards, expected.error.is_none()) {
                tally.refused += usize::from(refused);
                tally.answered += usize::from(!refused);
                if refused {
                    let error = got.error.as_ref().unwrap();
                    let reason = format!("{} {}", error.message(), error.field(b'D'));
                    *tally.refusals.entry(reason.trim_end().to_owned()).or_default() += 1;
                }
            }
            if !refused && let Some(difference) = compare(select, &expected, &got, protocol) {
                differences.push(format!("over {shards} shards: {difference}"));
            }
        }
        (!differences.is_empty()).then(|| differences.join("\n"))
    }

    /// Leaves parts out as long as something differs.
    fn shrink(
        &mut self,
        tables: &Tables,
        mut select: Select,
        mut found: String,
        protocol: Protocol,
        values: u64,
    ) -> (Select, String) {
        loop {
            let smaller = select.smaller().into_iter().find_map(|smaller| {
                let found = self.check(tables, &smaller, protocol, values, None)?;
                Some((smaller, found))
            });
            match smaller {
                Some(smaller) => (select, found) = smaller,
                None => return (select, found),
            }
        }
    }
}

fn done(wire: &mut Wire, sql: &str) {
    let answer = wire.query(sql);
    assert!(answer.error.is_none(), "{sql}\n{:?}", answer.error);
}

fn compare(select: &Select, expected: &Answer, got: &Answer, protocol: Protocol) -> Option<String> {
    // With LIMIT 0 no shard is waited for, so that nobody hears of a parameter that is no value of its type.
    let parameter = expected.error.as_ref().is_some_and(|error| error.field(b'W').contains("parameter $"));
    if parameter && !select.limit.is_empty() && got.results.iter().all(|result| result.rows.is_empty()) {
        return None;
    }
    if expected.sqlstate() != got.sqlstate() {
        return Some(format!("expected {:?}\ngot      {:?}", expected.error, got.error));
    }
    if expected.error.is_some() {
        return None;
    }
    let ([expected], [got]) = (expected.results.as_slice(), got.results.as_slice()) else {
        return Some(format!("{} results instead of {}", got.results.len(), expected.results.len()));
    };
    if !same_columns(select, expected, got) || expected.tag != got.tag {
        let (before, after) = (&expected.columns, &got.columns);
        return Some(format!("expected {} {before:?}\ngot      {} {after:?}", expected.tag, got.tag));
    }
    let columns = expected.columns.as_deref().unwrap_or_default();
    let soft = select.text().contains("soft");
    let rows = |rows: &[Row]| -> Vec<Row> {
        let loose = |(number, value): (usize, &Option<Vec<u8>>)| match value {
            Some(value) if select.shows_any_of_equals(number, FLOATS.contains(&columns[number].type_oid)) => {
                Some(plain(value, &columns[number], protocol, soft))
            }
            other => other.clone(),
        };
        rows.iter().map(|row| row.iter().enumerate().map(loose).collect()).collect()
    };
    let ordered: Vec<usize> = match select.total {
        true => (0..columns.len()).collect(),
        false => select.order.iter().map_while(|order| order.shown).collect(),
    };
    let keys = |rows: &[Row]| -> Vec<Row> {
        let key = |row: &Row| {
            let value =
                |column: &usize| row[*column].as_ref().map(|value| plain(value, &columns[*column], protocol, soft));
            ordered.iter().map(value).collect()
        };
        rows.iter().map(key).collect()
    };
    let in_order = keys(&expected.rows) == keys(&got.rows);
    let (mut expected, mut got) = (rows(&expected.rows), rows(&got.rows));
    if in_order {
        expected.sort();
        got.sort();
    }
    (expected != got).then(|| show(&expected, &got))
}

fn same_columns(select: &Select, expected: &Result, got: &Result) -> bool {
    let (Some(expected), Some(got)) = (&expected.columns, &got.columns) else { return expected.columns == got.columns };
    // PostgreSQL finds out while it plans that coalesce(x, NULL) is x, with the modifier of its type.
    let folds = ["coalesce(", "CASE "].iter().any(|word| select.text().contains(word));
    let same = |(expected, got): (&Column, &Column)| {
        let typmod = if folds && got.typmod == -1 { -1 } else { expected.typmod };
        Column { typmod, ..expected.clone() } == *got
    };
    expected.len() == got.len() && expected.iter().zip(got).all(same)
}

/// The types real and double precision.
const FLOATS: [u32; 2] = [700, 701];

fn number(value: &[u8], protocol: Protocol) -> f64 {
    let number = match (protocol, value.len()) {
        (Protocol::Binary, 4) => f32::from_be_bytes(value.try_into().unwrap()).into(),
        (Protocol::Binary, _) => f64::from_be_bytes(value.try_into().unwrap()),
        _ => std::str::from_utf8(value).unwrap().parse().unwrap(),
    };
    // No difference between 0 and -0.
    number + 0.0
}

/// The one form of values that are equal: 1 for 1.00, 0 for -0, and a for A where the collation `soft` is in use.
fn plain(value: &[u8], column: &Column, protocol: Protocol, soft: bool) -> Vec<u8> {
    const NUMERIC: u32 = 1700;
    const TEXT: u32 = 25;
    let mut value = value.to_vec();
    match (column.type_oid, protocol) {
        // The display scale.
        (NUMERIC, Protocol::Binary) => value[6..8].fill(0),
        (NUMERIC, _) if value.contains(&b'.') => {
            let text = String::from_utf8(value).unwrap();
            value = text.trim_end_matches('0').trim_end_matches('.').into();
        }
        (TEXT, _) if soft => value = String::from_utf8(value).unwrap().to_lowercase().into(),
        (float, _) if FLOATS.contains(&float) => value = format!("{:.4e}", number(&value, protocol)).into(),
        _ => {}
    }
    value
}

fn show(expected: &[Row], got: &[Row]) -> String {
    let rows = |rows: &[Row]| {
        let value = |value: &Option<Vec<u8>>| match value {
            None => "NULL".to_owned(),
            Some(bytes) => bytes.escape_ascii().to_string(),
        };
        let line = |row: &Row| row.iter().map(value).collect::<Vec<_>>().join(" | ");
        rows.iter().take(12).map(|row| format!("    {}\n", line(row))).collect::<String>()
    };
    format!("expected {} rows\n{}got {} rows\n{}", expected.len(), rows(expected), got.len(), rows(got))
}
