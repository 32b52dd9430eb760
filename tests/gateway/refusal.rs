//! What every refusal looks like, whichever gate it came from: one shape of body, its headers, nothing of the inside.
//!
//! The table of codes is the program's own, so status, type and the advice on retrying cannot drift from it; that
//! the table itself says what was promised is written down here once more.

use obleth_policy::outcome::{Code, Retry};

use super::http::{End, Response};

/// Checks everything that a refusal with this code must have, whatever the endpoint.
#[track_caller]
pub(crate) fn assert_refused(response: &Response, text: &str) {
    let code = *Code::ALL.iter().find(|code| code.as_str() == text).unwrap();
    assert_refused_as(response, text, code.status());
}

/// The same for a code that keeps a backend's status.
#[track_caller]
pub(crate) fn assert_refused_as(response: &Response, text: &str, status: u16) {
    let code = *Code::ALL.iter().find(|code| code.as_str() == text).unwrap();
    let said = response.text();
    assert_eq!((response.status, response.code().as_str()), (status, text), "{said}");
    assert_eq!(response.end, End::Complete);
    assert_eq!(response.header("content-type"), Some("application/json"));
    let body = response.json();
    let error = body["error"].as_object().unwrap();
    assert_eq!(body.as_object().unwrap().len(), 1, "{said}");
    let mut members: Vec<_> = error.keys().map(String::as_str).collect();
    members.sort_unstable();
    assert_eq!(members, ["code", "message", "param", "request_id", "type"], "{said}");
    assert!(!error["message"].as_str().unwrap().is_empty());
    assert_eq!(error["request_id"].as_str(), response.header("x-request-id"));
    let is_relayed_rate = status == 429 && code.status() != 429;
    let kind = if is_relayed_rate { "rate_limit_error" } else { code.kind().as_str() };
    assert_eq!(error["type"], kind, "{said}");
    let never = code.retry() == Retry::Never && !is_relayed_rate;
    assert_eq!(response.header("x-should-retry"), never.then_some("false"), "{said}");
    match response.header("retry-after") {
        Some(seconds) => {
            assert!((1..=59).contains(&seconds.parse::<u32>().unwrap()));
            assert!(response.header("retry-after-ms").unwrap().parse::<u32>().is_ok());
        }
        None => assert!(code.retry() != Retry::Later && !is_relayed_rate, "{said}"),
    }
    for place in ["127.0.0.1", "localhost", "/tmp", "sqlite", ".rs"] {
        assert!(!said.contains(place), "{place} in {said}");
    }
}

#[test]
fn the_table_of_codes_says_what_was_promised() {
    let promised = [
        (
            400,
            "invalid_request_error",
            "bad_request ambiguous_credentials invalid_json missing_model invalid_parameter",
        ),
        (401, "authentication_error", "missing_api_key invalid_api_key"),
        (403, "permission_error", "key_disabled key_expired key_deleted tenant_not_found tenant_suspended"),
        (403, "permission_error", "model_not_allowed"),
        (404, "not_found_error", "unknown_endpoint model_not_found"),
        (405, "invalid_request_error", "method_not_allowed"),
        (408, "invalid_request_error", "request_timeout"),
        (413, "invalid_request_error", "request_too_large"),
        (414, "invalid_request_error", "uri_too_long"),
        (415, "invalid_request_error", "unsupported_encoding"),
        (429, "rate_limit_error", "rate_limit_exceeded token_quota_exceeded"),
        (429, "insufficient_quota", "budget_exceeded"),
        (431, "invalid_request_error", "headers_too_large"),
        (505, "invalid_request_error", "http_version"),
        (
            502,
            "server_error",
            "upstream_unreachable upstream_error upstream_auth upstream_not_found upstream_cut",
        ),
        (503, "server_error", "auth_store_unavailable overloaded draining no_healthy_upstream"),
        (504, "server_error", "upstream_timeout"),
    ];
    for (status, kind, codes) in promised {
        for text in codes.split(' ') {
            let code =
                Code::ALL.iter().find(|code| code.as_str() == text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!((code.status(), code.kind().as_str()), (status, kind), "{text}");
        }
    }
}
