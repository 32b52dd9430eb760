//! Usage, wherever a backend puts it and whatever the client asked for: the client gets what a direct call would have
//! brought, and the figures are the backend's own.
//!
//! Every case is asked twice, directly and through the gateway, and counted alone, so that no error of one hides behind
//! another's. Its row says the same as the figures, and who counted.

use obleth_upstream::Stats;
use serde_json::{Value, json};

use super::{
    http::{End, Request, Response},
    process::until,
    world::{Canned, ENDPOINTS, MODEL, World, body_of},
};

/// Where a backend may put a stream's usage; with `none`, a JSON answer has none either.
const SHAPES: [&str; 5] = ["final", "final-only", "last-with-choices", "every", "none"];

/// Ways in which a client asks, or does not ask, for a stream's usage.
const STREAM_OPTIONS: [&str; 9] = [
    "",
    r#","stream_options":null"#,
    r#","stream_options":{}"#,
    r#","stream_options":{"include_usage":false}"#,
    r#","stream_options":{"include_usage":null}"#,
    r#","stream_options":{"include_usage":true}"#,
    r#","stream_options":{"include_usage":true,"continuous_usage_stats":true}"#,
    r#","stream_options":{"continuous_usage_stats":true}"#,
    r#","stream_options":{"other":[1,{"include_usage":true}]}"#,
];

