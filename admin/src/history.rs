//! Who was served how much: ten minutes in samples, the last seconds for shares, and totals for metrics.
//!
//! Fed with what the coordinator reports. Its totals grow, but for refunds of what was charged too much and for a new
//! life, which begins at zero; what is counted here only grows. Everything is bounded: samples by their number and
//! their rows, series of metrics by theirs.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use obleth_policy::{
    coordinator::{Level, LiveNode, LivePool},
    cost::Cost,
    fairness::Standing,
    id::{KeyId, PoolIx, TenantIx},
    unit::UnixMs,
};

use crate::{
    directory::{Directory, PoolLabel, TenantLabel},
    orders::Look,
};

/// Samples that are kept: ten minutes at one every two seconds.
const MOST_SAMPLES: usize = 300;
/// Tenants of one sample; those that had least are left out, and counted with their pool all the same.
const MOST_ROWS: usize = 200;
/// What a share is a share of: the service of this long.
const SHARE_SPAN: Duration = Duration::from_secs(10);
/// Tenants that have a series of their own in the metrics; the others share [`OTHERS`].
const MOST_SERIES: usize = 200;
const OTHERS: &str = "other";

/// See the module's text. Owned by the sampler.
#[derive(Debug)]
pub(crate) struct History {
    /// Of the coordinator whose totals these are.
    life: Option<u64>,
    tallies: HashMap<(PoolIx, TenantIx), Tally>,
    /// Oldest first; the first is the base of shares.
    recent: VecDeque<(Instant, Arc<Totals>)>,
    samples: VecDeque<Arc<Sample>>,
    /// What the last sample reaches to.
    sampled_to: Instant,
    series: HashMap<TenantIx, (Arc<TenantLabel>, Cost)>,
    others: Cost,
}

/// What was counted of a tenant in a pool.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    settled: Cost,
    counted: Cost,
}

/// A node that shares are shown of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    Tenant(TenantIx),
    Key(TenantIx, KeyId),
}

impl Who {
    /// `None` for a group: tenants move between them, so a group's share is that of its tenants.
    pub(crate) fn of(node: &LiveNode) -> Option<Self> {
        match node.level {
            Level::Group(_) => None,
            Level::Tenant(_, tenant) => Some(Self::Tenant(tenant)),
            Level::Key(tenant, key) => Some(Self::Key(tenant, key)),
        }
    }
}

/// Totals of all nodes at one time, in order.
#[derive(Debug)]
struct Totals(Vec<((PoolIx, Who), Cost)>);

/// What the service of the last seconds is measured from.
#[derive(Clone, Debug)]
pub(crate) struct Base(Option<Arc<Totals>>);

/// What happened since the sample before.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) at: UnixMs,
    /// Time since the sample before; longer than the usual where nothing happened for a while.
    pub(crate) covers: Duration,
    /// Those with anything in flight, queued or served.
    pub(crate) pools: Vec<PoolSample>,
    /// Likewise, in the order of their pools.
    tenants: Vec<TenantSample>,
}

#[derive(Debug)]
pub(crate) struct PoolSample {
    pub(crate) label: Arc<PoolLabel>,
    pub(crate) in_flight: u32,
    pub(crate) queued: u32,
    pub(crate) served: Cost,
}

#[derive(Debug)]
pub(crate) struct TenantSample {
    /// Place in [`Sample::pools`].
    pool: usize,
    pub(crate) label: Arc<TenantLabel>,
    pub(crate) in_flight: u32,
    pub(crate) queued: u32,
    pub(crate) served: Cost,
}

/// What a node has had: what ended requests cost, and what is charged for running ones.
pub(crate) fn served(standing: &Standing) -> Cost {
    standing.settled.plus(standing.outstanding)
}

impl Sample {
    /// The tenants of the pool at this place.
    pub(crate) fn tenants(&self, pool: usize) -> &[TenantSample] {
        let from = self.tenants.partition_point(|row| row.pool < pool);
        let to = self.tenants.partition_point(|row| row.pool <= pool);
        self.tenants.get(from..to).unwrap_or_default()
    }
}

impl Base {
    /// What a node with this total has had since.
    pub(crate) fn served_since(&self, pool: PoolIx, who: Who, total: Cost) -> Cost {
        let before = self.0.as_ref().and_then(|totals| totals.of(pool, who));
        total.minus(before.unwrap_or_default())
    }
}

impl Totals {
    fn new(pools: &[LivePool]) -> Self {
        let of_pool = |pool: &LivePool| {
            let ix = pool.pool;
            let rows = pool.nodes.iter().filter_map(|node| Some((Who::of(node)?, served(&node.standing))));
            rows.map(|(who, cost)| ((ix, who), cost)).collect::<Vec<_>>()
        };
        let mut rows: Vec<_> = pools.iter().flat_map(of_pool).collect();
        rows.sort_unstable_by_key(|(at, _)| *at);
        Self(rows)
    }

    fn of(&self, pool: PoolIx, who: Who) -> Option<Cost> {
        let at = self.0.binary_search_by_key(&(pool, who), |(at, _)| *at).ok()?;
        self.0.get(at).map(|(_, cost)| *cost)
    }
}

