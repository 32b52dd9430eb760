//! The usage log's opening, and its thread: from the slates into the log, and onto the disk.
//!
//! The log is opened before a port is bound: what is wrong with its folder is known before anybody is served, and what an
//! earlier process left is in order before anything new comes. Traffic does not depend on the thread: while it is away, the
//! slates hold what there is to note.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, mpsc::Sender},
    time::Duration,
};

use obleth_ledger::{Checkpoint, LogWriter, OpenError, Opened, Options, Stop};

use crate::{
    config::Config,
    exit::{Exit, Failure},
    restarts::{Kept, Restart},
    threads::{News, spawn},
};

/// Name of a node whose machine has none.
const NAMELESS: &str = "localhost";
/// How long the process waits for the log's disk when it ends. Every record is in memory that outlives it.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Opens the log in its folder.
///
/// # Errors
/// One clear line each; see [`OpenError`].
pub(crate) fn open(
    config: &Config,
    dir: PathBuf,
    shards: usize,
    checkpoint: Option<Checkpoint>,
) -> Result<Opened, Failure> {
    let options = Options {
        dir,
        node: config.node.clone(),
        default_node: machine(),
        streams: shards,
        max_bytes: config.wal_max_bytes,
        sync_every: config.wal_fsync,
        slate_bytes: config.wal_buffer_bytes,
        checkpoint,
    };
    let opened = obleth_ledger::open(options).map_err(refused)?;
    let recovered = opened.recovered;
    if recovered != obleth_ledger::Recovered::default() {
        tracing::info!(
            torn = recovered.torn,
            corrupt = recovered.corrupt,
            drained = recovered.drained,
            lost = recovered.lost,
            "the usage log was left in the middle of something and is in order again; each `lost` request has a row"
        );
    }
    if config.node.is_none() && opened.node != machine() {
        tracing::info!(
            node = opened.node,
            "the usage log says what this node is called; OBLETH_NODE is not set"
        );
    }
    Ok(opened)
}

/// What this node is called in records if neither the configuration nor its log says.
fn machine() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { NAMELESS.to_owned() } else { name }
}

fn refused(error: OpenError) -> Failure {
    let exit = match &error {
        OpenError::Io { source, .. } => Exit::CantCreate.unless(source),
        OpenError::InUse { .. } => Exit::TempFail,
        OpenError::Version { .. } | OpenError::Node { .. } | OpenError::Foreign { .. } => Exit::Config,
        OpenError::Setting(_) => Exit::Usage,
    };
    Failure::new(exit, error.to_string())
}

/// The running log thread. On drop it is stopped, with everything that was noted on the disk, or within [`STOP_WITHIN`].
#[derive(Debug)]
pub(crate) struct LogThread {
    writer: Arc<Mutex<LogWriter>>,
    stop: Stop,
    news: Sender<News>,
    thread: Kept,
}

impl LogThread {
    /// Starts it.
    ///
    /// # Errors
    /// The kernel's, when it refuses a thread.
    pub(crate) fn start(writer: LogWriter, news: Sender<News>) -> io::Result<Self> {
        let stop = writer.stopper();
        let writer = Arc::new(Mutex::new(writer));
        let mut log = Self { writer, stop, news, thread: Kept::default() };
        log.spawn()?;
        Ok(log)
    }
}

impl Restart for LogThread {
    const DEATH: &'static str = "the usage log's thread died and is started again; until then records stay in \
         memory that outlives the process";

    fn kept(&mut self) -> &mut Kept {
        &mut self.thread
    }

    fn spawn(&mut self) -> io::Result<()> {
        let writer = Arc::clone(&self.writer);
        let work = move || {
            // One that died left nothing that the next round does not begin with.
            writer.lock().unwrap_or_else(PoisonError::into_inner).run();
            Ok(())
        };
        self.thread.runs(spawn("obleth-log".to_owned(), self.news.clone(), News::LogEnded, work)?);
        Ok(())
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.stop.stop();
        if !self.thread.ends_within(STOP_WITHIN) {
            tracing::warn!(
                "the usage log's disk hangs and the process ends without it; records are in memory that outlives it"
            );
        }
    }
}
