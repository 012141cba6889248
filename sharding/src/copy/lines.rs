//! Text and CSV: a stream of bytes -> lines, as PostgreSQL cuts it.
//!
//! The first line end decides the style of all of them. In text a backslash protects a line end, in
//! CSV a quote does.

use memchr::{memchr_iter, memchr2, memchr3, memmem};

use crate::copy::{CopyFormat, CopyTarget, Field, ForceNull, Form, Splitter, csv, text};
use crate::key::Format;
use crate::map::{ShardId, ShardMap};
use crate::refusal::Refusal;

/// Where the search for line ends stands.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    quoting: Option<Quoting>,
    /// The first line is still to come and is a header.
    header: bool,
    end: EndMarker,
    line_end: Option<LineEnd>,
    /// How much of the unfinished line was searched already.
    searched: usize,
    marker: memmem::Finder<'static>,
}

/// A line `\\.`, with which old clients end the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndMarker {
    Awaited,
    /// What follows is not data.
    Seen,
    /// It is a field as any other.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Quoting {
    quote: u8,
    escape: u8,
    /// The search stands inside quotes.
    open: bool,
    /// The unfinished line has quotes: only within them can it have line ends.
    seen: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineEnd {
    Lf,
    Cr,
    CrLf,
}

/// A line end of another style than those before.
#[derive(Clone, Copy, Debug)]
struct Mixed {
    at: usize,
    found: LineEnd,
}

/// A line at the beginning of some bytes.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// Its length without the line end.
    content: usize,
    /// Its length with it.
    whole: usize,
    /// It has quotes that mean something.
    quoted: bool,
}

impl Splitter {
    /// [`Splitter::take_rows`] for text and CSV.
    pub(super) fn take_lines(
        &mut self,
        bytes: &[u8],
        last: bool,
        map: &ShardMap,
        out: &mut [Vec<u8>],
    ) -> Result<usize, Refusal> {
        let mut taken = 0;
        let Form::Lines(lines) = &self.form else { return Ok(0) };
        let may_have_marker = lines.end == EndMarker::Awaited && lines.marker.find(bytes).is_some();
        loop {
            let Form::Lines(lines) = &mut self.form else { return Ok(taken) };
            if lines.end == EndMarker::Seen {
                return Ok(bytes.len());
            }
            let rest = &bytes[taken..];
            let style = lines.line_end;
            let line = match lines.next(rest, last) {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(taken),
                Err(mixed) => {
                    let within = if lines.quoting.is_some() { ends_within(&rest[..mixed.at], style) } else { 0 };
                    let refusal = match &rest[..mixed.at] {
                        b"\\." if lines.end == EndMarker::Awaited => {
                            Refusal::error("22P04", "end-of-copy marker does not match previous newline style")
                        }
                        _ => lines.mixed(mixed.found),
                    };
                    let place = format!("COPY {}, line {}", self.copy.table, self.lines + 1 + within);
                    return Err(refusal.with_context(place));
                }
            };
            if line.whole > self.row_bytes_max {
                return Err(self.too_long());
            }
            taken += line.whole;
            let content = &rest[..line.content];
            if may_have_marker && lines.is_marker(content, line.whole > line.content)? {
                lines.end = EndMarker::Seen;
                continue;
            }
            let before = self.lines;
            self.lines += 1;
            let quoting = lines.quoting.is_some();
            if line.quoted {
                // Line ends inside quotes count as PostgreSQL counts them: by the style known so far.
                self.lines += ends_within(content, style);
            }
            if std::mem::take(&mut lines.header) {
                let names = self.header_fields();
                out.iter_mut().for_each(|shard| shard.extend([&names, &rest[..line.whole]].concat()));
                (0..out.len()).for_each(|shard| self.count(shard, before, self.lines - before));
                continue;
            }
            let (shard, found) = self.give_line(rest, line, map, out);
            let is_first = quoting && style.is_some() && self.maps.get(shard).is_none_or(|map| map.lines() == 0);
            if is_first {
                // A shard learns the style with its first line.
                let span = 1 + if line.quoted { ends_within(content, None) } else { 0 };
                let spanned = self.lines - before;
                self.map_of(shard).add_first(before, span, spanned);
            } else {
                self.count(shard, before, self.lines - before);
            }
            // The row is on a shard too: PostgreSQL's own error for it goes before this one.
            found?;
        }
    }

