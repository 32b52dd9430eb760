//! What must hold of `obleth-wire` for any input, one module per target.
//!
//! It exists as a library so that the same checks run in two ways: over the committed corpus with every `cargo test`,
//! and over what the engine makes up in `tests/fuzz/run`. A check panics where something does not hold. It must judge by
//! rules of its own (a naive reading of the whole input, serde_json, hyper), never by calling the judged code twice.

mod body;
mod connection;
mod credential;
mod dom;
mod head;
mod input;
mod json;
mod peer;
mod request_body;
mod response_head;
mod stream;
mod usage;

/// One thing to fuzz.
pub struct Target {
    /// Its name, also that of its folder in the corpus.
    pub name: &'static str,
    /// Panics if the input shows a defect.
    pub check: fn(&[u8]),
}

/// Every target.
pub const TARGETS: [Target; 8] = [
    Target { name: "body", check: body::check },
    Target { name: "connection", check: connection::check },
    Target { name: "credential", check: credential::check },
    Target { name: "json", check: json::check },
    Target { name: "request_body", check: request_body::check },
    Target { name: "response_head", check: response_head::check },
    Target { name: "stream", check: stream::check },
    Target { name: "usage", check: usage::check },
];

/// The check of the target called `name`.
pub fn find(name: &str) -> Option<fn(&[u8])> {
    TARGETS.iter().find(|target| target.name == name).map(|target| target.check)
}
