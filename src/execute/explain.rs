//! EXPLAIN over several shards: the router's steps, with what each server says of its own part below the step it belongs to.
//!
//! With ANALYZE the statement runs as it would without EXPLAIN, but its rows go nowhere, and the router measures its
//! steps. Then every server runs its part once more by itself, under its own EXPLAIN ANALYZE. What locks runs only
//! once: then the servers' plans are those of EXPLAIN. What writes is refused.

mod document;
mod report;
mod writes;

use std::time::Instant;

use bytes::BytesMut;
use pgsluice_sharding::ShardId;
use pgsluice_sharding::merge::Merge;
use pgsluice_sharding::plan::{Copies, Gather, Step};
use pgsluice_sharding::sql::{Access, Command, Explain, ExplainFormat, Statement};

use crate::clock;
use crate::pool::server::{Audience, Due};
use crate::protocol::backend::{self, Field};
use crate::protocol::error::ErrorFields;
use crate::protocol::frontend;
use crate::protocol::reply;
use crate::session::settings::quote_literal;
use crate::session::statements::{FinalRead, ManyPortal, ManyRead, ManyWrite};

use super::arguments::Arguments;
use super::ask::Answer;
use super::cursors::close_portal_of_router;
use super::decide::Decision;
use super::final_query::{Collected, Held};
use super::final_tables::Until;
use super::gather::{Attempt, Head, ManyRequest, OUT_OF_MEMORY, Sink, bind_for_shard, sql_for_shards};
use super::steps::{Merged, Steps, Taken};
use super::types::ParameterTypes;
use super::worker::Description;
use super::{Conversation, Failure};
use report::{Actual, Report, ServerPlan, ServerReport, Summary};

/// The types of EXPLAIN's column besides text.
const JSON_OID: u32 = 114;
const XML_OID: u32 = 142;

/// The one column of EXPLAIN, in the result format that the client has asked for.
pub(super) fn describe(out: &mut BytesMut, explain: &Explain, format: i16) {
    let text = Field::text("QUERY PLAN");
    let type_oid = match explain.format {
        ExplainFormat::Json => JSON_OID,
        ExplainFormat::Xml => XML_OID,
        ExplainFormat::Text | ExplainFormat::Yaml => text.type_oid,
    };
    backend::row_description(out, &[Field { type_oid, format, ..text }]);
}

/// What explains the statement of a portal, if it is an EXPLAIN.
pub(super) fn explains(portal: &ManyPortal) -> Option<&Explain> {
    match portal.statement.script.statements.first().map(|first| &first.command) {
        Some(Command::Explain(explain)) => Some(explain),
        _ => None,
    }
}

/// Describe of a portal that explains.
pub(super) fn describe_portal(out: &mut BytesMut, explain: &Explain, portal: &ManyPortal) -> Result<(), Failure> {
    describe(out, explain, Arguments::of_portal(portal).bind()?.result_formats.of(0));
    Ok(())
}

/// How often a statement may run while it is explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Runs {
    Never,
    /// By the router; servers only plan their parts.
    Once,
    /// By the router, and on each server for its own ANALYZE.
    Twice,
    /// On each server for its own ANALYZE: a write, which stays.
    Apart,
}

/// One EXPLAIN of a read.
#[derive(Clone, Copy)]
struct Asked<'a> {
    explain: &'a Explain,
    /// Of the read itself, with all results as text.
    request: ManyRequest<'a>,
    runs: Runs,
}

