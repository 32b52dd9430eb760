//! The caller's key: which one it is, and whether it can be one.
//!
//! It exists so that the rules of gate 3 that need no store stand in one place. It must never keep, print or compare a
//! stored secret: what leaves here is a borrowed slice of the request.

use crate::word;

/// Every key begins with this.
const PREFIX: &[u8] = b"sk_";
/// Most bytes after the prefix; a longer one cannot be a key and is not looked up.
const MAX_TAIL: usize = 253;

/// Why a request carries no usable credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialFault {
    /// None was sent. Code `missing_api_key`.
    #[error("No API key was given: send `Authorization: Bearer sk_...` or `x-api-key: sk_...`.")]
    Missing,
    /// What was sent cannot be a key. Code `invalid_api_key`.
    #[error("The API key is malformed: it must be a bearer token that begins with `sk_`.")]
    Malformed,
    /// Two different ones were sent. Code `ambiguous_credentials`.
    #[error("The request carries two different API keys: send only one of them.")]
    Ambiguous,
}

/// The one key of a request, from the values of all its `authorization` headers and of all its `x-api-key` and
/// `api-key` headers.
///
/// Headers that are empty, or name the scheme `Bearer` and nothing else, count as not sent. The same key in several
/// places is fine; two different values are ambiguous even where one of them could not be a key. Not fit for comparing
/// with a stored secret: it compares only what one caller sent.
pub fn pick<'h>(
    authorization: impl Iterator<Item = &'h [u8]>,
    keys: impl Iterator<Item = &'h [u8]>,
) -> Result<&'h [u8], CredentialFault> {
    // Without the bearer scheme a value is no key, whatever it looks like.
    let bearers = authorization.map(|value| {
        let value = value.trim_ascii();
        bearer_token(value).map_or((value, false), |token| (token, true))
    });
    let keys = keys.map(|value| (value.trim_ascii(), true));
    let mut found: Option<(&[u8], bool)> = None;
    for (value, usable) in bearers.chain(keys).filter(|(value, _)| !value.is_empty()) {
        let usable_before = match found {
            Some((earlier, _)) if earlier != value => return Err(CredentialFault::Ambiguous),
            Some((_, usable)) => usable,
            None => false,
        };
        found = Some((value, usable || usable_before));
    }
    match found {
        None => Err(CredentialFault::Missing),
        Some((value, true)) if could_be_key(value) => Ok(value),
        Some(_) => Err(CredentialFault::Malformed),
    }
}

/// What follows the scheme `Bearer` (in any case) and a space; empty for the bare scheme. `None` for another scheme.
fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return None;
    }
    match rest {
        [] => Some(rest),
        [b' ' | b'\t', ..] => Some(rest.trim_ascii_start()),
        _ => None,
    }
}

/// `sk_` and 1 to 253 visible ASCII characters: worth a look-up.
fn could_be_key(secret: &[u8]) -> bool {
    secret
        .strip_prefix(PREFIX)
        .is_some_and(|tail| (1..=MAX_TAIL).contains(&tail.len()) && word::is_visible(tail))
}
