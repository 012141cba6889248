//! Prepared statements and portals by the client's names.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use pgsluice_sharding::ShardId;
use pgsluice_sharding::plan::Gather;
use pgsluice_sharding::sql::SharedScript;

use crate::pool::server::StatementId;

use super::Reading;

/// A statement that a client has parsed: text, parameter types and what the planner made of it.
#[derive(Debug)]
pub struct PreparedStatement {
    pub id: StatementId,
    pub text: Rc<str>,
    /// Declared types; 0 or missing where the client leaves the type to the server.
    pub param_types: Rc<[u32]>,
    /// Made for this catalog version; planned again when the catalog has changed.
    pub catalog_version: u64,
    /// Read so; planned again when the session reads otherwise.
    pub reading: Rc<Reading>,
    pub script: SharedScript,
    /// Some server has accepted it: another Parse of it needs no server.
    pub accepted: Cell<bool>,
    /// The shape of its rows as a hash, once a server has described it.
    pub row: Cell<Option<u64>>,
}

/// A bound statement.
#[derive(Clone, Debug)]
pub enum Portal {
    /// It lives on the server that runs it; `server` is the id of that server.
    OnServer { server: u64, statement: Rc<PreparedStatement> },
    /// The router merges it: parameters and formats are kept until Execute.
    Gather(Rc<GatherPortal>),
    /// The router answers it itself or runs it on every shard.
    Router(Rc<PreparedStatement>),
}

/// What Bind said of a statement that runs on several shards.
#[derive(Debug)]
pub struct GatherPortal {
    pub statement: Rc<PreparedStatement>,
    pub gather: std::sync::Arc<Gather>,
    pub shards: Vec<ShardId>,
    /// The body of the Bind message.
    pub bind: Bytes,
}

/// The statements and portals of one client.
#[derive(Debug)]
pub struct Statements {
    unnamed: Option<Rc<PreparedStatement>>,
    named: HashMap<Box<str>, Rc<PreparedStatement>>,
    unnamed_portal: Option<Portal>,
    portals: HashMap<Box<str>, Portal>,
    /// Bound on named statements and portals together.
    max: usize,
    /// Names of statements whose Parse has not been answered yet, in order.
    unanswered: VecDeque<Box<str>>,
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
        }
    }

    /// Takes a parsed statement; the unnamed one replaces its predecessor.
    ///
    /// # Errors
    /// A name that is taken, or the bound.
    pub fn insert(&mut self, name: &str, statement: Rc<PreparedStatement>) -> Result<(), NotTaken> {
        if name.is_empty() {
            self.unnamed = Some(statement);
        } else if self.named.contains_key(name) {
            return Err(NotTaken::Duplicate);
        } else if self.named.len() + self.portals.len() >= self.max {
            return Err(NotTaken::Full);
        } else {
            self.named.insert(name.into(), statement);
        }
        self.unanswered.push_back(name.into());
        Ok(())
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
        if name.is_empty() {
            self.unnamed = Some(statement);
        } else if let Some(slot) = self.named.get_mut(name) {
            *slot = statement;
        }
    }

    pub fn get(&self, name: &str) -> Option<&Rc<PreparedStatement>> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) }
    }

    pub fn close(&mut self, name: &str) {
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

    /// DISCARD ALL, DEALLOCATE ALL.
    pub fn clear(&mut self) {
        self.unnamed = None;
        self.named.clear();
        self.close_portals();
    }
}
