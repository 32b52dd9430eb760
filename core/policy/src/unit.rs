//! Measures, so that a number never travels without its unit.
//!
//! Two clocks exist and never mix: [`Instant`] for how long something took, [`UnixMs`] for when a stored
//! deadline falls.

use std::time::Duration;

/// Monotonic time in nanoseconds since the process took its epoch. Never stored, never shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub u64);

impl Instant {
    /// Time from `earlier` to `self`; zero if the order is the other way round.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This instant moved into the past; saturates at the epoch.
    #[must_use]
    pub const fn minus(self, back: Duration) -> Self {
        let nanos = back.as_nanos();
        Self(self.0.saturating_sub(if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 }))
    }

    /// This instant moved into the future; saturates at the end of time.
    #[must_use]
    pub const fn plus(self, ahead: Duration) -> Self {
        let nanos = ahead.as_nanos();
        Self(self.0.saturating_add(if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 }))
    }
}

/// Wall-clock time in milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMs(pub i64);

/// Money, in millionths of a US dollar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MicroUsd(pub u64);

/// A time limit in milliseconds; zero means that there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitMs(pub u32);

impl LimitMs {
    /// The limit as a duration, or `None` where it is off.
    #[must_use]
    pub const fn get(self) -> Option<Duration> {
        match self.0 {
            0 => None,
            ms => Some(Duration::from_millis(ms as u64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zero_limit_is_no_limit() {
        assert_eq!(LimitMs(0).get(), None);
        assert_eq!(LimitMs(2000).get(), Some(Duration::from_secs(2)));
    }

    #[test]
    fn time_never_runs_backwards_and_never_overflows() {
        assert_eq!(Instant(5).since(Instant(9)), Duration::ZERO);
        assert_eq!(Instant(u64::MAX - 1).plus(Duration::from_secs(1)), Instant(u64::MAX));
        assert_eq!(Instant(7).plus(Duration::MAX), Instant(u64::MAX));
        assert_eq!(Instant(7).minus(Duration::from_nanos(3)), Instant(4));
        assert_eq!(Instant(7).minus(Duration::MAX), Instant(0));
    }
}
