//! Tenants in SQLite. Deleting is soft: the row stays for its history, its name is free again.

use std::collections::HashMap;

use obleth_policy::{id::TenantId, limit::Scope, snapshot::Brownout, unit::UnixMs};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{
    budgets,
    columns::{changed_one, id, names, names_text, networks, networks_text, zone},
    fault::{Kind, StoreError},
    groups,
    rows::{Act, Page, TenantRow, status_from, status_text},
    sqlite::Db,
};
use crate::clock;

const SELECT: &str = concat!(
    "SELECT t.id, t.name, t.weight, g.name, t.status, t.tokens_per_minute,
    t.requests_per_minute, t.max_in_flight, t.allowed_models, t.created_at, t.allowed_ips,
    t.brownout, t.time_zone, ",
    budgets::column!("tenant", "t.id"),
    " FROM tenants t JOIN tenant_groups g ON g.id = t.group_id WHERE t.deleted_at IS NULL"
);

fn read(row: &Row<'_>) -> rusqlite::Result<TenantRow> {
    let status = status_from(row.get_ref(4)?.as_str()?);
    let unknown = |at: usize| rusqlite::Error::IntegralValueOutOfRange(at, 0);
    let brownout = row.get_ref(11)?.as_str_or_null()?;
    Ok(TenantRow {
        id: TenantId(id(row, 0)?),
        name: row.get(1)?,
        weight: row.get(2)?,
        group_name: row.get(3)?,
        status: status.ok_or(unknown(4))?,
        tokens_per_minute: row.get(5)?,
        requests_per_minute: row.get(6)?,
        max_in_flight: row.get(7)?,
        allowed_models: names(row, 8)?,
        created_at: UnixMs(row.get(9)?),
        allowed_ips: networks(row, 10)?,
        brownout: brownout.map(|name| Brownout::of(name).ok_or(unknown(11))).transpose()?,
        time_zone: zone(row, 12)?,
        budgets: budgets::read(row, 13)?,
    })
}

/// A tenant that was not deleted.
pub(super) fn by_id(conn: &Connection, id: TenantId) -> Result<TenantRow, StoreError> {
    conn.query_row(&format!("{SELECT} AND t.id = ?1"), [id.to_string()], read)
        .optional()?
        .ok_or(StoreError::NotFound(Kind::Tenant))
}

/// All tenants that were not deleted, oldest first.
pub(super) fn all(conn: &Connection) -> rusqlite::Result<Vec<TenantRow>> {
    conn.prepare(&format!("{SELECT} ORDER BY t.id"))?.query_map([], read)?.collect()
}

/// Writes every column of a row that is there, and refuses what collides.
fn save(tx: &Transaction<'_>, row: &TenantRow, now: UnixMs) -> Result<(), StoreError> {
    let taken: bool = tx.query_row(
        "SELECT EXISTS (SELECT 1 FROM tenants WHERE name = ?1 AND deleted_at IS NULL AND id <> ?2)",
        params![row.name, row.id.to_string()],
        |found| found.get(0),
    )?;
    if taken {
        return Err(StoreError::taken("name", Kind::Tenant, &row.name));
    }
    let group = groups::by_name(tx, &row.group_name)?.ok_or_else(|| StoreError::Invalid {
        param: "group_name".into(),
        message: format!("There is no group named `{}`. Create it first.", row.group_name),
    })?;
    let changed = tx.execute(
        "INSERT INTO tenants (id, name, group_id, weight, status, tokens_per_minute, requests_per_minute,
         max_in_flight, allowed_models, created_at, updated_at, allowed_ips, brownout, time_zone)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
         ON CONFLICT (id) DO UPDATE SET name = ?2, group_id = ?3, weight = ?4, status = ?5,
         tokens_per_minute = ?6, requests_per_minute = ?7, max_in_flight = ?8, allowed_models = ?9,
         updated_at = ?11, allowed_ips = ?12, brownout = ?13, time_zone = ?14",
        params![
            row.id.to_string(),
            row.name,
            group.id.to_string(),
            row.weight,
            status_text(row.status),
            row.tokens_per_minute,
            row.requests_per_minute,
            row.max_in_flight,
            names_text(row.allowed_models.as_deref()),
            row.created_at.0,
            now.0,
            networks_text(row.allowed_ips.as_deref()),
            row.brownout.map(Brownout::as_str),
            row.time_zone.name()
        ],
    )?;
    changed_one(changed)
}

impl Db {
    /// Newest first, one row more than the page holds if there is one.
    pub(crate) fn list_tenants(&mut self, page: Page) -> Result<Vec<TenantRow>, StoreError> {
        let sql = format!("{SELECT} AND (?1 IS NULL OR t.id < ?1) ORDER BY t.id DESC LIMIT ?2");
        let mut statement = self.conn.prepare(&sql)?;
        let after = page.after.map(|id| id.to_string());
        let rows = statement.query_map(params![after, i64::from(page.limit) + 1], read)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub(crate) fn tenant(&mut self, id: TenantId) -> Result<TenantRow, StoreError> {
        by_id(&self.conn, id)
    }

    /// The tenant with this name.
    pub(crate) fn tenant_named(&mut self, name: &str) -> Result<Option<TenantRow>, StoreError> {
        Ok(self.conn.query_row(&format!("{SELECT} AND t.name = ?1"), [name], read).optional()?)
    }

    /// What these tenants are called, also deleted ones.
    pub(crate) fn tenant_names(
        &mut self,
        tenants: impl IntoIterator<Item = TenantId>,
    ) -> Result<HashMap<TenantId, String>, StoreError> {
        let mut statement = self.conn.prepare("SELECT name FROM tenants WHERE id = ?1")?;
        let mut names = HashMap::new();
        for tenant in tenants {
            if let Some(name) = statement.query_row([tenant.to_string()], |row| row.get(0)).optional()? {
                names.insert(tenant, name);
            }
        }
        Ok(names)
    }

    pub(crate) fn create_tenant(&mut self, act: &Act, draft: TenantRow) -> Result<TenantRow, StoreError> {
        self.write(|writer| {
            let now = clock::now();
            let row = TenantRow { id: TenantId(writer.mint.next(now)), created_at: now, ..draft };
            save(&writer.tx, &row, now)?;
            writer.audit(act, (Kind::Tenant, row.id.0), None, Some(&row))?;
            Ok(row)
        })
    }

    pub(crate) fn update_tenant(
        &mut self,
        act: &Act,
        id: TenantId,
        edit: impl FnOnce(&mut TenantRow),
    ) -> Result<TenantRow, StoreError> {
        self.write(|writer| {
            let before = by_id(&writer.tx, id)?;
            let mut row = before.clone();
            edit(&mut row);
            save(&writer.tx, &row, clock::now())?;
            if row.budgets != before.budgets {
                budgets::save(&writer.tx, Scope::Tenant(id), &row.budgets)?;
            }
            writer.audit(act, (Kind::Tenant, id.0), Some(&before), Some(&row))?;
            Ok(row)
        })
    }

    /// Its keys stay, and answer that the tenant is gone.
    pub(crate) fn delete_tenant(&mut self, act: &Act, id: TenantId) -> Result<TenantRow, StoreError> {
        self.write(|writer| {
            let row = by_id(&writer.tx, id)?;
            let sql = "UPDATE tenants SET deleted_at = ?2 WHERE id = ?1 AND deleted_at IS NULL";
            let changed = writer.tx.execute(sql, params![id.to_string(), clock::now().0])?;
            changed_one(changed)?;
            writer.audit(act, (Kind::Tenant, id.0), Some(&row), None)?;
            Ok(row)
        })
    }
}
