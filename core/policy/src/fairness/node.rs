//! One node, and what happens to it when it begins or ends to wait or to run.

use super::{
    HOARD, NodeIx, Tree, VirtualTime, WELCOME,
    heap::{Entry, Heap, NOWHERE},
};
use crate::cost::Cost;

/// A pool, a group, a tenant or a key. Owned by its tree.
///
/// With ten thousand tenants, fetching nodes is what a decision costs. So a node is two cache lines, in this order: what
/// every step of every way up needs, and what only a parent has. Of a key whose request waits the second is not fetched.
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct Node {
    pub(super) key: VirtualTime,
    /// Where the last lift put the key; refunds go no lower.
    pub(super) floor: VirtualTime,
    pub(super) outstanding: Cost,
    pub(super) parent: NodeIx,
    pub(super) weight: u32,
    pub(super) waiting: u32,
    pub(super) running: u32,
    pub(super) blocked: bool,
    /// It had a child once. Of a node that never had one, the second line holds nothing but `settled`.
    pub(super) is_parent: bool,
    /// Virtual time of its children.
    pub(super) v: VirtualTime,
    /// Weight of its children that wait or run.
    pub(super) active_weight: u64,
    pub(super) settled: Cost,
    /// Its children that wait and may be served.
    pub(super) children: Heap,
}

const _: () = assert!(size_of::<Node>() == 128, "a node is two cache lines");
const _: () = assert!(std::mem::offset_of!(Node, v) == 64, "and the first ends before what a parent has");

impl Node {
    pub(super) fn new(parent: NodeIx, weight: u32) -> Self {
        Self {
            key: VirtualTime::default(),
            floor: VirtualTime::default(),
            outstanding: Cost(0),
            parent,
            weight,
            waiting: 0,
            running: 0,
            blocked: false,
            is_parent: false,
            v: VirtualTime::default(),
            active_weight: 0,
            settled: Cost(0),
            children: Heap::default(),
        }
    }

    /// Whether it waits, is below its cap, and is served itself or has a child that may be.
    fn is_eligible(&self) -> bool {
        self.waiting > 0 && !self.blocked && !(self.is_parent && self.children.is_empty())
    }

    /// Whether a child of it waits that may be served.
    fn is_awaited(&self) -> bool {
        !self.children.is_empty()
    }

    pub(super) fn is_active(&self) -> bool {
        self.waiting > 0 || self.running > 0
    }

    /// Raises the key to what an allowance of `requests` leaves below V.
    fn lift(&mut self, v: VirtualTime, requests: u64, mean_cost: u64) {
        if self.key >= v {
            return;
        }
        let allowance = VirtualTime::of(mean_cost.saturating_mul(requests), u64::from(self.weight));
        let lifted = VirtualTime(v.0.saturating_sub(allowance.0));
        if lifted > self.key {
            self.key = lifted;
            self.floor = lifted;
        }
    }
}

/// What has come of a node when something of it began or ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) parent: NodeIx,
    was_active: bool,
    /// It was idle, and is not any more.
    begins: bool,
    /// It waits and did not, or the other way round.
    turns: bool,
}

impl Tree {
    /// Adds to what waits and runs, from the leaf up to the root, with everything that follows from it.
    pub(super) fn count(&mut self, leaf: NodeIx, waiting: i32, running: i32) {
        if waiting == 0 && running == 0 {
            return;
        }
        let mut at = leaf;
        let (mut was_idle_below, mut has_moved_below) = (true, false);
        loop {
            let Some(change) = self.tally(at, waiting, running) else { return };
            if at == Self::ROOT {
                return;
            }
            if change.begins && was_idle_below {
                let (v, mean_cost) = (self.v_of(change.parent), self.mean_cost.get());
                if let Some(node) = self.nodes.get_mut(at.at()) {
                    node.lift(v, WELCOME, mean_cost);
                }
            }
            was_idle_below &= !change.was_active;
            // Only this decides whether it may be served. Most ways up change it near their start, or nowhere.
            has_moved_below = (change.turns || has_moved_below) && self.place(at);
            at = change.parent;
        }
    }

    /// Adds to what waits and runs of one node, and to the active weight of its parent.
    #[inline]
    pub(super) fn tally(&mut self, at: NodeIx, waiting: i32, running: i32) -> Option<Change> {
        let node = self.nodes.get_mut(at.at())?;
        let (was_active, did_wait) = (node.is_active(), node.waiting > 0);
        debug_assert!(node.waiting.checked_add_signed(waiting).is_some(), "a ticket left twice");
        debug_assert!(node.running.checked_add_signed(running).is_some(), "a request ended twice");
        node.waiting = node.waiting.saturating_add_signed(waiting);
        node.running = node.running.saturating_add_signed(running);
        let (is_active, weight, parent) = (node.is_active(), i64::from(node.weight), node.parent);
        let turns = did_wait != (node.waiting > 0);
        if was_active != is_active && at != Self::ROOT {
            self.weigh_in(parent, if is_active { weight } else { -weight });
        }
        Some(Change { parent, was_active, begins: is_active && !was_active, turns })
    }

