//! The tables that generated statements read, and the values in them: few, so that many are equal,
//! and at the ends of their types.

use super::random::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The sharding key, of the run's type.
    Key,
    /// An array of keys.
    Keys,
    /// The key of the reference table.
    Plan,
    Small,
    Int,
    Big,
    Numeric,
    Money,
    Real,
    Float,
    /// Doubles up to the largest; never added.
    Wild,
    Text,
    /// Text in a language's order.
    Word,
    /// Text where unlike strings are equal.
    Soft,
    Tag,
    Code,
    Bool,
    Date,
    Stamp,
    Zoned,
    Time,
    Span,
    Uuid,
    Bytes,
    /// An enum.
    Mood,
    /// A domain over integers.
    Grade,
    /// Of a composite type.
    Pair,
    /// An array of integers.
    List,
    /// What an aggregate gave; of no known type.
    Hidden,
    /// A number of rows.
    Count,
    /// A number of rows that is none.
    Negative,
}

#[derive(Clone, Copy)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: Vec<Column>,
    pub(super) unique: Vec<&'static str>,
    pub(super) rows: usize,
    /// What it shows, if it is a view.
    pub(super) view: Option<&'static str>,
}

pub(super) struct Tables {
    key: &'static str,
    /// The server knows ICU collations.
    pub(super) languages: bool,
    /// Three sharded tables and a reference table, and views over them.
    pub(super) list: Vec<Table>,
}

impl Kind {
    pub(super) fn is_small_number(self) -> bool {
        matches!(self, Self::Small | Self::Int | Self::Numeric | Self::Money | Self::Real | Self::Float)
    }

    pub(super) fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Word | Self::Soft | Self::Tag | Self::Code)
    }
}

