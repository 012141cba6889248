//! COPY data is split into the rows PostgreSQL would read, each goes to its shard byte for byte, and
//! it does not matter how the stream is cut.

#![allow(clippy::unwrap_used, reason = "a test may")]

use pgsluice_sharding::copy::{
    AddedField, CopyFormat, CopyFrom, CopyTarget, FieldCell, FieldValue, KeyOptions, PartialRows, Splitter,
};
use pgsluice_sharding::key::{Format, Input};
use pgsluice_sharding::{Key, KeyType, Refusal, ShardMap};
use proptest::prelude::*;

const ROW_BYTES_MAX: usize = 1000;

fn text() -> CopyFormat {
    CopyFormat::Text { delimiter: b'\t', null: b"\\N".to_vec(), header: false }
}

fn csv() -> CopyFormat {
    CopyFormat::Csv { delimiter: b',', null: Vec::new(), quote: b'"', escape: b'"', header: false }
}

fn copy(format: CopyFormat, field: u16, key_type: KeyType) -> CopyFrom {
    CopyFrom {
        target: CopyTarget::Sharded { field, key_type, stored_in: None },
        format,
        table: "users".to_owned(),
        key_column: "user_id".to_owned(),
        key: KeyOptions::default(),
        partial: None,
        added: Vec::new(),
        moments: Vec::new(),
    }
}

fn map() -> ShardMap {
    ShardMap::even(64, 4)
}

/// Splits `data` given in pieces of the sizes that `cuts` goes round.
fn split(copy: &CopyFrom, data: &[u8], cuts: &[usize]) -> Result<(Vec<Vec<u8>>, u64), Refusal> {
    let mut splitter = Splitter::new(copy, ROW_BYTES_MAX);
    let mut out = vec![Vec::new(); 4];
    let mut rest = data;
    for size in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*size).clamp(1, rest.len()));
        splitter.push(piece, &map(), &mut out)?;
        rest = after;
    }
    splitter.finish(&map(), &mut out)?;
    Ok((out, splitter.lines()))
}

/// Splits, however the data is cut, and tells for every row its shard and the rows themselves.
#[track_caller]
fn check(copy: &CopyFrom, data: &[u8], rows: &[(&[u8], Key)]) {
    let mut expected = vec![Vec::new(); 4];
    for (row, key) in rows {
        expected[usize::from(map().shard_of(key).0)].extend_from_slice(row);
    }
    for cuts in [[usize::MAX, 1], [1, 1], [2, 3], [7, 1]] {
        let (out, _) = split(copy, data, &cuts).unwrap();
        assert_eq!(out, expected, "{}", String::from_utf8_lossy(data));
    }
}

#[track_caller]
fn check_error(copy: &CopyFrom, data: &[u8], sqlstate: &str, message: &str, context: &str) {
    for cuts in [[usize::MAX, 1], [1, 1], [5, 2]] {
        let refusal = split(copy, data, &cuts).unwrap_err();
        assert_eq!(
            (refusal.sqlstate, refusal.message.as_ref(), refusal.context.as_deref().unwrap_or("")),
            (sqlstate, message, context)
        );
    }
}

fn key(text: &str) -> Key {
    Key::Text(text.as_bytes().into())
}

#[test]
fn text_with_every_line_end() {
    let copy = copy(text(), 1, KeyType::Int8);
    for end in ["\n", "\r\n", "\r"] {
        let rows: Vec<String> = (0..20).map(|n| format!("row {n}\t{n}\tmore{end}")).collect();
        let expected: Vec<(&[u8], Key)> = rows.iter().zip(0..).map(|(row, n)| (row.as_bytes(), Key::Int(n))).collect();
        check(&copy, rows.concat().as_bytes(), &expected);
        // The last line end may be missing.
        check(
            &copy,
            format!("a\t7{end}b\t8").as_bytes(),
            &[(format!("a\t7{end}").as_bytes(), Key::Int(7)), (b"b\t8", Key::Int(8))],
        );
    }
}

