//! LIMIT below the route: no shard gives more rows than the answer and what OFFSET leaves out.

use crate::plan::splice::{Clause, Draft};
use crate::plan::{Count, Node};

pub(super) fn apply(draft: &mut Draft<'_>) {
    let Node::Limit { count: Some(count), offset, ties, input } = &draft.tree else { return };
    if !first_rows_suffice(input, draft) {
        return;
    }
    let limit = match (count, offset) {
        (Count::Rows(count), None) => Some(count.to_string()),
        (Count::Rows(count), Some(Count::Rows(offset))) => {
            let sum = count.checked_add(*offset).filter(|sum| i64::try_from(*sum).is_ok());
            sum.map(|sum| sum.to_string())
        }
        (Count::Param(count), None) => Some(format!("${}::{}", count + 1, draft.limit_types[0])),
        (Count::Negative, _) | (_, Some(Count::Negative)) => None,
        (count, Some(offset)) => {
            let [count_type, offset_type] = draft.limit_types;
            let (count, mut skipped) = (written(*count, count_type), written(*offset, offset_type));
            if matches!(offset, Count::Param(_)) {
                skipped = format!("COALESCE({skipped}, 0)");
            }
            Some(format!("{} + {}", capped(&count), capped(&skipped)))
        }
    };
    let with_ties = !ties.is_empty();
    if let Some(limit) = limit {
        let sql = if with_ties { format!("FETCH FIRST ({limit}) ROWS WITH TIES") } else { format!("LIMIT {limit}") };
        draft.limit = Clause::Replace(sql);
    }
}

fn written(count: Count, type_name: &str) -> String {
    match count {
        Count::Param(index) => format!("${}::{type_name}", index + 1),
        Count::Rows(rows) => rows.to_string(),
        Count::Negative => "-1".to_owned(),
    }
}

/// Whether the first rows of every shard hold the first rows of the answer.
fn first_rows_suffice(input: &Node, draft: &Draft<'_>) -> bool {
    match input {
        Node::Append { .. } | Node::MergeSort { .. } => true,
        Node::Distinct { input, .. } => draft.distinct == Clause::Keep && first_rows_suffice(input, draft),
        // The first groups of each shard, in the order of all group keys: each is complete.
        Node::Aggregate { sorted: true, .. } => draft.order == Clause::Keep && !draft.is_divided(),
        _ => false,
    }
}

/// Half of the greatest number at most, so that two of them can be added. NULL is no limit.
fn capped(count: &str) -> String {
    format!("LEAST({count}, {})", 1u64 << 61)
}