    /// Gives the line at the beginning of some bytes, with its added fields and times, to its shard, or to all shards as a row of a
    /// reference table. What is wrong with its key PostgreSQL can tell best: such a line goes to the first shard.
    #[inline]
    fn give_line(
        &mut self,
        rest: &[u8],
        line: Line,
        map: &ShardMap,
        out: &mut [Vec<u8>],
    ) -> (usize, Result<(), Refusal>) {
        if !self.copy.added.is_empty() {
            self.next_fields();
        }
        if self.copy.target == CopyTarget::Reference || !self.copy.moments.is_empty() {
            return self.give_told_line(rest, line, map, out);
        }
        let found = self.shard_of_line(&rest[..line.content], map);
        let shard = found.as_ref().map_or(0, |shard| usize::from(shard.0));
        out[shard].extend_from_slice(&self.added.prefix);
        out[shard].extend_from_slice(&rest[..line.whole]);
        (shard, found.map(drop))
    }

    /// The same for a line that may hold times, or that goes to all shards.
    fn give_told_line(
        &mut self,
        rest: &[u8],
        line: Line,
        map: &ShardMap,
        out: &mut [Vec<u8>],
    ) -> (usize, Result<(), Refusal>) {
        let content = &rest[..line.content];
        let told = match self.told(content) {
            Ok(told) => told,
            Err(refusal) => return (0, Err(refusal)),
        };
        let found = self.shard_of_line(content, map);
        let pieces = match &told {
            Some(told) => [&self.added.prefix, &**told, &rest[line.content..line.whole]],
            None => [&self.added.prefix, &rest[..line.whole], &[]],
        };
        if self.copy.target == CopyTarget::Reference {
            out.iter_mut().for_each(|shard| pieces.iter().for_each(|piece| shard.extend_from_slice(piece)));
            return (0, Ok(()));
        }
        let shard = found.as_ref().map_or(0, |shard| usize::from(shard.0));
        pieces.iter().for_each(|piece| out[shard].extend_from_slice(piece));
        (shard, found.map(drop))
    }

    #[inline]
    fn shard_of_line(&mut self, content: &[u8], map: &ShardMap) -> Result<ShardId, Refusal> {
        let CopyTarget::Sharded { field, .. } = self.copy.target else { return Ok(ShardId(0)) };
        if self.copy.key_is_added() {
            return self.shard_of_added(map);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let default = self.copy.key.default.as_deref();
        let key = match &self.copy.format {
            CopyFormat::Text { delimiter, null, .. } => {
                text::field(content, field, *delimiter, [Some(null), default], &mut scratch)
            }
            CopyFormat::Csv { delimiter, null, quote, escape, .. } => {
                let marks = [*delimiter, *quote, *escape];
                match (csv::field(content, field, marks, [Some(null), default], &mut scratch), self.copy.key.null) {
                    (Field::Null, ForceNull::NotNull) => Field::Value(null),
                    (Field::Value(value), ForceNull::Null) if value == null => Field::Null,
                    (found, _) => found,
                }
            }
            CopyFormat::Binary => Field::Missing,
        };
        let shard = self.shard(key, Format::Text, Some(content), map);
        self.scratch = scratch;
        shard
    }
}

/// Line ends within the quotes of a row, as PostgreSQL counts them.
#[inline]
fn ends_within(content: &[u8], style: Option<LineEnd>) -> u64 {
    let end = if style == Some(LineEnd::Lf) { b'\n' } else { b'\r' };
    memchr_iter(end, content).count() as u64
}

impl Lines {
    pub(super) fn text(header: bool) -> Self {
        let marker = memmem::Finder::new(b"\\.");
        Self { quoting: None, header, end: EndMarker::Awaited, line_end: None, searched: 0, marker }
    }

    pub(super) fn csv(header: bool, quote: u8, escape: u8) -> Self {
        Self { quoting: Some(Quoting { quote, escape, open: false, seen: false }), ..Self::text(header) }
    }

    fn line(&mut self, content: usize, whole: usize) -> Line {
        let quoted = self.quoting.as_mut().is_some_and(|quoting| std::mem::take(&mut quoting.seen));
        Line { content, whole, quoted }
    }

    /// How many rows end in `bytes`, which are looked at as if they came next.
    pub(super) fn rows_in(&self, bytes: &[u8], last: bool) -> usize {
        let mut lines = self.clone();
        let (mut taken, mut rows) = (0, 0);
        while let (false, Ok(Some(line))) = (lines.end == EndMarker::Seen, lines.next(&bytes[taken..], last)) {
            let content = &bytes[taken..taken + line.content];
            taken += line.whole;
            if lines.is_marker(content, line.whole > line.content).unwrap_or(true) {
                break;
            }
            if !std::mem::take(&mut lines.header) {
                rows += 1;
            }
        }
        rows
    }

