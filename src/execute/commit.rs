//! COMMIT on the servers that a transaction holds: in one phase where one of them wrote, else in two.

use std::time::Instant;

use bytes::BytesMut;

use crate::clock;
use crate::commit::coordinator::{Action, Coordinator, Event, Outcome, Step};
use crate::commit::recover::{DECISION_TIME_MAX, UNDEFINED_OBJECT};
use crate::commit::shards::{Known, NOT_PREPARED};
use crate::pool::server::{Audience, Due};
use crate::protocol::backend::TransactionStatus;
use crate::protocol::error::{ErrorFields, Severity};
use crate::protocol::frontend;

use super::ask::Answer;
use super::links::Sent;
use super::worker::Served;
use super::{Conversation, End, Failure};

const UNIQUE_VIOLATION: &str = "23505";
const CHECK_VIOLATION: &str = "23514";

/// One commit over several shards, as its client's task sees it.
struct TwoPhase {
    /// By their ids, in the order of the participants.
    servers: Vec<u64>,
    began: Instant,
    failure: Option<Cause>,
}

/// Why a commit fails: the first reason counts.
enum Cause {
    /// What a server said: the body of its ErrorResponse within the whole message.
    Said {
        message: BytesMut,
        by_decider: bool,
    },
    Lost(ErrorFields),
    /// A server is lost without which the session cannot go on.
    Ends,
    TooLate,
}

impl Conversation {
    /// Commits on every server of the block; false when the one server answered with ROLLBACK.
    pub(super) async fn commit_links(&mut self) -> Result<bool, Failure> {
        let mut writers: Vec<usize> =
            (0..self.links.len()).filter(|i| self.links[*i].joined && self.links[*i].wrote).collect();
        if writers.len() > 1 {
            // The last one decides, and is not prepared: PostgreSQL prepares no transaction that has used temporary
            // tables, notified anybody or taken some advisory locks; the last two are done on the first shard.
            writers.sort_by_key(|i| (self.links[*i].temporary_tables, self.links[*i].shard == Served::HOME));
            let writers = writers.iter().map(|i| self.links[*i].server.id.0).collect();
            // Nobody is thrown out in the middle of this: prepared transactions would stay behind.
            self.presence.commits(true);
            let committed = Box::pin(self.commit_two_phase(writers)).await;
            self.presence.commits(false);
            if let Err(failure) = committed {
                if !matches!(failure, Failure::End(_)) {
                    self.roll_back_links().await?;
                }
                return Err(failure);
            }
        }
        let committed = self.commit_one_phase().await;
        if matches!(committed, Err(Failure::Error(_) | Failure::Told)) {
            // Wherever the block is still open, what comes next would become a part of it.
            self.roll_back_links().await?;
        }
        committed
    }

