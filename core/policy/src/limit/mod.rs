//! Limits: what a key, a tenant or a group may use, and how cores spend it without asking each other.
//!
//! A *measure* is what is counted, over what time: requests and tokens of any sixty seconds, and budgets in tokens or
//! money of a day, a month or for ever. A *meter* is one measure of one scope. The room of a meter is cut into credits,
//! and credits are conserved: what the owner keeps, what shards hold, what requests have reserved and what was used is
//! the limit. So nothing is overspent on any number of cores, and nothing is refused while there is room anywhere.
//!
//! | file | what |
//! |---|---|
//! | `protocol` | what shards and the owner say to each other |
//! | `purse` | a shard's credits: reserve, settle, give back |
//! | `owner` | the one that hands credits out, and its books |
//! | `minute` | what was used in the last sixty seconds |
//! | `foresight` | what a request will come to |

mod foresight;
mod minute;
mod owner;
mod protocol;
mod purse;
#[cfg(test)]
mod tests;

pub use foresight::Foresight;
pub use owner::{Now, Outbox, Owner};
pub use protocol::{Down, Stamp, Up};
pub use purse::{Lacking, Purses, Rate, Reserved, Scopes, Shortage, Want};

use crate::{
    id::{GroupId, KeyId, TenantId},
    unit::UnixMs,
};

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// One key's.
    Key(KeyId),
    /// A tenant's, over all its keys.
    Tenant(TenantId),
    /// A group's, over all its tenants.
    Group(GroupId),
}

impl Scope {
    /// What kind it is, as error messages and metrics say it.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Tenant(_) => "tenant",
            Self::Group(_) => "group",
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// Requests that went to a backend.
    Requests,
    /// Input and output tokens together.
    Tokens,
    /// Money, in millionths of a US dollar.
    MicroUsd,
}

/// Over what time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// Any sixty seconds.
    Minute,
    /// A day of the calendar, in the scope's time zone.
    Daily,
    /// A month of the calendar, in the scope's time zone.
    Monthly,
    /// From the beginning.
    Lifetime,
}

impl Period {
    /// As it stands in rows, bodies and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Daily => "daily",
            Self::Monthly => "monthly",
            Self::Lifetime => "lifetime",
        }
    }
}

macro_rules! measures {
    ($($(#[$doc:meta])* $name:ident = $unit:ident $period:ident,)*) => {
        /// A unit over a period: everything that can be limited.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Measure { $($(#[$doc])* $name,)* }

        impl Measure {
            /// All of them, in the order in which the first one short is named to the client.
            pub const ALL: [Self; Self::COUNT] = [$(Self::$name,)*];
            /// How many there are.
            pub const COUNT: usize = [$(stringify!($name),)*].len();

            /// What it counts.
            #[must_use]
            pub const fn unit(self) -> Unit {
                match self { $(Self::$name => Unit::$unit,)* }
            }

            /// Over what time.
            #[must_use]
            pub const fn period(self) -> Period {
                match self { $(Self::$name => Period::$period,)* }
            }
        }
    };
}

measures! {
    /// `requests_per_minute`
    RequestsPerMinute = Requests Minute,
    /// `tokens_per_minute`
    TokensPerMinute = Tokens Minute,
    /// A budget in tokens by day.
    DailyTokens = Tokens Daily,
    /// A budget in money by day.
    DailyMicroUsd = MicroUsd Daily,
    /// A budget in tokens by month.
    MonthlyTokens = Tokens Monthly,
    /// A budget in money by month.
    MonthlyMicroUsd = MicroUsd Monthly,
    /// A budget in tokens that never begins anew.
    LifetimeTokens = Tokens Lifetime,
    /// A budget in money that never begins anew.
    LifetimeMicroUsd = MicroUsd Lifetime,
}

impl Measure {
    /// The budget of this period in this unit; `None` if there is no such budget.
    #[must_use]
    pub fn budget(period: Period, unit: Unit) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.is_budget() && m.period() == period && m.unit() == unit)
    }

    /// Whether it is hard: what is reserved for it is the most that a request can come to.
    #[must_use]
    pub const fn is_budget(self) -> bool {
        !matches!(self.period(), Period::Minute)
    }

    /// Its place in tables.
    #[must_use]
    pub const fn ix(self) -> usize {
        self as usize
    }
}

/// What a scope may use; `None` is no limit, 0 nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits([u64; Measure::COUNT]);

/// Stands for no limit.
const UNLIMITED: u64 = u64::MAX;
/// The largest limit that there can be: sums of limits and debts stay within an `i64`.
pub const MOST_LIMIT: u64 = 1 << 60;

