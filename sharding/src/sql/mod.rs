//! SQL text -> statements that the session and the planner understand.
//!
//! The only module that calls the parser. Its own tree stays inside the crate; what leaves is one
//! [`Statement`] for every statement of a request.

pub(crate) mod calls;
pub mod cells;
pub mod code;
pub(crate) mod ctes;
pub(crate) mod functions;
pub(crate) mod insert;
pub(crate) mod lex;
pub mod moments;
pub(crate) mod parse;
mod parse_error;
mod parse_expr;
mod parse_query;
mod parse_utility;
pub(crate) mod planner;
pub mod rows;
pub mod shape;
pub(crate) mod spans;
pub(crate) mod tree;
pub(crate) mod walk;

use std::ops::Range;
use std::sync::Arc;

use crate::plan::Plan;

pub use planner::Planner;
use shape::Shape;
pub use spans::{with_clock, with_cte};

/// All statements of one request's text, analysed and planned against one catalog version.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    pub statements: Vec<Statement>,
    /// Of the whole text.
    pub shape: Shape,
}

impl Script {
    /// The text of one statement in the request's `text`. A script of a single statement may have
    /// been planned for another text of the same shape, so there the whole text is meant.
    pub fn text_of<'t>(&self, statement: usize, text: &'t str) -> &'t str {
        match self.statements.as_slice() {
            [_] => text,
            statements => statements.get(statement).and_then(|found| text.get(found.span.clone())).unwrap_or(""),
        }
    }
}

/// One statement: what the session must know, and the plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// Its bytes in the request's text, without the semicolon; see [`Script::text_of`].
    pub span: Range<usize>,
    pub command: Command,
    pub access: Access,
    pub effects: Effects,
    /// The highest `$n`.
    pub params: u16,
    pub plan: Plan,
    /// The prepared statement that it runs: EXECUTE, EXPLAIN EXECUTE, CREATE TABLE AS EXECUTE.
    pub execute: Option<Box<Execute>>,
    /// The cursor whose row it changes: WHERE CURRENT OF.
    pub current_of: Option<Box<str>>,
}

impl Statement {
    /// The cursor that it is about: it runs where that is.
    pub fn cursor(&self) -> Option<&str> {
        match &self.command {
            Command::Cursor(name) | Command::Close(Some(name)) => Some(name),
            _ => self.current_of.as_deref(),
        }
    }
}

/// What a statement may do to rows, which decides about replicas and about commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Proved to change nothing and to run on a replica.
    Read,
    /// Changes no row, but needs the primary: FOR UPDATE, advisory locks, EXPLAIN ANALYZE of such.
    Lock,
    /// Changes rows, or is not proved not to.
    Write,
}

/// What a statement leaves behind in the server that runs it, beyond rows and settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an effect of its own")]
pub struct Effects {
    /// Why the session must keep this server from now on.
    pub pin: Option<Pin>,
    /// The catalog may look different after it commits (CREATE, ALTER, DROP, ...).
    pub changes_catalog: bool,
    /// It may have given back advisory locks.
    pub unlocks: bool,
    /// It may have moved a sequence, other than by values that the router gives out.
    pub moves_sequences: bool,
}

/// Why a session keeps its server after the transaction. Of several reasons the first counts: those
/// that can end by themselves stand last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pin {
    TempTable,
    /// set_config() or a function known to SET.
    SetConfig,
    HoldCursor,
    Listen,
    /// PREPARE in procedural code: only its server knows the statement.
    Prepare,
    /// currval() and lastval() look at what nextval() left in the session.
    Sequence,
    Load,
    AdvisoryLock,
    /// set_config(..., true), a function that does SET LOCAL, CREATE TEMP TABLE ... ON COMMIT DROP: no
    /// reason beyond the transaction.
    UntilCommit,
}

/// What kind of statement it is, for the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Select,
    Insert,
    Update,
    Delete,
    Merge,
    Ddl,
    CopyFromStdin,
    CopyToStdout,
    Explain(Box<Explain>),
    Begin(TransactionOptions),
    Commit {
        chain: bool,
    },
    Rollback {
        chain: bool,
    },
    Savepoint(String),
    Release(String),
    RollbackTo(String),
    /// PREPARE TRANSACTION and COMMIT/ROLLBACK PREPARED.
    TwoPhase,
    /// SET [SESSION | LOCAL] name = value; also SET ROLE, SET TIME ZONE, SET NAMES, SET SESSION
    /// AUTHORIZATION under the names of their settings.
    Set {
        local: bool,
        name: String,
        value: SetValue,
    },
    /// SELECT set_config('name', 'value', false): the same as SET where it is alone in its text.
    SetConfig {
        name: String,
        value: String,
    },
    /// SELECT pg_listening_channels() or SELECT * FROM pg_listening_channels(), under this column name.
    ListeningChannels(String),
    /// SET TRANSACTION ...
    SetTransaction(TransactionOptions),
    /// SET SESSION CHARACTERISTICS AS TRANSACTION ..., as the default_transaction_* settings it sets.
    SetSessionCharacteristics(Vec<(String, String)>),
    Reset(String),
    ResetAll,
    Show(String),
    DiscardAll,
    Discard,
    Prepare(Box<Prepare>),
    /// See [`Statement::execute`].
    Execute,
    /// `None` is DEALLOCATE ALL.
    Deallocate(Option<String>),
    Listen(String),
    /// `None` is UNLISTEN *.
    Unlisten(Option<String>),
    Notify,
    DeclareCursor {
        name: String,
        hold: bool,
        /// The bytes of the cursor's query in the text.
        query: Range<usize>,
    },
    /// FETCH or MOVE of a cursor.
    Cursor(String),
    /// `None` is CLOSE ALL.
    Close(Option<String>),
    /// VACUUM, ANALYZE, LOCK, CALL, DO, CHECKPOINT, ...
    Other,
    /// Nothing but white space and comments.
    Empty,
}

