//! The results of aggregates, and the numbers they are compared with.

use std::cmp::Ordering;

use crate::key::{Format, Input};
use crate::refusal::Refusal;
use crate::value::int::{self, Width, bad_binary};
use crate::value::order::{ordered_f64, ordered_i64};
use crate::value::{Numeric, float, oid};

/// The result of an aggregate.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Datum {
    Null,
    Int(i64),
    Numeric(Numeric),
    Float4(f32),
    Float8(f64),
    /// The ordered form of a value that is no number.
    Ordered(Vec<u8>),
}

impl Datum {
    /// Whether values of this type can be computed with.
    pub(super) fn is_number(type_oid: u32) -> bool {
        matches!(type_oid, oid::INT2 | oid::INT4 | oid::INT8 | oid::NUMERIC | oid::FLOAT4 | oid::FLOAT8)
    }

    /// Reads a number of one of the types for which [`Datum::is_number`] holds.
    pub(super) fn read(bytes: Option<&[u8]>, format: Format, type_oid: u32) -> Result<Self, Refusal> {
        let Some(bytes) = bytes else { return Ok(Self::Null) };
        if let Some(width) = Width::of(type_oid) {
            return Ok(Self::Int(match format {
                Format::Text => int::parse(bytes, width)?,
                Format::Binary => int::from_binary(bytes)?,
            }));
        }
        Ok(match (type_oid, format) {
            (oid::FLOAT4, Format::Text) => Self::Float4(float::parse4(bytes)?),
            (oid::FLOAT4, Format::Binary) => {
                Self::Float4(f32::from_be_bytes(bytes.try_into().map_err(|_| bad_binary("real"))?))
            }
            (oid::FLOAT8, Format::Text) => Self::Float8(float::parse8(bytes)?),
            (oid::FLOAT8, Format::Binary) => {
                Self::Float8(f64::from_be_bytes(bytes.try_into().map_err(|_| bad_binary("double precision"))?))
            }
            (_, Format::Text) => Self::Numeric(Numeric::parse(bytes)?),
            (_, Format::Binary) => Self::Numeric(Numeric::from_binary(bytes)?),
        })
    }

    /// A number as it stands in a statement: an integer if it is one, else numeric.
    pub(super) fn literal(text: &str) -> Result<Self, Refusal> {
        match int::parse(text.as_bytes(), Width::Int8) {
            Ok(value) => Ok(Self::Int(value)),
            Err(_) => Numeric::parse(text.as_bytes()).map(Self::Numeric),
        }
    }

    /// A parameter that is compared with a value of type `other`, which it takes when it is not
    /// declared.
    pub(super) fn param(param: Input<'_>, other: u32) -> Result<Self, Refusal> {
        let type_oid = if param.type_oid == 0 { other } else { param.type_oid };
        if !Self::is_number(type_oid) {
            return Err(Refusal::unsupported(
                format!("a parameter of type {} in HAVING is not supported over several shards", oid::name(type_oid)),
                "Declare the parameter as bigint, numeric or double precision.",
            ));
        }
        Self::read(param.bytes, param.format, type_oid)
    }

    /// Compares as PostgreSQL would after finding a common type; `None` when either is NULL.
    pub(super) fn compare(&self, other: &Self) -> Result<Option<Ordering>, Refusal> {
        if matches!(self, Self::Null) || matches!(other, Self::Null) {
            return Ok(None);
        }
        if let (Self::Int(a), Self::Int(b)) = (self, other) {
            return Ok(Some(a.cmp(b)));
        }
        Ok(Some(match (self.to_numeric(), other.to_numeric()) {
            (Some(a), Some(b)) => a.compare(&b),
            _ => float::compare(self.to_f64()?, other.to_f64()?),
        }))
    }

    /// The bytes this value keeps, roughly.
    pub(super) fn heap_bytes(&self) -> usize {
        let beyond = match self {
            Self::Numeric(value) => value.heap_bytes(),
            Self::Ordered(bytes) => bytes.len(),
            Self::Null | Self::Int(_) | Self::Float4(_) | Self::Float8(_) => 0,
        };
        size_of::<Self>() + beyond
    }

    /// Appends the ordered form.
    pub(super) fn write_ordered(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => {}
            Self::Int(value) => out.extend_from_slice(&ordered_i64(*value).to_be_bytes()),
            Self::Numeric(value) => value.write_ordered(out),
            Self::Float4(value) => out.extend_from_slice(&ordered_f64(f64::from(*value)).to_be_bytes()),
            Self::Float8(value) => out.extend_from_slice(&ordered_f64(*value).to_be_bytes()),
            Self::Ordered(bytes) => out.extend_from_slice(bytes),
        }
    }

    /// Appends the wire form of a number; NULL and ordered forms have none.
    pub(super) fn write(&self, format: Format, out: &mut Vec<u8>) {
        match (self, format) {
            (Self::Int(value), Format::Text) => out.extend_from_slice(value.to_string().as_bytes()),
            (Self::Int(value), Format::Binary) => out.extend_from_slice(&value.to_be_bytes()),
            (Self::Numeric(value), Format::Text) => value.write_text(out),
            (Self::Numeric(value), Format::Binary) => value.write_binary(out),
            (Self::Float4(value), Format::Text) => float::write4(*value, out),
            (Self::Float4(value), Format::Binary) => out.extend_from_slice(&value.to_be_bytes()),
            (Self::Float8(value), Format::Text) => float::write8(*value, out),
            (Self::Float8(value), Format::Binary) => out.extend_from_slice(&value.to_be_bytes()),
            (Self::Null | Self::Ordered(_), _) => {}
        }
    }

    /// Exact numbers as numeric.
    pub(super) fn to_numeric(&self) -> Option<Numeric> {
        match self {
            Self::Int(value) => Some(Numeric::from(i128::from(*value))),
            Self::Numeric(value) => Some(value.clone()),
            _ => None,
        }
    }

    fn to_f64(&self) -> Result<f64, Refusal> {
        Ok(match self {
            #[expect(clippy::cast_precision_loss, reason = "PostgreSQL rounds to the nearest double here too")]
            Self::Int(value) => *value as f64,
            Self::Float4(value) => f64::from(*value),
            Self::Float8(value) => *value,
            Self::Numeric(value) => {
                let double = value.to_f64();
                if double.is_infinite() && matches!(value, Numeric::Finite(_)) {
                    let mut text = Vec::new();
                    value.write_text(&mut text);
                    let text = String::from_utf8_lossy(&text).into_owned();
                    return Err(Refusal::error(
                        "22003",
                        format!("\"{text}\" is out of range for type double precision"),
                    ));
                }
                double
            }
            Self::Null | Self::Ordered(_) => f64::NAN,
        })
    }
}
