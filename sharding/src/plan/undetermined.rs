//! Statements that may give other values where the same rows lie in another order: what LIMIT leaves, which of several matches an UPDATE
//! takes, what `array_agg` gathers. Copies that each run such a statement by themselves would drift apart.

use super::bind::Binder;
use crate::catalog::{FunctionKind, Relation};
use crate::sql::tree::{Alias, Body, Distinct, Dml, Expr, From, Func, Query, Select, SetOp, SublinkKind, Value};
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
    let known = Known::of(binder, dml);
    walk::dml(dml, &mut |visited| {
        let what = match visited {
            Visited::Query(query) => known.query(query),
            Visited::Expr(Expr::Func(call)) => known.call(call),
            Visited::Expr(Expr::Sublink(link)) if link.kind == SublinkKind::Array => Some("ARRAY(SELECT ...)"),
            Visited::Expr(_) | Visited::Join(_) | Visited::Table(_) => None,
        };
        found = found.or(what);
    });
    found.map(str::to_owned)
}

/// What is known of the columns in a statement.
struct Known<'a, 'c> {
    binder: &'a Binder<'c>,
    /// Names that the statement gives to something else than a column of that name.
    given: Vec<&'a str>,
    /// Columns go by names that stand nowhere in a target list.
    renames: bool,
}

impl<'a, 'c> Known<'a, 'c> {
    fn of(binder: &'a Binder<'c>, dml: &'a Dml) -> Self {
        let mut known = Self { binder, given: Vec::new(), renames: false };
        let renamed = |alias: &Option<Alias>| alias.as_ref().is_some_and(|alias| !alias.columns.is_empty());
        walk::dml(dml, &mut |visited| match visited {
            Visited::Query(query) => {
                known.renames |= query.with.iter().flat_map(|with| &with.ctes).any(|cte| !cte.columns.is_empty());
                let Body::Select(select) = &query.body else { return };
                known.renames |= select.from.iter().any(renames);
                let named = select.targets.iter().filter_map(|target| Some((target.name.as_deref()?, &target.expr)));
                let other = named.filter(|(name, expr)| column_of(expr) != Some(*name));
                known.given.extend(other.map(|(name, _)| name));
            }
            Visited::Table(table) => known.renames |= renamed(&table.alias),
            Visited::Join(join) => known.renames |= renamed(&join.alias) || renames(&join.left) || renames(&join.right),
            Visited::Expr(_) => {}
        });
        let with = match dml {
            Dml::Query(query) => &query.with,
            Dml::Insert(insert) => &insert.with,
            Dml::Update(update) => &update.with,
            Dml::Delete(delete) => &delete.with,
            Dml::Merge(merge) => &merge.with,
        };
        known.renames |= with.iter().flat_map(|with| &with.ctes).any(|cte| !cte.columns.is_empty());
        known
    }

    fn query(&self, query: &Query) -> Option<&'static str> {
        if query.limit.is_some() || query.offset.is_some() {
            return Some("the rows that LIMIT leaves");
        }
        if !query.locking.is_empty() {
            return Some("the rows that FOR UPDATE locks");
        }
        match &query.body {
            Body::Select(select) if matches!(select.distinct, Distinct::On(_)) => {
                Some("the rows that DISTINCT ON takes")
            }
            Body::Select(select) if !self.groups_alike(select) => Some("which of equal values a group shows"),
            Body::SetOp { kind, all, left, right } if *kind != SetOp::Union || !all => {
                let is_clear = self.shows_alike(left) && self.shows_alike(right);
                (!is_clear).then_some("which of equal values stay")
            }
            Body::Select(_) | Body::SetOp { .. } | Body::Values(_) => None,
        }
    }

    fn groups_alike(&self, select: &Select) -> bool {
        let is_alike = |expr: &Expr| match expr {
            Expr::Const(found) => match found.value {
                Value::Integer(place) => {
                    let place = usize::try_from(place).ok().and_then(|place| place.checked_sub(1));
                    let target = place.and_then(|place| select.targets.get(place));
                    target.is_some_and(|target| self.is_of(&target.expr, &ALIKE))
                }
                _ => false,
            },
            _ => self.is_of(expr, &ALIKE),
        };
        let shown = select.distinct != Distinct::Yes
            || select
                .targets
                .iter()
                .all(|target| matches!(target.expr, Expr::Const(_)) || self.is_of(&target.expr, &ALIKE));
        shown && !select.grouping_sets && select.group.iter().all(is_alike)
    }

    fn shows_alike(&self, query: &Query) -> bool {
        let Body::Select(select) = &query.body else { return false };
        select.targets.iter().all(|target| self.is_of(&target.expr, &ALIKE))
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
        let are_of = |types: &[u32]| call.args.iter().all(|arg| self.is_of(arg, types));
        let settled = is_among(&ORDERLESS)
            || is_among(&SUMS) && (are_of(&ALIKE) || !call.distinct && are_of(&[oid::NUMERIC]))
            || is_among(&EXTREMES) && are_of(&ALIKE);
        (!settled).then_some("an aggregate whose result depends on the order of rows")
    }

    /// Whether an expression is a column, or a star of them, of these types, whose values are compared byte by byte.
    fn is_of(&self, expr: &Expr, types: &[u32]) -> bool {
        let name = match expr {
            Expr::Star(_) => None,
            _ => match column_of(expr) {
                Some(name) => Some(name),
                None => return false,
            },
        };
        let is_meant = |column: &str| name.is_none_or(|name| name == column);
        if self.renames || self.given.iter().any(|given| is_meant(given)) {
            return false;
        }
        let columns = self.binder.tables.iter().flat_map(|used| &used.table.columns);
        let mut columns = columns.filter(|column| is_meant(&column.name)).peekable();
        columns.peek().is_some()
            && columns.all(|column| {
                let is_plain = column.crossing.collation.is_none() && column.crossing.domain.is_none();
                is_plain && types.contains(&column.type_oid)
            })
    }
}

fn column_of(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Column(names) => names.last().map(|name| &**name),
        _ => None,
    }
}

/// Whether columns of it go by names of its alias, or of functions.
fn renames(item: &From) -> bool {
    match item {
        From::Func(_) => true,
        From::Query(derived) => {
            let is_named = derived.alias.as_ref().is_some_and(|alias| !alias.columns.is_empty());
            is_named || matches!(derived.query.body, Body::Values(_))
        }
        // A walk comes by these.
        From::Table(_) | From::Join(_) => false,
    }
}
