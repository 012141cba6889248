//! Random SELECT statements over the tables of [`super::data`].
//!
//! Literals stay marks until a statement is written out, so that one shape is asked with several
//! values, as text and as parameters.

use super::data::{Column, Kind, Table, Tables};
use super::random::Random;

/// Encloses the number of a literal in a statement that is not yet written out.
const MARK: char = '\u{1}';

/// One entry of FROM.
#[derive(Clone)]
struct Source {
    /// Of a table.
    name: &'static str,
    alias: String,
    columns: Vec<Column>,
    /// Columns that tell its rows apart; empty when nothing does.
    unique: Vec<&'static str>,
}

/// A value that is chosen when the statement is written out.
#[derive(Clone, Copy)]
struct Literal {
    kind: Kind,
    /// Stands where its type is plain, so that a parameter needs no cast.
    plain: bool,
}

/// A statement in parts that can be left out.
#[derive(Clone, Default)]
pub(super) struct Select {
    literals: Vec<Literal>,
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
    /// Instead of all that: a statement that writes, and the table it writes.
    pub(super) write: Option<(String, &'static str)>,
}

#[derive(Clone)]
pub(super) struct Order {
    sql: String,
    /// The column of the answer that it orders by.
    pub(super) shown: Option<usize>,
}

/// A statement written out.
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

    fn text(&self) -> String {
        if let Some((write, _)) = &self.write {
            return write.clone();
        }
        let mut sql = String::new();
        if !self.with.is_empty() {
            sql.push_str(&format!("WITH {} ", self.with.join(", ")));
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
        if self.write.is_some() {
            return found;
        }
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
        let exact = |target: &String| {
            ["sum(", "avg(", "count("].iter().any(|start| target.starts_with(start)) && !whole.contains("DISTINCT ")
        };
        let extreme = |target: &String| ["min(", "max("].iter().any(|start| target.starts_with(start));
        match self.targets.get(column) {
            // A sum of doubles depends on the order of its rows.
            Some(target) if is_float && (target.contains('(') || target.contains(".w")) => true,
            Some(target) => extreme(target) || (chosen || !self.operand.is_empty()) && !exact(target),
            None => true,
        }
    }
}

/// Makes statements.
pub(super) struct Grammar<'a> {
    tables: &'a Tables,
    pub(super) random: &'a mut Random,
    literals: Vec<Literal>,
    aliases: usize,
}

/// Expressions and statements go only so deep.
const DEPTH_MAX: usize = 2;

impl<'a> Grammar<'a> {
    pub(super) fn new(tables: &'a Tables, random: &'a mut Random) -> Self {
        Self { tables, random, literals: Vec::new(), aliases: 0 }
    }

    /// A whole statement.
    pub(super) fn statement(mut self) -> Select {
        let mut select = match self.random.below(8) {
            0 => Select { write: Some(self.write()), ..Select::default() },
            _ => self.select(0),
        };
        select.literals = self.literals;
        select
    }

