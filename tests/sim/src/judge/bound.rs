//! The bound on how far siblings drift apart, and on how long the first of a queue waits.
//!
//! *Siblings.* As written in `obleth_policy::fairness`: while both i and j have a ticket that may be served, the range of
//! `service i ÷ weight i − service j ÷ weight j` is at most `Σ (Q + F + 2·M + s + C) ÷ w`. All of it is taken from what
//! really happened: service as delivered, Q the largest request so far, F and M their peaks until then, s = peak of
//! requests in flight × what one delivers in two delays and a report interval (one step of the model at least), C =
//! [`HOARD`] times the mean cost that the tree measures credit by. A span ends when one of the two has nothing that may
//! be served, or shares change.
//!
//! *The first of a queue.* While a leaf waits, its siblings get no more than the bound lets them be ahead by. Let b(i) be
//! the sum in brackets, B(i, j) = b(i) ÷ w(i) + b(j) ÷ w(j), and X(0) = F + Q of the leaf, which is what it gets itself
//! from requests that run. At each level up,
//!
//! ```text
//! X(n+1) = X(n) + Σ over siblings j of w(j) · (X(n) ÷ w + B)
//! ```
//!
//! and no more than X(3) is served in the pool between two grants to a leaf that may be served all the while. In time:
//! X(3) ÷ (slots × cost that a slot yields per second), and two grant delays.

use std::collections::BTreeMap;

use obleth_policy::{
    coordinator::{Level, LivePool},
    cost::{Cost, Rates},
    fairness::HOARD,
    id::{GroupIx, TenantIx},
    protocol::PoolTotals,
};

use super::Kind;
use crate::{
    plan::Plan,
    world::{Request, leaf_id},
};

/// Longest time between two reports, in microseconds: the pace while nobody waits, and the slowest of a busy pool.
const SLOWEST_US: u32 = 100_000;

/// Groups, tenants and keys that wait and may be served, every node above them included.
pub(super) fn eligible(pool: &LivePool) -> Vec<Level> {
    let mut levels = Vec::new();
    for tenant in &pool.nodes {
        let Level::Tenant(group, ix) = tenant.level else { continue };
        if tenant.standing.blocked || tenant.standing.waiting == 0 {
            continue;
        }
        let keys = pool.nodes.iter().filter(|node| matches!(node.level, Level::Key(of, _) if of == ix));
        let serves = keys.filter(|key| key.standing.waiting > 0 && !key.standing.blocked);
        let before = levels.len();
        levels.extend(serves.map(|key| key.level));
        if levels.len() > before {
            levels.push(tenant.level);
            if !levels.contains(&Level::Group(group)) {
                levels.push(Level::Group(group));
            }
        }
    }
    levels
}

/// What of a node enters the bound.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    /// True remaining cost in flight.
    left: u64,
    /// Sum of |charged − true remaining|.
    miss: u64,
    running: u32,
}

impl Load {
    fn peak(self, other: Self) -> Self {
        Self {
            left: self.left.max(other.left),
            miss: self.miss.max(other.miss),
            running: self.running.max(other.running),
        }
    }
}

#[derive(Clone, Debug)]
struct Node {
    level: Level,
    parent: Option<usize>,
    weight: f64,
    service: u64,
    load: Load,
    peak: Load,
    eligible: bool,
    /// The pool's service when it was granted last, or came to wait.
    mark: Option<u64>,
}

/// Two siblings that both wait.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: (u64, u64),
    low: f64,
    high: f64,
    peaks: (Load, Load),
}

/// One request that runs or was granted.
#[derive(Clone, Copy, Debug)]
struct Commit {
    pool: usize,
    path: [usize; 3],
    total: u64,
    charged: u64,
    left: u64,
}

impl Commit {
    fn load(&self) -> Load {
        Load { left: self.left, miss: self.charged.abs_diff(self.total), running: 1 }
    }
}

