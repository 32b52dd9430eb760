//! Totals of what budgets have used, folded from the records of the usage log in its order.
//!
//! Pure. A total is *whole* once everything of its period up to the book's place is in it: because the book had it before
//! the first record of the period came, or because the usage ledger was asked. One that is not whole is a lower bound, and
//! totals are only ever raised: a budget must not be given twice because a part of its past could not be read.

mod account;

use std::collections::BTreeSet;

use foldhash::{HashMap, HashSet};
use obleth_ledger::{Position, Record};
use obleth_policy::{
    limit::{Definition, Measure, Meter, Scope, Spent, Unit},
    unit::UnixMs,
};

use account::{Account, Place, ends, kind, note, turn};

use crate::usage::row::MOST;

/// Parts of a budget that are told when they are used, in per cent, the lowest first.
pub(crate) const THRESHOLDS: [u8; 2] = [80, 100];

/// See the module's text. Owned by the keeper.
#[derive(Clone, Debug)]
pub(crate) struct Book {
    at: Position,
    /// Time of the newest record before those that were folded; `None` while nobody knows.
    before: Option<UnixMs>,
    /// Time of the newest one that was folded.
    folded: UnixMs,
    accounts: HashMap<Scope, Account>,
    /// Of which kinds there may be any, as [`kind`] says it: most scopes have no budget, and need not be looked for.
    kinds: u8,
    alerts: Vec<Alert>,
    /// Totals that differ from what was saved.
    unsaved: HashSet<(Meter, UnixMs)>,
    /// The place that was saved last.
    saved_at: Option<Position>,
}

/// What one period of one budget has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Total {
    /// In the measure's unit.
    pub(crate) spent: u64,
    /// See the module's text.
    pub(crate) is_whole: bool,
    /// The highest threshold that was told, in per cent.
    pub(crate) told: u8,
    /// That it has refused a request was told.
    pub(crate) is_refusal_told: bool,
}

/// What somebody should hear of a budget, once in its period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alert {
    pub(crate) meter: Meter,
    pub(crate) since: UnixMs,
    pub(crate) ends: UnixMs,
    pub(crate) limit: u64,
    pub(crate) spent: u64,
    pub(crate) cause: Cause,
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It has come to so much of its limit, in per cent.
    Threshold(u8),
    /// A request found too little left. That may be so long before it is used up: the rest may be reserved, or the request
    /// be large.
    Refusal,
}

/// One total of one period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) meter: Meter,
    pub(crate) since: UnixMs,
    pub(crate) total: Total,
}

/// A period of a budget that the usage ledger can be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) meter: Meter,
    pub(crate) since: UnixMs,
    pub(crate) ends: UnixMs,
}

/// All that a book is, as it comes out of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Saved {
    pub(crate) at: Position,
    /// Time of the newest record before this place; `None` = nobody knows.
    pub(crate) newest: Option<UnixMs>,
    pub(crate) entries: Vec<Entry>,
}

/// What goes into the store: the place, and everything that has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) at: Position,
    pub(crate) newest: Option<UnixMs>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) gone: Vec<(Meter, UnixMs)>,
}

impl Book {
    /// Without budgets. What it is given stands behind this place.
    pub(crate) fn new(at: Position) -> Self {
        Self {
            at,
            before: None,
            folded: UnixMs(i64::MIN),
            accounts: HashMap::default(),
            kinds: 0,
            alerts: Vec::new(),
            unsaved: HashSet::default(),
            saved_at: None,
        }
    }

    /// As it was saved. Its budgets have to be defined before anything is folded; see [`Book::define_all`].
    pub(crate) fn restored(saved: Saved) -> Self {
        let mut book = Self { before: saved.newest, saved_at: Some(saved.at), ..Self::new(saved.at) };
        for Entry { meter, since, total } in saved.entries {
            book.kinds |= kind(meter.scope);
            let account = book.accounts.entry(meter.scope).or_default();
            account.totals.insert((meter.measure, since), total);
        }
        book
    }

    /// The place up to which records are in it.
    pub(crate) fn at(&self) -> Position {
        self.at
    }

    /// Whether there is no budget, so that records need not be folded.
    pub(crate) fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// Passes records over: there is no budget that they could count for.
    pub(crate) fn skip(&mut self, to: Position) {
        debug_assert!(self.is_empty());
        (self.at, self.before, self.folded) = (to, None, UnixMs(i64::MIN));
    }

    fn newest(&self) -> Option<UnixMs> {
        self.before.map(|before| before.max(self.folded))
    }

