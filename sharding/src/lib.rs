//! What can be decided without asking anybody.
//!
//! This crate is pure: SQL text, a catalog, a shard map and rows come in; plans, shards and merged
//! rows go out. It opens no socket, reads no clock and keeps no global state, so everything in it is
//! tested by calling it.
//!
//! - [`key`]: a key value -> a bucket, as PostgreSQL hashes it
//! - [`map`]: buckets -> shards
//! - [`catalog`]: tables, columns, functions, collations
//! - [`sql`]: text -> our own tree and, over it, one [`sql::Statement`] for every statement
//! - [`plan`]: where a statement runs and what is done with the rows
//! - [`merge`]: rows of many shards -> the rows of one answer
//! - [`copy`]: COPY data -> the shard of every row

pub mod catalog;
pub mod copy;
pub mod key;
pub mod map;
pub mod merge;
pub mod plan;
pub mod refusal;
pub mod sql;
pub mod value;

pub use key::{Bucket, Key, KeyType};
pub use map::{ShardId, ShardMap};
pub use refusal::Refusal;
