//! REPEATABLE READ over several shards. One snapshot of them all does not exist; what can be had is one on each, taken together.

use pgsluice_sharding::ShardId;
use pgsluice_sharding::sql::{Access, Isolation};

use crate::protocol::error::ErrorFields;
use crate::session::transaction::{Block, Snapshot};

use super::{Conversation, Failure};

/// The setting by which a session says what its REPEATABLE READ transactions may do.
pub(super) const SETTING: &str = "sluice.snapshots";

/// What a session lets its REPEATABLE READ transactions do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Snapshots {
    /// One that begins with a statement over several shards has a snapshot on each; any other stays on its first shard.
    Auto,
    /// The first statement takes a snapshot on every shard, whatever it concerns.
    All,
    /// Every transaction stays on one shard.
    One,
}

impl Snapshots {
    /// As the setting is written in SQL; `None` for anything else.
    pub(super) fn parse(value: &str) -> Option<Self> {
        match value.trim_matches('\'').to_ascii_lowercase().as_str() {
            "auto" => Some(Self::Auto),
            "all" => Some(Self::All),
            "one" => Some(Self::One),
            _ => None,
        }
    }
}

/// What PostgreSQL says of a value that an enumerated setting does not have.
pub(super) fn invalid_value(value: &str) -> ErrorFields {
    let value = value.trim_matches('\'');
    ErrorFields::error("22023", format!("invalid value for parameter \"{SETTING}\": \"{value}\""))
        .with_hint("Available values: auto, all, one.")
}

impl Conversation {
    /// A statement over several shards is about to run. If it is the first of a REPEATABLE READ transaction, this takes the snapshots.
    pub(super) async fn begin_on_several(&mut self) -> Result<(), Failure> {
        let is_first = self
            .session
            .transaction
            .block()
            .is_some_and(|block| block.snapshot() == Snapshot::None && block.needs_one_snapshot());
        self.session.transaction.takes_snapshot(Snapshot::OfJoined);
        if is_first && self.snapshots() != Snapshots::One { Box::pin(self.take_snapshots()).await } else { Ok(()) }
    }

    /// A server of `shard` is about to join a transaction that promises one snapshot.
    ///
    /// # Errors
    /// `0A000` when the transaction is to stay on another shard.
    pub(super) async fn join_snapshot(&mut self, shard: ShardId) -> Result<(), Failure> {
        match self.session.transaction.block().map_or(Snapshot::OfAll, Block::snapshot) {
            Snapshot::OfAll => Ok(()),
            Snapshot::None if self.snapshots() == Snapshots::All => self.take_snapshots().await,
            Snapshot::None => self.take_out_others(shard).await,
            Snapshot::OfJoined if self.links.iter().filter(|link| link.joined).all(|link| link.shard == shard) => {
                Ok(())
            }
            Snapshot::OfJoined => Err(self.stays_on_one().into()),
        }
    }

    /// Servers that have described a statement, and no more, leave the transaction.
    async fn take_out_others(&mut self, shard: ShardId) -> Result<(), Failure> {
        for i in 0..self.links.len() {
            if self.links[i].joined && self.links[i].shard != shard {
                self.settle(i).await?;
                self.links[i].hidden_query("ROLLBACK");
                self.left_block(i, false);
            }
        }
        Ok(())
    }

    fn snapshots(&self) -> Snapshots {
        self.session.settings().get(SETTING).and_then(Snapshots::parse).unwrap_or(Snapshots::Auto)
    }

    /// Takes a snapshot on every shard, all at once. Not for SERIALIZABLE, whose promise would be broken all the same.
    async fn take_snapshots(&mut self) -> Result<(), Failure> {
        if self.session.transaction.isolation() != Some(Isolation::RepeatableRead) {
            return Ok(());
        }
        self.session.transaction.takes_snapshot(Snapshot::OfAll);
        let mut ids = Vec::with_capacity(self.served.shards.len());
        for shard in self.served.all_shards() {
            let i = self.link(Some(shard), Access::Lock).await?;
            ids.push(self.links[i].server.id.0);
        }
        for id in &ids {
            let i = self.position(*id)?;
            self.links[i].hidden_query("SELECT 1");
            self.links[i].borrow_buffer(&self.worker);
            self.send_out(i).await?;
        }
        for id in ids {
            let i = self.position(id)?;
            self.settle(i).await?;
        }
        Ok(())
    }

    fn stays_on_one(&self) -> ErrorFields {
        let serializable = self.session.transaction.isolation() == Some(Isolation::Serializable);
        let (message, hint) = match (serializable, self.snapshots()) {
            (true, _) => (
                "a SERIALIZABLE transaction cannot read from several shards",
                "Use READ COMMITTED or REPEATABLE READ, or keep the transaction to one value of the sharding key.",
            ),
            (false, Snapshots::One) => (
                "with sluice.snapshots = 'one' a REPEATABLE READ transaction cannot read from several shards",
                "Use READ COMMITTED, or keep the transaction to one value of the sharding key.",
            ),
            (false, _) => (
                "a REPEATABLE READ transaction that has begun on one shard cannot read from another",
                "Begin it with a statement over several shards, SET sluice.snapshots = 'all' before it, or use READ COMMITTED.",
            ),
        };
        let detail = "Each shard has its own snapshots; together they would not show one moment.";
        ErrorFields::error("0A000", message).with_detail(detail).with_hint(hint)
    }
}
