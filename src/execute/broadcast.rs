//! The same statement on every shard, in one atomic step.

use pgsluice_sharding::sql::{Access, Effects, TransactionOptions};

use crate::protocol::error::ErrorFields;

use super::ask::Notices;
use super::{CatalogChange, Conversation, Failure};

impl Conversation {
    /// Runs `text` on every shard. The first shard goes first, so that two clients which do the same
    /// wait for each other there and never cross.
    pub(super) async fn broadcast(&mut self, text: &str, transactional: bool, effects: Effects) -> Result<(), Failure> {
        let tag = if transactional {
            self.in_own_block(async |this: &mut Self| this.run_on_all(text).await).await?
        } else if self.session.transaction.is_idle() {
            self.run_on_all(text).await?
        } else {
            let word = text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
            return Err(ErrorFields::error("25001", format!("{word} cannot run inside a transaction block")).into());
        };
        self.sequences_moved();
        if effects.changes_catalog {
            self.catalog_change = CatalogChange::Unread;
            self.refresh_catalog().await?;
        }
        self.complete(&tag);
        Ok(())
    }

    /// Runs `work` in the client's block, or in a block of its own that commits on all shards or
    /// none.
    pub(super) async fn in_own_block<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if !self.session.transaction.is_idle() {
            return work(self).await;
        }
        self.session.transaction.begin("BEGIN", TransactionOptions::default(), self.session.settings().clone());
        let result = match work(self).await {
            Ok(value) => self.commit_links().await.map(|_| value),
            Err(Failure::End(end)) => return Err(Failure::End(end)),
            Err(failure) => {
                self.roll_back_links().await?;
                Err(failure)
            }
        };
        drop(self.session.transaction.end());
        for link in self.links.iter_mut() {
            link.joined = false;
        }
        result
    }

    /// The command tag and the notices of the first shard; every shard gives the same.
    async fn run_on_all(&mut self, text: &str) -> Result<String, Failure> {
        let mut tag = None;
        for shard in self.served.all_shards() {
            let i = self.link(Some(shard), Access::Write).await?;
            self.note_write(i);
            let notices = if tag.is_none() { Notices::Passed } else { Notices::Dropped };
            let answer = self.ask_hearing(i, text, notices).await?;
            tag.get_or_insert_with(|| answer.tag().to_owned());
            answer.into_result(self)?;
        }
        Ok(tag.unwrap_or_default())
    }
}
