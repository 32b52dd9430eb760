//! What a core holds, what it has charged to whom, and what of that has been reported.
//!
//! Totals grow from the core's last `Hello` on; a report is the totals as they are. What is urgent goes out at once:
//! credits that somebody may wait for. Service is reported at the pace that the coordinator asked for, or ten times a
//! second while nobody waits.

use std::collections::VecDeque;

use foldhash::HashMap;

use super::{
    Ask, Counted, Slot,
    lengths::{Density, Lengths, Usual},
};
use crate::{
    cost::Cost,
    id::PoolIx,
    protocol::{LeafId, LeafTotals, PoolTotals, ReportEvery, Up},
    unit::Instant,
};

/// Pace of reports while nobody waits.
const SLACK: std::time::Duration = std::time::Duration::from_millis(100);
/// A leaf that nothing has run of for this long may be forgotten.
const KEEP: std::time::Duration = std::time::Duration::from_secs(10);

/// One pool, as this core has it.
#[derive(Clone, Copy, Debug, Default)]
struct PoolSide {
    /// Credits held, used or not.
    held: u32,
    in_use: u32,
    /// Unused credits stay here.
    keeps: bool,
    /// Pace of reports, in microseconds; zero while nobody waits.
    every_us: u32,
    totals: PoolTotals,
    /// What of the totals' cost was output.
    output: Cost,
    dirty: bool,
    /// Running requests whose cost cannot be seen as it grows.
    silent: u32,
    lengths: Lengths,
    usual: Usual,
    density: Density,
}

/// One leaf's account.
#[derive(Clone, Copy, Debug)]
struct Leaf {
    totals: LeafTotals,
    lengths: Lengths,
    /// Tickets whose answer is still to come.
    tickets: u32,
    dirty: bool,
    used_at: Instant,
    open: bool,
}

/// One running request.
#[derive(Clone, Copy, Debug)]
struct Run {
    leaf: u32,
    input: Cost,
    /// What it is charged beyond what it has brought, until it ends.
    ahead: Cost,
    charged: Cost,
    /// What its backend counted, where it did.
    counted: Option<Counted>,
    began: Instant,
    streams: bool,
    /// The coordinator counts it against a cap.
    capped: bool,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Books {
    pools: Vec<PoolSide>,
    leaves: Vec<Leaf>,
    by_id: HashMap<LeafId, u32>,
    free_leaves: Vec<u32>,
    sweep: usize,
    runs: Vec<Option<Run>>,
    free_runs: Vec<u32>,
    dirty_leaves: Vec<u32>,
    dirty_pools: Vec<PoolIx>,
    urgent: bool,
    due: Option<Instant>,
}

impl Books {
    /// The leaf's account, opened if need be.
    pub(super) fn open(&mut self, now: Instant, id: LeafId, outbox: &mut VecDeque<Up>) -> u32 {
        if let Some(leaf) = self.by_id.get(&id) {
            return *leaf;
        }
        self.forget(now, outbox);
        let lengths = self.pool(id.pool).lengths;
        let totals = LeafTotals {
            leaf: id,
            settled: Cost(0),
            outstanding: Cost(0),
            running: 0,
            granted: 0,
            granted_cost: Cost(0),
            closes: false,
        };
        let leaf = Leaf { totals, lengths, tickets: 0, dirty: false, used_at: now, open: true };
        let at =
            self.free_leaves.pop().unwrap_or_else(|| u32::try_from(self.leaves.len()).unwrap_or(u32::MAX));
        match self.leaves.get_mut(at as usize) {
            Some(known) => *known = leaf,
            None => self.leaves.push(leaf),
        }
        self.by_id.insert(id, at);
        at
    }

    /// Closes accounts that nothing has been charged to for a while; looks at two of them for each that is opened.
    fn forget(&mut self, now: Instant, outbox: &mut VecDeque<Up>) {
        for _ in 0..2 {
            self.sweep = if self.sweep >= self.leaves.len() { 0 } else { self.sweep.saturating_add(1) };
            let Some(leaf) = self.leaves.get_mut(self.sweep) else { continue };
            let idle = leaf.open && !leaf.dirty && leaf.tickets == 0 && leaf.totals.running == 0;
            if idle && now.since(leaf.used_at) >= KEEP {
                leaf.open = false;
                outbox.push_back(Up::Leaf(LeafTotals { closes: true, ..leaf.totals }));
                self.by_id.remove(&leaf.totals.leaf);
                self.free_leaves.push(u32::try_from(self.sweep).unwrap_or(u32::MAX));
            }
        }
    }

