//! Sockets: listening, TLS, driving one client.

pub mod cancel;
pub mod client;
pub mod console;
pub mod listener;
pub mod startup;
pub mod tls;
