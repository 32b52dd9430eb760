//! Every refusal: one shape of body, its headers, and a connection that is left in order.
//!
//! The client must be able to read the refusal even while it is still sending its body. A small rest is taken
//! in afterwards; a large one is discarded on a connection that is then closed.

use std::rc::Rc;

use obleth_policy::outcome::{Code, Ending, Reject};
use obleth_policy::route::Route;
use obleth_wire::{
    http1::{Method, write},
    json,
};

use super::{After, Last, answer, ids::RequestId, parse::Call, settle::Tally};
use crate::{downstream::Downstream, shard::Shard};

/// What a refused request is told. What is left of its body is the caller's to take in, if the connection is kept.
pub(super) fn answer(shard: &Shard, call: &Call, tally: &Tally, reject: &Reject) -> Last {
    // Bytes that are no valid HTTP leave no place where a next request could begin.
    let after = match reject.code {
        Code::BadRequest | Code::RequestTimeout => After::Close,
        _ => answer::after(shard, call),
    };
    let mut out = head(reject, &call.request_id);
    answer::limits(&mut out, tally.rates);
    if reject.code == Code::MethodNotAllowed {
        write::header(&mut out, "allow", answer::allow(call).as_bytes());
    }
    let body = body(reject, &call.request_id);
    whole(out, after, if call.head.method == Method::Head { b"" } else { &body })
}

/// Refuses what could not be read as a request at all.
pub(super) async fn answer_unparsed(shard: &Rc<Shard>, down: &Downstream, reject: &Reject) {
    if let Some(counter) = shard.end.gauges().requests(Route::Unknown, Ending::refused(reject)) {
        counter.add(1);
    }
    let (_, id) = shard.request_ids.of(None, shard.timers.clock().recent_unix_ms());
    whole(head(reject, &id), After::Close, &body(reject, &id)).say(down).await;
}

/// The head of a refusal, all but its end.
fn head(reject: &Reject, id: &RequestId) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    answer::begin(&mut out, reject.status, id.as_bytes());
    write::header(&mut out, "content-type", b"application/json");
    if let Some(ms) = reject.retry_after_ms {
        write::header_u64(&mut out, "retry-after", u64::from(ms.div_ceil(1000).clamp(1, 59)));
        write::header_u64(&mut out, "retry-after-ms", u64::from(ms));
    }
    if reject.retry_is_useless() {
        write::header(&mut out, "x-should-retry", b"false");
    }
    if reject.status == 401 {
        write::header(&mut out, "www-authenticate", b"Bearer");
    }
    out
}

fn whole(mut out: Vec<u8>, after: After, body: &[u8]) -> Last {
    write::header_u64(&mut out, "content-length", u64::try_from(body.len()).unwrap_or(u64::MAX));
    answer::end(&mut out, after);
    out.extend_from_slice(body);
    Last { bytes: out, after }
}

/// The error object, alone: also what goes into an event of a stream that breaks off.
pub(super) fn body(reject: &Reject, id: &RequestId) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(br#"{"error":{"message":"#);
    json::write_string(&mut out, &reject.message);
    out.extend_from_slice(br#","type":"#);
    json::write_string(&mut out, reject.kind().as_str());
    out.extend_from_slice(br#","param":"#);
    match reject.param {
        Some(param) => json::write_string(&mut out, param),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(br#","code":"#);
    json::write_string(&mut out, reject.code.as_str());
    out.extend_from_slice(br#","request_id":"#);
    json::write_string(&mut out, &id.to_string());
    out.extend_from_slice(b"}}");
    out
}

#[cfg(test)]
mod tests {
    use obleth_policy::unit::UnixMs;

    use super::*;
    use crate::request::ids::RequestIds;

    #[test]
    fn the_error_body_has_the_one_shape_also_with_hostile_words() {
        let (_, id) = RequestIds::new().unwrap().of(Some(b"a\"b\\c"), UnixMs(0));
        let reject = Reject::new(Code::InvalidJson, "line\nbreak \"quoted\" \u{1}").param("model");
        let text = String::from_utf8(body(&reject, &id)).unwrap();
        assert_eq!(
            text,
            "{\"error\":{\"message\":\"line\\nbreak \\\"quoted\\\" \\u0001\",\"type\":\"invalid_request_error\",\
             \"param\":\"model\",\"code\":\"invalid_json\",\"request_id\":\"a\\\"b\\\\c\"}}"
        );
    }
}
