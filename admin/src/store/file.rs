//! SQLite files: making, judging and opening them, for the registry and for the embedded ledger.
//!
//! A file that is not ours, or is newer than this program, is never touched.

use std::{
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};

use super::migrate::{self, MigrateError, Migration};

/// Longest wait for a lock that another process holds on the file, say a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the store cannot be used. One line each, for the operator at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file is not there and cannot be made.
    #[error("cannot create the database {path}: {source}")]
    Create {
        /// The file.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
    /// The file is there and cannot be opened, read or made private.
    #[error("cannot read the database {path}: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file holds something else.
    #[error("{path} is not an obleth database: {reason}")]
    NotADatabase {
        /// The file.
        path: PathBuf,
        /// What it is.
        reason: &'static str,
    },
    /// A newer program wrote it.
    #[error(
        "the database {path} has schema version {found}, this program knows {known}: run the newer program"
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Its history is not ours.
    #[error("the database {path} was migrated by another build: step {version} differs")]
    AlteredSchema {
        /// The file.
        path: PathBuf,
        /// The step.
        version: u32,
    },
    /// What is stored was encrypted with another key.
    #[error("the master key is not the one that the database {path} was made with")]
    WrongMasterKey {
        /// The file.
        path: PathBuf,
    },
    /// No room.
    #[error("no space left for the database {path}")]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// Another process holds it.
    #[error("the database {path} is locked by another process")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// Its content contradicts itself.
    #[error("the database {path} is damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// It is not known how far usage records have come.
    #[error(transparent)]
    Checkpoint(#[from] crate::CheckpointError),
    /// `OBLETH_UPSTREAM_BASE_URL` is not usable.
    #[error("OBLETH_UPSTREAM_BASE_URL {0}")]
    DefaultUpstream(crate::AddressFault),
}

/// Opens or creates the file, readable by nobody else, and migrates it. One that is not ours stays as it is.
pub(crate) fn open(path: &Path, migrations: &[Migration]) -> Result<Connection, OpenError> {
    if !create(path)? {
        judge(path, migrations)?;
        make_private(path)?;
    }
    let mut conn = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(|e| blame(path, &e))?;
    migrate::migrate(&mut conn, migrations).map_err(|error| blame_migration(path, error))?;
    Ok(conn)
}

/// A second connection to a file that [`open`] has opened; it cannot write.
pub(crate) fn open_to_read(path: &Path) -> Result<Connection, OpenError> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|error| blame(path, &error))
}

/// Makes the file if there is none; returns whether it did. It has mode 0600 before SQLite sees it: its
/// companions inherit the mode.
fn create(path: &Path) -> Result<bool, OpenError> {
    let fresh = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match fresh {
        Ok(_) => Ok(true),
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(source) if source.kind() == io::ErrorKind::StorageFull => {
            Err(OpenError::Full { path: path.into() })
        }
        Err(source) => Err(OpenError::Create { path: path.into(), source }),
    }
}

/// Looks at a file that was there before, and alters nothing: a path that is a mistake may be anybody's.
fn judge(path: &Path, migrations: &[Migration]) -> Result<(), OpenError> {
    if !fs::metadata(path).map_err(|error| unreadable(path, &error))?.is_file() {
        return Err(OpenError::NotADatabase { path: path.into(), reason: "it is not a file" });
    }
    let has_log = fs::metadata(companion(path, "-wal")).is_ok_and(|meta| meta.len() > 0);
    let access = OpenFlags::SQLITE_OPEN_READ_ONLY;
    // Without a log the file alone is complete, and only a file that is declared immutable is read without
    // making companions for it.
    let conn = if has_log {
        connect(path, access)
    } else {
        connect(&immutable(path), access | OpenFlags::SQLITE_OPEN_URI)
    };
    let conn = conn.map_err(|error| blame(path, &error))?;
    migrate::judge(&conn, migrations).map_err(|error| blame_migration(path, error))?;
    Ok(())
}

/// The file as a URI that SQLite opens without locks and companions.
fn immutable(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    // An empty authority, so that a path with two slashes at its start is none.
    let mut uri = if path.is_absolute() { "file://".to_owned() } else { "file:".to_owned() };
    for &byte in bytes {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => uri.push(byte.into()),
            _ if byte.is_ascii_alphanumeric() => uri.push(byte.into()),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    PathBuf::from(uri + "?immutable=1")
}

fn companion(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn make_private(path: &Path) -> Result<(), OpenError> {
    for suffix in ["", "-wal", "-shm"] {
        let file = companion(path, suffix);
        match fs::metadata(&file) {
            Ok(meta) if meta.permissions().mode() & 0o777 != 0o600 => {
                let private = fs::Permissions::from_mode(0o600);
                fs::set_permissions(&file, private).map_err(|error| unreadable(path, &error))?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn unreadable(path: &Path, error: &io::Error) -> OpenError {
    OpenError::Unreadable { path: path.into(), reason: error.to_string() }
}

fn connect(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    if access == OpenFlags::SQLITE_OPEN_READ_WRITE {
        conn.pragma_update(None, "journal_mode", "wal")?;
        conn.pragma_update(None, "synchronous", "normal")?;
        conn.pragma_update(None, "secure_delete", true)?;
    }
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "trusted_schema", false)?;
    Ok(conn)
}

pub(crate) fn blame(path: &Path, error: &rusqlite::Error) -> OpenError {
    use rusqlite::ErrorCode as Code;
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(Code::NotADatabase) => OpenError::NotADatabase { path, reason: "the file is of another kind" },
        Some(Code::DiskFull) => OpenError::Full { path },
        Some(Code::DatabaseBusy | Code::DatabaseLocked) => OpenError::Locked { path },
        Some(Code::DatabaseCorrupt) => OpenError::Damaged { path },
        _ => OpenError::Unreadable { path, reason: error.to_string() },
    }
}

fn blame_migration(path: &Path, error: MigrateError) -> OpenError {
    match error {
        MigrateError::Newer { found, known } => OpenError::NewerSchema { path: path.into(), found, known },
        MigrateError::Altered(version) => OpenError::AlteredSchema { path: path.into(), version },
        MigrateError::Foreign => {
            OpenError::NotADatabase { path: path.into(), reason: "it holds tables of another program" }
        }
        MigrateError::Sqlite(error) => blame(path, &error),
    }
}
