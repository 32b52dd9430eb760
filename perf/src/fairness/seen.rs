//! What one tenant saw of a run: its tokens as they came, its waits, what it gave up.

use std::time::Duration;

use super::shares::Series;

/// A tenant's view. Times are from the begin of the run.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Tokens, when they arrived.
    pub(super) tokens: Series,
    /// Requests, when their answers were complete.
    pub(super) finished: Series,
    waits: Vec<Wait>,
    /// Requests given up.
    pub(super) given_up: usize,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    intended: Duration,
    ttft: Duration,
    queue_ms: Option<u32>,
}

impl Seen {
    /// The first token of a request came so long after it was meant to leave.
    pub(super) fn begins(&mut self, intended: Duration, ttft: Duration, queue_ms: Option<u32>) {
        self.waits.push(Wait { intended, ttft, queue_ms });
    }

    /// Milliseconds to the first token of requests meant to leave from `warm` on.
    pub(super) fn ttft_ms(&self, warm: Duration) -> Vec<f64> {
        let counted = self.waits.iter().filter(|wait| wait.intended >= warm);
        counted.map(|wait| wait.ttft.as_secs_f64() * 1e3).collect()
    }

    /// Milliseconds that the gateway says that they waited. Less of them if it does not always say.
    pub(super) fn queue_ms(&self, warm: Duration) -> Vec<f64> {
        let counted = self.waits.iter().filter(|wait| wait.intended >= warm);
        counted.filter_map(|wait| wait.queue_ms.map(f64::from)).collect()
    }
}
