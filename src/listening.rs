//! One connection for each database that listens for all its clients, so that LISTEN costs no client
//! a server.
//!
//! It is opened by the first LISTEN and kept. When it is lost, notifications may have been missed:
//! every client that listens is told so by the end of its subscription, as it would be if its own
//! connection to PostgreSQL were lost.

use std::collections::{BTreeSet, HashMap};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::control;

/// Notifications that wait for one client. One that falls behind further loses its subscription.
const WAITING_MAX: usize = 10_000;

/// How long a statement of the listening connection may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What somebody has notified.
#[derive(Debug)]
pub struct Notification {
    /// The process id that the client was greeted with, if it is known, or that of the server.
    pub pid: i32,
    pub channel: String,
    pub payload: String,
}

/// Where a client's notifications arrive. The end means that some may have been missed.
type Ear = mpsc::Receiver<Arc<Notification>>;

/// The way to the listening connection of a database.
#[derive(Debug)]
pub struct Listening {
    /// Where the first shard's instances are; the one that takes writes is asked.
    logins: Mutex<Vec<tokio_postgres::Config>>,
    /// Where its task runs.
    runtime: Handle,
    asked: Mutex<Option<mpsc::UnboundedSender<Ask>>>,
    speakers: Arc<Speakers>,
}

/// Process ids of servers whose notifications are those of one client, with the id that it was greeted with.
type Speakers = Mutex<HashMap<i32, i32>>;

/// While it lives, what its server notifies is said under the client's own process id.
#[derive(Debug)]
pub struct Speaker {
    speakers: Arc<Speakers>,
    server: i32,
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.speakers.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.server);
    }
}

enum Ask {
    Listen {
        channel: String,
        client: u64,
        mouth: mpsc::Sender<Arc<Notification>>,
        done: oneshot::Sender<Result<(), String>>,
    },
    Unlisten {
        channel: String,
        client: u64,
    },
    /// Whatever was committed before this was asked is delivered before it is answered.
    Barrier(oneshot::Sender<Result<(), String>>),
}

/// One client's side.
#[derive(Debug)]
pub struct Subscription {
    listening: Arc<Listening>,
    client: u64,
    channels: BTreeSet<String>,
    /// The listening connection holds it while it has something to say to this client.
    mouth: mpsc::WeakSender<Arc<Notification>>,
    ear: Ear,
}

/// Notifications may have been missed.
#[derive(Debug)]
pub struct Lost;

impl Listening {
    pub fn new(logins: Vec<tokio_postgres::Config>, runtime: Handle) -> Self {
        Self { logins: Mutex::new(logins), runtime, asked: Mutex::default(), speakers: Arc::default() }
    }

    /// Where to connect from now on; a connection that stands is kept.
    pub fn reconfigure(&self, logins: Vec<tokio_postgres::Config>) {
        *self.logins.lock().unwrap_or_else(PoisonError::into_inner) = logins;
    }

    /// A client that listens to nothing yet; `client` is its number in the router.
    pub fn subscribe(self: &Arc<Self>, client: u64) -> Subscription {
        let (mouth, ear) = mpsc::channel(1);
        Subscription { listening: self.clone(), client, channels: BTreeSet::new(), mouth: mouth.downgrade(), ear }
    }

    /// Whether anybody listens, or has listened.
    pub fn is_used(&self) -> bool {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.as_ref().is_some_and(|known| !known.is_closed())
    }

    /// A client is about to notify on its server. What others have notified there before is delivered
    /// first; without that, nothing is said of the client.
    pub async fn announce(&self, server: i32, client: i32) -> Option<Speaker> {
        self.catch_up().await.ok()?;
        self.speakers.lock().unwrap_or_else(PoisonError::into_inner).insert(server, client);
        Some(Speaker { speakers: self.speakers.clone(), server })
    }

    /// Waits until whatever was committed before has been delivered.
    ///
    /// # Errors
    /// Why that cannot be known.
    pub async fn catch_up(&self) -> Result<(), String> {
        self.ask(Ask::Barrier).await
    }

    /// The task that listens, started when there is none.
    fn task(&self) -> mpsc::UnboundedSender<Ask> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = asked.as_ref().filter(|known| !known.is_closed()) {
            return known.clone();
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        let logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner).clone();
        drop(self.runtime.spawn(run(logins, self.speakers.clone(), receiver)));
        *asked = Some(sender.clone());
        sender
    }

    async fn ask(&self, ask: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Ask) -> Result<(), String> {
        let (done, answer) = oneshot::channel();
        let lost = || "the connection that listens was lost".to_owned();
        self.task().send(ask(done)).map_err(|_| lost())?;
        answer.await.unwrap_or_else(|_| Err(lost()))
    }
}

impl Subscription {
    /// Listens; what is committed from now on arrives.
    ///
    /// # Errors
    /// Why the database cannot be listened to.
    pub async fn listen(&mut self, channel: &str) -> Result<(), String> {
        if self.channels.contains(channel) {
            return Ok(());
        }
        let mouth = match self.mouth.upgrade() {
            Some(mouth) => mouth,
            None if self.channels.is_empty() => {
                let (mouth, ear) = mpsc::channel(WAITING_MAX);
                (self.mouth, self.ear) = (mouth.downgrade(), ear);
                mouth
            }
            None => return Err("the connection that listens was lost".to_owned()),
        };
        let (name, client) = (channel.to_owned(), self.client);
        self.listening.ask(|done| Ask::Listen { channel: name, client, mouth, done }).await?;
        self.channels.insert(channel.to_owned());
        Ok(())
    }

