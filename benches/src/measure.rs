//! What one operation costs: processor time, allocations, instructions.
//!
//! Time is the thread's own processor time, so that whatever else the machine does is in it only through the caches.
//! Instructions are counted by callgrind, which repeats to a few in a thousand; two runs are subtracted, so that neither
//! start nor set-up is in the figure. It must never measure an operation before it has run often enough to be warm.

use std::{
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use rustix::{
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

use crate::allocations;

/// Runs an operation so many times.
pub(crate) type Loop = Box<dyn FnMut(u64)>;

/// One operation that can be repeated.
pub(crate) struct Bench {
    /// What it is called on the command line, where callgrind runs it.
    pub(crate) name: &'static str,
    /// For the table.
    pub(crate) what: &'static str,
    /// What is asked of it, for the table.
    pub(crate) limits: &'static str,
    /// Repetitions until nothing is new any more.
    pub(crate) warm_up: u64,
    pub(crate) make: fn() -> Loop,
}

/// What one operation costs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cost {
    pub(crate) least_ns: f64,
    pub(crate) median_ns: f64,
    pub(crate) instructions: Option<u64>,
    pub(crate) allocations: Option<f64>,
}

/// Many short ones, so that on a busy machine some of them are undisturbed.
const ROUNDS: usize = 101;
/// Operations of one round: well above the clock's own cost, well below a time slice.
const PER_ROUND: u64 = 5_000;
/// Rounds of two threads.
const ROUNDS_TOGETHER: usize = 501;
/// Operations of one round of two threads: long enough that a start some nanoseconds apart is nothing.
const TOGETHER: u64 = 20_000;
/// Operations that callgrind counts.
const COUNTED: u64 = 5_000;

impl Bench {
    /// Measures it, the instructions by running this program again.
    pub(crate) fn measure(&self) -> Cost {
        let mut run = (self.make)();
        run(self.warm_up);
        let mut allocated = 0;
        let rounds = (0..ROUNDS).map(|_| {
            let before = thread_ns();
            allocated += allocations::of(|| run(PER_ROUND));
            (thread_ns() - before) as f64 / PER_ROUND as f64
        });
        let (least_ns, median_ns) = least_and_median(rounds.collect());
        let allocations = Some(allocated as f64 / (PER_ROUND * ROUNDS as u64) as f64);
        Cost { least_ns, median_ns, instructions: self.instructions(), allocations }
    }

    /// Warms up and runs on, for callgrind to count.
    pub(crate) fn repeat(&self, operations: u64) {
        let mut run = (self.make)();
        run(self.warm_up);
        run(operations);
    }

    fn instructions(&self) -> Option<u64> {
        let (short, long) = (self.count(0)?, self.count(COUNTED)?);
        Some(long.saturating_sub(short) / COUNTED)
    }

    fn count(&self, operations: u64) -> Option<u64> {
        let program = std::env::current_exe().ok()?;
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        let output = valgrind.arg(program).args([self.name, &operations.to_string()]).output().ok()?;
        collected(&String::from_utf8_lossy(&output.stderr))
    }
}

/// Two threads at once, each on a processor of its own and with a loop of its own making, so that they share no more than
/// what `make` lets them. What an operation costs the thread that does it, in rounds that both began together and went
/// through without being interrupted; `None` if the machine left them none.
pub(crate) fn on_two_threads<T: FnMut(u64)>(make: impl Fn() -> T + Sync) -> Option<Cost> {
    let arrived = AtomicUsize::new(0);
    let rounds_on = |processor| {
        stay_on(processor);
        let mut run = make();
        run(TOGETHER);
        let rounds = (1..=ROUNDS_TOGETHER).map(|round| {
            // A barrier that sleeps would let the two start apart.
            arrived.fetch_add(1, Ordering::AcqRel);
            while arrived.load(Ordering::Acquire) < round * 2 {
                std::hint::spin_loop();
            }
            let (began, before) = (Instant::now(), thread_ns());
            run(TOGETHER);
            Round { began, ended: Instant::now(), spent_ns: thread_ns() - before }
        });
        rounds.collect::<Vec<_>>()
    };
    let [one, other] = thread::scope(|scope| {
        let threads = [scope.spawn(|| rounds_on(0)), scope.spawn(|| rounds_on(1))];
        threads.map(|thread| thread.join().expect("a loop does not panic"))
    });
    let mean_ns = |(one, other): (&Round, &Round)| {
        let spent_ns = one.spent_ns + other.spent_ns;
        one.is_beside(other).then_some(spent_ns as f64 / (2 * TOGETHER) as f64)
    };
    let means: Vec<_> = one.iter().zip(&other).filter_map(mean_ns).collect();
    let (least_ns, median_ns) = (!means.is_empty()).then(|| least_and_median(means))?;
    Some(Cost { least_ns, median_ns, ..Cost::default() })
}

/// One of two threads' round.
#[derive(Clone, Copy, Debug)]
struct Round {
    began: Instant,
    ended: Instant,
    spent_ns: u64,
}

impl Round {
    /// Whether both ran at the same time for at least nine tenths of the time that they took.
    fn is_beside(&self, other: &Self) -> bool {
        let together = self.ended.min(other.ended).saturating_duration_since(self.began.max(other.began));
        let apart = self.ended.max(other.ended).duration_since(self.began.min(other.began));
        let ran = |round: &Self| u128::from(round.spent_ns) * 10 >= together.as_nanos() * 9;
        together * 10 >= apart * 9 && ran(self) && ran(other)
    }
}

/// Keeps this thread on one processor. Where that is not allowed, the scheduler spreads two busy threads as well.
fn stay_on(processor: usize) {
    let mut only = CpuSet::new();
    only.set(processor);
    let _ = sched_setaffinity(None, &only);
}

/// Processor time of this thread, in nanoseconds.
fn thread_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

fn least_and_median(mut rounds: Vec<f64>) -> (f64, f64) {
    rounds.sort_unstable_by(f64::total_cmp);
    (rounds[0], rounds[rounds.len() / 2])
}

/// The sum in what callgrind prints at its end.
fn collected(printed: &str) -> Option<u64> {
    let line = printed.lines().find_map(|line| line.split_once("Collected : "))?;
    line.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn callgrinds_sum_is_found_among_its_other_words() {
        let printed = "==7== Events    : Ir\n==7== Collected : 123456\n==7== \n";
        assert_eq!(collected(printed), Some(123_456));
        assert_eq!(collected("valgrind: failed to start"), None);
    }

    #[test]
    fn a_round_counts_only_beside_another_one() {
        let zero = Instant::now();
        let round = |from_us, to_us, spent_us: u64| Round {
            began: zero + Duration::from_micros(from_us),
            ended: zero + Duration::from_micros(to_us),
            spent_ns: spent_us * 1000,
        };
        assert!(round(0, 100, 99).is_beside(&round(3, 103, 100)));
        assert!(!round(0, 100, 99).is_beside(&round(50, 150, 100)), "they began apart");
        assert!(!round(0, 100, 99).is_beside(&round(0, 100, 40)), "one was interrupted");
        assert!(!round(0, 100, 99).is_beside(&round(200, 300, 99)), "one after the other");
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(least_and_median(vec![3.0, 9.0, 1.0]), (1.0, 3.0));
    }
}
