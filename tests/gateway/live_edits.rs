//! Edits reach every core of a running gateway within 100 ms of the answer that acknowledged them.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    http::{Connection, Request},
    process::PATIENCE,
    refusal::assert_refused,
    world::{ENDPOINTS, MODEL, World, body_of},
};

/// After an edit was acknowledged, a request sent later than this sees it.
const SPREAD: Duration = Duration::from_millis(100);
/// Enough connections that every shard has some, whichever the kernel picks.
const CONNECTIONS: usize = 48;

/// Open connections that all have been served, so that every shard knows key and model.
pub(crate) fn everywhere(world: &World, request: &Request) -> Vec<Connection> {
    let mut connections: Vec<Connection> = (0..CONNECTIONS).map(|_| world.connect()).collect();
    for connection in &mut connections {
        assert_eq!(connection.ask(request).status, 200);
    }
    connections
}

/// Asks on every connection until each has the new answer; `edited` is when the edit was acknowledged.
#[track_caller]
pub(crate) fn assert_spread(connections: &mut [Connection], request: &Request, edited: Instant, code: &str) {
    for connection in connections {
        loop {
            let asked = Instant::now();
            let answer = connection.ask(request);
            let is_new = if code.is_empty() { answer.status == 200 } else { answer.code() == code };
            if is_new {
                break;
            }
            let age = asked.duration_since(edited);
            assert!(
                age <= SPREAD,
                "{age:?} after the edit: {} {}, not {code:?}",
                answer.status,
                answer.text()
            );
            assert!(edited.elapsed() < PATIENCE);
        }
    }
}

#[test]
fn every_edit_is_in_force_on_every_core_within_100_ms() {
    let world = World::start();
    let gateway = &world.gateway;
    let (tenant, key) = (format!("/tenants/{}", world.tenant_id), format!("/keys/{}", world.key_id));
    let model = format!("/models/{}", world.model_id);
    let request = world.chat("");
    let mut connections = everywhere(&world, &request);
    let edits: [(&str, String, serde_json::Value); 16] = [
        ("key_disabled", format!("{key}/disabled"), json!({"disabled": true})),
        ("", format!("{key}/disabled"), json!({"disabled": false})),
        ("model_not_allowed", format!("{key}/allowlist"), json!({"allowed_models": ["other"]})),
        ("model_not_allowed", format!("{key}/allowlist"), json!({"allowed_models": []})),
        ("", format!("{key}/allowlist"), json!({"allowed_models": [MODEL]})),
        ("", format!("{key}/allowlist"), json!({"allowed_models": null})),
        ("tenant_suspended", format!("{tenant}/status"), json!({"status": "suspended"})),
        ("tenant_suspended", format!("{tenant}/status"), json!({"status": "archived"})),
        ("", format!("{tenant}/status"), json!({"status": "active"})),
        ("model_not_allowed", format!("{tenant}/allowlist"), json!({"allowed_models": []})),
        ("", format!("{tenant}/allowlist"), json!({"allowed_models": null})),
        ("model_not_found", format!("{model}/enabled"), json!({"enabled": false})),
        ("", format!("{model}/enabled"), json!({"enabled": true})),
        ("", format!("{key}/weight"), json!({"weight": 7})),
        ("", format!("{tenant}/weight"), json!({"weight": 300})),
        ("", format!("{model}/capacity"), json!({"max_in_flight": 4})),
    ];
    for (code, path, body) in edits {
        gateway.put(&path, body);
        assert_spread(&mut connections, &request, Instant::now(), code);
    }
    gateway.patch(&model, json!({"model_name": "renamed"}));
    assert_spread(&mut connections, &request, Instant::now(), "model_not_found");
    gateway.patch(&model, json!({"aliases": [MODEL]}));
    assert_spread(&mut connections, &request, Instant::now(), "");
    gateway.delete(&model);
    assert_spread(&mut connections, &request, Instant::now(), "model_not_found");
    world.new_model(MODEL, json!({}));
    assert_spread(&mut connections, &request, Instant::now(), "");
    gateway.delete(&key);
    assert_spread(&mut connections, &request, Instant::now(), "key_deleted");
    let (_, secret) = world.new_key(json!({"name": "second"}));
    let request = Request::post(ENDPOINTS[0], body_of(ENDPOINTS[0], MODEL, "")).key(&secret);
    assert_spread(&mut connections, &request, Instant::now(), "");
    gateway.delete(&tenant);
    assert_spread(&mut connections, &request, Instant::now(), "tenant_not_found");
}

