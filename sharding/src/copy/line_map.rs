//! Which line of the client's data a shard means: each shard counts only the lines that it got.
//!
//! Two numbers of mostly one byte each are kept per row, and only of the rows that the shard may not have read yet: what lies between
//! the router and PostgreSQL is bounded by the sockets' buffers and the thousand rows that PostgreSQL gathers before it stores them.

use std::collections::VecDeque;

/// What is kept of one shard's rows, in bytes; at two bytes a row many times what can be on the way.
const BYTES_MAX: usize = 8 << 20;

const CHUNK_BYTES: usize = 16 << 10;

/// The lines of one shard.
#[derive(Debug, Default)]
pub(super) struct LineMap {
    chunks: VecDeque<Chunk>,
    /// Where the shard's count stands.
    lines: u64,
    /// Where the client's count stood before the last row.
    last: u64,
    /// How many lines fewer than the client the shard counts within its first row: it does not know yet how lines end.
    missed: u64,
}

/// Rows of which the first begins behind these lines of both counts.
#[derive(Debug)]
struct Chunk {
    local: u64,
    global: u64,
    /// For each row: how many lines of the client's after the row before it begins, and how many lines the shard counts for it.
    rows: Vec<u8>,
}

impl LineMap {
    /// A row goes to the shard, which counts `span` lines for it; before it came `global` lines of the client's data.
    pub(super) fn add(&mut self, global: u64, span: u64) {
        if self.chunks.back().is_none_or(|chunk| chunk.rows.len() >= CHUNK_BYTES) {
            if self.chunks.len() >= BYTES_MAX / CHUNK_BYTES {
                self.chunks.pop_front();
            }
            self.chunks.push_back(Chunk { local: self.lines, global, rows: Vec::with_capacity(CHUNK_BYTES + 20) });
            self.last = global;
        }
        if let Some(chunk) = self.chunks.back_mut() {
            put(&mut chunk.rows, global - self.last);
            put(&mut chunk.rows, span);
        }
        self.last = global;
        self.lines += span;
    }

    /// The first row goes to the shard, which counts `span` lines for it in the place of `spanned`.
    pub(super) fn add_first(&mut self, global: u64, span: u64, spanned: u64) {
        self.missed = spanned.saturating_sub(span);
        self.add(global, span);
    }

    /// The shard's count.
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    /// The line of the client's data that the shard counts as `local`, from 1; `None` for a line that it has not been sent, or
    /// so long ago that it cannot be of interest.
    pub(super) fn global(&self, local: u64) -> Option<u64> {
        let chunk = self.chunks.iter().rev().find(|chunk| chunk.local < local)?;
        let (mut begins, mut global) = (chunk.local, chunk.global);
        let mut rest = chunk.rows.as_slice();
        while !rest.is_empty() {
            global += take(&mut rest)?;
            let span = take(&mut rest)?;
            if local <= begins + span {
                // What is wrong with a row PostgreSQL says at its end.
                let missed = if begins == 0 && local == span { self.missed } else { 0 };
                return Some(global + local - begins + missed);
            }
            begins += span;
        }
        None
    }
}

/// Seven bits a byte, the low ones first; the last byte has no high bit.
fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::LineMap;

    proptest! {
        #[test]
        fn every_line_is_found_again(rows in proptest::collection::vec((0_u64..400, 1_u64..300), 1..4000)) {
            let mut map = LineMap::default();
            let (mut global, mut expected) = (0, Vec::new());
            for (others, span) in rows {
                global += others;
                expected.push((map.lines() + 1, global + 1));
                expected.push((map.lines() + span, global + span));
                map.add(global, span);
                global += span;
            }
            let step = expected.len() / 200 + 1;
            for (local, global) in expected.into_iter().step_by(step) {
                prop_assert_eq!(map.global(local), Some(global));
            }
            prop_assert_eq!(map.global(map.lines() + 1), None);
        }
    }

    #[test]
    fn the_first_row_may_have_more_lines_than_its_shard_counts() {
        let mut map = LineMap::default();
        map.add_first(5, 1, 3);
        map.add(9, 2);
        assert_eq!([map.global(1), map.global(2), map.global(3)], [Some(8), Some(10), Some(11)]);
    }

    #[test]
    fn memory_is_bounded_and_the_last_rows_are_known() {
        let mut map = LineMap::default();
        for row in 0..10_000_000 {
            map.add(3 * row, 1);
        }
        let kept: usize = map.chunks.iter().map(|chunk| chunk.rows.capacity()).sum();
        assert!(kept <= super::BYTES_MAX + (1 << 20), "{kept}");
        assert_eq!(map.global(10_000_000), Some(3 * 9_999_999 + 1));
        assert_eq!(map.global(7_000_000), Some(3 * 6_999_999 + 1));
        assert_eq!(map.global(1), None);
    }
}
