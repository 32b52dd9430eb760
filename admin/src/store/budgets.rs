//! Budgets in SQLite, and what limits a scope has by its row.
//!
//! A budget belongs to the row of its key, tenant or group: it is read with it and written with it, in one transaction.

use obleth_policy::limit::{Limits, Measure, Period, Scope, Unit};
use rusqlite::{Row, Transaction, params};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::columns::unreadable;
use crate::clock;

/// Periods that a budget may be for, in the order in which they are shown.
pub(crate) const PERIODS: [Period; 3] = [Period::Daily, Period::Monthly, Period::Lifetime];

/// What a scope may use in each of its days or months, or for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BudgetRow {
    #[serde(serialize_with = "as_name", deserialize_with = "by_name")]
    pub(crate) period: Period,
    /// `null` = unlimited, 0 = none; one of the two is a number.
    pub(crate) limit_tokens: Option<i64>,
    pub(crate) limit_micro_usd: Option<i64>,
}

/// The period with this name, if a budget may be for it.
pub(crate) fn period_from(name: &str) -> Option<Period> {
    PERIODS.into_iter().find(|period| period.as_str() == name)
}

fn as_name<S: Serializer>(period: &Period, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(period.as_str())
}

fn by_name<'de, D: Deserializer<'de>>(value: D) -> Result<Period, D::Error> {
    let name = String::deserialize(value)?;
    period_from(&name).ok_or_else(|| serde::de::Error::custom("an unknown period"))
}

/// A row's limits as the data plane and the owner of the limits understand them.
pub(crate) fn limits(per_minute: (Option<i64>, Option<i64>), budgets: &[BudgetRow]) -> Limits {
    // The store holds no negative ones.
    let limit = |limit: Option<i64>| limit.map(|limit| u64::try_from(limit).unwrap_or(0));
    let (tokens, requests) = per_minute;
    let rates = Limits::NONE
        .with(Measure::TokensPerMinute, limit(tokens))
        .with(Measure::RequestsPerMinute, limit(requests));
    budgets.iter().fold(rates, |limits, budget| {
        let units = [(Unit::Tokens, budget.limit_tokens), (Unit::MicroUsd, budget.limit_micro_usd)];
        units.into_iter().fold(limits, |limits, (unit, most)| {
            Measure::budget(budget.period, unit).map_or(limits, |measure| limits.with(measure, limit(most)))
        })
    })
}

/// The column that holds a scope's budgets as JSON.
macro_rules! column {
    ($kind:literal, $id:literal) => {
        concat!(
            "(SELECT json_group_array(json_object('period', b.period, 'limit_tokens', b.limit_tokens,
             'limit_micro_usd', b.limit_micro_usd)) FROM budgets b
             WHERE b.scope_kind = '",
            $kind,
            "' AND b.scope_id = ",
            $id,
            ")"
        )
    };
}
pub(super) use column;

/// Reads that column.
pub(super) fn read(row: &Row<'_>, at: usize) -> rusqlite::Result<Vec<BudgetRow>> {
    let text = row.get_ref(at)?.as_str()?;
    let mut budgets: Vec<BudgetRow> = serde_json::from_str(text).map_err(|error| unreadable(at, error))?;
    budgets.sort_by_key(|budget| budget.period);
    Ok(budgets)
}

/// Makes these the budgets of a scope.
pub(super) fn save(tx: &Transaction<'_>, scope: Scope, budgets: &[BudgetRow]) -> rusqlite::Result<()> {
    let (kind, id) = (scope.kind(), id_text(scope));
    tx.execute("DELETE FROM budgets WHERE scope_kind = ?1 AND scope_id = ?2", params![kind, id])?;
    for BudgetRow { period, limit_tokens, limit_micro_usd } in budgets {
        tx.execute(
            "INSERT INTO budgets (scope_kind, scope_id, period, limit_tokens, limit_micro_usd, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![kind, id, period.as_str(), limit_tokens, limit_micro_usd, clock::now().0],
        )?;
    }
    Ok(())
}

fn id_text(scope: Scope) -> String {
    match scope {
        Scope::Key(id) => id.to_string(),
        Scope::Tenant(id) => id.to_string(),
        Scope::Group(id) => id.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        store::{
            Db, file,
            migrate::MIGRATIONS,
            rows::{Act, TenantRow},
        },
        usage::calendar::Zone,
        vault::MasterKey,
    };

    #[test]
    fn in_an_older_store_everybody_has_days_of_utc_and_no_budgets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("obleth.db");
        let older = file::open(&path, &MIGRATIONS[..4]).unwrap();
        older
            .execute_batch(
                "INSERT INTO tenant_groups VALUES ('01900000-0000-7000-8000-000000000001', 'default', 100, 1);
                 INSERT INTO tenants (id, name, group_id, weight, status, created_at, updated_at)
                 SELECT '01900000-0000-7000-8000-000000000002', 'acme', id, 100, 'active', 1, 1 FROM tenant_groups",
            )
            .unwrap();
        drop(older);
        let (mut db, _) = Db::open(&path, &MasterKey::parse(&"07".repeat(32)).unwrap()).unwrap();
        let registry = db.registry().unwrap();
        let (tenant, group) = (&registry.tenants[0], &registry.groups[0]);
        assert_eq!((&tenant.time_zone, &group.time_zone), (&Zone::UTC, &Zone::UTC));
        assert!(tenant.limits().is_none() && group.limits().is_none());
    }

    #[test]
    fn the_table_holds_no_budget_without_a_limit_and_none_below_zero() {
        let dir = tempfile::tempdir().unwrap();
        let key = MasterKey::parse(&"07".repeat(32)).unwrap();
        let (mut db, _) = Db::open(&dir.path().join("obleth.db"), &key).unwrap();
        let act = Act { actor: "test".into(), action: "tenant.budget" };
        let tenant = db.create_tenant(&act, TenantRow::draft("acme".into())).unwrap();
        let mut set = |limit_tokens, limit_micro_usd| {
            let budget = BudgetRow { period: Period::Daily, limit_tokens, limit_micro_usd };
            db.update_tenant(&act, tenant.id, |row| row.budgets = vec![budget]).map(|row| row.limits())
        };
        let limits = Limits::NONE.with(Measure::DailyTokens, Some(0)).with(Measure::DailyMicroUsd, Some(7));
        assert_eq!(set(Some(0), Some(7)), Ok(limits));
        assert!(set(None, None).is_err() && set(Some(-1), None).is_err() && set(None, Some(-1)).is_err());
        assert_eq!(db.tenant(tenant.id).unwrap().limits(), limits, "what was refused has changed nothing");
    }
}
