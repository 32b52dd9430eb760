//! The shards' figures as metrics: names, help and units of every family.
//!
//! Labels come from fixed tables and from the configuration only; what a client typed is never a label.

use std::{collections::BTreeMap, time::Duration};

use obleth_link::{
    Attempt, Driver, Gauges, Histogram, LATENCY_BOUNDS_MS, OVERHEAD_BOUNDS_US, Phase, ShardGauges,
};
use obleth_policy::{cost::Cost, outcome::Ending, route::Route, snapshot::Snapshot};

use super::exposition::{
    Exposition,
    Kind::{self, Counter, Gauge},
};
use crate::{budget::alert::BudgetFigures, usage::shipper::Shipping};

/// What is known besides the shards' figures.
pub(super) struct Shares<'s> {
    pub(super) snapshot: &'s Snapshot,
    /// Weighted tokens by the tenant's name.
    pub(super) served: BTreeMap<&'s str, Cost>,
}

/// The usage log, how its records come into the ledger, and what they come to for budgets.
pub(super) struct Log<'l> {
    pub(super) figures: obleth_ledger::Figures,
    pub(super) shipping: &'l Shipping,
    pub(super) lag: Duration,
    pub(super) budgets: &'l BudgetFigures,
}

/// Everything that `/metrics` shows. `busy` has one ratio per shard; `build` is version and commit.
pub(super) fn text(
    gauges: &Gauges,
    (shares, log): (&Shares<'_>, &Log<'_>),
    busy: &[f64],
    build: (&str, &str),
) -> String {
    let mut out = Exposition::default();
    traffic(&mut out, gauges);
    pools_and_tenants(&mut out, gauges, shares);
    times(&mut out, gauges);
    tokens_and_upstreams(&mut out, gauges);
    usage(&mut out, log);
    budgets(&mut out, log.budgets);
    process(&mut out, gauges, busy, build);
    out.into_text()
}

fn traffic(out: &mut Exposition, gauges: &Gauges) {
    let in_flight = gauges.sum(|shard| &shard.in_flight);
    out.single("obleth_in_flight", Gauge, "Requests between admission and settlement.", in_flight);
    let queued = gauges.sum(|shard| &shard.queued);
    out.single("obleth_queue_depth", Gauge, "Requests that wait for a slot.", queued);
    let connections = gauges.sum(|shard| &shard.connections);
    out.single(
        "obleth_client_connections",
        Gauge,
        "Client connections, with or without a request.",
        connections,
    );
    let buffered = gauges.sum(|shard| &shard.buffered_bytes);
    out.single("obleth_buffered_bytes", Gauge, "Room that request bodies above 64 KiB take up.", buffered);
    let (requests, rejected) = count_requests(gauges);
    let help = "Requests done, by what the client got and how it went.";
    let mut family = out.family("obleth_requests_total", Counter, help);
    for ((endpoint, status, outcome), count) in requests {
        let status = status.to_string();
        family.sample(&[("endpoint", endpoint), ("status", &status), ("outcome", outcome)], count);
    }
    let mut family =
        out.family("obleth_rejected_total", Counter, "Requests answered with an error, by its code.");
    for (code, count) in rejected {
        family.sample(&[("code", code)], count);
    }
    let mut family = out.family("obleth_client_closed_total", Counter, "Clients that left first, by phase.");
    for phase in Phase::ALL {
        let count =
            gauges.shards().filter_map(|shard| shard.client_closed(phase)).map(|c| c.get()).sum::<u64>();
        family.sample(&[("phase", phase.as_str())], count);
    }
}

fn pools_and_tenants(out: &mut Exposition, gauges: &Gauges, shares: &Shares<'_>) {
    let models = shares.snapshot.models();
    let mut family = out.family("obleth_pool_in_flight", Gauge, "Requests in flight, by the pool's model.");
    for model in models {
        family.sample(&[("model", &model.name)], gauges.pool_in_flight(model.pool));
    }
    let help = "Requests that wait for a slot, by the pool's model.";
    let mut family = out.family("obleth_pool_queue_depth", Gauge, help);
    for model in models {
        family.sample(&[("model", &model.name)], gauges.pool_queued(model.pool));
    }
    let help = "Weighted tokens that tenants were served; the tenant `other` is all that have no series.";
    let mut family = out.family("obleth_tenant_served_tokens_total", Counter, help);
    for (tenant, served) in &shares.served {
        family.sample(&[("tenant", tenant)], served.0 as f64 / Cost::TOKEN.0 as f64);
    }
    let help = "Requests that got a shorter answer, because they would have waited long.";
    out.single("obleth_degraded_total", Counter, help, gauges.sum(|shard| &shard.degraded));
}

