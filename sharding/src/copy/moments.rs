//! Fields that say `now` or `today` in columns of dates and times: each server would read another time in them, so all get one in their
//! place.

use std::borrow::Cow;
use std::ops::Range;

use super::added::put_text;
use super::{CopyFormat, Field, ForceNull, Splitter, csv, text};
use crate::refusal::Refusal;
use crate::sql::moments::{Moment, Word, holds_moment, is_mark, is_moment};

/// A field in whose column texts may say `now`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MomentField {
    /// Its number in the data, counted from 0.
    pub field: u16,
    pub column: String,
    pub kind: MomentKind,
    pub null: ForceNull,
}

/// What its texts mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MomentKind {
    Date,
    Time,
    TimeTz,
    Timestamp,
    TimestampTz,
    /// An array, a range or a row, of which a part is one of the others.
    Parts,
}

/// What the words mean to a transaction, in texts that mean the same under all settings but the time zone of its session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// In the time zone of the session.
    pub timestamp: String,
    /// In UTC, with that zone.
    pub timestamptz: String,
    pub time: String,
    pub timetz: String,
    pub today: String,
    pub tomorrow: String,
    pub yesterday: String,
}

impl MomentKind {
    /// How texts for a type are read that may say `now`.
    pub fn of_type(type_oid: u32) -> Self {
        match type_oid {
            1082 => Self::Date,
            1083 => Self::Time,
            1114 => Self::Timestamp,
            1184 => Self::TimestampTz,
            1266 => Self::TimeTz,
            _ => Self::Parts,
        }
    }
}

impl Splitter {
    /// What the words mean that stand in the place of dates and times.
    #[must_use]
    pub fn at(mut self, times: Times) -> Self {
        self.times = times;
        self
    }

    /// A row with the times in it that its words mean; `None` when it has no such words.
    ///
    /// # Errors
    /// `0A000` when a field may be one that means another time on each shard, and the router cannot tell which.
    #[inline]
    pub(super) fn told(&self, row: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        if self.copy.moments.is_empty() || !is_suspect(&self.copy.format, row) {
            return Ok(None);
        }
        self.told_fields(row)
    }

    #[cold]
    fn told_fields(&self, row: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        let mut scratch = Vec::new();
        let mut told: Option<Vec<u8>> = None;
        for watched in &self.copy.moments {
            let row = told.as_deref().unwrap_or(row);
            let Some(value) = self.value(watched, row, &mut scratch).and_then(|value| std::str::from_utf8(value).ok())
            else {
                continue;
            };
            let Some(time) = self.time(watched, value)? else { continue };
            let Some(place) = self.place_in(row, watched.field) else { continue };
            let mut with = row[..place.start].to_vec();
            put_text(&mut with, &self.copy.format, time.as_bytes());
            with.extend_from_slice(&row[place.end..]);
            told = Some(with);
        }
        Ok(told)
    }

