-- What keys, tenants and groups may use in a day, a month or for ever, and whose days those are.

-- A scope has one row per period that it has a budget for; null = no limit in that unit, 0 = nothing.
CREATE TABLE budgets (
    scope_kind      TEXT NOT NULL CHECK (scope_kind IN ('key', 'tenant', 'group')),
    scope_id        TEXT NOT NULL,
    period          TEXT NOT NULL CHECK (period IN ('daily', 'monthly', 'lifetime')),
    limit_tokens    INTEGER CHECK (limit_tokens >= 0),
    limit_micro_usd INTEGER CHECK (limit_micro_usd >= 0),
    updated_at      INTEGER NOT NULL,
    PRIMARY KEY (scope_kind, scope_id, period),
    CHECK (limit_tokens IS NOT NULL OR limit_micro_usd IS NOT NULL)
) STRICT, WITHOUT ROWID;

-- IANA names. A key's days are its tenant's.
ALTER TABLE tenants ADD COLUMN time_zone TEXT NOT NULL DEFAULT 'UTC';
ALTER TABLE tenant_groups ADD COLUMN time_zone TEXT NOT NULL DEFAULT 'UTC';
