//! Requests that wait for a slot: never more at the backend than the pool has, nobody forgotten, nobody served who left.

use std::{
    thread,
    time::{Duration, Instant},
};

use obleth_upstream::Options;
use rustix::process::Signal;
use serde_json::json;

use super::{
    cancels::{Random, cancel, seed},
    clock::{Clock, Fault},
    disconnects::{EXITS, leave, until_nothing_is_left},
    http::{Connection, Request, Response},
    process::{Driver, Setup, until},
    world::World,
};

/// Until when a client that left while it waited must be out of the queue.
const NOTICE: Duration = Duration::from_millis(250);
/// Times that this is tried on a busy machine.
const TRIES: usize = 5;
/// A request that does not end by itself while a test looks.
const LONG: (&str, u64) = ("x-sim-latency-ms", 60_000);

/// A world whose model has so many slots.
pub(crate) fn narrow(setup: Setup, slots: u32) -> World {
    let world = World::with(setup, Options::default());
    world.gateway.put(&format!("/models/{}/capacity", world.model_id), json!({"max_in_flight": slots}));
    world
}

pub(crate) fn queued(world: &World) -> f64 {
    world.gateway.metric("obleth_queue_depth")
}

/// Sends a request that takes a slot and keeps it.
pub(crate) fn occupy(world: &World) -> Connection {
    let active = world.sim().active;
    let mut connection = world.connect();
    connection.send(world.chat("").header(LONG.0, LONG.1).bytes());
    until("the request is with the backend", || world.sim().active > active);
    connection
}

/// Sends a request that has to wait.
pub(crate) fn line_up(world: &World, request: &Request) -> Connection {
    let before = queued(world);
    let mut connection = world.connect();
    connection.send(request.bytes());
    until("the request waits", || queued(world) > before);
    connection
}

