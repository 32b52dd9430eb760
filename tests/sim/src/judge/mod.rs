//! What has to hold, looked at after every event.
//!
//! | file | what |
//! |---|---|
//! | this one | what was found, and who is told of what |
//! | `slots` | never more in flight than there are slots; none free while somebody waits |
//! | `order` | every grant is for the least key, at every level |
//! | `bound` | siblings' service per weight, and how long the first of a queue waits |
//! | `ledger` | the tree's figures are what the shards have said |
//!
//! The judge keeps books of its own, from what was really asked and served. It reads the coordinator's view to compare,
//! and must never take anything from it on trust but who waits and who is at a cap.

mod bound;
mod ledger;
mod order;
mod slots;

use std::collections::BTreeMap;

use obleth_policy::{
    coordinator::LivePool,
    cost::Cost,
    protocol::{Down, TicketId, Up},
};

use self::{bound::Bounds, ledger::Ledger, slots::Slots};
use crate::{plan::Plan, world::Request};

/// Findings of one kind that are kept; more of them say nothing new.
const ENOUGH: usize = 5;

/// How long tickets of a key's former shape may still be under way.
const EDIT_NS: u64 = 1_000_000_000;

/// Which promise is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A credit was lost or made.
    Credits,
    /// More in flight than a pool or all pools together may have.
    OverSize,
    /// A slot was free for too long while somebody waited for it.
    Idle,
    /// Siblings are further apart than the bound.
    Bound,
    /// A grant was not for the least key, or not for the pool whose turn it was.
    Order,
    /// The first of a queue waited for more service than it may.
    Wait,
    /// The tree does not say what the shards have said.
    Ledger,
    /// A ticket was lost, or answered twice.
    Ticket,
    /// A core's books and its requests differ.
    Slot,
}

/// What a run has shown.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was broken: which promise, when in milliseconds, how.
    pub findings: Vec<(Kind, u64, String)>,
    /// Largest distance of two siblings, as part of the bound.
    pub bound: f64,
    /// Most service that the first of a queue waited for, as part of its bound.
    pub wait: f64,
    /// Requests.
    pub asked: u64,
    /// Leaves that cores have closed.
    pub closed: u64,
    /// Grants that were compared with their siblings' keys.
    pub grants: u64,
    /// Pairs of siblings that were compared, over all their spans.
    pub spans: u64,
}

/// Where the requests are, for whoever has only a ticket.
pub(crate) type Names<'a> = (&'a BTreeMap<(usize, u32, u32), usize>, &'a [Request]);

/// Tickets at the coordinator, by shard, place and turn: the request, and what it would be charged.
type Waiting = BTreeMap<(usize, u32, u32), (usize, Cost)>;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Judge {
    report: Report,
    now_ns: u64,
    edited_ns: u64,
    waiting: Waiting,
    slots: Slots,
    bounds: Bounds,
    ledger: Ledger,
    plan: Plan,
}

