//! A plan as text: EXPLAIN, the log line and the golden tests.

use std::fmt::{self, Display, Formatter};

use super::{
    Aggregate, AggregateFunction, BitOperation, Broadcast, ColumnRef, Comparison, Condition, Count, GroupKey, KeyValue,
    Measure, Node, Operand, Plan, Shards, SortKey, SortValue,
};
use crate::copy::CopyTarget;

/// With `{:#}` the texts are shown in full that servers run, else as people read them.
impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(step) = self.steps(f.alternate()) {
            return step.fmt(f);
        }
        match self {
            Self::Route { shards, many } => {
                write!(f, "Route: {shards}")?;
                match many {
                    Some(refusal) => write!(f, "\n└─ several shards: {}", refusal.message),
                    None => Ok(()),
                }
            }
            // They have steps.
            Self::Gather(_) | Self::Final(_) | Self::Write(_) => Ok(()),
            Self::Computed(computed) => write!(f, "Computed: {}, then planned", computed.shown.join(", ")),
            Self::Broadcast(Broadcast::Apart | Broadcast::Loosely | Broadcast::Index(_)) => {
                f.write_str("Broadcast: shard by shard")
            }
            Self::Broadcast(Broadcast::Inserted(table)) => {
                write!(f, "Broadcast: all shards at once: {}", table.create)?;
                table.insert.as_ref().map_or(Ok(()), |insert| write!(f, "\nthen planned: {insert}"))
            }
            Self::Broadcast(_) => f.write_str("Broadcast: all shards at once"),
            Self::CopyFrom(copy) => match copy.target {
                CopyTarget::Sharded { .. } if !copy.added.is_empty() => {
                    let added: Vec<&str> = copy.added.iter().map(|field| &*field.name).collect();
                    write!(f, "CopyFrom: {} by {} with {} of the router", copy.table, copy.key_column, added.join(", "))
                }
                CopyTarget::Sharded { field, .. } => {
                    write!(f, "CopyFrom: {} by {} in field {}", copy.table, copy.key_column, field + 1)
                }
                CopyTarget::Reference => write!(f, "CopyFrom: {} to all shards", copy.table),
            },
            Self::CopyQuery(copy) => write!(f, "CopyQuery: rows of {}", copy.sql),
            Self::CopyTo { shards, .. } => write!(f, "CopyTo: {shards} one after another"),
            Self::Session => f.write_str("Session"),
            Self::Refused(refusal) => write!(f, "Refused: {refusal}"),
        }
    }
}

impl Display for Shards {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any shard"),
            Self::One(shard) => write!(f, "shard {}", shard.0),
            Self::Keys { keys, .. } => {
                f.write_str("shard of ")?;
                list(f, keys)
            }
            Self::Home { home, keys } => write!(f, "shard {} if it is {keys}", home.0),
            Self::All => f.write_str("all shards"),
        }
    }
}

impl Display for KeyValue {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal { slot, negative } => {
                write!(f, "{}literal {}", if *negative { "minus " } else { "" }, u32::from(*slot) + 1)
            }
            Self::Constant(text) => write!(f, "'{text}'"),
            Self::Param(index) => write!(f, "${}", u32::from(*index) + 1),
            Self::ParamElements(index) => write!(f, "elements of ${}", u32::from(*index) + 1),
            Self::Null => f.write_str("NULL"),
        }
    }
}

fn list<T: Display>(f: &mut Formatter<'_>, items: &[T]) -> fmt::Result {
    for (number, item) in items.iter().enumerate() {
        write!(f, "{}{item}", if number == 0 { "" } else { ", " })?;
    }
    Ok(())
}

