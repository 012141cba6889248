//! One aggregate of one group: partial results come in, the result goes out.

use std::collections::HashSet;
use std::ops::Range;

use crate::catalog::Collation;
use crate::key::Format;
use crate::merge::build::Columns;
use crate::merge::memory::ENTRY_BYTES;
use crate::merge::number::Datum;
use crate::merge::order_key::KeyColumn;
use crate::plan::{Aggregate, AggregateFunction, BitOperation, ColumnRef, Measure};
use crate::refusal::Refusal;
use crate::value::int::Width;
use crate::value::{Moments, Numeric, oid};

/// What an aggregate does, found out once for all groups.
#[derive(Clone, Debug)]
pub(super) struct Combine {
    function: Function,
    /// The visible column that shows the result, and the format it is shown in.
    pub(super) output: Option<(usize, Format)>,
    /// The type of the result.
    pub(super) type_oid: u32,
}

/// A column of partial results that are numbers.
#[derive(Clone, Copy, Debug)]
struct Partial {
    index: usize,
    type_oid: u32,
    format: Format,
}

#[derive(Clone, Debug)]
enum Function {
    Count(Partial),
    Sum(Partial),
    Avg { sum: Partial, count: Partial },
    CountDistinct { value: KeyColumn, present: Partial, sorted: bool },
    Spread { measure: Measure, count: Partial, sum: Partial, squares: Partial },
    Bits { operation: BitOperation, bits: Partial },
    Extreme { value: KeyColumn, type_oid: u32, max: bool },
}

/// The state of one aggregate in one group.
#[derive(Clone, Debug)]
pub(super) enum Accumulator {
    Count(i64),
    /// Of sums and bits; NULL until something was added.
    Total(Datum),
    /// The sum of integers is exact in 128 bits and shown as numeric.
    Avg {
        sum: AvgSum,
        count: i64,
    },
    /// The different values in their ordered form.
    Distinct(HashSet<Box<[u8]>>),
    /// The same where equal ones are neighbours: only the last one is kept.
    Neighbours {
        count: i64,
        last: Vec<u8>,
    },
    Moments(Box<Moments>),
    Extreme(Box<Extreme>),
}

#[derive(Clone, Debug)]
pub(super) enum AvgSum {
    Int(i128),
    Numeric(Numeric),
    Float(f64),
}

/// The winner so far; empty before there is one.
#[derive(Clone, Debug, Default)]
pub(super) struct Extreme {
    found: bool,
    ordered: Vec<u8>,
    /// The value as it came, from the helper column.
    value: Vec<u8>,
    /// The field that is shown, from the same row.
    shown: Vec<u8>,
}

impl Combine {
    /// # Errors
    /// `0A000` when the partial results of this type cannot be combined exactly.
    pub(super) fn new(aggregate: &Aggregate, columns: &Columns) -> Result<Self, Refusal> {
        let output = aggregate.output.map(|output| columns.resolve(ColumnRef::Visible(output))).transpose()?;
        let shown = output.map(|index| columns.client_type(index));
        let (function, natural) = match aggregate.function {
            AggregateFunction::Count { count } => (Function::Count(partial(count, columns)?), oid::INT8),
            AggregateFunction::Sum { sum } => {
                let sum = partial(sum, columns)?;
                (Function::Sum(sum), sum.type_oid)
            }
            AggregateFunction::Avg { sum, count } => {
                let (sum, count) = (partial(sum, columns)?, partial(count, columns)?);
                let natural = if sum.type_oid == oid::FLOAT8 { oid::FLOAT8 } else { oid::NUMERIC };
                (Function::Avg { sum, count }, natural)
            }
            AggregateFunction::CountDistinct { value, present, sorted } => {
                let index = columns.resolve(value.column)?;
                let (type_oid, format) = (columns.shard_type(index), columns.format(index));
                let value = KeyColumn::for_equality(index, type_oid, format, value.collation)?;
                (Function::CountDistinct { value, present: partial(present, columns)?, sorted }, oid::INT8)
            }
            AggregateFunction::Spread { measure, count, sum, squares } => {
                let (count, sum) = (partial(count, columns)?, partial(sum, columns)?);
                (Function::Spread { measure, count, sum, squares: partial(squares, columns)? }, oid::NUMERIC)
            }
            AggregateFunction::Bits { operation, bits } => {
                let bits = partial(bits, columns)?;
                (Function::Bits { operation, bits }, bits.type_oid)
            }
            AggregateFunction::Min { value, collation } => extreme(value, collation, false, aggregate, columns)?,
            AggregateFunction::Max { value, collation } => extreme(value, collation, true, aggregate, columns)?,
        };
        let combine = Self {
            function,
            output: output.map(|index| (index, columns.format(index))),
            type_oid: shown.unwrap_or(natural),
        };
        if combine.is_exact() { Ok(combine) } else { Err(inexact(aggregate, &combine)) }
    }

