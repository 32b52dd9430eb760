//! Keys in SQLite, by digest only. Deleting is soft: the digest stays known, so that the key answers that it
//! was deleted. What rotation does to secrets is in `secrets.rs`.

use std::collections::HashMap;

use obleth_policy::{
    id::{KeyId, TenantId},
    key::{KeyDigest, KeyRecord},
    limit::Scope,
    unit::UnixMs,
};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{
    budgets,
    columns::{changed_one, id, names, names_text, networks, networks_text},
    fault::{Kind, StoreError},
    rows::{Act, KeyChange, KeyRow, Page},
    secrets,
    sqlite::Db,
    tenants,
};
use crate::clock;

const COLUMNS: &str = concat!(
    "k.id, k.tenant_id, k.name, k.key_prefix, k.disabled, k.expires_at, k.allowed_models,
    k.weight, k.tokens_per_minute, k.requests_per_minute, k.max_in_flight, k.created_at, k.digest,
    k.deleted_at IS NOT NULL, k.allowed_ips,
    (SELECT max(s.ends_at) FROM key_secrets s WHERE s.key_id = k.id), ",
    budgets::column!("key", "k.id")
);
/// What operators see: no deleted keys, and no keys of deleted tenants.
const LIVE: &str = "FROM api_keys k JOIN tenants t ON t.id = k.tenant_id
    WHERE k.deleted_at IS NULL AND t.deleted_at IS NULL";

fn read(row: &Row<'_>) -> rusqlite::Result<KeyRow> {
    Ok(KeyRow {
        id: KeyId(id(row, 0)?),
        tenant_id: TenantId(id(row, 1)?),
        name: row.get(2)?,
        key_prefix: row.get(3)?,
        disabled: row.get(4)?,
        expires_at: row.get::<_, Option<i64>>(5)?.map(UnixMs),
        allowed_models: names(row, 6)?,
        weight: row.get(7)?,
        tokens_per_minute: row.get(8)?,
        requests_per_minute: row.get(9)?,
        max_in_flight: row.get(10)?,
        created_at: UnixMs(row.get(11)?),
        digest: KeyDigest(row.get(12)?),
        deleted: row.get(13)?,
        allowed_ips: networks(row, 14)?,
        previous_secret_ends_at: row.get::<_, Option<i64>>(15)?.map(UnixMs).filter(|end| *end > clock::now()),
        budgets: budgets::read(row, 16)?,
    })
}

/// The key that has this digest, or had it and is in its grace; also a deleted one or one of a deleted tenant.
pub(super) fn by_digest(conn: &Connection, digest: KeyDigest) -> rusqlite::Result<Option<KeyRecord>> {
    let sql = format!("SELECT {COLUMNS} FROM api_keys k WHERE k.digest = ?1");
    if let Some(row) = conn.query_row(&sql, [digest.0], read).optional()? {
        return Ok(Some(row.record(None)));
    }
    let Some((key_id, ends_at)) = secrets::owner(conn, digest, clock::now())? else { return Ok(None) };
    let sql = format!("SELECT {COLUMNS} FROM api_keys k WHERE k.id = ?1");
    let row = conn.query_row(&sql, [key_id], read).optional()?;
    Ok(row.map(|row| row.record(Some(ends_at))))
}

pub(super) fn by_id(conn: &Connection, id: KeyId) -> Result<KeyRow, StoreError> {
    conn.query_row(&format!("SELECT {COLUMNS} {LIVE} AND k.id = ?1"), [id.to_string()], read)
        .optional()?
        .ok_or(StoreError::NotFound(Kind::Key))
}

/// Writes every column that can change, or the whole row if it is new, and refuses what collides.
fn save(tx: &Transaction<'_>, row: &KeyRow, now: UnixMs) -> Result<(), StoreError> {
    let taken: bool = tx.query_row(
        "SELECT EXISTS (SELECT 1 FROM api_keys
         WHERE tenant_id = ?1 AND name = ?2 AND deleted_at IS NULL AND id <> ?3)",
        params![row.tenant_id.to_string(), row.name, row.id.to_string()],
        |found| found.get(0),
    )?;
    if taken {
        return Err(StoreError::taken("name", Kind::Key, &row.name));
    }
    let changed = tx.execute(
        "INSERT INTO api_keys (id, tenant_id, name, digest, key_prefix, disabled, expires_at, allowed_models,
         weight, tokens_per_minute, requests_per_minute, max_in_flight, created_at, updated_at, allowed_ips)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
         ON CONFLICT (id) DO UPDATE SET name = ?3, disabled = ?6, expires_at = ?7, allowed_models = ?8,
         weight = ?9, tokens_per_minute = ?10, requests_per_minute = ?11, max_in_flight = ?12,
         updated_at = ?14, allowed_ips = ?15",
        params![
            row.id.to_string(),
            row.tenant_id.to_string(),
            row.name,
            row.digest.0,
            row.key_prefix,
            row.disabled,
            row.expires_at.map(|at| at.0),
            names_text(row.allowed_models.as_deref()),
            row.weight,
            row.tokens_per_minute,
            row.requests_per_minute,
            row.max_in_flight,
            row.created_at.0,
            now.0,
            networks_text(row.allowed_ips.as_deref())
        ],
    )?;
    changed_one(changed)
}

