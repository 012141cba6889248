//! Messages in a buffer, found by their headers alone.

use bytes::{BufMut, BytesMut};

use crate::protocol::error::ErrorFields;

/// The longest message that any peer may send, as in PostgreSQL (`MaxAllocSize`).
pub const MESSAGE_BYTES_MAX: usize = 0x3fff_ffff;

/// A message header: a tag and the length of the whole message, tag included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub tag: u8,
    /// Bytes of the whole message: tag, length field and body.
    pub total: usize,
}

/// How many bytes a header has.
pub const HEADER_BYTES: usize = 5;

/// A length field that no message can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadLength {
    pub tag: u8,
    pub length: i32,
}

impl From<BadLength> for ErrorFields {
    fn from(_: BadLength) -> Self {
        Self::fatal("08P01", "invalid message length")
    }
}

/// A message and what follows it: tag, body, rest.
pub type Split<'a> = (u8, &'a [u8], &'a [u8]);

impl Header {
    /// The header at the start of `bytes`, or `None` when fewer than five bytes are there.
    ///
    /// # Errors
    /// A length below 4 or above the bound of the protocol.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, BadLength> {
        let Some((head, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let length = i32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        match usize::try_from(length) {
            Ok(n) if (4..=MESSAGE_BYTES_MAX).contains(&n) => Ok(Some(Self { tag: head[0], total: n + 1 })),
            _ => Err(BadLength { tag: head[0], length }),
        }
    }

    /// The first message of `bytes` as (tag, body, what follows), or `None` while it is not whole.
    ///
    /// # Errors
    /// As [`Header::parse`].
    pub fn split(bytes: &[u8]) -> Result<Option<Split<'_>>, BadLength> {
        let Some(header) = Self::parse(bytes)? else { return Ok(None) };
        let Some((message, rest)) = bytes.split_at_checked(header.total) else { return Ok(None) };
        Ok(Some((header.tag, &message[HEADER_BYTES..], rest)))
    }
}

/// Appends one message: its tag, its length, and the body that `body` writes.
pub fn put_message(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    put_sized(out, body);
}

/// Appends a packet without a tag: the first ones of a connection.
pub fn put_sized(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    body(out);
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends text and its NUL. A NUL inside would end the text early and shift all that follows, so it is cut there.
pub fn put_cstr(out: &mut BytesMut, text: &[u8]) {
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    out.put_slice(&text[..end]);
    out.put_u8(0);
}

/// Appends a count of two bytes. PostgreSQL itself has no more than 65535 parameters and 1664 columns.
pub fn put_count(out: &mut BytesMut, count: usize) {
    assert!(count <= usize::from(u16::MAX), "{count} items do not fit a message");
    out.put_u16(u16::try_from(count).unwrap_or(u16::MAX));
}

/// Appends a value behind its length; NULL is -1.
pub fn put_value(out: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        None => out.put_i32(-1),
        Some(value) => {
            out.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
            out.put_slice(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_needs_five_bytes_and_a_sane_length() {
        assert_eq!(Header::parse(b"Q\0\0\0"), Ok(None));
        assert_eq!(Header::parse(b"Q\0\0\0\x04"), Ok(Some(Header { tag: b'Q', total: 5 })));
        for length in [0, 1, 3, -1, i32::MIN, i32::MAX, 0x4000_0000] {
            let mut bytes = vec![b'Q'];
            bytes.extend(length.to_be_bytes());
            assert_eq!(Header::parse(&bytes), Err(BadLength { tag: b'Q', length }));
        }
    }

    #[test]
    fn a_message_is_split_off_only_when_it_is_whole() {
        assert_eq!(Header::split(b"Q\0\0\0\x06a"), Ok(None));
        assert_eq!(Header::split(b"Q\0\0\0\x06a\0Z"), Ok(Some((b'Q', &b"a\0"[..], &b"Z"[..]))));
    }
}
