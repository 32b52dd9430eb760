//! One run: the clock, everybody who acts, and the order in which they do.
//!
//! Events of one instant happen in the order in which they were planned, so that a run is a function of its plan. The
//! judge is told of everything; it must never change what happens.

mod cores;
mod desk;
mod requests;
mod script;

use std::{cmp::Reverse, collections::BTreeMap, collections::BinaryHeap};

use obleth_policy::{
    coordinator::{Coordinator, Limits, Outbox, Shares},
    unit::Instant,
};

pub(crate) use self::requests::{Request, Stage, leaf_id};
use self::{cores::Core, script::shares_of};
use crate::{
    fault::Fault,
    figures::Served,
    judge::{Judge, Kind, Report},
    plan::{Act, Arrivals, Plan, SECOND},
    random::Random,
};

/// When everything has to be over after the last request has come.
const DRAIN_NS: u64 = 4000 * SECOND;
/// Every so many events all credits are counted.
const CREDITS_EVERY: u64 = 61;
/// Tickets that may wait, per pool and per tenant of a pool.
const LIMITS: Limits = Limits { queue: 400, tenant_queue: 200 };

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A client of a tenant asks.
    Arrive { tenant: usize, client: u32 },
    /// Next part of a request's answer.
    Step(usize),
    /// A request's client leaves, unless the request has begun.
    Leave(usize),
    /// A request's task runs after its wait is over.
    Collect(usize),
    /// A shard has words to read, or to say.
    Core(usize),
    /// The coordinator has words to read, or to say.
    Desk,
    /// What operators and faults do.
    Act(Act),
    /// The main thread has seen that a shard's thread is gone.
    Bury(usize),
    /// A shard's thread begins anew.
    Restart(usize),
    /// The coordinator's thread begins anew.
    Reopen,
}

/// See the module's text.
#[derive(Debug)]
pub struct World {
    now: Instant,
    plan: Plan,
    random: Random,
    /// Lengths of each tenant's answers: the same for every way to divide slots.
    lengths: Vec<Random>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    planned: u64,
    shares: Shares,
    coordinator: Option<Coordinator>,
    /// What the coordinator has decided and no ring has taken yet.
    pending: Outbox,
    /// Shards that still have to be told to say everything again.
    resync: Vec<bool>,
    desk_wakes_ns: u64,
    cores: Vec<Core>,
    requests: Vec<Request>,
    /// Who has which ticket, by shard, place and turn.
    names: BTreeMap<(usize, u32, u32), usize>,
    lives: u32,
    joined: Vec<bool>,
    fault: Option<Fault>,
    chances: u32,
    judge: Judge,
    looked: u64,
    served: Served,
}

