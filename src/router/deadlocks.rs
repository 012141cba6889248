//! Deadlocks over shards: transactions that wait for each other's locks on different servers, and for places in pools.
//!
//! No single PostgreSQL sees such a ring. Nothing here is on the way of a statement: a few times a second the workers are asked
//! whether any client that holds servers has been waiting for long; only then the instances are asked who waits for whom. What
//! two looks have in common has lasted between them, so that a ring found in it is one. A ring within one PostgreSQL is left to it.

mod published;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_postgres::SimpleQueryMessage;

use super::Shared;
use super::worker::Message;
use crate::config::{Config, Host, Instance};
use crate::control;
use crate::deadlock::published::{LockWait, stuck_within};
use crate::deadlock::{Need, Party, WaitGraph};
use crate::pool::budget::{Mode, PoolSnapshot};
use crate::pool::directory::PoolKey;
use crate::protocol::error::ErrorFields;
use crate::view::{LockHolder, LockWaitRow};
use published::Publisher;

/// How long a client may wait before anybody looks; PostgreSQL's own default.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often the workers are asked.
const INTERVAL: Duration = Duration::from_millis(300);

/// The same while there is a wait that may be part of a ring through clients of other routers.
const INTERVAL_IN_DOUBT: Duration = Duration::from_millis(100);

/// So many looks are that close to each other; a long wait is no ring.
const LOOKS_IN_DOUBT_MAX: u32 = 10;

/// How long an instance may take to tell its locks.
const ANSWER_TIME_MAX: Duration = Duration::from_millis(500);

/// How much of a stranger's statement is shown.
const STATEMENT_CHARACTERS_MAX: usize = 1000;

/// Who waits for whom in one PostgreSQL, over all of its databases, in PostgreSQL's words.
const LOCKS: &str = "\
SELECT l.pid, (extract(epoch FROM l.waitstart) * 1000000)::bigint, \
(extract(epoch FROM pg_catalog.clock_timestamp() - l.waitstart) * 1000000)::bigint, pg_catalog.array_to_string(pg_catalog.pg_blocking_pids(l.pid), ','), l.mode || ' on ' || CASE l.locktype
 WHEN 'relation' THEN pg_catalog.format('relation %s of database %s', l.relation, l.database)
 WHEN 'extend' THEN pg_catalog.format('extension of relation %s of database %s', l.relation, l.database)
 WHEN 'page' THEN pg_catalog.format('page %s of relation %s of database %s', l.page, l.relation, l.database)
 WHEN 'tuple' THEN pg_catalog.format('tuple (%s,%s) of relation %s of database %s', l.page, l.tuple, l.relation, l.database)
 WHEN 'transactionid' THEN pg_catalog.format('transaction %s', l.transactionid)
 WHEN 'virtualxid' THEN pg_catalog.format('virtual transaction %s', l.virtualxid)
 WHEN 'object' THEN pg_catalog.format('object %s of class %s of database %s', l.objid, l.classid, l.database)
 WHEN 'advisory' THEN pg_catalog.format('advisory lock [%s,%s,%s,%s]', l.database, l.classid, l.objid, l.objsubid)
 ELSE l.locktype END
FROM pg_catalog.pg_locks l WHERE NOT l.granted AND l.waitstart IS NOT NULL";

/// A client that holds servers.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) id: u64,
    pub(super) worker: usize,
    /// The process id that it was greeted with.
    pub(super) pid: i32,
    /// The beginning of the request that is being answered; none when nothing is.
    pub(super) asked_at: Option<Instant>,
    /// When it got the first of its servers.
    pub(super) began: Instant,
    /// The pool in whose queue it is, since when.
    pub(super) queue: Option<(PoolKey, Instant)>,
    pub(super) servers: Vec<HeldServer>,
}

#[derive(Clone, Debug)]
pub(super) struct HeldServer {
    pub(super) id: u64,
    /// The PostgreSQL process.
    pub(super) pid: i32,
    pub(super) pool: PoolKey,
    pub(super) shard: String,
}

