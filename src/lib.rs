//! Sluice: one binary in front of PostgreSQL.

pub mod auth;
pub mod config;
pub mod demo;
pub mod net;
pub mod pool;
pub mod protocol;
pub mod stats;
