//! What the shards contain, as far as routing and merging must know it.

use std::collections::HashMap;

use crate::key::KeyType;
use crate::map::ShardId;

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
    /// User-defined functions and aggregates by name, all schemas and overloads together; what
    /// PostgreSQL itself brings is known without asking.
    pub functions: HashMap<String, Function>,
    /// Whether the database's default collation orders text by its bytes (`C`, `POSIX`, `C.UTF-8`).
    pub default_collation: Collation,
    /// The search_path of a session that has set none, without `pg_catalog` and `"$user"` expanded
    /// by the session: mostly `["$user", "public"]`.
    pub search_path: Vec<String>,
    /// Rules for tables that are yet to be created.
    pub rules: TableRules,
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
    /// A view or a materialised view: reads something the router did not look into.
    View,
    Foreign,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub type_oid: u32,
    pub typmod: i32,
    pub not_null: bool,
    pub collation: Collation,
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
