//! The core of what is promised, on every kind of machine: one, two and eight shards, io_uring and epoll.

use std::time::{Duration, Instant};

use obleth_upstream::Options;
use serde_json::json;

use super::{
    disconnects::{EXITS, leave},
    faults::assert_broken_off,
    http::{Connection, Request},
    process::{Driver, Setup, until},
    refusal::assert_refused,
    world::{ENDPOINTS, MODEL, World, body_of},
};

/// So many connections that every one of eight shards gets some.
const CONNECTIONS: usize = 96;

fn everything_essential(cores: u32, driver: Driver) {
    let mut world = World::with(Setup::new().cores(cores).driver(driver), Options::default());
    let name = if driver == Driver::Epoll { "epoll" } else { "io_uring" };
    assert_eq!(world.gateway.labelled("obleth_io_driver", &[&format!("driver=\"{name}\"")]), 1.0);
    let mut connections: Vec<Connection> = (0..CONNECTIONS).map(|_| world.connect()).collect();
    answers_are_those_of_a_direct_call(&world, &mut connections);
    refusals_and_faults(&world, &mut connections);
    edits_reach_every_shard(&world, &mut connections);
    drop(connections);
    leavers_free_everything(&world);
    stale_connections_cost_nothing(&world);
    world.until_idle();
    world.assert_unharmed();
    let begun = Instant::now();
    let World { gateway, .. } = world;
    assert!(gateway.stop().success());
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "an idle gateway drains at once: {:?}",
        begun.elapsed()
    );
}

fn answers_are_those_of_a_direct_call(world: &World, connections: &mut [Connection]) {
    for endpoint in ENDPOINTS {
        for more in ["", r#","stream":true"#, r#","stream":true,"stream_options":{"include_usage":true}"#] {
            let request = world.post(endpoint, body_of(endpoint, MODEL, more));
            let direct = request.to(world.sim.addr);
            for connection in connections.iter_mut() {
                let through = connection.ask(&request);
                assert_eq!((through.status, through.text()), (200, direct.text()));
            }
        }
    }
    let large = body_of(ENDPOINTS[0], MODEL, "").replace("say", &"say ".repeat(200_000));
    for connection in connections.iter_mut().take(16) {
        let answer = connection.ask(&world.post(ENDPOINTS[0], large.clone()).header("x-sim-echo", 1));
        assert!(answer.json()["choices"][0]["message"]["content"].as_str() == Some(&large));
    }
}

fn refusals_and_faults(world: &World, connections: &mut [Connection]) {
    for connection in connections.iter_mut() {
        assert_refused(&connection.ask(&Request::get("/v1/models")), "missing_api_key");
        assert_refused(&connection.ask(&Request::get("/v1/models").key("sk_x")), "invalid_api_key");
        assert_refused(
            &connection.ask(&world.chat("").header("x-sim-fault", "die-after-head")),
            "upstream_cut",
        );
        assert_eq!(connection.ask(&world.chat("")).status, 200);
    }
    for fault in ["die-after-role", "die-after-tokens", "die-before-done"] {
        for _ in 0..16 {
            let answer = world.ask(&world.chat(r#","stream":true"#).header("x-sim-fault", fault));
            assert_broken_off(&answer, "upstream_cut");
        }
    }
}

fn edits_reach_every_shard(world: &World, connections: &mut [Connection]) {
    let path = format!("/keys/{}/disabled", world.key_id);
    for (disabled, status) in [(true, 403), (false, 200)] {
        world.gateway.put(&path, json!({"disabled": disabled}));
        let edited = Instant::now();
        for connection in connections.iter_mut() {
            loop {
                let asked = edited.elapsed();
                if connection.ask(&world.chat("")).status == status {
                    break;
                }
                assert!(asked <= Duration::from_millis(100), "{asked:?}");
            }
        }
    }
}

fn leavers_free_everything(world: &World) {
    let aborted = world.sim().aborted;
    let crowd: Vec<Connection> = (0..60)
        .map(|number| {
            let more = if number % 2 == 0 { "" } else { r#","stream":true"# };
            let paced = world.chat(more).header("x-sim-tps", 10).header("x-sim-tokens", 1000);
            let mut connection = world.connect();
            connection.send(paced.bytes());
            if number % 2 == 1 {
                connection.read_until("\"content\":\"Hello");
            }
            connection
        })
        .collect();
    until("all of them are with the backend", || world.sim().active == 60);
    let left = Instant::now();
    let kept: Vec<_> =
        crowd.into_iter().zip(EXITS.into_iter().cycle()).filter_map(|(c, exit)| leave(c, exit)).collect();
    until("the backend sees all of them leave", || world.sim().aborted == aborted + 60);
    assert!(left.elapsed() <= Duration::from_millis(500), "{:?}", left.elapsed());
    world.until_idle();
    drop(kept);
}

fn stale_connections_cost_nothing(world: &World) {
    world.change_sim(json!({"fault": "close-idle"}));
    let mut connection = world.connect();
    for number in 0..60 {
        let id = format!("stale-{number}");
        let more = if number % 2 == 0 { "" } else { r#","stream":true"# };
        assert_eq!(connection.ask(&world.chat(more).header("x-request-id", &id)).status, 200, "{id}");
        assert_eq!(world.sim.counters.count_of(&id), 1);
    }
    world.change_sim(json!({"fault": null}));
}

#[test]
fn one_shard_on_io_uring() {
    everything_essential(1, Driver::Uring);
}

#[test]
fn one_shard_on_epoll() {
    everything_essential(1, Driver::Epoll);
}

#[test]
fn two_shards_on_io_uring() {
    everything_essential(2, Driver::Uring);
}

#[test]
fn two_shards_on_epoll() {
    everything_essential(2, Driver::Epoll);
}

#[test]
fn eight_shards_on_io_uring() {
    everything_essential(8, Driver::Uring);
}

#[test]
fn eight_shards_on_epoll() {
    everything_essential(8, Driver::Epoll);
}
