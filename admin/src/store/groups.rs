//! Groups of tenants in SQLite.

use obleth_policy::{id::GroupId, limit::Scope, unit::UnixMs};
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::{
    budgets,
    columns::{changed_one, id, zone},
    fault::{Kind, StoreError},
    rows::{Act, DEFAULT_GROUP, GroupRow, Page},
    sqlite::Db,
};
use crate::clock;

const SELECT: &str = concat!(
    "SELECT id, name, weight, created_at, time_zone, ",
    budgets::column!("group", "tenant_groups.id"),
    " FROM tenant_groups"
);

fn read(row: &Row<'_>) -> rusqlite::Result<GroupRow> {
    Ok(GroupRow {
        id: GroupId(id(row, 0)?),
        name: row.get(1)?,
        weight: row.get(2)?,
        created_at: UnixMs(row.get(3)?),
        time_zone: zone(row, 4)?,
        budgets: budgets::read(row, 5)?,
    })
}

fn by_id(conn: &Connection, id: GroupId) -> Result<GroupRow, StoreError> {
    conn.query_row(&format!("{SELECT} WHERE id = ?1"), [id.to_string()], read)
        .optional()?
        .ok_or(StoreError::NotFound(Kind::Group))
}

/// The id of the group with this name.
pub(super) fn by_name(conn: &Connection, name: &str) -> rusqlite::Result<Option<GroupRow>> {
    conn.query_row(&format!("{SELECT} WHERE name = ?1"), [name], read).optional()
}

/// All groups, oldest first.
pub(super) fn all(conn: &Connection) -> rusqlite::Result<Vec<GroupRow>> {
    conn.prepare(&format!("{SELECT} ORDER BY id"))?.query_map([], read)?.collect()
}

fn refuse_taken(conn: &Connection, row: &GroupRow) -> Result<(), StoreError> {
    match by_name(conn, &row.name)? {
        Some(other) if other.id != row.id => Err(StoreError::taken("name", Kind::Group, &row.name)),
        _ => Ok(()),
    }
}

/// Makes the group that always exists.
pub(super) fn ensure_default(db: &mut Db) -> Result<(), StoreError> {
    if by_name(&db.conn, DEFAULT_GROUP)?.is_none() {
        let act = Act { actor: "obleth".into(), action: "group.create" };
        db.create_group(&act, GroupRow::draft(DEFAULT_GROUP.into()))?;
    }
    Ok(())
}

impl Db {
    /// Newest first, one row more than the page holds if there is one.
    pub(crate) fn list_groups(&mut self, page: Page) -> Result<Vec<GroupRow>, StoreError> {
        let sql = format!("{SELECT} WHERE ?1 IS NULL OR id < ?1 ORDER BY id DESC LIMIT ?2");
        let mut statement = self.conn.prepare(&sql)?;
        let after = page.after.map(|id| id.to_string());
        let rows = statement.query_map(params![after, i64::from(page.limit) + 1], read)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub(crate) fn group(&mut self, id: GroupId) -> Result<GroupRow, StoreError> {
        by_id(&self.conn, id)
    }

    pub(crate) fn create_group(&mut self, act: &Act, draft: GroupRow) -> Result<GroupRow, StoreError> {
        self.write(|writer| {
            let now = clock::now();
            let row = GroupRow { id: GroupId(writer.mint.next(now)), created_at: now, ..draft };
            refuse_taken(&writer.tx, &row)?;
            writer.tx.execute(
                "INSERT INTO tenant_groups (id, name, weight, created_at, time_zone) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![row.id.to_string(), row.name, row.weight, now.0, row.time_zone.name()],
            )?;
            writer.audit(act, (Kind::Group, row.id.0), None, Some(&row))?;
            Ok(row)
        })
    }

    pub(crate) fn update_group(
        &mut self,
        act: &Act,
        id: GroupId,
        edit: impl FnOnce(&mut GroupRow),
    ) -> Result<GroupRow, StoreError> {
        self.write(|writer| {
            let before = by_id(&writer.tx, id)?;
            let mut row = before.clone();
            edit(&mut row);
            if before.name == DEFAULT_GROUP && row.name != DEFAULT_GROUP {
                let message = "The group `default` keeps its name: new tenants belong to it.".to_owned();
                return Err(StoreError::Conflict { param: Some("name"), message });
            }
            refuse_taken(&writer.tx, &row)?;
            let sql = "UPDATE tenant_groups SET name = ?2, weight = ?3, time_zone = ?4 WHERE id = ?1";
            let values = params![id.to_string(), row.name, row.weight, row.time_zone.name()];
            changed_one(writer.tx.execute(sql, values)?)?;
            if row.budgets != before.budgets {
                budgets::save(&writer.tx, Scope::Group(id), &row.budgets)?;
            }
            writer.audit(act, (Kind::Group, id.0), Some(&before), Some(&row))?;
            Ok(row)
        })
    }

    /// Refuses the group `default` and a group with tenants.
    pub(crate) fn delete_group(&mut self, act: &Act, id: GroupId) -> Result<GroupRow, StoreError> {
        self.write(|writer| {
            let row = by_id(&writer.tx, id)?;
            let conflict = |message: &str| StoreError::Conflict { param: None, message: message.to_owned() };
            if row.name == DEFAULT_GROUP {
                return Err(conflict("The group `default` cannot be deleted: new tenants belong to it."));
            }
            let tenants: i64 = writer.tx.query_row(
                "SELECT count(*) FROM tenants WHERE group_id = ?1 AND deleted_at IS NULL",
                [id.to_string()],
                |row| row.get(0),
            )?;
            if tenants > 0 {
                return Err(conflict("The group still has tenants. Move them to another group first."));
            }
            // Deleted tenants stay for their history; they are counted to the default group from now on.
            let home = by_name(&writer.tx, DEFAULT_GROUP)?.map_or(Uuid::nil(), |group| group.id.0);
            writer.tx.execute(
                "UPDATE tenants SET group_id = ?2 WHERE group_id = ?1",
                [id.to_string(), home.to_string()],
            )?;
            budgets::save(&writer.tx, Scope::Group(id), &[])?;
            changed_one(writer.tx.execute("DELETE FROM tenant_groups WHERE id = ?1", [id.to_string()])?)?;
            writer.audit(act, (Kind::Group, id.0), Some(&row), None)?;
            Ok(row)
        })
    }
}