impl Default for Limits {
    fn default() -> Self {
        Self::NONE
    }
}

impl Limits {
    /// No limit at all.
    pub const NONE: Self = Self([UNLIMITED; Measure::COUNT]);

    /// The limit of a measure.
    #[must_use]
    pub fn get(&self, measure: Measure) -> Option<u64> {
        self.0.get(measure.ix()).copied().filter(|limit| *limit != UNLIMITED)
    }

    /// The same with one limit set, to at most [`MOST_LIMIT`], or taken away.
    #[must_use]
    pub fn with(mut self, measure: Measure, limit: Option<u64>) -> Self {
        if let Some(place) = self.0.get_mut(measure.ix()) {
            *place = limit.map_or(UNLIMITED, |limit| limit.min(MOST_LIMIT));
        }
        self
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// Those that there are.
    pub fn iter(&self) -> impl Iterator<Item = (Measure, u64)> {
        Measure::ALL.into_iter().filter_map(|measure| Some((measure, self.get(measure)?)))
    }
}

/// One measure of one scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Meter {
    /// Whose.
    pub scope: Scope,
    /// Of what.
    pub measure: Measure,
}

/// The period of a budget that is under way, and the end of the one after it. Made by whoever knows calendars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Its first moment.
    pub begins: UnixMs,
    /// The first moment of the next one.
    pub ends: UnixMs,
    /// The first moment of the one after that.
    pub next_ends: UnixMs,
}

impl Turn {
    /// A period that began with the calendar and never ends.
    pub const FOREVER: Self = Self { begins: UnixMs(0), ends: UnixMs(i64::MAX), next_ends: UnixMs(i64::MAX) };
}

/// What the owner is told of a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Whose limits.
    pub scope: Scope,
    /// Which; [`Limits::NONE`] takes all of them away.
    pub limits: Limits,
    /// The scope's day.
    pub day: Turn,
    /// The scope's month.
    pub month: Turn,
}

impl Definition {
    /// The period that a measure counts in.
    #[must_use]
    pub const fn turn(&self, measure: Measure) -> Turn {
        match measure.period() {
            Period::Daily => self.day,
            Period::Monthly => self.month,
            Period::Minute | Period::Lifetime => Turn::FOREVER,
        }
    }
}

/// What a budget has used in one of its periods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Which budget.
    pub meter: Meter,
    /// The period's first moment.
    pub since: UnixMs,
    /// In the measure's unit.
    pub amount: u64,
}

/// All limits, and what their budgets have used: what an owner begins with.
#[derive(Clone, Debug, Default)]
pub struct LimitBook {
    /// Of every scope that has limits.
    pub definitions: Vec<Definition>,
    /// Of every budget that was used in its period.
    pub spent: Vec<Spent>,
}

/// A difference between the owner's books and the usage ledger, to be put right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correction {
    /// Which budget.
    pub meter: Meter,
    /// The period's first moment; void if another one is under way.
    pub since: UnixMs,
    /// What is added to what was used.
    pub by: i64,
}

/// How a meter stands in the owner's books.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub meter: Meter,
    /// The period's first moment; 0 for a rate and for a lifetime.
    pub since: UnixMs,
    /// First moment of the next period; `i64::MAX` if there is none.
    pub ends: UnixMs,
    /// What it may come to.
    pub limit: u64,
    /// What was used, as far as shards have said.
    pub used: u64,
    /// What requests in flight have reserved, as far as shards have said.
    pub reserved: u64,
    /// Grows with everything that is used, lent or given back: equal numbers are the same books.
    pub version: u64,
}

#[cfg(test)]
mod measure_tests {
    use super::*;

    #[test]
    fn every_budget_is_found_by_its_period_and_unit() {
        for measure in Measure::ALL {
            let found = Measure::budget(measure.period(), measure.unit());
            assert_eq!(found, measure.is_budget().then_some(measure));
            assert_eq!(Measure::ALL[measure.ix()], measure);
        }
    }

    #[test]
    fn a_limit_of_nothing_is_not_no_limit() {
        let limits = Limits::NONE.with(Measure::DailyTokens, Some(0));
        assert_eq!(limits.get(Measure::DailyTokens), Some(0));
        assert!(!limits.is_none() && limits.with(Measure::DailyTokens, None).is_none());
        let most = Limits::NONE.with(Measure::DailyTokens, Some(u64::MAX));
        assert_eq!(most.get(Measure::DailyTokens), Some(MOST_LIMIT));
    }
}