#[derive(Clone, Debug)]
struct Side {
    nodes: Vec<Node>,
    spans: Vec<Option<Span>>,
    service: u64,
    largest: u64,
    mean: u64,
    most_mean: u64,
    totals: Vec<PoolTotals>,
    /// What a request in flight delivers before the coordinator hears of it.
    unheard: f64,
    step: u64,
    /// What was charged last for a request's output, by node.
    guess: Vec<u64>,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Bounds {
    pools: Vec<Side>,
    commits: BTreeMap<usize, Commit>,
    findings: Vec<(Kind, String)>,
    worst: (f64, f64),
    spans: u64,
}

impl Bounds {
    pub(super) fn new(plan: &Plan) -> Self {
        let mut bounds = Self {
            pools: Vec::new(),
            commits: BTreeMap::new(),
            findings: Vec::new(),
            worst: (0.0, 0.0),
            spans: 0,
        };
        let nodes = nodes(plan);
        for pool in &plan.pools {
            let us = plan.delay_ns as f64 / 500.0 + f64::from(SLOWEST_US);
            bounds.pools.push(Side {
                spans: vec![None; nodes.len() * nodes.len()],
                guess: vec![0; nodes.len()],
                nodes: nodes.clone(),
                service: 0,
                largest: 0,
                mean: 0,
                most_mean: 0,
                totals: vec![PoolTotals::default(); plan.shards],
                unheard: f64::from(pool.rate) * f64::from(Rates::default().output_milli) * us / 1e6,
                step: u64::from(plan.step_tokens) * u64::from(Rates::default().output_milli),
            });
        }
        bounds
    }

    /// Weights and places have changed: every span begins anew.
    pub(super) fn reshaped(&mut self, plan: &Plan) {
        for side in &mut self.pools {
            for (node, new) in side.nodes.iter_mut().zip(nodes(plan)) {
                (node.parent, node.weight) = (new.parent, new.weight);
                node.load = Load::default();
            }
            side.restart();
        }
        let commits: Vec<_> = self.commits.values().copied().collect();
        for mut commit in commits {
            commit.path = self.pools[commit.pool].path(commit.path[0]);
            self.weigh(&commit, true);
        }
        for commit in self.commits.values_mut() {
            commit.path = self.pools[commit.pool].path(commit.path[0]);
        }
    }

    pub(super) fn forgot(&mut self) {
        for side in &mut self.pools {
            side.restart();
            side.totals.fill(PoolTotals::default());
            side.mean = 0;
        }
    }

    pub(super) fn buried(&mut self, shard: usize, requests: &[Request]) {
        for side in &mut self.pools {
            side.totals[shard] = PoolTotals::default();
            side.restart();
        }
        let gone = |(at, _): &(&usize, &Commit)| {
            let request = &requests[**at];
            use crate::world::Stage::{Ended, Waiting};
            request.shard == shard && matches!(request.stage, Waiting(_) | Ended)
        };
        let gone: Vec<_> = self.commits.iter().filter(gone).map(|(at, _)| *at).collect();
        gone.into_iter().for_each(|at| self.uncommit(at));
    }

    /// The mean cost that the tree knows, from the same words.
    pub(super) fn learn(&mut self, pool: usize, shard: usize, totals: &PoolTotals) {
        let side = &mut self.pools[pool];
        let before = std::mem::replace(&mut side.totals[shard], *totals);
        let finished = u64::from(totals.finished.wrapping_sub(before.finished));
        if let Some(cost) = totals.cost.minus(before.cost).0.checked_div(finished) {
            side.mean = if side.mean == 0 { cost } else { side.mean - (side.mean >> 5) + (cost >> 5) };
            side.most_mean = side.most_mean.max(side.mean);
        }
    }

    pub(super) fn asked(&mut self, request: &Request) {
        let side = &mut self.pools[request.pool];
        let total = request.total().0.max(Cost::TOKEN.0);
        side.largest = side.largest.max(total);
    }

    pub(super) fn estimated(&mut self, request: &Request, estimate: Cost) {
        let side = &mut self.pools[request.pool];
        let leaf = side.leaf(request);
        side.guess[leaf] = estimate.0;
    }

    /// A request was granted, or has started from what its core kept.
    pub(super) fn commit(&mut self, at: usize, request: &Request, estimate: Option<Cost>) {
        if self.commits.contains_key(&at) {
            return;
        }
        let side = &self.pools[request.pool];
        let leaf = side.leaf(request);
        let left = request.total().minus(request.delivered).0;
        let charged = estimate.map_or(side.guess[leaf], |estimate| estimate.0);
        let commit =
            Commit { pool: request.pool, path: side.path(leaf), total: request.total().0, charged, left };
        self.commits.insert(at, commit);
        self.weigh(&commit, true);
    }

