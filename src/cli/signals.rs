//! What the terminal or the system wants of this process.

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::admin::Shutdown;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// SIGHUP.
    Reload,
    /// SIGUSR1: of all databases, as PAUSE.
    Pause,
    /// SIGUSR2: of all databases, as RESUME.
    Resume,
    /// SIGTERM waits for clients to leave, SIGINT for transactions to end, SIGQUIT for nothing; as
    /// in PgBouncer.
    Stop(Shutdown),
}

/// A signal that comes while nobody waits is kept for the next wait.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    first: Signal,
    second: Signal,
    /// Somebody has asked already: the next one means now.
    stopping: bool,
}

impl Signals {
    pub(super) fn listen(runtime: &Runtime) -> Result<Self, String> {
        let _guard = runtime.enter();
        let on = |kind| signal(kind).map_err(|error| format!("cannot listen for signals: {error}"));
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            quit: on(SignalKind::quit())?,
            hangup: on(SignalKind::hangup())?,
            first: on(SignalKind::user_defined1())?,
            second: on(SignalKind::user_defined2())?,
            stopping: false,
        })
    }

    /// The next signal.
    pub(super) async fn next(&mut self) -> Wish {
        let how = tokio::select! {
            _ = self.hangup.recv() => return Wish::Reload,
            _ = self.first.recv() => return Wish::Pause,
            _ = self.second.recv() => return Wish::Resume,
            _ = self.terminate.recv() => Shutdown::WaitForClients,
            _ = self.interrupt.recv() => Shutdown::WaitForServers,
            _ = self.quit.recv() => Shutdown::Now,
        };
        let again = std::mem::replace(&mut self.stopping, true);
        Wish::Stop(if again { Shutdown::Now } else { how })
    }
}
