//! The servers a client holds: taken from pools, brought to the session's state, given back.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use pgsluice_sharding::ShardId;
use pgsluice_sharding::sql::{Access, SharedScript};

use crate::clock;
use crate::config::PoolMode;
use crate::pool::Server;
use crate::pool::driver::{AcquireError, Pool, Release};
use crate::pool::health::{Fault, InstanceHealth};
use crate::pool::server::{Audience, Due};
use crate::protocol::backend::TransactionStatus;
use crate::protocol::error::ErrorFields;
use crate::protocol::frontend;
use crate::session::Session;
use crate::session::transaction::Block;
use crate::stats::microseconds;
use crate::transport::buffer::Buffer;

use super::client::dismissed;
use super::presence::{Held, Wait};
use super::queries::QueryId;
use super::worker::{Served, Worker};
use super::{Conversation, Failure};

/// One server in a client's hands.
pub(super) struct Link {
    pub(super) server: Box<Server>,
    pub(super) shard: ShardId,
    place: Place,
    /// Messages on their way to the server.
    pub(super) out: BytesMut,
    /// Bytes from the server that are not passed on yet.
    pub(super) inbox: Buffer,
    /// Bytes of a long message that is being passed on while it comes.
    pub(super) passing: usize,
    /// It has joined the client's transaction block.
    pub(super) joined: bool,
    /// A statement of this transaction may have changed rows here.
    pub(super) wrote: bool,
    /// Temporary tables that the transaction has made here for final queries: with them it cannot be prepared, only committed.
    pub(super) temporary_tables: usize,
    pub(super) sent: Sent,
    pub(super) copy: Copying,
    pub(super) life: Life,
    /// Errors of it that have been passed to the client.
    pub(super) errors: u64,
    /// The shape of the rows that what runs here for the client gives back, if the client was told.
    pub(super) row_told: Option<u64>,
    /// What the statements that are running mean for the session, in order.
    pub(super) effects: VecDeque<Expected>,
}

/// The instance that a server belongs to.
pub(super) struct Place {
    served: Rc<Served>,
    shard: ShardId,
    instance: usize,
    replica: bool,
}

impl Place {
    fn health(&self) -> &InstanceHealth {
        &self.served.shard(self.shard).instances[self.instance].1
    }

    pub(super) fn pool(&self) -> &Rc<Pool> {
        &self.served.shard(self.shard).instances[self.instance].0
    }
}

/// Whether messages of the extended protocol have been sent since the last Sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Synced,
    Unsynced,
    /// And a statement has been executed by one of them.
    Executed,
    /// And one of them has failed: the server passes over everything up to the next Sync.
    Failed,
}

/// Whether the server will go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Well,
    /// It has said why it closes the connection.
    Ending,
}

/// Whether the client is to send COPY data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copying {
    No,
    In,
    /// A CopyData message is on its way to the server in part: what is sent now is read as its rest.
    Within,
}

/// What a statement means for the session once it has succeeded.
pub(super) enum Effect {
    None,
    /// The statement with this number in the script, whose text was this.
    Statement {
        script: SharedScript,
        index: usize,
        text: Rc<str>,
    },
}

/// What is to come of a statement that runs on a server.
pub(super) struct Expected {
    pub(super) effect: Effect,
    /// In the extended protocol, where every statement is counted by itself.
    pub(super) query: Option<QueryId>,
    /// As many rows as are sent before the portal is suspended.
    pub(super) rows_max: u32,
}

impl Expected {
    /// Of a statement that is counted with the whole text of its Query.
    pub(super) fn of_query(effect: Effect) -> Self {
        Self { effect, query: None, rows_max: 0 }
    }
}

/// The servers a client holds; mostly none or one.
#[derive(Default)]
pub(super) struct Links {
    all: Vec<Link>,
}

impl std::ops::Index<usize> for Links {
    type Output = Link;
    fn index(&self, i: usize) -> &Link {
        &self.all[i]
    }
}

impl std::ops::IndexMut<usize> for Links {
    fn index_mut(&mut self, i: usize) -> &mut Link {
        &mut self.all[i]
    }
}

