//! The names of prepared transactions. They hold all that a router needs to resolve them.

use std::fmt;

/// What the names of all prepared transactions of ours begin with; the number is the form's.
pub const PREFIX: &str = "sluice:1:";

/// A shard, whatever name, number or address configurations give it: made once, kept in its table
/// `sluice.shard`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(pub u64);

impl Identity {
    /// Reads 16 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A transaction over several shards. No router makes the same twice, nor do two routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId(pub u128);

impl fmt::Display for TransactionId {
    /// The key of its row in `sluice.decision`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{:032x}", self.0)
    }
}

/// The name of what one participant has prepared: `sluice:1:<transaction>:<decider>:<participant>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PreparedName {
    pub transaction: TransactionId,
    pub decider: Identity,
    pub participant: Identity,
}

impl PreparedName {
    /// `None` for the name of somebody else's transaction.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix(PREFIX)?.split(':');
        let transaction = parts.next().filter(|digits| digits.len() == 32)?;
        let name = Self {
            transaction: TransactionId(u128::from_str_radix(transaction, 16).ok()?),
            decider: Identity::parse(parts.next()?)?,
            participant: Identity::parse(parts.next()?)?,
        };
        parts.next().is_none().then_some(name)
    }
}

impl fmt::Display for PreparedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.transaction, self.decider, self.participant)
    }
}

#[cfg(test)]
mod tests {
    use super::{Identity, PreparedName, TransactionId};

    #[test]
    fn names_are_read_as_they_are_written_and_no_others() {
        let name =
            PreparedName { transaction: TransactionId(7 << 99), decider: Identity(3), participant: Identity(u64::MAX) };
        let text = name.to_string();
        assert_eq!(PreparedName::parse(&text), Some(name));
        // PostgreSQL takes names of fewer than 200 bytes.
        assert!(text.len() < 100, "{text}");
        for other in [
            "",
            "sluice:1:",
            "app:7",
            &text[1..],
            &text[..text.len() - 1],
            &format!("{text}:1"),
            &text.replace(":1:", ":2:"),
        ] {
            assert_eq!(PreparedName::parse(other), None, "{other}");
        }
    }
}
