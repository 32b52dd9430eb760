//! What a request costs the embedded ledger: processor time and room on the disk. Nothing is asserted; it is run by hand:
//!
//! ```sh
//! cargo test --release -p obleth-admin -- --ignored --nocapture costs_of_a_row
//! ```

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use obleth_ledger::{Admission, Checkpoint, Position, Record, Text, Tokens, UsageSource};
use obleth_policy::{
    id::{EndpointId, GroupId, KeyId, ModelId, TenantId},
    outcome::Outcome,
    route::Route,
    unit::{MicroUsd, UnixMs},
};
use rustix::time::{ClockId, clock_gettime};
use uuid::{Builder, Uuid};

use super::*;
use crate::usage::{
    embedded::{read, write},
    golden::Lot,
    row::Row,
};

/// As the shipper sends them.
const BATCH: usize = 2000;
/// All of them.
const BATCHES: usize = 700;
/// Requests in a second.
const RATE: u64 = 14_600;

/// Processor time that this thread has had.
fn busy() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

/// What everything is called.
struct Names {
    node: Arc<str>,
    models: [Arc<str>; 3],
    groups: [Arc<str>; 2],
}

/// Rows as a busy gateway has them: 20 tenants with 5 keys each, 3 models.
fn row(number: u64, longest_ms: u64, lot: &mut Lot, names: &Names) -> Row {
    let ended = 1_795_262_400_000 + number * 1000 / RATE;
    let total_ms = 1 + lot.draw(longest_ms);
    let ts = ended - total_ms;
    let mut random = [0; 10];
    random[..8].copy_from_slice(&lot.draw(u64::MAX).to_le_bytes());
    let id = Builder::from_unix_timestamp_millis(ts, &random).into_uuid();
    let (key, model) = (lot.draw(100), lot.draw(3));
    let named = |kind: u64, number: u64| Uuid::from_u64_pair(0x0192_c7f0_7f6a_7000 + kind, number);
    let input = 50 + lot.draw(3000);
    let record = Record {
        id,
        ts: UnixMs(ts.cast_signed()),
        tenant: TenantId(named(1, key / 5)),
        key: KeyId(named(2, key)),
        group: Some(GroupId(named(3, key % 2))),
        model: Some(ModelId(named(4, model))),
        endpoint: Route::Chat,
        upstream: Some(EndpointId(named(5, lot.draw(6)))),
        status: 200,
        outcome: Outcome::Ok,
        code: None,
        admission: if lot.draw(4) == 0 { Admission::Queued } else { Admission::Fast },
        queue_ms: if lot.draw(4) == 0 { lot.draw(300) as u32 } else { 0 },
        ttft_ms: Some(20 + lot.draw(500) as u32),
        total_ms: total_ms as u32,
        overhead_us: Some(10 + lot.draw(90) as u32),
        tokens: Tokens { input, cached_input: lot.draw(input), output: lot.draw(800) },
        usage_source: Some(UsageSource::Upstream),
        cost: Some(MicroUsd(input * 3)),
        price_version: Some(3),
        streamed: lot.draw(3) > 0,
        retries: 0,
        request_id: Text::new(&id.to_string()),
        session_id: None,
    };
    Row {
        record,
        node: Arc::clone(&names.node),
        model_name: Some(Arc::clone(&names.models[model as usize])),
        group_name: Some(Arc::clone(&names.groups[(key % 2) as usize])),
    }
}

fn list(conn: &mut rusqlite::Connection, query: &str) {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap());
    let page = query::logs(pairs.map(|(n, v)| (n.into(), v.into())).collect(), UnixMs(0)).unwrap();
    let began = Instant::now();
    let rows = read::page(conn, &page, &Patience::new()).unwrap();
    println!("list {query}: {:?}, {} rows", began.elapsed(), rows.len());
}

fn ask(conn: &mut rusqlite::Connection, query: &str) {
    let pairs = format!("from=2026-11-01&to=2026-12-01{query}");
    let pairs = pairs.split('&').map(|pair| pair.split_once('=').unwrap());
    let summary = query::totals(pairs.map(|(n, v)| (n.into(), v.into())).collect(), UnixMs(0)).unwrap();
    let began = Instant::now();
    let answer = read::report(conn, &summary.report, &Patience::new()).unwrap();
    let rows: u64 = answer.groups.iter().map(|group| group.sums.requests).sum();
    println!("report{query}: {:?}, {} groups of {rows} rows", began.elapsed(), answer.groups.len());
}

#[test]
#[ignore = "a measurement, for people"]
fn costs_of_a_row() {
    // Answers at once, and streams.
    [5, 60_000].into_iter().for_each(costs_where_the_longest_takes);
}

fn costs_where_the_longest_takes(longest_ms: u64) {
    println!("requests take {longest_ms} ms at most:");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("usage.db");
    let EmbeddedFile { mut writer, mut reader } = EmbeddedFile::open(&path).unwrap();
    let names = Names {
        node: "gateway-1".into(),
        models: ["llama-3.3-70b", "qwen3-32b", "bge-m3"].map(Arc::from),
        groups: ["gold", "default"].map(Arc::from),
    };
    let (mut lot, mut spent, mut worst) = (Lot(1), Duration::ZERO, Duration::ZERO);
    let began = Instant::now();
    for batch in 0..BATCHES {
        let rows: Vec<_> =
            (0..BATCH).map(|at| row((batch * BATCH + at) as u64, longest_ms, &mut lot, &names)).collect();
        let position = Position { segment: 1, offset: batch as u64 + 1 };
        let before = busy();
        write::put(&mut writer, &rows, Checkpoint { log_id: Uuid::nil(), position }).unwrap();
        let took = busy() - before;
        (spent, worst) = (spent + took, worst.max(took));
    }
    let rows = (BATCHES * BATCH) as u128;
    let wall = began.elapsed();
    writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let bytes = u128::from(std::fs::metadata(&path).unwrap().len());
    println!(
        "put: {} ns of processor per row, a batch {worst:?} at most; {wall:?} in all",
        spent.as_nanos() / rows
    );
    println!("file: {}.{} bytes per row", bytes / rows, bytes * 10 / rows % 10);
    for query in
        ["", "&by=tenant", "&by=key,model,day", "&tenant_id=0192c7f0-7f6a-7001-0000-000000000003&by=day"]
    {
        ask(&mut reader, query);
    }
    for to in ["2026-12-01", "2026-11-21T12:00:50Z"] {
        list(&mut reader, &format!("from=2026-11-01&to={to}&limit=1000"));
    }
}
