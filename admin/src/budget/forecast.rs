//! How long a budget lasts: what is left of it at the pace of the last days.

use obleth_policy::unit::UnixMs;

/// Days that the pace is taken from.
const DAYS: i64 = 7;
const DAY_MS: i64 = 86_400_000;

/// The time that the pace is taken from: up to now.
pub(crate) fn stretch(now: UnixMs) -> (UnixMs, UnixMs) {
    (UnixMs(now.0.saturating_sub(DAYS * DAY_MS)), now)
}

/// Days that what is left will last, to a tenth, if as much is used as in [`stretch`]. `None` if nothing was used.
pub(crate) fn days_left(left: u64, used: u64) -> Option<f64> {
    let days = left as f64 * DAYS as f64 / used as f64;
    (used > 0).then(|| (days * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_lasts_as_long_as_the_pace_of_seven_days_says() {
        assert_eq!(days_left(700, 700), Some(7.0));
        assert_eq!(days_left(100, 700), Some(1.0));
        assert_eq!(days_left(15, 700), Some(0.2), "to a tenth");
        assert_eq!(days_left(0, 5), Some(0.0));
        assert_eq!(days_left(5, 0), None, "at no pace it lasts for ever");
        assert_eq!(stretch(UnixMs(10 * DAY_MS)), (UnixMs(3 * DAY_MS), UnixMs(10 * DAY_MS)));
    }
}
