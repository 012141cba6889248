//! Runs what clients ask for, on the servers it takes.
//!
//! One [`Conversation`] is one client at work: its socket, its session and the servers it holds.
//!
//! - [`simple`], [`extended`]: the two query protocols; each message becomes a decision
//! - [`decide`]: statement + values -> what to do
//! - [`again`]: what ran into an outdated plan and is run a second time
//! - [`links`]: taking servers, bringing them to the session's settings and transaction, giving back
//! - [`forward`]: one shard; frames pass undecoded
//! - [`gather`]: many shards -> merge
//! - [`broadcast`]: the same statement on every shard
//! - [`promises`]: whether the tables can still be held to what is promised of them after DDL
//! - [`cursors`]: portals fetched in portions and cursors, over several shards
//! - [`copy`]: COPY FROM STDIN, one shard or split
//! - [`copy_out`]: COPY TO STDOUT of several shards
//! - [`copy_query`]: COPY of a query whose rows are merged
//! - [`block`]: BEGIN, COMMIT, savepoints, SET over the servers held
//! - [`commit`]: COMMIT on the servers that wrote, in one phase or two
//! - [`listen`]: LISTEN and what it brings
//! - [`pipeline`]: what makes a block of a pipeline
//! - [`sync`]: Flush and Sync, where pipelines are settled
//! - [`sequences`]: whose server knows currval
//! - [`computed`]: values that the router puts into a statement; [`unique`]: ids of its own
//! - [`prepared`]: PREPARE and EXECUTE of SQL
//! - [`queries`], [`measure`]: what is counted by statement
//! - [`victim`]: who must give up in a deadlock over shards
//! - [`encoding`]: texts that are not UTF-8
//! - [`explain`]: the router's steps and the servers' plans as one document; [`steps`] measures a read for it

mod added;
mod again;
mod arguments;
mod ask;
mod block;
mod broadcast;
mod client;
mod commit;
mod computed;
mod copy;
mod copy_out;
mod copy_query;
mod cursors;
mod decide;
mod encoding;
mod explain;
mod extended;
mod final_query;
mod final_tables;
mod forward;
mod gather;
pub mod greeting;
mod links;
mod listen;
mod measure;
mod mirror;
mod moments;
mod moved;
mod numbered;
mod pipeline;
mod prepared;
pub mod presence;
mod promises;
pub mod queries;
mod selected;
mod sequences;
mod simple;
mod snapshots;
mod stages;
mod steps;
mod sync;
mod tables;
mod timed;
mod types;
pub mod unique;
mod victim;
pub mod worker;
mod writes;

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgsluice_sharding::ShardId;
use pgsluice_sharding::catalog::Catalog;

use crate::clock;
use crate::commit::name::PreparedName;
use crate::config::PoolMode;
use crate::listening::{Speaker, Subscription};
use crate::protocol::backend::{self, TransactionStatus};
use crate::protocol::error::ErrorFields;
use crate::protocol::frame::Header;
use crate::session::Session;

use again::Again;
pub use client::Client;
use links::Links;
use measure::Measure;
use presence::{Activity, Presence};
use worker::{Served, Worker};

/// How long a client that is thrown out may take to hear why.
const FAREWELL: Duration = Duration::from_millis(200);

/// What a client takes by itself, without buffers, statements and the runtime's own.
pub const CLIENT_BYTES: usize = size_of::<Conversation>() + size_of::<Presence>();

/// What one buffer takes that has not grown.
pub const BUFFER_BYTES: usize = crate::transport::buffer::BUFFER_BYTES;

/// How a conversation ends.
#[derive(Debug)]
pub enum End {
    /// Terminate, or the stream has ended.
    ClientLeft,
    ClientGone(io::Error),
    /// The client must be told, and the connection closed.
    Fatal(ErrorFields),
    /// A server's last words have been passed on; nothing follows them.
    Told,
}

/// Why a statement has no answer.
#[derive(Debug)]
enum Failure {
    /// To be told to the client; the conversation goes on.
    Error(ErrorFields),
    /// The server's own error has been passed on already.
    Told,
    End(End),
}

impl From<End> for Failure {
    fn from(end: End) -> Self {
        Self::End(end)
    }
}