#[test]
fn text_escapes_are_decoded_for_the_key_only() {
    let copy = copy(text(), 0, KeyType::Text);
    check(&copy, b"a\\tb\tx\n", &[(b"a\\tb\tx\n", key("a\tb"))]);
    check(&copy, b"\\x41\\102\\n\\\\\\q\n", &[(b"\\x41\\102\\n\\\\\\q\n", key("AB\n\\q"))]);
    check(&copy, b"\\xZ\\b\\f\\r\\v\n", &[(b"\\xZ\\b\\f\\r\\v\n", key("xZ\x08\x0c\r\x0b"))]);
    // A protected line end or delimiter belongs to the field; two backslashes protect nothing.
    check(&copy, b"a\\\nb\\\tc\tx\n", &[(b"a\\\nb\\\tc\tx\n", key("a\nb\tc"))]);
    check(&copy, b"a\\\\\nb\n", &[(b"a\\\\\n", key("a\\")), (b"b\n", key("b"))]);
    check(&copy, b"\n", &[(b"\n", key(""))]);
    // At the very end a lone backslash is dropped.
    check(&copy, b"a\\", &[(b"a\\", key("a"))]);
}

#[test]
fn the_marker_of_old_clients_ends_the_data() {
    let copy = copy(text(), 0, KeyType::Int4);
    check(&copy, b"1\n\\.\n", &[(b"1\n", Key::Int(1))]);
    check(&copy, b"1\n\\.\nnot read", &[(b"1\n", Key::Int(1))]);
    check(&copy, b"1\r\n\\.\r\n", &[(b"1\r\n", Key::Int(1))]);
    // Without a line end it is no marker: an error in text, a value in CSV.
    check_error(&copy, b"1\n\\.", "22P04", "end-of-copy marker corrupt", "COPY users, line 2");
    check(&self::copy(csv(), 0, KeyType::Text), b"\\.", &[(b"\\.", key("\\."))]);
    check(&copy, b"1\ta\\\\.b\n", &[(b"1\ta\\\\.b\n", Key::Int(1))]);
    check_error(&copy, b"1\n2\tx\\.y\n", "22P04", "end-of-copy marker corrupt", "COPY users, line 2");
    check(&self::copy(csv(), 0, KeyType::Int4), b"1\n\\.\n", &[(b"1\n", Key::Int(1))]);
}

#[test]
fn csv_has_no_marker_for_servers_since_18() {
    let copy = copy(csv(), 0, KeyType::Text);
    for (version, rows) in [(17, 1), (18, 3)] {
        let mut splitter = Splitter::new(&copy, ROW_BYTES_MAX).for_version(version);
        let mut out = vec![Vec::new(); 4];
        splitter.push(b"a\n\\.\nb\n", &map(), &mut out).unwrap();
        assert_eq!(out.concat().iter().filter(|byte| **byte == b'\n').count(), rows, "{version}");
        let splitter = Splitter::new(&filled(csv(), false), ROW_BYTES_MAX).for_version(version);
        assert_eq!(splitter.rows_ahead(b"a\n\\.\nb\n", false), rows, "{version}");
    }
    // Text has it as ever.
    let copy = CopyFrom { format: text(), ..copy };
    let mut splitter = Splitter::new(&copy, ROW_BYTES_MAX).for_version(18);
    let mut out = vec![Vec::new(); 4];
    splitter.push(b"a\n\\.\nb\n", &map(), &mut out).unwrap();
    assert_eq!(out.concat(), b"a\n");
}