impl Links {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.all.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.all.iter_mut()
    }

    /// A server of `shard` that may run a statement; a replica only when that is allowed.
    pub(super) fn find(&self, shard: ShardId, replica_ok: bool) -> Option<usize> {
        self.all.iter().position(|link| link.shard == shard && (replica_ok || !link.is_replica()))
    }

    /// Whether the transaction has written on a shard: only its primary shows that.
    fn have_written_on(&self, shard: ShardId) -> bool {
        self.all.iter().any(|link| link.shard == shard && link.wrote)
    }

    /// The link whose server has this id.
    pub(super) fn by_server(&self, id: u64) -> Option<usize> {
        self.all.iter().position(|link| link.server.id.0 == id)
    }

    /// Whether nothing is due on any server and none is in a transaction.
    pub(super) fn all_clean(&self) -> bool {
        self.all.iter().all(|link| link.server.state.is_clean() && !link.is_unsynced())
    }

    /// Tells the session on which shards its transaction has written.
    pub(super) fn note_writes(&mut self, session: &mut Session) {
        for link in &mut self.all {
            link.joined = false;
            if std::mem::take(&mut link.wrote) {
                session.wrote_on(link.shard, clock::now());
            }
        }
    }

    /// Gives back all servers; each is clean.
    pub(super) fn release_all(&mut self, worker: &Worker) {
        for link in self.all.drain(..) {
            link.release(worker);
        }
    }

    /// Takes a link out, to be closed: its server has failed.
    pub(super) fn remove(&mut self, i: usize) -> Link {
        self.all.remove(i)
    }

    /// The client was thrown out in the middle of something: nobody can use its servers any more.
    pub(super) fn close_all(&mut self) {
        for link in self.all.drain(..) {
            drop(tokio::task::spawn_local(async move {
                if !link.server.state.is_settled() {
                    link.server.cancel().await;
                }
                link.close();
            }));
        }
    }

    /// The client has gone: servers in the middle of something are brought to rest in the
    /// background, then given back.
    pub(super) fn abandon(&mut self, worker: &Rc<Worker>, session: &Session) {
        let soiled = session.is_pinned();
        for mut link in self.all.drain(..) {
            if soiled || link.place.served.mode == PoolMode::Session {
                link.server.state.taint();
            }
            if link.server.state.is_clean() && !link.is_unsynced() && !link.server.state.is_tainted() {
                link.release(worker);
            } else {
                let worker = worker.clone();
                drop(tokio::task::spawn_local(async move { link.recover(&worker).await }));
            }
        }
    }
}

/// Why a wait for a server has brought none.
enum Refused {
    ByPool(AcquireError),
    GivesUp(ErrorFields),
}

/// How long a cancelled query may take to end before it is cancelled again.
const CANCEL_INTERVAL: Duration = Duration::from_millis(300);

/// How long an abandoned server may take to come to rest before it is closed.
const RECOVERY_TIME_MAX: Duration = Duration::from_secs(10);

impl Link {
    pub(super) fn is_replica(&self) -> bool {
        self.place.replica
    }

    pub(super) fn is_ending(&self) -> bool {
        self.life == Life::Ending
    }

    pub(super) fn is_unsynced(&self) -> bool {
        self.sent != Sent::Synced
    }

    /// A pipeline that no Sync has ended has run something here, or has failed.
    pub(super) fn has_executed(&self) -> bool {
        matches!(self.sent, Sent::Executed | Sent::Failed)
    }

    /// A message of the extended protocol is on its way that executes nothing.
    pub(super) fn sends(&mut self) {
        if self.sent == Sent::Synced {
            self.sent = Sent::Unsynced;
        }
    }

    pub(super) fn copies_in(&self) -> bool {
        self.copy != Copying::No
    }

    /// A replica that has failed, or whose recovery stands in the way of reads, gets no more of them
    /// for a while. `body` is that of its ErrorResponse; without one it has gone.
    pub(super) fn note_fault(&self, body: Option<&[u8]>) {
        let fault = body.map_or(Some(Fault::Unreachable), Fault::of_replica);
        if let (true, Some(fault)) = (self.is_replica(), fault) {
            self.place.health().take_out(fault, clock::now());
        }
    }

    fn release(mut self, worker: &Worker) {
        let settled = self.inbox.is_empty() && self.out.is_empty() && self.passing == 0;
        if settled {
            worker.buffers.give_back(std::mem::take(&mut self.inbox));
        }
        let how = if settled { Release::Clean } else { Release::Broken };
        self.place.pool().release(self.server, how);
    }

    /// Closes the server.
    pub(super) fn close(self) {
        self.place.pool().release(self.server, Release::Broken);
    }

    /// Ends whatever the server is doing, rolls back, removes what the session left, gives it back.
    async fn recover(mut self, worker: &Worker) {
        match tokio::time::timeout(RECOVERY_TIME_MAX, self.come_to_rest()).await {
            Ok(Ok(())) => self.release(worker),
            Ok(Err(_)) | Err(_) => self.close(),
        }
    }

