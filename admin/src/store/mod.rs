//! The store: what must outlive the process, behind two threads of its own.
//!
//! One thread reads and writes, in order; the other only looks keys up, so that a look-up never waits behind
//! a long list. Both take work from bounded queues and answer by oneshot, so the runtime never blocks. SQL is
//! spoken in this folder and nowhere else; rows come and go typed.

pub(crate) mod budget_list;
pub(crate) mod budgets;
pub(crate) mod fault;
pub(crate) mod file;
pub(crate) mod migrate;
pub(crate) mod rows;

mod columns;
mod endpoints;
mod groups;
mod keys;
mod models;
mod prices;
mod secrets;
pub(crate) mod spend;
mod sqlite;
mod tenants;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{Builder, JoinHandle},
};

use obleth_policy::key::{KeyDigest, KeyRecord};
use tokio::sync::oneshot;

pub use file::OpenError;
pub(crate) use secrets::NewSecret;
pub(crate) use sqlite::{Db, KeyLookup};

use fault::{Fault, StoreError};
use rows::Registry;

/// Changes and questions that may wait; beyond it the API answers 503.
const WORK_QUEUE: usize = 256;
/// Look-ups that may wait; beyond it the store counts as down for that key.
const LOOKUP_QUEUE: usize = 8192;

type Work = Box<dyn FnOnce(&mut Db) + Send>;

struct LookupWork {
    digest: KeyDigest,
    answer: oneshot::Sender<Result<Option<KeyRecord>, Fault>>,
}

/// The way to the store's threads. Cheap to clone; the threads end when the last clone is gone.
#[derive(Clone)]
pub(crate) struct Store {
    work: SyncSender<Work>,
    lookups: SyncSender<LookupWork>,
    work_fails: Arc<AtomicBool>,
    lookups_fail: Arc<AtomicBool>,
}

impl Db {
    /// Everything that a snapshot is built from, as of now.
    pub(crate) fn registry(&mut self) -> Result<Registry, StoreError> {
        self.reads += 1;
        Ok(Registry {
            sequence: self.reads,
            groups: groups::all(&self.conn)?,
            tenants: tenants::all(&self.conn)?,
            models: models::all(&self.conn, &self.vault)?,
        })
    }
}

impl Store {
    /// Starts the threads. Join the handles after the last clone of the store is dropped.
    pub(crate) fn start(db: Db, keys: KeyLookup) -> io::Result<(Self, [JoinHandle<()>; 2])> {
        let (work, taken) = sync_channel(WORK_QUEUE);
        let (lookups, asked) = sync_channel(LOOKUP_QUEUE);
        let threads = [
            Builder::new().name("obleth-store".into()).spawn(move || run_work(db, &taken))?,
            Builder::new().name("obleth-keys".into()).spawn(move || run_lookups(keys, &asked))?,
        ];
        Ok((Self { work, lookups, work_fails: Arc::default(), lookups_fail: Arc::default() }, threads))
    }

    /// Runs `job` on the store's thread.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Db) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        // Nobody listens any more when the caller has gone; the job was done all the same.
        let work: Work = Box::new(move |db| drop(answer.send(job(db))));
        let sent = self.work.try_send(work).map_err(|refused| match refused {
            TrySendError::Full(_) => Fault::Busy,
            TrySendError::Disconnected(_) => Fault::Stopped,
        });
        let out = match sent {
            Ok(()) => answered.await.unwrap_or(Err(Fault::Stopped.into())),
            Err(fault) => Err(fault.into()),
        };
        let fault = if let Err(StoreError::Fault(fault)) = &out { Some(*fault) } else { None };
        note(&self.work_fails, "the store", fault);
        out
    }

    /// The key that a secret with this digest reaches, also a deleted one.
    pub(crate) async fn look_up(&self, digest: KeyDigest) -> Result<Option<KeyRecord>, Fault> {
        let (answer, answered) = oneshot::channel();
        let sent = self.lookups.try_send(LookupWork { digest, answer }).map_err(|refused| match refused {
            TrySendError::Full(_) => Fault::Busy,
            TrySendError::Disconnected(_) => Fault::Stopped,
        });
        let out = match sent {
            Ok(()) => answered.await.unwrap_or(Err(Fault::Stopped)),
            Err(fault) => Err(fault),
        };
        note(&self.lookups_fail, "looking keys up", out.as_ref().err().copied());
        out
    }
}

/// Logs when something breaks and when it is well again, once each.
fn note(fails: &AtomicBool, what: &str, fault: Option<Fault>) {
    match (fails.swap(fault.is_some(), Ordering::Relaxed), fault) {
        (false, Some(fault)) => tracing::error!(target: "obleth_admin", "{what} fails: {fault}"),
        (true, None) => tracing::info!(target: "obleth_admin", "{what} works again"),
        _ => {}
    }
}

fn run_work(mut db: Db, queue: &Receiver<Work>) {
    while let Ok(work) = queue.recv() {
        work(&mut db);
    }
    db.settle();
}

fn run_lookups(mut keys: KeyLookup, queue: &Receiver<LookupWork>) {
    while let Ok(LookupWork { digest, answer }) = queue.recv() {
        // A caller that has gone is no fault.
        drop(answer.send(keys.find(digest)));
    }
}
