//! `GET /stats` and `GET /version`: what is in flight now, and what runs here.

use axum::{Json, extract::State};
use serde::Serialize;

use super::App;

/// The answer of `/stats`.
#[derive(Debug, Serialize)]
pub(super) struct Stats {
    in_flight: u64,
    queued: u64,
    max_in_flight: u32,
    pools: Vec<Pool>,
}

#[derive(Debug, Serialize)]
struct Pool {
    model: String,
    in_flight: u64,
    queued: u64,
    max_in_flight: u32,
}

/// Figures of this moment; they are read from counters that go on changing.
pub(super) async fn stats(State(app): State<App>) -> Json<Stats> {
    let gauges = app.pump.gauges();
    let snapshot = app.pump.snapshot();
    let models = snapshot.iter().flat_map(|snapshot| snapshot.models());
    let pools = models.map(|model| Pool {
        model: model.name.to_string(),
        in_flight: gauges.pool_in_flight(model.pool),
        queued: gauges.pool_queued(model.pool),
        max_in_flight: model.max_in_flight,
    });
    Json(Stats {
        in_flight: gauges.sum(|shard| &shard.in_flight),
        queued: gauges.sum(|shard| &shard.queued),
        max_in_flight: app.global_max_in_flight,
        pools: pools.collect(),
    })
}

/// The answer of `/version`.
#[derive(Debug, Serialize)]
pub(super) struct Version {
    version: &'static str,
    commit: &'static str,
}

/// What runs here.
pub(super) async fn version(State(app): State<App>) -> Json<Version> {
    Json(Version { version: app.version, commit: app.commit })
}
