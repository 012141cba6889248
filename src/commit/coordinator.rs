//! Two-phase commit: all participants or none. Pure: results go in, the next statements come out.
//!
//! ```text
//!   all but the decider    PREPARE TRANSACTION            together; one that fails rolls all back
//!   the decider            INSERT INTO sluice.decision    in one message: the commit point
//!                          COMMIT
//!   all but the decider    COMMIT PREPARED                together; who is lost now keeps what it prepared
//! ```
//!
//! The decision is a row that commits with the decider's own changes. Whoever finds a prepared transaction
//! later tries to insert a row of the same key that says `abort`: that waits for a commit under way, and
//! afterwards one of the two rows is there, for good. So what a coordinator does not live to do, or cannot
//! hear the answer to, anybody can do ([`crate::commit::recover`]).

use std::collections::VecDeque;

use super::name::{Identity, PreparedName, TransactionId};

/// What happened to the statement of a participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Done(usize),
    /// The server refused, and its transaction has ended with that.
    Failed(usize),
    /// The server refused; its transaction is open.
    Open(usize),
    /// The connection broke, or the server was silent for too long: whether the statement took effect is unknown, and it may
    /// do so later.
    Lost(usize),
}

/// What a participant is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Prepare,
    Decide,
    CommitPrepared,
    RollBackPrepared,
    RollBack,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Run {
        participant: usize,
        step: Step,
    },
    /// The decider was lost while it committed: find out over another connection, and tell by [`Coordinator::learned`].
    Learn,
    Finished(Outcome),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Committed,
    RolledBack,
    /// The decider was lost while it committed, and cannot be asked. What was prepared stays prepared until it can.
    Unknown,
}

/// What is written in `sluice.decision`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Commit,
    Abort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Participant {
    Active,
    Prepared,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Preparing,
    Deciding,
    Learning,
    Finishing(Decision),
    Over,
}

/// One commit over several shards.
#[derive(Debug)]
pub struct Coordinator {
    transaction: TransactionId,
    shards: Vec<Identity>,
    participants: Vec<Participant>,
    actions: VecDeque<Action>,
    phase: Phase,
    /// Statements whose results are awaited.
    asked: usize,
    /// Something in the phase that runs has gone wrong.
    troubled: bool,
    leaves_behind: bool,
}

impl Coordinator {
    /// A commit over these shards, two or more, the last of which decides.
    pub fn new(transaction: TransactionId, shards: Vec<Identity>) -> Self {
        assert!(shards.len() >= 2, "one participant commits in one phase");
        let mut coordinator = Self {
            transaction,
            participants: vec![Participant::Active; shards.len()],
            shards,
            actions: VecDeque::new(),
            phase: Phase::Preparing,
            asked: 0,
            troubled: false,
            leaves_behind: false,
        };
        (0..coordinator.decider()).for_each(|participant| coordinator.run(participant, Step::Prepare));
        coordinator
    }

    /// The next thing to do; the statements that are there at the same time may run together. After `Finished`
    /// there is nothing more.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether a participant may have been left with what it has prepared.
    pub fn leaves_behind(&self) -> bool {
        self.leaves_behind
    }

    /// By its position among the participants.
    pub fn decider(&self) -> usize {
        self.shards.len() - 1
    }

    pub fn transaction(&self) -> TransactionId {
        self.transaction
    }

    /// Of what a participant prepares.
    pub fn name(&self, participant: usize) -> PreparedName {
        PreparedName {
            transaction: self.transaction,
            decider: self.shards[self.decider()],
            participant: self.shards[participant],
        }
    }

    /// The text of a statement.
    pub fn sql(&self, participant: usize, step: Step) -> String {
        let name = self.name(participant);
        match step {
            Step::Prepare => format!("PREPARE TRANSACTION '{name}'"),
            Step::Decide => decide(self.transaction),
            Step::CommitPrepared => format!("COMMIT PREPARED '{name}'"),
            Step::RollBackPrepared => format!("ROLLBACK PREPARED '{name}'"),
            Step::RollBack => "ROLLBACK".to_owned(),
        }
    }

