//! Different values in order: each shard sorts them within its groups, so that the router knows equal ones by being neighbours and
//! keeps none.

use super::sort_groups::ascending;
use crate::plan::splice::{Clause, Draft};
use crate::plan::{AggregateFunction, Node, SortKey};

pub(super) fn apply(draft: &mut Draft<'_>) {
    let Some(value) = draft.ordered_division() else { return };
    let tree = std::mem::replace(&mut draft.tree, Node::Route);
    let key = ascending(value, draft.sql_of(value));
    let (tree, is_sorted) = sort(tree, key);
    draft.tree = tree;
    if is_sorted {
        let position = draft.position(value);
        draft.order = Clause::Replace(match draft.order_by() {
            Some(groups) => format!("{groups}, {position}"),
            None => format!("ORDER BY {position}"),
        });
    }
}

/// Sorts by `value` what is sorted by the groups, or is one group.
fn sort(node: Node, value: SortKey) -> (Node, bool) {
    match node {
        Node::Aggregate { keys, mut aggregates, sorted, input } => {
            let (input, is_sorted) = match *input {
                Node::MergeSort { keys: mut order, input } if sorted => {
                    order.push(value);
                    (Node::MergeSort { keys: order, input }, true)
                }
                Node::Append { input } if keys.is_empty() => (Node::MergeSort { keys: vec![value], input }, true),
                other => (other, false),
            };
            for aggregate in &mut aggregates {
                if let AggregateFunction::CountDistinct { sorted, .. } = &mut aggregate.function {
                    *sorted = is_sorted;
                }
            }
            (Node::Aggregate { keys, aggregates, sorted, input: Box::new(input) }, is_sorted)
        }
        node => {
            let mut is_sorted = false;
            let node = node.with_input(|input| {
                let (input, below) = sort(input, value);
                is_sorted = below;
                input
            });
            (node, is_sorted)
        }
    }
}
