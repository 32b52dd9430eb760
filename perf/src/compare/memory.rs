//! Rows 21 and 22: memory of an idle connection and of a running stream beside nginx's, and what many streams leave.
//!
//! Every round has fresh processes: memory that was freed and kept would hide what the next connection takes.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{Asked, Group, body, plan, values, void};
use crate::{
    load::{self, Edge, Pace, Plan},
    peers::Peer,
    processors::{self, Placement},
    rounds::{Figures, Round, Wanted, interleave},
    rows::{ACTIVE_STREAM, Finding, IDLE_CONNECTION, RSS_AFTER, RSS_IDLE},
    scenario::{self, Exchange, Memory, Repeat},
    signals,
    subject::{self, Site, Subject},
};

/// From the last arrival to the look at memory.
const PAUSE: f64 = 0.5;
/// Requests that a process has answered before its memory is first looked at.
const FIRST: u64 = 20;
/// From the start of a process to the look at its idle memory.
const IDLE: Duration = Duration::from_secs(2);
/// The longest that the streams of row 22 may take.
const LONGEST: f64 = 600.0;

pub(super) fn run(asked: &Asked) -> Result<Group> {
    let scenario: Memory = scenario::read(&asked.scenarios, "memory")?;
    let placement = Placement::among(&asked.processors, 1);
    processors::pin(&placement.load)?;
    let backend = subject::backend(&asked.obleth, &asked.folder, &placement.backend)?;
    let site = asked.site(&placement, &backend);
    let absent = Peer::Nginx.program().err().map(|why| why.to_string());
    let mut names = vec!["obleth"];
    names.extend(absent.is_none().then_some("nginx"));
    let name = "memory".to_owned();
    let wanted = Wanted { title: &name, rounds: asked.rounds.unwrap_or(scenario.rounds), steady: "none" };
    let rounds = interleave(
        &wanted,
        &names,
        |name| name,
        |_, name| {
            let idle = one_more(&fresh(&site, name)?, &idle(&scenario), scenario.ramp_secs)?;
            let active = one_more(&fresh(&site, name)?, &active(&scenario), scenario.ramp_secs)?;
            Ok(Figures::from([("idle_connection_bytes", idle), ("active_stream_bytes", active)]))
        },
    )?;
    let finding = |row, figure: &'static str| {
        let ratios = values(&rounds, |round| round.ratio(figure, "obleth", "nginx"));
        Finding::new(row, ratios).with_remark(void(&rounds).or_else(|| absent.clone()))
    };
    let findings = vec![
        finding(IDLE_CONNECTION, "idle_connection_bytes"),
        finding(ACTIVE_STREAM, "active_stream_bytes"),
    ];
    Ok(Group { name, rounds, findings, distributions: Vec::new() })
}

fn fresh(site: &Site<'_>, name: &str) -> Result<Subject> {
    if name == "nginx" { site.peer(Peer::Nginx) } else { site.obleth(name, 1) }
}

/// Requests that are there when memory is looked at, each on a connection of its own.
struct Held {
    exchange: Exchange,
    streamed: bool,
    headers: Vec<String>,
    connections: usize,
}

/// Connections that have carried one request and wait.
fn idle(scenario: &Memory) -> Held {
    let exchange = Exchange { request_bytes: scenario.request_bytes, answer_tokens: 1 };
    Held { exchange, streamed: false, headers: Vec::new(), connections: scenario.idle_connections }
}

/// Streams that all run at the look, and are given up behind it.
fn active(scenario: &Memory) -> Held {
    let until_the_look = scenario.ramp_secs + 2.0 * PAUSE;
    let answer_tokens = (2e3 * until_the_look / scenario.cadence_ms) as u32;
    Held {
        exchange: Exchange { request_bytes: scenario.request_bytes, answer_tokens },
        streamed: true,
        headers: vec![cadence(scenario.cadence_ms)],
        connections: scenario.streams,
    }
}

