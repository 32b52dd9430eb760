//! The gateway's figures are true: equal to what the client saw and what the backend counted, and of bounded size.

use std::collections::HashMap;

use serde_json::json;

use super::{
    http::Request,
    process::{Driver, Setup, until},
    world::{ENDPOINTS, MODEL, World, body_of, page},
};

/// Every family that is promised, with its type.
const FAMILIES: [(&str, &str); 17] = [
    ("obleth_in_flight", "gauge"),
    ("obleth_queue_depth", "gauge"),
    ("obleth_requests_total", "counter"),
    ("obleth_request_duration_seconds", "histogram"),
    ("obleth_ttft_seconds", "histogram"),
    ("obleth_overhead_seconds", "histogram"),
    ("obleth_input_tokens_total", "counter"),
    ("obleth_output_tokens_total", "counter"),
    ("obleth_rejected_total", "counter"),
    ("obleth_client_closed_total", "counter"),
    ("obleth_upstream_attempts_total", "counter"),
    ("obleth_key_cache_hits_total", "counter"),
    ("obleth_key_cache_misses_total", "counter"),
    ("obleth_shard_busy_ratio", "gauge"),
    ("obleth_worker_restarts_total", "counter"),
    ("obleth_io_driver", "gauge"),
    ("obleth_build_info", "gauge"),
];

