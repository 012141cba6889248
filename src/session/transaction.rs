//! Whether a client is in a transaction, and how a server joins it.

use std::rc::Rc;

use pgsluice_sharding::sql::{Isolation, TransactionOptions};

use crate::protocol::backend::TransactionStatus;
use crate::session::SettingChange;
use crate::session::settings::Settings;

/// The transaction block of one client. Nothing else holds this fact.
#[derive(Debug, Default)]
pub enum Transaction {
    #[default]
    Idle,
    Open(Block),
    /// An error happened; only ROLLBACK, or ROLLBACK TO a savepoint, leads out.
    Failed(Block),
}

/// What a server must be told when it joins, and what a rollback brings back.
#[derive(Debug)]
pub struct Block {
    /// Statements from BEGIN on that later servers must repeat: BEGIN, SET TRANSACTION, SET,
    /// SAVEPOINT, in order.
    prelude: Vec<Rc<str>>,
    options: TransactionOptions,
    /// The session's settings before BEGIN.
    settings: Rc<Settings>,
    /// What a server has that was brought to those settings and has run the prelude: RESET goes
    /// further there than in a session with settings of its startup packet.
    on_servers: Rc<Settings>,
    snapshot: Snapshot,
    /// What was SET LOCAL.
    local: Option<Rc<Settings>>,
    savepoints: Vec<Savepoint>,
    extent: Extent,
    /// LISTEN and UNLISTEN, which count from the commit on.
    listens: Vec<ListenChange>,
}

/// A change of what a session listens to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenChange {
    Listen(String),
    Unlisten(String),
    UnlistenAll,
}

/// What a block has seen of the shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Snapshot {
    /// Nothing of it has run, though statements may have been described.
    None,
    /// What the shards show that have joined.
    OfJoined,
    /// Every shard has a snapshot of it, so that it may read anywhere.
    OfAll,
}

/// How far a block reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// From BEGIN to COMMIT or ROLLBACK.
    Begun,
    /// PostgreSQL makes one transaction of the statements that a text has outside of a block; it ends
    /// with the text, and BEGIN turns it into a block.
    Text,
}

#[derive(Debug)]
struct Savepoint {
    name: String,
    /// How much of the prelude came before and includes it.
    prelude: usize,
    settings: Rc<Settings>,
    on_servers: Rc<Settings>,
    local: Option<Rc<Settings>>,
    /// How many changes of what it listens to came before.
    listens: usize,
    /// What follows lasts until the savepoint is gone, one way or the other.
    read_only: Option<bool>,
}

impl Block {
    /// All that a joining server must run first, as one simple query.
    pub fn prelude(&self) -> String {
        self.prelude.join(";")
    }

    pub fn settings_before(&self) -> &Rc<Settings> {
        &self.settings
    }

    /// The settings of a server that has joined the block.
    pub fn settings_on_servers(&self) -> &Rc<Settings> {
        &self.on_servers
    }

    /// What was SET LOCAL in the block and holds until its end.
    pub fn local_settings(&self) -> Option<&Rc<Settings>> {
        self.local.as_ref()
    }

    /// What a chained block begins with: a BEGIN with this block's options, those of SET TRANSACTION
    /// too.
    pub fn characteristics(&self) -> (String, TransactionOptions) {
        let begin = self.options.modes().map_or_else(|| "BEGIN".to_owned(), |modes| format!("BEGIN {modes}"));
        (begin, self.options.clone())
    }

    /// Whether BEGIN or SET TRANSACTION said READ ONLY, or the session's default at the beginning.
    pub fn is_read_only(&self) -> bool {
        let default = || self.settings.get("default_transaction_read_only").is_some_and(is_on);
        self.options.read_only.unwrap_or_else(default)
    }

    /// Whether every statement of the block may go to a replica: READ ONLY and an isolation that
    /// replicas have.
    pub fn fits_replica(&self) -> bool {
        self.options.read_only == Some(true) && self.isolation() != Some(Isolation::Serializable)
    }

    /// As BEGIN or SET TRANSACTION said, or as the session's default was at the beginning; `None` when
    /// it is the server's default.
    fn isolation(&self) -> Option<Isolation> {
        let default = || isolation_named(self.settings.get("default_transaction_isolation")?);
        self.options.isolation.or_else(default)
    }

