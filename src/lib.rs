//! Sluice: one binary in front of PostgreSQL.

pub mod cli;
pub mod config;
pub mod demo;
pub mod net;
pub mod protocol;
pub mod stats;