/// One that must give up, as its worker is told.
#[derive(Debug)]
pub(super) struct Sentence {
    pub(super) client: u64,
    pub(super) asked_at: Option<Instant>,
    pub(super) fields: ErrorFields,
    /// The servers on which it waits for a lock.
    pub(super) servers: Vec<u64>,
}

type Address = (Host, u16);

/// The ways to the instances, opened when they are needed first.
#[derive(Default)]
pub(super) struct LockReader {
    config: Option<Arc<Config>>,
    pools: HashMap<Address, Pool>,
}

impl LockReader {
    /// The way to an instance.
    fn pool(&mut self, config: &Arc<Config>, instance: &Instance) -> Option<Pool> {
        if !self.config.as_ref().is_some_and(|known| Arc::ptr_eq(known, config)) {
            self.pools.clear();
            self.config = Some(config.clone());
        }
        let address = (instance.host.clone(), instance.port);
        if let Some(pool) = self.pools.get(&address) {
            return Some(pool.clone());
        }
        let login = control::config(instance, &config.users, config.pool.connect_timeout);
        let pool = control::pool(login, 1, config.pool.connect_timeout).ok()?;
        self.pools.insert(address, pool.clone());
        Some(pool)
    }

    /// The waits on each instance, all asked at the same time; nothing from one that does not tell in time.
    async fn read(&mut self, config: &Arc<Config>, instances: &[Instance]) -> Vec<Vec<LockWait>> {
        let mut all = vec![Vec::new(); instances.len()];
        let mut tasks = JoinSet::new();
        for (at, instance) in instances.iter().enumerate() {
            let Some(pool) = self.pool(config, instance) else { continue };
            let address = instance.address();
            tasks.spawn(async move {
                let answer = timeout(ANSWER_TIME_MAX, locks(&pool)).await;
                let answer = answer.unwrap_or_else(|_| Err("it does not answer in time".to_owned()));
                if let Err(reason) = &answer {
                    tracing::debug!(instance = address, reason, "the locks are not known");
                }
                (at, answer.unwrap_or_default())
            });
        }
        while let Some(told) = tasks.join_next().await {
            let Ok((at, waits)) = told else { continue };
            all[at] = waits;
        }
        all
    }
}

async fn locks(pool: &Pool) -> Result<Vec<LockWait>, String> {
    let client = pool.get().await.map_err(|error| control::reason(&error))?;
    let rows = client.simple_query(LOCKS).await.map_err(|error| control::reason(&error))?;
    let waits = rows.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(LockWait {
            pid: row.get(0)?.parse().ok()?,
            since: row.get(1)?.parse().ok()?,
            wait: Duration::from_micros(row.get(2)?.parse().unwrap_or_default()),
            blockers: row.get(3)?.split(',').filter_map(|pid| pid.parse().ok()).collect(),
            what: row.get(4)?.to_owned(),
        }),
        _ => None,
    });
    Ok(waits.collect())
}

/// What these processes run or have run last, as far as this user may know.
async fn statements(pool: &Pool, processes: &BTreeSet<i32>) -> Result<Vec<(i32, String)>, String> {
    let list: Vec<String> = processes.iter().map(i32::to_string).collect();
    // Without the right to see it, it is a remark in angle brackets.
    let sql = format!(
        "SELECT pid, pg_catalog.left(query, {STATEMENT_CHARACTERS_MAX}) FROM pg_catalog.pg_stat_activity \
         WHERE pid IN ({}) AND query NOT IN ('', '<insufficient privilege>')",
        list.join(", ")
    );
    let client = pool.get().await.map_err(|error| control::reason(&error))?;
    let rows = client.simple_query(&sql).await.map_err(|error| control::reason(&error))?;
    let read = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some((row.get(0)?.parse().ok()?, row.get(1)?.to_owned())),
        _ => None,
    };
    Ok(rows.iter().filter_map(read).collect())
}