impl Asked<'_> {
    /// `EXPLAIN (options)` for the servers. `verbose` is what they may be asked at most.
    fn prefix(&self, verbose: bool) -> String {
        let mut options = Vec::new();
        for (name, value) in &self.explain.options {
            let for_running = matches!(name.as_str(), "analyze" | "timing" | "wal" | "serialize");
            if (self.runs == Runs::Once && for_running) || (name == "verbose" && !verbose) {
                continue;
            }
            let value = value.as_ref().map(|value| match value.parse::<i64>() {
                Ok(number) => format!(" {number}"),
                Err(_) => format!(" {}", quote_literal(value)),
            });
            let value = value.unwrap_or_default();
            options.push(format!("\"{}\"{value}", name.replace('"', "\"\"")));
        }
        if self.explain.format != ExplainFormat::Text {
            // Of equal options the last counts.
            options.push("format json".to_owned());
        }
        if options.is_empty() { "EXPLAIN ".to_owned() } else { format!("EXPLAIN ({}) ", options.join(", ")) }
    }

    fn ran(&self, began: Instant, ended: Instant) -> Summary {
        Summary { took: Some(ended.saturating_duration_since(began)), once: self.runs == Runs::Once }
    }

    fn is_timed(&self) -> bool {
        self.explain.is_on("timing", true)
    }
}

impl Conversation {
    /// Explains what the router does with a statement; `text` is that of the request.
    pub(super) async fn explain(
        &mut self,
        statement: &Statement,
        text: &str,
        decision: Decision,
        with_names: bool,
    ) -> Result<(), Failure> {
        let Command::Explain(explain) = &statement.command else {
            return Err(ErrorFields::error("XX000", "only EXPLAIN is explained").into());
        };
        let arguments = Arguments::none(&text[explain.inner.clone()]);
        let report = match decision {
            Decision::Many { read, access } => {
                let request = ManyRequest { arguments: &arguments, access, describe: with_names };
                return self.explain_read(explain, &read, request).await;
            }
            Decision::Broadcast(_) => self.explain_on_all(explain, statement, &arguments).await?,
            _ => {
                return Err(not_explained());
            }
        };
        self.tell_explained(explain, &Explained { report, ran: None }, with_names);
        Ok(())
    }

    /// Execute of a portal that explains.
    pub(super) async fn explain_portal(&mut self, explain: &Explain, portal: &ManyPortal) -> Result<(), Failure> {
        let arguments =
            Arguments::of_portal(portal).of_part(&portal.statement.text[explain.inner.clone()]).as_text()?;
        let access = portal.statement.script.statements.first().map_or(Access::Read, |first| first.access);
        self.explain_read(explain, &portal.read, ManyRequest { arguments: &arguments, access, describe: false }).await
    }

    /// Explains a read; if a shard had an outdated plan, a second time.
    async fn explain_read(
        &mut self,
        explain: &Explain,
        read: &ManyRead,
        request: ManyRequest<'_>,
    ) -> Result<(), Failure> {
        let runs = match (explain.analyze, request.access) {
            (false, _) => Runs::Never,
            (true, Access::Read) => Runs::Twice,
            (true, Access::Lock) => Runs::Once,
            (true, Access::Write) => match read {
                ManyRead::Written(write) => return self.explain_and_write(explain, write, request).await,
                ManyRead::Merged { .. } | ManyRead::Finished(_) => return Err(self.refuse_to_write()),
            },
        };
        let asked = Asked { explain, request, runs };
        let said = self.client.out.len();
        let explained = match self.explain_once(asked, read).await {
            Ok(explained) => explained,
            Err(failure) => {
                let result = Err(failure);
                if !self.may_try_again(&result, Attempt::First) {
                    return result;
                }
                self.client.out.truncate(said);
                self.refresh_catalog().await?;
                self.explain_once(asked, read).await?
            }
        };
        self.tell_explained(explain, &explained, request.describe);
        Ok(())
    }

    /// Each server runs its part of a write and says how; the parts stay or go together.
    async fn explain_and_write(
        &mut self,
        explain: &Explain,
        write: &ManyWrite,
        request: ManyRequest<'_>,
    ) -> Result<(), Failure> {
        let reads_elsewhere = match write {
            ManyWrite::Each { copies: Some(Copies { mirror: Some(_), .. }), .. } => true,
            ManyWrite::Each { read, .. } => !read.query.inputs.is_empty(),
            ManyWrite::Rows { .. } => false,
            ManyWrite::Selected { .. } | ManyWrite::Moved { .. } | ManyWrite::Staged { .. } => true,
        };
        if reads_elsewhere {
            return Err(self.refuse_to_write());
        }
        self.cannot_run_again();
        let asked = Asked { explain, request, runs: Runs::Apart };
        let began = clock::now();
        let work = async |this: &mut Self| {
            let told = this.with_moments(request.arguments).await?;
            let request = ManyRequest { arguments: told.as_ref().unwrap_or(request.arguments), ..request };
            this.explain_write(Asked { request, ..asked }, write).await
        };
        let mut explained = self.in_own_block(work).await?;
        explained.ran = Some(asked.ran(began, clock::now()));
        self.tell_explained(explain, &explained, request.describe);
        Ok(())
    }