    /// Takes the result of a statement.
    pub fn handle(&mut self, event: Event) {
        assert!(self.asked > 0, "an answer to nothing");
        self.asked -= 1;
        match self.phase {
            Phase::Preparing => self.prepared(event),
            Phase::Deciding => self.decided(event),
            Phase::Finishing(_) => self.leaves_behind |= !matches!(event, Event::Done(_)),
            Phase::Learning | Phase::Over => {}
        }
        if self.asked == 0 {
            self.next_phase();
        }
    }

    /// What the decider's table says; `None` when it could not be asked in time.
    pub fn learned(&mut self, decision: Option<Decision>) {
        assert_eq!(self.phase, Phase::Learning, "nobody has asked");
        match decision {
            Some(decision) => self.finish(decision),
            None => {
                self.leaves_behind = true;
                self.end(Outcome::Unknown);
            }
        }
    }

    fn run(&mut self, participant: usize, step: Step) {
        self.asked += 1;
        self.actions.push_back(Action::Run { participant, step });
    }

    fn prepared(&mut self, event: Event) {
        self.troubled |= !matches!(event, Event::Done(_));
        match event {
            Event::Done(at) => self.participants[at] = Participant::Prepared,
            Event::Failed(at) => self.participants[at] = Participant::Gone,
            Event::Open(_) => {}
            Event::Lost(at) => {
                // It may have prepared all the same.
                self.participants[at] = Participant::Gone;
                self.leaves_behind = true;
            }
        }
    }

    fn decided(&mut self, event: Event) {
        let decider = self.decider();
        match event {
            Event::Done(_) | Event::Failed(_) | Event::Lost(_) => self.participants[decider] = Participant::Gone,
            Event::Open(_) => {}
        }
        self.troubled = !matches!(event, Event::Done(_));
        if matches!(event, Event::Lost(_)) {
            self.phase = Phase::Learning;
            self.actions.push_back(Action::Learn);
        }
    }

    /// All that ran together has been answered.
    fn next_phase(&mut self) {
        match self.phase {
            Phase::Preparing if self.troubled => self.finish(Decision::Abort),
            Phase::Preparing => {
                self.phase = Phase::Deciding;
                self.run(self.decider(), Step::Decide);
            }
            Phase::Deciding if self.troubled => self.finish(Decision::Abort),
            Phase::Deciding => self.finish(Decision::Commit),
            Phase::Finishing(Decision::Commit) => self.end(Outcome::Committed),
            Phase::Finishing(Decision::Abort) => self.end(Outcome::RolledBack),
            Phase::Learning | Phase::Over => {}
        }
    }

    fn finish(&mut self, decision: Decision) {
        self.phase = Phase::Finishing(decision);
        for participant in 0..self.participants.len() {
            match (self.participants[participant], decision) {
                (Participant::Prepared, Decision::Commit) => self.run(participant, Step::CommitPrepared),
                (Participant::Prepared, Decision::Abort) => self.run(participant, Step::RollBackPrepared),
                (Participant::Active, Decision::Abort) => self.run(participant, Step::RollBack),
                (Participant::Active, Decision::Commit) | (Participant::Gone, _) => {}
            }
        }
        if self.asked == 0 {
            self.next_phase();
        }
    }

    fn end(&mut self, outcome: Outcome) {
        self.phase = Phase::Over;
        self.actions.push_back(Action::Finished(outcome));
    }
}

/// The decider's one message. A client that lets commits return before they are on disk must not have this one
/// be forgotten in a crash, when others have committed because of it.
fn decide(transaction: TransactionId) -> String {
    format!(
        "INSERT INTO sluice.decision (gid, outcome) VALUES ('{transaction}', 'commit');\
         SELECT pg_catalog.set_config('synchronous_commit', 'local', true) \
         WHERE pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.=) 'off';COMMIT"
    )
}

#[cfg(test)]
mod tests {
    use super::{Action, Coordinator, Decision, Event, Identity, Outcome, Step, TransactionId};

    /// Runs a commit in which the statements with these numbers go as told; lists what was run.
    fn run(
        participants: u64,
        learned: Option<Decision>,
        fate: impl Fn(usize, usize) -> Event,
    ) -> (Vec<(usize, Step)>, Outcome, bool) {
        let mut coordinator = Coordinator::new(TransactionId(1), (0..participants).map(Identity).collect());
        let mut log = Vec::new();
        while let Some(action) = coordinator.poll_action() {
            match action {
                Action::Run { participant, step } => {
                    let event = fate(log.len(), participant);
                    log.push((participant, step));
                    coordinator.handle(event);
                }
                Action::Learn => coordinator.learned(learned),
                Action::Finished(outcome) => return (log, outcome, coordinator.leaves_behind()),
            }
        }
        panic!("a commit always finishes");
    }

