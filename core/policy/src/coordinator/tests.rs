//! The coordinator with real cores beside it and links that take no time.

use std::time::Duration;

use uuid::Uuid;

use super::*;
use crate::{
    admission::{Admission, Ask, Slot, Verdict, Wait},
    cost::Cost,
    id::{GroupIx, KeyId, TenantIx},
    protocol::{KeyShape, LeafId, TicketId},
};

const POOL: PoolIx = PoolIx(0);

/// A process: its cores, its coordinator, its clock.
struct Rig {
    now: Instant,
    shares: Shares,
    coordinator: Coordinator,
    shards: Vec<Admission>,
    running: Vec<Vec<(u32, Slot)>>,
    waiting: Vec<Vec<(u32, TicketId)>>,
    refused: Vec<(u32, Refusal, u32)>,
}

impl Rig {
    fn new(shards: usize, slots: u32, tenants: &[(u32, Option<u32>)]) -> Self {
        let limits = Limits { queue: 100, tenant_queue: 50 };
        let tenants = (0..).zip(tenants).map(|(at, (weight, max_in_flight))| TenantShape {
            tenant: TenantIx(at),
            group: GroupIx(0),
            weight: *weight,
            max_in_flight: *max_in_flight,
        });
        let shares = Shares {
            ceiling: 1000,
            pools: vec![PoolShape { pool: POOL, max_in_flight: slots }],
            groups: vec![GroupShape { group: GroupIx(0), weight: 100 }],
            tenants: tenants.collect(),
        };
        let mut rig = Self {
            now: Instant(1_000_000_000),
            coordinator: Coordinator::new(shards, limits),
            shards: (1..).take(shards).map(Admission::new).collect(),
            running: (0..shards).map(|_| Vec::new()).collect(),
            waiting: vec![Vec::new(); shards],
            refused: Vec::new(),
            shares,
        };
        rig.configure();
        rig.exchange();
        rig
    }

    fn configure(&mut self) {
        let mut out = Outbox::new();
        self.coordinator.configure(&self.shares.clone(), &mut out);
        self.deliver(out);
    }

    /// Messages go to and fro until nobody has anything to say.
    fn exchange(&mut self) {
        loop {
            let mut out = Outbox::new();
            for (at, shard) in self.shards.iter_mut().enumerate() {
                let life = shard.life();
                shard.say(self.now, |up| {
                    self.coordinator.take(self.now, (at, life), up, &mut out);
                    Ok(())
                });
            }
            self.coordinator.decide(self.now, &mut out);
            if out.is_empty() {
                return;
            }
            self.deliver(out);
        }
    }

    fn deliver(&mut self, out: Outbox) {
        for (at, down) in out {
            let life = self.coordinator.life(at).unwrap();
            let Some(ticket) = self.shards[at].obey(self.now, life, down) else { continue };
            let place = self.waiting[at].iter().position(|(_, id)| *id == ticket).unwrap();
            let (tenant, _) = self.waiting[at].remove(place);
            match self.shards[at].collect(ticket) {
                Wait::Granted { slot, .. } => self.running[at].push((tenant, slot)),
                Wait::Refused { why, retry_after_ms } => self.refused.push((tenant, why, retry_after_ms)),
                Wait::Waiting => unreachable!("the wait was said to be over"),
            }
        }
    }

    fn ask_with(&mut self, shard: usize, tenant: u32, edit: impl FnOnce(&mut Ask)) {
        let capped = self.shares.tenants[tenant as usize].max_in_flight.is_some();
        let leaf =
            LeafId { pool: POOL, tenant: TenantIx(tenant), key: KeyId(Uuid::from_u128(tenant.into())) };
        let mut ask = Ask {
            leaf,
            shape: KeyShape::default(),
            capped,
            input: Cost::TOKEN,
            streams: true,
            patience: Duration::from_secs(60),
            reject_over: None,
        };
        edit(&mut ask);
        match self.shards[shard].ask(self.now, &ask) {
            Verdict::Granted(slot) => self.running[shard].push((tenant, slot)),
            Verdict::Queued(id) => self.waiting[shard].push((tenant, id)),
        }
    }

    fn ask(&mut self, shard: usize, tenant: u32) {
        self.ask_with(shard, tenant, |_| ());
        self.exchange();
    }

    /// The oldest request of a shard ends.
    fn end(&mut self, shard: usize, cost: u64) -> u32 {
        let (tenant, slot) = self.running[shard].remove(0);
        self.shards[shard].release(self.now, slot, Cost(cost));
        self.exchange();
        tenant
    }

    fn in_flight(&self) -> usize {
        self.running.iter().map(Vec::len).sum()
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
        self.exchange();
    }
}

