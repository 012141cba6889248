//! One field of a line of text COPY.

use std::ops::Range;

use memchr::{memchr, memchr2};

use crate::copy::Field;

/// The field with this number, decoded into `scratch` where it has escapes. Two texts stand for NULL and for the default.
#[inline]
pub(super) fn field<'a>(
    line: &'a [u8],
    number: u16,
    delimiter: u8,
    [null, default]: [Option<&[u8]>; 2],
    scratch: &'a mut Vec<u8>,
) -> Field<'a> {
    let mut rest = line;
    for _ in 0..number {
        let end = end(rest, delimiter);
        if end == rest.len() {
            return Field::Missing;
        }
        rest = &rest[end + 1..];
    }
    let raw = &rest[..end(rest, delimiter)];
    if Some(raw) == null {
        return Field::Null;
    }
    if Some(raw) == default {
        return Field::Default;
    }
    if memchr(b'\\', raw).is_none() {
        return Field::Value(raw);
    }
    unescape(raw, scratch);
    Field::Value(scratch)
}

/// Where the field with this number stands; `None` when the line ends before it.
#[inline]
pub(super) fn place(line: &[u8], number: u16, delimiter: u8) -> Option<Range<usize>> {
    let mut start = 0;
    for _ in 0..number {
        let end = start + end(&line[start..], delimiter);
        if end == line.len() {
            return None;
        }
        start = end + 1;
    }
    Some(start..start + end(&line[start..], delimiter))
}

/// Where the first field ends: at a delimiter that no backslash protects.
#[inline]
fn end(bytes: &[u8], delimiter: u8) -> usize {
    let mut from = 0;
    while let Some(at) = bytes.get(from..).and_then(|rest| memchr2(delimiter, b'\\', rest)) {
        if bytes[from + at] == delimiter {
            return from + at;
        }
        from += at + 2;
    }
    bytes.len()
}

fn unescape(raw: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let mut bytes = raw.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let digit = |byte: &u8, radix| char::from(*byte).to_digit(radix).and_then(|digit| u8::try_from(digit).ok());
        // Only at the very end of the data can a backslash stand alone: PostgreSQL drops it.
        let Some(next) = bytes.next() else { break };
        out.push(match next {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            b'x' if bytes.peek().is_some_and(u8::is_ascii_hexdigit) => {
                let mut value = 0;
                for _ in 0..2 {
                    let Some(digit) = bytes.peek().and_then(|byte| digit(byte, 16)) else { break };
                    value = value << 4 | digit;
                    bytes.next();
                }
                value
            }
            first @ b'0'..=b'7' => {
                let mut value = first - b'0';
                for _ in 0..2 {
                    let Some(digit) = bytes.peek().and_then(|byte| digit(byte, 8)) else { break };
                    // Three octal digits may pass a byte; PostgreSQL keeps the lower eight bits.
                    value = value << 3 | digit;
                    bytes.next();
                }
                value
            }
            other => other,
        });
    }
}
