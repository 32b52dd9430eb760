//! What a model's use costs: one pure function, in integers.
//!
//! Every amount of money in the ledger and in budgets comes from [`Prices::cost`] and from nowhere else. What has no
//! price has no cost: never zero.

use crate::unit::MicroUsd;

/// A price list of one model. A change makes a new version; rows name the version that they were charged by.
///
/// A part without a price is not free: what uses it has no known cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prices {
    /// 1 for a model's first list.
    pub version: u32,
    /// Micro-USD per million input tokens that came from no cache.
    pub input: Option<u64>,
    /// Micro-USD per million cached input tokens; as `input` where not said.
    pub cached_input: Option<u64>,
    /// Micro-USD per million output tokens.
    pub output: Option<u64>,
    /// Micro-USD per image made.
    pub image: Option<u64>,
    /// Micro-USD per second of sound.
    pub second: Option<u64>,
    /// Micro-USD per million characters.
    pub character: Option<u64>,
}

/// What was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantity {
    /// Tokens of the prompt, cached ones included.
    pub input: u64,
    /// Of them, from a cache.
    pub cached_input: u64,
    /// Tokens generated.
    pub output: u64,
    /// Images made.
    pub images: u64,
    /// Milliseconds of sound.
    pub sound_ms: u64,
    /// Characters spoken.
    pub characters: u64,
}

const MILLION: u128 = 1_000_000;

impl Prices {
    /// What it costs, to the nearest micro-USD, half a one up; `None` where something that was used has no price.
    #[must_use]
    pub fn cost(&self, used: &Quantity) -> Option<MicroUsd> {
        let cached = used.cached_input.min(used.input);
        let parts = [
            (used.input.saturating_sub(cached), self.input, 1),
            (cached, self.cached_input.or(self.input), 1),
            (used.output, self.output, 1),
            (used.images, self.image, MILLION),
            (used.sound_ms, self.second, 1000),
            (used.characters, self.character, 1),
        ];
        let mut millionths = 0_u128;
        for (count, price, scale) in parts {
            if count > 0 {
                let part = u128::from(count).saturating_mul(u128::from(price?)).saturating_mul(scale);
                millionths = millionths.saturating_add(part);
            }
        }
        let rounded = millionths.saturating_add(MILLION / 2);
        // A division of 128 bits costs as much as all the rest, and nearly nothing is so dear.
        Some(MicroUsd(match u64::try_from(rounded) {
            Ok(rounded) => rounded / 1_000_000,
            Err(_) => u64::try_from(rounded / MILLION).unwrap_or(u64::MAX),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: Prices = Prices {
        version: 1,
        input: Some(2_500_000),
        cached_input: Some(1_250_000),
        output: Some(10_000_000),
        image: Some(40_000),
        second: Some(100),
        character: Some(15_000_000),
    };

    fn cost(prices: &Prices, used: Quantity) -> Option<u64> {
        prices.cost(&used).map(|cost| cost.0)
    }

    #[test]
    fn tokens_cost_by_the_million_and_cached_ones_their_own_price() {
        let used = Quantity { input: 1000, cached_input: 400, output: 200, ..Quantity::default() };
        assert_eq!(cost(&LIST, used), Some(1500 + 500 + 2000));
        let one_price = Prices { cached_input: None, ..LIST };
        assert_eq!(cost(&one_price, used), Some(2500 + 2000));
    }

    #[test]
    fn images_seconds_and_characters_have_their_own_units() {
        let used = Quantity { images: 2, sound_ms: 1500, characters: 100, ..Quantity::default() };
        assert_eq!(cost(&LIST, used), Some(80_000 + 150 + 1500));
    }

    #[test]
    fn half_a_micro_dollar_is_rounded_up_once_and_not_per_part() {
        let cheap = Prices { input: Some(250_000), output: Some(250_000), ..Prices::default() };
        let used = |input, output| Quantity { input, output, ..Quantity::default() };
        assert_eq!(cost(&cheap, used(1, 0)), Some(0));
        assert_eq!(cost(&cheap, used(1, 1)), Some(1));
    }

    #[test]
    fn what_has_no_price_has_no_cost_and_what_is_not_used_needs_none() {
        let input_only = Prices { input: Some(1), ..Prices::default() };
        let used = |input, output| Quantity { input, output, ..Quantity::default() };
        assert_eq!(cost(&input_only, used(1_000_000, 0)), Some(1));
        assert_eq!(cost(&input_only, used(1, 1)), None);
        assert_eq!(cost(&Prices::default(), used(0, 0)), Some(0));
    }

    #[test]
    fn more_cached_than_input_is_all_of_it_and_nothing_overflows() {
        let used = Quantity { input: 10, cached_input: u64::MAX, ..Quantity::default() };
        assert_eq!(cost(&LIST, used), Some(13));
        let all = Quantity { input: u64::MAX, output: u64::MAX, images: u64::MAX, ..Quantity::default() };
        assert_eq!(cost(&Prices { input: Some(u64::MAX), ..LIST }, all), Some(u64::MAX));
    }
}
