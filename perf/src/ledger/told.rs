//! What clients asked and what they were told, by their own clock: the first of the three books.
//!
//! It holds only what a client can know. It must never be corrected by what the gateway or the backend say.

use std::time::Duration;

/// What a request was meant to meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// A streamed answer.
    Stream,
    /// A whole answer.
    Json,
    /// An embedding.
    Embedding,
    /// A streamed answer of a model that has too few slots: a wait, or a refusal.
    Tight,
    /// A model that there is not.
    Unknown,
    /// A key that there is not. It is nobody's, so it has no row.
    Stranger,
    /// A body that is no JSON.
    Garbled,
    /// A backend that refuses, or dies in its answer.
    Faulty,
}

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) kind: Kind,
    /// From the begin of the run.
    pub(super) sent: Duration,
    /// When its client knew its end.
    pub(super) ended: Duration,
    /// Tokens that arrived one by one.
    pub(super) tokens: u64,
    pub(super) end: End,
}

/// How a request ended for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Not yet.
    UnderWay,
    /// With `[DONE]`, or a whole JSON body, and status 200.
    Whole,
    Refused(Refusal),
    /// The client left.
    Left,
    /// The answer broke off, or none came.
    Cut,
}

/// A whole answer with another status than 200.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    /// `error.code`; empty if there is none.
    pub(super) code: Box<str>,
}
