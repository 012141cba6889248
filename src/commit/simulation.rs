//! Commits, recoveries and cleanings at once, on shards that are a few sets, in an order that a seed gives:
//! connections break, shards and routers crash at any moment, shards freeze and go on, routers give up those that are silent,
//! what was sent may arrive after its sender has gone.
//! Afterwards every transaction is whole or undone, and who was told has been told the truth.
//!
//! The machines are those of the router. `SEEDS=from..to` runs others than the usual ones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::coordinator::{Action, Coordinator, Decision, Event, Outcome, Step};
use super::name::{Identity, PreparedName, TransactionId};
use super::orphans::{Listed, Orphan, orphans, unneeded};

/// What happens at random before faults end.
const STEPS: usize = 250;

/// Enough for everything to come to rest.
const STEPS_AT_PEACE_MAX: usize = 20_000;

/// Numbers that a seed gives (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap_or(0)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// How far an unprepared transaction is on a shard.
#[derive(Clone, Copy, PartialEq)]
enum Open {
    Working,
    /// The decision's row is there, not committed yet: others wait for it.
    Inserted,
}

#[derive(Default)]
struct Shard {
    open: BTreeMap<TransactionId, Open>,
    prepared: BTreeMap<TransactionId, PreparedName>,
    applied: BTreeSet<TransactionId>,
    decisions: BTreeMap<TransactionId, Decision>,
    /// It answers nothing, and goes on later with all it has.
    frozen: bool,
}

/// The connection of a commit to one participant.
struct Wire {
    shard: usize,
    to: VecDeque<Step>,
    from: VecDeque<Event>,
    /// A statement was sent of which nothing has been heard.
    asked: bool,
    end: ServerEnd,
}

/// What the server has of a connection.
#[derive(Clone, Copy, PartialEq)]
enum ServerEnd {
    Open,
    /// The router has given it up: what was sent is still read, what is answered is not.
    Unheard,
    Broken,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Runs,
    /// The decider was lost; its row is asked for.
    Learns,
    /// Ended, or its router has died.
    Over,
}

struct Commit {
    id: TransactionId,
    coordinator: Coordinator,
    wires: Vec<Wire>,
    stage: Stage,
    /// So much time has passed that the decision's row may have been removed.
    late: bool,
    told: Option<Outcome>,
}

/// What one of several routers does beside.
enum Task {
    List { next: usize, listed: Vec<Listed>, rows: Option<(usize, Vec<TransactionId>)> },
    Decide(Orphan),
    End { decision: Decision, parts: Vec<Listed> },
}

