//! The router's steps with what was measured of them and what servers say, as text.

use std::time::{Duration, Instant};

use pgsluice_sharding::plan::Step;

use crate::execute::steps::{Merged, Taken};

/// One step of the router.
pub(super) struct Report {
    /// Without its inputs.
    pub(super) step: Step,
    pub(super) actual: Option<Actual>,
    /// Those that run a part for this step.
    pub(super) servers: Vec<ServerReport>,
    pub(super) inputs: Vec<Self>,
}

/// What one server runs for a step.
pub(super) struct ServerReport {
    pub(super) shard: String,
    pub(super) role: &'static str,
    pub(super) actual: Option<Actual>,
    pub(super) plan: ServerPlan,
}

/// A server's answer to EXPLAIN.
pub(super) enum ServerPlan {
    Lines(Vec<String>),
    /// What stands within the list of a JSON document.
    Document(serde_json::Map<String, serde_json::Value>),
}

/// What was measured of a step or a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Actual {
    pub(super) rows: u64,
    /// Of the rows, as messages of the protocol.
    pub(super) bytes: Option<u64>,
    /// From the start to the first row, where that is measured, and to the end; without TIMING nothing.
    pub(super) time: Option<(Option<Duration>, Duration)>,
}

impl Actual {
    /// What one server has sent since `began`; `end` is when no more was needed.
    pub(super) fn of(taken: &Taken, began: Instant, end: Instant, is_timed: bool) -> Self {
        let end = taken.complete.unwrap_or(end);
        let since = |at: Instant| at.saturating_duration_since(began);
        let time = (Some(since(taken.first.unwrap_or(end))), since(end));
        Self { rows: taken.rows, bytes: Some(taken.bytes), time: is_timed.then_some(time) }
    }

    fn note(&self) -> String {
        let mut parts = Vec::new();
        if let Some((Some(first), last)) = self.time {
            parts.push(format!("time={:.3}..{:.3}", milliseconds(first), milliseconds(last)));
        }
        parts.push(format!("rows={}", self.rows));
        parts.extend(self.bytes.map(|bytes| format!("bytes={bytes}")));
        format!("  (actual {})", parts.join(" "))
    }
}

/// What stands below all steps of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Summary {
    pub(super) took: Option<Duration>,
    /// The statement has run once, so the servers' plans are estimates.
    pub(super) once: bool,
}

impl Report {
    pub(super) fn of(mut step: Step) -> Self {
        let inputs = std::mem::take(&mut step.inputs).into_iter().map(Self::of).collect();
        Self { step, actual: None, servers: Vec::new(), inputs }
    }

    /// The step that takes the shards' rows, below all others of a merge.
    pub(super) fn leaf(&mut self) -> &mut Self {
        match self.inputs.is_empty() {
            true => self,
            false => self.inputs[0].leaf(),
        }
    }

    /// Takes over what was measured of a merge and the steps above it.
    pub(super) fn measured(&mut self, merged: &Merged, is_timed: bool) {
        let mut above = merged.steps.iter().skip(1).copied();
        self.measured_from(merged, &mut above, is_timed);
    }

    /// `above` gives the rows of the steps that are above the source.
    fn measured_from(&mut self, merged: &Merged, above: &mut dyn Iterator<Item = u64>, is_timed: bool) -> u64 {
        let sum = |of: fn(&Taken) -> u64| merged.shards.iter().map(|(_, taken)| of(taken)).sum::<u64>();
        let below = match self.inputs.first_mut() {
            Some(input) => input.measured_from(merged, above, is_timed),
            None => sum(|taken| taken.rows),
        };
        let rows = match self.step.name {
            "Append" | "MergeSort" => merged.steps.first().copied().unwrap_or(below),
            "Route" | "Project" | "Input" => below,
            _ => above.next().unwrap_or(below),
        };
        let bytes = matches!(self.step.name, "Route" | "Input").then(|| sum(|taken| taken.bytes));
        let since = |at: Instant| at.saturating_duration_since(merged.began);
        let first = merged.shards.iter().filter_map(|(_, taken)| taken.first).min().unwrap_or(merged.ended);
        // When a step gives out its first row is not looked at; all end together.
        let time = (bytes.is_some().then(|| since(first)), since(merged.ended));
        self.actual = Some(Actual { rows, bytes, time: is_timed.then_some(time) });
        rows
    }

    pub(super) fn to_text(&self, summary: Option<Summary>) -> String {
        let mut text = self.to_step().to_string();
        let Some(Summary { took, once }) = summary else { return text };
        if once {
            text.push_str("\nIt locks, so it was run once, and the shards' own plans are estimates.");
        }
        if let Some(took) = took {
            text.push_str(&format!("\nExecution Time: {:.3} ms", milliseconds(took)));
        }
        text
    }

    fn to_step(&self) -> Step {
        let mut step = self.step.clone();
        step.notes = self.actual.map(|actual| actual.note()).unwrap_or_default();
        for server in &self.servers {
            let note = server.actual.map(|actual| actual.note()).unwrap_or_default();
            step.lines.push(format!("Shard {} ({}){note}", server.shard, server.role));
            if let ServerPlan::Lines(lines) = &server.plan {
                step.lines.extend(lines.iter().map(|line| format!("  {line}")));
            }
        }
        step.inputs = self.inputs.iter().map(Self::to_step).collect();
        step
    }
}

pub(super) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
