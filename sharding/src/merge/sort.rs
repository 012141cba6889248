//! ORDER BY in memory: rows are kept, then given out sorted.

use crate::merge::memory::{ENTRY_BYTES, Memory};
use crate::merge::number::Datum;
use crate::merge::order_key::OrderKey;
use crate::merge::row::Row;
use crate::refusal::Refusal;

/// Rows to be sorted. Equal rows keep the order they came in.
#[derive(Debug)]
pub(super) struct Sort {
    keys: Vec<OrderKey>,
    /// Only this many rows will be asked for.
    keep: Option<usize>,
    entries: Vec<Entry>,
    sorted: bool,
    given: usize,
    key: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    /// The ordered form of the keys, then the message.
    bytes: Box<[u8]>,
    key_bytes: usize,
    results: Box<[Datum]>,
}

impl Sort {
    pub(super) fn new(keys: Vec<OrderKey>) -> Self {
        Self { keys, keep: None, entries: Vec::new(), sorted: false, given: 0, key: Vec::new() }
    }

    /// Tells that rows after the first `rows` will not be asked for, so they need not be kept.
    pub(super) fn keep(&mut self, rows: u64) {
        self.keep = usize::try_from(rows).ok();
    }

    pub(super) fn take(&mut self, row: Row<'_>, memory: &mut Memory) -> Result<(), Refusal> {
        self.key.clear();
        for key in &self.keys {
            key.write(row, &mut self.key)?;
        }
        let entry = Entry {
            key_bytes: self.key.len(),
            bytes: [self.key.as_slice(), row.message].concat().into(),
            results: row.results.into(),
        };
        memory.take(entry.cost())?;
        self.entries.push(entry);
        // Twice as many as are needed: then the worse half goes, which costs little per row.
        if let Some(keep) = self.keep
            && self.entries.len() >= keep.saturating_mul(2).max(64)
        {
            self.entries.sort_by(|a, b| a.key().cmp(b.key()));
            for dropped in self.entries.drain(keep..) {
                memory.give_back(dropped.cost());
            }
        }
        Ok(())
    }

    /// After the last row: the next one in order.
    pub(super) fn drain(&mut self) -> Option<Row<'_>> {
        if !self.sorted {
            self.entries.sort_by(|a, b| a.key().cmp(b.key()));
            self.sorted = true;
        }
        let entry = self.entries.get(self.given)?;
        self.given += 1;
        Some(Row { message: &entry.bytes[entry.key_bytes..], results: &entry.results })
    }
}

impl Entry {
    fn key(&self) -> &[u8] {
        &self.bytes[..self.key_bytes]
    }

    fn cost(&self) -> usize {
        ENTRY_BYTES + self.bytes.len() + self.results.iter().map(Datum::heap_bytes).sum::<usize>()
    }
}
