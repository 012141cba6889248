//! A SELECT over several shards -> the naive tree, correct with all work above the route.
//!
//! What cannot be proved exact is refused here; the phases that follow only make the tree cheaper.

use super::bind::Binder;
use super::bind_query::{Seen, expands};
use super::decide::Context;
use super::phases::Phase;
use super::scope::Columns;
use super::splice::{Clause, Draft};
use super::targets::{Item, Targets, parts};
use super::{ColumnRef, Count, Gather, GroupKey, Node, Shards, SortKey, SortValue, aggregates, reasons};
use crate::catalog::{Collation, Relation};
use crate::refusal::Refusal;
use crate::sql::parse::Parsed;
use crate::sql::spans;
use crate::sql::tree::{Body, Const, Distinct, Expr, Query, Select, SortItem, Value};

const ON: &str = "DISTINCT ON";

/// Everything the builder looks at.
pub(super) struct Builder<'a, 'b, 'c> {
    pub binder: &'b mut Binder<'c>,
    pub query: &'a Query,
    pub select: &'a Select,
    pub targets: Targets<'a>,
    /// The sharding key's column of the table that cuts the query into parts.
    pub key: super::terms::Term,
    pub draft: Draft<'a>,
}

/// The merge of a query over `shards`, or why it cannot be proved exact.
pub(super) fn gather(
    context: Context<'_>,
    binder: &mut Binder<'_>,
    query: &Query,
    seen: &Seen,
    shards: Shards,
    parsed: &Parsed,
) -> Result<Gather, Refusal> {
    let (Body::Select(select), Some(block)) = (&query.body, seen.block) else {
        return Err(reasons::spread("UNION, INTERSECT, EXCEPT or VALUES with sharded tables"));
    };
    check(binder, query, select, block)?;
    let timed = check_clocks(context, binder, parsed)?;
    check_locks(binder, query, block)?;
    let roots = binder.blocks[block].roots.clone();
    let root = binder.partition(&roots)?;
    let first = select.targets.first().map_or(0, |target| target.at.0 as usize);
    let spans = spans::select(context.text, &parsed.span, first).filter(|spans| fits(spans, query, select));
    let spans = spans.ok_or_else(|| reasons::spread("a SELECT in this form"))?;
    binder.sight.push(block);
    let key = binder.occurrences[root].key;
    let targets = Targets::new(context.text, select, &spans, binder, block);
    let draft = Draft::new(context.text, parsed.span.clone(), &spans);
    let mut builder = Builder { binder, query, select, targets, key, draft };
    builder.build(block)?;
    let mut draft = builder.draft;
    for phase in Phase::ALL.iter().filter(|phase| context.phases.contains(phase)) {
        phase.apply(&mut draft);
    }
    let locks = !query.locking.is_empty();
    Ok(Gather { locks, ..draft.finish(shards, parsed.params, timed) })
}

/// Whether the spans found in the text are those of the tree.
pub(super) fn fits(spans: &spans::SelectSpans, query: &Query, select: &Select) -> bool {
    let starts = spans.targets.iter().zip(&select.targets).all(|(span, target)| span.start == target.at.0 as usize);
    starts
        && !select.targets.is_empty()
        && spans.targets.len() == select.targets.len()
        && spans.group.len() == select.group.len()
        && spans.order_items.len() == query.order.len()
        && spans.having.is_some() == select.having.is_some()
        && (spans.limit.is_some() || query.limit.is_none())
        && spans.offset.is_some() == query.offset.is_some()
        && spans.distinct.is_some() != (select.distinct == Distinct::No)
        && spans.distinct_on.len() == if let Distinct::On(exprs) = &select.distinct { exprs.len() } else { 0 }
}

