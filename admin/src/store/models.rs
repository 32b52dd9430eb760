//! Models in SQLite, each with its names. Deleting is for good; the audit trail keeps what was.

use obleth_link::MAX_POOLS;
use obleth_policy::{id::ModelId, unit::UnixMs};
use rusqlite::{Connection, OptionalExtension, Params, Row, Transaction, params};

use super::{
    columns::{changed_one, id},
    endpoints,
    fault::{Kind, StoreError},
    prices,
    rows::{Act, ModelRow, Page, PricesRow, Timeouts, TokenWeights},
    sqlite::Db,
};
use crate::{clock, vault::Vault};

const SELECT: &str = "SELECT m.id, n.name, m.enabled, m.upstream_model, m.max_in_flight, m.max_model_len,
    m.connect_ms, m.first_byte_ms, m.idle_ms, m.total_ms, m.created_at,
    m.input_weight_milli, m.output_weight_milli, m.cached_weight_milli, m.sends_priority,
    m.continuous_usage
    FROM models m JOIN model_names n ON n.model_id = m.id AND n.position = 0";

fn read(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    Ok(ModelRow {
        id: ModelId(id(row, 0)?),
        model_name: row.get(1)?,
        aliases: Vec::new(),
        enabled: row.get(2)?,
        upstream_model: row.get(3)?,
        max_in_flight: row.get(4)?,
        max_model_len: row.get(5)?,
        endpoints: Vec::new(),
        timeouts: Timeouts {
            connect_ms: row.get(6)?,
            first_byte_ms: row.get(7)?,
            idle_ms: row.get(8)?,
            total_ms: row.get(9)?,
        },
        created_at: UnixMs(row.get(10)?),
        weights: TokenWeights {
            input_milli: row.get(11)?,
            output_milli: row.get(12)?,
            cached_milli: row.get(13)?,
        },
        sends_priority: row.get(14)?,
        continuous_usage: row.get(15)?,
        prices: PricesRow::default(),
    })
}

/// The models that `tail` selects, with their aliases, endpoints and prices.
fn select(
    conn: &Connection,
    vault: &Vault,
    tail: &str,
    params: impl Params,
) -> rusqlite::Result<Vec<ModelRow>> {
    let mut models: Vec<ModelRow> = conn
        .prepare(&format!("{SELECT} {tail}"))?
        .query_map(params, read)?
        .collect::<rusqlite::Result<_>>()?;
    let aliases = "SELECT name FROM model_names WHERE model_id = ?1 AND position > 0 ORDER BY position";
    let mut aliases = conn.prepare(aliases)?;
    let mut of_model = conn.prepare(endpoints::SELECT)?;
    let mut newest_prices = conn.prepare(prices::NEWEST)?;
    for model in &mut models {
        let id = model.id.to_string();
        model.aliases = aliases.query_map([&id], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        model.endpoints =
            of_model.query_map([&id], |row| endpoints::read(row, vault))?.collect::<rusqlite::Result<_>>()?;
        model.prices = newest_prices.query_row([&id], prices::read).optional()?.unwrap_or_default();
    }
    Ok(models)
}

/// All models, oldest first.
pub(super) fn all(conn: &Connection, vault: &Vault) -> rusqlite::Result<Vec<ModelRow>> {
    select(conn, vault, "ORDER BY m.id", [])
}

fn by_id(conn: &Connection, vault: &Vault, id: ModelId) -> Result<ModelRow, StoreError> {
    let found = select(conn, vault, "WHERE m.id = ?1", [id.to_string()])?;
    found.into_iter().next().ok_or(StoreError::NotFound(Kind::Model))
}

fn save(tx: &Transaction<'_>, row: &ModelRow, now: UnixMs) -> Result<(), StoreError> {
    let changed = tx.execute(
        "INSERT INTO models (id, enabled, upstream_model, max_in_flight, max_model_len, connect_ms,
         first_byte_ms, idle_ms, total_ms, created_at, updated_at, input_weight_milli, output_weight_milli,
         cached_weight_milli, sends_priority, continuous_usage)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)
         ON CONFLICT (id) DO UPDATE SET enabled = ?2, upstream_model = ?3, max_in_flight = ?4,
         max_model_len = ?5, connect_ms = ?6, first_byte_ms = ?7, idle_ms = ?8, total_ms = ?9,
         updated_at = ?11, input_weight_milli = ?12, output_weight_milli = ?13, cached_weight_milli = ?14,
         sends_priority = ?15, continuous_usage = ?16",
        params![
            row.id.to_string(),
            row.enabled,
            row.upstream_model,
            row.max_in_flight,
            row.max_model_len,
            row.timeouts.connect_ms,
            row.timeouts.first_byte_ms,
            row.timeouts.idle_ms,
            row.timeouts.total_ms,
            row.created_at.0,
            now.0,
            row.weights.input_milli,
            row.weights.output_milli,
            row.weights.cached_milli,
            row.sends_priority,
            row.continuous_usage
        ],
    )?;
    changed_one(changed)?;
    save_names(tx, row)
}

