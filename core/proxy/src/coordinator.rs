//! The coordinator's thread: the pure [`Coordinator`] and the pure [`Owner`] of the limits, with the links on its hands.
//!
//! Plain and without a runtime: it sleeps by its doorbell, takes in what the shards and the sidecar have said, decides,
//! and says what follows. It must never wait for anybody: what a shard's full ring refuses is kept until there is room.
//! It needs no processor of its own; while nobody asks for a slot that is not at hand it is asleep.

use std::{
    collections::VecDeque,
    io,
    os::fd::AsFd,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use obleth_link::{CoordinatorEnd, Order, Report};
use obleth_policy::{
    coordinator::{Coordinator, Limits, Outbox},
    limit::{self, Now, Owner},
    protocol::{Down, Up},
    unit::{Instant, UnixMs},
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
    coordinator: Coordinator,
    owner: Owner,
    out: Outbox,
    credits: limit::Outbox,
    /// What a full ring refused, by shard.
    kept: Vec<Kept>,
    heard: Vec<(usize, u32, Up)>,
    asked: Vec<(usize, u32, limit::Up)>,
    /// Orders to a predecessor that still hold.
    left: VecDeque<Order>,
}

/// Words for one shard that found no room in its rings.
struct Kept {
    slots: VecDeque<(u32, Down)>,
    credits: VecDeque<(u32, limit::Down)>,
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
        let kept = (0..shards).map(|_| Kept {
            slots: VecDeque::from([(ANY_LIFE, Down::Resync)]),
            credits: VecDeque::from([(ANY_LIFE, limit::Down::Resync)]),
        });
        let kept = kept.collect();
        // So is what the sidecar ordered, and it orders it anew; what the main thread said is said once.
        let orders = std::iter::from_fn(|| end.take_order());
        let left = orders.filter(|order| matches!(order, Order::Died(_) | Order::Stop)).collect();
        end.report(Report::Started);
        let (owner, credits) = (Owner::new(shards), limit::Outbox::default());
        let (out, heard, asked) = (Outbox::new(), Vec::new(), Vec::new());
        Self { end, coordinator, owner, out, credits, kept, heard, asked, left }
    }

    /// Takes everything in and decides. True when the process ends.
    fn turn(&mut self) -> bool {
        // A shard's death is ordered before its successor can speak: so orders are taken after words, and heard before.
        for shard in 0..self.end.shards() {
            let words = std::iter::from_fn(|| self.end.take_up(shard)).take(BATCH);
            self.heard.extend(words.map(|(life, up)| (shard, life, up)));
            let asks = std::iter::from_fn(|| self.end.take_ask(shard)).take(BATCH);
            self.asked.extend(asks.map(|(life, up)| (shard, life, up)));
        }
        let now = self.now();
        let (mut look, mut look_at_limits) = (false, false);
        while let Some(order) = self.left.pop_front().or_else(|| self.end.take_order()) {
            match order {
                Order::Shares(shares) => self.coordinator.configure(&shares, &mut self.out),
                Order::Key { tenant, key, shape } => self.coordinator.reshape_key(tenant, key, shape),
                Order::Look => look = true,
                Order::Limits(book) => self.owner.configure(now, &book, &mut self.credits),
                Order::Limit(definition) => self.owner.define(now, definition, &mut self.credits),
                Order::Correct(correction) => self.owner.correct(now, correction),
                Order::LookAtLimits => look_at_limits = true,
                Order::Died(shard) => {
                    self.coordinator.bury(shard);
                    self.owner.bury(now, shard, &mut self.credits);
                }
                Order::Stop => return true,
            }
        }
        for (shard, life, up) in self.heard.drain(..) {
            self.coordinator.take(now.monotonic, (shard, life), up, &mut self.out);
        }
        for (shard, life, up) in self.asked.drain(..) {
            self.owner.take(now, (shard, life), up, &mut self.credits);
        }
        self.coordinator.decide(now.monotonic, &mut self.out);
        self.owner.decide(now, &mut self.credits);
        self.send();
        if look {
            self.end.report(Report::Live(self.coordinator.live(now.monotonic)));
        }
        if look_at_limits {
            self.end.report(Report::Limits(self.owner.standings(now)));
        }
        false
    }

    /// Says what is to be said, and wakes whom it is for.
    fn send(&mut self) {
        for (shard, down) in self.out.drain(..) {
            if let (Some(life), Some(kept)) = (self.coordinator.life(shard), self.kept.get_mut(shard)) {
                kept.slots.push_back((life, down));
            }
        }
        for (shard, down) in self.credits.words.drain(..) {
            if let (Some(life), Some(kept)) = (self.owner.life(shard), self.kept.get_mut(shard)) {
                kept.credits.push_back((life, down));
            }
        }
        for (meter, since) in self.credits.exhausted.drain(..) {
            self.end.report(Report::Exhausted(meter, since));
        }
        for (shard, kept) in self.kept.iter_mut().enumerate() {
            let said_slots = say_all(&mut kept.slots, |life, down| self.end.say(shard, life, down).is_ok());
            let lent = say_all(&mut kept.credits, |life, down| self.end.lend(shard, life, down).is_ok());
            if said_slots || lent {
                self.end.ring(shard);
            }
        }
    }

    /// Until somebody says something, or the time has come to look again.
    fn sleep(&mut self) -> io::Result<()> {
        let bell = self.end.bell();
        bell.going_to_sleep();
        let is_backed_up = self.kept.iter().any(|kept| !kept.slots.is_empty() || !kept.credits.is_empty());
        let wakes_at = self.coordinator.wakes_at().into_iter().chain(self.owner.wakes_at()).min();
        let wakes_in = wakes_at.map(|at| at.since(self.now().monotonic));
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

    fn now(&self) -> Now {
        let monotonic = self.end.epoch().elapsed();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            monotonic: Instant(u64::try_from(monotonic.as_nanos()).unwrap_or(u64::MAX)),
            wall: UnixMs(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX)),
        }
    }
}

/// Says words in their order until one is refused. Returns whether any was taken.
fn say_all<T: Copy>(words: &mut VecDeque<(u32, T)>, mut say: impl FnMut(u32, T) -> bool) -> bool {
    let mut said = false;
    while let Some((life, word)) = words.front().copied() {
        if !say(life, word) {
            break;
        }
        words.pop_front();
        said = true;
    }
    said
}
