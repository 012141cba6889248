//! Binary COPY: a header, rows of counted fields, a trailer.

use std::ops::Range;

use crate::copy::{CopyTarget, Field, Form, Splitter};
use crate::key::Format;
use crate::map::ShardMap;
use crate::refusal::Refusal;

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// The signature, the flags, the length of an extension.
const HEADER_BYTES: usize = 19;
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

/// Where the search for the end of a row stands.
#[derive(Clone, Debug, Default)]
pub(super) struct Binary {
    state: State,
    row: Row,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Header,
    Rows,
    Ended,
}

/// An unfinished row.
#[derive(Clone, Debug, Default)]
struct Row {
    /// Where its next unread byte is; 0 before the number of fields is known.
    at: usize,
    fields: u16,
    /// The field that is read next.
    field: u16,
    key: Option<Range<usize>>,
}

/// What stands at the beginning of some bytes.
enum Next {
    /// A row of this many bytes; its key, `None` when that is NULL or missing.
    Row {
        bytes: usize,
        key: Option<Range<usize>>,
    },
    Trailer,
    Incomplete,
}

impl Splitter {
    /// [`Splitter::take_rows`] for binary COPY.
    pub(super) fn take_tuples(
        &mut self,
        bytes: &[u8],
        last: bool,
        map: &ShardMap,
        out: &mut [Vec<u8>],
    ) -> Result<usize, Refusal> {
        let field = match self.copy.target {
            CopyTarget::Sharded { field, .. } => field,
            CopyTarget::Reference => 0,
        };
        let mut taken = 0;
        loop {
            let rest = &bytes[taken..];
            let Form::Binary(binary) = &mut self.form else { return Ok(taken) };
            match binary.state {
                State::Header => match header(rest)? {
                    Some(length) if length <= self.row_bytes_max => {
                        out.iter_mut().for_each(|shard| shard.extend_from_slice(&rest[..length]));
                        binary.state = State::Rows;
                        taken += length;
                    }
                    Some(_) => return Err(self.too_long()),
                    None if last => return Err(malformed("COPY file signature not recognized")),
                    None => return Ok(taken),
                },
                State::Rows => match binary.row.next(rest, field)? {
                    Next::Row { bytes: length, .. } if length > self.row_bytes_max => return Err(self.too_long()),
                    Next::Row { bytes: length, key } => {
                        let fields = binary.row.fields;
                        let missing = field >= fields;
                        binary.row = Row::default();
                        self.lines += 1;
                        if !self.copy.added.is_empty() {
                            self.take_widened(&rest[..length], fields, key.map(|range| &rest[range]), map, out)?;
                            taken += length;
                            continue;
                        }
                        let key = match key {
                            Some(range) => Field::Value(&rest[range]),
                            None if missing => Field::Missing,
                            None => Field::Null,
                        };
                        let found = self.shard(key, Format::Binary, None, map);
                        let shard = found.as_ref().map_or(0, |shard| usize::from(shard.0));
                        out[shard].extend_from_slice(&rest[..length]);
                        self.count(shard, self.lines - 1, 1);
                        // PostgreSQL's own error for the row goes before this one.
                        found?;
                        taken += length;
                    }
                    Next::Trailer => {
                        binary.state = State::Ended;
                        taken += TRAILER.len();
                    }
                    Next::Incomplete if last && rest.is_empty() => binary.state = State::Ended,
                    Next::Incomplete if last => {
                        return Err(malformed("unexpected EOF in COPY data"));
                    }
                    Next::Incomplete => return Ok(taken),
                },
                State::Ended if !rest.is_empty() => {
                    return Err(malformed("received copy data after EOF marker"));
                }
                State::Ended => {
                    if last {
                        out.iter_mut().for_each(|shard| shard.extend_from_slice(&TRAILER));
                    }
                    return Ok(taken);
                }
            }
        }
    }
}

