//! Single decisions of the pool, each with its reason.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgsluice::pool::budget::{InstanceBudget, Mode, PoolId, PoolShared};
use pgsluice::pool::core::{Action, Event, PoolCore, PoolLimits, Pooled, Stamp};
use pgsluice::pool::error::{ConnectError, Refusal};

#[derive(Debug, PartialEq)]
struct Server(Stamp);

impl Pooled for Server {
    fn stamp(&self) -> Stamp {
        self.0
    }
}

type Core = PoolCore<Server, &'static str>;

const MS: Duration = Duration::from_millis(1);

/// Pools of one instance on some workers, and a clock.
struct Bench {
    start: Instant,
    now: Instant,
    instance: Arc<InstanceBudget>,
    shared: Vec<Arc<PoolShared>>,
    next_server: u64,
}

impl Bench {
    fn new(pools: u32, workers: usize, size: u32, instance_max: u32) -> Self {
        let start = Instant::now();
        let instance = Arc::new(InstanceBudget::new(instance_max));
        let shared: Vec<_> = (0..pools).map(|p| Arc::new(PoolShared::new(PoolId(p), workers, size, start))).collect();
        shared.iter().for_each(|pool| instance.enlist(pool));
        Self { start, now: start, instance, shared, next_server: 0 }
    }

    fn core(&self, pool: usize, worker: usize) -> Core {
        let limits = PoolLimits {
            wait_timeout: 1000 * MS,
            waiting_max: 3,
            idle_timeout: 60_000 * MS,
            lifetime: 600_000 * MS,
            check_delay: 30_000 * MS,
            unreachable_grace: Duration::ZERO,
        };
        PoolCore::new(worker, Arc::clone(&self.shared[pool]), Arc::clone(&self.instance), Arc::new(limits))
    }

    fn server(&mut self) -> Server {
        self.next_server += 1;
        Server(Stamp { id: self.next_server, generation: 0, connected_at: self.now })
    }

    fn sleep(&mut self, ms: u32) {
        self.now += ms * MS;
    }

    /// A client comes and is connected a server of its own.
    fn first(&mut self, core: &mut Core, client: &'static str) -> Server {
        core.wait(client, self.now);
        assert_eq!(said(core), ["connect"]);
        let server = self.server();
        core.handle(Event::Connected { server }, self.now);
        match core.poll_action() {
            Some(Action::Grant { server, .. }) => server,
            other => panic!("{other:?}"),
        }
    }
}

/// The actions as words; servers in them are gone.
fn said(core: &mut Core) -> Vec<String> {
    std::iter::from_fn(|| core.poll_action())
        .map(|action| match action {
            Action::Connect { .. } => "connect".to_owned(),
            Action::Grant { waiter, .. } => format!("grant {waiter}"),
            Action::Refuse { waiter, why } => format!("refuse {waiter} {}", why.sqlstate()),
            Action::Close { why, .. } => format!("close {why:?}"),
            Action::Check { .. } => "check".to_owned(),
            Action::Lend { to, .. } => format!("lend to {to}"),
            Action::Ask { of } => format!("ask {of}"),
            Action::Decline { to } => format!("decline {to}"),
            Action::Wake { worker, pool } => format!("wake {worker} pool {}", pool.0),
            Action::Evict { worker, pool } => format!("evict {worker} pool {}", pool.0),
        })
        .collect()
}

#[test]
fn one_connect_per_waiter_up_to_the_size() {
    let b = Bench::new(1, 1, 2, 10);
    let mut core = b.core(0, 0);
    for client in ["a", "b", "c"] {
        core.wait(client, b.now);
    }
    assert_eq!(said(&mut core), ["connect", "connect"]);
    core.wait("d", b.now);
    assert_eq!(said(&mut core), ["refuse d 53300"], "only three may wait");
}

#[test]
fn a_released_server_goes_to_the_oldest_waiter() {
    let mut b = Bench::new(1, 1, 1, 10);
    let mut core = b.core(0, 0);
    let server = b.first(&mut core, "a");
    let gone = core.wait("b", b.now);
    core.wait("c", b.now);
    core.handle(Event::Left { waiter: gone }, b.now);
    core.handle(Event::Released { server }, b.now);
    assert_eq!(said(&mut core), ["grant c"], "b has left");
}

