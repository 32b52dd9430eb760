//! The simulated OpenAI-compatible backend: what `obleth sim-upstream`, `serve --demo`, the tests and the load runs
//! talk to instead of a GPU.
//!
//! It speaks HTTP as vLLM's server does, down to which events share a write, and it can die, stall or refuse on
//! request at every phase of an answer. It keeps its own count of what it ran, so that a test can hold the gateway's
//! ledger against somebody else's. It is built on the gateway's own strict codec: a request that the gateway garbles
//! is refused here.
//!
//! Its answers are deterministic (fixed id, `created` and text), so that the bytes of a direct call can be compared
//! with those that came through the gateway. It must never be reachable from outside a test machine: `/sim/*` takes
//! no credential.

mod answer;
mod ask;
mod connection;
mod counters;
mod gate;
mod generate;
mod journal;
mod oddity;
mod options;
mod plan;
mod server;
mod shape;
mod socket;
mod tls;

pub use counters::{Counters, LastRequest, Stats};
pub use oddity::Oddity;
pub use options::{Fault, Options, UnknownName, UsageShape};
pub use server::{Handle, serve, spawn};
pub use tls::Tls;
