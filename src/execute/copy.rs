//! COPY FROM STDIN: relayed to one shard, or split by key over all.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use bytes::BytesMut;
use pgsluice_sharding::copy::{CopyFrom, CopyTarget, Splitter};
use pgsluice_sharding::sql::Access;

use crate::pool::server::{Audience, Due};
use crate::protocol::backend;
use crate::protocol::error::ErrorFields;
use crate::protocol::frame::Header;
use crate::protocol::frontend;
use crate::protocol::reply;

use super::client::Client;
use super::links::{Copying, Link};
use super::{Conversation, End, Failure};

/// Data for one shard that is gathered before it is sent.
const SHARD_BYTES: usize = 64 << 10;

/// What the client does with the copy.
enum ClientCopy {
    /// That many bytes at the front of the inbox are data.
    Data(usize),
    /// CopyDone or CopyFail, whole, at the front of the inbox.
    End { tag: u8, total: usize },
}

/// What woke a relayed copy.
enum Wake {
    Moved,
    ServerGone(io::Error),
    Client(End),
}

/// Moves as much of a CopyData message as is there.
fn relay_data(client: &mut Client, link: &mut Link) {
    let n = client.copy_bytes.min(client.inbox.len());
    link.out.extend_from_slice(&client.inbox.filled()[..n]);
    client.inbox.consume(n);
    client.copy_bytes -= n;
    if n > 0 {
        link.copy = if client.copy_bytes == 0 { Copying::In } else { Copying::Within };
    }
}

impl Conversation {
    /// The server asks for data: passes the client's CopyData on until CopyDone or CopyFail, or until
    /// the server has had enough.
    pub(super) async fn copy_in(&mut self, i: usize) -> Result<(), Failure> {
        if self.client.request_bytes > 0 || !self.links[i].server.state.only_sync_follows() {
            // Messages came in the place of data: where the server stands is anybody's guess.
            self.links.remove(i).close();
            let message = "messages of another kind came in the place of COPY data";
            return Err(End::Fatal(ErrorFields::fatal("08P01", message)).into());
        }
        self.client.flush().await?;
        let mut interrupted = false;
        while self.links[i].copies_in() {
            if interrupted {
                // The server has had enough, but it still expects the end of the message it is reading.
                let Self { client, links, .. } = &mut *self;
                relay_data(client, &mut links[i]);
                if client.copy_bytes == 0 {
                    break;
                }
            } else if self.relay_copy(i)? {
                self.links[i].copy = Copying::No;
                break;
            }
            match self.wake_copy(i).await {
                Wake::Moved => {}
                Wake::ServerGone(error) => return Err(self.server_gone(i, &error)),
                Wake::Client(end) => return Err(end.into()),
            }
            if !self.links[i].inbox.is_empty() {
                // The server speaks in the middle of a copy: a notice, or the end of it.
                let more = self.links[i].server.state.is_settled();
                interrupted |= more || self.server_interrupts(i);
            }
        }
        Ok(())
    }

    /// Whether the server has sent an error, which ends its copy.
    fn server_interrupts(&self, i: usize) -> bool {
        let mut rest = self.links[i].inbox.filled();
        while let Ok(Some(header)) = Header::parse(rest) {
            if header.tag == b'E' {
                return true;
            }
            if rest.len() < header.total {
                return false;
            }
            rest = &rest[header.total..];
        }
        false
    }

    /// Moves what the client has sent to the server's outbox; true after the copy's last message.
    fn relay_copy(&mut self, i: usize) -> Result<bool, Failure> {
        let Self { client, links, .. } = self;
        let link = &mut links[i];
        while link.out.len() < SHARD_BYTES {
            relay_data(client, link);
            let Some(header) = Header::parse(client.inbox.filled()).map_err(super::client::invalid_length)? else {
                return Ok(false);
            };
            match header.tag {
                b'd' => client.copy_bytes = header.total,
                b'c' | b'f' if client.inbox.len() >= header.total => {
                    link.out.extend_from_slice(&client.inbox.filled()[..header.total]);
                    client.inbox.consume(header.total);
                    if link.is_unsynced() {
                        // The server keeps its answer back until it is asked for it.
                        frontend::flush(&mut link.out);
                    }
                    return Ok(true);
                }
                b'c' | b'f' => return Ok(false),
                // PostgreSQL passes over Flush and Sync while it copies.
                b'H' | b'S' if client.inbox.len() >= header.total => client.inbox.consume(header.total),
                b'X' => return Err(End::ClientLeft.into()),
                tag => return Err(unexpected_in_copy(tag)),
            }
        }
        Ok(false)
    }

