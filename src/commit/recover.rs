//! Looks on every shard for prepared transactions whose router may be gone, and brings them to their end. Any
//! router can: the names of the transactions tell who decides, and the decider's table tells how.
//!
//! # When rows of `sluice.decision` go
//!
//! A row `commit` is needed while a participant is prepared: without it, an abort could be inserted. It is
//! removed when, after it was read, every shard has been asked and none has a part of the transaction any
//! more ([`unneeded`]), and not before [`KEPT_MIN`]: a replica that lags may take its primary's place, and the
//! router of the commit may have lost the answer and ask for the row. After [`LEARN_TIME_MAX`] that one takes an
//! abort for no answer: it may have found the place empty of a row that was removed.
//!
//! A row `abort` is needed while the decider's transaction is open, whose router may only be slow: without it
//! that could still commit. It is removed when every transaction has ended that was there when it was made, and
//! not before [`ABORT_KEPT_MIN`]; a router decides only within [`DECISION_TIME_MAX`] of its first PREPARE.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::coordinator::Decision;
use super::name::{Identity, PREFIX, PreparedName, TransactionId};
use super::orphans::{Listed, Orphan, orphans, unneeded};
use super::schema::{self, value};
use super::shards::{Commits, InDoubt, Known, Logins, NOT_PREPARED};

/// How long between two looks.
const INTERVAL: Duration = Duration::from_millis(1000);

/// Looks between two cleanings.
const LOOKS_PER_CLEANING: u32 = 30;

/// How long one shard may take to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(3);

/// Transactions that are resolved at the same time.
const RESOLVED_TOGETHER_MAX: usize = 16;

/// What was left behind is looked for so long, or until it is old enough to be found by its age.
const LEFT_TIME_MAX: Duration = Duration::from_secs(60);

/// A commit later than this after its first PREPARE is not decided any more.
pub const DECISION_TIME_MAX: Duration = Duration::from_secs(3600);

/// An abort that is found later than this after the commit began may have taken the place of a commit's row.
pub const LEARN_TIME_MAX: Duration = Duration::from_secs(300);

/// See above; longer than [`LEARN_TIME_MAX`] by more than clocks err.
const KEPT_MIN: &str = "10 minutes";
const ABORT_KEPT_MIN: &str = "1 day";

/// Decisions that are removed at once.
const REMOVED_MAX: usize = 10_000;

/// There is no such prepared transaction: somebody has ended it already.
pub const UNDEFINED_OBJECT: &str = "42704";

const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// Who the shard is, and whether it can prepare.
const WHO: &str = "SELECT identity, pg_catalog.current_setting('max_prepared_transactions') FROM sluice.shard";

/// What is prepared here by routers.
fn list_sql() -> String {
    format!(
        "SELECT gid, owner, (EXTRACT(epoch FROM pg_catalog.clock_timestamp() - prepared) * 1000)::bigint \
         FROM pg_catalog.pg_prepared_xacts \
         WHERE database = pg_catalog.current_database() AND pg_catalog.starts_with(gid, '{PREFIX}')"
    )
}

/// Looks until dropped. `database` is for the log.
pub async fn run(commits: Arc<Commits>, database: String) {
    let shards = commits.known().len();
    let mut watch = Watch {
        shards: (0..shards).map(|_| Some(Shard::default())).collect(),
        resolving: JoinSet::new(),
        under_way: HashSet::new(),
        problems: HashMap::new(),
        commits,
        database,
    };
    let mut looks = 0;
    loop {
        let listed = watch.look().await;
        watch.resolve(&listed);
        looks += 1;
        if looks % LOOKS_PER_CLEANING == 0 {
            watch.clean().await;
        }
        tokio::select! {
            () = sleep(INTERVAL) => {}
            () = watch.commits.hurry.notified() => {}
        }
    }
}

/// One shard and the connection to its primary, kept from look to look.
#[derive(Debug, Default)]
struct Shard {
    client: Option<Client>,
    /// Where that is connected.
    place: Option<tokio_postgres::Config>,
}

struct Watch {
    commits: Arc<Commits>,
    database: String,
    /// `None` while it is asked.
    shards: Vec<Option<Shard>>,
    resolving: JoinSet<(TransactionId, Result<(), String>)>,
    under_way: HashSet<TransactionId>,
    /// Why a transaction could not be resolved.
    problems: HashMap<TransactionId, String>,
}

