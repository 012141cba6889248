//! The bound on what one merge keeps in memory.

use crate::refusal::Refusal;

/// What an entry of a table costs beside its bytes, roughly.
pub(super) const ENTRY_BYTES: usize = 96;

/// Bytes that may still be kept.
#[derive(Debug)]
pub(super) struct Memory {
    left: usize,
    max: usize,
}

impl Memory {
    pub(super) fn new(max: usize) -> Self {
        Self { left: max, max }
    }

    /// # Errors
    /// `53200` when the bound is reached.
    #[inline]
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Refusal> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(self.exhausted()),
        }
    }

    pub(super) fn give_back(&mut self, bytes: usize) {
        self.left = self.left.saturating_add(bytes).min(self.max);
    }

    #[cold]
    fn exhausted(&self) -> Refusal {
        Refusal::error("53200", "out of memory")
            .with_detail(format!("Merging the rows of several shards needs more than {} bytes.", self.max))
            .with_hint("Narrow the statement, or raise merge_buffer_max.")
    }
}
