//! Rows of text -> a catalog. Pure: the rows may come over a control connection or over a pooled
//! server in the middle of somebody's transaction.

use std::collections::HashMap;
use std::fmt;

use pgsluice_sharding::Refusal;
use pgsluice_sharding::catalog::{
    Catalog, Collation, Column, ColumnDefault, Crossing, CrossingForm, Event, Function, FunctionKind, Identity, Origin,
    Reading, Relation, SequenceName, Table, TableKind, TableRules, Volatility,
};
use pgsluice_sharding::map::ShardId;
use pgsluice_sharding::plan::{TriggerCode, can_stand_for_view, view_kind};
use pgsluice_sharding::sql::code::pin_of_code;

use crate::catalog::actors::{Act, Actor, Cascade, Ties, find_hazards, find_passing};
use crate::catalog::queries::Subject;

/// The oid of the collation `default`: whatever the database has.
const DEFAULT_COLLATION_OID: u32 = 100;

/// Domains over domains are followed this deep; PostgreSQL itself cannot make a cycle.
const DOMAIN_DEPTH_MAX: usize = 64;

/// A catalog and what an operator should know about it.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    pub catalog: Catalog,
    /// One sentence each, for SHOW TABLES, `sluice check` and the log.
    pub problems: Vec<String>,
}

/// A row that a PostgreSQL server does not give to the question asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRow {
    pub subject: Subject,
    /// The position of the column that could not be read.
    pub column: usize,
}

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unexpected value in column {} of the catalog query for {:?}", self.column + 1, self.subject)
    }
}

impl std::error::Error for BadRow {}

/// Takes the answers to [`super::QUERIES`] row by row, in that order.
#[derive(Debug)]
pub struct Builder {
    rules: TableRules,
    shards: u16,
    default_collation: Collation,
    search_path: Vec<String>,
    collations: HashMap<u32, (Collation, String)>,
    types: HashMap<u32, TypeRow>,
    /// Domain -> (type below, typmod).
    domains: HashMap<u32, (u32, i32)>,
    relations: Vec<RelationRows>,
    /// Of each child, schema and name first.
    parents: Vec<[(String, String); 2]>,
    functions: HashMap<String, Function>,
    /// With the table they belong to.
    sequences: Vec<(SequenceName, Option<(String, String)>)>,
    actors: Vec<Actor>,
    cascades: Vec<Cascade>,
    views: Vec<ViewRow>,
}

#[derive(Debug)]
struct RelationRows {
    schema: String,
    name: String,
    relation: Relation,
    columns: Vec<Column>,
}

/// A type that columns have.
#[derive(Debug)]
struct TypeRow {
    crossing: Crossing,
    /// That it has by itself.
    collation: u32,
    reading: Reading,
}

#[derive(Debug)]
pub(super) struct ViewRow {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) definition: String,
    /// Whoever reads its tables by its definition sees what the view shows, and nobody else does.
    open: bool,
}

impl Actor {
    fn of(row: Row<'_>, act: Act) -> Result<Self, BadRow> {
        let [schema, table, name] = [row.text(0)?, row.text(1)?, row.text(2)?].map(str::to_owned);
        Ok(Self { table: (schema, table), name, act })
    }
}

impl Builder {
    pub fn new(rules: TableRules, shards: u16) -> Self {
        Self {
            rules,
            shards,
            // Until a server says otherwise, nothing may be assumed about the order of text.
            default_collation: Collation::Language,
            search_path: Vec::new(),
            collations: HashMap::new(),
            types: HashMap::new(),
            domains: HashMap::new(),
            relations: Vec::new(),
            parents: Vec::new(),
            functions: HashMap::new(),
            sequences: Vec::new(),
            actors: Vec::new(),
            cascades: Vec::new(),
            views: Vec::new(),
        }
    }

