//! A statement in which values are missing that the router gets before it runs: its text in pieces.

use std::fmt::Write;
use std::ops::Range;

use super::computed::{Computed, InsertEdit};
use crate::catalog::{Catalog, SequenceName};
use crate::sql::calls::{self, Call, CallKind};
use crate::sql::insert::InsertSpans;

use super::scope::parse_search_path;

/// A value that the router puts into a text.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// The next of a sequence.
    Next(Sequence),
    /// What the session got from a sequence last.
    Current(Sequence),
    /// What the session got last, from whichever sequence.
    Last,
    /// `sluice.unique_id()`
    UniqueId,
    /// `gen_random_uuid()`
    Uuid,
    /// What a server makes of an expression.
    Evaluated(Draft),
}

/// A sequence as a text names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// As text for `regclass`.
    pub written: String,
    /// The one that is meant, as far as the catalog knows.
    pub known: Option<SequenceName>,
}

/// The pieces of a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draft {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    /// As the client wrote it.
    Kept(Range<usize>),
    Added(String),
    Value(Wanted),
}

/// What stands for a missing value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given<'v> {
    /// A literal: the text of the value, NULL where there is none, and its type in SQL.
    Literal(Option<&'v str>, &'v str),
    /// The parameter `$n`, counted from 1, and its type in SQL.
    Param(usize, &'v str),
}

/// Finds the sequences that names stand for.
#[derive(Clone, Copy, Debug)]
pub struct Sequences<'c> {
    pub catalog: &'c Catalog,
    pub search_path: Option<&'c str>,
}

impl Sequences<'_> {
    /// With one shard they are that server's.
    fn are_routed(&self) -> bool {
        self.catalog.shards > 1
    }

    pub fn named(&self, written: &str) -> Sequence {
        Sequence { written: written.to_owned(), known: self.find(written) }
    }

    fn find(&self, written: &str) -> Option<SequenceName> {
        let (schema, name) = calls::sequence_name(written)?;
        let path = match schema {
            Some(schema) => vec![schema],
            None => self.search_path.map_or_else(|| self.catalog.search_path.clone(), parse_search_path),
        };
        let known = &self.catalog.sequences;
        let schema =
            path.into_iter().find(|schema| known.get(schema).is_some_and(|names| names.contains_key(&name)))?;
        Some(SequenceName { schema, name })
    }
}

impl Draft {
    /// The pieces of `text`; none when it is not what the plan was made for.
    pub fn of(text: &str, computed: &Computed, sequences: Sequences<'_>) -> Option<Self> {
        let mut draft = Self::default();
        let Some(edit) = &computed.insert else {
            draft.put_part(text, 0..text.len(), sequences, Naming::Columns);
            return Some(draft);
        };
        let spans = InsertSpans::of(text).filter(|spans| spans.rows.len() == edit.rows)?;
        draft.insert(text, edit, &spans, sequences);
        Some(draft)
    }

    fn insert(&mut self, text: &str, edit: &InsertEdit, spans: &InsertSpans, sequences: Sequences<'_>) {
        let mut kept = Kept { at: 0 };
        if let Some(list) = &spans.list {
            kept.up_to(self, list.end - 1);
            edit.added.iter().for_each(|(column, _)| self.add(&format!(", {column}")));
            kept.up_to(self, list.end);
        } else {
            kept.up_to(self, spans.table_end);
            let added = edit.added.iter().map(|(column, _)| column);
            let names: Vec<&str> = edit.list.iter().chain(added).map(String::as_str).collect();
            if !names.is_empty() {
                self.add(&format!(" ({})", names.join(", ")));
            }
        }
        if edit.overriding && spans.overriding.is_none() {
            self.add(" OVERRIDING SYSTEM VALUE");
        }
        if let Some(words) = &spans.default_values {
            kept.up_to(self, words.start);
            self.add("VALUES (");
            for (n, (_, value)) in edit.added.iter().enumerate() {
                self.add(if n == 0 { "" } else { ", " });
                self.put_cell(value, 0..value.len(), sequences, edit.is_evaluated(0, n));
            }
            self.add(")");
            kept.at = words.end;
        }
        for (row, cells) in spans.rows.iter().enumerate() {
            for (position, cell) in cells.cells.iter().enumerate() {
                let own = &text[cell.clone()];
                let default = edit.defaults.get(position).and_then(Option::as_deref);
                let default = default.filter(|_| own.eq_ignore_ascii_case("default"));
                let is_evaluated = edit.is_evaluated(row, position);
                if default.is_none() && !is_evaluated && !edit.calls {
                    continue;
                }
                kept.up_to(self, cell.start);
                match default {
                    Some(default) => self.put_cell(default, 0..default.len(), sequences, is_evaluated),
                    None => self.put_own_cell(text, cell.clone(), sequences, is_evaluated),
                }
                kept.at = cell.end;
            }
            kept.up_to(self, cells.close);
            for (n, (_, value)) in edit.added.iter().enumerate() {
                self.add(", ");
                self.put_cell(value, 0..value.len(), sequences, edit.is_evaluated(row, cells.cells.len() + n));
            }
        }
        kept.up_to(self, text.len());
    }

    fn add(&mut self, more: &str) {
        match self.pieces.last_mut() {
            Some(Piece::Added(text)) => text.push_str(more),
            _ => self.pieces.push(Piece::Added(more.to_owned())),
        }
    }

    /// A cell that the client has not written.
    fn put_cell(&mut self, value: &str, part: Range<usize>, sequences: Sequences<'_>, is_evaluated: bool) {
        let mut inner = Self::default();
        inner.put_part(value, part, sequences, Naming::Values { evaluated: is_evaluated });
        inner.own(value);
        self.take(inner, is_evaluated);
    }

