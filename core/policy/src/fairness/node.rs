//! One node, and what happens to it when it begins or ends to wait or to run.

use super::{HOARD, NodeIx, Tree, VirtualTime, WELCOME, heap::Heap, heap::NOWHERE};
use crate::cost::Cost;

/// A pool, a group, a tenant or a key. Owned by its tree.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) parent: NodeIx,
    pub(super) weight: u32,
    pub(super) waiting: u32,
    pub(super) running: u32,
    pub(super) settled: Cost,
    pub(super) outstanding: Cost,
    pub(super) key: VirtualTime,
    /// Where the last lift put the key; refunds go no lower.
    pub(super) floor: VirtualTime,
    /// Virtual time of its children.
    pub(super) v: VirtualTime,
    /// Weight of its children that wait or run.
    pub(super) active_weight: u64,
    /// Its children that wait and may be served.
    pub(super) children: Heap,
    pub(super) blocked: bool,
}

impl Node {
    pub(super) fn new(parent: NodeIx, weight: u32) -> Self {
        Self {
            parent,
            weight,
            waiting: 0,
            running: 0,
            settled: Cost(0),
            outstanding: Cost(0),
            key: VirtualTime::default(),
            floor: VirtualTime::default(),
            v: VirtualTime::default(),
            active_weight: 0,
            children: Heap::default(),
            blocked: false,
        }
    }

    pub(super) fn is_active(&self) -> bool {
        self.waiting > 0 || self.running > 0
    }

    /// Raises the key to what an allowance of `requests` leaves below V.
    fn lift(&mut self, v: VirtualTime, requests: u64, mean_cost: u64) {
        let allowance = VirtualTime::of(mean_cost.saturating_mul(requests), u64::from(self.weight));
        let lifted = VirtualTime(v.0.saturating_sub(allowance.0));
        if lifted > self.key {
            self.key = lifted;
            self.floor = lifted;
        }
    }
}

impl Tree {
    /// Adds to what waits and runs, from the leaf up to the root, with everything that follows from it.
    pub(super) fn count(&mut self, leaf: NodeIx, waiting: i32, running: i32) {
        let mut at = leaf;
        let mut was_idle_below = true;
        loop {
            let Some(node) = self.nodes.get_mut(at.at()) else { return };
            let was_active = node.is_active();
            debug_assert!(node.waiting.checked_add_signed(waiting).is_some(), "a ticket left twice");
            debug_assert!(node.running.checked_add_signed(running).is_some(), "a request ended twice");
            node.waiting = node.waiting.saturating_add_signed(waiting);
            node.running = node.running.saturating_add_signed(running);
            if at == Self::ROOT {
                return;
            }
            let (is_active, weight, parent) = (node.is_active(), u64::from(node.weight), node.parent);
            let mean_cost = self.mean_cost;
            if was_active != is_active {
                let v = self.v_of(parent);
                if let Some(parent) = self.nodes.get_mut(parent.at()) {
                    parent.active_weight = match is_active {
                        true => parent.active_weight.saturating_add(weight),
                        false => parent.active_weight.saturating_sub(weight),
                    };
                }
                if is_active
                    && was_idle_below
                    && let Some(node) = self.nodes.get_mut(at.at())
                {
                    node.lift(v, WELCOME, mean_cost);
                }
            }
            was_idle_below &= !was_active;
            self.place(at);
            at = parent;
        }
    }

    /// Puts a node into its parent's heap if it waits and may be served, or takes it out.
    pub(super) fn place(&mut self, ix: NodeIx) {
        let Some(node) = self.nodes.get(ix.at()) else { return };
        let has_work = node.waiting > 0 && (!node.children.is_empty() || node.active_weight == 0);
        let eligible = has_work && !node.blocked && ix != Self::ROOT;
        let (parent, placed) = (node.parent, self.places.get(ix.at()).is_some_and(|at| *at != NOWHERE));
        match (eligible, placed) {
            (true, false) => self.enter(ix, parent),
            (false, true) => self.unplace(ix, parent),
            _ => return,
        }
        // Whether the parent has somebody to serve may have changed with it.
        if parent != Self::ROOT {
            self.place(parent);
        }
    }

    fn enter(&mut self, ix: NodeIx, parent: NodeIx) {
        let v = self.v_of(parent);
        let mean_cost = self.mean_cost;
        let Some(node) = self.nodes.get_mut(ix.at()) else { return };
        node.lift(v, HOARD, mean_cost);
        let key = node.key;
        self.stamp = self.stamp.saturating_add(1);
        if let Some(parent) = self.nodes.get_mut(parent.at()) {
            parent.children.push(ix, key, self.stamp, &mut self.places);
        }
    }

    pub(super) fn unplace(&mut self, ix: NodeIx, parent: NodeIx) {
        let Some(at) = self.places.get(ix.at()).copied().filter(|at| *at != NOWHERE) else { return };
        if let Some(parent) = self.nodes.get_mut(parent.at()) {
            parent.children.remove(at, &mut self.places);
        }
    }

    /// Adds an active child's weight to what is active under `parent`, or takes it away.
    pub(super) fn weigh_in(&mut self, parent: NodeIx, weight: u32, joins: bool) {
        if let Some(parent) = self.nodes.get_mut(parent.at()) {
            parent.active_weight = match joins {
                true => parent.active_weight.saturating_add(u64::from(weight)),
                false => parent.active_weight.saturating_sub(u64::from(weight)),
            };
        }
    }

    /// Carries what a node is ahead or behind of V by over to another V and weight.
    pub(super) fn rebase(&mut self, ix: NodeIx, (from, to): (VirtualTime, VirtualTime), weight: u32) {
        let Some(node) = self.nodes.get_mut(ix.at()) else { return };
        let (old, new) = (u128::from(node.weight), u128::from(weight.max(1)));
        let carry = |key: VirtualTime| match key >= from {
            true => VirtualTime(to.0.saturating_add((key.0 - from.0).saturating_mul(old) / new)),
            false => VirtualTime(to.0.saturating_sub((from.0 - key.0).saturating_mul(old) / new)),
        };
        node.key = carry(node.key);
        node.floor = carry(node.floor).min(node.key);
        node.weight = weight.max(1);
        let (key, parent) = (node.key, node.parent);
        let at = self.places.get(ix.at()).copied().filter(|at| *at != NOWHERE);
        if let (Some(at), Some(parent)) = (at, self.nodes.get_mut(parent.at())) {
            parent.children.rekey(at, key, &mut self.places);
        }
    }
}
