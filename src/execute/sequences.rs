//! currval and lastval tell what their own server has done for a session before. They are answered by
//! the server that the session wrote on last, as long as nobody else has written there since.

use pgsluice_sharding::ShardId;
use pgsluice_sharding::sql::{Pin, Statement};

use crate::config::PoolMode;
use crate::protocol::error::ErrorFields;

use super::{Conversation, Failure};

impl Conversation {
    /// Takes the server that knows what a statement with currval or lastval asks for. From then on the
    /// session keeps its server.
    ///
    /// # Errors
    /// Somebody else has that server, or has written there since.
    pub(super) fn find_sequences(&mut self, statement: &Statement) -> Result<(), Failure> {
        let asks = statement.effects.pin == Some(Pin::Sequence);
        if !asks || self.session.is_pinned() || self.served.mode == PoolMode::Session {
            return Ok(());
        }
        self.worker.watch_sequences();
        let me = Some(self.presence.id);
        if self.links.iter().any(|link| link.server.state.writer() == me) {
            return Ok(());
        }
        // A session that has written nothing gets PostgreSQL's own error from any server.
        let Some((shard, server)) = self.session.last_server_written else { return Ok(()) };
        match self.links.is_empty() && self.take_that_server(shard, server) {
            true => Ok(()),
            false => Err(ErrorFields::error("0A000", "what the sequence gave is known to another server only")
                .with_detail("In transaction mode the server of an earlier transaction may serve others by now.")
                .with_hint("Use INSERT ... RETURNING, or ask in the transaction that has used the sequence.")
                .into()),
        }
    }

    fn take_that_server(&mut self, shard: ShardId, id: u64) -> bool {
        let (place, me) = (self.primary_of(shard), Some(self.presence.id));
        let is_wanted = |server: &crate::pool::Server| server.id.0 == id && server.state.writer() == me;
        let Some(server) = place.pool().try_acquire_that(self.asked_at, is_wanted) else { return false };
        self.hold(shard, place, server);
        true
    }

    /// A statement that may write is about to run on server `i`. Once anybody has asked for the last
    /// values of sequences, nobody must see those of the server's last user.
    pub(super) fn note_write(&mut self, i: usize) {
        let me = self.presence.id;
        let link = &mut self.links[i];
        link.wrote = true;
        self.session.last_server_written = Some((link.shard, link.server.id.0));
        if link.server.state.writer() == Some(me) {
            return;
        }
        if self.worker.watches_sequences() && !link.is_unsynced() {
            link.hidden_query("DISCARD SEQUENCES");
        }
        link.server.state.set_writer(me);
    }
}