    /// It has ended, or was granted for nothing.
    pub(super) fn uncommit(&mut self, at: usize) {
        if let Some(commit) = self.commits.remove(&at) {
            self.weigh(&commit, false);
        }
    }

    pub(super) fn pool_of(&self, at: usize) -> Option<usize> {
        Some(self.commits.get(&at)?.pool)
    }

    pub(super) fn delivered(&mut self, at: usize, request: &Request, before: Cost) {
        let Some(commit) = self.commits.get(&at).copied() else { return };
        self.weigh(&commit, false);
        let more = request.delivered.minus(before).0;
        let after = Commit {
            left: commit.left.saturating_sub(more),
            // What a core charges beyond this, as long as the request runs, would make the bound larger; it holds without.
            charged: commit.charged.max(request.delivered.0),
            ..commit
        };
        self.commits.insert(at, after);
        let side = &mut self.pools[commit.pool];
        side.service += more;
        for node in commit.path {
            side.nodes[node].service += more;
        }
        self.weigh(&after, true);
        for node in commit.path {
            self.compare(commit.pool, node);
        }
    }

    fn weigh(&mut self, commit: &Commit, joins: bool) {
        let load = commit.load();
        for at in commit.path {
            let node = &mut self.pools[commit.pool].nodes[at];
            let Load { left, miss, running } = node.load;
            node.load = match joins {
                true => {
                    Load { left: left + load.left, miss: miss + load.miss, running: running + load.running }
                }
                false => {
                    Load { left: left - load.left, miss: miss - load.miss, running: running - load.running }
                }
            };
            node.peak = node.peak.peak(node.load);
        }
    }

    /// Looks at the spans of a node whose service has changed.
    fn compare(&mut self, pool: usize, node: usize) {
        let side = &mut self.pools[pool];
        let nodes = side.nodes.len();
        for other in 0..nodes {
            let (i, j) = (node.min(other), node.max(other));
            let Some(mut span) = side.spans[i * nodes + j] else { continue };
            let (a, b) = (&side.nodes[i], &side.nodes[j]);
            let had = |node: &Node, from: u64| (node.service - from) as f64 / node.weight;
            let apart = had(a, span.from.0) - had(b, span.from.1);
            (span.low, span.high) = (span.low.min(apart), span.high.max(apart));
            span.peaks = (span.peaks.0.peak(a.load), span.peaks.1.peak(b.load));
            side.spans[i * nodes + j] = Some(span);
            let bound = side.allowance(span.peaks.0) / a.weight + side.allowance(span.peaks.1) / b.weight;
            let part = (span.high - span.low) / bound;
            self.worst.0 = self.worst.0.max(part);
            if part > 1.0 {
                let has = (a.service - span.from.0, b.service - span.from.1);
                let says = format!(
                    "{:?} and {:?} of pool {pool} are {part:.2} of the bound apart: served {has:?}, {:.0} to {:.0}, {:?}",
                    a.level, b.level, span.low, span.high, span.peaks
                );
                self.findings.push((Kind::Bound, says));
            }
        }
    }

    /// Who waits and may be served now.
    pub(super) fn standing(&mut self, live: &[LivePool]) {
        for (pool, side) in live.iter().zip(&mut self.pools) {
            let levels = eligible(pool);
            for at in 0..side.nodes.len() {
                let is = levels.contains(&side.nodes[at].level);
                if side.nodes[at].eligible != is {
                    self.spans += side.turn(at, is);
                }
            }
        }
    }

    /// A leaf was granted a slot: how much others had since it was its turn last.
    pub(super) fn granted(&mut self, at: usize, request: &Request) {
        let side = &mut self.pools[request.pool];
        let leaf = side.leaf(request);
        let Some(mark) = side.nodes[leaf].mark else { return };
        let (waited, bound) = ((side.service - mark) as f64, side.wait_bound(leaf));
        side.nodes[leaf].mark = Some(side.service);
        self.worst.1 = self.worst.1.max(waited / bound);
        if waited > bound {
            let says = format!("request {at} waited for {:.2} of the bound", waited / bound);
            self.findings.push((Kind::Wait, says));
        }
    }

