//! float4 and float8: read and printed as PostgreSQL does with its default `extra_float_digits`.

use std::cmp::Ordering;

use crate::refusal::Refusal;
use crate::value::int::{TrimC, invalid};

/// Reads the text form of a float8.
///
/// # Errors
/// `22P02` for what is no number, `22003` for one beyond the range.
pub fn parse8(text: &[u8]) -> Result<f64, Refusal> {
    let (value, digits) = parse::<f64>(text, "double precision")?;
    if value.is_infinite() && digits.is_some() || value == 0.0 && digits.is_some_and(has_nonzero) {
        return Err(out_of_range(text, "double precision"));
    }
    Ok(value)
}

/// Reads the text form of a float4.
///
/// # Errors
/// `22P02` for what is no number, `22003` for one beyond the range.
pub fn parse4(text: &[u8]) -> Result<f32, Refusal> {
    let (value, digits) = parse::<f32>(text, "real")?;
    if value.is_infinite() && digits.is_some() || value == 0.0 && digits.is_some_and(has_nonzero) {
        return Err(out_of_range(text, "real"));
    }
    Ok(value)
}

/// PostgreSQL's order: NaN is the greatest and equals itself, -0 equals 0.
pub fn compare(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// Appends the text form of a float8.
pub fn write8(value: f64, out: &mut Vec<u8>) {
    if let Some(name) = special(value) {
        out.extend_from_slice(name.as_bytes());
        return;
    }
    let holds = |text: &str| text.parse() == Ok(value);
    let text = shortest(&format!("{value:e}"), 17, holds, |digits| format!("{value:.digits$e}"));
    write_layout(&text, 15, out);
}

/// Appends the text form of a float4.
pub fn write4(value: f32, out: &mut Vec<u8>) {
    if let Some(name) = special(f64::from(value)) {
        out.extend_from_slice(name.as_bytes());
        return;
    }
    let holds = |text: &str| text.parse() == Ok(value);
    let text = shortest(&format!("{value:e}"), 9, holds, |digits| format!("{value:.digits$e}"));
    write_layout(&text, 6, out);
}

/// A number or the name of a special value; the digits are given back for a number only.
fn parse<'a, T: std::str::FromStr>(text: &'a [u8], type_name: &str) -> Result<(T, Option<&'a [u8]>), Refusal> {
    let trimmed = text.trim_ascii_c();
    let unsigned = trimmed.strip_prefix(b"-").or_else(|| trimmed.strip_prefix(b"+")).unwrap_or(trimmed);
    // A stricter grammar than Rust's first: both know nan, inf and infinity in any case.
    let number = unsigned.first().is_some_and(|byte| byte.is_ascii_digit() || *byte == b'.');
    let value = std::str::from_utf8(trimmed).ok().and_then(|text| text.parse().ok());
    let value = value.ok_or_else(|| invalid(text, type_name))?;
    Ok((value, number.then_some(unsigned)))
}

fn has_nonzero(digits: &[u8]) -> bool {
    digits.iter().take_while(|byte| !matches!(byte, b'e' | b'E')).any(|byte| matches!(byte, b'1'..=b'9'))
}

fn out_of_range(text: &[u8], type_name: &str) -> Refusal {
    let text = String::from_utf8_lossy(text.trim_ascii_c());
    Refusal::error("22003", format!("\"{text}\" is out of range for type {type_name}"))
}

fn special(value: f64) -> Option<&'static str> {
    if value.is_nan() {
        Some("NaN")
    } else if value.is_infinite() {
        Some(if value > 0.0 { "Infinity" } else { "-Infinity" })
    } else if value == 0.0 {
        Some(if value.is_sign_negative() { "-0" } else { "0" })
    } else {
        None
    }
}

/// The shortest digits that are read back as the value however a reader breaks ties: PostgreSQL does
/// not take a number exactly halfway to the neighbouring value, Rust does when the reader would
/// choose the even one.
fn shortest(
    candidate: &str,
    digits_max: usize,
    holds: impl Fn(&str) -> bool,
    with_digits: impl Fn(usize) -> String,
) -> String {
    let inside = |text: &str| {
        let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
        let point = if digits.contains('.') { "" } else { "." };
        holds(&format!("{digits}{point}{:0>30}e{exponent}", 1)) && holds(&just_below(digits, point, exponent))
    };
    // Among the shortest, the nearest; of two equally near ones, the even one: Rust's choice when it
    // is told the number of digits, but not otherwise.
    let length = candidate.bytes().take_while(|byte| *byte != b'e').filter(u8::is_ascii_digit).count();
    let nearest = with_digits(length - 1);
    if inside(&nearest) {
        return nearest;
    }
    if inside(candidate) {
        return candidate.to_owned();
    }
    (length..digits_max).map(with_digits).find(|text| inside(text)).unwrap_or_else(|| candidate.to_owned())
}

/// The number a hair nearer to zero: the last digit less one, then many nines.
fn just_below(digits: &str, point: &str, exponent: &str) -> String {
    let mut bytes = digits.as_bytes().to_vec();
    for byte in bytes.iter_mut().rev() {
        match byte {
            b'0' => *byte = b'9',
            b'1'..=b'9' => {
                *byte -= 1;
                break;
            }
            _ => {}
        }
    }
    format!("{}{point}{:9>30}e{exponent}", String::from_utf8_lossy(&bytes), 9)
}

/// Lays `-1.25e7` out as PostgreSQL does: plain while the exponent is from -4 to below `plain`, else
/// with an exponent of two digits at least.
fn write_layout(scientific: &str, plain: i32, out: &mut Vec<u8>) {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let unsigned = mantissa.trim_start_matches('-');
    if mantissa.len() != unsigned.len() {
        out.push(b'-');
    }
    let digits = unsigned.bytes().filter(u8::is_ascii_digit);
    if !(-4..plain).contains(&exponent) {
        out.extend_from_slice(unsigned.as_bytes());
        let sign = if exponent < 0 { '-' } else { '+' };
        out.extend_from_slice(format!("e{sign}{:02}", exponent.abs()).as_bytes());
        return;
    }
    if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.extend((exponent..-1).map(|_| b'0'));
        out.extend(digits);
        return;
    }
    let whole = usize::try_from(exponent).unwrap_or(0) + 1;
    let mut written = 0;
    for digit in digits {
        if written == whole {
            out.push(b'.');
        }
        out.push(digit);
        written += 1;
    }
    out.extend((written..whole).map(|_| b'0'));
}
