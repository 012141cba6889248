//! Transaction control and settings: what the session answers itself, and what it tells the servers
//! that it holds.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use pgsluice_sharding::sql::{Access, Command, Effects, Pin, SetValue, TransactionOptions};
use tokio::time::timeout;

use crate::config::PoolMode;
use crate::protocol::backend;
use crate::protocol::error::{ErrorFields, Severity};
use crate::protocol::reply;
use crate::session::SettingChange;
use crate::session::transaction::{Snapshot, is_on};

use super::ask::Notices;
use super::commit::cannot_become_read_only;
use super::extended::no_statement;
use super::gather::rounds_floats;
use super::greeting::unreadable;
use super::snapshots::{SETTING, Snapshots, invalid_value};
use super::{CatalogChange, Conversation, End, Failure};

impl Conversation {
    /// A command about the session itself; answers with its command tag.
    pub(super) async fn session_command(&mut self, command: &Command, text: &str) -> Result<(), Failure> {
        self.refuse_if_failed(command)?;
        match command {
            Command::Begin(options) => self.begin(text, options).await,
            Command::Commit { chain } => self.commit(*chain).await,
            Command::Rollback { chain } => self.rollback(*chain).await,
            Command::Savepoint(name) => {
                self.in_block("SAVEPOINT")?;
                self.tell_all(text).await?;
                self.session.transaction.savepoint(name, text, self.session.settings().clone());
                self.complete("SAVEPOINT");
                Ok(())
            }
            Command::Release(name) => {
                self.in_block("RELEASE SAVEPOINT")?;
                self.known_savepoint(name)?;
                self.tell_all(text).await?;
                self.session.transaction.release(name, text);
                self.complete("RELEASE");
                Ok(())
            }
            Command::RollbackTo(name) => self.rollback_to(name, text).await,
            Command::DiscardAll => self.discard_all().await,
            Command::Deallocate(name) => self.deallocate(name.as_deref(), text).await,
            Command::Listen(_) | Command::Unlisten(_) => self.listen(command).await,
            Command::Close(None) => self.close_all_cursors(text).await,
            _ => self.setting(command, text).await,
        }
    }

    async fn begin(&mut self, text: &str, options: &TransactionOptions) -> Result<(), Failure> {
        if self.served.mode == PoolMode::Statement {
            return Err(no_blocks().into());
        }
        let in_text = self.session.transaction.ends_with_text();
        if in_text && self.links.iter().any(|link| link.joined) {
            self.begin_amid_text(options).await?;
        } else if in_text || self.session.transaction.is_idle() {
            self.session.transaction.begin(text, options.clone(), self.session.settings().clone());
            self.transaction_began.get_or_insert(self.asked_at);
        } else {
            self.warn("25001", "there is already a transaction in progress");
        }
        let start = text.trim_start().get(..5).is_some_and(|word| word.eq_ignore_ascii_case("start"));
        self.complete(if start { "START TRANSACTION" } else { "BEGIN" });
        Ok(())
    }

    /// The servers are in a transaction already; whether its modes may still change is theirs to say.
    async fn begin_amid_text(&mut self, options: &TransactionOptions) -> Result<(), Failure> {
        self.refuse_to_become(options.read_only)?;
        if let Some(modes) = options.modes() {
            let text = format!("SET TRANSACTION {modes}");
            self.tell_all(&text).await?;
            self.session.transaction.remember(&text, &[]);
            self.session.transaction.set_options(options);
        }
        self.session.transaction.outlive_text();
        Ok(())
    }

