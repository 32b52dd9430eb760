//! `/tenants`: the parties that requests are accounted to.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use obleth_policy::{
    id::TenantId,
    network::Cidr,
    snapshot::{Brownout, TenantStatus},
};

use super::{
    App, IN_FLIGHT, RATES, WEIGHTS, act,
    body::Fields,
    budget,
    error::ApiError,
    id_of,
    list::ListQuery,
    openapi::{Api, Body, Operation},
    shapes::{TENANT, TENANT_EDIT},
};
use crate::{
    store::{
        fault::Kind,
        rows::{TenantRow, status_from},
    },
    usage::calendar::Zone,
};

/// The routes of this file.
pub(super) fn routes(api: Api) -> Api {
    const ONE: &str = "/tenants/{id}";
    let just = |only| Body::just(&TENANT_EDIT, only);
    let quota = Body::some(&TENANT_EDIT, &["tokens_per_minute", "requests_per_minute"]);
    api.on(Operation::list("/tenants", "All tenants, newest first", &TENANT, &[]), list)
        .on(Operation::post("/tenants", "Make a tenant", Body::of(&TENANT_EDIT, &["name"]), &TENANT), create)
        .on(Operation::get(ONE, "One tenant", &TENANT), show)
        .on(Operation::patch(ONE, "Change what is named", Body::of(&TENANT_EDIT, &[]), &TENANT), edit)
        .on(Operation::delete(ONE, "Delete it; its keys answer 403 `tenant_not_found`", &TENANT), delete)
        .on(Operation::put("/tenants/{id}/quota", "Set its rates", quota, &TENANT), set_quota)
        .on(Operation::put("/tenants/{id}/weight", "Set its share", just(&["weight"]), &TENANT), set_weight)
        .on(Operation::put("/tenants/{id}/group", "Move it", just(&["group_name"]), &TENANT), set_group)
        .on(
            Operation::put("/tenants/{id}/status", "Suspend or resume it", just(&["status"]), &TENANT),
            set_status,
        )
        .on(
            Operation::put(
                "/tenants/{id}/brownout",
                "Say what happens to requests that would wait long",
                just(&["brownout"]),
                &TENANT,
            ),
            set_brownout,
        )
        .on(
            Operation::put("/tenants/{id}/allowlist", "Set its models", just(&["allowed_models"]), &TENANT),
            set_allowlist,
        )
}

type Answer = Result<Json<TenantRow>, ApiError>;

pub(super) fn id(text: &str) -> Result<TenantId, ApiError> {
    id_of(text, Kind::Tenant).map(TenantId)
}

/// What a body says about a tenant; what it does not say stays.
#[derive(Debug, Default)]
struct Edit {
    name: Option<String>,
    weight: Option<u32>,
    group_name: Option<String>,
    status: Option<TenantStatus>,
    tokens_per_minute: Option<Option<i64>>,
    requests_per_minute: Option<Option<i64>>,
    max_in_flight: Option<Option<u32>>,
    allowed_models: Option<Option<Vec<String>>>,
    allowed_ips: Option<Option<Vec<Cidr>>>,
    brownout: Option<Option<Brownout>>,
    time_zone: Option<Zone>,
}

impl Edit {
    fn read(mut body: Fields) -> Result<Self, ApiError> {
        let edit = Self {
            name: body.name("name")?,
            weight: body.number("weight", WEIGHTS)?,
            group_name: body.name("group_name")?,
            status: status(&mut body)?,
            tokens_per_minute: body.maybe_number("tokens_per_minute", RATES)?,
            requests_per_minute: body.maybe_number("requests_per_minute", RATES)?,
            max_in_flight: body.maybe_number("max_in_flight", IN_FLIGHT)?,
            allowed_models: body.maybe_model_names("allowed_models")?,
            allowed_ips: body.maybe_networks("allowed_ips")?,
            brownout: brownout(&mut body)?,
            time_zone: budget::time_zone(&mut body)?,
        };
        body.finish()?;
        Ok(edit)
    }

    fn apply(self, row: &mut TenantRow) {
        set(&mut row.name, self.name);
        set(&mut row.weight, self.weight);
        set(&mut row.group_name, self.group_name);
        set(&mut row.status, self.status);
        set(&mut row.tokens_per_minute, self.tokens_per_minute);
        set(&mut row.requests_per_minute, self.requests_per_minute);
        set(&mut row.max_in_flight, self.max_in_flight);
        set(&mut row.allowed_models, self.allowed_models);
        set(&mut row.allowed_ips, self.allowed_ips);
        set(&mut row.brownout, self.brownout);
        set(&mut row.time_zone, self.time_zone);
    }
}

