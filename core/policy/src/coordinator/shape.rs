//! What operators say about shares, and how it takes effect: at the next decision, without harm to what runs.

use super::{Coordinator, Outbox, pool::Pool};
use crate::{
    fairness::{NodeIx, Tree},
    id::{GroupIx, KeyId, PoolIx, TenantIx},
    protocol::{Down, KeyShape, LeafId, Refusal},
};

/// Weight of whatever the configuration does not know yet.
const DEFAULT_WEIGHT: u32 = 100;

/// Everything that shares are made of, but for the keys. A change is a new one, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// Requests in flight, over all pools.
    pub ceiling: u32,
    /// The pools there are.
    pub pools: Vec<PoolShape>,
    /// The groups there are.
    pub groups: Vec<GroupShape>,
    /// The tenants there are.
    pub tenants: Vec<TenantShape>,
}

/// One pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolShape {
    /// Which.
    pub pool: PoolIx,
    /// Its slots; none closes it.
    pub max_in_flight: u32,
}

/// One group, in every pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupShape {
    /// Which.
    pub group: GroupIx,
    /// Its share against the other groups; 1 or more.
    pub weight: u32,
}

/// One tenant, in every pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantShape {
    /// Which.
    pub tenant: TenantIx,
    /// Its group.
    pub group: GroupIx,
    /// Its share against the group's other tenants; 1 or more.
    pub weight: u32,
    /// Requests that it may have in flight, over all pools; `None` is no limit.
    pub max_in_flight: Option<u32>,
}

/// The same, to be looked up.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) ceiling: u32,
    groups: Vec<Option<GroupShape>>,
    tenants: Vec<Option<TenantShape>>,
}

impl Default for Index {
    fn default() -> Self {
        Self { ceiling: u32::MAX, groups: Vec::new(), tenants: Vec::new() }
    }
}

impl Index {
    fn new(shares: &Shares) -> Self {
        let mut index = Self { ceiling: shares.ceiling, ..Self::default() };
        for group in &shares.groups {
            *place(&mut index.groups, group.group.at()) = Some(*group);
        }
        for tenant in &shares.tenants {
            *place(&mut index.tenants, tenant.tenant.at()) = Some(*tenant);
        }
        index
    }

    fn group_weight(&self, group: GroupIx) -> u32 {
        self.groups.get(group.at()).copied().flatten().map_or(DEFAULT_WEIGHT, |shape| shape.weight)
    }

    fn tenant(&self, tenant: TenantIx) -> (GroupIx, u32) {
        let shape = self.tenants.get(tenant.at()).copied().flatten();
        shape.map_or((GroupIx::DEFAULT, DEFAULT_WEIGHT), |shape| (shape.group, shape.weight))
    }
}

fn place<T>(table: &mut Vec<Option<T>>, at: usize) -> &mut Option<T> {
    if table.len() <= at {
        table.resize_with(at.saturating_add(1), || None);
    }
    // The table was made long enough.
    &mut table[at]
}

impl Coordinator {
    /// Takes new shares into use. A pool that is not named any more is closed; tickets that wait for a closed pool are
    /// refused.
    pub fn configure(&mut self, shares: &Shares, out: &mut Outbox) {
        self.shares = Index::new(shares);
        for shape in &shares.pools {
            self.pools.make(shape.pool, self.shards.len()).named = true;
            self.size(shape.pool, shape.max_in_flight, out);
        }
        let unnamed = |(ix, pool): (PoolIx, &mut Pool)| (!std::mem::take(&mut pool.named)).then_some(ix);
        let unnamed: Vec<_> = self.pools.all_mut().filter_map(unnamed).collect();
        unnamed.into_iter().for_each(|ix| self.size(ix, 0, out));
        for shape in &shares.tenants {
            self.cap_tenant(shape.tenant, shape.max_in_flight);
        }
    }