    /// BEGIN, COMMIT or ROLLBACK behind statements of a pipeline that has not come to its Sync: they
    /// concern what those have done. As a query of its own it ends their implicit transaction, or
    /// makes a block of it.
    pub(super) async fn control_amid_pipeline(&mut self, command: &Command, text: &str) -> Result<(), Failure> {
        if matches!(command, Command::Begin(_)) && self.served.mode == PoolMode::Statement {
            return Err(no_blocks().into());
        }
        let unsynced = self.links.iter().filter(|link| link.is_unsynced()).map(|link| link.server.id.0);
        let unsynced: Vec<u64> = unsynced.collect();
        let mut tag = String::new();
        let mut notices = Notices::Passed;
        for id in unsynced {
            let i = self.position(id)?;
            let answer = self.ask_hearing(i, text, notices).await?;
            notices = Notices::Dropped;
            tag = answer.tag().to_owned();
            answer.into_result(self)?;
            let link = &mut self.links[i];
            link.joined = matches!(command, Command::Begin(_));
            link.wrote &= !matches!(command, Command::Rollback { .. });
        }
        if let Command::Begin(options) = command {
            self.session.transaction.begin(text, options.clone(), self.session.settings().clone());
        }
        self.complete(&tag);
        Ok(())
    }

    fn in_block(&self, what: &str) -> Result<(), Failure> {
        if self.session.transaction.is_idle() || self.session.transaction.ends_with_text() {
            let message = format!("{what} can only be used in transaction blocks");
            return Err(ErrorFields::error("25P01", message).into());
        }
        Ok(())
    }

    fn known_savepoint(&self, name: &str) -> Result<(), Failure> {
        if self.session.transaction.has_savepoint(name) {
            return Ok(());
        }
        Err(ErrorFields::error("3B001", format!("savepoint \"{name}\" does not exist")).into())
    }

    /// Runs a statement on every server that has joined the block.
    async fn tell_all(&mut self, text: &str) -> Result<(), Failure> {
        for i in 0..self.links.len() {
            if self.links[i].joined {
                self.ask(i, text).await?.into_result(self)?;
            }
        }
        Ok(())
    }

    async fn rollback_to(&mut self, name: &str, text: &str) -> Result<(), Failure> {
        self.in_block("ROLLBACK TO SAVEPOINT")?;
        self.known_savepoint(name)?;
        self.tell_all(text).await?;
        if self.catalog_change == CatalogChange::Own {
            self.catalog_change = CatalogChange::Unread;
        }
        if let Some(settings) = self.session.transaction.rollback_to(name) {
            if let Some(block) = self.session.transaction.block() {
                for link in self.links.iter_mut().filter(|link| link.joined) {
                    link.server.state.set_settings(block.settings_on_servers().clone());
                }
            }
            self.session.restore_settings(settings);
        }
        self.complete("ROLLBACK");
        Ok(())
    }

    async fn commit(&mut self, chain: bool) -> Result<(), Failure> {
        if !self.ends_a_block("COMMIT AND CHAIN", chain)? {
            self.complete("COMMIT");
            return Ok(());
        }
        if self.session.transaction.is_failed() {
            return self.rollback(chain).await;
        }
        let begin = self.chain_text(chain);
        let committed = self.commit_block().await?;
        self.catch_up().await?;
        self.complete(if committed { "COMMIT" } else { "ROLLBACK" });
        self.chain(begin);
        Ok(())
    }

    /// Whether there is a transaction that COMMIT or ROLLBACK ends; the client is warned when it has
    /// begun none.
    fn ends_a_block(&mut self, what: &str, chain: bool) -> Result<bool, Failure> {
        let in_text = self.session.transaction.ends_with_text();
        if in_text || self.session.transaction.is_idle() {
            if chain {
                self.in_block(what)?;
            }
            self.warn("25P01", "there is no transaction in progress");
        }
        Ok(!self.session.transaction.is_idle())
    }

    /// Commits the block; false when the one server answered with ROLLBACK. The block is over in any
    /// case.
    pub(super) async fn commit_block(&mut self) -> Result<bool, Failure> {
        let listens = self.session.transaction.take_listens();
        let result = match self.begin_to_listen(&listens).await {
            Ok(()) => self.commit_links().await,
            Err(failure) => self.roll_back_links().await.and(Err(failure)),
        };
        self.settle_listens(listens, matches!(result, Ok(true)));
        let before = self.session.transaction.end();
        self.session.statements.close_portals();
        self.settle_settings(matches!(result, Ok(true)), before);
        result
    }

