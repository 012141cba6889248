//! `numeric`, exact: read, printed, added and divided as PostgreSQL does it.
//!
//! A value is a row of base-10000 digits, as in PostgreSQL, so that the binary form is taken as it
//! is; the display scale travels along, since it decides what a sum or an average looks like.

mod moments;

use std::cmp::Ordering;

use crate::refusal::Refusal;
use crate::value::int::{TrimC, bad_binary, invalid};

pub use moments::Moments;

const BASE: i32 = 10_000;
/// Decimal digits in one digit of the base.
const BASE_DIGITS: i32 = 4;
const SCALE_MAX: i32 = 16_383;
const WEIGHT_MAX: i32 = 0x7fff;

const SIGN_NEGATIVE: u16 = 0x4000;
const SIGN_NAN: u16 = 0xc000;
const SIGN_INFINITY: u16 = 0xd000;
const SIGN_NEGATIVE_INFINITY: u16 = 0xf000;

/// A value of type `numeric`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Numeric {
    NegativeInfinity,
    Finite(Decimal),
    Infinity,
    NaN,
}

/// A finite value: the sum of `digits[i] * 10000^(weight - i)`. No zero digit stands at either end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decimal {
    negative: bool,
    weight: i32,
    /// How many digits are shown after the point.
    scale: i32,
    digits: Vec<i16>,
}

impl Numeric {
    /// Reads the binary form.
    ///
    /// # Errors
    /// `08P01` when the bytes are no numeric.
    pub fn from_binary(bytes: &[u8]) -> Result<Self, Refusal> {
        read_binary(bytes).ok_or_else(|| bad_binary("numeric"))
    }

    /// Reads the text form.
    ///
    /// # Errors
    /// `22P02` for what is no number, `22003` for one that numeric cannot hold.
    pub fn parse(text: &[u8]) -> Result<Self, Refusal> {
        let trimmed = text.trim_ascii_c();
        match trimmed.to_ascii_lowercase().as_slice() {
            b"nan" => return Ok(Self::NaN),
            b"inf" | b"+inf" | b"infinity" | b"+infinity" => return Ok(Self::Infinity),
            b"-inf" | b"-infinity" => return Ok(Self::NegativeInfinity),
            _ => {}
        }
        let decimal = Decimal::parse(trimmed).ok_or_else(|| invalid(text, "numeric"))?;
        decimal.bounded().map(Self::Finite)
    }

    /// Appends the binary form.
    pub fn write_binary(&self, out: &mut Vec<u8>) {
        let (sign, decimal) = match self {
            Self::NaN => (SIGN_NAN, None),
            Self::Infinity => (SIGN_INFINITY, None),
            Self::NegativeInfinity => (SIGN_NEGATIVE_INFINITY, None),
            Self::Finite(decimal) => (if decimal.negative { SIGN_NEGATIVE } else { 0 }, Some(decimal)),
        };
        let zero = Decimal::default();
        let decimal = decimal.unwrap_or(&zero);
        // The bounds were checked when the value was made: all of these fit into 16 bits.
        out.extend_from_slice(&u16::try_from(decimal.digits.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(&i16::try_from(decimal.weight).unwrap_or(i16::MAX).to_be_bytes());
        out.extend_from_slice(&sign.to_be_bytes());
        // The infinities carry this scale in PostgreSQL's own binary form; nobody reads it.
        let scale = if matches!(self, Self::Infinity | Self::NegativeInfinity) { 0x20 } else { decimal.scale };
        out.extend_from_slice(&i16::try_from(scale).unwrap_or(i16::MAX).to_be_bytes());
        for digit in &decimal.digits {
            out.extend_from_slice(&digit.to_be_bytes());
        }
    }

    /// Appends the text form.
    pub fn write_text(&self, out: &mut Vec<u8>) {
        match self {
            Self::NaN => out.extend_from_slice(b"NaN"),
            Self::Infinity => out.extend_from_slice(b"Infinity"),
            Self::NegativeInfinity => out.extend_from_slice(b"-Infinity"),
            Self::Finite(decimal) => decimal.write_text(out),
        }
    }

    /// Adds as PostgreSQL's `+` does: the larger display scale stays.
    ///
    /// # Errors
    /// `22003` when the sum is too large for numeric.
    pub fn add(&self, other: &Self) -> Result<Self, Refusal> {
        Ok(match (self, other) {
            (Self::NaN, _) | (_, Self::NaN) => Self::NaN,
            (Self::Infinity, Self::NegativeInfinity) | (Self::NegativeInfinity, Self::Infinity) => Self::NaN,
            (Self::Infinity, _) | (_, Self::Infinity) => Self::Infinity,
            (Self::NegativeInfinity, _) | (_, Self::NegativeInfinity) => Self::NegativeInfinity,
            (Self::Finite(a), Self::Finite(b)) => Self::Finite(a.add(b).bounded()?),
        })
    }

    /// Divides by a positive count with the display scale and rounding of PostgreSQL's `/`.
    pub fn divide_by_count(&self, count: u64) -> Self {
        match self {
            Self::Finite(decimal) => Self::Finite(decimal.divide(u128::from(count))),
            special => special.clone(),
        }
    }

    /// The integer of this value; `None` when it has a fraction, is no number or does not fit.
    pub fn to_i64(&self) -> Option<i64> {
        match self {
            Self::Finite(decimal) => decimal.to_i64(),
            _ => None,
        }
    }

    /// Rounded half away from zero to an integer, as a cast to bigint does it.
    pub fn round_to_i64(&self) -> Option<i64> {
        match self {
            Self::Finite(decimal) => decimal.clone().rounded(0).to_i64(),
            _ => None,
        }
    }

    /// The nearest double; an infinite result of a finite value is an overflow that the caller
    /// reports.
    pub fn to_f64(&self) -> f64 {
        match self {
            Self::NaN => f64::NAN,
            Self::Infinity => f64::INFINITY,
            Self::NegativeInfinity => f64::NEG_INFINITY,
            Self::Finite(decimal) => {
                let mut text = Vec::new();
                decimal.write_text(&mut text);
                String::from_utf8_lossy(&text).parse().unwrap_or(f64::NAN)
            }
        }
    }

    /// PostgreSQL's order: NaN is the greatest and equals itself; 1.0 equals 1.00.
    pub fn compare(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Finite(a), Self::Finite(b)) => a.compare(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }

    /// The bytes of the digits.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Self::Finite(decimal) => decimal.digits.capacity() * size_of::<i16>(),
            _ => 0,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::NegativeInfinity => 0,
            Self::Finite(_) => 1,
            Self::Infinity => 2,
            Self::NaN => 3,
        }
    }

