-- Requests in blocks of many, column by column: how a body is made is told in admin/src/usage/embedded/block.rs. Times
-- are unix milliseconds. Rows of step 1 are moved over when the file is opened, some thousands at a time, and
-- `requests` is dropped after the last.

CREATE TABLE blocks (
    block  INTEGER PRIMARY KEY,
    -- How full it is; below 4 it is merged with others as full as it.
    level  INTEGER NOT NULL,
    min_ts INTEGER NOT NULL,
    max_ts INTEGER NOT NULL CHECK (max_ts >= min_ts),
    rows   INTEGER NOT NULL CHECK (rows > 0),
    -- Tenants and keys that may be in it; see principals.rs there.
    who    BLOB NOT NULL,
    body   BLOB NOT NULL
) STRICT;

CREATE INDEX blocks_end ON blocks (max_ts, min_ts);
CREATE INDEX blocks_begin ON blocks (min_ts, max_ts);
CREATE INDEX blocks_small ON blocks (level) WHERE level < 4;

-- It costs more to keep than the rows that are moved are worth.
DROP INDEX requests_tenant;
