//! Bodies at their limits, one by one and all together.

use obleth_upstream::Options;

use super::{
    http::{Connection, Request},
    process::{Driver, Setup, until},
    refusal::assert_refused,
    world::{ENDPOINTS, MODEL, World, body_of},
};

/// A chat request body of exactly so many bytes.
fn body_of_length(length: usize) -> String {
    let empty = body_of(ENDPOINTS[0], MODEL, r#","pad":"""#);
    let pad = length - empty.len();
    empty.replace(r#""pad":"""#, &format!(r#""pad":"{}""#, "p".repeat(pad)))
}

fn chunked(world: &World, body: &str, chunk: usize) -> Vec<u8> {
    let head =
        Request::new("POST", ENDPOINTS[0]).key(&world.secret).header("transfer-encoding", "chunked").head();
    let mut bytes = head;
    for piece in body.as_bytes().chunks(chunk) {
        bytes.extend_from_slice(format!("{:x};a=b\r\n", piece.len()).as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

fn up_to_the_limit(driver: Driver, limit: usize, setup: Setup) {
    let mut world = World::with(setup.driver(driver), Options::default());
    let mut connection = world.connect();
    for length in [limit - 1, limit] {
        let body = body_of_length(length);
        for bytes in [world.post(ENDPOINTS[0], body.clone()).bytes(), chunked(&world, &body, 100_000)] {
            connection.send(bytes);
            assert_eq!(connection.response().status, 200, "{length}");
            assert!(world.sim.counters.last_request().body == body.as_bytes(), "{length}: as it was sent");
        }
    }
    let body = body_of_length(limit + 1);
    let fixed = world.post(ENDPOINTS[0], body.clone()).bytes();
    for bytes in [fixed, chunked(&world, &body, 100_000), chunked(&world, &body, 7_777)] {
        let requests = world.sim().requests;
        let mut connection = world.connect();
        // It is refused before it has sent all of it.
        let _ = connection.try_send(bytes);
        let refused = connection.response();
        assert_refused(&refused, "request_too_large");
        assert_eq!(refused.header("x-should-retry"), Some("false"));
        assert_eq!(world.sim().requests, requests);
    }
    until("no room is taken up", || world.gateway.metric("obleth_buffered_bytes") == 0.0);
    world.assert_unharmed();
}

#[test]
fn a_body_at_the_default_limit_passes_and_one_more_byte_does_not() {
    up_to_the_limit(Driver::Uring, 10 << 20, Setup::new());
    up_to_the_limit(Driver::Epoll, 10 << 20, Setup::new());
}

#[test]
fn a_body_at_a_limit_of_the_operators_passes_and_one_more_byte_does_not() {
    for limit in [1024, 64 << 10, (64 << 10) + 1, 300_000] {
        up_to_the_limit(Driver::Uring, limit, Setup::new().env("OBLETH_MAX_REQUEST_BYTES", limit));
    }
}

#[test]
fn all_bodies_together_have_a_limit_and_the_room_comes_back() {
    const BODY: usize = 4 << 20;
    const PART: usize = 3_500_000;
    for driver in [Driver::Uring, Driver::Epoll] {
        let setup = Setup::new()
            .driver(driver)
            .env("OBLETH_MAX_REQUEST_BYTES", BODY)
            .env("OBLETH_MAX_BUFFERED_BYTES", 2 * BODY);
        let mut world = World::with(setup, Options::default());
        let body = body_of_length(BODY);
        let head = world.post(ENDPOINTS[0], body.clone()).head();
        let buffered = || world.gateway.metric("obleth_buffered_bytes");
        for round in 0..3 {
            let mut uploads: Vec<Connection> = (0..2).map(|_| world.connect()).collect();
            for (number, upload) in uploads.iter_mut().enumerate() {
                upload.send([&head, &body.as_bytes()[..PART]].concat());
                until("it takes up room", || buffered() >= ((number + 1) * PART) as f64);
            }
            assert!(buffered() <= (2 * BODY) as f64);
            let mut third = world.connect();
            // It may be refused before it has sent all of this.
            let _ = third.try_send([&head, &body.as_bytes()[..PART]].concat());
            let refused = third.response();
            assert_refused(&refused, "overloaded");
            assert!(refused.header("retry-after").is_some(), "round {round}");
            assert_eq!(world.ask(&world.chat("")).status, 200, "small ones pass");
            for mut upload in uploads {
                upload.send(&body.as_bytes()[PART..]);
                assert_eq!(upload.response().status, 200);
            }
            until("the room is given back", || buffered() == 0.0);
        }
        assert_eq!(world.gateway.labelled("obleth_rejected_total", &["code=\"overloaded\""]), 3.0);
        world.assert_unharmed();
    }
}
