//! What the shards contain, as far as routing and merging must know it.

use std::collections::HashMap;

use crate::key::KeyType;
use crate::map::ShardId;
use crate::refusal::Refusal;
use crate::sql::Pin;
use crate::sql::tree::ColumnDef;
use crate::value::oid;

/// Tables, functions and collations of one database. Immutable; DDL makes a new one with a higher
/// version.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// Rises with every change; part of every plan cache key.
    pub version: u64,
    /// How many shards the database has. With one shard every statement goes there untouched.
    pub shards: u16,
    /// Schema -> table name -> table. Tables, partitioned tables, views, materialised and foreign
    /// tables; nothing of `pg_catalog` or `information_schema`, which are on every shard.
    pub tables: HashMap<String, HashMap<String, Table>>,
    /// Schema -> view -> the query it stands for, of those views in whose place it may be written: all names in it have their schema, and
    /// whoever may read its tables may read the view.
    pub views: HashMap<String, HashMap<String, String>>,
    /// User-defined functions and aggregates by name, all schemas and overloads together; what
    /// PostgreSQL itself brings is known without asking.
    pub functions: HashMap<String, Function>,
    /// Whether the database's default collation orders text by its bytes (`C`, `POSIX`, `C.UTF-8`).
    pub default_collation: Collation,
    /// The search_path of a session that has set none, without a `pg_catalog` at its beginning and `"$user"` expanded
    /// by the session: mostly `["$user", "public"]`.
    pub search_path: Vec<String>,
    /// Rules for tables that are yet to be created.
    pub rules: TableRules,
    /// Schema -> sequence -> the shard whose values count.
    pub sequences: HashMap<String, HashMap<String, ShardId>>,
    /// Schema -> table -> what forbids to read or write it over several shards.
    pub hazards: HashMap<String, HashMap<String, Vec<Hazard>>>,
    /// Schema -> table -> what is done with rows that a trigger before it may pass over, so that they do not come back.
    pub passing: HashMap<String, HashMap<String, Vec<Event>>>,
}

impl Catalog {
    /// Every hazard with the schema and the name of its table.
    pub fn all_hazards(&self) -> impl Iterator<Item = (&str, &str, &Hazard)> {
        let tables = self.hazards.iter().flat_map(|(schema, tables)| tables.iter().map(move |found| (schema, found)));
        tables.flat_map(|(schema, (name, found))| {
            found.iter().map(move |hazard| (schema.as_str(), name.as_str(), hazard))
        })
    }

    /// Everything that triggers may pass over, with the schema and the name of its table.
    pub fn all_passing(&self) -> impl Iterator<Item = (&str, &str, Event)> {
        let tables = self.passing.iter().flat_map(|(schema, tables)| tables.iter().map(move |found| (schema, found)));
        tables.flat_map(|(schema, (name, events))| {
            events.iter().map(move |event| (schema.as_str(), name.as_str(), *event))
        })
    }

    /// Notes that a trigger may pass over rows with which this is done.
    pub fn note_passing(&mut self, schema: &str, table: &str, event: Event) {
        let known = self.passing.entry(schema.to_owned()).or_default().entry(table.to_owned()).or_default();
        if !known.contains(&event) {
            known.push(event);
        }
    }

    /// Whether a trigger may pass over rows with which this is done.
    pub fn passes_over(&self, schema: &str, table: &str, event: Event) -> bool {
        let events = self.passing.get(schema).and_then(|tables| tables.get(table));
        events.is_some_and(|events| events.contains(&event))
    }
}

/// Something of a table that acts when its rows are read or written, and would do harm where the router cannot see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hazard {
    /// `trigger "name"`, `rule "name"`, `policy "name"`.
    pub what: String,
    /// When it acts.
    pub events: Vec<Event>,
    /// The column that an update must set to wake it, if not every update does.
    pub column: Option<String>,
    /// The table that it belongs to, where that is another, whose rows follow by foreign keys.
    pub follows: Option<String>,
    /// What is wrong with it, as the end of a sentence.
    pub reason: String,
}

/// What is done with rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Select,
    Insert,
    Update,
    Delete,
}

/// How the operator wants tables to be placed: `[[database]]` of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableRules {
    /// Every table with this column is sharded by it.
    pub sharding_key: Option<String>,
    /// Entries by table name, optionally with a schema (`audit.log`).
    pub tables: HashMap<String, TableRule>,
    /// What a table with neither the key column nor an entry is.
    pub default: DefaultKind,
}

/// One `tables.NAME` entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableRule {
    /// Sharded by this column, whatever the database's sharding key is called.
    Key(String),
    Reference,
    Local(ShardId),
}

/// The kind of a table without the key column and without an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DefaultKind {
    /// On the first shard, as on a monolith.
    #[default]
    Local,
    Reference,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub kind: TableKind,
    pub relation: Relation,
    /// In the order of `SELECT *`; dropped columns are left out.
    pub columns: Vec<Column>,
}

