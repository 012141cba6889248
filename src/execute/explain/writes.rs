//! EXPLAIN of what writes on several shards: which of them store what, and how they find it. Without ANALYZE nothing is written.

use std::collections::BTreeMap;

use pgsluice_sharding::ShardId;
use pgsluice_sharding::plan::{Copies, InsertRows, SelectedRows, Step, Write};
use pgsluice_sharding::sql::Access;
use pgsluice_sharding::sql::rows::RowSpans;

use super::report::Report;
use super::{Asked, Explained, Inputs, Part, Runs, not_explained};
use crate::execute::decide::Decision;
use crate::execute::gather::ManyRequest;
use crate::execute::stages::{Done, StageCall};
use crate::execute::steps::Steps;
use crate::execute::types::ParameterTypes;
use crate::execute::{Conversation, Failure};
use crate::session::statements::{FinalRead, ManyWrite, RowSource};

impl Conversation {
    pub(super) async fn explain_write(&mut self, asked: Asked<'_>, write: &ManyWrite) -> Result<Explained, Failure> {
        let report = match write {
            ManyWrite::Each { read, target, copies } => {
                let (whose, target) = match copies {
                    Some(Copies { mirror: Some(_), .. }) => ("its rows are then copied, on", &target[..1]),
                    Some(_) => ("the same on", &target[..]),
                    None => ("its own rows on", &target[..]),
                };
                let turn = copies.as_ref().map(|copies| &*copies.turn);
                self.explain_each(asked, read, target, (whose, turn)).await?
            }
            ManyWrite::Rows { insert, places } => self.explain_rows(asked, insert, places).await?,
            ManyWrite::Selected { write, source } => self.explain_selected(asked, write, source).await?,
            ManyWrite::Moved { write, read, target } => self.explain_moved(asked, write, read, target).await?,
            ManyWrite::Staged { write } => self.explain_stages(asked, write).await?,
        };
        Ok(Explained { report, ran: None })
    }

    /// Every shard's plan, unless it depends on what is read elsewhere: then the plans for that.
    async fn explain_each(
        &mut self,
        asked: Asked<'_>,
        read: &FinalRead,
        target: &[ShardId],
        (whose, turn): (&str, Option<&str>),
    ) -> Result<Report, Failure> {
        let query = &read.query;
        let steps = query.steps(asked.explain.is_on("verbose", false));
        let mut report = Report::of(Step { name: "WriteEach", detail: self.named(whose, target), ..steps });
        let ids = self.link_explained(asked, target).await?;
        let arguments = asked.request.arguments;
        if query.inputs.is_empty() {
            if let (Some(turn), Runs::Apart) = (turn, asked.runs) {
                self.take_turn(&ids, turn).await?;
            }
            let types = self.write_description(ids[0], arguments).await?.parameter_types.clone();
            let told = match query.timed {
                true => self.timed(arguments, query.params, ids[0]).await?,
                false => arguments.clone(),
            };
            let part = Part { sql: &query.sql, types: &types, arguments: &told };
            self.add_servers(asked, &mut report, &ids, part, None).await?;
            return Ok(report);
        }
        self.explain_for_inputs(asked, report, read).await
    }

    /// The plans for what a write reads elsewhere.
    async fn explain_for_inputs(
        &mut self,
        asked: Asked<'_>,
        report: Report,
        read: &FinalRead,
    ) -> Result<Report, Failure> {
        let arguments = asked.request.arguments;
        let held = self.hold_for_final(read, Access::Lock).await?;
        let (read, description) = self.accepted(read, held.home, arguments).await?;
        let types = description.parameter_types.clone();
        let told = match read.query.timed {
            true => self.timed(arguments, read.query.params, held.home).await?,
            false => arguments.clone(),
        };
        let is_timed = read.query.timed;
        let inputs = Inputs { last: read, held: &held, types: &types, arguments: &told, is_timed };
        self.explain_inputs(asked, report, inputs, &Steps::default()).await
    }

    /// Each shard's plan for the rows that it gets.
    async fn explain_rows(
        &mut self,
        asked: Asked<'_>,
        insert: &InsertRows,
        places: &[ShardId],
    ) -> Result<Report, Failure> {
        let arguments = asked.request.arguments;
        let text = arguments.text.clone();
        let spans = RowSpans::of(&text).filter(|spans| spans.rows.len() == places.len()).ok_or_else(not_explained)?;
        let mut rows: BTreeMap<ShardId, Vec<usize>> = BTreeMap::new();
        for (row, shard) in places.iter().enumerate() {
            rows.entry(*shard).or_default().push(row);
        }
        let shards: Vec<ShardId> = rows.keys().copied().collect();
        let ids = self.link_explained(asked, &shards).await?;
        let types = self.write_description(ids[0], arguments).await?.parameter_types.clone();
        let told = match insert.timed {
            true => self.timed(arguments, insert.params, ids[0]).await?,
            false => arguments.clone(),
        };
        let detail = self.named("each row on its shard,", &shards);
        let mut report = Report::of(Step { name: "InsertRows", detail, ..Step::default() });
        for (id, own) in ids.iter().zip(rows.values()) {
            let sql = insert.part(&spans.text_with(&text, own));
            let part = Part { sql: &sql, types: &types, arguments: &told };
            self.add_servers(asked, &mut report, &[*id], part, None).await?;
        }
        Ok(report)
    }

