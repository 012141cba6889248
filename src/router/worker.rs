//! A worker thread: its clients and their servers live and die here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use pgsluice_sharding::ShardId;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use super::deadlocks::{HeldServer, Holder, Sentence};
use super::gather::{self, Report};
use super::operator::Operate;
use super::{Shared, Stage, runtime};
use crate::admin::{List, Needs};
use crate::catalog::CatalogReader;
use crate::config;
use crate::execute::presence::{Activity, Presence};
use crate::execute::queries;
use crate::execute::worker::{Served, ShardPools, Worker};
use crate::net::listener::Socket;
use crate::net::startup::{self, First, Refused};
use crate::net::{client, console};
use crate::pool::directory::Mailbox;
use crate::pool::driver::{Pool, PoolKey, Pools};
use crate::protocol::error::ErrorFields;
use crate::view::ClientRow;

/// The databases that are no databases.
const CONSOLE_NAMES: [&str; 2] = ["sluice", "pgbouncer"];

/// Clients of the console; they do not count among the others, so that an operator gets in when
/// there is no room.
const CONSOLES_MAX: u32 = 50;

/// How long clients that are idle at the end are given to hear why.
const FAREWELL: Duration = Duration::from_millis(200);

/// What a worker is told.
pub(super) enum Message {
    Client(Socket),
    /// Cancels what the client with this number runs; the sender is dropped when that is done.
    Cancel {
        client: i32,
        done: oneshot::Sender<()>,
    },
    /// Throws clients out; answers how many.
    Kill {
        victims: Victims,
        done: oneshot::Sender<usize>,
    },
    /// What is here at this moment.
    Report {
        needs: Needs,
        reply: oneshot::Sender<Report>,
    },
    /// Whether a client that others may wait for has been waiting for longer than this.
    Waits {
        longer_than: Duration,
        reply: oneshot::Sender<bool>,
    },
    /// The clients that hold servers.
    Holders {
        reply: oneshot::Sender<Vec<Holder>>,
    },
    /// A client must give up; the sender is dropped when its servers have been told.
    GiveUp {
        sentence: Box<Sentence>,
        done: oneshot::Sender<()>,
    },
    /// The configuration has changed.
    Reload,
    /// Messages of clients wait, or no longer; answers how many clients are being answered.
    Suspend {
        suspended: bool,
        busy: oneshot::Sender<usize>,
    },
    /// Clients are to leave when they hold no server.
    Dismiss,
}

/// Whom the console throws out.
#[derive(Clone, Debug)]
pub(super) enum Victims {
    /// Of all databases; the console's own clients stay.
    All,
    Database(String),
    /// By the number in SHOW CLIENTS.
    Client(u64),
}

impl Victims {
    fn include(&self, client: &Presence) -> bool {
        match self {
            Self::All => true,
            Self::Database(name) => *client.served().database == **name,
            Self::Client(id) => client.id == *id,
        }
    }
}

/// A client of the console.
struct ConsoleClient {
    row: ClientRow,
    killed: Notify,
}

/// The thread's whole life.
pub(super) fn run(index: usize, mailbox: Mailbox, inbox: mpsc::UnboundedReceiver<Message>, shared: &Arc<Shared>) {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "a worker cannot start"),
    };
    LocalSet::new().block_on(&runtime, async {
        let host = Rc::new(Host {
            worker: Rc::new(Worker::new(index, shared.config().limits.clone(), shared.random.seed, shared.ids.clone())),
            pools: Pools::start(shared.directory.clone(), mailbox),
            shared: shared.clone(),
            served: RefCell::default(),
            consoles: RefCell::default(),
        });
        host.listen(inbox).await;
        host.say_goodbye().await;
    });
}

/// One worker's side of the router.
struct Host {
    shared: Arc<Shared>,
    worker: Rc<Worker>,
    pools: Pools,
    /// By user and database.
    served: RefCell<HashMap<(String, String), Rc<Served>>>,
    consoles: RefCell<HashMap<u64, Rc<ConsoleClient>>>,
}

impl Host {
    async fn listen(self: &Rc<Self>, mut inbox: mpsc::UnboundedReceiver<Message>) {
        let mut stage = self.shared.stage.subscribe();
        loop {
            let message = tokio::select! {
                message = inbox.recv() => message,
                _ = stage.wait_for(|stage| *stage == Stage::Stopped) => None,
            };
            let host = self.clone();
            match message {
                None => return,
                Some(Message::Client(socket)) => {
                    drop(tokio::task::spawn_local(async move { host.take_in(socket).await }));
                }
                Some(Message::Cancel { client, done }) => {
                    drop(tokio::task::spawn_local(async move { host.cancel(client, done).await }));
                }
                // Who asked may have stopped waiting.
                Some(Message::Kill { victims, done }) => drop(done.send(self.kill(&victims))),
                Some(Message::Report { needs, reply }) => drop(reply.send(self.report(needs))),
                Some(Message::Waits { longer_than, reply }) => {
                    let now = Instant::now();
                    let waits = self.worker.clients.borrow().values().any(|client| {
                        client.upgrade().is_some_and(|client| client.waits_longer_than(longer_than, now))
                    });
                    // The asker has gone with the router.
                    let _ = reply.send(waits);
                }
                Some(Message::Holders { reply }) => drop(reply.send(self.holders())),
                Some(Message::GiveUp { sentence, done }) => {
                    drop(tokio::task::spawn_local(async move { host.give_up(*sentence, done).await }));
                }
                Some(Message::Reload) => self.reload(),
                Some(Message::Suspend { suspended, busy }) => {
                    self.worker.suspend(suspended);
                    let answered =
                        |client: &Presence| matches!(client.activity(), Activity::Active | Activity::Waiting);
                    let answered = self.clients().iter().filter(|client| answered(client)).count();
                    // An operator who has left does not wait any more.
                    let _ = busy.send(answered);
                }
                Some(Message::Dismiss) => {
                    self.worker.suspend(false);
                    self.clients().iter().for_each(|client| client.dismiss());
                }
            }
        }
    }

