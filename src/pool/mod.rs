//! Servers: who may use which, how many there may be, and which instance answers what.
//!
//! `core` and `budget` decide, `driver` does; `server` follows the protocol on one connection; `balance` and `health` choose among replicas.

pub mod balance;
pub mod budget;
pub mod connect;
pub mod core;
pub mod directory;
pub mod driver;
pub mod error;
pub mod health;
mod link;
pub mod server;

pub use link::{CancelHandle, Canceller, SERVER_BYTES, Server, ServerId};
