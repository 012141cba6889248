//! COPY TO STDOUT over several shards: their rows pass one shard after another, as one copy.

use bytes::BytesMut;
use pgsluice_sharding::ShardId;
use pgsluice_sharding::sql::Access;

use crate::pool::server::{Audience, Due};
use crate::protocol::error::ErrorFields;
use crate::protocol::frame::{Header, put_message};
use crate::protocol::frontend;
use crate::protocol::reply;

use super::links::Sent;
use super::{Conversation, Failure};

/// Rows leave in pieces of about this size.
const OUT_BYTES: usize = 64 << 10;

/// What the binary form begins with, before the length of an extension that no version has: signature and flags.
const BINARY_HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What ends the binary form: a row of -1 columns. PostgreSQL sends it by itself.
const BINARY_TRAILER: &[u8] = &[0xff, 0xff];

/// What the client has got of a copy.
struct CopyOut {
    /// CopyOutResponse, once a shard has sent it: all must send the same.
    response: Option<Vec<u8>>,
    /// What the first shard has sent before its rows, if there is to be something: a line of names, or the binary header.
    names: Option<Vec<u8>>,
    /// What is to come before the next row, in one message with it: drivers look for the binary header there.
    owed: &'static [u8],
    /// Whether every shard begins with such a line.
    header: bool,
    rows: u64,
}

impl CopyOut {
    /// A shard begins: CopyOutResponse.
    fn begins(&mut self, message: &[u8], out: &mut BytesMut) -> Result<(), Failure> {
        match &self.response {
            None => {
                self.response = Some(message[5..].to_vec());
                out.extend_from_slice(message);
                Ok(())
            }
            Some(response) if **response == message[5..] => Ok(()),
            Some(_) => Err(unlike_columns()),
        }
    }

    /// One row, or what stands before or behind all rows, which the client gets once.
    fn data(&mut self, data: &[u8], part: Part, out: &mut BytesMut) -> Result<(), Failure> {
        let mut rest = data;
        if self.is_binary() {
            if part == Part::Begins {
                // The first row follows it in the same message.
                rest = data.strip_prefix(BINARY_HEADER).ok_or_else(unlike_columns)?;
                if self.names.is_none() {
                    self.names = Some(BINARY_HEADER.to_vec());
                    self.owed = BINARY_HEADER;
                }
            }
            if rest == BINARY_TRAILER {
                return Ok(());
            }
        } else if self.header && part == Part::Begins {
            match &self.names {
                None => self.names = Some(data.to_vec()),
                Some(names) if **names == *data => return Ok(()),
                Some(_) => return Err(unlike_columns()),
            }
        }
        self.pass(rest, out);
        Ok(())
    }

    fn pass(&mut self, data: &[u8], out: &mut BytesMut) {
        let owed = std::mem::take(&mut self.owed);
        put_message(out, b'd', |out| {
            out.extend_from_slice(owed);
            out.extend_from_slice(data);
        });
    }

    fn is_binary(&self) -> bool {
        self.response.as_ref().is_some_and(|response| response.first() == Some(&1))
    }
}

/// How far the copy of one shard has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The next data are its first.
    Begins,
    Rows,
}

impl Conversation {
    /// Copies what some shards hold, by the client's own text.
    pub(super) async fn copy_out(
        &mut self,
        shards: &[ShardId],
        header: bool,
        access: Access,
        text: &str,
    ) -> Result<(), Failure> {
        let ids = self.link_all(shards, access).await?;
        let mut copy = CopyOut { response: None, names: None, owed: b"", header, rows: 0 };
        for id in &ids {
            if let Err(failure) = self.copy_part(*id, &mut copy, text).await {
                match failure {
                    Failure::End(_) => {}
                    // The shard has said what is wrong, and stops by itself.
                    Failure::Told => self.finish_all(&[*id], false).await?,
                    Failure::Error(_) => self.finish_all(&[*id], true).await?,
                }
                return Err(failure);
            }
        }
        if copy.is_binary() {
            copy.pass(BINARY_TRAILER, &mut self.client.out);
        }
        put_message(&mut self.client.out, b'c', |_| {});
        self.complete(&format!("COPY {}", copy.rows));
        Ok(())
    }

    /// Passes on what one shard copies.
    async fn copy_part(&mut self, id: u64, copy: &mut CopyOut, text: &str) -> Result<(), Failure> {
        let i = self.position(id)?;
        if self.links[i].is_unsynced() || !self.links[i].server.state.is_settled() {
            self.settle(i).await?;
        }
        let i = self.position(id)?;
        let link = &mut self.links[i];
        link.borrow_buffer(&self.worker);
        frontend::query(&mut link.out, text.as_bytes());
        link.server.state.expect(Due::Query(Audience::Client));
        link.sent = Sent::Synced;
        let mut part = Part::Begins;
        while !(self.links[i].server.state.is_settled() && self.links[i].out.is_empty()) {
            if !self.take_copied(i, copy, &mut part)? {
                self.exchange(i).await?;
            }
            if self.client.out.len() >= OUT_BYTES {
                self.client.flush().await?;
            }
        }
        self.links[i].return_buffer(&self.worker);
        Ok(())
    }

    /// Takes one message of server `i`; false when none is whole.
    fn take_copied(&mut self, i: usize, copy: &mut CopyOut, part: &mut Part) -> Result<bool, Failure> {
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
        if link.server.state.reply(header.tag, &message[5..]).is_err() {
            return Err(self.out_of_step(i));
        }
        let taken = match header.tag {
            b'E' if hidden => return Err(self.hidden_query_failed(i, 5..header.total)),
            _ if hidden => Ok(()),
            b'H' => copy.begins(message, &mut client.out),
            b'd' => copy.data(&message[5..], std::mem::replace(part, Part::Rows), &mut client.out),
            b'C' => {
                let tag = message[5..].strip_suffix(&[0]).unwrap_or_default();
                copy.rows += reply::tag_rows(tag).unwrap_or(0);
                Ok(())
            }
            b'E' => {
                let told = presence.sentence_for(&message[5..]);
                client.out.extend_from_slice(told.as_deref().unwrap_or(message));
                Err(Failure::Told)
            }
            b'N' | b'S' | b'A' => {
                client.out.extend_from_slice(message);
                Ok(())
            }
            _ => Ok(()),
        };
        link.inbox.consume(header.total);
        if matches!(taken, Err(Failure::Told)) {
            self.served.stats.errors.add(1);
        }
        taken.map(|()| true)
    }
}

fn unlike_columns() -> Failure {
    ErrorFields::error("0A000", "the shards copy different columns")
        .with_hint("SHOW PROBLEMS in the console tells how the table differs between them.")
        .into()
}