impl World {
    /// Everything before the first event.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let mut random = Random::new(plan.seed ^ 0x5EED);
        let shares = shares_of(&plan);
        let cores = (0..plan.shards).map(|at| Core::new(&plan, at as u32 + 1)).collect();
        let mut world = Self {
            now: Instant(SECOND),
            random: random.fork(),
            lengths: lengths_of(&plan),
            events: BinaryHeap::new(),
            planned: 0,
            coordinator: Some(Coordinator::new(plan.shards, LIMITS)),
            pending: Outbox::new(),
            resync: vec![false; plan.shards],
            desk_wakes_ns: 0,
            cores,
            requests: Vec::new(),
            names: BTreeMap::new(),
            lives: plan.shards as u32,
            joined: plan.tenants.iter().map(|tenant| tenant.joined).collect(),
            fault: None,
            chances: 0,
            judge: Judge::new(&plan),
            looked: 0,
            served: Served::new(plan.tenants.len()),
            shares,
            plan,
        };
        world.begin();
        world
    }

    /// The same with something broken.
    #[must_use]
    pub fn broken(plan: Plan, fault: Fault) -> Self {
        let mut world = Self::new(plan);
        world.fault = Some(fault);
        world.configure();
        world
    }

    fn begin(&mut self) {
        self.configure();
        for tenant in 0..self.plan.tenants.len() {
            self.invite(tenant);
        }
        for (after_ns, act) in self.plan.script.clone() {
            self.plan_at(SECOND + after_ns, Event::Act(act));
        }
        for shard in 0..self.plan.shards {
            self.plan_at(SECOND, Event::Core(shard));
        }
    }

    /// The clients of a tenant come.
    fn invite(&mut self, tenant: usize) {
        let clients = match self.plan.tenants[tenant].arrivals {
            Arrivals::Loop { clients, .. } | Arrivals::OnOff { clients, .. } => clients,
            Arrivals::Poisson { .. } | Arrivals::Bursts { .. } => 1,
        };
        for client in 0..clients {
            let after_ns = self.random.between(0, 5_000_000);
            self.plan_at(self.now.0 + after_ns, Event::Arrive { tenant, client });
        }
    }

    /// Runs until every request has ended, and says what was seen.
    #[must_use]
    pub fn run(mut self) -> (Report, Served) {
        let ends_ns = self.ends_ns() + DRAIN_NS;
        while let Some(Reverse((at_ns, _, event))) = self.events.pop() {
            if at_ns > ends_ns {
                break;
            }
            if self.is_misled() {
                // What follows from a grant to the wrong ticket is no run of the product any more.
                return (self.judge.report(), self.served);
            }
            self.now = Instant(at_ns.max(self.now.0));
            self.happen(event);
            self.look();
        }
        self.close();
        (self.judge.report(), self.served)
    }

    fn ends_ns(&self) -> u64 {
        SECOND + self.plan.length_ns
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { tenant, client } => self.arrive(tenant, client),
            Event::Step(request) => self.step(request),
            Event::Leave(request) => self.leave(request),
            Event::Collect(request) => self.collect(request),
            Event::Core(shard) => self.wake_core(shard),
            Event::Desk => self.wake_desk(),
            Event::Act(act) => self.act(act),
            Event::Bury(shard) => self.bury(shard),
            Event::Restart(shard) => self.restart(shard),
            Event::Reopen => self.reopen(),
        }
    }

    /// What holds between any two events.
    fn look(&mut self) {
        self.looked += 1;
        self.judge.in_flight(self.now.0);
        for pool in 0..self.plan.pools.len() {
            for (shard, core) in self.cores.iter().enumerate() {
                let known = core.admission.as_ref().map_or(0, |admission| admission.in_flight(pool_ix(pool)));
                if known != core.running[pool] + core.ready[pool] {
                    let says =
                        format!("shard {shard} has {} running and {known} in its books", core.running[pool]);
                    self.judge.found(Kind::Slot, says);
                }
            }
        }
        if self.looked.is_multiple_of(CREDITS_EVERY) {
            self.weigh_credits();
        }
    }

    /// Nothing is planned any more: everybody must have had an answer.
    fn close(&mut self) {
        for (at, request) in self.requests.iter().enumerate() {
            if !matches!(request.stage, Stage::Ended) {
                let says = format!("request {at} of tenant {} never ended", request.tenant);
                self.judge.found(Kind::Ticket, says);
            }
        }
        for core in &self.cores {
            if core.admission.as_ref().is_some_and(|admission| admission.waiting() > 0) {
                self.judge.found(Kind::Ticket, "a core believes that somebody waits".to_owned());
            }
        }
        let Some(coordinator) = &self.coordinator else { return };
        for pool in coordinator.live(self.now) {
            if pool.running > 0 || pool.waiting > 0 {
                let says =
                    format!("{:?}: {} running, {} waiting at the end", pool.pool, pool.running, pool.waiting);
                self.judge.found(Kind::Ticket, says);
            }
        }
    }

    fn plan_at(&mut self, at_ns: u64, event: Event) {
        self.planned += 1;
        self.events.push(Reverse((at_ns, self.planned, event)));
    }

    fn is_misled(&self) -> bool {
        self.fault == Some(Fault::WrongLeaf) && self.chances > 2
    }

    /// Whether the fault is to happen now.
    fn breaks(&mut self, fault: Fault) -> bool {
        if self.fault != Some(fault) {
            return false;
        }
        self.chances += 1;
        self.chances > 2
    }
}

/// What each tenant's lengths are drawn from.
pub(crate) fn lengths_of(plan: &Plan) -> Vec<Random> {
    let mut random = Random::new(plan.seed ^ 0x1E46);
    plan.tenants.iter().map(|_| random.fork()).collect()
}

fn pool_ix(at: usize) -> obleth_policy::id::PoolIx {
    obleth_policy::id::PoolIx(at as u32)
}
