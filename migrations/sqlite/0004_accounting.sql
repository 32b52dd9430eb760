-- What use costs, and how it is counted.

-- One row per version of a model's price list; the highest is in effect. Micro-USD, per million tokens or characters,
-- per image, per second; null = no price. Rows are never changed, and stay when their model goes: the ledger names
-- versions.
CREATE TABLE prices (
    id           TEXT PRIMARY KEY,
    model_id     TEXT NOT NULL,
    version      INTEGER NOT NULL CHECK (version >= 1),
    input        INTEGER CHECK (input >= 0),
    cached_input INTEGER CHECK (cached_input >= 0),
    output       INTEGER CHECK (output >= 0),
    image        INTEGER CHECK (image >= 0),
    second       INTEGER CHECK (second >= 0),
    character    INTEGER CHECK (character >= 0),
    created_at   INTEGER NOT NULL,
    UNIQUE (model_id, version)
) STRICT, WITHOUT ROWID;

-- The backends count tokens while they stream, and are asked to.
ALTER TABLE models ADD COLUMN continuous_usage INTEGER NOT NULL DEFAULT 0 CHECK (continuous_usage IN (0, 1));