struct World {
    random: Random,
    shards: Vec<Shard>,
    commits: Vec<Commit>,
    tasks: Vec<Task>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let shards = 2 + random.below(3);
        let transactions = 1 + random.below(3);
        let mut world = Self {
            random,
            shards: (0..shards).map(|_| Shard::default()).collect(),
            commits: Vec::new(),
            tasks: Vec::new(),
        };
        for number in 0..transactions {
            world.begin(TransactionId(number as u128 + 1));
        }
        world
    }

    fn begin(&mut self, id: TransactionId) {
        let mut order: Vec<usize> = (0..self.shards.len()).collect();
        for at in (1..order.len()).rev() {
            order.swap(at, self.random.below(at + 1));
        }
        order.truncate(2 + self.random.below(order.len() - 1));
        for shard in &order {
            self.shards[*shard].open.insert(id, Open::Working);
        }
        let coordinator = Coordinator::new(id, order.iter().map(|shard| Identity(*shard as u64)).collect());
        let wire =
            |shard| Wire { shard, to: VecDeque::new(), from: VecDeque::new(), asked: false, end: ServerEnd::Open };
        let wires = order.into_iter().map(wire).collect();
        self.commits.push(Commit { id, coordinator, wires, stage: Stage::Runs, late: false, told: None });
    }

    /// One thing happens.
    fn step(&mut self, faults: bool) {
        let at = self.random.below(self.commits.len());
        match self.random.below(if faults { 106 } else { 90 }) {
            0..25 => self.advance(at),
            25..45 => self.serve(at),
            45..60 => self.hear(at),
            60..70 => self.go_on_inserting(),
            70..85 => self.work(),
            85..90 => self.look(),
            90..94 => self.cut(at),
            94..96 => self.crash_shard(),
            96..97 => self.crash_commit(at),
            97..98 => self.end_sessions(at),
            98..102 => self.give_up(at),
            102..104 => self.freeze_or_wake(),
            _ => {
                if !self.tasks.is_empty() {
                    let task = self.random.below(self.tasks.len());
                    drop(self.tasks.swap_remove(task));
                }
            }
        }
    }

    /// The coordinator says what comes next.
    fn advance(&mut self, at: usize) {
        let commit = &mut self.commits[at];
        if commit.stage == Stage::Over {
            return;
        }
        if commit.stage == Stage::Learns {
            let decider = commit.wires[commit.coordinator.decider()].shard;
            let asks = !self.shards[decider].frozen && !self.random.chance(20);
            let decision = if asks { self.shards[decider].decide(commit.id) } else { None };
            // While the row is waited for there is no answer, unless patience ends.
            let decision = decision.filter(|decision| *decision == Decision::Commit || !commit.late);
            if decision.is_some() || self.random.chance(20) {
                commit.stage = Stage::Runs;
                commit.coordinator.learned(decision);
            }
            return;
        }
        match commit.coordinator.poll_action() {
            Some(Action::Run { participant, step }) => {
                let wire = &mut commit.wires[participant];
                wire.asked = true;
                match wire.end {
                    ServerEnd::Open => wire.to.push_back(step),
                    ServerEnd::Unheard => panic!("{step:?} goes to a server that was given up"),
                    ServerEnd::Broken => wire.from.push_back(Event::Lost(participant)),
                }
            }
            Some(Action::Learn) => commit.stage = Stage::Learns,
            Some(Action::Finished(outcome)) => {
                commit.stage = Stage::Over;
                commit.told = Some(outcome);
            }
            None => {}
        }
    }

    /// A server reads what has come over one connection.
    fn serve(&mut self, at: usize) {
        let participant = self.random.below(self.commits[at].wires.len());
        let refuses = self.random.chance(5);
        let Commit { id, coordinator, wires, .. } = &mut self.commits[at];
        let wire = &mut wires[participant];
        let shard = &mut self.shards[wire.shard];
        if wire.end == ServerEnd::Broken || shard.frozen || shard.open.get(id) == Some(&Open::Inserted) {
            return;
        }
        let Some(step) = wire.to.pop_front() else { return };
        let name = PreparedName {
            transaction: *id,
            decider: Identity(wires[coordinator.decider()].shard as u64),
            participant: Identity(wires[participant].shard as u64),
        };
        let wire = &mut wires[participant];
        let event = match step {
            Step::Prepare if refuses => {
                shard.open.remove(id);
                Event::Failed(participant)
            }
            Step::Prepare => {
                shard.open.remove(id);
                shard.prepared.insert(*id, name);
                Event::Done(participant)
            }
            // The key is taken by an abort.
            Step::Decide if shard.decisions.contains_key(id) => Event::Open(participant),
            Step::Decide => {
                shard.open.insert(*id, Open::Inserted);
                return;
            }
            Step::CommitPrepared | Step::RollBackPrepared => {
                shard.end(*id, step == Step::CommitPrepared);
                Event::Done(participant)
            }
            Step::RollBack => {
                shard.open.remove(id);
                Event::Done(participant)
            }
        };
        wire.answers(event);
    }

    /// A decider that has inserted its row commits, or finds that it cannot.
    fn go_on_inserting(&mut self) {
        let refuses = self.random.chance(10);
        let at = self.random.below(self.commits.len());
        let Commit { id, coordinator, wires, .. } = &mut self.commits[at];
        let decider = coordinator.decider();
        let shard = &mut self.shards[wires[decider].shard];
        if shard.frozen || shard.open.get(id) != Some(&Open::Inserted) {
            return;
        }
        shard.open.remove(id);
        if !refuses {
            shard.decisions.insert(*id, Decision::Commit);
            shard.applied.insert(*id);
        }
        wires[decider].answers(if refuses { Event::Failed(decider) } else { Event::Done(decider) });
    }

    fn hear(&mut self, at: usize) {
        let participant = self.random.below(self.commits[at].wires.len());
        let commit = &mut self.commits[at];
        let wire = &mut commit.wires[participant];
        if let (true, Some(event)) = (commit.stage != Stage::Over, wire.from.pop_front()) {
            wire.asked = false;
            commit.coordinator.handle(event);
        }
    }

    /// A router begins to look at what is prepared, to resolve it or to clean.
    fn look(&mut self) {
        if self.tasks.len() > 6 {
            return;
        }
        let rows = self.random.chance(40).then(|| {
            let at = self.random.below(self.shards.len());
            let committed = self.shards[at].decisions.iter().filter(|(_, decision)| **decision == Decision::Commit);
            (at, committed.map(|(id, _)| *id).collect())
        });
        self.tasks.push(Task::List { next: 0, listed: Vec::new(), rows });
    }

    /// A router goes on with what it does beside.
    fn work(&mut self) {
        if self.tasks.is_empty() {
            return;
        }
        let at = self.random.below(self.tasks.len());
        match self.tasks.swap_remove(at) {
            // Nobody cleans who has not heard all; what the others list is resolved.
            Task::List { next, rows: Some(_), .. } if self.is_frozen(next) => {}
            Task::List { next, listed, rows } if self.is_frozen(next) => {
                self.tasks.push(Task::List { next: next + 1, listed, rows });
            }
            Task::List { next, mut listed, rows } if next < self.shards.len() => {
                let part = |name: &PreparedName| Listed {
                    name: *name,
                    shard: next,
                    owner: String::new(),
                    age: Duration::ZERO,
                };
                listed.extend(self.shards[next].prepared.values().map(part));
                self.tasks.push(Task::List { next: next + 1, listed, rows });
            }
            Task::List { listed, rows: Some((at, committed)), .. } => {
                for id in unneeded(&committed, &listed) {
                    self.shards[at].decisions.remove(&id);
                    self.commits.iter_mut().filter(|commit| commit.id == id).for_each(|commit| commit.late = true);
                }
                // An abort goes when every transaction that was there before it has ended.
                let Shard { decisions, open, .. } = &mut self.shards[at];
                decisions.retain(|id, decision| *decision == Decision::Commit || open.contains_key(id));
            }
            Task::List { listed, .. } => self.tasks.extend(orphans(&listed, |_| true).into_iter().map(Task::Decide)),
            Task::Decide(orphan) if self.is_frozen(usize::try_from(orphan.decider.0).unwrap_or(0)) => {
                self.tasks.push(Task::Decide(orphan));
            }
            Task::Decide(orphan) => {
                match self.shards[usize::try_from(orphan.decider.0).unwrap_or(0)].decide(orphan.transaction) {
                    Some(decision) => self.tasks.push(Task::End { decision, parts: orphan.parts }),
                    None => self.tasks.push(Task::Decide(orphan)),
                }
            }
            Task::End { decision, parts } if parts.last().is_some_and(|part| self.is_frozen(part.shard)) => {
                self.tasks.push(Task::End { decision, parts });
            }
            Task::End { decision, mut parts } => {
                if let Some(part) = parts.pop() {
                    self.shards[part.shard].end(part.name.transaction, decision == Decision::Commit);
                    self.tasks.push(Task::End { decision, parts });
                }
            }
        }
    }

    /// A connection breaks: what is on its way in either direction may be lost.
    fn cut(&mut self, at: usize) {
        let participant = self.random.below(self.commits[at].wires.len());
        self.break_wire(at, participant);
    }

    fn break_wire(&mut self, at: usize, participant: usize) {
        let loses_answer = self.random.chance(50);
        let Commit { id, wires, .. } = &mut self.commits[at];
        let wire = &mut wires[participant];
        if std::mem::replace(&mut wire.end, ServerEnd::Broken) == ServerEnd::Broken {
            return;
        }
        wire.to.clear();
        if loses_answer {
            wire.from.clear();
        }
        if wire.asked && wire.from.is_empty() {
            wire.from.push_back(Event::Lost(participant));
        }
        // A server that is about to commit does so; nobody hears of it.
        let open = &mut self.shards[wire.shard].open;
        if open.get(id) == Some(&Open::Working) {
            open.remove(id);
        }
    }

    /// A router has heard nothing for too long and waits no more.
    fn give_up(&mut self, at: usize) {
        let participant = self.random.below(self.commits[at].wires.len());
        let Commit { wires, stage, .. } = &mut self.commits[at];
        let wire = &mut wires[participant];
        if *stage == Stage::Runs && wire.end == ServerEnd::Open && wire.asked {
            // What came in this moment is not read any more.
            wire.from.clear();
            wire.from.push_back(Event::Lost(participant));
            wire.end = ServerEnd::Unheard;
        }
    }

    fn freeze_or_wake(&mut self) {
        let at = self.random.below(self.shards.len());
        self.shards[at].frozen = self.random.chance(40);
    }

    fn is_frozen(&self, shard: usize) -> bool {
        self.shards.get(shard).is_some_and(|shard| shard.frozen)
    }

    fn crash_shard(&mut self) {
        let at = self.random.below(self.shards.len());
        self.shards[at].open.clear();
        self.shards[at].frozen = false;
        for commit in 0..self.commits.len() {
            for participant in 0..self.commits[commit].wires.len() {
                if self.commits[commit].wires[participant].shard == at {
                    self.break_wire(commit, participant);
                }
            }
        }
    }

    /// The router of a commit dies; what it has sent may still be read.
    fn crash_commit(&mut self, at: usize) {
        self.commits[at].stage = Stage::Over;
        for wire in &mut self.commits[at].wires {
            if self.random.chance(50) {
                wire.to.clear();
            }
        }
    }

    /// Servers notice that their client has gone.
    fn end_sessions(&mut self, at: usize) {
        let Commit { id, wires, stage, .. } = &mut self.commits[at];
        for wire in wires.iter_mut().filter(|wire| *stage == Stage::Over || wire.end == ServerEnd::Unheard) {
            let Shard { open, frozen, .. } = &mut self.shards[wire.shard];
            if !*frozen && open.get(id) == Some(&Open::Working) && wire.to.is_empty() {
                open.remove(id);
                // What the router has not read yet it still reads.
                wire.end = ServerEnd::Broken;
            }
        }
    }

    fn is_at_rest(&self) -> bool {
        self.commits.iter().all(|commit| commit.stage == Stage::Over)
            && self.shards.iter().all(|shard| shard.prepared.is_empty() && shard.open.is_empty())
    }

    fn applied(&self, commit: &Commit) -> usize {
        commit.wires.iter().filter(|wire| self.shards[wire.shard].applied.contains(&commit.id)).count()
    }

    fn check(&self, seed: u64) {
        for commit in &self.commits {
            let applied = self.applied(commit);
            let whole = applied == 0 || applied == commit.wires.len();
            assert!(whole, "seed {seed}: {} is applied on {applied} of {} shards", commit.id, commit.wires.len());
            match commit.told {
                Some(Outcome::Committed) => assert!(applied > 0, "seed {seed}: an acknowledged commit is lost"),
                Some(Outcome::RolledBack) => assert_eq!(applied, 0, "seed {seed}: what was told to be undone is there"),
                Some(Outcome::Unknown) | None => {}
            }
        }
    }
}

