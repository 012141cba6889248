//! The extended query protocol: Parse, Bind, Describe, Execute, Close, Flush, Sync, FunctionCall.
//!
//! Statements live on servers under names of the router's. A Parse is held back until a Bind or
//! Describe tells which server will run the statement; a server that knows it already is not asked
//! again, and the router answers ParseComplete in its place.

use std::cell::Cell;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use pgsluice_sharding::key::{Format, Input};
use pgsluice_sharding::plan::Values;
use pgsluice_sharding::sql::{Access, Command, Statement, shape};

use crate::pool::server::{Audience, Due, Preparation};
use crate::protocol::backend;
use crate::protocol::error::ErrorFields;
use crate::protocol::frame::Header;
use crate::protocol::frontend::{self, Bind, Close, Describe, Execute, Kind, Parse};
use crate::session::statements::{ManyPortal, ManyRead, NotTaken, Portal, PreparedStatement};

use super::cursors::declares;
use super::decide::{Decision, decide, is_transaction_control, uses_literals};
use super::encoding::not_utf8;
use super::explain::explains;
use super::links::{Effect, Expected, Link, Sent};
use super::prepared::runs;
use super::simple::effect_of;
use super::worker::Served;
use super::{CatalogChange, Client, Conversation, End, Failure, Pipeline};

/// Messages for one server that wait for Flush or Sync, before they are sent without.
const PIPELINE_BYTES_MAX: usize = 1 << 20;

/// What says that a Parse was right.
pub(super) const PARSE_COMPLETE: &[u8] = b"1\0\0\0\x04";

/// Parse messages that wait for the Bind that tells their server.
const UNSENT_PARSES_MAX: usize = 1024;

/// Where a Bind message comes from.
pub(super) enum Binding {
    /// The client has sent it: so many bytes at the front of the inbox.
    Request(usize),
    /// The body of one that the router has made.
    Made(Bytes),
}

impl Binding {
    pub(super) fn body<'a>(&'a self, client: &'a Client) -> &'a [u8] {
        match self {
            Self::Request(total) => &client.inbox.filled()[5..*total],
            Self::Made(body) => body,
        }
    }
}

impl Conversation {
    /// Handles one message of the extended protocol at the front of the inbox.
    pub(super) async fn extended(&mut self, header: Header) -> Result<(), End> {
        self.client.request_bytes = header.total;
        self.served.stats.received.add(header.total as u64);
        self.measure.asked(self.asked_at);
        if self.pipeline == Pipeline::Skipping && header.tag != b'S' {
            self.take_request();
            return Ok(());
        }
        if header.tag == b'F' {
            self.cannot_run_again();
        } else {
            self.keep_message(header);
        }
        let result = match header.tag {
            b'P' => self.parse(header.total).await,
            b'B' => self.bind(header.total).await,
            b'D' => self.describe(header.total).await,
            b'E' => self.execute(header.total).await,
            b'C' => self.close(header.total).await,
            b'F' => Box::pin(self.function_call(header.total)).await,
            b'H' => self.flush().await,
            _ => return self.sync().await,
        };
        match result {
            Err(Failure::End(end)) => return Err(end),
            _ if self.is_to_run_again() => return Box::pin(self.put_request_back()).await,
            Ok(()) => {}
            Err(Failure::Error(fields)) => Box::pin(self.fail_pipeline(Some(&fields))).await?,
            Err(Failure::Told) => Box::pin(self.fail_pipeline(None)).await?,
        }
        self.has_been_answered();
        self.take_request();
        self.bound_pipeline().await
    }

    /// What waits for Flush or Sync has a bound: a long pipeline runs while it comes.
    async fn bound_pipeline(&mut self) -> Result<(), End> {
        let full = |link: &Link| link.out.len() > PIPELINE_BYTES_MAX;
        if self.unsent_parses.len() <= UNSENT_PARSES_MAX && !self.links.iter().any(full) {
            return Ok(());
        }
        self.settle_pipeline().await.map(drop)
    }

