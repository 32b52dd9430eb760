//! The Prometheus text format, version 0.0.4, by hand: a family is opened with its help and type, then gets
//! its samples. See <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::Write;

/// What the answer calls itself.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text that grows by families. Writing to a `String` does not fail, so results are not looked at.
#[derive(Debug, Default)]
pub(super) struct Exposition(String);

/// What a family is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A family that samples go into.
#[derive(Debug)]
pub(super) struct Family<'e> {
    out: &'e mut String,
    name: &'static str,
}

impl Exposition {
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Family { out: &mut self.0, name }
    }

    /// A family of one sample without labels.
    pub(super) fn single(
        &mut self,
        name: &'static str,
        kind: Kind,
        help: &str,
        value: impl std::fmt::Display,
    ) {
        self.family(name, kind, help).sample(&[], value);
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}

impl Family<'_> {
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.line("", labels, value);
    }

    /// A whole histogram. `bounds` are upper bounds in the base unit; `counts` has one more for what is beyond.
    pub(super) fn histogram(&mut self, bounds: &[f64], counts: &[u64], sum: f64) {
        let mut below = 0;
        for (at, count) in counts.iter().enumerate() {
            below += count;
            let bound = bounds.get(at).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            self.line("_bucket", &[("le", &bound)], below);
        }
        self.line("_sum", &[], sum);
        self.line("_count", &[], below);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let _ = write!(self.out, "{}{suffix}", self.name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.out, "{open}{label}=\"{text}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.out, "{close} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_ends_with_infinity() {
        let mut out = Exposition::default();
        out.family("x_seconds", Kind::Histogram, "Help.").histogram(&[0.005, 1.0], &[1, 2, 3], 7.25);
        let expected = "# HELP x_seconds Help.\n# TYPE x_seconds histogram\n\
                        x_seconds_bucket{le=\"0.005\"} 1\nx_seconds_bucket{le=\"1\"} 3\n\
                        x_seconds_bucket{le=\"+Inf\"} 6\nx_seconds_sum 7.25\nx_seconds_count 6\n";
        assert_eq!(out.into_text(), expected);
    }

    #[test]
    fn label_values_are_escaped() {
        let mut out = Exposition::default();
        out.family("x", Kind::Gauge, "Help.").sample(&[("a", "q\"b\\n\n"), ("b", "c")], 1);
        assert!(out.into_text().ends_with("x{a=\"q\\\"b\\\\n\\n\",b=\"c\"} 1\n"));
    }
}
