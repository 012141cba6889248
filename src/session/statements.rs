//! Prepared statements and portals by the client's names.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use pgsluice_sharding::ShardId;
use pgsluice_sharding::plan::{Copies, Draft, FinalQuery, Gather, InsertRows, Write};
use pgsluice_sharding::sql::SharedScript;

use crate::pool::server::StatementId;
use crate::protocol::error::Shift;

use super::Reading;

/// A statement that a client has parsed: text, parameter types and what the planner made of it.
#[derive(Debug)]
pub struct PreparedStatement {
    pub id: StatementId,
    pub text: Rc<str>,
    /// Declared types; 0 or missing where the client leaves the type to the server.
    pub param_types: Rc<[u32]>,
    /// The types of all parameters, once a server has described them.
    pub resolved_types: OnceCell<Rc<[u32]>>,
    /// Made for this catalog version; planned again when the catalog has changed.
    pub catalog_version: u64,
    /// Read so; planned again when the session reads otherwise.
    pub reading: Rc<Reading>,
    pub script: SharedScript,
    /// Some server has accepted it: another Parse of it needs no server.
    pub accepted: Cell<bool>,
    /// The shape of its rows as a hash, once a server has described it.
    pub row: Cell<Option<u64>>,
    /// What servers are shown of it, if that is another text.
    pub judged: Option<Rc<str>>,
    /// Its pieces, once values were put into it.
    pub draft: OnceCell<Rc<Draft>>,
    pub held: HeldText,
}

/// Counts the statements that exist and the bytes of their texts.
#[derive(Debug, Default)]
pub struct Texts {
    count: Cell<usize>,
    bytes: Cell<usize>,
}

impl Texts {
    /// Counts a text for as long as what this gives lives.
    pub fn hold(self: &Rc<Self>, text: &str) -> HeldText {
        self.count.set(self.count.get() + 1);
        self.bytes.set(self.bytes.get() + text.len());
        HeldText { texts: self.clone(), bytes: text.len() }
    }

    /// How many there are, and their bytes.
    pub fn held(&self) -> (usize, usize) {
        (self.count.get(), self.bytes.get())
    }
}

/// One text that is counted.
#[derive(Debug)]
pub struct HeldText {
    texts: Rc<Texts>,
    bytes: usize,
}

impl Drop for HeldText {
    fn drop(&mut self) {
        self.texts.count.set(self.texts.count.get() - 1);
        self.texts.bytes.set(self.texts.bytes.get() - self.bytes);
    }
}

impl PreparedStatement {
    /// The text that servers know.
    pub fn server_text(&self) -> &Rc<str> {
        self.judged.as_ref().unwrap_or(&self.text)
    }

    /// How many parameters it has.
    pub fn parameters(&self) -> usize {
        let named = self.script.statements.first().map_or(0, |first| usize::from(first.params));
        named.max(self.param_types.len())
    }
}

/// A statement of a client's.
#[derive(Clone, Debug)]
struct Known {
    statement: Rc<PreparedStatement>,
    told: Told,
}

/// Whether the client knows what rows a statement gives: then they must not change.
#[derive(Clone, Copy, Debug)]
enum Told {
    No,
    /// What [`PreparedStatement::row`] says.
    Row,
    /// Rows of another shape: they have changed since others were told.
    Other(u64),
}

/// A bound statement.
#[derive(Clone, Debug)]
pub enum Portal {
    /// It lives on the server that runs it; `server` is the id of that server.
    OnServer { server: u64, statement: Rc<PreparedStatement> },
    /// The same for an EXECUTE of SQL, `outer`. It runs `inner`, which its server must have by then.
    Execute { server: u64, outer: Rc<PreparedStatement>, inner: Rc<PreparedStatement>, shift: Shift },
    /// It reads on several shards: parameters and formats are kept until Execute.
    Many(Rc<ManyPortal>),
    /// The router answers it itself or runs it on every shard.
    Router(Rc<PreparedStatement>),
    /// It has written on several shards; what it gave back is handed out in portions.
    Kept(Rc<KeptRows>),
}

/// Rows that a write has given back and that wait for the client to ask for them.
#[derive(Debug)]
pub struct KeptRows {
    pub portal: Rc<ManyPortal>,
    /// Whole DataRow messages.
    pub rows: RefCell<Bytes>,
    /// The command tag, for the last of them.
    pub tag: String,
}

/// What Bind said of a statement that runs on several shards.
#[derive(Debug)]
pub struct ManyPortal {
    pub statement: Rc<PreparedStatement>,
    pub read: ManyRead,
    /// The body of the Bind message.
    pub bind: Bytes,
    /// The shape of the rows, if the client was told.
    pub row_told: Option<u64>,
    /// It has run to its end.
    pub ran: Cell<bool>,
}

