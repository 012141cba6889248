//! Who waits for whom, over all shards at one moment, and who must give up so that the others can go on.
//!
//! Pure. A transaction goes on when each of its [`Need`]s is met; a need is met when one of those it names ends. A lock of
//! PostgreSQL is held by one (several holders are several needs); a pool's queue goes on with whichever server comes back first.
//!
//! [`published`]: the same over the clients of several routers, by what those tell each other.

pub mod published;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A transaction, wherever its parts run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// A client of this router, by its number.
    Client(u64),
    /// A process of an instance (by position) that serves no client of this router.
    Process { instance: usize, pid: i32 },
    /// A client of any router, as that router tells all others of it.
    Published { router: u64, client: u64 },
}

/// What a party waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// In words, as they follow "waits for".
    pub what: String,
    /// What tells this wait from an earlier or later one of the same kind.
    pub mark: String,
    /// The end of one of them meets the need.
    pub any_of: BTreeSet<Party>,
}

/// The waits of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaitGraph {
    needs: BTreeMap<Party, Vec<Need>>,
}

/// One that must give up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    pub party: Party,
    /// A ring of waits: each needs the next, the last the first, which is the victim.
    pub ring: Vec<(Party, String)>,
}

impl WaitGraph {
    /// `party` goes on only when this need is met, too.
    pub fn add(&mut self, party: Party, need: Need) {
        self.needs.entry(party).or_default().push(need);
    }

    pub fn is_empty(&self) -> bool {
        self.needs.is_empty()
    }

    /// The waits of an earlier moment that last: what is in both has been all the time between them.
    #[must_use]
    pub fn lasting(mut self, earlier: &Self) -> Self {
        self.needs.retain(|party, needs| {
            let before = earlier.needs.get(party).map_or(&[][..], Vec::as_slice);
            needs.retain(|need| before.contains(need));
            !needs.is_empty()
        });
        self
    }

    /// Those who can never go on unless somebody gives up.
    pub fn stuck(&self) -> BTreeSet<Party> {
        self.stuck_without(&BTreeSet::new())
    }

    /// The clients that wait, over some steps, for a process that this router does not know, and for which such a process waits
    /// over some steps: a ring may pass through them that only several routers together can see.
    pub fn between_strangers(&self) -> BTreeSet<Party> {
        let mut waiting: BTreeMap<Party, BTreeSet<Party>> = BTreeMap::new();
        let mut waited_for: BTreeMap<Party, BTreeSet<Party>> = BTreeMap::new();
        for (party, needs) in &self.needs {
            for other in needs.iter().flat_map(|need| &need.any_of) {
                waiting.entry(*other).or_default().insert(*party);
                waited_for.entry(*party).or_default().insert(*other);
            }
        }
        // A process with number 0 is a prepared transaction, which waits for nobody.
        let strangers = || {
            let all = waiting.keys().chain(waited_for.keys()).copied();
            all.filter(|party| matches!(party, Party::Process { pid, .. } if *pid != 0))
        };
        let behind = all_beyond(strangers().collect(), &waiting);
        let ahead = all_beyond(strangers().collect(), &waited_for);
        behind.intersection(&ahead).copied().filter(|party| matches!(party, Party::Client(_))).collect()
    }

    /// The fewest that must give up, each the youngest of those whose end would help. `age` orders them, the youngest last;
    /// without an age a party cannot be made to give up.
    pub fn victims<A: Ord>(&self, age: impl Fn(Party) -> Option<A>) -> Vec<Victim> {
        let mut victims = Vec::new();
        // Those who give up, and those in knots that nobody here can untie.
        let mut gone = BTreeSet::new();
        loop {
            let stuck = self.stuck_without(&gone);
            let Some(knot) = self.knot(&stuck) else { return victims };
            let youngest = knot.iter().filter_map(|party| Some((age(*party)?, *party))).max();
            match youngest {
                Some((_, party)) => {
                    victims.push(Victim { party, ring: self.ring(party, &knot) });
                    gone.insert(party);
                }
                None => gone.extend(knot),
            }
        }
    }

    /// Whoever is left when all have gone on who can, those in `gone` first.
    fn stuck_without(&self, gone: &BTreeSet<Party>) -> BTreeSet<Party> {
        let mut stuck: BTreeSet<Party> = self.needs.keys().copied().filter(|party| !gone.contains(party)).collect();
        loop {
            let is_met = |need: &Need| need.any_of.iter().any(|other| !stuck.contains(other));
            let free: Vec<Party> = stuck.iter().copied().filter(|party| self.needs[party].iter().all(is_met)).collect();
            if free.is_empty() {
                return stuck;
            }
            for party in free {
                stuck.remove(&party);
            }
        }
    }

