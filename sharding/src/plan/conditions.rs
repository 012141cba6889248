//! The conditions that AND joins in a WHERE or ON: which relations each is about, and whether it is true wherever it is asked.

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
    /// Which clause of its block it stands in, and which of the conditions there it is; both counted from 0.
    pub clause: usize,
    pub position: usize,
    /// What it is about, relations of its subqueries left out. None of them is nullable.
    pub rels: Vec<usize>,
    /// It asks for the time.
    pub clock: bool,
    /// The columns that it says are equal.
    pub pair: Option<[Side; 2]>,
    /// The occurrences of sharded tables in its subqueries.
    pub inner: Range<usize>,
    pub role: Role,
}

/// A column of a relation, by its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Side {
    pub rel: usize,
    pub position: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Filters,
    /// `a = b`, columns of two relations.
    Joins,
    /// About the nullable side of its join alone: it says which of those rows can be joined, and nothing of rows without a match.
    OfNullable,
}

/// A WHERE or ON, by which its text is found again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clause {
    pub place: ClausePlace,
    /// How many conditions AND joins in it.
    pub conjuncts: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClausePlace {
    /// The WHERE of its block.
    Where,
    /// The ON behind the table whose name begins here.
    On(usize),
}

/// What the conditions of a clause are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// Rows that do not fulfil them are gone.
    Fulfilled,
    /// They are joined with rows of this relation or, if there are none, with NULLs.
    Matches { nullable: usize },
}

impl Binder<'_> {
    /// Takes note of everything in the WHERE, or in an ON, of a block.
    pub(crate) fn filter(&mut self, filter: &Expr, block: usize, place: ClausePlace, keeps: Keeps) {
        let conditions = conjuncts(filter);
        let clause = self.blocks[block].clauses.len();
        self.blocks[block].clauses.push(Clause { place, conjuncts: conditions.len() });
        for (position, condition) in conditions.into_iter().enumerate() {
            let (rels, inner, touched) = (self.rels.len(), self.occurrences.len(), self.touched.len());
            let clocks = self.facts.clocks;
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
                && self.is_kept(&about, keeps)
            {
                let inner = inner..self.occurrences.len();
                let role = match keeps {
                    Keeps::Matches { .. } => Role::OfNullable,
                    Keeps::Fulfilled if about.len() == 2 && is_column_pair(condition) => Role::Joins,
                    Keeps::Fulfilled => Role::Filters,
                };
                let clock = clocks < self.facts.clocks;
                let pair = if role == Role::Joins { self.sides(condition) } else { None };
                let found = Condition { clause, position, rels: about, clock, pair, inner, role };
                self.blocks[block].conditions.push(found);
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
        Some(about)
    }

    /// The two columns of `a = b`.
    fn sides(&mut self, condition: &Expr) -> Option<[Side; 2]> {
        let Expr::Op(op) = condition else { return None };
        let (Some(Expr::Column(left)), Expr::Column(right)) = (&op.left, &op.right) else { return None };
        let mut side = |names: &[Box<str>]| {
            let term = self.column(names)?;
            let rel = self.terms.owner(term);
            let (position, _) = self.rels[rel].terms.iter().find(|(_, found)| **found == term)?;
            Some(Side { rel, position: *position })
        };
        Some([side(left)?, side(right)?])
    }

    /// Whether a condition about these relations says which of their rows matter.
    fn is_kept(&self, about: &[usize], keeps: Keeps) -> bool {
        match keeps {
            Keeps::Fulfilled => about.iter().all(|rel| !self.rels[*rel].nullable),
            Keeps::Matches { nullable } => about == [nullable],
        }
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
                Visited::Query(_) | Visited::Table(_) => true,
            };
        });
        settled
    }

    fn is_aggregate(&self, part: &Expr) -> bool {
        let Expr::Func(call) = part else { return false };
        let known = self.names.function(call);
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
            Expr::Sublink(_) | Expr::Star(_) | Expr::Default | Expr::Opaque => false,
            _ => true,
        }
    }

    /// Whether this piece of an expression is the time at which the transaction began.
    pub(super) fn is_clock(&self, part: &Expr) -> bool {
        match part {
            Expr::Func(call) => functions::is_transaction_clock(&call.name),
            Expr::Clock => true,
            _ => false,
        }
    }

    fn is_constant_call(&self, call: &Func) -> bool {
        let known = self.names.function(call);
        known.is_some_and(|known| {
            let constant = match known.function.volatility {
                Volatility::Immutable => true,
                // Of one date and time it is the time from today.
                Volatility::Stable if &*call.name == "age" => call.args.len() == 2,
                Volatility::Stable => {
                    functions::follows_settings(&call.name) || functions::is_transaction_clock(&call.name)
                }
                Volatility::Volatile => false,
            };
            constant && known.built_in && known.function.kind == FunctionKind::Plain
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
