//! A key value -> a bucket, as PostgreSQL's own `PARTITION BY HASH` places it.

use crate::refusal::Refusal;

/// The type of a sharding key column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyType {
    Int2,
    Int4,
    Int8,
    /// `text` and `varchar` with a deterministic collation; never `char(n)`.
    Text,
    Uuid,
}

/// One of B hash slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(pub u16);

/// A key value, already coerced to the type of its column. Never NULL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// Any integer key; `int2`, `int4` and `int8` of the same value hash alike.
    Int(i64),
    Text(Box<[u8]>),
    Uuid([u8; 16]),
}

/// The wire format of a value: 0 is text, 1 is binary, as in PostgreSQL's format codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    Text,
    Binary,
}

/// A value as it came from a client.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// `None` is SQL NULL.
    pub bytes: Option<&'a [u8]>,
    pub format: Format,
    /// The declared type; 0 when the client left it to the server, which then takes the column's.
    pub type_oid: u32,
}

impl Key {
    /// The bucket of this key among `buckets` (a power of two).
    pub fn bucket(&self, buckets: u16) -> Bucket {
        let _ = buckets;
        todo!()
    }
}

impl KeyType {
    /// Coerces a value to this key type; `None` is NULL, or a value that equals no key (5.5 for an
    /// integer column).
    ///
    /// # Errors
    /// What PostgreSQL says of such a value: `22P02` invalid input syntax, `22003` out of range.
    pub fn coerce(self, input: Input<'_>) -> Result<Option<Key>, Refusal> {
        let _ = input;
        todo!()
    }
}
