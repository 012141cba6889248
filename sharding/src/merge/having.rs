//! HAVING over the results of aggregates, in three-valued logic.

use std::cmp::Ordering;

use crate::key::Input;
use crate::merge::number::Datum;
use crate::plan;
use crate::plan::Comparison;
use crate::refusal::Refusal;
use crate::value::oid;

/// A condition with its numbers and parameters read.
#[derive(Debug)]
pub(super) enum Having {
    Compare {
        left: Operand,
        operator: Comparison,
        right: Operand,
    },
    IsNull {
        operand: Operand,
        negated: bool,
    },
    /// Of a truth value.
    Truth(usize),
    And(Vec<Self>),
    Or(Vec<Self>),
    Not(Box<Self>),
}

#[derive(Debug)]
pub(super) enum Operand {
    Result(usize),
    Value(Datum),
}

impl Having {
    /// `types` are those of the aggregates' results.
    ///
    /// # Errors
    /// `0A000` when the condition compares what is no number.
    pub(super) fn new(condition: &plan::Condition, types: &[u32], params: &[Input<'_>]) -> Result<Self, Refusal> {
        let all = |conditions: &[plan::Condition]| {
            conditions.iter().map(|condition| Self::new(condition, types, params)).collect::<Result<Vec<_>, _>>()
        };
        Ok(match condition {
            plan::Condition::Compare { left, operator, right } => {
                for side in [left, right] {
                    check_number(side, types)?;
                }
                Self::Compare {
                    left: Operand::new(left, type_of(right, types, params), params)?,
                    operator: *operator,
                    right: Operand::new(right, type_of(left, types, params), params)?,
                }
            }
            plan::Condition::IsNull { operand, negated } => {
                Self::IsNull { operand: Operand::new(operand, Some(oid::INT8), params)?, negated: *negated }
            }
            plan::Condition::Truth(number) => {
                let type_oid = types.get(usize::from(*number)).copied().unwrap_or(0);
                if type_oid != oid::BOOL {
                    return Err(uncomparable(type_oid));
                }
                Self::Truth(usize::from(*number))
            }
            plan::Condition::And(conditions) => Self::And(all(conditions)?),
            plan::Condition::Or(conditions) => Self::Or(all(conditions)?),
            plan::Condition::Not(inner) => Self::Not(Box::new(Self::new(inner, types, params)?)),
        })
    }

    /// True, false or, as `None`, unknown.
    pub(super) fn holds(&self, results: &[Datum]) -> Result<Option<bool>, Refusal> {
        match self {
            Self::Compare { left, operator, right } => {
                let ordering = left.value(results).compare(right.value(results))?;
                Ok(ordering.map(|ordering| satisfies(*operator, ordering)))
            }
            Self::IsNull { operand, negated } => Ok(Some(matches!(operand.value(results), Datum::Null) != *negated)),
            Self::Truth(number) => Ok(match results.get(*number) {
                // False is all zeros.
                Some(Datum::Ordered(truth)) => Some(truth.iter().any(|byte| *byte != 0)),
                _ => None,
            }),
            Self::And(conditions) => fold(conditions, results, false),
            Self::Or(conditions) => fold(conditions, results, true),
            Self::Not(inner) => Ok(inner.holds(results)?.map(|holds| !holds)),
        }
    }
}

impl Operand {
    /// `other` is the type of the other side, which an undeclared parameter takes.
    fn new(operand: &plan::Operand, other: Option<u32>, params: &[Input<'_>]) -> Result<Self, Refusal> {
        Ok(match operand {
            plan::Operand::Aggregate(number) => Self::Result(usize::from(*number)),
            plan::Operand::Number(text) => Self::Value(Datum::literal(text)?),
            plan::Operand::Param(number) => {
                let param = params.get(usize::from(*number)).copied();
                let param = param.ok_or_else(|| Refusal::error("08P01", "a parameter of HAVING was not bound"))?;
                let other = other.or((param.type_oid != 0).then_some(param.type_oid));
                Self::Value(Datum::param(param, other.ok_or_else(untyped)?)?)
            }
        })
    }

    fn value<'a>(&'a self, results: &'a [Datum]) -> &'a Datum {
        match self {
            Self::Result(number) => results.get(*number).unwrap_or(&Datum::Null),
            Self::Value(value) => value,
        }
    }
}

/// The type of an operand; `None` for a parameter that is not declared.
fn type_of(operand: &plan::Operand, types: &[u32], params: &[Input<'_>]) -> Option<u32> {
    match operand {
        plan::Operand::Aggregate(number) => types.get(usize::from(*number)).copied(),
        plan::Operand::Number(text) => Some(match Datum::literal(text) {
            // As PostgreSQL types a literal: the narrowest of integer, bigint, numeric.
            Ok(Datum::Int(value)) if i32::try_from(value).is_ok() => oid::INT4,
            Ok(Datum::Int(_)) => oid::INT8,
            _ => oid::NUMERIC,
        }),
        plan::Operand::Param(number) => {
            params.get(usize::from(*number)).map(|param| param.type_oid).filter(|type_oid| *type_oid != 0)
        }
    }
}

fn check_number(operand: &plan::Operand, types: &[u32]) -> Result<(), Refusal> {
    let plan::Operand::Aggregate(number) = operand else { return Ok(()) };
    let type_oid = types.get(usize::from(*number)).copied().unwrap_or(0);
    if Datum::is_number(type_oid) {
        return Ok(());
    }
    Err(uncomparable(type_oid))
}

fn uncomparable(type_oid: u32) -> Refusal {
    Refusal::unsupported(
        format!("comparing a result of type {} in HAVING is not supported over several shards", oid::name(type_oid)),
        "Compare a numeric result, or put the condition around the statement as a subquery in the application.",
    )
}

fn untyped() -> Refusal {
    Refusal::unsupported("two undeclared parameters are compared in HAVING", "Declare the type of one of them.")
}

fn satisfies(operator: Comparison, ordering: Ordering) -> bool {
    match operator {
        Comparison::Equal => ordering.is_eq(),
        Comparison::NotEqual => ordering.is_ne(),
        Comparison::Less => ordering.is_lt(),
        Comparison::LessEqual => ordering.is_le(),
        Comparison::Greater => ordering.is_gt(),
        Comparison::GreaterEqual => ordering.is_ge(),
    }
}

/// AND and OR: one condition with the value `decisive` decides; else an unknown one leaves it open.
fn fold(conditions: &[Having], results: &[Datum], decisive: bool) -> Result<Option<bool>, Refusal> {
    let mut outcome = Some(!decisive);
    for condition in conditions {
        match condition.holds(results)? {
            Some(holds) if holds == decisive => return Ok(Some(decisive)),
            Some(_) => {}
            None => outcome = None,
        }
    }
    Ok(outcome)
}