/// A statement over several shards, with the shards that it turned out to concern.
#[derive(Debug)]
pub enum ManyRead {
    /// The router merges; what else can be done if the types of the rows forbid it.
    Merged { gather: Arc<Gather>, shards: Vec<ShardId>, or_else: Option<FinalRead> },
    /// PostgreSQL finishes.
    Finished(FinalRead),
    /// Rows are written, on all shards concerned or on none.
    Written(ManyWrite),
}

/// A write on several shards.
#[derive(Debug)]
pub enum ManyWrite {
    /// Each of `target` runs the statement for its own rows, with what `read` brings of others. With `copies` the rows are the same everywhere.
    Each { read: FinalRead, target: Vec<ShardId>, copies: Option<Copies> },
    /// The rows of an INSERT, each with its shard, in their order.
    Rows { insert: InsertRows, places: Vec<ShardId> },
    /// The rows of a query: [`Write::Selected`].
    Selected { write: Arc<Write>, source: RowSource },
    /// An UPDATE of the key, of rows on these shards: [`Write::Moved`].
    Moved { write: Arc<Write>, read: FinalRead, target: Vec<ShardId> },
    /// CTEs that write beside something else: [`Write::Staged`].
    Staged { write: Arc<Write> },
}

/// Where the rows of an INSERT ... SELECT come from.
#[derive(Debug)]
pub enum RowSource {
    /// One shard, which runs the query as it is.
    Shard(ShardId),
    Many(Box<ManyRead>),
}

/// A final query and where its parts run.
#[derive(Debug)]
pub struct FinalRead {
    pub query: Arc<FinalQuery>,
    /// Where it ends, unless the session is at work somewhere already and any shard will do.
    pub home: ShardId,
    /// The shards of every input; none when no shard can have such rows.
    pub inputs: Vec<Vec<ShardId>>,
    /// What is done when the types or the size of the inputs forbid this one.
    pub or_else: Option<Box<Self>>,
}

/// The statements and portals of one client.
#[derive(Debug)]
pub struct Statements {
    unnamed: Option<Known>,
    named: HashMap<Box<str>, Known>,
    unnamed_portal: Option<Portal>,
    portals: HashMap<Box<str>, Portal>,
    /// Bound on named statements and portals together.
    max: usize,
    /// Names of statements whose Parse has not been answered yet, in order.
    unanswered: VecDeque<Box<str>>,
    /// What names stood for before each change, while changes may be taken back.
    journal: Option<Vec<(Box<str>, Option<Known>)>>,
}

/// Why a statement is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// `42P05`: there is one of that name.
    Duplicate,
    /// The bound is reached.
    Full,
}

impl Statements {
    pub fn new(max: usize) -> Self {
        Self {
            unnamed: None,
            named: HashMap::new(),
            unnamed_portal: None,
            portals: HashMap::new(),
            max,
            unanswered: VecDeque::new(),
            journal: None,
        }
    }

    /// Takes the statement of a Parse that has no answer yet; the unnamed one replaces its predecessor.
    ///
    /// # Errors
    /// A name that is taken, or the bound.
    pub fn insert(&mut self, name: &str, statement: Rc<PreparedStatement>) -> Result<(), NotTaken> {
        let known = Known { statement, told: Told::No };
        self.note(name);
        if name.is_empty() {
            self.unnamed = Some(known);
        } else {
            self.insert_named(name, known)?;
        }
        self.unanswered.push_back(name.into());
        Ok(())
    }

    /// Takes the statement of a PREPARE: its rows are settled from then on, as after a Describe.
    ///
    /// # Errors
    /// See [`Self::insert`].
    pub fn declare(&mut self, name: &str, statement: Rc<PreparedStatement>, row: u64) -> Result<(), NotTaken> {
        let told = if statement.row.get() == Some(row) { Told::Row } else { Told::Other(row) };
        self.insert_named(name, Known { statement, told })
    }

    fn insert_named(&mut self, name: &str, known: Known) -> Result<(), NotTaken> {
        if self.named.contains_key(name) {
            return Err(NotTaken::Duplicate);
        }
        if self.named.len() + self.portals.len() >= self.max {
            return Err(NotTaken::Full);
        }
        self.named.insert(name.into(), known);
        Ok(())
    }

    /// The client is told what rows a statement gives.
    pub fn tell_row(&mut self, name: &str) {
        self.note(name);
        if let Some(known) = self.known_mut(name) {
            known.told = Told::Row;
        }
    }

