//! Every way a request ends: one table of codes, with the status and the words that belong to each.
//!
//! This is the only place that pairs a code with a status, so the gates, the metrics and the tests cannot
//! disagree. A message here must never name a host, a path of this machine, or a table.

use std::borrow::Cow;

/// `error.type` of the answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request is wrong; sending it again changes nothing.
    InvalidRequest,
    /// There is no such thing.
    NotFound,
    /// Nobody, or nobody we know.
    Authentication,
    /// Somebody we know, who may not.
    Permission,
    /// Too much for now.
    RateLimit,
    /// Too much until somebody pays, or a new period begins.
    InsufficientQuota,
    /// Our fault or the backend's.
    Server,
}

impl Kind {
    /// As it stands in the body.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request_error",
            Self::NotFound => "not_found_error",
            Self::Authentication => "authentication_error",
            Self::Permission => "permission_error",
            Self::RateLimit => "rate_limit_error",
            Self::InsufficientQuota => "insufficient_quota",
            Self::Server => "server_error",
        }
    }
}

/// The short answer to "how did it end", for metrics and records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client has everything.
    Ok,
    /// A gate said no, or the backend blamed the request.
    Rejected,
    /// The client left first.
    ClientGone,
    /// The backend answered with a fault of its own, or not at all.
    UpstreamError,
    /// The backend's answer broke off.
    UpstreamCut,
    /// A time limit passed.
    Timeout,
    /// The gateway itself died with the request; what is known of it was written when it began.
    GatewayLost,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::Rejected,
        Self::ClientGone,
        Self::UpstreamError,
        Self::UpstreamCut,
        Self::Timeout,
        Self::GatewayLost,
    ];

    /// As it stands in labels and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Rejected => "rejected",
            Self::ClientGone => "client_gone",
            Self::UpstreamError => "upstream_error",
            Self::UpstreamCut => "upstream_cut",
            Self::Timeout => "timeout",
            Self::GatewayLost => "gateway_lost",
        }
    }
}

macro_rules! codes {
    ($($name:ident $text:literal $status:literal $kind:ident $outcome:ident $retry:ident $message:literal;)*) => {
        /// `error.code` of the answer's body: what exactly was the matter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = concat!("`", $text, "`, ", $status, ": ", $message)] $name,)*
        }

        impl Code {
            /// All of them, in the order of the gates.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As it stands in the body and in labels.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status that always goes with it.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// `error.type` of the body.
            #[must_use]
            pub const fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind,)* }
            }

            /// How it counts.
            #[must_use]
            pub const fn outcome(self) -> Outcome {
                match self { $(Self::$name => Outcome::$outcome,)* }
            }

            /// What a client should do about it.
            #[must_use]
            pub const fn retry(self) -> Retry {
                match self { $(Self::$name => Retry::$retry,)* }
            }

            /// The text where a gate has nothing more exact to say.
            #[must_use]
            pub const fn message(self) -> &'static str {
                match self { $(Self::$name => $message,)* }
            }
        }
    };
}

/// What a client should do about a refusal; becomes `x-should-retry` and `retry-after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Nothing changes by asking again: `x-should-retry: false`.
    Never,
    /// Ask again after a while: `retry-after`.
    Later,
    /// Whatever the client's own rules are.
    Unsaid,
}

