//! Random statements that write: rows of all shards, of copies and of a table that one shard has.
//!
//! What PostgreSQL leaves open is not written: which of several matches an UPDATE takes, which of two rows comes first where the other
//! one conflicts with it.

use super::data::{Column, Kind, Table};
use super::grammar::{DEPTH_MAX, Grammar, Source, key_of, unique_of};

/// A statement with marks for its literals.
#[derive(Clone)]
pub(super) struct Write {
    pub(super) sql: String,
    /// The table it writes.
    pub(super) table: &'static str,
    /// Its rows come back in the order in which they are written.
    pub(super) in_order: bool,
}

/// The table that one shard has: `no`, `note`, and a key that says nothing of where its rows are.
pub(super) const LOCAL: &str = "audit_log";

impl Grammar<'_> {
    pub(super) fn write(&mut self) -> Write {
        let (table, sql) = match self.random.below(52) {
            0..9 => return self.insert_values(),
            9..17 => self.insert_select(),
            17..24 => self.update(),
            24..27 => self.update_key(),
            27..32 => self.delete(),
            32..35 => self.merge(),
            35..38 => self.reference(),
            38 => self.local(),
            39..43 => self.notes(),
            43..47 => self.through_view(),
            _ => self.within_query(),
        };
        Write { sql, table, in_order: false }
    }

    fn sharded(&mut self) -> &Table {
        &self.tables.list[self.random.below(3)]
    }

    /// The table that is written, as expressions see it.
    fn target(&mut self) -> Source {
        let alias = if self.random.chance(30) { "t".to_owned() } else { String::new() };
        let table = self.sharded();
        let alias = if alias.is_empty() { table.name.to_owned() } else { alias };
        Source { name: table.name, alias, columns: table.columns.clone(), unique: table.unique.clone() }
    }

    fn returning(&mut self, sources: &[Source]) -> String {
        match self.random.below(10) {
            0 => " RETURNING *".to_owned(),
            1 => format!(" RETURNING {}.*", sources[0].alias),
            2..5 => {
                let mut shown = unique_of(&sources[..1]).unwrap_or_default();
                shown.push(self.value(sources, DEPTH_MAX));
                if self.random.chance(20) {
                    shown.push(self.number(sources, 1));
                }
                format!(" RETURNING {}", shown.join(", "))
            }
            _ => String::new(),
        }
    }

    /// The columns that an INSERT fills: those that tell rows apart, and others.
    fn filled(&mut self, table: &Source) -> Vec<Column> {
        let mut columns: Vec<Column> = Vec::new();
        for column in &table.columns {
            if table.unique.contains(&column.name) || self.random.chance(35) {
                columns.push(*column);
            }
        }
        if self.random.chance(15) {
            columns.reverse();
        }
        columns
    }

    fn insert_values(&mut self) -> Write {
        let target = self.target();
        let columns = self.filled(&target);
        let rows = *self.random.pick(&[1, 2, 2, 3, 4, 5, 8, 20, 30, 60]);
        // Many rows go to their shards as arrays if all values are plain.
        let is_plain = rows > 8 && self.random.chance(75);
        let rows: Vec<String> = (0..rows)
            .map(|_| {
                let values: Vec<String> = columns.iter().map(|column| self.given(*column, is_plain)).collect();
                format!("({})", values.join(", "))
            })
            .collect();
        let alias = if target.alias == target.name { String::new() } else { format!(" AS {}", target.alias) };
        let conflict = self.conflict(&target, &columns);
        let returning = self.returning(std::slice::from_ref(&target));
        let sql = format!(
            "INSERT INTO {}{alias} ({}) VALUES {}{conflict}{returning}",
            target.name,
            names(&columns),
            rows.join(", ")
        );
        Write { sql, table: target.name, in_order: conflict.is_empty() }
    }

    /// What VALUES gives for a column.
    fn given(&mut self, column: Column, is_plain: bool) -> String {
        match (column.kind, self.random.below(12)) {
            (Kind::Int, 2..) if is_plain && column.name == "no" => self.random.below(3000).to_string(),
            (kind, _) if is_plain => self.literal(kind, true),
            (Kind::Key, 0) if self.random.chance(20) => self.literal(Kind::Key, false),
            (Kind::Key, _) => self.literal(Kind::Key, true),
            // Hardly ever NULL.
            (Kind::Int, 2..) if column.name == "no" => self.random.below(300).to_string(),
            (_, 0) => "DEFAULT".to_owned(),
            (Kind::Int | Kind::Big, 1 | 2) => format!("{} + 1", self.literal(Kind::Int, false)),
            (Kind::Int, 3) => format!("(SELECT {})", self.literal(Kind::Int, false)),
            (Kind::Text, 1 | 2) => format!("upper({}) || '!'", self.literal(Kind::Text, false)),
            (Kind::Zoned | Kind::Stamp, 1) => "'2001-02-03 04:05:06'".to_owned(),
            (kind, _) => self.literal(kind, true),
        }
    }

    fn conflict(&mut self, target: &Source, columns: &[Column]) -> String {
        let on = target.unique.join(", ");
        match self.random.below(10) {
            0 | 1 => " ON CONFLICT DO NOTHING".to_owned(),
            2 => format!(" ON CONFLICT ({on}) DO NOTHING"),
            3 | 4 => {
                let free = columns.iter().find(|column| !target.unique.contains(&column.name));
                let Some(free) = free else { return " ON CONFLICT DO NOTHING".to_owned() };
                let value = match free.kind {
                    Kind::Int if self.random.chance(50) => {
                        format!("coalesce(excluded.{0}, 0) + coalesce({1}.{0}, 0)", free.name, target.alias)
                    }
                    _ => format!("excluded.{}", free.name),
                };
                let filter = match self.random.below(3) {
                    0 => format!(" WHERE {}", self.condition(std::slice::from_ref(target), DEPTH_MAX)),
                    1 => format!(" WHERE {0}.{1} IS DISTINCT FROM excluded.{1}", target.alias, free.name),
                    _ => String::new(),
                };
                format!(" ON CONFLICT ({on}) DO UPDATE SET {} = {value}{filter}", free.name)
            }
            _ => String::new(),
        }
    }

    /// Another key than this one, the same for the same one; mostly one that no row has.
    fn other_key(&mut self, key: &str) -> String {
        match self.tables.type_name(Kind::Key) {
            "text" => format!("{key} || 'q'"),
            "varchar(5)" => format!("'#' || left(md5({key}), 4)"),
            "uuid" => format!("overlay({key}::text placing 'e' from 1)::uuid"),
            _ => format!("{key} + 20"),
        }
    }

    /// Whether a key may be one that [`Self::other_key`] has made.
    fn is_other(&self, key: &str) -> String {
        match self.tables.type_name(Kind::Key) {
            "text" => format!("{key} LIKE '%q'"),
            "varchar(5)" => format!("{key} LIKE '#%'"),
            "uuid" => format!("{key}::text LIKE 'e%'"),
            _ => format!("{key} > 11"),
        }
    }

    fn insert_select(&mut self) -> (&'static str, String) {
        let target = self.target();
        let mut columns: Vec<Column> =
            target.columns.iter().filter(|column| target.unique.contains(&column.name)).copied().collect();
        let number = target.columns.iter().find(|column| matches!(column.kind, Kind::Int) && column.name != "no");
        columns.extend(number.copied());
        let (query, is_one_to_one) = self.selected(&columns);
        let on = target.unique.join(", ");
        let conflict = match self.random.below(6) {
            0 if is_one_to_one => " ON CONFLICT DO NOTHING".to_owned(),
            1 => {
                let free = columns.last().map_or("", |column| column.name);
                format!(" ON CONFLICT ({on}) DO UPDATE SET {free} = coalesce(excluded.{free}, 0) + 1")
            }
            _ => String::new(),
        };
        let is_plain = target.alias == target.name;
        let conflict = if columns.len() == target.unique.len() { String::new() } else { conflict };
        let alias = if is_plain { String::new() } else { format!(" AS {}", target.alias) };
        let returning = self.returning(std::slice::from_ref(&target));
        let (with, query) = match query.split_once('\u{2}') {
            Some((with, query)) if self.random.chance(50) => (String::new(), format!("{with}{query}")),
            Some((with, query)) => (with.to_owned(), query.to_owned()),
            None => (String::new(), query),
        };
        let into = format!("INSERT INTO {}{alias} ({})", target.name, names(&columns));
        (target.name, format!("{with}{into} {query}{conflict}{returning}"))
    }

    /// A query for a key, maybe a second number, and a number; whether no two of its rows are for the same row. What stands before
    /// `\u{2}` is a WITH.
    #[expect(clippy::too_many_lines, reason = "one arm for each form of a query")]
    fn selected(&mut self, columns: &[Column]) -> (String, bool) {
        let from = self.random.below(3);
        let table = &self.tables.list[from];
        let source = Source {
            name: table.name,
            alias: "s".into(),
            columns: table.columns.clone(),
            unique: table.unique.clone(),
        };
        let sources = std::slice::from_ref(&source);
        let own = format!("s.{}", table.columns[0].name);
        let changed = self.random.chance(70);
        let key = if changed { self.other_key(&own) } else { own.clone() };
        let has_no = columns.iter().any(|column| column.name == "no");
        let is_user = table.name == "users";
        let number = if is_user { "s.age".to_owned() } else { "s.no".to_owned() };
        let shown = |key: &str, no: &str, number: &str| -> String {
            let mut shown = vec![key.to_owned()];
            shown.extend(has_no.then(|| no.to_owned()));
            shown.extend((columns.len() > 1 + usize::from(has_no)).then(|| number.to_owned()));
            shown.join(", ")
        };
        let filter = if self.random.chance(50) {
            format!(" WHERE {}", self.condition(sources, 1))
        } else if changed {
            format!(" WHERE NOT ({})", self.is_other(&own))
        } else {
            String::new()
        };
        let apart = if is_user { "7".to_owned() } else { "s.no".to_owned() };
        let one_to_one = is_user || has_no;
        match self.random.below(14) {
            0..3 => (format!("SELECT {} FROM {} AS s{filter}", shown(&key, &apart, &number), table.name), one_to_one),
            3 => (
                format!("SELECT {} FROM {} AS s{filter}", shown(&key, &format!("{apart} + 100"), "5"), table.name),
                one_to_one,
            ),
            4 | 5 => {
                let shown = shown(&key, "count(*)", &format!("max({number})"));
                (format!("SELECT {shown} FROM {} AS s{filter} GROUP BY {own}", table.name), true)
            }
            6 => {
                let order = unique_of(sources).unwrap_or_default().join(", ");
                let count = self.literal(Kind::Count, true);
                let shown = shown(&key, &apart, &number);
                // What is wrong with rows behind the last PostgreSQL may find or not.
                let filter = match changed {
                    true => format!(" WHERE NOT ({})", self.is_other(&own)),
                    false => filter,
                };
                (format!("SELECT {shown} FROM {} AS s{filter} ORDER BY {order} LIMIT {count}", table.name), one_to_one)
            }
            7 => {
                let second = shown(&self.other_key(&own), "200", "9");
                let first = shown(&own, "201", "9");
                let name = table.name;
                (
                    format!("SELECT {first} FROM {name} AS s{filter} UNION SELECT {second} FROM {name} AS s{filter}"),
                    false,
                )
            }
            8 => {
                let all = shown(&key, "300", "count(*)");
                let name = table.name;
                (
                    format!(
                        "\u{2}SELECT {all} FROM {name} AS s JOIN plans AS p ON p.plan_id = {number}{filter} GROUP BY {own}"
                    ),
                    true,
                )
            }
            9 => {
                let made = match self.tables.type_name(Kind::Key) {
                    "uuid" => "('b0eebc99-9c0b-4ef8-bb6d-' || lpad(s::text, 12, '0'))::uuid".to_owned(),
                    "text" | "varchar(5)" => "'n' || s".to_owned(),
                    key => format!("(s + 50)::{key}"),
                };
                (
                    format!(
                        "SELECT {} FROM generate_series(1, {}) AS s",
                        shown(&made, "s", "s * 2"),
                        self.random.below(40)
                    ),
                    true,
                )
            }
            10 => {
                let shown = shown("w.k", "w.c", "w.c");
                let inner = format!("SELECT {key} AS k, count(*) AS c FROM {} AS s{filter} GROUP BY {own}", table.name);
                (format!("WITH w AS ({inner}) \u{2}SELECT {shown} FROM w"), true)
            }
            11 => {
                let shown = shown("x.k", "x.c", "(SELECT count(*) FROM orders)");
                let inner =
                    format!("SELECT {key} AS k, count(*) + 400 AS c FROM {} AS s{filter} GROUP BY {own}", table.name);
                (
                    format!(
                        "SELECT {shown} FROM ({inner}) AS x WHERE EXISTS (SELECT 1 FROM items AS i WHERE i.no < x.c)"
                    ),
                    true,
                )
            }
            12 => {
                let key = self.literal(Kind::Key, false);
                (
                    format!(
                        "SELECT {} FROM {} AS s{filter}",
                        shown(&key, "count(*)", &format!("max({number})")),
                        table.name
                    ),
                    true,
                )
            }
            _ => {
                let values = shown("v.k", "v.n", "v.n");
                let rows: Vec<String> = (0..3).map(|n| format!("({}, {n})", self.literal(Kind::Key, false))).collect();
                (format!("SELECT {values} FROM (VALUES {}) AS v (k, n)", rows.join(", ")), has_no)
            }
        }
    }

    /// A condition for the rows that are written; mostly it says nothing of their keys.
    fn rows_meant(&mut self, target: &Source) -> String {
        let sources = std::slice::from_ref(target);
        let mut all = Vec::new();
        if self.random.chance(30) {
            all.push(self.key_condition(sources));
        }
        if self.random.chance(60) {
            all.push(self.condition(sources, 0));
        }
        match self.random.below(8) {
            0 => all.push(self.subquery(sources, 0)),
            1 => {
                let number = self.number(sources, DEPTH_MAX);
                let (name, column) = *self.random.pick(&[("users", "age"), ("orders", "no"), ("items", "no")]);
                let function = *self.random.pick(&["avg", "max", "min", "count"]);
                let operator = self.operator();
                all.push(format!("{number} {operator} (SELECT {function}({column}) FROM {name})"));
            }
            _ => {}
        }
        if all.is_empty() { String::new() } else { format!("({})", all.join(") AND (")) }
    }

    fn update(&mut self) -> (&'static str, String) {
        let target = self.target();
        let (from, tie, more) = self.beside(&target);
        let sources = std::slice::from_ref(&target);
        let free: Vec<Column> =
            target.columns.iter().filter(|column| !target.unique.contains(&column.name)).copied().collect();
        let column = *self.random.pick(&free);
        let value = match (column.kind, self.random.below(7)) {
            (Kind::Int | Kind::Numeric | Kind::Big, 0) => self.count_of(sources, 0),
            (Kind::Int | Kind::Big, 1 | 2) => match &more {
                Some(more) => more.clone(),
                None => format!("coalesce({}.{}, 0) + 1", target.alias, column.name),
            },
            (Kind::Int | Kind::Numeric, 3) => "(SELECT count(*) FROM orders)".to_owned(),
            (Kind::Text, 0 | 1) => self.text(sources, 0),
            (_, 4) => "DEFAULT".to_owned(),
            (kind, _) => self.literal(kind, true),
        };
        let mut set = format!("{} = {value}", column.name);
        let second = *self.random.pick(&free);
        if self.random.chance(30) && second.name != column.name {
            let literal = self.literal(second.kind, true);
            set.push_str(&format!(", {} = {literal}", second.name));
        }
        let meant = self.rows_meant(&target);
        let filter = where_of(&[tie, meant]);
        let from = if from.is_empty() { String::new() } else { format!(" FROM {from}") };
        let returning = self.returning(sources);
        (target.name, format!("UPDATE {} SET {set}{from}{filter}{returning}", named(&target)))
    }

    /// Something to be joined with the rows that are written, of which each row has one match at most: it, the condition, a number of it.
    fn beside(&mut self, target: &Source) -> (String, String, Option<String>) {
        let key = format!("{}.{}", target.alias, target.columns[0].name);
        let number = target.columns.iter().find(|column| column.kind == Kind::Int).map_or("no", |column| column.name);
        let number = format!("{}.{number}", target.alias);
        let other = *self.random.pick(&["orders", "items"]);
        match self.random.below(14) {
            0 => ("users AS u".to_owned(), format!("u.id = {key}"), Some("u.age".to_owned())),
            1 | 2 => {
                let inner = format!("(SELECT user_id AS k, count(*) AS c FROM {other} GROUP BY user_id) AS x");
                (inner, format!("x.k = {key}"), Some("x.c".to_owned()))
            }
            3 => {
                let inner = format!("(SELECT no, count(*) AS c FROM {other} GROUP BY no) AS x");
                (inner, format!("x.no = {number}"), Some("x.c".to_owned()))
            }
            4 => ("plans AS p".to_owned(), format!("p.plan_id = {number}"), Some("p.plan_id".to_owned())),
            5 => ("(SELECT max(age) AS c FROM users) AS x".to_owned(), String::new(), Some("x.c".to_owned())),
            6 => (
                "users AS u LEFT JOIN (SELECT user_id, max(no) AS c FROM orders GROUP BY user_id) AS x ON x.user_id = u.id"
                    .to_owned(),
                format!("u.id = {key}"),
                Some("x.c".to_owned()),
            ),
            _ => (String::new(), String::new(), None),
        }
    }

    fn update_key(&mut self) -> (&'static str, String) {
        let target = self.target();
        let name = key_of(&target).unwrap_or("user_id");
        let key = format!("{}.{name}", target.alias);
        let returning = self.returning(std::slice::from_ref(&target));
        let meant = self.rows_meant(&target);
        let (value, filter) = match self.random.below(4) {
            0 => {
                let from = self.literal(Kind::Key, true);
                (self.literal(Kind::Key, true), where_of(&[format!("{key} = {from}"), meant]))
            }
            1 if target.name != "users" => {
                let number = self.literal(Kind::Int, true);
                (self.literal(Kind::Key, true), where_of(&[format!("{}.no = {number}", target.alias), meant]))
            }
            _ => (self.other_key(&key), where_of(&[format!("NOT ({})", self.is_other(&key)), meant])),
        };
        let more = if self.random.chance(30) && target.name == "orders" { ", qty = coalesce(qty, 0) + 1" } else { "" };
        (target.name, format!("UPDATE {} SET {name} = {value}{more}{filter}{returning}", named(&target)))
    }

    fn delete(&mut self) -> (&'static str, String) {
        let target = self.target();
        let (using, tie, _) = self.beside(&target);
        let using = if using.is_empty() { String::new() } else { format!(" USING {using}") };
        let meant = self.rows_meant(&target);
        let filter = where_of(&[tie, meant]);
        let returning = self.returning(std::slice::from_ref(&target));
        (target.name, format!("DELETE FROM {}{using}{filter}{returning}", named(&target)))
    }

    fn merge(&mut self) -> (&'static str, String) {
        let table = if self.random.chance(70) { "users" } else { "orders" };
        let is_users = table == "users";
        let key = if is_users { "id" } else { "user_id" };
        let literals: Vec<String> = (0..4).map(|n| format!("({}, {n})", self.literal(Kind::Key, false))).collect();
        let source = match self.random.below(6) {
            0 => "(SELECT user_id AS k, count(*) AS n FROM orders GROUP BY user_id) AS s".to_owned(),
            1 => "(SELECT id AS k, age AS n FROM users) AS s".to_owned(),
            2 => "(SELECT user_id AS k, max(no) AS n FROM items GROUP BY 1) AS s".to_owned(),
            3 => "(SELECT user_id AS k, no AS n FROM items) AS s".to_owned(),
            4 => format!("(SELECT {} AS k, age AS n FROM users WHERE age > 1) AS s", self.other_key("id")),
            _ => format!("(VALUES {}) AS s (k, n)", literals.join(", ")),
        };
        let more = if is_users { String::new() } else { " AND t.no = 3".to_owned() };
        let number = if is_users { "age" } else { "qty" };
        let mut actions = Vec::new();
        let condition = self.literal(Kind::Int, true);
        match self.random.below(5) {
            0 => actions.push(format!("WHEN MATCHED AND t.{number} > {condition} THEN DELETE")),
            1 => actions.push("WHEN MATCHED AND s.n > 2 THEN DO NOTHING".to_owned()),
            _ => {}
        }
        if self.random.chance(70) {
            let value = self.literal(Kind::Int, true);
            actions.push(format!("WHEN MATCHED THEN UPDATE SET {number} = coalesce(s.n, {value})"));
        }
        match self.random.below(5) {
            0 => actions.push("WHEN NOT MATCHED AND s.n > 1 THEN DO NOTHING".to_owned()),
            1 => {
                return (
                    table,
                    format!("MERGE INTO {table} AS t USING {source} ON t.{key} = s.k{more} WHEN MATCHED THEN DELETE"),
                );
            }
            _ => {}
        }
        if self.random.chance(70) || actions.is_empty() {
            actions.push(match is_users {
                true => "WHEN NOT MATCHED THEN INSERT (id, age) VALUES (s.k, s.n)".to_owned(),
                false => "WHEN NOT MATCHED THEN INSERT (user_id, no, qty) VALUES (s.k, 3, s.n)".to_owned(),
            });
        }
        (table, format!("MERGE INTO {table} AS t USING {source} ON t.{key} = s.k{more} {}", actions.join(" ")))
    }

    /// A write of the table of which every shard has a copy.
    fn reference(&mut self) -> (&'static str, String) {
        let number = self.random.below(40) + 10;
        let plan = self.literal(Kind::Plan, true);
        let text = self.literal(Kind::Text, true);
        let returning = if self.random.chance(30) { " RETURNING *" } else { "" };
        let sql = match self.random.below(10) {
            0 => format!("INSERT INTO plans (plan_id, name) VALUES ({number}, {text}), ({plan}, {text}){returning}"),
            1 => format!("INSERT INTO plans (plan_id, name) VALUES ({number}, {text}) ON CONFLICT DO NOTHING{returning}"),
            2 => format!(
                "INSERT INTO plans (plan_id, name) VALUES ({plan}, {text}), ({number}, 'n') \
                 ON CONFLICT (plan_id) DO UPDATE SET name = excluded.name || plans.name{returning}"
            ),
            3 => format!("INSERT INTO plans (plan_id, fee) SELECT no + {number}, count(*) FROM orders GROUP BY no{returning}"),
            4 => format!("UPDATE plans SET fee = (SELECT count(*) FROM orders WHERE orders.plan_id = plans.plan_id){returning}"),
            5 => format!("UPDATE plans SET fee = x.c FROM (SELECT plan_id, count(*) AS c FROM users GROUP BY plan_id) AS x WHERE x.plan_id = plans.plan_id{returning}"),
            6 => format!("DELETE FROM plans WHERE plan_id IN (SELECT no FROM items WHERE no > {plan}){returning}"),
            7 => format!("DELETE FROM plans USING users WHERE users.plan_id = plans.plan_id AND plans.plan_id = {plan}"),
            8 => format!("UPDATE plans SET name = {text}, fee = DEFAULT WHERE plan_id > {plan}{returning}"),
            _ => "MERGE INTO plans AS t USING (SELECT no, count(*) AS c FROM orders GROUP BY no) AS s ON t.plan_id = s.no \
                  WHEN MATCHED THEN UPDATE SET fee = s.c WHEN NOT MATCHED THEN INSERT (plan_id, fee) VALUES (s.no, s.c)"
                .to_owned(),
        };
        ("plans", sql)
    }

    /// A write of the table that one shard has.
    fn local(&mut self) -> (&'static str, String) {
        let number = self.random.below(100);
        let sql = match self.random.below(6) {
            0 => format!(
                "INSERT INTO {LOCAL} (no, note) VALUES ({number}, 'a'), ({number} + 1, 'b') ON CONFLICT DO NOTHING"
            ),
            1 => format!(
                "INSERT INTO {LOCAL} (no, who) SELECT {number} + count(*), id FROM users WHERE age > 1 GROUP BY id ORDER BY id LIMIT 1"
            ),
            2 => format!(
                "INSERT INTO {LOCAL} (no, note) SELECT {number} + no, count(*)::text FROM orders GROUP BY no ON CONFLICT DO NOTHING RETURNING no"
            ),
            3 => {
                format!("UPDATE {LOCAL} SET note = (SELECT count(*) FROM users)::text WHERE no < {number} RETURNING *")
            }
            4 => format!("DELETE FROM {LOCAL} USING users WHERE users.id = {LOCAL}.who"),
            _ => format!("DELETE FROM {LOCAL} WHERE no IN (SELECT no FROM items)"),
        };
        (LOCAL, sql)
    }

    /// What hangs on orders, whose deletes and changes it follows in some of the worlds.
    fn notes(&mut self) -> (&'static str, String) {
        let number = self.literal(Kind::Int, true);
        let (key, text) = (self.literal(Kind::Key, true), self.literal(Kind::Text, true));
        let sql = match self.random.below(8) {
            0 => format!(
                "INSERT INTO notes (user_id, no, note) SELECT user_id, no, {text} FROM orders WHERE qty > {number} ON CONFLICT DO NOTHING"
            ),
            1 => format!("INSERT INTO notes VALUES ({key}, {number}, {text}) RETURNING *"),
            2 => format!("DELETE FROM orders WHERE no > {number} RETURNING user_id, no"),
            3 => format!("UPDATE orders SET no = no + 5000 WHERE no = {number}"),
            4 => format!("UPDATE orders SET user_id = {key} WHERE no = {number}"),
            5 => format!(
                "DELETE FROM notes USING orders AS o WHERE o.user_id = notes.user_id AND o.no = notes.no AND o.qty > {number} RETURNING note"
            ),
            6 => format!("UPDATE notes SET note = note || '!', no = no + 5000 WHERE no = {number}"),
            _ => format!("UPDATE notes SET user_id = {key} WHERE no > {number}"),
        };
        ("notes", sql)
    }

    /// Writes of a view, which are its table's.
    fn through_view(&mut self) -> (&'static str, String) {
        let number = self.literal(Kind::Int, true);
        let rows: Vec<String> = (0..self.random.below(20) + 1)
            .map(|_| {
                format!("({}, {}, {})", self.random.below(60), self.random.below(3000), self.literal(Kind::Key, false))
            })
            .collect();
        let sql = match self.random.below(6) {
            0 | 1 => format!("INSERT INTO few_orders VALUES {} RETURNING *", rows.join(", ")),
            2 => {
                format!("INSERT INTO few_orders (user_id, no) SELECT user_id, no + 6000 FROM items WHERE no > {number}")
            }
            3 => format!("UPDATE few_orders SET amount = amount + 1 WHERE no > {number} RETURNING *"),
            4 => format!(
                "UPDATE few_orders AS f SET amount = u.age FROM users AS u WHERE u.id = f.user_id AND f.no > {number}"
            ),
            _ => format!("DELETE FROM few_orders WHERE no = {number} RETURNING user_id, amount"),
        };
        ("orders", sql)
    }

    /// A query with a write in it, whose changes it does not see.
    fn within_query(&mut self) -> (&'static str, String) {
        if self.random.chance(75) {
            return self.staged();
        }
        let key = self.literal(Kind::Key, true);
        let sql = match self.random.below(3) {
            0 => "WITH w AS (UPDATE orders SET qty = 77 WHERE no > 2 RETURNING user_id) SELECT count(*), (SELECT count(*) FROM orders WHERE qty = 77) FROM w".to_owned(),
            1 => format!("WITH w AS (DELETE FROM orders WHERE user_id = {key} RETURNING no) SELECT no, (SELECT count(*) FROM orders WHERE user_id = {key}) FROM w"),
            _ => "WITH w AS (DELETE FROM orders WHERE no = 1 RETURNING *) INSERT INTO orders SELECT * FROM w".to_owned(),
        };
        ("orders", sql)
    }
}

