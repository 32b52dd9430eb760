-- The embedded ledger: one row per request that is over. Ids are UUIDs as 16 bytes, times unix milliseconds, money
-- millionths of a US dollar. Clustered by time, because every question has a range of it.

CREATE TABLE requests (
    id                  BLOB NOT NULL CHECK (length(id) = 16),
    ts                  INTEGER NOT NULL,
    request_id          TEXT NOT NULL,
    session_id          TEXT,
    node                TEXT NOT NULL,
    tenant_id           BLOB NOT NULL,
    key_id              BLOB NOT NULL,
    group_id            BLOB,
    group_name          TEXT, -- names as they were when the request ended
    model_id            BLOB,
    model               TEXT,
    endpoint            TEXT NOT NULL,
    upstream_id         BLOB,
    status              INTEGER NOT NULL,
    outcome             TEXT NOT NULL,
    code                TEXT,
    admission           TEXT NOT NULL,
    queue_ms            INTEGER NOT NULL,
    ttft_ms             INTEGER,
    total_ms            INTEGER NOT NULL,
    overhead_us         INTEGER,
    input_tokens        INTEGER NOT NULL,
    cached_input_tokens INTEGER NOT NULL,
    output_tokens       INTEGER NOT NULL,
    usage_source        TEXT, -- null = nothing was used
    cost_micro_usd      INTEGER, -- null = nothing was used, or a part of it has no price
    price_version       INTEGER,
    streamed            INTEGER NOT NULL CHECK (streamed IN (0, 1)),
    retries             INTEGER NOT NULL,
    PRIMARY KEY (ts, id)
) STRICT, WITHOUT ROWID;

-- For a key, too: it is asked for together with its tenant. Each further index would cost as much as a third of the row.
CREATE INDEX requests_tenant ON requests (tenant_id, ts, id);

-- Up to where the log is in here. Written in the transaction that brings the rows. Another log begins anew.
CREATE TABLE reached (
    one            INTEGER PRIMARY KEY CHECK (one = 1),
    log_id         BLOB NOT NULL CHECK (length(log_id) = 16),
    segment        INTEGER NOT NULL,
    segment_offset INTEGER NOT NULL
) STRICT;
