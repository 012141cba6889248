//! Values of sequences, taken a block at a time from the shard where they are given out, and shared by all workers.
//!
//! A block is small while values are asked for seldom, and grows while they are asked for often. What is left of one is lost when the
//! router ends, or when somebody may have moved the sequence.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use pgsluice_sharding::catalog::SequenceName;
use tokio_postgres::SimpleQueryMessage;

use super::LoadError;
use super::watch::bounded;

/// A block that lasts less than this was too small.
const GROWTH_INTERVAL: Duration = Duration::from_secs(1);

/// A sequence that somebody has locked for longer gives no values.
const FILL_TIMEOUT: Duration = Duration::from_secs(10);

/// The values at hand of one database's sequences.
#[derive(Debug, Default)]
pub struct Blocks {
    sequences: Mutex<HashMap<SequenceName, Arc<Block>>>,
}

/// Of one sequence.
#[derive(Debug, Default)]
struct Block {
    values: Mutex<Values>,
    /// One question at a time, so that values stay in their order.
    filling: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Values {
    left: VecDeque<i64>,
    /// How many were asked for last.
    size: usize,
    filled: Option<Instant>,
    /// Who may take values.
    users: HashSet<Box<str>>,
}

/// Who asks for values.
#[derive(Clone, Copy, Debug)]
pub enum Asker<'a> {
    /// A user whose right to the sequence is checked.
    User(&'a str),
    /// A session in another role than it has logged in with.
    Role,
}

/// Why there are no values.
#[derive(Debug)]
pub enum NoValues {
    /// The user has no right to the sequence.
    Denied,
    /// The server said no, or could not be asked.
    Failed(LoadError),
}

impl Blocks {
    /// One value for every element of `out`, if so many are at hand.
    pub fn take_at_hand(&self, sequence: &SequenceName, asker: Asker<'_>, count: usize, out: &mut Vec<i64>) -> bool {
        let Some(block) = self.known(sequence) else { return false };
        block.take(asker, count, out)
    }

    /// The next `count` values of a sequence, which the server behind `pool` gives out: at most `block_max` more at a time than are asked
    /// for.
    ///
    /// # Errors
    /// See [`NoValues`].
    pub async fn take(
        &self,
        pool: &Pool,
        sequence: &SequenceName,
        asker: Asker<'_>,
        count: usize,
        block_max: usize,
        now: Instant,
    ) -> Result<Vec<i64>, NoValues> {
        let mut out = Vec::with_capacity(count);
        loop {
            let block = self.known_or_new(sequence);
            let filling = block.filling.lock().await;
            if block.take(asker, count, &mut out) {
                return Ok(out);
            }
            let missing = block.missing(count, block_max, now);
            let sql = question(sequence, asker, missing);
            let answer = bounded(pool, FILL_TIMEOUT, async |client| Ok(client.simple_query(&sql).await?)).await;
            let taken = values(&answer.map_err(NoValues::Failed)?);
            if taken.is_empty() {
                return Err(NoValues::Denied);
            }
            // What was forgotten meanwhile stays forgotten: the values go with the block.
            block.fill(asker, taken);
            drop(filling);
            if block.take(asker, count, &mut out) {
                return Ok(out);
            }
        }
    }

    /// Somebody may have moved a sequence: what is left of the blocks is not to be used.
    pub fn forget(&self) {
        lock(&self.sequences).clear();
    }

    fn known(&self, sequence: &SequenceName) -> Option<Arc<Block>> {
        lock(&self.sequences).get(sequence).cloned()
    }

    fn known_or_new(&self, sequence: &SequenceName) -> Arc<Block> {
        lock(&self.sequences).entry(sequence.clone()).or_default().clone()
    }
}

impl Block {
    fn take(&self, asker: Asker<'_>, count: usize, out: &mut Vec<i64>) -> bool {
        let mut values = lock(&self.values);
        let may = match asker {
            Asker::User(user) => values.users.contains(user),
            Asker::Role => true,
        };
        if !may || values.left.len() < count {
            return false;
        }
        out.extend(values.left.drain(..count));
        true
    }

    /// How many values to ask for.
    fn missing(&self, count: usize, block_max: usize, now: Instant) -> usize {
        let mut values = lock(&self.values);
        let quick = values.filled.is_some_and(|filled| now.saturating_duration_since(filled) < GROWTH_INTERVAL);
        values.size = if quick { values.size.saturating_mul(2) } else { values.size / 2 }.clamp(1, block_max.max(1));
        values.filled = Some(now);
        count.saturating_sub(values.left.len()).max(1).saturating_add(values.size - 1)
    }

