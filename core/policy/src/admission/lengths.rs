//! What an answer will probably cost at least: a low quantile, learnt from those that ended.
//!
//! Charged in advance, so that a tenant is not admitted in bulk before its first token. A good guess of the whole would be
//! worse: with lengths of a heavy tail it makes service swing.

use crate::cost::Cost;

/// Part of a new answer in the mean, and the step of the quantile in parts of the mean, as a shift: 1/32.
const LEARN: u32 = 5;

/// The 25 % quantile of what answers cost, without their input.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lengths {
    low: u64,
    mean: u64,
}

impl Lengths {
    pub(super) const fn low(&self) -> Cost {
        Cost(self.low)
    }

    pub(super) fn learn(&mut self, cost: Cost) {
        if self.mean == 0 {
            // The first one is all there is to go by; half of it is on the low side.
            *self = Self { low: cost.0 / 2, mean: cost.0 };
            return;
        }
        self.mean = self.mean.saturating_sub(self.mean >> LEARN).saturating_add(cost.0 >> LEARN);
        let step = self.mean >> LEARN;
        self.low = match cost.0 < self.low {
            true => self.low.saturating_sub(step.saturating_mul(3) / 4),
            false => self.low.saturating_add(step / 4),
        };
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
}
