//! What is known of the shards' part in commits, for workers, and what workers ask of the control thread.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::coordinator::Decision;
use super::name::{Identity, PreparedName, TransactionId};
use super::points::Points;
use super::recover::{LEARN_TIME_MAX, connect, decide, finish};

/// How long a commit waits to learn who its shards are, in a router that has just started.
const IDENTITY_TIME_MAX: Duration = Duration::from_secs(5);

/// Why a shard is unfit that cannot prepare.
pub const NOT_PREPARED: &str = "max_prepared_transactions is 0";

/// How long between two attempts to learn an outcome.
const LEARN_PAUSE: Duration = Duration::from_millis(100);

/// How to log in to the shards of a database, as they are at this moment.
pub trait Logins: fmt::Debug + Send + Sync {
    /// At the primary of a shard, as the user of control connections.
    fn primary(&self, shard: usize) -> tokio_postgres::Config;

    /// The same as another user, if the configuration has its password or the server needs none.
    fn primary_as(&self, shard: usize, user: &str) -> tokio_postgres::Config;
}

/// The logins of a database with one shard, whose commits nobody has to look after.
#[derive(Debug)]
pub struct Nowhere;

impl Logins for Nowhere {
    fn primary(&self, _: usize) -> tokio_postgres::Config {
        tokio_postgres::Config::new()
    }

    fn primary_as(&self, _: usize, _: &str) -> tokio_postgres::Config {
        tokio_postgres::Config::new()
    }
}

/// How commits are brought to their end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// What is prepared for longer may have lost its router, and is resolved.
    pub in_doubt_after: Duration,
    /// How long a client waits for shards of which nothing is heard during its commit: before the decision, for the decision,
    /// and for what follows it.
    pub outcome_timeout: Duration,
}

/// What is known of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nobody could ask yet; the reason when somebody has tried.
    Away(String),
    Ready(Identity),
    /// It cannot take part in commits over several shards: why.
    Unfit(String),
}

/// A transaction that is prepared somewhere, for SHOW TRANSACTIONS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InDoubt {
    pub gid: String,
    /// By position in the database; the decider is `None` when it is no shard of it.
    pub shard: usize,
    pub decider: Option<usize>,
    pub owner: String,
    pub prepared: SystemTime,
    /// Its router has left it behind, or somebody has tried to resolve it.
    pub is_left: bool,
    /// Why it could not be resolved, when somebody has tried.
    pub problem: Option<String>,
}

/// The commits of one database.
#[derive(Debug)]
pub struct Commits {
    settings: RwLock<(Arc<dyn Logins>, Bounds)>,
    pub points: Points,
    control: Handle,
    known: watch::Sender<Vec<Known>>,
    /// What this router has left behind: it need not grow old to be resolved.
    left: Mutex<HashMap<TransactionId, Instant>>,
    /// Something was left behind.
    pub(super) hurry: Notify,
    in_doubt: RwLock<Arc<[InDoubt]>>,
}

impl Commits {
    /// Of a database with so many shards; `control` is the runtime on which the router's own connections live.
    pub fn new(shards: usize, logins: Arc<dyn Logins>, bounds: Bounds, control: Handle) -> Self {
        let unasked = Known::Away("it has not been asked yet".to_owned());
        Self {
            settings: RwLock::new((logins, bounds)),
            points: Points::from_environment(),
            control,
            known: watch::Sender::new(vec![unasked; shards]),
            left: Mutex::default(),
            hurry: Notify::new(),
            in_doubt: RwLock::new(Arc::new([])),
        }
    }