#[test]
fn an_edited_backend_is_used_from_the_next_request_on_and_the_old_one_left() {
    let world = World::start();
    let other = obleth_upstream::spawn(obleth_upstream::Options::default()).unwrap();
    let request = world.chat("");
    let mut connections = everywhere(&world, &request);
    let base = |addr: std::net::SocketAddr| json!({"endpoints": [{"name": "a", "api_base": format!("http://{addr}")}]});
    world.gateway.patch(&format!("/models/{}", world.model_id), base(other.addr));
    let edited = Instant::now();
    while edited.elapsed() < SPREAD {
        assert_eq!(connections[0].ask(&request).status, 200);
    }
    let before = world.sim().requests;
    for connection in &mut connections {
        assert_eq!(connection.ask(&request).status, 200);
    }
    assert_eq!(world.sim().requests, before);
    assert!(other.counters.stats().requests >= CONNECTIONS as u64);
    world.new_model("credited", json!({"api_key": "first-secret"}));
    let request = world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], "credited", ""));
    assert_eq!(world.ask(&request).status, 200);
    let head = || String::from_utf8(world.sim.counters.last_request().head).unwrap();
    assert!(head().contains("Bearer first-secret"));
}

#[test]
fn a_request_that_is_running_is_not_disturbed_by_edits() {
    let world = World::start();
    let mut connection = world.connect();
    let slow = world.chat(r#","stream":true"#).header("x-sim-tps", 50).header("x-sim-tokens", 40);
    connection.send(slow.bytes());
    connection.read_until("\"content\":\"Hello");
    world.gateway.put(&format!("/keys/{}/disabled", world.key_id), json!({"disabled": true}));
    world.gateway.delete(&format!("/models/{}", world.model_id));
    world.gateway.put(&format!("/tenants/{}/status", world.tenant_id), json!({"status": "suspended"}));
    let answer = connection.response();
    assert!(answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
    assert_refused(&connection.ask(&world.chat("")), "key_disabled");
    world.until_idle();
}

#[test]
fn a_new_key_works_at_once_also_where_many_wrong_ones_were_tried() {
    let world = World::start();
    for round in 0..5 {
        for number in 0..40 {
            let wrong = format!("sk_{round:08}{number:040}");
            let request = Request::post(ENDPOINTS[0], body_of(ENDPOINTS[0], MODEL, "")).key(&wrong);
            assert_refused(&world.ask(&request), "invalid_api_key");
        }
        let (_, secret) = world.new_key(json!({"name": format!("key {round}")}));
        for _ in 0..8 {
            let answer =
                world.ask(&Request::post(ENDPOINTS[0], body_of(ENDPOINTS[0], MODEL, "")).key(&secret));
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
}

#[test]
fn an_unknown_key_asks_the_store_once_a_second_and_no_more() {
    let world = World::start();
    let mut connection = world.connect();
    let request = Request::get("/v1/models").key("sk_unknown");
    assert_refused(&connection.ask(&request), "invalid_api_key");
    let (begun, before) = (Instant::now(), world.gateway.metric("obleth_key_cache_misses_total"));
    for _ in 0..300 {
        assert_refused(&connection.ask(&request), "invalid_api_key");
    }
    let asked = world.gateway.metric("obleth_key_cache_misses_total") - before;
    assert!(asked <= begun.elapsed().as_secs_f64() + 1.0, "{asked} in {:?}", begun.elapsed());
}

#[test]
fn a_key_that_a_core_knows_is_looked_up_no_more() {
    let world = World::start();
    let (_, secret) = world.new_key(json!({"name": "fresh"}));
    let mut connections: Vec<Connection> = (0..CONNECTIONS).map(|_| world.connect()).collect();
    let request = Request::post(ENDPOINTS[0], body_of(ENDPOINTS[0], MODEL, "")).key(&secret);
    for connection in &mut connections {
        connection.send(request.bytes());
    }
    for connection in &mut connections {
        assert_eq!(connection.response().status, 200, "all of them wait for the first look-up");
    }
    let figures = || {
        let gateway = &world.gateway;
        (gateway.metric("obleth_key_cache_misses_total"), gateway.metric("obleth_key_cache_hits_total"))
    };
    let (misses, hits) = figures();
    for connection in &mut connections {
        assert_eq!(connection.ask(&request).status, 200);
    }
    assert_eq!(figures(), (misses, hits + CONNECTIONS as f64));
}
