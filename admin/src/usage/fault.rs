//! How the ledger says no.
//!
//! Whatever it is, what was to be put into the ledger is still in the log: the shipper tries again. The display form
//! is what callers of the API may see; it names no table, path or host.

use super::clickhouse::fault::ClickHouseFault;
use crate::store::fault::Fault;

/// The ledger could not do its work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LedgerFault {
    /// The embedded file's.
    #[error("{0}")]
    File(#[from] Fault),
    /// ClickHouse's.
    #[error("{0}")]
    ClickHouse(#[from] ClickHouseFault),
    /// It could not be opened yet.
    #[error("not_opened")]
    NotOpened,
    /// A question took longer than it may.
    #[error("too_slow")]
    TooSlow,
    /// An answer would have had more groups than it may.
    #[error("too_many_groups")]
    TooManyGroups,
}

impl From<rusqlite::Error> for LedgerFault {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::OperationInterrupted) => Self::TooSlow,
            _ => Self::File(error.into()),
        }
    }
}
