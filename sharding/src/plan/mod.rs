//! Where a statement runs and what is done with the rows, as data that prints itself.
//!
//! One rule holds for every plan: **when the shards it names come down to one, the statement goes
//! there as the client wrote it**, and nothing above the route runs. The tree of a [`Gather`] is for
//! two shards and more.

mod added;
mod aggregates;
mod bind;
mod bind_dml;
mod bind_expr;
mod bind_query;
mod bind_values;
mod build;
mod code_of_ddl;
mod code_of_trigger;
mod computed;
mod conditions;
mod copy_plan;
mod crossing;
mod ddl;
mod decide;
mod display;
mod draft;
mod final_groups;
mod final_parts;
mod final_query;
mod from_ddl;
mod having;
pub mod hazards;
mod hindrances;
mod mirror;
mod moved;
mod phases;
pub mod promises;
mod reasons;
mod reduce;
mod resolve;
mod route;
pub mod row_arrays;
mod row_numbers;
mod scope;
mod splice;
mod stages;
mod steps;
mod stored;
mod targets;
mod terms;
mod texts_of_time;
mod undetermined;
mod view;
mod write;

use std::sync::Arc;

use crate::copy::{CopyFrom, CopyQuery};
use crate::key::KeyType;
use crate::map::ShardId;
use crate::refusal::Refusal;

pub use added::{AddedColumn, AddedColumns, AddedValue};
pub use code_of_trigger::TriggerCode;
pub use computed::Computed;
pub(crate) use decide::{Context, plan_statement};
pub use draft::{Draft, Given, Sequence, Sequences, Wanted, without_unique_ids};
pub use final_query::quoted;
pub use phases::{Phase, build_with};
pub use row_arrays::RowArrays;
pub use row_numbers::RowNumbers;
pub use stages::{Carried, Stage, StageColumn, StagedWrite};
pub use steps::Step;
pub use view::{can_stand_for_view, view_kind};
pub use write::turn_of_writers;

/// How one statement is answered. Immutable once made.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// On one shard, untouched: the key is known, or the answer is the same anywhere, or the tables
    /// live on one shard. If the keys turn out to name several shards, `many` is the refusal.
    Route { shards: Shards, many: Option<Box<Refusal>> },
    /// Read on several shards and merged here.
    Gather(Arc<Gather>),
    /// Read on several shards and finished by PostgreSQL.
    Final(Arc<FinalQuery>),
    /// The same text on every shard: DDL, TRUNCATE, GRANT, VACUUM.
    Broadcast(Broadcast),
    /// Rows are written that may be on several shards. One shard does it alone, as the client wrote it.
    Write(Arc<Write>),
    /// The router gets values first and puts them into the text, which is then planned.
    Computed(Arc<Computed>),
    /// COPY ... FROM STDIN into a sharded or reference table.
    CopyFrom(Arc<CopyFrom>),
    /// COPY ... TO STDOUT of rows that lie on several shards, in no order: one shard's after the other's. With `header`
    /// each begins with a line of names.
    CopyTo { shards: Shards, header: bool },
    /// COPY (query) TO STDOUT of a query that is planned by itself when it runs; the router prints its rows.
    CopyQuery(Arc<CopyQuery>),
    /// Nothing goes to any server: the session answers (BEGIN, SAVEPOINT, DEALLOCATE, ...).
    Session,
    /// Not answered while there is more than one shard.
    Refused(Box<Refusal>),
}

/// In which steps the same text runs on every shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broadcast {
    /// All at once or not at all.
    Together,
    /// The same, but before that is so it is looked at what has become of the tables ([`promises`]).
    Checked,
    /// LOCK TABLE, SET CONSTRAINTS: only a transaction block gives it a meaning; outside, one server says what there is to say.
    InBlock,
    /// ANALYZE: shard by shard outside of a transaction block, at once within one.
    Loosely,
    /// All at once or not at all, and the rows that the shards tell of are added up: CREATE TABLE AS.
    Filled,
    /// All at once or not at all: the table is made without rows, then they are inserted as any others are: CREATE TABLE AS, SELECT INTO.
    Inserted(Box<InsertedTable>),
    /// What PostgreSQL refuses inside a transaction block (VACUUM): shard by shard.
    Apart,
    /// CREATE INDEX CONCURRENTLY: shard by shard, and only where the index is not yet.
    Index(Box<NewIndex>),
}

/// A table that a query fills whose rows may lie on other shards than those that they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InsertedTable {
    /// Makes the table without rows.
    pub create: Box<str>,
    /// Puts them in; none if the table is there already.
    pub insert: Option<Box<str>>,
    /// How many characters stand before the query in `create` that do not in the client's text.
    pub added: u32,
    /// What the query lacks of the client's text: from which of its characters on, and how many.
    pub left_out: (u32, u32),
}

