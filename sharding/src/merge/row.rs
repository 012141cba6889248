//! DataRow messages, read in place.

use std::ops::Range;

use crate::merge::number::Datum;
use crate::refusal::Refusal;

/// The tag, the length and the number of fields.
const HEAD_BYTES: usize = 7;

/// A row on its way through the operators.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    /// The whole message.
    pub(super) message: &'a [u8],
    /// The results of the aggregates, above an aggregation.
    pub(super) results: &'a [Datum],
}

/// Cuts the first message off `rows`; `None` when there is none. The fields are not looked at.
///
/// # Errors
/// `08P01` when the bytes are no whole DataRow with `fields` fields.
#[inline]
pub(super) fn first(rows: &[u8], fields: usize) -> Result<Option<&[u8]>, Refusal> {
    if rows.is_empty() {
        return Ok(None);
    }
    let Some((&[b'D', a, b, c, d, high, low], _)) = rows.split_first_chunk::<HEAD_BYTES>() else {
        return Err(malformed());
    };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length < HEAD_BYTES - 1 || usize::from(u16::from_be_bytes([high, low])) != fields {
        return Err(malformed());
    }
    rows.get(..length.saturating_add(1)).map(Some).ok_or_else(malformed)
}

/// The value of one column; `None` is NULL.
///
/// # Errors
/// `08P01` when the message is shorter than its fields say.
#[inline]
pub(super) fn column(message: &[u8], index: usize) -> Result<Option<&[u8]>, Refusal> {
    let start = skip(message, index)?;
    let (range, _) = field(message, start)?;
    Ok(range.map(|range| &message[range]))
}

/// Where the field with this number begins, with its length word.
#[inline]
pub(super) fn skip(message: &[u8], fields: usize) -> Result<usize, Refusal> {
    let mut at = HEAD_BYTES;
    for _ in 0..fields {
        let word = message.get(at..at + 4).and_then(|word| <[u8; 4]>::try_from(word).ok()).ok_or_else(malformed)?;
        at += 4;
        match i32::from_be_bytes(word) {
            -1 => {}
            // That the value ends within the message shows at the next field, or behind the last one.
            length => at = usize::try_from(length).ok().and_then(|n| at.checked_add(n)).ok_or_else(malformed)?,
        }
    }
    if at <= message.len() { Ok(at) } else { Err(malformed()) }
}

/// The ranges of all fields, `None` for NULL.
pub(super) fn split(message: &[u8], fields: &mut Vec<Option<Range<usize>>>, count: usize) -> Result<(), Refusal> {
    fields.clear();
    let mut at = HEAD_BYTES;
    for _ in 0..count {
        let (range, next) = field(message, at)?;
        fields.push(range);
        at = next;
    }
    if at == message.len() { Ok(()) } else { Err(malformed()) }
}

/// Appends a message with the first `fields` fields of this one.
#[inline]
pub(super) fn write_first_fields(message: &[u8], fields: usize, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let end = skip(message, fields)?;
    let [a, b, c, d] = u32::try_from(end - 1).unwrap_or(u32::MAX).to_be_bytes();
    // A row has 1664 columns at most.
    let [high, low] = u16::try_from(fields).unwrap_or(u16::MAX).to_be_bytes();
    out.reserve(end);
    out.extend_from_slice(&[b'D', a, b, c, d, high, low]);
    out.extend_from_slice(&message[HEAD_BYTES..end]);
    Ok(())
}

/// Begins a message; [`end_message`] fills in its length.
pub(super) fn begin(out: &mut Vec<u8>, fields: usize) -> usize {
    let start = out.len();
    out.extend_from_slice(b"D\0\0\0\0");
    // A row has 1664 columns at most.
    out.extend_from_slice(&u16::try_from(fields).unwrap_or(u16::MAX).to_be_bytes());
    start
}

pub(super) fn end_message(out: &mut [u8], start: usize) {
    let length = u32::try_from(out.len() - start - 1).unwrap_or(u32::MAX);
    out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
}

/// Appends one field.
pub(super) fn write_field(value: Option<&[u8]>, out: &mut Vec<u8>) {
    match value {
        None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
        Some(bytes) => {
            out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(bytes);
        }
    }
}

pub(super) fn malformed() -> Refusal {
    Refusal::error("08P01", "a shard sent a malformed row")
}

/// The field whose length word is at `at`, and where the next begins.
#[inline]
fn field(message: &[u8], at: usize) -> Result<(Option<Range<usize>>, usize), Refusal> {
    let word = message.get(at..at + 4).and_then(|word| <[u8; 4]>::try_from(word).ok()).ok_or_else(malformed)?;
    let start = at + 4;
    match i32::from_be_bytes(word) {
        -1 => Ok((None, start)),
        length => {
            let end = usize::try_from(length).ok().and_then(|length| start.checked_add(length));
            let end = end.filter(|end| *end <= message.len()).ok_or_else(malformed)?;
            Ok((Some(start..end), end))
        }
    }
}
