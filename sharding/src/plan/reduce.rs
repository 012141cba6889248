//! Which rows of a sharded table a statement can need: those for which the tables it is joined with, as far as they
//! are on the same shard, have rows that fulfil the conditions about them all.
//!
//! A row that is left out can be in no row of its FROM that fulfils WHERE. For a table of a subquery, it can be
//! in none that matters for a row of the query around that fulfils what is plain of that query's WHERE.

use std::collections::BTreeSet;

use super::bind::{Binder, Occurrence};
use super::conditions::{Condition, Role, Side};
use super::scope::Columns;
use crate::catalog::TableKind;

/// What a shard's rows must fulfil, as positions of conditions in blocks.
#[derive(Debug, Default)]
pub(crate) struct Reduction {
    /// Conditions about the table alone.
    pub own: Vec<Place>,
    /// Relations of which there must be rows, with the conditions that tie them to the table and to each other.
    pub partners: Vec<Partners>,
}

#[derive(Debug)]
pub(crate) struct Partners {
    pub rels: Vec<usize>,
    pub conditions: Vec<Place>,
}

/// A condition: its block, the clause there, and which of the clause's conditions it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub block: usize,
    pub clause: usize,
    pub position: usize,
}

impl Binder<'_> {
    /// What is known of the rows of one occurrence that matter.
    pub(crate) fn reduction(&self, index: usize) -> Reduction {
        self.reduction_beside(index, &[])
    }

    /// The same when more is known than the text says of the rows of some relations that matter.
    pub(crate) fn reduction_beside(&self, index: usize, known: &[usize]) -> Reduction {
        let occurrence = &self.occurrences[index];
        let rel = &self.rels[occurrence.rel];
        if self.facts.time_word {
            return Reduction::default();
        }
        if rel.nullable {
            return Reduction { own: self.matchable(occurrence.rel), partners: Vec::new() };
        }
        let usable = self.usable(index);
        let mut reduction = Reduction::default();
        let own = |condition: &Condition| condition.rels == [occurrence.rel];
        reduction.own = usable.iter().filter(|(_, found)| own(found)).map(|(place, _)| *place).collect();
        let group = self.group(occurrence, &usable);
        for rels in components(occurrence.rel, &group, &usable) {
            let inside = |condition: &Condition| {
                !own(condition)
                    && condition.rels.iter().all(|rel| *rel == occurrence.rel || rels.contains(rel))
                    && !condition.rels.is_empty()
            };
            let found: Vec<_> = usable.iter().filter(|(_, condition)| inside(condition)).collect();
            // Equal columns alone, mostly of a foreign key, leave hardly a row out.
            let filters = found.iter().any(|(_, condition)| condition.role != Role::Joins);
            if filters || rels.iter().any(|rel| known.contains(rel)) {
                let conditions = found.iter().map(|(place, _)| *place).collect();
                reduction.partners.push(Partners { rels: rels.into_iter().collect(), conditions });
            }
        }
        reduction
    }

    /// Columns of a table, or of its partners, that in every row which matters equal a column of a relation that is no partner.
    pub(crate) fn ties(&self, index: usize) -> Vec<[Side; 2]> {
        let occurrence = &self.occurrences[index];
        if self.facts.time_word || self.rels[occurrence.rel].nullable {
            return Vec::new();
        }
        let usable = self.usable(index);
        let group = self.group(occurrence, &usable);
        let pairs = usable.iter().filter_map(|(_, condition)| condition.pair);
        let both = pairs.flat_map(|[a, b]| [[a, b], [b, a]]);
        both.filter(|[own, other]| group.contains(&own.rel) && !group.contains(&other.rel)).collect()
    }

    /// What the rows of the nullable side of a join fulfil that can be joined.
    fn matchable(&self, rel: usize) -> Vec<Place> {
        self.own_in_role(rel, |role| role == Role::OfNullable)
    }

    /// The conditions about a relation alone that a row of it which matters fulfils.
    pub(crate) fn own_conditions(&self, rel: usize) -> Vec<Place> {
        match (self.facts.time_word, self.rels[rel].nullable) {
            (true, _) => Vec::new(),
            (false, true) => self.matchable(rel),
            (false, false) => self.own_in_role(rel, |role| role != Role::OfNullable),
        }
    }

    /// The conditions without subqueries in a relation's block that are about it alone.
    fn own_in_role(&self, rel: usize, fits: impl Fn(Role) -> bool) -> Vec<Place> {
        let block = self.rels[rel].block;
        let is_own = |found: &&Condition| fits(found.role) && found.rels == [rel] && found.inner.is_empty();
        let own = self.blocks[block].conditions.iter().filter(is_own).filter(|found| self.is_known(found));
        own.map(|found| Place { block, clause: found.clause, position: found.position }).collect()
    }

    /// Whether the text of a condition says the same wherever it is asked.
    fn is_known(&self, condition: &Condition) -> bool {
        !condition.clock || self.facts.tells_time
    }

    /// The blocks whose rows decide whether a row of the first one matters: itself, and those around its subquery.
    fn blocks_around(&self, block: usize) -> Vec<usize> {
        let mut blocks = vec![block];
        while let Some(around) = self.blocks[blocks[blocks.len() - 1]].around {
            blocks.push(around);
        }
        blocks
    }

    /// The conditions that a row which matters fulfils, and whose truth the shard of the row knows.
    fn usable(&self, index: usize) -> Vec<(Place, &Condition)> {
        let occurrence = &self.occurrences[index];
        let own = self.rels[occurrence.rel].block;
        let mut usable = Vec::new();
        for block in self.blocks_around(own) {
            for condition in &self.blocks[block].conditions {
                // Two subqueries of one WHERE, each reduced by what the other one says, would both be wrong.
                let known = if block == own {
                    condition.inner.clone().all(|inner| self.is_tied(index, inner))
                        && (condition.inner.is_empty() || !self.facts.outer_aggregate)
                } else {
                    condition.inner.is_empty()
                };
                if known && condition.role != Role::OfNullable && self.is_known(condition) {
                    let place = Place { block, clause: condition.clause, position: condition.position };
                    usable.push((place, condition));
                }
            }
        }
        usable
    }

    /// Whether of the second only rows matter that have the first one's key.
    fn is_tied(&self, first: usize, second: usize) -> bool {
        let (first, second) = (self.occurrences[first].key, self.occurrences[second].key);
        self.terms.reached_from(first)[second.0 as usize]
    }

    /// The table and all that equal columns join with it on its shard.
    fn group(&self, occurrence: &Occurrence, usable: &[(Place, &Condition)]) -> BTreeSet<usize> {
        let blocks = self.blocks_around(self.rels[occurrence.rel].block);
        let mut group = BTreeSet::from([occurrence.rel]);
        if blocks.iter().any(|block| !self.blocks[*block].merged.is_empty()) {
            return group;
        }
        loop {
            let before = group.len();
            for (_, condition) in usable.iter().filter(|(_, condition)| condition.role == Role::Joins) {
                let joined = condition.rels.iter().any(|rel| group.contains(rel));
                let fit = |rel: &usize| group.contains(rel) || self.is_partner(occurrence, *rel, &blocks);
                if joined && condition.rels.iter().all(fit) {
                    group.extend(&condition.rels);
                }
            }
            if group.len() == before {
                break;
            }
        }
        if self.has_like_names(&group) { BTreeSet::from([occurrence.rel]) } else { group }
    }

    /// Whether the rows of a relation that can be joined with a table's row are all on its shard.
    fn is_partner(&self, occurrence: &Occurrence, rel: usize, blocks: &[usize]) -> bool {
        let found = &self.rels[rel];
        let Columns::Table(table) = found.columns else { return false };
        let whole = found.written.is_some_and(|written| !written.only) && !super::scope::is_view(table);
        let near = match table.kind {
            TableKind::Reference => true,
            TableKind::Local(_) => false,
            TableKind::Sharded { column, .. } => {
                let key = found.terms.get(&column);
                key.is_some_and(|key| {
                    self.terms.reached_from(occurrence.key)[key.0 as usize]
                        || self.terms.reached_from(*key)[occurrence.key.0 as usize]
                })
            }
        };
        whole && near && !found.nullable && blocks.contains(&found.block)
    }

    /// Whether relations of unlike levels have names in common, so that a name could mean another one where all
    /// stand side by side.
    fn has_like_names(&self, group: &BTreeSet<usize>) -> bool {
        let pairs = group.iter().flat_map(|a| group.iter().map(move |b| (&self.rels[*a], &self.rels[*b])));
        let mut apart = pairs.filter(|(a, b)| a.block < b.block);
        apart.any(|(a, b)| {
            let (Some(names), Some(others)) = (a.names(), b.names()) else { return true };
            a.name == b.name
                || names.iter().any(|name| others.contains(name) || **name == *b.name)
                || others.iter().any(|name| **name == *a.name)
        })
    }
}

/// The relations of a group but `rel`, in parts that no condition ties together.
fn components(rel: usize, group: &BTreeSet<usize>, usable: &[(Place, &Condition)]) -> Vec<BTreeSet<usize>> {
    let mut parts: Vec<BTreeSet<usize>> = Vec::new();
    for single in group.iter().filter(|found| **found != rel) {
        parts.push(BTreeSet::from([*single]));
    }
    for (_, condition) in usable {
        if condition.rels.iter().all(|rel| group.contains(rel)) {
            let (tied, mut apart): (Vec<_>, Vec<_>) =
                parts.into_iter().partition(|part| condition.rels.iter().any(|rel| part.contains(rel)));
            let tied: BTreeSet<usize> = tied.into_iter().flatten().collect();
            if !tied.is_empty() {
                apart.push(tied);
            }
            parts = apart;
        }
    }
    parts
}
