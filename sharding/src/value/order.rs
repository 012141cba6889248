//! Values -> bytes whose order is PostgreSQL's order of the values.
//!
//! One comparison of bytes then does for any number of columns, and equal values have equal bytes:
//! the same form serves sorting, grouping and DISTINCT.

use crate::key::Format;
use crate::refusal::Refusal;
use crate::value::int::{self, Width, bad_binary};
use crate::value::{Numeric, float, oid, uuid};

/// How the values of a type are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    /// `"char"`: one byte, unsigned.
    Char,
    /// int2, int4 and int8.
    Int(Width),
    /// date: days as an int4, the infinities at its ends.
    Date,
    /// time, timestamp, timestamptz: microseconds as an int8, the infinities at its ends.
    Microseconds,
    Oid,
    Float4,
    Float8,
    Bytea,
    /// text, varchar, name.
    Text,
    /// char(n): spaces at the end do not count.
    Bpchar,
    Numeric,
    Uuid,
    Interval,
    TimeTz,
    /// money: an int8.
    Money,
    /// pg_lsn: an unsigned number of 64 bits.
    Lsn,
    /// macaddr and macaddr8: their bytes.
    Mac,
    /// inet and cidr: the network, then the length of its prefix, then the address.
    Inet,
    /// bit(n) and varbit: the bits, then how many they are.
    Bits,
}

impl Kind {
    /// The order of a type; `None` when it is not known exactly (arrays, enums, json, ...).
    pub fn of(type_oid: u32) -> Option<Self> {
        Some(match type_oid {
            oid::BOOL => Self::Bool,
            oid::BYTEA => Self::Bytea,
            oid::CHAR => Self::Char,
            oid::NAME | oid::TEXT | oid::VARCHAR => Self::Text,
            oid::BPCHAR => Self::Bpchar,
            oid::INT2 | oid::INT4 | oid::INT8 => Self::Int(Width::of(type_oid)?),
            oid::OID => Self::Oid,
            oid::FLOAT4 => Self::Float4,
            oid::FLOAT8 => Self::Float8,
            oid::DATE => Self::Date,
            oid::TIME | oid::TIMESTAMP | oid::TIMESTAMPTZ => Self::Microseconds,
            oid::INTERVAL => Self::Interval,
            oid::TIMETZ => Self::TimeTz,
            oid::NUMERIC => Self::Numeric,
            oid::UUID => Self::Uuid,
            oid::MONEY => Self::Money,
            oid::PG_LSN => Self::Lsn,
            oid::MACADDR | oid::MACADDR8 => Self::Mac,
            oid::INET | oid::CIDR => Self::Inet,
            oid::BIT | oid::VARBIT => Self::Bits,
            _ => return None,
        })
    }

    /// Whether the order depends on a collation.
    pub fn has_collation(self) -> bool {
        matches!(self, Self::Text | Self::Bpchar)
    }

    /// Whether every value fits into 64 bits, so that [`Kind::short`] may be used.
    pub fn is_short(self) -> bool {
        !matches!(
            self,
            Self::Bytea
                | Self::Text
                | Self::Bpchar
                | Self::Numeric
                | Self::Uuid
                | Self::Interval
                | Self::TimeTz
                | Self::Mac
                | Self::Inet
                | Self::Bits
        )
    }

    /// Whether the text form says what the value is, whatever the session's settings.
    pub fn reads_text(self) -> bool {
        matches!(
            self,
            Self::Bool
                | Self::Int(_)
                | Self::Oid
                | Self::Float4
                | Self::Float8
                | Self::Text
                | Self::Bpchar
                | Self::Numeric
                | Self::Uuid
        )
    }

    /// A number whose unsigned order is that of the values; only for kinds that are short.
    ///
    /// # Errors
    /// `08P01` when the bytes are no value of the type.
    #[inline]
    pub fn short(self, bytes: &[u8], format: Format) -> Result<u64, Refusal> {
        Ok(match (self, format) {
            (Self::Int(Width::Int8) | Self::Microseconds | Self::Money, Format::Binary) => {
                ordered_i64(i64::from_be_bytes(fixed(bytes)?))
            }
            (Self::Int(Width::Int4) | Self::Date, Format::Binary) => {
                ordered_i64(i64::from(i32::from_be_bytes(fixed(bytes)?)))
            }
            (Self::Int(Width::Int2), Format::Binary) => ordered_i64(i64::from(i16::from_be_bytes(fixed(bytes)?))),
            (Self::Int(width), Format::Text) => ordered_i64(int::parse(bytes, width)?),
            (Self::Lsn, Format::Binary) => u64::from_be_bytes(fixed(bytes)?),
            (Self::Oid, Format::Binary) => u64::from(u32::from_be_bytes(fixed(bytes)?)),
            (Self::Oid, Format::Text) => ordered_i64(int::parse(bytes, Width::Int8)?),
            (Self::Float8, Format::Binary) => ordered_f64(f64::from_be_bytes(fixed(bytes)?)),
            (Self::Float8, Format::Text) => ordered_f64(float::parse8(bytes)?),
            (Self::Float4, Format::Binary) => ordered_f64(f64::from(f32::from_be_bytes(fixed(bytes)?))),
            (Self::Float4, Format::Text) => ordered_f64(f64::from(float::parse4(bytes)?)),
            (Self::Bool, Format::Text) => u64::from(bytes == b"t"),
            (Self::Bool | Self::Char, _) => u64::from(fixed::<1>(bytes)?[0]),
            _ => return Err(bad_binary("the sort key")),
        })
    }

