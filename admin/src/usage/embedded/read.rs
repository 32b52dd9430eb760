//! Questions to the embedded ledger.
//!
//! Blocks that cannot have anything to say are passed over by what stands beside them; of the others only those columns are
//! decoded that are asked for. All of a report sees one state of the file. A damaged block makes every question fail that
//! needs it, and no other: a part of a sum is no sum, and a list with a hole in it looks whole.

use std::collections::BTreeMap;

use obleth_policy::unit::UnixMs;
use rusqlite::Connection;
use uuid::Uuid;

use super::{
    Patience,
    block::{self, Block},
    columns::Torn,
    names::Names,
    stored::{self, Beside, Bodies},
    tally::Tally,
};
use crate::usage::{
    fault::LedgerFault,
    report::{Filter, Page, Report, Reported, Scope},
    row::Entry,
};

/// See [`super::Embedded::report`].
pub(super) fn report(
    conn: &mut Connection,
    report: &Report,
    patience: &Patience,
) -> Result<Reported, LedgerFault> {
    let tx = conn.transaction()?;
    let as_of = stored::newest(&tx)?;
    let mut tally = Tally::new(report);
    let mut bodies = Bodies::of(&tx)?;
    let mut within = stored::within(&tx)?;
    let mut blocks = within.query((report.scope.from.0, report.scope.to.0))?;
    while let Some(row) = blocks.next()? {
        patience.check()?;
        let beside = Beside::of(row)?;
        if beside.may_have(&report.scope) {
            bodies.look(beside.number, |block| tally.add(block))?;
            if tally.is_too_long() {
                return Err(LedgerFault::TooManyGroups);
            }
        }
    }
    Ok(Reported { groups: tally.groups(), as_of })
}

/// Which rows of a block the filters leave.
pub(super) struct Sieve<'b>(Vec<(Names<'b>, u16)>);

impl<'b> Sieve<'b> {
    /// `None` if they leave none.
    pub(super) fn of(block: &Block<'b>, filters: &[Filter]) -> Result<Option<Self>, Torn> {
        let mut wanted = Vec::with_capacity(filters.len());
        for filter in filters {
            let names = block.names(block::place(filter.column()))?;
            let Some(code) = names.code(&filter.cell()) else { return Ok(None) };
            wanted.push((names, code));
        }
        Ok(Some(Self(wanted)))
    }

    pub(super) fn leaves(&self, row: usize) -> bool {
        self.0.iter().all(|(names, wanted)| names.codes.get(row) == Some(wanted))
    }
}

/// The part of a block's rows that lies in the scope.
pub(super) fn part(times: &[UnixMs], scope: &Scope) -> std::ops::Range<usize> {
    times.partition_point(|at| *at < scope.from)..times.partition_point(|at| *at < scope.to)
}

/// See [`super::Embedded::page`].
pub(super) fn page(
    conn: &mut Connection,
    page: &Page,
    patience: &Patience,
) -> Result<Vec<Entry>, LedgerFault> {
    let tx = conn.transaction()?;
    let mut newest = Newest { page, entries: BTreeMap::new() };
    let mut bodies = Bodies::of(&tx)?;
    let mut within = stored::within(&tx)?;
    let to = newest.end();
    let mut blocks = within.query((page.scope.from.0, to.0))?;
    while let Some(row) = blocks.next()? {
        patience.check()?;
        let beside = Beside::of(row)?;
        // All that follow end before it does.
        if newest.is_full_of_later(beside.to) {
            break;
        }
        if beside.may_have(&page.scope) {
            bodies.look(beside.number, |block| newest.add(block, beside.number))?;
        }
    }
    Ok(newest.entries.into_values().rev().collect())
}

/// Rows by their place in the list; what is behind it only tells two blocks' rows apart.
type Place = ((UnixMs, Uuid), (i64, usize));

/// The rows that a page shows, as far as blocks were looked into.
struct Newest<'q> {
    page: &'q Page,
    entries: BTreeMap<Place, Entry>,
}

impl Newest<'_> {
    /// No row of the page is from this time on.
    fn end(&self) -> UnixMs {
        let to = self.page.scope.to;
        self.page.after.map_or(to, |(ts, _)| to.min(UnixMs(ts.0.saturating_add(1))))
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= self.page.limit as usize
    }

    /// Whether a row of this time comes too late.
    fn is_full_of_later(&self, at: UnixMs) -> bool {
        self.is_full() && self.entries.first_key_value().is_none_or(|(((last, _), _), _)| *last > at)
    }

    fn add(&mut self, block: &Block<'_>, number: i64) -> Result<(), Torn> {
        let times = block.times()?;
        let Some(sieve) = Sieve::of(block, &self.page.scope.filters)? else { return Ok(()) };
        let scope = Scope { to: self.end(), filters: Vec::new(), ..self.page.scope };
        let mut whole = None;
        for row in part(&times, &scope).rev().filter(|row| sieve.leaves(*row)) {
            if self.is_full_of_later(times[row]) {
                break;
            }
            let whole = match &mut whole {
                Some(whole) => whole,
                none => none.insert(block.decode()?),
            };
            let entry = whole.entry(row)?;
            let place = entry.place().ok_or(Torn)?;
            if self.page.after.is_none_or(|after| place < after) {
                self.entries.insert((place, (number, row)), entry);
            }
            if self.entries.len() > self.page.limit as usize {
                self.entries.pop_first();
            }
        }
        Ok(())
    }
}
