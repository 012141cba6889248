//! Groups that lie on several shards: each shard gives partial results, the router combines them.

use super::bind::Binder;
use super::build::{Builder, has_aggregate};
use super::having;
use super::splice::Clause;
use super::targets::Item;
use super::{Aggregate, AggregateFunction, ColumnRef, Node, SortKey, SortValue, reasons};
use crate::catalog::{Collation, FunctionKind};
use crate::refusal::Refusal;
use crate::sql::functions;
use crate::sql::spans;
use crate::sql::tree::{Expr, Func};

/// The type id of float4, whose sums are not what avg() adds up.
const FLOAT4: u32 = 700;

/// The aggregates of one query.
#[derive(Debug, Default)]
pub(super) struct Aggregates {
    exprs: Vec<Expr>,
    list: Vec<Aggregate>,
}

/// Whether an expression is a call of an aggregate.
pub(super) fn is_aggregate(binder: &Binder<'_>, expr: &Expr) -> bool {
    let Expr::Func(call) = expr else { return false };
    let known = functions::lookup(binder.names.catalog, call.schema.as_deref(), &call.name);
    call.over.is_none() && known.is_some_and(|known| known.function.kind == FunctionKind::Aggregate)
}

/// The tree of a grouped query whose groups do not lie whole on a shard.
pub(super) fn build(builder: &mut Builder<'_, '_, '_>, group: Vec<Item>) -> Result<(), Refusal> {
    let mut keys = Vec::with_capacity(group.len());
    let mut ordered = true;
    for item in &group {
        keys.push(builder.group_key(&item.expr, &item.sql, "GROUP BY")?);
        ordered &= is_ordered(builder.binder, &item.expr);
        builder.draft.group.push(item.sql.clone());
    }
    builder.draft.group_is_ordered = ordered;
    let mut aggregates = Aggregates::default();
    for (output, target) in builder.select.targets.iter().enumerate() {
        if is_aggregate(builder.binder, &target.expr) {
            let output = u16::try_from(output).map_err(|_| reasons::spread("so many columns"))?;
            aggregates.add_output(builder, &target.expr, output)?;
        } else if has_aggregate(builder.binder, &target.expr) {
            return Err(reasons::spread("an expression over aggregates in the target list"));
        } else if matches!(target.expr, Expr::Star(_)) {
            return Err(reasons::spread("a star beside GROUP BY"));
        }
    }
    let condition = match &builder.select.having {
        Some(having) => Some(having::condition(builder, &mut aggregates, having)?),
        None => None,
    };
    let sort = sort_keys(builder, &mut aggregates, &group)?;
    let list = aggregates.list;
    builder.draft.having = Clause::Remove;
    builder.draft.push(|input| Node::Append { input });
    builder.draft.push(|input| Node::Aggregate { keys, aggregates: list, sorted: false, input });
    if let Some(condition) = condition {
        builder.draft.push(|input| Node::Having { condition, input });
    }
    if !sort.is_empty() {
        builder.draft.push(|input| Node::Sort { keys: sort, input });
    }
    builder.limit()
}

/// Types whose order the router surely knows.
fn is_ordered(binder: &mut Binder<'_>, expr: &Expr) -> bool {
    binder.table_column(expr).is_some_and(|column| match column.type_oid {
        20 | 21 | 23 | 16 | 1082 | 1114 | 1184 | 2950 => true,
        25 | 1043 => column.collation == Collation::Bytes,
        _ => false,
    })
}

fn sort_keys(
    builder: &mut Builder<'_, '_, '_>,
    aggregates: &mut Aggregates,
    group: &[Item],
) -> Result<Vec<SortKey>, Refusal> {
    let mut keys = Vec::new();
    for (item, found) in builder.order_items()? {
        let value = if is_aggregate(builder.binder, &found.expr) {
            SortValue::Aggregate(aggregates.number(builder, &found.expr)?)
        } else if let Some(position) =
            group.iter().position(|group| builder.binder.same(&group.expr, &found.expr) == Some(true))
        {
            SortValue::Column(ColumnRef::Helper(builder.draft.helper(&group[position].sql)))
        } else {
            return Err(reasons::spread("ORDER BY an expression that is neither a group key nor an aggregate"));
        };
        keys.push(builder.sort_key(item, &found, value)?);
    }
    Ok(keys)
}

