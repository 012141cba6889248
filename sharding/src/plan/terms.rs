//! What is known to be equal: columns and values as nodes, knowledge as directed edges.
//!
//! An edge `a -> b` says: if only rows with `a = x` matter, then of the rows behind `b` only those
//! with `b = x` matter. An inner join gives edges both ways; the ON of a LEFT JOIN only towards the
//! nullable side; a predicate of a subquery only towards the subquery's own tables.

use super::KeyValue;
use crate::catalog::{Collation, Column};
use crate::key::KeyType;

/// A column of one relation of one statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Term(pub u32);

/// The types whose equality is that of keys, and carries from column to column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ColumnKind {
    Int,
    Text,
    Uuid,
    /// Of no use for a key: another type, or a collation where unlike bytes are equal.
    Foreign,
}

impl ColumnKind {
    pub(crate) fn of(column: &Column) -> Self {
        match column.type_oid {
            20 | 21 | 23 => Self::Int,
            25 | 1043 if column.collation != Collation::Nondeterministic => Self::Text,
            2950 => Self::Uuid,
            _ => Self::Foreign,
        }
    }
}

/// What a value looks like before it is compared with a key column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// A string literal or a parameter: takes the type of what it is compared with.
    Any,
    Int,
    /// A number with a point: equals an integer key or nothing; cannot be stored in one unchanged.
    Numeric,
    Text,
    Uuid,
}

/// What is known of the values of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nature {
    pub kind: ColumnKind,
    /// How they are compared, if they turn out to be text.
    pub collation: Collation,
    /// NULL where an outer join found no row.
    pub nullable: bool,
    /// No text is longer than so many characters.
    pub characters_max: Option<u32>,
}

impl Nature {
    /// A column of which nothing is known.
    pub(crate) const UNKNOWN: Self = Self {
        kind: ColumnKind::Foreign,
        collation: Collation::Nondeterministic,
        nullable: true,
        characters_max: None,
    };
}

/// The values one term is limited to by one predicate.
#[derive(Clone, Debug)]
pub(crate) struct ValueSet {
    pub term: Term,
    pub keys: Vec<KeyValue>,
    pub family: Family,
    /// The values are to be stored, not compared.
    pub stored: bool,
    /// The column that they are to be stored in keeps so many characters.
    pub stored_in: Option<u32>,
}

#[derive(Debug, Default)]
pub(crate) struct Terms {
    edges: Vec<Vec<Term>>,
    owners: Vec<usize>,
    natures: Vec<Nature>,
    pub values: Vec<ValueSet>,
}

impl Terms {
    /// A new column of relation `owner`.
    pub(crate) fn add(&mut self, owner: usize, nature: Nature) -> Term {
        self.edges.push(Vec::new());
        self.owners.push(owner);
        self.natures.push(nature);
        Term(u32::try_from(self.edges.len() - 1).unwrap_or(u32::MAX))
    }

    /// The relation the column belongs to.
    pub(crate) fn owner(&self, term: Term) -> usize {
        self.owners[term.0 as usize]
    }

    pub(crate) fn nature(&self, term: Term) -> Nature {
        self.natures[term.0 as usize]
    }

    pub(crate) fn set_nature(&mut self, term: Term, nature: Nature) {
        self.natures[term.0 as usize] = nature;
    }

    /// Whether `a = b` means that both are the same key.
    pub(crate) fn comparable(&self, a: Term, b: Term) -> bool {
        let (a, b) = (self.nature(a).kind, self.nature(b).kind);
        a != ColumnKind::Foreign && a == b
    }

    pub(crate) fn edge(&mut self, from: Term, to: Term) {
        if from != to && !self.edges[from.0 as usize].contains(&to) {
            self.edges[from.0 as usize].push(to);
        }
    }

    /// All terms that follow from `start`, itself included.
    pub(crate) fn reached_from(&self, start: Term) -> Vec<bool> {
        let mut reached = vec![false; self.edges.len()];
        let mut waiting = vec![start];
        while let Some(term) = waiting.pop() {
            if !std::mem::replace(&mut reached[term.0 as usize], true) {
                waiting.extend(&self.edges[term.0 as usize]);
            }
        }
        reached
    }

    /// Whether the two are the same in every row that matters.
    pub(crate) fn same(&self, a: Term, b: Term) -> bool {
        a == b || self.reached_from(a)[b.0 as usize] && self.reached_from(b)[a.0 as usize]
    }
}

impl Family {
    /// Whether such a value, compared with a key of this type, is a key of it or equals none.
    pub(crate) fn suits(self, key_type: KeyType) -> bool {
        match self {
            Self::Any => true,
            Self::Int | Self::Numeric => matches!(key_type, KeyType::Int2 | KeyType::Int4 | KeyType::Int8),
            Self::Text => key_type == KeyType::Text,
            Self::Uuid => key_type == KeyType::Uuid,
        }
    }

    /// The family of a list with elements of both.
    pub(crate) fn with(self, other: Self) -> Option<Self> {
        match (self, other) {
            (a, b) if a == b => Some(a),
            (Self::Any, other) | (other, Self::Any) => Some(other),
            (Self::Int, Self::Numeric) | (Self::Numeric, Self::Int) => Some(Self::Numeric),
            _ => None,
        }
    }
}
