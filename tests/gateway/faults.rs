//! Backends that die or stall, at every phase of an answer: what the client sees of it, and that nothing runs twice.

use std::{
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    http::{End, Response},
    process::until,
    refusal::assert_refused,
    world::{ENDPOINTS, MODEL, World, body_of},
};

/// How much later than its limit a timer may go off on a busy machine.
const LATE: Duration = Duration::from_millis(400);

/// Checks a stream that was broken off after its head: whole events, then the error, and no end.
#[track_caller]
pub(crate) fn assert_broken_off(answer: &Response, code: &str) {
    let said = answer.text();
    assert_eq!((answer.status, answer.end), (200, End::Cut), "{said}");
    assert!(!said.contains("[DONE]"), "{said}");
    let events = answer.events();
    let error: serde_json::Value = serde_json::from_str(events.last().unwrap().trim_end()).unwrap();
    assert_eq!(error["error"]["code"], code, "{said}");
    assert_eq!(error["error"]["request_id"].as_str(), answer.header("x-request-id"));
    assert!(said.ends_with("\n\n"), "{said}");
    let before = &events[..events.len() - 1];
    assert!(before.iter().all(|event| !event.contains("\"error\"")), "one error: {said}");
}

#[test]
fn a_stream_whose_backend_dies_is_refused_or_broken_off_and_never_repeated() {
    let world = World::start();
    for endpoint in &ENDPOINTS[..2] {
        let body = body_of(endpoint, MODEL, r#","stream":true"#);
        let whole = world.ask(&world.post(endpoint, body.clone())).text();
        for fault in
            ["die-before-head", "die-after-head", "die-after-role", "die-after-tokens", "die-before-done"]
        {
            let id = format!("{endpoint} {fault}").replace(' ', ":");
            let request =
                world.post(endpoint, body.clone()).header("x-sim-fault", fault).header("x-request-id", &id);
            let answer = world.ask(&request);
            // A text completion's stream has no event for the role.
            let nothing_sent = fault == "die-after-role" && *endpoint == ENDPOINTS[1];
            if matches!(fault, "die-before-head" | "die-after-head") || nothing_sent {
                assert_refused(&answer, "upstream_cut");
            } else {
                assert_broken_off(&answer, "upstream_cut");
                let text = answer.text();
                let passed = text.rsplit_once("data: {\"error\"").unwrap().0;
                assert!(!passed.is_empty() && whole.starts_with(passed), "{fault}: {passed}");
            }
            // Without a byte on a connection that was used before, the request counts as not seen, and is sent again.
            let most = if fault == "die-before-head" { 2 } else { 1 };
            assert!((1..=most).contains(&world.sim.counters.count_of(&id)), "{fault}");
        }
    }
    world.until_idle();
    assert_eq!(world.gateway.labelled("obleth_requests_total", &["outcome=\"upstream_cut\""]), 10.0);
}

#[test]
fn a_json_answer_whose_backend_dies_is_a_502() {
    let world = World::start();
    for endpoint in ENDPOINTS {
        for fault in
            ["die-before-head", "die-after-head", "die-after-role", "die-after-tokens", "die-before-done"]
        {
            let id = format!("{endpoint}:{fault}");
            let request = world.post(endpoint, body_of(endpoint, MODEL, ""));
            let answer = world.ask(&request.header("x-sim-fault", fault).header("x-request-id", &id));
            assert_refused(&answer, "upstream_cut");
            assert_eq!(world.sim.counters.count_of(&id), 1, "{fault}");
        }
    }
    world.until_idle();
}

#[test]
fn the_connection_to_the_client_outlives_a_backend_that_died_before_its_head() {
    let world = World::start();
    let mut connection = world.connect();
    for _ in 0..5 {
        assert_refused(
            &connection.ask(&world.chat("").header("x-sim-fault", "die-after-tokens")),
            "upstream_cut",
        );
        assert_eq!(connection.ask(&world.chat("")).status, 200);
    }
}

fn timed(world: &World, model: &str, timeouts: serde_json::Value) {
    world.new_model(model, json!({"timeouts": timeouts}));
}

#[track_caller]
fn assert_about(took: Duration, limit_ms: u64) {
    let limit = Duration::from_millis(limit_ms);
    assert!(took >= limit - Duration::from_millis(5) && took < limit + LATE, "{took:?} for {limit:?}");
}

#[test]
fn a_backend_that_never_begins_is_a_504_after_the_first_byte_limit() {
    let world = World::start();
    timed(&world, "patient-300", json!({"first_byte_ms": 300}));
    for endpoint in ENDPOINTS {
        for more in ["", r#","stream":true"#] {
            let request = world.post(endpoint, body_of(endpoint, "patient-300", more));
            let begun = Instant::now();
            let answer = world.ask(&request.header("x-sim-fault", "stall-before-head"));
            assert_about(begun.elapsed(), 300);
            assert_refused(&answer, "upstream_timeout");
        }
    }
    until("every stalled exchange was closed", || world.sim().aborted == 6);
    world.until_idle();
    assert_eq!(world.gateway.labelled("obleth_upstream_attempts_total", &["outcome=\"timeout\""]), 6.0);
}

#[test]
fn a_stream_that_stalls_is_broken_off_after_the_idle_limit() {
    let world = World::start();
    timed(&world, "idle-300", json!({"idle_ms": 300}));
    for endpoint in &ENDPOINTS[..2] {
        let request = world.post(endpoint, body_of(endpoint, "idle-300", r#","stream":true"#));
        let answer = world.ask(&request.header("x-sim-fault", "stall-after-tokens"));
        assert_broken_off(&answer, "upstream_timeout");
        let [.., before, error] = answer.arrivals.as_slice() else { panic!("two reads at least") };
        assert_about(error.at.duration_since(before.at), 300);
    }
    let begun = Instant::now();
    let request = world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], "idle-300", ""));
    assert_refused(&world.ask(&request.header("x-sim-fault", "stall-after-tokens")), "upstream_timeout");
    assert_about(begun.elapsed(), 300);
    until("every stalled exchange was closed", || world.sim().aborted == 3);
    world.until_idle();
}