    /// Whether partial results of these types add up to exactly what PostgreSQL shows.
    fn is_exact(&self) -> bool {
        match &self.function {
            Function::Count(count) => count.type_oid == oid::INT8 && self.type_oid == oid::INT8,
            Function::Sum(sum) => matches!(
                (sum.type_oid, self.type_oid),
                (oid::INT8, oid::INT8 | oid::NUMERIC)
                    | (oid::NUMERIC, oid::NUMERIC)
                    | (oid::FLOAT4, oid::FLOAT4)
                    | (oid::FLOAT8, oid::FLOAT8)
            ),
            Function::Avg { sum, count } => {
                let sums = matches!(
                    (sum.type_oid, self.type_oid),
                    (oid::INT8 | oid::NUMERIC, oid::NUMERIC) | (oid::FLOAT8, oid::FLOAT8)
                );
                sums && count.type_oid == oid::INT8
            }
            Function::CountDistinct { present, .. } => present.type_oid == oid::INT8 && self.type_oid == oid::INT8,
            Function::Spread { count, sum, squares, .. } => {
                let exact = matches!(sum.type_oid, oid::INT8 | oid::NUMERIC) && squares.type_oid == oid::NUMERIC;
                exact && count.type_oid == oid::INT8 && self.type_oid == oid::NUMERIC
            }
            Function::Bits { bits, .. } => Width::of(bits.type_oid).is_some() && self.type_oid == bits.type_oid,
            Function::Extreme { .. } => true,
        }
    }

    /// Whether the result is a floating-point number that is printed here.
    pub(super) fn prints_float(&self) -> bool {
        let computed = matches!(self.function, Function::Sum(_) | Function::Avg { .. });
        let text = self.output.is_some_and(|(_, format)| format == Format::Text);
        computed && text && matches!(self.type_oid, oid::FLOAT4 | oid::FLOAT8)
    }

    pub(super) fn start(&self) -> Accumulator {
        match &self.function {
            Function::Count(_) => Accumulator::Count(0),
            Function::Sum(_) | Function::Bits { .. } => Accumulator::Total(Datum::Null),
            Function::CountDistinct { sorted: true, .. } => Accumulator::Neighbours { count: 0, last: Vec::new() },
            Function::CountDistinct { .. } => Accumulator::Distinct(HashSet::new()),
            Function::Spread { .. } => Accumulator::Moments(Box::default()),
            Function::Avg { sum, .. } => Accumulator::Avg {
                sum: match sum.type_oid {
                    oid::INT8 => AvgSum::Int(0),
                    oid::NUMERIC => AvgSum::Numeric(Numeric::from(0)),
                    _ => AvgSum::Float(0.0),
                },
                count: 0,
            },
            Function::Extreme { .. } => Accumulator::Extreme(Box::default()),
        }
    }

    /// Takes the partial results of one row; returns how many bytes more are kept now.
    pub(super) fn add(
        &self,
        state: &mut Accumulator,
        message: &[u8],
        fields: &[Option<Range<usize>>],
        scratch: &mut Vec<u8>,
    ) -> Result<usize, Refusal> {
        match (&self.function, state) {
            (Function::Count(count), Accumulator::Count(total)) => {
                *total = add_count(*total, &count.read(message, fields)?)?;
            }
            (Function::Sum(sum), Accumulator::Total(total)) => add_sum(total, sum.read(message, fields)?)?,
            (Function::Avg { sum, count }, Accumulator::Avg { sum: total, count: rows }) => {
                *rows = add_count(*rows, &count.read(message, fields)?)?;
                add_avg(total, sum.read(message, fields)?)?;
            }
            (Function::Bits { operation, bits }, Accumulator::Total(total)) => {
                add_bits(total, *operation, bits.read(message, fields)?);
            }
            (Function::Spread { count, sum, squares, .. }, Accumulator::Moments(total)) => {
                total.count = add_count(total.count, &count.read(message, fields)?)?;
                for (total, partial) in [(&mut total.sum, sum), (&mut total.squares, squares)] {
                    if let Some(value) = partial.read(message, fields)?.to_numeric() {
                        *total = total.add(&value)?;
                    }
                }
            }
            (Function::CountDistinct { value, present, .. }, state) => {
                if matches!(present.read(message, fields)?, Datum::Int(1..)) {
                    scratch.clear();
                    value.write(message, fields, scratch)?;
                    return Ok(state.add_value(scratch));
                }
            }
            (Function::Extreme { value, max, .. }, Accumulator::Extreme(best)) => {
                let Some(range) = fields.get(value.index).cloned().flatten() else { return Ok(0) };
                let bytes = &message[range];
                scratch.clear();
                value.kind.write(bytes, value.format, scratch)?;
                let better = if *max { *scratch > best.ordered } else { *scratch < best.ordered };
                if better || !best.found {
                    let shown = self.output.and_then(|(index, _)| fields.get(index).cloned().flatten());
                    return Ok(best.replace(scratch, bytes, shown.map(|range| &message[range])));
                }
            }
            _ => {}
        }
        Ok(0)
    }

