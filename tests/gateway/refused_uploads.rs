//! A refusal arrives, however much its client is still sending, and costs a polite client no connection.

use std::{net::SocketAddr, thread};

use serde_json::json;

use super::{
    http::{Connection, Request, Response},
    refusal::assert_refused,
    world::{ENDPOINTS, MODEL, World, body_of, chat},
};

/// What the uploader sends: more than the default limit of 10 MiB.
const UPLOAD: usize = 11_000_000;
const TRIES: usize = 30;

#[derive(Clone, Copy, Debug)]
enum Sent {
    Plain,
    Chunked,
}

/// Sends all of it, as an HTTP library does that reads only when it is done.
fn upload(to: SocketAddr, secret: &str, sent: Sent) -> Option<Response> {
    let request = Request::new("POST", ENDPOINTS[0]).key(secret);
    let request = match sent {
        Sent::Plain => request.header("content-length", UPLOAD),
        Sent::Chunked => request.header("transfer-encoding", "chunked"),
    };
    let piece = vec![b' '; 64 * 1024];
    let mut connection = Connection::open(to);
    connection.send(request.head());
    let mut left = UPLOAD;
    while left > 0 {
        let piece = &piece[..left.min(piece.len())];
        left -= piece.len();
        let taken = match sent {
            Sent::Plain => connection.try_send(piece),
            Sent::Chunked => {
                connection.try_send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat())
            }
        };
        if !taken {
            break;
        }
    }
    connection.try_response()
}

#[test]
fn an_uploader_of_11_mb_sees_its_refusal_every_time() {
    let mut world = World::start();
    let data = world.gateway.data;
    for (secret, code) in
        [(world.secret.clone(), "request_too_large"), ("sk_unknown".to_owned(), "invalid_api_key")]
    {
        for sent in [Sent::Plain, Sent::Chunked] {
            for attempt in 0..TRIES {
                let refused = upload(data, &secret, sent);
                assert_refused(
                    &refused.unwrap_or_else(|| panic!("{code} {sent:?} lost at try {attempt}")),
                    code,
                );
            }
        }
    }
    assert_eq!(world.sim().requests, 0);
    world.assert_unharmed();
}

#[test]
fn uploaders_at_the_same_time_all_see_their_refusal() {
    let mut world = World::start();
    let (data, secret) = (world.gateway.data, world.secret.clone());
    thread::scope(|scope| {
        let uploads: Vec<_> = (0..8).map(|_| scope.spawn(|| upload(data, &secret, Sent::Plain))).collect();
        for upload in uploads {
            assert_refused(&upload.join().unwrap().expect("an answer"), "request_too_large");
        }
    });
    world.assert_unharmed();
}

#[test]
fn a_401_arrives_before_a_byte_of_the_body_is_sent() {
    let world = World::start();
    for endpoint in ENDPOINTS {
        for framing in [("content-length", "5000000"), ("transfer-encoding", "chunked")] {
            for (key, code) in [(None, "missing_api_key"), (Some("sk_unknown"), "invalid_api_key")] {
                let request = Request::new("POST", endpoint).header(framing.0, framing.1);
                let request = key.into_iter().fold(request, |request, key| request.key(key));
                let mut connection = world.connect();
                connection.send(request.head());
                assert_refused(&connection.response(), code);
            }
        }
    }
}

#[test]
fn a_client_that_waits_for_100_is_refused_without_one() {
    let world = World::start();
    let request = world.chat("");
    for (request, code) in [
        (request.clone().header("content-encoding", "gzip"), "unsupported_encoding"),
        (Request::post(ENDPOINTS[0], chat("")).key("sk_unknown"), "invalid_api_key"),
        (
            Request::new("POST", ENDPOINTS[0]).key(&world.secret).header("content-length", UPLOAD),
            "request_too_large",
        ),
    ] {
        let mut connection = world.connect();
        connection.send(request.header("expect", "100-continue").head());
        assert_refused(&connection.response(), code);
    }
    let mut connection = world.connect();
    connection.send(request.header("expect", "100-continue").head());
    assert_eq!(connection.response().status, 100);
    connection.send(chat(""));
    assert_eq!(connection.response().status, 200);
}

#[test]
fn a_small_refused_request_does_not_cost_the_connection() {
    let world = World::start();
    let disabled = world.new_model("off", json!({"enabled": false}));
    assert!(!disabled.is_empty());
    let mut connection = world.connect();
    for endpoint in ENDPOINTS {
        for (request, code) in [
            (Request::post(endpoint, body_of(endpoint, MODEL, "")), "missing_api_key"),
            (Request::post(endpoint, body_of(endpoint, MODEL, "")).key("sk_unknown"), "invalid_api_key"),
            (
                world.post(endpoint, body_of(endpoint, MODEL, "")).header("content-encoding", "br"),
                "unsupported_encoding",
            ),
            (world.post(endpoint, "{"), "invalid_json"),
            (world.post(endpoint, "{}"), "missing_model"),
            (world.post(endpoint, body_of(endpoint, "off", "")), "model_not_found"),
            (world.post("/v1/nothing", " ".repeat(60_000)), "unknown_endpoint"),
            (Request::new("DELETE", endpoint), "method_not_allowed"),
        ] {
            let refused = connection.ask(&request);
            assert_refused(&refused, code);
            assert_eq!(refused.header("connection"), None, "{code}");
        }
        assert_eq!(connection.ask(&world.post(endpoint, body_of(endpoint, MODEL, ""))).status, 200);
    }
}

#[test]
fn a_refusal_closes_where_the_client_wants_it_closed() {
    let world = World::start();
    let mut connection = world.connect();
    let refused = connection.ask(&Request::get("/v1/models").header("connection", "close"));
    assert_refused(&refused, "missing_api_key");
    assert_eq!(refused.header("connection"), Some("close"));
    assert!(connection.is_closed());
}