    /// Takes one row of the answer to the query about `subject`, in text format.
    ///
    /// # Errors
    /// A row that PostgreSQL does not give.
    pub fn row(&mut self, subject: Subject, values: &[Option<&str>]) -> Result<(), BadRow> {
        let row = Row { subject, values };
        match subject {
            Subject::Database => self.database(row),
            Subject::Collations => self.collation(row),
            Subject::Domains => self.domain(row),
            Subject::Types => self.type_of_columns(row),
            Subject::Columns => self.column(row),
            Subject::Parents => self.parent(row),
            Subject::Functions => self.function(row),
            Subject::Sequences => self.sequence(row),
            Subject::Triggers => self.trigger(row),
            Subject::Rules => self.rule(row),
            Subject::Policies => self.policy(row),
            Subject::Cascades => self.cascade(row),
            Subject::Defaults => self.default(row),
            Subject::Views => self.view(row),
        }
    }

    fn database(&mut self, row: Row<'_>) -> Result<(), BadRow> {
        self.default_collation = collation(row.text(0)?, row.optional(1), true);
        self.search_path = parse_search_path(row.optional(2).unwrap_or_default());
        Ok(())
    }

    fn collation(&mut self, row: Row<'_>) -> Result<(), BadRow> {
        let oid = row.number(0)?;
        let found = match row.text(1)? {
            "d" => self.default_collation,
            provider => collation(provider, row.optional(2), row.boolean(3)?),
        };
        self.collations.insert(oid, (found, row.text(4)?.to_owned()));
        Ok(())
    }

    fn domain(&mut self, row: Row<'_>) -> Result<(), BadRow> {
        self.domains.insert(row.number(0)?, (row.number(1)?, row.number(2)?));
        Ok(())
    }

    fn type_of_columns(&mut self, row: Row<'_>) -> Result<(), BadRow> {
        let form = match row.text(2)? {
            "b" => CrossingForm::Binary,
            "t" => CrossingForm::Text,
            "r" => CrossingForm::Row,
            _ => CrossingForm::Never,
        };
        let crossing = Crossing { form, type_name: row.text(1)?.to_owned(), ..Crossing::default() };
        let found = TypeRow { crossing, collation: row.number(3)?, reading: Reading::of(row.boolean(4)?) };
        self.types.insert(row.number(0)?, found);
        Ok(())
    }

    fn column(&mut self, row: Row<'_>) -> Result<(), BadRow> {
        let (schema, name) = (row.text(0)?, row.text(1)?);
        let same = self.relations.last().is_some_and(|last| last.schema == schema && last.name == name);
        if !same {
            let relation = match row.text(2)? {
                "v" | "m" => Relation::View,
                "f" => Relation::Foreign,
                "S" => Relation::Sequence,
                _ => Relation::Table,
            };
            self.relations.push(RelationRows {
                schema: schema.to_owned(),
                name: name.to_owned(),
                relation,
                columns: Vec::new(),
            });
        }
        let Some(column) = row.optional(3) else { return Ok(()) };
        let own_type = row.number(4)?;
        let (type_oid, typmod) = self.base_type(own_type, row.number(5)?);
        let known = self.types.get(&own_type);
        let domain = known.filter(|_| own_type != type_oid).map(|domain| domain.crossing.type_name.clone());
        let column = Column {
            name: column.to_owned(),
            type_oid,
            typmod,
            not_null: row.boolean(6)?,
            primary: row.boolean(8)?,
            origin: Origin::of(row.boolean(9)?),
            reading: known.map_or(Reading::Clock, |known| known.reading),
            collation: self.collation_of(row.number(7)?),
            crossing: Crossing { domain, ..self.crossing_of(type_oid, row.number(7)?) },
            default: ColumnDefault::None,
        };
        if let Some(last) = self.relations.last_mut() {
            last.columns.push(column);
        }
        Ok(())
    }

    fn function(&mut self, row: Row<'_>) -> Result<(), BadRow> {
        let kind = match (row.text(1)?, row.boolean(2)?) {
            ("a", _) => FunctionKind::Aggregate,
            ("w", _) => FunctionKind::Window,
            ("p", _) => FunctionKind::Procedure,
            (_, true) => FunctionKind::SetReturning,
            (_, false) => FunctionKind::Plain,
        };
        let volatility = match row.text(3)? {
            "i" => Volatility::Immutable,
            "s" => Volatility::Stable,
            _ => Volatility::Volatile,
        };
        let known = self.functions.entry(row.text(0)?.to_owned()).or_insert(Function { volatility, kind, pin: None });
        known.volatility = known.volatility.max(volatility);
        if unfriendliness(kind) > unfriendliness(known.kind) {
            known.kind = kind;
        }
        let pin = pin_of_code(row.text(4)?);
        known.pin = known.pin.or(pin);
        Ok(())
    }

