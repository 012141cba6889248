//! GROUP BY: equal keys are brought together and their aggregates combined.
//!
//! Sorted input needs one group in memory; other input needs all of them, within the merge's bound.

use std::collections::HashMap;
use std::ops::Range;

use crate::merge::accumulator::{Accumulator, Combine};
use crate::merge::memory::{ENTRY_BYTES, Memory};
use crate::merge::number::Datum;
use crate::merge::order_key::KeyColumn;
use crate::merge::row::{self, Row};
use crate::refusal::Refusal;

/// The groups of one aggregation.
#[derive(Debug)]
pub(super) struct Aggregate {
    keys: Vec<KeyColumn>,
    combines: Vec<Combine>,
    groups: Groups,
    show: Show,
    // What follows is kept between rows only for its memory.
    split: Vec<Option<Range<usize>>>,
    key: Vec<u8>,
    scratch: Vec<u8>,
}

/// The row of a group as it is given out.
#[derive(Debug)]
struct Show {
    fields: usize,
    split: Vec<Option<Range<usize>>>,
    results: Vec<Datum>,
    message: Vec<u8>,
}

#[derive(Debug)]
enum Groups {
    /// Neighbours: the group that is not yet complete.
    Sorted {
        key: Vec<u8>,
        current: Option<Group>,
        complete: Option<Group>,
    },
    Hashed(Table),
}

#[derive(Debug, Default)]
struct Group {
    /// The first row, which shows the keys; empty for a group without rows.
    message: Vec<u8>,
    accumulators: Vec<Accumulator>,
    /// What the accumulators have taken of the memory.
    kept_bytes: usize,
}

/// All groups in order of appearance.
#[derive(Debug, Default)]
struct Table {
    by_key: HashMap<Box<[u8]>, usize>,
    /// The first rows of the groups, one after another, and where each ends.
    messages: Vec<u8>,
    ends: Vec<usize>,
    /// As many for every group as there are aggregates.
    accumulators: Vec<Accumulator>,
    /// How many groups have been given out.
    given: usize,
}

impl Aggregate {
    pub(super) fn new(keys: Vec<KeyColumn>, combines: Vec<Combine>, sorted: bool, fields: usize) -> Self {
        let groups = if sorted && !keys.is_empty() {
            Groups::Sorted { key: Vec::new(), current: None, complete: None }
        } else {
            let mut table = Table::default();
            if keys.is_empty() {
                // Without GROUP BY there is one group, even of no rows.
                table.by_key.insert(Box::default(), 0);
                table.ends.push(0);
                table.accumulators.extend(combines.iter().map(Combine::start));
            }
            Groups::Hashed(table)
        };
        let show = Show { fields, split: Vec::new(), results: Vec::new(), message: Vec::new() };
        Self { keys, combines, groups, show, split: Vec::new(), key: Vec::new(), scratch: Vec::new() }
    }

    /// Takes a row; true when a group has become complete, which [`Aggregate::give`] then shows.
    pub(super) fn take(&mut self, row: Row<'_>, memory: &mut Memory) -> Result<bool, Refusal> {
        row::split(row.message, &mut self.split, self.show.fields)?;
        self.key.clear();
        for key in &self.keys {
            key.write(row.message, &self.split, &mut self.key)?;
        }
        let mut kept_bytes = None;
        let (states, completed) = match &mut self.groups {
            Groups::Sorted { key, current, complete } => {
                let completed = current.is_some() && *key != self.key;
                if completed {
                    std::mem::swap(current, complete);
                }
                if completed || current.is_none() {
                    std::mem::swap(key, &mut self.key);
                    // The memory of the group before the last one serves again.
                    let group = current.get_or_insert_default();
                    memory.give_back(group.kept_bytes);
                    group.begin(row.message, &self.combines);
                }
                let states = current.as_mut().map(|group| {
                    kept_bytes = Some(&mut group.kept_bytes);
                    group.accumulators.as_mut_slice()
                });
                (states.unwrap_or_default(), completed)
            }
            Groups::Hashed(table) => {
                let number = match table.by_key.get(self.key.as_slice()) {
                    Some(number) => *number,
                    None => table.begin(&self.key, row.message, &self.combines, memory)?,
                };
                if table.messages.is_empty() {
                    // The one group without keys has its first row.
                    table.messages.extend_from_slice(row.message);
                    table.ends[0] = row.message.len();
                }
                let start = number * self.combines.len();
                (&mut table.accumulators[start..start + self.combines.len()], false)
            }
        };
        for (combine, state) in self.combines.iter().zip(states) {
            let grown = combine.add(state, row.message, &self.split, &mut self.scratch)?;
            memory.take(grown)?;
            if let Some(kept) = &mut kept_bytes {
                **kept += grown;
            }
        }
        Ok(completed)
    }

