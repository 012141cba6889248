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
    visible: usize,
    fields: usize,
    groups: Groups,
    // What follows is kept between rows only for its memory.
    split: Vec<Option<Range<usize>>>,
    key: Vec<u8>,
    scratch: Vec<u8>,
    results: Vec<Datum>,
    message: Vec<u8>,
}

#[derive(Debug)]
enum Groups {
    /// Neighbours: the group that is not yet complete.
    Sorted { key: Vec<u8>, current: Option<Group>, complete: Option<Group> },
    /// All groups in order of appearance, and how many have been given out.
    Hashed { by_key: HashMap<Box<[u8]>, usize>, groups: Vec<Group>, given: usize },
}

#[derive(Debug)]
struct Group {
    /// The first row, which shows the keys; empty for a group without rows.
    message: Vec<u8>,
    accumulators: Vec<Accumulator>,
}

impl Aggregate {
    pub(super) fn new(
        keys: Vec<KeyColumn>,
        combines: Vec<Combine>,
        sorted: bool,
        visible: usize,
        fields: usize,
    ) -> Self {
        let groups = if sorted && !keys.is_empty() {
            Groups::Sorted { key: Vec::new(), current: None, complete: None }
        } else {
            let mut by_key = HashMap::new();
            let mut groups = Vec::new();
            if keys.is_empty() {
                // Without GROUP BY there is one group, even of no rows.
                let accumulators = combines.iter().map(Combine::start).collect();
                by_key.insert(Box::default(), 0);
                groups.push(Group { message: Vec::new(), accumulators });
            }
            Groups::Hashed { by_key, groups, given: 0 }
        };
        Self {
            keys,
            combines,
            visible,
            fields,
            groups,
            split: Vec::new(),
            key: Vec::new(),
            scratch: Vec::new(),
            results: Vec::new(),
            message: Vec::new(),
        }
    }

    /// Takes a row; true when a group has become complete, which [`Aggregate::give`] then shows.
    pub(super) fn take(&mut self, row: Row<'_>, memory: &mut Memory) -> Result<bool, Refusal> {
        row::split(row.message, &mut self.split, self.fields)?;
        self.key.clear();
        for key in &self.keys {
            key.write(row.message, &self.split, &mut self.key)?;
        }
        let (group, completed) = match &mut self.groups {
            Groups::Sorted { key, current, complete } => {
                let completed = current.is_some() && *key != self.key;
                if completed {
                    std::mem::swap(current, complete);
                }
                if completed || current.is_none() {
                    std::mem::swap(key, &mut self.key);
                    // The memory of the group before the last one serves again.
                    let mut fresh = if completed { current.take() } else { None }.unwrap_or_else(Group::empty);
                    fresh.begin(row.message, &self.combines);
                    *current = Some(fresh);
                }
                (current.as_mut(), completed)
            }
            Groups::Hashed { by_key, groups, .. } => {
                let number = match by_key.get(self.key.as_slice()) {
                    Some(number) => *number,
                    None => {
                        let state_bytes = self.combines.len() * size_of::<Accumulator>();
                        memory.take(ENTRY_BYTES + state_bytes + self.key.len() + row.message.len())?;
                        let mut group = Group::empty();
                        group.begin(row.message, &self.combines);
                        groups.push(group);
                        by_key.insert(self.key.as_slice().into(), groups.len() - 1);
                        groups.len() - 1
                    }
                };
                (groups.get_mut(number), false)
            }
        };
        if let Some(group) = group {
            if group.message.is_empty() {
                group.message.extend_from_slice(row.message);
            }
            for (combine, state) in self.combines.iter().zip(&mut group.accumulators) {
                let grown = combine.add(state, row.message, &self.split, &mut self.scratch)?;
                memory.take(grown)?;
            }
        }
        Ok(completed)
    }

    /// The row of the group that has just become complete.
    pub(super) fn give(&mut self) -> Result<Row<'_>, Refusal> {
        let Groups::Sorted { complete: Some(group), .. } = &self.groups else { return Err(row::malformed()) };
        show(&self.combines, self.visible, self.fields, group, &mut self.split, &mut self.results, &mut self.message)?;
        Ok(Row { message: &self.message, results: &self.results })
    }

    /// After the last row: the next group that is left.
    pub(super) fn drain(&mut self) -> Result<Option<Row<'_>>, Refusal> {
        let group = match &mut self.groups {
            Groups::Sorted { current, complete, .. } => {
                *complete = current.take();
                complete.as_ref()
            }
            Groups::Hashed { groups, given, .. } => {
                *given += 1;
                groups.get(*given - 1)
            }
        };
        let Some(group) = group else { return Ok(None) };
        show(&self.combines, self.visible, self.fields, group, &mut self.split, &mut self.results, &mut self.message)?;
        Ok(Some(Row { message: &self.message, results: &self.results }))
    }
}

impl Group {
    fn empty() -> Self {
        Self { message: Vec::new(), accumulators: Vec::new() }
    }

    fn begin(&mut self, message: &[u8], combines: &[Combine]) {
        self.message.clear();
        self.message.extend_from_slice(message);
        self.accumulators.clear();
        self.accumulators.extend(combines.iter().map(Combine::start));
    }
}

/// Rebuilds the row of a group: the first row with the results in their columns.
fn show(
    combines: &[Combine],
    visible: usize,
    fields: usize,
    group: &Group,
    split: &mut Vec<Option<Range<usize>>>,
    results: &mut Vec<Datum>,
    message: &mut Vec<u8>,
) -> Result<(), Refusal> {
    results.clear();
    for (combine, state) in combines.iter().zip(&group.accumulators) {
        results.push(combine.result(state)?);
    }
    split.clear();
    if group.message.is_empty() {
        split.resize(fields, None);
    } else {
        row::split(&group.message, split, fields)?;
    }
    message.clear();
    let start = row::begin(message, fields);
    for (index, field) in split.iter().enumerate() {
        let shown = |(number, combine): (usize, &Combine)| {
            combine.output.filter(|(output, _)| index < visible && *output == index).map(|(_, format)| (number, format))
        };
        match combines.iter().enumerate().find_map(shown) {
            Some((number, format)) => {
                combines[number].write(&group.accumulators[number], &results[number], format, message);
            }
            None => row::write_field(field.clone().map(|range| &group.message[range]), message),
        }
    }
    row::end_message(message, start);
    Ok(())
}
