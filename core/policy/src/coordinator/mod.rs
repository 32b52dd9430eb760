//! Who gets the next free slot, over all cores: the books of the coordinator.
//!
//! The shards' messages go in one by one ([`Coordinator::take`]); then [`Coordinator::decide`] grants what can be
//! granted and says what goes down to the shards. While nobody waits, shards live on credits that they keep; the first
//! request that finds none calls the unused ones back, and from then on every credit that falls free comes here and goes
//! to the waiting request with the least service per weight, whichever core it waits on.
//!
//! | file | what |
//! |---|---|
//! | this one | messages in, decisions out |
//! | `pool` | one pool: its credits, its tree, its shards' totals |
//! | `queue` | the tickets that wait |
//! | `shape` | configuration, and what changes with it |
//! | `caps` | tenants and keys that may have only so many in flight |
//! | `forecast` | how long a ticket will wait |
//! | `live` | the view for operators |
//!
//! Pure: time comes in as a value. Everything in it is a function of the messages so far and their order. It must never
//! hand out a credit that it does not have.

mod caps;
mod forecast;
mod live;
mod pool;
mod queue;
mod shape;
#[cfg(test)]
mod tests;

use std::time::Duration;

use self::{caps::Caps, pool::Pools, queue::Tickets};
pub use self::{
    live::{Level, LiveNode, LivePool},
    shape::{GroupShape, PoolShape, Shares, TenantShape},
};
use crate::{
    fairness::NodeIx,
    id::PoolIx,
    protocol::{Down, LeafId, Refusal, Ticket, Up},
    unit::Instant,
};

/// How long nobody may have waited before the shards keep credits again.
const CALM: Duration = Duration::from_millis(10);

/// Limits of the queue.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tickets that may wait for one pool.
    pub queue: u32,
    /// Tickets that may wait for one pool on one tenant's account.
    pub tenant_queue: u32,
}

/// What to send to which shard, in order.
pub type Outbox = Vec<(usize, Down)>;

/// What the coordinator knows of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shard {
    /// Nothing yet: it may hold credits, so nothing is granted until it has said so.
    Unheard,
    /// It is about to say what it holds, under this number.
    Greeting(u32),
    /// It lives, under this number.
    Alive(u32),
    /// It is dead, and holds nothing.
    Dead,
}

/// See the module's text. Owned by the coordinator's thread.
#[derive(Debug)]
pub struct Coordinator {
    limits: Limits,
    shards: Vec<Shard>,
    pools: Pools,
    shares: shape::Index,
    caps: Caps,
    tickets: Tickets,
    /// Pools with tickets.
    waiting: Vec<PoolIx>,
    /// Pools where somebody has waited a moment ago.
    contended: Vec<PoolIx>,
    /// Pools that shards keep credits of.
    stocked: Vec<PoolIx>,
    /// Credits that shards hold, over all pools.
    held: u64,
    /// Tickets that came since the last decision.
    fresh: Vec<queue::TicketIx>,
}

impl Coordinator {
    /// Books without an entry. Nothing is granted until every shard has said [`Up::Hello`] or is known to be dead, and
    /// [`Coordinator::configure`] has made the pools.
    #[must_use]
    pub fn new(shards: usize, limits: Limits) -> Self {
        Self {
            limits,
            shards: vec![Shard::Unheard; shards],
            pools: Pools::default(),
            shares: shape::Index::default(),
            caps: Caps::default(),
            tickets: Tickets::new(shards),
            waiting: Vec::new(),
            contended: Vec::new(),
            stocked: Vec::new(),
            held: 0,
            fresh: Vec::new(),
        }
    }

    /// One message of one shard, of the life that it had when it sent it.
    pub fn take(&mut self, now: Instant, (shard, life): (usize, u32), message: Up, out: &mut Outbox) {
        match message {
            Up::Hello(life) => {
                self.bury(shard);
                out.retain(|(to, _)| *to != shard);
                self.know(shard, Shard::Greeting(life));
            }
            _ if self.life(shard) != Some(life) => {}
            Up::Told => self.know(shard, Shard::Alive(life)),
            Up::Ticket(ticket) => self.queue(now, shard, ticket, out),
            Up::Withdraw(id) => {
                if let Some(ix) = self.tickets.find(shard, id) {
                    self.drop_ticket(ix);
                    out.push((shard, Down::Withdrawn(id)));
                }
            }
            Up::Leaf(totals) => {
                let leaf = self.leaf(totals.leaf, None);
                let Some(pool) = self.pools.of_mut(totals.leaf.pool) else { return };
                let change = pool.hear_leaf(shard, leaf, &totals);
                self.count_running(totals.leaf, change);
            }
            Up::Pool(ix, totals) => {
                let pool = self.pools.make(ix, self.shards.len());
                let change = pool.hear(shard, &totals);
                self.held = self.held.saturating_add_signed(change);
            }
        }
    }

