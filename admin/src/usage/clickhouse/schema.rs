//! The schema: numbered, forward only, recorded with checksums, as in the other stores.
//!
//! ClickHouse has no transactions for statements like these. Each can be taken again, so a step that broke off is begun
//! anew, and two gateways that start at once do not disturb each other. Tables that are not ours, or that a newer program
//! made, are never touched.

use sha2::{Digest, Sha256};

use super::{
    fault::{Class, ClickHouseFault},
    rowbinary::{self, Bytes},
    server::Server,
};
use crate::{
    random,
    usage::row::{COLUMNS, Cell, Kind},
};

/// One step of the schema.
struct Migration {
    version: u64,
    name: &'static str,
    sql: &'static str,
}

/// All steps, oldest first. A step that was released is never edited.
const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "usage",
    sql: include_str!("../../../../migrations/clickhouse/0001_usage.sql"),
}];
/// The steps that were taken.
const HISTORY: &str =
    "CREATE TABLE IF NOT EXISTS schema_migrations (version UInt64, name String, checksum String,
    applied_at DateTime64(3, 'UTC')) ENGINE = MergeTree ORDER BY version";

impl Migration {
    fn checksum(&self) -> String {
        random::hex(&Sha256::digest(self.sql.as_bytes()))
    }

    /// The server takes one statement at a time. Each ends with a semicolon at the end of a line.
    fn statements(&self) -> impl Iterator<Item = &'static str> {
        self.sql.split(";\n").map(str::trim).filter(|statement| !statement.is_empty())
    }
}

/// Makes the database and brings the tables up to the newest step; `retention_days` says when rows end.
pub(super) async fn bring_up(server: &Server, retention_days: Option<u32>) -> Result<(), ClickHouseFault> {
    if !exists(server, "SELECT count() > 0 FROM system.databases WHERE name = {database: String}").await? {
        let sql = format!("CREATE DATABASE IF NOT EXISTS `{}`", server.database());
        server.execute_outside(server.query(&sql)).await?;
    }
    let taken = history(server).await?;
    judge(&taken)?;
    for step in MIGRATIONS.iter().filter(|step| taken.iter().all(|(version, _)| *version != step.version)) {
        take(server, step).await?;
    }
    judge_columns(server).await?;
    retain(server, retention_days).await
}

/// Versions and checksums on record. Two gateways may both have written one.
async fn history(server: &Server) -> Result<Vec<(u64, String)>, ClickHouseFault> {
    let there = "SELECT count() > 0 FROM system.tables WHERE database = {database: String} AND name = 'schema_migrations'";
    if !exists(server, there).await? {
        server.execute(server.query(HISTORY)).await?;
    }
    let sql = format!("SELECT version, checksum FROM {}", server.table("schema_migrations"));
    let answer = server.ask(server.query(&sql)).await?;
    let mut bytes = Bytes(&answer);
    let mut taken = Vec::new();
    while !bytes.is_empty() {
        match (bytes.count(), bytes.cell(Kind::Text, false)) {
            (Ok(version), Ok(Some(Cell::Text(checksum)))) => taken.push((version, checksum.into_owned())),
            _ => return Err(other("the table schema_migrations is of another program")),
        }
    }
    Ok(taken)
}

