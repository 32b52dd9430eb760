//! The picture of a comparison: a bar per row, as a part of what the row must be, with its spread and its goal.
//!
//! SVG written by hand: a few rectangles do not need a library. It must show every row, the ones that were not
//! measured too.

use std::fmt::Write as _;

use super::Machine;
use crate::{
    compare::Group,
    rows::{Finding, Verdict},
    statistics::{median, spread},
};

/// Pixels of the whole width.
const WIDTH: f64 = 1000.0;
/// Pixels of the labels' column.
const LABELS: f64 = 440.0;
/// Pixels of a row's height.
const ROW: f64 = 26.0;
/// Pixels above the first row.
const TITLE: f64 = 48.0;
/// What the right edge means, in parts of `must`. A longer bar ends there, with its figure beside it.
const EDGE: f64 = 2.0;

/// The picture.
pub(super) fn svg(machine: &Machine, groups: &[Group]) -> String {
    let findings = super::findings(groups);
    let bottom = TITLE + ROW * findings.len() as f64;
    let height = bottom + 40.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"20\" font-size=\"15\">obleth beside its peers; shorter is better, the line is what must be reached</text>\n"
    );
    for (at, finding) in findings.iter().enumerate() {
        bar(&mut text, finding, TITLE + ROW * at as f64);
    }
    let must = place(1.0);
    let _ = writeln!(
        text,
        "<line x1=\"{must}\" y1=\"{}\" x2=\"{must}\" y2=\"{bottom}\" stroke=\"#444\" stroke-dasharray=\"4 3\"/>\n\
         <text x=\"{must}\" y=\"{}\" text-anchor=\"middle\" fill=\"#444\">must</text>\n\
         <text x=\"12\" y=\"{}\" fill=\"#777\" font-size=\"11\">{}</text>\n</svg>",
        TITLE - 4.0,
        TITLE - 8.0,
        bottom + 24.0,
        escaped(&machine.line())
    );
    text
}

/// Where a part of `must` is.
fn place(part: f64) -> f64 {
    LABELS + (WIDTH - LABELS - 90.0) * part.clamp(0.0, EDGE) / EDGE
}

fn bar(text: &mut String, finding: &Finding, top: f64) {
    let (row, middle) = (&finding.row, top + ROW / 2.0);
    let _ = writeln!(
        text,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}. {}</text>",
        LABELS - 10.0,
        middle + 4.0,
        row.number,
        escaped(&row.what.replace('`', ""))
    );
    let (Some(value), Some((least, most))) = (median(&finding.values), spread(&finding.values)) else {
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{}\" fill=\"#999\">not measured</text>",
            LABELS + 4.0,
            middle + 4.0
        );
        return;
    };
    let color = match finding.verdict() {
        Verdict::Goal => "#2a9d5c",
        Verdict::Must => "#e0a526",
        Verdict::Missed | Verdict::NotMeasured => "#cc4b37",
    };
    let [value_x, least_x, most_x, goal_x] = [value, least, most, row.goal].map(|one| place(one / row.must));
    let _ = writeln!(
        text,
        "<rect x=\"{LABELS}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" fill=\"{color}\"/>\n\
         <line x1=\"{least_x:.1}\" y1=\"{middle}\" x2=\"{most_x:.1}\" y2=\"{middle}\" stroke=\"black\"/>\n\
         <line x1=\"{goal_x:.1}\" y1=\"{}\" x2=\"{goal_x:.1}\" y2=\"{}\" stroke=\"#2a9d5c\" stroke-width=\"2\"/>\n\
         <text x=\"{:.1}\" y=\"{}\">{}</text>",
        top + 5.0,
        value_x - LABELS,
        ROW - 10.0,
        top + 2.0,
        top + ROW - 2.0,
        value_x.max(most_x) + 6.0,
        middle + 4.0,
        escaped(&crate::rows::figure(value))
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_grow_with_the_value_and_end_at_the_edge() {
        assert_eq!(place(0.0), LABELS);
        assert!(place(0.5) < place(1.0) && place(1.0) < place(EDGE));
        assert_eq!(place(EDGE), place(17.0));
        assert_eq!(place(-1.0), LABELS);
    }

    #[test]
    fn text_cannot_end_its_element() {
        assert_eq!(escaped("a < b & c"), "a &lt; b &amp; c");
    }
}