    /// The rows of which the client is told are not those that others were told of.
    pub fn tell_other_row(&mut self, id: StatementId, row: u64) {
        for known in self.named.values_mut().chain(&mut self.unnamed) {
            if known.statement.id == id && matches!(known.told, Told::Row) {
                known.told = Told::Other(row);
            }
        }
    }

    /// The shape of a statement's rows, if the client knows them.
    pub fn row_told(&self, name: &str) -> Option<u64> {
        let known = self.known(name)?;
        match known.told {
            Told::No => None,
            Told::Row => known.statement.row.get(),
            Told::Other(row) => Some(row),
        }
    }

    /// The client gets ParseComplete for the statement that has waited longest for it.
    pub fn parsed(&mut self) {
        self.unanswered.pop_front();
    }

    /// An error comes in the place of all further answers: what has no ParseComplete never was.
    pub fn forget_unanswered(&mut self) {
        while let Some(name) = self.unanswered.pop_front() {
            self.close(&name);
        }
    }

    /// Puts a statement planned anew in the place of the old one.
    pub fn replace(&mut self, name: &str, statement: Rc<PreparedStatement>) {
        if let Some(known) = self.known_mut(name) {
            known.statement = statement;
            if matches!(known.told, Told::Other(_)) {
                known.told = Told::Row;
            }
        }
    }

    pub fn get(&self, name: &str) -> Option<&Rc<PreparedStatement>> {
        self.known(name).map(|known| &known.statement)
    }

    /// From now on changes of the names may be taken back.
    pub fn begin_journal(&mut self) {
        self.journal = Some(Vec::new());
    }

    /// How many changes of names could be taken back.
    pub fn journal_len(&self) -> usize {
        self.journal.as_ref().map_or(0, Vec::len)
    }

    /// The oldest `count` changes stay; `usize::MAX` for all.
    pub fn settle_journal(&mut self, count: usize) {
        if let Some(journal) = &mut self.journal {
            drop(journal.drain(..count.min(journal.len())));
        }
    }

    pub fn end_journal(&mut self) {
        self.journal = None;
    }

    /// Takes back what the names have gone through since the journal began; Parse messages since then
    /// have no answer.
    pub fn rewind(&mut self) {
        self.unanswered.clear();
        for (name, before) in self.journal.take().unwrap_or_default().into_iter().rev() {
            match before {
                Some(known) if name.is_empty() => self.unnamed = Some(known),
                Some(known) => drop(self.named.insert(name, known)),
                None => self.close(&name),
            }
        }
    }

    fn note(&mut self, name: &str) {
        if self.journal.is_some() {
            let before = self.known(name).cloned();
            self.journal.get_or_insert_default().push((name.into(), before));
        }
    }

    fn known(&self, name: &str) -> Option<&Known> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) }
    }

    fn known_mut(&mut self, name: &str) -> Option<&mut Known> {
        if name.is_empty() { self.unnamed.as_mut() } else { self.named.get_mut(name) }
    }

    pub fn close(&mut self, name: &str) {
        self.note(name);
        if name.is_empty() {
            self.unnamed = None;
        } else {
            self.named.remove(name);
        }
    }

    pub fn bind(&mut self, portal: &str, bound: Portal) {
        if portal.is_empty() {
            self.unnamed_portal = Some(bound);
        } else {
            self.portals.insert(portal.into(), bound);
        }
    }

    pub fn has_portal(&self, name: &str) -> bool {
        self.portal(name).is_some()
    }

    pub fn portal(&self, name: &str) -> Option<&Portal> {
        if name.is_empty() { self.unnamed_portal.as_ref() } else { self.portals.get(name) }
    }

    /// Whether the unnamed portal is that of the server with this id.
    pub fn unnamed_portal_is_on(&self, id: u64) -> bool {
        match &self.unnamed_portal {
            Some(Portal::OnServer { server, .. } | Portal::Execute { server, .. }) => *server == id,
            Some(Portal::Many(_) | Portal::Router(_) | Portal::Kept(_)) | None => false,
        }
    }

    pub fn close_portal(&mut self, name: &str) {
        if name.is_empty() {
            self.unnamed_portal = None;
        } else {
            self.portals.remove(name);
        }
    }

    /// Portals end with their transaction.
    pub fn close_portals(&mut self) {
        self.unnamed_portal = None;
        if !self.portals.is_empty() {
            self.portals.clear();
        }
    }

    pub fn len(&self) -> usize {
        self.named.len()
    }

    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// DEALLOCATE ALL: statements without a name and portals stay.
    pub fn deallocate_all(&mut self) {
        self.named.clear();
    }

    /// DISCARD ALL.
    pub fn clear(&mut self) {
        self.unnamed = None;
        self.named.clear();
        self.close_portals();
    }
}
