//! What a trigger's function does beside its own row, and to it, as far as the words of its text show.

use crate::catalog::{Catalog, Event, Table, TableKind, Volatility};
use crate::sql::functions::{self, Precedence, lives_at_home};
use crate::sql::lex::{Lexer, Token, TokenKind};

/// The bits of `pg_trigger.tgtype`.
const ROW: i16 = 1;
const BEFORE: i16 = 2;
const INSERT: i16 = 4;
const DELETE: i16 = 8;
const UPDATE: i16 = 16;
const INSTEAD: i16 = 64;

/// Functions in other languages that look at their row only, and set it to the same everywhere.
const HARMLESS: [&str; 4] = [
    "insert_username",
    "suppress_redundant_updates_trigger",
    "tsvector_update_trigger",
    "tsvector_update_trigger_column",
];

/// A trigger as a server tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TriggerCode {
    /// `pg_trigger.tgtype`: when it runs, and for what.
    pub kind: i16,
    pub function: String,
    /// Of the function.
    pub language: String,
    /// What `prosrc` says.
    pub body: String,
}

impl TriggerCode {
    /// What it runs for.
    pub fn events(&self) -> Vec<Event> {
        let all = [(INSERT, Event::Insert), (UPDATE, Event::Update), (DELETE, Event::Delete)];
        all.into_iter().filter(|(bit, _)| self.kind & bit != 0).map(|(_, event)| event).collect()
    }

    /// INSTEAD OF: it is for a view.
    pub(super) fn is_instead(&self) -> bool {
        self.kind & INSTEAD != 0
    }

    /// Whether rows may neither be stored nor come back, because it returns something else than them.
    pub fn passes_over(&self) -> bool {
        if !self.sets_row() || self.language != "plpgsql" {
            return self.sets_row() && self.function == "suppress_redundant_updates_trigger";
        }
        let words: Vec<&str> = Lexer::new(&self.body).map(|token| &self.body[token.start..token.end]).collect();
        let is = |at: usize, word: &str| words.get(at).is_some_and(|found| found.eq_ignore_ascii_case(word));
        (0..words.len()).any(|at| is(at, "return") && !(is(at + 1, "new") && is(at + 2, ";")))
    }

    /// Whether what it returns is stored.
    pub fn sets_row(&self) -> bool {
        self.kind & (ROW | BEFORE) == ROW | BEFORE && self.kind & (INSERT | UPDATE) != 0
    }
}

/// Why this trigger may not run where the rows of `table` are; as the end of a sentence about its function.
pub(super) fn reason_against(catalog: &Catalog, table: &Table, trigger: &TriggerCode) -> Option<String> {
    let key = match table.kind {
        TableKind::Sharded { column, .. } => table.columns.get(column).map(|column| column.name.as_str()),
        TableKind::Reference | TableKind::Local(_) => None,
    };
    if trigger.language != "plpgsql" {
        let function = &*trigger.function;
        let is_known = HARMLESS.contains(&function) || key.is_some() && function == "moddatetime";
        let touches = trigger.sets_row() || key.is_none();
        return (!is_known && touches)
            .then(|| format!("is written in {}, which the router does not look into", trigger.language));
    }
    let body = &*trigger.body;
    let tokens: Vec<Token> = Lexer::new(body).collect();
    let mut code = Code { catalog, body, tokens: &tokens, key, tied: false };
    code.tied = code.mentions_own();
    let beside = (0..tokens.len()).find_map(|at| code.reason_at(at));
    beside.or_else(|| match key {
        _ if !trigger.sets_row() => None,
        Some(key) => (0..tokens.len()).find_map(|at| code.sets_key(at, key)),
        None => (0..tokens.len()).find_map(|at| code.varies_at(at)),
    })
}

struct Code<'a> {
    catalog: &'a Catalog,
    body: &'a str,
    tokens: &'a [Token],
    /// Of its own row.
    key: Option<&'a str>,
    /// It names the sharding key of its own row.
    tied: bool,
}

