//! One client as the router knows it: settings, transaction, statements, portals, pins. Pure: it is
//! told what the client sent and what the servers answered, and says what that means.
//!
//! - [`sequences`]: what sequences gave it
//! - [`settings`]: what was SET, and how a server is brought to it
//! - [`transaction`]: the only holder of "is this client in a transaction"
//! - [`statements`]: prepared statements and portals by the client's names

pub mod sequences;
pub mod settings;
pub mod statements;
pub mod transaction;

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::Instant;

use pgsluice_sharding::ShardId;
use pgsluice_sharding::sql::{Command, Pin, SetValue};

use sequences::SequenceValues;
use settings::{Settings, quote_literal};
use statements::Statements;
use transaction::Transaction;

/// Everything that must outlive a statement.
#[derive(Debug)]
pub struct Session {
    pub user: Rc<str>,
    pub database: Rc<str>,
    /// The settings of the startup packet: what RESET goes back to.
    base: Rc<Settings>,
    /// What the next statement must run with.
    current: Rc<Settings>,
    pub transaction: Transaction,
    pub statements: Statements,
    reading: Rc<Reading>,
    /// What the reading was made of: the settings, and those for one transaction.
    read_under: (Rc<Settings>, Option<Rc<Settings>>),
    /// Not 0 while its server knows what the router does not; see [`Reading`].
    apart: u64,
    pins: BTreeSet<Pin>,
    /// It may hold no advisory lock any more.
    unlocked: bool,
    /// The channels that it listens to.
    pub listens: BTreeSet<String>,
    /// Where the cursors of DECLARE are.
    cursors: HashMap<String, Cursor>,
    /// The server that it wrote on last: what it did to sequences is known there alone.
    pub last_server_written: Option<(ShardId, u64)>,
    /// What the router gave it of sequences.
    pub sequences: SequenceValues,
    /// When this session last wrote on each shard: replicas that are older may not serve it.
    wrote: Vec<Option<Instant>>,
}

/// What decides, beyond its text, what a prepared statement means: constants in it are read, names are
/// looked up and parts are computed under the settings of the session that prepares it. Only who reads
/// a text in the same way may share what a server has made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub settings: Settings,
    /// A number of the session's own when it has changed its server in ways that the router does not
    /// know: by temporary tables, or by settings that a function has made.
    pub apart: u64,
}

impl Reading {
    /// As it is written after SET; `None` when it is the server's default.
    pub fn search_path(&self) -> Option<&str> {
        self.settings.get("search_path").filter(|path| *path != "DEFAULT")
    }
}

#[derive(Clone, Copy, Debug)]
struct Cursor {
    shard: ShardId,
    /// WITH HOLD: it outlives its transaction.
    held: bool,
    /// Its transaction has been committed.
    kept: bool,
}

/// A change of the session's settings, as a statement asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingChange {
    Set { name: String, value: String },
    Reset(String),
    ResetAll,
}

impl SettingChange {
    /// What a statement does to the session's settings once it has succeeded; SET LOCAL does nothing
    /// beyond its transaction.
    pub fn of(command: &Command) -> Vec<Self> {
        match command {
            Command::Set { local: false, name, value: SetValue::Text(value) } => {
                vec![Self::Set { name: name.clone(), value: value.clone() }]
            }
            Command::Set { local: false, name, value: SetValue::Default } => vec![Self::Reset(name.clone())],
            Command::SetConfig { name, value } => {
                vec![Self::Set { name: name.clone(), value: quote_literal(value) }]
            }
            Command::SetSessionCharacteristics(settings) => {
                let set =
                    |(name, value): &(String, String)| Self::Set { name: name.clone(), value: quote_literal(value) };
                settings.iter().map(set).collect()
            }
            Command::Reset(name) => vec![Self::Reset(name.clone())],
            Command::ResetAll => vec![Self::ResetAll],
            _ => Vec::new(),
        }
    }

    /// What the change makes of a server's settings, where RESET goes back to the server's default.
    pub fn apply_to_server(&self, settings: &mut Settings) {
        match self {
            Self::Set { name, value } => settings.set(name, value.clone()),
            Self::Reset(name) => settings.reset(name),
            Self::ResetAll => settings.reset_all(),
        }
    }

    /// What the change leaves of settings for one transaction: it takes their place.
    pub fn end_local(&self, local: &mut Settings) {
        match self {
            Self::Set { name, .. } | Self::Reset(name) => local.reset(name),
            Self::ResetAll => local.reset_all(),
        }
    }

    /// What the change makes of a session's settings, where RESET goes back to the startup packet.
    fn apply_to_session(&self, settings: &mut Settings, base: &Settings) {
        self.apply_to_server(settings);
        let restored: Vec<(&str, &str)> = match self {
            Self::Set { .. } => Vec::new(),
            Self::Reset(name) => base.iter().filter(|(base_name, _)| base_name.eq_ignore_ascii_case(name)).collect(),
            Self::ResetAll => base.iter().collect(),
        };
        for (name, value) in restored {
            settings.set(name, value.to_owned());
        }
    }
}

impl Session {
    /// A session that has just logged in, over `shards` shards.
    pub fn new(user: Rc<str>, database: Rc<str>, base: Rc<Settings>, shards: u16, statements_max: usize) -> Self {
        Self {
            user,
            database,
            reading: Rc::new(Reading { settings: base.reading(None), apart: 0 }),
            read_under: (base.clone(), None),
            apart: 0,
            current: base.clone(),
            base,
            transaction: Transaction::default(),
            statements: Statements::new(statements_max),
            pins: BTreeSet::new(),
            unlocked: false,
            listens: BTreeSet::new(),
            cursors: HashMap::new(),
            last_server_written: None,
            sequences: SequenceValues::default(),
            wrote: vec![None; usize::from(shards)],
        }
    }

