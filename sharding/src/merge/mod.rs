//! Rows of many shards -> the rows of one answer.
//!
//! Rows come in and leave as whole DataRow messages (`D`, length, number of fields, fields), so a row
//! that passes unchanged is copied once and never decoded.

mod accumulator;
mod aggregate;
mod append;
mod build;
mod distinct;
mod having;
mod limit;
mod memory;
mod merge_sort;
mod number;
mod order_key;
mod pipeline;
mod project;
mod row;
mod sort;

use crate::key::{Format, Input};
use crate::plan::Gather;
use crate::refusal::Refusal;

use build::{Columns, Line};
use memory::Memory;
use merge_sort::Pull;
use pipeline::{Counted, Flow, Source, Stage};
use project::Project;
use row::Row;

/// A column of the rows that the shards send, as a RowDescription tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnType {
    pub type_oid: u32,
    pub typmod: i32,
}

/// Bounds of one merge.
#[derive(Clone, Copy, Debug)]
pub struct MergeLimits {
    /// Rows and groups kept in memory together, in bytes; more is refused with `53200`.
    pub buffered_bytes_max: usize,
}

/// What one shard has sent and the merge has not yet taken.
#[derive(Debug)]
pub struct ShardInput<'a> {
    /// Whole DataRow messages, one after another; what was taken is cut from the front.
    pub rows: &'a [u8],
    /// No more rows will follow these.
    pub finished: bool,
}

/// Why a merge stopped for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Cannot go on before this input has more rows or is finished.
    Needs(usize),
    /// `out` has reached the size asked for.
    Full,
    /// The answer is complete; whatever the shards still send is not needed.
    Done,
}

/// One running merge.
#[derive(Debug)]
pub struct Merge {
    source: Source,
    stages: Vec<Counted>,
    state: State,
    memory: Memory,
    visible: usize,
    fields: usize,
    rows: u64,
    prints_floats: bool,
}

/// How far a merge has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Rows come from the source.
    Reading,
    /// No more rows are read; the stages from this one on give out what they kept. All is done when
    /// no stage is left.
    Draining(usize),
}

impl Merge {
    /// A merge of `shards` inputs as `gather` says.
    ///
    /// `shard_columns` describes the rows of `gather.sql` (visible columns, then helpers);
    /// `visible_formats` the format the client asked for, one for every visible column;
    /// `client_columns` the rows of the original statement, which tell the types of aggregates.
    ///
    /// # Errors
    /// `0A000` when a type's order, equality or arithmetic is not known exactly; `22023` and the like for a bad
    /// LIMIT, as PostgreSQL says it.
    pub fn new(
        gather: &Gather,
        shards: usize,
        shard_columns: &[ColumnType],
        client_columns: &[ColumnType],
        visible_formats: &[Format],
        params: &[Input<'_>],
        limits: MergeLimits,
    ) -> Result<Self, Refusal> {
        let columns = Columns::new(shard_columns, client_columns, visible_formats, gather.helpers)?;
        let mut line = Line::new(columns, params, shards);
        line.add(&gather.tree)?;
        // LIMIT 0 needs no row from below.
        let over = line.stages.iter().rposition(|stage| matches!(stage, Stage::Limit(limit) if limit.is_empty()));
        Ok(Self {
            visible: line.columns.visible,
            fields: line.columns.len(),
            source: line.source,
            stages: line.stages.into_iter().map(Counted::new).collect(),
            state: over.map_or(State::Reading, |stage| State::Draining(stage + 1)),
            memory: Memory::new(limits.buffered_bytes_max),
            rows: 0,
            prints_floats: line.prints_floats,
        })
    }

    /// Takes rows from `inputs` (one per shard, in the same order at every call) and appends
    /// finished DataRow messages to `out` until it holds `room` bytes or more, an input runs dry,
    /// or all is done. A step over very many rows returns `Full` early with an unchanged `out` is
    /// not possible: `Full` means `out.len() >= room`.
    ///
    /// # Errors
    /// What PostgreSQL would say while computing (`22003` bigint out of range), or the memory bound.
    pub fn run(&mut self, inputs: &mut [ShardInput<'_>], out: &mut Vec<u8>, room: usize) -> Result<Progress, Refusal> {
        let mut project = Project { out, visible: self.visible, fields: self.fields, rows: &mut self.rows };
        loop {
            if self.state == State::Draining(self.stages.len()) {
                return Ok(Progress::Done);
            }
            if project.out.len() >= room {
                return Ok(Progress::Full);
            }
            let flow = match self.state {
                State::Reading => match self.source.next(inputs)? {
                    Pull::Row(message) => {
                        pipeline::push(&mut self.stages, Row { message, results: &[] }, &mut self.memory, &mut project)?
                    }
                    Pull::Needs(input) => return Ok(Progress::Needs(input)),
                    Pull::End => {
                        self.state = State::Draining(0);
                        continue;
                    }
                },
                State::Draining(first) => {
                    match pipeline::drain(&mut self.stages[first..], &mut self.memory, &mut project)? {
                        Some(flow) => flow,
                        None => {
                            self.state = State::Draining(first + 1);
                            continue;
                        }
                    }
                }
            };
            if let Flow::Enough(above) = flow {
                self.state = State::Draining(self.stages.len() - above);
            }
        }
    }

    /// Whether floating-point numbers are printed here, as PostgreSQL does by default: with as many
    /// digits as tell the number from all others.
    pub fn prints_floats(&self) -> bool {
        self.prints_floats
    }

    /// How many rows each step has given on: the source, which is MergeSort or Append, then every step that drops
    /// or keeps rows, upwards. The last of them has given out the answer.
    pub fn rows_of_steps(&self) -> impl Iterator<Item = u64> {
        self.stages.iter().map(|stage| stage.rows).chain([self.rows])
    }

    /// How many rows were given out, for the command tag.
    pub fn rows(&self) -> u64 {
        self.rows
    }
}