    /// Appends bytes whose order is that of the values.
    pub fn write_ordered(&self, out: &mut Vec<u8>) {
        match self {
            Self::Finite(decimal) => decimal.write_ordered(out),
            Self::NegativeInfinity => out.push(0),
            Self::Infinity => out.push(4),
            Self::NaN => out.push(5),
        }
    }
}

impl From<i128> for Numeric {
    fn from(value: i128) -> Self {
        let mut rest = value.unsigned_abs();
        let mut digits = Vec::with_capacity(10);
        while rest > 0 {
            digits.push(i16::try_from(rest % 10_000).unwrap_or_default());
            rest /= 10_000;
        }
        digits.reverse();
        let weight = length(&digits) - 1;
        Self::Finite(Decimal { negative: value < 0, weight, scale: 0, digits }.normal())
    }
}

impl Decimal {
    fn parse(text: &[u8]) -> Option<Self> {
        let (negative, number) = match text.split_first()? {
            (b'-', rest) => (true, rest),
            (b'+', rest) => (false, rest),
            _ => (false, text),
        };
        let (mantissa, exponent) = match number.iter().position(|byte| matches!(byte, b'e' | b'E')) {
            Some(at) => (&number[..at], Some(&number[at + 1..])),
            None => (number, None),
        };
        let point = mantissa.iter().position(|byte| *byte == b'.').unwrap_or(mantissa.len());
        let whole = &mantissa[..point];
        let fraction = mantissa.get(point + 1..).unwrap_or_default();
        if whole.is_empty() && fraction.is_empty() || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
            return None;
        }
        // An exponent beyond a million is beyond numeric as well and need not be exact.
        let exponent = match exponent {
            None => 0,
            Some(digits) => parse_exponent(digits)?.clamp(-1_000_000, 1_000_000),
        };
        // The first digit stands for 10^leading.
        let leading = i32::try_from(whole.len()).ok()?.checked_add(exponent)? - 1;
        let scale = (i32::try_from(fraction.len()).ok()? - exponent).max(0);
        let weight = leading.div_euclid(BASE_DIGITS);
        let mut place = BASE_DIGITS - 1 - leading.rem_euclid(BASE_DIGITS);
        let mut digits = vec![0];
        for byte in whole.iter().chain(fraction) {
            if place == BASE_DIGITS {
                digits.push(0);
                place = 0;
            }
            if let Some(last) = digits.last_mut() {
                *last += i16::from(byte - b'0') * [1000, 100, 10, 1][usize::try_from(place).ok()?];
            }
            place += 1;
        }
        Some(Self { negative, weight, scale, digits }.normal())
    }

    /// Without zero digits at the ends; zero has no digits, no sign and weight 0.
    fn normal(mut self) -> Self {
        while self.digits.last() == Some(&0) {
            self.digits.pop();
        }
        let zeros = self.digits.iter().take_while(|digit| **digit == 0).count();
        if zeros > 0 {
            self.digits.drain(..zeros);
            self.weight -= i32::try_from(zeros).unwrap_or(0);
        }
        if self.digits.is_empty() {
            self.negative = false;
            self.weight = 0;
        }
        self
    }

    fn bounded(self) -> Result<Self, Refusal> {
        if self.weight > WEIGHT_MAX || self.scale > SCALE_MAX || self.weight < -WEIGHT_MAX {
            return Err(Refusal::error("22003", "value overflows numeric format"));
        }
        Ok(self)
    }

    fn is_zero(&self) -> bool {
        self.digits.is_empty()
    }

    /// The digit that stands for `10000^weight`.
    fn digit(&self, weight: i32) -> i16 {
        usize::try_from(self.weight - weight).ok().and_then(|at| self.digits.get(at)).copied().unwrap_or(0)
    }

    /// The weight of the last digit.
    fn end(&self) -> i32 {
        self.weight + 1 - length(&self.digits)
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (self.sign(), other.sign()) {
            (1, 1) => self.compare_absolute(other),
            (-1, -1) => other.compare_absolute(self),
            (a, b) => a.cmp(&b),
        }
    }

    fn sign(&self) -> i8 {
        match (self.is_zero(), self.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }

    fn compare_absolute(&self, other: &Self) -> Ordering {
        match (self.is_zero(), other.is_zero()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => self.weight.cmp(&other.weight).then_with(|| self.digits.cmp(&other.digits)),
        }
    }

    fn add(&self, other: &Self) -> Self {
        let scale = self.scale.max(other.scale);
        if self.is_zero() || other.is_zero() {
            let value = if self.is_zero() { other } else { self };
            return Self { scale, ..value.clone() };
        }
        let (large, small) = match self.compare_absolute(other) {
            Ordering::Less => (other, self),
            Ordering::Equal | Ordering::Greater => (self, other),
        };
        let sign = if large.negative == small.negative { 1 } else { -1 };
        let (start, end) = (large.weight + 1, large.end().min(small.end()));
        let mut digits = vec![0; usize::try_from(start - end + 1).unwrap_or(0)];
        let mut carry = 0;
        for (weight, slot) in (end..=start).zip(digits.iter_mut().rev()) {
            let sum = i32::from(large.digit(weight)) + sign * i32::from(small.digit(weight)) + carry;
            carry = sum.div_euclid(BASE);
            *slot = digit_of(sum.rem_euclid(BASE));
        }
        Self { negative: large.negative, weight: start, scale, digits }.normal()
    }

    /// Divides by a count or a product of two, which is below 2^112.
    fn divide(&self, count: u128) -> Self {
        let count = count.max(1);
        let scale = self.division_scale(count);
        // Enough digits for the scale and at least one decimal digit more, which decides rounding.
        let end = -(scale / BASE_DIGITS + 2);
        let mut rest: u128 = 0;
        let mut digits = Vec::new();
        let mut weight = self.weight.max(0);
        let start = weight;
        while weight >= end {
            rest = rest * 10_000 + u128::from(self.digit(weight).unsigned_abs());
            digits.push(i16::try_from(rest / count).unwrap_or_default());
            rest %= count;
            weight -= 1;
        }
        Self { negative: self.negative, weight: start, scale, digits }.normal().rounded(scale)
    }

    /// PostgreSQL's `select_div_scale`: at least sixteen significant digits, by an estimate of where
    /// the first digit of the quotient will stand.
    fn division_scale(&self, count: u128) -> i32 {
        let Numeric::Finite(count) = Numeric::from(i128::try_from(count).unwrap_or(i128::MAX)) else {
            return self.scale;
        };
        let first = self.digits.first().copied().unwrap_or(0);
        let divisor = count.digits.first().copied().unwrap_or(0);
        let mut weight = self.weight - count.weight;
        if first <= divisor {
            weight -= 1;
        }
        (16 - weight * BASE_DIGITS).max(self.scale).clamp(0, 1000)
    }

    /// Rounded half away from zero to `scale` digits after the point.
    fn rounded(mut self, scale: i32) -> Self {
        self.scale = scale;
        // The digit that holds the last decimal place, and what one unit of that place is in it.
        let weight = -(scale + BASE_DIGITS - 1).div_euclid(BASE_DIGITS);
        let unit = match scale.rem_euclid(BASE_DIGITS) {
            0 => 1,
            1 => 1000,
            2 => 100,
            _ => 10,
        };
        if self.is_zero() || self.end() > weight {
            return self;
        }
        let last = i32::from(self.digit(weight));
        let up = if unit == 1 { self.digit(weight - 1) >= 5000 } else { last % unit >= unit / 2 };
        let keep = usize::try_from(self.weight - weight + 1).unwrap_or(0);
        let negative = self.negative;
        self.digits.truncate(keep);
        if keep == self.digits.len()
            && let Some(digit) = self.digits.last_mut()
        {
            *digit = digit_of(last - last % unit);
        }
        let mut rounded = self.normal();
        if up {
            let step = Self { negative: false, weight, scale, digits: vec![digit_of(unit)] };
            rounded.negative = false;
            rounded = rounded.add(&step);
            rounded.negative = negative;
        }
        rounded.scale = scale;
        rounded
    }

    fn to_i64(&self) -> Option<i64> {
        if self.weight >= 5 || !self.is_zero() && self.end() < 0 {
            return None;
        }
        let mut value: i128 = 0;
        for weight in (0..=self.weight).rev() {
            value = value * 10_000 + i128::from(self.digit(weight));
        }
        i64::try_from(if self.negative { -value } else { value }).ok()
    }

    fn write_text(&self, out: &mut Vec<u8>) {
        if self.negative {
            out.push(b'-');
        }
        if self.is_zero() || self.weight < 0 {
            out.push(b'0');
        } else {
            out.extend_from_slice(self.digit(self.weight).to_string().as_bytes());
            for weight in (0..self.weight).rev() {
                out.extend_from_slice(&decimals(self.digit(weight)));
            }
        }
        if self.scale > 0 {
            out.push(b'.');
            let end = out.len() + usize::try_from(self.scale).unwrap_or(0);
            let mut weight = -1;
            while out.len() < end {
                out.extend_from_slice(&decimals(self.digit(weight)));
                weight -= 1;
            }
            out.truncate(end);
        }
    }

    fn write_ordered(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.push(if self.is_zero() { 2 } else { 3 });
        if self.is_zero() {
            return;
        }
        out.extend_from_slice(&(self.weight + 0x10000).to_be_bytes());
        for digit in &self.digits {
            // Plus one, so that the end of the digits (zero) is below every digit.
            out.extend_from_slice(&(digit + 1).to_be_bytes());
        }
        out.extend_from_slice(&[0, 0]);
        if self.negative {
            out[start] = 1;
            for byte in &mut out[start + 1..] {
                *byte = !*byte;
            }
        }
    }
}