impl Judge {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            report: Report::default(),
            now_ns: 0,
            edited_ns: 0,
            waiting: BTreeMap::new(),
            slots: Slots::new(plan),
            bounds: Bounds::new(plan),
            ledger: Ledger::new(plan.shards),
            plan: plan.clone(),
        }
    }

    pub(crate) fn found(&mut self, kind: Kind, says: String) {
        if self.report.findings.iter().filter(|(known, ..)| *known == kind).count() < ENOUGH {
            self.report.findings.push((kind, self.now_ns / 1_000_000, says));
        }
    }

    pub(crate) fn report(self) -> Report {
        let (bound, wait, spans) = self.bounds.figures();
        Report { bound, wait, spans, ..self.report }
    }

    /// Tickets that the coordinator has not answered, with their shards.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (usize, TicketId)> + '_ {
        self.waiting.keys().map(|(shard, place, turn)| (*shard, TicketId { place: *place, turn: *turn }))
    }

    pub(crate) fn asked(&mut self, request: &Request) {
        self.report.asked += 1;
        self.bounds.asked(request);
    }

    pub(crate) fn started(&mut self, at: usize, request: &Request, now_ns: u64) {
        self.bounds.commit(at, request, None);
        self.slots.start(request.pool, now_ns);
    }

    pub(crate) fn delivered(&mut self, at: usize, request: &Request, before: Cost) {
        self.bounds.delivered(at, request, before);
        self.take_findings();
    }

    pub(crate) fn ended(&mut self, at: usize, now_ns: u64) {
        if let Some(pool) = self.bounds.pool_of(at) {
            self.slots.end(pool, now_ns);
        }
        self.bounds.uncommit(at);
    }

    /// A grant had no taker.
    pub(crate) fn uncommit(&mut self, at: usize, now_ns: u64) {
        self.bounds.uncommit(at);
        self.slots.disturbed(now_ns);
    }

    /// Something happened, or goes on until then, that takes longer than a grant.
    pub(crate) fn disturbed(&mut self, until_ns: u64) {
        self.slots.disturbed(until_ns);
    }

    /// The operator's wishes have changed.
    pub(crate) fn reshaped(&mut self, plan: &Plan, now_ns: u64) {
        self.plan = plan.clone();
        self.edited_ns = now_ns;
        self.slots.reshaped(plan, now_ns);
        self.bounds.reshaped(plan);
    }

    /// The coordinator reads this. `sent` is what was said, whatever the link made of it.
    pub(crate) fn heard(&mut self, shard: usize, sent: &Up, names: Names<'_>, now_ns: u64) {
        self.ledger.heard(shard, sent);
        match sent {
            Up::Hello(_) => self.buried(shard, names.1, now_ns),
            Up::Ticket(ticket) => {
                let name = (shard, ticket.id.place, ticket.id.turn);
                if let Some(at) = names.0.get(&name) {
                    self.waiting.insert(name, (*at, ticket.estimate));
                    self.bounds.estimated(&names.1[*at], ticket.estimate);
                }
            }
            Up::Withdraw(id) => {
                self.waiting.remove(&(shard, id.place, id.turn));
            }
            Up::Pool(pool, totals) => self.bounds.learn(pool.at(), shard, totals),
            Up::Leaf(totals) => self.report.closed += u64::from(totals.closes),
            Up::Told => {}
        }
    }

    /// What a shard had is gone for the coordinator.
    pub(crate) fn buried(&mut self, shard: usize, requests: &[Request], now_ns: u64) {
        self.ledger.buried(shard);
        self.bounds.buried(shard, requests);
        self.waiting.retain(|(on, _, _), _| *on != shard);
        self.slots.disturbed(now_ns);
    }

    /// The coordinator knows nothing any more.
    pub(crate) fn forgot(&mut self, now_ns: u64) {
        self.ledger = Ledger::new(self.plan.shards);
        self.waiting.clear();
        self.bounds.forgot();
        self.slots.disturbed(now_ns);
    }

    /// A ticket is answered outside of a decision.
    pub(crate) fn answered(&mut self, shard: usize, down: &Down) {
        if let Down::Refuse { ticket, .. } = down {
            self.waiting.remove(&(shard, ticket.place, ticket.turn));
        }
    }

    /// How everybody stands, before or after a decision.
    pub(crate) fn standing(&mut self, live: &[LivePool], now_ns: u64) {
        self.now_ns = now_ns;
        if let Some(says) = self.ledger.differs(live) {
            self.found(Kind::Ledger, says);
        }
        self.slots.standing(live, now_ns);
        self.bounds.standing(live);
        self.take_findings();
    }

    /// What was decided, in order.
    pub(crate) fn decided(&mut self, before: &[LivePool], out: &[(usize, Down)], names: Names<'_>) {
        let edited = self.now_ns < self.edited_ns + EDIT_NS;
        let (grants, wrong) = order::check(before, out, names, (&self.plan, &self.waiting, edited));
        self.report.grants += grants;
        for says in wrong {
            self.found(Kind::Order, says);
        }
        for (shard, down) in out {
            self.answered(*shard, down);
            let Down::Grant { ticket, .. } = down else { continue };
            let name = (*shard, ticket.place, ticket.turn);
            let Some((at, estimate)) = self.waiting.remove(&name) else {
                self.found(Kind::Ticket, format!("a grant for a ticket that does not wait: {name:?}"));
                continue;
            };
            let request = &names.1[at];
            self.ledger.granted(*shard, request, estimate);
            self.bounds.granted(at, request);
            self.bounds.commit(at, request, Some(estimate));
        }
        self.take_findings();
    }

    pub(crate) fn in_flight(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        if let Some((kind, says)) = self.slots.check(now_ns) {
            self.found(kind, says);
        }
    }

    fn take_findings(&mut self) {
        for (kind, says) in self.bounds.take_findings() {
            self.found(kind, says);
        }
    }
}
