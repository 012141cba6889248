//! A request that ran into an outdated plan of another client's is run again.
//!
//! A server refuses a statement whose rows have changed since somebody prepared it there. Who has
//! prepared it later, or was never told what its rows are, is not to blame and must not hear of it. As
//! long as nothing of an answer has gone to the client, its messages are put back and read once more,
//! with all statements planned and prepared anew.

use bytes::BytesMut;

use crate::protocol::frame::Header;

use super::{CatalogChange, Conversation, End, Failure, Pipeline};

/// Longest request that is kept for a second run.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// Whether the request that is being answered may run a second time.
#[derive(Debug, Default)]
pub(super) enum Again {
    #[default]
    No,
    /// Nothing of its answer has gone to the client. These are its messages so far; none for a simple
    /// query, which its caller repeats.
    Possible(BytesMut),
    /// It has failed, the client knows nothing of it, and it is to run again.
    Due(BytesMut),
    /// It runs for the second time.
    Spent,
}

impl Conversation {
    /// Keeps the extended-protocol message at the front of the inbox, if it begins or continues what may
    /// run again.
    pub(super) fn keep_message(&mut self, header: Header) {
        let begins = matches!(self.again, Again::No) && matches!(header.tag, b'B' | b'D') && self.nothing_runs();
        if begins {
            self.session.statements.begin_journal();
            self.again = Again::Possible(BytesMut::new());
        }
        let Again::Possible(kept) = &mut self.again else { return };
        if kept.len() + header.total > KEPT_BYTES_MAX {
            self.cannot_run_again();
        } else {
            kept.extend_from_slice(&self.client.inbox.filled()[..header.total]);
        }
    }

    /// Outside of a block, with no part of a pipeline behind it.
    pub(super) fn nothing_runs(&self) -> bool {
        self.session.transaction.is_idle()
            && self.links.iter().all(|link| !link.is_unsynced() && link.server.state.is_settled())
    }

    /// A simple query may run again, if it is a transaction of its own.
    pub(super) fn watch_query(&mut self) {
        if self.nothing_runs() {
            self.again = Again::Possible(BytesMut::new());
        }
    }

    /// Something of the answer goes to the client, or the request is over.
    pub(super) fn cannot_run_again(&mut self) {
        if matches!(self.again, Again::Possible(_)) {
            self.session.statements.end_journal();
            self.again = Again::No;
        }
    }

    /// The request is answered; the next one is another.
    pub(super) fn forget_request(&mut self) {
        self.cannot_run_again();
        self.again = Again::No;
    }

    /// A server has found a plan outdated: no statement that was prepared before is to be trusted, on no
    /// server. Under a new version of the catalog all have other names.
    pub(super) fn plans_are_outdated(&mut self) {
        self.catalog_change = CatalogChange::Outdated;
        let mut reader = self.served.catalog.borrow_mut();
        let seen = reader.catalog().version;
        reader.watch().renew(seen);
    }

    /// Whether the failure of an outdated plan on server `i` is kept from the client, because the
    /// request runs again.
    pub(super) fn hides_outdated(&mut self, i: usize) -> bool {
        let Again::Possible(kept) = &mut self.again else { return false };
        self.again = Again::Due(std::mem::take(kept));
        let link = &mut self.links[i];
        link.effects.clear();
        link.server.state.hide_sync();
        if link.is_unsynced() {
            link.sent = super::links::Sent::Failed;
            self.pipeline = Pipeline::Skipping;
        }
        true
    }

    pub(super) fn is_to_run_again(&self) -> bool {
        matches!(self.again, Again::Due(_))
    }

    /// Puts the messages of the request back, to be read once more.
    pub(super) async fn put_request_back(&mut self) -> Result<(), End> {
        let Again::Due(kept) = std::mem::replace(&mut self.again, Again::Spent) else { return Ok(()) };
        self.take_request();
        self.session.statements.rewind();
        self.unsent_parses.clear();
        self.come_to_rest().await?;
        self.client.inbox.put_back(&kept);
        Ok(())
    }

    /// Ends what has failed on the servers and plans everything anew; true if the query is to run again.
    pub(super) async fn query_runs_again(&mut self) -> Result<bool, Failure> {
        if !self.is_to_run_again() {
            return Ok(false);
        }
        self.again = Again::Spent;
        self.come_to_rest().await?;
        Ok(true)
    }

    async fn come_to_rest(&mut self) -> Result<(), End> {
        let unsynced: Vec<u64> =
            self.links.iter().filter(|link| link.is_unsynced()).map(|link| link.server.id.0).collect();
        for id in unsynced {
            let Some(i) = self.links.by_server(id) else { continue };
            self.sync_link(i, crate::pool::server::Audience::Router);
            match self.pump(i).await {
                // A server that is gone has nothing to end.
                Ok(()) | Err(Failure::Error(_) | Failure::Told) => {}
                Err(Failure::End(end)) => return Err(end),
            }
        }
        self.pipeline = Pipeline::Running;
        self.session.statements.close_portals();
        match self.refresh_catalog().await {
            Ok(()) | Err(Failure::Error(_) | Failure::Told) => Ok(()),
            Err(Failure::End(end)) => Err(end),
        }
    }
}
