//! What a shard has yet to be told, while its ring is full: merged, so that it cannot grow.
//!
//! Of snapshots only the newest counts; any number of edited keys becomes "all keys may have changed".

use std::{collections::VecDeque, sync::Arc};

use obleth_link::{COMMAND_RING, Command};
use obleth_policy::{
    key::{KeyAnswer, KeyDigest},
    snapshot::Snapshot,
};

/// See the module's text. One per shard.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    snapshot: Option<Arc<Snapshot>>,
    answers: VecDeque<(KeyDigest, KeyAnswer)>,
    all_keys: bool,
    ping: Option<u64>,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.snapshot.is_none() && self.answers.is_empty() && !self.all_keys && self.ping.is_none()
    }

    /// Keeps what did not fit into the ring.
    pub(crate) fn keep(&mut self, command: Command) {
        match command {
            Command::Snapshot(snapshot) => self.snapshot = Some(snapshot),
            Command::KeyAnswer(digest, answer) => {
                // The shard asks for a bounded number of keys at a time; more are answers nobody waits for.
                if self.answers.len() >= COMMAND_RING {
                    self.answers.pop_front();
                }
                self.answers.push_back((digest, answer));
            }
            Command::KeyChanged(_) | Command::AllKeysChanged => self.all_keys = true,
            Command::Ping(number) => self.ping = Some(number),
            // The main thread's to send, not the sidecar's.
            Command::Drain => {}
        }
    }

    /// The next command. The snapshot comes first, so that a new key finds its tenant; "all keys changed"
    /// comes behind every answer, so that none that is older than an edit outlives it.
    pub(crate) fn take(&mut self) -> Option<Command> {
        if let Some(snapshot) = self.snapshot.take() {
            return Some(Command::Snapshot(snapshot));
        }
        if let Some((digest, answer)) = self.answers.pop_front() {
            return Some(Command::KeyAnswer(digest, answer));
        }
        if std::mem::take(&mut self.all_keys) {
            return Some(Command::AllKeysChanged);
        }
        self.ping.take().map(Command::Ping)
    }

    /// Puts back what [`Outbox::take`] gave and the ring refused.
    pub(crate) fn put_back(&mut self, command: Command) {
        match command {
            Command::KeyAnswer(digest, answer) => self.answers.push_front((digest, answer)),
            other => self.keep(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(generation: u64) -> Command {
        Command::Snapshot(Arc::new(Snapshot::new(generation, Vec::new(), Vec::new(), Default::default())))
    }

    #[test]
    fn the_newest_snapshot_and_one_word_for_all_keys_are_left_of_any_number() {
        let mut outbox = Outbox::default();
        let digest = KeyDigest([1; 32]);
        for generation in 1..=5 {
            outbox.keep(snapshot(generation));
            outbox.keep(Command::KeyChanged(digest));
            outbox.keep(Command::Ping(generation));
        }
        outbox.keep(Command::KeyAnswer(digest, KeyAnswer::Unknown));
        assert!(matches!(outbox.take(), Some(Command::Snapshot(s)) if s.generation == 5));
        let answer = outbox.take().unwrap();
        assert!(matches!(answer, Command::KeyAnswer(..)));
        outbox.put_back(answer);
        assert!(matches!(outbox.take(), Some(Command::KeyAnswer(..))));
        assert!(matches!(outbox.take(), Some(Command::AllKeysChanged)));
        assert!(matches!(outbox.take(), Some(Command::Ping(5))));
        assert!(outbox.take().is_none() && outbox.is_empty());
    }

    #[test]
    fn answers_nobody_can_wait_for_do_not_pile_up() {
        let mut outbox = Outbox::default();
        for _ in 0..COMMAND_RING + 10 {
            outbox.keep(Command::KeyAnswer(KeyDigest([0; 32]), KeyAnswer::Unknown));
        }
        assert_eq!(outbox.answers.len(), COMMAND_RING);
    }
}
