//! Everything at one moment, for SHOW and metrics. Workers report what only they know; the rest is
//! shared.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;
use tokio::time::timeout_at;

use super::Shared;
use super::database::{Database, Seen};
use super::memory::{self, Memory};
use super::worker::Message;
use crate::admin::{List, Needs, config_rows};
use crate::commit::shards::{InDoubt, Known, NOT_PREPARED};
use crate::config::{self, Config, Instance, PoolMode};
use crate::execute::presence::{Activity, Held, Origin, Presence, Wait};
use crate::execute::queries::Query;
use crate::execute::worker::{Served, Worker};
use crate::net::startup::Accepted;
use crate::pool::budget::{Mode, PoolSnapshot};
use crate::pool::connect::CancelKey;
use crate::pool::driver::{IdleServer, PoolKey, Pools};
use crate::pool::health::State;
use crate::view::{
    BlockState, ClientRow, ClientState, DatabaseRow, Halted, InstanceRole, InstanceRow, PeerRow, PoolRow, PreparedRow,
    ProblemRow, QueryRow, ServerRow, ServerState, ShardRow, UserRow, View, WaitsFor, table_rows,
};

use super::Stage;

/// A worker that does not report in time is left out: it is busy with one long computation.
const REPORT_TIME_MAX: Duration = Duration::from_secs(2);

/// What one worker knows.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) clients: Vec<ClientRow>,
    servers: Vec<ServerRow>,
    pools: Vec<PoolRow>,
    /// By user and by database.
    clients_by_user: HashMap<String, u64>,
    clients_by_database: HashMap<String, u64>,
    /// By a key that is the same on every worker.
    queries: Vec<(NonZeroU64, QueryRow)>,
    pub(super) memory: Memory,
}

fn query_row(query: &Query) -> QueryRow {
    let (database, text) = (query.database.to_string(), query.text.to_string());
    QueryRow { database, query: text, counts: query.counts.clone() }
}

/// The same shapes of several workers in one row.
fn merged(reports: &mut [Report]) -> Vec<QueryRow> {
    let mut rows: HashMap<NonZeroU64, QueryRow> = HashMap::new();
    for (key, row) in reports.iter_mut().flat_map(|report| report.queries.drain(..)) {
        match rows.entry(key) {
            Entry::Occupied(mut known) => known.get_mut().counts.merge(&row.counts),
            Entry::Vacant(free) => drop(free.insert(row)),
        }
    }
    rows.into_values().collect()
}

/// Moments as the clock on the wall shows them.
#[derive(Clone, Copy)]
struct Clock {
    now: Instant,
    wall: SystemTime,
}

impl Clock {
    fn time(self, at: Instant) -> SystemTime {
        self.wall.checked_sub(self.now.saturating_duration_since(at)).unwrap_or(self.wall)
    }
}

