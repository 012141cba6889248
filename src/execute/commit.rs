//! COMMIT on the servers that a transaction holds: in one phase where one of them wrote, else in two.

use std::io;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pgsluice_sharding::ShardId;
use tokio::time::{timeout, timeout_at};

use crate::clock;
use crate::commit::coordinator::{Action, Coordinator, Event, Outcome, Step};
use crate::commit::points::Harm;
use crate::commit::recover::{DECISION_TIME_MAX, UNDEFINED_OBJECT};
use crate::commit::shards::{Known, NOT_PREPARED};
use crate::commit::silence::{Debtor, Silence};
use crate::pool::server::{Audience, Due};
use crate::protocol::backend::{self, TransactionStatus};
use crate::protocol::error::{ErrorFields, Severity};
use crate::protocol::frontend;
use crate::session::transaction::Block;

use super::ask::{Answer, Notices};
use super::links::Sent;
use super::victim::FAIL;
use super::worker::Served;
use super::{Conversation, End, Failure};

const SERVER_LOST: &str = "the transaction has been committed, but the session has lost its server";

const READ_ONLY: &str = "25006";
const IN_FAILED_TRANSACTION: &str = "25P02";
const UNIQUE_VIOLATION: &str = "23505";
const CHECK_VIOLATION: &str = "23514";

/// One commit over several shards, as its client's task sees it.
struct TwoPhase {
    /// By their ids, in the order of the participants.
    servers: Vec<u64>,
    /// The shards of those.
    shards: Vec<ShardId>,
    began: Instant,
    failure: Option<Cause>,
    decider: Decider,
    /// The participants that have not heard that it is committed, or not said so.
    left: Vec<usize>,
}

impl TwoPhase {
    fn note(&mut self, step: Step, event: Event) {
        if let (Step::CommitPrepared, Event::Failed(at) | Event::Open(at) | Event::Lost(at)) = (step, event) {
            self.left.push(at);
        }
    }
}

/// Whether the decider can be expected to tell what has become of the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decider {
    Well,
    /// It has been silent for half of the time that the client waits; the other half is there to ask it another way.
    Silent,
}

/// How long is waited for the answers to a step.
enum Patience {
    /// The outcome is known: nobody is waited for longer.
    Until(Instant),
    /// As long as something is heard of the servers.
    WhileAtWork(Silence),
}

/// Why a commit fails: the first reason counts.
enum Cause {
    /// What a server said: the body of its ErrorResponse within the whole message.
    Said {
        message: BytesMut,
        by_decider: bool,
    },
    Lost(ErrorFields),
    /// Nothing was heard of this participant for so long.
    Silent(usize, Duration),
    /// The transaction of this participant had failed before: PREPARE or COMMIT has rolled it back.
    HadFailed(usize),
    /// A server is lost without which the session cannot go on.
    Ends,
    TooLate,
}

