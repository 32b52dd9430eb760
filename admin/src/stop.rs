//! The word that ends the sidecar, said by another thread.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

/// Cheap to clone; all clones are one signal. Once triggered it stays so.
#[derive(Clone, Debug, Default)]
pub struct StopSignal(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    said: AtomicBool,
    notify: Notify,
}

impl StopSignal {
    /// A signal that was not given yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives it, from any thread.
    pub fn trigger(&self) {
        self.0.said.store(true, Ordering::SeqCst);
        self.0.notify.notify_waiters();
    }

    /// Whether it was given.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        self.0.said.load(Ordering::SeqCst)
    }

    /// Returns once it is given.
    pub(crate) async fn wait(&self) {
        // Registered before the look, so that a trigger in between is not missed.
        let notified = self.0.notify.notified();
        if !self.is_triggered() {
            notified.await;
        }
    }
}
