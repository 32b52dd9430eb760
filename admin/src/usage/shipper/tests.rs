//! The shipper between a real log and real ledgers.

use std::{io::Write, path::Path, sync::Mutex, thread::JoinHandle};

use obleth_ledger::{Checkpoint, Kind, OpenError, Opened, Options, Slate, Stop};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle as Task, time::timeout};

use super::*;
use crate::usage::{
    clickhouse::{
        ClickHouse, Source,
        fault::{Class, ClickHouseFault},
        tests::{faulty::Way, server::Server, settings},
    },
    embedded::EmbeddedFile,
    golden, query,
    row::Cell,
};
use crate::{
    budget::{alert::Alerts, keeper::LimitsInForce},
    limits::Spending,
    store::{Db, Store},
    vault::MasterKey,
};

/// What a test waits for at most.
const PATIENCE: Duration = Duration::from_secs(60);

/// When all requests are made.
pub(crate) const AT: UnixMs = UnixMs(1_790_000_000_000);

/// A log whose thread runs, until it is dropped.
pub(crate) struct Log {
    slate: Slate,
    pub(crate) tail: Tail,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Log {
    fn open(dir: &Path) -> Self {
        Self::open_behind(dir, crate::usage::read_checkpoint(dir).unwrap())
    }

    /// What is before the checkpoint may go.
    pub(crate) fn open_behind(dir: &Path, checkpoint: Option<Checkpoint>) -> Self {
        let options = Options {
            dir: dir.to_owned(),
            node: None,
            default_node: "node-1".to_owned(),
            streams: 1,
            max_bytes: 64 << 20,
            sync_every: Duration::from_millis(5),
            slate_bytes: 8 << 20,
            checkpoint,
        };
        // What the log before this one still reads keeps its folder locked.
        let deadline = Instant::now() + PATIENCE;
        let opened = loop {
            match obleth_ledger::open(options.clone()) {
                Err(OpenError::InUse { .. }) if Instant::now() < deadline => std::thread::yield_now(),
                opened => break opened.unwrap(),
            }
        };
        let Opened { mut slates, mut writer, tail, .. } = opened;
        let stop = writer.stopper();
        let thread = Some(std::thread::spawn(move || writer.run()));
        Self { slate: slates.remove(0), tail, stop, thread }
    }

    /// Notes that requests of these numbers are over.
    pub(crate) fn note(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let record = golden::at(AT, number).record;
            assert!(self.slate.note(Kind::End, &record), "there is room");
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it does not panic");
        }
    }
}

struct Known;

impl Names for Known {
    async fn known(&self) {}

    fn model(&self, id: ModelId) -> Option<Arc<str>> {
        // The golden rows' `llama`; of the others nobody knows any more.
        id.to_string().ends_with("195").then(|| "llama".into())
    }

    fn group(&self, _: GroupId) -> Option<Arc<str>> {
        Some("gold".into())
    }
}

/// A keeper without budgets.
fn keeper(tail: &Tail, ledger: &Ledger) -> (Arc<Keeper>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let key = MasterKey::parse(&"07".repeat(32)).unwrap();
    let (db, keys) = Db::open(&dir.path().join("obleth.db"), &key).unwrap();
    let (store, _) = Store::start(db, keys).unwrap();
    let limits = LimitsInForce { all: Box::new(Vec::new), changes: watch::Sender::new(0).subscribe() };
    let (alerts, _) = Alerts::new(Arc::default());
    let log = (tail.clone(), dir.path().to_owned());
    (Arc::new(Keeper::new(log, (ledger.clone(), store), limits, alerts)), dir)
}

/// A shipper at work.
pub(crate) struct Ship {
    task: Task<io::Result<()>>,
    stop: StopSignal,
    pub(crate) shipping: Arc<Shipping>,
    _store: Option<TempDir>,
}

impl Ship {
    fn start(log: &Log, ledger: &Ledger) -> Self {
        let (keeper, store) = keeper(&log.tail, ledger);
        Self { _store: Some(store), ..Self::with(log, ledger, keeper) }
    }