    /// Brings what has come of a pipeline to its end, short of a Sync; false when its messages are to be
    /// read again.
    pub(super) async fn settle_pipeline(&mut self) -> Result<bool, End> {
        let result = match self.answer_parses().await {
            Ok(()) => self.settle_all().await,
            Err(failure) => Err(failure),
        };
        if self.is_to_run_again() {
            self.put_request_back().await?;
            return Ok(false);
        }
        match result {
            Ok(()) => {}
            Err(Failure::Error(fields)) => self.fail_pipeline(Some(&fields)).await?,
            Err(Failure::Told) => self.fail_pipeline(None).await?,
            Err(Failure::End(end)) => return Err(end),
        }
        Ok(true)
    }

    /// An error of the router in the middle of a pipeline: what came before is answered first, what
    /// comes after is passed over up to Sync.
    pub(super) async fn fail_pipeline(&mut self, fields: Option<&ErrorFields>) -> Result<(), End> {
        self.cannot_run_again();
        match self.settle_all().await {
            Ok(()) | Err(Failure::Told) => {}
            Err(Failure::Error(fields)) => {
                // An earlier statement's server is gone: that error comes first, and is the only one.
                self.report(&fields);
                self.pipeline = Pipeline::Skipping;
                return Ok(());
            }
            Err(Failure::End(end)) => return Err(end),
        }
        if self.pipeline == Pipeline::Running {
            match fields {
                Some(fields) => self.report(fields),
                None => self.session.transaction.fail(),
            }
            self.pipeline = Pipeline::Skipping;
            self.unsent_parses.clear();
            self.session.statements.forget_unanswered();
        }
        Ok(())
    }

    /// A pipeline outside of a block is one transaction: servers that have run a part of it must not
    /// commit that part at the Sync.
    pub(super) fn break_implicit_transactions(&mut self) {
        if !self.session.transaction.is_idle() {
            return;
        }
        self.links.iter_mut().filter(|link| link.is_unsynced()).for_each(Link::spoil);
    }

    /// Whether the pipeline's transaction may end: what one server has done is committed only when
    /// it is known that no other has failed.
    pub(super) async fn settle_before_sync(&mut self) -> Result<(), Failure> {
        self.answer_parses().await?;
        if self.several_unsynced() {
            self.settle_all().await?;
        }
        Ok(())
    }

    pub(super) fn several_unsynced(&self) -> bool {
        self.links.len() > 1 && self.links.iter().filter(|link| link.is_unsynced()).count() > 1
    }

    /// Brings every server's replies to an end.
    pub(super) async fn settle_all(&mut self) -> Result<(), Failure> {
        for i in 0..self.links.len() {
            if !self.links[i].server.state.is_settled() {
                self.settle(i).await?;
            }
        }
        Ok(())
    }

    /// An answer of the router in its place among those of the servers.
    fn answer(&mut self, write: impl FnOnce(&mut BytesMut)) {
        match self.busy_link() {
            None => {
                let before = self.client.out.len();
                write(&mut self.client.out);
                let answer = self.client.out.split_off(before);
                self.has_answered_itself(&answer);
                self.client.out.unsplit(answer);
            }
            Some(i) => {
                let mut bytes = BytesMut::with_capacity(16);
                write(&mut bytes);
                self.links[i].server.state.expect(Due::Local(bytes.freeze()));
            }
        }
    }

    fn answer_parse(&mut self) {
        match self.busy_link() {
            None => {
                self.client.out.extend_from_slice(PARSE_COMPLETE);
                self.session.statements.parsed();
                self.has_answered(b'1');
            }
            Some(i) => self.links[i].server.state.expect(Due::Local(Bytes::from_static(PARSE_COMPLETE))),
        }
    }

    /// The server whose replies are awaited; there is at most one.
    fn busy_link(&self) -> Option<usize> {
        self.links.iter().position(|link| !link.server.state.is_settled())
    }

