//! A record as bytes, and back: see "The record" in the crate's text.
//!
//! Enums stand in files under the numbers written out here, never under their place in the source, so that reordering
//! one changes no file. Encoding is on the path of every request: it must never allocate. Decoding takes any bytes.

use obleth_policy::{
    id::{EndpointId, GroupId, KeyId, ModelId, TenantId},
    outcome::{Code, Outcome},
    route::Route,
    unit::{MicroUsd, UnixMs},
};
use uuid::Uuid;

use crate::record::{Admission, MAX_TEXT, Record, Text, Tokens, UsageSource};

/// Longest `error.code`; a longer one would be cut and mean nothing any more.
const MAX_CODE: usize = 64;
/// What every record has, before its texts.
const FIXED: usize = 168;
/// Shortest record.
pub(crate) const LEAST_RECORD: usize = FIXED;
/// Longest record: a multiple of 8.
pub(crate) const MAX_RECORD: usize = FIXED + MAX_CODE + 2 * MAX_TEXT;
/// A record's bytes. What is behind its end stays zero.
pub(crate) type RecordBytes = [u8; MAX_RECORD];

const HAS_GROUP: u16 = 1;
const HAS_MODEL: u16 = 1 << 1;
const HAS_UPSTREAM: u16 = 1 << 2;
const HAS_TTFT: u16 = 1 << 3;
const HAS_OVERHEAD: u16 = 1 << 4;
const HAS_COST: u16 = 1 << 5;
const HAS_PRICE_VERSION: u16 = 1 << 6;
const IS_STREAMED: u16 = 1 << 7;
const HAS_SESSION: u16 = 1 << 8;

const _: () = assert!(MAX_RECORD.is_multiple_of(8));
const _: () = {
    let mut at = 0;
    while at < Code::ALL.len() {
        assert!(Code::ALL[at].as_str().len() <= MAX_CODE);
        at += 1;
    }
};

/// Writes the record into zeroed bytes. Returns its length, a multiple of 8.
pub(crate) fn encode(record: &Record, bytes: &mut RecordBytes) -> usize {
    let mut flags = 0;
    let mut put_if = |flag: u16, is_there: bool| flags |= if is_there { flag } else { 0 };
    put_if(HAS_GROUP, record.group.is_some());
    put_if(HAS_MODEL, record.model.is_some());
    put_if(HAS_UPSTREAM, record.upstream.is_some());
    put_if(HAS_TTFT, record.ttft_ms.is_some());
    put_if(HAS_OVERHEAD, record.overhead_us.is_some());
    put_if(HAS_COST, record.cost.is_some());
    put_if(HAS_PRICE_VERSION, record.price_version.is_some());
    put_if(IS_STREAMED, record.streamed);
    put_if(HAS_SESSION, record.session_id.is_some());

    put(bytes, 0, record.ts.0.to_le_bytes());
    put(bytes, 8, record.id.into_bytes());
    put(bytes, 24, record.tenant.0.into_bytes());
    put(bytes, 40, record.key.0.into_bytes());
    put(bytes, 56, record.group.map_or(Uuid::nil(), |id| id.0).into_bytes());
    put(bytes, 72, record.model.map_or(Uuid::nil(), |id| id.0).into_bytes());
    put(bytes, 88, record.upstream.map_or(Uuid::nil(), |id| id.0).into_bytes());
    put(bytes, 104, record.tokens.input.to_le_bytes());
    put(bytes, 112, record.tokens.cached_input.to_le_bytes());
    put(bytes, 120, record.tokens.output.to_le_bytes());
    put(bytes, 128, record.cost.unwrap_or_default().0.to_le_bytes());
    put(bytes, 136, record.price_version.unwrap_or_default().to_le_bytes());
    put(bytes, 140, record.queue_ms.to_le_bytes());
    put(bytes, 144, record.ttft_ms.unwrap_or_default().to_le_bytes());
    put(bytes, 148, record.total_ms.to_le_bytes());
    put(bytes, 152, record.overhead_us.unwrap_or_default().to_le_bytes());
    put(bytes, 156, record.status.to_le_bytes());
    put(bytes, 158, flags.to_le_bytes());

    let code = record.code.map_or("", Code::as_str).as_bytes();
    let request_id = record.request_id.as_bytes();
    let session_id = record.session_id.as_ref().map_or(&[][..], Text::as_bytes);
    let numbers = [
        route_number(record.endpoint),
        outcome_number(record.outcome),
        admission_number(record.admission),
        record.usage_source.map_or(0, source_number),
        record.retries,
        // Each is at most 128, by MAX_CODE and MAX_TEXT.
        code.len() as u8,
        request_id.len() as u8,
        session_id.len() as u8,
    ];
    put(bytes, 160, numbers);

    let mut end = FIXED;
    for text in [code, request_id, session_id] {
        bytes[end..end + text.len()].copy_from_slice(text);
        end += text.len();
    }
    end.next_multiple_of(8)
}

