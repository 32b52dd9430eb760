//! Backends under TLS: everything that is promised of plain ones, and how connections are made and used again.

use std::time::{Duration, Instant};

use obleth_upstream::{Fault, Options};
use serde_json::json;

use super::{
    authority::Authority,
    cadence::assert_prompt,
    disconnects::{EXITS, leave},
    http::{Connection, End},
    process::{Driver, Setup, until},
    world::{ENDPOINTS, MODEL, World, body_of},
};

/// Until when a backend must know that the client left.
const NOTICE: Duration = Duration::from_millis(250);

fn world_with(setup: Setup, authority: &Authority, options: Options) -> World {
    World::with(setup, Options { tls: Some(authority.tls()), ..options })
}

fn everything_essential(driver: Driver) {
    let authority = Authority::new();
    let mut world = world_with(authority.setup().driver(driver), &authority, Options::default());
    let plain = obleth_upstream::spawn(Options::default()).unwrap();
    let mut connections: Vec<Connection> = (0..16).map(|_| world.connect()).collect();
    for endpoint in ENDPOINTS {
        for more in ["", r#","stream":true"#, r#","stream":true,"stream_options":{"include_usage":true}"#] {
            let request = world.post(endpoint, body_of(endpoint, MODEL, more));
            let direct = request.to(plain.addr);
            for connection in &mut connections {
                let through = connection.ask(&request);
                assert_eq!((through.status, through.text()), (200, direct.text()));
            }
        }
    }
    // Far more than any buffer on the way, in both directions.
    let large = body_of(ENDPOINTS[0], MODEL, "").replace("say", &"say ".repeat(500_000));
    for _ in 0..2 {
        let request = world.post(ENDPOINTS[0], large.clone()).header("x-sim-echo", 1);
        let answer = connections[0].ask(&request);
        assert!(answer.json()["choices"][0]["message"]["content"].as_str() == Some(&large));
    }
    faults_are_those_of_a_plain_backend(&world, &mut connections);
    leavers_are_noticed(&world);
    world.until_idle();
    world.assert_unharmed();
}

