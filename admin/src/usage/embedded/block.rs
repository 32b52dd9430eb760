//! A block: some hundred or thousand requests in one row of the file, column by column.
//!
//! A row of SQLite's for each request costs 3 µs and 320 bytes, and 30 µs where long requests of many tenants end, because
//! they belong all over its trees; here each costs a tenth of the less. What a question needs to pass a block over stands
//! beside it: its first and its last time, and who may be in it.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | format, 1 |
//! | 1–4 | CRC-32 (IEEE) of everything behind it |
//! | 5–8 | rows; they go by time and then by id |
//! | 9– | the length of every column's bytes, 4 bytes each |
//! | then | the columns, by [`SHAPES`] |
//!
//! Numbers are little-endian. A column is never read before the checksum has been found right, and a block that is not
//! whole is named in the process's log. Another column takes another format; this one must stay readable.

use std::borrow::Cow;

use obleth_policy::unit::UnixMs;
use uuid::Uuid;

use super::{
    columns::{Bytes, Numbers, Torn, read_ids, read_texts, read_times},
    encode::Cells,
    names::Names,
};
use crate::usage::row::{COLUMNS, Cell, Entry, ID, TS};

/// Most rows of a block that is made: what is decoded to show one of them, and the most that damage to one costs.
pub(super) const MOST_ROWS: usize = 2048;
/// Most rows of a block that is read: names are counted in 16 bits.
const MOST_READ: usize = 1 << 16;
pub(super) const FORMAT: u8 = 1;
/// Where the bytes begin that the checksum is of.
pub(super) const CHECKED: usize = 5;
/// Columns of this format.
pub(super) const COUNT: usize = 29;

/// How a column lies in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Ids,
    Times,
    Texts,
    Numbers,
    Names,
}

/// The columns of format 1, in their order there.
pub(super) const SHAPES: [(&str, Shape); COUNT] = [
    ("id", Shape::Ids),
    ("ts", Shape::Times),
    ("request_id", Shape::Texts),
    ("session_id", Shape::Texts),
    ("node", Shape::Names),
    ("tenant_id", Shape::Names),
    ("key_id", Shape::Names),
    ("group_id", Shape::Names),
    ("group_name", Shape::Names),
    ("model_id", Shape::Names),
    ("model", Shape::Names),
    ("endpoint", Shape::Names),
    ("upstream_id", Shape::Names),
    ("status", Shape::Names),
    ("outcome", Shape::Names),
    ("code", Shape::Names),
    ("admission", Shape::Names),
    ("queue_ms", Shape::Numbers),
    ("ttft_ms", Shape::Numbers),
    ("total_ms", Shape::Numbers),
    ("overhead_us", Shape::Numbers),
    ("input_tokens", Shape::Numbers),
    ("cached_input_tokens", Shape::Numbers),
    ("output_tokens", Shape::Numbers),
    ("usage_source", Shape::Names),
    ("cost_micro_usd", Shape::Numbers),
    ("price_version", Shape::Names),
    ("streamed", Shape::Names),
    ("retries", Shape::Names),
];

/// Columns whose ids a block is passed over by.
pub(super) const WHO: [&str; 2] = ["tenant_id", "key_id"];

/// What the columns are called, in their order.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|(name, _)| *name)
}

/// Where a column stands. All that are asked for are there.
pub(super) fn place(name: &str) -> usize {
    SHAPES.iter().position(|(known, _)| *known == name).unwrap_or(COUNT)
}

/// A block's bytes, whole. Columns are decoded when they are asked for.
#[derive(Debug)]
pub(super) struct Block<'b> {
    rows: usize,
    columns: [&'b [u8]; COUNT],
}

