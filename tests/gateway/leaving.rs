//! Clients that leave: noticed in every phase, told to the backend at once, counted once, and nothing stays behind.

use std::time::{Duration, Instant};

use super::{http::Connection, process::until, world::World};

/// Until when the backend must know.
const NOTICE: Duration = Duration::from_millis(250);

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

/// Runs `begin`, leaves, and checks that the backend sees it in time. Done once per way to leave.
fn leaves(world: &World, phase: &str, begin: impl Fn() -> Connection) {
    for exit in EXITS {
        let (aborted, counted) = (world.sim().aborted, closed_in(world, phase));
        let connection = begin();
        let left = Instant::now();
        let kept = leave(connection, exit);
        until("the backend sees that the client left", || world.sim().aborted == aborted + 1);
        assert!(left.elapsed() <= NOTICE, "{phase} {exit:?}: after {:?}", left.elapsed());
        world.until_idle();
        until("the client is counted", || closed_in(world, phase) == counted + 1.0);
        drop(kept);
    }
    assert_eq!(
        world.gateway.labelled("obleth_requests_total", &["outcome=\"client_gone\"", "status=\"499\""]),
        3.0
    );
    assert_eq!(world.gateway.metric("obleth_client_closed_total"), 3.0);
}

fn closed_in(world: &World, phase: &str) -> f64 {
    world.gateway.labelled("obleth_client_closed_total", &[&format!("phase=\"{phase}\"")])
}

#[test]
fn while_it_waits_for_the_first_byte_of_a_stream() {
    let world = World::start();
    leaves(&world, "ttft", || {
        let mut connection = world.connect();
        connection.send(world.chat(r#","stream":true"#).header("x-sim-fault", "stall-before-head").bytes());
        until("the request is with the backend", || world.sim().active == 1);
        connection
    });
}

#[test]
fn while_it_waits_for_a_json_answer() {
    let world = World::start();
    leaves(&world, "ttft", || {
        let mut connection = world.connect();
        connection.send(world.chat("").header("x-sim-latency-ms", 60_000).bytes());
        until("the request is with the backend", || world.sim().active == 1);
        connection
    });
}

#[test]
fn while_a_json_answer_is_half_there() {
    let world = World::start();
    leaves(&world, "streaming", || {
        let mut connection = world.connect();
        let answered = world.gateway.labelled("obleth_upstream_attempts_total", &["outcome=\"answered\""]);
        connection.send(world.chat("").header("x-sim-fault", "stall-after-tokens").bytes());
        until("the backend's head has come", || {
            world.gateway.labelled("obleth_upstream_attempts_total", &["outcome=\"answered\""]) > answered
        });
        connection
    });
}

#[test]
fn while_a_stream_is_on_its_way() {
    let world = World::start();
    leaves(&world, "streaming", || {
        let mut connection = world.connect();
        let paced = world.chat(r#","stream":true"#).header("x-sim-tps", 20).header("x-sim-tokens", 10_000);
        connection.send(paced.bytes());
        connection.read_until("\"content\":\"Hello");
        connection
    });
    let generated = world.sim().completion_tokens;
    assert!((3..60).contains(&generated), "{generated}");
}

#[test]
fn while_a_stream_is_stalled() {
    let world = World::start();
    leaves(&world, "streaming", || {
        let mut connection = world.connect();
        let stalled = world.chat(r#","stream":true"#).header("x-sim-fault", "stall-after-tokens");
        connection.send(stalled.bytes());
        connection.read_until("\"content\":\" from");
        connection
    });
}

#[test]
fn while_it_does_not_read_what_it_gets() {
    let world = World::start();
    leaves(&world, "streaming", || {
        let mut connection = world.connect();
        connection.send(world.chat(r#","stream":true,"sim_tokens":100000000"#).bytes());
        connection.read_until("data: ");
        let made = || world.sim.counters.stats().connections;
        until("the backend is at it", || world.sim().active == 1 && made() > 0);
        connection
    });
}

#[test]
fn while_its_body_is_on_the_way() {
    let world = World::start();
    for (number, exit) in EXITS.into_iter().enumerate() {
        let mut connection = world.connect();
        let head = world.chat(&" ".repeat(1000)).head();
        connection.send(head);
        connection.send("{\"model\":");
        until("the upload has begun", || world.gateway.metric("obleth_key_cache_misses_total") > 0.0);
        let kept = leave(connection, exit);
        until("the client is counted", || closed_in(&world, "upload") == number as f64 + 1.0);
        drop(kept);
    }
    assert_eq!(world.sim().requests, 0);
    world.until_idle();
}

#[test]
fn a_crowd_that_leaves_frees_everything() {
    let world = World::start();
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
    assert!(left.elapsed() <= NOTICE * 2, "{:?}", left.elapsed());
    world.until_idle();
    assert_eq!(world.gateway.metric("obleth_client_closed_total"), 100.0);
    drop(kept);
}

#[test]
fn a_client_that_closes_after_done_has_everything() {
    let world = World::start();
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
