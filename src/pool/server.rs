//! The protocol state of one server: which replies are due, to whom they go, what is prepared and
//! which settings are applied. Pure: replies go in, verdicts come out.

use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

use bytes::Bytes;

use crate::protocol::backend::TransactionStatus;
use crate::protocol::error::Shift;
use crate::session::settings::Settings;

/// A prepared statement as servers know it, the same on every worker: a seeded hash of its text,
/// parameter types, search_path, role and catalog version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StatementId(pub u128);

impl StatementId {
    /// What every Parse without a name replaces.
    pub const UNNAMED: Self = Self(0);

    /// The name of the statement on servers.
    pub fn name(self) -> String {
        format!("sluice_{:032x}", self.0)
    }
}

/// Who gets a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    Client,
    /// The router asked on its own account; the client must not see it.
    Router,
}

/// A reply that is due, in the order the server will give it.
#[derive(Clone, Debug)]
pub enum Due {
    /// ParseComplete of this statement.
    Parse(StatementId, Audience),
    Bind(Audience),
    /// The error of a Bind that must fail, so that the transaction does too.
    Spoil,
    DescribeStatement(StatementId, Audience),
    DescribePortal(Audience),
    /// RowDescription for the client, or a NoData that it must not see: simple queries have none.
    DescribeRows,
    Execute(Audience),
    /// As `Execute` for the client, of an EXECUTE in which the router has put its own name.
    Renamed(Shift),
    Close(Audience),
    /// CloseComplete of a prepared statement that gives way to another.
    Evict(StatementId),
    /// ReadyForQuery after Sync.
    Sync(Audience),
    /// Everything up to ReadyForQuery after a Query or FunctionCall.
    Query(Audience),
    /// As `Query` for the client, but ReadyForQuery is the router's: more statements of the same
    /// text follow.
    Part,
    /// A reply that the router gives itself once all before it are through.
    Local(Bytes),
}

impl Due {
    fn audience(&self) -> Audience {
        match self {
            Self::Parse(_, audience)
            | Self::Bind(audience)
            | Self::DescribeStatement(_, audience)
            | Self::DescribePortal(audience)
            | Self::Execute(audience)
            | Self::Close(audience)
            | Self::Sync(audience)
            | Self::Query(audience) => *audience,
            Self::Spoil | Self::Evict(_) => Audience::Router,
            Self::DescribeRows | Self::Renamed(_) | Self::Part | Self::Local(_) => Audience::Client,
        }
    }
}

/// What to do with a message from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Swallow,
}

/// A message that a server must not send now; it cannot be trusted any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unexpected {
    pub tag: u8,
}

/// What the router knows of one server's side of the conversation.
#[derive(Debug)]
pub struct ServerState {
    due: VecDeque<Due>,
    status: TransactionStatus,
    prepared: Prepared,
    settings: Rc<Settings>,
    /// A session has left something behind that only DISCARD ALL removes.
    tainted: bool,
    /// The client that may have advanced sequences here since they were last discarded.
    writer: Option<u64>,
}

impl ServerState {
    /// A fresh server that keeps at most `prepared_max` statements.
    pub fn new(prepared_max: usize) -> Self {
        Self {
            due: VecDeque::new(),
            status: TransactionStatus::Idle,
            prepared: Prepared::new(prepared_max),
            settings: Rc::default(),
            tainted: false,
            writer: None,
        }
    }

    pub fn status(&self) -> TransactionStatus {
        self.status
    }

    /// Whether nothing is due and no transaction is open: the server may serve anybody.
    pub fn is_clean(&self) -> bool {
        self.due.is_empty() && self.status == TransactionStatus::Idle
    }

    pub fn is_settled(&self) -> bool {
        self.due.is_empty()
    }

    pub fn expect(&mut self, due: Due) {
        self.due.push_back(due);
    }

    /// Whether nothing but Sync was asked for after what runs now.
    pub fn only_sync_follows(&self) -> bool {
        self.due.iter().skip(1).all(|due| matches!(due, Due::Sync(_)))
    }

