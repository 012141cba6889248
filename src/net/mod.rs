//! Sockets: listening, TLS, driving one client.

pub mod stream;
