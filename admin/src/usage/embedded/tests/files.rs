//! Blocks in real files: files of the schema's first step, damage, and small blocks that become large ones.

use std::{path::Path, sync::atomic::Ordering};

use obleth_ledger::Checkpoint;
use proptest::prelude::*;
use rusqlite::{Connection, ToSql, params_from_iter};

use super::*;
use crate::{
    store::file,
    usage::{
        embedded::{MIGRATIONS, block::MOST_ROWS, convert, merge, read, write},
        report::{Filter, Page, Scope},
        row::{COLUMNS, Entry, Row},
    },
};

/// Makes a file of the schema's first step with these rows in it.
fn make_old(path: &Path, rows: &[Row]) {
    let mut conn = file::open(path, &MIGRATIONS[..1]).unwrap();
    let tx = conn.transaction().unwrap();
    let places = vec!["?"; COLUMNS.len()].join(", ");
    let mut insert = tx.prepare(&format!("INSERT INTO requests VALUES ({places})")).unwrap();
    for row in rows {
        insert.execute(params_from_iter(row.cells().map(value))).unwrap();
    }
    drop(insert);
    tx.execute("INSERT INTO reached VALUES (1, ?1, 1, 77)", [Uuid::from_u128(1).into_bytes()]).unwrap();
    tx.commit().unwrap();
}

fn value(cell: Option<Cell<'_>>) -> Box<dyn ToSql> {
    match cell {
        None => Box::new(rusqlite::types::Null),
        Some(Cell::Id(id)) => Box::new(id.into_bytes()),
        Some(Cell::Time(at)) => Box::new(at.0),
        Some(Cell::Text(text)) => Box::new(text.into_owned()),
        Some(Cell::Count(count)) => Box::new(count.cast_signed()),
        Some(Cell::Flag(flag)) => Box::new(flag),
    }
}

fn number(path: &Path, sql: &str) -> i64 {
    Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_file_with_a_row_for_each_request_answers_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("usage.db");
    let rows = golden::rows();
    make_old(&path, &rows);
    let open = Open::new(&dir);
    let ledger = Ledger::Embedded(open.get());
    assert_eq!(ledger.reached().await.unwrap(), Some(place(77)), "the log goes on where it was");
    assert_eq!(number(&path, "SELECT count(*) FROM sqlite_schema WHERE name = 'requests'"), 0);
    assert_eq!(number(&path, "SELECT sum(rows) FROM blocks"), rows.len() as i64);
    golden::check_answers(&ledger, &rows).await;
}

#[tokio::test]
async fn a_conversion_that_is_broken_off_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("usage.db");
    let rows: Vec<_> = (0..40_000).map(|ms| golden::at(UnixMs(ms), ms.unsigned_abs())).collect();
    make_old(&path, &rows);
    let mut conn = file::open(&path, MIGRATIONS).unwrap();
    let first = convert::step(&mut conn).unwrap();
    drop(conn);
    assert!((1..rows.len()).contains(&first));
    let left = rows.len() - first;
    assert_eq!(number(&path, "SELECT count(*) FROM requests"), left as i64);
    let open = Open::new(&dir);
    assert_eq!(requests(&open.get()).await, 40_000);
    drop(open);
    assert_eq!(number(&path, "SELECT max(rows) FROM blocks"), MOST_ROWS as i64);
    assert!(
        number(&path, "SELECT page_count FROM pragma_page_count") * 4096 < 40_000 * 100,
        "room is given back"
    );
}