/// Where the rows of a table are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// Spread by the key in column `column` (an index into `columns`).
    Sharded { column: usize, key_type: KeyType },
    /// A full copy on every shard.
    Reference,
    /// On one named shard.
    Local(ShardId),
}

/// What kind of relation the name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Table,
    /// A view or a materialised view that the router cannot look through.
    View,
    /// A view of which the router knows where each row is.
    KnownView,
    Foreign,
    /// Every shard has it, and the first shard's counts.
    Sequence,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub type_oid: u32,
    pub typmod: i32,
    pub not_null: bool,
    /// Part of the primary key.
    pub primary: bool,
    pub origin: Origin,
    pub reading: Reading,
    pub collation: Collation,
    pub crossing: Crossing,
    pub default: ColumnDefault,
}

/// What a text for a column means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// The same whenever it is read.
    #[default]
    Fixed,
    /// It, or a part of it, may say `now`: dates and times, and what is made of them.
    Clock,
}

impl Reading {
    pub fn of(reads_clock: bool) -> Self {
        if reads_clock { Self::Clock } else { Self::Fixed }
    }
}

/// Where the values of a column come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    #[default]
    Given,
    /// Computed from the other columns; none can be given.
    Generated,
}

impl Origin {
    pub fn of(generated: bool) -> Self {
        if generated { Self::Generated } else { Self::Given }
    }
}

/// What a column holds in a row for which an INSERT says nothing of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ColumnDefault {
    /// NULL, or what follows from the other columns.
    #[default]
    None,
    /// The next value of a sequence.
    Sequence { sequence: SequenceName, identity: Identity },
    /// The value of this expression, in SQL; its names have their schema, but in a table that the open transaction has made.
    Expression(String),
}

/// Schema and name of a sequence.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SequenceName {
    pub schema: String,
    pub name: String,
}

/// Whether a column is an identity, and whether a client may give its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A default like any other: `serial`.
    No,
    ByDefault,
    Always,
}

/// How the values of a column get from one server to another, as input of a final query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crossing {
    pub form: CrossingForm,
    /// The type in SQL, with schema and quotes, a domain as what it stands for.
    pub type_name: String,
    /// The collation in SQL, when it is not the one that the type has by itself.
    pub collation: Option<String>,
    /// The domain that the column is of, in SQL.
    pub domain: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CrossingForm {
    /// As elements of an array, in binary.
    Binary,
    /// As text that means the same under all settings.
    Text,
    /// Within a row of its table's type, in binary: arrays, which cannot be elements of arrays, and composite types, which would become columns.
    Row,
    /// Not at all: it has no binary form, or means an object of one server by a number.
    #[default]
    Never,
}

impl Column {
    /// How many characters fit into a column of type `varchar(n)`.
    pub fn characters_max(&self) -> Option<u32> {
        /// Of the length in a typmod.
        const HEADER_BYTES: i32 = 4;
        if self.type_oid != oid::VARCHAR {
            return None;
        }
        u32::try_from(self.typmod.checked_sub(HEADER_BYTES)?).ok()
    }
}

/// How values of a column or expression are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Collation {
    /// By bytes (`C`, `POSIX`, `C.UTF-8`), or the type has no collation.
    #[default]
    Bytes,
    /// By a language's rules: the router can tell equality, not order.
    Language,
    /// Different bytes may be equal (ICU `deterministic = false`): the router can tell neither.
    Nondeterministic,
}

