//! Row 9: what a request costs with two shards, beside two gateways with one shard each, under the same load.
//!
//! Both have the same processors and the same rate, and sleep and wake alike; so what differs is what shards of one
//! process share. An open loop, because a closed one would load two shards more than one.

use anyhow::Result;

use super::{Asked, Group, body, measure_all, open_loop, per_request, plan, rate, target, values, void};
use crate::{
    load::Plan,
    processors::{self, Placement},
    rounds::{FLOOR, Wanted, interleave},
    rows::{Finding, SHARDS, SHARDS_EACH, SHARDS_TOTAL},
    scenario::{self, Open},
    subject::{self, Site, Subject},
};

/// Shards compared with one.
const COUNT: usize = 2;

/// Who is measured at which part of the scenario's rate.
struct Case<'s> {
    name: &'static str,
    /// The load is divided among them.
    subjects: Vec<&'s Subject>,
    /// Rate and connections, as a multiple of what one shard gets.
    load: usize,
}

pub(super) fn run(asked: &Asked) -> Result<Group> {
    let scenario: Open = scenario::read(&asked.scenarios, "shards")?;
    let repeat = asked.repeat(scenario.repeat);
    let placement = Placement::among(&asked.processors, COUNT);
    processors::pin(&placement.load)?;
    let backend = subject::backend(&asked.obleth, &asked.folder, &placement.backend)?;
    let site = asked.site(&placement, &backend);
    // A shard stays on one processor, the first it may use: so the other process begins with the second.
    let rest = placement.subject.get(1..).filter(|rest| !rest.is_empty()).unwrap_or(&placement.subject);
    let (one, two, floor) = (site.obleth("one-shard", 1)?, site.obleth("two-shards", COUNT)?, site.floor()?);
    let other = Site { processors: rest, ..site }.obleth("other-shard", 1)?;
    let body = body(scenario.exchange, false);
    let rate = rate(&scenario, &[&one, &two, &floor], &body)?;
    let case = |name, subjects: &[_], load| Case { name, subjects: subjects.to_vec(), load };
    let cases = [
        case("two-shards", &[&two], COUNT),
        case("two-processes", &[&one, &other], COUNT),
        case("one-shard", &[&one], 1),
        case("one-shard-double", &[&one], COUNT),
        case(FLOOR, &[&floor], 1),
    ];
    let name = format!("shards, {rate:.0}/s each");
    let wanted = Wanted { title: &name, rounds: repeat.rounds, steady: "cpu_us" };
    let rounds = interleave(
        &wanted,
        &cases,
        |case| case.name,
        |round, case| {
            let targets = case.subjects.iter().map(|subject| target(subject, &body, &[])).collect();
            let plan = Plan { targets, ..plan(&floor, &body, &[], repeat) };
            let plan = open_loop(plan, &scenario, rate * case.load as f64, round);
            let plan = Plan { connections: plan.connections * case.load, ..plan };
            let (outcome, used) = measure_all(&case.subjects, &plan)?;
            Ok(per_request(&outcome, used))
        },
    )?;
    let shared = placement.load == placement.subject;
    let remark =
        void(&rounds).or_else(|| shared.then(|| "load and backend on the same processors".to_owned()));
    let beside = |row, other| {
        let ratios = values(&rounds, |round| round.ratio("cpu_us", "two-shards", other));
        Finding::new(row, ratios).with_remark(remark.clone())
    };
    let findings = vec![
        beside(SHARDS, "two-processes"),
        beside(SHARDS_EACH, "one-shard"),
        beside(SHARDS_TOTAL, "one-shard-double"),
    ];
    Ok(Group { name, rounds, findings, distributions: Vec::new() })
}
