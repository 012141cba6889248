//! Values are read, ordered, added, divided and printed as PostgreSQL 15 does it. The golden files
//! are its own answers.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::cmp::Ordering;

use pgsluice_sharding::key::Format;
use pgsluice_sharding::value::order::Kind;
use pgsluice_sharding::value::{Moments, Numeric, float, oid};
use proptest::prelude::*;

const AVG: &str = include_str!("golden/avg.tsv");
const NUMERIC: &str = include_str!("golden/numeric.tsv");
const SPREAD: &str = include_str!("golden/spread.tsv");
const FLOAT8: &str = include_str!("golden/float8.tsv");
const FLOAT4: &str = include_str!("golden/float4.tsv");
const ORDER: &str = include_str!("golden/order.tsv");

fn rows(file: &str) -> impl Iterator<Item = Vec<&str>> {
    file.lines().map(|line| line.split('\t').collect())
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

fn numeric(text: &str) -> Numeric {
    Numeric::parse(text.as_bytes()).unwrap()
}

fn print(value: &Numeric) -> String {
    let mut text = Vec::new();
    value.write_text(&mut text);
    String::from_utf8(text).unwrap()
}

#[test]
fn numerics_in_both_forms() {
    for row in rows(NUMERIC) {
        let from_text = numeric(row[0]);
        let mut binary = Vec::new();
        from_text.write_binary(&mut binary);
        assert_eq!(binary, hex(row[1]), "{}", row[0]);
        let from_binary = Numeric::from_binary(&binary).unwrap();
        assert_eq!(from_binary, from_text);
        assert_eq!(print(&from_binary), row[0]);
    }
}

/// Sums of two shards, the count, and what PostgreSQL's sum() and avg() over all rows said.
#[test]
fn sums_and_averages() {
    for row in rows(AVG) {
        let parts: Vec<Numeric> = row[..2].iter().filter(|part| !part.is_empty()).map(|part| numeric(part)).collect();
        let sum = match parts.as_slice() {
            [one] => one.clone(),
            [one, other] => one.add(other).unwrap(),
            _ => unreachable!(),
        };
        assert_eq!(print(&sum), row[3], "{row:?}");
        assert_eq!(print(&sum.divide_by_count(row[2].parse().unwrap())), row[4], "{row:?}");
    }
}

/// Count, sum and sum of squares of some numbers, then PostgreSQL's var_samp(), var_pop(), stddev_samp() and stddev_pop().
#[test]
fn spreads() {
    let print = |value: Option<Numeric>| value.map_or_else(String::new, |value| print(&value));
    for row in rows(SPREAD) {
        let moments = Moments { count: row[0].parse().unwrap(), sum: numeric(row[1]), squares: numeric(row[2]) };
        assert_eq!(print(moments.variance(true).unwrap()), row[3], "{row:?}");
        assert_eq!(print(moments.variance(false).unwrap()), row[4], "{row:?}");
        assert_eq!(print(moments.deviation(true).unwrap()), row[5], "{row:?}");
        assert_eq!(print(moments.deviation(false).unwrap()), row[6], "{row:?}");
    }
    assert_eq!(Moments::default().variance(false), Ok(None));
}

/// What PostgreSQL has rounded before it came, or what would take long, is not computed.
#[test]
fn spreads_of_too_many_digits_are_refused() {
    let moments = |count, sum: &str, squares: &str| Moments { count, sum: numeric(sum), squares: numeric(squares) };
    for refused in
        [moments(2, "0.12", "0.014"), moments(2, &"9".repeat(5000), &"9".repeat(5000)), moments(i64::MAX, "2", "3")]
    {
        assert_eq!(refused.variance(false).unwrap_err().sqlstate, "0A000");
        assert_eq!(refused.deviation(true).unwrap_err().sqlstate, "0A000");
    }
    assert_eq!(moments(-1, "2", "3").variance(false), Ok(None));
}

#[test]
fn numbers_as_a_client_may_write_them() {
    for (text, printed) in [
        ("1e3", "1000"),
        ("1.5e-3", "0.0015"),
        (" -.5 ", "-0.5"),
        ("5.", "5"),
        ("+007.10", "7.10"),
        ("-0.0", "0.0"),
        ("inf", "Infinity"),
        ("-Infinity", "-Infinity"),
        ("nan", "NaN"),
    ] {
        assert_eq!(print(&numeric(text)), printed, "{text}");
    }
    for text in ["", ".", "1e", "e5", "1 2", "0x1F", "1_000", "--1", "+-1", "1.2.3", "infinit"] {
        assert_eq!(Numeric::parse(text.as_bytes()).unwrap_err().sqlstate, "22P02", "{text:?}");
    }
    for text in ["1e200000", "1e-20000"] {
        assert_eq!(Numeric::parse(text.as_bytes()).unwrap_err().sqlstate, "22003", "{text:?}");
    }
    assert_eq!(numeric("-0.5").round_to_i64(), Some(-1));
    assert_eq!(numeric("2.5").round_to_i64(), Some(3));
    assert_eq!(numeric("2.4999").round_to_i64(), Some(2));
}

#[test]
fn floats_are_printed_as_postgresql_prints_them() {
    for row in rows(FLOAT8) {
        let mut text = Vec::new();
        float::write8(f64::from_be_bytes(hex(row[0]).try_into().unwrap()), &mut text);
        assert_eq!(String::from_utf8(text).unwrap(), row[1], "{}", row[0]);
    }
    for row in rows(FLOAT4) {
        let mut text = Vec::new();
        float::write4(f32::from_be_bytes(hex(row[0]).try_into().unwrap()), &mut text);
        assert_eq!(String::from_utf8(text).unwrap(), row[1], "{}", row[0]);
    }
}

#[test]
fn floats_out_of_range_are_refused() {
    assert_eq!(float::parse8(b"1e400").unwrap_err().message, "\"1e400\" is out of range for type double precision");
    assert_eq!(float::parse8(b"1e-400").unwrap_err().sqlstate, "22003");
    assert_eq!(float::parse8(b"abc").unwrap_err().message, "invalid input syntax for type double precision: \"abc\"");
    assert_eq!(float::parse8(b" 1.5 ").unwrap(), 1.5);
    assert_eq!(float::parse8(b"0e-999").unwrap(), 0.0);
    assert!(float::parse4(b"-inf").unwrap().is_infinite());
}

/// Values of every type with their rank in PostgreSQL's order; equal ones share a rank.
#[test]
fn every_type_is_ordered_as_postgresql_orders_it() {
    let oids = [
        ("boolean", oid::BOOL),
        ("bytea", oid::BYTEA),
        ("\"char\"", oid::CHAR),
        ("name", oid::NAME),
        ("bigint", oid::INT8),
        ("smallint", oid::INT2),
        ("integer", oid::INT4),
        ("text", oid::TEXT),
        ("oid", oid::OID),
        ("real", oid::FLOAT4),
        ("double precision", oid::FLOAT8),
        ("bpchar", oid::BPCHAR),
        ("varchar", oid::VARCHAR),
        ("date", oid::DATE),
        ("time", oid::TIME),
        ("timestamp", oid::TIMESTAMP),
        ("timestamptz", oid::TIMESTAMPTZ),
        ("timetz", oid::TIMETZ),
        ("interval", oid::INTERVAL),
        ("numeric", oid::NUMERIC),
        ("uuid", oid::UUID),
        ("money", oid::MONEY),
        ("pg_lsn", oid::PG_LSN),
        ("macaddr", oid::MACADDR),
        ("macaddr8", oid::MACADDR8),
        ("inet", oid::INET),
        ("cidr", oid::CIDR),
        ("bit", oid::BIT),
        ("varbit", oid::VARBIT),
    ];
    for (name, type_oid) in oids {
        let kind = Kind::of(type_oid).unwrap();
        let values: Vec<(i32, Vec<u8>)> = rows(ORDER)
            .filter(|row| row[0] == name)
            .map(|row| {
                let mut ordered = Vec::new();
                kind.write(&hex(row[1]), Format::Binary, &mut ordered).unwrap();
                (row[2].parse().unwrap(), ordered)
            })
            .collect();
        assert!(values.len() > 1, "{name}");
        for (rank_a, a) in &values {
            for (rank_b, b) in &values {
                assert_eq!(a.cmp(b), rank_a.cmp(rank_b), "{name} {a:?} {b:?}");
            }
        }
    }
}

#[test]
fn unknown_types_have_no_order() {
    for type_oid in [0, 28, 114, 1007, 3802, 600, 2249, 16_400] {
        assert_eq!(Kind::of(type_oid), None);
    }
}

proptest! {
    #[test]
    fn numerics_of_any_integer(value: i64, other: i64) {
        let (a, b) = (Numeric::from(i128::from(value)), Numeric::from(i128::from(other)));
        prop_assert_eq!(print(&a), value.to_string());
        prop_assert_eq!(a.to_i64(), Some(value));
        prop_assert_eq!(a.compare(&b), value.cmp(&other));
        prop_assert_eq!(print(&a.add(&b).unwrap()), (i128::from(value) + i128::from(other)).to_string());
        prop_assert_eq!(numeric(&value.to_string()), a);
    }

    #[test]
    fn numerics_with_a_fraction(a in -1_000_000_000_i64..1_000_000_000, b in -1_000_000_000_i64..1_000_000_000, scale in 0_usize..8) {
        // The same numbers as integers of the smallest unit.
        let text = |value: i64| {
            let digits = format!("{:0width$}", value.abs(), width = scale + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            let point = if scale > 0 { "." } else { "" };
            format!("{}{whole}{point}{fraction}", if value < 0 { "-" } else { "" })
        };
        let (x, y) = (numeric(&text(a)), numeric(&text(b)));
        prop_assert_eq!(print(&x), text(a));
        prop_assert_eq!(print(&x.add(&y).unwrap()), text(a + b));
        prop_assert_eq!(x.compare(&y), a.cmp(&b));
        let (mut left, mut right) = (Vec::new(), Vec::new());
        x.write_ordered(&mut left);
        y.write_ordered(&mut right);
        prop_assert_eq!(left.cmp(&right), a.cmp(&b));
    }

    #[test]
    fn floats_survive_printing(value: f64) {
        let mut text = Vec::new();
        float::write8(value, &mut text);
        prop_assert_eq!(float::compare(float::parse8(&text).unwrap(), value), Ordering::Equal);
    }

    #[test]
    fn any_bytes_are_a_value_or_an_error(bytes: Vec<u8>) {
        for type_oid in 16..4000 {
            if let Some(kind) = Kind::of(type_oid) {
                for format in [Format::Text, Format::Binary] {
                    drop(kind.write(&bytes, format, &mut Vec::new()));
                }
            }
        }
        drop(Numeric::parse(&bytes));
    }
}