/// A user-defined function, all overloads of one name together: the least friendly one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    pub volatility: Volatility,
    pub kind: FunctionKind,
    /// Its body seems to change the session.
    pub pin: Option<Pin>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Volatility {
    Immutable,
    Stable,
    Volatile,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionKind {
    Plain,
    Aggregate,
    Window,
    SetReturning,
    Procedure,
}

/// Built-in types, one line per name: `int4 23`.
const TYPES: &str = include_str!("sql/tables/types.txt");

impl TableRules {
    /// Where the rows of a table with these columns are.
    ///
    /// # Errors
    /// The rules ask for something that cannot be: a key column that does not exist, or whose type
    /// cannot be a key.
    pub fn kind_of(&self, schema: &str, table: &str, columns: &[Column]) -> Result<TableKind, Refusal> {
        let qualified = self.tables.get(&format!("{schema}.{table}"));
        match qualified.or_else(|| self.tables.get(table)) {
            Some(TableRule::Reference) => return Ok(TableKind::Reference),
            Some(TableRule::Local(shard)) => return Ok(TableKind::Local(*shard)),
            Some(TableRule::Key(key)) => {
                return sharded_by(table, key, columns)?.ok_or_else(|| {
                    Refusal::error("42703", format!("table \"{table}\" has no column \"{key}\" to be sharded by"))
                        .with_hint(format!("Name its key column with tables.{table}.key in the configuration."))
                });
            }
            None => {}
        }
        if let Some(key) = &self.sharding_key
            && let Some(kind) = sharded_by(table, key, columns)?
        {
            return Ok(kind);
        }
        Ok(match self.default {
            DefaultKind::Local => TableKind::Local(ShardId(0)),
            DefaultKind::Reference => TableKind::Reference,
        })
    }
}

fn sharded_by(table: &str, key: &str, columns: &[Column]) -> Result<Option<TableKind>, Refusal> {
    let Some(column) = columns.iter().position(|column| column.name == key) else { return Ok(None) };
    let found = &columns[column];
    let key_type = match found.type_oid {
        21 => KeyType::Int2,
        23 => KeyType::Int4,
        20 => KeyType::Int8,
        2950 => KeyType::Uuid,
        25 | 1043 if found.collation != Collation::Nondeterministic => KeyType::Text,
        _ => {
            let message = format!("column \"{key}\" of table \"{table}\" cannot be a sharding key");
            let hint = format!(
                "Use smallint, integer, bigint, uuid, or text with a deterministic collation; or make the table local with tables.{table}."
            );
            return Err(Refusal::unsupported(message, hint));
        }
    };
    Ok(Some(TableKind::Sharded { column, key_type }))
}

/// A column as CREATE TABLE writes it.
pub(crate) fn column_of(column: &ColumnDef, default_collation: Collation) -> Column {
    let type_oid = if column.target.array { 0 } else { type_oid(&column.target.name) };
    let collatable = matches!(type_oid, 25 | 1043 | 1042 | 19);
    let collation = match column.collation.as_deref() {
        Some("C" | "POSIX" | "ucs_basic" | "C.UTF-8" | "pg_c_utf8") => Collation::Bytes,
        // Another collation may be one that takes unlike bytes for equal; its name does not tell.
        Some(_) => Collation::Language,
        None if collatable && type_oid != 19 => default_collation,
        None => Collation::Bytes,
    };
    let typmod = match (type_oid, column.target.modifier) {
        (1042 | 1043, Some(length)) => length + 4,
        _ => -1,
    };
    let crossing = match type_oid {
        0 => Crossing::default(),
        _ => Crossing { form: CrossingForm::Binary, type_name: built_in_name(type_oid), ..Crossing::default() },
    };
    // The name of a collation in an open transaction is not looked up.
    let crossing = if column.collation.is_some() { Crossing::default() } else { crossing };
    let (name, not_null) = (column.name.to_string(), column.not_null);
    let origin = Origin::of(column.generated);
    let reading = Reading::of(!is_built_in_type(&column.target.name) || is_of_time(&column.target.name));
    Column {
        name,
        type_oid,
        typmod,
        not_null,
        primary: false,
        origin,
        reading,
        collation,
        crossing,
        default: ColumnDefault::None,
    }
}

/// Whether PostgreSQL itself brings the type of this name.
pub(crate) fn is_built_in_type(name: &str) -> bool {
    type_oid(name) != 0
}

/// Whether a text for a built-in type, or for a part of it, may say `now`.
pub(crate) fn is_of_time(name: &str) -> bool {
    matches!(
        name,
        "date"
            | "time"
            | "timetz"
            | "timestamp"
            | "timestamptz"
            | "daterange"
            | "tsrange"
            | "tstzrange"
            | "datemultirange"
            | "tsmultirange"
            | "tstzmultirange"
    )
}

/// A built-in type in SQL whose values can be elements of an array.
pub fn element_type(type_oid: u32) -> Option<String> {
    /// What values are shown to be that have no type of their own.
    const PSEUDO: [&str; 5] = ["cstring", "record", "trigger", "unknown", "void"];
    let named = |line: &&str| line.split_once(' ').is_some_and(|(_, oid)| oid.parse() == Ok(type_oid));
    let (name, _) = TYPES.lines().find(named)?.split_once(' ')?;
    let is_element = !name.starts_with('_') && !name.starts_with("any") && !PSEUDO.contains(&name);
    is_element.then(|| format!("pg_catalog.\"{name}\""))
}

/// A type in SQL that PostgreSQL itself brings, arrays too.
pub fn built_in_type(type_oid: u32) -> Option<String> {
    let known = TYPES.lines().any(|line| line.split_once(' ').is_some_and(|(_, oid)| oid.parse() == Ok(type_oid)));
    known.then(|| built_in_name(type_oid))
}

/// The type of this id in SQL.
fn built_in_name(type_oid: u32) -> String {
    let name = TYPES.lines().find_map(|line| {
        let (name, oid) = line.split_once(' ')?;
        (oid.parse() == Ok(type_oid)).then_some(name)
    });
    format!("pg_catalog.\"{}\"", name.unwrap_or("text"))
}

/// The id of a built-in type by its name in the grammar; 0 for any other.
fn type_oid(name: &str) -> u32 {
    let name = match name {
        "serial" | "serial4" => "int4",
        "bigserial" | "serial8" => "int8",
        "smallserial" | "serial2" => "int2",
        other => other,
    };
    let found = TYPES.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.and_then(|oid| oid.parse().ok()).unwrap_or(0)
}
