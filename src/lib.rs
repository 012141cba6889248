//! Sluice: one binary in front of PostgreSQL.

pub mod admin;
pub mod auth;
pub mod catalog;
pub mod config;
pub mod control;
pub mod http;
pub mod log;
pub mod net;
pub mod prober;
pub mod protocol;
pub mod stats;
pub mod view;
