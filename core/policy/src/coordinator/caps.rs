//! Tenants and keys that may have only so many requests in flight, over all pools.
//!
//! A cap is counted here because only the coordinator sees all cores; requests under one always ask for a ticket. At
//! its cap a node is passed over in every pool, and its siblings go on.

use foldhash::HashMap;

use super::{Coordinator, pool::Pool};
use crate::{
    fairness::NodeIx,
    id::{KeyId, PoolIx, TenantIx},
    protocol::LeafId,
};

/// Who has a cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Holder {
    Tenant(TenantIx),
    Key(KeyId),
}

impl Holder {
    /// Those above a leaf's requests.
    const fn of(leaf: LeafId) -> [Self; 2] {
        [Self::Tenant(leaf.tenant), Self::Key(leaf.key)]
    }
}

/// One holder's count.
#[derive(Debug, Default)]
struct Cap {
    limit: Option<u32>,
    running: u32,
    blocked: bool,
    /// Its nodes, one per pool that it was seen in.
    nodes: Vec<(PoolIx, NodeIx)>,
}

/// Every tenant's cap, and those of keys that have a limit.
#[derive(Debug, Default)]
pub(super) struct Caps(HashMap<Holder, Cap>);

impl Caps {
    /// Whether a leaf's tenant or key has a limit.
    fn limits(&self, leaf: LeafId) -> impl Iterator<Item = u32> {
        Holder::of(leaf).into_iter().filter_map(|holder| self.0.get(&holder)?.limit)
    }
}

impl Coordinator {
    /// Sets or takes away what a tenant may have in flight.
    pub(super) fn cap_tenant(&mut self, tenant: TenantIx, limit: Option<u32>) {
        let holder = Holder::Tenant(tenant);
        self.caps.0.entry(holder).or_default().limit = limit;
        self.enforce(holder);
    }

    /// The tenant has a node in one more pool.
    pub(super) fn note_tenant_node(&mut self, tenant: TenantIx, pool: PoolIx, node: NodeIx) {
        self.caps.0.entry(Holder::Tenant(tenant)).or_default();
        self.note_node(Holder::Tenant(tenant), pool, node);
    }

    /// Sets or takes away what a key may have in flight.
    pub(super) fn cap_key(&mut self, tenant: TenantIx, key: KeyId, limit: Option<u32>) {
        let holder = Holder::Key(key);
        if !self.caps.0.contains_key(&holder) {
            if limit.is_none() {
                return;
            }
            let leaf = |(at, pool): (PoolIx, &Pool)| Some((at, *pool.leaves.get(&(tenant, key))?));
            let nodes: Vec<_> = self.pools.all().filter_map(leaf).collect();
            let running = self.running_in(&nodes);
            self.caps.0.insert(holder, Cap { limit, running, blocked: false, nodes });
        }
        if let Some(cap) = self.caps.0.get_mut(&holder) {
            cap.limit = limit;
        }
        self.enforce(holder);
        if limit.is_none() {
            self.caps.0.remove(&holder);
        }
    }

    /// The key has a leaf in one more pool.
    pub(super) fn note_leaf(&mut self, id: LeafId, node: NodeIx) {
        self.note_node(Holder::Key(id.key), id.pool, node);
    }

    fn note_node(&mut self, holder: Holder, pool: PoolIx, node: NodeIx) {
        let Some(cap) = self.caps.0.get_mut(&holder) else { return };
        cap.nodes.push((pool, node));
        if cap.blocked
            && let Some(pool) = self.pools.of_mut(pool)
        {
            pool.tree.block(node, true);
        }
    }

    /// The leaf is forgotten; its place may be used by another.
    pub(super) fn forget_leaf(&mut self, pool: PoolIx, key: KeyId, node: NodeIx) {
        if let Some(cap) = self.caps.0.get_mut(&Holder::Key(key)) {
            cap.nodes.retain(|known| *known != (pool, node));
        }
    }

    /// Counts what began or ended. True if the leaf is under a cap.
    pub(super) fn count_running(&mut self, leaf: LeafId, change: i32) -> bool {
        for holder in Holder::of(leaf) {
            if let Some(cap) = self.caps.0.get_mut(&holder) {
                cap.running = cap.running.saturating_add_signed(change);
                self.enforce(holder);
            }
        }
        self.caps.limits(leaf).next().is_some()
    }

    /// A shard is gone, and with it requests of anybody: everything is counted again. Rare enough to look at all of them.
    pub(super) fn recount_caps(&mut self) {
        let mut holders: Vec<_> = self.caps.0.keys().copied().collect();
        holders.sort_unstable();
        for holder in holders {
            let Some(cap) = self.caps.0.get(&holder) else { continue };
            let running = self.running_in(&cap.nodes);
            if let Some(cap) = self.caps.0.get_mut(&holder) {
                cap.running = running;
            }
            self.enforce(holder);
        }
    }

    /// What a leaf may have in flight at most, by the caps above it and the ceiling.
    pub(super) fn most_at_once(&self, leaf: LeafId) -> u32 {
        self.caps.limits(leaf).fold(self.shares.ceiling, u32::min).max(1)
    }

    fn running_in(&self, nodes: &[(PoolIx, NodeIx)]) -> u32 {
        let running =
            |(pool, node): &(PoolIx, NodeIx)| Some(self.pools.of(*pool)?.tree.standing(*node).running);
        nodes.iter().filter_map(running).fold(0, u32::saturating_add)
    }

    /// Puts the holder's nodes at their cap, or lets them in again, if what they were told is no longer true.
    fn enforce(&mut self, holder: Holder) {
        let Some(cap) = self.caps.0.get_mut(&holder).filter(|cap| cap.is_due()) else { return };
        cap.blocked = !cap.blocked;
        for (pool, node) in &cap.nodes {
            if let Some(pool) = self.pools.of_mut(*pool) {
                pool.tree.block(*node, cap.blocked);
            }
        }
    }
}

impl Cap {
    /// Whether what the nodes were told is no longer true.
    fn is_due(&self) -> bool {
        self.limit.is_some_and(|limit| self.running >= limit) != self.blocked
    }
}
