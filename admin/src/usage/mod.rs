//! The usage ledger behind the log: where rows stay, and the reports over them.
//!
//! The log is what makes a record safe; a ledger is where it goes to be asked for. A ledger that is down loses
//! nothing: rows wait in the log. Traffic must never depend on it.
//!
//! | file | what |
//! |---|---|
//! | `row.rs` | a row and the one list of columns |
//! | `report.rs` | what is asked of a ledger, and its answer |
//! | `fault.rs` | how a ledger says no |
//! | `embedded/` | the ledger in a SQLite file |
//! | `clickhouse/` | the ledger in ClickHouse |
//! | `checkpoint.rs` | how far the log is in there |
//! | `shipper.rs` | from the log into the ledger |
//! | `home.rs` | which ledger this gateway has |

pub(crate) mod calendar;
pub(crate) mod checkpoint;
pub(crate) mod clickhouse;
pub(crate) mod csv;
pub(crate) mod cursor;
pub(crate) mod embedded;
pub(crate) mod fault;
#[cfg(test)]
pub(crate) mod golden;
pub(crate) mod home;
pub(crate) mod query;
pub(crate) mod report;
pub(crate) mod retention;
pub(crate) mod row;
pub(crate) mod shipper;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use obleth_ledger::Position;

pub use checkpoint::{CheckpointError, read_checkpoint};
pub use clickhouse::{ClickHouseSettings, NoClickHouse, check_clickhouse_database, check_clickhouse_url};

use clickhouse::ClickHouse;
use embedded::Embedded;
use fault::LedgerFault;
use report::{Page, Report, Reported};
use row::{Entry, Row};

/// Time without work after which a thread gives back to the system what its work took.
pub(crate) const QUIET: Duration = Duration::from_secs(2);

/// Where rows go and reports come from. Cheap to clone. All of them give the same numbers.
#[derive(Clone)]
pub(crate) enum Ledger {
    /// A SQLite file of our own.
    Embedded(Embedded),
    /// A server.
    ClickHouse(ClickHouse),
    /// One that could not be opened yet.
    Late(Arc<OnceLock<Self>>),
}

impl Ledger {
    /// Itself, if it has been opened; never [`Ledger::Late`].
    fn opened(&self) -> Result<&Self, LedgerFault> {
        match self {
            Self::Late(opened) => opened.get().ok_or(LedgerFault::NotOpened),
            opened => Ok(opened),
        }
    }

    /// Up to where the log is in here; the shipper goes on from it.
    pub(crate) async fn reached(&self) -> Result<Option<Position>, LedgerFault> {
        match self.opened()? {
            Self::Embedded(ledger) => ledger.reached().await,
            Self::ClickHouse(ledger) => Ok(ledger.reached().await),
            Self::Late(_) => Err(LedgerFault::NotOpened),
        }
    }

    /// Where a batch ends that an earlier process may have sent without hearing of it: it should be put again with the
    /// same bounds.
    pub(crate) async fn under_way(&self) -> Option<Position> {
        match self.opened() {
            Ok(Self::ClickHouse(ledger)) => ledger.under_way().await,
            _ => None,
        }
    }

    /// Makes what it needs to take rows, so that what is wrong is known before there are any.
    pub(crate) async fn prepare(&self) -> Result<(), LedgerFault> {
        match self.opened()? {
            Self::ClickHouse(ledger) => ledger.prepare().await,
            _ => Ok(()),
        }
    }

    /// Takes the rows between two places of the log. When it returns they are safe here and the log may release them;
    /// if it fails, or the process dies meanwhile, the same rows may be put again and are not taken twice.
    pub(crate) async fn put(
        &self,
        rows: impl Into<Arc<Vec<Row>>>,
        from: Position,
        to: Position,
    ) -> Result<(), LedgerFault> {
        debug_assert!(from <= to, "{from} to {to}");
        match self.opened()? {
            Self::Embedded(ledger) => ledger.put(rows, to).await,
            Self::ClickHouse(ledger) => ledger.put(&rows.into(), from, to).await,
            Self::Late(_) => Err(LedgerFault::NotOpened),
        }
    }

    /// Rows that it takes in well at once: a file is quick to sync and small batches take less memory, a server likes large
    /// ones.
    pub(crate) fn batch(&self) -> usize {
        match self {
            Self::Embedded(_) | Self::Late(_) => 2_000,
            Self::ClickHouse(_) => 10_000,
        }
    }

    /// Sums.
    pub(crate) async fn report(&self, report: Report) -> Result<Reported, LedgerFault> {
        match self.opened()? {
            Self::Embedded(ledger) => ledger.report(report).await,
            Self::ClickHouse(ledger) => ledger.report(&report).await,
            Self::Late(_) => Err(LedgerFault::NotOpened),
        }
    }

    /// Rows, newest first.
    pub(crate) async fn page(&self, page: Page) -> Result<Vec<Entry>, LedgerFault> {
        match self.opened()? {
            Self::Embedded(ledger) => ledger.page(page).await,
            Self::ClickHouse(ledger) => ledger.page(&page).await,
            Self::Late(_) => Err(LedgerFault::NotOpened),
        }
    }
}
