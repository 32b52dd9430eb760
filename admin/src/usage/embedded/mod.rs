//! The ledger in a SQLite file of its own, behind two threads: one writes, one answers questions.
//!
//! Writing never waits for a question, and no question stops the runtime. Every commit is synced
//! (`synchronous=FULL`): what [`Embedded::put`] has taken survives the machine's power, so the log may release it at
//! once. One sync per batch costs less than keeping books on what the next checkpoint of the file has made safe.
//! Questions that take too long, or that nobody waits for any more, are broken off: a reader that stays holds up the
//! clearing of SQLite's log.
//!
//! | file | what |
//! |---|---|
//! | `block.rs`, `columns.rs`, `names.rs`, `encode.rs` | many requests as bytes, column by column: every byte is explained there |
//! | `bands.rs` | names that mostly come together, looked up once |
//! | `principals.rs` | who may be in a block, for questions to pass it over |
//! | `stored.rs` | blocks in the file |
//! | `write.rs`, `merge.rs` | what goes in, what leaves after its time, and how small blocks become large ones |
//! | `read.rs`, `tally.rs` | lists of rows, and sums |
//! | `convert.rs` | files from before there were blocks |
//!
//! *That nothing is there twice* rests on one thing: the place in the log that the file has reached is written in the
//! transaction that brings the rows up to it, and a batch that ends there or before is not taken again. A log holds no record
//! twice, and its ids fit no other log. Nothing looks for an id that is there already.
//!
//! *The writer stands back*: nobody waits for it as a request waits for its shard, whose processor it may share. It is as
//! nice as can be, and gives way after every few rows, which is some ten microseconds of work. It is not `SCHED_IDLE`: a thread
//! without privileges cannot leave that again (`RLIMIT_NICE`), not even when records pile up in the log because all
//! processors are busy, and its share is then a fifth of what the nicest thread has.

mod bands;
mod block;
mod columns;
mod convert;
mod encode;
mod merge;
mod names;
mod principals;
mod read;
mod stored;
mod tally;
#[cfg(test)]
mod tests;
mod write;

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use obleth_ledger::{Checkpoint, Position};
use obleth_policy::unit::UnixMs;
use rusqlite::Connection;
use rustix::process::setpriority_process;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    QUIET,
    fault::LedgerFault,
    report::{Page, Report, Reported},
    row::{Entry, Row},
};
use crate::store::{
    fault::Fault,
    file::{self, OpenError, blame},
    migrate::Migration,
};

/// All steps of the schema, oldest first. A step that was released is never edited.
const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "requests",
        sql: include_str!("../../../../migrations/sqlite-usage/0001_requests.sql"),
    },
    Migration {
        version: 2,
        name: "blocks",
        sql: include_str!("../../../../migrations/sqlite-usage/0002_blocks.sql"),
    },
];

/// Batches and questions that may wait, each; beyond it the ledger is busy.
const QUEUE: usize = 64;
/// Longest that a question may take. Whoever asks for more has to ask for a shorter range.
const MOST_TIME: Duration = Duration::from_secs(30);
/// Steps of SQLite's machine between two looks at whether a question is still worth it: well below a millisecond.
const STEPS_BETWEEN_LOOKS: i32 = 10_000;
/// Size to which SQLite's log is cut when a long question had kept it growing, in bytes.
const LOG_BYTES: i64 = 64 << 20;

/// How nice the threads are: nobody waits for them as a request waits for its shard, whose processor they may share.
const NICE: i32 = 19;

type Work = Box<dyn FnOnce(&mut Connection) + Send>;

/// An opened file. On drop it is closed.
#[derive(Debug)]
pub(crate) struct EmbeddedFile {
    writer: Connection,
    reader: Connection,
}

impl EmbeddedFile {
    /// Opens or creates the file and migrates it. One that is not ours stays as it is.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let mut writer = file::open(path, MIGRATIONS)?;
        let ready = prepare(&writer).and_then(|()| convert::convert(&mut writer));
        ready.map_err(|error| blame(path, &error))?;
        let reader = file::open_to_read(path)?;
        Ok(Self { writer, reader })
    }

    /// Up to where a log is in the file, and which.
    pub(crate) fn checkpoint(&self) -> Result<Option<Checkpoint>, LedgerFault> {
        write::checkpoint(&self.writer)
    }

    /// Starts the threads, for rows of this log. Join the handles after the last clone of the ledger is dropped. `give_back`
    /// is called on a thread that has become quiet.
    pub(crate) fn start(self, log_id: Uuid, give_back: fn()) -> io::Result<(Embedded, [JoinHandle<()>; 2])> {
        let (writes, to_write) = sync_channel(QUEUE);
        let (questions, to_answer) = sync_channel(QUEUE);
        let Self { writer, reader } = self;
        let threads = [
            Builder::new().name("obleth-usage".into()).spawn(move || {
                let writer = run(writer, &to_write, give_back);
                // The log stays if somebody else reads it just now; nothing is lost either way.
                let _ = writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            })?,
            Builder::new()
                .name("obleth-reports".into())
                .spawn(move || drop(run(reader, &to_answer, give_back)))?,
        ];
        Ok((Embedded { log_id, writes, questions, fails: Arc::default() }, threads))
    }
}

fn prepare(writer: &Connection) -> rusqlite::Result<()> {
    writer.pragma_update(None, "synchronous", "full")?;
    writer.pragma_update(None, "secure_delete", "fast")?;
    writer.pragma_update(None, "journal_size_limit", LOG_BYTES)
}

