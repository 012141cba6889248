//! Merging the rows of shards gives what one PostgreSQL with all rows gives, however the rows are
//! spread over shards and cut into pieces.

#![allow(clippy::unwrap_used, clippy::fn_params_excessive_bools, reason = "a test may")]

use std::collections::{BTreeMap, BTreeSet};

use pgsluice_sharding::Refusal;
use pgsluice_sharding::catalog::Collation;
use pgsluice_sharding::key::{Format, Input};
use pgsluice_sharding::merge::{ColumnType, Merge, MergeLimits, Progress, ShardInput};
use pgsluice_sharding::plan::{
    Aggregate, AggregateFunction, BitOperation, ColumnRef, Comparison, Condition, Count, Gather, GroupKey, Measure,
    Node, Operand, Shards, SortKey, SortValue,
};
use pgsluice_sharding::value::{Numeric, oid};
use proptest::prelude::*;

type Fields = Vec<Option<Vec<u8>>>;

/// What a test says about the statement that is merged.
struct Case {
    tree: Node,
    visible: Vec<u32>,
    helpers: Vec<u32>,
    /// The types the client sees, where they are not those the shards send.
    client: Option<Vec<u32>>,
    params: Vec<(Option<Vec<u8>>, u32)>,
    memory: usize,
    format: Format,
}

impl Case {
    fn new(tree: Node, visible: &[u32], helpers: &[u32]) -> Self {
        Self {
            tree,
            visible: visible.to_vec(),
            helpers: helpers.to_vec(),
            client: None,
            params: Vec::new(),
            memory: 1 << 20,
            format: Format::Text,
        }
    }

    fn client(mut self, types: &[u32]) -> Self {
        self.client = Some(types.to_vec());
        self
    }

    fn param(mut self, text: &str, type_oid: u32) -> Self {
        self.params.push((Some(text.as_bytes().to_vec()), type_oid));
        self
    }

    fn merge(&self, shards: usize) -> Result<Merge, Refusal> {
        let types = |oids: &[u32]| -> Vec<ColumnType> {
            oids.iter().map(|oid| ColumnType { type_oid: *oid, typmod: -1 }).collect()
        };
        let gather = Gather {
            shards: Shards::All,
            sql: String::new(),
            timed_sql: None,
            helpers: u16::try_from(self.helpers.len()).unwrap(),
            tree: self.tree.clone(),
            params: 0,
            or_else: None,
            locks: false,
        };
        let params: Vec<Input<'_>> = self
            .params
            .iter()
            .map(|(bytes, type_oid)| Input { bytes: bytes.as_deref(), format: Format::Text, type_oid: *type_oid })
            .collect();
        Merge::new(
            &gather,
            shards,
            &types(&[self.visible.as_slice(), &self.helpers].concat()),
            &types(self.client.as_deref().unwrap_or(&self.visible)),
            &vec![self.format; self.visible.len()],
            &params,
            MergeLimits { buffered_bytes_max: self.memory },
        )
    }

    /// Runs the merge over whole streams.
    fn run(&self, shards: &[Vec<Fields>]) -> Result<Vec<Fields>, Refusal> {
        self.run_in_pieces(shards, usize::MAX, usize::MAX).map(|(rows, _)| rows)
    }

    /// Runs the merge with at most `piece` rows at hand per shard and `room` bytes of output; also
    /// tells how many rows were left unread.
    fn run_in_pieces(
        &self,
        shards: &[Vec<Fields>],
        piece: usize,
        room: usize,
    ) -> Result<(Vec<Fields>, usize), Refusal> {
        let mut merge = self.merge(shards.len())?;
        let mut given = vec![0; shards.len()];
        let mut at_hand: Vec<Vec<u8>> = vec![Vec::new(); shards.len()];
        let mut rows = Vec::new();
        loop {
            let mut inputs: Vec<ShardInput<'_>> = (0..shards.len())
                .map(|shard| ShardInput { rows: &at_hand[shard], finished: given[shard] == shards[shard].len() })
                .collect();
            let mut out = Vec::new();
            let progress = merge.run(&mut inputs, &mut out, room)?;
            let left: Vec<Vec<u8>> = inputs.iter().map(|input| input.rows.to_vec()).collect();
            at_hand = left;
            rows.extend(parse(&out));
            match progress {
                Progress::Done => break,
                Progress::Full => assert!(out.len() >= room),
                Progress::Needs(shard) => {
                    assert!(at_hand[shard].is_empty() && given[shard] < shards[shard].len());
                    let end = given[shard].saturating_add(piece).min(shards[shard].len());
                    for row in &shards[shard][given[shard]..end] {
                        encode(row, &mut at_hand[shard]);
                    }
                    given[shard] = end;
                }
            }
        }
        assert_eq!(usize::try_from(merge.rows()).unwrap(), rows.len());
        let unread = shards.iter().zip(&given).map(|(rows, given)| rows.len() - given).sum();
        Ok((rows, unread))
    }
}

fn encode(fields: &Fields, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(b"D\0\0\0\0");
    out.extend_from_slice(&u16::try_from(fields.len()).unwrap().to_be_bytes());
    for field in fields {
        match field {
            None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
            Some(bytes) => {
                out.extend_from_slice(&i32::try_from(bytes.len()).unwrap().to_be_bytes());
                out.extend_from_slice(bytes);
            }
        }
    }
    let length = u32::try_from(out.len() - start - 1).unwrap();
    out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
}

