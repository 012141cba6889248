//! Where the CTEs of a statement stand in its text.

use std::ops::Range;

use super::lex::{Lexer, Token};
use super::spans::closing;

/// One CTE, as bytes of the whole text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CteSpan {
    /// From its name to its closing bracket.
    pub whole: Range<usize>,
    /// What stands in the brackets.
    pub body: Range<usize>,
}

/// The CTEs of the WITH that a statement begins with, and where the statement itself begins behind them; `None` when it has no plain form.
pub(crate) fn ctes(text: &str, span: &Range<usize>) -> Option<(Vec<CteSpan>, usize)> {
    let tokens: Vec<Token> = Lexer::starting_at(&text[..span.end], span.start).collect();
    let word = |index: usize| tokens.get(index).map_or("", |token| &text[token.start..token.end]);
    let is = |index: usize, expected: &str| word(index).eq_ignore_ascii_case(expected);
    if !is(0, "with") {
        return None;
    }
    let mut found = Vec::new();
    let mut at = 1;
    loop {
        let start = tokens.get(at)?.start;
        let mut next = at + 1;
        if word(next) == "(" {
            next = closing(&word, next, tokens.len())? + 1;
        }
        if !is(next, "as") {
            return None;
        }
        next += 1;
        next += usize::from(is(next, "not"));
        next += usize::from(is(next, "materialized"));
        let close = closing(&word, next, tokens.len()).filter(|_| word(next) == "(")?;
        found.push(CteSpan {
            whole: start..tokens[close].end,
            body: tokens.get(next + 1)?.start..tokens[close - 1].end,
        });
        at = close + 2;
        if word(close + 1) != "," {
            return Some((found, tokens.get(close + 1)?.start));
        }
    }
}

/// Where the CTEs begin in a statement that has some: behind WITH, and RECURSIVE.
pub(crate) fn with_words(text: &str, span: &Range<usize>) -> Option<Range<usize>> {
    let mut tokens = Lexer::starting_at(&text[..span.end], span.start);
    let is = |token: &Token, word: &str| text[token.start..token.end].eq_ignore_ascii_case(word);
    let with = tokens.next().filter(|token| is(token, "with"))?;
    let recursive = tokens.next().filter(|token| is(token, "recursive"));
    Some(with.start..recursive.map_or(with.end, |token| token.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_found() {
        let text = "with a (x, y) as (select ')', 1), \"b\" as not materialized (delete from t returning (x)) /* , */ select 1";
        let (found, main) = ctes(text, &(0..text.len())).unwrap_or_default();
        let bodies: Vec<&str> = found.iter().map(|cte| &text[cte.body.clone()]).collect();
        assert_eq!(bodies, ["select ')', 1", "delete from t returning (x)"]);
        assert_eq!(&text[found[1].whole.clone()], "\"b\" as not materialized (delete from t returning (x))");
        assert_eq!(&text[main..], "select 1");
    }

    #[test]
    fn what_is_not_plain_is_not_found() {
        for text in ["select 1", "(with a as (select 1) select 2)", "with recursive a as (select 1) search depth"] {
            assert_eq!(ctes(text, &(0..text.len())), None, "{text}");
        }
    }

    #[test]
    fn words_of_with() {
        let text = "WITH Recursive a AS (SELECT 1) SELECT 2";
        assert_eq!(with_words(text, &(0..text.len())), Some(0..14));
        assert_eq!(with_words("SELECT 1", &(0..8)), None);
    }
}
