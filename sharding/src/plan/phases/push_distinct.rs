//! DISTINCT below the route: each shard leaves out its own duplicates.

use crate::plan::splice::{Clause, Draft};

pub(super) fn apply(draft: &mut Draft<'_>) {
    // The helper columns repeat the visible ones, so they do not tell more rows apart.
    draft.distinct = Clause::Keep;
}