    fn know(&mut self, shard: usize, state: Shard) {
        if let Some(known) = self.shards.get_mut(shard) {
            *known = state;
        }
    }

    /// This shard is gone: what it had is settled at its last word and its credits are free.
    pub fn bury(&mut self, shard: usize) {
        self.know(shard, Shard::Dead);
        for ix in self.tickets.of_shard(shard) {
            self.drop_ticket(ix);
        }
        for (_, pool) in self.pools.all_mut() {
            let freed = pool.bury(shard);
            self.held = self.held.saturating_sub(u64::from(freed));
        }
        self.recount_caps();
    }

    /// Grants what can be granted, calls credits back where they are missing, refuses whoever would wait too long.
    pub fn decide(&mut self, now: Instant, out: &mut Outbox) {
        if self.shards.iter().any(|shard| matches!(shard, Shard::Unheard | Shard::Greeting(_))) {
            return;
        }
        while let Some(pool) = self.next_pool() {
            self.grant(pool, out);
        }
        self.judge_fresh(out);
        self.tend_pools(now, out);
    }

    /// The life that messages to a shard are for; `None` while it has none.
    #[must_use]
    pub fn life(&self, shard: usize) -> Option<u32> {
        match self.shards.get(shard)? {
            Shard::Alive(life) | Shard::Greeting(life) => Some(*life),
            Shard::Unheard | Shard::Dead => None,
        }
    }