    fn parent(&mut self, row: Row<'_>) -> Result<(), BadRow> {
        let child = (row.text(0)?.to_owned(), row.text(1)?.to_owned());
        self.parents.push([child, (row.text(2)?.to_owned(), row.text(3)?.to_owned())]);
        Ok(())
    }

    fn sequence(&mut self, row: Row<'_>) -> Result<(), BadRow> {
        let name = SequenceName { schema: row.text(0)?.to_owned(), name: row.text(1)?.to_owned() };
        let owner = row.optional(2).zip(row.optional(3));
        self.sequences.push((name, owner.map(|(schema, table)| (schema.to_owned(), table.to_owned()))));
        Ok(())
    }

    fn trigger(&mut self, row: Row<'_>) -> Result<(), BadRow> {
        let [function, language, body] = [row.text(4)?, row.text(5)?, row.text(6)?].map(str::to_owned);
        let code = TriggerCode { kind: row.number(3)?, function, language, body };
        self.actors.push(Actor::of(row, Act::Trigger(code))?);
        Ok(())
    }

    fn rule(&mut self, row: Row<'_>) -> Result<(), BadRow> {
        let event = match row.text(3)? {
            "2" => Event::Update,
            "3" => Event::Insert,
            _ => Event::Delete,
        };
        self.actors.push(Actor::of(row, Act::Rule(event))?);
        Ok(())
    }

    fn policy(&mut self, row: Row<'_>) -> Result<(), BadRow> {
        let conditions = [row.optional(3), row.optional(4)].into_iter().flatten().map(str::to_owned).collect();
        self.actors.push(Actor::of(row, Act::Policy(conditions))?);
        Ok(())
    }

    fn cascade(&mut self, row: Row<'_>) -> Result<(), BadRow> {
        let follows = |column: usize| match row.text(column) {
            Ok("c") if column == 5 => Ok(Some(Event::Delete)),
            Ok("c" | "n" | "d") => Ok(Some(Event::Update)),
            Ok(_) => Ok(None),
            Err(bad) => Err(bad),
        };
        self.cascades.push(Cascade {
            table: (row.text(0)?.to_owned(), row.text(1)?.to_owned()),
            other: (row.text(2)?.to_owned(), row.text(3)?.to_owned()),
            column: row.text(4)?.to_owned(),
            on_delete: follows(5)?,
            on_update: follows(6)?,
        });
        Ok(())
    }

    fn default(&mut self, row: Row<'_>) -> Result<(), BadRow> {
        let (schema, table, column) = (row.text(0)?, row.text(1)?, row.text(2)?);
        let identity = match row.text(3)? {
            "a" => Identity::Always,
            "d" => Identity::ByDefault,
            _ => Identity::No,
        };
        let default = match (row.optional(5).zip(row.optional(6)), row.optional(4)) {
            (Some((schema, name)), _) => {
                let sequence = SequenceName { schema: schema.to_owned(), name: name.to_owned() };
                ColumnDefault::Sequence { sequence, identity }
            }
            (None, Some(expression)) => ColumnDefault::Expression(expression.to_owned()),
            (None, None) => return Ok(()),
        };
        let mut relations = self.relations.iter_mut();
        let relation = relations.find(|relation| relation.schema == schema && relation.name == table);
        let columns = relation.map(|relation| &mut relation.columns);
        if let Some(found) = columns.and_then(|columns| columns.iter_mut().find(|found| found.name == column)) {
            found.default = default;
        }
        Ok(())
    }

    fn view(&mut self, row: Row<'_>) -> Result<(), BadRow> {
        let (schema, name) = (row.text(0)?.to_owned(), row.text(1)?.to_owned());
        let definition = row.text(2)?.trim_end().trim_end_matches(';').to_owned();
        self.views.push(ViewRow { schema, name, definition, open: row.boolean(3)? });
        Ok(())
    }

