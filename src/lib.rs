//! Sluice: one binary in front of PostgreSQL.

pub mod admin;
pub mod auth;
pub mod catalog;
pub mod cli;
pub mod commit;
pub mod config;
pub mod control;
pub mod demo;
pub mod execute;
pub mod http;
pub mod log;
pub mod net;
pub mod pool;
pub mod prober;
pub mod protocol;
pub mod router;
pub mod session;
pub mod stats;
pub mod view;
