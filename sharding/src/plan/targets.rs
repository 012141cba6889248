//! What ORDER BY, GROUP BY and DISTINCT mean by a name, a number or an expression.
//!
//! PostgreSQL's rules: a bare name in ORDER BY is a column of the answer first, in GROUP BY a column
//! of the tables first; a whole number is a position in the answer; anything else is an expression
//! over the tables.

use std::ops::Range;

use super::bind::Binder;
use super::bind_query::implicit_name;
use super::reasons;
use super::scope::Columns;
use super::terms::Term;
use crate::catalog::{Collation, Column, is_built_in_type};
use crate::refusal::Refusal;
use crate::sql::spans::{self, SelectSpans};
use crate::sql::tree::{Const, Expr, Func, Names, Select, Target, Value};

/// A column of the answer, stars taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub name: Option<Box<str>>,
    pub expr: Expr,
    /// The expression as SQL.
    pub sql: String,
}

/// The target list of one SELECT.
#[derive(Debug)]
pub(crate) struct Targets<'a> {
    pub text: &'a str,
    pub select: &'a Select,
    pub spans: &'a SelectSpans,
    /// `None` when some star cannot be taken apart.
    pub shown: Option<Vec<Shown>>,
}

/// An expression that rows are sorted or grouped by.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub expr: Expr,
    pub sql: String,
}

impl<'a> Targets<'a> {
    pub(crate) fn new(
        text: &'a str,
        select: &'a Select,
        spans: &'a SelectSpans,
        binder: &Binder<'_>,
        block: usize,
    ) -> Self {
        let mut shown = Some(Vec::new());
        for (target, span) in select.targets.iter().zip(&spans.targets) {
            let more = match &target.expr {
                Expr::Star(names) => star(binder, block, names),
                _ => plain(text, target, span).map(|shown| vec![shown]),
            };
            shown = shown.zip(more).map(|(mut shown, more)| {
                shown.extend(more);
                shown
            });
        }
        Self { text, select, spans, shown }
    }

    /// What one item of ORDER BY or DISTINCT ON, which is `clause`, stands for.
    pub(crate) fn order_item(
        &self,
        binder: &mut Binder<'_>,
        expr: &Expr,
        span: &Range<usize>,
        clause: &str,
    ) -> Result<Item, Refusal> {
        if let Expr::Column(names) = expr
            && let [name] = &**names
            && let Some(item) = self.named(binder, name, clause)?
        {
            return Ok(item);
        }
        self.positioned(expr, span, clause)
    }

    /// What one item of GROUP BY stands for.
    pub(crate) fn group_item(
        &self,
        binder: &mut Binder<'_>,
        expr: &Expr,
        span: &Range<usize>,
    ) -> Result<Item, Refusal> {
        if let Expr::Column(names) = expr
            && let [name] = &**names
            && !binder.has_column(name)
            && let Some(item) = self.named(binder, name, "GROUP BY")?
        {
            return Ok(item);
        }
        self.positioned(expr, span, "GROUP BY")
    }

    /// The column of the answer with this name.
    fn named(&self, binder: &mut Binder<'_>, name: &str, clause: &str) -> Result<Option<Item>, Refusal> {
        let Some(shown) = &self.shown else {
            let hidden = self.select.targets.iter().any(|target| output_name(target).as_deref() == Some(name));
            if hidden {
                return Err(reasons::spread(&format!("{clause} by the name \"{name}\" beside a star")));
            }
            return Ok(None);
        };
        let mut found = shown.iter().filter(|shown| shown.name.as_deref() == Some(name));
        let Some(first) = found.next() else { return Ok(None) };
        for other in found {
            match binder.same(&first.expr, &other.expr) {
                Some(true) => {}
                Some(false) => return Err(Refusal::error("42702", format!("{clause} \"{name}\" is ambiguous"))),
                None => return Err(reasons::spread(&format!("{clause} by a name that two columns have"))),
            }
        }
        Ok(Some(Item { expr: first.expr.clone(), sql: first.sql.clone() }))
    }

    fn positioned(&self, expr: &Expr, span: &Range<usize>, clause: &str) -> Result<Item, Refusal> {
        let Expr::Const(Const { value: Value::Integer(position), .. }) = expr else {
            return Ok(Item { expr: expr.clone(), sql: self.text[span.clone()].to_owned() });
        };
        let Some(shown) = &self.shown else {
            return Err(reasons::spread(&format!("{clause} by position beside a star")));
        };
        let found = usize::try_from(*position).ok().and_then(|position| shown.get(position.checked_sub(1)?));
        match found {
            Some(found) => Ok(Item { expr: found.expr.clone(), sql: found.sql.clone() }),
            None => Err(Refusal::error("42P10", format!("{clause} position {position} is not in select list"))),
        }
    }
}

fn output_name(target: &Target) -> Option<Box<str>> {
    target.name.clone().or_else(|| implicit_name(&target.expr))
}

fn plain(text: &str, target: &Target, span: &Range<usize>) -> Option<Shown> {
    let span = if target.name.is_some() { spans::without_alias(text, span)? } else { span.clone() };
    Some(Shown { name: output_name(target), expr: target.expr.clone(), sql: text[span].to_owned() })
}