impl InsertedTable {
    /// The position in the client's text of what is at `position` in `create`; both count characters from 1.
    pub fn position(&self, position: u32) -> u32 {
        let at = position.saturating_sub(self.added).max(1);
        let (from, count) = self.left_out;
        if at > from { at + count } else { at }
    }
}

/// An index to be made without locking its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewIndex {
    pub schema: Option<String>,
    pub table: String,
    /// PostgreSQL chooses one if there is none.
    pub name: Option<String>,
    pub if_not_exists: bool,
}

/// Which shards a statement concerns.
#[derive(Clone, Debug, PartialEq)]
pub enum Shards {
    /// Any one gives the same answer: no tables, catalogs, reference tables.
    Any,
    /// The home of a local table.
    One(ShardId),
    /// Where these keys live. All of them are values for key columns of one type; `stored_in` says
    /// how many characters of them a column keeps that they are to be stored in.
    Keys { key_type: KeyType, keys: Vec<KeyValue>, null: NullKey, stored_in: Option<u32> },
    /// The home of a local table and where these keys live, which must be the same shard.
    Home { home: ShardId, keys: Box<Self> },
    /// Every shard.
    All,
}

/// What a NULL among the keys means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NullKey {
    /// A comparison with NULL is never true: no shard holds such rows.
    Nothing,
    /// A row to be stored has no shard: refused with `23502`.
    Refused(KeyColumn),
    /// A row to be stored, if there is one, has no shard: its column is NOT NULL, so any server refuses it.
    Left,
}

/// The column of a key that is stored, as the client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyColumn {
    /// Without its schema.
    pub table: Arc<str>,
    pub column: Arc<str>,
}

/// Where a key value is found once parameters and literals are at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyValue {
    /// The literal with this number among the literals of the request's text, in order of
    /// appearance (see [`crate::sql::shape`]); `negative` when a minus sign stands before it.
    Literal { slot: u16, negative: bool },
    /// A literal whose slot is not kept: the decoded text of a constant.
    Constant(Box<str>),
    /// Parameter `$n`, counted from 0.
    Param(u16),
    /// All elements of the array parameter `$n`, counted from 0: `= ANY($1)`.
    ParamElements(u16),
    /// A NULL literal: it equals nothing, so no shard holds such rows; an INSERT refuses it.
    Null,
}

/// A read on several shards and what the router does with their rows.
///
/// Every shard runs `sql` (the original with splices) by the extended protocol, with the client's
/// parameters. Its columns are first the `visible` ones, in the formats the client asked for, then
/// helper columns, always in binary.
#[derive(Clone, Debug, PartialEq)]
pub struct Gather {
    pub shards: Shards,
    /// What every shard runs.
    pub sql: String,
    /// The same, if the statement asks for the time: a parameter behind the client's, a `timestamptz`, says when the transaction began,
    /// and no shard looks at its own clock.
    pub timed_sql: Option<String>,
    /// How many helper columns `sql` has at its end.
    pub helpers: u16,
    /// What happens in the router; the leaf is [`Node::Route`].
    pub tree: Node,
    /// Parameters that `sql` does not use any more but the client still sends; their numbers stay
    /// the same, so nothing is renumbered. Highest parameter number in the original, 0 for none.
    pub params: u16,
    /// What is done when the types or the size of the rows forbid this merge.
    pub or_else: Option<Arc<FinalQuery>>,
    /// Every shard locks its rows of the answer, so no two clients may ask the shards in different orders.
    pub locks: bool,
}

/// A read that one server finishes, with the rows of the shards as input.
///
/// That server runs `sql`: the client's text, where in the place of every sharded table stands a subquery over arrays. The arrays are
/// parameters that follow the client's, one for each column of each input, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct FinalQuery {
    /// A parameter behind the client's and before the arrays, a `timestamptz`, says when the transaction began.
    pub timed: bool,
    /// Where the rows are; one shard answers alone.
    pub shards: Shards,
    /// The shard that has what no other has: local tables, sequences. Else any will do.
    pub home: Option<ShardId>,
    pub inputs: Vec<Input>,
    /// In which order they are read.
    pub order: Vec<usize>,
    pub sql: String,
    /// `sql` for people: in the place of each subquery over arrays stands the number and the table of its input.
    pub shown: String,
    /// Highest parameter number in the client's text, 0 for none.
    pub params: u16,
    /// What is done when the types or the size of the inputs forbid this one.
    pub or_else: Option<Arc<Self>>,
}