/// Puts a value in where there is one.
pub(super) fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn status(body: &mut Fields) -> Result<Option<TenantStatus>, ApiError> {
    let wrong = || ApiError::invalid("status", "`status` must be `active`, `suspended` or `archived`.");
    body.text("status")?.map(|text| status_from(&text).ok_or_else(wrong)).transpose()
}

fn brownout(body: &mut Fields) -> Result<Option<Option<Brownout>>, ApiError> {
    let wrong = || ApiError::invalid("brownout", "`brownout` must be `allow`, `never`, `reject` or null.");
    let named = |name: String| Brownout::of(&name).ok_or_else(wrong);
    body.maybe_text("brownout")?.map(|name| name.map(named).transpose()).transpose()
}

async fn update(app: &App, of: &str, action: &'static str, edit: Edit) -> Answer {
    let id = id(of)?;
    app.change(move |db| db.update_tenant(&act(action), id, |row| edit.apply(row))).await.map(Json)
}

pub(super) async fn list(State(app): State<App>, query: ListQuery) -> Result<Response, ApiError> {
    let page = query.page;
    let rows = app.ask(move |db| db.list_tenants(page)).await?;
    Ok(query.answer(rows, |row| row.id.0))
}

pub(super) async fn show(State(app): State<App>, Path(of): Path<String>) -> Answer {
    let id = id(&of)?;
    app.ask(move |db| db.tenant(id)).await.map(Json)
}

pub(super) async fn create(
    State(app): State<App>,
    mut body: Fields,
) -> Result<(StatusCode, Json<TenantRow>), ApiError> {
    let name = body.name("name")?;
    let mut row = TenantRow::draft(body.required("name", name)?);
    Edit::read(body)?.apply(&mut row);
    let row = app.change(move |db| db.create_tenant(&act("tenant.create"), row)).await?;
    Ok((StatusCode::CREATED, Json(row)))
}

pub(super) async fn edit(State(app): State<App>, Path(of): Path<String>, body: Fields) -> Answer {
    update(&app, &of, "tenant.update", Edit::read(body)?).await
}

pub(super) async fn delete(State(app): State<App>, Path(of): Path<String>) -> Answer {
    let id = id(&of)?;
    app.change(move |db| db.delete_tenant(&act("tenant.delete"), id)).await.map(Json)
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
    update(&app, &of, "tenant.quota", edit).await
}

pub(super) async fn set_weight(State(app): State<App>, Path(of): Path<String>, mut body: Fields) -> Answer {
    let weight = body.number("weight", WEIGHTS)?;
    let weight = Some(body.required("weight", weight)?);
    body.finish()?;
    update(&app, &of, "tenant.weight", Edit { weight, ..Edit::default() }).await
}

pub(super) async fn set_group(State(app): State<App>, Path(of): Path<String>, mut body: Fields) -> Answer {
    let group_name = body.name("group_name")?;
    let group_name = Some(body.required("group_name", group_name)?);
    body.finish()?;
    update(&app, &of, "tenant.group", Edit { group_name, ..Edit::default() }).await
}

pub(super) async fn set_status(State(app): State<App>, Path(of): Path<String>, mut body: Fields) -> Answer {
    let status = status(&mut body)?;
    let status = Some(body.required("status", status)?);
    body.finish()?;
    update(&app, &of, "tenant.status", Edit { status, ..Edit::default() }).await
}

pub(super) async fn set_brownout(State(app): State<App>, Path(of): Path<String>, mut body: Fields) -> Answer {
    let brownout = brownout(&mut body)?;
    let brownout = Some(body.required("brownout", brownout)?);
    body.finish()?;
    update(&app, &of, "tenant.brownout", Edit { brownout, ..Edit::default() }).await
}

pub(super) async fn set_allowlist(
    State(app): State<App>,
    Path(of): Path<String>,
    mut body: Fields,
) -> Answer {
    let allowed_models = body.maybe_model_names("allowed_models")?;
    let allowed_models = Some(body.required("allowed_models", allowed_models)?);
    body.finish()?;
    update(&app, &of, "tenant.allowlist", Edit { allowed_models, ..Edit::default() }).await
}
