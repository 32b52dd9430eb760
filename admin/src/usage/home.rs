//! Which ledger this gateway has, from its opening to the tasks that serve it.
//!
//! A file of our own, or a ClickHouse. What is wrong with a file is known before a port is bound; a server may come later.
//! A sidecar that comes back after a fault goes on without a ledger that cannot be opened, and tries again: look-ups of keys
//! must not end because of the file of the reports. Nothing is shipped meanwhile, so nothing of the log is let go.

use std::{
    io,
    sync::{Arc, OnceLock},
    thread::JoinHandle,
    time::Duration,
};

use obleth_ledger::{Checkpoint, Tail};
use tokio::{task::spawn_blocking, time::sleep};

use super::{
    Ledger,
    checkpoint::read_checkpoint,
    clickhouse::{ClickHouse, ClickHouseSettings, Source},
    embedded::EmbeddedFile,
    retention,
};
use crate::{OpenError, UsageSettings};

/// Pause between two tries to open a ledger after all.
const AGAIN: Duration = Duration::from_secs(5);

/// An opened ledger, for rows of whatever log comes.
#[derive(Debug)]
pub(crate) enum Home {
    Embedded(EmbeddedFile),
    /// With the file of an earlier time, whose rows end after their time like all others.
    ClickHouse(ClickHouseSettings, Option<EmbeddedFile>),
    /// It cannot be opened now.
    Closed,
}

impl Home {
    /// Opens it, and says how far which log has come into it.
    pub(crate) fn open(settings: &UsageSettings) -> Result<(Self, Option<Checkpoint>), OpenError> {
        if let Some(server) = &settings.clickhouse {
            let home = Self::ClickHouse(server.clone(), left_file(settings));
            return Ok((home, read_checkpoint(&settings.log)?));
        }
        let file = EmbeddedFile::open(&settings.database)?;
        let checkpoint =
            file.checkpoint().map_err(|_| OpenError::Damaged { path: settings.database.clone() })?;
        Ok((Self::Embedded(file), checkpoint))
    }

    /// As [`Home::open`], for a sidecar that comes back: what is wrong is said, and mended later if it can be.
    pub(crate) fn reopen(settings: &UsageSettings) -> Self {
        Self::open(settings).map_or_else(
            |error| {
                tracing::error!(target: "obleth_admin",
                    "{error}; the sidecar goes on without a usage ledger: reports are refused, and records wait in the log");
                Self::Closed
            },
            |(home, _)| home,
        )
    }

    /// Starts what serves it, for rows of this log. Join the handles after the last clone of the ledger is dropped.
    ///
    /// # Errors
    /// The kernel's, when it refuses a thread, and the checkpoint's.
    pub(crate) fn start(
        self,
        settings: &UsageSettings,
        tail: &Tail,
    ) -> io::Result<(Ledger, Vec<JoinHandle<()>>)> {
        match self {
            Self::ClickHouse(server, left) => {
                let source = Source { folder: &settings.log, log_id: tail.log_id(), durable: tail.durable() };
                let days = Some(settings.retention_days).filter(|days| *days > 0);
                let ledger = ClickHouse::open(&server, source, days).map_err(io::Error::other)?;
                let threads = match left {
                    Some(file) => {
                        let (left, threads) = file.start(tail.log_id(), settings.give_back)?;
                        tokio::spawn(retention::keep(left, settings.retention_days));
                        threads.into()
                    }
                    None => Vec::new(),
                };
                Ok((Ledger::ClickHouse(ledger), threads))
            }
            Self::Embedded(file) => {
                let (ledger, threads) = file.start(tail.log_id(), settings.give_back)?;
                tokio::spawn(retention::keep(ledger.clone(), settings.retention_days));
                Ok((Ledger::Embedded(ledger), threads.into()))
            }
            Self::Closed => {
                let opened = Arc::default();
                tokio::spawn(open_later(settings.clone(), tail.clone(), Arc::clone(&opened)));
                Ok((Ledger::Late(opened), Vec::new()))
            }
        }
    }
}

/// The file of a gateway that had no ClickHouse once, if rows of it are ever to end. It is no ledger any more: what is wrong
/// with it keeps nobody from anything.
fn left_file(settings: &UsageSettings) -> Option<EmbeddedFile> {
    if settings.retention_days == 0 || !settings.database.exists() {
        return None;
    }
    let file = EmbeddedFile::open(&settings.database);
    file.map_err(|error| {
        tracing::warn!(target: "obleth_admin", "{error}; its usage records, from before ClickHouse, stay there");
    })
    .ok()
}

/// Tries until the ledger is open. Nobody waits for its threads in the end: what they have taken is on the disk.
async fn open_later(settings: UsageSettings, tail: Tail, opened: Arc<OnceLock<Ledger>>) {
    loop {
        sleep(AGAIN).await;
        let again = settings.clone();
        // Off the runtime's thread, because it waits for the disk.
        let home = spawn_blocking(move || Home::open(&again)).await;
        let Ok(Ok((home, _))) = home else { continue };
        if let Ok((ledger, _)) = home.start(&settings, &tail) {
            // It is set here and nowhere else.
            let _ = opened.set(ledger);
            return tracing::info!(target: "obleth_admin", "the usage ledger is open after all");
        }
    }
}