    /// A key was edited: its weight and cap hold from now on, also for its requests that wait.
    pub fn reshape_key(&mut self, tenant: TenantIx, key: KeyId, shape: KeyShape) {
        self.cap_key(tenant, key, shape.max_in_flight);
        for (_, pool) in self.pools.all_mut() {
            if let Some(leaf) = pool.leaves.get(&(tenant, key)).copied() {
                pool.tree.reweigh(leaf, shape.weight);
            }
        }
    }

    /// The leaf's node, made if need be, with the path up to it.
    pub(super) fn leaf(&mut self, id: LeafId, shape: Option<KeyShape>) -> NodeIx {
        let pool = self.pools.make(id.pool, self.shards.len());
        let known = pool.leaves.get(&(id.tenant, id.key)).copied();
        let leaf = match known {
            Some(leaf) => leaf,
            None => self.make_leaf(id),
        };
        if let Some(shape) = shape {
            self.cap_key(id.tenant, id.key, shape.max_in_flight);
            if let Some(pool) = self.pools.of_mut(id.pool) {
                pool.tree.reweigh(leaf, shape.weight);
            }
        }
        leaf
    }

    fn make_leaf(&mut self, id: LeafId) -> NodeIx {
        let (group, weight) = self.shares.tenant(id.tenant);
        let group_weight = self.shares.group_weight(group);
        let Some(pool) = self.pools.of_mut(id.pool) else { return Tree::ROOT };
        let group = pool.group(group, group_weight);
        let known = pool.tenants.get(&id.tenant).copied();
        let tenant = known.unwrap_or_else(|| {
            let tenant = pool.tree.add(group, weight);
            pool.tenants.insert(id.tenant, tenant);
            tenant
        });
        let leaf = pool.tree.add(tenant, DEFAULT_WEIGHT);
        let forgotten = pool.open(leaf, (id.tenant, id.key));
        if let Some((key, node)) = forgotten {
            self.forget_leaf(id.pool, key, node);
        }
        if known.is_none() {
            self.note_tenant_node(id.tenant, id.pool, tenant);
        }
        self.note_leaf(id, leaf);
        leaf
    }

    fn size(&mut self, ix: PoolIx, size: u32, out: &mut Outbox) {
        let Some(pool) = self.pools.of_mut(ix) else { return };
        pool.resize(size);
        pool.reshape(&self.shares);
        if size == 0 {
            self.close(ix, out);
        }
    }

    fn close(&mut self, at: PoolIx, out: &mut Outbox) {
        for ix in self.tickets.of_pool(at) {
            let Some((shard, ticket)) =
                self.tickets.get(ix).map(|waiting| (waiting.shard, waiting.ticket.id))
            else {
                continue;
            };
            self.drop_ticket(ix);
            out.push((shard, Down::Refuse { ticket, why: Refusal::PoolClosed, retry_after_ms: 0 }));
        }
    }
}

impl Pool {
    fn group(&mut self, ix: GroupIx, weight: u32) -> NodeIx {
        let tree = &mut self.tree;
        *place(&mut self.groups, ix.at()).get_or_insert_with(|| tree.add(Tree::ROOT, weight))
    }

    /// Brings weights and memberships of the nodes that there are up to date.
    fn reshape(&mut self, shares: &Index) {
        for at in 0..self.groups.len() {
            let group = GroupIx(u32::try_from(at).unwrap_or(u32::MAX));
            if let Some(node) = self.groups.get(at).copied().flatten() {
                self.tree.reweigh(node, shares.group_weight(group));
            }
        }
        let mut tenants: Vec<_> = self.tenants.iter().map(|(tenant, node)| (*tenant, *node)).collect();
        tenants.sort_unstable_by_key(|(tenant, _)| *tenant);
        for (tenant, node) in tenants {
            let (group, weight) = shares.tenant(tenant);
            let group = self.group(group, shares.group_weight(group));
            self.tree.relocate(node, group);
            self.tree.reweigh(node, weight);
        }
    }
}
