//! What follows, for one table of a final query, from the clauses around it: rows that no answer can show need not cross, and what a
//! primary key says of a table has to be said of its rows again.

use super::bind::Binder;
use super::bind_query::{Seen, implicit_name};
use super::decide::Context;
use super::scope::Columns;
use crate::catalog::Column;
use crate::sql::parse::Parsed;
use crate::sql::spans;
use crate::sql::tree::{Body, Const, Distinct, Expr, From, Query, Select, SortItem, Value};

/// The ORDER BY and LIMIT that every shard may apply by itself: of the only table of a plain SELECT, provided that it applies all conditions.
pub(super) fn top_rows(
    context: Context<'_>,
    binder: &mut Binder<'_>,
    query: &Query,
    seen: &Seen,
    parsed: &Parsed,
) -> Option<String> {
    let (Body::Select(select), Some(block)) = (&query.body, seen.block) else { return None };
    let [occurrence] = binder.occurrences.as_slice() else { return None };
    let (rel, table) = (occurrence.rel, matches!(select.from.as_slice(), [From::Table(_)]));
    let in_place = table && binder.rels[rel].block == block && !binder.facts.time_word;
    if !in_place || !is_plain(query, select) || !shows_rows(binder, block) {
        return None;
    }
    let on_table = |binder: &mut Binder<'_>, item: &SortItem| {
        !matches!(item.expr, Expr::Const(_))
            && !is_renamed(select, &item.expr)
            && binder.sole_relation(block, &item.expr) == Some(rel)
    };
    if !query.order.iter().all(|item| on_table(binder, item)) {
        return None;
    }
    let limit = limit_of(query)?;
    let first = select.targets.first()?.at.0 as usize;
    let order = match spans::select(context.text, &parsed.span, first)?.order {
        Some(order) => format!(" {}", &context.text[order]),
        None if query.order.is_empty() => String::new(),
        None => return None,
    };
    Some(format!("{order} LIMIT {limit}"))
}

/// Nothing between the rows of the table and those of the answer but their order.
fn is_plain(query: &Query, select: &Select) -> bool {
    !query.with_ties
        && query.with.is_none()
        && select.distinct == Distinct::No
        && select.group.is_empty()
        && !select.grouping_sets
        && select.having.is_none()
        && select.windows.is_empty()
}

fn shows_rows(binder: &Binder<'_>, block: usize) -> bool {
    let block = &binder.blocks[block];
    !block.aggregates && block.windows.is_empty() && !block.set_returning && !binder.facts.outer_aggregate
}

/// Whether a name in ORDER BY is that of a column of the answer which shows something else.
fn is_renamed(select: &Select, expr: &Expr) -> bool {
    let Expr::Column(names) = expr else { return false };
    let [name] = &**names else { return false };
    select.targets.iter().any(|target| {
        let shown = target.name.clone().or_else(|| implicit_name(&target.expr));
        shown.as_ref() == Some(name) && target.expr != *expr
    })
}

/// How many rows of each shard can be in the answer, in SQL.
fn limit_of(query: &Query) -> Option<String> {
    let number = |expr: &Expr| match expr {
        Expr::Const(Const { value: Value::Integer(number), .. }) => u64::try_from(*number).ok(),
        _ => None,
    };
    match (&query.limit, &query.offset) {
        (Some(Expr::Param(index)), None) => Some(format!("${}", u32::from(*index) + 1)),
        (Some(limit), None) => number(limit).map(|limit| limit.to_string()),
        (Some(limit), Some(offset)) => Some((number(limit)? + number(offset)?).to_string()),
        (None, _) => None,
    }
}

/// The columns that are grouped because the primary key is: PostgreSQL knows it of the table, not of a subquery.
pub(super) fn grouped_by_key<'c>(binder: &Binder<'_>, rel: usize, chosen: &[&'c Column]) -> Vec<&'c Column> {
    let rel = &binder.rels[rel];
    let Columns::Table(table) = rel.columns else { return Vec::new() };
    let group = &binder.blocks[rel.block].group;
    let is_grouped = |position: usize| rel.terms.get(&position).is_some_and(|term| group.contains(term));
    let mut key = table.columns.iter().enumerate().filter(|(_, column)| column.primary).peekable();
    if !rel.renamed.is_empty() || key.peek().is_none() || !key.all(|(position, _)| is_grouped(position)) {
        return Vec::new();
    }
    let position = |column: &Column| table.columns.iter().position(|other| other.name == column.name);
    chosen.iter().copied().filter(|column| position(column).is_some_and(|position| !is_grouped(position))).collect()
}