fn faults_are_those_of_a_plain_backend(world: &World, connections: &mut [Connection]) {
    for (fault, code) in [
        ("die-after-head", "upstream_cut"),
        ("die-after-tokens", "upstream_cut"),
        ("status-500", "upstream_error"),
    ] {
        for connection in connections.iter_mut() {
            assert_eq!(connection.ask(&world.chat("").header("x-sim-fault", fault)).code(), code);
            assert_eq!(connection.ask(&world.chat("")).status, 200);
        }
    }
    let cut = world.ask(&world.chat(r#","stream":true"#).header("x-sim-fault", "die-after-tokens"));
    assert_eq!((cut.status, cut.end), (200, End::Cut));
    let slow = json!({"timeouts": {"first_byte_ms": 300}});
    world.gateway.patch(&format!("/models/{}", world.model_id), slow);
    let stalled = world.ask(&world.chat("").header("x-sim-fault", "stall-before-head"));
    assert_eq!(stalled.code(), "upstream_timeout");
    world.gateway.patch(&format!("/models/{}", world.model_id), json!({"timeouts": null}));
}

fn leavers_are_noticed(world: &World) {
    for exit in EXITS {
        for more in ["", r#","stream":true"#] {
            let aborted = world.sim().aborted;
            let mut connection = world.connect();
            connection.send(world.chat(more).header("x-sim-tps", 20).header("x-sim-tokens", 1000).bytes());
            until("the request is with the backend", || world.sim().active == 1);
            if !more.is_empty() {
                connection.read_until("\"content\":\"Hello");
            }
            let left = Instant::now();
            let kept = leave(connection, exit);
            until("the backend sees that the client left", || world.sim().aborted == aborted + 1);
            assert!(left.elapsed() <= NOTICE, "{exit:?}: after {:?}", left.elapsed());
            world.until_idle();
            drop(kept);
        }
    }
}

#[test]
fn a_backend_under_tls_is_a_backend_like_others_on_io_uring() {
    everything_essential(Driver::Uring);
}

#[test]
fn a_backend_under_tls_is_a_backend_like_others_on_epoll() {
    everything_essential(Driver::Epoll);
}

#[test]
fn clients_that_leave_at_any_moment_leave_nothing_behind() {
    const LEAVERS: u64 = 400;
    let authority = Authority::new();
    for driver in [Driver::Uring, Driver::Epoll] {
        // New connections all the time, so that many leave during a handshake.
        let setup = authority.setup().driver(driver).env("OBLETH_UPSTREAM_KEEPALIVE_MS", 5);
        let mut world = world_with(setup, &authority, Options::default());
        std::thread::scope(|scope| {
            for worker in 0..8 {
                let world = &world;
                scope.spawn(move || {
                    for number in (worker..LEAVERS).step_by(8) {
                        let more = if number % 3 == 0 { "" } else { r#","stream":true"# };
                        let paced = world.chat(more).header("x-sim-tps", 2000).header("x-sim-tokens", 30);
                        let mut connection = world.connect();
                        connection.send(paced.bytes());
                        // The moment is the test's subject: from before the connect to after the last byte.
                        std::thread::sleep(Duration::from_micros(number * 7919 % 24_000));
                        drop(leave(connection, EXITS[number as usize % 3]));
                    }
                });
            }
        });
        world.until_idle();
        until("no connection is left", || world.sim().open_connections == 0);
        let log = world.gateway.stderr();
        assert!(!log.contains("bug in the gateway") && !log.contains("took no connection"), "{log}");
        world.assert_unharmed();
    }
}

#[test]
fn events_under_tls_leave_when_they_come() {
    let authority = Authority::new();
    assert_prompt(&world_with(authority.setup(), &authority, Options::default()));
}

#[test]
fn a_connection_under_tls_is_used_again_from_the_first_request_on() {
    let authority = Authority::new();
    for driver in [Driver::Uring, Driver::Epoll] {
        let world = world_with(authority.setup().cores(1).driver(driver), &authority, Options::default());
        let mut connection = world.connect();
        for _ in 0..50 {
            assert_eq!(connection.ask(&world.chat("")).status, 200);
            assert_eq!(connection.ask(&world.chat(r#","stream":true"#)).status, 200);
        }
        let stats = world.sim();
        assert_eq!((stats.connections, stats.tls_full, stats.tls_resumed), (1, 1, 0));
    }
}

#[test]
fn a_second_connection_takes_the_first_ones_session_up() {
    let authority = Authority::new();
    let options = Options { fault: Some(Fault::CloseIdle), ..Options::default() };
    let world = world_with(authority.setup().cores(1), &authority, options);
    let mut connection = world.connect();
    for number in 0..20 {
        let id = format!("resumed-{number}");
        let answer = connection.ask(&world.chat("").header("x-request-id", &id));
        assert_eq!((answer.status, world.sim.counters.count_of(&id)), (200, 1), "{id}");
    }
    let stats = world.sim();
    assert_eq!((stats.connections, stats.tls_full, stats.tls_resumed), (20, 1, 19));
}

#[test]
fn the_certificate_may_be_for_a_name_or_an_address() {
    let authority = Authority::new();
    let world = world_with(authority.setup(), &authority, Options::default());
    let port = world.sim.addr.port();
    for host in ["localhost", "127.0.0.1"] {
        world.new_model(host, json!({"api_base": format!("https://{host}:{port}/v1")}));
        let answer = world.ask(&world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], host, "")));
        assert_eq!(answer.status, 200, "{host}: {}", answer.text());
    }
}

#[test]
fn a_backend_of_openssl_is_asked_and_its_connections_are_used_again() {
    let authority = Authority::new();
    let plain = obleth_upstream::spawn(Options::default()).unwrap();
    let Some(front) = super::tls_faults::Nginx::start(&authority, plain.addr) else { return };
    let world = World::with(authority.setup().cores(1), Options::default());
    world.new_model("fronted", json!({"api_base": format!("https://{}", front.addr)}));
    let mut connection = world.connect();
    for more in ["", r#","stream":true"#].into_iter().cycle().take(20) {
        let answer = connection.ask(&world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], "fronted", more)));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(front.connections(), 1);
    let attempts = |outcome: &str| {
        world.gateway.labelled("obleth_upstream_attempts_total", &[&format!("outcome=\"{outcome}\"")])
    };
    assert_eq!((attempts("answered"), attempts("stale")), (20.0, 0.0));
}
