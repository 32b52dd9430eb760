//! The record of a comparison as JSON: circumstances, rows, and every round, void ones with their reason.

use anyhow::Result;
use serde::Serialize;

use super::Machine;
use crate::{
    compare::Group,
    rounds::Round,
    rows::{Finding, Unit, Verdict},
    statistics::{median, spread},
};

#[derive(Serialize)]
struct Record<'a> {
    machine: &'a Machine,
    rows: Vec<RowRecord<'a>>,
    scenarios: Vec<Scenario<'a>>,
}

#[derive(Serialize)]
struct RowRecord<'a> {
    row: u8,
    what: &'a str,
    unit: &'a str,
    must: f64,
    goal: f64,
    median: Option<f64>,
    least: Option<f64>,
    most: Option<f64>,
    values: &'a [f64],
    verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    remark: Option<&'a str>,
}

#[derive(Serialize)]
struct Scenario<'a> {
    name: &'a str,
    rounds: &'a [Round],
}

/// The text of the record.
///
/// # Errors
/// None in practice: every value has a JSON form.
pub(super) fn json(machine: &Machine, groups: &[Group]) -> Result<String> {
    let rows = super::findings(groups).into_iter().map(row).collect();
    let scenarios =
        groups.iter().map(|group| Scenario { name: &group.name, rounds: &group.rounds }).collect();
    let mut text = serde_json::to_string_pretty(&Record { machine, rows, scenarios })?;
    text.push('\n');
    Ok(text)
}

fn row(finding: &Finding) -> RowRecord<'_> {
    let spread = spread(&finding.values);
    RowRecord {
        row: finding.row.number,
        what: finding.row.what,
        unit: match finding.row.unit {
            Unit::Ratio => "ratio",
            Unit::Micros => "us",
            Unit::Megabytes => "MB",
            Unit::PerRequest => "per request",
        },
        must: finding.row.must,
        goal: finding.row.goal,
        median: median(&finding.values),
        least: spread.map(|(least, _)| least),
        most: spread.map(|(_, most)| most),
        values: &finding.values,
        verdict: finding.verdict(),
        remark: finding.remark.as_deref(),
    }
}
