//! Blocks as they lie in the file: the one place that knows their table, but for what is deleted.
//!
//! A block that is not whole is named in the process's log. It must never be passed over: whoever needs it gets a fault.

use obleth_policy::unit::UnixMs;
use rusqlite::{Connection, Row, Statement, params};

use super::{
    block::{Block, WHO},
    columns::Torn,
    encode::Encoded,
    principals,
};
use crate::{
    store::fault::Fault,
    usage::{fault::LedgerFault, report::Scope, row::Cell},
};

/// Blocks of a stretch of time, those that end last first.
const WITHIN: &str = "SELECT block, min_ts, max_ts, who FROM blocks
    WHERE max_ts >= ?1 AND min_ts < ?2 ORDER BY max_ts DESC";

/// What stands beside a block.
#[derive(Debug)]
pub(super) struct Beside {
    pub(super) number: i64,
    /// When its last row was.
    pub(super) to: UnixMs,
    who: Vec<u8>,
}

impl Beside {
    /// Of a row of [`within`].
    pub(super) fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { number: row.get(0)?, to: UnixMs(row.get(2)?), who: row.get(3)? })
    }

    /// Whether the block may have rows that all filters leave.
    pub(super) fn may_have(&self, scope: &Scope) -> bool {
        scope.filters.iter().filter(|filter| WHO.contains(&filter.column())).all(|filter| {
            match filter.cell() {
                Cell::Id(id) => principals::may_have(&self.who, id),
                _ => true,
            }
        })
    }
}

/// A statement that gives what stands beside all blocks with rows from `?1` on and before `?2`, those that end last first.
pub(super) fn within(conn: &Connection) -> rusqlite::Result<Statement<'_>> {
    conn.prepare(WITHIN)
}

/// At most so many blocks that lie wholly before this time, those that end first first.
pub(super) fn over(conn: &Connection, before: UnixMs, most: usize) -> rusqlite::Result<Vec<i64>> {
    let mut over = conn.prepare("SELECT block FROM blocks WHERE max_ts < ?1 ORDER BY max_ts LIMIT ?2")?;
    over.query_map((before.0, most as i64), |row| row.get(0))?.collect()
}

/// Blocks that lie on both sides of this time.
pub(super) fn across(conn: &Connection, at: UnixMs) -> rusqlite::Result<Vec<i64>> {
    let mut across = conn.prepare("SELECT block FROM blocks WHERE min_ts < ?1 AND max_ts >= ?1")?;
    across.query_map([at.0], |row| row.get(0))?.collect()
}

/// When the newest row was.
pub(super) fn newest(conn: &Connection) -> rusqlite::Result<Option<UnixMs>> {
    conn.query_row("SELECT max(max_ts) FROM blocks", [], |row| Ok(row.get::<_, Option<i64>>(0)?.map(UnixMs)))
}

/// Bodies of blocks, by number.
pub(super) struct Bodies<'c>(Statement<'c>);

impl<'c> Bodies<'c> {
    pub(super) fn of(conn: &'c Connection) -> rusqlite::Result<Self> {
        conn.prepare("SELECT body FROM blocks WHERE block = ?1").map(Self)
    }

    /// Looks into a block.
    pub(super) fn look<T>(
        &mut self,
        number: i64,
        look: impl FnOnce(&Block<'_>) -> Result<T, Torn>,
    ) -> Result<T, LedgerFault> {
        let mut rows = self.0.query([number])?;
        let row = rows.next()?.ok_or(Fault::Damaged)?;
        let body = row.get_ref(0)?.as_blob().map_err(|_| Fault::Damaged)?;
        Block::open(body).and_then(|block| look(&block)).map_err(|error| blame(number, error))
    }

    /// A block's bytes.
    pub(super) fn copy(&mut self, number: i64) -> Result<Vec<u8>, LedgerFault> {
        Ok(self.0.query_row([number], |row| row.get(0))?)
    }
}

/// Names a block that is not whole.
pub(super) fn blame(number: i64, error: Torn) -> LedgerFault {
    tracing::error!(target: "obleth_admin", block = number,
        "a block of the usage ledger is damaged: {error}; what needs its rows is refused");
    Fault::Damaged.into()
}

/// Adds a block.
pub(super) fn insert(conn: &Connection, block: &Encoded, level: u8) -> rusqlite::Result<()> {
    let mut insert = conn.prepare(
        "INSERT INTO blocks (level, min_ts, max_ts, rows, who, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    insert.execute(params![level, block.from.0, block.to.0, block.rows, block.who, block.body])?;
    Ok(())
}

/// Removes blocks.
pub(super) fn remove(conn: &Connection, numbers: &[i64]) -> rusqlite::Result<()> {
    let mut delete = conn.prepare("DELETE FROM blocks WHERE block = ?1")?;
    numbers.iter().try_for_each(|number| delete.execute([number]).map(|_| ()))
}
