//! Rows are pulled from the source and pushed through the stages.

use crate::merge::ShardInput;
use crate::merge::aggregate::Aggregate;
use crate::merge::append::Append;
use crate::merge::distinct::Distinct;
use crate::merge::having::Having;
use crate::merge::limit::{Limit, Window};
use crate::merge::memory::Memory;
use crate::merge::merge_sort::{MergeSort, Pull};
use crate::merge::project::Project;
use crate::merge::row::Row;
use crate::merge::sort::Sort;
use crate::refusal::Refusal;

/// Where rows come from.
#[derive(Debug)]
pub(super) enum Source {
    Append(Append),
    MergeSort(MergeSort),
}

/// A step that rows go through.
#[derive(Debug)]
pub(super) enum Stage {
    Aggregate(Box<Aggregate>),
    Having(Having),
    Distinct(Distinct),
    Sort(Sort),
    Limit(Limit),
}

/// A stage, and how many rows have come to it.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) stage: Stage,
    pub(super) rows: u64,
}

impl Counted {
    pub(super) fn new(stage: Stage) -> Self {
        Self { stage, rows: 0 }
    }
}

/// Whether further rows can change the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    More,
    /// A limit is reached: only this many stages, those above it, may still give out what they kept.
    Enough(usize),
}

impl Source {
    #[inline]
    pub(super) fn next<'a>(&mut self, inputs: &mut [ShardInput<'a>]) -> Result<Pull<'a>, Refusal> {
        match self {
            Self::Append(append) => append.next(inputs),
            Self::MergeSort(merge) => merge.next(inputs),
        }
    }
}

/// Gives a row to the first stage, and what comes of it to the next ones.
#[inline]
pub(super) fn push(
    stages: &mut [Counted],
    row: Row<'_>,
    memory: &mut Memory,
    project: &mut Project<'_>,
) -> Result<Flow, Refusal> {
    let Some((stage, above)) = stages.split_first_mut() else {
        project.write(row.message)?;
        return Ok(Flow::More);
    };
    stage.rows += 1;
    match &mut stage.stage {
        Stage::Aggregate(aggregate) => {
            if aggregate.take(row, memory)? {
                return push(above, aggregate.give()?, memory, project);
            }
        }
        Stage::Having(having) => {
            if having.holds(row.results)? == Some(true) {
                return push(above, row, memory, project);
            }
        }
        Stage::Distinct(distinct) => {
            if distinct.is_new(row, memory)? {
                return push(above, row, memory, project);
            }
        }
        Stage::Sort(sort) => sort.take(row, memory)?,
        Stage::Limit(limit) => match limit.window(row)? {
            Window::Skip => {}
            Window::Take => return push(above, row, memory, project),
            Window::TakeLast => {
                let left = above.len();
                return Ok(match push(above, row, memory, project)? {
                    Flow::More => Flow::Enough(left),
                    enough @ Flow::Enough(_) => enough,
                });
            }
            Window::Past => return Ok(Flow::Enough(above.len())),
        },
    }
    Ok(Flow::More)
}

/// After the last row from below: gives one row that the first stage kept to the next ones. `None`
/// when it keeps none.
pub(super) fn drain(
    stages: &mut [Counted],
    memory: &mut Memory,
    project: &mut Project<'_>,
) -> Result<Option<Flow>, Refusal> {
    let Some((stage, above)) = stages.split_first_mut() else { return Ok(None) };
    let row = match &mut stage.stage {
        Stage::Aggregate(aggregate) => aggregate.drain()?,
        Stage::Sort(sort) => sort.drain(),
        Stage::Having(_) | Stage::Distinct(_) | Stage::Limit(_) => None,
    };
    row.map(|row| push(above, row, memory, project)).transpose()
}
