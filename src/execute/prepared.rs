//! PREPARE and EXECUTE of SQL: the session's statements by another door.
//!
//! A server judges a PREPARE under a name of the router's; the session keeps the statement beside those
//! of the protocol. In an EXECUTE the router puts its own name of the statement, so that the server
//! judges the arguments. Over several shards a server evaluates them first, because they may tell the
//! shard; then the statement runs as if it had been bound by the protocol.

use std::borrow::Cow;
use std::ops::Range;
use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};
use pgsluice_sharding::key::{Format, Input};
use pgsluice_sharding::plan::{Plan, Shards, Values};
use pgsluice_sharding::sql::{Access, Command, Execute, Pin, Prepare, SharedScript, Statement};
use pgsluice_sharding::{Refusal, ShardId};

use crate::pool::server::{Audience, Due, StatementId};
use crate::protocol::error::{ErrorFields, Shift};
use crate::protocol::frame::{put_count, put_cstr, put_value};
use crate::protocol::frontend::{self, Bind, Kind};
use crate::protocol::reply;
use crate::session::statements::{Portal, PreparedStatement};

use super::arguments::Arguments;
use super::ask::Answer;
use super::decide::{Decision, decide};
use super::extended::{Binding, literals_of, no_statement, not_taken, utf8};
use super::forward::shifted_error;
use super::gather::ManyRequest;
use super::links::Sent;
use super::worker::{FIRST_USER_OID, Served, shape_of_row};
use super::{Conversation, Failure};

/// What servers call a statement, and a portal, that is there for one question of the router's only.
pub(super) const ASIDE: &str = "sluice_aside";

/// The result formats of a simple query: all text.
const TEXT: &[u8] = b"\0\0";

/// The values of an EXECUTE, evaluated by a server.
struct Evaluated {
    /// In binary.
    values: Vec<Option<Bytes>>,
    types: Rc<[u32]>,
}

impl Conversation {
    /// PREPARE: errors are those of a server, which plans the statement once.
    pub(super) async fn prepare(&mut self, script: &SharedScript, index: usize, text: &Rc<str>) -> Result<(), Failure> {
        let Command::Prepare(prepare) = &script.statements[index].command else {
            return Err(ErrorFields::error("XX000", "only PREPARE prepares").into());
        };
        self.refuse_if_failed(&script.statements[index].command)?;
        let inner = &text[prepare.inner.clone()];
        let (sql, shift) = renamed(own_span(script, index, text), &prepare.at, text, ASIDE);
        let shard = {
            let catalog = self.catalog()?;
            let mut planner = self.served.planner.borrow_mut();
            let inner = planner.plan(&catalog, self.session.search_path(), inner)?;
            inner.statements.first().and_then(|first| home_of(&first.plan))
        };
        let i = self.link(shard, Access::Lock).await?;
        let link = &mut self.links[i];
        frontend::close(&mut link.out, Kind::Statement, ASIDE.as_bytes());
        link.server.state.expect(Due::Close(Audience::Router));
        self.send_aside(i, &sql, TEXT);
        let link = &mut self.links[i];
        frontend::describe(&mut link.out, Kind::Statement, ASIDE.as_bytes());
        link.server.state.expect(Due::DescribeStatement(StatementId::UNNAMED, Audience::Router));
        let answer = self.answer_aside(i, shift).await?;
        let (statement, row) = self.described_statement(prepare, inner, &answer)?;
        self.session.statements.declare(&prepare.name, statement, row).map_err(|why| not_taken(why, &prepare.name))?;
        self.complete("PREPARE");
        Ok(())
    }

