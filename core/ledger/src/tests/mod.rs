//! Tests of the whole log: notes in at one end, records out at the other, with everything in between that can go wrong.
//!
//! Most of them turn the log thread's rounds by hand, so that nothing depends on time.

mod damage;
mod disk;
mod format;
mod full;
mod kill;
mod power;
mod restarts;
mod shipping;

use std::{fs, path::Path, time::Duration};

use obleth_policy::{
    id::{EndpointId, GroupId, KeyId, ModelId, TenantId},
    outcome::{Code, Outcome},
    route::Route,
    unit::{MicroUsd, UnixMs},
};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{Admission, Opened, Options, Position, Record, Text, Tokens, UsageSource, open};

/// A record like most, told from others by its number.
fn record(number: u128) -> Record {
    Record {
        id: Uuid::from_u128(number),
        ts: UnixMs(1_800_000_000_000),
        tenant: TenantId(Uuid::from_u128(1)),
        key: KeyId(Uuid::from_u128(2)),
        group: Some(GroupId(Uuid::from_u128(3))),
        model: Some(ModelId(Uuid::from_u128(4))),
        endpoint: Route::Chat,
        upstream: Some(EndpointId(Uuid::from_u128(5))),
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

/// What a start note of the same request says.
fn begun(number: u128) -> Record {
    Record {
        status: 0,
        outcome: Outcome::GatewayLost,
        code: Some(Code::Draining),
        total_ms: 0,
        ..record(number)
    }
}

/// A folder in memory, if there is any: for tests that open hundreds of logs, where syncs would be all that they do.
fn light_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Copies what a dead process left, as it is at this moment.
fn left(from: &Path) -> TempDir {
    let to = light_dir();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

const FIRST_SEGMENT: &str = "00000000000000000001.log";

fn options(dir: &Path) -> Options {
    Options {
        dir: dir.to_owned(),
        node: "node-1".to_owned(),
        streams: 2,
        max_bytes: 1 << 20,
        sync_every: Duration::from_millis(1),
        slate_bytes: 64 << 10,
        checkpoint: None,
    }
}

fn opened(dir: &Path) -> Opened {
    open(options(dir)).unwrap()
}

impl Opened {
    /// Ids of everything that was not released, in order.
    fn shipped(&self, from: Position) -> Vec<u128> {
        let (mut ids, mut from) = (Vec::new(), from);
        loop {
            let batch = self.tail.read(from, 7).unwrap();
            ids.extend(batch.records.iter().map(|record| record.id.as_u128()));
            if batch.to == from {
                return ids;
            }
            from = batch.to;
        }
    }
}
