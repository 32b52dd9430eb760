//! Many clients at once, and clients that are slow on purpose: each is bounded, and the others are served meanwhile.

use std::{
    thread,
    time::{Duration, Instant},
};

use obleth_upstream::Options;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    disconnects::until_nothing_is_left,
    http::{Connection, Request, Response},
    process::{Driver, Setup, until},
    refusal::assert_refused,
    world::World,
};

/// How long a small request may take, as a rule, while the gateway is beset: generous, because the tests share the
/// machine with the load.
const SANE: Duration = Duration::from_millis(250);

/// Lets this process have as many descriptors as it may; false if that is too few.
fn descriptors_for(connections: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).unwrap();
    let enough = limit.maximum.is_none_or(|most| most > connections + 1000);
    if !enough {
        println!("not run: {connections} connections need more descriptors than `ulimit -Hn` allows");
    }
    enough
}

/// Small requests one after the other for as long as `busy`: the time of each, sorted.
fn latencies(world: &World, mut busy: impl FnMut() -> bool) -> Vec<Duration> {
    let mut connection = world.connect();
    let mut times = Vec::new();
    while busy() {
        let begun = Instant::now();
        let answer = connection.ask(&world.chat(""));
        assert_eq!(answer.status, 200, "{}", answer.text());
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    times
}

#[track_caller]
fn assert_sane(what: &str, times: &[Duration]) {
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!("{what}: {} requests, p50 {:?}, p99 {:?}", times.len(), at(50), at(99));
    assert!(times.len() > 10, "{what}: {} requests only", times.len());
    assert!(at(50) < SANE && at(95) < SANE * 4, "{what}: p50 {:?}, p95 {:?}", at(50), at(95));
}

fn five_thousand_connections(driver: Driver) {
    const IDLE: u64 = 4500;
    const ACTIVE: u64 = 500;
    if !descriptors_for(2 * IDLE + 2 * ACTIVE) {
        return;
    }
    let setup = Setup::new().driver(driver).env("OBLETH_UPSTREAM_KEEPALIVE_MS", 0);
    let mut world = World::with(setup, Options::default());
    let before = world.gateway.resident_kib();
    let idle: Vec<Connection> = (0..IDLE).map(|_| world.connect()).collect();
    let connected = || world.gateway.metric("obleth_client_connections");
    until("all idle ones are connected", || connected() >= IDLE as f64);
    println!(
        "{driver:?}: {} bytes per idle connection",
        (world.gateway.resident_kib() - before) * 1024 / IDLE
    );
    let paced = world.chat(r#","stream":true"#).header("x-sim-tps", 5).header("x-sim-tokens", 1000);
    let mut active: Vec<Connection> = (0..ACTIVE)
        .map(|_| {
            let mut connection = world.connect();
            connection.send(paced.bytes());
            connection
        })
        .collect();
    active.iter_mut().for_each(|connection| connection.read_until("\"content\":\"Hello"));
    assert_eq!(world.gateway.metric("obleth_in_flight"), ACTIVE as f64);
    let begun = Instant::now();
    let times = latencies(&world, || begun.elapsed() < Duration::from_secs(2));
    assert_sane("beside 5,000 connections", &times);
    // Any of the idle ones is served, however long it waited.
    let mut idle = idle;
    for connection in idle.iter_mut().step_by(50) {
        assert_eq!(connection.ask(&world.chat("")).status, 200);
    }
    drop((idle, active));
    until_nothing_is_left(&world);
    world.assert_unharmed();
}

#[test]
fn five_thousand_connections_are_served_and_released_on_io_uring() {
    five_thousand_connections(Driver::Uring);
}

#[test]
fn five_thousand_connections_are_served_and_released_on_epoll() {
    five_thousand_connections(Driver::Epoll);
}

/// Sends a byte of `text` to each connection in turn until all of them have been answered; gives the answers.
fn drip(mut connections: Vec<Connection>, text: &[u8]) -> Vec<Response> {
    let begun = Instant::now();
    for byte in text.iter().cycle() {
        thread::sleep(Duration::from_millis(50)); // a slow client's pace
        connections.iter_mut().for_each(|connection| {
            // One that was answered takes no more.
            let _ = connection.try_send([*byte]);
        });
        if begun.elapsed() > Duration::from_secs(3) {
            break;
        }
    }
    connections.iter_mut().map(Connection::response).collect()
}

#[test]
fn slow_heads_and_slow_bodies_are_cut_off_and_the_others_served_meanwhile() {
    const SLOW: usize = 200;
    for driver in [Driver::Uring, Driver::Epoll] {
        let setup = Setup::new()
            .driver(driver)
            .env("OBLETH_CLIENT_HEAD_TIMEOUT_MS", 1000)
            .env("OBLETH_CLIENT_BODY_PAUSE_MS", 1000);
        let mut world = World::with(setup, Options::default());
        let before = world.gateway.resident_kib();
        let upload = world.post("/v1/chat/completions", vec![b' '; 100_000]).head();
        let begin = |bytes: &[u8]| -> Vec<Connection> {
            (0..SLOW)
                .map(|_| {
                    let mut connection = world.connect();
                    connection.send(bytes);
                    connection
                })
                .collect()
        };
        let (heads, bodies) = (begin(b"GET /v1/models HTTP/1.1\r\nHost: a\r\nx-slow: "), begin(&upload));
        let times = thread::scope(|scope| {
            let heads = scope.spawn(|| drip(heads, b"slowloris"));
            let bodies = scope.spawn(|| drip(bodies, b"    "));
            let times = latencies(&world, || !heads.is_finished() || !bodies.is_finished());
            for answer in heads.join().unwrap().iter().chain(&bodies.join().unwrap()) {
                assert_refused(answer, "request_timeout");
            }
            times
        });
        assert_sane("beside 400 slow clients", &times);
        let grown = world.gateway.resident_kib().saturating_sub(before);
        assert!(grown < 2 * SLOW as u64 * 64, "{grown} KiB for {} slow clients", 2 * SLOW);
        let refused = world.gateway.labelled("obleth_rejected_total", &["code=\"request_timeout\""]);
        assert_eq!(refused, 2.0 * SLOW as f64);
        until("they are gone", || world.gateway.metric("obleth_client_connections") <= 1.0);
        world.assert_unharmed();
    }
}

/// Processor time of the gateway until now.
fn processor_time(world: &World) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", world.gateway.pid())).unwrap();
    // After the name in parentheses: state is the first, user and system time the 12th and 13th (proc(5)).
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10) // at 100 ticks per second, as on every Linux
}

