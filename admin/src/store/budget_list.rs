//! All budgets as one list: a line per scope, period and unit, newest scope first.

use obleth_policy::{
    id::TenantId,
    limit::{Measure, Meter, Scope},
};
use rusqlite::{Row, params};
use uuid::Uuid;

use super::{
    columns::id,
    fault::StoreError,
    spend::{measure, scope},
    sqlite::Db,
};

/// One budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BudgetLine {
    pub(crate) meter: Meter,
    /// What the scope is called.
    pub(crate) name: String,
    /// Whose it is; of a group's nobody's.
    pub(crate) tenant: Option<TenantId>,
    pub(crate) limit: u64,
}

/// Which budgets are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BudgetFilter {
    /// As [`Scope::kind`].
    pub(crate) kind: Option<&'static str>,
    /// Those of one scope.
    pub(crate) scope: Option<Uuid>,
    /// A tenant's own and its keys'.
    pub(crate) tenant: Option<TenantId>,
}

/// Where a page goes on: behind this budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct After {
    pub(crate) scope: Uuid,
    pub(crate) measure: Measure,
}

/// The rank is the measure's place; nothing that was deleted is in here.
const SELECT: &str = "
    WITH owners AS (
        SELECT 'key' AS kind, k.id, k.name, k.tenant_id FROM api_keys k JOIN tenants t ON t.id = k.tenant_id
            WHERE k.deleted_at IS NULL AND t.deleted_at IS NULL
        UNION ALL SELECT 'tenant', id, name, id FROM tenants WHERE deleted_at IS NULL
        UNION ALL SELECT 'group', id, name, NULL FROM tenant_groups
    ), lines AS (
        SELECT scope_kind, scope_id, period, 'tokens' AS unit, limit_tokens AS most FROM budgets
        UNION ALL SELECT scope_kind, scope_id, period, 'micro_usd', limit_micro_usd FROM budgets
    ), ranked AS (
        SELECT l.scope_kind, l.scope_id, l.period, l.unit, l.most, o.name, o.tenant_id,
            CASE l.period WHEN 'daily' THEN 0 WHEN 'monthly' THEN 2 ELSE 4 END
                + CASE l.unit WHEN 'tokens' THEN 0 ELSE 1 END AS rank
        FROM lines l JOIN owners o ON o.kind = l.scope_kind AND o.id = l.scope_id
        WHERE l.most IS NOT NULL
    )
    SELECT scope_kind, scope_id, period, unit, most, name, tenant_id FROM ranked
    WHERE (?1 IS NULL OR scope_kind = ?1) AND (?2 IS NULL OR scope_id = ?2) AND (?3 IS NULL OR tenant_id = ?3)
        AND (?4 IS NULL OR scope_id < ?4 OR scope_id = ?4 AND rank > ?5)
    ORDER BY scope_id DESC, rank LIMIT ?6";

fn read(row: &Row<'_>) -> rusqlite::Result<Option<BudgetLine>> {
    let scope: Option<Scope> = scope(row.get_ref(0)?.as_str()?, id(row, 1)?);
    let measure = measure(row.get_ref(2)?.as_str()?, row.get_ref(3)?.as_str()?);
    let tenant: Option<String> = row.get(6)?;
    let (Some(scope), Some(measure)) = (scope, measure) else { return Ok(None) };
    Ok(Some(BudgetLine {
        meter: Meter { scope, measure },
        name: row.get(5)?,
        tenant: tenant.and_then(|id| Uuid::try_parse(&id).ok()).map(TenantId),
        limit: row.get::<_, i64>(4)?.unsigned_abs(),
    }))
}

impl Db {
    /// One line more than `limit` if there is one.
    pub(crate) fn list_budgets(
        &mut self,
        filter: &BudgetFilter,
        after: Option<After>,
        limit: u32,
    ) -> Result<Vec<BudgetLine>, StoreError> {
        let text = |id: Option<Uuid>| id.map(|id| id.to_string());
        let first = Measure::DailyTokens.ix();
        let rank = after.map(|after| after.measure.ix().saturating_sub(first));
        let mut statement = self.conn.prepare(SELECT)?;
        let values = params![
            filter.kind,
            text(filter.scope),
            text(filter.tenant.map(|tenant| tenant.0)),
            text(after.map(|after| after.scope)),
            rank.map(|rank| rank as i64),
            i64::from(limit) + 1
        ];
        let lines = statement.query_map(values, read)?.collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(lines.into_iter().flatten().collect())
    }
}