    /// The statement of a PREPARE with the types that a server has found, and the shape of its rows.
    fn described_statement(
        &mut self,
        prepare: &Prepare,
        inner: &str,
        answer: &Answer,
    ) -> Result<(Rc<PreparedStatement>, u64), Failure> {
        let body = answer.body_of(b't').unwrap_or_else(|| Bytes::from_static(b"\0\0"));
        let types = reply::parameter_description(&body).map_err(ErrorFields::from)?;
        let declared = &types[..prepare.types.min(types.len())];
        if self.served.shards.len() > 1 && declared.iter().any(|oid| *oid >= FIRST_USER_OID) {
            return Err(user_type().into());
        }
        let statement =
            self.worker.prepare(&self.served, &*self.catalog()?, &self.session.reading(), inner, declared)?;
        statement.accepted.set(true);
        let row = answer.body_of(b'T').map_or(0, |row| shape_of_row(&row));
        match statement.row.get() {
            None => statement.row.set(Some(row)),
            Some(told) if told == row => {}
            // Others were told of other rows: theirs is another statement from now on.
            Some(_) => self.plans_are_outdated(),
        }
        // Who prepared the same before has found the same types.
        let _ = statement.resolved_types.set(types.into());
        Ok((statement, row))
    }

    /// A simple query that is one EXECUTE, and what it brings for everybody.
    pub(super) async fn execute_alone(&mut self, script: &SharedScript, text: &Rc<str>) -> Result<(), Failure> {
        self.watch_query();
        let mut result = self.run_execute(script, 0, text, true).await;
        if self.query_runs_again().await? {
            result = self.run_execute(script, 0, text, true).await;
        }
        self.forget_request();
        result?;
        self.refresh_catalog().await?;
        self.catch_up_when_idle().await
    }

    /// EXECUTE, and what is made of one, in a simple query or in the place of one.
    pub(super) async fn run_execute(
        &mut self,
        script: &SharedScript,
        index: usize,
        text: &Rc<str>,
        describe: bool,
    ) -> Result<(), Failure> {
        let outer = &script.statements[index];
        let execute = executed(outer)?;
        let Some(inner) = self.called(execute).await? else {
            return self.run_unknown(script, index, text).await;
        };
        if !self.is_run_by_name(outer, &inner) {
            let (decision, bind) = self.decided(outer, execute, text, &inner, TEXT).await?;
            return self.run_bound(&inner, decision, bind, describe).await;
        }
        let (sql, shift) = renamed(own_span(script, index, text), &execute.at, text, &inner.id.name());
        let effects = self.arguments_do(execute, text)?;
        self.find_sequences(&inner.script.statements[0])?;
        let access = access_of(outer, &inner, effects.0);
        let i = self.link(Some(Served::HOME), access).await?;
        self.note_access(i, access)?;
        self.served.stats.routed.add(1);
        self.pin_for(i, effects.1);
        self.prepare_on(i, &inner, Audience::Router);
        self.describe_on(i, &inner, Audience::Router);
        self.bind_renamed_text(i, &sql, &Bytes::from_static(b"\0\0\0\0\0\0\0\0"), Audience::Router)?;
        self.execute_bound(i, Due::Renamed(shift)).await?;
        self.take_effect(i, &outer.command, text, outer.effects);
        if runs(outer) {
            let first = &inner.script.statements[0];
            self.take_effect(i, &first.command, &inner.text, first.effects);
        }
        Ok(())
    }

    /// A statement that procedural code has prepared is known to its server alone.
    async fn run_unknown(&mut self, script: &SharedScript, index: usize, text: &Rc<str>) -> Result<(), Failure> {
        let i = self.link(None, Access::Write).await?;
        self.note_access(i, Access::Write)?;
        let own_text = self.encode(script.text_of(index, text)).into_owned();
        self.ask_passing(i, &own_text).await
    }

    /// Runs a statement with its values where they lead.
    async fn run_bound(
        &mut self,
        inner: &Rc<PreparedStatement>,
        decision: Decision,
        bind: Bytes,
        describe: bool,
    ) -> Result<(), Failure> {
        let first = &inner.script.statements[0];
        match decision {
            Decision::Forward { shard, access } if is_dml(&first.command) => {
                self.find_sequences(first)?;
                let i = self.link(shard, access).await?;
                self.note_access(i, access)?;
                self.served.stats.routed.add(1);
                self.prepare_on(i, inner, Audience::Router);
                let link = &mut self.links[i];
                frontend::bind_renamed(&mut link.out, &bind, None, Some(inner.id.name().as_bytes()))
                    .map_err(ErrorFields::from)?;
                link.server.state.expect(Due::Bind(Audience::Router));
                self.execute_bound(i, Due::Execute(Audience::Client)).await?;
                self.take_effect(i, &first.command, &inner.text, first.effects);
                Ok(())
            }
            Decision::Compute(computed) => {
                let (made, bind, decision) = self.compute_bound(inner, &computed, bind).await?;
                Box::pin(self.run_bound(&made, decision, bind, describe)).await
            }
            Decision::Many { read, access } => {
                self.served.stats.gathered.add(1);
                let arguments = Arguments::bound(inner, bind);
                self.read_many(&read, ManyRequest { arguments: &arguments, access, describe }).await
            }
            other => Box::pin(self.run_in_router(&inner.script, 0, &inner.text, other, describe)).await,
        }
    }

