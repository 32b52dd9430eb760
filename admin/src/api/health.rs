//! `GET /health`: whether the stores answer. Without a token, so it says no more than that.

use std::time::Duration;

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use tokio::time::timeout;

use super::App;
use crate::store::fault::StoreError;

/// Longest wait for the store; a load balancer's own limit is rarely above it.
const WITHIN: Duration = Duration::from_secs(1);

/// The answer. A store that is not configured is `disabled`, a broken one its error class.
#[derive(Debug, Serialize)]
pub(super) struct Health {
    status: &'static str,
    store: String,
    redis: &'static str,
    postgres: &'static str,
}

/// 200 when all is well, else 503.
pub(super) async fn health(State(app): State<App>) -> (StatusCode, Json<Health>) {
    let fault = match timeout(WITHIN, app.store.call(|db| db.probe())).await {
        Ok(Ok(())) => None,
        Ok(Err(StoreError::Fault(fault))) => Some(fault.to_string()),
        Ok(Err(_)) => Some("error".to_owned()),
        Err(_) => Some("timeout".to_owned()),
    };
    let (code, status) = match fault {
        None => (StatusCode::OK, "ok"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "degraded"),
    };
    let store = fault.unwrap_or_else(|| "ok".to_owned());
    (code, Json(Health { status, store, redis: "disabled", postgres: "disabled" }))
}
