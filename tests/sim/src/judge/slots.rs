//! Slots: never too many in use, never one free for long while somebody waits for it.
//!
//! *Not too many.* A request never starts over a pool's size or the ceiling. After one of them was lowered, those that
//! have a credit already may start for [`GRACE`] grant delays.
//!
//! *None free.* A credit that falls free needs one delay to go home and one to the next shard; one that lay on another
//! shard as stock, a third to be called back. So a slot that has been free for more than [`GRACE`] delays, while for as
//! long a ticket that may be served was with the coordinator, was forgotten. Time starts again when a ring was full, a
//! shard stalled, a thread died or a grant crossed a withdrawal.

use std::collections::VecDeque;

use obleth_policy::coordinator::{Level, LivePool};

use super::Kind;
use crate::plan::Plan;

/// Delays that a credit may be on its way.
const GRACE: u64 = 4;
/// Time that tasks need to run after they were called.
const TASKS_NS: u64 = 200_000;

/// Slots of a pool, or of all pools.
#[derive(Debug, Default)]
struct Room {
    size: u32,
    running: u32,
    /// What the size was before it was lowered, and until when that holds.
    before: (u32, u64),
    /// Since when each free slot is free, oldest first.
    free: VecDeque<u64>,
}

impl Room {
    fn adjust(&mut self, now_ns: u64) {
        let free = self.size.saturating_sub(self.running) as usize;
        while self.free.len() < free {
            self.free.push_back(now_ns);
        }
        while self.free.len() > free {
            self.free.pop_front();
        }
    }

    fn resize(&mut self, size: u32, (now_ns, grace_ns): (u64, u64)) {
        if size < self.size {
            self.before = (self.size.max(self.before.0), now_ns + grace_ns);
        }
        self.size = size;
        self.adjust(now_ns);
    }

    fn most(&self, now_ns: u64) -> u32 {
        if now_ns <= self.before.1 { self.size.max(self.before.0) } else { self.size }
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Slots {
    pools: Vec<Room>,
    all: Room,
    /// Since when a ticket that may be served waits, by pool.
    wanted: Vec<Option<u64>>,
    quiet_ns: u64,
    grace_ns: u64,
    /// A request has just started where there was no room.
    over: Option<String>,
}

impl Slots {
    pub(super) fn new(plan: &Plan) -> Self {
        let mut slots = Self {
            pools: plan.pools.iter().map(|_| Room::default()).collect(),
            all: Room::default(),
            wanted: vec![None; plan.pools.len()],
            quiet_ns: 0,
            grace_ns: plan.delay_ns * GRACE + TASKS_NS,
            over: None,
        };
        slots.reshaped(plan, 0);
        slots
    }

    pub(super) fn reshaped(&mut self, plan: &Plan, now_ns: u64) {
        // Waiting requests that were called before a limit was lowered still start; stalled shards may sit on them.
        let time = (now_ns.max(self.quiet_ns), self.grace_ns);
        for (room, pool) in self.pools.iter_mut().zip(&plan.pools) {
            room.resize(pool.slots, time);
        }
        self.all.resize(plan.ceiling, time);
        self.disturbed(now_ns);
    }

    pub(super) fn disturbed(&mut self, until_ns: u64) {
        self.quiet_ns = self.quiet_ns.max(until_ns);
        for room in self.pools.iter_mut().chain([&mut self.all]) {
            if room.before.1 > 0 && room.running > room.size {
                room.before.1 = room.before.1.max(until_ns + self.grace_ns);
            }
        }
    }

    pub(super) fn start(&mut self, pool: usize, now_ns: u64) {
        for (room, of) in [(&mut self.pools[pool], "the pool"), (&mut self.all, "all pools")] {
            room.running += 1;
            room.adjust(now_ns);
            if room.running > room.most(now_ns) {
                self.over = Some(format!("{} run, {of} ({pool}) may have {}", room.running, room.size));
            }
        }
    }

    pub(super) fn end(&mut self, pool: usize, now_ns: u64) {
        for room in [&mut self.pools[pool], &mut self.all] {
            room.running = room.running.saturating_sub(1);
            room.adjust(now_ns);
        }
    }

    pub(super) fn standing(&mut self, live: &[LivePool], now_ns: u64) {
        for (pool, wanted) in live.iter().zip(&mut self.wanted) {
            let serves = super::bound::eligible(pool);
            let wants = serves.iter().any(|level| matches!(level, Level::Key(..)));
            *wanted = if wants { Some(wanted.unwrap_or(now_ns)) } else { None };
        }
    }

    pub(super) fn check(&mut self, now_ns: u64) -> Option<(Kind, String)> {
        if let Some(over) = self.over.take() {
            return Some((Kind::OverSize, over));
        }
        let ceiling_ns = *self.all.free.front()?;
        for (at, (room, wanted)) in self.pools.iter().zip(&self.wanted).enumerate() {
            let (Some(free_ns), Some(wanted_ns)) = (room.free.front(), wanted) else { continue };
            let since_ns = ceiling_ns.max(*free_ns).max(*wanted_ns).max(self.quiet_ns);
            if now_ns > since_ns + self.grace_ns {
                let says = format!("a slot of pool {at} was free for {} us", (now_ns - since_ns) / 1000);
                return Some((Kind::Idle, says));
            }
        }
        None
    }
}