    /// Bind of an EXECUTE: what is bound is the statement that it runs.
    pub(super) async fn bind_execute(
        &mut self,
        total: usize,
        statement: &Rc<PreparedStatement>,
        portal: &str,
    ) -> Result<(), Failure> {
        let (outer, text) = (&statement.script.statements[0], &statement.text);
        let execute = executed(outer)?;
        let Some(inner) = self.called(execute).await? else {
            let decision = Decision::Forward { shard: None, access: Access::Write };
            return self.bind_decided(Binding::Request(total), statement.clone(), portal, Some(decision)).await;
        };
        if !self.is_run_by_name(outer, &inner) {
            self.answer_parses().await?;
            let formats = result_formats(&self.client.inbox.filled()[5..total])?;
            let (decision, bind) = self.decided(outer, execute, text, &inner, &formats).await?;
            return self.bind_decided(Binding::Made(bind), inner, portal, Some(decision)).await;
        }
        let (sql, shift) = renamed(own_span(&statement.script, 0, text), &execute.at, text, &inner.id.name());
        let effects = self.arguments_do(execute, text)?;
        self.find_sequences(&inner.script.statements[0])?;
        let access = access_of(outer, &inner, effects.0);
        let i = self.link(Some(Served::HOME), access).await?;
        self.turn_to(i).await?;
        self.note_access(i, access)?;
        self.pin_for(i, effects.1);
        self.pin_for(i, outer.effects.pin);
        self.send_parses(i);
        self.prepare_on(i, &inner, Audience::Router);
        // If it is outdated, its server says so before anything is bound.
        self.describe_on(i, &inner, Audience::Router);
        let body = Bytes::copy_from_slice(&self.client.inbox.filled()[5..total]);
        self.bind_renamed_text(i, &sql, &body, Audience::Client)?;
        let server = self.links[i].server.id.0;
        self.session.statements.bind(portal, Portal::Execute { server, outer: statement.clone(), inner, shift });
        Ok(())
    }

    /// Describe of an EXECUTE that has been parsed: its rows are those of the statement that it runs.
    pub(super) async fn describe_execute(&mut self, statement: &PreparedStatement) -> Result<(), Failure> {
        let outer = &statement.script.statements[0];
        let execute = executed(outer)?;
        let inner = match self.session.statements.get(&execute.name) {
            Some(_) => Some(self.statement(&execute.name).await?),
            None => None,
        };
        let i = self.link_for_parses().await?;
        self.send_parses(i);
        let sql = match &inner {
            Some(inner) => {
                self.prepare_on(i, inner, Audience::Router);
                renamed(0..statement.text.len(), &execute.at, &statement.text, &inner.id.name()).0
            }
            // The server says that it gives no rows.
            None => statement.text.to_string(),
        };
        let sql = self.encode(&sql).into_owned();
        let link = &mut self.links[i];
        frontend::parse(&mut link.out, b"", &sql, &[]);
        link.server.state.expect(Due::Parse(StatementId::UNNAMED, Audience::Router));
        frontend::describe(&mut link.out, Kind::Statement, b"");
        link.server.state.expect(Due::DescribeStatement(StatementId::UNNAMED, Audience::Client));
        link.sends();
        Ok(())
    }

