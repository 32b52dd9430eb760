//! When requests are meant to leave: a fixed rate, evenly or as a Poisson process, decided before any answer is seen.
//!
//! An open loop measures what a user at that time would have waited. So the schedule must never wait for an answer,
//! and what leaves late is timed from when it was meant to leave.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::Random;

/// How requests of one rate lie in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Arrivals {
    /// Independent of each other, as users are: exponential gaps.
    Poisson,
    /// Evenly spaced.
    Uniform,
}

/// The times at which requests are meant to leave, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    next: Instant,
    mean_gap: Duration,
    arrivals: Arrivals,
    random: Random,
}

impl Schedule {
    /// Requests from `start` on, `rate` per second (above 0). Equal seeds give equal schedules.
    pub(crate) fn new(start: Instant, rate: f64, arrivals: Arrivals, seed: u64) -> Self {
        let mean_gap = Duration::from_secs_f64(1.0 / rate);
        Self { next: start, mean_gap, arrivals, random: Random::new(seed) }
    }

    /// When the next request is meant to leave.
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// The next request's time if it has come; the one after it is then next.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Instant> {
        let intended = self.next;
        if intended > now {
            return None;
        }
        let gap = match self.arrivals {
            Arrivals::Uniform => self.mean_gap,
            Arrivals::Poisson => self.mean_gap.mul_f64(-self.random.uniform().ln()),
        };
        self.next += gap;
        Some(intended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(arrivals: Arrivals, seed: u64, count: usize) -> Vec<Duration> {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, 1000.0, arrivals, seed);
        let late = start + Duration::from_secs(3600);
        (0..count).map(|_| schedule.due(late).unwrap() - start).collect()
    }

    #[test]
    fn nothing_is_due_before_its_time_and_everything_after_it() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start, 1000.0, Arrivals::Uniform, 1);
        assert_eq!(schedule.due(start), Some(start));
        assert_eq!(schedule.due(start), None);
        let stalled = start + Duration::from_millis(5);
        let mut due = Vec::new();
        while let Some(time) = schedule.due(stalled) {
            due.push(time);
        }
        let meant: Vec<_> = (1..=5).map(|ms| start + Duration::from_millis(ms)).collect();
        assert_eq!(due, meant, "a stall does not move what was meant to leave during it");
    }

    #[test]
    fn a_poisson_schedule_keeps_the_rate_and_has_exponential_gaps() {
        let times = times(Arrivals::Poisson, 7, 100_001);
        let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1e3).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        assert!((variance - 1.0).abs() < 0.05, "{variance}");
    }

    #[test]
    fn equal_seeds_give_equal_schedules_and_others_do_not() {
        assert_eq!(times(Arrivals::Poisson, 3, 100), times(Arrivals::Poisson, 3, 100));
        assert_ne!(times(Arrivals::Poisson, 3, 100), times(Arrivals::Poisson, 4, 100));
    }
}
