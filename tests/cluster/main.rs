//! The router over real PostgreSQL servers: answers, placement, loading, faults, hostile clients.
//!
//! One binary, because each has to be linked; all tests that do not stop their servers share one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../support/mod.rs"]
mod support;

mod acting;
mod arrays;
mod bank;
mod conversations;
mod copying;
mod copying_filled;
mod copying_in;
mod copying_moments;
mod crashes;
mod cursors;
mod ddl;
mod deadlocks;
mod demo;
mod enemies;
mod explain;
mod faults;
mod generated;
mod hostile;
mod ids;
mod interrupted;
mod large;
mod listening;
mod loading;
mod mirrored;
mod outdated_writes;
mod peers;
mod phases;
mod pipelines;
mod placement;
mod prepared;
mod regressions;
mod routers;
mod routing;
mod sequences;
mod slt;
mod snapshots;
mod stages;
mod tagged;
mod tpcc;
mod tpch;
mod transactions;
