//! The coordinator's thread: the pure [`Coordinator`] with the links on its hands.
//!
//! Plain and without a runtime: it sleeps by its doorbell, takes in what the shards and the sidecar have said, decides,
//! and says what follows. It must never wait for anybody: what a shard's full ring refuses is kept until there is room.
//! It needs no processor of its own; while nobody asks for a slot that is not at hand it is asleep.

use std::{collections::VecDeque, io, os::fd::AsFd, time::Duration};

use obleth_link::{CoordinatorEnd, Order, Report};
use obleth_policy::{
    coordinator::{Coordinator, Limits, Outbox},
    protocol::{Down, Up},
    unit::Instant,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Words taken from one shard before it is decided.
const BATCH: usize = 1024;
/// Pause before a full ring is tried again.
const AGAIN: Duration = Duration::from_millis(1);
/// The life that a call to begin a new one is addressed to: every one.
const ANY_LIFE: u32 = 0;

/// Runs the coordinator on the calling thread until [`Order::Stop`].
///
/// # Errors
/// The kernel's, when it cannot wait for the doorbell.
///
/// # Panics
/// If the books do not add up in a build with checks.
pub fn run_coordinator(end: CoordinatorEnd, limits: Limits) -> io::Result<()> {
    let mut runner = Runner::new(end, limits);
    loop {
        if runner.turn() {
            return Ok(());
        }
        runner.sleep()?;
    }
}

struct Runner {
    end: CoordinatorEnd,
    epoch: std::time::Instant,
    coordinator: Coordinator,
    out: Outbox,
    /// What a full ring refused, by shard.
    kept: Vec<VecDeque<(u32, Down)>>,
    heard: Vec<(usize, u32, Up)>,
}

impl Runner {
    fn new(end: CoordinatorEnd, limits: Limits) -> Self {
        let shards = end.shards();
        let mut coordinator = Coordinator::new(shards, limits);
        for (shard, gauges) in end.gauges().shards().enumerate() {
            if gauges.is_missing() {
                coordinator.bury(shard);
            }
        }
        // Whatever they said to a predecessor is lost with it: they say it again.
        let kept = (0..shards).map(|_| VecDeque::from([(ANY_LIFE, Down::Resync)])).collect();
        end.report(Report::Started);
        let (epoch, out, heard) = (std::time::Instant::now(), Outbox::new(), Vec::new());
        Self { end, epoch, coordinator, out, kept, heard }
    }

    /// Takes everything in and decides. True when the process ends.
    fn turn(&mut self) -> bool {
        // A shard's death is ordered before its successor can speak: so orders are taken after words, and heard before.
        for shard in 0..self.end.shards() {
            let words = std::iter::from_fn(|| self.end.take_up(shard)).take(BATCH);
            self.heard.extend(words.map(|(life, up)| (shard, life, up)));
        }
        let mut look = false;
        while let Some(order) = self.end.take_order() {
            match order {
                Order::Shares(shares) => self.coordinator.configure(&shares, &mut self.out),
                Order::Key { tenant, key, shape } => self.coordinator.reshape_key(tenant, key, shape),
                Order::Look => look = true,
                Order::Limits(_) | Order::Limit(_) | Order::Correct(_) | Order::LookAtLimits => {}
                Order::Died(shard) => self.coordinator.bury(shard),
                Order::Stop => return true,
            }
        }
        let now = self.now();
        for (shard, life, up) in self.heard.drain(..) {
            self.coordinator.take(now, (shard, life), up, &mut self.out);
        }
        self.coordinator.decide(now, &mut self.out);
        self.send();
        if look {
            self.end.report(Report::Live(self.coordinator.live(now)));
        }
        false
    }

    /// Says what is to be said, and wakes whom it is for.
    fn send(&mut self) {
        for (shard, down) in self.out.drain(..) {
            if let (Some(life), Some(kept)) = (self.coordinator.life(shard), self.kept.get_mut(shard)) {
                kept.push_back((life, down));
            }
        }
        for (shard, kept) in self.kept.iter_mut().enumerate() {
            let mut said = false;
            while let Some((life, down)) = kept.front().copied() {
                if self.end.say(shard, life, down).is_err() {
                    break;
                }
                kept.pop_front();
                said = true;
            }
            if said {
                self.end.ring(shard);
            }
        }
    }

    /// Until somebody says something, or the time has come to look again.
    fn sleep(&mut self) -> io::Result<()> {
        let bell = self.end.bell();
        bell.going_to_sleep();
        let is_backed_up = self.kept.iter().any(|kept| !kept.is_empty());
        let wakes_in = self.coordinator.wakes_at().map(|at| at.since(self.now()));
        let timeout = if is_backed_up { Some(AGAIN) } else { wakes_in };
        if !self.end.has_word() {
            let timeout = timeout.map(|timeout| Timespec {
                tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(timeout.subsec_nanos()),
            });
            match poll(&mut [PollFd::from_borrowed_fd(bell.fd().as_fd(), PollFlags::IN)], timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bell.awake();
        Ok(())
    }

    fn now(&self) -> Instant {
        Instant(u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}