/// The rows of one table that a final query needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// For EXPLAIN and errors.
    pub table: String,
    /// Its columns are all visible, and read in binary.
    pub gather: Gather,
    pub source: Source,
    /// How it can be read when inputs before it are small.
    pub narrowed: Option<Narrowed>,
}

/// An input of which only rows are asked for that can be joined with those of others.
#[derive(Clone, Debug, PartialEq)]
pub struct Narrowed {
    /// What every shard runs; the time, if it is told, stands before the arrays among the parameters.
    pub sql: String,
    /// The arrays that follow as parameters: of which input, and of which of its columns the values are.
    pub by: Vec<(usize, usize)>,
}

/// Where a final query finds the rows of an input.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// An item of FROM, as it stands in the query's text: one array for each column, as parameters.
    pub arrays: String,
    /// The same when the columns are those of a table, `c1`, `c2` and so on: what is before the table's name, and what behind it.
    pub table: [String; 2],
    /// The types of the columns in SQL, as they cross.
    pub types: Vec<String>,
}

impl FinalQuery {
    /// The text when the rows of the inputs are not in arrays but in these tables, with columns `c1`, `c2` and so on.
    pub fn over_tables(&self, tables: &[String]) -> String {
        let mut sql = self.sql.clone();
        for (Input { source, .. }, name) in self.inputs.iter().zip(tables) {
            let [before, behind] = &source.table;
            sql = sql.replace(&source.arrays, &format!("{before}pg_temp.{name}{behind}"));
        }
        sql
    }
}

/// A write on several shards: all of them do it or none.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Each shard runs the statement for its own rows.
    Each(EachShard),
    /// The rows of an INSERT ... VALUES, each on its shard.
    Rows(InsertRows),
    /// The rows that a query gives, each to its shard.
    Selected(SelectedRows),
    /// An UPDATE of the key: rows go to other shards.
    Moved(MovedRows),
    /// CTEs that write beside something else: each of them by itself, then the rest.
    Staged(StagedWrite),
}

impl Write {
    /// Where all rows are that the statement concerns; if that is one shard, it runs the statement as it is.
    pub fn shards(&self) -> &Shards {
        match self {
            Self::Each(each) => &each.query.shards,
            Self::Rows(insert) => &insert.keys,
            Self::Selected(rows) => &rows.shards,
            Self::Moved(_) => &Shards::All,
            Self::Staged(staged) => &staged.shards,
        }
    }
}

/// A statement that every shard runs for the rows it has.
#[derive(Clone, Debug, PartialEq)]
pub struct EachShard {
    /// The text, with what it reads of other shards as inputs. It has no home: all of `target` run it.
    pub query: Arc<FinalQuery>,
    /// Where rows are written.
    pub target: Shards,
    /// For a reference table, of which every shard has a copy.
    pub copies: Option<Copies>,
}

/// A write of a reference table: the rows are the same on every shard, so they count once.
#[derive(Clone, Debug, PartialEq)]
pub struct Copies {
    pub table: Box<str>,
    /// What each shard runs before: [`turn_of_writers`].
    pub turn: Box<str>,
    /// For a statement that would find other values on every shard.
    pub mirror: Option<Arc<Mirror>>,
}

/// How the copies of a reference table get the same rows from a statement that only the first shard runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// What stands behind the statement, so that it gives the rows as it leaves them: behind the client's own columns one for each of the
    /// table's, and whether they tell all of the row.
    pub returning: String,
    /// The types of those columns.
    pub elements: Vec<u32>,
    /// What the other shards run, with one array for each of those columns as its parameters. It tells how many rows it has changed, how many
    /// of them are not as they came, and how many came without being told in full.
    pub sql: String,
    /// The statement takes values of sequences.
    pub moves_sequences: bool,
}

/// Rows that stand in the text of an INSERT.
#[derive(Clone, Debug, PartialEq)]
pub struct InsertRows {
    /// The key of every row, in the order of the rows: always [`Shards::Keys`].
    pub keys: Shards,
    /// The text asks for the time, which all shards are told.
    pub timed: bool,
    /// Highest parameter number in the text, 0 for none.
    pub params: u16,
    pub returns: Returns,
    pub turns: Turns,
    /// How a shard takes its rows when all their values are plain.
    pub arrays: Option<RowArrays>,
}

/// Which rows of an INSERT come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returns {
    Nothing,
    /// As many as are given.
    EveryRow,
    /// ON CONFLICT or a trigger may pass rows over, so each comes with its number.
    Numbered(RowNumbers),
}