impl Aggregates {
    fn add_output(&mut self, builder: &mut Builder<'_, '_, '_>, expr: &Expr, output: u16) -> Result<(), Refusal> {
        let (function, name) = partial(builder, expr)?;
        self.exprs.push(expr.clone());
        self.list.push(Aggregate { function, output: Some(output), name });
        Ok(())
    }

    /// The number of the aggregate that this call is; a new, hidden one if it is not shown.
    pub(super) fn number(&mut self, builder: &mut Builder<'_, '_, '_>, expr: &Expr) -> Result<u16, Refusal> {
        let found = self.exprs.iter().position(|found| found == expr);
        let number = match found {
            Some(number) => number,
            None => {
                let (function, name) = partial(builder, expr)?;
                self.exprs.push(expr.clone());
                self.list.push(Aggregate { function, output: None, name });
                self.list.len() - 1
            }
        };
        u16::try_from(number).map_err(|_| reasons::spread("so many aggregates"))
    }
}

/// The partial results that an aggregate call needs from each shard.
fn partial(builder: &mut Builder<'_, '_, '_>, expr: &Expr) -> Result<(AggregateFunction, String), Refusal> {
    let Expr::Func(call) = expr else { return Err(reasons::aggregate("this expression")) };
    let end = builder.draft_end();
    let spans =
        spans::call(builder.targets.text, end, call.at.0 as usize).ok_or_else(|| reasons::aggregate(&call.name))?;
    let name = builder.draft.text_of(spans.whole.clone()).to_owned();
    check_call(builder, call, &name)?;
    if &*call.name == "avg" {
        return avg(builder, call, &spans).map(|function| (function, name));
    }
    let whole = ColumnRef::Helper(builder.draft.helper(&name));
    let function = match &*call.name {
        "count" => AggregateFunction::Count { count: whole },
        "sum" => AggregateFunction::Sum { sum: whole },
        _ => {
            let collation = call.args.first().map_or(Collation::Bytes, |arg| builder.binder.collation_of(arg));
            if collation != Collation::Bytes && call.args.first().is_some_and(|arg| builder.is_text(arg)) {
                return Err(reasons::aggregate(&name));
            }
            if &*call.name == "min" {
                AggregateFunction::Min { value: whole, collation }
            } else {
                AggregateFunction::Max { value: whole, collation }
            }
        }
    };
    Ok((function, name))
}

fn avg(builder: &mut Builder<'_, '_, '_>, call: &Func, spans: &spans::CallSpans) -> Result<AggregateFunction, Refusal> {
    let single = call.args.first().and_then(|arg| builder.binder.table_column(arg));
    let tail = builder.draft.text_of(spans.tail.clone());
    let sum = if single.is_some_and(|column| column.type_oid == FLOAT4) {
        let arg = builder.draft.text_of(spans.args.clone());
        let rest = &tail[spans.args.end - spans.tail.start..];
        format!("sum(({arg})::float8{rest}")
    } else {
        format!("sum{tail}")
    };
    Ok(AggregateFunction::Avg {
        sum: ColumnRef::Helper(builder.draft.helper(&sum)),
        count: ColumnRef::Helper(builder.draft.helper(&format!("count{tail}"))),
    })
}

/// Refuses what cannot be put together from parts.
fn check_call(builder: &mut Builder<'_, '_, '_>, call: &Func, name: &str) -> Result<(), Refusal> {
    let known = call.schema.is_none() && matches!(&*call.name, "count" | "sum" | "avg" | "min" | "max");
    let arity = call.args.len() == 1 || call.star && &*call.name == "count";
    let plain = call.order.is_empty() && !call.within_group && !call.variadic;
    // Rows with one key are on one shard, so distinct keys are counted once.
    let distinct = !call.distinct
        || matches!(&*call.name, "min" | "max")
        || &*call.name == "count" && call.args.first().is_some_and(|arg| builder.is_key(arg));
    let nested = call.args.iter().any(|arg| has_aggregate(builder.binder, arg));
    if known && arity && plain && distinct && !nested { Ok(()) } else { Err(reasons::aggregate(name)) }
}
