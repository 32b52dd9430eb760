//! Rows as bytes: the server's format `RowBinary`, by the one list of columns.
//!
//! The table's types follow from what a column's cells are, and [`type_of`] says how; that a table has them is checked
//! before the first row goes there, because these bytes name no type.

use std::borrow::Cow;

use obleth_policy::unit::UnixMs;
use uuid::Uuid;

use crate::usage::row::{COLUMNS, Cell, Column, Entry, Kind, Row};

/// 1970 and 2200: what the server can hold, and what reports can be asked for.
const TIMES: (i64, i64) = (0, 7_258_118_400_000);

/// Bytes that are no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a row of another shape")]
pub(super) struct NoRow;

/// The server's type of a column, as far as these bytes depend on it.
pub(super) fn type_of(column: &Column) -> String {
    let name = match column.kind {
        Kind::Id => "UUID",
        Kind::Time => "DateTime64(3, 'UTC')",
        Kind::Text => "String",
        Kind::Count => "UInt64",
        Kind::Flag => "Bool",
    };
    if column.nullable { format!("Nullable({name})") } else { name.to_owned() }
}

/// All columns, for statements.
pub(super) fn columns() -> String {
    COLUMNS.iter().map(|column| column.name).collect::<Vec<_>>().join(", ")
}

/// The time that a row is kept under. One of a clock that went astray is the nearest that there is: the server would take
/// it for yet another, and the row would not be found by it.
pub(super) fn kept_time(ts: UnixMs) -> i64 {
    ts.0.clamp(TIMES.0, TIMES.1)
}

/// Appends a row.
pub(super) fn encode(row: &Row, out: &mut Vec<u8>) {
    for (column, cell) in COLUMNS.iter().zip(row.cells()) {
        if column.nullable {
            out.push(cell.is_none().into());
        }
        match cell {
            Some(Cell::Id(id)) => {
                let (high, low) = id.as_u64_pair();
                out.extend(high.to_le_bytes());
                out.extend(low.to_le_bytes());
            }
            Some(Cell::Time(ts)) => out.extend(kept_time(ts).to_le_bytes()),
            Some(Cell::Text(text)) => {
                length(text.len(), out);
                out.extend(text.as_bytes());
            }
            Some(Cell::Count(count)) => out.extend(count.to_le_bytes()),
            Some(Cell::Flag(flag)) => out.push(flag.into()),
            None => {}
        }
    }
}

/// Seven bits a byte, the lowest first.
fn length(mut rest: usize, out: &mut Vec<u8>) {
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// What is left to read of an answer.
#[derive(Debug)]
pub(super) struct Bytes<'b>(pub(super) &'b [u8]);

impl<'b> Bytes<'b> {
    /// Nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next row with all columns.
    pub(super) fn entry(&mut self) -> Result<Entry, NoRow> {
        let cells: Result<Vec<_>, _> =
            COLUMNS.iter().map(|column| self.cell(column.kind, column.nullable)).collect();
        Entry::new(cells?).ok_or(NoRow)
    }

    /// The next cell.
    pub(super) fn cell(&mut self, kind: Kind, nullable: bool) -> Result<Option<Cell<'static>>, NoRow> {
        if nullable && self.flag()? {
            return Ok(None);
        }
        Ok(Some(match kind {
            Kind::Id => Cell::Id(self.id()?),
            Kind::Time => Cell::Time(self.time()?),
            Kind::Text => Cell::Text(Cow::Owned(self.text()?)),
            Kind::Count => Cell::Count(self.count()?),
            Kind::Flag => Cell::Flag(self.flag()?),
        }))
    }

    /// A whole number.
    pub(super) fn count(&mut self) -> Result<u64, NoRow> {
        self.take().map(u64::from_le_bytes)
    }

    /// An instant.
    pub(super) fn time(&mut self) -> Result<UnixMs, NoRow> {
        self.take().map(|bytes| UnixMs(i64::from_le_bytes(bytes)))
    }

    /// An id.
    pub(super) fn id(&mut self) -> Result<Uuid, NoRow> {
        Ok(Uuid::from_u64_pair(self.count()?, self.count()?))
    }

    /// A yes or no; also whether a nullable cell is null.
    pub(super) fn flag(&mut self) -> Result<bool, NoRow> {
        self.take().map(|[byte]| byte != 0)
    }

    fn text(&mut self) -> Result<String, NoRow> {
        let mut length = 0_usize;
        for shift in (0..usize::BITS).step_by(7) {
            let [byte] = self.take()?;
            length |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        let (text, rest) = self.0.split_at_checked(length).ok_or(NoRow)?;
        self.0 = rest;
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], NoRow> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(NoRow)?;
        self.0 = rest;
        Ok(*bytes)
    }
}