/// When the shards of an INSERT store their rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turns {
    Together,
    /// One after the other: ON CONFLICT may lock rows that others lock too, and clients that all lock in one order never wait in a circle.
    InOrder,
}

/// An INSERT or MERGE whose rows come from a query.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectedRows {
    /// Where all rows are that it reads and writes, if that is known.
    pub shards: Shards,
    /// The query, as a statement of its own.
    pub text: String,
    /// How it is answered.
    pub source: Plan,
    /// Where the rows go: what stands before the query in the client's text, and what behind it.
    pub around: [String; 2],
    /// What the query's columns are for, in their order.
    pub columns: RowColumns,
    /// What the router adds to each row.
    pub added: Option<AddedColumns>,
    pub key_type: KeyType,
    pub key_column: KeyColumn,
    /// How many characters of the key its column keeps.
    pub stored_in: Option<u32>,
    /// ON CONFLICT DO UPDATE: all rows of a shard have to be in one statement, for no row may be hit twice.
    pub at_once: bool,
    /// Highest parameter number in the client's text, 0 for none.
    pub params: u16,
}

/// An UPDATE that sets the sharding key. Rows whose new key is on the same shard are updated there, the others are deleted and inserted where
/// their new key is.
#[derive(Clone, Debug, PartialEq)]
pub struct MovedRows {
    /// Where the rows are that it concerns.
    pub target: Shards,
    /// The statement, with what it reads of other tables as inputs. The texts below are made of its text.
    pub query: Arc<FinalQuery>,
    /// Locks those rows and gives for each: `ctid`, the same with its table and the new key as text, the new key.
    pub find: String,
    /// Updates the rows with this `ctid` and text, the two parameters behind the inputs.
    pub update: String,
    /// Deletes such rows and gives all columns as the update would leave them.
    pub delete: String,
    /// The same in two steps.
    pub apart: Box<MovedApart>,
    /// How those are stored.
    pub insert: SelectedRows,
    /// Asks for what acts otherwise when a row is deleted and inserted: one row for each, with one of [`Hindrance`] and what it is called.
    pub hindrances: String,
    /// The statement reads reference tables, whose rows may change between its steps.
    pub rereads: bool,
}

/// How rows are taken out that are to be updated first, on their old shard.
#[derive(Clone, Debug, PartialEq)]
pub struct MovedApart {
    /// Updates the rows, as that of [`MovedRows`], and gives for each `ctid` and the same with its table as text.
    pub update: String,
    /// Deletes the rows with these, the two parameters behind the client's own and the time, and gives all columns.
    pub delete: String,
}

/// Why a row that is deleted and inserted may be something else than one that is updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// It cannot be helped.
    Always,
    /// Not if it is updated before it is deleted.
    UnlessUpdated,
    /// If it is updated before it is deleted.
    IfUpdated,
}

impl Hindrance {
    /// From the answer to [`MovedRows::hindrances`].
    pub fn of(word: &str) -> Self {
        match word {
            "unless" => Self::UnlessUpdated,
            "if" => Self::IfUpdated,
            _ => Self::Always,
        }
    }
}

/// What the columns of rows are for that come from a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowColumns {
    /// They fill these columns of the table. The one of this number is the key.
    Filled { columns: Vec<TargetColumn>, key: usize },
    /// They are those of the table by this name that MERGE uses, in SQL. Its column of this name equals the key.
    Used { table: String, key: String },
}

/// A column that an INSERT fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetColumn {
    pub name: String,
    /// As the catalog numbers it; 0 when that is not known.
    pub type_oid: u32,
    /// In SQL, with schema and quotes.
    pub type_name: String,
}

/// A column of a shard's row. Helpers are counted from the first helper, because a star hides how
/// many visible columns there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnRef {
    Visible(u16),
    Helper(u16),
}

/// What the router does with rows. Below is what it reads from.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// The rows of every shard, one stream each.
    Route,
    /// The streams one after another, in whatever order they come.
    Append { input: Box<Self> },
    /// Streams that are each sorted by `keys` -> one sorted stream. Nothing is buffered.
    MergeSort { keys: Vec<SortKey>, input: Box<Self> },
    /// Equal values of `keys` are brought together and their aggregates combined. When `sorted`,
    /// the input is sorted by the group keys, and each group is given out as soon as it is complete;
    /// else groups are kept in memory, in order of appearance. Without keys there is exactly one group.
    Aggregate { keys: Vec<GroupKey>, aggregates: Vec<Aggregate>, sorted: bool, input: Box<Self> },
    /// Rows for which `condition` is true stay.
    Having { condition: Condition, input: Box<Self> },
    /// Equal rows become one; equality by the binary values of `keys`. When `sorted`, equal rows are
    /// neighbours.
    Distinct { keys: Vec<GroupKey>, sorted: bool, input: Box<Self> },
    /// Rows are kept in memory and given out sorted.
    Sort { keys: Vec<SortKey>, input: Box<Self> },
    /// A window of the rows. Rows that are equal to its last one by `ties` follow it; none do without such keys.
    Limit { count: Option<Count>, offset: Option<Count>, ties: Vec<SortKey>, input: Box<Self> },
    /// Only the visible columns leave.
    Project { input: Box<Self> },
}

