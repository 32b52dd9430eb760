//! Distributions as files: `.hgrm` for people and plotters, `.hlog` for HdrHistogram's own tools.
//!
//! Both are the formats of <https://github.com/HdrHistogram>: percentiles with 1/(1 − p), and one interval per log.
//! Values are written in milliseconds, as those tools expect them.

use std::{fmt::Write as _, fs::File, io::BufWriter, path::Path, time::Duration};

use anyhow::{Context, Result};
use hdrhistogram::serialization::{V2Serializer, interval_log::IntervalLogWriterBuilder};

use super::outcome::Times;

/// Steps per halving of the distance to 100 %, as in HdrHistogram's own output.
const TICKS: u32 = 5;
/// Nanoseconds in the unit of the files.
const MILLISECOND: f64 = 1e6;

/// Writes the percentile table.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_hgrm(path: &Path, times: &Times) -> Result<()> {
    std::fs::write(path, hgrm(times)).with_context(|| format!("cannot write {}", path.display()))
}

fn hgrm(times: &Times) -> String {
    let histogram = times.histogram();
    let mut text =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut total = 0;
    for step in histogram.iter_quantiles(TICKS) {
        total += step.count_since_last_iteration();
        let (value, quantile) = (step.value_iterated_to() as f64 / MILLISECOND, step.quantile_iterated_to());
        let _ = write!(text, "{value:>12.6} {quantile:>14.12} {total:>10}");
        let _ = match quantile < 1.0 {
            true => writeln!(text, " {:>14.2}", 1.0 / (1.0 - quantile)),
            false => writeln!(text),
        };
    }
    let _ = writeln!(
        text,
        "#[Mean    = {:>12.6}, StdDeviation   = {:>12.6}]\n#[Max     = {:>12.6}, Total count    = {:>12}]\n\
         #[Buckets = {:>12}, SubBuckets     = {:>12}]",
        histogram.mean() / MILLISECOND,
        histogram.stdev() / MILLISECOND,
        histogram.max() as f64 / MILLISECOND,
        histogram.len(),
        histogram.buckets(),
        2048
    );
    text
}

/// Writes one interval that began `since` the Unix epoch and lasted `window`.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_hlog(path: &Path, times: &Times, since: Duration, window: Duration) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut file = BufWriter::new(file);
    let mut serializer = V2Serializer::new();
    let begin = std::time::UNIX_EPOCH + since;
    let mut log = IntervalLogWriterBuilder::new();
    log.add_comment("obleth-perf; recorded in nanoseconds").with_start_time(begin).with_base_time(begin);
    let mut log = log.with_max_value_divisor(MILLISECOND).begin_log_with(&mut file, &mut serializer)?;
    log.write_histogram(times.histogram(), Duration::ZERO, window, None)
        .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    fn thousand() -> Times {
        let mut times = Times::new().unwrap();
        (1..=1000).for_each(|ms| times.record(Duration::from_millis(ms)));
        times
    }

    #[test]
    fn the_table_ends_with_the_largest_value_and_all_of_them() {
        let text = hgrm(&thousand());
        let last = text.lines().rfind(|line| !line.starts_with('#')).unwrap();
        let fields: Vec<&str> = last.split_whitespace().collect();
        assert!((fields[0].parse::<f64>().unwrap() - 1000.0).abs() < 1.0, "{last}");
        assert_eq!((fields[1].parse::<f64>().unwrap(), fields[2]), (1.0, "1000"));
        let half = text.lines().find(|line| line.contains(" 0.500000000000 ")).unwrap();
        assert!(half.trim().starts_with("500."), "{half}");
    }

    #[test]
    fn the_log_is_read_back_by_its_own_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.hlog");
        write_hlog(&path, &thousand(), Duration::from_secs(1_700_000_000), Duration::from_secs(3)).unwrap();
        let text = std::fs::read(&path).unwrap();
        let intervals = IntervalLogIterator::new(&text)
            .filter(|entry| matches!(entry.as_ref().unwrap(), LogEntry::Interval(_)))
            .count();
        assert_eq!(intervals, 1);
    }
}