    async fn wake_copy(&mut self, i: usize) -> Wake {
        let Self { client, links, .. } = self;
        let link = &mut links[i];
        poll_fn(|cx| {
            let waiting = link.out.len();
            match link.poll_send(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(Wake::ServerGone(error)),
                Poll::Ready(Ok(_)) | Poll::Pending => {}
            }
            match link.inbox.poll_read_more(cx, &mut link.server.stream) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Wake::ServerGone(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(Ok(_)) => return Poll::Ready(Wake::Moved),
                Poll::Ready(Err(error)) => return Poll::Ready(Wake::ServerGone(error)),
                Poll::Pending => {}
            }
            // A full outbox stops the reading from the client, and nothing else.
            if link.out.len() < SHARD_BYTES
                && let Poll::Ready(result) = client.poll_more(cx)
            {
                return Poll::Ready(result.map_or_else(Wake::Client, |()| Wake::Moved));
            }
            if link.out.len() < waiting && waiting >= SHARD_BYTES {
                return Poll::Ready(Wake::Moved);
            }
            Poll::Pending
        })
        .await
    }

    /// COPY into a sharded or reference table: every shard runs the statement and gets its rows; all
    /// commit or none.
    pub(super) async fn copy_split(&mut self, copy: &CopyFrom, text: &str) -> Result<(), Failure> {
        let rows = self.in_own_block(async |this: &mut Self| this.run_copy_split(copy, text).await).await?;
        self.complete(&format!("COPY {rows}"));
        Ok(())
    }

    async fn run_copy_split(&mut self, copy: &CopyFrom, text: &str) -> Result<u64, Failure> {
        let shards: Vec<_> = self.served.all_shards().collect();
        let ids = self.link_all(&shards, Access::Write).await?;
        let result = self.feed_shards(&ids, copy, text).await;
        if let Err(failure) = result {
            for id in &ids {
                if let Some(i) = self.links.by_server(*id)
                    && self.links[i].copies_in()
                {
                    self.links[i].copy = Copying::No;
                    frontend::copy_fail(&mut self.links[i].out, b"another shard has failed");
                }
            }
            if !matches!(failure, Failure::End(_)) {
                self.finish_all(&ids, false).await?;
            }
            return Err(failure);
        }
        let mut counts = Vec::with_capacity(ids.len());
        for id in &ids {
            let i = self.position(*id)?;
            frontend::copy_done(&mut self.links[i].out);
            self.links[i].copy = Copying::No;
        }
        for id in &ids {
            let i = self.position(*id)?;
            let answer = self.read_answer(i).await?;
            counts.push(reply::tag_rows(answer.tag().as_bytes()).unwrap_or(0));
            if let Err(failure) = answer.into_result(self) {
                self.finish_all(&ids, false).await?;
                return Err(failure);
            }
        }
        Ok(match copy.target {
            CopyTarget::Sharded { .. } => counts.iter().sum(),
            CopyTarget::Reference => counts.first().copied().unwrap_or(0),
        })
    }

    /// Starts the copy on every shard and gives each its rows until the client is done.
    async fn feed_shards(&mut self, ids: &[u64], copy: &CopyFrom, text: &str) -> Result<(), Failure> {
        let mut response = None;
        for id in ids {
            let i = self.position(*id)?;
            self.note_write(i);
            frontend::query(&mut self.links[i].out, text.as_bytes());
            self.links[i].server.state.expect(Due::Query(Audience::Client));
            response = self.await_copy_response(i).await?;
        }
        self.client.out.extend_from_slice(&response.unwrap_or_default());
        self.client.flush().await?;
        let mut splitter = Splitter::new(copy, self.worker.limits().message_bytes_max);
        let mut parts = vec![Vec::new(); ids.len()];
        loop {
            match self.next_copy_message().await? {
                ClientCopy::Data(n) => {
                    let map = self.served.map.clone();
                    splitter.push(&self.client.inbox.filled()[..n], &map, &mut parts)?;
                    self.client.inbox.consume(n);
                    self.client.copy_bytes -= n;
                    self.send_parts(ids, &mut parts, SHARD_BYTES).await?;
                }
                ClientCopy::End { tag, total } => {
                    let failed = (tag == b'f').then(|| copy_failed(&self.client.inbox.filled()[5..total]));
                    self.client.inbox.consume(total);
                    if let Some(fields) = failed {
                        return Err(fields.into());
                    }
                    splitter.finish(&self.served.map.clone(), &mut parts)?;
                    return self.send_parts(ids, &mut parts, 1).await;
                }
            }
        }
    }

