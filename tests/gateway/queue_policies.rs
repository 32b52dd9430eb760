//! Who waits, for how long, and what happens instead: limits, brownout, caps, priority.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    http::{Connection, Response},
    process::{Setup, until},
    queue::{line_up, narrow, occupy, queued},
    world::World,
};

/// A refusal of the queue, with advice that an SDK follows.
#[track_caller]
fn assert_told_to_wait(answer: &Response, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (503, code), "{}", answer.text());
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    let millis: u64 = answer.header("retry-after-ms").unwrap().parse().unwrap();
    assert!((1..=59).contains(&seconds) && millis <= 59_000 && millis.div_ceil(1000) == seconds);
    assert_eq!(answer.header("x-should-retry"), None);
}

/// The backend's service time becomes known: so many requests that take so long.
fn warm_up(world: &World, requests: usize, latency_ms: u64) {
    for _ in 0..requests {
        assert_eq!(world.ask(&world.chat("").header("x-sim-latency-ms", latency_ms)).status, 200);
    }
}

fn last_body(world: &World) -> serde_json::Value {
    serde_json::from_slice(&world.sim.counters.last_request().body).unwrap()
}

/// A request waits behind another for as long as `hold` takes, and is then served.
fn served_after(world: &World, mut waiting: Connection, holder: Connection) -> Response {
    drop(holder);
    let answer = waiting.response();
    world.until_idle();
    answer
}

#[test]
fn a_full_queue_refuses_at_once() {
    let world = narrow(Setup::new().env("OBLETH_MAX_QUEUE_DEPTH", 3), 1);
    let _holder = occupy(&world);
    let _waiting: Vec<_> = (0..3).map(|_| line_up(&world, &world.chat(""))).collect();
    assert_told_to_wait(&world.ask(&world.chat("")), "queue_full");
    assert_eq!(queued(&world), 3.0);
}

#[test]
fn one_tenant_does_not_fill_the_queue() {
    let world = narrow(Setup::new().env("OBLETH_MAX_TENANT_QUEUE_DEPTH", 2), 1);
    let _holder = occupy(&world);
    let _waiting: Vec<_> = (0..2).map(|_| line_up(&world, &world.chat(""))).collect();
    assert_told_to_wait(&world.ask(&world.chat("")), "queue_full");
    let (_, other) = tenant(&world, json!({"name": "other"}));
    let _welcome = line_up(&world, &world.chat_of(&other));
}