/// The columns of `*` or `t.*`; nothing when they cannot be told, or when USING has merged some.
fn star(binder: &Binder<'_>, block: usize, names: &Names) -> Option<Vec<Shown>> {
    let block = &binder.blocks[block];
    if !block.merged.is_empty() {
        return None;
    }
    let mut shown = Vec::new();
    for rel in &block.rels {
        let rel = &binder.rels[*rel];
        if names.last().is_some_and(|name| *name != rel.name) {
            continue;
        }
        for name in rel.names()? {
            let sql = format!("{}.{}", quoted(&rel.name), quoted(&name));
            let expr = Expr::Column([rel.name.clone(), name.as_str().into()].into());
            shown.push(Shown { name: Some(name.into()), expr, sql });
        }
    }
    (!shown.is_empty()).then_some(shown)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Binder<'_> {
    /// Whether two expressions are the same to PostgreSQL; `None` when the router cannot tell.
    pub(crate) fn same(&mut self, a: &Expr, b: &Expr) -> Option<bool> {
        if let (Expr::Column(a), Expr::Column(b)) = (a, b) {
            return Some(self.column(a)? == self.column(b)?);
        }
        (a == b).then_some(true)
    }

    /// Whether a table of the innermost block has a column of this name, or may have.
    fn has_column(&mut self, name: &str) -> bool {
        let block = self.block();
        let merged = self.blocks[block].merged.iter().any(|(merged, _)| &**merged == name);
        merged
            || self.blocks[block].rels.iter().any(|rel| {
                let rel = &self.rels[*rel];
                rel.position(name).is_some() || matches!(rel.columns, Columns::Unknown)
            })
    }

    /// The table column that an expression shows unchanged.
    pub(crate) fn table_column(&mut self, expr: &Expr) -> Option<Column> {
        let Expr::Column(names) = expr else { return None };
        let term = self.column(names)?;
        self.column_of_term(term).cloned()
    }

    fn column_of_term(&self, term: Term) -> Option<&Column> {
        let rel = &self.rels[self.terms.owner(term)];
        let position = rel.terms.iter().find(|(_, found)| **found == term).map(|(position, _)| *position)?;
        match rel.columns {
            Columns::Table(table) => table.columns.get(position),
            Columns::Derived(_) | Columns::Unknown => None,
        }
    }

    fn is_built_in(&self, call: &Func) -> bool {
        self.names.function(call).is_some_and(|known| known.built_in)
    }

    /// How values of an expression are compared if they are text; the least friendly way when that is
    /// not known.
    pub(crate) fn collation_of(&mut self, expr: &Expr) -> Collation {
        if let Expr::Other(other) = expr
            && let Some(name) = other.what.strip_prefix("collate ")
        {
            let bytes = matches!(
                name,
                "C" | "POSIX" | "pg_catalog.C" | "pg_catalog.POSIX" | "ucs_basic" | "C.UTF-8" | "pg_c_utf8"
            );
            return if bytes { Collation::Bytes } else { Collation::Nondeterministic };
        }
        match expr {
            Expr::Column(names) => self.collation_of_column(names),
            _ => self.worst_collation(expr).max_with(self.names.catalog.default_collation),
        }
    }

    fn collation_of_column(&mut self, names: &Names) -> Collation {
        self.column(names).map_or(Collation::Nondeterministic, |term| self.terms.nature(term).collation)
    }

    /// The least friendly collation among the columns and COLLATE clauses of an expression.
    pub(crate) fn worst_collation(&mut self, expr: &Expr) -> Collation {
        let mut worst = Collation::Bytes;
        for part in parts(expr) {
            worst = worst.max_with(match part {
                Expr::Column(names) => self.collation_of_column(names),
                Expr::Other(other) if other.what.starts_with("collate ") => self.collation_of(part),
                // A domain, a field of a row or a user's function may bring a collation of its own.
                Expr::Cast(cast) if !is_built_in_type(&cast.target.name) => Collation::Nondeterministic,
                Expr::Other(other) if other.what.starts_with("part") && other.what.contains('.') => {
                    Collation::Nondeterministic
                }
                Expr::Func(call) if !self.is_built_in(call) => Collation::Nondeterministic,
                Expr::Sublink(_) => Collation::Nondeterministic,
                _ => Collation::Bytes,
            });
        }
        worst
    }
}

impl Collation {
    /// The less friendly of two.
    pub(crate) fn max_with(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nondeterministic, _) | (_, Self::Nondeterministic) => Self::Nondeterministic,
            (Self::Language, _) | (_, Self::Language) => Self::Language,
            (Self::Bytes, Self::Bytes) => Self::Bytes,
        }
    }
}

/// An expression and everything in it, subqueries left out.
pub(crate) fn parts(expr: &Expr) -> Vec<&Expr> {
    let mut found = vec![expr];
    let mut next = 0;
    while let Some(expr) = found.get(next).copied() {
        next += 1;
        match expr {
            Expr::Cast(cast) => found.push(&cast.arg),
            Expr::Op(op) => found.extend(op.left.iter().chain([&op.right])),
            Expr::In(list) => found.extend(list.list.iter().chain([&list.arg])),
            Expr::Quantified(any) => found.extend([&any.arg, &any.array]),
            Expr::And(parts) | Expr::Or(parts) | Expr::Array(parts) | Expr::Row(parts) => found.extend(parts),
            Expr::Not(inner) | Expr::IsNull(inner, _) => found.push(inner),
            Expr::Func(call) => {
                found.extend(call.args.iter().chain(&call.filter).chain(call.order.iter().map(|item| &item.expr)));
            }
            Expr::Other(other) => found.extend(&other.args),
            Expr::Column(_) | Expr::Star(_) | Expr::Param(_) | Expr::Const(_) | Expr::Sublink(_) => {}
            Expr::Clock | Expr::Default | Expr::Opaque => {}
        }
    }
    found
}
