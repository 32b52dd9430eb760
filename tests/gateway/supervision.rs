//! Threads that die or stall: who was with a shard is told at once, everybody else notices nothing, and it comes back.

use std::{
    fs,
    time::{Duration, Instant},
};

use obleth_upstream::Options;
use serde_json::json;

use super::{
    clock::{Clock, Fault},
    http::{Connection, Request},
    process::{Driver, Setup, until},
    refusal::assert_refused,
    world::{ENDPOINTS, MODEL, World, body_of, page},
};

/// Within what a client of a dead shard, and its backend, must see the end.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Deaths within a minute after which a shard is still started again at once.
const MOST_RESTARTS: usize = 5;
/// What the log says of it.
const DIED: &str = "a shard died and is started again";

fn restarts(world: &World) -> f64 {
    world.gateway.metric("obleth_worker_restarts_total")
}

/// A stream that has begun and now stalls.
fn stalled(world: &World) -> Connection {
    let mut connection = world.connect();
    connection.send(world.chat(r#","stream":true"#).header("x-sim-fault", "stall-after-tokens").bytes());
    connection.read_until("\"content\":\" from");
    connection
}

/// Lets a shard that sleeps die: it asks for the time when it wakes, before anything else.
#[track_caller]
fn kill(world: &World, clock: &Clock, shard: usize) {
    let died = restarts(world);
    kill_for_good(world, clock, shard);
    until("the shard is started again", || restarts(world) > died);
}

/// As [`kill`], without waiting for the successor.
#[track_caller]
fn kill_for_good(world: &World, clock: &Clock, shard: usize) {
    let faults = clock.faults();
    clock.order(&world.gateway, &format!("obleth-shard-{shard}"), Fault::FailsAt(1));
    page(world.gateway.metrics, "/livez");
    until("the clock has failed", || clock.faults() > faults);
}

fn a_dead_shard_takes_only_its_own_connections_with_it(driver: Driver) {
    let clock = Clock::new();
    let mut world = World::with(clock.given_to(Setup::new().driver(driver)), Options::default());
    let mut streams: Vec<_> = (0..12).map(|_| stalled(&world)).collect();
    let mut idle: Vec<_> = (0..12).map(|_| world.connect()).collect();
    for connection in &mut idle {
        assert_eq!(connection.ask(&world.chat("")).status, 200);
    }
    until("every stream is counted", || world.gateway.metric("obleth_in_flight") == 12.0);

    kill(&world, &clock, 0);
    let died = Instant::now();
    let kept = world.gateway.metric("obleth_in_flight");
    assert!((1.0..12.0).contains(&kept), "some streams were on each shard: {kept} are left");
    // A backend that generates for nobody is a backend that somebody pays for.
    until("the backend works for those that are left", || world.sim().active as f64 == kept);
    assert!(died.elapsed() < AT_ONCE, "the backend was told after {:?}", died.elapsed());
    streams.retain_mut(|stream| {
        let ended = stream.ends_within(AT_ONCE);
        let told = stream.received().contains(r#""code":"draining""#);
        assert_eq!(told, ended, "a stream that is cut says so: {}", stream.received());
        !ended
    });
    assert_eq!(streams.len() as f64, kept, "the dead shard's streams end, the others do not");
    let answered = idle.iter_mut().filter_map(|connection| {
        connection.try_send(world.chat("").bytes()).then(|| connection.try_response()).flatten()
    });
    let answered: Vec<_> = answered.map(|answer| answer.status).collect();
    assert!(
        (1..12).contains(&answered.len()) && answered.iter().all(|status| *status == 200),
        "{answered:?}"
    );

    for _ in 0..32 {
        assert_eq!(world.ask(&world.chat("")).status, 200, "every shard serves");
    }
    let on = |name: &str| world.gateway.metric(&format!("obleth_io_driver{{driver=\"{name}\"}}")) > 0.0;
    assert_eq!(on("io_uring"), driver == Driver::Uring, "the new shard runs on what the old one ran on");
    assert_eq!((restarts(&world), world.gateway.stderr().matches(DIED).count()), (1.0, 1));
    drop(streams);
    drop(idle);
    world.until_idle();
    assert!(world.gateway.is_running());
}

#[test]
fn a_dead_shard_takes_only_its_own_connections_with_it_on_io_uring() {
    a_dead_shard_takes_only_its_own_connections_with_it(Driver::Uring);
}

#[test]
fn a_dead_shard_takes_only_its_own_connections_with_it_on_epoll() {
    a_dead_shard_takes_only_its_own_connections_with_it(Driver::Epoll);
}

fn deaths_leave_nothing_behind(driver: Driver) {
    let clock = Clock::new();
    let setup = Setup::new().cores(1).driver(driver).env("OBLETH_UPSTREAM_KEEPALIVE_MS", 0);
    let world = World::with(clock.given_to(setup), Options::default());
    assert_eq!(world.ask(&world.chat("")).status, 200);
    super::disconnects::until_nothing_is_left(&world);
    // The sidecar's own connections come and go.
    let most = world.gateway.descriptors() + 2;
    for _ in 0..MOST_RESTARTS {
        let streams: Vec<_> = (0..8).map(|_| stalled(&world)).collect();
        kill(&world, &clock, 0);
        drop(streams);
        assert_eq!(world.ask(&world.chat("")).status, 200);
        super::disconnects::until_nothing_is_left(&world);
        until("no descriptor is left behind", || world.gateway.descriptors() <= most);
    }
}

#[test]
fn deaths_leave_nothing_behind_on_io_uring() {
    deaths_leave_nothing_behind(Driver::Uring);
}

#[test]
fn deaths_leave_nothing_behind_on_epoll() {
    deaths_leave_nothing_behind(Driver::Epoll);
}

#[test]
fn a_panic_in_a_request_closes_its_connection_and_no_other() {
    let clock = Clock::new();
    let mut world = World::with(clock.given_to(Setup::new().cores(1)), Options::default());
    let mut stream = stalled(&world);
    let mut connection = world.connect();
    assert_eq!(connection.ask(&world.chat("")).status, 200);
    let faults = clock.faults();
    // The first call is the runtime's, which wakes for the request; the second is the request's.
    clock.order(&world.gateway, "obleth-shard-0", Fault::FailsAt(2));
    connection.send(world.chat("").bytes());
    assert!(connection.try_response().is_none(), "the request met a bug");
    assert_eq!(clock.faults(), faults + 1);
    until("it is no longer counted", || world.gateway.metric("obleth_in_flight") == 1.0);
    assert!(!stream.ends_within(Duration::from_millis(200)));
    drop(stream);
    world.until_idle();
    assert_eq!(world.gateway.stderr().matches("a connection was closed because of a bug").count(), 1);
    world.assert_unharmed();
}

#[test]
fn a_panic_in_a_task_that_the_shard_needs_is_its_death_and_not_a_silence() {
    const KEEP_ALIVE_MS: u64 = 1000;
    let clock = Clock::new();
    let setup = Setup::new().cores(1).env("OBLETH_UPSTREAM_KEEPALIVE_MS", KEEP_ALIVE_MS);
    let world = World::with(clock.given_to(setup), Options::default());
    // What happens next is always that the idle connection to the backend grows too old. Some calls are then the
    // runtime's, and one is that of the task that keeps the alarms.
    let met = (2..).take(MOST_RESTARTS).any(|call| {
        let before = restarts(&world);
        let mut connection = world.connect();
        assert_eq!(connection.ask(&world.chat("")).status, 200);
        world.until_idle();
        clock.order(&world.gateway, "obleth-shard-0", Fault::FailsAt(call));
        until("the shard is started again", || restarts(&world) > before);
        assert!(connection.ends_within(AT_ONCE));
        assert_eq!(world.ask(&world.chat("")).status, 200);
        world.gateway.stderr().contains("a part of it that it cannot do without panicked")
    });
    assert!(met, "no call was that task's");
}

/// A request of another key.
fn ask_with(secret: &str) -> Request {
    Request::post(ENDPOINTS[0], body_of(ENDPOINTS[0], MODEL, "")).key(secret)
}

#[test]
fn a_stalled_sidecar_does_not_touch_the_traffic_of_known_keys() {
    const STALL: Duration = Duration::from_secs(8);
    let clock = Clock::new();
    // Keys grow old at once, so that each request has something to ask of the sidecar.
    let setup = clock.given_to(Setup::new().env("OBLETH_KEY_MAX_AGE_MS", 100));
    let world = World::with(setup, Options::default());
    let (_, unseen) = world.new_key(json!({"name": "unseen"}));
    for _ in 0..32 {
        assert_eq!(world.ask(&world.chat("")).status, 200);
    }
    let faults = clock.faults();
    clock.order(&world.gateway, "obleth-sidecar", Fault::Stalls(STALL.as_millis() as i32));
    // Opened and not answered: the sidecar wakes for it.
    let mut probe = Connection::open(world.gateway.metrics);
    probe.send(Request::get("/livez").bytes());
    until("the sidecar stalls", || clock.faults() > faults);
    let stalled = Instant::now();
    let (mut asked, mut slowest) = (0, Duration::ZERO);
    while stalled.elapsed() < STALL / 4 {
        let begun = Instant::now();
        let answer = world.ask(&world.chat(""));
        assert_eq!(answer.status, 200, "{}", answer.text());
        slowest = slowest.max(begun.elapsed());
        asked += 1;
    }
    assert!(slowest < STALL / 8, "of {asked} requests one took {slowest:?}");
    let mut waiting = world.connect();
    waiting.send(ask_with(&unseen).bytes());
    let answer = waiting.response();
    assert!(stalled.elapsed() < STALL, "the stall was too short for the test");
    assert_refused(&answer, "auth_store_unavailable");
    assert_eq!(probe.response().status, 200, "probes are answered again");
    until("a key that was not seen before works", || world.ask(&ask_with(&unseen)).status == 200);
    assert_eq!(world.gateway.get("/tenants").status, 200);
    assert_eq!(restarts(&world), 0.0);
}

#[test]
fn a_dead_sidecar_comes_back_and_traffic_goes_on_meanwhile() {
    let clock = Clock::new();
    let mut world = World::with(clock.given_to(Setup::new()), Options::default());
    let mut stream = stalled(&world);
    for _ in 0..32 {
        assert_eq!(world.ask(&world.chat("")).status, 200);
    }
    let faults = clock.faults();
    clock.order(&world.gateway, "obleth-sidecar", Fault::FailsAt(1));
    let mut probe = Connection::open(world.gateway.metrics);
    // It may be gone before it has read that.
    probe.try_send(Request::get("/livez").bytes());
    until("the sidecar's clock has failed", || clock.faults() > faults);
    for _ in 0..32 {
        assert_eq!(world.ask(&world.chat("")).status, 200);
    }
    until("it is said", || world.gateway.stderr().contains("the sidecar died and is started again"));
    until("probes are answered", || {
        Connection::open(world.gateway.metrics).answers(&Request::get("/livez"), 200)
    });
    let (_, later) = world.new_key(json!({"name": "later"}));
    until("a new key works", || world.ask(&ask_with(&later)).status == 200);
    assert!(!stream.ends_within(Duration::from_millis(1)));
    drop(stream);
    world.until_idle();
    world.assert_unharmed();
}

#[test]
fn a_dead_sidecar_comes_back_without_its_ledger_and_looks_keys_up() {
    let (clock, data) = (Clock::new(), tempfile::tempdir().unwrap());
    let world = World::with(clock.given_to(Setup::new().data_dir(data.path())), Options::default());
    let (_, unseen) = world.new_key(json!({"name": "unseen"}));
    let ledger = data.path().join("usage.db");
    fs::remove_file(&ledger).unwrap();
    fs::create_dir(&ledger).unwrap();
    // By then it sleeps again.
    for _ in 0..32 {
        assert_eq!(world.ask(&world.chat("")).status, 200);
    }
    let faults = clock.faults();
    clock.order(&world.gateway, "obleth-sidecar", Fault::FailsAt(1));
    let mut probe = Connection::open(world.gateway.metrics);
    // It may be gone before it has read that.
    probe.try_send(Request::get("/livez").bytes());
    until("the sidecar's clock has failed", || clock.faults() > faults);
    until("the ledger is missed", || world.gateway.stderr().contains("goes on without a usage ledger"));
    until("a key that was not seen before works", || world.ask(&ask_with(&unseen)).status == 200);
    let answer = world.gateway.get("/usage");
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("ledger_unavailable")));
    assert_eq!(world.gateway.stderr().matches("the sidecar died").count(), 1);
}

#[test]
fn a_shard_that_dies_again_and_again_is_left_out_and_the_others_serve_everybody() {
    let clock = Clock::new();
    let mut world = World::with(clock.given_to(Setup::new()), Options::default());
    for _ in 0..MOST_RESTARTS {
        kill(&world, &clock, 0);
        until("it serves again", || page(world.gateway.metrics, "/readyz").status == 200);
    }
    kill_for_good(&world, &clock, 0);
    until("it is said", || world.gateway.stderr().matches(DIED).count() == MOST_RESTARTS + 1);
    // Each on a connection of its own: none may queue for the one that has to wait.
    for _ in 0..32 {
        let begun = Instant::now();
        assert_eq!(world.ask(&world.chat("")).status, 200);
        assert!(begun.elapsed() < AT_ONCE);
    }
    assert_eq!(page(world.gateway.metrics, "/readyz").status, 503);
    assert_eq!(restarts(&world), MOST_RESTARTS as f64);
    assert!(world.gateway.is_running());
}

#[test]
fn a_process_whose_shards_all_die_again_and_again_ends_as_broken() {
    let clock = Clock::new();
    let mut world = World::with(clock.given_to(Setup::new().cores(1)), Options::default());
    for _ in 0..MOST_RESTARTS {
        kill(&world, &clock, 0);
        until("it serves again", || page(world.gateway.metrics, "/readyz").status == 200);
    }
    clock.order(&world.gateway, "obleth-shard-0", Fault::FailsAt(1));
    // The process may end before it answers.
    Connection::open(world.gateway.metrics).answers(&Request::get("/livez"), 200);
    assert_eq!(world.gateway.wait().code(), Some(70), "a fault of ours");
    assert!(world.gateway.stderr().contains("every shard died too often"));
}
