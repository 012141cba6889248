//! Groups that lie on several shards: each shard gives partial results, the router combines them.

use std::ops::Range;

use super::bind::Binder;
use super::build::{Builder, has_aggregate};
use super::having;
use super::splice::Clause;
use super::targets::{Item, parts};
use super::{Aggregate, AggregateFunction, BitOperation, ColumnRef, Measure, Node, SortKey, SortValue, reasons};
use crate::catalog::{Collation, FunctionKind};
use crate::refusal::Refusal;
use crate::sql::spans::{self, CallSpans};
use crate::sql::tree::{Expr, Func};
use crate::value::order::Kind;

/// The type id of float4, whose sums are not what avg() adds up.
const FLOAT4: u32 = 700;

/// What can be put together from parts.
const KNOWN: [&str; 17] = [
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "count",
    "every",
    "max",
    "min",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "sum",
    "var_pop",
    "var_samp",
    "variance",
];

/// The aggregates of one query.
#[derive(Debug, Default)]
pub(super) struct Aggregates {
    exprs: Vec<Expr>,
    list: Vec<Aggregate>,
    /// Some are of the different values of a column, which lie on any shard.
    count_distinct: bool,
}

/// Whether an expression is a call of an aggregate.
pub(super) fn is_aggregate(binder: &Binder<'_>, expr: &Expr) -> bool {
    let Expr::Func(call) = expr else { return false };
    let known = binder.names.function(call);
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
    let mut aggregates = Aggregates { count_distinct: counts_distinct(builder), ..Aggregates::default() };
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
    let bare = builder.select.targets.iter().any(|target| !is_aggregate(builder.binder, &target.expr));
    if builder.draft.is_divided() && group.is_empty() && bare {
        // Without rows nothing comes from the shards, but the answer has one.
        return Err(reasons::spread("count(DISTINCT) beside something that is no aggregate, without GROUP BY"));
    }
    let list = aggregates.list;
    builder.draft.having = Clause::Remove;
    builder.draft.push(|input| Node::Append { input });
    builder.draft.push(|input| Node::Aggregate { keys, aggregates: list, sorted: false, input });
    if let Some(condition) = condition {
        builder.draft.push(|input| Node::Having { condition, input });
    }
    builder.sort(&sort);
    builder.limit(sort)
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
        let (function, name) = partial(builder, expr, self.count_distinct)?;
        if let (AggregateFunction::CountDistinct { .. }, Expr::Func(call)) = (&function, expr)
            && let Some(spans) = spans::call(builder.targets.text, builder.draft_end(), call.at.0 as usize)
        {
            // What a shard shows here is not looked at, and in a group of one value DISTINCT is slow.
            builder.draft.cut(spans.tail.start + 1..spans.value.start);
        }
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
                let (function, name) = partial(builder, expr, self.count_distinct)?;
                self.exprs.push(expr.clone());
                self.list.push(Aggregate { function, output: None, name });
                self.list.len() - 1
            }
        };
        u16::try_from(number).map_err(|_| reasons::spread("so many aggregates"))
    }
}

/// Whether different values are counted of something else than the key: rows with one key are on one shard, so each
/// counts its keys alone, unless its groups are finer than the client's.
fn counts_distinct(builder: &mut Builder<'_, '_, '_>) -> bool {
    let select = builder.select;
    let order = builder.query.order.iter().map(|item| &item.expr);
    let exprs = select.targets.iter().map(|target| &target.expr).chain(&select.having).chain(order);
    exprs.flat_map(parts).any(|part| match part {
        Expr::Func(call) if call.distinct && &*call.name == "count" => {
            !call.args.first().is_some_and(|arg| builder.is_key(arg))
        }
        _ => false,
    })
}

/// The partial results that an aggregate call needs from each shard.
fn partial(
    builder: &mut Builder<'_, '_, '_>,
    expr: &Expr,
    finer: bool,
) -> Result<(AggregateFunction, String), Refusal> {
    let Expr::Func(call) = expr else { return Err(reasons::aggregate("this expression")) };
    let end = builder.draft_end();
    let spans =
        spans::call(builder.targets.text, end, call.at.0 as usize).ok_or_else(|| reasons::aggregate(&call.name))?;
    let name = builder.draft.text_of(spans.whole.clone()).to_owned();
    check_call(builder, call, &name)?;
    let function = match &*call.name {
        "avg" => avg(builder, call, &spans),
        "count" if call.distinct && finer => count_distinct(builder, call, &spans)?,
        "count" => AggregateFunction::Count { count: helper(builder, &name) },
        "sum" => AggregateFunction::Sum { sum: helper(builder, &name) },
        "bit_and" => AggregateFunction::Bits { operation: BitOperation::And, bits: helper(builder, &name) },
        "bit_or" => AggregateFunction::Bits { operation: BitOperation::Or, bits: helper(builder, &name) },
        "bit_xor" => AggregateFunction::Bits { operation: BitOperation::Xor, bits: helper(builder, &name) },
        "variance" | "var_samp" => spread(builder, Measure::VarSamp, &spans),
        "var_pop" => spread(builder, Measure::VarPop, &spans),
        "stddev" | "stddev_samp" => spread(builder, Measure::StddevSamp, &spans),
        "stddev_pop" => spread(builder, Measure::StddevPop, &spans),
        _ => extreme(builder, call, &name)?,
    };
    Ok((function, name))
}

