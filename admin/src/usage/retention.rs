//! How long the embedded ledger keeps rows: whole days, deleted in small steps between other work.
//!
//! ClickHouse does this by itself; a file that was the ledger before it is looked after here all the same.
//!
//! A wall clock that jumps must not empty the ledger. So a look that finds the time more than [`MOST_STEP_MS`] later than the
//! last one did deletes nothing, and says so; what the next look finds, ten minutes on, is believed. A jump that is corrected
//! within that time costs nothing. The first look after a start has no earlier one to go by, and believes the clock.

use std::time::Duration;

use obleth_policy::unit::UnixMs;
use tokio::time::sleep;

use super::embedded::Embedded;
use crate::clock;

/// How often there may be a day to delete.
const EVERY: Duration = Duration::from_secs(600);
/// Pause between two steps, so that batches and the disk's other users come first.
const PAUSE: Duration = Duration::from_millis(100);
const DAY_MS: i64 = 86_400_000;

/// How far the time may move between two looks: more than a machine sleeps, less than what anybody would miss.
const MOST_STEP_MS: i64 = 2 * DAY_MS;

/// Where the oldest day begins that is kept besides today's (UTC).
fn cutoff(now: UnixMs, days: u32) -> UnixMs {
    UnixMs((now.0.div_euclid(DAY_MS) - i64::from(days)) * DAY_MS)
}

/// What the last look saw.
#[derive(Debug, Default)]
struct Watch {
    last: Option<UnixMs>,
}

impl Watch {
    /// Whether the time has come here step by step since the last look.
    fn believes(&mut self, now: UnixMs) -> bool {
        let last = self.last.replace(now);
        last.is_none_or(|last| now.0.saturating_sub(last.0) <= MOST_STEP_MS)
    }
}

/// Deletes what is older than so many days, for ever; zero keeps everything.
pub(crate) async fn keep(ledger: Embedded, days: u32) {
    if days == 0 {
        return;
    }
    let mut watch = Watch::default();
    loop {
        let now = clock::now();
        if watch.believes(now) {
            // A fault has been logged; the next round tries again.
            while ledger.expire(cutoff(now, days)).await == Ok(true) {
                sleep(PAUSE).await;
            }
        } else {
            tracing::warn!(target: "obleth_admin", now = clock::text(now),
                "the clock has jumped; no usage record is deleted for its age until the next look says the same");
        }
        sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_days_are_kept_and_today_does_not_count() {
        let day = |day: i64| UnixMs(day * DAY_MS);
        assert_eq!(cutoff(day(500), 400), day(100));
        assert_eq!(cutoff(UnixMs(day(501).0 - 1), 400), day(100));
        assert_eq!(cutoff(day(5), 400), UnixMs(-395 * DAY_MS));
    }

    #[test]
    fn a_jump_that_is_corrected_by_the_next_look_is_never_believed() {
        let mut watch = Watch::default();
        let (now, year) = (500 * DAY_MS, 365 * DAY_MS);
        let mut believes = |at: i64| watch.believes(UnixMs(at));
        assert!(believes(now));
        assert!(believes(now + MOST_STEP_MS), "a machine that slept");
        assert!(!believes(now + year));
        assert!(believes(now + MOST_STEP_MS + 600_000), "it was corrected");
        assert!(!believes(now + year), "each jump anew");
        assert!(believes(now + year + 600_000), "it was none");
        assert!(believes(now), "back in time nothing is too old");
    }
}
