//! The tickets that wait: one table for the process, in it a chain per leaf in the order of arrival.
//!
//! It exists because a ticket is reached in three ways: as the first of its leaf, by the name that its shard gave it,
//! and by being one of a dead shard's. All but the last cost the same however many wait.

use super::pool::Chain;
use crate::{
    fairness::NodeIx,
    id::PoolIx,
    protocol::{Ticket, TicketId},
    unit::Instant,
};

/// Place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TicketIx(u32);

/// A ticket that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) shard: usize,
    pub(super) ticket: Ticket,
    pub(super) leaf: NodeIx,
    pub(super) arrived: Instant,
    /// How long it was expected to wait when it came.
    pub(super) predicted_ms: u32,
    before: Option<TicketIx>,
    after: Option<TicketIx>,
}

impl Waiting {
    pub(super) const fn new(shard: usize, ticket: Ticket, leaf: NodeIx, arrived: Instant) -> Self {
        Self { shard, ticket, leaf, arrived, predicted_ms: 0, before: None, after: None }
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Tickets {
    table: Vec<Option<Waiting>>,
    free: Vec<TicketIx>,
    /// Per shard: where the ticket of each of its places is.
    places: Vec<Vec<Option<TicketIx>>>,
}

impl Tickets {
    pub(super) fn new(shards: usize) -> Self {
        Self { table: Vec::new(), free: Vec::new(), places: vec![Vec::new(); shards] }
    }

    pub(super) fn add(&mut self, waiting: Waiting) -> TicketIx {
        let (shard, place) = (waiting.shard, waiting.ticket.id.place as usize);
        let ix = self.free.pop().unwrap_or_else(|| {
            self.table.push(None);
            TicketIx(u32::try_from(self.table.len().saturating_sub(1)).unwrap_or(u32::MAX))
        });
        if let Some(entry) = self.table.get_mut(ix.0 as usize) {
            *entry = Some(waiting);
        }
        if let Some(places) = self.places.get_mut(shard) {
            if places.len() <= place {
                places.resize(place.saturating_add(1), None);
            }
            if let Some(known) = places.get_mut(place) {
                *known = Some(ix);
            }
        }
        ix
    }

    pub(super) fn get(&self, ix: TicketIx) -> Option<&Waiting> {
        self.table.get(ix.0 as usize)?.as_ref()
    }

    fn get_mut(&mut self, ix: TicketIx) -> Option<&mut Waiting> {
        self.table.get_mut(ix.0 as usize)?.as_mut()
    }

    pub(super) fn expect(&mut self, ix: TicketIx, predicted_ms: u32) {
        if let Some(waiting) = self.get_mut(ix) {
            waiting.predicted_ms = predicted_ms;
        }
    }

    /// The ticket that a shard calls this, if it still waits.
    pub(super) fn find(&self, shard: usize, id: TicketId) -> Option<TicketIx> {
        let ix = (*self.places.get(shard)?.get(id.place as usize)?)?;
        (self.get(ix)?.ticket.id == id).then_some(ix)
    }

    /// Takes a ticket out that stands in no chain any more.
    pub(super) fn remove(&mut self, ix: TicketIx) -> Option<Waiting> {
        let waiting = self.table.get_mut(ix.0 as usize)?.take()?;
        self.free.push(ix);
        let place = waiting.ticket.id.place as usize;
        if let Some(known) = self.places.get_mut(waiting.shard).and_then(|places| places.get_mut(place)) {
            *known = None;
        }
        Some(waiting)
    }

    /// Every ticket of a shard, in the order of the table.
    pub(super) fn of_shard(&self, shard: usize) -> Vec<TicketIx> {
        self.places.get(shard).into_iter().flatten().filter_map(|ix| *ix).collect()
    }

    /// Every ticket of a pool, in the order of the table; for pools that close.
    pub(super) fn of_pool(&self, pool: PoolIx) -> Vec<TicketIx> {
        let numbered = (0_u32..).map(TicketIx).zip(&self.table);
        let of_it = |entry: &Option<Waiting>| entry.is_some_and(|waiting| waiting.ticket.leaf.pool == pool);
        numbered.filter(|(_, entry)| of_it(entry)).map(|(ix, _)| ix).collect()
    }

    pub(super) fn chain(&mut self, chain: &mut Chain, ix: TicketIx) {
        let last = chain.last;
        if let Some(waiting) = self.get_mut(ix) {
            (waiting.before, waiting.after) = (last, None);
        }
        match last {
            Some(last) => {
                if let Some(last) = self.get_mut(last) {
                    last.after = Some(ix);
                }
            }
            None => chain.first = Some(ix),
        }
        chain.last = Some(ix);
    }

    pub(super) fn unchain(&mut self, chain: &mut Chain, ix: TicketIx) {
        let Some(Waiting { before, after, .. }) = self.get(ix).copied() else { return };
        match before {
            Some(before) => {
                if let Some(before) = self.get_mut(before) {
                    before.after = after;
                }
            }
            None => chain.first = after,
        }
        match after {
            Some(after) => {
                if let Some(after) = self.get_mut(after) {
                    after.before = before;
                }
            }
            None => chain.last = before,
        }
    }
}
