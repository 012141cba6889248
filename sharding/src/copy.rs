//! COPY data -> the shard of every row; rows -> COPY data.

mod added;
mod binary;
mod csv;
mod line_map;
mod lines;
mod moments;
mod print;
mod text;

use std::borrow::Cow;

use crate::key::{Format, Input, KeyType};
use crate::map::{ShardId, ShardMap};
use crate::refusal::Refusal;

use added::Added;
pub use added::{AddedField, FieldCell, FieldValue};
use binary::Binary;
pub use moments::{MomentField, MomentKind, Times};
pub use print::{CopyQuery, ForceQuote, PrintForm, Printer};

use line_map::LineMap;
use lines::Lines;

/// A COPY ... FROM STDIN that is split by the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyFrom {
    pub target: CopyTarget,
    pub format: CopyFormat,
    /// As PostgreSQL names it in the CONTEXT of an error, without a schema.
    pub table: String,
    /// The name of the key column, empty for a reference table.
    pub key_column: String,
    pub key: KeyOptions,
    /// The table in SQL and the columns in the data, if some are left out, to be filled by their defaults.
    pub partial: Option<PartialRows>,
    /// What the router puts in front of each row; only where the data have not all columns.
    pub added: Vec<AddedField>,
    /// The fields in text or CSV in whose columns `now` is a time.
    pub moments: Vec<MomentField>,
}

/// What the table and the options say of the field with the key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyOptions {
    /// PostgreSQL itself refuses rows without a key, if it takes them at all.
    pub not_null: bool,
    pub null: ForceNull,
    /// What stands for the column's default.
    pub default: Option<Vec<u8>>,
    pub encoding: Encoding,
}

/// FORCE_NULL and FORCE_NOT_NULL of CSV.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForceNull {
    #[default]
    AsWritten,
    /// The NULL string is NULL in quotes, too.
    Null,
    /// The NULL string is a value.
    NotNull,
}

/// In which encoding the data are; bytes below 128 are ASCII in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    Utf8,
    Latin1,
    /// Another: a key of text can be read only if it is ASCII.
    Other,
}

/// A COPY whose data have not all columns of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialRows {
    /// With its schema as the client wrote it, quoted.
    pub relation: String,
    pub columns: Vec<Box<str>>,
}

/// Where the rows go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyTarget {
    /// By the key in the field with this number, counted from 0. A column of type `varchar(n)` keeps
    /// `stored_in` characters of it.
    Sharded { field: u16, key_type: KeyType, stored_in: Option<u32> },
    /// Every row to every shard.
    Reference,
}

/// The options of a COPY that matter for finding rows and fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    Text { delimiter: u8, null: Vec<u8>, header: bool },
    Csv { delimiter: u8, null: Vec<u8>, quote: u8, escape: u8, header: bool },
    Binary,
}

/// Cuts a stream of COPY data into rows and gives each to its shard.
///
/// Rows pass byte for byte; only the key is decoded. After an error the splitter is of no more use.
#[derive(Debug)]
pub struct Splitter {
    copy: CopyFrom,
    row_bytes_max: usize,
    lines: u64,
    form: Form,
    /// By shard.
    maps: Vec<LineMap>,
    added: Added,
    times: Times,
    /// The beginning of a row whose end has not come yet.
    pending: Vec<u8>,
    /// A decoded key, kept for its memory.
    scratch: Vec<u8>,
}

/// How rows are found.
#[derive(Debug)]
enum Form {
    Lines(Box<Lines>),
    Binary(Binary),
}

impl Form {
    /// How many rows end in these bytes.
    fn rows_in(&self, bytes: &[u8], last: bool) -> usize {
        match self {
            Self::Lines(lines) => lines.rows_in(bytes, last),
            Self::Binary(binary) => binary.rows_in(bytes),
        }
    }
}

/// The key field of a row, as the row has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field<'a> {
    /// The row ends before it.
    Missing,
    Null,
    /// Decoded.
    Value(&'a [u8]),
    /// The marker of the DEFAULT option.
    Default,
    /// CSV: a quote is still open at the end of the row.
    OpenQuote,
}

