//! A key value -> a bucket, as PostgreSQL's own `PARTITION BY HASH` places it.

mod hash;

use crate::refusal::Refusal;
use crate::value::int::{self, Width, bad_binary, invalid};
use crate::value::{Numeric, float, oid, uuid};

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
///
/// An integer may lie outside its column's type when the client declared a wider one: it hashes to
/// some shard all the same, and the server there says what PostgreSQL says (no such row, or out of
/// range when it is to be stored).
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
        let hash = match self {
            Self::Int(value) => hash::int8(*value),
            Self::Text(bytes) => hash::bytes(bytes),
            Self::Uuid(bytes) => hash::bytes(bytes),
        };
        let [low, high, ..] = hash::combine_first(hash).to_le_bytes();
        Bucket(u16::from_le_bytes([low, high]) & buckets.wrapping_sub(1))
    }
}

impl Key {
    /// This key as a column of so many characters stores it: spaces beyond them are cut off. Anything
    /// else beyond them is an error of the server, whichever it is.
    #[must_use]
    pub fn stored_in(self, characters: u32) -> Self {
        let Self::Text(bytes) = self else { return self };
        let beyond = usize::try_from(characters).unwrap_or(usize::MAX);
        // A byte that does not continue a character begins one.
        let starts = bytes.iter().enumerate().filter(|(_, byte)| **byte & 0xc0 != 0x80);
        match starts.map(|(at, _)| at).nth(beyond) {
            Some(end) if bytes[end..].iter().all(|byte| *byte == b' ') => Self::Text(bytes[..end].into()),
            _ => Self::Text(bytes),
        }
    }
}

impl KeyType {
    /// Coerces a value to this key type; `None` is NULL, or a value that equals no key (5.5 for an
    /// integer column).
    ///
    /// # Errors
    /// What PostgreSQL says of such a value: `22P02` invalid input syntax, `22003` out of range.
    /// `0A000` when a value of the declared type cannot be turned into a key exactly.
    pub fn coerce(self, input: Input<'_>) -> Result<Option<Key>, Refusal> {
        let Some(bytes) = input.bytes else { return Ok(None) };
        match self {
            Self::Int2 => integer(bytes, input, Width::Int2),
            Self::Int4 => integer(bytes, input, Width::Int4),
            Self::Int8 => integer(bytes, input, Width::Int8),
            Self::Text => text(bytes, input).map(Some),
            Self::Uuid => uuid_key(bytes, input).map(Some),
        }
    }

    /// The key that a number which no integer equals becomes when a row is stored, rounded as PostgreSQL does it: numeric half away from zero,
    /// a float to the even one.
    ///
    /// # Errors
    /// `22003` when no bigint is near, `0A000` when the value is none that is rounded.
    pub fn rounded(self, input: Input<'_>) -> Result<Key, Refusal> {
        let bytes = input.bytes.unwrap_or_default();
        let width = match self {
            Self::Int2 => Width::Int2,
            Self::Int4 => Width::Int4,
            Self::Int8 => Width::Int8,
            Self::Text | Self::Uuid => return Err(not_rounded()),
        };
        let out_of_range = || Refusal::error("22003", format!("{} out of range", width.name()));
        match input.type_oid {
            oid::NUMERIC => {
                let value = match input.format {
                    Format::Text => Numeric::parse(bytes)?,
                    Format::Binary => Numeric::from_binary(bytes)?,
                };
                value.round_to_i64().map(Key::Int).ok_or_else(out_of_range)
            }
            oid::FLOAT4 | oid::FLOAT8 => {
                const BEYOND: f64 = 9_223_372_036_854_775_808.0;
                let value = read_float(bytes, input)?.round_ties_even();
                if !(-BEYOND..BEYOND).contains(&value) {
                    return Err(out_of_range());
                }
                #[expect(clippy::cast_possible_truncation, reason = "the value is integral and within the range")]
                let integer = value as i64;
                Ok(Key::Int(integer))
            }
            _ => Err(not_rounded()),
        }
    }
}

fn not_rounded() -> Refusal {
    Refusal::unsupported("the value of the sharding key would be rounded to be stored", "Pass it as an integer.")
}

fn integer(bytes: &[u8], input: Input<'_>, column: Width) -> Result<Option<Key>, Refusal> {
    let width = match input.type_oid {
        0 => column,
        oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::UNKNOWN | oid::NAME => {
            return int::parse(bytes, column).map(Key::Int).map(Some);
        }
        oid::NUMERIC => {
            let value = match input.format {
                Format::Text => Numeric::parse(bytes)?,
                Format::Binary => Numeric::from_binary(bytes)?,
            };
            return Ok(value.to_i64().map(Key::Int));
        }
        oid::FLOAT4 | oid::FLOAT8 => return float_key(read_float(bytes, input)?, column),
        oid::OID => return Ok(Some(Key::Int(read_oid(bytes, input.format)?))),
        declared => Width::of(declared).ok_or_else(|| not_a_key(declared, column.name()))?,
    };
    let value = match input.format {
        Format::Text => int::parse(bytes, width)?,
        // A parameter without a declared type may stand in a cast: `$1::int4` makes it four bytes.
        Format::Binary if input.type_oid == 0 || bytes.len() == width_bytes(width) => int::from_binary(bytes)?,
        Format::Binary => return Err(bad_binary(width.name())),
    };
    Ok(Some(Key::Int(value)))
}

