//! The load generators: a closed loop for the cost of a request, an open loop for what users would have waited.
//!
//! One thread, one epoll, no runtime: what the generator costs is not the backend's to have. `run` reads like the
//! run: connect, warm up, measure, drain. A refused, short or broken answer ends it; the round is then void.

mod answer;
mod connection;
mod engine;
mod histogram;
mod outcome;
mod random;
mod schedule;

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;

pub(crate) use self::{
    answer::{AnswerReader, Frame, Progress},
    histogram::{Interval, write_hgrm, write_hlog},
    outcome::{Outcome, Times},
    random::Random,
    schedule::{Arrivals, Schedule},
};

/// What load to put on whom.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Who gets it: connections go to them in turn. At least one.
    pub(crate) targets: Vec<Target>,
    /// Connections, each with one request at a time.
    pub(crate) connections: usize,
    /// Requests of one connection; unlimited if none.
    pub(crate) each: Option<u64>,
    /// When requests leave.
    pub(crate) pace: Pace,
    /// Load without measuring, before.
    pub(crate) warmup: Duration,
    /// Load with measuring.
    pub(crate) window: Duration,
    /// Whether the window closes once every connection has sent all of its requests and has its answers.
    pub(crate) until_spent: bool,
    /// How long answers under way may take to end, after. None: they are given up.
    pub(crate) drain: Option<Duration>,
    /// Whether every answer has as many bytes as the first.
    pub(crate) equal_answers: bool,
}

/// Somebody who answers, and what is asked of it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// The whole request, head and body; the same every time. Goes out in one write, so at most 64 KiB.
    pub(crate) request: Vec<u8>,
}

/// When requests leave.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// A connection sends the next request once the answer is complete. First requests are spread over `ramp`.
    Closed { ramp: Duration },
    /// At `rate` per second, whatever the answers do; what finds every connection busy waits and is late.
    Open { rate: f64, arrivals: Arrivals, seed: u64 },
}

/// The edges of the window, for whoever measures something else over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edge {
    Begin,
    End,
}

/// Puts the load on. `at` is called at the window's edges, on this thread.
///
/// # Errors
/// A connection or an answer failed, `at` failed, or a signal came.
pub(crate) fn run(plan: &Plan, at: &mut dyn FnMut(Edge) -> Result<()>) -> Result<Outcome> {
    engine::Engine::new(plan)?.run(at)
}

/// A request for a chat completion, as the SDKs send it, but for headers that nobody acts on.
pub(crate) fn chat_request(target: SocketAddr, path: &str, key: &str, extra: &[&str], body: &str) -> Vec<u8> {
    let mut head = format!(
        "POST {path} HTTP/1.1\r\nhost: {target}\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\naccept: application/json\r\nuser-agent: obleth-perf\r\n"
    );
    for line in extra {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
    head.into_bytes()
}
