//! How the store says no: a fault of its own, or a change that it refuses.
//!
//! SQLite's own words go to the log only; they name tables and paths.

use rusqlite::ErrorCode;

/// The store could not do its work. The display form is what operators of the API may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("full")]
    Full,
    #[error("locked")]
    Locked,
    #[error("damaged")]
    Damaged,
    #[error("not_a_database")]
    NotADatabase,
    #[error("read_only")]
    ReadOnly,
    #[error("io_error")]
    Io,
    #[error("wrong_master_key")]
    Secret,
    #[error("busy")]
    Busy,
    #[error("stopped")]
    Stopped,
    #[error("error")]
    Other,
}

/// What kind of row is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Group,
    Tenant,
    Key,
    Model,
}

impl Kind {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Tenant => "tenant",
            Self::Key => "key",
            Self::Model => "model",
        }
    }
}

/// Why a change or a question came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    /// No such row, or it was deleted.
    #[error("there is no such {}", .0.as_str())]
    NotFound(Kind),
    /// It would collide with another row or with what depends on it.
    #[error("{message}")]
    Conflict { param: Option<&'static str>, message: String },
    /// A value that only the store can judge is wrong.
    #[error("{message}")]
    Invalid { param: String, message: String },
    /// The store itself is in trouble.
    #[error("the store cannot do this now: {0}")]
    Fault(#[from] Fault),
}

impl StoreError {
    /// A name that is taken.
    pub(crate) fn taken(param: &'static str, kind: Kind, name: &str) -> Self {
        let message = format!("There is already a {} named `{name}`.", kind.as_str());
        Self::Conflict { param: Some(param), message }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        let fault = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked,
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged,
            Some(ErrorCode::NotADatabase) => Self::NotADatabase,
            Some(ErrorCode::ReadOnly) => Self::ReadOnly,
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                Self::Io
            }
            Some(_) => Self::Other,
            None => Self::Damaged, // a value of another shape than the schema promises
        };
        tracing::debug!(target: "obleth_admin", detail = %error, "the store: {fault}");
        fault
    }
}
