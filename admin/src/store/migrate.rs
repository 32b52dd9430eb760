//! The schema: numbered, forward only, each step in a transaction of its own and recorded with a checksum.
//!
//! A store that is newer than this program, or whose recorded steps differ from ours, is never touched.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use sha2::{Digest, Sha256};

use crate::{clock, random};

/// One step of the schema.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Migration {
    /// From 1, without gaps.
    pub(crate) version: u32,
    /// For people.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) sql: &'static str,
}

/// All steps, oldest first. A step that was released is never edited.
pub(crate) const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "registry",
        sql: include_str!("../../../migrations/sqlite/0001_registry.sql"),
    },
    Migration {
        version: 2,
        name: "key_secrets",
        sql: include_str!("../../../migrations/sqlite/0002_key_secrets.sql"),
    },
    Migration { version: 3, name: "shares", sql: include_str!("../../../migrations/sqlite/0003_shares.sql") },
    Migration {
        version: 4,
        name: "accounting",
        sql: include_str!("../../../migrations/sqlite/0004_accounting.sql"),
    },
    Migration { version: 5, name: "limits", sql: include_str!("../../../migrations/sqlite/0005_limits.sql") },
    Migration { version: 6, name: "spend", sql: include_str!("../../../migrations/sqlite/0006_spend.sql") },
];

/// Why a store was not migrated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MigrateError {
    #[error("version {found} is newer than {known}, the newest that this program knows")]
    Newer { found: u32, known: u32 },
    #[error("step {0} is not the one that this program knows")]
    Altered(u32),
    #[error("it holds tables of another program")]
    Foreign,
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

impl Migration {
    fn checksum(&self) -> String {
        random::hex(&Sha256::digest(self.sql.as_bytes()))
    }
}

/// Whether a store is ours, without touching it. Returns whether it has a history already; an empty one has none.
pub(crate) fn judge(conn: &Connection, migrations: &[Migration]) -> Result<bool, MigrateError> {
    let exists = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, bool>(0));
    if !exists("SELECT EXISTS (SELECT 1 FROM sqlite_schema)")? {
        return Ok(false);
    }
    // Other programs have a table of this name too.
    let has_history = "SELECT count(*) = 4 FROM pragma_table_info('schema_migrations')
        WHERE name IN ('version', 'name', 'checksum', 'applied_at')";
    if !exists(has_history)? {
        return Err(MigrateError::Foreign);
    }
    let known = migrations.last().map_or(0, |last| last.version);
    let newest = "SELECT coalesce(max(version), 0) FROM schema_migrations";
    let found: u32 = conn.query_row(newest, [], |row| row.get(0))?;
    if found > known {
        return Err(MigrateError::Newer { found, known });
    }
    for step in migrations {
        if recorded(conn, step)?.is_some_and(|checksum| checksum != step.checksum()) {
            return Err(MigrateError::Altered(step.version));
        }
    }
    Ok(true)
}

/// The checksum of the step that the store was brought up with.
fn recorded(conn: &Connection, step: &Migration) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT checksum FROM schema_migrations WHERE version = ?1";
    conn.query_row(sql, [step.version], |row| row.get(0)).optional()
}

/// Brings the schema up to the newest of `migrations`. Returns how many steps it took.
pub(crate) fn migrate(conn: &mut Connection, migrations: &[Migration]) -> Result<usize, MigrateError> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if !judge(&tx, migrations)? {
        tx.execute_batch(
            "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL,
             checksum TEXT NOT NULL, applied_at INTEGER NOT NULL) STRICT",
        )?;
    }
    tx.commit()?;
    let mut taken = 0;
    for step in migrations {
        taken += usize::from(apply(conn, step)?);
    }
    Ok(taken)
}

fn apply(conn: &mut Connection, step: &Migration) -> Result<bool, MigrateError> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if recorded(&tx, step)?.is_some() {
        return Ok(false);
    }
    tx.execute_batch(step.sql)?;
    tx.execute(
        "INSERT INTO schema_migrations (version, name, checksum, applied_at) VALUES (?1, ?2, ?3, ?4)",
        params![step.version, step.name, step.checksum(), clock::now().0],
    )?;
    tx.commit()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Migration = Migration { version: 1, name: "one", sql: "CREATE TABLE a (x INTEGER)" };
    const SECOND: Migration =
        Migration { version: 2, name: "two", sql: "ALTER TABLE a ADD COLUMN y INTEGER" };

    fn memory() -> Connection {
        Connection::open_in_memory().unwrap()
    }

    #[test]
    fn every_step_is_taken_once_and_in_order() {
        let mut conn = memory();
        assert_eq!(migrate(&mut conn, &[FIRST]).unwrap(), 1);
        assert_eq!(migrate(&mut conn, &[FIRST]).unwrap(), 0);
        assert_eq!(migrate(&mut conn, &[FIRST, SECOND]).unwrap(), 1);
        conn.execute("INSERT INTO a (x, y) VALUES (1, 2)", []).unwrap();
        assert_eq!(migrate(&mut memory(), MIGRATIONS).unwrap(), MIGRATIONS.len());
    }

    #[test]
    fn a_newer_an_altered_and_a_foreign_store_are_not_touched() {
        let mut conn = memory();
        migrate(&mut conn, &[FIRST, SECOND]).unwrap();
        assert!(matches!(migrate(&mut conn, &[FIRST]), Err(MigrateError::Newer { found: 2, known: 1 })));
        let altered = Migration { sql: "CREATE TABLE a (z INTEGER)", ..FIRST };
        assert!(matches!(migrate(&mut conn, &[altered, SECOND]), Err(MigrateError::Altered(1))));
        let mut foreign = memory();
        foreign.execute_batch("CREATE TABLE theirs (x INTEGER)").unwrap();
        assert!(matches!(migrate(&mut foreign, MIGRATIONS), Err(MigrateError::Foreign)));
        let mut namesake = memory();
        namesake.execute_batch("CREATE TABLE schema_migrations (version TEXT PRIMARY KEY)").unwrap();
        assert!(matches!(migrate(&mut namesake, MIGRATIONS), Err(MigrateError::Foreign)));
    }

    #[test]
    fn a_step_that_fails_leaves_nothing_behind() {
        let mut conn = memory();
        let broken = Migration { version: 2, name: "broken", sql: "CREATE TABLE b (x INTEGER); NONSENSE" };
        assert!(migrate(&mut conn, &[FIRST, broken]).is_err());
        let left: i64 =
            conn.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'b'", [], |r| r.get(0)).unwrap();
        assert_eq!(left, 0);
        assert_eq!(migrate(&mut conn, &[FIRST, SECOND]).unwrap(), 1);
    }
}