#[test]
fn a_steady_stream_outlives_every_limit_but_the_total_one() {
    let world = World::start();
    timed(&world, "steady", json!({"connect_ms": 200, "first_byte_ms": 200, "idle_ms": 200, "total_ms": 0}));
    timed(&world, "total-500", json!({"total_ms": 500}));
    let stream = |model: &str| {
        let body = body_of(ENDPOINTS[0], model, r#","stream":true"#);
        let request = world.post(ENDPOINTS[0], body).header("x-sim-tps", 25).header("x-sim-tokens", 30);
        let begun = Instant::now();
        (world.ask(&request), begun.elapsed())
    };
    let (steady, took) = stream("steady");
    assert!(
        steady.text().ends_with("[DONE]\n\n") && took > Duration::from_secs(1),
        "{took:?} {}",
        steady.text()
    );
    let (cut, took) = stream("total-500");
    assert_broken_off(&cut, "upstream_timeout");
    assert_about(took, 500);
    let slow =
        world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], "total-500", "")).header("x-sim-latency-ms", 5000);
    let begun = Instant::now();
    assert_refused(&world.ask(&slow), "upstream_timeout");
    assert_about(begun.elapsed(), 500);
    world.until_idle();
}

#[test]
fn a_limit_of_zero_is_none() {
    let world = World::with(
        super::process::Setup::new().env("OBLETH_UPSTREAM_FIRST_BYTE_TIMEOUT_MS", 100),
        obleth_upstream::Options::default(),
    );
    timed(&world, "endless", json!({"first_byte_ms": 0, "idle_ms": 0, "connect_ms": 0, "total_ms": 0}));
    let slow = |model: &str| {
        world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], model, "")).header("x-sim-latency-ms", 600)
    };
    assert_refused(&world.ask(&slow(MODEL)), "upstream_timeout");
    assert_eq!(world.ask(&slow("endless")).status, 200);
}

/// A port whose queue of connections is full: a connect to it hangs, as to a machine that is switched off.
pub(crate) struct BlackHole {
    pub(crate) addr: SocketAddr,
    _listener: rustix::fd::OwnedFd,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    pub(crate) fn new() -> Self {
        use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
        let listener = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        listen(&listener, 0).unwrap();
        let addr: SocketAddr = getsockname(&listener).unwrap().try_into().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&addr, Duration::from_millis(300)) {
            queued.push(stream);
        }
        Self { addr, _listener: listener, _queued: queued }
    }
}

#[test]
fn a_backend_that_takes_no_connection_is_a_502_after_the_connect_limit() {
    let world = World::start();
    let hole = BlackHole::new();
    let timeouts = json!({"connect_ms": 300});
    world.new_model("hole", json!({"api_base": format!("http://{}", hole.addr), "timeouts": timeouts}));
    let begun = Instant::now();
    let answer = world.ask(&world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], "hole", "")));
    assert_about(begun.elapsed(), 300);
    assert_refused(&answer, "upstream_unreachable");
    world.until_idle();
}