#[test]
fn mixed_line_ends_are_refused_as_postgresql_does() {
    let copy_text = copy(text(), 0, KeyType::Int4);
    check_error(&copy_text, b"1\n2\r\n", "22P04", "literal carriage return found in data", "COPY users, line 2");
    check_error(&copy_text, b"1\r\n2\n", "22P04", "literal newline found in data", "COPY users, line 2");
    check_error(&copy_text, b"1\r2\n", "22P04", "literal newline found in data", "COPY users, line 2");
    check_error(&copy_text, b"1\r\n2\r3", "22P04", "literal carriage return found in data", "COPY users, line 2");
    let copy_csv = copy(csv(), 0, KeyType::Int4);
    check_error(&copy_csv, b"1\n2\r\n", "22P04", "unquoted carriage return found in data", "COPY users, line 2");
}

#[test]
fn csv_quotes() {
    let keyed = copy(csv(), 1, KeyType::Text);
    check(&keyed, b"1,\"a,\"\"b\nc\",x\n2,d\n", &[(b"1,\"a,\"\"b\nc\",x\n", key("a,\"b\nc")), (b"2,d\n", key("d"))]);
    check(&keyed, b"\"x\r\ny\",e\"f,g\"h\n", &[(b"\"x\r\ny\",e\"f,g\"h\n", key("ef,gh"))]);
    // Quoted, the NULL string is a value.
    check(&keyed, b"1,\"\"\n", &[(b"1,\"\"\n", key(""))]);
    let escaped =
        CopyFormat::Csv { delimiter: b';', null: b"nil".to_vec(), quote: b'\'', escape: b'\\', header: false };
    let escaped = copy(escaped, 1, KeyType::Text);
    check(
        &escaped,
        b"'it\\'s;\\\\\n';'a\\'b\\\\c\\d'\nx;'nil'\n",
        &[(b"'it\\'s;\\\\\n';'a\\'b\\\\c\\d'\n", key("a'b\\c\\d")), (b"x;'nil'\n", key("nil"))],
    );
    check_error(&keyed, b"1,a\n2,\"b\n", "22P04", "unterminated CSV quoted field", "COPY users, line 3: \"2,\"b\n\"");
}

#[test]
fn a_header_goes_to_every_shard() {
    let format = CopyFormat::Csv { delimiter: b',', null: Vec::new(), quote: b'"', escape: b'"', header: true };
    let (out, lines) = split(&copy(format, 0, KeyType::Int8), b"user_id,name\n1,a\n", &[3]).unwrap();
    assert_eq!(lines, 2);
    let home = usize::from(map().shard_of(&Key::Int(1)).0);
    for (shard, data) in out.iter().enumerate() {
        let expected: &[u8] = if shard == home { b"user_id,name\n1,a\n" } else { b"user_id,name\n" };
        assert_eq!(data, expected);
    }
}

#[test]
fn a_reference_table_gets_everything_everywhere() {
    let copy = CopyFrom { target: CopyTarget::Reference, key_column: String::new(), ..copy(text(), 0, KeyType::Int8) };
    let (out, lines) = split(&copy, b"1\ta\n2\tb\n\\.\n", &[2]).unwrap();
    assert_eq!(out, vec![b"1\ta\n2\tb\n\\.\n".to_vec(); 4]);
    assert_eq!(lines, 3);
}

#[test]
fn bad_keys_are_told_as_postgresql_tells_them() {
    let keyed = copy(text(), 1, KeyType::Int8);
    check_error(
        &keyed,
        b"a\t1\nb\tabc\tx\n",
        "22P02",
        "invalid input syntax for type bigint: \"abc\"",
        "COPY users, line 2, column user_id: \"abc\"",
    );
    check_error(
        &keyed,
        b"a\t1\nb\t\\N\tx\n",
        "23502",
        "null value in column \"user_id\" of relation \"users\" violates not-null constraint",
        "COPY users, line 2: \"b\t\\N\tx\"",
    );
    check_error(&keyed, b"only\n", "22P04", "missing data for column \"user_id\"", "COPY users, line 1: \"only\"");
    let keyed = copy(csv(), 0, KeyType::Int2);
    check_error(
        &keyed,
        b"\"1\n\",x\n,y\n",
        "23502",
        "null value in column \"user_id\" of relation \"users\" violates not-null constraint",
        "COPY users, line 2: \",y\"",
    );
    check_error(
        &keyed,
        b"1\n70000,x\n",
        "22003",
        "value \"70000\" is out of range for type smallint",
        "COPY users, line 2, column user_id: \"70000\"",
    );
}

