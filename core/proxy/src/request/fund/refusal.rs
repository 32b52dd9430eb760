//! What is told to whom a limit refuses: whose limit it is, what is left of it, and when there will be room.

use jiff::Timestamp;
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
        _ => format!("It begins anew at {}.", moment(shortage.ends)),
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

/// In UTC, as RFC 3339 has it; nothing of a moment beyond the calendar.
fn moment(at: UnixMs) -> String {
    Timestamp::from_millisecond(at.0).map(|at| at.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_utc() {
        assert_eq!(moment(UnixMs(951_782_400_000)), "2000-02-29T00:00:00Z");
        assert_eq!(moment(UnixMs(i64::MAX)), "");
    }
}
