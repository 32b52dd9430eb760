//! The book between a real log, a real store and a real ledger.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Mutex as StdMutex, OnceLock},
    thread::JoinHandle,
};

use obleth_policy::limit::{Limits, Measure, Scope, Turn};
use tempfile::TempDir;

use super::*;
use crate::{
    budget::book::amount,
    store::KeyLookup,
    usage::{
        embedded::EmbeddedFile,
        golden,
        shipper::tests::{AT, Log, Ship, until},
    },
    vault::MasterKey,
};

/// Files that outlive processes.
struct Home {
    dir: TempDir,
    limits: Arc<StdMutex<Vec<Definition>>>,
    changes: watch::Sender<u64>,
}

/// One process's life.
struct Life {
    log: Log,
    ledger: Ledger,
    keeper: Arc<Keeper>,
    threads: Vec<JoinHandle<()>>,
}

/// All budgets of a scope, too large to be reached.
fn definition(scope: Scope) -> Definition {
    let budgets = Measure::ALL.into_iter().filter(|measure| measure.is_budget());
    let limits = budgets.fold(Limits::NONE, |limits, measure| limits.with(measure, Some(1 << 50)));
    let turn = |days: i64| {
        let length = days * 86_400_000;
        let begins = AT.0.div_euclid(length) * length;
        let at = |n| UnixMs(begins + n * length);
        Turn { begins: at(0), ends: at(1), next_ends: at(2) }
    };
    Definition { scope, limits, day: turn(1), month: turn(30) }
}

/// A key's, a tenant's and a group's that the records are of.
fn scopes() -> [Scope; 3] {
    let records = (0..100).map(|number| golden::at(AT, number).record);
    let mut of_all = records.filter(|record| record.usage_source.is_some() && record.group.is_some());
    let record = of_all.next().unwrap();
    [Scope::Key(record.key), Scope::Tenant(record.tenant), Scope::Group(record.group.unwrap())]
}

/// What these records come to for a scope, the slow and obvious way.
fn naive(scope: Scope, measure: Measure, numbers: Range<u64>) -> u64 {
    let records = numbers.map(|number| golden::at(AT, number).record);
    let is_of = |record: &Record| match scope {
        Scope::Key(id) => record.key == id,
        Scope::Tenant(id) => record.tenant == id,
        Scope::Group(id) => record.group == Some(id),
    };
    records.filter(is_of).map(|record| amount(measure, &record)).sum()
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, limits: Arc::default(), changes: watch::Sender::new(0) }
    }

    fn set(&self, scopes: &[Scope]) {
        *self.limits.lock().unwrap() = scopes.iter().map(|scope| definition(*scope)).collect();
        self.changes.send_modify(|change| *change += 1);
    }

    fn definitions(&self) -> Vec<Definition> {
        self.limits.lock().unwrap().clone()
    }

    fn store(&self) -> (Db, KeyLookup) {
        let key = MasterKey::parse(&"07".repeat(32)).unwrap();
        Db::open(&self.dir.path().join("obleth.db"), &key).unwrap()
    }

    fn forget_store(&self) {
        for name in ["obleth.db", "obleth.db-wal", "obleth.db-shm"] {
            let _ = fs::remove_file(self.dir.path().join(name));
        }
    }

    async fn begin(&self) -> Life {
        let file = EmbeddedFile::open(&self.dir.path().join("usage.db")).unwrap();
        let at = file.checkpoint().unwrap();
        let start = |log_id| {
            let (ledger, threads) = file.start(log_id, || ()).unwrap();
            (Ledger::Embedded(ledger), threads.into())
        };
        self.begin_with(at, start).await
    }

    /// With a ledger that is away.
    async fn begin_without_ledger(&self) -> Life {
        self.begin_with(None, |_| (Ledger::Late(Arc::new(OnceLock::new())), Vec::new())).await
    }

    async fn begin_with(
        &self,
        at: Option<Checkpoint>,
        ledger: impl FnOnce(uuid::Uuid) -> (Ledger, Vec<JoinHandle<()>>),
    ) -> Life {
        let (db, keys) = self.store();
        let folder = self.dir.path().join("wal");
        let log = Log::open_behind(&folder, checkpoint(at, db.spend_place().unwrap(), &folder));
        let (ledger, mut threads) = ledger(log.tail.log_id());
        let (store, handles) = Store::start(db, keys).unwrap();
        threads.extend(handles);
        let limits = Arc::clone(&self.limits);
        let limits = LimitsInForce {
            all: Box::new(move || limits.lock().unwrap().clone()),
            changes: self.changes.subscribe(),
        };
        let (alerts, _) = Alerts::new(Arc::default());
        let keeper = Keeper::new((log.tail.clone(), folder), (ledger.clone(), store), limits, alerts);
        keeper.spent(self.definitions()).await;
        Life { log, ledger, keeper: Arc::new(keeper), threads }
    }
}