    /// Reads up to the server's CopyInResponse, which it gives back.
    async fn await_copy_response(&mut self, i: usize) -> Result<Option<BytesMut>, Failure> {
        self.links[i].borrow_buffer(&self.worker);
        loop {
            if let Some((tag, message)) = self.take_message(i)? {
                match tag {
                    b'G' => {
                        self.links[i].copy = Copying::In;
                        return Ok(Some(message));
                    }
                    b'E' => {
                        self.served.stats.errors.add(1);
                        let told = self.as_told(&message);
                        self.client.out.extend_from_slice(&told);
                        return Err(Failure::Told);
                    }
                    _ => continue,
                }
            }
            self.exchange(i).await?;
        }
    }

    /// Takes one whole message of server `i`, judged.
    fn take_message(&mut self, i: usize) -> Result<Option<(u8, BytesMut)>, Failure> {
        let link = &mut self.links[i];
        let Ok(parsed) = Header::parse(link.inbox.filled()) else { return Err(self.out_of_step(i)) };
        let Some(header) = parsed.filter(|header| header.total <= link.inbox.len()) else { return Ok(None) };
        let hidden = link.server.state.hidden_query_runs();
        let message = BytesMut::from(&link.inbox.filled()[..header.total]);
        if header.tag == b'E' && hidden {
            return Err(self.hidden_query_failed(i, 5..header.total));
        }
        if link.server.state.reply(header.tag, &message[5..]).is_err() {
            return Err(self.out_of_step(i));
        }
        link.inbox.consume(header.total);
        let tag = if hidden { b'N' } else { header.tag };
        Ok(Some((tag, message)))
    }

    /// Waits for the client's next piece of the copy.
    async fn next_copy_message(&mut self) -> Result<ClientCopy, Failure> {
        loop {
            let n = self.client.copy_bytes.min(self.client.inbox.len());
            if n > 0 {
                return Ok(ClientCopy::Data(n));
            }
            let parsed = Header::parse(self.client.inbox.filled()).map_err(super::client::invalid_length)?;
            match parsed {
                Some(header) if header.tag == b'd' => {
                    self.client.inbox.consume(5);
                    self.client.copy_bytes = header.total - 5;
                    continue;
                }
                Some(header) if self.client.inbox.len() >= header.total => match header.tag {
                    b'c' | b'f' => return Ok(ClientCopy::End { tag: header.tag, total: header.total }),
                    b'H' | b'S' => {
                        self.client.inbox.consume(header.total);
                        continue;
                    }
                    b'X' => return Err(End::ClientLeft.into()),
                    tag => return Err(unexpected_in_copy(tag)),
                },
                _ => {}
            }
            self.client.read_more().await?;
        }
    }

    /// Sends each shard what has gathered for it, once that is `least` bytes or more.
    async fn send_parts(&mut self, ids: &[u64], parts: &mut [Vec<u8>], least: usize) -> Result<(), Failure> {
        for (id, part) in ids.iter().zip(parts) {
            if part.len() < least {
                continue;
            }
            let i = self.position(*id)?;
            for piece in part.chunks(16 * SHARD_BYTES) {
                backend::copy_data(&mut self.links[i].out, piece);
                self.send_out(i).await?;
            }
            part.clear();
            if self.server_interrupts(i) {
                return Err(self.copy_error(i));
            }
        }
        Ok(())
    }

    /// A shard has refused a row: its error is the client's.
    fn copy_error(&mut self, i: usize) -> Failure {
        loop {
            match self.take_message(i) {
                Ok(Some((b'E', message))) => {
                    self.links[i].copy = Copying::No;
                    self.served.stats.errors.add(1);
                    let told = self.as_told(&message);
                    self.client.out.extend_from_slice(&told);
                    return Failure::Told;
                }
                Ok(Some(_)) => {}
                Ok(None) => return Failure::Error(ErrorFields::error("08006", "a shard ended the copy")),
                Err(failure) => return failure,
            }
        }
    }
}

fn copy_failed(body: &[u8]) -> ErrorFields {
    let reason = String::from_utf8_lossy(body.strip_suffix(&[0]).unwrap_or(body)).into_owned();
    ErrorFields::error("57014", format!("COPY from stdin failed: {reason}"))
}

fn unexpected_in_copy(tag: u8) -> Failure {
    let message = format!("unexpected message type 0x{tag:02X} during COPY from stdin");
    Failure::End(End::Fatal(ErrorFields::fatal("08P01", message)))
}