#[test]
fn nobody_waits_longer_than_the_operator_allows() {
    let world = narrow(Setup::new().env("OBLETH_ADMISSION_TIMEOUT_MS", 300), 1);
    let _holder = occupy(&world);
    let begun = Instant::now();
    assert_told_to_wait(&world.ask(&world.chat("")), "queue_timeout");
    assert!((300..3000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    until("the place is free", || queued(&world) == 0.0);
}

#[test]
fn nobody_waits_longer_than_its_client_does() {
    let world = narrow(Setup::new(), 1);
    let _holder = occupy(&world);
    let begun = Instant::now();
    for header in ["x-stainless-timeout", "x-stainless-read-timeout"] {
        assert_told_to_wait(&world.ask(&world.chat("").header(header, "0.4")), "queue_timeout");
    }
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_deadline_that_cannot_be_met_is_refused_at_once_with_the_time_that_it_takes() {
    let world = narrow(Setup::new(), 1);
    warm_up(&world, 3, 1000);
    let _holder = occupy(&world);
    let _waiting: Vec<_> = (0..4).map(|_| line_up(&world, &world.chat(""))).collect();
    let begun = Instant::now();
    let answer = world.ask(&world.chat("").header("x-stainless-timeout", "2"));
    assert_told_to_wait(&answer, "deadline_unmeetable");
    assert!(begun.elapsed() < Duration::from_secs(1), "at once");
    let advice: u64 = answer.header("retry-after-ms").unwrap().parse().unwrap();
    assert!((3000..=8000).contains(&advice), "four of a second each are in front: {advice}");
}

#[test]
fn a_nonsensical_timeout_says_nothing() {
    let world = narrow(Setup::new(), 1);
    for value in ["NaN", "0", "soon", "inf"] {
        let holder = occupy(&world);
        let waiting = line_up(&world, &world.chat("").header("x-stainless-timeout", value));
        assert_eq!(served_after(&world, waiting, holder).status, 200, "{value}");
    }
}

#[test]
fn a_deadline_in_the_past_is_the_clients_mistake() {
    let world = World::start();
    for header in ["x-stainless-timeout", "X-Stainless-Read-Timeout"] {
        let answer = world.ask(&world.chat("").header(header, "-3"));
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_parameter"));
        assert_eq!(answer.json()["error"]["param"], header.to_ascii_lowercase());
    }
    assert_eq!(world.sim().requests, 0);
}

#[test]
fn a_tenant_that_allows_it_gets_a_shorter_answer_after_a_long_wait() {
    let setup = Setup::new().env("OBLETH_BROWNOUT_WAIT_MS", 50).env("OBLETH_BROWNOUT_MAX_TOKENS", 5);
    let world = narrow(setup, 1);
    world.gateway.put(&format!("/tenants/{}/brownout", world.tenant_id), json!({"brownout": "allow"}));
    for (more, expected) in [
        ("", json!({"max_tokens": 5})),
        (r#","max_tokens":1000"#, json!({"max_tokens": 5})),
        (r#","max_completion_tokens":6"#, json!({"max_completion_tokens": 5})),
    ] {
        let holder = occupy(&world);
        let waiting = line_up(&world, &world.chat(more));
        wait_for(Duration::from_millis(60));
        let answer = served_after(&world, waiting, holder);
        assert_eq!((answer.status, answer.header("x-obleth-degraded")), (200, Some("max_tokens=5")));
        assert_eq!(answer.json()["usage"]["completion_tokens"], 5);
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&last_body(&world)[name], value, "{more}");
        }
    }
    assert_eq!(world.gateway.metric("obleth_degraded_total"), 3.0);
    let holder = occupy(&world);
    let waiting = line_up(&world, &world.chat(r#","max_tokens":3"#));
    wait_for(Duration::from_millis(60));
    let answer = served_after(&world, waiting, holder);
    assert_eq!(answer.header("x-obleth-degraded"), None, "it asked for less");
    let answer = world.ask(&world.chat(""));
    assert_eq!(answer.header("x-obleth-degraded"), None, "it did not wait");
}

#[test]
fn a_tenant_that_says_nothing_waits_and_gets_everything() {
    let world = narrow(Setup::new().env("OBLETH_BROWNOUT_WAIT_MS", 50), 1);
    let holder = occupy(&world);
    let waiting = line_up(&world, &world.chat(r#","max_tokens":1000"#));
    wait_for(Duration::from_millis(60));
    let answer = served_after(&world, waiting, holder);
    assert_eq!((answer.status, answer.header("x-obleth-degraded")), (200, None));
    assert_eq!(last_body(&world)["max_tokens"], 1000);
    assert!(answer.header("x-obleth-queue-ms").unwrap().parse::<u64>().unwrap() >= 60);
}

#[test]
fn a_tenant_that_would_rather_not_wait_is_refused() {
    let world =
        narrow(Setup::new().env("OBLETH_BROWNOUT_WAIT_MS", 200).env("OBLETH_BROWNOUT_DEFAULT", "reject"), 1);
    let _holder = occupy(&world);
    let begun = Instant::now();
    assert_told_to_wait(&world.ask(&world.chat("")), "brownout");
    assert!((200..3000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    drop(_holder);
    world.until_idle();
    warm_up(&world, 2, 1000);
    let _holder = occupy(&world);
    let begun = Instant::now();
    assert_told_to_wait(&world.ask(&world.chat("")), "brownout");
    assert!(begun.elapsed() < Duration::from_millis(200), "at once, now that a wait can be foreseen");
}

#[test]
fn caps_of_tenant_and_key_hold_and_change_while_requests_wait() {
    let world = narrow(Setup::new(), 16);
    world.gateway.patch(&format!("/tenants/{}", world.tenant_id), json!({"max_in_flight": 2}));
    let long = world.chat("").header("x-sim-latency-ms", 60_000);
    let mut open: Vec<_> = (0..2).map(|_| occupy(&world)).collect();
    open.push(line_up(&world, &long));
    let (_, other) = tenant(&world, json!({"name": "other"}));
    assert_eq!(world.ask(&world.chat_of(&other)).status, 200, "others are not held up");
    world.gateway.patch(&format!("/tenants/{}", world.tenant_id), json!({"max_in_flight": null}));
    until("who waited runs", || world.sim().active == 3);
    world.gateway.patch(&format!("/keys/{}", world.key_id), json!({"max_in_flight": 3}));
    until("the edit has arrived", || {
        let probe = line_up_maybe(&world);
        let waits = queued(&world) == 1.0;
        drop(probe);
        until("the probe is gone", || queued(&world) == 0.0 && world.sim().active == 3);
        waits
    });
    drop(open);
    world.until_idle();
}

#[test]
fn priority_comes_from_the_gateway_and_only_for_backends_that_want_it() {
    let world = narrow(Setup::new(), 1);
    world.ask(&world.chat(r#","priority":-7"#));
    assert!(last_body(&world).get("priority").is_none());
    world.gateway.patch(&format!("/models/{}", world.model_id), json!({"sends_priority": true}));
    // One who takes more than its share is behind one who comes for the first time.
    let (_, modest) = tenant(&world, json!({"name": "modest"}));
    let mut seen = Vec::new();
    for _ in 0..6 {
        let holder = occupy(&world);
        let waiting = line_up(&world, &world.chat(r#","priority":-7"#));
        let other = line_up(&world, &world.chat_of(&modest));
        assert_eq!(served_after(&world, waiting, holder).status, 200);
        seen.push(last_body(&world).get("priority").cloned());
        drop(other);
        until("nobody waits", || queued(&world) == 0.0);
    }
    let own: Vec<_> = seen.iter().flatten().collect();
    assert!(!own.is_empty() && own.iter().all(|priority| **priority != -7), "{seen:?}");
}

/// Another tenant and the secret of its key.
fn tenant(world: &World, fields: serde_json::Value) -> (String, String) {
    let tenant = world.gateway.post("/tenants", fields).json();
    let id = tenant["id"].as_str().unwrap().to_owned();
    let key = world.gateway.post(&format!("/tenants/{id}/keys"), json!({"name": "k"})).json();
    (id, key["secret"].as_str().unwrap().to_owned())
}

/// Sends a long request that may or may not have to wait.
fn line_up_maybe(world: &World) -> Connection {
    let (active, waiting) = (world.sim().active, queued(world));
    let mut connection = world.connect();
    connection.send(world.chat("").header("x-sim-latency-ms", 60_000).bytes());
    until("it runs or waits", || world.sim().active > active || queued(world) > waiting);
    connection
}

/// Lets time pass that a test is about.
fn wait_for(time: Duration) {
    std::thread::sleep(time);
}
