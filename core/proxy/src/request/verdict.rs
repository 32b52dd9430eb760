//! What a backend's refusal means to the client.
//!
//! A status that blames the request is passed on, in our envelope; one that blames us or the backend is a 502.
//! Of the backend's words, only its message goes on, without addresses and without our credential.

use std::{rc::Rc, time::Duration};

use obleth_link::Phase;
use obleth_policy::{
    outcome::{Code, RELAYED_STATUSES, Reject},
    snapshot::Secret,
};
use obleth_wire::{http1::HeaderKind, json};

use super::{
    Stop,
    exchange::{Answer, Filled, Interrupt},
};
use crate::{downstream::Downstream, shard::Shard};

/// Of a refusal's body, this much is looked at.
const BODY_LIMIT: usize = 64 * 1024;
/// How long its body is waited for, as a rule.
pub(super) const BODY_TIME: Duration = Duration::from_secs(2);
/// Of a backend's message, this much is passed on.
const MESSAGE_LIMIT: usize = 1024;
/// The longest and shortest `retry-after` that clients treat well.
const RETRY_AFTER_SECS: std::ops::RangeInclusive<u32> = 1..=59;

/// Receives the rest of a refusal and judges it. The status is known already: words that do not come within
/// `patience` are not waited for.
pub(super) async fn refuse(
    shard: &Rc<Shard>,
    down: &Downstream,
    mut answer: Answer,
    patience: Duration,
) -> Stop {
    let mut body = Vec::new();
    let mut last = 0;
    down.alarm.set_in(Some(patience));
    loop {
        let ended = answer.decode(|data| {
            let room = BODY_LIMIT.saturating_sub(body.len());
            body.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
        });
        if !matches!(ended, Ok(false)) || body.len() >= BODY_LIMIT {
            break;
        }
        match answer.upstream.fill(down, last).await {
            Ok((Filled::Bytes, got)) => last = got,
            Ok((Filled::Closed, _)) | Err(Interrupt::Timeout | Interrupt::Expired) => break,
            Err(Interrupt::ClientGone) => return Stop::ClientGone(Phase::FirstByte),
        }
    }
    let reject = judge(&answer, &body);
    answer.done_with_upstream(shard);
    reject.into()
}

fn judge(answer: &Answer, body: &[u8]) -> Reject {
    let said = || without_credential(message(body), answer.upstream.credential.as_ref());
    let retry_after_ms = answer
        .head
        .get(&answer.head_bytes, HeaderKind::RetryAfter)
        .and_then(|value| std::str::from_utf8(value).ok()?.trim().parse::<u32>().ok())
        .map(|secs| secs.clamp(*RETRY_AFTER_SECS.start(), *RETRY_AFTER_SECS.end()).saturating_mul(1000));
    match answer.head.status {
        429 => {
            let wait = retry_after_ms.or(Some(obleth_policy::outcome::DEFAULT_RETRY_AFTER_MS));
            Reject::relayed(429, said(), wait)
        }
        status if RELAYED_STATUSES.contains(&status) => Reject::relayed(status, said(), None),
        503 => {
            let reject = Reject::from(Code::NoHealthyUpstream);
            Reject { retry_after_ms: retry_after_ms.or(reject.retry_after_ms), ..reject }
        }
        401 | 403 => Code::UpstreamAuth.into(),
        404 => Code::UpstreamNotFound.into(),
        _ => Code::UpstreamError.into(),
    }
}

/// The message in a backend's error body, in any of the shapes that backends use; empty if there is none.
fn message(body: &[u8]) -> String {
    let mut found = None;
    let mut inner = None;
    let scanned = json::members(body, |member| {
        if member.is("message") || member.is("detail") {
            found = member.text().map(|text| text.into_owned());
        } else if member.is("error") {
            match member.text() {
                Some(text) => found = Some(text.into_owned()),
                None => inner = Some(member.raw().to_owned()),
            }
        }
        Ok(())
    });
    if scanned.is_err() {
        return String::new();
    }
    match (inner, found) {
        (Some(object), _) if object.starts_with('{') => message(object.as_bytes()),
        (_, Some(text)) => without_addresses(&text),
        _ => String::new(),
    }
}

