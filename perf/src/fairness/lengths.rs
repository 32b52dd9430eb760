//! How long answers are: drawn by the client, said to the backend, and unknown to the gateway until they have ended.

use serde::Deserialize;

use crate::load::Random;

/// A distribution of tokens per answer.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Lengths {
    /// All the same.
    Equal { tokens: u32 },
    /// Heavy-tailed: the logarithm is normal with deviation `sigma`. The tail is cut at `most`.
    Lognormal { mean: f64, sigma: f64, most: u32 },
    /// `part_long` of them long, the others short.
    Bimodal { short: u32, long: u32, part_long: f64 },
}

impl Lengths {
    /// The next answer's tokens; at least one.
    pub(super) fn draw(&self, random: &mut Random) -> u32 {
        let tokens = match *self {
            Self::Equal { tokens } => tokens,
            Self::Lognormal { mean, sigma, most } => {
                let middle = mean.ln() - sigma * sigma / 2.0;
                // Never negative, and cut at `most`.
                ((middle + sigma * random.normal()).exp().round().min(f64::from(most))) as u32
            }
            Self::Bimodal { short, long, part_long } => {
                if random.uniform() <= part_long {
                    long
                } else {
                    short
                }
            }
        };
        tokens.max(1)
    }

    /// Tokens of an answer on average, the cut tail not counted.
    pub(super) fn mean(&self) -> f64 {
        match *self {
            Self::Equal { tokens } => f64::from(tokens),
            Self::Lognormal { mean, .. } => mean,
            Self::Bimodal { short, long, part_long } => {
                f64::from(long) * part_long + f64::from(short) * (1.0 - part_long)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(lengths: Lengths) -> Vec<f64> {
        let mut random = Random::new(1);
        (0..200_000).map(|_| f64::from(lengths.draw(&mut random))).collect()
    }

    fn mean(values: &[f64]) -> f64 {
        values.iter().sum::<f64>() / values.len() as f64
    }

    #[test]
    fn lengths_have_the_mean_and_the_tail_that_they_say() {
        let heavy = drawn(Lengths::Lognormal { mean: 165.0, sigma: 1.0, most: 1_000_000 });
        assert!((mean(&heavy) - 165.0).abs() < 5.0, "{}", mean(&heavy));
        let logarithms: Vec<f64> = heavy.iter().filter(|tokens| **tokens > 20.0).map(|t| t.ln()).collect();
        assert!(logarithms.iter().fold(0.0, |most: f64, one| most.max(*one)) > (165.0_f64 * 20.0).ln());
        let two = Lengths::Bimodal { short: 20, long: 750, part_long: 0.2 };
        assert_eq!(two.mean(), 166.0);
        let two = drawn(two);
        assert!((mean(&two) - 166.0).abs() < 3.0, "{}", mean(&two));
        assert_eq!(drawn(Lengths::Equal { tokens: 7 }).iter().sum::<f64>(), 7.0 * 200_000.0);
    }

    #[test]
    fn an_answer_has_a_token_at_least_and_never_more_than_the_most() {
        let lengths = Lengths::Lognormal { mean: 3.0, sigma: 3.0, most: 50 };
        let drawn = drawn(lengths);
        assert!(drawn.iter().all(|tokens| (1.0..=50.0).contains(tokens)));
        assert!(drawn.contains(&1.0) && drawn.contains(&50.0));
    }
}
