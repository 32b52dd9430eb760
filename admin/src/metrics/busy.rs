//! How busy each shard's thread is: processor time against time passed, between two scrapes.
//!
//! The kernel counts it (`/proc/self/task/<tid>/schedstat`, first field, nanoseconds), so the shards need not.

use std::{
    collections::HashMap,
    fs,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use obleth_link::Gauges;

/// The last reading of every shard.
#[derive(Debug)]
pub(super) struct BusyClock {
    /// Every thread of the process when the clock was made: shards may have worked long before.
    first: HashMap<u64, Reading>,
    last: Mutex<Vec<Reading>>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    thread: u64,
    at: Instant,
    used_ns: u64,
    ratio: f64,
}

impl Reading {
    fn start(thread: u64, at: Instant, used_ns: u64) -> Self {
        Self { thread, at, used_ns, ratio: 0.0 }
    }
}

impl BusyClock {
    pub(super) fn new() -> Self {
        let at = Instant::now();
        let names = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let threads = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let readings =
            threads.filter_map(|thread| Some((thread, Reading::start(thread, at, used_ns(thread)?))));
        Self { first: readings.collect(), last: Mutex::default() }
    }

    /// One ratio from 0 to 1 per shard; 0 for one that does not run or is new.
    pub(super) fn ratios(&self, gauges: &Gauges) -> Vec<f64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let readings = gauges.shards().enumerate().map(|(shard, gauges)| {
            let thread = gauges.thread.get();
            let before = last.get(shard).copied().filter(|reading| reading.thread == thread);
            let before = before.or_else(|| self.first.get(&thread).copied());
            let Some(used_ns) = used_ns(thread) else {
                return Reading { at: now, ratio: 0.0, ..before.unwrap_or(Reading::start(thread, now, 0)) };
            };
            let before = before.unwrap_or(Reading::start(thread, now, used_ns));
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

    fn own_thread() -> u64 {
        rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs().into()
    }

    fn work(ms: u64) {
        let until = Instant::now() + std::time::Duration::from_millis(ms);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn what_a_thread_used_before_the_clock_or_its_first_reading_does_not_count() {
        let (go, start) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let spend = |stay: std::sync::mpsc::Receiver<()>| {
            let tell = tell.clone();
            std::thread::spawn(move || {
                work(50);
                tell.send(own_thread()).unwrap();
                // Idle until the test is over.
                let _ = stay.recv();
            })
        };
        let gauges = Gauges::new(2);
        let early = spend(start);
        gauges.shard(0).thread.set(told.recv().unwrap());
        let busy = BusyClock::new();
        let (go_late, start_late) = std::sync::mpsc::channel::<()>();
        let late = spend(start_late);
        gauges.shard(1).thread.set(told.recv().unwrap());
        let ratios = busy.ratios(&gauges);
        assert!(ratios[0] < 0.5, "{ratios:?}");
        assert_eq!(ratios[1], 0.0);
        drop((go, go_late));
        early.join().unwrap();
        late.join().unwrap();
    }

    #[test]
    fn a_thread_that_works_is_busier_than_none() {
        let gauges = Gauges::new(2);
        let busy = BusyClock::new();
        gauges.shard(0).thread.set(own_thread());
        work(20);
        let ratios = busy.ratios(&gauges);
        assert!(ratios[0] > 0.0 && ratios[0] <= 1.0, "{ratios:?}");
        assert_eq!(ratios[1], 0.0);
    }
}
