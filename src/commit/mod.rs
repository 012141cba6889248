//! Committing on several shards, and bringing to an end what nobody else ends.
//!
//! All that must survive is on the shards: prepared transactions, whose names say what any router has to
//! know ([`name`]), and one row in `sluice.decision` of the decider.
//!
//! - [`coordinator`]: one commit; pure
//! - [`orphans`]: which prepared transactions are nobody's, and which decisions nobody needs; pure
//! - [`schema`]: the tables in schema `sluice`, made on every shard
//! - [`shards`]: what is known of the shards' part in it, for workers
//! - [`silence`]: whether a server that does not answer is still at work
//! - [`recover`]: looks for orphans and resolves them
//! - [`points`]: where tests let a commit fail

pub mod coordinator;
pub mod name;
pub mod orphans;
pub mod points;
pub mod recover;
pub mod schema;
pub mod shards;
pub mod silence;
#[cfg(test)]
mod simulation;
