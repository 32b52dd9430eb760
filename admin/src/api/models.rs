//! `/models`: what clients may ask for, and where it runs.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use obleth_policy::id::ModelId;

use super::{
    App, IN_FLIGHT, act,
    backend::{Backend, require_backend},
    body::Fields,
    error::ApiError,
    id_of,
    list::ListQuery,
    prices::PricesEdit,
    tenants::set,
};
use crate::store::{
    fault::{Kind, StoreError},
    rows::{ModelRow, Timeouts, TokenWeights},
};

/// What time limits may be: up to a week, and 0 for none.
pub(super) const LIMITS_MS: std::ops::RangeInclusive<i64> = 0..=7 * 24 * 3600 * 1000;
/// What a context length may be.
pub(super) const MODEL_LEN: std::ops::RangeInclusive<i64> = 1..=i32::MAX as i64;
/// What a token may weigh.
pub(super) const TOKEN_WEIGHTS: std::ops::RangeInclusive<u32> = 0..=1000;
/// What a cached input token may weigh, as a fraction of another.
pub(super) const FRACTIONS: std::ops::RangeInclusive<u32> = 0..=1;
/// Names of a model besides its own.
const MAX_ALIASES: usize = 100;

type Answer = Result<Json<ModelRow>, ApiError>;

pub(super) fn id(text: &str) -> Result<ModelId, ApiError> {
    id_of(text, Kind::Model).map(ModelId)
}

/// What a body says about a model; what it does not say stays.
#[derive(Debug, Default)]
struct Edit {
    model_name: Option<String>,
    aliases: Option<Vec<String>>,
    enabled: Option<bool>,
    upstream_model: Option<Option<String>>,
    max_in_flight: Option<Option<u32>>,
    max_model_len: Option<Option<u32>>,
    timeouts: Option<TimeoutsEdit>,
    weights: WeightsEdit,
    sends_priority: Option<bool>,
    continuous_usage: Option<bool>,
    prices: PricesEdit,
    backend: Backend,
}

/// What a body says about time limits: `null` for the whole or for one means the default.
#[derive(Debug, Default)]
struct TimeoutsEdit {
    reset: bool,
    connect_ms: Option<Option<u32>>,
    first_byte_ms: Option<Option<u32>>,
    idle_ms: Option<Option<u32>>,
    total_ms: Option<Option<u32>>,
}

impl TimeoutsEdit {
    fn read(body: &mut Fields) -> Result<Option<Self>, ApiError> {
        let mut body = match body.maybe_object("timeouts", "timeouts.")? {
            None => return Ok(None),
            Some(None) => return Ok(Some(Self { reset: true, ..Self::default() })),
            Some(Some(body)) => body,
        };
        let edit = Self {
            reset: false,
            connect_ms: body.maybe_number("connect_ms", LIMITS_MS)?,
            first_byte_ms: body.maybe_number("first_byte_ms", LIMITS_MS)?,
            idle_ms: body.maybe_number("idle_ms", LIMITS_MS)?,
            total_ms: body.maybe_number("total_ms", LIMITS_MS)?,
        };
        body.finish()?;
        Ok(Some(edit))
    }

    fn apply(self, to: &mut Timeouts) {
        if self.reset {
            *to = Timeouts::default();
        }
        set(&mut to.connect_ms, self.connect_ms);
        set(&mut to.first_byte_ms, self.first_byte_ms);
        set(&mut to.idle_ms, self.idle_ms);
        set(&mut to.total_ms, self.total_ms);
    }
}

/// What a body says about the weights of tokens, in thousandths: `null` for one means the default.
#[derive(Debug, Default)]
struct WeightsEdit {
    input_milli: Option<Option<u32>>,
    output_milli: Option<Option<u32>>,
    cached_milli: Option<Option<u32>>,
}

impl WeightsEdit {
    fn read(body: &mut Fields) -> Result<Self, ApiError> {
        Ok(Self {
            input_milli: body.maybe_thousandths("input_weight", TOKEN_WEIGHTS)?,
            output_milli: body.maybe_thousandths("output_weight", TOKEN_WEIGHTS)?,
            cached_milli: body.maybe_thousandths("cached_input_weight", FRACTIONS)?,
        })
    }

    fn apply(self, to: &mut TokenWeights) {
        set(&mut to.input_milli, self.input_milli);
        set(&mut to.output_milli, self.output_milli);
        set(&mut to.cached_milli, self.cached_milli);
    }
}

