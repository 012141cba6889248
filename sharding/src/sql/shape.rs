//! The shape of a statement: its text with the literals taken out, found without parsing.

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
pub fn scan(text: &str, literals: &mut Vec<Literal>) -> u64 {
    let _ = (text, literals);
    todo!()
}