fn judge(taken: &[(u64, String)]) -> Result<(), ClickHouseFault> {
    for (version, checksum) in taken {
        match MIGRATIONS.iter().find(|step| step.version == *version) {
            None => {
                return Err(other(format!(
                    "schema version {version} is newer than this program: run the newer one"
                )));
            }
            Some(step) if step.checksum() != *checksum => {
                return Err(other(format!(
                    "step {version} of the schema is not the one that this program knows"
                )));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

async fn take(server: &Server, step: &Migration) -> Result<(), ClickHouseFault> {
    for statement in step.statements() {
        server.execute(server.query(statement)).await?;
    }
    let record = "INSERT INTO schema_migrations SELECT {version: UInt64}, {name: String}, {checksum: String}, now64(3)";
    let record = server.query(record).param("version", step.version).param("name", step.name);
    server.execute(record.param("checksum", step.checksum())).await
}

/// Rows go out as bytes that name no type: a table with others would take them for something else.
async fn judge_columns(server: &Server) -> Result<(), ClickHouseFault> {
    let sql =
        "SELECT name, replaceRegexpOne(type, '^LowCardinality\\\\((.*)\\\\)$', '\\\\1') FROM system.columns
        WHERE database = {database: String} AND table = 'usage' ORDER BY position";
    let answer = server.ask(server.query(sql).param("database", server.database())).await?;
    let mut bytes = Bytes(&answer);
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let cell = bytes.cell(Kind::Text, false).map_err(|error| other(error.to_string()))?;
        found.extend(
            cell.map(|cell| if let Cell::Text(text) = cell { text.into_owned() } else { String::new() }),
        );
    }
    for column in COLUMNS {
        let mut pairs = found.chunks_exact(2);
        let (name, wanted) = (column.name, rowbinary::type_of(column));
        if !pairs.any(|pair| pair == [name, wanted.as_str()]) {
            return Err(other(format!("the table usage has no column {name} of type {wanted}")));
        }
    }
    Ok(())
}

/// Rows end after so many days, whole parts at a time. Times beyond 2070, of a clock that went astray, are taken for 2070:
/// with the days added they have to stay below what the server can hold.
async fn retain(server: &Server, days: Option<u32>) -> Result<(), ClickHouseFault> {
    let is_set = match days {
        Some(days) => format!("position(engine_full, ' + toIntervalDay({days}) SETTINGS ') > 0"),
        None => "position(engine_full, ' TTL ') = 0".to_owned(),
    };
    let sql = format!(
        "SELECT {is_set} FROM system.tables WHERE database = {{database: String}} AND name = 'usage'"
    );
    if exists(server, &sql).await? {
        return Ok(());
    }
    let day = "toDateTime(least(ts, toDateTime64('2070-01-01 00:00:00', 3, 'UTC')))";
    let change = days
        .map_or_else(|| "REMOVE TTL".to_owned(), |days| format!("MODIFY TTL {day} + toIntervalDay({days})"));
    server.execute(server.query(&format!("ALTER TABLE usage {change}"))).await
}

/// A question about our database whose answer is yes or no.
async fn exists(server: &Server, sql: &str) -> Result<bool, ClickHouseFault> {
    let answer = server.ask(server.query(sql).param("database", server.database())).await?;
    Bytes(&answer).flag().map_err(|error| other(error.to_string()))
}

fn other(words: impl Into<String>) -> ClickHouseFault {
    ClickHouseFault::new(Class::OtherSchema, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_can_be_taken_again() {
        for step in MIGRATIONS {
            for statement in step.statements() {
                let lines = statement.lines().filter(|line| !line.starts_with("--"));
                let text = lines.collect::<Vec<_>>().join(" ");
                assert!(text.contains(" IF NOT EXISTS ") || text.contains(" IF EXISTS "), "{text}");
            }
        }
    }

    #[test]
    fn versions_count_from_one_without_gaps() {
        assert!(MIGRATIONS.iter().zip(1..).all(|(step, version)| step.version == version));
    }

    #[test]
    fn a_newer_and_an_altered_history_are_refused() {
        let ours: Vec<_> = MIGRATIONS.iter().map(|step| (step.version, step.checksum())).collect();
        assert_eq!(judge(&ours), Ok(()));
        let newer = judge(&[(99, "x".to_owned())]).unwrap_err();
        assert!(newer.words.contains("version 99 is newer"), "{}", newer.words);
        assert!(judge(&[(1, "x".to_owned())]).unwrap_err().words.contains("step 1"));
    }
}
