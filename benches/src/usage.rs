//! What a shard pays to note down a request: its record encoded, checksummed and put on a slate.
//!
//! A full slate is emptied by another thread while this one waits, so that neither the time nor the memory of the log's own
//! work is in the figures. The log lies in a temporary folder; no sync of it is measured.

use std::{thread, time::Duration};

use obleth_ledger::{Admission, Kind, Opened, Options, Record, Text, Tokens, UsageSource, open};
use obleth_policy::{
    id::{EndpointId, GroupId, KeyId, ModelId, TenantId},
    outcome::Outcome,
    route::Route,
    unit::{MicroUsd, UnixMs},
};
use tempfile::TempDir;
use uuid::Uuid;

use crate::measure::Loop;

/// Enough for all that callgrind counts.
const SLATE_BYTES: usize = 32 << 20;

/// A log that nobody ships, and a shard's slate of it.
struct Noted {
    log: Opened,
    record: Record,
    /// Removed with it.
    _dir: TempDir,
}

impl Noted {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let options = Options {
            dir: dir.path().to_owned(),
            node: None,
            default_node: "bench".to_owned(),
            streams: 1,
            max_bytes: 256 << 20,
            sync_every: Duration::from_millis(50),
            slate_bytes: SLATE_BYTES,
            checkpoint: None,
        };
        Self { log: open(options).expect("a log"), record: record(), _dir: dir }
    }

    fn note(&mut self, kind: Kind) {
        let record = std::hint::black_box(&self.record);
        if !self.log.slates[0].note(kind, record) {
            thread::scope(|scope| drop(scope.spawn(|| empty(&mut self.log))));
            assert!(self.log.slates[0].note(kind, &self.record), "an empty slate has room");
        }
    }
}

fn empty(log: &mut Opened) {
    log.writer.round().expect("a disk with room");
    log.tail.release(log.tail.durable());
}

fn record() -> Record {
    Record {
        id: Uuid::from_u128(1),
        ts: UnixMs(1_800_000_000_000),
        tenant: TenantId(Uuid::from_u128(2)),
        key: KeyId(Uuid::from_u128(3)),
        group: Some(GroupId(Uuid::from_u128(4))),
        model: Some(ModelId(Uuid::from_u128(5))),
        endpoint: Route::Chat,
        upstream: Some(EndpointId(Uuid::from_u128(6))),
        status: 200,
        outcome: Outcome::Ok,
        code: None,
        admission: Admission::Fast,
        queue_ms: 0,
        ttft_ms: Some(120),
        total_ms: 2500,
        overhead_us: Some(85),
        tokens: Tokens { input: 1200, cached_input: 1000, output: 300 },
        usage_source: Some(UsageSource::Upstream),
        cost: Some(MicroUsd(4_200)),
        price_version: Some(3),
        streamed: true,
        retries: 0,
        request_id: Text::new("0192c7f0-7f6a-7000-8000-000000000000"),
        session_id: None,
    }
}

/// A loop of single notes.
pub(crate) fn notes() -> Loop {
    let mut noted = Noted::new();
    Box::new(move |count| (0..count).for_each(|_| noted.note(Kind::End)))
}

/// A loop of requests that go to a backend: a note when they begin, and one when they end.
pub(crate) fn requests() -> Loop {
    let mut noted = Noted::new();
    Box::new(move |count| {
        for _ in 0..count {
            noted.note(Kind::Start);
            noted.note(Kind::End);
        }
    })
}