    fn fill(&self, asker: Asker<'_>, taken: Vec<i64>) {
        let mut values = lock(&self.values);
        values.left.extend(taken);
        if let Asker::User(user) = asker {
            values.users.insert(user.into());
        }
    }
}

/// Asks for values; no more than the sequence has left, because an error would lose them. No row comes for who has no right to it.
fn question(sequence: &SequenceName, asker: Asker<'_>, count: usize) -> String {
    let right = match asker {
        Asker::User(user) => format!(
            " AND (pg_catalog.has_sequence_privilege({}::pg_catalog.name, s.seqrelid, 'USAGE,UPDATE') \
             OR EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid OPERATOR(pg_catalog.=) s.seqrelid \
               AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass \
               AND d.deptype OPERATOR(pg_catalog.=) 'i'))",
            literal(user)
        ),
        Asker::Role => String::new(),
    };
    let name = literal(&quoted(sequence));
    format!(
        "SELECT pg_catalog.nextval(s.seqrelid::pg_catalog.regclass) FROM pg_catalog.pg_sequence s \
         CROSS JOIN LATERAL (SELECT CASE WHEN s.seqcycle THEN {count} ELSE pg_catalog.floor(( \
           CASE WHEN s.seqincrement OPERATOR(pg_catalog.>) 0 THEN s.seqmax ELSE s.seqmin END::pg_catalog.numeric \
           OPERATOR(pg_catalog.-) COALESCE(pg_catalog.pg_sequence_last_value(s.seqrelid)::pg_catalog.numeric, \
             s.seqstart::pg_catalog.numeric OPERATOR(pg_catalog.-) s.seqincrement::pg_catalog.numeric)) \
           OPERATOR(pg_catalog./) s.seqincrement::pg_catalog.numeric) END) r(room) \
         CROSS JOIN LATERAL pg_catalog.generate_series(1, GREATEST(1, LEAST({count}, r.room))::pg_catalog.int4) \
         WHERE s.seqrelid OPERATOR(pg_catalog.=) {name}::pg_catalog.regclass{right}"
    )
}

/// Why a question had no answer.
pub fn reason(error: &tokio_postgres::Error) -> String {
    crate::control::reason(error)
}

/// A sequence as text for `regclass`.
pub fn quoted(sequence: &SequenceName) -> String {
    let part = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    format!("{}.{}", part(&sequence.schema), part(&sequence.name))
}

fn literal(text: &str) -> String {
    let mark = if text.contains('\\') { " E" } else { "" };
    format!("{mark}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

fn values(answer: &[SimpleQueryMessage]) -> Vec<i64> {
    let value = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    };
    answer.iter().filter_map(value).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: Asker<'_> = Asker::User("app");

    #[test]
    fn values_come_in_their_order_and_only_to_who_may_have_them() {
        let blocks = Blocks::default();
        let sequence = SequenceName { schema: "public".into(), name: "s".into() };
        let mut out = Vec::new();
        assert!(!blocks.take_at_hand(&sequence, WHO, 1, &mut out));
        blocks.known_or_new(&sequence).fill(WHO, vec![4, 5, 6]);
        assert!(blocks.take_at_hand(&sequence, WHO, 2, &mut out) && out == [4, 5]);
        assert!(!blocks.take_at_hand(&sequence, Asker::User("other"), 1, &mut out));
        assert!(!blocks.take_at_hand(&sequence, WHO, 2, &mut out), "too few");
        assert!(blocks.take_at_hand(&sequence, Asker::Role, 1, &mut out) && out == [4, 5, 6]);
        blocks.known_or_new(&sequence).fill(WHO, vec![7]);
        blocks.forget();
        assert!(!blocks.take_at_hand(&sequence, WHO, 1, &mut out));
    }

    #[test]
    fn blocks_grow_while_they_are_used_and_have_a_bound() {
        let (block, now) = (Block::default(), Instant::now());
        let sizes: Vec<usize> = (0..6).map(|_| block.missing(1, 8, now)).collect();
        assert_eq!(sizes, [1, 2, 4, 8, 8, 8]);
        assert_eq!(block.missing(1, 8, now + GROWTH_INTERVAL), 4, "a quiet time");
        assert_eq!(block.missing(100, 8, now + GROWTH_INTERVAL), 107, "more rows than a block has");
        block.fill(WHO, vec![1, 2]);
        assert_eq!(block.missing(3, 1, now), 1);
    }
}
