//! One server's replies to the client: headers are looked at, rows pass undecoded.

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use crate::listening::{Lost, Notification};
use crate::pool::server::{Verdict, is_outdated_plan};
use crate::protocol::backend::{self, TransactionStatus};
use crate::protocol::error::ErrorFields;
use crate::protocol::frame::Header;
use crate::protocol::frontend;
use crate::protocol::reply;

use super::client::dismissed;
use super::extended::PARSE_COMPLETE;
use super::links::{Copying, Effect, Expected, Life, Link, Sent};
use super::worker::Worker;
use super::{Conversation, End, Failure};

/// Longest message of a server that the router must hold whole: errors, descriptions, notices.
const CONTROL_BYTES_MAX: usize = 16 << 20;

/// Answers that are gathered before they are written while more requests wait.
const GATHERED_BYTES_MAX: usize = 8 << 10;

/// What woke the pump.
enum Wake {
    /// Bytes have come from the server, or have been taken by it.
    Server,
    ServerGone(io::Error),
    ClientGone(End),
}

/// What comes while nothing is asked.
enum Unasked {
    Client(Result<(), End>),
    Server(usize),
    Heard(Result<Arc<Notification>, Lost>),
}

/// What a walk over the server's bytes found.
enum Walked {
    /// All whole messages are through.
    Dry,
    /// An answer of the router comes next.
    Owed,
    /// Nothing is due any more.
    Settled,
    /// The server asks for COPY data.
    CopyIn,
}

/// Parts of the server's bytes and answers of the router, in the order the client gets them.
#[derive(Default)]
struct Passage {
    ranges: Vec<Range<usize>>,
    open: Option<usize>,
}

impl Passage {
    fn pass(&mut self, at: usize) {
        self.open.get_or_insert(at);
    }

    fn stop(&mut self, at: usize) {
        if let Some(from) = self.open.take()
            && from < at
        {
            self.ranges.push(from..at);
        }
    }
}

impl Conversation {
    /// Sends what waits for server `i` and passes its replies on until nothing is due.
    ///
    /// # Errors
    /// The server failed (its statement has no outcome) or the client has gone. `Told` when a part of
    /// the pipeline has failed: whatever was to follow must not run.
    pub(super) async fn settle(&mut self, i: usize) -> Result<(), Failure> {
        let link = &mut self.links[i];
        if link.is_unsynced() && !ends_with_sync(link) {
            frontend::flush(&mut link.out);
        }
        let before = self.pipeline;
        self.pump(i).await?;
        if self.pipeline == before { Ok(()) } else { Err(Failure::Told) }
    }

    /// Passes replies of server `i` on until nothing is due.
    pub(super) async fn pump(&mut self, i: usize) -> Result<(), Failure> {
        self.links[i].borrow_buffer(&self.worker);
        loop {
            match self.pass_on(i).await? {
                Walked::Settled => break,
                Walked::Owed => {}
                Walked::CopyIn => Box::pin(self.copy_in(i)).await?,
                Walked::Dry => match self.wake(i).await {
                    Wake::Server => {}
                    Wake::ServerGone(error) => return Err(self.server_gone(i, &error)),
                    Wake::ClientGone(end) => return Err(end.into()),
                },
            }
        }
        self.links[i].return_buffer(&self.worker);
        self.write_unless_more_waits().await?;
        Ok(())
    }

    /// Answers of several requests leave together while the next request is here already.
    async fn write_unless_more_waits(&mut self) -> Result<(), End> {
        if self.client.out.len() >= GATHERED_BYTES_MAX || self.client.inbox_has_little_more() {
            return self.client.flush().await;
        }
        Ok(())
    }

