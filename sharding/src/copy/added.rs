//! Fields that the router puts in front of each row: what the data leave to defaults that no shard may evaluate for itself.

use std::collections::VecDeque;
use std::fmt::Write;

use super::{CopyFormat, CopyFrom, Splitter};
use crate::sql::lex::Lexer;

/// A column that is not in the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedField {
    pub name: String,
    pub value: FieldValue,
    pub is_key: bool,
}

/// What its field gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldValue {
    /// The next value of the sequence that this text means as `regclass`; in binary an integer of so many bytes.
    Next { sequence: String, bytes: usize },
    /// A random UUID.
    Uuid,
    /// In all rows what a server makes of an expression in SQL once.
    Once(String),
}

/// A value for one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldCell {
    Id(i64),
    Uuid([u8; 16]),
    /// `None` is NULL.
    Text(Option<String>),
    /// In PostgreSQL's binary form.
    Binary(Vec<u8>),
}

/// The fields of the row at hand, and where they come from.
#[derive(Debug, Default)]
pub(super) struct Added {
    /// One cell for each field of each row that comes.
    given: VecDeque<FieldCell>,
    /// As it stands in the data before the row's own fields.
    pub prefix: Vec<u8>,
    /// Its key as text, if that is added.
    pub key: Option<String>,
}

impl CopyFrom {
    /// The command with the added columns in front of its list.
    pub fn with_added(&self, text: &str) -> String {
        let open = Lexer::new(text).find(|token| &text[token.start..token.end] == "(");
        let Some(open) = open.filter(|_| !self.added.is_empty()) else { return text.to_owned() };
        let names: Vec<String> = self.added.iter().map(|field| crate::plan::quoted(&field.name)).collect();
        format!("{}{}, {}", &text[..open.end], names.join(", "), &text[open.end..])
    }

    pub(super) fn key_is_added(&self) -> bool {
        self.added.iter().any(|field| field.is_key)
    }
}

impl Splitter {
    /// How many rows begin in the data at hand and `data`, which are pushed next. Each wants a cell for every added field.
    pub fn rows_ahead(&self, data: &[u8], last: bool) -> usize {
        if self.copy.added.is_empty() {
            return 0;
        }
        let joined;
        let bytes = match self.pending.is_empty() {
            true => data,
            false => {
                joined = [&self.pending, data].concat();
                &joined
            }
        };
        self.form.rows_in(bytes, last)
    }

    /// Takes the cells of the rows that come next, in the order of the rows and of the fields in each.
    pub fn give(&mut self, cells: impl IntoIterator<Item = FieldCell>) {
        self.added.given.extend(cells);
    }

    /// Makes the fields for the next row. Without any given, the row is left as it is: its shard refuses it.
    pub(super) fn next_fields(&mut self) {
        self.added.prefix.clear();
        self.added.key = None;
        for field in &self.copy.added {
            let Some(cell) = self.added.given.pop_front() else { return };
            if field.is_key {
                self.added.key = cell.text();
            }
            put(&mut self.added.prefix, &self.copy.format, field, &cell);
        }
    }

    /// The fields for a line of names.
    pub(super) fn header_fields(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for field in &self.copy.added {
            put(&mut out, &self.copy.format, field, &FieldCell::Text(Some(field.name.clone())));
        }
        out
    }

    /// A line as a shard's error shows it, without what was put in front of it.
    pub(super) fn own_line<'t>(&self, shown: &'t str) -> &'t str {
        let mark = match self.copy.format {
            CopyFormat::Text { delimiter, .. } | CopyFormat::Csv { delimiter, .. } => char::from(delimiter),
            CopyFormat::Binary => return shown,
        };
        self.copy.added.iter().fold(shown, |rest, _| rest.split_once(mark).map_or(rest, |(_, rest)| rest))
    }
}

impl FieldCell {
    fn text(&self) -> Option<String> {
        match self {
            Self::Id(id) => Some(id.to_string()),
            Self::Uuid(bytes) => Some(bytes.iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })),
            Self::Text(text) => text.clone(),
            Self::Binary(_) => None,
        }
    }
}

fn put(out: &mut Vec<u8>, format: &CopyFormat, field: &AddedField, cell: &FieldCell) {
    match (format, cell.text()) {
        (CopyFormat::Binary, _) => match (cell, &field.value) {
            (FieldCell::Id(id), FieldValue::Next { bytes, .. }) => {
                let bytes = (*bytes).min(8);
                out.extend_from_slice(&(bytes as u32).to_be_bytes());
                out.extend_from_slice(&id.to_be_bytes()[8 - bytes..]);
            }
            (FieldCell::Uuid(uuid), _) => {
                out.extend_from_slice(&16_u32.to_be_bytes());
                out.extend_from_slice(uuid);
            }
            (FieldCell::Binary(value), _) => {
                out.extend_from_slice(&(value.len() as u32).to_be_bytes());
                out.extend_from_slice(value);
            }
            _ => out.extend_from_slice(&(-1_i32).to_be_bytes()),
        },
        (CopyFormat::Text { null, delimiter, .. }, None) | (CopyFormat::Csv { null, delimiter, .. }, None) => {
            out.extend_from_slice(null);
            out.push(*delimiter);
        }
        (CopyFormat::Csv { delimiter, .. }, Some(text)) if !matches!(cell, FieldCell::Text(_)) => {
            out.extend_from_slice(text.as_bytes());
            out.push(*delimiter);
        }
        (CopyFormat::Text { delimiter, .. } | CopyFormat::Csv { delimiter, .. }, Some(text)) => {
            put_text(out, format, text.as_bytes());
            out.push(*delimiter);
        }
    }
}

/// A value as it stands in a row of text or CSV: there in quotes.
pub(super) fn put_text(out: &mut Vec<u8>, format: &CopyFormat, text: &[u8]) {
    match format {
        CopyFormat::Text { delimiter, .. } => {
            for byte in text {
                match byte {
                    b'\n' => out.extend_from_slice(b"\\n"),
                    b'\r' => out.extend_from_slice(b"\\r"),
                    byte if byte == delimiter || *byte == b'\\' => out.extend_from_slice(&[b'\\', *byte]),
                    byte => out.push(*byte),
                }
            }
        }
        CopyFormat::Csv { quote, escape, .. } => {
            out.push(*quote);
            for byte in text {
                if byte == quote || byte == escape {
                    out.push(*escape);
                }
                out.push(*byte);
            }
            out.push(*quote);
        }
        CopyFormat::Binary => {}
    }
}
