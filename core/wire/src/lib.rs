//! Pure bytes: HTTP/1, JSON, server-sent events and the OpenAI dialect.
//!
//! Everything here is a function of its arguments: no socket, no clock, no randomness, no thread. It exists as a crate
//! of its own so that the code that meets hostile input first can be tested and fuzzed without a runtime. It must never
//! panic on any input, and never allocate on the path that every request takes, but
//! for the table of a head's lines.

// Tests may; the code that meets the network may not.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod credential;
pub mod http1;
pub mod json;
pub mod openai;
pub mod splice;
pub mod sse;
pub mod usage;
mod word;
