//! Calls of which the router knows the value: `nextval('s')`, `currval('s')`, `lastval()`, `sluice.unique_id()`.

use std::ops::Range;

use super::lex::{Lexer, Token, TokenKind};

/// A call in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub place: Range<usize>,
    pub kind: CallKind,
    /// It is a column of an answer, which is named after it.
    pub names_column: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CallKind {
    /// With the name of the sequence, as in `'s'::regclass`.
    Next(String),
    Current(String),
    Last,
    UniqueId,
    /// `gen_random_uuid()`
    Uuid,
    /// One of these, but not in a form that the router can put a value for.
    Unread,
}

impl CallKind {
    /// The name of a column that shows the call.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Next(_) | Self::Unread => "nextval",
            Self::Current(_) => "currval",
            Self::Last => "lastval",
            Self::UniqueId => "unique_id",
            Self::Uuid => "gen_random_uuid",
        }
    }
}

/// The calls between `part.start` and `part.end`, in order.
pub(crate) fn find(text: &str, part: Range<usize>) -> Vec<Call> {
    let tokens: Vec<Token> = Lexer::starting_at(&text[..part.end], part.start).collect();
    let reader = Reader { text, tokens: &tokens };
    let mut found = Vec::new();
    let mut columns = Columns::default();
    let mut at = 0;
    while at < tokens.len() {
        match reader.call(at) {
            Some((kind, last)) => {
                let names_column = columns.stand_here() && reader.ends_column(last + 1);
                found.push(Call { place: tokens[at].start..tokens[last].end, kind, names_column });
                columns.pass("");
                at = last + 1;
            }
            None => {
                columns.pass(reader.word(at));
                at += 1;
            }
        }
    }
    found
}

/// Whether a column of an answer begins at a place.
#[derive(Debug, Default)]
struct Columns {
    /// For each open bracket around the place: the list of columns of a SELECT or RETURNING goes on.
    around: Vec<bool>,
    listing: bool,
    begins: bool,
}

impl Columns {
    fn stand_here(&self) -> bool {
        self.listing && self.begins
    }

    fn pass(&mut self, word: &str) {
        self.begins = false;
        match word {
            "(" => {
                self.around.push(self.listing);
                self.listing = false;
            }
            ")" => self.listing = self.around.pop().unwrap_or(false),
            "," => self.begins = true,
            _ if ["select", "returning", "all", "distinct"].iter().any(|start| word.eq_ignore_ascii_case(start)) => {
                self.listing = true;
                self.begins = true;
            }
            _ if [
                "from", "where", "group", "order", "limit", "window", "having", "union", "for", "offset", "fetch",
            ]
            .iter()
            .any(|end| word.eq_ignore_ascii_case(end)) =>
            {
                self.listing = false;
            }
            _ => {}
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    tokens: &'a [Token],
}

impl Reader<'_> {
    fn word(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| &self.text[token.start..token.end])
    }

    fn is(&self, at: usize, name: &str) -> bool {
        let word = self.word(at);
        let bare = word.strip_prefix('"').and_then(|word| word.strip_suffix('"'));
        bare.map_or_else(|| word.eq_ignore_ascii_case(name), |bare| bare == name)
    }

    /// The call that begins at token `at`, and its last token.
    fn call(&self, at: usize) -> Option<(CallKind, usize)> {
        if at > 0 && self.word(at - 1) == "." {
            return None;
        }
        if self.is(at, "sluice") && self.word(at + 1) == "." && self.is(at + 2, "unique_id") {
            let whole = self.word(at + 3) == "(" && self.word(at + 4) == ")";
            return whole.then_some((CallKind::UniqueId, at + 4));
        }
        let name = if self.is(at, "pg_catalog") && self.word(at + 1) == "." { at + 2 } else { at };
        if self.word(name + 1) != "(" {
            return None;
        }
        let kind: fn(String) -> CallKind = match () {
            () if self.is(name, "nextval") => CallKind::Next,
            () if self.is(name, "currval") => CallKind::Current,
            () if self.is(name, "lastval") && self.word(name + 2) == ")" => return Some((CallKind::Last, name + 2)),
            () if self.is(name, "gen_random_uuid") && self.word(name + 2) == ")" => {
                return Some((CallKind::Uuid, name + 2));
            }
            () => return None,
        };
        let mut last = name + 3;
        if self.word(last) == "::" {
            last += 1;
            if self.is(last, "pg_catalog") && self.word(last + 1) == "." {
                last += 2;
            }
            if !self.is(last, "regclass") {
                return Some((CallKind::Unread, name));
            }
            last += 1;
        }
        let literal = self.tokens.get(name + 2).filter(|token| token.kind == TokenKind::Text);
        match literal {
            Some(literal) if self.word(last) == ")" => {
                let written = &self.text[literal.start + 1..literal.end - 1];
                Some((kind(written.replace("''", "'")), last))
            }
            _ => Some((CallKind::Unread, name)),
        }
    }

