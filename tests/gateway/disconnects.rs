//! Clients that leave: noticed in every phase and in whatever manner, told to the backend at once, counted once, and
//! nothing stays behind.

use std::time::{Duration, Instant};

use obleth_upstream::Options;

use super::{
    http::Connection,
    process::{Driver, Setup, until},
    world::{ENDPOINTS, World},
};

/// Until when the backend must know.
const NOTICE: Duration = Duration::from_millis(250);
/// Times that this is tried.
const TRIES: usize = 5;
/// After how long without a sign of life a client counts as gone, where a test is about that.
const SILENT: Duration = Duration::from_secs(2);
/// How much later the kernel may say so: it counts probes in whole seconds, on a busy machine.
const LATE: Duration = Duration::from_secs(2);

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Exit {
    /// It closes its side and would still read.
    HalfClose,
    /// It closes.
    Close,
    /// It resets.
    Reset,
}

pub(crate) const EXITS: [Exit; 3] = [Exit::HalfClose, Exit::Close, Exit::Reset];

/// Leaves, and keeps the half-open connection if there is one.
pub(crate) fn leave(connection: Connection, exit: Exit) -> Option<Connection> {
    match exit {
        Exit::HalfClose => {
            connection.finish_sending();
            return Some(connection);
        }
        Exit::Close => connection.close(),
        Exit::Reset => connection.reset(),
    }
    None
}

/// Where a client may be when it leaves.
struct Phase {
    name: &'static str,
    /// As the gateway counts it.
    label: &'static str,
    begin: fn(&World) -> Connection,
}

const PHASES: [Phase; 9] = [
    Phase { name: "a small body on its way", label: "upload", begin: small_upload },
    Phase { name: "a large body on its way", label: "upload", begin: large_upload },
    Phase { name: "waiting for a stream's first byte", label: "ttft", begin: waiting_for_a_stream },
    Phase { name: "waiting for a JSON answer", label: "ttft", begin: waiting_for_json },
    Phase { name: "a small JSON answer half there", label: "streaming", begin: half_a_small_answer },
    Phase { name: "a large JSON answer half there", label: "streaming", begin: half_a_large_answer },
    Phase { name: "a stream on its way", label: "streaming", begin: streaming },
    Phase { name: "a stream that has stalled", label: "streaming", begin: stalled_stream },
    Phase { name: "not reading a stream", label: "streaming", begin: not_reading },
];

fn small_upload(world: &World) -> Connection {
    upload(world, &world.chat(&" ".repeat(1000)).head(), b"{\"model\":")
}

fn large_upload(world: &World) -> Connection {
    let head = world.post(ENDPOINTS[0], vec![b' '; 9_000_000]).head();
    let connection = upload(world, &head, &vec![b' '; 5_000_000]);
    until("the gateway makes room for the body", || world.gateway.metric("obleth_buffered_bytes") > 4e6);
    connection
}

fn upload(world: &World, head: &[u8], part: &[u8]) -> Connection {
    let looked_up = || {
        world.gateway.metric("obleth_key_cache_misses_total")
            + world.gateway.metric("obleth_key_cache_hits_total")
    };
    let before = looked_up();
    let mut connection = world.connect();
    connection.send([head, part].concat());
    until("the upload has begun", || looked_up() > before);
    connection
}

/// Sends a request with these steering headers, and waits until the backend works on it.
fn at_backend(world: &World, more: &str, headers: &[(&str, &str)]) -> Connection {
    let active = world.sim().active;
    let mut connection = world.connect();
    let request = headers.iter().fold(world.chat(more), |request, (name, value)| request.header(name, value));
    connection.send(request.bytes());
    until("the request is with the backend", || world.sim().active > active);
    connection
}

