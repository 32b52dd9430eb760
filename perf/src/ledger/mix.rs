//! Which request comes next: kinds, callers, lengths, and who leaves when, all drawn from a seed.
//!
//! Every request has an `x-request-id` of its own, by which the three books are held against each other.

use std::{net::SocketAddr, time::Duration};

use serde_json::json;

use super::told::Kind;
use crate::{
    load::{Random, chat_request},
    subject::MODEL,
};

/// The model with too few slots.
pub(super) const TIGHT: &str = "tight";
/// How often each kind comes, of a hundred.
const KINDS: [(Kind, u32); 8] = [
    (Kind::Stream, 45),
    (Kind::Json, 25),
    (Kind::Embedding, 5),
    (Kind::Tight, 10),
    (Kind::Unknown, 4),
    (Kind::Stranger, 4),
    (Kind::Garbled, 2),
    (Kind::Faulty, 5),
];
/// Part of the answers that their clients do not wait for.
const LEAVING: f64 = 0.13;
/// Longest answer in tokens, and longest prompt in words.
const TOKENS: u32 = 16;
const WORDS: u32 = 40;
/// Pace of the answers that are not made as fast as possible.
const TOKENS_PER_SECOND: u32 = 400;
/// Longest time to the first token.
const LATENCY_MS: u32 = 20;
/// What goes wrong at the backend.
const FAULTS: [&str; 6] =
    ["status-500", "status-429", "status-400", "die-before-head", "die-after-tokens", "die-before-done"];
/// Where the backend puts a stream's usage.
const USAGE: [&str; 4] = ["final", "final-only", "last-with-choices", "every"];

/// Draws requests.
#[derive(Debug)]
pub(super) struct Mix {
    seed: u64,
    random: Random,
    target: SocketAddr,
    keys: Vec<String>,
}

/// A request to send.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) kind: Kind,
    pub(super) bytes: Vec<u8>,
    /// After how long its client leaves, if it does.
    pub(super) leaves: Option<Duration>,
}

/// The `x-request-id` of a request.
fn request_id(seed: u64, number: usize) -> String {
    format!("ledger-{seed:x}-{number}")
}

/// Which request of the run an `x-request-id` names; none if it is nobody's.
pub(super) fn number_of(seed: u64, id: &str) -> Option<usize> {
    let number = id.strip_prefix("ledger-")?.strip_prefix(&format!("{seed:x}-"))?.parse().ok()?;
    (request_id(seed, number) == id).then_some(number)
}

impl Mix {
    /// `keys` are the secrets of the callers, at least one.
    pub(super) fn new(seed: u64, target: SocketAddr, keys: Vec<String>) -> Self {
        Self { seed, random: Random::new(seed), target, keys }
    }

    fn below(&mut self, limit: u32) -> u32 {
        (self.random.uniform() * f64::from(limit)).ceil() as u32 - 1
    }

    fn one_of<'a>(&mut self, of: &[&'a str]) -> &'a str {
        let at = self.below(of.len() as u32) as usize;
        of.get(at).copied().unwrap_or_default()
    }

    fn kind(&mut self) -> Kind {
        let mut left = self.below(KINDS.iter().map(|(_, often)| often).sum());
        for (kind, often) in KINDS {
            if left < often {
                return kind;
            }
            left -= often;
        }
        Kind::Stream
    }

    fn key(&mut self, kind: Kind) -> String {
        if kind == Kind::Stranger {
            return format!("sk_{:048}", self.below(u32::MAX));
        }
        let at = self.below(self.keys.len() as u32) as usize;
        self.keys.get(at).cloned().unwrap_or_default()
    }

    /// Request number `number`.
    pub(super) fn draw(&mut self, number: usize) -> Ask {
        let kind = self.kind();
        let tokens = self.below(TOKENS) + 1;
        let paced = self.random.uniform() < 0.5;
        let pace = if paced { TOKENS_PER_SECOND } else { 0 };
        let latency_ms = if paced { self.below(LATENCY_MS) } else { 0 };
        let mut lines = vec![
            format!("x-request-id: {}", request_id(self.seed, number)),
            format!("x-sim-tokens: {tokens}"),
            format!("x-sim-tps: {pace}"),
            format!("x-sim-latency-ms: {latency_ms}"),
            format!("x-sim-usage: {}", self.one_of(&USAGE)),
        ];
        if kind == Kind::Faulty {
            lines.push(format!("x-sim-fault: {}", self.one_of(&FAULTS)));
        }
        let (path, body) = self.body(kind);
        let key = self.key(kind);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let bytes = chat_request(self.target, path, &key, &lines, &body);
        let made = f64::from(tokens * u32::from(paced)) / f64::from(TOKENS_PER_SECOND);
        let expected = Duration::from_millis(u64::from(latency_ms) + 2) + Duration::from_secs_f64(made);
        let leaves = (self.random.uniform() <= LEAVING).then(|| expected.mul_f64(self.random.uniform()));
        Ask { kind, bytes, leaves }
    }

    fn body(&mut self, kind: Kind) -> (&'static str, String) {
        let words = vec!["word"; self.below(WORDS) as usize + 1].join(" ");
        let model = match kind {
            Kind::Unknown => "nobody",
            Kind::Tight => TIGHT,
            _ => MODEL,
        };
        let messages = json!([{"role": "user", "content": words}]);
        let streamed = json!({"model": model, "stream": true, "messages": messages}).to_string();
        match kind {
            Kind::Json if self.random.uniform() < 0.5 => {
                ("/v1/completions", json!({"model": model, "prompt": words}).to_string())
            }
            Kind::Json => ("/v1/chat/completions", json!({"model": model, "messages": messages}).to_string()),
            Kind::Embedding => ("/v1/embeddings", json!({"model": model, "input": words}).to_string()),
            Kind::Garbled => ("/v1/chat/completions", format!("{streamed}]")),
            _ => ("/v1/chat/completions", streamed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix(seed: u64) -> Mix {
        Mix::new(seed, "127.0.0.1:1".parse().unwrap(), vec!["sk_a".to_owned(), "sk_b".to_owned()])
    }

    #[test]
    fn equal_seeds_draw_equal_requests_of_every_kind() {
        let draw = |seed| {
            let mut mix = mix(seed);
            (0..1000).map(|number| mix.draw(number)).collect::<Vec<_>>()
        };
        let (one, same) = (draw(3), draw(3));
        assert!(
            one.iter().zip(&same).all(|(one, same)| one.bytes == same.bytes && one.leaves == same.leaves)
        );
        for (kind, _) in KINDS {
            assert!(one.iter().any(|ask| ask.kind == kind), "{kind:?}");
        }
        let leaving = one.iter().filter(|ask| ask.leaves.is_some()).count();
        assert!((80..180).contains(&leaving), "{leaving}");
    }

    #[test]
    fn an_id_names_its_request_and_nobody_elses() {
        assert_eq!(number_of(10, &request_id(10, 77)), Some(77));
        for other in ["ledger-a-077", "ledger-b-77", "ledger-a-", "77", ""] {
            assert_eq!(number_of(10, other), None, "{other}");
        }
    }
}