#[test]
fn a_lone_core_asks_once_and_then_lives_on_what_it_keeps() {
    let mut rig = Rig::new(1, 8, &[(100, None)]);
    rig.ask(0, 0);
    for _ in 0..7 {
        rig.ask_with(0, 0, |_| ());
        assert!(rig.waiting[0].is_empty(), "no hop while there is a credit");
    }
    rig.ask(0, 0);
    assert_eq!((rig.in_flight(), rig.waiting[0].len()), (8, 1));
    rig.end(0, 1000);
    assert_eq!((rig.in_flight(), rig.waiting[0].len()), (8, 0));
}

#[test]
fn a_pool_is_never_over_its_size_and_no_slot_stays_free_while_somebody_waits() {
    let mut rig = Rig::new(4, 10, &[(100, None), (100, None)]);
    for round in 0..40_usize {
        rig.ask(round % 4, round as u32 % 2);
        let waiting: usize = rig.waiting.iter().map(Vec::len).sum();
        assert_eq!((rig.in_flight(), waiting), ((round + 1).min(10), (round + 1).saturating_sub(10)));
    }
}

#[test]
fn slots_follow_the_weights_over_cores() {
    let mut rig = Rig::new(2, 8, &[(100, None), (300, None)]);
    for _ in 0..20 {
        rig.ask(0, 0);
        rig.ask(1, 1);
    }
    let mut ended = [0; 2];
    for round in 0..400 {
        let shard = if rig.running[round % 2].is_empty() { (round + 1) % 2 } else { round % 2 };
        let tenant = rig.end(shard, 10_000);
        ended[tenant as usize] += 1;
        rig.ask(tenant as usize, tenant);
        assert_eq!(rig.in_flight(), 8);
    }
    assert!((95..=110).contains(&ended[0]), "{ended:?}");
}

#[test]
fn after_a_calm_the_cores_keep_credits_again() {
    let mut rig = Rig::new(2, 8, &[(100, None)]);
    (0..10).for_each(|_| rig.ask(0, 0));
    for _ in 0..10 {
        rig.end(0, 1000);
    }
    assert_eq!(rig.in_flight(), 0);
    assert!(rig.coordinator.wakes_at().is_some());
    rig.pass(CALM);
    assert_eq!(rig.coordinator.wakes_at(), None, "an idle coordinator sleeps");
    rig.ask_with(0, 0, |_| ());
    assert_eq!(rig.in_flight(), 1, "from what the core keeps");
}

#[test]
fn a_withdrawn_request_is_never_started_and_its_grant_goes_to_the_next_of_its_key() {
    let mut rig = Rig::new(1, 1, &[(100, None), (100, None)]);
    (0..3).for_each(|_| rig.ask(0, 0));
    rig.ask(0, 1);
    let (_, first) = rig.waiting[0].remove(0);
    // The slot falls free and the grant is under way when the client leaves.
    let (_, slot) = rig.running[0].remove(0);
    rig.shards[0].release(rig.now, slot, Cost(1000));
    let mut out = Outbox::new();
    let life = rig.shards[0].life();
    rig.shards[0].say(rig.now, |up| {
        rig.coordinator.take(rig.now, (0, life), up, &mut out);
        Ok(())
    });
    rig.shards[0].withdraw(rig.now, first);
    rig.coordinator.decide(rig.now, &mut out);
    rig.deliver(out);
    rig.exchange();
    assert_eq!(rig.in_flight(), 1);
    while rig.in_flight() > 0 {
        rig.end(0, 1000);
    }
    assert_eq!(rig.waiting[0].len(), 0);
    let root = rig.coordinator.live(rig.now)[0].clone();
    assert_eq!((root.running, root.waiting, root.held), (0, 0, 0));
}

#[test]
fn a_tenant_at_its_cap_waits_while_others_go_on() {
    let mut rig = Rig::new(2, 8, &[(100, Some(2)), (100, None)]);
    (0..4).for_each(|at| rig.ask(at % 2, 0));
    assert_eq!(rig.in_flight(), 2);
    (0..6).for_each(|at| rig.ask(at % 2, 1));
    assert_eq!(rig.in_flight(), 8);
    rig.shares.tenants[0].max_in_flight = Some(3);
    rig.end(1, 1000);
    rig.configure();
    rig.exchange();
    let of_first = rig.running.iter().flatten().filter(|(tenant, _)| *tenant == 0).count();
    assert!((2..=3).contains(&of_first));
    rig.shares.tenants[0].max_in_flight = None;
    rig.configure();
    (0..6).for_each(|_| {
        let shard = usize::from(rig.running[0].is_empty());
        rig.end(shard, 1000);
    });
    assert!(rig.waiting.iter().all(Vec::is_empty));
}

