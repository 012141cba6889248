//! Random statements over the tables of [`super::data`]: what follows SELECT, and what is joined.

use super::data::{Column, Kind, Table, Tables};
use super::random::Random;
use super::select::{EXACT, Literal, MARK, Order, RECURSIVE, Select};

/// One entry of FROM.
#[derive(Clone)]
pub(super) struct Source {
    /// Of a table.
    pub(super) name: &'static str,
    pub(super) alias: String,
    pub(super) columns: Vec<Column>,
    /// Columns that tell its rows apart; empty when nothing does.
    pub(super) unique: Vec<&'static str>,
}

/// Makes statements.
pub(super) struct Grammar<'a> {
    pub(super) tables: &'a Tables,
    pub(super) random: &'a mut Random,
    pub(super) literals: Vec<Literal>,
    pub(super) aliases: usize,
}

/// How expressions over aggregates begin.
const OVER_AGGREGATES: [&str; 5] =
    ["coalesce(sum(", "round(avg(", "CASE WHEN count(", "greatest(sum(", "nullif(count("];

/// Expressions and statements go only so deep.
pub(super) const DEPTH_MAX: usize = 2;

impl<'a> Grammar<'a> {
    pub(super) fn new(tables: &'a Tables, random: &'a mut Random) -> Self {
        Self { tables, random, literals: Vec::new(), aliases: 0 }
    }

    /// A whole statement.
    pub(super) fn statement(mut self) -> Select {
        let mut select = self.select(0);
        select.literals = self.literals;
        select
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
        for joined in 0..[0, 0, 0, 1, 1, 2][self.random.below(6)] {
            if joined == 1 && self.random.chance(15) && select.from.iter().all(|entry| !entry.starts_with(',')) {
                select.from = vec![format!("({})", select.from.join(" "))];
            }
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
        if depth < DEPTH_MAX && self.random.chance(3) {
            return self.recursive(select, alias, depth);
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

    pub(super) fn table(&mut self) -> &'a Table {
        let tables: &'a Tables = self.tables;
        let stored = tables.stored();
        match self.random.below(22) {
            0 | 1 => &tables.list[3],
            2..4 => &tables.list[stored + self.random.below(tables.list.len() - stored)],
            more => &tables.list[more % 3],
        }
    }

    /// A CTE that reads itself.
    fn recursive(&mut self, select: &mut Select, alias: String, depth: usize) -> Source {
        let (first, next) = (self.random.below(3), self.random.below(3));
        let (first, next) = (&self.tables.list[first], &self.tables.list[next]);
        let (from, to) = (first.columns[0].name, next.columns[0].name);
        let source = Source { name: first.name, alias: "a".into(), columns: first.columns.clone(), unique: Vec::new() };
        let filter = self.condition(std::slice::from_ref(&source), depth + 1);
        let operator = *self.random.pick(&["=", "=", "<"]);
        let name = format!("{RECURSIVE}{alias}");
        select.with.push(format!(
            "{name} (user_id, no) AS (SELECT a.{from}, 1 FROM {} AS a WHERE {filter} \
             UNION SELECT b.{to}, r.no + 1 FROM {name} AS r JOIN {} AS b ON r.user_id {operator} b.{to} AND r.no < 3)",
            first.name, next.name
        ));
        select.from.push(format!("{name} AS {alias}"));
        let columns = vec![Column { name: "user_id", kind: Kind::Key }, Column { name: "no", kind: Kind::Int }];
        Source { name: "", alias, columns, unique: vec!["user_id", "no"] }
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
            (_, Some(unique)) if self.random.chance(40) && !select.targets[0].ends_with('*') => {
                let columns: Vec<String> = (0..1 + self.random.below(2))
                    .map(|_| {
                        let (source, column) = self.column(sources, |kind| kind != Kind::Hidden);
                        format!("{source}.{}", column.name)
                    })
                    .collect();
                select.distinct = format!("DISTINCT ON ({}) ", columns.join(", "));
                let directed = columns.into_iter().map(|column| format!("{column}{}", self.direction()));
                select.order = directed.chain(unique).map(|sql| Order { sql, shown: None }).collect();
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
            let aggregate =
                if self.random.chance(20) { self.over_aggregates(&aggregate, sources, depth) } else { aggregate };
            let place = self.random.below(select.targets.len() + 1);
            if select.group.iter().any(|group| group.parse::<usize>().is_ok()) {
                select.targets.push(aggregate);
            } else {
                select.targets.insert(place, aggregate);
            }
        }
        if self.random.chance(5) {
            let windows = ["sum(count(*)) OVER ()", "rank() OVER (ORDER BY count(*))"];
            select.targets.push((*self.random.pick(&windows)).to_owned());
        }
        if self.random.chance(8) && !select.group.is_empty() {
            let all = select.group.join(", ");
            select.group = vec![match self.random.below(3) {
                0 => format!("ROLLUP ({all})"),
                1 => format!("CUBE ({all})"),
                _ => format!("GROUPING SETS (({all}), ({}), ())", select.group[0]),
            }];
        }
        if self.random.chance(25) {
            let having = self.having(sources, depth);
            select.having.push(having);
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
        // PostgreSQL takes columns for equal, and for constant, that grouping sets have made NULL, and orders by one of them only.
        let in_sets = ["ROLLUP (", "CUBE (", "GROUPING SETS ("]
            .iter()
            .any(|word| select.group.iter().any(|group| group.starts_with(word)));
        if in_sets || self.random.chance(35) {
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
        } else if !select.order.is_empty() && self.random.chance(25) {
            // All rows that are equal to the last one are shown, so any order will do.
            let count = match self.random.below(2) {
                0 => self.random.below(9).to_string(),
                _ => format!("({})", self.literal(Kind::Count, true)),
            };
            select.limit = vec![format!("FETCH FIRST {count} ROWS WITH TIES")];
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
}

pub(super) fn key_of(source: &Source) -> Option<&'static str> {
    source.columns.iter().find(|column| column.kind == Kind::Key).map(|column| column.name)
}

/// What tells the rows of a join apart; `None` when nothing does.
pub(super) fn unique_of(sources: &[Source]) -> Option<Vec<String>> {
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
    if OVER_AGGREGATES.iter().any(|start| target.starts_with(start)) {
        return true;
    }
    let other = ["min(", "max(", "string_agg(", "bool_and(", "bool_or(", "every(", "bit_and(", "bit_or(", "bit_xor("];
    EXACT.iter().chain(&other).any(|name| target.starts_with(name))
}
