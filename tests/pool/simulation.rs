//! Several workers, pools and instances under random load and random accidents; one seed is one run.
//!
//! A run has a wild half (connects fail, clients die, pauses, limits change) and a calm half in which everybody must be served soon.
//! `SEEDS=from..to` chooses the seeds; a failure prints its own.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgsluice::pool::budget::{InstanceBudget, Mode, PoolId, PoolShared};
use pgsluice::pool::core::{Action, Event, PoolCore, PoolLimits, Pooled, Stamp, WaiterId};
use pgsluice::pool::error::{ConnectError, Refusal};

type Core = PoolCore<Server, Client>;
type Client = usize;

const WILD: Duration = Duration::from_secs(4);
const END: Duration = Duration::from_secs(8);
const PATIENCE_IN_THE_CALM: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct Server(Stamp);

impl Pooled for Server {
    fn stamp(&self) -> Stamp {
        self.0
    }
}

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }

    fn micros(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(from + self.below(to - from))
    }
}

#[derive(Debug)]
enum Due {
    Core { worker: usize, pool: usize, event: Event<Server> },
    Timer { worker: usize, pool: usize },
    Think { client: Client },
    Finish { client: Client },
    GiveUp { client: Client, round: u32 },
    Accident,
}

#[derive(Debug)]
enum Doing {
    Thinking,
    Waiting { id: WaiterId, since: Instant },
    Holding(Server),
}

struct ClientState {
    worker: usize,
    pool: usize,
    doing: Doing,
    round: u32,
}

struct World {
    rng: Rng,
    start: Instant,
    now: Instant,
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    what: HashMap<u64, Due>,
    next: u64,
    cores: Vec<Vec<Core>>,
    shared: Vec<Arc<PoolShared>>,
    instances: Vec<Arc<InstanceBudget>>,
    down: Vec<bool>,
    clients: Vec<ClientState>,
    /// In the order of their coming, per worker and pool.
    queues: HashMap<(usize, usize), VecDeque<Client>>,
    /// Messages between two workers keep their order.
    last_message: HashMap<(usize, usize), Instant>,
    sockets: Vec<u32>,
    active: HashSet<u64>,
    next_server: u64,
    granted: u32,
}

