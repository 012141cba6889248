//! DO blocks of migrations: `DO $$ BEGIN CREATE TYPE ...; EXCEPTION WHEN duplicate_object THEN NULL; END $$`.
//!
//! All shards have the same tables, types and functions. A block that only looks at those and only changes those does the same on each.

use super::Broadcast;
use super::bind::Binder;
use super::ddl::{ddl_plan, may_be_temporary};
use super::decide::Context;
use super::scope::Names;
use crate::refusal::Refusal;
use crate::sql::Limits;
use crate::sql::lex::{Lexer, Token, TokenKind};
use crate::sql::parse::{Parsed, parse};
use crate::sql::tree::{Dml, Stmt};

/// Whether the body of a DO block in plpgsql consists of DDL, IF over catalogs, and handlers of errors.
///
/// # Errors
/// DDL that would break a promise.
pub(super) fn changes_schema_only(context: Context<'_>, body: &str) -> Result<bool, Refusal> {
    let tokens: Vec<Token> = Lexer::new(body).collect();
    let block = Block { context, body };
    let is_end = |token: &Token| block.text(token) == ";";
    let mut pieces = tokens.split(is_end).filter(|piece| !piece.is_empty()).peekable();
    let mut harmless = pieces.peek().is_some_and(|first| block.is(&first[0], "begin"));
    for piece in pieces {
        harmless = harmless && block.is_harmless(piece)?;
    }
    Ok(harmless)
}

struct Block<'a> {
    context: Context<'a>,
    body: &'a str,
}

impl Block<'_> {
    fn text(&self, token: &Token) -> &str {
        &self.body[token.start..token.end]
    }

    fn is(&self, token: &Token, word: &str) -> bool {
        token.kind == TokenKind::Word && self.text(token).eq_ignore_ascii_case(word)
    }

    fn source(&self, tokens: &[Token]) -> &str {
        match (tokens.first(), tokens.last()) {
            (Some(first), Some(last)) => &self.body[first.start..last.end],
            _ => "",
        }
    }

    /// What stands between two semicolons.
    fn is_harmless(&self, mut piece: &[Token]) -> Result<bool, Refusal> {
        while let Some((first, rest)) = piece.split_first() {
            let opens = |words: &[&str]| words.iter().any(|word| self.is(first, word));
            let then = || rest.iter().position(|token| self.is(token, "then"));
            piece = if opens(&["begin", "else", "exception"]) {
                rest
            } else if opens(&["if", "elsif", "elseif"]) {
                match then() {
                    Some(at) if self.asks_catalogs(&rest[..at]) => &rest[at + 1..],
                    _ => return Ok(false),
                }
            } else if opens(&["when"]) {
                // Names of conditions, joined by OR.
                match then() {
                    Some(at) => &rest[at + 1..],
                    None => return Ok(false),
                }
            } else if opens(&["end", "null"]) {
                return Ok(rest.is_empty() || rest.len() == 1 && self.is(&rest[0], "if"));
            } else {
                return self.is_ddl(self.source(piece));
            };
        }
        Ok(true)
    }

    /// A condition whose value is the same on every shard.
    fn asks_catalogs(&self, condition: &[Token]) -> bool {
        let query = format!("SELECT {}", self.source(condition));
        let Ok(parsed) = parse(&query, &[], &Limits::default()) else { return false };
        let [Parsed { stmt: Stmt::Dml(Dml::Query(query)), .. }] = parsed.as_slice() else { return false };
        let mut binder = Binder::new(Names::new(self.context.catalog, self.context.search_path));
        binder.query(query);
        binder.finish();
        let (facts, tables) = (&binder.facts, binder.occurrences.len() + binder.locals.len());
        let known = binder.problem.is_none() && !facts.opaque && !facts.unknown_table && facts.missing_table.is_none();
        let steady = facts.volatile.is_none() && facts.reader.is_none() && facts.home.is_none() && facts.pin.is_none();
        let same = !facts.writes && !facts.user_view && facts.locking == 0 && tables == 0;
        known && steady && same
    }

    fn is_ddl(&self, sql: &str) -> Result<bool, Refusal> {
        let Ok(parsed) = parse(sql, &[], &Limits::default()) else { return Ok(false) };
        let [Parsed { stmt, params: 0, .. }] = parsed.as_slice() else { return Ok(false) };
        let is_ddl = matches!(
            stmt,
            Stmt::CreateTable(_)
                | Stmt::CreateView { .. }
                | Stmt::CreateIndex { .. }
                | Stmt::AlterTable { .. }
                | Stmt::RenameColumn { .. }
                | Stmt::Rename { .. }
                | Stmt::Unread
                | Stmt::Ddl { .. }
        );
        let context = Context { text: sql, ..self.context };
        let names = Names::new(context.catalog, context.search_path);
        if !is_ddl || may_be_temporary(context) {
            return Ok(false);
        }
        Ok(matches!(ddl_plan(context, &names, stmt)?, Broadcast::Together | Broadcast::Checked))
    }
}

#[cfg(test)]
mod tests {
    use super::changes_schema_only;
    use crate::catalog::{Catalog, TableRules};
    use crate::plan::Context;

    fn is_ddl(body: &str) -> Option<bool> {
        let rules = TableRules { sharding_key: Some("user_id".into()), ..TableRules::default() };
        let catalog = Catalog::from_ddl("CREATE TABLE t (user_id bigint, a int)", &rules, 2).unwrap();
        changes_schema_only(Context { catalog: &catalog, search_path: None, text: body, phases: &[] }, body).ok()
    }

    #[test]
    fn blocks_of_migrations_are_ddl() {
        for body in [
            "BEGIN CREATE TYPE m AS ENUM ('a'); EXCEPTION WHEN duplicate_object OR others THEN NULL; END",
            "begin if not exists (select from pg_type where typname = 'm') then create type m as enum ('then;'); else null; end if; end;",
            "BEGIN BEGIN ALTER TABLE t ADD b int; EXCEPTION WHEN duplicate_column THEN NULL; END; END",
        ] {
            assert_eq!(is_ddl(body), Some(true), "{body}");
        }
    }

    #[test]
    fn what_touches_rows_or_cannot_be_read_is_not() {
        for body in [
            "BEGIN UPDATE t SET a = 1; END",
            "DECLARE x int; BEGIN CREATE TYPE m AS ENUM ('a'); END",
            "BEGIN EXECUTE 'CREATE TYPE m'; END",
            "BEGIN PERFORM 1; END",
            "BEGIN IF EXISTS (SELECT FROM t) THEN CREATE TYPE m AS ENUM ('a'); END IF; END",
            "BEGIN IF random() < 0.5 THEN CREATE TYPE m AS ENUM ('a'); END IF; END",
            "BEGIN CREATE TEMP TABLE x (a int); END",
            "BEGIN CREATE INDEX CONCURRENTLY ON t (a); END",
            "BEGIN IF",
            "",
        ] {
            assert_eq!(is_ddl(body), Some(false), "{body}");
        }
        assert_eq!(is_ddl("BEGIN ALTER TABLE t ADD UNIQUE (a); END"), None);
        assert_eq!(is_ddl(&"begin ".repeat(200_000)), Some(true));
    }
}