    /// INSERT, UPDATE or DELETE of a sharded table.
    fn write(&mut self) -> (String, &'static str) {
        let table = &self.tables.list[self.random.below(3)];
        let source = Source {
            name: table.name,
            alias: table.name.into(),
            columns: table.columns.clone(),
            unique: table.unique.clone(),
        };
        let sources = std::slice::from_ref(&source);
        let key = format!("{}.{}", table.name, table.columns[0].name);
        let returning = match self.random.below(3) {
            0 => format!(" RETURNING {key}, {}", self.value(sources, DEPTH_MAX)),
            _ => String::new(),
        };
        let key_is = format!("{key} = {}", self.literal(Kind::Key, true));
        let key_is = if self.random.chance(70) { key_is } else { self.key_condition(sources) };
        let more = if self.random.chance(50) { format!(" AND {}", self.condition(sources, 1)) } else { String::new() };
        let sql = match self.random.below(8) {
            0..2 => format!("DELETE FROM {} WHERE {key_is}{more}{returning}", table.name),
            2 => {
                let other = self.table();
                let tie = match other.columns[0].kind {
                    Kind::Key => format!("o.{} = {key}", other.columns[0].name),
                    _ => "true".to_owned(),
                };
                format!("DELETE FROM {} USING {} AS o WHERE {tie} AND {key_is}{more}", table.name, other.name)
            }
            3..6 => {
                let column = *self.random.pick(&table.columns);
                let value = self.literal(column.kind, true);
                let set = format!("{} = {value}", column.name);
                format!("UPDATE {} SET {set} WHERE {key_is}{more}{returning}", table.name)
            }
            6 => {
                let names: Vec<&str> = table.columns.iter().map(|column| column.name).collect();
                let rows = 1 + self.random.below(2);
                let mut row = || {
                    let values: Vec<String> = table.columns.iter().map(|c| self.literal(c.kind, true)).collect();
                    format!("({})", values.join(", "))
                };
                let rows: Vec<String> = (0..rows).map(|_| row()).collect();
                let conflict = *self.random.pick(&["", " ON CONFLICT DO NOTHING"]);
                format!(
                    "INSERT INTO {} ({}) VALUES {}{conflict}{returning}",
                    table.name,
                    names.join(", "),
                    rows.join(", ")
                )
            }
            _ => {
                let from = self.random.below(3);
                let from = &self.tables.list[from];
                let key = from.columns[0].name;
                let number = self.literal(Kind::Int, false);
                let into = format!("INSERT INTO orders (user_id, no) SELECT s.{key}, {number} FROM {} AS s", from.name);
                format!("{into} WHERE s.{key} = {} LIMIT 1", self.literal(Kind::Key, true))
            }
        };
        (sql, table.name)
    }

    fn select(&mut self, depth: usize) -> Select {
        let mut select = Select::default();
        let sources = self.from(&mut select, depth);
        for _ in 0..self.random.below(3) {
            let filter = self.condition(&sources, depth);
            select.filters.push(filter);
        }
        if self.random.chance(35) {
            let key = self.key_condition(&sources);
            select.filters.push(key);
        }
        match self.random.below(10) {
            0..4 => self.grouped(&mut select, &sources, depth),
            4 => self.distinct(&mut select, &sources, depth),
            _ => self.rows(&mut select, &sources, depth),
        }
        if self.random.chance(4) && select.distinct.is_empty() {
            self.set_operation(&mut select, depth);
        } else {
            self.order(&mut select, &sources, depth);
        }
        select
    }

    /// FROM with one to three entries.
    fn from(&mut self, select: &mut Select, depth: usize) -> Vec<Source> {
        let mut sources = vec![self.source(select, depth)];
        for _ in 0..[0, 0, 0, 1, 1, 2][self.random.below(6)] {
            self.join(select, &mut sources, depth);
        }
        sources
    }