    /// Rolls the block back; it is over.
    pub(super) async fn roll_back_block(&mut self) -> Result<(), Failure> {
        self.roll_back_links().await?;
        self.session.lose_cursors();
        let before = self.session.transaction.end();
        self.session.statements.close_portals();
        self.settle_settings(false, before);
        Ok(())
    }

    async fn rollback(&mut self, chain: bool) -> Result<(), Failure> {
        if !self.ends_a_block("ROLLBACK AND CHAIN", chain)? {
            self.complete("ROLLBACK");
            return Ok(());
        }
        let begin = self.chain_text(chain);
        self.roll_back_block().await?;
        self.complete("ROLLBACK");
        self.chain(begin);
        Ok(())
    }

    /// ROLLBACK on every server of the block.
    pub(super) async fn roll_back_links(&mut self) -> Result<(), Failure> {
        self.roll_back_links_within(None).await
    }

    /// The same; a server that takes longer is closed, which rolls back too.
    pub(super) async fn roll_back_links_within(&mut self, patience: Option<Duration>) -> Result<(), Failure> {
        let joined: Vec<u64> = self.links.iter().filter(|link| link.joined).map(|link| link.server.id.0).collect();
        for id in joined {
            let Some(i) = self.links.by_server(id) else { continue };
            self.left_block(i, false);
            self.links[i].wrote = false;
            let asked = match patience {
                None => self.ask(i, "ROLLBACK").await,
                Some(patience) => match timeout(patience, self.ask(i, "ROLLBACK")).await {
                    Ok(asked) => asked,
                    Err(_) => match self.links.by_server(id) {
                        Some(i) => Err(self.server_gone(i, &io::ErrorKind::TimedOut.into())),
                        None => continue,
                    },
                },
            };
            match asked {
                // A server that is gone has rolled back.
                Ok(_) | Err(Failure::Error(_) | Failure::Told) => {}
                Err(end @ Failure::End(_)) => return Err(end),
            }
        }
        Ok(())
    }

    /// The block is over on server `i`: after a rollback it has the settings with which it joined.
    pub(super) fn left_block(&mut self, i: usize, committed: bool) {
        let link = &mut self.links[i];
        link.joined = false;
        link.temporary_tables = 0;
        if let (false, Some(block)) = (committed, self.session.transaction.block()) {
            link.server.state.set_settings(block.settings_before().clone());
        }
    }

    /// After a block the session's settings are the new ones, or those from before it.
    fn settle_settings(&mut self, committed: bool, before: Option<Rc<crate::session::settings::Settings>>) {
        if !committed && let Some(before) = before {
            self.session.restore_settings(before);
        }
    }

    /// What a chained block begins with.
    fn chain_text(&self, chain: bool) -> Option<(String, TransactionOptions)> {
        if !chain {
            return None;
        }
        self.session.transaction.block().map(|block| block.characteristics())
    }

    fn chain(&mut self, begin: Option<(String, TransactionOptions)>) {
        if let Some((text, options)) = begin {
            self.links.note_writes(&mut self.session);
            self.session.transaction.begin(&text, options, self.session.settings().clone());
        }
    }

    /// SET, RESET and their kin: a server judges the value, the session remembers it.
    async fn setting(&mut self, command: &Command, text: &str) -> Result<(), Failure> {
        if let Command::Set { value: SetValue::Current, .. } = command {
            self.session.pin(Pin::SetConfig);
            self.session.set_apart(self.worker.own_number());
        }
        self.refuse_setting(command)?;
        if let Command::SetTransaction(options) = command
            && self.session.transaction.block().is_some()
            && !self.links.iter().any(|link| link.joined)
        {
            // Where the block begins, replica or primary, may depend on this.
            self.session.transaction.remember(text, &[]);
            self.session.transaction.set_options(options);
            self.complete("SET");
            return Ok(());
        }
        if self.links.is_empty() {
            self.link(None, Access::Read).await?;
        }
        let mut tag = String::new();
        for i in 0..self.links.len() {
            self.bring_into_step(i).await?;
            let answer = self.ask(i, text).await?;
            tag = answer.tag().to_owned();
            answer.into_result(self)?;
        }
        self.remember_setting(&SettingChange::of(command), text);
        match command {
            Command::SetTransaction(options) => self.session.transaction.set_options(options),
            Command::Set { local: true, name, value: SetValue::Text(value) } => {
                self.session.transaction.set_local(name, value.clone());
            }
            Command::Set { local: true, name, value: SetValue::Default } => {
                self.session.transaction.set_local(name, "DEFAULT".to_owned());
            }
            _ => {}
        }
        self.complete(&tag);
        Ok(())
    }