/// A column whose equal values are brought together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupKey {
    pub column: ColumnRef,
    /// What the planner knows of the collation, if the type turns out to have one.
    pub collation: crate::catalog::Collation,
}

/// One key of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortKey {
    pub value: SortValue,
    pub descending: bool,
    pub nulls_first: bool,
    /// What the planner knows of the collation, if the type turns out to have one.
    pub collation: crate::catalog::Collation,
    /// The expression as the client wrote it, for EXPLAIN and error messages.
    pub name: String,
}

/// What a sort looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortValue {
    /// A helper column of the shards' rows.
    Column(ColumnRef),
    /// The result of the aggregate with this number, above an [`Node::Aggregate`].
    Aggregate(u16),
}

/// How the partial results of one aggregate are combined and where they are shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    pub function: AggregateFunction,
    /// The visible column that shows the result, if any (HAVING and ORDER BY may need hidden ones).
    pub output: Option<u16>,
    /// As the client wrote it, for EXPLAIN: `sum(amount)`.
    pub name: String,
}

/// Where the partial results of an aggregate are found. All helper columns are binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregateFunction {
    /// The counts are added.
    Count {
        count: ColumnRef,
    },
    /// The sums are added in the type PostgreSQL's sum() over the original type gives.
    Sum {
        sum: ColumnRef,
    },
    /// sum divided by count, as PostgreSQL's avg() over the original type gives it.
    Avg {
        sum: ColumnRef,
        count: ColumnRef,
    },
    /// The different values are counted, of the rows whose `present` is not zero. No shard counts a value twice, but
    /// its rows are finer than the groups: there is one for every value. When `sorted`, equal values of a group are
    /// neighbours.
    CountDistinct {
        value: GroupKey,
        present: ColumnRef,
        sorted: bool,
    },
    /// From the sums of the values and of their squares, as PostgreSQL computes it for exact numbers.
    Spread {
        measure: Measure,
        count: ColumnRef,
        sum: ColumnRef,
        squares: ColumnRef,
    },
    /// Bits of integers are combined.
    Bits {
        operation: BitOperation,
        bits: ColumnRef,
    },
    /// The least value; the winner's visible column is shown as it came. Of truth values that is bool_and().
    Min {
        value: ColumnRef,
        collation: crate::catalog::Collation,
    },
    Max {
        value: ColumnRef,
        collation: crate::catalog::Collation,
    },
}

/// How far values are from their mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// `var_samp`, by its other name `variance`.
    VarSamp,
    VarPop,
    /// `stddev_samp`, by its other name `stddev`.
    StddevSamp,
    StddevPop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitOperation {
    And,
    Or,
    Xor,
}

/// A condition over results of aggregates, in three-valued logic.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    Compare {
        left: Operand,
        operator: Comparison,
        right: Operand,
    },
    IsNull {
        operand: Operand,
        negated: bool,
    },
    /// The result of the aggregate with this number, which is a truth value.
    Truth(u16),
    And(Vec<Self>),
    Or(Vec<Self>),
    Not(Box<Self>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    /// The result of the aggregate with this number.
    Aggregate(u16),
    /// A number as the client wrote it: `10`, `-2.5`, `1e6`.
    Number(String),
    /// Parameter `$n` counted from 0, of a numeric type.
    Param(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

/// The number of a LIMIT or OFFSET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    Rows(u64),
    /// An error, but only once PostgreSQL has found nothing else wrong.
    Negative,
    /// Parameter `$n`, counted from 0; NULL means no limit.
    Param(u16),
}

/// The shards a statement turns out to concern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardSet {
    /// Any one will do.
    Any,
    One(ShardId),
    /// Two or more, ascending; may be all.
    Many(Vec<ShardId>),
}

/// What a request brings: literals of the text, parameters of the Bind.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    pub text: &'a str,
    /// The literals of `text` in order of appearance, as byte ranges.
    pub literals: &'a [crate::sql::shape::Literal],
    pub params: &'a [crate::key::Input<'a>],
}