    /// The result, to be compared and sorted by.
    pub(super) fn result(&self, state: &Accumulator) -> Result<Datum, Refusal> {
        Ok(match state {
            Accumulator::Count(count) => Datum::Int(*count),
            Accumulator::Total(Datum::Int(sum)) if self.type_oid == oid::NUMERIC => {
                Datum::Numeric(Numeric::from(i128::from(*sum)))
            }
            Accumulator::Total(sum) => sum.clone(),
            Accumulator::Avg { count: ..=0, .. } => Datum::Null,
            Accumulator::Avg { sum, count } => {
                let rows = count.unsigned_abs();
                match sum {
                    AvgSum::Int(sum) => Datum::Numeric(Numeric::from(*sum).divide_by_count(rows)),
                    AvgSum::Numeric(sum) => Datum::Numeric(sum.divide_by_count(rows)),
                    #[expect(clippy::cast_precision_loss, reason = "PostgreSQL counts in a double")]
                    AvgSum::Float(sum) => Datum::Float8(sum / *count as f64),
                }
            }
            Accumulator::Neighbours { count, .. } => Datum::Int(*count),
            Accumulator::Distinct(seen) => Datum::Int(i64::try_from(seen.len()).unwrap_or(i64::MAX)),
            Accumulator::Moments(moments) => match &self.function {
                Function::Spread { measure, .. } => spread(moments, *measure)?.map_or(Datum::Null, Datum::Numeric),
                _ => Datum::Null,
            },
            Accumulator::Extreme(best) if !best.found => Datum::Null,
            Accumulator::Extreme(best) => match &self.function {
                Function::Extreme { value, type_oid, .. } if Datum::is_number(*type_oid) => {
                    Datum::read(Some(&best.value), value.format, *type_oid)?
                }
                _ => Datum::Ordered(best.ordered.clone()),
            },
        })
    }