impl Report {
    pub(super) fn new(
        worker: &Worker,
        clients: &[Rc<Presence>],
        pools: &Pools,
        config: &Config,
        needs: Needs,
        now: Instant,
    ) -> Self {
        let clock = Clock { now, wall: SystemTime::now() };
        let mut report = Self::default();
        let mut counts: HashMap<(Rc<str>, Rc<str>), PoolRow> = HashMap::new();
        let queries = worker.queries.borrow();
        for client in clients {
            let served = client.served();
            match client.activity() {
                Activity::Idle => report.memory.clients_idle += 1,
                Activity::Active | Activity::Holding | Activity::Waiting => report.memory.clients_busy += 1,
            }
            report.memory.servers += wide(client.servers_held());
            *report.clients_by_user.entry(served.user.to_string()).or_default() += 1;
            *report.clients_by_database.entry(served.database.to_string()).or_default() += 1;
            let row = counts.entry((served.database.clone(), served.user.clone())).or_insert_with(|| {
                PoolRow::new(&served.database, pool_user(config, &served.database, &served.user), served.mode)
            });
            count(row, client, now);
            if needs.has(List::Clients) {
                let statement = client.statement().and_then(|query| queries.text(query).map(str::to_owned));
                report
                    .clients
                    .push(ClientRow { statement, ..client_row(client, &served, config, worker.index, clock) });
            }
            if needs.has(List::Servers) {
                let held = client.servers();
                report.servers.extend(held.iter().map(|held| active_row(held, client, &served, worker.index, clock)));
            }
        }
        if needs.has(List::Servers) {
            let idle = pools.idle_servers();
            report.servers.extend(idle.iter().map(|server| idle_row(server, config, worker.index, clock)));
        }
        report.pools = counts.into_values().collect();
        if needs.has(List::Queries) {
            // One that has never ended says nothing yet.
            let ended = queries.iter().filter(|(_, query)| query.counts.calls > 0);
            report.queries.extend(ended.map(|(key, query)| (key, query_row(query))));
        }
        report.memory.add(worker, &queries);
        report
    }
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn count(row: &mut PoolRow, client: &Presence, now: Instant) {
    match client.activity() {
        Activity::Idle | Activity::Active | Activity::Holding => row.cl_active += 1,
        Activity::Waiting => row.cl_waiting += 1,
    }
    if client.pins().is_some() {
        row.cl_pinned += 1;
    }
    if let Some(wait) = client.wait() {
        row.maxwait = row.maxwait.max(now.saturating_duration_since(wait.since));
    }
}

/// The shard and the instance, as the configuration names them.
fn waits_for(wait: Wait, served: &Served, config: &Config) -> WaitsFor {
    let database = config.databases.iter().find(|database| *database.name == *served.database);
    let shard = database.and_then(|database| database.shards.get(usize::from(wait.shard.0)));
    let instance = shard.and_then(|shard| shard.instances().nth(usize::from(wait.instance)));
    WaitsFor {
        shard: served.shard(wait.shard).name.to_string(),
        pool_user: instance.and_then(|instance| instance.user.as_deref()).unwrap_or(&served.user).to_owned(),
        instance: instance.map(Instance::address).unwrap_or_default(),
    }
}

fn client_row(client: &Presence, served: &Served, config: &Config, worker: usize, clock: Clock) -> ClientRow {
    let wait = client.wait();
    ClientRow {
        id: client.id,
        user: served.user.to_string(),
        database: served.database.to_string(),
        state: match client.activity() {
            Activity::Idle => ClientState::Idle,
            Activity::Active | Activity::Holding => ClientState::Active,
            Activity::Waiting => ClientState::Waiting,
        },
        address: client.origin.address,
        local_address: client.origin.local_address,
        connected: client.connected,
        requested: client.asked_at().map(|at| clock.time(at)),
        wait: wait.map(|wait| clock.now.saturating_duration_since(wait.since)).unwrap_or_default(),
        close_needed: false,
        link: client.servers().first().map(|held| held.cancel.server.0),
        pid: client.pid,
        tls: client.origin.tls.clone(),
        application_name: client.application_name(),
        prepared_statements: wide(client.statements()),
        worker,
        pin: client.pins(),
        pinned_since: client.pinned_since().map(|at| clock.time(at)),
        waits_for: wait.map(|wait| waits_for(wait, served, config)),
        block: match (client.is_committing(), client.is_in_block()) {
            (true, _) => BlockState::Committing,
            (false, true) => BlockState::Open,
            (false, false) => BlockState::None,
        },
        statement: None,
    }
}

/// A client of the console; it never uses a server.
pub(super) fn console_row(accepted: &Accepted, id: u64, pid: i32, worker: usize) -> ClientRow {
    let Origin { address, local_address, tls } = Origin::of(&accepted.stream);
    let name = accepted.parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case("application_name"));
    ClientRow {
        id,
        user: accepted.user.clone(),
        database: accepted.database.clone(),
        state: ClientState::Active,
        address,
        local_address,
        connected: SystemTime::now(),
        requested: None,
        wait: Duration::ZERO,
        close_needed: false,
        link: None,
        pid,
        tls,
        application_name: name.map(|(_, value)| value.clone()).unwrap_or_default(),
        prepared_statements: 0,
        worker,
        pin: None,
        pinned_since: None,
        waits_for: None,
        block: BlockState::None,
        statement: None,
    }
}

