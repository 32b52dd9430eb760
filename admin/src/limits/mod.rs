//! The limits in force: what the owner of the limits is told of them, at once and completely.
//!
//! Everything that the store says about limits comes through here in the order in which the store did it, because the
//! store's thread tells it. What is told is the difference to what was told before, so a change cannot be forgotten on
//! some route. An owner that starts is given the whole book anew, with what was spent as it is known then.
//! It must never wait while it holds the lock, nor wake up for nothing: without a budget by day or month it sleeps.

mod definitions;
mod turns;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use obleth_policy::{
    limit::{Definition, LimitBook, Spent},
    unit::UnixMs,
};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use crate::{
    clock,
    pump::Pump,
    store::rows::{KeyRow, Registry},
};
use definitions::Definitions;

/// Time after the end of a period before its successors are defined: the clock has certainly passed it.
const AFTER_END: Duration = Duration::from_millis(50);
/// Longest sleep while there are periods that end: the clock on the wall may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// What budgets have used so far; asked whenever an owner of the limits starts.
pub(crate) trait Spending: Send + Sync + 'static {
    /// Of every budget that was used in its period. It may wait, for a bounded time.
    fn spent(&self, definitions: Vec<Definition>) -> impl Future<Output = Vec<Spent>> + Send;
}

/// See the module's text. One for the sidecar.
#[derive(Debug)]
pub(crate) struct LimitDesk {
    pump: Arc<Pump>,
    state: Mutex<State>,
    /// Grows with everything that is told.
    changes: watch::Sender<u64>,
    /// Whether an owner has been given a book.
    has_begun: watch::Sender<bool>,
    /// Rings when a period may end earlier than thought.
    moved: Notify,
}

#[derive(Debug, Default)]
struct State {
    definitions: Definitions,
    /// Everything was read once; what comes before is in that reading.
    is_loaded: bool,
}

impl LimitDesk {
    pub(crate) fn new(pump: Arc<Pump>) -> Self {
        let (changes, has_begun) = (watch::Sender::new(0), watch::Sender::new(false));
        Self { pump, state: Mutex::default(), changes, has_begun, moved: Notify::new() }
    }

    /// Takes all limits in, as the store has them.
    pub(crate) fn load(&self, registry: &Registry, keys: &[KeyRow]) {
        let mut state = self.lock();
        state.is_loaded = true;
        let now = clock::now();
        let mut changed = state.definitions.follow(registry, now);
        changed.extend(keys.iter().filter_map(|key| state.definitions.follow_key(key, now)));
        self.tell(&changed);
    }

    /// The registry has changed. To be called on the store's thread.
    pub(crate) fn follow(&self, registry: &Registry) {
        let mut state = self.lock();
        if state.is_loaded {
            let changed = state.definitions.follow(registry, clock::now());
            self.tell(&changed);
        }
    }

    /// A key was written. To be called on the store's thread.
    pub(crate) fn follow_key(&self, row: &KeyRow) {
        let mut state = self.lock();
        if state.is_loaded {
            let changed = state.definitions.follow_key(row, clock::now());
            self.tell(changed.as_slice());
        }
    }

    /// All limits in force, with the periods that are under way.
    pub(crate) fn definitions(&self) -> Vec<Definition> {
        self.lock().definitions.all()
    }

    /// A number that grows with every change of [`LimitDesk::definitions`].
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Gives the owner its book.
    pub(crate) async fn publish(&self, spending: &impl Spending) {
        let definitions = self.lock().definitions.all();
        let spent = spending.spent(definitions).await;
        // What has changed meanwhile is in it; nothing can change until it is out.
        let state = self.lock();
        let book = LimitBook { definitions: state.definitions.all(), spent };
        self.pump.publish_limits(Arc::new(book));
        self.has_begun.send_replace(true);
    }

    /// Returns once an owner has been given its book: before that no shard may work.
    pub(crate) async fn begun(&self) {
        // It fails only without a sender, and that is `self`.
        let _ = self.has_begun.subscribe().wait_for(|has_begun| *has_begun).await;
    }

    /// Gives every owner that starts its book, and defines new periods when old ones end; until the sidecar ends.
    /// `lives` has seen the life that the first book was for.
    pub(crate) async fn run(&self, mut lives: watch::Receiver<u64>, spending: &impl Spending) {
        let owners = async {
            while lives.changed().await.is_ok() {
                self.publish(spending).await;
            }
        };
        tokio::join!(owners, self.renew());
    }

    async fn renew(&self) {
        loop {
            let ends = self.lock().definitions.next_end();
            let wait = ends.map(|ends| until(ends, clock::now()));
            tokio::select! {
                () = sleep(wait.unwrap_or_default()), if wait.is_some() => {}
                () = self.moved.notified() => {}
            }
            let mut state = self.lock();
            let changed = state.definitions.renew(clock::now());
            self.tell(&changed);
        }
    }

    /// Called with the lock held, so that the order is that of the changes.
    fn tell(&self, changed: &[Definition]) {
        if changed.is_empty() {
            return;
        }
        // Before the first book there is nothing to add to.
        if *self.has_begun.borrow() {
            changed.iter().for_each(|definition| self.pump.limit_changed(*definition));
        }
        self.changes.send_modify(|number| *number += 1);
        self.moved.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long to sleep until a period has ended.
fn until(ends: UnixMs, now: UnixMs) -> Duration {
    let rest = u64::try_from(ends.0.saturating_sub(now.0)).unwrap_or(0);
    Duration::from_millis(rest).saturating_add(AFTER_END).min(LONGEST_SLEEP)
}

#[cfg(test)]
mod tests;
