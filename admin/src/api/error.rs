//! How the API says no: one shape on every path, and the request's id in it.
//!
//! A handler returns an [`ApiError`]; the outermost layer, which knows the request's id, writes the body. It
//! does so too for the refusals that the router makes by itself. Nothing here names a path or a table.

use std::borrow::Cow;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::{
    clock, random,
    store::fault::{Fault, StoreError},
    usage::{fault::LedgerFault, query::BadQuery},
};

/// The header that carries a request's id, both ways.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id of a caller's that is kept.
const REQUEST_ID_BYTES: usize = 128;
/// What `retry-after` says when the store is in trouble, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// A refusal on its way to the layer that writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
    message: Cow<'static, str>,
    param: Option<String>,
}

/// The body of a refusal; the members stand in the order in which the data plane writes them.
#[derive(Serialize)]
struct Envelope<'e> {
    error: Shown<'e>,
}

#[derive(Serialize)]
struct Shown<'e> {
    message: &'e str,
    #[serde(rename = "type")]
    kind: &'e str,
    param: Option<&'e str>,
    code: &'e str,
    request_id: &'e str,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let kind = match status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::NOT_FOUND => "not_found_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        Self { status, kind, code, message: message.into(), param: None }
    }

    /// 400, blaming a member of the body or a query parameter.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<Cow<'static, str>>) -> Self {
        let param = Some(param.into());
        Self { param, ..Self::new(StatusCode::BAD_REQUEST, "invalid_parameter", message) }
    }

    /// 400: the body as a whole.
    pub(crate) fn invalid_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_json", message)
    }

    /// 401.
    pub(crate) fn unauthorized(code: &'static str, message: &'static str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, message)
    }

    /// 404: the path.
    pub(crate) fn unknown_endpoint() -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_endpoint", "There is no such endpoint.")
    }

    /// 408.
    pub(crate) fn too_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "The body did not arrive in time.")
    }

    /// 413.
    pub(crate) fn too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", "The body is larger than 1 MiB.")
    }

    /// 500.
    pub(crate) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "Something went wrong here.")
    }

    /// 503, with a code of the listener's own.
    pub(crate) fn unavailable(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
    }

    /// What the router answered by itself, in our words.
    fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::unknown_endpoint(),
            StatusCode::METHOD_NOT_ALLOWED => Self::new(
                status,
                "method_not_allowed",
                "This endpoint does not answer to this method; see the Allow header.",
            ),
            status if status.is_client_error() => {
                Self::new(status, "bad_request", "The request is not valid.")
            }
            _ => Self::internal(),
        }
    }

    fn render(&self, request_id: &str) -> Body {
        let Self { kind, code, message, param, .. } = self;
        let error = Shown { message, kind, param: param.as_deref(), code, request_id };
        // Strings always serialise.
        Body::from(serde_json::to_string(&Envelope { error }).unwrap_or_default())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound(kind) => {
                let message = format!("There is no {} with this id.", kind.as_str());
                Self::new(StatusCode::NOT_FOUND, "not_found", message)
            }
            StoreError::Conflict { param, message } => {
                let param = param.map(str::to_owned);
                Self { param, ..Self::new(StatusCode::CONFLICT, "conflict", message) }
            }
            StoreError::Invalid { param, message } => Self::invalid(param, message),
            StoreError::Fault(Fault::Busy) => Self::unavailable(
                "store_unavailable",
                "The store has more to do than it can. Try again shortly.",
            ),
            StoreError::Fault(fault) => {
                let message =
                    format!("The store cannot do this now ({fault}). GET /api/v1/health says more.");
                Self::unavailable("store_unavailable", message)
            }
        }
    }
}

impl From<BadQuery> for ApiError {
    fn from(BadQuery { param, message }: BadQuery) -> Self {
        Self::invalid(param, message)
    }
}

impl From<LedgerFault> for ApiError {
    fn from(fault: LedgerFault) -> Self {
        match fault {
            LedgerFault::TooManyGroups => {
                Self::invalid("by", "That would be too many groups. Ask for a shorter range, or filter.")
            }
            LedgerFault::TooSlow => Self::unavailable(
                "report_too_slow",
                "This question took longer than it may. Ask for a shorter range.",
            ),
            LedgerFault::File(Fault::Busy) => Self::unavailable(
                "ledger_unavailable",
                "The usage ledger has more to do than it can. Try again shortly.",
            ),
            fault => {
                let message =
                    format!("The usage ledger cannot do this now ({fault}). No record is lost by it.");
                Self::unavailable("ledger_unavailable", message)
            }
        }
    }
}

impl IntoResponse for ApiError {
    /// Without a body: [`envelope`] writes it.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// The outermost layer: gives the request an id and writes the body of every refusal.
pub(crate) async fn envelope(request: Request, next: Next) -> Response {
    let (id, header_value) = request_id(request.headers());
    let response = next.run(request).await;
    let is_refusal = response.status().is_client_error() || response.status().is_server_error();
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let error = match response.extensions().get::<ApiError>() {
        Some(error) => Some(error.clone()),
        None if is_refusal && !is_json => Some(ApiError::of_status(response.status())),
        None => None,
    };
    let mut response = match error {
        Some(error) => rewrite(response, &error, &id),
        None => response,
    };
    response.headers_mut().insert(REQUEST_ID, header_value);
    // Some answers hold a secret, and none is worth keeping.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn rewrite(response: Response, error: &ApiError, id: &str) -> Response {
    let (mut parts, _) = response.into_parts();
    parts.status = error.status;
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if error.status == StatusCode::UNAUTHORIZED {
        parts.headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if matches!(error.code, "store_unavailable" | "ledger_unavailable") {
        parts.headers.insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    Response::from_parts(parts, error.render(id))
}

/// The caller's id if it is up to 128 visible ASCII characters, else a fresh UUIDv7.
fn request_id(headers: &HeaderMap) -> (String, HeaderValue) {
    let own = headers.get(REQUEST_ID).filter(|value| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_BYTES).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    });
    let text = own.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let text = text.unwrap_or_else(|| random::fresh_id(clock::now()).to_string());
    // Visible ASCII is always a valid header value.
    let value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("-"));
    (text, value)
}
