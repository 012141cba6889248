//! Which prepared transactions nobody brings to an end, and which decisions nobody needs. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::name::{Identity, PreparedName, TransactionId};

/// A prepared transaction as its shard lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub name: PreparedName,
    /// By position in the database.
    pub shard: usize,
    /// Only this user, or a superuser, can end it.
    pub owner: String,
    /// By the shard's clock.
    pub age: Duration,
}

/// A transaction whose router may be gone: what it has prepared, as far as the shards that answered tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    pub transaction: TransactionId,
    pub decider: Identity,
    pub parts: Vec<Listed>,
}

/// Those of which a part is due. What they have prepared elsewhere is resolved with it: there is one decision.
pub fn orphans(listed: &[Listed], is_due: impl Fn(&Listed) -> bool) -> Vec<Orphan> {
    let due: BTreeSet<TransactionId> =
        listed.iter().filter(|part| is_due(part)).map(|part| part.name.transaction).collect();
    let mut found: BTreeMap<TransactionId, Orphan> = BTreeMap::new();
    for part in listed.iter().filter(|part| due.contains(&part.name.transaction)) {
        let PreparedName { transaction, decider, .. } = part.name;
        let orphan = found.entry(transaction).or_insert(Orphan { transaction, decider, parts: Vec::new() });
        orphan.parts.push(part.clone());
    }
    found.into_values().collect()
}

/// Of the commits with a row on some decider, those whose row nobody can need any more.
///
/// `listed` must have been asked of *every* shard after `committed` was read. A participant prepares before the
/// decider commits; so when the row is there, who is not prepared any more has committed, and will never ask.
pub fn unneeded(committed: &[TransactionId], listed: &[Listed]) -> Vec<TransactionId> {
    let needed: BTreeSet<TransactionId> = listed.iter().map(|part| part.name.transaction).collect();
    committed.iter().copied().filter(|transaction| !needed.contains(transaction)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(transaction: u128, shard: usize, age: u64) -> Listed {
        let name = PreparedName {
            transaction: TransactionId(transaction),
            decider: Identity(9),
            participant: Identity(shard as u64),
        };
        Listed { name, shard, owner: "app".into(), age: Duration::from_secs(age) }
    }

    #[test]
    fn a_transaction_is_resolved_whole_once_a_part_is_due() {
        let all = [listed(1, 0, 9), listed(2, 0, 1), listed(1, 1, 2)];
        let found = orphans(&all, |part| part.age >= Duration::from_secs(5));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].parts, [all[0].clone(), all[2].clone()]);
    }

    #[test]
    fn a_row_is_needed_while_a_participant_is_prepared() {
        let rows = [TransactionId(1), TransactionId(2)];
        assert_eq!(unneeded(&rows, &[listed(2, 1, 0)]), [TransactionId(1)]);
    }
}
