//! Rows 1, 2 and 3: processor time per request beside HAProxy, nginx and the floor.
//!
//! A closed loop: it keeps everybody equally busy, and says nothing about waiting times.

use anyhow::Result;

use super::{Asked, Field, Group, body, measure, per_request, plan, rounds, values, void};
use crate::{
    peers::Peer,
    processors::{self, Placement},
    rounds::{FLOOR, Round},
    rows::{FLOOR_32, Finding, HAPROXY_32, HAPROXY_256, NGINX_32, NGINX_256, Row, figure},
    scenario::{self, Chat},
    statistics::median,
};

/// Which row a subject and a number of connections are for.
const ROWS: [(&str, usize, Row); 5] = [
    ("haproxy", 32, HAPROXY_32),
    ("haproxy", 256, HAPROXY_256),
    ("nginx", 32, NGINX_32),
    ("nginx", 256, NGINX_256),
    (FLOOR, 32, FLOOR_32),
];

/// What moving the bytes alone costs beside a peer: below that nobody who forwards can be.
fn floor(rounds: &[Round], peer: &str) -> Option<String> {
    let ratios: Vec<_> =
        values(rounds, |round| round.ratio("cpu_us", FLOOR, peer)).into_iter().flatten().collect();
    (peer != FLOOR).then_some(format!("the floor: {}", figure(median(&ratios)?)))
}

pub(super) fn run(asked: &Asked) -> Result<Vec<Group>> {
    let scenario: Chat = scenario::read(&asked.scenarios, "chat")?;
    let repeat = asked.repeat(scenario.repeat);
    let placement = Placement::among(&asked.processors, 1);
    processors::pin(&placement.load)?;
    let field = Field::full(asked, &placement)?;
    let subjects: Vec<_> = field.subjects.iter().collect();
    let body = body(scenario.exchange, false);
    let mut groups = Vec::new();
    for connections in scenario.connections {
        let name = format!("chat, {connections} connections");
        let rounds = rounds(&name, "cpu_us", repeat.rounds, &subjects, |_, subject| {
            let mut plan = plan(subject, &body, &[], repeat);
            plan.connections = connections;
            let (outcome, used) = measure(subject, &plan)?;
            Ok(per_request(&outcome, used))
        })?;
        let findings = ROWS.iter().filter(|(_, of, _)| *of == connections).map(|(other, _, row)| {
            let absent = Peer::ALL.into_iter().find(|peer| peer.name() == *other);
            let ratios = values(&rounds, |round| round.ratio("cpu_us", "obleth", other));
            let why = void(&rounds).or_else(|| field.why_absent(absent?));
            Finding::new(*row, ratios).with_remark(why.or_else(|| floor(&rounds, other)))
        });
        let findings = findings.collect();
        groups.push(Group { name, rounds, findings, distributions: Vec::new() });
    }
    Ok(groups)
}