impl Code<'_> {
    /// The word at this place as PostgreSQL reads it; empty for anything else.
    fn word(&self, at: usize) -> String {
        let Some(token) = self.tokens.get(at) else { return String::new() };
        let text = &self.body[token.start..token.end];
        match token.kind {
            TokenKind::Word => text.to_ascii_lowercase(),
            TokenKind::Quoted => text.trim_matches('"').replace("\"\"", "\""),
            _ => String::new(),
        }
    }

    fn is_mark(&self, at: usize, mark: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| &self.body[token.start..token.end] == mark)
    }

    /// Whether NEW or OLD is asked for the sharding key.
    fn mentions_own(&self) -> bool {
        (0..self.tokens.len()).any(|at| self.is_own_key(at))
    }

    /// NEW or OLD with the sharding key.
    fn is_own_key(&self, at: usize) -> bool {
        matches!(self.word(at).as_str(), "new" | "old")
            && self.is_mark(at + 1, ".")
            && self.key.is_some_and(|key| self.word(at + 2) == key)
    }

    fn reason_at(&self, at: usize) -> Option<String> {
        let word = self.word(at);
        let before = if at == 0 { String::new() } else { self.word(at - 1) };
        match word.as_str() {
            "execute" => return Some("runs statements that it builds from strings".into()),
            "into" if matches!(before.as_str(), "insert" | "merge") => {
                return self.table_at(at + 1, true).or_else(|| self.inserts_elsewhere(at + 1));
            }
            "from" => return self.table_at(at + 1, before == "delete"),
            "update" | "truncate" => return self.table_at(at + 1, true),
            "join" | "using" => return self.table_at(at + 1, false),
            _ => {}
        }
        if !self.is_mark(at + 1, "(") {
            return None;
        }
        let own = self.catalog.functions.get(&word).filter(|own| own.volatility != Volatility::Immutable);
        match own {
            Some(_) => Some(format!("calls {word}(), which the router does not look into")),
            None if lives_at_home(&word) => {
                Some(format!("calls {word}(), which means something on the first shard only"))
            }
            None => None,
        }
    }

    /// The table whose name begins here, its name, and what stands behind it.
    fn table(&self, at: usize) -> Option<(&Table, String, usize)> {
        let at = if self.word(at) == "only" { at + 1 } else { at };
        let (schema, name, end) = match self.is_mark(at + 1, ".") {
            true => (Some(self.word(at)), self.word(at + 2), at + 3),
            false => (None, self.word(at), at + 1),
        };
        let is_meant = |found: &str| schema.as_deref().is_none_or(|schema| schema == found);
        let mut tables = self.catalog.tables.iter().filter(|(schema, _)| is_meant(schema));
        Some((tables.find_map(|(_, tables)| tables.get(&name))?, name, end))
    }

    /// INSERT ... VALUES into the sharded table whose name begins here, of a row whose key is a field or a literal that is not the own key.
    fn inserts_elsewhere(&self, at: usize) -> Option<String> {
        let (table, name, mut at) = self.table(at)?;
        let TableKind::Sharded { column, .. } = table.kind else { return None };
        let key = &table.columns.get(column)?.name;
        let elsewhere = || Some(format!("stores rows of \"{name}\" under another sharding key than its own row's"));
        if self.word(at) == "as" {
            at += 2;
        }
        let mut position = column;
        if self.is_mark(at, "(") {
            let list = self.items(at);
            let Some(found) = list.iter().position(|item| item.len() == 1 && self.word(item.start) == *key) else {
                return elsewhere();
            };
            position = found;
            at = list.last()?.end + 1;
        }
        if self.word(at) != "values" {
            return None;
        }
        let mut open = at + 1;
        while self.is_mark(open, "(") {
            let row = self.items(open);
            let value = row.get(position)?;
            let first = self.word(value.start);
            let is_field = matches!(first.as_str(), "new" | "old") && value.len() == 3;
            let is_literal =
                value.len() == 1 && !matches!(self.tokens[value.start].kind, TokenKind::Word | TokenKind::Quoted);
            if is_literal || is_field && !self.is_own_key(value.start) {
                return elsewhere();
            }
            open = row.last()?.end + 2;
        }
        None
    }

    /// What stands between the commas of the brackets that open here.
    fn items(&self, open: usize) -> Vec<std::ops::Range<usize>> {
        let (mut items, mut depth, mut start) = (Vec::new(), 0, open + 1);
        for at in open..self.tokens.len() {
            match () {
                () if self.is_mark(at, "(") => depth += 1,
                () if self.is_mark(at, ")") => {
                    depth -= 1;
                    if depth == 0 {
                        items.push(start..at);
                        break;
                    }
                }
                () if depth == 1 && self.is_mark(at, ",") => {
                    items.push(start..at);
                    start = at + 1;
                }
                () => {}
            }
        }
        items
    }

    /// What speaks against reading or writing the table whose name begins here.
    fn table_at(&self, at: usize, writes: bool) -> Option<String> {
        let (found, name, _) = self.table(at)?;
        match (found.kind, writes) {
            (TableKind::Sharded { .. }, _) if self.tied => None,
            (TableKind::Sharded { .. }, _) => {
                Some(format!("uses sharded table \"{name}\" without the sharding key of its own row"))
            }
            (TableKind::Reference, false) => None,
            (TableKind::Reference, true) => Some(format!("writes reference table \"{name}\"")),
            (TableKind::Local(_), _) => Some(format!("uses local table \"{name}\"")),
        }
    }

    /// What stands here that gives the row another value on every shard.
    fn varies_at(&self, at: usize) -> Option<String> {
        const WORDS: [&str; 5] = ["current_timestamp", "current_date", "current_time", "localtimestamp", "localtime"];
        let word = self.word(at);
        let told = |what: &str| Some(format!("uses {what}, which is another value on every shard"));
        if self.tokens[at].kind == TokenKind::Text {
            let text = self.body[self.tokens[at].start..self.tokens[at].end].trim_matches('\'').trim();
            let is_time = ["now", "today", "tomorrow", "yesterday"].iter().any(|word| text.eq_ignore_ascii_case(word));
            return if is_time { told(&format!("'{text}'")) } else { None };
        }
        if WORDS.contains(&&*word) {
            return told(&word.to_ascii_uppercase());
        }
        let in_schema = at > 1 && self.is_mark(at - 1, ".");
        if !self.is_mark(at + 1, "(") || in_schema && self.word(at - 2) != "pg_catalog" {
            return None;
        }
        let known = functions::lookup(self.catalog, Precedence::BuiltIn, None, &word)?;
        let volatile = known.function.volatility == Volatility::Volatile;
        let clock = functions::is_transaction_clock(&word) || functions::is_clock(&word);
        if volatile || clock { told(&format!("{word}()")) } else { None }
    }

    /// Whether the key of the row, or all of the row, gets another value here.
    fn sets_key(&self, at: usize, key: &str) -> Option<String> {
        let word = self.word(at);
        let row = || Some("replaces the row, and may change its sharding key".to_owned());
        match word.as_str() {
            "new" if self.is_mark(at + 1, ".") && self.word(at + 2) == key => {
                self.is_assigned(at, at + 3).then(|| format!("sets the sharding key \"{key}\" of its row"))
            }
            "new" if !self.is_mark(at + 1, ".") && self.is_assigned(at, at + 1) => row(),
            "into" if at == 0 || !matches!(self.word(at - 1).as_str(), "insert" | "merge") => {
                let mut next = if self.word(at + 1) == "strict" { at + 2 } else { at + 1 };
                loop {
                    let is_field = self.is_mark(next + 1, ".");
                    if self.word(next) == "new" && (!is_field || self.word(next + 2) == key) {
                        return row();
                    }
                    next += if is_field { 3 } else { 1 };
                    if !self.is_mark(next, ",") {
                        return None;
                    }
                    next += 1;
                }
            }
            "alias" if self.word(at + 1) == "for" => row(),
            "return" if !self.returns_own(at + 1) => row(),
            _ => None,
        }
    }

    /// Whether what begins at `at` and ends before `end` is the left side of an assignment.
    fn is_assigned(&self, at: usize, end: usize) -> bool {
        let begins = at == 0
            || self.is_mark(at - 1, ";")
            || self.is_mark(at - 1, ">>")
            || matches!(self.word(at - 1).as_str(), "begin" | "then" | "else" | "loop");
        let counts = at > 0 && self.word(at - 1) == "for";
        counts || self.is_mark(end, ":=") || begins && self.is_mark(end, "=")
    }

    /// Whether a RETURN gives back NEW or OLD, whichever it is.
    fn returns_own(&self, at: usize) -> bool {
        const WORDS: [&str; 10] = ["new", "old", "null", "coalesce", "case", "when", "then", "else", "end", "tg_op"];
        let rest = (at..self.tokens.len()).take_while(|at| !self.is_mark(*at, ";"));
        rest.into_iter().all(|at| match self.tokens[at].kind {
            TokenKind::Word | TokenKind::Quoted => {
                WORDS.contains(&&*self.word(at)) && !(self.word(at) != "tg_op" && self.is_mark(at + 1, "."))
            }
            _ => true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(kind: i16, language: &str, body: &str) -> bool {
        let function = "suppress_redundant_updates_trigger".to_owned();
        TriggerCode { kind, function, language: language.into(), body: body.into() }.passes_over()
    }

    #[test]
    fn rows_are_passed_over_by_what_returns_anything_else() {
        let before = ROW | BEFORE | INSERT;
        assert!(!passes(before, "plpgsql", "BEGIN NEW.a := 1; Return new ; END"));
        assert!(!passes(before, "plpgsql", "BEGIN NEW.a := 'RETURN NULL;'; RETURN NEW; -- return null;\nEND"));
        for other in ["NULL", "OLD", "(NEW)", "CASE WHEN NEW.a > 1 THEN NEW END", "coalesce(OLD, NEW)"] {
            assert!(passes(before, "plpgsql", &format!("BEGIN IF a THEN RETURN NEW; END IF; RETURN {other}; END")));
        }
        // After the row is stored nobody heeds it.
        assert!(!passes(ROW | INSERT, "plpgsql", "BEGIN RETURN NULL; END"));
        assert!(!passes(BEFORE | INSERT, "plpgsql", "BEGIN RETURN NULL; END"));
        assert!(passes(ROW | BEFORE | UPDATE, "internal", ""));
    }
}
