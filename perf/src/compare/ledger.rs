//! Row 20: what the ledger adds to the time of a request, beside a build from before there was one.
//!
//! No product has a mode without its ledger, so the other side is another program, which the command line names. What
//! else lies between the two builds is in the figure; it must be read with that in mind.

use std::path::Path;

use anyhow::Result;

use super::{
    Asked, Collector, Group, body, measure, open_loop, per_request, plan, quiet_values, rate, rounds,
};
use crate::{
    processors::{self, Placement},
    rows::{Finding, LEDGER_P50, LEDGER_P99},
    scenario::{self, Open},
    subject::{self, Site},
};

/// The name of the build without.
const WITHOUT: &str = "without";

pub(super) fn run(asked: &Asked) -> Result<Group> {
    let Some(without) = &asked.without else {
        let why = "name a build from before the ledger with --without".to_owned();
        let findings = vec![Finding::new(LEDGER_P99, []).with_remark(Some(why))];
        let name = "ledger".to_owned();
        return Ok(Group { name, rounds: Vec::new(), findings, distributions: Vec::new() });
    };
    beside(asked, without)
}

fn beside(asked: &Asked, without: &Path) -> Result<Group> {
    let scenario: Open = scenario::read(&asked.scenarios, "ledger")?;
    let repeat = asked.repeat(scenario.repeat);
    let placement = Placement::among(&asked.processors, 1);
    processors::pin(&placement.load)?;
    let backend = subject::backend(&asked.obleth, &asked.folder, &placement.backend)?;
    let site = asked.site(&placement, &backend);
    let before = Site { obleth: without, ..site };
    let everybody = [site.floor()?, before.obleth(WITHOUT, 1)?, site.obleth("obleth", 1)?];
    let subjects: Vec<_> = everybody.iter().collect();
    let body = body(scenario.exchange, false);
    let rate = rate(&scenario, &subjects, &body)?;
    let mut collector = Collector::default();
    let name = format!("ledger, {rate:.0}/s");
    let rounds = rounds(&name, "cpu_us", repeat.rounds, &subjects, |round, subject| {
        let plan = open_loop(plan(subject, &body, &[], repeat), &scenario, rate, round);
        let (outcome, used) = measure(subject, &plan)?;
        let mut figures = per_request(&outcome, used);
        figures.extend([("p50_us", outcome.e2el.micros(0.5)), ("p99_us", outcome.e2el.micros(0.99))]);
        collector.take(subject, round, &outcome);
        Ok(figures)
    })?;
    let finding = |row, figure: &'static str| {
        let (ratios, why) = quiet_values(&rounds, |round| round.ratio(figure, "obleth", WITHOUT));
        Finding::new(row, ratios).with_remark(why)
    };
    let findings = vec![finding(LEDGER_P99, "p99_us"), finding(LEDGER_P50, "p50_us")];
    let distributions = collector.of(&rounds);
    Ok(Group { name, rounds, findings, distributions })
}