    /// The statement that an EXECUTE names; `None` when only a server can know it.
    async fn called(&mut self, execute: &Execute) -> Result<Option<Rc<PreparedStatement>>, Failure> {
        if self.session.statements.get(&execute.name).is_none() {
            let in_code = self.session.is_pinned_by(Pin::Prepare);
            return if in_code { Ok(None) } else { Err(no_statement(&execute.name).into()) };
        }
        let statement = self.statement(&execute.name).await?;
        if execute.count != statement.parameters() {
            let message = format!("wrong number of parameters for prepared statement \"{}\"", execute.name);
            let detail = format!("Expected {} parameters but got {}.", statement.parameters(), execute.count);
            return Err(ErrorFields::error("42601", message).with_detail(detail).into());
        }
        match statement.script.statements.first() {
            Some(first) if first.execute.is_none() => Ok(Some(statement)),
            _ => Err(ErrorFields::error("0A000", "EXECUTE of a statement that is an EXECUTE itself")
                .with_hint("Execute the innermost statement.")
                .into()),
        }
    }

    /// Whether the server that runs the statement evaluates the arguments too: there is but one shard, and
    /// the statement is one that goes to servers as it is.
    fn is_run_by_name(&self, outer: &Statement, inner: &PreparedStatement) -> bool {
        let is_dml = is_dml(&inner.script.statements[0].command);
        outer.command != Command::Execute || (is_dml && self.served.shards.len() == 1)
    }

    /// Where a statement goes with the arguments of an EXECUTE, and the body of its Bind.
    async fn decided(
        &mut self,
        outer: &Statement,
        execute: &Execute,
        text: &Rc<str>,
        inner: &Rc<PreparedStatement>,
        formats: &[u8],
    ) -> Result<(Decision, Bytes), Failure> {
        let evaluated = match execute.args {
            Some(_) => self.evaluate(outer, execute, text, inner).await?,
            None => Evaluated { values: Vec::new(), types: Rc::new([]) },
        };
        let inputs = evaluated.values.iter().zip(&*evaluated.types);
        let params: Vec<Input<'_>> = inputs
            .map(|(value, oid)| Input { bytes: value.as_deref(), format: Format::Binary, type_oid: *oid })
            .collect();
        let literals = literals_of(inner);
        let values = Values { text: &inner.text, literals: &literals, params: &params };
        let decision = decide(&inner.script.statements[0], &self.served.map, values);
        let decision = decision.inspect_err(|_| self.served.stats.refused.add(1))?;
        Ok((decision, bind_body(&evaluated.values, formats)))
    }

    /// Has a server evaluate the arguments of an EXECUTE and coerce them to the parameters' types.
    async fn evaluate(
        &mut self,
        outer: &Statement,
        execute: &Execute,
        text: &Rc<str>,
        inner: &Rc<PreparedStatement>,
    ) -> Result<Evaluated, Failure> {
        let (access, pin) = self.arguments_do(execute, text)?;
        if access == Access::Write {
            self.served.stats.refused.add(1);
            return Err(not_evaluated().into());
        }
        if inner.resolved_types.get().is_none() {
            self.learn_row(inner).await?;
        }
        let types = inner.resolved_types.get().cloned().unwrap_or_else(|| inner.param_types.clone());
        if types.iter().any(|oid| *oid >= FIRST_USER_OID) {
            return Err(user_type().into());
        }
        // Its answer is not to be mixed with what others have asked for.
        self.settle_all().await?;
        let i = self.link(None, access).await?;
        self.pin_for(i, pin);
        let numbers: Vec<String> = (1..=types.len()).map(|n| format!("${n}")).collect();
        let link = &mut self.links[i];
        frontend::close(&mut link.out, Kind::Statement, ASIDE.as_bytes());
        link.server.state.expect(Due::Close(Audience::Router));
        let echo = format!("SELECT {}", numbers.join(", "));
        frontend::parse(&mut link.out, ASIDE.as_bytes(), echo.as_bytes(), &types);
        link.server.state.expect(Due::Parse(StatementId::UNNAMED, Audience::Router));
        let (sql, shift) = renamed(outer.span.clone(), &execute.at, text, ASIDE);
        self.send_aside(i, &sql, b"\0\x01\0\x01");
        let answer = self.answer_aside(i, shift).await?;
        let row = answer.rows().next().unwrap_or_default();
        let cells: Vec<Option<&[u8]>> = reply::data_row(row).and_then(Iterator::collect).map_err(ErrorFields::from)?;
        Ok(Evaluated { values: cells.into_iter().map(|cell| cell.map(Bytes::copy_from_slice)).collect(), types })
    }

