-- What budgets have used, as the usage log tells it.

-- One row per budget and period: the one under way, and the next. `since` is the period's first moment, `spent` is in the
-- budget's unit. `is_whole`: all of the period is in it; else it is what was seen. `told` is the highest threshold that
-- somebody was told of, in per cent; `is_refusal_told`: so was that it has refused a request.
CREATE TABLE spend (
    scope    TEXT NOT NULL CHECK (scope IN ('key', 'tenant', 'group')),
    scope_id TEXT NOT NULL,
    period   TEXT NOT NULL CHECK (period IN ('daily', 'monthly', 'lifetime')),
    unit     TEXT NOT NULL CHECK (unit IN ('tokens', 'micro_usd')),
    since    INTEGER NOT NULL,
    spent    INTEGER NOT NULL CHECK (spent >= 0),
    is_whole INTEGER NOT NULL CHECK (is_whole IN (0, 1)),
    told     INTEGER NOT NULL CHECK (told BETWEEN 0 AND 100),
    is_refusal_told INTEGER NOT NULL CHECK (is_refusal_told IN (0, 1)),
    PRIMARY KEY (scope, scope_id, period, unit, since)
) STRICT, WITHOUT ROWID;

-- The place of the usage log up to which records are in `spend`: written with it, in one transaction. `newest` is the time
-- of the newest record before it, null while nobody knows.
CREATE TABLE spend_place (
    one            INTEGER PRIMARY KEY CHECK (one = 1),
    log_id         BLOB NOT NULL CHECK (length(log_id) = 16),
    segment        INTEGER NOT NULL,
    segment_offset INTEGER NOT NULL,
    newest         INTEGER
) STRICT;