    /// Moves one node's key by what it is charged. Where it stands in its parent's heap is the caller's business.
    #[inline]
    pub(super) fn bill(&mut self, at: NodeIx, settled: u64, outstanding: i64) {
        let largest = self.largest_cost;
        // V must not run away from somebody who came to wait a moment ago, either.
        let contended = self.contended || self.nodes.get(self.parent(at).at()).is_some_and(Node::is_awaited);
        let Some(node) = self.nodes.get_mut(at.at()) else { return };
        if settled > 0 {
            node.settled = node.settled.plus(Cost(settled));
        }
        node.outstanding = Cost(node.outstanding.0.saturating_add_signed(outstanding));
        if at == Self::ROOT {
            return;
        }
        let delta = outstanding.saturating_add_unsigned(settled);
        let service = VirtualTime::of(delta.unsigned_abs(), u64::from(node.weight));
        if delta < 0 {
            node.key = node.key.minus(service).max(node.floor);
        } else if contended {
            node.key = node.key.plus(service);
        } else {
            let tolerated = largest.saturating_add(node.outstanding.0);
            let (key, parent, weight) = (node.key, node.parent, u64::from(node.weight));
            let at_most = VirtualTime::of(tolerated, weight);
            let v = self.advance(parent, weight, delta.unsigned_abs());
            if let Some(node) = self.nodes.get_mut(at.at()) {
                node.key = key.plus(service).min(v.plus(at_most)).max(key);
            }
        }
    }

    /// Brings a node's place in its parent's heap up to date: in it if it waits and may be served, under its key. True if
    /// it has come or gone.
    #[inline]
    pub(super) fn place(&mut self, ix: NodeIx) -> bool {
        let Some(node) = self.nodes.get(ix.at()) else { return false };
        let eligible = node.is_eligible() && ix != Self::ROOT;
        let (parent, placed) = (node.parent, self.places.get(ix.at()).is_some_and(|at| *at != NOWHERE));
        match (eligible, placed) {
            (true, false) => self.enter(ix, parent),
            (false, true) => self.unplace(ix, parent),
            (true, true) => self.rekey(ix),
            (false, false) => {}
        }
        eligible != placed
    }

    /// The same, with everybody above whom it changes something for.
    pub(super) fn place_path(&mut self, ix: NodeIx) {
        let mut at = ix;
        while self.place(at) {
            at = self.parent(at);
        }
    }

    /// Tells the parent's heap of a node's key, if it stands there.
    #[inline]
    pub(super) fn rekey(&mut self, ix: NodeIx) {
        let Some(at) = self.places.get(ix.at()).copied().filter(|at| *at != NOWHERE) else { return };
        let Some(&Node { key, parent, .. }) = self.nodes.get(ix.at()) else { return };
        if let Some(parent) = self.nodes.get_mut(parent.at()) {
            parent.children.rekey(at, key, &mut self.places);
        }
    }

    fn enter(&mut self, ix: NodeIx, parent: NodeIx) {
        let v = self.v_of(parent);
        let mean_cost = self.mean_cost.get();
        let Some(node) = self.nodes.get_mut(ix.at()) else { return };
        node.lift(v, HOARD, mean_cost);
        let key = node.key;
        self.stamp = self.stamp.saturating_add(1);
        let entry = Entry { key, stamp: self.stamp, node: ix };
        let lone = self.nodes.get(parent.at()).and_then(|parent| parent.children.lone());
        let lone_key = lone.and_then(|lone| self.nodes.get(lone.at())).map_or(key, |lone| lone.key);
        if let Some(parent) = self.nodes.get_mut(parent.at()) {
            parent.children.push(entry, lone_key, &mut self.places);
        }
    }

    pub(super) fn unplace(&mut self, ix: NodeIx, parent: NodeIx) {
        let Some(at) = self.places.get(ix.at()).copied().filter(|at| *at != NOWHERE) else { return };
        if let Some(parent) = self.nodes.get_mut(parent.at()) {
            parent.children.remove(at, &mut self.places);
        }
    }

    /// Adds to the weight that is active under `parent`.
    pub(super) fn weigh_in(&mut self, parent: NodeIx, weight: i64) {
        if let Some(parent) = self.nodes.get_mut(parent.at()) {
            parent.active_weight = parent.active_weight.saturating_add_signed(weight);
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
        self.rekey(ix);
    }
}
