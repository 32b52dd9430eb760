//! The ledger in ClickHouse against a real server: what it takes, what it gives back, and that no outage makes a row
//! twice or loses one.

mod exactly_once;
pub(crate) mod faulty;
mod schema;
#[path = "../../../../../tests/stores/clickhouse/server.rs"]
pub(crate) mod server;

use std::path::Path;

use obleth_ledger::{Admission, Position, Record, Text, Tokens, UsageSource};
use obleth_policy::{
    id::{EndpointId, GroupId, KeyId, ModelId, TenantId},
    outcome::{Code, Outcome},
    route::Route,
    snapshot::Secret,
    unit::{MicroUsd, UnixMs},
};
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::usage::{
    Ledger, golden,
    report::Scope,
    row::{COLUMNS, Cell},
};
use server::Server;

/// The log that all rows come from.
const LOG: Uuid = Uuid::from_u128(0x1065);
/// Days for which the tests' rows are kept: all of them are younger.
const RETENTION_DAYS: u32 = 9_999;
/// Half an hour before midnight, UTC.
const EVENING: UnixMs = UnixMs(1_793_489_400_000);
/// Time between two rows of a batch.
const STEP_MS: i64 = 1000;

/// A log's place.
fn at(offset: u64) -> Position {
    Position { segment: 1, offset }
}

pub(crate) fn settings(url: String) -> ClickHouseSettings {
    ClickHouseSettings {
        url,
        database: "obleth-tests".to_owned(),
        user: server::USER.to_owned(),
        password: Some(Secret::new(server::PASSWORD)),
    }
}

/// The ledger of a process whose log is in `folder` and was empty when it started.
fn open(url: String, folder: &Path) -> ClickHouse {
    open_with(&settings(url), folder, Position::default())
}

