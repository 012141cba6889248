//! What one worker knows of the statements it serves, by shape: for SHOW QUERIES, and to tell what a
//! client is doing.
//!
//! Nobody else writes or reads here: a reader asks the worker for a copy and adds the workers up.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroU64;
use std::rc::Rc;

use pgsluice_sharding::sql::shape::Shape;

use crate::stats::{Ended, QueryCounts};

/// A shape as its statement began. When it has made room for another meanwhile, it counts nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryId {
    slot: u32,
    key: NonZeroU64,
}

/// One shape of one database.
#[derive(Clone, Debug)]
pub struct Query {
    key: NonZeroU64,
    pub database: Rc<str>,
    pub text: Box<str>,
    pub counts: Box<QueryCounts>,
    /// Calls; those of long ago count less.
    use_count: u64,
}

/// The shapes of one worker, all databases together.
#[derive(Debug)]
pub struct Queries {
    slots: Vec<Query>,
    by_key: HashMap<NonZeroU64, u32, BuildHasherDefault<KeyHash>>,
    shapes_max: usize,
    forgotten: u64,
    /// How many went since all use counts were halved.
    since_halving: usize,
}

/// What goes at once when there is no more room: this part of all shapes.
const SWEEP_PART: usize = 8;

impl Queries {
    /// Keeps at most `shapes_max` shapes, at least one.
    pub fn new(shapes_max: usize) -> Self {
        Self {
            slots: Vec::new(),
            by_key: HashMap::default(),
            shapes_max: shapes_max.max(1),
            forgotten: 0,
            since_halving: 0,
        }
    }

    /// Another bound; the least used shapes go when there are too many.
    pub fn set_max(&mut self, shapes_max: usize) {
        self.shapes_max = shapes_max.max(1);
        let surplus = self.slots.len().saturating_sub(self.shapes_max);
        if surplus > 0 {
            self.sweep(surplus);
            self.slots.shrink_to_fit();
        }
    }

    /// A statement of this shape begins on the database whose [`salt`] this is.
    #[inline]
    pub fn begin(&mut self, salt: u64, database: &Rc<str>, shape: &Shape) -> QueryId {
        let key = key(salt, shape);
        match self.by_key.get(&key) {
            Some(slot) => QueryId { slot: *slot, key },
            None => self.enter(key, database, shape),
        }
    }

    #[cold]
    fn enter(&mut self, key: NonZeroU64, database: &Rc<str>, shape: &Shape) -> QueryId {
        if self.slots.len() >= self.shapes_max {
            self.sweep((self.shapes_max / SWEEP_PART).max(1));
        }
        let slot = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        let (database, text) = (database.clone(), shape.text.clone());
        self.slots.push(Query { key, database, text, counts: Box::default(), use_count: 1 });
        self.by_key.insert(key, slot);
        QueryId { slot, key }
    }

    /// A statement has ended; false when nobody counts it any more.
    #[inline]
    pub fn end(&mut self, id: QueryId, ended: Ended) -> bool {
        let slot = if self.is_at(id) { id.slot } else { self.by_key.get(&id.key).copied().unwrap_or(u32::MAX) };
        let Some(query) = self.slots.get_mut(slot as usize) else { return false };
        query.use_count += 1;
        query.counts.add(ended);
        true
    }

    /// Whether a shape is still where it was when its statement began.
    fn is_at(&self, id: QueryId) -> bool {
        self.slots.get(id.slot as usize).is_some_and(|query| query.key == id.key)
    }

    /// The text of a shape; `None` when it has made room for another.
    pub fn text(&self, id: QueryId) -> Option<&str> {
        let slot = if self.is_at(id) { id.slot } else { *self.by_key.get(&id.key)? };
        self.slots.get(slot as usize).map(|query| &*query.text)
    }

    /// Forgets the `n` least used shapes.
    fn sweep(&mut self, n: usize) {
        // Of two that are used alike, the newer stays.
        self.slots.reverse();
        self.slots.sort_by_key(|query| std::cmp::Reverse(query.use_count));
        self.slots.truncate(self.slots.len().saturating_sub(n));
        self.forgotten += n as u64;
        self.since_halving += n;
        let halves = self.since_halving >= self.shapes_max;
        if halves {
            self.since_halving = 0;
        }
        self.by_key.clear();
        for (slot, query) in self.slots.iter_mut().enumerate() {
            if halves {
                query.use_count /= 2;
            }
            self.by_key.insert(query.key, u32::try_from(slot).unwrap_or(u32::MAX));
        }
    }

