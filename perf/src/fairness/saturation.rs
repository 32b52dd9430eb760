//! Row 17: what a saturated pool delivers to several tenants by weight, beside the same load of one key in its order.
//!
//! And a tenant that is alone, which is entitled to all of the pool.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::{
    Chapter,
    generator::Demand,
    rig::{Between, Ground, Rig},
    scenario::{Lone, Saturation},
};
use crate::{
    finding::{Asked, Finding, Unit},
    signals,
    statistics::median,
    terminal::remark,
};

/// Load behind the window.
const TAIL: Duration = Duration::from_millis(50);

/// The last tenant of the setting has all connections to itself in its turn, the others share as many in theirs.
pub(super) fn run(ground: Ground<'_>, saturation: &Saturation, rounds: usize) -> Result<Chapter> {
    let Saturation { name, setting, .. } = saturation;
    let mut chapter = Chapter::new(name);
    let rig = Rig::start(ground, setting)?;
    let several = setting.tenants.len().saturating_sub(1);
    let connections: usize = setting.tenants.iter().take(several).map(|tenant| tenant.connections).sum();
    let one = setting.tenants.last().map_or(0, |tenant| tenant.connections);
    ensure!(connections == one, "{name}: {connections} connections of several tenants, {one} of one");
    let time = Turn::of(saturation);
    let (mut ratios, mut fair, mut fifo) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let mut turn = |alone: bool| -> Result<f64> {
            let from = if alone { several } else { 0 };
            let to = if alone { several + 1 } else { several };
            let demands = (from..to).map(|at| rig.demand(at)).collect::<Result<_>>()?;
            let (requests, between) = time.run(&rig, demands, round as u64 + 1)?;
            if alone { &mut fifo } else { &mut fair }.push(between);
            Ok(requests)
        };
        // Who is first changes, so that what drifts does not drift for one of them.
        let ratio = if round % 2 == 0 {
            let fair = turn(false)?;
            fair / turn(true)?
        } else {
            let fifo = turn(true)?;
            turn(false)? / fifo
        };
        remark(&format!("{name}: round {}, {ratio:.4}", round + 1));
        ratios.push(ratio);
    }
    chapter.opened(rig.count("max_open")?, setting.slots);
    let middle = |between: &[Between], of: fn(&Between) -> f64| {
        median(&between.iter().map(of).collect::<Vec<_>>()).unwrap_or_default()
    };
    let used = |between: &[Between]| middle(between, |one| one.used * 100.0);
    let asked = Asked::at_least(saturation.must, saturation.goal);
    let what = format!("requests at saturation, several tenants ÷ one key, {name}");
    chapter.findings = vec![
        Finding::median_of(Some(17), what, Unit::Ratio, asked, &ratios)
            .from(format!("{rounds} rounds of {} s each", saturation.secs))
            .remark(format!(
                "{:.1} % and {:.1} % of the slots in use; {}",
                used(&fair),
                used(&fifo),
                super::busy_text(middle(&fair, |one| one.busy))
            )),
    ];
    chapter.record = json!({"ratios": ratios, "used": [used(&fair), used(&fifo)]});
    Ok(chapter)
}

/// A tenant that is alone: with more connections than slots it has all of them.
pub(super) fn lone(ground: Ground<'_>, lone: &Lone) -> Result<Chapter> {
    let mut chapter = Chapter::new("lone");
    let rig = Rig::start(ground, &lone.setting)?;
    let time = Turn { warmup: secs(lone.warmup_secs), window: secs(lone.secs) };
    let (requests, between) = time.run(&rig, vec![rig.demand(0)?], 1)?;
    chapter.opened(rig.count("max_open")?, lone.setting.slots);
    let finding = Finding::new(
        None,
        "part of the pool that a lone tenant uses",
        Unit::Percent,
        Asked::at_least(98.0, 99.5),
        Some(between.used * 100.0),
    );
    let from = format!("{requests:.0} requests in {} s, {} slots", lone.secs, lone.setting.slots);
    chapter.findings = vec![finding.from(from).remark(super::busy_text(between.busy))];
    remark("lone: done");
    Ok(chapter)
}

fn secs(secs: f64) -> Duration {
    Duration::from_secs_f64(secs)
}

/// How long a load runs, and is counted.
#[derive(Clone, Copy, Debug)]
struct Turn {
    warmup: Duration,
    window: Duration,
}

impl Turn {
    fn of(saturation: &Saturation) -> Self {
        Self { warmup: secs(saturation.warmup_secs), window: secs(saturation.secs) }
    }

    /// Tokens delivered within the window as requests of mean length, and what was busy meanwhile.
    fn run(self, rig: &Rig, demands: Vec<Demand>, seed: u64) -> Result<(f64, Between)> {
        let Self { warmup, window } = self;
        let mean = demands.first().map_or(1.0, |demand| demand.lengths.mean());
        let plan = rig.plan(demands, warmup + window + TAIL, seed);
        let (seen, between) = rig.run(plan, |begin| {
            signals::wait((begin + warmup).saturating_duration_since(Instant::now()))?;
            let from = rig.look()?;
            signals::wait((begin + warmup + window).saturating_duration_since(Instant::now()))?;
            Ok(rig.between(from, rig.look()?))
        })?;
        rig.quiet()?;
        let tokens: u64 = seen.iter().map(|seen| seen.tokens.within(warmup, window)).sum();
        Ok((tokens as f64 / mean, between))
    }
}
