//! Rows into the table, each exactly once, whatever breaks in between.
//!
//! A batch that was never sent is simply inserted, under a deduplication token made of its place in the log. Once it
//! may have left, its fate is not known: the answer may have been lost, a late insert may still be running, and a server
//! that died may remember the token though the rows are gone, because it notes a token before the rows that belong to it.
//! So nothing that was sent before is sent again without looking:
//!
//! 1. Which of the rows are in, by their ids? What is in is done.
//! 2. The others are inserted under the *same* token. If the first insert ends only now, the server drops one of the two.
//! 3. Which are still missing? Their token is remembered without them; they are inserted under the next token.
//!
//! The checkpoint says which batches may have left, so this holds over a restart, too. A server is one server: behind an
//! address that leads to replicas which lag, step 3 would see rows missing that are only late.

use std::{path::Path, sync::Arc};

use obleth_ledger::Position;
use obleth_policy::unit::UnixMs;
use tokio::{sync::Mutex, task::spawn_blocking};
use uuid::Uuid;

use super::{
    fault::{Class, ClickHouseFault},
    rowbinary::{self, Bytes},
    server::Server,
};
use crate::usage::{
    checkpoint::{CheckpointError, CheckpointFile, Progress},
    row::Row,
};

/// Ids that one question names. The text of a question is at most [`MOST_SQL`] bytes.
const IDS_PER_QUESTION: usize = 5000;
/// Room for [`IDS_PER_QUESTION`] of 39 bytes, and the rest.
const MOST_SQL: &str = "262144";
/// Tokens that one batch may use up. Each but the first stands for a server that died at one exact moment.
const TOKENS: usize = 4;
/// One day in milliseconds.
const DAY_MS: i64 = 86_400_000;

/// See the module's text. One per table and gateway.
#[derive(Debug)]
pub(super) struct Sink {
    log_id: Uuid,
    retention_days: Option<u32>,
    checkpoint: Arc<Mutex<CheckpointFile>>,
}

impl Sink {
    /// `folder` is the log's, `durable` how far the log goes now, `log_id` what tells it from other logs.
    pub(super) fn open(
        folder: &Path,
        durable: Position,
        log_id: Uuid,
        retention_days: Option<u32>,
    ) -> Result<Self, CheckpointError> {
        let checkpoint = Arc::new(Mutex::new(CheckpointFile::open(folder, log_id, durable)?));
        Ok(Self { log_id, retention_days, checkpoint })
    }

    /// What the checkpoint says.
    pub(super) async fn progress(&self) -> Progress {
        self.checkpoint.lock().await.progress()
    }

    /// Takes the rows between two places of the log; see the module's text. The caller does one at a time.
    pub(super) async fn put(
        &self,
        server: &Server,
        rows: &[Row],
        (from, to): (Position, Position),
    ) -> Result<(), ClickHouseFault> {
        let before = self.progress().await;
        let is_new = before.sent.max(before.reached) <= Some(from);
        let token = format!("{}:{from}-{to}", self.log_id);
        let all: Vec<&Row> = rows.iter().collect();
        if !rows.is_empty() {
            self.save(Progress { batch: Some(to), sent: before.sent.max(Some(to)), ..before }).await?;
        }
        if is_new {
            insert(server, &all, &token).await?;
        } else {
            self.make_up(server, all, &token).await?;
        }
        let reached = before.reached.max(Some(to));
        // What was sent beyond this place is still open.
        let sent = before.sent.filter(|sent| Some(*sent) > reached);
        self.save(Progress { reached, batch: None, sent }).await
    }

    async fn make_up(&self, server: &Server, rows: Vec<&Row>, token: &str) -> Result<(), ClickHouseFault> {
        let mut missing = missing(server, rows).await?;
        for again in 0..TOKENS {
            if missing.is_empty() {
                return Ok(());
            }
            let token = if again == 0 { token.to_owned() } else { format!("{token}#{again}") };
            insert(server, &missing, &token).await?;
            missing = self.not_expired(server, self::missing(server, missing).await?).await?;
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(ClickHouseFault::new(
            Class::Refused,
            format!("{} rows were taken and are not there", missing.len()),
        ))
    }

    /// Without the rows that the server deletes because of their age, which are missing for good. Its clock counts.
    async fn not_expired<'r>(
        &self,
        server: &Server,
        rows: Vec<&'r Row>,
    ) -> Result<Vec<&'r Row>, ClickHouseFault> {
        let Some(days) = self.retention_days.filter(|_| !rows.is_empty()) else { return Ok(rows) };
        let answer = server.ask(server.query("SELECT now64(3, 'UTC')")).await?;
        let now =
            Bytes(&answer).time().map_err(|error| ClickHouseFault::new(Class::Refused, error.to_string()))?;
        let horizon = UnixMs(now.0.saturating_sub(i64::from(days) * DAY_MS));
        Ok(rows.into_iter().filter(|row| row.record.ts > horizon).collect())
    }

    /// Off the runtime's thread, because it waits for the disk.
    async fn save(&self, progress: Progress) -> Result<(), ClickHouseFault> {
        let checkpoint = Arc::clone(&self.checkpoint);
        let saved = spawn_blocking(move || checkpoint.blocking_lock().save(progress)).await;
        let no = |words: String| ClickHouseFault::new(Class::NoCheckpoint, words);
        saved.map_err(|error| no(error.to_string()))?.map_err(|error| no(error.to_string()))
    }
}

async fn insert(server: &Server, rows: &[&Row], token: &str) -> Result<(), ClickHouseFault> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut bytes = Vec::new();
    rows.iter().for_each(|row| rowbinary::encode(row, &mut bytes));
    let sql = format!("INSERT INTO {} ({}) FORMAT RowBinary", server.table("usage"), rowbinary::columns());
    server.insert(&sql, bytes, token).await
}

/// Those of the rows that are not in the table.
async fn missing<'r>(server: &Server, rows: Vec<&'r Row>) -> Result<Vec<&'r Row>, ClickHouseFault> {
    let mut missing = Vec::new();
    for rows in rows.chunks(IDS_PER_QUESTION) {
        let mut present = present(server, rows).await?;
        present.sort_unstable();
        missing.extend(rows.iter().filter(|row| present.binary_search(&row.record.id).is_err()));
    }
    Ok(missing)
}

async fn present(server: &Server, rows: &[&Row]) -> Result<Vec<Uuid>, ClickHouseFault> {
    let times = || rows.iter().map(|row| rowbinary::kept_time(row.record.ts));
    let (Some(first), Some(last)) = (times().min(), times().max()) else { return Ok(Vec::new()) };
    let ids: Vec<_> = rows.iter().map(|row| format!("'{}'", row.record.id)).collect();
    let sql = format!(
        "SELECT DISTINCT id FROM {} WHERE ts BETWEEN fromUnixTimestamp64Milli(toInt64({first}), 'UTC')
         AND fromUnixTimestamp64Milli(toInt64({last}), 'UTC') AND id IN ({})",
        server.table("usage"),
        ids.join(",")
    );
    let query = server.query(&sql).with_setting("max_query_size", MOST_SQL);
    let answer = server.ask(query.with_setting("select_sequential_consistency", "1")).await?;
    let mut bytes = Bytes(&answer);
    let mut present = Vec::new();
    while !bytes.is_empty() {
        present.push(bytes.id().map_err(|error| ClickHouseFault::new(Class::Refused, error.to_string()))?);
    }
    Ok(present)
}
