//! What is known of a request before its backend says it, learnt from those that ended.
//!
//! Of an answer, what it will probably cost at least: charged in advance, so that a tenant is not admitted in bulk before
//! its first token. A good guess of the whole would be worse: with lengths of a heavy tail it makes service swing. Of the
//! input, its tokens by its bytes.

use crate::{cost::Cost, mean::Mean};

/// Bytes of a request per token, before anything is known of a pool's requests.
const BYTES_PER_TOKEN: u64 = 4;
/// Parts that a token per byte is counted in.
const PARTS: u64 = 1 << 16;

/// The 25 % quantile of what answers cost, without their input.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lengths {
    low: u64,
    mean: Mean,
}

impl Lengths {
    pub(super) const fn low(&self) -> Cost {
        Cost(self.low)
    }

    pub(super) fn learn(&mut self, cost: Cost) {
        let is_first = self.mean.get() == 0;
        self.mean.learn(cost.0);
        if is_first {
            // It is all there is to go by; half of it is on the low side.
            self.low = cost.0 / 2;
            return;
        }
        let step = self.mean.step();
        self.low = match cost.0 < self.low {
            true => self.low.saturating_sub(step.saturating_mul(3) / 4),
            false => self.low.saturating_add(step / 4),
        };
    }
}

/// Input tokens per byte of a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Density(Mean);

impl Density {
    /// How many tokens so many bytes probably are.
    pub(super) fn tokens(self, bytes: u64) -> u64 {
        match self.0.get() {
            0 => bytes / BYTES_PER_TOKEN,
            known => bytes.saturating_mul(known) / PARTS,
        }
    }

    pub(super) fn learn(&mut self, tokens: u64, bytes: u64) {
        if let Some(parts) = tokens.saturating_mul(PARTS).checked_div(bytes) {
            self.0.learn(parts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_answers_is_shorter() {
        let mut lengths = Lengths::default();
        let (mut random, mut shorter) = (1_u64, 0);
        for round in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let cost = Cost((random >> 33) % 400_000);
            if round >= 10_000 && cost < lengths.low() {
                shorter += 1;
            }
            lengths.learn(cost);
        }
        assert!((2_000..3_000).contains(&shorter), "{shorter}");
    }

    #[test]
    fn tokens_follow_what_bytes_were_before() {
        let mut density = Density::default();
        assert_eq!(density.tokens(4000), 1000);
        (0..500).for_each(|_| density.learn(1000, 1_000_000));
        assert!((900..=1000).contains(&density.tokens(1_000_000)), "pictures: {}", density.tokens(1_000_000));
    }
}
