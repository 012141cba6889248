//! The parts of an INSERT in its text.

use std::ops::Range;

use super::cells::{Cell, CellTokens};
use super::lex::{Lexer, Token, TokenKind};

/// Where the rows of an INSERT stand. What is before the first and behind the last belongs to all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowSpans {
    /// Where the word VALUES begins.
    pub values: usize,
    /// Each with its brackets, in order.
    pub rows: Vec<Range<usize>>,
    /// Their values, row by row.
    pub cells: Vec<Cell>,
}

impl RowSpans {
    /// Finds the rows of a text that is one INSERT ... VALUES without WITH; none when it looks otherwise.
    pub fn of(text: &str) -> Option<Self> {
        let word = |token: &Token| &text[token.start..token.end];
        let mut tokens = Lexer::new(text).peekable();
        tokens.next().filter(|token| word(token).eq_ignore_ascii_case("insert"))?;
        tokens.next().filter(|token| word(token).eq_ignore_ascii_case("into"))?;
        // A table may be called "values".
        tokens.next()?;
        while tokens.next_if(|token| word(token) == ".").is_some() {
            tokens.next()?;
        }
        if tokens.next_if(|token| word(token).eq_ignore_ascii_case("as")).is_some() {
            tokens.next()?;
        }
        let mut depth = 0;
        let values = tokens.by_ref().find(|token| {
            match word(token) {
                "(" => depth += 1,
                ")" => depth -= 1,
                _ => {}
            }
            depth == 0 && token.kind == TokenKind::Word && word(token).eq_ignore_ascii_case("values")
        })?;
        let mut spans = Self { values: values.start, rows: Vec::new(), cells: Vec::new() };
        loop {
            let open = tokens.next().filter(|token| word(token) == "(")?;
            let mut depth = 1;
            let mut cell = CellTokens::default();
            let close = tokens.by_ref().find(|token| {
                match text.as_bytes()[token.start] {
                    b'(' | b'[' => depth += 1,
                    b')' | b']' => depth -= 1,
                    b',' if depth == 1 => {
                        spans.cells.push(cell.take(text));
                        return false;
                    }
                    _ => {}
                }
                if depth > 0 {
                    cell.push(*token);
                }
                depth == 0
            })?;
            spans.cells.push(cell.take(text));
            spans.rows.push(open.start..close.end);
            if tokens.next_if(|token| word(token) == ",").is_none() {
                return Some(spans);
            }
        }
    }

    /// What stands before the rows, and behind them.
    pub fn around<'t>(&self, text: &'t str) -> [&'t str; 2] {
        [&text[..self.values], &text[self.rows.last().map_or(self.values, |row| row.end)..]]
    }

    /// Whether there are parameters behind the rows.
    pub fn params_around(&self, text: &str) -> bool {
        let [_, tail] = self.around(text);
        Lexer::new(tail).any(|token| token.kind == TokenKind::Param)
    }

    /// Where the value of this number, from 0, stands in one of the rows; none if the row has fewer.
    pub(crate) fn value_of(&self, text: &str, row: &Range<usize>, number: usize) -> Option<Range<usize>> {
        let inside = row.start + 1..row.end - 1;
        let (mut depth, mut at) = (0, 0);
        let mut value: Option<Range<usize>> = None;
        for token in Lexer::starting_at(&text[..inside.end], inside.start) {
            match text.as_bytes()[token.start] {
                b'(' | b'[' => depth += 1,
                b')' | b']' => depth -= 1,
                b',' if depth == 0 => {
                    at += 1;
                    continue;
                }
                _ => {}
            }
            if at == number {
                value = Some(value.map_or(token.start, |value| value.start)..token.end);
            }
        }
        value
    }

    /// The text with these rows only, of which there is at least one.
    pub fn text_with(&self, text: &str, rows: &[usize]) -> String {
        let (first, last) = (self.rows.first().map_or(0, |row| row.start), self.rows.last().map_or(0, |row| row.end));
        let bytes: usize = rows.iter().map(|row| self.rows[*row].len() + 2).sum();
        let mut new = String::with_capacity(text.len() - (last - first) + bytes);
        new.push_str(&text[..first]);
        for (n, row) in rows.iter().enumerate() {
            new.push_str(if n == 0 { "" } else { ", " });
            new.push_str(&text[self.rows[*row].clone()]);
        }
        new.push_str(&text[last..]);
        new
    }
}

/// Where the query of an INSERT ... SELECT begins and ends.
pub(crate) fn query_of_insert(text: &str, start: usize, end: usize) -> Option<Range<usize>> {
    let tokens: Vec<Token> = Lexer::starting_at(&text[..end], start).collect();
    let word = |index: usize| tokens.get(index).map_or("", |token| &text[token.start..token.end]);
    let is = |index: usize, name: &str| word(index).eq_ignore_ascii_case(name);
    let mut at = (0..tokens.len()).find(|index| is(*index, "insert") && is(index + 1, "into"))? + 3;
    while word(at) == "." {
        at += 2;
    }
    if is(at, "as") {
        at += 2;
    }
    let opens_query = |index: usize| ["select", "values", "with", "table", "("].iter().any(|name| is(index, name));
    if word(at) == "(" && !opens_query(at + 1) {
        at = closing(&word, at, tokens.len())? + 1;
    }
    if is(at, "overriding") {
        at += 3;
    }
    let first = at;
    while at < tokens.len() {
        if word(at) == "(" {
            at = closing(&word, at, tokens.len())?;
        } else if is(at, "returning") || (is(at, "on") && is(at + 1, "conflict")) {
            break;
        }
        at += 1;
    }
    Some(tokens.get(first)?.start..tokens.get(at.checked_sub(1)?)?.end).filter(|range| range.start < range.end)
}