/// Everything that is known of who waits, at about one moment.
struct Moment {
    holders: Vec<Holder>,
    /// By the position of the instance in `instances`.
    locks: Vec<Vec<LockWait>>,
    instances: Vec<Address>,
    /// What strangers run, by instance and process, for those who were asked about.
    statements: HashMap<(usize, i32), String>,
    config: Arc<Config>,
    pools: Vec<(PoolKey, Mode, PoolSnapshot)>,
    budgets: Vec<(Host, u16, u32, u32)>,
}

impl Shared {
    /// Watches until the router ends.
    pub(super) async fn watch_deadlocks(self: Arc<Self>) {
        let mut publisher = Publisher::new(self.random.seed);
        let mut looks_in_doubt = 0;
        loop {
            sleep(if (1..=LOOKS_IN_DOUBT_MAX).contains(&looks_in_doubt) { INTERVAL_IN_DOUBT } else { INTERVAL }).await;
            if !self.anybody_waits().await {
                publisher.withdraw().await;
                looks_in_doubt = 0;
                continue;
            }
            let first = self.moment(&[]).await;
            let graph = first.graph();
            if graph.victims(Some).is_empty() {
                let is_in_doubt = self.look_beyond(&first, &mut publisher).await;
                looks_in_doubt = if is_in_doubt { looks_in_doubt.saturating_add(1) } else { 0 };
                continue;
            }
            let second = self.moment(&[]).await;
            let lasting = second.graph().lasting(&graph);
            for victim in lasting.victims(|party| second.age(party)) {
                if let Party::Client(client) = victim.party {
                    self.give_up(&second, client, victim.detail(|party| second.pid(party))).await;
                }
            }
        }
    }

    /// Whether a client has been waiting for long that others may wait for.
    async fn anybody_waits(&self) -> bool {
        let mut waits = false;
        for worker in 0..self.workers.len() {
            let (reply, answer) = oneshot::channel();
            self.tell(worker, Message::Waits { longer_than: PATIENCE, reply });
            waits |= answer.await.unwrap_or_default();
        }
        waits
    }

    /// Who waits for what now, also on the instances `first`, which are the first of the moment's.
    async fn moment(&self, first: &[Instance]) -> Moment {
        let mut holders = Vec::new();
        for worker in 0..self.workers.len() {
            let (reply, answer) = oneshot::channel();
            self.tell(worker, Message::Holders { reply });
            holders.extend(answer.await.unwrap_or_default());
        }
        let config = self.config();
        let mut moment = Moment {
            locks: Vec::new(),
            statements: HashMap::new(),
            instances: first.iter().map(|instance| (instance.host.clone(), instance.port)).collect(),
            pools: self.directory.snapshots(Instant::now()),
            budgets: self.directory.instances(),
            config: config.clone(),
            holders,
        };
        let active = moment.holders.iter().filter(|holder| holder.asked_at.is_some());
        let places: Vec<Instance> =
            active.flat_map(|holder| &holder.servers).filter_map(|server| instance_of(&config, &server.pool)).collect();
        let mut asked = first.to_vec();
        for instance in places {
            let address = (instance.host.clone(), instance.port);
            if !moment.instances.contains(&address) {
                moment.instances.push(address);
                asked.push(instance);
            }
        }
        moment.locks = self.locks.lock().await.read(&config, &asked).await;
        moment
    }

    /// The clients that wait for locks of PostgreSQL, for SHOW WAITING.
    pub(super) async fn lock_waits(self: Arc<Self>) -> Vec<LockWaitRow> {
        let shared = self.clone();
        // Control connections live on the control thread.
        let asked = self.control.spawn(async move {
            let mut moment = shared.moment(&[]).await;
            shared.ask_what_strangers_do(&mut moment).await;
            moment.lock_waits()
        });
        asked.await.unwrap_or_default()
    }