    /// The budgets of a scope and their periods are these from now on. Totals of other periods are let go.
    pub(crate) fn define(&mut self, definition: &Definition) {
        let periods: Vec<Place> = definition
            .limits
            .iter()
            .filter(|(measure, _)| measure.is_budget())
            .flat_map(|(measure, _)| {
                let turn = definition.turn(measure);
                let next = (turn.ends < UnixMs(i64::MAX)).then_some((measure, turn.ends));
                [Some((measure, turn.begins)), next].into_iter().flatten()
            })
            .collect();
        let scope = definition.scope;
        let newest = self.newest();
        self.kinds |= kind(scope);
        let account = self.accounts.entry(scope).or_default();
        (account.limits, account.day, account.month) = (definition.limits, definition.day, definition.month);
        let meter = |measure| Meter { scope, measure };
        let gone = account.totals.extract_if(.., |place, _| !periods.contains(place));
        self.unsaved.extend(gone.map(|((measure, since), _)| (meter(measure), since)));
        for (measure, since) in &periods {
            let (meter, since) = (meter(*measure), *since);
            let total = account.totals.entry((*measure, since)).or_insert_with(|| {
                self.unsaved.insert((meter, since));
                // Nothing can have been used in a period that is later than all records.
                Total { is_whole: newest.is_some_and(|newest| newest < since), ..Total::default() }
            });
            let ends = ends(turn(account.day, account.month, *measure), since);
            let told = total.told;
            note(&mut self.alerts, (meter, since, ends), total, account.limits.get(*measure));
            if total.told != told {
                self.unsaved.insert((meter, since));
            }
        }
        if periods.is_empty() {
            self.accounts.remove(&scope);
        }
    }

    /// These are all definitions. Returns whether any differs from what it was.
    pub(crate) fn define_all(&mut self, definitions: &[Definition]) -> bool {
        let mut differs = false;
        let has_budgets = |of: &&Definition| of.limits.iter().any(|(measure, _)| measure.is_budget());
        for definition in definitions.iter().filter(has_budgets) {
            if !self.accounts.get(&definition.scope).is_some_and(|account| account.is_of(definition)) {
                self.define(definition);
                differs = true;
            }
        }
        let kept: BTreeSet<Scope> = definitions.iter().filter(has_budgets).map(|of| of.scope).collect();
        for (scope, account) in self.accounts.extract_if(|scope, _| !kept.contains(scope)) {
            let gone = account.totals.into_keys();
            self.unsaved.extend(gone.map(|(measure, since)| (Meter { scope, measure }, since)));
            differs = true;
        }
        self.kinds = self.accounts.keys().fold(0, |kinds, scope| kinds | kind(*scope));
        differs
    }