fn helper(builder: &mut Builder<'_, '_, '_>, sql: &str) -> ColumnRef {
    ColumnRef::Helper(builder.draft.helper(sql))
}

fn avg(builder: &mut Builder<'_, '_, '_>, call: &Func, spans: &CallSpans) -> AggregateFunction {
    let single = call.args.first().and_then(|arg| builder.binder.table_column(arg));
    let text = |span: &Range<usize>| builder.targets.text[span.clone()].to_owned();
    let (tail, filter) = (text(&spans.tail), text(&spans.filter));
    let sum = if single.is_some_and(|column| column.type_oid == FLOAT4) {
        format!("sum(({})::float8){filter}", text(&spans.value))
    } else {
        format!("sum{tail}")
    };
    AggregateFunction::Avg { sum: helper(builder, &sum), count: helper(builder, &format!("count{tail}")) }
}

/// Each shard groups by the value too: then the router sees which values there are.
fn count_distinct(
    builder: &mut Builder<'_, '_, '_>,
    call: &Func,
    spans: &CallSpans,
) -> Result<AggregateFunction, Refusal> {
    let Some(arg) = call.args.first() else { return Err(reasons::aggregate("count()")) };
    let text = builder.targets.text;
    let sql = &text[spans.value.clone()];
    let type_oid = builder.binder.table_column(arg).map_or(0, |column| column.type_oid);
    let kind = Kind::of(type_oid);
    // Where unlike strings are never equal, any order will do.
    let by_bytes = kind.is_some_and(Kind::has_collation) && builder.binder.collation_of(arg) == Collation::Language;
    let shown = if by_bytes { format!("({sql}) COLLATE \"C\"") } else { sql.to_owned() };
    let mut value = builder.group_key(arg, &shown, "count(DISTINCT)")?;
    if by_bytes {
        value.collation = Collation::Bytes;
    }
    let is_ordered = kind.is_some_and(|kind| !kind.has_collation() || value.collation == Collation::Bytes);
    builder.draft.divide_by(value.column, is_ordered);
    let present = format!("count({sql}){}", &text[spans.filter.clone()]);
    Ok(AggregateFunction::CountDistinct { value, present: helper(builder, &present), sorted: false })
}

fn spread(builder: &mut Builder<'_, '_, '_>, measure: Measure, spans: &CallSpans) -> AggregateFunction {
    let text = builder.targets.text;
    let (tail, filter) = (&text[spans.tail.clone()], &text[spans.filter.clone()]);
    let value = format!("({})::numeric", &text[spans.value.clone()]);
    AggregateFunction::Spread {
        measure,
        count: helper(builder, &format!("count{tail}")),
        sum: helper(builder, &format!("sum{tail}")),
        squares: helper(builder, &format!("sum({value} * {value}){filter}")),
    }
}

/// The least or the greatest value; false is less than true.
fn extreme(builder: &mut Builder<'_, '_, '_>, call: &Func, name: &str) -> Result<AggregateFunction, Refusal> {
    let of_truth = matches!(&*call.name, "bool_and" | "bool_or" | "every");
    let arg = call.args.first().filter(|_| !of_truth);
    let collation = arg.map_or(Collation::Bytes, |arg| builder.binder.collation_of(arg));
    if collation != Collation::Bytes && arg.is_some_and(|arg| builder.is_text(arg)) {
        return Err(reasons::aggregate(name));
    }
    let value = helper(builder, name);
    Ok(match &*call.name {
        "min" | "bool_and" | "every" => AggregateFunction::Min { value, collation },
        _ => AggregateFunction::Max { value, collation },
    })
}

/// Refuses what cannot be put together from parts.
fn check_call(builder: &mut Builder<'_, '_, '_>, call: &Func, name: &str) -> Result<(), Refusal> {
    let built_in = builder.binder.names.function(call).is_some_and(|known| known.built_in);
    let known = built_in && call.schema.is_none() && KNOWN.contains(&&*call.name);
    let arity = call.args.len() == 1 || call.star && &*call.name == "count";
    let plain = call.order.is_empty() && !call.within_group && !call.variadic;
    // Taking a value again changes nothing in these.
    let distinct = !call.distinct
        || matches!(&*call.name, "count" | "min" | "max" | "bool_and" | "bool_or" | "every" | "bit_and" | "bit_or");
    let nested = call.args.iter().any(|arg| has_aggregate(builder.binder, arg));
    if known && arity && plain && distinct && !nested { Ok(()) } else { Err(reasons::aggregate(name)) }
}
