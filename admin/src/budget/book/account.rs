//! The budgets of one scope, and what one record adds to them.
//!
//! It is gone through for every request that is over: it must not allocate for totals that it knows.

use std::collections::BTreeMap;

use foldhash::HashSet;
use obleth_ledger::Record;
use obleth_policy::{
    limit::{Definition, Limits, Measure, Meter, Scope, Turn},
    unit::UnixMs,
};

use super::{Alert, Cause, THRESHOLDS, Total, amount};

/// Which total: a measure, and the first moment of a period.
pub(super) type Place = (Measure, UnixMs);

/// The budgets of one scope.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) limits: Limits,
    pub(super) day: Turn,
    pub(super) month: Turn,
    pub(super) totals: BTreeMap<Place, Total>,
}

impl Default for Account {
    fn default() -> Self {
        Self { limits: Limits::NONE, day: Turn::FOREVER, month: Turn::FOREVER, totals: BTreeMap::new() }
    }
}

impl Account {
    pub(super) fn is_of(&self, definition: &Definition) -> bool {
        (self.limits, self.day, self.month) == (definition.limits, definition.day, definition.month)
    }

    pub(super) fn count(
        &mut self,
        scope: Scope,
        record: &Record,
        (alerts, unsaved): (&mut Vec<Alert>, &mut HashSet<(Meter, UnixMs)>),
    ) -> bool {
        let mut has_counted = false;
        for (&(measure, since), total) in &mut self.totals {
            // Mostly the next period, which is looked at as often as the one under way.
            if record.ts < since {
                continue;
            }
            let ends = ends(turn(self.day, self.month, measure), since);
            let amount = amount(measure, record);
            if record.ts >= ends || amount == 0 {
                continue;
            }
            total.spent = total.spent.saturating_add(amount);
            has_counted = true;
            let meter = Meter { scope, measure };
            unsaved.insert((meter, since));
            note(alerts, (meter, since, ends), total, self.limits.get(measure));
        }
        has_counted
    }
}

/// Notes the thresholds that a total has come to, each once. A budget of nothing has none.
pub(super) fn note(
    alerts: &mut Vec<Alert>,
    (meter, since, ends): (Meter, UnixMs, UnixMs),
    total: &mut Total,
    limit: Option<u64>,
) {
    let Some(limit) = limit.filter(|limit| *limit > 0) else { return };
    let told = total.told;
    for threshold in THRESHOLDS.into_iter().filter(|threshold| *threshold > told) {
        // The lowest first: mostly that is all that there is to compare.
        if u128::from(total.spent) * 100 < u128::from(limit) * u128::from(threshold) {
            return;
        }
        total.told = threshold;
        let cause = Cause::Threshold(threshold);
        alerts.push(Alert { meter, since, ends, limit, spent: total.spent, cause });
    }
}

/// A bit for the kind of a scope.
pub(super) const fn kind(scope: Scope) -> u8 {
    match scope {
        Scope::Key(_) => 1,
        Scope::Tenant(_) => 1 << 1,
        Scope::Group(_) => 1 << 2,
    }
}

pub(super) const fn turn(day: Turn, month: Turn, measure: Measure) -> Turn {
    use obleth_policy::limit::Period;
    match measure.period() {
        Period::Daily => day,
        Period::Monthly => month,
        Period::Minute | Period::Lifetime => Turn::FOREVER,
    }
}

/// Where the period ends that begins at `since`: the one under way, or the next.
pub(super) fn ends(turn: Turn, since: UnixMs) -> UnixMs {
    if since == turn.begins { turn.ends } else { turn.next_ends }
}
