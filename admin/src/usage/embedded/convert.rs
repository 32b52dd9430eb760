//! A file of the schema's first step, which had a row of SQLite's for each request, becomes one of blocks.
//!
//! It is done when the file is opened, before anybody asks it anything, because a report over both would have to be written
//! twice. Each step moves some thousand rows, oldest first, in a transaction of its own: whenever it is broken off, every
//! request is either here or there, and the next opening goes on. A million takes ten seconds. It must never leave a row
//! behind: `requests` is dropped only when it is empty.

use std::borrow::Cow;

use obleth_policy::unit::UnixMs;
use rusqlite::{
    Connection, Row, TransactionBehavior,
    types::{Type, ValueRef},
};
use uuid::Uuid;

use super::{block::MOST_ROWS, columns::Torn, encode::Cells, write};
use crate::usage::row::{COLUMNS, Cell, Entry, Kind};

/// Rows that are moved in one step: some ten milliseconds of work, and as many as fill blocks.
const STEP: usize = 8 * MOST_ROWS;

/// Moves what there is to be moved. Returns how many rows that were.
pub(super) fn convert(conn: &mut Connection) -> rusqlite::Result<usize> {
    let exists = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'requests')";
    if !conn.query_row(exists, [], |row| row.get(0))? {
        return Ok(0);
    }
    let mut moved = 0;
    loop {
        match step(conn)? {
            0 => break,
            rows if moved == 0 && rows == STEP => {
                tracing::info!(target: "obleth_admin", "usage records are moved into blocks, which takes a while");
                moved += rows;
            }
            rows => moved += rows,
        }
    }
    conn.execute_batch("DROP TABLE requests")?;
    if moved > 0 {
        tracing::info!(target: "obleth_admin", rows = moved, "usage records were moved into blocks");
        // The file is as large as before until then. It is well without, too.
        if let Err(error) = conn.execute_batch("VACUUM") {
            tracing::warn!(target: "obleth_admin", %error, "the usage ledger's file stays as large as it was");
        }
    }
    Ok(moved)
}

/// Moves the oldest rows. Returns how many; none if there are none left.
pub(super) fn step(conn: &mut Connection) -> rusqlite::Result<usize> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let names: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
    let sql = format!("SELECT {} FROM requests ORDER BY ts, id LIMIT ?1", names.join(", "));
    let entries: Vec<_> = tx.prepare(&sql)?.query_map([STEP as u32], entry)?.collect::<Result<_, _>>()?;
    let Some((ts, id)) = entries.last().map(Cells::place) else { return Ok(0) };
    write::add(&tx, &entries)?;
    tx.execute("DELETE FROM requests WHERE (ts, id) <= (?1, ?2)", (ts.0, id.into_bytes()))?;
    tx.commit()?;
    Ok(entries.len())
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let cells = COLUMNS.iter().enumerate().map(|(at, column)| cell(row, at, column.kind));
    let strange = || rusqlite::Error::FromSqlConversionFailure(0, Type::Null, Box::new(Torn));
    Entry::new(cells.collect::<rusqlite::Result<_>>()?).ok_or_else(strange)
}

/// The cell at a place of a row.
fn cell(row: &Row<'_>, at: usize, kind: Kind) -> rusqlite::Result<Option<Cell<'static>>> {
    let value = row.get_ref(at)?;
    let strange = |error| rusqlite::Error::FromSqlConversionFailure(at, value.data_type(), error);
    let cell = match (kind, value) {
        (_, ValueRef::Null) => return Ok(None),
        (Kind::Id, ValueRef::Blob(bytes)) => {
            Cell::Id(Uuid::from_slice(bytes).map_err(|error| strange(Box::new(error)))?)
        }
        (Kind::Time, ValueRef::Integer(at)) => Cell::Time(UnixMs(at)),
        (Kind::Text, ValueRef::Text(_)) => Cell::Text(Cow::Owned(value.as_str()?.to_owned())),
        (Kind::Count, ValueRef::Integer(count)) => {
            Cell::Count(u64::try_from(count).map_err(|error| strange(Box::new(error)))?)
        }
        (Kind::Flag, ValueRef::Integer(flag)) => Cell::Flag(flag != 0),
        _ => return Err(rusqlite::Error::InvalidColumnType(at, String::new(), value.data_type())),
    };
    Ok(Some(cell))
}