#[test]
fn rows_are_bounded() {
    for (format, data) in [(text(), b"x".repeat(3000)), (csv(), [b"\"".as_slice(), &b"\n".repeat(3000)].concat())] {
        let refusal = split(&copy(format, 0, KeyType::Text), &data, &[700]).unwrap_err();
        assert_eq!(refusal.sqlstate, "54000");
    }
    let long = [b"x".repeat(ROW_BYTES_MAX).as_slice(), b"\n"].concat();
    assert_eq!(split(&copy(text(), 0, KeyType::Text), &long, &[9999]).unwrap_err().sqlstate, "54000");
}

fn binary(rows: &[Vec<Option<Vec<u8>>>]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let header = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\x03ext".to_vec();
    let encoded = rows
        .iter()
        .map(|fields| {
            let mut row = u16::try_from(fields.len()).unwrap().to_be_bytes().to_vec();
            for field in fields {
                let length = field.as_ref().map_or(-1, |bytes| i32::try_from(bytes.len()).unwrap());
                row.extend_from_slice(&length.to_be_bytes());
                row.extend_from_slice(field.as_deref().unwrap_or_default());
            }
            row
        })
        .collect();
    (header, encoded)
}

#[test]
fn binary_rows() {
    let keyed = copy(CopyFormat::Binary, 1, KeyType::Int4);
    let key = |value: i32| Some(value.to_be_bytes().to_vec());
    let rows = [vec![None, key(1)], vec![Some(b"x".to_vec()), key(2)], vec![None, key(-3), None]];
    let (header, encoded) = binary(&rows);
    let mut expected = vec![header.clone(); 4];
    for (row, value) in encoded.iter().zip([1, 2, -3]) {
        expected[usize::from(map().shard_of(&Key::Int(value)).0)].extend_from_slice(row);
    }
    expected.iter_mut().for_each(|shard| shard.extend_from_slice(&[0xff, 0xff]));
    let data = [header.clone(), encoded.concat()].concat();
    let with_trailer = [data.as_slice(), &[0xff, 0xff]].concat();
    for cuts in [&[usize::MAX][..], &[1], &[3, 5], &[22]] {
        assert_eq!(split(&keyed, &data, cuts).unwrap(), (expected.clone(), 3));
        assert_eq!(split(&keyed, &with_trailer, cuts).unwrap(), (expected.clone(), 3));
    }
    let broken = |rest: &[u8]| [header.as_slice(), rest].concat();
    let context = "COPY users, line 1";
    check_error(&keyed, b"PGCOPX", "22P04", "COPY file signature not recognized", context);
    check_error(&keyed, b"", "22P04", "COPY file signature not recognized", context);
    check_error(&keyed, &broken(&[0, 2, 0]), "22P04", "unexpected EOF in COPY data", context);
    check_error(&keyed, &broken(&[0xff, 0xff, 0]), "22P04", "received copy data after EOF marker", context);
    check_error(&keyed, &broken(&[0, 1, 0xff, 0xff, 0xff, 0xfe]), "22P04", "invalid field size", context);
    check_error(
        &keyed,
        &broken(&[0, 2, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 9]),
        "22P03",
        "incorrect binary data format",
        "COPY users, line 1, column user_id",
    );
    check_error(
        &keyed,
        &broken(&[0, 1, 0xff, 0xff, 0xff, 0xff]),
        "22P04",
        "missing data for column \"user_id\"",
        context,
    );
}

/// A value as PostgreSQL's COPY TO would write it.
fn write_text(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
}

