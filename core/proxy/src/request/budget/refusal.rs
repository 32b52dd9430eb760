//! What is told to whom a limit refuses: whose limit it is, what is left of it, and when there will be room.

use obleth_policy::{
    limit::{Measure, Period, Shortage, Unit},
    outcome::{Code, Reject},
    unit::UnixMs,
};

use super::claim::Claim;
use crate::request::admit::LONGEST_ADVICE_MS;

pub(super) fn refuse(shortage: &Shortage, limit: u64, claim: &Claim) -> Reject {
    let measure = shortage.meter.measure;
    let (scope, left) = (shortage.meter.scope.kind(), shortage.left);
    let what = unit(measure.unit());
    if !measure.is_budget() {
        let (need, seconds) =
            (claim.want(measure, claim.output).map_or(1, |want| want.need), shortage.again_ms.div_ceil(1000));
        let message = format!(
            "The {scope}'s limit is {limit} {what} in any sixty seconds; {left} are left, and this request needs {need}. \
             There is room again in {seconds} s."
        );
        let code = match measure {
            Measure::RequestsPerMinute => Code::RateLimitExceeded,
            _ => Code::TokenQuotaExceeded,
        };
        let again = u32::try_from(shortage.again_ms).unwrap_or(u32::MAX).clamp(1, LONGEST_ADVICE_MS);
        return Reject { retry_after_ms: Some(again), ..Reject::new(code, message) };
    }
    let need = claim.least(measure).unwrap_or_default();
    let period = measure.period().as_str();
    let reset = match measure.period() {
        Period::Lifetime => "It does not begin anew.".to_owned(),
        _ => format!("It begins anew at {}.", Rfc3339(shortage.ends)),
    };
    let message = format!(
        "The {scope}'s {period} budget is {limit} {what}; {left} are left, and this request needs at least {need}. {reset}"
    );
    Reject::new(Code::BudgetExceeded, message)
}

const fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Requests => "requests",
        Unit::Tokens => "tokens",
        Unit::MicroUsd => "micro-USD",
    }
}

/// A moment in UTC, to the second.
struct Rfc3339(UnixMs);

impl std::fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.0.0.div_euclid(1000);
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// The date of a day since 1970-01-01, by counting in eras of 400 years that begin in March (Howard Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms").
#[expect(clippy::arithmetic_side_effects, reason = "days of any UnixMs are far from the limits")]
const fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_calendar() {
        let at = |ms| Rfc3339(UnixMs(ms)).to_string();
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_795_305_599_999), "2026-11-21T23:59:59Z");
        assert_eq!(at(4_107_542_400_000), "2100-03-01T00:00:00Z");
        assert_eq!(at(-1), "1969-12-31T23:59:59Z");
    }
}
