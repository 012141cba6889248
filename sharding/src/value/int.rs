//! Integers as PostgreSQL 14 and 15 read them: spaces around, a sign, decimal digits.
//!
//! PostgreSQL 16 and newer also take `0x1F` and `1_000`. The router does not: older servers refuse
//! them, and a refusal is safe where a guess about the server's version is not.

use crate::refusal::Refusal;
use crate::value::oid;

/// The width of an integer type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    Int2,
    Int4,
    Int8,
}

impl Width {
    /// The width of an integer type by its OID.
    pub fn of(type_oid: u32) -> Option<Self> {
        match type_oid {
            oid::INT2 => Some(Self::Int2),
            oid::INT4 => Some(Self::Int4),
            oid::INT8 => Some(Self::Int8),
            _ => None,
        }
    }

    /// The type's name in PostgreSQL's messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int2 => "smallint",
            Self::Int4 => "integer",
            Self::Int8 => "bigint",
        }
    }

    fn holds(self, value: i64) -> bool {
        match self {
            Self::Int2 => i16::try_from(value).is_ok(),
            Self::Int4 => i32::try_from(value).is_ok(),
            Self::Int8 => true,
        }
    }
}

/// Reads the text form.
///
/// # Errors
/// `22P02` for what is no integer, `22003` for one that the width cannot hold.
pub fn parse(text: &[u8], width: Width) -> Result<i64, Refusal> {
    let digits = text.trim_ascii_start_c();
    let (negative, digits) = match digits.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, digits),
    };
    let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 || !digits[count..].trim_ascii_start_c().is_empty() {
        return Err(invalid(text, width.name()));
    }
    let mut value: i64 = 0;
    for byte in &digits[..count] {
        // Collected below zero, because the negative range is the larger one.
        let next = value.checked_mul(10).and_then(|value| value.checked_sub(i64::from(byte - b'0')));
        value = next.ok_or_else(|| out_of_range(text, width))?;
    }
    let value = if negative { Some(value) } else { value.checked_neg() };
    value.filter(|value| width.holds(*value)).ok_or_else(|| out_of_range(text, width))
}

/// Reads the binary form of any integer width by its length.
///
/// # Errors
/// `08P01` when the length is that of no integer.
pub fn from_binary(bytes: &[u8]) -> Result<i64, Refusal> {
    if let Ok(bytes) = bytes.try_into() {
        return Ok(i64::from_be_bytes(bytes));
    }
    if let Ok(bytes) = bytes.try_into() {
        return Ok(i64::from(i32::from_be_bytes(bytes)));
    }
    if let Ok(bytes) = bytes.try_into() {
        return Ok(i64::from(i16::from_be_bytes(bytes)));
    }
    Err(bad_binary("integer"))
}

/// `22P02` in PostgreSQL's words.
pub fn invalid(text: &[u8], type_name: &str) -> Refusal {
    Refusal::error("22P02", format!("invalid input syntax for type {type_name}: \"{}\"", String::from_utf8_lossy(text)))
}

/// A binary value whose length is not that of its type.
pub fn bad_binary(type_name: &str) -> Refusal {
    Refusal::error("08P01", format!("invalid binary value of type {type_name}"))
}

fn out_of_range(text: &[u8], width: Width) -> Refusal {
    let text = String::from_utf8_lossy(text);
    Refusal::error("22003", format!("value \"{text}\" is out of range for type {}", width.name()))
}

/// White space as C's `isspace` has it, which includes the vertical tab.
pub(crate) trait TrimC {
    fn trim_ascii_start_c(&self) -> &[u8];
    fn trim_ascii_c(&self) -> &[u8];
}

impl TrimC for [u8] {
    fn trim_ascii_start_c(&self) -> &[u8] {
        let spaces = self.iter().take_while(|byte| is_space(**byte)).count();
        &self[spaces..]
    }

    fn trim_ascii_c(&self) -> &[u8] {
        let rest = self.trim_ascii_start_c();
        let spaces = rest.iter().rev().take_while(|byte| is_space(**byte)).count();
        &rest[..rest.len() - spaces]
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}
