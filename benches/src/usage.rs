//! What a shard pays to note down a request: its record encoded, checksummed and put on a slate. And what it costs beside the
//! shards after that, in the log thread and where the log is read.
//!
//! For a shard's cost, a full slate is emptied by another thread while this one waits, so that neither the time nor the memory
//! of the log's own work is in the figures. The log lies in a temporary folder: where its work is in the figures, so is what
//! the kernel does for it.

use std::{thread, time::Duration};

use obleth_ledger::{Admission, Kind, Opened, Options, Position, Record, Text, Tokens, UsageSource, open};
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
/// More than is noted: to let go what nobody has read, the log would read it.
const MAX_BYTES: u64 = 1 << 30;
/// Requests that are noted in one turn of the log thread: what a busy core serves in 50 ms.
const PER_ROUND: u64 = 2_000;
/// Requests that are under way.
const UNDER_WAY: u64 = 64;

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
            max_bytes: MAX_BYTES,
            sync_every: Duration::from_millis(50),
            slate_bytes: SLATE_BYTES,
            checkpoint: None,
        };
        Self { log: open(options).expect("a log"), record: record(), _dir: dir }
    }

    /// A note of the request with this number.
    fn note_one(&mut self, kind: Kind, number: u64) {
        // As scattered as a UUIDv7's last bits are.
        self.record.id = Uuid::from_u64_pair(number, number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        self.note(kind);
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

/// A loop of requests whose notes the log thread takes, a round of them at a time.
pub(crate) fn logged() -> Loop {
    rounds(|_| {})
}

/// The same, and all of it is read before it is let go.
pub(crate) fn read() -> Loop {
    let mut at = Position::default();
    rounds(move |log| {
        loop {
            let batch = log.tail.read(at, PER_ROUND as usize).expect("what was written can be read");
            if batch.to == at {
                break;
            }
            at = std::hint::black_box(batch).to;
        }
        log.tail.release(at);
    })
}

fn rounds(mut after: impl FnMut(&Opened) + 'static) -> Loop {
    let mut noted = Noted::new();
    let mut begun = 0_u64;
    Box::new(move |count| {
        for _ in 0..count {
            begun += 1;
            noted.note_one(Kind::Start, begun);
            if begun > UNDER_WAY {
                noted.note_one(Kind::End, begun - UNDER_WAY);
            }
            if begun.is_multiple_of(PER_ROUND) {
                noted.log.writer.round().expect("a disk with room");
                after(&noted.log);
            }
        }
    })
}
