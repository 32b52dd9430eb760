//! What one run of load saw: counts, and distributions by the names that users of LLM load tools know.
//!
//! `e2el`, `ttft`, `itl` and `tpot` mean what they mean in `vllm bench serve`, but every request is timed from when
//! it was meant to leave. A distribution must never lose a value: what is too large for it is its largest value.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

/// The longest time told apart; an hour, in nanoseconds.
const LONGEST_NS: u64 = 3_600_000_000_000;
/// Digits of a recorded time that are exact.
const DIGITS: u8 = 3;

/// A distribution of times.
#[derive(Clone, Debug)]
pub(crate) struct Times(Histogram<u64>);

impl Times {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, LONGEST_NS, DIGITS)?))
    }

    pub(crate) fn record(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(LONGEST_NS).max(1));
    }

    /// Takes over all values of `other`.
    pub(crate) fn add(&mut self, other: &Self) -> Result<()> {
        Ok(self.0.add(&other.0)?)
    }

    /// The time below which `quantile` (0 to 1) of all lie, in microseconds; 0 if there are none.
    pub(crate) fn micros(&self, quantile: f64) -> f64 {
        if self.0.is_empty() { 0.0 } else { self.0.value_at_quantile(quantile) as f64 / 1e3 }
    }

    /// In nanoseconds.
    pub(crate) fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }

    fn to_json(&self) -> Value {
        json!({
            "count": self.0.len(),
            "mean_ms": round(self.0.mean() / 1e6),
            "p50_ms": round(self.micros(0.5) / 1e3),
            "p90_ms": round(self.micros(0.9) / 1e3),
            "p99_ms": round(self.micros(0.99) / 1e3),
            "max_ms": round(self.0.max() as f64 / 1e6),
        })
    }
}

fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// What a run saw within its window.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// How long the window was.
    pub(crate) window: Duration,
    /// Requests whose answer was complete within the window.
    pub(crate) completed: u64,
    /// Requests of the whole run, warm-up and drain included.
    pub(crate) all: u64,
    /// Events of streams within the window.
    pub(crate) frames: u64,
    /// Reads that brought at least one of them.
    pub(crate) frame_reads: u64,
    /// Requests that were meant to leave within the window.
    pub(crate) offered: u64,
    /// From when a request was meant to leave to the end of its answer.
    pub(crate) e2el: Times,
    /// From when a request was meant to leave to its first content.
    pub(crate) ttft: Times,
    /// Between two contents of a stream.
    pub(crate) itl: Times,
    /// Time per content after the first, one value per stream.
    pub(crate) tpot: Times,
    /// From when the backend stamped a content to its arrival.
    pub(crate) lateness: Times,
}

impl Outcome {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            window: Duration::ZERO,
            completed: 0,
            all: 0,
            frames: 0,
            frame_reads: 0,
            offered: 0,
            e2el: Times::new()?,
            ttft: Times::new()?,
            itl: Times::new()?,
            tpot: Times::new()?,
            lateness: Times::new()?,
        })
    }

    /// Completed requests per second.
    pub(crate) fn request_throughput(&self) -> f64 {
        self.completed as f64 / self.window.as_secs_f64()
    }

    /// The distributions that have values, by name.
    pub(crate) fn distributions(&self) -> impl Iterator<Item = (&'static str, &Times)> {
        let all = [
            ("e2el", &self.e2el),
            ("ttft", &self.ttft),
            ("itl", &self.itl),
            ("tpot", &self.tpot),
            ("lateness", &self.lateness),
        ];
        all.into_iter().filter(|(_, times)| !times.0.is_empty())
    }

    /// All of it, with the field names of other tools.
    pub(crate) fn to_json(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("duration_s".into(), json!(round(self.window.as_secs_f64())));
        fields.insert("completed".into(), json!(self.completed));
        fields.insert("request_throughput".into(), json!(round(self.request_throughput())));
        if self.frames > 0 {
            fields.insert("frames".into(), json!(self.frames));
            fields.insert(
                "frames_per_read".into(),
                json!(round(self.frames as f64 / self.frame_reads.max(1) as f64)),
            );
        }
        fields.extend(self.distributions().map(|(name, times)| (name.to_owned(), times.to_json())));
        Value::Object(fields)
    }

    /// The same for a reader.
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!(
            "{:<24}{:>12.1}\n{:<24}{:>12}\n",
            "request_throughput (1/s)",
            self.request_throughput(),
            "completed",
            self.completed
        );
        for (name, times) in self.distributions() {
            let quantile = |q| times.micros(q) / 1e3;
            text.push_str(&format!(
                "{:<24}p50 {:>9.3}   p90 {:>9.3}   p99 {:>9.3}   max {:>9.3}\n",
                format!("{name} (ms)"),
                quantile(0.5),
                quantile(0.9),
                quantile(0.99),
                quantile(1.0)
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_or_too_short_to_tell_apart_is_still_counted() {
        let mut times = Times::new().unwrap();
        for time in [Duration::ZERO, Duration::from_micros(100), Duration::from_secs(100_000)] {
            times.record(time);
        }
        assert_eq!(times.histogram().len(), 3);
        assert!((times.micros(0.5) - 100.0).abs() < 0.1);
        assert!(times.micros(1.0) >= 3.6e9);
        assert_eq!(Times::new().unwrap().micros(0.99), 0.0);
    }
}
