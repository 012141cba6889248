//! The rows of an INSERT ... VALUES in its text.

use std::ops::Range;

use super::lex::{Lexer, Token, TokenKind};

/// Where the rows of an INSERT stand. What is before the first and behind the last belongs to all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowSpans {
    /// Each with its brackets, in order.
    pub rows: Vec<Range<usize>>,
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
        for token in tokens.by_ref() {
            match word(&token) {
                "(" => depth += 1,
                ")" => depth -= 1,
                name if depth == 0 && token.kind == TokenKind::Word && name.eq_ignore_ascii_case("values") => break,
                _ => {}
            }
        }
        let mut rows = Vec::new();
        loop {
            let open = tokens.next().filter(|token| word(token) == "(")?;
            let mut depth = 1;
            let close = tokens.by_ref().find(|token| {
                match word(token) {
                    "(" => depth += 1,
                    ")" => depth -= 1,
                    _ => {}
                }
                depth == 0
            })?;
            rows.push(open.start..close.end);
            if tokens.next_if(|token| word(token) == ",").is_none() {
                return Some(Self { rows });
            }
        }
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

#[cfg(test)]
mod tests {
    use super::RowSpans;

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
    fn a_text_with_some_of_its_rows() {
        let text = "INSERT INTO t VALUES (1) , (2),(3) ON CONFLICT DO NOTHING";
        let spans = RowSpans::of(text).expect("has rows");
        assert_eq!(spans.text_with(text, &[0, 2]), "INSERT INTO t VALUES (1), (3) ON CONFLICT DO NOTHING");
        assert_eq!(spans.text_with(text, &[1]), "INSERT INTO t VALUES (2) ON CONFLICT DO NOTHING");
    }
}
