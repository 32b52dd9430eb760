//! The ledger of a running gateway: every request of a key has one row, and the row says what happened.

use obleth_upstream::Options;
use serde_json::{Value, json};

use super::{
    http::{Connection, Request},
    process::{Driver, Setup, until},
    world::{ENDPOINTS, MODEL, Nobody, World, body_of},
};

/// What the simulated backend counts for a prompt and its default answer is its own affair; this is more than any.
const MANY: u64 = 1000;

impl World {
    /// Every row there is, newest first.
    pub(crate) fn rows(&self) -> Vec<Value> {
        let answer = self.gateway.get("/usage/logs?limit=1000");
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_value(answer.json()).unwrap()
    }

    /// The one row of a request, once it is there.
    #[track_caller]
    pub(crate) fn row(&self, request_id: &str) -> Value {
        let mut found = Vec::new();
        until(&format!("{request_id} is in the ledger"), || {
            found = self.rows().into_iter().filter(|row| row["request_id"] == request_id).collect();
            !found.is_empty()
        });
        assert_eq!(found.len(), 1, "{request_id} has one row: {found:#?}");
        found.remove(0)
    }
}

fn named(request: Request, id: &str) -> Request {
    request.header("x-request-id", id)
}

/// Members of a row that a test states, as one object.
fn said(row: &Value, like: &Value) -> Value {
    like.as_object().unwrap().keys().map(|name| (name.clone(), row[name].clone())).collect()
}

#[track_caller]
fn assert_row(world: &World, id: &str, like: Value) -> Value {
    let row = world.row(id);
    assert_eq!(said(&row, &like), like, "{row:#}");
    row
}