    /// What a request of this leaf is charged at its start.
    pub(super) fn estimate(&self, leaf: u32, input: Cost) -> Cost {
        let Some(leaf) = self.leaves.get(leaf as usize) else { return input };
        input.plus(leaf.lengths.low().max(self.ahead(leaf.totals.leaf.pool)))
    }

    fn ahead(&self, pool: PoolIx) -> Cost {
        self.pools.get(pool.at()).map_or(Cost(0), |side| side.usual.ahead())
    }

    /// A ticket of this leaf is under way.
    pub(super) fn keep_open(&mut self, leaf: u32) {
        if let Some(leaf) = self.leaves.get_mut(leaf as usize) {
            leaf.tickets = leaf.tickets.saturating_add(1);
        }
    }

    /// A ticket of this leaf is done with.
    pub(super) fn let_close(&mut self, id: LeafId) {
        let Some(leaf) = self.by_id.get(&id).and_then(|at| self.leaves.get_mut(*at as usize)) else { return };
        leaf.tickets = leaf.tickets.saturating_sub(1);
    }

    /// Takes a credit that lies here.
    pub(super) fn take_credit(&mut self, pool: PoolIx) -> bool {
        let side = self.pool(pool);
        let is_free = side.in_use < side.held;
        if is_free {
            side.in_use = side.in_use.saturating_add(1);
        }
        is_free
    }

    /// A credit came with a grant for this leaf; it is in use from now on.
    pub(super) fn receive(&mut self, now: Instant, leaf: u32, estimate: Cost) {
        let Some(account) = self.leaves.get_mut(leaf as usize) else { return };
        account.totals.granted = account.totals.granted.wrapping_add(1);
        account.totals.granted_cost = account.totals.granted_cost.plus(estimate);
        let pool = account.totals.leaf.pool;
        let side = self.pool(pool);
        side.held = side.held.saturating_add(1);
        side.in_use = side.in_use.saturating_add(1);
        self.dirty(now, leaf);
    }

    /// A request begins on a credit that is in use.
    pub(super) fn start(&mut self, now: Instant, leaf: u32, ask: &Ask, estimate: Cost) -> Slot {
        let run = Run {
            leaf,
            input: ask.input,
            ahead: self.ahead(ask.leaf.pool),
            charged: estimate,
            counted: None,
            began: now,
            streams: ask.streams,
            capped: ask.capped,
        };
        if !ask.streams {
            let side = self.pool(ask.leaf.pool);
            side.silent = side.silent.saturating_add(1);
        }
        if let Some(account) = self.leaves.get_mut(leaf as usize) {
            account.totals.outstanding = account.totals.outstanding.plus(estimate);
            account.totals.running = account.totals.running.saturating_add(1);
        }
        self.dirty(now, leaf);
        let at = self.free_runs.pop().unwrap_or_else(|| u32::try_from(self.runs.len()).unwrap_or(u32::MAX));
        match self.runs.get_mut(at as usize) {
            Some(free) => *free = Some(run),
            None => self.runs.push(Some(run)),
        }
        Slot { pool: ask.leaf.pool, run: at }
    }

    /// The input of a running request, now that it is known.
    pub(super) fn learn_input(&mut self, run: u32, counted: Counted) {
        if let Some(Some(run)) = self.runs.get_mut(run as usize) {
            run.input = counted.cost;
            run.counted = Some(counted);
        }
    }

    /// How many tokens a request of so many bytes will have, as those of its pool went before it.
    pub(super) fn guess_tokens(&self, pool: PoolIx, bytes: u64) -> u64 {
        self.pools.get(pool.at()).map_or_else(Density::default, |side| side.density).tokens(bytes)
    }

    /// A running request has cost this much so far.
    pub(super) fn progress(&mut self, now: Instant, run: u32, cost: Cost) {
        let Some(Some(run)) = self.runs.get_mut(run as usize) else { return };
        let charge = cost.plus(run.ahead);
        if charge <= run.charged {
            return;
        }
        let more = charge.minus(run.charged);
        run.charged = charge;
        let leaf = run.leaf;
        if let Some(account) = self.leaves.get_mut(leaf as usize) {
            account.totals.outstanding = account.totals.outstanding.plus(more);
        }
        self.dirty(now, leaf);
    }

