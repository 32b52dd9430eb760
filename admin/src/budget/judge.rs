//! What one look at the owner's books proves about them, pure.
//!
//! What is given back too early may be spent twice, and what is counted before it was said is counted twice. So a
//! correction needs two looks that find it, of which the smaller counts; only a budget that nobody uses is raised at once.
//! And a budget is lowered only where the usage log has all that was noted: what is not in it yet, or was lost, was used.

use std::collections::{HashMap, HashSet};

use obleth_policy::{
    limit::{Correction, Meter, Spent, Standing},
    unit::UnixMs,
};

use super::book::Total;

/// What was found, and waits for a second look: meter by meter.
#[derive(Debug, Default)]
pub(super) struct Judge {
    suspected: HashMap<Meter, Correction>,
}

/// How the owner's books stood before and after the spend book had caught up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence<'e> {
    pub(super) before: &'e [Standing],
    /// What the spend book says of each of them.
    pub(super) totals: &'e [Option<Total>],
    pub(super) after: &'e [Standing],
    /// Periods that begin at this moment or later are in the usage log with all that was noted before the first look;
    /// `None` if none is for sure.
    pub(super) whole_since: Option<UnixMs>,
}

impl Judge {
    /// Whether another look may prove something.
    pub(super) fn suspects(&self) -> bool {
        !self.suspected.is_empty()
    }

    /// What is to be put right, by one more look.
    pub(super) fn judge(&mut self, evidence: Evidence<'_>) -> Vec<Correction> {
        let Evidence { before, totals, after, whole_since } = evidence;
        let after: HashMap<Meter, &Standing> =
            after.iter().map(|standing| (standing.meter, standing)).collect();
        let suspected = std::mem::take(&mut self.suspected);
        let mut corrections = Vec::new();
        for (before, total) in before.iter().zip(totals) {
            let (meter, since) = (before.meter, before.since);
            let after = after.get(&meter).filter(|after| after.since == since && meter.measure.is_budget());
            let (Some(after), Some(total)) = (after, total) else { continue };
            let mut by = difference(before, *total, after);
            if by < 0 && whole_since.is_none_or(|whole| since < whole) {
                by = 0;
            }
            let earlier = suspected.get(&meter).filter(|earlier| earlier.since == since);
            let certain = match earlier.map_or(0, |earlier| earlier.by) {
                _ if by > 0 && is_quiet(before, after) => by,
                earlier if by > 0 && earlier > 0 => by.min(earlier),
                earlier if by < 0 && earlier < 0 => by.max(earlier),
                _ => 0,
            };
            if certain != 0 {
                corrections.push(Correction { meter, since, by: certain });
            }
            if by != certain {
                self.suspected.insert(meter, Correction { meter, since, by: by - certain });
            }
        }
        corrections
    }
}

/// Whether nobody used it meanwhile, as far as shards have said.
fn is_quiet(before: &Standing, after: &Standing) -> bool {
    before.version == after.version && before.reserved == 0 && after.reserved == 0
}

/// What must be added to what the owner counts as used, as one look has it.
fn difference(before: &Standing, total: Total, after: &Standing) -> i64 {
    let most = if is_quiet(before, after) { after.used } else { after.used.saturating_add(after.reserved) };
    if total.spent > most {
        return i64::try_from(total.spent - most).unwrap_or(i64::MAX);
    }
    // A total that is not whole is only a lower bound.
    let too_much = if total.is_whole { before.used.saturating_sub(total.spent) } else { 0 };
    -i64::try_from(too_much).unwrap_or(i64::MAX)
}

/// What the owner has to be told of budgets that nobody has asked it for since it has its book: it holds them for unused,
/// and those who use them do not tell it. They were made after they had been used.
pub(super) fn never_asked_for(standings: &[Standing], spent: &[Spent]) -> Vec<Correction> {
    let known: HashSet<Meter> = standings.iter().map(|standing| standing.meter).collect();
    let unknown = spent.iter().filter(|spent| spent.amount > 0 && !known.contains(&spent.meter));
    let whole = |&Spent { meter, since, amount }: &Spent| Correction {
        meter,
        since,
        by: i64::try_from(amount).unwrap_or(i64::MAX),
    };
    unknown.map(whole).collect()
}

#[cfg(test)]
mod tests {
    use obleth_policy::{
        id::KeyId,
        limit::{Measure, Scope},
        unit::UnixMs,
    };
    use uuid::Uuid;

    use super::*;

    const METER: Meter =
        Meter { scope: Scope::Key(KeyId(Uuid::from_u128(1))), measure: Measure::DailyTokens };

    fn standing(used: u64, reserved: u64, version: u64) -> Standing {
        Standing { meter: METER, since: UnixMs(7), ends: UnixMs(9), limit: 1000, used, reserved, version }
    }

    fn total(spent: u64) -> Option<Total> {
        Some(Total { spent, is_whole: true, ..Total::default() })
    }

    /// What one look corrects, where the log has everything.
    fn look(judge: &mut Judge, before: Standing, total: Option<Total>, after: Standing) -> Vec<i64> {
        look_with(judge, (before, total, after), Some(UnixMs(i64::MIN)))
    }

    fn look_with(
        judge: &mut Judge,
        (before, total, after): (Standing, Option<Total>, Standing),
        whole_since: Option<UnixMs>,
    ) -> Vec<i64> {
        let evidence = Evidence { before: &[before], totals: &[total], after: &[after], whole_since };
        judge.judge(evidence).iter().map(|correction| correction.by).collect()
    }