    /// Those who wait for nothing hear that the connection ends; the others' connections just end.
    async fn say_goodbye(&self) {
        self.clients().iter().for_each(|client| client.dismiss());
        let gone = async {
            while !self.clients().is_empty() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        // Time is up for those who are left.
        drop(timeout(FAREWELL, gone).await);
    }

    fn clients(&self) -> Vec<Rc<Presence>> {
        self.worker.clients.borrow().values().filter_map(Weak::upgrade).collect()
    }

    /// An accepted socket, to its end.
    async fn take_in(self: Rc<Self>, socket: Socket) {
        let peer = socket.peer();
        let stream = match socket.into_stream() {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(%error, "a connection cannot be watched"),
        };
        let context = self.shared.context();
        let login = self.shared.logins.take(u32::MAX);
        let first = Box::pin(startup::accept(stream, &context)).await;
        drop((context, login));
        match first {
            // The client waits for the end of the connection, which comes with this scope's end.
            Ok(First::Cancel { stream, pid, secret }) => {
                self.shared.cancel(pid, &secret).await;
                drop(stream);
            }
            Ok(First::Client(accepted)) if CONSOLE_NAMES.contains(&accepted.database.as_str()) => {
                Box::pin(self.serve_console(accepted)).await;
            }
            // A task of its own is as small as what it does; this one still holds what a login needs.
            Ok(First::Client(accepted)) => drop(tokio::task::spawn_local(self.serve(Box::new(accepted)))),
            Err(Refused::Io(error)) => tracing::debug!(%error, ?peer, "connection lost before the login"),
            Err(refused) => tracing::info!(?peer, reason = %refused, "connection refused"),
        }
    }

    async fn serve(self: Rc<Self>, accepted: Box<startup::Accepted>) {
        let max = self.shared.config().listen.clients_max;
        let Some(_place) = self.shared.clients.take(max) else {
            let fields =
                ErrorFields::fatal("53300", "sorry, too many clients already").with_hint("Raise listen.clients_max.");
            return Box::pin(client::refuse(accepted.stream, &fields)).await;
        };
        if self.shared.stage() != Stage::Running {
            let fields = ErrorFields::fatal("57P03", "the router is shutting down");
            return Box::pin(client::refuse(accepted.stream, &fields)).await;
        }
        if self.shared.is_disabled(&accepted.database) {
            let message = format!("database does not allow connections: {}", accepted.database);
            return Box::pin(client::refuse(accepted.stream, &ErrorFields::fatal("57P03", message))).await;
        }
        match self.served(&accepted.user, &accepted.database) {
            Ok(served) => {
                let id = self.shared.next_client.fetch_add(1, Relaxed);
                client::serve(accepted, id, served, self.worker.clone(), &self.shared.keys).await;
            }
            Err(fields) => Box::pin(client::refuse(accepted.stream, &fields)).await,
        }
    }

    async fn serve_console(&self, accepted: startup::Accepted) {
        let Some(_place) = self.shared.consoles.take(CONSOLES_MAX) else {
            let fields = ErrorFields::fatal("53300", "sorry, too many clients of the console already");
            return Box::pin(client::refuse(accepted.stream, &fields)).await;
        };
        let key = self.shared.keys.enter(self.worker.index, accepted.minor);
        let operator = Operate(self.shared.clone());
        let id = self.shared.next_client.fetch_add(1, Relaxed);
        let row = gather::console_row(&accepted, id, key.pid(), self.worker.index);
        let console = Rc::new(ConsoleClient { row, killed: Notify::new() });
        self.consoles.borrow_mut().insert(id, console.clone());
        let work = console::serve(accepted, &key, &operator);
        tokio::select! {
            () = work => {}
            () = console.killed.notified() => {}
            () = self.shared.reached(Stage::Stopped) => {}
        }
        self.consoles.borrow_mut().remove(&id);
        self.shared.keys.leave(&key);
    }

    /// The database for this user, with its pools.
    fn served(&self, user: &str, database: &str) -> Result<Rc<Served>, ErrorFields> {
        let key = (user.to_owned(), database.to_owned());
        if let Some(served) = self.served.borrow().get(&key) {
            return Ok(served.clone());
        }
        let served = Rc::new(self.make_served(user, database)?);
        self.served.borrow_mut().insert(key, served.clone());
        Ok(served)
    }

    fn make_served(&self, user: &str, database: &str) -> Result<Served, ErrorFields> {
        let Some(state) = self.shared.databases().get(database).cloned() else {
            return Err(ErrorFields::fatal("3D000", format!("database \"{database}\" does not exist")));
        };
        let shards = state.config.shards.iter().enumerate().map(|(n, shard)| ShardPools {
            name: shard.name.as_str().into(),
            instances: self.pools_of(n, shard, user, database).into_iter().zip(state.instances(n)).collect(),
        });
        Ok(Served {
            database: database.into(),
            salt: queries::salt(database),
            user: user.into(),
            mode: gather::mode_of(&self.shared.config(), user, &state.config),
            catalog: RefCell::new(CatalogReader::new(state.catalog.clone())),
            planner: self.worker.planner(database),
            map: state.map.clone(),
            shards: shards.collect(),
            stats: self.shared.stats.register(self.worker.index, database, user),
            commits: state.commits.clone(),
            descriptions: RefCell::default(),
            shapes: RefCell::default(),
            greetings: RefCell::default(),
            listening: state.listening.clone(),
            all_greetings: state.greetings.clone(),
            successor: RefCell::default(),
        })
    }

    /// The pools of a shard for this user, the configured primary's first.
    fn pools_of(&self, shard: usize, config: &config::Shard, user: &str, database: &str) -> Vec<Rc<Pool>> {
        let keys = config.instances().enumerate().map(|(n, instance)| PoolKey {
            user: instance.user.as_deref().unwrap_or(user).into(),
            database: database.into(),
            shard: u16::try_from(shard).unwrap_or(u16::MAX),
            instance: u16::try_from(n).unwrap_or(u16::MAX),
        });
        keys.filter_map(|key| self.pools.pool(&key)).collect()
    }

    /// Clients that are here move over to the new pools with their next transaction. Those of a
    /// database that is gone keep the old ones, which refuse.
    fn reload(&self) {
        self.worker.set_limits(self.shared.config().limits.clone());
        for ((user, database), old) in self.served.take() {
            let Ok(new) = self.make_served(&user, &database) else { continue };
            let current = if old.is_like(&new) {
                old
            } else {
                let new = Rc::new(new);
                old.successor.replace(Some(new.clone()));
                new
            };
            self.served.borrow_mut().insert((user, database), current);
        }
    }

    async fn cancel(&self, client: i32, done: oneshot::Sender<()>) {
        let presence = self.worker.clients.borrow().get(&client).and_then(Weak::upgrade);
        if let Some(presence) = presence {
            presence.cancel().await;
        }
        drop(done);
    }

    fn kill(&self, victims: &Victims) -> usize {
        let clients = self.clients();
        let killed = clients.iter().filter(|client| victims.include(client)).map(|client| client.kill()).count();
        let console = match victims {
            Victims::Client(id) => self.consoles.borrow().get(id).cloned(),
            Victims::All | Victims::Database(_) => None,
        };
        console.map_or(killed, |console| {
            console.killed.notify_one();
            killed + 1
        })
    }

    fn holders(&self) -> Vec<Holder> {
        let clients = self.clients();
        clients.iter().filter_map(|client| holder(client, self.worker.index)).collect()
    }

    async fn give_up(&self, sentence: Sentence, done: oneshot::Sender<()>) {
        let Sentence { client, asked_at, fields, servers } = sentence;
        let found = self.clients().into_iter().find(|found| found.id == client);
        if let Some(found) = found {
            found.condemn(asked_at, fields, &servers).await;
        }
        drop(done);
    }

    fn report(&self, needs: Needs) -> Report {
        let config = self.shared.config();
        let now = Instant::now();
        let mut report = Report::new(&self.worker, &self.clients(), &self.pools, &config, needs, now);
        if needs.has(List::Clients) {
            report.clients.extend(self.consoles.borrow().values().map(|console| console.row.clone()));
        }
        report
    }
}

/// A client with servers in its hands.
fn holder(client: &Presence, worker: usize) -> Option<Holder> {
    let held = client.servers();
    let began = held.iter().map(|server| server.since).min()?;
    let served = client.served();
    let pool = |shard: ShardId, instance: usize| {
        served.shard(shard).instances.get(instance).map(|(pool, _)| pool.key().clone())
    };
    let servers = held.iter().filter_map(|server| {
        Some(HeldServer {
            id: server.cancel.server.0,
            pid: server.cancel.key().pid,
            pool: pool(server.shard, server.instance)?,
            shard: served.shard(server.shard).name.to_string(),
        })
    });
    let is_asking = matches!(client.activity(), Activity::Active | Activity::Waiting);
    Some(Holder {
        id: client.id,
        worker,
        pid: client.pid,
        asked_at: client.asked_at().filter(|_| is_asking),
        began,
        queue: client.wait().and_then(|wait| Some((pool(wait.shard, usize::from(wait.instance))?, wait.since))),
        servers: servers.collect(),
    })
}