/// What both kinds of rows have in common.
fn server_row(key: &CancelKey, pool: &PoolKey, shard: &str, worker: usize) -> ServerRow {
    ServerRow {
        id: 0,
        user: pool.user.to_string(),
        database: pool.database.to_string(),
        state: ServerState::Idle,
        instance: place(&key.host, key.port),
        shard: shard.to_owned(),
        address: key.remote,
        local_address: key.local,
        connected: SystemTime::UNIX_EPOCH,
        requested: None,
        close_needed: false,
        link: None,
        held: Duration::ZERO,
        pid: key.pid,
        tls: None,
        application_name: String::new(),
        prepared_statements: 0,
        worker,
    }
}

fn active_row(held: &Held, client: &Presence, served: &Served, worker: usize, clock: Clock) -> ServerRow {
    let shard = served.shard(held.shard);
    let pool = shard.instances.get(held.instance).map(|(pool, _)| pool);
    let row = match pool {
        Some(pool) => server_row(held.cancel.key(), pool.key(), &shard.name, worker),
        None => {
            let (user, database) = (served.user.to_string().into(), served.database.to_string().into());
            let instance = u16::try_from(held.instance).unwrap_or(u16::MAX);
            let pool = PoolKey { user, database, shard: held.shard.0, instance };
            server_row(held.cancel.key(), &pool, &shard.name, worker)
        }
    };
    ServerRow {
        id: held.cancel.server.0,
        state: ServerState::Active,
        connected: clock.time(held.cancel.stamp().connected_at),
        requested: client.asked_at().map(|at| clock.time(at)),
        link: Some(client.id),
        held: clock.now.saturating_duration_since(held.since),
        prepared_statements: wide(held.prepared),
        close_needed: pool.is_some_and(|pool| pool.is_obsolete(held.cancel.stamp())),
        application_name: client.application_name(),
        ..row
    }
}

fn idle_row(server: &IdleServer, config: &Config, worker: usize, clock: Clock) -> ServerRow {
    let database = config.databases.iter().find(|database| *database.name == *server.pool.database);
    let shard = database.and_then(|database| database.shards.get(usize::from(server.pool.shard)));
    ServerRow {
        id: server.id,
        connected: clock.time(server.connected_at),
        requested: Some(clock.time(server.since)),
        prepared_statements: wide(server.prepared_statements),
        close_needed: server.obsolete,
        ..server_row(&server.key, &server.pool, shard.map_or("", |shard| &shard.name), worker)
    }
}

/// `host:port`, as [`Instance::address`] writes it.
fn place(host: &config::Host, port: u16) -> String {
    match host {
        config::Host::Tcp(host) if host.contains(':') => {
            SocketAddr::new(host.parse().unwrap_or(std::net::Ipv6Addr::UNSPECIFIED.into()), port).to_string()
        }
        config::Host::Tcp(host) => format!("{host}:{port}"),
        config::Host::Unix(folder) => format!("{}:{port}", folder.display()),
    }
}

/// How long a client keeps a server: the user's setting goes before the database's.
pub(super) fn mode_of(config: &Config, user: &str, database: &config::Database) -> PoolMode {
    let user = config.users.iter().find(|entry| entry.name == user);
    user.and_then(|user| user.pool_mode).or(database.pool_mode).unwrap_or(config.pool.mode)
}