    /// The type a domain stands for: values cross the wire and hash as that type.
    fn base_type(&self, type_oid: u32, typmod: i32) -> (u32, i32) {
        let mut found = (type_oid, typmod);
        for _ in 0..DOMAIN_DEPTH_MAX {
            let Some((base, typmod)) = self.domains.get(&found.0) else { break };
            found = (*base, *typmod);
        }
        found
    }

    fn collation_of(&self, oid: u32) -> Collation {
        match oid {
            0 => Collation::Bytes,
            DEFAULT_COLLATION_OID => self.default_collation,
            // A collation made after the collations were read: nothing is known of it.
            _ => self.collations.get(&oid).map_or(Collation::Nondeterministic, |(collation, _)| *collation),
        }
    }

    fn crossing_of(&self, type_oid: u32, collation: u32) -> Crossing {
        let Some(TypeRow { crossing, collation: own, .. }) = self.types.get(&type_oid) else {
            return Crossing::default();
        };
        match self.collations.get(&collation) {
            _ if collation == *own => crossing.clone(),
            Some((_, name)) => Crossing { collation: Some(name.clone()), ..crossing.clone() },
            None => Crossing::default(),
        }
    }

    /// The catalog with this version, and the problems found.
    ///
    /// A table that the rules cannot place is left out when there are several shards: a statement on
    /// it is then refused rather than sent somewhere.
    pub fn finish(self, version: u64) -> Loaded {
        let mut problems = Vec::new();
        let mut tables: HashMap<String, HashMap<String, Table>> = HashMap::new();
        let rules = rules_of_children(&self.rules, &self.parents);
        for RelationRows { schema, name, relation, columns } in self.relations {
            let kind = match rules.kind_of(&schema, &name, &columns) {
                _ if relation == Relation::Sequence => TableKind::Local(ShardId(0)),
                Ok(kind) => kind,
                Err(refusal) => {
                    problems.push(describe(&schema, &name, &refusal));
                    if self.shards > 1 {
                        continue;
                    }
                    TableKind::Local(ShardId(0))
                }
            };
            if let TableKind::Sharded { column, .. } = kind
                && relation == Relation::Table
                && let Some(key) = columns.get(column)
                && !key.not_null
            {
                problems.push(format!(
                    "table {schema}.{name}: the sharding key \"{}\" may be NULL and a row without a key has no shard; \
                     ALTER TABLE {schema}.{name} ALTER COLUMN {} SET NOT NULL would prove that there is none",
                    key.name, key.name
                ));
            }
            tables.entry(schema).or_default().insert(name, Table { kind, relation, columns });
        }
        if self.shards > 1 {
            leave_out_scattered(&mut tables, &self.parents, &mut problems);
        }
        let sequences = homes_of(self.sequences, &tables);
        let mut catalog = Catalog {
            version,
            sequences,
            shards: self.shards,
            tables,
            views: HashMap::new(),
            functions: self.functions,
            default_collation: self.default_collation,
            search_path: self.search_path,
            rules: self.rules,
            hazards: HashMap::new(),
            passing: HashMap::new(),
        };
        if self.shards > 1 {
            let ties = Ties { parents: &self.parents, cascades: &self.cascades, views: &self.views };
            find_hazards(&mut catalog, &self.actors, &ties);
            find_passing(&mut catalog, &self.actors, &ties);
            look_through(&mut catalog, self.views);
            let Catalog { hazards, tables, .. } = &mut catalog;
            for (schema, hazards) in hazards {
                let is_local_view = |name: &str| {
                    let table = tables.get(schema).and_then(|tables| tables.get(name));
                    table.is_some_and(|table| {
                        table.relation != Relation::Table && matches!(table.kind, TableKind::Local(_))
                    })
                };
                hazards.retain(|name, _| !is_local_view(name));
            }
        }
        Loaded { catalog, problems }
    }
}