    #[test]
    fn a_quiet_budget_is_put_right_exactly_at_once_upwards_and_confirmed_downwards() {
        let mut judge = Judge::default();
        let quiet = standing(500, 0, 3);
        assert_eq!(look(&mut judge, quiet, total(500), quiet), [0; 0]);
        assert_eq!(look(&mut judge, quiet, total(520), quiet), [20]);
        assert_eq!(look(&mut judge, quiet, total(460), quiet), [0; 0]);
        assert_eq!(look(&mut judge, quiet, total(460), quiet), [-40], "two looks found it");
        assert_eq!(look(&mut judge, quiet, total(460), quiet), [0; 0]);
        assert_eq!(look(&mut judge, quiet, total(500), quiet), [0; 0], "it was late and came");
        assert_eq!(look(&mut judge, quiet, total(460), quiet), [0; 0], "so this is the first look again");
        assert_eq!(look(&mut judge, quiet, total(490), quiet), [-10], "no more than both found");
        let raised = standing(500, 0, 4);
        assert_eq!(look(&mut judge, raised, total(500), raised), [0; 0]);
        assert_eq!(look(&mut judge, raised, total(495), raised), [0; 0]);
        assert_eq!(look(&mut judge, raised, total(480), raised), [-5], "both found so much");
        let put_right = standing(495, 0, 5);
        assert_eq!(look(&mut judge, put_right, total(480), put_right), [-15], "and two the rest");
    }

    #[test]
    fn a_budget_in_use_is_put_right_only_beyond_what_its_requests_explain() {
        let mut judge = Judge::default();
        let (before, after) = (standing(500, 40, 3), standing(560, 30, 9));
        for explained in [500, 540, 590] {
            assert_eq!(look(&mut judge, before, total(explained), after), [0; 0], "{explained}");
        }
        assert_eq!(look(&mut judge, before, total(600), after), [0; 0]);
        assert_eq!(look(&mut judge, before, total(600), after), [10], "two looks found it");
        assert_eq!(look(&mut judge, before, total(450), after), [0; 0]);
        assert_eq!(look(&mut judge, before, total(450), after), [-50]);
        let reserving = standing(500, 40, 3);
        assert_eq!(look(&mut judge, reserving, total(530), reserving), [0; 0], "not told of yet");
    }

    #[test]
    fn what_a_stalled_shard_has_noted_and_not_said_is_not_counted_for_it() {
        let mut judge = Judge::default();
        let (before, stalled) = (standing(500, 40, 3), standing(560, 30, 9));
        assert_eq!(look(&mut judge, before, total(620), stalled), [0; 0], "30 more than shards have said");
        let said = standing(620, 0, 12);
        assert_eq!(look(&mut judge, stalled, total(620), said), [0; 0], "there it is");
        assert!(!judge.suspects());
        // What nobody says is added, and no more of it than both looks found.
        assert_eq!(look(&mut judge, said, total(660), standing(620, 10, 13)), [0; 0]);
        assert!(judge.suspects());
        assert_eq!(look(&mut judge, said, total(645), standing(620, 10, 14)), [15]);
        assert!(!judge.suspects());
        assert_eq!(look(&mut judge, said, total(700), standing(620, 10, 15)), [0; 0]);
        assert_eq!(look(&mut judge, said, total(580), standing(620, 10, 16)), [0; 0], "the other way");
        assert_eq!(look(&mut judge, said, total(700), standing(620, 10, 17)), [0; 0], "and back");
    }

    #[test]
    fn nothing_is_given_back_of_a_period_of_which_the_log_has_not_everything() {
        let mut judge = Judge::default();
        let looks = (standing(500, 0, 3), total(460), standing(500, 0, 3));
        for _ in 0..3 {
            for whole_since in [None, Some(UnixMs(looks.0.since.0 + 1))] {
                assert_eq!(look_with(&mut judge, looks, whole_since), [0; 0]);
                assert!(!judge.suspects());
            }
        }
        let more = (looks.0, total(520), looks.2);
        assert_eq!(look_with(&mut judge, more, None), [20], "what the log has was used");
        assert_eq!(look_with(&mut judge, looks, Some(looks.0.since)), [0; 0]);
        assert_eq!(look_with(&mut judge, looks, Some(looks.0.since)), [-40]);
    }

    #[test]
    fn a_budget_that_was_used_before_it_was_made_is_made_known_whole() {
        let other = Meter { measure: Measure::LifetimeTokens, ..METER };
        let spent = |meter, amount| Spent { meter, since: UnixMs(7), amount };
        let found = never_asked_for(&[standing(3, 0, 1)], &[spent(METER, 500), spent(other, 40)]);
        assert_eq!(found, [Correction { meter: other, since: UnixMs(7), by: 40 }]);
        assert_eq!(never_asked_for(&[], &[spent(other, 0)]), []);
    }

    #[test]
    fn what_is_not_known_for_certain_is_left_alone() {
        let mut judge = Judge::default();
        let quiet = standing(500, 0, 3);
        let part = Some(Total { is_whole: false, ..total(400).unwrap() });
        for _ in 0..3 {
            assert_eq!(look(&mut judge, quiet, part, quiet), [0; 0], "a lower bound");
            assert_eq!(look(&mut judge, quiet, None, quiet), [0; 0], "the book does not know it");
            let next = Standing { since: UnixMs(9), ..quiet };
            assert_eq!(look(&mut judge, quiet, total(1), next), [0; 0], "its period has ended");
        }
        let more = Some(Total { is_whole: false, ..total(600).unwrap() });
        assert_eq!(look(&mut judge, quiet, more, quiet), [100], "it was at least that");
    }
}
