//! Text -> our own tree, through PostgreSQL's own grammar.
//!
//! The parser's nodes never leave the `parse*` files. Its result may nest as deep as the text is
//! long, so nothing here recurses without counting: beyond `depth_max` the text is refused before
//! any further step down.

use std::ops::Range;

use pg_raw_parse::{Node, nodes};

use super::Limits;
use super::lex::{Lexer, TokenKind};
use super::parse_error;
use super::shape::Literal;
use super::tree::Stmt;
use crate::refusal::Refusal;

pub(crate) type Result<T> = std::result::Result<T, Box<Refusal>>;

/// One statement of a text.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub stmt: Stmt,
    /// Its bytes, without the semicolon and without blanks around it.
    pub span: Range<usize>,
    /// The highest `$n`.
    pub params: u16,
}

/// All statements of `text`; none when there is nothing but white space and comments.
pub(crate) fn parse(text: &str, literals: &[Literal], limits: &Limits) -> Result<Vec<Parsed>> {
    check_text(text, limits)?;
    let tree = pg_raw_parse::parse(text).map_err(|error| parse_error::refusal(text, &error))?;
    let list = tree.into_inner();
    let mut statements = Vec::with_capacity(list.len());
    for raw in &*list {
        let span = span_of(text, raw);
        let mut builder = Builder { literals, text, depth: 0, depth_max: limits.depth_max, params: 0 };
        let stmt = builder.stmt(raw.stmt(), &span)?;
        statements.push(Parsed { stmt, span, params: builder.params });
    }
    Ok(statements)
}

/// The bounds that hold before the parser sees a text.
fn check_text(text: &str, limits: &Limits) -> Result<()> {
    if text.len() > limits.statement_bytes_max {
        let detail = format!("It has {} bytes; the bound is {}.", text.len(), limits.statement_bytes_max);
        let refusal = Refusal::error("54000", "statement is too long").with_detail(detail);
        return Err(Box::new(refusal.with_hint("Send the data by COPY or in several statements.")));
    }
    if memchr::memchr(0, text.as_bytes()).is_some() {
        return Err(Box::new(Refusal::error("22021", "invalid byte sequence for encoding \"UTF8\": 0x00")));
    }
    Ok(())
}

fn span_of(text: &str, raw: &nodes::RawStmt) -> Range<usize> {
    let start = usize::try_from(raw.stmt_location).unwrap_or(0).min(text.len());
    let length = usize::try_from(raw.stmt_len).unwrap_or(0);
    let end = if length == 0 { text.len() } else { (start + length).min(text.len()) };
    let mut tokens =
        Lexer::starting_at(&text[..end], start).filter(|token| !is_semicolon(text, token.start, token.kind));
    let Some(first) = tokens.next() else { return start..end };
    let last = tokens.last().unwrap_or(first);
    first.start..last.end
}

fn is_semicolon(text: &str, start: usize, kind: TokenKind) -> bool {
    kind == TokenKind::Mark && text.as_bytes()[start] == b';'
}

/// Fills our tree from the parser's, counting how deep it is.
pub(super) struct Builder<'t> {
    pub(super) text: &'t str,
    pub(super) literals: &'t [Literal],
    pub(super) depth: usize,
    pub(super) depth_max: usize,
    pub(super) params: u16,
}

impl Builder<'_> {
    /// One level down; every recursive function calls it first.
    pub(super) fn enter(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > self.depth_max {
            return Err(too_deep());
        }
        Ok(())
    }

    pub(super) fn leave(&mut self) {
        self.depth -= 1;
    }
}

#[cold]
fn too_deep() -> Box<Refusal> {
    let refusal = Refusal::error("54001", "stack depth limit exceeded");
    Box::new(refusal.with_hint("Nest the statement less deeply, or use IN and = ANY in place of long chains."))
}

/// The strings of a list of names.
pub(super) fn strings<'a>(nodes: impl Iterator<Item = Node<'a>>) -> Vec<Box<str>> {
    nodes.filter_map(Node::as_str).map(Box::from).collect()
}