#[tokio::test]
async fn rows_that_come_one_by_one_end_in_full_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let open = Open::new(&dir);
    let ledger = open.get();
    for number in 0..3000 {
        // Not in the order of time.
        let row = golden::at(UnixMs(number * 7919 % 3000), number.unsigned_abs());
        ledger.put(vec![row], place(number.unsigned_abs() + 1)).await.unwrap();
    }
    assert_eq!(requests(&ledger).await, 3000);
    let path = dir.path().join("usage.db");
    let levels = i64::from(merge::FULL);
    assert!(number(&path, "SELECT count(*) FROM blocks") <= levels * 7 + 3);
    assert!(number(&path, "SELECT max(rows) FROM blocks") >= 512);
    let page = query::logs(
        vec![("from".into(), "1970-01-01".into()), ("limit".into(), "1000".into())],
        UnixMs(2999),
    );
    let times: Vec<_> =
        ledger.page(page.unwrap()).await.unwrap().iter().map(|row| row.place().unwrap().0.0).collect();
    assert_eq!(times, (2000..3000).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_few_long_requests_do_not_stretch_the_block_of_many_short_ones() {
    let dir = tempfile::tempdir().unwrap();
    let open = Open::new(&dir);
    let short = (600_000..601_000).map(|ms| golden::at(UnixMs(ms), ms.unsigned_abs()));
    let long = (1..=10).map(|s| golden::at(UnixMs(s * 1000), s.unsigned_abs()));
    open.get().put(short.chain(long).collect::<Vec<_>>(), place(1)).await.unwrap();
    assert_eq!(requests(&open.get()).await, 1010);
    let path = dir.path().join("usage.db");
    assert_eq!(number(&path, "SELECT max_ts - min_ts FROM blocks WHERE rows = 1000"), 999);
    assert_eq!(number(&path, "SELECT count(*) FROM blocks"), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn pages_over_blocks_that_lie_across_each_other_are_one_list(
        batches in prop::collection::vec(prop::collection::vec(0..60_000_i64, 1..60), 1..60),
        limit in 1..40_u32,
        only_one in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let EmbeddedFile { mut writer, mut reader } =
            EmbeddedFile::open(&dir.path().join("usage.db")).unwrap();
        let mut all = Vec::new();
        for (times, offset) in batches.iter().zip(1..) {
            let number = |at: usize| offset * 1000 + at as u64;
            let rows = times.iter().enumerate().map(|(at, ts)| golden::at(UnixMs(*ts), number(at)));
            let rows: Vec<_> = rows.collect();
            write::put(&mut writer, &rows, Checkpoint { log_id: Uuid::nil(), position: place(offset) }).unwrap();
            all.extend(rows);
        }
        let tenant = all[0].record.tenant;
        let filters = if only_one { vec![Filter::Tenant(tenant)] } else { Vec::new() };
        let scope = Scope { from: UnixMs(5_000), to: UnixMs(55_000), filters };
        let mut expected: Vec<_> = all.iter().filter(|row| !only_one || row.record.tenant == tenant)
            .map(|row| (row.record.ts, row.record.id))
            .filter(|(ts, _)| (scope.from..scope.to).contains(ts)).collect();
        expected.sort_by(|a, b| b.cmp(a));
        let mut page = Page { scope, after: None, limit };
        let mut found = Vec::new();
        loop {
            let entries = read::page(&mut reader, &page, &Patience::new()).unwrap();
            prop_assert!(entries.len() <= limit as usize);
            let Some(last) = entries.last().and_then(Entry::place) else { break };
            found.extend(entries.iter().map(|entry| entry.place().unwrap()));
            page.after = Some(last);
        }
        prop_assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn a_report_that_nobody_waits_for_ends_between_two_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let open = Open::new(&dir);
    open.get().put(golden::rows(), place(1)).await.unwrap();
    let mut reader = EmbeddedFile::open(&dir.path().join("usage.db")).unwrap().reader;
    let report = query::totals(days("2026-01-01", "2027-01-01"), UnixMs(0)).unwrap().report;
    let patience = Patience::new();
    assert!(read::report(&mut reader, &report, &patience).is_ok());
    patience.is_gone.store(true, Ordering::Relaxed);
    assert_eq!(read::report(&mut reader, &report, &patience), Err(LedgerFault::TooSlow));
}

/// A ledger of three blocks, the middle one of which is damaged.
async fn damaged(dir: &TempDir) -> Open {
    let open = Open::new(dir);
    for (number, day) in [1, 2, 3].into_iter().enumerate() {
        let rows = (0..1500).map(|ms| golden::at(UnixMs(day * 86_400_000 + ms), ms.unsigned_abs()));
        open.get().put(rows.collect::<Vec<_>>(), place(number as u64 + 1)).await.unwrap();
    }
    let conn = Connection::open(dir.path().join("usage.db")).unwrap();
    let broken =
        "UPDATE blocks SET body = CAST(substr(body, 1, 5000) || x'0102' || substr(body, 5003) AS BLOB)
        WHERE block = 2";
    assert_eq!(conn.execute(broken, []).unwrap(), 1);
    open
}

fn days(from: &str, to: &str) -> Vec<(String, String)> {
    vec![("from".into(), from.into()), ("to".into(), to.into())]
}

#[tokio::test]
async fn a_damaged_block_fails_what_needs_it_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let open = damaged(&dir).await;
    let ledger = open.get();
    let report = async |from, to| {
        let answer = ledger.report(query::totals(days(from, to), UnixMs(0)).unwrap().report).await;
        answer.map(|answer| answer.groups.iter().map(|group| group.sums.requests).sum::<u64>())
    };
    let torn = Err(LedgerFault::File(Fault::Damaged));
    assert_eq!(report("1970-01-01", "1970-02-01").await, torn);
    assert_eq!(report("1970-01-03", "1970-01-04").await, torn);
    assert_eq!(report("1970-01-02", "1970-01-03").await, Ok(1500));
    assert_eq!(report("1970-01-04", "1970-01-05").await, Ok(1500));
    let page = async |from, to| {
        ledger.page(query::logs(days(from, to), UnixMs(0)).unwrap()).await.map(|rows| rows.len())
    };
    assert_eq!(page("1970-01-01", "1970-02-01").await, Ok(100), "of the newest");
    assert_eq!(page("1970-01-01", "1970-01-04").await, Err(LedgerFault::File(Fault::Damaged)));
    // Rows go in and out all the same.
    for number in 0..20 {
        ledger.put(golden::rows()[..1].to_vec(), place(10 + number)).await.unwrap();
    }
    while ledger.expire(UnixMs(2 * 86_400_000 + 700)).await.unwrap() {}
    assert_eq!(report("1970-01-02", "1970-01-03").await, Ok(0), "the first is gone");
    assert_eq!(report("1970-01-03", "1970-01-04").await, torn, "it stays while some of it may");
    while ledger.expire(UnixMs(3 * 86_400_000)).await.unwrap() {}
    assert_eq!(report("1970-01-01", "1970-02-01").await, Ok(1500), "and then the damaged one");
}

#[tokio::test]
async fn a_small_damaged_block_stops_no_merging() {
    let dir = tempfile::tempdir().unwrap();
    let open = Open::new(&dir);
    let ledger = open.get();
    let rows = golden::rows();
    ledger.put(rows[..1].to_vec(), place(1)).await.unwrap();
    let path = dir.path().join("usage.db");
    Connection::open(&path).unwrap().execute("UPDATE blocks SET body = x'00'", []).unwrap();
    for (number, row) in rows[1..200].iter().enumerate() {
        ledger.put(vec![row.clone()], place(number as u64 + 2)).await.unwrap();
    }
    assert!(number(&path, "SELECT count(*) FROM blocks") < 20);
    assert_eq!(number(&path, "SELECT sum(rows) FROM blocks"), 200);
}
