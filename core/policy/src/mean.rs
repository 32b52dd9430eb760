//! A mean that forgets: each new value counts a thirty-second, and the first one whole.
//!
//! What is known of service times, costs and lengths is learnt slowly, so that one odd request changes little.

/// Part of a new value, as a shift.
const LEARN: u32 = 5;

/// See the module's text. Values of different units never go into the same one.
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

#[cfg(test)]
mod tests {
    use super::*;

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
