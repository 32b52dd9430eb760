//! Figures that shards publish and the sidecar reads.
//!
//! Each figure has one writer, so an update is a plain load and store without a locked instruction, and each
//! shard's figures lie on cache lines of their own. A reader may see a sum that is a few requests old, never
//! one that is torn.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use obleth_policy::{id::PoolIx, outcome::Ending, route::Route};

/// Pools that figures are kept for; the most models that a registry may hold.
pub const MAX_POOLS: usize = 4096;

/// Upper bounds of the buckets for request duration and time to first token, in milliseconds. Up to 43
/// minutes, because queued reasoning models take that long.
pub const LATENCY_BOUNDS_MS: [u64; 20] = [
    5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 20_000, 40_000, 80_000, 160_000, 320_000,
    640_000, 1_280_000, 2_560_000, 5_120_000,
];

/// Upper bounds of the buckets for the gateway's own time per request, in microseconds.
pub const OVERHEAD_BOUNDS_US: [u64; 12] = [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 50_000];

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owner may.
    pub fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes `n` away. Only the owner may.
    pub fn sub(&self, n: u64) {
        self.0.store(self.get().saturating_sub(n), Ordering::Relaxed);
    }

    /// Sets it. Only the owner may.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Reads it. Anybody may.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A distribution over fixed buckets with one writer.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [u64; N],
    buckets: [Counter; N],
    beyond: Counter,
    sum: Counter,
}

impl<const N: usize> Histogram<N> {
    fn new(bounds: &'static [u64; N]) -> Self {
        let buckets = std::array::from_fn(|_| Counter::default());
        Self { bounds, buckets, beyond: Counter::default(), sum: Counter::default() }
    }

    /// Counts one value, in the unit of the bounds; `sum_part` goes into the sum and may be finer.
    pub fn record(&self, value: u64, sum_part: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.buckets.get(at).unwrap_or(&self.beyond).add(1);
        self.sum.add(sum_part);
    }

    /// Counts per bucket, not cumulated; the last one is for values beyond all bounds.
    pub fn counts(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().chain([&self.beyond]).map(Counter::get)
    }

    /// Sum of all `sum_part`.
    pub fn sum(&self) -> u64 {
        self.sum.get()
    }
}

/// Where a request was when its client left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its body was still coming in.
    Upload,
    /// It waited for a slot.
    Queued,
    /// It waited for the backend's first byte.
    FirstByte,
    /// The answer was on its way.
    Answer,
}

impl Phase {
    /// All of them, by index.
    pub const ALL: [Self; 4] = [Self::Upload, Self::Queued, Self::FirstByte, Self::Answer];

    /// As a label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Queued => "queued",
            Self::FirstByte => "ttft",
            Self::Answer => "streaming",
        }
    }
}

/// How one try at a backend went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// An answer came, whatever its status.
    Answered,
    /// No connection.
    Unreachable,
    /// A connection from the pool turned out to be closed: not a byte came back, so it was tried again.
    Stale,
    /// A time limit passed.
    Timeout,
    /// The connection broke, or what came was not HTTP.
    Cut,
    /// The client left meanwhile.
    ClientGone,
}

impl Attempt {
    /// All of them, by index.
    pub const ALL: [Self; 6] =
        [Self::Answered, Self::Unreachable, Self::Stale, Self::Timeout, Self::Cut, Self::ClientGone];

    /// As a label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Unreachable => "unreachable",
            Self::Stale => "stale",
            Self::Timeout => "timeout",
            Self::Cut => "cut",
            Self::ClientGone => "client_gone",
        }
    }
}

/// Which of the kernel's interfaces a shard runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// io_uring.
    IoUring,
    /// epoll, where io_uring is not to be had.
    Epoll,
}