fn width_bytes(width: Width) -> usize {
    match width {
        Width::Int2 => 2,
        Width::Int4 => 4,
        Width::Int8 => 8,
    }
}

fn read_float(bytes: &[u8], input: Input<'_>) -> Result<f64, Refusal> {
    match (input.type_oid, input.format) {
        (oid::FLOAT4, Format::Text) => float::parse4(bytes).map(f64::from),
        (oid::FLOAT4, Format::Binary) => {
            bytes.try_into().map(f32::from_be_bytes).map(f64::from).map_err(|_| bad_binary("real"))
        }
        (_, Format::Text) => float::parse8(bytes),
        (_, Format::Binary) => bytes.try_into().map(f64::from_be_bytes).map_err(|_| bad_binary("double precision")),
    }
}

/// PostgreSQL compares an integer with a float as doubles: below 2^53 one integer at most is equal,
/// above it several may be, on several shards.
fn float_key(value: f64, column: Width) -> Result<Option<Key>, Refusal> {
    const EXACT_BELOW: f64 = 9_007_199_254_740_992.0;
    if value.abs() < EXACT_BELOW {
        #[expect(clippy::cast_possible_truncation, reason = "below 2^53 the cast is exact for integral values")]
        let integer = value as i64;
        #[expect(clippy::cast_precision_loss, reason = "below 2^53 every integer is a double")]
        let same = integer as f64 == value;
        return Ok(same.then_some(Key::Int(integer)));
    }
    let beyond = value.is_nan() || value.abs() > 9_223_372_036_854_775_808.0;
    if beyond || column != Width::Int8 {
        return Ok(None);
    }
    Err(Refusal::unsupported(
        "a floating-point value of 2^53 or more may equal several keys",
        "Pass the key as bigint.",
    ))
}

fn read_oid(bytes: &[u8], format: Format) -> Result<i64, Refusal> {
    match format {
        Format::Binary => bytes.try_into().map(u32::from_be_bytes).map(i64::from).map_err(|_| bad_binary("oid")),
        Format::Text => match int::parse(bytes, Width::Int8) {
            Ok(value) if u32::try_from(value).is_ok() => Ok(value),
            _ => Err(invalid(bytes, "oid")),
        },
    }
}

fn text(bytes: &[u8], input: Input<'_>) -> Result<Key, Refusal> {
    let key = match input.type_oid {
        0 | oid::TEXT | oid::VARCHAR | oid::UNKNOWN => bytes.into(),
        oid::NAME if bytes.len() < 64 => bytes.into(),
        oid::INT2 | oid::INT4 | oid::INT8 => {
            let width = Width::of(input.type_oid).unwrap_or(Width::Int8);
            let value = match input.format {
                Format::Text => int::parse(bytes, width)?,
                Format::Binary => int::from_binary(bytes)?,
            };
            value.to_string().into_bytes().into()
        }
        oid::NUMERIC => {
            let value = match input.format {
                Format::Text => Numeric::parse(bytes)?,
                Format::Binary => Numeric::from_binary(bytes)?,
            };
            let mut text = Vec::new();
            value.write_text(&mut text);
            text.into()
        }
        oid::UUID => {
            let mut text = Vec::with_capacity(36);
            uuid::print(&read_uuid(bytes, input.format)?, &mut text);
            text.into()
        }
        declared => return Err(not_a_key(declared, "text")),
    };
    Ok(Key::Text(key))
}

fn uuid_key(bytes: &[u8], input: Input<'_>) -> Result<Key, Refusal> {
    match input.type_oid {
        0 | oid::UUID => read_uuid(bytes, input.format).map(Key::Uuid),
        oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::UNKNOWN | oid::NAME => uuid::parse(bytes).map(Key::Uuid),
        declared => Err(not_a_key(declared, "uuid")),
    }
}

fn read_uuid(bytes: &[u8], format: Format) -> Result<[u8; 16], Refusal> {
    match format {
        Format::Text => uuid::parse(bytes),
        Format::Binary => bytes.try_into().map_err(|_| bad_binary("uuid")),
    }
}

fn not_a_key(declared: u32, column: &'static str) -> Refusal {
    Refusal::unsupported(
        format!("a value of type {} cannot be used as a sharding key of type {column}", oid::name(declared)),
        format!("Declare the parameter as {column}, or leave its type to the server."),
    )
}