    /// A set of stuck parties in which each waits, over some steps, for each other and for nobody stuck outside.
    fn knot(&self, stuck: &BTreeSet<Party>) -> Option<BTreeSet<Party>> {
        // Whoever reaches fewest reaches no further knot: all that it reaches reaches it.
        stuck.iter().map(|party| self.reach(*party, stuck)).min_by_key(BTreeSet::len)
    }

    /// Whom `from` waits for, over some steps, among those stuck.
    fn reach(&self, from: Party, stuck: &BTreeSet<Party>) -> BTreeSet<Party> {
        let mut reached = BTreeSet::new();
        let mut todo = vec![from];
        while let Some(party) = todo.pop() {
            for (next, _) in self.unmet(party, stuck) {
                if reached.insert(next) {
                    todo.push(next);
                }
            }
        }
        reached
    }

    /// Whom a party waits for in vain, with what it waits for.
    fn unmet<'a>(&'a self, party: Party, stuck: &'a BTreeSet<Party>) -> impl Iterator<Item = (Party, &'a Need)> {
        let needs = self.needs.get(&party).into_iter().flatten();
        let unmet = needs.filter(|need| need.any_of.iter().all(|other| stuck.contains(other)));
        unmet.flat_map(|need| need.any_of.iter().map(move |other| (*other, need)))
    }

    /// The shortest ring of waits through a party of a knot.
    fn ring(&self, start: Party, knot: &BTreeSet<Party>) -> Vec<(Party, String)> {
        let mut came_from: BTreeMap<Party, (Party, String)> = BTreeMap::new();
        let mut todo = std::collections::VecDeque::from([start]);
        while let Some(party) = todo.pop_front() {
            for (next, need) in self.unmet(party, knot) {
                if let std::collections::btree_map::Entry::Vacant(free) = came_from.entry(next) {
                    free.insert((party, need.what.clone()));
                    todo.push_back(next);
                }
            }
        }
        let mut ring = Vec::new();
        let mut at = start;
        while let Some((before, what)) = came_from.get(&at) {
            ring.push((*before, what.clone()));
            at = *before;
            if at == start {
                break;
            }
        }
        ring.reverse();
        ring
    }
}

impl Victim {
    /// PostgreSQL's detail of a deadlock, one line per wait; `pid` names a party.
    pub fn detail(&self, pid: impl Fn(Party) -> i32) -> String {
        let mut text = String::new();
        for (at, (party, what)) in self.ring.iter().enumerate() {
            let next = self.ring[(at + 1) % self.ring.len()].0;
            let line = Line { pid: pid(*party), what, next: pid(next) };
            text.push_str(if at == 0 { "" } else { "\n" });
            text.push_str(&line.to_string());
        }
        text
    }
}

/// Those whom some of `todo` lead to, over one step or more.
fn all_beyond(mut todo: Vec<Party>, steps: &BTreeMap<Party, BTreeSet<Party>>) -> BTreeSet<Party> {
    let mut found = BTreeSet::new();
    while let Some(party) = todo.pop() {
        todo.extend(steps.get(&party).into_iter().flatten().copied().filter(|next| found.insert(*next)));
    }
    found
}