/// The user under which the servers for a client are counted.
fn pool_user<'a>(config: &'a Config, database: &str, user: &'a str) -> &'a str {
    let database = config.databases.iter().find(|entry| entry.name == database);
    let first = database.and_then(|database| database.shards.first());
    first.and_then(|shard| shard.primary.user.as_deref()).unwrap_or(user)
}

impl Shared {
    /// Everything at this moment; the long lists only as far as they are needed.
    pub(super) async fn view(&self, needs: Needs) -> View {
        let mut reports = self.reports(needs).await;
        let queries = merged(&mut reports);
        let config = self.config();
        let pools = self.directory.snapshots(Instant::now());
        let mut databases = self.database_list();
        databases.sort_by_key(|database| {
            config.databases.iter().position(|configured| configured.name == database.config.name)
        });
        let paused = !databases.is_empty()
            && databases.iter().all(|database| self.directory.mode(&database.config.name) == Mode::Paused);
        let mut view = View {
            databases: databases
                .iter()
                .map(|database| self.database_row(database, &config, &pools, &reports))
                .collect(),
            users: config.users.iter().map(|user| user_row(user, &pools, &reports)).collect(),
            pools: pools.iter().map(|pool| pool_row(pool, &config)).collect(),
            shards: databases.iter().flat_map(|database| shard_rows(database)).collect(),
            instances: databases.iter().flat_map(|database| self.instance_rows(database, &config)).collect(),
            tables: databases.iter().flat_map(|database| tables(database)).collect(),
            problems: databases.iter().flat_map(|database| problems(database)).collect(),
            prepared: databases.iter().flat_map(|database| prepared(database)).collect(),
            config: config_rows(&config),
            peers: config.peers.iter().map(peer_row).collect(),
            memory: memory::rows(reports.iter().map(|report| &report.memory), &pools),
            queries,
            stats: self.stats.databases(),
            user_stats: self.stats.users(),
            login_clients: u64::from(self.logins.get()),
            clients_max: u64::from(config.listen.clients_max),
            halted: Halted { paused, suspended: self.suspended.load(std::sync::atomic::Ordering::Relaxed) },
            draining: self.stage() != Stage::Running,
            ..View::default()
        };
        for report in reports {
            view.clients.extend(report.clients);
            view.servers.extend(report.servers);
            view.pools.extend(report.pools);
        }
        view.clients.sort_by_key(|client| client.id);
        view.servers.sort_by_key(|server| server.id);
        view
    }

    async fn reports(&self, needs: Needs) -> Vec<Report> {
        let deadline = tokio::time::Instant::now() + REPORT_TIME_MAX;
        let asked: Vec<_> = (0..self.workers.len())
            .map(|worker| {
                let (reply, answer) = oneshot::channel();
                self.tell(worker, Message::Report { needs, reply });
                answer
            })
            .collect();
        let mut reports = Vec::new();
        for answer in asked {
            if let Ok(Ok(report)) = timeout_at(deadline, answer).await {
                reports.push(report);
            }
        }
        reports
    }

    fn database_row(
        &self,
        database: &Database,
        config: &Config,
        pools: &[(PoolKey, Mode, PoolSnapshot)],
        reports: &[Report],
    ) -> DatabaseRow {
        let name = &database.config.name;
        let primary = database.config.shards.first().map(|shard| &shard.primary);
        let host = primary.map(|primary| match &primary.host {
            config::Host::Tcp(host) => host.clone(),
            config::Host::Unix(folder) => folder.display().to_string(),
        });
        DatabaseRow {
            name: name.clone(),
            host: host.unwrap_or_default(),
            port: primary.map_or(0, |primary| primary.port),
            server_database: primary.map(|primary| primary.database.clone()).unwrap_or_default(),
            force_user: primary.and_then(|primary| primary.user.clone()),
            pool_size: database.config.pool_size.unwrap_or(config.pool.size),
            server_lifetime: config.pool.lifetime,
            mode: database.config.pool_mode.unwrap_or(config.pool.mode),
            connections: open(pools, |key| *key.database == **name),
            connections_max: 0,
            client_connections: reports.iter().filter_map(|report| report.clients_by_database.get(name)).sum(),
            paused: self.directory.mode(name) == Mode::Paused,
            disabled: self.is_disabled(name),
            shards: database.config.shards.len(),
        }
    }

