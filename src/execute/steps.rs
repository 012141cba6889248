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

/// One merge from its start to its end, or what a server has put into a table of its own.
#[derive(Clone, Debug)]
pub(super) struct Merged {
    /// Which input of a final query it was for, counted from 0.
    input: usize,
    pub(super) began: Instant,
    pub(super) ended: Instant,
    /// By the ids of the servers, in the order of the shards.
    pub(super) shards: Vec<(u64, Taken)>,
    /// What each step has given on, from below.
    pub(super) steps: Vec<u64>,
}

impl Merged {
    /// One after the other, for the same input.
    fn and(mut self, next: &Self) -> Self {
        self.ended = next.ended;
        self.shards.extend(&next.shards);
        self.steps.resize(self.steps.len().max(next.steps.len()), 0);
        self.steps.iter_mut().zip(&next.steps).for_each(|(rows, more)| *rows += more);
        self
    }

    pub(super) fn taken_of(&self, server: u64) -> Option<&Taken> {
        self.shards.iter().find(|(id, _)| *id == server).map(|(_, taken)| taken)
    }
}

/// The merges of a read, in their order.
#[derive(Debug, Default)]
pub(super) struct Steps {
    merges: Vec<Merged>,
    input: usize,
}

impl Steps {
    /// What is merged from now on is for this input of a final query.
    pub(super) fn reads_input(&mut self, number: usize) {
        self.input = number;
    }

    /// All inputs are read again, to go elsewhere.
    pub(super) fn begins_anew(&mut self) {
        self.merges.clear();
    }

    pub(super) fn merged(
        &mut self,
        began: Instant,
        ids: &[u64],
        shards: impl Iterator<Item = Taken>,
        steps: impl Iterator<Item = u64>,
    ) {
        let (shards, steps) = (ids.iter().copied().zip(shards).collect(), steps.collect());
        self.merges.push(Merged { input: self.input, began, ended: clock::now(), shards, steps });
    }

    /// A server has put rows of its own into a table; none of them has crossed.
    pub(super) fn put_into_table(&mut self, server: u64, began: Instant, rows: u64) {
        let ended = clock::now();
        let taken = Taken { rows, bytes: 0, first: Some(ended), complete: Some(ended) };
        self.merges.push(Merged { input: self.input, began, ended, shards: vec![(server, taken)], steps: vec![rows] });
    }

    /// All that was read for an input; nothing if no shard was asked.
    pub(super) fn of_input(&self, number: usize) -> Option<Merged> {
        let mut merges = self.merges.iter().filter(|merged| merged.input == number);
        let first = merges.next()?.clone();
        Some(merges.fold(first, Merged::and))
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
