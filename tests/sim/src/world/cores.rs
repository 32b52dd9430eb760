//! The shards: what each does when it is woken, and what it says.

use obleth_policy::{
    admission::Admission,
    protocol::{Down, Up},
};

use super::{Event, Stage, World};
use crate::{fault::Fault, plan::Plan, ring::Ring};

/// One core, and the rings between it and the coordinator.
#[derive(Debug)]
pub(super) struct Core {
    /// `None` while its thread is dead.
    pub(super) admission: Option<Admission>,
    pub(super) up: Ring<Up>,
    pub(super) down: Ring<Down>,
    /// It does nothing until then.
    pub(super) stalled_ns: u64,
    /// Something is left to say: its ring was full.
    pub(super) unsaid: bool,
    wakes_ns: u64,
    /// Requests in flight at the backend, by pool.
    pub(super) running: Vec<u32>,
    /// Requests with a slot whose task has not run yet, by pool.
    pub(super) ready: Vec<u32>,
    /// A credit that was lost stays lost: totals that are said later lack it too.
    lost: u32,
}

impl Core {
    pub(super) fn new(plan: &Plan, life: u32) -> Self {
        Self {
            admission: Some(Admission::new(life)),
            up: Ring::new(plan.ring, plan.delay_ns),
            down: Ring::new(plan.ring, plan.delay_ns),
            stalled_ns: 0,
            unsaid: false,
            wakes_ns: 0,
            running: vec![0; plan.pools.len()],
            ready: vec![0; plan.pools.len()],
            lost: 0,
        }
    }
}

impl World {
    /// Puts off what a stalled shard should do now.
    pub(super) fn defer(&mut self, shard: usize, event: Event) -> bool {
        let until_ns = self.cores[shard].stalled_ns;
        let stalls = until_ns > self.now.0;
        if stalls {
            self.plan_at(until_ns, event);
        }
        stalls
    }

    pub(super) fn wake_core(&mut self, shard: usize) {
        if self.cores[shard].admission.is_none() || self.defer(shard, Event::Core(shard)) {
            return;
        }
        while let Some(letter) = self.cores[shard].down.pop(self.now.0) {
            if !self.pending.is_empty() || self.resync.contains(&true) {
                self.plan_at(self.now.0, Event::Desk);
            }
            let Some(admission) = self.cores[shard].admission.as_mut() else { return };
            let current = letter.life == admission.life();
            match letter.comes {
                Some(Down::Resync) => {
                    self.lives += 1;
                    admission.hello(self.lives);
                }
                Some(down) => {
                    let over = admission.obey(self.now, letter.life, down);
                    if let (Down::Grant { ticket, .. }, true) = (down, current) {
                        self.arrived(shard, ticket);
                        if self.breaks(Fault::DoubleCredit)
                            && let Some(admission) = self.cores[shard].admission.as_mut()
                        {
                            let pool = self.plan.tenants[0].pools[0];
                            let stock = Down::Stock(obleth_policy::id::PoolIx(pool), 1);
                            let _ = admission.obey(self.now, letter.life, stock);
                        }
                    }
                    if let Some(ticket) = over {
                        self.call(shard, ticket, matches!(down, Down::Grant { .. }));
                    }
                }
                None => {}
            }
        }
        self.speak(shard);
    }

    /// A grant has come to its core; nobody may be there to take it.
    fn arrived(&mut self, shard: usize, ticket: obleth_policy::protocol::TicketId) {
        let Some(at) = self.names.get(&(shard, ticket.place, ticket.turn)).copied() else { return };
        if matches!(self.requests[at].stage, Stage::Ended | Stage::Running(_)) {
            if matches!(self.requests[at].stage, Stage::Ended) {
                self.judge.uncommit(at, self.now.0);
            }
            self.judge.disturbed(self.now.0);
        }
    }

    /// A shard has done something: it says what must not wait, and plans to say the rest.
    pub(super) fn speak(&mut self, shard: usize) {
        let now = self.now;
        let Some(mut admission) = self.cores[shard].admission.take() else { return };
        let is_due = admission.reports_at().is_some_and(|at| at <= now);
        if admission.is_urgent() || is_due {
            let life = admission.life();
            let said = admission.say(now, |up| self.put_up(shard, life, up));
            self.cores[shard].unsaid = !said;
            if !said {
                self.judge.disturbed(now.0);
            }
        }
        let next = admission.reports_at().filter(|_| !self.cores[shard].unsaid);
        if let Some(at) = next {
            let core = &mut self.cores[shard];
            if core.wakes_ns <= now.0 || core.wakes_ns > at.0 {
                core.wakes_ns = at.0.max(now.0 + 1);
                self.plan_at(at.0.max(now.0 + 1), Event::Core(shard));
            }
        }
        self.cores[shard].admission = Some(admission);
    }

    fn put_up(&mut self, shard: usize, life: u32, up: Up) -> Result<(), Up> {
        if self.cores[shard].up.is_full() {
            return Err(up);
        }
        let comes = self.spoil_up(shard, up);
        let arrives_ns = self.cores[shard].up.push(self.now.0, &mut self.random, life, (up, comes));
        self.plan_at(arrives_ns, Event::Desk);
        Ok(())
    }

    fn spoil_up(&mut self, shard: usize, up: Up) -> Option<Up> {
        match up {
            Up::Ticket(_) if self.breaks(Fault::LoseTicket) => None,
            Up::Leaf(mut totals) if self.fault == Some(Fault::WrongTotals) => {
                totals.settled.0 += 1000;
                Some(Up::Leaf(totals))
            }
            Up::Pool(pool, mut totals) if totals.returned > 5 && self.fault == Some(Fault::LoseReturn) => {
                self.cores[shard].lost = 1;
                totals.returned -= self.cores[shard].lost;
                Some(Up::Pool(pool, totals))
            }
            up => Some(up),
        }
    }
}
