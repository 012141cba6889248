//! The pool: its decisions one by one, many workers and pools at random by seed, sessions over a
//! simulated PostgreSQL, and real servers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(unreachable_pub, reason = "the modules of a test are its own")]

#[path = "pool/decisions.rs"]
mod decisions;
#[path = "pool/fake.rs"]
mod fake;
#[path = "pool/postgres.rs"]
mod postgres;
#[path = "pool/simulation.rs"]
mod simulation;
#[path = "pool/tagged.rs"]
mod tagged;
#[path = "support/wire.rs"]
#[allow(dead_code, reason = "shared with tests that use more of it")]
mod wire;