/// The parts of an UPDATE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UpdateSpans {
    /// With WITH.
    pub with: Option<Range<usize>>,
    /// The table with ONLY and alias.
    pub table: Range<usize>,
    /// All assignments.
    pub set: Range<usize>,
    /// The values of the assignments, in order.
    pub values: Vec<Range<usize>>,
    /// What stands behind FROM.
    pub from: Option<Range<usize>>,
    /// What stands behind WHERE.
    pub filter: Option<Range<usize>>,
    /// With RETURNING.
    pub returning: Option<Range<usize>>,
}

impl UpdateSpans {
    /// None when an assignment is more than `column = value`.
    pub(crate) fn of(text: &str, start: usize, end: usize) -> Option<Self> {
        let tokens: Vec<Token> = Lexer::starting_at(&text[..end], start).collect();
        let word = |index: usize| tokens.get(index).map_or("", |token| &text[token.start..token.end]);
        let is = |index: usize, name: &str| word(index).eq_ignore_ascii_case(name);
        // The places, outside of brackets, of the words that part it.
        let mut places = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            match word(at) {
                "(" => at = closing(&word, at, tokens.len())?,
                _ if word(at.wrapping_sub(1)) == "." => {}
                _ => places.push(at),
            }
            at += 1;
        }
        let find = |name: &str, from: usize| places.iter().copied().find(|place| *place >= from && is(*place, name));
        let update = find("update", 0).filter(|update| *update == 0 || is(0, "with"))?;
        let set = find("set", update + 1)?;
        let returning = find("returning", set).unwrap_or(tokens.len());
        let filter = find("where", set).filter(|filter| *filter < returning).unwrap_or(returning);
        let is_from = |place: &usize| is(*place, "from") && !is(*place - 1, "distinct");
        let from = places.iter().copied().find(|place| (set..filter).contains(place) && is_from(place));
        let from = from.unwrap_or(filter);
        let range = |from: usize, to: usize| Some(tokens.get(from)?.start..tokens.get(to.checked_sub(1)?)?.end);
        let mut values = Vec::new();
        let mut first = set + 1;
        let commas = places.iter().copied().filter(|place| *place > set && *place < from && word(*place) == ",");
        for end in commas.chain([from]) {
            if word(first + 1) != "=" || tokens.get(first)?.kind == TokenKind::Mark {
                return None;
            }
            values.push(range(first + 2, end)?);
            first = end + 1;
        }
        Some(Self {
            with: range(0, update).filter(|_| update > 0),
            table: range(update + 1, set)?,
            set: range(set + 1, from)?,
            values,
            from: range(from + 1, filter).filter(|_| from < filter),
            filter: range(filter + 1, returning).filter(|_| filter < returning),
            returning: range(returning, tokens.len()).filter(|_| returning < tokens.len()),
        })
    }
}

/// What stands between USING and ON in a MERGE.
pub(crate) fn source_of_merge(text: &str, start: usize, end: usize) -> Option<Range<usize>> {
    let mut tokens = Lexer::starting_at(&text[..end], start);
    let mut depth = 0;
    let mut next = |name: &str| {
        tokens.by_ref().find(|token| {
            let word = &text[token.start..token.end];
            depth += i32::from(word == "(") - i32::from(word == ")");
            depth == 0 && word.eq_ignore_ascii_case(name)
        })
    };
    let using = next("using")?;
    let on = next("on")?;
    Some(using.end..on.start)
}

/// The bracket that closes the one at `open`.
fn closing<'t>(word: &impl Fn(usize) -> &'t str, open: usize, count: usize) -> Option<usize> {
    let mut depth = 0;
    (open..count).find(|index| {
        depth += i32::from(word(*index) == "(") - i32::from(word(*index) == ")");
        depth == 0
    })
}

#[cfg(test)]
mod tests {
    use super::{Cell, RowSpans, UpdateSpans, query_of_insert};

    #[test]
    fn the_query_of_an_insert_is_found() {
        let query = |text: &str| query_of_insert(text, 0, text.len()).map(|range| text[range].to_owned());
        let text = "WITH a AS (INSERT INTO x SELECT 2) INSERT INTO s.t AS q (a, b) OVERRIDING USER VALUE \
                    SELECT 1, (2) ON CONFLICT DO NOTHING RETURNING a";
        assert_eq!(query(&text[35..]).as_deref(), Some("SELECT 1, (2)"));
        assert_eq!(query("insert into t (select a from b) returning *").as_deref(), Some("(select a from b)"));
        assert_eq!(query("insert into t(a) table b").as_deref(), Some("table b"));
        assert_eq!(
            query("insert into t select a from b join c on d = e").as_deref(),
            Some("select a from b join c on d = e")
        );
    }

