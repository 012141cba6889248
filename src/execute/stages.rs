//! Statements with CTEs that write, beside something else: stage after stage, each with the rows of those before it as arrays. All of it is
//! one transaction, the client's or one of the router's own.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use pgsluice_sharding::Refusal;
use pgsluice_sharding::catalog::element_type;
use pgsluice_sharding::merge::ColumnType;
use pgsluice_sharding::plan::{Carried, StagedWrite};
use pgsluice_sharding::sql::Access;

use crate::protocol::error::ErrorFields;
use crate::protocol::frame::{put_count, put_cstr, put_value};
use crate::protocol::reply;
use crate::session::statements::{FinalRead, ManyRead, PreparedStatement};

use super::arguments::Arguments;
use super::ask::Notices;
use super::cursors::close_portal_of_router;
use super::decide::Decision;
use super::final_query::InputRows;
use super::final_tables::Until;
use super::gather::{BINARY, ManyRequest, Outflow, Sink, is_out_of_memory};
use super::selected::TSQUERY;
use super::types::ParameterTypes;
use super::worker::{Description, Served};
use super::writes::{Part, Returned};
use super::{Conversation, Failure};
use crate::pool::server::{Audience, Due};
use crate::protocol::frontend;

const TEXT_OID: u32 = 25;

/// Of those that PostgreSQL brings: `oid`, `xid` and what else means an object of one server by a number, and what has no binary form.
const NEVER: [u32; 14] = [24, 26, 28, 1033, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191];

/// What the stages before one have given back.
#[derive(Default)]
pub(super) struct Done {
    pub(super) carried: Vec<Vec<Carried>>,
    /// The types of the arrays' elements.
    elements: Vec<Vec<ColumnType>>,
    rows: Vec<InputRows>,
}

/// The statement that a stage is, and the body of its Bind.
pub(super) struct StageCall {
    pub(super) statement: Rc<PreparedStatement>,
    pub(super) body: Bytes,
}

impl StageCall {
    pub(super) fn arguments(&self) -> Arguments {
        Arguments::bound(&self.statement, self.body.clone())
    }
}

/// The whole statement as it came, and what servers say of it.
pub(super) struct Whole<'a> {
    pub(super) staged: &'a StagedWrite,
    pub(super) arguments: &'a Arguments,
    pub(super) description: Rc<Description>,
    /// The server that describes.
    pub(super) judge: u64,
    /// When the transaction began, if a stage asks for it.
    time: Option<Bytes>,
}

impl Conversation {
    /// Runs all stages; the rows and the tag are those of the last.
    pub(super) async fn write_in_stages(
        &mut self,
        staged: &StagedWrite,
        request: ManyRequest<'_>,
    ) -> Result<String, Failure> {
        let whole = self.judge_stages(staged, request.arguments).await?;
        self.hold_to_what_was_told(&whole.description, request.arguments)?;
        if request.describe && !whole.description.client_columns.is_empty() {
            self.send_row_description(&whole.description, request.arguments)?;
        }
        let mut done = Done::default();
        let last = staged.stages.len().saturating_sub(1);
        for stage in 0..last {
            self.run_stage(&whole, stage, &mut done).await?;
        }
        let bind = request.arguments.bind()?;
        let formats: Vec<i16> = bind.result_formats.codes().collect();
        let call = self.stage_call(&whole, last, &done, &formats)?;
        self.run_call(call).await
    }