    /// Makes server `i` the one whose replies come next.
    pub(super) async fn turn_to(&mut self, i: usize) -> Result<(), Failure> {
        match self.busy_link() {
            Some(busy) if busy != i => self.settle(busy).await,
            _ => Ok(()),
        }
    }

    async fn parse(&mut self, total: usize) -> Result<(), Failure> {
        self.served.stats.client_parses.add(1);
        self.refresh_catalog().await?;
        let reading = self.session.reading();
        let statement = {
            let parse = Parse::read(&self.client.inbox.filled()[5..total]).map_err(ErrorFields::from)?;
            let text = &*self.decode(parse.sql)?;
            let name = std::str::from_utf8(parse.name).map_err(|_| not_utf8())?;
            let statement = self.worker.prepare(
                &self.served,
                &*self.catalog()?,
                &reading,
                text,
                &parse.types().collect::<Vec<u32>>(),
            )?;
            if statement.script.statements.len() > 1 {
                let message = "cannot insert multiple commands into a prepared statement";
                return Err(ErrorFields::error("42601", message).into());
            }
            self.refuse_if_failed_statement(&statement)?;
            self.session.statements.insert(name, statement.clone()).map_err(|why| not_taken(why, name))?;
            statement
        };
        self.unsent_parses.push(statement);
        Ok(())
    }

    fn refuse_if_failed_statement(&self, statement: &PreparedStatement) -> Result<(), Failure> {
        match statement.script.statements.first() {
            Some(first) => self.refuse_if_failed(&first.command),
            None => Ok(()),
        }
    }

    /// Answers the Parse messages held back: by the server that will run the statements, or by the
    /// router when the server knows them.
    pub(super) fn send_parses(&mut self, i: usize) {
        for statement in std::mem::take(&mut self.unsent_parses) {
            if answered_by_router(&statement) {
                self.answer_parse();
            } else if !self.prepare_on(i, &statement, Audience::Client) {
                self.links[i].server.state.expect(Due::Local(Bytes::from_static(PARSE_COMPLETE)));
            }
        }
    }

    /// Makes sure that server `i` has the statement; true if a Parse was sent.
    pub(super) fn prepare_on(&mut self, i: usize, statement: &PreparedStatement, audience: Audience) -> bool {
        let text = self.encode(statement.server_text());
        let link = &mut self.links[i];
        let Preparation::Parse { close } = link.server.state.prepared().touch(statement.id) else { return false };
        if let Some(old) = close {
            frontend::close(&mut link.out, Kind::Statement, old.name().as_bytes());
            link.server.state.expect(Due::Evict(old));
        }
        frontend::parse(&mut link.out, statement.id.name().as_bytes(), &text, &statement.param_types);
        link.server.state.expect(Due::Parse(statement.id, audience));
        link.sends();
        self.presence.prepared_on(link.server.id.0, link.server.state.prepared_count());
        self.served.stats.server_parses.add(1);
        true
    }

    /// The statement of that name, planned for the catalog as it is now.
    pub(super) async fn statement(&mut self, name: &str) -> Result<Rc<PreparedStatement>, Failure> {
        let reading = self.session.reading();
        let statement = self.session.statements.get(name).ok_or_else(|| no_statement(name))?;
        if statement.catalog_version == self.catalog()?.version && statement.reading == reading {
            return Ok(statement.clone());
        }
        Box::pin(self.planned_anew(statement.clone(), name)).await
    }

