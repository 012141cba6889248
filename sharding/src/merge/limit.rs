//! LIMIT and OFFSET.

use crate::key::{Format, Input};
use crate::plan::Count;
use crate::refusal::Refusal;
use crate::value::int::bad_binary;
use crate::value::{Numeric, float, oid};

use super::number::Datum;

/// Lets a window of rows through.
#[derive(Debug)]
pub(super) struct Limit {
    skip: u64,
    /// `None` is no limit.
    left: Option<u64>,
}

/// What is to be done with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Window {
    Skip,
    Take,
    /// Take it; it is the last.
    TakeLast,
    Past,
}

impl Limit {
    /// The window of `LIMIT count OFFSET offset`.
    ///
    /// # Errors
    /// `2201X` and `2201W` for negative numbers, in the order PostgreSQL looks at them.
    pub(super) fn new(count: Option<Count>, offset: Option<Count>, params: &[Input<'_>]) -> Result<Self, Refusal> {
        let skip = offset.map(|offset| rows(offset, params, "OFFSET", "2201X")).transpose()?.flatten().unwrap_or(0);
        let left = count.map(|count| rows(count, params, "LIMIT", "2201W")).transpose()?.flatten();
        Ok(Self { skip, left })
    }

    /// How many rows from below can matter.
    pub(super) fn reach(&self) -> Option<u64> {
        self.left.map(|left| left.saturating_add(self.skip))
    }

    pub(super) fn is_over(&self) -> bool {
        self.left == Some(0)
    }

    pub(super) fn window(&mut self) -> Window {
        if self.is_over() {
            return Window::Past;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return Window::Skip;
        }
        match &mut self.left {
            None => Window::Take,
            Some(left) => {
                *left -= 1;
                if *left == 0 { Window::TakeLast } else { Window::Take }
            }
        }
    }
}

fn rows(
    count: Count,
    params: &[Input<'_>],
    clause: &'static str,
    sqlstate: &'static str,
) -> Result<Option<u64>, Refusal> {
    let param = match count {
        Count::Rows(rows) => return Ok(Some(rows)),
        Count::Negative => return Err(negative(clause, sqlstate)),
        Count::Param(number) => params.get(usize::from(number)),
    };
    let param = param.ok_or_else(|| Refusal::error("08P01", format!("the parameter of {clause} was not bound")))?;
    let Some(bytes) = param.bytes else { return Ok(None) };
    let value = whole(bytes, *param, clause)?;
    u64::try_from(value).map(Some).map_err(|_| negative(clause, sqlstate))
}

fn negative(clause: &'static str, sqlstate: &'static str) -> Refusal {
    Refusal::error(sqlstate, format!("{clause} must not be negative"))
}

/// The parameter as a bigint, cast as an assignment would.
fn whole(bytes: &[u8], param: Input<'_>, clause: &'static str) -> Result<i64, Refusal> {
    let type_oid = match param.type_oid {
        0 => oid::INT8,
        declared if Datum::is_number(declared) => declared,
        declared => {
            let message = format!("argument of {clause} must be type bigint, not type {}", oid::name(declared));
            return Err(Refusal::error("42804", message));
        }
    };
    let exact = match type_oid {
        oid::INT2 if param.format == Format::Binary && bytes.len() != 2 => return Err(bad_binary("smallint")),
        oid::INT4 if param.format == Format::Binary && bytes.len() != 4 => return Err(bad_binary("integer")),
        oid::INT8 if param.format == Format::Binary && bytes.len() != 8 => return Err(bad_binary("bigint")),
        _ => Datum::read(Some(bytes), param.format, type_oid)?,
    };
    let value = match exact {
        Datum::Int(value) => Some(value),
        Datum::Numeric(value) => value.round_to_i64(),
        Datum::Float4(value) => round(f64::from(value)),
        Datum::Float8(value) => round(value),
        Datum::Null | Datum::Ordered(_) => None,
    };
    value.ok_or_else(|| Refusal::error("22003", "bigint out of range"))
}

/// A double as a bigint: to the nearest, halves to the even one.
fn round(value: f64) -> Option<i64> {
    let mut text = Vec::new();
    float::write8(value.round_ties_even(), &mut text);
    Numeric::parse(&text).ok()?.to_i64()
}
