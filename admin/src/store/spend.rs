//! What budgets have used, in SQLite: totals and the place of the usage log that they reach up to, always together.
//!
//! What is saved survives the machine's power, because the log lets go what it covers.

use std::collections::HashMap;

use obleth_ledger::{Checkpoint, Position};
use obleth_policy::{
    id::{GroupId, KeyId, TenantId},
    limit::{Measure, Meter, Period, Scope, Unit},
    unit::UnixMs,
};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use uuid::Uuid;

use super::{
    columns::id,
    fault::{Fault, StoreError},
    sqlite::Db,
};
use crate::budget::book::{Changes, Entry, Saved, Total};

/// As it stands in rows and bodies; `None` for what no budget counts.
pub(crate) const fn unit_name(unit: Unit) -> Option<&'static str> {
    match unit {
        Unit::Requests => None,
        Unit::Tokens => Some("tokens"),
        Unit::MicroUsd => Some("micro_usd"),
    }
}

/// The id of whoever it is.
pub(crate) const fn scope_id(scope: Scope) -> Uuid {
    match scope {
        Scope::Key(id) => id.0,
        Scope::Tenant(id) => id.0,
        Scope::Group(id) => id.0,
    }
}

/// The inverse of [`Scope::kind`] and [`scope_id`].
pub(super) fn scope(kind: &str, id: Uuid) -> Option<Scope> {
    Some(match kind {
        "key" => Scope::Key(KeyId(id)),
        "tenant" => Scope::Tenant(TenantId(id)),
        "group" => Scope::Group(GroupId(id)),
        _ => return None,
    })
}

/// The budget of this period and unit, by their names.
pub(crate) fn measure(period: &str, unit: &str) -> Option<Measure> {
    let period =
        [Period::Daily, Period::Monthly, Period::Lifetime].into_iter().find(|p| p.as_str() == period)?;
    let unit = [Unit::Tokens, Unit::MicroUsd].into_iter().find(|u| unit_name(*u) == Some(unit))?;
    Measure::budget(period, unit)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Option<Entry>> {
    let scope = scope(row.get_ref(0)?.as_str()?, id(row, 1)?);
    let measure = measure(row.get_ref(2)?.as_str()?, row.get_ref(3)?.as_str()?);
    let (Some(scope), Some(measure)) = (scope, measure) else { return Ok(None) };
    let spent = row.get::<_, i64>(5)?.unsigned_abs();
    let total = Total { spent, is_whole: row.get(6)?, told: row.get(7)?, is_refusal_told: row.get(8)? };
    Ok(Some(Entry { meter: Meter { scope, measure }, since: UnixMs(row.get(4)?), total }))
}

fn place(conn: &Connection) -> Result<Option<(Checkpoint, Option<UnixMs>)>, StoreError> {
    let sql = "SELECT log_id, segment, segment_offset, newest FROM spend_place";
    let row = conn.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)));
    let Some((log_id, segment, offset, newest)) = row.optional()? else { return Ok(None) };
    let (log_id, segment, offset, newest): ([u8; 16], i64, i64, Option<i64>) =
        (log_id, segment, offset, newest);
    let position = Position { segment: segment.unsigned_abs(), offset: offset.unsigned_abs() };
    Ok(Some((Checkpoint { log_id: Uuid::from_bytes(log_id), position }, newest.map(UnixMs))))
}

fn key(meter: Meter) -> Option<(&'static str, String, &'static str, &'static str)> {
    let unit = unit_name(meter.measure.unit())?;
    Some((meter.scope.kind(), scope_id(meter.scope).to_string(), meter.measure.period().as_str(), unit))
}

impl Db {
    /// What was saved last, and of which log; `None` if no budget had used anything, or none was there.
    pub(crate) fn load_spend(&mut self) -> Result<Option<(Uuid, Saved)>, StoreError> {
        let sql =
            "SELECT scope, scope_id, period, unit, since, spent, is_whole, told, is_refusal_told FROM spend";
        let entries: Vec<_> =
            self.conn.prepare(sql)?.query_map([], read)?.collect::<rusqlite::Result<_>>()?;
        let entries: Vec<Entry> = entries.into_iter().collect::<Option<_>>().ok_or(Fault::Damaged)?;
        let place = place(&self.conn)?.filter(|_| !entries.is_empty());
        let saved =
            |(Checkpoint { log_id, position }, newest)| (log_id, Saved { at: position, newest, entries });
        Ok(place.map(saved))
    }

    /// Up to where a log is in what was saved, and which; `None` if there is nothing that needs it.
    pub(crate) fn spend_place(&self) -> Result<Option<Checkpoint>, StoreError> {
        let is_kept: bool =
            self.conn.query_row("SELECT EXISTS (SELECT 1 FROM spend)", [], |row| row.get(0))?;
        Ok(place(&self.conn)?.map(|(place, _)| place).filter(|_| is_kept))
    }