    /// Takes the records between its place and `to` in. Returns whether any counted for a budget.
    pub(crate) fn fold<'r>(&mut self, records: impl IntoIterator<Item = &'r Record>, to: Position) -> bool {
        debug_assert!(self.at <= to, "{} to {to}", self.at);
        let mut has_counted = false;
        for record in records {
            self.folded = self.folded.max(record.ts);
            if record.usage_source.is_none() {
                continue;
            }
            let group = record.group.map(Scope::Group);
            let scopes = [Some(Scope::Key(record.key)), Some(Scope::Tenant(record.tenant)), group];
            for scope in scopes.into_iter().flatten().filter(|scope| self.kinds & kind(*scope) != 0) {
                if let Some(account) = self.accounts.get_mut(&scope) {
                    has_counted |= account.count(scope, record, (&mut self.alerts, &mut self.unsaved));
                }
            }
        }
        self.at = to;
        has_counted
    }

    /// What a period has used.
    pub(crate) fn total(&self, meter: Meter, since: UnixMs) -> Option<Total> {
        self.accounts.get(&meter.scope)?.totals.get(&(meter.measure, since)).copied()
    }

    /// All totals, in no order.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> {
        self.accounts.iter().flat_map(|(scope, account)| {
            let entry = move |(&(measure, since), &total): (&Place, &Total)| Entry {
                meter: Meter { scope: *scope, measure },
                since,
                total,
            };
            account.totals.iter().map(entry)
        })
    }

    /// What an owner of the limits begins with.
    pub(crate) fn spent(&self) -> Vec<Spent> {
        let used = self.entries().filter(|entry| entry.total.spent > 0);
        used.map(|Entry { meter, since, total }| Spent { meter, since, amount: total.spent }).collect()
    }

    /// What periods that are under way have used.
    pub(crate) fn under_way(&self, now: UnixMs) -> Vec<Spent> {
        let periods = self.periods(|_| true).into_iter().filter(|gap| (gap.since..gap.ends).contains(&now));
        let spent =
            |Gap { meter, since, .. }| Some(Spent { meter, since, amount: self.total(meter, since)?.spent });
        periods.filter_map(spent).collect()
    }

    /// The periods whose totals are not whole.
    pub(crate) fn gaps(&self) -> Vec<Gap> {
        self.periods(|total| !total.is_whole)
    }

    /// The periods of such totals, with their ends.
    pub(crate) fn periods(&self, such: impl Fn(Total) -> bool) -> Vec<Gap> {
        let open = self.entries().filter(|entry| such(entry.total));
        let gap = |Entry { meter, since, .. }: Entry| {
            let account = self.accounts.get(&meter.scope)?;
            let ends = ends(turn(account.day, account.month, meter.measure), since);
            Some(Gap { meter, since, ends })
        };
        open.filter_map(gap).collect()
    }

    /// No total is sure to be whole any more.
    pub(crate) fn doubt(&mut self) {
        self.before = None;
        for (scope, account) in &mut self.accounts {
            for ((measure, since), total) in &mut account.totals {
                total.is_whole = false;
                self.unsaved.insert((Meter { scope: *scope, measure: *measure }, *since));
            }
        }
    }

    /// Takes up its place anew, in another log.
    pub(crate) fn moved(self, at: Position) -> Self {
        Self { at, saved_at: None, ..self }
    }

    /// The same budgets with nothing used, at another place: what it folds can be added.
    pub(crate) fn blank(&self, at: Position) -> Self {
        let mut blank = Self { accounts: self.accounts.clone(), kinds: self.kinds, ..Self::new(at) };
        let totals = blank.accounts.values_mut().flat_map(|account| account.totals.values_mut());
        totals.for_each(|total| *total = Total { told: 100, ..Total::default() });
        blank
    }

    /// Time of the newest record that was folded.
    pub(crate) fn folded(&self) -> UnixMs {
        self.folded
    }

    /// A period has used so much up to the book's place, as the usage ledger and the log say: its total is whole from now
    /// on, and never lower than it was. Returns by how much it was raised; `None` if nobody keeps that period any more.
    pub(crate) fn complete(&mut self, gap: Gap, spent: u64) -> Option<u64> {
        let account = self.accounts.get_mut(&gap.meter.scope)?;
        let limit = account.limits.get(gap.meter.measure);
        let total = account.totals.get_mut(&(gap.meter.measure, gap.since))?;
        let by = spent.saturating_sub(total.spent);
        (total.spent, total.is_whole) = (total.spent.max(spent), true);
        note(&mut self.alerts, (gap.meter, gap.since, gap.ends), total, limit);
        self.unsaved.insert((gap.meter, gap.since));
        Some(by)
    }

    /// No record before the book's place is newer than this.
    pub(crate) fn complete_time(&mut self, newest: UnixMs) {
        self.before = Some(self.before.map_or(newest, |before| before.max(newest)));
    }

    /// A request was refused for what this budget has left. Of a budget of nothing that is no news.
    pub(crate) fn note_refusal(&mut self, meter: Meter, since: UnixMs) {
        let Some(account) = self.accounts.get_mut(&meter.scope) else { return };
        let limit = account.limits.get(meter.measure).filter(|limit| *limit > 0);
        let total = account.totals.get_mut(&(meter.measure, since)).filter(|total| !total.is_refusal_told);
        let (Some(limit), Some(total)) = (limit, total) else { return };
        total.is_refusal_told = true;
        let ends = ends(turn(account.day, account.month, meter.measure), since);
        let cause = Cause::Refusal;
        self.alerts.push(Alert { meter, since, ends, limit, spent: total.spent, cause });
        self.unsaved.insert((meter, since));
    }

    /// What is to be told since this was last asked.
    pub(crate) fn take_alerts(&mut self) -> Vec<Alert> {
        std::mem::take(&mut self.alerts)
    }

    /// Whether it differs from what was last saved.
    pub(crate) fn is_altered(&self) -> bool {
        !self.unsaved.is_empty() || (!self.is_empty() && self.saved_at != Some(self.at))
    }

    /// What is to be saved, in order. It stays so until [`Book::note_saved`].
    pub(crate) fn changes(&self) -> Changes {
        let mut changes =
            Changes { at: self.at, newest: self.newest(), entries: Vec::new(), gone: Vec::new() };
        let mut unsaved: Vec<_> = self.unsaved.iter().copied().collect();
        unsaved.sort_unstable();
        for (meter, since) in unsaved {
            match self.total(meter, since) {
                Some(total) => changes.entries.push(Entry { meter, since, total }),
                None => changes.gone.push((meter, since)),
            }
        }
        changes
    }

    /// This is in the store now. What has changed again meanwhile is not.
    pub(crate) fn note_saved(&mut self, changes: &Changes) {
        for Entry { meter, since, total } in &changes.entries {
            if self.total(*meter, *since) == Some(*total) {
                self.unsaved.remove(&(*meter, *since));
            }
        }
        for (meter, since) in &changes.gone {
            if self.total(*meter, *since).is_none() {
                self.unsaved.remove(&(*meter, *since));
            }
        }
        self.saved_at = Some(changes.at);
    }
}

/// What a record counts for: the figures of its row in the usage ledger.
pub(crate) fn amount(measure: Measure, record: &Record) -> u64 {
    match measure.unit() {
        Unit::Requests => 1,
        Unit::Tokens => record.tokens.input.min(MOST) + record.tokens.output.min(MOST),
        Unit::MicroUsd => record.cost.map_or(0, |cost| cost.0.min(MOST)),
    }
}

#[cfg(test)]
mod tests;
