//! Reading the fields of one message body; every length is checked.

use std::fmt;

use crate::protocol::error::ErrorFields;

/// A body that does not have the layout of its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

impl Malformed {
    fn short() -> Self {
        Self("insufficient data left in message".into())
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Malformed {}

impl From<Malformed> for ErrorFields {
    fn from(malformed: Malformed) -> Self {
        Self::error("08P01", malformed.0)
    }
}

impl From<Malformed> for Box<ErrorFields> {
    fn from(malformed: Malformed) -> Self {
        Self::new(malformed.into())
    }
}

/// A cursor over a body. Nothing it returns is copied.
#[derive(Clone, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    /// The next `N` bytes.
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or_else(Malformed::short)?;
        self.0 = rest;
        Ok(*head)
    }

    /// # Errors
    /// Like all readers here: too few bytes are left.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|b| b[0])
    }

    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn i16(&mut self) -> Result<i16, Malformed> {
        self.array().map(i16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(count).ok_or_else(Malformed::short)?;
        self.0 = rest;
        Ok(head)
    }

    /// Bytes up to a NUL, which is skipped.
    ///
    /// # Errors
    /// There is no NUL.
    pub fn cstr(&mut self) -> Result<&'a [u8], Malformed> {
        let end = memchr::memchr(0, self.0).ok_or_else(|| Malformed("invalid string in message".into()))?;
        let text = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Ok(text)
    }

    /// A value behind its length; -1 is NULL.
    ///
    /// # Errors
    /// The length is below -1 or beyond the end.
    pub fn value(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.i32()? {
            -1 => Ok(None),
            length => self.bytes(usize::try_from(length).map_err(|_| Malformed::short())?).map(Some),
        }
    }

    /// Everything that is left.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// # Errors
    /// Bytes are left over.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("invalid message format".into())) }
    }
}
