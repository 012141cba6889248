//! The shape of a statement: its text with the literals taken out, found without parsing.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::lex::{Lexer, Token, TokenKind};

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

/// Longest text of a [`Shape`] in bytes.
pub const SHAPE_TEXT_BYTES_MAX: usize = 512;

/// What the texts of a statement have in common, for counting by statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Equal for texts that differ only in literals, in white space, comments and semicolons at the end.
    pub id: u64,
    /// In one line, without comments, each literal as the next `$n`; shortened to
    /// [`SHAPE_TEXT_BYTES_MAX`] with `...` at its end.
    pub text: Box<str>,
}

impl Shape {
    /// Never fails, whatever the text is. Unlike [`scan`], no value of any literal matters.
    pub fn of(text: &str) -> Self {
        let bytes = text.as_bytes();
        // A semicolon at the end is a habit of the writer's, not another statement.
        let ends = |token: &Token| &bytes[token.start..token.end] == b";";
        let end = Lexer::new(text).filter(|token| !ends(token)).last().map_or(0, |token| token.end);
        let tokens = || Lexer::new(text).take_while(|token| token.end <= end);
        let param = |token: Token| text.get(token.start + 1..token.end).and_then(|digits| digits.parse::<u32>().ok());
        let params = tokens().filter(|token| token.kind == TokenKind::Param).filter_map(param);
        let mut next = params.max().unwrap_or(0);
        let mut hash = ShapeHash::new();
        let mut shown = String::with_capacity(text.len().min(SHAPE_TEXT_BYTES_MAX));
        let mut before = 0;
        for token in tokens() {
            let fits = shown.len() <= SHAPE_TEXT_BYTES_MAX;
            if fits && token.start > before && before > 0 {
                shown.push(' ');
            }
            before = token.end;
            if is_literal(token.kind) {
                hash.add(&[1]);
                next = next.saturating_add(1);
                if fits {
                    shown.push_str(&format!("${next}"));
                }
            } else {
                hash.add(&bytes[token.start..token.end]);
                hash.add(&[0]);
                if fits {
                    let end = token.end.min(token.start + SHAPE_TEXT_BYTES_MAX + 1);
                    shown.push_str(&String::from_utf8_lossy(&bytes[token.start..end]));
                }
            }
        }
        Self { id: hash.finish(), text: shorten(shown, SHAPE_TEXT_BYTES_MAX).into() }
    }
}

fn is_literal(kind: TokenKind) -> bool {
    matches!(kind, TokenKind::Integer | TokenKind::Number | TokenKind::Text | TokenKind::Other)
}

/// At most `bytes_max` bytes of a text; what was longer ends with `...`.
pub fn shorten(mut text: String, bytes_max: usize) -> String {
    const MARK: &str = "...";
    if text.len() > bytes_max {
        let fits = |end: &usize| text.is_char_boundary(*end);
        let end = (0..=bytes_max.saturating_sub(MARK.len())).rev().find(fits).unwrap_or(0);
        text.truncate(end);
        text.push_str(MARK);
    }
    text
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
    fn a_shape_tells_a_statement_without_its_values() {
        let shown = |text: &str| Shape::of(text).text.into_string();
        assert_eq!(
            shown("SELECT  a\n FROM t /* x */ WHERE b=-5 AND c = 'it''s' -- y"),
            "SELECT a FROM t WHERE b=-$1 AND c = $2"
        );
        assert_eq!(shown("SELECT $2 + 1, E'x', $$y$$"), "SELECT $2 + $3, $4, $5");
        assert_eq!(shown(" SELECT 1; SELECT ';' ; -- x\n;"), "SELECT $1; SELECT $2");
        assert_eq!((shown(""), shown(";")), (String::new(), String::new()));
        assert_eq!(Shape::of("SELECT 1").id, Shape::of("SELECT 2 ;;").id);
        let ids = |a: &str, b: &str| (Shape::of(a).id, Shape::of(b).id);
        let (a, b) = ids("SELECT E'a', 1", "select E'a', 1".replace("select", "SELECT /**/").as_str());
        assert_eq!(a, b);
        let (a, b) = ids("SELECT E'a'", "SELECT 17.5");
        assert_eq!(a, b);
        let (a, b) = ids("SELECT a b", "SELECT ab");
        assert_ne!(a, b);
    }

    #[test]
    fn the_text_of_a_shape_has_a_bound() {
        for text in [format!("SELECT {}", "é, ".repeat(4000)), format!("SELECT \"{}\"", "ü".repeat(4000))] {
            let shape = Shape::of(&text);
            assert!(shape.text.len() <= SHAPE_TEXT_BYTES_MAX && shape.text.ends_with("..."), "{}", shape.text);
            assert_ne!(shape.id, Shape::of(&format!("{text}, 1")).id, "what is not shown counts all the same");
        }
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
