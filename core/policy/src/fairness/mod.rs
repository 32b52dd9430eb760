//! Who is next: a tree of virtual times, pool → group → tenant → key.
//!
//! Every node has a *key*: the service that it has had, divided by its weight. The next slot goes to the waiting
//! child with the least key, at every level from the root down (virtual token counters, "Fairness in Serving Large
//! Language Models", OSDI '24, made hierarchical). The rules that make it exact:
//!
//! - *What is charged.* What was delivered, for a request in flight three quarters of a usual answer more, and at least
//!   the low end of its expected cost: so a tenant cannot be admitted in bulk before its first token, nor because it is a
//!   little behind. What was charged too much is refunded once.
//! - *Virtual time.* Every inner node keeps V, the highest key that was granted among its children; it never falls.
//!   A node that was idle starts at V less one request: idleness earns nothing, and the one request lets a tenant
//!   that waits for each answer reach its share.
//! - *Refunds* never take a key below where the node's last lift put it: what was charged before an idle time was
//!   forgotten with it.
//! - *Caps.* A node at its cap is passed over and does not move V. When it is let in again, or a busy node waits
//!   again, it has at most [`HOARD`] requests of credit.
//! - *Slack.* While nobody waits, V goes forward with the service, divided by the weight of whoever is active. What
//!   somebody takes while nobody else wants it puts him ahead of V by one request and what he has in flight, at most.
//!   Debts from before stay.
//!
//! # The bound
//!
//! For two siblings i and j over a time in which both have a request waiting and are below their caps, service
//! per weight differs by at most
//!
//! ```text
//! Σ over i and j of (Q + F + 2·M + s + C) ÷ w
//! ```
//!
//! with Q the largest cost of a request; F the peak of the true remaining cost in flight, granted and not started
//! included; M the peak of the sum of |charged − true remaining|; s = requests in flight × token rate × output weight ×
//! (2·grant delay + report interval); C = [`HOARD`] mean requests, the credit. F and M count from before that time, too:
//! debts stay. It does not depend on the number of cores. `tests/sim` asserts it.
//!
//! Pure and integer; it must never read a clock or iterate a hash map. A decision costs O(log n) and allocates nothing
//! once the tree has been as large as it gets.

mod heap;
mod node;
#[cfg(test)]
mod tests;

use self::{heap::NOWHERE, node::Node};
use crate::{cost::Cost, mean::Mean};

/// Requests of mean cost that a node may be ahead of the others by when it begins to wait while it is busy.
pub const HOARD: u64 = 4;
/// Requests of mean cost that a node may be ahead of the others by when it comes back from idleness.
const WELCOME: u64 = 1;
/// By what part the largest cost is forgotten with each request, as a shift: it takes some hundred others.
const FORGET: u32 = 10;

/// Service per weight, in 2⁻³² of a thousandth of a weighted token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct VirtualTime(pub u128);