#[test]
fn shrinking_a_pool_kills_nothing_and_growing_it_serves_at_once() {
    let mut rig = Rig::new(2, 8, &[(100, None)]);
    (0..12).for_each(|at| rig.ask(at % 2, 0));
    rig.shares.pools[0].max_in_flight = 4;
    rig.configure();
    rig.exchange();
    assert_eq!(rig.in_flight(), 8);
    for _ in 0..4 {
        let shard = usize::from(rig.running[0].is_empty());
        rig.end(shard, 1000);
    }
    assert_eq!(rig.in_flight(), 4);
    rig.shares.pools[0].max_in_flight = 7;
    rig.configure();
    rig.exchange();
    assert_eq!(rig.in_flight(), 7);
}

#[test]
fn a_closed_pool_refuses_those_who_wait_and_those_who_come() {
    let mut rig = Rig::new(1, 1, &[(100, None)]);
    (0..2).for_each(|_| rig.ask(0, 0));
    rig.shares.pools[0].max_in_flight = 0;
    rig.configure();
    rig.ask(0, 0);
    assert_eq!(rig.refused, [(0, Refusal::PoolClosed, 0), (0, Refusal::PoolClosed, 0)]);
    assert_eq!(rig.in_flight(), 1);
}

#[test]
fn a_full_queue_refuses_at_once_by_pool_and_by_tenant() {
    let mut rig = Rig::new(1, 1, &[(100, None), (100, None), (100, None)]);
    (0..52).for_each(|_| rig.ask(0, 0));
    assert_eq!(rig.refused.len(), 1);
    (0..50).for_each(|_| rig.ask(0, 1));
    rig.ask(0, 2);
    assert!(rig.refused.iter().all(|(_, why, _)| *why == Refusal::QueueFull));
    assert_eq!(rig.refused.len(), 2);
}

#[test]
fn who_would_wait_longer_than_it_may_is_told_at_once_and_when_to_come_back() {
    let mut rig = Rig::new(1, 2, &[(100, None)]);
    for _ in 0..3 {
        rig.ask(0, 0);
        rig.now = rig.now.plus(Duration::from_secs(10));
        rig.end(0, 100_000);
    }
    (0..8).for_each(|_| rig.ask(0, 0));
    assert!(rig.refused.is_empty());
    rig.ask_with(0, 0, |ask| ask.patience = Duration::from_secs(20));
    rig.exchange();
    let (_, why, retry_after_ms) = rig.refused[0];
    assert_eq!(why, Refusal::Unmeetable);
    assert!((30_000..=45_000).contains(&retry_after_ms), "{retry_after_ms}");
    rig.ask_with(0, 0, |ask| ask.reject_over = Some(Duration::from_secs(20)));
    rig.exchange();
    assert_eq!(rig.refused[1].1, Refusal::Brownout);
    rig.ask(0, 0);
    assert_eq!(rig.refused.len(), 2);
}

#[test]
fn a_dead_cores_credits_come_home_and_its_late_words_are_ignored() {
    let mut rig = Rig::new(2, 4, &[(100, None)]);
    (0..4).for_each(|_| rig.ask(0, 0));
    (0..3).for_each(|_| rig.ask(1, 0));
    let mut out = Outbox::new();
    rig.coordinator.bury(0);
    let (_, slot) = rig.running[0].remove(0);
    rig.shards[0].release(rig.now, slot, Cost(1000));
    let life = rig.shards[0].life();
    rig.shards[0].say(rig.now, |up| {
        rig.coordinator.take(rig.now, (0, life), up, &mut out);
        Ok(())
    });
    rig.coordinator.decide(rig.now, &mut out);
    rig.deliver(out);
    assert_eq!((rig.running[1].len(), rig.waiting[1].len()), (3, 0));
    rig.running[0].clear();
    rig.shards[0] = Admission::new(9);
    rig.exchange();
    rig.ask(0, 0);
    assert_eq!(rig.in_flight(), 4);
    rig.ask(0, 0);
    assert_eq!(rig.in_flight(), 4, "no credit was made out of nothing");
}

#[test]
fn a_coordinator_that_begins_anew_learns_what_the_cores_hold() {
    let mut rig = Rig::new(2, 4, &[(100, None), (100, None)]);
    (0..3).for_each(|at| rig.ask(at % 2, 0));
    (0..4).for_each(|at| rig.ask(at % 2, 1));
    rig.coordinator = Coordinator::new(2, Limits { queue: 100, tenant_queue: 50 });
    rig.configure();
    rig.shards[0].hello(11);
    rig.exchange();
    assert_eq!(rig.in_flight(), 4, "nothing is granted before everybody has spoken");
    rig.shards[1].hello(12);
    rig.exchange();
    assert_eq!(rig.in_flight(), 4);
    while rig.in_flight() > 0 {
        let shard = usize::from(rig.running[0].is_empty());
        rig.end(shard, 1000);
        assert!(rig.in_flight() <= 4);
    }
    assert!(rig.waiting.iter().all(Vec::is_empty), "every ticket was served");
}

