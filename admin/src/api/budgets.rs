//! `/budgets`: every budget with what it has used, what is left, and how long that lasts.
//!
//! What is used comes from the owner of the limits where it knows, because that decides; else from the spend book.

use std::{collections::HashMap, time::Duration};

use axum::{
    Json,
    extract::{FromRequestParts, State},
    http::{HeaderValue, header, request::Parts},
    response::{IntoResponse, Response},
};
use obleth_policy::{
    id::TenantId,
    limit::{Definition, Meter, Scope, Standing, Turn},
    unit::UnixMs,
};
use serde::Serialize;
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    App,
    error::ApiError,
    list::{DEFAULT_LIMIT, MAX_LIMIT, limit, pairs, unknown, whole_path},
    openapi::{Api, Operation},
    shapes::{COUNT, Kind, Member, PERIOD, Shape, maybe, member},
};
use crate::{
    budget::{book::Gap, forecast, sums::Sums},
    clock,
    store::{
        budget_list::{After, BudgetFilter, BudgetLine},
        spend::{measure, scope_id, unit_name},
    },
};

/// How long the owner of the limits has for an answer; after it the spend book's word is shown.
const OWNER_WITHIN: Duration = Duration::from_millis(500);
/// How long the usage ledger has to say what the last days were; after it there is no forecast.
const PACE_WITHIN: Duration = Duration::from_secs(5);
/// What a scope is, in queries.
const SCOPE_KINDS: &[&str] = &["key", "tenant", "group"];

const SPENT_BUDGET: Shape = Shape {
    name: "SpentBudget",
    parts: &[],
    members: &[
        member("scope", Kind::OneOf(SCOPE_KINDS), ""),
        member("scope_id", Kind::Id, "of the key, tenant or group"),
        member("name", Kind::Text, "its name"),
        maybe("tenant_id", Kind::Id, "null = a group's"),
        PERIOD,
        member("unit", Kind::OneOf(&["tokens", "micro_usd"]), ""),
        member("limit", Kind::Number(COUNT), ""),
        member("spent", Kind::Number(COUNT), "in the period under way"),
        member("reserved", Kind::Number(COUNT), "by requests in flight"),
        member("left", Kind::Number(COUNT), ""),
        member("exhausted", Kind::Flag, "nothing is left but what is reserved"),
        maybe("begins_at", Kind::Time, "null = a lifetime"),
        maybe("resets_at", Kind::Time, "null = never"),
        maybe("days_left", Kind::Amount, "at the pace of the last 7 days; null = nothing was used in them"),
    ],
};

const BUDGETS_QUERY: &[Member] = &[
    member("scope", Kind::OneOf(SCOPE_KINDS), "only those of keys, tenants or groups"),
    member("scope_id", Kind::Id, "only those of this key, tenant or group"),
    member("tenant_id", Kind::Id, "only those of this tenant and its keys"),
    member("limit", Kind::Number(1..=MAX_LIMIT as i64), "default 100"),
    member("after", Kind::Text, "where the page begins, from the `Link` header of the page before"),
];

/// The routes of this file.
pub(super) fn routes(api: Api) -> Api {
    let about = "All budgets, those of the newest keys, tenants and groups first; the `Link` header leads to the next page";
    api.on(Operation::all("/budgets", about, &SPENT_BUDGET).asked(BUDGETS_QUERY), list)
}

/// What the client asks.
#[derive(Debug)]
struct Asked {
    filter: BudgetFilter,
    after: Option<After>,
    limit: u32,
    pairs: Vec<(String, String)>,
    path: String,
}

impl FromRequestParts<App> for Asked {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        let (pairs, path) = (pairs(parts)?, whole_path(parts));
        let (filter, after) = (BudgetFilter::default(), None);
        let mut asked = Self { filter, after, limit: DEFAULT_LIMIT, pairs: Vec::new(), path };
        for (name, value) in pairs {
            asked.set(&name, &value)?;
            if name != "after" {
                asked.pairs.push((name, value));
            }
        }
        Ok(asked)
    }
}

impl Asked {
    fn set(&mut self, name: &str, value: &str) -> Result<(), ApiError> {
        let id = || {
            let message = format!("`{name}` must be an id.");
            Uuid::try_parse(value).map_err(|_| ApiError::invalid(name, message))
        };
        match name {
            "limit" => self.limit = limit(value)?,
            "scope" => {
                let kind = SCOPE_KINDS.iter().copied().find(|kind| *kind == value);
                let message = "`scope` must be `key`, `tenant` or `group`.";
                self.filter.kind = Some(kind.ok_or_else(|| ApiError::invalid(name, message))?);
            }
            "scope_id" => self.filter.scope = Some(id()?),
            "tenant_id" => self.filter.tenant = Some(TenantId(id()?)),
            "after" => {
                let message = "`after` must come from a `Link` header.";
                self.after = Some(place(value).ok_or_else(|| ApiError::invalid(name, message))?);
            }
            _ => return Err(unknown(name)),
        }
        Ok(())
    }
}

/// A place in the list: `<scope's id>.<period>.<unit>`.
fn place(text: &str) -> Option<After> {
    let mut parts = text.split('.');
    let (id, period, unit) = (parts.next()?, parts.next()?, parts.next()?);
    let is_whole = parts.next().is_none();
    let (scope, measure) = (Uuid::try_parse(id).ok()?, measure(period, unit)?);
    is_whole.then_some(After { scope, measure })
}

