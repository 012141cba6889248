//! Two-phase commit: all participants or none. Pure: results go in, the next statement comes out.
//!
//! All but the last participant prepare. The last one, the decider, then commits in one phase: this
//! is the commit point. The others commit what they prepared. A failure before the commit point
//! rolls everything back.

use std::collections::VecDeque;

/// What happened to the statement of a participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Done(usize),
    /// The server refused; its transaction is rolled back.
    Failed(usize),
    /// The connection broke: whether the statement took effect is unknown.
    Lost(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Run { participant: usize, sql: String },
    Finished(Outcome),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Committed,
    RolledBack,
    /// The decider was lost while it committed; prepared transactions with this prefix wait.
    Unknown(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Participant {
    Active,
    Prepared,
    Gone,
}

/// One commit over several shards.
#[derive(Debug)]
pub struct Coordinator {
    gid: String,
    participants: Vec<Participant>,
    actions: VecDeque<Action>,
    /// The statement whose result is awaited.
    asked: Option<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Preparing,
    Deciding,
    Finishing(Decision),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Commit,
    RollBack,
}

impl Coordinator {
    /// A commit over `participants` (two or more) under a name no other commit has.
    pub fn new(participants: usize, gid: &str) -> Self {
        assert!(participants >= 2, "one participant commits in one phase");
        let mut coordinator = Self {
            gid: gid.to_owned(),
            participants: vec![Participant::Active; participants],
            actions: VecDeque::new(),
            asked: Some(Phase::Preparing),
        };
        coordinator.prepare(0);
        coordinator
    }

    /// The next thing to do; after `Finished` there is nothing more.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether the decision has been made, so that what is left must be done sooner or later.
    pub fn has_decided(&self) -> bool {
        matches!(self.asked, Some(Phase::Finishing(_)))
    }

    /// Takes the result of the statement that ran last.
    pub fn handle(&mut self, event: Event) {
        match self.asked {
            Some(Phase::Preparing) => self.prepared(event),
            Some(Phase::Deciding) => self.decided(event),
            // A participant that is lost now keeps what it prepared; the decision stands.
            Some(Phase::Finishing(_)) | None => {}
        }
    }

    fn name(&self, participant: usize) -> String {
        format!("{}:{participant}", self.gid)
    }

    fn decider(&self) -> usize {
        self.participants.len() - 1
    }

    fn prepare(&mut self, participant: usize) {
        let sql = format!("PREPARE TRANSACTION '{}'", self.name(participant));
        self.actions.push_back(Action::Run { participant, sql });
    }

    fn prepared(&mut self, event: Event) {
        match event {
            Event::Done(at) => {
                self.participants[at] = Participant::Prepared;
                if at + 1 < self.decider() {
                    self.prepare(at + 1);
                } else {
                    self.asked = Some(Phase::Deciding);
                    self.actions.push_back(Action::Run { participant: self.decider(), sql: "COMMIT".into() });
                }
            }
            Event::Failed(at) => {
                self.participants[at] = Participant::Gone;
                self.finish(Decision::RollBack);
            }
            Event::Lost(at) => {
                // It may have prepared all the same; rolling back what is not there does no harm.
                self.participants[at] = Participant::Prepared;
                self.finish(Decision::RollBack);
            }
        }
    }

    fn decided(&mut self, event: Event) {
        let decider = self.decider();
        self.participants[decider] = Participant::Gone;
        match event {
            Event::Done(_) => self.finish(Decision::Commit),
            Event::Failed(_) => self.finish(Decision::RollBack),
            Event::Lost(_) => {
                self.asked = None;
                self.actions.push_back(Action::Finished(Outcome::Unknown(self.gid.clone())));
            }
        }
    }

    fn finish(&mut self, decision: Decision) {
        self.asked = Some(Phase::Finishing(decision));
        for participant in 0..self.participants.len() {
            let sql = match (self.participants[participant], decision) {
                (Participant::Prepared, Decision::Commit) => format!("COMMIT PREPARED '{}'", self.name(participant)),
                (Participant::Prepared, Decision::RollBack) => {
                    format!("ROLLBACK PREPARED '{}'", self.name(participant))
                }
                (Participant::Active, Decision::RollBack) => "ROLLBACK".to_owned(),
                (Participant::Active, Decision::Commit) | (Participant::Gone, _) => continue,
            };
            self.actions.push_back(Action::Run { participant, sql });
        }
        let outcome = match decision {
            Decision::Commit => Outcome::Committed,
            Decision::RollBack => Outcome::RolledBack,
        };
        self.actions.push_back(Action::Finished(outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, Coordinator, Event, Outcome};

    /// Runs a commit in which the statements with these numbers go as told; lists what was run.
    fn run(participants: usize, fate: impl Fn(usize, usize) -> Event) -> (Vec<String>, Outcome) {
        let mut coordinator = Coordinator::new(participants, "g");
        let mut log = Vec::new();
        while let Some(action) = coordinator.poll_action() {
            match action {
                Action::Run { participant, sql } => {
                    let event = fate(log.len(), participant);
                    log.push(format!("{participant}: {sql}"));
                    coordinator.handle(event);
                }
                Action::Finished(outcome) => return (log, outcome),
            }
        }
        panic!("a commit always finishes");
    }

    #[test]
    fn all_prepare_then_the_decider_commits_then_the_others() {
        let (log, outcome) = run(3, |_, at| Event::Done(at));
        assert_eq!(
            log,
            [
                "0: PREPARE TRANSACTION 'g:0'",
                "1: PREPARE TRANSACTION 'g:1'",
                "2: COMMIT",
                "0: COMMIT PREPARED 'g:0'",
                "1: COMMIT PREPARED 'g:1'"
            ]
        );
        assert_eq!(outcome, Outcome::Committed);
    }

    #[test]
    fn a_refused_prepare_rolls_back_the_prepared_and_the_active() {
        let (log, outcome) = run(3, |n, at| if n == 1 { Event::Failed(at) } else { Event::Done(at) });
        assert_eq!(log[2..], ["0: ROLLBACK PREPARED 'g:0'", "2: ROLLBACK"]);
        assert_eq!(outcome, Outcome::RolledBack);
    }

    #[test]
    fn a_refused_decision_rolls_back_all() {
        let (log, outcome) = run(2, |n, at| if n == 1 { Event::Failed(at) } else { Event::Done(at) });
        assert_eq!(log[2..], ["0: ROLLBACK PREPARED 'g:0'"]);
        assert_eq!(outcome, Outcome::RolledBack);
    }

    #[test]
    fn a_decider_that_is_lost_while_it_commits_leaves_doubt() {
        let (log, outcome) = run(2, |n, at| if n == 1 { Event::Lost(at) } else { Event::Done(at) });
        assert_eq!(log.len(), 2);
        assert_eq!(outcome, Outcome::Unknown("g".into()));
    }
}