impl From<ErrorFields> for Failure {
    fn from(fields: ErrorFields) -> Self {
        Self::Error(fields)
    }
}

impl From<pgsluice_sharding::Refusal> for Failure {
    fn from(refusal: pgsluice_sharding::Refusal) -> Self {
        Self::Error(refusal.into())
    }
}

/// What is done with extended-protocol messages until the next Sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pipeline {
    Running,
    /// After an error everything but Sync is passed over, as PostgreSQL does.
    Skipping,
}

/// What the statements of the transaction that is running may have done to the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CatalogChange {
    None,
    /// And nobody has looked yet.
    Unread,
    /// The same, because a server has found a plan outdated.
    Outdated,
    /// The transaction's own catalog shows it; once it has committed all must learn of it.
    Own,
}

/// One client at work.
pub struct Conversation {
    client: Client,
    session: Session,
    links: Links,
    served: Rc<Served>,
    worker: Rc<Worker>,
    /// What others on this worker see of the client.
    presence: Rc<Presence>,
    pipeline: Pipeline,
    /// The server copies and so has passed over a Sync, which must be sent again by the client.
    sync_passed_over: bool,
    /// Parse messages that no server has seen yet, because no server is chosen yet.
    unsent_parses: Vec<Rc<crate::session::statements::PreparedStatement>>,
    catalog_change: CatalogChange,
    again: Again,
    /// The catalog as the transaction that is running has made it.
    own_catalog: Option<Arc<Catalog>>,
    /// What it listens to; there is none while it listens to nothing.
    subscription: Option<Box<Subscription>>,
    /// It has notified in the transaction that is running.
    speaker: Option<Speaker>,
    /// That of a client that has asked for none.
    encoding_by_default: Rc<str>,
    /// When the request that is being answered came.
    asked_at: Instant,
    measure: Measure,
    /// The text that runs in the place of the client's.
    made: Option<Box<computed::MadeText>>,
    /// When the transaction that is running began.
    transaction_began: Option<Instant>,
    /// What a write on several shards gives back, if it is to wait.
    kept: Option<Vec<u8>>,
    /// What it has committed, and not all shards have heard of.
    unfinished: Vec<(ShardId, PreparedName)>,
}

impl Conversation {
    pub fn new(
        client: Client,
        session: Session,
        served: Rc<Served>,
        worker: Rc<Worker>,
        presence: Rc<Presence>,
    ) -> Self {
        Self {
            client,
            session,
            links: Links::default(),
            served,
            worker,
            presence,
            pipeline: Pipeline::Running,
            sync_passed_over: false,
            unsent_parses: Vec::new(),
            kept: None,
            catalog_change: CatalogChange::None,
            again: Again::default(),
            own_catalog: None,
            subscription: None,
            speaker: None,
            encoding_by_default: "".into(),
            asked_at: clock::now(),
            measure: Measure::default(),
            made: None,
            transaction_began: None,
            unfinished: Vec::new(),
        }
    }

    /// Talks until one side has had enough. The servers held are given back whatever happens.
    pub async fn run(mut self: Box<Self>) -> End {
        let presence = self.presence.clone();
        let end = loop {
            let done = {
                let turn = pin!(self.turn());
                presence.unless_killed(turn).await
            };
            match done {
                Some(Ok(())) => {}
                Some(Err(end)) => break end,
                None => return Box::pin(self.thrown_out()).await,
            }
        };
        // The end comes once; until then nothing is kept for it in the client's task.
        Box::pin(self.end(end)).await
    }

    /// What it was doing was dropped in the middle: its servers are closed.
    async fn thrown_out(mut self: Box<Self>) -> End {
        let end = client::dismissed();
        // Only between two messages can it be told anything.
        let at_rest = self.presence.activity() != Activity::Active && self.client.out.is_empty();
        let told = at_rest && self.links.iter().all(|link| link.passing == 0);
        self.presence.clear();
        self.speaker = None;
        self.links.close_all();
        if let (true, End::Fatal(fields)) = (told, &end) {
            backend::error_response(&mut self.client.out, fields);
            // It may be gone, or never read.
            let _ = tokio::time::timeout(FAREWELL, self.client.flush()).await;
        }
        end
    }

