//! `compare`: everybody beside everybody in interleaved rounds, and what that says about the rows of the table.
//!
//! One file per scenario. Each starts what it needs, measures in turns, and stops it. It must never compare figures of
//! different rounds.

mod chat;
mod enters;
mod evidence;
mod field;
mod latency;
mod ledger;
mod memory;
mod shards;
mod stream;

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};

use self::{
    evidence::{added_ratio, quiet_values, values, void},
    field::Field,
};
use crate::{
    load::{self, Edge, Outcome, Pace, Plan, Target, Times, chat_request},
    meter::{Tree, Usage},
    processors::Placement,
    rounds::{Figures, Round, Wanted, interleave},
    rows::{Finding, NUMBERS},
    scenario::{Exchange, Open, Repeat},
    subject::{MODEL, Site, Subject},
    terminal::remark,
};

/// How long answers may take to come in after the last request.
const DRAIN: Duration = Duration::from_secs(10);

/// What was asked for on the command line.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Numbers of the rows; all if empty.
    pub(crate) rows: Vec<u8>,
    /// In place of the scenarios' rounds.
    pub(crate) rounds: Option<usize>,
    /// In place of the scenarios' seconds.
    pub(crate) secs: Option<f64>,
    /// In place of the scenario's pause before the last look at memory.
    pub(crate) settle: Option<f64>,
    /// A build from before the ledger, for row 20.
    pub(crate) without: Option<PathBuf>,
    /// The program `obleth`.
    pub(crate) obleth: PathBuf,
    /// Where scenarios are.
    pub(crate) scenarios: PathBuf,
    /// A folder for whatever is started.
    pub(crate) folder: PathBuf,
    /// Processors to measure on.
    pub(crate) processors: Vec<usize>,
}

/// What a scenario gave.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) rounds: Vec<Round>,
    pub(crate) findings: Vec<Finding>,
    /// Times of valid rounds.
    pub(crate) distributions: Vec<Distribution>,
}

/// Times that one subject had in one round.
#[derive(Clone, Debug)]
pub(crate) struct Distribution {
    pub(crate) subject: String,
    /// `e2el`, `ttft` …
    pub(crate) what: &'static str,
    pub(crate) round: usize,
    pub(crate) times: Times,
    /// When the round was over.
    pub(crate) end: SystemTime,
    pub(crate) window: Duration,
}

/// Measures the rows that are asked for.
///
/// # Errors
/// A signal came, a scenario cannot be read, or obleth or its backend does not start.
pub(crate) fn run(asked: &Asked) -> Result<Vec<Group>> {
    for row in &asked.rows {
        ensure!(NUMBERS.contains(row), "row {row} is not measured here; there are {NUMBERS:?}");
    }
    let mut groups = Vec::new();
    if asked.any(&[1, 2, 3]) {
        groups.extend(chat::run(asked)?);
    }
    if asked.any(&[5]) {
        groups.extend(enters::run(asked)?);
    }
    if asked.any(&[4]) {
        groups.push(latency::run(asked)?);
    }
    if asked.any(&[7, 8]) {
        groups.push(stream::run(asked)?);
    }
    if asked.any(&[9]) {
        groups.push(shards::run(asked)?);
    }
    if asked.any(&[20]) {
        groups.push(ledger::run(asked)?);
    }
    if asked.any(&[21]) {
        groups.push(memory::run(asked)?);
    }
    if asked.any(&[22]) {
        groups.push(memory::residue(asked)?);
    }
    for group in &mut groups {
        group.findings.retain(|finding| asked.any(&[finding.row.number]));
    }
    Ok(groups)
}

impl Asked {
    fn any(&self, rows: &[u8]) -> bool {
        self.rows.is_empty() || rows.iter().any(|row| self.rows.contains(row))
    }

    /// The scenario's figures, changed by the command line.
    fn repeat(&self, repeat: Repeat) -> Repeat {
        Repeat {
            rounds: self.rounds.unwrap_or(repeat.rounds),
            secs: self.secs.unwrap_or(repeat.secs),
            warmup_secs: repeat.warmup_secs.min(self.secs.unwrap_or(f64::INFINITY)),
        }
    }
}

impl Asked {
    fn site<'a>(&'a self, placement: &'a Placement, backend: &Subject) -> Site<'a> {
        Site {
            obleth: &self.obleth,
            folder: &self.folder,
            processors: &placement.subject,
            backend: backend.address,
        }
    }
}

/// A body of about `exchange.request_bytes` that asks for `exchange.answer_tokens`.
fn body(exchange: Exchange, streamed: bool) -> String {
    let tokens = exchange.answer_tokens;
    let stream = if streamed { r#","stream":true,"stream_options":{"include_usage":true}"# } else { "" };
    let fixed = format!(
        r#"{{"model":"{MODEL}"{stream},"max_tokens":{tokens},"sim_tokens":{tokens},"messages":[{{"role":"user","content":""#
    );
    let words = "hello ".repeat(exchange.request_bytes.saturating_sub(fixed.len() + 4) / 6);
    format!("{fixed}{words}\"}}]}}")
}

/// What a subject is asked; `extra` are header lines.
fn target(subject: &Subject, body: &str, extra: &[&str]) -> Target {
    let address = subject.address;
    Target { address, request: chat_request(address, "/v1/chat/completions", &subject.key, extra, body) }
}

/// Load for a subject.
fn plan(subject: &Subject, body: &str, extra: &[&str], repeat: Repeat) -> Plan {
    Plan {
        targets: vec![target(subject, body, extra)],
        connections: 1,
        each: None,
        until_spent: false,
        pace: Pace::Closed { ramp: Duration::ZERO },
        warmup: repeat.warmup(),
        window: repeat.window(),
        drain: Some(DRAIN),
        equal_answers: true,
    }
}

/// What a subject used within the window of a load.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    cpu_ns: u64,
    switches: u64,
    /// Part of the window in which it could have run and somebody else did. Not nothing: the machine was not quiet.
    waited: f64,
}

