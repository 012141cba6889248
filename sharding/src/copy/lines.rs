//! Text and CSV: a stream of bytes -> lines, as PostgreSQL cuts it.
//!
//! The first line end decides the style of all of them. In text a backslash protects a line end, in
//! CSV a quote does.

use memchr::{memchr_iter, memchr2, memchr3, memmem};

use crate::copy::{CopyFormat, CopyTarget, Field, Form, Splitter, csv, text};
use crate::key::Format;
use crate::map::ShardMap;
use crate::refusal::Refusal;

/// Where the search for line ends stands.
#[derive(Debug)]
pub(super) struct Lines {
    quoting: Option<Quoting>,
    /// The first line is still to come and is a header.
    header: bool,
    /// `\\.` was seen: what follows is not data.
    ended: bool,
    line_end: Option<LineEnd>,
    /// How much of the unfinished line was searched already.
    searched: usize,
    marker: memmem::Finder<'static>,
}

#[derive(Clone, Copy, Debug)]
struct Quoting {
    quote: u8,
    escape: u8,
    /// The search stands inside quotes.
    open: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineEnd {
    Lf,
    Cr,
    CrLf,
}

/// A line at the beginning of some bytes.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// Its length without the line end.
    content: usize,
    /// Its length with it.
    whole: usize,
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
        let may_have_marker = lines.marker.find(bytes).is_some();
        loop {
            let Form::Lines(lines) = &mut self.form else { return Ok(taken) };
            if lines.ended {
                return Ok(bytes.len());
            }
            let rest = &bytes[taken..];
            let style = lines.line_end;
            let Some(line) = lines.next(rest, last)? else {
                return Ok(taken);
            };
            if line.whole > self.row_bytes_max {
                return Err(self.too_long());
            }
            taken += line.whole;
            let content = &rest[..line.content];
            if may_have_marker && lines.is_marker(content)? {
                lines.ended = true;
                continue;
            }
            self.lines += 1;
            if lines.quoting.is_some() {
                // Line ends inside quotes count as PostgreSQL counts them: by the style known so far.
                let end = if style == Some(LineEnd::Lf) { b'\n' } else { b'\r' };
                self.lines += memchr_iter(end, content).count() as u64;
            }
            if std::mem::take(&mut lines.header) {
                out.iter_mut().for_each(|shard| shard.extend_from_slice(&rest[..line.whole]));
                continue;
            }
            self.take_line(content, &rest[..line.whole], map, out)?;
        }
    }

    #[inline]
    fn take_line(&mut self, content: &[u8], whole: &[u8], map: &ShardMap, out: &mut [Vec<u8>]) -> Result<(), Refusal> {
        let CopyTarget::Sharded { field, .. } = self.copy.target else { return Ok(()) };
        let mut scratch = std::mem::take(&mut self.scratch);
        let key = match &self.copy.format {
            CopyFormat::Text { delimiter, null, .. } => text::field(content, field, *delimiter, null, &mut scratch),
            CopyFormat::Csv { delimiter, null, quote, escape, .. } => {
                csv::field(content, field, [*delimiter, *quote, *escape], null, &mut scratch)
            }
            CopyFormat::Binary => Field::Missing,
        };
        let shard = self.shard(key, Format::Text, Some(content), map)?;
        self.scratch = scratch;
        out[usize::from(shard.0)].extend_from_slice(whole);
        Ok(())
    }
}

impl Lines {
    pub(super) fn text(header: bool) -> Self {
        let marker = memmem::Finder::new(b"\\.");
        Self { quoting: None, header, ended: false, line_end: None, searched: 0, marker }
    }

    pub(super) fn csv(header: bool, quote: u8, escape: u8) -> Self {
        Self { quoting: Some(Quoting { quote, escape, open: false }), ..Self::text(header) }
    }

    /// The line at the beginning of `bytes`; `None` when its end is not there yet.
    #[inline]
    fn next(&mut self, bytes: &[u8], last: bool) -> Result<Option<Line>, Refusal> {
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
                    return Ok(Some(Line { content: bytes.len(), whole: bytes.len() }));
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
                        return Ok(Some(Line { content: at, whole: at + 2 }));
                    }
                    _ => {}
                }
            }
            let style = if bytes[at] == b'\r' { LineEnd::Cr } else { LineEnd::Lf };
            if *self.line_end.get_or_insert(style) != style {
                return Err(self.mixed(style));
            }
            return Ok(Some(Line { content: at, whole: at + 1 }));
        }
    }

    /// Whether a line is the end-of-data marker of old clients.
    ///
    /// # Errors
    /// `22P04` when, in text, something else stands on its line.
    fn is_marker(&self, content: &[u8]) -> Result<bool, Refusal> {
        if content == b"\\." {
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
                self.open = true;
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