codes! {
    BadRequest "bad_request" 400 InvalidRequest Rejected Never "The request is not valid HTTP/1.1.";
    RequestTimeout "request_timeout" 408 InvalidRequest Rejected Unsaid "The request did not arrive in time.";
    UriTooLong "uri_too_long" 414 InvalidRequest Rejected Never "The request line is longer than 8 KiB.";
    HeadersTooLarge "headers_too_large" 431 InvalidRequest Rejected Never "The headers are larger than 64 KiB or more than 100.";
    HttpVersion "http_version" 505 InvalidRequest Rejected Never "Only HTTP/1.1 is served here; a proxy in front may need `proxy_http_version 1.1`.";
    UnknownEndpoint "unknown_endpoint" 404 NotFound Rejected Never "There is no such endpoint.";
    MethodNotAllowed "method_not_allowed" 405 InvalidRequest Rejected Never "This endpoint does not answer to this method; see the Allow header.";
    MissingApiKey "missing_api_key" 401 Authentication Rejected Never "No API key. Send it as `Authorization: Bearer sk_…`.";
    InvalidApiKey "invalid_api_key" 401 Authentication Rejected Never "The API key is not valid. Send the whole secret, as shown when the key was created.";
    AmbiguousCredentials "ambiguous_credentials" 400 InvalidRequest Rejected Never "The request carries two different API keys. Send one.";
    AuthStoreUnavailable "auth_store_unavailable" 503 Server Rejected Later "The key cannot be checked at the moment. Try again shortly.";
    KeyDisabled "key_disabled" 403 Permission Rejected Never "This API key is disabled.";
    KeyExpired "key_expired" 403 Permission Rejected Never "This API key has expired.";
    KeyDeleted "key_deleted" 403 Permission Rejected Never "This API key was deleted.";
    TenantNotFound "tenant_not_found" 403 Permission Rejected Never "The tenant of this API key does not exist any more.";
    TenantSuspended "tenant_suspended" 403 Permission Rejected Never "The tenant of this API key is suspended or archived.";
    IpNotAllowed "ip_not_allowed" 403 Permission Rejected Never "This API key may not be used from this address.";
    RequestTooLarge "request_too_large" 413 InvalidRequest Rejected Never "The body is larger than this gateway accepts.";
    UnsupportedEncoding "unsupported_encoding" 415 InvalidRequest Rejected Never "Compressed bodies are not accepted. Send the body without Content-Encoding.";
    InvalidJson "invalid_json" 400 InvalidRequest Rejected Never "The body is not one valid JSON object.";
    MissingModel "missing_model" 400 InvalidRequest Rejected Never "`model` is missing. Name a model from GET /v1/models.";
    InvalidParameter "invalid_parameter" 400 InvalidRequest Rejected Never "A member of the body has a value that is not allowed.";
    ModelNotFound "model_not_found" 404 NotFound Rejected Never "There is no such model. GET /v1/models lists what this key may use.";
    ModelNotAllowed "model_not_allowed" 403 Permission Rejected Never "This API key may not use this model. GET /v1/models lists what it may use.";
    RateLimitExceeded "rate_limit_exceeded" 429 RateLimit Rejected Later "Too many requests in the last sixty seconds.";
    TokenQuotaExceeded "token_quota_exceeded" 429 RateLimit Rejected Later "Too many tokens in the last sixty seconds.";
    BudgetExceeded "budget_exceeded" 429 InsufficientQuota Rejected Never "A budget is used up.";
    Overloaded "overloaded" 503 Server Rejected Later "The gateway holds as many request bodies as it may. Try again shortly.";
    QueueFull "queue_full" 503 Server Rejected Later "Too many requests wait for this model. Try again later.";
    QueueTimeout "queue_timeout" 503 Server Rejected Later "No slot of this model fell free in the time that this request could wait.";
    DeadlineUnmeetable "deadline_unmeetable" 503 Server Rejected Later "This request would wait for a slot for longer than its client does.";
    Brownout "brownout" 503 Server Rejected Later "This model is busy, and the tenant's policy is not to wait for long.";
    PoolClosed "pool_closed" 503 Server Rejected Later "This model takes no requests at the moment: its pool has no slots.";
    Draining "draining" 503 Server Rejected Later "This gateway is shutting down or starting anew. Try again on another connection.";
    UpstreamUnreachable "upstream_unreachable" 502 Server UpstreamError Unsaid "The model's backend cannot be reached.";
    UpstreamError "upstream_error" 502 Server UpstreamError Unsaid "The model's backend failed.";
    UpstreamAuth "upstream_auth" 502 Server UpstreamError Never "The model's backend refused the gateway's own credential. Tell the operator.";
    UpstreamNotFound "upstream_not_found" 502 Server UpstreamError Never "The model's backend does not know this model or endpoint. Tell the operator.";
    UpstreamCut "upstream_cut" 502 Server UpstreamCut Unsaid "The model's backend broke off its answer.";
    UpstreamTimeout "upstream_timeout" 504 Server Timeout Unsaid "The model's backend did not answer in time.";
    NoHealthyUpstream "no_healthy_upstream" 503 Server UpstreamError Later "No backend of this model can take the request now. Try again shortly.";
    UpstreamRejected "upstream_rejected" 400 InvalidRequest Rejected Never "The model's backend rejected the request.";
}