/// Lengths of answers: the backend's own, none, one token, many.
const LENGTHS: [&str; 4] = ["", r#","sim_tokens":0"#, r#","max_tokens":1"#, r#","sim_tokens":300"#];

/// Input and output tokens.
type Tokens = (u64, u64);

/// What rows must say: of each request what it was, its tokens, and who counted them.
#[derive(Default)]
struct Rows(Vec<(String, Tokens, &'static str)>);

impl Rows {
    /// An id for the next request.
    fn next(&self) -> String {
        format!("case-{}", self.0.len())
    }

    /// `source` is of a backend that says nothing; others count themselves.
    fn expect(&mut self, what: String, tokens: Tokens, (shape, source): (&str, &'static str)) {
        self.0.push((what, tokens, if shape == "none" { source } else { "upstream" }));
    }

    #[track_caller]
    fn check(&self, world: &World) {
        let mut rows = Vec::new();
        until("every request has its row", || {
            rows = world.rows();
            rows.len() >= self.0.len()
        });
        assert_eq!(rows.len(), self.0.len());
        for (at, (what, (input, output), source)) in self.0.iter().enumerate() {
            let id = format!("case-{at}");
            let row = rows.iter().find(|row| row["request_id"] == id).unwrap_or_else(|| panic!("{what}"));
            assert_eq!(row["usage_source"], *source, "{what} {row:#}");
            match *source {
                "upstream" => assert_eq!(row["input_tokens"], *input, "{what} {row:#}"),
                _ => assert!(row["input_tokens"].as_u64() > Some(0), "{what} {row:#}"),
            }
            if *source != "estimated" {
                assert_eq!(row["output_tokens"], *output, "{what} {row:#}");
            }
        }
    }
}

/// What the backend itself counts, and what the gateway says.
struct Books<'w> {
    world: &'w World,
    truth: Tokens,
    figures: Tokens,
}

fn truth(sim: &Stats) -> Tokens {
    (sim.prompt_tokens, sim.completion_tokens)
}

fn minus(now: Tokens, before: Tokens) -> Tokens {
    (now.0 - before.0, now.1 - before.1)
}

impl<'w> Books<'w> {
    fn open(world: &'w World) -> Self {
        Self { world, truth: truth(&world.sim()), figures: figures(world) }
    }

    /// What the backend has used since.
    fn used(&self) -> Tokens {
        minus(truth(&self.world.sim()), self.truth)
    }

    fn counted(&self) -> Tokens {
        minus(figures(self.world), self.figures)
    }
}

fn figures(world: &World) -> Tokens {
    let figure = |name: &str| world.gateway.metric(name) as u64;
    (figure("obleth_input_tokens_total"), figure("obleth_output_tokens_total"))
}

/// Asks directly and through the gateway; the answers must be the same. The books are of the latter alone.
#[track_caller]
fn ask<'w>(world: &'w World, request: &Request, what: &str) -> (Response, Books<'w>) {
    let direct = request.to(world.sim.addr);
    let books = Books::open(world);
    let through = world.ask(request);
    assert_eq!((direct.status, through.status), (200, 200), "{what}: {}", through.text());
    assert_eq!((direct.end, through.end), (End::Complete, End::Complete), "{what}");
    assert_eq!(through.header("content-type"), direct.header("content-type"), "{what}");
    assert_eq!(through.text(), direct.text(), "{what}");
    (through, books)
}

#[test]
fn a_streams_bytes_are_those_of_a_direct_call_and_its_figures_the_backends() {
    let (world, mut rows) = (World::start(), Rows::default());
    for endpoint in &ENDPOINTS[..2] {
        for shape in SHAPES {
            for options in STREAM_OPTIONS {
                for length in LENGTHS {
                    let what = format!("{endpoint} {shape} {options} {length}");
                    let body = body_of(endpoint, MODEL, &format!(",\"stream\":true{options}{length}"));
                    let request = world.post(endpoint, body).header("x-sim-usage", shape);
                    let (answer, books) = ask(&world, &request.header("x-request-id", rows.next()), &what);
                    assert_eq!(answer.header("x-accel-buffering"), Some("no"), "{what}");
                    // Of a backend that says nothing, events are counted that bring a piece of the answer.
                    let expected = if shape == "none" { (0, books.used().1) } else { books.used() };
                    until(&format!("{what}: {expected:?}"), || books.counted() == expected);
                    rows.expect(what, expected, (shape, "counted"));
                }
            }
        }
    }
    rows.check(&world);
    world.until_idle();
}

#[test]
fn a_json_answers_bytes_are_those_of_a_direct_call_and_its_figures_the_backends() {
    let (world, mut rows) = (World::start(), Rows::default());
    for endpoint in ENDPOINTS {
        for shape in SHAPES {
            for more in
                ["", r#","stream":false"#, r#","stream":null,"max_tokens":3"#, r#","sim_tokens":30000"#]
            {
                let what = format!("{endpoint} {shape} {more}");
                let request =
                    world.post(endpoint, body_of(endpoint, MODEL, more)).header("x-sim-usage", shape);
                let (answer, books) = ask(&world, &request.header("x-request-id", rows.next()), &what);
                assert_eq!(answer.header("transfer-encoding"), None, "{what}");
                let expected = if shape == "none" { (0, 0) } else { books.used() };
                assert_eq!(answer.json()["usage"].is_object(), shape != "none", "{what}");
                until(&format!("{what}: {expected:?}"), || books.counted() == expected);
                rows.expect(what, expected, (shape, "estimated"));
            }
        }
    }
    rows.check(&world);
    let embeddings = body_of(ENDPOINTS[2], MODEL, r#","stream":true,"encoding_format":"base64""#);
    let (_, books) = ask(&world, &world.post(ENDPOINTS[2], embeddings), "embeddings never stream");
    until("embeddings are counted", || books.counted() == books.used());
    world.until_idle();
}

/// A world whose model is one of a backend that counts while it streams.
fn continuous() -> World {
    let world = World::start();
    world.gateway.patch(&format!("/models/{}", world.model_id), json!({"continuous_usage": true}));
    world
}

#[test]
fn running_counts_are_for_the_gateway_alone_unless_the_client_asks_for_them() {
    let (world, mut rows) = (continuous(), Rows::default());
    for endpoint in &ENDPOINTS[..2] {
        // As vLLM does it; and one that cannot count.
        for shape in ["final-only", "none"] {
            for options in STREAM_OPTIONS {
                for length in LENGTHS {
                    let what = format!("{endpoint} {shape} {options} {length}");
                    let body = body_of(endpoint, MODEL, &format!(",\"stream\":true{options}{length}"));
                    let request = world.post(endpoint, body).header("x-sim-usage", shape);
                    let (_, books) = ask(&world, &request.header("x-request-id", rows.next()), &what);
                    let sent: Value =
                        serde_json::from_slice(&world.sim.counters.last_request().body).unwrap();
                    assert_eq!(sent["stream_options"]["continuous_usage_stats"], true, "{what}");
                    let expected = if shape == "none" { (0, books.used().1) } else { books.used() };
                    until(&format!("{what}: {expected:?}"), || books.counted() == expected);
                    rows.expect(what, expected, (shape, "counted"));
                }
            }
        }
        let plain = body_of(endpoint, MODEL, r#","stream":false"#);
        let request = world.post(endpoint, plain.clone()).header("x-request-id", rows.next());
        let (_, books) = ask(&world, &request, "not a stream");
        assert_eq!(world.sim.counters.last_request().body, plain.as_bytes());
        rows.expect("not a stream".to_owned(), books.used(), ("json", "estimated"));
    }
    rows.check(&world);
    world.until_idle();
}

#[test]
fn usage_that_comes_with_the_last_choices_reaches_the_client_that_asked_for_it() {
    // A stand-in that knows nothing of running counts.
    let canned = Canned::start(concat!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
        "data: {\"choices\":[{\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":1}}\n\n",
        "data: [DONE]\n\n",
    ));
    let world = World::start();
    let api_base = format!("http://{}", canned.addr);
    world.new_model("canned", json!({"api_base": api_base, "continuous_usage": true}));
    let asked = r#","stream":true,"stream_options":{"include_usage":true}"#;
    for (more, comes) in [(asked, true), (r#","stream":true"#, false)] {
        let books = Books::open(&world);
        let answer = world.ask(&world.post(ENDPOINTS[0], body_of(ENDPOINTS[0], "canned", more)));
        assert!(answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
        assert_eq!(answer.text().contains("completion_tokens"), comes, "{}", answer.text());
        until("its usage counts", || books.counted() == (2, 1));
    }
}

#[test]
fn a_stream_that_breaks_off_is_counted_exactly_where_the_backend_counts_while_it_streams() {
    let (world, mut rows) = (continuous(), Rows::default());
    for endpoint in &ENDPOINTS[..2] {
        for options in [STREAM_OPTIONS[0], STREAM_OPTIONS[5]] {
            let body = || body_of(endpoint, MODEL, &format!(",\"stream\":true,\"sim_tokens\":500{options}"));
            let books = Books::open(&world);
            let request = |fault| world.post(endpoint, body()).header("x-sim-fault", fault);
            let cut = world.ask(&request("die-after-tokens").header("x-request-id", rows.next()));
            assert_eq!(cut.end, End::Cut, "{}", cut.text());
            until("what was generated before it died", || books.counted() == books.used());
            assert_eq!(books.used().1, 10);
            rows.expect("it died".to_owned(), books.used(), ("", ""));

            let books = Books::open(&world);
            let mut leaving = world.connect();
            leaving.send(request("stall-after-tokens").header("x-request-id", rows.next()).bytes());
            // The tenth of the backend's words; it stalls behind it.
            leaving.read_until("word");
            leaving.close();
            until("what was generated before the client left", || books.counted() == books.used());
            assert_eq!(books.used().1, 10);
            rows.expect("the client left".to_owned(), books.used(), ("", ""));
            world.until_idle();
        }
    }
    rows.check(&world);
}
