//! Rows of many shards -> the rows of one answer.
//!
//! Rows come in and leave as whole DataRow messages (`D`, length, number of fields, fields), so a row
//! that passes unchanged is copied once and never decoded.

use crate::key::{Format, Input};
use crate::plan::Gather;
use crate::refusal::Refusal;

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
    rows: u64,
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
        let _ = (gather, shards, shard_columns, client_columns, visible_formats, params, limits);
        todo!()
    }

    /// Takes rows from `inputs` (one per shard, in the same order at every call) and appends
    /// finished DataRow messages to `out` until it holds `room` bytes or more, an input runs dry,
    /// or all is done. A step over very many rows returns `Full` early with an unchanged `out` is
    /// not possible: `Full` means `out.len() >= room`.
    ///
    /// # Errors
    /// What PostgreSQL would say while computing (`22003` bigint out of range), or the memory bound.
    pub fn run(&mut self, inputs: &mut [ShardInput<'_>], out: &mut Vec<u8>, room: usize) -> Result<Progress, Refusal> {
        let _ = (inputs, out, room);
        todo!()
    }

    /// How many rows were given out, for the command tag.
    pub fn rows(&self) -> u64 {
        self.rows
    }
}
