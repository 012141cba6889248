//! The pool: its decisions one by one, many workers and pools at random by seed, and real servers.

#[path = "pool/decisions.rs"]
mod decisions;
#[path = "pool/simulation.rs"]
mod simulation;
