//! PostgreSQL's lexical rules, without allocation and without failing: what is broken is cut
//! somehow, and the parser says what is wrong with it.

/// One token of a text. White space and comments give none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub kind: TokenKind,
    pub start: usize,
    pub end: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// A bare identifier or key word.
    Word,
    /// `"..."` or `U&"..."`.
    Quoted,
    /// Decimal digits only.
    Integer,
    /// Digits with a point or an exponent.
    Number,
    /// `'...'` on one piece.
    Text,
    /// Every other literal: `E'..'`, `U&'..'`, `B'..'`, `X'..'`, dollar quotes, continued strings, `0x1F`, `1_000`.
    Other,
    /// `$1`
    Param,
    /// A run of operator characters, `::` or `:=`.
    Operator,
    /// One of `,()[].;:` or any byte that starts nothing.
    Mark,
}

/// The tokens of a text, one after another.
#[derive(Clone, Debug)]
pub(crate) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text: text.as_bytes(), at: 0 }
    }

    /// The lexer of the part of `text` that begins at byte `at`.
    pub(crate) fn starting_at(text: &'a str, at: usize) -> Self {
        Self { text: text.as_bytes(), at }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn skip_blank(&mut self) {
        loop {
            match self.peek(0) {
                b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => self.at += 1,
                b'-' if self.peek(1) == b'-' => self.skip_line(),
                b'/' if self.peek(1) == b'*' => self.skip_comment(),
                _ => return,
            }
        }
    }

    fn skip_line(&mut self) {
        let rest = &self.text[self.at..];
        self.at += memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
    }

    fn skip_comment(&mut self) {
        let mut depth = 0u32;
        while self.at < self.text.len() {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return;
                    }
                }
                _ => self.at += 1,
            }
        }
    }

    fn word(&mut self) -> TokenKind {
        while is_word(self.peek(0)) {
            self.at += 1;
        }
        TokenKind::Word
    }

    /// A quoted piece whose opening quote is at the cursor; doubled quotes belong to it.
    fn quoted(&mut self, quote: u8) {
        self.at += 1;
        while self.at < self.text.len() {
            let rest = &self.text[self.at..];
            let Some(end) = memchr::memchr(quote, rest) else {
                self.at = self.text.len();
                return;
            };
            self.at += end + 1;
            if self.peek(0) != quote {
                return;
            }
            self.at += 1;
        }
    }

    /// As [`Lexer::quoted`] for `'`, with backslash escapes.
    fn escaped(&mut self) {
        self.at += 1;
        while self.at < self.text.len() {
            match self.peek(0) {
                b'\\' => self.at += 2,
                b'\'' if self.peek(1) == b'\'' => self.at += 2,
                b'\'' => {
                    self.at += 1;
                    return;
                }
                _ => self.at += 1,
            }
        }
        self.at = self.text.len();
    }

    /// Whether a string goes on after white space with a line end, as SQL allows; takes the rest.
    fn continued(&mut self, escapes: bool) -> bool {
        let mut any = false;
        while let Some(next) = self.next_piece() {
            any = true;
            self.at = next;
            if escapes { self.escaped() } else { self.quoted(b'\'') }
        }
        any
    }

    fn next_piece(&self) -> Option<usize> {
        let mut at = self.at;
        let mut line_end = false;
        loop {
            match self.text.get(at).copied().unwrap_or(0) {
                b'\n' | b'\r' => {
                    line_end = true;
                    at += 1;
                }
                b' ' | b'\t' | 0x0b | 0x0c => at += 1,
                b'-' if self.text.get(at + 1) == Some(&b'-') => {
                    let rest = &self.text[at..];
                    at += memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                }
                b'\'' if line_end => return Some(at),
                _ => return None,
            }
        }
    }

    fn string(&mut self) -> TokenKind {
        self.quoted(b'\'');
        if self.continued(false) { TokenKind::Other } else { TokenKind::Text }
    }

    fn prefixed(&mut self, prefix: usize, escapes: bool) -> TokenKind {
        self.at += prefix;
        if escapes {
            self.escaped();
        } else {
            self.quoted(b'\'');
        }
        self.continued(escapes);
        TokenKind::Other
    }

    fn number(&mut self) -> TokenKind {
        if self.peek(0) == b'0' && matches!(self.peek(1) | 0x20, b'x' | b'o' | b'b') && self.peek(2).is_ascii_hexdigit()
        {
            self.at += 2;
            while self.peek(0).is_ascii_hexdigit() || self.peek(0) == b'_' {
                self.at += 1;
            }
            return TokenKind::Other;
        }
        let mut kind = TokenKind::Integer;
        let mut underscore = self.digits();
        if self.peek(0) == b'.' && !(self.peek(1) == b'.' && kind == TokenKind::Integer) {
            kind = TokenKind::Number;
            self.at += 1;
            underscore |= self.digits();
        }
        if self.peek(0) | 0x20 == b'e' {
            let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
            if self.peek(1 + sign).is_ascii_digit() {
                kind = TokenKind::Number;
                self.at += 1 + sign;
                underscore |= self.digits();
            }
        }
        if underscore { TokenKind::Other } else { kind }
    }

    /// Takes digits with single underscores between them; whether there were underscores.
    fn digits(&mut self) -> bool {
        let mut underscore = false;
        loop {
            if self.peek(0).is_ascii_digit() {
                self.at += 1;
            } else if self.peek(0) == b'_' && self.peek(1).is_ascii_digit() {
                underscore = true;
                self.at += 1;
            } else {
                return underscore;
            }
        }
    }

    fn dollar(&mut self) -> TokenKind {
        if self.peek(1).is_ascii_digit() {
            self.at += 1;
            while self.peek(0).is_ascii_digit() {
                self.at += 1;
            }
            return TokenKind::Param;
        }
        let mut end = self.at + 1;
        while self.text.get(end).is_some_and(|byte| is_word(*byte) && *byte != b'$') {
            end += 1;
        }
        if self.text.get(end) != Some(&b'$') {
            self.at += 1;
            return TokenKind::Mark;
        }
        let tag = &self.text[self.at..=end];
        let body = &self.text[end + 1..];
        self.at = memchr::memmem::find(body, tag).map_or(self.text.len(), |found| end + 1 + found + tag.len());
        TokenKind::Other
    }

    fn operator(&mut self) -> TokenKind {
        while is_operator(self.peek(0)) {
            if matches!((self.peek(0), self.peek(1)), (b'-', b'-') | (b'/', b'*')) {
                break;
            }
            self.at += 1;
        }
        TokenKind::Operator
    }

    fn colon(&mut self) -> TokenKind {
        if matches!(self.peek(1), b':' | b'=') {
            self.at += 2;
            return TokenKind::Operator;
        }
        self.at += 1;
        TokenKind::Mark
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    #[inline]
    fn next(&mut self) -> Option<Token> {
        self.skip_blank();
        let start = self.at;
        let first = *self.text.get(start)?;
        let kind = match first {
            b'\'' => self.string(),
            b'"' => {
                self.quoted(b'"');
                TokenKind::Quoted
            }
            b'0'..=b'9' => self.number(),
            b'.' if self.peek(1).is_ascii_digit() => self.number(),
            b'$' => self.dollar(),
            b'e' | b'E' if self.peek(1) == b'\'' => self.prefixed(1, true),
            b'b' | b'B' | b'x' | b'X' if self.peek(1) == b'\'' => self.prefixed(1, false),
            b'u' | b'U' if self.peek(1) == b'&' && self.peek(2) == b'\'' => self.prefixed(2, false),
            b'u' | b'U' if self.peek(1) == b'&' && self.peek(2) == b'"' => {
                self.at += 2;
                self.quoted(b'"');
                TokenKind::Quoted
            }
            b':' => self.colon(),
            _ if is_word_start(first) => self.word(),
            _ if is_operator(first) => self.operator(),
            _ => {
                self.at += 1;
                TokenKind::Mark
            }
        };
        self.at = self.at.min(self.text.len());
        Some(Token { kind, start, end: self.at })
    }
}

fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn is_word(byte: u8) -> bool {
    is_word_start(byte) || byte.is_ascii_digit() || byte == b'$'
}

fn is_operator(byte: u8) -> bool {
    matches!(
        byte,
        b'~' | b'!'
            | b'@'
            | b'#'
            | b'^'
            | b'&'
            | b'|'
            | b'`'
            | b'?'
            | b'+'
            | b'-'
            | b'*'
            | b'/'
            | b'%'
            | b'<'
            | b'>'
            | b'='
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(TokenKind, &str)]) {
        let tokens: Vec<_> = Lexer::new(text).map(|token| (token.kind, &text[token.start..token.end])).collect();
        assert_eq!(tokens, expected);
    }

    #[test]
    fn literals_of_every_kind() {
        use TokenKind::{Integer, Number, Operator, Other, Param, Text, Word};
        check("'it''s'", &[(Text, "'it''s'")]);
        check("'a'\n  'b'", &[(Other, "'a'\n  'b'")]);
        check("e'\\'' U&'x' b'01' X'ff'", &[(Other, "e'\\''"), (Other, "U&'x'"), (Other, "b'01'"), (Other, "X'ff'")]);
        check("$a$ 'x' $$ $a$ $$;$$ $12", &[(Other, "$a$ 'x' $$ $a$"), (Other, "$$;$$"), (Param, "$12")]);
        check(
            "1 1.5 .5 1e-3 0x1F 1_000",
            &[(Integer, "1"), (Number, "1.5"), (Number, ".5"), (Number, "1e-3"), (Other, "0x1F"), (Other, "1_000")],
        );
        check("a-1", &[(Word, "a"), (Operator, "-"), (Integer, "1")]);
    }

    #[test]
    fn comments_nest_and_end_operators() {
        use TokenKind::{Integer, Operator, Word};
        check("a /* x /* y */ z */ b", &[(Word, "a"), (Word, "b")]);
        check("1+--2\n3", &[(Integer, "1"), (Operator, "+"), (Integer, "3")]);
        check("a::int", &[(Word, "a"), (Operator, "::"), (Word, "int")]);
    }

    #[test]
    fn broken_text_ends() {
        for text in ["'", "\"", "$a$", "/*", "e'\\", "U&'", "$", "\\", "é'"] {
            assert!(Lexer::new(text).count() <= 2);
        }
    }
}