impl Edit {
    fn read(mut body: Fields) -> Result<Self, ApiError> {
        let edit = Self {
            model_name: body.model_name("model_name")?,
            aliases: body.model_names("aliases")?,
            enabled: body.flag("enabled")?,
            upstream_model: body.maybe_model_name("upstream_model")?,
            max_in_flight: body.maybe_number("max_in_flight", IN_FLIGHT)?,
            max_model_len: body.maybe_number("max_model_len", MODEL_LEN)?,
            timeouts: TimeoutsEdit::read(&mut body)?,
            weights: WeightsEdit::read(&mut body)?,
            sends_priority: body.flag("sends_priority")?,
            continuous_usage: body.flag("continuous_usage")?,
            prices: PricesEdit::read(&mut body)?,
            backend: Backend::read(&mut body)?,
        };
        body.finish()?;
        if edit.aliases.as_ref().is_some_and(|aliases| aliases.len() > MAX_ALIASES) {
            let message = format!("`aliases` must not have more than {MAX_ALIASES} entries.");
            return Err(ApiError::invalid("aliases", message));
        }
        Ok(edit)
    }

    fn apply(self, row: &mut ModelRow, has_default_upstream: bool) -> Result<(), StoreError> {
        set(&mut row.model_name, self.model_name);
        set(&mut row.aliases, self.aliases);
        set(&mut row.enabled, self.enabled);
        set(&mut row.upstream_model, self.upstream_model);
        set(&mut row.max_in_flight, self.max_in_flight);
        set(&mut row.max_model_len, self.max_model_len);
        self.weights.apply(&mut row.weights);
        set(&mut row.sends_priority, self.sends_priority);
        set(&mut row.continuous_usage, self.continuous_usage);
        self.prices.apply(&mut row.prices);
        if let Some(timeouts) = self.timeouts {
            timeouts.apply(&mut row.timeouts);
        }
        if row.aliases.contains(&row.model_name) {
            let message = "An alias is the model's own name.".to_owned();
            return Err(StoreError::Invalid { param: "aliases".to_owned(), message });
        }
        self.backend.apply(&mut row.endpoints, has_default_upstream)
    }
}

async fn update(app: &App, of: &str, action: &'static str, edit: Edit) -> Answer {
    let id = id(of)?;
    let holds = edit.backend.check_names(&app.names).await?;
    let has_default = app.has_default_upstream;
    let edit = move |row: &mut ModelRow| edit.apply(row, has_default);
    // What comes out of a change lives until that is published, so the holds go through it.
    let changed = app.change(move |db| Ok((db.update_model(&act(action), id, edit)?, holds))).await;
    changed.map(|(row, _)| Json(row))
}

pub(super) async fn list(State(app): State<App>, query: ListQuery) -> Result<Response, ApiError> {
    let page = query.page;
    let rows = app.ask(move |db| db.list_models(page)).await?;
    Ok(query.answer(rows, |row| row.id.0))
}

pub(super) async fn show(State(app): State<App>, Path(of): Path<String>) -> Answer {
    let id = id(&of)?;
    app.ask(move |db| db.model(id)).await.map(Json)
}

pub(super) async fn create(
    State(app): State<App>,
    mut body: Fields,
) -> Result<(StatusCode, Json<ModelRow>), ApiError> {
    let name = body.model_name("model_name")?;
    let mut row = ModelRow::draft(body.required("model_name", name)?);
    let edit = Edit::read(body)?;
    let holds = edit.backend.check_names(&app.names).await?;
    edit.apply(&mut row, app.has_default_upstream)?;
    require_backend(&row.endpoints, app.has_default_upstream)?;
    let made = app.change(move |db| Ok((db.create_model(&act("model.create"), row)?, holds))).await;
    let (row, _) = made?;
    Ok((StatusCode::CREATED, Json(row)))
}

pub(super) async fn edit(State(app): State<App>, Path(of): Path<String>, body: Fields) -> Answer {
    update(&app, &of, "model.update", Edit::read(body)?).await
}

pub(super) async fn delete(State(app): State<App>, Path(of): Path<String>) -> Answer {
    let id = id(&of)?;
    app.change(move |db| db.delete_model(&act("model.delete"), id)).await.map(Json)
}

pub(super) async fn set_enabled(State(app): State<App>, Path(of): Path<String>, mut body: Fields) -> Answer {
    let enabled = body.flag("enabled")?;
    let enabled = Some(body.required("enabled", enabled)?);
    body.finish()?;
    update(&app, &of, "model.enabled", Edit { enabled, ..Edit::default() }).await
}

pub(super) async fn set_capacity(State(app): State<App>, Path(of): Path<String>, mut body: Fields) -> Answer {
    let max_in_flight = body.maybe_number("max_in_flight", IN_FLIGHT)?;
    let max_in_flight = Some(body.required("max_in_flight", max_in_flight)?);
    body.finish()?;
    update(&app, &of, "model.capacity", Edit { max_in_flight, ..Edit::default() }).await
}
