//! Portals that are fetched in portions and cursors, over several shards: what the shards hold is read once, and
//! stays open as a portal of the server that finishes the read.

use std::rc::Rc;

use pgsluice_sharding::ShardId;
use pgsluice_sharding::sql::{Access, Command, Statement};

use crate::pool::server::{Audience, Due};
use crate::protocol::error::ErrorFields;
use crate::protocol::frontend::{self, Kind};
use crate::session::settings::quote_literal;
use crate::session::statements::{FinalRead, ManyPortal, ManyRead, Portal};

use super::arguments::Arguments;
use super::explain::explains;
use super::extended::no_portal;
use super::final_query::Collected;
use super::final_tables::Until;
use super::gather::{Attempt, ManyRequest};
use super::links::{Link, Sent};
use super::prepared::ASIDE;
use super::{Conversation, Failure};

impl Conversation {
    /// Runs a portal over several shards to its end.
    pub(super) async fn execute_many(&mut self, portal: &ManyPortal) -> Result<(), Failure> {
        if let Some(explain) = explains(portal) {
            return Box::pin(self.explain_portal(explain, portal)).await;
        }
        let arguments = Arguments::of_portal(portal);
        let access = portal.statement.script.statements.first().map_or(Access::Read, |first| first.access);
        let request = ManyRequest { arguments: &arguments, access, describe: false };
        match portal.statement.script.statements.first() {
            Some(first) if declares(portal) => {
                self.declare_over_shards(first, &portal.statement.text, &portal.read, request).await
            }
            _ => self.read_many(&portal.read, request).await,
        }
    }

    /// Execute of a portal over several shards.
    pub(super) async fn execute_many_portal(
        &mut self,
        total: usize,
        name: &str,
        portal: &Rc<ManyPortal>,
        max_rows: i32,
    ) -> Result<(), Failure> {
        self.settle_all().await?;
        let reads = portal.statement.script.statements.first().is_none_or(|first| first.access == Access::Read);
        Box::pin(self.many_in_pipeline(total, reads)).await?;
        let explained = explains(portal).is_some();
        let in_portions = max_rows > 0 && !declares(portal) && !explained && self.gives_rows(portal).await?;
        self.served.stats.gathered.add(u64::from(!explained));
        let query = self.begins(&portal.statement.script);
        self.portal_begins(query);
        if in_portions && matches!(portal.read, ManyRead::Written(_)) {
            let result = Box::pin(self.write_in_portions(name, portal, max_rows)).await;
            self.portal_ended(result.is_err());
            return result;
        }
        if in_portions {
            return Box::pin(self.execute_in_portions(total, name, portal, max_rows)).await;
        }
        let result = match portal.ran.get() {
            true => Box::pin(self.execute_ended(name, portal)).await,
            false => Box::pin(self.execute_many(portal)).await,
        };
        portal.ran.set(result.is_ok());
        self.portal_ended(result.is_err());
        result
    }

    /// Runs a portal that has come to its end already: nothing happens again.
    pub(super) async fn execute_ended(&mut self, name: &str, portal: &ManyPortal) -> Result<(), Failure> {
        if explains(portal).is_some() || declares(portal) {
            return self.execute_many(portal).await;
        }
        if !self.gives_rows(portal).await? {
            return Err(ErrorFields::error("55000", format!("portal \"{name}\" cannot be run")).into());
        }
        let tag = match portal.statement.script.statements.first().map(|first| &first.command) {
            Some(Command::Insert) => "INSERT 0 0",
            Some(Command::Update) => "UPDATE 0",
            Some(Command::Delete) => "DELETE 0",
            _ => "SELECT 0",
        };
        self.complete(tag);
        Ok(())
    }

    /// Whether there is anything to fetch in portions: a write without RETURNING runs to its end whatever the limit.
    pub(super) async fn gives_rows(&mut self, portal: &ManyPortal) -> Result<bool, Failure> {
        if !matches!(portal.read, ManyRead::Written(_)) {
            return Ok(true);
        }
        let i = self.link(None, Access::Lock).await?;
        let id = self.links[i].server.id.0;
        let description = self.write_description(id, &Arguments::of_portal(portal)).await?;
        Ok(!description.client_columns.is_empty())
    }

