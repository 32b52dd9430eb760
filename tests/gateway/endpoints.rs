//! Several endpoints per model: which is asked first, when another one is asked, and that nothing runs twice.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use obleth_upstream::{Fault, Handle, Options};
use serde_json::{Value, json};

use super::{
    faults::BlackHole,
    http::{Connection, Request, Response},
    process::{Driver, Setup, until},
    refusal::{assert_refused, assert_refused_as},
    world::{ENDPOINTS, Nobody, World, body_of},
};

const MODEL: &str = "spread";

fn sim(fault: Option<Fault>) -> Handle {
    obleth_upstream::spawn(Options { fault, ..Options::default() }).unwrap()
}

fn requests(sim: &Handle) -> u64 {
    sim.counters.stats().requests
}

/// Endpoints `e0`, `e1` … at these addresses, all with the same priority.
fn listed(addresses: &[SocketAddr]) -> Value {
    let entry = |(at, addr)| json!({"name": format!("e{at}"), "api_base": format!("http://{addr}")});
    addresses.iter().enumerate().map(entry).collect()
}

/// A world whose model [`MODEL`] has these endpoints.
fn world(setup: Setup, addresses: &[SocketAddr]) -> (World, String) {
    let world = World::with(setup, Options::default());
    let id = world.new_model(MODEL, json!({"endpoints": listed(addresses)}));
    (world, id)
}

fn request(world: &World, more: &str) -> Request {
    world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], MODEL, more))
}

fn ask(world: &World, id: &str) -> Response {
    let more = if id.len().is_multiple_of(2) { "" } else { r#","stream":true"# };
    world.ask(&request(world, more).header("x-request-id", id))
}

/// Asks until the answer is a 200 that `sim` gave: an edit is in force on every core a moment after it was made.
#[track_caller]
fn until_asked(connection: &mut Connection, world: &World, sim: &Handle) {
    until("the edit is in force", || {
        let before = requests(sim);
        let answer = connection.ask(&request(world, ""));
        assert_eq!(answer.status, 200, "{}", answer.text());
        requests(sim) > before
    });
}

fn the_essentials(driver: Driver) {
    let (busy, good) = (sim(Some(Fault::Status(503))), sim(None));
    let nobody = Nobody::new();
    let setup = Setup::new().cores(1).driver(driver);
    let (mut world, _) = world(setup, &[nobody.addr, busy.addr, good.addr]);
    for number in 0..20 {
        let id = format!("essential-{}", "x".repeat(number));
        assert_eq!(ask(&world, &id).status, 200);
        assert_eq!((busy.counters.count_of(&id), good.counters.count_of(&id)), (1, 1), "{id}");
    }
    let large = body_of(ENDPOINTS[0], MODEL, "").replace("say", &"say ".repeat(250_000));
    let answer = world.ask(&world.post(ENDPOINTS[0], large.clone()).header("x-sim-echo", 1));
    assert!(answer.json()["choices"][0]["message"]["content"].as_str() == Some(&large));
    world.until_idle();
    world.assert_unharmed();
}

#[test]
fn a_request_finds_the_endpoint_that_takes_it_on_io_uring() {
    the_essentials(Driver::Uring);
}

#[test]
fn a_request_finds_the_endpoint_that_takes_it_on_epoll() {
    the_essentials(Driver::Epoll);
}

#[test]
fn the_lowest_priority_number_is_asked_first_and_of_equal_ones_the_first_listed() {
    let sims = [sim(None), sim(None), sim(None)];
    let [last, first, second] = &sims;
    let mut endpoints = listed(&[last.addr, first.addr, second.addr]);
    endpoints[0]["priority"] = 7.into();
    let world = World::start();
    world.new_model(MODEL, json!({"endpoints": endpoints}));
    for number in 0..20 {
        assert_eq!(ask(&world, &"x".repeat(number + 1)).status, 200);
    }
    assert_eq!((requests(first), requests(second), requests(last)), (20, 0, 0));
}

#[test]
fn a_backend_without_room_passes_the_request_on_and_the_last_ones_word_goes_back() {
    let sims = [sim(None), sim(None)];
    let (world, _) = world(Setup::new(), &[sims[0].addr, sims[1].addr]);
    for (theirs, ours, code, wait) in
        [(503, 503, "no_healthy_upstream", None), (429, 429, "upstream_rejected", Some("2"))]
    {
        for endpoint in ENDPOINTS {
            let id = format!("{theirs}:{endpoint}");
            let body = body_of(endpoint, MODEL, "");
            let request = world.post(endpoint, body).header("x-request-id", &id);
            let refused = world.ask(&request.header("x-sim-fault", format!("status-{theirs}")));
            assert_refused_as(&refused, code, ours);
            assert!(
                refused.header("retry-after").is_some()
                    && (wait.is_none() || refused.header("retry-after") == wait)
            );
            for sim in &sims {
                assert_eq!(sim.counters.count_of(&id), 1, "{id}");
            }
        }
    }
    world.until_idle();
    let answered = world.gateway.labelled("obleth_upstream_attempts_total", &["outcome=\"answered\""]);
    assert_eq!(answered, 12.0);
    // Both kept their connections: words that came whole leave a connection usable.
    assert!(sims.iter().all(|sim| sim.counters.stats().connections <= 2));
}

#[test]
fn what_a_full_backend_said_is_told_when_no_other_can_be_reached() {
    let busy = sim(Some(Fault::Status(429)));
    let nobody = Nobody::new();
    let (world, _) = world(Setup::new(), &[busy.addr, nobody.addr]);
    for id in ["first", "second"] {
        let refused = ask(&world, id);
        assert_refused_as(&refused, "upstream_rejected", 429);
        assert_eq!(refused.header("retry-after"), Some("2"));
    }
}

#[test]
fn endpoints_that_cannot_be_reached_are_a_502_once_all_were_tried() {
    let (one, two) = (Nobody::new(), Nobody::new());
    let (world, _) = world(Setup::new().cores(1), &[one.addr, two.addr]);
    for id in ["first", "second"] {
        assert_refused(&ask(&world, id), "upstream_unreachable");
    }
    let tried = world.gateway.labelled("obleth_upstream_attempts_total", &["outcome=\"unreachable\""]);
    assert_eq!(tried, 4.0, "also when they failed a moment ago");
}

/// A backend that takes one connection and no other. A request with `x-hold` is answered when `go` says so.
fn hermit(go: Receiver<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(listener);
        let mut got = Vec::new();
        let mut chunk = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut chunk) {
            got.extend_from_slice(&chunk[..n]);
            if !got.ends_with(b"}") {
                continue;
            }
            if String::from_utf8_lossy(&got).contains("x-hold") {
                go.recv().unwrap();
            }
            got.clear();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{\"by\":\"hermit\"}";
            stream.write_all(answer).unwrap();
        }
    });
    addr
}

