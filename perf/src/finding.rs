//! What the runs say about the rows: one figure each, with how many values it comes from and what is asked of it.
//!
//! A row that could not be measured says why; it is never left out.

use serde::Serialize;

use crate::{
    rows::{Verdict, figure},
    statistics::{median, spread},
};

/// What a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unit {
    /// One thing divided by another.
    Ratio,
    Percent,
    Points,
    Milliseconds,
    Count,
}

impl Unit {
    fn suffix(self) -> &'static str {
        match self {
            Self::Ratio | Self::Count => "",
            Self::Percent => " %",
            Self::Points => " points",
            Self::Milliseconds => " ms",
        }
    }
}

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sense {
    AtMost,
    AtLeast,
}

/// What is asked of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Asked {
    pub(crate) sense: Sense,
    pub(crate) must: Option<f64>,
    pub(crate) goal: Option<f64>,
}

impl Asked {
    pub(crate) fn at_most(must: f64, goal: f64) -> Self {
        Self { sense: Sense::AtMost, must: Some(must), goal: Some(goal) }
    }

    /// Nothing: the figure is there to be known.
    pub(crate) fn nothing() -> Self {
        Self { sense: Sense::AtMost, must: None, goal: None }
    }

    pub(crate) fn at_least(must: f64, goal: f64) -> Self {
        Self { sense: Sense::AtLeast, must: Some(must), goal: Some(goal) }
    }

    fn verdict(&self, value: f64) -> Verdict {
        let holds = |asked: f64| match self.sense {
            Sense::AtMost => value <= asked,
            Sense::AtLeast => value >= asked,
        };
        match (self.goal.map(holds), self.must.map(holds)) {
            (Some(true), _) => Verdict::Goal,
            // A figure that only has a goal cannot be missed; it is not reached.
            (_, Some(true)) | (Some(false), None) | (None, None) => Verdict::Must,
            (_, Some(false)) => Verdict::Missed,
        }
    }

    fn text(&self, asked: Option<f64>, unit: Unit) -> String {
        let sign = if self.sense == Sense::AtLeast { "≥ " } else { "" };
        asked.map_or("–".to_owned(), |asked| format!("{sign}{}{}", digits(asked, unit), unit.suffix()))
    }
}

/// A figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    /// Its place in the table of rows; none for what stands beside the rows.
    pub(crate) row: Option<u8>,
    pub(crate) what: String,
    pub(crate) unit: Unit,
    pub(crate) asked: Asked,
    pub(crate) value: Option<f64>,
    /// Smallest and largest of the values that it comes from, if they are of its kind.
    pub(crate) spread: Option<(f64, f64)>,
    /// What it comes from: windows, rounds, requests, seeds, n.
    pub(crate) from: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remark: Option<String>,
    pub(crate) verdict: Verdict,
}

impl Finding {
    pub(crate) fn new(
        row: Option<u8>,
        what: impl Into<String>,
        unit: Unit,
        asked: Asked,
        value: Option<f64>,
    ) -> Self {
        let verdict = value.map_or(Verdict::NotMeasured, |value| asked.verdict(value));
        let (what, from) = (what.into(), String::new());
        Self { row, what, unit, asked, value, spread: None, from, remark: None, verdict }
    }

    /// The median of `values`, with their spread.
    pub(crate) fn median_of(
        row: Option<u8>,
        what: impl Into<String>,
        unit: Unit,
        asked: Asked,
        values: &[f64],
    ) -> Self {
        Self { spread: spread(values), ..Self::new(row, what, unit, asked, median(values)) }
    }

    pub(crate) fn from(self, from: String) -> Self {
        Self { from, ..self }
    }

    pub(crate) fn remark(self, remark: impl Into<String>) -> Self {
        Self { remark: Some(remark.into()), ..self }
    }

    /// A line of the table.
    pub(crate) fn line(&self) -> String {
        let Self { what, unit, asked, from, verdict, .. } = self;
        let row = self.row.map_or("–".to_owned(), |row| row.to_string());
        let remark = self.remark.as_ref().map_or(String::new(), |remark| format!(" ({remark})"));
        let value = self
            .value
            .map_or("–".to_owned(), |value| format!("**{}**{}", digits(value, *unit), unit.suffix()));
        let spread = self.spread.map_or(String::new(), |(least, most)| {
            format!(" [{}–{}]", digits(least, *unit), digits(most, *unit))
        });
        let (must, goal) = (asked.text(asked.must, *unit), asked.text(asked.goal, *unit));
        let verdict = match (asked.must, asked.goal, verdict) {
            (None, None, Verdict::Must) => "",
            (None, Some(_), Verdict::Must) => "goal not reached",
            _ => verdict.text(),
        };
        format!("| {row} | {what}{remark} | {must} | {goal} | {value}{spread} | {from} | {verdict} |\n")
    }
}

/// Near 1 the third digit behind the point of a ratio decides row 17.
fn digits(value: f64, unit: Unit) -> String {
    match value {
        whole if whole.fract() == 0.0 => format!("{whole:.0}"),
        close if unit == Unit::Ratio && (0.9..1.1).contains(&close) => format!("{close:.4}"),
        other => figure(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(asked: Asked, value: f64) -> Verdict {
        Finding::new(Some(1), "", Unit::Ratio, asked, Some(value)).verdict
    }

    #[test]
    fn what_has_to_be_large_is_missed_when_it_is_small() {
        let (most, least) = (Asked::at_most(3.0, 2.0), Asked::at_least(0.99, 0.998));
        let cases = [(2.0, 0.998), (3.0, 0.99), (3.1, 0.98)];
        let expected = [Verdict::Goal, Verdict::Must, Verdict::Missed];
        for ((high, low), expected) in cases.into_iter().zip(expected) {
            assert_eq!((verdict(most, high), verdict(least, low)), (expected, expected));
        }
        let none = Finding::new(None, "", Unit::Ratio, most, None);
        assert_eq!(none.verdict, Verdict::NotMeasured);
    }

    #[test]
    fn a_line_says_from_how_much_its_figure_comes() {
        let asked = Asked { sense: Sense::AtMost, must: None, goal: Some(0.5) };
        let finding = Finding::median_of(Some(11), "error", Unit::Percent, asked, &[0.2, 0.6, 0.7]);
        let line = finding.from("3 windows, n = 97".to_owned()).remark("busy").line();
        assert_eq!(
            line,
            "| 11 | error (busy) | – | 0.50 % | **0.60** % [0.20–0.70] | 3 windows, n = 97 | goal not reached |\n"
        );
    }
}
