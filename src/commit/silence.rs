//! Whether a server that owes an answer to a step of a commit is still at work on it. Some steps take long by right: deferred
//! constraints are checked in them. A server is given up when for some time it has not answered, and its instance has not
//! said that it is at work either: it is frozen, or the network to it is dead.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_postgres::Client;

use super::recover::connect;
use super::schema::value;
use super::shards::Commits;

/// Longest time between two questions.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A server that owes an answer.
#[derive(Clone, Copy, Debug)]
pub struct Debtor {
    /// By position among the participants.
    pub participant: usize,
    pub shard: usize,
    /// Its process.
    pub pid: i32,
}

/// Looks after the servers that owe an answer to the same step. As long as they answer soon it does nothing.
#[derive(Debug)]
pub struct Silence {
    commits: Arc<Commits>,
    debtors: Vec<Debtor>,
    since: Instant,
    patience: Duration,
    /// One for each debtor, once the first has taken longer than most do.
    questions: Option<JoinSet<usize>>,
    silent: Vec<usize>,
}

impl Silence {
    /// These have been asked just now; each may be silent for so long.
    pub fn new(commits: Arc<Commits>, debtors: Vec<Debtor>, patience: Duration) -> Self {
        Self { commits, debtors, since: Instant::now(), patience, questions: None, silent: Vec::new() }
    }

    /// This participant has answered.
    pub fn ends(&mut self, participant: usize) {
        self.debtors.retain(|debtor| debtor.participant != participant);
    }

    /// Returns when this participant has been silent for too long. A future that is dropped may be asked for again.
    pub async fn of(&mut self, participant: usize) {
        if self.questions.is_none() {
            sleep_until(self.since + pause(self.patience)).await;
        }
        let Self { commits, debtors, since, patience, silent, .. } = self;
        let questions = self.questions.get_or_insert_with(|| {
            let mut questions = JoinSet::new();
            for debtor in debtors.iter().copied() {
                let place = commits.logins().primary(debtor.shard);
                let work = falls_silent(place, debtor.pid, *since, *patience);
                let work = async move {
                    work.await;
                    debtor.participant
                };
                questions.spawn_on(work, commits.control());
            }
            questions
        });
        while !silent.contains(&participant) {
            match questions.join_next().await {
                Some(Ok(ended)) => silent.push(ended),
                Some(Err(_)) => {}
                // The router is shutting down: nobody can ask any more.
                None => return,
            }
        }
    }
}

fn pause(patience: Duration) -> Duration {
    (patience / 4).min(PAUSE_MAX)
}

/// Asks the instance where the server was when the step was sent: whoever takes its place knows nothing of it.
async fn falls_silent(place: tokio_postgres::Config, pid: i32, since: Instant, patience: Duration) {
    let mut until = since + patience;
    let mut client = None;
    loop {
        match timeout_at(until, is_at_work(&mut client, &place, pid)).await {
            Ok(true) => until = Instant::now() + patience,
            Ok(false) => {}
            Err(_) => return,
        }
        sleep_until(until.min(Instant::now() + pause(patience))).await;
        if Instant::now() >= until {
            return;
        }
    }
}

/// Whether the server runs something. One that waits for its next statement has not got this one.
async fn is_at_work(client: &mut Option<Client>, place: &tokio_postgres::Config, pid: i32) -> bool {
    let asked = match client.take() {
        Some(client) => client,
        None => match connect(place.clone()).await {
            Ok(client) => client,
            Err(_) => return false,
        },
    };
    // What another user's server does is shown to few; that it is there is shown to all.
    let sql = format!(
        "SELECT 1 FROM pg_catalog.pg_stat_activity \
         WHERE pid OPERATOR(pg_catalog.=) {pid} AND NOT COALESCE(pg_catalog.starts_with(state, 'idle'), false)"
    );
    match asked.simple_query(&sql).await {
        Ok(answer) => {
            *client = Some(asked);
            value(&answer, 0).is_some()
        }
        Err(_) => false,
    }
}
