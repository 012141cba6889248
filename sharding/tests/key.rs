//! Keys land where PostgreSQL's hash partitioning puts them, and values become keys as PostgreSQL
//! would coerce them.

#![allow(clippy::unwrap_used, reason = "a test may")]

use pgsluice_sharding::key::{Format, Input};
use pgsluice_sharding::{Key, KeyType, Refusal};
use proptest::prelude::*;

/// Type, key, bucket of 4096, from PostgreSQL 15's own hash functions; where those and a real
/// partitioned table agree was checked on 100 000 keys of every type.
const BUCKETS: &str = include_str!("golden/buckets.tsv");

fn input(bytes: &[u8], format: Format, type_oid: u32) -> Input<'_> {
    Input { bytes: Some(bytes), format, type_oid }
}

fn text(key_type: KeyType, value: &str) -> Result<Option<Key>, Refusal> {
    typed(key_type, value, 0)
}

fn typed(key_type: KeyType, value: &str, type_oid: u32) -> Result<Option<Key>, Refusal> {
    key_type.coerce(input(value.as_bytes(), Format::Text, type_oid))
}

#[track_caller]
fn refused(result: Result<Option<Key>, Refusal>, sqlstate: &str, message: &str) {
    let refusal = result.unwrap_err();
    assert_eq!((refusal.sqlstate, refusal.message.as_ref()), (sqlstate, message));
}

#[test]
fn buckets_are_those_of_postgresql() {
    check_buckets(BUCKETS, 4096);
}

#[track_caller]
fn check_buckets(file: &str, buckets: u16) {
    for line in file.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let key_type = match fields[0] {
            "int2" => KeyType::Int2,
            "int4" => KeyType::Int4,
            "int8" => KeyType::Int8,
            "uuid" => KeyType::Uuid,
            _ => KeyType::Text,
        };
        let key = text(key_type, fields[1]).unwrap().unwrap();
        assert_eq!(key.bucket(buckets).0, fields[2].parse::<u16>().unwrap(), "{line}");
    }
}

#[test]
fn buckets_of_published_values() {
    let expected = [(0, 432), (1, 952), (2, 378), (42, 610), (-1, 933), (i64::MAX, 630)];
    for (key, bucket) in expected {
        assert_eq!(Key::Int(key).bucket(1024).0, bucket);
    }
    assert_eq!(Key::Int(42).bucket(1).0, 0);
}

#[test]
fn integers_are_read_as_postgresql_reads_them() {
    for form in ["42", " 42", "42 ", "+42", "\t+0042\n"] {
        assert_eq!(text(KeyType::Int8, form).unwrap(), Some(Key::Int(42)), "{form:?}");
    }
    for form in ["", " ", "abc", "4 2", "--1", "0x1F", "1_000", "1.0", "+"] {
        refused(text(KeyType::Int8, form), "22P02", &format!("invalid input syntax for type bigint: \"{form}\""));
    }
    assert_eq!(text(KeyType::Int8, "-9223372036854775808").unwrap(), Some(Key::Int(i64::MIN)));
    refused(
        text(KeyType::Int8, "9223372036854775808"),
        "22003",
        "value \"9223372036854775808\" is out of range for type bigint",
    );
    refused(text(KeyType::Int4, "2147483648"), "22003", "value \"2147483648\" is out of range for type integer");
    refused(text(KeyType::Int2, "-32769"), "22003", "value \"-32769\" is out of range for type smallint");
}

#[test]
fn binary_integers_of_any_declared_width() {
    let key = |bytes: &[u8], oid| KeyType::Int4.coerce(input(bytes, Format::Binary, oid));
    assert_eq!(key(&7_i32.to_be_bytes(), 0).unwrap(), Some(Key::Int(7)));
    assert_eq!(key(&(-7_i16).to_be_bytes(), 21).unwrap(), Some(Key::Int(-7)));
    // Wider than the column: no row can have it, and the server says so in its own way.
    assert_eq!(key(&(1_i64 << 40).to_be_bytes(), 20).unwrap(), Some(Key::Int(1 << 40)));
    // An open type may be that of a cast; a declared one has its width.
    assert_eq!(key(&7_i64.to_be_bytes(), 0).unwrap(), Some(Key::Int(7)));
    assert_eq!(key(&7_i64.to_be_bytes(), 23).unwrap_err().sqlstate, "08P01");
    assert_eq!(key(&u32::MAX.to_be_bytes(), 26).unwrap(), Some(Key::Int(4_294_967_295)));
}