    /// Appends the ordered form. It ends by itself: no value's form begins another's.
    ///
    /// # Errors
    /// `08P01` when the bytes are no value of the type.
    pub fn write(self, bytes: &[u8], format: Format, out: &mut Vec<u8>) -> Result<(), Refusal> {
        match self {
            Self::Text | Self::Bytea => write_escaped(bytes, out),
            Self::Bpchar => {
                let spaces = bytes.iter().rev().take_while(|byte| **byte == b' ').count();
                write_escaped(&bytes[..bytes.len() - spaces], out);
            }
            Self::Uuid if format == Format::Binary => out.extend_from_slice(&fixed::<16>(bytes)?),
            Self::Uuid => out.extend_from_slice(&uuid::parse(bytes)?),
            Self::Numeric if format == Format::Binary => Numeric::from_binary(bytes)?.write_ordered(out),
            Self::Numeric => Numeric::parse(bytes)?.write_ordered(out),
            Self::Interval => out.extend_from_slice(&interval(bytes)?.to_be_bytes()),
            Self::TimeTz => {
                let (time, zone) = bytes.split_first_chunk::<8>().ok_or_else(|| bad_binary("timetz"))?;
                let (time, zone) = (i64::from_be_bytes(*time), i32::from_be_bytes(fixed(zone)?));
                // The same moment in two zones: the zone decides.
                let moment = time.wrapping_add(i64::from(zone) * 1_000_000);
                out.extend_from_slice(&ordered_i64(moment).to_be_bytes());
                out.extend_from_slice(&ordered_i64(i64::from(zone)).to_be_bytes());
            }
            Self::Mac if matches!(bytes.len(), 6 | 8) => out.extend_from_slice(bytes),
            Self::Mac => return Err(bad_binary("macaddr")),
            Self::Inet => write_inet(bytes, out).ok_or_else(|| bad_binary("inet"))?,
            Self::Bits => {
                let (count, bits) = bytes.split_first_chunk::<4>().ok_or_else(|| bad_binary("bit"))?;
                write_escaped(bits, out);
                out.extend_from_slice(count);
            }
            _ => out.extend_from_slice(&self.short(bytes, format)?.to_be_bytes()),
        }
        Ok(())
    }
}

/// The order of integers as that of unsigned ones.
#[inline]
pub fn ordered_i64(value: i64) -> u64 {
    value.cast_unsigned() ^ (1 << 63)
}

/// The order of doubles as that of unsigned integers: NaN greatest, -0 equal to 0.
#[inline]
pub fn ordered_f64(value: f64) -> u64 {
    const SIGN: u64 = 1 << 63;
    if value.is_nan() {
        return u64::MAX;
    }
    let bits = if value == 0.0 { 0 } else { value.to_bits() };
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

/// Zero bytes are escaped, so that two of them can end the value.
fn write_escaped(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    while let Some(at) = memchr::memchr(0, rest) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(&[0, 0xff]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(&[0, 0]);
}

/// An address with the length of its network's prefix: networks are compared by the bits that both have, of which the shorter is
/// less; so every bit of a network is written as 1 or 2, and its end as 0.
fn write_inet(bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let ([family, prefix, _is_cidr, length], address) = bytes.split_first_chunk::<4>()?;
    if address.len() != usize::from(*length) || usize::from(*prefix) > address.len() * 8 {
        return None;
    }
    out.push(*family);
    let bit = |at: usize| address[at / 8] >> (7 - at % 8) & 1;
    out.extend((0..usize::from(*prefix)).map(|at| bit(at) + 1));
    out.push(0);
    out.extend_from_slice(address);
    Some(())
}

/// An interval's length as PostgreSQL compares it: a month is 30 days, a day is 24 hours.
fn interval(bytes: &[u8]) -> Result<u128, Refusal> {
    let bytes: [u8; 16] = fixed(bytes)?;
    let bits = i128::from_be_bytes(bytes);
    let (time, days, months) = (bits >> 64, i128::from((bits >> 32) as i32), i128::from(bits as i32));
    let span = time + (months * 30 + days) * 86_400_000_000;
    Ok(span.cast_unsigned() ^ (1 << 127))
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Refusal> {
    bytes.try_into().map_err(|_| bad_binary("the sort key"))
}