/// Where the values of sequences are given out: with the local table that they belong to, else on the first shard.
fn homes_of(
    sequences: Vec<(SequenceName, Option<(String, String)>)>,
    tables: &HashMap<String, HashMap<String, Table>>,
) -> HashMap<String, HashMap<String, ShardId>> {
    let mut homes: HashMap<String, HashMap<String, ShardId>> = HashMap::new();
    for (SequenceName { schema, name }, owner) in sequences {
        let owner = owner.and_then(|(schema, table)| tables.get(&schema)?.get(&table));
        let home = match owner.map(|table| table.kind) {
            Some(TableKind::Local(shard)) => shard,
            _ => ShardId(0),
        };
        homes.entry(schema).or_default().insert(name, home);
    }
    homes
}

/// The rules with those of parents for children that have none of their own: a partition lies where its table does.
fn rules_of_children(rules: &TableRules, parents: &[[(String, String); 2]]) -> TableRules {
    let mut rules = rules.clone();
    let rule_of = |rules: &TableRules, (schema, name): &(String, String)| {
        rules.tables.get(&format!("{schema}.{name}")).or_else(|| rules.tables.get(name)).cloned()
    };
    loop {
        let missing = parents.iter().find_map(|[child, parent]| {
            let rule = rule_of(&rules, parent).filter(|_| rule_of(&rules, child).is_none())?;
            Some((format!("{}.{}", child.0, child.1), rule))
        });
        let Some((child, rule)) = missing else { return rules };
        rules.tables.insert(child, rule);
    }
}

/// Takes out tables whose rows lie elsewhere than those of their children, which they include.
fn leave_out_scattered(
    tables: &mut HashMap<String, HashMap<String, Table>>,
    parents: &[[(String, String); 2]],
    problems: &mut Vec<String>,
) {
    let place = |tables: &HashMap<String, HashMap<String, Table>>, (schema, name): &(String, String)| {
        let table = tables.get(schema)?.get(name)?;
        Some(match table.kind {
            TableKind::Sharded { column, .. } => Err(table.columns.get(column)?.name.clone()),
            other => Ok(other),
        })
    };
    loop {
        let scattered = parents.iter().find_map(|[child, parent]| {
            let found = place(tables, parent)?;
            (place(tables, child).as_ref() != Some(&found)).then_some((child, parent))
        });
        let Some((child, (schema, name))) = scattered else { return };
        problems.push(format!(
            "table {schema}.{name}: its rows include those of {}.{}, which lie elsewhere; give both the same entry in the configuration",
            child.0, child.1
        ));
        tables.get_mut(schema).and_then(|tables| tables.remove(name));
    }
}

/// Finds out where the rows of views are, those of views over views last; of the others, which can be read as the query they stand for.
/// What the operator has said of a view counts more.
fn look_through(catalog: &mut Catalog, mut views: Vec<ViewRow>) {
    let rules = &catalog.rules.tables;
    views.retain(|view| {
        !rules.contains_key(&view.name) && !rules.contains_key(&format!("{}.{}", view.schema, view.name))
    });
    loop {
        let before = views.len();
        views.retain(|view| {
            let Some(kind) = view_kind(catalog, &view.definition) else { return true };
            if let Some(table) = catalog.tables.get_mut(&view.schema).and_then(|tables| tables.get_mut(&view.name)) {
                table.kind = kind;
                table.relation = Relation::KnownView;
            }
            false
        });
        if views.len() == before {
            break;
        }
    }
    views.retain(|view| view.open && can_stand_for_view(catalog, &view.definition));
    for ViewRow { schema, name, definition, .. } in views {
        catalog.views.entry(schema).or_default().insert(name, definition);
    }
}

/// A refusal as one sentence about a table.
fn describe(schema: &str, table: &str, refusal: &Refusal) -> String {
    let mut text = format!("table {schema}.{table}: {}", refusal.message);
    for more in [&refusal.detail, &refusal.hint].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(more);
    }
    text
}

/// One row with readers that say which column was wrong.
#[derive(Clone, Copy)]
struct Row<'a> {
    subject: Subject,
    values: &'a [Option<&'a str>],
}