impl<'b> Block<'b> {
    /// Of a body as it lies in the file.
    pub(super) fn open(body: &'b [u8]) -> Result<Self, Torn> {
        let mut bytes = Bytes(body);
        let [format] = bytes.array()?;
        let checksum = u32::from_le_bytes(bytes.array()?);
        if format != FORMAT || crc32fast::hash(bytes.0) != checksum {
            return Err(Torn);
        }
        let rows = u32::from_le_bytes(bytes.array()?) as usize;
        let mut lengths = [0; COUNT];
        for length in &mut lengths {
            *length = u32::from_le_bytes(bytes.array()?) as usize;
        }
        let mut columns = [&[][..]; COUNT];
        for (column, length) in columns.iter_mut().zip(lengths) {
            *column = bytes.take(length)?;
        }
        let fits = (1..=MOST_READ).contains(&rows) && bytes.0.is_empty();
        if fits { Ok(Self { rows, columns }) } else { Err(Torn) }
    }

    /// When each row was.
    pub(super) fn times(&self) -> Result<Vec<UnixMs>, Torn> {
        read_times(&mut self.bytes(TS), self.rows)
    }

    /// The ids of rows of these times.
    pub(super) fn ids(&self, times: &[UnixMs]) -> Result<Vec<Uuid>, Torn> {
        read_ids(&mut self.bytes(ID), times)
    }

    /// Of the column at this place, which must hold names.
    pub(super) fn names(&self, at: usize) -> Result<Names<'b>, Torn> {
        Names::read(&mut self.bytes(at), self.rows, COLUMNS.get(at).ok_or(Torn)?.kind)
    }

    /// Of the column at this place, which must hold numbers.
    pub(super) fn numbers(&self, at: usize) -> Result<Numbers, Torn> {
        Numbers::read(&mut self.bytes(at), self.rows)
    }

    fn bytes(&self, at: usize) -> Bytes<'b> {
        Bytes(self.columns.get(at).copied().unwrap_or_default())
    }

    /// All of it.
    pub(super) fn decode(&self) -> Result<Decoded<'b>, Torn> {
        let times = self.times()?;
        let ids = self.ids(&times)?;
        let mut columns = Vec::with_capacity(COUNT);
        for (at, (_, shape)) in SHAPES.iter().enumerate() {
            columns.push(match shape {
                Shape::Ids | Shape::Times => Column::Places,
                Shape::Texts => Column::Texts(read_texts(&mut self.bytes(at), &ids)?),
                Shape::Numbers => Column::Numbers(self.numbers(at)?),
                Shape::Names => Column::Names(self.names(at)?),
            });
        }
        Ok(Decoded { times, ids, columns })
    }
}

#[derive(Debug)]
enum Column<'b> {
    Places,
    Texts(Vec<Option<Cow<'b, str>>>),
    Numbers(Numbers),
    Names(Names<'b>),
}

/// A whole block, decoded.
#[derive(Debug)]
pub(super) struct Decoded<'b> {
    pub(super) times: Vec<UnixMs>,
    ids: Vec<Uuid>,
    columns: Vec<Column<'b>>,
}

impl Decoded<'_> {
    /// Its rows, in order.
    pub(super) fn rows(&self) -> impl Iterator<Item = Within<'_>> {
        (0..self.times.len()).map(|row| Within { block: self, row })
    }

    /// One of its rows as the ledger gives it back.
    pub(super) fn entry(&self, row: usize) -> Result<Entry, Torn> {
        let row = Within { block: self, row };
        Entry::new((0..COUNT).map(|at| row.cell(at).map(Cell::into_owned)).collect()).ok_or(Torn)
    }
}

/// A row of a decoded block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Within<'d> {
    block: &'d Decoded<'d>,
    row: usize,
}

impl Cells for Within<'_> {
    fn cell(&self, at: usize) -> Option<Cell<'_>> {
        let Self { block, row } = *self;
        match block.columns.get(at)? {
            Column::Places if at == TS => block.times.get(row).copied().map(Cell::Time),
            Column::Places => block.ids.get(row).copied().map(Cell::Id),
            Column::Texts(texts) => texts.get(row)?.as_deref().map(|text| Cell::Text(Cow::Borrowed(text))),
            Column::Numbers(numbers) => numbers.get(row).map(Cell::Count),
            Column::Names(names) => names.get(row).map(Cell::borrowed),
        }
    }
}
