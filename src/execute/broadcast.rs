//! The same statement on every shard, in one atomic step or shard by shard.

use pgsluice_sharding::ShardId;
use pgsluice_sharding::plan::{Broadcast, InsertedTable, NewIndex};
use pgsluice_sharding::sql::{Access, Effects, TransactionOptions};

use crate::protocol::error::{ErrorFields, Severity};
use crate::protocol::{backend, reply};

use super::ask::{Answer, Notices};
use super::worker::Served;
use super::{CatalogChange, Conversation, Failure};

/// How an index is found on a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IndexState {
    Missing,
    /// What CREATE INDEX CONCURRENTLY leaves behind when it fails.
    Invalid,
    Valid,
}

impl Conversation {
    /// Runs `text` on every shard. The first shard goes first, so that two clients which do the same
    /// wait for each other there and never cross.
    pub(super) async fn broadcast(&mut self, text: &str, how: &Broadcast, effects: Effects) -> Result<(), Failure> {
        let idle = self.session.transaction.is_idle();
        let tag = match how {
            Broadcast::Together => self.in_own_block(async |this: &mut Self| this.run_on_all(text).await).await?,
            Broadcast::Loosely if !idle => self.run_on_all(text).await?,
            Broadcast::InBlock if !idle => self.run_on_all(text).await?,
            Broadcast::InBlock => {
                let home = self.link(Some(Served::HOME), Access::Write).await?;
                let answer = self.ask(home, text).await?;
                let tag = answer.tag().to_owned();
                answer.into_result(self)?;
                tag
            }
            Broadcast::Filled => self.in_own_block(async |this: &mut Self| this.fill_on_all(text).await).await?,
            Broadcast::Inserted(table) => self.create_and_fill(table).await?,
            Broadcast::Checked => {
                let before = self.catalog()?;
                let work = async |this: &mut Self| {
                    let tag = this.run_on_all(text).await?;
                    this.keep_promises(&before).await?;
                    Ok(tag)
                };
                self.in_own_block(work).await?
            }
            Broadcast::Apart | Broadcast::Index(_) if !idle => {
                // A server has the words for it.
                self.run_on(Served::HOME, text, false).await?.into_result(self)?;
                return Err(ErrorFields::error("25001", "the statement cannot run inside a transaction block").into());
            }
            Broadcast::Apart | Broadcast::Loosely => self.run_apart(text).await?,
            Broadcast::Index(index) => self.create_index(text, index).await?,
        };
        self.sequences_moved();
        // What has been looked at in the client's own block is known.
        if effects.changes_catalog && (idle || *how != Broadcast::Checked) {
            self.catalog_change = CatalogChange::Unread;
            self.refresh_catalog().await?;
        }
        self.complete(&tag);
        Ok(())
    }

