//! Gate 1 over a real socket: the heads and framings that are refused, those that are taken, and that no bytes
//! of any kind cost the process more than the connection they came on.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    http::{Connection, Request},
    refusal::assert_refused,
    world::{ENDPOINTS, World, chat},
};

const POST: &str = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n";

/// Header lines that a request must not have, each after [`POST`].
const BAD_LINES: [&str; 33] = [
    "Content-Length: 5\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 5",
    "Content-Length: 5\r\nContent-Length: 5",
    "Content-Length: 5\r\nContent-Length: 6",
    "Content-Length: 5, 5",
    "Content-Length: +5",
    "Content-Length: -5",
    "Content-Length: 5 5",
    "Content-Length: 0x5",
    "Content-Length: five",
    "Content-Length:",
    "Content-Length: 18446744073709551616",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding:",
    "X-A: b\r\n folded",
    "X-A: b\r\n\tfolded",
    "X-A : b",
    "X-A\t: b",
    " X-A: b",
    ": b",
    "no colon here",
    "X-A: b\u{0}c",
    "X-A: b\u{1}c",
    "X-A: b\u{7f}c",
    "X\u{1}A: b",
    "X-A: b\rc",
    "Host: a",
    "Upgrade: websocket\r\nConnection: Upgrade",
    "Expect: 200-ok",
];

/// Targets that are no unambiguous path.
const BAD_TARGETS: [&str; 19] = [
    "http://a/v1/models",
    "a:443",
    "*",
    "v1/models",
    "/v1/../v1/models",
    "/v1/models/..",
    "/v1/./models",
    "/v1/%2e%2e/models",
    "/v1/%2E/models",
    "/v1%2fmodels",
    "/v1%2Fmodels",
    "/v1/%5cmodels",
    "/v1\\models",
    "//v1/models",
    "/v1//models",
    "/v1/models#top",
    "/v1/models/%00",
    "/v1/models/%zz",
    "/v1/models/caf\u{e9}",
];

fn send(world: &World, bytes: &[u8]) -> (Connection, super::http::Response) {
    let mut connection = world.connect();
    connection.send(bytes);
    let answer = connection.try_response();
    let answer = answer.unwrap_or_else(|| panic!("no answer to {:?}", String::from_utf8_lossy(bytes)));
    (connection, answer)
}

