//! Points at which tests let a commit fail: named in an environment variable, and nothing without it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// `point=what`: what happens when a commit reaches the point for the first time.
const VARIABLE: &str = "SLUICE_TEST_COMMIT_POINT";

const POLL: Duration = Duration::from_millis(5);

/// What happens at a point.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// The process ends as by SIGKILL: nothing more is sent, nobody is told.
    Abort,
    /// The process stands still until it gets SIGCONT.
    Stop,
    /// The commit waits until this file exists.
    Hold(PathBuf),
    /// The connection to this participant breaks, by position.
    Lose(usize),
    /// The transaction of this participant fails, by position, and nobody hears of it.
    Fail(usize),
}

/// What a test does to a participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    Lost(usize),
    Failed(usize),
}

/// The one point that is armed, if any.
#[derive(Debug, Default)]
pub struct Points {
    armed: Option<(String, What)>,
    passed: AtomicBool,
}

impl Points {
    pub fn from_environment() -> Self {
        let armed = std::env::var(VARIABLE).ok().and_then(|text| read(&text));
        if let Some((point, what)) = &armed {
            tracing::warn!(point, ?what, "commits fail on purpose");
        }
        Self { armed, passed: AtomicBool::new(false) }
    }

    pub fn is_armed(&self) -> bool {
        self.armed.is_some()
    }

    /// A commit has come to `point`. Gives what happens to a participant.
    pub async fn reach(&self, point: &str) -> Option<Harm> {
        let (_, what) = self.armed.as_ref().filter(|(armed, _)| armed == point)?;
        if self.passed.swap(true, Ordering::Relaxed) {
            return None;
        }
        tracing::warn!(point, ?what, "a commit has reached its point");
        match what {
            What::Abort => std::process::abort(),
            What::Stop => {
                let stopped = Command::new("kill").args(["-STOP", &std::process::id().to_string()]).status();
                tracing::warn!(?stopped, "the process goes on");
                None
            }
            What::Hold(file) => {
                while !file.exists() {
                    tokio::time::sleep(POLL).await;
                }
                None
            }
            What::Lose(participant) => Some(Harm::Lost(*participant)),
            What::Fail(participant) => Some(Harm::Failed(*participant)),
        }
    }
}

fn read(text: &str) -> Option<(String, What)> {
    let (point, what) = text.split_once('=')?;
    let what = match what.split_once(':') {
        None if what == "abort" => What::Abort,
        None if what == "stop" => What::Stop,
        Some(("hold", file)) => What::Hold(file.into()),
        Some(("lose", participant)) => What::Lose(participant.parse().ok()?),
        Some(("fail", participant)) => What::Fail(participant.parse().ok()?),
        _ => return None,
    };
    Some((point.to_owned(), what))
}