/// The value of a SET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetValue {
    Default,
    /// As it is written after `SET name TO`: `'UTC'`, `on`, `a, b`, already quoted where needed.
    Text(String),
    /// FROM CURRENT and anything else that only the server can evaluate.
    Current,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransactionOptions {
    pub read_only: Option<bool>,
    pub isolation: Option<Isolation>,
    pub deferrable: Option<bool>,
}

impl TransactionOptions {
    /// The modes as they follow BEGIN or SET TRANSACTION; `None` when there are none.
    pub fn modes(&self) -> Option<String> {
        let modes = [
            self.isolation.map(|isolation| match isolation {
                Isolation::ReadUncommitted => "ISOLATION LEVEL READ UNCOMMITTED",
                Isolation::ReadCommitted => "ISOLATION LEVEL READ COMMITTED",
                Isolation::RepeatableRead => "ISOLATION LEVEL REPEATABLE READ",
                Isolation::Serializable => "ISOLATION LEVEL SERIALIZABLE",
            }),
            self.read_only.map(|only| if only { "READ ONLY" } else { "READ WRITE" }),
            self.deferrable.map(|may| if may { "DEFERRABLE" } else { "NOT DEFERRABLE" }),
        ];
        let modes: Vec<&str> = modes.into_iter().flatten().collect();
        (!modes.is_empty()).then(|| modes.join(" "))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isolation {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

/// EXPLAIN of a statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explain {
    pub analyze: bool,
    pub format: ExplainFormat,
    /// All options in their order, by name, with the value if one is written.
    pub options: Vec<(String, Option<String>)>,
    /// The bytes of the explained statement in the request's text; of a DECLARE, of its query.
    pub inner: Range<usize>,
}

/// How an EXPLAIN shows plans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExplainFormat {
    #[default]
    Text,
    Json,
    Yaml,
    Xml,
}

impl Explain {
    /// Whether an option of yes and no is on; `default` says it where nothing is written.
    pub fn is_on(&self, option: &str, default: bool) -> bool {
        let written = self.options.iter().rfind(|(name, _)| name == option);
        written.map_or(default, |(_, value)| value.as_deref().is_none_or(is_on))
    }
}

/// Whether a word turns an option on.
pub(crate) fn is_on(word: &str) -> bool {
    ["on", "true", "yes", "1", "t", "y"].iter().any(|on| word.eq_ignore_ascii_case(on))
}

/// PREPARE of a statement. All ranges are bytes of the request's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepare {
    pub name: String,
    /// Where the name is written, quotes included.
    pub at: Range<usize>,
    /// How many types are declared for parameters.
    pub types: usize,
    /// The statement that is prepared.
    pub inner: Range<usize>,
}

/// EXECUTE of a prepared statement. All ranges are bytes of the request's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execute {
    pub name: String,
    /// Where the name is written, quotes included.
    pub at: Range<usize>,
    /// What stands between the brackets; `None` without them.
    pub args: Option<Range<usize>>,
    /// How many arguments there are.
    pub count: usize,
}

/// The cached result of planning, shared between sessions of a worker.
pub type SharedScript = Arc<Script>;

/// Bounds of a planner.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest statement text that is parsed; a longer one is refused with `54000`.
    pub statement_bytes_max: usize,
    /// Deepest nesting of the parser's tree; deeper is refused with `54001`.
    pub depth_max: usize,
    /// All cached plans together, by an estimate of their size.
    pub cache_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // Planning recurses as deep as this; a stack of 2 MB must be enough for it. Without optimisation a level
        // takes several times as much.
        let depth_max = if cfg!(debug_assertions) { 200 } else { 1000 };
        Self { statement_bytes_max: 16 << 20, depth_max, cache_bytes_max: 64 << 20 }
    }
}

/// Counters of a planner since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlannerStats {
    pub text_hits: u64,
    pub shape_hits: u64,
    pub misses: u64,
    pub entries: usize,
    pub bytes: usize,
}