    pub(crate) fn with(log: &Log, ledger: &Ledger, keeper: Arc<Keeper>) -> Self {
        let shipping = Arc::new(Shipping::default());
        let shipper = Shipper {
            tail: log.tail.clone(),
            ledger: ledger.clone(),
            names: Arc::new(Known),
            shipping: Arc::clone(&shipping),
            keeper: Arc::clone(&keeper),
            give_back: || (),
        };
        let stop = StopSignal::new();
        let signal = stop.clone();
        let task = tokio::spawn(async move {
            keeper.spent(Vec::new()).await;
            shipper.run(signal).await
        });
        Self { task, stop, shipping, _store: None }
    }
}

impl Ship {
    /// Ends it in the middle of whatever it does.
    pub(crate) async fn sink(self) {
        self.task.abort();
        assert!(self.task.await.is_err_and(|error| error.is_cancelled()), "it would have gone on for ever");
    }
}

pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"));
}

async fn requests(ledger: &Ledger) -> u64 {
    let all = query::totals(vec![("from".into(), "2026-01-01".into())], UnixMs(1 << 41)).unwrap();
    ledger.report(all.report).await.unwrap().groups.iter().map(|group| group.sums.requests).sum()
}

fn clickhouse(url: String, log: &Log, folder: &TempDir) -> Ledger {
    let source = Source { folder: folder.path(), log_id: log.tail.log_id(), durable: log.tail.durable() };
    Ledger::ClickHouse(ClickHouse::open(&settings(url), source, Some(9000)).unwrap())
}

/// How many rows the server has, and how many different ones.
fn counts(server: &Server) -> (u64, u64) {
    let count = |what: &str| server.count(&format!("SELECT {what} FROM `obleth-tests`.usage"));
    (count("count()"), count("uniqExact(id)"))
}

