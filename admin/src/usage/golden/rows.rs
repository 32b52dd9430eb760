//! The rows of the golden tests: always the same, and as different from one another as rows can be.

use std::sync::Arc;

use obleth_ledger::{Admission, Record, Text, Tokens, UsageSource};
use obleth_policy::{
    id::{EndpointId, GroupId, KeyId, ModelId, TenantId},
    outcome::{Code, Outcome},
    route::Route,
    unit::{MicroUsd, UnixMs},
};
use uuid::{Builder, Uuid};

use crate::{clock, usage::row::Row};

/// When the five zones set their clocks in 2026; India does not.
const CHANGES: [&str; 8] = [
    "2026-03-08T07:00:00Z",
    "2026-03-29T01:00:00Z",
    "2026-04-04T14:00:00Z",
    "2026-04-04T15:00:00Z",
    "2026-09-26T14:00:00Z",
    "2026-10-03T15:30:00Z",
    "2026-10-25T01:00:00Z",
    "2026-11-01T06:00:00Z",
];
const HOUR_MS: i64 = 3_600_000;

/// Numbers without order, the same in every run (SplitMix64).
pub(crate) struct Lot(pub(crate) u64);

impl Lot {
    pub(crate) fn draw(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut drawn = self.0;
        drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (drawn ^ (drawn >> 31)) % below
    }
}

fn id(number: u64) -> Uuid {
    let mut rest = [0; 10];
    rest[2..].copy_from_slice(&number.to_be_bytes());
    Builder::from_unix_timestamp_millis(1_767_225_600_000, &rest).into_uuid()
}

/// All of them: around every change of a clock, and at the edges of every quarter of an hour near it.
pub(crate) fn rows() -> Vec<Row> {
    let mut lot = Lot(7);
    let mut times = Vec::new();
    for change in CHANGES {
        let change = clock::parse(change).unwrap().0;
        let around = 40 * HOUR_MS;
        times.extend((0..200).map(|_| change - around + lot.draw(2 * around.unsigned_abs()).cast_signed()));
        for quarter in -20..=20 {
            let edge = change + quarter * HOUR_MS / 4;
            times.extend([edge - 1, edge, edge, edge + 1]);
        }
    }
    times.into_iter().zip(1..).map(|(ts, number)| at(UnixMs(ts), number)).collect()
}

/// A row of this time; the number decides all the rest.
pub(crate) fn at(ts: UnixMs, number: u64) -> Row {
    let mut lot = Lot(number);
    let key = lot.draw(7);
    let (tenant, group) = [(0, Some("gold")), (1, Some("default")), (2, None)][(key % 3) as usize];
    let mut rest = [0; 10];
    rest[2..].copy_from_slice(&number.to_be_bytes());
    let model = [Some("llama"), Some("qwen/qwen3=+@"), Some("modèle"), None][lot.draw(4) as usize];
    let mut record = Record {
        id: Builder::from_unix_timestamp_millis(ts.0.unsigned_abs(), &rest).into_uuid(),
        ts,
        tenant: TenantId(id(100 + tenant)),
        key: KeyId(id(200 + key)),
        group: group.map(|name| GroupId(id(300 + name.len() as u64))),
        model: model.map(|name| ModelId(id(400 + name.len() as u64))),
        endpoint: Route::ALL[lot.draw(3) as usize],
        upstream: None,
        status: 403,
        outcome: Outcome::Rejected,
        code: Some(Code::ModelNotAllowed),
        admission: Admission::Rejected,
        queue_ms: 0,
        ttft_ms: None,
        total_ms: lot.draw(100_000) as u32,
        overhead_us: None,
        tokens: Tokens::default(),
        usage_source: None,
        cost: None,
        price_version: None,
        streamed: lot.draw(2) == 0,
        retries: 0,
        request_id: Text::new(&format!("=cmd|' /C calc'!A{number}, \"ü\"\n")),
        session_id: (lot.draw(3) == 0).then(|| Text::new("s'; DROP TABLE requests; --")),
    };
    if model.is_some() && lot.draw(5) > 0 {
        send(&mut record, &mut lot);
    }
    Row {
        record,
        node: Arc::from(["node-a", "node-b"][lot.draw(2) as usize]),
        model_name: model.map(Arc::from),
        group_name: group.map(Arc::from),
    }
}

/// Makes it one that a backend has seen.
fn send(record: &mut Record, lot: &mut Lot) {
    record.outcome = Outcome::ALL[lot.draw(7) as usize];
    record.status = [200, 200, 499, 502, 504, 0][lot.draw(6) as usize];
    record.code = (record.outcome != Outcome::Ok).then_some(Code::UpstreamCut);
    record.admission = Admission::ALL[lot.draw(3) as usize];
    record.queue_ms = lot.draw(5000) as u32;
    record.ttft_ms = (lot.draw(4) > 0).then(|| lot.draw(3000) as u32);
    record.overhead_us = Some(lot.draw(500) as u32);
    record.upstream = Some(EndpointId(id(500)));
    record.retries = lot.draw(3) as u8;
    record.usage_source =
        [None, Some(0), Some(1), Some(2)][lot.draw(4) as usize].map(|at| UsageSource::ALL[at]);
    if record.usage_source.is_some() {
        let input = lot.draw(9000);
        record.tokens = Tokens { input, cached_input: lot.draw(input + 1), output: lot.draw(4000) };
        if lot.draw(3) > 0 {
            (record.cost, record.price_version) = (Some(MicroUsd(lot.draw(1_000_000))), Some(1));
        }
    }
}
