//! Gate 13: what a backend's refusal becomes, and what of the backend never gets out.

use obleth_upstream::Options;
use serde_json::json;

use super::{
    http::Response,
    process::Setup,
    refusal::{assert_refused, assert_refused_as},
    world::{ENDPOINTS, MODEL, Nobody, World, body_of},
};

/// Both ways to ask each endpoint.
fn ways() -> impl Iterator<Item = (&'static str, String)> {
    ENDPOINTS
        .into_iter()
        .flat_map(|endpoint| ["", r#","stream":true"#].map(|more| (endpoint, body_of(endpoint, MODEL, more))))
}

/// Nothing of the backend's place is in an answer.
#[track_caller]
fn assert_discreet(world: &World, answer: &Response) {
    let headers: String = answer.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    let said = headers + &answer.text();
    let address = world.sim.addr.to_string();
    let port = format!(":{}", world.sim.addr.port());
    for place in [address.as_str(), &port, "127.0.0.1", "10.1.2.3", "http://", "/usr/lib", "obleth-sim"] {
        assert!(!said.contains(place), "{place} in {said}");
    }
}

#[test]
fn each_status_of_a_backend_has_its_own_meaning() {
    let world = World::start();
    let table = [
        (400, 400, "upstream_rejected"),
        (401, 502, "upstream_auth"),
        (402, 502, "upstream_error"),
        (403, 502, "upstream_auth"),
        (404, 502, "upstream_not_found"),
        (409, 409, "upstream_rejected"),
        (413, 413, "upstream_rejected"),
        (415, 415, "upstream_rejected"),
        (418, 502, "upstream_error"),
        (422, 422, "upstream_rejected"),
        (429, 429, "upstream_rejected"),
        (500, 502, "upstream_error"),
        (502, 502, "upstream_error"),
        (503, 503, "no_healthy_upstream"),
        (504, 502, "upstream_error"),
    ];
    let mut connection = world.connect();
    for (theirs, ours, code) in table {
        for (endpoint, body) in ways() {
            let request = world.post(endpoint, body).header("x-sim-fault", format!("status-{theirs}"));
            let refused = connection.ask(&request);
            assert_refused_as(&refused, code, ours);
            assert_discreet(&world, &refused);
            let wait = (theirs == 429).then_some("2");
            if wait.is_some() {
                assert_eq!(refused.header("retry-after"), wait);
            }
        }
    }
    assert_eq!(connection.ask(&world.chat("")).status, 200);
    world.until_idle();
}

#[test]
fn the_message_of_a_refusal_arrives_without_the_addresses_in_it() {
    let world = World::start();
    let ask = |fault: &str| {
        let answer = world.ask(&world.chat("").header("x-sim-fault", fault));
        answer.json()["error"]["message"].as_str().unwrap().to_owned()
    };
    let message = ask("status-400");
    assert!(message.starts_with("This model's maximum context length is 4096 tokens"), "{message}");
    assert!(!message.contains("10.1.2.3") && !message.contains("://"), "{message}");
    assert_eq!(ask("status-429"), "Too many requests.");
    assert!(!ask("status-500").contains("EngineDeadError"));
}

#[test]
fn a_backend_that_is_not_there_is_a_502() {
    let world = World::start();
    let nobody = Nobody::new();
    world.new_model("gone", json!({"api_base": format!("http://{}", nobody.addr)}));
    for endpoint in ENDPOINTS {
        for more in ["", r#","stream":true"#] {
            let refused = world.ask(&world.post(endpoint, body_of(endpoint, "gone", more)));
            assert_refused(&refused, "upstream_unreachable");
            assert_discreet(&world, &refused);
        }
    }
    world.until_idle();
    assert!(world.gateway.labelled("obleth_upstream_attempts_total", &["outcome=\"unreachable\""]) >= 6.0);
}

#[test]
fn a_fresh_connection_that_dies_is_a_502_and_the_request_is_not_repeated() {
    let world = World::start();
    for (number, (endpoint, body)) in ways().enumerate() {
        let id = format!("dies-{number}");
        let request =
            world.post(endpoint, body).header("x-sim-fault", "die-before-head").header("x-request-id", &id);
        let refused = world.ask(&request);
        assert_refused(&refused, "upstream_cut");
        assert_discreet(&world, &refused);
        assert_eq!(world.sim.counters.count_of(&id), 1);
    }
    world.until_idle();
}

#[test]
fn the_gateways_own_credential_is_checked_by_the_backend_and_never_shown() {
    let options = Options { api_key: Some("upstream-secret-1".to_owned()), ..Options::default() };
    let world = World::with(Setup::new(), options);
    assert_refused(&world.ask(&world.chat("")), "upstream_auth");
    world.new_model("credited", json!({"api_key": "upstream-secret-1"}));
    let answer = world.ask(&world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], "credited", "")));
    assert_eq!(answer.status, 200);
    let models = world.gateway.get("/models").text();
    assert!(!models.contains("upstream-secret-1") && models.contains("\"has_api_key\":true"), "{models}");
    assert!(!world.gateway.stderr().contains("upstream-secret-1"));
    assert!(!world.gateway.stderr().contains(&world.secret));
}

#[test]
fn a_plain_upstream_serves_models_that_name_none() {
    let sim =
        obleth_upstream::spawn(Options { api_key: Some("default-secret".to_owned()), ..Options::default() })
            .unwrap();
    let setup = Setup::new()
        .env("OBLETH_UPSTREAM_BASE_URL", format!("http://{}/v1", sim.addr))
        .env("OBLETH_UPSTREAM_API_KEY", "default-secret");
    let world = World::around(setup.start(), sim);
    let created = world.gateway.post("/models", json!({"model_name": "placeless"}));
    assert_eq!(created.status, 201, "{}", created.text());
    let answer = world.ask(&world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], "placeless", "")));
    assert_eq!(answer.status, 200, "{}", answer.text());
}
