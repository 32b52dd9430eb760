//! Means that forget. What is known of service times, costs and lengths is learnt slowly, so that one odd request changes
//! little.

/// Part of a new value, as a shift.
const LEARN: u32 = 5;

/// Each new value counts a thirty-second, and the first one whole. Values of different units never go into the same one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mean(u64);

impl Mean {
    /// Takes one more value in.
    pub(crate) fn learn(&mut self, value: u64) {
        self.0 = match self.0 {
            0 => value,
            known => known.saturating_sub(known >> LEARN).saturating_add(value >> LEARN),
        };
    }

    /// The mean; zero before the first value.
    pub(crate) const fn get(self) -> u64 {
        self.0
    }

    /// What one value moves the mean by, at the most that is usual: the step of whoever learns at the same pace.
    pub(crate) const fn step(self) -> u64 {
        self.0 >> LEARN
    }
}

/// The mean of all values, and from a thousand on of about the last thousand. For what must not swing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LongMean {
    /// In parts, so that small differences are not lost.
    mean: u64,
    seen: u64,
}

impl LongMean {
    /// Values after which the oldest ones count less.
    const MEMORY: u64 = 1024;
    /// Parts that one is counted in.
    const PARTS: u64 = 1 << 16;

    /// Takes one more value in.
    pub(crate) fn learn(&mut self, value: u64) {
        self.seen = self.seen.saturating_add(1).min(Self::MEMORY);
        let value = value.saturating_mul(Self::PARTS);
        self.mean = match value >= self.mean {
            true => self.mean.saturating_add(value.saturating_sub(self.mean) / self.seen),
            false => self.mean.saturating_sub(self.mean.saturating_sub(value) / self.seen),
        };
    }

    /// The mean; zero before the first value.
    pub(crate) const fn get(self) -> u64 {
        self.mean / Self::PARTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_mean_is_that_of_the_first_values_moves_little_with_one_more_and_forgets() {
        let mut mean = LongMean::default();
        assert_eq!(mean.get(), 0, "nothing is known");
        [10_000, 20_000, 90_000].into_iter().for_each(|value| mean.learn(value));
        assert!((39_999..=40_000).contains(&mean.get()), "{mean:?}");
        (0..2000).for_each(|_| mean.learn(40_000));
        mean.learn(4_000_000);
        assert!((43_000..45_000).contains(&mean.get()), "{mean:?}");
        (0..20_000).for_each(|_| mean.learn(2000));
        assert!((2000..2100).contains(&mean.get()), "{mean:?}");
    }

    #[test]
    fn the_first_value_counts_whole_and_an_odd_one_little() {
        let mut mean = Mean::default();
        mean.learn(3200);
        assert_eq!(mean.get(), 3200);
        mean.learn(6400);
        assert_eq!(mean.get(), 3300);
        (0..1000).for_each(|_| mean.learn(6400));
        assert!((6300..=6400).contains(&mean.get()), "{mean:?}");
    }
}