fn parse(mut bytes: &[u8]) -> Vec<Fields> {
    let mut rows = Vec::new();
    while let Some((head, _)) = bytes.split_first_chunk::<7>() {
        assert_eq!(head[0], b'D');
        let length = u32::from_be_bytes(head[1..5].try_into().unwrap()) as usize;
        let mut fields = Vec::new();
        let mut at = 7;
        for _ in 0..u16::from_be_bytes([head[5], head[6]]) {
            let size = i32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
            at += 4;
            fields.push((size >= 0).then(|| bytes[at..at + usize::try_from(size).unwrap()].to_vec()));
            at += usize::try_from(size).unwrap_or(0);
        }
        assert_eq!(at, length + 1);
        rows.push(fields);
        bytes = &bytes[at..];
    }
    assert!(bytes.is_empty());
    rows
}

fn text(value: &str) -> Option<Vec<u8>> {
    Some(value.as_bytes().to_vec())
}

fn int8(value: i64) -> Option<Vec<u8>> {
    Some(value.to_be_bytes().to_vec())
}

fn numeric(value: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    Numeric::parse(value.as_bytes()).unwrap().write_binary(&mut bytes);
    Some(bytes)
}

fn route() -> Box<Node> {
    Box::new(Node::Route)
}

fn helper(number: u16) -> ColumnRef {
    ColumnRef::Helper(number)
}

fn by(value: SortValue, descending: bool, nulls_first: bool) -> SortKey {
    SortKey { value, descending, nulls_first, collation: Collation::Bytes, name: "x".to_owned() }
}

fn merge_sort(keys: Vec<SortKey>) -> Node {
    Node::MergeSort { keys, input: route() }
}

fn limit(count: u64, offset: u64, input: Node) -> Node {
    Node::Limit {
        count: Some(Count::Rows(count)),
        offset: Some(Count::Rows(offset)),
        ties: Vec::new(),
        input: Box::new(input),
    }
}

fn aggregate(function: AggregateFunction, output: u16) -> Aggregate {
    Aggregate { function, output: Some(output), name: "f(x)".to_owned() }
}

/// A group key whose bytes tell whether values are equal.
fn plain(column: ColumnRef) -> GroupKey {
    GroupKey { column, collation: Collation::Bytes }
}

fn group(keys: Vec<ColumnRef>, aggregates: Vec<Aggregate>, sorted: bool, input: Node) -> Node {
    let keys = keys.into_iter().map(plain).collect();
    Node::Aggregate { keys, aggregates, sorted, input: Box::new(input) }
}

fn shown(rows: &[Fields]) -> Vec<Vec<String>> {
    let field = |field: &Option<Vec<u8>>| match field {
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        None => "NULL".to_owned(),
    };
    rows.iter().map(|row| row.iter().map(field).collect()).collect()
}

/// A row that shows an integer and carries it as a binary helper.
fn int_row(value: Option<i64>) -> Fields {
    vec![value.and_then(|value| text(&value.to_string())), value.and_then(int8)]
}

fn position(value: &Option<i64>, descending: bool, nulls_first: bool) -> (u8, i128) {
    match value {
        None => (if nulls_first { 0 } else { 2 }, 0),
        Some(value) if descending => (1, -i128::from(*value)),
        Some(value) => (1, i128::from(*value)),
    }
}

fn spread<T: Clone>(values: &[T], places: &[usize], shards: usize) -> Vec<Vec<T>> {
    let mut out = vec![Vec::new(); shards];
    for (at, value) in values.iter().enumerate() {
        out[places[at % places.len()] % shards].push(value.clone());
    }
    out
}