    pub(super) fn take_findings(&mut self) -> Vec<(Kind, String)> {
        std::mem::take(&mut self.findings)
    }

    /// Largest parts of the two bounds, and how many spans there were.
    pub(super) const fn figures(&self) -> (f64, f64, u64) {
        (self.worst.0, self.worst.1, self.spans)
    }
}

impl Side {
    fn leaf(&self, request: &Request) -> usize {
        let id = leaf_id(request.tenant, request.key, request.pool);
        let level = Level::Key(id.tenant, id.key);
        self.nodes.iter().position(|node| node.level == level).unwrap_or(0)
    }

    fn path(&self, leaf: usize) -> [usize; 3] {
        let tenant = self.nodes[leaf].parent.unwrap_or(0);
        [leaf, tenant, self.nodes[tenant].parent.unwrap_or(0)]
    }

    fn restart(&mut self) {
        self.spans.fill(None);
        for node in &mut self.nodes {
            (node.eligible, node.mark) = (false, None);
        }
    }

    /// Q + F + 2·M + s + C.
    fn allowance(&self, peak: Load) -> f64 {
        let unheard = f64::from(peak.running) * self.unheard.max(self.step as f64);
        (self.largest + peak.left + 2 * peak.miss + HOARD * self.most_mean) as f64 + unheard
    }

    /// A node begins or ends to wait; returns how many spans began.
    fn turn(&mut self, at: usize, eligible: bool) -> u64 {
        self.nodes[at].eligible = eligible;
        self.nodes[at].mark = eligible.then_some(self.service);
        let nodes = self.nodes.len();
        let mut began = 0;
        for other in 0..nodes {
            let is_sibling = other != at && self.nodes[other].parent == self.nodes[at].parent;
            if !is_sibling || !self.nodes[other].eligible {
                continue;
            }
            let (i, j) = (at.min(other), at.max(other));
            let (a, b) = (&self.nodes[i], &self.nodes[j]);
            let from = (a.service, b.service);
            // A debt from before stays, so peaks from before count.
            let span = Span { from, low: 0.0, high: 0.0, peaks: (a.peak, b.peak) };
            self.spans[i * nodes + j] = eligible.then_some(span);
            began += u64::from(eligible);
        }
        began
    }

    fn wait_bound(&self, leaf: usize) -> f64 {
        let mut served = self.nodes[leaf].peak.left as f64 + self.largest as f64;
        for at in self.path(leaf) {
            let node = &self.nodes[at];
            let own = self.allowance(node.peak) / node.weight;
            let siblings = self.nodes.iter().enumerate().filter(|(i, j)| *i != at && j.parent == node.parent);
            let ahead: f64 =
                siblings.map(|(_, j)| j.weight * (served / node.weight + own) + self.allowance(j.peak)).sum();
            served += ahead;
        }
        served
    }
}

/// The nodes of a pool's tree: groups, tenants, keys.
fn nodes(plan: &Plan) -> Vec<Node> {
    let node = |level, parent, weight: u32| Node {
        level,
        parent,
        weight: weight.into(),
        service: 0,
        load: Load::default(),
        peak: Load::default(),
        eligible: false,
        mark: None,
    };
    let groups = (0..).zip(&plan.groups).map(|(at, weight)| node(Level::Group(GroupIx(at)), None, *weight));
    let mut nodes: Vec<_> = groups.collect();
    let first = nodes.len();
    for (at, tenant) in (0..).zip(&plan.tenants) {
        let level = Level::Tenant(GroupIx(tenant.group), TenantIx(at));
        nodes.push(node(level, Some(tenant.group as usize), tenant.weight));
    }
    for (at, tenant) in plan.tenants.iter().enumerate() {
        for (key, (weight, _)) in tenant.keys.iter().enumerate() {
            let id = leaf_id(at, key, 0);
            nodes.push(node(Level::Key(id.tenant, id.key), Some(first + at), *weight));
        }
    }
    nodes
}
