//! What a session got from sequences: `currval` and `lastval` over several shards. Pure.

use std::collections::HashMap;

use pgsluice_sharding::catalog::SequenceName;

/// How many sequences a session remembers; those of one that uses more are forgotten together.
const SEQUENCES_MAX: usize = 1024;

/// The last values that the router gave a session.
#[derive(Clone, Debug, Default)]
pub struct SequenceValues {
    values: HashMap<SequenceName, i64>,
    last: Option<i64>,
    /// It has used sequences on a server in ways that the router cannot follow, or has used too many.
    in_doubt: bool,
    /// It may have moved sequences in the transaction that is running.
    pub moved: bool,
}

/// What a session got last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastValue {
    Known(i64),
    /// Nothing yet.
    None,
    /// Only a server can know.
    InDoubt,
}

impl SequenceValues {
    /// The session has got a value.
    pub fn got(&mut self, sequence: &SequenceName, value: i64) {
        self.last = Some(value);
        if let Some(known) = self.values.get_mut(sequence) {
            *known = value;
            return;
        }
        if self.values.len() >= SEQUENCES_MAX {
            self.values.clear();
            self.in_doubt = true;
        }
        self.values.insert(sequence.clone(), value);
    }

    /// A server has given the session values that the router has not seen.
    pub fn used_elsewhere(&mut self) {
        *self = Self { in_doubt: true, moved: self.moved, ..Self::default() };
    }

    pub fn current(&self, sequence: &SequenceName) -> LastValue {
        self.told(self.values.get(sequence).copied())
    }

    pub fn last(&self) -> LastValue {
        self.told(self.last)
    }

    fn told(&self, value: Option<i64>) -> LastValue {
        match (value, self.in_doubt) {
            (Some(value), _) => LastValue::Known(value),
            (None, false) => LastValue::None,
            (None, true) => LastValue::InDoubt,
        }
    }

    /// DISCARD SEQUENCES
    pub fn discard(&mut self) {
        *self = Self { moved: self.moved, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> SequenceName {
        SequenceName { schema: "public".into(), name: name.into() }
    }

    #[test]
    fn the_last_value_is_told() {
        let mut values = SequenceValues::default();
        assert_eq!((values.current(&name("a")), values.last()), (LastValue::None, LastValue::None));
        values.got(&name("a"), 1);
        values.got(&name("b"), 7);
        values.got(&name("a"), 2);
        assert_eq!(values.current(&name("a")), LastValue::Known(2));
        assert_eq!(values.current(&name("b")), LastValue::Known(7));
        assert_eq!((values.last(), values.current(&name("c"))), (LastValue::Known(2), LastValue::None));
        values.used_elsewhere();
        assert_eq!((values.last(), values.current(&name("a"))), (LastValue::InDoubt, LastValue::InDoubt));
        values.got(&name("a"), 3);
        assert_eq!((values.last(), values.current(&name("b"))), (LastValue::Known(3), LastValue::InDoubt));
        values.discard();
        assert_eq!(values.last(), LastValue::None);
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let mut values = SequenceValues::default();
        (0..=SEQUENCES_MAX).for_each(|n| values.got(&name(&n.to_string()), 1));
        assert_eq!(values.current(&name("0")), LastValue::InDoubt);
        assert_eq!(values.last(), LastValue::Known(1));
    }
}