#[test]
fn a_completed_request_has_a_row_with_what_the_backend_counted_and_what_it_cost() {
    let world = World::start();
    world.gateway.patch(
        &format!("/models/{}", world.model_id),
        json!({"prices": {"input_micro_usd": 1_000_000, "output_micro_usd": 2_000_000}}),
    );
    for endpoint in ENDPOINTS {
        for stream in [false, true] {
            if stream && endpoint == ENDPOINTS[2] {
                continue;
            }
            let before = world.sim();
            let id = format!("{endpoint}-{stream}").replace('/', "-");
            let more = if stream { r#","stream":true"# } else { "" };
            let request = world.post(endpoint, body_of(endpoint, MODEL, more)).header("x-session-id", "s-1");
            assert_eq!(world.ask(&named(request, &id)).status, 200);
            let after = world.sim();
            let input = after.prompt_tokens - before.prompt_tokens;
            let output = after.completion_tokens - before.completion_tokens;
            let row = assert_row(
                &world,
                &id,
                json!({
                    "tenant_id": world.tenant_id, "key_id": world.key_id, "model_id": world.model_id,
                    "model": MODEL, "group_name": "default", "endpoint": endpoint, "status": 200, "outcome": "ok",
                    "code": null, "input_tokens": input, "output_tokens": output,
                    "cached_input_tokens": 0, "usage_source": "upstream", "cost_micro_usd": input + 2 * output,
                    "price_version": 1, "streamed": stream, "retries": 0, "session_id": "s-1",
                }),
            );
            assert!(row["ttft_ms"].as_u64() <= row["total_ms"].as_u64(), "{row:#}");
            assert!(row["overhead_us"].is_u64() && row["upstream_id"].is_string(), "{row:#}");
        }
    }
}

#[test]
fn what_has_no_price_has_no_cost() {
    let world = World::start();
    assert_eq!(world.ask(&named(world.chat(""), "unpriced")).status, 200);
    assert_row(&world, "unpriced", json!({"outcome": "ok", "cost_micro_usd": null, "price_version": null}));
    assert_eq!(world.gateway.metric("obleth_unpriced_requests_total"), 1.0);
}

#[test]
fn refusals_have_rows_from_the_credential_on_and_none_before_it() {
    let world = World::start();
    let (disabled, secret) = world.new_key(json!({"name": "off"}));
    world.gateway.put(&format!("/keys/{disabled}/disabled"), json!({"disabled": true}));
    world.new_model("down", json!({"api_base": format!("http://{}", Nobody::new().addr)}));
    let body = |model| body_of(ENDPOINTS[0], model, "");
    let rows = [
        ("disabled", world.chat_of(&secret), 403, "rejected", json!("key_disabled"), Value::Null),
        ("broken", world.post(ENDPOINTS[0], "{"), 400, "rejected", json!("invalid_json"), Value::Null),
        (
            "unknown",
            world.post(ENDPOINTS[0], body("nil")),
            404,
            "rejected",
            json!("model_not_found"),
            Value::Null,
        ),
        (
            "busy",
            world.chat("").header("x-sim-fault", "status-422"),
            422,
            "rejected",
            json!("upstream_rejected"),
            json!(MODEL),
        ),
        (
            "failed",
            world.chat("").header("x-sim-fault", "status-500"),
            502,
            "upstream_error",
            json!("upstream_error"),
            json!(MODEL),
        ),
        ("models", Request::get("/v1/models").key(&world.secret), 200, "ok", Value::Null, Value::Null),
    ];
    for (id, request, status, outcome, code, model) in rows {
        assert_eq!(world.ask(&named(request, id)).status, status, "{id}");
        let zero =
            json!({"input_tokens": 0, "output_tokens": 0, "usage_source": null, "cost_micro_usd": null});
        let mut like = json!({"status": status, "outcome": outcome, "code": code, "model": model});
        like.as_object_mut().unwrap().extend(zero.as_object().unwrap().clone());
        assert_row(&world, id, like);
    }
    let count = world.rows().len();
    for request in [
        Request::get("/v1/models"),
        Request::get("/v1/models").key("sk_000000000000000000000000000000000000000000000000"),
        Request::get("/nowhere").key(&world.secret),
        Request::get("/health"),
    ] {
        assert!(world.ask(&named(request, "nobody")).status != 0);
    }
    assert_eq!(world.ask(&named(world.chat(""), "after")).status, 200);
    world.row("after");
    assert_eq!(world.rows().len(), count + 1, "what no key made has no row");
}

fn broken_answers_are_charged_for_what_was_generated(driver: Driver) {
    let setup = Setup::new().driver(driver).env("OBLETH_UPSTREAM_IDLE_TIMEOUT_MS", 300);
    let world = World::with(setup, Options::default());
    let stream = |fault| world.chat(r#","stream":true,"sim_tokens":50"#).header("x-sim-fault", fault);
    for (id, fault, outcome, code) in [
        ("cut", "die-after-tokens", "upstream_cut", "upstream_cut"),
        ("stalled", "stall-after-tokens", "timeout", "upstream_timeout"),
    ] {
        world.ask(&named(stream(fault), id));
        let row = assert_row(
            &world,
            id,
            json!({"status": 200, "outcome": outcome, "code": code, "usage_source": "counted"}),
        );
        let (input, output) = (row["input_tokens"].as_u64().unwrap(), row["output_tokens"].as_u64().unwrap());
        assert!((1..50).contains(&output) && (1..MANY).contains(&input), "{row:#}");
    }
    world.ask(&named(world.chat("").header("x-sim-fault", "die-before-head"), "never"));
    let row = assert_row(
        &world,
        "never",
        json!({"status": 502, "outcome": "upstream_cut", "usage_source": "estimated", "output_tokens": 0}),
    );
    assert!((1..MANY).contains(&row["input_tokens"].as_u64().unwrap()), "it may have run: {row:#}");
}

#[test]
fn broken_answers_are_charged_for_what_was_generated_on_io_uring() {
    broken_answers_are_charged_for_what_was_generated(Driver::Uring);
}

#[test]
fn broken_answers_are_charged_for_what_was_generated_on_epoll() {
    broken_answers_are_charged_for_what_was_generated(Driver::Epoll);
}

#[test]
fn a_client_that_leaves_is_charged_for_what_was_generated_and_no_more() {
    let world = World::start();
    let request = named(world.chat(r#","stream":true,"sim_tokens":500"#).header("x-sim-tps", 50), "left");
    let mut connection = world.connect();
    connection.send(request.bytes());
    connection.read_until("\"content\":\" from");
    connection.close();
    let row = assert_row(
        &world,
        "left",
        json!({"status": 499, "outcome": "client_gone", "usage_source": "counted"}),
    );
    world.until_idle();
    let (charged, sent) = (row["output_tokens"].as_u64().unwrap(), world.sim().completion_tokens);
    assert!((2..=sent + 2).contains(&charged), "{charged} of {sent}: {row:#}");

    let waiting = named(world.chat("").header("x-sim-fault", "stall-before-head"), "early");
    let mut connection = world.connect();
    connection.send(waiting.bytes());
    until("it is in flight", || world.gateway.metric("obleth_in_flight") == 1.0);
    connection.close();
    assert_row(
        &world,
        "early",
        json!({"status": 499, "outcome": "client_gone", "usage_source": "estimated", "output_tokens": 0}),
    );
}

#[test]
fn a_client_that_closes_after_the_last_event_has_a_row_of_success() {
    let world = World::start();
    for round in 0..20 {
        let id = format!("done-{round}");
        let mut connection = Connection::open(world.gateway.data);
        connection.send(named(world.chat(r#","stream":true"#), &id).bytes());
        connection.read_until("data: [DONE]\n\n");
        connection.reset();
        assert_row(&world, &id, json!({"status": 200, "outcome": "ok", "usage_source": "upstream"}));
    }
}

#[test]
fn waiting_and_shorter_answers_show_in_the_row() {
    let setup = Setup::new().env("OBLETH_BROWNOUT_WAIT_MS", 100).env("OBLETH_BROWNOUT_MAX_TOKENS", 3);
    let world = World::with(setup, Options::default());
    world.gateway.put(&format!("/models/{}/capacity", world.model_id), json!({"max_in_flight": 1}));
    let hold = |time_ms: u32| {
        let mut connection = world.connect();
        connection
            .send(world.chat(r#","stream":true,"sim_tokens":2"#).header("x-sim-latency-ms", time_ms).bytes());
        until("the slot is taken", || world.gateway.metric("obleth_in_flight") == 1.0);
        connection
    };
    let _holder = hold(60);
    assert_eq!(world.ask(&named(world.chat(""), "waited")).status, 200);
    let row = assert_row(&world, "waited", json!({"admission": "queued", "outcome": "ok"}));
    assert!(row["queue_ms"].as_u64().unwrap() > 0, "{row:#}");

    world.until_idle();
    world.gateway.put(&format!("/tenants/{}/brownout", world.tenant_id), json!({"brownout": "allow"}));
    let _holder = hold(300);
    assert_eq!(world.ask(&named(world.chat(""), "shorter")).status, 200);
    let row = assert_row(&world, "shorter", json!({"admission": "degraded", "outcome": "ok"}));
    assert!(
        row["queue_ms"].as_u64().unwrap() >= 100 && row["output_tokens"].as_u64().unwrap() <= 3,
        "{row:#}"
    );

    world.until_idle();
    world.gateway.put(&format!("/models/{}/capacity", world.model_id), json!({"max_in_flight": 0}));
    assert_eq!(world.ask(&named(world.chat(""), "closed")).status, 503);
    assert_row(
        &world,
        "closed",
        json!({"admission": "rejected", "outcome": "rejected", "code": "pool_closed", "status": 503}),
    );
}

#[test]
fn tries_at_other_backends_are_counted_in_the_row() {
    let world = World::start();
    let dead = Nobody::new();
    let endpoints = json!([
        {"name": "dead", "api_base": format!("http://{}", dead.addr)},
        {"name": "well", "api_base": world.sim.url(), "priority": 1},
    ]);
    world.new_model("two", json!({"endpoints": endpoints}));
    let request = world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], "two", ""));
    assert_eq!(world.ask(&named(request, "moved-on")).status, 200);
    assert_row(&world, "moved-on", json!({"outcome": "ok", "retries": 1, "usage_source": "upstream"}));
}

#[test]
fn rows_outlive_the_process_that_wrote_them() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Setup::new().data_dir(folder.path()).env("OBLETH_NODE", "gpu-7");
    let mut world = World::with(setup, Options::default());
    assert_eq!(world.ask(&named(world.chat(""), "whole")).status, 200);
    let mut connection = world.connect();
    connection.send(
        named(world.chat(r#","stream":true"#).header("x-sim-fault", "stall-after-tokens"), "torn").bytes(),
    );
    connection.read_until("\"content\":\" from");
    world.gateway.signal(rustix::process::Signal::KILL);
    world.gateway.wait();
    // Its log knows what the node is called.
    world.gateway = Setup::new().data_dir(folder.path()).start();
    assert_row(&world, "whole", json!({"outcome": "ok", "status": 200, "node": "gpu-7"}));
    let row = assert_row(
        &world,
        "torn",
        json!({
            "outcome": "gateway_lost", "status": 0, "usage_source": "estimated", "model": MODEL, "node": "gpu-7",
        }),
    );
    assert!((1..MANY).contains(&row["input_tokens"].as_u64().unwrap()), "{row:#}");
    // Not again at the next start.
    world.gateway.signal(rustix::process::Signal::TERM);
    world.gateway.wait();
    world.gateway = Setup::new().data_dir(folder.path()).start();
    assert_row(&world, "torn", json!({"outcome": "gateway_lost"}));
    assert_eq!(world.rows().len(), 2);
}