#[test]
fn an_endpoint_that_answers_is_asked_first_again_though_it_took_no_connection_a_moment_ago() {
    let (go, gone) = channel();
    let other = sim(None);
    let (world, _) = world(Setup::new().cores(1), &[hermit(gone), other.addr]);
    let by_hermit = |answer: Response| answer.text().contains("hermit");
    assert!(by_hermit(world.ask(&request(&world, ""))));
    let mut held = world.connect();
    held.send(request(&world, "").header("x-hold", 1).bytes());
    until("the only connection is busy", || world.gateway.metric("obleth_in_flight") == 1.0);
    assert!(!by_hermit(world.ask(&request(&world, ""))), "a second connection is refused");
    go.send(()).unwrap();
    assert!(by_hermit(held.response()));
    assert!(by_hermit(world.ask(&request(&world, ""))));
}

#[test]
fn what_may_have_run_is_never_run_elsewhere() {
    let sims = [sim(None), sim(None)];
    let (world, id) = world(Setup::new().cores(1), &[sims[0].addr, sims[1].addr]);
    world.gateway.patch(&format!("/models/{id}"), json!({"timeouts": {"first_byte_ms": 300}}));
    let mut expected = 0;
    for (fault, code) in [
        ("status-500", "upstream_error"),
        ("status-502", "upstream_error"),
        ("status-504", "upstream_error"),
        ("status-401", "upstream_auth"),
        ("status-404", "upstream_not_found"),
        ("die-before-head", "upstream_cut"),
        ("die-after-head", "upstream_cut"),
        ("stall-before-head", "upstream_timeout"),
    ] {
        for more in ["", r#","stream":true"#] {
            let id = format!("{fault}:{}", more.len());
            // Connections that were used before may be tried again; this must not be one.
            let setup = request(&world, more).header("x-sim-fault", "close-idle");
            assert_eq!(world.ask(&setup).status, 200);
            until("the connection is closed", || sims[0].counters.stats().open_connections == 0);
            let asked = request(&world, more).header("x-sim-fault", fault).header("x-request-id", &id);
            assert_eq!(world.ask(&asked).code(), code, "{id}");
            assert_eq!(sims[0].counters.count_of(&id), 1, "{id}");
            expected += 2;
        }
    }
    let refused = world.ask(&request(&world, "").header("x-sim-fault", "status-400"));
    assert_refused_as(&refused, "upstream_rejected", 400);
    assert_eq!((requests(&sims[0]), requests(&sims[1])), (expected + 1, 0));
}

