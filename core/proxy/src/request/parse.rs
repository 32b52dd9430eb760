//! Gates 1 and 2: a head from the socket, and the endpoint it asks for.
//!
//! Nothing of a request is used before its head has passed the strict parser. Routing looks at method and path
//! and at nothing else, least of all at `Host`.

use std::rc::Rc;

use obleth_policy::{
    outcome::{Code, Reject},
    route::Route,
    unit::{Instant, UnixMs},
};
use obleth_wire::http1::{
    BodyDecoder, Framing, HeadError, HeadScan, HeaderKind, Limits, Method, RequestHead, Span, Version,
    parse_request,
};

use uuid::Uuid;

use super::ids::RequestId;
use crate::{
    downstream::{Downstream, Woke},
    shard::Shard,
};

/// A request whose head is known. Its bytes stay in the connection's inlet until the request is over.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) head: RequestHead,
    pub(crate) route: Route,
    /// The id in `/v1/models/{id}`, still percent-encoded.
    pub(crate) model_id: Option<Span>,
    /// The ledger's id of this request; no other one has it.
    pub(crate) id: Uuid,
    /// The client's id of it.
    pub(crate) request_id: RequestId,
    pub(crate) parsed_at: Instant,
    /// The same moment, on the wall clock.
    pub(crate) arrived: UnixMs,
    /// Where the body's decoding stands.
    pub(crate) decoder: BodyDecoder,
    /// Bytes of the inlet that belong to this request and are done with.
    pub(crate) used: usize,
    /// The client waits for `100 Continue` and has not been told.
    pub(crate) body_withheld: bool,
}

/// Why there is no request.
#[derive(Debug)]
pub(crate) enum NoCall {
    /// The client closed.
    Closed,
    /// What came is no request.
    Refused(Reject),
}

/// Waits for the first byte of a request; false when none comes.
///
/// A connection on which a drain finds no request is closed, but one that is new may still say what it wants:
/// a load balancer that asks for its health is told.
pub(super) async fn begins(shard: &Rc<Shard>, down: &Downstream, new: bool) -> bool {
    if down.inlet().is_empty() {
        down.set_idle(true);
        if !new && shard.draining.get() {
            return false;
        }
        down.alarm.set(down.now().plus(shard.settings.client.idle));
        if !matches!(down.more_than(0).await, Woke::Done(())) {
            return false;
        }
    }
    down.set_idle(false);
    true
}

/// Receives the head of a request that has begun, and parses it.
pub(super) async fn parse(shard: &Rc<Shard>, down: &Downstream) -> Result<Call, NoCall> {
    let limits = Limits::default();
    let mut scan = HeadScan::default();
    let mut have = down.inlet().len();
    down.alarm.set(down.now().plus(shard.settings.client.head));
    let len = loop {
        match scan.find_end(&down.inlet(), &limits) {
            Ok(Some(len)) => break len,
            Ok(None) => {}
            Err(error) => return Err(NoCall::Refused(blame(error))),
        }
        match down.more_than(have).await {
            Woke::Done(()) => {}
            Woke::Alarm => return Err(NoCall::Refused(Code::RequestTimeout.into())),
            Woke::Gone | Woke::Expired => return Err(NoCall::Closed),
        }
        have = down.inlet().len();
    };
    down.alarm.clear();
    let inlet = down.inlet();
    let head = parse_request(&inlet, len, &limits).map_err(|error| NoCall::Refused(blame(error)))?;
    let (route, model_id) = route(&head, &inlet).map_err(NoCall::Refused)?;
    let theirs = head.get(&inlet, HeaderKind::RequestId);
    let clock = shard.timers.clock();
    let (parsed_at, arrived) = (clock.now(), clock.recent_unix_ms());
    let (id, request_id) = shard.request_ids.of(theirs, arrived);
    Ok(Call {
        route,
        model_id,
        id,
        request_id,
        parsed_at,
        arrived,
        decoder: BodyDecoder::new(head.framing, &limits),
        used: head.len,
        body_withheld: head.expect_continue && head.framing != Framing::None,
        head,
    })
}

fn blame(error: HeadError) -> Reject {
    match error {
        HeadError::Bad(what) => {
            Reject::new(Code::BadRequest, format!("The request is not valid HTTP/1.1: {what}."))
        }
        HeadError::UriTooLong => Code::UriTooLong.into(),
        HeadError::TooLarge => Code::HeadersTooLarge.into(),
        HeadError::Version => Code::HttpVersion.into(),
    }
}

/// The endpoint of a head. An unknown path or a wrong method is an endpoint of its own kind, refused later,
/// so that such requests are counted like all others; only the version is refused here.
fn route(head: &RequestHead, inlet: &[u8]) -> Result<(Route, Option<Span>), Reject> {
    let path = head.path.of(inlet);
    let health = path == b"/health";
    if head.version == Version::Http10 && !(health && head.method == Method::Get) {
        return Err(Code::HttpVersion.into());
    }
    const MODELS: &[u8] = b"/v1/models/";
    Ok(match path {
        b"/v1/chat/completions" => (Route::Chat, None),
        b"/v1/completions" => (Route::Completions, None),
        b"/v1/embeddings" => (Route::Embeddings, None),
        b"/v1/models" => (Route::Models, None),
        b"/health" => (Route::Health, None),
        _ if path.len() > MODELS.len() && path.starts_with(MODELS) => {
            let skipped = u32::try_from(MODELS.len()).unwrap_or(0);
            let start = head.path.start.saturating_add(skipped);
            (Route::Models, Some(Span { start, end: head.path.end }))
        }
        _ => (Route::Unknown, None),
    })
}

/// The only method that an endpoint answers to.
pub(crate) fn allowed(route: Route) -> Option<Method> {
    match route {
        Route::Chat | Route::Completions | Route::Embeddings => Some(Method::Post),
        Route::Models | Route::Health => Some(Method::Get),
        Route::Unknown => None,
    }
}