/// The id alone, which is what pairs a start with its end.
pub(crate) fn id_of(bytes: &[u8]) -> Option<Uuid> {
    Some(Uuid::from_bytes(get(bytes, 8)?))
}

/// `None` for what this version cannot have written.
pub(crate) fn decode(bytes: &[u8]) -> Option<Record> {
    let number = |at| get(bytes, at).map(u64::from_le_bytes);
    let small = |at| get(bytes, at).map(u32::from_le_bytes);
    let id = |at| get(bytes, at).map(Uuid::from_bytes);
    let flags = u16::from_le_bytes(get(bytes, 158)?);
    let has = |flag| flags & flag != 0;
    let [endpoint, outcome, admission, source, retries, code, request_id, session_id] = get(bytes, 160)?;

    let [code, request_id, session_id] = [code, request_id, session_id].map(usize::from);
    let texts = bytes.get(FIXED..FIXED + code + request_id + session_id)?;
    // All of them at once; each is a text if none begins in the middle of a character.
    let (code, texts) = std::str::from_utf8(texts).ok()?.split_at_checked(code)?;
    let (request_id, session_id) = texts.split_at_checked(request_id)?;
    Some(Record {
        id: id(8)?,
        ts: UnixMs(number(0)?.cast_signed()),
        tenant: TenantId(id(24)?),
        key: KeyId(id(40)?),
        group: has(HAS_GROUP).then_some(GroupId(id(56)?)),
        model: has(HAS_MODEL).then_some(ModelId(id(72)?)),
        endpoint: by_number(&Route::ALL, endpoint, route_number)?,
        upstream: has(HAS_UPSTREAM).then_some(EndpointId(id(88)?)),
        status: u16::from_le_bytes(get(bytes, 156)?),
        outcome: by_number(&Outcome::ALL, outcome, outcome_number)?,
        // A code that is no more is left out; the status and the outcome still say what it was.
        code: if code.is_empty() { None } else { code_of(code) },
        admission: by_number(&Admission::ALL, admission, admission_number)?,
        queue_ms: small(140)?,
        ttft_ms: has(HAS_TTFT).then_some(small(144)?),
        total_ms: small(148)?,
        overhead_us: has(HAS_OVERHEAD).then_some(small(152)?),
        tokens: Tokens { input: number(104)?, cached_input: number(112)?, output: number(120)? },
        usage_source: match source {
            0 => None,
            number => Some(by_number(&UsageSource::ALL, number, source_number)?),
        },
        cost: has(HAS_COST).then_some(MicroUsd(number(128)?)),
        price_version: has(HAS_PRICE_VERSION).then_some(small(136)?),
        streamed: has(IS_STREAMED),
        retries,
        request_id: Text::new(request_id),
        session_id: has(HAS_SESSION).then(|| Text::new(session_id)),
    })
}

const fn route_number(route: Route) -> u8 {
    match route {
        Route::Chat => 1,
        Route::Completions => 2,
        Route::Embeddings => 3,
        Route::Models => 4,
        Route::Health => 5,
        Route::Unknown => 6,
    }
}

const fn outcome_number(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Ok => 1,
        Outcome::Rejected => 2,
        Outcome::ClientGone => 3,
        Outcome::UpstreamError => 4,
        Outcome::UpstreamCut => 5,
        Outcome::Timeout => 6,
        Outcome::GatewayLost => 7,
    }
}

const fn admission_number(admission: Admission) -> u8 {
    match admission {
        Admission::Fast => 1,
        Admission::Queued => 2,
        Admission::Degraded => 3,
        Admission::Rejected => 4,
    }
}

const fn source_number(source: UsageSource) -> u8 {
    match source {
        UsageSource::Upstream => 1,
        UsageSource::Counted => 2,
        UsageSource::Estimated => 3,
    }
}

fn code_of(text: &str) -> Option<Code> {
    Code::ALL.iter().copied().find(|known| known.as_str() == text)
}

fn by_number<T: Copy>(all: &[T], number: u8, of: impl Fn(T) -> u8) -> Option<T> {
    all.iter().copied().find(|one| of(*one) == number)
}

#[inline]
fn put<const N: usize>(bytes: &mut RecordBytes, at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

fn get<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
