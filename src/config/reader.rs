//! Reads the tables of a TOML file and remembers everything that is wrong with it.
//!
//! A key is known because somebody asked for it: there is no second list of keys that could differ
//! from the code that reads them.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, nearest};
use super::value::{self, Surroundings};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Located<T> {
    pub(super) value: T,
    pub(super) at: Range<usize>,
}

/// The text, and what was found wrong so far.
pub(super) struct Reader<'t> {
    text: &'t str,
    surroundings: &'t Surroundings<'t>,
    problems: RefCell<Vec<Problem>>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str, surroundings: &'t Surroundings<'t>) -> Self {
        Self { text, surroundings, problems: RefCell::default() }
    }

    pub(super) fn problem(&self, at: &Range<usize>, text: impl Into<String>) {
        let line =
            1 + self.text.as_bytes()[..at.start.min(self.text.len())].iter().filter(|byte| **byte == b'\n').count();
        self.problems.borrow_mut().push(Problem { line, text: text.into() });
    }

    /// A problem of the file as a whole.
    pub(super) fn problem_of_file(&self, text: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { line: 0, text: text.into() });
    }

    pub(super) fn surroundings(&self) -> &'t Surroundings<'t> {
        self.surroundings
    }

    /// All problems in the order of the file.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort();
        problems.dedup();
        problems
    }

    fn expand(&self, text: &str, at: &Range<usize>, path: &str) -> Option<String> {
        self.surroundings.expand(text).map_err(|error| self.problem(at, format!("{path}: {error}"))).ok()
    }
}

/// One table of the file while it is read.
pub(super) struct Section<'r> {
    reader: &'r Reader<'r>,
    table: &'r DeTable<'r>,
    /// `pool`, `database.shard`: how people find it.
    path: String,
    /// The table's first line.
    pub(super) at: Range<usize>,
    asked: Vec<&'static str>,
}

impl<'r> Section<'r> {
    pub(super) fn root(reader: &'r Reader<'r>, table: &'r Spanned<DeTable<'r>>) -> Self {
        Self { reader, table: table.get_ref(), path: String::new(), at: 0..0, asked: Vec::new() }
    }

