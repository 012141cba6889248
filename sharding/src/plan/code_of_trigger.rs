//! What a trigger's function does beside its own row, as far as the words of its text show.

use crate::catalog::{Catalog, Table, TableKind, Volatility};
use crate::sql::functions::lives_at_home;
use crate::sql::lex::{Lexer, Token, TokenKind};

/// Why a function with this body may not run where the rows of `table` are; as the end of a sentence about it.
pub(super) fn reason_against(catalog: &Catalog, table: &Table, body: &str) -> Option<String> {
    let tokens: Vec<Token> = Lexer::new(body).collect();
    let mut code = Code { catalog, body, tokens: &tokens, tied: false };
    let key = match table.kind {
        TableKind::Sharded { column, .. } => table.columns.get(column).map(|column| column.name.as_str()),
        TableKind::Reference | TableKind::Local(_) => None,
    };
    code.tied = key.is_some_and(|key| code.mentions_own(key));
    (0..tokens.len()).find_map(|at| code.reason_at(at))
}

struct Code<'a> {
    catalog: &'a Catalog,
    body: &'a str,
    tokens: &'a [Token],
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
    fn mentions_own(&self, key: &str) -> bool {
        (0..self.tokens.len()).any(|at| {
            matches!(self.word(at).as_str(), "new" | "old") && self.is_mark(at + 1, ".") && self.word(at + 2) == key
        })
    }

    fn reason_at(&self, at: usize) -> Option<String> {
        let word = self.word(at);
        let before = if at == 0 { String::new() } else { self.word(at - 1) };
        match word.as_str() {
            "execute" => return Some("runs statements that it builds from strings".into()),
            "into" if matches!(before.as_str(), "insert" | "merge") => return self.table_at(at + 1, true),
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

    /// What speaks against reading or writing the table whose name begins here.
    fn table_at(&self, at: usize, writes: bool) -> Option<String> {
        let at = if self.word(at) == "only" { at + 1 } else { at };
        let (schema, name) = match self.is_mark(at + 1, ".") {
            true => (Some(self.word(at)), self.word(at + 2)),
            false => (None, self.word(at)),
        };
        let is_meant = |found: &str| schema.as_deref().is_none_or(|schema| schema == found);
        let mut tables = self.catalog.tables.iter().filter(|(schema, _)| is_meant(schema));
        let found = tables.find_map(|(_, tables)| tables.get(&name))?;
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
}