impl Grammar<'_> {
    /// Rows of a table that a CTE deletes or updates, with what it gives back of them.
    fn written_rows(&mut self, name: &str, shown: &str) -> String {
        let table = self.tables.list.iter().find(|table| table.name == name).expect("is one of them");
        let (name, columns, unique) = (table.name, table.columns.clone(), table.unique.clone());
        let source = Source { name, alias: name.to_owned(), columns, unique };
        let filter = where_of(&[self.rows_meant(&source)]);
        let number = if name == "users" { "age" } else { "qty" };
        let value = self.literal(Kind::Int, true);
        match self.random.below(3) {
            0 if name != "items" => format!("UPDATE {name} SET {number} = {value}{filter} RETURNING {shown}"),
            _ => format!("DELETE FROM {name}{filter} RETURNING {shown}"),
        }
    }

    /// Writes of which one has the rows of another, and reads beside them.
    fn staged(&mut self) -> (&'static str, String) {
        let value = self.literal(Kind::Int, true);
        let orders = self.written_rows("orders", "user_id, no, qty");
        let items = self.written_rows("items", "*");
        let users = self.written_rows("users", "id, age");
        match self.random.below(10) {
            0 => ("orders", format!("WITH w AS ({orders}) SELECT count(*), sum(qty), max(no) + {value} FROM w")),
            1 => ("items", format!("WITH w AS ({items}) SELECT * FROM w")),
            2 => (
                "orders",
                format!(
                    "WITH w AS ({items}) INSERT INTO orders (user_id, no, qty) SELECT user_id, no + 300, {value} FROM w ON CONFLICT DO NOTHING"
                ),
            ),
            3 => (
                "orders",
                format!(
                    "WITH w AS ({users}) UPDATE orders SET qty = w.age FROM w WHERE w.id = orders.user_id RETURNING orders.user_id, no, qty"
                ),
            ),
            4 => (
                "users",
                format!(
                    "WITH w AS ({users}) SELECT w.id, count(o.no) FROM w LEFT JOIN orders AS o ON o.user_id = w.id AND o.no > {value} GROUP BY w.id"
                ),
            ),
            5 => (
                "items",
                format!(
                    "WITH w (k, n) AS (INSERT INTO items (user_id, no) SELECT user_id, no + 400 FROM orders WHERE no > {value} ON CONFLICT DO NOTHING RETURNING user_id, no) SELECT u.id, count(*), max(n) FROM w JOIN users AS u ON u.id = w.k GROUP BY u.id"
                ),
            ),
            6 => (
                "users",
                format!(
                    "WITH a AS ({orders}), b AS (UPDATE users SET age = x.c FROM (SELECT user_id, count(*) AS c FROM a GROUP BY user_id) AS x WHERE x.user_id = users.id RETURNING id, age) DELETE FROM items USING b WHERE b.id = items.user_id AND items.no > {value} RETURNING items.user_id, items.no"
                ),
            ),
            7 => (
                "orders",
                format!(
                    "WITH r AS (SELECT count(*) AS n FROM orders), w AS ({orders}) SELECT n, count(no) FROM r LEFT JOIN w ON true GROUP BY n"
                ),
            ),
            8 => (
                "plans",
                format!(
                    "WITH w AS ({orders}) INSERT INTO plans (plan_id, fee) SELECT no + 40, count(*) FROM w GROUP BY no ON CONFLICT (plan_id) DO UPDATE SET fee = excluded.fee"
                ),
            ),
            _ => (
                LOCAL,
                format!(
                    "WITH w AS ({items}), l AS (INSERT INTO {LOCAL} (no, note) SELECT {value} + 500, count(*)::text FROM w ON CONFLICT DO NOTHING RETURNING no) SELECT l.no, (SELECT count(*) FROM w) FROM l"
                ),
            ),
        }
    }
}

fn names(columns: &[Column]) -> String {
    columns.iter().map(|column| column.name).collect::<Vec<_>>().join(", ")
}

fn named(target: &Source) -> String {
    if target.alias == target.name { target.name.to_owned() } else { format!("{} AS {}", target.name, target.alias) }
}

fn where_of(conditions: &[String]) -> String {
    let conditions: Vec<&str> = conditions.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
    if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) }
}
