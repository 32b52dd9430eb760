-- Rotation with grace, and from where keys may be used.

-- Secrets that were rotated away and still work: until ends_at they reach their key as its own digest does.
CREATE TABLE key_secrets (
    digest  BLOB PRIMARY KEY CHECK (length(digest) = 32),
    key_id  TEXT NOT NULL REFERENCES api_keys (id),
    ends_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX key_secrets_key ON key_secrets (key_id, ends_at);
CREATE INDEX key_secrets_end ON key_secrets (ends_at);

-- JSON lists of addresses and ranges; null = everywhere, [] = nowhere.
ALTER TABLE api_keys ADD COLUMN allowed_ips TEXT;
ALTER TABLE tenants ADD COLUMN allowed_ips TEXT;