fn run(mut conn: Connection, queue: &Receiver<Work>, give_back: fn()) -> Connection {
    // Of the calling thread alone, as Linux has it. Refused, it is as urgent as the shards, and they wait for it now and
    // then.
    if let Err(error) = setpriority_process(None, NICE) {
        tracing::debug!(target: "obleth_admin", %error, "the usage ledger's threads are as urgent as others");
    }
    let mut has_worked = false;
    loop {
        let work = match has_worked {
            true => queue.recv_timeout(QUIET),
            false => queue.recv().map_err(RecvTimeoutError::from),
        };
        has_worked = work.is_ok();
        match work {
            Ok(work) => work(&mut conn),
            Err(RecvTimeoutError::Timeout) => {
                // Pages that it has read, of SQLite's own memory. It has no result that says more than that.
                let _ = conn.execute_batch("PRAGMA shrink_memory");
                give_back();
            }
            Err(RecvTimeoutError::Disconnected) => return conn,
        }
    }
}

/// The way to the ledger's threads. Cheap to clone; the threads end when the last clone is gone.
#[derive(Clone)]
pub(crate) struct Embedded {
    log_id: Uuid,
    writes: SyncSender<Work>,
    questions: SyncSender<Work>,
    fails: Arc<AtomicBool>,
}

impl Embedded {
    /// Up to where the log is in here.
    pub(crate) async fn reached(&self) -> Result<Option<Position>, LedgerFault> {
        let log_id = self.log_id;
        self.write(move |conn| write::reached(conn, log_id)).await
    }

    /// Takes rows and the place in the log that they reach up to: both or neither, and both are on the disk when
    /// this returns. What is in already is not taken twice.
    pub(crate) async fn put(&self, rows: impl Into<Arc<Vec<Row>>>, to: Position) -> Result<(), LedgerFault> {
        let rows = rows.into();
        let to = Checkpoint { log_id: self.log_id, position: to };
        self.write(move |conn| write::put(conn, &rows, to)).await
    }

    /// Deletes some of the rows from before this time; returns whether there may be more of them. A step is short,
    /// and other work comes in between. After the last one there is none, but in a block that is damaged.
    pub(crate) async fn expire(&self, before: UnixMs) -> Result<bool, LedgerFault> {
        self.write(move |conn| write::expire(conn, before)).await
    }

    /// Sums.
    pub(crate) async fn report(&self, report: Report) -> Result<Reported, LedgerFault> {
        self.ask(move |conn, patience| read::report(conn, &report, patience)).await
    }

    /// Rows.
    pub(crate) async fn page(&self, page: Page) -> Result<Vec<Entry>, LedgerFault> {
        self.ask(move |conn, patience| read::page(conn, &page, patience)).await
    }

    async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> Result<T, LedgerFault> + Send + 'static,
    ) -> Result<T, LedgerFault> {
        let (answer, answered) = oneshot::channel();
        // A caller that has gone is no fault; the work was done all the same.
        send(&self.writes, Box::new(move |conn| drop(answer.send(job(conn)))))?;
        let out = answered.await.unwrap_or(Err(Fault::Stopped.into()));
        self.note(out.as_ref().err());
        out
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Connection, &Patience) -> Result<T, LedgerFault> + Send + 'static,
    ) -> Result<T, LedgerFault> {
        let (answer, answered) = oneshot::channel();
        let asker = Asker::default();
        let is_gone = Arc::clone(&asker.is_gone);
        let work = move |conn: &mut Connection| {
            let patience = Patience { is_gone, began: Instant::now() };
            if patience.check().is_err() {
                return;
            }
            let handler = patience.clone();
            let give_up = move || handler.check().is_err();
            let out = conn.progress_handler(STEPS_BETWEEN_LOOKS, Some(give_up)).map_err(LedgerFault::from);
            drop(answer.send(out.and_then(|()| question(conn, &patience))));
        };
        send(&self.questions, Box::new(work))?;
        answered.await.unwrap_or(Err(Fault::Stopped.into()))
    }

    /// Logs when writing breaks and when it is well again, once each.
    fn note(&self, fault: Option<&LedgerFault>) {
        match (self.fails.swap(fault.is_some(), Ordering::Relaxed), fault) {
            (false, Some(fault)) => {
                tracing::error!(target: "obleth_admin", "the usage ledger fails: {fault}; records stay in the log");
            }
            (true, None) => tracing::info!(target: "obleth_admin", "the usage ledger works again"),
            _ => {}
        }
    }
}

/// Whoever waits for an answer; says so when it is dropped.
#[derive(Default)]
struct Asker {
    is_gone: Arc<AtomicBool>,
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.is_gone.store(true, Ordering::Relaxed);
    }
}

/// How long a question is worth answering. SQLite looks at it between its steps, and we between blocks.
#[derive(Clone, Debug)]
struct Patience {
    is_gone: Arc<AtomicBool>,
    began: Instant,
}

impl Patience {
    fn check(&self) -> Result<(), LedgerFault> {
        let is_over = self.is_gone.load(Ordering::Relaxed) || self.began.elapsed() > MOST_TIME;
        if is_over { Err(LedgerFault::TooSlow) } else { Ok(()) }
    }
}

fn send(queue: &SyncSender<Work>, work: Work) -> Result<(), LedgerFault> {
    queue.try_send(work).map_err(|refused| match refused {
        TrySendError::Full(_) => Fault::Busy.into(),
        TrySendError::Disconnected(_) => Fault::Stopped.into(),
    })
}
