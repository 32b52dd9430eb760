//! Who is next, with many who wait: the tree of virtual times alone, and the whole coordinator around it.
//!
//! So many tenants wait all the time, with one request each; that is the dear case, because every grant takes a tenant
//! out of the queue and every end puts one in. One operation is a whole turn: the oldest request ends and is paid for,
//! its tenant waits again, and whoever is next gets the slot. [`grants`] has the last part alone.

use std::collections::VecDeque;

use obleth_policy::{
    coordinator::{Coordinator, GroupShape, Limits, Outbox, PoolShape, Shares, TenantShape},
    cost::Cost,
    fairness::{NodeIx, Tree},
    id::{GroupIx, TenantIx},
    protocol::{Down, KeyShape, LeafTotals, PoolTotals, Ticket, TicketId, Up},
    unit::Instant,
};

use crate::{
    measure::Loop,
    workload::{Lengths, POOL, leaf, weight},
};

/// Requests in flight.
pub(crate) const SLOTS: u32 = 64;
/// Groups that the tenants are in.
const GROUPS: u32 = 4;
/// What is charged at a grant.
const ESTIMATE: Cost = Cost(50_000);

/// A tree with so many tenants that wait for their `backlog` requests each.
fn queued(tenants: u32, backlog: u32) -> Tree {
    let mut tree = Tree::new();
    tree.contend(true);
    let groups: Vec<_> = (0..GROUPS).map(|_| tree.add(Tree::ROOT, 100)).collect();
    for tenant in 0..tenants {
        let node = tree.add(groups[(tenant / 4 % GROUPS) as usize], weight(tenant));
        let leaf = tree.add(node, 100);
        (0..backlog).for_each(|_| tree.wait(leaf));
    }
    tree
}

fn next(tree: &mut Tree) -> NodeIx {
    let next = tree.least().expect("somebody waits");
    tree.grant(next, ESTIMATE);
    next
}

/// A loop of turns of the tree, with so many tenants that wait for their `backlog` requests each.
pub(crate) fn tree(tenants: u32, backlog: u32) -> Loop {
    let mut tree = queued(tenants + SLOTS, backlog);
    let mut running: VecDeque<NodeIx> = (0..SLOTS).map(|_| next(&mut tree)).collect();
    let mut lengths = Lengths::new();
    Box::new(move |turns| {
        for _ in 0..turns {
            let (oldest, cost) = (running.pop_front().expect("somebody runs"), lengths.next());
            tree.charge(oldest, cost.0, Cost(0).since(ESTIMATE));
            tree.release(oldest, 1);
            tree.wait(oldest);
            running.push_back(next(&mut tree));
        }
    })
}

/// A loop of nothing but grants to so many tenants, whose queues never get shorter.
pub(crate) fn grants(tenants: u32) -> Loop {
    let mut tree = queued(tenants, 2);
    Box::new(move |grants| {
        for _ in 0..grants {
            let leaf = next(&mut tree);
            tree.wait(leaf);
        }
    })
}

/// A loop of turns of the coordinator: what a shard says of the request that ended and of the one that waits now goes
/// in, a grant comes out.
pub(crate) fn coordinator(tenants: u32) -> Loop {
    let mut rig = Rig::new(tenants + SLOTS);
    Box::new(move |turns| (0..turns).for_each(|_| rig.turn()))
}

/// How slots are divided among so many tenants.
pub(crate) fn shares(tenants: u32, slots: u32, weight: fn(u32) -> u32) -> Shares {
    let tenant = |at| TenantShape {
        tenant: TenantIx(at),
        group: GroupIx(at / 4 % GROUPS),
        weight: weight(at),
        max_in_flight: None,
    };
    Shares {
        ceiling: u32::MAX,
        pools: vec![PoolShape { pool: POOL, max_in_flight: slots }],
        groups: (0..GROUPS).map(|at| GroupShape { group: GroupIx(at), weight: 100 }).collect(),
        tenants: (0..tenants).map(tenant).collect(),
    }
}

/// No queue is ever full here.
pub(crate) const LIMITS: Limits = Limits { queue: u32::MAX, tenant_queue: u32::MAX };

/// A coordinator, and what its only shard would say.
struct Rig {
    now: Instant,
    coordinator: Coordinator,
    out: Outbox,
    leaves: Vec<LeafTotals>,
    pool: PoolTotals,
    running: VecDeque<u32>,
    lengths: Lengths,
}

impl Rig {
    fn new(tenants: u32) -> Self {
        let totals = |tenant| LeafTotals {
            leaf: leaf(tenant),
            settled: Cost(0),
            outstanding: Cost(0),
            running: 0,
            granted: 0,
            granted_cost: Cost(0),
            closes: false,
        };
        let mut rig = Self {
            now: Instant(1_000_000_000),
            coordinator: Coordinator::new(1, LIMITS),
            out: Outbox::new(),
            leaves: (0..tenants).map(totals).collect(),
            pool: PoolTotals::default(),
            running: VecDeque::new(),
            lengths: Lengths::new(),
        };
        rig.coordinator.configure(&shares(tenants, SLOTS, weight), &mut rig.out);
        rig.say(Up::Hello(1));
        rig.say(Up::Told);
        (0..tenants).for_each(|tenant| rig.wait(tenant));
        rig.decide();
        rig
    }

    fn say(&mut self, up: Up) {
        self.coordinator.take(self.now, (0, 1), up, &mut self.out);
    }

    fn wait(&mut self, tenant: u32) {
        let turn = self.leaves[tenant as usize].granted;
        self.say(Up::Ticket(Ticket {
            id: TicketId { place: tenant, turn },
            leaf: leaf(tenant),
            shape: KeyShape::default(),
            estimate: ESTIMATE,
            patience_ms: u32::MAX,
            reject_over_ms: None,
        }));
    }

    fn decide(&mut self) {
        self.coordinator.decide(self.now, &mut self.out);
        for (_, down) in self.out.drain(..) {
            let Down::Grant { ticket, .. } = down else { continue };
            let totals = &mut self.leaves[ticket.place as usize];
            totals.granted += 1;
            totals.granted_cost = totals.granted_cost.plus(ESTIMATE);
            totals.outstanding = totals.outstanding.plus(ESTIMATE);
            totals.running += 1;
            self.running.push_back(ticket.place);
        }
    }

    fn turn(&mut self) {
        self.now = Instant(self.now.0 + 1_000_000);
        let (tenant, cost) =
            (self.running.pop_front().expect("every turn has its grant"), self.lengths.next());
        let totals = &mut self.leaves[tenant as usize];
        totals.settled = totals.settled.plus(cost);
        totals.outstanding = totals.outstanding.minus(ESTIMATE);
        totals.running -= 1;
        let totals = *totals;
        self.pool.returned += 1;
        self.pool.finished += 1;
        self.pool.cost = self.pool.cost.plus(cost);
        self.pool.service_us += u64::from(SLOTS) * 1000;
        self.say(Up::Leaf(totals));
        self.say(Up::Pool(POOL, self.pool));
        self.wait(tenant);
        self.decide();
    }
}
