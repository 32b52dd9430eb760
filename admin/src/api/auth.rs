//! Who may use the admin API: whoever has the token.
//!
//! Compared in constant time, by digest, so that neither content nor length shows in the time it takes.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use obleth_policy::snapshot::Secret;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{App, body, error::ApiError};

/// Who did it, as the audit trail says it.
pub(crate) const BOOTSTRAP_ACTOR: &str = "bootstrap-token";

/// The digest of the token that is accepted.
#[derive(Debug)]
pub(crate) struct TokenDigest([u8; 32]);

impl TokenDigest {
    pub(crate) fn of(token: &Secret) -> Self {
        Self(Sha256::digest(token.expose().as_bytes()).into())
    }

    fn judge(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let invalid = || ApiError::unauthorized("invalid_admin_token", "The admin token is not valid.");
        let Some(value) = given.next() else {
            let message = "No admin token. Send it as `Authorization: Bearer …`.";
            return Err(ApiError::unauthorized("missing_admin_token", message));
        };
        let (scheme, token) = value.as_bytes().split_at_checked(7).ok_or_else(invalid)?;
        if given.next().is_some() || !scheme.eq_ignore_ascii_case(b"bearer ") {
            return Err(invalid());
        }
        let digest: [u8; 32] = Sha256::digest(token.trim_ascii()).into();
        if bool::from(digest.ct_eq(&self.0)) { Ok(()) } else { Err(invalid()) }
    }
}

/// The layer in front of every route but the health check.
pub(crate) async fn require_token(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_open = path == "/api/v1/health" || !path.starts_with("/api/v1/");
    if is_open {
        return next.run(request).await;
    }
    match app.token.judge(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            body::discard(request).await;
            refusal.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_bearer_header_with_the_whole_token_is_accepted() {
        let token = TokenDigest::of(&Secret::new("obleth_admin_1"));
        let judge = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            token.judge(&headers).is_ok()
        };
        assert!(judge(&["Bearer obleth_admin_1"]));
        assert!(judge(&["bearer  obleth_admin_1 "]));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer obleth_admin_",
            "Bearer obleth_admin_12",
            "Basic obleth_admin_1",
        ] {
            assert!(!judge(&[wrong]), "{wrong}");
        }
        assert!(!judge(&[]));
        assert!(!judge(&["Bearer obleth_admin_1", "Bearer obleth_admin_1"]));
    }
}
