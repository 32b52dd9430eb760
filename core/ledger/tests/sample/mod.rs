//! A record, and what a log of it is opened with: for every test of this crate, inside it and outside.

use std::{path::Path, time::Duration};

use obleth_ledger::{Admission, Options, Record, Text, Tokens, UsageSource};
use obleth_policy::{
    id::{EndpointId, GroupId, KeyId, ModelId, TenantId},
    outcome::{Code, Outcome},
    route::Route,
    unit::{MicroUsd, UnixMs},
};
use tempfile::TempDir;
use uuid::Uuid;

/// A record like most, told from others by its number.
pub(crate) fn record(number: u128) -> Record {
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
pub(crate) fn begun(number: u128) -> Record {
    Record {
        status: 0,
        outcome: Outcome::GatewayLost,
        code: Some(Code::Draining),
        total_ms: 0,
        ..record(number)
    }
}

/// A folder in memory, if there is any: for tests that open hundreds of logs, where syncs would be all that they do.
pub(crate) fn light_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Two streams, a small log, and slates as small as they get.
pub(crate) fn options(dir: &Path) -> Options {
    Options {
        dir: dir.to_owned(),
        node: Some("node-1".to_owned()),
        default_node: "machine".to_owned(),
        streams: 2,
        max_bytes: 1 << 20,
        sync_every: Duration::from_millis(1),
        slate_bytes: 64 << 10,
        checkpoint: None,
    }
}