fn read_binary(bytes: &[u8]) -> Option<Numeric> {
    let (head, tail) = bytes.split_first_chunk::<8>()?;
    let count = usize::from(u16::from_be_bytes([head[0], head[1]]));
    let weight = i32::from(i16::from_be_bytes([head[2], head[3]]));
    let sign = u16::from_be_bytes([head[4], head[5]]);
    let scale = i32::from(u16::from_be_bytes([head[6], head[7]]));
    let negative = match sign {
        0 => false,
        SIGN_NEGATIVE => true,
        SIGN_NAN => return Some(Numeric::NaN),
        SIGN_INFINITY => return Some(Numeric::Infinity),
        SIGN_NEGATIVE_INFINITY => return Some(Numeric::NegativeInfinity),
        _ => return None,
    };
    if tail.len() != count * 2 || scale > SCALE_MAX {
        return None;
    }
    let mut digits = Vec::with_capacity(count);
    for pair in tail.chunks_exact(2) {
        let digit = i16::from_be_bytes([pair[0], pair[1]]);
        if !(0..10_000).contains(&digit) {
            return None;
        }
        digits.push(digit);
    }
    Some(Numeric::Finite(Decimal { negative, weight, scale, digits }.normal()))
}

fn parse_exponent(text: &[u8]) -> Option<i32> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(if text.starts_with('-') { i32::MIN } else { i32::MAX }))
}

fn decimals(digit: i16) -> [u8; 4] {
    let digit = digit.unsigned_abs();
    [digit / 1000, digit / 100 % 10, digit / 10 % 10, digit % 10].map(|decimal| b'0' + decimal.to_le_bytes()[0])
}

fn digit_of(value: i32) -> i16 {
    i16::try_from(value).unwrap_or_default()
}

fn length(digits: &[i16]) -> i32 {
    i32::try_from(digits.len()).unwrap_or(i32::MAX)
}