#[test]
fn floods_of_ten_megabytes_of_header_are_refused_early_and_cost_little() {
    const FLOODS: u64 = 8;
    const HEADER: usize = 10_000_000;
    for driver in [Driver::Uring, Driver::Epoll] {
        let mut world = World::with(Setup::new().driver(driver), Options::default());
        world.assert_unharmed();
        let (resident, spent) = (world.gateway.resident_kib(), processor_time(&world));
        let data = world.gateway.data;
        let one_long = || [b"x: ".to_vec(), vec![b'a'; HEADER]].concat();
        let many = || "x-name: value\r\n".repeat(HEADER / 15).into_bytes();
        thread::scope(|scope| {
            let floods: Vec<_> = (0..FLOODS)
                .map(|number| {
                    let header = if number % 2 == 0 { one_long() } else { many() };
                    scope.spawn(move || {
                        let mut connection = Connection::open(data);
                        connection.send("GET /v1/models HTTP/1.1\r\nHost: a\r\n");
                        let all = connection.try_send(&header);
                        (connection.response(), all)
                    })
                })
                .collect();
            let times = latencies(&world, || floods.iter().any(|flood| !flood.is_finished()));
            println!("{} requests meanwhile", times.len());
            for flood in floods {
                assert_refused(&flood.join().unwrap().0, "headers_too_large");
            }
        });
        let (grown, spent) =
            (world.gateway.resident_kib().saturating_sub(resident), processor_time(&world) - spent);
        println!("{driver:?}: {FLOODS} floods of {HEADER} bytes: {grown} KiB, {spent:?} of processor time");
        assert!(grown < 8 * 1024, "{grown} KiB");
        assert!(spent < Duration::from_secs(4), "{spent:?}");
        world.assert_unharmed();
    }
}

#[test]
fn a_connection_without_a_request_is_closed_after_its_limit() {
    let setup = Setup::new().env("OBLETH_CLIENT_IDLE_TIMEOUT_MS", 500);
    let world = World::with(setup, Options::default());
    let mut fresh = world.connect();
    let mut used = world.connect();
    assert_eq!(used.ask(&Request::get("/health")).status, 200);
    let begun = Instant::now();
    assert!(fresh.is_closed() && used.is_closed());
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(400) && took < Duration::from_secs(3), "{took:?}");
}
