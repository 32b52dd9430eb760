//! The owner's books against the spend book: what differs is put right, in the owner's.
//!
//! A budget that nobody uses just then must agree exactly. One in use must lie within bounds: what the owner knew before
//! the book caught up is in the book, and what is in the book is used or reserved in what the owner knows after it. To lower
//! what was used gives a budget back, so it takes two looks that find the same; to raise it takes one.
//!
//! It looks when the owner, a shard or a budget has begun a life, and once a minute while budgets are used; else it sleeps.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use obleth_policy::limit::{Correction, Meter, Spent, Standing};
use tokio::{
    sync::{Notify, broadcast::error::RecvError},
    time::sleep,
};

use super::{
    alert::{BudgetFigures, Said},
    book::{Book, Total},
    keeper::Keeper,
};
use crate::{clock, pump::Pump};

/// Time between two audits while budgets are used.
const EVERY: Duration = Duration::from_secs(60);
/// How long the owner has for an answer.
const WITHIN: Duration = Duration::from_secs(1);
/// After this long everything that shards have told the owner is durable in the usage log: they note it first, and the log
/// is synced many times meanwhile.
const DURABLE_AFTER: Duration = Duration::from_secs(1);
/// After this long shards have told the owner of everything that was durable before.
const SAID_AFTER: Duration = Duration::from_millis(100);
/// Pause before a look that is to find the same.
const AGAIN: Duration = Duration::from_secs(2);
/// Looks of one audit at most.
const MOST_LOOKS: u32 = 4;
/// Audits between two comparisons of the spend book with the usage ledger: hours of use.
const COMPARE_EVERY: u32 = 360;

/// See the module's text. One per sidecar.
pub(crate) struct Audit {
    pub(crate) pump: Arc<Pump>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) figures: Arc<BudgetFigures>,
    /// Rings when the book knows more of a budget's past than it did.
    pub(crate) completed: Arc<Notify>,
}

/// What was found to be too much, and waits for a second look: meter by meter.
#[derive(Debug, Default)]
struct Judge {
    suspected: HashMap<Meter, Correction>,
}

impl Audit {
    /// Audits until the sidecar ends.
    pub(crate) async fn run(&self) {
        let (mut owners, mut shards) = (self.pump.lives(), self.pump.shard_lives());
        let mut audits = 0;
        let mut is_open = false;
        loop {
            let used = async {
                self.keeper.moved().await;
                sleep(EVERY).await;
            };
            tokio::select! {
                Ok(()) = owners.changed() => {}
                Ok(()) = shards.changed() => {}
                () = self.completed.notified() => {}
                () = used => {}
                () = sleep(EVERY), if is_open => {}
            }
            is_open = self.audit().await;
            audits += 1;
            if audits % COMPARE_EVERY == 0 {
                self.keeper.compare().await;
            }
        }
    }

