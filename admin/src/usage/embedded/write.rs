//! What goes into the embedded ledger, and what leaves it after its time.

use obleth_ledger::{Checkpoint, Position};
use obleth_policy::unit::UnixMs;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use uuid::Uuid;

use super::{
    block::{Block, MOST_ROWS},
    encode::{Cells, encode},
    merge::{self, FULL},
    stored::{self, Bodies},
};
use crate::{
    store::fault::Fault,
    usage::{fault::LedgerFault, row::Row},
};

/// What many a question's range is longer than.
const APART_MS: i64 = 10_000;
/// Blocks that one step of [`expire`] deletes or makes smaller at most: some milliseconds of work.
const STEP: usize = 8;

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
    let mut rows: Vec<_> = rows.iter().collect();
    rows.sort_unstable_by_key(|row| row.place());
    let (old, others) = rows.split_at(outliers(&rows));
    add(&tx, old)?;
    add(&tx, others)?;
    merge::merge(&tx)?;
    let place = |number: u64| i64::try_from(number).map_err(|_| Fault::Other);
    tx.execute(
        "INSERT INTO reached (one, log_id, segment, segment_offset) VALUES (1, ?1, ?2, ?3)
         ON CONFLICT (one) DO UPDATE SET log_id = ?1, segment = ?2, segment_offset = ?3",
        params![log_id.into_bytes(), place(to.segment)?, place(to.offset)?],
    )?;
    tx.commit()?;
    Ok(())
}

/// How many of the first rows lie apart from the others: a handful of long requests among many short ones. In a block with
/// these they would have every question about the time in between look into it.
fn outliers(rows: &[&Row]) -> usize {
    let Some(newest) = rows.last().map(|row| row.record.ts.0) else { return 0 };
    let old = rows.partition_point(|row| row.record.ts.0 < newest.saturating_sub(APART_MS));
    if old <= rows.len() / 4 { old } else { 0 }
}

/// Adds rows, which are in order, in as few blocks as hold them, each as full as the others.
pub(super) fn add<R: Cells>(conn: &Connection, rows: &[R]) -> rusqlite::Result<()> {
    let blocks = rows.len().div_ceil(MOST_ROWS).max(1);
    for rows in rows.chunks(rows.len().div_ceil(blocks).max(1)) {
        stored::insert(conn, &encode(rows), merge::level(rows.len()))?;
    }
    Ok(())
}

/// See [`super::Embedded::expire`].
///
/// A block that lies wholly before that time is deleted, one that began before it is made anew of what is left. A damaged one
/// stays until all of it is too old.
pub(super) fn expire(conn: &mut Connection, before: UnixMs) -> Result<bool, LedgerFault> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let over = stored::over(&tx, before, STEP)?;
    stored::remove(&tx, &over)?;
    let mut done = over.len();
    if done < STEP {
        for number in stored::across(&tx, before)? {
            if done < STEP && trim(&tx, number, before)? {
                stored::remove(&tx, &[number])?;
                done += 1;
            }
        }
    }
    tx.commit()?;
    Ok(done == STEP)
}

/// Adds what a block has from this time on as a block of its own, which is not merged with newer ones: it ends soon.
/// Returns whether it could.
fn trim(conn: &Connection, number: i64, from: UnixMs) -> Result<bool, LedgerFault> {
    let body = Bodies::of(conn)?.copy(number)?;
    let Ok(whole) = Block::open(&body).and_then(|block| block.decode()) else { return Ok(false) };
    let rows: Vec<_> = whole.rows().skip_while(|row| row.place().0 < from).collect();
    if !rows.is_empty() {
        stored::insert(conn, &encode(&rows), FULL)?;
    }
    Ok(true)
}