    /// COMMIT wherever the block is still open.
    async fn commit_one_phase(&mut self) -> Result<bool, Failure> {
        let mut committed = true;
        // Whoever wrote goes first: if that fails, the others have changed nothing.
        let joined = self.links.iter().filter(|link| link.joined);
        let mut order: Vec<(bool, u64)> = joined.map(|link| (!link.wrote, link.server.id.0)).collect();
        order.sort_by_key(|(only_read, _)| *only_read);
        let writes = self.links.iter().any(|link| link.wrote);
        for (only_read, id) in order {
            let i = self.position(id)?;
            match self.ask(i, "COMMIT").await {
                Ok(answer) if answer.error.is_none() && answer.tag_is("ROLLBACK") => {
                    committed = false;
                    self.left_block(i, false);
                }
                Ok(answer) if answer.error.is_none() => self.left_block(i, true),
                // What was written is committed; this server had nothing to add to it.
                Err(Failure::Error(fields)) if writes && only_read => {
                    tracing::warn!(reason = %fields.message, "a server failed after the commit on the others");
                }
                Ok(answer) if writes && only_read => {
                    self.left_block(i, false);
                    let reason = answer.error.map(|message| ErrorFields::parse(&message[5..]).message);
                    tracing::warn!(?reason, "a server refused to commit what it has only read");
                }
                Ok(answer) => {
                    self.left_block(i, false);
                    answer.into_result(self)?;
                }
                Err(Failure::Error(fields)) if fields.sqlstate == "08006" => {
                    return Err(unknown_outcome(fields).into());
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(committed)
    }

    /// Two-phase commit over the servers that wrote: all or none.
    async fn commit_two_phase(&mut self, servers: Vec<u64>) -> Result<(), Failure> {
        let mut shards = Vec::with_capacity(servers.len());
        for id in &servers {
            let i = self.position(*id)?;
            shards.push(usize::from(self.links[i].shard.0));
            if self.links[i].is_unsynced() || !self.links[i].server.state.is_settled() {
                self.settle(i).await?;
            }
        }
        let identities = match self.served.commits.identities(&shards).await {
            Ok(identities) => identities,
            Err((shard, Known::Unfit(why) | Known::Away(why))) => {
                return Err(self.cannot_commit_together(shard, &why).into());
            }
            Err((_, Known::Ready(_))) => return Ok(()),
        };
        let mut coordinator = Coordinator::new(self.worker.new_transaction(), identities);
        let mut commit = TwoPhase { servers, began: clock::now(), failure: None };
        self.reach(&commit, "begun").await;
        let outcome = loop {
            let mut together = Vec::new();
            let mut next = None;
            while let Some(action) = coordinator.poll_action() {
                match action {
                    Action::Run { participant, step } => together.push((participant, step)),
                    other => next = Some(other),
                }
            }
            match next {
                Some(Action::Finished(outcome)) => break outcome,
                Some(_) => {
                    let decider = shards[coordinator.decider()];
                    let decision = self.served.commits.learn(decider, coordinator.transaction(), commit.began).await;
                    coordinator.learned(decision);
                }
                None => {
                    for event in self.run_together(&mut commit, &coordinator, &together).await {
                        coordinator.handle(event);
                    }
                }
            }
        };
        if coordinator.leaves_behind() {
            self.served.commits.leave_behind(coordinator.transaction());
        }
        self.after_two_phase(commit, &coordinator, outcome)
    }

    /// Sends one statement to each of these participants, then hears them all.
    async fn run_together(
        &mut self,
        commit: &mut TwoPhase,
        coordinator: &Coordinator,
        together: &[(usize, Step)],
    ) -> Vec<Event> {
        let step = together.first().map_or(Step::RollBack, |(_, step)| *step);
        let mut events = Vec::with_capacity(together.len());
        let mut sent = Vec::with_capacity(together.len());
        for (participant, step) in together.iter().copied() {
            if step == Step::Decide && commit.began.elapsed() > DECISION_TIME_MAX {
                commit.failure.get_or_insert(Cause::TooLate);
                events.push(Event::Open(participant));
                continue;
            }
            match self.send_step(commit.servers[participant], &coordinator.sql(participant, step)).await {
                Ok(()) => sent.push((participant, step)),
                Err(cause) => {
                    commit.failure.get_or_insert(cause);
                    events.push(Event::Lost(participant));
                }
            }
            if events.len() + sent.len() == 1 {
                self.reach(commit, first_sent(step)).await;
            }
        }
        self.reach(commit, all_sent(step)).await;
        for (participant, step) in sent {
            events.push(self.hear_step(commit, participant, step).await);
        }
        self.reach(commit, heard(step)).await;
        events
    }

    async fn send_step(&mut self, server: u64, sql: &str) -> Result<(), Cause> {
        let Some(i) = self.links.by_server(server) else { return Err(lost_before()) };
        let link = &mut self.links[i];
        frontend::query(&mut link.out, sql.as_bytes());
        link.server.state.expect(Due::Query(Audience::Client));
        link.sent = Sent::Synced;
        link.borrow_buffer(&self.worker);
        self.send_out(i).await.map_err(cause_of)
    }

    async fn hear_step(&mut self, commit: &mut TwoPhase, participant: usize, step: Step) -> Event {
        let server = commit.servers[participant];
        let Some(i) = self.links.by_server(server) else {
            commit.failure.get_or_insert(lost_before());
            return Event::Lost(participant);
        };
        match self.read_answer(i).await {
            Ok(answer) => self.judge_step(commit, i, participant, step, answer),
            Err(failure) => {
                commit.failure.get_or_insert(cause_of(failure));
                // Whatever went wrong, nobody knows what this server has done.
                if let Some(i) = self.links.by_server(server) {
                    self.links.remove(i).close();
                    self.presence.leave(server);
                }
                Event::Lost(participant)
            }
        }
    }

    fn judge_step(&mut self, commit: &mut TwoPhase, i: usize, participant: usize, step: Step, answer: Answer) -> Event {
        let ends_block = matches!(step, Step::Prepare | Step::Decide | Step::RollBack);
        let is_over = self.links[i].server.state.status() == TransactionStatus::Idle;
        // A transaction that has failed answers PREPARE and COMMIT with ROLLBACK.
        let undone = matches!(step, Step::Prepare | Step::Decide) && answer.tag_is("ROLLBACK");
        let done = answer.error.is_none() && !undone;
        if ends_block && is_over {
            self.left_block(i, done && step != Step::RollBack);
        }
        let Some(message) = answer.error else {
            return if done { Event::Done(participant) } else { Event::Failed(participant) };
        };
        // Somebody who looks after what is left has been quicker.
        if !ends_block && ErrorFields::parse(&message[5..]).sqlstate == UNDEFINED_OBJECT {
            return Event::Done(participant);
        }
        commit.failure.get_or_insert(Cause::Said { message, by_decider: step == Step::Decide });
        if is_over { Event::Failed(participant) } else { Event::Open(participant) }
    }

    /// What the client hears.
    fn after_two_phase(
        &mut self,
        commit: TwoPhase,
        coordinator: &Coordinator,
        outcome: Outcome,
    ) -> Result<(), Failure> {
        let ends = matches!(commit.failure, Some(Cause::Ends));
        let fields = match outcome {
            Outcome::Committed if !ends => return Ok(()),
            Outcome::Committed => {
                ErrorFields::error("08006", "the transaction has been committed, but the session has lost its server")
            }
            Outcome::RolledBack => match commit.failure {
                Some(Cause::Said { message, by_decider }) => match explain_refusal(&message, by_decider) {
                    Some(fields) => fields,
                    None => {
                        self.served.stats.errors.add(1);
                        self.client.out.extend_from_slice(&message);
                        return Err(Failure::Told);
                    }
                },
                Some(Cause::TooLate) => rolled_back("the commit has taken too long"),
                Some(Cause::Lost(fields)) => ErrorFields {
                    hint: None,
                    ..ErrorFields::error(
                        "08006",
                        "a server was lost during the commit, and the transaction was rolled back",
                    )
                    .with_detail(fields.detail.as_deref().unwrap_or(&fields.message).to_owned())
                },
                Some(Cause::Ends) | None => ErrorFields::error(
                    "08006",
                    "a server was lost during the commit, and the transaction was rolled back",
                ),
            },
            Outcome::Unknown => {
                tracing::error!(transaction = %coordinator.transaction(), "the outcome of a commit is not known yet");
                unknown_outcome(ErrorFields::error("08007", "the shard that decides was lost during the commit"))
            }
        };
        if ends {
            return Err(End::Fatal(ErrorFields { severity: Severity::Fatal, ..fields }).into());
        }
        Err(fields.into())
    }

    /// A commit has come so far; tests may break a connection here.
    async fn reach(&mut self, commit: &TwoPhase, point: &str) {
        if !self.served.commits.points.is_armed() {
            return;
        }
        let commits = self.served.commits.clone();
        if let Some(participant) = commits.points.reach(point).await
            && let Some(i) = commit.servers.get(participant).and_then(|server| self.links.by_server(*server))
        {
            let server = self.links[i].server.id.0;
            // Without goodbye: what has been sent may or may not have arrived.
            drop(self.links.remove(i));
            self.presence.leave(server);
        }
    }

    /// Why a transaction may not write on several shards.
    pub(super) fn cannot_commit_together(&self, shard: usize, why: &str) -> ErrorFields {
        let name = self.served.shards.get(shard).map_or("", |shard| &shard.name);
        let hint = if why == NOT_PREPARED {
            "Set max_prepared_transactions on every shard to at least the number of connections and restart it, or keep \
             each transaction that writes to one value of the sharding key."
        } else {
            "See SHOW PROBLEMS in the console, or keep each transaction that writes to one value of the sharding key."
        };
        ErrorFields::error("0A000", "this transaction cannot write on several shards")
            .with_detail(format!("Shard \"{name}\" can take no part in a commit over several shards: {why}."))
            .with_hint(hint)
    }
}

/// The decider refuses the row that would have been the commit: the words are the router's business.
fn explain_refusal(message: &[u8], by_decider: bool) -> Option<ErrorFields> {
    let said = ErrorFields::parse(&message[5..]);
    if !by_decider || !said.message.contains("\"decision") {
        return None;
    }
    match &*said.sqlstate {
        UNIQUE_VIOLATION => Some(rolled_back("its shards were prepared for longer than commit.in_doubt_after")),
        CHECK_VIOLATION => Some(
            ErrorFields::error("0A000", "a SERIALIZABLE transaction cannot write on several shards")
                .with_detail("Each shard checks for itself only; together they could let pass what no order of transactions gives.")
                .with_hint("Use READ COMMITTED or REPEATABLE READ, or keep the transaction to one value of the sharding key."),
        ),
        _ => None,
    }
}

fn rolled_back(why: &str) -> ErrorFields {
    ErrorFields::error("40001", "the transaction was rolled back on all shards during its commit")
        .with_detail(format!("Another router has ended it, or could have: {why}."))
        .with_hint("Run the transaction again.")
}

/// The client must not take an error for a rollback.
fn unknown_outcome(fields: ErrorFields) -> ErrorFields {
    ErrorFields { sqlstate: "08007".into(), ..fields }
        .with_hint("The transaction may or may not have been committed; look before you repeat it.")
}

fn lost_before() -> Cause {
    Cause::Lost(ErrorFields::error("08006", "a shard's server closed the connection unexpectedly"))
}

fn cause_of(failure: Failure) -> Cause {
    match failure {
        Failure::Error(fields) => Cause::Lost(fields),
        Failure::Told => lost_before(),
        Failure::End(_) => Cause::Ends,
    }
}

/// The names of the points at which tests let a commit fail.
fn first_sent(step: Step) -> &'static str {
    match step {
        Step::Prepare => "prepare-first",
        Step::Decide => "decide-first",
        Step::CommitPrepared => "finish-first",
        Step::RollBackPrepared | Step::RollBack => "undo-first",
    }
}

fn all_sent(step: Step) -> &'static str {
    match step {
        Step::Prepare => "prepare",
        Step::Decide => "decide",
        Step::CommitPrepared => "finish",
        Step::RollBackPrepared | Step::RollBack => "undo",
    }
}

fn heard(step: Step) -> &'static str {
    match step {
        Step::Prepare => "prepared",
        Step::Decide => "decided",
        Step::CommitPrepared => "finished",
        Step::RollBackPrepared | Step::RollBack => "undone",
    }
}
