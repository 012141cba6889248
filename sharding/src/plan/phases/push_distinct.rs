//! DISTINCT below the route: each shard leaves out its own duplicates.

use crate::plan::Node;
use crate::plan::splice::{Clause, Draft};

pub(super) fn apply(draft: &mut Draft<'_>) {
    // The helper columns repeat the visible ones, so they do not tell more rows apart.
    draft.distinct = Clause::Keep;
    if keeps_first(&draft.tree) {
        draft.order = Clause::Keep;
    }
}

/// Whether the order says which of equal rows stays, as with DISTINCT ON.
fn keeps_first(node: &Node) -> bool {
    match node {
        Node::Distinct { input, .. } => matches!(**input, Node::Sort { .. }),
        node => node.input().is_some_and(keeps_first),
    }
}
