//! ORDER BY below the route: each shard sorts its rows, the router merges sorted streams.

use crate::plan::Node;
use crate::plan::splice::{Clause, Draft};

pub(super) fn apply(draft: &mut Draft<'_>) {
    let tree = std::mem::replace(&mut draft.tree, Node::Route);
    let (tree, pushed) = push(tree);
    draft.tree = tree;
    if pushed {
        draft.order = Clause::Keep;
    }
}

fn push(node: Node) -> (Node, bool) {
    match node {
        Node::Sort { keys, input } => match *input {
            Node::Append { input } => (Node::MergeSort { keys, input }, true),
            // The first of equal rows stays, so the order stays too.
            Node::Distinct { keys: distinct, sorted, input: below } => match *below {
                Node::Append { input } => {
                    let input = Box::new(Node::MergeSort { keys, input });
                    (Node::Distinct { keys: distinct, sorted, input }, true)
                }
                below => {
                    let input = Box::new(Node::Distinct { keys: distinct, sorted, input: Box::new(below) });
                    (Node::Sort { keys, input }, false)
                }
            },
            input => (Node::Sort { keys, input: Box::new(input) }, false),
        },
        node => {
            let mut pushed = false;
            let node = node.with_input(|input| {
                let (input, below) = push(input);
                pushed = below;
                input
            });
            (node, pushed)
        }
    }
}
