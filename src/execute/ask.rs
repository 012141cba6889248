//! Questions of the router to a server it holds: the answer is read here, not passed on.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use bytes::BytesMut;

use crate::pool::server::{Audience, Due, StatementId};
use crate::protocol::error::ErrorFields;
use crate::protocol::frame::Header;
use crate::protocol::frontend;

use super::cursors::close_portal_of_router;
use super::links::Sent;
use super::{Conversation, End, Failure};

/// Most bytes of an answer that are kept.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What becomes of the notices in an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Notices {
    /// They go to the client.
    #[default]
    Passed,
    /// Another server has said the same.
    Dropped,
}

/// What a server said to a simple query.
#[derive(Default)]
pub(super) struct Answer {
    /// RowDescription, DataRow and CommandComplete messages as they came.
    pub(super) messages: BytesMut,
    /// The ErrorResponse, whole.
    pub(super) error: Option<BytesMut>,
    notices: Notices,
}

impl Answer {
    /// The command tag, empty if there is none.
    pub(super) fn tag(&self) -> &str {
        let mut rest = &self.messages[..];
        let mut tag = "";
        while let Ok(Some(header)) = Header::parse(rest) {
            if header.tag == b'C' {
                tag = std::str::from_utf8(&rest[5..header.total - 1]).unwrap_or_default();
            }
            rest = &rest[header.total..];
        }
        tag
    }

    pub(super) fn tag_is(&self, tag: &str) -> bool {
        self.tag() == tag
    }

    /// The body of the first message with this tag.
    pub(super) fn body_of(&self, tag: u8) -> Option<bytes::Bytes> {
        let mut rest = &self.messages[..];
        while let Ok(Some(header)) = Header::parse(rest) {
            if header.tag == tag {
                return Some(bytes::Bytes::copy_from_slice(&rest[5..header.total]));
            }
            rest = &rest[header.total..];
        }
        None
    }

    /// The bodies of the DataRow messages.
    pub(super) fn rows(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.messages[..];
        std::iter::from_fn(move || {
            loop {
                let header = Header::parse(rest).ok()??;
                let (message, after) = rest.split_at(header.total);
                rest = after;
                if header.tag == b'D' {
                    return Some(&message[5..]);
                }
            }
        })
    }

    /// Passes the server's error on to the client, if it is one.
    pub(super) fn into_result(self, conversation: &mut Conversation) -> Result<(), Failure> {
        match self.error {
            None => Ok(()),
            Some(error) => {
                conversation.served.stats.errors.add(1);
                conversation.client.out.extend_from_slice(&error);
                Err(Failure::Told)
            }
        }
    }
}

impl Conversation {
    /// Runs a simple query on server `i` and reads the answer. Notices and parameter changes go to
    /// the client, as if it had asked.
    pub(super) async fn ask(&mut self, i: usize, sql: &str) -> Result<Answer, Failure> {
        self.ask_hearing(i, sql, Notices::Passed).await
    }

    pub(super) async fn ask_hearing(&mut self, i: usize, sql: &str, notices: Notices) -> Result<Answer, Failure> {
        if self.links[i].is_unsynced() || !self.links[i].server.state.is_settled() {
            self.settle(i).await?;
        }
        let link = &mut self.links[i];
        frontend::query(&mut link.out, sql.as_bytes());
        link.server.state.expect(Due::Query(Audience::Client));
        // A Query ends a pipeline as Sync does.
        link.sent = Sent::Synced;
        self.read_into(i, Answer { notices, ..Answer::default() }).await
    }

    /// Reads what server `i` still owes.
    pub(super) async fn read_answer(&mut self, i: usize) -> Result<Answer, Failure> {
        self.read_into(i, Answer::default()).await
    }

    /// Runs one statement with its arguments on server `i`, as its unnamed statement, and reads the answer.
    pub(super) async fn ask_bound(
        &mut self,
        i: usize,
        sql: &str,
        types: &[u32],
        bind: impl FnOnce(&mut BytesMut, &[u8]) -> Result<(), Failure>,
    ) -> Result<Answer, Failure> {
        let portal = self.portal_of_router(self.links[i].server.id.0);
        let link = &mut self.links[i];
        frontend::parse(&mut link.out, b"", sql.as_bytes(), types);
        link.server.state.expect(Due::Parse(StatementId::UNNAMED, Audience::Router));
        bind(&mut link.out, portal)?;
        link.server.state.expect(Due::Bind(Audience::Router));
        frontend::execute(&mut link.out, portal, 0);
        link.server.state.expect(Due::Execute(Audience::Router));
        close_portal_of_router(link, portal);
        frontend::sync(&mut link.out);
        link.server.state.expect(Due::Sync(Audience::Router));
        self.read_answer(i).await
    }