    /// How many shapes were forgotten since this was asked last.
    #[inline]
    pub fn take_forgotten(&mut self) -> u64 {
        std::mem::take(&mut self.forgotten)
    }

    /// All shapes with the keys that are theirs on every worker.
    pub fn iter(&self) -> impl Iterator<Item = (NonZeroU64, &Query)> {
        self.slots.iter().map(|query| (query.key, query))
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub fn max(&self) -> usize {
        self.shapes_max
    }

    /// An estimate of the memory that they hold.
    pub fn bytes(&self) -> usize {
        let texts: usize = self.slots.iter().map(|query| query.text.len()).sum();
        self.slots.capacity() * size_of::<Query>()
            + self.slots.len() * size_of::<QueryCounts>()
            + self.by_key.capacity() * 16
            + texts
    }
}

fn key(salt: u64, shape: &Shape) -> NonZeroU64 {
    NonZeroU64::new(shape.id ^ salt).unwrap_or(NonZeroU64::MIN)
}

impl QueryId {
    /// Whether it is the one that [`Queries::begin`] gave, or would give but for its place.
    #[inline]
    pub fn is_of(self, salt: u64, shape: &Shape) -> bool {
        self.key == key(salt, shape)
    }
}

/// Tells the shapes of one database from those of another, the same on every worker.
pub fn salt(database: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(database.as_bytes())
}

/// The keys are hashes already.
#[derive(Debug, Default)]
pub struct KeyHash(u64);

impl Hasher for KeyHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxhash_rust::xxh3::xxh3_64(bytes);
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(rows: u64, shards: usize) -> Ended {
        Ended { rows, failed: rows == 0, shards, total_us: 3000, waited_us: 1000 }
    }

    fn count(queries: &mut Queries, database: &str, text: &str, n: u64) -> QueryId {
        let mut id = None;
        for rows in 0..n {
            let begun = queries.begin(salt(database), &database.into(), &Shape::of(text));
            assert!(queries.end(begun, ended(rows, 1 + usize::from(rows == 0))));
            id = Some(begun);
        }
        id.expect("at least one")
    }

    #[test]
    fn calls_of_one_shape_are_counted_together_and_by_database() {
        let mut queries = Queries::new(10);
        let id = count(&mut queries, "a", "SELECT 1", 3);
        assert_eq!(count(&mut queries, "a", "SELECT 2 -- x", 1), id);
        assert_ne!(count(&mut queries, "b", "SELECT 1", 1), id);
        let (_, query) = queries.iter().next().expect("one");
        let counts = &query.counts;
        assert_eq!((&*query.database, &*query.text), ("a", "SELECT $1"));
        assert_eq!((counts.calls, counts.rows, counts.errors), (4, 3, 2));
        assert_eq!((counts.one_shard, counts.shards, counts.time_us), (2, 6, 12_000));
        let middle = [&counts.total, &counts.waiting, &counts.server].map(|latency| latency.quantile(0.5));
        for (told, real) in middle.into_iter().zip([3000_u64, 1000, 2000]) {
            assert!(told.abs_diff(real) * 16 <= real, "{told}");
        }
        let mut sum = counts.clone();
        sum.merge(counts);
        assert_eq!((sum.calls, sum.total.quantile(0.9)), (8, counts.total.quantile(0.9)));
    }

    #[test]
    fn the_least_used_make_room_and_late_ends_count_for_nobody() {
        let mut queries = Queries::new(16);
        let often = count(&mut queries, "a", "SELECT often", 100_000);
        let once = queries.begin(0, &"a".into(), &Shape::of("SELECT running"));
        for n in 0..200 {
            count(&mut queries, "a", &format!("SELECT c{n}"), 2);
            assert!(queries.len() <= 16);
        }
        assert_eq!(queries.text(once), None);
        let calls = |queries: &Queries| queries.iter().map(|(_, query)| query.counts.calls).sum::<u64>();
        let before = calls(&queries);
        assert!(!queries.end(once, ended(1, 1)));
        assert_eq!(calls(&queries), before);
        let again = queries.begin(salt("a"), &"a".into(), &Shape::of("SELECT often"));
        assert_eq!((queries.text(again), again.key), (Some("SELECT often"), often.key));
        assert!(calls(&queries) >= 100_000, "what is used much stays");
        assert_eq!(queries.take_forgotten() + queries.len() as u64, 202);
        queries.set_max(3);
        assert_eq!((queries.len(), queries.max()), (3, 3));
    }
}