    /// Listens to these of its channels only.
    pub fn keep_only(&mut self, channels: &BTreeSet<String>) {
        for channel in std::mem::take(&mut self.channels) {
            if channels.contains(&channel) {
                self.channels.insert(channel);
            } else {
                // A task that has ended has forgotten everybody.
                drop(self.listening.task().send(Ask::Unlisten { channel, client: self.client }));
            }
        }
    }

    /// Whether it listens to anything.
    pub fn is_listening(&self) -> bool {
        !self.channels.is_empty()
    }

    /// The next notification, if one has come; else the task is woken when one comes.
    ///
    /// # Errors
    /// The connection that listens was lost, or this client is too far behind.
    pub fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arc<Notification>, Lost>> {
        if self.channels.is_empty() {
            return Poll::Pending;
        }
        self.ear.poll_recv(cx).map(|heard| heard.ok_or(Lost))
    }

    /// A notification that is here already.
    pub fn heard(&mut self) -> Option<Arc<Notification>> {
        self.ear.try_recv().ok()
    }

    /// Waits until whatever was committed before has arrived.
    ///
    /// # Errors
    /// Why that cannot be known.
    pub async fn catch_up(&self) -> Result<(), String> {
        self.listening.catch_up().await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.keep_only(&BTreeSet::new());
    }
}

/// The task's own things.
struct Hub {
    client: Client,
    heard: mpsc::UnboundedReceiver<Notification>,
    channels: HashMap<String, HashMap<u64, mpsc::Sender<Arc<Notification>>>>,
    speakers: Arc<Speakers>,
}

/// Serves until the connection or the last asker is gone. Its end closes all subscriptions.
async fn run(logins: Vec<tokio_postgres::Config>, speakers: Arc<Speakers>, mut asked: mpsc::UnboundedReceiver<Ask>) {
    let mut hub = match connect(&logins, speakers).await {
        Ok(hub) => hub,
        Err(reason) => return refuse(&mut asked, &reason),
    };
    loop {
        let next = tokio::select! {
            biased;
            heard = hub.heard.recv() => heard.map(Ok),
            ask = asked.recv() => ask.map(Err),
        };
        match next {
            Some(Ok(notification)) => hub.deliver(notification),
            Some(Err(ask)) => hub.handle(ask).await,
            None => break,
        }
    }
    if !asked.is_closed() {
        tracing::warn!("the connection that listens for clients was lost");
    }
}

fn refuse(asked: &mut mpsc::UnboundedReceiver<Ask>, reason: &str) {
    asked.close();
    while let Ok(ask) = asked.try_recv() {
        if let Ask::Listen { done, .. } | Ask::Barrier(done) = ask {
            // Who asked may have gone.
            drop(done.send(Err(reason.to_owned())));
        }
    }
}

async fn connect(logins: &[tokio_postgres::Config], speakers: Arc<Speakers>) -> Result<Hub, String> {
    let mut reason = "no instance is configured".to_owned();
    for login in logins {
        let mut login = login.clone();
        match login.target_session_attrs(TargetSessionAttrs::ReadWrite).connect(NoTls).await {
            Ok((client, mut connection)) => {
                let (mouth, heard) = mpsc::unbounded_channel();
                let relay = async move {
                    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                        if let AsyncMessage::Notification(heard) = message {
                            let (channel, payload) = (heard.channel().to_owned(), heard.payload().to_owned());
                            if mouth.send(Notification { pid: heard.process_id(), channel, payload }).is_err() {
                                break;
                            }
                        }
                    }
                };
                drop(tokio::spawn(relay));
                return Ok(Hub { client, heard, channels: HashMap::new(), speakers });
            }
            Err(error) => reason = control::reason(&error),
        }
    }
    Err(reason)
}

impl Hub {
    async fn handle(&mut self, ask: Ask) {
        match ask {
            Ask::Listen { channel, client, mouth, done } => {
                let result = match self.channels.contains_key(&channel) {
                    true => Ok(()),
                    false => self.tell(&format!("LISTEN {}", quoted(&channel))).await,
                };
                if result.is_ok() {
                    self.channels.entry(channel).or_default().insert(client, mouth);
                }
                // Who asked may have gone; its subscription ends by itself.
                drop(done.send(result));
            }
            Ask::Unlisten { channel, client } => {
                let Some(clients) = self.channels.get_mut(&channel) else { return };
                clients.remove(&client);
                if clients.is_empty() {
                    self.channels.remove(&channel);
                    // Notifications nobody wants do no harm.
                    drop(self.tell(&format!("UNLISTEN {}", quoted(&channel))).await);
                }
            }
            Ask::Barrier(done) => {
                // PostgreSQL sends what has been committed before it answers.
                let result = self.tell("").await;
                while let Ok(notification) = self.heard.try_recv() {
                    self.deliver(notification);
                }
                drop(done.send(result));
            }
        }
    }

    async fn tell(&self, sql: &str) -> Result<(), String> {
        match tokio::time::timeout(PATIENCE, self.client.batch_execute(sql)).await {
            Ok(result) => result.map_err(|error| control::reason(&error)),
            Err(_) => Err("the connection that listens does not answer".to_owned()),
        }
    }

    fn deliver(&mut self, mut notification: Notification) {
        let speakers = self.speakers.lock().unwrap_or_else(PoisonError::into_inner);
        notification.pid = speakers.get(&notification.pid).copied().unwrap_or(notification.pid);
        drop(speakers);
        let Some(clients) = self.channels.get_mut(&notification.channel) else { return };
        let notification = Arc::new(notification);
        let behind: Vec<u64> = clients
            .iter()
            .filter_map(|(client, mouth)| mouth.try_send(notification.clone()).is_err().then_some(*client))
            .collect();
        for client in behind {
            // It must not believe that it hears everything: all its channels end together.
            self.channels.values_mut().for_each(|clients| drop(clients.remove(&client)));
        }
    }
}

/// The identifier as SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
