//! The pool: its decisions one by one, many workers and pools at random by seed, and real servers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "pool/decisions.rs"]
mod decisions;
#[path = "pool/postgres.rs"]
mod postgres;
#[path = "pool/simulation.rs"]
mod simulation;