    /// The line at the beginning of `bytes`; `None` when its end is not there yet.
    #[inline]
    fn next(&mut self, bytes: &[u8], last: bool) -> Result<Option<Line>, Mixed> {
        let mut from = std::mem::take(&mut self.searched);
        loop {
            let found = match &mut self.quoting {
                None => memchr2(b'\n', b'\r', bytes.get(from..).unwrap_or_default()).map(|at| from + at),
                Some(quoting) => match quoting.line_end(bytes, from) {
                    Ok(at) => Some(at),
                    Err(searched) => {
                        from = searched;
                        None
                    }
                },
            };
            let Some(at) = found else {
                if last && !bytes.is_empty() {
                    return Ok(Some(self.line(bytes.len(), bytes.len())));
                }
                self.searched = if self.quoting.is_some() { from } else { bytes.len() };
                return Ok(None);
            };
            if self.quoting.is_none() && is_escaped(bytes, at) {
                from = at + 1;
                continue;
            }
            if bytes[at] == b'\r' && self.line_end.is_none_or(|style| style == LineEnd::CrLf) {
                match bytes.get(at + 1) {
                    // Whether a newline follows is not known yet.
                    None if !last => {
                        self.searched = at;
                        return Ok(None);
                    }
                    Some(b'\n') => {
                        self.line_end = Some(LineEnd::CrLf);
                        return Ok(Some(self.line(at, at + 2)));
                    }
                    _ => {}
                }
            }
            let style = if bytes[at] == b'\r' { LineEnd::Cr } else { LineEnd::Lf };
            if *self.line_end.get_or_insert(style) != style {
                return Err(Mixed { at, found: style });
            }
            return Ok(Some(self.line(at, at + 1)));
        }
    }

    /// CSV has no end-of-data marker since PostgreSQL 18.
    pub(super) fn without_marker(&mut self) {
        if self.quoting.is_some() {
            self.end = EndMarker::Unknown;
        }
    }

    /// Whether a line is the end-of-data marker of old clients; without its line end it is none.
    ///
    /// # Errors
    /// `22P04` when, in text, something else stands on its line.
    fn is_marker(&self, content: &[u8], has_end: bool) -> Result<bool, Refusal> {
        if self.end == EndMarker::Unknown {
            return Ok(false);
        }
        if has_end && content == b"\\." {
            return Ok(true);
        }
        let stray = self.quoting.is_none() && self.marker.find_iter(content).any(|at| !is_escaped(content, at));
        if stray { Err(Refusal::error("22P04", "end-of-copy marker corrupt")) } else { Ok(false) }
    }

    fn mixed(&self, found: LineEnd) -> Refusal {
        let (name, escape) = if found == LineEnd::Lf { ("newline", "\\n") } else { ("carriage return", "\\r") };
        match self.quoting {
            None => Refusal::error("22P04", format!("literal {name} found in data"))
                .with_hint(format!("Use \"{escape}\" to represent {name}.")),
            Some(_) => Refusal::error("22P04", format!("unquoted {name} found in data"))
                .with_hint(format!("Use quoted CSV field to represent {name}.")),
        }
    }
}

impl Quoting {
    /// The next line end outside quotes from `from` on; else up to where was searched.
    #[inline]
    fn line_end(&mut self, bytes: &[u8], mut from: usize) -> Result<usize, usize> {
        loop {
            let rest = bytes.get(from..).unwrap_or_default();
            if !self.open {
                let at = from + memchr3(self.quote, b'\n', b'\r', rest).ok_or(bytes.len())?;
                if bytes[at] != self.quote {
                    return Ok(at);
                }
                (self.open, self.seen) = (true, true);
                from = at + 1;
                continue;
            }
            let at = from + memchr2(self.quote, self.escape, rest).ok_or(bytes.len())?;
            if bytes[at] == self.escape && self.escape != self.quote {
                // What it escapes decides nothing, so long as it is there.
                if at + 1 == bytes.len() {
                    return Err(at);
                }
                from = at + 2;
            } else {
                // A doubled quote closes and opens again.
                self.open = false;
                from = at + 1;
            }
        }
    }
}

/// Whether an odd number of backslashes stands before `at`.
#[inline]
fn is_escaped(bytes: &[u8], at: usize) -> bool {
    bytes[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}
