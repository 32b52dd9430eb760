//! A rival: one atomic counter per pool, shared by all cores.
//!
//! Whoever finds it below the size may start. It is as cheap as it gets on one core; on several its cache line travels with
//! every request. And it has no order: who waits longest, or has had least, is nothing that a counter knows.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use crate::measure::Loop;

/// Slots in use. Clones count the same pool.
#[derive(Clone, Debug)]
pub(crate) struct Counter {
    in_use: Arc<AtomicU32>,
    size: u32,
}

impl Counter {
    pub(crate) fn new(size: u32) -> Self {
        Self { in_use: Arc::new(AtomicU32::new(0)), size }
    }

    pub(crate) fn admit(&self) -> bool {
        let before = self.in_use.fetch_add(1, Ordering::Acquire);
        if before >= self.size {
            self.in_use.fetch_sub(1, Ordering::Release);
        }
        before < self.size
    }

    pub(crate) fn release(&self) {
        self.in_use.fetch_sub(1, Ordering::Release);
    }

    /// So many requests, one after the other.
    pub(crate) fn run(&self, requests: u64) {
        for _ in 0..requests {
            assert!(std::hint::black_box(self).admit(), "the pool is large enough for two threads");
            std::hint::black_box(self).release();
        }
    }
}

/// A loop of requests on one thread.
pub(crate) fn alone() -> Loop {
    let counter = Counter::new(64);
    Box::new(move |requests| counter.run(requests))
}