    fn instance_rows(&self, database: &Database, config: &Config) -> Vec<InstanceRow> {
        let counts = self.directory.instances();
        let row = |position: usize, shard: &config::Shard| -> Vec<InstanceRow> {
            let known = database.shard(position);
            let rows = shard.instances().zip(known.health.instances()).zip(&known.instances);
            rows.map(|((instance, health), seen)| {
                let count = counts.iter().find(|(host, port, ..)| *host == instance.host && *port == instance.port);
                let row = instance_row(database, &shard.name, instance, seen);
                InstanceRow {
                    up: seen.problem.is_none() && seen.probe.is_some(),
                    lag: (health.state() == State::Replica).then(|| health.lag(Instant::now())).flatten(),
                    servers: count.map_or(0, |(.., open, _)| u64::from(*open)),
                    servers_max: u64::from(count.map_or(config.pool.instance_connections_max, |(.., max)| *max)),
                    ..row
                }
            })
            .collect()
        };
        database.config.shards.iter().enumerate().flat_map(|(position, shard)| row(position, shard)).collect()
    }
}

fn instance_row(database: &Database, shard: &str, instance: &Instance, seen: &Seen) -> InstanceRow {
    let role = seen.probe.map_or(InstanceRole::Unknown, |probe| {
        if probe.in_recovery { InstanceRole::Replica } else { InstanceRole::Primary }
    });
    InstanceRow {
        database: database.config.name.clone(),
        shard: shard.to_owned(),
        address: instance.address(),
        role,
        up: false,
        lsn: seen.probe.and_then(|probe| probe.lsn),
        lag: None,
        servers: 0,
        servers_max: 0,
        max_prepared_transactions: seen.probe.map(|probe| probe.max_prepared_transactions),
        problem: seen.problem.clone(),
    }
}

fn shard_rows(database: &Database) -> Vec<ShardRow> {
    let row = |position: usize, shard: &config::Shard| {
        let known = database.shard(position);
        let state = |wanted: State| known.health.instances().iter().filter(move |i| i.state() == wanted);
        let primary = known.health.instances().iter().position(|instance| instance.state() == State::Primary);
        let problem = || {
            let seen = known.instances.first()?;
            let text = match (&seen.problem, seen.probe) {
                (Some(problem), _) => problem.as_str(),
                (None, Some(_)) => "it is a replica, and no other instance is the primary",
                (None, None) => "not asked yet",
            };
            Some(format!("no primary; {}: {text}", shard.primary.address()))
        };
        let id = u16::try_from(position).unwrap_or(u16::MAX);
        let buckets = (0..database.map.buckets()).map(pgsluice_sharding::Bucket);
        ShardRow {
            database: database.config.name.clone(),
            id,
            name: shard.name.clone(),
            primary: primary.and_then(|n| shard.instances().nth(n)).map(Instance::address),
            replicas_up: state(State::Replica).filter(|instance| !instance.is_out()).count(),
            replicas: shard.replicas.len(),
            buckets: wide(buckets.filter(|bucket| database.map.shard_of_bucket(*bucket).0 == id).count()),
            epoch: database.map.epoch(),
            problem: if primary.is_none() { problem() } else { None },
        }
    };
    database.config.shards.iter().enumerate().map(|(position, shard)| row(position, shard)).collect()
}

