//! Names that mostly come together, as a key's tenant and group do: they are looked up once for all of them.
//!
//! A column of names asks for each row which of its names this is. Rows that are alike in a band have the same name in every
//! one of its columns, so only the first of them has to ask. Rows must never pass for alike that differ anywhere in the band;
//! that alike ones are not recognised costs time and nothing else.

use super::{block, encode::Cells};

/// Rows that a band remembers: a power of two.
const RECENT: usize = 256;
/// 2⁶⁴ divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Which names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Band {
    /// Who asked.
    Caller,
    /// Who was asked.
    Backend,
    /// How it went.
    Course,
}

impl Band {
    pub(super) const ALL: [Self; 3] = [Self::Caller, Self::Backend, Self::Course];

    /// What its columns are called. Every column of names is in one band.
    pub(super) const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Caller => &["node", "tenant_id", "key_id", "group_id", "group_name"],
            Self::Backend => &["model_id", "model", "upstream_id"],
            Self::Course => &[
                "endpoint",
                "status",
                "outcome",
                "code",
                "admission",
                "usage_source",
                "price_version",
                "streamed",
                "retries",
            ],
        }
    }
}

/// A block's rows by what they are like in a band.
#[derive(Debug)]
pub(super) struct Alike {
    band: Band,
    /// Where its columns stand.
    columns: Vec<usize>,
    /// The first row of each sort.
    firsts: Vec<u16>,
    /// Of which sort each row is.
    sorts: Vec<u16>,
    /// For some marks, of which sort a row was that had it.
    recent: [u16; RECENT],
}

impl Alike {
    pub(super) fn new(band: Band, rows: usize) -> Self {
        let columns = band.names().iter().map(|name| block::place(name)).collect();
        Self { band, columns, firsts: Vec::new(), sorts: Vec::with_capacity(rows), recent: [0; RECENT] }
    }

    pub(super) fn columns(&self) -> &[usize] {
        &self.columns
    }

    pub(super) fn sorts(&self) -> &[u16] {
        &self.sorts
    }

    /// Looks at the next row of a block, whose rows these are. Returns it if it is the first of its sort.
    #[inline]
    pub(super) fn first_of_sort<'r, R: Cells>(&mut self, rows: &'r [R]) -> Option<&'r R> {
        let at = self.sorts.len();
        let row = &rows[at];
        let slot = (row.mark(self.band).wrapping_mul(SPREAD) >> (u64::BITS - RECENT.ilog2())) as usize;
        let sort = self.recent[slot];
        if self
            .firsts
            .get(usize::from(sort))
            .is_some_and(|first| rows[usize::from(*first)].is_like(row, self.band))
        {
            self.sorts.push(sort);
            return None;
        }
        let new = self.firsts.len() as u16;
        self.firsts.push(at as u16);
        self.sorts.push(new);
        self.recent[slot] = new;
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use obleth_ledger::{Admission, UsageSource};
    use obleth_policy::{
        id::{EndpointId, GroupId, KeyId, ModelId, TenantId},
        outcome::{Code, Outcome},
        route::Route,
        unit::UnixMs,
    };
    use uuid::Uuid;

    use super::*;
    use crate::usage::{
        embedded::block::{SHAPES, Shape},
        golden,
        row::Row,
    };

    const OTHER: Uuid = Uuid::from_u128(1);

    /// Gives a row another name in the column that is called so.
    type Change = (&'static str, fn(&mut Row));

    const CHANGES: [Change; 17] = [
        ("node", |row| row.node = Arc::from("another")),
        ("tenant_id", |row| row.record.tenant = TenantId(OTHER)),
        ("key_id", |row| row.record.key = KeyId(OTHER)),
        ("group_id", |row| row.record.group = row.record.group.is_none().then_some(GroupId(OTHER))),
        ("group_name", |row| row.group_name = row.group_name.is_none().then(|| Arc::from("another"))),
        ("model_id", |row| row.record.model = Some(ModelId(OTHER))),
        ("model", |row| row.model_name = Some(Arc::from("another"))),
        ("upstream_id", |row| row.record.upstream = Some(EndpointId(OTHER))),
        ("endpoint", |row| row.record.endpoint = Route::Unknown),
        ("status", |row| row.record.status += 1),
        ("outcome", |row| {
            let is_ok = row.record.outcome == Outcome::Ok;
            row.record.outcome = if is_ok { Outcome::Timeout } else { Outcome::Ok };
        }),
        ("code", |row| row.record.code = Some(Code::QueueFull)),
        ("admission", |row| {
            let is_fast = row.record.admission == Admission::Fast;
            row.record.admission = if is_fast { Admission::Queued } else { Admission::Fast };
        }),
        ("usage_source", |row| {
            row.record.usage_source = row.record.usage_source.is_none().then_some(UsageSource::Upstream);
        }),
        ("price_version", |row| row.record.price_version = Some(77)),
        ("streamed", |row| row.record.streamed = !row.record.streamed),
        ("retries", |row| row.record.retries += 1),
    ];

    #[test]
    fn rows_that_differ_in_one_name_are_alike_in_the_other_bands_only() {
        let mut names: Vec<_> = SHAPES.iter().filter(|(_, shape)| *shape == Shape::Names).collect();
        for number in 0..50 {
            let row = golden::at(UnixMs(1_767_225_600_000), number);
            for (name, change) in CHANGES {
                let mut other = row.clone();
                change(&mut other);
                assert_ne!(row.cell(block::place(name)), other.cell(block::place(name)), "{name}");
                for band in Band::ALL {
                    let is_elsewhere = !band.names().contains(&name);
                    assert_eq!(row.is_like(&other, band), is_elsewhere, "{name}, {band:?}");
                    assert!(!is_elsewhere || row.mark(band) == other.mark(band), "{name}, {band:?}");
                }
                names.retain(|(known, _)| *known != name);
            }
        }
        assert!(names.is_empty(), "{names:?} is in no band");
    }

    #[test]
    fn a_name_of_the_same_bytes_elsewhere_in_memory_is_the_same() {
        let row = golden::at(UnixMs(1_767_225_600_000), 3);
        let mut other = row.clone();
        other.node = Arc::from(&*row.node);
        other.group_name = row.group_name.as_deref().map(Arc::from);
        other.model_name = row.model_name.as_deref().map(Arc::from);
        assert!(Band::ALL.iter().all(|band| row.is_like(&other, *band)));
    }
}
