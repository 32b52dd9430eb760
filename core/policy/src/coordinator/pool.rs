//! One pool: where its credits are, and the tree that says who gets the next one.
//!
//! It must never believe more than it was told: what a shard holds is what was handed out to it and not yet returned,
//! what a leaf was charged is what its shards reported and what was granted since.

use std::time::Duration;

use foldhash::{HashMap, HashMapExt};

use super::{
    CALM, Limits, Outbox,
    queue::{TicketIx, Tickets, Waiting},
};
use crate::{
    cost::Cost,
    fairness::{NodeIx, Standing, Tree},
    id::{KeyId, PoolIx, TenantIx},
    mean::Mean,
    protocol::{Down, LeafTotals, PoolTotals, Refusal, ReportEvery},
    unit::Instant,
};

/// Shortest and longest time between two reports of service, in microseconds.
const REPORT_US: (u64, u64) = (1_000, 100_000);
/// Reports per mean service time.
const REPORTS_PER_SERVICE: u64 = 10;

/// The tickets of one leaf, first come first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chain {
    pub(super) first: Option<TicketIx>,
    pub(super) last: Option<TicketIx>,
}

/// What one shard has said and got of one leaf.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    settled: Cost,
    outstanding: Cost,
    running: u32,
    granted: u32,
    granted_cost: Cost,
    /// Grants that were sent, and the sum of their estimates.
    sent: u32,
    sent_cost: Cost,
    /// The shard keeps a book of this leaf, or will when the grant arrives.
    open: bool,
}

impl Known {
    /// Requests that run or will, as far as is known.
    const fn in_flight(&self) -> u32 {
        self.running.wrapping_add(self.sent.wrapping_sub(self.granted))
    }

    const fn charged(&self) -> Cost {
        self.outstanding.plus(self.sent_cost.minus(self.granted_cost))
    }
}

/// One shard's part of a pool.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    /// Credits that it holds or that are under way to or from it.
    held: u32,
    /// It may keep unused ones.
    keeps: bool,
    /// The pace of reports that it was told, in microseconds; zero while it keeps its own.
    told_us: u32,
    totals: PoolTotals,
    /// Tickets since somebody had to wait.
    recent: u32,
}

/// A leaf's book.
#[derive(Clone, Copy, Debug)]
struct Book {
    owner: (TenantIx, KeyId),
    chain: Chain,
}

/// The pools, by index.
#[derive(Debug, Default)]
pub(super) struct Pools(Vec<Option<Pool>>);

impl Pools {
    pub(super) fn of(&self, ix: PoolIx) -> Option<&Pool> {
        self.0.get(ix.at())?.as_ref()
    }

    pub(super) fn of_mut(&mut self, ix: PoolIx) -> Option<&mut Pool> {
        self.0.get_mut(ix.at())?.as_mut()
    }

    /// The pool, made if need be.
    pub(super) fn make(&mut self, ix: PoolIx, shards: usize) -> &mut Pool {
        if self.0.len() <= ix.at() {
            self.0.resize_with(ix.at().saturating_add(1), || None);
        }
        // The table was made long enough.
        self.0[ix.at()].get_or_insert_with(|| Pool::new(shards))
    }

    /// Those that there are.
    pub(super) fn all(&self) -> impl Iterator<Item = (PoolIx, &Pool)> {
        (0_u32..).zip(&self.0).filter_map(|(at, pool)| Some((PoolIx(at), pool.as_ref()?)))
    }

