//! One field of a line of CSV.

use std::ops::Range;

use memchr::{memchr, memchr2};

use crate::copy::Field;

/// The field with this number, decoded into `scratch` where it has quotes. `marks` are the
/// delimiter, the quote and the escape.
#[inline]
pub(super) fn field<'a>(
    line: &'a [u8],
    number: u16,
    marks: [u8; 3],
    [null, default]: [Option<&[u8]>; 2],
    scratch: &'a mut Vec<u8>,
) -> Field<'a> {
    let [delimiter, quote, _] = marks;
    let mut rest = line;
    for _ in 0..number {
        let Some(end) = end(rest, marks) else { return Field::OpenQuote };
        if end == rest.len() {
            return Field::Missing;
        }
        rest = &rest[end + 1..];
    }
    let raw = match memchr2(delimiter, quote, rest) {
        None => rest,
        Some(at) if rest[at] == delimiter => &rest[..at],
        Some(_) => {
            let Some(end) = end(rest, marks) else { return Field::OpenQuote };
            unquote(&rest[..end], marks, scratch);
            // A quoted field is neither.
            return Field::Value(scratch);
        }
    };
    match Some(raw) {
        raw if raw == null => Field::Null,
        raw if raw == default => Field::Default,
        _ => Field::Value(raw),
    }
}

/// Where the field with this number stands, with its quotes; `None` when the line ends before it, or a quote stays open.
pub(super) fn place(line: &[u8], number: u16, marks: [u8; 3]) -> Option<Range<usize>> {
    let mut start = 0;
    for _ in 0..number {
        start += end(&line[start..], marks)? + 1;
        if start > line.len() {
            return None;
        }
    }
    Some(start..start + end(&line[start..], marks)?)
}

/// Where the first field ends; `None` when a quote stays open.
fn end(bytes: &[u8], [delimiter, quote, escape]: [u8; 3]) -> Option<usize> {
    let mut from = 0;
    loop {
        let Some(at) = memchr2(delimiter, quote, &bytes[from..]).map(|at| from + at) else { return Some(bytes.len()) };
        if bytes[at] == delimiter {
            return Some(at);
        }
        from = at + 1;
        loop {
            if escape == quote {
                from += memchr(quote, &bytes[from..])? + 1;
                break;
            }
            let at = from + memchr2(quote, escape, &bytes[from..])?;
            from = at + 1;
            if bytes[at] == quote {
                break;
            }
            if bytes.get(from).is_some_and(|next| *next == quote || *next == escape) {
                from += 1;
            }
        }
    }
}

fn unquote(raw: &[u8], [_, quote, escape]: [u8; 3], out: &mut Vec<u8>) {
    out.clear();
    let mut open = false;
    let mut bytes = raw.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if open && byte == escape && bytes.peek().is_some_and(|next| *next == quote || *next == escape) {
            out.extend(bytes.next());
        } else if byte == quote {
            open = !open;
        } else {
            out.push(byte);
        }
    }
}
