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
    fn the_spread_reaches_from_the_smallest_to_the_largest() {
        assert_eq!(spread(&[2.0, -1.0, 5.0]), Some((-1.0, 5.0)));
        assert_eq!(spread(&[]), None);
    }
}