    /// What the arguments of an EXECUTE do besides giving values.
    fn arguments_do(&mut self, execute: &Execute, text: &str) -> Result<(Access, Option<Pin>), Failure> {
        let Some(args) = &execute.args else { return Ok((Access::Read, None)) };
        let sql = format!("SELECT {}", &text[args.clone()]);
        let (script, anywhere) = {
            let catalog = self.catalog()?;
            let mut planner = self.served.planner.borrow_mut();
            let script = planner.plan(&catalog, self.session.search_path(), &sql)?;
            let values = Values { text: &sql, literals: planner.literals(), params: &[] };
            let decision = script.statements.first().map(|first| decide(first, &self.served.map, values));
            let anywhere = matches!(decision, Some(Ok(Decision::Forward { shard: None, .. })));
            (script, anywhere || self.served.shards.len() == 1)
        };
        let Some(first) = script.statements.first() else { return Ok((Access::Read, None)) };
        self.find_sequences(first)?;
        Ok((if anywhere { first.access } else { Access::Write }, first.effects.pin))
    }

    fn pin_for(&mut self, i: usize, pin: Option<Pin>) {
        if let Some(pin) = pin {
            self.session.pin(pin);
            self.links[i].server.state.taint();
        }
    }

    /// Runs a text on server `i` in a portal of its own, which leaves those of the client alone. Its
    /// notices are for the client.
    fn send_aside(&mut self, i: usize, sql: &str, result_formats: &[u8]) {
        let sql = self.encode(sql).into_owned();
        let link = &mut self.links[i];
        frontend::parse(&mut link.out, b"", &sql, &[]);
        link.server.state.expect(Due::Parse(StatementId::UNNAMED, Audience::Client));
        let bind = bind_body(&[], result_formats);
        frontend::close(&mut link.out, Kind::Portal, ASIDE.as_bytes());
        link.server.state.expect(Due::Close(Audience::Router));
        // The body has two names in front, which are replaced.
        let _ = frontend::bind_renamed(&mut link.out, &bind, Some(ASIDE.as_bytes()), Some(b""));
        link.server.state.expect(Due::Bind(Audience::Router));
        frontend::execute(&mut link.out, ASIDE.as_bytes(), 0);
        link.server.state.expect(Due::Execute(Audience::Client));
    }

    /// Reads the answer to a question aside; the server forgets what was made for it. In a pipeline the
    /// question is a part of its transaction.
    async fn answer_aside(&mut self, i: usize, shift: Shift) -> Result<Answer, Failure> {
        let link = &mut self.links[i];
        frontend::close(&mut link.out, Kind::Statement, ASIDE.as_bytes());
        link.server.state.expect(Due::Close(Audience::Router));
        frontend::close(&mut link.out, Kind::Portal, ASIDE.as_bytes());
        link.server.state.expect(Due::Close(Audience::Router));
        let in_pipeline = link.is_unsynced();
        if in_pipeline {
            frontend::flush(&mut link.out);
        } else {
            self.sync_link(i, Audience::Router);
        }
        let server = self.links[i].server.id.0;
        let mut answer = self.read_answer(i).await?;
        if let Some(error) = &answer.error {
            let shifted = shifted_error(&error[5..], |position| shift.apply(position));
            answer.error = Some(BytesMut::from(&shifted[..]));
            if let (true, Some(i)) = (in_pipeline, self.links.by_server(server)) {
                self.links[i].sent = Sent::Failed;
            }
            answer.into_result(self)?;
            return Err(Failure::Told);
        }
        Ok(answer)
    }

    /// Binds a text with the router's name in it, as the unnamed statement.
    fn bind_renamed_text(&mut self, i: usize, sql: &str, bind: &[u8], audience: Audience) -> Result<(), Failure> {
        let sql = self.encode(sql).into_owned();
        let link = &mut self.links[i];
        frontend::parse(&mut link.out, b"", &sql, &[]);
        link.server.state.expect(Due::Parse(StatementId::UNNAMED, Audience::Router));
        frontend::bind_renamed(&mut link.out, bind, None, Some(b"")).map_err(ErrorFields::from)?;
        link.server.state.expect(Due::Bind(audience));
        link.sends();
        Ok(())
    }

