//! The owner's books against the spend book: what differs is put right, in the owner's.
//!
//! A budget that nobody uses just then must agree exactly. One in use must lie within bounds: what the owner knew before
//! the book caught up is in the book, and what is in the book is used or reserved in what the owner knows after it. What
//! that proves is for `judge.rs` to say.
//!
//! It looks when the owner, a shard or a budget has begun a life, and once a minute while budgets are used; else it sleeps.

use std::{sync::Arc, time::Duration};

use obleth_ledger::Tail;
use obleth_policy::limit::Correction;
use tokio::{
    sync::{Notify, broadcast::error::RecvError},
    time::sleep,
};

use super::{
    alert::{BudgetFigures, Said},
    book::{Book, Total},
    coverage::Coverage,
    judge::{Evidence, Judge, never_asked_for},
    keeper::Keeper,
};
use crate::{clock, pump::Pump};

/// Time between two audits while budgets are used.
const EVERY: Duration = Duration::from_secs(60);
/// How long the owner has for an answer.
const WITHIN: Duration = Duration::from_secs(1);
/// After this long shards that are not held up have told the owner of everything that was durable before: they do so
/// within some 20 ms.
const SAID_AFTER: Duration = Duration::from_secs(1);
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
    /// The usage log.
    pub(crate) tail: Tail,
    pub(crate) figures: Arc<BudgetFigures>,
    /// Rings when the book knows more of a budget's past than it did.
    pub(crate) completed: Arc<Notify>,
}

impl Audit {
    /// Audits until the sidecar ends.
    pub(crate) async fn run(&self) {
        let (mut owners, mut shards) = (self.pump.lives(), self.pump.shard_lives());
        let mut coverage = Coverage::of(self.tail.clone());
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
            is_open = self.audit(&mut coverage).await;
            audits += 1;
            if audits % COMPARE_EVERY == 0 {
                self.keeper.compare().await;
            }
        }
    }

    /// Tells the book of budgets that requests were refused for, until the sidecar ends.
    pub(crate) async fn hear_of_refusals(&self) {
        let mut exhausted = self.pump.exhausted();
        loop {
            match exhausted.recv().await {
                Ok((meter, since)) => self.keeper.refused(meter, since).await,
                // That they are used up the book finds out by itself.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Returns whether something may be left to find.
    async fn audit(&self, coverage: &mut Coverage) -> bool {
        let mut judge = Judge::default();
        for _ in 0..MOST_LOOKS {
            if !self.look(&mut judge, coverage).await {
                return false;
            }
            sleep(AGAIN).await;
        }
        true
    }

    /// Returns whether another look may find something.
    async fn look(&self, judge: &mut Judge, coverage: &mut Coverage) -> bool {
        if !self.keeper.has_budgets().await {
            return false;
        }
        // An owner that has no book yet, or says nothing, may have one soon.
        let Some(life) = self.pump.booked() else { return true };
        // First, so that of what the owner does not know then nobody can have told it.
        let Some(spent) = self.keeper.caught_up(|book| book.under_way(clock::now())).await else {
            return false;
        };
        let Some(before) = self.pump.look_at_limits(WITHIN).await else { return true };
        self.correct(life, never_asked_for(&before, &spent));
        let whole_since = coverage.whole_since().await;
        let totals = |book: &Book| -> Vec<Option<Total>> {
            before.iter().map(|standing| book.total(standing.meter, standing.since)).collect()
        };
        let Some(totals) = self.keeper.caught_up(totals).await else { return false };
        sleep(SAID_AFTER).await;
        let Some(after) = self.pump.look_at_limits(WITHIN).await else { return true };
        let evidence = Evidence { before: &before, totals: &totals, after: &after, whole_since };
        self.correct(life, judge.judge(evidence));
        judge.suspects() || whole_since.is_none()
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
