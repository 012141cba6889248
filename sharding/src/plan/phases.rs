//! The phases: each pushes work below the route and leaves a tree that gives the same answer.

mod push_distinct;
mod push_limit;
mod push_order;
mod sort_groups;
mod sort_values;

use super::splice::Draft;
use super::{Context, Node};
use crate::catalog::Catalog;
use crate::refusal::Refusal;
use crate::sql::planner::analyse;
use crate::sql::{Limits, Script, shape};

/// One step of making a plan cheaper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Each shard gives its distinct rows only.
    PushDistinct,
    /// Each shard sorts, the router merges.
    PushOrder,
    /// Each shard sorts its groups, so that the router holds one at a time.
    SortGroups,
    /// Each shard sorts the values that are to be counted once, so that the router holds none of them.
    SortValues,
    /// Each shard gives no more rows than the answer can need.
    PushLimit,
}

impl Phase {
    /// All phases in the order in which they run.
    pub const ALL: [Self; 5] =
        [Self::PushDistinct, Self::PushOrder, Self::SortGroups, Self::SortValues, Self::PushLimit];

    pub(super) fn apply(self, draft: &mut Draft<'_>) {
        match self {
            Self::PushDistinct => push_distinct::apply(draft),
            Self::PushOrder => push_order::apply(draft),
            Self::SortGroups => sort_groups::apply(draft),
            Self::SortValues => sort_values::apply(draft),
            Self::PushLimit => push_limit::apply(draft),
        }
    }
}

/// Plans a text with some of the phases only: the answer must not change, whichever are left out.
///
/// # Errors
/// As [`crate::sql::Planner::plan`].
pub fn build_with(
    catalog: &Catalog,
    search_path: Option<&str>,
    text: &str,
    phases: &[Phase],
) -> Result<Script, Refusal> {
    let mut literals = Vec::new();
    shape::scan(text, &mut literals);
    let context = Context { catalog, search_path, text, phases };
    analyse(context, &literals, &Limits::default()).map(|(script, _)| script)
}

impl Node {
    /// The same tree with the inputs of this node changed.
    fn with_input(self, change: impl FnOnce(Self) -> Self) -> Self {
        let boxed = |input: Box<Self>, change: &dyn Fn(Self) -> Self| Box::new(change(*input));
        let change = std::cell::Cell::new(Some(change));
        let change = |input: Self| match change.take() {
            Some(change) => change(input),
            None => input,
        };
        match self {
            Self::Route => Self::Route,
            Self::Append { input } => Self::Append { input: boxed(input, &change) },
            Self::MergeSort { keys, input } => Self::MergeSort { keys, input: boxed(input, &change) },
            Self::Aggregate { keys, aggregates, sorted, input } => {
                Self::Aggregate { keys, aggregates, sorted, input: boxed(input, &change) }
            }
            Self::Having { condition, input } => Self::Having { condition, input: boxed(input, &change) },
            Self::Distinct { keys, sorted, input } => Self::Distinct { keys, sorted, input: boxed(input, &change) },
            Self::Sort { keys, input } => Self::Sort { keys, input: boxed(input, &change) },
            Self::Limit { count, offset, ties, input } => {
                Self::Limit { count, offset, ties, input: boxed(input, &change) }
            }
            Self::Project { input } => Self::Project { input: boxed(input, &change) },
        }
    }
}
