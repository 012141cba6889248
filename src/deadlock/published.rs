//! Deadlocks through clients of several routers: each publishes which servers belong to one transaction, and
//! all draw the same conclusion from what they read.
//!
//! Pure. An entry names the waits of its transaction by process and beginning. While such a wait lasts, its
//! transaction can neither end nor give a server back; so what was published before still holds when the locks,
//! *read later*, show the same wait. An entry whose waits have all ended says nothing any more, whatever its
//! processes do now. One that its router does not renew says nothing either ([`EXPIRY`]): when a router has died,
//! its servers are no longer one transaction's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::{Need, Party, WaitGraph};

/// Older entries do not count; routers renew theirs several times in this time.
pub const EXPIRY: Duration = Duration::from_millis(1500);

/// A process that waits for a lock, as its instance tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockWait {
    pub pid: i32,
    /// The beginning, in microseconds since 1970 by the instance's clock.
    pub since: i64,
    pub wait: Duration,
    /// In PostgreSQL's words: `ShareLock on transaction 745`.
    pub what: String,
    /// Who holds it, or is before the process in the queue for it; 0 for a prepared transaction.
    pub blockers: Vec<i32>,
}

/// One server of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The identity of the shard.
    pub shard: u64,
    pub pid: i32,
    /// The beginning of its wait for a lock, as in [`LockWait::since`].
    pub waits_since: Option<i64>,
}

/// A transaction of some router, as that router tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub router: u64,
    /// The client's number in its router.
    pub client: u64,
    /// The process id that the client was greeted with.
    pub pid: i32,
    /// The beginning of the transaction, in microseconds since 1970 by the clock of the shard where this is published.
    pub began: i64,
    /// How long ago it was published.
    pub age: Duration,
    pub members: Vec<Member>,
}

impl Published {
    pub fn party(&self) -> Party {
        Party::Published { router: self.router, client: self.client }
    }

    /// By which all routers know the youngest.
    pub fn order(&self) -> (i64, u64, u64) {
        (self.began, self.router, self.client)
    }
}

/// `shard:pid:since` for each, with commas between; without `:since` when it does not wait.
pub fn write_members(members: &[Member]) -> String {
    let mut text = String::new();
    for member in members {
        let comma = if text.is_empty() { "" } else { "," };
        let since = member.waits_since.map(|since| format!(":{since}")).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = write!(text, "{comma}{:016x}:{}{since}", member.shard, member.pid);
    }
    text
}

/// Reads what [`write_members`] has written; `None` for anything else.
pub fn read_members(text: &str) -> Option<Vec<Member>> {
    let read = |member: &str| {
        let mut parts = member.split(':');
        let shard = u64::from_str_radix(parts.next()?, 16).ok()?;
        let pid = parts.next()?.parse().ok()?;
        let waits_since = parts.next().map(str::parse).transpose().ok()?;
        parts.next().is_none().then_some(Member { shard, pid, waits_since })
    };
    text.split(',').map(read).collect()
}

/// Where a shard is.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// By position among the instances whose locks were read.
    pub instance: usize,
    /// As it is called in words.
    pub name: &'a str,
}

/// Who waits for whom, by entries and by the locks of each instance, which were read after them. What one PostgreSQL
/// sees by itself is left to it.
pub fn graph<'a>(
    entries: &[Published],
    locks: &[Vec<LockWait>],
    place: impl Fn(u64) -> Option<Place<'a>>,
) -> WaitGraph {
    let still_waits = |member: &Member| {
        let waits = place(member.shard).and_then(|place| locks.get(place.instance));
        waits.is_some_and(|waits| {
            waits.iter().any(|wait| wait.pid == member.pid && Some(wait.since) == member.waits_since)
        })
    };
    let counts = |entry: &&Published| entry.age <= EXPIRY && entry.members.iter().any(still_waits);
    let mut owners: BTreeMap<(usize, i32), (Party, &str)> = BTreeMap::new();
    for entry in entries.iter().filter(counts) {
        for member in &entry.members {
            if let Some(place) = place(member.shard) {
                owners.insert((place.instance, member.pid), (entry.party(), place.name));
            }
        }
    }
    let mut graph = WaitGraph::default();
    for (instance, waits) in locks.iter().enumerate() {
        let left_to_postgresql = stuck_within(instance, waits);
        let party = |pid| owners.get(&(instance, pid)).map_or(Party::Process { instance, pid }, |(party, _)| *party);
        for wait in waits.iter().filter(|wait| !left_to_postgresql.contains(&wait.pid)) {
            let shard = owners.get(&(instance, wait.pid)).map_or("", |(_, name)| *name);
            for blocker in &wait.blockers {
                let need = Need {
                    what: format!("{} on shard \"{shard}\"", wait.what),
                    mark: format!("{} {}", wait.pid, wait.since),
                    any_of: [party(*blocker)].into(),
                };
                graph.add(party(wait.pid), need);
            }
        }
    }
    graph
}