    /// Tells the book of budgets that requests were refused for, until the sidecar ends.
    pub(crate) async fn hear_of_ends(&self) {
        let mut exhausted = self.pump.exhausted();
        loop {
            match exhausted.recv().await {
                Ok((meter, since)) => self.keeper.exhausted(meter, since).await,
                // The book finds out by itself when they are used up.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Returns whether something may be left to find.
    async fn audit(&self) -> bool {
        let mut judge = Judge::default();
        for _ in 0..MOST_LOOKS {
            if !self.look(&mut judge).await {
                return false;
            }
            sleep(AGAIN).await;
        }
        true
    }

    /// Returns whether another look may find something.
    async fn look(&self, judge: &mut Judge) -> bool {
        if !self.keeper.has_budgets().await {
            return false;
        }
        // An owner that has no book yet, or says nothing, may have one soon.
        let Some(life) = self.pump.booked() else { return true };
        let Some(before) = self.pump.look_at_limits(WITHIN).await else { return true };
        let Some(spent) = self.keeper.caught_up(|book| book.under_way(clock::now())).await else {
            return false;
        };
        self.correct(life, never_asked_for(&before, &spent));
        sleep(DURABLE_AFTER).await;
        let totals = |book: &Book| -> Vec<Option<Total>> {
            before.iter().map(|standing| book.total(standing.meter, standing.since)).collect()
        };
        let Some(totals) = self.keeper.caught_up(totals).await else { return false };
        sleep(SAID_AFTER).await;
        let Some(after) = self.pump.look_at_limits(WITHIN).await else { return true };
        self.correct(life, judge.judge(before.iter().zip(totals), &after));
        !judge.suspected.is_empty()
    }

    /// Puts right what was found in this life of the coordinator.
    fn correct(&self, life: u64, corrections: Vec<Correction>) {
        if self.pump.booked() != Some(life) {
            return;
        }
        for correction in corrections {
            self.figures.note_repair();
            tracing::warn!(target: "obleth_budget", budget = %Said(correction.meter), by = correction.by,
                "what a budget has used was not what the usage log says; it is put right");
            self.pump.correct(correction);
        }
    }
}

/// What the owner has to be told of budgets that nobody has asked it for since it has its book: it holds them for unused,
/// and those who use them do not tell it. They were made after they had been used.
fn never_asked_for(standings: &[Standing], spent: &[Spent]) -> Vec<Correction> {
    let known: HashSet<Meter> = standings.iter().map(|standing| standing.meter).collect();
    let unknown = spent.iter().filter(|spent| spent.amount > 0 && !known.contains(&spent.meter));
    let whole = |&Spent { meter, since, amount }: &Spent| Correction {
        meter,
        since,
        by: i64::try_from(amount).unwrap_or(i64::MAX),
    };
    unknown.map(whole).collect()
}

impl Judge {
    /// What is to be put right, by one more look: how meters stood, what the book caught up with after that, and how they
    /// stood then.
    fn judge<'s>(
        &mut self,
        before: impl Iterator<Item = (&'s Standing, Option<Total>)>,
        after: &[Standing],
    ) -> Vec<Correction> {
        let after: HashMap<Meter, &Standing> =
            after.iter().map(|standing| (standing.meter, standing)).collect();
        let suspected = std::mem::take(&mut self.suspected);
        let mut corrections = Vec::new();
        for (before, total) in before {
            let (meter, since) = (before.meter, before.since);
            let after = after.get(&meter).filter(|after| after.since == since && meter.measure.is_budget());
            let (Some(after), Some(total)) = (after, total) else { continue };
            let by = difference(before, total, after);
            let correction = Correction { meter, since, by };
            if by > 0 {
                corrections.push(correction);
            }
            if by < 0 {
                let earlier = suspected.get(&meter).filter(|earlier| earlier.since == since);
                let certain = earlier.map_or(0, |earlier| by.max(earlier.by));
                if certain < 0 {
                    corrections.push(Correction { by: certain, ..correction });
                }
                if certain > by {
                    self.suspected.insert(meter, Correction { by: by - certain, ..correction });
                }
            }
        }
        corrections
    }
}

/// What must be added to what the owner counts as used, as far as it is certain.
fn difference(before: &Standing, total: Total, after: &Standing) -> i64 {
    let is_quiet = before.version == after.version && before.reserved == 0 && after.reserved == 0;
    let most = if is_quiet { after.used } else { after.used.saturating_add(after.reserved) };
    if total.spent > most {
        return i64::try_from(total.spent - most).unwrap_or(i64::MAX);
    }
    // A total that is not whole is only a lower bound.
    let too_much = if total.is_whole { before.used.saturating_sub(total.spent) } else { 0 };
    -i64::try_from(too_much).unwrap_or(i64::MAX)
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
        Some(Total { spent, is_whole: true, told: 0 })
    }

    /// What one look corrects.
    fn look(judge: &mut Judge, before: Standing, total: Option<Total>, after: Standing) -> Vec<i64> {
        let corrections = judge.judge([(&before, total)].into_iter(), &[after]);
        corrections.iter().map(|correction| correction.by).collect()
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
        assert_eq!(look(&mut judge, before, total(600), after), [10]);
        assert_eq!(look(&mut judge, before, total(450), after), [0; 0]);
        assert_eq!(look(&mut judge, before, total(450), after), [-50]);
        let reserving = standing(500, 40, 3);
        assert_eq!(look(&mut judge, reserving, total(530), reserving), [0; 0], "not told of yet");
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