    async fn explain_once(&mut self, asked: Asked<'_>, read: &ManyRead) -> Result<Explained, Failure> {
        let (gather, shards, or_else) = match read {
            ManyRead::Merged { gather, shards, or_else } => (gather, shards, or_else),
            ManyRead::Finished(last) => return self.explain_final(asked, last).await,
            ManyRead::Written(write) => return self.explain_write(asked, write).await,
        };
        self.measure.touches(shards.len());
        let arguments = asked.request.arguments;
        let ids = self.link_all(shards, asked.request.access).await?;
        // A plan for whatever parameters has none to look at.
        if asked.runs == Runs::Never && asked.explain.is_on("generic_plan", false) {
            let types = ParameterTypes::default();
            let part = Part { sql: &gather.sql, types: &types, arguments };
            return self.explain_merge(asked, gather, &ids, part, None).await;
        }
        let description = self.description(ids[0], gather, arguments).await?;
        let told = match &gather.timed_sql {
            Some(_) => self.timed(arguments, gather.params, ids[0]).await?,
            None => arguments.clone(),
        };
        let merge = match (self.merge(gather, ids.len(), &description, &told), or_else) {
            (Ok(merge), _) => merge,
            // The types of the rows forbid it.
            (Err(Failure::Error(fields)), Some(last)) if fields.sqlstate == "0A000" => {
                return self.explain_final(asked, last).await;
            }
            (Err(failure), _) => return Err(failure),
        };
        let mut ran = None;
        if asked.runs != Runs::Never {
            ran = match (self.run_to_nowhere(gather, &ids, &description, merge, &told).await, or_else) {
                (Ok(found), _) => Some(found),
                (Err(Failure::Error(fields)), Some(last)) if fields.sqlstate == OUT_OF_MEMORY => {
                    return self.explain_final(asked, last).await;
                }
                (Err(failure), _) => return Err(failure),
            };
        }
        let part = Part { sql: sql_for_shards(gather), types: &description.parameter_types, arguments: &told };
        self.explain_merge(asked, gather, &ids, part, ran).await
    }

    /// Runs a read that the router merges.
    async fn run_to_nowhere(
        &mut self,
        gather: &Gather,
        ids: &[u64],
        description: &Description,
        mut merge: Merge,
        arguments: &Arguments,
    ) -> Result<Ran, Failure> {
        let mut bytes = 0;
        let began = clock::now();
        self.measure.steps = Some(Box::default());
        let result =
            self.run_gather(gather, ids, description, &mut merge, arguments, &mut Sink::Nowhere(&mut bytes)).await;
        let steps = self.measure.steps.take();
        result??;
        let mut merged = steps.and_then(|steps| steps.of_input(0)).ok_or_else(not_measured)?;
        // The locks of all shards but the last were waited for before the merge began.
        merged.began = began;
        Ok(Ran { merged, bytes })
    }

    async fn explain_merge(
        &mut self,
        asked: Asked<'_>,
        gather: &Gather,
        ids: &[u64],
        part: Part<'_>,
        ran: Option<Ran>,
    ) -> Result<Explained, Failure> {
        let mut report = Report::of(gather.steps());
        if let Some(ran) = &ran {
            report.measured(&ran.merged, asked.is_timed());
            if let Some(actual) = &mut report.actual {
                actual.bytes = Some(ran.bytes);
            }
        }
        self.add_servers(asked, &mut report, ids, part, ran.as_ref().map(|ran| &ran.merged)).await?;
        let ran = ran.map(|ran| asked.ran(ran.merged.began, ran.merged.ended));
        Ok(Explained { report, ran })
    }

