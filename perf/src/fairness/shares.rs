//! The arithmetic of shares: what each tenant is entitled to, what it got in a window, how far that is off.
//!
//! Pure: counts in, figures out. It must never know where the counts come from.

use std::time::Duration;

/// Width of a bin of a [`Series`]; no window can be told more finely.
const BIN: Duration = Duration::from_millis(10);

/// Counts over time, since the begin of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Series(Vec<u32>);

impl Series {
    pub(super) fn add(&mut self, at: Duration, count: u32) {
        let bin = bin(at);
        if self.0.len() <= bin {
            self.0.resize(bin + 1, 0);
        }
        if let Some(sum) = self.0.get_mut(bin) {
            *sum += count;
        }
    }

    /// Adds what another one counted.
    pub(super) fn merge(&mut self, other: &Self) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        self.0.iter_mut().zip(&other.0).for_each(|(sum, count)| *sum += count);
    }

    /// What was counted in a window, to the next bin.
    pub(super) fn within(&self, from: Duration, length: Duration) -> u64 {
        let end = bin(from + length).min(self.0.len());
        let bins = self.0.get(bin(from).min(end)..end).unwrap_or_default();
        bins.iter().map(|count| u64::from(*count)).sum()
    }
}

fn bin(at: Duration) -> usize {
    usize::try_from(at.as_nanos() / BIN.as_nanos()).unwrap_or(usize::MAX)
}

/// Windows of one length, one after the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Windows {
    pub(super) first: Duration,
    pub(super) length: Duration,
    /// From one's begin to the next one's; less than `length` if they overlap.
    pub(super) step: Duration,
    pub(super) count: usize,
}

impl Windows {
    /// When each begins.
    pub(super) fn begins(self) -> impl Iterator<Item = Duration> {
        (0..self.count).map(move |at| self.first + self.step * u32::try_from(at).unwrap_or(u32::MAX))
    }

    /// What everybody got in each of them.
    pub(super) fn counts(self, series: &[&Series]) -> Vec<Vec<u64>> {
        let window = |from| series.iter().map(|one| one.within(from, self.length)).collect();
        self.begins().map(window).collect()
    }
}

/// What decides a tenant's part of a pool, as long as it always has requests waiting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Claim {
    pub(super) weight: f64,
    /// Which group it belongs to.
    pub(super) group: usize,
    /// Largest part of the pool that its own limit lets it have.
    pub(super) most: f64,
}

/// The part of the pool that each is entitled to, groups first. What a capped one cannot take goes to its siblings.
pub(super) fn entitlements(claims: &[Claim], group_weights: &[f64]) -> Vec<f64> {
    let members = |group| claims.iter().filter(move |claim| claim.group == group);
    let groups: Vec<(f64, f64)> = (group_weights.iter().enumerate())
        .map(|(group, weight)| {
            let most: f64 = members(group).map(|claim| claim.most).sum();
            (if most > 0.0 { *weight } else { 0.0 }, most)
        })
        .collect();
    let parts = poured(&groups, 1.0);
    let mut shares = vec![0.0; claims.len()];
    for (group, part) in parts.into_iter().enumerate() {
        let of_group: Vec<(f64, f64)> = members(group).map(|claim| (claim.weight, claim.most)).collect();
        let places = shares.iter_mut().zip(claims).filter(|(_, claim)| claim.group == group);
        places.zip(poured(&of_group, part)).for_each(|((place, _), share)| *place = share);
    }
    shares
}

/// `amount` divided by weight among takers (weight, most): who would get more than his most gets that.
fn poured(takers: &[(f64, f64)], amount: f64) -> Vec<f64> {
    let mut full = vec![false; takers.len()];
    loop {
        let (mut left, mut weights) = (amount, 0.0);
        for ((weight, most), full) in takers.iter().zip(&full) {
            if *full { left -= most } else { weights += weight }
        }
        let share = |weight: f64| if weights > 0.0 { left * weight / weights } else { 0.0 };
        let over = |((weight, most), full): (&(f64, f64), &bool)| !full && share(*weight) > *most;
        let Some(at) = takers.iter().zip(&full).position(over) else {
            let part =
                |((weight, most), full): (&(f64, f64), &bool)| if *full { *most } else { share(*weight) };
            return takers.iter().zip(&full).map(part).collect();
        };
        if let Some(full) = full.get_mut(at) {
            *full = true;
        }
    }
}

