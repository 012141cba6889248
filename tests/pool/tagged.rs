//! No row reaches the wrong client, by seed and in simulated time: clients that each ask for rows of
//! their own tag share two servers of a [`Fake`] PostgreSQL through the router's own code, while
//! connections are lost, stall and answer in pieces, and clients cancel, vanish and come back.
//!
//! `SEEDS=from..to` chooses the seeds; a failure prints its own.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::env;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pgsluice::catalog::{CatalogReader, CatalogWatch};
use pgsluice::commit::shards::{Bounds, Commits, Nowhere};
use pgsluice::config::{Config, PoolMode};
use pgsluice::execute::unique::UniqueIds;
use pgsluice::execute::worker::{Served, ShardPools, Worker};
use pgsluice::listening::Listening;
use pgsluice::net::cancel::{Addressee, CancelKeys};
use pgsluice::net::client;
use pgsluice::net::startup::{self, First};
use pgsluice::pool::directory::Directory;
use pgsluice::pool::driver::{PoolKey, Pools};
use pgsluice::pool::health::InstanceHealth;
use pgsluice::stats::Registry;
use pgsluice::transport::stream::Stream;
use pgsluice_sharding::ShardMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use super::fake::Fake;
use super::wire::{self, message};

const CLIENTS: u64 = 6;
const ROUNDS: u64 = 40;
const SERVERS: u32 = 2;

/// Between two attempts while there is no server.
const RETRY: Duration = Duration::from_millis(50);

/// Nothing that is asked for takes as long, in simulated time.
const HUNG: Duration = Duration::from_secs(100);

/// What a client may hear when its server is lost, or has asked for; anything else is a bug, as is
/// 57014 for whoever has not cancelled.
const TOLERATED: [&str; 5] = ["57P01", "08006", "08007", "25P02", "22012"];

#[test]
fn no_row_reaches_the_wrong_client() {
    let seeds = env::var("SEEDS").ok();
    let (from, to) = seeds.as_deref().and_then(|seeds| seeds.split_once("..")).unwrap_or(("0", "60"));
    let mut rows = 0;
    for seed in from.parse::<u64>().unwrap()..to.parse().unwrap() {
        let told = Told(seed);
        rows += run(seed);
        std::mem::forget(told);
    }
    println!("{rows} rows checked");
}

/// Says which seed it was when a check fails.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        println!("seed {seed}: SEEDS={seed}..{next}", seed = self.0, next = self.0 + 1);
    }
}

/// One simulation from its beginning to its end; gives the number of rows checked.
fn run(seed: u64) -> u64 {
    let mut dice = Dice(seed);
    let folder = Folder::new(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let fake = Fake::start(&folder.0, Dice(dice.below(u64::MAX)));
        let router = Rc::new(Router::new(&folder.0));
        let clients = (0..CLIENTS).map(|number| {
            let (router, dice) = (router.clone(), Dice(dice.below(u64::MAX)));
            spawn_local(async move {
                let mut client = Client::new(router, number, dice).await;
                for _ in 0..ROUNDS {
                    client.round().await;
                }
                client.rows
            })
        });
        let mut rows = 0;
        for client in clients.collect::<Vec<_>>() {
            rows += client.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        }
        // In the calm after the storm everybody is served.
        fake.wild.set(false);
        for number in 0..CLIENTS {
            let mut client = Client::new(router.clone(), CLIENTS + number, Dice(number)).await;
            // A failed login is remembered for a moment.
            let calm = async {
                while client.ask("SELECT 'calm'", "calm").await != Outcome::Ready {
                    sleep(RETRY).await;
                }
            };
            assert!(timeout(HUNG, calm).await.is_ok(), "not served after the storm");
        }
        rows
    })
}

struct Folder(PathBuf);

