//! Requests: their clients, their waits, and the backend that serves them.

use std::time::Duration;

use obleth_policy::{
    admission::{Ask, Slot, Verdict, Wait},
    cost::{Cost, Rates},
    id::{KeyId, TenantIx},
    protocol::{KeyShape, LeafId, TicketId},
};
use uuid::Uuid;

use super::{Event, World, pool_ix};
use crate::{
    fault::Fault,
    judge::Kind,
    plan::{Arrivals, MS, SECOND},
};

/// How long a task takes to run after its wait is over.
const COLLECT_NS: u64 = 50_000;
/// When a client comes back that was refused.
const RETRY_NS: u64 = 50 * MS;

/// Where a request is.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Its ticket is with the coordinator, or on its way.
    Waiting(TicketId),
    /// Its core knows the answer, its task has not run yet. Whether the answer is a slot.
    Ready(TicketId, bool),
    Running(Slot),
    Ended,
}

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) tenant: usize,
    pub(crate) key: usize,
    pub(crate) pool: usize,
    pub(crate) shard: usize,
    client: u32,
    input: u32,
    /// Tokens until it ends, or its client leaves.
    output: u32,
    streams: bool,
    pub(crate) stage: Stage,
    asked_ns: u64,
    began_ns: u64,
    steps: u32,
    step: u32,
    /// What of it was delivered.
    pub(crate) delivered: Cost,
}

impl Request {
    /// What it will have cost in the end.
    pub(crate) fn total(&self) -> Cost {
        Rates::default().cost(self.input.into(), 0, self.output.into())
    }

    fn at_step(&self, step: u32) -> Cost {
        let output = u64::from(self.output) * u64::from(step) / u64::from(self.steps);
        Rates::default().cost(self.input.into(), 0, output)
    }
}

/// The name of a tenant's key.
pub(crate) fn leaf_id(tenant: usize, key: usize, pool: usize) -> LeafId {
    let id = Uuid::from_u128(tenant as u128 * 1000 + key as u128);
    LeafId { pool: pool_ix(pool), tenant: TenantIx(tenant as u32), key: KeyId(id) }
}

impl World {
    pub(super) fn arrive(&mut self, tenant: usize, client: u32) {
        if self.now.0 >= self.ends_ns() || !self.joined[tenant] {
            return;
        }
        match self.plan.tenants[tenant].arrivals {
            Arrivals::Loop { .. } => self.ask(tenant, client),
            Arrivals::OnOff { on_ns, off_ns, .. } => {
                let into = self.now.0 % (on_ns + off_ns);
                if into < on_ns {
                    self.ask(tenant, client);
                } else {
                    self.plan_at(self.now.0 - into + on_ns + off_ns, Event::Arrive { tenant, client });
                }
            }
            Arrivals::Poisson { every_ns } => {
                let next_ns = self.random.exponential(every_ns as f64) as u64 + 1;
                self.plan_at(self.now.0 + next_ns, Event::Arrive { tenant, client });
                self.ask(tenant, client);
            }
            Arrivals::Bursts { every_ns, size } => {
                self.plan_at(self.now.0 + every_ns, Event::Arrive { tenant, client });
                (0..size).for_each(|_| self.ask(tenant, client));
            }
        }
    }

    /// The client of a request goes on: it asks again, if it is of that kind.
    fn again(&mut self, request: usize, after_ns: u64) {
        let Request { tenant, client, .. } = self.requests[request];
        self.come_again(tenant, client, after_ns);
    }

    fn come_again(&mut self, tenant: usize, client: u32, after_ns: u64) {
        let think_ns = match self.plan.tenants[tenant].arrivals {
            Arrivals::Loop { think_ns, .. } => think_ns,
            Arrivals::OnOff { .. } => 0,
            Arrivals::Poisson { .. } | Arrivals::Bursts { .. } => return,
        };
        self.plan_at(self.now.0 + after_ns + think_ns, Event::Arrive { tenant, client });
    }