fn save_names(tx: &Transaction<'_>, row: &ModelRow) -> Result<(), StoreError> {
    let id = row.id.to_string();
    tx.execute("DELETE FROM model_names WHERE model_id = ?1", [&id])?;
    let sql = "INSERT INTO model_names (name, model_id, position) VALUES (?1, ?2, ?3) ON CONFLICT (name) DO NOTHING";
    let mut insert = tx.prepare(sql)?;
    for (position, name) in std::iter::once(&row.model_name).chain(&row.aliases).enumerate() {
        if insert.execute(params![name, id, position as i64])? == 0 {
            let param = if position == 0 { "model_name" } else { "aliases" };
            return Err(StoreError::taken(param, Kind::Model, name));
        }
    }
    Ok(())
}

impl Db {
    /// Newest first, one row more than the page holds if there is one.
    pub(crate) fn list_models(&mut self, page: Page) -> Result<Vec<ModelRow>, StoreError> {
        let tail = "WHERE ?1 IS NULL OR m.id < ?1 ORDER BY m.id DESC LIMIT ?2";
        let after = page.after.map(|id| id.to_string());
        Ok(select(&self.conn, &self.vault, tail, params![after, i64::from(page.limit) + 1])?)
    }

    pub(crate) fn model(&mut self, id: ModelId) -> Result<ModelRow, StoreError> {
        by_id(&self.conn, &self.vault, id)
    }

    /// The model with this name; an alias does not count.
    pub(crate) fn model_named(&mut self, name: &str) -> Result<Option<ModelRow>, StoreError> {
        Ok(select(&self.conn, &self.vault, "WHERE n.name = ?1", [name])?.into_iter().next())
    }

    pub(crate) fn create_model(&mut self, act: &Act, draft: ModelRow) -> Result<ModelRow, StoreError> {
        self.write(|writer| {
            let count: i64 = writer.tx.query_row("SELECT count(*) FROM models", [], |row| row.get(0))?;
            if count >= MAX_POOLS as i64 {
                let message =
                    format!("The registry holds {MAX_POOLS} models, the most it can. Delete one first.");
                return Err(StoreError::Conflict { param: None, message });
            }
            let now = clock::now();
            let mut row = ModelRow { id: ModelId(writer.mint.next(now)), created_at: now, ..draft };
            save(&writer.tx, &row, now)?;
            endpoints::save(writer, &mut row, &[], now)?;
            prices::save(writer, &mut row, PricesRow::default(), now)?;
            writer.audit(act, (Kind::Model, row.id.0), None, Some(&row))?;
            Ok(row)
        })
    }

    /// The edit may refuse, having seen the row.
    pub(crate) fn update_model(
        &mut self,
        act: &Act,
        id: ModelId,
        edit: impl FnOnce(&mut ModelRow) -> Result<(), StoreError>,
    ) -> Result<ModelRow, StoreError> {
        self.write(|writer| {
            let before = by_id(&writer.tx, writer.vault, id)?;
            let mut row = before.clone();
            edit(&mut row)?;
            let now = clock::now();
            save(&writer.tx, &row, now)?;
            endpoints::save(writer, &mut row, &before.endpoints, now)?;
            prices::save(writer, &mut row, before.prices, now)?;
            writer.audit(act, (Kind::Model, id.0), Some(&before), Some(&row))?;
            Ok(row)
        })
    }

    pub(crate) fn delete_model(&mut self, act: &Act, id: ModelId) -> Result<ModelRow, StoreError> {
        self.write(|writer| {
            let row = by_id(&writer.tx, writer.vault, id)?;
            changed_one(writer.tx.execute("DELETE FROM models WHERE id = ?1", [id.to_string()])?)?;
            writer.audit(act, (Kind::Model, id.0), Some(&row), None)?;
            Ok(row)
        })
    }
}
