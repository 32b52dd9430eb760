//! Connections to a backend are used again, and one that the backend closed meanwhile costs nobody a request.

use std::time::Duration;

use obleth_upstream::Options;
use serde_json::json;

use super::{
    process::Setup,
    world::{ENDPOINTS, World, body_of},
};

#[test]
fn a_connection_to_the_backend_is_used_again() {
    let world = World::with(Setup::new().cores(1), Options::default());
    let mut connection = world.connect();
    for _ in 0..50 {
        assert_eq!(connection.ask(&world.chat("")).status, 200);
        assert_eq!(connection.ask(&world.chat(r#","stream":true"#)).status, 200);
    }
    assert_eq!(world.sim().connections, 1);
}

#[test]
fn a_backend_that_closes_after_each_answer_costs_no_request() {
    let world = World::start();
    world.change_sim(json!({"fault": "close-idle"}));
    let mut connection = world.connect();
    for number in 0..300 {
        let id = format!("closing-{number}");
        let more = if number % 2 == 0 { "" } else { r#","stream":true"# };
        let answer = connection.ask(&world.chat(more).header("x-request-id", &id));
        assert_eq!(answer.status, 200, "{number}: {}", answer.text());
        assert_eq!(world.sim.counters.count_of(&id), 1);
    }
    assert_eq!(world.sim().completed, 300);
}

#[test]
fn a_backend_that_closes_idle_connections_at_the_very_moment_of_reuse_costs_no_request() {
    // Short, yet longer than a busy machine may keep a fresh connection waiting: the backend would close that, too.
    const IDLE_MS: u64 = 150;
    const WORKERS: u64 = 8;
    const ROUNDS: u64 = 30;
    let world = World::with(Setup::new(), Options { keep_alive_ms: IDLE_MS, ..Options::default() });
    // A model for each worker, so that nobody else uses its connection to the backend meanwhile.
    let models: Vec<String> = (0..WORKERS).map(|worker| format!("model-{worker}")).collect();
    for model in &models {
        world.new_model(model, json!({}));
    }
    std::thread::scope(|scope| {
        for (worker, model) in (0..WORKERS).zip(&models) {
            let world = &world;
            scope.spawn(move || {
                let mut connection = world.connect();
                for number in 0..ROUNDS {
                    // The pauses lie around the moment at which the backend closes; they are the test's subject.
                    let offset = (worker * ROUNDS + number) * 37 % 4000;
                    std::thread::sleep(Duration::from_micros(IDLE_MS * 1000 - 2000 + offset));
                    let id = format!("stale-{worker}-{number}");
                    let more = if number % 3 == 0 { r#","stream":true"# } else { "" };
                    let request = world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], model, more));
                    let answer = connection.ask(&request.header("x-request-id", &id));
                    let ran = world.sim.counters.count_of(&id);
                    assert_eq!((answer.status, ran), (200, 1), "{id}: {}", answer.text());
                }
            });
        }
    });
    assert_eq!((world.sim().completed, world.sim().requests), (WORKERS * ROUNDS, WORKERS * ROUNDS));
    let connections = world.sim().connections;
    assert!(
        (WORKERS + 1..WORKERS * ROUNDS).contains(&connections),
        "some used again, some not: {connections}"
    );
}

#[test]
fn an_idle_connection_is_given_up_before_the_backend_does() {
    let setup = Setup::new().cores(1).env("OBLETH_UPSTREAM_KEEPALIVE_MS", 200);
    let world = World::with(setup, Options::default());
    assert_eq!(world.ask(&world.chat("")).status, 200);
    assert_eq!(world.sim().open_connections, 1);
    super::process::until("the idle connection is closed", || world.sim().open_connections == 0);
}