/// Puts a load on a subject and counts what it used.
fn measure(subject: &Subject, plan: &Plan) -> Result<(Outcome, Used)> {
    measure_all(&[subject], plan)
}

/// Puts a load on subjects and counts what they used together.
fn measure_all(subjects: &[&Subject], plan: &Plan) -> Result<(Outcome, Used)> {
    let trees: Vec<_> = subjects.iter().map(|subject| subject.tree()).collect();
    let (mut begin, mut end) = (Usage::default(), Usage::default());
    let outcome = load::run(plan, &mut |edge| {
        let reading = trees.iter().map(Tree::usage).sum::<Result<_>>()?;
        match edge {
            Edge::Begin => begin = reading,
            Edge::End => end = reading,
        }
        Ok(())
    });
    let outcome = outcome.map_err(|error| {
        if error.is::<crate::signals::Interrupted>() {
            return error;
        }
        subjects.iter().fold(error, |error, subject| match subject.last_error().as_str() {
            "it said nothing" => error,
            said => error.context(format!("{} said: {said}", subject.name)),
        })
    })?;
    ensure!(outcome.completed > 0, "no request was completed");
    let waited_ns = end.waited_ns.saturating_sub(begin.waited_ns);
    let used = Used {
        cpu_ns: end.cpu_ns.saturating_sub(begin.cpu_ns),
        switches: end.switches.saturating_sub(begin.switches),
        waited: waited_ns as f64 / outcome.window.as_nanos() as f64,
    };
    Ok((outcome, used))
}

/// The figures of a load whose unit is a request.
fn per_request(outcome: &Outcome, used: Used) -> Figures {
    let requests = outcome.completed as f64;
    Figures::from([
        ("requests", requests),
        ("request_throughput", outcome.request_throughput()),
        ("cpu_us", used.cpu_ns as f64 / 1e3 / requests),
        ("switches", used.switches as f64 / requests),
        ("waited", used.waited),
    ])
}

/// Measures everybody in turn. `steady` is the floor's figure that must stand still.
fn rounds(
    title: &str,
    steady: &str,
    count: usize,
    subjects: &[&Subject],
    measure: impl FnMut(usize, &&Subject) -> Result<Figures>,
) -> Result<Vec<Round>> {
    let wanted = Wanted { title, rounds: count, steady };
    interleave(&wanted, subjects, |subject| subject.name.as_str(), measure)
}

/// The rate of an open loop: a part of what the slowest of `subjects` does in a closed loop.
fn rate(scenario: &Open, subjects: &[&Subject], body: &str) -> Result<f64> {
    let mut slowest = f64::INFINITY;
    for subject in subjects {
        let secs = scenario.calibration_secs;
        let mut plan = plan(subject, body, &[], Repeat { rounds: 1, secs, warmup_secs: secs / 2.0 });
        plan.connections = scenario.connections;
        let outcome = load::run(&plan, &mut |_| Ok(())).with_context(|| subject.name.clone())?;
        slowest = slowest.min(outcome.request_throughput());
    }
    let rate = slowest * scenario.load;
    remark(&format!("open loop at {rate:.0} requests per second"));
    Ok(rate)
}

/// The plan with the requests of an open loop. Everybody gets the same schedule in one round.
fn open_loop(plan: Plan, scenario: &Open, rate: f64, round: usize) -> Plan {
    let pace = Pace::Open { rate, arrivals: scenario.arrivals, seed: round as u64 + 1 };
    Plan { connections: scenario.connections, pace, ..plan }
}

/// Collects the distributions of rounds.
#[derive(Debug, Default)]
struct Collector(Vec<Distribution>);

impl Collector {
    fn take(&mut self, subject: &Subject, round: usize, outcome: &Outcome) {
        let (end, window) = (SystemTime::now(), outcome.window);
        self.0.extend(outcome.distributions().map(|(what, times)| Distribution {
            subject: subject.name.clone(),
            what,
            round,
            times: times.clone(),
            end,
            window,
        }));
    }

    /// Those of valid rounds.
    fn of(self, rounds: &[Round]) -> Vec<Distribution> {
        let valid = |round: usize| rounds.get(round).is_some_and(|round| round.void.is_none());
        self.0.into_iter().filter(|distribution| valid(distribution.round)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_about_the_bytes_that_the_scenario_says() {
        for streamed in [false, true] {
            let body = body(Exchange { request_bytes: 900, answer_tokens: 100 }, streamed);
            assert!((880..=900).contains(&body.len()), "{}", body.len());
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["stream"].as_bool().unwrap_or(false), streamed);
        }
    }
}
