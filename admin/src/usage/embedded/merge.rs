//! Small blocks become large ones.
//!
//! A quiet gateway puts a handful of rows at a time. A block of them costs as much to look into as a full one, so as soon as
//! there are [`SOME`] about as full they become one, and so on until it is full: a row is written five times at most, and of
//! blocks that are not full there are never more than some dozen. It is done where rows are put, in the same transaction:
//! there is always one state of the file, and no work of its own for an idle process.

use rusqlite::Connection;

use super::{block::Block, encode::Cells, stored, write};
use crate::usage::fault::LedgerFault;

/// Blocks of one level that become one.
const SOME: u8 = 8;
/// The level of blocks that stay as they are. The index `blocks_small` knows it.
pub(super) const FULL: u8 = 4;

/// How full a block of so many rows is. From level to level it is about [`SOME`] times as much.
pub(super) const fn level(rows: usize) -> u8 {
    match rows {
        0..8 => 0,
        8..64 => 1,
        64..512 => 2,
        512..1024 => 3,
        _ => FULL,
    }
}

/// Merges until no level has enough to be merged.
pub(super) fn merge(conn: &Connection) -> Result<(), LedgerFault> {
    let mut enough = conn.prepare(
        "SELECT level FROM blocks WHERE level < 4 GROUP BY level HAVING count(*) >= ?1 ORDER BY level LIMIT 1",
    )?;
    loop {
        let mut levels = enough.query([SOME])?;
        let Some(row) = levels.next()? else { return Ok(()) };
        let level: u8 = row.get(0)?;
        drop(levels);
        merge_level(conn, level)?;
    }
}

/// Makes one of all blocks of a level, or as few as hold them. One that is damaged stays as it is, and is not tried again:
/// rows must go in whatever is the matter with others.
fn merge_level(conn: &Connection, level: u8) -> Result<(), LedgerFault> {
    let mut small = conn.prepare("SELECT block, body FROM blocks WHERE level = ?1 AND level < 4")?;
    let small = small.query_map([level], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let small: Vec<(i64, Vec<u8>)> = small.collect::<Result<_, _>>()?;
    let (mut numbers, mut whole) = (Vec::new(), Vec::new());
    for (number, body) in &small {
        match Block::open(body).and_then(|block| block.decode()) {
            Ok(block) => {
                numbers.push(*number);
                whole.push(block);
            }
            Err(error) => {
                stored::blame(*number, error);
                conn.execute("UPDATE blocks SET level = ?2 WHERE block = ?1", (number, FULL))?;
            }
        }
    }
    let mut rows: Vec<_> = whole.iter().flat_map(|block| block.rows()).collect();
    rows.sort_unstable_by_key(Cells::place);
    stored::remove(conn, &numbers)?;
    Ok(write::add(conn, &rows)?)
}
