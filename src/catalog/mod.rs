//! Loads and watches what the shards contain; hands out `Arc<Catalog>`.
//!
//! - [`queries`]: the SQL, immune to `search_path`
//! - [`blocks`]: values of sequences, a block at a time
//! - [`Builder`]: rows of text -> a catalog; pure
//! - [`compare()`]: what differs between shards
//! - [`CatalogWatch`]: keeps one database's catalog fresh
//!
//! ```text
//!            DDL passed: refresh()          every few seconds: fingerprints
//!                      \                      /
//!   shard primaries -> load -> Builder -> Catalog -> CatalogWatch -> CatalogReader of each worker
//! ```

mod actors;
pub mod blocks;
mod builder;
mod compare;
pub mod queries;
mod watch;

use std::fmt;

use pgsluice_sharding::catalog::TableRules;
use tokio_postgres::{Client, SimpleQueryMessage};

pub use builder::{BadRow, Builder, Loaded};
pub use compare::{ShardCatalog, compare};
pub use queries::{INSIDE_QUERIES, OUTSIDE_QUERIES, QUERIES};
pub use watch::{CatalogReader, CatalogWatch, Shard};

/// Why a catalog could not be loaded.
#[derive(Debug)]
pub enum LoadError {
    /// No control connection.
    Connect(String),
    /// PostgreSQL said no, or the connection broke.
    Query(tokio_postgres::Error),
    Row(BadRow),
    /// The server took longer than the bound.
    Timeout,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(reason) => f.write_str(reason),
            Self::Query(error) => f.write_str(&crate::control::reason(error)),
            Self::Row(row) => row.fmt(f),
            Self::Timeout => f.write_str("the server did not answer in time"),
        }
    }
}

impl std::error::Error for LoadError {}

impl From<tokio_postgres::Error> for LoadError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Query(error)
    }
}

impl From<BadRow> for LoadError {
    fn from(row: BadRow) -> Self {
        Self::Row(row)
    }
}

/// Asks one server for everything.
///
/// The questions are answered one after the other: DDL in between may give a catalog that never was.
/// The DDL is followed by a refresh, or found by the next fingerprint.
///
/// # Errors
/// The connection broke, or the server is not a PostgreSQL that the queries know.
pub async fn load(client: &Client, rules: &TableRules, shards: u16, version: u64) -> Result<Loaded, LoadError> {
    let mut builder = Builder::new(rules.clone(), shards);
    for query in QUERIES.iter().chain(&OUTSIDE_QUERIES) {
        for message in client.simple_query(query.sql).await? {
            if let SimpleQueryMessage::Row(row) = message {
                let values: Vec<Option<&str>> = (0..row.len()).map(|column| row.get(column)).collect();
                builder.row(query.subject, &values)?;
            }
        }
    }
    Ok(builder.finish(version))
}

/// A short text that changes when what [`load`] would give on this server may have changed.
///
/// # Errors
/// The connection broke.
pub async fn fingerprint(client: &Client) -> Result<String, LoadError> {
    let messages = client.simple_query(queries::FINGERPRINT).await?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(row.unwrap_or_default().to_owned())
}