impl Splitter {
    /// Gives a row with its added fields to its shard, or all shards.
    fn take_widened(
        &mut self,
        row: &[u8],
        fields: u16,
        key: Option<&[u8]>,
        map: &ShardMap,
        out: &mut [Vec<u8>],
    ) -> Result<(), Refusal> {
        let expected = self.copy.partial.as_ref().map_or(0, |partial| partial.columns.len());
        if usize::from(fields) != expected {
            let message = format!("row field count is {fields}, expected {expected}");
            return Err(Refusal::error("22P04", message).with_context(self.place(None)));
        }
        self.next_fields();
        let count = u16::try_from(expected + self.copy.added.len()).unwrap_or(u16::MAX).to_be_bytes();
        let pieces = |shard: &mut Vec<u8>, prefix: &[u8]| {
            shard.extend_from_slice(&count);
            shard.extend_from_slice(prefix);
            shard.extend_from_slice(&row[2..]);
        };
        if self.copy.target == CopyTarget::Reference {
            out.iter_mut().for_each(|shard| pieces(shard, &self.added.prefix));
            return Ok(());
        }
        let found = self.shard(key.map_or(Field::Null, Field::Value), Format::Binary, None, map);
        let shard = found.as_ref().map_or(0, |shard| usize::from(shard.0));
        pieces(&mut out[shard], &self.added.prefix);
        self.count(shard, self.lines - 1, 1);
        found.map(drop)
    }
}

impl Binary {
    /// How many rows end in `bytes`, which are looked at as if they came next.
    pub(super) fn rows_in(&self, bytes: &[u8]) -> usize {
        let (mut taken, mut rows) = (0, 0);
        if self.state == State::Header {
            let Ok(Some(length)) = header(bytes) else { return 0 };
            taken = length;
        }
        let mut row = self.row.clone();
        while let (true, Ok(Next::Row { bytes: length, .. })) =
            (self.state != State::Ended, row.next(&bytes[taken..], 0))
        {
            taken += length;
            rows += 1;
            row = Row::default();
        }
        rows
    }
}

impl Row {
    /// Goes on reading the row at the beginning of `bytes` from where the last call stopped.
    fn next(&mut self, bytes: &[u8], key: u16) -> Result<Next, Refusal> {
        if self.at == 0 {
            let Some((count, _)) = bytes.split_first_chunk::<2>() else { return Ok(Next::Incomplete) };
            if *count == TRAILER {
                return Ok(Next::Trailer);
            }
            let count = u16::try_from(i16::from_be_bytes(*count));
            self.fields = count.map_err(|_| malformed("invalid field count in COPY data"))?;
            self.at = 2;
        }
        while self.field < self.fields {
            let word = bytes.get(self.at..self.at + 4).and_then(|word| <[u8; 4]>::try_from(word).ok());
            let Some(word) = word else { return Ok(Next::Incomplete) };
            let start = self.at + 4;
            let end = match i32::from_be_bytes(word) {
                -1 => start,
                length => {
                    let length = usize::try_from(length).map_err(|_| malformed("invalid field size"))?;
                    let end = start.saturating_add(length);
                    if end > bytes.len() {
                        return Ok(Next::Incomplete);
                    }
                    if self.field == key {
                        self.key = Some(start..end);
                    }
                    end
                }
            };
            self.at = end;
            self.field += 1;
        }
        Ok(Next::Row { bytes: self.at, key: self.key.clone() })
    }
}

/// The length of the header, once it is whole.
fn header(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
    let begun = bytes.len().min(SIGNATURE.len());
    if bytes[..begun] != SIGNATURE[..begun] {
        return Err(malformed("COPY file signature not recognized"));
    }
    let Some(&[f0, f1, f2, f3, e0, e1, e2, e3]) = bytes.get(11..HEADER_BYTES).and_then(<[u8]>::first_chunk::<8>) else {
        return Ok(None);
    };
    let flags = u32::from_be_bytes([f0, f1, f2, f3]);
    if flags & 1 << 16 != 0 {
        return Err(malformed("invalid COPY file header (WITH OIDS)"));
    }
    if flags >> 16 != 0 {
        return Err(malformed("unrecognized critical flags in COPY file header"));
    }
    let extension = i32::from_be_bytes([e0, e1, e2, e3]);
    let extension = usize::try_from(extension).map_err(|_| malformed("invalid COPY file header (missing length)"))?;
    let length = HEADER_BYTES.saturating_add(extension);
    Ok((bytes.len() >= length).then_some(length))
}

fn malformed(message: &'static str) -> Refusal {
    Refusal::error("22P04", message)
}