/// What no query over several shards may have.
fn check(binder: &Binder<'_>, query: &Query, select: &Select, block: usize) -> Result<(), Refusal> {
    let facts = &binder.facts;
    if let Some(function) = facts.volatile.as_ref().filter(|_| !facts.writes) {
        return Err(reasons::differs(&format!("{function}()")));
    }
    if let Some(clock) = &facts.clock {
        return Err(reasons::differs(clock));
    }
    if facts.time_word {
        return Err(reasons::differs("the string 'now', 'today', 'tomorrow' or 'yesterday'"));
    }
    if let Some(column) = &facts.system_column {
        return Err(reasons::differs(&format!("system column {column}")));
    }
    let what = [
        (facts.writes, "a data-modifying CTE"),
        (facts.sampled, "TABLESAMPLE"),
        (facts.opaque, "this syntax"),
        (facts.outer_aggregate, "an aggregate of the outer query in a subquery"),
        (facts.unknown_table, "a table or function the router does not know"),
        (binder.system, "a catalog of PostgreSQL together with sharded tables"),
        (select.grouping_sets, "GROUPING SETS, CUBE or ROLLUP"),
        (binder.blocks[block].set_returning, "a set-returning function in a query"),
        (query.order.iter().any(|item| item.using), "ORDER BY ... USING"),
        (select.targets.iter().any(|target| expands(&target.expr)), "all fields of a value"),
    ];
    match what.iter().find(|(found, _)| *found) {
        Some((_, what)) => Err(reasons::spread(what)),
        None => Ok(()),
    }
}

/// Whether the statement asks for the time; refused when not all places are found where it does.
fn check_clocks(context: Context<'_>, binder: &Binder<'_>, parsed: &Parsed) -> Result<bool, Refusal> {
    let clocks = binder.facts.clocks;
    if clocks > 0 && spans::clocks(context.text, &parsed.span) != clocks {
        return Err(reasons::differs("CURRENT_TIMESTAMP"));
    }
    Ok(clocks > 0)
}

/// Row locks are exact where the rows that the shards lock are the rows of the answer, and each is on one shard alone.
fn check_locks(binder: &Binder<'_>, query: &Query, block: usize) -> Result<(), Refusal> {
    if binder.facts.locking > usize::from(!query.locking.is_empty()) {
        return Err(reasons::spread("FOR UPDATE or FOR SHARE in a subquery"));
    }
    if query.locking.is_empty() {
        return Ok(());
    }
    if query.limit.is_some() || query.offset.is_some() {
        return Err(reasons::locks_too_many());
    }
    let is_sharded = |rel: usize| {
        let table = matches!(binder.rels[rel].columns, Columns::Table(table) if table.relation == Relation::Table);
        table && binder.occurrences.iter().any(|occurrence| occurrence.rel == rel)
    };
    for names in &query.locking {
        let mut locked = binder.blocks[block].rels.iter();
        let other = locked.find(|rel| {
            let is_meant = names.is_empty() || names.contains(&binder.rels[**rel].name);
            is_meant && !is_sharded(**rel)
        });
        if let Some(rel) = other {
            return Err(reasons::locks_copies(&binder.rels[*rel].name));
        }
    }
    Ok(())
}

impl<'a> Builder<'a, '_, '_> {
    fn build(&mut self, block: usize) -> Result<(), Refusal> {
        let group = self.group_items()?;
        let key_grouped = group.iter().any(|item| self.is_key(&item.expr));
        let block = &self.binder.blocks[block];
        let grouped = block.aggregates || !group.is_empty() || self.select.having.is_some();
        let windows = block.windows.clone();
        if windows.iter().any(|partition| !partition.iter().any(|term| self.binder.terms.same(*term, self.key))) {
            return Err(reasons::spread("a window function that is not partitioned by the sharding key"));
        }
        if (grouped || !windows.is_empty() || self.select.distinct != Distinct::No) && !self.query.locking.is_empty() {
            return Err(reasons::spread("FOR UPDATE or FOR SHARE with groups, windows or DISTINCT"));
        }
        if grouped && !key_grouped {
            if !windows.is_empty() || self.select.distinct != Distinct::No {
                return Err(reasons::spread("DISTINCT or a window function over groups"));
            }
            return aggregates::build(self, group);
        }
        self.plain()
    }

    /// Each shard's rows are rows of the answer.
    fn plain(&mut self) -> Result<(), Refusal> {
        self.draft.push(|input| Node::Append { input });
        match &self.select.distinct {
            Distinct::No => {}
            Distinct::Yes => self.distinct_rows()?,
            Distinct::On(exprs) if exprs.iter().any(|expr| self.is_key_item(expr)) => {
                // Which row of a group stays depends on the order.
                self.draft.order = Clause::Keep;
            }
            Distinct::On(exprs) => return self.first_of_each(exprs),
        }
        let keys = self.sort_keys()?;
        self.sort(&keys);
        self.limit(keys)
    }

