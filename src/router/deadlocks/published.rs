//! Deadlocks through clients of several routers. No router asks another: what each knows of its own transactions
//! that wait stands in a table on the first shard, as long as they wait.
//!
//! Only a client through which such a ring may pass is published: it waits for processes that this router does not
//! know, and they for it. All routers read the same entries and the same locks, and so choose the same victim; the
//! one whose client that is has it give up.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use tokio::time::timeout;
use tokio_postgres::SimpleQueryMessage;

use super::super::{Database, Shared};
use super::{ANSWER_TIME_MAX, Address, HeldServer, Holder, Moment, instance_of};
use crate::commit::shards::Known;
use crate::config::{Config, Instance};
use crate::control;
use crate::deadlock::published::{EXPIRY, Member, Place, Published, graph, read_members, write_members};
use crate::deadlock::{Party, WaitGraph};

/// What is left of routers that have died goes after this.
const LEFT_TIME_MAX: &str = "1 minute";

/// This router's part of the tables.
pub(super) struct Publisher {
    /// What tells this router's entries from others'.
    router: u64,
    /// Where there are entries of this router, by database.
    homes: HashMap<String, Home>,
    /// It has been said that nothing can be published.
    has_complained: bool,
}

/// The shard on which a database's routers publish.
#[derive(Clone)]
struct Home {
    config: Arc<Config>,
    instance: Instance,
    pool: Pool,
}

/// The primaries of a database's shards.
struct Shards {
    instances: Vec<Instance>,
    /// For each shard its identity, its name, and its instance by position.
    places: Vec<(u64, String, usize)>,
}

impl Shards {
    fn of(database: &Database) -> Self {
        let mut shards = Self { instances: Vec::new(), places: Vec::new() };
        for (position, (known, shard)) in database.commits.known().into_iter().zip(&database.config.shards).enumerate()
        {
            let Known::Ready(identity) = known else { continue };
            let Some(primary) = primary(database, position) else { continue };
            let same = |other: &Instance| (&other.host, other.port) == (&primary.host, primary.port);
            let instance = shards.instances.iter().position(same).unwrap_or_else(|| {
                shards.instances.push(primary);
                shards.instances.len() - 1
            });
            shards.places.push((identity.0, shard.name.clone(), instance));
        }
        shards
    }

    fn place(&self, identity: u64) -> Option<Place<'_>> {
        let found = self.places.iter().find(|(known, ..)| *known == identity);
        found.map(|(_, name, instance)| Place { instance: *instance, name })
    }
}

impl Publisher {
    pub(super) fn new(router: u64) -> Self {
        Self { router, homes: HashMap::new(), has_complained: false }
    }

    /// Nothing of this router waits any more.
    pub(super) async fn withdraw(&mut self) {
        let sql = format!(
            "DELETE FROM sluice.waiting WHERE router = '{:016x}'; DELETE FROM sluice.waiting WHERE (router, client) IN \
             (SELECT router, client FROM sluice.waiting WHERE seen < pg_catalog.clock_timestamp() - interval '{LEFT_TIME_MAX}' \
             FOR UPDATE SKIP LOCKED)",
            self.router
        );
        for (database, home) in self.homes.drain() {
            // What stays does not count for long, and goes with the next who withdraws.
            if let Err(reason) = home.ask(|| sql.clone()).await {
                tracing::debug!(database, reason, "entries of transactions that wait are left");
            }
        }
    }

    /// Publishes what is known of these clients, and of no others; gives what all routers have published.
    async fn publish(&mut self, database: &Database, config: &Arc<Config>, own: &[Entry]) -> Vec<Published> {
        let name = &database.config.name;
        let Some(home) = self.home(database, config) else { return Vec::new() };
        match home.ask(|| self.publication(own)).await {
            Ok(rows) => rows.iter().filter_map(read).collect(),
            Err(reason) => {
                if !std::mem::replace(&mut self.has_complained, true) {
                    tracing::warn!(
                        database = name,
                        reason,
                        "deadlocks with clients of other routers are not found: the table sluice.waiting of the first \
                         shard cannot be used; it needs SELECT, INSERT, UPDATE and DELETE"
                    );
                }
                Vec::new()
            }
        }
    }