proptest! {
    #[test]
    fn merging_any_split_of_rows_sorts_all_rows(
        values in prop::collection::vec(prop::option::weighted(0.9, -50_i64..50), 0..60),
        places in prop::collection::vec(0_usize..7, 1..60),
        shards in 1_usize..7,
        piece in 1_usize..5,
        room in 1_usize..200,
        descending: bool,
        nulls_first: bool,
        window in prop::option::of((0_u64..20, 0_u64..10)),
        long: bool,
    ) {
        let mut expected = values.clone();
        expected.sort_by_key(|value| position(value, descending, nulls_first));
        let mut split = spread(&values, &places, shards);
        for shard in &mut split {
            shard.sort_by_key(|value| position(value, descending, nulls_first));
        }
        let rows: Vec<Vec<Fields>> = split.iter().map(|shard| shard.iter().map(|value| int_row(*value)).collect()).collect();
        let mut keys = vec![by(SortValue::Column(helper(0)), descending, nulls_first)];
        if long {
            keys.push(keys[0].clone());
        }
        let mut tree = merge_sort(keys);
        if let Some((count, offset)) = window {
            tree = limit(count, offset, tree);
            expected = expected.into_iter().skip(offset as usize).take(count as usize).collect();
        }
        let case = Case::new(Node::Project { input: Box::new(tree) }, &[oid::INT8], &[oid::INT8]);
        let (merged, _) = case.run_in_pieces(&rows, piece, room).unwrap();
        let expected: Vec<Fields> = expected.iter().map(|value| int_row(*value)[..1].to_vec()).collect();
        prop_assert_eq!(merged, expected);
    }

    #[test]
    fn sorting_and_distinct_of_any_split(
        values in prop::collection::vec(("[ab\0\\x{ff}]{0,3}", -3_i64..3), 0..40),
        places in prop::collection::vec(0_usize..4, 1..40),
        piece in 1_usize..5,
        sorted: bool,
        descending: bool,
    ) {
        let mut split = spread(&values, &places, 4);
        let order = |a: &(String, i64), b: &(String, i64)| {
            let order = a.0.as_bytes().cmp(b.0.as_bytes());
            if descending { order.reverse() } else { order }.then(a.1.cmp(&b.1))
        };
        if sorted {
            split.iter_mut().for_each(|shard| shard.sort_by(order));
        }
        let rows: Vec<Vec<Fields>> = split.iter()
            .map(|shard| shard.iter().map(|(name, n)| vec![text(name), text(name), int8(*n)]).collect()).collect();
        let keys = vec![by(SortValue::Column(helper(0)), descending, false), by(SortValue::Column(helper(1)), false, false)];
        let refs = vec![plain(helper(0)), plain(helper(1))];
        let input = if sorted { merge_sort(keys.clone()) } else { Node::Append { input: route() } };
        let distinct = Node::Distinct { keys: refs, sorted, input: Box::new(input) };
        let tree = if sorted { distinct } else { Node::Sort { keys, input: Box::new(distinct) } };
        let case = Case::new(tree, &[oid::TEXT], &[oid::TEXT, oid::INT8]);
        let (merged, _) = case.run_in_pieces(&rows, piece, usize::MAX).unwrap();
        let unique: BTreeSet<_> = values.iter().cloned().collect();
        let mut expected: Vec<_> = unique.into_iter().collect();
        expected.sort_by(order);
        let expected: Vec<Fields> = expected.iter().map(|(name, _)| vec![text(name)]).collect();
        prop_assert_eq!(merged, expected);
    }

    #[test]
    fn aggregates_of_any_split_are_those_of_all_rows(
        values in prop::collection::vec((prop::option::weighted(0.8, -2_i64..3), prop::option::weighted(0.8, -1000_i64..1000)), 0..60),
        places in prop::collection::vec(0_usize..4, 1..60),
        piece in 1_usize..5,
        sorted: bool,
    ) {
        // What a shard answers: one row for each of its groups.
        let model = |rows: &[(Option<i64>, Option<i64>)]| {
            let mut groups: BTreeMap<Option<i64>, Vec<Option<i64>>> = BTreeMap::new();
            for (group, value) in rows {
                groups.entry(*group).or_default().push(*value);
            }
            groups
        };
        let partial = |(key, values): (Option<i64>, Vec<Option<i64>>)| -> Fields {
            let present: Vec<i64> = values.iter().flatten().copied().collect();
            let sum = (!present.is_empty()).then(|| present.iter().sum::<i64>());
            vec![
                key.and_then(|key| text(&key.to_string())),
                text("?"), text("?"), text("?"),
                present.iter().min().and_then(|value| text(&value.to_string())),
                present.iter().max().and_then(|value| text(&value.to_string())),
                key.and_then(int8),
                int8(i64::try_from(values.len()).unwrap()),
                sum.and_then(int8),
                sum.and_then(|sum| numeric(&sum.to_string())),
                int8(i64::try_from(present.len()).unwrap()),
                present.iter().min().copied().and_then(int8),
                present.iter().max().copied().and_then(int8),
            ]
        };
        let shards: Vec<Vec<Fields>> = spread(&values, &places, 4).iter()
            .map(|rows| {
                // NULLs last, as the shard's ORDER BY has it.
                let mut groups: Vec<_> = model(rows).into_iter().collect();
                groups.sort_by_key(|(key, _)| key.is_none());
                groups.into_iter().map(partial).collect()
            })
            .collect();
        let (min, max) = (helper(5), helper(6));
        let aggregates = vec![
            aggregate(AggregateFunction::Count { count: helper(1) }, 1),
            aggregate(AggregateFunction::Sum { sum: helper(2) }, 2),
            aggregate(AggregateFunction::Avg { sum: helper(3), count: helper(4) }, 3),
            aggregate(AggregateFunction::Min { value: min, collation: Collation::Bytes }, 4),
            aggregate(AggregateFunction::Max { value: max, collation: Collation::Bytes }, 5),
        ];
        let order = vec![by(SortValue::Column(helper(0)), false, false)];
        let input = if sorted { merge_sort(order.clone()) } else { Node::Route };
        let grouped = group(vec![helper(0)], aggregates, sorted, input);
        let tree = if sorted { grouped } else { Node::Sort { keys: order, input: Box::new(grouped) } };
        let case = Case::new(
            tree,
            &[oid::INT8, oid::INT8, oid::INT8, oid::NUMERIC, oid::INT8, oid::INT8],
            &[oid::INT8, oid::INT8, oid::INT8, oid::NUMERIC, oid::INT8, oid::INT8, oid::INT8],
        );
        let (merged, _) = case.run_in_pieces(&shards, piece, usize::MAX).unwrap();
        let mut expected: Vec<_> = model(&values).into_iter().collect();
        expected.sort_by_key(|(key, _)| key.is_none());
        let expected: Vec<Vec<String>> = expected.into_iter().map(|(key, values)| {
            let present: Vec<i64> = values.iter().flatten().copied().collect();
            let show = |value: Option<i64>| value.map_or("NULL".to_owned(), |value| value.to_string());
            let sum = (!present.is_empty()).then(|| present.iter().sum::<i64>());
            let avg = sum.map_or("NULL".to_owned(), |sum| {
                let mut text = Vec::new();
                Numeric::from(i128::from(sum)).divide_by_count(present.len() as u64).write_text(&mut text);
                String::from_utf8(text).unwrap()
            });
            vec![show(key), values.len().to_string(), show(sum), avg,
                show(present.iter().min().copied()), show(present.iter().max().copied())]
        }).collect();
        prop_assert_eq!(shown(&merged), expected);
    }

    #[test]
    fn any_bytes_from_a_server_give_an_error_not_a_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..60),
        whole: bool,
        piece in 0_usize..60,
    ) {
        if whole && bytes.len() >= 7 {
            bytes[0] = b'D';
            let length = u32::try_from(bytes.len() - 1).unwrap();
            bytes[1..5].copy_from_slice(&length.to_be_bytes());
            bytes[5..7].copy_from_slice(&2_u16.to_be_bytes());
        }
        let key = by(SortValue::Column(helper(0)), false, false);
        for tree in [
            merge_sort(vec![key.clone()]),
            merge_sort(vec![key.clone(), key.clone()]),
            Node::Distinct { keys: vec![plain(helper(0))], sorted: false, input: route() },
            group(vec![helper(0)], vec![aggregate(AggregateFunction::Count { count: helper(0) }, 0)], false, Node::Route),
            Node::Sort { keys: vec![key], input: route() },
            Node::Route,
        ] {
            let mut merge = Case::new(tree, &[oid::INT8], &[oid::INT8]).merge(2).unwrap();
            let cut = piece.min(bytes.len());
            let mut inputs = [
                ShardInput { rows: &bytes[..cut], finished: true },
                ShardInput { rows: &bytes[cut..], finished: true },
            ];
            let result = merge.run(&mut inputs, &mut Vec::new(), usize::MAX);
            prop_assert!(matches!(&result, Ok(Progress::Done)) || result.is_err_and(|refusal| refusal.sqlstate == "08P01"));
        }
    }
}