    /// Saves totals that have changed, and the place of this log that they reach up to.
    pub(crate) fn save_spend(&mut self, log_id: Uuid, changes: &Changes) -> Result<(), StoreError> {
        self.conn.pragma_update(None, "synchronous", "full")?;
        let saved = save(&mut self.conn, log_id, changes);
        self.conn.pragma_update(None, "synchronous", "normal")?;
        saved
    }

    /// What each of these budgets is called by its owner's name: keys', tenants' and groups' names by their ids.
    pub(crate) fn scope_names(&mut self, scopes: &[Scope]) -> Result<HashMap<Scope, String>, StoreError> {
        let mut names = HashMap::new();
        for scope in scopes {
            let sql = match scope {
                Scope::Key(_) => "SELECT name FROM api_keys WHERE id = ?1",
                Scope::Tenant(_) => "SELECT name FROM tenants WHERE id = ?1",
                Scope::Group(_) => "SELECT name FROM tenant_groups WHERE id = ?1",
            };
            let mut statement = self.conn.prepare(sql)?;
            let name = statement.query_row([scope_id(*scope).to_string()], |row| row.get(0)).optional()?;
            names.extend(name.map(|name| (*scope, name)));
        }
        Ok(names)
    }
}

fn save(conn: &mut Connection, log_id: Uuid, changes: &Changes) -> Result<(), StoreError> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut put = tx.prepare(
            "INSERT INTO spend (scope, scope_id, period, unit, since, spent, is_whole, told, is_refusal_told)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT DO UPDATE SET spent = ?6, is_whole = ?7, told = ?8, is_refusal_told = ?9",
        )?;
        for Entry { meter, since, total } in &changes.entries {
            let Some((kind, id, period, unit)) = key(*meter) else { continue };
            let Total { spent, is_whole, told, is_refusal_told } = *total;
            let spent = i64::try_from(spent).unwrap_or(i64::MAX);
            put.execute(params![kind, id, period, unit, since.0, spent, is_whole, told, is_refusal_told])?;
        }
        let mut delete = tx.prepare(
            "DELETE FROM spend
             WHERE scope = ?1 AND scope_id = ?2 AND period = ?3 AND unit = ?4 AND since = ?5",
        )?;
        for (meter, since) in &changes.gone {
            let Some((kind, id, period, unit)) = key(*meter) else { continue };
            delete.execute(params![kind, id, period, unit, since.0])?;
        }
    }
    let number = |number: u64| i64::try_from(number).map_err(|_| Fault::Other);
    let (segment, offset) = (number(changes.at.segment)?, number(changes.at.offset)?);
    tx.execute(
        "INSERT INTO spend_place (one, log_id, segment, segment_offset, newest) VALUES (1, ?1, ?2, ?3, ?4)
         ON CONFLICT (one) DO UPDATE SET log_id = ?1, segment = ?2, segment_offset = ?3, newest = ?4",
        params![log_id.into_bytes(), segment, offset, changes.newest.map(|newest| newest.0)],
    )?;
    tx.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::MasterKey;

    fn entry(n: u128, measure: Measure, spent: u64) -> Entry {
        let meter = Meter { scope: Scope::Group(GroupId(Uuid::from_u128(n))), measure };
        Entry {
            meter,
            since: UnixMs(7),
            total: Total { spent, is_whole: true, told: 80, is_refusal_told: n == 2 },
        }
    }

    #[test]
    fn what_is_saved_is_what_the_next_process_finds() {
        let dir = tempfile::tempdir().unwrap();
        let key = MasterKey::parse(&"07".repeat(32)).unwrap();
        let open = || Db::open(&dir.path().join("obleth.db"), &key).unwrap().0;
        let log = Uuid::from_u128(9);
        let (first, second) = (entry(1, Measure::DailyTokens, 5), entry(2, Measure::LifetimeMicroUsd, 6));
        let at = |offset| Position { segment: 3, offset };
        let mut db = open();
        assert!(db.load_spend().unwrap().is_none() && db.spend_place().unwrap().is_none());
        let changes = Changes { at: at(64), newest: None, entries: vec![first, second], gone: Vec::new() };
        db.save_spend(log, &changes).unwrap();
        let raised = entry(2, Measure::LifetimeMicroUsd, u64::MAX);
        let gone = vec![(first.meter, first.since)];
        let changes = Changes { at: at(128), newest: Some(UnixMs(-1)), entries: vec![raised], gone };
        db.save_spend(log, &changes).unwrap();
        drop(db);
        let mut db = open();
        let most = Entry { total: Total { spent: i64::MAX.unsigned_abs(), ..raised.total }, ..raised };
        let saved = Saved { at: at(128), newest: Some(UnixMs(-1)), entries: vec![most] };
        assert_eq!(db.load_spend().unwrap(), Some((log, saved)));
        assert_eq!(db.spend_place().unwrap(), Some(Checkpoint { log_id: log, position: at(128) }));
        let gone = vec![(raised.meter, raised.since)];
        db.save_spend(log, &Changes { at: at(192), newest: None, entries: Vec::new(), gone }).unwrap();
        assert!(db.load_spend().unwrap().is_none() && db.spend_place().unwrap().is_none());
    }
}
