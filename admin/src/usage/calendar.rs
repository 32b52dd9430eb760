//! Zones and buckets: which instants a day, say, of a zone lies between.
//!
//! Buckets are computed here and nowhere else, and backends are handed instants: whatever they know of zones, they
//! give the same numbers. The zones come with the program, so a bare machine knows them all.

use jiff::{
    Timestamp, ToSpan, Zoned,
    civil::{Date, Weekday},
    tz::TimeZone,
};
use obleth_policy::{limit::Turn, unit::UnixMs};

use crate::clock;

/// Most buckets in one series.
pub(crate) const MOST_BUCKETS: usize = 10_000;

/// How long a bucket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interval {
    /// An hour as the clock on the wall shows it: an hour that it shows twice is two.
    Hour,
    /// A day of the calendar, of 23 to 25 hours.
    Day,
    /// From Monday.
    Week,
    Month,
}

impl Interval {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Hour, Self::Day, Self::Week, Self::Month];

    /// As it stands in queries.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }
}

impl Interval {
    /// The date one later; an hour is found in its day.
    fn next(self, date: Date) -> Option<Date> {
        match self {
            Self::Hour | Self::Day => date.tomorrow().ok(),
            Self::Week => date.checked_add(7.days()).ok(),
            Self::Month => date.checked_add(1.month()).ok(),
        }
    }
}

/// A zone of the IANA database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Zone(TimeZone);

impl Zone {
    pub(crate) const UTC: Self = Self(TimeZone::UTC);

