//! The shape of a statement: its text with the literals taken out, found without parsing.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::lex::{Lexer, TokenKind};

/// One literal of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Literal {
    /// Byte offsets in the text, quotes included, a minus sign not.
    pub start: u32,
    pub end: u32,
    pub kind: LiteralKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiteralKind {
    Integer,
    /// Any other number.
    Number,
    /// `'...'` with doubled quotes.
    Text,
    /// `E'...'`, `U&'...'`, `B'...'`, `X'...'`, dollar quotes: never a key by slot.
    Other,
}

/// Fills `literals` with the literals of `text` and returns the hash of its shape: equal for texts
/// that differ only in the values of literals, in white space and comments.
///
/// The value of a literal of kind [`LiteralKind::Other`] belongs to the shape.
pub fn scan(text: &str, literals: &mut Vec<Literal>) -> u64 {
    literals.clear();
    let mut hash = ShapeHash::new();
    for token in Lexer::new(text) {
        let (mark, kind) = match token.kind {
            TokenKind::Integer => (1, LiteralKind::Integer),
            TokenKind::Number => (2, LiteralKind::Number),
            TokenKind::Text => (3, LiteralKind::Text),
            TokenKind::Other => (4, LiteralKind::Other),
            _ => {
                hash.add(&text.as_bytes()[token.start..token.end]);
                hash.add(&[0]);
                continue;
            }
        };
        hash.add(&[mark]);
        if kind == LiteralKind::Other {
            hash.add(&text.as_bytes()[token.start..token.end]);
            hash.add(&[0]);
        }
        literals.push(Literal { start: offset(token.start), end: offset(token.end), kind });
    }
    hash.finish()
}

fn offset(byte: usize) -> u32 {
    u32::try_from(byte).unwrap_or(u32::MAX)
}

/// Hashes a stream of pieces; a short stream, the common case, in one go.
struct ShapeHash {
    buffer: [u8; Self::BUFFER],
    used: usize,
    long: Option<Box<Xxh3>>,
}

impl ShapeHash {
    const BUFFER: usize = 1024;

    fn new() -> Self {
        Self { buffer: [0; Self::BUFFER], used: 0, long: None }
    }

    #[inline]
    fn add(&mut self, piece: &[u8]) {
        if self.used + piece.len() <= Self::BUFFER {
            self.buffer[self.used..self.used + piece.len()].copy_from_slice(piece);
            self.used += piece.len();
        } else {
            self.spill(piece);
        }
    }

    #[cold]
    fn spill(&mut self, piece: &[u8]) {
        let long = self.long.get_or_insert_with(|| Box::new(Xxh3::new()));
        long.update(&self.buffer[..self.used]);
        self.used = 0;
        if piece.len() > Self::BUFFER {
            long.update(piece);
        } else {
            self.add(piece);
        }
    }

    fn finish(mut self) -> u64 {
        match &mut self.long {
            None => xxh3_64(&self.buffer[..self.used]),
            Some(long) => {
                long.update(&self.buffer[..self.used]);
                long.digest()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> u64 {
        scan(text, &mut Vec::new())
    }

    #[test]
    fn values_white_space_and_comments_do_not_matter() {
        assert_eq!(shape("SELECT * FROM t WHERE a = 1"), shape("SELECT *  FROM t /* x */ WHERE a=42 -- y"));
        assert_eq!(shape("SELECT 'a'"), shape("SELECT 'it''s'"));
    }

    #[test]
    fn kinds_words_and_signs_matter() {
        assert_ne!(shape("SELECT 1"), shape("SELECT 1.0"));
        assert_ne!(shape("SELECT 1"), shape("SELECT '1'"));
        assert_ne!(shape("SELECT 1"), shape("SELECT -1"));
        assert_ne!(shape("SELECT a b"), shape("SELECT ab"));
        assert_ne!(shape("SELECT E'a'"), shape("SELECT E'b'"));
        assert_ne!(shape("SELECT $1"), shape("SELECT $2"));
        assert_ne!(shape("SELECT 0x10"), shape("SELECT 0x11"));
    }

    #[test]
    fn literals_are_found_where_they_stand() {
        let text = "SELECT -5, 'x''y', 1.5";
        let mut literals = Vec::new();
        scan(text, &mut literals);
        let found: Vec<_> = literals.iter().map(|l| (l.kind, &text[l.start as usize..l.end as usize])).collect();
        assert_eq!(found, [(LiteralKind::Integer, "5"), (LiteralKind::Text, "'x''y'"), (LiteralKind::Number, "1.5")]);
    }

    #[test]
    fn long_texts_are_hashed_in_pieces() {
        let long = format!("SELECT {} 1", "a, ".repeat(2000));
        assert_eq!(shape(&long), shape(&long.replace('1', "2")));
        assert_ne!(shape(&long), shape(&long.replace("1", "'1'")));
    }
}