#[test]
fn a_limit_stops_reading() {
    let rows: Vec<Vec<Fields>> = (0..3).map(|shard| (0..100).map(|n| int_row(Some(n * 3 + shard))).collect()).collect();
    let tree = limit(4, 1, merge_sort(vec![by(SortValue::Column(helper(0)), false, false)]));
    let (merged, unread) = Case::new(tree, &[oid::INT8], &[oid::INT8]).run_in_pieces(&rows, 1, usize::MAX).unwrap();
    assert_eq!(shown(&merged), [["1"], ["2"], ["3"], ["4"]]);
    assert!(unread > 290, "{unread} rows were left unread");

    let none = Case::new(limit(0, 0, Node::Route), &[oid::INT8], &[oid::INT8]);
    assert_eq!(none.run_in_pieces(&rows, 1, usize::MAX).unwrap(), (vec![], 300));
}

#[test]
fn the_rows_of_every_step_are_counted() {
    let key = || by(SortValue::Column(helper(0)), false, false);
    let groups = group(vec![helper(0)], vec![], true, merge_sort(vec![key()]));
    let case = Case::new(limit(2, 1, groups), &[oid::INT8], &[oid::INT8]);
    let mut merge = case.merge(2).unwrap();
    let mut streams = vec![Vec::new(); 2];
    for (shard, value) in [(0, 1), (0, 1), (0, 2), (1, 1), (1, 3), (1, 4)] {
        encode(&int_row(Some(value)), &mut streams[shard]);
    }
    let mut inputs: Vec<ShardInput<'_>> = streams.iter().map(|rows| ShardInput { rows, finished: true }).collect();
    assert_eq!(merge.run(&mut inputs, &mut Vec::new(), usize::MAX).unwrap(), Progress::Done);
    // The fourth value shows that the third group is complete.
    assert_eq!(merge.rows_of_steps().collect::<Vec<_>>(), [6, 3, 2]);
}

#[test]
fn limits_from_parameters() {
    let rows = [(0..5).map(|n| int_row(Some(n))).collect::<Vec<_>>()];
    let windowed = || {
        let tree = Node::Limit {
            count: Some(Count::Param(0)),
            offset: Some(Count::Param(1)),
            ties: Vec::new(),
            input: route(),
        };
        Case::new(tree, &[oid::INT8], &[oid::INT8])
    };
    let merged = windowed().param("2", 0).param("1", oid::INT4).run(&rows).unwrap();
    assert_eq!(shown(&merged), [["1"], ["2"]]);
    let merged = windowed().param("1.5", oid::NUMERIC).param("2.5", oid::FLOAT8).run(&rows).unwrap();
    assert_eq!(shown(&merged), [["2"], ["3"]]);
    let mut unlimited = windowed();
    unlimited.params = vec![(None, 0), (None, 0)];
    assert_eq!(unlimited.run(&rows).unwrap().len(), 5);
    for (count, offset, sqlstate, message) in [
        ("-1", "0", "2201W", "LIMIT must not be negative"),
        ("1", "-1", "2201X", "OFFSET must not be negative"),
        ("-1", "-1", "2201X", "OFFSET must not be negative"),
        ("x", "0", "22P02", "invalid input syntax for type bigint: \"x\""),
    ] {
        let refusal = windowed().param(count, 0).param(offset, 0).run(&rows).unwrap_err();
        assert_eq!((refusal.sqlstate, refusal.message.as_ref()), (sqlstate, message));
    }
    let refusal = windowed().param("1", oid::TEXT).param("0", 0).run(&rows).unwrap_err();
    assert_eq!(refusal.sqlstate, "42804");
}

#[test]
fn one_group_even_of_no_rows() {
    let tree = group(
        vec![],
        vec![
            aggregate(AggregateFunction::Count { count: helper(0) }, 0),
            aggregate(AggregateFunction::Sum { sum: helper(0) }, 1),
            aggregate(AggregateFunction::Max { value: helper(0), collation: Collation::Bytes }, 2),
        ],
        false,
        Node::Route,
    );
    let case = Case::new(tree, &[oid::INT8; 4], &[oid::INT8]);
    assert_eq!(shown(&case.run(&[vec![], vec![]]).unwrap()), [["0", "NULL", "NULL", "NULL"]]);
}