    fn home(&mut self, database: &Database, config: &Arc<Config>) -> Option<Home> {
        let instance = primary(database, 0)?;
        let name = &database.config.name;
        let known = self.homes.get(name).filter(|home| Arc::ptr_eq(&home.config, config) && home.instance == instance);
        if let Some(known) = known {
            return Some(known.clone());
        }
        let login = control::config(&instance, &config.users, config.pool.connect_timeout);
        let pool = control::pool(login, 1, config.pool.connect_timeout).ok()?;
        let home = Home { config: config.clone(), instance, pool };
        self.homes.insert(name.clone(), home.clone());
        Some(home)
    }

    fn publication(&self, own: &[Entry]) -> String {
        let router = self.router;
        let clients: Vec<String> = own.iter().map(|entry| entry.client.to_string()).collect();
        let rows: Vec<String> = own
            .iter()
            .map(|entry| {
                let Entry { client, transaction, pid, began, members } = entry;
                let (running, members) = (began.elapsed().as_micros(), write_members(members));
                format!(
                    "('{router:016x}', {client}, {transaction}, {pid}, \
                     pg_catalog.clock_timestamp() - interval '{running} microseconds', '{members}')"
                )
            })
            .collect();
        // A transaction's beginning is reckoned once: all routers are to read the same at any time.
        format!(
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE; SET LOCAL synchronous_commit = off; \
             DELETE FROM sluice.waiting WHERE router = '{router:016x}' AND client NOT IN ({}); \
             INSERT INTO sluice.waiting AS w (router, client, transaction, pid, began, members) VALUES {} \
             ON CONFLICT (router, client) DO UPDATE SET seen = pg_catalog.clock_timestamp(), members = excluded.members, \
             pid = excluded.pid, transaction = excluded.transaction, \
             began = CASE WHEN w.transaction = excluded.transaction THEN w.began ELSE excluded.began END; \
             SELECT router, client, pid, (extract(epoch FROM began) * 1000000)::bigint, \
             (extract(epoch FROM pg_catalog.clock_timestamp() - seen) * 1000000)::bigint, members FROM sluice.waiting \
             WHERE seen > pg_catalog.clock_timestamp() - interval '{} milliseconds'",
            clients.join(", "),
            rows.join(", "),
            EXPIRY.as_millis()
        )
    }
}

impl Home {
    /// The text is made when it can be sent: it may tell how long ago something was.
    async fn ask(&self, sql: impl FnOnce() -> String) -> Result<Vec<SimpleQueryMessage>, String> {
        let work = async {
            let client = self.pool.get().await.map_err(|error| control::reason(&error))?;
            client.simple_query(&sql()).await.map_err(|error| control::reason(&error))
        };
        timeout(ANSWER_TIME_MAX, work).await.unwrap_or_else(|_| Err("it does not answer in time".to_owned()))
    }
}

/// What is published of one client.
struct Entry {
    client: u64,
    /// Tells its transaction from its others.
    transaction: u128,
    pid: i32,
    began: Instant,
    members: Vec<Member>,
}

impl Shared {
    /// Looks for rings through clients of other routers, where there is reason to: whether there is.
    pub(super) async fn look_beyond(&self, first: &Moment, publisher: &mut Publisher) -> bool {
        let suspects = first.graph().between_strangers();
        let names = first.databases_of(&suspects);
        if names.is_empty() {
            publisher.withdraw().await;
            return false;
        }
        let databases = self.database_list();
        for database in databases.iter().filter(|database| names.contains(&database.config.name)) {
            self.look_over_routers(database, first, publisher).await;
        }
        true
    }