/// One line, without what is below.
impl Display for Node {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route => f.write_str("Route"),
            Self::Append { .. } => f.write_str("Append"),
            Self::MergeSort { keys, .. } => named(f, "MergeSort: ", keys),
            Self::Sort { keys, .. } => named(f, "Sort: ", keys),
            Self::Aggregate { keys, aggregates, sorted, .. } => {
                f.write_str("Aggregate: ")?;
                list(f, aggregates)?;
                if !keys.is_empty() {
                    f.write_str(if aggregates.is_empty() { "by " } else { " by " })?;
                    list(f, keys)?;
                }
                f.write_str(if *sorted { " (sorted)" } else { "" })
            }
            Self::Having { condition, .. } => write!(f, "Having: {condition}"),
            Self::Distinct { keys, sorted, .. } => {
                named(f, "Distinct: ", keys)?;
                f.write_str(if *sorted { " (sorted)" } else { "" })
            }
            Self::Limit { count, offset, ties, .. } => {
                f.write_str("Limit: ")?;
                match count {
                    Some(count) => count.fmt(f)?,
                    None => f.write_str("all")?,
                }
                if let Some(offset) = offset {
                    write!(f, " after {offset}")?;
                }
                if ties.is_empty() { Ok(()) } else { named(f, " with ties of ", ties) }
            }
            Self::Project { .. } => f.write_str("Project"),
        }
    }
}

fn named<T: Display>(f: &mut Formatter<'_>, name: &str, items: &[T]) -> fmt::Result {
    f.write_str(name)?;
    list(f, items)
}

impl Display for GroupKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.column.fmt(f)
    }
}

impl Display for ColumnRef {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Visible(column) => write!(f, "column {}", u32::from(*column) + 1),
            Self::Helper(column) => write!(f, "h{}", u32::from(*column) + 1),
        }
    }
}

impl Display for SortKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.value {
            SortValue::Column(column) => write!(f, "{} ({column})", self.name)?,
            SortValue::Aggregate(_) => f.write_str(&self.name)?,
        }
        match (self.descending, self.nulls_first) {
            (false, false) => Ok(()),
            (false, true) => f.write_str(" nulls first"),
            (true, true) => f.write_str(" desc"),
            (true, false) => f.write_str(" desc nulls last"),
        }
    }
}

impl Display for Aggregate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.name, self.function)?;
        if self.output.is_none() { f.write_str(" hidden") } else { Ok(()) }
    }
}

impl Display for AggregateFunction {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { count } => write!(f, "count({count})"),
            Self::Sum { sum } => write!(f, "sum({sum})"),
            Self::Avg { sum, count } => write!(f, "sum({sum}) / sum({count})"),
            Self::CountDistinct { value, present, sorted } => {
                write!(f, "distinct({value}{}) where {present} > 0", if *sorted { " sorted" } else { "" })
            }
            Self::Spread { measure, count, sum, squares } => write!(f, "{measure}({count}, {sum}, {squares})"),
            Self::Bits { operation, bits } => write!(f, "{operation}({bits})"),
            Self::Min { value, .. } => write!(f, "min({value})"),
            Self::Max { value, .. } => write!(f, "max({value})"),
        }
    }
}

impl Display for Measure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VarSamp => "var_samp",
            Self::VarPop => "var_pop",
            Self::StddevSamp => "stddev_samp",
            Self::StddevPop => "stddev_pop",
        })
    }
}

impl Display for BitOperation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::And => "bit_and",
            Self::Or => "bit_or",
            Self::Xor => "bit_xor",
        })
    }
}

impl Display for Condition {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compare { left, operator, right } => write!(f, "{left} {operator} {right}"),
            Self::IsNull { operand, negated } => {
                write!(f, "{operand} IS {}NULL", if *negated { "NOT " } else { "" })
            }
            Self::Truth(number) => Operand::Aggregate(*number).fmt(f),
            Self::And(parts) => joined(f, parts, " AND "),
            Self::Or(parts) => joined(f, parts, " OR "),
            Self::Not(inner) => write!(f, "NOT ({inner})"),
        }
    }
}

fn joined(f: &mut Formatter<'_>, parts: &[Condition], word: &str) -> fmt::Result {
    for (number, part) in parts.iter().enumerate() {
        write!(f, "{}({part})", if number == 0 { "" } else { word })?;
    }
    Ok(())
}

impl Display for Operand {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aggregate(number) => write!(f, "aggregate {}", u32::from(*number) + 1),
            Self::Number(number) => f.write_str(number),
            Self::Param(index) => write!(f, "${}", u32::from(*index) + 1),
        }
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::LessEqual => "<=",
            Self::Greater => ">",
            Self::GreaterEqual => ">=",
        })
    }
}

impl Display for Count {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(rows) => rows.fmt(f),
            Self::Negative => f.write_str("negative"),
            Self::Param(index) => write!(f, "${}", u32::from(*index) + 1),
        }
    }
}