#[test]
fn tokens_of_a_backend_that_says_nothing_are_counted_going_by() {
    let world = World::start();
    let answer = world.ask(&world.chat(r#","stream":true,"sim_tokens":37"#).header("x-sim-usage", "none"));
    assert!(answer.text().ends_with("[DONE]\n\n"));
    // Events with choices: the tokens, and perhaps those with role and finish reason.
    let counted = || world.gateway.metric("obleth_output_tokens_total");
    until("its tokens are counted", || counted() >= 37.0);
    assert!(counted() <= 39.0, "{}", counted());
}

#[test]
fn requests_are_counted_once_by_endpoint_status_and_outcome() {
    let world = World::start();
    let unknown = "/v1/attacker-chosen-path";
    let rows: [(Request, &str, &str, &str); 9] = [
        (world.chat(""), ENDPOINTS[0], "200", "ok"),
        (world.post(ENDPOINTS[1], body_of(ENDPOINTS[1], MODEL, "")), ENDPOINTS[1], "200", "ok"),
        (world.post(ENDPOINTS[2], body_of(ENDPOINTS[2], MODEL, "")), ENDPOINTS[2], "200", "ok"),
        (world.post(ENDPOINTS[0], "{"), ENDPOINTS[0], "400", "rejected"),
        (Request::get("/v1/models").key(&world.secret), "/v1/models", "200", "ok"),
        (Request::get("/v1/models"), "/v1/models", "401", "rejected"),
        (Request::get(unknown), "other", "404", "rejected"),
        (world.chat("").header("x-sim-fault", "status-500"), ENDPOINTS[0], "502", "upstream_error"),
        (world.chat("").header("x-sim-fault", "status-422"), ENDPOINTS[0], "422", "rejected"),
    ];
    for (request, endpoint, status, outcome) in rows {
        let labels = [
            format!("endpoint=\"{endpoint}\""),
            format!("status=\"{status}\""),
            format!("outcome=\"{outcome}\""),
        ];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let count = || world.gateway.labelled("obleth_requests_total", &labels);
        let (before, total) = (count(), world.gateway.metric("obleth_requests_total"));
        assert_eq!(world.ask(&request).status.to_string(), status);
        until("it is counted", || count() == before + 1.0);
        assert_eq!(world.gateway.metric("obleth_requests_total"), total + 1.0, "{endpoint} {status}");
    }
    for (code, count) in [("invalid_json", 1.0), ("missing_api_key", 1.0), ("unknown_endpoint", 1.0)] {
        assert_eq!(
            world.gateway.labelled("obleth_rejected_total", &[&format!("code=\"{code}\"")]),
            count,
            "{code}"
        );
    }
    let histogram = "obleth_request_duration_seconds_count";
    until("the durations are there", || world.gateway.metric(histogram) >= 5.0);
    assert!(!world.gateway.metrics_page().contains("attacker"));
    assert!(!world.gateway.metrics_page().contains("sk_"));
}

#[test]
fn the_page_is_what_prometheus_reads() {
    let world = World::start();
    for _ in 0..5 {
        assert_eq!(world.ask(&world.chat(r#","stream":true"#)).status, 200);
    }
    world.until_idle();
    let answer = page(world.gateway.metrics, "/metrics");
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let text = answer.text();
    for (family, kind) in FAMILIES {
        assert_eq!(text.matches(&format!("\n# TYPE {family} {kind}\n")).count(), 1, "{family}\n{text}");
        assert_eq!(text.matches(&format!("# HELP {family} ")).count(), 1, "{family}");
        let series = |line: &str| {
            line.strip_prefix(family).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
        };
        assert!(text.lines().any(series), "{family} has no series");
    }
    let mut seen = HashMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().unwrap().is_finite() && series.starts_with("obleth_"), "{line}");
        assert_eq!(seen.insert(series.to_owned(), ()), None, "twice: {series}");
    }
    for histogram in ["obleth_request_duration_seconds", "obleth_ttft_seconds", "obleth_overhead_seconds"] {
        let buckets: Vec<f64> = text
            .lines()
            .filter(|line| line.starts_with(&format!("{histogram}_bucket{{")))
            .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
            .collect();
        assert!(buckets.len() > 5 && buckets.is_sorted(), "{histogram} {buckets:?}");
        assert_eq!(buckets.last(), Some(&world.gateway.metric(&format!("{histogram}_count"))));
        assert_eq!(buckets.last(), Some(&5.0), "{histogram}");
        assert!(world.gateway.metric(&format!("{histogram}_sum")) > 0.0);
    }
    assert_eq!(world.gateway.metric("obleth_queue_depth"), 0.0);
    assert_eq!(world.gateway.metric("obleth_build_info"), 1.0);
}

#[test]
fn the_driver_and_the_shards_are_shown() {
    for (driver, name, cores) in [(Driver::Uring, "io_uring", 1_u32), (Driver::Epoll, "epoll", 3)] {
        let gateway = Setup::new().cores(cores).driver(driver).start();
        assert_eq!(gateway.labelled("obleth_io_driver", &[&format!("driver=\"{name}\"")]), 1.0, "{name}");
        let page = gateway.metrics_page();
        let shards = page.lines().filter(|line| line.starts_with("obleth_shard_busy_ratio{shard=")).count();
        assert_eq!(shards, cores as usize, "{page}");
    }
}

#[test]
fn health_pages_answer_on_each_listener() {
    let world = World::start();
    let gateway = &world.gateway;
    assert_eq!(page(gateway.metrics, "/livez").status, 200);
    assert_eq!(page(gateway.metrics, "/readyz").status, 200);
    assert_eq!(page(gateway.data, "/health").json(), json!({"status": "ok"}));
    let health = page(gateway.admin, "/api/v1/health");
    let expected = json!({"status": "ok", "store": "ok", "redis": "disabled", "postgres": "disabled"});
    assert_eq!((health.status, health.json()), (200, expected));
    assert_eq!(page(gateway.admin, "/api/v1/stats").status, 401);
    let mut connection = world.connect();
    connection.send(world.chat(r#","stream":true"#).header("x-sim-fault", "stall-before-head").bytes());
    until("one is in flight", || gateway.get("/stats").json()["in_flight"] == 1);
    let stats = gateway.get("/stats").json();
    assert_eq!((stats["queued"].clone(), stats["max_in_flight"].clone()), (json!(0), json!(100_000)));
    let pool = json!({"model": MODEL, "in_flight": 1, "queued": 0, "max_in_flight": 10_000});
    assert_eq!(stats["pools"], json!([pool]));
    assert_eq!(gateway.metric("obleth_in_flight"), 1.0);
    connection.close();
    until("none is", || gateway.get("/stats").json()["in_flight"] == 0);
    let version = gateway.get("/version").json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert!(version["commit"].is_string());
}
