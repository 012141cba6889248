//! Our own tree of a statement: owned, small, and free of the parser's nodes.
//!
//! Two expressions are equal when they are written alike, wherever they stand: offsets do not count.

use super::Command;

/// A byte offset in the text. All offsets are equal, so that trees compare by what they say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct At(pub u32);

impl PartialEq for At {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

/// Where a constant stands among the literals of the text, if its value is exactly one of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slot(pub Option<(u16, bool)>);

impl PartialEq for Slot {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expr {
    /// `a`, `t.a`, `s.t.a`
    Column(Names),
    /// `*`, `t.*`
    Star(Names),
    /// Counted from 0.
    Param(u16),
    Const(Const),
    Cast(Box<Cast>),
    /// A binary or prefix operator.
    Op(Box<Op>),
    /// `a IN (b, c)`
    In(Box<In>),
    /// `a op ANY (array)` and `a op ALL (array)`
    Quantified(Box<Quantified>),
    And(Vec<Self>),
    Or(Vec<Self>),
    Not(Box<Self>),
    /// `a IS [NOT] NULL`
    IsNull(Box<Self>, bool),
    Func(Box<Func>),
    Sublink(Box<Sublink>),
    Array(Vec<Self>),
    Row(Vec<Self>),
    /// CURRENT_DATE, CURRENT_TIMESTAMP, LOCALTIME ...
    Clock,
    /// DEFAULT in VALUES or SET.
    Default,
    /// Anything else, known only by its parts: CASE, COALESCE, COLLATE, subscripts, CURRENT_USER ...
    Other(Box<Other>),
    /// Something the router does not look into.
    Opaque,
}

/// The dotted parts of a name.
pub(crate) type Names = Box<[Box<str>]>;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Const {
    pub value: Value,
    pub slot: Slot,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i32),
    /// As written: too big for an integer, or with a point or an exponent.
    Float(Box<str>),
    Text(Box<str>),
    Bits(Box<str>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cast {
    pub arg: Expr,
    pub target: TypeName,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TypeName {
    /// Without `pg_catalog`.
    pub name: Box<str>,
    pub array: bool,
    /// Has modifiers: `varchar(10)`.
    pub modified: bool,
    /// The first modifier when it is a number.
    pub modifier: Option<i32>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Op {
    pub name: Box<str>,
    /// `None` for a prefix operator.
    pub left: Option<Expr>,
    pub right: Expr,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct In {
    pub arg: Expr,
    pub list: Vec<Expr>,
    pub negated: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Quantified {
    pub arg: Expr,
    pub operator: Box<str>,
    pub array: Expr,
    pub all: bool,
}

#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a word of the call's syntax")]
pub(crate) struct Func {
    /// Without `pg_catalog`.
    pub name: Box<str>,
    /// Another schema than `pg_catalog` was named.
    pub schema: Option<Box<str>>,
    pub args: Vec<Expr>,
    pub star: bool,
    pub distinct: bool,
    pub variadic: bool,
    pub order: Vec<SortItem>,
    pub filter: Option<Expr>,
    pub over: Option<Window>,
    pub within_group: bool,
    pub at: At,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Window {
    /// The name it defines (WINDOW clause) or, after OVER, uses.
    pub name: Option<Box<str>>,
    /// The window it extends.
    pub base: Option<Box<str>>,
    pub partition: Vec<Expr>,
    pub order: Vec<SortItem>,
    pub bounds: Vec<Expr>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sublink {
    pub kind: SublinkKind,
    /// What stands before IN, ANY or ALL.
    pub test: Option<Expr>,
    pub operator: Option<Box<str>>,
    pub query: Query,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SublinkKind {
    Exists,
    /// IN (SELECT ...) and op ANY (SELECT ...); IN has no operator.
    Any,
    All,
    Scalar,
    Array,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Other {
    /// What it is, so that unlike things with like parts differ.
    pub what: Box<str>,
    pub args: Vec<Expr>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SortItem {
    pub expr: Expr,
    pub descending: bool,
    /// As written; `None` follows the direction.
    pub nulls_first: Option<bool>,
    /// ORDER BY x USING an operator that neither ASC nor DESC means.
    pub using: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Query {
    pub with: Option<Box<With>>,
    pub body: Body,
    pub order: Vec<SortItem>,
    pub limit: Option<Expr>,
    pub offset: Option<Expr>,
    pub with_ties: bool,
    /// FOR UPDATE, FOR SHARE ...: the names behind OF; none where all tables are meant.
    pub locking: Vec<Vec<Box<str>>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    Select(Box<Select>),
    Values(Vec<Vec<Expr>>),
    SetOp { kind: SetOp, all: bool, left: Box<Query>, right: Box<Query> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetOp {
    Union,
    Intersect,
    Except,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Select {
    pub distinct: Distinct,
    pub targets: Vec<Target>,
    pub from: Vec<From>,
    pub filter: Option<Expr>,
    pub group: Vec<Expr>,
    /// GROUPING SETS, CUBE, ROLLUP, GROUP BY DISTINCT.
    pub grouping_sets: bool,
    /// All that stands in a GROUP BY with grouping sets; `group` is empty then.
    pub in_sets: Vec<Expr>,
    pub having: Option<Expr>,
    pub windows: Vec<Window>,
    /// SELECT INTO: whether the table is temporary.
    pub into: Option<bool>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Distinct {
    No,
    Yes,
    On(Vec<Expr>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    pub name: Option<Box<str>>,
    pub expr: Expr,
    pub at: At,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct With {
    pub recursive: bool,
    pub ctes: Vec<Cte>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cte {
    pub name: Box<str>,
    pub columns: Vec<Box<str>>,
    pub statement: Dml,
    /// SEARCH or CYCLE, which add columns.
    pub extended: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum From {
    Table(Box<TableRef>),
    Query(Box<Derived>),
    Func(Box<FuncRef>),
    Join(Box<Join>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TableRef {
    pub schema: Option<Box<str>>,
    pub name: Box<str>,
    pub alias: Option<Alias>,
    pub rows: RowsOf,
    pub temporary: bool,
    pub at: At,
}

/// Which rows a table in FROM stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowsOf {
    All,
    /// ONLY: without those of the tables that inherit from it.
    Only,
    /// TABLESAMPLE
    Sample,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Alias {
    pub name: Box<str>,
    pub columns: Vec<Box<str>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Derived {
    pub query: Query,
    pub lateral: bool,
    pub alias: Option<Alias>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FuncRef {
    pub calls: Vec<Expr>,
    pub alias: Option<Alias>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JoinKind {
    Inner,
    Left,
    Right,
    Full,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Join {
    pub kind: JoinKind,
    pub natural: bool,
    pub using: Vec<Box<str>>,
    pub on: Option<Expr>,
    pub left: From,
    pub right: From,
    pub alias: Option<Alias>,
}

/// What a CTE may hold, and the statements that touch rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Dml {
    Query(Box<Query>),
    Insert(Box<Insert>),
    Update(Box<Update>),
    Delete(Box<Delete>),
    Merge(Box<Merge>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Insert {
    pub with: Option<Box<With>>,
    pub table: TableRef,
    /// Empty when no list is written.
    pub columns: Vec<Box<str>>,
    /// One of them is an element or a field of a column.
    pub into_parts: bool,
    /// `None` is DEFAULT VALUES.
    pub source: Option<Query>,
    pub conflict: Option<Conflict>,
    pub returning: Vec<Target>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Conflict {
    /// Plain columns of the conflict target.
    pub columns: Vec<Box<str>>,
    pub exprs: Vec<Expr>,
    pub set: Vec<Assignment>,
    /// DO UPDATE has a WHERE.
    pub filtered: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Assignment {
    pub column: Box<str>,
    pub value: Expr,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Update {
    pub with: Option<Box<With>>,
    pub table: TableRef,
    pub set: Vec<Assignment>,
    pub from: Vec<From>,
    pub filter: Option<Expr>,
    /// WHERE CURRENT OF this cursor.
    pub cursor: Option<Box<str>>,
    pub returning: Vec<Target>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Delete {
    pub with: Option<Box<With>>,
    pub table: TableRef,
    pub using: Vec<From>,
    pub filter: Option<Expr>,
    /// WHERE CURRENT OF this cursor.
    pub cursor: Option<Box<str>>,
    pub returning: Vec<Target>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Merge {
    pub with: Option<Box<With>>,
    pub table: TableRef,
    pub source: From,
    pub on: Option<Expr>,
    pub actions: Vec<MergeAction>,
    pub returning: Vec<Target>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MergeAction {
    pub condition: Option<Expr>,
    pub set: Vec<Assignment>,
    /// INSERT: the columns in `set` and these values, in the same order.
    pub values: Vec<Expr>,
    pub inserts: bool,
}

/// One statement.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stmt {
    Dml(Dml),
    Explain {
        /// Without the place of what it explains.
        explain: Box<super::Explain>,
        inner: Box<Self>,
    },
    Copy(Box<Copy>),
    Declare {
        name: String,
        hold: bool,
        query: Box<Query>,
    },
    Prepare {
        name: String,
    },
    Execute {
        name: String,
    },
    CreateTable(Box<CreateTable>),
    /// CREATE TABLE AS, CREATE MATERIALIZED VIEW, EXPLAIN-able: the new table and what fills it.
    CreateTableAs {
        table: TableRef,
        view: bool,
        empty: bool,
        /// New names for the first columns.
        columns: Vec<Box<str>>,
        /// The prepared statement that fills it, by name.
        execute: Option<String>,
    },
    CreateView {
        table: TableRef,
        query: Option<Box<Query>>,
    },
    CreateIndex {
        table: TableRef,
        unique: bool,
        concurrently: bool,
        columns: Vec<Option<Box<str>>>,
        name: Option<Box<str>>,
        if_not_exists: bool,
    },
    AlterTable {
        table: TableRef,
        changes: Vec<Change>,
        transactional: bool,
    },
    RenameColumn {
        table: TableRef,
        column: Box<str>,
    },
    /// ALTER TABLE ... RENAME TO and SET SCHEMA, of views too.
    Rename {
        table: TableRef,
        name: Option<Box<str>>,
        schema: Option<Box<str>>,
    },
    /// ALTER SCHEMA ... RENAME TO
    RenameSchema {
        schema: Box<str>,
        name: Box<str>,
    },
    /// REFRESH MATERIALIZED VIEW
    Refresh {
        table: TableRef,
        concurrently: bool,
    },
    /// DDL about something that only the first shard has.
    AtHome,
    /// CREATE TRIGGER, CREATE OR REPLACE FUNCTION, CREATE SCHEMA: what they do is seen when they have run.
    Unread,
    /// CREATE RULE ... DO something
    Rule {
        table: TableRef,
    },
    /// Other DDL, which runs on every shard.
    Ddl {
        transactional: bool,
    },
    Lock {
        tables: Vec<TableRef>,
    },
    Truncate,
    /// CALL of a procedure.
    Call {
        procedure: Box<str>,
    },
    /// A DO block with this body.
    Do {
        code: Box<str>,
        plpgsql: bool,
    },
    Load,
    /// ANALYZE
    Analyze,
    /// VACUUM, CHECKPOINT, CLUSTER, REINDEX
    Maintenance {
        transactional: bool,
    },
    /// SET CONSTRAINTS
    SetConstraints,
    /// The command says it all: BEGIN, SET, LISTEN ...
    Session(Box<Command>),
}

/// COPY.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Copy {
    pub from: bool,
    /// STDIN or STDOUT, not a file or a program.
    pub stream: bool,
    pub table: Option<TableRef>,
    pub columns: Vec<Box<str>>,
    pub query: Option<Dml>,
    pub options: Vec<(Box<str>, CopyOption)>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum CopyOption {
    Text(Box<str>),
    Flag(bool),
    /// Names of columns.
    Names(Vec<Box<str>>),
    /// `*`
    All,
    Other,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CreateTable {
    pub table: TableRef,
    pub columns: Vec<ColumnDef>,
    pub constraints: Vec<Constraint>,
    /// LIKE other
    pub like: Vec<TableRef>,
    /// INHERITS or PARTITION OF
    pub parents: Vec<TableRef>,
    pub partition: bool,
    /// ON COMMIT DROP
    pub dropped_at_commit: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ColumnDef {
    pub name: Box<str>,
    pub target: TypeName,
    pub not_null: bool,
    pub generated: bool,
    pub collation: Option<Box<str>>,
}

/// What must hold over all rows of a table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Constraint {
    /// PRIMARY KEY and UNIQUE.
    Unique { primary: bool, columns: Vec<Box<str>> },
    /// ADD CONSTRAINT ... USING INDEX, of an index that was checked when it was made.
    UsingIndex,
    /// The columns that are compared by `=`.
    Exclusion { equal: Vec<Box<str>> },
    Foreign {
        columns: Vec<Box<str>>,
        table: TableRef,
        referenced: Vec<Box<str>>,
        /// ON UPDATE changes the referencing row.
        follows: bool,
    },
}

/// One part of an ALTER TABLE, as far as it can break a promise.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    AddConstraint(Constraint),
    DropColumn(Box<str>),
    AlterType(Box<str>),
    Other,
}
