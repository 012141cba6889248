//! DISTINCT: equal rows become one.

use std::collections::HashSet;
use std::ops::Range;

use crate::merge::memory::{ENTRY_BYTES, Memory};
use crate::merge::order_key::KeyColumn;
use crate::merge::row::{self, Row};
use crate::refusal::Refusal;

/// Lets the first of equal rows through.
#[derive(Debug)]
pub(super) struct Distinct {
    keys: Vec<KeyColumn>,
    fields: usize,
    seen: Seen,
    split: Vec<Option<Range<usize>>>,
    key: Vec<u8>,
}

#[derive(Debug)]
enum Seen {
    /// Equal rows are neighbours.
    Last(Option<Vec<u8>>),
    All(HashSet<Box<[u8]>>),
}

impl Distinct {
    pub(super) fn new(keys: Vec<KeyColumn>, sorted: bool, fields: usize) -> Self {
        let seen = if sorted { Seen::Last(None) } else { Seen::All(HashSet::new()) };
        Self { keys, fields, seen, split: Vec::new(), key: Vec::new() }
    }

    /// Whether this row is the first of its kind.
    pub(super) fn is_new(&mut self, row: Row<'_>, memory: &mut Memory) -> Result<bool, Refusal> {
        row::split(row.message, &mut self.split, self.fields)?;
        self.key.clear();
        for key in &self.keys {
            key.write(row.message, &self.split, &mut self.key)?;
        }
        match &mut self.seen {
            Seen::Last(Some(last)) if *last == self.key => Ok(false),
            Seen::Last(Some(last)) => {
                std::mem::swap(last, &mut self.key);
                Ok(true)
            }
            Seen::Last(last @ None) => {
                *last = Some(std::mem::take(&mut self.key));
                Ok(true)
            }
            Seen::All(seen) if seen.contains(self.key.as_slice()) => Ok(false),
            Seen::All(seen) => {
                memory.take(ENTRY_BYTES + self.key.len())?;
                Ok(seen.insert(self.key.as_slice().into()))
            }
        }
    }
}