    /// The first Execute with a row limit: from then on the portal is that of the server which finishes the read.
    pub(super) async fn execute_in_portions(
        &mut self,
        total: usize,
        name: &str,
        portal: &ManyPortal,
        max_rows: i32,
    ) -> Result<(), Failure> {
        self.cannot_run_again();
        let server = match self.open_bound(name, portal).await {
            Ok(server) => server,
            Err(failure) => {
                self.portal_ended(true);
                return Err(failure);
            }
        };
        self.portal_passes();
        let i = self.portal_link(server, name)?;
        self.execute_portal(i, total, &portal.statement, Due::Execute(Audience::Client), max_rows);
        Ok(())
    }

    /// Makes a read over several shards a portal of one server, whose id this gives; nothing of it has run yet.
    async fn open_portal(&mut self, name: &str, read: &ManyRead, request: ManyRequest<'_>) -> Result<u64, Failure> {
        let last = match read {
            ManyRead::Finished(last) | ManyRead::Merged { or_else: Some(last), .. } => last,
            ManyRead::Merged { or_else: None, .. } | ManyRead::Written(_) => {
                self.served.stats.refused.add(1);
                return Err(no_row_limit());
            }
        };
        let collected = self.collected(last, request, Until::Closed).await?;
        let i = self.bind_collected(&collected, &collected.text(), name.as_bytes())?;
        self.links[i].sent = Sent::Unsynced;
        Ok(collected.home())
    }

    /// DECLARE of a cursor over several shards; the statement stands in `text`.
    pub(super) async fn declare_over_shards(
        &mut self,
        statement: &Statement,
        text: &str,
        read: &ManyRead,
        request: ManyRequest<'_>,
    ) -> Result<(), Failure> {
        let (Command::DeclareCursor { query, hold, .. }, ManyRead::Finished(last)) = (&statement.command, read) else {
            return Err(ErrorFields::error("XX000", "only a final query is declared").into());
        };
        let arguments = request.arguments.of_part(&text[query.clone()]);
        let until = if *hold { Until::Done } else { Until::Closed };
        let collected = self.collected(last, ManyRequest { arguments: &arguments, ..request }, until).await?;
        let i = self.position(collected.home())?;
        let result = self.refuse_second_cursor(&statement.command, Some(self.links[i].shard)).await;
        let home = collected.home();
        let sql = format!("{}{}", &text[statement.span.start..query.start], collected.text());
        let result = match result {
            Ok(()) => self.run_final(&collected, &sql).await,
            Err(failure) => Err(failure),
        };
        self.leave_tables(collected, result).await?;
        let i = self.position(home)?;
        self.take_effect(i, &statement.command, text, statement.effects);
        Ok(())
    }

    /// The inputs of a final query, read a second time if a shard had an outdated plan.
    pub(super) async fn collected(
        &mut self,
        last: &FinalRead,
        request: ManyRequest<'_>,
        until: Until,
    ) -> Result<Collected, Failure> {
        if let Some((collected, _)) = self.collect(last, request, Attempt::First, until).await? {
            return Ok(collected);
        }
        self.refresh_catalog().await?;
        let second = self.collect(last, request, Attempt::Second, until).await?;
        second.map(|(collected, _)| collected).ok_or(Failure::Told)
    }

    /// Where a statement runs that would run on `shard`: if it is about a cursor, where that is.
    ///
    /// # Errors
    /// DECLARE of a second cursor of a name.
    pub(super) async fn place_of_cursor(
        &mut self,
        statement: &Statement,
        shard: Option<ShardId>,
    ) -> Result<Option<ShardId>, Failure> {
        if let Some(name) = statement.cursor() {
            return Ok(Box::pin(self.shard_of_cursor(name)).await?.or(shard));
        }
        if let Command::DeclareCursor { .. } = statement.command {
            Box::pin(self.refuse_second_cursor(&statement.command, shard)).await?;
        }
        Ok(shard)
    }