/// The processes that wait, over some steps, for a ring within the one PostgreSQL, which will break it.
pub fn stuck_within(instance: usize, locks: &[LockWait]) -> Vec<i32> {
    let mut graph = WaitGraph::default();
    for wait in locks {
        for blocker in &wait.blockers {
            let any_of = [Party::Process { instance, pid: *blocker }].into();
            let need = Need { what: String::new(), mark: String::new(), any_of };
            graph.add(Party::Process { instance, pid: wait.pid }, need);
        }
    }
    let pid = |party| match party {
        Party::Process { pid, .. } => Some(pid),
        Party::Client(_) | Party::Published { .. } => None,
    };
    graph.stuck().into_iter().filter_map(pid).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, VecDeque};

    use proptest::prelude::*;

    use super::*;

    fn member(shard: u64, pid: i32, waits_since: Option<i64>) -> Member {
        Member { shard, pid, waits_since }
    }

    fn entry(router: u64, client: u64, began: i64, members: &[Member]) -> Published {
        Published { router, client, pid: 0, began, age: Duration::ZERO, members: members.to_vec() }
    }

    fn wait(pid: i32, since: i64, blockers: &[i32]) -> LockWait {
        LockWait { pid, since, wait: Duration::ZERO, what: "a lock".to_owned(), blockers: blockers.to_vec() }
    }

    /// Every shard is an instance of its own, with its number as identity.
    fn place(shard: u64) -> Option<Place<'static>> {
        Some(Place { instance: usize::try_from(shard).ok()?, name: "s" })
    }

    fn victims(entries: &[Published], locks: &[Vec<LockWait>]) -> Vec<Party> {
        let order = |party| entries.iter().find(|entry| entry.party() == party).map(Published::order);
        graph(entries, locks, place).victims(order).into_iter().map(|victim| victim.party).collect()
    }

    /// The first transaction has pid 1 on both shards, the second pid 2; each waits for the other.
    fn crossed() -> (Vec<Published>, Vec<Vec<LockWait>>) {
        let entries = vec![
            entry(7, 1, 100, &[member(0, 1, None), member(1, 1, Some(1000))]),
            entry(8, 1, 200, &[member(0, 2, Some(1001)), member(1, 2, None)]),
        ];
        (entries, vec![vec![wait(2, 1001, &[1])], vec![wait(1, 1000, &[2])]])
    }

    #[test]
    fn the_younger_of_two_that_cross_gives_up_whoever_looks() {
        let (mut entries, locks) = crossed();
        let younger = Party::Published { router: 8, client: 1 };
        assert_eq!(victims(&entries, &locks), [younger]);
        entries.reverse();
        assert_eq!(victims(&entries, &locks), [younger]);
        entries.iter_mut().for_each(|entry| entry.began = 5);
        assert_eq!(victims(&entries, &locks), [younger], "of the same age, one is chosen by all");
        assert!(victims(&entries[..1], &locks).is_empty(), "nobody knows the other's");
    }

    #[test]
    fn an_entry_counts_while_its_wait_lasts() {
        let (mut entries, mut locks) = crossed();
        locks[1][0].since = 1002;
        assert!(victims(&entries, &locks).is_empty(), "the process has a later wait: it may be another's by now");
        locks[1][0].since = 1000;
        entries[0].age = EXPIRY + Duration::from_millis(1);
        assert!(victims(&entries, &locks).is_empty(), "its router does not renew it");
    }

    #[test]
    fn a_ring_within_one_postgresql_is_left_to_it() {
        let entries = [
            entry(7, 1, 100, &[member(0, 1, Some(10)), member(1, 1, None)]),
            entry(8, 1, 200, &[member(0, 2, Some(11)), member(1, 2, None)]),
        ];
        assert!(victims(&entries, &[vec![wait(1, 10, &[2]), wait(2, 11, &[1])], vec![]]).is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_no_member() {
        for text in ["", "1", "x:1", "1:x", "1:1:", "1:1:1:1", "1:1,"] {
            assert_eq!(read_members(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn members_are_read_as_they_were_written(
            members in proptest::collection::vec((any::<u64>(), any::<i32>(), any::<Option<i64>>()), 1..5)
        ) {
            let members: Vec<Member> = members.into_iter().map(|(shard, pid, since)| member(shard, pid, since)).collect();
            prop_assert_eq!(read_members(&write_members(&members)), Some(members));
        }
    }

    const SHARDS: u64 = 3;
    const ROUTERS: u64 = 3;
    const LOCKS: u64 = 4;

    /// A transaction that takes locks in the order of its list, on a process of its own for each shard.
    struct Transaction {
        router: u64,
        client: u64,
        began: i64,
        todo: VecDeque<(u64, u64)>,
        pids: BTreeMap<u64, i32>,
        /// The lock it waits for, and since when.
        waits: Option<((u64, u64), i64)>,
    }

    /// What one router has seen up to now. The shards are asked one after another.
    #[derive(Default)]
    struct Look {
        /// What the first round of all has shown, which ended at that time.
        before: Option<(WaitGraph, i64)>,
        entries: Option<Vec<Published>>,
        locks: Vec<Vec<LockWait>>,
    }

    /// Shards, transactions of several routers and their looks, in an order that a seed gives.
    struct World {
        random: u64,
        clock: i64,
        transactions: Vec<Transaction>,
        /// For each lock, its holder and those who wait for it in order, by client.
        locks: BTreeMap<(u64, u64), VecDeque<u64>>,
        table: BTreeMap<u64, Vec<Published>>,
        looks: Vec<Look>,
        next_client: u64,
        /// Until when a transaction was stuck that others have freed by giving up.
        stuck_until: BTreeMap<u64, i64>,
        /// A router that does not look for a while; none when there is no such.
        asleep: u64,
        found: usize,
        /// Those of them who were free by another's end when they were told.
        in_vain: usize,
    }

    impl World {
        fn below(&mut self, n: u64) -> u64 {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.random % n
        }

        fn step(&mut self) {
            self.clock += 1;
            match self.below(12) {
                10 if self.below(20) == 0 => self.asleep = self.below(ROUTERS + 1),
                10 => self.break_within(),
                0 if self.transactions.len() < 8 => self.begin(),
                1..6 if !self.transactions.is_empty() => {
                    let at = self.below(self.transactions.len() as u64);
                    self.go_on(usize::try_from(at).unwrap());
                }
                _ => {
                    let router = self.below(ROUTERS);
                    if router != self.asleep {
                        self.look(router);
                    }
                }
            }
        }

        fn begin(&mut self) {
            self.next_client += 1;
            let (router, client) = (self.below(ROUTERS), self.next_client);
            let todo = (0..2 + self.below(4)).map(|_| (self.below(SHARDS), self.below(LOCKS))).collect();
            let (began, pids, waits) = (self.clock, BTreeMap::new(), None);
            self.transactions.push(Transaction { router, client, began, todo, pids, waits });
        }

        /// Takes the next lock, or ends.
        fn go_on(&mut self, at: usize) {
            if self.transactions[at].waits.is_some() {
                return;
            }
            let Some(lock) = self.transactions[at].todo.pop_front() else { return self.end(at) };
            let used: BTreeSet<i32> =
                self.transactions.iter().filter_map(|other| other.pids.get(&lock.0).copied()).collect();
            let transaction = &mut self.transactions[at];
            // Processes are soon another transaction's, as in a pool.
            transaction.pids.entry(lock.0).or_insert_with(|| (1..).find(|pid| !used.contains(pid)).unwrap());
            let queue = self.locks.entry(lock).or_default();
            if queue.contains(&transaction.client) {
                return;
            }
            if !queue.is_empty() {
                transaction.waits = Some((lock, self.clock));
            }
            queue.push_back(transaction.client);
        }

        fn end(&mut self, at: usize) {
            let gone = self.transactions.remove(at);
            for (lock, queue) in &mut self.locks {
                queue.retain(|client| *client != gone.client);
                let Some(first) = queue.front() else { continue };
                let next = self.transactions.iter_mut().find(|transaction| transaction.client == *first).unwrap();
                next.waits.take_if(|(waits_for, _)| waits_for == lock);
            }
        }

        /// PostgreSQL breaks what it sees of rings.
        fn break_within(&mut self) {
            for (shard, waits) in self.locks_read().iter().enumerate() {
                let Some(pid) = stuck_within(shard, waits).into_iter().next_back() else { continue };
                let is_it = |other: &Transaction| other.pids.get(&(shard as u64)) == Some(&pid);
                if let Some(at) = self.transactions.iter().position(is_it) {
                    return self.give_up(at);
                }
            }
        }

        /// Those who wait for a lock wait for all before them.
        fn locks_read(&self) -> Vec<Vec<LockWait>> {
            let mut locks = vec![Vec::new(); usize::try_from(SHARDS).unwrap()];
            for transaction in &self.transactions {
                let Some((lock, since)) = transaction.waits else { continue };
                let pid = |client: &u64| {
                    self.transactions.iter().find(|other| other.client == *client).unwrap().pids[&lock.0]
                };
                let before = self.locks[&lock].iter().take_while(|client| **client != transaction.client);
                let blockers: Vec<i32> = before.map(pid).collect();
                locks[usize::try_from(lock.0).unwrap()].push(wait(transaction.pids[&lock.0], since, &blockers));
            }
            locks
        }

        fn entries_of(&self, router: u64) -> Vec<Published> {
            let waiting = self.transactions.iter().filter(|other| other.router == router && other.waits.is_some());
            let entry = |transaction: &Transaction| {
                let (lock, since) = transaction.waits.unwrap();
                let members = transaction.pids.iter();
                let members = members.map(|(shard, pid)| member(*shard, *pid, (*shard == lock.0).then_some(since)));
                entry(router, transaction.client, transaction.began, &members.collect::<Vec<_>>())
            };
            waiting.map(entry).collect()
        }

        /// The next of a router's steps: publish and read, read the locks of each shard, the same again, judge.
        fn look(&mut self, router: u64) {
            let at = usize::try_from(router).unwrap();
            let mut look = std::mem::take(&mut self.looks[at]);
            let shard = look.locks.len();
            if look.entries.is_none() {
                self.table.insert(router, self.entries_of(router));
                look.entries = Some(self.table.values().flatten().cloned().collect());
            } else if shard < usize::try_from(SHARDS).unwrap() {
                look.locks.push(self.locks_read().swap_remove(shard));
            } else {
                let entries = look.entries.take().unwrap();
                let now = graph(&entries, &look.locks, place);
                match look.before.take() {
                    None => look = Look { before: Some((now, self.clock)), ..Look::default() },
                    Some((before, since)) => {
                        look = Look::default();
                        self.judge(router, &now.lasting(&before), &entries, since);
                    }
                }
            }
            self.looks[at] = look;
        }

        fn judge(&mut self, router: u64, lasting: &WaitGraph, entries: &[Published], since: i64) {
            let order = |party| entries.iter().find(|entry| entry.party() == party).map(Published::order);
            for victim in lasting.victims(order) {
                let Party::Published { router: other, client } = victim.party else { continue };
                let at = self.transactions.iter().position(|transaction| transaction.client == client);
                let Some(at) = at.filter(|_| other == router) else { continue };
                if !self.is_stuck(client) {
                    let until = self.stuck_until.get(&client).copied().unwrap_or(0);
                    assert!(until >= since, "{client} gives up that could go on");
                    self.in_vain += 1;
                }
                self.found += 1;
                self.give_up(at);
                return;
            }
        }

        fn give_up(&mut self, at: usize) {
            let all = self.transactions.iter().map(|transaction| transaction.client);
            let stuck: Vec<u64> = all.filter(|client| self.is_stuck(*client)).collect();
            self.stuck_until.extend(stuck.into_iter().map(|client| (client, self.clock)));
            self.end(at);
        }

        /// Whether it can never go on, by the world's own knowledge.
        fn is_stuck(&self, client: u64) -> bool {
            let mut ended: BTreeSet<u64> = BTreeSet::new();
            loop {
                let can_end = |transaction: &&Transaction| {
                    !ended.contains(&transaction.client)
                        && transaction.waits.is_none_or(|(lock, _)| {
                            let mut before = self.locks[&lock].iter().take_while(|other| **other != transaction.client);
                            before.all(|other| ended.contains(other))
                        })
                };
                let next: Vec<u64> = self.transactions.iter().filter(can_end).map(|found| found.client).collect();
                if next.is_empty() {
                    return !ended.contains(&client);
                }
                ended.extend(next);
            }
        }
    }

    /// Nobody gives up who could go on, and in the end all rings are broken.
    #[test]
    fn routers_that_look_at_any_moment_break_every_ring_and_nothing_else() {
        let (mut found, mut in_vain) = (0, 0);
        for seed in 1..=100 {
            let mut world = World {
                random: u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15),
                clock: 0,
                transactions: Vec::new(),
                locks: BTreeMap::new(),
                table: BTreeMap::new(),
                looks: (0..ROUTERS).map(|_| Look::default()).collect(),
                next_client: 0,
                stuck_until: BTreeMap::new(),
                asleep: 0,
                in_vain: 0,
                found: 0,
            };
            for _ in 0..4000 {
                world.step();
            }
            for _ in 0..4000 {
                world.clock += 1;
                match world.below(20) {
                    0 => world.break_within(),
                    1..10 if !world.transactions.is_empty() => {
                        let at = world.below(world.transactions.len() as u64);
                        world.go_on(usize::try_from(at).unwrap());
                    }
                    _ => {
                        let router = world.below(ROUTERS);
                        world.look(router);
                    }
                }
            }
            assert!(world.transactions.is_empty(), "seed {seed}: a ring is left");
            found += world.found;
            in_vain += world.in_vain;
        }
        println!("{found} found, {in_vain} in vain");
        assert!(in_vain * 20 < found, "{in_vain} of {found} gave up in vain");
        assert!(found > 400, "only {found} rings were there to be found");
    }
}
