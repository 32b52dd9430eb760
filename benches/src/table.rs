//! The table that is printed.
//!
//! It must never hide what could not be measured: such a figure is a dash, and what to do about it stands below.

use std::io::{self, Write};

use crate::measure::Cost;

/// Prints lines as they come, so that somebody who waits sees how far it is. A reader that went away ends nothing.
pub(crate) fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

pub(crate) fn head(cells: &[&str]) {
    say("");
    say(&format!("| {} |", cells.join(" | ")));
    say(&format!("|{}", "---|".repeat(cells.len())));
}

pub(crate) fn row(cells: &[String]) {
    say(&format!("| {} |", cells.join(" | ")));
}

/// The cells of a cost: least and median time, instructions, allocations.
pub(crate) fn cells(cost: &Cost) -> [String; 4] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    [
        nanoseconds(cost.least_ns),
        nanoseconds(cost.median_ns),
        or_dash(cost.instructions.map(|count| count.to_string())),
        or_dash(cost.allocations.map(|count| format!("{count:.2}"))),
    ]
}

pub(crate) fn nanoseconds(ns: f64) -> String {
    match ns {
        ..10.0 => format!("{ns:.1} ns"),
        ..10_000.0 => format!("{ns:.0} ns"),
        _ => format!("{:.1} µs", ns / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_not_known_is_a_dash_and_none_is_a_zero() {
        let cost = Cost { least_ns: 3.04, median_ns: 149.6, instructions: None, allocations: Some(0.0) };
        assert_eq!(cells(&cost), ["3.0 ns", "150 ns", "–", "0.00"]);
    }
}
