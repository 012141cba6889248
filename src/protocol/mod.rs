//! PostgreSQL's frontend/backend protocol without I/O: bytes <-> messages.
//!
//! Knows no pools, no shards, no configuration.

pub mod backend;
pub mod error;
pub mod frame;
pub mod frontend;
pub mod reader;
pub mod reply;
pub mod startup;

pub use error::{ErrorFields, Severity};
pub use frame::Header;
pub use reader::Malformed;
