//! Gate 12: a slot for the request.
//!
//! The decision is [`obleth_policy::admission`]'s; here it becomes a [`Permit`], the guard that gives the slot
//! back exactly once, whatever happens to the request.

use std::rc::Rc;

use obleth_policy::{
    admission::{Slot, Verdict},
    outcome::Code,
};

use super::{Stop, ask::Asked};
use crate::shard::Shard;

/// A slot in use. Owned by the request, on its shard's thread; dropping it releases the slot at once.
#[derive(Debug)]
pub(crate) struct Permit {
    shard: Rc<Shard>,
    slot: Option<Slot>,
}

/// A request that may run now.
#[derive(Debug)]
pub(crate) struct Admitted<'p> {
    pub(crate) asked: Asked<'p>,
    pub(crate) permit: Permit,
}

pub(super) fn admit<'p>(shard: &Rc<Shard>, asked: Asked<'p>) -> Result<Admitted<'p>, Stop> {
    if shard.draining.get() {
        return Err(Code::Draining.into());
    }
    let Verdict::Granted(slot) = shard.admission.borrow_mut().ask(asked.ticket);
    let gauges = shard.end.gauges();
    gauges.in_flight.add(1);
    if let Some(count) = gauges.pool_in_flight(slot.pool) {
        count.add(1);
    }
    Ok(Admitted { asked, permit: Permit { shard: Rc::clone(shard), slot: Some(slot) } })
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let gauges = self.shard.end.gauges();
        gauges.in_flight.sub(1);
        if let Some(count) = gauges.pool_in_flight(slot.pool) {
            count.sub(1);
        }
        self.shard.admission.borrow_mut().release(slot);
        if self.shard.draining.get() {
            self.shard.stir();
        }
    }
}