impl<'a> Row<'a> {
    fn optional(self, column: usize) -> Option<&'a str> {
        self.values.get(column).copied().flatten()
    }

    fn text(self, column: usize) -> Result<&'a str, BadRow> {
        self.optional(column).ok_or(BadRow { subject: self.subject, column })
    }

    fn number<N: std::str::FromStr>(self, column: usize) -> Result<N, BadRow> {
        let bad = BadRow { subject: self.subject, column };
        self.optional(column).and_then(|text| text.parse().ok()).ok_or(bad)
    }

    fn boolean(self, column: usize) -> Result<bool, BadRow> {
        match self.text(column)? {
            "t" => Ok(true),
            "f" => Ok(false),
            _ => Err(BadRow { subject: self.subject, column }),
        }
    }
}

/// When overloads of one name differ in kind, the one that forbids most counts.
fn unfriendliness(kind: FunctionKind) -> u8 {
    match kind {
        FunctionKind::Plain => 0,
        FunctionKind::SetReturning => 1,
        FunctionKind::Aggregate => 2,
        FunctionKind::Window => 3,
        FunctionKind::Procedure => 4,
    }
}

/// How a collation orders, from its provider (`c` libc, `i` ICU, `b` builtin) and its LC_COLLATE.
fn collation(provider: &str, lc_collate: Option<&str>, deterministic: bool) -> Collation {
    if !deterministic {
        return Collation::Nondeterministic;
    }
    match provider {
        // All builtin locales (C, C.UTF-8, PG_UNICODE_FAST) compare bytes.
        "b" => Collation::Bytes,
        "c" if lc_collate.is_some_and(orders_by_bytes) => Collation::Bytes,
        _ => Collation::Language,
    }
}

fn orders_by_bytes(libc_locale: &str) -> bool {
    ["C", "POSIX", "C.UTF-8", "C.UTF8"].iter().any(|name| name.eq_ignore_ascii_case(libc_locale))
}

/// `"$user", public` -> `$user`, `public`. `pg_catalog` is searched first in any case, unless it stands behind others.
fn parse_search_path(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = next_identifier(rest);
        if !name.is_empty() && (name != "pg_catalog" || !names.is_empty()) {
            names.push(name);
        }
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    names
}

/// The identifier at the start, folded or unquoted as PostgreSQL does, and what follows it.
fn next_identifier(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(',').unwrap_or(text.len());
        return (text[..end].trim_end().to_ascii_lowercase(), &text[end..]);
    };
    let mut name = String::new();
    let mut chars = quoted.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' if chars.next_if(|(_, next)| *next == '"').is_some() => name.push('"'),
            '"' => return (name, &quoted[at + 1..]),
            _ => name.push(c),
        }
    }
    (name, "")
}

#[cfg(test)]
mod tests {
    use pgsluice_sharding::sql::Pin;

    use super::*;

    #[test]
    fn search_paths_are_read_as_postgresql_writes_them() {
        assert_eq!(parse_search_path("\"$user\", public"), ["$user", "public"]);
        assert_eq!(parse_search_path("Public, \"A \"\"b\"\", c\",pg_catalog"), ["public", "A \"b\", c", "pg_catalog"]);
        assert_eq!(parse_search_path("pg_catalog, public"), ["public"]);
        assert_eq!(parse_search_path(""), Vec::<String>::new());
        assert_eq!(parse_search_path("\"\""), Vec::<String>::new());
        assert_eq!(parse_search_path("\"never closed"), ["never closed"]);
        assert_eq!(parse_search_path(",,a"), ["a"]);
    }

    #[test]
    fn collations_of_all_providers() {
        assert_eq!(collation("c", Some("en_US.UTF-8"), true), Collation::Language);
        assert_eq!(collation("c", Some("C"), true), Collation::Bytes);
        assert_eq!(collation("c", Some("C.utf8"), true), Collation::Bytes);
        // An ICU database keeps an LC_COLLATE, which says nothing about the order.
        assert_eq!(collation("i", Some("C"), true), Collation::Language);
        assert_eq!(collation("i", None, false), Collation::Nondeterministic);
        assert_eq!(collation("b", Some("en_US.UTF-8"), true), Collation::Bytes);
    }

