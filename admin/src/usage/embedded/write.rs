//! What goes into the embedded ledger, and what leaves it after its time.

use std::sync::LazyLock;

use obleth_ledger::Position;
use obleth_policy::unit::UnixMs;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::{
    store::fault::Fault,
    usage::{
        fault::LedgerFault,
        row::{COLUMNS, Row},
    },
};

/// Rows that one step of [`expire`] deletes at most: some milliseconds of work.
const STEP: u32 = 1000;

static INSERT: LazyLock<String> = LazyLock::new(|| {
    let names: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
    let places = vec!["?"; COLUMNS.len()].join(", ");
    let names = names.join(", ");
    format!("INSERT INTO requests ({names}) VALUES ({places}) ON CONFLICT (ts, id) DO NOTHING")
});

/// Up to where the log is in the file.
pub(super) fn reached(conn: &Connection) -> Result<Option<Position>, LedgerFault> {
    let sql = "SELECT segment, segment_offset FROM reached";
    let pair = conn.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((segment, offset)): Option<(i64, i64)> = pair else { return Ok(None) };
    match (u64::try_from(segment), u64::try_from(offset)) {
        (Ok(segment), Ok(offset)) => Ok(Some(Position { segment, offset })),
        _ => Err(Fault::Damaged.into()),
    }
}

/// See [`super::Embedded::put`].
pub(super) fn put(conn: &mut Connection, rows: &[Row], to: Position) -> Result<(), LedgerFault> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if reached(&tx)?.is_some_and(|reached| reached >= to) {
        return Ok(());
    }
    let mut insert = tx.prepare(&INSERT)?;
    for row in rows {
        for (at, cell) in row.cells().enumerate() {
            insert.raw_bind_parameter(at + 1, cell)?;
        }
        insert.raw_execute()?;
    }
    drop(insert);
    let place = |number: u64| i64::try_from(number).map_err(|_| Fault::Other);
    tx.execute(
        "INSERT INTO reached (one, segment, segment_offset) VALUES (1, ?1, ?2)
         ON CONFLICT (one) DO UPDATE SET segment = ?1, segment_offset = ?2",
        params![place(to.segment)?, place(to.offset)?],
    )?;
    tx.commit()?;
    Ok(())
}

/// See [`super::Embedded::expire`].
pub(super) fn expire(conn: &mut Connection, before: UnixMs) -> Result<bool, LedgerFault> {
    let sql = "DELETE FROM requests WHERE (ts, id) IN
        (SELECT ts, id FROM requests WHERE ts < ?1 ORDER BY ts, id LIMIT ?2)";
    let deleted = conn.execute(sql, params![before.0, STEP])?;
    Ok(deleted == STEP as usize)
}
