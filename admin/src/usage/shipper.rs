//! From the log into the ledger: reads what is durable, makes rows of it, puts them in batches, and lets the log go.
//!
//! Nothing is held here that the log does not hold too, so it may end at any moment. While the ledger takes nothing, the
//! batch at hand waits with it, and everything else waits in the log. It sleeps while there is nothing to ship. It must
//! never release a place before the ledger has it for good, and never slow a request down.

mod namer;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use obleth_ledger::{Batch, Position, Tail};
use obleth_policy::{
    id::{GroupId, ModelId},
    unit::UnixMs,
};
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until, timeout},
};

use namer::Namer;

use super::{Ledger, QUIET, fault::LedgerFault, row::Row};
use crate::{bell::AsyncBell, budget::keeper::Keeper, stop::StopSignal};

/// How long a batch that is not full waits for more.
const MOST_AGE: Duration = Duration::from_secs(1);
/// First and longest pause between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// How long what is left may take when the process ends.
const LAST_TIME: Duration = Duration::from_secs(1);
/// How often it is said again that a ledger takes nothing.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// No record waits.
const NONE: i64 = i64::MIN;

/// What models and groups are called now, or were when somebody last knew.
pub(crate) trait Names: Send + Sync + 'static {
    /// Returns once anything is known.
    fn known(&self) -> impl Future<Output = ()> + Send;
    fn model(&self, id: ModelId) -> Option<Arc<str>>;
    fn group(&self, id: GroupId) -> Option<Arc<str>>;
}

/// Figures of the shipping, for the metrics. Clones of the `Arc` share them.
#[derive(Debug)]
pub(crate) struct Shipping {
    shipped: AtomicU64,
    failures: AtomicU64,
    oldest: AtomicI64,
}

impl Default for Shipping {
    fn default() -> Self {
        Self { shipped: AtomicU64::new(0), failures: AtomicU64::new(0), oldest: AtomicI64::new(NONE) }
    }
}

impl Shipping {
    /// Records that the ledger has taken since the process began.
    pub(crate) fn shipped(&self) -> u64 {
        self.shipped.load(Ordering::Relaxed)
    }

    /// Tries that failed.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// How long the oldest record that was read has been waiting; zero if none waits.
    pub(crate) fn lag(&self, now: UnixMs) -> Duration {
        match self.oldest.load(Ordering::Relaxed) {
            NONE => Duration::ZERO,
            oldest => Duration::from_millis(u64::try_from(now.0.saturating_sub(oldest)).unwrap_or(0)),
        }
    }
}

/// See the module's text. One per log.
pub(crate) struct Shipper<N> {
    pub(crate) tail: Tail,
    pub(crate) ledger: Ledger,
    pub(crate) names: Arc<N>,
    pub(crate) shipping: Arc<Shipping>,
    /// Counts what was used, and lets the log go.
    pub(crate) keeper: Arc<Keeper>,
    /// Called on the runtime's thread when it has become quiet.
    pub(crate) give_back: fn(),
}

impl<N: Names> Shipper<N> {
    /// Ships until `stop` is triggered, and then what is left, if the ledger takes it at once: else it is in the log at
    /// the next start.
    ///
    /// # Errors
    /// The runtime cannot wait for the doorbell.
    pub(crate) async fn run(self, stop: StopSignal) -> io::Result<()> {
        tokio::select! {
            ended = self.work() => return ended,
            () = stop.wait() => {}
        }
        let rest = async {
            let rest = self.rest().await;
            self.keeper.flush().await;
            rest
        };
        let rest = timeout(LAST_TIME, rest).await.unwrap_or(Some(self.tail.figures().records));
        if let Some(records) = rest.filter(|records| *records > 0) {
            tracing::info!(target: "obleth_telemetry", records, "records stay in the usage log until the next start");
        }
        Ok(())
    }

    /// Ships for as long as it is let.
    async fn work(&self) -> io::Result<()> {
        let bell = AsyncBell::of(self.tail.bell())?;
        let mut trouble = Trouble::default();
        self.names.known().await;
        if let Err(fault) = self.ledger.prepare().await {
            trouble.not_ready(&fault);
        }
        let (mut at, mut under_way) = loop {
            match self.place().await {
                Ok(place) => break place,
                // It has said so itself.
                Err(_) => sleep(PAUSE.1).await,
            }
        };
        loop {
            let read = match under_way {
                Some(to) => self.again(at, to).await,
                None => self.gather(at, &bell).await,
            };
            match read {
                Ok(batch) => {
                    (under_way, at) = (None, batch.to);
                    self.ship(batch, &mut trouble).await;
                }
                Err(error) => {
                    trouble.unreadable(&error);
                    sleep(PAUSE.1).await;
                }
            }
        }
    }

    /// Ships what is there, with one try for each batch. Returns how many records are left, if any are.
    async fn rest(&self) -> Option<u64> {
        let left = || Some(self.tail.figures().records);
        let Ok((mut at, mut under_way)) = self.place().await else { return left() };
        loop {
            let read = match under_way.take() {
                Some(to) => self.again(at, to).await,
                None => self.present(at).await,
            };
            let Ok(batch) = read else { return left() };
            let (from, to) = (batch.from, batch.to);
            if to == at {
                return None;
            }
            if self.put(&Arc::new(batch.records), from, to).await.is_err() {
                return left();
            }
            at = to;
        }
    }

