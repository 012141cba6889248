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