    async fn come_to_rest(&mut self) -> Result<(), Failure> {
        if self.copy == Copying::Within {
            // Whatever is sent now would be taken for data.
            return Err(Failure::End(super::End::ClientLeft));
        }
        if self.copies_in() {
            frontend::copy_fail(&mut self.out, b"the client has gone");
        }
        if self.is_unsynced() {
            // What the client has not ended with Sync must not be kept.
            self.spoil();
            frontend::sync(&mut self.out);
            self.server.state.expect(Due::Sync(Audience::Router));
        }
        if self.server.state.is_settled() || self.copies_in() {
            self.drain().await?;
        } else {
            self.cancel_and_drain().await?;
        }
        let mut sql = String::new();
        if self.server.state.status() != TransactionStatus::Idle {
            self.hidden_query("ROLLBACK");
        }
        if self.server.state.is_tainted() {
            sql.push_str("DISCARD ALL");
            self.hidden_query(&sql);
        }
        self.drain().await?;
        if self.server.state.is_tainted() {
            self.server.state.discarded();
        }
        Ok(())
    }

    /// Stops whatever runs. A cancel request that overtakes its query has no effect, so it is repeated.
    pub(super) async fn cancel_and_drain(&mut self) -> Result<(), Failure> {
        loop {
            self.server.cancel().await;
            if let Ok(result) = tokio::time::timeout(CANCEL_INTERVAL, self.drain()).await {
                return result;
            }
        }
    }

    /// Makes the transaction of an unfinished pipeline fail, so that the next Sync rolls it back.
    pub(super) fn spoil(&mut self) {
        if self.sent == Sent::Failed {
            return;
        }
        self.sent = Sent::Failed;
        // Binding what does not exist fails the transaction without running anything.
        frontend::bind_nothing(&mut self.out, b"sluice_rollback");
        self.server.state.expect(Due::Spoil);
    }

    /// Adds a query of the router's own; its replies never reach the client.
    pub(super) fn hidden_query(&mut self, sql: &str) {
        frontend::query(&mut self.out, sql.as_bytes());
        self.server.state.expect(Due::Query(Audience::Router));
    }

    /// Whether a statement on this server runs with the session's settings and in its block.
    pub(super) fn is_in_step(&self, session: &Session) -> bool {
        let settings = self.server.state.settings();
        (Rc::ptr_eq(settings, session.settings()) || settings == session.settings())
            && (self.joined || session.transaction.is_idle())
    }
}

impl Conversation {
    /// The server that runs a statement on `shard` (`None`: wherever), taken from its pool if it is
    /// not held yet, with whatever must run first already on its way.
    pub(super) async fn link(&mut self, shard: Option<ShardId>, access: Access) -> Result<usize, Failure> {
        let i = match shard {
            None if !self.links.is_empty() && (access == Access::Read || !self.links[0].is_replica()) => 0,
            _ => self.link_on(shard.unwrap_or(Served::HOME), access).await?,
        };
        self.bring_into_step(i).await?;
        Ok(i)
    }

    pub(super) async fn link_on(&mut self, shard: ShardId, access: Access) -> Result<usize, Failure> {
        if !self.unfinished.is_empty() {
            Box::pin(self.finish_on(shard)).await?;
        }
        let replica_ok = self.may_use_replica(access) && !self.links.have_written_on(shard);
        if let Some(i) = self.links.find(shard, replica_ok) {
            return Ok(i);
        }
        let (place, server) = match self.take_server(shard, replica_ok).await {
            // A replica that lets nobody in is out of use; the next choice falls on another instance.
            Err(Failure::Error(_)) if replica_ok => Box::pin(self.take_server(shard, false)).await?,
            taken => taken?,
        };
        self.hold(shard, place, server);
        Ok(self.links.len() - 1)
    }

    pub(super) fn hold(&mut self, shard: ShardId, place: Place, server: Box<Server>) {
        self.presence.enter(Held {
            cancel: server.cancel_handle(),
            shard,
            instance: place.instance,
            since: self.asked_at,
            prepared: server.state.prepared_count(),
        });
        self.served.stats.server_assignments.add(1);
        if place.replica {
            self.served.stats.replica_reads.add(1);
        }
        if self.transaction_began.is_none() {
            self.transaction_began = Some(self.asked_at);
        }
        self.links.all.push(Link {
            server,
            shard,
            place,
            out: BytesMut::new(),
            inbox: Buffer::default(),
            passing: 0,
            joined: false,
            wrote: false,
            temporary_tables: 0,
            sent: Sent::Synced,
            copy: Copying::No,
            life: Life::Well,
            errors: 0,
            row_told: None,
            effects: VecDeque::new(),
        });
    }