#[test]
fn a_lowered_ceiling_holds_for_credits_that_cores_keep() {
    let mut rig = Rig::new(1, 40, &[(100, None)]);
    rig.ask(0, 0);
    rig.end(0, 1000);
    assert_eq!(rig.shards[0].held(POOL), 40);
    rig.shares.ceiling = 10;
    rig.configure();
    rig.exchange();
    (0..20).for_each(|_| rig.ask(0, 0));
    assert_eq!(rig.in_flight(), 10);
}

#[test]
fn every_core_reports_at_the_pace_of_a_pool_that_somebody_waits_for() {
    // Too small for cores to keep credits, so nothing is ever called back.
    let mut rig = Rig::new(2, 2, &[(100, None)]);
    (0..4).for_each(|at| rig.ask(at % 2, 0));
    for _ in 0..200 {
        rig.now = rig.now.plus(Duration::from_millis(200));
        for shard in 0..2 {
            rig.end(shard, 100_000);
            rig.ask(shard, 0);
        }
    }
    for shard in 0..2 {
        let (_, slot) = &rig.running[shard][0];
        rig.shards[shard].progress(rig.now, slot, Cost(50_000));
        let pace = rig.shards[shard].reports_at().map(|at| at.since(rig.now).as_millis());
        assert!(pace.is_some_and(|ms| (20..60).contains(&ms)), "a tenth of 400 ms, about: {pace:?}");
    }
}

#[test]
fn pools_take_turns_at_the_ceiling() {
    let mut rig = Rig::new(1, 100, &[(100, None)]);
    rig.shares.pools.push(PoolShape { pool: PoolIx(1), max_in_flight: 50 });
    rig.shares.ceiling = 30;
    rig.configure();
    for _ in 0..40 {
        rig.ask_with(0, 0, |_| ());
        rig.ask_with(0, 0, |ask| ask.leaf.pool = PoolIx(1));
    }
    rig.exchange();
    assert_eq!(rig.in_flight(), 30);
    let of_second = rig.running[0].iter().filter(|(_, slot)| slot.pool == PoolIx(1)).count();
    assert_eq!(of_second, 10, "in proportion to the sizes");
}

#[test]
fn who_finds_a_slot_is_never_one_too_many_in_the_queue() {
    let mut rig = Rig::new(1, 200, &[(100, None)]);
    (0..180).for_each(|_| rig.ask_with(0, 0, |_| ()));
    rig.exchange();
    assert_eq!((rig.in_flight(), rig.refused.len()), (180, 0), "they came in one batch");
}

#[test]
fn a_forecast_knows_the_cap() {
    let mut rig = Rig::new(1, 32, &[(100, Some(1))]);
    rig.ask(0, 0);
    rig.now = rig.now.plus(Duration::from_secs(10));
    rig.end(0, 100_000);
    (0..4).for_each(|_| rig.ask(0, 0));
    rig.ask_with(0, 0, |ask| ask.patience = Duration::from_secs(20));
    rig.exchange();
    let (_, why, retry_after_ms) = rig.refused[0];
    assert_eq!(why, Refusal::Unmeetable);
    assert!(retry_after_ms >= 30_000, "one after the other, ten seconds each: {retry_after_ms}");
}

#[test]
fn a_policy_of_not_waiting_is_given_as_the_reason() {
    let mut rig = Rig::new(1, 1, &[(100, None)]);
    rig.ask(0, 0);
    rig.now = rig.now.plus(Duration::from_secs(10));
    rig.end(0, 100_000);
    rig.ask(0, 0);
    let limit = Duration::from_millis(200);
    rig.ask_with(0, 0, |ask| (ask.patience, ask.reject_over) = (limit, Some(limit)));
    rig.exchange();
    assert_eq!(rig.refused[0].1, Refusal::Brownout);
}

#[test]
fn after_a_calm_cores_report_at_their_own_pace_again() {
    // Too small for cores to keep credits.
    let mut rig = Rig::new(2, 2, &[(100, None)]);
    for _ in 0..20 {
        (0..4).for_each(|at| rig.ask(at % 2, 0));
        rig.now = rig.now.plus(Duration::from_millis(20));
        while rig.in_flight() > 0 {
            let shard = usize::from(rig.running[0].is_empty());
            rig.end(shard, 20_000);
        }
    }
    rig.pass(CALM);
    rig.pass(Duration::from_secs(1));
    rig.ask_with(0, 0, |ask| ask.streams = false);
    rig.exchange();
    let pace = rig.shards[0].reports_at().map(|at| at.since(rig.now).as_millis());
    assert!(pace.is_none_or(|ms| ms >= 100), "{pace:?}");
}
