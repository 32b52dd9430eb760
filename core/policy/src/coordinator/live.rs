//! The view for operators: who waits, who runs, who has had how much.

use super::Coordinator;
use crate::{
    fairness::{NodeIx, Standing},
    id::{GroupIx, KeyId, PoolIx, TenantIx},
    unit::Instant,
};

/// What a node of the tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A group.
    Group(GroupIx),
    /// A tenant of that group.
    Tenant(GroupIx, TenantIx),
    /// A key of that tenant.
    Key(TenantIx, KeyId),
}

/// One node that has had service or waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveNode {
    /// Which.
    pub level: Level,
    /// How it stands.
    pub standing: Standing,
    /// How long its first request has waited, in milliseconds; only keys have one.
    pub oldest_wait_ms: Option<u32>,
}

/// One pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivePool {
    /// Which.
    pub pool: PoolIx,
    /// Its slots.
    pub max_in_flight: u32,
    /// Slots that are in use or kept by a core.
    pub held: u32,
    /// Requests in flight.
    pub running: u32,
    /// Requests that wait.
    pub waiting: u32,
    /// Whether somebody has waited a moment ago.
    pub contended: bool,
    /// Groups, then tenants, then keys.
    pub nodes: Vec<LiveNode>,
}

impl Coordinator {
    /// All pools that exist. Walks every node: for people who look, not for every request.
    #[must_use]
    pub fn live(&self, now: Instant) -> Vec<LivePool> {
        self.pools
            .all()
            .map(|(ix, pool)| {
                let root = pool.tree.standing(crate::fairness::Tree::ROOT);
                LivePool {
                    pool: ix,
                    max_in_flight: pool.size.unwrap_or(0),
                    held: pool.held(),
                    running: root.running,
                    waiting: root.waiting,
                    contended: pool.is_contended(),
                    nodes: self.live_nodes(ix, now),
                }
            })
            .collect()
    }

    fn live_nodes(&self, at: PoolIx, now: Instant) -> Vec<LiveNode> {
        let Some(pool) = self.pools.of(at) else { return Vec::new() };
        let node = |level, ix: NodeIx, oldest_wait_ms| LiveNode {
            level,
            standing: pool.tree.standing(ix),
            oldest_wait_ms,
        };
        let group_of = |tenant: NodeIx| {
            let parent = pool.tree.parent(tenant);
            let at = pool.groups.iter().position(|group| *group == Some(parent)).unwrap_or(0);
            GroupIx(u32::try_from(at).unwrap_or(0))
        };
        let groups = (0_u32..)
            .zip(&pool.groups)
            .filter_map(|(at, group)| Some(node(Level::Group(GroupIx(at)), (*group)?, None)));
        let mut nodes: Vec<_> = groups.collect();
        nodes.extend(
            pool.tenants.iter().map(|(tenant, ix)| node(Level::Tenant(group_of(*ix), *tenant), *ix, None)),
        );
        nodes.extend(pool.leaves.iter().map(|((tenant, key), ix)| {
            let oldest = pool.first_ticket(*ix).and_then(|ticket| self.tickets.get(ticket));
            let waited = oldest
                .map(|waiting| u32::try_from(now.since(waiting.arrived).as_millis()).unwrap_or(u32::MAX));
            node(Level::Key(*tenant, *key), *ix, waited)
        }));
        nodes.sort_unstable_by_key(|node| node.level);
        nodes
    }
}