    /// The catalog has changed, or what PostgreSQL reads statements by. Whoever was told what rows a statement gives must get those, or the
    /// error that PostgreSQL gives when it plans such a statement anew.
    async fn planned_anew(&mut self, old: Rc<PreparedStatement>, name: &str) -> Result<Rc<PreparedStatement>, Failure> {
        let reading = self.session.reading();
        let [before, now] = [&old.reading, &reading].map(|reading| reading.settings.get("client_encoding"));
        if before != now && !old.text.is_ascii() {
            let message = "client_encoding has changed since the statement was prepared";
            return Err(ErrorFields::error("0A000", message).with_hint("Prepare it again.").into());
        }
        let mut anew = self.prepared_anew(&old)?;
        if let Some(told) = self.session.statements.row_told(name)
            && anew.row.get() != Some(told)
        {
            self.learn_row(&anew).await?;
            // What was known of it may have been outdated too; then it has another id by now.
            anew = self.prepared_anew(&old)?;
            if anew.row.get().is_none() {
                self.learn_row(&anew).await?;
            }
            if anew.row.get() != Some(told) {
                return Err(ErrorFields::outdated_plan().into());
            }
        }
        self.session.statements.replace(name, anew.clone());
        Ok(anew)
    }

    fn prepared_anew(&mut self, old: &PreparedStatement) -> Result<Rc<PreparedStatement>, Failure> {
        let reading = self.session.reading();
        let catalog = self.catalog()?;
        Ok(self.worker.prepare(&self.served, &catalog, &reading, &old.text, &old.param_types)?)
    }

    /// Asks a server what rows a statement gives.
    pub(super) async fn learn_row(&mut self, statement: &PreparedStatement) -> Result<(), Failure> {
        let i = self.link_for_parses().await?;
        self.send_parses(i);
        let in_pipeline = self.links[i].is_unsynced();
        self.prepare_on(i, statement, Audience::Router);
        self.describe_on(i, statement, Audience::Router);
        if in_pipeline {
            return self.settle(i).await;
        }
        self.sync_link(i, Audience::Router);
        self.pump_part(i).await
    }

    pub(super) fn describe_on(&mut self, i: usize, statement: &PreparedStatement, audience: Audience) {
        let link = &mut self.links[i];
        frontend::describe(&mut link.out, Kind::Statement, statement.id.name().as_bytes());
        link.server.state.expect(Due::DescribeStatement(statement.id, audience));
        link.sends();
    }

    async fn bind(&mut self, total: usize) -> Result<(), Failure> {
        self.served.stats.binds.add(1);
        self.refresh_catalog().await?;
        let (statement, portal, decision) = self.decide_bind(total).await?;
        if !portal.is_empty() && self.session.statements.has_portal(&portal) {
            let message = format!("cursor \"{portal}\" already exists");
            return Err(ErrorFields::error("42P03", message).into());
        }
        match decision {
            Some(Decision::Execute) => {
                Box::pin(self.execute_in_pipeline()).await?;
                Box::pin(self.bind_execute(total, &statement, &portal)).await
            }
            decision => self.bind_decided(Binding::Request(total), statement, &portal, decision).await,
        }
    }

    /// Binds a statement of which it is known where it goes.
    pub(super) async fn bind_decided(
        &mut self,
        binding: Binding,
        statement: Rc<PreparedStatement>,
        portal: &str,
        decision: Option<Decision>,
    ) -> Result<(), Failure> {
        match decision {
            Some(Decision::Forward { shard, access }) => {
                let mut shard = shard;
                if let Some(first) = statement.script.statements.first() {
                    shard = self.place_of_cursor(first, shard).await?;
                    self.find_sequences(first)?;
                }
                let i = self.link(shard, access).await?;
                let i = self.write_in_pipeline(i, access).await?;
                self.turn_to(i).await?;
                self.note_access(i, access)?;
                self.send_parses(i);
                self.prepare_on(i, &statement, Audience::Router);
                let Self { client, links, .. } = &mut *self;
                let link = &mut links[i];
                let body = binding.body(client);
                frontend::bind_renamed(&mut link.out, body, None, Some(statement.id.name().as_bytes()))
                    .map_err(ErrorFields::from)?;
                link.server.state.expect(Due::Bind(Audience::Client));
                link.sends();
                let server = link.server.id.0;
                self.session.statements.bind(portal, Portal::OnServer { server, statement });
            }
            Some(Decision::Many { read, .. }) => self.bind_many(&binding, statement, portal, read).await?,
            Some(Decision::Compute(computed)) => self.bind_computed(&binding, &statement, &computed, portal).await?,
            Some(Decision::Explain(explained)) => match *explained {
                Decision::Many { read, .. } => self.bind_many(&binding, statement, portal, read).await?,
                _ => self.bind_in_router(statement, portal).await?,
            },
            Some(_) | None => self.bind_in_router(statement, portal).await?,
        }
        Ok(())
    }