    /// When [`Coordinator::decide`] has to be called again, though nothing came in.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Instant> {
        self.contended.iter().filter_map(|ix| self.pools.of(*ix)?.calms_at()).min()
    }

    /// The pool whose turn it is: among those with a free credit and somebody to give it to, the one that uses the
    /// least part of its size. `None` when there is no such pool, or the ceiling is reached.
    fn next_pool(&self) -> Option<PoolIx> {
        if self.held >= u64::from(self.shares.ceiling) {
            return None;
        }
        let ready = self.waiting.iter().filter_map(|ix| Some((*ix, self.pools.of(*ix)?)));
        let ready = ready.filter(|(_, pool)| pool.can_grant());
        ready.reduce(|a, b| if b.1.is_emptier_than(a.1) { b } else { a }).map(|(ix, _)| ix)
    }

    fn grant(&mut self, at: PoolIx, out: &mut Outbox) {
        let Some(pool) = self.pools.of_mut(at) else { return };
        let Some(leaf) = pool.tree.least() else { return };
        let Some(ix) = pool.first_ticket(leaf) else { return };
        let Some(waiting) = self.tickets.get(ix).copied() else { return };
        let standing = pool.standing(leaf);
        pool.grant(ix, &waiting, &mut self.tickets);
        self.tickets.remove(ix);
        self.held = self.held.saturating_add(1);
        let shard = waiting.shard;
        let capped = self.count_running(waiting.ticket.leaf, 1);
        out.push((
            shard,
            Down::Grant { ticket: waiting.ticket.id, predicted_ms: waiting.predicted_ms, standing },
        ));
        self.close_queue(at);
        self.stock_up(at, shard, capped, out);
    }

    /// After a grant while nobody else waits: some more, so that the shard need not ask for each.
    fn stock_up(&mut self, at: PoolIx, shard: usize, capped: bool, out: &mut Outbox) {
        let shards = u32::try_from(self.shards.len()).unwrap_or(u32::MAX);
        let headroom = u64::from(self.shares.ceiling).saturating_sub(self.held);
        let Some(pool) = self.pools.of_mut(at) else { return };
        if capped || !self.waiting.is_empty() || !pool.keeps_stock(shards) {
            return;
        }
        let credits = pool.spare(shards).min(u32::try_from(headroom / u64::from(shards)).unwrap_or(u32::MAX));
        if credits > 0 {
            pool.hand_out(shard, credits);
            pool.let_keep(shard);
            self.held = self.held.saturating_add(u64::from(credits));
            out.push((shard, Down::Stock(at, credits)));
            if !self.stocked.contains(&at) {
                self.stocked.push(at);
            }
        }
    }

    /// Looks at the tickets that came last: those that still wait are told if they would wait too long.
    fn judge_fresh(&mut self, out: &mut Outbox) {
        let mut fresh = std::mem::take(&mut self.fresh);
        for ix in fresh.drain(..) {
            let Some(waiting) = self.tickets.get(ix) else { continue };
            let (shard, ticket) = (waiting.shard, waiting.ticket);
            let wait_ms = self.forecast(ticket.leaf, waiting.leaf);
            let why = match ticket.reject_over_ms {
                Some(limit) if wait_ms > limit => Some(Refusal::Brownout),
                _ if wait_ms > ticket.patience_ms => Some(Refusal::Unmeetable),
                _ => None,
            };
            match why {
                Some(why) => {
                    self.drop_ticket(ix);
                    out.push((shard, Down::Refuse { ticket: ticket.id, why, retry_after_ms: wait_ms }));
                }
                None => self.tickets.expect(ix, wait_ms),
            }
        }
        self.fresh = fresh;
    }

    /// How long a ticket at the end of this leaf's chain will wait, in milliseconds.
    fn forecast(&self, id: LeafId, leaf: NodeIx) -> u32 {
        self.pools.of(id.pool).map_or(0, |pool| forecast::wait_ms(pool, leaf, self.most_at_once(id)))
    }

    /// Pools that somebody waits for call their credits back; pools where nobody has waited for a while hand them out.
    fn tend_pools(&mut self, now: Instant, out: &mut Outbox) {
        let mut is_short = false;
        for ix in &self.waiting {
            let Some(pool) = self.pools.of_mut(*ix) else { continue };
            if pool.tree.least().is_none() {
                continue;
            }
            is_short |= pool.has_credit();
            pool.recall(*ix, out);
            if pool.contend() {
                self.contended.push(*ix);
            }
        }
        let is_over = self.held > u64::from(self.shares.ceiling);
        let pools = &mut self.pools;
        self.stocked.retain(|ix| {
            let Some(pool) = pools.of_mut(*ix) else { return false };
            // Somebody waits though his pool has a credit: the ceiling is reached, and others sit on its room. Or it
            // was lowered to less than what the shards hold.
            if is_short || is_over || pool.is_overdrawn() {
                pool.recall(*ix, out);
            }
            pool.is_stocked()
        });
        let mut headroom = u64::from(self.shares.ceiling).saturating_sub(self.held);
        let (held, stocked) = (&mut self.held, &mut self.stocked);
        self.contended.retain(|ix| {
            let Some(pool) = pools.of_mut(*ix) else { return false };
            if !pool.calm_down(now) {
                return true;
            }
            pool.relax(*ix, out);
            let given = u64::from(pool.share_out(*ix, u32::try_from(headroom).unwrap_or(u32::MAX), out));
            *held = held.saturating_add(given);
            headroom = headroom.saturating_sub(given);
            if given > 0 && !stocked.contains(ix) {
                stocked.push(*ix);
            }
            false
        });
    }

    fn queue(&mut self, now: Instant, shard: usize, ticket: Ticket, out: &mut Outbox) {
        let leaf = self.leaf(ticket.leaf, Some(ticket.shape));
        let limits = self.limits;
        let Some(pool) = self.pools.of_mut(ticket.leaf.pool) else { return };
        if let Some(why) = pool.refuses(leaf, limits) {
            let retry_after_ms = self.forecast(ticket.leaf, leaf);
            out.push((shard, Down::Refuse { ticket: ticket.id, why, retry_after_ms }));
            return;
        }
        let ix = self.tickets.add(queue::Waiting::new(shard, ticket, leaf, now));
        pool.enqueue(leaf, ix, &mut self.tickets);
        self.fresh.push(ix);
        if !self.waiting.contains(&ticket.leaf.pool) {
            self.waiting.push(ticket.leaf.pool);
        }
    }

    /// A ticket waits no more and was not granted.
    fn drop_ticket(&mut self, ix: queue::TicketIx) {
        let Some(waiting) = self.tickets.get(ix) else { return };
        let (at, leaf) = (waiting.ticket.leaf.pool, waiting.leaf);
        if let Some(pool) = self.pools.of_mut(at) {
            pool.unqueue(leaf, ix, &mut self.tickets);
        }
        self.tickets.remove(ix);
        self.close_queue(at);
    }

    fn close_queue(&mut self, at: PoolIx) {
        if self.pools.of(at).is_none_or(|pool| pool.queued() == 0) {
            self.waiting.retain(|ix| *ix != at);
        }
    }
}
