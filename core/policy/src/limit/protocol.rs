//! What shards and the owner of the limits say to each other.
//!
//! - A shard reserves from credits that it holds. What it lacks it asks for with [`Up::Want`], at most one at a time per
//!   meter, and every one gets exactly one answer: [`Down::Grant`], [`Down::Short`] or [`Down::Unlimited`].
//! - Reserved credits stay with the shard until the request is settled; then [`Up::Used`] says what they became.
//! - When a meter runs short the owner calls free credits home ([`Down::Recall`]); every shard that is asked answers with
//!   one [`Up::Return`], and from then on gives back what falls free, until it is granted credits that are not scarce. Where
//!   credits were granted to a request that has not run since, it does first.
//! - A shard numbers its lives, and every word travels with the number. [`Up::Hello`] begins one: words of any other are
//!   void, and what an earlier one held counts as used, until the usage ledger says better.
//! - An owner that starts says [`Down::Resync`]: shards begin a new life without free credits, and say as an overdraft
//!   what requests in flight have reserved.
//!
//! Links are lossless and keep the order; a full one refuses, and the sender keeps what it has to say.

use super::Meter;
use crate::unit::UnixMs;

/// When something was used: for a budget the first moment of its period, for a rate monotonic milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub i64);

/// What goes up to the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Up {
    /// A life begins, under the number that this word travels with; nothing from before holds.
    Hello,
    /// A request needs more credits than there are.
    Want {
        /// Of which meter.
        meter: Meter,
        /// What it would like to reserve.
        need: u64,
        /// What it can do with, for a shorter answer; at most `need`.
        least: u64,
        /// What the shard has free.
        has: u64,
    },
    /// Credits became use.
    Used {
        /// Of which meter.
        meter: Meter,
        /// When.
        at: Stamp,
        /// How much; below zero where more had been said than it came to.
        amount: i64,
        /// Credits that the shard took without asking, because a request came to more than it had reserved.
        overdraft: u64,
        /// What its requests have reserved by now.
        reserved: u64,
    },
    /// Free credits go home.
    Return {
        /// Of which meter.
        meter: Meter,
        /// Of a budget's which period; 0 for a rate.
        at: Stamp,
        /// How many.
        amount: u64,
        /// What its requests have reserved by now.
        reserved: u64,
        /// It answers a [`Down::Recall`].
        recalled: bool,
    },
}

impl Up {
    /// Which meter it is about; `None` where a life begins.
    #[must_use]
    pub const fn meter(&self) -> Option<Meter> {
        match *self {
            Self::Hello => None,
            Self::Want { meter, .. } | Self::Used { meter, .. } | Self::Return { meter, .. } => Some(meter),
        }
    }
}

/// What goes down to a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// Credits to spend.
    Grant {
        /// Of which meter.
        meter: Meter,
        /// How many.
        amount: u64,
        /// In which period they are good: its stamp. 0 for a rate.
        since: Stamp,
        /// Until when.
        ends: UnixMs,
        /// What others may still use of the limit; below zero if it is overdrawn.
        left: i64,
        /// Others lack them: what falls free goes home.
        scarce: bool,
        /// Less than was asked for, and there is no more anywhere.
        partial: bool,
    },
    /// Not even what it can do with is left anywhere.
    Short {
        /// Of which meter.
        meter: Meter,
        /// What had been needed at least.
        least: u64,
        /// What is left of the limit for anybody, below zero if it is overdrawn.
        left: i64,
        /// When that much will be there, as far as can be told: milliseconds from now for a rate.
        again_ms: u64,
        /// For a budget, when its next period begins.
        ends: UnixMs,
    },
    /// What others may still use of a rate, below zero if it is overdrawn. Answers nothing.
    Left(Meter, i64),
    /// There is no such limit (any more).
    Unlimited(Meter),
    /// Others lack them: free credits go home, and what falls free later, too.
    Recall(Meter),
    /// The owner has lost its books.
    Resync,
}