type Requests = BTreeMap<(&'static str, u16, &'static str), u64>;
type Rejected = BTreeMap<&'static str, u64>;

/// Several endings share a set of labels. Series at zero are left out, but for one per family.
fn count_requests(gauges: &Gauges) -> (Requests, Rejected) {
    let (mut requests, mut rejected) = (Requests::new(), Rejected::new());
    let first = (Route::Chat.label(), Ending::OK.status, Ending::OK.outcome.as_str());
    requests.insert(first, 0);
    rejected.insert(obleth_policy::outcome::Code::InvalidApiKey.as_str(), 0);
    for route in Route::ALL {
        // The plain row of the relayed code shares its counter with its first relayed status: counted once.
        for (_, ending) in Ending::all().enumerate().filter(|(at, ending)| ending.ix() == *at) {
            let of_shard = |shard: &ShardGauges| shard.requests(route, ending).map_or(0, |count| count.get());
            let count: u64 = gauges.shards().map(of_shard).sum();
            if count == 0 {
                continue;
            }
            *requests.entry((route.label(), ending.status, ending.outcome.as_str())).or_default() += count;
            if let Some(code) = ending.code.filter(|_| ending.status >= 400) {
                *rejected.entry(code.as_str()).or_default() += count;
            }
        }
    }
    (requests, rejected)
}

fn times(out: &mut Exposition, gauges: &Gauges) {
    let latency: Vec<f64> = LATENCY_BOUNDS_MS.iter().map(|ms| *ms as f64 / 1e3).collect();
    let overhead: Vec<f64> = OVERHEAD_BOUNDS_US.iter().map(|us| *us as f64 / 1e6).collect();
    let (counts, sum_us) = merge(gauges, |shard| &shard.duration);
    out.family("obleth_request_duration_seconds", Kind::Histogram, "From the parsed head to the last byte.")
        .histogram(&latency, &counts, sum_us as f64 / 1e6);
    let (counts, sum_us) = merge(gauges, |shard| &shard.ttft);
    out.family(
        "obleth_ttft_seconds",
        Kind::Histogram,
        "From the parsed head to the first byte of the answer.",
    )
    .histogram(&latency, &counts, sum_us as f64 / 1e6);
    let (counts, sum_us) = merge(gauges, |shard| &shard.queue_wait);
    let help = "How long requests waited for a slot that had to wait for one.";
    out.family("obleth_queue_wait_seconds", Kind::Histogram, help).histogram(
        &latency,
        &counts,
        sum_us as f64 / 1e6,
    );
    let (counts, sum_ns) = merge(gauges, |shard| &shard.overhead);
    out.family(
        "obleth_overhead_seconds",
        Kind::Histogram,
        "The gateway's own time from the parsed head to dispatch.",
    )
    .histogram(&overhead, &counts, sum_ns as f64 / 1e9);
}

fn merge<const N: usize>(gauges: &Gauges, of: impl Fn(&ShardGauges) -> &Histogram<N>) -> (Vec<u64>, u64) {
    let mut counts = vec![0; N + 1];
    for shard in gauges.shards() {
        counts.iter_mut().zip(of(shard).counts()).for_each(|(sum, count)| *sum += count);
    }
    (counts, gauges.shards().map(|shard| of(shard).sum()).sum())
}