impl Wire {
    fn answers(&mut self, event: Event) {
        if self.end == ServerEnd::Open {
            self.from.push_back(event);
        }
    }
}

impl Shard {
    /// As `INSERT ... ON CONFLICT DO NOTHING` and a look; nothing while another's insert is under way.
    fn decide(&mut self, id: TransactionId) -> Option<Decision> {
        if self.open.get(&id) == Some(&Open::Inserted) {
            return None;
        }
        Some(*self.decisions.entry(id).or_insert(Decision::Abort))
    }

    fn end(&mut self, id: TransactionId, commits: bool) {
        if self.prepared.remove(&id).is_some() && commits {
            self.applied.insert(id);
        }
    }
}

fn seeds() -> std::ops::Range<u64> {
    let given = std::env::var("SEEDS").ok();
    let parse = |text: &str| {
        let (from, to) = text.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    };
    given.as_deref().and_then(parse).unwrap_or(0..20_000)
}

#[test]
fn transactions_are_whole_whatever_breaks() {
    let (mut committed, mut undone, mut unknown, mut left) = (0, 0, [0, 0], 0);
    for seed in seeds() {
        let mut world = World::new(seed);
        (0..STEPS).for_each(|_| world.step(true));
        world.shards.iter_mut().for_each(|shard| shard.frozen = false);
        let mut steps = 0;
        while !world.is_at_rest() {
            (0..world.commits.len()).for_each(|at| world.end_sessions(at));
            world.step(false);
            steps += 1;
            assert!(steps < STEPS_AT_PEACE_MAX, "seed {seed}: something is never resolved");
        }
        world.check(seed);
        for commit in &world.commits {
            match commit.told {
                Some(Outcome::Committed) => committed += 1,
                Some(Outcome::RolledBack) => undone += 1,
                Some(Outcome::Unknown) => unknown[usize::from(world.applied(commit) > 0)] += 1,
                None => left += 1,
            }
        }
    }
    // Every way to end is taken, or the test tells nothing.
    let ways = [committed, undone, unknown[0], unknown[1], left];
    assert!(ways.iter().all(|count| *count > 0), "{ways:?}");
}
