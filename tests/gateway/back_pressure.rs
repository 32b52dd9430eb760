//! Readers that stall: the backend has to wait, and the gateway's memory does not grow. Backends that do not read:
//! nothing grows past the body.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use obleth_upstream::Options;
use serde_json::json;

use super::{
    http::{Connection, End},
    process::{Driver, Setup, until},
    refusal::assert_refused,
    world::{ENDPOINTS, World, body_of},
};

/// Bytes of one answer.
const ANSWER: usize = 40_000_000;
/// Answers at the same time.
const STREAMS: u64 = 4;
/// Memory that a stalled stream may take up.
const MOST_KIB_PER_STREAM: u64 = 1024;

/// A backend whose answers are large, and that counts what it could send of them.
struct Flood {
    addr: SocketAddr,
    sent: Arc<AtomicU64>,
}

impl Flood {
    /// Listens until the test process ends.
    fn start(kind: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (addr, sent) = (listener.local_addr().unwrap(), Arc::<AtomicU64>::default());
        let counter = Arc::clone(&sent);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let sent = Arc::clone(&counter);
                thread::spawn(move || flood(stream, kind, &sent));
            }
        });
        Self { addr, sent }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }
}

/// What an answer's body consists of: its beginning, a piece and how many of them there are, its end.
fn parts(kind: &str) -> (&'static str, String, usize, &'static str) {
    let (open, piece, close) = match kind {
        "text/event-stream" => {
            let event = format!("data: {{\"choices\":\"{}\"}}\n\n", "x".repeat(980));
            ("", event.repeat(16), "data: [DONE]\n\n")
        }
        _ => ("{\"x\":\"", "y".repeat(16_000), "\"}"),
    };
    let count = ANSWER / piece.len();
    (open, piece, count, close)
}

fn flood(mut stream: TcpStream, kind: &str, sent: &AtomicU64) {
    let mut request = [0; 8192];
    if !matches!(stream.read(&mut request), Ok(1..)) {
        return;
    }
    let (open, piece, count, close) = parts(kind);
    let length = open.len() + piece.len() * count + close.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{open}");
    let middle = std::iter::repeat_n(piece.as_str(), count);
    for bytes in [head.as_str()].into_iter().chain(middle).chain([close]) {
        // The gateway leaves where a test ends before the answer does.
        if stream.write_all(bytes.as_bytes()).is_err() {
            return;
        }
        sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
    }
}

/// Readers take in the beginning, stall for so long, and then take in the rest.
fn readers_stall(kind: &'static str, driver: Driver, stall: Duration) {
    let unlimited = 600_000;
    let setup = Setup::new()
        .driver(driver)
        .env("OBLETH_CLIENT_WRITE_TIMEOUT_MS", unlimited)
        .env("OBLETH_CLIENT_SILENT_TIMEOUT_MS", unlimited);
    let mut world = World::with(setup, Options::default());
    let flood = Flood::start(kind);
    world.new_model(
        "flood",
        json!({"api_base": format!("http://{}", flood.addr), "timeouts": {"idle_ms": 0}}),
    );
    let more = if kind == "application/json" { "" } else { r#","stream":true"# };
    let request = world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], "flood", more));
    world.assert_unharmed();
    let before = world.gateway.resident_kib();
    let mut readers: Vec<Connection> = (0..STREAMS)
        .map(|_| {
            let mut reader = world.connect();
            reader.send(request.bytes());
            reader.read_until("HTTP/1.1 200");
            reader
        })
        .collect();
    let mut last = 0;
    until("the backend can send no more", || {
        thread::sleep(Duration::from_millis(300)); // a time in which nothing was sent is what is looked for
        std::mem::replace(&mut last, flood.sent()) == flood.sent()
    });
    let stalled_at = flood.sent();
    thread::sleep(stall);
    let grown = world.gateway.resident_kib().saturating_sub(before);
    println!(
        "{kind} {driver:?}: {} MB of {} MB sent, stalled {stall:?}; {} KiB per stream",
        stalled_at / 1_000_000,
        STREAMS * ANSWER as u64 / 1_000_000,
        grown / STREAMS
    );
    assert_eq!(flood.sent(), stalled_at, "a stalled reader stops the backend");
    assert!(stalled_at < STREAMS * ANSWER as u64, "{stalled_at}");
    assert!(grown < STREAMS * MOST_KIB_PER_STREAM, "{grown} KiB for {STREAMS} streams");
    assert_eq!(world.gateway.metric("obleth_in_flight"), STREAMS as f64);
    // One goes on as if nothing had been, the others have seen enough.
    let answer = readers.remove(0).response();
    assert_eq!((answer.status, answer.end), (200, End::Complete));
    let (open, piece, count, close) = parts(kind);
    assert!(answer.body == [open, &piece.repeat(count), close].concat().into_bytes(), "byte for byte");
    drop(readers);
    world.until_idle();
    world.assert_unharmed();
}

