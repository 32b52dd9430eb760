//! The main thread after the start: it waits for signals and for threads that end, and drains the process.
//!
//! It sleeps in one place, on one channel. Nothing here touches a request.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use obleth_link::{Command, Order, SidecarEnd};

use crate::{
    coordinator::CoordinatorThread,
    exit::{Exit, Failure},
    ledger::LogThread,
    restarts::Restart,
    sidecar::SidecarThread,
    threads::{Ending, News, Shards},
};

/// How long the shards may take until they accept connections.
const SERVE_WITHIN: Duration = Duration::from_secs(10);
/// Pace at which the start looks whether all shards serve.
const START_LOOK: Duration = Duration::from_millis(2);
/// Pace at which a drain command is offered again to a shard whose ring is full.
const DRAIN_LOOK: Duration = Duration::from_millis(10);
/// What a shard may take beyond the drain timeout to close what it cut off.
const DRAIN_GRACE: Duration = Duration::from_secs(3);

/// The running process, as the main thread sees it.
#[derive(Debug)]
pub(crate) struct Process {
    shards: Shards,
    coordinator: CoordinatorThread,
    /// Goes before the sidecar, which ships what it still writes.
    log: LogThread,
    sidecar: SidecarThread,
    /// For the few things that the main thread has to say to shards.
    link: SidecarEnd,
    news: Receiver<News>,
    drain_timeout: Duration,
    /// A signal that came before there was anything to drain.
    early: Option<i32>,
}

/// How the process came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Everything in flight was finished, or had its time.
    Drained,
    /// A second signal did not want to wait; its number.
    Forced(i32),
    /// Every shard dies again and again.
    Hopeless,
}

impl Process {
    /// The sidecar runs; the shards wait for [`Process::start_shards`].
    pub(crate) fn new(
        (shards, coordinator, log, sidecar): (Shards, CoordinatorThread, LogThread, SidecarThread),
        link: SidecarEnd,
        news: Receiver<News>,
        drain_timeout: Duration,
    ) -> Self {
        Self { shards, coordinator, log, sidecar, link, news, drain_timeout, early: None }
    }

    /// Starts the shards and waits until all of them accept connections.
    ///
    /// # Errors
    /// One ended instead, or takes too long: then nothing serves, because the process ends.
    pub(crate) fn start_shards(&mut self) -> Result<(), Failure> {
        self.shards.start().map_err(|error| Failure::io(Exit::OsErr, "cannot start a shard", &error))?;
        let deadline = Instant::now() + SERVE_WITHIN;
        while !self.shards.all_serve() {
            match self.news.recv_timeout(START_LOOK) {
                Ok(News::ShardEnded(shard, ending)) => {
                    return Err(Failure::new(Exit::OsErr, format!("shard {shard} cannot start: {ending}")));
                }
                Ok(News::CoordinatorEnded(ending)) => {
                    return Err(Failure::new(Exit::OsErr, format!("the coordinator cannot start: {ending}")));
                }
                Ok(News::SidecarEnded(ending)) => {
                    return Err(Failure::new(Exit::Software, format!("the sidecar cannot start: {ending}")));
                }
                Ok(News::LogEnded(ending)) => {
                    return Err(Failure::new(
                        Exit::Software,
                        format!("the usage log cannot start: {ending}"),
                    ));
                }
                Ok(News::Signal(signal)) => self.early = Some(signal),
                Err(_) if Instant::now() > deadline => {
                    return Err(Failure::new(Exit::Software, "not every shard came to serve"));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Keeps the process whole until a signal, then drains it; gives it up when no shard stays alive.
    pub(crate) fn supervise(&mut self) -> End {
        if let Some(signal) = self.early {
            return self.drain(signal);
        }
        loop {
            let others = [
                self.shards.next_restart(),
                self.sidecar.next_restart(),
                self.coordinator.next_restart(),
                self.log.next_restart(),
            ];
            let due = others.into_iter().flatten().min();
            let news = match due {
                None => self.news.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => self.news.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            let now = Instant::now();
            match news {
                Ok(News::Signal(signal)) => return self.drain(signal),
                Ok(News::ShardEnded(shard, ending)) => self.shard_ended(shard, &ending, now),
                Ok(News::CoordinatorEnded(ending)) => self.coordinator.ended(&ending, now),
                Ok(News::SidecarEnded(ending)) => self.sidecar.ended(&ending, now),
                Ok(News::LogEnded(ending)) => self.log.ended(&ending, now),
                Err(_) => {}
            }
            self.coordinator.restart_due(now);
            self.log.restart_due(now);
            self.shards.restart_due(now);
            self.sidecar.restart_due(now);
            if self.shards.all_have_to_wait(now) {
                return End::Hopeless;
            }
        }
    }

    /// What the shard held is free before it is started again.
    fn shard_ended(&mut self, shard: usize, ending: &Ending, now: Instant) {
        self.shards.ended(shard, ending, now);
        // A full ring means that no coordinator reads it; the next one sees by the gauges who is missing.
        let _ = self.link.order(Order::Died(shard));
    }

    /// Nothing new comes in, and what is in flight gets its time.
    fn drain(&mut self, signal: i32) -> End {
        let in_flight = self.link.gauges().sum(|shard| &shard.in_flight);
        tracing::info!(signal, in_flight, "draining");
        self.link.gauges().start_draining();
        self.shards.let_go();
        let deadline = Instant::now() + self.drain_timeout + DRAIN_GRACE;
        let mut untold = self.shards.running();
        loop {
            untold.retain(|shard| self.link.send(*shard, Command::Drain).is_err());
            let running = self.shards.running();
            let left = deadline.saturating_duration_since(Instant::now());
            if running.is_empty() || left.is_zero() {
                if !running.is_empty() {
                    tracing::warn!(shards = ?running, "the drain took too long; what is left is cut off");
                }
                return End::Drained;
            }
            let wait = if untold.is_empty() { left } else { DRAIN_LOOK };
            // Requests may still wait for a slot.
            let due = self.coordinator.next_restart().into_iter().chain(self.log.next_restart()).min();
            let due = due.map_or(wait, |due| due.saturating_duration_since(Instant::now()).min(wait));
            let news = self.news.recv_timeout(due);
            let now = Instant::now();
            self.coordinator.restart_due(now);
            self.log.restart_due(now);
            match news {
                Ok(News::Signal(signal)) => return End::Forced(signal),
                Ok(News::ShardEnded(shard, ending)) => self.shard_ended(shard, &ending, now),
                Ok(News::CoordinatorEnded(ending)) => self.coordinator.ended(&ending, now),
                Ok(News::LogEnded(ending)) => self.log.ended(&ending, now),
                Ok(News::SidecarEnded(ending)) => {
                    tracing::warn!(cause = %ending, "the sidecar died while draining")
                }
                Err(_) => {}
            }
        }
    }
}