    fn draw(&mut self, tenant: usize, client: u32) -> Request {
        let plan = &self.plan.tenants[tenant];
        let random = &mut self.random;
        let (home, loyalty) = plan.home;
        let shards = self.plan.shards as u64;
        let shard = if random.chance(loyalty) { home } else { random.between(0, shards - 1) as usize };
        let pool = random.pick(&plan.pools) as usize;
        let mut output = plan.lengths.draw(&mut self.lengths[tenant]);
        if random.chance(plan.cancels / 2.0) {
            output = random.between(0, output.into()) as u32;
        }
        Request {
            tenant,
            key: random.between(0, plan.keys.len() as u64 - 1) as usize,
            pool,
            shard,
            client,
            input: plan.input,
            output,
            streams: plan.streams,
            stage: Stage::Ended,
            asked_ns: self.now.0,
            began_ns: 0,
            steps: output.div_ceil(self.plan.step_tokens).max(1),
            step: 0,
            delivered: Cost(0),
        }
    }

    fn ask(&mut self, tenant: usize, client: u32) {
        let mut request = self.draw(tenant, client);
        let plan = &self.plan.tenants[tenant];
        let (weight, max_in_flight) = plan.keys[request.key];
        let leaf = leaf_id(tenant, request.key, request.pool);
        let ask = Ask {
            leaf,
            shape: KeyShape { weight, max_in_flight },
            capped: plan.cap.is_some() || max_in_flight.is_some(),
            input: Rates::default().cost(request.input.into(), 0, 0),
            streams: request.streams,
            patience: Duration::from_secs(3600),
            reject_over: None,
        };
        let patience_ns = match self.random.chance(plan.cancels) {
            true => self.random.between(0, 2 * self.plan.delay_ns + 50 * MS),
            false => plan.patience_ns,
        };
        let (shard, at) = (request.shard, self.requests.len());
        // Nobody listens on a dead shard, and a stalled one's connections wait in the kernel.
        let stalled = self.cores[shard].stalled_ns > self.now.0;
        let Some(admission) = self.cores[shard].admission.as_mut().filter(|_| !stalled) else {
            self.come_again(tenant, client, RETRY_NS);
            return;
        };
        self.judge.asked(&request);
        match admission.ask(self.now, &ask) {
            Verdict::Granted(slot) => {
                self.requests.push(request);
                self.start(at, slot);
            }
            Verdict::Queued(id) => {
                request.stage = Stage::Waiting(id);
                self.requests.push(request);
                self.names.insert((shard, id.place, id.turn), at);
                self.plan_at(self.now.0 + patience_ns, Event::Leave(at));
            }
        }
        self.speak(shard);
    }

    pub(super) fn collect(&mut self, at: usize) {
        let (shard, Stage::Ready(id, granted)) = (self.requests[at].shard, &self.requests[at].stage) else {
            return;
        };
        let (id, granted, pool) = (*id, *granted, self.requests[at].pool);
        if self.defer(shard, Event::Collect(at)) {
            return;
        }
        self.cores[shard].ready[pool] -= u32::from(granted);
        let Some(admission) = self.cores[shard].admission.as_mut() else { return };
        match admission.collect(id) {
            Wait::Granted { slot, .. } => self.start(at, slot),
            Wait::Refused { .. } => {
                self.end(at);
                self.again(at, RETRY_NS);
            }
            Wait::Waiting => self.judge.found(Kind::Ticket, format!("request {at} was called for nothing")),
        }
        self.speak(shard);
    }

    /// The wait of whoever has this ticket is over.
    pub(super) fn call(&mut self, shard: usize, id: TicketId, granted: bool) {
        let Some(at) = self.names.get(&(shard, id.place, id.turn)).copied() else { return };
        if !matches!(self.requests[at].stage, Stage::Waiting(_)) {
            self.judge.found(Kind::Ticket, format!("request {at} was answered twice"));
            return;
        }
        self.requests[at].stage = Stage::Ready(id, granted);
        self.cores[shard].ready[self.requests[at].pool] += u32::from(granted);
        let after_ns = self.random.between(0, COLLECT_NS);
        self.plan_at(self.now.0 + after_ns, Event::Collect(at));
    }

