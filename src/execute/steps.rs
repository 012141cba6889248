//! What EXPLAIN ANALYZE gets to know of a read over several shards while it runs.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Instant;

use crate::clock;

use super::gather::Head;
use super::{Conversation, Failure};

/// So much is taken in of a shard whose rows the merge does not wait for: enough to see when they begin to come.
const AHEAD_BYTES: usize = 64 << 10;

/// What one server has sent of its rows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    pub(super) rows: u64,
    /// Of whole DataRow messages.
    pub(super) bytes: u64,
    pub(super) first: Option<Instant>,
    /// When the last was followed by the end.
    pub(super) complete: Option<Instant>,
}

impl Taken {
    /// One more has come, of so many bytes.
    pub(super) fn row(&mut self, bytes: usize) {
        if self.rows == 0 {
            self.first = Some(clock::now());
        }
        self.rows += 1;
        self.bytes += bytes as u64;
    }

    pub(super) fn complete(&mut self) {
        self.complete.get_or_insert_with(clock::now);
    }
}

/// One merge from its start to its end.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) began: Instant,
    pub(super) ended: Instant,
    /// In the order of the shards.
    pub(super) shards: Vec<Taken>,
    /// What each step has given on, from below.
    pub(super) steps: Vec<u64>,
}

/// The merges of a read, in their order.
#[derive(Debug, Default)]
pub(super) struct Steps {
    pub(super) merges: Vec<Merged>,
}

impl Steps {
    pub(super) fn merged(
        &mut self,
        began: Instant,
        shards: impl Iterator<Item = Taken>,
        steps: impl Iterator<Item = u64>,
    ) {
        let (shards, steps) = (shards.collect(), steps.collect());
        self.merges.push(Merged { began, ended: clock::now(), shards, steps });
    }
}

impl Conversation {
    /// Reads until shard `n` of `ids` has rows that the merge has not seen, or has finished. What the others send is
    /// noticed meanwhile: else a quick shard would seem as slow as the one that is waited for.
    pub(super) async fn fill_watching(&mut self, ids: &[u64], heads: &mut [Head], n: usize) -> Result<(), Failure> {
        let before = heads[n].rows;
        loop {
            for (id, head) in ids.iter().zip(&mut *heads) {
                let i = self.position(*id)?;
                self.look_at(i, head)?;
            }
            if heads[n].rows > before || heads[n].finished {
                return Ok(());
            }
            self.exchange_any(ids, ids[n]).await?;
        }
    }

    /// Sends and receives on all of these servers until one has said something, watching the client.
    async fn exchange_any(&mut self, ids: &[u64], wanted: u64) -> Result<(), Failure> {
        let positions = ids.iter().map(|id| self.position(*id)).collect::<Result<Vec<usize>, Failure>>()?;
        let Self { client, links, .. } = self;
        let result = poll_fn(|cx| {
            let mut heard = false;
            for i in &positions {
                let link = &mut links[*i];
                if let Poll::Ready(Err(error)) = link.poll_send(cx) {
                    return Poll::Ready(Ok(Err((*i, error))));
                }
                if link.server.id.0 != wanted && link.inbox.len() >= AHEAD_BYTES {
                    continue;
                }
                match link.inbox.poll_read_more(cx, &mut link.server.stream) {
                    Poll::Ready(Ok(0)) => {
                        return Poll::Ready(Ok(Err((*i, io::ErrorKind::UnexpectedEof.into()))));
                    }
                    Poll::Ready(Ok(_)) => heard = true,
                    Poll::Ready(Err(error)) => return Poll::Ready(Ok(Err((*i, error)))),
                    Poll::Pending => {}
                }
            }
            match heard {
                true => Poll::Ready(Ok(Ok(()))),
                false => client.poll_watch(cx).map(Err),
            }
        })
        .await;
        match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err((i, error))) => Err(self.server_gone(i, &error)),
            Err(end) => Err(end.into()),
        }
    }
}
