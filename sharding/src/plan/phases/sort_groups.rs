//! Groups in order: each shard sorts its groups, so the router completes one after another.

use crate::plan::splice::{Clause, Draft};
use crate::plan::{ColumnRef, GroupKey, Node, SortKey, SortValue};

pub(super) fn apply(draft: &mut Draft<'_>) {
    let tree = std::mem::replace(&mut draft.tree, Node::Route);
    draft.tree = sort(draft, tree);
}

fn sort(draft: &mut Draft<'_>, node: Node) -> Node {
    match node {
        Node::Sort { keys, input } if orders_groups(&keys, &input) => {
            draft.order = Clause::Keep;
            merge_sorted(*input, keys)
        }
        Node::Aggregate { ref keys, .. } if !keys.is_empty() && draft.group_is_ordered => {
            draft.order = Clause::Replace(format!("ORDER BY {}", positions(draft, keys)));
            let keys = keys.iter().zip(&draft.group).map(|(key, name)| ascending(key.column, name)).collect();
            merge_sorted(node, keys)
        }
        node => node.with_input(|input| sort(draft, input)),
    }
}

/// Whether sorting by `keys` is sorting by all group keys and nothing else.
fn orders_groups(keys: &[SortKey], input: &Node) -> bool {
    let group = match input {
        Node::Aggregate { keys, .. } => keys,
        Node::Having { input, .. } => match &**input {
            Node::Aggregate { keys, .. } => keys,
            _ => return false,
        },
        _ => return false,
    };
    let in_group =
        |key: &SortKey| matches!(key.value, SortValue::Column(column) if group.iter().any(|key| key.column == column));
    let in_order = |group: &GroupKey| keys.iter().any(|key| key.value == SortValue::Column(group.column));
    !group.is_empty() && keys.iter().all(in_group) && group.iter().all(in_order)
}

/// The aggregate below with its input merged in the order of `keys`.
fn merge_sorted(node: Node, keys: Vec<SortKey>) -> Node {
    match node {
        Node::Aggregate { keys: group, aggregates, input, .. } => {
            let input = match *input {
                Node::Append { input } => input,
                other => Box::new(other),
            };
            let input = Box::new(Node::MergeSort { keys, input });
            Node::Aggregate { keys: group, aggregates, sorted: true, input }
        }
        node => node.with_input(|input| merge_sorted(input, keys)),
    }
}

/// The group keys by their places in the answer: a name would mean the visible column of that name
/// first.
fn positions(draft: &Draft<'_>, keys: &[GroupKey]) -> String {
    keys.iter().map(|key| draft.position(key.column).to_string()).collect::<Vec<_>>().join(", ")
}

pub(super) fn ascending(column: ColumnRef, name: &str) -> SortKey {
    SortKey {
        value: SortValue::Column(column),
        descending: false,
        nulls_first: false,
        collation: Default::default(),
        name: name.to_owned(),
    }
}