    /// Appends the field that shows the result.
    pub(super) fn write(&self, state: &Accumulator, result: &Datum, format: Format, out: &mut Vec<u8>) {
        if matches!(result, Datum::Null) {
            return super::row::write_field(None, out);
        }
        if let Accumulator::Extreme(best) = state {
            return super::row::write_field(Some(&best.shown), out);
        }
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        match result {
            // Whole numbers are bigint but for bits.
            Datum::Int(bits) if format == Format::Binary && self.type_oid != oid::INT8 => {
                let narrow = &bits.to_be_bytes()[if self.type_oid == oid::INT2 { 6 } else { 4 }..];
                out.extend_from_slice(narrow);
            }
            result => result.write(format, out),
        }
        let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
}

impl Accumulator {
    /// Counts a value, given in its ordered form, unless it is known; returns how many bytes more are kept now.
    fn add_value(&mut self, value: &[u8]) -> usize {
        match self {
            Self::Distinct(seen) if !seen.contains(value) => {
                seen.insert(value.into());
                ENTRY_BYTES + value.len()
            }
            // No value's form is empty, so the first differs from what is there before it.
            Self::Neighbours { count, last } if last != value => {
                *count += 1;
                last.clear();
                last.extend_from_slice(value);
                0
            }
            _ => 0,
        }
    }
}

impl Partial {
    fn read(&self, message: &[u8], fields: &[Option<Range<usize>>]) -> Result<Datum, Refusal> {
        let bytes = fields.get(self.index).cloned().flatten().map(|range| &message[range]);
        Datum::read(bytes, self.format, self.type_oid)
    }
}

impl Extreme {
    fn replace(&mut self, ordered: &[u8], value: &[u8], shown: Option<&[u8]>) -> usize {
        let before = self.ordered.capacity() + self.value.capacity() + self.shown.capacity();
        self.found = true;
        for (kept, new) in
            [(&mut self.ordered, ordered), (&mut self.value, value), (&mut self.shown, shown.unwrap_or_default())]
        {
            kept.clear();
            kept.extend_from_slice(new);
        }
        let after = self.ordered.capacity() + self.value.capacity() + self.shown.capacity();
        after.saturating_sub(before)
    }
}

fn partial(column: ColumnRef, columns: &Columns) -> Result<Partial, Refusal> {
    let index = columns.resolve(column)?;
    Ok(Partial { index, type_oid: columns.shard_type(index), format: columns.format(index) })
}

fn extreme(
    column: ColumnRef,
    collation: Collation,
    max: bool,
    aggregate: &Aggregate,
    columns: &Columns,
) -> Result<(Function, u32), Refusal> {
    let index = columns.resolve(column)?;
    let type_oid = columns.shard_type(index);
    let value = KeyColumn::for_order(index, type_oid, columns.format(index), collation, &aggregate.name)?;
    Ok((Function::Extreme { value, type_oid, max }, type_oid))
}

fn add_count(total: i64, count: &Datum) -> Result<i64, Refusal> {
    match count {
        Datum::Int(count) => total.checked_add(*count).ok_or_else(bigint_out_of_range),
        _ => Ok(total),
    }
}

fn add_sum(total: &mut Datum, value: Datum) -> Result<(), Refusal> {
    *total = match (&*total, value) {
        (_, Datum::Null) => return Ok(()),
        (Datum::Int(a), Datum::Int(b)) => Datum::Int(a.checked_add(b).ok_or_else(bigint_out_of_range)?),
        (Datum::Numeric(a), Datum::Numeric(b)) => Datum::Numeric(a.add(&b)?),
        (Datum::Float4(a), Datum::Float4(b)) => {
            let sum = a + b;
            check_overflow(sum.is_infinite() && a.is_finite() && b.is_finite())?;
            Datum::Float4(sum)
        }
        (Datum::Float8(a), Datum::Float8(b)) => Datum::Float8(add_float(*a, b)?),
        (_, first) => first,
    };
    Ok(())
}

fn add_avg(total: &mut AvgSum, value: Datum) -> Result<(), Refusal> {
    match (total, value) {
        (AvgSum::Int(sum), Datum::Int(value)) => *sum += i128::from(value),
        (AvgSum::Numeric(sum), Datum::Numeric(value)) => *sum = sum.add(&value)?,
        (AvgSum::Float(sum), Datum::Float8(value)) => *sum = add_float(*sum, value)?,
        _ => {}
    }
    Ok(())
}

fn add_float(a: f64, b: f64) -> Result<f64, Refusal> {
    let sum = a + b;
    check_overflow(sum.is_infinite() && a.is_finite() && b.is_finite())?;
    Ok(sum)
}

fn add_bits(total: &mut Datum, operation: BitOperation, value: Datum) {
    *total = match (&*total, value) {
        (_, Datum::Null) => return,
        (Datum::Int(a), Datum::Int(b)) => Datum::Int(match operation {
            BitOperation::And => a & b,
            BitOperation::Or => a | b,
            BitOperation::Xor => a ^ b,
        }),
        (_, first) => first,
    };
}

fn spread(moments: &Moments, measure: Measure) -> Result<Option<Numeric>, Refusal> {
    match measure {
        Measure::VarSamp => moments.variance(true),
        Measure::VarPop => moments.variance(false),
        Measure::StddevSamp => moments.deviation(true),
        Measure::StddevPop => moments.deviation(false),
    }
}

fn check_overflow(overflow: bool) -> Result<(), Refusal> {
    if overflow { Err(Refusal::error("22003", "value out of range: overflow")) } else { Ok(()) }
}

fn bigint_out_of_range() -> Refusal {
    Refusal::error("22003", "bigint out of range")
}

fn inexact(aggregate: &Aggregate, combine: &Combine) -> Refusal {
    let partial = match &combine.function {
        Function::Count(partial) | Function::Sum(partial) | Function::Avg { sum: partial, .. } => partial.type_oid,
        Function::CountDistinct { present, .. } => present.type_oid,
        Function::Spread { squares, .. } => squares.type_oid,
        Function::Bits { bits, .. } => bits.type_oid,
        Function::Extreme { type_oid, .. } => *type_oid,
    };
    Refusal::unsupported(
        format!("{} over values of type {} cannot be merged exactly", aggregate.name, oid::name(partial)),
        "Aggregate a bigint, numeric or double precision value, or name one sharding key.",
    )
}
