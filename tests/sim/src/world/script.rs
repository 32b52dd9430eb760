//! What operators do, and what breaks: changes of shares, stalls, deaths.

use obleth_policy::{
    admission::Admission,
    coordinator::{GroupShape, Outbox, PoolShape, Shares, TenantShape},
    id::{GroupIx, TenantIx},
    protocol::KeyShape,
};

use super::{Event, World, pool_ix, requests::leaf_id};
use crate::{
    fault::Fault,
    plan::{Act, MS, Plan},
};

/// Longest time until a thread's death is noticed.
const NOTICE_NS: u64 = 5 * MS;

/// The shares of a plan.
pub(super) fn shares_of(plan: &Plan) -> Shares {
    let pools =
        (0..).zip(&plan.pools).map(|(at, pool)| PoolShape { pool: pool_ix(at), max_in_flight: pool.slots });
    let groups =
        (0..).zip(&plan.groups).map(|(at, weight)| GroupShape { group: GroupIx(at), weight: *weight });
    let tenants = (0..).zip(&plan.tenants).map(|(at, tenant)| TenantShape {
        tenant: TenantIx(at),
        group: GroupIx(tenant.group),
        weight: tenant.weight,
        max_in_flight: tenant.cap,
    });
    Shares {
        ceiling: plan.ceiling,
        pools: pools.collect(),
        groups: groups.collect(),
        tenants: tenants.collect(),
    }
}

impl World {
    /// Brings the coordinator's shares up to the plan's.
    pub(super) fn configure(&mut self) {
        self.shares = shares_of(&self.plan);
        self.judge.reshaped(&self.plan, self.now.0);
        self.misconfigure();
        let Some(mut coordinator) = self.coordinator.take() else { return };
        let mut out = Outbox::new();
        coordinator.configure(&self.shares, &mut out);
        for (shard, down) in &out {
            self.judge.answered(*shard, down);
        }
        self.pending.append(&mut out);
        self.coordinator = Some(coordinator);
        self.plan_at(self.now.0, Event::Desk);
    }

    fn misconfigure(&mut self) {
        match self.fault {
            Some(Fault::WrongWeights) => {
                let heaviest = self.shares.tenants.iter_mut().max_by_key(|tenant| tenant.weight);
                if let Some(heaviest) = heaviest {
                    heaviest.weight = 1;
                }
            }
            Some(Fault::HighCeiling) => self.shares.ceiling += 2,
            Some(Fault::LargerPool) => self.shares.pools[0].max_in_flight += 1,
            _ => {}
        }
    }

    pub(super) fn act(&mut self, act: Act) {
        match act {
            Act::Reweigh(tenant, weight) => self.plan.tenants[tenant].weight = weight,
            Act::Move(tenant, group) => self.plan.tenants[tenant].group = group,
            Act::ReweighGroup(group, weight) => self.plan.groups[group] = weight,
            Act::Cap(tenant, cap) => self.plan.tenants[tenant].cap = cap,
            Act::Key(tenant, key, weight, cap) => self.edit_key(tenant, key, (weight, cap)),
            Act::Resize(pool, slots) => self.plan.pools[pool].slots = slots,
            Act::Ceiling(ceiling) => self.plan.ceiling = ceiling,
            Act::Stall(shard, stall_ns) => {
                self.cores[shard].stalled_ns = self.now.0 + stall_ns;
                self.judge.disturbed(self.now.0 + stall_ns);
            }
            Act::Kill(shard, restart_ns) => self.kill(shard, restart_ns),
            Act::Forget(restart_ns) => self.forget(restart_ns),
            Act::Join(tenant) => {
                self.joined[tenant] = true;
                self.invite(tenant);
            }
            Act::Leave(tenant) => {
                self.joined[tenant] = false;
                self.leave_all(tenant);
            }
        }
        if !matches!(act, Act::Stall(..) | Act::Kill(..) | Act::Forget(_) | Act::Join(_) | Act::Leave(_)) {
            self.configure();
        }
    }

    fn edit_key(&mut self, tenant: usize, key: usize, shape: (u32, Option<u32>)) {
        self.plan.tenants[tenant].keys[key] = shape;
        let leaf = leaf_id(tenant, key, 0);
        let shape = KeyShape { weight: shape.0, max_in_flight: shape.1 };
        if let Some(coordinator) = &mut self.coordinator {
            coordinator.reshape_key(leaf.tenant, leaf.key, shape);
        }
    }

    fn kill(&mut self, shard: usize, restart_ns: u64) {
        if self.cores[shard].admission.take().is_none() {
            return;
        }
        self.end_all(shard);
        self.cores[shard].ready.fill(0);
        let noticed_ns = self.now.0 + self.random.between(0, NOTICE_NS);
        self.judge.disturbed(noticed_ns);
        self.plan_at(noticed_ns, Event::Bury(shard));
        self.plan_at(noticed_ns + restart_ns, Event::Restart(shard));
    }

    pub(super) fn bury(&mut self, shard: usize) {
        self.judge.buried(shard, &self.requests, self.now.0);
        if let Some(coordinator) = &mut self.coordinator {
            coordinator.bury(shard);
        }
        self.plan_at(self.now.0, Event::Desk);
    }

    pub(super) fn restart(&mut self, shard: usize) {
        self.lives += 1;
        let core = &mut self.cores[shard];
        core.admission = Some(Admission::new(self.lives));
        core.unsaid = false;
        self.judge.disturbed(self.now.0);
        self.speak(shard);
        self.plan_at(self.now.0, Event::Core(shard));
    }

    fn forget(&mut self, restart_ns: u64) {
        if self.coordinator.take().is_some() {
            // What it had decided and not handed over dies with it.
            self.pending.clear();
            self.judge.disturbed(self.now.0 + restart_ns);
            self.plan_at(self.now.0 + restart_ns, Event::Reopen);
        }
    }
}
