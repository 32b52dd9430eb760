//! Which headers pass, which are added, and which must never leave.

use obleth_upstream::Options;
use serde_json::json;

use super::{
    http::{End, Request, Response},
    process::Setup,
    refusal::assert_refused,
    world::{Canned, ENDPOINTS, MODEL, World, body_of},
};

/// The head of the last request that the backend received, in lower case.
fn received(world: &World) -> String {
    String::from_utf8(world.sim.counters.last_request().head).unwrap().to_lowercase()
}

#[test]
fn the_callers_secrets_and_what_belongs_to_one_hop_are_not_forwarded() {
    let world = World::start();
    for endpoint in ENDPOINTS {
        let request = world
            .post(endpoint, body_of(endpoint, MODEL, ""))
            .header("x-api-key", &world.secret)
            .header("api-key", &world.secret)
            .header("cookie", "session=1")
            .header("connection", "keep-alive, x-named-hop, te")
            .header("x-named-hop", "1")
            .header("keep-alive", "timeout=5")
            .header("te", "trailers")
            .header("proxy-authorization", "Basic abc")
            .header("proxy-connection", "keep-alive")
            .header("x-obleth-tenant", "other")
            .header("x-obleth-priority", "9")
            .header("accept-encoding", "gzip, br")
            .header("content-type", "application/x-www-form-urlencoded");
        assert_eq!(world.ask(&request).status, 200);
        let head = received(&world);
        assert!(!head.contains(&world.secret), "{head}");
        for gone in [
            "\r\nauthorization:",
            "\r\nx-api-key:",
            "\r\napi-key:",
            "\r\ncookie:",
            "\r\nx-named-hop:",
            "\r\nkeep-alive:",
            "\r\nte:",
            "\r\nproxy-",
            "\r\nx-obleth-",
            "\r\naccept-encoding:",
            "\r\nexpect:",
            "\r\nupgrade:",
            "\r\ntransfer-encoding:",
            "urlencoded",
            "host: gateway",
        ] {
            assert!(!head.contains(gone), "{gone:?} in {head}");
        }
        for line in
            [format!("\r\nhost: {}\r\n", world.sim.addr), "\r\ncontent-type: application/json\r\n".to_owned()]
        {
            assert_eq!(head.matches(&line).count(), 1, "{line} in {head}");
        }
        assert_eq!(head.matches("\r\ncontent-length:").count(), 1);
        assert!(head.starts_with(&format!("post {endpoint} http/1.1\r\n")), "{head}");
    }
}

#[test]
fn traces_and_headers_that_nobody_knows_are_forwarded() {
    let world = World::with(
        Setup::new(),
        Options { api_key: Some("backend-secret".to_owned()), ..Options::default() },
    );
    world.new_model(
        "credited",
        json!({"api_key": "backend-secret", "api_base": format!("http://{}/v1/", world.sim.addr)}),
    );
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = world
        .post(ENDPOINTS[0], body_of(ENDPOINTS[0], "credited", ""))
        .header("traceparent", trace)
        .header("tracestate", "vendor=1")
        .header("X-Custom-Thing", "Some Value, with: punctuation")
        .header("user-agent", "OpenAI/Python 2.54.0")
        .header("x-stainless-read-timeout", "600")
        .header("accept", "application/json")
        .header("x-forwarded-for", "1.2.3.4")
        .header("x-request-id", "trace-me-42");
    let answer = world.ask(&request);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let head = received(&world);
    for line in [
        &format!("traceparent: {trace}"),
        "tracestate: vendor=1",
        "x-custom-thing: some value, with: punctuation",
        "user-agent: openai/python 2.54.0",
        "x-stainless-read-timeout: 600",
        "accept: application/json",
        "x-request-id: trace-me-42",
        "authorization: bearer backend-secret",
    ] {
        assert_eq!(head.matches(&format!("\r\n{line}\r\n")).count(), 1, "{line} in {head}");
    }
    assert!(head.starts_with("post /v1/chat/completions http/1.1\r\n"), "{head}");
}

