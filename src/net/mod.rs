//! Sockets: listening, TLS, driving one client.

pub mod buffer;
pub mod cancel;
pub mod client;
pub mod console;
pub mod listener;
pub mod startup;
pub mod stream;
pub mod tls;