    fn put_own_cell(&mut self, text: &str, cell: Range<usize>, sequences: Sequences<'_>, is_evaluated: bool) {
        let mut inner = Self::default();
        inner.put_part(text, cell, sequences, Naming::Values { evaluated: is_evaluated });
        self.take(inner, is_evaluated);
    }

    fn take(&mut self, inner: Self, is_evaluated: bool) {
        let is_value = matches!(inner.pieces.as_slice(), [Piece::Value(_)]);
        match is_evaluated && !is_value {
            true => self.pieces.push(Piece::Value(Wanted::Evaluated(inner))),
            false => self.pieces.extend(inner.pieces),
        }
    }

    /// A part of a text, with values in the place of calls.
    fn put_part(&mut self, text: &str, part: Range<usize>, sequences: Sequences<'_>, naming: Naming) {
        let mut kept = Kept { at: part.start };
        for Call { place, kind, names_column } in calls::find(text, part.clone()) {
            let name = kind.name();
            let wanted = match kind {
                CallKind::Next(_) | CallKind::Current(_) | CallKind::Last if !sequences.are_routed() => continue,
                CallKind::Next(written) => Wanted::Next(sequences.named(&written)),
                CallKind::Current(written) => Wanted::Current(sequences.named(&written)),
                CallKind::Last => Wanted::Last,
                CallKind::UniqueId => Wanted::UniqueId,
                // Any server makes as good ones; here only where it would be asked for nothing else.
                CallKind::Uuid if naming == (Naming::Values { evaluated: true }) && place == part => Wanted::Uuid,
                CallKind::Uuid | CallKind::Unread => continue,
            };
            kept.up_to(self, place.start);
            self.pieces.push(Piece::Value(wanted));
            kept.at = place.end;
            if names_column && naming == Naming::Columns {
                self.add(&format!(" AS {name}"));
            }
        }
        kept.up_to(self, part.end);
    }

    /// Pieces kept of a text that is not the client's become the draft's own.
    fn own(&mut self, text: &str) {
        for piece in &mut self.pieces {
            if let Piece::Kept(place) = piece {
                *piece = Piece::Added(text[place.clone()].to_owned());
            }
        }
    }

    /// The missing values in their order; those that an expression needs stand in it.
    pub fn wanted(&self) -> impl Iterator<Item = &Wanted> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Value(wanted) => Some(wanted),
            Piece::Kept(_) | Piece::Added(_) => None,
        })
    }

    /// The text with these values, one for each that is missing.
    pub fn text<'v>(&self, text: &str, values: impl IntoIterator<Item = Given<'v>>) -> String {
        let mut values = values.into_iter();
        let mut new = String::with_capacity(text.len() + 64);
        for piece in &self.pieces {
            match piece {
                Piece::Kept(place) => new.push_str(&text[place.clone()]),
                Piece::Added(more) => new.push_str(more),
                Piece::Value(_) => match values.next() {
                    Some(Given::Literal(Some(value), type_name)) => {
                        let mark = if value.contains('\\') { " E" } else { "" };
                        let value = value.replace('\'', "''").replace('\\', "\\\\");
                        let _ = write!(new, "{mark}'{value}'::{type_name}");
                    }
                    Some(Given::Param(number, type_name)) => {
                        let _ = write!(new, "${number}::{type_name}");
                    }
                    Some(Given::Literal(None, type_name)) => {
                        let _ = write!(new, "NULL::{type_name}");
                    }
                    None => new.push_str("NULL"),
                },
            }
        }
        new
    }

    /// Where in the client's text something stands that the text with the values has at `position`; both in bytes.
    pub fn position(&self, position: usize, new: &str, text: &str) -> usize {
        // What was kept stands in both in the same order.
        let mut at = 0;
        let mut last = 0;
        for piece in &self.pieces {
            match piece {
                Piece::Kept(place) => {
                    let kept = &text[place.clone()];
                    let Some(found) = new[at..].find(kept) else { return last };
                    let start = at + found;
                    if position < start {
                        return last;
                    }
                    if position < start + kept.len() {
                        return place.start + (position - start);
                    }
                    at = start + kept.len();
                    last = place.end;
                }
                Piece::Added(_) | Piece::Value(_) => {}
            }
        }
        last
    }
}

/// A text that PostgreSQL can read, with a number in the place of every `sluice.unique_id()`; none if there is none.
pub fn without_unique_ids(text: &str) -> Option<String> {
    let mut calls = calls::find(text, 0..text.len());
    calls.retain(|call| call.kind == CallKind::UniqueId);
    let mut new = String::with_capacity(text.len());
    let mut at = 0;
    for Call { place, kind, names_column } in &calls {
        let name = if *names_column { format!(" AS {}", kind.name()) } else { String::new() };
        let _ = write!(new, "{}'0'::pg_catalog.int8{name}", &text[at..place.start]);
        at = place.end;
    }
    new.push_str(&text[at..]);
    (!calls.is_empty()).then_some(new)
}

/// What the calls in a part of a text are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Naming {
    /// Maybe columns of an answer, which are named after them.
    Columns,
    /// A value of a row; a server is asked for it before.
    Values { evaluated: bool },
}

/// How far a text has been kept.
struct Kept {
    at: usize,
}

impl Kept {
    fn up_to(&mut self, draft: &mut Draft, end: usize) {
        if self.at < end {
            draft.pieces.push(Piece::Kept(self.at..end));
        }
        self.at = end;
    }
}
