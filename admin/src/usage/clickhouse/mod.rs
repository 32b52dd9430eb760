//! The ledger in ClickHouse.
//!
//! It may be absent when the process starts, and go away at any time: everything is tried when it is asked for, and the
//! database and its tables are made when it comes. What it cannot take stays in the log.
//!
//! | file | what |
//! |---|---|
//! | `server.rs` | the connection, with its limits of time |
//! | `schema.rs` | the tables |
//! | `sink.rs` | rows into the table, each exactly once |
//! | `reports.rs` | questions |
//! | `rowbinary.rs` | rows as bytes |
//! | `fault.rs` | how ClickHouse says no |

pub(crate) mod fault;
mod reports;
mod rowbinary;
mod schema;
mod server;
mod sink;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use obleth_ledger::Position;
use uuid::Uuid;

pub use server::ClickHouseSettings;

use super::{
    checkpoint::CheckpointError,
    fault::LedgerFault,
    report::{Page, Report, Reported},
    row::{Entry, Row},
};
use fault::{Class, ClickHouseFault};
use server::Server;
use sink::Sink;

/// Most days that rows are kept for if they end at all. The server's times end in 2106, and rows whose end would be later
/// would be gone at once.
const MOST_DAYS: u32 = 10_000;
/// Longest name of a database.
const MOST_NAME: usize = 64;

/// Why an address is none. The text never repeats the address, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoClickHouse(&'static str);

/// Judges the address of a server: scheme, host, and a port if it is not the scheme's own.
///
/// # Errors
/// What is wrong with it.
pub fn check_clickhouse_url(url: &str) -> Result<(), NoClickHouse> {
    let no = NoClickHouse("is not the address of a ClickHouse; write it like `http://clickhouse:8123`");
    let uri: hyper::Uri = url.parse().map_err(|_| no)?;
    let authority = uri.authority().ok_or(no)?;
    if authority.as_str().contains('@') {
        return Err(NoClickHouse(
            "an address holds no credentials; put them into OBLETH_CLICKHOUSE_USER and OBLETH_CLICKHOUSE_PASSWORD",
        ));
    }
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    let is_plain = uri.query().is_none() && !url.contains('#');
    let port = authority.as_str().rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
    let has_port = port.is_none_or(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0));
    if is_http && is_plain && has_port && !authority.host().is_empty() { Ok(()) } else { Err(no) }
}

/// Judges the name of a database.
///
/// # Errors
/// What is wrong with it.
pub fn check_clickhouse_database(name: &str) -> Result<(), NoClickHouse> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !name.is_empty() && name.len() <= MOST_NAME && name.bytes().all(is_plain) {
        return Ok(());
    }
    Err(NoClickHouse("is no name of a database; write 1 to 64 letters, digits, `_` and `-`"))
}

/// The log that rows come from, as far as the ledger has to know it.
#[derive(Clone, Debug)]
pub(crate) struct Source<'f> {
    /// Its folder; the checkpoint lies there.
    pub(crate) folder: &'f Path,
    /// What tells it from other logs.
    pub(crate) log_id: Uuid,
    /// How far it goes when the process starts.
    pub(crate) durable: Position,
}

/// The way to the server. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct ClickHouse(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    server: Server,
    sink: Sink,
    retention_days: Option<u32>,
    /// Whether the tables have been seen to.
    is_ready: AtomicBool,
}

impl ClickHouse {
    /// Reads the checkpoint; connects to nothing. `retention_days` says after how many days rows end; `None`, or
    /// more than [`MOST_DAYS`]: never.
    ///
    /// # Errors
    /// The checkpoint's.
    pub(crate) fn open(
        settings: &ClickHouseSettings,
        source: Source<'_>,
        retention_days: Option<u32>,
    ) -> Result<Self, CheckpointError> {
        let retention_days = retention_days.filter(|days| *days <= MOST_DAYS);
        let sink = Sink::open(source.folder, source.durable, source.log_id, retention_days)?;
        let (server, is_ready) = (Server::new(settings), AtomicBool::new(false));
        Ok(Self(Arc::new(Inner { server, sink, retention_days, is_ready })))
    }

    /// Up to where the log is in here.
    pub(crate) async fn reached(&self) -> Option<Position> {
        self.0.sink.progress().await.reached
    }

    /// Where the batch ends that was under way when a process died: it should be put with the same bounds again, so that
    /// it has the same token, in case it is still arriving.
    pub(crate) async fn under_way(&self) -> Option<Position> {
        self.0.sink.progress().await.batch
    }

    /// Makes the database and its tables, or looks whether they are ours.
    pub(crate) async fn prepare(&self) -> Result<(), LedgerFault> {
        self.ready().await?;
        Ok(())
    }

    /// Takes the rows between two places of the log; see `sink.rs`. One at a time.
    pub(crate) async fn put(&self, rows: &[Row], from: Position, to: Position) -> Result<(), LedgerFault> {
        let server = self.ready().await?;
        let put = self.0.sink.put(server, rows, (from, to)).await;
        Ok(self.note(put)?)
    }

    /// Sums.
    pub(crate) async fn report(&self, report: &Report) -> Result<Reported, LedgerFault> {
        answered(reports::report(self.ready().await?, report).await)
    }

    /// Rows.
    pub(crate) async fn page(&self, page: &Page) -> Result<Vec<Entry>, LedgerFault> {
        answered(reports::page(self.ready().await?, page).await)
    }

    /// The server with its tables made.
    async fn ready(&self) -> Result<&Server, ClickHouseFault> {
        if !self.0.is_ready.load(Ordering::Acquire) {
            // Two who do it at once do no harm, and nobody waits for another's time-out.
            schema::bring_up(&self.0.server, self.0.retention_days).await?;
            self.0.is_ready.store(true, Ordering::Release);
        }
        Ok(&self.0.server)
    }

    /// A server that refuses may have lost its tables: they are seen to again before the next try.
    fn note(&self, put: Result<(), ClickHouseFault>) -> Result<(), ClickHouseFault> {
        if put.as_ref().is_err_and(|fault| fault.class == Class::Refused) {
            self.0.is_ready.store(false, Ordering::Release);
        }
        put
    }
}

/// A question that takes too long is the caller's to mend, whichever ledger it is.
fn answered<T>(answer: Result<T, LedgerFault>) -> Result<T, LedgerFault> {
    answer.map_err(|fault| match fault {
        LedgerFault::ClickHouse(ClickHouseFault { class: Class::TooSlow, .. }) => LedgerFault::TooSlow,
        fault => fault,
    })
}
