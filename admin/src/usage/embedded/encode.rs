//! Rows into a block.
//!
//! It is the most of what a request costs the ledger, and the writer's thread may share its processor with a shard: it works
//! on few rows at a time, column by column, while they are at hand, and then lets whoever waits go first. What it is given
//! is in order, and fits into one block.

use std::{borrow::Cow, sync::Arc, thread};

use obleth_policy::unit::UnixMs;
use uuid::Uuid;

use super::{
    bands::{Alike, Band},
    block::{self, CHECKED, COUNT, FORMAT, MOST_ROWS, SHAPES, Shape, WHO},
    columns::{NumbersWriter, write_ids, write_texts, write_times},
    names::NamesWriter,
    principals,
};
use crate::usage::row::{COLUMNS, Cell, Entry, ID, Row, TS};

/// Rows that are gathered in one go: some ten microseconds of work.
const TURN: usize = 64;

/// A row that goes into a block.
pub(super) trait Cells {
    /// Its cell in the column at this place of [`COLUMNS`].
    fn cell(&self, at: usize) -> Option<Cell<'_>>;

    /// Where it stands in lists.
    fn place(&self) -> (UnixMs, Uuid) {
        match (self.cell(TS), self.cell(ID)) {
            (Some(Cell::Time(ts)), Some(Cell::Id(id))) => (ts, id),
            _ => (UnixMs::default(), Uuid::nil()),
        }
    }

    /// The same for rows that are alike in the band, and mostly another one for others.
    fn mark(&self, _: Band) -> u64 {
        0
    }

    /// Whether it has the same names in the band. Where that is not quickly said, nothing is alike.
    fn is_like(&self, _: &Self, _: Band) -> bool {
        false
    }
}

impl<R: Cells> Cells for &R {
    fn cell(&self, at: usize) -> Option<Cell<'_>> {
        R::cell(self, at)
    }

    fn mark(&self, band: Band) -> u64 {
        R::mark(self, band)
    }

    fn is_like(&self, other: &Self, band: Band) -> bool {
        R::is_like(self, other, band)
    }

    fn place(&self) -> (UnixMs, Uuid) {
        R::place(self)
    }
}

impl Cells for Row {
    fn cell(&self, at: usize) -> Option<Cell<'_>> {
        (COLUMNS.get(at)?.of)(self)
    }

    fn place(&self) -> (UnixMs, Uuid) {
        (self.record.ts, self.record.id)
    }

    fn mark(&self, band: Band) -> u64 {
        let record = &self.record;
        let end = |id: Option<Uuid>| id.map_or(0, |id| id.as_u64_pair().1);
        match band {
            Band::Caller => end(Some(record.key.0)),
            Band::Backend => {
                end(record.model.map(|id| id.0)) ^ end(record.upstream.map(|id| id.0)).rotate_left(32)
            }
            Band::Course => {
                let admission = (record.admission as u64) << 16 | u64::from(record.streamed) << 24;
                u64::from(record.status) | admission | u64::from(record.retries) << 32
            }
        }
    }

    fn is_like(&self, other: &Self, band: Band) -> bool {
        let (one, two) = (&self.record, &other.record);
        match band {
            Band::Caller => {
                (one.key, one.tenant, one.group) == (two.key, two.tenant, two.group)
                    && is_same(Some(&self.node), Some(&other.node))
                    && is_same(self.group_name.as_ref(), other.group_name.as_ref())
            }
            Band::Backend => {
                (one.model, one.upstream) == (two.model, two.upstream)
                    && is_same(self.model_name.as_ref(), other.model_name.as_ref())
            }
            Band::Course => {
                (one.endpoint, one.status, one.outcome, one.code, one.admission)
                    == (two.endpoint, two.status, two.outcome, two.code, two.admission)
                    && (one.usage_source, one.price_version, one.streamed, one.retries)
                        == (two.usage_source, two.price_version, two.streamed, two.retries)
            }
        }
    }
}

/// Whether two texts are the same. Mostly they are the very same bytes in memory.
fn is_same(one: Option<&Arc<str>>, other: Option<&Arc<str>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one == other,
        _ => one.is_none() && other.is_none(),
    }
}

impl Cells for Entry {
    fn cell(&self, at: usize) -> Option<Cell<'_>> {
        self.cells().get(at)?.as_ref().map(Cell::borrowed)
    }
}

/// A block that is to be written.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) rows: u32,
    pub(super) from: UnixMs,
    /// The last one, not the one after it.
    pub(super) to: UnixMs,
    pub(super) who: Vec<u8>,
    pub(super) body: Vec<u8>,
}