    async fn bind_many(
        &mut self,
        binding: &Binding,
        statement: Rc<PreparedStatement>,
        portal: &str,
        read: ManyRead,
    ) -> Result<(), Failure> {
        self.answer_parses().await?;
        let bind = Bytes::copy_from_slice(binding.body(&self.client));
        let row_told = match binding {
            Binding::Request(_) => {
                let name = Bind::read(&bind).map_err(ErrorFields::from)?.statement;
                self.session.statements.row_told(utf8(name)?)
            }
            // Statements of PREPARE have their rows settled.
            Binding::Made(_) => statement.row.get(),
        };
        let bound = ManyPortal { statement, read, bind, row_told, ran: Cell::new(false) };
        self.session.statements.bind(portal, Portal::Many(Rc::new(bound)));
        self.answer(backend::bind_complete);
        Ok(())
    }

    async fn bind_in_router(&mut self, statement: Rc<PreparedStatement>, portal: &str) -> Result<(), Failure> {
        self.answer_parses().await?;
        self.session.statements.bind(portal, Portal::Router(statement));
        self.answer(backend::bind_complete);
        Ok(())
    }

    /// Reads the Bind message and decides where it goes; `None` for an empty statement.
    async fn decide_bind(
        &mut self,
        total: usize,
    ) -> Result<(Rc<PreparedStatement>, String, Option<Decision>), Failure> {
        let (name, portal) = {
            let bind = Bind::read(&self.client.inbox.filled()[5..total]).map_err(ErrorFields::from)?;
            (utf8(bind.statement)?.to_owned(), utf8(bind.portal)?.to_owned())
        };
        let statement = self.statement(&name).await?;
        self.refuse_if_failed_statement(&statement)?;
        let bind = Bind::read(&self.client.inbox.filled()[5..total]).map_err(ErrorFields::from)?;
        let (given, required) = (bind.values.count(), statement.parameters());
        // What the planner does not look into, as CALL, may have more.
        let all_known = statement.script.statements.first().is_none_or(|first| first.command != Command::Other);
        if given != required && all_known {
            let message = format!(
                "bind message supplies {given} parameters, but prepared statement \"{name}\" requires {required}"
            );
            return Err(ErrorFields::error("08P01", message).into());
        }
        let Some(first) = statement.script.statements.first() else { return Ok((statement, portal, None)) };
        let params: Vec<Input<'_>> = bind
            .parameters()
            .enumerate()
            .map(|(n, (format, bytes))| Input {
                bytes,
                format: format_of(format),
                type_oid: statement.param_types.get(n).copied().unwrap_or(0),
            })
            .collect();
        let literals = literals_of(&statement);
        let values = Values { text: &statement.text, literals: &literals, params: &params };
        let query = self.begins(&statement.script);
        match decide(first, &self.served.map, values) {
            Ok(decision) => Ok((statement.clone(), portal, Some(decision))),
            Err(refusal) => {
                self.served.stats.refused.add(1);
                self.refused(query);
                Err(refusal.into())
            }
        }
    }

