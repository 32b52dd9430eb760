//! Lists: plain arrays, newest first, in pages that follow one another by id.

use axum::{
    Json,
    extract::{FromRequestParts, OriginalUri, Query},
    http::{HeaderValue, header, request::Parts},
    response::{IntoResponse, Response},
};
use obleth_policy::id::TenantId;
use serde::Serialize;
use uuid::Uuid;

use super::{App, error::ApiError};
use crate::store::rows::Page;

/// Length of a page where `limit` is not said.
pub(super) const DEFAULT_LIMIT: u32 = 100;
/// Longest page.
pub(super) const MAX_LIMIT: u32 = 1000;

/// What the query of a list asks for.
#[derive(Clone, Debug)]
pub(crate) struct ListQuery {
    pub(crate) page: Page,
    /// Only keys of this tenant; where keys are listed.
    pub(crate) tenant: Option<TenantId>,
    path: String,
}

impl FromRequestParts<App> for ListQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, ApiError> {
        let pairs = pairs(parts)?;
        let path = whole_path(parts);
        let mut query = Self { page: Page { limit: DEFAULT_LIMIT, after: None }, tenant: None, path };
        for (name, value) in pairs {
            query.set(&name, &value)?;
        }
        Ok(query)
    }
}

/// Names and values of a query, in their order.
pub(super) fn pairs(parts: &Parts) -> Result<Vec<(String, String)>, ApiError> {
    let pairs = Query::try_from_uri(&parts.uri);
    let Query(pairs) = pairs.map_err(|_| ApiError::invalid("query", "The query is not valid."))?;
    Ok(pairs)
}

/// The refusal of a parameter that there is not.
pub(super) fn unknown(name: &str) -> ApiError {
    let name: String = name.chars().take(64).collect();
    let message = format!("There is no query parameter `{name}` here.");
    ApiError::invalid(name, message)
}

/// The path as the client wrote it, also where a nested router took its own part off.
pub(super) fn whole_path(parts: &Parts) -> String {
    let whole = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |original| &original.0);
    whole.path().to_owned()
}

/// The length of a page, as a query says it.
pub(super) fn limit(value: &str) -> Result<u32, ApiError> {
    let limit = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
    let message = format!("`limit` must be a whole number from 1 to {MAX_LIMIT}.");
    limit.ok_or_else(|| ApiError::invalid("limit", message))
}

impl ListQuery {
    fn set(&mut self, name: &str, value: &str) -> Result<(), ApiError> {
        let id = || {
            let message = format!("`{name}` must be an id.");
            Uuid::try_parse(value).map_err(|_| ApiError::invalid(name, message))
        };
        match name {
            "limit" => self.page.limit = limit(value)?,
            "after" => self.page.after = Some(id()?),
            "tenant_id" if self.path.ends_with("/keys") => self.tenant = Some(TenantId(id()?)),
            _ => return Err(unknown(name)),
        }
        Ok(())
    }

    /// The answer: `rows` holds one more than asked for if there is a next page.
    pub(crate) fn answer<T: Serialize>(&self, mut rows: Vec<T>, id: impl Fn(&T) -> Uuid) -> Response {
        let limit = self.page.limit as usize;
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| has_more).map(|last| self.link(id(last)));
        let mut response = Json(rows).into_response();
        if let Some(Ok(link)) = next.map(HeaderValue::try_from) {
            response.headers_mut().insert(header::LINK, link);
        }
        response
    }

    fn link(&self, after: Uuid) -> String {
        let tenant = self.tenant.map(|id| format!("&tenant_id={id}")).unwrap_or_default();
        format!("<{}?limit={}&after={after}{tenant}>; rel=\"next\"", self.path, self.page.limit)
    }
}
