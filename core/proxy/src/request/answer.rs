//! Heads of our answers, and the health page.

use obleth_policy::{limit::Rate, outcome::Code};
use obleth_wire::http1::{HeaderKind, Method, ResponseHead, write};
use smallvec::SmallVec;

use super::{
    After, Last, Stop,
    fund::Rates,
    parse::{Call, allowed},
    read::rest_is_small,
    settle::Tally,
};
use crate::shard::Shard;

/// Whether the connection goes on after an answer to this request.
pub(super) fn after(shard: &Shard, call: &Call) -> After {
    match call.head.keep_alive && rest_is_small(call) && !shard.draining.get() {
        true => After::KeepAlive,
        false => After::Close,
    }
}

/// The lines that every answer has.
pub(super) fn begin(out: &mut Vec<u8>, status: u16, request_id: &[u8]) {
    write::status_line(out, status);
    write::header(out, "x-request-id", request_id);
}

/// Ends the head of an answer, saying if the connection will be closed.
pub(super) fn end(out: &mut Vec<u8>, after: After) {
    if after == After::Close {
        write::header(out, "connection", b"close");
    }
    write::end_head(out);
}

/// The head of a backend's answer as the client gets it, all but its framing and end.
pub(super) fn relayed(out: &mut Vec<u8>, call: &Call, tally: &Tally, head: &ResponseHead, head_bytes: &[u8]) {
    begin(out, head.status, call.request_id.as_bytes());
    write::header_u64(out, "x-obleth-overhead-us", tally.overhead_us());
    write::header_u64(out, "x-obleth-queue-ms", tally.queue_ms());
    if let Some(limit) = tally.shortened_to() {
        write::header(out, "x-obleth-degraded", format!("max_tokens={limit}").as_bytes());
    }
    limits(out, tally.rates);
    for (name, value, kind) in head.iter(head_bytes) {
        if kind.comes_back() {
            write::header_bytes(out, name, value);
        } else if kind == HeaderKind::RateLimit {
            // `x-ratelimit-…` is what this gateway says of its own limits.
            let renamed = [b"x-upstream", name.get(1..).unwrap_or_default()].concat();
            write::header_bytes(out, &renamed, value);
        }
    }
}

/// How the caller's rates stand.
pub(super) fn limits(out: &mut Vec<u8>, rates: Rates) {
    let mut put = |[limit, remaining, reset]: [&'static str; 3], rate: Option<Rate>| {
        let Some(rate) = rate else { return };
        write::header_u64(out, limit, rate.limit);
        write::header_u64(out, remaining, rate.remaining);
        write::header(out, reset, &duration(rate.reset_ms));
    };
    put(
        ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
        rates.requests,
    );
    put(
        ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
        rates.tokens,
    );
}

/// As clients of OpenAI expect it: `1m0s`, `12s`, `340ms`.
fn duration(ms: u64) -> SmallVec<[u8; 24]> {
    let mut text = SmallVec::new();
    let mut put = |number: u64, unit: &[u8]| {
        // Byte by byte, because there are so few.
        for byte in itoa::Buffer::new().format(number).bytes().chain(unit.iter().copied()) {
            text.push(byte);
        }
    };
    match (ms / 60_000, ms / 1000 % 60) {
        (0, 0) if ms > 0 => put(ms, b"ms"),
        (0, seconds) => put(seconds, b"s"),
        (minutes, seconds) => {
            put(minutes, b"m");
            put(seconds, b"s");
        }
    }
    text
}

/// A whole answer of our own.
pub(super) fn json(call: &Call, tally: &Tally, body: &[u8], status: u16, after: After) -> Last {
    let mut out = Vec::with_capacity(body.len().saturating_add(256));
    begin(&mut out, status, call.request_id.as_bytes());
    limits(&mut out, tally.rates);
    write::header(&mut out, "content-type", b"application/json");
    write::header_u64(&mut out, "content-length", u64::try_from(body.len()).unwrap_or(u64::MAX));
    end(&mut out, after);
    if call.head.method != Method::Head {
        out.extend_from_slice(body);
    }
    Last { bytes: out, after }
}

/// `GET /health`: no credentials, no store.
pub(super) fn health(shard: &Shard, call: &Call, tally: &Tally) -> Last {
    let (status, body) = match shard.draining.get() {
        false => (200, br#"{"status":"ok"}"#.as_slice()),
        true => (503, br#"{"status":"draining"}"#.as_slice()),
    };
    json(call, tally, body, status, after(shard, call))
}

/// Gate 2, the method.
pub(super) fn check_method(call: &Call) -> Result<(), Stop> {
    let wanted = allowed(call.route);
    if wanted.is_some_and(|method| method != call.head.method) {
        return Err(Code::MethodNotAllowed.into());
    }
    Ok(())
}

/// The `Allow` header's value for a route.
pub(super) fn allow(call: &Call) -> &'static str {
    allowed(call.route).map_or("", Method::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_clients_expect_them() {
        let text = |ms| String::from_utf8(duration(ms).to_vec()).unwrap();
        for (ms, expected) in [(0, "0s"), (340, "340ms"), (12_000, "12s"), (59_999, "59s"), (60_000, "1m0s")]
        {
            assert_eq!(text(ms), expected);
        }
        assert_eq!(text(u64::MAX), "307445734561825m51s");
    }
}