fn open_with(settings: &ClickHouseSettings, folder: &Path, durable: Position) -> ClickHouse {
    let source = Source { folder, log_id: LOG, durable };
    ClickHouse::open(settings, source, Some(RETENTION_DAYS)).expect("a good checkpoint, or none")
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// A row with something in every column, or with nothing in all that may be empty.
fn row(number: u64, is_full: bool) -> Row {
    let id = |kind: u64| Uuid::from_u64_pair((kind << 48) | 0x7000, 0x8000_0000_0000_0000 | (number % 5));
    let some = |known: u32| is_full.then_some(known);
    let record = Record {
        id: Uuid::from_u64_pair(0x7000, number.swap_bytes()),
        ts: UnixMs(EVENING.0 + number as i64 * STEP_MS),
        tenant: TenantId(id(1)),
        key: KeyId(id(2)),
        group: is_full.then(|| GroupId(id(3))),
        model: is_full.then(|| ModelId(id(4))),
        endpoint: Route::Chat,
        upstream: is_full.then(|| EndpointId(id(5))),
        status: if is_full { 200 } else { 503 },
        outcome: if is_full { Outcome::Ok } else { Outcome::Rejected },
        code: (!is_full).then_some(Code::QueueFull),
        admission: if is_full { Admission::Fast } else { Admission::Rejected },
        queue_ms: 7,
        ttft_ms: some(120),
        total_ms: 4000,
        overhead_us: some(41),
        tokens: Tokens { input: 1000 + number, cached_input: 10, output: 200 },
        usage_source: is_full.then_some(UsageSource::Upstream),
        cost: is_full.then_some(MicroUsd(u64::MAX)),
        price_version: some(3),
        streamed: is_full,
        retries: 2,
        request_id: Text::new("it's a \"request\"\n\u{0}\\"),
        session_id: is_full.then(|| Text::new("ä session")),
    };
    let name = |name: &str| is_full.then(|| name.into());
    Row { record, node: "node-1".into(), model_name: name("org/model"), group_name: name("default") }
}

/// Rows over midnight, so that they are of two partitions.
fn batch(count: u64) -> Vec<Row> {
    let step = 3600 / count.min(3600);
    (0..count).map(|number| row(number * step, number % 2 == 0)).collect()
}

fn everything() -> Scope {
    Scope { from: UnixMs(0), to: UnixMs(4_000_000_000_000), filters: Vec::new() }
}

/// How often rows are there, and how many different ones.
fn counts(server: &Server) -> (u64, u64) {
    let count = |what: &str| server.count(&format!("SELECT {what} FROM `obleth-tests`.usage"));
    (count("count()"), count("uniqExact(id)"))
}

#[tokio::test]
async fn every_column_comes_back_as_it_went() {
    let Some(server) = Server::start() else { return };
    let folder = folder();
    let ledger = open(server.url(), folder.path());
    let rows = vec![row(0, false), row(1, true)];
    ledger.put(&rows, at(0), at(10)).await.unwrap();
    let page = Page { scope: everything(), after: None, limit: 10 };
    let entries = ledger.page(&page).await.unwrap();
    let wanted = rows.iter().rev().map(|row| row.cells().collect::<Vec<_>>());
    assert_eq!(
        entries.iter().map(|entry| entry.cells().to_vec()).collect::<Vec<_>>(),
        wanted.collect::<Vec<_>>()
    );
    for (at, column) in COLUMNS.iter().enumerate() {
        let cells = [&entries[0].cells()[at], &entries[1].cells()[at]];
        assert!(cells.iter().any(|cell| cell.is_some()), "{} was tried with a value", column.name);
        assert_eq!(cells.iter().any(|cell| cell.is_none()), column.nullable, "{} and without", column.name);
    }
    assert!(
        entries[0].cells().contains(&Some(Cell::Count(crate::usage::row::MOST))),
        "the largest count there is"
    );
}

#[tokio::test]
async fn rows_of_one_instant_go_by_the_bytes_of_their_ids() {
    let Some(server) = Server::start() else { return };
    let folder = folder();
    let ledger = open(server.url(), folder.path());
    // The server orders such ids by their second half.
    let ids = [[1, 200], [2, 100], [3, 0], [200, 1], [255, 7]].map(|[first, last]| {
        let mut bytes = [0; 16];
        (bytes[0], bytes[15]) = (first, last);
        Uuid::from_bytes(bytes)
    });
    let mut rows: Vec<Row> = ids.iter().map(|_| row(0, true)).collect();
    rows.iter_mut().zip(ids).for_each(|(row, id)| row.record.id = id);
    ledger.put(&rows, at(0), at(10)).await.unwrap();
    let mut page = Page { scope: everything(), after: None, limit: 2 };
    let mut seen = Vec::new();
    loop {
        let entries = ledger.page(&page).await.unwrap();
        page.after = entries.last().and_then(Entry::place);
        if entries.is_empty() {
            break;
        }
        seen.extend(entries.iter().filter_map(Entry::place).map(|(_, id)| id));
    }
    assert_eq!(seen, ids.into_iter().rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn it_answers_as_every_ledger_must() {
    let Some(server) = Server::start() else { return };
    let folder = folder();
    golden::check(&Ledger::ClickHouse(open(server.url(), folder.path()))).await;
}

#[test]
fn an_address_has_a_scheme_and_a_host_and_no_credentials() {
    for good in
        ["http://clickhouse:8123", "https://ch.example", "http://[::1]:8123/", "http://10.0.0.1:8123/ch"]
    {
        assert_eq!(check_clickhouse_url(good), Ok(()), "{good}");
    }
    for wrong in
        ["clickhouse:8123", "tcp://clickhouse:9000", "http://", "http://h:0", "http://h:x", "http://h/?a=b"]
    {
        assert!(check_clickhouse_url(wrong).is_err(), "{wrong}");
    }
    let refused = check_clickhouse_url("http://me:hunter2@host:8123").unwrap_err().to_string();
    assert!(refused.contains("OBLETH_CLICKHOUSE_PASSWORD") && !refused.contains("hunter2"), "{refused}");
    assert_eq!(check_clickhouse_database("obleth-2_b"), Ok(()));
    for wrong in ["", "a`b", "a.b", "ä", &"x".repeat(65)] {
        assert!(check_clickhouse_database(wrong).is_err(), "{wrong}");
    }
}
