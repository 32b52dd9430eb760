//! `/keys` and `/tenants/{id}/keys`: credentials of tenants.
//!
//! A secret is made here, shown in the answer of the creation or the rotation, and kept nowhere.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use obleth_policy::{
    id::{KeyId, TenantId},
    key::KeyDigest,
    network::Cidr,
    unit::UnixMs,
};
use serde::Serialize;

use super::{
    App, IN_FLIGHT, RATES, WEIGHTS, act,
    body::{Fields, MaybeFields},
    error::ApiError,
    id_of,
    list::ListQuery,
    openapi::{Api, Body, Operation},
    shapes::{KEY, KEY_EDIT, KEY_WITH_SECRET, NEW_KEY, OWNER_ID, ROTATION},
    tenants,
    tenants::set,
};
use crate::{
    random,
    store::{
        NewSecret,
        fault::Kind,
        rows::{KeyRow, key_prefix},
    },
};

/// What `grace_secs` of a rotation may be: at most 30 days, for a secret that nobody needs in a month is lost.
pub(super) const GRACE_SECS: std::ops::RangeInclusive<i64> = 0..=30 * 24 * 3600;
/// What it is where nobody says: time to bring the new secret everywhere.
const DEFAULT_GRACE_SECS: i64 = 3600;

/// The routes of this file.
pub(super) fn routes(api: Api) -> Api {
    const ONE: &str = "/keys/{id}";
    let new = Body::of(&KEY_EDIT, &["name"]);
    let new_of = Body::of(&NEW_KEY, &["name", "tenant_id"]);
    let rotation = Body::optional(&ROTATION);
    let disabled = Body::just(&KEY_EDIT, &["disabled"]);
    let weight = Body::just(&KEY_EDIT, &["weight"]);
    let quota = Body::some(&KEY_EDIT, &["tokens_per_minute", "requests_per_minute"]);
    let allowlist = Body::just(&KEY_EDIT, &["allowed_models"]);
    api.on(Operation::list("/tenants/{id}/keys", "A tenant's keys, newest first", &KEY, &[]), list_of_tenant)
        .on(
            Operation::post(
                "/tenants/{id}/keys",
                "Make a key; its secret is shown this once",
                new,
                &KEY_WITH_SECRET,
            ),
            create_for_tenant,
        )
        .on(Operation::list("/keys", "All keys, newest first", &KEY, &[OWNER_ID]), list)
        .on(
            Operation::post("/keys", "Make a key; its secret is shown this once", new_of, &KEY_WITH_SECRET),
            create,
        )
        .on(Operation::get(ONE, "One key", &KEY), show)
        .on(Operation::patch(ONE, "Change what is named", Body::of(&KEY_EDIT, &[]), &KEY), edit)
        .on(Operation::delete(ONE, "Delete it; it answers 403 `key_deleted`", &KEY), delete)
        .on(
            Operation::post(
                "/keys/{id}/rotate",
                "Give it a new secret, shown this once",
                rotation,
                &KEY_WITH_SECRET,
            ),
            rotate,
        )
        .on(Operation::put("/keys/{id}/disabled", "Switch it off or on", disabled, &KEY), set_disabled)
        .on(Operation::put("/keys/{id}/weight", "Set its share", weight, &KEY), set_weight)
        .on(Operation::put("/keys/{id}/quota", "Set its rates", quota, &KEY), set_quota)
        .on(Operation::put("/keys/{id}/allowlist", "Set its models", allowlist, &KEY), set_allowlist)
}

type Answer = Result<Json<KeyRow>, ApiError>;

pub(super) fn id(text: &str) -> Result<KeyId, ApiError> {
    id_of(text, Kind::Key).map(KeyId)
}

/// What a body says about a key; what it does not say stays.
#[derive(Debug, Default)]
struct Edit {
    name: Option<String>,
    disabled: Option<bool>,
    expires_at: Option<Option<UnixMs>>,
    allowed_models: Option<Option<Vec<String>>>,
    allowed_ips: Option<Option<Vec<Cidr>>>,
    weight: Option<u32>,
    tokens_per_minute: Option<Option<i64>>,
    requests_per_minute: Option<Option<i64>>,
    max_in_flight: Option<Option<u32>>,
}

impl Edit {
    fn read(mut body: Fields) -> Result<Self, ApiError> {
        let edit = Self {
            name: body.name("name")?,
            disabled: body.flag("disabled")?,
            expires_at: body.maybe_time("expires_at")?,
            allowed_models: body.maybe_model_names("allowed_models")?,
            allowed_ips: body.maybe_networks("allowed_ips")?,
            weight: body.number("weight", WEIGHTS)?,
            tokens_per_minute: body.maybe_number("tokens_per_minute", RATES)?,
            requests_per_minute: body.maybe_number("requests_per_minute", RATES)?,
            max_in_flight: body.maybe_number("max_in_flight", IN_FLIGHT)?,
        };
        body.finish()?;
        Ok(edit)
    }

    fn apply(self, row: &mut KeyRow) {
        set(&mut row.name, self.name);
        set(&mut row.disabled, self.disabled);
        set(&mut row.expires_at, self.expires_at);
        set(&mut row.allowed_models, self.allowed_models);
        set(&mut row.allowed_ips, self.allowed_ips);
        set(&mut row.weight, self.weight);
        set(&mut row.tokens_per_minute, self.tokens_per_minute);
        set(&mut row.requests_per_minute, self.requests_per_minute);
        set(&mut row.max_in_flight, self.max_in_flight);
    }
}