impl Db {
    /// Newest first, of one tenant or of all, one row more than the page holds if there is one.
    pub(crate) fn list_keys(
        &mut self,
        tenant: Option<TenantId>,
        page: Page,
    ) -> Result<Vec<KeyRow>, StoreError> {
        if let Some(tenant) = tenant {
            tenants::by_id(&self.conn, tenant)?;
        }
        let sql = format!(
            "SELECT {COLUMNS} {LIVE} AND (?1 IS NULL OR k.id < ?1) AND (?2 IS NULL OR k.tenant_id = ?2)
             ORDER BY k.id DESC LIMIT ?3"
        );
        let mut statement = self.conn.prepare(&sql)?;
        let after = page.after.map(|id| id.to_string());
        let tenant = tenant.map(|id| id.to_string());
        let rows = statement.query_map(params![after, tenant, i64::from(page.limit) + 1], read)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Those that have limits.
    pub(crate) fn limited_keys(&mut self) -> Result<Vec<KeyRow>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} {LIVE} AND (k.tokens_per_minute IS NOT NULL OR k.requests_per_minute IS NOT NULL
             OR EXISTS (SELECT 1 FROM budgets WHERE scope_kind = 'key' AND scope_id = k.id))"
        );
        let mut statement = self.conn.prepare(&sql)?;
        let rows = statement.query_map([], read)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub(crate) fn key(&mut self, id: KeyId) -> Result<KeyRow, StoreError> {
        by_id(&self.conn, id)
    }

    /// What these keys are called, also deleted ones.
    pub(crate) fn key_names(
        &mut self,
        keys: impl IntoIterator<Item = KeyId>,
    ) -> Result<HashMap<KeyId, String>, StoreError> {
        let mut statement = self.conn.prepare("SELECT name FROM api_keys WHERE id = ?1")?;
        let mut names = HashMap::new();
        for key in keys {
            if let Some(name) = statement.query_row([key.to_string()], |row| row.get(0)).optional()? {
                names.insert(key, name);
            }
        }
        Ok(names)
    }

    /// The tenant of the draft must exist.
    pub(crate) fn create_key(&mut self, act: &Act, draft: KeyRow) -> Result<KeyChange, StoreError> {
        self.write(|writer| {
            tenants::by_id(&writer.tx, draft.tenant_id)?;
            let now = clock::now();
            let row = KeyRow { id: KeyId(writer.mint.next(now)), created_at: now, ..draft };
            save(&writer.tx, &row, now)?;
            writer.audit(act, (Kind::Key, row.id.0), None, Some(&row))?;
            Ok(KeyChange { row, old: Vec::new() })
        })
    }

    pub(crate) fn update_key(
        &mut self,
        act: &Act,
        id: KeyId,
        edit: impl FnOnce(&mut KeyRow),
    ) -> Result<KeyChange, StoreError> {
        self.write(|writer| {
            let before = by_id(&writer.tx, id)?;
            let mut row = before.clone();
            edit(&mut row);
            save(&writer.tx, &row, clock::now())?;
            if row.budgets != before.budgets {
                budgets::save(&writer.tx, Scope::Key(id), &row.budgets)?;
            }
            writer.audit(act, (Kind::Key, id.0), Some(&before), Some(&row))?;
            let old = secrets::in_grace(&writer.tx, id, clock::now())?;
            Ok(KeyChange { row, old })
        })
    }

    /// The row as it was, but marked as deleted for the data plane.
    pub(crate) fn delete_key(&mut self, act: &Act, id: KeyId) -> Result<KeyChange, StoreError> {
        self.write(|writer| {
            let row = by_id(&writer.tx, id)?;
            let sql = "UPDATE api_keys SET deleted_at = ?2 WHERE id = ?1 AND deleted_at IS NULL";
            changed_one(writer.tx.execute(sql, params![id.to_string(), clock::now().0])?)?;
            writer.audit(act, (Kind::Key, id.0), Some(&row), None)?;
            let old = secrets::in_grace(&writer.tx, id, clock::now())?;
            Ok(KeyChange { row: KeyRow { deleted: true, ..row }, old })
        })
    }
}