impl Watch {
    /// Asks all shards at the same time for what is prepared there.
    async fn look(&mut self) -> Vec<Listed> {
        let mut tasks = JoinSet::new();
        for (at, place) in self.shards.iter_mut().enumerate() {
            let (mut shard, logins) = (place.take().unwrap_or_default(), self.commits.logins());
            tasks.spawn(async move {
                let answer = timeout(ANSWER_TIME_MAX, shard.look(at, &*logins)).await;
                let answer = answer.unwrap_or_else(|_| Err(Known::Away("it does not answer in time".to_owned())));
                if answer.is_err() {
                    shard.client = None;
                }
                (at, shard, answer)
            });
        }
        let mut all = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            let Ok((at, shard, answer)) = ended else { continue };
            self.shards[at] = Some(shard);
            match answer {
                Ok((identity, listed)) => {
                    if let Some(identity) = identity {
                        self.now_known(at, Known::Ready(identity));
                    }
                    all.extend(listed);
                }
                Err(known) => self.now_known(at, known),
            }
        }
        self.tell(&all);
        all
    }

    fn now_known(&self, at: usize, now: Known) {
        let all = self.commits.known();
        let twice = |other: usize| other != at && matches!(now, Known::Ready(_)) && all[other] == now;
        let now = match (0..all.len()).find(|other| twice(*other)) {
            Some(other) => Known::Unfit(format!(
                "it calls itself what shard number {other} calls itself: one is a copy of the other; \
                 give one of them another identity in its table sluice.shard"
            )),
            None => now,
        };
        match (&all[at], &now) {
            // Who a shard is does not change while it is away.
            (Known::Ready(_), Known::Away(_)) => return,
            (old, Known::Unfit(why)) if *old != now => {
                tracing::warn!(database = self.database, shard = at, "no commits over several shards: {why}");
            }
            _ => {}
        }
        self.commits.learned(at, now);
    }

    /// For SHOW TRANSACTIONS.
    fn tell(&self, listed: &[Listed]) {
        let now = SystemTime::now();
        let left: HashSet<TransactionId> = self.commits.left().keys().copied().collect();
        let is_left = |transaction| left.contains(transaction) || self.problems.contains_key(transaction);
        let rows = listed.iter().map(|part| InDoubt {
            gid: part.name.to_string(),
            shard: part.shard,
            decider: self.position(part.name.decider),
            owner: part.owner.clone(),
            prepared: now.checked_sub(part.age).unwrap_or(now),
            is_left: is_left(&part.name.transaction),
            problem: self.problems.get(&part.name.transaction).cloned(),
        });
        self.commits.tell_in_doubt(rows.collect());
    }

    fn position(&self, identity: Identity) -> Option<usize> {
        self.commits.known().iter().position(|known| *known == Known::Ready(identity))
    }

    /// Begins to resolve what is due; what a shard does not answer to takes its time beside the next looks.
    fn resolve(&mut self, listed: &[Listed]) {
        while let Some(ended) = self.resolving.try_join_next() {
            let Ok((transaction, result)) = ended else { continue };
            self.under_way.remove(&transaction);
            match result {
                Ok(()) => {
                    self.problems.remove(&transaction);
                    self.commits.left().remove(&transaction);
                }
                Err(problem) => {
                    if self.problems.insert(transaction, problem.clone()).as_ref() != Some(&problem) {
                        tracing::warn!(database = self.database, %transaction, "not resolved yet: {problem}");
                    }
                }
            }
        }
        self.problems.retain(|transaction, _| listed.iter().any(|part| part.name.transaction == *transaction));
        self.commits.left().retain(|_, since| since.elapsed() < LEFT_TIME_MAX);
        let left = self.commits.left().clone();
        let bound = self.commits.bounds().in_doubt_after;
        let mut due = orphans(listed, |part| part.age >= bound || left.contains_key(&part.name.transaction));
        // Those whose decider sleeps do not keep the others waiting.
        due.sort_by_key(|orphan| self.problems.contains_key(&orphan.transaction));
        for orphan in due {
            if self.resolving.len() >= RESOLVED_TOGETHER_MAX || !self.under_way.insert(orphan.transaction) {
                continue;
            }
            let (decider, logins) = (self.position(orphan.decider), self.commits.logins());
            let database = self.database.clone();
            self.resolving.spawn(async move {
                let transaction = orphan.transaction;
                let work = resolve(orphan, decider, logins, &database);
                let result = timeout(ANSWER_TIME_MAX * 2, work).await;
                (transaction, result.unwrap_or_else(|_| Err("a shard does not answer in time".to_owned())))
            });
        }
    }

    /// Removes decisions that nobody can need.
    async fn clean(&mut self) {
        let mut rows: Vec<(usize, Vec<TransactionId>)> = Vec::new();
        for (at, shard) in self.shards.iter().enumerate() {
            if let Some(client) = shard.as_ref().and_then(|shard| shard.client.as_ref())
                && let Ok(Ok(found)) = timeout(ANSWER_TIME_MAX, old_commits(client)).await
            {
                rows.push((at, found));
            }
        }
        let listed = self.look().await;
        if self.shards.iter().any(|shard| shard.as_ref().is_none_or(|shard| shard.client.is_none())) {
            return;
        }
        for (at, committed) in rows {
            let Some(client) = self.shards[at].as_ref().and_then(|shard| shard.client.as_ref()) else { continue };
            let gone = unneeded(&committed, &listed);
            match timeout(ANSWER_TIME_MAX, remove(client, &gone)).await {
                Ok(Ok(())) | Err(_) => {}
                // Another user has made the tables; its router cleans.
                Ok(Err(error)) => tracing::debug!(database = self.database, shard = at, %error, "decisions stay"),
            }
        }
    }
}

