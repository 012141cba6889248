//! A request that ran into an outdated plan of another client's is run again.
//!
//! A server refuses a statement whose rows have changed since somebody prepared it there. Who has
//! prepared it later, or was never told what its rows are, is not to blame and must not hear of it. As
//! long as nothing of an answer has gone to the client, its messages are put back and read once more,
//! with all statements planned and prepared anew. Descriptions may have gone: what follows them runs again.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::protocol::error::ErrorFields;
use crate::protocol::frame::{Header, put_message};

use super::{CatalogChange, Conversation, End, Failure, Pipeline};

/// Longest request that is kept for a second run.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// Whether the request that is being answered may run a second time.
#[derive(Debug, Default)]
pub(super) enum Again {
    #[default]
    No,
    /// Nothing of its answer has gone to the client but descriptions of statements.
    Possible(Kept),
    /// It has failed, the client knows nothing of it, and it is to run again.
    Due(BytesMut),
    /// It runs for the second time.
    Spent,
}

/// What is kept of a request: its messages that have no answer yet.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Its messages so far; none for a simple query, which its caller repeats.
    messages: BytesMut,
    /// Each of them, if the first is a Describe. After the answer to a Bind there is no second run, so where that is the first nobody asks.
    each: Option<VecDeque<KeptMessage>>,
    /// The ParameterDescription that was the first answer: only with the rows is it known to be right.
    parameters: BytesMut,
}

#[derive(Clone, Copy, Debug)]
struct KeptMessage {
    tag: u8,
    bytes: usize,
    /// How many changes of names the journal of statements held when it came.
    names: usize,
}

impl Kept {
    /// The client has the answer to the first of the messages, if that has this tag. Gives how many changes of names are settled with it.
    fn answered(&mut self, tag: u8) -> Option<usize> {
        let each = self.each.as_mut()?;
        each.front().filter(|first| first.tag == tag)?;
        let flushes = each.iter().skip(1).take_while(|message| message.tag == b'H').count();
        let bytes = each.drain(..=flushes).map(|message| message.bytes).sum();
        drop(self.messages.split_to(bytes));
        let settled = each.front().map_or(usize::MAX, |next| next.names);
        each.iter_mut().for_each(|message| message.names -= settled);
        Some(settled)
    }
}

impl Again {
    /// Holds a ParameterDescription back until the rows are described too; true if it does.
    pub(super) fn holds_parameters(&mut self, body: &[u8]) -> bool {
        let Self::Possible(kept) = self else { return false };
        put_message(&mut kept.parameters, b't', |out| out.extend_from_slice(body));
        true
    }

    /// The ParameterDescription that was held back, with the description of rows that follows it.
    pub(super) fn held_description(&mut self, tag: u8, body: &[u8]) -> Option<Bytes> {
        let Self::Possible(kept) = self else { return None };
        let mut both = std::mem::take(&mut kept.parameters);
        if both.is_empty() {
            return None;
        }
        put_message(&mut both, tag, |out| out.extend_from_slice(body));
        Some(both.freeze())
    }
}

impl Conversation {
    /// Keeps the extended-protocol message at the front of the inbox, if it begins or continues what may
    /// run again.
    pub(super) fn keep_message(&mut self, header: Header) {
        if matches!(self.again, Again::No) && matches!(header.tag, b'B' | b'D') && self.nothing_runs() {
            self.session.statements.begin_journal();
            let messages = BytesMut::with_capacity(2 * header.total);
            let each = (header.tag == b'D').then(VecDeque::new);
            self.again = Again::Possible(Kept { messages, each, parameters: BytesMut::new() });
        }
        let Again::Possible(kept) = &mut self.again else { return };
        if kept.messages.len() + header.total > KEPT_BYTES_MAX {
            self.cannot_run_again();
        } else {
            kept.messages.extend_from_slice(&self.client.inbox.filled()[..header.total]);
            if let Some(each) = &mut kept.each {
                let names = self.session.statements.journal_len();
                each.push_back(KeptMessage { tag: header.tag, bytes: header.total, names });
            }
        }
    }

    /// These messages of the router's own go to the client.
    pub(super) fn has_answered_itself(&mut self, mut messages: &[u8]) {
        while let Ok(Some(header)) = Header::parse(messages)
            && matches!(self.again, Again::Possible(_))
        {
            self.has_answered(header.tag);
            messages = messages.get(header.total..).unwrap_or_default();
        }
    }

    /// A message with this tag goes to the client. What is prepared, described or closed stays so: only what comes after it is to run
    /// again.
    pub(super) fn has_answered(&mut self, tag: u8) {
        let Again::Possible(kept) = &mut self.again else { return };
        let asked = match tag {
            b'1' => b'P',
            b'3' => b'C',
            b'T' | b'n' => b'D',
            b't' => return,
            _ => return self.cannot_run_again(),
        };
        match kept.answered(asked) {
            Some(settled) => self.session.statements.settle_journal(settled),
            // What came before the first message that is kept.
            None if matches!(tag, b'1' | b'3') => {}
            None => self.cannot_run_again(),
        }
    }

    /// A message has been dealt with: if no server has it, the router has answered.
    pub(super) fn has_been_answered(&mut self) {
        if matches!(self.again, Again::Possible(_)) && self.nothing_runs() {
            self.cannot_run_again();
        }
    }

    /// Outside of a block, with no part of a pipeline behind it.
    fn nothing_runs(&self) -> bool {
        self.session.transaction.is_idle()
            && self.links.iter().all(|link| !link.is_unsynced() && link.server.state.is_settled())
    }

    /// A simple query may run again, if it is a transaction of its own.
    pub(super) fn watch_query(&mut self) {
        if self.nothing_runs() {
            self.again = Again::Possible(Kept::default());
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

    /// The rows are others than the client was told, or than the router relies on: nothing of what is known is to be trusted.
    pub(super) fn rows_are_others(&mut self) -> Failure {
        self.plans_are_outdated();
        ErrorFields::outdated_plan().into()
    }

    /// Whether the failure of an outdated plan on server `i` is kept from the client, because the
    /// request runs again.
    pub(super) fn hides_outdated(&mut self, i: usize) -> bool {
        let Again::Possible(kept) = &mut self.again else { return false };
        self.again = Again::Due(std::mem::take(&mut kept.messages));
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