fn write_csv(value: &str, quoted: bool) -> String {
    if quoted || value.is_empty() || value.contains(['"', ',', '\n', '\r']) || value == "\\." {
        format!("\"{}\"", value.replace('"', "\"\""))
    } else {
        value.to_owned()
    }
}

proptest! {
    #[test]
    fn every_row_lands_on_its_shard_however_the_stream_is_cut(
        rows in prop::collection::vec(("[ab\\\\\t\n\r\"',.;x]{0,8}", "[ab\\\\\t\n\r\"',.]{0,6}", any::<bool>()), 0..20),
        cuts in prop::collection::vec(1_usize..20, 1..8),
        end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
        as_csv: bool,
    ) {
        let lines: Vec<String> = rows.iter().map(|(first, key, quoted)| {
            if as_csv {
                format!("{},{}{end}", write_csv(first, *quoted), write_csv(key, *quoted))
            } else {
                format!("{}\t{}{end}", write_text(first), write_text(key))
            }
        }).collect();
        let copy = copy(if as_csv { csv() } else { text() }, 1, KeyType::Text);
        let mut expected = vec![Vec::new(); 4];
        for (line, (_, value, _)) in lines.iter().zip(&rows) {
            expected[usize::from(map().shard_of(&key(value)).0)].extend_from_slice(line.as_bytes());
        }
        let (out, _) = split(&copy, lines.concat().as_bytes(), &cuts).unwrap();
        prop_assert_eq!(out, expected);
    }

    #[test]
    fn any_bytes_give_the_same_however_they_are_cut(
        data in prop::collection::vec(prop::sample::select(b"a1\\.\t\n\r\",;\xff\0".to_vec()), 0..60),
        cuts in prop::collection::vec(1_usize..9, 1..5),
        field in 0_u16..3,
        other_escape: bool,
    ) {
        let escape = if other_escape { b'\\' } else { b'"' };
        let with_escape = CopyFormat::Csv { delimiter: b',', null: Vec::new(), quote: b'"', escape, header: false };
        for format in [text(), with_escape, CopyFormat::Binary] {
            let copy = copy(format, field, KeyType::Text);
            let whole = split(&copy, &data, &[usize::MAX]);
            prop_assert_eq!(&whole, &split(&copy, &data, &cuts));
            if let (Ok((out, _)), CopyFormat::Text { .. }) = (&whole, &copy.format) {
                let total: usize = out.iter().map(Vec::len).sum();
                prop_assert!(total == data.len() || data.windows(2).any(|pair| pair == b"\\."));
            }
        }
    }
}

#[test]
fn a_key_is_cut_as_its_column_stores_it() {
    let target = CopyTarget::Sharded { field: 0, key_type: KeyType::Text, stored_in: Some(3) };
    let key = |text: &[u8]| Key::Text(text.into());
    let copy = CopyFrom { target, ..copy(text(), 0, KeyType::Text) };
    check(&copy, b"ab    \t1\nabc   \t2\n", &[(b"ab    \t1\n", key(b"ab ")), (b"abc   \t2\n", key(b"abc"))]);
    let copy = CopyFrom { format: csv(), ..copy };
    check(&copy, b"\"ab    \",1\n", &[(b"\"ab    \",1\n", key(b"ab "))]);
}

/// A copy of rows without their id.
fn filled(format: CopyFormat, is_key: bool) -> CopyFrom {
    let value = FieldValue::Next { sequence: "s".to_owned(), bytes: 4 };
    let partial = PartialRows { relation: "users".to_owned(), columns: vec!["user_id".into(), "name".into()] };
    CopyFrom {
        added: vec![AddedField { name: "id".to_owned(), value, is_key }],
        partial: Some(partial),
        ..copy(format, 0, KeyType::Int8)
    }
}

