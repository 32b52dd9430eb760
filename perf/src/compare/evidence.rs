//! What rounds are evidence for: values of valid rounds, of quiet ones, what is added to the backend's own.
//!
//! It must never make a value out of two rounds, and always have a reason where there is none.

use crate::rounds::Round;

/// The most of the time that a subject may have to wait for its processor where times are compared: with more, others
/// decide what the p99 is.
const MOST_WAITED: f64 = 0.05;

/// One value per valid round.
pub(super) fn values<'r>(
    rounds: &'r [Round],
    of: impl Fn(&'r Round) -> Option<f64> + 'r,
) -> Vec<Option<f64>> {
    rounds.iter().filter(|round| round.void.is_none()).map(of).collect()
}

/// The reason why the rounds say nothing, if they do not.
pub(super) fn void(rounds: &[Round]) -> Option<String> {
    let all_void = rounds.iter().all(|round| round.void.is_some());
    rounds.last().filter(|_| all_void)?.void.as_ref().map(|why| format!("every round is void: {why}"))
}

/// How much more than the backend itself a subject shows, against how much more a peer shows.
pub(super) fn added_ratio(round: &Round, figure: &str, peer: &str) -> Option<f64> {
    let added = |subject| Some(round.get(subject, figure)? - round.get("direct", figure)?);
    let (ours, theirs) = (added("obleth")?, added(peer)?);
    (theirs > 0.0).then(|| ours / theirs)
}

/// Why the times of a round are the machine's and not the subjects', if they are. The backend shares its processor with
/// the load at all times. The gateway's own threads take it from each other, which is its cost and not the machine's; a
/// round in which a stranger takes it from the gateway alone is worse for the gateway, never better.
fn disturbed(round: &Round) -> Option<String> {
    let waits = round.figures.iter().filter(|(name, _)| !["direct", "obleth"].contains(&name.as_str()));
    let (name, waited) = waits
        .filter_map(|(name, figures)| Some((name, *figures.get("waited")?)))
        .max_by(|one, other| one.1.total_cmp(&other.1))?;
    (waited > MOST_WAITED)
        .then(|| format!("the machine was not quiet: {name} waited {:.0} % of the time", waited * 100.0))
}

/// One value per valid round in which nobody had to wait, and the reason if there is none.
pub(super) fn quiet_values(
    rounds: &[Round],
    of: impl Fn(&Round) -> Option<f64>,
) -> (Vec<Option<f64>>, Option<String>) {
    let quiet = |round: &Round| if disturbed(round).is_none() { of(round) } else { None };
    let values = values(rounds, quiet);
    let why = void(rounds).or_else(|| {
        let none = values.iter().all(Option::is_none);
        none.then(|| rounds.iter().rev().find_map(disturbed))?
    });
    (values, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounds::Figures;

    fn round(figures: &[(&str, f64, f64)]) -> Round {
        let mut round = Round::default();
        for (name, p99_us, waited) in figures {
            let figures = Figures::from([("p99_us", *p99_us), ("waited", *waited)]);
            round.figures.insert((*name).to_owned(), figures);
        }
        round
    }

    #[test]
    fn what_is_added_is_compared_with_what_a_peer_adds() {
        let of = |direct, nginx, obleth| {
            let round = round(&[("direct", direct, 0.4), ("nginx", nginx, 0.0), ("obleth", obleth, 0.0)]);
            added_ratio(&round, "p99_us", "nginx")
        };
        assert_eq!(of(100.0, 140.0, 150.0), Some(1.25));
        assert_eq!(of(100.0, 140.0, 90.0), Some(-0.25));
        assert_eq!(of(100.0, 99.0, 150.0), None, "a peer that adds nothing is no measure");
    }

    #[test]
    fn times_of_rounds_in_which_somebody_had_to_wait_do_not_count() {
        let rounds = [
            round(&[("direct", 1.0, 0.5), ("nginx", 9.0, 0.001), ("obleth", 10.0, 0.3)]),
            round(&[("direct", 1.0, 0.5), ("nginx", 19.0, 0.3), ("obleth", 20.0, 0.001)]),
        ];
        let p99 = |round: &Round| round.get("obleth", "p99_us");
        let (values, why) = quiet_values(&rounds, p99);
        assert_eq!((values, why), (vec![Some(10.0), None], None));
        let (values, why) = quiet_values(&rounds[1..], p99);
        assert_eq!(values, [None]);
        assert_eq!(why.as_deref(), Some("the machine was not quiet: nginx waited 30 % of the time"));
    }
}
