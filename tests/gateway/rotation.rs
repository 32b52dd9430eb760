//! Rotated keys: the new secret at once, the old one to the end of its grace and not a moment longer.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::{
    http::Request,
    live_edits::{assert_spread, everywhere},
    process::{Driver, Setup, until},
    refusal::assert_refused,
    store_outage::toggle_tables,
    world::{ENDPOINTS, World, chat},
};

fn unix_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

fn with(secret: &str) -> Request {
    Request::post(ENDPOINTS[0], chat("")).key(secret)
}

#[test]
fn the_old_secret_stops_on_every_core_at_the_millisecond_that_was_named() {
    for driver in [Driver::Uring, Driver::Epoll] {
        let world = World::with(Setup::new().driver(driver), obleth_upstream::Options::default());
        let old = with(&world.secret);
        let mut connections = everywhere(&world, &old);
        let (secret, ends_at) = world.rotate(2);
        let ends_at = ends_at.unwrap();
        assert_eq!(world.ask(&with(&secret)).status, 200);
        let mut within = 0;
        // Each core has the key in its cache when the end comes.
        while unix_ms() <= ends_at {
            for connection in &mut connections {
                let sent = unix_ms();
                let answer = connection.ask(&old);
                match answer.status {
                    200 => {
                        assert!(sent < ends_at, "served {} ms after its end", sent - ends_at);
                        within += 1;
                    }
                    _ => {
                        assert_refused(&answer, "invalid_api_key");
                        assert!(unix_ms() >= ends_at, "ended {} ms too soon", ends_at - unix_ms());
                    }
                }
            }
        }
        assert!(within >= connections.len(), "only {within} requests came within the grace");
        for connection in &mut connections {
            assert_refused(&connection.ask(&old), "invalid_api_key");
        }
        let shown = world.gateway.get(&format!("/keys/{}", world.key_id)).json();
        assert!(shown["previous_secret_ends_at"].is_null(), "{shown}");
        assert_eq!(world.ask(&with(&secret)).status, 200);
    }
}

#[test]
fn without_grace_the_old_secret_is_unknown_on_every_core_when_the_answer_comes() {
    let world = World::start();
    let old = with(&world.secret);
    let mut connections = everywhere(&world, &old);
    let (secret, ends_at) = world.rotate(0);
    let rotated = Instant::now();
    assert_eq!(ends_at, None);
    assert_spread(&mut connections, &old, rotated, "invalid_api_key");
    for connection in &mut connections {
        assert_eq!(connection.ask(&with(&secret)).status, 200);
    }
}

#[test]
fn an_edit_holds_for_every_secret_of_the_key() {
    let world = World::start();
    let first = with(&world.secret);
    let mut connections = everywhere(&world, &first);
    let (second, _) = world.rotate(600);
    let (third, _) = world.rotate(600);
    let all = [first, with(&second), with(&third)];
    for request in &all {
        assert_spread(&mut connections, request, Instant::now(), "");
    }
    let path = format!("/keys/{}", world.key_id);
    for (code, edit) in [
        ("key_disabled", json!({"disabled": true})),
        ("model_not_allowed", json!({"disabled": false, "allowed_models": []})),
        ("", json!({"allowed_models": null})),
    ] {
        world.gateway.patch(&path, edit);
        let edited = Instant::now();
        all.iter().for_each(|request| assert_spread(&mut connections, request, edited, code));
    }
    world.gateway.delete(&path);
    let edited = Instant::now();
    all.iter().for_each(|request| assert_spread(&mut connections, request, edited, "key_deleted"));
}

#[test]
fn an_outage_of_the_store_does_not_bring_an_ended_secret_back() {
    let setup = Setup::new().env("OBLETH_KEY_MAX_AGE_MS", 200);
    let world = World::with(setup, obleth_upstream::Options::default());
    let first = with(&world.secret);
    let mut connections = everywhere(&world, &first);
    let (second, ends_at) = world.rotate(2);
    let second = with(&second);
    for connection in &mut connections {
        assert_eq!(connection.ask(&first).status, 200);
        assert_eq!(connection.ask(&second).status, 200);
    }
    toggle_tables(&world);
    until("the grace is over", || {
        let sent = unix_ms();
        let answer = connections[0].ask(&first);
        assert!(answer.status != 200 || sent < ends_at.unwrap(), "served after its end");
        answer.status == 401
    });
    for connection in &mut connections {
        assert_refused(&connection.ask(&first), "invalid_api_key");
        assert_eq!(connection.ask(&second).status, 200, "the newest secret goes on");
    }
    toggle_tables(&world);
    until("the store is well again", || world.rotate_status(0) == 201);
    toggle_tables(&world);
    for connection in &mut connections {
        for ended in [&first, &second] {
            assert_refused(&connection.ask(ended), "invalid_api_key");
        }
    }
}

#[test]
fn a_grace_outlives_the_process_and_the_pepper_holds_for_every_secret() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new().data_dir(&dir.path().join("data")).env("OBLETH_API_KEY_PEPPER", "pepper-1");
    let world = World::with(setup.clone(), obleth_upstream::Options::default());
    let (second, _) = world.rotate(600);
    let both = [with(&world.secret), with(&second)];
    both.iter().for_each(|request| assert_eq!(world.ask(request).status, 200));
    let World { gateway, sim: _sim, .. } = world;
    gateway.stop();
    let gateway = setup.clone().start();
    both.iter().for_each(|request| assert_eq!(request.to(gateway.data).status, 200));
    gateway.stop();
    let gateway = setup.env("OBLETH_API_KEY_PEPPER", "pepper-2").start();
    both.iter().for_each(|request| assert_refused(&request.to(gateway.data), "invalid_api_key"));
}
