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
    fn is_harmless(&self, piece: &[Token]) -> Result<bool, Refusal> {
        let Some((first, rest)) = piece.split_first() else { return Ok(true) };
        let opens = |word: &str| self.is(first, word);
        let then = || rest.iter().position(|token| self.is(token, "then"));
        if opens("begin") || opens("else") || opens("exception") {
            return self.is_harmless(rest);
        }
        if opens("if") || opens("elsif") || opens("elseif") {
            return match then() {
                Some(at) if self.asks_catalogs(&rest[..at]) => self.is_harmless(&rest[at + 1..]),
                _ => Ok(false),
            };
        }
        if opens("when") {
            // Names of conditions, joined by OR.
            return then().map_or(Ok(false), |at| self.is_harmless(&rest[at + 1..]));
        }
        if opens("end") || opens("null") {
            return Ok(rest.is_empty() || rest.len() == 1 && self.is(&rest[0], "if"));
        }
        self.is_ddl(self.source(piece))
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