    /// Runs `work` in the client's block, or in a block of its own that commits on all shards or
    /// none.
    pub(super) async fn in_own_block<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if !self.session.transaction.is_idle() {
            return work(self).await;
        }
        self.session.transaction.begin("BEGIN", TransactionOptions::default(), self.session.settings().clone());
        let result = match work(self).await {
            Ok(value) => match self.commit_links().await {
                Ok(true) => Ok(value),
                Ok(false) => Err(ErrorFields::error("40000", "a shard has rolled the transaction back").into()),
                Err(failure) => Err(failure),
            },
            Err(Failure::End(end)) => return Err(Failure::End(end)),
            Err(failure) => {
                self.roll_back_links().await?;
                Err(failure)
            }
        };
        drop(self.session.transaction.end());
        for link in self.links.iter_mut() {
            link.joined = false;
        }
        result
    }

    /// The command tag and the notices of the first shard; every shard gives the same.
    async fn run_on_all(&mut self, text: &str) -> Result<String, Failure> {
        let mut tag = None;
        for shard in self.served.all_shards() {
            let answer = self.run_on(shard, text, tag.is_some()).await?;
            tag.get_or_insert_with(|| answer.tag().to_owned());
            answer.into_result(self)?;
        }
        Ok(tag.unwrap_or_default())
    }

    async fn run_on(&mut self, shard: ShardId, text: &str, quietly: bool) -> Result<Answer, Failure> {
        let i = self.link(Some(shard), Access::Write).await?;
        self.note_write(i);
        self.ask_hearing(i, text, if quietly { Notices::Dropped } else { Notices::Passed }).await
    }

    /// The tag with the rows of all shards.
    async fn fill_on_all(&mut self, text: &str) -> Result<String, Failure> {
        let (mut tag, mut rows) = (String::new(), 0);
        for shard in self.served.all_shards() {
            let answer = self.run_on(shard, text, !tag.is_empty()).await?;
            tag = answer.tag().to_owned();
            rows += reply::tag_rows(tag.as_bytes()).unwrap_or(0);
            answer.into_result(self)?;
        }
        // It was there already, or has a tag without rows.
        Ok(if tag.starts_with("SELECT ") { format!("SELECT {rows}") } else { tag })
    }

    /// Makes a table on every shard, then stores its rows where they belong.
    async fn create_and_fill(&mut self, table: &InsertedTable) -> Result<String, Failure> {
        let before = self.catalog()?;
        let idle = self.session.transaction.is_idle();
        let work = async |this: &mut Self| {
            let tag = this.create_empty(table).await?;
            this.keep_promises(&before).await?;
            let Some(insert) = &table.insert else { return Ok(tag) };
            this.catalog_change = CatalogChange::Unread;
            this.refresh_catalog().await?;
            let tag = this.run_inner(insert).await?;
            Ok(format!("SELECT {}", reply::tag_rows(tag.as_bytes()).unwrap_or(0)))
        };
        let result = self.in_own_block(work).await;
        if idle && result.is_err() {
            // What the block has seen of the catalog is gone with it.
            self.catalog_change = CatalogChange::None;
            self.refresh_catalog().await?;
        }
        result
    }

    async fn create_empty(&mut self, table: &InsertedTable) -> Result<String, Failure> {
        let mut tag = None;
        for shard in self.served.all_shards() {
            let answer = self.run_on(shard, &table.create, tag.is_some()).await?;
            if let Some(error) = &answer.error {
                let mut fields = ErrorFields::parse(error.get(5..).unwrap_or_default());
                fields.position = fields.position.map(|position| table.position(position));
                return Err(fields.into());
            }
            tag.get_or_insert_with(|| answer.tag().to_owned());
            answer.into_result(self)?;
        }
        Ok(tag.unwrap_or_default())
    }

    /// Every shard commits by itself; an error says how far it has come.
    async fn run_apart(&mut self, text: &str) -> Result<String, Failure> {
        let mut tag = None;
        for shard in self.served.all_shards() {
            let answer = self.run_on(shard, text, tag.is_some()).await?;
            tag.get_or_insert_with(|| answer.tag().to_owned());
            self.tell_progress(
                answer,
                shard,
                "Run the statement again; what is done already does no harm, or say IF EXISTS.",
            )?;
        }
        Ok(tag.unwrap_or_default())
    }

    /// The error of one shard with what holds of the others, if it is one.
    fn tell_progress(&mut self, answer: Answer, shard: ShardId, hint: &'static str) -> Result<(), Failure> {
        let Some(error) = &answer.error else { return Ok(()) };
        if shard == Served::HOME {
            return answer.into_result(self);
        }
        let mut fields = ErrorFields::parse(error.get(5..).unwrap_or_default());
        let all: Vec<ShardId> = self.served.all_shards().collect();
        let (done, left) = all.split_at(usize::from(shard.0));
        let progress = format!("Done on {}; not on {}.", self.shards_named(done), self.shards_named(left));
        fields.detail = Some(match &fields.detail {
            Some(detail) => format!("{detail}\n{progress}").into(),
            None => progress.into(),
        });
        fields.hint.get_or_insert(hint.into());
        Err(fields.into())
    }

    fn shards_named(&self, shards: &[ShardId]) -> String {
        let names: Vec<&str> = shards.iter().map(|shard| &*self.served.shard(*shard).name).collect();
        format!("shard{} {}", if names.len() == 1 { "" } else { "s" }, names.join(", "))
    }

    /// CREATE INDEX CONCURRENTLY. What an attempt before has left is taken up: with IF NOT EXISTS the index is made where it is missing,
    /// and made anew where it is invalid; without, an error tells where it is.
    async fn create_index(&mut self, text: &str, index: &NewIndex) -> Result<String, Failure> {
        const HINT: &str =
            "Run the statement again with IF NOT EXISTS: it makes the index where it is missing or invalid.";
        let mut states = Vec::new();
        if let Some(name) = &index.name {
            for shard in self.served.all_shards() {
                states.push((shard, self.index_state(shard, index, name).await?));
            }
        }
        let with = |wanted: &dyn Fn(IndexState) -> bool| -> Vec<ShardId> {
            states.iter().filter(|(_, state)| wanted(*state)).map(|(shard, _)| *shard).collect()
        };
        let name = index.name.as_deref().unwrap_or_default();
        let (valid, lacking) = (with(&|state| state == IndexState::Valid), with(&|state| state != IndexState::Valid));
        let is_new = with(&|state| state != IndexState::Missing).is_empty();
        if !is_new && !index.if_not_exists {
            let mut error = ErrorFields::error("42P07", format!("relation \"{name}\" already exists"));
            if !lacking.is_empty() {
                let there =
                    if valid.is_empty() { "nowhere".to_owned() } else { format!("on {}", self.shards_named(&valid)) };
                let missing = self.shards_named(&lacking);
                error = error
                    .with_detail(format!("The index is whole {there}; missing or invalid on {missing}."))
                    .with_hint(HINT);
            }
            return Err(error.into());
        }
        if !is_new && lacking.is_empty() {
            let message = format!("relation \"{name}\" already exists, skipping");
            let notice = ErrorFields::new(Severity::Notice, "42P07", message);
            backend::notice_response(&mut self.client.out, &notice);
            return Ok("CREATE INDEX".to_owned());
        }
        for shard in self.served.all_shards() {
            match states.iter().find(|(other, _)| *other == shard) {
                Some((_, IndexState::Valid)) => continue,
                Some((_, IndexState::Invalid)) => {
                    let schema =
                        index.schema.as_deref().map(|schema| format!("{}.", quoted(schema))).unwrap_or_default();
                    let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {schema}{}", quoted(name));
                    self.run_on(shard, &drop, true).await?.into_result(self)?;
                }
                _ => {}
            }
            let answer = self.run_on(shard, text, shard != Served::HOME).await?;
            self.tell_progress(answer, shard, HINT)?;
        }
        Ok("CREATE INDEX".to_owned())
    }

    async fn index_state(&mut self, shard: ShardId, index: &NewIndex, name: &str) -> Result<IndexState, Failure> {
        let literal = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let schema = index.schema.as_deref().map(|schema| format!("{}.", quoted(schema))).unwrap_or_default();
        let table = literal(&format!("{schema}{}", quoted(&index.table)));
        let sql = format!(
            "SELECT i.indisvalid FROM pg_catalog.pg_index i \
             JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid \
             WHERE i.indrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass({table}) \
               AND c.relname OPERATOR(pg_catalog.=) {}",
            literal(name)
        );
        let i = self.link(Some(shard), Access::Write).await?;
        let answer = self.ask(i, &sql).await?;
        let found = answer.rows().next().map(|row| row.last() == Some(&b't'));
        answer.into_result(self)?;
        Ok(match found {
            None => IndexState::Missing,
            Some(false) => IndexState::Invalid,
            Some(true) => IndexState::Valid,
        })
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