    /// A request has ended. One that brought no tokens is charged for the time that it held its slot.
    pub(super) fn end(&mut self, now: Instant, slot: Slot, cost: Cost) {
        let Some(run) = self.take_run(&slot) else { return };
        let held_us = u64::try_from(now.since(run.began).as_micros()).unwrap_or(u64::MAX);
        let side = self.pool(slot.pool);
        if let Some(counted) = run.counted {
            side.density.learn(counted.tokens, counted.bytes);
        }
        if cost == Cost(0) {
            // Of its kind, as a failure is, nothing is to be learnt.
            let worth = side.worth(held_us).max(Cost::TOKEN);
            if let Some(account) = self.leaves.get_mut(run.leaf as usize) {
                account.totals.settled = account.totals.settled.plus(worth);
            }
            return self.finish(now, slot.pool, &run);
        }
        let output = cost.minus(run.input);
        side.totals.finished = side.totals.finished.wrapping_add(1);
        side.totals.service_us = side.totals.service_us.saturating_add(held_us);
        side.totals.cost = side.totals.cost.plus(cost);
        side.output = side.output.plus(output);
        side.lengths.learn(output);
        side.usual.learn(output);
        if let Some(account) = self.leaves.get_mut(run.leaf as usize) {
            account.totals.settled = account.totals.settled.plus(cost);
            account.lengths.learn(output);
        }
        self.finish(now, slot.pool, &run);
    }

    /// A request that was granted has left before it began: nothing is charged.
    pub(super) fn give_back(&mut self, now: Instant, slot: Slot) {
        if let Some(run) = self.take_run(&slot) {
            self.finish(now, slot.pool, &run);
        }
    }

    fn take_run(&mut self, slot: &Slot) -> Option<Run> {
        let run = self.runs.get_mut(slot.run as usize)?.take()?;
        self.free_runs.push(slot.run);
        Some(run)
    }

    fn finish(&mut self, now: Instant, pool: PoolIx, run: &Run) {
        if let Some(account) = self.leaves.get_mut(run.leaf as usize) {
            account.totals.outstanding = account.totals.outstanding.minus(run.charged);
            account.totals.running = account.totals.running.saturating_sub(1);
            account.used_at = now;
        }
        self.dirty(now, run.leaf);
        if !run.streams {
            let side = self.pool(pool);
            side.silent = side.silent.saturating_sub(1);
        }
        self.return_credit(now, pool, run.capped);
    }

    /// A credit falls free: it stays here, or goes back at once, as one does whose taker the coordinator counts.
    pub(super) fn return_credit(&mut self, now: Instant, pool: PoolIx, capped: bool) {
        let side = self.pool(pool);
        side.in_use = side.in_use.saturating_sub(1);
        if capped || !side.keeps {
            side.held = side.held.saturating_sub(1);
            side.totals.returned = side.totals.returned.wrapping_add(1);
            self.urgent = true;
        }
        self.dirty_pool(now, pool);
    }

    /// Credits to keep.
    pub(super) fn stock(&mut self, pool: PoolIx, credits: u32) {
        let side = self.pool(pool);
        side.held = side.held.saturating_add(credits);
        side.keeps = true;
        side.every_us = 0;
    }

    /// Unused credits go back, and service is reported at this pace.
    pub(super) fn recall(&mut self, now: Instant, pool: PoolIx, every: ReportEvery) {
        let side = self.pool(pool);
        side.keeps = false;
        side.every_us = every.0;
        let unused = side.held.saturating_sub(side.in_use);
        side.held = side.in_use;
        side.totals.returned = side.totals.returned.wrapping_add(unused);
        self.urgent = true;
        self.dirty_pool(now, pool);
    }

    /// Totals begin at zero, with what runs now.
    pub(super) fn begin_again(&mut self, outbox: &mut VecDeque<Up>) {
        for (at, side) in self.pools.iter_mut().enumerate() {
            side.held = side.in_use;
            side.keeps = false;
            side.totals = PoolTotals { brought: side.held, ..PoolTotals::default() };
            side.output = Cost(0);
            side.dirty = false;
            if side.held > 0 {
                outbox.push_back(Up::Pool(PoolIx(u32::try_from(at).unwrap_or(u32::MAX)), side.totals));
            }
        }
        for leaf in self.leaves.iter_mut().filter(|leaf| leaf.open) {
            let LeafTotals { leaf: id, outstanding, running, closes, .. } = leaf.totals;
            let (settled, granted, granted_cost) = (Cost(0), 0, Cost(0));
            leaf.totals =
                LeafTotals { leaf: id, settled, outstanding, running, granted, granted_cost, closes };
            leaf.dirty = false;
            if running > 0 {
                outbox.push_back(Up::Leaf(leaf.totals));
            }
        }
        self.dirty_leaves.clear();
        self.dirty_pools.clear();
        (self.urgent, self.due) = (false, None);
    }