    fn builder(shards: u16) -> Builder {
        let rules = TableRules { sharding_key: Some("user_id".into()), ..TableRules::default() };
        let mut builder = Builder::new(rules, shards);
        builder
            .row(Subject::Database, &[Some("c"), Some("en_US.UTF-8"), Some("\"$user\", public")])
            .expect("a database row");
        builder
    }

    fn column<'a>(table: &'a str, name: &'a str, type_oid: &'a str, not_null: &'a str) -> [Option<&'a str>; 10] {
        let collation = if type_oid == "25" { "100" } else { "0" };
        let values = ["public", table, "r", name, type_oid, "-1", not_null, collation, "f", "f"];
        values.map(Some)
    }

    #[test]
    fn domains_resolve_to_their_base_and_collations_to_the_default() {
        let mut builder = builder(2);
        builder.row(Subject::Domains, &[Some("20000"), Some("20"), Some("-1")]).expect("a domain");
        builder.row(Subject::Domains, &[Some("20001"), Some("20000"), Some("-1")]).expect("a domain of a domain");
        builder.row(Subject::Columns, &column("orders", "user_id", "20001", "t")).expect("a column");
        builder.row(Subject::Columns, &column("orders", "note", "25", "f")).expect("a column");
        builder.row(Subject::Columns, &column("empty", "x", "23", "f")).expect("a column");
        let loaded = builder.finish(7);
        let orders = &loaded.catalog.tables["public"]["orders"];
        assert_eq!(loaded.catalog.version, 7);
        assert_eq!(orders.columns[0].type_oid, 20);
        assert_eq!(orders.columns[1].collation, Collation::Language);
        assert!(matches!(orders.kind, TableKind::Sharded { column: 0, .. }));
        assert_eq!(loaded.catalog.tables["public"]["empty"].kind, TableKind::Local(ShardId(0)));
        assert_eq!(loaded.problems, Vec::<String>::new());
    }

    #[test]
    fn keys_that_cannot_place_a_row_are_problems() {
        let mut sharded = builder(2);
        sharded.row(Subject::Columns, &column("bad", "user_id", "1700", "t")).expect("a column");
        sharded.row(Subject::Columns, &column("loose", "user_id", "20", "f")).expect("a column");
        let loaded = sharded.finish(1);
        assert!(!loaded.catalog.tables["public"].contains_key("bad"));
        assert_eq!(loaded.problems.len(), 2, "{:?}", loaded.problems);
        assert!(loaded.problems[0].contains("public.bad"), "{:?}", loaded.problems);
        assert!(loaded.problems[1].contains("may be NULL"), "{:?}", loaded.problems);

        let mut single = builder(1);
        single.row(Subject::Columns, &column("bad", "user_id", "1700", "t")).expect("a column");
        assert_eq!(single.finish(1).catalog.tables["public"]["bad"].kind, TableKind::Local(ShardId(0)));
    }

    #[test]
    fn the_least_friendly_overload_counts() {
        let mut builder = builder(1);
        for row in [
            ["f", "f", "f", "i", ""],
            ["f", "a", "f", "s", ""],
            ["f", "f", "t", "i", ""],
            ["g", "f", "t", "v", ""],
            ["g", "f", "t", "v", "BEGIN SET search_path = x; END"],
        ] {
            builder.row(Subject::Functions, &row.map(Some)).expect("a function");
        }
        let functions = builder.finish(1).catalog.functions;
        assert_eq!(
            functions["f"],
            Function { volatility: Volatility::Stable, kind: FunctionKind::Aggregate, pin: None }
        );
        assert_eq!(
            functions["g"],
            Function { volatility: Volatility::Volatile, kind: FunctionKind::SetReturning, pin: Some(Pin::SetConfig) }
        );
    }

    #[test]
    fn a_row_that_makes_no_sense_is_an_error() {
        let mut builder = builder(1);
        let bad = builder.row(Subject::Domains, &[Some("x"), None, None]);
        assert_eq!(bad, Err(BadRow { subject: Subject::Domains, column: 0 }));
    }
}