    /// The instance of a shard that takes writes.
    pub(super) fn primary_of(&self, shard: ShardId) -> Place {
        self.choose_instance(shard, false)
    }

    /// A server of the instance that is best now.
    async fn take_server(&mut self, shard: ShardId, replica_ok: bool) -> Result<(Place, Box<Server>), Failure> {
        let place = self.choose_instance(shard, replica_ok);
        if let Some(server) = place.pool().try_acquire(self.asked_at) {
            return Ok((place, server));
        }
        let result = self.wait_for_server(place.pool()).await;
        if let (Err(Failure::Error(_)), true) = (&result, place.replica) {
            place.health().take_out(Fault::Unreachable, clock::now());
        }
        result.map(|server| (place, server))
    }

    /// Reads go to replicas outside of transactions, or when the whole block only reads.
    fn may_use_replica(&self, access: Access) -> bool {
        if self.session.is_pinned() || self.served.mode == PoolMode::Session {
            return false;
        }
        match self.session.transaction.block() {
            None => access == Access::Read,
            Some(block) => block.fits_replica(),
        }
    }

    /// The instance for a statement: the least busy replica that is fresh enough, or the primary.
    fn choose_instance(&self, shard: ShardId, replica_ok: bool) -> Place {
        let pools = self.served.shard(shard);
        let primary = pools.primary();
        let instance = match replica_ok && pools.instances.len() > 1 {
            true => pools.for_read(self.asked_at, self.session.last_write(shard), self.worker.next_turn()),
            false => primary,
        };
        Place { served: self.served.clone(), shard, instance, replica: instance != primary }
    }

    /// Waits in the pool's queue; a client that goes away, or that is to leave and holds no other server,
    /// leaves the queue.
    async fn wait_for_server(&mut self, pool: &Rc<Pool>) -> Result<Box<Server>, Failure> {
        self.client.flush().await?;
        let began = clock::now();
        let key = pool.key();
        self.presence.waits(Wait { since: began, shard: ShardId(key.shard), instance: key.instance });
        let result = tokio::select! {
            biased;
            server = pool.acquire() => server.map_err(Refused::ByPool),
            gone = self.client.watch() => return Err(gone.into()),
            fields = self.presence.condemned() => Err(Refused::GivesUp(fields)),
            () = self.presence.dismissed(), if self.links.is_empty() => return Err(dismissed().into()),
        };
        self.presence.waits_no_more();
        let waited_us = microseconds(began.elapsed());
        self.served.stats.wait_time.record_us(waited_us);
        self.measure.waited(waited_us);
        result.map_err(|refused| {
            Failure::Error(match refused {
                Refused::ByPool(error) => error.into_fields(),
                Refused::GivesUp(fields) => fields,
            })
        })
    }

    /// Brings a server to the session's settings and into its transaction block; the messages go
    /// out with whatever is sent next.
    pub(super) async fn bring_into_step(&mut self, i: usize) -> Result<(), Failure> {
        if self.links[i].is_in_step(&self.session) {
            return Ok(());
        }
        if !self.links[i].server.state.is_settled() || self.links[i].is_unsynced() {
            Box::pin(self.settle(i)).await?;
        }
        let (shard, joined) = (self.links[i].shard, self.links[i].joined);
        if !joined && self.session.transaction.block().is_some_and(Block::needs_one_snapshot) {
            let id = self.links[i].server.id.0;
            Box::pin(self.join_snapshot(shard)).await?;
            // It may have joined with all the others.
            if self.links[self.position(id)?].joined {
                return Ok(());
            }
        }
        let link = &mut self.links.all[i];
        let wanted = match self.session.transaction.block() {
            Some(block) if !link.joined => block.settings_before(),
            _ => self.session.settings(),
        };
        let identity = ["role", "session_authorization"]
            .iter()
            .any(|name| link.server.state.settings().get(name) != wanted.get(name));
        let replay = wanted.replay(link.server.state.settings());
        if !replay.is_empty() {
            link.hidden_query(&replay);
        }
        link.server.state.set_settings(wanted.clone());
        if !link.joined
            && let Some(block) = self.session.transaction.block()
        {
            link.hidden_query(&block.prelude());
            link.joined = true;
            link.server.state.set_settings(block.settings_on_servers().clone());
            if link.server.state.settings() != self.session.settings() {
                // RESET in the block: what the startup packet said comes back.
                link.hidden_query(&self.session.settings().replay(link.server.state.settings()));
                link.server.state.set_settings(self.session.settings().clone());
            }
        }
        // Whom a statement runs as is never left to chance: it must have succeeded before.
        if identity { Box::pin(self.settle(i)).await } else { Ok(()) }
    }
}