    /// Puts what has to be said now behind what waits in `outbox`.
    pub(super) fn report(&mut self, now: Instant, outbox: &mut VecDeque<Up>) {
        if !self.urgent && self.due.is_none_or(|due| now < due) {
            return;
        }
        (self.urgent, self.due) = (false, None);
        self.extrapolate(now);
        for leaf in self.dirty_leaves.drain(..) {
            if let Some(leaf) = self.leaves.get_mut(leaf as usize)
                && std::mem::take(&mut leaf.dirty)
            {
                outbox.push_back(Up::Leaf(leaf.totals));
            }
        }
        for ix in self.dirty_pools.drain(..) {
            if let Some(side) = self.pools.get_mut(ix.at()) {
                side.dirty = false;
                outbox.push_back(Up::Pool(ix, side.totals));
            }
        }
        let paces =
            self.pools.iter().filter(|side| side.silent > 0 && side.every_us > 0).map(|side| side.every_us);
        self.due = paces.min().map(|every| now.plus(std::time::Duration::from_micros(u64::from(every))));
    }

    /// Charges requests whose output cannot be seen for what the pool puts out in their time, while somebody waits. Their
    /// input was charged at the start: it takes no time that would tell anything about the output.
    fn extrapolate(&mut self, now: Instant) {
        if !self.pools.iter().any(|side| side.silent > 0 && side.every_us > 0) {
            return;
        }
        for run in 0..self.runs.len() {
            let Some(Some(Run { leaf, input, began, streams: false, .. })) = self.runs.get(run).copied()
            else {
                continue;
            };
            let Some(pool) = self.leaves.get(leaf as usize).map(|leaf| leaf.totals.leaf.pool) else {
                continue;
            };
            let side = self.pool(pool);
            if side.every_us == 0 {
                continue;
            }
            let output = side.puts_out(u64::try_from(now.since(began).as_micros()).unwrap_or(u64::MAX));
            self.progress(now, u32::try_from(run).unwrap_or(u32::MAX), input.plus(output));
        }
    }

    pub(super) const fn is_urgent(&self) -> bool {
        self.urgent
    }

    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn in_use(&self, pool: PoolIx) -> u32 {
        self.pools.get(pool.at()).map_or(0, |side| side.in_use)
    }

    pub(super) fn held(&self, pool: PoolIx) -> u32 {
        self.pools.get(pool.at()).map_or(0, |side| side.held)
    }

    fn pool(&mut self, ix: PoolIx) -> &mut PoolSide {
        if self.pools.len() <= ix.at() {
            self.pools.resize(ix.at().saturating_add(1), PoolSide::default());
        }
        // The table was made long enough.
        &mut self.pools[ix.at()]
    }

    fn dirty(&mut self, now: Instant, leaf: u32) {
        let Some(account) = self.leaves.get_mut(leaf as usize) else { return };
        let pool = account.totals.leaf.pool;
        if !std::mem::replace(&mut account.dirty, true) {
            self.dirty_leaves.push(leaf);
        }
        self.expect_report(now, pool);
    }

    fn dirty_pool(&mut self, now: Instant, pool: PoolIx) {
        if !std::mem::replace(&mut self.pool(pool).dirty, true) {
            self.dirty_pools.push(pool);
        }
        self.expect_report(now, pool);
    }

    fn expect_report(&mut self, now: Instant, pool: PoolIx) {
        let every = match self.pools.get(pool.at()).map_or(0, |side| side.every_us) {
            0 => SLACK,
            us => std::time::Duration::from_micros(u64::from(us)),
        };
        let due = now.plus(every);
        self.due = Some(self.due.map_or(due, |known| known.min(due)));
    }
}

impl PoolSide {
    /// What a slot of this pool yields in so many microseconds.
    fn worth(&self, held_us: u64) -> Cost {
        // Before anything is known of the pool, a token for each millisecond.
        self.part(self.totals.cost, held_us).unwrap_or(Cost(held_us))
    }

    /// What of that is output, as far as anything is known.
    fn puts_out(&self, held_us: u64) -> Cost {
        self.part(self.output, held_us).unwrap_or_default()
    }

    fn part(&self, of: Cost, held_us: u64) -> Option<Cost> {
        let part = u128::from(of.0) * u128::from(held_us);
        let part = part.checked_div(u128::from(self.totals.service_us))?;
        Some(Cost(u64::try_from(part).unwrap_or(u64::MAX)))
    }
}