    fn join(&mut self, select: &mut Select, sources: &mut Vec<Source>, depth: usize) {
        let left = sources[self.random.below(sources.len())].clone();
        let before = select.from.len();
        let right = self.source(select, depth);
        let entry = select.from.remove(before);
        let (left_key, right_key) = (key_of(&left), key_of(&right));
        let plan = |source: &Source| source.columns.iter().find(|column| column.kind == Kind::Plan).map(|c| c.name);
        let on = match (left_key, right_key, plan(&left), plan(&right)) {
            (Some(a), Some(b), ..) if self.random.chance(85) => format!("{}.{a} = {}.{b}", left.alias, right.alias),
            (_, _, Some(a), Some(b)) => format!("{}.{a} = {}.{b}", left.alias, right.alias),
            _ => "true".to_owned(),
        };
        if self.random.chance(6)
            && let Some(key) = left_key
        {
            return self.lateral(select, sources, &left, key, depth);
        }
        if self.random.chance(4) && sources.len() == 1 && right.unique.len() == 2 {
            sources.push(right);
            return select.from.push(format!("NATURAL JOIN {entry}"));
        }
        let word = *self.random.pick(&["JOIN", "JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        sources.push(right);
        let more =
            if self.random.chance(15) { format!(" AND {}", self.condition(sources, depth + 1)) } else { "".into() };
        let using = left_key == right_key && left_key.is_some() && sources.len() == 2 && self.random.chance(20);
        match left_key {
            Some(key) if using => select.from.push(format!("{word} {entry} USING ({key})")),
            _ if self.random.chance(10) => {
                select.from.push(format!(", {entry}"));
                select.filters.push(on);
            }
            _ => select.from.push(format!("{word} {entry} ON {on}{more}")),
        }
    }

    /// A subquery that looks at what stands before it.
    fn lateral(&mut self, select: &mut Select, sources: &mut Vec<Source>, left: &Source, key: &str, depth: usize) {
        self.aliases += 1;
        let alias = format!("t{}", self.aliases);
        let inner = Source { alias: format!("l{alias}"), ..self.stored() };
        let number = self.number(std::slice::from_ref(&inner), DEPTH_MAX);
        let tie = match key_of(&inner) {
            Some(other) => format!("{}.{other} = {}.{key}", inner.alias, left.alias),
            None => "true".to_owned(),
        };
        let more = if self.random.chance(30) {
            self.condition(std::slice::from_ref(&inner), depth + 1)
        } else {
            "true".into()
        };
        let word = *self.random.pick(&["CROSS JOIN", "LEFT JOIN"]);
        let end = if word == "LEFT JOIN" { " ON true" } else { "" };
        let shown = if self.random.chance(50) { format!("sum({number})") } else { format!("min({number})") };
        let query = format!("SELECT {shown} AS x FROM {} AS {} WHERE {tie} AND {more}", inner.name, inner.alias);
        select.from.push(format!("{word} LATERAL ({query}) AS {alias}{end}"));
        let columns = vec![Column { name: "x", kind: Kind::Hidden }];
        sources.push(Source { name: "", alias, columns, unique: Vec::new() });
    }

    fn stored(&mut self) -> Source {
        let table = self.table();
        Source { name: table.name, alias: String::new(), columns: table.columns.clone(), unique: table.unique.clone() }
    }

    /// A table, a subquery or a CTE, put at the end of `select.from`.
    fn source(&mut self, select: &mut Select, depth: usize) -> Source {
        self.aliases += 1;
        let alias = format!("t{}", self.aliases);
        if depth < DEPTH_MAX && self.random.chance(15) {
            let (inner, columns) = self.derived(depth + 1);
            let unique = Vec::new();
            if self.random.chance(50) {
                let materialized = *self.random.pick(&["", "", "MATERIALIZED ", "NOT MATERIALIZED "]);
                select.with.push(format!("c{alias} AS {materialized}({inner})"));
                select.from.push(format!("c{alias} AS {alias}"));
            } else {
                select.from.push(format!("({inner}) AS {alias}"));
            }
            return Source { name: "", alias, columns, unique };
        }
        let table = self.table();
        let mut columns = table.columns.clone();
        let mut unique = table.unique.clone();
        if self.random.chance(4) && columns.len() > 2 {
            // New names for the first columns, which may be the old ones of others.
            let names = (columns[1].name, columns[0].name);
            (columns[0].name, columns[1].name) = names;
            unique.iter_mut().for_each(|name| match *name {
                old if old == names.1 => *name = names.0,
                old if old == names.0 => *name = names.1,
                _ => {}
            });
            select.from.push(format!("{} AS {alias} ({}, {})", table.name, names.0, names.1));
        } else {
            select.from.push(format!("{} AS {alias}", table.name));
        }
        Source { name: table.name, alias, columns, unique }
    }

    fn table(&mut self) -> &'a Table {
        let tables: &'a Tables = self.tables;
        match self.random.below(10) {
            0 => &tables.list[3],
            more => &tables.list[more % 3],
        }
    }

    /// A subquery in FROM that shows some columns of a table, and maybe its key.
    fn derived(&mut self, depth: usize) -> (String, Vec<Column>) {
        let mut select = Select::default();
        let sources = self.from(&mut select, depth);
        if self.random.chance(50) {
            let filter = self.condition(&sources, depth);
            select.filters.push(filter);
        }
        let mut columns = Vec::new();
        for number in 0..1 + self.random.below(3) {
            let (source, column) = self.column(&sources, |_| true);
            let name = ["x", "y", "z"][number];
            columns.push(Column { name, kind: column.kind });
            select.targets.push(format!("{source}.{} AS {name}", column.name));
        }
        let keyed = sources.iter().find_map(|source| key_of(source).map(|key| (source, key)));
        if let Some((source, key)) = keyed
            && self.random.chance(80)
        {
            columns.push(Column { name: "user_id", kind: Kind::Key });
            select.targets.push(format!("{}.{key} AS user_id", source.alias));
        }
        match self.random.below(10) {
            3 => {
                let window = self.window(&sources, depth);
                columns.push(Column { name: "w", kind: Kind::Hidden });
                select.targets.push(format!("{window} AS w"));
            }
            4 => {
                // All columns are shown, so the rows that stay are the same.
                select.order =
                    (1..=columns.len()).map(|position| Order { sql: position.to_string(), shown: None }).collect();
                let count = self.literal(Kind::Count, true);
                select.limit.push(format!("LIMIT {count}"));
            }
            0 => select.distinct = "DISTINCT ".into(),
            1 => select.group = (1..=columns.len()).map(|position| position.to_string()).collect(),
            2 => {
                select.group = (1..=columns.len()).map(|position| position.to_string()).collect();
                let aggregate = self.aggregate(&sources, depth, false);
                columns.push(Column { name: "w", kind: Kind::Hidden });
                select.targets.push(format!("{aggregate} AS w"));
            }
            _ => {}
        }
        (select.text(), columns)
    }

    fn rows(&mut self, select: &mut Select, sources: &[Source], depth: usize) {
        if self.random.chance(8) {
            select.targets.push(if self.random.chance(50) { "*".into() } else { format!("{}.*", sources[0].alias) });
            if self.random.chance(70) {
                return;
            }
        }
        for number in 0..1 + self.random.below(4) {
            let value = self.value(sources, depth);
            let named = self.random.chance(30);
            select.targets.push(if named { format!("{value} AS n{number}") } else { value });
        }
        if self.random.chance(8) {
            let window = self.window(sources, depth);
            select.targets.push(window);
        }
    }

    fn window(&mut self, sources: &[Source], depth: usize) -> String {
        let mut over = Vec::new();
        let key = sources.iter().find_map(|source| Some(format!("{}.{}", source.alias, key_of(source)?)));
        if let Some(key) = key
            && self.random.chance(80)
        {
            over.push(format!("PARTITION BY {key}"));
        }
        let unique = unique_of(sources);
        if let Some(unique) = &unique {
            over.push(format!("ORDER BY {}", unique.join(", ")));
        }
        let number = self.number(sources, depth + 1);
        let functions = match unique {
            Some(_) => {
                vec!["row_number()".to_owned(), "rank()".into(), format!("sum({number})"), format!("lag({number})")]
            }
            None => vec![format!("sum({number})"), "count(*)".into(), format!("max({number})")],
        };
        format!("{} OVER ({})", self.random.pick(&functions), over.join(" "))
    }

    fn distinct(&mut self, select: &mut Select, sources: &[Source], depth: usize) {
        self.rows(select, sources, depth);
        let key = sources.iter().find_map(|source| Some(format!("{}.{}", source.alias, key_of(source)?)));
        match (key, unique_of(sources)) {
            (Some(key), Some(unique)) if self.random.chance(20) && !select.targets[0].ends_with('*') => {
                select.distinct = format!("DISTINCT ON ({key}) ");
                let order = |sql: String| Order { sql, shown: None };
                select.order = std::iter::once(key).chain(unique).map(order).collect();
                select.total = true;
            }
            _ => select.distinct = "DISTINCT ".into(),
        }
    }

    fn grouped(&mut self, select: &mut Select, sources: &[Source], depth: usize) {
        for number in 0..self.random.below(3) {
            let value = self.value(sources, depth + 1);
            match self.random.below(6) {
                0 => {
                    select.targets.push(value);
                    select.group.push(select.targets.len().to_string());
                }
                1 => {
                    // An alias may be the name of a column, which GROUP BY then means.
                    let alias =
                        [["g", "name", "qty", "age"], ["h", "kind", "small", "no"]][number][self.random.below(4)];
                    select.targets.push(format!("{value} AS {alias}"));
                    select.group.push(alias.to_owned());
                }
                2 => select.group.push(value),
                _ => {
                    select.targets.push(value.clone());
                    select.group.push(value);
                }
            }
        }
        for _ in 0..1 + self.random.below(2) {
            let aggregate = self.aggregate(sources, depth + 1, true);
            let place = self.random.below(select.targets.len() + 1);
            if select.group.iter().any(|group| group.parse::<usize>().is_ok()) {
                select.targets.push(aggregate);
            } else {
                select.targets.insert(place, aggregate);
            }
        }
        if self.random.chance(25) {
            let having = self.having(sources, depth);
            select.having.push(having);
        }
    }

    fn having(&mut self, sources: &[Source], depth: usize) -> String {
        let left = self.aggregate(sources, depth + 1, true);
        let operator = self.operator();
        match self.random.below(8) {
            0 => format!("{left} IS NOT NULL"),
            1 => format!("NOT ({left} {operator} {})", self.literal(Kind::Int, true)),
            2 => {
                let right = self.aggregate(sources, depth + 1, true);
                format!("({left} {operator} {right} OR count(*) > {})", self.literal(Kind::Int, true))
            }
            3 => format!("count(*) {operator} {}", self.literal(Kind::Numeric, true)),
            _ => format!("{left} {operator} {}", self.literal(Kind::Int, true)),
        }
    }

    fn aggregate(&mut self, sources: &[Source], depth: usize, filter: bool) -> String {
        let any = self.value(sources, depth);
        let number = self.number(sources, depth);
        let call = match self.random.below(20) {
            0..4 => "count(*)".to_owned(),
            4 | 5 => format!("count({any})"),
            6 => match sources.iter().find_map(|source| Some(format!("{}.{}", source.alias, key_of(source)?))) {
                Some(key) if self.random.chance(60) => format!("count(DISTINCT {key})"),
                _ => format!("count(DISTINCT {any})"),
            },
            7..10 => format!("sum({number})"),
            10 | 11 => format!("avg({number})"),
            12 | 13 => format!("min({any})"),
            14 | 15 => format!("max({any})"),
            16 => format!("sum(DISTINCT {number})"),
            17 => format!("string_agg(({any})::text, ',' ORDER BY ({any})::text COLLATE \"C\")"),
            18 => format!("bool_and({})", self.condition(sources, depth + 1)),
            _ => format!("max(DISTINCT {number})"),
        };
        if filter && self.random.chance(12) {
            format!("{call} FILTER (WHERE {})", self.condition(sources, depth + 1))
        } else {
            call
        }
    }

    fn set_operation(&mut self, select: &mut Select, depth: usize) {
        let mut other = Select::default();
        let sources = self.from(&mut other, depth + 1);
        other.filters.push(self.key_condition(&sources));
        other.targets = select.targets.clone();
        let word = *self.random.pick(&["UNION", "UNION ALL", "INTERSECT", "EXCEPT"]);
        if self.random.chance(50) && select.group.is_empty() {
            // The same query with another condition.
            other.from = select.from.clone();
            other.filters = select.filters.iter().take(1).cloned().collect();
            other.operand = String::new();
        } else {
            select.targets = vec![self.number(&[], DEPTH_MAX), self.literal(Kind::Text, false)];
            select.group.clear();
            select.having.clear();
            other.targets = vec![self.number(&sources, DEPTH_MAX), self.literal(Kind::Text, false)];
        }
        other.with.clear();
        select.operand = format!(" {word} {}", other.text());
    }

    /// ORDER BY, LIMIT and OFFSET.
    fn order(&mut self, select: &mut Select, sources: &[Source], depth: usize) {
        if select.distinct.contains("ON") {
            return self.limit(select);
        }
        if self.random.chance(35) {
            return;
        }
        let grouped = !select.group.is_empty() || select.targets.iter().any(|target| is_aggregate(target));
        let star = select.targets[0].ends_with('*');
        for _ in 0..self.random.below(3) {
            let number = self.random.below(select.targets.len());
            let (sql, shown) = match self.random.below(4) {
                0 | 1 if !star => ((number + 1).to_string(), Some(number)),
                2 if !star => match select.targets[number].rsplit_once(" AS ") {
                    Some((_, alias)) => (alias.to_owned(), Some(number)),
                    None if select.distinct.is_empty() => (select.targets[number].clone(), Some(number)),
                    None => ((number + 1).to_string(), Some(number)),
                },
                _ if grouped => (self.aggregate(sources, depth + 1, false), None),
                _ if select.distinct.is_empty() => (self.value(sources, depth + 1), None),
                _ => continue,
            };
            // After an expression that is not shown, what is shown need not be in order.
            // The same literal may become another value where it is written again.
            let shown = shown.filter(|_| select.order.iter().all(|order| order.shown.is_some()) && !sql.contains(MARK));
            let sql = format!("{sql}{}", self.direction());
            select.order.push(Order { sql, shown });
        }
        let all_shown = !star && self.random.chance(70);
        if all_shown {
            for position in 1..=select.targets.len() {
                let sql = format!("{position}{}", self.direction());
                select.order.push(Order { sql, shown: None });
            }
            select.total = true;
        } else if let Some(unique) = unique_of(sources)
            && !grouped
            && select.distinct.is_empty()
        {
            select.order.extend(unique.into_iter().map(|sql| Order { sql, shown: None }));
            select.total = true;
        }
        if select.total {
            self.limit(select);
        }
    }

    fn limit(&mut self, select: &mut Select) {
        let count = |grammar: &mut Self| match grammar.random.below(12) {
            0 => "NULL".to_owned(),
            1 => "ALL".to_owned(),
            2 => grammar.literal(Kind::Negative, true),
            3 => format!("{}::int4", grammar.literal(Kind::Count, true)),
            _ => grammar.literal(Kind::Count, true),
        };
        let limit = count(self);
        let offset = count(self).replace("ALL", "0");
        let mut parts = match self.random.below(8) {
            0..3 => vec![format!("LIMIT {limit}")],
            3 => vec![format!("OFFSET {offset}")],
            4 => vec![format!("LIMIT {limit}"), format!("OFFSET {offset}")],
            5 => vec![format!("OFFSET {offset}"), format!("LIMIT {limit}")],
            _ => Vec::new(),
        };
        if let [only] = parts.as_mut_slice()
            && only.starts_with("LIMIT")
            && self.random.chance(10)
        {
            *only = format!("FETCH FIRST {} ROWS ONLY", self.random.below(9));
        }
        select.limit = parts;
    }

    fn direction(&mut self) -> &'static str {
        *self.random.pick::<&str>(&["", "", "", " DESC", " ASC", " NULLS FIRST", " DESC NULLS LAST"])
    }