fn total(function: AggregateFunction, visible: u32, helpers: &[u32], rows: &[Fields]) -> Result<String, Refusal> {
    let tree = group(vec![], vec![aggregate(function, 0)], false, Node::Route);
    let case = Case::new(tree, &[visible], helpers);
    let shards: Vec<Vec<Fields>> =
        rows.iter().map(|helpers| vec![std::iter::once(text("?")).chain(helpers.iter().cloned()).collect()]).collect();
    case.run(&shards).map(|rows| shown(&rows)[0][0].clone())
}

#[test]
fn sums_of_every_type() {
    let sum = AggregateFunction::Sum { sum: helper(0) };
    let float4 = |value: f32| vec![Some(value.to_be_bytes().to_vec())];
    let float8 = |value: f64| vec![Some(value.to_be_bytes().to_vec())];
    assert_eq!(total(sum, oid::INT8, &[oid::INT8], &[vec![int8(1)], vec![None], vec![int8(2)]]).unwrap(), "3");
    assert_eq!(total(sum, oid::NUMERIC, &[oid::INT8], &[vec![int8(i64::MAX)]]).unwrap(), "9223372036854775807");
    assert_eq!(
        total(sum, oid::NUMERIC, &[oid::NUMERIC], &[vec![numeric("1.10")], vec![numeric("2.205")]]).unwrap(),
        "3.305"
    );
    assert_eq!(
        total(sum, oid::NUMERIC, &[oid::NUMERIC], &[vec![numeric("inf")], vec![numeric("-inf")]]).unwrap(),
        "NaN"
    );
    assert_eq!(total(sum, oid::FLOAT4, &[oid::FLOAT4], &[float4(0.1), float4(0.2)]).unwrap(), "0.3");
    assert_eq!(total(sum, oid::FLOAT8, &[oid::FLOAT8], &[float8(0.1), float8(0.2)]).unwrap(), "0.30000000000000004");
    let overflow = total(sum, oid::INT8, &[oid::INT8], &[vec![int8(i64::MAX)], vec![int8(1)]]).unwrap_err();
    assert_eq!((overflow.sqlstate, overflow.message.as_ref()), ("22003", "bigint out of range"));
    let overflow = total(sum, oid::FLOAT8, &[oid::FLOAT8], &[float8(1e308), float8(1e308)]).unwrap_err();
    assert_eq!((overflow.sqlstate, overflow.message.as_ref()), ("22003", "value out of range: overflow"));
    for type_oid in [oid::INTERVAL, 790] {
        assert_eq!(total(sum, type_oid, &[type_oid], &[vec![None]]).unwrap_err().sqlstate, "0A000");
    }
}

#[test]
fn averages_of_every_type() {
    let avg = AggregateFunction::Avg { sum: helper(0), count: helper(1) };
    let helpers = |sum| [sum, oid::INT8];
    let rows = [vec![int8(10), int8(2)], vec![None, int8(0)], vec![int8(-3), int8(1)]];
    assert_eq!(total(avg, oid::NUMERIC, &helpers(oid::INT8), &rows).unwrap(), "2.3333333333333333");
    let rows = [vec![numeric("0.10"), int8(3)], vec![numeric("7"), int8(4)]];
    assert_eq!(total(avg, oid::NUMERIC, &helpers(oid::NUMERIC), &rows).unwrap(), "1.01428571428571428571");
    let rows = [vec![Some(1.5_f64.to_be_bytes().to_vec()), int8(3)]];
    assert_eq!(total(avg, oid::FLOAT8, &helpers(oid::FLOAT8), &rows).unwrap(), "0.5");
    assert_eq!(total(avg, oid::NUMERIC, &helpers(oid::INT8), &[vec![None, int8(0)]]).unwrap(), "NULL");
    // float4 sums have lost digits that avg(float4) keeps.
    assert_eq!(total(avg, oid::FLOAT8, &helpers(oid::FLOAT4), &[]).unwrap_err().sqlstate, "0A000");
}

#[test]
fn spreads_of_exact_numbers() {
    let spread = |measure| AggregateFunction::Spread { measure, count: helper(0), sum: helper(1), squares: helper(2) };
    let helpers = |sum| [oid::INT8, sum, oid::NUMERIC];
    // 1 and 3 on one shard, nothing on another, 4 on the third.
    let rows =
        [vec![int8(2), int8(4), numeric("10")], vec![int8(0), None, None], vec![int8(1), int8(4), numeric("16")]];
    for (measure, expected) in [
        (Measure::VarSamp, "2.3333333333333333"),
        (Measure::VarPop, "1.5555555555555556"),
        (Measure::StddevSamp, "1.5275252316519467"),
        (Measure::StddevPop, "1.2472191289246471"),
    ] {
        assert_eq!(total(spread(measure), oid::NUMERIC, &helpers(oid::INT8), &rows).unwrap(), expected);
        assert_eq!(total(spread(measure), oid::NUMERIC, &helpers(oid::INT8), &rows[1..2]).unwrap(), "NULL");
        // What a shard adds up in double precision depends on the order of its rows.
        let floats = total(spread(measure), oid::FLOAT8, &[oid::INT8, oid::FLOAT8, oid::FLOAT8], &[]);
        assert_eq!(floats.unwrap_err().sqlstate, "0A000");
    }
    let special = [vec![int8(1), numeric("inf"), numeric("inf")], vec![int8(1), numeric("-inf"), numeric("inf")]];
    assert_eq!(total(spread(Measure::VarPop), oid::NUMERIC, &helpers(oid::NUMERIC), &special).unwrap(), "NaN");
    assert_eq!(total(spread(Measure::VarSamp), oid::NUMERIC, &helpers(oid::NUMERIC), &special[..1]).unwrap(), "NULL");
}

