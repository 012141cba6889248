//! COPY data -> the shard of every row.

use crate::key::KeyType;
use crate::map::{ShardId, ShardMap};
use crate::refusal::Refusal;

/// A COPY ... FROM STDIN that is split by the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyFrom {
    pub target: CopyTarget,
    pub format: CopyFormat,
    /// `schema.table` or `table`, as PostgreSQL names it in the CONTEXT of an error.
    pub table: String,
    /// The name of the key column, empty for a reference table.
    pub key_column: String,
}

/// Where the rows go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyTarget {
    /// By the key in the field with this number, counted from 0.
    Sharded { field: u16, key_type: KeyType },
    /// Every row to every shard.
    Reference,
}

/// The options of a COPY that matter for finding rows and fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    Text { delimiter: u8, null: Vec<u8>, header: bool },
    Csv { delimiter: u8, null: Vec<u8>, quote: u8, escape: u8, header: bool },
    Binary,
}

/// Cuts a stream of COPY data into rows and gives each to its shard.
#[derive(Debug)]
pub struct Splitter {
    lines: u64,
}

impl Splitter {
    /// `row_bytes_max` bounds one row; a longer one is refused with `54000`.
    pub fn new(copy: &CopyFrom, row_bytes_max: usize) -> Self {
        let _ = (copy, row_bytes_max);
        Self { lines: 0 }
    }

    /// Takes the next bytes of the stream, cut anywhere, and appends whole rows to the buffer of
    /// their shard: `out[shard]`. A header line goes to every shard that is used (all), because
    /// each runs the same COPY statement.
    ///
    /// # Errors
    /// PostgreSQL's error for the row, with `CONTEXT`-worthy detail naming the line: a key that does
    /// not parse (`22P02`), a NULL key (`23502`), a missing field (`22P04`).
    pub fn push(&mut self, data: &[u8], map: &ShardMap, out: &mut [Vec<u8>]) -> Result<(), Refusal> {
        let _ = (data, map, out, ShardId(0));
        todo!()
    }

    /// The stream has ended: a last row without a line end is taken too, and binary COPY's trailer
    /// goes to every shard.
    ///
    /// # Errors
    /// As [`Splitter::push`]; also a quote that is still open.
    pub fn finish(&mut self, map: &ShardMap, out: &mut [Vec<u8>]) -> Result<(), Refusal> {
        let _ = (map, out);
        todo!()
    }

    /// Lines taken so far, counted from 1 in PostgreSQL's messages.
    pub fn lines(&self) -> u64 {
        self.lines
    }
}