    fn ends_column(&self, at: usize) -> bool {
        let ends = ["", ",", ";", ")", "from", "where", "group", "order", "limit", "union", "for"];
        ends.iter().any(|end| self.word(at).eq_ignore_ascii_case(end))
    }
}

/// Schema and name that a text for `regclass` means; the schema is `None` where none is written.
pub(crate) fn sequence_name(written: &str) -> Option<(Option<String>, String)> {
    let mut parts = Vec::new();
    let mut rest = written.trim();
    loop {
        let (part, after) = identifier(rest)?;
        parts.push(part);
        rest = after.trim_start();
        match rest.strip_prefix('.') {
            Some(after) => rest = after.trim_start(),
            None if rest.is_empty() => break,
            None => return None,
        }
    }
    let name = parts.pop()?;
    let schema = parts.pop();
    parts.is_empty().then_some((schema, name))
}

fn identifier(text: &str) -> Option<(String, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        let mut name = String::new();
        let mut characters = quoted.char_indices().peekable();
        while let Some((at, character)) = characters.next() {
            if character != '"' {
                name.push(character);
            } else if characters.next_if(|(_, next)| *next == '"').is_some() {
                name.push('"');
            } else {
                return (!name.is_empty()).then(|| (name, &quoted[at + 1..]));
            }
        }
        return None;
    }
    let is_part = |character: char| character.is_alphanumeric() || character == '_' || character == '$';
    let end = text.find(|character| !is_part(character)).unwrap_or(text.len());
    let first = text.chars().next()?;
    (end > 0 && !first.is_ascii_digit()).then(|| (text[..end].to_ascii_lowercase(), &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<(CallKind, bool)> {
        find(text, 0..text.len()).into_iter().map(|call| (call.kind, call.names_column)).collect()
    }

    #[test]
    fn calls_are_found_with_their_names() {
        let next = |name: &str| CallKind::Next(name.to_owned());
        assert_eq!(kinds("SELECT nextval('s')"), [(next("s"), true)]);
        assert_eq!(kinds("select 1, pg_catalog.nextval ( 'a.\"B\"'::regclass ) from x"), [(next("a.\"B\""), true)]);
        assert_eq!(kinds("SELECT 1 + NEXTVAL('s'), nextval('t') AS n"), [(next("s"), false), (next("t"), false)]);
        assert_eq!(kinds("SELECT nextval($1), nextval('s'::text)"), vec![(CallKind::Unread, false); 2]);
        assert_eq!(kinds("SELECT x.nextval('s'), nextval, 'nextval(''s'')' -- nextval('s')"), []);
        assert_eq!(
            kinds("SELECT lastval(), (SELECT currval('s')), sluice.unique_id()"),
            [(CallKind::Last, true), (CallKind::Current("s".into()), true), (CallKind::UniqueId, true)]
        );
        assert_eq!(kinds("SELECT f(1, currval('s')) ORDER BY 1, lastval()").iter().filter(|call| call.1).count(), 0);
    }

    #[test]
    fn names_of_sequences() {
        let name = |text: &str| sequence_name(text).map(|(schema, name)| (schema.unwrap_or_default(), name));
        assert_eq!(name("Orders_Seq"), Some((String::new(), "orders_seq".into())));
        assert_eq!(name(" app . \"A \"\"b\"\"\" "), Some(("app".into(), "A \"b\"".into())));
        for wrong in ["", "a.", "a.b.c", "1a", "\"a", "a b", "17"] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
    }
}
