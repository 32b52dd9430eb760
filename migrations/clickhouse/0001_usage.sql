-- The usage ledger: one row per request that a key of ours made. Times are UTC; what is not known is null. ClickHouse has
-- no transactions for statements like these, so each can be taken again: a step that broke off is begun anew.
--
-- By day, because rows end by day. Within an hour by tenant and key, because reports ask for a span of time and often for
-- one of those; lists, newest first, read an hour at a time.
--
-- The shipper gives every batch a deduplication token. The table has to remember the tokens, or they do nothing: the
-- first window counts on a table of one server, the other two where the server makes a replicated one of it. What was
-- inserted is on the disk before the answer leaves, because the log forgets it then. There are no views over this table,
-- so there is nothing that could count a batch twice or miss one.
CREATE TABLE IF NOT EXISTS usage (
    id UUID,
    ts DateTime64(3, 'UTC') CODEC(Delta, ZSTD),
    request_id String CODEC(ZSTD),
    session_id Nullable(String) CODEC(ZSTD),
    node LowCardinality(String),
    tenant_id UUID CODEC(ZSTD),
    key_id UUID CODEC(ZSTD),
    group_id Nullable(UUID) CODEC(ZSTD),
    group_name LowCardinality(Nullable(String)),
    model_id Nullable(UUID) CODEC(ZSTD),
    model LowCardinality(Nullable(String)),
    endpoint LowCardinality(String),
    upstream_id Nullable(UUID) CODEC(ZSTD),
    status UInt64 CODEC(T64, ZSTD),
    outcome LowCardinality(String),
    code LowCardinality(Nullable(String)),
    admission LowCardinality(String),
    queue_ms UInt64 CODEC(T64, ZSTD),
    ttft_ms Nullable(UInt64) CODEC(T64, ZSTD),
    total_ms UInt64 CODEC(T64, ZSTD),
    overhead_us Nullable(UInt64) CODEC(T64, ZSTD),
    input_tokens UInt64 CODEC(T64, ZSTD),
    cached_input_tokens UInt64 CODEC(T64, ZSTD),
    output_tokens UInt64 CODEC(T64, ZSTD),
    usage_source LowCardinality(Nullable(String)),
    cost_micro_usd Nullable(UInt64) CODEC(T64, ZSTD),
    price_version Nullable(UInt64) CODEC(T64, ZSTD),
    streamed Bool,
    retries UInt64 CODEC(T64, ZSTD)
) ENGINE = MergeTree
PARTITION BY toYYYYMMDD(ts)
ORDER BY (toStartOfHour(ts), tenant_id, key_id, ts, id)
SETTINGS
    non_replicated_deduplication_window = 10000,
    replicated_deduplication_window = 10000,
    replicated_deduplication_window_seconds = 604800,
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    ttl_only_drop_parts = 1,
    materialize_ttl_recalculate_only = 1;
