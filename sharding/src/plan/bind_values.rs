//! What predicates say about keys: values, lists, equalities, ORs.

use super::KeyValue;
use super::bind::Binder;
use super::terms::{Family, Term};
use crate::sql::tree::{Cast, Const, Expr, In, Op, Quantified, SublinkKind, TypeName, Value};

/// The relations a predicate may limit.
#[derive(Clone, Debug)]
pub(crate) enum Reach {
    /// Those of this block: WHERE.
    Block(usize),
    /// Those of a join, or of its nullable side.
    Rels(Vec<usize>),
}

/// Values that a term is limited to.
pub(crate) type Limit = (Term, Vec<KeyValue>, Family);

impl Binder<'_> {
    /// Takes what a condition that must be true says. Returns the edges it would give if its reach
    /// were not limited to one side of an outer join.
    pub(crate) fn predicates(&mut self, condition: &Expr, reach: &Reach, strict: bool) -> Vec<(Term, Term)> {
        let mut missing = Vec::new();
        for conjunct in conjuncts(condition) {
            for (term, keys, family) in self.limits_of(conjunct) {
                if self.within(term, reach) {
                    self.limit(term, keys, family);
                }
                if strict && !matches!(conjunct, Expr::Or(_)) {
                    self.note_strict(term, reach);
                }
            }
            if let Expr::Op(op) = conjunct
                && &*op.name == "="
                && let Some(left) = &op.left
            {
                missing.extend(self.equal(left, &op.right, reach, strict));
            }
        }
        missing
    }

    /// Rows of the condition's own query in which `term` is NULL are dropped; those of a query around it
    /// are not.
    fn note_strict(&mut self, term: Term, reach: &Reach) {
        if self.within(term, reach) {
            let rel = self.terms.owner(term);
            let block = self.rels[rel].block;
            self.blocks[block].strict.push(rel);
        }
    }

    fn within(&self, term: Term, reach: &Reach) -> bool {
        let rel = self.terms.owner(term);
        match reach {
            Reach::Block(block) => self.rels[rel].block == *block,
            Reach::Rels(rels) => rels.contains(&rel),
        }
    }

    fn equal(&mut self, left: &Expr, right: &Expr, reach: &Reach, strict: bool) -> Vec<(Term, Term)> {
        match (left, right) {
            (Expr::Row(left), Expr::Row(right)) if left.len() == right.len() => {
                left.iter().zip(right).flat_map(|(left, right)| self.equal(left, right, reach, strict)).collect()
            }
            (Expr::Column(left), Expr::Column(right)) => {
                let (Some(a), Some(b)) = (self.column(left), self.column(right)) else { return Vec::new() };
                if strict {
                    self.note_strict(a, reach);
                    self.note_strict(b, reach);
                }
                self.equal_columns(a, b, reach)
            }
            _ => Vec::new(),
        }
    }

    /// `a = b` is true; edges that `reach` forbids are returned.
    pub(crate) fn equal_columns(&mut self, a: Term, b: Term, reach: &Reach) -> Vec<(Term, Term)> {
        if !self.terms.comparable(a, b) {
            return Vec::new();
        }
        let mut missing = Vec::new();
        for (from, to) in [(a, b), (b, a)] {
            if self.within(to, reach) {
                self.terms.edge(from, to);
            } else {
                missing.push((from, to));
            }
        }
        missing
    }

    /// The values that a condition, when true, limits columns to.
    fn limits_of(&mut self, condition: &Expr) -> Vec<Limit> {
        match condition {
            Expr::Op(op) if &*op.name == "=" => self.equality(op),
            Expr::In(list) if !list.negated => self.in_list(list),
            Expr::Quantified(any) if !any.all && &*any.operator == "=" => self.any(any),
            Expr::Or(branches) => self.common_limits(branches),
            Expr::And(parts) => parts.iter().flat_map(|part| self.limits_of(part)).collect(),
            _ => Vec::new(),
        }
    }

    fn equality(&mut self, op: &Op) -> Vec<Limit> {
        let Some(left) = &op.left else { return Vec::new() };
        if let (Expr::Row(left), Expr::Row(right)) = (left, &op.right) {
            let pairs = left.iter().zip(right);
            return pairs.filter_map(|(left, right)| self.column_is(left, right)).collect();
        }
        self.column_is(left, &op.right).into_iter().collect()
    }

    fn column_is(&mut self, left: &Expr, right: &Expr) -> Option<Limit> {
        let (names, value) = match (left, right) {
            (Expr::Column(_), Expr::Column(_)) => return None,
            (Expr::Column(names), value) | (value, Expr::Column(names)) => (names, value),
            _ => return None,
        };
        let (keys, family) = self.value(value)?;
        Some((self.column(names)?, keys, family))
    }

    fn in_list(&mut self, list: &In) -> Vec<Limit> {
        if let Expr::Row(columns) = &list.arg {
            let column = |position: usize| {
                let rows = list.list.iter().map(move |row| match row {
                    Expr::Row(values) => values.get(position),
                    _ => None,
                });
                rows.collect::<Option<Vec<&Expr>>>()
            };
            let limits = columns.iter().enumerate().filter_map(|(position, name)| {
                let Expr::Column(names) = name else { return None };
                let (keys, family) = self.list(column(position)?.into_iter())?;
                Some((self.column(names)?, keys, family))
            });
            return limits.collect();
        }
        let Expr::Column(names) = &list.arg else { return Vec::new() };
        let Some((keys, family)) = self.list(list.list.iter()) else { return Vec::new() };
        self.column(names).map(|term| (term, keys, family)).into_iter().collect()
    }

    fn any(&mut self, any: &Quantified) -> Vec<Limit> {
        let Expr::Column(names) = &any.arg else { return Vec::new() };
        let Some((keys, family)) = self.elements(&any.array) else { return Vec::new() };
        self.column(names).map(|term| (term, keys, family)).into_iter().collect()
    }

    /// What every branch of an OR limits.
    fn common_limits(&mut self, branches: &[Expr]) -> Vec<Limit> {
        let mut branches = branches.iter();
        let Some(first) = branches.next() else { return Vec::new() };
        let mut common = self.limits_of(first);
        for branch in branches {
            if common.is_empty() {
                return common;
            }
            let limits = self.limits_of(branch);
            common.retain_mut(|(term, keys, family)| {
                let Some((_, more, other)) = limits.iter().find(|(found, ..)| found == term) else { return false };
                let Some(both) = family.with(*other) else { return false };
                keys.extend(more.iter().cloned());
                *family = both;
                true
            });
        }
        common
    }

    fn list<'e>(&mut self, items: impl Iterator<Item = &'e Expr>) -> Option<(Vec<KeyValue>, Family)> {
        let mut keys = Vec::new();
        let mut family = Family::Any;
        for item in items {
            let (more, other) = self.value(item)?;
            family = family.with(other)?;
            keys.extend(more);
        }
        Some((keys, family))
    }

    /// An expression whose value is at hand before the statement runs.
    pub(crate) fn value(&mut self, expr: &Expr) -> Option<(Vec<KeyValue>, Family)> {
        match expr {
            Expr::Param(index) => Some((vec![KeyValue::Param(*index)], Family::Any)),
            Expr::Const(constant) => self.constant(constant),
            Expr::Cast(cast) => self.cast(cast),
            _ => None,
        }
    }

    fn constant(&mut self, constant: &Const) -> Option<(Vec<KeyValue>, Family)> {
        let (text, family) = match &constant.value {
            Value::Null => return Some((vec![KeyValue::Null], Family::Any)),
            Value::Bool(_) | Value::Bits(_) => return None,
            Value::Integer(value) => (value.to_string().into(), Family::Int),
            Value::Float(value) if value.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit()) => {
                (value.clone(), Family::Int)
            }
            // Only a slot tells the reader of the value that it is a number with a point.
            Value::Float(_) if constant.slot.0.is_none() => return None,
            Value::Float(value) => (value.clone(), Family::Numeric),
            Value::Text(value) => (value.clone(), Family::Any),
        };
        let key = match constant.slot.0 {
            Some((slot, negative)) => KeyValue::Literal { slot, negative },
            None => {
                self.value_seen = true;
                KeyValue::Constant(text)
            }
        };
        Some((vec![key], family))
    }

    fn cast(&mut self, cast: &Cast) -> Option<(Vec<KeyValue>, Family)> {
        if cast.target.array {
            return None;
        }
        let family = family_of(&cast.target)?;
        let simple = match &cast.arg {
            Expr::Param(_) => true,
            Expr::Const(constant) => match &constant.value {
                Value::Text(_) | Value::Null => true,
                Value::Integer(_) => family == Family::Int,
                _ => false,
            },
            _ => false,
        };
        if !simple {
            return None;
        }
        self.value(&cast.arg).map(|(keys, _)| (keys, family))
    }

    /// The elements of an array that is at hand before the statement runs.
    fn elements(&mut self, array: &Expr) -> Option<(Vec<KeyValue>, Family)> {
        match array {
            Expr::Param(index) => Some((vec![KeyValue::ParamElements(*index)], Family::Any)),
            Expr::Array(items) => self.list(items.iter()),
            Expr::Const(Const { value: Value::Text(text), .. }) => {
                let elements = array_elements(text)?;
                self.value_seen = true;
                Some((elements, Family::Any))
            }
            Expr::Cast(cast) if cast.target.array => {
                let family = family_of(&cast.target)?;
                let (keys, inner) = self.elements(&cast.arg)?;
                (inner == Family::Any || inner == family).then_some((keys, family))
            }
            _ => None,
        }
    }

    /// `x IN (SELECT y ...)`: only rows of the subquery with y = x matter.
    pub(crate) fn membership(&mut self, test: Option<&Expr>, outputs: &[super::bind::Output], kind: SublinkKind) {
        if kind != SublinkKind::Any {
            return;
        }
        let tests: &[Expr] = match test {
            Some(Expr::Row(tests)) => tests,
            Some(test) => std::slice::from_ref(test),
            None => &[],
        };
        for (test, output) in tests.iter().zip(outputs) {
            let (Expr::Column(names), Some(inside), true) = (test, output.term, output.transparent) else { continue };
            // NULL is in no list, but only in one that has no rows is it surely not: rows of every shard matter.
            if let Some(outside) = self.column(names)
                && self.terms.comparable(outside, inside)
                && !self.terms.nature(outside).nullable
            {
                self.terms.edge(outside, inside);
            }
        }
    }
}

/// The parts of a condition that must all be true.
pub(crate) fn conjuncts(condition: &Expr) -> Vec<&Expr> {
    match condition {
        Expr::And(parts) => parts.iter().flat_map(conjuncts).collect(),
        other => vec![other],
    }
}

fn family_of(target: &TypeName) -> Option<Family> {
    if target.modified {
        return None;
    }
    match &*target.name {
        "int2" | "int4" | "int8" => Some(Family::Int),
        "text" | "varchar" => Some(Family::Text),
        "uuid" => Some(Family::Uuid),
        _ => None,
    }
}

/// The elements of `{a,b}`; `None` when quotes or nesting make it more than that.
fn array_elements(text: &str) -> Option<Vec<KeyValue>> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    if inner.contains(['"', '\\', '{', '}']) {
        return None;
    }
    if inner.trim().is_empty() {
        return Some(Vec::new());
    }
    let element = |element: &str| match element.trim() {
        null if null.eq_ignore_ascii_case("null") => KeyValue::Null,
        other => KeyValue::Constant(other.into()),
    };
    Some(inner.split(',').map(element).collect())
}