/// So many clients at once, each with so many requests; all answers.
fn crowd(world: &World, clients: usize, requests: usize, request: &Request) -> Vec<Response> {
    thread::scope(|scope| {
        let clients: Vec<_> = (0..clients)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = world.connect();
                    (0..requests).map(|_| connection.ask(request)).collect::<Vec<_>>()
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

fn a_pool_is_never_over_its_size(driver: Driver, cores: u32) {
    let mut world = narrow(Setup::new().driver(driver).cores(cores), 5);
    let request = world.chat("").header("x-sim-latency-ms", 5);
    let answers = crowd(&world, 24, 20, &request);
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(world.sim().max_active, 5, "never more, and no slot left free while somebody waited");
    let waited = answers.iter().filter(|answer| answer.header("x-obleth-queue-ms") != Some("0")).count();
    assert!(waited > 240, "{waited} of {} waited", answers.len());
    world.until_idle();
    assert_eq!((queued(&world), world.gateway.metric("obleth_pool_queue_depth")), (0.0, 0.0));
    assert_eq!(world.gateway.metric("obleth_queue_wait_seconds_count") as usize, waited);
    world.assert_unharmed();
}

#[test]
fn a_pool_is_never_over_its_size_on_two_cores() {
    a_pool_is_never_over_its_size(Driver::Uring, 2);
}

#[test]
fn a_pool_is_never_over_its_size_on_eight_cores() {
    a_pool_is_never_over_its_size(Driver::Uring, 8);
}

#[test]
fn a_pool_is_never_over_its_size_on_epoll() {
    a_pool_is_never_over_its_size(Driver::Epoll, 2);
}

#[test]
fn a_request_that_need_not_wait_says_nothing_of_waiting() {
    let world = narrow(Setup::new(), 64);
    for _ in 0..20 {
        world.ask(&world.chat(""));
    }
    let answer = world.ask(&world.chat(""));
    assert_eq!(answer.header("x-obleth-queue-ms"), Some("0"));
    assert!(answer.header("x-obleth-degraded").is_none());
}

fn who_leaves_the_queue_never_reaches_the_backend(driver: Driver) {
    let mut world = narrow(Setup::new().driver(driver).env("OBLETH_UPSTREAM_KEEPALIVE_MS", 0), 1);
    for exit in EXITS {
        let mut took = Vec::new();
        while took.len() < TRIES && took.last().is_none_or(|last| *last > NOTICE) {
            let holder = occupy(&world);
            let gone = || world.gateway.labelled("obleth_client_closed_total", &["phase=\"queued\""]);
            let before = gone();
            let name = format!("left-{exit:?}-{}", took.len());
            let waiting = line_up(&world, &world.chat("").header("x-request-id", &name));
            let left = Instant::now();
            let kept = leave(waiting, exit);
            until("nobody waits any more", || queued(&world) == 0.0);
            took.push(left.elapsed());
            until("the client is counted", || gone() == before + 1.0);
            drop(holder);
            until_nothing_is_left(&world);
            assert_eq!(world.ask(&world.chat("")).status, 200, "the slot is free again");
            assert_eq!(world.sim.counters.count_of(&name), 0);
            drop(kept);
        }
        assert!(took.last().is_some_and(|took| *took <= NOTICE), "{exit:?}: {took:?}");
    }
    world.assert_unharmed();
}

#[test]
fn who_leaves_the_queue_never_reaches_the_backend_on_io_uring() {
    who_leaves_the_queue_never_reaches_the_backend(Driver::Uring);
}

#[test]
fn who_leaves_the_queue_never_reaches_the_backend_on_epoll() {
    who_leaves_the_queue_never_reaches_the_backend(Driver::Epoll);
}

#[test]
fn who_falls_silent_in_the_queue_is_given_up_after_the_limit() {
    for driver in [Driver::Uring, Driver::Epoll] {
        let setup = Setup::new().driver(driver).env("OBLETH_CLIENT_SILENT_TIMEOUT_MS", 2000);
        let world = narrow(setup, 1);
        let _holder = occupy(&world);
        let waiting = line_up(&world, &world.chat(""));
        waiting.fall_silent();
        let silent = Instant::now();
        until("nobody waits any more", || queued(&world) == 0.0);
        assert!(silent.elapsed() <= Duration::from_secs(5), "{:?}", silent.elapsed());
    }
}

#[test]
fn random_cancels_under_contention_leave_nothing_behind() {
    let seed = seed();
    for (driver, slots) in [(Driver::Uring, 3), (Driver::Epoll, 8)] {
        let setup = Setup::new().driver(driver).env("OBLETH_UPSTREAM_KEEPALIVE_MS", 0);
        let mut world = narrow(setup, slots);
        thread::scope(|scope| {
            for client in 0..24 {
                let world = &world;
                scope.spawn(move || {
                    let mut random = Random::new(seed * 24 + client);
                    (0..20).for_each(|_| cancel(world, &mut random));
                });
            }
        });
        until_nothing_is_left(&world);
        until("nobody waits", || queued(&world) == 0.0);
        assert!(world.sim().max_active <= u64::from(slots), "{:?}", world.sim());
        assert_eq!(world.gateway.metric("obleth_pool_in_flight"), 0.0);
        // Every slot came back: as many as there are can be taken again.
        let holders: Vec<_> = (0..slots).map(|_| occupy(&world)).collect();
        drop(holders);
        until_nothing_is_left(&world);
        world.assert_unharmed();
    }
}

#[test]
fn a_drain_serves_those_who_wait() {
    let mut world = narrow(Setup::new(), 1);
    let request = world.chat("").header("x-sim-latency-ms", 200);
    let mut first = world.connect();
    first.send(request.bytes());
    until("the request is with the backend", || world.sim().active == 1);
    let mut waiting: Vec<_> = (0..3).map(|_| line_up(&world, &request)).collect();
    world.gateway.signal(Signal::TERM);
    assert_eq!(first.response().status, 200);
    for connection in &mut waiting {
        assert_eq!(connection.response().status, 200);
    }
    assert_eq!(world.gateway.wait().code(), Some(0));
    assert!(!world.gateway.stderr().contains("ERROR"), "{}", world.gateway.stderr());
}

#[test]
fn slots_grow_shrink_and_close_while_requests_run() {
    let world = narrow(Setup::new(), 4);
    let capacity = |slots: u32| {
        world.gateway.put(&format!("/models/{}/capacity", world.model_id), json!({"max_in_flight": slots}));
    };
    let request = world.chat("").header(LONG.0, LONG.1);
    let holders: Vec<_> = (0..4).map(|_| occupy(&world)).collect();
    let waiting: Vec<_> = (0..4).map(|_| line_up(&world, &request)).collect();
    capacity(2);
    assert_eq!(world.sim().active, 4, "what runs goes on");
    capacity(6);
    until("those who waited run", || world.sim().active == 6);
    assert_eq!(queued(&world), 2.0);
    capacity(0);
    until("nobody waits any more", || queued(&world) == 0.0);
    let refused = world.ask(&world.chat(""));
    assert_eq!((refused.status, refused.code()), (503, "pool_closed".to_owned()));
    assert_eq!(world.sim().active, 6);
    capacity(1);
    drop((holders, waiting));
    world.until_idle();
    assert_eq!(world.ask(&world.chat("")).status, 200);
}

#[test]
fn a_dead_shard_gives_its_slots_back() {
    let clock = Clock::new();
    let world = narrow(clock.given_to(Setup::new().cores(2)), 4);
    let holders: Vec<_> = (0..4).map(|_| occupy(&world)).collect();
    let restarts = || world.gateway.metric("obleth_worker_restarts_total");
    for shard in 0..2 {
        let before = restarts();
        clock.order(&world.gateway, &format!("obleth-shard-{shard}"), Fault::FailsAt(1));
        super::world::page(world.gateway.metrics, "/livez");
        until("the shard is started again", || restarts() > before);
    }
    drop(holders);
    world.until_idle();
    let again: Vec<_> = (0..4).map(|_| occupy(&world)).collect();
    let _waiting = line_up(&world, &world.chat(""));
    assert_eq!(world.sim().max_active, 4, "no slot was lost and none was made");
    drop(again);
}

#[test]
fn a_dead_coordinator_comes_back_and_serves_those_who_wait() {
    let clock = Clock::new();
    let world = narrow(clock.given_to(Setup::new().cores(2)), 2);
    let mut holders: Vec<_> = (0..2).map(|_| occupy(&world)).collect();
    let mut waiting: Vec<_> = (0..4).map(|_| line_up(&world, &world.chat(""))).collect();
    clock.order(&world.gateway, "obleth-coord", Fault::FailsAt(1));
    waiting.push(line_up(&world, &world.chat("")));
    until("it is said", || world.gateway.stderr().contains("the coordinator died and is started again"));
    assert_eq!(world.sim().active, 2);
    holders.clear();
    for connection in &mut waiting {
        assert_eq!(connection.response().status, 200);
    }
    assert_eq!(world.sim().max_active, 2);
    world.until_idle();
    assert_eq!(world.ask(&world.chat("")).status, 200);
}
