//! Endpoints of a model in SQLite, with their sealed credentials.
//!
//! An endpoint keeps its id and its credential while it keeps its name; its revision grows with every change
//! of address or credential, so that connections made before are not used again.

use obleth_policy::{id::EndpointId, unit::UnixMs};
use rusqlite::{Row, params};

use super::{
    columns::{changed_one, id},
    fault::{Fault, StoreError},
    rows::{Credential, DEFAULT_WEIGHT, EndpointRow, ModelRow},
    sqlite::Writer,
};
use crate::vault::{KEY_VERSION, Place, Vault};

/// Of one model, most preferred first.
pub(super) const SELECT: &str =
    "SELECT id, name, api_base, credential, key_version, priority, enabled, revision
    FROM endpoints WHERE model_id = ?1 ORDER BY priority, position";

const COLUMN: &str = "endpoints.credential";

pub(super) fn read(row: &Row<'_>, vault: &Vault) -> rusqlite::Result<EndpointRow> {
    let id = id(row, 0)?;
    let sealed: Option<Vec<u8>> = row.get(3)?;
    let place = Place { row: id, column: COLUMN, key_version: row.get(4)? };
    let credential = match sealed.map(|sealed| vault.open(place, &sealed)) {
        None => Credential::None,
        Some(Ok(secret)) => Credential::Known(secret),
        Some(Err(_)) => Credential::Unreadable,
    };
    Ok(EndpointRow {
        id: EndpointId(id),
        name: row.get(1)?,
        api_base: row.get(2)?,
        credential,
        priority: row.get(5)?,
        enabled: row.get(6)?,
        revision: row.get::<_, i64>(7)?.unsigned_abs(),
    })
}

/// Makes the stored endpoints those of `model`; `before` are the ones that are stored now. Sets ids and
/// revisions in `model`.
pub(super) fn save(
    writer: &mut Writer<'_>,
    model: &mut ModelRow,
    before: &[EndpointRow],
    now: UnixMs,
) -> Result<(), StoreError> {
    for gone in before.iter().filter(|old| model.endpoints.iter().all(|new| new.name != old.name)) {
        changed_one(writer.tx.execute("DELETE FROM endpoints WHERE id = ?1", [gone.id.to_string()])?)?;
    }
    let model_id = model.id.to_string();
    for (position, row) in model.endpoints.iter_mut().enumerate() {
        let old = before.iter().find(|old| old.name == row.name);
        match old {
            None => row.id = EndpointId(writer.mint.next(now)),
            Some(old) => {
                let moved = old.api_base != row.api_base || old.credential != row.credential;
                (row.id, row.revision) = (old.id, old.revision + u64::from(moved));
            }
        }
        if old.is_none_or(|old| old.credential != row.credential) {
            write(writer, &model_id, (position, row), now)?;
        } else {
            update(writer, (position, row), now)?;
        }
    }
    Ok(())
}

/// The whole row, credential included.
fn write(
    writer: &Writer<'_>,
    model_id: &str,
    (position, row): (usize, &EndpointRow),
    now: UnixMs,
) -> Result<(), StoreError> {
    let place = Place { row: row.id.0, column: COLUMN, key_version: KEY_VERSION };
    let sealed = match &row.credential {
        Credential::None => None,
        Credential::Known(secret) => Some(writer.vault.seal(place, secret).map_err(|_| Fault::Secret)?),
        Credential::Unreadable => return Err(Fault::Secret.into()),
    };
    let changed = writer.tx.execute(
        "INSERT INTO endpoints (id, model_id, position, name, api_base, credential, key_version, priority,
         weight, enabled, max_in_flight, revision, created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, NULL, ?11, ?12, ?12)
         ON CONFLICT (id) DO UPDATE SET position = ?3, api_base = ?5, credential = ?6, key_version = ?7,
         priority = ?8, enabled = ?10, revision = ?11, updated_at = ?12",
        params![
            row.id.to_string(),
            model_id,
            position as i64,
            row.name,
            row.api_base,
            sealed,
            KEY_VERSION,
            row.priority,
            DEFAULT_WEIGHT,
            row.enabled,
            row.revision as i64,
            now.0
        ],
    )?;
    changed_one(changed)
}

/// All but the credential, which stays as it is, readable or not.
fn update(
    writer: &Writer<'_>,
    (position, row): (usize, &EndpointRow),
    now: UnixMs,
) -> Result<(), StoreError> {
    let changed = writer.tx.execute(
        "UPDATE endpoints SET position = ?2, api_base = ?3, priority = ?4, enabled = ?5,
         revision = ?6, updated_at = ?7 WHERE id = ?1",
        params![
            row.id.to_string(),
            position as i64,
            row.api_base,
            row.priority,
            row.enabled,
            row.revision as i64,
            now.0
        ],
    )?;
    changed_one(changed)
}