impl VirtualTime {
    /// What this cost is worth to a node of this weight.
    #[must_use]
    pub fn of(cost: u64, weight: u64) -> Self {
        let weight = weight.max(1);
        // Almost every cost is below four million tokens; a division of that size is several times faster.
        match u32::try_from(cost) {
            Ok(cost) => Self(u128::from((u64::from(cost) << 32) / weight)),
            Err(_) => Self((u128::from(cost) << 32) / u128::from(weight)),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// A node of one tree. Means the same node until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIx(pub u32);

impl NodeIx {
    /// The index as a table position.
    #[must_use]
    pub const fn at(self) -> usize {
        self.0 as usize
    }
}

/// What one node has, for reports and checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Its share against its siblings.
    pub weight: u32,
    /// Requests that wait, in its whole subtree.
    pub waiting: u32,
    /// Requests granted and not ended.
    pub running: u32,
    /// What ended requests cost.
    pub settled: Cost,
    /// What is charged for running ones.
    pub outstanding: Cost,
    /// Service per weight.
    pub key: VirtualTime,
    /// Its parent's virtual time.
    pub parent_v: VirtualTime,
    /// Whether it is at its cap.
    pub blocked: bool,
}

/// One pool's ledger. Owned by the coordinator.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    /// Where each node stands in its parent's heap.
    places: Vec<u32>,
    free: Vec<NodeIx>,
    /// Numbers the entries of heaps, so that equal keys are served in the order in which they came to wait.
    stamp: u64,
    /// Somebody has to wait; see [`Tree::contend`].
    contended: bool,
    mean_cost: Mean,
    largest_cost: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// The pool itself.
    pub const ROOT: NodeIx = NodeIx(0);

    /// A tree with a root and nothing else.
    #[must_use]
    pub fn new() -> Self {
        Self {
            nodes: vec![Node::new(Self::ROOT, 1)],
            places: vec![NOWHERE],
            free: Vec::new(),
            stamp: 0,
            contended: false,
            mean_cost: Mean::default(),
            largest_cost: 0,
        }
    }

    /// A new child, idle.
    pub fn add(&mut self, parent: NodeIx, weight: u32) -> NodeIx {
        let node = Node::new(parent, weight.max(1));
        self.make_parent(parent);
        if let Some(ix) = self.free.pop() {
            if let Some(place) = self.nodes.get_mut(ix.at()) {
                *place = node;
            }
            return ix;
        }
        let ix = NodeIx(u32::try_from(self.nodes.len()).unwrap_or(u32::MAX));
        self.nodes.push(node);
        self.places.push(NOWHERE);
        ix
    }

    /// Forgets an idle node without children. A leaf whose key is not behind V may come back with less debt.
    pub fn remove(&mut self, node: NodeIx) {
        debug_assert!(!self.is_active(node), "a busy node is not forgotten");
        self.free.push(node);
    }

    /// Whether something of this node waits or runs.
    #[must_use]
    pub fn is_active(&self, node: NodeIx) -> bool {
        self.nodes.get(node.at()).is_some_and(Node::is_active)
    }

    /// Whether an idle node can be forgotten without a trace: coming back, it would be lifted past its key.
    #[must_use]
    pub fn is_forgettable(&self, node: NodeIx) -> bool {
        let Some(this) = self.nodes.get(node.at()) else { return false };
        let v = self.v_of(this.parent);
        !this.is_active()
            && this.key <= v.minus(VirtualTime::of(self.mean_cost.get(), u64::from(this.weight)))
    }

    /// The leaf whose request is next, or `None` when nobody waits who may be served.
    #[must_use]
    pub fn least(&self) -> Option<NodeIx> {
        let mut node = Self::ROOT;
        while let Some(child) = self.nodes.get(node.at())?.children.top() {
            node = child;
        }
        (node != Self::ROOT).then_some(node)
    }

    /// A request of this leaf waits.
    pub fn wait(&mut self, leaf: NodeIx) {
        self.count(leaf, 1, 0);
    }

    /// A request of this leaf waits no more and is not served.
    pub fn leave(&mut self, leaf: NodeIx) {
        self.count(leaf, -1, 0);
    }

    /// A waiting request of this leaf gets a slot, and is charged this much for a start. Virtual time goes forward.
    pub fn grant(&mut self, leaf: NodeIx, estimate: Cost) {
        let outstanding = estimate.since(Cost(0));
        let mut at = leaf;
        // The three that make a grant, on one way up: what is far away in memory is fetched once.
        while at != Self::ROOT {
            let Some(&Node { parent, key, .. }) = self.nodes.get(at.at()) else { return };
            if let Some(parent) = self.nodes.get_mut(parent.at()) {
                parent.v = parent.v.max(key);
            }
            self.bill(at, 0, outstanding);
            self.tally(at, -1, 1);
            self.place(at);
            at = parent;
        }
        self.bill(Self::ROOT, 0, outstanding);
        self.tally(Self::ROOT, -1, 1);
    }

    /// Requests of this leaf run that never waited.
    pub fn adopt(&mut self, leaf: NodeIx, requests: i32) {
        self.count(leaf, 0, requests);
    }

    /// Requests of this leaf have ended.
    pub fn release(&mut self, leaf: NodeIx, requests: i32) {
        self.count(leaf, 0, requests.saturating_neg());
    }

    /// Service: this much was settled, and this much more (or less) is outstanding. Their sum moves the keys.
    pub fn charge(&mut self, leaf: NodeIx, settled: u64, outstanding: i64) {
        let mut at = leaf;
        loop {
            self.bill(at, settled, outstanding);
            if at == Self::ROOT {
                return;
            }
            self.rekey(at);
            at = self.parent(at);
        }
    }

    /// A request has ended that cost this much: what credit is measured by.
    pub fn learn(&mut self, cost: Cost) {
        self.mean_cost.learn(cost.0);
        self.largest_cost = cost.0.max(self.largest_cost.saturating_sub(self.largest_cost >> FORGET));
    }

    /// The mean cost of a request, recent ones first; zero before the first.
    #[must_use]
    pub const fn mean_cost(&self) -> Cost {
        Cost(self.mean_cost.get())
    }

    /// Somebody has to wait from now on, or nobody any more. It forgives nothing: a key that was high stays so.
    pub const fn contend(&mut self, contended: bool) {
        self.contended = contended;
    }

    /// Puts a node at its cap, or lets it in again.
    pub fn block(&mut self, node: NodeIx, blocked: bool) {
        if let Some(this) = self.nodes.get_mut(node.at()) {
            this.blocked = blocked;
            self.place_path(node);
        }
    }

    /// Gives a node another weight. What it is ahead or behind by stays the same in tokens.
    pub fn reweigh(&mut self, node: NodeIx, weight: u32) {
        let Some(this) = self.nodes.get(node.at()) else { return };
        let (old, parent, active) = (this.weight, this.parent, this.is_active());
        let weight = weight.max(1);
        if old == weight || node == Self::ROOT {
            return;
        }
        let v = self.v_of(parent);
        if active {
            self.weigh_in(parent, i64::from(weight) - i64::from(old));
        }
        self.rebase(node, (v, v), weight);
    }

    /// Gives a node another parent. What it is ahead or behind by goes with it.
    pub fn relocate(&mut self, node: NodeIx, parent: NodeIx) {
        let Some(this) = self.nodes.get(node.at()) else { return };
        let (from, weight) = (this.parent, this.weight);
        let (waiting, running) = (this.waiting.cast_signed(), this.running.cast_signed());
        let outstanding = this.outstanding.0.cast_signed();
        if from == parent || node == Self::ROOT {
            return;
        }
        self.unplace(node, from);
        self.place_path(from);
        let active_weight = if waiting > 0 || running > 0 { i64::from(weight) } else { 0 };
        self.weigh_in(from, -active_weight);
        self.count(from, -waiting, -running);
        self.owe(from, outstanding.saturating_neg());
        if let Some(this) = self.nodes.get_mut(node.at()) {
            this.parent = parent;
        }
        self.make_parent(parent);
        self.rebase(node, (self.v_of(from), self.v_of(parent)), weight);
        self.weigh_in(parent, active_weight);
        self.place_path(node);
        self.count(parent, waiting, running);
        self.owe(parent, outstanding);
    }

    /// What is outstanding goes with its requests. What was settled, and the keys, stay where the service was had.
    fn owe(&mut self, node: NodeIx, outstanding: i64) {
        let mut at = node;
        while let Some(node) = self.nodes.get_mut(at.at()) {
            node.outstanding = Cost(node.outstanding.0.saturating_add_signed(outstanding));
            if at == Self::ROOT {
                return;
            }
            at = node.parent;
        }
    }

    /// How a node stands.
    #[must_use]
    pub fn standing(&self, node: NodeIx) -> Standing {
        let Some(this) = self.nodes.get(node.at()) else { return Standing::default() };
        Standing {
            weight: this.weight,
            waiting: this.waiting,
            running: this.running,
            settled: this.settled,
            outstanding: this.outstanding,
            key: this.key,
            parent_v: self.v_of(this.parent),
            blocked: this.blocked,
        }
    }

    /// The parent of a node; the root's is the root.
    #[must_use]
    pub fn parent(&self, node: NodeIx) -> NodeIx {
        self.nodes.get(node.at()).map_or(Self::ROOT, |this| this.parent)
    }

    /// The summed weight of a node's children that wait or run.
    #[must_use]
    pub fn active_weight(&self, node: NodeIx) -> u64 {
        self.nodes.get(node.at()).map_or(0, |this| this.active_weight)
    }

    /// Service in slack: virtual time goes forward with it, by the weight of whoever is active, and at least of whoever
    /// had it: he may have come and gone between two reports. Returns the new V.
    fn advance(&mut self, parent: NodeIx, weight: u64, cost: u64) -> VirtualTime {
        let Some(parent) = self.nodes.get_mut(parent.at()) else { return VirtualTime::default() };
        parent.v = parent.v.plus(VirtualTime::of(cost, parent.active_weight.max(weight)));
        parent.v
    }

    fn make_parent(&mut self, node: NodeIx) {
        if let Some(node) = self.nodes.get_mut(node.at()) {
            node.is_parent = true;
        }
    }

    fn v_of(&self, node: NodeIx) -> VirtualTime {
        self.nodes.get(node.at()).map_or(VirtualTime::default(), |node| node.v)
    }
}
