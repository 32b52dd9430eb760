//! The spend book between the usage log, the store and the usage ledger.
//!
//! The log tells what was used; what of it is in the book is saved with the place, and the log lets nothing go before that.
//! So a process that dies finds in the log what the store does not have. What the log does not tell any more, the usage
//! ledger is asked for: the past of a budget that is new, or everything if the book is lost. The book does not wait for the
//! ledger: while that is away, it goes on with the log.
//!
//! It must never hold requests up, nor let the log go ahead of the book.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use obleth_ledger::{Batch, Checkpoint, Position, Record, Tail};
use obleth_policy::{
    limit::{Definition, Meter, Spent},
    unit::UnixMs,
};
use tokio::{
    sync::{Mutex, MutexGuard, Notify, watch},
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use super::{
    alert::{Alerts, Said},
    book::{Book, Gap},
    sums::Sums,
};
use crate::{
    limits::Spending,
    store::{Db, Store},
    usage::{Ledger, fault::LedgerFault},
};

/// How long what was folded may wait to be saved.
const SAVE_WITHIN: Duration = Duration::from_secs(2);
/// Records that are read at a time where the book has to catch up.
const READ: usize = 4096;
/// How long a start waits for the usage ledger; what it does not say by then is asked again later.
const START_WITHIN: Duration = Duration::from_secs(10);
/// Pause between two tries to ask the usage ledger.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// Pause between two tries to read the store at a start.
const LOAD_AGAIN: Duration = Duration::from_secs(1);

/// Why the usage ledger could not be asked.
#[derive(Debug, thiserror::Error)]
enum NotNow {
    #[error(transparent)]
    Ledger(#[from] LedgerFault),
    #[error("a batch may be on its way")]
    UnderWay,
    #[error("the usage log: {0}")]
    Log(#[from] io::Error),
}

/// See the module's text. One per sidecar.
pub(crate) struct Keeper {
    tail: Tail,
    /// The log's.
    folder: PathBuf,
    ledger: Ledger,
    store: Store,
    state: Mutex<State>,
    limits: LimitsInForce,
    /// Held while the ledger takes a batch: while nobody does, its place and its sums belong together.
    putting: Mutex<()>,
    /// Rings when something was used of a budget.
    moved: Notify,
    /// Rings when the book was loaded.
    opened: Notify,
    alerts: Alerts,
}

/// Where the limits in force come from.
pub(crate) struct LimitsInForce {
    /// All of them.
    pub(crate) all: Box<dyn Fn() -> Vec<Definition> + Send + Sync>,
    /// A number that grows with every change of them.
    pub(crate) changes: watch::Receiver<u64>,
}

#[derive(Debug)]
struct State {
    /// `None` until the book was loaded: nothing is let go until then.
    book: Option<Book>,
    /// Up to where the ledger has the log.
    shipped: Position,
    /// Up to where the log was let go.
    released: Position,
    /// The change of the limits that the book was told of last.
    change: u64,
    /// Since when something waits to be saved.
    unsaved_since: Option<Instant>,
    /// A ledger that could not be asked was complained of.
    is_said: bool,
}

impl Keeper {
    pub(crate) fn new(
        (tail, folder): (Tail, PathBuf),
        (ledger, store): (Ledger, Store),
        limits: LimitsInForce,
        alerts: Alerts,
    ) -> Self {
        let state = State {
            book: None,
            shipped: Position::default(),
            released: Position::default(),
            change: 0,
            unsaved_since: None,
            is_said: false,
        };
        Self {
            tail,
            folder,
            ledger,
            store,
            limits,
            state: Mutex::new(state),
            putting: Mutex::new(()),
            moved: Notify::new(),
            opened: Notify::new(),
            alerts,
        }
    }

    async fn open(&self, definitions: &[Definition]) {
        let saved = loop {
            match self.store.call(Db::load_spend).await {
                Ok(saved) => break saved,
                // The store has said so itself.
                Err(_) => sleep(LOAD_AGAIN).await,
            }
        };
        let first = segments(&self.folder).min();
        let mut book = match saved {
            None => Book::new(self.ledger.reached().await.ok().flatten().unwrap_or_default()),
            Some((log_id, saved)) if log_id == self.tail.log_id() => {
                // Either the log has let go exactly what was saved, or the store is older than the log.
                let is_open = first.is_some_and(|first| first > saved.at.segment);
                let mut book = Book::restored(saved);
                if is_open {
                    book.doubt();
                }
                book
            }
            Some((_, saved)) => {
                let mut book = Book::restored(saved).moved(Position::default());
                book.doubt();
                book
            }
        };
        book.define_all(definitions);
        let gaps = book.gaps().len();
        if gaps > 0 {
            tracing::info!(target: "obleth_budget", totals = gaps,
                "what budgets have used is not all in the book for this usage log: the usage ledger is asked");
        }
        self.state.lock().await.book = Some(book);
    }

    /// Brings the book up to the end of the log, and asks it something. `None` until it was loaded, or if the log cannot
    /// be read.
    pub(crate) async fn caught_up<T>(&self, ask: impl FnOnce(&Book) -> T) -> Option<T> {
        let mut state = self.state().await;
        let durable = self.tail.durable();
        if let Err(error) = self.read_to(&mut state, durable).await {
            tracing::warn!(target: "obleth_budget", %error, "the usage log cannot be read");
            return None;
        }
        let answer = state.book.as_ref().map(ask);
        self.tell(&mut state).await;
        answer
    }

    /// Whether there is any budget.
    pub(crate) async fn has_budgets(&self) -> bool {
        self.state().await.book.as_ref().is_some_and(|book| !book.is_empty())
    }

    /// Held while a batch is put into the ledger.
    pub(crate) async fn putting(&self) -> MutexGuard<'_, ()> {
        self.putting.lock().await
    }

    /// The ledger has taken the log up to `to`, and these records are its last part, from `from` on. Lets the log go as
    /// far as ledger and book allow.
    pub(crate) async fn took(&self, records: impl Iterator<Item = &Record>, from: Position, to: Position) {
        let mut state = self.state().await;
        state.shipped = state.shipped.max(to);
        let has_moved = match &mut state.book {
            None => return,
            Some(book) if book.is_empty() => {
                book.skip(book.at().max(to));
                false
            }
            Some(book) if book.at() == from => book.fold(records, to),
            Some(_) => {
                if let Err(error) = self.read_to(&mut state, to).await {
                    tracing::warn!(target: "obleth_budget", %error, "the usage log cannot be read; it is kept");
                }
                false
            }
        };
        if has_moved {
            self.moved.notify_one();
        }
        self.tell(&mut state).await;
        if state.book.as_ref().is_some_and(Book::is_altered) {
            state.unsaved_since.get_or_insert_with(Instant::now);
        }
        if state.unsaved_since.is_none_or(|since| since.elapsed() >= SAVE_WITHIN) {
            self.save(&mut state).await;
        }
    }

    /// When what waits has to be saved; `None` while nothing does.
    pub(crate) async fn due(&self) -> Option<Instant> {
        Some(self.state.lock().await.unsaved_since? + SAVE_WITHIN)
    }

    /// Saves what waits, and lets the log go.
    pub(crate) async fn flush(&self) {
        self.save(&mut *self.state().await).await;
    }

    /// Goes on with the log while the ledger takes nothing.
    pub(crate) async fn follow(&self) {
        self.caught_up(|_| ()).await;
    }

    /// Waits until something was used of a budget.
    pub(crate) async fn moved(&self) {
        self.moved.notified().await;
    }

    /// A request was refused for what this budget has left.
    pub(crate) async fn refused(&self, meter: Meter, since: UnixMs) {
        let mut state = self.state().await;
        if let Some(book) = &mut state.book {
            book.note_refusal(meter, since);
        }
        self.tell(&mut state).await;
    }

    /// Completes what is new, until the sidecar ends. Calls `completed` when a budget may have got another past.
    pub(crate) async fn run(&self, completed: impl Fn()) {
        let mut changes = self.limits.changes.clone();
        loop {
            while self.fill_gaps().await.is_err() {
                sleep(ASK_AGAIN).await;
            }
            completed();
            tokio::select! {
                Ok(()) = changes.changed() => {}
                () = self.opened.notified() => {}
            }
        }
    }

    /// Asks the usage ledger for what is not whole.
    async fn fill_gaps(&self) -> Result<(), NotNow> {
        let gaps = self.gaps().await;
        if gaps.is_empty() {
            return Ok(());
        }
        let filled = self.fill(&gaps).await;
        let mut state = self.state.lock().await;
        match (&filled, state.is_said) {
            (Err(fault), false) => {
                state.is_said = true;
                tracing::warn!(target: "obleth_budget", budgets = gaps.len(),
                    "what budgets have used before cannot be summed: {fault}; until it can, they count from their creation");
            }
            (Ok(()), true) => {
                state.is_said = false;
                tracing::info!(target: "obleth_budget", "what budgets have used before is summed");
            }
            _ => {}
        }
        filled
    }

    /// Compares all of the book with the usage ledger, if that is a file of our own.
    pub(crate) async fn compare(&self) {
        let Ledger::Embedded(_) = &self.ledger else { return };
        let all = self.state().await.book.as_ref().map(|book| book.periods(|_| true));
        // A ledger that fails has said so itself.
        let _ = self.fill(&all.unwrap_or_default()).await;
    }

    async fn gaps(&self) -> Vec<Gap> {
        self.state().await.book.as_ref().map(Book::gaps).unwrap_or_default()
    }

    async fn fill(&self, gaps: &[Gap]) -> Result<(), NotNow> {
        // Nobody puts until the log was read, too: it lets go what the ledger has.
        let _nobody_puts = self.putting.lock().await;
        let at = self.ledger.reached().await?.unwrap_or_default();
        if self.ledger.under_way().await.is_some_and(|to| to > at) {
            return Err(NotNow::UnderWay);
        }
        let sums = Sums::of(&self.ledger, gaps).await?;
        let mut state = self.state().await;
        Ok(self.add(&mut state, gaps, (sums, at)).await?)
    }

    /// Adds what the log has behind the place that the sums reach up to.
    async fn add(&self, state: &mut State, gaps: &[Gap], (sums, at): (Sums, Position)) -> io::Result<()> {
        self.read_to(state, at).await?;
        let Some(book) = &mut state.book else { return Ok(()) };
        let mut behind = book.blank(at);
        self.read_into(&mut behind, book.at()).await?;
        for gap in gaps {
            let later = behind.total(gap.meter, gap.since).map_or(0, |total| total.spent);
            let spent = sums.used(gap).saturating_add(later);
            let was_whole = book.total(gap.meter, gap.since).is_some_and(|total| total.is_whole);
            let by = book.complete(*gap, spent).unwrap_or(0);
            if by > 0 && was_whole {
                self.alerts.figures().note_repair();
                tracing::warn!(target: "obleth_budget", budget = %Said(gap.meter), by,
                    "the spend book had less than the usage ledger; it is put right");
            }
        }
        let newest = sums.newest.unwrap_or(UnixMs(i64::MIN)).max(behind.folded());
        book.complete_time(newest);
        state.unsaved_since.get_or_insert_with(Instant::now);
        self.tell(state).await;
        Ok(())
    }

    /// The state, with the book told of all limits.
    async fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().await;
        let change = *self.limits.changes.borrow();
        if change != state.change
            && let Some(book) = &mut state.book
        {
            book.define_all(&(self.limits.all)());
            state.change = change;
        }
        state
    }

    /// Brings the book up to a place of the log, if it is not there.
    async fn read_to(&self, state: &mut State, to: Position) -> io::Result<()> {
        let Some(book) = &mut state.book else { return Ok(()) };
        if book.is_empty() {
            book.skip(book.at().max(to));
        } else if self.read_into(book, to).await? {
            self.moved.notify_one();
        }
        Ok(())
    }

    async fn read_into(&self, book: &mut Book, to: Position) -> io::Result<bool> {
        let mut has_moved = false;
        while book.at() < to {
            let at = book.at();
            let mut batch = self.read(move |tail| tail.read(at, READ)).await?;
            if batch.to > to {
                batch = self.read(move |tail| tail.read_again(at, to)).await?;
            }
            if batch.to == at {
                break;
            }
            has_moved |= book.fold(&batch.records, batch.to);
        }
        Ok(has_moved)
    }

    /// Off the runtime's thread, because it waits for the disk.
    async fn read(
        &self,
        read: impl FnOnce(&Tail) -> io::Result<Batch> + Send + 'static,
    ) -> io::Result<Batch> {
        let tail = self.tail.clone();
        spawn_blocking(move || read(&tail)).await.map_err(io::Error::other)?
    }

    /// Tells who wants to know: once, so it is saved before.
    async fn tell(&self, state: &mut State) {
        let alerts = state.book.as_mut().map(Book::take_alerts).unwrap_or_default();
        if alerts.is_empty() {
            return;
        }
        self.save(state).await;
        alerts.into_iter().for_each(|alert| self.alerts.tell(alert));
    }

    async fn save(&self, state: &mut State) {
        let Some(book) = &mut state.book else { return };
        let mut safe = book.at();
        if book.is_altered() {
            let (changes, log_id) = (Arc::new(book.changes()), self.tail.log_id());
            let to_store = Arc::clone(&changes);
            if self.store.call(move |db| db.save_spend(log_id, &to_store)).await.is_err() {
                // The store has said so itself. What is not saved stays in the log.
                state.unsaved_since = Some(Instant::now());
                return;
            }
            book.note_saved(&changes);
            safe = changes.at;
        }
        state.unsaved_since = None;
        let upto = state.shipped.min(safe);
        if upto > state.released {
            state.released = upto;
            let tail = self.tail.clone();
            // It fails only when the runtime ends; it is let go in the next process, then.
            let _ = spawn_blocking(move || tail.release(upto)).await;
        }
    }
}

impl Spending for Keeper {
    /// Up to the end of the log. The first time the book is loaded for it, and what the log and the store do not tell is
    /// asked of the usage ledger, for a while.
    async fn spent(&self, definitions: Vec<Definition>) -> Vec<Spent> {
        if self.state.lock().await.book.is_none() {
            self.open(&definitions).await;
            // A fault has been said, or the time is over; it is asked again later.
            let _ = timeout(START_WITHIN, self.fill_gaps()).await;
            self.opened.notify_one();
        }
        self.caught_up(Book::spent).await.unwrap_or_default()
    }
}

/// How far the log may be let go, for a ledger that has it up to `ledgers`: not beyond the book. Where the log has lost
/// its end, the ledger's word counts, so that no place is used twice.
pub(crate) fn checkpoint(
    ledgers: Option<Checkpoint>,
    book: Option<Checkpoint>,
    folder: &Path,
) -> Option<Checkpoint> {
    let (Some(at), Some(book)) = (ledgers, book) else { return ledgers };
    let is_whole = segments(folder).max().is_some_and(|last| last >= at.position.segment);
    if book.log_id != at.log_id || !is_whole {
        return ledgers;
    }
    Some(Checkpoint { position: at.position.min(book.position), ..at })
}

/// Numbers of the log's segments.
fn segments(folder: &Path) -> impl Iterator<Item = u64> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".log")?.parse().ok())
}

#[cfg(test)]
mod tests;