#[test]
fn bits_of_every_width() {
    let bits = |operation| AggregateFunction::Bits { operation, bits: helper(0) };
    let int4 = |value: i32| vec![Some(value.to_be_bytes().to_vec())];
    let rows = [int4(-4), vec![None], int4(6)];
    for (operation, expected) in [(BitOperation::And, 4), (BitOperation::Or, -2), (BitOperation::Xor, -6)] {
        assert_eq!(total(bits(operation), oid::INT4, &[oid::INT4], &rows).unwrap(), expected.to_string());
        assert_eq!(total(bits(operation), oid::INT8, &[oid::INT8], &[vec![None]]).unwrap(), "NULL");
        // In binary a result is as wide as its type.
        let tree = group(vec![], vec![aggregate(bits(operation), 0)], false, Node::Route);
        let mut case = Case::new(tree, &[oid::INT2], &[oid::INT2]);
        case.format = Format::Binary;
        let shards = [-4_i16, 6].map(|value| vec![vec![None, Some(value.to_be_bytes().to_vec())]]);
        assert_eq!(case.run(&shards).unwrap(), [vec![Some(i16::try_from(expected).unwrap().to_be_bytes().to_vec())]]);
    }
    const BIT: u32 = 1560;
    assert_eq!(total(bits(BitOperation::Or), BIT, &[BIT], &[]).unwrap_err().sqlstate, "0A000");
}

/// Two groups, each with a row for every value on every shard that has it; the last number says how often it counts.
#[test]
fn different_values_are_counted_once() {
    let row = |group: i64, value: Option<&str>, times: i64| -> Fields {
        vec![text("?"), int8(group), value.and_then(numeric), int8(times)]
    };
    let shards = [
        vec![row(1, Some("1.0"), 2), row(1, Some("7"), 0), row(1, None, 0), row(2, None, 0)],
        vec![row(1, Some("1.00"), 1), row(1, Some("2"), 1), row(3, Some("2"), 9)],
    ];
    let distinct = AggregateFunction::CountDistinct { value: plain(helper(1)), present: helper(2), sorted: false };
    for sorted in [false, true] {
        let key = by(SortValue::Column(helper(0)), false, false);
        let input = if sorted { merge_sort(vec![key.clone()]) } else { Node::Route };
        let grouped = group(vec![helper(0)], vec![aggregate(distinct, 0)], sorted, input);
        let tree = if sorted { grouped } else { Node::Sort { keys: vec![key], input: Box::new(grouped) } };
        let mut case =
            Case::new(Node::Project { input: Box::new(tree) }, &[oid::INT8], &[oid::INT8, oid::NUMERIC, oid::INT8]);
        assert_eq!(shown(&case.run(&shards).unwrap()), [["2"], ["0"], ["1"]]);
        // The values of a group are kept, whether or not other groups are.
        case.memory = 150;
        assert_eq!(case.run(&shards).unwrap_err().sqlstate, "53200");
    }
    let total = |type_oid, rows: &[Fields]| {
        let distinct = AggregateFunction::CountDistinct { value: plain(helper(0)), present: helper(1), sorted: false };
        total(distinct, oid::INT8, &[type_oid, oid::INT8], rows)
    };
    assert_eq!(total(oid::INT8, &[]).unwrap(), "0");
    // Equal values of json have many forms.
    assert_eq!(total(3802, &[]).unwrap_err().sqlstate, "0A000");
}

#[test]
fn neighbours_are_counted_without_memory() {
    let row = |value: i64| -> Fields { vec![text("?"), int8(value), int8(i64::from(value != 7))] };
    let shards: [Vec<Fields>; 2] = [(0..200).map(row).collect(), (100..300).map(row).collect()];
    let distinct = AggregateFunction::CountDistinct { value: plain(helper(0)), present: helper(1), sorted: true };
    let order = merge_sort(vec![by(SortValue::Column(helper(0)), false, false)]);
    let tree = group(vec![], vec![aggregate(distinct, 0)], false, order);
    let mut case = Case::new(tree, &[oid::INT8], &[oid::INT8, oid::INT8]);
    case.memory = 100;
    assert_eq!(shown(&case.run(&shards).unwrap()), [["299"]]);
}

#[test]
fn groups_give_the_memory_of_their_values_back() {
    let rows: Vec<Fields> = (0..200).map(|n| vec![text("?"), int8(n / 2), int8(n), int8(1)]).collect();
    let distinct = AggregateFunction::CountDistinct { value: plain(helper(1)), present: helper(2), sorted: false };
    let order = merge_sort(vec![by(SortValue::Column(helper(0)), false, false)]);
    let mut case = Case::new(
        group(vec![helper(0)], vec![aggregate(distinct, 0)], true, order),
        &[oid::INT8],
        &[oid::INT8, oid::INT8, oid::INT8],
    );
    case.memory = 1000;
    assert_eq!(case.run(&[rows]).unwrap().len(), 100);
}

