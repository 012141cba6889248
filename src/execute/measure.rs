//! How long statements take and what becomes of them, for SHOW QUERIES. The clock is read where the
//! answer to a request ends; only a pipeline of several statements, or one with Flush, needs it oftener.

use std::cell::Cell;
use std::time::Instant;

use pgsluice_sharding::sql::Script;

use crate::stats::{Ended, microseconds};

use super::Conversation;
use super::queries::QueryId;
use super::steps::Steps;
use crate::clock;

/// What is measured of the request that is being answered.
#[derive(Default)]
pub(super) struct Measure {
    /// The statements of a Query, or the one of a portal that the router runs.
    running: Cell<Option<QueryId>>,
    rows: u64,
    /// Most shards that one of its statements has run on.
    shards: usize,
    failed: bool,
    /// In the extended protocol: when the first message came that is not answered yet, or when the
    /// statement before had its answer.
    began: Option<Instant>,
    /// How long servers were waited for since then.
    waited_us: u64,
    /// The same of a pipeline that has executed nothing: it was for the statement that it has prepared.
    carried_us: u64,
    /// A statement of a pipeline that has its answer; the time is told by whatever reads the clock next.
    done: Option<Done>,
    /// What EXPLAIN ANALYZE gets to know; there while it runs a read.
    pub(super) steps: Option<Box<Steps>>,
    /// When the answer ended that was given last, if the clock was read for that.
    answered_at: Option<Instant>,
}

/// What became of one statement.
#[derive(Clone, Copy)]
struct Done {
    query: QueryId,
    rows: u64,
    shards: usize,
    failed: bool,
}

impl Measure {
    /// Servers have sent that many rows, or changed them.
    pub(super) fn add_rows(&mut self, rows: u64) {
        self.rows = self.rows.saturating_add(rows);
    }

    /// A statement runs on so many shards.
    pub(super) fn touches(&mut self, shards: usize) {
        self.shards = self.shards.max(shards);
    }

    pub(super) fn fails(&mut self) {
        self.failed = true;
    }

    pub(super) fn waited(&mut self, us: u64) {
        self.waited_us += us;
    }

    /// Whether messages of the extended protocol have come that no Sync has ended yet.
    pub(super) fn has_begun(&self) -> bool {
        self.began.is_some()
    }

    /// A message of the extended protocol has come.
    pub(super) fn asked(&mut self, now: Instant) {
        self.began.get_or_insert(now);
        self.answered_at = None;
    }

    /// When the answer ended that was just given.
    pub(super) fn take_answered(&mut self) -> Instant {
        self.answered_at.take().unwrap_or_else(Instant::now)
    }
}

impl Conversation {
    /// A statement begins: from now on SHOW tells that the client runs it.
    pub(super) fn begins(&self, script: &Script) -> QueryId {
        // Most clients repeat themselves.
        if let Some(last) = self.presence.statement().filter(|last| last.is_of(self.served.salt, &script.shape)) {
            return last;
        }
        let mut queries = self.worker.queries.borrow_mut();
        let query = queries.begin(self.served.salt, &self.served.database, &script.shape);
        let forgotten = queries.take_forgotten();
        if forgotten > 0 {
            self.served.stats.shapes_forgotten.add(forgotten);
        }
        self.presence.runs(Some(query));
        query
    }

    /// The text of a Query was planned: what comes until its end is counted for it.
    pub(super) fn query_begins(&self, script: &Script) {
        self.measure.running.set(Some(self.begins(script)));
    }

    /// The answer to a Query has ended.
    pub(super) fn query_ended(&mut self, failed: bool) {
        let now = clock::now();
        let total_us = microseconds(now.saturating_duration_since(self.asked_at));
        self.served.stats.query_time.record_us(total_us);
        let measure = &mut self.measure;
        measure.answered_at = Some(now);
        let (rows, shards) = (std::mem::take(&mut measure.rows), std::mem::take(&mut measure.shards));
        let failed = std::mem::take(&mut measure.failed) || failed;
        let waited_us = std::mem::take(&mut measure.waited_us);
        measure.carried_us = 0;
        if let Some(query) = measure.running.take() {
            self.tally(query, Ended { rows, failed, shards, total_us, waited_us });
        }
    }

    fn tally(&self, query: QueryId, ended: Ended) {
        if !self.worker.queries.borrow_mut().end(query, ended) {
            // It has made room for others; the next call begins anew.
            self.presence.runs(None);
        }
    }

    /// A portal of the router is about to run.
    pub(super) fn portal_begins(&mut self, query: QueryId) {
        self.measure.running.set(Some(query));
        self.measure.rows = 0;
        self.measure.shards = 0;
        self.measure.failed = false;
    }

    /// What has begun as a portal of the router goes on on one server.
    pub(super) fn portal_passes(&mut self) {
        self.measure.running.set(None);
    }

    pub(super) fn portal_ended(&mut self, failed: bool) {
        let Measure { rows, shards, failed: told, .. } = self.measure;
        if let Some(query) = self.measure.running.take() {
            self.note_done(Done { query, rows, shards, failed: failed || told }, false);
        }
    }

    /// A server has answered an Execute; `more` are due from it.
    pub(super) fn executed(&mut self, query: QueryId, rows: u64, more: bool) {
        self.note_done(Done { query, rows, shards: 1, failed: false }, more);
    }

    /// A server has answered an Execute, or what belongs to it, with an error, or has gone.
    pub(super) fn execute_failed(&mut self, query: QueryId) {
        self.note_done(Done { query, rows: 0, shards: 1, failed: true }, false);
    }

    /// A statement of a pipeline was refused.
    pub(super) fn refused(&mut self, query: QueryId) {
        self.note_done(Done { query, rows: 0, shards: 0, failed: true }, false);
    }

    /// The time of the last statement is that of the whole answer, which is taken at its end.
    fn note_done(&mut self, done: Done, more: bool) {
        if more || self.measure.done.is_some() {
            let now = clock::now();
            if let Some(before) = self.measure.done.take() {
                self.count(before, now);
            }
            if more {
                return self.count(done, now);
            }
        }
        self.measure.done = Some(done);
    }

    fn count(&mut self, done: Done, now: Instant) {
        let began = self.measure.began.replace(now).unwrap_or(self.asked_at);
        let carried_us = std::mem::take(&mut self.measure.carried_us);
        let total_us = microseconds(now.saturating_duration_since(began)) + carried_us;
        let waited_us = std::mem::take(&mut self.measure.waited_us) + carried_us;
        let Done { query, rows, shards, failed } = done;
        self.tally(query, Ended { rows, failed, shards, total_us, waited_us });
    }

    /// All that a Flush asks for is answered: the client may take its time now.
    pub(super) fn pipeline_rests(&mut self) {
        if let Some(done) = self.measure.done.take() {
            self.count(done, clock::now());
        }
        self.measure.began = None;
        self.measure.carried_us += std::mem::take(&mut self.measure.waited_us);
    }

    /// The answer to a Sync has ended, but for its ReadyForQuery perhaps.
    pub(super) fn pipeline_ended(&mut self) {
        let now = clock::now();
        let began = self.measure.began.unwrap_or(self.asked_at);
        self.served.stats.query_time.record(now.saturating_duration_since(began));
        if let Some(done) = self.measure.done.take() {
            self.count(done, now);
        }
        let measure = &mut self.measure;
        measure.answered_at = Some(now);
        measure.began = None;
        measure.carried_us += std::mem::take(&mut measure.waited_us);
        (measure.rows, measure.shards, measure.failed) = (0, 0, false);
        measure.running.set(None);
    }
}