/// Splits data given in pieces of so many bytes; the ids count from 1.
fn split_filled(copy: &CopyFrom, data: &[u8], size: usize) -> Vec<Vec<u8>> {
    let mut splitter = Splitter::new(copy, ROW_BYTES_MAX);
    let mut out = vec![Vec::new(); 4];
    let mut ids = 1..;
    for piece in data.chunks(size) {
        let rows = splitter.rows_ahead(piece, false);
        splitter.give(ids.by_ref().take(rows).map(FieldCell::Id));
        splitter.push(piece, &map(), &mut out).expect("is well formed");
    }
    let rows = splitter.rows_ahead(&[], true);
    splitter.give(ids.by_ref().take(rows).map(FieldCell::Id));
    splitter.finish(&map(), &mut out).expect("is well formed");
    out
}

#[test]
fn each_row_gets_the_next_value_however_the_data_are_cut() {
    let data: Vec<u8> = (1..=50).flat_map(|n| format!("{n},\"a\n,{n}\"\r\n").into_bytes()).chain(*b"51,last").collect();
    for size in [1, 2, 3, 7, 64, 1 << 16] {
        for is_key in [false, true] {
            let out = split_filled(&filled(csv(), is_key), &data, size);
            let all = out.concat();
            for n in 1..=51 {
                let row = if n == 51 { "51,51,last".to_owned() } else { format!("{n},{n},\"a\n,{n}\"\r\n") };
                let key = KeyType::Int8.coerce(Input {
                    bytes: Some(n.to_string().as_bytes()),
                    format: Format::Text,
                    type_oid: 0,
                });
                let shard = map().shard_of(&key.unwrap().unwrap());
                let on = String::from_utf8_lossy(&out[usize::from(shard.0)]);
                assert!(on.contains(&row), "{row:?} by {size}: {on}");
            }
            assert_eq!(all.len(), data.len() + (1..=51).map(|n: u32| n.to_string().len() + 1).sum::<usize>());
        }
    }
}

#[test]
fn a_reference_table_gets_the_same_values_on_every_shard() {
    let copy = CopyFrom { target: CopyTarget::Reference, ..filled(text(), false) };
    for size in [1, 5, 100] {
        let out = split_filled(&copy, b"a\tb\nc\td\n\\.\nrest\n", size);
        assert!(out.iter().all(|shard| shard == b"1\ta\tb\n2\tc\td\n"), "{out:?}");
    }
}

#[test]
fn binary_rows_get_a_field_of_the_columns_width() {
    let head = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
    let row = b"\0\x02\0\0\0\x08\0\0\0\0\0\0\0\x05\0\0\0\x01x";
    let data = [&head[..], row, row, b"\xff\xff"].concat();
    for size in [1, 4, 1000] {
        let out = split_filled(&filled(CopyFormat::Binary, false), &data, size);
        let full = out.iter().find(|shard| shard.len() > head.len() + 2).expect("a shard has the rows");
        let wide = |id: u8| [b"\0\x03\0\0\0\x04\0\0\0", &[id][..], &row[2..]].concat();
        assert_eq!(*full, [&head[..], &wide(1), &wide(2), b"\xff\xff"].concat());
    }
    let mut splitter = Splitter::new(&filled(CopyFormat::Binary, false), ROW_BYTES_MAX);
    let short = [&head[..], b"\0\x01\0\0\0\x01x"].concat();
    let refusal = splitter.push(&short, &map(), &mut vec![Vec::new(); 4]).expect_err("one field is missing");
    assert_eq!(refusal.message, "row field count is 1, expected 2");
}

#[test]
fn the_command_names_the_added_columns_first() {
    let copy = filled(text(), false);
    let sql = "COPY /* ( */ s.\"t(\" (user_id, name) FROM STDIN (FORMAT csv)";
    assert_eq!(copy.with_added(sql), "COPY /* ( */ s.\"t(\" (\"id\", user_id, name) FROM STDIN (FORMAT csv)");
}