impl Folder {
    fn new(seed: u64) -> Self {
        let path = env::temp_dir().join(format!("sluice-tagged-{}-{seed}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// One worker of a router, without threads and listeners: its clients are handed to it.
struct Router {
    worker: Rc<Worker>,
    served: Rc<Served>,
    keys: Rc<CancelKeys>,
    context: startup::Context,
    next_client: Cell<u64>,
}

impl Router {
    fn new(folder: &Path) -> Self {
        let config = Config::parse(&format!(
            "[pool]\nsize = {SERVERS}\nwait_timeout = \"90s\"\nprepared_statements_max = 3\n[auth]\nmethod = \"trust\"\n\
             [[database]]\nname = \"app\"\n[[database.shard]]\nprimary = \"postgres:///app?host={}&port=5432\"\n",
            folder.display()
        ))
        .unwrap();
        let config = Arc::new(config);
        let (directory, mut mailboxes) = Directory::new(config.clone(), 1);
        let worker = Rc::new(Worker::new(0, config.limits.clone(), 7, Arc::new(UniqueIds::new(0))));
        let pools = Pools::start(directory, mailboxes.remove(0));
        let key = PoolKey { user: "app".into(), database: "app".into(), shard: 0, instance: 0 };
        let health = Arc::new(InstanceHealth::new(Duration::from_secs(10), pgsluice::clock::now()));
        let shard = ShardPools { name: "main".into(), instances: vec![(pools.pool(&key).unwrap(), health)] };
        let catalog = CatalogWatch::new("app", config.databases[0].rules.clone(), Vec::new());
        let patience = Duration::from_secs(1);
        let bounds = Bounds { in_doubt_after: patience, outcome_timeout: patience };
        let served = Served {
            database: "app".into(),
            user: "app".into(),
            salt: 1,
            mode: PoolMode::Transaction,
            catalog: RefCell::new(CatalogReader::new(Arc::new(catalog))),
            planner: worker.planner("app"),
            map: Arc::new(ShardMap::even(4096, 1)),
            shards: vec![shard],
            stats: Registry::default().register(0, "app", "app"),
            commits: Arc::new(Commits::new(1, Arc::new(Nowhere), bounds, Handle::current())),
            descriptions: RefCell::default(),
            shapes: RefCell::default(),
            listening: Arc::new(Listening::new(Vec::new(), Handle::current())),
            greetings: RefCell::default(),
            all_greetings: Arc::default(),
            successor: RefCell::default(),
        };
        let context = startup::Context::new(&config, [0; 32]).unwrap();
        Self { worker, served: Rc::new(served), keys: Rc::new(CancelKeys::new(0)), context, next_client: Cell::new(1) }
    }

    /// The client's end of a new connection.
    fn connect(self: &Rc<Self>) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let router = self.clone();
        drop(spawn_local(async move { router.serve(Stream::Unix(ours)).await }));
        theirs
    }

    async fn serve(self: Rc<Self>, stream: Stream) {
        match startup::accept(stream, &self.context).await {
            Ok(First::Client(accepted)) => {
                let id = self.next_client.replace(self.next_client.get() + 1);
                client::serve(Box::new(accepted), id, self.served.clone(), self.worker.clone(), &self.keys).await;
            }
            Ok(First::Cancel { stream, pid, secret }) => {
                if let Addressee::Worker(_) = self.keys.find(pid, &secret) {
                    let holder = self.worker.clients.borrow().get(&pid).and_then(std::rc::Weak::upgrade);
                    if let Some(holder) = holder {
                        holder.cancel().await;
                    }
                }
                drop(stream);
            }
            Err(_gone) => {}
        }
    }
}

/// Splitmix64.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// How a request ended.
#[derive(Debug, PartialEq)]
enum Outcome {
    Ready,
    /// With this SQLSTATE.
    Failed(String),
    /// The connection is gone.
    Lost,
}

struct Client {
    router: Rc<Router>,
    number: u64,
    dice: Dice,
    stream: UnixStream,
    pid: i32,
    secret: Vec<u8>,
    request: u64,
    rows: u64,
    /// Named statements of this connection: name -> the tag in its text.
    prepared: BTreeMap<String, String>,
    /// What was asked last and how it ended, for the message when a check fails.
    history: VecDeque<String>,
}

impl Client {
    async fn new(router: Rc<Router>, number: u64, dice: Dice) -> Self {
        let stream = router.connect();
        let (prepared, history) = (BTreeMap::new(), VecDeque::new());
        let mut client =
            Self { router, number, dice, stream, pid: 0, secret: Vec::new(), request: 0, rows: 0, prepared, history };
        client.connect().await;
        client
    }

    /// Again and again until there is a server to greet from.
    async fn connect(&mut self) {
        let begun = Instant::now();
        loop {
            self.prepared.clear();
            self.stream = self.router.connect();
            self.send(&wire::startup(&[("user", "app"), ("database", "app")])).await;
            let outcome = self.read("no rows").await;
            if outcome == Outcome::Ready {
                return;
            }
            assert!(begun.elapsed() < HUNG, "no login: {outcome:?}");
            sleep(RETRY).await;
        }
    }

    /// One request, and what it ought to bring.
    async fn round(&mut self) {
        self.request += 1;
        let tag = format!("{}/{}", self.number, self.request);
        let kind = self.dice.below(14);
        self.note(format!("{tag} of kind {kind}"));
        let outcome = match kind {
            0 | 1 => self.simple(&tag).await,
            2..=4 => self.pipeline(&tag).await,
            5 | 6 => self.named(&tag).await,
            7 => self.transaction(&tag).await,
            8 | 9 => self.setting(&tag).await,
            10 => self.copy_out(&tag).await,
            11 => self.cancelled(&tag).await,
            12 => self.portal(&tag).await,
            _ => return self.vanish(&tag).await,
        };
        self.note(format!("{outcome:?}"));
        match outcome {
            Outcome::Ready => {}
            Outcome::Failed(sqlstate) => {
                assert!(TOLERATED.contains(&sqlstate.as_str()), "{tag}: {sqlstate} after {:?}", self.history);
                if self.ask("ROLLBACK", &tag).await != Outcome::Ready {
                    self.connect().await;
                }
            }
            Outcome::Lost => self.connect().await,
        }
    }

    fn note(&mut self, what: String) {
        if self.history.len() > 40 {
            self.history.pop_front();
        }
        self.history.push_back(what);
    }

    async fn ask(&mut self, sql: &str, tag: &str) -> Outcome {
        self.send(&wire::query(sql)).await;
        self.read(tag).await
    }

    /// In pieces, as networks deliver them. A connection that is gone is noticed when the answer is read.
    async fn send(&mut self, bytes: &[u8]) {
        let cut = match self.dice.below(3) {
            0 => usize::try_from(self.dice.below(bytes.len() as u64)).unwrap(),
            _ => 0,
        };
        drop(self.stream.write_all(&bytes[..cut]).await);
        if cut > 0 {
            sleep(Duration::from_micros(self.dice.below(2_000))).await;
        }
        drop(self.stream.write_all(&bytes[cut..]).await);
    }

    /// Reads up to ReadyForQuery; every row must carry the tag.
    async fn read(&mut self, tag: &str) -> Outcome {
        let mut failed = None;
        loop {
            let Ok(received) = timeout(HUNG, read_message(&mut self.stream)).await else {
                panic!("{tag}: no answer after {:?}", self.history);
            };
            let Ok((kind, body)) = received else { return Outcome::Lost };
            match kind {
                b'D' => {
                    let length = u32::from_be_bytes(body[2..6].try_into().unwrap()) as usize;
                    self.check(&body[6..6 + length], tag);
                }
                b'd' => self.check(body.split(|byte| matches!(byte, b'\t' | b'\n')).next().unwrap(), tag),
                b'K' => {
                    self.pid = i32::from_be_bytes(body[..4].try_into().unwrap());
                    self.secret = body[4..].to_vec();
                }
                b'E' => drop(failed.get_or_insert_with(|| wire::sqlstate(&body))),
                b'Z' => return failed.map_or(Outcome::Ready, Outcome::Failed),
                _ => {}
            }
        }
    }

    fn check(&mut self, seen: &[u8], tag: &str) {
        assert_eq!(String::from_utf8_lossy(seen), tag, "a row of somebody else, after {:?}", self.history);
        self.rows += 1;
    }

    async fn simple(&mut self, tag: &str) -> Outcome {
        let rows = self.dice.below(300);
        let series = format!("SELECT '{tag}', repeat('x', {}) FROM generate_series(1, {rows})", rows / 3);
        let sql = match self.dice.below(4) {
            0 | 1 => series,
            2 => format!("{series}; SELECT '{tag}'; {series}"),
            _ => format!("{series}; SELECT 1 / 0; SELECT 'never'"),
        };
        self.ask(&sql, tag).await
    }

    /// Several statements before one Sync, cut by Flush, with or without an error in the middle.
    async fn pipeline(&mut self, tag: &str) -> Outcome {
        let mut out = Vec::new();
        for _ in 0..=self.dice.below(4) {
            let (sql, values) = match self.dice.below(5) {
                0 => ("SELECT 1 / 0".to_owned(), vec![]),
                1 | 2 => (format!("SELECT '{tag}', repeat('x', 50) FROM generate_series(1, 9)"), vec![]),
                _ => ("SELECT $1::text, g FROM generate_series(1, 40) g".to_owned(), vec![Some(tag)]),
            };
            out.extend(wire::parse("", &sql));
            out.extend(wire::bind("", "", &values, self.dice.below(2) == 0));
            if self.dice.below(2) == 0 {
                out.extend(message(b'D', b"P\0"));
            }
            out.extend(wire::execute(""));
            if self.dice.below(3) == 0 {
                out.extend(message(b'H', b""));
            }
        }
        out.extend(wire::sync());
        self.send(&out).await;
        self.read(tag).await
    }

    /// Named statements whose text holds the tag of the request that prepared them.
    async fn named(&mut self, tag: &str) -> Outcome {
        let name = format!("s{}", self.dice.below(5));
        let mut out = Vec::new();
        let expected = match self.prepared.get(&name) {
            Some(known) if self.dice.below(4) > 0 => known.clone(),
            known => {
                if known.is_some() {
                    out.extend(message(b'C', format!("S{name}\0").as_bytes()));
                }
                out.extend(wire::parse(&name, &format!("SELECT '{tag}' FROM generate_series(1, $1::int)")));
                tag.to_owned()
            }
        };
        out.extend(wire::bind("", &name, &[Some("3")], false));
        out.extend(wire::execute(""));
        out.extend(wire::sync());
        self.send(&out).await;
        let outcome = self.read(&expected).await;
        match outcome {
            Outcome::Ready => drop(self.prepared.insert(name, expected)),
            Outcome::Lost => {}
            // Whether it is prepared is known again after this.
            Outcome::Failed(_) => {
                self.prepared.remove(&name);
                self.send(&[message(b'C', format!("S{name}\0").as_bytes()), wire::sync()].concat()).await;
                if self.read("nothing").await == Outcome::Lost {
                    return Outcome::Lost;
                }
            }
        }
        outcome
    }

    async fn transaction(&mut self, tag: &str) -> Outcome {
        let mut last = Outcome::Ready;
        for sql in [
            "BEGIN".to_owned(),
            format!("SELECT '{tag}' FROM generate_series(1, 5)"),
            format!("SELECT '{tag}', repeat('x', 2000) FROM generate_series(1, 20)"),
            if self.dice.below(3) == 0 { "SELECT 1 / 0".to_owned() } else { "COMMIT".to_owned() },
            "ROLLBACK".to_owned(),
        ] {
            last = self.ask(&sql, tag).await;
            if last == Outcome::Lost {
                break;
            }
            sleep(Duration::from_micros(self.dice.below(500))).await;
        }
        last
    }

    /// A setting follows its client from server to server.
    async fn setting(&mut self, tag: &str) -> Outcome {
        let set = self.ask(&format!("SET app.tag = '{tag}'"), tag).await;
        if set != Outcome::Ready {
            return set;
        }
        for sql in ["SHOW app.tag", "SELECT current_setting('app.tag')"] {
            sleep(Duration::from_micros(self.dice.below(500))).await;
            let outcome = self.ask(sql, tag).await;
            if outcome != Outcome::Ready {
                return outcome;
            }
        }
        if self.dice.below(2) == 0 { self.ask("RESET app.tag", tag).await } else { Outcome::Ready }
    }

    async fn copy_out(&mut self, tag: &str) -> Outcome {
        let rows = self.dice.below(200);
        self.ask(&format!("COPY (SELECT '{tag}', g FROM generate_series(1, {rows}) g) TO STDOUT"), tag).await
    }

    /// The cancel comes before, while or after the statement runs, and is over when its connection is.
    async fn cancelled(&mut self, tag: &str) -> Outcome {
        self.send(&wire::query(&format!("SELECT '{tag}' FROM pg_sleep(0.02)"))).await;
        sleep(Duration::from_millis(self.dice.below(30))).await;
        let mut request = self.router.connect();
        drop(request.write_all(&wire::cancel(self.pid, &self.secret)).await);
        let outcome = self.read(tag).await;
        drop(timeout(HUNG, request.read_to_end(&mut Vec::new())).await.unwrap());
        if outcome == Outcome::Failed("57014".to_owned()) { Outcome::Ready } else { outcome }
    }

    /// A portal that is read in parts, over one transaction.
    async fn portal(&mut self, tag: &str) -> Outcome {
        let some = message(b'E', &[b"p\0".as_slice(), &7_u32.to_be_bytes()].concat());
        let begin = self.ask("BEGIN", tag).await;
        if begin != Outcome::Ready {
            return begin;
        }
        let sql = "SELECT $1::text, g FROM generate_series(1, 20) g";
        let bind = wire::bind("p", "", &[Some(tag)], false);
        self.send(&[wire::parse("", sql), bind, some.clone(), wire::sync()].concat()).await;
        let mut outcome = self.read(tag).await;
        if outcome == Outcome::Ready {
            self.send(&[some, wire::sync()].concat()).await;
            outcome = self.read(tag).await;
        }
        match outcome {
            Outcome::Ready => self.ask("COMMIT", tag).await,
            other => other,
        }
    }

    /// Leaves in the middle of something, or reads nothing for a while.
    async fn vanish(&mut self, tag: &str) {
        let large = format!("SELECT '{tag}', repeat('x', 1000) FROM generate_series(1, 700)");
        match self.dice.below(4) {
            0 => self.send(&wire::query(&large)).await,
            1 => self.send(&wire::query(&large)[..20]).await,
            2 => {
                self.ask("BEGIN", tag).await;
                let bind = wire::bind("", "", &[], false);
                self.send(&[wire::parse("", &large), bind, wire::execute("")].concat()).await;
            }
            _ => {
                self.send(&wire::query(&large)).await;
                sleep(Duration::from_millis(20 + self.dice.below(2_000))).await;
                if self.read(tag).await != Outcome::Ready {
                    self.connect().await;
                }
                return;
            }
        }
        sleep(Duration::from_millis(self.dice.below(20))).await;
        self.connect().await;
    }
}

async fn read_message(stream: &mut UnixStream) -> std::io::Result<(u8, Vec<u8>)> {
    let tag = stream.read_u8().await?;
    let length = usize::try_from(stream.read_u32().await?).unwrap();
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body).await?;
    Ok((tag, body))
}
