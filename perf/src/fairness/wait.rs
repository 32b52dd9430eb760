//! Row 15: how long a tenant waits that asks for half its share, beside one that wants a hundred times as much.
//!
//! No slot is taken away from a request that runs, so a wait for the next slot to come free is the least there is: with
//! S slots and answers of no particular phase its 99th percentile is ln 100 · mean service ÷ S.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::{
    Chapter,
    contest::seeds,
    rig::{Ground, Rig},
    scenario::{Repeat, Wait},
    seen::Seen,
};
use crate::{
    finding::{Asked, Finding, Unit},
    signals,
    statistics::{median, quantile},
    terminal::remark,
};

const ROW: u8 = 15;

/// What one seed gave, in milliseconds.
struct Waits {
    /// By the gateway's word; none if it does not say.
    queue_p99: Option<f64>,
    /// Time to the first token beside the other, less the median alone.
    added_p99: f64,
    /// The least that the 99th percentile can be.
    limit: f64,
    requests: usize,
    busy: f64,
}

pub(super) fn run(ground: Ground<'_>, wait: &Wait, repeat: Repeat) -> Result<Chapter> {
    let mut chapter = Chapter::new("wait");
    let mut all = Vec::new();
    for seed in 1..=repeat.seeds {
        let waits = one(ground, wait, (repeat, seed), &mut chapter)?;
        remark(&format!(
            "wait: seed {seed}, p99 added {:.1} ms, limit {:.1} ms",
            waits.added_p99, waits.limit
        ));
        all.push(waits);
    }
    let requests: usize = all.iter().map(|one| one.requests).sum();
    let busy = median(&all.iter().map(|one| one.busy).collect::<Vec<_>>()).unwrap_or_default();
    let limit = median(&all.iter().map(|one| one.limit).collect::<Vec<_>>()).unwrap_or_default();
    let finding = |what: &str, values: &[f64]| {
        let what = format!("p99 wait at half the share beside 100×, {what}, ÷ ln 100 · service ÷ S");
        Finding::median_of(Some(ROW), what, Unit::Ratio, Asked::at_most(3.0, 2.0), values)
            .from(format!("{requests} requests, {}", seeds(repeat.seeds)))
    };
    let said: Vec<f64> = all.iter().filter_map(|one| Some(one.queue_p99? / one.limit)).collect();
    let felt: Vec<f64> = all.iter().map(|one| one.added_p99 / one.limit).collect();
    let mut by_header = finding("by x-obleth-queue-ms", &said).remark(format!("the limit is {limit:.1} ms"));
    if said.len() < all.len() {
        by_header = finding("by x-obleth-queue-ms", &[]).remark("the gateway did not say it in every answer");
    }
    let by_token = finding("by the first token less the median alone", &felt).remark(super::busy_text(busy));
    chapter.findings = vec![by_header, by_token];
    chapter.record = json!(all.iter().map(record).collect::<Vec<_>>());
    Ok(chapter)
}

fn record(waits: &Waits) -> serde_json::Value {
    json!({
        "queue_p99_ms": waits.queue_p99,
        "added_ttft_p99_ms": waits.added_p99,
        "limit_ms": waits.limit,
        "requests": waits.requests,
        "busy": waits.busy,
    })
}

/// The second tenant alone, then beside the first.
fn one(ground: Ground<'_>, wait: &Wait, run: (Repeat, u64), chapter: &mut Chapter) -> Result<Waits> {
    let (repeat, seed) = run;
    let setting = &wait.setting;
    let rig = Rig::start(ground, setting)?;
    let part = setting.entitled().get(1).copied().context("two tenants are needed")? * wait.load;
    let service = setting.lengths.mean() / setting.tokens_per_second;
    let rate = part * f64::from(setting.slots) / service;
    let modest = || -> Result<_> {
        let mut demand = rig.demand(1)?;
        demand.rate = Some(rate);
        Ok(demand)
    };
    let alone = Duration::from_secs_f64(wait.alone_secs);
    let (seen, ()) = rig.run(rig.plan(vec![modest()?], alone, seed), |_| Ok(()))?;
    let alone =
        seen.first().and_then(|seen| median(&seen.ttft_ms(Duration::ZERO))).context("no answer alone")?;
    rig.quiet()?;
    let plan = rig.plan(vec![rig.demand(0)?, modest()?], repeat.length(), seed);
    let (seen, between) = rig.run(plan, |begin| {
        signals::wait((begin + repeat.warmup()).saturating_duration_since(Instant::now()))?;
        let from = rig.look()?;
        // So that the last look comes before everybody leaves.
        let last = repeat.length().saturating_sub(Duration::from_millis(50));
        signals::wait((begin + last).saturating_duration_since(Instant::now()))?;
        Ok(rig.between(from, rig.look()?))
    })?;
    chapter.opened(rig.count("max_open")?, setting.slots);
    let warm = repeat.warmup();
    let modest = seen.get(1).context("two tenants are needed")?;
    let (ttft, queue) = (modest.ttft_ms(warm), modest.queue_ms(warm));
    let said = queue.len() == ttft.len();
    Ok(Waits {
        queue_p99: quantile(&queue, 0.99).filter(|_| said),
        added_p99: quantile(&ttft, 0.99).context("no answer beside the other")? - alone,
        limit: limit_ms(service_ms(&seen, &repeat, setting.tokens_per_second), setting.slots),
        requests: ttft.len(),
        busy: between.busy,
    })
}

/// The mean time that a request had a slot, by what was delivered.
fn service_ms(seen: &[Seen], repeat: &Repeat, tokens_per_second: f64) -> f64 {
    let length = repeat.window().mul_f64(repeat.windows as f64);
    let sum = |of: fn(&Seen) -> &super::shares::Series| -> u64 {
        seen.iter().map(|one| of(one).within(repeat.warmup(), length)).sum()
    };
    let (tokens, requests) = (sum(|seen| &seen.tokens), sum(|seen| &seen.finished));
    tokens as f64 / requests.max(1) as f64 / tokens_per_second * 1e3
}

/// The 99th percentile of the time until one of `slots` busy slots comes free.
fn limit_ms(service_ms: f64, slots: u32) -> f64 {
    100_f64.ln() * service_ms / f64::from(slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_falls_with_the_slots_and_grows_with_the_service() {
        assert!((limit_ms(165.0, 16) - 47.49).abs() < 0.01);
        assert!((limit_ms(330.0, 32) - limit_ms(165.0, 16)).abs() < 1e-9);
    }

    #[test]
    fn service_is_what_was_delivered_per_request() {
        let mut seen = Seen::default();
        let repeat = Repeat { secs: 1.0, windows: 2, seeds: 1, warmup_secs: 1.0 };
        seen.tokens.add(Duration::from_millis(500), 999);
        seen.tokens.add(Duration::from_millis(1500), 300);
        seen.finished.add(Duration::from_millis(2500), 2);
        assert!((service_ms(&[seen], &repeat, 1000.0) - 150.0).abs() < 1e-9);
    }
}