fn place_of(meter: Meter) -> String {
    let unit = unit_name(meter.measure.unit()).unwrap_or_default();
    format!("{}.{}.{unit}", scope_id(meter.scope), meter.measure.period().as_str())
}

/// A budget as it is shown.
#[derive(Debug, Serialize)]
struct BudgetView {
    scope: &'static str,
    scope_id: String,
    name: String,
    tenant_id: Option<String>,
    period: &'static str,
    unit: &'static str,
    limit: u64,
    spent: u64,
    reserved: u64,
    left: u64,
    exhausted: bool,
    begins_at: Option<String>,
    resets_at: Option<String>,
    days_left: Option<f64>,
}

async fn list(State(app): State<App>, asked: Asked) -> Result<Response, ApiError> {
    let Asked { filter, after, limit, pairs, path } = asked;
    let mut lines = app.ask(move |db| db.list_budgets(&filter, after, limit)).await?;
    let has_more = lines.len() > limit as usize;
    lines.truncate(limit as usize);
    let link = lines.last().filter(|_| has_more).map(|last| {
        let query: String = pairs.iter().map(|(name, value)| format!("{name}={value}&")).collect();
        format!("<{path}?{query}after={}>; rel=\"next\"", place_of(last.meter))
    });
    let figures = Figures::now(&app, &lines).await;
    let views: Vec<_> = lines.into_iter().filter_map(|line| figures.view(line)).collect();
    let mut response = Json(views).into_response();
    if let Some(Ok(link)) = link.map(HeaderValue::try_from) {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

/// What is known of some budgets now.
struct Figures {
    definitions: HashMap<Scope, Definition>,
    standings: HashMap<Meter, Standing>,
    booked: HashMap<Meter, u64>,
    pace: Option<Sums>,
    stretch: (UnixMs, UnixMs),
}

impl Figures {
    async fn now(app: &App, lines: &[BudgetLine]) -> Self {
        let definitions: HashMap<_, _> =
            app.limits.definitions().into_iter().map(|definition| (definition.scope, definition)).collect();
        let standings = if lines.is_empty() { None } else { app.pump.look_at_limits(OWNER_WITHIN).await };
        let standings = standings.iter().flat_map(|all| all.iter()).map(|of| (of.meter, *of)).collect();
        let since = |meter: Meter| Some(definitions.get(&meter.scope)?.turn(meter.measure).begins);
        let places: Vec<_> = lines.iter().filter_map(|line| Some((line.meter, since(line.meter)?))).collect();
        let booked = app.keeper.caught_up(move |book| {
            let spent = |(meter, since)| Some((meter, book.total(meter, since)?.spent));
            places.into_iter().filter_map(spent).collect()
        });
        let booked = booked.await.unwrap_or_default();
        let stretch = forecast::stretch(clock::now());
        let days: Vec<_> =
            lines.iter().map(|line| Gap { meter: line.meter, since: stretch.0, ends: stretch.1 }).collect();
        let pace = timeout(PACE_WITHIN, Sums::of(&app.ledger, &days)).await;
        Self { definitions, standings, booked, pace: pace.ok().and_then(Result::ok), stretch }
    }

    /// `None` for one that was taken away meanwhile.
    fn view(&self, BudgetLine { meter, name, tenant, limit }: BudgetLine) -> Option<BudgetView> {
        let turn = self.definitions.get(&meter.scope)?.turn(meter.measure);
        let owners = self.standings.get(&meter).filter(|standing| standing.since == turn.begins);
        let booked = self.booked.get(&meter).copied().unwrap_or(0);
        let (spent, reserved) = owners.map_or((booked, 0), |standing| (standing.used, standing.reserved));
        let left = limit.saturating_sub(spent).saturating_sub(reserved);
        let (since, ends) = self.stretch;
        let used = self.pace.as_ref().map_or(0, |pace| pace.used(&Gap { meter, since, ends }));
        let time = |at: UnixMs| (turn != Turn::FOREVER).then(|| clock::text(at));
        Some(BudgetView {
            scope: meter.scope.kind(),
            scope_id: scope_id(meter.scope).to_string(),
            name,
            tenant_id: tenant.map(|tenant| tenant.to_string()),
            period: meter.measure.period().as_str(),
            unit: unit_name(meter.measure.unit())?,
            limit,
            spent,
            reserved,
            left,
            exhausted: spent >= limit,
            begins_at: time(turn.begins),
            resets_at: time(turn.ends),
            days_left: forecast::days_left(left, used),
        })
    }
}

#[cfg(test)]
mod tests {
    use obleth_policy::{id::KeyId, limit::Measure};

    use super::*;

    #[test]
    fn every_place_of_the_list_reads_back() {
        let scope = Uuid::from_u128(7);
        for measure in Measure::ALL.into_iter().filter(|measure| measure.is_budget()) {
            let text = place_of(Meter { scope: Scope::Key(KeyId(scope)), measure });
            assert_eq!(place(&text), Some(After { scope, measure }), "{text}");
        }
        let id = "00000000-0000-0000-0000-000000000007";
        for wrong in ["", id, "x.daily.tokens", "daily.tokens"] {
            assert_eq!(place(wrong), None, "{wrong}");
        }
        assert_eq!(place(&format!("{id}.minute.tokens")), None);
        assert_eq!(place(&format!("{id}.daily.tokens.x")), None);
    }
}
