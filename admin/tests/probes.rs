//! The metrics listener, and the sidecar's end.

mod running;

use std::time::{Duration, Instant};

use obleth_link::{Attempt, Command, Driver, Phase};
use obleth_policy::{
    outcome::{Code, Ending, Reject},
    route::Route,
};
use running::{Answer, Running, Shard, send};

fn probe(sidecar: &Running, path: &str) -> Answer {
    send(sidecar.metrics, ("GET", path), &[], b"")
}

/// A shard that answers pings until it is told to drain.
fn answer_pings(shard: Shard) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        loop {
            match shard.next() {
                Command::Ping(number) => shard.0.beat(number),
                Command::Drain => return,
                _ => {}
            }
        }
    })
}

#[test]
fn live_means_that_every_shard_answers() {
    let sidecar = Running::start();
    let first = answer_pings(sidecar.shards[0].clone());
    let answer = probe(&sidecar, "/livez");
    assert_eq!((answer.status, answer.refusal().0.as_str()), (503, "not_live"));
    assert!(answer.body.contains("shard 1."), "{}", answer.body);
    sidecar.shards[1].0.gauges().set_missing(true);
    assert_eq!(probe(&sidecar, "/livez").status, 200, "it is started again when its time has come");
    assert_eq!(probe(&sidecar, "/readyz").status, 503);
    sidecar.shards[1].0.gauges().set_missing(false);
    assert_eq!(probe(&sidecar, "/livez").status, 503);
    let second = answer_pings(sidecar.shards[1].clone());
    for _ in 0..20 {
        let answer = probe(&sidecar, "/livez");
        assert_eq!((answer.status, &*answer.body), (200, r#"{"status":"ok"}"#));
    }
    drop(sidecar);
    drop((first, second));
}

#[test]
fn ready_means_that_every_shard_accepts_and_nobody_is_leaving() {
    let sidecar = Running::start();
    sidecar.shards[0].0.gauges().start_serving(Driver::IoUring);
    let answer = probe(&sidecar, "/readyz");
    assert_eq!((answer.status, answer.refusal().0.as_str()), (503, "not_ready"));
    assert!(answer.body.contains("shard 1."), "{}", answer.body);
    sidecar.shards[1].0.gauges().start_serving(Driver::Epoll);
    assert_eq!(probe(&sidecar, "/readyz").body, r#"{"status":"ok"}"#);
    sidecar.shards[1].0.gauges().stop_serving();
    assert_eq!(probe(&sidecar, "/readyz").status, 503);
}

#[test]
fn metrics_have_the_names_of_the_contract_and_add_up_over_shards() {
    let sidecar = Running::start();
    let model = r#"{"model_name":"m","api_base":"http://127.0.0.1:1"}"#;
    sidecar.expect(201, ("POST", "/models"), model);
    let Command::Snapshot(snapshot) = sidecar.shards[0].next() else { panic!("no snapshot") };
    let pool = snapshot.models()[0].pool;
    for shard in &sidecar.shards {
        let gauges = shard.0.gauges();
        gauges.start_serving(Driver::IoUring);
        gauges.in_flight.add(2);
        gauges.queued.add(3);
        gauges.pool_in_flight(pool).unwrap().add(2);
        gauges.pool_queued(pool).unwrap().add(3);
        gauges.queue_wait.record(250, 250_000);
        gauges.degraded.add(1);
        gauges.requests(Route::Chat, Ending::OK).unwrap().add(3);
        for (code, count) in [(Code::InvalidApiKey, 1), (Code::MissingApiKey, 1), (Code::UpstreamRejected, 5)]
        {
            gauges.requests(Route::Chat, Ending::refused(&Reject::from(code))).unwrap().add(count);
        }
        gauges.requests(Route::Chat, Ending::failed_after_head(Code::UpstreamCut)).unwrap().add(1);
        gauges.duration.record(5, 4_500);
        gauges.duration.record(u64::MAX, 1_000_000);
        gauges.overhead.record(7, 6_500);
        gauges.output_tokens.add(10);
        gauges.client_closed(Phase::FirstByte).unwrap().add(1);
        gauges.attempts(Attempt::Stale).unwrap().add(1);
    }
    let answer = probe(&sidecar, "/metrics");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let lines: Vec<&str> = answer.body.lines().collect();
    let expected = [
        "obleth_in_flight 4",
        "obleth_queue_depth 6",
        r#"obleth_pool_in_flight{model="m"} 4"#,
        r#"obleth_pool_queue_depth{model="m"} 6"#,
        r#"obleth_tenant_served_tokens_total{tenant="other"} 0"#,
        "obleth_degraded_total 2",
        r#"obleth_queue_wait_seconds_bucket{le="0.1"} 0"#,
        r#"obleth_queue_wait_seconds_bucket{le="0.25"} 2"#,
        "obleth_queue_wait_seconds_sum 0.5",
        r#"obleth_requests_total{endpoint="/v1/chat/completions",status="200",outcome="ok"} 6"#,
        r#"obleth_requests_total{endpoint="/v1/chat/completions",status="401",outcome="rejected"} 4"#,
        r#"obleth_requests_total{endpoint="/v1/chat/completions",status="400",outcome="rejected"} 10"#,
        r#"obleth_requests_total{endpoint="/v1/chat/completions",status="200",outcome="upstream_cut"} 2"#,
        r#"obleth_rejected_total{code="invalid_api_key"} 2"#,
        r#"obleth_rejected_total{code="upstream_rejected"} 10"#,
        r#"obleth_request_duration_seconds_bucket{le="0.005"} 2"#,
        r#"obleth_request_duration_seconds_bucket{le="5120"} 2"#,
        r#"obleth_request_duration_seconds_bucket{le="+Inf"} 4"#,
        "obleth_request_duration_seconds_sum 2.009",
        "obleth_request_duration_seconds_count 4",
        "obleth_ttft_seconds_count 0",
        r#"obleth_overhead_seconds_bucket{le="0.000005"} 0"#,
        r#"obleth_overhead_seconds_bucket{le="0.00001"} 2"#,
        "obleth_overhead_seconds_sum 0.000013",
        "obleth_input_tokens_total 0",
        "obleth_output_tokens_total 20",
        r#"obleth_client_closed_total{phase="ttft"} 2"#,
        r#"obleth_upstream_attempts_total{outcome="stale"} 2"#,
        "obleth_key_cache_hits_total 0",
        "obleth_key_cache_misses_total 0",
        r#"obleth_shard_busy_ratio{shard="1"} 0"#,
        "obleth_worker_restarts_total 0",
        r#"obleth_io_driver{driver="io_uring"} 1"#,
        r#"obleth_io_driver{driver="epoll"} 0"#,
        r#"obleth_build_info{version="1.2.3",commit="abcdef"} 1"#,
    ];
    for line in expected {
        assert!(lines.contains(&line), "{line}\n{}", answer.body);
    }
    assert!(!answer.body.contains(r#"code="upstream_cut""#), "it was no refusal");
    for family in answer.body.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = family.split(' ').next().unwrap();
        assert!(lines.iter().any(|line| line.starts_with(&format!("# HELP {name} "))), "{name}");
        assert!(lines.iter().any(|line| line.starts_with(name)), "{name} has no sample");
    }
}

#[test]
fn other_paths_and_methods_of_the_metrics_listener_are_refused_in_the_one_shape() {
    let sidecar = Running::start();
    let answer = probe(&sidecar, "/");
    assert_eq!((answer.status, answer.refusal().0.as_str()), (404, "unknown_endpoint"));
    let answer = send(sidecar.metrics, ("POST", "/metrics"), &[], b"");
    assert_eq!((answer.status, answer.refusal().0.as_str()), (405, "method_not_allowed"));
    assert_eq!(answer.header("allow"), Some("GET,HEAD"));
}

#[test]
fn it_stops_within_a_second_also_with_idle_connections() {
    let sidecar = Running::start();
    let _idle: Vec<_> = (0..10).map(|_| std::net::TcpStream::connect(sidecar.admin).unwrap()).collect();
    sidecar.get("/keys");
    let start = Instant::now();
    sidecar.stop();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}