fn columns(list: &[(&'static str, Kind)]) -> Vec<Column> {
    list.iter().map(|(name, kind)| Column { name, kind: *kind }).collect()
}

/// Views whose rows are each of one shard, and views that put rows of all shards together.
fn views(items: Vec<Column>) -> Vec<Table> {
    use Kind::*;
    let young = columns(&[("id", Key), ("age", Int), ("name", Text), ("flag", Bool), ("plan_id", Plan)]);
    let sums = columns(&[("user_id", Key), ("no", Big), ("price", Numeric)]);
    let kinds = columns(&[("kind", Text), ("no", Big), ("qty", Big)]);
    let pairs = columns(&[("user_id", Key), ("no", Int), ("score", Float), ("name", Text), ("mine", Bool)]);
    let over = columns(&[("kind", Text), ("user_id", Key), ("no", Int), ("name", Text)]);
    let view = |name, columns, unique, query| Table { name, columns, unique, rows: 0, view: Some(query) };
    vec![
        view("young", young, vec!["id"], "SELECT id, age, name, flag, plan_id FROM users WHERE age > 0"),
        view(
            "sums",
            sums,
            vec!["user_id"],
            "SELECT user_id, count(*) AS no, max(price) AS price FROM orders GROUP BY user_id",
        ),
        view("kinds", kinds, vec!["kind"], "SELECT kind, count(*) AS no, sum(qty) AS qty FROM orders GROUP BY kind"),
        view("first_items", items, vec!["user_id", "no"], "SELECT * FROM items ORDER BY user_id, no LIMIT 9"),
        view(
            "pairs",
            pairs,
            vec!["user_id", "no"],
            "SELECT u.id AS user_id, o.no, o.score, p.name, u.seen < now() AS mine FROM users u \
             LEFT JOIN orders o ON o.user_id = u.id AND o.qty > 0 LEFT JOIN plans p ON p.plan_id = u.plan_id",
        ),
        view(
            "over_all",
            over,
            Vec::new(),
            "SELECT k.kind, p.user_id, p.no, p.name FROM kinds k JOIN pairs p ON p.no = k.no",
        ),
    ]
}

impl Tables {
    pub(super) fn new(random: &mut Random, languages: bool) -> Self {
        use Kind::*;
        let key = random.pick(&["bigint", "bigint", "integer", "smallint", "text", "varchar(5)", "uuid"]);
        let users = columns(&[
            ("id", Key),
            ("age", Int),
            ("small", Small),
            ("big", Big),
            ("name", Text),
            ("word", Word),
            ("soft", Soft),
            ("tag", Tag),
            ("code", Code),
            ("flag", Bool),
            ("born", Date),
            ("seen", Zoned),
            ("wild", Wild),
            ("plan_id", Plan),
        ]);
        let orders = columns(&[
            ("user_id", Key),
            ("no", Int),
            ("plan_id", Plan),
            ("qty", Int),
            ("price", Numeric),
            ("cost", Money),
            ("kind", Text),
            ("made", Stamp),
            ("at", Time),
            ("score", Float),
            ("grade", Grade),
            ("list", List),
        ]);
        let items = columns(&[
            ("user_id", Key),
            ("no", Int),
            ("ratio", Real),
            ("score", Float),
            ("span", Span),
            ("ref", Uuid),
            ("raw", Bytes),
            ("label", Tag),
            ("name", Word),
            ("mood", Mood),
            ("pair", Pair),
        ]);
        let plans = columns(&[("plan_id", Plan), ("name", Text), ("fee", Numeric), ("title", Word)]);
        let table = |name, columns, unique, rows| Table { name, columns, unique, rows, view: None };
        let mut list = vec![
            table("users", users, vec!["id"], 14),
            table("orders", orders, vec!["user_id", "no"], 40),
            table("items", items.clone(), vec!["user_id", "no"], 25),
            table("plans", plans, vec!["plan_id"], 4),
        ];
        list.extend(views(items));
        Self { key, languages, list }
    }

    /// How many of the list are no views.
    pub(super) fn stored(&self) -> usize {
        self.list.iter().filter(|table| table.view.is_none()).count()
    }

    pub(super) fn is_reference(table: &Table) -> bool {
        table.name == "plans"
    }

    /// What must be there before the tables.
    pub(super) fn types(&self) -> Vec<&'static str> {
        let mut types = vec![
            "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')",
            "CREATE DOMAIN grade AS integer CHECK (value > 0)",
            "CREATE TYPE pair AS (a integer, b text)",
        ];
        if self.languages {
            types.extend([
                "CREATE COLLATION soft (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
                "CREATE DOMAIN soft_text AS text COLLATE soft",
            ]);
        }
        types
    }

    pub(super) fn create(&self, table: &Table) -> String {
        if let Some(query) = table.view {
            return format!("CREATE VIEW {} AS {query}", table.name);
        }
        let columns = table.columns.iter().map(|column| {
            let null = if table.unique.contains(&column.name) { " NOT NULL" } else { "" };
            format!("{} {}{}{null}", column.name, self.type_name(column.kind), self.collation(column.kind))
        });
        let columns: Vec<String> = columns.collect();
        format!("CREATE TABLE {} ({}, PRIMARY KEY ({}))", table.name, columns.join(", "), table.unique.join(", "))
    }

    fn collation(&self, kind: Kind) -> &'static str {
        match kind {
            Kind::Word if self.languages => " COLLATE \"en-x-icu\"",
            Kind::Soft if self.languages => " COLLATE soft",
            _ => "",
        }
    }

    pub(super) fn type_name(&self, kind: Kind) -> &'static str {
        match kind {
            Kind::Key => self.key,
            Kind::Keys => match self.key {
                "bigint" => "bigint[]",
                "integer" => "integer[]",
                "smallint" => "smallint[]",
                "uuid" => "uuid[]",
                _ => "text[]",
            },
            Kind::Small => "smallint",
            Kind::Int | Kind::Plan => "integer",
            Kind::Big | Kind::Count | Kind::Negative => "bigint",
            Kind::Numeric => "numeric",
            Kind::Money => "numeric(10,2)",
            Kind::Real => "real",
            Kind::Float | Kind::Wild => "double precision",
            Kind::Text | Kind::Word | Kind::Soft | Kind::Hidden => "text",
            Kind::Tag => "varchar(6)",
            Kind::Code => "char(4)",
            Kind::Bool => "boolean",
            Kind::Date => "date",
            Kind::Stamp => "timestamp",
            Kind::Zoned => "timestamptz",
            Kind::Time => "time",
            Kind::Span => "interval",
            Kind::Uuid => "uuid",
            Kind::Bytes => "bytea",
            Kind::Mood => "mood",
            Kind::Grade => "grade",
            Kind::Pair => "pair",
            Kind::List => "integer[]",
        }
    }

    /// Whether literals of this kind need no quotes.
    pub(super) fn is_number(&self, kind: Kind) -> bool {
        match kind {
            Kind::Key => matches!(self.key, "bigint" | "integer" | "smallint"),
            Kind::Small | Kind::Int | Kind::Plan | Kind::Big | Kind::Numeric | Kind::Money => true,
            Kind::Count | Kind::Negative => true,
            _ => false,
        }
    }

    /// A value, now and then NULL.
    pub(super) fn value(&self, kind: Kind, random: &mut Random) -> Option<String> {
        let never = matches!(kind, Kind::Count | Kind::Negative);
        (never || !random.chance(if kind == Kind::Key { 2 } else { 10 })).then(|| self.some(kind, random))
    }

    fn some(&self, kind: Kind, random: &mut Random) -> String {
        let values: &[&str] = match kind {
            Kind::Key => return self.key(random.below(14)),
            Kind::Keys => {
                let element = |random: &mut Random| match self.value(Kind::Key, random) {
                    None => "NULL".to_owned(),
                    Some(key) => format!("\"{}\"", key.replace('\\', "\\\\")),
                };
                let elements: Vec<String> = (0..random.below(4)).map(|_| element(random)).collect();
                return format!("{{{}}}", elements.join(","));
            }
            Kind::Plan => &["1", "2", "3", "4"],
            Kind::Small => &["0", "1", "-7", "50"],
            Kind::Int => &["0", "1", "2", "3", "5", "-4", "100"],
            Kind::Big => &["0", "9223372036854775807", "-9223372036854775808", "4294967296", "7"],
            Kind::Numeric => &["0", "1", "1.0", "1.00", "-2.5", "0.001", "123456789.123456789", "10000", "99.9950"],
            Kind::Money => &["0.00", "1.10", "-3.35", "99999.99", "7"],
            Kind::Real => &["0", "-0", "1.5", "-2.25", "0.125", "NaN"],
            Kind::Float => &["0", "-0", "1.5", "-2.25", "1024", "NaN", "Infinity"],
            Kind::Wild => &["NaN", "-Infinity", "Infinity", "1e300", "-0", "0", "5e-324", "0.1"],
            Kind::Text => &["", "a", "A", "b", "ab", "Ä", "z", "a b", "o'x", "日本"],
            Kind::Word | Kind::Soft | Kind::Hidden => &["", "a", "A", "b", "B", "ä", "z", "ab", "AB"],
            Kind::Tag => &["", "x", "x ", "X", "yy", "tag"],
            Kind::Code => &["", "a", "a ", "ab", "ABCD"],
            Kind::Bool => &["true", "false"],
            Kind::Date => &["2024-02-29", "1999-12-31", "0001-01-01 BC", "infinity", "-infinity", "2024-03-01"],
            Kind::Stamp => &["2024-02-29 12:00:00", "2024-02-29 12:00:00.000001", "infinity", "1970-01-01"],
            Kind::Zoned => &["2024-02-29 12:00:00+02", "2024-02-29 10:00:00+00", "-infinity", "1970-01-01 UTC"],
            Kind::Time => &["00:00:00", "24:00:00", "12:34:56.789"],
            Kind::Span => &["1 month", "-1 day", "1 hour", "00:00:00.000001"],
            Kind::Uuid => &["00000000-0000-0000-0000-000000000000", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
            Kind::Bytes => &["\\x", "\\x00", "\\x00ff", "\\xff"],
            Kind::Mood => &["sad", "ok", "happy"],
            Kind::Grade => &["1", "2", "5"],
            Kind::Pair => &["(1,a)", "(1,)", "(,)", "(2,\"x y\")"],
            Kind::List => &["{}", "{1}", "{1,2}", "{NULL,1}", "{2}"],
            Kind::Count => &["0", "1", "3", "10", "9223372036854775807"],
            Kind::Negative => &["-1", "2", "4"],
        };
        (*random.pick(values)).to_owned()
    }

    fn key(&self, number: usize) -> String {
        match self.key {
            "bigint" | "integer" | "smallint" => {
                let ends = match self.key {
                    "bigint" => ["9223372036854775807", "-9223372036854775808"],
                    "integer" => ["2147483647", "-2147483648"],
                    _ => ["32767", "-32768"],
                };
                ends.get(number).map_or_else(|| (number.cast_signed() - 3).to_string(), |end| (*end).to_owned())
            }
            "uuid" => format!("a0eebc99-9c0b-4ef8-bb6d-{number:012x}"),
            "varchar(5)" => {
                ["", "a", "a ", "A", "b", "abcde", "Ä", "ab", " a", "cd     ", "e", "f", "g", "abcd "][number].into()
            }
            _ => ["", "a", "a ", "A", "b", "abcde", "Ä", "ab", " a", "cd", "e", "o'x", "日本", "\\N"][number].into(),
        }
    }

    /// One statement for each row of a table.
    pub(super) fn inserts(&self, table: &Table, random: &mut Random) -> Vec<String> {
        let mut statements = Vec::new();
        let mut taken = std::collections::HashSet::new();
        for _ in 0..table.rows {
            let value = |column: &Column, random: &mut Random| {
                let value = match table.unique.contains(&column.name) {
                    true => Some(self.some(column.kind, random)),
                    false => self.value(column.kind, random),
                };
                match value {
                    None => "NULL".to_owned(),
                    Some(value) if self.is_number(column.kind) => value,
                    Some(value) => format!("'{}'", value.replace('\'', "''")),
                }
            };
            let values: Vec<String> = table.columns.iter().map(|column| value(column, random)).collect();
            if taken.insert(values[..table.unique.len()].to_vec()) {
                statements.push(format!("INSERT INTO {} VALUES ({})", table.name, values.join(", ")));
            }
        }
        statements
    }
}
