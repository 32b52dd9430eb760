//! Rows 7 and 8: what an event of a stream costs, and how much later it arrives than it would without a proxy.
//!
//! Paced streams come event by event; unpaced ones pile up, and then a proxy may forward several at once.

use std::time::Duration;

use anyhow::Result;

use super::{
    Asked, Collector, Field, Group, Used, added_ratio, body, measure, plan, quiet_values, rounds, values,
    void,
};
use crate::{
    load::{Outcome, Pace, Plan},
    peers::Peer,
    processors::{self, Placement},
    rounds::{FLOOR, Figures, Round},
    rows::{FRAME, FRAME_WAITING, Finding, GAP, LATE, TTFT},
    scenario::{self, Exchange, Repeat, Stream},
    subject::Subject,
};

pub(super) fn run(asked: &Asked) -> Result<Group> {
    let scenario: Stream = scenario::read(&asked.scenarios, "stream")?;
    let repeat = asked.repeat(scenario.repeat);
    let placement = Placement::among(&asked.processors, 1);
    processors::pin(&placement.load)?;
    let field = Field::full(asked, &placement)?;
    let mut subjects: Vec<_> = field.subjects.iter().collect();
    subjects.push(&field.backend);
    let mut collector = Collector::default();
    let name = format!("stream, {} × {} ms", scenario.streams, scenario.cadence_ms);
    let rounds = rounds(&name, "cpu_us", repeat.rounds, &subjects, |round, subject| {
        let (outcome, used) = measure(subject, &paced(&scenario, subject, repeat))?;
        let mut figures = per_frame(&outcome, used);
        collector.take(subject, round, &outcome);
        if subject.name != field.backend.name {
            let (outcome, used) = measure(subject, &unpaced(&scenario, subject, repeat))?;
            figures.insert("waiting_cpu_us", used.cpu_ns as f64 / 1e3 / outcome.frames as f64);
            figures.insert("waiting_per_read", outcome.frames as f64 / outcome.frame_reads as f64);
        }
        Ok(figures)
    })?;
    let findings = findings(&rounds, field.why_absent(Peer::Nginx));
    let distributions = collector.of(&rounds);
    Ok(Group { name, rounds, findings, distributions })
}

/// Streams one after the other on every connection, their starts spread over the length of one.
fn paced(scenario: &Stream, subject: &Subject, repeat: Repeat) -> Plan {
    let body = body(scenario.exchange, true);
    let pace = format!("x-sim-tps: {}", 1000.0 / scenario.cadence_ms);
    let plan = plan(subject, &body, &[&pace, "x-sim-stamp: 1"], repeat);
    let length = scenario.cadence_ms / 1e3 * f64::from(scenario.exchange.answer_tokens);
    let ramp = Duration::from_secs_f64(length).min(repeat.warmup());
    Plan { connections: scenario.streams, pace: Pace::Closed { ramp }, ..plan }
}

/// Streams as fast as they come.
fn unpaced(scenario: &Stream, subject: &Subject, repeat: Repeat) -> Plan {
    let exchange = Exchange { answer_tokens: scenario.backlog.answer_tokens, ..scenario.exchange };
    let plan = plan(subject, &body(exchange, true), &[], repeat);
    Plan { connections: scenario.backlog.streams, ..plan }
}

fn per_frame(outcome: &Outcome, used: Used) -> Figures {
    let frames = outcome.frames as f64;
    Figures::from([
        ("frames", frames),
        ("cpu_us", used.cpu_ns as f64 / 1e3 / frames),
        ("per_read", frames / outcome.frame_reads as f64),
        ("gap_p99_us", outcome.itl.micros(0.99)),
        ("ttft_p50_us", outcome.ttft.micros(0.5)),
        ("late_p50_us", outcome.lateness.micros(0.5)),
        ("late_p99_us", outcome.lateness.micros(0.99)),
        ("waited", used.waited),
    ])
}

fn findings(rounds: &[Round], no_nginx: Option<String>) -> Vec<Finding> {
    let why = void(rounds);
    let frame = values(rounds, |round| round.ratio("cpu_us", "obleth", FLOOR));
    let waiting = values(rounds, |round| {
        let floor = round.get(FLOOR, "cpu_us").filter(|cpu| *cpu > 0.0)?;
        Some(round.get("obleth", "waiting_cpu_us")? / floor)
    });
    let (gap, gap_why) = quiet_values(rounds, |round| {
        Some(round.get("obleth", "gap_p99_us")? - round.get("direct", "gap_p99_us")?)
    });
    let (late, late_why) = quiet_values(rounds, |round| {
        Some(round.get("obleth", "late_p99_us")? - round.get("nginx", "late_p99_us")?)
    });
    let (ttft, ttft_why) = quiet_values(rounds, |round| added_ratio(round, "ttft_p50_us", "nginx"));
    vec![
        Finding::new(FRAME, frame).with_remark(why.clone()),
        Finding::new(FRAME_WAITING, waiting).with_remark(why),
        Finding::new(GAP, gap).with_remark(gap_why),
        Finding::new(LATE, late).with_remark(no_nginx.clone().or(late_why)),
        Finding::new(TTFT, ttft).with_remark(no_nginx.or(ttft_why)),
    ]
}

// A debug build has no say in how prompt obleth is, so there is no such test in it.
#[cfg(all(test, not(debug_assertions)))]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        rows::figure,
        subject::{self, Site},
    };

    /// Rounds: a busy machine is late by itself.
    const TRIES: usize = 3;

    #[test]
    #[ignore = "half a minute of a quiet machine; wants nginx, and obleth built like this test"]
    fn an_event_arrives_at_most_a_fifth_of_a_millisecond_later_than_through_nginx() {
        let folder = tempfile::tempdir().unwrap();
        let test = std::env::current_exe().unwrap();
        let obleth = subject::program(Some(&test.parent().unwrap().with_file_name("obleth"))).unwrap();
        let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let scenario: Stream = scenario::read(&scenarios, "stream").unwrap();
        let placement = Placement::among(&processors::allowed().unwrap(), 1);
        processors::pin(&placement.load).unwrap();
        let backend = subject::backend(&obleth, folder.path(), &placement.backend).unwrap();
        let processors = &placement.subject;
        let site = Site { obleth: &obleth, folder: folder.path(), processors, backend: backend.address };
        let [obleth, nginx] = [site.obleth("obleth", 1).unwrap(), site.peer(Peer::Nginx).unwrap()];
        let late_us = |subject: &Subject| {
            let (outcome, _) = measure(subject, &paced(&scenario, subject, scenario.repeat)).unwrap();
            assert!(outcome.lateness.histogram().len() > 10_000, "too few stamped events");
            outcome.lateness.micros(0.99)
        };
        for _ in 0..TRIES {
            let (ours, theirs) = (late_us(&obleth), late_us(&nginx));
            println!("p99 of arrival − stamp: {} µs, nginx {} µs", figure(ours), figure(theirs));
            if ours <= theirs + LATE.must {
                return;
            }
        }
        panic!("in {TRIES} tries events were later than that every time");
    }
}
