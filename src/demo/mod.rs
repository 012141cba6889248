//! A PostgreSQL cluster on this machine, made in a temporary folder and gone without a trace:
//! what `sluice demo` shows and what the tests run against.

mod binaries;
mod cluster;
mod instance;
mod show;
mod system;
mod template;

pub use cluster::{Cluster, ClusterOptions, TcpAuth};
pub use instance::Instance;
pub use show::{Demo, Outcome};
pub use system::free_port;

use std::fmt;

/// Why the cluster could not do what it was asked: one sentence, with the server's own words.
#[derive(Debug)]
pub struct Error(String);

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}