    fn rows(text: &str) -> Option<Vec<&str>> {
        Some(RowSpans::of(text)?.rows.into_iter().map(|row| &text[row]).collect())
    }

    #[test]
    fn rows_are_found_wherever_they_stand() {
        let text =
            "INSERT INTO s.values AS x (a, \"values\") -- values (1)\n VALUES (1, ')'), (f(2, (3)), $1) RETURNING a";
        assert_eq!(rows(text), Some(vec!["(1, ')')", "(f(2, (3)), $1)"]));
        assert_eq!(rows("insert into t overriding system value values(1)"), Some(vec!["(1)"]));
        assert_eq!(rows("insert into t select 1"), None);
        assert_eq!(rows("insert into t default values"), None);
        assert_eq!(rows("insert into t values (1"), None);
        assert_eq!(rows("with a as (select 1) insert into t values (1)"), None);
    }

    #[test]
    fn values_are_told_apart() {
        let text = "INSERT INTO t VALUES (1, -2.5, 'it''s', NULL, $3), (f(1, 2), '1'::int8, '1'::pg_catalog.int8, \
                    ARRAY[1, 2], - 1 + 2) RETURNING $4";
        let spans = RowSpans::of(text).expect("has rows");
        let cells: Vec<String> = spans
            .cells
            .iter()
            .map(|cell| match cell {
                Cell::Number { digits, negative } => format!("{negative} {}", &text[digits.clone()]),
                Cell::Text { quoted, cast } => {
                    format!("{} {}", &text[quoted.clone()], cast.clone().map_or("", |cast| &text[cast]))
                }
                other => format!("{other:?}"),
            })
            .collect();
        let expected =
            ["false 1", "true 2.5", "'it''s' ", "Null", "Param(2)", "Other", "'1' int8", "'1' int8", "Other", "Other"];
        assert_eq!(cells, expected);
        assert_eq!(spans.around(text), ["INSERT INTO t ", " RETURNING $4"]);
    }

    #[test]
    fn the_parts_of_an_update_are_found() {
        let text = "UPDATE ONLY s.t AS x SET a = f(1, 2) + 1, \"set\" = (SELECT 1 WHERE true) WHERE a = 1 RETURNING a";
        let spans = UpdateSpans::of(text, 0, text.len()).expect("has parts");
        assert_eq!(&text[spans.table], "ONLY s.t AS x");
        assert_eq!(&text[spans.set], "a = f(1, 2) + 1, \"set\" = (SELECT 1 WHERE true)");
        let values: Vec<&str> = spans.values.into_iter().map(|value| &text[value]).collect();
        assert_eq!(values, ["f(1, 2) + 1", "(SELECT 1 WHERE true)"]);
        assert_eq!(spans.filter.map(|filter| &text[filter]), Some("a = 1"));
        assert_eq!(spans.returning.map(|returning| &text[returning]), Some("RETURNING a"));
        for other in ["UPDATE t SET (a, b) = (1, 2)", "UPDATE t SET a[1] = 2", "UPDATE t SET a.b = 2", "SELECT 1"] {
            assert_eq!(UpdateSpans::of(other, 0, other.len()), None, "{other}");
        }
        let plain = UpdateSpans::of("UPDATE t SET a = 1", 0, 18).expect("has parts");
        assert_eq!((plain.with, plain.from, plain.filter, plain.returning), (None, None, None, None));
    }

    #[test]
    fn the_parts_of_an_update_with_more_around_it_are_found() {
        let text = "WITH w AS (UPDATE x SET y = 1) UPDATE t SET a = b IS DISTINCT FROM c, d = substring(e FROM 2) \
                    FROM m JOIN n USING (o), w WHERE a = 1";
        let spans = UpdateSpans::of(text, 0, text.len()).expect("has parts");
        assert_eq!(spans.with.map(|with| &text[with]), Some("WITH w AS (UPDATE x SET y = 1)"));
        assert_eq!(&text[spans.table], "t");
        let values: Vec<&str> = spans.values.into_iter().map(|value| &text[value]).collect();
        assert_eq!(values, ["b IS DISTINCT FROM c", "substring(e FROM 2)"]);
        assert_eq!(spans.from.map(|from| &text[from]), Some("m JOIN n USING (o), w"));
        assert_eq!(spans.filter.map(|filter| &text[filter]), Some("a = 1"));
    }

    #[test]
    fn a_text_with_some_of_its_rows() {
        let text = "INSERT INTO t VALUES (1) , (2),(3) ON CONFLICT DO NOTHING";
        let spans = RowSpans::of(text).expect("has rows");
        assert_eq!(spans.text_with(text, &[0, 2]), "INSERT INTO t VALUES (1), (3) ON CONFLICT DO NOTHING");
        assert_eq!(spans.text_with(text, &[1]), "INSERT INTO t VALUES (2) ON CONFLICT DO NOTHING");
    }
}