    /// Answers Parse messages that no Bind has sent to a server: one has to judge them, unless one has
    /// done so before. A client that prepares without executing, in a block perhaps, then waits for no server.
    pub(super) async fn answer_parses(&mut self) -> Result<(), Failure> {
        if self.unsent_parses.is_empty() {
            return Ok(());
        }
        if self.unsent_parses.iter().all(|statement| statement.accepted.get() || answered_by_router(statement)) {
            for _ in std::mem::take(&mut self.unsent_parses) {
                self.answer_parse();
            }
            return Ok(());
        }
        if let Some(last) = self.unsent_parses.last() {
            self.begins(&last.script);
        }
        let i = self.link_for_parses().await?;
        self.send_parses(i);
        Ok(())
    }

    pub(super) async fn link_for_parses(&mut self) -> Result<usize, Failure> {
        let i = match self.busy_link() {
            Some(i) => i,
            None => self.link(None, Access::Lock).await?,
        };
        self.turn_to(i).await?;
        Ok(i)
    }

    async fn describe(&mut self, total: usize) -> Result<(), Failure> {
        let (kind, name) = {
            let describe = Describe::read(&self.client.inbox.filled()[5..total]).map_err(ErrorFields::from)?;
            (describe.kind, utf8(describe.name)?.to_owned())
        };
        if kind == Kind::Statement {
            return self.describe_statement(&name).await;
        }
        match self.session.statements.portal(&name).cloned() {
            Some(Portal::OnServer { server, .. } | Portal::Execute { server, .. }) => {
                let i = self.portal_link(server, &name)?;
                self.turn_to(i).await?;
                let link = &mut self.links[i];
                frontend::describe(&mut link.out, Kind::Portal, name.as_bytes());
                link.server.state.expect(Due::DescribePortal(Audience::Client));
                link.sends();
                Ok(())
            }
            Some(Portal::Many(portal)) if declares(&portal) => {
                self.answer(backend::no_data);
                Ok(())
            }
            Some(Portal::Many(portal)) => {
                self.settle_all().await?;
                if let Some(explain) = explains(&portal) {
                    return super::explain::describe_portal(&mut self.client.out, explain, &portal);
                }
                Box::pin(self.describe_many(&portal)).await
            }
            Some(Portal::Kept(kept)) => Box::pin(self.describe_many(&kept.portal)).await,
            Some(Portal::Router(statement)) => {
                self.answer(|out| describe_in_router(out, &statement));
                Ok(())
            }
            None => {
                let i = self.cursor_link(&name)?;
                self.turn_to(i).await?;
                let link = &mut self.links[i];
                frontend::describe(&mut link.out, Kind::Portal, name.as_bytes());
                link.server.state.expect(Due::DescribePortal(Audience::Client));
                link.sends();
                Ok(())
            }
        }
    }

    async fn describe_statement(&mut self, name: &str) -> Result<(), Failure> {
        self.refresh_catalog().await?;
        let statement = self.statement(name).await?;
        self.refuse_if_failed_statement(&statement)?;
        if statement.script.statements.first().is_some_and(|first| first.execute.is_some()) {
            return Box::pin(self.describe_execute(&statement)).await;
        }
        if answered_by_router(&statement) {
            self.answer_parses().await?;
            self.answer(|out| {
                backend::parameter_description(out, &[]);
                describe_in_router(out, &statement);
            });
            return Ok(());
        }
        self.begins(&statement.script);
        let i = self.link_for_parses().await?;
        self.send_parses(i);
        self.prepare_on(i, &statement, Audience::Router);
        self.describe_on(i, &statement, Audience::Client);
        self.session.statements.tell_row(name);
        Ok(())
    }

