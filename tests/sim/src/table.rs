//! The fairness figures: obleth beside its rivals on the same work, in windows of ten seconds.

use std::fmt;

use crate::{
    figures::{Served, quantile},
    plan::{Lengths, Plan, SECOND},
    rivals::{self, Rival},
    world::World,
};

/// Weights of the tenants.
pub const WEIGHTS: [u32; 4] = [1, 2, 3, 4];
/// A window, in tenths of a second.
const WINDOW: usize = 100;
/// What is left out at the beginning, in tenths of a second.
const WARM: usize = 50;

/// Median and 95 % quantile of the worst tenant's error per window, in percent.
#[derive(Clone, Copy, Debug)]
pub struct Error {
    /// Median.
    pub median: f64,
    /// 95 % quantile.
    pub p95: f64,
    /// Windows.
    pub windows: usize,
}

/// One load.
#[derive(Clone, Debug)]
pub struct Row {
    /// What it is called.
    pub name: &'static str,
    /// Slots.
    pub slots: u32,
    /// Requests per window of the weakest tenant.
    pub n: f64,
    /// obleth.
    pub ours: Error,
    /// Its rivals, in their order.
    pub theirs: Vec<(Rival, Error)>,
    /// Largest distance of two siblings, as part of the bound.
    pub bound: f64,
    /// What was served, as part of what first come, first served serves.
    pub throughput: f64,
}

/// The loads: what they are called, and their lengths.
pub const LOADS: [(&str, Lengths); 5] = [
    ("equal", Lengths::Equal(165)),
    ("sigma 1.0", Lengths::LogNormal { mean: 165, sigma: 1.0 }),
    ("sigma 1.5", Lengths::LogNormal { mean: 165, sigma: 1.5 }),
    ("bimodal", Lengths::Bimodal { short: 50, long: 1200, part: 0.1 }),
    ("fifth long", Lengths::Bimodal { short: 20, long: 745, part: 0.2 }),
];

/// The rivals.
pub const RIVALS: [Rival; 4] = [Rival::Fifo, Rival::Vtc, Rival::AtCompletion, Rival::PerCoreDrr { cores: 2 }];

/// A plan of the fairness rig: `windows` windows after the first seconds.
#[must_use]
pub fn rig(seed: u64, slots: u32, lengths: Lengths, windows: u64) -> Plan {
    let mut plan = Plan::backlogged(seed, slots, &WEIGHTS, lengths);
    plan.length_ns = (WARM as u64 / 10 + windows * WINDOW as u64 / 10) * SECOND;
    plan.shards = 2;
    // Connections lie where they lie: on core 0 those of the first two tenants, on core 1 those of the others.
    for (at, tenant) in plan.tenants.iter_mut().enumerate() {
        tenant.home = (at / 2, 0.8);
        tenant.patience_ns = 10_000 * SECOND;
    }
    plan
}

/// Runs a plan and returns the worst tenant's errors per window, and the distance as part of the bound.
#[must_use]
pub fn ours(plan: Plan) -> (Vec<f64>, f64, u64) {
    let tenths = (plan.length_ns / SECOND * 10) as usize;
    let (report, served) = World::new(plan).run();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let all = (0..WEIGHTS.len()).map(|tenant| served.between(tenant, WARM, tenths)).sum();
    (errors(&served, tenths), report.bound, all)
}

fn errors(served: &Served, tenths: usize) -> Vec<f64> {
    served.errors(&WEIGHTS, WINDOW, (WARM, tenths))
}

/// Measures one load over some seeds.
#[must_use]
pub fn row((name, lengths): (&'static str, Lengths), slots: u32, (seeds, windows): (u64, u64)) -> Row {
    let plans: Vec<_> = (0..seeds).map(|seed| rig(seed, slots, lengths, windows)).collect();
    let tenths = (plans[0].length_ns / SECOND * 10) as usize;
    let (mut own, mut bound, mut all) = (Vec::new(), 0.0_f64, 0);
    for plan in &plans {
        let (errors, part, served) = ours(plan.clone());
        own.extend(errors);
        bound = bound.max(part);
        all += served;
    }
    let mut fifo = 0;
    let theirs = RIVALS.into_iter().map(|rival| {
        let runs: Vec<_> = plans.iter().map(|plan| rivals::run(plan, rival)).collect();
        if rival == Rival::Fifo {
            let all = |served: &Served| -> u64 {
                (0..WEIGHTS.len()).map(|tenant| served.between(tenant, WARM, tenths)).sum()
            };
            fifo = runs.iter().map(all).sum();
        }
        let found: Vec<_> = runs.iter().flat_map(|served| errors(served, tenths)).collect();
        (rival, Error::of(&found))
    });
    let theirs: Vec<_> = theirs.collect();
    let pool = plans[0].pools[0];
    let per_s = f64::from(slots) / (lengths.mean() / f64::from(pool.rate) + pool.prefill_ns as f64 / 1e9);
    let (n, throughput) = (per_s * 10.0 * 0.1, all as f64 / fifo as f64);
    Row { name, slots, n, ours: Error::of(&own), theirs, bound, throughput }
}

impl Error {
    fn of(found: &[f64]) -> Self {
        Self {
            median: quantile(found, 0.5) * 100.0,
            p95: quantile(found, 0.95) * 100.0,
            windows: found.len(),
        }
    }
}

impl Row {
    /// The median as part of a rival's.
    #[must_use]
    pub fn against(&self, rival: Rival) -> f64 {
        let theirs = self.theirs.iter().find(|(known, _)| *known == rival);
        theirs.map_or(f64::NAN, |(_, error)| self.ours.median / error.median)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>2} {:<10} n {:>4.0}", self.slots, self.name, self.n)?;
        write!(f, "  obleth {:5.2} / {:5.2}", self.ours.median, self.ours.p95)?;
        for (rival, error) in &self.theirs {
            let name = match rival {
                Rival::Fifo => "fifo",
                Rival::Vtc => "vtc",
                Rival::AtCompletion => "completion",
                Rival::PerCoreDrr { .. } => "drr",
            };
            write!(f, "  {name} {:5.2} / {:5.2}", error.median, error.p95)?;
        }
        let (vtc, completion) = (self.against(Rival::Vtc), self.against(Rival::AtCompletion));
        write!(f, "  ÷ vtc {vtc:.2}  ÷ completion {completion:.3}")?;
        write!(f, "  of the bound {:.2}  ÷ fifo's throughput {:.4}", self.bound, self.throughput)
    }
}
