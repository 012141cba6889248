//! What a SHOW command answers: columns and rows of text.

use std::fmt;

use bytes::BytesMut;

use crate::protocol::ErrorFields;
use crate::protocol::backend::{self, Field};

/// The types of columns, as PgBouncer declares them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Text,
    Int4,
    Int8,
    Numeric,
}

impl Type {
    pub fn oid(self) -> u32 {
        match self {
            Self::Text => 25,
            Self::Int4 => 23,
            Self::Int8 => 20,
            Self::Numeric => 1700,
        }
    }

    fn size(self) -> i16 {
        match self {
            Self::Text | Self::Numeric => -1,
            Self::Int4 => 4,
            Self::Int8 => 8,
        }
    }
}

impl Type {
    /// PostgreSQL's binary format of a value that was printed by this module.
    fn binary(self, text: &str) -> Vec<u8> {
        match self {
            Self::Text => text.as_bytes().to_vec(),
            Self::Int4 => text.parse::<i32>().unwrap_or(i32::MAX).to_be_bytes().to_vec(),
            Self::Int8 => text.parse::<i64>().unwrap_or(i64::MAX).to_be_bytes().to_vec(),
            Self::Numeric => numeric(text),
        }
    }
}

/// A number with at most four decimals as `numeric`: digits to the base 10000, the highest first.
fn numeric(text: &str) -> Vec<u8> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let mut value = whole.parse().unwrap_or(u64::MAX);
    let mut digits = Vec::new();
    if !decimals.is_empty() {
        digits.push(format!("{decimals:0<4}").parse().unwrap_or_default());
    }
    let behind = digits.len();
    while value > 0 {
        digits.push(u16::try_from(value % 10_000).unwrap_or_default());
        value /= 10_000;
    }
    let count = |n: usize| u16::try_from(n).unwrap_or_default();
    // The weight of the first digit, -1 when it stands behind the point.
    let weight = if digits.is_empty() { 0 } else { count(digits.len() - behind).wrapping_sub(1) };
    let header = [count(digits.len()), weight, 0, count(decimals.len())];
    header.into_iter().chain(digits.into_iter().rev()).flat_map(u16::to_be_bytes).collect()
}

/// The format of a column: `formats` holds none, one for all, or one for each.
fn format_of(formats: &[i16], column: usize) -> i16 {
    match formats {
        [] => 0,
        [all] => *all,
        each => each.get(column).copied().unwrap_or(0),
    }
}

/// A cell; `None` is NULL.
pub type Cell = Option<String>;

/// Any value as a cell.
pub(super) fn cell(value: impl fmt::Display) -> Cell {
    Some(value.to_string())
}

/// Columns and rows; every row has as many cells as there are columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub columns: Vec<(String, Type)>,
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(columns: &[(&str, Type)]) -> Self {
        Self { columns: columns.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect(), rows: Vec::new() }
    }

    pub fn push(&mut self, row: Vec<Cell>) {
        assert_eq!(row.len(), self.columns.len(), "a row has as many cells as the table has columns");
        self.rows.push(row);
    }

    pub fn with_rows(mut self, rows: impl IntoIterator<Item = Vec<Cell>>) -> Self {
        rows.into_iter().for_each(|row| self.push(row));
        self
    }

    /// The RowDescription, all columns in text format.
    pub fn encode_description(&self, out: &mut BytesMut) {
        self.encode_description_in(&[], out);
    }

    /// The RowDescription; `formats` as in Bind: none, one for all, or one for each column.
    pub fn encode_description_in(&self, formats: &[i16], out: &mut BytesMut) {
        let field = |(at, (name, kind)): (usize, &(String, Type))| Field {
            type_oid: kind.oid(),
            type_size: kind.size(),
            format: format_of(formats, at),
            ..Field::text(name.as_str())
        };
        backend::row_description(out, &self.columns.iter().enumerate().map(field).collect::<Vec<_>>());
    }

    /// All rows.
    ///
    /// # Errors
    /// Formats that do not fit the columns.
    pub fn encode_rows(&self, formats: &[i16], out: &mut BytesMut) -> Result<(), ErrorFields> {
        if formats.len() > 1 && formats.len() != self.columns.len() {
            let message = format!(
                "bind message has {} result formats but query has {} columns",
                formats.len(),
                self.columns.len()
            );
            return Err(ErrorFields::error("08P01", message));
        }
        for row in &self.rows {
            let encode = |(at, (cell, (_, kind))): (usize, (&Cell, &(String, Type)))| {
                cell.as_ref().map(|text| match format_of(formats, at) {
                    0 => text.clone().into_bytes(),
                    _ => kind.binary(text),
                })
            };
            let cells: Vec<Option<Vec<u8>>> = row.iter().zip(&self.columns).enumerate().map(encode).collect();
            backend::data_row(out, &cells);
        }
        Ok(())
    }
}

/// Aligned columns, as golden tests and people read them.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |cell: &Cell| cell.clone().unwrap_or_else(|| "NULL".to_owned());
        let mut lines: Vec<Vec<String>> = vec![self.columns.iter().map(|(name, _)| name.clone()).collect()];
        lines.extend(self.rows.iter().map(|row| row.iter().map(text).collect()));
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        for line in &lines {
            let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            writeln!(f, "{}", cells.join(" | ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_binary_are_postgresqls() {
        assert_eq!(numeric("0"), [0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(numeric("12.5"), [0, 2, 0, 0, 0, 0, 0, 1, 0, 12, 19, 136]);
        assert_eq!(numeric("0.25"), [0, 1, 255, 255, 0, 0, 0, 2, 9, 196]);
        // 1 2345 6789: three digits, weight 2.
        assert_eq!(numeric("123456789"), [0, 3, 0, 2, 0, 0, 0, 0, 0, 1, 9, 41, 26, 133]);
        assert_eq!(Type::Int4.binary("7"), [0, 0, 0, 7]);
    }
}