    /// The zone with this name. `Etc/Unknown` is the name of none.
    pub(crate) fn of(name: &str) -> Option<Self> {
        TimeZone::get(name).ok().filter(|zone| !zone.is_unknown()).map(Self)
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// A moment as RFC 3339 says it, or the first one of a day (`2026-11-01`) in this zone.
    pub(crate) fn instant(&self, text: &str) -> Option<UnixMs> {
        let is_date = text.len() == 10 && text.as_bytes()[4] == b'-';
        if is_date {
            return self.start_of(text.parse().ok()?);
        }
        // A plus sign that a client forgot to write as %2B arrives as a space.
        clock::parse(&text.replace(' ', "+"))
    }

    /// As the clock on the wall shows it, with its distance from UTC.
    pub(crate) fn local(&self, at: UnixMs) -> String {
        self.zoned(at).map(|zoned| zoned.strftime("%Y-%m-%dT%H:%M:%S%.f%:z").to_string()).unwrap_or_default()
    }

    /// So many days of the calendar earlier.
    pub(crate) fn days_before(&self, at: UnixMs, days: i32) -> Option<UnixMs> {
        let earlier = self.zoned(at)?.checked_sub(days.days()).ok()?;
        Some(UnixMs(earlier.timestamp().as_millisecond()))
    }

    /// The edges of all buckets between two instants, these included: the first and the last bucket may be parts of
    /// their day. `None` if there would be more than [`MOST_BUCKETS`].
    pub(crate) fn edges(&self, from: UnixMs, to: UnixMs, interval: Interval) -> Option<Vec<UnixMs>> {
        let mut edges = vec![from];
        let mut last = from;
        while let Some(next) = self.edge_after(last, interval).filter(|next| *next < to) {
            if edges.len() == MOST_BUCKETS {
                return None;
            }
            edges.push(next);
            last = next;
        }
        edges.push(to);
        Some(edges)
    }

    /// The day or month that a moment is in, and the ends of it and of the next one: each of them begins where the one
    /// before ends, whatever the clock on the wall does at its edges. `None` past the year 9999.
    pub(crate) fn turn(&self, at: UnixMs, is_month: bool) -> Option<Turn> {
        let interval = if is_month { Interval::Month } else { Interval::Day };
        let today = self.zoned(at)?.date();
        let mut first = if is_month { today.first_of_month() } else { today };
        // Where the clock jumps over midnight, or shows it twice, the date on the wall may be off by one.
        while self.start_of(first)? > at {
            first = if is_month { first.checked_sub(1.month()).ok()? } else { first.yesterday().ok()? };
        }
        let mut begins = self.start_of(first)?;
        let mut next_edge = |past: UnixMs| loop {
            first = interval.next(first)?;
            let edge = self.start_of(first)?;
            if edge > past {
                return Some(edge);
            }
        };
        let mut ends = next_edge(begins)?;
        while ends <= at {
            begins = ends;
            ends = next_edge(begins)?;
        }
        Some(Turn { begins, ends, next_ends: next_edge(ends)? })
    }

    fn edge_after(&self, at: UnixMs, interval: Interval) -> Option<UnixMs> {
        let zoned = self.zoned(at)?;
        let first = match interval {
            Interval::Hour => return Some(self.hour_after(at, &zoned)),
            Interval::Day => zoned.date(),
            Interval::Week => {
                let since = zoned.date().weekday().since(Weekday::Monday);
                zoned.date().checked_sub(since.days()).ok()?
            }
            Interval::Month => zoned.date().first_of_month(),
        };
        // A day that a zone skipped has no first instant of its own.
        let mut date = interval.next(first)?;
        loop {
            let edge = self.start_of(date)?;
            if edge > at {
                return Some(edge);
            }
            date = interval.next(date)?;
        }
    }

    /// The next full hour of the clock on the wall, or the moment before it at which that clock is set.
    fn hour_after(&self, at: UnixMs, zoned: &Zoned) -> UnixMs {
        const HOUR_MS: i64 = 3_600_000;
        let offset = zoned.offset();
        let offset_ms = i64::from(offset.seconds()) * 1000;
        let full = ((at.0 + offset_ms).div_euclid(HOUR_MS) + 1) * HOUR_MS - offset_ms;
        let mut set = self.0.following(zoned.timestamp());
        let set = set.find(|transition| transition.offset() != offset);
        let set = set.map_or(i64::MAX, |transition| transition.timestamp().as_millisecond());
        UnixMs(full.min(set))
    }

    fn start_of(&self, date: Date) -> Option<UnixMs> {
        let start = date.to_zoned(self.0.clone()).ok()?;
        Some(UnixMs(start.timestamp().as_millisecond()))
    }

    fn zoned(&self, at: UnixMs) -> Option<Zoned> {
        Some(Timestamp::from_millisecond(at.0).ok()?.to_zoned(self.0.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(zone: &str, (from, to): (&str, &str), interval: Interval) -> Vec<String> {
        let zone = Zone::of(zone).unwrap();
        let (from, to) = (zone.instant(from).unwrap(), zone.instant(to).unwrap());
        zone.edges(from, to, interval).unwrap().into_iter().map(|at| zone.local(at)).collect()
    }

    /// Length of each bucket in minutes.
    fn minutes(zone: &str, (from, to): (&str, &str), interval: Interval) -> Vec<i64> {
        let zone = Zone::of(zone).unwrap();
        let (from, to) = (zone.instant(from).unwrap(), zone.instant(to).unwrap());
        let edges = zone.edges(from, to, interval).unwrap();
        edges.windows(2).map(|pair| (pair[1].0 - pair[0].0) / 60_000).collect()
    }

    #[test]
    fn a_day_lasts_as_long_as_its_zone_says() {
        for (zone, days, expected) in [
            ("Europe/Berlin", ("2026-03-28", "2026-03-31"), [1440, 1380, 1440]),
            ("Europe/Berlin", ("2026-10-24", "2026-10-27"), [1440, 1500, 1440]),
            ("America/New_York", ("2026-03-07", "2026-03-10"), [1440, 1380, 1440]),
            ("Asia/Kolkata", ("2026-03-28", "2026-03-31"), [1440, 1440, 1440]),
            ("Australia/Lord_Howe", ("2026-04-04", "2026-04-07"), [1440, 1470, 1440]),
            ("Australia/Lord_Howe", ("2026-10-03", "2026-10-06"), [1440, 1410, 1440]),
            ("Pacific/Auckland", ("2026-09-26", "2026-09-29"), [1440, 1380, 1440]),
            // The clock is set at midnight: that day begins at one.
            ("Africa/Cairo", ("2026-04-23", "2026-04-26"), [1440, 1380, 1440]),
        ] {
            assert_eq!(minutes(zone, days, Interval::Day), expected, "{zone} {days:?}");
        }
        // Samoa had no 30th of December in 2011.
        assert_eq!(minutes("Pacific/Apia", ("2011-12-29", "2012-01-01"), Interval::Day), [1440, 1440]);
    }

    #[test]
    fn an_hour_that_the_clock_shows_twice_is_two_and_one_that_it_skips_is_none() {
        let night = ("2026-10-25T00:00:00Z", "2026-10-25T03:00:00Z");
        let expected = [
            "2026-10-25T02:00:00+02:00",
            "2026-10-25T02:00:00+01:00",
            "2026-10-25T03:00:00+01:00",
            "2026-10-25T04:00:00+01:00",
        ];
        assert_eq!(edges("Europe/Berlin", night, Interval::Hour), expected);
        let night = ("2026-03-29T00:00:00Z", "2026-03-29T02:00:00Z");
        let expected =
            ["2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00"];
        assert_eq!(edges("Europe/Berlin", night, Interval::Hour), expected);
        // Half an hour back, at two.
        let night = ("2026-04-04T14:00:00Z", "2026-04-04T16:30:00Z");
        assert_eq!(minutes("Australia/Lord_Howe", night, Interval::Hour), [60, 30, 60]);
        // Half an hour ahead, at half past two.
        let night = ("2016-05-01T06:30:00Z", "2016-05-01T08:00:00Z");
        assert_eq!(minutes("America/Caracas", night, Interval::Hour), [30, 60]);
        // Full hours of India's clock.
        let noon = ("2026-04-04T12:00:00Z", "2026-04-04T14:00:00Z");
        assert_eq!(minutes("Asia/Kolkata", noon, Interval::Hour), [30, 60, 30]);
    }

    #[test]
    fn weeks_begin_on_monday_and_months_on_the_first_and_the_range_cuts_both() {
        let range = ("2026-10-29T12:00:00Z", "2026-11-10");
        let expected = [
            "2026-10-29T13:00:00+01:00",
            "2026-11-02T00:00:00+01:00",
            "2026-11-09T00:00:00+01:00",
            "2026-11-10T00:00:00+01:00",
        ];
        assert_eq!(edges("Europe/Berlin", range, Interval::Week), expected);
        let range = ("2026-01-31", "2026-03-02");
        let expected = [
            "2026-01-31T00:00:00-05:00",
            "2026-02-01T00:00:00-05:00",
            "2026-03-01T00:00:00-05:00",
            "2026-03-02T00:00:00-05:00",
        ];
        assert_eq!(edges("America/New_York", range, Interval::Month), expected);
    }

    #[test]
    fn a_series_has_a_largest_number_of_buckets() {
        let hours = |count: i64| Zone::UTC.edges(UnixMs(0), UnixMs(count * 3_600_000), Interval::Hour);
        assert_eq!(hours(10_000).map(|edges| edges.len()), Some(10_001));
        assert_eq!(hours(10_001), None);
    }

    #[test]
    fn times_are_read_with_any_offset_and_days_in_the_zone() {
        let zone = Zone::of("Europe/Berlin").unwrap();
        let at = zone.instant("2026-11-01");
        assert!(at.is_some());
        for same in ["2026-10-31T23:00:00Z", "2026-11-01T00:00:00+01:00", "2026-11-01T00:00:00 01:00"] {
            assert_eq!(zone.instant(same), at, "{same}");
        }
        for none in [
            "",
            "yesterday",
            "2026-11-31",
            "2026-11-01T00:00:00",
            "20261101",
            "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
        ] {
            assert_eq!(zone.instant(none), None, "{none}");
        }
        assert_eq!((Zone::of("Europe/Atlantis"), Zone::of("Etc/Unknown")), (None, None));
        assert_eq!(Zone::of("europe/berlin").as_ref().map(Zone::name), Some("Europe/Berlin"));
    }
}
