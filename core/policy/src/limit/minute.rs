//! What was used in the last sixty seconds.
//!
//! A sliding window, exact to the millisecond: what was used counts for sixty seconds from then, so no sixty seconds hold
//! more than the limit, wherever they begin. What goes over the limit all the same, because a request came to more than
//! anybody expected, is a debt: it leaves the window at the pace of one limit a minute, not all at once.

use std::collections::VecDeque;

/// How long use counts, in milliseconds.
pub(super) const WINDOW_MS: i64 = 60_000;
/// Moments that are told apart in one window; of more, neighbours are put together under the later one.
const MOST_ENTRIES: usize = 1024;
/// How far apart moments are that were put together, in milliseconds.
const STEP_MS: i64 = WINDOW_MS / 512;

/// Use by moment, oldest first. Owned by the meter's account.
#[derive(Clone, Debug, Default)]
pub(super) struct Minute {
    entries: VecDeque<(i64, u64)>,
    sum: u64,
}

impl Minute {
    /// What counts at `now` against `limit`.
    pub(super) fn used(&mut self, now: i64, limit: u64) -> u64 {
        while let Some(&(at, amount)) = self.entries.front() {
            let ends = at.saturating_add(WINDOW_MS);
            if ends > now {
                break;
            }
            self.entries.pop_front();
            let debt = carried(amount, self.sum, limit);
            self.sum = self.sum.saturating_sub(amount);
            self.put(ends, debt);
        }
        self.sum
    }

    /// Something was used at this moment; or, below zero, less was than had been said.
    pub(super) fn add(&mut self, at: i64, amount: i64) {
        match u64::try_from(amount) {
            Ok(amount) => self.put(at, amount),
            Err(_) => self.take(at, amount.unsigned_abs()),
        }
    }

    fn put(&mut self, at: i64, amount: u64) {
        if amount == 0 {
            return;
        }
        self.sum = self.sum.saturating_add(amount);
        let place = self.entries.partition_point(|(known, _)| *known < at);
        match self.entries.get_mut(place) {
            Some((known, sum)) if *known == at => *sum = sum.saturating_add(amount),
            _ => self.entries.insert(place, (at, amount)),
        }
        if self.entries.len() > MOST_ENTRIES {
            self.coarsen();
        }
    }

    /// From the entry of that moment, which may have been put together with a slightly later one; from no other, also if that
    /// one no longer counts.
    fn take(&mut self, at: i64, mut amount: u64) {
        let mut place = self.entries.partition_point(|(known, _)| *known < at);
        let latest = at.saturating_add(STEP_MS);
        let is_near = |at: i64, amount: u64| amount > 0 && at <= latest;
        while let Some((_, known)) = self.entries.get_mut(place).filter(|(at, _)| is_near(*at, amount)) {
            let part = amount.min(*known);
            *known -= part;
            amount -= part;
            self.sum = self.sum.saturating_sub(part);
            place += 1;
        }
        self.entries.retain(|(_, amount)| *amount > 0);
    }

    fn coarsen(&mut self) {
        let mut coarse: VecDeque<(i64, u64)> = VecDeque::with_capacity(MOST_ENTRIES);
        for (at, amount) in self.entries.drain(..) {
            let up = at.saturating_add(STEP_MS - 1).div_euclid(STEP_MS).saturating_mul(STEP_MS);
            match coarse.back_mut() {
                Some((known, sum)) if *known == up => *sum = sum.saturating_add(amount),
                _ => coarse.push_back((up, amount)),
            }
        }
        self.entries = coarse;
    }

