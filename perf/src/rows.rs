//! The rows of the table: what is asked of obleth, in figures, and what a measurement says about them.
//!
//! In every row less is better. A row that could not be measured says why; it is never left out.

use serde::Serialize;

use crate::statistics::{median, spread};

/// What a row's figures are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// One thing divided by another.
    Ratio,
    Micros,
    Megabytes,
    /// A number of things per request.
    PerRequest,
}

impl Unit {
    fn suffix(self) -> &'static str {
        match self {
            Self::Ratio | Self::PerRequest => "",
            Self::Micros => " µs",
            Self::Megabytes => " MB",
        }
    }
}

/// A row, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) number: u8,
    pub(crate) what: &'static str,
    pub(crate) must: f64,
    pub(crate) goal: f64,
    pub(crate) unit: Unit,
}

const fn row(number: u8, what: &'static str, must: f64, goal: f64) -> Row {
    Row { number, what, must, goal, unit: Unit::Ratio }
}

pub(crate) const HAPROXY_32: Row = row(1, "CPU per request ÷ HAProxy, 32 connections", 1.0, 0.90);
pub(crate) const HAPROXY_256: Row = row(1, "CPU per request ÷ HAProxy, 256 connections", 0.8, 0.65);
pub(crate) const NGINX_32: Row = row(2, "CPU per request ÷ nginx, 32 connections", 0.85, 0.77);
pub(crate) const NGINX_256: Row = row(2, "CPU per request ÷ nginx, 256 connections", 0.8, 0.65);
pub(crate) const FLOOR_32: Row = row(3, "CPU per request ÷ floor, 32 connections", 1.25, 1.12);
pub(crate) const ADDED_P50: Row = row(4, "added p50 at half load ÷ nginx's", 1.1, 1.0);
pub(crate) const ADDED_P99: Row = row(4, "added p99 at half load ÷ nginx's", 1.1, 1.0);
pub(crate) const ENTERS_32: Row =
    Row { unit: Unit::PerRequest, ..row(5, "`io_uring_enter` per request, 32 connections", 0.5, 0.25) };
pub(crate) const ENTERS_256: Row =
    Row { unit: Unit::PerRequest, ..row(5, "`io_uring_enter` per request, 256 connections", 0.1, 0.05) };
pub(crate) const FRAME: Row = row(7, "CPU per SSE frame ÷ floor", 1.3, 1.1);
pub(crate) const FRAME_WAITING: Row =
    row(7, "CPU per SSE frame when frames wait ÷ floor's when none waits", 1.3, 0.5);
pub(crate) const GAP: Row = Row { unit: Unit::Micros, ..row(8, "added gap between frames, p99", 50.0, 10.0) };
/// No later than nginx is what is asked, and how far from it is still no matter; so there is nothing beyond to reach.
pub(crate) const LATE: Row =
    Row { unit: Unit::Micros, ..row(8, "event's arrival − stamp, p99, less nginx's", 200.0, 200.0) };
pub(crate) const TTFT: Row = row(8, "added TTFT ÷ nginx's", 1.1, 1.0);
pub(crate) const SHARDS: Row = row(9, "CPU per request with 2 shards ÷ 2 processes of 1 shard", 1.1, 1.03);
pub(crate) const SHARDS_EACH: Row =
    row(9, "CPU per request with 2 shards ÷ 1 shard, equal rate per shard", 1.1, 1.03);
pub(crate) const SHARDS_TOTAL: Row =
    row(9, "CPU per request with 2 shards ÷ 1 shard, equal rate in all", 1.1, 1.03);
pub(crate) const LEDGER_P99: Row = row(20, "p99 with the ledger ÷ without", 1.1, 1.02);
pub(crate) const LEDGER_P50: Row = row(20, "p50 with the ledger ÷ without", 1.1, 1.02);
pub(crate) const IDLE_CONNECTION: Row = row(21, "user memory of an idle connection ÷ nginx's", 1.5, 0.8);
pub(crate) const ACTIVE_STREAM: Row = row(21, "user memory of an active stream ÷ nginx's", 0.6, 0.25);
pub(crate) const RSS_IDLE: Row = Row { unit: Unit::Megabytes, ..row(22, "RSS idle", 20.0, 8.0) };
pub(crate) const RSS_AFTER: Row = row(22, "RSS after many streams ÷ idle", 1.5, 1.15);

/// The rows this program measures.
pub(crate) const NUMBERS: [u8; 11] = [1, 2, 3, 4, 5, 7, 8, 9, 20, 21, 22];

/// What a measurement says about a row.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) row: Row,
    /// One value per valid round.
    pub(crate) values: Vec<f64>,
    /// What a reader has to know of how it was measured, or why it was not.
    pub(crate) remark: Option<String>,
}

/// How a row came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Goal,
    Must,
    Missed,
    #[serde(rename = "not measured")]
    NotMeasured,
}

impl Verdict {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Goal => "goal",
            Self::Must => "must",
            Self::Missed => "**missed**",
            Self::NotMeasured => "not measured",
        }
    }
}

impl Finding {
    pub(crate) fn new(row: Row, values: impl IntoIterator<Item = Option<f64>>) -> Self {
        Self { row, values: values.into_iter().flatten().collect(), remark: None }
    }

    pub(crate) fn with_remark(self, remark: Option<String>) -> Self {
        Self { remark, ..self }
    }

    /// The median against what is asked.
    pub(crate) fn verdict(&self) -> Verdict {
        match median(&self.values) {
            None => Verdict::NotMeasured,
            Some(value) if value <= self.row.goal => Verdict::Goal,
            Some(value) if value <= self.row.must => Verdict::Must,
            Some(_) => Verdict::Missed,
        }
    }

    /// Median and spread for a reader.
    pub(crate) fn measured(&self) -> String {
        let (Some(middle), Some((least, most))) = (median(&self.values), spread(&self.values)) else {
            return "–".to_owned();
        };
        let unit = self.row.unit.suffix();
        format!("**{}**{unit} [{}–{}]", figure(middle), figure(least), figure(most))
    }

    /// What is asked, for a reader.
    pub(crate) fn asked(&self) -> (String, String) {
        let unit = self.row.unit.suffix();
        (format!("{}{unit}", self.row.must), format!("{}{unit}", self.row.goal))
    }
}

/// A figure with as many digits as mean something.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_decides_and_a_row_without_values_is_not_measured() {
        let verdict = |values: &[f64]| Finding::new(HAPROXY_32, values.iter().map(|v| Some(*v))).verdict();
        assert_eq!(verdict(&[0.8, 0.89, 1.4]), Verdict::Goal);
        assert_eq!(verdict(&[0.8, 0.95, 1.4]), Verdict::Must);
        assert_eq!(verdict(&[0.8, 1.01, 1.4]), Verdict::Missed);
        assert_eq!(verdict(&[]), Verdict::NotMeasured);
        assert_eq!(Finding::new(HAPROXY_32, [None, Some(0.5)]).values, [0.5]);
    }

    #[test]
    fn figures_keep_the_digits_that_mean_something() {
        let text = |value| figure(value);
        assert_eq!(
            [text(1234.5), text(17.36), text(1.128), text(0.034), text(-8.25)],
            ["1234", "17.4", "1.13", "0.034", "-8.25"]
        );
        let finding = Finding::new(GAP, [Some(12.3), Some(11.0), Some(14.9)]);
        assert_eq!(finding.measured(), "**12.3** µs [11.0–14.9]");
        assert_eq!(finding.asked(), ("50 µs".to_owned(), "10 µs".to_owned()));
    }
}