fn waiting_for_a_stream(world: &World) -> Connection {
    at_backend(world, r#","stream":true"#, &[("x-sim-fault", "stall-before-head")])
}

fn waiting_for_json(world: &World) -> Connection {
    at_backend(world, "", &[("x-sim-latency-ms", "60000")])
}

fn half_a_small_answer(world: &World) -> Connection {
    let answered = || world.gateway.labelled("obleth_upstream_attempts_total", &["outcome=\"answered\""]);
    let before = answered();
    let connection = at_backend(world, "", &[("x-sim-fault", "stall-after-tokens")]);
    until("the backend's head has come", || answered() > before);
    connection
}

fn half_a_large_answer(world: &World) -> Connection {
    let stalls = [("x-sim-fault", "stall-after-tokens"), ("x-sim-tokens", "40000")];
    let mut connection = at_backend(world, "", &stalls);
    connection.read_until("from the simulated backend");
    connection
}

fn streaming(world: &World) -> Connection {
    let paced = [("x-sim-tps", "20"), ("x-sim-tokens", "10000")];
    let mut connection = at_backend(world, r#","stream":true"#, &paced);
    connection.read_until("\"content\":\" from");
    connection
}

fn stalled_stream(world: &World) -> Connection {
    let stalls = [("x-sim-fault", "stall-after-tokens")];
    let mut connection = at_backend(world, r#","stream":true"#, &stalls);
    connection.read_until("\"content\":\" from");
    connection
}

fn not_reading(world: &World) -> Connection {
    let mut connection = at_backend(world, r#","stream":true,"sim_tokens":100000000"#, &[]);
    connection.read_until("data: ");
    connection
}

/// What the gateway counts of its requests.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Counts {
    all: f64,
    gone: f64,
    closed: f64,
    closed_here: f64,
}

impl Counts {
    fn of(world: &World, label: &str) -> Self {
        let gateway = &world.gateway;
        let gone = ["outcome=\"client_gone\"", "status=\"499\"", "endpoint=\"/v1/chat/completions\""];
        Self {
            all: gateway.metric("obleth_requests_total"),
            gone: gateway.labelled("obleth_requests_total", &gone),
            closed: gateway.metric("obleth_client_closed_total"),
            closed_here: gateway.labelled("obleth_client_closed_total", &[&format!("phase=\"{label}\"")]),
        }
    }

    fn plus(self, n: f64) -> Self {
        let Self { all, gone, closed, closed_here } = self;
        Self { all: all + n, gone: gone + n, closed: closed + n, closed_here: closed_here + n }
    }
}

/// No connection to a backend is kept, so that each that is open belongs to a request.
fn world(driver: Driver) -> World {
    let setup = Setup::new()
        .driver(driver)
        .env("OBLETH_UPSTREAM_KEEPALIVE_MS", 0)
        .env("OBLETH_CLIENT_SILENT_TIMEOUT_MS", SILENT.as_millis());
    World::with(setup, Options::default())
}

/// Waits until a gateway whose clients have all left holds nothing any more.
#[track_caller]
pub(crate) fn until_nothing_is_left(world: &World) {
    world.until_idle();
    until("room for bodies is given back", || world.gateway.metric("obleth_buffered_bytes") == 0.0);
    until("no client is connected", || world.gateway.metric("obleth_client_connections") == 0.0);
    until("no connection to the backend is open", || world.sim().open_connections == 0);
}

fn each_phase_and_exit(driver: Driver) {
    let mut world = world(driver);
    for phase in PHASES {
        for exit in EXITS {
            // A busy machine may keep this test from looking in time; a gateway that is late is so every time.
            let mut took = Vec::new();
            while took.len() < TRIES && took.last().is_none_or(|last| *last > NOTICE) {
                took.push(leaves(&world, &phase, exit));
            }
            assert!(took.last().is_some_and(|took| *took <= NOTICE), "{}, {exit:?}: {took:?}", phase.name);
        }
    }
    world.assert_unharmed();
}

/// A client gets into a phase and leaves. It must be counted once and leave nothing behind; how long it took until the
/// backend's connection was closed is returned.
fn leaves(world: &World, &Phase { name, label, begin }: &Phase, exit: Exit) -> Duration {
    let before = Counts::of(world, label);
    let connection = begin(world);
    let left = Instant::now();
    let kept = leave(connection, exit);
    until("the backend's connection is closed", || world.sim().open_connections == 0);
    let took = left.elapsed();
    until("the client is counted", || Counts::of(world, label) != before);
    drop(kept);
    until_nothing_is_left(world);
    assert_eq!(Counts::of(world, label), before.plus(1.0), "{name}, {exit:?}");
    took
}

#[test]
fn every_client_that_leaves_is_noticed_at_once_and_counted_once_on_io_uring() {
    each_phase_and_exit(Driver::Uring);
}

#[test]
fn every_client_that_leaves_is_noticed_at_once_and_counted_once_on_epoll() {
    each_phase_and_exit(Driver::Epoll);
}

/// All phases at once, and a connection without a request: their machines fall silent together.
fn each_phase_falls_silent(driver: Driver) {
    let mut world = world(driver);
    let before = Counts::of(&world, "streaming");
    let idle = world.connect();
    let clients: Vec<Connection> = PHASES.iter().map(|phase| (phase.begin)(&world)).chain([idle]).collect();
    clients.iter().for_each(Connection::fall_silent);
    let silent = Instant::now();
    until("the backend's connections are closed", || world.sim().open_connections == 0);
    let took = silent.elapsed();
    assert!(took >= SILENT / 2 && took <= SILENT + LATE, "{took:?}");
    until_nothing_is_left(&world);
    assert!(silent.elapsed() <= SILENT + LATE * 2, "{:?}", silent.elapsed());
    let after = Counts::of(&world, "streaming");
    let (all, streams) =
        (PHASES.len() as f64, PHASES.iter().filter(|p| p.label == "streaming").count() as f64);
    assert_eq!(after, Counts { closed_here: before.closed_here + streams, ..before.plus(all) });
    drop(clients);
    world.assert_unharmed();
}

#[test]
fn a_client_whose_machine_falls_silent_is_given_up_after_its_limit_on_io_uring() {
    each_phase_falls_silent(Driver::Uring);
}

#[test]
fn a_client_whose_machine_falls_silent_is_given_up_after_its_limit_on_epoll() {
    each_phase_falls_silent(Driver::Epoll);
}

#[test]
fn what_was_generated_for_a_client_that_left_is_counted() {
    let world = world(Driver::Uring);
    let counted = || world.gateway.metric("obleth_output_tokens_total");
    for exit in EXITS {
        let (before, made) = (counted(), world.sim().completion_tokens);
        let mut connection = streaming(&world);
        connection.read_until("\"content\":\" backend");
        let kept = leave(connection, exit);
        world.until_idle();
        until("its tokens are counted", || counted() > before);
        let (counted, made) = (counted() - before, (world.sim().completion_tokens - made) as f64);
        // One may have been made and not have arrived yet; the event that names the role counts like a token.
        assert!(made >= 5.0 && (made..=made + 1.0).contains(&counted), "{counted} of {made}");
        drop(kept);
    }
}

#[test]
fn a_crowd_that_leaves_frees_everything() {
    let world = world(Driver::Uring);
    let crowd: Vec<Connection> = (0..100)
        .map(|number| {
            let mut connection = world.connect();
            let more = if number % 2 == 0 { "" } else { r#","stream":true"# };
            connection.send(world.chat(more).header("x-sim-latency-ms", 60_000).bytes());
            connection
        })
        .collect();
    until("all of them are with the backend", || world.sim().active == 100);
    assert_eq!(world.gateway.metric("obleth_in_flight"), 100.0);
    let left = Instant::now();
    let kept: Vec<_> =
        crowd.into_iter().zip(EXITS.into_iter().cycle()).filter_map(|(c, exit)| leave(c, exit)).collect();
    until("the backend sees all of them leave", || world.sim().aborted == 100);
    // With the time that a busy test takes to close a hundred of them.
    assert!(left.elapsed() <= NOTICE * 8, "{:?}", left.elapsed());
    drop(kept);
    until_nothing_is_left(&world);
    assert_eq!(world.gateway.metric("obleth_client_closed_total"), 100.0);
}

#[test]
fn a_client_that_closes_after_done_has_everything() {
    for driver in [Driver::Uring, Driver::Epoll] {
        let world = world(driver);
        for round in 0..30 {
            let mut connection = world.connect();
            connection.send(world.chat(r#","stream":true"#).bytes());
            connection.read_until("data: [DONE]\n\n");
            drop(leave(connection, EXITS[round % 3]));
        }
        let ok = ["outcome=\"ok\"", "status=\"200\"", "endpoint=\"/v1/chat/completions\""];
        until("all of them count as served", || world.gateway.labelled("obleth_requests_total", &ok) == 30.0);
        assert_eq!(world.gateway.metric("obleth_client_closed_total"), 0.0);
        assert_eq!((world.sim().aborted, world.sim().completed), (0, 30));
    }
}
