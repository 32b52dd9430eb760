//! What goes into the embedded ledger, and what leaves it after its time.

use std::sync::LazyLock;

use obleth_ledger::{Checkpoint, Position};
use obleth_policy::unit::UnixMs;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use uuid::Uuid;

use crate::{
    store::fault::Fault,
    usage::{
        fault::LedgerFault,
        row::{COLUMNS, Row},
    },
};

/// Rows that are written in one go: some hundred microseconds of work.
const TURN: usize = 64;
/// Rows that one step of [`expire`] deletes at most: some milliseconds of work.
const STEP: u32 = 1000;

static INSERT: LazyLock<String> = LazyLock::new(|| {
    let names: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
    let places = vec!["?"; COLUMNS.len()].join(", ");
    let names = names.join(", ");
    format!("INSERT INTO requests ({names}) VALUES ({places}) ON CONFLICT (ts, id) DO NOTHING")
});

/// Up to where a log is in the file, and which.
pub(super) fn checkpoint(conn: &Connection) -> Result<Option<Checkpoint>, LedgerFault> {
    let sql = "SELECT log_id, segment, segment_offset FROM reached";
    let row = conn.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
    let Some((log_id, segment, offset)): Option<([u8; 16], i64, i64)> = row else { return Ok(None) };
    match (u64::try_from(segment), u64::try_from(offset)) {
        (Ok(segment), Ok(offset)) => {
            let position = Position { segment, offset };
            Ok(Some(Checkpoint { log_id: Uuid::from_bytes(log_id), position }))
        }
        _ => Err(Fault::Damaged.into()),
    }
}

/// Up to where this log is in the file.
pub(super) fn reached(conn: &Connection, log_id: Uuid) -> Result<Option<Position>, LedgerFault> {
    Ok(checkpoint(conn)?
        .filter(|checkpoint| checkpoint.log_id == log_id)
        .map(|checkpoint| checkpoint.position))
}

/// See [`super::Embedded::put`].
pub(super) fn put(conn: &mut Connection, rows: &[Row], to: Checkpoint) -> Result<(), LedgerFault> {
    let Checkpoint { log_id, position: to } = to;
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if reached(&tx, log_id)?.is_some_and(|reached| reached >= to) {
        return Ok(());
    }
    let mut insert = tx.prepare(&INSERT)?;
    for (number, row) in rows.iter().enumerate() {
        if number % TURN == 0 {
            // A shard on this processor goes first.
            std::thread::yield_now();
        }
        for (at, cell) in row.cells().enumerate() {
            insert.raw_bind_parameter(at + 1, cell)?;
        }
        insert.raw_execute()?;
    }
    drop(insert);
    let place = |number: u64| i64::try_from(number).map_err(|_| Fault::Other);
    tx.execute(
        "INSERT INTO reached (one, log_id, segment, segment_offset) VALUES (1, ?1, ?2, ?3)
         ON CONFLICT (one) DO UPDATE SET log_id = ?1, segment = ?2, segment_offset = ?3",
        params![log_id.into_bytes(), place(to.segment)?, place(to.offset)?],
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
