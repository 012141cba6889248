//! What procedural code leaves behind in its session, as far as its text shows.
//!
//! The body of a function or a DO block is not parsed: it may be in any language, and build its
//! statements from strings. Words at the beginning of a statement, strings included, are enough to
//! find what matters; a body that only looks as if costs a pin and no more.

use super::Pin;

/// Why a session that has run `code` must keep its server; the reason that counts.
pub fn pin_of_code(code: &str) -> Option<Pin> {
    let mut begins = true;
    let mut found: Option<Pin> = None;
    let mut words = words(code).peekable();
    while let Some(word) = words.next() {
        let pin = match word {
            Word::Separator => None,
            Word::Name(name) => pin_of_word(name, words.peek().copied().unwrap_or_default(), begins),
        };
        found = found.min(pin).or(found).or(pin);
        begins = match word {
            Word::Separator => true,
            Word::Name(name) => OPENERS.iter().any(|opener| name.eq_ignore_ascii_case(opener)),
        };
    }
    found
}

/// After these a statement begins.
const OPENERS: [&str; 5] = ["begin", "then", "else", "loop", "execute"];

#[derive(Clone, Copy, Default)]
enum Word<'a> {
    Name(&'a str),
    /// What may stand in front of a statement: a semicolon, a quote.
    #[default]
    Separator,
}

impl Word<'_> {
    fn is(self, names: &[&str]) -> bool {
        matches!(self, Self::Name(name) if names.iter().any(|known| name.eq_ignore_ascii_case(known)))
    }
}

fn words(code: &str) -> impl Iterator<Item = Word<'_>> {
    let mut rest = code;
    std::iter::from_fn(move || {
        let in_name = |c: char| c.is_alphanumeric() || c == '_';
        rest = rest.trim_start_matches(|c: char| !in_name(c) && !matches!(c, ';' | '\'' | '"' | '$'));
        let first = rest.chars().next()?;
        if !in_name(first) {
            rest = &rest[first.len_utf8()..];
            return Some(Word::Separator);
        }
        let end = rest.find(|c: char| !in_name(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after;
        Some(Word::Name(name))
    })
}

fn pin_of_word(name: &str, next: Word<'_>, begins: bool) -> Option<Pin> {
    let name = name.to_ascii_lowercase();
    let is_lock = name.starts_with("pg_advisory_lock") || name.starts_with("pg_try_advisory_lock");
    match name.as_str() {
        "set_config" => Some(Pin::SetConfig),
        "set" if begins && next.is(&["local"]) => Some(Pin::UntilCommit),
        "set" | "reset" if begins && !next.is(&["constraints", "transaction"]) => Some(Pin::SetConfig),
        "create" | "into" if next.is(&["temp", "temporary"]) => Some(Pin::TempTable),
        "pg_temp" => Some(Pin::TempTable),
        "listen" if begins => Some(Pin::Listen),
        "prepare" if begins && !next.is(&["transaction"]) => Some(Pin::Prepare),
        "load" if begins => Some(Pin::Load),
        _ if is_lock => Some(Pin::AdvisoryLock),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::pin_of_code;
    use crate::sql::Pin;

    #[test]
    fn code_that_changes_its_session_is_found() {
        for (code, pin) in [
            ("BEGIN PERFORM set_config('work_mem', '9MB', false); END", Pin::SetConfig),
            ("begin set search_path = x; end", Pin::SetConfig),
            ("SET search_path TO x", Pin::SetConfig),
            ("IF a THEN RESET ALL; END IF", Pin::SetConfig),
            ("EXECUTE format('SET ROLE %I', who);", Pin::SetConfig),
            ("CREATE TEMPORARY TABLE t (a int)", Pin::TempTable),
            ("SELECT 1 INTO TEMP t", Pin::TempTable),
            ("CREATE TYPE pg_temp.mood AS ENUM ('ok')", Pin::TempTable),
            ("PERFORM pg_try_advisory_lock(1)", Pin::AdvisoryLock),
            ("BEGIN LISTEN news; END", Pin::Listen),
            ("BEGIN SET LOCAL timezone = 'UTC'; END", Pin::UntilCommit),
            ("BEGIN SET LOCAL timezone = 'UTC'; LOAD 'x'; END", Pin::Load),
        ] {
            assert_eq!(pin_of_code(code), Some(pin), "{code}");
        }
    }

    #[test]
    fn code_that_leaves_nothing_is_let_go() {
        for code in [
            "BEGIN UPDATE t SET a = 1 WHERE b; RETURN NEW; END",
            "BEGIN SET CONSTRAINTS ALL DEFERRED; END",
            "SELECT pg_advisory_xact_lock(1)",
            "INSERT INTO temp_rows SELECT 1 ON CONFLICT (a) DO UPDATE SET a = 2",
            "",
            "RETURN 'offset'; -- é",
        ] {
            assert_eq!(pin_of_code(code), None, "{code}");
        }
    }
}
