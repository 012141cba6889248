//! HAVING over groups that the router completes: comparisons of aggregates with numbers.

use super::aggregates::{Aggregates, is_aggregate};
use super::build::Builder;
use super::{Comparison, Condition, Operand, reasons};
use crate::refusal::Refusal;
use crate::sql::tree::{Const, Expr, Value};

pub(super) fn condition(
    builder: &mut Builder<'_, '_, '_>,
    aggregates: &mut Aggregates,
    expr: &Expr,
) -> Result<Condition, Refusal> {
    let mut all = |parts: &[Expr]| -> Result<Vec<Condition>, Refusal> {
        parts.iter().map(|part| condition(builder, aggregates, part)).collect()
    };
    match expr {
        Expr::And(parts) => Ok(Condition::And(all(parts)?)),
        Expr::Or(parts) => Ok(Condition::Or(all(parts)?)),
        Expr::Not(inner) => Ok(Condition::Not(Box::new(condition(builder, aggregates, inner)?))),
        Expr::IsNull(inner, negated) => {
            Ok(Condition::IsNull { operand: operand(builder, aggregates, inner)?, negated: *negated })
        }
        Expr::Op(op) => {
            let (Some(left), Some(operator)) = (&op.left, comparison(&op.name)) else { return Err(unknown()) };
            let left = operand(builder, aggregates, left)?;
            let right = operand(builder, aggregates, &op.right)?;
            Ok(Condition::Compare { left, operator, right })
        }
        _ if is_aggregate(builder.binder, expr) => Ok(Condition::Truth(aggregates.number(builder, expr)?)),
        _ => Err(unknown()),
    }
}

fn unknown() -> Refusal {
    reasons::spread("HAVING with more than comparisons of aggregates and numbers")
}

fn comparison(operator: &str) -> Option<Comparison> {
    Some(match operator {
        "=" => Comparison::Equal,
        "<>" | "!=" => Comparison::NotEqual,
        "<" => Comparison::Less,
        "<=" => Comparison::LessEqual,
        ">" => Comparison::Greater,
        ">=" => Comparison::GreaterEqual,
        _ => return None,
    })
}

fn operand(builder: &mut Builder<'_, '_, '_>, aggregates: &mut Aggregates, expr: &Expr) -> Result<Operand, Refusal> {
    match expr {
        Expr::Param(index) => Ok(Operand::Param(*index)),
        Expr::Const(Const { value: Value::Integer(number), .. }) => Ok(Operand::Number(number.to_string())),
        Expr::Const(Const { value: Value::Float(number), .. }) => Ok(Operand::Number(number.to_string())),
        _ if is_aggregate(builder.binder, expr) => Ok(Operand::Aggregate(aggregates.number(builder, expr)?)),
        _ => Err(unknown()),
    }
}
