//! When a shard next has something to say to the coordinator's thread.
//!
//! Words that cannot wait are said at once, the others together when their time has come. It must never wake a shard
//! that has nothing to say.

use std::{cell::Cell, rc::Rc, time::Duration};

use obleth_policy::unit::Instant;

use crate::timer::{Alarm, Timers};

/// Pause before words are said again that a full ring has refused.
const AGAIN: Duration = Duration::from_millis(1);

/// An alarm that is moved only forward in time until it goes. Owned by whoever has the words.
#[derive(Debug)]
pub(crate) struct Reminder {
    alarm: Alarm,
    due: Cell<Option<Instant>>,
}

impl Reminder {
    pub(crate) fn new(timers: &Rc<Timers>) -> Self {
        Self { alarm: timers.alarm(), due: Cell::new(None) }
    }

    /// There will be something to say then.
    pub(crate) fn expect(&self, due: Option<Instant>) {
        let Some(due) = due else { return };
        if self.due.get().is_none_or(|known| due < known) {
            self.due.set(Some(due));
            self.alarm.set(due);
        }
    }

    /// The ring is full.
    pub(crate) fn again(&self, now: Instant) {
        self.due.set(Some(now));
        self.alarm.set(now.plus(AGAIN));
    }

    /// Waits until it is time.
    pub(crate) async fn wait(&self) {
        self.alarm.wait().await;
        self.alarm.clear();
        self.due.set(None);
    }
}