#[test]
fn a_backend_that_goes_away_under_its_pooled_connections_costs_no_request() {
    let (first, second) = (sim(None), sim(None));
    let (world, _) = world(Setup::new(), &[first.addr, second.addr]);
    let mut connections: Vec<Connection> = (0..8).map(|_| world.connect()).collect();
    for connection in &mut connections {
        assert_eq!(connection.ask(&request(&world, "")).status, 200);
    }
    assert_eq!((requests(&first), requests(&second)), (8, 0));
    first.stop();
    for number in 0..40 {
        let id = format!("gone-{number}");
        let connection = &mut connections[number % 8];
        let answer = connection.ask(&request(&world, "").header("x-request-id", &id));
        assert_eq!((answer.status, second.counters.count_of(&id)), (200, 1), "{id}");
    }
}

#[test]
fn a_dead_endpoint_costs_one_request_its_connect_time_and_not_each() {
    const LIMIT: Duration = Duration::from_millis(400);
    let (hole, good) = (BlackHole::new(), sim(None));
    let (world, id) = world(Setup::new().cores(1), &[hole.addr, good.addr]);
    world.gateway.patch(&format!("/models/{id}"), json!({"timeouts": {"connect_ms": 400}}));
    let timed = |id: &str| {
        let begun = Instant::now();
        assert_eq!(ask(&world, id).status, 200);
        begun.elapsed()
    };
    until("the limit is in force", || (LIMIT..LIMIT * 3).contains(&timed("first")));
    let begun = Instant::now();
    let slow = (0..200).filter(|_| timed("next") >= LIMIT).count();
    // One for each two seconds that have passed meanwhile.
    assert!(slow as u64 <= begun.elapsed().as_secs() / 2 + 1, "{slow} in {:?}", begun.elapsed());
}

#[test]
fn a_name_that_does_not_resolve_is_passed_by() {
    let good = sim(None);
    let world = World::start();
    let mut endpoints = listed(&[good.addr, good.addr]);
    endpoints[0]["api_base"] = "http://no-such-host.invalid:8000".into();
    world.new_model(MODEL, json!({"endpoints": endpoints}));
    assert_eq!(ask(&world, "nameless").status, 200);
    assert_eq!(good.counters.count_of("nameless"), 1);
}

#[test]
fn endpoints_are_added_reordered_disabled_and_removed_under_traffic() {
    let (a, b) = (sim(None), sim(None));
    let (world, id) = world(Setup::new().cores(1), &[a.addr]);
    let path = format!("/models/{id}");
    let patch = |endpoints: Value| world.gateway.patch(&path, json!({"endpoints": endpoints}));
    let mut connection = world.connect();
    until_asked(&mut connection, &world, &a);
    let base = format!("http://{}", b.addr);
    patch(json!([{"name": "e0"}, {"name": "new", "api_base": base, "priority": 1}]));
    until_asked(&mut connection, &world, &a);
    assert_eq!(requests(&b), 0, "behind the other one");
    patch(json!([{"name": "e0", "priority": 2}, {"name": "new"}]));
    until_asked(&mut connection, &world, &b);
    patch(json!([{"name": "e0"}, {"name": "new", "enabled": false}]));
    until_asked(&mut connection, &world, &a);
    patch(json!([{"name": "e0"}, {"name": "new", "enabled": true}]));
    until_asked(&mut connection, &world, &b);
    patch(json!([{"name": "e0"}]));
    until_asked(&mut connection, &world, &a);
    patch(json!([{"name": "e0", "enabled": false}]));
    let mut refused = connection.ask(&request(&world, ""));
    until("the last one is disabled", || {
        refused = connection.ask(&request(&world, ""));
        refused.status != 200
    });
    assert_refused(&refused, "no_healthy_upstream");
    assert!(refused.header("retry-after").is_some());
    patch(json!([{"name": "e0", "enabled": true}]));
    until("it is enabled again", || connection.ask(&request(&world, "")).status == 200);
}