    /// What all servers held have accepted.
    fn remember_setting(&mut self, changes: &[SettingChange], text: &str) {
        for change in changes {
            self.session.change_settings(change);
        }
        for link in self.links.iter_mut() {
            let mut settings = (**link.server.state.settings()).clone();
            changes.iter().for_each(|change| change.apply_to_server(&mut settings));
            link.server.state.set_settings(self.worker.share(settings, self.session.settings()));
        }
        self.session.transaction.remember(text, changes);
    }

    /// set_config() as a statement of its own: the session remembers it as it does a SET.
    pub(super) async fn set_config(&mut self, command: &Command, text: &str) -> Result<(), Failure> {
        self.must_be_unicode(text)?;
        self.refuse_setting(command)?;
        if self.links.is_empty() {
            self.link(None, Access::Read).await?;
        }
        for i in 1..self.links.len() {
            self.bring_into_step(i).await?;
            self.ask(i, text).await?.into_result(self)?;
        }
        self.bring_into_step(0).await?;
        self.ask_passing(0, text.as_bytes()).await?;
        self.remember_setting(&SettingChange::of(command), text);
        Ok(())
    }

    /// A transaction that only reads cannot leave the row that a commit over several shards needs.
    fn refuse_to_become(&self, read_only: Option<bool>) -> Result<(), Failure> {
        let writers = self.links.iter().filter(|link| link.joined && link.wrote).count();
        if read_only == Some(true) && writers > 1 {
            return Err(cannot_become_read_only().into());
        }
        Ok(())
    }

    /// What the planner relies on when it reads a statement must stay as it is.
    fn refuse_setting(&self, command: &Command) -> Result<(), Failure> {
        if let Command::SetTransaction(options) = command {
            self.refuse_to_become(options.read_only)?;
        }
        let (Command::Set { name, value: SetValue::Text(value), .. } | Command::SetConfig { name, value }) = command
        else {
            return Ok(());
        };
        if self.served.shards.len() > 1
            && let Some(refusal) = unreadable(name, value.trim_matches('\''))
        {
            return Err(refusal.into());
        }
        if name.eq_ignore_ascii_case("transaction_read_only") {
            self.refuse_to_become(Some(is_on(value.trim_matches('\''))))?;
        }
        if name.eq_ignore_ascii_case(SETTING) && Snapshots::parse(value).is_none() {
            return Err(invalid_value(value).into());
        }
        // The session does not keep what holds for one transaction.
        let local = matches!(command, Command::Set { local: true, .. });
        if self.served.shards.len() > 1 && local && name == "extra_float_digits" && rounds_floats(value) {
            return Err(ErrorFields::error("0A000", "extra_float_digits cannot be lowered for one transaction")
                .with_hint("Set it for the session.")
                .into());
        }
        Ok(())
    }

    async fn discard_all(&mut self) -> Result<(), Failure> {
        if !self.session.transaction.is_idle() {
            return Err(ErrorFields::error("25001", "DISCARD ALL cannot run inside a transaction block").into());
        }
        for i in 0..self.links.len() {
            self.ask(i, "DISCARD ALL").await?.into_result(self)?;
            self.links[i].server.state.discarded();
            self.presence.prepared_on(self.links[i].server.id.0, 0);
        }
        self.session.discard();
        self.subscription = None;
        self.complete("DISCARD ALL");
        Ok(())
    }

