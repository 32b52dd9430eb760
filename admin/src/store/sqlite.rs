//! The SQLite file: opening it, its transactions, and the audit row that every change carries.
//!
//! One connection writes and one only looks keys up. Neither may be used on the runtime's thread once the
//! sidecar runs.

use std::{
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use obleth_policy::{
    key::{KeyDigest, KeyRecord},
    snapshot::Secret,
};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};
use serde::Serialize;
use uuid::Uuid;

use super::{
    fault::{Fault, Kind, StoreError},
    groups, keys,
    migrate::{self, MIGRATIONS, MigrateError},
    rows::Act,
};
use crate::{
    clock,
    random::IdMint,
    vault::{KEY_VERSION, MasterKey, Place, Vault},
};

/// Longest wait for a lock that another process holds on the file, say a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);
/// What the check value holds; if it decrypts, the master key is the right one.
const CHECK_TEXT: &str = "obleth";
const CHECK_NAME: &str = "master_key_check";

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
    /// `OBLETH_UPSTREAM_BASE_URL` is not usable.
    #[error("OBLETH_UPSTREAM_BASE_URL {0}")]
    DefaultUpstream(crate::AddressFault),
}

/// The connection that reads and writes everything.
#[derive(Debug)]
pub(crate) struct Db {
    pub(super) conn: Connection,
    pub(super) vault: Vault,
    pub(super) mint: IdMint,
    pub(super) reads: u64,
}

/// The connection that only looks keys up, so that a look-up never waits behind a long list.
#[derive(Debug)]
pub(crate) struct KeyLookup {
    conn: Connection,
}

impl Db {
    /// Opens or creates the file, migrates it, and makes sure of the master key. A file that is not ours stays
    /// as it is.
    pub(crate) fn open(path: &Path, master_key: &MasterKey) -> Result<(Self, KeyLookup), OpenError> {
        if !create(path)? {
            judge(path)?;
            make_private(path)?;
        }
        let mut conn = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(|e| blame(path, &e))?;
        migrate::migrate(&mut conn, MIGRATIONS).map_err(|error| blame_migration(path, error))?;
        let vault = Vault::new(master_key);
        let mut db = Self { conn, vault, mint: IdMint::default(), reads: 0 };
        db.mint = db.mint_after_newest().map_err(|error| blame(path, &error))?;
        if !db.check_master_key().map_err(|error| blame_store(path, &error))? {
            return Err(OpenError::WrongMasterKey { path: path.to_owned() });
        }
        groups::ensure_default(&mut db).map_err(|error| blame_store(path, &error))?;
        let conn = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|e| blame(path, &e))?;
        Ok((db, KeyLookup { conn }))
    }

    /// Runs one change with its audit row in one transaction: both or neither.
    pub(super) fn write<T>(
        &mut self,
        change: impl FnOnce(&mut Writer<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut writer = Writer { tx, vault: &self.vault, mint: &mut self.mint };
        let out = change(&mut writer)?;
        writer.tx.commit()?;
        Ok(out)
    }

    /// Whether the tables that requests depend on can be read.
    pub(crate) fn probe(&mut self) -> Result<(), StoreError> {
        for table in
            ["tenant_groups", "tenants", "api_keys", "key_secrets", "models", "endpoints", "prices", "audit"]
        {
            let sql = format!("SELECT EXISTS (SELECT 1 FROM {table})");
            self.conn.query_row(&sql, [], |row| row.get::<_, bool>(0))?;
        }
        Ok(())
    }

    /// Moves what is in the write-ahead log into the file, so that a copy of the file alone is complete.
    pub(super) fn settle(&self) {
        // The log stays if somebody else reads it just now; nothing is lost either way.
        let _ = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }

    fn mint_after_newest(&self) -> rusqlite::Result<IdMint> {
        let newest: Option<String> =
            self.conn.query_row("SELECT max(id) FROM audit", [], |row| row.get(0))?;
        let newest = newest.and_then(|id| Uuid::try_parse(&id).ok());
        Ok(newest.map_or_else(IdMint::default, IdMint::after))
    }

    fn check_master_key(&mut self) -> Result<bool, StoreError> {
        let place = Place { row: Uuid::nil(), column: "meta.value", key_version: KEY_VERSION };
        let stored: Option<Vec<u8>> = self
            .conn
            .query_row("SELECT value FROM meta WHERE name = ?1", [CHECK_NAME], |row| row.get(0))
            .optional()?;
        if let Some(sealed) = stored {
            return Ok(self.vault.open(place, &sealed).is_ok_and(|text| text.expose() == CHECK_TEXT));
        }
        let sealed = self.vault.seal(place, &Secret::new(CHECK_TEXT)).map_err(|_| Fault::Secret)?;
        self.conn.execute("INSERT INTO meta (name, value) VALUES (?1, ?2)", params![CHECK_NAME, sealed])?;
        Ok(true)
    }
}

impl KeyLookup {
    /// The key that a secret with this digest reaches, also a deleted one.
    pub(crate) fn find(&mut self, digest: KeyDigest) -> Result<Option<KeyRecord>, Fault> {
        Ok(keys::by_digest(&self.conn, digest)?)
    }
}

/// A transaction that is under way.
#[derive(Debug)]
pub(super) struct Writer<'db> {
    pub(super) tx: Transaction<'db>,
    pub(super) vault: &'db Vault,
    pub(super) mint: &'db mut IdMint,
}

impl Writer<'_> {
    /// Puts the change on record. `before` and `after` are rows, whose JSON holds no secret.
    pub(super) fn audit<T: Serialize>(
        &mut self,
        act: &Act,
        object: (Kind, Uuid),
        before: Option<&T>,
        after: Option<&T>,
    ) -> Result<(), StoreError> {
        let now = clock::now();
        let json = |row: Option<&T>| row.map(serde_json::to_string).transpose().map_err(|_| Fault::Other);
        self.tx.execute(
            "INSERT INTO audit (id, ts, actor, action, object_kind, object_id, before, after)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            params![
                self.mint.next(now).to_string(),
                now.0,
                act.actor,
                act.action,
                object.0.as_str(),
                object.1.to_string(),
                json(before)?,
                json(after)?
            ],
        )?;
        Ok(())
    }
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
fn judge(path: &Path) -> Result<(), OpenError> {
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
    migrate::judge(&conn, MIGRATIONS).map_err(|error| blame_migration(path, error))?;
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

fn blame(path: &Path, error: &rusqlite::Error) -> OpenError {
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

fn blame_store(path: &Path, error: &StoreError) -> OpenError {
    let path = path.to_owned();
    match error {
        StoreError::Fault(Fault::Full) => OpenError::Full { path },
        StoreError::Fault(Fault::Locked) => OpenError::Locked { path },
        StoreError::Fault(Fault::Damaged) => OpenError::Damaged { path },
        other => OpenError::Unreadable { path, reason: other.to_string() },
    }
}
