//! The steps of a plan as a tree to be shown.

use std::fmt::{self, Display, Formatter};

use super::{Copies, Count, FinalQuery, Gather, Input, Node, Plan, Returns, StagedWrite, Write};

/// One step: its heading, what stands below it, and the steps whose rows it takes.
///
/// EXPLAIN adds to headings and lines what it knows besides the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// One word: `MergeSort`.
    pub name: &'static str,
    /// What the heading says after it.
    pub detail: String,
    /// What the heading ends with.
    pub notes: String,
    pub lines: Vec<String>,
    /// The most rows it can give, if the plan tells.
    pub rows_max: Option<u64>,
    pub inputs: Vec<Self>,
}

impl Plan {
    /// The steps, if there are any beyond a route. `full` shows the texts as servers run them.
    pub fn steps(&self, full: bool) -> Option<Step> {
        match self {
            Self::Gather(gather) => Some(gather.steps()),
            Self::Final(query) => Some(query.steps(full)),
            Self::Write(write) => Some(write.steps(full)),
            _ => None,
        }
    }
}

impl Gather {
    pub fn steps(&self) -> Step {
        self.step_of(&self.tree)
    }

    fn step_of(&self, node: &Node) -> Step {
        let heading = node.to_string();
        let detail = heading.split_once(": ").map_or("", |(_, detail)| detail).to_owned();
        match node.input() {
            None => Step {
                name: node.name(),
                detail: self.shards.to_string(),
                lines: lines_of(self.timed_sql.as_ref().unwrap_or(&self.sql)),
                ..Step::default()
            },
            Some(input) => {
                let (name, rows_max) = (node.name(), node.rows_max());
                Step { name, detail, rows_max, inputs: vec![self.step_of(input)], ..Step::default() }
            }
        }
    }
}

impl FinalQuery {
    /// `full` shows the text as a server runs it.
    pub fn steps(&self, full: bool) -> Step {
        let detail = match self.home {
            Some(home) => format!("on shard {}", home.0),
            None => format!("on one of {}", self.shards),
        };
        let inputs = self.inputs.iter().enumerate().map(|(number, input)| Step {
            name: "Input",
            detail: format!("{} {}{}", number + 1, input.table, narrowing(input)),
            inputs: vec![asked(input).steps()],
            ..Step::default()
        });
        let lines = lines_of(if full { &self.sql } else { &self.shown });
        Step { name: "Final", detail, lines, inputs: inputs.collect(), ..Step::default() }
    }
}

impl Write {
    /// `full` shows the texts as servers run them.
    pub fn steps(&self, full: bool) -> Step {
        match self {
            Self::Each(each) => {
                let detail = match &each.copies {
                    Some(Copies { mirror: Some(_), .. }) => {
                        format!("on the first shard, its rows then on {}", each.target)
                    }
                    Some(_) => format!("the same on {}", each.target),
                    None => format!("its own rows on {}", each.target),
                };
                Step { name: "WriteEach", detail, ..each.query.steps(full) }
            }
            Self::Rows(insert) => {
                let numbered = if let Returns::Numbered(_) = insert.returns { ", with its number" } else { "" };
                Step { name: "InsertRows", detail: format!("each row on {}{numbered}", insert.keys), ..Step::default() }
            }
            Self::Selected(insert) => {
                let detail = insert.source.to_string().trim_start_matches("Route: ").to_owned();
                let route = || Step { name: "Route", detail, lines: lines_of(&insert.text), ..Step::default() };
                let inputs = vec![insert.source.steps(full).unwrap_or_else(route)];
                let added = insert.added.iter().flat_map(|added| added.names());
                let added = added.collect::<Vec<_>>().join(", ");
                let with = if added.is_empty() { added } else { format!(", with {added} of the router") };
                Step {
                    name: "InsertSelected",
                    detail: format!("each row on its shard{with}"),
                    inputs,
                    ..Step::default()
                }
            }
            Self::Staged(staged) => staged.steps(full),
            Self::Moved(moved) => Step {
                name: "MoveRows",
                detail: format!("from {} to those of their new keys", moved.target),
                lines: lines_of(&moved.find),
                inputs: moved.query.steps(full).inputs,
                ..Step::default()
            },
        }
    }
}

