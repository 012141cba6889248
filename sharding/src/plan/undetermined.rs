//! Statements that may give other values where the same rows lie in another order: what LIMIT leaves, which of several matches an UPDATE
//! takes, what `array_agg` gathers. Copies that each run such a statement by themselves would drift apart.

use super::bind::Binder;
use crate::catalog::{FunctionKind, Relation};
use crate::sql::tree::{Body, Distinct, Dml, Expr, From, Func, Query, SetOp, SublinkKind};
use crate::sql::walk::{self, Visited};
use crate::value::oid;

/// Of the aggregates that PostgreSQL brings, those that give the same for the same rows in any order.
const ORDERLESS: [&str; 8] = ["count", "bool_and", "bool_or", "every", "bit_and", "bit_or", "bit_xor", "regr_count"];
/// Those also do if their values are exact.
const SUMS: [&str; 2] = ["sum", "avg"];
/// And those if equal values look alike.
const EXTREMES: [&str; 2] = ["min", "max"];

/// Types of which equal values look alike, as 1.0 and 1.00 do not.
const ALIKE: [u32; 10] = [
    oid::BOOL,
    oid::BYTEA,
    oid::INT8,
    oid::INT2,
    oid::INT4,
    oid::TEXT,
    oid::VARCHAR,
    oid::DATE,
    oid::TIMESTAMP,
    oid::TIMESTAMPTZ,
];

/// What of a write depends on the order in which rows are found, if anything can; for people.
pub(super) fn undetermined(binder: &Binder<'_>, dml: &Dml) -> Option<String> {
    if let Some(view) = binder.tables.iter().find(|used| !used.target && used.table.relation != Relation::Table) {
        return Some(format!("the order of the rows of \"{}\"", view.name));
    }
    let mut found = match dml {
        Dml::Update(update) if !update.from.is_empty() => Some("several matches for a row"),
        Dml::Insert(insert) => {
            let skips = insert.conflict.as_ref().is_some_and(|conflict| conflict.set.is_empty());
            let given = insert.source.as_ref().is_none_or(|source| matches!(source.body, Body::Values(_)));
            (skips && !given).then_some("several rows that conflict")
        }
        _ => None,
    };
    let seen = Seen { binder, has_alike: all_columns(binder, &ALIKE), has_exact: all_columns(binder, &EXACT) };
    walk::dml(dml, &mut |visited| {
        let what = match visited {
            Visited::Query(query) => seen.query(query),
            Visited::Expr(Expr::Func(call)) => seen.call(call),
            Visited::Expr(Expr::Sublink(link)) if link.kind == SublinkKind::Array => Some("ARRAY(SELECT ...)"),
            Visited::Expr(_) | Visited::Join(_) | Visited::Table(_) => None,
        };
        found = found.or(what);
    });
    found.map(str::to_owned)
}

/// Types whose sums are the same in any order, besides those above.
const EXACT: [u32; 11] = [
    oid::BOOL,
    oid::BYTEA,
    oid::INT8,
    oid::INT2,
    oid::INT4,
    oid::TEXT,
    oid::VARCHAR,
    oid::DATE,
    oid::TIMESTAMP,
    oid::TIMESTAMPTZ,
    oid::NUMERIC,
];

/// Whether all columns of all tables are of these types, and compared byte by byte.
fn all_columns(binder: &Binder<'_>, types: &[u32]) -> bool {
    let mut columns = binder.tables.iter().flat_map(|used| &used.table.columns);
    columns.all(|column| {
        let is_plain = column.crossing.collation.is_none() && column.crossing.domain.is_none();
        is_plain && types.contains(&column.type_oid)
    })
}

struct Seen<'a, 'c> {
    binder: &'a Binder<'c>,
    has_alike: bool,
    has_exact: bool,
}

impl Seen<'_, '_> {
    fn query(&self, query: &Query) -> Option<&'static str> {
        if query.limit.is_some() || query.offset.is_some() {
            return Some("the rows that LIMIT leaves");
        }
        if !query.locking.is_empty() {
            return Some("the rows that FOR UPDATE locks");
        }
        match &query.body {
            Body::Select(select) => {
                let groups = !select.group.is_empty() || select.grouping_sets || select.distinct == Distinct::Yes;
                match &select.distinct {
                    Distinct::On(_) => Some("the rows that DISTINCT ON takes"),
                    _ if groups && !self.are_alike(&select.group, query) => Some("which of equal values a group shows"),
                    _ => None,
                }
            }
            Body::SetOp { kind, all, .. } if *kind != SetOp::Union || !all => {
                (!self.has_alike).then_some("which of equal values stay")
            }
            Body::SetOp { .. } | Body::Values(_) => None,
        }
    }

    /// Whether equal values look alike in all that is grouped: no other types come in by expressions.
    fn are_alike(&self, group: &[Expr], query: &Query) -> bool {
        let Body::Select(select) = &query.body else { return false };
        let is_column = |expr: &Expr| matches!(expr, Expr::Column(_) | Expr::Const(_) | Expr::Star(_));
        let given = match select.distinct {
            Distinct::Yes => select.targets.iter().all(|target| is_column(&target.expr)),
            Distinct::No | Distinct::On(_) => true,
        };
        let tables = select.from.iter().all(|item| matches!(item, From::Table(_) | From::Join(_)));
        self.has_alike && given && tables && !select.grouping_sets && group.iter().all(is_column)
    }

    fn call(&self, call: &Func) -> Option<&'static str> {
        if call.over.is_some() {
            return Some("a window function");
        }
        let known = self.binder.names.function(call)?;
        if known.function.kind != FunctionKind::Aggregate {
            return None;
        }
        let is_among = |names: &[&str]| known.built_in && names.contains(&&*call.name);
        let is_plain = call.args.iter().all(|arg| matches!(arg, Expr::Column(_)));
        let settled = is_among(&ORDERLESS)
            || self.has_exact && is_plain && is_among(&SUMS)
            || self.has_alike && is_plain && is_among(&EXTREMES);
        (!settled).then_some("an aggregate whose result depends on the order of rows")
    }
}