    /// A server on each of these shards, which writes if the statement is run.
    async fn link_explained(&mut self, asked: Asked<'_>, shards: &[ShardId]) -> Result<Vec<u64>, Failure> {
        let ids = match asked.runs {
            Runs::Apart => self.link_writers(shards, Access::Write).await?,
            Runs::Never | Runs::Once | Runs::Twice => self.link_all(shards, Access::Lock).await?,
        };
        self.measure.touches(ids.len());
        Ok(ids)
    }

    /// How the rows are found that are stored.
    async fn explain_selected(
        &mut self,
        asked: Asked<'_>,
        write: &Write,
        source: &RowSource,
    ) -> Result<Report, Failure> {
        let Write::Selected(SelectedRows { text, .. }) = write else { return Err(not_explained()) };
        let full = asked.explain.is_on("verbose", false);
        let i = self.link(None, Access::Lock).await?;
        let id = self.links[i].server.id.0;
        let types = self.write_description(id, asked.request.arguments).await?.parameter_types.clone();
        let query = asked.request.arguments.of_part(&types.settle(text)).with_types(types.numbers());
        let mut report = Report::of(write.steps(full));
        let below = match source {
            RowSource::Many(read) => {
                let request = ManyRequest { arguments: &query, ..asked.request };
                Box::pin(self.explain_once(Asked { request, ..asked }, read)).await?.report
            }
            RowSource::Shard(shard) => {
                let ids = self.link_all(&[*shard], Access::Lock).await?;
                let mut below = std::mem::take(&mut report.inputs).pop().ok_or_else(not_explained)?;
                let part = Part { sql: text, types: &types, arguments: &query };
                self.add_servers(asked, &mut below, &ids, part, None).await?;
                below
            }
        };
        report.inputs = vec![below];
        Ok(report)
    }

    /// What becomes of each stage when those before it give back nothing.
    async fn explain_stages(&mut self, asked: Asked<'_>, write: &Write) -> Result<Report, Failure> {
        let Write::Staged(staged) = write else { return Err(not_explained()) };
        let mut report = Report::of(Step { inputs: Vec::new(), ..staged.steps(false) });
        let whole = self.judge_stages(staged, asked.request.arguments).await?;
        let mut done = Done::default();
        for stage in 0..staged.stages.len() {
            let call = self.stage_call(&whole, stage, &done, &[])?;
            if stage + 1 < staged.stages.len() {
                self.describe_stage(&whole, stage, &call, &mut done).await?;
            }
            let mut heading = Report::of(staged.heading(stage));
            heading.inputs = vec![Box::pin(self.explain_stage(asked, &call)).await?];
            report.inputs.push(heading);
        }
        Ok(report)
    }

    async fn explain_stage(&mut self, asked: Asked<'_>, call: &StageCall) -> Result<Report, Failure> {
        let arguments = call.arguments();
        match self.decide_bound(&call.statement, &call.body)? {
            Decision::Many { read, access } => {
                let request = ManyRequest { arguments: &arguments, access, describe: false };
                Ok(self.explain_once(Asked { request, ..asked }, &read).await?.report)
            }
            Decision::Forward { shard, access } => {
                let detail = shard.map_or_else(|| "any shard".to_owned(), |shard| format!("shard {}", shard.0));
                let mut report = Report::of(Step { name: "Route", detail, ..Step::default() });
                let i = self.link(shard, access.min(Access::Lock)).await?;
                let id = self.links[i].server.id.0;
                let types = self.write_description(id, &arguments).await?.parameter_types.clone();
                let part = Part { sql: &call.statement.text, types: &types, arguments: &arguments };
                self.add_servers(asked, &mut report, &[id], part, None).await?;
                Ok(report)
            }
            // Values are taken only when it runs.
            _ => {
                let plan = call.statement.script.statements.first().map(|first| first.plan.to_string());
                let plan = plan.unwrap_or_default();
                let detail = plan.split_once(": ").map_or("", |(_, detail)| detail).to_owned();
                Ok(Report::of(Step { name: "Computed", detail, ..Step::default() }))
            }
        }
    }

    /// How each shard finds the rows whose keys change, unless that depends on what is read elsewhere: then how that is read.
    async fn explain_moved(
        &mut self,
        asked: Asked<'_>,
        write: &Write,
        read: &FinalRead,
        target: &[ShardId],
    ) -> Result<Report, Failure> {
        let Write::Moved(moved) = write else { return Err(not_explained()) };
        let mut report = Report::of(write.steps(asked.explain.is_on("verbose", false)));
        let ids = self.link_all(target, Access::Lock).await?;
        self.measure.touches(ids.len());
        let arguments = asked.request.arguments;
        if !moved.query.inputs.is_empty() {
            return self.explain_for_inputs(asked, report, read).await;
        }
        let types: ParameterTypes = self.write_description(ids[0], arguments).await?.parameter_types.clone();
        let told = match moved.query.timed {
            true => self.timed(arguments, moved.query.params, ids[0]).await?,
            false => arguments.clone(),
        };
        let part = Part { sql: &moved.find, types: &types, arguments: &told };
        self.add_servers(asked, &mut report, &ids, part, None).await?;
        Ok(report)
    }

    /// `its own rows on all shards`, or on how many.
    fn named(&self, what: &str, shards: &[ShardId]) -> String {
        match (shards, self.served.all_shards().count()) {
            (shards, all) if shards.len() == all => format!("{what} all shards"),
            ([one], _) => format!("{what} shard {}", one.0),
            (shards, _) => format!("{what} {} shards", shards.len()),
        }
    }
}
