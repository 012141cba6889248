//! The values in the rows of an INSERT, as far as their text alone tells them.

use std::ops::Range;

use super::lex::{Token, TokenKind};

/// One value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    Null,
    Bool(bool),
    /// Decimal digits, perhaps with a point or an exponent.
    Number {
        digits: Range<usize>,
        negative: bool,
    },
    /// `'...'` with its quotes.
    Text {
        quoted: Range<usize>,
        cast: Option<Range<usize>>,
    },
    /// Counted from 0.
    Param(u16),
    /// An expression, DEFAULT, or another form of literal.
    Other,
}

/// The tokens of a value while they are read.
#[derive(Default)]
pub(super) struct CellTokens {
    /// The first ones; more make an expression.
    first: [Option<Token>; Self::MAX],
    count: usize,
}

impl CellTokens {
    /// Those of `'...'::pg_catalog.name`.
    const MAX: usize = 5;

    pub(super) fn push(&mut self, token: Token) {
        if let Some(place) = self.first.get_mut(self.count) {
            *place = Some(token);
        }
        self.count += 1;
    }

    /// The value that ends here; what follows is the next one's.
    pub(super) fn take(&mut self, text: &str) -> Cell {
        let Self { first, count } = std::mem::take(self);
        let word = |token: &Token| &text[token.start..token.end];
        let is = |token: &Token, name: &str| word(token).eq_ignore_ascii_case(name);
        let tokens = &first[..count.min(Self::MAX)];
        match tokens {
            _ if count > Self::MAX => Cell::Other,
            [Some(one)] => match one.kind {
                TokenKind::Integer | TokenKind::Number => number(one, false),
                TokenKind::Text => Cell::Text { quoted: one.start..one.end, cast: None },
                TokenKind::Param => {
                    let number = text[one.start + 1..one.end].parse::<u16>().ok();
                    number.and_then(|number| number.checked_sub(1)).map_or(Cell::Other, Cell::Param)
                }
                TokenKind::Word if is(one, "null") => Cell::Null,
                TokenKind::Word if is(one, "true") => Cell::Bool(true),
                TokenKind::Word if is(one, "false") => Cell::Bool(false),
                _ => Cell::Other,
            },
            [Some(minus), Some(one)]
                if word(minus) == "-" && matches!(one.kind, TokenKind::Integer | TokenKind::Number) =>
            {
                number(one, true)
            }
            [Some(one), Some(colons), Some(name)] if is_cast(text, one, colons, name) => {
                Cell::Text { quoted: one.start..one.end, cast: Some(name.start..name.end) }
            }
            [Some(one), Some(colons), Some(schema), Some(point), Some(name)]
                if is(schema, "pg_catalog") && word(point) == "." && is_cast(text, one, colons, name) =>
            {
                Cell::Text { quoted: one.start..one.end, cast: Some(name.start..name.end) }
            }
            _ => Cell::Other,
        }
    }
}

fn number(token: &Token, negative: bool) -> Cell {
    Cell::Number { digits: token.start..token.end, negative }
}

fn is_cast(text: &str, literal: &Token, colons: &Token, name: &Token) -> bool {
    literal.kind == TokenKind::Text && &text[colons.start..colons.end] == "::" && name.kind == TokenKind::Word
}
