//! What a request costs a core: from what the core keeps, and with a ticket and a grant.
//!
//! One operation is one request from its question to its end, with the reports that fall due meanwhile. Both sides of a
//! ticket run on one thread here, so that what the threads' rings cost is not in it; `round_trip` has that.

use std::{collections::VecDeque, time::Duration};

use obleth_policy::{
    admission::{Admission, Ask, Slot, Verdict, Wait},
    coordinator::{Coordinator, Outbox},
    cost::Cost,
    protocol::{Down, KeyShape},
    unit::Instant,
};

use crate::{
    decision::{LIMITS, SLOTS, shares},
    measure::Loop,
    workload::{Lengths, POOL, leaf, weight},
};

/// Between two requests of one core: what a busy one sees.
const PACE_NS: u64 = 10_000;

/// What a tenant's request asks.
pub(crate) fn ask(tenant: u32) -> Ask {
    Ask {
        leaf: leaf(tenant),
        shape: KeyShape::default(),
        capped: false,
        input: Cost(5000),
        streams: true,
        patience: Duration::from_secs(3600),
        reject_over: None,
    }
}

/// A core that keeps enough credits, in a pool that nobody waits for.
struct Stocked {
    now: Instant,
    admission: Admission,
    asks: Vec<Ask>,
    at: usize,
    lengths: Lengths,
}

impl Stocked {
    /// Its requests come from so many keys by turns.
    fn new(keys: u32) -> Self {
        let mut admission = Admission::new(1);
        let now = Instant(1_000_000_000);
        admission.say(now, |_| Ok(()));
        admission.obey(now, 1, Down::Stock(POOL, SLOTS));
        Self { now, admission, asks: (0..keys).map(ask).collect(), at: 0, lengths: Lengths::new() }
    }

    /// So many requests, one after the other.
    fn run(&mut self, requests: u64) {
        for _ in 0..requests {
            self.now = Instant(self.now.0 + PACE_NS);
            self.at = if self.at + 1 < self.asks.len() { self.at + 1 } else { 0 };
            let Verdict::Granted(slot) = self.admission.ask(self.now, &self.asks[self.at]) else {
                panic!("the core keeps credits");
            };
            self.admission.release(self.now, slot, self.lengths.next());
            if self.admission.is_urgent() || self.admission.reports_at().is_some_and(|at| at <= self.now) {
                self.admission.say(self.now, |up| {
                    std::hint::black_box(up);
                    Ok(())
                });
            }
        }
    }
}

/// A loop of requests that find a credit on their core.
pub(crate) fn stocked(keys: u32) -> Loop {
    let mut core = Stocked::new(keys);
    Box::new(move |requests| core.run(requests))
}

/// A loop of requests that each need a ticket, while so many tenants wait.
pub(crate) fn contended(tenants: u32) -> Loop {
    let mut rig = Contended::new(tenants + SLOTS);
    Box::new(move |requests| (0..requests).for_each(|_| rig.turn()))
}

struct Contended {
    now: Instant,
    admission: Admission,
    coordinator: Coordinator,
    out: Outbox,
    running: VecDeque<Slot>,
    /// Who asks next: the tenants by turns.
    asks: Vec<Ask>,
    at: usize,
    lengths: Lengths,
}

impl Contended {
    fn new(tenants: u32) -> Self {
        let mut rig = Self {
            now: Instant(1_000_000_000),
            admission: Admission::new(1),
            coordinator: Coordinator::new(1, LIMITS),
            out: Outbox::new(),
            running: VecDeque::new(),
            asks: (0..tenants).map(ask).collect(),
            at: 0,
            lengths: Lengths::new(),
        };
        rig.coordinator.configure(&shares(tenants, SLOTS, weight), &mut rig.out);
        (0..tenants).for_each(|_| rig.ask());
        rig.exchange();
        rig.exchange();
        rig
    }

    fn ask(&mut self) {
        self.at = if self.at + 1 < self.asks.len() { self.at + 1 } else { 0 };
        match self.admission.ask(self.now, &self.asks[self.at]) {
            Verdict::Granted(slot) => self.running.push_back(slot),
            Verdict::Queued(_) => {}
        }
    }

    fn exchange(&mut self) {
        let (now, life) = (self.now, self.admission.life());
        self.admission.say(now, |up| {
            self.coordinator.take(now, (0, life), up, &mut self.out);
            Ok(())
        });
        self.coordinator.decide(now, &mut self.out);
        for (_, down) in self.out.drain(..) {
            let Some(ticket) = self.admission.obey(now, life, down) else { continue };
            if let Wait::Granted { slot, .. } = self.admission.collect(ticket) {
                self.running.push_back(slot);
            }
        }
    }

    fn turn(&mut self) {
        self.now = Instant(self.now.0 + PACE_NS);
        let slot = self.running.pop_front().expect("every turn has its grant");
        self.admission.release(self.now, slot, self.lengths.next());
        self.ask();
        self.exchange();
    }
}
