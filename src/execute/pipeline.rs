//! A pipeline is one transaction up to its Sync. As long as one server runs it, that server sees to it; where
//! several write, or the router runs a statement, what has been executed becomes a block, which ends at the Sync.

use pgsluice_sharding::plan::Broadcast;
use pgsluice_sharding::sql::{Access, Command};

use crate::protocol::error::ErrorFields;
use crate::protocol::frame::Header;

use super::decide::{Decision, is_transaction_control};
use super::links::Link;
use super::{Conversation, Failure};

impl Conversation {
    /// A statement of the pipeline is about to be bound on server `i`. If it writes there, and another statement has
    /// written elsewhere, both belong to one block. Gives the server's position, which may be another then.
    pub(super) async fn write_in_pipeline(&mut self, i: usize, access: Access) -> Result<usize, Failure> {
        let elsewhere = |(other, link): (usize, &Link)| other != i && link.is_unsynced() && link.wrote;
        let spreads = access == Access::Write
            && self.session.transaction.is_idle()
            && self.links.iter().enumerate().any(elsewhere);
        if !spreads {
            return Ok(i);
        }
        let id = self.links[i].server.id.0;
        Box::pin(self.pipeline_becomes_block()).await?;
        let i = self.position(id)?;
        self.bring_into_step(i).await?;
        Ok(i)
    }

    /// A statement over several shards is about to run: the Execute message of `total` bytes is at the front of the
    /// inbox.
    pub(super) async fn many_in_pipeline(&mut self, total: usize, reads: bool) -> Result<(), Failure> {
        if !self.session.transaction.is_idle() {
            return Ok(());
        }
        let joins = match reads {
            // Nothing of it is to be undone, and only what was written must be seen and kept.
            true => self.links.iter().any(|link| link.is_unsynced() && link.wrote),
            false => self.has_executed() || !self.sync_follows(total),
        };
        if joins { self.pipeline_becomes_block().await } else { Ok(()) }
    }

    /// The router is about to ask a server for itself, which ends with a Sync: what the pipeline has written there must not be committed by
    /// that.
    pub(super) async fn question_in_pipeline(&mut self) -> Result<(), Failure> {
        self.execute_in_pipeline().await
    }

    /// An EXECUTE is about to be bound, of which it is not known yet where it writes.
    pub(super) async fn execute_in_pipeline(&mut self) -> Result<(), Failure> {
        let wrote = self.links.iter().any(|link| link.is_unsynced() && link.wrote);
        if wrote && self.session.transaction.is_idle() { self.pipeline_becomes_block().await } else { Ok(()) }
    }

    /// The router is about to run a statement of the pipeline.
    ///
    /// # Errors
    /// `25001` when it cannot be undone, and others have run before it.
    pub(super) async fn router_in_pipeline(&mut self, command: &Command, decision: &Decision) -> Result<(), Failure> {
        if !self.session.transaction.is_idle() || is_transaction_control(command) {
            return Ok(());
        }
        let is_alone = matches!(command, Command::DiscardAll)
            || matches!(decision, Decision::Broadcast(Broadcast::Apart | Broadcast::Index(_)));
        let has_executed = self.has_executed();
        if has_executed && is_alone {
            return Err(ErrorFields::error("25001", "this statement cannot be executed within a pipeline").into());
        }
        if has_executed || !(is_alone || self.sync_follows(self.client.request_bytes)) {
            return self.pipeline_becomes_block().await;
        }
        // What was only described is no part of it.
        self.sync_before_query().await
    }

    /// What the pipeline has done on any server, and what it will do, becomes a block that its Sync ends.
    async fn pipeline_becomes_block(&mut self) -> Result<(), Failure> {
        self.cannot_run_again();
        self.settle_all().await?;
        self.pipeline_becomes_text();
        Ok(())
    }

    /// Whether statements of the pipeline have run outside of any block.
    fn has_executed(&self) -> bool {
        self.links.iter().any(Link::has_executed)
    }

    /// Whether the message behind the one of `total` bytes is the pipeline's Sync: then nothing follows that could
    /// fail.
    fn sync_follows(&self, total: usize) -> bool {
        let rest = self.client.inbox.filled().get(total..).unwrap_or_default();
        matches!(Header::parse(rest), Ok(Some(Header { tag: b'S', .. })))
    }

    /// The Sync has come: the block that the pipeline has become ends.
    pub(super) async fn end_pipeline(&mut self, synced: Result<bool, Failure>) -> Result<bool, Failure> {
        if !self.session.transaction.ends_with_text() || matches!(synced, Err(Failure::End(_))) {
            return synced;
        }
        if self.session.transaction.is_failed() && synced.is_ok() {
            return self.roll_back_block().await.map(|()| false);
        }
        self.end_text(synced.map(drop)).await.map(|()| false)
    }
}