    #[test]
    fn all_prepare_then_the_decider_commits_then_the_others() {
        let (log, outcome, left) = run(3, None, |_, at| Event::Done(at));
        let expected = [
            (0, Step::Prepare),
            (1, Step::Prepare),
            (2, Step::Decide),
            (0, Step::CommitPrepared),
            (1, Step::CommitPrepared),
        ];
        assert_eq!((log.as_slice(), outcome, left), (&expected[..], Outcome::Committed, false));
    }

    #[test]
    fn what_may_run_together_is_there_together() {
        let mut coordinator = Coordinator::new(TransactionId(1), (0..4).map(Identity).collect());
        for step in [Step::Prepare, Step::CommitPrepared] {
            let together: Vec<_> = std::iter::from_fn(|| coordinator.poll_action()).collect();
            let expected: Vec<_> = (0..3).map(|participant| Action::Run { participant, step }).collect();
            assert_eq!(together, expected);
            (0..3).for_each(|at| coordinator.handle(Event::Done(at)));
            if step == Step::Prepare {
                assert_eq!(coordinator.poll_action(), Some(Action::Run { participant: 3, step: Step::Decide }));
                coordinator.handle(Event::Done(3));
            }
        }
        assert_eq!(coordinator.poll_action(), Some(Action::Finished(Outcome::Committed)));
    }

    #[test]
    fn a_refused_prepare_rolls_back_the_prepared_and_the_active() {
        let (log, outcome, left) = run(3, None, |n, at| if n == 1 { Event::Failed(at) } else { Event::Done(at) });
        assert_eq!(log[2..], [(0, Step::RollBackPrepared), (2, Step::RollBack)]);
        assert_eq!((outcome, left), (Outcome::RolledBack, false));
        let (log, ..) = run(3, None, |n, at| if n == 1 { Event::Open(at) } else { Event::Done(at) });
        assert_eq!(log[2..], [(0, Step::RollBackPrepared), (1, Step::RollBack), (2, Step::RollBack)]);
        let (log, outcome, left) = run(2, None, |n, at| if n == 0 { Event::Lost(at) } else { Event::Done(at) });
        assert_eq!((&log[1..], outcome, left), (&[(1, Step::RollBack)][..], Outcome::RolledBack, true));
    }

    #[test]
    fn a_refused_decision_rolls_back_all() {
        let (log, outcome, _) = run(2, None, |n, at| if n == 1 { Event::Failed(at) } else { Event::Done(at) });
        assert_eq!((&log[2..], outcome), (&[(0, Step::RollBackPrepared)][..], Outcome::RolledBack));
        let (log, ..) = run(2, None, |n, at| if n == 1 { Event::Open(at) } else { Event::Done(at) });
        assert_eq!(log[2..], [(0, Step::RollBackPrepared), (1, Step::RollBack)]);
    }

    #[test]
    fn a_decider_that_is_lost_while_it_commits_is_asked_another_way() {
        let lost = |n: usize, at: usize| if n == 1 { Event::Lost(at) } else { Event::Done(at) };
        let (log, outcome, _) = run(2, Some(Decision::Commit), lost);
        assert_eq!((&log[2..], outcome), (&[(0, Step::CommitPrepared)][..], Outcome::Committed));
        let (log, outcome, _) = run(2, Some(Decision::Abort), lost);
        assert_eq!((&log[2..], outcome), (&[(0, Step::RollBackPrepared)][..], Outcome::RolledBack));
        let (log, outcome, left) = run(2, None, lost);
        assert_eq!((log.len(), outcome, left), (2, Outcome::Unknown, true));
    }

    #[test]
    fn what_is_lost_after_the_decision_changes_nothing() {
        let (_, outcome, left) = run(3, None, |n, at| if n == 3 { Event::Lost(at) } else { Event::Done(at) });
        assert_eq!((outcome, left), (Outcome::Committed, true));
    }
}
