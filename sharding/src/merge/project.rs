//! Only the visible columns leave.

use crate::merge::row;
use crate::refusal::Refusal;

/// Where finished rows go.
#[derive(Debug)]
pub(super) struct Project<'o> {
    pub(super) out: &'o mut Vec<u8>,
    pub(super) visible: usize,
    pub(super) fields: usize,
    pub(super) rows: &'o mut u64,
}

impl Project<'_> {
    #[inline]
    pub(super) fn write(&mut self, message: &[u8]) -> Result<(), Refusal> {
        if self.visible == self.fields {
            self.out.extend_from_slice(message);
        } else {
            row::write_first_fields(message, self.visible, self.out)?;
        }
        *self.rows += 1;
        Ok(())
    }
}