    pub(super) fn reader(&self) -> &'r Reader<'r> {
        self.reader
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn value(&mut self, key: &'static str) -> Option<&'r Spanned<DeValue<'r>>> {
        self.asked.push(key);
        self.table.get(key)
    }

    fn wrong(&self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        let found = value.get_ref().type_str();
        let text = format!("{}: expected {expected}, found {} {found}", self.path_of(key), article(found));
        self.reader.problem(&value.span(), text);
    }

    fn say(&self, key: &str, at: &Range<usize>, text: impl AsRef<str>) {
        self.reader.problem(at, format!("{}: {}", self.path_of(key), text.as_ref()));
    }

    /// `[key]`, if it is there.
    pub(super) fn section(&mut self, key: &'static str) -> Option<Self> {
        let value = self.value(key)?;
        let (name, _) = self.table.get_key_value(key)?;
        self.below(key, name.span(), value)
    }

    fn below(&self, key: &str, at: Range<usize>, value: &'r Spanned<DeValue<'r>>) -> Option<Self> {
        let Some(table) = value.get_ref().as_table() else {
            self.wrong(key, value, "a table");
            return None;
        };
        Some(Self { reader: self.reader, table, path: self.path_of(key), at, asked: Vec::new() })
    }

    /// `[[key]]`, as often as it is there.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<Self> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong(key, value, &format!("one or more [[{}]]", self.path_of(key)));
            return Vec::new();
        };
        array.iter().filter_map(|element| self.below(key, element.span(), element)).collect()
    }

    /// All entries of a table whose keys are names of the operator's choice.
    pub(super) fn entries(&self) -> Vec<(Located<String>, Option<Self>)> {
        let entries = self.table.iter().map(|(name, value)| {
            let located = Located { value: name.get_ref().to_string(), at: name.span() };
            (located, self.below(name.get_ref(), name.span(), value))
        });
        entries.collect()
    }

    pub(super) fn string(&mut self, key: &'static str) -> Option<Located<String>> {
        let value = self.value(key)?;
        self.string_of(key, value)
    }

    fn string_of(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Located<String>> {
        let Some(text) = value.get_ref().as_str() else {
            self.wrong(key, value, "a string");
            return None;
        };
        let at = value.span();
        let value = self.reader.expand(text, &at, &self.path_of(key))?;
        Some(Located { value, at })
    }

    pub(super) fn strings(&mut self, key: &'static str) -> Vec<Located<String>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong(key, value, "a list of strings");
            return Vec::new();
        };
        array.iter().filter_map(|element| self.string_of(key, element)).collect()
    }

    /// A string that must be there and not be empty.
    pub(super) fn required(&mut self, key: &'static str) -> Option<Located<String>> {
        if self.table.get(key).is_none() {
            self.asked.push(key);
            self.reader.problem(&self.at, format!("{} needs {key} = \"...\"", self.path));
            return None;
        }
        let string = self.string(key)?;
        if string.value.is_empty() {
            self.say(key, &string.at, "must not be empty");
            return None;
        }
        Some(string)
    }

    pub(super) fn boolean(&mut self, key: &'static str, into: &mut bool) {
        let Some(value) = self.value(key) else { return };
        match value.get_ref().as_bool() {
            Some(boolean) => *into = boolean,
            None => self.wrong(key, value, "true or false"),
        }
    }

    /// A number within bounds; what it is stored in may be smaller than 64 bits. Gives its place.
    pub(super) fn number<T: TryFrom<u64>>(
        &mut self,
        key: &'static str,
        from: u64,
        to: u64,
        into: &mut T,
    ) -> Option<Range<usize>> {
        let value = self.value(key)?;
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong(key, value, "a number");
            return None;
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        match number.filter(|number| (from..=to).contains(number)).map(T::try_from) {
            Some(Ok(number)) => *into = number,
            _ => self.say(key, &value.span(), format!("{integer} is not a number from {from} to {to}")),
        }
        Some(value.span())
    }

    pub(super) fn duration(&mut self, key: &'static str, from: Duration, into: &mut Duration) {
        let Some(value) = self.value(key) else { return };
        if let Some(number) = value.get_ref().as_integer() {
            return self.say(key, &value.span(), format!("{number} needs a unit: \"{number}s\" or \"{number}ms\""));
        }
        let Some(text) = self.string_of(key, value) else { return };
        match value::duration(&text.value) {
            Ok(duration) if duration >= from => *into = duration,
            Ok(_) => self.say(key, &text.at, format!("must be at least {}", value::show_duration(from))),
            Err(error) => self.say(key, &text.at, error),
        }
    }

    pub(super) fn size(&mut self, key: &'static str, from: usize, to: usize, into: &mut usize) {
        let Some(value) = self.value(key) else { return };
        if let Some(number) = value.get_ref().as_integer() {
            return self.say(key, &value.span(), format!("{number} needs a unit: \"{number}MB\" or \"{number}kB\""));
        }
        let Some(text) = self.string_of(key, value) else { return };
        match value::size(&text.value) {
            Ok(size) if (from..=to).contains(&size) => *into = size,
            Ok(_) => {
                let bounds = format!("must be from {} to {}", value::show_size(from), value::show_size(to));
                self.say(key, &text.at, bounds);
            }
            Err(error) => self.say(key, &text.at, error),
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let text = self.string(key)?;
        if let Some((_, choice)) = words.iter().find(|(word, _)| *word == text.value) {
            return Some(*choice);
        }
        let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        self.say(key, &text.at, format!("{:?} is unknown: write {}", text.value, known.join(" or ")));
        None
    }

    pub(super) fn address(&mut self, key: &'static str) -> Option<Located<SocketAddr>> {
        let text = self.string(key)?;
        if let Ok(address) = text.value.parse() {
            return Some(Located { value: address, at: text.at });
        }
        let hint = "is not an address and a port: write \"127.0.0.1:6432\", \"0.0.0.0:6432\" or \"[::]:6432\"";
        self.say(key, &text.at, format!("{:?} {hint}", text.value));
        None
    }

    /// Reports the keys nobody asked for. To be called when everything known has been read.
    pub(super) fn finish(self) {
        for name in self.table.keys().filter(|name| !self.asked.contains(&name.get_ref().as_ref())) {
            let path = self.path_of(name.get_ref());
            let text = match nearest(name.get_ref(), self.asked.iter().copied()) {
                Some(near) => format!("unknown key `{path}`, did you mean `{near}`?"),
                None => format!("unknown key `{path}`; known are {}", self.asked.join(", ")),
            };
            self.reader.problem(&name.span(), text);
        }
    }
}

fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}