    async fn explain_final(&mut self, asked: Asked<'_>, last: &FinalRead) -> Result<Explained, Failure> {
        let arguments = asked.request.arguments;
        if asked.runs != Runs::Never {
            return self.run_and_explain_final(asked, last).await;
        }
        let held = self.hold_for_final(last, asked.request.access).await?;
        self.measure.touches(held.shards());
        let report = if asked.explain.is_on("generic_plan", false) {
            let types = ParameterTypes::default();
            let inputs = Inputs { last, held: &held, types: &types, arguments, is_timed: false };
            let report = report_of(asked, last);
            self.explain_inputs(asked, report, inputs, &Steps::default()).await?
        } else {
            let (last, description) = self.accepted(last, held.home, arguments).await?;
            let (query, types) = (&last.query, description.parameter_types.clone());
            let report = report_of(asked, last);
            let told = match query.timed {
                true => self.timed(arguments, query.params, held.home).await?,
                false => arguments.clone(),
            };
            let inputs = Inputs { last, held: &held, types: &types, arguments: &told, is_timed: query.timed };
            self.explain_inputs(asked, report, inputs, &Steps::default()).await?
        };
        Ok(Explained { report, ran: None })
    }

    /// Explains a final query that is run for it.
    async fn run_and_explain_final(&mut self, asked: Asked<'_>, last: &FinalRead) -> Result<Explained, Failure> {
        let began = clock::now();
        self.measure.steps = Some(Box::default());
        let collected = self.collect(last, asked.request, Attempt::Second, Until::Done).await;
        let steps = self.measure.steps.take().unwrap_or_default();
        let (collected, last) = collected?.ok_or(Failure::Told)?;
        let report = report_of(asked, last);
        // Tables for the inputs go with their transaction, so all is asked before.
        let explained = self.explain_collected(asked, last, &collected, report, (began, &steps)).await;
        let (explained, result) = match explained {
            Ok(explained) => (Some(explained), Ok(())),
            Err(failure) => (None, Err(failure)),
        };
        self.leave_tables(collected, result).await?;
        explained.ok_or(Failure::Told)
    }

    async fn explain_collected(
        &mut self,
        asked: Asked<'_>,
        last: &FinalRead,
        collected: &Collected,
        mut report: Report,
        (began, steps): (Instant, &Steps),
    ) -> Result<Explained, Failure> {
        let sql = collected.text();
        if collected.tables.is_some() {
            report.step.detail.push_str(", inputs in temporary tables");
            if asked.explain.is_on("verbose", false) {
                report.step.lines = sql.lines().map(str::to_owned).collect();
            }
        }
        let (taken, final_began) = self.run_final_to_nowhere(collected, &sql).await?;
        let end = taken.complete.unwrap_or_else(clock::now);
        report.actual = Some(Actual::of(&taken, began, end, asked.is_timed()));
        let plan = self.plan_of_final(asked, collected, &sql).await?;
        let actual = Some(Actual::of(&taken, final_began, end, asked.is_timed()));
        let server = self.server_report(collected.home(), actual, plan)?;
        report.servers.push(server);
        let inputs = Inputs {
            last,
            held: &collected.held,
            types: &collected.description.parameter_types,
            arguments: &collected.arguments,
            is_timed: last.query.timed,
        };
        let report = self.explain_inputs(asked, report, inputs, steps).await?;
        Ok(Explained { report, ran: Some(asked.ran(began, end)) })
    }

    /// Adds to the report of a final query what was measured of its inputs and what the shards say of them.
    async fn explain_inputs(
        &mut self,
        asked: Asked<'_>,
        mut report: Report,
        inputs: Inputs<'_>,
        steps: &Steps,
    ) -> Result<Report, Failure> {
        let each = inputs.last.query.inputs.iter().zip(&inputs.last.inputs).zip(&mut report.inputs);
        for (number, ((input, shards), report)) in each.enumerate() {
            let ids = inputs.held.on(shards);
            let merged = steps.of_input(number);
            if let Some(merged) = &merged {
                report.measured(merged, asked.is_timed());
            }
            let sql = if inputs.is_timed { sql_for_shards(&input.gather) } else { &input.gather.sql };
            let part = Part { sql, types: inputs.types, arguments: inputs.arguments };
            self.add_servers(asked, report, &ids, part, merged.as_ref()).await?;
        }
        Ok(report)
    }

