//! The simple query protocol: one text, any number of statements, one ReadyForQuery.

use std::borrow::Cow;
use std::rc::Rc;

use pgsluice_sharding::ShardId;
use pgsluice_sharding::plan::Values;
use pgsluice_sharding::sql::{Access, Command, SharedScript, Statement};

use crate::pool::server::{Audience, Due};
use crate::protocol::backend;
use crate::protocol::error::ErrorFields;
use crate::session::transaction::Transaction;

use super::arguments::Arguments;
use super::commit::had_failed;
use super::decide::{Decision, decide, leaves_nothing};
use super::gather::ManyRequest;
use super::links::{Effect, Expected, Sent};
use super::{CatalogChange, Conversation, End, Failure, listen};

impl Conversation {
    /// Answers the Query message of `total` bytes at the front of the inbox.
    pub(super) async fn query(&mut self, total: usize) -> Result<(), End> {
        if !self.settle_before_query().await? {
            return Ok(());
        }
        self.served.stats.queries.add(1);
        self.served.stats.received.add(total as u64);
        self.client.request_bytes = total;
        self.forget_request();
        self.session.statements.close_portal("");
        let result = self.run_query(total).await;
        self.take_request();
        let failed = result.is_err();
        match result {
            Ok(()) => {}
            Err(Failure::Error(fields)) => {
                self.report(&fields);
                self.ready();
            }
            Err(Failure::Told) => {
                self.session.transaction.fail();
                self.ready();
            }
            Err(Failure::End(end)) => return Err(end),
        }
        self.query_ended(failed);
        Ok(())
    }

    /// Takes the request that is being answered out of the inbox, unless it is taken already.
    pub(super) fn take_request(&mut self) {
        let n = std::mem::take(&mut self.client.request_bytes);
        self.client.inbox.consume(n);
    }