/// The text without words that look like a URL, a network address or a file, at most [`MESSAGE_LIMIT`] bytes long.
fn without_addresses(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(MESSAGE_LIMIT));
    for word in text.split_inclusive(char::is_whitespace) {
        let kept = if looks_like_address(word.trim()) { "[removed] " } else { word };
        if out.len().saturating_add(kept.len()) > MESSAGE_LIMIT {
            break;
        }
        out.push_str(kept);
    }
    out.trim_end().to_owned()
}

/// The text without the credential that the backend was sent, which some repeat to say that it is wrong. Words
/// are whole here, so it is whole too.
fn without_credential(text: String, credential: Option<&Secret>) -> String {
    match credential.map(Secret::expose) {
        Some(secret) if !secret.is_empty() => text.replace(secret, "[removed]"),
        _ => text,
    }
}

fn looks_like_address(word: &str) -> bool {
    let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '[' && c != ':');
    let host = bare.split(['/', ',', ';', '\'', '"', ')']).next().unwrap_or_default();
    let is_path = |sep: char| {
        word.matches(sep).count() >= 2 && word.starts_with(|c| c == sep || !char::is_alphanumeric(c))
    };
    bare.contains("://")
        || is_path('/')
        || is_path('\\')
        || [".py", ".rs", ".so", ".cpp"].iter().any(|end| bare.ends_with(end))
        || host.parse::<std::net::SocketAddr>().is_ok()
        || host.parse::<std::net::IpAddr>().is_ok()
        || host.rsplit_once(':').is_some_and(|(name, port)| {
            name.contains(|c: char| c.is_ascii_alphabetic()) && port.len() >= 2 && port.parse::<u16>().is_ok()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_found_in_every_shape_that_backends_use() {
        for body in [
            r#"{"error":{"message":"too long","code":400}}"#,
            r#"{"error":"too long"}"#,
            r#"{"detail":"too long"}"#,
            r#"{"object":"error","message":"too long"}"#,
        ] {
            assert_eq!(message(body.as_bytes()), "too long", "{body}");
        }
        for body in ["", "<html>", r#"{"detail":[{"loc":["body"]}]}"#, r#"{"error":null}"#] {
            assert_eq!(message(body.as_bytes()), "", "{body}");
        }
    }

    #[test]
    fn addresses_do_not_reach_the_client() {
        for leak in [
            "http://10.1.2.3:8000/v1",
            "10.1.2.3",
            "10.1.2.3:8000",
            "vllm-7.cluster.local:8000",
            "[::1]:80",
            "(http://x)",
            "/usr/lib/python3/engine.py",
            "\"/etc/vllm/conf.json\"",
            "engine.py",
        ] {
            let said = without_addresses(&format!("cannot reach {leak} now"));
            assert_eq!(said, "cannot reach [removed] now", "{leak}");
        }
        for harmless in [
            "max_tokens: 5 is more than 4096, at 10:30",
            "meta-llama/Llama-3.3-70B and/or a/b/c of 1/2/3",
            "messages[0].content: e.g. \"text\"",
        ] {
            assert_eq!(without_addresses(harmless), harmless);
        }
    }

    #[test]
    fn our_credential_does_not_reach_the_client() {
        let credential = Secret::new("sk-up/+=x");
        let said = |text: &str| without_credential(text.to_owned(), Some(&credential));
        assert_eq!(said("Wrong key `Bearer sk-up/+=x`."), "Wrong key `Bearer [removed]`.");
        assert_eq!(said("sk-up/+=xsk-up/+=x"), "[removed][removed]");
        assert_eq!(said("too long"), "too long");
        assert_eq!(without_credential("as it is".to_owned(), None), "as it is");
        assert_eq!(without_credential("as it is".to_owned(), Some(&Secret::new(""))), "as it is");
    }

    #[test]
    fn a_long_message_is_cut() {
        assert!(without_addresses(&"word ".repeat(10_000)).len() <= MESSAGE_LIMIT);
    }
}
