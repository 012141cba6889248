//! LIMIT and OFFSET.

use crate::key::{Format, Input};
use crate::plan::Count;
use crate::refusal::Refusal;
use crate::value::int::bad_binary;
use crate::value::{Numeric, float, oid};

use super::number::Datum;
use super::order_key::OrderKey;
use super::row::Row;

/// Lets a window of rows through.
#[derive(Debug)]
pub(super) struct Limit {
    skip: u64,
    /// `None` is no limit.
    left: Option<u64>,
    ties: Option<Ties>,
}

/// Rows that are equal to the last one of the window.
#[derive(Debug)]
struct Ties {
    keys: Vec<OrderKey>,
    last: Vec<u8>,
    /// The keys of the row at hand, kept only for its memory.
    key: Vec<u8>,
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
    /// The window of `LIMIT count OFFSET offset`; rows equal by [`Limit::with_ties`] are not in it yet.
    ///
    /// # Errors
    /// `2201X` and `2201W` for negative numbers, in the order PostgreSQL looks at them.
    pub(super) fn new(count: Option<Count>, offset: Option<Count>, params: &[Input<'_>]) -> Result<Self, Refusal> {
        let skip = offset.map(|offset| rows(offset, params, "OFFSET", "2201X")).transpose()?.flatten().unwrap_or(0);
        let left = count.map(|count| rows(count, params, "LIMIT", "2201W")).transpose()?.flatten();
        Ok(Self { skip, left, ties: None })
    }

    /// Lets the rows follow that are equal to the last one by these keys, of which there may be none.
    pub(super) fn with_ties(mut self, keys: Vec<OrderKey>) -> Self {
        self.ties = (!keys.is_empty()).then(|| Ties { keys, last: Vec::new(), key: Vec::new() });
        self
    }

    /// How many rows from below can matter; `None` when nobody knows.
    pub(super) fn reach(&self) -> Option<u64> {
        self.left.filter(|_| self.ties.is_none()).map(|left| left.saturating_add(self.skip))
    }

    /// Whether no row is let through at all; to be asked before the first.
    pub(super) fn is_empty(&self) -> bool {
        self.left == Some(0)
    }

    pub(super) fn window(&mut self, row: Row<'_>) -> Result<Window, Refusal> {
        match (&mut self.left, &mut self.ties) {
            (Some(0), None) => return Ok(Window::Past),
            (Some(0), Some(ties)) => return Ok(if ties.equals_last(row)? { Window::Take } else { Window::Past }),
            _ if self.skip > 0 => {
                self.skip -= 1;
                return Ok(Window::Skip);
            }
            (None, _) => return Ok(Window::Take),
            (Some(left), _) => *left -= 1,
        }
        match (&mut self.left, &mut self.ties) {
            (Some(0), None) => Ok(Window::TakeLast),
            (Some(0), Some(ties)) => {
                ties.remember(row)?;
                Ok(Window::Take)
            }
            _ => Ok(Window::Take),
        }
    }
}

impl Ties {
    fn remember(&mut self, row: Row<'_>) -> Result<(), Refusal> {
        self.last.clear();
        self.keys.iter().try_for_each(|key| key.write(row, &mut self.last))
    }

    fn equals_last(&mut self, row: Row<'_>) -> Result<bool, Refusal> {
        self.key.clear();
        self.keys.iter().try_for_each(|key| key.write(row, &mut self.key))?;
        Ok(self.key == self.last)
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
