//! COPY FROM STDIN: relayed to one shard, or split by key over all.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use bytes::BytesMut;
use pgsluice_sharding::copy::{CopyFrom, CopyTarget, PartialRows, Splitter, Times};
use pgsluice_sharding::plan::turn_of_writers;
use pgsluice_sharding::sql::Access;
use pgsluice_sharding::{Refusal, ShardId};

use crate::pool::server::{Audience, Due};
use crate::protocol::backend;
use crate::protocol::error::ErrorFields;
use crate::protocol::frame::Header;
use crate::protocol::frontend;
use crate::protocol::reply;
use crate::session::settings::quote_literal;

use super::added::AddedFields;
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
    /// It does not matter any more: a shard has refused something.
    ShardSpoke,
}

/// Why no more rows go to the shards.
enum Ending {
    /// The client has sent all.
    Done,
    /// It has sent CopyFail.
    ClientFailed(ErrorFields),
    /// A row has no shard, or is none.
    Refused(Refusal),
    ShardSpoke,
}

/// What shards are told that get no more rows; it never reaches a client.
const GIVEN_UP: &str = "sluice: another shard has failed";

/// The columns of a relation that get a value where none is given.
const DEFAULTS: &str = "SELECT a.attname, a.attidentity <> '', pg_catalog.pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attribute a \
     LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
     WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND (d.oid IS NOT NULL OR a.attidentity <> '') AND a.attrelid =";

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
        if let Some(partial) = &copy.partial {
            self.refuse_differing_defaults(&ids, copy, partial).await?;
        }
        if copy.target == CopyTarget::Reference {
            self.take_turn(&ids, &turn_of_writers(std::slice::from_ref(&copy.table), &[])).await?;
        }
        let fields = self.added_fields(copy).await?;
        let times = match copy.moments.is_empty() {
            true => Times::default(),
            false => self.copied_times(ids[0]).await?,
        };
        let begun = self.begin_copies(&ids, &copy.with_added(text)).await;
        let version = self.links[self.position(ids[0])?].server.major_version();
        let mut splitter = Splitter::new(copy, self.worker.limits().message_bytes_max).for_version(version).at(times);
        let mut parts = vec![Vec::new(); ids.len()];
        let ending = match begun {
            Ok(()) => self.feed_shards(&ids, &mut splitter, &fields, &mut parts).await,
            Err(failure) => Err(failure),
        };
        let ending = match ending {
            Ok(ending) => ending,
            Err(failure) => {
                self.give_up_copies(&ids);
                if !matches!(failure, Failure::End(_)) {
                    self.finish_all(&ids, false).await?;
                }
                return Err(failure);
            }
        };
        self.send_parts(&ids, &mut parts, 1).await?;
        self.conclude_copy(&ids, &splitter, copy.target, ending).await
    }

    /// Starts the copy on every shard, and asks the client for its data.
    async fn begin_copies(&mut self, ids: &[u64], text: &str) -> Result<(), Failure> {
        let mut response = None;
        for id in ids {
            let i = self.position(*id)?;
            self.note_write(i);
            frontend::query(&mut self.links[i].out, text.as_bytes());
            self.links[i].server.state.expect(Due::Query(Audience::Client));
            response = self.await_copy_response(i).await?;
        }
        self.client.out.extend_from_slice(&response.unwrap_or_default());
        Ok(self.client.flush().await?)
    }

    /// Gives each shard its rows until the client is done, or a row or a shard ends it.
    async fn feed_shards(
        &mut self,
        ids: &[u64],
        splitter: &mut Splitter,
        fields: &AddedFields,
        parts: &mut [Vec<u8>],
    ) -> Result<Ending, Failure> {
        let map = self.served.map.clone();
        loop {
            match self.next_copy_message(ids).await? {
                ClientCopy::Data(n) => {
                    let rows = splitter.rows_ahead(&self.client.inbox.filled()[..n], false);
                    self.give_fields(fields, rows, splitter).await?;
                    let pushed = splitter.push(&self.client.inbox.filled()[..n], &map, parts);
                    self.client.inbox.consume(n);
                    self.client.copy_bytes -= n;
                    if let Err(refusal) = pushed {
                        return Ok(Ending::Refused(refusal));
                    }
                    if self.send_parts(ids, parts, SHARD_BYTES).await? {
                        return Ok(Ending::ShardSpoke);
                    }
                }
                ClientCopy::End { tag, total } => {
                    let failed = (tag == b'f').then(|| copy_failed(&self.client.inbox.filled()[5..total]));
                    self.client.inbox.consume(total);
                    if let Some(fields) = failed {
                        let context = Some(splitter.place_behind().into());
                        return Ok(Ending::ClientFailed(ErrorFields { context, ..fields }));
                    }
                    self.give_fields(fields, splitter.rows_ahead(&[], true), splitter).await?;
                    return Ok(match splitter.finish(&map, parts) {
                        Ok(()) => Ending::Done,
                        Err(refusal) => Ending::Refused(refusal),
                    });
                }
                ClientCopy::ShardSpoke => return Ok(Ending::ShardSpoke),
            }
        }
    }

    /// Ends the copies of all shards and hears what they say of it. Of all errors the client gets the one that is first in
    /// its data: so each shard reads all that it has got, although none of it stays when another has failed.
    async fn conclude_copy(
        &mut self,
        ids: &[u64],
        splitter: &Splitter,
        target: CopyTarget,
        ending: Ending,
    ) -> Result<u64, Failure> {
        for id in ids {
            let i = self.position(*id)?;
            let link = &mut self.links[i];
            match &ending {
                Ending::Done | Ending::Refused(_) | Ending::ShardSpoke => frontend::copy_done(&mut link.out),
                Ending::ClientFailed(_) => frontend::copy_fail(&mut link.out, GIVEN_UP.as_bytes()),
            }
            link.copy = Copying::No;
        }
        let mut counts = Vec::with_capacity(ids.len());
        let mut first: Option<(u64, ErrorFields)> = None;
        for (shard, id) in ids.iter().enumerate() {
            let i = self.position(*id)?;
            let answer = self.read_answer(i).await?;
            counts.push(reply::tag_rows(answer.tag().as_bytes()).unwrap_or(0));
            let Some(error) = answer.error.map(|message| ErrorFields::parse(&message[5..])) else { continue };
            if error.sqlstate == "57014" && error.message.ends_with(GIVEN_UP) {
                continue;
            }
            let shard = ShardId(u16::try_from(shard).unwrap_or(u16::MAX));
            let (line, error) = in_clients_lines(error, splitter, shard);
            if first.as_ref().is_none_or(|(known, _)| line < *known) {
                first = Some((line, error));
            }
        }
        match (first, ending) {
            (Some((_, error)), _) => Err(Failure::Error(error)),
            (None, Ending::Refused(refusal)) => Err(refusal.into()),
            (None, Ending::ClientFailed(fields)) => Err(fields.into()),
            (None, Ending::ShardSpoke) => Err(ErrorFields::error("08006", "a shard ended the copy").into()),
            (None, Ending::Done) => Ok(match target {
                CopyTarget::Sharded { .. } => counts.iter().sum(),
                CopyTarget::Reference => counts.first().copied().unwrap_or(0),
            }),
        }
    }

    /// Nothing more comes for the copies that have begun.
    fn give_up_copies(&mut self, ids: &[u64]) {
        for id in ids {
            if let Some(i) = self.links.by_server(*id)
                && self.links[i].copies_in()
            {
                self.links[i].copy = Copying::No;
                frontend::copy_fail(&mut self.links[i].out, GIVEN_UP.as_bytes());
            }
        }
    }

    /// Columns that are not in the data get their defaults on each shard by itself: those must be the same everywhere for a
    /// reference table, and for others come from no sequence.
    async fn refuse_differing_defaults(
        &mut self,
        ids: &[u64],
        copy: &CopyFrom,
        partial: &PartialRows,
    ) -> Result<(), Failure> {
        let Some(first) = ids.first() else { return Ok(()) };
        let i = self.position(*first)?;
        let relation = quote_literal(&partial.relation);
        let sql = format!("{DEFAULTS} pg_catalog.to_regclass({relation})");
        let answer = self.ask(i, &sql).await?;
        for row in answer.rows() {
            let Ok(fields) = reply::data_row(row) else { continue };
            let fields: Vec<Option<&[u8]>> = fields.filter_map(Result::ok).collect();
            let text = |n: usize| fields.get(n).copied().flatten().map(String::from_utf8_lossy).unwrap_or_default();
            let (column, is_identity, default) = (text(0), text(1) == "t", text(2));
            let is_added = copy.added.iter().any(|field| field.name == column);
            if is_added || partial.columns.iter().any(|named| **named == *column) {
                continue;
            }
            let counts = is_identity || default.contains("nextval(");
            let differs = counts || copy.target == CopyTarget::Reference && !is_constant(&default);
            if differs {
                let message = format!(
                    "column \"{column}\" of relation \"{}\" is not in the data, and its default differs between the shards",
                    copy.table
                );
                let hint = "Name the column in COPY and write its values into the data.";
                return Err(ErrorFields::error("0A000", message).with_hint(hint).into());
            }
        }
        Ok(())
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

    /// Waits for the client's next piece of the copy, or until a shard refuses what it has got.
    async fn next_copy_message(&mut self, ids: &[u64]) -> Result<ClientCopy, Failure> {
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
            if self.wait_for_copy_data(ids).await? {
                return Ok(ClientCopy::ShardSpoke);
            }
        }
    }

    /// Waits for bytes of the client; true when a shard has spoken of an error before.
    async fn wait_for_copy_data(&mut self, ids: &[u64]) -> Result<bool, Failure> {
        loop {
            let Self { client, links, .. } = &mut *self;
            let woken = poll_fn(|cx| {
                for (i, link) in links.iter_mut().enumerate() {
                    if ids.contains(&link.server.id.0) && link.server.stream.poll_read_ready(cx).is_ready() {
                        return Poll::Ready(Err(i));
                    }
                }
                client.poll_more(cx).map(Ok)
            })
            .await;
            match woken {
                Ok(result) => return result.map(|()| false).map_err(Failure::End),
                Err(i) => {
                    self.hear_shard(i).await?;
                    if self.server_interrupts(i) {
                        return Ok(true);
                    }
                }
            }
        }
    }

    /// Takes in what a shard has said unasked.
    async fn hear_shard(&mut self, i: usize) -> Result<(), Failure> {
        let link = &mut self.links[i];
        let read = poll_fn(|cx| match link.inbox.poll_read_more(cx, &mut link.server.stream) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(result) => Poll::Ready(result.map(drop)),
            Poll::Pending => Poll::Ready(Ok(())),
        })
        .await;
        read.map_err(|error| self.server_gone(i, &error))
    }

    /// Sends each shard what has gathered for it, once that is `least` bytes or more; true when a shard has refused what it
    /// got before.
    async fn send_parts(&mut self, ids: &[u64], parts: &mut [Vec<u8>], least: usize) -> Result<bool, Failure> {
        let mut refused = false;
        for (id, part) in ids.iter().zip(parts) {
            if part.len() < least {
                continue;
            }
            let i = self.position(*id)?;
            for piece in part.chunks(16 * SHARD_BYTES) {
                backend::copy_data(&mut self.links[i].out, piece);
                self.send_watching(i).await?;
            }
            part.clear();
            refused |= self.server_interrupts(i);
        }
        Ok(refused)
    }

    /// Sends all that waits for server `i` and takes in what it says meanwhile; the client's end ends the wait.
    async fn send_watching(&mut self, i: usize) -> Result<(), Failure> {
        let Self { client, links, .. } = &mut *self;
        let link = &mut links[i];
        let result = poll_fn(|cx| {
            loop {
                match link.poll_send(cx) {
                    Poll::Ready(Ok(_)) => return Poll::Ready(Ok(Ok(()))),
                    Poll::Ready(Err(error)) => return Poll::Ready(Ok(Err(error))),
                    Poll::Pending => {}
                }
                match link.inbox.poll_read_more(cx, &mut link.server.stream) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Err(io::ErrorKind::UnexpectedEof.into()))),
                    Poll::Ready(Ok(_)) => continue,
                    Poll::Ready(Err(error)) => return Poll::Ready(Ok(Err(error))),
                    Poll::Pending => return client.poll_watch(cx).map(Err),
                }
            }
        })
        .await;
        match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.server_gone(i, &error)),
            Err(end) => Err(end.into()),
        }
    }
}

