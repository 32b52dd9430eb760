//! Days and months of time zones, as far as they are under way.
//!
//! A clock that is set back by a little does not bring yesterday back: what was spent since midnight stays today's.

use std::collections::HashMap;

use obleth_policy::{limit::Turn, unit::UnixMs};

use crate::usage::calendar::Zone;

/// How far a clock may be set back and the day stays.
const BACK_MS: i64 = 3_600_000;

/// The day and the month of each zone that was asked for.
#[derive(Debug, Default)]
pub(super) struct Turns {
    known: HashMap<String, [Turn; 2]>,
}

impl Turns {
    /// The day and the month that a moment is in.
    pub(super) fn at(&mut self, zone: &Zone, now: UnixMs) -> [Turn; 2] {
        let known = self.known.get(zone.name()).copied();
        let turns = [false, true].map(|is_month| {
            let known = known.map(|turns| turns[usize::from(is_month)]).filter(|turn| holds(turn, now));
            known.or_else(|| zone.turn(now, is_month))
        });
        // Past the year 9999 there are no days.
        let [Some(day), Some(month)] = turns else { return [Turn::FOREVER; 2] };
        if known != Some([day, month]) {
            self.known.insert(zone.name().to_owned(), [day, month]);
        }
        [day, month]
    }
}

fn holds(turn: &Turn, now: UnixMs) -> bool {
    now < turn.ends && now.0 >= turn.begins.0.saturating_sub(BACK_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const HOUR: i64 = 3_600_000;

    fn at(text: &str) -> UnixMs {
        clock::parse(text).unwrap()
    }

    fn zone(name: &str) -> Zone {
        Zone::of(name).unwrap()
    }

    /// First moments of a zone's periods, one after the other, as its clock shows them.
    fn edges(name: &str, from: &str, is_month: bool, count: usize) -> Vec<String> {
        let zone = zone(name);
        let mut now = at(from);
        (0..count)
            .map(|_| {
                let turn = zone.turn(now, is_month).unwrap();
                now = turn.ends;
                zone.local(turn.begins)
            })
            .collect()
    }

    #[test]
    fn over_years_of_every_kind_of_zone_each_period_begins_where_the_last_one_ended() {
        let zones = [
            ("UTC", 2028, 366),
            ("Europe/Berlin", 2026, 365),
            ("America/New_York", 2024, 366),
            ("Australia/Lord_Howe", 2026, 365),
            ("Asia/Kolkata", 2100, 365),
            // Midnight does not exist on the day that the clock is set ahead, and is there twice when it is set back.
            ("America/Havana", 2026, 365),
            ("Africa/Cairo", 2026, 365),
            ("America/Asuncion", 2020, 366),
            // A day was left out.
            ("Pacific/Apia", 2011, 364),
            ("Pacific/Kiritimati", 1994, 364),
            // Midnight lay in the middle of the hour that was skipped, or shown twice.
            ("America/Toronto", 1919, 365),
            ("America/St_Johns", 2007, 365),
        ];
        for (name, year, days) in zones {
            assert_eq!(periods_of(name, year, false), days, "{name}");
            assert_eq!(periods_of(name, year, true), 12, "{name}");
        }
    }

    /// How many periods a year has, looking at it every half an hour and at both sides of every edge.
    fn periods_of(name: &str, year: i32, is_month: bool) -> i32 {
        let zone = zone(name);
        let [mut now, year_ends] = [year, year + 1].map(|y| zone.instant(&format!("{y}-01-01")).unwrap());
        let mut turn = zone.turn(now, is_month).unwrap();
        assert_eq!(turn.begins, now);
        let mut periods = 0;
        loop {
            let found = zone.turn(now, is_month).unwrap();
            assert!(found.begins <= now && now < found.ends && found.ends < found.next_ends);
            if found != turn {
                let edges = (found.begins, found.ends);
                assert_eq!(edges, (turn.ends, turn.next_ends), "{name} at {}", zone.local(now));
                (turn, periods) = (found, periods + 1);
            }
            if now == year_ends {
                return periods;
            }
            let step = UnixMs(now.0 + HOUR / 2);
            let edges = [UnixMs(turn.ends.0 - 1), turn.ends];
            now = edges.into_iter().find(|edge| *edge > now && *edge <= step).unwrap_or(step);
        }
    }

    #[test]
    fn days_and_months_begin_when_the_zones_clock_says() {
        for (name, from, is_month, expected) in [
            (
                "Europe/Berlin",
                "2026-10-24T12:00:00Z",
                false,
                ["2026-10-24T00:00:00+02:00", "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"],
            ),
            (
                "Europe/Berlin",
                "2026-03-05T00:00:00Z",
                true,
                ["2026-03-01T00:00:00+01:00", "2026-04-01T00:00:00+02:00", "2026-05-01T00:00:00+02:00"],
            ),
            (
                "UTC",
                "2028-02-28T23:59:59Z",
                false,
                ["2028-02-28T00:00:00+00:00", "2028-02-29T00:00:00+00:00", "2028-03-01T00:00:00+00:00"],
            ),
            (
                "America/New_York",
                "2028-02-29T23:00:00Z",
                true,
                ["2028-02-01T00:00:00-05:00", "2028-03-01T00:00:00-05:00", "2028-04-01T00:00:00-04:00"],
            ),
            // Not at midnight, which does not exist that day.
            (
                "Africa/Cairo",
                "2026-04-23T12:00:00Z",
                false,
                ["2026-04-23T00:00:00+02:00", "2026-04-24T01:00:00+03:00", "2026-04-25T00:00:00+03:00"],
            ),
            // The 30th does not exist.
            (
                "Pacific/Apia",
                "2011-12-29T12:00:00Z",
                false,
                ["2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00", "2012-01-01T00:00:00+14:00"],
            ),
        ] {
            assert_eq!(edges(name, from, is_month, 3), expected, "{name}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_a_little_stays_in_its_day_and_one_that_was_wrong_does_not() {
        let (mut turns, zone) = (Turns::default(), zone("Europe/Berlin"));
        let midnight = at("2026-10-31T23:00:00Z");
        let [day, month] = turns.at(&zone, UnixMs(midnight.0 + 10_000));
        assert_eq!((day.begins, month.begins), (midnight, midnight));
        assert_eq!(turns.at(&zone, UnixMs(midnight.0 - 10_000)), [day, month]);
        let [earlier, _] = turns.at(&zone, UnixMs(midnight.0 - 2 * HOUR));
        assert_eq!(earlier.ends, midnight);
        assert_eq!(turns.at(&zone, midnight), [day, month]);
        assert_eq!(turns.at(&zone, UnixMs(i64::MAX)), [Turn::FOREVER; 2]);
        assert_eq!(turns.at(&zone, midnight), [day, month]);
    }
}
