//! What the cheap designs cost in fairness: two cores, two tenants of equal weight, connections that lie badly.
//!
//! All requests of the first tenant come in on one core; the second has nine times as many, on both. Half of the pool is
//! the first one's due. The time is made up, the work repeats.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use obleth_policy::{
    admission::{Admission, Slot, Verdict, Wait},
    coordinator::{Coordinator, Outbox},
    cost::Cost,
    protocol::TicketId,
    unit::Instant,
};

use crate::{
    admission::ask,
    counter::Counter,
    decision::{LIMITS, shares},
    round_robin::RoundRobin,
    workload::Lengths,
};

const SLOTS: u32 = 16;
/// Requests that each tenant always has under way on each core.
const LOADS: [(usize, u32, usize); 3] = [(0, 0, 32), (0, 1, 144), (1, 1, 144)];
const WARM_UP: usize = 2_000;
const COUNTED: usize = 20_000;

/// A request that has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Run {
    core: usize,
    tenant: u32,
    /// For the design's own use.
    place: usize,
}

/// A way to divide a pool of [`SLOTS`].
pub(crate) trait Design {
    fn ask(&mut self, now: Instant, core: usize, tenant: u32);
    fn end(&mut self, now: Instant, run: Run, cost: Cost);
    /// What may start now.
    fn started(&mut self, now: Instant) -> Vec<Run>;
}

/// The part of the service that the first tenant gets; a half is due to it.
pub(crate) fn share_of_the_first(mut design: impl Design) -> f64 {
    let (mut now, mut lengths, mut service) = (Instant(1_000_000_000), Lengths::new(), [0_u64; 2]);
    let mut ends: BinaryHeap<Reverse<(Instant, Run, u64)>> = BinaryHeap::new();
    for (core, tenant, requests) in LOADS {
        (0..requests).for_each(|_| design.ask(now, core, tenant));
    }
    for ended in 0..WARM_UP + COUNTED {
        for run in design.started(now) {
            // A thousand tokens a second.
            let cost = lengths.next().0;
            ends.push(Reverse((Instant(now.0 + cost * 1000), run, cost)));
        }
        assert!(ends.len() <= SLOTS as usize, "no more than the pool has");
        let Some(Reverse((at, run, cost))) = ends.pop() else { break };
        now = at;
        design.end(now, run, Cost(cost));
        design.ask(now, run.core, run.tenant);
        if ended >= WARM_UP {
            service[run.tenant as usize] += cost;
        }
    }
    service[0] as f64 / (service[0] + service[1]) as f64
}

/// What obleth does.
pub(crate) struct Coordinated {
    cores: [Admission; 2],
    coordinator: Coordinator,
    waiting: Vec<(usize, TicketId, u32)>,
    slots: Vec<Option<Slot>>,
    started: Vec<Run>,
}

impl Coordinated {
    pub(crate) fn new() -> Self {
        let mut coordinator = Coordinator::new(2, LIMITS);
        coordinator.configure(&shares(2, SLOTS, |_| 100), &mut Outbox::new());
        let cores = [Admission::new(1), Admission::new(2)];
        Self { cores, coordinator, waiting: Vec::new(), slots: Vec::new(), started: Vec::new() }
    }

    fn start(&mut self, core: usize, tenant: u32, slot: Slot) {
        let free = self.slots.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[place] = Some(slot);
        self.started.push(Run { core, tenant, place });
    }

    /// Messages go to and fro once. True if the coordinator had something to say.
    fn exchange(&mut self, now: Instant) -> bool {
        let mut out = Outbox::new();
        for (at, core) in self.cores.iter_mut().enumerate() {
            let life = core.life();
            core.say(now, |up| {
                self.coordinator.take(now, (at, life), up, &mut out);
                Ok(())
            });
        }
        self.coordinator.decide(now, &mut out);
        let spoke = !out.is_empty();
        for (at, down) in out {
            let life = self.cores[at].life();
            let Some(ticket) = self.cores[at].obey(now, life, down) else { continue };
            if let Wait::Granted { slot, .. } = self.cores[at].collect(ticket) {
                let asked = |known: &(usize, TicketId, u32)| (known.0, known.1) == (at, ticket);
                let place = self.waiting.iter().position(asked).expect("an answer has its question");
                let (.., tenant) = self.waiting.swap_remove(place);
                self.start(at, tenant, slot);
            }
        }
        spoke
    }
}

impl Design for Coordinated {
    fn ask(&mut self, now: Instant, core: usize, tenant: u32) {
        match self.cores[core].ask(now, &ask(tenant)) {
            Verdict::Granted(slot) => self.start(core, tenant, slot),
            Verdict::Queued(ticket) => self.waiting.push((core, ticket, tenant)),
        }
    }

    fn end(&mut self, now: Instant, run: Run, cost: Cost) {
        let slot = self.slots[run.place].take().expect("a request ends once");
        self.cores[run.core].release(now, slot, cost);
    }

    fn started(&mut self, now: Instant) -> Vec<Run> {
        while self.exchange(now) {}
        std::mem::take(&mut self.started)
    }
}

/// A counter, and requests that try again in the order in which they came.
pub(crate) struct Counted {
    counter: Counter,
    waiting: VecDeque<(usize, u32)>,
}

impl Counted {
    pub(crate) fn new() -> Self {
        Self { counter: Counter::new(SLOTS), waiting: VecDeque::new() }
    }
}

impl Design for Counted {
    fn ask(&mut self, _: Instant, core: usize, tenant: u32) {
        self.waiting.push_back((core, tenant));
    }

    fn end(&mut self, _: Instant, _: Run, _: Cost) {
        self.counter.release();
    }

    fn started(&mut self, _: Instant) -> Vec<Run> {
        let mut started = Vec::new();
        while !self.waiting.is_empty() && self.counter.admit() {
            let first = self.waiting.pop_front();
            started.extend(first.map(|(core, tenant)| Run { core, tenant, place: 0 }));
        }
        started
    }
}

/// A round robin on each core, over its half of the pool.
pub(crate) struct PerCore([(RoundRobin, u32); 2]);

impl PerCore {
    pub(crate) fn new() -> Self {
        Self([(); 2].map(|()| (RoundRobin::new(2, |_| 100), SLOTS / 2)))
    }
}

impl Design for PerCore {
    fn ask(&mut self, _: Instant, core: usize, tenant: u32) {
        self.0[core].0.wait(tenant);
    }

    fn end(&mut self, _: Instant, run: Run, cost: Cost) {
        let (queue, free) = &mut self.0[run.core];
        queue.end(run.tenant, cost);
        *free += 1;
    }

    fn started(&mut self, _: Instant) -> Vec<Run> {
        let mut started = Vec::new();
        for (core, (queue, free)) in self.0.iter_mut().enumerate() {
            while *free > 0
                && let Some(tenant) = queue.next()
            {
                *free -= 1;
                started.push(Run { core, tenant, place: 0 });
            }
        }
        started
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_lie_badly_cost_a_tenant_nothing_with_a_coordinator_and_half_of_its_share_without() {
        let half = share_of_the_first(Coordinated::new());
        assert!((0.495..=0.505).contains(&half), "{half}");
        let quarter = share_of_the_first(PerCore::new());
        assert!((0.24..=0.26).contains(&quarter), "{quarter}");
        let tenth = share_of_the_first(Counted::new());
        assert!((0.09..=0.11).contains(&tenth), "{tenth}");
    }
}
