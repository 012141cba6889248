//! The clock of the drivers. State machines are told the time by whoever reads it here.

use std::time::Instant;

/// Now, by the clock of the runtime's timers: a simulation that turns those turns this as well.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