    /// The reply that the router owes next, if it is its turn.
    pub fn take_local(&mut self) -> Option<Bytes> {
        match self.due.front() {
            Some(Due::Local(_)) => match self.due.pop_front() {
                Some(Due::Local(bytes)) => Some(bytes),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether an answer of the router is due next.
    pub fn next_is_local(&self) -> bool {
        matches!(self.due.front(), Some(Due::Local(_)))
    }

    /// Whether rows and the command tag of an Execute come next.
    pub fn executes(&self) -> bool {
        matches!(self.due.front(), Some(Due::Execute(_)))
    }

    /// The statement whose ParseComplete comes next.
    pub fn parses(&self) -> Option<StatementId> {
        match self.due.front() {
            Some(Due::Parse(id, _)) => Some(*id),
            _ => None,
        }
    }

    /// The statement whose description comes next.
    pub fn describes(&self) -> Option<StatementId> {
        match self.due.front() {
            Some(Due::DescribeStatement(id, _)) => Some(*id),
            _ => None,
        }
    }

    /// How errors of what runs now point into the client's text, if not as the server says.
    pub fn shift(&self) -> Option<Shift> {
        match self.due.front() {
            Some(Due::Renamed(shift)) => Some(*shift),
            _ => None,
        }
    }

    /// A reply of the router's own that comes before all that is due.
    pub fn owe_first(&mut self, bytes: Bytes) {
        self.due.push_front(Due::Local(bytes));
    }

    /// The client must not see the end of what it has asked for: it is asked again.
    pub fn hide_sync(&mut self) {
        for due in &mut self.due {
            if matches!(due, Due::Sync(_)) {
                *due = Due::Sync(Audience::Router);
            }
        }
    }

    /// Whether a query of the router's own is being answered.
    pub fn hidden_query_runs(&self) -> bool {
        matches!(self.due.front(), Some(Due::Query(Audience::Router)))
    }

    /// The server asks for COPY data, and passes over a Sync that was sent before the data; true if
    /// there was one.
    pub fn begin_copy_in(&mut self) -> bool {
        let ignored = matches!(self.due.get(1), Some(Due::Sync(_)));
        if ignored {
            self.due.remove(1);
        }
        ignored
    }

    /// Whether rows that come now are the client's.
    pub fn rows_pass(&self) -> bool {
        self.due.front().is_some_and(|due| due.audience() == Audience::Client)
    }

    /// Judges a message by its tag; `body` is needed for `Z` and `E` only.
    ///
    /// # Errors
    /// A message that is not due: the server is out of step.
    pub fn reply(&mut self, tag: u8, body: &[u8]) -> Result<Verdict, Unexpected> {
        let unexpected = Unexpected { tag };
        match tag {
            // These come at any time and concern the client that holds the server.
            b'N' | b'S' => Ok(self.asynchronous()),
            b'A' => Ok(Verdict::Pass),
            b'E' => Ok(self.error(body)),
            b'Z' => {
                let status = body.first().and_then(|byte| TransactionStatus::from_byte(*byte)).ok_or(unexpected)?;
                match self.due.pop_front() {
                    Some(Due::Sync(audience) | Due::Query(audience)) => {
                        self.status = status;
                        Ok(verdict(audience))
                    }
                    Some(Due::Part) => {
                        self.status = status;
                        Ok(Verdict::Swallow)
                    }
                    _ => Err(unexpected),
                }
            }
            _ => self.ordinary(tag).ok_or(unexpected),
        }
    }

    fn asynchronous(&self) -> Verdict {
        match self.due.front() {
            Some(due) => verdict(due.audience()),
            None => Verdict::Pass,
        }
    }

    /// After an error the server skips to the next Sync: what was due before it never comes. An
    /// error on the router's own account is the client's all the same, unless a whole hidden Query
    /// fails: that is told by [`ServerState::rows_pass`] before.
    fn error(&mut self, body: &[u8]) -> Verdict {
        if is_outdated_plan(body) {
            self.prepared.distrust_all();
        }
        let verdict = match self.due.front() {
            Some(Due::Query(audience)) => verdict(*audience),
            Some(Due::Spoil) => Verdict::Swallow,
            _ => Verdict::Pass,
        };
        while let Some(due) = self.due.front() {
            match due {
                Due::Sync(_) | Due::Query(_) | Due::Part => break,
                Due::Parse(id, _) | Due::Evict(id) => self.prepared.passed_over(*id),
                _ => {}
            }
            self.due.pop_front();
        }
        verdict
    }

    /// A message that answers the first request that is due.
    fn ordinary(&mut self, tag: u8) -> Option<Verdict> {
        let front = self.due.front()?;
        let verdict = match (front, tag) {
            (Due::DescribeRows, b'n') => Verdict::Swallow,
            _ => verdict(front.audience()),
        };
        let (fits, ends) = match (front, tag) {
            (Due::Parse(..), b'1') | (Due::Bind(_), b'2') | (Due::Close(_) | Due::Evict(_), b'3') => (true, true),
            (Due::DescribeStatement(..), b't') => (true, false),
            (Due::DescribeStatement(..) | Due::DescribePortal(_) | Due::DescribeRows, b'T' | b'n') => (true, true),
            (Due::Execute(_) | Due::Renamed(_), b'C' | b'I' | b's') => (true, true),
            (Due::Execute(_) | Due::Renamed(_), b'D' | b'd' | b'c' | b'G' | b'H' | b'W') => (true, false),
            (Due::Query(_) | Due::Part, b'T' | b'D' | b'C' | b'I' | b'd' | b'c' | b'G' | b'H' | b'W' | b'V' | b'n') => {
                (true, false)
            }
            _ => (false, false),
        };
        if ends && let Some(due) = self.due.pop_front() {
            self.prepared.answered(&due);
        }
        fits.then_some(verdict)
    }

    /// The settings that statements on this server run with.
    pub fn settings(&self) -> &Rc<Settings> {
        &self.settings
    }

    /// The settings have been brought to these, by a replay or by the client's own SET.
    pub fn set_settings(&mut self, settings: Rc<Settings>) {
        self.settings = settings;
    }

    /// How many statements are prepared here.
    pub fn prepared_count(&self) -> usize {
        self.prepared.len()
    }

    pub fn prepared(&mut self) -> &mut Prepared {
        &mut self.prepared
    }

    /// The next session may use this server only after DISCARD ALL.
    pub fn taint(&mut self) {
        self.tainted = true;
    }

    pub fn is_tainted(&self) -> bool {
        self.tainted
    }

    /// The client that wrote here last.
    pub fn writer(&self) -> Option<u64> {
        self.writer
    }

    pub fn set_writer(&mut self, client: u64) {
        self.writer = Some(client);
    }

    /// DISCARD ALL has run.
    pub fn discarded(&mut self) {
        self.writer = None;
        self.tainted = false;
        self.prepared.clear();
        self.settings = Rc::default();
    }
}

fn verdict(audience: Audience) -> Verdict {
    match audience {
        Audience::Client => Verdict::Pass,
        Audience::Router => Verdict::Swallow,
    }
}

/// What is known of a server at rest, on its way to another worker.
#[derive(Debug)]
pub struct Resting {
    prepared: Prepared,
    settings: Settings,
    tainted: bool,
    writer: Option<u64>,
}

impl ServerState {
    /// What must be kept of a clean server, free to cross threads.
    pub fn into_resting(self) -> Resting {
        assert!(self.is_clean(), "only a server at rest moves");
        Resting {
            prepared: self.prepared,
            settings: Rc::unwrap_or_clone(self.settings),
            tainted: self.tainted,
            writer: self.writer,
        }
    }
}

impl From<Resting> for ServerState {
    fn from(resting: Resting) -> Self {
        let Resting { prepared, settings, tainted, writer } = resting;
        let (due, status, settings) = (VecDeque::new(), TransactionStatus::Idle, Rc::new(settings));
        Self { due, status, prepared, settings, tainted, writer }
    }
}

/// Whether a prepared statement would give rows of another shape than when it was parsed: DDL has
/// passed by. The routine that found out is named in the same way in every version and language.
pub fn is_outdated_plan(error: &[u8]) -> bool {
    error.split(|byte| *byte == 0).any(|field| field == b"RRevalidateCachedQuery")
}

/// The statements prepared on one server; the least recently used one gives way.
#[derive(Debug)]
pub struct Prepared {
    max: usize,
    clock: u64,
    /// What will be there when the server has done all that it was sent.
    last_used: HashMap<StatementId, u64>,
    /// What is there by the server's answers so far.
    there: HashSet<StatementId>,
    /// What is there, but may be outdated: it is parsed anew before its next use.
    outdated: HashSet<StatementId>,
}

/// What must be sent before a statement can be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preparation {
    /// It is there.
    Ready,
    /// A Parse, after a Close of the statement that gave way, if any.
    Parse { close: Option<StatementId> },
}

impl Prepared {
    fn new(max: usize) -> Self {
        Self { max: max.max(1), clock: 0, last_used: HashMap::new(), there: HashSet::new(), outdated: HashSet::new() }
    }

    /// Notes the use of a statement and tells what is missing; the caller then sends it.
    pub fn touch(&mut self, id: StatementId) -> Preparation {
        self.clock += 1;
        if let Some(used) = self.last_used.get_mut(&id) {
            *used = self.clock;
            return match self.outdated.remove(&id) {
                true => Preparation::Parse { close: Some(id) },
                false => Preparation::Ready,
            };
        }
        let close = if self.last_used.len() >= self.max { self.evict() } else { None };
        self.last_used.insert(id, self.clock);
        Preparation::Parse { close }
    }

    fn evict(&mut self) -> Option<StatementId> {
        let oldest = self.last_used.iter().min_by_key(|(_, used)| **used).map(|(id, _)| *id)?;
        self.last_used.remove(&oldest);
        self.outdated.remove(&oldest);
        Some(oldest)
    }

    /// The server has answered a Parse, or the Close of a statement that gave way.
    fn answered(&mut self, due: &Due) {
        match due {
            Due::Parse(id, _) if *id != StatementId::UNNAMED => drop(self.there.insert(*id)),
            Due::Evict(id) => drop(self.there.remove(id)),
            _ => {}
        }
    }

    /// An error came in the place of a Parse or a Close: what is there is what was there before.
    fn passed_over(&mut self, id: StatementId) {
        if self.there.contains(&id) {
            self.last_used.entry(id).or_insert(0);
            self.outdated.insert(id);
        } else {
            self.last_used.remove(&id);
        }
    }

    /// DDL has passed by: what was parsed before may be outdated.
    pub fn distrust_all(&mut self) {
        self.outdated.extend(self.last_used.keys());
    }

    pub fn clear(&mut self) {
        self.last_used.clear();
        self.there.clear();
        self.outdated.clear();
    }

    pub fn len(&self) -> usize {
        self.last_used.len()
    }

    pub fn is_empty(&self) -> bool {
        self.last_used.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::{Audience, Due, Preparation, ServerState, StatementId, Verdict};
    use crate::protocol::error::Shift;

    const A: StatementId = StatementId(1);
    const B: StatementId = StatementId(2);

    /// Asks for a statement as the drivers do, and answers nothing.
    fn ask(state: &mut ServerState, id: StatementId) -> Preparation {
        let preparation = state.prepared().touch(id);
        if let Preparation::Parse { close } = preparation {
            if let Some(old) = close {
                state.expect(Due::Evict(old));
            }
            state.expect(Due::Parse(id, Audience::Router));
        }
        preparation
    }

    fn sync(state: &mut ServerState) {
        state.expect(Due::Sync(Audience::Client));
        state.reply(b'Z', b"I").unwrap();
    }

    fn holding_a() -> ServerState {
        let mut state = ServerState::new(1);
        assert_eq!(ask(&mut state, A), Preparation::Parse { close: None });
        state.reply(b'1', b"").unwrap();
        sync(&mut state);
        state
    }

    #[test]
    fn what_an_error_passes_over_has_not_happened() {
        let mut state = holding_a();
        state.expect(Due::Bind(Audience::Client));
        assert_eq!(ask(&mut state, B), Preparation::Parse { close: Some(A) });
        state.reply(b'E', b"").unwrap();
        sync(&mut state);
        assert_eq!(ask(&mut state, A), Preparation::Parse { close: Some(A) }, "its Close was passed over");
        assert_eq!(ask(&mut state, B), Preparation::Parse { close: Some(A) });
        assert_eq!(ask(&mut state, A), Preparation::Parse { close: Some(B) });
        state.reply(b'E', b"").unwrap();
        sync(&mut state);
        assert_eq!(ask(&mut state, B), Preparation::Parse { close: Some(A) });
        for tag in [b'3', b'1'] {
            state.reply(tag, b"").unwrap();
        }
        assert_eq!(ask(&mut state, B), Preparation::Ready);
    }

    #[test]
    fn the_shift_of_errors_and_the_end_of_what_failed_are_known() {
        let shift = Shift { before: 10, name: 9, longer: -1 };
        let mut state = ServerState::new(1);
        state.expect(Due::Renamed(shift));
        assert_eq!(state.shift(), Some(shift));
        state.expect(Due::Sync(Audience::Client));
        assert_eq!(state.reply(b'E', b""), Ok(Verdict::Pass));
        assert_eq!(state.shift(), None);
        state.hide_sync();
        assert_eq!(state.reply(b'Z', b"I"), Ok(Verdict::Swallow));
    }

    #[test]
    fn a_simple_query_hears_of_rows_and_not_of_their_absence() {
        let mut state = ServerState::new(1);
        for (tag, verdict) in [(b'T', Verdict::Pass), (b'n', Verdict::Swallow)] {
            state.expect(Due::DescribeRows);
            assert_eq!(state.reply(tag, b""), Ok(verdict));
            assert!(state.is_settled());
        }
    }

    #[test]
    fn an_outdated_statement_is_parsed_anew_even_after_another_error() {
        let mut state = holding_a();
        state.expect(Due::Bind(Audience::Client));
        state.reply(b'E', b"C0A000\0RRevalidateCachedQuery\0\0").unwrap();
        sync(&mut state);
        state.expect(Due::Bind(Audience::Client));
        assert_eq!(ask(&mut state, A), Preparation::Parse { close: Some(A) });
        state.reply(b'E', b"").unwrap();
        sync(&mut state);
        assert_eq!(ask(&mut state, A), Preparation::Parse { close: Some(A) });
        state.reply(b'3', b"").unwrap();
        state.reply(b'1', b"").unwrap();
        assert_eq!(ask(&mut state, A), Preparation::Ready);
    }
}
