//! The metrics listener: `/metrics`, `/livez`, `/readyz`. Without a token, and without the store: it answers
//! from the shards' figures alone.

mod busy;
mod exposition;
mod figures;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::header,
    middleware::from_fn,
    response::{IntoResponse, Response},
    routing::get,
};
use obleth_ledger::Tail;
use serde_json::{Value, json};

use crate::{
    api::{ApiError, envelope},
    budget::alert::BudgetFigures,
    clock,
    pump::Pump,
    sampler::Sampler,
    usage::shipper::Shipping,
};

use busy::BusyClock;

/// How long shards have to give a sign of life.
const LIVE_WITHIN: Duration = Duration::from_secs(1);

/// What the routes share.
pub(crate) struct Probes {
    pump: Arc<Pump>,
    sampler: Arc<Sampler>,
    /// The usage log, and how it is shipped; and what is known of budgets.
    figures: ((Tail, Arc<Shipping>), Arc<BudgetFigures>),
    busy: BusyClock,
    /// Version and commit.
    build: (&'static str, &'static str),
}

impl Probes {
    /// Busy ratios count from now until the first scrape.
    pub(crate) fn new(
        pump: Arc<Pump>,
        sampler: Arc<Sampler>,
        figures: ((Tail, Arc<Shipping>), Arc<BudgetFigures>),
        build: (&'static str, &'static str),
    ) -> Self {
        Self { pump, sampler, figures, busy: BusyClock::new(), build }
    }
}

/// All routes with their layer.
pub(crate) fn router(probes: Probes) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .fallback(async || ApiError::unknown_endpoint())
        .layer(from_fn(envelope))
        .with_state(Arc::new(probes))
}

async fn metrics(State(probes): State<Arc<Probes>>) -> Response {
    // What tenants were served is as of the last sample; the next scrape shows what came since.
    probes.sampler.ask();
    let gauges = probes.pump.gauges();
    let busy = probes.busy.ratios(gauges);
    let snapshot = probes.pump.snapshot().unwrap_or_default();
    let history = probes.sampler.history();
    let shares = figures::Shares { snapshot: &snapshot, served: history.series() };
    let ((tail, shipping), budgets) = &probes.figures;
    let log = figures::Log { figures: tail.figures(), shipping, lag: shipping.lag(clock::now()), budgets };
    let text = figures::text(gauges, (&shares, &log), &busy, probes.build);
    drop(history);
    ([(header::CONTENT_TYPE, exposition::CONTENT_TYPE)], text).into_response()
}

/// Whether every shard answers.
async fn livez(State(probes): State<Arc<Probes>>) -> Result<Json<Value>, ApiError> {
    let silent = probes.pump.silent_shards(LIVE_WITHIN).await;
    if silent.is_empty() {
        return Ok(ok());
    }
    Err(ApiError::unavailable("not_live", format!("No sign of life within 1 s from {}.", shards(&silent))))
}

/// Whether requests will be answered: the store did when the sidecar was opened, every shard accepts, and the
/// process is not on its way out.
async fn readyz(State(probes): State<Arc<Probes>>) -> Result<Json<Value>, ApiError> {
    let gauges = probes.pump.gauges();
    if gauges.is_draining() {
        return Err(ApiError::unavailable("draining", "This gateway is shutting down."));
    }
    if probes.pump.snapshot().is_none() {
        return Err(ApiError::unavailable("not_ready", "The configuration is still being read."));
    }
    let waiting: Vec<usize> =
        gauges.shards().enumerate().filter(|(_, shard)| !shard.is_serving()).map(|(at, _)| at).collect();
    if waiting.is_empty() {
        return Ok(ok());
    }
    Err(ApiError::unavailable("not_ready", format!("Connections are not accepted by {}.", shards(&waiting))))
}

fn ok() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

fn shards(which: &[usize]) -> String {
    let numbers: Vec<String> = which.iter().map(ToString::to_string).collect();
    format!("shard {}", numbers.join(", "))
}