fn tokens_and_upstreams(out: &mut Exposition, gauges: &Gauges) {
    let sum = |figure: fn(&ShardGauges) -> &obleth_link::Counter| gauges.sum(figure);
    let help = "Tokens that backends counted as input.";
    out.single("obleth_input_tokens_total", Counter, help, sum(|shard| &shard.input_tokens));
    let help = "Tokens that backends generated.";
    out.single("obleth_output_tokens_total", Counter, help, sum(|shard| &shard.output_tokens));
    let help = "Requests that used something which has no price.";
    out.single("obleth_unpriced_requests_total", Counter, help, sum(|shard| &shard.unpriced));
    let help =
        "Requests whose limits could not be asked in time: let through, or refused where nothing fails open.";
    out.single("obleth_limit_failures_total", Counter, help, sum(|shard| &shard.unfunded));
    let mut family =
        out.family("obleth_upstream_attempts_total", Counter, "Tries at backends, by how they went.");
    for attempt in Attempt::ALL {
        let count = gauges.shards().filter_map(|shard| shard.attempts(attempt)).map(|c| c.get()).sum::<u64>();
        family.sample(&[("outcome", attempt.as_str())], count);
    }
    let help = "Keys that a shard knew.";
    out.single("obleth_key_cache_hits_total", Counter, help, sum(|shard| &shard.key_hits));
    let help = "Keys that a shard had to ask for.";
    out.single("obleth_key_cache_misses_total", Counter, help, sum(|shard| &shard.key_misses));
}

fn usage(out: &mut Exposition, log: &Log<'_>) {
    let Log { figures, shipping, lag, .. } = log;
    let help = "Bytes of the usage log whose records are not in the ledger yet.";
    out.single("obleth_usage_wal_bytes", Gauge, help, figures.bytes);
    let help = "Records of the usage log that are not in the ledger yet.";
    out.single("obleth_usage_wal_records", Gauge, help, figures.records);
    let help = "Records for which there was no room: lost.";
    out.single("obleth_usage_lost_total", Counter, help, figures.lost);
    let help = "Damaged places of the usage log that were passed over.";
    out.single("obleth_usage_corrupt_total", Counter, help, figures.corrupt);
    let help = "Age of the oldest record that the ledger has not taken; 0 if none waits.";
    out.single("obleth_usage_lag_seconds", Gauge, help, lag.as_secs_f64());
    let help = "Records that the ledger has taken.";
    out.single("obleth_usage_shipped_total", Counter, help, shipping.shipped());
    let help = "Tries to hand records to the ledger that failed.";
    out.single("obleth_usage_ship_failures_total", Counter, help, shipping.failures());
}

fn budgets(out: &mut Exposition, budgets: &BudgetFigures) {
    let help = "Budgets that have come to so much of their limit, in per cent, or refused a request, once in each period.";
    let mut family = out.family("obleth_budget_alerts_total", Counter, help);
    for (threshold, count) in budgets.thresholds() {
        family.sample(&[("threshold", &threshold.to_string())], count);
    }
    family.sample(&[("threshold", "refused")], budgets.refusals());
    let help = "Differences between what budgets had used and what the usage log says that were put right.";
    out.single("obleth_budget_repairs_total", Counter, help, budgets.repairs());
    let help = "Events that the alert webhook did not take.";
    out.single("obleth_alert_webhook_failures_total", Counter, help, budgets.undelivered());
}

fn process(out: &mut Exposition, gauges: &Gauges, busy: &[f64], (version, commit): (&str, &str)) {
    let help = "Processor time of a shard's thread against time passed, since the last scrape.";
    let mut family = out.family("obleth_shard_busy_ratio", Gauge, help);
    for (shard, ratio) in busy.iter().enumerate() {
        family.sample(&[("shard", &shard.to_string())], ratio);
    }
    let restarts = gauges.sum(|shard| &shard.restarts);
    out.single("obleth_worker_restarts_total", Counter, "Shards that died and were started again.", restarts);
    let mut family =
        out.family("obleth_io_driver", Gauge, "Whether any shard runs on this driver of the kernel's.");
    for driver in [Driver::IoUring, Driver::Epoll] {
        let in_use = gauges.shards().any(|shard| shard.is_serving() && shard.driver() == driver);
        family.sample(&[("driver", driver.as_str())], u8::from(in_use));
    }
    out.family("obleth_build_info", Gauge, "Always 1; what runs is in the labels.")
        .sample(&[("version", version), ("commit", commit)], 1);
}
