//! What is counted, and what is forgotten.

use obleth_policy::id::{GroupIx, ModelId, TenantId};
use uuid::Uuid;

use super::*;

const POOL: PoolIx = PoolIx(3);

/// A history on a clock of its own, with names for whatever comes.
struct Rig {
    history: History,
    directory: Directory,
    start: Instant,
    now: Instant,
}

fn tenant(ix: u32, settled: u64, outstanding: u64) -> LiveNode {
    let standing = Standing {
        weight: 100,
        settled: Cost(settled),
        outstanding: Cost(outstanding),
        running: u32::from(outstanding > 0),
        ..Standing::default()
    };
    LiveNode { level: Level::Tenant(GroupIx::DEFAULT, TenantIx(ix)), standing, oldest_wait_ms: None }
}

fn look(life: u64, nodes: Vec<LiveNode>) -> Look {
    let running = nodes.iter().map(|node| node.standing.running).sum();
    let pool = LivePool {
        pool: POOL,
        max_in_flight: 8,
        held: running,
        running,
        waiting: 0,
        contended: false,
        nodes,
    };
    Look { life, pools: vec![pool].into() }
}

impl Rig {
    fn new(tenants: u32) -> Self {
        let mut directory = Directory::default();
        directory.note_pool(POOL, ModelId(Uuid::nil()), "m");
        for ix in 0..tenants {
            directory.note_tenant(TenantIx(ix), TenantId(Uuid::from_u128(ix.into())), &format!("t{ix}"));
        }
        let start = Instant::now();
        Self { history: History::new(start), directory, start, now: start }
    }

    fn record(&mut self, after_secs: u64, look: &Look) -> bool {
        self.now += Duration::from_secs(after_secs);
        self.history.record(look, &self.directory, (self.now, UnixMs(0)))
    }

    /// What each sample says was served.
    fn served(&self) -> Vec<u64> {
        self.history.samples.iter().map(|sample| sample.pools[0].served.0).collect()
    }
}

#[test]
fn samples_add_up_to_what_was_served_also_over_refunds_and_idle_times() {
    let mut rig = Rig::new(1);
    let mut totals = vec![(0, 500), (0, 900), (700, 0), (700, 600), (1400, 0), (1400, 0), (1500, 0)];
    totals.dedup();
    for (settled, outstanding) in totals {
        rig.record(2, &look(1, vec![tenant(0, settled, outstanding)]));
    }
    assert!(!rig.record(60, &look(1, vec![tenant(0, 1500, 0)])), "nothing happened");
    assert!(rig.record(2, &look(1, vec![tenant(0, 1600, 0)])));
    assert_eq!(rig.served(), [500, 400, 400, 100, 100, 100]);
    assert_eq!(rig.history.series()["t0"], Cost(1600));
    let covered: Duration = rig.history.samples.iter().map(|sample| sample.covers).sum();
    assert!(covered <= rig.now - rig.start);
}

#[test]
fn a_coordinator_that_starts_again_begins_at_zero_and_an_older_ones_past_is_not_counted() {
    let mut rig = Rig::new(1);
    rig.record(2, &look(0, vec![tenant(0, 5000, 7)]));
    assert_eq!(rig.served(), [0], "it ran before this sidecar did");
    rig.record(2, &look(0, vec![tenant(0, 6000, 0)]));
    rig.record(2, &look(1, vec![tenant(0, 6500, 0)]));
    assert_eq!(rig.served(), [0, 993, 6500]);
    rig.record(2, &look(1, vec![tenant(0, 40, 0)]));
    assert_eq!(rig.served(), [0, 993, 6500, 40], "its place was given away and taken again");
}

#[test]
fn a_share_is_of_the_last_ten_seconds_however_long_nothing_happened() {
    let mut rig = Rig::new(1);
    let since = |rig: &Rig, total| {
        rig.history.base(1, rig.now).served_since(POOL, Who::Tenant(TenantIx(0)), Cost(total)).0
    };
    assert_eq!(since(&rig, 70), 70, "before the first sample everything counts");
    for second in 1..=20 {
        rig.record(1, &look(1, vec![tenant(0, second * 100, 0)]));
        assert!(rig.history.recent.len() <= 12);
    }
    assert_eq!(since(&rig, 2000), 1000);
    rig.now += Duration::from_secs(3600);
    assert_eq!(since(&rig, 2100), 100, "the last sample is the base");
    let other_life = rig.history.base(2, rig.now).served_since(POOL, Who::Tenant(TenantIx(0)), Cost(5));
    assert_eq!(other_life, Cost(5));
}

#[test]
fn samples_and_their_rows_are_bounded_and_those_with_most_stay() {
    let most = MOST_ROWS as u32;
    let mut rig = Rig::new(most + 50);
    for round in 1..=MOST_SAMPLES as u64 + 5 {
        let nodes = (0..most + 50).map(|ix| tenant(ix, round * u64::from(ix + 1) * 1000, 0)).collect();
        rig.record(2, &look(1, nodes));
    }
    assert_eq!(rig.history.samples().len(), MOST_SAMPLES);
    let newest = rig.history.samples.back().unwrap();
    let rows = newest.tenants(0);
    assert_eq!(rows.len(), MOST_ROWS);
    assert!(rows.iter().all(|row| row.served >= Cost(51_000)), "the smallest are left out");
    let all: u64 = (1..=u64::from(most) + 50).map(|n| n * 1000).sum();
    assert_eq!(newest.pools[0].served, Cost(all), "and counted with their pool");
    assert!(newest.tenants(1).is_empty());
}

#[test]
fn series_are_bounded_add_up_and_never_shrink() {
    let most = MOST_SERIES as u32;
    let mut rig = Rig::new(most + 2);
    rig.directory.note_tenant(TenantIx(0), TenantId(Uuid::nil()), OTHERS);
    let nodes = |cost| (0..most + 2).map(|ix| tenant(ix, cost, 0)).collect::<Vec<_>>();
    rig.record(2, &look(1, nodes(10)));
    let before: BTreeMap<String, Cost> =
        rig.history.series().into_iter().map(|(name, cost)| (name.to_owned(), cost)).collect();
    assert_eq!(before.len(), MOST_SERIES);
    assert_eq!(before[OTHERS], Cost(30), "the tenant of this name, and two without room");
    rig.record(2, &look(1, nodes(25)));
    let after = rig.history.series();
    assert!(before.iter().all(|(name, cost)| after[name.as_str()] >= *cost));
    assert_eq!(after.values().map(|cost| cost.0).sum::<u64>(), 25 * u64::from(most + 2));
}