#[tokio::test]
async fn records_arrive_with_names_and_the_log_lets_them_go() {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::open(&folder.path().join("wal"));
    let (embedded, threads) =
        EmbeddedFile::open(&folder.path().join("usage.db")).unwrap().start(log.tail.log_id(), || ()).unwrap();
    let ledger = Ledger::Embedded(embedded);
    let ship = Ship::start(&log, &ledger);
    log.note(0..100);
    until("the first records", || ship.shipping.shipped() == 100).await;
    assert_eq!(requests(&ledger).await, 100);
    until("the log is empty", || log.tail.figures().records == 0).await;
    until("nothing waits", || ship.shipping.lag(UnixMs(1 << 41)).is_zero()).await;

    let page = query::logs(vec![("from".into(), "2026-01-01".into())], UnixMs(1 << 41)).unwrap();
    let cell = |name: &str, cells: &[Option<Cell<'static>>]| {
        let at = crate::usage::row::COLUMNS.iter().position(|column| column.name == name).unwrap();
        cells[at].clone()
    };
    let (mut known, mut gone) = (0, 0);
    for entry in ledger.page(page).await.unwrap() {
        match (cell("model", entry.cells()), cell("model_id", entry.cells())) {
            (None, None) => {}
            (Some(Cell::Text(name)), Some(Cell::Id(_))) if name == "llama" => known += 1,
            (Some(Cell::Text(name)), Some(Cell::Id(id))) if name == id.to_string() => gone += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(known > 0 && gone > 0, "{known}, {gone}");

    // Another shipper goes on where this one was.
    ship.sink().await;
    log.note(100..25_000);
    let ship = Ship::start(&log, &ledger);
    until("the rest", || ship.shipping.shipped() == 24_900).await;
    assert_eq!(requests(&ledger).await, 25_000);

    // One that is told to end takes along what is there.
    log.note(25_000..25_010);
    until("it is durable", || log.tail.figures().records == 10).await;
    ship.stop.trigger();
    ship.task.await.unwrap().unwrap();
    assert_eq!((requests(&ledger).await, log.tail.figures().records), (25_010, 0));
    drop(ledger);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[tokio::test]
async fn a_server_that_is_away_costs_one_line_and_no_record() {
    let Some(mut server) = Server::absent() else { return };
    let folder = tempfile::tempdir().unwrap();
    let log = Log::open(folder.path());
    let lines = Lines::default();
    let _guard = lines.capture();
    let ledger = clickhouse(server.url(), &log, &folder);
    let ship = Ship::start(&log, &ledger);
    log.note(0..300);
    until("it has been tried", || ship.shipping.failures() > 2).await;
    assert!(ship.shipping.lag(UnixMs(1 << 41)) > Duration::ZERO);
    log.note(300..500);
    server.up();
    until("all of it", || ship.shipping.shipped() == 500).await;
    assert_eq!(counts(&server), (500, 500));
    until("the log is empty", || log.tail.figures().records == 0).await;
    let text = lines.text();
    let count = |words: &str| text.matches(words).count();
    assert_eq!(
        count("WARN obleth_telemetry: clickhouse is not ready; records will wait in the WAL"),
        1,
        "{text}"
    );
    assert_eq!(
        count("WARN obleth_telemetry: clickhouse insert failed; spilling 300 records to WAL"),
        1,
        "{text}"
    );
    assert_eq!(count("INFO obleth_telemetry: clickhouse takes records again"), 1, "{text}");
    assert!(count("cause=unreachable") == 2 && !text.contains("password"), "{text}");
}

#[tokio::test]
async fn a_shipper_that_dies_with_a_batch_under_way_leaves_every_record_once() {
    let Some(server) = Server::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let way = Way::to(server.address()).await;
    {
        let log = Log::open(folder.path());
        let ledger = clickhouse(way.url(), &log, &folder);
        ledger.prepare().await.unwrap();
        way.loses_answers();
        let ship = Ship::start(&log, &ledger);
        log.note(0..1000);
        until("an answer is lost", || way.lost() > 1).await;
        ship.sink().await;
    }
    way.sound();
    // The next process, whose log goes on.
    let log = Log::open(folder.path());
    log.note(1000..1500);
    let ledger = clickhouse(way.url(), &log, &folder);
    let ship = Ship::start(&log, &ledger);
    until("all of it", || ship.shipping.shipped() == 1500).await;
    assert_eq!(counts(&server), (1500, 1500));
    until("the log is empty", || log.tail.figures().records == 0).await;
}

#[tokio::test]
async fn a_lost_checkpoint_makes_no_record_twice() {
    let Some(server) = Server::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    {
        let log = Log::open(folder.path());
        let ledger = clickhouse(server.url(), &log, &folder);
        let ship = Ship::start(&log, &ledger);
        log.note(0..1000);
        until("the first part", || ship.shipping.shipped() == 1000).await;
        ship.sink().await;
    }
    std::fs::remove_file(folder.path().join("clickhouse.checkpoint")).unwrap();
    let log = Log::open(folder.path());
    log.note(1000..1500);
    let ledger = clickhouse(server.url(), &log, &folder);
    let ship = Ship::start(&log, &ledger);
    until("the rest", || log.tail.figures().records == 0 && ship.shipping.shipped() >= 500).await;
    assert_eq!(counts(&server), (1500, 1500));
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_lasts_is_said_once_a_minute_and_its_end_once() {
    let lines = Lines::default();
    let _guard = lines.capture();
    let said = |what: &str| lines.text().matches(what).count();
    let refused = ClickHouseFault { class: Class::AccessDenied, words: "Code: 516.".to_owned() }.into();
    let mut trouble = Trouble::default();
    for (wait_secs, times) in [(0, 1), (1, 1), (58, 1), (1, 2), (30, 2), (30, 3)] {
        tokio::time::advance(Duration::from_secs(wait_secs)).await;
        trouble.refused(&refused, 7);
        assert_eq!(said("clickhouse insert failed; spilling 7 records to WAL"), times, "{}", lines.text());
    }
    assert_eq!(said("cause=access_denied server=Code: 516."), 3, "{}", lines.text());
    let folder = tempfile::tempdir().unwrap();
    let source = Source { folder: folder.path(), log_id: uuid::Uuid::nil(), durable: Position::default() };
    let settings = settings("http://127.0.0.1:1".to_owned());
    let ledger = Ledger::ClickHouse(ClickHouse::open(&settings, source, None).unwrap());
    trouble.is_over(&ledger);
    trouble.is_over(&ledger);
    assert_eq!(said("clickhouse takes records again"), 1);
}

/// The lines that are logged on this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn capture(&self) -> tracing::subscriber::DefaultGuard {
        let lines = self.clone();
        let format = tracing_subscriber::fmt().with_ansi(false).with_writer(move || lines.clone());
        tracing::subscriber::set_default(format.finish())
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
