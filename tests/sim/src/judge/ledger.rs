//! The ledger: what the tree says was settled and is outstanding is what the shards have said and the coordinator has
//! granted, whatever was sent late, twice, or died on the way.

use std::collections::BTreeMap;

use obleth_policy::{
    coordinator::{Level, LivePool},
    cost::Cost,
    protocol::{LeafId, LeafTotals, Up},
};

use crate::world::{Request, leaf_id};

/// A leaf: pool, tenant, key's name.
type Leaf = (u32, u32, u128);

/// What one shard said of one leaf, and what it was granted.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    settled: u64,
    outstanding: u64,
    running: u32,
    granted: u32,
    granted_cost: u64,
    sent: u32,
    sent_cost: u64,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Ledger {
    shards: Vec<BTreeMap<Leaf, Known>>,
    /// Settled for ever, by pool and tenant.
    settled: BTreeMap<(u32, u32), u64>,
}

fn name(leaf: &LeafId) -> Leaf {
    (leaf.pool.0, leaf.tenant.0, leaf.key.0.as_u128())
}

impl Ledger {
    pub(super) fn new(shards: usize) -> Self {
        Self { shards: vec![BTreeMap::new(); shards], settled: BTreeMap::new() }
    }

    pub(super) fn heard(&mut self, shard: usize, up: &Up) {
        let Up::Leaf(totals) = up else { return };
        let LeafTotals { leaf, settled, outstanding, running, granted, granted_cost, closes } = totals;
        let known = self.shards[shard].entry(name(leaf)).or_default();
        *self.settled.entry((leaf.pool.0, leaf.tenant.0)).or_default() += settled.0 - known.settled;
        *known = Known {
            settled: settled.0,
            outstanding: outstanding.0,
            running: *running,
            granted: *granted,
            granted_cost: granted_cost.0,
            ..*known
        };
        if *closes {
            self.shards[shard].remove(&name(leaf));
        }
    }

    pub(super) fn granted(&mut self, shard: usize, request: &Request, estimate: Cost) {
        let leaf = name(&leaf_id(request.tenant, request.key, request.pool));
        let known = self.shards[shard].entry(leaf).or_default();
        known.sent = known.sent.wrapping_add(1);
        known.sent_cost += estimate.0;
    }

    /// The shard's permits are settled at its last word.
    pub(super) fn buried(&mut self, shard: usize) {
        for ((pool, tenant, _), known) in std::mem::take(&mut self.shards[shard]) {
            *self.settled.entry((pool, tenant)).or_default() += known.outstanding;
        }
    }

    /// Where the tree says something else.
    pub(super) fn differs(&self, live: &[LivePool]) -> Option<String> {
        for pool in live {
            let (mut of_groups, mut of_tenants) = ((0, 0), (0, 0));
            let mut group_of = BTreeMap::new();
            let mut by_group: BTreeMap<u32, (u64, u32)> = BTreeMap::new();
            for node in &pool.nodes {
                let standing = node.standing;
                let (settled, outstanding) = (standing.settled.0, standing.outstanding.0);
                match node.level {
                    Level::Group(group) => {
                        of_groups = (of_groups.0 + settled, of_groups.1 + outstanding);
                        by_group.insert(group.0, (outstanding, standing.running));
                    }
                    Level::Tenant(group, tenant) => {
                        of_tenants = (of_tenants.0 + settled, of_tenants.1 + outstanding);
                        group_of.insert(tenant.0, group.0);
                        let told = self.of_tenant(pool.pool.0, tenant.0);
                        if told != (settled, outstanding, standing.running) {
                            let has = (settled, outstanding, standing.running);
                            return Some(format!("{:?} {tenant:?}: told {told:?}, has {has:?}", pool.pool));
                        }
                    }
                    Level::Key(tenant, key) => {
                        let leaf = (pool.pool.0, tenant.0, key.0.as_u128());
                        let told = self.of_leaf(leaf);
                        if told != (outstanding, standing.running) {
                            let has = (outstanding, standing.running);
                            return Some(format!("{leaf:?}: told {told:?}, has {has:?}"));
                        }
                    }
                }
            }
            if of_groups != of_tenants {
                return Some(format!("{:?}: groups {of_groups:?}, tenants {of_tenants:?}", pool.pool));
            }
            for (tenant, group) in group_of {
                let (_, outstanding, running) = self.of_tenant(pool.pool.0, tenant);
                if let Some(rest) = by_group.get_mut(&group) {
                    *rest = (rest.0.wrapping_sub(outstanding), rest.1.wrapping_sub(running));
                }
            }
            if by_group.values().any(|rest| *rest != (0, 0)) {
                return Some(format!("{:?}: a group is not the sum of its tenants: {by_group:?}", pool.pool));
            }
        }
        None
    }

    fn of_leaf(&self, leaf: Leaf) -> (u64, u32) {
        let known = self.shards.iter().filter_map(|shard| shard.get(&leaf));
        known.fold((0, 0), |(cost, running), known| {
            let charged = known.outstanding + known.sent_cost - known.granted_cost;
            let under_way = known.sent.wrapping_sub(known.granted);
            (cost + charged, running + known.running.wrapping_add(under_way))
        })
    }

    fn of_tenant(&self, pool: u32, tenant: u32) -> (u64, u64, u32) {
        let settled = self.settled.get(&(pool, tenant)).copied().unwrap_or(0);
        let range = (pool, tenant, 0)..=(pool, tenant, u128::MAX);
        let mut keys: Vec<_> =
            self.shards.iter().flat_map(|shard| shard.range(range.clone()).map(|(leaf, _)| *leaf)).collect();
        keys.sort_unstable();
        keys.dedup();
        let sums = keys.into_iter().map(|leaf| self.of_leaf(leaf));
        let (outstanding, running) = sums.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        (settled, outstanding, running)
    }
}
