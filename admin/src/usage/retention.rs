//! How long the embedded ledger keeps rows: whole days, deleted in small steps between other work.
//!
//! ClickHouse does this by itself.

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

/// Where the oldest day begins that is kept besides today's (UTC).
fn cutoff(now: UnixMs, days: u32) -> UnixMs {
    UnixMs((now.0.div_euclid(DAY_MS) - i64::from(days)) * DAY_MS)
}

/// Deletes what is older than so many days, for ever; zero keeps everything.
pub(crate) async fn keep(ledger: Embedded, days: u32) {
    if days == 0 {
        return;
    }
    loop {
        let cutoff = cutoff(clock::now(), days);
        // A fault has been logged; the next round tries again.
        while ledger.expire(cutoff).await == Ok(true) {
            sleep(PAUSE).await;
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
}