impl Tally {
    /// Takes the newest totals in; returns what came on top. A refund is set against what comes later.
    fn count(&mut self, standing: &Standing) -> Cost {
        if standing.settled < self.settled {
            *self = Self::default(); // the node was made anew
        }
        let total = served(standing);
        let more = total.minus(self.counted);
        *self = Self { settled: standing.settled, counted: self.counted.max(total) };
        more
    }
}

impl History {
    /// Empty; the first sample reaches back to `now`.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            life: None,
            tallies: HashMap::new(),
            recent: VecDeque::new(),
            samples: VecDeque::new(),
            sampled_to: now,
            series: HashMap::new(),
            others: Cost::default(),
        }
    }

    /// Oldest first.
    pub(crate) fn samples(&self) -> Vec<Arc<Sample>> {
        self.samples.iter().cloned().collect()
    }

    /// What shares at `now` are measured from, for totals that the coordinator gave in this life.
    pub(crate) fn base(&self, life: u64, now: Instant) -> Base {
        let known = (self.life == Some(life)).then_some(&self.recent);
        let old = known
            .and_then(|recent| recent.iter().rev().find(|(at, _)| now.duration_since(*at) >= SHARE_SPAN));
        let base = old.or_else(|| known?.front());
        Base(base.map(|(_, totals)| Arc::clone(totals)))
    }

    /// Weighted tokens that were served since the start, by the tenant's name. The names add up to everything.
    pub(crate) fn series(&self) -> BTreeMap<&str, Cost> {
        let mut sums: BTreeMap<&str, Cost> = BTreeMap::new();
        let own = self.series.values().map(|(label, cost)| (label.name.as_str(), *cost));
        for (name, cost) in own.chain([(OTHERS, self.others)]) {
            let sum = sums.entry(name).or_default();
            *sum = sum.plus(cost);
        }
        sums
    }

    /// Takes a report in. Returns whether anything is in flight, waits, or was served since the last one.
    pub(crate) fn record(
        &mut self,
        look: &Look,
        directory: &Directory,
        (now, at): (Instant, UnixMs),
    ) -> bool {
        let is_new_life = self.life.replace(look.life) != Some(look.life);
        if is_new_life {
            self.tallies.clear();
            self.recent.clear();
        }
        // What a coordinator had served before this sidecar began belongs to no sample.
        let counts = !(is_new_life && look.life == 0);
        let mut sample = Sample { at, covers: now - self.sampled_to, pools: Vec::new(), tenants: Vec::new() };
        for pool in look.pools.iter() {
            self.record_pool(pool, directory, counts, &mut sample);
        }
        self.sampled_to = now;
        self.recent.push_back((now, Arc::new(Totals::new(&look.pools))));
        while self.recent.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= SHARE_SPAN) {
            self.recent.pop_front();
        }
        let is_busy = !sample.pools.is_empty();
        if is_busy {
            sample.tenants.sort_by_key(|row| Reverse((row.served, row.queued)));
            sample.tenants.truncate(MOST_ROWS);
            sample.tenants.sort_by_key(|row| row.pool);
            sample.tenants.shrink_to_fit();
            if self.samples.len() == MOST_SAMPLES {
                self.samples.pop_front();
            }
            self.samples.push_back(Arc::new(sample));
        }
        is_busy
    }

    fn record_pool(&mut self, pool: &LivePool, directory: &Directory, counts: bool, sample: &mut Sample) {
        let Some(label) = directory.pool(pool.pool) else { return };
        let place = sample.pools.len();
        let mut sum = Cost::default();
        for node in &pool.nodes {
            let Level::Tenant(_, tenant) = node.level else { continue };
            let standing = &node.standing;
            let more = self.tallies.entry((pool.pool, tenant)).or_default().count(standing);
            let served = if counts { more } else { Cost::default() };
            sum = sum.plus(served);
            let label = directory.tenant(tenant);
            self.count(tenant, label, served);
            let (in_flight, queued) = (standing.running, standing.waiting);
            let is_idle = (in_flight, queued, served) == (0, 0, Cost(0));
            if let Some(label) = label.filter(|_| !is_idle) {
                let label = Arc::clone(label);
                sample.tenants.push(TenantSample { pool: place, label, in_flight, queued, served });
            }
        }
        let (in_flight, queued) = (pool.running, pool.waiting);
        if (in_flight, queued, sum) != (0, 0, Cost(0)) {
            let label = Arc::clone(label);
            sample.pools.push(PoolSample { label, in_flight, queued, served: sum });
        } else {
            sample.tenants.retain(|row| row.pool != place);
        }
    }

    /// A tenant that has a series keeps it, so that no series ever shrinks.
    fn count(&mut self, tenant: TenantIx, label: Option<&Arc<TenantLabel>>, served: Cost) {
        if served == Cost(0) {
            return;
        }
        let has_room = self.series.len() < MOST_SERIES;
        match (self.series.get_mut(&tenant), label) {
            (Some((name, sum)), label) => {
                *sum = sum.plus(served);
                if let Some(label) = label {
                    *name = Arc::clone(label);
                }
            }
            (None, Some(label)) if has_room => {
                self.series.insert(tenant, (Arc::clone(label), served));
            }
            _ => self.others = self.others.plus(served),
        }
    }
}

#[cfg(test)]
mod tests;