    /// Where the ledger is, and where a batch ends that may be on its way to it.
    async fn place(&self) -> Result<(Position, Option<Position>), LedgerFault> {
        let at = self.ledger.reached().await?.unwrap_or_default();
        Ok((at, self.ledger.under_way().await.filter(|to| *to > at)))
    }

    /// What is there now, up to a full batch.
    async fn present(&self, at: Position) -> io::Result<Batch<Row>> {
        self.read_on(Batch::at(at)).await
    }

    /// What lies between these places, of which a part may be in the ledger.
    async fn again(&self, at: Position, to: Position) -> io::Result<Batch<Row>> {
        let batch = self.read(move |tail, mut namer| {
            let Batch { records, from, to, corrupt } = tail.read_again(at, to)?;
            let records = records.into_iter().map(|record| namer.row(record)).collect();
            Ok(Batch { records, from, to, corrupt })
        });
        batch.await
    }

    /// The next batch: what is there at once if that is a full one, and else what comes within [`MOST_AGE`].
    async fn gather(&self, at: Position, bell: &AsyncBell) -> io::Result<Batch<Row>> {
        let mut has_given_back = false;
        let mut batch = loop {
            self.tail.bell().going_to_sleep();
            let batch = self.present(at).await?;
            if batch.to > at {
                break batch;
            }
            self.note_oldest(&[]);
            let due = self.keeper.due().await;
            tokio::select! {
                rung = bell.rung() => rung?,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.keeper.flush().await,
                () = sleep(QUIET), if !has_given_back => {
                    self.tail.let_go();
                    (self.give_back)();
                    has_given_back = true;
                }
            }
        };
        self.tail.bell().awake();
        if batch.records.len() < self.ledger.batch() {
            sleep(MOST_AGE).await;
            batch = self.read_on(batch).await?;
        }
        Ok(batch)
    }

    /// Adds what is durable by now, until the batch is full.
    async fn read_on(&self, mut batch: Batch<Row>) -> io::Result<Batch<Row>> {
        let full = self.ledger.batch();
        while batch.records.len() < full {
            let at = batch.to;
            batch = self
                .read(move |tail, mut namer| tail.read_on(batch, full, |record| namer.row(record)))
                .await?;
            if batch.to == at {
                break;
            }
            self.note_oldest(&batch.records);
        }
        Ok(batch)
    }

    /// Off the runtime's thread, because it waits for the disk.
    async fn read(
        &self,
        read: impl FnOnce(&Tail, Namer<N>) -> io::Result<Batch<Row>> + Send + 'static,
    ) -> io::Result<Batch<Row>> {
        let tail = self.tail.clone();
        let namer = Namer::new(Arc::clone(&self.names), Arc::clone(tail.node()));
        spawn_blocking(move || read(&tail, namer)).await.map_err(io::Error::other)?
    }

    fn note_oldest(&self, rows: &[Row]) {
        let oldest = rows.iter().map(|row| row.record.ts.0).min();
        self.shipping.oldest.store(oldest.unwrap_or(NONE), Ordering::Relaxed);
    }

    /// Puts a batch until it is taken, and then lets the log go.
    async fn ship(&self, batch: Batch<Row>, trouble: &mut Trouble) {
        let (from, to) = (batch.from, batch.to);
        let rows = Arc::new(batch.records);
        let mut pause = PAUSE.0;
        while let Err(fault) = self.put(&rows, from, to).await {
            self.shipping.failures.fetch_add(1, Ordering::Relaxed);
            trouble.refused(&fault, self.tail.figures().records);
            self.keeper.follow().await;
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
        trouble.is_over(&self.ledger);
        self.shipping.shipped.fetch_add(rows.len() as u64, Ordering::Relaxed);
    }

    /// Puts a batch once; what the ledger has taken is counted.
    async fn put(&self, rows: &Arc<Vec<Row>>, from: Position, to: Position) -> Result<(), LedgerFault> {
        {
            let _alone = self.keeper.putting().await;
            self.ledger.put(Arc::clone(rows), from, to).await?;
        }
        self.keeper.took(rows.iter().map(|row| &row.record), from, to).await;
        Ok(())
    }
}

/// What was said of a ledger that takes nothing: changes, and a reminder now and then.
#[derive(Debug, Default)]
struct Trouble {
    said: Option<Instant>,
}

impl Trouble {
    /// The embedded ledger speaks for itself.
    fn refused(&mut self, fault: &LedgerFault, records: u64) {
        if let LedgerFault::ClickHouse(fault) = fault
            && self.is_due()
        {
            tracing::warn!(
                target: "obleth_telemetry",
                cause = %fault.class,
                server = %fault.words,
                "clickhouse insert failed; spilling {records} records to WAL"
            );
        }
    }

    fn not_ready(&mut self, fault: &LedgerFault) {
        if let LedgerFault::ClickHouse(fault) = fault {
            tracing::warn!(
                target: "obleth_telemetry",
                cause = %fault.class,
                server = %fault.words,
                "clickhouse is not ready; records will wait in the WAL"
            );
        }
    }

    fn unreadable(&mut self, error: &io::Error) {
        if self.is_due() {
            tracing::error!(target: "obleth_telemetry", %error, "the usage log cannot be read; its records wait");
        }
    }

    fn is_over(&mut self, ledger: &Ledger) {
        if self.said.take().is_some() && matches!(ledger, Ledger::ClickHouse(_)) {
            tracing::info!(target: "obleth_telemetry", "clickhouse takes records again");
        }
    }

    fn is_due(&mut self) -> bool {
        let is_due = self.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN);
        if is_due {
            self.said = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
pub(crate) mod tests;