    pub fn settings(&self) -> &Rc<Settings> {
        &self.current
    }

    /// How a statement is read that is prepared now.
    pub fn reading(&mut self) -> Rc<Reading> {
        let local = self.transaction.block().and_then(|block| block.local_settings());
        let is_same = |a: Option<&Rc<Settings>>, b: Option<&Rc<Settings>>| a.map(Rc::as_ptr) == b.map(Rc::as_ptr);
        let (known, known_local) = &self.read_under;
        let is_known = Rc::ptr_eq(known, &self.current) && is_same(known_local.as_ref(), local);
        if !is_known || self.reading.apart != self.apart {
            self.read_under = (self.current.clone(), local.cloned());
            let settings = self.current.reading(self.read_under.1.as_deref());
            let reading = Reading { settings, apart: self.apart };
            if *self.reading != reading {
                self.reading = Rc::new(reading);
            }
        }
        self.reading.clone()
    }

    /// Its server knows what the router does not, until it is given back: nobody else reads statements
    /// as this session does. `number` is one that no session had before.
    pub fn set_apart(&mut self, number: u64) {
        self.apart = number;
    }

    /// It has given back its server.
    pub fn set_apart_no_more(&mut self) {
        self.apart = 0;
    }

    /// The encoding that the client has asked for, as it is written after SET.
    pub fn client_encoding(&self) -> Option<&str> {
        let local = self.transaction.block().and_then(|block| block.local_settings()?.get("client_encoding"));
        local.or_else(|| self.current.get("client_encoding")).filter(|name| *name != "DEFAULT")
    }

    /// The search path of the next statement, as it is written after SET.
    pub fn search_path(&self) -> Option<&str> {
        let local = self.transaction.block().and_then(|block| block.local_settings()?.get("search_path"));
        local.or_else(|| self.current.get("search_path")).filter(|path| *path != "DEFAULT")
    }

    /// Takes a change of the settings that a server has accepted.
    pub fn change_settings(&mut self, change: &SettingChange) {
        let mut settings = (*self.current).clone();
        change.apply_to_session(&mut settings, &self.base);
        self.current = Rc::new(settings);
    }

    /// Goes back to settings as they were, after a rollback.
    pub fn restore_settings(&mut self, settings: Rc<Settings>) {
        self.current = settings;
    }

    /// DISCARD ALL: as freshly logged in.
    pub fn discard(&mut self) {
        self.current = self.base.clone();
        self.statements.clear();
        self.pins.clear();
        self.apart = 0;
        self.sequences.discard();
        self.listens.clear();
        self.cursors.clear();
    }

    /// DECLARE of a cursor has succeeded on a shard.
    pub fn declared(&mut self, cursor: &str, shard: ShardId, held: bool) {
        self.cursors.insert(cursor.to_owned(), Cursor { shard, held, kept: false });
    }

    /// The shard of a cursor.
    pub fn cursor(&self, name: &str) -> Option<ShardId> {
        self.cursors.get(name).map(|cursor| cursor.shard)
    }

    /// CLOSE of a cursor, or of all, has succeeded; a rollback does not bring them back.
    pub fn closed(&mut self, cursor: Option<&str>) {
        match cursor {
            Some(cursor) => drop(self.cursors.remove(cursor)),
            None => self.cursors.clear(),
        }
        self.unpin_without_cursors();
    }

    /// Cursors end with their transaction, but for those WITH HOLD.
    pub fn close_cursors(&mut self) {
        self.cursors.retain(|_, cursor| cursor.held);
        self.cursors.values_mut().for_each(|cursor| cursor.kept = true);
    }

    /// The transaction has been rolled back: its cursors are gone, those WITH HOLD too.
    pub fn lose_cursors(&mut self) {
        self.cursors.retain(|_, cursor| cursor.kept);
        self.unpin_without_cursors();
    }

    fn unpin_without_cursors(&mut self) {
        if !self.cursors.values().any(|cursor| cursor.held) {
            self.pins.remove(&Pin::HoldCursor);
        }
    }

    pub fn pin(&mut self, reason: Pin) {
        self.pins.insert(reason);
    }

    pub fn unpin(&mut self, reason: Pin) {
        self.pins.remove(&reason);
    }

    pub fn is_pinned_by(&self, reason: Pin) -> bool {
        self.pins.contains(&reason)
    }

    /// A statement may have given back advisory locks.
    pub fn may_have_unlocked(&mut self) {
        self.unlocked = true;
    }

    /// Whether it is worth asking the server if it still has advisory locks: nothing else holds the
    /// session there. Asks once for every statement that may have given back some.
    pub fn take_unlocked(&mut self) -> bool {
        let only_locks = self.transaction.is_idle() && self.pins.iter().eq([&Pin::AdvisoryLock]);
        only_locks && std::mem::take(&mut self.unlocked)
    }

    pub fn is_pinned(&self) -> bool {
        !self.pins.is_empty()
    }

    /// Why the session keeps its servers, for SHOW CLIENTS.
    pub fn pins(&self) -> impl Iterator<Item = Pin> {
        self.pins.iter().copied()
    }

    pub fn wrote_on(&mut self, shard: ShardId, now: Instant) {
        if let Some(wrote) = self.wrote.get_mut(usize::from(shard.0)) {
            *wrote = Some(now);
        }
    }

    /// When the session last wrote on a shard, if ever.
    pub fn last_write(&self, shard: ShardId) -> Option<Instant> {
        self.wrote.get(usize::from(shard.0)).copied().flatten()
    }
}
