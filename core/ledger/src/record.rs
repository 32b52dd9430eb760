//! What is known of a request that is over, or of one that has begun: the same shape for both.
//!
//! A *start note* says what the row of a request would be if nothing more were heard of it; an *end note* says what it
//! is. Names are not in here, only ids: they are looked up by whoever keeps or shows rows.

use obleth_policy::{
    id::{EndpointId, GroupId, KeyId, ModelId, TenantId},
    outcome::{Code, Outcome},
    route::Route,
    unit::{MicroUsd, UnixMs},
};
use smallvec::SmallVec;
use uuid::Uuid;

/// Longest text of a client's that a record takes in, in bytes; what is longer is cut.
pub const MAX_TEXT: usize = 128;

/// Which of a request's two notes it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The request goes to a backend.
    Start,
    /// The request is over, with or without having gone to one.
    End,
}

/// How a request came by its slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admission {
    /// At once.
    Fast,
    /// After a wait.
    Queued,
    /// After a wait, for a shorter answer.
    Degraded,
    /// Not at all.
    #[default]
    Rejected,
}

/// Who counted the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsageSource {
    /// The backend said so.
    Upstream,
    /// The answer broke off; its events were counted going by. The input is an estimate.
    Counted,
    /// Nothing but the request is known.
    Estimated,
}

/// Tokens of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Of the prompt, cached ones included.
    pub input: u64,
    /// Of the prompt, from a cache.
    pub cached_input: u64,
    /// Generated.
    pub output: u64,
}

/// A text of a client's, at most [`MAX_TEXT`] bytes. One as long as a UUID lies in place.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Text(SmallVec<[u8; 40]>);

/// One request. An end note is one row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Unique, UUIDv7.
    pub id: Uuid,
    /// When its head had been read.
    pub ts: UnixMs,
    /// Who is charged.
    pub tenant: TenantId,
    /// By which key.
    pub key: KeyId,
    /// The tenant's group at that time; `None` if the tenant was deleted.
    pub group: Option<GroupId>,
    /// The registry's model, once it is known which.
    pub model: Option<ModelId>,
    /// What the client called: never what it typed.
    pub endpoint: Route,
    /// The backend that was asked last.
    pub upstream: Option<EndpointId>,
    /// What the client got; 499 if it had gone, 0 while nothing is known.
    pub status: u16,
    /// How it went.
    pub outcome: Outcome,
    /// What was the matter.
    pub code: Option<Code>,
    /// How it came by its slot.
    pub admission: Admission,
    /// Wait for the slot.
    pub queue_ms: u32,
    /// From the head to the first byte of content.
    pub ttft_ms: Option<u32>,
    /// From the head to the last byte.
    pub total_ms: u32,
    /// The gateway's own time before dispatch; `None` if it never got so far.
    pub overhead_us: Option<u32>,
    /// What it used.
    pub tokens: Tokens,
    /// Who says so; `None` if it used nothing.
    pub usage_source: Option<UsageSource>,
    /// What it cost; `None` where a part of it has no price.
    pub cost: Option<MicroUsd>,
    /// By which version of the model's prices.
    pub price_version: Option<u32>,
    /// Whether the client asked for a stream.
    pub streamed: bool,
    /// Tries at backends after the first.
    pub retries: u8,
    /// As the client knows it; not unique.
    pub request_id: Text,
    /// The client's `x-session-id`.
    pub session_id: Option<Text>,
}

impl Admission {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Fast, Self::Queued, Self::Degraded, Self::Rejected];

    /// As it stands in rows.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Queued => "queued",
            Self::Degraded => "degraded",
            Self::Rejected => "rejected",
        }
    }
}

impl UsageSource {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Upstream, Self::Counted, Self::Estimated];

    /// As it stands in rows.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Counted => "counted",
            Self::Estimated => "estimated",
        }
    }
}

impl Text {
    /// The text, cut at a character if it is too long.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let text = text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default();
        Self(SmallVec::from_slice(text.as_bytes()))
    }

    /// As it came.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // It was a text when it came in.
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Those of the text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Clone for Text {
    /// In one piece, where the vector's own way goes byte by byte.
    fn clone(&self) -> Self {
        Self(SmallVec::from_slice(&self.0))
    }
}
