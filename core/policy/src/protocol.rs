//! What shards and the coordinator say to each other, and in which order it holds.
//!
//! A *slot credit* is the right to have one request in flight in a pool. Credits are conserved: what the shards hold,
//! what is under way and what the coordinator keeps is the pool's size, so no pool is ever over it.
//!
//! - Every [`Up::Ticket`] gets exactly one answer: [`Down::Grant`], [`Down::Refuse`], or, once its
//!   [`Up::Withdraw`] was read, [`Down::Withdrawn`]. A grant that crosses a withdrawal brings a credit that nobody takes:
//!   the shard gives it to the next ticket of the same key, or sends it back.
//! - A shard keeps unused credits only in a pool that it was sent [`Down::Stock`] for, and until [`Down::Recall`].
//! - [`LeafTotals`] and [`PoolTotals`] are totals since the shard's [`Up::Hello`], not differences: one that is sent
//!   late, merged with the next or sent twice changes nothing but time.
//! - A shard numbers its lives. Whatever comes from an earlier life than the last `Hello`'s, or goes to one, is void.
//!   After a `Hello` come the credits that the shard holds, its leaves, and its tickets again; then [`Up::Told`]. Until
//!   then nothing is granted to anybody.
//!
//! Links are lossless and keep the order; a full one refuses, and the sender keeps what it has to say.

use crate::{
    cost::Cost,
    id::{KeyId, PoolIx, TenantIx},
};

/// On whose account a request runs: a leaf of a pool's tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeafId {
    /// Whose slots.
    pub pool: PoolIx,
    /// Whose tenant.
    pub tenant: TenantIx,
    /// Whose key.
    pub key: KeyId,
}

/// What a key brings to the tree; the rest of the way up is configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyShape {
    /// Its share against the tenant's other keys; 1 or more.
    pub weight: u32,
    /// Requests that it may have in flight, over all pools; `None` is no limit.
    pub max_in_flight: Option<u32>,
}

impl Default for KeyShape {
    fn default() -> Self {
        Self { weight: 100, max_in_flight: None }
    }
}

/// A ticket, as its shard knows it. The place is used again, under another turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TicketId {
    /// Place in the shard's table.
    pub place: u32,
    /// How often the place was used.
    pub turn: u32,
}

/// A request that cannot start from what its shard holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Unique in the shard as long as it is not answered.
    pub id: TicketId,
    /// On whose account.
    pub leaf: LeafId,
    /// What its key brings.
    pub shape: KeyShape,
    /// What is charged at its grant: the low end of what it may cost.
    pub estimate: Cost,
    /// How long it may wait from now on, in milliseconds.
    pub patience_ms: u32,
    /// Refuse it rather than let it wait this long, in milliseconds; the tenant's brownout policy.
    pub reject_over_ms: Option<u32>,
}

/// Why a ticket is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The pool has no slots at all: `pool_closed`.
    PoolClosed,
    /// Too many wait for the pool, or of the tenant: `queue_full`.
    QueueFull,
    /// It would wait longer than it may: `deadline_unmeetable`.
    Unmeetable,
    /// It would wait longer than its tenant's policy lets it: `brownout`.
    Brownout,
}

/// What a shard knows of a leaf since its `Hello`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafTotals {
    /// Which leaf.
    pub leaf: LeafId,
    /// What ended requests cost.
    pub settled: Cost,
    /// What is charged for running ones.
    pub outstanding: Cost,
    /// Requests in flight.
    pub running: u32,
    /// Grants for this leaf that arrived, taken or not; wraps.
    pub granted: u32,
    /// The sum of their estimates.
    pub granted_cost: Cost,
    /// The shard forgets the leaf: its totals begin at zero again.
    pub closes: bool,
}

/// What a shard knows of a pool since its `Hello`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolTotals {
    /// Credits held at the `Hello`.
    pub brought: u32,
    /// Credits sent back; wraps.
    pub returned: u32,
    /// Requests ended; wraps.
    pub finished: u32,
    /// How long they held their slots together, in microseconds.
    pub service_us: u64,
    /// What they cost together.
    pub cost: Cost,
}

/// What goes up to the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Up {
    /// A life begins, under this number; nothing from before holds.
    Hello(u32),
    /// Everything that it holds has been said.
    Told,
    /// This request waits.
    Ticket(Ticket),
    /// This ticket's client has left, or its time is up.
    Withdraw(TicketId),
    /// Service of a leaf.
    Leaf(LeafTotals),
    /// Credits and service of a pool.
    Pool(PoolIx, PoolTotals),
}

/// What goes down to a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// A credit, for this ticket.
    Grant {
        /// Which.
        ticket: TicketId,
        /// How long it was expected to wait when it came, in milliseconds.
        predicted_ms: u32,
        /// How far ahead of its fair share its tenant is, in requests; below zero it is behind.
        standing: i32,
    },
    /// No, and when it might be worth another try.
    Refuse {
        /// Which.
        ticket: TicketId,
        /// Why.
        why: Refusal,
        /// Until its turn would have come, in milliseconds.
        retry_after_ms: u32,
    },
    /// The withdrawal of this ticket was in time.
    Withdrawn(TicketId),
    /// Credits to keep, used or not.
    Stock(PoolIx, u32),
    /// Somebody waits: unused credits go back, and so does every one that falls free. Service is reported at this pace.
    Recall(PoolIx, ReportEvery),
    /// The coordinator has lost its books: say `Hello` again.
    Resync,
}

/// Longest time between two reports of a leaf's service, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportEvery(pub u32);