    /// What those do for whom clients wait, and who are not this router's.
    async fn ask_what_strangers_do(&self, moment: &mut Moment) {
        for instance in 0..moment.instances.len() {
            let waits = moment.locks[instance].iter().filter(|wait| moment.party(instance, wait.pid).1.is_some());
            let strangers = waits.flat_map(|wait| &wait.blockers).copied();
            let strangers: BTreeSet<i32> =
                strangers.filter(|pid| *pid != 0 && moment.party(instance, *pid).1.is_none()).collect();
            let pool = self.locks.lock().await.pools.get(&moment.instances[instance]).cloned();
            let (Some(pool), false) = (pool, strangers.is_empty()) else { continue };
            let told = timeout(ANSWER_TIME_MAX, statements(&pool, &strangers)).await;
            let told = told.unwrap_or_else(|_| Err("it does not answer in time".to_owned())).unwrap_or_default();
            moment.statements.extend(told.into_iter().map(|(pid, statement)| ((instance, pid), statement)));
        }
    }

    /// Has one client give up; the others go on when its servers have failed.
    async fn give_up(&self, moment: &Moment, client: u64, detail: String) {
        let Some(holder) = moment.holders.iter().find(|holder| holder.id == client) else { return };
        tracing::warn!(client, pid = holder.pid, detail, "a deadlock over shards: one transaction gives up");
        let fields = ErrorFields::error("40P01", "deadlock detected")
            .with_detail(detail)
            .with_hint("See the router's log for more details.");
        let servers = moment.waiting_servers(holder);
        let sentence = Sentence { client, asked_at: holder.asked_at, fields, servers };
        let (done, told) = oneshot::channel();
        self.tell(holder.worker, Message::GiveUp { sentence: Box::new(sentence), done });
        // The sender is dropped, not used.
        drop(told.await);
    }
}

impl Moment {
    /// Who waits for whom, but for what one PostgreSQL sees by itself.
    fn graph(&self) -> WaitGraph {
        let mut graph = WaitGraph::default();
        for (instance, locks) in self.locks.iter().enumerate() {
            let left_to_postgresql = stuck_within(instance, locks);
            for wait in locks.iter().filter(|wait| !left_to_postgresql.contains(&wait.pid)) {
                let (party, holder) = self.party(instance, wait.pid);
                let shard = holder.map_or("", |(_, server)| &*server.shard);
                let asked_at = holder.map(|(holder, _)| holder.asked_at);
                for blocker in &wait.blockers {
                    graph.add(
                        party,
                        Need {
                            what: format!("{} on shard \"{shard}\"", wait.what),
                            mark: format!("{} {} {asked_at:?}", wait.pid, wait.since),
                            any_of: [self.party(instance, *blocker).0].into(),
                        },
                    );
                }
            }
        }
        for holder in &self.holders {
            if let Some((pool, since)) = &holder.queue
                && let Some(any_of) = self.holders_of(pool)
            {
                let what = format!("a server of shard \"{}\"", self.shard_name(pool));
                graph.add(Party::Client(holder.id), Need { what, mark: format!("{since:?}"), any_of });
            }
        }
        graph
    }

    fn lock_waits(&self) -> Vec<LockWaitRow> {
        let mut rows = Vec::new();
        for (instance, locks) in self.locks.iter().enumerate() {
            let of_clients = locks.iter().filter_map(|wait| Some((wait, self.party(instance, wait.pid).1?)));
            rows.extend(of_clients.map(|(wait, (waiter, server))| LockWaitRow {
                client: waiter.id,
                shard: server.shard.clone(),
                instance: self.instances[instance].0.with_port(self.instances[instance].1),
                wait: wait.wait,
                lock: wait.what.clone(),
                holders: wait.blockers.iter().map(|pid| self.lock_holder(instance, *pid)).collect(),
            }));
        }
        rows
    }

    fn lock_holder(&self, instance: usize, pid: i32) -> LockHolder {
        match self.party(instance, pid).1 {
            Some((_, server)) => LockHolder::Server(server.id),
            None if pid == 0 => LockHolder::Prepared,
            None => LockHolder::Stranger { pid, statement: self.statements.get(&(instance, pid)).cloned() },
        }
    }