    /// Milliseconds from `now` until `need` more has room, if nobody else uses anything; `used` was asked at `now`. Past
    /// the end of what is known it is a whole window.
    pub(super) fn room_in(&self, now: i64, need: u64, limit: u64) -> u64 {
        let mut sum = self.sum;
        for (at, amount) in &self.entries {
            if sum.saturating_add(need) <= limit {
                return 0;
            }
            let debt = carried(*amount, sum, limit);
            sum = sum.saturating_sub(*amount).saturating_add(debt);
            if sum.saturating_add(need) <= limit || sum == 0 {
                return u64::try_from(at.saturating_add(WINDOW_MS).saturating_sub(now)).unwrap_or(0);
            }
        }
        if sum.saturating_add(need) <= limit { 0 } else { WINDOW_MS.unsigned_abs() }
    }
}

/// What of an entry that leaves stays as debt. Nobody can pay where nothing is allowed.
fn carried(amount: u64, sum: u64, limit: u64) -> u64 {
    match limit {
        0 => 0,
        _ => amount.min(sum.saturating_sub(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_counts_for_sixty_seconds_and_not_a_millisecond_longer() {
        let mut minute = Minute::default();
        minute.add(1000, 7);
        minute.add(31_000, 3);
        assert_eq!(minute.used(60_999, 10), 10);
        assert_eq!(minute.used(61_000, 10), 3);
        assert_eq!(minute.used(91_000, 10), 0);
        assert!(minute.entries.is_empty());
    }

    #[test]
    fn a_debt_is_paid_at_one_limit_a_minute() {
        let mut minute = Minute::default();
        minute.add(0, 35);
        assert_eq!(minute.used(59_999, 10), 35);
        assert_eq!(minute.used(60_000, 10), 25);
        assert_eq!(minute.used(120_000, 10), 15);
        assert_eq!(minute.used(200_000, 10), 5, "180 s: paid down to the limit's rest");
        assert_eq!(minute.used(240_000, 10), 0);
    }

    #[test]
    fn a_long_sleep_pays_a_debt_that_had_the_time() {
        let mut minute = Minute::default();
        minute.add(0, 35);
        assert_eq!(minute.used(3_600_000, 10), 0);
        minute.add(3_600_000, 5);
        assert_eq!(minute.used(100_000_000, 0), 0, "a limit of nothing holds no debt");
    }

    #[test]
    fn what_came_to_less_frees_its_own_moment() {
        let mut minute = Minute::default();
        minute.add(0, 100);
        minute.add(5000, 10);
        minute.add(0, -80);
        assert_eq!(minute.used(10_000, 1000), 30);
        assert_eq!(minute.used(60_000, 1000), 10);
        minute.add(0, -80);
        assert_eq!(minute.used(60_001, 1000), 10, "what counts no more frees nothing");
    }

    #[test]
    fn the_time_until_there_is_room_is_when_enough_has_left() {
        let mut minute = Minute::default();
        minute.add(0, 4);
        minute.add(10_000, 4);
        minute.add(20_000, 2);
        assert_eq!(minute.room_in(30_000, 0, 10), 0);
        assert_eq!(minute.room_in(30_000, 4, 10), 30_000);
        assert_eq!(minute.room_in(30_000, 5, 10), 40_000);
        assert_eq!(minute.room_in(30_000, 10, 10), 50_000);
        assert_eq!(minute.room_in(30_000, 11, 10), 50_000, "one larger than the limit needs an empty window");
    }

    #[test]
    fn a_crowded_window_counts_nothing_too_short_and_nothing_twice() {
        let mut minute = Minute::default();
        for at in 0..50_000_i64 {
            minute.add(at, 1);
            assert!(minute.entries.len() <= MOST_ENTRIES + 1);
        }
        assert_eq!(minute.used(50_000, 1 << 40), 50_000);
        let step = STEP_MS.unsigned_abs() + 1;
        for later in 0..50_000_u64 {
            let now = 60_000 + i64::try_from(later).unwrap();
            let truth = 50_000 - 1 - later;
            let used = minute.used(now, 1 << 40);
            assert!((truth..=truth + 2 * step).contains(&used), "{later}: {used} for {truth}");
        }
    }
}
