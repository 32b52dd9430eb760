//! Median and spread of a few values. Means would let one bad round decide.

/// The median; of an even count the mean of the middle two. `None` of none.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    let upper = sorted.get(half).copied()?;
    match sorted.len() % 2 {
        0 => Some((sorted.get(half - 1).copied()? + upper) / 2.0),
        _ => Some(upper),
    }
}

/// The least value that is not below `part` (0 to 1) of all values: the nearest rank. `None` of none.
pub(crate) fn quantile(values: &[f64], part: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (part * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank.min(sorted.len()).checked_sub(1)?).copied()
}

/// Smallest and largest. `None` of none.
pub(crate) fn spread(values: &[f64]) -> Option<(f64, f64)> {
    let least = values.iter().copied().min_by(f64::total_cmp)?;
    let most = values.iter().copied().max_by(f64::total_cmp)?;
    Some((least, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_between_the_middle_two() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let of = |part| quantile(&values, part).unwrap();
        assert_eq!([of(0.0), of(0.5), of(0.95), of(0.99), of(1.0)], [1.0, 50.0, 95.0, 99.0, 100.0]);
        assert_eq!((quantile(&[7.0], 0.95), quantile(&[], 0.5)), (Some(7.0), None));
    }

    #[test]
    fn the_spread_reaches_from_the_smallest_to_the_largest() {
        assert_eq!(spread(&[2.0, -1.0, 5.0]), Some((-1.0, 5.0)));
        assert_eq!(spread(&[]), None);
    }
}