#[test]
fn the_hottest_server_is_used_and_the_coldest_closed() {
    let mut b = Bench::new(1, 1, 2, 10);
    let mut core = b.core(0, 0);
    let (one, two) = (b.first(&mut core, "a"), b.first(&mut core, "b"));
    let (first, last) = (one.0.id, two.0.id);
    core.handle(Event::Released { server: one }, b.now);
    b.sleep(40_000);
    core.handle(Event::Released { server: two }, b.now);
    b.sleep(20_000);
    assert_eq!(core.try_take(b.now).map(|s| s.0.id), Some(last));
    core.handle_timeout(b.now);
    match core.poll_action() {
        Some(Action::Close { server, .. }) => assert_eq!(server.0.id, first),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_server_long_idle_is_checked_before_use() {
    let mut b = Bench::new(1, 1, 1, 10);
    let mut core = b.core(0, 0);
    let server = b.first(&mut core, "a");
    core.handle(Event::Released { server }, b.now);
    b.sleep(30_000);
    assert!(core.try_take(b.now).is_none());
    core.wait("b", b.now);
    let Some(Action::Check { server }) = core.poll_action() else { panic!("it should be checked") };
    core.handle(Event::CheckFailed { server }, b.now);
    assert_eq!(said(&mut core), ["close Dead"]);
    core.handle(Event::Closed, b.now);
    assert_eq!(said(&mut core), ["connect"], "the slot is free");
}

#[test]
fn the_servers_own_error_refuses_when_there_is_no_other_server() {
    let mut b = Bench::new(1, 1, 3, 10);
    let mut core = b.core(0, 0);
    let error = |code: &str| {
        let error = ConnectError::Server { sqlstate: code.to_owned(), body: bytes::Bytes::new() };
        Event::ConnectFailed { error: Arc::new(error) }
    };
    core.wait("a", b.now);
    core.wait("b", b.now);
    said(&mut core);
    core.handle(error("28P01"), b.now);
    assert!(said(&mut core).is_empty(), "another attempt is under way");
    core.handle(error("28P01"), b.now);
    assert_eq!(said(&mut core), ["refuse a 28P01", "refuse b 28P01"]);
    core.wait("c", b.now);
    assert_eq!(said(&mut core), ["refuse c 28P01"], "no new attempt so soon");
    b.sleep(50);
    let server = b.first(&mut core, "d");
    core.wait("e", b.now);
    assert_eq!(said(&mut core), ["connect"]);
    core.handle(error("53300"), b.now);
    assert!(said(&mut core).is_empty(), "e can wait for d's server");
    core.handle(Event::Released { server }, b.now);
    assert_eq!(said(&mut core), ["grant e"]);
}

#[test]
fn a_wait_that_is_too_long_ends_that_wait_only() {
    let mut b = Bench::new(1, 1, 1, 10);
    let mut core = b.core(0, 0);
    let _server = b.first(&mut core, "a");
    core.wait("b", b.now);
    b.sleep(600);
    core.wait("c", b.now);
    assert_eq!(core.poll_timeout().map(|at| at <= b.now + 400 * MS), Some(true));
    b.sleep(400);
    core.handle_timeout(b.now);
    assert_eq!(said(&mut core), ["refuse b 53300"]);
    assert_eq!(core.waiting(), 1);
}

#[test]
fn between_workers_the_older_waiter_wins_past_the_slack() {
    let mut b = Bench::new(1, 2, 2, 10);
    let (mut here, mut there) = (b.core(0, 0), b.core(0, 1));
    let (one, two) = (b.first(&mut here, "a"), b.first(&mut here, "b"));
    there.wait("far", b.now);
    b.sleep(4);
    here.wait("near", b.now);
    here.handle(Event::Released { server: one }, b.now);
    assert_eq!(said(&mut here), ["grant near"], "within the slack the own waiter is cheaper");
    b.sleep(4);
    here.wait("late", b.now);
    here.handle(Event::Released { server: two }, b.now);
    assert_eq!(said(&mut here), ["lend to 1"]);
}

#[test]
fn an_empty_share_borrows_before_it_connects() {
    let mut b = Bench::new(1, 2, 5, 10);
    let (mut here, mut there) = (b.core(0, 0), b.core(0, 1));
    let server = b.first(&mut here, "a");
    here.handle(Event::Released { server }, b.now);
    there.wait("far", b.now);
    assert_eq!(said(&mut there), ["ask 0"]);
    assert!(here.try_take(b.now).is_some(), "a client here is quicker");
    here.handle(Event::Asked { by: 1 }, b.now);
    assert!(said(&mut here).contains(&"decline 1".to_owned()));
    there.handle(Event::Declined { by: 0 }, b.now);
    assert_eq!(said(&mut there), ["connect"]);
}

#[test]
fn a_full_instance_closes_an_idle_server_of_another_pool() {
    let mut b = Bench::new(2, 1, 5, 1);
    let (mut rich, mut poor) = (b.core(0, 0), b.core(1, 0));
    let server = b.first(&mut rich, "a");
    rich.handle(Event::Released { server }, b.now);
    poor.wait("b", b.now);
    assert_eq!(said(&mut poor), ["evict 0 pool 0"]);
    rich.handle(Event::Evict, b.now);
    assert_eq!(said(&mut rich), ["close MakeRoom"]);
    rich.handle(Event::Closed, b.now);
    assert_eq!(said(&mut rich), ["wake 0 pool 1"]);
    poor.handle(Event::Room, b.now);
    assert_eq!(said(&mut poor), ["connect"]);
}

#[test]
fn a_pool_with_many_servers_yields_to_one_with_few() {
    let mut b = Bench::new(2, 1, 5, 3);
    let (mut rich, mut poor) = (b.core(0, 0), b.core(1, 0));
    let one = b.first(&mut rich, "a");
    let (two, three) = (b.first(&mut rich, "b"), b.first(&mut rich, "c"));
    poor.wait("p", b.now);
    assert!(said(&mut poor).is_empty(), "nothing is idle");
    rich.wait("d", b.now);
    rich.handle(Event::Released { server: one }, b.now);
    assert_eq!(said(&mut rich), ["grant d"], "not at once");
    b.sleep(20);
    rich.wait("e", b.now);
    rich.handle(Event::Released { server: two }, b.now);
    assert_eq!(said(&mut rich), ["close MakeRoom"], "three against none");
    rich.handle(Event::Released { server: three }, b.now);
    assert_eq!(said(&mut rich), ["grant e"], "one is enough");
    rich.handle(Event::Closed, b.now);
    assert_eq!(said(&mut rich), ["wake 0 pool 1"]);
}

#[test]
fn a_pause_empties_the_pool_and_keeps_the_waiters() {
    let mut b = Bench::new(1, 1, 2, 10);
    let mut core = b.core(0, 0);
    let (one, two) = (b.first(&mut core, "a"), b.first(&mut core, "b"));
    core.handle(Event::Released { server: one }, b.now);
    b.shared[0].set_mode(Mode::Paused);
    core.handle(Event::Refresh, b.now);
    assert_eq!(said(&mut core), ["close Paused"]);
    core.wait("c", b.now);
    core.handle(Event::Released { server: two }, b.now);
    assert_eq!(said(&mut core), ["close Paused"]);
    core.handle(Event::Closed, b.now);
    core.handle(Event::Closed, b.now);
    assert_eq!(b.shared[0].open(), 0, "paused");
    b.shared[0].set_mode(Mode::Running);
    core.handle(Event::Refresh, b.now);
    assert_eq!(said(&mut core), ["connect"]);
    b.shared[0].set_mode(Mode::Disabled);
    core.handle(Event::Refresh, b.now);
    assert_eq!(said(&mut core), ["refuse c 57P03"]);
}

#[test]
fn reconnect_and_a_smaller_size_close_servers_as_they_come_back() {
    let mut b = Bench::new(1, 1, 2, 10);
    let mut core = b.core(0, 0);
    let (one, two) = (b.first(&mut core, "a"), b.first(&mut core, "b"));
    b.shared[0].set_size(1);
    core.handle(Event::Refresh, b.now);
    core.handle(Event::Released { server: one }, b.now);
    assert_eq!(said(&mut core), ["close OverLimit"]);
    b.shared[0].reconnect();
    core.handle(Event::Refresh, b.now);
    core.handle(Event::Released { server: two }, b.now);
    assert_eq!(said(&mut core), ["close Obsolete"]);
    assert_eq!(b.shared[0].snapshot(b.start).open, 2, "until they are closed");
}

#[test]
fn refusals_tell_the_client_what_to_do() {
    let told = format!("{:?}", Refusal::TooManyWaiting { max: 3 }.into_fields());
    assert!(told.contains("waiting_max"), "{told}");
}
