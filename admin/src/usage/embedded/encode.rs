//! Rows into a block.
//!
//! It is the most of what a request costs the ledger, and the writer's thread may share its processor with a shard: it works
//! on few rows at a time, column by column, while they are at hand, and then lets whoever waits go first. What it is given
//! is in order, and fits into one block.

use std::{borrow::Cow, thread};

use obleth_policy::unit::UnixMs;
use uuid::Uuid;

use super::{
    block::{self, CHECKED, COUNT, FORMAT, MOST_ROWS, SHAPES, Shape, WHO},
    columns::{write_ids, write_numbers, write_texts, write_times},
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
}

impl<R: Cells> Cells for &R {
    fn cell(&self, at: usize) -> Option<Cell<'_>> {
        R::cell(self, at)
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
    Numbers(Vec<Option<u64>>),
    Names(NamesWriter<'r>),
}

impl<'r> Gathered<'r> {
    fn new(shape: Shape, rows: usize) -> Self {
        match shape {
            Shape::Ids | Shape::Times => Self::Places,
            Shape::Texts => Self::Texts(Vec::with_capacity(rows)),
            Shape::Numbers => Self::Numbers(Vec::with_capacity(rows)),
            Shape::Names => Self::Names(NamesWriter::new(rows)),
        }
    }

    /// Adds the cells of some rows in the column at this place. They are of its kind: the list of columns sees to that.
    fn extend<R: Cells>(&mut self, at: usize, rows: &'r [R]) {
        let cells = rows.iter().map(|row| row.cell(at));
        match self {
            Self::Places => {}
            Self::Names(names) => cells.for_each(|cell| names.push(cell)),
            Self::Texts(texts) => texts.extend(cells.map(|cell| match cell {
                Some(Cell::Text(text)) => Some(text),
                _ => None,
            })),
            Self::Numbers(numbers) => numbers.extend(cells.map(|cell| match cell {
                Some(Cell::Count(number)) => Some(number),
                _ => None,
            })),
        }
    }

    fn write(&self, shape: Shape, (times, ids): (&[UnixMs], &[Uuid]), out: &mut Vec<u8>) {
        match self {
            Self::Places if shape == Shape::Times => write_times(times, out),
            Self::Places => write_ids(ids, times, out),
            Self::Texts(texts) => write_texts(texts, ids, out),
            Self::Numbers(numbers) => write_numbers(numbers, out),
            Self::Names(names) => names.write(out),
        }
    }
}

/// Makes a block of these rows, which are in order; at least one and at most [`MOST_ROWS`]. In between it lets whoever
/// waits for this processor go first.
pub(super) fn encode<R: Cells>(rows: &[R]) -> Encoded {
    debug_assert!((1..=MOST_ROWS).contains(&rows.len()), "{} rows", rows.len());
    let (times, ids): (Vec<_>, Vec<_>) = rows.iter().map(Cells::place).unzip();
    let mut columns = SHAPES.map(|(_, shape)| Gathered::new(shape, rows.len()));
    for turn in rows.chunks(TURN) {
        thread::yield_now();
        for (at, column) in columns.iter_mut().enumerate() {
            column.extend(at, turn);
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
        column.write(shape, (&times, &ids), &mut body);
        let length = (body.len() - begin) as u32;
        body[lengths + at * 4..][..4].copy_from_slice(&length.to_le_bytes());
    }
    let checksum = crc32fast::hash(&body[CHECKED..]);
    body[1..CHECKED].copy_from_slice(&checksum.to_le_bytes());
    let edge = |at: Option<&UnixMs>| at.copied().unwrap_or_default();
    let (from, to) = (edge(times.first()), edge(times.last()));
    Encoded { rows: count, from, to, who: who(&columns), body }
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
