//! A report as a table for people, and as CSV for other programs.
//!
//! The table has money in dollars; CSV has every number as the API gives it. Text in CSV never begins as a formula
//! does: names of keys and models are anybody's, and spreadsheets run what looks like one.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Between two columns of the table.
const GAP: &str = "  ";
/// Where there is nothing to show.
const NONE: &str = "-";
/// The sums: their member, and what stands above them in the table.
const SUMS: [(&str, &str); 6] = [
    ("requests", "requests"),
    ("input_tokens", "input tokens"),
    ("cached_input_tokens", "cached"),
    ("output_tokens", "output tokens"),
    (COST, "cost (USD)"),
    ("unpriced_requests", "unpriced"),
];
const COST: &str = "cost_micro_usd";

/// A report, read.
#[derive(Debug)]
pub(super) struct Sheet {
    /// What it is added up by: the members that say so.
    labels: Vec<Label>,
    groups: Vec<Map<String, Value>>,
    totals: Map<String, Value>,
    about: String,
}

/// One thing that is added up by.
#[derive(Debug)]
struct Label {
    /// As it was asked for.
    word: String,
    /// The member that people read.
    name: String,
    /// The member that is unique, if that is another one.
    id: Option<String>,
}

impl Label {
    fn of(word: &str) -> Self {
        let (name, id) = match word {
            "tenant" | "key" => (format!("{word}_name"), Some(format!("{word}_id"))),
            "group" => ("group_name".to_owned(), None),
            // The zone's clock shows some hours twice.
            "hour" | "day" | "week" | "month" => ("local".to_owned(), Some("from".to_owned())),
            _ => (word.to_owned(), None),
        };
        Self { word: word.to_owned(), name, id }
    }
}

impl Sheet {
    /// Reads the answer of `GET /usage` that was asked for `by`; `None` if it is something else.
    pub(super) fn read(text: &str, by: &str) -> Option<Self> {
        let Ok(Value::Object(mut report)) = serde_json::from_str(text) else { return None };
        let Some(Value::Object(totals)) = report.remove("totals") else { return None };
        let Some(Value::Array(groups)) = report.remove("groups") else { return None };
        let groups: Option<Vec<_>> = groups
            .into_iter()
            .map(|group| if let Value::Object(members) = group { Some(members) } else { None })
            .collect();
        let groups = groups?;
        let labels = by.split(',').map(|word| Label::of(word.trim())).collect();
        let told = |name: &str| report.get(name).and_then(Value::as_str).unwrap_or(NONE);
        let about = format!("{} to {} ({}), as of {}", told("from"), told("to"), told("tz"), told("as_of"));
        Some(Self { labels, groups, totals, about })
    }

    /// Aligned columns under their titles, the total last.
    pub(super) fn table(&self) -> String {
        let ids = || self.labels.iter().filter_map(|label| label.id.as_deref());
        let mut rows: Vec<Vec<String>> = Vec::with_capacity(self.groups.len() + 2);
        let words = self.labels.iter().map(|label| label.word.clone());
        let titles = SUMS.iter().map(|(_, title)| (*title).to_owned());
        rows.push(words.chain(titles).chain(ids().map(|id| id.replace('_', " "))).collect());
        for group in &self.groups {
            let names = self.labels.iter().map(|label| plain(group.get(&label.name)));
            let sums = SUMS.iter().map(|(member, _)| sum(group, member));
            rows.push(names.chain(sums).chain(ids().map(|id| plain(group.get(id)))).collect());
        }
        let total = std::iter::once("total").chain(self.labels.iter().skip(1).map(|_| ""));
        let sums = SUMS.iter().map(|(member, _)| sum(&self.totals, member));
        rows.push(total.map(str::to_owned).chain(sums).chain(ids().map(|_| String::new())).collect());
        let numbers = self.labels.len()..self.labels.len() + SUMS.len();
        format!("{}\n{}\n", aligned(&rows, &numbers), self.about)
    }

    /// One line per group under the names of its members, in the order of the table; no total.
    pub(super) fn csv(&self) -> String {
        let names = self.labels.iter().flat_map(|label| [Some(&label.name), label.id.as_ref()]);
        let names = names.flatten().map(String::as_str);
        let members: Vec<&str> = names.chain(SUMS.iter().map(|(member, _)| *member)).collect();
        let mut out = members.join(",") + "\r\n";
        for group in &self.groups {
            let cells: Vec<String> = members.iter().map(|member| cell(group.get(*member))).collect();
            out.push_str(&cells.join(","));
            out.push_str("\r\n");
        }
        out
    }
}

/// Columns as wide as what is in them; those in `numbers` to the right.
fn aligned(rows: &[Vec<String>], numbers: &std::ops::Range<usize>) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = if at == 0 { "" } else { GAP };
            // Writing to a string does not fail.
            let _ = match numbers.contains(&at) {
                true => write!(line, "{gap}{cell:>width$}"),
                false => write!(line, "{gap}{cell:<width$}"),
            };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A sum as people read it.