    /// The text of the Query message of `total` bytes.
    fn query_text(&self, total: usize) -> Result<Cow<'_, str>, Failure> {
        let body = &self.client.inbox.filled()[5..total];
        let Some((0, text)) = body.split_last() else {
            return Err(End::Fatal(ErrorFields::fatal("08P01", "invalid string in message")).into());
        };
        Ok(self.decode(text)?)
    }

    async fn run_query(&mut self, total: usize) -> Result<(), Failure> {
        if self.goes_on_with_pipeline() {
            return Box::pin(self.go_on_with_pipeline(total)).await;
        }
        self.sync_before_query().await?;
        self.refresh_catalog().await?;
        let (script, decision) = match self.plan_query(total) {
            Err(failure) if self.learned_of_table(&failure).await => self.plan_query(total)?,
            planned => planned?,
        };
        match (script.statements.len(), decision) {
            (0, _) => {
                backend::empty_query_response(&mut self.client.out);
                self.ready();
                Ok(())
            }
            (1, Some(decision)) => self.run_single(script, decision, total).await,
            _ => Box::pin(self.run_script(script, total)).await,
        }
    }

    /// Plans the text and, when it is one statement, decides about it.
    fn plan_query(&self, total: usize) -> Result<(SharedScript, Option<Decision>), Failure> {
        let text = &*self.query_text(total)?;
        let catalog = self.catalog()?;
        let mut planner = self.served.planner.borrow_mut();
        let script = planner.plan(&catalog, self.session.search_path(), text)?;
        self.query_begins(&script);
        let [statement] = script.statements.as_slice() else { return Ok((script, None)) };
        let values = Values { text, literals: planner.literals(), params: &[] };
        let decision = self.decide_one(statement, values)?;
        Ok((script, Some(decision)))
    }

    fn decide_one(&self, statement: &Statement, values: Values<'_>) -> Result<Decision, Failure> {
        self.refuse_if_failed(&statement.command)?;
        let decision = decide(statement, &self.served.map, values).inspect_err(|_| self.served.stats.refused.add(1))?;
        Ok(decision)
    }

    /// In a failed block only its end is heard, and nothing is nothing.
    pub(super) fn refuse_if_failed(&self, command: &Command) -> Result<(), Failure> {
        let passes = matches!(
            command,
            Command::Commit { .. } | Command::Rollback { .. } | Command::RollbackTo(_) | Command::Empty
        );
        if matches!(self.session.transaction, Transaction::Failed(_)) && !passes {
            return Err(ErrorFields::error(
                "25P02",
                "current transaction is aborted, commands ignored until end of transaction block",
            )
            .into());
        }
        Ok(())
    }

    async fn run_single(&mut self, script: SharedScript, decision: Decision, total: usize) -> Result<(), Failure> {
        match decision {
            // Whoever is told that DDL has passed must find it passed for everybody; who listens has
            // heard itself by then.
            Decision::Forward { access, .. } if self.is_followed_up(&script.statements[0], access) => {
                let text: Rc<str> = self.query_text(total)?.into();
                self.take_request();
                Box::pin(self.run_in_router(&script, 0, &text, decision, true)).await?;
                self.refresh_catalog().await?;
                self.catch_up_when_idle().await?;
                self.ready();
                Ok(())
            }
            Decision::Forward { .. } if matches!(script.statements[0].command, Command::SetConfig { .. }) => {
                let text: Rc<str> = self.query_text(total)?.into();
                self.take_request();
                Box::pin(self.set_config(&script.statements[0].command, &text)).await?;
                self.ready();
                Ok(())
            }
            Decision::Forward { shard, access } => {
                let shard = self.place_of_cursor(&script.statements[0], shard).await?;
                self.find_sequences(&script.statements[0])?;
                let i = self.link(shard, access).await?;
                self.note_access(i, access)?;
                self.served.stats.routed.add(1);
                self.measure.touches(1);
                let effect = self.effect(&script, 0, total);
                let Self { links, client, .. } = &mut *self;
                let link = &mut links[i];
                link.effects.push_back(Expected::of_query(effect));
                link.out.extend_from_slice(&client.inbox.filled()[..total]);
                link.server.state.expect(Due::Query(Audience::Client));
                // A Query ends a pipeline as Sync does.
                link.sent = Sent::Synced;
                self.take_request();
                self.pump(i).await
            }
            other => {
                let text: Rc<str> = self.query_text(total)?.into();
                let executes = matches!(other, Decision::Execute);
                self.take_request();
                if executes {
                    Box::pin(self.execute_alone(&script, &text)).await?;
                } else {
                    Box::pin(self.run_in_router(&script, 0, &text, other, true)).await?;
                }
                self.ready();
                Ok(())
            }
        }
    }

    /// Whether something remains to be done when a server has run the statement, before its client hears.
    fn is_followed_up(&self, statement: &Statement, access: Access) -> bool {
        statement.effects.changes_catalog
            || (access == Access::Write && self.is_listening())
            || (statement.command == Command::Notify && self.served.listening.is_used())
    }

    /// A Query behind statements of a pipeline that no Sync has ended: all are one transaction, which ends
    /// with the Query.
    async fn go_on_with_pipeline(&mut self, total: usize) -> Result<(), Failure> {
        if self.session.transaction.is_idle()
            && self.catalog_change == CatalogChange::None
            && let Ok((script, Some(decision))) = self.plan_query(total)
            && self.pipeline_server_runs(&script.statements[0], &decision)
        {
            let result = self.run_single(script, decision, total).await;
            if matches!(result, Err(Failure::Error(_) | Failure::Told)) {
                self.roll_back_pipeline().await?;
            }
            return result;
        }
        let text: Rc<str> = match self.query_text(total) {
            Ok(text) => text.into(),
            Err(failure) => return self.roll_back_pipeline().await.and(Err(failure)),
        };
        if self.session.transaction.is_idle() {
            self.pipeline_becomes_text();
        } else {
            self.sync_before_query().await?;
        }
        let result = self.run_parts_of_pipeline(&text, total).await;
        self.end_of_text(result).await
    }

    async fn run_parts_of_pipeline(&mut self, text: &Rc<str>, total: usize) -> Result<(), Failure> {
        self.refresh_catalog().await?;
        let (script, _) = match self.plan_query(total) {
            Err(failure) if self.learned_of_table(&failure).await => self.plan_query(total)?,
            planned => planned?,
        };
        self.take_request();
        self.run_parts(text, script.statements.len()).await
    }

    /// Whether the one server of an unfinished pipeline gets the Query as the client wrote it.
    fn pipeline_server_runs(&self, statement: &Statement, decision: &Decision) -> bool {
        let Decision::Forward { shard, access } = decision else { return false };
        if self.links.len() != 1 {
            return false;
        }
        let link = &self.links[0];
        let cursor = statement.cursor().and_then(|name| self.session.cursor(name));
        let is_there = cursor.or(*shard).is_none_or(|shard| shard == link.shard);
        let may_there = *access == Access::Read || !link.is_replica();
        let router_acts =
            self.is_followed_up(statement, *access) || matches!(statement.command, Command::SetConfig { .. });
        is_there && may_there && !router_acts
    }

    /// A statement that the router answers or spreads; its ReadyForQuery is the caller's.
    pub(super) async fn run_in_router(
        &mut self,
        script: &SharedScript,
        index: usize,
        text: &Rc<str>,
        decision: Decision,
        describe: bool,
    ) -> Result<(), Failure> {
        let statement = &script.statements[index];
        let own_text = script.text_of(index, text);
        match decision {
            Decision::Session if matches!(statement.command, Command::ListeningChannels(_)) => {
                self.refuse_if_failed(&statement.command)?;
                if let (Command::ListeningChannels(name), true) = (&statement.command, describe) {
                    listen::describe(&mut self.client.out, name);
                }
                self.listening_channels();
                Ok(())
            }
            Decision::Session => {
                self.measure.touches(self.links.len());
                self.must_be_unicode(own_text)?;
                self.session_command(&statement.command, own_text).await
            }
            Decision::Prepare => Box::pin(self.prepare(script, index, text)).await,
            Decision::Execute => Box::pin(self.run_execute(script, index, text, describe)).await,
            Decision::Many { read, access } => {
                self.served.stats.gathered.add(1);
                let arguments = Arguments::none(own_text);
                let request = ManyRequest { arguments: &arguments, access, describe };
                match &statement.command {
                    Command::DeclareCursor { .. } => self.declare_over_shards(statement, text, &read, request).await,
                    _ => self.read_many(&read, request).await,
                }
            }
            Decision::Broadcast(how) => {
                self.measure.touches(self.served.shards.len());
                Box::pin(self.broadcast(own_text, &how, statement.effects)).await
            }
            Decision::CopySplit(copy) => {
                self.measure.touches(self.served.shards.len());
                self.copy_split(&copy, own_text).await
            }
            Decision::CopyQuery(copy) => Box::pin(self.copy_query(&copy, script, index, text)).await,
            Decision::CopyOut { shards, header, access } => {
                self.measure.touches(shards.len());
                self.copy_out(&shards, header, access, own_text).await
            }
            Decision::Compute(computed) => Box::pin(self.run_computed(&computed, own_text, describe)).await,
            Decision::Explain(explained) => Box::pin(self.explain(statement, text, *explained, describe)).await,
            Decision::Forward { shard, access } => {
                let shard = self.place_of_cursor(statement, shard).await?;
                self.find_sequences(statement)?;
                let i = self.link(shard, access).await?;
                self.note_access(i, access)?;
                self.served.stats.routed.add(1);
                self.measure.touches(1);
                let effect = effect_of(script, index, text);
                if statement.command == Command::Notify {
                    self.announce(i).await;
                }
                let own_text = self.encode(own_text).into_owned();
                self.ask_passing(i, &own_text).await?;
                if let Effect::Statement { text, .. } = effect {
                    self.take_effect(i, &statement.command, &text, statement.effects);
                }
                Ok(())
            }
        }
    }

    /// Several statements in one text. When one shard runs them all it gets the text as it is; else
    /// they run one after another, in transactions as PostgreSQL's.
    async fn run_script(&mut self, script: SharedScript, total: usize) -> Result<(), Failure> {
        let text: Rc<str> = self.query_text(total)?.into();
        if let Some((shard, access)) = self.one_shard(&text)?
            && !(access == Access::Write && self.is_listening())
        {
            let i = self.link(shard, access).await?;
            self.note_access(i, access)?;
            self.measure.touches(1);
            let effects = (0..script.statements.len()).map(|n| Expected::of_query(effect_of(&script, n, &text)));
            let effects: Vec<Expected> = effects.collect();
            let Self { links, client, .. } = &mut *self;
            let link = &mut links[i];
            link.effects.extend(effects);
            link.out.extend_from_slice(&client.inbox.filled()[..total]);
            link.server.state.expect(Due::Query(Audience::Client));
            self.take_request();
            return self.pump(i).await;
        }
        self.take_request();
        let result = self.run_parts(&text, script.statements.len()).await;
        self.end_of_text(result).await
    }

    async fn end_of_text(&mut self, result: Result<(), Failure>) -> Result<(), Failure> {
        self.measure.touches(self.links.len());
        self.end_text(result).await?;
        self.refresh_catalog().await?;
        self.catch_up_when_idle().await?;
        self.ready();
        Ok(())
    }

    /// The shard that can run all statements of a text, and the most that they do there.
    fn one_shard(&self, text: &str) -> Result<Option<(Option<ShardId>, Access)>, Failure> {
        let catalog = self.catalog()?;
        let mut planner = self.served.planner.borrow_mut();
        let script = planner.plan(&catalog, self.session.search_path(), text)?;
        let values = Values { text, literals: planner.literals(), params: &[] };
        let mut shard = None;
        let mut most = Access::Read;
        for statement in &script.statements {
            self.refuse_if_failed(&statement.command)?;
            // Where a cursor is, is known when its turn comes.
            let declares = matches!(statement.command, Command::DeclareCursor { .. });
            if (declares || statement.cursor().is_some()) && self.served.shards.len() > 1 {
                return Ok(None);
            }
            let Ok(Decision::Forward { shard: here, access }) = decide(statement, &self.served.map, values) else {
                return Ok(None);
            };
            most = most.max(access);
            if here.is_some() && *shard.get_or_insert(here) != here {
                return Ok(None);
            }
        }
        Ok(Some((shard.flatten(), most)))
    }

    /// Runs the statements of a text one after another. What is outside of a block is one
    /// transaction, up to the next COMMIT or the end of the text.
    async fn run_parts(&mut self, text: &Rc<str>, count: usize) -> Result<(), Failure> {
        for index in 0..count {
            let (script, decision) = match self.plan_part(text, index) {
                Err(failure) if self.learned_of_table(&failure).await => self.plan_part(text, index)?,
                planned => planned?,
            };
            if self.session.transaction.is_idle() {
                self.session.transaction.begin_text(self.session.settings().clone());
            }
            self.run_in_router(&script, index, text, decision, true).await?;
            self.refresh_catalog().await?;
        }
        Ok(())
    }

    /// Plans a text for its statement `index`: those before may have changed tables and search path.
    pub(super) fn plan_part(&self, text: &str, index: usize) -> Result<(SharedScript, Decision), Failure> {
        let catalog = self.catalog()?;
        let mut planner = self.served.planner.borrow_mut();
        let script = planner.plan(&catalog, self.session.search_path(), text)?;
        let values = Values { text, literals: planner.literals(), params: &[] };
        let decision = self.decide_one(&script.statements[index], values)?;
        Ok((script, decision))
    }

    /// Ends the transaction that ends with its text.
    pub(super) async fn end_text(&mut self, result: Result<(), Failure>) -> Result<(), Failure> {
        if !self.session.transaction.ends_with_text() {
            return result;
        }
        match result {
            Ok(()) => match self.commit_block().await? {
                true => Ok(()),
                false => Err(had_failed().into()),
            },
            Err(Failure::End(end)) => Err(end.into()),
            Err(failure) => {
                if let Failure::Error(fields) = &failure {
                    self.report(fields);
                }
                self.roll_back_block().await?;
                Err(Failure::Told)
            }
        }
    }

    fn effect(&self, script: &SharedScript, index: usize, total: usize) -> Effect {
        if leaves_nothing(&script.statements[index]) {
            return Effect::None;
        }
        match self.query_text(total) {
            Ok(text) => effect_of(script, index, &text.into()),
            Err(_) => Effect::None,
        }
    }
}

/// What a statement will mean for the session.
pub(super) fn effect_of(script: &SharedScript, index: usize, text: &Rc<str>) -> Effect {
    if leaves_nothing(&script.statements[index]) {
        return Effect::None;
    }
    Effect::Statement { script: script.clone(), index, text: text.clone() }
}
