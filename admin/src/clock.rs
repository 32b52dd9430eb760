//! Wall-clock time: reading it, and its text form (RFC 3339, UTC).

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use obleth_policy::unit::UnixMs;

/// This moment. A clock before 1970 counts as 1970.
pub(crate) fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// As RFC 3339 in UTC, with a fraction only where there is one.
pub(crate) fn text(at: UnixMs) -> String {
    Timestamp::from_millisecond(at.0).unwrap_or(Timestamp::MAX).to_string()
}

/// From RFC 3339 with any offset.
pub(crate) fn parse(text: &str) -> Option<UnixMs> {
    Some(UnixMs(text.parse::<Timestamp>().ok()?.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_utc_and_read_with_any_offset() {
        let at = UnixMs(1_767_225_600_000);
        assert_eq!(text(at), "2026-01-01T00:00:00Z");
        assert_eq!(parse("2026-01-01T01:00:00+01:00"), Some(at));
        assert_eq!(text(UnixMs(1_767_225_600_250)), "2026-01-01T00:00:00.25Z");
        assert_eq!(parse("2026-01-01"), None);
        assert_eq!(parse("tomorrow"), None);
    }
}