impl Life {
    fn ship(&self) -> Ship {
        Ship::with(&self.log, &self.ledger, Arc::clone(&self.keeper))
    }

    /// Compares every total with the naive sum over all that is durable.
    async fn check(&self, scopes: &[Scope], numbers: Range<u64>) {
        let mut found: BTreeMap<(Scope, Measure), u64> = BTreeMap::new();
        for spent in self.keeper.caught_up(Book::spent).await.unwrap() {
            // All of them are of the period under way.
            assert!(found.insert((spent.meter.scope, spent.meter.measure), spent.amount).is_none());
        }
        for scope in scopes {
            for measure in Measure::ALL.into_iter().filter(|measure| measure.is_budget()) {
                let spent = found.remove(&(*scope, measure)).unwrap_or(0);
                assert_eq!(spent, naive(*scope, measure, numbers.clone()), "{scope:?} {measure:?}");
            }
        }
        assert!(found.is_empty(), "{found:?}");
    }

    /// Notes them and waits until they are durable.
    async fn note(&self, numbers: Range<u64>) {
        let (before, many) = (self.log.tail.durable(), numbers.end - numbers.start);
        self.log.note(numbers);
        until("they are durable", || {
            self.log.tail.read(before, usize::MAX).unwrap().records.len() as u64 == many
        })
        .await;
    }

    async fn is_let_go(&self) {
        until("the log is empty", || self.log.tail.figures().records == 0).await;
    }