    /// Runs a final query; what came of it, and when it began.
    async fn run_final_to_nowhere(&mut self, collected: &Collected, sql: &str) -> Result<(Taken, Instant), Failure> {
        let began = clock::now();
        self.send_final(collected, sql)?;
        let home = collected.home();
        let i = self.position(home)?;
        self.links[i].borrow_buffer(&self.worker);
        self.send_out(i).await?;
        let mut head = Head::default();
        let result = self.take_all(i, &mut head).await;
        self.finish_all(&[home], result.is_err()).await?;
        result?;
        Ok((head.taken, began))
    }

    async fn take_all(&mut self, i: usize, head: &mut Head) -> Result<(), Failure> {
        loop {
            self.look_at(i, head)?;
            let taken = std::mem::take(&mut head.rows);
            self.links[i].inbox.consume(taken);
            if head.finished {
                return Ok(());
            }
            // Behind rows an error may have come with them, after which the server says nothing more.
            if taken == 0 {
                self.exchange(i).await?;
            }
        }
    }

    /// What the server of a final query says of it, with the inputs as they are.
    async fn plan_of_final(
        &mut self,
        asked: Asked<'_>,
        collected: &Collected,
        sql: &str,
    ) -> Result<ServerPlan, Failure> {
        // VERBOSE would show all rows of the inputs: they are constants there.
        let sql = format!("{}{sql}", asked.prefix(false));
        self.send_final(collected, &sql)?;
        let i = self.position(collected.home())?;
        let answer = self.read_answer(i).await?;
        self.plan_in(asked, answer)
    }

    /// Sends a text over the inputs of a final query to its server.
    fn send_final(&mut self, collected: &Collected, sql: &str) -> Result<(), Failure> {
        let portal = self.portal_of_router(collected.home());
        let i = self.bind_collected(collected, sql, portal)?;
        let link = &mut self.links[i];
        frontend::execute(&mut link.out, portal, 0);
        link.server.state.expect(Due::Execute(Audience::Router));
        close_portal_of_router(link, portal);
        frontend::sync(&mut link.out);
        link.server.state.expect(Due::Sync(Audience::Router));
        Ok(())
    }

    /// Adds to a report what each shard says of its part.
    async fn add_servers(
        &mut self,
        asked: Asked<'_>,
        report: &mut Report,
        ids: &[u64],
        part: Part<'_>,
        merged: Option<&Merged>,
    ) -> Result<(), Failure> {
        let sql = format!("{}{}", asked.prefix(true), part.types.settle(part.sql));
        for id in ids {
            let i = self.position(*id)?;
            let bind = part.arguments.bind()?;
            let answer = match bind.values.count() {
                0 => self.ask(i, &sql).await?,
                _ => {
                    let put = |out: &mut BytesMut, portal: &[u8]| {
                        bind_for_shard(out, portal, "", &bind, &[]);
                        Ok(())
                    };
                    self.ask_bound(i, &sql, part.types.numbers(), put).await?
                }
            };
            let plan = self.plan_in(asked, answer)?;
            let actual = merged.and_then(|merged| {
                let taken = merged.taken_of(*id)?;
                Some(Actual::of(taken, merged.began, merged.ended, asked.is_timed()))
            });
            let server = self.server_report(*id, actual, plan)?;
            report.leaf().servers.push(server);
        }
        Ok(())
    }

    fn server_report(&self, id: u64, actual: Option<Actual>, plan: ServerPlan) -> Result<ServerReport, Failure> {
        let link = &self.links[self.position(id)?];
        let role = if link.is_replica() { "replica" } else { "primary" };
        Ok(ServerReport { shard: self.served.shard(link.shard).name.to_string(), role, actual, plan })
    }

