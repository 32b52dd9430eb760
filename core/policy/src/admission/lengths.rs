//! What is known of a request before its backend says it, learnt from those that ended.
//!
//! Of an answer, what it will probably cost at least: charged in advance, so that a tenant is not admitted in bulk before
//! its first token. And what it will probably go on to cost soon, as long as it runs: three quarters of what an answer of
//! its pool costs, beyond what it has brought so far. A good guess of the whole would be worse: with lengths of a heavy
//! tail it makes service swing. Of the input, its tokens by its bytes.

use crate::{
    cost::Cost,
    mean::{LongMean, Mean},
};

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

/// What a pool's answers cost as a rule, without their input.
///
/// It is the pool's and learns slowly on purpose. What all requests in flight are charged alike puts nobody ahead of
/// another; what differs by tenant, or swings with every long answer, does.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usual(LongMean);

impl Usual {
    /// What a running request is charged beyond what it has brought.
    ///
    /// Whoever has more under way will be ahead by the time that the next slot falls free; without this a tenant that is
    /// behind gets several slots at once, and then several long answers. Simulated with 16 slots and weights 1:2:3:4, by
    /// the median (and 95th percentile) of the worst tenant's error in 10 seconds, nothing → half → three quarters of the
    /// mean: lognormal with σ 1.5 0.54 (2.3) → 0.26 (1.3) → 0.25 (1.2) %, a fifth of the answers 37 times as long as the
    /// others 1.4 (4.9) → 0.53 (1.2) → 0.49 (1.2) %.
    pub(super) const fn ahead(self) -> Cost {
        Cost(self.0.get().saturating_mul(3) / 4)
    }

    pub(super) fn learn(&mut self, cost: Cost) {
        self.0.learn(cost.0);
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
