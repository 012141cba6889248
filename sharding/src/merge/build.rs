//! The tree of a plan -> a source of rows and the stages above it.
//!
//! Every node reads from one other, so the tree is a line: rows are pulled from the source and pushed
//! through the stages, each of which passes on, drops or keeps them.

use crate::key::{Format, Input};
use crate::merge::ColumnType;
use crate::merge::accumulator::Combine;
use crate::merge::aggregate::Aggregate;
use crate::merge::append::Append;
use crate::merge::distinct::Distinct;
use crate::merge::having::Having;
use crate::merge::limit::Limit;
use crate::merge::merge_sort::MergeSort;
use crate::merge::order_key::{KeyColumn, OrderKey, Source as KeySource};
use crate::merge::pipeline::{Source, Stage};
use crate::merge::sort::Sort;
use crate::plan::{ColumnRef, GroupKey, Node, SortKey, SortValue};
use crate::refusal::Refusal;

/// What the columns of a row are, at one place of the line.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) visible: usize,
    shard_types: Vec<u32>,
    client_types: Vec<u32>,
    formats: Vec<Format>,
    /// The types of the aggregates' results, above an aggregation.
    results: Vec<u32>,
}

/// The line under construction.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) columns: Columns,
    pub(super) params: &'a [Input<'a>],
    pub(super) inputs: usize,
    pub(super) source: Source,
    pub(super) stages: Vec<Stage>,
    pub(super) prints_floats: bool,
}

impl Columns {
    pub(super) fn new(
        shard_columns: &[ColumnType],
        client_columns: &[ColumnType],
        visible_formats: &[Format],
        helpers: u16,
    ) -> Result<Self, Refusal> {
        let visible = shard_columns.len().checked_sub(usize::from(helpers));
        let visible = visible.ok_or_else(|| broken("has fewer columns than helpers"))?;
        let format = |index| visible_formats.get(index).copied().unwrap_or(Format::Text);
        let formats =
            (0..shard_columns.len()).map(|index| if index < visible { format(index) } else { Format::Binary });
        Ok(Self {
            visible,
            shard_types: shard_columns.iter().map(|column| column.type_oid).collect(),
            client_types: client_columns.iter().map(|column| column.type_oid).collect(),
            formats: formats.collect(),
            results: Vec::new(),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.shard_types.len()
    }

    /// The position of a column in the row.
    pub(super) fn resolve(&self, column: ColumnRef) -> Result<usize, Refusal> {
        let (index, end) = match column {
            ColumnRef::Visible(number) => (usize::from(number), self.visible),
            ColumnRef::Helper(number) => (self.visible + usize::from(number), self.len()),
        };
        if index < end { Ok(index) } else { Err(broken("names a column that the shards do not send")) }
    }

    pub(super) fn shard_type(&self, index: usize) -> u32 {
        self.shard_types.get(index).copied().unwrap_or(0)
    }

    pub(super) fn client_type(&self, index: usize) -> u32 {
        self.client_types.get(index).copied().unwrap_or_else(|| self.shard_type(index))
    }

    pub(super) fn format(&self, index: usize) -> Format {
        self.formats.get(index).copied().unwrap_or(Format::Binary)
    }

    fn equality(&self, keys: &[GroupKey]) -> Result<Vec<KeyColumn>, Refusal> {
        let key = |key: &GroupKey| {
            let index = self.resolve(key.column)?;
            KeyColumn::for_equality(index, self.shard_type(index), self.format(index), key.collation)
        };
        keys.iter().map(key).collect()
    }

    fn order(&self, keys: &[SortKey]) -> Result<Vec<OrderKey>, Refusal> {
        let key = |key: &SortKey| {
            let source = match key.value {
                SortValue::Column(column) => {
                    let index = self.resolve(column)?;
                    let (type_oid, format) = (self.shard_type(index), self.format(index));
                    KeySource::Column(KeyColumn::for_order(index, type_oid, format, key.collation, &key.name)?)
                }
                SortValue::Aggregate(number) if usize::from(number) < self.results.len() => {
                    KeySource::Result(usize::from(number))
                }
                SortValue::Aggregate(_) => return Err(broken("names an aggregate that is not there")),
            };
            Ok(OrderKey { source, descending: key.descending, nulls_first: key.nulls_first })
        };
        keys.iter().map(key).collect()
    }
}

impl Line<'_> {
    /// Adds what `node` does, after what it reads from.
    pub(super) fn add(&mut self, node: &Node) -> Result<(), Refusal> {
        match node {
            Node::Route => Ok(()),
            Node::Append { input } | Node::Project { input } => self.add(input),
            Node::MergeSort { keys, input } => self.add_merge_sort(keys, input),
            Node::Aggregate { keys, aggregates, sorted, input } => {
                self.add(input)?;
                let keys = self.columns.equality(keys)?;
                let combines = aggregates.iter().map(|aggregate| Combine::new(aggregate, &self.columns));
                let combines = combines.collect::<Result<Vec<_>, _>>()?;
                self.columns.results = combines.iter().map(|combine| combine.type_oid).collect();
                for (index, _) in combines.iter().filter_map(|combine| combine.output) {
                    self.columns.shard_types[index] = self.columns.client_type(index);
                }
                self.prints_floats |= combines.iter().any(Combine::prints_float);
                let aggregate = Aggregate::new(keys, combines, *sorted, self.columns.len());
                self.stages.push(Stage::Aggregate(Box::new(aggregate)));
                Ok(())
            }
            Node::Having { condition, input } => {
                self.add(input)?;
                self.stages.push(Stage::Having(Having::new(condition, &self.columns.results, self.params)?));
                Ok(())
            }
            Node::Distinct { keys, sorted, input } => {
                self.add(input)?;
                let keys = self.columns.equality(keys)?;
                self.stages.push(Stage::Distinct(Distinct::new(keys, *sorted, self.columns.len())));
                Ok(())
            }
            Node::Sort { keys, input } => {
                self.add(input)?;
                self.stages.push(Stage::Sort(Sort::new(self.columns.order(keys)?)));
                Ok(())
            }
            Node::Limit { count, offset, ties, input } => {
                // The limit first: its errors are PostgreSQL's, those of the types below are ours.
                let limit = Limit::new(*count, *offset, self.params)?;
                self.add(input)?;
                let limit = limit.with_ties(self.columns.order(ties)?);
                if let (Some(Stage::Sort(sort)), Some(reach)) = (self.stages.last_mut(), limit.reach()) {
                    sort.keep(reach);
                }
                self.stages.push(Stage::Limit(limit));
                Ok(())
            }
        }
    }

    fn add_merge_sort(&mut self, keys: &[SortKey], input: &Node) -> Result<(), Refusal> {
        if !matches!(input, Node::Route) {
            return Err(broken("merges sorted streams above another step"));
        }
        let keys = self.columns.order(keys)?;
        self.source = Source::MergeSort(MergeSort::new(keys, self.columns.len(), self.inputs));
        Ok(())
    }

    /// A line that appends the streams and does nothing else.
    pub(super) fn new<'a>(columns: Columns, params: &'a [Input<'a>], inputs: usize) -> Line<'a> {
        let source = Source::Append(Append::new(columns.len()));
        Line { columns, params, inputs, source, stages: Vec::new(), prints_floats: false }
    }
}

/// Our own mistake in a plan, told instead of a panic.
fn broken(what: &str) -> Refusal {
    Refusal::error("XX000", format!("the plan of this statement {what}"))
}
