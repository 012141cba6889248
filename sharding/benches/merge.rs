//! How fast rows of several shards become one answer, and how fast COPY data is split: that by the time on a core, for other programs
//! may take most of it.

#![allow(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]
#![allow(clippy::unwrap_used, reason = "a benchmark may")]

use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pgsluice_sharding::catalog::Collation;
use pgsluice_sharding::copy::{
    CopyFormat, CopyFrom, CopyTarget, ForceNull, KeyOptions, MomentField, MomentKind, Splitter,
};
use pgsluice_sharding::key::Format;
use pgsluice_sharding::merge::{ColumnType, Merge, MergeLimits, Progress, ShardInput};
use pgsluice_sharding::plan::{
    Aggregate, AggregateFunction, ColumnRef, Gather, GroupKey, Node, Shards, SortKey, SortValue,
};
use pgsluice_sharding::value::oid;
use pgsluice_sharding::{KeyType, ShardMap};

const SHARDS: usize = 4;
const ROWS: usize = 100_000;

fn row(fields: &[&[u8]], out: &mut Vec<u8>) {
    let length = 6 + fields.iter().map(|field| field.len() + 4).sum::<usize>();
    out.push(b'D');
    out.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
    out.extend_from_slice(&u16::try_from(fields.len()).unwrap().to_be_bytes());
    for field in fields {
        out.extend_from_slice(&u32::try_from(field.len()).unwrap().to_be_bytes());
        out.extend_from_slice(field);
    }
}

fn key(type_has_two: bool) -> Vec<SortKey> {
    let key = SortKey {
        value: SortValue::Column(ColumnRef::Helper(0)),
        descending: false,
        nulls_first: false,
        collation: Collation::Bytes,
        name: "id".to_owned(),
    };
    if type_has_two { vec![key.clone(), key] } else { vec![key] }
}

fn run(tree: &Node, types: &[u32], helpers: u16, shards: &[Vec<u8>]) -> u64 {
    let gather = Gather {
        shards: Shards::All,
        sql: String::new(),
        timed_sql: None,
        helpers,
        tree: tree.clone(),
        params: 0,
        or_else: None,
        locks: false,
    };
    let columns: Vec<ColumnType> = types.iter().map(|oid| ColumnType { type_oid: *oid, typmod: -1 }).collect();
    let visible = columns.len() - usize::from(helpers);
    let limits = MergeLimits { buffered_bytes_max: 1 << 30 };
    let formats = vec![Format::Text; visible];
    let mut merge = Merge::new(&gather, SHARDS, &columns, &columns[..visible], &formats, &[], limits).unwrap();
    let mut inputs: Vec<ShardInput<'_>> = shards.iter().map(|rows| ShardInput { rows, finished: true }).collect();
    let mut out = Vec::with_capacity(1 << 16);
    while merge.run(&mut inputs, &mut out, 1 << 15).unwrap() == Progress::Full {
        black_box(&out);
        out.clear();
    }
    merge.rows()
}

/// Rows of id, a name and the id once more as a helper, each shard's sorted by id.
fn sorted_rows() -> Vec<Vec<u8>> {
    let mut shards = vec![Vec::new(); SHARDS];
    for id in 0..ROWS {
        let shard = id.wrapping_mul(2_654_435_761) >> 7 & (SHARDS - 1);
        let binary = i64::try_from(id).unwrap().to_be_bytes();
        row(&[id.to_string().as_bytes(), b"Ada Lovelace", &binary], &mut shards[shard]);
    }
    shards
}

