-- The registry: groups, tenants, keys, models and their endpoints, and the trail of every change.
-- Ids are UUIDv7 as text, so that their order is the order of creation. Times are unix milliseconds.
-- A tenant or key with deleted_at set is gone for operators; its name is free again.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tenant_groups (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    weight     INTEGER NOT NULL CHECK (weight >= 1),
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE tenants (
    id                  TEXT PRIMARY KEY,
    name                TEXT NOT NULL,
    group_id            TEXT NOT NULL REFERENCES tenant_groups (id),
    weight              INTEGER NOT NULL CHECK (weight >= 1),
    status              TEXT NOT NULL CHECK (status IN ('active', 'suspended', 'archived')),
    tokens_per_minute   INTEGER CHECK (tokens_per_minute >= 0),
    requests_per_minute INTEGER CHECK (requests_per_minute >= 0),
    max_in_flight       INTEGER CHECK (max_in_flight >= 0),
    allowed_models      TEXT, -- JSON list of names; null = all, [] = none
    created_at          INTEGER NOT NULL,
    updated_at          INTEGER NOT NULL,
    deleted_at          INTEGER
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX tenants_live_name ON tenants (name) WHERE deleted_at IS NULL;
CREATE INDEX tenants_group ON tenants (group_id) WHERE deleted_at IS NULL;

CREATE TABLE api_keys (
    id                  TEXT PRIMARY KEY,
    tenant_id           TEXT NOT NULL REFERENCES tenants (id),
    name                TEXT NOT NULL,
    digest              BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    key_prefix          TEXT NOT NULL,
    disabled            INTEGER NOT NULL CHECK (disabled IN (0, 1)),
    expires_at          INTEGER,
    allowed_models      TEXT, -- as in tenants
    weight              INTEGER NOT NULL CHECK (weight >= 1),
    tokens_per_minute   INTEGER CHECK (tokens_per_minute >= 0),
    requests_per_minute INTEGER CHECK (requests_per_minute >= 0),
    max_in_flight       INTEGER CHECK (max_in_flight >= 0),
    created_at          INTEGER NOT NULL,
    updated_at          INTEGER NOT NULL,
    deleted_at          INTEGER
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX api_keys_live_name ON api_keys (tenant_id, name) WHERE deleted_at IS NULL;

CREATE TABLE models (
    id             TEXT PRIMARY KEY,
    enabled        INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    upstream_model TEXT,
    max_in_flight  INTEGER CHECK (max_in_flight >= 0),
    max_model_len  INTEGER CHECK (max_model_len >= 1),
    connect_ms     INTEGER, -- null = the default, 0 = off; the other three likewise
    first_byte_ms  INTEGER,
    idle_ms        INTEGER,
    total_ms       INTEGER,
    created_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Names and aliases in one column, so that no two models can answer to the same word. Position 0 is the
-- model's own name.
CREATE TABLE model_names (
    name     TEXT PRIMARY KEY,
    model_id TEXT NOT NULL REFERENCES models (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    UNIQUE (model_id, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE endpoints (
    id            TEXT PRIMARY KEY,
    model_id      TEXT NOT NULL REFERENCES models (id) ON DELETE CASCADE,
    position      INTEGER NOT NULL,
    name          TEXT NOT NULL,
    api_base      TEXT NOT NULL,
    credential    BLOB, -- AES-256-GCM, bound to id, column and key_version
    key_version   INTEGER NOT NULL,
    priority      INTEGER NOT NULL,
    weight        INTEGER NOT NULL CHECK (weight >= 1),
    enabled       INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    max_in_flight INTEGER CHECK (max_in_flight >= 0),
    revision      INTEGER NOT NULL, -- grows with every change of address or credential
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    UNIQUE (model_id, name)
) STRICT, WITHOUT ROWID;

-- One row per change, written in the same transaction. Never holds a secret.
CREATE TABLE audit (
    id          TEXT PRIMARY KEY,
    ts          INTEGER NOT NULL,
    actor       TEXT NOT NULL,
    action      TEXT NOT NULL,
    object_kind TEXT NOT NULL,
    object_id   TEXT NOT NULL,
    before      TEXT,
    after       TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX audit_object ON audit (object_kind, object_id);