/// A shard's error with the line that the client counts, and that line; errors that name none come last.
fn in_clients_lines(error: ErrorFields, splitter: &Splitter, shard: ShardId) -> (u64, ErrorFields) {
    match error.context.as_deref().and_then(|context| splitter.place_of(shard, context)) {
        Some((line, context)) => (line, ErrorFields { context: Some(context.into()), ..error }),
        None => (u64::MAX, error),
    }
}

/// Whether a default is the same wherever and whenever it is evaluated: a literal, maybe cast.
fn is_constant(default: &str) -> bool {
    let mut outside = String::new();
    let mut quoted = false;
    for letter in default.chars() {
        if letter == '\'' {
            quoted = !quoted;
        } else if !quoted {
            outside.push(letter);
        }
    }
    let mut words = outside.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
    let is_call =
        |word: &str| ["CURRENT_", "LOCALTIME", "SESSION_USER", "USER"].iter().any(|name| word.starts_with(name));
    // A name before a parenthesis may be a function.
    let calls = outside.match_indices('(').any(|(at, _)| {
        outside[..at]
            .trim_end()
            .chars()
            .next_back()
            .is_some_and(|letter| letter.is_alphanumeric() || letter == '_' || letter == '"')
    });
    !calls && !words.any(is_call)
}

fn copy_failed(body: &[u8]) -> ErrorFields {
    let reason = String::from_utf8_lossy(body.strip_suffix(&[0]).unwrap_or(body)).into_owned();
    ErrorFields::error("57014", format!("COPY from stdin failed: {reason}"))
}

fn unexpected_in_copy(tag: u8) -> Failure {
    let message = format!("unexpected message type 0x{tag:02X} during COPY from stdin");
    Failure::End(End::Fatal(ErrorFields::fatal("08P01", message)))
}
