//! Rounds: everybody once, then everybody again, so that what drifts on the machine drifts for all of them.
//!
//! A round in which a request failed is void, and so is one in which the floor moved: then the machine moved. Void
//! rounds are repeated, up to a limit, and stay in the record.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use crate::{signals::Interrupted, statistics::median, terminal::remark};

/// How far the floor may be from its median.
const FLOOR_MOVES: f64 = 0.15;
/// The subject that shows whether the machine was the same.
pub(crate) const FLOOR: &str = "floor";

/// Figures of one subject in one round, by name.
pub(crate) type Figures = BTreeMap<&'static str, f64>;

/// Everybody's figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Round {
    pub(crate) figures: BTreeMap<String, Figures>,
    /// Why it does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) void: Option<String>,
}

impl Round {
    /// A figure of a subject.
    pub(crate) fn get(&self, subject: &str, figure: &str) -> Option<f64> {
        self.figures.get(subject)?.get(figure).copied()
    }

    /// A figure of one subject divided by that of another.
    pub(crate) fn ratio(&self, figure: &str, of: &str, to: &str) -> Option<f64> {
        let (above, below) = (self.get(of, figure)?, self.get(to, figure)?);
        (below > 0.0).then(|| above / below)
    }
}

/// Which rounds are wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// For remarks.
    pub(crate) title: &'a str,
    /// Valid rounds.
    pub(crate) rounds: usize,
    /// The figure of the floor that must stand still, if the floor is among the subjects.
    pub(crate) steady: &'a str,
}

/// Measures everybody in turn until there are enough valid rounds, or as many void ones as were wanted. `measure` is
/// told the place of its round among those returned.
///
/// # Errors
/// A signal came. A failed measurement makes its round void.
pub(crate) fn interleave<S>(
    wanted: &Wanted<'_>,
    subjects: &[S],
    name: impl Fn(&S) -> &str,
    mut measure: impl FnMut(usize, &S) -> Result<Figures>,
) -> Result<Vec<Round>> {
    let mut rounds: Vec<Round> = Vec::new();
    loop {
        let valid = rounds.iter().filter(|round| round.void.is_none()).count();
        if valid >= wanted.rounds || rounds.len() >= 2 * wanted.rounds {
            return Ok(rounds);
        }
        let mut round = Round::default();
        for subject in subjects {
            match measure(rounds.len(), subject) {
                Ok(figures) => {
                    round.figures.insert(name(subject).to_owned(), figures);
                }
                Err(error) if error.is::<Interrupted>() => return Err(error),
                Err(error) => {
                    round.void = Some(format!("{}: {error:#}", name(subject)));
                    break;
                }
            }
        }
        let said = round.void.as_ref().map_or(String::new(), |why| format!(", void: {why}"));
        remark(&format!("{}: round {}{said}", wanted.title, rounds.len() + 1));
        rounds.push(round);
        judge(&mut rounds, wanted.steady);
    }
}

/// Makes the rounds void in which the floor moved, against its median over all rounds without a failure.
fn judge(rounds: &mut [Round], steady: &str) {
    const MOVED: &str = "the floor moved";
    let moved = |void: &Option<String>| void.as_deref().is_some_and(|why| why.starts_with(MOVED));
    for round in rounds.iter_mut().filter(|round| moved(&round.void)) {
        round.void = None;
    }
    let sound = rounds.iter().filter(|round| round.void.is_none());
    let floors: Vec<f64> = sound.filter_map(|round| round.get(FLOOR, steady)).collect();
    let Some(usual) = median(&floors) else { return };
    for round in rounds.iter_mut().filter(|round| round.void.is_none()) {
        let Some(floor) = round.get(FLOOR, steady) else { continue };
        let by = floor / usual - 1.0;
        if by.abs() > FLOOR_MOVES {
            round.void = Some(format!("{MOVED} by {:+.0} %", by * 100.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    fn run(rounds: usize, floors: &[f64]) -> Vec<Round> {
        let mut next = floors.iter();
        let wanted = Wanted { title: "test", rounds, steady: "cpu" };
        interleave(
            &wanted,
            &["obleth", "floor"],
            |name| name,
            |_, name| {
                if *name == "obleth" {
                    return Ok(Figures::from([("cpu", 20.0)]));
                }
                match next.next() {
                    Some(cpu) if *cpu > 0.0 => Ok(Figures::from([("cpu", *cpu)])),
                    Some(_) => bail!("status 502"),
                    None => panic!("more rounds than there should be"),
                }
            },
        )
        .unwrap()
    }

    fn valid(rounds: &[Round]) -> Vec<bool> {
        rounds.iter().map(|round| round.void.is_none()).collect()
    }

    #[test]
    fn a_round_in_which_the_floor_moved_is_void_and_replaced() {
        let rounds = run(3, &[10.0, 12.0, 10.0, 10.5]);
        assert_eq!(valid(&rounds), [true, false, true, true]);
        assert_eq!(rounds[1].void.as_deref(), Some("the floor moved by +17 %"));
    }

    #[test]
    fn a_floor_that_moved_by_less_counts() {
        assert_eq!(valid(&run(3, &[10.0, 11.4, 9.0])), [true; 3]);
    }

    #[test]
    fn the_first_round_is_void_if_all_others_differ_from_it() {
        assert_eq!(valid(&run(3, &[20.0, 10.0, 10.0, 10.0])), [false, true, true, true]);
    }

    #[test]
    fn a_failed_request_makes_a_round_void_and_says_why() {
        let rounds = run(2, &[10.0, 0.0, 10.0]);
        assert_eq!(valid(&rounds), [true, false, true]);
        assert_eq!(rounds[1].void.as_deref(), Some("floor: status 502"));
    }

    #[test]
    fn there_are_never_more_than_twice_the_rounds_wanted() {
        assert_eq!(valid(&run(2, &[0.0, 0.0, 0.0, 0.0])), [false; 4]);
    }

    #[test]
    fn ratios_are_of_one_round() {
        let rounds = run(1, &[10.0]);
        assert_eq!(rounds[0].ratio("cpu", "obleth", "floor"), Some(2.0));
        assert_eq!(rounds[0].ratio("cpu", "obleth", "nginx"), None);
        assert_eq!(rounds[0].ratio("latency", "obleth", "floor"), None);
    }
}