#[test]
fn a_request_id_is_taken_over_if_it_is_fit_and_made_if_not() {
    let world = World::start();
    let id_for = |theirs: Option<&str>| {
        let request =
            theirs.into_iter().fold(world.chat(""), |request, id| request.header("x-request-id", id));
        let answer = world.ask(&request);
        assert_eq!(answer.status, 200);
        let id = answer.header("x-request-id").unwrap().to_owned();
        assert!(received(&world).contains(&format!("\r\nx-request-id: {}\r\n", id.to_lowercase())));
        id
    };
    let longest = "a".repeat(128);
    for fit in ["1", "Trace-42/#{}~!", longest.as_str()] {
        assert_eq!(id_for(Some(fit)), fit);
    }
    let too_long = "a".repeat(129);
    for unfit in [None, Some(""), Some("two words"), Some("caf\u{e9}"), Some(too_long.as_str())] {
        let id = id_for(unfit);
        assert_eq!((id.len(), id.as_bytes()[14]), (36, b'7'), "a UUIDv7: {id}");
    }
    assert_ne!(id_for(None), id_for(None));
}

#[test]
fn answers_carry_our_headers_and_of_the_backends_only_those_that_are_the_clients() {
    let world = World::start();
    for more in ["", r#","stream":true"#] {
        let request = [
            "openai-processing-ms: 7",
            "openai-version: 2020-10-01",
            "x-ratelimit-limit-requests: 60",
            "x-ratelimit-remaining-tokens: 149984",
            "set-cookie: backend=1",
            "cache-control: no-cache",
            "keep-alive: timeout=5",
            "x-internal-node: gpu-node-7",
            "x-obleth-overhead-us: 1",
            "x-request-id: backends-own",
            "via: backend",
        ]
        .iter()
        .fold(world.chat(more), |request, line| request.header("x-sim-header", line));
        let answer = world.ask(&request.header("x-request-id", "mine"));
        assert_eq!((answer.status, answer.end), (200, End::Complete), "{}", answer.text());
        for (name, value) in [
            ("x-request-id", "mine"),
            ("openai-processing-ms", "7"),
            ("openai-version", "2020-10-01"),
            ("x-upstream-ratelimit-limit-requests", "60"),
            ("x-upstream-ratelimit-remaining-tokens", "149984"),
            ("cache-control", "no-cache"),
        ] {
            let values: Vec<_> = answer.headers.iter().filter(|(known, _)| known == name).collect();
            assert_eq!((values.len(), answer.header(name)), (1, Some(value)), "{name}");
        }
        for gone in
            ["set-cookie", "server", "keep-alive", "x-internal-node", "via", "x-ratelimit-limit-requests"]
        {
            assert_eq!(answer.header(gone), None, "{gone}");
        }
        let overhead: Vec<_> =
            answer.headers.iter().filter(|(name, _)| name == "x-obleth-overhead-us").collect();
        assert_eq!(overhead.len(), 1);
        assert!(overhead[0].1.parse::<u64>().unwrap() < 10_000_000);
    }
    for answer in
        [world.ask(&Request::get("/health")), world.ask(&Request::get("/v1/models").key(&world.secret))]
    {
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("x-request-id").map(str::len), Some(36));
    }
}

/// What a client gets from a backend that answers every request with these bytes.
fn ask_canned(world: &World, number: usize, answer: &'static str) -> Response {
    let canned = Canned::start(answer);
    let name = format!("canned-{number}");
    world.new_model(&name, json!({"api_base": format!("http://{}", canned.addr)}));
    world.ask(&world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], &name, "")))
}

#[test]
fn a_backends_strange_but_valid_framing_is_understood() {
    let world = World::start();
    for (number, answer) in [
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{}",
        "HTTP/1.1 200\r\ncontent-type: application/json\r\ntransfer-encoding: Chunked\r\n\r\n1;a=b\r\n{\r\n01\r\n}\r\n0\r\nx: y\r\n\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        let got = ask_canned(&world, number, answer);
        assert_eq!((got.status, got.text().as_str(), got.end), (200, "{}", End::Complete), "{answer:?}");
    }
}

#[test]
fn a_backend_whose_framing_can_be_read_two_ways_is_not_believed() {
    let world = World::start();
    for (number, answer) in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nx-a: b\r\n folded\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        "HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        "hello",
        "SSH-2.0-OpenSSH_9.2\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        let got = ask_canned(&world, number, answer);
        assert_refused(&got, "upstream_cut");
    }
}