    /// The client leaves.
    pub(super) fn leave(&mut self, at: usize) {
        let shard = self.requests[at].shard;
        let (Stage::Waiting(id) | Stage::Ready(id, _)) = self.requests[at].stage else { return };
        if self.defer(shard, Event::Leave(at)) {
            return;
        }
        let was_ready = matches!(self.requests[at].stage, Stage::Ready(_, true));
        let pool = self.requests[at].pool;
        self.cores[shard].ready[pool] -= u32::from(was_ready);
        if let Some(admission) = self.cores[shard].admission.as_mut() {
            admission.withdraw(self.now, id);
        }
        self.end(at);
        if was_ready {
            self.judge.uncommit(at, self.now.0);
        }
        self.again(at, RETRY_NS);
        self.speak(shard);
    }

    /// The clients of a tenant leave, but for those whose requests run.
    pub(super) fn leave_all(&mut self, tenant: usize) {
        let theirs = |at: &usize| self.requests[*at].tenant == tenant;
        let theirs: Vec<_> = (0..self.requests.len()).filter(theirs).collect();
        theirs.into_iter().for_each(|at| self.leave(at));
    }

    fn start(&mut self, at: usize, slot: Slot) {
        let request = &mut self.requests[at];
        request.stage = Stage::Running(slot);
        request.began_ns = self.now.0;
        self.served.waited(request.tenant, self.now.0 - request.asked_ns);
        self.cores[request.shard].running[request.pool] += 1;
        self.judge.started(at, request, self.now.0);
        self.plan_step(at);
    }

    fn plan_step(&mut self, at: usize) {
        let request = &self.requests[at];
        let pool = &self.plan.pools[request.pool];
        let output_ns = u64::from(request.output) * SECOND / u64::from(pool.rate);
        let into_ns = output_ns * u64::from(request.step) / u64::from(request.steps);
        self.plan_at(request.began_ns + pool.prefill_ns + into_ns, Event::Step(at));
    }

    pub(super) fn step(&mut self, at: usize) {
        let (shard, now) = (self.requests[at].shard, self.now);
        if !matches!(self.requests[at].stage, Stage::Running(_)) || self.defer(shard, Event::Step(at)) {
            return;
        }
        let request = &mut self.requests[at];
        let before = request.delivered;
        request.delivered = request.at_step(request.step);
        let (is_last, delivered, streams) =
            (request.step == request.steps, request.delivered, request.streams);
        request.step += 1;
        self.served.add(now.0, request.tenant, delivered.minus(before).0);
        self.judge.delivered(at, request, before);
        if is_last {
            self.finish(at);
            return;
        }
        if streams
            && let (Stage::Running(slot), Some(admission)) =
                (&self.requests[at].stage, self.cores[shard].admission.as_mut())
        {
            admission.progress(now, slot, delivered);
        }
        self.plan_step(at);
        self.speak(shard);
    }

    fn finish(&mut self, at: usize) {
        let keeps = self.breaks(Fault::KeepSlot);
        let (shard, pool) = (self.requests[at].shard, self.requests[at].pool);
        let delivered = self.requests[at].delivered;
        let stage = std::mem::replace(&mut self.requests[at].stage, Stage::Ended);
        self.cores[shard].running[pool] -= 1;
        if let (Stage::Running(slot), Some(admission), false) =
            (stage, self.cores[shard].admission.as_mut(), keeps)
        {
            admission.release(self.now, slot, delivered);
        }
        self.judge.ended(at, self.now.0);
        self.again(at, 0);
        self.speak(shard);
    }

    /// Over without an answer.
    pub(super) fn end(&mut self, at: usize) {
        let request = &mut self.requests[at];
        if matches!(request.stage, Stage::Ended) {
            self.judge.found(Kind::Ticket, format!("request {at} ended twice"));
        }
        request.stage = Stage::Ended;
    }

    /// The shard of these requests is gone, and they with it.
    pub(super) fn end_all(&mut self, shard: usize) {
        for at in 0..self.requests.len() {
            let request = &self.requests[at];
            if request.shard != shard || matches!(request.stage, Stage::Ended) {
                continue;
            }
            if matches!(request.stage, Stage::Running(_)) {
                self.cores[shard].running[request.pool] -= 1;
                self.judge.ended(at, self.now.0);
            }
            self.judge.uncommit(at, self.now.0);
            self.end(at);
            self.again(at, RETRY_NS);
        }
    }
}
