//! Distributions as files: `.hgrm` for people and plotters, `.hlog` for HdrHistogram's own tools.
//!
//! Both are the formats of <https://github.com/HdrHistogram>: percentiles with 1/(1 − p), and one interval per log.
//! Values are written in milliseconds, as those tools expect them.

use std::{
    fmt::Write as _,
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use hdrhistogram::serialization::{
    V2Serializer,
    interval_log::{IntervalLogWriterBuilder, Tag},
};

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

/// One line of a log: whose times they are, when they were measured, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interval<'a> {
    /// Letters, digits, dashes.
    pub(crate) tag: &'a str,
    pub(crate) times: &'a Times,
    /// From the start of the log.
    pub(crate) offset: Duration,
    pub(crate) length: Duration,
}

/// Writes a log that began at `since`.
///
/// # Errors
/// The file cannot be written, or a tag has a character that the format does not allow.
pub(crate) fn write_hlog(path: &Path, since: SystemTime, intervals: &[Interval<'_>]) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut file = BufWriter::new(file);
    let mut serializer = V2Serializer::new();
    let mut log = IntervalLogWriterBuilder::new();
    log.add_comment("obleth-perf; recorded in nanoseconds").with_start_time(since).with_base_time(since);
    let mut log = log.with_max_value_divisor(MILLISECOND).begin_log_with(&mut file, &mut serializer)?;
    for Interval { tag, times, offset, length } in intervals {
        let tag = Tag::new(tag).with_context(|| format!("{tag:?} cannot be a tag"))?;
        log.write_histogram(times.histogram(), *offset, *length, Some(tag))
            .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    }
    drop(log);
    Ok(file.flush()?)
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
        let times = thousand();
        let second = Duration::from_secs(1);
        let interval = |tag| Interval { tag, times: &times, offset: second, length: second };
        write_hlog(&path, SystemTime::now(), &[interval("nginx"), interval("obleth-1")]).unwrap();
        let text = std::fs::read(&path).unwrap();
        let tags: Vec<_> = IntervalLogIterator::new(&text)
            .filter_map(|entry| match entry.unwrap() {
                LogEntry::Interval(interval) => Some(interval.tag().unwrap().as_str().to_owned()),
                _ => None,
            })
            .collect();
        assert_eq!(tags, ["nginx", "obleth-1"]);
        assert!(write_hlog(&path, SystemTime::now(), &[interval("a b")]).is_err());
    }
}
