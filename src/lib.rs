//! Sluice: one binary in front of PostgreSQL that pools connections, reads from replicas and routes
//! every statement by the hash of its user id.
//!
//! The life of a query:
//!
//! 1. [`net`] accepts the connection, asks who it is and hands it to a worker of the [`router`].
//! 2. [`execute`] reads messages as [`protocol`] cuts them, bodies undecoded.
//! 3. The planner of the crate `pgsluice_sharding` answers from its cache, or parses, binds and plans
//!    against the [`catalog`].
//! 4. Parameters or literals give keys, keys give shards; [`pool`] grants servers there.
//! 5. A server is brought to what [`session`] knows of the client, in the same write as the statement.
//! 6. One shard: replies pass as frames. Several: rows are merged. [`commit`] makes writes on several
//!    shards one.
//! 7. Servers go back, unless a transaction or a pin keeps them.
//!
//! Around it: [`prober`] and [`control`] watch the instances, [`stats`] and [`view`] show what happens
//! to [`admin`] and [`http`], [`demo`] makes a cluster to try it on. `ARCHITECTURE.md` tells the rest.

pub mod admin;
pub mod auth;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod commit;
pub mod config;
pub mod control;
pub mod deadlock;
pub mod demo;
pub mod execute;
pub mod http;
pub mod import;
pub mod listening;
pub mod log;
pub mod net;
pub mod pool;
pub mod prober;
pub mod protocol;
pub mod router;
pub mod session;
pub mod stats;
pub mod transport;
pub mod view;
