//! Other ways to divide slots, on the same work: what obleth's figures are held against.
//!
//! Each knows everything at once, on one clock and without rings, which flatters it. Every tenant always has requests
//! waiting, so the only question is whose is next.

use std::{cmp::Reverse, collections::BinaryHeap, collections::VecDeque};

use obleth_policy::cost::Rates;

use crate::{
    figures::Served,
    plan::{Plan, SECOND},
    random::Random,
    world::lengths_of,
};

/// A way to divide slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rival {
    /// First come, first served; weights do not matter.
    Fifo,
    /// Virtual token counters as published (OSDI '24): charged as generated, nothing in advance.
    Vtc,
    /// Counters that are charged when a request has ended: what most gateways do.
    AtCompletion,
    /// Deficit round robin on each core alone, with an equal part of the slots.
    PerCoreDrr {
        /// Cores.
        cores: usize,
    },
}

/// Cost per weight that a tenant gets per round, in thousandths of a token.
const QUANTUM: f64 = 1000.0;

#[derive(Clone, Copy, Debug)]
struct Run {
    tenant: usize,
    core: usize,
    output: u32,
    began_ns: u64,
    step: u32,
    delivered: u64,
}

#[derive(Debug)]
struct Race<'a> {
    plan: &'a Plan,
    rival: Rival,
    now_ns: u64,
    events: BinaryHeap<Reverse<(u64, u64, usize)>>,
    planned: u64,
    runs: Vec<Run>,
    /// Cost per weight that each tenant was charged.
    charged: Vec<f64>,
    /// What each tenant may still be charged, by core.
    deficits: Vec<Vec<f64>>,
    turns: Vec<usize>,
    /// For first come, first served: whose the waiting requests are.
    queue: VecDeque<usize>,
    random: Random,
    lengths: Vec<Random>,
    served: Served,
}

/// Runs a plan of one pool whose tenants always wait.
#[must_use]
pub fn run(plan: &Plan, rival: Rival) -> Served {
    let (tenants, slots) = (plan.tenants.len(), plan.pools[0].slots as usize);
    let cores = if let Rival::PerCoreDrr { cores } = rival { cores } else { 1 };
    let mut race = Race {
        plan,
        rival,
        now_ns: SECOND,
        events: BinaryHeap::new(),
        planned: 0,
        runs: Vec::new(),
        charged: vec![0.0; tenants],
        deficits: vec![vec![0.0; tenants]; cores],
        turns: vec![0; cores],
        queue: (0..slots * 2).flat_map(|_| 0..tenants).collect(),
        random: Random::new(plan.seed),
        lengths: lengths_of(plan),
        served: Served::new(tenants),
    };
    (0..slots).for_each(|slot| race.start(slot % cores));
    while let Some(Reverse((at_ns, _, run))) = race.events.pop() {
        if at_ns > SECOND + plan.length_ns {
            break;
        }
        race.now_ns = at_ns;
        race.step(run);
    }
    race.served
}

impl Race<'_> {
    fn start(&mut self, core: usize) {
        let tenant = self.next(core);
        let output = self.plan.tenants[tenant].lengths.draw(&mut self.lengths[tenant]);
        self.runs.push(Run { tenant, core, output, began_ns: self.now_ns, step: 0, delivered: 0 });
        self.plan_step(self.runs.len() - 1);
    }

    fn next(&mut self, core: usize) -> usize {
        match self.rival {
            Rival::Fifo => {
                let tenant = self.queue.pop_front().unwrap_or(0);
                self.queue.push_back(tenant);
                tenant
            }
            Rival::Vtc | Rival::AtCompletion => {
                let tenants = 0..self.charged.len();
                tenants.min_by(|a, b| self.charged[*a].total_cmp(&self.charged[*b])).unwrap_or(0)
            }
            Rival::PerCoreDrr { .. } => self.next_by_deficit(core),
        }
    }

    /// Only tenants that have connections on this core can be served by it.
    fn next_by_deficit(&mut self, core: usize) -> usize {
        let here = |at: &usize| {
            let (home, loyalty) = self.plan.tenants[*at].home;
            home == core || loyalty < 1.0
        };
        let here: Vec<_> = (0..self.plan.tenants.len()).filter(here).collect();
        if here.is_empty() {
            // Nobody is here: the slot serves whoever the dice say, as a connection from elsewhere would.
            return self.random.between(0, self.charged.len() as u64 - 1) as usize;
        }
        loop {
            let turn = self.turns[core] % here.len();
            let tenant = here[turn];
            if self.deficits[core][tenant] > 0.0 {
                return tenant;
            }
            self.turns[core] = turn + 1;
            let next = here[(turn + 1) % here.len()];
            self.deficits[core][next] += QUANTUM * f64::from(self.plan.tenants[next].weight);
        }
    }

    fn plan_step(&mut self, at: usize) {
        let Run { output, step, began_ns, .. } = self.runs[at];
        let pool = &self.plan.pools[0];
        let steps = output.div_ceil(self.plan.step_tokens).max(1);
        let output_ns = u64::from(output) * SECOND / u64::from(pool.rate);
        let at_ns = began_ns + pool.prefill_ns + output_ns * u64::from(step) / u64::from(steps);
        self.planned += 1;
        self.events.push(Reverse((at_ns, self.planned, at)));
    }

    fn step(&mut self, at: usize) {
        let Run { tenant, core, output, step, delivered, .. } = self.runs[at];
        let plan = &self.plan.tenants[tenant];
        let steps = output.div_ceil(self.plan.step_tokens).max(1);
        let output = u64::from(output) * u64::from(step) / u64::from(steps);
        let now = Rates::default().cost(plan.input.into(), 0, output).0;
        let more = now - delivered;
        self.served.add(self.now_ns, tenant, more);
        let is_last = step == steps;
        let charge = match self.rival {
            Rival::Vtc => more,
            _ if is_last => now,
            _ => 0,
        };
        self.charged[tenant] += charge as f64 / f64::from(plan.weight);
        self.deficits[core][tenant] -= charge as f64;
        if is_last {
            self.start(core);
        } else {
            (self.runs[at].step, self.runs[at].delivered) = (step + 1, now);
            self.plan_step(at);
        }
    }
}