    /// Whose end would bring a server to those who wait in a pool's queue; nobody known when one may come without.
    fn holders_of(&self, pool: &PoolKey) -> Option<BTreeSet<Party>> {
        let (_, mode, counts) = self.pools.iter().find(|(key, ..)| key == pool)?;
        let instance = instance_of(&self.config, pool)?;
        let (.., open, max) =
            self.budgets.iter().find(|(host, port, ..)| (host, *port) == (&instance.host, instance.port))?;
        let is_own = |key: &PoolKey| key == pool;
        let is_there = |key: &PoolKey| {
            instance_of(&self.config, key)
                .is_some_and(|other| (&other.host, other.port) == (&instance.host, instance.port))
        };
        let (in_use, of): (u32, &dyn Fn(&PoolKey) -> bool) = match (counts.open >= counts.size, open >= max) {
            (true, _) => (counts.open, &is_own),
            (false, true) => (*open, &is_there),
            // A new server is on its way, or cannot be had for reasons that no client's end would change.
            (false, false) => return None,
        };
        let holders = self.holders.iter().flat_map(|holder| holder.servers.iter().map(move |server| (holder, server)));
        let held: Vec<Party> =
            holders.filter(|(_, server)| of(&server.pool)).map(|(holder, _)| Party::Client(holder.id)).collect();
        // One that is not in a client's hands comes to the queue by itself.
        (*mode == Mode::Running && held.len() >= usize::try_from(in_use).ok()?).then(|| held.into_iter().collect())
    }

    /// Whose process this is.
    fn party(&self, instance: usize, pid: i32) -> (Party, Option<(&Holder, &HeldServer)>) {
        let (host, port) = &self.instances[instance];
        let is_there = |server: &HeldServer| {
            server.pid == pid
                && instance_of(&self.config, &server.pool)
                    .is_some_and(|found| (&found.host, found.port) == (host, *port))
        };
        let found = self.holders.iter().find_map(|holder| Some((holder, holder.servers.iter().find(|s| is_there(s))?)));
        match found {
            Some((holder, server)) => (Party::Client(holder.id), Some((holder, server))),
            None => (Party::Process { instance, pid }, None),
        }
    }

    /// By which the youngest is known; only this router's own clients can be made to give up.
    fn age(&self, party: Party) -> Option<(Instant, u64)> {
        let Party::Client(id) = party else { return None };
        self.holders.iter().find(|holder| holder.id == id).map(|holder| (holder.began, id))
    }

    fn pid(&self, party: Party) -> i32 {
        match party {
            Party::Client(id) => self.holders.iter().find(|holder| holder.id == id).map_or(0, |holder| holder.pid),
            Party::Process { pid, .. } => pid,
            Party::Published { .. } => 0,
        }
    }

    fn waiting_servers(&self, holder: &Holder) -> Vec<u64> {
        let waits = |server: &&HeldServer| {
            let there = |instance: usize, wait: &LockWait| {
                self.party(instance, wait.pid).1.is_some_and(|(_, found)| found.id == server.id)
            };
            self.locks.iter().enumerate().any(|(n, locks)| locks.iter().any(|wait| there(n, wait)))
        };
        holder.servers.iter().filter(waits).map(|server| server.id).collect()
    }

    fn shard_name(&self, pool: &PoolKey) -> String {
        let database = self.config.databases.iter().find(|database| *database.name == *pool.database);
        let shard = database.and_then(|database| database.shards.get(usize::from(pool.shard)));
        shard.map(|shard| shard.name.clone()).unwrap_or_default()
    }
}

fn instance_of(config: &Config, pool: &PoolKey) -> Option<Instance> {
    let database = config.databases.iter().find(|database| *database.name == *pool.database)?;
    database.shards.get(usize::from(pool.shard))?.instances().nth(usize::from(pool.instance)).cloned()
}
