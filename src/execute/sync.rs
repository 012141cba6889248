//! Where the messages of a pipeline are settled: Flush, Sync, and a Query behind statements that no Sync has ended.

use crate::pool::server::{Audience, Due};
use crate::protocol::frontend;

use super::links::{Link, Sent};
use super::{CatalogChange, Conversation, End, Failure, Pipeline};

impl Conversation {
    /// Flush: all answers so far.
    pub(super) async fn flush(&mut self) -> Result<(), Failure> {
        self.take_request();
        self.answer_parses().await?;
        self.settle_all().await?;
        self.client.flush().await?;
        self.pipeline_rests();
        Ok(())
    }

    /// Sync: the pipeline's transaction ends, errors are forgotten, ReadyForQuery follows.
    pub(super) async fn sync(&mut self) -> Result<(), End> {
        self.take_request();
        let is_settled = self.unsent_parses.is_empty() && !self.several_unsynced();
        if self.pipeline == Pipeline::Running && !is_settled {
            Box::pin(self.settle_or_fail()).await?;
            if self.is_to_run_again() {
                return Box::pin(self.put_request_back()).await;
            }
        }
        self.unsent_parses.clear();
        if self.pipeline == Pipeline::Skipping {
            self.break_implicit_transactions();
        }
        self.pipeline = Pipeline::Running;
        let result = self.sync_links().await;
        if self.is_to_run_again() {
            return match result {
                Err(Failure::End(end)) => Err(end),
                _ => Box::pin(self.put_request_back()).await,
            };
        }
        self.forget_request();
        if std::mem::take(&mut self.sync_passed_over) {
            // Its turn comes with the Sync after the copy.
            return match result {
                Err(Failure::End(end)) => Err(end),
                Err(Failure::Error(fields)) => self.fail_pipeline(Some(&fields)).await,
                Ok(_) | Err(Failure::Told) => Ok(()),
            };
        }
        self.pipeline = Pipeline::Running;
        self.pipeline_ended();
        let result = match self.session.transaction.ends_with_text() {
            true => Box::pin(self.end_pipeline(result)).await,
            false => result,
        };
        let result = match result {
            Ok(false) => Box::pin(self.after_sync()).await.map(|()| false),
            other => other,
        };
        match result {
            Ok(true) => {}
            Ok(false) | Err(Failure::Told) => self.ready(),
            Err(Failure::Error(fields)) => {
                self.report(&fields);
                self.ready();
            }
            Err(Failure::End(end)) => return Err(end),
        }
        if self.session.transaction.is_idle() {
            self.session.statements.close_portals();
        }
        Ok(())
    }

    async fn after_sync(&mut self) -> Result<(), Failure> {
        self.refresh_catalog().await?;
        self.catch_up_when_idle().await
    }

    async fn settle_or_fail(&mut self) -> Result<(), End> {
        match self.settle_before_sync().await {
            Err(Failure::End(end)) => Err(end),
            _ if self.is_to_run_again() => Ok(()),
            Ok(()) => Ok(()),
            Err(Failure::Error(fields)) => self.fail_pipeline(Some(&fields)).await,
            Err(Failure::Told) => self.fail_pipeline(None).await,
        }
    }

    /// Syncs every server that has run a part of the pipeline; true when the one server's
    /// ReadyForQuery has gone to the client.
    async fn sync_links(&mut self) -> Result<bool, Failure> {
        for i in 0..self.links.len() {
            if !self.links[i].is_unsynced() && !self.links[i].server.state.is_settled() {
                Box::pin(self.pump(i)).await?;
            }
        }
        // Nothing is to come between the server's ReadyForQuery and the client.
        let passes = !self.session.transaction.is_failed()
            && !self.session.transaction.ends_with_text()
            && self.catalog_change == CatalogChange::None
            && !self.is_listening();
        if self.links.len() == 1 && self.links[0].is_unsynced() && passes {
            self.sync_link(0, Audience::Client);
            self.pump(0).await?;
            return Ok(true);
        }
        let unsynced = self.links.iter().filter(|link| link.is_unsynced()).map(|link| link.server.id.0);
        let unsynced: Vec<u64> = unsynced.collect();
        for id in unsynced {
            if let Some(i) = self.links.by_server(id) {
                self.sync_link(i, Audience::Router);
                Box::pin(self.pump(i)).await?;
            }
        }
        Ok(false)
    }

    pub(super) fn sync_link(&mut self, i: usize, audience: Audience) {
        let link = &mut self.links[i];
        frontend::sync(&mut link.out);
        link.server.state.expect(Due::Sync(audience));
        link.sent = Sent::Synced;
    }

    /// A Query has come. Messages of the extended protocol before it that no Sync has ended are answered
    /// first; false when it is not its turn, because they are to be read again, or is passed over up to the
    /// Sync, because one of them has failed.
    pub(super) async fn settle_before_query(&mut self) -> Result<bool, End> {
        if self.unsent_parses.is_empty() && !self.links.iter().any(Link::is_unsynced) {
            if self.measure.has_begun() {
                self.pipeline_ended();
            }
            return Ok(true);
        }
        let is_next = Box::pin(self.settle_pipeline()).await? && self.pipeline == Pipeline::Running;
        if is_next {
            self.pipeline_ended();
        }
        Ok(is_next)
    }

    /// Whether a Query belongs to a transaction with what a pipeline has executed before it.
    pub(super) fn goes_on_with_pipeline(&self) -> bool {
        let executed = self.session.transaction.is_idle() && self.links.iter().any(|link| link.sent == Sent::Executed);
        executed || self.session.transaction.ends_with_text()
    }

    /// A Query after extended messages without Sync that have executed nothing, or are in a block.
    pub(super) async fn sync_before_query(&mut self) -> Result<(), Failure> {
        for i in 0..self.links.len() {
            if self.links[i].is_unsynced() {
                self.sync_link(i, Audience::Router);
                self.pump(i).await?;
            }
        }
        Ok(())
    }

    /// What an unfinished pipeline has done on any server becomes a part of the transaction that the
    /// statements of a text are.
    pub(super) fn pipeline_becomes_text(&mut self) {
        self.session.transaction.begin_text(self.session.settings().clone());
        for link in self.links.iter_mut().filter(|link| link.is_unsynced()) {
            link.hidden_query("BEGIN");
            link.joined = true;
            link.sent = Sent::Synced;
        }
    }

    /// A Query has failed before any server had it: what the pipeline before it has done is undone.
    pub(super) async fn roll_back_pipeline(&mut self) -> Result<(), Failure> {
        self.break_implicit_transactions();
        self.sync_before_query().await
    }
}