    pub(super) fn sort(&mut self, keys: &[SortKey]) {
        if !keys.is_empty() {
            let keys = keys.to_vec();
            self.draft.push(|input| Node::Sort { keys, input });
        }
    }

    /// DISTINCT ON: of the rows that are equal in `exprs` the first one stays.
    fn first_of_each(&mut self, exprs: &[Expr]) -> Result<(), Refusal> {
        let spans = &self.targets.spans.distinct_on;
        let items = exprs.iter().zip(spans).map(|(expr, span)| self.targets.order_item(self.binder, expr, span, ON));
        let items = items.collect::<Result<Vec<_>, _>>()?;
        let order = self.order_items()?;
        let is_sorted =
            |item: &Item| order.iter().any(|(_, key)| self.binder.same(&key.expr, &item.expr) == Some(true));
        // PostgreSQL wants ORDER BY to begin with them.
        let sorted = items.iter().all(is_sorted);
        let keys = items.iter().map(|item| self.group_key(&item.expr, &item.sql, ON));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        let order = self.sort_keys()?;
        self.draft.distinct = Clause::Remove;
        self.sort(&order);
        self.draft.push(|input| Node::Distinct { keys, sorted, input });
        self.limit(order)
    }

    fn distinct_rows(&mut self) -> Result<(), Refusal> {
        let Some(shown) = self.targets.shown.clone() else {
            return Err(reasons::spread("DISTINCT with a star whose columns are not known"));
        };
        if shown.iter().any(|shown| self.is_key(&shown.expr)) {
            return Ok(());
        }
        let mut keys = Vec::with_capacity(shown.len());
        for shown in &shown {
            keys.push(self.group_key(&shown.expr, &shown.sql, "DISTINCT")?);
        }
        self.draft.distinct = Clause::Remove;
        self.draft.push(|input| Node::Distinct { keys, sorted: false, input });
        Ok(())
    }

    /// A helper column whose equal values are brought together. Bytes must tell whether they are
    /// equal; of an expression only its type, which the shards tell, says whether that is in doubt.
    pub(super) fn group_key(&mut self, expr: &Expr, sql: &str, clause: &str) -> Result<GroupKey, Refusal> {
        let collation = self.binder.collation_of(expr);
        if collation == Collation::Nondeterministic && self.is_text(expr) {
            return Err(reasons::spread(&format!("{clause} of text under a collation where unlike strings are equal")));
        }
        Ok(GroupKey { column: ColumnRef::Helper(self.draft.helper(sql)), collation })
    }

    /// Whether an expression is surely of a type with a collation.
    pub(super) fn is_text(&mut self, expr: &Expr) -> bool {
        match expr {
            Expr::Other(other) => other.what.starts_with("collate "),
            _ => self.binder.table_column(expr).is_some_and(|column| matches!(column.type_oid, 25 | 1042 | 1043)),
        }
    }

    fn sort_keys(&mut self) -> Result<Vec<SortKey>, Refusal> {
        let mut keys = Vec::with_capacity(self.query.order.len());
        for (item, found) in self.order_items()? {
            let column = ColumnRef::Helper(self.draft.helper(&found.sql));
            keys.push(self.sort_key(item, &found, SortValue::Column(column))?);
        }
        Ok(keys)
    }

    /// The items of ORDER BY with what they stand for.
    pub(super) fn order_items(&mut self) -> Result<Vec<(&'a SortItem, Item)>, Refusal> {
        let spans = &self.targets.spans.order_items;
        let items = self.query.order.iter().zip(spans);
        items
            .map(|(item, span)| Ok((item, self.targets.order_item(self.binder, &item.expr, span, "ORDER BY")?)))
            .collect()
    }

    fn group_items(&mut self) -> Result<Vec<Item>, Refusal> {
        let spans = &self.targets.spans.group;
        let items = self.select.group.iter().zip(spans);
        items.map(|(expr, span)| self.targets.group_item(self.binder, expr, span)).collect()
    }