#[test]
fn numbers_with_a_fraction_are_no_keys() {
    assert_eq!(typed(KeyType::Int8, "5.00", 1700).unwrap(), Some(Key::Int(5)));
    assert_eq!(typed(KeyType::Int8, "5.5", 1700).unwrap(), None);
    assert_eq!(typed(KeyType::Int8, "1e3", 1700).unwrap(), Some(Key::Int(1000)));
    assert_eq!(typed(KeyType::Int8, "99999999999999999999", 1700).unwrap(), None);
    assert_eq!(typed(KeyType::Int8, "-9223372036854775808", 1700).unwrap(), Some(Key::Int(i64::MIN)));
    assert_eq!(typed(KeyType::Int8, "NaN", 1700).unwrap(), None);
    assert_eq!(typed(KeyType::Int8, "-0", 701).unwrap(), Some(Key::Int(0)));
    assert_eq!(typed(KeyType::Int8, "2.5", 701).unwrap(), None);
    assert_eq!(typed(KeyType::Int8, "NaN", 701).unwrap(), None);
    assert_eq!(typed(KeyType::Int4, "1e300", 701).unwrap(), None);
    assert_eq!(typed(KeyType::Int8, "9007199254740992", 701).unwrap_err().sqlstate, "0A000");
    let float4 = KeyType::Int8.coerce(input(&3_f32.to_be_bytes(), Format::Binary, 700));
    assert_eq!(float4.unwrap(), Some(Key::Int(3)));
}

#[test]
fn uuids_in_every_form() {
    let expected = Some(Key::Uuid([
        0xa0, 0xee, 0xbc, 0x99, 0x9c, 0x0b, 0x4e, 0xf8, 0xbb, 0x6d, 0x6b, 0xb9, 0xbd, 0x38, 0x0a, 0x11,
    ]));
    for form in [
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
        "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
        "a0eebc999c0b4ef8bb6d6bb9bd380a11",
        "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
        "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
    ] {
        assert_eq!(text(KeyType::Uuid, form).unwrap(), expected, "{form}");
    }
    for form in ["", "{", "a0eebc99", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1g", " a0eebc999c0b4ef8bb6d6bb9bd380a11"] {
        refused(text(KeyType::Uuid, form), "22P02", &format!("invalid input syntax for type uuid: \"{form}\""));
    }
}

#[test]
fn texts_of_every_declared_type() {
    let key = |text: &str| Some(Key::Text(text.as_bytes().into()));
    for oid in [0, 25, 1043, 705, 19] {
        assert_eq!(typed(KeyType::Text, " a ", oid).unwrap(), key(" a "));
    }
    assert_eq!(typed(KeyType::Text, "+042", 23).unwrap(), key("42"));
    assert_eq!(typed(KeyType::Text, "1.50", 1700).unwrap(), key("1.50"));
    assert_eq!(typed(KeyType::Text, "t", 16).unwrap_err().sqlstate, "0A000");
    assert_eq!(KeyType::Text.coerce(Input { bytes: None, format: Format::Text, type_oid: 0 }).unwrap(), None);
}

proptest! {
    #[test]
    fn both_formats_give_one_key(value: i64) {
        let from_text = text(KeyType::Int8, &value.to_string()).unwrap();
        let binary = KeyType::Int8.coerce(input(&value.to_be_bytes(), Format::Binary, 20)).unwrap();
        prop_assert_eq!(from_text.clone(), binary);
        prop_assert_eq!(from_text, typed(KeyType::Int8, &format!("{value}.0"), 1700).unwrap());
    }

    #[test]
    fn any_bytes_give_a_key_or_an_error(bytes: Vec<u8>, oid in prop::sample::select(vec![0, 20, 21, 23, 25, 26, 700, 701, 1700, 2950])) {
        for key_type in [KeyType::Int2, KeyType::Int4, KeyType::Int8, KeyType::Text, KeyType::Uuid] {
            for format in [Format::Text, Format::Binary] {
                if let Ok(Some(key)) = key_type.coerce(input(&bytes, format, oid)) {
                    prop_assert!(key.bucket(4096).0 < 4096);
                }
            }
        }
    }
}

/// What `varchar(n)` keeps of a value; checked against PostgreSQL in `tests/sql/stored.slt`.
#[test]
fn stored_keys_lose_the_spaces_beyond_their_columns_length() {
    let stored = |value: &str, characters| match text(KeyType::Text, value).unwrap().unwrap().stored_in(characters) {
        Key::Text(bytes) => String::from_utf8(bytes.into()).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(stored("ab   ", 3), "ab ");
    assert_eq!(stored("abc   ", 3), "abc");
    assert_eq!(stored("abc", 3), "abc");
    assert_eq!(stored("日本語  ", 3), "日本語");
    assert_eq!(stored("      ", 3), "   ");
    // The server refuses these.
    assert_eq!(stored("abcd", 3), "abcd");
    assert_eq!(stored("abc  d", 3), "abc  d");
    assert_eq!(Key::Int(123_456).stored_in(3), Key::Int(123_456));
}

/// `varchar = char(n)` takes spaces at the end for nothing, so several keys may be equal to one value.
#[test]
fn a_padded_value_is_no_key() {
    assert_eq!(typed(KeyType::Text, "a ", 1042).unwrap_err().sqlstate, "0A000");
}
