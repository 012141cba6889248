//! Columns as keys: for ordering, for grouping, for DISTINCT.

use std::ops::Range;

use crate::catalog::Collation;
use crate::key::Format;
use crate::merge::number::Datum;
use crate::merge::row::{self, Row};
use crate::refusal::Refusal;
use crate::value::oid;
use crate::value::order::Kind;

/// A column whose values can be brought into their ordered form.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyColumn {
    pub(super) index: usize,
    pub(super) kind: Kind,
    pub(super) format: Format,
}

/// One key of an order.
#[derive(Clone, Copy, Debug)]
pub(super) struct OrderKey {
    pub(super) source: Source,
    pub(super) descending: bool,
    pub(super) nulls_first: bool,
}

/// Where the value of a key is found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    Column(KeyColumn),
    /// The result of the aggregate with this number.
    Result(usize),
}

impl KeyColumn {
    /// A column that can be compared for equality.
    pub(super) fn for_equality(
        index: usize,
        type_oid: u32,
        format: Format,
        collation: Collation,
    ) -> Result<Self, Refusal> {
        let kind = Kind::of(type_oid).ok_or_else(|| {
            Refusal::unsupported(
                format!("grouping values of type {} over several shards is not supported", oid::name(type_oid)),
                "Group by a value of a built-in scalar type, for example a cast to text, or name one sharding key.",
            )
        })?;
        if kind.has_collation() && collation == Collation::Nondeterministic {
            return Err(Refusal::unsupported(
                "grouping text under a collation where unlike strings may be equal is not supported over several shards",
                "Group by the value with COLLATE \"C\", or name one sharding key.",
            ));
        }
        if format == Format::Text && !kind.reads_text() {
            return Err(text_form(type_oid));
        }
        Ok(Self { index, kind, format })
    }

    /// A column that can be ordered.
    pub(super) fn for_order(
        index: usize,
        type_oid: u32,
        format: Format,
        collation: Collation,
        name: &str,
    ) -> Result<Self, Refusal> {
        let kind = Kind::of(type_oid).ok_or_else(|| {
            Refusal::unsupported(
                format!("ordering by {name} of type {} over several shards is not supported", oid::name(type_oid)),
                "Order by a value of a built-in scalar type, or name one sharding key.",
            )
        })?;
        if kind.has_collation() && collation != Collation::Bytes {
            return Err(Refusal::unsupported(
                format!("ordering by {name} needs the rules of a language, which only PostgreSQL knows"),
                format!("Use ORDER BY {name} COLLATE \"C\", or name one sharding key."),
            ));
        }
        if format == Format::Text && !kind.reads_text() {
            return Err(text_form(type_oid));
        }
        Ok(Self { index, kind, format })
    }

    /// Appends whether the value is NULL, then its ordered form.
    pub(super) fn write(
        &self,
        message: &[u8],
        fields: &[Option<Range<usize>>],
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        match fields.get(self.index).cloned().flatten() {
            None => out.push(0),
            Some(range) => {
                out.push(1);
                self.kind.write(&message[range], self.format, out)?;
            }
        }
        Ok(())
    }
}

impl OrderKey {
    /// Appends bytes that compare as this key orders its values.
    pub(super) fn write(&self, row: Row<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let start = out.len();
        // NULL stands before or after every value, also when the values are turned around.
        out.push(1);
        let null = match self.source {
            Source::Column(column) => match row::column(row.message, column.index)? {
                None => true,
                Some(bytes) => {
                    column.kind.write(bytes, column.format, out)?;
                    false
                }
            },
            Source::Result(number) => match row.results.get(number) {
                None | Some(Datum::Null) => true,
                Some(datum) => {
                    datum.write_ordered(out);
                    false
                }
            },
        };
        if null {
            out[start] = if self.nulls_first { 0 } else { 2 };
        } else if self.descending {
            for byte in &mut out[start + 1..] {
                *byte = !*byte;
            }
        }
        Ok(())
    }

    /// The whole order in one number, for a short kind.
    #[inline]
    pub(super) fn short(&self, column: KeyColumn, message: &[u8]) -> Result<u128, Refusal> {
        Ok(match row::column(message, column.index)? {
            None if self.nulls_first => 0,
            None => 2 << 64,
            Some(bytes) => {
                let value = column.kind.short(bytes, column.format)?;
                1 << 64 | u128::from(if self.descending { !value } else { value })
            }
        })
    }
}

fn text_form(type_oid: u32) -> Refusal {
    Refusal::unsupported(
        format!("the text form of type {} depends on settings and cannot be compared", oid::name(type_oid)),
        "Ask for the column in binary.",
    )
}
