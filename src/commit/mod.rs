//! Committing on several shards.

pub mod coordinator;
pub mod recover;
