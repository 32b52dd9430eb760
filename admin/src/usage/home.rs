//! Which ledger this gateway has, from its opening to the tasks that serve it.
//!
//! A file of our own, or a ClickHouse. What is wrong with a file is known before a port is bound; a server may come later.

use std::{io, thread::JoinHandle};

use obleth_ledger::{Checkpoint, Tail};

use super::{
    Ledger,
    checkpoint::read_checkpoint,
    clickhouse::{ClickHouse, ClickHouseSettings, Source},
    embedded::EmbeddedFile,
    retention,
};
use crate::{OpenError, UsageSettings};

/// An opened ledger, for rows of whatever log comes.
#[derive(Debug)]
pub(crate) enum Home {
    Embedded(EmbeddedFile),
    ClickHouse(ClickHouseSettings),
}

impl Home {
    /// Opens it, and says how far which log has come into it.
    pub(crate) fn open(settings: &UsageSettings) -> Result<(Self, Option<Checkpoint>), OpenError> {
        if let Some(server) = &settings.clickhouse {
            return Ok((Self::ClickHouse(server.clone()), read_checkpoint(&settings.log)?));
        }
        let file = EmbeddedFile::open(&settings.database)?;
        let checkpoint =
            file.checkpoint().map_err(|_| OpenError::Damaged { path: settings.database.clone() })?;
        Ok((Self::Embedded(file), checkpoint))
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
            Self::ClickHouse(server) => {
                let source = Source { folder: &settings.log, log_id: tail.log_id(), durable: tail.durable() };
                let days = Some(settings.retention_days).filter(|days| *days > 0);
                let ledger = ClickHouse::open(&server, source, days).map_err(io::Error::other)?;
                Ok((Ledger::ClickHouse(ledger), Vec::new()))
            }
            Self::Embedded(file) => {
                let (ledger, threads) = file.start(tail.log_id())?;
                tokio::spawn(retention::keep(ledger.clone(), settings.retention_days));
                Ok((Ledger::Embedded(ledger), threads.into()))
            }
        }
    }
}
