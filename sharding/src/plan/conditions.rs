//! The conditions that AND joins in a WHERE: which relations each is about, and whether it is true wherever it is asked.

use std::ops::Range;

use super::bind::Binder;
use super::bind_values::conjuncts;
use super::scope::{Columns, is_view};
use crate::catalog::{FunctionKind, Volatility, is_built_in_type};
use crate::sql::functions;
use crate::sql::tree::{Body, Distinct, Expr, From, Func, Query, RowsOf};
use crate::sql::walk::{self, Visited};

/// Aggregates that give the same for the same rows.
const AGGREGATES: [&str; 5] = ["avg", "count", "max", "min", "sum"];

/// A condition that has the same truth for the same rows, whenever and wherever it is asked.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    /// Which of the conditions of its WHERE it is, counted from 0.
    pub position: usize,
    /// What it is about, relations of its subqueries left out. None of them is nullable.
    pub rels: Vec<usize>,
    /// The occurrences of sharded tables in its subqueries.
    pub inner: Range<usize>,
    /// `a = b`, columns of two relations.
    pub joins: bool,
}

impl Binder<'_> {
    /// Takes note of everything in the WHERE of a block.
    pub(crate) fn filter(&mut self, filter: &Expr, block: usize) {
        let conditions = conjuncts(filter);
        self.blocks[block].conjuncts = conditions.len();
        for (position, condition) in conditions.into_iter().enumerate() {
            let (rels, inner, touched) = (self.rels.len(), self.occurrences.len(), self.touched.len());
            let outside = (self.locals.len(), self.cte_uses.iter().sum::<usize>());
            self.noting += 1;
            self.expr(condition);
            self.noting -= 1;
            let same_outside = outside == (self.locals.len(), self.cte_uses.iter().sum::<usize>());
            if same_outside
                && self.is_settled(condition)
                && self.rels[rels..].iter().all(|rel| match rel.columns {
                    Columns::Table(table) => !is_view(table),
                    Columns::Derived(_) => true,
                    Columns::Unknown => false,
                })
                && let Some(about) = self.touched_of(touched, rels)
            {
                let inner = inner..self.occurrences.len();
                let joins = about.len() == 2 && is_column_pair(condition);
                self.blocks[block].conditions.push(Condition { position, rels: about, inner, joins });
            }
            if self.noting == 0 {
                self.touched.clear();
            }
        }
    }

    /// The relations before `rels` among what was touched since; `None` if one of them is unclear.
    fn touched_of(&self, since: usize, rels: usize) -> Option<Vec<usize>> {
        let mut about: Vec<usize> = self.touched[since..].iter().copied().collect::<Option<_>>()?;
        about.retain(|rel| *rel < rels);
        about.sort_unstable();
        about.dedup();
        about.iter().all(|rel| !self.rels[*rel].nullable).then_some(about)
    }

    /// Whether the truth of a condition follows from the rows it is about alone.
    fn is_settled(&self, condition: &Expr) -> bool {
        let mut settled = !super::targets::parts(condition).into_iter().any(|part| self.is_aggregate(part));
        walk::expr(condition, &mut |visited| {
            settled &= match visited {
                Visited::Expr(Expr::Sublink(link)) => is_settled_query(&link.query),
                Visited::Expr(Expr::Star(names)) => names.is_empty(),
                Visited::Expr(part) => self.is_constant_part(part) || self.is_aggregate(part),
                Visited::Join(join) => join.alias.is_none(),
            };
        });
        settled
    }

    fn is_aggregate(&self, part: &Expr) -> bool {
        let Expr::Func(call) = part else { return false };
        let known = functions::lookup(self.names.catalog, call.schema.as_deref(), &call.name);
        known.is_some_and(|known| known.built_in && known.function.kind == FunctionKind::Aggregate)
            && AGGREGATES.contains(&&*call.name)
            && call.over.is_none()
    }

    /// Whether this piece of an expression means the same on every server at any time.
    pub(super) fn is_constant_part(&self, part: &Expr) -> bool {
        match part {
            Expr::Func(call) => self.is_constant_call(call),
            // Numbers of types, tables and the like differ between servers.
            Expr::Cast(cast) => is_built_in_type(&cast.target.name) && !cast.target.name.starts_with("reg"),
            Expr::Other(other) => !other.what.starts_with("value ") && !other.what.starts_with("current"),
            Expr::Sublink(_) | Expr::Star(_) | Expr::Clock | Expr::Default | Expr::Opaque => false,
            _ => true,
        }
    }

    fn is_constant_call(&self, call: &Func) -> bool {
        let known = functions::lookup(self.names.catalog, call.schema.as_deref(), &call.name);
        known.is_some_and(|known| {
            known.built_in
                && known.function.kind == FunctionKind::Plain
                && known.function.volatility == Volatility::Immutable
        })
    }
}

/// `a = b`
fn is_column_pair(condition: &Expr) -> bool {
    let Expr::Op(op) = condition else { return false };
    &*op.name == "=" && matches!((&op.left, &op.right), (Some(Expr::Column(_)), Expr::Column(_)))
}

/// Whether the rows of a subquery follow from the rows of its tables: LIMIT without order and the like pick some of them.
fn is_settled_query(query: &Query) -> bool {
    let Body::Select(select) = &query.body else { return false };
    let whole = query.with.is_none() && query.limit.is_none() && query.offset.is_none() && query.locking.is_empty();
    whole
        && !matches!(select.distinct, Distinct::On(_))
        && select.windows.is_empty()
        && !select.grouping_sets
        && select.from.iter().all(is_settled_from)
}

fn is_settled_from(item: &From) -> bool {
    match item {
        From::Table(table) => table.rows == RowsOf::All,
        From::Query(derived) => is_settled_query(&derived.query),
        From::Func(_) => false,
        From::Join(join) => is_settled_from(&join.left) && is_settled_from(&join.right),
    }
}