fn merging(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("merge");
    group.throughput(Throughput::Elements(ROWS as u64));
    let rows = sorted_rows();
    let types = [oid::INT8, oid::TEXT, oid::INT8];
    let ordered = |keys| Node::Project { input: Box::new(Node::MergeSort { keys, input: Box::new(Node::Route) }) };
    group.bench_function("ordered by int8, 4 inputs", |bencher| {
        let tree = ordered(key(false));
        bencher.iter(|| assert_eq!(run(&tree, &types, 1, &rows), ROWS as u64));
    });
    group.bench_function("ordered by two keys, 4 inputs", |bencher| {
        let tree = ordered(key(true));
        bencher.iter(|| assert_eq!(run(&tree, &types, 1, &rows), ROWS as u64));
    });
    group.bench_function("append", |bencher| {
        let tree = Node::Append { input: Box::new(Node::Route) };
        bencher.iter(|| assert_eq!(run(&tree, &types, 0, &rows), ROWS as u64));
    });
    for sorted in [true, false] {
        let name = if sorted { "group by, sorted" } else { "group by, in memory" };
        let input =
            if sorted { Node::MergeSort { keys: key(false), input: Box::new(Node::Route) } } else { Node::Route };
        let count = AggregateFunction::Count { count: ColumnRef::Helper(0) };
        let tree = Node::Aggregate {
            keys: vec![GroupKey { column: ColumnRef::Helper(0), collation: Collation::Bytes }],
            aggregates: vec![Aggregate { function: count, output: Some(0), name: "count(*)".to_owned() }],
            sorted,
            input: Box::new(input),
        };
        group.bench_function(name, |bencher| {
            bencher.iter(|| assert_eq!(run(&tree, &types, 1, &rows), ROWS as u64));
        });
    }
    group.finish();
}

fn copying(criterion: &mut Criterion) {
    let line = |id: usize, separator: char| {
        format!("{id}{separator}Ada Lovelace{separator}ada{id}@example.com{separator}2024-02-29 12:00:00+00\n")
    };
    let text: String = (0..ROWS).map(|id| line(id, '\t')).collect();
    let csv: String = (0..ROWS).map(|id| line(id, ',').replace("Ada Lovelace", "\"Lovelace, Ada\"")).collect();
    let mut binary = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for id in 0..ROWS {
        binary.extend_from_slice(&2_u16.to_be_bytes());
        binary.extend_from_slice(&8_u32.to_be_bytes());
        binary.extend_from_slice(&(id as u64).to_be_bytes());
        binary.extend_from_slice(&40_u32.to_be_bytes());
        binary.extend_from_slice(&[b'x'; 40]);
    }
    let map = ShardMap::even(4096, 4);
    let mut group = criterion.benchmark_group("copy");
    let (dated_text, dated_csv) = (text.clone().into_bytes(), csv.clone().into_bytes());
    let formats = [
        ("text", CopyFormat::Text { delimiter: b'\t', null: b"\\N".to_vec(), header: false }, text.into_bytes()),
        (
            "csv",
            CopyFormat::Csv { delimiter: b',', null: Vec::new(), quote: b'"', escape: b'"', header: false },
            csv.into_bytes(),
        ),
        ("binary", CopyFormat::Binary, binary),
        (
            "text, a field may say now",
            CopyFormat::Text { delimiter: b'\t', null: b"\\N".to_vec(), header: false },
            dated_text,
        ),
        (
            "csv, a field may say now",
            CopyFormat::Csv { delimiter: b',', null: Vec::new(), quote: b'"', escape: b'"', header: false },
            dated_csv,
        ),
    ];
    let (kind, null) = (MomentKind::TimestampTz, ForceNull::AsWritten);
    let at = MomentField { field: 3, column: "at".to_owned(), kind, null };
    for (name, format, data) in formats {
        let copy = CopyFrom {
            target: CopyTarget::Sharded { field: 0, key_type: KeyType::Int8, stored_in: None },
            format,
            table: "users".to_owned(),
            key_column: "id".to_owned(),
            key: KeyOptions::default(),
            partial: None,
            added: Vec::new(),
            moments: if name.ends_with("now") { vec![at.clone()] } else { Vec::new() },
        };
        group.throughput(Throughput::Bytes(data.len() as u64));
        group.bench_function(name, |bencher| {
            let mut out = vec![Vec::new(); 4];
            bencher.iter_custom(|rounds| {
                let began = on_core();
                let whole = Instant::now();
                for _ in 0..rounds {
                    let mut splitter = Splitter::new(&copy, 1 << 20);
                    for chunk in data.chunks(1 << 16) {
                        splitter.push(black_box(chunk), &map, &mut out).unwrap();
                        black_box(&out);
                        out.iter_mut().for_each(Vec::clear);
                    }
                    splitter.finish(&map, &mut out).unwrap();
                    black_box(splitter.lines());
                }
                began.zip(on_core()).map_or(whole.elapsed(), |(began, now)| now.saturating_sub(began))
            });
        });
    }
    group.finish();
}

/// How long this thread has had a core, where the system tells; Linux does.
fn on_core() -> Option<Duration> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

criterion_group!(benches, merging, copying);
criterion_main!(benches);