    /// The shard of a cursor of DECLARE, or of a portal: SQL may fetch from those too.
    async fn shard_of_cursor(&mut self, name: &str) -> Result<Option<ShardId>, Failure> {
        if let Some(Portal::Many(portal)) = self.session.statements.portal(name).cloned()
            && !name.is_empty()
            && explains(&portal).is_none()
            && self.session.transaction.block().is_some()
        {
            self.settle_all().await?;
            let server = self.open_bound(name, &portal).await?;
            let i = self.position(server)?;
            self.sync_link(i, Audience::Router);
            self.pump_part(i).await?;
        }
        let of_portal = match self.session.statements.portal(name) {
            Some(Portal::OnServer { server, .. } | Portal::Execute { server, .. }) => self.links.by_server(*server),
            _ => None,
        };
        Ok(of_portal.map(|i| self.links[i].shard).or(self.session.cursor(name)))
    }

    /// Makes a portal over several shards one of the server that finishes its read; the id of that server.
    async fn open_bound(&mut self, name: &str, portal: &ManyPortal) -> Result<u64, Failure> {
        let arguments = Arguments::of_portal(portal);
        let access = portal.statement.script.statements.first().map_or(Access::Read, |first| first.access);
        let request = ManyRequest { arguments: &arguments, access, describe: false };
        let server = self.open_portal(name, &portal.read, request).await?;
        self.session.statements.bind(name, Portal::OnServer { server, statement: portal.statement.clone() });
        Ok(server)
    }

    /// A session has one cursor of a name: that on another server than the new one's must be gone.
    async fn refuse_second_cursor(&mut self, command: &Command, shard: Option<ShardId>) -> Result<(), Failure> {
        let Command::DeclareCursor { name, .. } = command else { return Ok(()) };
        let shard = shard.or(self.links.iter().next().map(|link| link.shard));
        let elsewhere = self.session.cursor(name).filter(|there| shard.is_some_and(|shard| shard != *there));
        let Some(i) = elsewhere.and_then(|there| self.links.find(there, true)) else { return Ok(()) };
        // A rollback to a savepoint may have closed it unheard.
        let open =
            format!("SELECT FROM pg_catalog.pg_cursors WHERE name OPERATOR(pg_catalog.=) {}", quote_literal(name));
        let answer = self.ask(i, &open).await?;
        let found = answer.rows().next().is_some();
        answer.into_result(self)?;
        if found {
            return Err(ErrorFields::error("42P03", format!("cursor \"{name}\" already exists")).into());
        }
        Ok(())
    }

    /// CLOSE ALL: on every server held, for any may have cursors.
    pub(super) async fn close_all_cursors(&mut self, text: &str) -> Result<(), Failure> {
        for i in 0..self.links.len() {
            self.bring_into_step(i).await?;
            self.ask(i, text).await?.into_result(self)?;
        }
        self.session.closed(None);
        self.complete("CLOSE CURSOR ALL");
        Ok(())
    }

    /// The server that may hold a portal the session has not bound: DECLARE makes a portal too. Of one that code
    /// has declared it cannot be known which of several servers has it.
    pub(super) fn cursor_link(&self, name: &str) -> Result<usize, Failure> {
        let known = self.session.cursor(name).and_then(|shard| self.links.find(shard, true));
        match known {
            Some(i) => Ok(i),
            None if self.links.len() == 1 => Ok(0),
            None => Err(no_portal(name)),
        }
    }

    /// The portal for what the router runs on a server: not the unnamed one while that is the client's.
    pub(super) fn portal_of_router(&self, server: u64) -> &'static [u8] {
        if self.session.statements.unnamed_portal_is_on(server) { ASIDE.as_bytes() } else { b"" }
    }
}

/// Whether a portal is that of a DECLARE.
pub(super) fn declares(portal: &ManyPortal) -> bool {
    let first = portal.statement.script.statements.first();
    matches!(first.map(|first| &first.command), Some(Command::DeclareCursor { .. }))
}

/// The unnamed portal gives way by itself.
pub(super) fn close_portal_of_router(link: &mut Link, portal: &[u8]) {
    if !portal.is_empty() {
        frontend::close(&mut link.out, Kind::Portal, portal);
        link.server.state.expect(Due::Close(Audience::Router));
    }
}

fn no_row_limit() -> Failure {
    ErrorFields::error("0A000", "this statement over several shards cannot be fetched in portions")
        .with_hint("Execute it without a row limit (fetch size 0), or name one value of the sharding key.")
        .into()
}