    /// Runs the unnamed portal as a simple query shows it.
    async fn execute_bound(&mut self, i: usize, due: Due) -> Result<(), Failure> {
        let link = &mut self.links[i];
        link.effects.clear();
        frontend::describe(&mut link.out, Kind::Portal, b"");
        link.server.state.expect(Due::DescribeRows);
        frontend::execute(&mut link.out, b"", 0);
        link.server.state.expect(due);
        self.sync_link(i, Audience::Router);
        self.pump_part(i).await
    }
}

fn executed(statement: &Statement) -> Result<&Execute, Failure> {
    statement.execute.as_deref().ok_or_else(|| ErrorFields::error("XX000", "only EXECUTE executes").into())
}

/// The bytes of a statement in the text that holds it.
fn own_span(script: &SharedScript, index: usize, text: &str) -> Range<usize> {
    match script.statements.as_slice() {
        [_] => 0..text.len(),
        statements => statements[index].span.clone(),
    }
}

/// The statement in `span` of `text` with another name at `at`, and what that means for errors.
fn renamed(span: Range<usize>, at: &Range<usize>, text: &str, name: &str) -> (String, Shift) {
    let sql = format!("{}{name}{}", &text[span.start..at.start], &text[at.end..span.end]);
    let count = |range: Range<usize>| u32::try_from(text[range].chars().count()).unwrap_or(u32::MAX);
    let (old, new) = (i64::from(count(at.clone())), name.len() as i64);
    let shift = Shift {
        before: count(0..span.start),
        name: count(span.start..at.start).saturating_add(1),
        longer: i32::try_from(old - new).unwrap_or_default(),
    };
    (sql, shift)
}

fn is_dml(command: &Command) -> bool {
    use Command::{Delete, Insert, Merge, Select, SetConfig, Update};
    matches!(command, Select | Insert | Update | Delete | Merge | SetConfig { .. })
}

/// Whether the prepared statement runs, and is not only explained.
pub(super) fn runs(outer: &Statement) -> bool {
    match &outer.command {
        Command::Explain(explain) => explain.analyze,
        _ => true,
    }
}

fn access_of(outer: &Statement, inner: &PreparedStatement, args: Access) -> Access {
    let inner = inner.script.statements[0].access;
    match &outer.command {
        Command::Execute | Command::Explain(_) => inner.max(args),
        _ => outer.access,
    }
}

/// The shard whose server judges a statement: the one that has its tables.
fn home_of(plan: &Plan) -> Option<ShardId> {
    match plan {
        Plan::Route { shards: Shards::One(shard) | Shards::Home { home: shard, .. }, .. } => Some(*shard),
        _ => None,
    }
}

/// The body of a Bind of binary values; `result_formats` as they follow them.
fn bind_body(values: &[Option<Bytes>], result_formats: &[u8]) -> Bytes {
    let mut body = BytesMut::new();
    put_cstr(&mut body, b"");
    put_cstr(&mut body, b"");
    body.put_u16(1);
    body.put_i16(1);
    put_count(&mut body, values.len());
    values.iter().for_each(|value| put_value(&mut body, value.as_deref()));
    body.put_slice(result_formats);
    body.freeze()
}

/// The result formats of a Bind as they stand at its end.
fn result_formats(bind: &[u8]) -> Result<Vec<u8>, Failure> {
    let bind = Bind::read(bind).map_err(ErrorFields::from)?;
    utf8(bind.portal)?;
    let mut formats = BytesMut::new();
    put_count(&mut formats, bind.result_formats.count());
    bind.result_formats.codes().for_each(|code| formats.put_i16(code));
    Ok(formats.to_vec())
}

fn not_evaluated() -> Refusal {
    Refusal::unsupported(
        "arguments of EXECUTE that may write or read tables are not supported over several shards",
        "Ask for the value first, and write it into the EXECUTE.",
    )
}

fn user_type() -> ErrorFields {
    ErrorFields::error("0A000", "parameters of user-defined types are not supported in PREPARE over several shards")
        .with_hint(Cow::Borrowed("Declare them as text and cast them in the statement, or prepare by the protocol."))
}
