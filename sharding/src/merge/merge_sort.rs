//! Sorted streams -> one sorted stream, by a tournament between their first rows.
//!
//! ```text
//!            winner            every inner place keeps the loser of its game, so a new first row
//!           /      \           plays only against the losers on its way up: log2(n) comparisons
//!       loser      loser
//!       /   \      /   \
//!      0     1    2     3      first rows of the inputs, which stay there until they are taken
//! ```

use crate::merge::order_key::{OrderKey, Source};
use crate::merge::row::Row;
use crate::merge::{ShardInput, row};
use crate::refusal::Refusal;

/// What a source gives.
#[derive(Debug)]
pub(super) enum Pull<'a> {
    Row(&'a [u8]),
    Needs(usize),
    End,
}

/// Merges streams that are each sorted.
#[derive(Debug)]
pub(super) struct MergeSort {
    fields: usize,
    keys: Vec<OrderKey>,
    heads: Heads,
}

/// The keys of the first rows.
#[derive(Debug)]
enum Heads {
    /// One key of at most 64 bits.
    Short(Tournament<u128>),
    /// Anything else, as bytes.
    Long(Tournament<Vec<u8>>),
}

impl MergeSort {
    pub(super) fn new(keys: Vec<OrderKey>, fields: usize, inputs: usize) -> Self {
        let short = match keys.as_slice() {
            [OrderKey { source: Source::Column(column), .. }] => column.kind.is_short(),
            _ => false,
        };
        let heads = if short { Heads::Short(Tournament::new(inputs)) } else { Heads::Long(Tournament::new(inputs)) };
        Self { fields, keys, heads }
    }

    #[inline]
    pub(super) fn next<'a>(&mut self, inputs: &mut [ShardInput<'a>]) -> Result<Pull<'a>, Refusal> {
        let keys = self.keys.as_slice();
        match &mut self.heads {
            Heads::Short(heads) => heads.next(inputs, self.fields, |message, head| {
                if let [key] = keys
                    && let Source::Column(column) = key.source
                {
                    *head = key.short(column, message)?;
                }
                Ok(())
            }),
            Heads::Long(heads) => heads.next(inputs, self.fields, |message, head| {
                head.clear();
                keys.iter().try_for_each(|key| key.write(Row { message, results: &[] }, head))
            }),
        }
    }
}

/// A tree of losers over the first rows of the inputs.
#[derive(Debug)]
struct Tournament<K> {
    heads: Vec<Head<K>>,
    /// `losers[0]` is the winner; the others are inner places, children of `i` at `2i` and `2i + 1`.
    losers: Vec<usize>,
    /// How many inputs have shown their first row or their end; all must before anyone wins.
    shown: usize,
    /// The input whose first row was taken last.
    stale: Option<usize>,
}

#[derive(Clone, Debug)]
struct Head<K> {
    key: K,
    message_bytes: usize,
    ended: bool,
}

impl<K: Ord + Default + Clone> Tournament<K> {
    fn new(inputs: usize) -> Self {
        let head = Head { key: K::default(), message_bytes: 0, ended: false };
        Self { heads: vec![head; inputs], losers: vec![0; inputs], shown: 0, stale: None }
    }

    #[inline]
    fn next<'a>(
        &mut self,
        inputs: &mut [ShardInput<'a>],
        fields: usize,
        read: impl Fn(&[u8], &mut K) -> Result<(), Refusal>,
    ) -> Result<Pull<'a>, Refusal> {
        assert_eq!(inputs.len(), self.heads.len(), "a merge is called with the inputs it was made for");
        while self.shown < self.heads.len() {
            if !self.look(self.shown, inputs, fields, &read)? {
                return Ok(Pull::Needs(self.shown));
            }
            self.shown += 1;
            if self.shown == self.heads.len() {
                self.play_all();
            }
        }
        if let Some(stale) = self.stale {
            if !self.look(stale, inputs, fields, &read)? {
                return Ok(Pull::Needs(stale));
            }
            self.stale = None;
            self.play(stale);
        }
        let Some(&winner) = self.losers.first() else { return Ok(Pull::End) };
        if self.heads[winner].ended {
            return Ok(Pull::End);
        }
        let split = inputs[winner].rows.split_at_checked(self.heads[winner].message_bytes);
        let (message, rest) = split.ok_or_else(row::malformed)?;
        inputs[winner].rows = rest;
        self.stale = Some(winner);
        Ok(Pull::Row(message))
    }

    /// Looks at the first row of an input; false when there is nothing to see yet.
    #[inline]
    fn look(
        &mut self,
        input: usize,
        inputs: &[ShardInput<'_>],
        fields: usize,
        read: impl Fn(&[u8], &mut K) -> Result<(), Refusal>,
    ) -> Result<bool, Refusal> {
        let head = &mut self.heads[input];
        match row::first(inputs[input].rows, fields)? {
            Some(message) => {
                head.message_bytes = message.len();
                read(message, &mut head.key)?;
            }
            None if inputs[input].finished => head.ended = true,
            None => return Ok(false),
        }
        Ok(true)
    }

    /// All games, once every input has shown its first row.
    fn play_all(&mut self) {
        let count = self.heads.len();
        let mut winners: Vec<usize> = (0..2 * count).map(|place| place.saturating_sub(count)).collect();
        for place in (1..count).rev() {
            let (a, b) = (winners[2 * place], winners[2 * place + 1]);
            let a_wins = self.before(a, b);
            winners[place] = if a_wins { a } else { b };
            self.losers[place] = if a_wins { b } else { a };
        }
        self.losers[0] = if count > 1 { winners[1] } else { 0 };
    }

    /// The games of one input on its way up.
    #[inline]
    fn play(&mut self, input: usize) {
        let mut winner = input;
        let mut place = (input + self.heads.len()) / 2;
        while place > 0 {
            // Nobody can foresee who wins, so this is a choice between values and no branch.
            let loser = self.losers[place];
            let turned = self.before(loser, winner);
            self.losers[place] = if turned { winner } else { loser };
            winner = if turned { loser } else { winner };
            place /= 2;
        }
        self.losers[0] = winner;
    }

    /// Whether the first row of `a` comes before that of `b`: of equal rows, the one of the input
    /// with the lower number.
    #[inline]
    fn before(&self, a: usize, b: usize) -> bool {
        let (left, right) = (&self.heads[a], &self.heads[b]);
        // An input that has ended keeps the key of its last row, which no longer matters.
        (left.ended, &left.key, a) < (right.ended, &right.key, b)
    }
}
