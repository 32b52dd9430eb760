//! Whether the usage log has all that shards have noted, so that what the spend book does not know was not used.
//!
//! A disk that is full, slow or frozen keeps notes in the slates, and what finds no room there or in the log is lost. It
//! must never say that everything is there while it may not be.

use std::time::Duration;

use obleth_ledger::Tail;
use obleth_policy::unit::UnixMs;
use tokio::time::{sleep, timeout};

use crate::clock;

/// How long notes may take to become durable. A disk that works needs some 50 ms.
const DURABLE_WITHIN: Duration = Duration::from_secs(10);
/// Pause between two looks at how far the log is.
const PAUSE: Duration = Duration::from_millis(20);

/// See the module's text. Owned by the audit.
#[derive(Debug)]
pub(super) struct Coverage {
    tail: Tail,
    /// Notes that were lost by the last look.
    lost: u64,
    /// Everything that requests of this moment or later have used was noted.
    whole_since: UnixMs,
}

impl Coverage {
    pub(super) fn of(tail: Tail) -> Self {
        Self { tail, lost: 0, whole_since: UnixMs(i64::MIN) }
    }

    /// Waits until all that was noted before this call is durable. Returns since when nothing of it was lost; `None` if the
    /// disk takes too long.
    pub(super) async fn whole_since(&mut self) -> Option<UnixMs> {
        let noted = self.tail.noted();
        let durable = async {
            while !self.tail.covers(&noted) {
                sleep(PAUSE).await;
            }
        };
        timeout(DURABLE_WITHIN, durable).await.ok()?;
        let lost = self.tail.figures().lost;
        if lost > self.lost {
            (self.lost, self.whole_since) = (lost, UnixMs(clock::now().0 + 1));
        }
        Some(self.whole_since)
    }
}

#[cfg(test)]
mod tests {
    use obleth_ledger::{Kind, Opened, Options, open};
    use tempfile::TempDir;

    use super::*;
    use crate::usage::golden;

    const AT: UnixMs = UnixMs(1_790_000_000_000);

    /// A log whose thread's turns the test makes.
    fn opened() -> (Opened, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            dir: dir.path().to_owned(),
            node: None,
            default_node: "node-1".to_owned(),
            streams: 2,
            max_bytes: 1 << 20,
            sync_every: Duration::from_millis(5),
            slate_bytes: 1,
            checkpoint: None,
        };
        (open(options).unwrap(), dir)
    }

    fn note(log: &Opened, number: u64) -> bool {
        log.slates[1].note(Kind::End, &golden::at(AT, number).record)
    }

    #[tokio::test(start_paused = true)]
    async fn everything_is_there_once_the_disk_has_taken_it_and_not_known_to_be_while_it_does_not() {
        let (mut log, _dir) = opened();
        let mut coverage = Coverage::of(log.tail.clone());
        assert_eq!(coverage.whole_since().await, Some(UnixMs(i64::MIN)));
        assert!(note(&log, 1));
        assert_eq!(coverage.whole_since().await, None, "nobody writes");
        let written = async {
            sleep(DURABLE_WITHIN / 2).await;
            log.writer.round().unwrap();
        };
        let (whole_since, ()) = tokio::join!(coverage.whole_since(), written);
        assert_eq!(whole_since, Some(UnixMs(i64::MIN)), "late, but there");
    }

    #[tokio::test]
    async fn what_was_lost_is_missing_from_every_period_that_had_begun() {
        let (mut log, _dir) = opened();
        let mut coverage = Coverage::of(log.tail.clone());
        let begun = clock::now();
        let lost = (0..).find(|number| !note(&log, *number));
        assert!(lost.is_some_and(|number| number > 0), "the slate had room for some");
        log.writer.round().unwrap();
        let whole_since = coverage.whole_since().await.unwrap();
        assert!(whole_since > begun && whole_since.0 <= clock::now().0 + 1);
        assert!(note(&log, 0));
        log.writer.round().unwrap();
        assert_eq!(coverage.whole_since().await, Some(whole_since), "nothing more was lost");
    }
}