    /// The row of the group that has just become complete.
    pub(super) fn give(&mut self) -> Result<Row<'_>, Refusal> {
        let Groups::Sorted { complete: Some(group), .. } = &self.groups else { return Err(row::malformed()) };
        self.show.write(&self.combines, &group.message, &group.accumulators)
    }

    /// After the last row: the next group that is left.
    pub(super) fn drain(&mut self) -> Result<Option<Row<'_>>, Refusal> {
        let (message, states) = match &mut self.groups {
            Groups::Sorted { current, complete, .. } => {
                *complete = current.take();
                let Some(group) = complete else { return Ok(None) };
                (group.message.as_slice(), group.accumulators.as_slice())
            }
            Groups::Hashed(table) => {
                let number = table.given;
                let Some(end) = table.ends.get(number) else { return Ok(None) };
                let start = number.checked_sub(1).map_or(0, |before| table.ends[before]);
                let width = self.combines.len();
                table.given += 1;
                (&table.messages[start..*end], &table.accumulators[number * width..(number + 1) * width])
            }
        };
        self.show.write(&self.combines, message, states).map(Some)
    }
}

impl Group {
    fn begin(&mut self, message: &[u8], combines: &[Combine]) {
        self.message.clear();
        self.message.extend_from_slice(message);
        self.kept_bytes = 0;
        self.accumulators.clear();
        self.accumulators.extend(combines.iter().map(Combine::start));
    }
}

impl Table {
    /// A new group; returns its number.
    fn begin(
        &mut self,
        key: &[u8],
        message: &[u8],
        combines: &[Combine],
        memory: &mut Memory,
    ) -> Result<usize, Refusal> {
        memory.take(ENTRY_BYTES + size_of_val(combines) + key.len() + message.len())?;
        let number = self.ends.len();
        self.messages.extend_from_slice(message);
        self.ends.push(self.messages.len());
        self.accumulators.extend(combines.iter().map(Combine::start));
        self.by_key.insert(key.into(), number);
        Ok(number)
    }
}

impl Show {
    /// Rebuilds the row of a group: `first` with the results in their columns.
    fn write(&mut self, combines: &[Combine], first: &[u8], states: &[Accumulator]) -> Result<Row<'_>, Refusal> {
        self.results.clear();
        for (combine, state) in combines.iter().zip(states) {
            self.results.push(combine.result(state)?);
        }
        self.split.clear();
        if first.is_empty() {
            self.split.resize(self.fields, None);
        } else {
            row::split(first, &mut self.split, self.fields)?;
        }
        self.message.clear();
        let start = row::begin(&mut self.message, self.fields);
        for (index, field) in self.split.iter().enumerate() {
            let shown = |combine: &Combine| combine.output.is_some_and(|(output, _)| output == index);
            let number = combines.iter().position(shown);
            match number.and_then(|number| Some((number, combines[number].output?.1))) {
                Some((number, format)) => {
                    combines[number].write(&states[number], &self.results[number], format, &mut self.message);
                }
                None => row::write_field(field.clone().map(|range| &first[range]), &mut self.message),
            }
        }
        row::end_message(&mut self.message, start);
        Ok(Row { message: &self.message, results: &self.results })
    }
}