#[test]
fn ties_follow_the_last_row() {
    let rows: Vec<Vec<Fields>> = [vec![Some(1), Some(2), Some(2), None], vec![Some(2), Some(3), None]]
        .map(|shard| shard.into_iter().map(int_row).collect())
        .into();
    let shards = |count, offset, rows: &[Vec<Fields>], buffered: bool| {
        let keys = vec![by(SortValue::Column(helper(0)), false, false)];
        let input = match buffered {
            true => Node::Sort { keys: keys.clone(), input: route() },
            false => merge_sort(keys.clone()),
        };
        let (count, offset) = (Some(Count::Rows(count)), Some(Count::Rows(offset)));
        let tree = Node::Limit { count, offset, ties: keys, input: Box::new(input) };
        let case = Case::new(Node::Project { input: Box::new(tree) }, &[oid::INT8], &[oid::INT8]);
        shown(&case.run(rows).unwrap()).concat()
    };
    for buffered in [false, true] {
        assert_eq!(shards(1, 0, &rows, buffered), ["1"]);
        assert_eq!(shards(2, 0, &rows, buffered), ["1", "2", "2", "2"]);
        assert_eq!(shards(1, 2, &rows, buffered), ["2", "2"]);
        assert_eq!(shards(4, 0, &rows, buffered), ["1", "2", "2", "2"]);
        assert_eq!(shards(6, 0, &rows, buffered), ["1", "2", "2", "2", "3", "NULL", "NULL"]);
        assert_eq!(shards(1, 5, &rows, buffered), ["NULL", "NULL"]);
        assert_eq!(shards(0, 0, &rows, buffered), [""; 0]);
        assert_eq!(shards(9, 0, &rows, buffered).len(), 7);
    }
    // After the last of them nothing more is read.
    let keys = vec![by(SortValue::Column(helper(0)), false, false)];
    let tree = Node::Limit {
        count: Some(Count::Rows(1)),
        offset: None,
        ties: keys.clone(),
        input: Box::new(merge_sort(keys)),
    };
    let case = Case::new(tree, &[oid::INT8], &[oid::INT8]);
    let many: Vec<Vec<Fields>> = vec![(0..100).map(|n| int_row(Some(n / 3))).collect()];
    let (rows, unread) = case.run_in_pieces(&many, 1, usize::MAX).unwrap();
    assert_eq!((rows.len(), unread), (3, 96));
}

#[test]
fn results_in_binary() {
    let aggregates = vec![
        aggregate(AggregateFunction::Count { count: helper(0) }, 0),
        aggregate(AggregateFunction::Avg { sum: helper(0), count: helper(0) }, 1),
    ];
    let mut case = Case::new(group(vec![], aggregates, false, Node::Route), &[oid::INT8, oid::INT8], &[oid::INT8])
        .client(&[oid::INT8, oid::NUMERIC]);
    case.format = Format::Binary;
    let rows = case.run(&[vec![vec![None, None, int8(2)]], vec![vec![None, None, int8(1)]]]).unwrap();
    assert_eq!(rows, [vec![int8(3), numeric("1.00000000000000000000")]]);
}

/// Four groups with the counts 1, 2, 3 and 10 and sums that are 1.50 times that; the last sum is NULL.
fn having(condition: Condition, params: &[(&str, u32)]) -> Result<Vec<String>, Refusal> {
    let aggregates = vec![
        aggregate(AggregateFunction::Count { count: helper(1) }, 1),
        Aggregate { function: AggregateFunction::Sum { sum: helper(2) }, output: None, name: "sum(x)".to_owned() },
        Aggregate {
            function: AggregateFunction::Max { value: helper(3), collation: Collation::Bytes },
            output: None,
            name: "max(x)".to_owned(),
        },
    ];
    let grouped = Node::Having { condition, input: Box::new(group(vec![helper(0)], aggregates, false, Node::Route)) };
    let key = by(SortValue::Aggregate(0), true, true);
    let tree = limit(9, 0, Node::Sort { keys: vec![key], input: Box::new(grouped) });
    let mut case = Case::new(
        Node::Project { input: Box::new(tree) },
        &[oid::TEXT, oid::INT8],
        &[oid::TEXT, oid::INT8, oid::NUMERIC, oid::FLOAT8],
    );
    for (value, type_oid) in params {
        case = case.param(value, *type_oid);
    }
    let row = |name: &str, count: i64, sum: Option<&str>| -> Fields {
        let max = Some((count as f64).to_be_bytes().to_vec());
        vec![text(name), text("?"), text(name), int8(count), sum.and_then(numeric), max]
    };
    let rows = case.run(&[
        vec![row("a", 1, Some("1.50")), row("b", 1, Some("1.50")), row("d", 4, None)],
        vec![row("b", 1, Some("1.50")), row("c", 3, Some("4.5")), row("d", 6, None)],
    ])?;
    Ok(shown(&rows).into_iter().map(|row| row.join("=")).collect())
}

fn compare(aggregate: u16, operator: Comparison, right: Operand) -> Condition {
    Condition::Compare { left: Operand::Aggregate(aggregate), operator, right }
}

#[test]
fn having_in_three_valued_logic() {
    let number = |text: &str| Operand::Number(text.to_owned());
    let more_than_one = compare(0, Comparison::Greater, number("1"));
    let sum_is = |text: &str| compare(1, Comparison::Equal, number(text));
    assert_eq!(having(more_than_one.clone(), &[]).unwrap(), ["d=10", "c=3", "b=2"]);
    assert_eq!(having(sum_is("4.500"), &[]).unwrap(), ["c=3"]);
    // The sum of d is NULL: neither a comparison nor its opposite is true.
    assert_eq!(having(Condition::Not(Box::new(sum_is("3"))), &[]).unwrap(), ["c=3", "a=1"]);
    assert_eq!(having(Condition::Or(vec![sum_is("3"), more_than_one.clone()]), &[]).unwrap(), ["d=10", "c=3", "b=2"]);
    assert_eq!(having(Condition::And(vec![sum_is("3"), more_than_one]), &[]).unwrap(), ["b=2"]);
    let is_null = Condition::IsNull { operand: Operand::Aggregate(1), negated: false };
    assert_eq!(having(is_null, &[]).unwrap(), ["d=10"]);
    assert_eq!(having(compare(2, Comparison::LessEqual, number("3.0")), &[]).unwrap(), ["c=3", "b=2", "a=1"]);
    assert_eq!(having(compare(0, Comparison::NotEqual, number("2e0")), &[]).unwrap(), ["d=10", "c=3", "a=1"]);
}

