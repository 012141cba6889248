//! The streams of the shards one after another.

use crate::merge::merge_sort::Pull;
use crate::merge::{ShardInput, row};
use crate::refusal::Refusal;

/// Takes rows from whichever input has some.
#[derive(Debug)]
pub(super) struct Append {
    fields: usize,
    current: usize,
}

impl Append {
    pub(super) fn new(fields: usize) -> Self {
        Self { fields, current: 0 }
    }

    #[inline]
    pub(super) fn next<'a>(&mut self, inputs: &mut [ShardInput<'a>]) -> Result<Pull<'a>, Refusal> {
        if inputs.get(self.current).is_none_or(|input| input.rows.is_empty()) {
            let filled = inputs.iter().position(|input| !input.rows.is_empty());
            let Some(filled) = filled else {
                let waiting = inputs.iter().position(|input| !input.finished);
                return Ok(waiting.map_or(Pull::End, Pull::Needs));
            };
            self.current = filled;
        }
        let input = &mut inputs[self.current];
        let Some(message) = row::first(input.rows, self.fields)? else { return Ok(Pull::Needs(self.current)) };
        input.rows = &input.rows[message.len()..];
        Ok(Pull::Row(message))
    }
}
