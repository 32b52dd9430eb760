//! The admin API: routes, and what all handlers work with.
//!
//! A change runs to its end even if the client leaves: once the store has committed, the shards are told. It
//! answers only after they were.

mod auth;
mod backend;
mod body;
mod error;
mod groups;
mod health;
mod keys;
mod list;
mod models;
mod stats;
mod tenants;

use std::sync::Arc;

use axum::{
    Router,
    middleware::{from_fn, from_fn_with_state},
    routing::{get, post, put},
};
use obleth_policy::key::Pepper;
use tokio::sync::Notify;
use uuid::Uuid;

pub(crate) use auth::TokenDigest;
pub(crate) use error::{ApiError, envelope};

use crate::{
    pump::Pump,
    resolve::Names,
    snapshot::Publisher,
    store::{
        Db, Store,
        fault::{Kind, StoreError},
        rows::{Act, KeyChange, KeyRow},
    },
};

/// What weights may be.
const WEIGHTS: std::ops::RangeInclusive<i64> = 1..=1_000_000;
/// What rates per minute may be; the upper end is what JSON readers with floats can hold.
const RATES: std::ops::RangeInclusive<i64> = 0..=(1 << 53) - 1;
/// What numbers of requests in flight may be.
const IN_FLIGHT: std::ops::RangeInclusive<i64> = 0..=1_000_000;

/// What all handlers share. Cheap to clone.
pub(crate) type App = Arc<Shared>;

/// See [`App`].
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) pump: Arc<Pump>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) names: Arc<Names>,
    pub(crate) token: TokenDigest,
    pub(crate) pepper: Option<Pepper>,
    pub(crate) has_default_upstream: bool,
    pub(crate) global_max_in_flight: u32,
    pub(crate) version: &'static str,
    pub(crate) commit: &'static str,
    /// Rings when a change was stored, but could not be read back for the shards.
    pub(crate) unpublished: Notify,
}

impl Shared {
    /// Makes a change that goes into the snapshot, and returns once every shard has been sent it.
    async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Db) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let app = Arc::clone(self);
        finish(async move {
            let (out, registry) = app
                .store
                .call(move |db| {
                    let out = change(db)?;
                    Ok((out, db.registry()))
                })
                .await?;
            match registry {
                Ok(registry) => app.publisher.publish(registry),
                Err(fault) => {
                    app.unpublished.notify_one();
                    tracing::warn!(target: "obleth_admin", "a change is stored but not in effect yet: {fault}");
                    return Err(fault.into());
                }
            }
            Ok(out)
        })
        .await
    }

    /// Makes a change to one key, and returns once every shard has been told that it changed.
    async fn change_key(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Db) -> Result<KeyChange, StoreError> + Send + 'static,
    ) -> Result<KeyRow, ApiError> {
        let app = Arc::clone(self);
        finish(async move {
            let change = app.store.call(change).await?;
            app.pump.key_changed(&change);
            Ok(change.row)
        })
        .await
    }

    /// Asks the store.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Db) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, ApiError> {
        Ok(self.store.call(question).await?)
    }
}

/// Runs `work` to its end even if whoever waits for it leaves.
async fn finish<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(work).await.unwrap_or_else(|_| Err(ApiError::internal()))
}

/// Who does what, for the audit trail.
fn act(action: &'static str) -> Act {
    Act { actor: auth::BOOTSTRAP_ACTOR.to_owned(), action }
}

/// An id in a path; text that is none cannot be anything's.
fn id_of(text: &str, kind: Kind) -> Result<Uuid, ApiError> {
    Uuid::try_parse(text).map_err(|_| StoreError::NotFound(kind).into())
}

/// All routes with their layers.
pub(crate) fn router(app: App) -> Router {
    let api = Router::new()
        .route("/health", get(health::health))
        .route("/stats", get(stats::stats))
        .route("/version", get(stats::version))
        .route("/groups", get(groups::list).post(groups::create))
        .route("/groups/{id}", get(groups::show).patch(groups::edit).delete(groups::delete))
        .route("/tenants", get(tenants::list).post(tenants::create))
        .route("/tenants/{id}", get(tenants::show).patch(tenants::edit).delete(tenants::delete))
        .route("/tenants/{id}/quota", put(tenants::set_quota))
        .route("/tenants/{id}/weight", put(tenants::set_weight))
        .route("/tenants/{id}/group", put(tenants::set_group))
        .route("/tenants/{id}/status", put(tenants::set_status))
        .route("/tenants/{id}/allowlist", put(tenants::set_allowlist))
        .route("/tenants/{id}/keys", post(keys::create_for_tenant).get(keys::list_of_tenant))
        .route("/keys", get(keys::list).post(keys::create))
        .route("/keys/{id}", get(keys::show).patch(keys::edit).delete(keys::delete))
        .route("/keys/{id}/rotate", post(keys::rotate))
        .route("/keys/{id}/disabled", put(keys::set_disabled))
        .route("/keys/{id}/weight", put(keys::set_weight))
        .route("/keys/{id}/quota", put(keys::set_quota))
        .route("/keys/{id}/allowlist", put(keys::set_allowlist))
        .route("/models", get(models::list).post(models::create))
        .route("/models/{id}", get(models::show).patch(models::edit).delete(models::delete))
        .route("/models/{id}/enabled", put(models::set_enabled))
        .route("/models/{id}/capacity", put(models::set_capacity));
    Router::new()
        .nest("/api/v1", api)
        .fallback(async || ApiError::unknown_endpoint())
        .layer(from_fn_with_state(Arc::clone(&app), auth::require_token))
        .layer(from_fn(envelope))
        .with_state(app)
}
