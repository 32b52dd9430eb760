//! What a request costs in the scheduler's eyes: weighted tokens, in thousandths.
//!
//! It exists so that shares are counted in work and not in requests. It must never be mixed with money: prices are
//! for the bill, these weights are for the queue.

/// Weighted tokens in thousandths: one input token of weight 1 costs 1000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost(pub u64);

impl Cost {
    /// One token of weight 1.
    pub const TOKEN: Self = Self(1000);

    /// The sum; saturates.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// What is left of it; never below zero.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The way from `earlier` to `self`, with its sign. Costs of one process never come near the limit.
    #[must_use]
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.wrapping_sub(earlier.0).cast_signed()
    }
}

/// What a model's tokens weigh, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// One input token.
    pub input_milli: u32,
    /// One output token.
    pub output_milli: u32,
    /// One cached input token, as a fraction of an uncached one.
    pub cached_milli: u32,
}

impl Default for Rates {
    fn default() -> Self {
        Self { input_milli: 1000, output_milli: 2000, cached_milli: 100 }
    }
}

impl Rates {
    /// The cost of so many tokens; `cached` is the part of `input` that a backend had computed before.
    #[must_use]
    pub fn cost(&self, input: u64, cached: u64, output: u64) -> Cost {
        let cached = cached.min(input);
        let weigh = |tokens: u64, milli: u32| tokens.saturating_mul(u64::from(milli));
        let fresh = weigh(input.saturating_sub(cached), self.input_milli);
        let known = weigh(weigh(cached, self.input_milli), self.cached_milli) / 1000;
        Cost(fresh.saturating_add(known).saturating_add(weigh(output, self.output_milli)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_input_counts_at_its_fraction_and_output_at_its_weight() {
        let rates = Rates::default();
        assert_eq!(rates.cost(100, 0, 10), Cost(100_000 + 20_000));
        assert_eq!(rates.cost(100, 60, 10), Cost(40_000 + 6_000 + 20_000));
        assert_eq!(rates.cost(100, 900, 0), Cost(10_000), "more cached than there is counts as all of it");
        assert_eq!(rates.cost(u64::MAX, 0, u64::MAX), Cost(u64::MAX));
    }

    #[test]
    fn a_difference_has_a_sign() {
        assert_eq!((Cost(7).since(Cost(9)), Cost(9).since(Cost(7))), (-2, 2));
    }
}
