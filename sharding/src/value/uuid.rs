//! uuid as PostgreSQL reads it.

use crate::refusal::Refusal;
use crate::value::int::invalid;

/// Reads the text form: 32 hexadecimal digits of either case, a hyphen allowed after every four,
/// braces around all of it allowed.
///
/// # Errors
/// `22P02` for anything else.
pub fn parse(text: &[u8]) -> Result<[u8; 16], Refusal> {
    digits(text).ok_or_else(|| invalid(text, "uuid"))
}

/// The form PostgreSQL prints.
pub fn print(uuid: &[u8; 16], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for (i, byte) in uuid.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.push(HEX[usize::from(byte >> 4)]);
        out.push(HEX[usize::from(byte & 15)]);
    }
}

fn digits(text: &[u8]) -> Option<[u8; 16]> {
    let mut rest = match text.strip_prefix(b"{") {
        Some(inner) => inner.strip_suffix(b"}")?,
        None => text,
    };
    let mut uuid = [0; 16];
    for (i, byte) in uuid.iter_mut().enumerate() {
        let (pair, after) = rest.split_at_checked(2)?;
        *byte = hex(pair[0])? << 4 | hex(pair[1])?;
        rest = after;
        if i % 2 == 1 && i < 15 {
            rest = rest.strip_prefix(b"-").unwrap_or(rest);
        }
    }
    rest.is_empty().then_some(uuid)
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}
