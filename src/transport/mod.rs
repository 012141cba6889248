//! What both sides of the router share: the byte stream to a peer and the buffers lent to it.

pub mod buffer;
pub mod stream;
