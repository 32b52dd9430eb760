//! The embedded ledger over real files.

mod bodies;
mod cost;
mod files;

use std::{
    sync::{Condvar, Mutex, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use obleth_ledger::Position;
use obleth_policy::{unit::MicroUsd, unit::UnixMs};
use tempfile::TempDir;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{Embedded, EmbeddedFile, Patience};
use crate::{
    store::fault::Fault,
    usage::{
        Ledger,
        fault::LedgerFault,
        golden, query,
        row::{Cell, MOST},
    },
};

/// An open ledger; its threads end with it.
struct Open {
    ledger: Option<Embedded>,
    threads: Vec<JoinHandle<()>>,
}

impl Open {
    fn new(dir: &TempDir) -> Self {
        let (ledger, threads) = EmbeddedFile::open(&dir.path().join("usage.db"))
            .unwrap()
            .start(Uuid::from_u128(1), || ())
            .unwrap();
        Self { ledger: Some(ledger), threads: threads.into() }
    }

    fn get(&self) -> Embedded {
        self.ledger.clone().unwrap()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.ledger = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

impl Patience {
    fn new() -> Self {
        Self { is_gone: Default::default(), began: std::time::Instant::now() }
    }
}

fn place(offset: u64) -> Position {
    Position { segment: 1, offset }
}

async fn requests(ledger: &Embedded) -> u64 {
    let all = query::totals(vec![("from".into(), "1970-01-01".into())], UnixMs(1 << 42)).unwrap();
    ledger.report(all.report).await.unwrap().groups.iter().map(|group| group.sums.requests).sum()
}

#[tokio::test]
async fn it_answers_as_every_ledger_must() {
    let dir = tempfile::tempdir().unwrap();
    let open = Open::new(&dir);
    let ledger = Ledger::Embedded(open.get());
    golden::check(&ledger).await;
}

#[tokio::test]
async fn rows_and_place_survive_and_come_together() {
    let dir = tempfile::tempdir().unwrap();
    let rows = golden::rows();
    let open = Open::new(&dir);
    open.get().put(rows[..10].to_vec(), place(10)).await.unwrap();
    drop(open);
    let open = Open::new(&dir);
    assert_eq!(open.get().reached().await, Ok(Some(place(10))));
    assert_eq!(requests(&open.get()).await, 10);
    // What was reached before is not taken again, even if it is other rows.
    open.get().put(rows[10..20].to_vec(), place(9)).await.unwrap();
    open.get().put(rows[10..15].to_vec(), place(15)).await.unwrap();
    assert_eq!(requests(&open.get()).await, 15);
    assert_eq!(open.get().reached().await, Ok(Some(place(15))));
}

#[tokio::test]
async fn a_backend_that_claims_the_impossible_does_not_break_the_sums() {
    let dir = tempfile::tempdir().unwrap();
    let open = Open::new(&dir);
    let mut rows = golden::rows();
    for row in &mut rows[..100] {
        row.record.tokens.input = u64::MAX;
        row.record.cost = Some(MicroUsd(u64::MAX));
    }
    open.get().put(rows[..100].to_vec(), place(1)).await.unwrap();
    let all = query::totals(vec![("from".into(), "1970-01-01".into())], UnixMs(1 << 42)).unwrap();
    let answer = open.get().report(all.report).await.unwrap();
    let sums = &answer.groups[0].sums;
    assert_eq!((sums.input_tokens, sums.cost_micro_usd), (100 * MOST, Some(100 * MOST)));
}

#[tokio::test]
async fn what_is_older_than_it_may_be_goes_in_steps_and_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let open = Open::new(&dir);
    let ledger = open.get();
    let rows: Vec<_> = (0..25_000).map(|ms| golden::at(UnixMs(ms), ms.unsigned_abs())).collect();
    for (number, rows) in rows.chunks(2000).enumerate() {
        ledger.put(rows.to_vec(), place(number as u64 + 1)).await.unwrap();
    }
    let cutoff = UnixMs(22_700);
    assert_eq!(ledger.expire(cutoff).await, Ok(true));
    let left = requests(&ledger).await;
    assert!((2300..25_000).contains(&left), "{left}");
    while ledger.expire(cutoff).await.unwrap() {}
    assert_eq!(requests(&ledger).await, 2300, "of a block that lies on both sides only what is too old");
    assert_eq!(ledger.expire(cutoff).await, Ok(false));
    let page = query::logs(vec![("from".into(), "1970-01-01".into())], UnixMs(22_703)).unwrap();
    let times: Vec<_> = ledger.page(page).await.unwrap().iter().map(|row| row.place().unwrap().0.0).collect();
    assert_eq!(times, [22_703, 22_702, 22_701, 22_700]);
}

#[tokio::test]
async fn more_groups_than_fit_are_refused_and_not_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let open = Open::new(&dir);
    let ledger = open.get();
    let rows = (0..50_001_i64).map(|ms| {
        let mut row = golden::at(UnixMs(ms), ms.unsigned_abs());
        row.record.key.0 = row.record.id;
        row
    });
    ledger.put(rows.collect::<Vec<_>>(), place(1)).await.unwrap();
    let by_key = |to: &str| {
        let pairs = [("from", "1970-01-01"), ("to", to), ("by", "key")];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        query::totals(pairs.into(), UnixMs(0)).unwrap().report
    };
    assert_eq!(ledger.report(by_key("1970-01-02")).await, Err(LedgerFault::TooManyGroups));
    let fewer = ledger.report(by_key("1970-01-01T00:00:50Z")).await.unwrap();
    assert_eq!(fewer.groups.len(), 50_000);
}

/// Names of the threads that gave back.
static GAVE_BACK: (Mutex<Vec<String>>, Condvar) = (Mutex::new(Vec::new()), Condvar::new());

fn give_back() {
    GAVE_BACK.0.lock().unwrap().push(thread::current().name().unwrap().to_owned());
    GAVE_BACK.1.notify_all();
}

/// Waits until so many have given back, and says which.
fn gave_back(count: usize) -> Vec<String> {
    let (names, more) = &GAVE_BACK;
    let few = |names: &mut Vec<String>| names.len() < count;
    let (names, _) = more.wait_timeout_while(names.lock().unwrap(), Duration::from_secs(30), few).unwrap();
    names.clone()
}

#[tokio::test]
async fn threads_that_have_become_quiet_give_back_once_and_go_on_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let rows = golden::rows();
    let file = EmbeddedFile::open(&dir.path().join("usage.db")).unwrap();
    let (ledger, threads) = file.start(Uuid::from_u128(1), give_back).unwrap();
    ledger.put(rows[..10].to_vec(), place(10)).await.unwrap();
    assert_eq!(gave_back(1), ["obleth-usage"]);
    assert_eq!(requests(&ledger).await, 10);
    assert_eq!(gave_back(2), ["obleth-usage", "obleth-reports"]);
    ledger.put(rows[10..20].to_vec(), place(20)).await.unwrap();
    assert_eq!(requests(&ledger).await, 20);
    drop(ledger);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[tokio::test]
async fn another_log_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let rows = golden::rows();
    let path = dir.path().join("usage.db");
    for (log, from, expected) in [(1, 0, 10), (2, 10, 20)] {
        let file = EmbeddedFile::open(&path).unwrap();
        let (ledger, threads) = file.start(Uuid::from_u128(log), || ()).unwrap();
        assert_eq!(ledger.reached().await, Ok(None), "of this log");
        ledger.put(rows[from..from + 10].to_vec(), place(10)).await.unwrap();
        assert_eq!(requests(&ledger).await, expected);
        drop(ledger);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
    let checkpoint = EmbeddedFile::open(&path).unwrap().checkpoint().unwrap().unwrap();
    assert_eq!((checkpoint.log_id, checkpoint.position), (Uuid::from_u128(2), place(10)));
}

#[tokio::test]
async fn a_question_that_nobody_waits_for_any_more_is_broken_off() {
    let dir = tempfile::tempdir().unwrap();
    let open = Open::new(&dir);
    let ledger = open.get();
    let (began, has_begun) = oneshot::channel();
    let (ended, has_ended) = mpsc::channel();
    let endless = ledger.ask(move |conn, _| {
        began.send(()).unwrap();
        let sql = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n";
        let out = conn.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(LedgerFault::from);
        ended.send(out).unwrap();
        Ok(())
    });
    tokio::select! {
        out = endless => panic!("it ended by itself: {out:?}"),
        begun = has_begun => begun.unwrap(),
    }
    assert_eq!(has_ended.recv().unwrap(), Err(LedgerFault::TooSlow));
    assert_eq!(requests(&ledger).await, 0);
}
