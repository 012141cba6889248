//! Who somebody is, without I/O: exchanges take a message and give a message or an identity.
//!
//! `login` is one client that logs in to the router; `client` is the router that logs in to a server.
//! Randomness comes in as an argument.

pub mod client;
pub mod login;
pub mod md5;
pub mod scram;
pub mod users;

pub use login::{Entropy, Login, Progress};
pub use users::Users;

use crate::protocol::ErrorFields;

/// What a client hears whose password, or whose name, is wrong. The same words for both: names are not given away.
pub(crate) fn password_failed(user: &str) -> Box<ErrorFields> {
    Box::new(ErrorFields::fatal("28P01", format!("password authentication failed for user \"{user}\"")))
}