impl Splitter {
    /// `row_bytes_max` bounds one row; a longer one is refused with `54000`.
    pub fn new(copy: &CopyFrom, row_bytes_max: usize) -> Self {
        let form = match copy.format {
            CopyFormat::Binary => Form::Binary(Binary::default()),
            CopyFormat::Text { header, .. } => Form::Lines(Box::new(Lines::text(header))),
            CopyFormat::Csv { header, quote, escape, .. } => Form::Lines(Box::new(Lines::csv(header, quote, escape))),
        };
        Self {
            copy: copy.clone(),
            row_bytes_max,
            lines: 0,
            form,
            maps: Vec::new(),
            added: Added::default(),
            times: Times::default(),
            pending: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// For servers of this major version.
    #[must_use]
    pub fn for_version(mut self, major: u32) -> Self {
        if let (Form::Lines(lines), 18..) = (&mut self.form, major) {
            lines.without_marker();
        }
        self
    }

    /// Takes the next bytes of the stream, cut anywhere, and appends whole rows to the buffer of
    /// their shard: `out[shard]`. A header line goes to every shard that is used (all), because
    /// each runs the same COPY statement. A reference table's data goes to every shard as it is, but for times that each would read
    /// for itself.
    ///
    /// # Errors
    /// PostgreSQL's error for the row, with the line in its context: a key that does not parse
    /// (`22P02`), a NULL key (`23502`), a missing field (`22P04`).
    pub fn push(&mut self, data: &[u8], map: &ShardMap, out: &mut [Vec<u8>]) -> Result<(), Refusal> {
        assert!(out.len() >= usize::from(map.shards()), "COPY has a buffer for every shard");
        if self.passes_whole() {
            out.iter_mut().for_each(|shard| shard.extend_from_slice(data));
            self.lines += memchr::memchr_iter(b'\n', data).count() as u64;
            return Ok(());
        }
        let mut pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            let taken = self.take_rows(data, false, map, out)?;
            pending.extend_from_slice(&data[taken..]);
        } else {
            pending.extend_from_slice(data);
            let taken = self.take_rows(&pending, false, map, out)?;
            pending.drain(..taken);
        }
        if pending.len() > self.row_bytes_max {
            return Err(self.too_long());
        }
        self.pending = pending;
        Ok(())
    }

    /// The stream has ended: a last row without a line end is taken too, and binary COPY's trailer
    /// goes to every shard.
    ///
    /// # Errors
    /// As [`Splitter::push`]; also a quote that is still open.
    pub fn finish(&mut self, map: &ShardMap, out: &mut [Vec<u8>]) -> Result<(), Refusal> {
        if self.passes_whole() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        self.take_rows(&pending, true, map, out)?;
        Ok(())
    }

    /// Every shard gets the data as they are.
    fn passes_whole(&self) -> bool {
        self.copy.target == CopyTarget::Reference && self.copy.added.is_empty() && self.copy.moments.is_empty()
    }

    /// The CONTEXT of a shard's error with the line that the client counts, and that line; `None` if it names no line.
    pub fn place_of(&self, shard: ShardId, context: &str) -> Option<(u64, String)> {
        let head = format!("COPY {}, line ", self.copy.table);
        let at = match context.starts_with(&head) {
            true => 0,
            false => context.find(&format!("\n{head}"))? + 1,
        } + head.len();
        let digits = context[at..].bytes().take_while(u8::is_ascii_digit).count();
        let local: u64 = context[at..at + digits].parse().ok()?;
        let map = self.maps.get(usize::from(shard.0));
        let global = match (self.copy.target, map) {
            (CopyTarget::Reference, _) | (_, None) => local,
            // Behind its last row the shard has met the end of the data.
            (_, Some(map)) if local > map.lines() => self.lines + local - map.lines(),
            (_, Some(map)) => map.global(local)?,
        };
        let behind = &context[at + digits..];
        let behind = match behind.strip_prefix(": \"").filter(|_| !self.copy.added.is_empty()) {
            Some(line) => Cow::Owned(format!(": \"{}", self.own_line(line))),
            None => Cow::Borrowed(behind),
        };
        Some((global, format!("{}{global}{behind}", &context[..at])))
    }

    /// Where an error is that ends the data before the next row.
    pub fn place_behind(&self) -> String {
        format!("COPY {}, line {}", self.copy.table, self.lines + 1)
    }

    /// A row goes to a shard, which counts `span` lines for it; `before` lines came before it.
    #[inline]
    fn count(&mut self, shard: usize, before: u64, span: u64) {
        self.map_of(shard).add(before, span);
    }

    fn map_of(&mut self, shard: usize) -> &mut LineMap {
        if shard >= self.maps.len() {
            self.maps.resize_with(shard + 1, LineMap::default);
        }
        &mut self.maps[shard]
    }

    /// Lines taken so far, counted from 1 in PostgreSQL's messages.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Takes all whole rows at the beginning of `bytes` and returns how many bytes that were; with
    /// `last`, no more bytes will follow.
    fn take_rows(&mut self, bytes: &[u8], last: bool, map: &ShardMap, out: &mut [Vec<u8>]) -> Result<usize, Refusal> {
        let taken = match self.form {
            Form::Lines(_) => self.take_lines(bytes, last, map, out),
            Form::Binary(_) => self.take_tuples(bytes, last, map, out),
        };
        // An error that does not know its place is in the row that is not yet counted.
        taken.map_err(|refusal| match refusal.context {
            Some(_) => refusal,
            None => refusal.with_context(format!("COPY {}, line {}", self.copy.table, self.lines + 1)),
        })
    }

    /// The shard of a row by its key field; `line` is shown in errors.
    fn shard(&self, field: Field<'_>, format: Format, line: Option<&[u8]>, map: &ShardMap) -> Result<ShardId, Refusal> {
        let CopyTarget::Sharded { key_type, stored_in, .. } = self.copy.target else { return Ok(ShardId(0)) };
        let column = &self.copy.key_column;
        if self.copy.key_is_added() {
            return self.shard_of_added(map);
        }
        let decoded;
        let value = match field {
            Field::Value(value) if format == Format::Text && key_type == KeyType::Text && !value.is_ascii() => {
                match self.copy.key.encoding {
                    Encoding::Utf8 => value,
                    Encoding::Latin1 => {
                        decoded = value.iter().map(|byte| char::from(*byte)).collect::<String>();
                        decoded.as_bytes()
                    }
                    Encoding::Other => return Err(unread_key(column, self.place(None))),
                }
            }
            Field::Value(value) => value,
            Field::Default => return Err(default_key(column, self.place(line))),
            Field::Null if self.copy.key.not_null => return Ok(ShardId(0)),
            Field::Null => {
                let table = self.copy.table.rsplit('.').next().unwrap_or_default();
                let message =
                    format!("null value in column \"{column}\" of relation \"{table}\" violates not-null constraint");
                return Err(Refusal::error("23502", message).with_context(self.place(line)));
            }
            Field::Missing => {
                let message = format!("missing data for column \"{column}\"");
                return Err(Refusal::error("22P04", message).with_context(self.place(line)));
            }
            Field::OpenQuote => {
                return Err(Refusal::error("22P04", "unterminated CSV quoted field").with_context(self.place(line)));
            }
        };
        let input = Input { bytes: Some(value), format, type_oid: 0 };
        match key_type.coerce(input) {
            Ok(Some(key)) => Ok(map.shard_of(&match stored_in {
                Some(characters) => key.stored_in(characters),
                None => key,
            })),
            Ok(None) => Err(Refusal::error("22P03", "incorrect binary data format").with_context(self.place(line))),
            Err(refusal) => {
                let (refusal, shown) = match format {
                    Format::Text => (refusal, format!(": \"{}\"", excerpt(value))),
                    Format::Binary => (Refusal::error("22P03", "incorrect binary data format"), String::new()),
                };
                Err(refusal.with_context(format!("{}, column {column}{shown}", self.place(None))))
            }
        }
    }

    /// The shard of a row whose key is not in the data.
    fn shard_of_added(&self, map: &ShardMap) -> Result<ShardId, Refusal> {
        let CopyTarget::Sharded { key_type, stored_in, .. } = self.copy.target else { return Ok(ShardId(0)) };
        let value = self.added.key.as_deref().map(str::as_bytes);
        let key = key_type.coerce(Input { bytes: value, format: Format::Text, type_oid: 0 });
        let key = key.map_err(|refusal| refusal.with_context(self.place(None)))?;
        Ok(key.map_or(ShardId(0), |key| {
            map.shard_of(&match stored_in {
                Some(characters) => key.stored_in(characters),
                None => key,
            })
        }))
    }

    /// Where in the data an error is, as PostgreSQL tells it.
    fn place(&self, line: Option<&[u8]>) -> String {
        let place = format!("COPY {}, line {}", self.copy.table, self.lines);
        match line {
            Some(line) => format!("{place}: \"{}\"", excerpt(line)),
            None => place,
        }
    }

    fn too_long(&self) -> Refusal {
        let message = format!("a row of COPY data is longer than {} bytes", self.row_bytes_max);
        Refusal::error("54000", message).with_context(format!("COPY {}, line {}", self.copy.table, self.lines + 1))
    }
}

fn unread_key(column: &str, place: String) -> Refusal {
    let message = format!("the sharding key \"{column}\" is not ASCII, and the data are not in UTF8");
    Refusal::unsupported(message, "Convert the data to UTF8.").with_context(place)
}

fn default_key(column: &str, place: String) -> Refusal {
    let message = format!("the sharding key \"{column}\" is to have its default");
    Refusal::unsupported(message, "Write the value of the sharding key into the data.").with_context(place)
}

/// At most a hundred bytes of a value or line, cut between characters.
fn excerpt(bytes: &[u8]) -> Cow<'_, str> {
    const SHOWN_BYTES_MAX: usize = 100;
    if bytes.len() <= SHOWN_BYTES_MAX {
        return String::from_utf8_lossy(bytes);
    }
    let mut end = SHOWN_BYTES_MAX;
    while end > 0 && bytes[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    Cow::Owned(format!("{}...", String::from_utf8_lossy(&bytes[..end])))
}