    /// Sends and receives once. The client is watched: its further messages are kept for later, its
    /// end ends the wait.
    async fn wake(&mut self, i: usize) -> Wake {
        let Self { client, links, .. } = self;
        let link = &mut links[i];
        poll_fn(|cx| {
            let mut progress = match link.poll_send(cx) {
                Poll::Ready(Ok(sent)) => sent,
                Poll::Ready(Err(error)) => return Poll::Ready(Wake::ServerGone(error)),
                Poll::Pending => false,
            };
            match link.inbox.poll_read_more(cx, &mut link.server.stream) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Wake::ServerGone(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(Ok(_)) => progress = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Wake::ServerGone(error)),
                Poll::Pending => {}
            }
            if progress {
                return Poll::Ready(Wake::Server);
            }
            match client.poll_watch(cx) {
                Poll::Ready(end) => Poll::Ready(Wake::ClientGone(end)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Walks over what has come from server `i` and writes the client's part of it.
    async fn pass_on(&mut self, i: usize) -> Result<Walked, Failure> {
        let mut passage = Passage::default();
        let (walked, taken) = match self.walk(i, &mut passage) {
            Ok(walked) => walked,
            Err(failure) => return Err(failure),
        };
        let link = &mut self.links[i];
        if let [range] = passage.ranges.as_slice()
            && self.client.out.is_empty()
            && (range.len() >= GATHERED_BYTES_MAX || self.client.inbox_has_little_more())
        {
            let bytes = &link.inbox.filled()[range.clone()];
            self.client.write(bytes).await?;
            self.served.stats.sent.add(bytes.len() as u64);
        } else {
            for range in &passage.ranges {
                self.client.out.extend_from_slice(&link.inbox.filled()[range.clone()]);
                self.served.stats.sent.add(range.len() as u64);
            }
            if self.client.out.len() >= GATHERED_BYTES_MAX {
                self.client.flush().await?;
            }
        }
        self.links[i].inbox.consume(taken);
        if matches!(walked, Walked::Settled | Walked::Owed) {
            self.owed_by_router(i);
        }
        Ok(walked)
    }

    /// The answers of the router whose turn has come.
    fn owed_by_router(&mut self, i: usize) {
        while let Some(bytes) = self.links[i].server.state.take_local() {
            if bytes == PARSE_COMPLETE {
                self.session.statements.parsed();
            }
            self.has_answered_itself(&bytes);
            self.client.out.extend_from_slice(&bytes);
        }
    }

    /// Judges message after message; stops when nothing is due, when the client must act, when an
    /// answer of the router is due in between, or at the end of the bytes.
    fn walk(&mut self, i: usize, passage: &mut Passage) -> Result<(Walked, usize), Failure> {
        let mut at = 0;
        let walked = loop {
            let link = &mut self.links[i];
            if link.server.state.next_is_local() {
                // Its place is after what came before: that is copied out first.
                passage.stop(at);
                if passage.ranges.is_empty() {
                    self.owed_by_router(i);
                    continue;
                }
                break Walked::Owed;
            }
            if link.server.state.is_settled() {
                break Walked::Settled;
            }
            let available = link.inbox.len() - at;
            if link.passing > 0 {
                let n = link.passing.min(available);
                passage.pass(at);
                link.passing -= n;
                at += n;
                if link.passing > 0 {
                    break Walked::Dry;
                }
                continue;
            }
            let Some(header) = Header::parse(&link.inbox.filled()[at..]).map_err(|_| self.out_of_step(i))? else {
                break Walked::Dry;
            };
            let link = &mut self.links[i];
            if matches!(header.tag, b'D' | b'd') && link.server.state.rows_pass() {
                passage.pass(at);
                link.passing = header.total;
                continue;
            }
            if header.total > available {
                if header.total > CONTROL_BYTES_MAX {
                    return Err(self.out_of_step(i));
                }
                link.inbox.reserve(header.total - available);
                break Walked::Dry;
            }
            let verdict = self.judge(i, header.tag, at + 5..at + header.total)?;
            match verdict {
                Verdict::Pass => passage.pass(at),
                Verdict::Swallow => passage.stop(at),
            }
            at += header.total;
            if header.tag == b'G' && verdict == Verdict::Pass {
                let link = &mut self.links[i];
                link.copy = Copying::In;
                if link.server.state.begin_copy_in() {
                    link.sends();
                    self.sync_passed_over = true;
                }
                break Walked::CopyIn;
            }
        };
        passage.stop(at);
        Ok((walked, at))
    }

    /// One message of a server: what it means for server and session, and whether the client sees it.
    fn judge(&mut self, i: usize, tag: u8, body: Range<usize>) -> Result<Verdict, Failure> {
        let link = &mut self.links[i];
        let hidden_query = link.server.state.hidden_query_runs();
        if tag == b'1'
            && let Some(id) = link.server.state.parses()
        {
            self.worker.accepted(id);
        }
        if let (b'T' | b'n', Some(id)) = (tag, link.server.state.describes()) {
            let other = self.worker.described(id, (tag == b'T').then_some(&link.inbox.filled()[body.clone()]));
            if let Some(row) = other {
                self.session.statements.tell_other_row(id, row);
                self.plans_are_outdated();
            }
        }
        let link = &mut self.links[i];
        if let (b't', Some(id)) = (tag, link.server.state.describes()) {
            self.worker.parameters_described(id, &link.inbox.filled()[body.clone()]);
        }
        let shift = if tag == b'E' { link.server.state.shift() } else { None };
        let Ok(verdict) = link.server.state.reply(tag, &link.inbox.filled()[body.clone()]) else {
            return Err(self.out_of_step(i));
        };
        match (tag, verdict) {
            (b'E', _) if hidden_query => return Err(self.hidden_query_failed(i, body)),
            (b'E', Verdict::Swallow) => {}
            (b'E', Verdict::Pass) => {
                if is_outdated_plan(&self.links[i].inbox.filled()[body.clone()]) {
                    self.plans_are_outdated();
                    if self.hides_outdated(i) {
                        return Ok(Verdict::Swallow);
                    }
                }
                self.cannot_run_again();
                let link = &mut self.links[i];
                let error = &link.inbox.filled()[body];
                if is_fatal(error) {
                    link.life = Life::Ending;
                }
                link.note_fault(Some(error));
                let told = self.presence.sentence_for(error);
                let shifted = told.or_else(|| match (shift, &self.made) {
                    (Some(shift), _) => Some(shifted_error(error, |position| shift.apply(position))),
                    (None, Some(made)) => Some(shifted_error(error, |position| made.position(position))),
                    (None, None) => None,
                });
                self.statement_failed(i);
                if let Some(message) = shifted {
                    self.links[i].server.state.owe_first(message);
                    return Ok(Verdict::Swallow);
                }
            }
            (b'1', Verdict::Pass) => {
                self.session.statements.parsed();
                self.has_answered(tag);
            }
            (b't' | b'T' | b'n', Verdict::Pass) => return Ok(self.describes_to_client(i, tag, body)),
            (b'2' | b'3', Verdict::Pass) => self.has_answered(tag),
            (b's', Verdict::Pass) => self.statement_done(i, None),
            (b'C' | b'I', Verdict::Pass) => {
                let body = &self.links[i].inbox.filled()[body];
                let rows = reply::tag_rows(body.strip_suffix(&[0]).unwrap_or(body)).unwrap_or(0);
                self.statement_done(i, Some(rows));
            }
            // After the router's own queries the client's portals live on.
            (b'Z', _) if !hidden_query => self.server_ready(i),
            _ => {}
        }
        Ok(verdict)
    }

    /// A description on its way to the client. That of parameters waits for that of rows, which may find
    /// the statement outdated.
    fn describes_to_client(&mut self, i: usize, tag: u8, body: Range<usize>) -> Verdict {
        let Self { again, links, .. } = self;
        let body = &links[i].inbox.filled()[body];
        if tag == b't' && again.holds_parameters(body) {
            return Verdict::Swallow;
        }
        match again.held_description(tag, body) {
            Some(both) => {
                links[i].server.state.owe_first(both);
                Verdict::Swallow
            }
            None => {
                self.has_answered(tag);
                Verdict::Pass
            }
        }
    }

    fn statement_failed(&mut self, i: usize) {
        self.served.stats.errors.add(1);
        let link = &mut self.links[i];
        link.errors += 1;
        let query = link.effects.pop_front().and_then(|expected| expected.query);
        link.effects.clear();
        link.copy = Copying::No;
        if link.is_unsynced() {
            link.sent = Sent::Failed;
            self.pipeline = super::Pipeline::Skipping;
        }
        match query {
            Some(query) => self.execute_failed(query),
            None => self.measure.fails(),
        }
        self.session.statements.forget_unanswered();
        self.session.transaction.fail();
    }

    /// `rows` is `None` for a portal that was suspended when it had sent as many as were asked for.
    fn statement_done(&mut self, i: usize, rows: Option<u64>) {
        let link = &mut self.links[i];
        link.copy = Copying::No;
        let Some(Expected { effect, query, rows_max }) = link.effects.pop_front() else {
            return self.measure.add_rows(rows.unwrap_or(0));
        };
        let rows = rows.unwrap_or(u64::from(rows_max));
        let more = !link.effects.is_empty();
        match query {
            Some(query) => self.executed(query, rows, more),
            None => self.measure.add_rows(rows),
        }
        match effect {
            Effect::None => {}
            Effect::Statement { script, index, text } => {
                let statement = &script.statements[index];
                self.take_effect(i, &statement.command, &text, statement.effects);
            }
        }
    }

    /// ReadyForQuery: the server alone tells where the block stands, unless others carry it too.
    fn server_ready(&mut self, i: usize) {
        let status = self.links[i].server.state.status();
        self.links[i].copy = Copying::No;
        if self.links.len() == 1 {
            self.follow(status);
        } else if status == TransactionStatus::Failed {
            self.session.transaction.fail();
        }
    }

    /// A server that carries the client's whole block has said where it stands.
    fn follow(&mut self, status: TransactionStatus) {
        let joined = status != TransactionStatus::Idle;
        self.links[0].joined = joined;
        let settings = self.session.settings().clone();
        let before = self.session.transaction.follow(status, &settings);
        if !joined {
            self.session.statements.close_portals();
        }
        drop(before);
    }

    /// The server has failed in the middle of something: its part of the conversation has no outcome.
    pub(super) fn server_gone(&mut self, i: usize, error: &io::Error) -> Failure {
        let half_sent = self.links[i].passing > 0;
        let pinned = self.session.is_pinned();
        let link = self.links.remove(i);
        if let Some(query) = link.effects.front().and_then(|expected| expected.query) {
            self.execute_failed(query);
        }
        link.note_fault(None);
        self.presence.leave(link.server.id.0);
        if link.joined {
            // What the block did there is lost: no savepoint brings it back.
            self.session.transaction.forget_savepoints();
        }
        if link.is_ending() {
            link.close();
            return Failure::End(End::Told);
        }
        let detail = format!("{error} while talking to the server of shard {}", self.served.shard(link.shard).name);
        link.close();
        let fields = ErrorFields::error("08006", "the server closed the connection unexpectedly").with_detail(detail);
        if half_sent {
            // The client waits for the rest of a row: an error would be read as that.
            let what = format!("a server failed in the middle of a message: {error}");
            return Failure::End(End::ClientGone(io::Error::other(what)));
        }
        if pinned {
            let fields = ErrorFields { severity: crate::protocol::Severity::Fatal, ..fields };
            return Failure::End(End::Fatal(fields));
        }
        Failure::Error(fields.with_hint("The outcome of the statement is unknown; look before you repeat it."))
    }

    /// The server sent what it must not send: nothing it says can be trusted.
    pub(super) fn out_of_step(&mut self, i: usize) -> Failure {
        let link = self.links.remove(i);
        link.close();
        Failure::End(End::Fatal(ErrorFields::fatal("08P01", "the server sent a message that was not due")))
    }

    /// The session's settings or transaction could not be brought to a server: statements behind it
    /// may have run without, so the conversation cannot go on.
    pub(super) fn hidden_query_failed(&mut self, i: usize, body: Range<usize>) -> Failure {
        let link = self.links.remove(i);
        let fields = ErrorFields::parse(&link.inbox.filled()[body]);
        link.close_half_read();
        let message = format!("the session could not be restored on another server: {}", fields.message);
        Failure::End(End::Fatal(ErrorFields::fatal("08006", message)))
    }

    /// Waits for the client or for a server that has something to say unasked.
    pub(super) async fn wait_with_links(&mut self) -> Result<(), End> {
        // A notification may have come in one piece with the last answer.
        for i in 0..self.links.len() {
            if !self.links[i].inbox.is_empty() {
                self.deliver_unasked(i).await?;
            }
        }
        loop {
            let woken = {
                let Self { client, links, subscription, presence, session, .. } = &mut *self;
                let mut ear = subscription.as_mut().filter(|_| session.transaction.is_idle());
                poll_fn(|cx| {
                    if let Poll::Ready(result) = client.poll_more(cx) {
                        return Poll::Ready(Unasked::Client(result));
                    }
                    for (i, link) in links.iter_mut().enumerate() {
                        if link.server.stream.poll_read_ready(cx).is_ready() {
                            return Poll::Ready(Unasked::Server(i));
                        }
                    }
                    if links.is_empty() && presence.poll_dismissed(cx) {
                        return Poll::Ready(Unasked::Client(Err(dismissed())));
                    }
                    match &mut ear {
                        Some(ear) => ear.poll_heard(cx).map(Unasked::Heard),
                        None => Poll::Pending,
                    }
                })
                .await
            };
            match woken {
                Unasked::Client(result) => return result,
                Unasked::Server(i) => self.unasked(i).await?,
                Unasked::Heard(heard) => self.heard(heard).await?,
            }
        }
    }

    /// Passes on notices and notifications; a server that ends its connection ends the client's.
    async fn unasked(&mut self, i: usize) -> Result<(), End> {
        self.links[i].borrow_buffer(&self.worker);
        let read = {
            let link = &mut self.links[i];
            poll_fn(|cx| match link.inbox.poll_read_more(cx, &mut link.server.stream) {
                Poll::Pending => Poll::Ready(Ok(None)),
                Poll::Ready(result) => Poll::Ready(result.map(Some)),
            })
            .await
        };
        if let Ok(Some(0)) | Err(_) = read {
            self.links.remove(i).close_half_read();
            return Err(End::Fatal(ErrorFields::fatal("08006", "the server closed the connection unexpectedly")));
        }
        self.deliver_unasked(i).await
    }

    /// Passes on the whole messages that wait in a server's buffer though nothing was due.
    async fn deliver_unasked(&mut self, i: usize) -> Result<(), End> {
        while let Ok(Some(header)) = Header::parse(self.links[i].inbox.filled()) {
            let link = &mut self.links[i];
            if link.inbox.len() < header.total {
                break;
            }
            self.client.out.extend_from_slice(&link.inbox.filled()[..header.total]);
            link.inbox.consume(header.total);
            if header.tag == b'E' {
                self.client.flush().await?;
                self.links.remove(i).close_half_read();
                return Err(End::ClientLeft);
            }
        }
        self.links[i].return_buffer(&self.worker);
        self.client.flush().await
    }
}

/// The ErrorResponse with this body, pointing into the client's text.
pub(super) fn shifted_error(body: &[u8], shift: impl Fn(u32) -> u32) -> Bytes {
    let mut fields = ErrorFields::parse(body);
    fields.position = fields.position.map(shift);
    let mut message = BytesMut::new();
    backend::error_response(&mut message, &fields);
    message.freeze()
}

/// Whether a server closes the connection after this error; the field V is in no language.
fn is_fatal(error: &[u8]) -> bool {
    let severity = error.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"V"));
    matches!(severity, Some(b"FATAL" | b"PANIC"))
}

/// Whether the last message that waits is a Sync, which has no body.
fn ends_with_sync(link: &Link) -> bool {
    link.out.ends_with(&[b'S', 0, 0, 0, 4])
}

impl Link {
    pub(super) fn borrow_buffer(&mut self, worker: &Worker) {
        if self.inbox.is_unbacked() {
            self.inbox = worker.buffers.lend();
        }
    }

    pub(super) fn return_buffer(&mut self, worker: &Worker) {
        if self.inbox.is_empty() {
            worker.buffers.give_back(std::mem::take(&mut self.inbox));
        }
    }

    /// Closes a server of which some bytes were never looked at.
    fn close_half_read(mut self) {
        let left = self.inbox.len();
        self.inbox.consume(left);
        self.close();
    }

    /// Sends some of what waits; true if anything left.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut sent = false;
        while !self.out.is_empty() {
            match Pin::new(&mut self.server.stream).poll_write(cx, &self.out) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.out.advance(n);
                    sent = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.out.is_empty() && sent {
            self.out.clear();
        }
        Poll::Ready(Ok(false))
    }

    /// Sends what waits and reads, with nobody listening, until nothing is due.
    pub(super) async fn drain(&mut self) -> Result<(), Failure> {
        let gone = |_| Failure::End(End::ClientLeft);
        self.discard_messages()?;
        while !(self.server.state.is_settled() && self.out.is_empty()) {
            poll_fn(|cx| {
                if let Poll::Ready(Err(error)) = self.poll_send(cx) {
                    return Poll::Ready(Err(error));
                }
                match self.inbox.poll_read_more(cx, &mut self.server.stream) {
                    Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                    other => other.map_ok(drop),
                }
            })
            .await
            .map_err(gone)?;
            self.discard_messages()?;
        }
        Ok(())
    }

    /// Judges what has come and keeps nothing of it.
    fn discard_messages(&mut self) -> Result<(), Failure> {
        let unexpected = || Failure::End(End::ClientLeft);
        loop {
            let n = self.passing.min(self.inbox.len());
            self.inbox.consume(n);
            self.passing -= n;
            while self.server.state.take_local().is_some() {}
            let Some(header) = Header::parse(self.inbox.filled()).map_err(|_| unexpected())? else { return Ok(()) };
            if matches!(header.tag, b'D' | b'd') {
                self.passing = header.total;
                continue;
            }
            if self.inbox.len() < header.total {
                self.inbox.reserve(header.total - self.inbox.len());
                return Ok(());
            }
            let body = &self.inbox.filled()[5..header.total];
            self.server.state.reply(header.tag, body).map_err(|_| unexpected())?;
            if header.tag == b'G' {
                frontend::copy_fail(&mut self.out, b"the client has gone");
            }
            self.inbox.consume(header.total);
        }
    }
}
