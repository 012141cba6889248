//! The first packets of a connection.

pub const PROTOCOL_3_0: u32 = 3 << 16;
pub const SSL_REQUEST: u32 = 80_877_103;
pub const CANCEL_REQUEST: u32 = 80_877_102;