    /// As a kill: what it did not save is lost.
    fn end(self) {
        let Self { log, ledger, keeper, threads } = self;
        drop((log, ledger));
        assert_eq!(Arc::strong_count(&keeper), 1);
        drop(keeper);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

#[tokio::test]
async fn spend_survives_kills_at_any_place_and_the_log_goes_as_far_as_it_is_saved() {
    let home = Home::new();
    home.set(&scopes());
    let mut at = 0;
    for round in 0..6 {
        let life = home.begin().await;
        life.check(&scopes(), 0..at).await;
        let ship = life.ship();
        // Some end before anything is shipped, some before it is saved, some after.
        life.note(at..at + 500).await;
        if round % 3 > 0 {
            until("it is shipped", || ship.shipping.shipped() >= 500).await;
        }
        if round % 3 > 1 {
            life.is_let_go().await;
        }
        at += 500;
        life.check(&scopes(), 0..at).await;
        ship.sink().await;
        life.end();
    }
}

#[tokio::test]
async fn without_the_ledger_the_book_goes_on_with_the_log_also_in_the_next_process() {
    let home = Home::new();
    home.set(&scopes());
    let life = home.begin().await;
    let ship = life.ship();
    life.note(0..300).await;
    life.is_let_go().await;
    ship.sink().await;
    life.end();

    let life = home.begin_without_ledger().await;
    life.note(300..600).await;
    life.check(&scopes(), 0..600).await;
    life.keeper.flush().await;
    assert!(life.log.tail.figures().records >= 300, "the ledger needs them");
    life.end();

    let life = home.begin().await;
    let ship = life.ship();
    until("it is shipped", || ship.shipping.shipped() == 300).await;
    life.check(&scopes(), 0..600).await;
    ship.sink().await;
    life.end();
}

#[tokio::test]
async fn a_book_that_is_lost_or_of_an_earlier_day_is_made_of_the_ledger_and_the_log() {
    let home = Home::new();
    home.set(&scopes());
    let (store, backup) = (home.dir.path().join("obleth.db"), home.dir.path().join("backup"));
    let mut at = 0;
    for round in 0..3 {
        let life = home.begin().await;
        life.check(&scopes(), 0..at).await;
        let ship = life.ship();
        life.note(at..at + 300).await;
        life.is_let_go().await;
        ship.sink().await;
        // These are in the log alone.
        life.note(at + 300..at + 400).await;
        life.end();
        at += 400;
        match round {
            0 => drop(fs::copy(&store, &backup).unwrap()),
            1 => home.forget_store(),
            _ => {
                home.forget_store();
                fs::rename(&backup, &store).unwrap();
            }
        }
    }
    let life = home.begin().await;
    life.check(&scopes(), 0..at).await;
    life.end();
    // The log's folder is emptied, with what was not shipped.
    fs::remove_dir_all(home.dir.path().join("wal")).unwrap();
    let life = home.begin().await;
    let [key, ..] = scopes();
    let meter = Meter { scope: key, measure: Measure::LifetimeTokens };
    let total = life.keeper.caught_up(|book| book.total(meter, UnixMs(0))).await.unwrap().unwrap();
    assert!(total.is_whole && total.spent >= naive(key, Measure::LifetimeTokens, 0..1100), "{total:?}");
    life.end();
}

#[tokio::test]
async fn a_budget_that_is_made_while_requests_end_has_its_whole_past_and_nothing_twice() {
    let home = Home::new();
    let life = home.begin().await;
    let ship = life.ship();
    let keeper = Arc::clone(&life.keeper);
    let filling = tokio::spawn(async move { keeper.run(|| {}).await });
    let mut at = 0;
    for made in 1..=scopes().len() {
        life.log.note(at..at + 700);
        home.set(&scopes()[..made]);
        life.log.note(at + 700..at + 1000);
        at += 1000;
        until("all is shipped", || ship.shipping.shipped() == at).await;
        while !life.keeper.gaps().await.is_empty() {
            tokio::task::yield_now().await;
        }
        life.check(&scopes()[..made], 0..at).await;
    }
    // One that is taken away is forgotten.
    home.set(&[]);
    life.check(&[], 0..at).await;
    life.is_let_go().await;
    filling.abort();
    assert!(filling.await.is_err_and(|error| error.is_cancelled()));
    ship.sink().await;
    life.end();
}

#[test]
fn the_log_is_let_go_as_far_as_ledger_and_book_have_it_unless_it_has_lost_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let log_id = uuid::Uuid::from_u128(1);
    let at = |segment| Some(Checkpoint { log_id, position: Position { segment, offset: 64 } });
    let judge = |ledgers, book| checkpoint(ledgers, book, folder.path());
    assert_eq!(judge(at(5), at(3)), at(5), "no segment is left: numbers must go on behind the ledger's");
    fs::write(folder.path().join(format!("{:020}.log", 6)), "").unwrap();
    fs::write(folder.path().join("spare.log"), "").unwrap();
    assert_eq!(judge(at(5), at(3)), at(3));
    assert_eq!(judge(at(3), at(5)), at(3));
    assert_eq!(judge(at(5), None), at(5));
    assert_eq!(judge(None, at(5)), None);
    let other = at(3).map(|at| Checkpoint { log_id: uuid::Uuid::from_u128(2), ..at });
    assert_eq!(judge(at(5), other), at(5), "a place of another log");
}
