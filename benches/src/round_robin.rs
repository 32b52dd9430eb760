//! A rival: deficit round robin on every core by itself (Shreedhar and Varghese, SIGCOMM '95).
//!
//! Each core has its part of the pool and serves its own tenants in turn, each up to its quantum. A decision costs the same
//! however many wait, and no core ever speaks to another; so what a tenant has had on one core is not known on the next.

use std::collections::VecDeque;

use obleth_policy::cost::Cost;

use crate::{
    decision::SLOTS,
    measure::Loop,
    workload::{Lengths, weight},
};

/// What weight 100 may have in one turn: a mean request, so that a decision looks at few.
const QUANTUM: i64 = 200_000;
/// What is charged at a grant. The rest follows when the length is known.
const ESTIMATE: i64 = 50_000;

#[derive(Clone, Copy, Debug, Default)]
struct Tenant {
    waiting: u32,
    /// What is left of its turn; below zero it has had too much.
    deficit: i64,
    quantum: i64,
}

/// One core's queue.
#[derive(Debug)]
pub(crate) struct RoundRobin {
    tenants: Vec<Tenant>,
    /// Those who wait, the one whose turn it is first.
    turns: VecDeque<u32>,
}

impl RoundRobin {
    pub(crate) fn new(tenants: u32, weight: fn(u32) -> u32) -> Self {
        let tenant = |at| Tenant { quantum: QUANTUM * i64::from(weight(at)) / 100, ..Tenant::default() };
        Self { tenants: (0..tenants).map(tenant).collect(), turns: VecDeque::new() }
    }

    pub(crate) fn wait(&mut self, at: u32) {
        let tenant = &mut self.tenants[at as usize];
        tenant.waiting += 1;
        if tenant.waiting == 1 {
            self.turns.push_back(at);
        }
    }

    /// Whose request is next. It is charged an estimate.
    pub(crate) fn next(&mut self) -> Option<u32> {
        loop {
            let at = *self.turns.front()?;
            let tenant = &mut self.tenants[at as usize];
            if tenant.deficit <= 0 {
                tenant.deficit += tenant.quantum;
                self.turns.rotate_left(1);
                continue;
            }
            tenant.deficit -= ESTIMATE;
            tenant.waiting -= 1;
            if tenant.waiting == 0 {
                // Who has nothing to send saves nothing up.
                tenant.deficit = tenant.deficit.min(0);
                self.turns.pop_front();
            }
            return Some(at);
        }
    }

    /// A request has ended, and has cost this much.
    pub(crate) fn end(&mut self, at: u32, cost: Cost) {
        self.tenants[at as usize].deficit -= cost.0.cast_signed() - ESTIMATE;
    }
}

/// A loop of turns like those of [`crate::decision`], with so many tenants that wait.
pub(crate) fn turns(tenants: u32) -> Loop {
    let mut queue = RoundRobin::new(tenants + SLOTS, weight);
    (0..tenants + SLOTS).for_each(|tenant| queue.wait(tenant));
    let mut running: VecDeque<u32> = (0..SLOTS).filter_map(|_| queue.next()).collect();
    let mut lengths = Lengths::new();
    Box::new(move |turns| {
        for _ in 0..turns {
            let oldest = running.pop_front().expect("somebody runs");
            queue.end(oldest, lengths.next());
            queue.wait(oldest);
            running.extend(queue.next());
        }
    })
}