    fn operator(&mut self) -> &'static str {
        *self.random.pick::<&str>(&["=", "<", ">", "<=", ">=", "<>"])
    }

    fn literal(&mut self, kind: Kind, plain: bool) -> String {
        self.literals.push(Literal { kind, plain });
        format!("{MARK}{}{MARK}", self.literals.len() - 1)
    }

    /// Some column for which `fits` holds, or any.
    fn column(&mut self, sources: &[Source], fits: impl Fn(Kind) -> bool) -> (String, Column) {
        let all = sources.iter().flat_map(|source| source.columns.iter().map(|column| (source.alias.clone(), *column)));
        let all: Vec<_> = all.collect();
        let fitting: Vec<_> = all.iter().filter(|(_, column)| fits(column.kind)).cloned().collect();
        self.random.pick(if fitting.is_empty() { &all } else { &fitting }).clone()
    }

    /// An expression of any type.
    fn value(&mut self, sources: &[Source], depth: usize) -> String {
        match self.random.below(12) {
            0 if depth < DEPTH_MAX => self.number(sources, depth),
            1 if depth < DEPTH_MAX => self.text(sources, depth),
            2 => match sources.iter().find_map(|source| Some(format!("{}.{}", source.alias, key_of(source)?))) {
                Some(key) => key,
                None => self.text(sources, depth),
            },
            3 if depth < DEPTH_MAX => format!("({})", self.condition(sources, depth + 1)),
            4 => {
                let kind = *self.random.pick(&[Kind::Int, Kind::Text, Kind::Date]);
                self.literal(kind, false)
            }
            _ => {
                let (source, column) = self.column(sources, |_| true);
                // A bare name is often enough.
                let alone = sources.iter().flat_map(|source| &source.columns).filter(|c| c.name == column.name).count();
                if alone == 1 && self.random.chance(30) {
                    column.name.into()
                } else {
                    format!("{source}.{}", column.name)
                }
            }
        }
    }

    /// An expression that is a number, and small.
    fn number(&mut self, sources: &[Source], depth: usize) -> String {
        if sources.is_empty() || self.random.chance(5) {
            return self.literal(Kind::Int, false);
        }
        let (source, column) = self.column(sources, Kind::is_small_number);
        if !column.kind.is_small_number() {
            return self.literal(Kind::Int, false);
        }
        let column = format!("{source}.{}", column.name);
        if depth >= DEPTH_MAX || self.random.chance(60) {
            return column;
        }
        let other = self.number(sources, depth + 1);
        match self.random.below(8) {
            0 => format!("({column} + {other})"),
            1 => format!("({column} * 2)"),
            2 => format!("-{column}"),
            3 => format!("coalesce({column}, {other})"),
            4 => format!("{column}::numeric"),
            5 => format!("CASE WHEN {} THEN {column} ELSE {other} END", self.condition(sources, depth + 1)),
            6 => self.count_of(sources, depth),
            7 if depth == 0 => self.greatest_of(sources, depth),
            _ => format!("abs({column})"),
        }
    }

    /// How many rows another table has, mostly for the same key.
    fn count_of(&mut self, sources: &[Source], depth: usize) -> String {
        match self.inner(sources, depth) {
            Some((from, filter, _)) => format!("(SELECT count(*) FROM {from} WHERE {filter})"),
            None => self.literal(Kind::Int, false),
        }
    }

    /// The greatest number of another table, mostly for the same key.
    fn greatest_of(&mut self, sources: &[Source], depth: usize) -> String {
        match self.inner(sources, depth) {
            Some((from, filter, key)) => {
                let alias = key.split('.').next().unwrap_or_default();
                let column = if from.starts_with("users") { "age" } else { "no" };
                format!("(SELECT max({alias}.{column}) FROM {from} WHERE {filter})")
            }
            None => self.literal(Kind::Int, false),
        }
    }

    /// A table with a condition, mostly on the key of the query around it, and a column of it.
    fn inner(&mut self, sources: &[Source], depth: usize) -> Option<(String, String, String)> {
        self.aliases += 1;
        let alias = format!("t{}", self.aliases);
        let table = self.table();
        let source =
            Source { name: table.name, alias: alias.clone(), columns: table.columns.clone(), unique: Vec::new() };
        let outer = sources.iter().filter_map(|source| Some(format!("{}.{}", source.alias, key_of(source)?)));
        let outer: Vec<String> = outer.collect();
        let mut filter = match (key_of(&source), outer.is_empty()) {
            (Some(key), false) if self.random.chance(85) => format!("{alias}.{key} = {}", self.random.pick(&outer)),
            (Some(key), _) if self.random.chance(50) => format!("{alias}.{key} = {}", self.literal(Kind::Key, true)),
            _ => "true".to_owned(),
        };
        if self.random.chance(30) {
            filter.push_str(&format!(" AND {}", self.condition(std::slice::from_ref(&source), depth + 1)));
        }
        let key = key_of(&source)?;
        Some((format!("{} AS {alias}", table.name), filter, format!("{alias}.{key}")))
    }

    fn text(&mut self, sources: &[Source], depth: usize) -> String {
        let (source, column) = self.column(sources, Kind::is_text);
        let value = match column.kind.is_text() {
            true => format!("{source}.{}", column.name),
            false => format!("{source}.{}::text", column.name),
        };
        if depth >= DEPTH_MAX || self.random.chance(40) {
            return value;
        }
        match self.random.below(8) {
            0 => format!("lower({value})"),
            1 => format!("{value} || {}", self.literal(Kind::Text, false)),
            2 => format!("coalesce({value}, {})", self.literal(Kind::Text, false)),
            3 => format!("({value} COLLATE \"C\")"),
            4 => format!("substr({value}, 1, 2)"),
            5 if self.tables.languages => format!("{value}::soft_text"),
            6 if self.tables.languages => format!("({value} COLLATE \"en-x-icu\")"),
            _ => format!("(SELECT max({value}))"),
        }
    }

    /// A condition that limits a key to values.
    fn key_condition(&mut self, sources: &[Source]) -> String {
        let keys = sources.iter().filter_map(|source| Some(format!("{}.{}", source.alias, key_of(source)?)));
        let keys: Vec<String> = keys.collect();
        if keys.is_empty() {
            return "true".into();
        }
        let key = self.random.pick(&keys).clone();
        let mut one = || self.literal(Kind::Key, true);
        let (a, b, c) = (one(), one(), one());
        match self.random.below(16) {
            0..4 => format!("{key} = {a}"),
            10 => format!("({key}, {key}) = ({a}, {b})"),
            11 => format!("({key}, 1) IN (({a}, 1), ({b}, 1))"),
            12 => format!("{key} NOT IN ({a}, {b})"),
            13 => format!("{key} >= {a} AND {key} <= {b}"),
            14 => format!("({key} = {a} AND {key} = {b})"),
            15 => format!("{key}::text = {}::text", self.literal(Kind::Key, false)),
            4 => format!("{a} = {key}"),
            5 => format!("{key} IN ({a}, {b}, {c})"),
            6 => format!("({key} = {a} OR {key} = {b})"),
            8 => format!("{key} = ANY ({})", self.literal(Kind::Keys, true)),
            9 => format!("{key} = ANY ({})", self.literal(Kind::Keys, false)),
            7 => format!("{key} = ANY (ARRAY[{}, {}])", self.literal(Kind::Key, false), self.literal(Kind::Key, false)),
            _ => format!("{key} = {}", self.literal(Kind::Key, false)),
        }
    }

    fn condition(&mut self, sources: &[Source], depth: usize) -> String {
        let (source, column) = self.column(sources, |kind| kind != Kind::Hidden);
        let name = format!("{source}.{}", column.name);
        let kind = if column.kind == Kind::Hidden { return format!("{name} IS NOT NULL") } else { column.kind };
        let operator = self.operator();
        match self.random.below(16) {
            0 => format!("{name} IS NULL"),
            1 => format!("{name} IS NOT NULL"),
            2 if depth < DEPTH_MAX => {
                format!("({} OR {})", self.condition(sources, depth + 1), self.condition(sources, depth + 1))
            }
            3 if depth < DEPTH_MAX => format!("NOT ({})", self.condition(sources, depth + 1)),
            4 => format!("{name} IN ({}, {})", self.literal(kind, true), self.literal(kind, true)),
            5 => format!("{name} BETWEEN {} AND {}", self.literal(kind, true), self.literal(kind, true)),
            6 => format!("{name} NOT IN ({}, {})", self.literal(kind, true), self.literal(kind, true)),
            7 => format!("{name} IS DISTINCT FROM {}", self.literal(kind, true)),
            8 | 9 if depth < DEPTH_MAX => self.subquery(sources, depth),
            12 => format!("{source} IS NULL"),
            13 if depth < DEPTH_MAX => format!("{name} IS NOT NULL AND {}", self.condition(sources, depth + 1)),
            10 => {
                let number = self.number(sources, depth + 1);
                format!("{number} {operator} {}", self.literal(Kind::Int, true))
            }
            11 => self.key_condition(sources),
            _ => format!("{name} {operator} {}", self.literal(kind, true)),
        }
    }

    /// EXISTS, IN, NOT IN over another table.
    fn subquery(&mut self, sources: &[Source], depth: usize) -> String {
        let outer = sources.iter().filter_map(|source| Some(format!("{}.{}", source.alias, key_of(source)?)));
        let outer: Vec<String> = outer.collect();
        let Some((from, filter, key)) = self.inner(sources, depth + 1) else { return "true".into() };
        let not = if self.random.chance(30) { "NOT " } else { "" };
        if outer.is_empty() || self.random.chance(50) {
            return format!("{not}EXISTS (SELECT 1 FROM {from} WHERE {filter})");
        }
        let test = self.random.pick(&outer).clone();
        let filter = if self.random.chance(50) { "true".to_owned() } else { filter };
        format!("{test} {not}IN (SELECT {key} FROM {from} WHERE {filter})")
    }
}

fn key_of(source: &Source) -> Option<&'static str> {
    source.columns.iter().find(|column| column.kind == Kind::Key).map(|column| column.name)
}

/// What tells the rows of a join apart; `None` when nothing does.
fn unique_of(sources: &[Source]) -> Option<Vec<String>> {
    let mut unique = Vec::new();
    for source in sources {
        if source.unique.is_empty() {
            return None;
        }
        unique.extend(source.unique.iter().map(|name| format!("{}.{name}", source.alias)));
    }
    Some(unique)
}

fn is_aggregate(target: &str) -> bool {
    ["count(", "sum(", "avg(", "min(", "max(", "string_agg(", "bool_and("].iter().any(|name| target.starts_with(name))
}