    /// Has servers say what the statement is, and whether its stages could tell that they run one after another.
    pub(super) async fn judge_stages<'a>(
        &mut self,
        staged: &'a StagedWrite,
        arguments: &'a Arguments,
    ) -> Result<Whole<'a>, Failure> {
        self.begin_on_several().await?;
        // Types are known by the numbers that they have on the first shard.
        let i = self.link(Some(Served::HOME), Access::Lock).await?;
        let judge = self.links[i].server.id.0;
        let description = self.write_description(judge, arguments).await?;
        for shard in &staged.judges {
            let i = self.link(Some(*shard), Access::Lock).await?;
            let answer = self.ask(i, &staged.hindrances).await?;
            let cell = answer.rows().find_map(|row| reply::data_row(row).ok()?.next()?.ok()?);
            let what = cell.map(|cell| String::from_utf8_lossy(cell).into_owned());
            answer.into_result(self)?;
            if let Some(what) = what {
                self.served.stats.refused.add(1);
                return Err(hindered(&what).into());
            }
        }
        let time = match staged.stages.iter().any(|stage| stage.timed) {
            true => Some(self.transaction_time(judge).await?),
            false => None,
        };
        Ok(Whole { staged, arguments, description, judge, time })
    }

    /// Runs a stage whose rows wait for those behind it.
    async fn run_stage(&mut self, whole: &Whole<'_>, stage: usize, done: &mut Done) -> Result<(), Failure> {
        let call = self.stage_call(whole, stage, done, &[BINARY])?;
        let formats = self.describe_stage(whole, stage, &call, done).await?;
        let call = self.stage_call(whole, stage, done, &formats)?;
        let outer = self.kept.replace(Vec::new());
        let result = self.run_call(call).await;
        let kept = std::mem::replace(&mut self.kept, outer).unwrap_or_default();
        result?;
        // What nobody reads needs no room.
        if whole.staged.stages.iter().any(|later| later.inputs.contains(&stage)) {
            done.rows[stage].take(&kept);
        }
        let bytes: usize = done.rows.iter().map(InputRows::bytes).sum();
        self.check_size(bytes, self.array_bytes_max())
    }

    /// Finds out what a stage will give back, and in which formats it is to be asked for.
    pub(super) async fn describe_stage(
        &mut self,
        whole: &Whole<'_>,
        stage: usize,
        call: &StageCall,
        done: &mut Done,
    ) -> Result<Vec<i16>, Failure> {
        let description = self.write_description(whole.judge, &call.arguments()).await?;
        let types = &description.client_columns;
        let as_text = types.iter().map(|found| found.type_oid).filter(|oid| binary_element(*oid).is_none());
        let names = self.names_of_types(whole.judge, &as_text.collect::<Vec<u32>>()).await?;
        let (mut carried, mut elements, mut formats) = (Vec::new(), Vec::new(), Vec::new());
        for (found, column) in types.iter().zip(&whole.staged.stages[stage].columns) {
            let name = names.iter().find(|(oid, _)| *oid == found.type_oid).map(|(_, name)| &**name);
            let (how, type_oid, format) = carry(found.type_oid, name).ok_or_else(|| not_carried(&column.name))?;
            carried.push(how);
            elements.push(ColumnType { type_oid, typmod: -1 });
            formats.push(format);
        }
        if carried.len() != whole.staged.stages[stage].columns.len() {
            return Err(ErrorFields::error("XX000", "a CTE returns other columns than were expected").into());
        }
        done.rows.push(InputRows::batch(carried.len()));
        done.carried.push(carried);
        done.elements.push(elements);
        // No codes would mean text, but one of them means all.
        Ok(formats)
    }

    /// The names of those types that can be carried as text: whose text means the same under all settings.
    async fn names_of_types(&mut self, id: u64, oids: &[u32]) -> Result<Vec<(u32, String)>, Failure> {
        if oids.is_empty() {
            return Ok(Vec::new());
        }
        let oids: Vec<String> = oids.iter().map(u32::to_string).collect();
        let question = format!(
            "SELECT t.oid, pg_catalog.quote_ident(n.nspname) OPERATOR(pg_catalog.||) '.' \
             OPERATOR(pg_catalog.||) pg_catalog.quote_ident(t.typname) FROM pg_catalog.pg_type t \
             JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) t.typnamespace \
             LEFT JOIN pg_catalog.pg_type e ON t.typcategory OPERATOR(pg_catalog.=) 'A' AND e.oid OPERATOR(pg_catalog.=) t.typelem \
             LEFT JOIN pg_catalog.pg_namespace s ON s.oid OPERATOR(pg_catalog.=) e.typnamespace \
             WHERE t.oid OPERATOR(pg_catalog.=) ANY ('{{{}}}'::pg_catalog.oid[]) \
             AND ('e'::pg_catalog.\"char\" OPERATOR(pg_catalog.=) ANY (ARRAY[t.typtype, e.typtype]) \
             OR t.typname OPERATOR(pg_catalog.=) 'citext' OR t.oid OPERATOR(pg_catalog.=) {TSQUERY}::pg_catalog.oid \
             OR s.nspname OPERATOR(pg_catalog.=) 'pg_catalog' AND e.typname OPERATOR(pg_catalog.=) ANY \
             ('{{bool,bpchar,bytea,cidr,inet,int2,int4,int8,json,jsonb,numeric,text,uuid,varchar}}'::pg_catalog.name[]))",
            oids.join(",")
        );
        let i = self.position(id)?;
        let answer = self.ask(i, &question).await?;
        let name = |row: &[u8]| {
            let mut cells = reply::data_row(row).ok()?.map(|cell| std::str::from_utf8(cell.ok()??).ok());
            Some((cells.next()??.parse().ok()?, cells.next()??.to_owned()))
        };
        let names = answer.rows().filter_map(name).collect();
        answer.into_result(self)?;
        Ok(names)
    }

    /// The statement that a stage is, now that the rows of those before it are known, with results in these formats.
    pub(super) fn stage_call(
        &mut self,
        whole: &Whole<'_>,
        stage: usize,
        done: &Done,
        formats: &[i16],
    ) -> Result<StageCall, Failure> {
        let Whole { staged, description, .. } = whole;
        let of = &staged.stages[stage];
        let types = &description.parameter_types;
        let text = staged.text(stage, &done.carried, |param| types.name_of(usize::from(param)).map(str::to_owned));
        let number = |param: &u16| types.numbers().get(usize::from(*param)).copied().unwrap_or(0);
        let param_types: Vec<u32> = of.params.iter().map(number).collect();
        let reading = self.session.reading();
        let statement = self.worker.prepare(&self.served, &*self.catalog()?, &reading, &text, &param_types)?;
        let bind = whole.arguments.bind()?;
        let given: Vec<(i16, Option<&[u8]>)> = bind.parameters().collect();
        let none = (0, None);
        let own = of.params.iter().map(|param| given.get(usize::from(*param)).copied().unwrap_or(none));
        let own: Vec<(i16, Option<&[u8]>)> = own.collect();
        let mut more: Vec<Bytes> = whole.time.iter().filter(|_| of.timed).cloned().collect();
        for input in &of.inputs {
            more.extend(done.rows[*input].arrays(&done.elements[*input]));
        }
        Ok(StageCall { statement, body: bind_body(&own, &more, formats) })
    }

    /// Where a stage goes, once its own values are in it.
    pub(super) async fn decide_stage(&mut self, call: StageCall) -> Result<(StageCall, Decision), Failure> {
        match self.decide_bound(&call.statement, &call.body)? {
            Decision::Compute(computed) => {
                let (statement, body, decision) = self.compute_bound(&call.statement, &computed, call.body).await?;
                Ok((StageCall { statement, body }, decision))
            }
            decision => Ok((call, decision)),
        }
    }

    /// Runs a text that reads or writes rows, without parameters, as a part of another statement; gives the command tag.
    pub(super) async fn run_inner(&mut self, text: &str) -> Result<String, Failure> {
        let reading = self.session.reading();
        let statement = self.worker.prepare(&self.served, &*self.catalog()?, &reading, text, &[])?;
        self.run_call(StageCall { statement, body: bind_body(&[], &[], &[]) }).await
    }

    /// Runs a stage wherever it goes; gives the command tag.
    async fn run_call(&mut self, call: StageCall) -> Result<String, Failure> {
        let (call, decision) = self.decide_stage(call).await?;
        let arguments = call.arguments();
        match decision {
            Decision::Forward { shard, access } => {
                let i = self.link(shard, access).await?;
                self.note_access(i, access)?;
                self.measure.touches(1);
                let id = self.links[i].server.id.0;
                let types = ParameterTypes::declared(&call.statement.param_types);
                let part = Part { id, sql: call.statement.text.to_string() };
                self.start_parts(std::slice::from_ref(&part), &types, &arguments)?;
                self.hear_part(id, Returned::Passed { describe: false }, Notices::Passed).await
            }
            Decision::Many { read, access } => {
                let request = ManyRequest { arguments: &arguments, access, describe: false };
                match &read {
                    ManyRead::Written(write) => Box::pin(self.write_all(write, request)).await,
                    read => self.read_stage(read, request).await,
                }
            }
            _ => Err(ErrorFields::error("XX000", "a stage is neither read nor written").into()),
        }
    }

    /// Runs a stage that only reads; gives the command tag.
    async fn read_stage(&mut self, read: &ManyRead, request: ManyRequest<'_>) -> Result<String, Failure> {
        let (gather, shards, or_else) = match read {
            ManyRead::Merged { gather, shards, or_else } => (gather, shards, or_else.as_ref()),
            ManyRead::Finished(last) => return self.finish_stage(last, request).await,
            ManyRead::Written(_) => return Err(ErrorFields::error("XX000", "a write is no read").into()),
        };
        self.measure.touches(shards.len());
        let ids = self.link_all(shards, request.access).await?;
        let description = self.description(ids[0], gather, request.arguments).await?;
        let told = match &gather.timed_sql {
            Some(_) => self.timed(request.arguments, gather.params, ids[0]).await?,
            None => request.arguments.clone(),
        };
        let mut merge = match (self.merge(gather, ids.len(), &description, &told), or_else) {
            (Ok(merge), _) => merge,
            (Err(Failure::Error(fields)), Some(last)) if fields.sqlstate == "0A000" => {
                return self.finish_stage(last, request).await;
            }
            (Err(failure), _) => return Err(failure),
        };
        let mut kept = self.kept.take();
        let mut outflow = Outflow::of(gather);
        let mut sink = match &mut kept {
            Some(rows) => Sink::Kept(rows),
            None => Sink::Client(&mut outflow),
        };
        let result = self.run_gather(gather, &ids, &description, &mut merge, &told, &mut sink).await;
        let began = outflow.has_begun();
        self.kept = kept;
        let result = result?;
        if let (true, false, Some(last)) = (is_out_of_memory(&result), began, or_else) {
            self.kept.iter_mut().for_each(Vec::clear);
            return self.finish_stage(last, request).await;
        }
        result?;
        self.measure.add_rows(merge.rows());
        Ok(format!("SELECT {}", merge.rows()))
    }

    /// Has a server finish a stage that only reads.
    async fn finish_stage(&mut self, last: &FinalRead, request: ManyRequest<'_>) -> Result<String, Failure> {
        let collected = self.collected(last, request, Until::Done).await?;
        let home = collected.home();
        let portal = self.portal_of_router(home);
        let i = self.bind_collected(&collected, &collected.text(), portal)?;
        let link = &mut self.links[i];
        frontend::execute(&mut link.out, portal, 0);
        link.server.state.expect(Due::Execute(Audience::Router));
        close_portal_of_router(link, portal);
        frontend::sync(&mut link.out);
        link.server.state.expect(Due::Sync(Audience::Router));
        let heard = self.hear_part(home, Returned::Passed { describe: false }, Notices::Passed).await;
        let (tag, result) = match heard {
            Ok(tag) => (tag, Ok(())),
            Err(failure) => (String::new(), Err(failure)),
        };
        self.leave_tables(collected, result).await?;
        Ok(tag)
    }
}

