//! The parser's errors as PostgreSQL tells them: SQLSTATE, words and position.

use std::borrow::Cow;

use super::lex::Lexer;
use crate::refusal::Refusal;

/// Longest text in which the position of an error is looked for.
const SEARCHED_BYTES_MAX: usize = 256 << 10;

/// What a client is told of a text that does not parse.
pub(super) fn refusal(text: &str, error: &pg_raw_parse::Error) -> Box<Refusal> {
    let message = match error {
        pg_raw_parse::Error::Parse(error) => error.to_string(),
        pg_raw_parse::Error::PgError(error) => error.to_string(),
        pg_raw_parse::Error::StatementContainedNul(_) => "invalid byte sequence for encoding \"UTF8\": 0x00".to_owned(),
    };
    let position = position(text, &message);
    let sqlstate = sqlstate(&message);
    Box::new(Refusal { sqlstate, message: Cow::Owned(message), detail: None, hint: None, context: None, position })
}

fn sqlstate(message: &str) -> &'static str {
    if message.starts_with("memory exhausted") {
        return "54001";
    }
    if message.contains("not supported") || message.contains("not implemented") || message.contains("not yet") {
        return "0A000";
    }
    if message.contains("Unicode escape") || message.contains("Unicode surrogate") { "22025" } else { "42601" }
}

/// Where the parser stumbled, in characters from 1. The parser's own answer is out of reach, so it
/// is found again: of all tokens spelled as the message says, it is the first one with which the
/// text before it does not parse.
fn position(text: &str, message: &str) -> Option<u32> {
    if text.len() > SEARCHED_BYTES_MAX {
        return None;
    }
    if message.ends_with(" at end of input") {
        return character(text, text.len());
    }
    let near = message.split_once(" at or near \"")?.1.strip_suffix('"')?;
    let starts: Vec<usize> = if Lexer::new(near).take(2).count() == 1 && !near.contains('\n') {
        Lexer::new(text).filter(|token| text[token.start..].starts_with(near)).map(|token| token.start).collect()
    } else {
        text.match_indices(near).map(|(start, _)| start).collect()
    };
    let wrong = starts.partition_point(|start| !fails_at(text, *start, near, message));
    starts.get(wrong).or(starts.last()).and_then(|start| character(text, *start))
}

fn fails_at(text: &str, start: usize, near: &str, message: &str) -> bool {
    let end = start + near.len();
    match pg_raw_parse::parse(&text[..end]) {
        Ok(_) => false,
        Err(error) => error.to_string().ends_with(message) || !error.to_string().contains("at end of input"),
    }
}

fn character(text: &str, byte: usize) -> Option<u32> {
    u32::try_from(text.get(..byte)?.chars().count() + 1).ok()
}