#[test]
fn a_head_that_can_be_read_two_ways_is_refused_and_the_connection_closed() {
    let mut world = World::start();
    let key = format!("Authorization: Bearer {}\r\n", world.secret);
    let mut rows: Vec<(Vec<u8>, &str)> = Vec::new();
    for line in BAD_LINES {
        rows.push((format!("{POST}{key}{line}\r\n\r\n").into_bytes(), "bad_request"));
    }
    for target in BAD_TARGETS {
        rows.push((format!("GET {target} HTTP/1.1\r\nHost: a\r\n{key}\r\n").into_bytes(), "bad_request"));
    }
    for (head, code) in [
        ("GET /v1/models HTTP/1.1\r\n\r\n", "bad_request"),
        ("GET /v1/models HTTP/1.1\r\nHost: a b\r\n\r\n", "bad_request"),
        ("GET /v1/models HTTP/1.1\r\nHost:\r\n\r\n", "bad_request"),
        ("GET /v1/models HTTP/1.1\nHost: a\n\n", "bad_request"),
        ("GET /v1/models HTTP/1.1\r\nHost: a\n\r\n", "bad_request"),
        ("GET  /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request"),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request"),
        ("\u{0}\u{1}\u{2}\r\n\r\n", "bad_request"),
        ("hello\r\n\r\n", "bad_request"),
        ("GET /v1/models HTTP/1.0\r\nHost: a\r\n\r\n", "http_version"),
        ("GET /v1/models HTTP/2.0\r\nHost: a\r\n\r\n", "http_version"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http_version"),
        ("POST /health HTTP/1.0\r\nContent-Length: 0\r\n\r\n", "http_version"),
    ] {
        rows.push((head.as_bytes().to_vec(), code));
    }
    rows.push((
        format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(8 * 1024)).into_bytes(),
        "uri_too_long",
    ));
    let many: String = (0..101).map(|number| format!("x-{number}: y\r\n")).collect();
    rows.push((format!("{POST}{many}\r\n").into_bytes(), "headers_too_large"));
    rows.push((format!("{POST}x-a: {}\r\n\r\n", "a".repeat(64 * 1024)).into_bytes(), "headers_too_large"));
    rows.push((format!("{POST}{}: a\r\n\r\n", "a".repeat(70_000)).into_bytes(), "headers_too_large"));
    for (bytes, code) in rows {
        let (mut connection, answer) = send(&world, &bytes);
        assert_eq!(answer.code(), code, "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(200)]));
        assert_refused(&answer, code);
        assert_eq!(answer.header("connection"), Some("close"));
        connection.finish_sending();
        assert!(connection.is_closed());
    }
    assert_eq!(world.sim().requests, 0);
    world.assert_unharmed();
}

#[test]
fn a_body_whose_chunks_can_be_read_two_ways_is_refused() {
    let mut world = World::start();
    let body = chat("");
    let good = format!("{:x}\r\n{body}\r\n", body.len());
    for bad in [
        format!("{good}\r\n0\r\n\r\n"),
        format!("+{good}0\r\n\r\n"),
        format!(" {good}0\r\n\r\n"),
        format!("0x{good}0\r\n\r\n"),
        format!("{good}fffffffffffffffff\r\n"),
        format!("ffffffffffffffff1\r\n{body}"),
        format!("{good}-1\r\n\r\n"),
        format!("{:x}\n{body}\r\n0\r\n\r\n", body.len()),
        format!("{:x}\r\n{body}0\r\n\r\n", body.len()),
        format!("{:x};a=\rb\r\n{body}\r\n0\r\n\r\n", body.len()),
        format!("{:x};{}\r\n{body}\r\n0\r\n\r\n", body.len(), "a".repeat(200)),
        format!("{good}0\r\n{}", "x-trailer: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(400)),
    ] {
        let head = Request::new("POST", ENDPOINTS[0])
            .key(&world.secret)
            .header("transfer-encoding", "chunked")
            .head();
        let (mut connection, answer) = send(&world, &[head.as_slice(), bad.as_bytes()].concat());
        assert_eq!(answer.code(), "bad_request", "{bad:?}");
        assert_refused(&answer, "bad_request");
        connection.finish_sending();
        assert!(connection.is_closed(), "{bad:?}");
    }
    assert_eq!(world.sim().requests, 0);
    world.assert_unharmed();
}

#[test]
fn a_client_that_leaves_in_its_body_is_not_served() {
    let mut world = World::start();
    for framing in ["content-length: 100", "transfer-encoding: chunked"] {
        let mut connection = world.connect();
        connection.send(format!("{POST}Authorization: Bearer {}\r\n{framing}\r\n\r\n", world.secret));
        connection.send("{\"model\":");
        connection.finish_sending();
        assert!(connection.try_response().is_none_or(|answer| answer.status == 400));
    }
    assert_eq!(world.sim().requests, 0);
    world.assert_unharmed();
}

#[test]
fn what_is_unusual_and_unambiguous_is_served() {
    let world = World::start();
    world.new_model("org/model", json!({}));
    let body = chat("");
    let key = format!("Authorization: Bearer {}\r\n", world.secret);
    // Chunks with extensions, in capitals and with leading zeros, and trailers.
    let (first, rest) = body.split_at(7);
    let chunked = format!(
        "{POST}{key}Transfer-Encoding: Chunked\r\n\r\n007;name=\"value\"\r\n{first}\r\n{:X};x\r\n{rest}\r\n000\r\nX-Trailer: a\r\n\r\n",
        rest.len()
    );
    // A blank line before a request is forgiven (RFC 9112 §2.2).
    let length = body.len();
    let plain =
        format!("\r\n{POST}{key}content-length:\t{length} \r\nX-Empty:\r\nx-utf8: caf\u{e9}\r\n\r\n{body}");
    let upgrade = format!(
        "{POST}{key}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    for bytes in [chunked, plain, upgrade] {
        let (mut connection, answer) = send(&world, bytes.as_bytes());
        assert_eq!(answer.status, 200, "{bytes} {}", answer.text());
        assert_eq!(connection.ask(&world.chat("")).status, 200, "the connection goes on");
        assert_eq!(world.sim.counters.last_request().body, body.as_bytes());
    }
    for target in ["/v1/models/org/model", "/v1/models/org%2Fmodel", "/v1/models/org%2fmodel?a=//../%2e"] {
        let answer = world.ask(&Request::get(target).key(&world.secret));
        assert_eq!((answer.status, answer.json()["id"].clone()), (200, json!("org/model")), "{target}");
    }
    for old in
        ["GET /health HTTP/1.0\r\n\r\n", "GET /health HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"]
    {
        let (mut connection, answer) = send(&world, old.as_bytes());
        assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"status":"ok"}"#));
        assert!(connection.is_closed());
    }
}

#[test]
fn pipelined_requests_are_answered_in_order_one_at_a_time() {
    let world = World::start();
    let mut connection = world.connect();
    let slow = world.chat("").header("x-sim-latency-ms", 80).header("x-request-id", "first");
    let streamed = world.chat(r#","stream":true"#).header("x-request-id", "second");
    let refused = world.post(ENDPOINTS[0], "{").header("x-request-id", "third");
    let last = Request::get("/health").header("x-request-id", "fourth");
    connection.send([slow.bytes(), streamed.bytes(), refused.bytes(), last.bytes()].concat());
    for (id, status) in [("first", 200), ("second", 200), ("third", 400), ("fourth", 200)] {
        let answer = connection.response();
        assert_eq!((answer.header("x-request-id"), answer.status), (Some(id), status));
    }
    assert_eq!(world.sim().max_active, 1);
}

#[test]
fn a_head_may_come_byte_by_byte_but_not_for_ever() {
    let mut world = World::start();
    let request = world.chat("");
    let mut connection = world.connect();
    for byte in request.bytes() {
        connection.send([byte]);
    }
    assert_eq!(connection.response().status, 200);
    let mut lingering = world.connect();
    lingering.send("GET /health HTTP/1.1\r\nHost: a\r\n");
    let begun = Instant::now();
    assert_refused(&lingering.response(), "request_timeout");
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(9) && took < Duration::from_secs(13), "{took:?}");
    assert!(lingering.is_closed());
    world.assert_unharmed();
}

#[test]
fn garbage_kills_nothing() {
    let mut world = World::start();
    let seed = 0x6f62_6c65_7468_0001_u64;
    let mut state = seed;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let valid = world.chat(r#","stream":true"#).bytes();
    for round in 0..300 {
        let bytes: Vec<u8> = match round % 3 {
            0 => (0..random(3000)).map(|_| u8::try_from(random(256)).unwrap()).collect(),
            1 => {
                let mut bytes = valid.clone();
                for _ in 0..=random(4) {
                    let at = random(bytes.len());
                    bytes[at] = u8::try_from(random(256)).unwrap();
                }
                bytes
            }
            _ => {
                let mut bytes = valid.clone();
                let (from, len) = (random(bytes.len()), random(40));
                bytes.drain(from..(from + len).min(valid.len()));
                bytes
            }
        };
        let mut connection = world.connect();
        let _ = connection.try_send(&bytes);
        if random(2) == 0 {
            connection.finish_sending();
            while connection.try_response().is_some() {}
        } else {
            connection.reset();
        }
    }
    world.until_idle();
    world.assert_unharmed();
}
