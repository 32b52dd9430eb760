//! Users who leave, while their request waits and while it is answered: nobody computes for them, and nothing is left.

use std::{
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::json;

use super::{
    Chapter,
    generator::Leaving,
    rig::{Ground, Rig},
    scenario::LeavingUsers,
};
use crate::{
    finding::{Asked, Finding, Unit},
    load::chat_request,
    signals,
    subject::MODEL,
    terminal::remark,
};

/// What has to be 0 when nobody is there any more.
const GAUGES: [&str; 4] =
    ["obleth_in_flight", "obleth_queue_depth", "obleth_pool_in_flight", "obleth_pool_queue_depth"];
/// How long somebody may take to notice.
const PATIENCE: Duration = Duration::from_secs(3);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(5);

pub(super) fn run(ground: Ground<'_>, leaving: &LeavingUsers, secs: f64) -> Result<Chapter> {
    let mut chapter = Chapter::new("leaving");
    let rig = Rig::start(ground, &leaving.setting)?;
    chapter.findings.push(while_queued(&rig, leaving)?);
    rig.quiet()?;
    chapter.findings.extend(at_random(&rig, leaving, secs)?);
    let (open, slots) = (rig.count("max_open")?, rig.slots());
    chapter.opened(open, slots);
    chapter.findings.push(
        Finding::new(
            None,
            "requests open at the backend at once ÷ slots, while users leave",
            Unit::Ratio,
            Asked::at_most(1.0, 1.0),
            Some(open as f64 / f64::from(slots)),
        )
        .from(format!("{open} of {slots}")),
    );
    remark("leaving: done");
    Ok(chapter)
}

/// Every slot is taken, more requests wait, and every second one of them is given up.
fn while_queued(rig: &Rig, leaving: &LeavingUsers) -> Result<Finding> {
    let slots = rig.slots();
    let ask = |id: String, tokens: u32| Asking { rig, id, tokens }.send();
    let holders =
        (0..slots).map(|at| ask(format!("holder-{at}"), leaving.long_tokens)).collect::<Result<Vec<_>>>()?;
    wait_for(|| Ok(rig.count("active")? == u64::from(slots)))?;
    let id = |at: usize| format!("waiting-{at}");
    let mut waiting = (0..leaving.waiting).map(|at| Ok((at, ask(id(at), 1)?))).collect::<Result<Vec<_>>>()?;
    let depth = |of: usize| -> Result<bool> {
        let gauges = rig.gauges(&["obleth_queue_depth"])?;
        Ok(gauges.iter().all(|(_, depth)| *depth == Some(of as f64)))
    };
    let queued = wait_for(|| depth(leaving.waiting))?.is_some();
    waiting.retain(|(at, _)| at % 2 == 0);
    let noticed = wait_for(|| depth(waiting.len()))?;
    drop(holders);
    let reached =
        |at: usize, counts: &serde_json::Value| counts["by_request_id"][id(at)].as_u64().unwrap_or(0);
    let all_kept = |counts: &serde_json::Value| waiting.iter().all(|(at, _)| reached(*at, counts) == 1);
    let served = wait_for(|| Ok(all_kept(&rig.counts()?)))?.is_some();
    rig.quiet()?;
    let counts = rig.counts()?;
    let given_up = (0..leaving.waiting).filter(|at| at % 2 == 1);
    let arrived: u64 = given_up.map(|at| reached(at, &counts)).sum();
    let noticed = noticed.map_or("the queue did not shrink in time".to_owned(), |time| {
        format!("the queue had shrunk after {} ms", time.as_millis())
    });
    let others = if served { "every other one was answered" } else { "not every other one was answered" };
    let finding = Finding::new(
        None,
        "queued requests whose user left and that reached the backend",
        Unit::Count,
        Asked::at_most(0.0, 0.0),
        (queued && served).then_some(arrived as f64),
    );
    let remark = if queued {
        format!("{noticed}; {others}")
    } else {
        format!("not all requests were queued in the gateway; {arrived} reached the backend; {others}")
    };
    let given_up = leaving.waiting / 2;
    Ok(finding.from(format!("{} waited behind {slots}, {given_up} left", leaving.waiting)).remark(remark))
}

/// A contended pool whose users leave at any moment. Afterwards nothing may be left.
fn at_random(rig: &Rig, leaving: &LeavingUsers, secs: f64) -> Result<Vec<Finding>> {
    let leave = Leaving { part: leaving.part, within: Duration::from_millis(leaving.within_ms) };
    let mut demands = rig.demands()?;
    demands.iter_mut().for_each(|demand| demand.leaving = Some(leave));
    let (seen, ()) = rig.run(rig.plan(demands, Duration::from_secs_f64(secs), 1), |_| Ok(()))?;
    let given_up: usize = seen.iter().map(|seen| seen.given_up).sum();
    let left = |gauges: &[(&str, Option<f64>)]| gauges.iter().filter_map(|(_, value)| *value).sum::<f64>();
    let gone = wait_for(|| Ok(left(&rig.gauges(&GAUGES)?) == 0.0))?;
    let gauges = rig.gauges(&GAUGES)?;
    let missing: Vec<&str> =
        gauges.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| *name).collect();
    let mut said = gone.map_or("not in time".to_owned(), |time| format!("after {} ms", time.as_millis()));
    if !missing.is_empty() {
        said = format!("{said}; there is no {}", missing.join(", no "));
    }
    rig.quiet()?;
    let counts = rig.counts()?;
    let open =
        counts["active"].as_u64().context("no count")? + counts["queued"].as_u64().context("no count")?;
    let from = format!("{given_up} requests given up in {secs} s");
    let none = Asked::at_most(0.0, 0.0);
    let gauges =
        Finding::new(None, "sum of the gauges after users left", Unit::Count, none, Some(left(&gauges)));
    let open = Finding::new(
        None,
        "requests open at the backend after users left",
        Unit::Count,
        none,
        Some(open as f64),
    );
    Ok(vec![gauges.from(from.clone()).remark(said), open.from(from)])
}

/// How long it took until it held; none if it did not for too long.
fn wait_for(mut holds: impl FnMut() -> Result<bool>) -> Result<Option<Duration>> {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if holds()? {
            return Ok(Some(begin.elapsed()));
        }
        signals::wait(LOOK)?;
    }
    Ok(None)
}

/// A request whose answer nobody reads.
struct Asking<'a> {
    rig: &'a Rig,
    id: String,
    tokens: u32,
}

impl Asking<'_> {
    fn send(&self) -> Result<TcpStream> {
        let Self { rig, id, tokens } = self;
        let body = json!({"model": MODEL, "stream": true, "messages": [{"role": "user", "content": "go"}]});
        let key = &rig.tenants.first().context("no tenant")?.key;
        let lines =
            [format!("x-request-id: {id}"), format!("x-sim-tokens: {tokens}"), "x-sim-tps: 1000".to_owned()];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let mut socket = TcpStream::connect(rig.target())?;
        socket.write_all(&chat_request(
            rig.target(),
            "/v1/chat/completions",
            key,
            &lines,
            &body.to_string(),
        ))?;
        Ok(socket)
    }
}