    /// Reads a server's answer to an EXPLAIN.
    fn plan_in(&mut self, asked: Asked<'_>, answer: Answer) -> Result<ServerPlan, Failure> {
        let mut cells = Vec::new();
        for row in answer.rows() {
            if let Some(Ok(Some(cell))) = reply::data_row(row).ok().and_then(|mut cells| cells.next()) {
                cells.push(String::from_utf8_lossy(cell).into_owned());
            }
        }
        answer.into_result(self)?;
        if asked.explain.format == ExplainFormat::Text {
            return Ok(ServerPlan::Lines(cells));
        }
        let document = document::read(&cells.concat());
        let unreadable = || ErrorFields::error("XX000", "a server's plan cannot be read");
        Ok(ServerPlan::Document(document.ok_or_else(unreadable)?))
    }

    /// EXPLAIN of what runs on every shard as it is.
    async fn explain_on_all(
        &mut self,
        explain: &Explain,
        statement: &Statement,
        arguments: &Arguments,
    ) -> Result<Report, Failure> {
        if explain.analyze {
            return Err(self.refuse_to_write());
        }
        let request = ManyRequest { arguments, access: statement.access, describe: false };
        let asked = Asked { explain, request, runs: Runs::Never };
        let step = Step { name: "Broadcast", detail: "all shards".to_owned(), ..Step::default() };
        let mut report = Report::of(step);
        let shards: Vec<ShardId> = self.served.all_shards().collect();
        self.measure.touches(shards.len());
        let sql = format!("{}{}", asked.prefix(true), arguments.text);
        for id in self.link_all(&shards, statement.access).await? {
            let i = self.position(id)?;
            let answer = self.ask(i, &sql).await?;
            let plan = self.plan_in(asked, answer)?;
            report.servers.push(self.server_report(id, None, plan)?);
        }
        Ok(report)
    }

    fn refuse_to_write(&self) -> Failure {
        self.served.stats.refused.add(1);
        let message =
            "EXPLAIN ANALYZE of a statement that moves rows between shards, or changes them by what it reads elsewhere";
        ErrorFields::error("0A000", message).with_hint("Leave ANALYZE out.").into()
    }

    fn tell_explained(&mut self, explain: &Explain, explained: &Explained, with_names: bool) {
        if with_names {
            describe(&mut self.client.out, explain, 0);
        }
        let mut summary = explained.ran;
        if let Some(summary) = summary.as_mut().filter(|_| !explain.is_on("summary", true)) {
            summary.took = None;
        }
        match explain.format {
            ExplainFormat::Text => {
                let text = explained.report.to_text(summary);
                text.lines().for_each(|line| backend::data_row(&mut self.client.out, &[Some(line)]));
            }
            other => {
                let document = document::show(other, &explained.report, summary);
                backend::data_row(&mut self.client.out, &[Some(document)]);
            }
        }
        self.complete("EXPLAIN");
    }
}

/// What shards run for a step.
#[derive(Clone, Copy)]
struct Part<'a> {
    sql: &'a str,
    types: &'a ParameterTypes,
    /// With the time, if the text asks for it.
    arguments: &'a Arguments,
}

/// The inputs of a final query and who has them.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    last: &'a FinalRead,
    held: &'a Held,
    types: &'a ParameterTypes,
    arguments: &'a Arguments,
    /// The arguments say what time it is.
    is_timed: bool,
}

/// What is known of a statement.
struct Explained {
    report: Report,
    /// Of the router's run, if there was one.
    ran: Option<Summary>,
}

/// A read that the router has merged.
struct Ran {
    merged: Merged,
    /// Of the rows of the answer.
    bytes: u64,
}

fn not_explained() -> Failure {
    ErrorFields::error("0A000", "EXPLAIN of this statement is not supported over several shards")
        .with_hint("Explain it on one shard, past the router.")
        .into()
}

fn not_measured() -> Failure {
    ErrorFields::error("XX000", "a merge was not measured").into()
}

/// The steps of a final query.
fn report_of(asked: Asked<'_>, last: &FinalRead) -> Report {
    Report::of(last.query.steps(asked.explain.is_on("verbose", false)))
}