    pub fn snapshot(&self) -> Snapshot {
        self.snapshot
    }

    /// Whether the block promises one snapshot, which cannot be had over several shards.
    pub fn needs_one_snapshot(&self) -> bool {
        self.isolation().is_some_and(|isolation| isolation >= Isolation::RepeatableRead)
    }
}

/// Whether a setting is on; its value is as it is written in SQL.
pub fn is_on(value: &str) -> bool {
    matches!(value.trim_matches(['\'', '"']).to_ascii_lowercase().as_str(), "on" | "true" | "yes" | "1")
}

/// The isolation level that a setting names; its value is as it is written in SQL.
pub fn isolation_named(value: &str) -> Option<Isolation> {
    match value.trim_matches(['\'', '"']).to_ascii_lowercase().as_str() {
        "read uncommitted" => Some(Isolation::ReadUncommitted),
        "read committed" => Some(Isolation::ReadCommitted),
        "repeatable read" => Some(Isolation::RepeatableRead),
        "serializable" => Some(Isolation::Serializable),
        _ => None,
    }
}

impl Transaction {
    /// What ReadyForQuery tells the client.
    pub fn status(&self) -> TransactionStatus {
        match self {
            Self::Idle => TransactionStatus::Idle,
            Self::Open(_) => TransactionStatus::Open,
            Self::Failed(_) => TransactionStatus::Failed,
        }
    }

    pub fn is_idle(&self) -> bool {
        matches!(self, Self::Idle)
    }

    pub fn is_failed(&self) -> bool {
        matches!(self, Self::Failed(_))
    }

    pub fn block(&self) -> Option<&Block> {
        match self {
            Self::Idle => None,
            Self::Open(block) | Self::Failed(block) => Some(block),
        }
    }

    /// BEGIN, as the client wrote it.
    pub fn begin(&mut self, text: &str, options: TransactionOptions, settings: Rc<Settings>) {
        let prelude = vec![text.into()];
        *self = Self::Open(Block {
            prelude,
            options,
            on_servers: settings.clone(),
            settings,
            snapshot: Snapshot::None,
            local: None,
            savepoints: Vec::new(),
            extent: Extent::Begun,
            listens: Vec::new(),
        });
    }

    /// The statements of a text that follow are one transaction.
    pub fn begin_text(&mut self, settings: Rc<Settings>) {
        self.begin("BEGIN", TransactionOptions::default(), settings);
        if let Self::Open(block) = self {
            block.extent = Extent::Text;
        }
    }

    /// BEGIN in a text behind other statements: they belong to the block.
    pub fn outlive_text(&mut self) {
        if let Self::Open(block) = self {
            block.extent = Extent::Begun;
        }
    }

    pub fn ends_with_text(&self) -> bool {
        self.block().is_some_and(|block| block.extent == Extent::Text)
    }

    /// The block is over, whichever way; gives back what a rollback restores.
    pub fn end(&mut self) -> Option<Rc<Settings>> {
        match std::mem::take(self) {
            Self::Idle => None,
            Self::Open(block) | Self::Failed(block) => Some(block.settings),
        }
    }

    /// An error: PostgreSQL ignores all further commands of the block.
    pub fn fail(&mut self) {
        *self = match std::mem::take(self) {
            Self::Idle => Self::Idle,
            Self::Open(block) | Self::Failed(block) => Self::Failed(block),
        };
    }

    /// A statement that later servers must repeat, with what it does to their settings: SET, SET LOCAL,
    /// SET TRANSACTION.
    pub fn remember(&mut self, text: &str, changes: &[SettingChange]) {
        let Self::Open(block) = self else { return };
        block.prelude.push(text.into());
        if !changes.is_empty() {
            let mut settings = (*block.on_servers).clone();
            changes.iter().for_each(|change| change.apply_to_server(&mut settings));
            block.on_servers = Rc::new(settings);
            if let Some(local) = &mut block.local {
                let local = Rc::make_mut(local);
                changes.iter().for_each(|change| change.end_local(local));
            }
        }
    }

    /// SET LOCAL has succeeded.
    pub fn set_local(&mut self, name: &str, value: String) {
        if let Self::Open(block) = self {
            Rc::make_mut(block.local.get_or_insert_default()).set(name, value);
        }
    }