    /// One key of an order; refused when the router cannot compare such values.
    pub(super) fn sort_key(&mut self, item: &SortItem, found: &Item, value: SortValue) -> Result<SortKey, Refusal> {
        let collation = self.binder.collation_of(&found.expr);
        if collation != Collation::Bytes && self.is_text(&found.expr) {
            return Err(reasons::language_order(&found.sql));
        }
        Ok(SortKey {
            value,
            descending: item.descending,
            nulls_first: item.nulls_first.unwrap_or(item.descending),
            collation,
            name: found.sql.clone(),
        })
    }

    /// Where the statement ends in the text.
    pub(super) fn draft_end(&self) -> usize {
        self.draft.end()
    }

    pub(super) fn is_key(&mut self, expr: &Expr) -> bool {
        let Expr::Column(names) = expr else { return false };
        self.binder.column(names).is_some_and(|term| self.binder.terms.same(term, self.key))
    }

    fn is_key_item(&mut self, expr: &Expr) -> bool {
        self.targets.order_item(self.binder, expr, &(0..0), ON).is_ok_and(|item| self.is_key(&item.expr))
    }

    /// LIMIT and OFFSET, taken after everything else, of rows in the order of `keys`.
    pub(super) fn limit(&mut self, keys: Vec<SortKey>) -> Result<(), Refusal> {
        let count = count_of(self.query.limit.as_ref(), "LIMIT")?;
        let offset = count_of(self.query.offset.as_ref(), "OFFSET")?;
        let offset = offset.filter(|offset| *offset != Count::Rows(0));
        self.draft.limit_types = [cast_of(self.query.limit.as_ref()), cast_of(self.query.offset.as_ref())];
        let ties = if self.query.with_ties { keys } else { Vec::new() };
        if self.query.with_ties && (ties.is_empty() || count.is_none()) {
            return Err(reasons::spread("FETCH FIRST ... WITH TIES without ORDER BY or without a number"));
        }
        if count.is_some() || offset.is_some() {
            self.draft.push(|input| Node::Limit { count, offset, ties, input });
        }
        Ok(())
    }
}

/// The type that a parameter gets from its cast; changing it would change how the client sends it.
fn cast_of(expr: Option<&Expr>) -> &'static str {
    match expr {
        Some(Expr::Cast(cast)) if &*cast.target.name == "int2" => "int2",
        Some(Expr::Cast(cast)) if &*cast.target.name == "int4" => "int4",
        _ => "int8",
    }
}

/// The number of a LIMIT or OFFSET; none for ALL and NULL.
fn count_of(expr: Option<&Expr>, clause: &str) -> Result<Option<Count>, Refusal> {
    let (expr, cast) = match expr {
        None => return Ok(None),
        Some(Expr::Cast(cast)) if matches!(&*cast.target.name, "int2" | "int4" | "int8") && !cast.target.array => {
            (&cast.arg, &*cast.target.name)
        }
        Some(expr) => (expr, "int8"),
    };
    let rows = match expr {
        Expr::Param(index) => return Ok(Some(Count::Param(*index))),
        Expr::Const(Const { value: Value::Null, .. }) => return Ok(None),
        Expr::Const(Const { value: Value::Integer(rows), .. }) => Some(i64::from(*rows)),
        Expr::Const(Const { value: Value::Float(rows), .. }) => rows.parse().ok(),
        _ => None,
    };
    let fits = |rows: i64| match cast {
        "int2" => i16::try_from(rows).is_ok(),
        "int4" => i32::try_from(rows).is_ok(),
        _ => true,
    };
    match rows.filter(|rows| fits(*rows)) {
        Some(rows) => Ok(Some(u64::try_from(rows).map_or(Count::Negative, Count::Rows))),
        None => Err(reasons::spread(&format!("{clause} by an expression"))),
    }
}

/// Whether an expression holds an aggregate call of this query.
pub(super) fn has_aggregate(binder: &Binder<'_>, expr: &Expr) -> bool {
    parts(expr).into_iter().any(|part| aggregates::is_aggregate(binder, part))
}
