//! A statement in parts, which is written out with values and can lose its parts.
//!
//! Literals stay marks until then, so that one shape is asked with several values, as text and as
//! parameters.

use super::data::{Kind, Tables};
use super::random::Random;

/// Encloses the number of a literal in a statement that is not yet written out.
pub(super) const MARK: char = '\u{1}';

/// How the names of CTEs begin that read themselves.
pub(super) const RECURSIVE: &str = "again_";

/// Aggregates whose result is the same to the last digit, whatever the order of their rows.
pub(super) const EXACT: [&str; 8] =
    ["sum(", "avg(", "count(", "variance(", "var_samp(", "var_pop(", "stddev(", "stddev_pop("];

/// A value that is chosen when the statement is written out.
#[derive(Clone, Copy)]
pub(super) struct Literal {
    pub(super) kind: Kind,
    /// Stands where its type is plain, so that a parameter needs no cast.
    pub(super) plain: bool,
}

/// A statement in parts that can be left out.
#[derive(Clone, Default)]
pub(super) struct Select {
    pub(super) literals: Vec<Literal>,
    pub(super) with: Vec<String>,
    pub(super) distinct: String,
    pub(super) targets: Vec<String>,
    pub(super) from: Vec<String>,
    pub(super) filters: Vec<String>,
    pub(super) group: Vec<String>,
    pub(super) having: Vec<String>,
    pub(super) order: Vec<Order>,
    pub(super) limit: Vec<String>,
    /// UNION and what follows it.
    pub(super) operand: String,
    /// The order leaves no choice but between equal rows.
    pub(super) total: bool,
    /// Instead of all that: a statement that writes.
    pub(super) write: Option<String>,
}

#[derive(Clone)]
pub(super) struct Order {
    pub(super) sql: String,
    /// The column of the answer that it orders by.
    pub(super) shown: Option<usize>,
}

/// A statement written out.
#[derive(Clone)]
pub(super) struct Written {
    pub(super) sql: String,
    pub(super) parameters: Vec<Option<String>>,
}

impl Select {
    /// The statement with values for its literals: as text, or for `parameters` some of them apart.
    pub(super) fn write(&self, tables: &Tables, random: &mut Random, parameters: bool) -> Written {
        let mut written = Written { sql: String::new(), parameters: Vec::new() };
        for (position, part) in self.text().split(MARK).enumerate() {
            if position % 2 == 0 {
                written.sql.push_str(part);
                continue;
            }
            let literal = self.literals[part.parse::<usize>().unwrap()];
            let value = tables.value(literal.kind, random);
            let name = tables.type_name(literal.kind);
            if parameters && random.chance(60) {
                written.parameters.push(value);
                let number = written.parameters.len();
                let cast = if literal.plain { String::new() } else { format!("::{name}") };
                written.sql.push_str(&format!("${number}{cast}"));
                continue;
            }
            written.sql.push_str(&match value {
                None if literal.plain => "NULL".to_owned(),
                None => format!("NULL::{name}"),
                // The same number in other writings.
                Some(value) if tables.is_number(literal.kind) && literal.plain => match random.below(12) {
                    0 => format!("'{value}'"),
                    1 if literal.kind == Kind::Key => format!("{value}.0"),
                    2 if literal.kind == Kind::Key => format!("{value}.5"),
                    _ => value,
                },
                Some(value) if literal.plain => format!("'{}'", value.replace('\'', "''")),
                Some(value) => format!("'{}'::{name}", value.replace('\'', "''")),
            });
        }
        written
    }

    pub(super) fn text(&self) -> String {
        if let Some(write) = &self.write {
            return write.clone();
        }
        let mut sql = String::new();
        if !self.with.is_empty() {
            let recursive = self.with.iter().any(|cte| cte.starts_with(RECURSIVE));
            let word = if recursive { "WITH RECURSIVE" } else { "WITH" };
            sql.push_str(&format!("{word} {} ", self.with.join(", ")));
        }
        let targets = if self.targets.is_empty() { "1".to_owned() } else { self.targets.join(", ") };
        sql.push_str(&format!("SELECT {}{targets} FROM {}", self.distinct, self.from.join(" ")));
        for (word, parts, between) in
            [("WHERE", &self.filters, " AND "), ("GROUP BY", &self.group, ", "), ("HAVING", &self.having, " AND ")]
        {
            if !parts.is_empty() {
                sql.push_str(&format!(" {word} {}", parts.join(between)));
            }
        }
        sql.push_str(&self.operand);
        let order: Vec<&str> = self.order.iter().map(|order| order.sql.as_str()).collect();
        if !order.is_empty() {
            sql.push_str(&format!(" ORDER BY {}", order.join(", ")));
        }
        for limit in &self.limit {
            sql.push_str(&format!(" {limit}"));
        }
        sql
    }

    /// The statement with one part less, in every way.
    pub(super) fn smaller(&self) -> Vec<Self> {
        let mut found = Vec::new();
        let mut without = |change: &dyn Fn(&mut Self)| {
            let mut smaller = self.clone();
            change(&mut smaller);
            found.push(smaller);
        };
        for at in 0..self.filters.len() {
            without(&|select| drop(select.filters.remove(at)));
        }
        for at in 0..self.having.len() {
            without(&|select| drop(select.having.remove(at)));
        }
        for at in 0..self.group.len() {
            without(&|select| drop(select.group.remove(at)));
        }
        for at in 1..self.from.len() {
            without(&|select| drop(select.from.remove(at)));
        }
        if !self.limit.is_empty() {
            without(&|select| drop(select.limit.pop()));
        }
        if !self.operand.is_empty() {
            without(&|select| select.operand.clear());
        }
        if !self.distinct.is_empty() {
            without(&|select| select.distinct.clear());
        }
        if !self.with.is_empty() {
            without(&|select| drop(select.with.pop()));
        }
        // Without its end an order is weaker, which only a statement without LIMIT bears.
        if self.limit.is_empty() && !self.order.is_empty() {
            without(&|select| {
                select.order.pop();
                select.total = false;
            });
        }
        let last = self.targets.len().saturating_sub(1);
        for at in 0..self.targets.len() {
            let free = self.order.is_empty() || at == last && self.order.iter().all(|order| order.shown != Some(last));
            if free && last > 0 {
                without(&|select| drop(select.targets.remove(at)));
            }
        }
        found
    }

    /// Whether a column of the answer may show one of several equal values: 1.0 for 1.00.
    pub(super) fn shows_any_of_equals(&self, column: usize, is_float: bool) -> bool {
        let whole = self.text();
        let chosen = whole.contains("DISTINCT ") || whole.contains("GROUP BY") || !self.limit.is_empty();
        let exact =
            |target: &String| EXACT.iter().any(|start| target.starts_with(start)) && !whole.contains("DISTINCT ");
        let extreme = |target: &String| ["min(", "max("].iter().any(|name| target.contains(name));
        match self.targets.get(column) {
            // A sum of doubles depends on the order of its rows.
            Some(target) if is_float && (target.contains('(') || target.contains(".w")) => true,
            Some(target) => extreme(target) || (chosen || !self.operand.is_empty()) && !exact(target),
            None => true,
        }
    }
}
