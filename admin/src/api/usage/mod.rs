//! `/usage`: what was used, by whom, and what it cost.
//!
//! A report comes from one question to the ledger; its total is the sum of what it shows, so the two cannot differ.
//! Names of tenants and keys come from the store, also of deleted ones; all other words stand in the rows.

mod export;
mod names;
mod shapes;
mod views;

use axum::{
    Json,
    extract::{FromRequestParts, State},
    http::{HeaderValue, header, request::Parts},
    response::{IntoResponse, Response},
};

use super::{
    App,
    error::ApiError,
    list::{pairs, whole_path},
    openapi::{Api, Operation},
};
use tokio::task::spawn_blocking;

use crate::{
    clock,
    usage::{
        cursor::Cursor,
        query,
        report::{Filter, Page, Scope},
    },
};

use names::Names;
use shapes::{EXPORT_QUERY, LOG, LOGS_QUERY, SERIES, SERIES_QUERY, USAGE, USAGE_QUERY};
use views::{LogView, SeriesView, UsageView};

/// Parts of an answer that take no time worth speaking of: 4 ms. Of 50,000, each look-up would wait for 200 ms.
const MOST_AT_ONCE: usize = 1000;

/// The routes of this file.
pub(super) fn routes(api: Api) -> Api {
    let about = "What was used in a stretch of time, in all and by what `by` lists";
    let usage = Operation::get("/usage", about, &USAGE).asked(USAGE_QUERY);
    let about = "The same, hour by hour or day by day; times without requests are there too";
    let over_time = Operation::get("/usage/series", about, &SERIES).asked(SERIES_QUERY);
    let about = "Single requests, newest first; the `Link` header leads to the next page";
    let single = Operation::all("/usage/logs", about, &LOG).asked(LOGS_QUERY);
    let about = "All of them as one table, safe to open in a spreadsheet";
    let table = Operation::csv("/usage/export.csv", about).asked(EXPORT_QUERY);
    api.on(usage, totals).on(over_time, series).on(single, logs).on(table, export)
}

/// What the client asks, unread.
struct Asked {
    pairs: Vec<(String, String)>,
    path: String,
}

impl FromRequestParts<App> for Asked {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        Ok(Self { pairs: pairs(parts)?, path: whole_path(parts) })
    }
}

async fn totals(State(app): State<App>, asked: Asked) -> Result<Response, ApiError> {
    let mut summary = query::totals(asked.pairs, clock::now())?;
    narrow(&app, &mut summary.report.scope).await;
    let answer = app.ledger.report(summary.report.clone()).await?;
    let names = Names::of_groups(&app, &summary.report.by, &answer.groups).await;
    let parts = answer.groups.len();
    write(parts, move || Json(UsageView::new(&summary, answer, &names))).await
}

async fn series(State(app): State<App>, asked: Asked) -> Result<Response, ApiError> {
    let mut summary = query::series(asked.pairs, clock::now())?;
    narrow(&app, &mut summary.report.scope).await;
    let answer = app.ledger.report(summary.report.clone()).await?;
    let names = Names::of_groups(&app, &summary.report.by, &answer.groups).await;
    let parts = answer.groups.len().max(summary.report.edges.len());
    write(parts, move || Json(SeriesView::new(&summary, answer, &names))).await
}

/// Says whose the key is that a question is about: the same rows, and an index leads to them.
async fn narrow(app: &App, scope: &mut Scope) {
    let key = scope.filters.iter().find_map(|filter| match filter {
        Filter::Key(id) => Some(*id),
        _ => None,
    });
    let has_tenant = scope.filters.iter().any(|filter| matches!(filter, Filter::Tenant(_)));
    let Some(key) = key.filter(|_| !has_tenant) else { return };
    // Of a key that nobody knows, or while the store is away, the rows are looked for everywhere.
    if let Ok(row) = app.ask(move |db| db.key(key)).await {
        scope.filters.push(Filter::Tenant(row.tenant_id));
    }
}

/// The body of an answer of so many parts. A large one is made off the runtime's thread: keys are looked up on that.
async fn write<T: IntoResponse>(
    parts: usize,
    answer: impl FnOnce() -> T + Send + 'static,
) -> Result<Response, ApiError> {
    if parts <= MOST_AT_ONCE {
        return Ok(answer().into_response());
    }
    spawn_blocking(move || answer().into_response()).await.map_err(|_| ApiError::internal())
}

async fn logs(State(app): State<App>, asked: Asked) -> Result<Response, ApiError> {
    let Asked { pairs, path } = asked;
    let page = query::logs(pairs.clone(), clock::now())?;
    // One more than is shown says whether there is a next page.
    let mut wanted = Page { limit: page.limit + 1, ..page.clone() };
    narrow(&app, &mut wanted.scope).await;
    let mut entries = app.ledger.page(wanted).await?;
    let has_more = entries.len() > page.limit as usize;
    entries.truncate(page.limit as usize);
    let last = entries.last().and_then(|entry| entry.place()).filter(|_| has_more);
    let names = Names::of_entries(&app, &entries).await;
    let rows: Vec<_> = entries.iter().map(|entry| LogView::new(entry, &names)).collect();
    let mut response = Json(rows).into_response();
    let link = last.map(|last| link(&path, pairs, Cursor::new(&page.scope, last)));
    if let Some(Ok(link)) = link.map(HeaderValue::try_from) {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

/// The same question, to go on behind this place.
fn link(path: &str, pairs: Vec<(String, String)>, after: Cursor) -> String {
    let mut link = format!("<{path}?");
    for (name, value) in pairs.iter().filter(|(name, _)| name != "after") {
        link.push_str(&format!("{name}={}&", escaped(value)));
    }
    link + &format!("after={after}>; rel=\"next\"")
}

/// As it may stand in a query (RFC 3986 §2.3).
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b',' => out.push(byte.into()),
            _ if byte.is_ascii_alphanumeric() => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

async fn export(State(app): State<App>, asked: Asked) -> Result<Response, ApiError> {
    let mut page = query::export(asked.pairs, clock::now())?;
    narrow(&app, &mut page.scope).await;
    let body = export::begin(app, page).await?;
    let kind = (header::CONTENT_TYPE, "text/csv; charset=utf-8");
    let name = (header::CONTENT_DISPOSITION, "attachment; filename=\"obleth-usage.csv\"");
    Ok(([kind, name], body).into_response())
}
