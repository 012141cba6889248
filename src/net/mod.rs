//! Sockets: listening, TLS, driving one client.

pub mod buffer;
pub mod stream;