fn limits() -> Arc<PoolLimits> {
    Arc::new(PoolLimits {
        wait_timeout: Duration::from_secs(10),
        waiting_max: 25,
        idle_timeout: Duration::from_millis(700),
        lifetime: Duration::from_secs(2),
        check_delay: Duration::from_millis(300),
        unreachable_grace: Duration::from_millis(30),
    })
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let start = Instant::now();
        let (workers, pools) = (1 + rng.below(3) as usize, 1 + rng.below(4) as usize);
        let instances: Vec<_> =
            (0..1 + rng.below(2)).map(|_| Arc::new(InstanceBudget::new(1 + rng.below(7) as u32))).collect();
        let shared: Vec<_> = (0..pools)
            .map(|p| Arc::new(PoolShared::new(PoolId(p as u32), workers, 1 + rng.below(5) as u32, start)))
            .collect();
        for (p, pool) in shared.iter().enumerate() {
            instances[p % instances.len()].enlist(pool);
        }
        let core = |w: usize, p: usize| {
            PoolCore::new(w, Arc::clone(&shared[p]), Arc::clone(&instances[p % instances.len()]), limits())
        };
        let cores = (0..workers).map(|w| (0..pools).map(|p| core(w, p)).collect()).collect();
        let clients = (0..2 + rng.below(35)).map(|_| ClientState {
            worker: rng.below(workers as u64) as usize,
            pool: rng.below(pools as u64) as usize,
            doing: Doing::Thinking,
            round: 0,
        });
        let clients = clients.collect();
        let mut world = Self {
            rng: Rng(seed ^ 0x5eed),
            start,
            now: start,
            due: BinaryHeap::new(),
            what: HashMap::new(),
            next: 0,
            cores,
            down: vec![false; instances.len()],
            sockets: vec![0; pools],
            shared,
            instances,
            clients,
            queues: HashMap::new(),
            last_message: HashMap::new(),
            active: HashSet::new(),
            next_server: 0,
            granted: 0,
        };
        for client in 0..world.clients.len() {
            let after = world.rng.micros(0, 20_000);
            world.at(after, Due::Think { client });
        }
        world.at(Duration::from_millis(50), Due::Accident);
        world
    }

    fn at(&mut self, after: Duration, due: Due) {
        self.next += 1;
        self.due.push(Reverse((self.now + after, self.next)));
        self.what.insert(self.next, due);
    }

    fn wild(&self) -> bool {
        self.now < self.start + WILD
    }

    fn run(&mut self) {
        while let Some(Reverse((at, id))) = self.due.pop() {
            self.now = at;
            let due = self.what.remove(&id).expect("every moment has its event");
            self.step(due);
            assert!(self.next < 3_000_000, "the world never comes to rest");
        }
        self.check_rest();
    }

    fn step(&mut self, due: Due) {
        match due {
            Due::Core { worker, pool, event } => {
                if matches!(event, Event::Closed | Event::ConnectFailed { .. } | Event::Lent { server: None, .. }) {
                    self.sockets[pool] -= 1;
                }
                self.feed(worker, pool, event);
            }
            Due::Timer { worker, pool } => {
                let core = &mut self.cores[worker][pool];
                if core.poll_timeout().is_some_and(|at| at <= self.now) {
                    core.handle_timeout(self.now);
                    assert!(core.poll_timeout().is_none_or(|at| at > self.now), "a timeout was not handled");
                    self.pump(worker, pool);
                }
            }
            Due::Think { client } => self.acquire(client),
            Due::Finish { client } => self.finish(client),
            Due::GiveUp { client, round } => self.give_up(client, round),
            Due::Accident => self.accident(),
        }
    }

    fn feed(&mut self, worker: usize, pool: usize, event: Event<Server>) {
        self.cores[worker][pool].handle(event, self.now);
        self.pump(worker, pool);
    }

    fn pump(&mut self, worker: usize, pool: usize) {
        while let Some(action) = self.cores[worker][pool].poll_action() {
            self.act(worker, pool, action);
        }
        if let Some(at) = self.cores[worker][pool].poll_timeout() {
            self.at(at.saturating_duration_since(self.now), Due::Timer { worker, pool });
        }
        self.check_limits();
    }

    fn act(&mut self, worker: usize, pool: usize, action: Action<Server, Client>) {
        match action {
            Action::Connect { generation } => self.connect(worker, pool, generation),
            Action::Grant { waiter, server } => {
                let queue = self.queues.get_mut(&(worker, pool)).expect("somebody waits");
                assert_eq!(queue.pop_front(), Some(waiter), "first come, first served within a worker");
                self.hold(waiter, server);
            }
            Action::Refuse { waiter, why } => self.refused(worker, pool, waiter, &why),
            Action::Close { .. } => {
                let after = self.rng.micros(50, 2_000);
                self.at(after, Due::Core { worker, pool, event: Event::Closed });
            }
            Action::Check { server } => {
                let after = self.rng.micros(100, 2_000);
                let dead = self.wild() && self.rng.percent(20);
                let event = if dead { Event::CheckFailed { server } } else { Event::Checked { server } };
                self.at(after, Due::Core { worker, pool, event });
            }
            Action::Lend { to, server, asked } => {
                let broken = self.wild() && self.rng.percent(3);
                let server = (!broken).then_some(server);
                self.message(worker, to, pool, Event::Lent { by: worker, server, asked });
            }
            Action::Ask { of } => self.message(worker, of, pool, Event::Asked { by: worker }),
            Action::Decline { to } => self.message(worker, to, pool, Event::Declined { by: worker }),
            Action::Wake { worker: to, pool } => self.message(worker, to, pool.0 as usize, Event::Room),
            Action::Evict { worker: to, pool } => self.message(worker, to, pool.0 as usize, Event::Evict),
        }
    }

    fn connect(&mut self, worker: usize, pool: usize, generation: u32) {
        self.sockets[pool] += 1;
        assert!(self.sockets[pool] <= self.shared[pool].size(), "no connect above the size of the pool");
        let instance = pool % self.instances.len();
        assert!(self.on_instance(instance) <= self.instances[instance].max(), "no connect above the instance's limit");
        let fails = self.wild() && (self.down[instance] || self.rng.percent(5));
        let after = self.rng.micros(500, 8_000);
        let event = if fails {
            let sqlstate = if self.rng.percent(30) { "28P01" } else { "57P03" }.to_owned();
            Event::ConnectFailed { error: Arc::new(ConnectError::Server { sqlstate, body: bytes::Bytes::new() }) }
        } else {
            self.next_server += 1;
            Event::Connected {
                server: Server(Stamp { id: self.next_server, generation, connected_at: self.now + after }),
            }
        };
        self.at(after, Due::Core { worker, pool, event });
    }

    fn message(&mut self, from: usize, to: usize, pool: usize, event: Event<Server>) {
        let slow = self.rng.percent(2);
        let delay = if slow { self.rng.micros(1_000, 20_000) } else { self.rng.micros(0, 200) };
        let last = self.last_message.entry((from, to)).or_insert(self.now);
        *last = (*last).max(self.now + delay);
        let after = last.saturating_duration_since(self.now);
        self.at(after, Due::Core { worker: to, pool, event });
    }

    fn acquire(&mut self, client: Client) {
        if self.now > self.start + END {
            return;
        }
        let (worker, pool) = (self.clients[client].worker, self.clients[client].pool);
        if let Some(server) = self.cores[worker][pool].try_take(self.now) {
            let queue = self.queues.get(&(worker, pool));
            assert!(queue.is_none_or(VecDeque::is_empty), "nobody is overtaken");
            return self.hold(client, server);
        }
        self.queues.entry((worker, pool)).or_default().push_back(client);
        let id = self.cores[worker][pool].wait(client, self.now);
        self.clients[client].doing = Doing::Waiting { id, since: self.now };
        if self.wild() && self.rng.percent(10) {
            let (after, round) = (self.rng.micros(0, 50_000), self.clients[client].round);
            self.at(after, Due::GiveUp { client, round });
        }
        self.pump(worker, pool);
    }

    fn hold(&mut self, client: Client, server: Server) {
        assert!(self.active.insert(server.0.id), "a server belongs to one client");
        if let Doing::Waiting { since, .. } = self.clients[client].doing
            && !self.wild()
        {
            let waited = self.now - since.max(self.start + WILD);
            assert!(waited < PATIENCE_IN_THE_CALM, "client {client} was forgotten for {waited:?}");
        }
        self.granted += 1;
        self.clients[client].doing = Doing::Holding(server);
        let long = self.wild() && self.rng.percent(3);
        let after = if long { self.rng.micros(50_000, 400_000) } else { self.rng.micros(20, 10_000) };
        self.at(after, Due::Finish { client });
    }

    fn refused(&mut self, worker: usize, pool: usize, client: Client, why: &Refusal) {
        let queue = self.queues.get_mut(&(worker, pool)).expect("somebody waits");
        match why {
            Refusal::TooManyWaiting { .. } | Refusal::Disabled => queue.retain(|&c| c != client),
            Refusal::WaitTimeout { .. } | Refusal::Connect(_) => {
                assert_eq!(queue.pop_front(), Some(client), "the oldest is refused first");
            }
        }
        let calm = self.now > self.start + WILD + PATIENCE_IN_THE_CALM;
        assert!(!calm || matches!(why, Refusal::TooManyWaiting { .. }), "refused in the calm: {why}");
        self.think(client);
    }

    fn think(&mut self, client: Client) {
        self.clients[client].doing = Doing::Thinking;
        self.clients[client].round += 1;
        let after = if self.rng.percent(20) { self.rng.micros(10_000, 900_000) } else { self.rng.micros(10, 10_000) };
        self.at(after, Due::Think { client });
    }

    fn finish(&mut self, client: Client) {
        let Doing::Holding(server) = std::mem::replace(&mut self.clients[client].doing, Doing::Thinking) else {
            panic!("only a holder finishes");
        };
        self.active.remove(&server.0.id);
        let (worker, pool) = (self.clients[client].worker, self.clients[client].pool);
        let event = match self.rng.below(100) {
            0..4 => Event::Broken { server },
            4..6 => {
                self.sockets[pool] -= 1;
                Event::Lost
            }
            _ => Event::Released { server },
        };
        self.feed(worker, pool, event);
        self.think(client);
    }

    fn give_up(&mut self, client: Client, round: u32) {
        let ClientState { worker, pool, .. } = self.clients[client];
        if self.clients[client].round != round {
            return;
        }
        if let Doing::Waiting { id, .. } = self.clients[client].doing {
            self.queues.get_mut(&(worker, pool)).expect("somebody waits").retain(|&c| c != client);
            self.think(client);
            self.feed(worker, pool, Event::Left { waiter: id });
        }
    }

    fn accident(&mut self) {
        let pool = self.rng.below(self.shared.len() as u64) as usize;
        let instance = self.rng.below(self.instances.len() as u64) as usize;
        if !self.wild() {
            self.shared.iter().for_each(|pool| pool.set_mode(Mode::Running));
            return self.refresh_all();
        }
        match self.rng.below(7) {
            0 => self.shared[pool].set_mode(Mode::Paused),
            1 => self.shared[pool].set_mode(if self.rng.percent(20) { Mode::Disabled } else { Mode::Running }),
            2 => self.shared[pool].set_mode(Mode::Running),
            3 => self.shared[pool].reconnect(),
            4 => self.shared[pool].set_size(1 + self.rng.below(5) as u32),
            5 => self.instances[instance].set_max(1 + self.rng.below(7) as u32),
            _ => self.down[instance] = !self.down[instance],
        }
        self.refresh_all();
        let after = self.rng.micros(1_000, 300_000);
        self.at(after, Due::Accident);
    }

    fn refresh_all(&mut self) {
        for worker in 0..self.cores.len() {
            for pool in 0..self.shared.len() {
                self.message(worker, worker, pool, Event::Refresh);
            }
        }
    }

    fn on_instance(&self, instance: usize) -> u32 {
        (0..self.shared.len()).filter(|p| p % self.instances.len() == instance).map(|p| self.sockets[p]).sum()
    }

    fn check_limits(&self) {
        for (pool, shared) in self.shared.iter().enumerate() {
            assert_eq!(self.sockets[pool], shared.open(), "every socket has a slot and every slot a socket");
            let waiting: usize = self.queues.iter().filter(|((_, p), _)| *p == pool).map(|(_, q)| q.len()).sum();
            assert!(shared.waiting() as usize <= waiting.min(25), "waiters are counted and bounded");
        }
        for (i, instance) in self.instances.iter().enumerate() {
            assert_eq!(self.on_instance(i), instance.open());
        }
    }

    fn check_rest(&self) {
        for (c, client) in self.clients.iter().enumerate() {
            assert!(matches!(client.doing, Doing::Thinking), "client {c} was forgotten: {:?}", client.doing);
        }
        for shared in &self.shared {
            assert_eq!((shared.open(), shared.waiting()), (0, 0), "nothing is left of {:?}", shared.snapshot(self.now));
        }
        for instance in &self.instances {
            assert_eq!((instance.open(), instance.starved()), (0, 0));
        }
        assert!(self.cores.iter().flatten().all(PoolCore::is_unused));
        assert!(self.granted > 0);
    }
}

#[test]
fn many_worlds() {
    let seeds = std::env::var("SEEDS").ok();
    let range =
        seeds.as_deref().and_then(|s| s.split_once("..")).map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap()));
    let (from, to) = range.unwrap_or((0, 300));
    for seed in from..to {
        let run = std::panic::catch_unwind(|| World::new(seed).run());
        assert!(run.is_ok(), "seed {seed} failed: run it alone with SEEDS={seed}..{}", seed + 1);
    }
}
