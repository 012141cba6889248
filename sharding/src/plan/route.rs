//! Which shards a bound statement concerns, and whether each of them can answer alone.

use super::bind::{Binder, Occurrence, Root};
use super::reasons;
use super::scope::Columns;
use super::terms::{Family, Term, ValueSet};
use super::{KeyColumn, NullKey, Shards};
use crate::key::KeyType;
use crate::map::ShardId;
use crate::refusal::Refusal;

/// Where the rows of a statement are.
#[derive(Debug)]
pub(crate) enum Place {
    /// The shards are named by keys, by a home, or do not matter.
    Known(Shards),
    /// Sharded tables without a key, or local tables of several shards; what only one of them has, and why that is a hindrance.
    Spread(Option<(ShardId, Refusal)>),
}

impl Binder<'_> {
    /// Where the rows are, or why the statement cannot be answered by any shards.
    pub(crate) fn place(&self) -> Result<Place, Refusal> {
        if let Some(problem) = &self.problem {
            return Err(problem.clone());
        }
        if let Some(reader) = &self.facts.reader
            && !self.facts.unknown_table
        {
            return Err(reasons::reader(reader));
        }
        if let Some(table) = &self.facts.unknown_target {
            return Err(reasons::unknown_target(table));
        }
        let (home, apart) = self.home();
        if let (Some(home), Some(reason)) = (home, apart) {
            return Ok(Place::Spread(Some((home, reason))));
        }
        if self.occurrences.is_empty() {
            if self.facts.opaque {
                return Ok(Place::Known(Shards::One(home.unwrap_or(ShardId(0)))));
            }
            let system = self.system.then_some(ShardId(0));
            return Ok(Place::Known(home.or(system).map_or(Shards::Any, Shards::One)));
        }
        let Some(keys) = self.cover() else {
            return Ok(self.spread(home));
        };
        Ok(Place::Known(match home {
            None => keys,
            Some(home) => Shards::Home { home, keys: Box::new(keys) },
        }))
    }

    fn spread(&self, home: Option<ShardId>) -> Place {
        let sharded = self.occurrences.first().map_or("", |occurrence| occurrence.table.as_str());
        let reason = match (&self.facts.home, self.locals.first()) {
            (Some(function), _) => reasons::home_function(function, sharded),
            (None, Some(local)) => reasons::local_and_sharded(&local.name, sharded),
            (None, None) => return Place::Spread(None),
        };
        Place::Spread(home.map(|home| (home, reason)))
    }

    /// The shard of functions and local tables; and why it is not the only one, if they are on several.
    fn home(&self) -> (Option<ShardId>, Option<Refusal>) {
        let function = self.facts.home.as_ref().map(|name| (ShardId(0), name));
        let mut homes = function.into_iter().chain(self.locals.iter().map(|local| (local.home, &local.name)));
        let Some((home, name)) = homes.next() else { return (None, None) };
        let other = homes.find(|(other, _)| *other != home);
        (Some(home), other.map(|(_, other)| reasons::several_homes(name, other)))
    }

    /// The keys that limit every sharded table of the statement, if there are such.
    fn cover(&self) -> Option<Shards> {
        let mut open: Vec<usize> = (0..self.occurrences.len()).collect();
        let mut key_type = None;
        let mut stored_in = None;
        let mut null = NullKey::Nothing;
        let mut keys = Vec::new();
        let reached: Vec<Vec<usize>> = self.terms.values.iter().map(|set| self.limited_by(set)).collect();
        while !open.is_empty() {
            let count = |set: usize| reached[set].iter().filter(|occurrence| open.contains(occurrence)).count();
            // Of equally good ones the shortest: fewer keys, fewer shards.
            let best = (0..reached.len())
                .max_by_key(|set| (count(*set), std::cmp::Reverse(self.terms.values[*set].keys.len())))?;
            if count(best) == 0 {
                return None;
            }
            for occurrence in &reached[best] {
                key_type = Some(common_type(key_type, self.occurrences[*occurrence].key_type)?);
            }
            // Values to be stored are cut, values to be compared are not.
            let values = &self.terms.values[best];
            if *stored_in.get_or_insert(values.stored_in) != values.stored_in {
                return None;
            }
            if values.stored {
                null = self.null_stored(values.term);
            }
            keys.extend(values.keys.iter().cloned());
            open.retain(|occurrence| !reached[best].contains(occurrence));
        }
        let stored_in = stored_in.flatten();
        Some(Shards::Keys { key_type: key_type?, keys, null, stored_in })
    }

    /// What a NULL means that is to be stored in this column.
    fn null_stored(&self, term: Term) -> NullKey {
        let owner = self.terms.owner(term);
        let rel = &self.rels[owner];
        let position = rel.terms.iter().find(|(_, found)| **found == term).map(|(position, _)| *position);
        let column = match rel.columns {
            Columns::Table(table) => position.and_then(|position| table.columns.get(position)),
            Columns::Derived(_) | Columns::Unknown => None,
        };
        // A query may give no row at all.
        if self.selected.is_some() && column.is_some_and(|column| column.not_null) {
            return NullKey::Left;
        }
        let table = self.occurrences.iter().find(|occurrence| occurrence.rel == owner);
        NullKey::Refused(KeyColumn {
            table: table.map_or("", |table| &table.table).into(),
            column: column.map_or("", |column| &column.name).into(),
        })
    }

    /// Where the rows of one place in the statement are that matter, if its keys are named.
    pub(crate) fn keys_of(&self, occurrence: &Occurrence) -> Option<Shards> {
        let limits = |set: &&ValueSet| {
            !set.stored
                && set.family.suits(occurrence.key_type)
                && self.terms.reached_from(set.term)[occurrence.key.0 as usize]
        };
        let best = self.terms.values.iter().filter(limits).min_by_key(|set| set.keys.len())?;
        let (key_type, keys) = (occurrence.key_type, best.keys.clone());
        Some(Shards::Keys { key_type, keys, null: NullKey::Nothing, stored_in: None })
    }

    /// The occurrences of sharded tables that these values limit.
    fn limited_by(&self, set: &ValueSet) -> Vec<usize> {
        let reached = self.terms.reached_from(set.term);
        let limited = self.occurrences.iter().enumerate().filter(|(_, occurrence)| {
            reached[occurrence.key.0 as usize]
                && set.family.suits(occurrence.key_type)
                && !(occurrence.inserts && set.family == Family::Numeric)
        });
        limited.map(|(index, _)| index).collect()
    }

    /// The root that cuts the whole statement into parts by key, if there is one: every other
    /// sharded table is tied to it.
    pub(crate) fn partition(&self, roots: &[Root]) -> Result<usize, Refusal> {
        let mut best: Option<(usize, usize)> = None;
        for root in roots {
            if root.ctes.iter().any(|cte| self.cte_uses[*cte] != 1) || !self.lists_hold(root) {
                continue;
            }
            let reached = self.terms.reached_from(self.occurrences[root.occurrence].key);
            let untied = self.occurrences.iter().position(|occurrence| !reached[occurrence.key.0 as usize]);
            match untied {
                None => return Ok(root.occurrence),
                Some(untied) => best = best.or(Some((root.occurrence, untied))),
            }
        }
        let table = match best {
            Some((_, untied)) => &self.occurrences[untied].table,
            None => &self.occurrences[0].table,
        };
        Err(match best {
            Some(_) => reasons::not_tied(table),
            None => reasons::spread(&format!("reading \"{table}\" in this place")),
        })
    }

    fn lists_hold(&self, root: &Root) -> bool {
        let key = self.occurrences[root.occurrence].key;
        root.lists.iter().all(|list| list.iter().any(|term| self.terms.same(*term, key)))
    }
}

/// The type to coerce keys to that are compared with columns of both types: the wider integer.
fn common_type(found: Option<KeyType>, other: KeyType) -> Option<KeyType> {
    let Some(found) = found else { return Some(other) };
    let width = |key_type| match key_type {
        KeyType::Int2 => Some(2),
        KeyType::Int4 => Some(4),
        KeyType::Int8 => Some(8),
        KeyType::Text | KeyType::Uuid => None,
    };
    match (width(found), width(other)) {
        (Some(a), Some(b)) => Some(if a >= b { found } else { other }),
        _ => (found == other).then_some(found),
    }
}
