//! The backend over real sockets: exact bytes, faults, counts.
//!
//! The peer is a plain blocking socket and the project's own codec, so that what is asserted is what was on the wire.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use obleth_upstream::{Fault, Handle, Options, spawn};
use obleth_wire::http1::{
    BodyDecoder, Framing, HeadScan, Limits, Method, Piece, ResponseHead, parse_response, write,
};
use serde_json::Value;

const CHAT: &str = "/v1/chat/completions";

fn start(options: Options) -> Handle {
    spawn(options).unwrap()
}

/// A client connection.
struct Peer {
    stream: TcpStream,
    buf: Vec<u8>,
}

/// An answer as it stood on the wire.
struct Answer {
    head: ResponseHead,
    raw_head: String,
    body: Vec<u8>,
    /// Whether the body came to its end.
    whole: bool,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The payloads of a stream's events.
    fn events(&self) -> Vec<Value> {
        let events = self.text().split("\n\n").filter_map(|event| event.strip_prefix("data: "));
        events.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

impl Peer {
    fn new(handle: &Handle) -> Self {
        let stream = TcpStream::connect(handle.addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { stream, buf: Vec::new() }
    }

    fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) {
        let mut out = Vec::new();
        assert!(write::request_line(&mut out, method, &[path.as_bytes()]));
        for (name, value) in [("host", "sim")].iter().chain(headers) {
            assert!(write::header_bytes(&mut out, name.as_bytes(), value.as_bytes()));
        }
        write::header_u64(&mut out, "content-length", body.len() as u64);
        write::end_head(&mut out);
        out.extend_from_slice(body.as_bytes());
        self.stream.write_all(&out).unwrap();
    }

    /// Reads more; false once the backend has closed.
    fn fill(&mut self) -> bool {
        let mut piece = [0; 4096];
        match self.stream.read(&mut piece) {
            Ok(0) => false,
            Ok(count) => {
                self.buf.extend_from_slice(&piece[..count]);
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// The next answer; None if the backend closes without a whole head.
    fn answer(&mut self) -> Option<Answer> {
        let limits = Limits::default();
        let mut scan = HeadScan::default();
        let len = loop {
            match scan.find_end(&self.buf, &limits).unwrap() {
                Some(len) => break len,
                None if self.fill() => {}
                None => return None,
            }
        };
        let head = parse_response(&self.buf, len, Method::Post, &limits).unwrap();
        let raw_head = String::from_utf8(self.buf[..len].to_vec()).unwrap();
        let mut decoder = BodyDecoder::new(head.framing, &limits);
        let (mut at, mut body) = (len, Vec::new());
        let whole = loop {
            let step = decoder.decode(&self.buf[at..]).unwrap();
            if let Piece::Data(range) = step.piece.clone() {
                body.extend_from_slice(&self.buf[at..][range]);
            }
            at += step.consumed;
            match step.piece {
                Piece::End => break true,
                Piece::More if !self.fill() => break false,
                _ => {}
            }
        };
        self.buf.drain(..at);
        Some(Answer { head, raw_head, body, whole })
    }

    fn closed(&mut self) -> bool {
        !self.fill()
    }
}

fn post(handle: &Handle, path: &str, headers: &[(&str, &str)], body: &str) -> Option<Answer> {
    let mut peer = Peer::new(handle);
    peer.ask("POST", path, headers, body);
    peer.answer()
}

fn get(handle: &Handle, path: &str) -> Answer {
    let mut peer = Peer::new(handle);
    peer.ask("GET", path, &[], "");
    peer.answer().unwrap()
}

/// Waits until something that needs no further action of ours has come true.
fn until(claim: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "never came true: {claim}");
        std::thread::yield_now();
    }
}

fn chat(more: &str) -> String {
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":"one two three"}}]{more}}}"#)
}

#[test]
fn a_streamed_chat_is_byte_for_byte_what_vllm_sends() {
    let handle = start(Options { tokens: 2, ..Options::default() });
    let mut peer = Peer::new(&handle);
    peer.ask("POST", CHAT, &[], &chat(r#","stream":true,"stream_options":{"include_usage":true}"#));
    peer.ask("POST", CHAT, &[("connection", "close")], &chat(r#","stream":true,"max_tokens":1"#));
    while peer.fill() {}
    let event = |choices: &str, usage: &str| {
        let event = format!(
            "data: {{\"id\":\"chatcmpl-sim\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"m\",\"choices\":[{choices}]{usage}}}\n\n"
        );
        format!("{:x}\r\n{event}\r\n", event.len())
    };
    let delta = |delta: &str, finish: &str| {
        format!("{{\"index\":0,\"delta\":{{{delta}}},\"logprobs\":null,\"finish_reason\":{finish}}}")
    };
    let head = "HTTP/1.1 200 OK\r\nserver: obleth-sim-upstream\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n";
    let done = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
    let (null, role) = (",\"usage\":null", delta("\"role\":\"assistant\",\"content\":\"\"", "null"));
    let expected = [
        head,
        "\r\n",
        &event(&role, null),
        &event(&delta("\"content\":\"Hello\"", "null"), null),
        &event(&delta("\"content\":\" from\"", "null"), null),
        &event(&delta("\"content\":\"\"", "\"stop\",\"stop_reason\":null"), null),
        &event("", ",\"usage\":{\"prompt_tokens\":3,\"total_tokens\":5,\"completion_tokens\":2}"),
        done,
        head,
        "connection: close\r\n\r\n",
        &event(&role, ""),
        &event(&delta("\"content\":\"Hello\"", "null"), ""),
        &event(&delta("\"content\":\"\"", "\"length\",\"stop_reason\":null"), ""),
        done,
    ]
    .concat();
    assert_eq!(String::from_utf8(peer.buf).unwrap(), expected);
}

#[test]
fn json_answers_carry_text_and_usage() {
    let handle = start(Options { tokens: 3, model: "m,other".to_owned(), ..Options::default() });
    let answer = post(&handle, CHAT, &[("x-sim-header", "openai-processing-ms: 7")], &chat("")).unwrap();
    assert_eq!((answer.head.status, answer.head.framing), (200, Framing::Length(answer.body.len() as u64)));
    assert!(answer.raw_head.contains("openai-processing-ms: 7\r\n"));
    let json = answer.json();
    assert_eq!(json["choices"][0]["message"]["content"], "Hello from the");
    assert_eq!(json["usage"]["total_tokens"], 6);
    let text = post(&handle, "/v1/completions", &[], r#"{"prompt":"a b","max_tokens":2}"#).unwrap().json();
    assert_eq!((&text["choices"][0]["text"], &text["model"]), (&"Hello from".into(), &"m".into()));
    assert_eq!(text["choices"][0]["finish_reason"], "length");
    let vectors =
        post(&handle, "/v1/embeddings", &[], r#"{"model":"other","input":["a b","c"]}"#).unwrap().json();
    assert_eq!(vectors["data"][1]["embedding"], serde_json::json!([0.5, 1.0, 1.0, -1.0]));
    assert_eq!(vectors["usage"]["prompt_tokens"], 3);
    assert_eq!(get(&handle, "/v1/models").json()["data"][1]["id"], "other");
    assert_eq!(post(&handle, CHAT, &[], r#"{"model":"x","messages":[]}"#).unwrap().head.status, 404);
    assert_eq!(post(&handle, CHAT, &[], r#"{"model":"#).unwrap().head.status, 400);
    assert_eq!(post(&handle, CHAT, &[("x-sim-fault", "x")], &chat("")).unwrap().head.status, 400);
    assert_eq!(get(&handle, "/health").head.status, 200);
    assert_eq!(get(&handle, CHAT).head.status, 405);
    assert_eq!(get(&handle, "/").head.status, 404);
    let stats = handle.counters.stats();
    assert_eq!((stats.requests, stats.completed, stats.failed), (6, 3, 3));
    assert_eq!((stats.prompt_tokens, stats.completion_tokens), (8, 5));
}

#[test]
fn a_tool_is_called_in_a_stream_as_in_a_whole_answer() {
    let handle = start(Options { tokens: 2, ..Options::default() });
    let tools = r#","tools":[{"type":"function","function":{"name":"write"}}]"#;
    let json = post(&handle, CHAT, &[], &chat(tools)).unwrap().json();
    let call = &json["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!(call, &serde_json::json!({"name": "write", "arguments": r#"{"text": "Hello from"}"#}));
    let stream = chat(&format!(r#"{tools},"stream":true"#));
    let events = post(&handle, CHAT, &[("x-sim-comments", "1")], &stream).unwrap().events();
    assert_eq!(events[1]["choices"][0]["delta"]["tool_calls"][0]["function"]["name"], "write");
    let part = |event: &Value| event["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].clone();
    let parts: Vec<_> = events.iter().filter_map(|event| part(event).as_str().map(str::to_owned)).collect();
    assert_eq!(parts.concat(), r#"{"text": "Hello from"}"#);
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
}

#[test]
fn a_fault_strikes_a_request_id_as_often_as_it_is_told() {
    let handle = start(Options::default());
    let steered = [("x-sim-fault", "status-503"), ("x-sim-fault-times", "2"), ("x-request-id", "one")];
    let status = || post(&handle, CHAT, &steered, &chat("")).unwrap().head.status;
    assert_eq!([status(), status(), status()], [503, 503, 200]);
}

#[test]
fn steering_headers_change_length_usage_and_text() {
    let handle = start(Options { latency_ms: 3_600_000, ..Options::default() });
    let stream = |headers: &[(&str, &str)], more: &str| {
        let headers = [&[("x-sim-latency-ms", "0"), ("x-sim-tokens", "5")], headers].concat();
        let answer = post(&handle, CHAT, &headers, &chat(&format!(r#","stream":true{more}"#))).unwrap();
        assert!(answer.whole && answer.text().ends_with("data: [DONE]\n\n"));
        answer.events()
    };
    let ask = r#","stream_options":{"include_usage":true}"#;
    assert_eq!(stream(&[], "").len(), 7);
    assert!(stream(&[], "").iter().all(|event| event.get("usage").is_none()));
    assert!(stream(&[("x-sim-usage", "none")], ask).iter().all(|event| event.get("usage").is_none()));
    let last = stream(&[("x-sim-usage", "last-with-choices")], ask);
    assert_eq!((last.len(), &last[6]["usage"]["completion_tokens"]), (7, &5.into()));
    assert!(last[5]["usage"].is_null() && last[5].get("usage").is_some());
    let every = stream(&[("x-sim-usage", "every")], ask);
    assert_eq!(
        every,
        stream(&[], r#","stream_options":{"include_usage":true,"continuous_usage_stats":true}"#)
    );
    let counts: Vec<_> =
        every.iter().map(|event| event["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert_eq!(counts, [0, 1, 2, 3, 4, 5, 5, 5]);
    let bare = stream(&[("x-sim-usage", "final-only")], ask);
    assert_eq!(bare.iter().filter(|event| event.get("usage").is_some()).count(), 1);
    let stamps = stream(&[("x-sim-stamp", "1")], "");
    assert!(
        stamps[1]["choices"][0]["delta"]["content"].as_str().unwrap().parse::<u64>().unwrap()
            > 1_600_000_000_000_000
    );
    let body = chat(r#","stream":true"#);
    assert_eq!(stream(&[("x-sim-echo", "1")], "")[1]["choices"][0]["delta"]["content"], body);
    let echo = post(&handle, CHAT, &[("x-sim-latency-ms", "0"), ("x-sim-echo", "1")], &chat("")).unwrap();
    assert_eq!(echo.json()["choices"][0]["message"]["content"], chat(""));
    let text = post(
        &handle,
        "/v1/completions",
        &[("x-sim-latency-ms", "0")],
        r#"{"model":"m","prompt":"a","stream":true,"sim_tokens":2}"#,
    );
    let events = text.unwrap().events();
    assert_eq!((events.len(), &events[1]["choices"][0]["text"]), (3, &" from".into()));
}

#[test]
fn a_death_leaves_exactly_the_phases_before_it() {
    let handle = start(Options { tokens: 30, ..Options::default() });
    let rows =
        [("die-after-head", 0), ("die-after-role", 1), ("die-after-tokens", 11), ("die-before-done", 33)];
    for (fault, events) in rows {
        let body = chat(r#","stream":true,"stream_options":{"include_usage":true}"#);
        let answer = post(&handle, CHAT, &[("x-sim-fault", fault)], &body).unwrap();
        assert_eq!(
            (answer.head.status, answer.whole, answer.events().len()),
            (200, false, events),
            "{fault}"
        );
        assert!(!answer.text().contains("[DONE]"));
        let json = post(&handle, CHAT, &[("x-sim-fault", fault)], &chat("")).unwrap();
        let Framing::Length(announced) = json.head.framing else { panic!("a length is announced") };
        assert!(!json.whole && (json.body.len() as u64) < announced, "{fault}");
    }
    for body in [chat(""), chat(r#","stream":true"#)] {
        assert!(post(&handle, CHAT, &[("x-sim-fault", "die-before-head")], &body).is_none());
    }
    let stats = handle.counters.stats();
    assert_eq!((stats.requests, stats.failed, stats.completed, stats.aborted), (10, 10, 0, 0));
}

#[test]
fn a_status_fault_has_the_body_of_the_server_it_stands_for() {
    let handle = start(Options::default());
    for status in [400, 401, 404, 422, 429, 500, 503] {
        let fault = format!("status-{status}");
        let answer = post(&handle, CHAT, &[("x-sim-fault", &fault)], &chat("")).unwrap();
        assert_eq!((answer.head.status, answer.head.keep_alive), (status, true));
        let body = answer.json();
        match status {
            401 => assert_eq!(body["error"], "Unauthorized"),
            422 => assert!(body["detail"].is_array()),
            _ => assert_eq!(body["error"]["code"], status),
        }
        assert_eq!(answer.raw_head.contains("retry-after: 2\r\n"), status == 429);
    }
    assert_eq!(handle.counters.stats().failed, 7);
}

#[test]
fn a_connection_is_kept_unless_somebody_says_otherwise() {
    let handle = start(Options::default());
    let mut peer = Peer::new(&handle);
    for _ in 0..3 {
        peer.ask("POST", CHAT, &[], &chat(r#","stream":true"#));
        assert!(peer.answer().unwrap().whole);
    }
    assert_eq!(handle.counters.stats().connections, 1);
    peer.ask("POST", CHAT, &[("x-sim-fault", "close-idle")], &chat(""));
    let last = peer.answer().unwrap();
    assert!(last.whole && last.head.keep_alive && peer.closed());
    let idle = start(Options { keep_alive_ms: 1, ..Options::default() });
    assert!(Peer::new(&idle).closed());
    let mut malformed = Peer::new(&idle);
    malformed.stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(malformed.answer().unwrap().head.status, 400);
    assert!(malformed.closed());
}

#[test]
fn a_client_that_leaves_is_counted_with_what_was_made_for_it() {
    let handle = start(Options { tokens: 100, ..Options::default() });
    let mut streaming = Peer::new(&handle);
    streaming.ask("POST", CHAT, &[("x-sim-fault", "stall-after-tokens")], &chat(r#","stream":true"#));
    until("ten tokens are there", || {
        streaming.fill();
        String::from_utf8_lossy(&streaming.buf).matches("data: ").count() == 11
    });
    drop(streaming);
    until("the stream is aborted", || handle.counters.stats().aborted == 1);
    assert_eq!(handle.counters.stats().completion_tokens, 10);
    let mut waiting = Peer::new(&handle);
    waiting.ask("POST", CHAT, &[("x-sim-fault", "stall-before-head")], &chat(""));
    until("it is generated", || handle.counters.stats().active == 1);
    drop(waiting);
    until("the answer is aborted", || handle.counters.stats().aborted == 2);
    let mut paced = Peer::new(&handle);
    paced.ask("POST", CHAT, &[("x-sim-tps", "0.001")], &chat(""));
    until("it is generated", || handle.counters.stats().active == 1);
    drop(paced);
    until("the paced answer is aborted", || handle.counters.stats().aborted == 3);
    let stats = handle.counters.stats();
    assert_eq!((stats.completion_tokens, stats.prompt_tokens, stats.active), (11, 9, 0));
    until("the connections are closed", || handle.counters.stats().open_connections == 0);
}

#[test]
fn a_client_that_leaves_an_unpaced_stream_stops_it() {
    let handle = start(Options::default());
    let mut peer = Peer::new(&handle);
    peer.ask("POST", CHAT, &[("x-sim-tokens", "4000000000")], &chat(r#","stream":true"#));
    assert!(peer.fill());
    drop(peer);
    until("the stream is aborted", || handle.counters.stats().aborted == 1);
    assert!(handle.counters.stats().completion_tokens > 0);
}

#[test]
fn requests_over_the_limit_wait_in_order_or_are_refused() {
    let handle = start(Options { max_concurrency: Some(1), ..Options::default() });
    let stall = [("x-sim-fault", "stall-before-head")];
    let mut running = Peer::new(&handle);
    running.ask("POST", CHAT, &stall, &chat(""));
    until("the first one runs", || handle.counters.stats().active == 1);
    let mut leaving = Peer::new(&handle);
    leaving.ask("POST", CHAT, &[], &chat(""));
    until("the second one waits", || handle.counters.stats().queued == 1);
    let mut patient = Peer::new(&handle);
    patient.ask("POST", CHAT, &[], &chat(""));
    until("the third one waits", || handle.counters.stats().queued == 2);
    drop(leaving);
    until("the second one left the queue", || handle.counters.stats().queued == 1);
    let changed = post(&handle, "/sim/options", &[], r#"{"reject_over_limit":true}"#).unwrap();
    assert_eq!(changed.json()["max_concurrency"], 1);
    let refused = post(&handle, CHAT, &[], &chat("")).unwrap();
    assert_eq!((refused.head.status, &refused.json()["error"]["code"]), (503, &503.into()));
    drop(running);
    assert_eq!(patient.answer().unwrap().head.status, 200);
    let stats = handle.counters.stats();
    assert_eq!((stats.max_active, stats.completed, stats.aborted, stats.failed), (1, 1, 2, 1));
}

#[test]
fn stats_show_what_ran_and_what_was_received() {
    let handle = start(Options::default());
    let id = [("X-Request-Id", "r-1")];
    let body = chat(r#","user":"é""#);
    for _ in 0..2 {
        post(&handle, CHAT, &id, &body).unwrap();
    }
    assert_eq!((handle.counters.count_of("r-1"), handle.counters.count_of("r-2")), (2, 0));
    let stats = get(&handle, "/sim/stats").json();
    assert_eq!(
        (&stats["requests"], &stats["completed"], &stats["by_request_id"]["r-1"]),
        (&2.into(), &2.into(), &2.into())
    );
    assert_eq!(stats["last_request"]["body"], body);
    let head = stats["last_request"]["head"].as_str().unwrap();
    assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1\r\nhost: sim\r\nX-Request-Id: r-1\r\n"));
    assert!(head.ends_with("\r\n\r\n"));
    post(&handle, "/sim/reset", &[], "").unwrap();
    let stats = get(&handle, "/sim/stats").json();
    assert_eq!((&stats["requests"], &stats["last_request"]["body"]), (&0.into(), &"".into()));
    assert_eq!(stats["by_request_id"], serde_json::json!({}));
}

#[test]
fn the_journal_has_a_line_for_every_request() {
    let handle = start(Options { journal: 9, tokens: 3, ..Options::default() });
    post(&handle, CHAT, &[("x-request-id", "a")], &chat("")).unwrap();
    post(&handle, CHAT, &[("x-request-id", "b"), ("x-sim-fault", "status-429")], &chat("")).unwrap();
    let page = |path| get(&handle, path).text().split(['\t', '\n']).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(page("/sim/journal")[3..9], ["3", "3", "200", "completed", "1", "b"]);
    assert_eq!(page("/sim/journal?after=0")[3..], ["0", "0", "429", "failed", ""]);
}

#[test]
fn only_the_configured_credential_is_accepted_and_never_shown() {
    let handle = start(Options { api_key: Some("good".to_owned()), ..Options::default() });
    for headers in [&[][..], &[("authorization", "Bearer bad")], &[("authorization", "good")]] {
        let refused = post(&handle, CHAT, headers, &chat("")).unwrap();
        assert_eq!((refused.head.status, refused.text()), (401, r#"{"error":"Unauthorized"}"#));
    }
    assert_eq!(post(&handle, CHAT, &[("authorization", "Bearer good")], &chat("")).unwrap().head.status, 200);
    assert_eq!(get(&handle, "/v1/models").head.status, 401);
    let shown = post(&handle, "/sim/options", &[], r#"{"fault":"status-500","tokens":2}"#).unwrap();
    assert!(!shown.text().contains("good"));
    let answer = post(&handle, CHAT, &[("authorization", "Bearer good")], &chat("")).unwrap();
    assert_eq!(answer.head.status, 500);
    let steered = [("authorization", "Bearer good"), ("x-sim-fault", "none")];
    assert_eq!(post(&handle, CHAT, &steered, &chat("")).unwrap().json()["usage"]["completion_tokens"], 2);
    assert_eq!(post(&handle, "/sim/options", &[], r#"{"nonsense":1}"#).unwrap().head.status, 400);
}

#[test]
fn chunked_and_expected_bodies_are_read() {
    let handle = start(Options::default());
    let mut peer = Peer::new(&handle);
    let body = chat("");
    let mut out = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: sim\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    peer.stream.write_all(&out).unwrap();
    let go_on = peer.answer().unwrap();
    assert_eq!((go_on.head.status, go_on.head.framing), (100, Framing::None));
    out.clear();
    for piece in body.as_bytes().chunks(7) {
        write::chunk(&mut out, piece);
        peer.stream.write_all(&out).unwrap();
        out.clear();
    }
    peer.stream.write_all(b"0\r\nx-trailer: 1\r\n\r\n").unwrap();
    assert_eq!(peer.answer().unwrap().head.status, 200);
    assert_eq!(handle.counters.last_request().body, body.into_bytes());
}

#[test]
fn stopping_closes_every_connection() {
    let handle = start(Options { fault: Some(Fault::StallBeforeHead), ..Options::default() });
    let mut stalled = Peer::new(&handle);
    stalled.ask("POST", CHAT, &[], &chat(""));
    until("it stalls", || handle.counters.stats().active == 1);
    let addr = handle.addr;
    handle.stop();
    assert!(stalled.closed());
    assert!(TcpStream::connect(addr).is_err());
}
