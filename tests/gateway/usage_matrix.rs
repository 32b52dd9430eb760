//! Usage, wherever a backend puts it and whatever the client asked for: the client gets what a direct call would have
//! brought, and the figures are the backend's own.
//!
//! Every case is asked twice, directly and through the gateway, and counted alone, so that no error of one hides behind
//! another's.

use obleth_upstream::Stats;
use serde_json::Value;

use super::{
    http::{End, Request, Response},
    process::until,
    world::{ENDPOINTS, MODEL, World, body_of},
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

/// Events of a stream that have choices.
fn filled(answer: &Response) -> u64 {
    let events = answer.events();
    let filled = |event: &&String| {
        serde_json::from_str::<Value>(event)
            .is_ok_and(|chunk| chunk["choices"].as_array().is_some_and(|choices| !choices.is_empty()))
    };
    events.iter().filter(filled).count() as u64
}

#[test]
fn a_streams_bytes_are_those_of_a_direct_call_and_its_figures_the_backends() {
    let world = World::start();
    for endpoint in &ENDPOINTS[..2] {
        for shape in SHAPES {
            for options in STREAM_OPTIONS {
                for length in LENGTHS {
                    let what = format!("{endpoint} {shape} {options} {length}");
                    let body = body_of(endpoint, MODEL, &format!(",\"stream\":true{options}{length}"));
                    let request = world.post(endpoint, body).header("x-sim-usage", shape);
                    let (answer, books) = ask(&world, &request, &what);
                    assert_eq!(answer.header("x-accel-buffering"), Some("no"), "{what}");
                    // Of a backend that says nothing, events are counted: tokens, role and finish reason.
                    let expected = if shape == "none" { (0, filled(&answer)) } else { books.used() };
                    until(&format!("{what}: {expected:?}"), || books.counted() == expected);
                }
            }
        }
    }
    world.until_idle();
}

#[test]
fn a_json_answers_bytes_are_those_of_a_direct_call_and_its_figures_the_backends() {
    let world = World::start();
    for endpoint in ENDPOINTS {
        for shape in SHAPES {
            for more in
                ["", r#","stream":false"#, r#","stream":null,"max_tokens":3"#, r#","sim_tokens":30000"#]
            {
                let what = format!("{endpoint} {shape} {more}");
                let request =
                    world.post(endpoint, body_of(endpoint, MODEL, more)).header("x-sim-usage", shape);
                let (answer, books) = ask(&world, &request, &what);
                assert_eq!(answer.header("transfer-encoding"), None, "{what}");
                let expected = if shape == "none" { (0, 0) } else { books.used() };
                assert_eq!(answer.json()["usage"].is_object(), shape != "none", "{what}");
                until(&format!("{what}: {expected:?}"), || books.counted() == expected);
            }
        }
    }
    let embeddings = body_of(ENDPOINTS[2], MODEL, r#","stream":true,"encoding_format":"base64""#);
    let (_, books) = ask(&world, &world.post(ENDPOINTS[2], embeddings), "embeddings never stream");
    until("embeddings are counted", || books.counted() == books.used());
    world.until_idle();
}