#[test]
fn having_with_parameters() {
    let condition = compare(0, Comparison::GreaterEqual, Operand::Param(0));
    assert_eq!(having(condition.clone(), &[("3", 0)]).unwrap(), ["d=10", "c=3"]);
    assert_eq!(having(condition.clone(), &[("2.5", oid::NUMERIC)]).unwrap(), ["d=10", "c=3"]);
    assert_eq!(having(condition.clone(), &[("2.5", 0)]).unwrap_err().sqlstate, "22P02");
    assert_eq!(having(condition.clone(), &[("2", oid::TEXT)]).unwrap_err().sqlstate, "0A000");
    assert_eq!(having(condition, &[]).unwrap_err().sqlstate, "08P01");
}

#[test]
fn memory_is_bounded() {
    let rows: Vec<Vec<Fields>> = vec![(0..200).map(|n| int_row(Some(n))).collect()];
    let key = || vec![by(SortValue::Column(helper(0)), true, true)];
    let sort = || Node::Sort { keys: key(), input: route() };
    for tree in [
        sort(),
        Node::Distinct { keys: vec![plain(helper(0))], sorted: false, input: route() },
        group(vec![helper(0)], vec![], false, Node::Route),
    ] {
        let mut case = Case::new(tree, &[oid::INT8], &[oid::INT8]);
        assert_eq!(case.run(&rows).unwrap().len(), 200);
        case.memory = 10_000;
        let refusal = case.run(&rows).unwrap_err();
        assert_eq!(refusal.sqlstate, "53200");
        assert!(refusal.hint.unwrap().contains("merge_buffer_max"));
    }
    // Sorted groups need no memory, however many there are.
    let max = AggregateFunction::Max { value: helper(0), collation: Collation::Bytes };
    let mut sorted =
        Case::new(group(vec![helper(0)], vec![aggregate(max, 0)], true, merge_sort(key())), &[oid::INT8], &[oid::INT8]);
    sorted.memory = 100;
    let descending: Vec<Vec<Fields>> = vec![rows[0].iter().rev().cloned().collect()];
    assert_eq!(sorted.run(&descending).unwrap().len(), 200);
    // The best three of many rows need little.
    let mut best = Case::new(limit(3, 0, sort()), &[oid::INT8], &[oid::INT8]);
    best.memory = 12_000;
    assert_eq!(shown(&best.run(&rows).unwrap()), [["199"], ["198"], ["197"]]);
}

#[test]
fn types_without_a_known_order_are_refused() {
    let order = |type_oid, collation| {
        let key = SortKey { collation, ..by(SortValue::Column(helper(0)), false, false) };
        Case::new(merge_sort(vec![key]), &[type_oid], &[type_oid]).merge(2).map(drop)
    };
    for type_oid in [3802, 1007, 16_400] {
        let refusal = order(type_oid, Collation::Bytes).unwrap_err();
        assert_eq!(refusal.sqlstate, "0A000");
    }
    assert!(order(3802, Collation::Bytes).unwrap_err().message.contains("jsonb"));
    assert!(order(oid::TEXT, Collation::Bytes).is_ok());
    assert!(order(oid::INT8, Collation::Language).is_ok());
    for collation in [Collation::Language, Collation::Nondeterministic] {
        let refusal = order(oid::TEXT, collation).unwrap_err();
        assert!(refusal.hint.unwrap().contains("ORDER BY x COLLATE \"C\""));
    }
}

#[test]
fn a_limit_below_a_sort_leaves_the_sort_its_rows() {
    let inner = limit(3, 0, Node::Append { input: route() });
    let tree = Node::Sort { keys: vec![by(SortValue::Column(helper(0)), true, true)], input: Box::new(inner) };
    let rows = [(0..9).map(|n| int_row(Some(n))).collect::<Vec<_>>()];
    let merged = Case::new(tree, &[oid::INT8], &[oid::INT8]).run(&rows).unwrap();
    assert_eq!(shown(&merged), [["2"], ["1"], ["0"]]);
}

/// Only the shards tell that a value is text; of which collation it is may be unknown until then.
#[test]
fn text_of_an_unknown_collation_is_neither_grouped_nor_told_apart() {
    let keys = vec![GroupKey { column: helper(0), collation: Collation::Nondeterministic }];
    let append = || Box::new(Node::Append { input: route() });
    let distinct = Node::Distinct { keys: keys.clone(), sorted: false, input: append() };
    let grouped = Node::Aggregate { keys, aggregates: Vec::new(), sorted: false, input: append() };
    for tree in [distinct, grouped] {
        for (type_oid, refused) in [(oid::TEXT, true), (oid::BPCHAR, true), (oid::INT8, false), (oid::BYTEA, false)] {
            let case = Case::new(tree.clone(), &[type_oid], &[type_oid]);
            let sqlstate = case.merge(2).err().map(|refusal| refusal.sqlstate);
            assert_eq!(sqlstate, refused.then_some("0A000"), "{type_oid}");
        }
    }
}