async fn update(app: &App, of: &str, action: &'static str, edit: Edit) -> Answer {
    let id = id(of)?;
    app.change_key(move |db| db.update_key(&act(action), id, |row| edit.apply(row))).await.map(Json)
}

async fn list_by(app: &App, tenant: Option<TenantId>, query: &ListQuery) -> Result<Response, ApiError> {
    let page = query.page;
    let rows = app.ask(move |db| db.list_keys(tenant, page)).await?;
    Ok(query.answer(rows, |row| row.id.0))
}

pub(super) async fn list(State(app): State<App>, query: ListQuery) -> Result<Response, ApiError> {
    list_by(&app, query.tenant, &query).await
}

pub(super) async fn list_of_tenant(
    State(app): State<App>,
    Path(of): Path<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    list_by(&app, Some(tenants::id(&of)?), &query).await
}

pub(super) async fn show(State(app): State<App>, Path(of): Path<String>) -> Answer {
    let id = id(&of)?;
    app.ask(move |db| db.key(id)).await.map(Json)
}

/// A key with its newest secret: the only answer that ever holds one.
#[derive(Serialize)]
pub(super) struct WithSecret {
    #[serde(flatten)]
    row: KeyRow,
    secret: String,
}

pub(super) async fn create_for_tenant(
    State(app): State<App>,
    Path(of): Path<String>,
    body: Fields,
) -> Result<(StatusCode, Json<WithSecret>), ApiError> {
    create_by(&app, tenants::id(&of)?, body).await
}

pub(super) async fn create(
    State(app): State<App>,
    mut body: Fields,
) -> Result<(StatusCode, Json<WithSecret>), ApiError> {
    let tenant = body.text("tenant_id")?;
    let tenant = body.required("tenant_id", tenant)?;
    let unknown = |_| ApiError::invalid("tenant_id", "`tenant_id` is not the id of a tenant.");
    create_by(&app, tenants::id(&tenant).map_err(unknown)?, body).await
}

async fn create_by(
    app: &App,
    tenant: TenantId,
    mut body: Fields,
) -> Result<(StatusCode, Json<WithSecret>), ApiError> {
    let name = body.name("name")?;
    let name = body.required("name", name)?;
    let edit = Edit::read(body)?;
    let secret = random::generate_key_secret();
    let digest = KeyDigest::of(secret.as_bytes(), app.pepper.as_ref());
    let mut row = KeyRow::draft(tenant, name, &secret, digest);
    edit.apply(&mut row);
    let row = app.change_key(move |db| db.create_key(&act("key.create"), row)).await?;
    Ok((StatusCode::CREATED, Json(WithSecret { row, secret })))
}

pub(super) async fn rotate(
    State(app): State<App>,
    Path(of): Path<String>,
    MaybeFields(mut body): MaybeFields,
) -> Result<(StatusCode, Json<WithSecret>), ApiError> {
    let id = id(&of)?;
    let grace_secs: i64 = body.number("grace_secs", GRACE_SECS)?.unwrap_or(DEFAULT_GRACE_SECS);
    body.finish()?;
    let secret = random::generate_key_secret();
    let digest = KeyDigest::of(secret.as_bytes(), app.pepper.as_ref());
    let new = NewSecret { digest, prefix: key_prefix(&secret) };
    let row = app.change_key(move |db| db.rotate_key(&act("key.rotate"), id, new, grace_secs * 1000)).await?;
    Ok((StatusCode::CREATED, Json(WithSecret { row, secret })))
}

pub(super) async fn edit(State(app): State<App>, Path(of): Path<String>, body: Fields) -> Answer {
    update(&app, &of, "key.update", Edit::read(body)?).await
}

pub(super) async fn delete(State(app): State<App>, Path(of): Path<String>) -> Answer {
    let id = id(&of)?;
    app.change_key(move |db| db.delete_key(&act("key.delete"), id)).await.map(Json)
}

pub(super) async fn set_disabled(State(app): State<App>, Path(of): Path<String>, mut body: Fields) -> Answer {
    let disabled = body.flag("disabled")?;
    let disabled = Some(body.required("disabled", disabled)?);
    body.finish()?;
    update(&app, &of, "key.disabled", Edit { disabled, ..Edit::default() }).await
}

pub(super) async fn set_weight(State(app): State<App>, Path(of): Path<String>, mut body: Fields) -> Answer {
    let weight = body.number("weight", WEIGHTS)?;
    let weight = Some(body.required("weight", weight)?);
    body.finish()?;
    update(&app, &of, "key.weight", Edit { weight, ..Edit::default() }).await
}

pub(super) async fn set_quota(State(app): State<App>, Path(of): Path<String>, mut body: Fields) -> Answer {
    let edit = Edit {
        tokens_per_minute: body.maybe_number("tokens_per_minute", RATES)?,
        requests_per_minute: body.maybe_number("requests_per_minute", RATES)?,
        ..Edit::default()
    };
    let given = edit.tokens_per_minute.is_some() || edit.requests_per_minute.is_some();
    body.finish()?;
    if !given {
        let message = "Give `tokens_per_minute`, `requests_per_minute` or both.";
        return Err(ApiError::invalid("tokens_per_minute", message));
    }
    update(&app, &of, "key.quota", edit).await
}

pub(super) async fn set_allowlist(
    State(app): State<App>,
    Path(of): Path<String>,
    mut body: Fields,
) -> Answer {
    let allowed_models = body.maybe_model_names("allowed_models")?;
    let allowed_models = Some(body.required("allowed_models", allowed_models)?);
    body.finish()?;
    update(&app, &of, "key.allowlist", Edit { allowed_models, ..Edit::default() }).await
}
