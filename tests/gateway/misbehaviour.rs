//! Backends that do what no well-kept server does: what the caller sees, how it counts, what the log says, and that
//! nothing runs twice. The README's operations chapter has the same table for operators.

use std::{
    io::Read,
    net::TcpListener,
    time::{Duration, Instant},
};

use obleth_upstream::Options;
use serde_json::json;

use super::{
    faults::assert_broken_off,
    http::{Connection, End, Response, silence},
    process::{Driver, Setup, until},
    refusal::assert_refused,
    world::{ENDPOINTS, World, body_of},
};

/// What a caller gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sees {
    /// The whole answer, as if nothing had been odd about it.
    Whole,
    /// A refusal with this code.
    Refused(&'static str),
    /// A stream that ends with an error event and without its end; or, if nothing of it had left, a refusal. Both
    /// with this code: which of them depends on where the backend's bytes were cut on their way.
    Broken(&'static str),
    /// The whole answer, in which the backend itself reports a failure.
    Reported,
    /// The backend's bytes with its `content-encoding`.
    Encoded,
    /// No body.
    Empty(u16),
    /// The other kind of answer, whole.
    OtherKind,
    /// There is no such fault for this kind of request.
    NotAsked,
}

use Sees::{Broken, Empty, Encoded, NotAsked, OtherKind, Refused, Reported, Whole};

/// A fault; what is seen by a caller that wants JSON, and what the log then says; the same for one that streams.
type Row = (&'static str, (Sees, &'static str), (Sees, &'static str));

const CUT: &str = "upstream_cut";
const BAD_HEAD: &str = "sent a head that is not valid HTTP";
const BAD_BODY: &str = "sent a body that is not valid HTTP";
const BROKE_OFF: &str = "broke off its answer";
const NO_DONE: &str = "ended a stream without [DONE]";
const NO_ANSWER: &str = "closed the connection without an answer";
const QUIET: &str = "";

const ROWS: [Row; 38] = [
    ("interim-100", (Whole, QUIET), (Whole, QUIET)),
    ("interim-102", (Whole, QUIET), (Whole, QUIET)),
    ("interim-103", (Whole, QUIET), (Whole, QUIET)),
    ("interim-many", (Whole, QUIET), (Whole, QUIET)),
    ("close-delimited", (Whole, QUIET), (Whole, QUIET)),
    ("close-delimited-cut", (Refused(CUT), BROKE_OFF), (Broken(CUT), NO_DONE)),
    ("length-short", (Refused(CUT), BROKE_OFF), (Broken(CUT), NO_DONE)),
    ("length-long", (Refused(CUT), BROKE_OFF), (Whole, QUIET)),
    ("length-negative", (Refused(CUT), BAD_HEAD), (Refused(CUT), BAD_HEAD)),
    ("length-twice", (Refused(CUT), BAD_HEAD), (Refused(CUT), BAD_HEAD)),
    ("length-and-chunks", (Refused(CUT), BAD_HEAD), (Refused(CUT), BAD_HEAD)),
    ("head-16k", (Whole, QUIET), (Whole, QUIET)),
    ("head-70k", (Refused(CUT), BAD_HEAD), (Refused(CUT), BAD_HEAD)),
    ("headers-101", (Refused(CUT), BAD_HEAD), (Refused(CUT), BAD_HEAD)),
    ("chunk-extensions", (Whole, QUIET), (Whole, QUIET)),
    ("trailers", (Whole, QUIET), (Whole, QUIET)),
    ("bad-chunk-size", (Refused(CUT), BAD_BODY), (Broken(CUT), BAD_BODY)),
    ("huge-chunk-size", (Refused(CUT), BAD_BODY), (Broken(CUT), BAD_BODY)),
    ("gzip", (Encoded, "encoded its answer unasked"), (Encoded, "encoded its answer unasked")),
    ("error-under-200", (Reported, QUIET), (Reported, "reported a failure inside a stream")),
    ("error-event-later", (NotAsked, QUIET), (Reported, "reported a failure inside a stream")),
    ("no-done", (NotAsked, QUIET), (Broken(CUT), NO_DONE)),
    ("done-without-end", (NotAsked, QUIET), (Whole, QUIET)),
    ("event-after-done", (NotAsked, QUIET), (Whole, QUIET)),
    ("json-for-stream", (NotAsked, QUIET), (OtherKind, QUIET)),
    ("stream-for-json", (OtherKind, QUIET), (NotAsked, QUIET)),
    ("surplus", (Whole, "sent more than its answer"), (Whole, "sent more than its answer")),
    ("garbage", (Refused(CUT), BAD_HEAD), (Refused(CUT), BAD_HEAD)),
    ("http-1.0", (Whole, QUIET), (Whole, QUIET)),
    ("no-content", (Empty(204), QUIET), (Empty(204), QUIET)),
    (
        "not-modified",
        (Refused("upstream_error"), "answered with status 304"),
        (Refused("upstream_error"), "answered with status 304"),
    ),
    (
        "redirect",
        (Refused("upstream_error"), "answered with status 302"),
        (Refused("upstream_error"), "answered with status 302"),
    ),
    ("drip-head", (Whole, QUIET), (Whole, QUIET)),
    (
        "stall-in-head",
        (Refused("upstream_timeout"), "did not begin to answer in time"),
        (Refused("upstream_timeout"), "did not begin to answer in time"),
    ),
    ("reset-before-head", (Refused(CUT), NO_ANSWER), (Refused(CUT), NO_ANSWER)),
    ("reset-in-head", (Refused(CUT), NO_ANSWER), (Refused(CUT), NO_ANSWER)),
    ("reset-in-body", (Refused(CUT), BROKE_OFF), (Broken(CUT), BROKE_OFF)),
    ("reset-between-events", (Refused(CUT), BROKE_OFF), (Broken(CUT), BROKE_OFF)),
];

/// The text of an answer, whichever kind it is.
fn content(answer: &Response) -> String {
    if answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")) {
        // What one read brought behind the end passes with it; clients stop there.
        let events = answer.events();
        let done = events.iter().position(|event| event.trim_end() == "[DONE]");
        let done = done.unwrap_or_else(|| panic!("no end: {}", answer.text()));
        let tokens =
            events[..done].iter().filter_map(|event| serde_json::from_str::<serde_json::Value>(event).ok());
        return tokens
            .filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
            .collect();
    }
    answer.json()["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned()
}

/// Checks what the caller got, and says how the request has to be counted: status and outcome.
#[track_caller]
fn assert_sees(answer: &Response, sees: Sees, streams: bool) -> (u16, &'static str) {
    let said = answer.text();
    let outcome = |code: &str| match code {
        "upstream_timeout" => "timeout",
        "upstream_cut" => "upstream_cut",
        _ => "upstream_error",
    };
    match sees {
        Whole | OtherKind => {
            assert_eq!((answer.status, answer.end), (200, End::Complete), "{said}");
            assert_eq!(content(answer), "one two three", "{said}");
            let kind = answer.header("content-type").unwrap();
            assert_eq!(kind.starts_with("text/event-stream"), streams == (sees == Whole), "{kind}");
            (200, "ok")
        }
        Broken(code) if answer.status == 200 => {
            assert_broken_off(answer, code);
            (200, outcome(code))
        }
        Refused(code) | Broken(code) => {
            assert_refused(answer, code);
            assert_eq!(answer.header("location"), None);
            (answer.status, outcome(code))
        }
        Reported => {
            assert_eq!((answer.status, answer.end), (200, End::Complete), "{said}");
            assert!(said.contains("CUDA out of memory"), "{said}");
            (200, if streams { "upstream_error" } else { "ok" })
        }
        Encoded => {
            assert_eq!((answer.status, answer.end), (200, End::Complete), "{said}");
            assert_eq!(answer.header("content-encoding"), Some("gzip"));
            assert_eq!(answer.body.get(..2), Some(&[0x1F, 0x8B][..]));
            (200, "ok")
        }
        Empty(status) => {
            assert_eq!((answer.status, answer.body.len()), (status, 0), "{said}");
            (200, "ok")
        }
        NotAsked => unreachable!("rows of this kind are left out"),
    }
}

/// Asks a model whose endpoint is named for the fault, some times over; then says how it counted.
fn suffer(
    world: &World,
    connection: &mut Connection,
    (fault, sees, said): (&str, Sees, &str),
    streams: bool,
) {
    const TIMES: usize = 3;
    let model = format!("{fault}-{}", if streams { "stream" } else { "json" });
    world.new_model(&model, json!({"timeouts": {"first_byte_ms": 400, "idle_ms": 1000}}));
    let body = body_of(ENDPOINTS[0], &model, if streams { r#","stream":true"# } else { "" });
    let all = || world.gateway.metric("obleth_requests_total");
    let counted = |status: u16, outcome: &str| {
        let labels = [format!("status=\"{status}\""), format!("outcome=\"{outcome}\"")];
        world.gateway.labelled("obleth_requests_total", &[&labels[0], &labels[1]])
    };
    for number in 0..TIMES {
        let before = all();
        let id = format!("{model}-{number}");
        let request = world.post(ENDPOINTS[0], body.clone()).header("x-request-id", &id);
        let answer = world.ask(&request.header("x-sim-fault", fault));
        let (status, outcome) = assert_sees(&answer, sees, streams);
        // Without a byte on a connection that was used before, it counts as not seen, and is sent once more.
        let most = if fault == "reset-before-head" { 2 } else { 1 };
        assert!((1..=most).contains(&world.sim.counters.count_of(&id)), "{id} ran once");
        until("it is counted as it should", || all() == before + 1.0 && counted(status, outcome) > 0.0);
        // Nobody else gets anything of it, on this connection or on a pooled one.
        let next = connection.ask(&world.post(ENDPOINTS[0], body.clone()));
        assert_eq!(next.status, 200, "{id}: {}", next.text());
        assert!(next.text().contains("simulated"), "{id}: {}", next.text());
        until("the next one is counted", || all() == before + 2.0);
    }
    if !said.is_empty() {
        let over = format!("is well again model=\"{model}\"");
        until("the log says that it is over", || world.gateway.stderr().contains(&over));
    }
    assert_log(&world.gateway.stderr(), &model, said);
}

/// The log says it once, and once that it is over; of what is not worth a word, nothing.
#[track_caller]
fn assert_log(log: &str, model: &str, said: &str) {
    let name = format!("model=\"{model}\"");
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(&name)).collect();
    if said.is_empty() {
        assert!(lines.is_empty(), "{lines:?}");
        return;
    }
    let [first, rest @ ..] = lines.as_slice() else { panic!("nothing about {model}: {log}") };
    assert!(first.contains(" WARN ") && first.contains(&format!("backend {said}")), "{first}");
    assert!(first.contains("endpoint=\"127.0.0.1:"), "{first}");
    assert!(rest.len() == 1 && rest[0].contains("is well again"), "{lines:?}");
}

fn every_fault(driver: Driver) {
    // One shard, so that each thing is said once.
    let mut world = World::with(Setup::new().cores(1).driver(driver), Options::default());
    let mut connection = world.connect();
    for (fault, json, stream) in ROWS {
        for ((sees, said), streams) in [(json, false), (stream, true)] {
            if sees != NotAsked {
                suffer(&world, &mut connection, (fault, sees, said), streams);
            }
        }
    }
    world.until_idle();
    world.assert_unharmed();
}

#[test]
fn each_fault_of_a_backend_has_its_outcome_and_its_line_in_the_log_on_io_uring() {
    every_fault(Driver::Uring);
}

#[test]
fn each_fault_of_a_backend_has_its_outcome_and_its_line_in_the_log_on_epoll() {
    every_fault(Driver::Epoll);
}

#[test]
#[ignore = "takes half a minute"]
fn a_backend_whose_machine_falls_silent_is_given_up_long_before_the_first_byte_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let backend = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            let mut piece = [0; 4096];
            let got = stream.read(&mut piece).unwrap();
            request.extend_from_slice(&piece[..got]);
        }
        silence(&stream);
        stream
    });
    let world = World::with(Setup::new().cores(1), Options::default());
    world.new_model("silent", json!({"api_base": format!("http://{addr}")}));
    let mut connection = world.connect();
    connection.send(world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], "silent", "")).bytes());
    let _silent = backend.join().unwrap();
    let begun = Instant::now();
    connection.be_patient(Duration::from_secs(60));
    let answer = connection.response();
    assert_refused(&answer, "upstream_cut");
    let took = begun.elapsed();
    println!("given up after {took:?}");
    assert!(took > Duration::from_secs(20) && took < Duration::from_secs(50), "{took:?}");
}

#[test]
fn a_json_answer_that_breaks_off_after_a_part_has_left_lacks_its_end() {
    for driver in [Driver::Uring, Driver::Epoll] {
        let mut world = World::with(Setup::new().cores(1).driver(driver), Options::default());
        let large = world.chat("").header("x-sim-tokens", 40_000);
        assert_eq!(world.ask(&large).end, End::Complete);
        let cut = world.ask(&large.header("x-sim-fault", "die-after-tokens").header("x-request-id", "cut"));
        assert_eq!((cut.status, cut.end), (200, End::Cut));
        assert_eq!(world.sim.counters.count_of("cut"), 1);
        let labels = ["outcome=\"upstream_cut\"", "status=\"200\""];
        until("it is counted", || world.gateway.labelled("obleth_requests_total", &labels) == 1.0);
        assert!(world.gateway.stderr().contains(&format!("backend {BROKE_OFF}")));
        world.until_idle();
        world.assert_unharmed();
    }
}