/// A column as it is gathered.
enum Gathered<'r> {
    /// It is made of the rows' places.
    Places,
    Texts(Vec<Option<Cow<'r, str>>>),
    Numbers(NumbersWriter),
    Names(NamesWriter<'r>),
}

impl<'r> Gathered<'r> {
    fn new(shape: Shape, rows: usize) -> Self {
        match shape {
            Shape::Ids | Shape::Times => Self::Places,
            Shape::Texts => Self::Texts(Vec::with_capacity(rows)),
            Shape::Numbers => Self::Numbers(NumbersWriter::new(rows)),
            Shape::Names => Self::Names(NamesWriter::new()),
        }
    }

    /// Adds the cells of some rows in the column at this place. They are of its kind: the list of columns sees to that.
    fn extend<R: Cells>(&mut self, at: usize, rows: &'r [R]) {
        let cells = rows.iter().map(|row| row.cell(at));
        match self {
            // Names are gathered by bands.
            Self::Places | Self::Names(_) => {}
            Self::Texts(texts) => texts.extend(cells.map(|cell| match cell {
                Some(Cell::Text(text)) => Some(text),
                _ => None,
            })),
            Self::Numbers(numbers) => cells.for_each(|cell| {
                numbers.push(match cell {
                    Some(Cell::Count(number)) => Some(number),
                    _ => None,
                });
            }),
        }
    }

    fn write(&self, shape: Shape, (times, ids): (&[UnixMs], &[Uuid]), sorts: &[u16], out: &mut Vec<u8>) {
        match self {
            Self::Places if shape == Shape::Times => write_times(times, out),
            Self::Places => write_ids(ids, times, out),
            Self::Texts(texts) => write_texts(texts, ids, out),
            Self::Numbers(numbers) => numbers.write(out),
            Self::Names(names) => names.write(sorts, out),
        }
    }
}

/// Makes a block of these rows, which are in order; at least one and at most [`MOST_ROWS`]. In between it lets whoever
/// waits for this processor go first.
pub(super) fn encode<R: Cells>(rows: &[R]) -> Encoded {
    debug_assert!((1..=MOST_ROWS).contains(&rows.len()), "{} rows", rows.len());
    let (times, ids): (Vec<_>, Vec<_>) = rows.iter().map(Cells::place).unzip();
    let mut columns = SHAPES.map(|(_, shape)| Gathered::new(shape, rows.len()));
    let mut bands = Band::ALL.map(|band| Alike::new(band, rows.len()));
    for turn in rows.chunks(TURN) {
        thread::yield_now();
        for (at, column) in columns.iter_mut().enumerate() {
            column.extend(at, turn);
        }
        for band in &mut bands {
            gather(rows, turn.len(), band, &mut columns);
        }
    }
    let mut body = vec![FORMAT];
    body.resize(CHECKED, 0);
    let count = rows.len() as u32;
    body.extend(count.to_le_bytes());
    let lengths = body.len();
    body.resize(lengths + COUNT * 4, 0);
    for (at, (column, (_, shape))) in columns.iter().zip(SHAPES).enumerate() {
        let begin = body.len();
        let sorts = bands.iter().find(|band| band.columns().contains(&at)).map_or(&[][..], Alike::sorts);
        column.write(shape, (&times, &ids), sorts, &mut body);
        let length = (body.len() - begin) as u32;
        body[lengths + at * 4..][..4].copy_from_slice(&length.to_le_bytes());
    }
    let checksum = crc32fast::hash(&body[CHECKED..]);
    body[1..CHECKED].copy_from_slice(&checksum.to_le_bytes());
    let edge = |at: Option<&UnixMs>| at.copied().unwrap_or_default();
    let (from, to) = (edge(times.first()), edge(times.last()));
    Encoded { rows: count, from, to, who: who(&columns), body }
}

/// Looks at so many more rows of a block, and adds the names of those that are the first of their sort in the band.
fn gather<'r, R: Cells>(rows: &'r [R], count: usize, band: &mut Alike, columns: &mut [Gathered<'r>; COUNT]) {
    for _ in 0..count {
        let Some(row) = band.first_of_sort(rows) else { continue };
        for at in band.columns() {
            if let Gathered::Names(names) = &mut columns[*at] {
                names.push(row.cell(*at));
            }
        }
    }
}

/// Tenants and keys that are there.
fn who(columns: &[Gathered<'_>; COUNT]) -> Vec<u8> {
    let mut ids = Vec::new();
    for name in WHO {
        if let Some(Gathered::Names(names)) = columns.get(block::place(name)) {
            ids.extend(names.different().iter().filter_map(|name| match name {
                Some(Cell::Id(id)) => Some(*id),
                _ => None,
            }));
        }
    }
    principals::set_of(&ids)
}
