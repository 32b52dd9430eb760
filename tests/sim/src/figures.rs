//! Shares per window, and how far they are off.

use crate::plan::SECOND;

/// What each tenant was served, by the tenth of a second.
#[derive(Clone, Debug)]
pub struct Served {
    /// By tenant, then by tenth.
    tenths: Vec<Vec<u64>>,
    /// How long each request waited until it started, in nanoseconds, by tenant.
    waits: Vec<Vec<u64>>,
}

/// Length of a piece.
const TENTH_NS: u64 = SECOND / 10;

impl Served {
    pub(crate) fn new(tenants: usize) -> Self {
        Self { tenths: vec![Vec::new(); tenants], waits: vec![Vec::new(); tenants] }
    }

    pub(crate) fn add(&mut self, at_ns: u64, tenant: usize, cost: u64) {
        let tenth = (at_ns.saturating_sub(SECOND) / TENTH_NS) as usize;
        let tenths = &mut self.tenths[tenant];
        if tenths.len() <= tenth {
            tenths.resize(tenth + 1, 0);
        }
        tenths[tenth] += cost;
    }

    pub(crate) fn waited(&mut self, tenant: usize, wait_ns: u64) {
        self.waits[tenant].push(wait_ns);
    }

    /// The wait that this part of a tenant's requests did not exceed, in seconds.
    #[must_use]
    pub fn wait(&self, tenant: usize, part: f64) -> f64 {
        let waits: Vec<_> = self.waits[tenant].iter().map(|wait_ns| *wait_ns as f64 / 1e9).collect();
        quantile(&waits, part)
    }

    /// What a tenant was served between two times, in tenths of a second.
    #[must_use]
    pub fn between(&self, tenant: usize, from: usize, to: usize) -> u64 {
        let tenths = &self.tenths[tenant];
        tenths.iter().skip(from).take(to.saturating_sub(from)).sum()
    }

    /// The worst tenant's relative error against its entitlement in every window of `window` tenths from `from` on
    /// and before `to`. Whoever has no weight is left out.
    #[must_use]
    pub fn errors(&self, weights: &[u32], window: usize, (from, to): (usize, usize)) -> Vec<f64> {
        let sum: u32 = weights.iter().sum();
        let mut errors = Vec::new();
        let mut begin = from;
        while begin + window <= to {
            let served = |(tenant, weight): (usize, &u32)| {
                (*weight > 0).then(|| self.between(tenant, begin, begin + window) as f64)
            };
            let served: Vec<_> = weights.iter().enumerate().map(served).collect();
            let all: f64 = served.iter().flatten().sum();
            let error = |(served, weight): (&Option<f64>, &u32)| {
                Some(((*served)? / all.max(1.0) * f64::from(sum) / f64::from(*weight) - 1.0).abs())
            };
            errors.push(served.iter().zip(weights).filter_map(error).fold(0.0, f64::max));
            begin += window;
        }
        errors
    }
}

/// The value that this part of them is not above.
#[must_use]
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or(0.0)
}
