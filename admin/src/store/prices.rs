//! Price lists of models in SQLite: one row per version, written once and never changed.
//!
//! They outlive their model, because rows of the ledger name the version that they were charged by.

use obleth_policy::{id::ModelId, unit::UnixMs};
use rusqlite::{Row, params};

use super::{
    columns::{changed_one, id},
    fault::{Kind, StoreError},
    rows::{ModelRow, Page, PriceVersionRow, PricesRow},
    sqlite::{Db, Writer},
};

/// The list of one model that is in effect.
pub(super) const NEWEST: &str =
    "SELECT version, input, cached_input, output, image, second, character, id, created_at
    FROM prices WHERE model_id = ?1 ORDER BY version DESC LIMIT 1";

const PAGE: &str = "SELECT version, input, cached_input, output, image, second, character, id, created_at
    FROM prices WHERE model_id = ?1 AND (?2 IS NULL OR id < ?2) ORDER BY id DESC LIMIT ?3";

pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<PricesRow> {
    Ok(PricesRow {
        version: row.get(0)?,
        input: row.get(1)?,
        cached_input: row.get(2)?,
        output: row.get(3)?,
        image: row.get(4)?,
        second: row.get(5)?,
        character: row.get(6)?,
    })
}

fn read_version(row: &Row<'_>) -> rusqlite::Result<PriceVersionRow> {
    Ok(PriceVersionRow { id: id(row, 7)?, prices: read(row)?, created_at: UnixMs(row.get(8)?) })
}

/// Makes what `model` says the list in effect: a new version where it differs from `before`. Sets the version in
/// `model`.
pub(super) fn save(
    writer: &mut Writer<'_>,
    model: &mut ModelRow,
    before: PricesRow,
    now: UnixMs,
) -> Result<(), StoreError> {
    let prices = PricesRow { version: before.version, ..model.prices };
    if prices == before {
        model.prices = before;
        return Ok(());
    }
    model.prices = PricesRow { version: before.version.saturating_add(1), ..prices };
    let changed = writer.tx.execute(
        "INSERT INTO prices (id, model_id, version, input, cached_input, output, image, second, character, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            writer.mint.next(now).to_string(),
            model.id.to_string(),
            model.prices.version,
            prices.input,
            prices.cached_input,
            prices.output,
            prices.image,
            prices.second,
            prices.character,
            now.0
        ],
    )?;
    changed_one(changed)
}

impl Db {
    /// All versions of a model's prices, also of a model that was deleted. Newest first, one row more than the page
    /// holds if there is one.
    pub(crate) fn list_prices(
        &mut self,
        model: ModelId,
        page: Page,
    ) -> Result<Vec<PriceVersionRow>, StoreError> {
        let known = "SELECT EXISTS (SELECT 1 FROM models WHERE id = ?1)
            OR EXISTS (SELECT 1 FROM prices WHERE model_id = ?1)";
        let id = model.to_string();
        if !self.conn.query_row(known, [&id], |row| row.get::<_, bool>(0))? {
            return Err(StoreError::NotFound(Kind::Model));
        }
        let after = page.after.map(|id| id.to_string());
        let mut query = self.conn.prepare(PAGE)?;
        let rows = query.query_map(params![id, after, i64::from(page.limit) + 1], read_version)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }
}