    /// The configuration was read again; the shards are the same.
    pub fn reconfigure(&self, logins: Arc<dyn Logins>, bounds: Bounds) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = (logins, bounds);
    }

    pub fn bounds(&self) -> Bounds {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).1
    }

    pub(super) fn logins(&self) -> Arc<dyn Logins> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Who these shards are.
    ///
    /// # Errors
    /// The position of one that cannot take part, and why.
    pub async fn identities(&self, shards: &[usize]) -> Result<Vec<Identity>, (usize, Known)> {
        let mut known = self.known.subscribe();
        let settled = |known: &Vec<Known>| shards.iter().all(|shard| !matches!(known[*shard], Known::Away(_)));
        // Whether time is up is seen by what is known then.
        drop(timeout(IDENTITY_TIME_MAX, known.wait_for(settled)).await);
        let known = self.known.borrow();
        let of = |shard: &usize| match &known[*shard] {
            Known::Ready(identity) => Ok(*identity),
            other => Err((*shard, other.clone())),
        };
        shards.iter().map(of).collect()
    }

    /// The first shard that cannot take part in a commit over several, and why.
    pub fn unfit(&self) -> Option<(usize, String)> {
        let known = self.known.borrow();
        known.iter().enumerate().find_map(|(shard, known)| match known {
            Known::Unfit(why) => Some((shard, why.clone())),
            Known::Away(_) | Known::Ready(_) => None,
        })
    }

    /// What is known of every shard.
    pub fn known(&self) -> Vec<Known> {
        self.known.borrow().clone()
    }

    /// How a transaction has ended whose decider was lost; its commit began at `began`. If it has not ended, it is
    /// aborted by that. `None` when the decider does not answer within `patience`, or it is too late to tell.
    pub async fn learn(
        &self,
        shard: usize,
        transaction: TransactionId,
        began: Instant,
        patience: Duration,
    ) -> Option<Decision> {
        let logins = self.logins();
        let ask = async move {
            loop {
                // By then another may be primary.
                match connect(logins.primary(shard)).await {
                    Ok(client) => match decide(&client, transaction).await {
                        Ok(decision) => return decision,
                        Err(error) => tracing::warn!(%transaction, %error, "the decider does not tell"),
                    },
                    Err(error) => tracing::warn!(%transaction, %error, "the decider cannot be asked"),
                }
                tokio::time::sleep(LEARN_PAUSE).await;
            }
        };
        let task = self.control.spawn(async move { timeout(patience, ask).await.ok() });
        let decision = task.await.ok().flatten();
        decision.filter(|decision| *decision == Decision::Commit || began.elapsed() < LEARN_TIME_MAX)
    }

    /// Commits what a committed transaction has left prepared on a shard, if nobody has yet.
    ///
    /// # Errors
    /// Why that could not be done in time.
    pub async fn finish(&self, shard: usize, name: PreparedName) -> Result<(), String> {
        let (logins, patience) = (self.logins(), self.bounds().outcome_timeout);
        let work = async move {
            loop {
                match finish(name, shard, &*logins).await {
                    Ok(()) => return,
                    Err(error) => tracing::warn!(gid = %name, error, "a committed transaction is not finished yet"),
                }
                tokio::time::sleep(LEARN_PAUSE).await;
            }
        };
        let task = self.control.spawn(async move { timeout(patience, work).await });
        match task.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("it does not answer in time".to_owned()),
            Err(_) => Err("the router is shutting down".to_owned()),
        }
    }

    /// Something that this transaction has prepared is left to be resolved.
    pub fn leave_behind(&self, transaction: TransactionId) {
        self.left().insert(transaction, Instant::now());
        self.hurry.notify_one();
    }

    pub fn in_doubt(&self) -> Arc<[InDoubt]> {
        self.in_doubt.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The runtime on which the router's own connections live.
    pub(super) fn control(&self) -> &Handle {
        &self.control
    }

    pub(super) fn left(&self) -> MutexGuard<'_, HashMap<TransactionId, Instant>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn learned(&self, shard: usize, known: Known) {
        self.known.send_if_modified(|all| {
            let changes = all[shard] != known;
            all[shard] = known;
            changes
        });
    }

    pub(super) fn tell_in_doubt(&self, rows: Vec<InDoubt>) {
        *self.in_doubt.write().unwrap_or_else(PoisonError::into_inner) = rows.into();
    }
}