impl Shard {
    /// What is prepared, and, over a new connection, who answers.
    async fn look(&mut self, at: usize, logins: &dyn Logins) -> Result<(Option<Identity>, Vec<Listed>), Known> {
        let away = |error: String| Known::Away(error);
        let mut identity = None;
        let place = logins.primary(at);
        // Another may be primary by now, or the configuration may say another place.
        if self.client.as_ref().is_none_or(Client::is_closed) || self.place.as_ref() != Some(&place) {
            self.client = None;
            let client = connect(place.clone()).await.map_err(away)?;
            identity = Some(introduce(&client).await?);
            self.client = Some(client);
            self.place = Some(place);
        }
        let Some(client) = &self.client else { return Err(away("no connection".to_owned())) };
        let messages = client.simple_query(&list_sql()).await.map_err(|error| away(crate::control::reason(&error)))?;
        let listed = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(Listed {
                name: PreparedName::parse(row.get(0)?)?,
                shard: at,
                owner: row.get(1)?.to_owned(),
                age: Duration::from_millis(row.get(2)?.parse().unwrap_or(0)),
            }),
            _ => None,
        });
        Ok((identity, listed.collect()))
    }
}

/// Makes the router's tables where they are missing, and asks who the shard is.
async fn introduce(client: &Client) -> Result<Identity, Known> {
    let unfit = |error: &tokio_postgres::Error| match error.code() {
        Some(_) => {
            Known::Unfit(format!("the tables in schema sluice cannot be used: {}", crate::control::reason(error)))
        }
        None => Known::Away(crate::control::reason(error)),
    };
    schema::make(client).await.map_err(|error| unfit(&error))?;
    let answer = client.simple_query(WHO).await.map_err(|error| unfit(&error))?;
    if value(&answer, 1) == Some("0") {
        return Err(Known::Unfit(NOT_PREPARED.to_owned()));
    }
    let identity = value(&answer, 0).and_then(Identity::parse);
    identity.ok_or_else(|| Known::Unfit("its table sluice.shard does not tell who it is".to_owned()))
}

/// A connection of its own for statements that may have to wait.
pub(super) async fn connect(config: tokio_postgres::Config) -> Result<Client, String> {
    let reason = |error: tokio_postgres::Error| crate::control::reason(&error);
    let connecting = timeout(ANSWER_TIME_MAX, config.connect(NoTls)).await;
    let (client, connection) = connecting.map_err(|_| "no connection in time".to_owned())?.map_err(reason)?;
    drop(tokio::spawn(async move {
        // Whoever asks hears of it.
        drop(connection.await);
    }));
    // Whatever is the default of the user or of the database.
    client
        .batch_execute(
            "SET statement_timeout = 5000; SET lock_timeout = 0; SET default_transaction_isolation = 'read committed'; \
             SET default_transaction_read_only = off; \
             SELECT pg_catalog.set_config('synchronous_commit', 'local', false) \
             WHERE pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.=) 'off'",
        )
        .await
        .map_err(reason)?;
    Ok(client)
}

/// How a transaction ends: `client` is at its decider. Waits for a commit under way; aborts what has not been
/// committed.
pub(super) async fn decide(client: &Client, transaction: TransactionId) -> Result<Decision, String> {
    let insert =
        format!("INSERT INTO sluice.decision (gid, outcome) VALUES ('{transaction}', 'abort') ON CONFLICT DO NOTHING");
    let reason = |error: tokio_postgres::Error| crate::control::reason(&error);
    client.batch_execute(&insert).await.map_err(reason)?;
    let select = format!("SELECT outcome FROM sluice.decision WHERE gid = '{transaction}'");
    let answer = client.simple_query(&select).await.map_err(reason)?;
    match value(&answer, 0) {
        Some("commit") => Ok(Decision::Commit),
        Some("abort") => Ok(Decision::Abort),
        _ => Err("the decision is not there".to_owned()),
    }
}

