//! The registry's SQLite file: its transactions, and the audit row that every change carries.
//!
//! One connection writes and one only looks keys up. Neither may be used on the runtime's thread once the
//! sidecar runs.

use std::path::Path;

use obleth_policy::{
    key::{KeyDigest, KeyRecord},
    snapshot::Secret,
};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use serde::Serialize;
use uuid::Uuid;

use super::{
    fault::{Fault, Kind, StoreError},
    file::{self, OpenError, blame},
    groups, keys,
    migrate::MIGRATIONS,
    rows::Act,
};
use crate::{
    clock,
    random::IdMint,
    vault::{KEY_VERSION, MasterKey, Place, Vault},
};

/// What the check value holds; if it decrypts, the master key is the right one.
const CHECK_TEXT: &str = "obleth";
const CHECK_NAME: &str = "master_key_check";

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
        let conn = file::open(path, MIGRATIONS)?;
        let vault = Vault::new(master_key);
        let mut db = Self { conn, vault, mint: IdMint::default(), reads: 0 };
        db.mint = db.mint_after_newest().map_err(|error| blame(path, &error))?;
        if !db.check_master_key().map_err(|error| blame_store(path, &error))? {
            return Err(OpenError::WrongMasterKey { path: path.to_owned() });
        }
        groups::ensure_default(&mut db).map_err(|error| blame_store(path, &error))?;
        let conn = file::open_to_read(path)?;
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
        for table in [
            "tenant_groups",
            "tenants",
            "api_keys",
            "key_secrets",
            "budgets",
            "models",
            "endpoints",
            "prices",
            "audit",
            "spend",
            "spend_place",
        ] {
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

fn blame_store(path: &Path, error: &StoreError) -> OpenError {
    let path = path.to_owned();
    match error {
        StoreError::Fault(Fault::Full) => OpenError::Full { path },
        StoreError::Fault(Fault::Locked) => OpenError::Locked { path },
        StoreError::Fault(Fault::Damaged) => OpenError::Damaged { path },
        other => OpenError::Unreadable { path, reason: other.to_string() },
    }
}
