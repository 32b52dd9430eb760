//! What is asked of a ledger, and what it answers: the words that both backends understand.
//!
//! Everything that could make them differ is decided before it gets here. Zones and buckets are instants already, and
//! a backend gives sums and counts, never means or totals.

use std::{borrow::Cow, ops::AddAssign};

use obleth_policy::{
    id::{GroupId, KeyId, TenantId},
    outcome::Outcome,
    route::Route,
    unit::UnixMs,
};
use uuid::Uuid;

use super::row::Cell;

/// Most groups, over all buckets, in one answer. More are refused: a part of a sum is no sum.
pub(crate) const MOST_GROUPS: usize = 50_000;

/// Which rows are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    /// The first instant that counts.
    pub(crate) from: UnixMs,
    /// The first one after it that does not.
    pub(crate) to: UnixMs,
    /// All of them must hold; at most one per column.
    pub(crate) filters: Vec<Filter>,
}

/// A row has this value in its column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    Tenant(TenantId),
    Key(KeyId),
    Group(String),
    /// By its id: groups can be renamed.
    GroupId(GroupId),
    Model(String),
    Endpoint(Route),
    Outcome(Outcome),
    Status(u16),
}

impl Filter {
    /// The column's name, one of [`super::row::COLUMNS`].
    pub(crate) const fn column(&self) -> &'static str {
        match self {
            Self::Tenant(_) => "tenant_id",
            Self::Key(_) => "key_id",
            Self::Group(_) => "group_name",
            Self::GroupId(_) => "group_id",
            Self::Model(_) => "model",
            Self::Endpoint(_) => "endpoint",
            Self::Outcome(_) => "outcome",
            Self::Status(_) => "status",
        }
    }

    /// What must stand there.
    pub(crate) fn cell(&self) -> Cell<'_> {
        match self {
            Self::Tenant(id) => Cell::Id(id.0),
            Self::Key(id) => Cell::Id(id.0),
            Self::GroupId(id) => Cell::Id(id.0),
            Self::Group(name) | Self::Model(name) => Cell::Text(Cow::Borrowed(name)),
            Self::Endpoint(route) => Cell::Text(Cow::Borrowed(route.label())),
            Self::Outcome(outcome) => Cell::Text(Cow::Borrowed(outcome.as_str())),
            Self::Status(status) => Cell::Count((*status).into()),
        }
    }
}

/// What rows can be grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dimension {
    Tenant,
    Key,
    Group,
    Model,
    Endpoint,
    Outcome,
    Status,
}

impl Dimension {
    /// All of them.
    pub(crate) const ALL: [Self; 7] =
        [Self::Tenant, Self::Key, Self::Group, Self::Model, Self::Endpoint, Self::Outcome, Self::Status];

    /// As it stands in queries.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Key => "key",
            Self::Group => "group",
            Self::Model => "model",
            Self::Endpoint => "endpoint",
            Self::Outcome => "outcome",
            Self::Status => "status",
        }
    }

    /// The column's name, one of [`super::row::COLUMNS`].
    pub(crate) const fn column(self) -> &'static str {
        match self {
            Self::Tenant => "tenant_id",
            Self::Key => "key_id",
            Self::Group => "group_name",
            Self::Model => "model",
            Self::Endpoint => "endpoint",
            Self::Outcome => "outcome",
            Self::Status => "status",
        }
    }
}

/// A question for sums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) scope: Scope,
    /// What a group has in common, in this order; nothing twice.
    pub(crate) by: Vec<Dimension>,
    /// Strictly growing, from the scope's `from` to its `to`: bucket `n` is `[edges[n], edges[n + 1])`. There are two
    /// at least.
    pub(crate) edges: Vec<UnixMs>,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reported {
    /// Those with at least one request, in any order. At most [`MOST_GROUPS`].
    pub(crate) groups: Vec<Group>,
    /// Time of the newest row in the whole ledger, as of this answer; `None` while it is empty.
    pub(crate) as_of: Option<UnixMs>,
}

/// Requests of one bucket that have something in common.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Group {
    /// Which bucket.
    pub(crate) bucket: usize,
    /// One cell per dimension that was asked for, in that order.
    pub(crate) key: Vec<Option<Cell<'static>>>,
    pub(crate) sums: Sums,
}

/// What some requests come to together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    /// How many they are.
    pub(crate) requests: u64,
    /// How many ended how, in the order of [`Outcome::ALL`].
    pub(crate) outcomes: [u64; Outcome::ALL.len()],
    pub(crate) input_tokens: u64,
    pub(crate) cached_input_tokens: u64,
    pub(crate) output_tokens: u64,
    /// Of those whose cost is known; `None` if none's is.
    pub(crate) cost_micro_usd: Option<u64>,
    /// How many used something (`usage_source` is not null) and have no known cost.
    pub(crate) unpriced: u64,
    /// How many got a slot (`admission` is not `rejected`).
    pub(crate) admitted: u64,
    /// What those waited for it, together.
    pub(crate) queue_ms: u64,
    /// How many have a `ttft_ms`.
    pub(crate) first_tokens: u64,
    /// Those, together.
    pub(crate) ttft_ms: u64,
}

impl AddAssign<&Sums> for Sums {
    fn add_assign(&mut self, other: &Sums) {
        self.requests += other.requests;
        for (mine, theirs) in self.outcomes.iter_mut().zip(other.outcomes) {
            *mine += theirs;
        }
        self.input_tokens += other.input_tokens;
        self.cached_input_tokens += other.cached_input_tokens;
        self.output_tokens += other.output_tokens;
        self.cost_micro_usd = match (self.cost_micro_usd, other.cost_micro_usd) {
            (Some(mine), Some(theirs)) => Some(mine + theirs),
            (mine, theirs) => mine.or(theirs),
        };
        self.unpriced += other.unpriced;
        self.admitted += other.admitted;
        self.queue_ms += other.queue_ms;
        self.first_tokens += other.first_tokens;
        self.ttft_ms += other.ttft_ms;
    }
}

/// A question for rows, newest first: by `ts`, and by the bytes of `id` where that is the same. The answer is a list
/// of [`super::row::Entry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) scope: Scope,
    /// Only rows that come after this place in the list.
    pub(crate) after: Option<(UnixMs, Uuid)>,
    /// At most so many.
    pub(crate) limit: u32,
}
