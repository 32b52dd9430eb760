//! Row 9: what a request costs with two shards, beside one, under the same load.
//!
//! An open loop, because a closed one would load two shards more than one. Both have the same two processors.

use anyhow::Result;

use super::{Asked, Group, body, measure, open_loop, per_request, plan, rate, rounds, values, void};
use crate::{
    processors::{self, Placement},
    rows::{Finding, SHARDS},
    scenario::{self, Open},
    subject,
};

/// Shards compared with one.
const COUNT: usize = 2;

pub(super) fn run(asked: &Asked) -> Result<Group> {
    let scenario: Open = scenario::read(&asked.scenarios, "shards")?;
    let repeat = asked.repeat(scenario.repeat);
    let placement = Placement::among(&asked.processors, COUNT);
    processors::pin(&placement.load)?;
    let backend = subject::backend(&asked.obleth, &asked.folder, &placement.backend)?;
    let site = asked.site(&placement, &backend);
    let subjects = [site.obleth("one-shard", 1)?, site.obleth("two-shards", COUNT)?, site.floor()?];
    let subjects: Vec<_> = subjects.iter().collect();
    let body = body(scenario.exchange, false);
    let rate = rate(&scenario, &subjects, &body)?;
    let name = format!("shards, {rate:.0}/s");
    let rounds = rounds(&name, "cpu_us", repeat.rounds, &subjects, |round, subject| {
        let plan = open_loop(plan(subject, &body, &[], repeat), &scenario, rate, round);
        let (outcome, used) = measure(subject, &plan)?;
        Ok(per_request(&outcome, used))
    })?;
    let ratios = values(&rounds, |round| round.ratio("cpu_us", "two-shards", "one-shard"));
    let shared = placement.load == placement.subject;
    let remark =
        void(&rounds).or_else(|| shared.then(|| "load and backend on the same processors".to_owned()));
    let findings = vec![Finding::new(SHARDS, ratios).with_remark(remark)];
    Ok(Group { name, rounds, findings, distributions: Vec::new() })
}