impl Conversation {
    /// Commits on every server of the block; false when the one server answered with ROLLBACK.
    pub(super) async fn commit_links(&mut self) -> Result<bool, Failure> {
        let mut writers: Vec<usize> =
            (0..self.links.len()).filter(|i| self.links[*i].joined && self.links[*i].wrote).collect();
        if writers.len() > 1 && self.session.transaction.block().is_some_and(Block::is_read_only) {
            self.forget_those_without_changes(&writers).await?;
            writers.retain(|i| self.links[*i].wrote);
        }
        let is_decided = writers.len() > 1;
        if is_decided {
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
                    let patience = self.served.commits.bounds().outcome_timeout;
                    self.roll_back_links_within(Some(patience)).await?;
                }
                return Err(failure);
            }
        }
        let committed = self.commit_one_phase(is_decided).await;
        if matches!(committed, Err(Failure::Error(_) | Failure::Told)) {
            // Wherever the block is still open, what comes next would become a part of it.
            self.roll_back_links().await?;
        }
        committed
    }

    /// In a transaction that only reads, what may write mostly has not: PostgreSQL knows.
    async fn forget_those_without_changes(&mut self, writers: &[usize]) -> Result<(), Failure> {
        const CHANGES: &str = "SELECT pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL";
        let servers: Vec<u64> = writers.iter().map(|i| self.links[*i].server.id.0).collect();
        for server in servers {
            let asked = match self.position(server) {
                Ok(i) => self.ask(i, CHANGES).await.map(|answer| (i, answer)),
                Err(failure) => Err(failure),
            };
            match asked {
                Ok((i, answer)) if answer.error.is_none() => {
                    // One column of one letter.
                    self.links[i].wrote = answer.rows().next().is_none_or(|row| row.last() == Some(&b't'));
                }
                Ok((_, answer)) => {
                    self.roll_back_links().await?;
                    return answer.into_result(self);
                }
                Err(end @ Failure::End(_)) => return Err(end),
                Err(failure) => {
                    self.roll_back_links().await?;
                    return Err(failure);
                }
            }
        }
        Ok(())
    }

    /// COMMIT wherever the block is still open; what was written on several servers `is_decided` already.
    async fn commit_one_phase(&mut self, is_decided: bool) -> Result<bool, Failure> {
        let mut committed = true;
        // Whoever wrote goes first: if that fails, the others have changed nothing.
        let joined = self.links.iter().filter(|link| link.joined);
        let mut order: Vec<(bool, u64)> = joined.map(|link| (!link.wrote, link.server.id.0)).collect();
        order.sort_by_key(|(only_read, _)| *only_read);
        let writes = is_decided || self.links.iter().any(|link| link.wrote);
        for (only_read, id) in order {
            if writes && only_read {
                self.end_reader(id).await?;
                continue;
            }
            let i = self.position(id)?;
            match self.ask(i, "COMMIT").await {
                Ok(answer) if answer.error.is_none() && answer.tag_is("ROLLBACK") => {
                    committed = false;
                    self.left_block(i, false);
                }
                Ok(answer) if answer.error.is_none() => self.left_block(i, true),
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

    /// COMMIT on a server that has only read, when what others wrote is committed: nothing that happens here changes that.
    async fn end_reader(&mut self, server: u64) -> Result<(), Failure> {
        let Some(i) = self.links.by_server(server) else { return Ok(()) };
        let patience = self.served.commits.bounds().outcome_timeout;
        match timeout(patience, self.ask(i, "COMMIT")).await {
            Ok(Ok(answer)) => {
                let committed = answer.error.is_none() && !answer.tag_is("ROLLBACK");
                self.left_block(i, committed);
                if let Some(message) = answer.error {
                    let reason = ErrorFields::parse(&message[5..]).message;
                    tracing::warn!(%reason, "a server refused to commit what it has only read");
                }
                Ok(())
            }
            Ok(Err(Failure::End(End::Fatal(_)))) => Err(End::Fatal(ErrorFields::fatal("08006", SERVER_LOST)).into()),
            Ok(Err(end @ Failure::End(_))) => Err(end),
            Ok(Err(Failure::Error(_) | Failure::Told)) | Err(_) => {
                tracing::warn!("a server that has only read was lost after the commit on the others");
                self.discard(server);
                Ok(())
            }
        }
    }

    /// Closes a server of which nobody knows what it has done.
    fn discard(&mut self, server: u64) {
        if let Some(i) = self.links.by_server(server) {
            self.links.remove(i).close();
            self.presence.leave(server);
        }
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
        let places = shards.iter().filter_map(|shard| u16::try_from(*shard).ok().map(ShardId)).collect();
        let (began, left) = (clock::now(), Vec::new());
        let mut commit = TwoPhase { servers, shards: places, began, failure: None, decider: Decider::Well, left };
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
                    let (decider, transaction) = (shards[coordinator.decider()], coordinator.transaction());
                    let patience = self.served.commits.bounds().outcome_timeout;
                    let patience = if commit.decider == Decider::Silent { patience / 2 } else { patience };
                    let decision = self.served.commits.learn(decider, transaction, commit.began, patience).await;
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
                    commit.note(step, Event::Lost(participant));
                    events.push(Event::Lost(participant));
                }
            }
            if events.len() + sent.len() == 1 {
                self.reach(commit, first_sent(step)).await;
            }
        }
        self.reach(commit, all_sent(step)).await;
        let mut patience = self.patience_for(commit, step, &sent);
        for (participant, step) in sent {
            let event = self.hear_step_within(&mut patience, commit, participant, step).await;
            commit.note(step, event);
            events.push(event);
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

    /// What may take long by right comes before the outcome is known.
    fn patience_for(&self, commit: &TwoPhase, step: Step, sent: &[(usize, Step)]) -> Patience {
        let bound = self.served.commits.bounds().outcome_timeout;
        let bound = match step {
            Step::Prepare => bound,
            Step::Decide => bound / 2,
            Step::CommitPrepared | Step::RollBackPrepared | Step::RollBack => {
                return Patience::Until(clock::now() + bound);
            }
        };
        let debtor = |(participant, _): &(usize, Step)| {
            let i = self.links.by_server(commit.servers[*participant])?;
            let pid = self.links[i].server.cancel_handle().key().pid;
            Some(Debtor { participant: *participant, shard: usize::from(self.links[i].shard.0), pid })
        };
        let debtors = sent.iter().filter_map(debtor).collect();
        Patience::WhileAtWork(Silence::new(self.served.commits.clone(), debtors, bound))
    }

    /// A server that does not answer in time is closed: others bring to an end what it has prepared.
    async fn hear_step_within(
        &mut self,
        patience: &mut Patience,
        commit: &mut TwoPhase,
        participant: usize,
        step: Step,
    ) -> Event {
        let server = commit.servers[participant];
        let silence = match patience {
            Patience::Until(until) => {
                if let Ok(event) = timeout_at((*until).into(), self.hear_step(commit, participant, step)).await {
                    return event;
                }
                self.discard(server);
                return Event::Lost(participant);
            }
            Patience::WhileAtWork(silence) => silence,
        };
        tokio::select! {
            biased;
            event = self.hear_step(commit, participant, step) => {
                silence.ends(participant);
                return event;
            }
            () = silence.of(participant) => {}
        }
        if step == Step::Decide {
            commit.decider = Decider::Silent;
        }
        let Some(i) = self.links.by_server(server) else { return Event::Lost(participant) };
        let cause = match self.server_gone(i, &io::ErrorKind::TimedOut.into()) {
            Failure::End(_) => Cause::Ends,
            Failure::Error(_) | Failure::Told => {
                Cause::Silent(participant, self.served.commits.bounds().outcome_timeout)
            }
        };
        commit.failure.get_or_insert(cause);
        Event::Lost(participant)
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
                self.discard(server);
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
            if done {
                return Event::Done(participant);
            }
            commit.failure.get_or_insert(Cause::HadFailed(participant));
            return Event::Failed(participant);
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
            Outcome::Committed if !ends => {
                self.tell_of_unfinished(&commit, coordinator);
                return Ok(());
            }
            Outcome::Committed => ErrorFields::error("08006", SERVER_LOST),
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
                Some(Cause::HadFailed(participant)) => {
                    let shard = &self.served.shard(commit.shards[participant]).name;
                    had_failed().with_detail(format!("It had failed on shard \"{shard}\" before."))
                }
                Some(Cause::Lost(fields)) => ErrorFields {
                    hint: None,
                    ..ErrorFields::error(
                        "08006",
                        "a server was lost during the commit, and the transaction was rolled back",
                    )
                    .with_detail(fields.detail.as_deref().unwrap_or(&fields.message).to_owned())
                },
                Some(Cause::Silent(participant, bound)) => self.gave_up(commit.shards[participant], bound),
                Some(Cause::Ends) | None => ErrorFields::error(
                    "08006",
                    "a server was lost during the commit, and the transaction was rolled back",
                ),
            },
            Outcome::Unknown => self.in_doubt(&commit, coordinator),
        };
        if ends {
            return Err(End::Fatal(ErrorFields { severity: Severity::Fatal, ..fields }).into());
        }
        Err(fields.into())
    }

    /// Nothing was decided, or it was decided that nothing is committed.
    fn gave_up(&self, silent: ShardId, bound: Duration) -> ErrorFields {
        let shard = &self.served.shard(silent).name;
        ErrorFields::error("08006", "a shard has not answered during the commit, and the transaction was rolled back")
            .with_detail(format!("Shard \"{shard}\" was silent for longer than commit.outcome_timeout allows ({bound:?})."))
            .with_hint("Nothing has been committed on any shard, nor will it be. Run the transaction again when the shard answers.")
    }

    /// The decision may have been written: nobody says that it was not.
    fn in_doubt(&self, commit: &TwoPhase, coordinator: &Coordinator) -> ErrorFields {
        let (transaction, shard) =
            (coordinator.transaction(), &self.served.shard(commit.shards[coordinator.decider()]).name);
        tracing::error!(%transaction, %shard, "the outcome of a commit is not known yet");
        let message = match commit.decider {
            Decider::Silent => "the shard that decides has not answered during the commit",
            Decider::Well => "the shard that decides was lost during the commit",
        };
        unknown_outcome(ErrorFields::error("08007", message)).with_detail(format!(
            "Transaction {transaction} is in doubt: as soon as shard \"{shard}\" answers, it is committed on all shards or \
             rolled back on all. Until then SHOW TRANSACTIONS in the console lists its parts under this name."
        ))
    }

    /// It is committed; where it has not been finished, the session's own statements wait for that.
    fn tell_of_unfinished(&mut self, commit: &TwoPhase, coordinator: &Coordinator) {
        // Also where the server was lost that did it.
        commit.shards.iter().for_each(|shard| self.session.wrote_on(*shard, clock::now()));
        if commit.left.is_empty() {
            return;
        }
        let mut names = Vec::new();
        for participant in commit.left.iter().copied() {
            let shard = commit.shards[participant];
            names.push(format!("\"{}\"", self.served.shard(shard).name));
            self.unfinished.push((shard, coordinator.name(participant)));
        }
        let fields = ErrorFields::new(
            Severity::Warning,
            "01000",
            "the transaction has been committed, but not all of its shards show that yet",
        );
        let detail = format!("No answer from: {}.", names.join(", "));
        let fields = fields.with_detail(detail).with_hint(
            "Statements of this session wait for these shards; others may see the rows there as they were before.",
        );
        backend::notice_response(&mut self.client.out, &fields);
    }

    /// Before anything else runs on a shard for this session, what it has committed is committed there.
    pub(super) async fn finish_on(&mut self, shard: ShardId) -> Result<(), Failure> {
        while let Some(at) = self.unfinished.iter().position(|(unfinished, _)| *unfinished == shard) {
            self.client.flush().await?;
            let (commits, name) = (self.served.commits.clone(), self.unfinished[at].1);
            let finished = tokio::select! {
                biased;
                finished = commits.finish(usize::from(shard.0), name) => finished,
                gone = self.client.watch() => return Err(gone.into()),
            };
            if let Err(reason) = finished {
                let message = "a shard has not finished an earlier transaction of this session, which is committed";
                return Err(ErrorFields::error("08006", message)
                    .with_detail(format!("Shard \"{}\": {reason}.", self.served.shard(shard).name))
                    .with_hint(
                        "Try again when the shard answers; another session may see the rows there as they were before.",
                    )
                    .into());
            }
            self.unfinished.remove(at);
            // No replica that has not got that far is asked.
            self.session.wrote_on(shard, clock::now());
        }
        Ok(())
    }

    /// A commit has come so far; tests may break a connection here.
    async fn reach(&mut self, commit: &TwoPhase, point: &str) {
        if !self.served.commits.points.is_armed() {
            return;
        }
        let commits = self.served.commits.clone();
        let Some(harm) = commits.points.reach(point).await else { return };
        let (Harm::Lost(participant) | Harm::Failed(participant)) = harm;
        let Some(server) = commit.servers.get(participant).copied() else { return };
        let Some(i) = self.links.by_server(server) else { return };
        match harm {
            Harm::Lost(_) => {
                // Without goodbye: what has been sent may or may not have arrived.
                drop(self.links.remove(i));
                self.presence.leave(server);
            }
            // The connection may have broken by itself.
            Harm::Failed(_) => drop(self.ask_hearing(i, FAIL, Notices::Dropped).await),
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
    match &*said.sqlstate {
        READ_ONLY if by_decider => return Some(cannot_become_read_only()),
        IN_FAILED_TRANSACTION if by_decider => return Some(had_failed()),
        _ => {}
    }
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

/// Its commit leaves a row, which is a write.
pub(super) fn cannot_become_read_only() -> ErrorFields {
    ErrorFields::error("0A000", "a transaction that has written on several shards cannot become READ ONLY")
        .with_detail("Its commit writes a row on one of them.")
        .with_hint("Leave the transaction READ WRITE, or commit it before.")
}

/// A server has answered COMMIT with ROLLBACK, though nobody has been told of an error.
pub(super) fn had_failed() -> ErrorFields {
    ErrorFields::error("40000", "the transaction has been rolled back instead of committed")
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