/// Statuses of a backend that blame the request and reach the caller as they are, with code
/// `upstream_rejected`; 429 is among them once no other endpoint is left.
pub const RELAYED_STATUSES: [u16; 6] = [400, 409, 413, 415, 422, 429];

/// A refusal: what is told to the caller instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// What was the matter.
    pub code: Code,
    /// The status, [`Code::status`] but for a relayed one.
    pub status: u16,
    /// For people. Never names hosts or paths.
    pub message: Cow<'static, str>,
    /// The member of the body that is at fault.
    pub param: Option<&'static str>,
    /// How long to wait where [`Retry::Later`] applies or the backend said so.
    pub retry_after_ms: Option<u32>,
}

impl From<Code> for Reject {
    fn from(code: Code) -> Self {
        Self {
            code,
            status: code.status(),
            message: Cow::Borrowed(code.message()),
            param: None,
            retry_after_ms: match code.retry() {
                Retry::Later => Some(DEFAULT_RETRY_AFTER_MS),
                Retry::Never | Retry::Unsaid => None,
            },
        }
    }
}

/// What `retry-after-ms` says where nothing better is known. Too low, and clients hammer a gateway in
/// trouble; too high, and they idle after it recovered.
pub const DEFAULT_RETRY_AFTER_MS: u32 = 1000;

impl Reject {
    /// A refusal with a message of its own.
    #[must_use]
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { message: message.into(), ..Self::from(code) }
    }

    /// The same, blaming a member of the body.
    #[must_use]
    pub fn param(self, param: &'static str) -> Self {
        Self { param: Some(param), ..self }
    }

    /// A backend's refusal passed on. `status` is one of [`RELAYED_STATUSES`].
    #[must_use]
    pub fn relayed(status: u16, message: String, retry_after_ms: Option<u32>) -> Self {
        let code = Code::UpstreamRejected;
        let message = if message.is_empty() { Cow::Borrowed(code.message()) } else { Cow::Owned(message) };
        Self { code, status, message, param: None, retry_after_ms }
    }

    /// `error.type`: the code's, but a relayed 429 is a rate limit.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match (self.code, self.status) {
            (Code::UpstreamRejected, 429) => Kind::RateLimit,
            (code, _) => code.kind(),
        }
    }

    /// Whether to tell the client that a retry is useless.
    #[must_use]
    pub const fn retry_is_useless(&self) -> bool {
        matches!(self.code.retry(), Retry::Never) && !matches!(self.kind(), Kind::RateLimit)
    }
}

/// How a request ended, as the metrics count it: what the client got, and how it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Status that the client got; 499 if it had gone.
    pub status: u16,
    /// How it went.
    pub outcome: Outcome,
    /// The code, where something was the matter.
    pub code: Option<Code>,
}

impl Ending {
    /// The client has everything.
    pub const OK: Self = Self { status: 200, outcome: Outcome::Ok, code: None };
    /// The client left first.
    pub const CLIENT_GONE: Self = Self { status: 499, outcome: Outcome::ClientGone, code: None };

