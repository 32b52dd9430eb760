//! How busy each shard's thread is: processor time against time passed, between two scrapes.
//!
//! The kernel counts it (`/proc/self/task/<tid>/schedstat`, first field, nanoseconds), so the shards need not.

use std::{
    fs,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use obleth_link::Gauges;

/// The last reading of every shard.
#[derive(Debug)]
pub(super) struct BusyClock {
    start: Instant,
    last: Mutex<Vec<Reading>>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    thread: u64,
    at: Instant,
    used_ns: u64,
    ratio: f64,
}

impl BusyClock {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), last: Mutex::default() }
    }

    /// One ratio from 0 to 1 per shard; 0 for one that does not run.
    pub(super) fn ratios(&self, gauges: &Gauges) -> Vec<f64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let readings = gauges.shards().enumerate().map(|(shard, gauges)| {
            let thread = gauges.thread.get();
            let before = last.get(shard).copied().filter(|reading| reading.thread == thread);
            let before = before.unwrap_or(Reading { thread, at: self.start, used_ns: 0, ratio: 0.0 });
            let Some(used_ns) = used_ns(thread) else { return Reading { at: now, ratio: 0.0, ..before } };
            let passed = now.duration_since(before.at);
            if passed.as_millis() == 0 {
                return before; // two scrapes at once
            }
            let ratio = used_ns.saturating_sub(before.used_ns) as f64 / passed.as_nanos() as f64;
            Reading { thread, at: now, used_ns, ratio: ratio.clamp(0.0, 1.0) }
        });
        *last = readings.collect();
        last.iter().map(|reading| reading.ratio).collect()
    }
}

fn used_ns(thread: u64) -> Option<u64> {
    if thread == 0 {
        return None;
    }
    let text = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_works_is_busier_than_none() {
        let gauges = Gauges::new(2);
        let busy = BusyClock::new();
        gauges.shard(0).thread.set(rustix::thread::gettid().as_raw_nonzero().get() as u64);
        let until = std::time::Instant::now() + std::time::Duration::from_millis(20);
        while std::time::Instant::now() < until {
            std::hint::spin_loop();
        }
        let ratios = busy.ratios(&gauges);
        assert!(ratios[0] > 0.0 && ratios[0] <= 1.0, "{ratios:?}");
        assert_eq!(ratios[1], 0.0);
    }
}