impl Driver {
    /// As a label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// The figures of one shard. Written by that shard only.
#[derive(Debug)]
pub struct ShardGauges {
    /// Requests between admission and settlement.
    pub in_flight: Counter,
    /// Requests that wait for a slot.
    pub queued: Counter,
    /// Requests whose answer was made shorter, so that they need not wait for so long.
    pub degraded: Counter,
    /// How long requests that had to wait did so, in ms (sum in µs).
    pub queue_wait: Histogram<{ LATENCY_BOUNDS_MS.len() }>,
    /// Client connections.
    pub connections: Counter,
    /// Room that large request bodies take up, of [`crate::BufferBudget`].
    pub buffered_bytes: Counter,
    /// Requests done, by route and ending.
    requests: [[Counter; Ending::COUNT]; Route::ALL.len()],
    /// From the parsed head to the last byte, in ms (sum in µs).
    pub duration: Histogram<{ LATENCY_BOUNDS_MS.len() }>,
    /// From the parsed head to the first byte of the answer's content, in ms (sum in µs).
    pub ttft: Histogram<{ LATENCY_BOUNDS_MS.len() }>,
    /// From the parsed head to dispatch, less the time in a queue, in µs (sum in ns).
    pub overhead: Histogram<{ OVERHEAD_BOUNDS_US.len() }>,
    /// Tokens that backends counted as input.
    pub input_tokens: Counter,
    /// Tokens that backends generated.
    pub output_tokens: Counter,
    /// Requests that used something which has no price.
    pub unpriced: Counter,
    /// Requests that nobody could say the limits of in time.
    pub unfunded: Counter,
    client_closed: [Counter; Phase::ALL.len()],
    attempts: [Counter; Attempt::ALL.len()],
    /// Look-ups answered by the shard itself.
    pub key_hits: Counter,
    /// Look-ups that had to ask the sidecar.
    pub key_misses: Counter,
    /// The last [`crate::Command::Ping`] that was handled.
    pub heartbeat: Counter,
    /// Kernel thread id, 0 before the start; its processor time is the shard's busy ratio.
    pub thread: Counter,
    /// Times that the shard was started again after it died.
    pub restarts: Counter,
    serving: AtomicBool,
    missing: AtomicBool,
    epoll: AtomicBool,
    pool_in_flight: Box<[Counter]>,
    pool_queued: Box<[Counter]>,
}

impl ShardGauges {
    fn new() -> Self {
        let counters = || std::array::from_fn(|_| Counter::default());
        Self {
            in_flight: Counter::default(),
            queued: Counter::default(),
            degraded: Counter::default(),
            queue_wait: Histogram::new(&LATENCY_BOUNDS_MS),
            connections: Counter::default(),
            buffered_bytes: Counter::default(),
            requests: std::array::from_fn(|_| counters()),
            duration: Histogram::new(&LATENCY_BOUNDS_MS),
            ttft: Histogram::new(&LATENCY_BOUNDS_MS),
            overhead: Histogram::new(&OVERHEAD_BOUNDS_US),
            input_tokens: Counter::default(),
            output_tokens: Counter::default(),
            unpriced: Counter::default(),
            unfunded: Counter::default(),
            client_closed: std::array::from_fn(|_| Counter::default()),
            attempts: std::array::from_fn(|_| Counter::default()),
            key_hits: Counter::default(),
            key_misses: Counter::default(),
            heartbeat: Counter::default(),
            thread: Counter::default(),
            restarts: Counter::default(),
            serving: AtomicBool::new(false),
            missing: AtomicBool::new(false),
            epoll: AtomicBool::new(false),
            pool_in_flight: (0..MAX_POOLS).map(|_| Counter::default()).collect(),
            pool_queued: (0..MAX_POOLS).map(|_| Counter::default()).collect(),
        }
    }

    /// Requests done with this route and ending.
    #[must_use]
    pub fn requests(&self, route: Route, ending: Ending) -> Option<&Counter> {
        self.requests.get(route.ix())?.get(ending.ix())
    }

    /// Clients that left in this phase.
    #[must_use]
    pub fn client_closed(&self, phase: Phase) -> Option<&Counter> {
        self.client_closed.get(phase as usize)
    }

    /// Tries at backends that went this way.
    #[must_use]
    pub fn attempts(&self, attempt: Attempt) -> Option<&Counter> {
        self.attempts.get(attempt as usize)
    }

    /// Requests in flight in a pool, on this shard.
    #[must_use]
    pub fn pool_in_flight(&self, pool: PoolIx) -> Option<&Counter> {
        self.pool_in_flight.get(pool.at())
    }

