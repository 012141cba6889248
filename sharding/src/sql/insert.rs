//! The parts of an INSERT in its text.

use std::iter::Peekable;
use std::ops::Range;

use super::lex::{Lexer, Token, TokenKind};

/// Where the parts of an INSERT ... VALUES or DEFAULT VALUES stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InsertSpans {
    /// Behind the table, and the name that it gets.
    pub table_end: usize,
    /// The list of columns with its brackets.
    pub list: Option<Range<usize>>,
    /// OVERRIDING ... VALUE.
    pub overriding: Option<Range<usize>>,
    /// The words `DEFAULT VALUES`; there are no rows then.
    pub default_values: Option<Range<usize>>,
    pub rows: Vec<RowCells>,
}

/// Where the parts of an INSERT stand that come before its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeadSpans {
    /// Behind the table, and the name that it gets.
    pub table_end: usize,
    /// The list of columns with its brackets.
    pub list: Option<Range<usize>>,
    /// OVERRIDING ... VALUE.
    pub overriding: Option<Range<usize>>,
}

/// One row of VALUES.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowCells {
    pub cells: Vec<Range<usize>>,
    /// Where its closing bracket stands.
    pub close: usize,
}

impl HeadSpans {
    /// The parts of a text that begins with INSERT and ends before the rows.
    pub(crate) fn of(text: &str) -> Option<Self> {
        let mut tokens = Lexer::new(text).peekable();
        let head = Self::read(text, &mut tokens)?;
        tokens.next().is_none().then_some(head)
    }

    fn read(text: &str, tokens: &mut Peekable<Lexer<'_>>) -> Option<Self> {
        let word = |token: &Token| &text[token.start..token.end];
        let is = |token: &Token, name: &str| token.kind == TokenKind::Word && word(token).eq_ignore_ascii_case(name);
        tokens.next_if(|token| is(token, "insert"))?;
        tokens.next_if(|token| is(token, "into"))?;
        // A table may be called "values".
        let mut table_end = tokens.next()?.end;
        while tokens.next_if(|token| word(token) == ".").is_some() {
            table_end = tokens.next()?.end;
        }
        if tokens.next_if(|token| is(token, "as")).is_some() {
            table_end = tokens.next()?.end;
        }
        let mut list = None;
        if let Some(open) = tokens.next_if(|token| word(token) == "(") {
            list = Some(open.start..closing(text, tokens)?);
        }
        let mut overriding = None;
        if let Some(first) = tokens.next_if(|token| is(token, "overriding")) {
            tokens.next()?;
            overriding = Some(first.start..tokens.next_if(|token| is(token, "value"))?.end);
        }
        Some(Self { table_end, list, overriding })
    }
}

impl InsertSpans {
    /// The parts of a text that is one INSERT without WITH; none when it looks otherwise.
    pub(crate) fn of(text: &str) -> Option<Self> {
        let word = |token: &Token| &text[token.start..token.end];
        let is = |token: &Token, name: &str| token.kind == TokenKind::Word && word(token).eq_ignore_ascii_case(name);
        let mut tokens = Lexer::new(text).peekable();
        let HeadSpans { table_end, list, overriding } = HeadSpans::read(text, &mut tokens)?;
        let mut spans = Self { table_end, list, overriding, default_values: None, rows: Vec::new() };
        if let Some(first) = tokens.next_if(|token| is(token, "default")) {
            spans.default_values = Some(first.start..tokens.next_if(|token| is(token, "values"))?.end);
            return Some(spans);
        }
        tokens.next_if(|token| is(token, "values"))?;
        loop {
            tokens.next_if(|token| word(token) == "(")?;
            spans.rows.push(row(text, &mut tokens)?);
            if tokens.next_if(|token| word(token) == ",").is_none() {
                return Some(spans);
            }
        }
    }
}

/// The cells up to the bracket that closes a row.
fn row(text: &str, tokens: &mut Peekable<Lexer<'_>>) -> Option<RowCells> {
    let mut cells = Vec::new();
    let mut cell: Option<Range<usize>> = None;
    let mut depth = 0;
    for token in tokens.by_ref() {
        match &text[token.start..token.end] {
            "(" | "[" => depth += 1,
            ")" if depth == 0 => {
                cells.push(cell?);
                return Some(RowCells { cells, close: token.start });
            }
            ")" | "]" => depth -= 1,
            "," if depth == 0 => {
                cells.push(cell.take()?);
                continue;
            }
            _ => {}
        }
        cell = Some(cell.map_or(token.start, |cell| cell.start)..token.end);
    }
    None
}

/// Behind the bracket that closes what is open.
fn closing(text: &str, tokens: &mut Peekable<Lexer<'_>>) -> Option<usize> {
    let mut depth = 1;
    let last = tokens.find(|token| {
        match &text[token.start..token.end] {
            "(" => depth += 1,
            ")" => depth -= 1,
            _ => {}
        }
        depth == 0
    });
    last.map(|token| token.end)
}

#[cfg(test)]
mod tests {
    use super::{HeadSpans, InsertSpans};

    #[test]
    fn parts_are_found_wherever_they_stand() {
        let text = "INSERT INTO s.values AS x (a, \"values\") -- values\n OVERRIDING USER VALUE VALUES (1, ')'), (f(2, (3)), $1 [1, 2]) RETURNING a";
        let spans = InsertSpans::of(text).expect("is an INSERT");
        assert_eq!(&text[..spans.table_end], "INSERT INTO s.values AS x");
        assert_eq!(spans.list.map(|list| &text[list]), Some("(a, \"values\")"));
        assert_eq!(spans.overriding.map(|place| &text[place]), Some("OVERRIDING USER VALUE"));
        let rows: Vec<Vec<&str>> =
            spans.rows.iter().map(|row| row.cells.iter().map(|cell| &text[cell.clone()]).collect()).collect();
        assert_eq!(rows, [["1", "')'"], ["f(2, (3))", "$1 [1, 2]"]]);
        assert!(spans.rows.iter().all(|row| text[row.close..].starts_with(')')));
    }

    #[test]
    fn what_comes_before_a_query() {
        let text = "insert into \"a\".b as c (d, \"e)\") overriding system value ";
        let head = HeadSpans::of(text).expect("is a head");
        assert_eq!(&text[..head.table_end], "insert into \"a\".b as c");
        assert_eq!(head.list.map(|list| &text[list]), Some("(d, \"e)\")"));
        assert_eq!(head.overriding.map(|words| &text[words]), Some("overriding system value"));
        assert_eq!(HeadSpans::of("insert into t "), Some(HeadSpans { table_end: 13, list: None, overriding: None }));
        assert_eq!(HeadSpans::of("insert into t (a) select"), None);
    }

    #[test]
    fn what_has_no_rows() {
        let spans = InsertSpans::of("insert into t default values returning id").expect("is an INSERT");
        assert_eq!((spans.default_values, spans.rows.len()), (Some(14..28), 0));
        for text in [
            "insert into t select 1",
            "insert into t values (1",
            "insert into t values ()",
            "with a as (select 1) insert into t values (1)",
            "",
        ] {
            assert_eq!(InsertSpans::of(text), None, "{text}");
        }
    }
}
