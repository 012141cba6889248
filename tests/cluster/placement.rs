//! A key's bucket is the partition in which PostgreSQL's own `PARTITION BY HASH` puts it.

use std::collections::HashMap;
use std::fmt::Write;

use pgsluice_sharding::key::{Format, Input, KeyType};

use crate::support::running::{databases, shared, superuser};
use crate::support::wire::Wire;

/// Partitions of the test's tables: enough that a wrong bit of the hash shows.
const BUCKETS: u16 = 32;
const RANDOM_KEYS: usize = 4000;

/// A generator whose numbers are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[test]
fn integers_of_all_widths_are_placed_as_postgres_places_them() {
    let mut random = Random(1);
    for (name, key_type, bits) in
        [("int2", KeyType::Int2, 16_u32), ("int4", KeyType::Int4, 32), ("int8", KeyType::Int8, 64)]
    {
        let (least, most) = (i64::MIN >> (64 - bits), i64::MAX >> (64 - bits));
        let mut keys = vec![least, least + 1, -1, 0, 1, most - 1, most];
        for exponent in 0..bits - 1 {
            let power = 1_i64 << exponent;
            keys.extend([power, power - 1, -power, -power - 1]);
        }
        keys.extend((0..RANDOM_KEYS).map(|_| random.next().cast_signed() >> (64 - bits)));
        // Small numbers are what most tables have.
        keys.extend(-500..3000);
        check(name, key_type, keys.iter().map(i64::to_string).collect());
    }
}

#[test]
fn texts_are_placed_as_postgres_places_them() {
    let mut random = Random(2);
    let mut keys: Vec<String> =
        ["", " ", "a", "A", "\\", "\t", "\n", "\\N", "ä", "a\u{308}", "日本語", "😀", "'\"", "null"]
            .iter()
            .map(|key| (*key).to_owned())
            .collect();
    // Every length up to some blocks of the hash, then long ones.
    keys.extend((0..100).map(|length| "x".repeat(length)));
    keys.extend((0..40).map(|length| "é".repeat(length)));
    keys.push("long ".repeat(20_000));
    keys.extend((0..RANDOM_KEYS).map(|_| {
        let length = random.next() % 40;
        (0..length).map(|_| char::from_u32(1 + (random.next() % 0xd7ff) as u32).unwrap()).collect::<String>()
    }));
    keys.extend((0..RANDOM_KEYS).map(|n| format!("user{n}@example.com")));
    check("text", KeyType::Text, keys.clone());
    keys.truncate(300);
    check("varchar", KeyType::Text, keys);
}

#[test]
fn uuids_are_placed_as_postgres_places_them() {
    let mut random = Random(3);
    let mut keys = vec![0, u128::MAX, 1, 1 << 127, 1 << 64, (1 << 64) - 1];
    keys.extend((0..128).map(|bit| 1 << bit));
    keys.extend((0..RANDOM_KEYS).map(|_| u128::from(random.next()) << 64 | u128::from(random.next())));
    let print = |key: &u128| {
        let digits = format!("{key:032x}");
        [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
    };
    check("uuid", KeyType::Uuid, keys.iter().map(print).collect());
}

/// The database's collation does not matter to the hash as long as it is deterministic.
#[test]
fn texts_under_another_collation_are_placed_alike() {
    let keys: Vec<String> =
        ["a", "A", "ä", "a\u{308}", "ß", "ss", "ı", "İ"].iter().map(|key| (*key).to_owned()).collect();
    check("text COLLATE \"und-x-icu\"", KeyType::Text, keys);
}

/// Loads the keys into a table with `BUCKETS` partitions and asks where each has gone.
fn check(column: &str, key_type: KeyType, mut keys: Vec<String>) {
    keys.sort();
    keys.dedup();
    let database = databases("placement", 1).remove(0);
    let mut wire = superuser(shared(), &database);
    make_table(&mut wire, column);
    let mut data = String::new();
    for (number, key) in keys.iter().enumerate() {
        writeln!(data, "{number}\t{}", copy_text(key)).unwrap();
    }
    let loaded = wire.copy("COPY t FROM STDIN", data.as_bytes());
    assert_eq!(loaded.tag(), format!("COPY {}", keys.len()));
    let places = wire.text("SELECT number, substr(tableoid::regclass::text, 2) FROM t");
    let places: HashMap<usize, u16> = places
        .lines()
        .map(|line| line.split_once('|').unwrap())
        .map(|(number, place)| (number.parse().unwrap(), place.parse().unwrap()))
        .collect();
    for (number, key) in keys.iter().enumerate() {
        let input = Input { bytes: Some(key.as_bytes()), format: Format::Text, type_oid: 0 };
        let bucket = key_type.coerce(input).unwrap().unwrap().bucket(BUCKETS);
        assert_eq!(bucket.0, places[&number], "{column} {key:?}");
    }
}

fn make_table(wire: &mut Wire, column: &str) {
    let mut sql = format!("CREATE TABLE t (number int, k {column}) PARTITION BY HASH (k);");
    for bucket in 0..BUCKETS {
        let bounds = format!("(MODULUS {BUCKETS}, REMAINDER {bucket})");
        writeln!(sql, "CREATE TABLE p{bucket} PARTITION OF t FOR VALUES WITH {bounds};").unwrap();
    }
    assert_eq!(wire.query(&sql).sqlstate(), "");
}

fn copy_text(key: &str) -> String {
    key.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
}
