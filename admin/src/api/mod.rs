//! The admin API: routes, and what all handlers work with.
//!
//! A change runs to its end even if the client leaves: once the store has committed, the shards are told. It
//! answers only after they were.

mod auth;
mod backend;
mod body;
mod budget;
mod budgets;
mod docs;
mod error;
mod fairshare;
mod groups;
mod health;
mod keys;
mod list;
mod models;
mod openapi;
mod prices;
mod shapes;
mod stats;
mod tenants;
mod usage;

use std::future::ready;
use std::sync::Arc;

use axum::{
    Router,
    http::header,
    middleware::{from_fn, from_fn_with_state},
    routing::get,
};
use obleth_policy::key::Pepper;
use tokio::sync::Notify;
use uuid::Uuid;

pub(crate) use auth::TokenDigest;
pub(crate) use error::{ApiError, envelope};

use openapi::{Api, Body, Operation};

use crate::{
    budget::keeper::Keeper,
    limits::LimitDesk,
    pump::Pump,
    resolve::Names,
    sampler::Sampler,
    snapshot::Publisher,
    store::{
        Db, Store,
        fault::{Kind, StoreError},
        rows::{Act, KeyChange, KeyRow},
    },
    usage::Ledger,
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
    pub(crate) ledger: Ledger,
    pub(crate) pump: Arc<Pump>,
    pub(crate) limits: Arc<LimitDesk>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) sampler: Arc<Sampler>,
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
            let limits = Arc::clone(&app.limits);
            let (out, registry) = app
                .store
                .call(move |db| {
                    let out = change(db)?;
                    let registry = db.registry().inspect(|registry| limits.follow(registry));
                    Ok((out, registry))
                })
                .await?;
            match registry {
                Ok(registry) => {
                    app.limits.begun().await;
                    app.publisher.publish(registry);
                }
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

    /// Makes a change to one key, and returns once the coordinator and every shard have been told that it changed.
    async fn change_key(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Db) -> Result<KeyChange, StoreError> + Send + 'static,
    ) -> Result<KeyRow, ApiError> {
        let app = Arc::clone(self);
        finish(async move {
            let limits = Arc::clone(&app.limits);
            let change =
                app.store.call(move |db| change(db).inspect(|change| limits.follow_key(&change.row))).await?;
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

/// Everything under `/api/v1`, each route with what the document says of it.
fn operations() -> Api {
    let api = Api::default()
        .on(Operation::get("/health", "Whether the stores answer", &shapes::HEALTH).open(), health::health)
        .on(Operation::get("/stats", "What is in flight now", &shapes::STATS), stats::stats)
        .on(Operation::get("/version", "What runs here", &shapes::VERSION), stats::version);
    let api = fairshare::routes(api);
    let api = groups::routes(api);
    let api = tenants::routes(api);
    let api = keys::routes(api);
    let api = budget::routes(api);
    let api = budgets::routes(api);
    let api = usage::routes(api);
    let api = model_routes(api);
    prices::routes(api)
}

fn model_routes(api: Api) -> Api {
    use shapes::{MODEL, MODEL_EDIT};
    const ONE: &str = "/models/{id}";
    let all = Body::of(&MODEL_EDIT, &[]);
    let enabled = Body::just(&MODEL_EDIT, &["enabled"]);
    let capacity = Body::just(&MODEL_EDIT, &["max_in_flight"]);
    api.on(Operation::list("/models", "All models, newest first", &MODEL, &[]), models::list)
        .on(
            Operation::post("/models", "Register a model", Body::of(&MODEL_EDIT, &["model_name"]), &MODEL),
            models::create,
        )
        .on(Operation::get(ONE, "One model", &MODEL), models::show)
        .on(Operation::patch(ONE, "Change what is named", all, &MODEL), models::edit)
        .on(Operation::delete(ONE, "Delete it", &MODEL), models::delete)
        .on(
            Operation::put("/models/{id}/enabled", "Switch it on or off", enabled, &MODEL),
            models::set_enabled,
        )
        .on(Operation::put("/models/{id}/capacity", "Set its slots", capacity, &MODEL), models::set_capacity)
}

/// All routes with their layers.
pub(crate) fn router(app: App) -> Router {
    let (api, operations) = operations().finish();
    // Made when they are asked for: hardly anybody does, and a document is two megabytes of memory in the making.
    let (operations, version) = (Arc::new(operations), app.version);
    let of_document = Arc::clone(&operations);
    let json = move || {
        let document = openapi::document(&of_document, version).to_string();
        ready(([(header::CONTENT_TYPE, "application/json")], document))
    };
    // The page has no use for anything but its own style.
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    let html =
        [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, policy)];
    let page = move || ready((html, docs::page(&operations)));
    Router::new()
        .nest(openapi::PREFIX, api)
        .route("/api/openapi.json", get(json))
        .route("/api/docs", get(page))
        .fallback(async || ApiError::unknown_endpoint())
        .layer(from_fn_with_state(Arc::clone(&app), auth::require_token))
        .layer(from_fn(envelope))
        .with_state(app)
}
