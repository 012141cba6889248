//! Sluice: one binary in front of PostgreSQL.

pub mod catalog;
pub mod config;
pub mod control;
pub mod net;
pub mod prober;
pub mod protocol;
pub mod stats;