/// The largest relative distance of a tenant's share from what it is entitled to. Who is entitled to nothing is not
/// looked at. None if nobody got anything.
pub(super) fn worst(counts: &[u64], entitled: &[f64]) -> Option<f64> {
    let all: u64 = counts.iter().sum();
    let entitled_to_some = counts.iter().zip(entitled).filter(|(_, entitled)| **entitled > 0.0);
    let errors =
        entitled_to_some.map(|(count, entitled)| (*count as f64 / all as f64 / entitled - 1.0).abs());
    errors.max_by(f64::total_cmp).filter(|_| all > 0)
}

/// From which of `errors` on none is above `tolerance`. None if the last one is.
pub(super) fn settled(errors: &[f64], tolerance: f64) -> Option<usize> {
    let last_bad = errors.iter().rposition(|error| *error > tolerance);
    let from = last_bad.map_or(0, |at| at + 1);
    (from < errors.len()).then_some(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn claim(weight: f64, group: usize, most: f64) -> Claim {
        Claim { weight, group, most }
    }

    fn close(left: &[f64], right: &[f64]) -> bool {
        left.len() == right.len() && left.iter().zip(right).all(|(l, r)| (l - r).abs() < 1e-9)
    }

    #[test]
    fn every_count_is_in_exactly_one_of_the_windows_that_touch() {
        let mut series = Series::default();
        for ms in 0..3000 {
            series.add(Duration::from_millis(ms), 1);
        }
        let windows = Windows { first: SECOND / 2, length: SECOND, step: SECOND, count: 3 };
        assert_eq!(windows.counts(&[&series]), [[1000], [1000], [500]]);
        assert_eq!(series.within(Duration::ZERO, 10 * SECOND), 3000);
        assert_eq!(series.within(20 * SECOND, SECOND), 0);
        assert_eq!(Series::default().within(Duration::ZERO, SECOND), 0);
        let mut late = Series::default();
        late.add(5 * SECOND, 4);
        series.merge(&late);
        assert_eq!((series.within(Duration::ZERO, SECOND), series.within(5 * SECOND, SECOND)), (1000, 4));
    }

    #[test]
    fn groups_share_by_weight_and_their_members_share_what_the_group_has() {
        let claims = [claim(1.0, 0, 1.0), claim(3.0, 0, 1.0), claim(50.0, 1, 1.0)];
        assert!(close(&entitlements(&claims, &[70.0, 30.0]), &[0.175, 0.525, 0.3]));
        let one = [1.0, 2.0, 3.0, 4.0].map(|weight| claim(weight, 0, 1.0));
        assert!(close(&entitlements(&one, &[100.0]), &[0.1, 0.2, 0.3, 0.4]));
    }

    #[test]
    fn what_a_capped_tenant_cannot_take_goes_to_its_siblings_first() {
        let claims = [claim(1.0, 0, 0.125), claim(1.0, 0, 1.0), claim(1.0, 1, 1.0)];
        assert!(close(&entitlements(&claims, &[1.0, 1.0]), &[0.125, 0.375, 0.5]));
        let capped = [claim(1.0, 0, 0.125), claim(1.0, 0, 0.125), claim(1.0, 1, 1.0)];
        assert!(close(&entitlements(&capped, &[1.0, 1.0]), &[0.125, 0.125, 0.75]));
        assert!(close(&entitlements(&capped, &[1.0, 1.0, 5.0]), &[0.125, 0.125, 0.75]), "an empty group");
    }

    #[test]
    fn the_worst_is_the_one_furthest_off_for_its_own_share() {
        assert_eq!(worst(&[100, 200, 300, 400], &[0.1, 0.2, 0.3, 0.4]), Some(0.0));
        let off = worst(&[110, 190, 300, 400], &[0.1, 0.2, 0.3, 0.4]).unwrap();
        assert!((off - 0.1).abs() < 1e-9);
        assert_eq!(worst(&[0, 0], &[0.5, 0.5]), None);
        assert_eq!(worst(&[0, 7], &[0.0, 1.0]), Some(0.0));
        assert_eq!(worst(&[0, 7], &[0.5, 0.5]), Some(1.0));
    }

    #[test]
    fn a_share_has_settled_once_it_stays() {
        assert_eq!(settled(&[0.4, 0.01, 0.2, 0.03, 0.01], 0.05), Some(3));
        assert_eq!(settled(&[0.01, 0.02], 0.05), Some(0));
        assert_eq!(settled(&[0.01, 0.2], 0.05), None);
        assert_eq!(settled(&[], 0.05), None);
    }
}