impl StagedWrite {
    pub fn steps(&self, full: bool) -> Step {
        let stages = (0..self.stages.len()).map(|n| Step { inputs: vec![self.step_of(n, full)], ..self.heading(n) });
        Step { name: "Stages", detail: "one after another".to_owned(), inputs: stages.collect(), ..Step::default() }
    }

    /// What a stage is called; nothing stands below it yet.
    pub fn heading(&self, number: usize) -> Step {
        let name = self.stages[number].name.as_deref().unwrap_or("the statement");
        Step { name: "Stage", detail: format!("{} {name}", number + 1), ..Step::default() }
    }

    fn step_of(&self, number: usize, full: bool) -> Step {
        let plan = &self.stages[number].plan;
        let lines = lines_of(&self.shown(number));
        let plain = || {
            let shown = plan.to_string();
            let name = if matches!(plan, Plan::Computed(_)) { "Computed" } else { "Route" };
            let detail = shown.split_once(": ").map_or("", |(_, detail)| detail).lines().next();
            Step { name, detail: detail.unwrap_or_default().to_owned(), lines, ..Step::default() }
        };
        plan.steps(full).unwrap_or_else(plain)
    }
}

/// What the shards are asked for, if the inputs before this one turn out to be small.
fn asked(input: &Input) -> Gather {
    let gather = input.gather.clone();
    match &input.narrowed {
        Some(narrowed) => Gather { sql: narrowed.sql.clone(), timed_sql: None, ..gather },
        None => gather,
    }
}

/// By what an input is narrowed, if those inputs turn out to be small.
fn narrowing(input: &Input) -> String {
    let Some(narrowed) = &input.narrowed else { return String::new() };
    let mut by: Vec<usize> = narrowed.by.iter().map(|(input, _)| input + 1).collect();
    by.sort_unstable();
    by.dedup();
    let by: Vec<String> = by.iter().map(usize::to_string).collect();
    format!(", narrowed by input {}", by.join(", "))
}

impl Node {
    /// What this node reads from; nothing for the leaf.
    pub fn input(&self) -> Option<&Self> {
        match self {
            Self::Route => None,
            Self::Append { input }
            | Self::MergeSort { input, .. }
            | Self::Aggregate { input, .. }
            | Self::Having { input, .. }
            | Self::Distinct { input, .. }
            | Self::Sort { input, .. }
            | Self::Limit { input, .. }
            | Self::Project { input } => Some(input),
        }
    }

    fn rows_max(&self) -> Option<u64> {
        match self {
            Self::Limit { count: Some(Count::Rows(rows)), .. } => Some(*rows),
            Self::Aggregate { keys, .. } if keys.is_empty() => Some(1),
            _ => None,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Route => "Route",
            Self::Append { .. } => "Append",
            Self::MergeSort { .. } => "MergeSort",
            Self::Aggregate { .. } => "Aggregate",
            Self::Having { .. } => "Having",
            Self::Distinct { .. } => "Distinct",
            Self::Sort { .. } => "Sort",
            Self::Limit { .. } => "Limit",
            Self::Project { .. } => "Project",
        }
    }
}

/// A tree with lines of branches; no newline at its end.
impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.draw(f, "")
    }
}

impl Step {
    /// `margin` stands before every line but the first.
    fn draw(&self, f: &mut Formatter<'_>, margin: &str) -> fmt::Result {
        f.write_str(self.name)?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        f.write_str(&self.notes)?;
        // The lines of a step that has others below it stand beside their branch.
        let beside = if self.inputs.is_empty() { "" } else { "│  " };
        for line in &self.lines {
            write!(f, "\n{margin}{beside}{line}")?;
        }
        for (number, input) in self.inputs.iter().enumerate() {
            let is_last = number + 1 == self.inputs.len();
            let (branch, beside) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            write!(f, "\n{margin}{branch}")?;
            input.draw(f, &format!("{margin}{beside}"))?;
        }
        Ok(())
    }
}

fn lines_of(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}