    /// LISTEN or UNLISTEN in a block.
    pub fn change_listens(&mut self, change: ListenChange) {
        if let Self::Open(block) = self {
            block.listens.push(change);
        }
    }

    /// The changes that the commit brings.
    pub fn take_listens(&mut self) -> Vec<ListenChange> {
        match self {
            Self::Open(block) => std::mem::take(&mut block.listens),
            Self::Idle | Self::Failed(_) => Vec::new(),
        }
    }

    /// The isolation of the block; `None` outside of one, and when it is the server's default.
    pub fn isolation(&self) -> Option<Isolation> {
        self.block().and_then(Block::isolation)
    }

    /// A statement runs, or snapshots are taken on every shard.
    pub fn takes_snapshot(&mut self, snapshot: Snapshot) {
        if let Self::Open(block) = self {
            block.snapshot = block.snapshot.max(snapshot);
        }
    }

    /// SET TRANSACTION has succeeded.
    pub fn set_options(&mut self, options: &TransactionOptions) {
        if let Self::Open(block) = self {
            block.options.read_only = options.read_only.or(block.options.read_only);
            block.options.isolation = options.isolation.or(block.options.isolation);
            block.options.deferrable = options.deferrable.or(block.options.deferrable);
        }
    }

    pub fn savepoint(&mut self, name: &str, text: &str, settings: Rc<Settings>) {
        if let Self::Open(block) = self {
            block.prelude.push(text.into());
            let prelude = block.prelude.len();
            let listens = block.listens.len();
            let (on_servers, local) = (block.on_servers.clone(), block.local.clone());
            let (name, read_only) = (name.to_owned(), block.options.read_only);
            block.savepoints.push(Savepoint { name, prelude, settings, on_servers, local, listens, read_only });
        }
    }

    pub fn has_savepoint(&self, name: &str) -> bool {
        self.block().is_some_and(|block| block.savepoints.iter().any(|savepoint| savepoint.name == name))
    }

    /// RELEASE of a savepoint and all after it. Later servers repeat it too, to stand where the
    /// others stand.
    pub fn release(&mut self, name: &str, text: &str) {
        if let Self::Open(block) = self
            && let Some(at) = block.savepoints.iter().rposition(|savepoint| savepoint.name == name)
        {
            block.options.read_only = block.savepoints[at].read_only;
            block.savepoints.truncate(at);
            block.prelude.push(text.into());
        }
    }

    /// ROLLBACK TO a savepoint: the block lives again; gives back the settings of that moment.
    pub fn rollback_to(&mut self, name: &str) -> Option<Rc<Settings>> {
        let (Self::Open(mut block) | Self::Failed(mut block)) = std::mem::take(self) else { return None };
        let settings = block.savepoints.iter().rposition(|savepoint| savepoint.name == name).map(|at| {
            block.savepoints.truncate(at + 1);
            let savepoint = &block.savepoints[at];
            block.prelude.truncate(savepoint.prelude);
            block.listens.truncate(savepoint.listens);
            block.options.read_only = savepoint.read_only;
            block.on_servers = savepoint.on_servers.clone();
            block.local = savepoint.local.clone();
            savepoint.settings.clone()
        });
        *self = Self::Open(block);
        settings
    }

    /// What the block did before its savepoints is lost in part: only ROLLBACK leads out.
    pub fn forget_savepoints(&mut self) {
        if let Self::Open(block) | Self::Failed(block) = self {
            block.savepoints.clear();
        }
    }

    /// A server that alone carries the block has said where it stands: a text of several statements
    /// may have begun or ended it unseen. Gives back the settings from before the block when it has
    /// ended.
    pub fn follow(&mut self, status: TransactionStatus, settings: &Rc<Settings>) -> Option<Rc<Settings>> {
        match (status, &*self) {
            (TransactionStatus::Idle, _) => self.end(),
            (TransactionStatus::Open, Self::Idle) => {
                self.begin("BEGIN", TransactionOptions::default(), settings.clone());
                None
            }
            (TransactionStatus::Failed, Self::Idle) => {
                self.begin("BEGIN", TransactionOptions::default(), settings.clone());
                self.fail();
                None
            }
            (TransactionStatus::Failed, _) => {
                self.fail();
                None
            }
            // An error of the router's own is not known to the server, and stands all the same.
            (TransactionStatus::Open, Self::Open(_) | Self::Failed(_)) => None,
        }
    }
}
