//! The coordinator's thread: its start, its end, and its return after a fault.
//!
//! Shards go on with the credits that they hold while it is away; whoever would have to wait, waits. When it is back, the
//! shards tell it what they hold, and nothing is granted twice.

use std::{io, sync::mpsc::Sender};

use obleth_link::{Order, SidecarEnd};
use obleth_proxy::{QueueLimits, run_coordinator};

use crate::{
    restarts::{Kept, Restart},
    threads::{News, spawn},
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
}

impl Restart for CoordinatorThread {
    const DEATH: &'static str =
        "the coordinator died and is started again; until then requests start only from what each core holds";

    fn kept(&mut self) -> &mut Kept {
        &mut self.thread
    }

    fn spawn(&mut self) -> io::Result<()> {
        let (end, limits) = (self.link.coordinator(), self.limits);
        let work = move || run_coordinator(end, limits).map_err(|error| error.to_string());
        let name = "obleth-coord".to_owned();
        self.thread.runs(spawn(name, self.news.clone(), News::CoordinatorEnded, work)?);
        Ok(())
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
