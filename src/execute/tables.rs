//! The catalog that a client's statements are planned against: the shared one, or what the client's
//! own transaction has made of it.

use std::sync::Arc;

use pgsluice_sharding::catalog::{Catalog, TableKind};

use crate::catalog::{Builder, INSIDE_QUERIES, QUERIES};
use crate::protocol::error::ErrorFields;
use crate::protocol::reply;

use super::{CatalogChange, Conversation, Failure};

/// PostgreSQL's code for a table that does not exist.
const UNDEFINED_TABLE: &str = "42P01";

impl Conversation {
    pub(super) fn catalog(&self) -> Result<Arc<Catalog>, Failure> {
        if let Some(own) = &self.own_catalog {
            return Ok(own.clone());
        }
        let catalog = self.served.catalog.borrow_mut().catalog().clone();
        if catalog.version == 0 && self.served.shards.len() > 1 {
            return Err(ErrorFields::error("57P03", "the tables of the database are not known yet")
                .with_detail("No shard's primary could be asked since the router started.")
                .with_hint("See SHOW INSTANCES in the console, and try again.")
                .into());
        }
        Ok(catalog)
    }

    /// Learns what DDL has changed, before the next statement is planned.
    pub(super) async fn refresh_catalog(&mut self) -> Result<(), Failure> {
        if self.session.transaction.is_idle() {
            self.own_catalog = None;
            self.sequences_are_shared();
        }
        if self.catalog_change == CatalogChange::None {
            let unknown = self.served.shards.len() > 1 && self.served.catalog.borrow().watch().version() == 0;
            if unknown {
                // Who comes right after the start waits for the tables instead of hearing that there are none.
                let watch = self.served.catalog.borrow().watch().clone();
                Box::pin(watch.first_load()).await;
            }
            return Ok(());
        }
        if self.session.transaction.is_idle() {
            self.catalog_change = CatalogChange::None;
            Box::pin(self.read_shared_catalog()).await;
        } else if self.catalog_change != CatalogChange::Own && !self.session.transaction.is_failed() {
            self.catalog_change = CatalogChange::Own;
            match self.served.shards.len() {
                1 => self.renew_own_catalog(),
                _ => drop(Box::pin(self.read_own_catalog()).await?),
            }
        }
        Ok(())
    }

    /// Whether it is worth planning again after this failure: a table was missing, and the catalog
    /// has been read anew since.
    pub(super) async fn learned_of_table(&mut self, failure: &Failure) -> bool {
        let Failure::Error(fields) = failure else { return false };
        if fields.sqlstate != UNDEFINED_TABLE || self.own_catalog.is_some() {
            return false;
        }
        let before = self.served.catalog.borrow().watch().version();
        Box::pin(self.read_shared_catalog()).await;
        self.served.catalog.borrow().watch().version() != before
    }

    async fn read_shared_catalog(&self) {
        let watch = self.served.catalog.borrow().watch().clone();
        if let Err(error) = watch.refresh().await {
            tracing::warn!(%error, database = %self.served.database, "the catalog could not be read");
        }
    }

    /// One shard judges its tables itself; but statements that it knows may have another meaning now.
    fn renew_own_catalog(&mut self) {
        let mut own = Catalog::clone(self.served.catalog.borrow_mut().catalog());
        own.version = self.worker.own_number();
        self.own_catalog = Some(Arc::new(own));
    }

    /// Reads the catalog inside the client's transaction, which alone sees what it has created. Gives the problems that were found.
    pub(super) async fn read_own_catalog(&mut self) -> Result<Vec<String>, Failure> {
        let shared = self.served.catalog.borrow_mut().catalog().clone();
        let i = self.link_on(super::worker::Served::HOME, pgsluice_sharding::sql::Access::Write).await?;
        self.bring_into_step(i).await?;
        let mut builder = Builder::new(shared.rules.clone(), shared.shards);
        for query in QUERIES.iter().chain(&INSIDE_QUERIES) {
            let answer = self.ask(i, query.sql).await?;
            for row in answer.rows() {
                let cells: Vec<Option<&[u8]>> =
                    reply::data_row(row).and_then(Iterator::collect).map_err(ErrorFields::from)?;
                let values: Vec<Option<&str>> =
                    cells.iter().map(|cell| cell.and_then(|bytes| std::str::from_utf8(bytes).ok())).collect();
                builder
                    .row(query.subject, &values)
                    .map_err(|error| ErrorFields::error("XX000", format!("the catalog cannot be read: {error}")))?;
            }
            answer.into_result(self)?;
        }
        let loaded = builder.finish(self.worker.own_number());
        let mut own = loaded.catalog;
        keep_tables_of_other_shards(&mut own, &shared);
        self.own_catalog = Some(Arc::new(own));
        Ok(loaded.problems)
    }
}

/// The first shard does not have the local tables of the others.
fn keep_tables_of_other_shards(own: &mut Catalog, shared: &Catalog) {
    for (schema, names) in &shared.sequences {
        let elsewhere = names.iter().filter(|(_, home)| **home != super::worker::Served::HOME);
        own.sequences.entry(schema.clone()).or_default().extend(elsewhere.map(|(name, home)| (name.clone(), *home)));
    }
    for (schema, tables) in &shared.tables {
        for (name, table) in tables {
            if matches!(table.kind, TableKind::Local(shard) if shard != super::worker::Served::HOME) {
                own.tables.entry(schema.clone()).or_default().entry(name.clone()).or_insert_with(|| table.clone());
            }
        }
    }
}