    /// Requests that wait for a slot of a pool, on this shard.
    #[must_use]
    pub fn pool_queued(&self, pool: PoolIx) -> Option<&Counter> {
        self.pool_queued.get(pool.at())
    }

    /// The shard accepts connections from now on, on this driver.
    pub fn start_serving(&self, driver: Driver) {
        self.epoll.store(driver == Driver::Epoll, Ordering::Relaxed);
        self.serving.store(true, Ordering::Release);
    }

    /// The shard is gone: what it had in flight is, too.
    pub fn stop_serving(&self) {
        self.serving.store(false, Ordering::Release);
        self.in_flight.set(0);
        self.queued.set(0);
        self.connections.set(0);
        self.buffered_bytes.set(0);
        self.pool_in_flight.iter().chain(&self.pool_queued).for_each(|count| count.set(0));
    }

    /// Whether it accepts connections.
    pub fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Acquire)
    }

    /// Says whether it has no thread: it ended, and was not started again yet.
    pub fn set_missing(&self, is_missing: bool) {
        self.missing.store(is_missing, Ordering::Release);
    }

    /// Whether it is known to have no thread, and so cannot give a sign of life.
    pub fn is_missing(&self) -> bool {
        self.missing.load(Ordering::Acquire)
    }

    /// What it runs on; meaningful once it serves.
    pub fn driver(&self) -> Driver {
        if self.epoll.load(Ordering::Relaxed) { Driver::Epoll } else { Driver::IoUring }
    }
}

/// The figures of the process.
#[derive(Debug)]
pub struct Gauges {
    shards: Box<[CachePadded<ShardGauges>]>,
    draining: AtomicBool,
}

impl Gauges {
    /// All zero.
    #[must_use]
    pub fn new(shards: usize) -> Self {
        let shards = (0..shards.max(1)).map(|_| CachePadded::new(ShardGauges::new())).collect();
        Self { shards, draining: AtomicBool::new(false) }
    }

    /// One shard's figures; an index out of range gives the last shard's.
    #[must_use]
    pub fn shard(&self, ix: usize) -> &ShardGauges {
        let last = self.shards.len().saturating_sub(1);
        &self.shards[ix.min(last)]
    }

    /// All shards' figures.
    pub fn shards(&self) -> impl Iterator<Item = &ShardGauges> {
        self.shards.iter().map(|padded| &**padded)
    }

    /// The sum of one figure over all shards.
    pub fn sum(&self, figure: impl Fn(&ShardGauges) -> &Counter) -> u64 {
        self.shards().map(|shard| figure(shard).get()).sum()
    }

    /// Requests in flight in a pool, on all shards.
    #[must_use]
    pub fn pool_in_flight(&self, pool: PoolIx) -> u64 {
        self.shards().filter_map(|shard| shard.pool_in_flight(pool)).map(Counter::get).sum()
    }

    /// Requests that wait for a slot of a pool, on all shards.
    #[must_use]
    pub fn pool_queued(&self, pool: PoolIx) -> u64 {
        self.shards().filter_map(|shard| shard.pool_queued(pool)).map(Counter::get).sum()
    }

    /// The process is shutting down. There is no way back.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the process is shutting down.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_falls_into_the_first_bucket_that_reaches_it() {
        let histogram = Histogram::new(&OVERHEAD_BOUNDS_US);
        for us in [0, 5, 6, 50_000, 50_001] {
            histogram.record(us, us * 1000);
        }
        let counts: Vec<_> = histogram.counts().collect();
        assert_eq!((counts[0], counts[1], counts[11], counts[12]), (2, 1, 1, 1));
        assert_eq!(histogram.sum(), 100_012_000);
    }

    #[test]
    fn shards_count_apart_and_are_read_together() {
        let gauges = Gauges::new(2);
        gauges.shard(0).in_flight.add(2);
        gauges.shard(1).in_flight.add(3);
        assert_eq!(gauges.sum(|g| &g.in_flight), 5);
        gauges.shard(1).stop_serving();
        assert_eq!(gauges.sum(|g| &g.in_flight), 2);
    }
}