    async fn read_into(&mut self, i: usize, mut answer: Answer) -> Result<Answer, Failure> {
        self.links[i].borrow_buffer(&self.worker);
        while !(self.links[i].server.state.is_settled() && self.links[i].out.is_empty()) {
            match self.take_answer(i, &mut answer)? {
                true => {}
                false => self.exchange(i).await?,
            }
        }
        self.links[i].return_buffer(&self.worker);
        Ok(answer)
    }

    /// Sends and receives once on server `i`, watching the client.
    pub(super) async fn exchange(&mut self, i: usize) -> Result<(), Failure> {
        // A commit goes on to its end, whether or not anybody waits for it.
        let watches = !self.presence.is_committing();
        let Self { client, links, .. } = self;
        let link = &mut links[i];
        let result = poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = link.poll_send(cx) {
                return Poll::Ready(Ok(Err(error)));
            }
            match link.inbox.poll_read_more(cx, &mut link.server.stream) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Err(io::ErrorKind::UnexpectedEof.into()))),
                Poll::Ready(Ok(_)) => return Poll::Ready(Ok(Ok(()))),
                Poll::Ready(Err(error)) => return Poll::Ready(Ok(Err(error))),
                Poll::Pending => {}
            }
            if watches { client.poll_watch(cx).map(Err) } else { Poll::Pending }
        })
        .await;
        match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.server_gone(i, &error)),
            Err(end) => Err(end.into()),
        }
    }

    /// Takes one message of server `i`; false when none is whole.
    fn take_answer(&mut self, i: usize, answer: &mut Answer) -> Result<bool, Failure> {
        let Self { links, client, presence, .. } = &mut *self;
        let link = &mut links[i];
        let Ok(parsed) = Header::parse(link.inbox.filled()) else { return Err(self.out_of_step(i)) };
        let Some(header) = parsed else { return Ok(false) };
        if link.inbox.len() < header.total {
            link.inbox.reserve(header.total - link.inbox.len());
            return Ok(false);
        }
        let message = &link.inbox.filled()[..header.total];
        let hidden = link.server.state.hidden_query_runs();
        let Ok(verdict) = link.server.state.reply(header.tag, &message[5..]) else { return Err(self.out_of_step(i)) };
        let mut too_large = false;
        match header.tag {
            b'E' if hidden => return Err(self.hidden_query_failed(i, 5..header.total)),
            b'E' => {
                let told = presence.sentence_for(&message[5..]);
                answer.error = Some(told.map_or_else(|| message.into(), |told| BytesMut::from(&told[..])));
            }
            b'N' if answer.notices == Notices::Dropped => {}
            b'N' | b'S' | b'A' if verdict == crate::pool::server::Verdict::Pass => {
                client.out.extend_from_slice(message);
            }
            b't' | b'T' | b'D' | b'C' if !hidden => {
                too_large = answer.messages.len() + message.len() > ANSWER_BYTES_MAX;
                if !too_large {
                    answer.messages.extend_from_slice(message);
                }
            }
            _ => {}
        }
        link.inbox.consume(header.total);
        if too_large {
            let message = "an answer to the router is longer than it can be";
            return Err(End::Fatal(ErrorFields::fatal("54000", message)).into());
        }
        Ok(true)
    }

    /// Runs one statement of a text on server `i`; its rows and tag pass to the client, ReadyForQuery
    /// does not.
    ///
    /// # Errors
    /// `Told` when the server refused the statement.
    pub(super) async fn ask_passing(&mut self, i: usize, sql: &[u8]) -> Result<(), Failure> {
        self.links[i].effects.clear();
        frontend::query(&mut self.links[i].out, sql);
        self.links[i].server.state.expect(Due::Part);
        self.pump_part(i).await
    }

    /// Passes on what server `i` answers to one statement of a text.
    ///
    /// # Errors
    /// As [`Self::ask_passing`].
    pub(super) async fn pump_part(&mut self, i: usize) -> Result<(), Failure> {
        let server = self.links[i].server.id.0;
        let errors = self.links[i].errors;
        self.pump(i).await?;
        let failed = self.links.by_server(server).is_none_or(|i| self.links[i].errors != errors);
        if failed || self.is_to_run_again() { Err(Failure::Told) } else { Ok(()) }
    }
}