    /// Something failed after status 200 had gone out.
    #[must_use]
    pub const fn failed_after_head(code: Code) -> Self {
        // A refusal says no to a request; this one was under way, and the gateway itself went.
        let outcome = match code {
            Code::Draining => Outcome::GatewayLost,
            _ => code.outcome(),
        };
        Self { status: 200, outcome, code: Some(code) }
    }

    /// A refusal that reached the client.
    #[must_use]
    pub const fn refused(reject: &Reject) -> Self {
        Self { status: reject.status, outcome: reject.code.outcome(), code: Some(reject.code) }
    }

    /// Number of different endings, for tables indexed by [`Ending::ix`].
    pub const COUNT: usize = 2 + AFTER_HEAD.len() + Code::ALL.len() + RELAYED_STATUSES.len();

    /// A dense index below [`Ending::COUNT`], the inverse of [`Ending::all`].
    #[must_use]
    pub fn ix(self) -> usize {
        match (self.outcome, self.code) {
            (Outcome::ClientGone, _) => 1,
            (_, None) => 0,
            (_, Some(code)) if self.status == 200 => {
                2 + AFTER_HEAD.iter().position(|c| *c == code).unwrap_or(0)
            }
            (_, Some(Code::UpstreamRejected)) => {
                let relayed = RELAYED_STATUSES.iter().position(|s| *s == self.status).unwrap_or(0);
                2 + AFTER_HEAD.len() + Code::ALL.len() + relayed
            }
            (_, Some(code)) => 2 + AFTER_HEAD.len() + code as usize,
        }
    }

    /// Every ending, in the order of [`Ending::ix`].
    pub fn all() -> impl Iterator<Item = Self> {
        let relayed = RELAYED_STATUSES.iter().map(|status| Self {
            status: *status,
            outcome: Code::UpstreamRejected.outcome(),
            code: Some(Code::UpstreamRejected),
        });
        [Self::OK, Self::CLIENT_GONE]
            .into_iter()
            .chain(AFTER_HEAD.iter().map(|code| Self::failed_after_head(*code)))
            .chain(Code::ALL.iter().map(|code| Self::refused(&Reject::from(*code))))
            .chain(relayed)
    }
}

/// What can still go wrong once the head has gone out.
const AFTER_HEAD: [Code; 4] = [Code::UpstreamCut, Code::UpstreamTimeout, Code::UpstreamError, Code::Draining];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_code_has_a_text_of_its_own_and_an_error_status() {
        let texts: HashSet<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|c| (400..600).contains(&c.status())));
        assert!(Code::ALL.iter().all(|c| c.status() != 409), "SDKs retry 409, so it is never ours");
    }

    #[test]
    fn every_ending_has_an_index_of_its_own() {
        let all: Vec<_> = Ending::all().collect();
        assert_eq!(all.len(), Ending::COUNT);
        for (at, ending) in all.iter().enumerate() {
            if ending.code == Some(Code::UpstreamRejected) && at < Ending::COUNT - RELAYED_STATUSES.len() {
                continue; // the plain row of the relayed code: its 400 is counted with the relayed ones
            }
            assert_eq!(ending.ix(), at, "{ending:?}");
        }
    }

    #[test]
    fn what_may_pass_with_time_says_when_to_ask_again() {
        for code in Code::ALL {
            let told = Reject::from(*code).retry_after_ms.is_some();
            assert_eq!(told, code.retry() == Retry::Later, "{code:?}");
        }
    }

    #[test]
    fn a_relayed_rate_limit_is_worth_a_retry_and_a_relayed_fault_is_not() {
        let busy = Reject::relayed(429, String::new(), Some(2000));
        assert_eq!((busy.kind(), busy.retry_is_useless()), (Kind::RateLimit, false));
        assert_eq!(busy.message, Code::UpstreamRejected.message());
        let wrong = Reject::relayed(422, "no".into(), None);
        assert_eq!((wrong.kind(), wrong.retry_is_useless()), (Kind::InvalidRequest, true));
    }
}
