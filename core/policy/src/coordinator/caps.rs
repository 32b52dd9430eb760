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

/// One tenant's or key's count.
#[derive(Debug, Default)]
pub(super) struct Cap {
    limit: Option<u32>,
    running: u32,
    blocked: bool,
    /// Its nodes, one per pool that it was seen in.
    nodes: Vec<(PoolIx, NodeIx)>,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Caps {
    tenants: HashMap<TenantIx, Cap>,
    /// Only keys that have a limit.
    keys: HashMap<KeyId, Cap>,
}

impl Coordinator {
    /// Sets or takes away what a tenant may have in flight.
    pub(super) fn cap_tenant(&mut self, tenant: TenantIx, limit: Option<u32>) {
        self.caps.tenants.entry(tenant).or_default().limit = limit;
        self.enforce_tenant(tenant);
    }

    /// The tenant has a node in one more pool.
    pub(super) fn note_tenant_node(&mut self, tenant: TenantIx, pool: PoolIx, node: NodeIx) {
        let cap = self.caps.tenants.entry(tenant).or_default();
        cap.nodes.push((pool, node));
        if cap.blocked
            && let Some(pool) = self.pools.of_mut(pool)
        {
            pool.tree.block(node, true);
        }
    }

    /// Sets or takes away what a key may have in flight.
    pub(super) fn cap_key(&mut self, tenant: TenantIx, key: KeyId, limit: Option<u32>) {
        if limit.is_none() && !self.caps.keys.contains_key(&key) {
            return;
        }
        if !self.caps.keys.contains_key(&key) {
            let leaf = |(at, pool): (PoolIx, &Pool)| Some((at, *pool.leaves.get(&(tenant, key))?));
            let nodes: Vec<_> = self.pools.all().filter_map(leaf).collect();
            let running = self.running_in(&nodes);
            self.caps.keys.insert(key, Cap { limit, running, blocked: false, nodes });
        }
        if let Some(cap) = self.caps.keys.get_mut(&key) {
            cap.limit = limit;
        }
        self.enforce_key(key);
        if limit.is_none() {
            self.caps.keys.remove(&key);
        }
    }

    /// The key has a leaf in one more pool.
    pub(super) fn note_leaf(&mut self, id: LeafId, node: NodeIx) {
        let Some(cap) = self.caps.keys.get_mut(&id.key) else { return };
        cap.nodes.push((id.pool, node));
        if cap.blocked
            && let Some(pool) = self.pools.of_mut(id.pool)
        {
            pool.tree.block(node, true);
        }
    }

    /// The leaf is forgotten; its place may be used by another.
    pub(super) fn forget_leaf(&mut self, pool: PoolIx, key: KeyId, node: NodeIx) {
        if let Some(cap) = self.caps.keys.get_mut(&key) {
            cap.nodes.retain(|known| *known != (pool, node));
        }
    }

    /// Counts what began or ended. True if the leaf is under a cap.
    pub(super) fn count_running(&mut self, leaf: LeafId, change: i32) -> bool {
        let mut capped = false;
        if let Some(cap) = self.caps.tenants.get_mut(&leaf.tenant) {
            cap.running = cap.running.saturating_add_signed(change);
            capped |= cap.limit.is_some();
            if cap.is_due() {
                self.enforce_tenant(leaf.tenant);
            }
        }
        if let Some(cap) = self.caps.keys.get_mut(&leaf.key) {
            cap.running = cap.running.saturating_add_signed(change);
            capped = true;
            if cap.is_due() {
                self.enforce_key(leaf.key);
            }
        }
        capped
    }

    /// A shard is gone, and with it requests of anybody: everything is counted again. The order does not matter, because
    /// each cap is settled by itself; rare enough to look at all of them.
    pub(super) fn recount_caps(&mut self) {
        let mut tenants: Vec<_> = self.caps.tenants.keys().copied().collect();
        tenants.sort_unstable();
        for tenant in tenants {
            let Some(cap) = self.caps.tenants.get(&tenant) else { continue };
            let running = self.running_in(&cap.nodes);
            if let Some(cap) = self.caps.tenants.get_mut(&tenant) {
                cap.running = running;
            }
            self.enforce_tenant(tenant);
        }
        let mut keys: Vec<_> = self.caps.keys.keys().copied().collect();
        keys.sort_unstable();
        for key in keys {
            let Some(cap) = self.caps.keys.get(&key) else { continue };
            let running = self.running_in(&cap.nodes);
            if let Some(cap) = self.caps.keys.get_mut(&key) {
                cap.running = running;
            }
            self.enforce_key(key);
        }
    }

    /// What a leaf may have in flight at most, by the caps above it and the ceiling.
    pub(super) fn most_at_once(&self, leaf: LeafId) -> u32 {
        let of = |cap: Option<&Cap>| cap.and_then(|cap| cap.limit).unwrap_or(u32::MAX);
        let caps = of(self.caps.tenants.get(&leaf.tenant)).min(of(self.caps.keys.get(&leaf.key)));
        caps.min(self.shares.ceiling).max(1)
    }

    fn running_in(&self, nodes: &[(PoolIx, NodeIx)]) -> u32 {
        let running =
            |(pool, node): &(PoolIx, NodeIx)| Some(self.pools.of(*pool)?.tree.standing(*node).running);
        nodes.iter().filter_map(running).fold(0, u32::saturating_add)
    }

    fn enforce_tenant(&mut self, tenant: TenantIx) {
        let Some(cap) = self.caps.tenants.get_mut(&tenant).filter(|cap| cap.is_due()) else { return };
        cap.blocked = !cap.blocked;
        let (blocked, nodes) = (cap.blocked, std::mem::take(&mut cap.nodes));
        self.block_all(&nodes, blocked);
        if let Some(cap) = self.caps.tenants.get_mut(&tenant) {
            cap.nodes = nodes;
        }
    }

    fn enforce_key(&mut self, key: KeyId) {
        let Some(cap) = self.caps.keys.get_mut(&key).filter(|cap| cap.is_due()) else { return };
        cap.blocked = !cap.blocked;
        let (blocked, nodes) = (cap.blocked, std::mem::take(&mut cap.nodes));
        self.block_all(&nodes, blocked);
        if let Some(cap) = self.caps.keys.get_mut(&key) {
            cap.nodes = nodes;
        }
    }

    fn block_all(&mut self, nodes: &[(PoolIx, NodeIx)], blocked: bool) {
        for (pool, node) in nodes {
            if let Some(pool) = self.pools.of_mut(*pool) {
                pool.tree.block(*node, blocked);
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