/// Asks the decider, then ends what is prepared.
async fn resolve(
    orphan: Orphan,
    decider: Option<usize>,
    logins: Arc<dyn Logins>,
    database: &str,
) -> Result<(), String> {
    let Some(decider) = decider else {
        return Err(format!("its decider {} is no shard of this database", orphan.decider));
    };
    let client =
        connect(logins.primary(decider)).await.map_err(|error| format!("its decider cannot be asked: {error}"))?;
    let decision =
        decide(&client, orphan.transaction).await.map_err(|error| format!("its decider does not tell: {error}"))?;
    let mut result = Ok(());
    for part in &orphan.parts {
        match end(part, decision, &*logins).await {
            Ok(()) => tracing::info!(database, gid = %part.name, ?decision, "a prepared transaction was resolved"),
            Err(error) => result = Err(error),
        }
    }
    result
}

/// Commits what has been prepared by this name, if nobody has yet; it must have been decided so.
pub(super) async fn finish(name: PreparedName, shard: usize, logins: &dyn Logins) -> Result<(), String> {
    let client = connect(logins.primary(shard)).await?;
    let sql = format!("SELECT owner FROM pg_catalog.pg_prepared_xacts WHERE gid = '{name}'");
    let answer = client.simple_query(&sql).await.map_err(|error| crate::control::reason(&error))?;
    let Some(owner) = value(&answer, 0) else { return Ok(()) };
    let part = Listed { name, shard, owner: owner.to_owned(), age: Duration::ZERO };
    end(&part, Decision::Commit, logins).await
}

/// COMMIT PREPARED or ROLLBACK PREPARED, as somebody who may.
async fn end(part: &Listed, decision: Decision, logins: &dyn Logins) -> Result<(), String> {
    let sql = match decision {
        Decision::Commit => format!("COMMIT PREPARED '{}'", part.name),
        Decision::Abort => format!("ROLLBACK PREPARED '{}'", part.name),
    };
    let client = connect(logins.primary(part.shard)).await?;
    let Err(error) = client.batch_execute(&sql).await else { return Ok(()) };
    match error.code().map(tokio_postgres::error::SqlState::code) {
        Some(UNDEFINED_OBJECT) => return Ok(()),
        Some(INSUFFICIENT_PRIVILEGE) => {}
        _ => return Err(crate::control::reason(&error)),
    }
    let as_owner = format!("SET ROLE \"{}\"", part.owner.replace('"', "\"\""));
    let client = match client.batch_execute(&as_owner).await {
        Ok(()) => client,
        Err(_) => connect(logins.primary_as(part.shard, &part.owner))
            .await
            .map_err(|error| format!("it belongs to user {}, as whom the router cannot log in: {error}", part.owner))?,
    };
    match client.batch_execute(&sql).await {
        Ok(()) => Ok(()),
        Err(error) if error.code().is_some_and(|code| code.code() == UNDEFINED_OBJECT) => Ok(()),
        Err(error) => Err(crate::control::reason(&error)),
    }
}

async fn old_commits(client: &Client) -> Result<Vec<TransactionId>, tokio_postgres::Error> {
    let sql = format!(
        "SELECT gid FROM sluice.decision WHERE outcome = 'commit' \
         AND decided < pg_catalog.clock_timestamp() - interval '{KEPT_MIN}' LIMIT {REMOVED_MAX}"
    );
    let messages = client.simple_query(&sql).await?;
    let read = |gid: &str| Some(TransactionId(u128::from_str_radix(gid.strip_prefix(PREFIX)?, 16).ok()?));
    Ok(messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => read(row.get(0)?),
            _ => None,
        })
        .collect())
}

async fn remove(client: &Client, commits: &[TransactionId]) -> Result<(), tokio_postgres::Error> {
    let aborts = format!(
        "DELETE FROM sluice.decision WHERE outcome = 'abort' \
         AND decided < pg_catalog.clock_timestamp() - interval '{ABORT_KEPT_MIN}' \
         AND decided_by < pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())"
    );
    client.batch_execute(&aborts).await?;
    if commits.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = commits.iter().map(|commit| format!("'{commit}'")).collect();
    client
        .batch_execute(&format!(
            "DELETE FROM sluice.decision WHERE outcome = 'commit' AND gid IN ({})",
            names.join(",")
        ))
        .await
}