    /// Tells the client why, and gives back what is held.
    pub async fn end(mut self, end: End) -> End {
        if let End::Fatal(fields) = &end {
            backend::error_response(&mut self.client.out, fields);
        }
        if matches!(end, End::Fatal(_) | End::Told) {
            // The client may be gone already; there is nobody else to tell.
            let _ = self.client.flush().await;
        }
        self.presence.clear();
        self.speaker = None;
        self.links.abandon(&self.worker, &self.session);
        end
    }

    /// Handles all whole messages that are there, then waits for more.
    async fn turn(&mut self) -> Result<(), End> {
        let bytes_max = self.worker.limits().message_bytes_max;
        while let Some(header) = self.client.next_message(bytes_max)? {
            if self.worker.is_suspended() {
                self.client.flush().await?;
                self.presence.rests(&self.session);
                self.worker.admission().await;
            }
            self.asked_at = clock::now();
            self.presence.asks(self.asked_at);
            self.follow_configuration();
            Box::pin(self.message(header)).await?;
            if self.presence.has_given_up() {
                self.client.flush().await?;
                Box::pin(self.fail_everywhere()).await?;
            }
            if self.session.take_unlocked() && self.links.all_clean() {
                self.client.flush().await?;
                Box::pin(self.look_for_locks()).await?;
            }
            self.release_if_done();
        }
        self.client.flush().await?;
        self.wait().await
    }

    async fn message(&mut self, header: Header) -> Result<(), End> {
        match header.tag {
            b'Q' if self.pipeline == Pipeline::Skipping => {
                self.client.inbox.consume(header.total);
                Ok(())
            }
            b'Q' => self.query(header.total).await,
            b'X' => Err(End::ClientLeft),
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' | b'S' | b'F' => self.extended(header).await,
            // What is left of a COPY that has failed already; PostgreSQL passes over it too.
            b'd' | b'c' | b'f' => {
                self.client.inbox.consume(header.total);
                Ok(())
            }
            tag => {
                let message = format!("invalid frontend message type {tag}");
                Err(End::Fatal(ErrorFields::fatal("08P01", message)))
            }
        }
    }

    /// Waits for the client to send more; meanwhile passes on what servers send unasked.
    async fn wait(&mut self) -> Result<(), End> {
        self.presence.rests(&self.session);
        if self.links.is_empty() && !self.is_listening() {
            let presence = &self.presence;
            return self.client.read_more_unless(|cx| presence.poll_dismissed(cx)).await;
        }
        self.wait_with_links().await
    }

    /// After the configuration was read again, what begins now is served by what it says now.
    fn follow_configuration(&mut self) {
        if self.links.is_empty()
            && self.session.transaction.is_idle()
            && let Some(served) = self.served.replaced_by()
        {
            self.presence.moves_to(served.clone());
            self.served = served;
        }
    }

    /// Reports an error of the router and takes the consequences PostgreSQL would take.
    fn report(&mut self, fields: &ErrorFields) {
        self.served.stats.errors.add(1);
        backend::error_response(&mut self.client.out, fields);
        self.session.statements.forget_unanswered();
        self.session.transaction.fail();
    }

    /// ReadyForQuery in the name of all servers held.
    fn ready(&mut self) {
        backend::ready_for_query(&mut self.client.out, self.session.transaction.status());
    }

    /// Gives the servers back when nothing ties them to this client.
    fn release_if_done(&mut self) {
        if self.session.transaction.status() == TransactionStatus::Idle {
            self.end_of_transaction();
        }
    }

    fn end_of_transaction(&mut self) {
        if !self.links.all_clean() {
            return;
        }
        self.session.close_cursors();
        if let Some(began) = self.transaction_began.take() {
            self.served.stats.transactions.add(1);
            let ended = self.measure.take_answered();
            self.served.stats.transaction_time.record(ended.saturating_duration_since(began));
        }
        if self.links.is_empty() {
            return;
        }
        self.links.note_writes(&mut self.session);
        self.speaker = None;
        if !self.session.is_pinned() && self.served.mode != PoolMode::Session {
            self.presence.clear();
            self.links.release_all(&self.worker);
            self.session.set_apart_no_more();
        }
    }
}