    async fn execute(&mut self, total: usize) -> Result<(), Failure> {
        self.served.stats.queries.add(1);
        let (name, max_rows) = {
            let execute = Execute::read(&self.client.inbox.filled()[5..total]).map_err(ErrorFields::from)?;
            (utf8(execute.portal)?.to_owned(), execute.max_rows)
        };
        match self.session.statements.portal(&name).cloned() {
            Some(Portal::OnServer { server, statement }) => {
                let i = self.portal_link(server, &name)?;
                self.turn_to(i).await?;
                self.execute_portal(i, total, &statement, Due::Execute(Audience::Client), max_rows);
                Ok(())
            }
            Some(Portal::Execute { server, outer, inner, shift }) => {
                let i = self.portal_link(server, &name)?;
                self.turn_to(i).await?;
                // Since its Bind it may have given way to another.
                self.prepare_on(i, &inner, Audience::Router);
                let effects = if runs(&outer.script.statements[0]) { &inner } else { &outer };
                self.note_catalog_change(&outer);
                self.execute_portal(i, total, effects, Due::Renamed(shift), max_rows);
                Ok(())
            }
            Some(Portal::Many(portal)) => Box::pin(self.execute_many_portal(total, &name, &portal, max_rows)).await,
            Some(Portal::Kept(kept)) => {
                self.settle_all().await?;
                self.give_portion(&kept, max_rows);
                Ok(())
            }
            Some(Portal::Router(statement)) => {
                let query = self.begins(&statement.script);
                self.portal_begins(query);
                let result = Box::pin(self.execute_in_router(&statement)).await;
                self.portal_ended(result.is_err());
                result
            }
            None => {
                let i = self.cursor_link(&name)?;
                self.turn_to(i).await?;
                let Self { client, links, .. } = &mut *self;
                let link = &mut links[i];
                link.out.extend_from_slice(&client.inbox.filled()[..total]);
                link.server.state.expect(Due::Execute(Audience::Client));
                link.effects.push_back(Expected::of_query(Effect::None));
                link.sent = Sent::Executed;
                Ok(())
            }
        }
    }

    /// Passes the Execute message of `total` bytes on to the server that holds its portal.
    pub(super) fn execute_portal(
        &mut self,
        i: usize,
        total: usize,
        statement: &PreparedStatement,
        due: Due,
        max_rows: i32,
    ) {
        self.served.stats.routed.add(1);
        let query = Some(self.begins(&statement.script));
        let effect = match statement.script.statements.is_empty() {
            true => Effect::None,
            false => effect_of(&statement.script, 0, &statement.text),
        };
        self.note_catalog_change(statement);
        let Self { client, links, .. } = &mut *self;
        let link = &mut links[i];
        link.out.extend_from_slice(&client.inbox.filled()[..total]);
        link.server.state.expect(due);
        link.effects.push_back(Expected { effect, query, rows_max: u32::try_from(max_rows).unwrap_or(0) });
        link.sent = Sent::Executed;
    }

    fn note_catalog_change(&mut self, statement: &PreparedStatement) {
        if statement.script.statements.first().is_some_and(|first| first.effects.changes_catalog) {
            self.catalog_change = CatalogChange::Unread;
        }
    }

    /// A statement that the router answers or spreads.
    async fn execute_in_router(&mut self, statement: &PreparedStatement) -> Result<(), Failure> {
        if statement.script.statements.is_empty() {
            self.answer(backend::empty_query_response);
            return Ok(());
        }
        self.settle_all().await?;
        let literals = literals_of(statement);
        let values = Values { text: &statement.text, literals: &literals, params: &[] };
        let command = &statement.script.statements[0].command;
        let decision = decide(&statement.script.statements[0], &self.served.map, values)?;
        if self.session.transaction.is_idle()
            && self.links.iter().any(Link::is_unsynced)
            && matches!(
                command,
                Command::Begin(_) | Command::Commit { chain: false } | Command::Rollback { chain: false }
            )
        {
            return Box::pin(self.control_amid_pipeline(command, &statement.text)).await;
        }
        Box::pin(self.router_in_pipeline(command, &decision)).await?;
        // A COPY is followed by its data.
        self.take_request();
        self.run_in_router(&statement.script, 0, &statement.text.clone(), decision, false).await
    }