    /// The time that a field means, if it is one that each shard would read for itself.
    fn time(&self, watched: &MomentField, value: &str) -> Result<Option<Cow<'_, str>>, Refusal> {
        let times = &self.times;
        let may_vary = match watched.kind {
            MomentKind::Parts => holds_moment(value),
            _ => is_moment(value),
        };
        if !may_vary {
            return Ok(None);
        }
        let found = Moment::read(value).filter(|_| watched.kind != MomentKind::Parts);
        let time = match (found, watched.kind) {
            (Some(Moment { word: Word::Now, .. }), MomentKind::Time) => Cow::Borrowed(&*times.time),
            (Some(Moment { word: Word::Now, .. }), MomentKind::TimeTz) => Cow::Borrowed(&*times.timetz),
            (Some(Moment { word: Word::Now, .. }), MomentKind::TimestampTz) => Cow::Borrowed(&*times.timestamptz),
            (Some(Moment { word: Word::Now, .. }), _) => Cow::Borrowed(&*times.timestamp),
            // A day is no time of day: PostgreSQL refuses it.
            (Some(_), MomentKind::Time | MomentKind::TimeTz) => return Ok(None),
            (Some(Moment { word, time }), _) => {
                let day = match word {
                    Word::Tomorrow => &times.tomorrow,
                    Word::Yesterday => &times.yesterday,
                    _ => &times.today,
                };
                if time.is_empty() { Cow::Borrowed(&**day) } else { Cow::Owned(format!("{day} {time}")) }
            }
            (None, _) => return Err(self.unclear(watched, value)),
        };
        let null = match &self.copy.format {
            CopyFormat::Text { null, .. } | CopyFormat::Csv { null, .. } => null,
            CopyFormat::Binary => &Vec::new(),
        };
        let default = self.copy.key.default.as_deref();
        match time.is_empty() || null == time.as_bytes() || default == Some(time.as_bytes()) {
            true => Err(self.unclear(watched, value)),
            false => Ok(Some(time)),
        }
    }

    fn unclear(&self, watched: &MomentField, value: &str) -> Refusal {
        let message = format!("\"{value}\" in column \"{}\" may mean another time on each shard", watched.column);
        Refusal::unsupported(message, "Write the date and time into the data in digits.").with_context(format!(
            "{}, column {}: \"{value}\"",
            self.place(None),
            watched.column
        ))
    }

    /// What a field says, decoded; `None` for NULL, a default, or where there is none.
    fn value<'a>(&self, watched: &MomentField, row: &'a [u8], scratch: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        let default = self.copy.key.default.as_deref();
        let found = match &self.copy.format {
            CopyFormat::Text { delimiter, null, .. } => {
                text::field(row, watched.field, *delimiter, [Some(null), default], scratch)
            }
            CopyFormat::Csv { delimiter, null, quote, escape, .. } => {
                let null = Some(&**null).filter(|_| watched.null != ForceNull::NotNull);
                let marks = [*delimiter, *quote, *escape];
                match csv::field(row, watched.field, marks, [null, default], scratch) {
                    Field::Value(value) if watched.null == ForceNull::Null && Some(value) == null => Field::Null,
                    found => found,
                }
            }
            CopyFormat::Binary => Field::Missing,
        };
        match found {
            Field::Value(value) => Some(value),
            Field::Missing | Field::Null | Field::Default | Field::OpenQuote => None,
        }
    }

    fn place_in(&self, row: &[u8], field: u16) -> Option<Range<usize>> {
        match self.copy.format {
            CopyFormat::Text { delimiter, .. } => text::place(row, field, delimiter),
            CopyFormat::Csv { delimiter, quote, escape, .. } => csv::place(row, field, [delimiter, quote, escape]),
            CopyFormat::Binary => None,
        }
    }
}

/// Whether a row has letters that each of the words has, or may hide them behind escapes or quotes.
#[inline]
fn is_suspect(format: &CopyFormat, row: &[u8]) -> bool {
    let ends = |letter: u8| (letter | 0x20 == b'w') | (letter | 0x20 == b'y');
    match *format {
        CopyFormat::Text { .. } => any_pair(row, |first, second| {
            let hides = ends(second) | (second | 0x20 == b'x') | second.is_ascii_digit();
            is_mark(first, second) | ((first == b'\\') & hides)
        }),
        CopyFormat::Csv { quote, .. } => {
            any_pair(row, |first, second| is_mark(first, second) | ((first == quote) & ends(second)))
        }
        CopyFormat::Binary => false,
    }
}

/// Looks at every two neighbours, and never stops early: so many bytes are looked at in one step.
#[inline]
fn any_pair(bytes: &[u8], test: impl Fn(u8, u8) -> bool) -> bool {
    let behind = bytes.get(1..).unwrap_or_default();
    bytes.iter().zip(behind).fold(false, |found, (first, second)| found | test(*first, *second))
}
