//! A core's decision to start a request: a ticket goes in, a slot comes out.
//!
//! At present every ticket is granted at once and the table only counts what is in flight. The words are the
//! scheduler's already: a [`Ticket`] says who asks for which pool, a [`Verdict`] answers it, and a [`Slot`]
//! must come back exactly once. The guard that makes sure of that lives with the sockets
//! (`Permit` in the data plane), because releasing is an effect.

use crate::id::{PoolIx, TenantIx};

/// A request that asks for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The slots it competes for.
    pub pool: PoolIx,
    /// On whose account.
    pub tenant: TenantIx,
}

/// The answer to a ticket.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Start now.
    Granted(Slot),
}

/// The right to have one request in flight in a pool. Not `Clone`: it goes back once.
#[derive(Debug, PartialEq, Eq)]
pub struct Slot {
    /// The pool it belongs to.
    pub pool: PoolIx,
}

/// One core's view of its pools. Owned by the shard, touched by no other thread.
#[derive(Debug, Default)]
pub struct Admission {
    in_flight: Vec<u32>,
}

impl Admission {
    /// Answers a ticket.
    pub fn ask(&mut self, ticket: Ticket) -> Verdict {
        let at = ticket.pool.at();
        if self.in_flight.len() <= at {
            self.in_flight.resize(at.saturating_add(1), 0);
        }
        if let Some(count) = self.in_flight.get_mut(at) {
            *count = count.saturating_add(1);
        }
        Verdict::Granted(Slot { pool: ticket.pool })
    }

    /// Takes a slot back.
    pub fn release(&mut self, slot: Slot) {
        if let Some(count) = self.in_flight.get_mut(slot.pool.at()) {
            debug_assert!(*count > 0, "a slot came back that was never granted");
            *count = count.saturating_sub(1);
        }
    }

    /// Requests in flight in `pool` on this core.
    #[must_use]
    pub fn in_flight(&self, pool: PoolIx) -> u32 {
        self.in_flight.get(pool.at()).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_that_goes_out_comes_back_and_pools_do_not_mix() {
        let mut admission = Admission::default();
        let (a, b) = (PoolIx(0), PoolIx(7));
        let Verdict::Granted(first) = admission.ask(Ticket { pool: b, tenant: TenantIx(0) });
        let Verdict::Granted(second) = admission.ask(Ticket { pool: b, tenant: TenantIx(1) });
        assert_eq!((admission.in_flight(a), admission.in_flight(b)), (0, 2));
        admission.release(first);
        admission.release(second);
        assert_eq!(admission.in_flight(b), 0);
    }
}