struct Line<'a> {
    pid: i32,
    what: &'a str,
    next: i32,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process {} waits for {}; blocked by process {}.", self.pid, self.what, self.next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(id: u64) -> Party {
        Party::Client(id)
    }

    fn need(what: &str, any_of: &[u64]) -> Need {
        Need { what: what.to_owned(), mark: String::new(), any_of: any_of.iter().map(|id| client(*id)).collect() }
    }

    fn graph(waits: &[(u64, &[u64])]) -> WaitGraph {
        let mut graph = WaitGraph::default();
        for (party, any_of) in waits {
            graph.add(client(*party), need(&format!("lock {party}"), any_of));
        }
        graph
    }

    /// Of whom a higher number is younger.
    fn victims(graph: &WaitGraph) -> Vec<Party> {
        let by_number = |party| match party {
            Party::Client(id) => Some(id),
            Party::Process { .. } | Party::Published { .. } => None,
        };
        graph.victims(by_number).into_iter().map(|victim| victim.party).collect()
    }

    #[test]
    fn the_youngest_of_a_ring_gives_up_and_nobody_else() {
        let crossed = graph(&[(1, &[2]), (2, &[1]), (3, &[1]), (4, &[3])]);
        assert_eq!(crossed.stuck().len(), 4);
        assert_eq!(victims(&crossed), [client(2)], "those who only wait for the ring stay");
        let ring = graph(&[(1, &[2]), (2, &[3]), (3, &[1])]);
        assert_eq!(victims(&ring), [client(3)]);
    }

    #[test]
    fn where_there_is_no_ring_nobody_gives_up() {
        let chain = graph(&[(1, &[2]), (2, &[3]), (4, &[2])]);
        assert!(chain.stuck().is_empty() && victims(&chain).is_empty());
    }

    #[test]
    fn a_queue_goes_on_with_any_of_those_it_waits_for() {
        assert!(victims(&graph(&[(1, &[2, 9]), (2, &[1])])).is_empty(), "9 will end");
        assert_eq!(victims(&graph(&[(1, &[2, 3]), (2, &[1]), (3, &[1])])), [client(3)], "one is enough");
        let mut both = graph(&[(1, &[2]), (2, &[1])]);
        both.add(client(1), need("another lock", &[9]));
        assert_eq!(victims(&both), [client(2)], "a need that will be met does not help with the other");
    }

    #[test]
    fn two_knots_have_a_victim_each() {
        assert_eq!(victims(&graph(&[(1, &[2]), (2, &[1]), (3, &[4]), (4, &[3])])), [client(2), client(4)]);
    }

    #[test]
    fn what_this_router_cannot_end_is_left_to_others() {
        let other = |pid| Party::Process { instance: 0, pid };
        let mut foreign = graph(&[(1, &[2]), (2, &[1])]);
        for (from, to) in [(5, 6), (6, 5)] {
            foreign.add(other(from), Need { any_of: [other(to)].into(), ..need("", &[]) });
        }
        assert_eq!(victims(&foreign), [client(2)]);
    }

    #[test]
    fn only_those_between_strangers_may_be_in_a_ring_with_them() {
        let stranger = |pid| Party::Process { instance: 0, pid };
        let need_of = |other| Need { any_of: [other].into(), ..need("", &[]) };
        let mut graph = graph(&[(1, &[2]), (5, &[6])]);
        assert!(graph.between_strangers().is_empty());
        graph.add(stranger(7), need_of(client(1)));
        assert!(graph.between_strangers().is_empty(), "nobody waits for a stranger");
        graph.add(client(2), need_of(stranger(8)));
        graph.add(client(3), need_of(stranger(8)));
        assert_eq!(graph.between_strangers(), [client(1), client(2)].into());
        let mut prepared = WaitGraph::default();
        prepared.add(stranger(7), need_of(client(1)));
        prepared.add(client(1), need_of(stranger(0)));
        assert!(prepared.between_strangers().is_empty(), "a prepared transaction waits for nobody");
    }

    #[test]
    fn the_detail_is_postgresqls() {
        let crossed = graph(&[(1, &[2]), (2, &[1])]);
        let found = crossed.victims(Some).remove(0);
        let pid = |party| if party == client(1) { 101 } else { 102 };
        let expected = "Process 102 waits for lock 2; blocked by process 101.\n\
                        Process 101 waits for lock 1; blocked by process 102.";
        assert_eq!(found.detail(pid), expected);
    }

    #[test]
    fn only_waits_that_last_count() {
        let now = graph(&[(1, &[2]), (2, &[1])]);
        assert_eq!(victims(&now.clone().lasting(&now)), [client(2)]);
        let mut before = graph(&[(2, &[1])]);
        before.add(client(1), Need { mark: "earlier".to_owned(), ..need("lock 1", &[2]) });
        assert!(victims(&now.lasting(&before)).is_empty());
    }

    /// Whether all can end one after another, found by trying: `ended` is a set of bits.
    fn all_can_end(graph: &WaitGraph, parties: u64) -> u64 {
        let mut ended = 0_u64;
        for _ in 0..parties {
            for id in 0..parties {
                let is_met = |need: &Need| {
                    need.any_of.iter().any(|other| matches!(other, Party::Client(other) if ended & (1 << other) != 0))
                };
                if graph.needs.get(&client(id)).is_none_or(|needs| needs.iter().all(is_met)) {
                    ended |= 1 << id;
                }
            }
        }
        ended
    }

    proptest! {
        #[test]
        fn after_the_victims_have_given_up_all_go_on_and_none_gave_up_in_vain(
            waits in proptest::collection::vec((0_u64..8, proptest::collection::btree_set(0_u64..8, 1..4)), 0..16)
        ) {
            let mut graph = WaitGraph::default();
            for (party, any_of) in waits {
                let any_of: Vec<u64> = any_of.into_iter().filter(|other| *other != party).collect();
                if !any_of.is_empty() {
                    graph.add(client(party), need("", &any_of));
                }
            }
            let ended = all_can_end(&graph, 8);
            let stuck: BTreeSet<Party> = (0..8).filter(|id| ended & (1 << id) == 0).map(client).collect();
            prop_assert_eq!(graph.stuck(), stuck.clone());
            let found = graph.victims(Some);
            prop_assert_eq!(found.is_empty(), stuck.is_empty());
            let mut left = graph.clone();
            for victim in &found {
                prop_assert!(left.stuck().contains(&victim.party));
                prop_assert!(victim.ring.len() >= 2);
                prop_assert_eq!(victim.ring[0].0, victim.party);
                left.needs.remove(&victim.party);
            }
            prop_assert!(left.stuck().is_empty());
        }
    }
}