    async fn look_over_routers(&self, database: &Database, first: &Moment, publisher: &mut Publisher) {
        let shards = Shards::of(database);
        let Some((before, _)) = self.look_at_entries(database, &shards, first, publisher).await else { return };
        if before.stuck().is_empty() {
            return;
        }
        let again = self.moment(&shards.instances).await;
        let Some((now, (entries, moment))) = self.look_at_entries(database, &shards, &again, publisher).await else {
            return;
        };
        let order = |party| entries.iter().find(|entry| entry.party() == party).map(Published::order);
        for victim in now.lasting(&before).victims(order) {
            if let Party::Published { router, client } = victim.party
                && router == publisher.router
            {
                let pid = |party| match party {
                    Party::Process { pid, .. } => pid,
                    party => entries.iter().find(|entry| entry.party() == party).map_or(0, |entry| entry.pid),
                };
                self.give_up(&moment, client, victim.detail(pid)).await;
            }
        }
    }

    /// Publishes what `own` tells of this router's clients, reads what all have published, then the locks.
    async fn look_at_entries(
        &self,
        database: &Database,
        shards: &Shards,
        own: &Moment,
        publisher: &mut Publisher,
    ) -> Option<(WaitGraph, (Vec<Published>, Moment))> {
        let own = own.entries(database, shards, self.epoch);
        if own.is_empty() {
            return None;
        }
        let entries = publisher.publish(database, &self.config(), &own).await;
        if entries.iter().all(|entry| entry.router == publisher.router) {
            return None;
        }
        let moment = self.moment(&shards.instances).await;
        let graph = graph(&entries, &moment.locks[..shards.instances.len()], |identity| shards.place(identity));
        Some((graph, (entries, moment)))
    }
}

impl Moment {
    fn databases_of(&self, parties: &std::collections::BTreeSet<Party>) -> HashSet<String> {
        let suspects = self.holders.iter().filter(|holder| parties.contains(&Party::Client(holder.id)));
        suspects.flat_map(|holder| &holder.servers).map(|server| server.pool.database.to_string()).collect()
    }

    /// What there is to publish of a database's clients.
    fn entries(&self, database: &Database, shards: &Shards, epoch: Instant) -> Vec<Entry> {
        let suspects = self.graph().between_strangers();
        let is_suspect = |holder: &&Holder| suspects.contains(&Party::Client(holder.id));
        let entry = |holder: &Holder| {
            let of_database = |server: &&HeldServer| *server.pool.database == *database.config.name;
            let members = holder.servers.iter().filter(of_database);
            let members: Vec<Member> = members.filter_map(|server| self.member(database, shards, server)).collect();
            members.iter().any(|member| member.waits_since.is_some()).then(|| Entry {
                client: holder.id,
                transaction: holder.began.saturating_duration_since(epoch).as_micros(),
                pid: holder.pid,
                began: holder.began,
                members,
            })
        };
        self.holders.iter().filter(is_suspect).filter_map(entry).collect()
    }

    fn member(&self, database: &Database, shards: &Shards, server: &HeldServer) -> Option<Member> {
        let Known::Ready(identity) = database.commits.known().get(usize::from(server.pool.shard))?.clone() else {
            return None;
        };
        let instance = instance_of(&self.config, &server.pool)?;
        let primary = &shards.instances[shards.place(identity.0)?.instance];
        // Nobody locks anything on a replica.
        if (&instance.host, instance.port) != (&primary.host, primary.port) {
            return None;
        }
        let address: Address = (instance.host, instance.port);
        let at = self.instances.iter().position(|known| *known == address)?;
        let wait = self.locks[at].iter().find(|wait| wait.pid == server.pid);
        Some(Member { shard: identity.0, pid: server.pid, waits_since: wait.map(|wait| wait.since) })
    }
}

/// The primary of a shard at this moment.
fn primary(database: &Database, shard: usize) -> Option<Instance> {
    let position = database.shard(shard).health.primary().unwrap_or(0);
    database.config.shards.get(shard)?.instances().nth(position).cloned()
}

fn read(message: &SimpleQueryMessage) -> Option<Published> {
    let SimpleQueryMessage::Row(row) = message else { return None };
    Some(Published {
        router: u64::from_str_radix(row.get(0)?, 16).ok()?,
        client: row.get(1)?.parse().ok()?,
        pid: row.get(2)?.parse().ok()?,
        began: row.get(3)?.parse().ok()?,
        age: Duration::from_micros(row.get(4)?.parse().ok()?),
        members: read_members(row.get(5)?)?,
    })
}