    async fn close(&mut self, total: usize) -> Result<(), Failure> {
        let (kind, name) = {
            let close = Close::read(&self.client.inbox.filled()[5..total]).map_err(ErrorFields::from)?;
            (close.kind, utf8(close.name)?.to_owned())
        };
        self.answer_parses().await?;
        if kind == Kind::Statement {
            self.session.statements.close(&name);
        } else if let Some(Portal::OnServer { server, .. } | Portal::Execute { server, .. }) =
            self.session.statements.portal(&name).cloned()
        {
            self.session.statements.close_portal(&name);
            // A server that has been given back has closed its portals already.
            if let Some(i) = self.links.by_server(server) {
                self.turn_to(i).await?;
                let link = &mut self.links[i];
                frontend::close(&mut link.out, Kind::Portal, name.as_bytes());
                link.server.state.expect(Due::Close(Audience::Client));
                link.sends();
                return Ok(());
            }
        } else {
            self.session.statements.close_portal(&name);
        }
        self.answer(backend::close_complete);
        Ok(())
    }

    /// Large objects and the like: functions by number, which only the first shard is sure to have.
    async fn function_call(&mut self, total: usize) -> Result<(), Failure> {
        self.refuse_if_failed(&Command::Other)?;
        let i = self.link(Some(Served::HOME), Access::Write).await?;
        let i = self.write_in_pipeline(i, Access::Write).await?;
        self.turn_to(i).await?;
        self.note_access(i, Access::Write)?;
        let Self { client, links, .. } = &mut *self;
        let link = &mut links[i];
        link.out.extend_from_slice(&client.inbox.filled()[..total]);
        link.server.state.expect(Due::Query(Audience::Client));
        self.take_request();
        self.pump(i).await
    }

    /// The server that holds a portal.
    pub(super) fn portal_link(&self, server: u64, name: &str) -> Result<usize, Failure> {
        self.links.by_server(server).ok_or_else(|| no_portal(name))
    }
}

/// The columns of what the router answers.
fn describe_in_router(out: &mut BytesMut, statement: &PreparedStatement) {
    match statement.script.statements.first().map(|first| &first.command) {
        Some(Command::Explain(explain)) => super::explain::describe(out, explain, 0),
        Some(Command::ListeningChannels(name)) => super::listen::describe(out, name),
        _ => backend::no_data(out),
    }
}

/// Whether Parse and Describe of a statement need no server.
fn answered_by_router(statement: &PreparedStatement) -> bool {
    let in_router = |first: &Statement| first.execute.is_some() || is_transaction_control(&first.command);
    statement.script.statements.first().is_none_or(in_router)
}

pub(super) fn no_statement(name: &str) -> ErrorFields {
    let message = match name {
        "" => "unnamed prepared statement does not exist".to_owned(),
        name => format!("prepared statement \"{name}\" does not exist"),
    };
    ErrorFields::error("26000", message)
}

pub(super) fn literals_of(statement: &PreparedStatement) -> Vec<shape::Literal> {
    let needs = statement.script.statements.first().is_some_and(|first| uses_literals(&first.plan));
    let mut literals = Vec::new();
    if needs {
        shape::scan(&statement.text, &mut literals);
    }
    literals
}

pub(super) fn utf8(bytes: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(bytes).map_err(|_| not_utf8().into())
}

fn format_of(code: i16) -> Format {
    if code == 1 { Format::Binary } else { Format::Text }
}

pub(super) fn not_taken(why: NotTaken, name: &str) -> ErrorFields {
    match why {
        NotTaken::Duplicate => ErrorFields::error("42P05", format!("prepared statement \"{name}\" already exists")),
        NotTaken::Full => ErrorFields::error("53400", "the client has as many prepared statements as it may")
            .with_hint("Close statements that are no longer used, or raise limits.statements_per_client_max."),
    }
}

pub(super) fn no_portal(name: &str) -> Failure {
    ErrorFields::error("34000", format!("portal \"{name}\" does not exist")).into()
}
