//! Where the parts of a statement stand in its text.

use std::ops::Range;

use super::lex::{Lexer, Token, TokenKind};

/// Where the statement begins that an EXPLAIN explains.
pub(crate) fn explained(text: &str, span: &Range<usize>) -> usize {
    let mut tokens = Lexer::starting_at(&text[..span.end], span.start).skip(1).peekable();
    let is = |token: &Token, word: &str| text[token.start..token.end].eq_ignore_ascii_case(word);
    if tokens.peek().is_some_and(|token| is(token, "(")) && !opens_query(text, tokens.clone().skip(1)) {
        let mut depth = 0;
        for token in tokens.by_ref() {
            depth += i32::from(is(&token, "(")) - i32::from(is(&token, ")"));
            if depth == 0 {
                break;
            }
        }
    } else {
        while tokens.next_if(|token| is(token, "analyze") || is(token, "analyse") || is(token, "verbose")).is_some() {}
    }
    tokens.next().map_or(span.end, |token| token.start)
}

/// `EXPLAIN (SELECT ...)` has no options.
fn opens_query(text: &str, mut tokens: impl Iterator<Item = Token>) -> bool {
    let first = tokens.find(|token| &text[token.start..token.end] != "(");
    first.is_some_and(|token| {
        token.kind == TokenKind::Word
            && ["select", "values", "with", "table"]
                .iter()
                .any(|word| text[token.start..token.end].eq_ignore_ascii_case(word))
    })
}
