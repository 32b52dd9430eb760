//! `…/budget` of a key, a tenant or a group: what it may use in each day or month, or for ever; and whose days.

use axum::{
    Json,
    extract::{FromRequestParts, Path, State},
    http::request::Parts,
};
use obleth_policy::limit::Period;

use super::{
    App, RATES, act,
    body::Fields,
    error::ApiError,
    groups, keys, list,
    openapi::{Api, Body, Operation},
    shapes::{BUDGET, GROUP, KEY, PERIOD, TENANT},
    tenants,
    tenants::set,
};
use crate::{
    store::{
        budgets::{BudgetRow, PERIODS, period_from},
        rows::{GroupRow, KeyRow, TenantRow},
    },
    usage::calendar::Zone,
};

/// The routes of this file.
pub(super) fn routes(api: Api) -> Api {
    const OF_KEY: &str = "/keys/{id}/budget";
    const OF_TENANT: &str = "/tenants/{id}/budget";
    const OF_GROUP: &str = "/groups/{id}/budget";
    const SET: &str = "Set its budget of one period; what is not said stays";
    const END: &str = "Take its budget of one period away";
    let body = || Body::of(&BUDGET, &["period"]);
    api.on(Operation::put(OF_KEY, SET, body(), &KEY), set_of_key)
        .on(Operation::delete(OF_KEY, END, &KEY).told(&[PERIOD]), end_of_key)
        .on(Operation::put(OF_TENANT, SET, body(), &TENANT), set_of_tenant)
        .on(Operation::delete(OF_TENANT, END, &TENANT).told(&[PERIOD]), end_of_tenant)
        .on(Operation::put(OF_GROUP, SET, body(), &GROUP), set_of_group)
        .on(Operation::delete(OF_GROUP, END, &GROUP).told(&[PERIOD]), end_of_group)
}

/// What is said about one budget; what is not said stays.
#[derive(Clone, Copy, Debug)]
struct Edit {
    period: Period,
    limit_tokens: Option<Option<i64>>,
    limit_micro_usd: Option<Option<i64>>,
}

impl Edit {
    fn read(mut body: Fields) -> Result<Self, ApiError> {
        let name = body.text("period")?;
        let limit_tokens = body.maybe_number("limit_tokens", RATES)?;
        let limit_micro_usd = body.maybe_number("limit_micro_usd", RATES)?;
        let name = body.required("period", name);
        body.finish()?;
        let period = period(&name?)?;
        if limit_tokens.is_none() && limit_micro_usd.is_none() {
            let message = "A budget needs a unit: give `limit_tokens`, `limit_micro_usd` or both.";
            return Err(ApiError::invalid("limit_tokens", message));
        }
        Ok(Self { period, limit_tokens, limit_micro_usd })
    }

    /// A budget without a limit is none.
    fn apply(self, budgets: &mut Vec<BudgetRow>) {
        let is_this = |budget: &BudgetRow| budget.period == self.period;
        let none = BudgetRow { period: self.period, limit_tokens: None, limit_micro_usd: None };
        let mut budget = budgets.iter().copied().find(is_this).unwrap_or(none);
        set(&mut budget.limit_tokens, self.limit_tokens);
        set(&mut budget.limit_micro_usd, self.limit_micro_usd);
        budgets.retain(|budget| !is_this(budget));
        if budget != none {
            budgets.push(budget);
            budgets.sort_by_key(|budget| budget.period);
        }
    }
}

/// The budget that a query names, to be taken away.
#[derive(Debug)]
pub(super) struct Ended(Edit);

impl FromRequestParts<App> for Ended {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        let mut found = None;
        for (name, value) in list::pairs(parts)? {
            if name != "period" {
                return Err(list::unknown(&name));
            }
            found = Some(period(&value)?);
        }
        let missing = || ApiError::invalid("period", "`period` is missing.");
        let period = found.ok_or_else(missing)?;
        Ok(Self(Edit { period, limit_tokens: Some(None), limit_micro_usd: Some(None) }))
    }
}

fn period(name: &str) -> Result<Period, ApiError> {
    let [day, month, ever] = PERIODS.map(Period::as_str);
    let wrong = || ApiError::invalid("period", format!("`period` must be `{day}`, `{month}` or `{ever}`."));
    period_from(name).ok_or_else(wrong)
}

/// The zone that a body names.
pub(super) fn time_zone(body: &mut Fields) -> Result<Option<Zone>, ApiError> {
    const MESSAGE: &str = "`time_zone` must be the IANA name of a time zone, such as `Europe/Berlin`.";
    let wrong = || ApiError::invalid("time_zone", MESSAGE);
    body.text("time_zone")?.map(|name| Zone::of(&name).ok_or_else(wrong)).transpose()
}

async fn edit_key(app: &App, of: &str, edit: Edit) -> Result<Json<KeyRow>, ApiError> {
    let id = keys::id(of)?;
    let apply = move |row: &mut KeyRow| edit.apply(&mut row.budgets);
    app.change_key(move |db| db.update_key(&act("key.budget"), id, apply)).await.map(Json)
}

async fn edit_tenant(app: &App, of: &str, edit: Edit) -> Result<Json<TenantRow>, ApiError> {
    let id = tenants::id(of)?;
    let apply = move |row: &mut TenantRow| edit.apply(&mut row.budgets);
    app.change(move |db| db.update_tenant(&act("tenant.budget"), id, apply)).await.map(Json)
}

async fn edit_group(app: &App, of: &str, edit: Edit) -> Result<Json<GroupRow>, ApiError> {
    let id = groups::id(of)?;
    let apply = move |row: &mut GroupRow| edit.apply(&mut row.budgets);
    app.change(move |db| db.update_group(&act("group.budget"), id, apply)).await.map(Json)
}

macro_rules! handlers {
    ($($set:ident, $end:ident: $edit:ident -> $row:ident;)*) => {$(
        pub(super) async fn $set(
            State(app): State<App>,
            Path(of): Path<String>,
            body: Fields,
        ) -> Result<Json<$row>, ApiError> {
            $edit(&app, &of, Edit::read(body)?).await
        }

        pub(super) async fn $end(
            State(app): State<App>,
            Path(of): Path<String>,
            Ended(edit): Ended,
        ) -> Result<Json<$row>, ApiError> {
            $edit(&app, &of, edit).await
        }
    )*};
}

handlers! {
    set_of_key, end_of_key: edit_key -> KeyRow;
    set_of_tenant, end_of_tenant: edit_tenant -> TenantRow;
    set_of_group, end_of_group: edit_group -> GroupRow;
}