fn pool_row((key, _, pool): &(PoolKey, Mode, PoolSnapshot), config: &Config) -> PoolRow {
    let database = config.databases.iter().find(|database| *database.name == *key.database);
    let shard = database.and_then(|database| database.shards.get(usize::from(key.shard)));
    let instance = shard.and_then(|shard| shard.instances().nth(usize::from(key.instance)));
    let mode = database.map_or(config.pool.mode, |database| mode_of(config, &key.user, database));
    PoolRow {
        instance: instance.map(Instance::address),
        sv_active: u64::from(pool.active),
        sv_idle: u64::from(pool.idle),
        sv_tested: u64::from(pool.checking),
        sv_login: u64::from(pool.connecting),
        maxwait: pool.max_wait,
        ..PoolRow::new(&key.database, &key.user, mode)
    }
}

fn user_row(user: &config::User, pools: &[(PoolKey, Mode, PoolSnapshot)], reports: &[Report]) -> UserRow {
    UserRow {
        name: user.name.clone(),
        pool_size: user.pool_size,
        mode: user.pool_mode,
        connections: open(pools, |key| *key.user == *user.name),
        client_connections: reports.iter().filter_map(|report| report.clients_by_user.get(&user.name)).sum(),
    }
}

fn open(pools: &[(PoolKey, Mode, PoolSnapshot)], wanted: impl Fn(&PoolKey) -> bool) -> u64 {
    pools.iter().filter(|(key, ..)| wanted(key)).map(|(_, _, pool)| u64::from(pool.open)).sum()
}

fn peer_row(peer: &config::Peer) -> PeerRow {
    let host = match &peer.host {
        config::Host::Tcp(host) => host.clone(),
        config::Host::Unix(folder) => folder.display().to_string(),
    };
    PeerRow { router_id: peer.router_id, host, port: peer.port }
}

fn tables(database: &Database) -> Vec<crate::view::TableRow> {
    let problems = database.catalog.problems();
    table_rows(&database.config.name, &database.catalog.current(), &database.shard_names(), &problems)
}

/// What SHOW PROBLEMS tells of a database: its tables, and instances that do not fit.
fn problems(database: &Database) -> Vec<ProblemRow> {
    let mut found: Vec<String> = database.catalog.problems().to_vec();
    for (position, shard) in database.config.shards.iter().enumerate() {
        let known = database.shard(position);
        for (instance, seen) in shard.instances().zip(&known.instances) {
            let unprepared = seen.probe.is_some_and(|probe| probe.max_prepared_transactions == 0);
            let problem = match &seen.problem {
                Some(problem) => problem.clone(),
                None if unprepared && database.config.shards.len() > 1 => NO_TWO_PHASE.to_owned(),
                None => continue,
            };
            found.push(format!("shard {}, {}: {problem}", shard.name, instance.address()));
        }
    }
    for (known, shard) in database.commits.known().into_iter().zip(&database.config.shards) {
        if let Known::Unfit(why) = known
            && why != NOT_PREPARED
        {
            found.push(format!("shard {}: transactions that write to several shards are refused: {why}", shard.name));
        }
    }
    let name = &database.config.name;
    found.into_iter().map(|problem| ProblemRow { database: name.clone(), problem }).collect()
}

/// What is prepared, as of the last look.
fn prepared(database: &Database) -> Vec<PreparedRow> {
    let names = database.shard_names();
    let name = |shard: usize| names.get(shard).copied().unwrap_or_default().to_owned();
    let bound = database.commits.bounds().in_doubt_after;
    let row = |part: &InDoubt| {
        let age = part.prepared.elapsed().unwrap_or_default();
        PreparedRow {
            database: database.config.name.clone(),
            user: part.owner.clone(),
            gid: part.gid.clone(),
            shard: name(part.shard),
            decider: part.decider.map(name),
            age,
            in_doubt: part.is_left || age >= bound,
            problem: part.problem.clone(),
        }
    };
    database.commits.in_doubt().iter().map(row).collect()
}

/// Why an instance is not fit for writes to several shards.
pub(crate) const NO_TWO_PHASE: &str =
    "max_prepared_transactions is 0, so transactions that write to several shards are refused";