fn cadence(ms: f64) -> String {
    format!("x-sim-tps: {}", 1e3 / ms)
}

/// User memory that one of `held` takes, in bytes.
fn one_more(subject: &Subject, held: &Held, ramp: f64) -> Result<f64> {
    let tree = subject.tree();
    let repeat = Repeat { rounds: 1, secs: PAUSE, warmup_secs: ramp + PAUSE };
    let first = body(Exchange { answer_tokens: 1, ..held.exchange }, held.streamed);
    let first = Plan {
        each: Some(FIRST),
        until_spent: true,
        warmup: Duration::ZERO,
        ..plan(subject, &first, &[], repeat)
    };
    load::run(&first, &mut |_| Ok(())).with_context(|| subject.name.clone())?;
    let before = tree.memory()?.pss;
    let mut after = before;
    let headers: Vec<&str> = held.headers.iter().map(String::as_str).collect();
    let plan = Plan {
        connections: held.connections,
        each: Some(1),
        pace: Pace::Closed { ramp: Duration::from_secs_f64(ramp) },
        drain: None,
        ..plan(subject, &body(held.exchange, held.streamed), &headers, repeat)
    };
    let looked = load::run(&plan, &mut |edge| {
        if edge == Edge::End {
            after = tree.memory()?.pss;
        }
        Ok(())
    });
    looked.with_context(|| subject.name.clone())?;
    Ok(after.saturating_sub(before) as f64 / held.connections as f64)
}

/// Row 22: resident memory of a fresh gateway with its default shards, and some time after many streams.
pub(super) fn residue(asked: &Asked) -> Result<Group> {
    let scenario: Memory = scenario::read(&asked.scenarios, "memory")?;
    let residue = scenario.residue;
    let all = asked.processors.clone();
    processors::pin(&all)?;
    let placement = Placement::among(&all, all.len());
    let backend = subject::backend(&asked.obleth, &asked.folder, &all)?;
    let obleth = asked.site(&placement, &backend).obleth("obleth", all.len())?;
    signals::wait(IDLE)?;
    let idle = obleth.tree().memory()?.rss as f64;
    let exchange = Exchange { request_bytes: scenario.request_bytes, answer_tokens: residue.answer_tokens };
    let pace = cadence(residue.cadence_ms);
    let repeat = Repeat { rounds: 1, secs: LONGEST, warmup_secs: 0.0 };
    let plan = plan(&obleth, &body(exchange, true), &[&pace], repeat);
    let plan = Plan {
        connections: residue.at_once,
        each: Some(residue.streams.div_ceil(residue.at_once.max(1)) as u64),
        until_spent: true,
        pace: Pace::Closed { ramp: Duration::from_secs_f64(scenario.ramp_secs) },
        ..plan
    };
    let outcome = load::run(&plan, &mut |_| Ok(())).context("obleth")?;
    let settle = asked.settle.unwrap_or(residue.settle_secs);
    signals::wait(Duration::from_secs_f64(settle))?;
    let after = obleth.tree().memory()?.rss as f64;
    let mut round = Round::default();
    let figures = [
        ("rss_idle_mb", idle / 1e6),
        ("rss_after_mb", after / 1e6),
        ("streams", outcome.all as f64),
        ("settle_s", settle),
    ];
    round.figures.insert(obleth.name.clone(), Figures::from(figures));
    let shards = format!("shards: {}", all.len());
    let when = format!("{shards}, {settle} s after {} streams, {} at once", outcome.all, residue.at_once);
    let findings = vec![
        Finding::new(RSS_IDLE, [Some(idle / 1e6)]).with_remark(Some(shards)),
        Finding::new(RSS_AFTER, [Some(after / idle)]).with_remark(Some(when)),
    ];
    Ok(Group { name: "residue".to_owned(), rounds: vec![round], findings, distributions: Vec::new() })
}
