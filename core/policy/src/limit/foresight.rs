//! What a request will come to, before it has run: learnt per pool from those that went before.
//!
//! Two guesses for two purposes. Rates reserve what is likely, because an error is carried into the next minute. Budgets
//! are hard: for them the densest input of late counts, and before anything is known every byte of a body is a token,
//! which none is shorter than.

use crate::{id::PoolIx, mean::Mean};

/// Parts that tokens per byte are counted in: more than a body has bytes, so that the same body comes to the same tokens.
const PARTS: u64 = 1 << 24;
/// What the densest input is forgotten by, as a shift, with every request that is less dense.
const FORGET: u32 = 8;
/// What an answer comes to while nothing is known, in tokens.
const UNKNOWN_OUTPUT: u64 = 256;

/// See the module's text. Owned by the shard.
#[derive(Debug, Default)]
pub struct Foresight(Vec<Pool>);

#[derive(Clone, Copy, Debug, Default)]
struct Pool {
    /// Tokens per byte of input, in parts, of the densest of late; 0 is unknown.
    densest: u64,
    output: Mean,
}

impl Foresight {
    /// The most input tokens that a body of so many bytes has, unless it is denser than any of late.
    #[must_use]
    pub fn most_input(&self, pool: PoolIx, bytes: u64) -> u64 {
        match self.pool(pool).densest {
            0 => bytes,
            // A picture behind an address has more tokens than bytes.
            densest => bytes.saturating_mul(densest).div_ceil(PARTS),
        }
    }

    /// What an answer will come to, going by the mean; `most` where that is less.
    #[must_use]
    pub fn likely_output(&self, pool: PoolIx, most: u64) -> u64 {
        match self.pool(pool).output.get() {
            0 => UNKNOWN_OUTPUT.min(most),
            known => known.min(most),
        }
    }

    /// A request has ended, and its backend has counted it.
    pub fn learn(&mut self, pool: PoolIx, (bytes, input): (u64, u64), output: u64) {
        if self.0.len() <= pool.at() {
            self.0.resize(pool.at().saturating_add(1), Pool::default());
        }
        let Some(known) = self.0.get_mut(pool.at()) else { return };
        known.output.learn(output);
        let Some(density) = input.saturating_mul(PARTS).checked_div(bytes) else { return };
        let forgotten = known.densest.saturating_sub(density) >> FORGET;
        known.densest = density.max(known.densest.saturating_sub(forgotten));
    }

    fn pool(&self, pool: PoolIx) -> Pool {
        self.0.get(pool.at()).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: PoolIx = PoolIx(3);

    #[test]
    fn before_anything_is_known_every_byte_is_a_token_and_an_answer_is_short() {
        let foresight = Foresight::default();
        assert_eq!(foresight.most_input(POOL, 900), 900);
        assert_eq!((foresight.likely_output(POOL, 1000), foresight.likely_output(POOL, 16)), (256, 16));
    }

    #[test]
    fn the_same_body_again_comes_to_the_same_tokens_and_a_denser_one_counts_for_long() {
        let mut foresight = Foresight::default();
        for (bytes, input) in [(900, 225), (901, 226), (37, 9)] {
            let mut foresight = Foresight::default();
            foresight.learn(POOL, (bytes, input), 10);
            assert_eq!(foresight.most_input(POOL, bytes), input);
        }
        foresight.learn(POOL, (100, 2000), 10);
        assert_eq!(foresight.most_input(POOL, 100), 2000, "a picture");
        let mut foresight = Foresight::default();
        foresight.learn(POOL, (1000, 800), 10);
        for _ in 0..20 {
            foresight.learn(POOL, (1000, 250), 10);
        }
        assert!(foresight.most_input(POOL, 1000) > 750, "{}", foresight.most_input(POOL, 1000));
        for _ in 0..5000 {
            foresight.learn(POOL, (1000, 250), 10);
        }
        assert!((250..260).contains(&foresight.most_input(POOL, 1000)));
    }
}