/// How a column of this type gets to later stages, the type of the elements of its array, and the format in which it is asked for. `name` is
/// that of a type whose text is enough.
fn carry(type_oid: u32, name: Option<&str>) -> Option<(Carried, u32, i16)> {
    if let Some(element) = binary_element(type_oid) {
        return Some((Carried { element, cast: String::new() }, type_oid, BINARY));
    }
    let cast = format!("::{}", name?);
    Some((Carried { element: "pg_catalog.text".to_owned(), cast }, TEXT_OID, 0))
}

/// A type whose values are carried in binary.
fn binary_element(type_oid: u32) -> Option<String> {
    element_type(type_oid).filter(|_| !NEVER.contains(&type_oid) && type_oid != TSQUERY)
}

/// The body of a Bind message: parameters with their formats, `more` in binary behind them.
fn bind_body(params: &[(i16, Option<&[u8]>)], more: &[Bytes], formats: &[i16]) -> Bytes {
    let mut out = BytesMut::new();
    put_cstr(&mut out, b"");
    put_cstr(&mut out, b"");
    put_count(&mut out, params.len() + more.len());
    let codes = params.iter().map(|(format, _)| *format).chain(more.iter().map(|_| BINARY));
    codes.for_each(|code| out.extend_from_slice(&code.to_be_bytes()));
    put_count(&mut out, params.len() + more.len());
    params.iter().for_each(|(_, value)| put_value(&mut out, *value));
    more.iter().for_each(|value| put_value(&mut out, Some(value)));
    put_count(&mut out, formats.len());
    formats.iter().for_each(|code| out.extend_from_slice(&code.to_be_bytes()));
    out.freeze()
}

fn hindered(what: &str) -> Refusal {
    Refusal::unsupported(
        format!("{what} could tell over several shards that the parts of the statement run one after another"),
        "Run the CTE's write by itself first, in the same transaction, and use what it returns.",
    )
}

fn not_carried(column: &str) -> Failure {
    let message = format!("the values of column \"{column}\", which a CTE returns, cannot be handed to other shards");
    ErrorFields::error("0A000", message).with_hint("Return other columns, or cast it to text.").into()
}