#[test]
fn a_stalled_reader_of_a_stream_stops_the_backend_and_costs_no_memory_on_io_uring() {
    readers_stall("text/event-stream", Driver::Uring, Duration::from_secs(3));
}

#[test]
fn a_stalled_reader_of_a_stream_stops_the_backend_and_costs_no_memory_on_epoll() {
    readers_stall("text/event-stream", Driver::Epoll, Duration::from_secs(3));
}

#[test]
fn a_stalled_reader_of_a_json_answer_stops_the_backend_and_costs_no_memory() {
    readers_stall("application/json", Driver::Uring, Duration::from_secs(3));
}

#[test]
#[ignore = "takes minutes"]
fn readers_that_stall_for_a_minute_cost_no_memory() {
    for kind in ["text/event-stream", "application/json"] {
        for driver in [Driver::Uring, Driver::Epoll] {
            readers_stall(kind, driver, Duration::from_secs(60));
        }
    }
}

#[test]
fn a_reader_that_stalls_for_longer_than_its_limit_has_left() {
    for driver in [Driver::Uring, Driver::Epoll] {
        // The gateway's own limit, and the kernel's, for which a reader that takes in nothing is a silent one.
        for (write_ms, silent_ms, limit) in [(1000, 60_000, 1), (60_000, 2000, 2)] {
            let setup = Setup::new()
                .driver(driver)
                .env("OBLETH_CLIENT_WRITE_TIMEOUT_MS", write_ms)
                .env("OBLETH_CLIENT_SILENT_TIMEOUT_MS", silent_ms)
                .env("OBLETH_UPSTREAM_KEEPALIVE_MS", 0);
            let mut world = World::with(setup, Options::default());
            let mut reader = world.connect();
            reader.send(world.chat(r#","stream":true,"sim_tokens":100000000"#).bytes());
            reader.read_until("data: ");
            let begun = Instant::now();
            until("the backend's connection is closed", || world.sim().open_connections == 0);
            let took = begun.elapsed();
            let limit = Duration::from_secs(limit);
            assert!(took > limit * 9 / 10 && took < limit * 4 + Duration::from_secs(4), "{took:?}");
            println!("{driver:?}: write {write_ms} ms, silent {silent_ms} ms: cut after {took:?}");
            world.until_idle();
            assert_eq!(world.gateway.labelled("obleth_client_closed_total", &["phase=\"streaming\""]), 1.0);
            world.assert_unharmed();
        }
    }
}

#[test]
fn a_backend_that_does_not_read_costs_the_body_and_no_more() {
    const BODY: usize = 10 << 20;
    const UPLOADS: u64 = 4;
    for driver in [Driver::Uring, Driver::Epoll] {
        let mut world = World::with(Setup::new().driver(driver), Options::default());
        // Accepted by the kernel, read by nobody.
        let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = deaf.local_addr().unwrap();
        let model = json!({"api_base": format!("http://{addr}"), "timeouts": {"first_byte_ms": 2000}});
        world.new_model("deaf", model);
        world.assert_unharmed();
        let before = world.gateway.resident_kib();
        let body = body_of(ENDPOINTS[0], "deaf", r#","pad":""#);
        let body = body.replace("\"pad\":\"", &format!("\"pad\":\"{}\"", "p".repeat(BODY - body.len() - 1)));
        assert_eq!(body.len(), BODY);
        let request = world.post(ENDPOINTS[0], body);
        thread::scope(|scope| {
            let uploads: Vec<_> = (0..UPLOADS).map(|_| scope.spawn(|| world.ask(&request))).collect();
            until("all of them hold their room", || {
                world.gateway.metric("obleth_buffered_bytes") >= (UPLOADS * BODY as u64) as f64
            });
            until("all of them are with the backend", || {
                world.gateway.metric("obleth_in_flight") == UPLOADS as f64
            });
            let mut most = 0;
            while !uploads.iter().all(thread::ScopedJoinHandle::is_finished) {
                most = most.max(world.gateway.resident_kib().saturating_sub(before));
                thread::sleep(Duration::from_millis(20));
            }
            println!("{driver:?}: at most {} KiB per body of {} KiB", most / UPLOADS, BODY >> 10);
            assert!(most < UPLOADS * ((BODY as u64 >> 10) + 2048), "{most} KiB");
            for upload in uploads {
                assert_refused(&upload.join().unwrap(), "upstream_timeout");
            }
        });
        until("their room is given back", || world.gateway.metric("obleth_buffered_bytes") == 0.0);
        world.until_idle();
        world.assert_unharmed();
    }
}