fn sum(of: &Map<String, Value>, member: &str) -> String {
    match of.get(member).and_then(Value::as_u64) {
        Some(micro_usd) if member == COST => {
            format!("{}.{:06}", micro_usd / 1_000_000, micro_usd % 1_000_000)
        }
        Some(count) => count.to_string(),
        None => NONE.to_owned(),
    }
}

fn plain(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => NONE.to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// A value as RFC 4180 has it; `null` is empty.
fn cell(value: Option<&Value>) -> String {
    let Some(Value::String(text)) = value else {
        return value.filter(|value| !value.is_null()).map(Value::to_string).unwrap_or_default();
    };
    let guard = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    match text.contains([',', '"', '\r', '\n']) {
        true => format!("\"{guard}{}\"", text.replace('"', "\"\"")),
        false => format!("{guard}{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"{
        "from": "2026-11-01T00:00:00Z", "to": "2026-11-02T00:00:00Z", "tz": "UTC", "as_of": "2026-11-01T12:00:00Z",
        "totals": {"requests": 12, "input_tokens": 3000, "cached_input_tokens": 0, "output_tokens": 70,
            "cost_micro_usd": 1000005, "unpriced_requests": 2},
        "groups": [
            {"key_id": "k-1", "key_name": "=cmd|' /C calc'!A0", "model": "org/\"m\", large", "requests": 10,
                "input_tokens": 2999, "cached_input_tokens": 0, "output_tokens": 69, "cost_micro_usd": 1000005,
                "unpriced_requests": 0},
            {"key_id": "k-2", "key_name": null, "model": null, "requests": 2, "input_tokens": 1,
                "cached_input_tokens": 0, "output_tokens": 1, "cost_micro_usd": null, "unpriced_requests": 2}
        ]
    }"#;

    #[test]
    fn a_table_is_aligned_with_the_total_last_and_says_what_it_covers() {
        let table = Sheet::read(REPORT, "key, model").unwrap().table();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 6, "{table}");
        let end = lines[0].find("cost (USD)").unwrap() + "cost (USD)".len();
        for (line, cost) in [(lines[1], " 1.000005"), (lines[2], " -"), (lines[3], " 1.000005")] {
            assert!(line.get(..end).is_some_and(|line| line.ends_with(cost)), "{table}");
        }
        assert!(lines[0].starts_with("key ") && lines[0].ends_with("key id"), "{table}");
        assert!(lines[1].ends_with("k-1") && lines[2].starts_with("-  "), "{table}");
        assert!(lines[3].starts_with("total") && lines[3].contains(" 3000 "), "{table}");
        assert_eq!(
            lines[5],
            "2026-11-01T00:00:00Z to 2026-11-02T00:00:00Z (UTC), as of 2026-11-01T12:00:00Z"
        );
    }

    #[test]
    fn csv_is_quoted_and_no_cell_is_a_formula() {
        let csv = Sheet::read(REPORT, "key,model").unwrap().csv();
        let lines: Vec<&str> = csv.split("\r\n").collect();
        assert_eq!(
            lines,
            [
                "key_name,key_id,model,requests,input_tokens,cached_input_tokens,output_tokens,cost_micro_usd,unpriced_requests",
                r#"'=cmd|' /C calc'!A0,k-1,"org/""m"", large",10,2999,0,69,1000005,0"#,
                ",k-2,,2,1,0,1,,2",
                "",
            ]
        );
    }

    #[test]
    fn lengths_of_time_are_shown_by_the_zones_clock_and_told_apart_by_their_instant() {
        let hours = r#"{"totals":{"requests":3},"from":"a","to":"b","tz":"Europe/Berlin","as_of":null,"groups":[
            {"tenant_id":null,"from":"2026-10-25T00:00:00Z","local":"2026-10-25T02:00:00","requests":1},
            {"tenant_id":null,"from":"2026-10-25T01:00:00Z","local":"2026-10-25T02:00:00","requests":2}]}"#;
        let csv = Sheet::read(hours, "hour").unwrap().csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert!(lines[0].starts_with("local,from,requests,"), "{csv}");
        assert!(lines[1].starts_with("2026-10-25T02:00:00,2026-10-25T00:00:00Z,1,"), "{csv}");
        assert!(lines[2].starts_with("2026-10-25T02:00:00,2026-10-25T01:00:00Z,2,"), "{csv}");
    }

    #[test]
    fn an_empty_report_is_a_table_of_its_total_and_something_else_is_none() {
        let empty = r#"{"totals":{"requests":0},"groups":[],"from":"a","to":"b","tz":"UTC","as_of":null}"#;
        let sheet = Sheet::read(empty, "tenant").unwrap();
        assert_eq!(sheet.table().lines().count(), 4);
        assert!(sheet.csv().starts_with("tenant_name,tenant_id,requests,"));
        assert_eq!(sheet.csv().lines().count(), 1);
        for wrong in ["", "[]", "{}", r#"{"totals":{},"groups":[5]}"#] {
            assert!(Sheet::read(wrong, "tenant").is_none(), "{wrong}");
        }
    }
}
