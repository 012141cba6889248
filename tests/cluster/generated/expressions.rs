//! Random expressions and conditions.

use super::data::{Column, Kind};
use super::grammar::{DEPTH_MAX, Grammar, Source, key_of, unique_of};
use super::select::{Literal, MARK};

impl Grammar<'_> {
    pub(super) fn window(&mut self, sources: &[Source], depth: usize) -> String {
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

    pub(super) fn having(&mut self, sources: &[Source], depth: usize) -> String {
        let left = self.aggregate(sources, depth + 1, true);
        let left = if self.random.chance(20) { self.over_aggregates(&left, sources, depth) } else { left };
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

    /// What is made of an aggregate, or of others.
    pub(super) fn over_aggregates(&mut self, aggregate: &str, sources: &[Source], depth: usize) -> String {
        let number = self.number(sources, depth + 1);
        match self.random.below(7) {
            0 | 1 => format!("coalesce(sum({number}), 0)"),
            2 => format!("sum({number}) / nullif(count(*), 0)"),
            3 => format!("round(avg({number}), 2)"),
            4 => format!("CASE WHEN count(*) > 2 THEN {aggregate} END"),
            5 => format!("greatest(sum({number}), count(*))"),
            _ => format!("nullif(count(*) * 2 + 1, count({number}))"),
        }
    }

    pub(super) fn aggregate(&mut self, sources: &[Source], depth: usize, filter: bool) -> String {
        let any = self.value(sources, depth);
        let number = self.number(sources, depth);
        let call = match self.random.below(27) {
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
            17 => format!("string_agg(DISTINCT ({any})::text COLLATE \"C\", ',')"),
            18 | 19 => {
                let function = *self.random.pick(&["bool_and", "bool_or", "every"]);
                format!("{function}({})", self.condition(sources, depth + 1))
            }
            20 | 21 => {
                let function = *self.random.pick(&["variance", "var_samp", "var_pop", "stddev", "stddev_pop"]);
                format!("{function}({number})")
            }
            22 | 23 => format!("count(DISTINCT {any})"),
            24 | 25 => {
                let function = *self.random.pick(&["bit_and", "bit_or", "bit_xor"]);
                let (source, column) = self.column(sources, |kind| matches!(kind, Kind::Small | Kind::Int | Kind::Big));
                match column.kind {
                    Kind::Small | Kind::Int | Kind::Big => format!("{function}({source}.{})", column.name),
                    _ => format!("{function}(length({source}.{}::text))", column.name),
                }
            }
            _ => format!("max(DISTINCT {number})"),
        };
        if filter && self.random.chance(12) {
            format!("{call} FILTER (WHERE {})", self.condition(sources, depth + 1))
        } else {
            call
        }
    }

    pub(super) fn direction(&mut self) -> &'static str {
        self.random.pick::<&str>(&["", "", "", " DESC", " ASC", " NULLS FIRST", " DESC NULLS LAST"])
    }

    pub(super) fn operator(&mut self) -> &'static str {
        self.random.pick::<&str>(&["=", "<", ">", "<=", ">=", "<>"])
    }

    pub(super) fn literal(&mut self, kind: Kind, plain: bool) -> String {
        self.literals.push(Literal { kind, plain });
        format!("{MARK}{}{MARK}", self.literals.len() - 1)
    }

    /// Some column for which `fits` holds, or any.
    pub(super) fn column(&mut self, sources: &[Source], fits: impl Fn(Kind) -> bool) -> (String, Column) {
        let all = sources.iter().flat_map(|source| source.columns.iter().map(|column| (source.alias.clone(), *column)));
        let all: Vec<_> = all.collect();
        let fitting: Vec<_> = all.iter().filter(|(_, column)| fits(column.kind)).cloned().collect();
        self.random.pick(if fitting.is_empty() { &all } else { &fitting }).clone()
    }

    /// An expression of any type.
    pub(super) fn value(&mut self, sources: &[Source], depth: usize) -> String {
        if self.random.chance(2) {
            let clocks = ["(now() > '2000-01-01')", "(CURRENT_DATE = now()::date)", "(CURRENT_TIMESTAMP - now())"];
            return (*self.random.pick(&clocks)).to_owned();
        }
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
    pub(super) fn number(&mut self, sources: &[Source], depth: usize) -> String {
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
    pub(super) fn count_of(&mut self, sources: &[Source], depth: usize) -> String {
        match self.inner(sources, depth) {
            Some((from, filter, _)) => format!("(SELECT count(*) FROM {from} WHERE {filter})"),
            None => self.literal(Kind::Int, false),
        }
    }

    /// The greatest number of another table, mostly for the same key.
    pub(super) fn greatest_of(&mut self, sources: &[Source], depth: usize) -> String {
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
    pub(super) fn inner(&mut self, sources: &[Source], depth: usize) -> Option<(String, String, String)> {
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

    pub(super) fn text(&mut self, sources: &[Source], depth: usize) -> String {
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
    pub(super) fn key_condition(&mut self, sources: &[Source]) -> String {
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

    pub(super) fn condition(&mut self, sources: &[Source], depth: usize) -> String {
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
            14 if matches!(kind, Kind::Date | Kind::Stamp | Kind::Zoned) => {
                let clocks = ["now()", "CURRENT_DATE", "LOCALTIMESTAMP(0)", "(CURRENT_TIMESTAMP - interval '1 day')"];
                format!("{name} {operator} {}", self.random.pick(&clocks))
            }
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
    pub(super) fn subquery(&mut self, sources: &[Source], depth: usize) -> String {
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
