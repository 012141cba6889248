//! Committing on several shards.

pub mod coordinator;