    /// The statements of procedural code are known to the one server alone.
    async fn deallocate(&mut self, name: Option<&str>, text: &str) -> Result<(), Failure> {
        let in_code = self.session.is_pinned_by(Pin::Prepare) && !self.links.is_empty();
        match name {
            Some(name) if self.session.statements.get(name).is_some() => self.session.statements.close(name),
            Some(_) if in_code => self.ask(0, text).await?.into_result(self)?,
            Some(name) => return Err(no_statement(name).into()),
            None => {
                self.session.statements.deallocate_all();
                if in_code {
                    for i in 0..self.links.len() {
                        self.ask(i, "DEALLOCATE ALL").await?.into_result(self)?;
                        self.links[i].server.state.prepared().clear();
                        self.presence.prepared_on(self.links[i].server.id.0, 0);
                    }
                }
                self.session.unpin(Pin::Prepare);
            }
        }
        self.complete(if name.is_some() { "DEALLOCATE" } else { "DEALLOCATE ALL" });
        Ok(())
    }

    /// What a statement that has succeeded on server `i` means for the session.
    pub(super) fn take_effect(&mut self, i: usize, command: &Command, text: &str, effects: Effects) {
        if let Some(pin) = effects.pin {
            if matches!(pin, Pin::TempTable | Pin::SetConfig | Pin::UntilCommit) {
                self.session.set_apart(self.worker.own_number());
            }
            if pin != Pin::UntilCommit {
                self.session.pin(pin);
                self.links[i].server.state.taint();
            }
        }
        if effects.unlocks {
            self.session.may_have_unlocked();
        }
        if effects.moves_sequences {
            self.sequences_moved();
            self.session.sequences.used_elsewhere();
        }
        if effects.changes_catalog {
            self.sequences_moved();
            self.catalog_change = CatalogChange::Unread;
        }
        match command {
            Command::DiscardAll => {
                self.links[i].server.state.discarded();
                self.session.discard();
            }
            Command::Discard => self.session.sequences.discard(),
            Command::DeclareCursor { name, hold, .. } => {
                let shard = self.links[i].shard;
                self.session.declared(name, shard, *hold);
            }
            Command::Close(cursor) => self.session.closed(cursor.as_deref()),
            Command::Unlisten(None) => self.session.unpin(Pin::Listen),
            _ => {}
        }
        let _ = text;
    }

    /// Lets the server go when the session has given back its last advisory lock.
    pub(super) async fn look_for_locks(&mut self) -> Result<(), End> {
        const LOCKS: &str = "SELECT 1 FROM pg_catalog.pg_locks \
                             WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid() LIMIT 1";
        for i in 0..self.links.len() {
            match self.ask(i, LOCKS).await {
                Ok(answer) if answer.error.is_none() && answer.rows().next().is_none() => {}
                Ok(_) => return Ok(()),
                Err(Failure::End(end)) => return Err(end),
                // The server is gone, and its locks with it; what comes next will tell.
                Err(_) => return Ok(()),
            }
        }
        self.session.unpin(Pin::AdvisoryLock);
        Ok(())
    }

    /// A statement is about to run on server `i`: notes that it may write.
    ///
    /// # Errors
    /// `0A000` when that would need a commit over several shards, and one of them can take no part in it.
    pub(super) fn note_access(&mut self, i: usize, access: Access) -> Result<(), Failure> {
        self.session.transaction.takes_snapshot(Snapshot::OfJoined);
        if access != Access::Write {
            return Ok(());
        }
        let elsewhere = self.links.iter().enumerate().any(|(other, link)| other != i && link.wrote);
        if elsewhere && let Some((shard, why)) = self.served.commits.unfit() {
            return Err(self.cannot_commit_together(shard, &why).into());
        }
        self.note_write(i);
        Ok(())
    }

    pub(super) fn complete(&mut self, tag: &str) {
        self.measure.add_rows(reply::tag_rows(tag.as_bytes()).unwrap_or(0));
        backend::command_complete(&mut self.client.out, tag);
    }

    fn warn(&mut self, sqlstate: &'static str, message: &'static str) {
        backend::notice_response(&mut self.client.out, &ErrorFields::new(Severity::Warning, sqlstate, message));
    }
}

fn no_blocks() -> ErrorFields {
    ErrorFields::error("0A000", "transaction blocks are not allowed in statement pooling mode")
        .with_hint("Connect to a database whose pool mode is transaction.")
}
