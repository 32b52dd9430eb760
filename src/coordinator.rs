//! The coordinator's thread: its start, its end, and its return after a fault.
//!
//! Shards go on with the credits that they hold while it is away; whoever would have to wait, waits. When it is back, the
//! shards tell it what they hold, and nothing is granted twice.

use std::{io, sync::mpsc::Sender, time::Instant};

use obleth_link::{Order, SidecarEnd};
use obleth_proxy::{QueueLimits, run_coordinator};

use crate::{
    restarts::Kept,
    threads::{Ending, News, spawn},
};

/// The running coordinator. On drop it is stopped.
#[derive(Debug)]
pub(crate) struct CoordinatorThread {
    link: SidecarEnd,
    limits: QueueLimits,
    news: Sender<News>,
    thread: Kept,
}

impl CoordinatorThread {
    /// Starts it.
    ///
    /// # Errors
    /// The kernel's, when it refuses a thread.
    pub(crate) fn start(link: SidecarEnd, limits: QueueLimits, news: Sender<News>) -> io::Result<Self> {
        let mut coordinator = Self { link, limits, news, thread: Kept::default() };
        coordinator.spawn()?;
        Ok(coordinator)
    }

    fn spawn(&mut self) -> io::Result<()> {
        let (end, limits) = (self.link.coordinator(), self.limits);
        let work = move || run_coordinator(end, limits).map_err(|error| error.to_string());
        let name = "obleth-coord".to_owned();
        self.thread.runs(spawn(name, self.news.clone(), News::CoordinatorEnded, work)?);
        Ok(())
    }

    /// The thread is at its end though nobody stopped it: it is due to start again.
    pub(crate) fn ended(&mut self, ending: &Ending, now: Instant) {
        self.thread.join();
        let wait_ms = self.thread.book(now).as_millis();
        tracing::error!(cause = %ending, wait_ms,
            "the coordinator died and is started again; until then requests start only from what each core holds");
    }

    /// Starts it again if its time has come.
    pub(crate) fn restart_due(&mut self, now: Instant) {
        if !self.thread.is_due(now) {
            return;
        }
        if let Err(error) = self.spawn() {
            self.ended(&Ending::Failed(error.to_string()), now);
        }
    }

    /// When [`CoordinatorThread::restart_due`] has something to do next.
    pub(crate) fn next_restart(&self) -> Option<Instant> {
        self.thread.next()
    }
}

impl Drop for CoordinatorThread {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // A full ring means that it does not read it; the process ends without it.
        if self.link.order(Order::Stop).is_ok() {
            let _ = thread.join();
        }
    }
}
