//! Messages in a buffer, found by their headers alone.

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
}