    /// Those that there are.
    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = (PoolIx, &mut Pool)> {
        (0_u32..).zip(&mut self.0).filter_map(|(at, pool)| Some((PoolIx(at), pool.as_mut()?)))
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Pool {
    /// `None` until the configuration names it.
    pub(super) size: Option<u32>,
    /// The configuration that is being taken in names it.
    pub(super) named: bool,
    /// Credits that no shard holds; below zero after the pool has shrunk.
    home: i64,
    sides: Vec<Side>,
    pub(super) tree: Tree,
    pub(super) leaves: HashMap<(TenantIx, KeyId), NodeIx>,
    pub(super) tenants: HashMap<TenantIx, NodeIx>,
    /// By group index.
    pub(super) groups: Vec<Option<NodeIx>>,
    /// By node; `None` for what is not a leaf.
    books: Vec<Option<Book>>,
    /// By node and shard.
    known: Vec<Known>,
    /// Where the search for leaves to forget goes on.
    sweep: usize,
    contended: bool,
    calm_since: Option<Instant>,
    /// Mean time that a request holds a slot, in microseconds; zero before the first.
    service_us: Mean,
}

impl Pool {
    pub(super) fn new(shards: usize) -> Self {
        Self {
            size: None,
            named: false,
            home: 0,
            sides: vec![Side::default(); shards],
            tree: Tree::new(),
            leaves: HashMap::new(),
            tenants: HashMap::new(),
            groups: Vec::new(),
            books: Vec::new(),
            known: Vec::new(),
            sweep: 0,
            contended: false,
            calm_since: None,
            service_us: Mean::default(),
        }
    }

    /// Makes the pool larger or smaller. What runs goes on.
    pub(super) fn resize(&mut self, size: u32) {
        self.home =
            self.home.saturating_add(i64::from(size)).saturating_sub(i64::from(self.size.unwrap_or(0)));
        self.size = Some(size);
    }

    /// A leaf's book is opened. Returns a leaf that can be forgotten meanwhile, if one came up.
    pub(super) fn open(&mut self, leaf: NodeIx, owner: (TenantIx, KeyId)) -> Option<(KeyId, NodeIx)> {
        let (at, shards) = (leaf.at(), self.sides.len());
        if self.books.len() <= at {
            self.books.resize(at.saturating_add(1), None);
            self.known.resize(at.saturating_add(1).saturating_mul(shards), Known::default());
        }
        let forgotten = self.forget_one();
        if let Some(book) = self.books.get_mut(at) {
            *book = Some(Book { owner, chain: Chain::default() });
        }
        self.leaves.insert(owner, leaf);
        forgotten
    }

    /// Looks at two leaves, and forgets one of them if nobody would notice. Called for every new leaf, so leaves that
    /// are done with are forgotten faster than new ones come.
    fn forget_one(&mut self) -> Option<(KeyId, NodeIx)> {
        for _ in 0..2 {
            self.sweep = if self.sweep >= self.books.len() { 0 } else { self.sweep.saturating_add(1) };
            let node = NodeIx(u32::try_from(self.sweep).unwrap_or(u32::MAX));
            let Some(Book { owner, .. }) = self.books.get(self.sweep).copied().flatten() else { continue };
            let is_open = self.known_of(node).iter().any(|known| known.open);
            if is_open || !self.tree.is_forgettable(node) {
                continue;
            }
            self.leaves.remove(&owner);
            if let Some(book) = self.books.get_mut(self.sweep) {
                *book = None;
            }
            self.tree.remove(node);
            return Some((owner.1, node));
        }
        None
    }

    /// Why a ticket of this leaf is not taken, if so.
    pub(super) fn refuses(&self, leaf: NodeIx, limits: Limits) -> Option<Refusal> {
        let tenant = self.tree.standing(self.tree.parent(leaf));
        match self.size {
            Some(0) => Some(Refusal::PoolClosed),
            _ => {
                // Of those that are here, so many do not wait but are about to be granted.
                let served = u32::try_from(self.home.max(0)).unwrap_or(u32::MAX);
                let waits = |count: u32| count.saturating_sub(served);
                let is_full =
                    waits(self.queued()) >= limits.queue || waits(tenant.waiting) >= limits.tenant_queue;
                is_full.then_some(Refusal::QueueFull)
            }
        }
    }

    pub(super) fn enqueue(&mut self, leaf: NodeIx, ix: TicketIx, tickets: &mut Tickets) {
        if let Some(Some(book)) = self.books.get_mut(leaf.at()) {
            tickets.chain(&mut book.chain, ix);
        }
        if let Some(side) = tickets.get(ix).and_then(|waiting| self.sides.get_mut(waiting.shard)) {
            side.recent = side.recent.saturating_add(1);
        }
        self.tree.wait(leaf);
    }

    pub(super) fn unqueue(&mut self, leaf: NodeIx, ix: TicketIx, tickets: &mut Tickets) {
        if let Some(Some(book)) = self.books.get_mut(leaf.at()) {
            tickets.unchain(&mut book.chain, ix);
        }
        self.tree.leave(leaf);
    }

    pub(super) fn first_ticket(&self, leaf: NodeIx) -> Option<TicketIx> {
        self.books.get(leaf.at())?.as_ref()?.chain.first
    }

    /// Gives the leaf's first ticket a credit. The ticket stands in its chain until this is done.
    pub(super) fn grant(&mut self, ix: TicketIx, waiting: &Waiting, tickets: &mut Tickets) {
        let (leaf, shard, estimate) = (waiting.leaf, waiting.shard, waiting.ticket.estimate);
        if let Some(Some(book)) = self.books.get_mut(leaf.at()) {
            tickets.unchain(&mut book.chain, ix);
        }
        self.tree.grant(leaf, estimate);
        self.hand_out(shard, 1);
        if let Some(known) = self.known_mut(leaf, shard) {
            known.sent = known.sent.wrapping_add(1);
            known.sent_cost = known.sent_cost.plus(estimate);
            known.open = true;
        }
    }

    /// What a shard says of a leaf. Returns by how much the leaf's requests in flight have changed.
    pub(super) fn hear_leaf(&mut self, shard: usize, leaf: NodeIx, totals: &LeafTotals) -> i32 {
        let Some(known) = self.known_mut(leaf, shard) else { return 0 };
        let before = *known;
        known.settled = totals.settled;
        known.outstanding = totals.outstanding;
        known.running = totals.running;
        known.granted = totals.granted;
        known.granted_cost = totals.granted_cost;
        known.open = true;
        let after = *known;
        if totals.closes {
            *known = Known::default();
        }
        let settled = totals.settled.minus(before.settled).0;
        let change = after.in_flight().wrapping_sub(before.in_flight()).cast_signed();
        self.tree.adopt(leaf, change.max(0));
        self.tree.charge(leaf, settled, after.charged().since(before.charged()));
        self.tree.release(leaf, change.min(0).saturating_neg());
        change
    }

    /// What a shard says of the pool. Returns by how much the credits that it holds have changed.
    pub(super) fn hear(&mut self, shard: usize, totals: &PoolTotals) -> i64 {
        let Some(side) = self.sides.get_mut(shard) else { return 0 };
        let before = std::mem::replace(&mut side.totals, *totals);
        let brought = i64::from(totals.brought) - i64::from(before.brought);
        let returned = i64::from(totals.returned.wrapping_sub(before.returned));
        side.held = side.held.saturating_add_signed(i32::try_from(brought - returned).unwrap_or(0));
        self.home += returned - brought;
        let finished = u64::from(totals.finished.wrapping_sub(before.finished));
        if let Some(cost) = totals.cost.minus(before.cost).0.checked_div(finished) {
            self.tree.learn(Cost(cost));
            self.service_us.learn(totals.service_us.saturating_sub(before.service_us) / finished);
        }
        brought - returned
    }

    /// A shard is gone. Returns the credits that it held.
    pub(super) fn bury(&mut self, shard: usize) -> u32 {
        for at in 0..self.books.len() {
            let leaf = NodeIx(u32::try_from(at).unwrap_or(u32::MAX));
            let Some(known) = self.known_mut(leaf, shard).map(std::mem::take) else { continue };
            if !known.open {
                continue;
            }
            let in_flight = known.in_flight().cast_signed();
            self.tree.charge(leaf, known.outstanding.0, Cost(0).since(known.charged()));
            self.tree.release(leaf, in_flight);
        }
        let Some(side) = self.sides.get_mut(shard).map(std::mem::take) else { return 0 };
        self.home += i64::from(side.held);
        side.held
    }

    /// How far ahead of its fair share a leaf's tenant is, in requests of mean cost.
    pub(super) fn standing(&self, leaf: NodeIx) -> i32 {
        let Standing { key, parent_v, weight, .. } = self.tree.standing(self.tree.parent(leaf));
        let request =
            crate::fairness::VirtualTime::of(self.tree.mean_cost().0.max(1), u64::from(weight)).0.max(1);
        let ahead = |by: u128| i32::try_from(by / request).unwrap_or(i32::MAX);
        match key >= parent_v {
            true => ahead(key.0 - parent_v.0),
            false => ahead(parent_v.0 - key.0).saturating_neg(),
        }
    }

    pub(super) fn hand_out(&mut self, shard: usize, credits: u32) {
        if let Some(side) = self.sides.get_mut(shard) {
            debug_assert!(self.home >= i64::from(credits), "a credit was handed out that is not there");
            self.home -= i64::from(credits);
            side.held = side.held.saturating_add(credits);
        }
    }

    /// Whether a shard may keep credits now: somebody would have to ask for them back.
    pub(super) fn keeps_stock(&self, shards: u32) -> bool {
        !self.contended && self.home > 0 && self.size.is_some_and(|size| size >= shards.saturating_mul(2))
    }

    /// What one shard may take along, so that something is left for the others.
    pub(super) fn spare(&self, shards: u32) -> u32 {
        u32::try_from(self.home.max(0)).unwrap_or(u32::MAX) / shards.max(1)
    }

    /// Notes that a shard may keep what it has.
    pub(super) fn let_keep(&mut self, shard: usize) {
        if let Some(side) = self.sides.get_mut(shard) {
            (side.keeps, side.told_us) = (true, 0);
        }
    }

    /// Calls unused credits back from every shard that may keep some. Whoever has requests in flight is told how often
    /// to report, too, and again when the mean service has become another.
    pub(super) fn recall(&mut self, ix: PoolIx, out: &mut Outbox) {
        let every = self.report_every();
        for (shard, side) in self.sides.iter_mut().enumerate() {
            let is_off = every.0 > side.told_us.saturating_mul(2) || every.0 < side.told_us / 2;
            if std::mem::take(&mut side.keeps) || (side.held > 0 && is_off) {
                side.told_us = every.0;
                out.push((shard, Down::Recall(ix, every)));
            }
        }
    }

    fn report_every(&self) -> ReportEvery {
        let (least, most) = REPORT_US;
        let every = (self.service_us.get() / REPORTS_PER_SERVICE).clamp(least, most);
        ReportEvery(u32::try_from(every).unwrap_or(u32::MAX))
    }

    /// Somebody waits. True if nobody did before.
    pub(super) fn contend(&mut self) -> bool {
        self.calm_since = None;
        self.tree.contend(true);
        !std::mem::replace(&mut self.contended, true)
    }

    /// True once nobody has waited for [`CALM`].
    pub(super) fn calm_down(&mut self, now: Instant) -> bool {
        if self.tree.least().is_some() {
            return false;
        }
        let since = *self.calm_since.get_or_insert(now);
        if now < since.plus(CALM) {
            return false;
        }
        self.contended = false;
        self.calm_since = None;
        self.tree.contend(false);
        true
    }

    /// When [`Pool::calm_down`] will be true, if nobody comes.
    pub(super) fn calms_at(&self) -> Option<Instant> {
        Some(self.calm_since?.plus(CALM))
    }

    /// Nobody waits any more: shards report at their own pace again.
    pub(super) fn relax(&mut self, ix: PoolIx, out: &mut Outbox) {
        for (shard, side) in self.sides.iter_mut().enumerate() {
            if std::mem::take(&mut side.told_us) > 0 {
                out.push((shard, Down::Recall(ix, ReportEvery(0))));
            }
        }
    }

    /// Hands most of the free credits to the shards that have used the pool, in proportion. Returns how many.
    pub(super) fn share_out(&mut self, ix: PoolIx, headroom: u32, out: &mut Outbox) -> u32 {
        let shards = u32::try_from(self.sides.len()).unwrap_or(u32::MAX);
        if !self.keeps_stock(shards) {
            return 0;
        }
        let all: u64 = self.sides.iter().map(|side| u64::from(side.recent)).sum();
        let free = u64::from(u32::try_from(self.home).unwrap_or(u32::MAX).min(headroom));
        let mut given = 0_u32;
        for shard in 0..self.sides.len() {
            let recent = self.sides.get_mut(shard).map_or(0, |side| std::mem::take(&mut side.recent));
            let part =
                free.saturating_mul(u64::from(recent)).checked_div(all.saturating_add(all / 4)).unwrap_or(0);
            let part = u32::try_from(part).unwrap_or(0);
            if part > 0 {
                self.hand_out(shard, part);
                self.let_keep(shard);
                out.push((shard, Down::Stock(ix, part)));
                given = given.saturating_add(part);
            }
        }
        given
    }

    /// Whether there is a credit and somebody to give it to.
    pub(super) fn can_grant(&self) -> bool {
        self.has_credit() && self.tree.least().is_some()
    }

    pub(super) fn has_credit(&self) -> bool {
        self.home > 0
    }

    /// The pool has shrunk below what the shards hold.
    pub(super) fn is_overdrawn(&self) -> bool {
        self.home < 0
    }

    /// Whether a shard keeps credits.
    pub(super) fn is_stocked(&self) -> bool {
        self.sides.iter().any(|side| side.keeps)
    }

    /// Whether a smaller part of this pool is in use than of the other.
    pub(super) fn is_emptier_than(&self, other: &Self) -> bool {
        let used = |pool: &Self| u64::from(pool.held());
        let size = |pool: &Self| u64::from(pool.size.unwrap_or(0));
        used(self).saturating_mul(size(other)) < used(other).saturating_mul(size(self))
    }

    /// Credits out of the house.
    pub(super) fn held(&self) -> u32 {
        self.sides.iter().map(|side| side.held).fold(0, u32::saturating_add)
    }

    pub(super) fn is_contended(&self) -> bool {
        self.contended
    }

    pub(super) fn queued(&self) -> u32 {
        self.tree.standing(Tree::ROOT).waiting
    }

    /// Mean time that a request holds a slot; `None` before the first has ended.
    pub(super) fn service(&self) -> Option<Duration> {
        Some(self.service_us.get()).filter(|us| *us > 0).map(Duration::from_micros)
    }

    fn known_of(&self, leaf: NodeIx) -> &[Known] {
        let shards = self.sides.len();
        let first = leaf.at().saturating_mul(shards);
        self.known.get(first..first.saturating_add(shards)).unwrap_or_default()
    }

    fn known_mut(&mut self, leaf: NodeIx, shard: usize) -> Option<&mut Known> {
        let shards = self.sides.len();
        if shard >= shards {
            return None;
        }
        self.known.get_mut(leaf.at().saturating_mul(shards).saturating_add(shard))
    }
}
