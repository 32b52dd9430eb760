//! Row 4: what a proxy adds to the time of a request that arrives when it likes, beside what nginx adds.
//!
//! Added is what the same schedule showed without a proxy, taken off. The floor shows what cannot be saved.

use anyhow::Result;

use super::{
    Asked, Collector, Field, Group, added_ratio, body, measure, open_loop, per_request, plan, quiet_values,
    rate, rounds,
};
use crate::{
    peers::Peer,
    processors::{self, Placement},
    rows::{ADDED_P50, ADDED_P99, Finding},
    scenario::{self, Open},
};

pub(super) fn run(asked: &Asked) -> Result<Group> {
    let scenario: Open = scenario::read(&asked.scenarios, "latency")?;
    let repeat = asked.repeat(scenario.repeat);
    let placement = Placement::among(&asked.processors, 1);
    processors::pin(&placement.load)?;
    let field = Field::full(asked, &placement)?;
    let mut subjects: Vec<_> = field.subjects.iter().collect();
    let body = body(scenario.exchange, false);
    let rate = rate(&scenario, &subjects, &body)?;
    subjects.push(&field.backend);
    let mut collector = Collector::default();
    let name = format!("latency, {rate:.0}/s");
    let rounds = rounds(&name, "cpu_us", repeat.rounds, &subjects, |round, subject| {
        let plan = open_loop(plan(subject, &body, &[], repeat), &scenario, rate, round);
        let (outcome, used) = measure(subject, &plan)?;
        let mut figures = per_request(&outcome, used);
        figures.extend([("p50_us", outcome.e2el.micros(0.5)), ("p99_us", outcome.e2el.micros(0.99))]);
        collector.take(subject, round, &outcome);
        Ok(figures)
    })?;
    let finding = |row, figure: &'static str| {
        let (added, why) = quiet_values(&rounds, |round| added_ratio(round, figure, "nginx"));
        Finding::new(row, added).with_remark(field.why_absent(Peer::Nginx).or(why))
    };
    let findings = vec![finding(ADDED_P50, "p50_us"), finding(ADDED_P99, "p99_us")];
    let distributions = collector.of(&rounds);
    Ok(Group { name, rounds, findings, distributions })
}
